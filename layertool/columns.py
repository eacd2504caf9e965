"""Columns of tables: their exact values, one way to write a value as text, one way to compare it with a text."""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from layertool.errors import CorpusError
from layertool.spelling import is_text, nfc, nfc_values, visible

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,4})?", re.ASCII)
_WHOLE = 2**53  # from here on not every whole number is a float
_NOT_IN_TABLES = ("complex64", "complex128", "complex256", "float128", "float96")
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


def exact(column: pd.Series) -> np.ndarray:
    """The very values (n,) of a column: where some are missing, integers and truth values as objects, never as
    floats."""
    if column.dtype.kind in "biufmM" and isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    return column.to_numpy(dtype=object, na_value=None) if column.isna().any() else column.to_numpy()


def texts(values: np.ndarray | pd.Series) -> np.ndarray:
    """How values (n,) of a column are written: an array of str, None where a value is missing.

    Fractions as Python writes them (27.5), but without ".0" where all of the column are whole numbers.
    """
    values = exact(values) if isinstance(values, pd.Series) else np.asarray(values)
    known = ~pd.isna(values)
    found = values[known]
    if values.dtype.kind == "f" and (np.abs(found) < _WHOLE).all() and (found == np.trunc(found)).all():
        found = found.astype(np.int64)
    if values.dtype.kind == "M":
        written = [str(time).removesuffix(" 00:00:00") for time in pd.DatetimeIndex(found)]
    else:  # tolist() is fast, but would write float32 with the digits of float64
        written = list(map(str, found if found.dtype == np.float32 else found.tolist()))
    out = np.full(len(values), None, dtype=object)
    out[known] = written
    return out


def equal(values: np.ndarray, text: str) -> np.ndarray:
    """Which values (n,) of ``exact`` a person means by ``text``, a mask.

    Numbers are compared as numbers, to the last digit: 1000000000000000001 is not the float 1e18. Texts are compared
    as texts, whatever they look like: 007 is not 7. True and false are also yes and no, 1 and 0. An empty text: what
    is missing.
    """
    if text == "":
        return pd.isna(values)
    if values.dtype.kind == "M":
        values = texts(values)
    if values.dtype.kind == "b":
        return values if text.lower() in _TRUE else ~values if text.lower() in _FALSE else np.zeros(len(values), bool)
    if values.dtype.kind in "iuf":
        names = pd.unique(values)
        return np.isin(values, [name for name in names if _is(name, text)])
    wanted = nfc(text)
    are_texts = pd.api.types.infer_dtype(values, skipna=True) == "string"  # 1 and True would be one value
    codes, names = pd.factorize(values) if are_texts else (np.arange(len(values)), values)
    return np.append([_is(name, wanted) for name in names], False).astype(bool)[codes]  # -1 is the last: missing


def _is(value, text: str) -> bool:
    if isinstance(value, str):
        return nfc(value) == text
    if pd.isna(value):
        return False
    if isinstance(value, (bool, np.bool_)):
        return text.lower() in (_TRUE if value else _FALSE)
    if isinstance(value, (Integral, float, np.floating, Decimal)) and (wanted := number(text)) is not None:
        return Decimal(str(value)) == wanted  # what is written as 0.1 is the float 0.1, though that is a little more
    return str(value) == text


def number(text: str) -> Decimal | None:
    """The very number that a text writes in digits, or None: Python would also take 1_000, nan and infinity."""
    return Decimal(text) if _NUMBER.fullmatch(text) else None


def named(table: Iterable, names: Sequence[str]) -> str | None:
    """The first of ``names`` that is a column of ``table`` (whatever iterates over its columns), in any case."""
    known = {str(column).casefold(): column for column in reversed(list(table))}
    return next((name if name in known.values() else known[name] for name in names if name in known), None)


def one_of(table: Iterable, names: Sequence[str], what: str, remedy: str = "add or rename it") -> str:
    """The same. Raises CorpusError, with a ``remedy``, where ``what`` the table is has none of them."""
    name = named(table, names)
    if name is None:
        raise _lacking(table, names, what, remedy)
    return name


def require(table: Iterable, names: Iterable[str], what: str, remedy: str = "add or rename it") -> None:
    """Raise CorpusError, with a ``remedy``, where ``what`` the table is lacks a column."""
    there = list(table)
    for name in names:
        if name not in there:
            raise _lacking(there, [name], what, remedy)


def _lacking(table: Iterable, names: Sequence[str], what: str, remedy: str) -> CorpusError:
    *others, last = (f"'{name}'" for name in names)
    wanted = f"{', '.join(others)} or {last}" if others else last
    return CorpusError(
        f"{what} has no column {wanted} (columns there: {', '.join(map(str, table)) or 'none'}): {remedy}"
    )


def require_filled(
    table: pd.DataFrame, names: Iterable[str], what: str, remedy: str = "fill it in or take the row out"
) -> None:
    """Raise CorpusError, with a ``remedy``, where a cell of a column is empty."""
    for name in names:
        empty = (table[name].isna() | (table[name] == "")).to_numpy(bool)
        if empty.any():
            raise CorpusError(
                f"{what} has no '{name}' in row {int(empty.argmax()) + 1} ({int(empty.sum())} such rows): {remedy}"
            )


