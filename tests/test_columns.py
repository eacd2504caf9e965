"""Columns of tables: exact values, how they are written, how they compare with what a person types."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from layertool import columns
from layertool.errors import CorpusError

BIG = 1_000_000_000_000_000_001  # no float is this number


def settled(*values):
    table, notes = columns.settled(pd.DataFrame({"x": values}, dtype=object), what="the utterances of t")
    return table["x"], notes


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([27, 40], "int64"),
        ([27, None, BIG], "Int64"),
        ([True, False], "bool"),
        ([True, None], "object"),
        ([0.5, None], "float64"),
        ([1, 0.5], "float64"),
        ([None, None], "object"),
        ([Decimal("1.50"), None], "object"),
        ([datetime.date(2020, 1, 31), None], "object"),
    ],
    ids=str,
)
def test_one_kind_of_values_keeps_them(values, dtype, tmp_path):
    column, notes = settled(*values)
    assert (column.dtype, notes) == (dtype, [])
    assert [None if pd.isna(value) else value for value in column] == values
    column.to_frame().to_parquet(tmp_path / "t.parquet")
    again = columns.exact(columns.read_parquet(tmp_path / "t.parquet")["x"])
    assert [None if pd.isna(value) else value for value in again] == values
    assert all(isinstance(value, type(values[0])) for value in again.tolist() if value is not None and dtype == "Int64")


@pytest.mark.parametrize(
    ("values", "written", "kinds"),
    [
        ([27, "twenties", None], ["27", "twenties", None], "text and whole numbers"),
        ([True, 1, 1.0], ["True", "1", "1.0"], "fractions and truth values and whole numbers"),
        ([BIG, 0.5], [str(BIG), "0.5"], "fractions and whole numbers"),
        ([10**20, 1], [str(10**20), "1"], "whole numbers of more than 18 digits"),
        ([datetime.date(2020, 1, 31), "soon"], ["2020-01-31", "soon"], "dates and text"),
        ([Decimal("1.50"), 1.5], ["1.50", "1.5"], "decimals and fractions"),
    ],
    ids=str,
)
def test_several_kinds_become_text_which_is_told(values, written, kinds):
    column, notes = settled(*values)
    assert [None if pd.isna(value) else value for value in column] == written
    assert notes == [
        f"the column 'x' of the utterances of t holds {kinds}: all of it is text now, and is compared as text; "
        "write one kind into it if that is not meant"
    ]


@pytest.mark.parametrize("value", [[1], {"a": 1}, b"x", np.zeros(2), {1}], ids=str)
def test_a_cell_holds_one_value(value):
    with pytest.raises(
        CorpusError, match=r"'x' of the utterances of t holds a \w+ in row 2: write one text or one number a cell"
    ):
        settled("a", value)


def test_names_of_columns_are_one_spelling():
    with pytest.raises(CorpusError, match="have two columns called 'é': rename one"):
        columns.settled(pd.DataFrame({"e\u0301": [1], "é": [2]}), what="the utterances")
    table, _ = columns.settled(pd.DataFrame({"e\u0301": ["e\u0301"], 7: [1]}), what="the utterances")
    assert list(table.columns) == ["é", "7"]
    assert list(table["é"]) == ["é"]


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([27.0, 40.0, np.nan], ["27", "40", None]),  # whole numbers that a gap made floats of
        ([27.0, 27.5], ["27.0", "27.5"]),
        ([1e22, 0.1], ["1e+22", "0.1"]),
        ([BIG], [str(BIG)]),
        ([True, False], ["True", "False"]),
    ],
    ids=str,
)
def test_how_values_are_written(values, written):
    assert columns.texts(pd.Series(values)).tolist() == written


def test_short_floats_and_times_are_written_short():
    assert columns.texts(np.array([0.1, 2.5], np.float32)).tolist() == ["0.1", "2.5"]
    assert columns.texts(pd.Series(pd.to_datetime(["2020-01-31", None]))).tolist() == ["2020-01-31", None]


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        ([BIG, BIG + 1], str(BIG), [True, False]),
        ([float(BIG)], str(BIG), [False]),
        ([float(BIG)], "1e18", [True]),
        ([0.1, 0.1 + 2**-56], "0.10", [True, False]),
        ([7, 70], "7.0", [True, False]),
        ([1000], "1_000", [False]),  # which Python's float() takes
        ([27], " 27", [False]),
        ([27.0, np.nan], "nan", [False, False]),
        ([27.0, np.inf], "inf", [False, True]),
        ([27], "1e999", [False]),
        ([27], "1e99999999999", [False]),
        ([27], "٢٧", [False]),
        (["007", "7", "7.0"], "7", [False, True, False]),
        (["nan", "NA", None], "nan", [True, False, False]),
        (["nan", None], "", [False, True]),
        (["1e5", "100000"], "100000", [False, True]),
        (["é"], "e\u0301", [True]),
        ([27, None, BIG], "27.0", [True, False, False]),
        ([27, None, BIG], str(BIG), [False, False, True]),
        ([True, False], "yes", [True, False]),
        ([True, None], "False", [False, False]),
        ([True], "2", [False]),
    ],
    ids=str,
)
def test_numbers_compare_with_numbers_and_texts_with_texts(values, text, expected):
    column = columns.settled(pd.DataFrame({"x": values}, dtype=object), what="t")[0]["x"]
    assert columns.equal(columns.exact(column), text).tolist() == expected


def test_short_floats_compare_as_they_are_written():
    assert columns.equal(np.array([0.1], np.float32), "0.1").tolist() == [True]
    assert columns.equal(pd.to_datetime(["2020-01-31"]).to_numpy(), "2020-01-31").tolist() == [True]


@pytest.mark.parametrize("dtype", [pa.int64(), pa.int32(), pa.uint64()])
def test_integers_with_gaps_of_any_writer(tmp_path, dtype):
    """As polars and Arrow write them, without pandas' notes: pandas makes floats of them."""
    values = [BIG if dtype != pa.int32() else 7, None]
    pyarrow.parquet.write_table(pa.table({"x": pa.array(values, dtype), "y": ["a", "b"]}), tmp_path / "t.parquet")
    column = columns.read_parquet(tmp_path / "t.parquet")["x"]
    assert columns.texts(column).tolist() == [str(values[0]), None]


def test_tables_below_one_another():
    one = pd.DataFrame({"age": [27, BIG], "native": [True, False], "sex": ["f", None]})
    other = pd.DataFrame({"age": [40, 41], "town": ["Köln", "Bonn"]})
    table, notes = columns.settled(one, other, what="both")
    assert notes == []
    assert columns.texts(table["age"]).tolist() == ["27", str(BIG), "40", "41"]
    assert columns.texts(table["native"]).tolist() == ["True", "False", None, None]
    assert columns.texts(table["town"]).tolist() == [None, None, "Köln", "Bonn"]
    lacking, _ = columns.settled(one, other.drop(columns="age"), what="both")
    assert columns.texts(lacking["age"]).tolist() == ["27", str(BIG), None, None]
    mixed, notes = columns.settled(
        pd.DataFrame({"age": [27.0, np.nan]}), pd.DataFrame({"age": ["twenties"]}), what="both"
    )
    assert columns.texts(mixed["age"]).tolist() == ["27", None, "twenties"]
    assert "the column 'age' of both holds fractions and text" in notes[0]
