"""A corpus from a folder of audio files, with TextGrids, transcripts and a metadata table if there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from layertool import audio
from layertool.corpora import beside, source_files
from layertool.corpora.alignments import Progress, read_all
from layertool.corpora.corpus import Corpus
from layertool.corpora.labels import TIERS, USUAL, Rules
from layertool.corpora.metadata import Paths, added, of_files, of_keys, pairs
from layertool.errors import CorpusError, UsageError


def read(
    source: Path | str,
    textgrids: Path | str | None = None,
    metadata: Paths = None,
    id_column: str | None = None,
    tiers: Mapping[str, str] | Sequence[str] | None = None,
    rules: Rules = USUAL,
    channel: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    max_failures: int = 0,
    by: str | Sequence[str] | None = None,
    text_column: str | None = None,
) -> Corpus:
    """Make a corpus of every audio file below ``source``; hidden files and folders are passed over.

    The utterance id is the path below ``source`` without its suffix (``speaker1/take 3``); utterances
    are ordered by it. TextGrids have the same path, beside the audio or below the folder
    ``textgrids``, where the same file name is enough if it occurs once; a TextGrid with the tiers of several speakers
    gives an utterance for each (``alignments.Alignments.utterances``). Audio without one takes its labels from the
    files of ``label_files`` beside it, or from a CTM file that names it; utterances without labels are kept and
    counted in ``provenance["without_textgrid"]``. A ``.lab`` or ``.txt`` file beside the audio that is no label file
    gives the column ``text``. ``metadata`` has a row for each file that belongs to the corpus, whose id, file name or
    path stands in ``id_column`` (default: the first of ``table_files.ID_NAMES`` that is there); its other columns are
    joined, ``text_column`` as ``text``. The last of several tables are joined ``by`` other keys, one each: see
    ``metadata.of_key``. ``tiers``: by our name, or as texts ``phone=NAME``, that of a tier of the TextGrids
    (``textgrid.voices``), or the suffix of label files (``.phn``). ``rules``: what is done to labels. ``channel`` is
    set for all files. Up to ``max_failures`` recordings whose audio or labels cannot be used are left out. Raises
    UsageError, CorpusError, and AudioError for a file that is no audio.
    """
    source, tiers = Path(source), _tiers(tiers or ())
    files = source_files.files_below(source)
    recordings = source_files.by_id(files, source, audio.SUFFIXES)
    if not recordings:
        passed_over = source_files.unread(files, source, ())
        raise CorpusError(
            f"{source} has no audio files (looked for {', '.join(sorted(audio.SUFFIXES))}): "
            + (f"{passed_over[0]}" if passed_over else "check the folder")
        )
    provenance: dict = {"reader": "folder", "source": str(source.resolve())}
    tables, described = pairs(metadata, by), None
    if tables and tables[0][1] is None:
        described = of_files(tables.pop(0)[0], id_column, list(recordings), source, provenance, text_column)
        recordings = {utterance: recordings[utterance] for utterance in described.index}
    labels = beside.find(source, files, recordings, provenance, None if textgrids is None else Path(textgrids), tiers)
    found = read_all(labels.sources, progress, max_failures)
    utterances = pd.DataFrame({"utterance": list(recordings), "audio": [str(path) for path in recordings.values()]})
    if channel is not None:
        utterances["channel"] = channel
    if labels.texts:
        utterances["text"] = [labels.texts.get(utterance) for utterance in recordings]
        provenance["without_transcript"] = len(recordings) - len(labels.texts)
    if described is not None:
        utterances = added(utterances, described)
    utterances = of_keys(found.utterances(utterances, provenance), tables, source, provenance)
    return Corpus.build(
        utterances,
        found.segments,
        name or source.resolve().name,
        provenance,
        max_failures,
        labels.unusable | found.unusable,
        found.stretches,
        rules,
    )


def _tiers(given: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Names in the files by our names of tiers, also from texts like ``phone=MAU``. Raises UsageError."""
    if isinstance(given, Mapping):
        return dict(given)
    parts = {text: text.partition("=") for text in given}
    for text, (tier, equals, _) in parts.items():
        if not equals or tier not in TIERS:
            raise UsageError(f"--tier '{text}' is not word=NAME or phone=NAME")
    return {tier: name for tier, _, name in parts.values()}
