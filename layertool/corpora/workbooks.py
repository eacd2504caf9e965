"""Workbooks (.xlsx): the cells of their sheets as text."""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

from layertool.errors import CorpusError, MissingExtraError

Say = Callable[[str], object]
_DIGITS = 10**15  # a workbook keeps 15 digits of a number


def read_workbook(path: Path, say: Say) -> dict[str, list[list[str | None]]]:
    """The sheets of a workbook by name, each the cells of its rows as text; numbers and dates as people see them.

    Raises MissingExtraError without the package openpyxl, CorpusError for what is no workbook.
    """
    try:
        import openpyxl
    except ImportError as error:
        purpose = f"reading {path.name} (a .csv or .tsv saved from it needs nothing)"
        raise MissingExtraError("openpyxl", "xlsx", purpose) from error
    told: list[str] = []
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheets = {
            sheet.title: [[_cell(cell, told) for cell in row] for row in sheet.iter_rows()] for sheet in book.worksheets
        }
        book.close()
    except (ValueError, KeyError, OSError, TypeError, SyntaxError, zipfile.BadZipFile) as error:
        raise CorpusError(f"{path} cannot be read as a workbook ({error}): save it as .xlsx or .csv again") from error
    for note in dict.fromkeys(told):
        say(f"{path}: {note}")
    for name, rows in sheets.items():
        rows = [row for row in rows if any(row)]
        width = max((len(row) for row in rows), default=0)
        sheets[name] = [row + [None] * (width - len(row)) for row in rows]
    return sheets


def _cell(cell, told: list[str]) -> str | None:
    """A cell of a workbook as text."""
    value = cell.value
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        told.append("dates are written like 2020-01-31")
        return str(value).removesuffix(" 00:00:00")
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= _DIGITS:
            told.append("a workbook keeps 15 digits of a number, and some cells have more: type such ids as text")
        if re.fullmatch("0+", cell.number_format or ""):  # 0012, of which the book keeps 12
            return str(value).zfill(len(cell.number_format))
    return str(value)
