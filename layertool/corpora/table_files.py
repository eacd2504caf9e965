"""Tables on the disk: .parquet, .csv and .tsv."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet

from layertool.errors import CorpusError
from layertool.spelling import nfc, nfc_values

_TEXT_COLUMNS = ["utterance", "utt", "id", "label", "text", "channel", "speaker", "file", "filename", "path", "audio"]


def read_one_of(folder: Path, name: str, coded: Sequence[str] = ()) -> pd.DataFrame | None:
    """The table NAME.parquet, NAME.csv or NAME.tsv of a folder, the first that is there; errors as ``read_table``."""
    for suffix in (".parquet", ".csv", ".tsv"):
        path = folder / f"{name}{suffix}"
        if path.exists():
            return read_table(path, coded)
    return None


def read_table(path: Path, coded: Sequence[str] = ()) -> pd.DataFrame:
    """Read a .parquet, .csv or .tsv table; ids and labels stay text, those of ``coded`` columns of .parquet as categories.

    Raises CorpusError when it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise CorpusError(f"{path} does not exist: check the path of the table")
    try:
        if path.suffix == ".parquet":
            return _spelled(_read_parquet(path, coded))
        is_tsv = path.suffix == ".tsv"  # tab-separated tables do not quote: a lone " is a letter there
        table = pd.read_csv(
            path,
            sep="\t" if is_tsv else ",",
            quoting=csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL,
            dtype=str,
            keep_default_na=False,
            na_values=[""],
        )
    except (ValueError, UnicodeDecodeError, OSError, pd.errors.ParserError) as error:
        raise CorpusError(
            f"{path} cannot be read as a table ({error}): save it as UTF-8 .csv, .tsv or .parquet"
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first cells of every row for names of the rows
        raise CorpusError(f"{path} has rows with more cells than its header: quote cells that hold the separator")
    for column in table.columns.difference(_TEXT_COLUMNS):
        values = table[column].dropna()
        # 0012 is a name, not a number
        if len(values) and values.str.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?").all():
            table[column] = pd.to_numeric(table[column])
    return _spelled(table)


def _spelled(table: pd.DataFrame) -> pd.DataFrame:
    """Names of columns and texts in NFC; the column ``audio`` has paths, which stay as the disk has them."""
    table = table.rename(columns=lambda column: nfc(str(column)))
    return table.assign(**{column: nfc_values(table[column]) for column in table.columns if column != "audio"})


def _read_parquet(path: Path, coded: Sequence[str]) -> pd.DataFrame:
    if not coded:
        return pd.read_parquet(path)
    columns = {}
    for name in pyarrow.parquet.read_schema(path).names:  # one at a time: as Arrow's and as pandas' it is there twice
        columns[name] = pyarrow.parquet.read_table(path, columns=[name], read_dictionary=list(coded))[name].to_pandas()
        pyarrow.default_memory_pool().release_unused()
    return pd.DataFrame(columns, copy=False)
