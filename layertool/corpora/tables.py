"""A corpus from a plain table of audio files, and one of segments if there is one."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

import pandas as pd

from layertool.corpora import label_files
from layertool.corpora.corpus import SEGMENT_COLUMNS, Corpus
from layertool.corpora.labels import USUAL, Rules
from layertool.corpora.table_files import read_table
from layertool.errors import CorpusError, UsageError
from layertool.geometry import END_TOLERANCE, SAMPLE_RATE
from layertool.spelling import nfc, on_disk

_ROUNDING = END_TOLERANCE / SAMPLE_RATE  # seconds that a label may reach beyond its utterance


def read_csv(
    source: Path | str,
    segments: Path | str | None = None,
    rules: Rules = USUAL,
    channel: str | None = None,
    name: str | None = None,
    audio_root: Path | str | None = None,
    max_failures: int = 0,
) -> Corpus:
    """Make a corpus of a .csv, .tsv or .parquet table with one row per utterance.

    Column ``audio``: paths below ``audio_root`` (default: the table's folder), or absolute ones.
    Optional: ``utterance`` (default: the file name without suffix if no two are equal, else the path
    without suffix), ``start`` and ``end`` (seconds in the file), ``channel`` (the argument, when
    given, is set for all); every other column is metadata. ``segments``: a table with utterance, tier,
    start, end (seconds from the start of the utterance) and label, or a .ctm or .mlf file of labels; ``rules``: what is done to labels. Raises CorpusError or AudioError.
    """
    source = Path(source)
    table = read_table(source)
    _require(table, ["audio"], source)
    if table.empty:
        raise CorpusError(f"{source} has no rows: write one line per utterance below the header")
    _filled(table, "audio", source)
    written = [str(path).strip() for path in table["audio"]]
    if "utterance" in table.columns:
        _filled(table, "utterance", source)
        table["utterance"] = table["utterance"].astype(str)
    else:
        table["utterance"] = _ids([nfc(path) for path in written], source)
    root = Path(audio_root) if audio_root is not None else source.parent
    table["audio"] = [str(on_disk(root / path)) for path in written]
    _times(table, source)
    if channel is not None:
        table["channel"] = channel
    provenance: dict = {"reader": "csv", "source": str(source.resolve())}
    parts = None
    if segments is not None:
        segments = Path(segments)
        given, outside = _segments(segments, table)
        parts, notes = rules.apply(given)
        provenance |= {"segments_from": str(segments.resolve()), **notes}
        if outside:
            provenance["segments_outside_utterances"] = outside
    return Corpus.build(table, parts, name=name or source.stem, provenance=provenance, max_failures=max_failures)


def _ids(written: list[str], source: Path) -> list[str]:
    paths = [PurePosixPath(path.replace("\\", "/")) for path in written]
    stems = [path.stem for path in paths]
    ids = stems if len(set(stems)) == len(stems) else [path.with_suffix("").as_posix() for path in paths]
    repeated = pd.Series(ids)[pd.Series(ids).duplicated()]
    if len(repeated):
        raise CorpusError(
            f"{source} names the audio '{written[repeated.index[0]]}' more than once: "
            "add a column 'utterance' with an id for each row"
        )
    return ids


def _segments(path: Path, utterances: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The segments as they stand in their file, and how many of its labels are of no utterance."""
    suffix = path.suffix.lower()
    if suffix in label_files.OF_MANY:
        return _of_recordings(path, utterances)
    if suffix in label_files.TIERS or suffix == ".textgrid":
        raise UsageError(
            f"{path} has the labels of one recording: put such files beside the audio and make the corpus with "
            "'layertool corpus folder', or give a table of segments, a .ctm or a .mlf to --segments"
        )
    table = read_table(path)
    _require(table, SEGMENT_COLUMNS, path)
    _filled(table, "utterance", path)
    _filled(table, "tier", path)
    _times(table, path)
    return table, 0


def _of_recordings(path: Path, utterances: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The labels of a CTM or MLF file, which names utterances, or audio files of which utterances are parts.

    Of a part those are taken that lie in it, in time from its start. Labels of recordings that are not in the table,
    and those that lie in no part, are counted.
    """
    ids = set(utterances["utterance"])
    parts: dict[str, list[tuple[str, float, float]]] = {}
    for row in utterances.to_dict("records"):
        start, end = row.get("start"), row.get("end")
        place = (row["utterance"], 0.0 if pd.isna(start) else start, math.inf if pd.isna(end) else end)
        parts.setdefault(nfc(PurePosixPath(row["audio"]).stem), []).append(place)
    rows, outside = [], 0
    tier = label_files.tier_of(path)
    found = label_files.of_many(path)
    for name, entries in found.items():
        places = [(name, 0.0, math.inf)] if name in ids else parts.get(name, [])
        for start, end, label in entries:
            fits = [
                (one, first) for one, first, last in places if start >= first - _ROUNDING and end <= last + _ROUNDING
            ]
            outside += not fits
            rows += [(one, tier, max(start - first, 0.0), end - first, label) for one, first in fits]
    if not rows:
        raise CorpusError(
            f"{path} has no labels of the utterances: it names recordings like '{next(iter(found), '')}', the table "
            f"utterances like '{utterances['utterance'].iloc[0]}'; give them the same names"
        )
    return pd.DataFrame(rows, columns=SEGMENT_COLUMNS), outside


def _require(table: pd.DataFrame, columns: list[str], path: Path) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        there = ", ".join(map(str, table.columns)) or "none"
        raise CorpusError(f"{path} has no column '{missing[0]}' (columns there: {there}): add or rename it")


def _filled(table: pd.DataFrame, column: str, path: Path) -> None:
    """Raise CorpusError where ``column`` is empty."""
    empty = table[column].isna() | (table[column].astype(str).str.strip() == "")
    if empty.any():
        raise CorpusError(
            f"{path} has no '{column}' in row {int(empty.to_numpy().argmax()) + 1} ({int(empty.sum())} such rows): "
            "fill it in or take the row out"
        )


def _times(table: pd.DataFrame, path: Path) -> None:
    """Turn ``start`` and ``end`` into numbers; raise CorpusError where they are none, or run backwards."""
    for column in ("start", "end"):
        if column in table.columns:
            numbers = pd.to_numeric(table[column], errors="coerce")
            wrong = (numbers.isna() & table[column].notna()) | (numbers < 0)
            if wrong.any():
                row = table[wrong].iloc[0]
                raise CorpusError(
                    f"{path}, utterance '{row['utterance']}': the {column} '{row[column]}' is no time in seconds; "
                    "write numbers from 0 like 12.34"
                )
            table[column] = numbers.astype(float)
    if "start" in table.columns and "end" in table.columns and (backwards := table["end"] < table["start"]).any():
        row = table[backwards].iloc[0]
        raise CorpusError(
            f"{path}, utterance '{row['utterance']}': start {row['start']:g} lies after end {row['end']:g}; correct them"
        )
