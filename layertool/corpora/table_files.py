"""Tables on the disk: .parquet, text with separators (.csv, .tsv, .txt) and the first sheet of a workbook (.xlsx).

What a person may have typed is read the same way everywhere: one decision about separators, blanks, encodings, names
and types.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from layertool import columns
from layertool.corpora.texts import utf8
from layertool.corpora.workbooks import Say, read_workbook
from layertool.errors import CorpusError
from layertool.spelling import nfc, nfc_values

SUFFIXES = (".parquet", ".csv", ".tsv", ".xlsx")  # of the tables of a corpus, in the order in which they are looked for
# Columns that name an audio file, in the order in which they are looked for, and those that name an utterance.
AUDIO_NAMES = ("audio", "path", "file", "filename", "file_name", "audio_path", "audio_file", "wav")
ID_NAMES = ("utterance", "utt", "id", "file", "filename", "path", "audio", *AUDIO_NAMES[4:])

# Paths stay as the disk has them; of labels, what becomes one is told where they are put to use (``labels.Rules``).
_AS_WRITTEN = (*AUDIO_NAMES, "label")
# Never numbers: what names something, and times, which who needs them reads (a start of 0.50 is no other than 0.5).
_TIMES = frozenset(("start", "end"))
_TEXT = _TIMES | {*ID_NAMES, "tier", "label", "text", "channel", "speaker"}
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t", ".psv": "|"}
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_LOOKED_AT = 1 << 16  # characters that tell the separator
_BOOKS = (".xlsx", ".xlsm")
_OTHERS = {
    ".xls": "an old workbook",
    ".xlsb": "a binary workbook",
    ".ods": "an OpenDocument sheet",
    ".numbers": "a Numbers sheet",
    ".json": "a JSON file",
    ".jsonl": "a file of JSON lines",
    ".gz": "compressed",
    ".zip": "compressed",
}
_MISSING = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", "."}  # what people and programs write
_WHOLE = r"^(0|-?[1-9]\d{0,18})$"
_FRACTION = r"^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$"
_COMMA = r"^-?(0|[1-9]\d*)(,\d+)?$"
_THOUSANDS = r"^-?[1-9]\d{0,2}(,\d{3})*$"  # 12,500 is one number in London and another in Berlin


def read_one_of(folder: Path, name: str, coded: Sequence[str] = (), say: Say | None = None) -> pd.DataFrame | None:
    """The table NAME.parquet, NAME.csv, NAME.tsv or NAME.xlsx of a folder, the first that is there; errors as
    ``read_table``."""
    there = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.stem == name}
    path = next((there[name + suffix] for suffix in SUFFIXES if name + suffix in there), None)
    return None if path is None else read_table(path, coded, say)


def read_table(
    path: Path, coded: Sequence[str] = (), say: Say | None = None, as_text: bool = False, column: str = ""
) -> pd.DataFrame:
    """Read a table; a column holds numbers only where writing them gives back every cell, and else text.

    So 007, 1e5, 1000000000000000000000, and 1.1 beside 1.10, stay what they are. Cells and names are without the
    blanks around them and in Unicode's composed form (paths of files as they stand); empty cells are missing.
    ``coded`` columns of .parquet come as categories. ``as_text``: of a text file all columns are text. ``column``: of a
    workbook the first sheet that has it is read, else its first. ``say`` is
    told what had to be decided. Raises CorpusError, with the row from 1 below the header, for what cannot be read,
    and MissingExtraError for a workbook without the package openpyxl.
    """
    path = Path(path)
    if not path.exists():
        raise CorpusError(f"{path} does not exist: check the path of the table")
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in _OTHERS:
        what = "a folder" if path.is_dir() else _OTHERS[suffix]
        raise CorpusError(f"{path} is {what}, not a table: save it as .csv in UTF-8 or as .xlsx")
    say = say or (lambda _: None)
    try:
        if suffix == ".parquet":
            table = _read_parquet(path, coded).rename(columns=lambda name: nfc(str(name)))
            return table.assign(**{name: nfc_values(table[name]) for name in table.columns.difference(_AS_WRITTEN)})
        if suffix in _BOOKS:
            return _sheet(path, say, column)
        return _read_text(path, suffix, say, as_text)
    except (ValueError, OSError, csv.Error, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise CorpusError(
            f"{path} cannot be read as a table ({reason}): save it as UTF-8 .csv, .tsv or .parquet"
        ) from error


def with_text(table: pd.DataFrame, column: str | None, path: Path) -> pd.DataFrame:
    """The table with ``column`` under the name ``text``. Raises CorpusError where it is not there, or there is a
    text already."""
    if column is None or (column := nfc(column)) == "text":
        return table
    columns.require(table, [column], str(path), "correct --text-column")
    if "text" in table:
        raise CorpusError(f"{path} has a column 'text' already: correct --text-column")
    return table.rename(columns={column: "text"})


def _read_parquet(path: Path, coded: Sequence[str]) -> pd.DataFrame:
    if not coded:
        return columns.read_parquet(path)
    found = {}
    for name in pyarrow.parquet.read_schema(path).names:  # one at a time: as Arrow's and as pandas' it is there twice
        found[name] = pyarrow.parquet.read_table(path, columns=[name], read_dictionary=list(coded))[name].to_pandas()
        pyarrow.default_memory_pool().release_unused()
    return pd.DataFrame(found, copy=False)


def _read_text(path: Path, suffix: str, say: Say, as_text: bool) -> pd.DataFrame:
    content = utf8(path)
    announced = re.match(rb'"?sep=([,;|\t])"?\r?\n', content)  # what Excel writes for itself
    content = content[announced.end() :] if announced else content
    if not content.strip():
        raise ValueError("it is empty")
    separator = announced[1].decode() if announced else _separator(content, _SEPARATORS.get(suffix, ","))
    if separator != "\t" and b'"' in content:
        rows = list(_quoted(content, separator))
        for number, row in enumerate(rows):
            if len(row) != len(rows[0]):
                raise _ragged(path, number, len(row), len(rows[0]), separator)
        return _typed(path, rows[0], [*zip(*rows[1:], strict=True)], separator, say, as_text)
    header = next(filter(None, _lines(content, separator)))
    if len(header) == 1 and all(len(line.split()) > 1 for line in content.splitlines() if line.strip()):
        raise CorpusError(
            f"{path} seems to have blanks between its cells ('{header[0].strip()}'): write commas or tabs there "
            "(if it is one column: take the blanks out of its name)"
        )
    ragged: list[pyarrow.csv.InvalidRow] = []

    def refuse(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    try:
        cells = pyarrow.csv.read_csv(  # fast, but lenient with quotation marks
            io.BytesIO(content if b"\n" in content else content + b"\n"),
            pyarrow.csv.ReadOptions(
                use_threads=False, block_size=min(len(content) + 1, 2**30), autogenerate_column_names=True
            ),
            pyarrow.csv.ParseOptions(delimiter=separator, quote_char=False, invalid_row_handler=refuse),
            pyarrow.csv.ConvertOptions(
                column_types={f"f{place}": pyarrow.string() for place in range(len(header))}, strings_can_be_null=False
            ),
        )
    except pyarrow.ArrowInvalid as error:
        if not ragged:
            raise
        first = ragged[0]
        raise _ragged(path, first.number - 1, first.actual_columns, first.expected_columns, separator) from error
    return _typed(path, header, cells.slice(1).columns, separator, say, as_text)


def _quoted(content: bytes, separator: str) -> Iterator[list[str]]:
    """The rows of a table with quoted cells. Raises csv.Error, with the line, where a quotation mark has no partner."""
    content = re.sub(rb'(?<=[^"])" +(?=[,;|\r\n])', b'"', content)  # a blank behind a quoted cell
    lines = _lines(content, separator, strict=True)
    try:
        yield from filter(None, lines)
    except csv.Error as error:
        raise csv.Error(f"line {lines.line_num}: {error}") from error


def _lines(content: bytes, separator: str, strict: bool = False) -> Any:
    """A reader of the rows. Tables with tabs do not quote: a lone " is a letter there."""
    return csv.reader(
        io.StringIO(content.decode(errors="ignore"), newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
        skipinitialspace=True,
        strict=strict,
    )


def _separator(content: bytes, usual: str) -> str:
    """What separates cells: the usual one where it gives all lines as many cells as the header, else another.

    Where none does, the one that the header has most of: which row is ragged is said later.
    """
    head = content[:_LOOKED_AT]
    if len(content) > _LOOKED_AT:
        head = head[: head.rfind(b"\n")]
    found: dict[str, int] = {}
    for separator in dict.fromkeys((usual, *_NAMES)):
        widths = [len(line) for line in _lines(head, separator) if line]
        found[separator] = widths[0]
        if widths[0] > 1 and len(set(widths)) == 1:
            return separator
    return max(found, key=lambda separator: found[separator])


def _ragged(path: Path, number: int, n_cells: int, n_names: int, separator: str) -> CorpusError:
    remedy = (
        "complete the row" if n_cells < n_names else f"quote cells that hold the separator ({_NAMES[separator]} here)"
    )
    return CorpusError(
        f"{path}, row {number} has {'fewer' if n_cells < n_names else 'more'} cells than its header ({n_cells} for "
        f"{n_names} names): "
        f"{remedy}"
    )


def _sheet(path: Path, say: Say, column: str) -> pd.DataFrame:
    """The first sheet of a workbook that has a column, else its first; errors as ``read_workbook``."""
    sheets = {name: rows for name, rows in read_workbook(path, say).items() if rows}
    if not sheets:
        raise CorpusError(f"{path} is empty: a table has a line of column names, and one line for each row")
    having = [name for name, rows in sheets.items() if column in {(cell or "").strip().lower() for cell in rows[0]}]
    chosen = (having or list(sheets))[0]
    if len(sheets) > 1:
        say(
            f"{path}: the sheet '{chosen}' is read, {len(sheets) - 1} others are not: save another one as .csv if "
            "you mean it"
        )
    header, *rows = sheets[chosen]
    return _typed(path, header, [*zip(*rows, strict=True)], ",", say)


def _typed(
    path: Path, header: Sequence[str | None], cells: Sequence, separator: str, say: Say, as_text: bool = False
) -> pd.DataFrame:
    """Columns of texts as a table: names and cells without blanks around them, numbers where they are nothing else."""
    names = [nfc((name or "").strip()) for name in header]
    found: dict[str, pyarrow.ChunkedArray] = {}
    for place, name in enumerate(names):
        texts = _stripped(cells[place]) if cells else pyarrow.chunked_array([[]], pyarrow.string())
        if name in found:
            raise CorpusError(f"{path} has two columns called '{name}': rename one of them")
        if name:
            found[name] = texts
        elif texts.null_count < len(texts):
            say(f"{path}: column {place + 1} has no name and was left out; give it one if it is needed")
    if not found:
        raise CorpusError(f"{path} has no column names in its first line: write them there")
    n_rows = max((len(texts) - _n_missing_at_the_end(texts) for texts in found.values()), default=0)
    table = {}
    with_commas = []
    for name, texts in found.items():
        texts = texts.slice(0, n_rows)
        if as_text:
            table[name] = nfc_values(texts.to_pandas())
            continue
        if separator != "," and name.casefold() not in _TEXT - _TIMES and _has_decimal_commas(texts, name, path, say):
            texts = pyarrow.compute.replace_substring(texts, ",", ".")
            with_commas.append(name)
        table[name] = _column(texts, name)
        if gaps := _gaps(texts, table[name]):
            say(
                f"{path}: {name} would be numbers but for {', '.join(map(repr, gaps))}, so it stays text: leave "
                "cells without a value empty"
            )
    if with_commas:
        say(f"{path}: decimal commas are read as points in {', '.join(with_commas)} (1,5 is 1.5)")
    return pd.DataFrame(table)


def _has_decimal_commas(texts: pyarrow.ChunkedArray, name: str, path: Path, say: Say) -> bool:
    """Whether all cells are numbers, some with a decimal comma; where it may separate thousands the column is left
    and told."""
    if not _are(texts, _COMMA) or _are(texts, _WHOLE):
        return False
    is_ambiguous = _are(texts, _THOUSANDS)
    if is_ambiguous:
        say(f"{path}: the commas in {name} may be of decimals or of thousands, so it stays text: write 1.5 or 1500")
    return not is_ambiguous


def _gaps(texts: pyarrow.ChunkedArray, column: pd.Series) -> list[str]:
    """What stands in a column of text for a missing number, where all else are numbers."""
    if column.dtype.kind in "iuf" or str(column.name).casefold() in _TEXT:
        return []
    is_number = pyarrow.compute.match_substring_regex(texts, _FRACTION)
    others = texts.filter(pyarrow.compute.invert(is_number)).unique().to_pylist()
    return others if pyarrow.compute.any(is_number).as_py() and {*map(str.casefold, others)} <= _MISSING else []


def _stripped(cells) -> pyarrow.ChunkedArray:
    """Cells without the blanks around them; empty ones are missing."""
    texts = (
        cells
        if isinstance(cells, pyarrow.ChunkedArray)
        else pyarrow.chunked_array([pyarrow.array(cells, pyarrow.string())])
    )
    texts = pyarrow.compute.utf8_trim_whitespace(texts)
    return pyarrow.compute.if_else(pyarrow.compute.equal(texts, ""), pyarrow.scalar(None, pyarrow.string()), texts)


def _n_missing_at_the_end(texts: pyarrow.ChunkedArray) -> int:
    filled = np.flatnonzero(texts.is_valid().to_numpy())
    return len(texts) - (int(filled[-1]) + 1 if len(filled) else 0)


def _are(texts: pyarrow.ChunkedArray, pattern: str) -> bool:
    """Whether there are cells, and all of them fit a pattern."""
    fits = pyarrow.compute.match_substring_regex(texts, pattern)
    return texts.null_count < len(texts) and pyarrow.compute.all(fits).as_py()


def _gives_back(numbers: list[float], cells: list[str]) -> bool:
    """Whether one way of writing numbers gives back every cell: 0.5 and 1.0, 0.5 and 1, or 0.50 and 1.00."""
    if any(number == 0 and cell[0] == "-" for number, cell in zip(numbers, cells, strict=True)):
        return False  # to floats -0 and 0 are one
    if list(map(repr, numbers)) == cells:
        return True
    if max(map(abs, numbers)) >= 2**53:
        return False
    decimals = len(cells[0].partition(".")[2])
    return [f"{number:.{decimals}f}" for number in numbers] == cells or [
        repr(number).removesuffix(".0") for number in numbers
    ] == cells


def _column(texts: pyarrow.ChunkedArray, name: str) -> pd.Series:
    """Cells as numbers where writing these gives back every cell, else as text."""
    if name.casefold() not in _TEXT and _are(texts, _FRACTION):
        with suppress(pyarrow.ArrowInvalid):  # beyond 64 bits, where floats do not give them back either
            if _are(texts, _WHOLE):
                whole = texts.cast(pyarrow.int64()).to_pandas(types_mapper=lambda _: pd.Int64Dtype())
                return whole if texts.null_count else whole.astype(np.int64)
        numbers = texts.cast(pyarrow.float64()).to_pandas()
        if _gives_back(numbers.dropna().tolist(), texts.drop_null().to_pylist()):
            return numbers
    return texts.to_pandas() if name.casefold() in _AS_WRITTEN else nfc_values(texts.to_pandas())
