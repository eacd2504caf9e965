"""A corpus from a plain table of audio files, and one of segments if there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from layertool import columns
from layertool.corpora import label_files
from layertool.corpora.corpus import Corpus
from layertool.corpora.labels import USUAL, Rules
from layertool.corpora.metadata import Paths, of_keys, pairs
from layertool.corpora.segments import ROUNDING, SEGMENT_COLUMNS, SegmentRows
from layertool.corpora.table_files import AUDIO_NAMES, read_table, with_text
from layertool.errors import CorpusError, UsageError
from layertool.spelling import nfc, on_disk


def read_csv(
    source: Path | str,
    segments: Path | str | None = None,
    rules: Rules = USUAL,
    channel: str | None = None,
    name: str | None = None,
    audio_root: Path | str | None = None,
    max_failures: int = 0,
    metadata: Paths = None,
    by: str | Sequence[str] | None = None,
    text_column: str | None = None,
) -> Corpus:
    """Make a corpus of a table with one row per utterance (what a table may look like: ``table_files.read_table``).

    Column ``audio``, or the first of ``table_files.AUDIO_NAMES`` that is there: paths below ``audio_root`` (default:
    the table's folder), or absolute ones. Optional: ``utterance`` (default: the file name without suffix if no two
    are equal, else the path without suffix), ``start`` and ``end`` (seconds in the file), ``channel`` (the argument,
    when given, is set for all), ``text_column``, which becomes ``text``; every other column is metadata, to which
    tables of ``metadata`` add more, each joined ``by`` a key (``metadata.of_key``). ``segments``: a table with
    utterance, tier, start, end (seconds from the start of the utterance) and label, or a .ctm or .mlf file of labels;
    ``rules``: what is done to labels. Raises CorpusError or AudioError.
    """
    source = Path(source)
    notes: list[str] = []
    provenance: dict = {"reader": "csv", "source": str(source.resolve()), "notes": notes}
    table = with_text(read_table(source, say=notes.append), text_column, source)
    if (audio_column := columns.named(table, AUDIO_NAMES)) is not None:
        table = table.rename(columns={audio_column: "audio"})
    columns.require(table, ["audio"], str(source))
    if table.empty:
        raise CorpusError(f"{source} has no rows: write one line per utterance below the header")
    columns.require_filled(table, table.columns.intersection(["audio", "utterance"]), str(source))
    written = [str(path).strip().replace("\\", "/") for path in table["audio"]]
    if "utterance" in table:
        table["utterance"] = columns.texts(table["utterance"])
    else:
        table["utterance"] = _ids([nfc(path) for path in written], source)
    root = Path(audio_root) if audio_root is not None else source.parent
    table["audio"] = [str(on_disk(root / path)) for path in written]
    table = columns.seconds(table, str(source))
    if channel is not None:
        table["channel"] = channel
    joined = pairs(metadata, by)
    if joined and joined[0][1] is None:
        raise UsageError(f"{source} has the rows of the files: say with --by what joins {joined[0][0]} to them")
    table = of_keys(table, joined, root, provenance)
    labels = None
    if segments is not None:
        labels = _segments(Path(segments), table, notes)
        provenance["segments_from"] = str(Path(segments).resolve())
    return Corpus.build(table, labels, name or source.stem, provenance, max_failures, rules=rules)


def _ids(written: list[str], source: Path) -> list[str]:
    paths = [PurePosixPath(path) for path in written]
    stems = [path.stem for path in paths]
    ids = stems if len(set(stems)) == len(stems) else [path.with_suffix("").as_posix() for path in paths]
    repeated = pd.Series(ids)[pd.Series(ids).duplicated()]
    if len(repeated):
        raise CorpusError(
            f"{source} names the audio '{written[repeated.index[0]]}' more than once: "
            "add a column 'utterance' with an id for each row"
        )
    return ids


def _segments(path: Path, utterances: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The segments as they stand in their file."""
    suffix = path.suffix.lower()
    if suffix in label_files.OF_MANY:
        return _of_recordings(path, utterances, notes)
    if suffix in label_files.TIERS or suffix == ".textgrid":
        raise UsageError(
            f"{path} has the labels of one recording: put such files beside the audio and make the corpus with "
            "'layertool corpus folder', or give a table of segments, a .ctm or a .mlf to --segments"
        )
    table = read_table(path, say=notes.append)
    columns.require(table, SEGMENT_COLUMNS, str(path))
    columns.require_filled(table, ["utterance", "tier"], str(path))
    return columns.seconds(table, str(path))


def _of_recordings(path: Path, utterances: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The labels of a CTM or MLF file, which names utterances, or audio files of which utterances are parts.

    Of a part those are taken that lie in it, in time from its start. Labels of recordings that are not in the table,
    and those that lie in no part, are counted.
    """
    ids = set(utterances["utterance"])
    parts: dict[str, list[tuple[str, float, float]]] = {}
    for row in utterances.to_dict("records"):
        start, end = row.get("start"), row.get("end")
        place = (row["utterance"], 0.0 if pd.isna(start) else start, math.inf if pd.isna(end) else end)
        file = PurePosixPath(nfc(row["audio"]))
        for name in {file.stem, file.name}:
            parts.setdefault(name, []).append(place)
    rows, n_outside = SegmentRows(), 0
    found = label_files.of_many(path)
    for name, entries in found.items():
        spans = [(name, 0.0, math.inf)] if name in ids else parts.get(name, [])
        for start, end, label in entries:
            fits = [span for span in spans if start >= span[1] - ROUNDING and end <= span[2] + ROUNDING]
            n_outside += not fits
            for one, first, _ in fits:
                rows.add(one, label_files.tier_of(path), [(max(start - first, 0.0), end - first, label)])
    table = rows.table()
    if table.empty:
        raise CorpusError(
            f"{path} has no labels of the utterances: it names recordings like '{next(iter(found), '')}', the table "
            f"utterances like '{utterances['utterance'].iloc[0]}'; give them the same names"
        )
    if n_outside:
        notes.append(f"{n_outside} labels of {path} lie in no utterance of the table, and are left out")
    return table
