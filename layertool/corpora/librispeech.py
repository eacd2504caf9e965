"""LibriSpeech (openslr.org/12), with forced alignments if there are any (spec 2.1, 2.2)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from layertool.corpora import textgrid
from layertool.corpora.alignments import Progress, read_all
from layertool.corpora.corpus import Corpus
from layertool.corpora.labels import USUAL, Rules
from layertool.corpora.source_files import unread
from layertool.errors import CorpusError

LAYOUT = "SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE{0}, as in dev-clean/84/121123/84-121123-0000{0}"
FLAC = LAYOUT.format(".flac")
GENDERS = {"F": "female", "M": "male"}


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
    without it they are looked for beside the audio; ``rules``: what is done to labels. Utterances without a TextGrid are kept and
    counted in ``provenance["without_textgrid"]``. Raises CorpusError or AudioError.
    """
    source = Path(source)
    root, there = _locate(source, ".flac")
    chosen = [splits] if isinstance(splits, str) else list(splits or there)
    unknown = [split for split in chosen if split not in there]
    if unknown:
        raise CorpusError(f"{source} has no split '{unknown[0]}': choose from {', '.join(there)}")
    utterances, n_silent = [], 0
    others: list[Path] = []
    for split in sorted(set(chosen)):
        rows, n_without_audio = _split(root / split, others)
        utterances += rows
        n_silent += n_without_audio
    if not utterances:
        raise CorpusError(
            f"{source} has no .flac files: the layout is {FLAC}; other audio is for 'layertool corpus folder'"
        )
    table = pd.DataFrame(utterances)
    provenance: dict = {"reader": "librispeech", "source": str(root.resolve()), "splits": sorted(set(chosen))}
    speakers = root / "SPEAKERS.TXT"
    if speakers.exists():
        gender = _genders(speakers)
        table["gender"] = [gender.get(speaker) for speaker in table["speaker"]]
    table = table[
        [
            column
            for column in ("utterance", "audio", "split", "speaker", "chapter", "gender", "text")
            if column in table
        ]
    ]

    grids = _textgrids(table, None if alignments is None else Path(alignments))
    if alignments is not None:
        provenance["textgrids_from"] = str(Path(alignments).resolve())
    found = read_all({one: partial(textgrid.voices, path) for one, path in grids.items()}, progress, max_failures)
    segments, named = rules.apply(found.segments)
    table, told = found.utterances(table)
    provenance |= named | {"textgrids": len(grids), "without_textgrid": len(table) - len(grids)}
    if found.without_tier:
        provenance["textgrids_without_tier"] = found.without_tier
    provenance["notes"] = [*unread(others, root, ()), *told, *named.get("notes", ())]
    provenance["transcripts_without_audio"] = n_silent
    name = name or "librispeech-" + "+".join(sorted(set(chosen)))
    return Corpus.build(
        table,
        segments,
        name=name,
        provenance=provenance,
        max_failures=max_failures,
        left_out=found.unusable,
        stretches=found.stretches,
    )


def _locate(folder: Path, suffix: str) -> tuple[Path, list[str]]:
    """The folder that holds the splits, and their names, from that folder, the one above, or one split."""
    if not folder.is_dir():
        raise CorpusError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: check the path")
    if _is_split(folder):
        folder = folder.resolve()  # '.' has no name
        return folder.parent, [folder.name]
    splits = _splits(folder)
    if splits:
        return folder, splits
    within = {child: _splits(child) for child in _folders(folder) if _readable(child)}
    holders = [child for child, splits in within.items() if splits]
    if len(holders) > 1:
        raise CorpusError(
            f"{folder} holds several corpora ({', '.join(h.name for h in holders)}): give the path of one"
        )
    if not holders:
        raise CorpusError(f"{folder} is not laid out like LibriSpeech: the layout is {LAYOUT.format(suffix)}")
    return holders[0], within[holders[0]]


def _splits(folder: Path) -> list[str]:
    return [child.name for child in _folders(folder) if _is_split(child)]


def _is_split(folder: Path) -> bool:
    """Whether there is a SPEAKER/CHAPTER below, both numbers."""
    if not _readable(folder):  # lost+found beside the splits is nobody's fault
        return False
    return any(c.name.isdecimal() for s in _folders(folder) if s.name.isdecimal() for c in _folders(s))


def _readable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def _folders(folder: Path) -> list[Path]:
    if not _readable(folder):
        raise CorpusError(f"{folder} cannot be read: correct its permissions")
    return sorted(child for child in folder.iterdir() if child.is_dir() and child.name[0] != ".")


def _numbered(folder: Path) -> list[Path]:
    return sorted((child for child in _folders(folder) if child.name.isdecimal()), key=lambda child: int(child.name))


def _split(folder: Path, others: list[Path]) -> tuple[list[dict], int]:
    """The utterances of one split, and how many transcript lines have no audio; files beside the audio go to ``others``."""
    rows, n_without_audio = [], 0
    for speaker in _numbered(folder):
        for chapter in _numbered(speaker):
            prefix = f"{speaker.name}-{chapter.name}"
            transcripts = chapter / f"{prefix}.trans.txt"
            texts = _transcripts(transcripts)
            there = sorted(path for path in chapter.iterdir() if path.name[0] != ".")
            paths = [path for path in there if path.suffix == ".flac"]
            others += [path for path in there if path.suffix != ".flac"]
            for path in paths:
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
                        "split": folder.name,
                        "speaker": speaker.name,
                        "chapter": chapter.name,
                        "text": texts[path.stem].lower(),
                    }
                )
            n_without_audio += len(texts.keys() - {path.stem for path in paths})
    return rows, n_without_audio


def _transcripts(path: Path) -> dict[str, str]:
    """Text by utterance id from lines ``61-70968-0000 HE BEGAN A CONFUSED COMPLAINT``; nothing when there is no file."""
    if not path.exists():
        return {}
    lines = (line.strip().partition(" ") for line in _lines(path))
    return {utterance: text.strip() for utterance, _, text in lines if utterance}


def _genders(path: Path) -> dict[str, str | None]:
    """Gender by speaker from lines ``14   | F | train-clean-360  | 25.03 | Kristin LeMoine``."""
    fields = ([field.strip() for field in line.split("|")] for line in _lines(path) if not line.startswith(";"))
    return {field[0]: GENDERS.get(field[1].upper()) for field in fields if len(field) > 1}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8: unpack the archive again") from error


def _textgrids(table: pd.DataFrame, alignments: Path | None) -> dict[str, Path]:
    """TextGrid by utterance, for those that have one."""
    root = None if alignments is None else _locate(alignments, ".TextGrid")[0]
    grids, expected = {}, []
    for row in table.itertuples():
        beside = Path(row.audio).with_suffix(".TextGrid")
        path = beside if root is None else root / row.split / row.speaker / row.chapter / beside.name
        expected.append(path)
        if path.exists():
            grids[row.utterance] = path
    if alignments is not None and not grids:
        raise CorpusError(
            f"{alignments} has no TextGrid for any of the {len(table)} utterances: the first was looked for as {expected[0]}"
        )
    return grids