def seconds(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """The table with ``start`` and ``end``, where it has them, as floats. Raises CorpusError for what is no time."""
    for name in ("start", "end"):
        if name in table:
            numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
            wrong = (numbers.isna() & table[name].notna()).to_numpy()
            if wrong.any():
                row = table.iloc[int(wrong.argmax())]
                raise CorpusError(
                    f"{what}, utterance '{row['utterance']}': the {name} '{row[name]}' is no time in seconds; "
                    "write numbers from 0 like 12.34"
                )
            table = table.assign(**{name: numbers})
    return table


def settled(*given: pd.DataFrame, what: str, leave: Collection[str] = ()) -> tuple[pd.DataFrame, list[str]]:
    """The rows of all tables with columns of one type each, texts in NFC, and a sentence for each that became text so.

    Columns that a table lacks are missing there. ``what`` the tables are of, for messages; columns in ``leave`` are
    left alone. Raises CorpusError for two columns of one name and for cells that hold more than one value.
    """
    tables = [_named(table, what) for table in given]
    names = dict.fromkeys(name for table in tables for name in table.columns)
    columns, notes = {}, []
    for name in names:
        parts = [table[name] if name in table else pd.Series([None] * len(table), dtype=object) for table in tables]
        for part in parts:
            check_texts(part, f"the column '{name}' of {what}")
        if name in leave:
            columns[name] = pd.concat(parts, ignore_index=True)
            continue
        columns[name], kinds = _unified(parts, f"the column '{name}' of {what}")
        if kinds:
            notes.append(
                f"the column '{name}' of {what} holds {kinds}: all of it is text now, and is compared as text; "
                "write one kind into it if that is not meant"
            )
    return pd.DataFrame(columns, index=pd.RangeIndex(sum(map(len, tables)))), notes


def check_texts(values: Sequence | pd.Series, where: str) -> None:
    """Raise CorpusError for a text among ``values`` that no file can hold; ``where`` they stand, for the message."""
    if isinstance(values, pd.Series) and values.dtype != object:  # texts of pandas itself are sound
        return
    for row, value in enumerate(values):
        if isinstance(value, str) and not is_text(value):
            raise CorpusError(
                f"{where}: '{visible(value)}' (row {row + 1}) is not text that can be written as UTF-8: correct it"
            )


def _named(table: pd.DataFrame, what: str) -> pd.DataFrame:
    names = [nfc(str(name)) for name in table.columns]
    check_texts(names, f"the names of the columns of {what}")
    if "" in names:
        raise CorpusError(f"column {names.index('') + 1} of {what} has no name: name it")
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise CorpusError(f"{what} have two columns called '{repeated[0]}': rename one of them")
    return table if names == list(table.columns) else table.set_axis(names, axis=1)


def _unified(parts: Sequence[pd.Series], where: str) -> tuple[pd.Series, str]:
    """The parts as one column of one type, and what they hold where that is why it became text."""
    if len({part.dtype for part in parts}) == 1 and isinstance(parts[0].dtype, np.dtype) and parts[0].dtype != object:
        if parts[0].dtype.name in _NOT_IN_TABLES:
            raise CorpusError(
                f"{where} holds numbers of the kind {parts[0].dtype.name}: make fractions of them (float)"
            )
        return pd.concat(parts, ignore_index=True), ""
    values = np.concatenate([exact(part).astype(object) for part in parts])
    missing = pd.isna(values)
    values[missing] = None
    kinds = {kind: _kind(kind) for kind in set(map(type, values[~missing]))}
    if others := [kind for kind, name in kinds.items() if name is None]:
        row = next(k for k, value in enumerate(values) if type(value) is others[0])
        raise CorpusError(f"{where} holds a {others[0].__name__} in row {row + 1}: write one text or one number a cell")
    names = sorted(filter(None, set(kinds.values())))
    if names == ["text"]:
        return nfc_values(pd.Series(values)), ""
    if names == ["fractions"]:
        return pd.Series(values.astype(float)), ""
    if names == ["fractions", "whole numbers"] and all(value == float(value) for value in values[~missing]):
        return pd.Series(values.astype(float)), ""
    if names == ["whole numbers"]:
        try:
            return pd.Series(values, dtype="Int64" if missing.any() else "int64"), ""
        except OverflowError:
            names = ["whole numbers of more than 18 digits"]
    elif len(names) < 2:
        return pd.Series(values).infer_objects(), ""
    return nfc_values(pd.Series(np.concatenate([texts(part) for part in parts]))), " and ".join(names)


def _kind(kind: type) -> str | None:
    """What values of a type are, in plain words; None for what is no single value."""
    for name, types in (
        ("text", str),
        ("truth values", (bool, np.bool_)),  # before whole numbers, which they are to Python
        ("whole numbers", Integral),
        ("fractions", (float, np.floating)),
        ("decimals", Decimal),
    ):
        if issubclass(kind, types):
            return name
    return f"{kind.__name__}s" if issubclass(kind, (datetime.date, datetime.time, datetime.timedelta)) else None


def read_parquet(path: Path) -> pd.DataFrame:
    """A .parquet table with the very integers that it holds: pandas would make floats of those with gaps."""
    table = pd.read_parquet(path)
    for field in pyarrow.parquet.read_schema(path):
        if pyarrow.types.is_integer(field.type) and field.name in table and table[field.name].dtype.kind == "f":
            values = pyarrow.parquet.read_table(path, columns=[field.name])[field.name].to_pylist()
            table[field.name] = pd.Series(values, dtype=object, index=table.index).astype(
                "UInt64" if pyarrow.types.is_unsigned_integer(field.type) else "Int64"
            )
    return table


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table so that it reads back: Python's csv before 3.13 leaves a carriage return bare, which ends a
    line."""
    texts = (table[name].astype(str) for name in table.columns if table[name].dtype.kind == "O")
    breaks = any(text.str.contains("\r", regex=False).any() for text in texts)
    table.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC if breaks else csv.QUOTE_MINIMAL)


def shown(values: Iterable, most: int) -> str:
    """Distinct values for a message, in order, at most ``most``."""
    names = sorted({text for text in texts(np.asarray(values)) if text is not None})
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
