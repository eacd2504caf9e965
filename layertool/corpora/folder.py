"""A corpus from a folder of audio files, with TextGrids, transcripts and a metadata table if there are any."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from layertool import audio
from layertool.corpora import textgrid
from layertool.corpora.corpus import Corpus
from layertool.corpora.labels import USUAL, Rules
from layertool.corpora.metadata import Paths, of_files, of_keys, pairs
from layertool.errors import CorpusError
from layertool.spelling import nfc

TRANSCRIPT_SUFFIXES = (".lab", ".txt")  # the first that is there is taken


def read(
    source: Path | str,
    textgrids: Path | str | None = None,
    metadata: Paths = None,
    id_column: str | None = None,
    tiers: Mapping[str, str] | None = None,
    rules: Rules = USUAL,
    channel: str | None = None,
    name: str | None = None,
    progress: textgrid.Progress | None = None,
    max_failures: int = 0,
    by: str | Sequence[str] | None = None,
    text_column: str | None = None,
) -> Corpus:
    """Make a corpus of every audio file below ``source``; hidden files and folders are passed over.

    The utterance id is the path below ``source`` without its suffix (``speaker1/take 3``); utterances
    are ordered by it. TextGrids have the same path, beside the audio or below the folder
    ``textgrids``, where the same file name is enough if it occurs once; utterances without one are
    kept and counted in ``provenance["without_textgrid"]``. A ``.lab`` or ``.txt`` file beside the
    audio gives the column ``text``. ``metadata`` has a row for each file that belongs to the corpus, whose id, file name or path
    stands in ``id_column`` (default: the first of ``table_files.ID_NAMES`` that is there); its other columns are joined,
    ``text_column`` as ``text``. The last of several tables are joined ``by`` other keys, one each: see ``metadata.of_key``. ``tiers`` and
    ``progress``: see ``textgrid.read_segments`` and ``read_all``; ``rules``: what is done to labels. ``channel`` is set for all files.
    Raises UsageError, CorpusError, and AudioError for a file that is no audio.
    """
    source = Path(source)
    files = files_below(source)
    recordings = _by_id(files, source, audio.SUFFIXES)
    if not recordings:
        raise CorpusError(
            f"{source} has no audio files (looked for {', '.join(sorted(audio.SUFFIXES))}): check the folder"
        )
    provenance: dict = {"reader": "folder", "source": str(source.resolve())}
    tables, described = pairs(metadata, by), None
    if tables and tables[0][1] is None:
        described = of_files(tables.pop(0)[0], id_column, list(recordings), source, text_column)
        recordings = {utterance: recordings[utterance] for utterance in described.columns.index}

    if textgrids is None:
        grids = _by_id(files, source, {".textgrid"})
        matched = {utterance: grids[utterance] for utterance in recordings if utterance in grids}
    else:
        textgrids = Path(textgrids)
        grids = _by_id(files_below(textgrids), textgrids, {".textgrid"})
        matched = _match_textgrids(recordings, grids, textgrids)
        provenance["textgrids_from"] = str(textgrids.resolve())
    if tiers and not matched:
        raise CorpusError(f"{source} has no TextGrid that belongs to its audio: leave --tier out, or give --textgrids")
    segments, notes = textgrid.read_all(matched, tiers, progress)
    segments, named = rules.apply(segments)
    provenance |= notes | named
    provenance["without_textgrid"] = len(recordings) - len(matched)
    provenance["textgrids_without_audio"] = len(grids) - len(matched)

    utterances = pd.DataFrame({"utterance": list(recordings), "audio": [str(path) for path in recordings.values()]})
    if channel is not None:
        utterances["channel"] = channel
    texts = _transcripts(files, source, recordings)
    if texts:
        utterances["text"] = [texts.get(utterance) for utterance in recordings]
        provenance["without_transcript"] = len(recordings) - len(texts)
    if described is not None:
        utterances = described.added(utterances, provenance)
    utterances = of_keys(utterances, tables, source, provenance)
    return Corpus.build(
        utterances, segments, name=name or source.resolve().name, provenance=provenance, max_failures=max_failures
    )


def files_below(folder: Path) -> list[Path]:
    """All files below ``folder`` in sorted order, through links to folders but never twice through one folder."""
    if not folder.is_dir():
        raise CorpusError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: check the path")
    found, seen = [], set()
    for here, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        seen.add(os.path.realpath(here))
        folders[:] = sorted(
            name for name in folders if name[0] != "." and os.path.realpath(os.path.join(here, name)) not in seen
        )
        found += [Path(here, name) for name in names if name[0] != "."]
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise CorpusError(f"{error.filename} cannot be read ({error.strerror}): correct its permissions or take it away")


def _by_id(files: Iterable[Path], root: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """The files with one of ``suffixes`` (in any case) by their path below ``root`` without it, in order of that id."""
    found: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() in suffixes:
            identity = nfc(path.relative_to(root).with_suffix("").as_posix())
            if identity in found:
                raise CorpusError(
                    f"{found[identity]} and {path} would both be the utterance '{identity}': move one of them away"
                )
            found[identity] = path
    return dict(sorted(found.items()))


def _match_textgrids(recordings: dict[str, Path], grids: dict[str, Path], folder: Path) -> dict[str, Path]:
    """TextGrids of a folder of their own: by the whole path, the rest by file name where that occurs once."""
    if not grids:
        raise CorpusError(f"{folder} has no .TextGrid files: check --textgrids")
    matched = {utterance: grids[utterance] for utterance in recordings if utterance in grids}
    left: dict[str, list[Path]] = {}
    for identity, path in grids.items():
        if identity not in recordings:
            left.setdefault(PurePosixPath(identity).name, []).append(path)
    claims: dict[str, str] = {}
    for utterance in recordings:
        stem = PurePosixPath(utterance).name
        if utterance in matched or stem not in left:
            continue
        if len(left[stem]) > 1 or stem in claims:
            raise CorpusError(
                f"{folder} does not say which TextGrid belongs to the utterance '{utterance}' ({left[stem][0]} is one "
                "candidate, but the file name is not unique): give the TextGrids the same subfolders as the audio"
            )
        claims[stem] = utterance
        matched[utterance] = left[stem][0]
    if not matched:
        raise CorpusError(
            f"no TextGrid in {folder} belongs to an audio file: the TextGrids are called like '{next(iter(grids))}', "
            f"the audio like '{next(iter(recordings))}'; give them the same names"
        )
    return {utterance: matched[utterance] for utterance in recordings if utterance in matched}


def _transcripts(files: list[Path], source: Path, recordings: dict[str, Path]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for suffix in TRANSCRIPT_SUFFIXES:
        for identity, path in _by_id(files, source, {suffix}).items():
            if identity in recordings and identity not in texts:
                try:
                    texts[identity] = path.read_text(encoding="utf-8-sig").strip()
                except UnicodeDecodeError as error:
                    raise CorpusError(f"the transcript {path} is not UTF-8: save it as UTF-8 text") from error
    return texts
