"""A corpus from a folder of audio files, with TextGrids, transcripts and a metadata table if there are any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from layertool import audio
from layertool.corpora import beside, source_files
from layertool.corpora.alignments import Progress, read_all
from layertool.corpora.corpus import AUDIO_COLUMNS, Corpus
from layertool.corpora.labels import USUAL, Rules
from layertool.corpora.table_files import read_table
from layertool.errors import CorpusError
from layertool.spelling import nfc

ID_COLUMNS = ("utterance", "utt", "id", "file", "filename", "path", "audio")


def read(
    source: Path | str,
    textgrids: Path | str | None = None,
    metadata: Path | str | None = None,
    id_column: str | None = None,
    tiers: Mapping[str, str] | None = None,
    rules: Rules = USUAL,
    channel: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    max_failures: int = 0,
) -> Corpus:
    """Make a corpus of every audio file below ``source``; hidden files and folders are passed over.

    The utterance id is the path below ``source`` without its suffix (``speaker1/take 3``); utterances
    are ordered by it. TextGrids have the same path, beside the audio or below the folder
    ``textgrids``, where the same file name is enough if it occurs once; a TextGrid with the tiers of several speakers
    gives an utterance for each (``alignments.Alignments.utterances``). Audio without one takes its labels from the files
    of ``label_files`` beside it, or from a CTM file that names it; utterances without labels are
    kept and counted in ``provenance["without_textgrid"]``. A ``.lab`` or ``.txt`` file beside the
    audio that is no label file gives the column ``text``. ``metadata`` (.csv, .tsv, .parquet) has a row for every
    utterance, whose id, file name or path stands in ``id_column`` (default: the first of
    ``ID_COLUMNS`` that is there); its other columns are joined. ``tiers``: by our name, that of a tier of the TextGrids
    (``textgrid.voices``), or the suffix of label files (``.phn``). ``channel`` is set for all files.
    Up to ``max_failures`` recordings whose audio or labels cannot be used are left out.
    Raises UsageError, CorpusError, and AudioError for a file that is no audio.
    """
    source = Path(source)
    files = source_files.files_below(source)
    recordings = source_files.by_id(files, source, audio.SUFFIXES)
    if not recordings:
        passed_over = source_files.unread(files, source, ())
        raise CorpusError(
            f"{source} has no audio files (looked for {', '.join(sorted(audio.SUFFIXES))}): "
            + (f"{passed_over[0]}" if passed_over else "check the folder")
        )
    provenance: dict = {"reader": "folder", "source": str(source.resolve())}

    labels = beside.find(source, files, recordings, None if textgrids is None else Path(textgrids), tiers)
    found = read_all(labels.sources, progress, max_failures)
    segments, named = rules.apply(found.segments)
    provenance |= labels.provenance | named
    if found.without_tier:
        provenance["textgrids_without_tier"] = found.without_tier
    utterances = pd.DataFrame({"utterance": list(recordings), "audio": [str(path) for path in recordings.values()]})
    if channel is not None:
        utterances["channel"] = channel
    if labels.texts:
        utterances["text"] = [labels.texts.get(utterance) for utterance in recordings]
        provenance["without_transcript"] = len(recordings) - len(labels.texts)
    if metadata is not None:
        columns, notes = _metadata(Path(metadata), id_column, list(recordings), source)
        provenance |= notes
        # what stands in the table was named by the user, so it wins over a transcript that was found
        utterances = pd.concat(
            [utterances.drop(columns="text", errors="ignore") if "text" in columns else utterances, columns], axis=1
        )
    utterances, told = found.utterances(utterances)
    provenance["notes"] = [*labels.notes, *told, *named.get("notes", ())]
    return Corpus.build(
        utterances,
        segments,
        name=name or source.resolve().name,
        provenance=provenance,
        max_failures=max_failures,
        left_out=labels.unusable | found.unusable,
        stretches=found.stretches,
    )


def _metadata(path: Path, id_column: str | None, ids: list[str], source: Path) -> tuple[pd.DataFrame, dict]:
    """The metadata columns in the order of ``ids``, and what to note of them in the provenance."""
    table = read_table(path)
    there = ", ".join(map(str, table.columns))
    if id_column is None:
        id_column = next((column for column in ID_COLUMNS if column in table.columns), None)
        if id_column is None:
            raise CorpusError(
                f"{path} has no column {', '.join(ID_COLUMNS[:-1])} or {ID_COLUMNS[-1]} (columns there: {there}): "
                "say which one names the utterance with --id-column"
            )
    elif id_column not in table.columns:
        raise CorpusError(f"{path} has no column '{id_column}' (columns there: {there}): correct --id-column")
    for column in ("start", "end"):
        if column in table.columns:
            raise CorpusError(
                f"{path} has the column '{column}', so its utterances are parts of files: use "
                f"'layertool corpus csv {path}', or rename the column if it means something else"
            )
    rows = _match_rows(table[id_column], ids, path)
    if not rows:
        raise CorpusError(
            f"no row of {path} fits an utterance of {source}: its column '{id_column}' says "
            f"'{table[id_column].iloc[0] if len(table) else ''}', the utterances are called like '{ids[0]}'; "
            "name another column with --id-column or correct the ids"
        )
    without = [utterance for utterance in ids if utterance not in rows]
    if without:
        raise CorpusError(
            f"{path} has no row for the utterance '{without[0]}' ({len(without)} of {len(ids)} have none): "
            "add the rows, or take these audio files away"
        )
    left_out = [column for column in table.columns if column in AUDIO_COLUMNS and column != id_column]
    columns = table.drop(columns=[id_column, *left_out]).iloc[[rows[utterance] for utterance in ids]]
    notes: dict = {"metadata": str(path.resolve()), "metadata_rows_without_audio": len(table) - len(rows)}
    if left_out:
        notes["metadata_columns_left_out"] = left_out
    return columns.reset_index(drop=True), notes


def _match_rows(values: pd.Series, ids: list[str], path: Path) -> dict[str, int]:
    """The row number of each utterance that ``values`` names.

    A value names an utterance when the two are the same path or one is the tail of the other
    (``a``, ``a.wav``, ``/data/speaker1/a.wav`` for ``speaker1/a``).
    """
    known = set(ids)
    tails: dict[str, list[str]] = {}
    for utterance in ids:
        for tail in _tails(utterance):
            tails.setdefault(tail, []).append(utterance)
    rows: dict[str, int] = {}
    for row, value in enumerate(values):
        if pd.isna(value) or not str(value).strip():
            raise CorpusError(f"{path} has no '{values.name}' in row {row + 1}: fill it in or take the row out")
        whole = PurePosixPath(nfc(str(value)).strip().replace("\\", "/"))
        stem = whole.with_suffix("") if whole.suffix.lower() in audio.SUFFIXES else whole
        fits: list[str] = []
        for form in (str(whole), str(stem)):
            fits = fits or ([form] if form in known else tails.get(form, []))
        fits = fits or [tail for tail in _tails(str(stem)) if tail in known][:1]
        if len(fits) > 1:
            raise CorpusError(
                f"{path}, row {row + 1}: '{value}' fits {len(fits)} utterances ('{fits[0]}', '{fits[1]}'): "
                f"write the path below the source folder into '{values.name}'"
            )
        if fits and fits[0] in rows:
            raise CorpusError(
                f"{path} has two rows for the utterance '{fits[0]}' (rows {rows[fits[0]] + 1} and {row + 1}): take one out"
            )
        if fits:
            rows[fits[0]] = row
    return rows


def _tails(path: str) -> list[str]:
    """``a/b/c`` to ``a/b/c``, ``b/c`` and ``c``."""
    parts = path.strip("/").split("/")
    return ["/".join(parts[k:]) for k in range(len(parts))]
