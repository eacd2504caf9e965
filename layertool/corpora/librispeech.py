"""LibriSpeech (openslr.org/12), with forced alignments if there are any (spec 2.1, 2.2)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from layertool.corpora import textgrid
from layertool.corpora.alignments import Progress, read_all
from layertool.corpora.corpus import Corpus
from layertool.corpora.labels import USUAL, Rules
from layertool.corpora.source_files import require_folder, unread
from layertool.corpora.texts import read_text
from layertool.errors import CorpusError

LAYOUT = "SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE{0}, as in dev-clean/84/121123/84-121123-0000{0}"
FLAC = LAYOUT.format(".flac")


def read(
    source: Path | str,
    alignments: Path | str | None = None,
    splits: Sequence[str] | None = None,
    rules: Rules = USUAL,
    name: str | None = None,
    progress: Progress | None = None,
    max_failures: int = 0,
) -> Corpus:
    """Make a corpus of LibriSpeech splits.

    ``source``: the folder with the splits, the one above it (the archives unpack to
    ``LibriSpeech/``), or one split. ``splits``: names of the splits to take (default: all). Order:
    split, speaker and chapter as numbers, utterance. Columns: split, speaker, chapter, gender (when
    SPEAKERS.TXT is beside the splits) and text (lower case). ``alignments``: a folder laid out like
    ``source`` with one TextGrid per utterance (Lugosch et al. 2019, zenodo record 2619474);
    without it they are looked for beside the audio; ``rules``: what is done to labels. Utterances without a TextGrid
    are kept and counted in ``provenance["without_textgrid"]``. Raises CorpusError or AudioError.
    """
    source = Path(source)
    root, there = _locate(source, ".flac")
    chosen = sorted({splits} if isinstance(splits, str) else set(splits or there))
    if unknown := [split for split in chosen if split not in there]:
        raise CorpusError(f"{source} has no split '{unknown[0]}': choose from {', '.join(there)}")
    speakers = root / "SPEAKERS.TXT"
    genders = _genders(speakers) if speakers.exists() else None
    rows: list[dict] = []
    others: list[Path] = []
    n_silent = sum(_chapter(chapter, rows, others, genders) for s in chosen for chapter in _chapters(root / s))
    if not rows:
        raise CorpusError(
            f"{source} has no .flac files: the layout is {FLAC}; other audio is for 'layertool corpus folder'"
        )
    grids = _textgrids(rows, None if alignments is None else Path(alignments))
    provenance: dict = {
        "reader": "librispeech",
        "source": str(root.resolve()),
        "splits": chosen,
        **({} if alignments is None else {"textgrids_from": str(Path(alignments).resolve())}),
        "textgrids": len(grids),
        "without_textgrid": len(rows) - len(grids),
        "transcripts_without_audio": n_silent,
        "notes": unread(others, root, ()),
    }
    found = read_all({one: partial(textgrid.voices, path) for one, path in grids.items()}, progress, max_failures)
    table = found.utterances(pd.DataFrame(rows), provenance)
    name = name or "librispeech-" + "+".join(chosen)
    return Corpus.build(table, found.segments, name, provenance, max_failures, found.unusable, found.stretches, rules)


def _locate(folder: Path, suffix: str) -> tuple[Path, list[str]]:
    """The folder that holds the splits, and their names, from that folder, the one above, or one split."""
    require_folder(folder)
    if _is_split(folder):
        folder = folder.resolve()  # '.' has no name
        return folder.parent, [folder.name]
    for candidates in ([folder], filter(_readable, _folders(folder))):
        splits = {root: [child.name for child in _folders(root) if _is_split(child)] for root in candidates}
        holders = [root for root in splits if splits[root]]
        if len(holders) > 1:
            raise CorpusError(
                f"{folder} holds several corpora ({', '.join(h.name for h in holders)}): give the path of one"
            )
        if holders:
            return holders[0], splits[holders[0]]
    raise CorpusError(f"{folder} is not laid out like LibriSpeech: the layout is {LAYOUT.format(suffix)}")


def _is_split(folder: Path) -> bool:
    """Whether there is a SPEAKER/CHAPTER below; lost+found beside the splits is nobody's fault."""
    return _readable(folder) and any(True for _ in _chapters(folder))


def _readable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _folders(folder: Path) -> list[Path]:
    if not _readable(folder):
        raise CorpusError(f"{folder} cannot be read: correct its permissions")
    return sorted(child for child in folder.iterdir() if child.is_dir() and child.name[0] != ".")


def _chapters(split: Path) -> Iterator[Path]:
    """The folders SPEAKER/CHAPTER of a split, in the order of these numbers."""
    for speaker in _numbered(split):
        yield from _numbered(speaker)


def _numbered(folder: Path) -> list[Path]:
    return sorted((child for child in _folders(folder) if child.name.isdecimal()), key=lambda child: int(child.name))


def _chapter(folder: Path, rows: list[dict], others: list[Path], genders: Mapping[str, str | None] | None) -> int:
    """Add the utterances of a chapter to ``rows``, other files beside the audio to ``others``.

    Returns how many transcript lines, ``61-70968-0000 HE BEGAN A CONFUSED COMPLAINT``, have no audio.
    """
    split, speaker = folder.parents[1].name, folder.parent.name
    prefix = f"{speaker}-{folder.name}"
    transcripts = folder / f"{prefix}.trans.txt"
    lines = read_text(transcripts).splitlines() if transcripts.exists() else []
    texts = {utterance: text.strip() for utterance, _, text in (line.strip().partition(" ") for line in lines)}
    texts.pop("", None)
    for path in sorted(path for path in folder.iterdir() if path.name[0] != "."):
        if path.suffix != ".flac":
            others.append(path)
            continue
        if not re.fullmatch(rf"{prefix}-\d+", path.stem):
            raise CorpusError(f"{path} is not called {prefix}-NUMBER.flac: the layout is {FLAC}")
        if path.stem not in texts:
            where = "has no line for it" if transcripts.exists() else "does not exist"
            raise CorpusError(
                f"the utterance '{path.stem}' has no transcript: {transcripts} {where}; unpack the archive again"
            )
        rows.append(
            {
                "utterance": path.stem,
                "audio": str(path),
                "split": split,
                "speaker": speaker,
                "chapter": folder.name,
                **({} if genders is None else {"gender": genders.get(speaker)}),
                "text": texts.pop(path.stem).lower(),
            }
        )
    return len(texts)


def _genders(path: Path) -> dict[str, str | None]:
    """Gender by speaker from lines ``14   | F | train-clean-360  | 25.03 | Kristin LeMoine``."""
    fields = (
        [field.strip() for field in line.split("|")]
        for line in read_text(path).splitlines()
        if not line.startswith(";")
    )
    return {field[0]: {"F": "female", "M": "male"}.get(field[1].upper()) for field in fields if len(field) > 1}


def _textgrids(rows: Sequence[Mapping], alignments: Path | None) -> dict[str, Path]:
    """TextGrid by utterance, for those that have one."""
    root = None if alignments is None else _locate(alignments, ".TextGrid")[0]
    expected = {}
    for row in rows:
        beside = Path(row["audio"]).with_suffix(".TextGrid")
        folder = beside.parent if root is None else root / row["split"] / row["speaker"] / row["chapter"]
        expected[row["utterance"]] = folder / beside.name
    grids = {utterance: path for utterance, path in expected.items() if path.exists()}
    if alignments is not None and not grids:
        raise CorpusError(
            f"{alignments} has no TextGrid for any of the {len(rows)} utterances: the first was looked for as "
            f"{next(iter(expected.values()))}"
        )
    return grids
