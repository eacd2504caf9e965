import dataclasses

import pandas as pd
import pytest

from layertool import result_rows, results
from layertool.errors import UsageError

ROW = results.Result(
    analysis="probe", variant="accuracy", model="m", corpus="c", unit="phone", layer="T1", layer_index=1, target="phone",
    value=0.5, ci_low=0.4, ci_high=0.6, chance=0.1, n=100, seed=0, store="s",
)  # fmt: skip


def curve(model: str, layers: list[str], value: float) -> list[results.Result]:
    fields = {k: v for k, v in vars(ROW).items() if k not in ("model", "layer", "layer_index", "value")}
    return [
        results.Result(model=model, layer=n, layer_index=k, value=value + 0.01 * k, **fields)
        for k, n in enumerate(layers)
    ]


def test_the_schema_is_the_one_of_the_design():
    assert (
        "analysis variant model revision step corpus unit layer layer_index target value ci_low ci_high chance n seed store layertool metric group item settings"
    ).split() == results.COLUMNS


@pytest.mark.parametrize("suffix", result_rows.FORMATS)
def test_round_trip(tmp_path, suffix):
    path = results.write([ROW, ROW], tmp_path / "deep" / f"rows{suffix}")
    read = results.read([path, path])
    assert list(read.columns) == results.COLUMNS
    assert len(read) == 4
    assert read.loc[0, "value"] == 0.5
    assert read.loc[3, "layer"] == "T1"
    assert pd.isna(read.loc[0, "step"])


@pytest.mark.parametrize("suffix", result_rows.FORMATS)
def test_texts_that_look_like_something_else(tmp_path, suffix):
    """A word is called nan, a country NA, a model 007."""
    texts = ["007", "NA", "nan", "null", "None", "inf", "1e5", "True", "1.10", "-", "a,b", 'say "x"', "two\nlines"]
    rows = [dataclasses.replace(ROW, target=text, model=text, corpus=text, revision=text) for text in texts]
    read = results.read([results.write(rows, tmp_path / f"rows{suffix}")])
    for column in ("target", "model", "corpus", "revision"):
        assert read[column].tolist() == texts
    assert read["value"].tolist() == [0.5] * len(texts)
    values = [0.1 + 0.2, 1 / 3, 1e-300, 123456789.123456789]
    again = results.read([results.write([dataclasses.replace(ROW, value=v) for v in values], tmp_path / f"v{suffix}")])
    assert again["value"].tolist() == values


def test_errors(tmp_path):
    with pytest.raises(UsageError, match=r"rows.txt has no known format: end it in .csv"):
        results.write([ROW], tmp_path / "rows.txt")
    with pytest.raises(UsageError, match=r"nope.csv is no result file"):
        results.read([tmp_path / "nope.csv"])
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "other.csv")
    with pytest.raises(UsageError, match="has no column 'analysis'"):
        results.read([tmp_path / "other.csv"])


def test_results_draw_print_and_show_themselves(tmp_path):
    found = results.Results(curve("network", ["C1", "T0", "T1"], 0.4) + curve("mel", ["mel"], 0.6))
    (axis,) = found.plot(tmp_path / "figure.svg").axes
    assert (tmp_path / "figure.svg").read_bytes().startswith(b"<?xml")
    lines = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
    assert lines["network"] == pytest.approx([0.4, 0.41, 0.42])
    assert lines["mel"] == pytest.approx([0.6, 0.6])
    assert lines["chance"] == pytest.approx([0.1] * 3)
    assert repr(found) == found.text()
    html = found._repr_html_()
    assert html.index("<table>") < html.index("<svg")
