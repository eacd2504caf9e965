"""The files of a source folder: which there are, what each is called, and which of them nobody reads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from layertool import audio
from layertool.audio_files import conversion
from layertool.corpora import label_files
from layertool.errors import CorpusError
from layertool.spelling import is_text, nfc

# Kinds of audio, and of video with audio, that libsndfile does not read.
UNREADABLE = frozenset(
    ".m4a .m4b .m4v .mp4 .aac .adts .amr .awb .3gp .3g2 .wma .asf .wmv .webm .weba .mkv .mka .mov .avi .flv .mpg .mpeg "
    ".mp1 .mp2 .m2a .mpa .m4r .3ga .ogv .vob .ts .mts .m2ts .f4v .aa .aax .sd2 "
    ".ac3 .eac3 .dts .ape .wv .tta .mpc .spx .shn .ra .rm .qcp .gsm .dss .ds2 .raw .pcm .vox .voc .snd .aifc .wv1 "
    ".wv2".split()
)
# Labels and transcripts of kinds that no reader knows; others are named where they are called like a recording.
_OTHER_LABELS = frozenset(".eaf .ctm .mlf .srt .vtt .stm .rttm .trs .cha .antx .lbl .sbv .ass .par".split())
# What is read where it is called like its audio; of .txt only what may be a transcript is named.
_BESIDE_AUDIO = {*label_files.TIERS, *label_files.TRANSCRIPTS}
_SHOWN = 5  # kinds that a note names


def require_folder(folder: Path) -> None:
    """Raise CorpusError for what is no folder."""
    if not folder.is_dir():
        raise CorpusError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: check the path")


def files_below(folder: Path) -> list[Path]:
    """All files below ``folder`` in sorted order, through links to folders but never twice through one folder."""
    require_folder(folder)
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


def identity(path: Path, root: Path) -> str:
    """The id of a file: its path below ``root`` without suffix, in composed letters (file names of a Mac are not)."""
    below = str(path).removeprefix(f"{root}{os.sep}")  # pathlib takes ten times as long, for each of 100 000 files
    if not is_text(below):
        raise CorpusError(f"{path} has a name that is not text in UTF-8: rename it")
    return nfc(os.path.splitext(below)[0].replace(os.sep, "/"))


def by_id(files: Iterable[Path], root: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The files with one of ``suffixes`` (in any case) by their ``identity``, in order of it. Raises CorpusError."""
    found: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() in suffixes:
            one = identity(path, root)
            if one in found:
                raise CorpusError(f"{found[one]} and {path} would both be the utterance '{one}': move one of them away")
            found[one] = path
    return dict(sorted(found.items()))


def beside(files: Iterable[Path], root: Path, recordings: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """The other files that are called like a recording, by its id and their suffix in small letters."""
    found: dict[str, dict[str, Path]] = {}
    for path in files:
        one = identity(path, root)
        if one in recordings and path != recordings[one]:
            found.setdefault(one, {}).setdefault(path.suffix.lower(), path)
    return found


def without(recordings: Mapping[str, Mapping[str, Path]], kinds: Iterable[str]) -> dict[str, int]:
    """How many recordings, of each with its files by their kinds, lack a file of each kind, for the provenance."""
    return {f"without_{kind[1:]}": sum(kind not in own for own in recordings.values()) for kind in kinds}


def unread(files: Sequence[Path], root: Path, read: Collection[Path], recordings: Collection[str] = ()) -> list[str]:
    """Sentences on what was passed over: audio that cannot be read, labels, and whatever is called like a recording.

    ``read``: the files that it read. ``recordings``: ids of its audio, where it looks for files beside it.
    """
    unreadable, others, astray = [], [], []
    names = {one.rpartition("/")[2] for one in recordings}
    for path in files:
        if path in read:
            continue
        suffix = path.suffix.lower()
        if recordings and identity(path, root) in recordings:
            others.append(path)
        elif suffix in UNREADABLE:
            unreadable.append(path)
        elif suffix in _OTHER_LABELS:
            others.append(path)
        elif (
            names
            and suffix in _BESIDE_AUDIO
            and (
                suffix != ".txt"
                or nfc(path.stem) in names
                or "trans" in path.stem.lower()  # AISHELL has one file of them
            )
        ):
            astray.append(path)
    if astray:  # what belongs to audio that is left out is left out with it
        of_audio = {identity(path, root) for path in files if path.suffix.lower() in audio.SUFFIXES}
        astray = [path for path in astray if identity(path, root) not in of_audio]
    notes = []
    if unreadable:
        notes.append(
            f"left out: {_counted(unreadable)}, audio of kinds that cannot be read, the first {unreadable[0]}: "
            f"convert it with '{conversion(unreadable[0])}'"
        )
    if others:
        notes.append(
            f"not read: {_counted(others)} beside the audio, the first {others[0]}: labels are read from TextGrids, "
            "else from .phn, .wrd, .lab, .words, .phones or .ctm (--tier phone=.phn takes these first), text from "
            ".lab or "
            ".txt"
        )
    if astray:
        notes.append(
            f"not read: {_counted(astray)} without audio of that name in the same folder, the first {astray[0]}: put "
            "labels "
            "and transcripts beside their audio, or make a table of the texts and give it with --metadata"
        )
    return notes


def _counted(files: Collection[Path]) -> str:
    """12 .m4a and 3 .webm files."""
    counts = Counter(path.suffix.lower() or path.name for path in files).most_common()
    parts = [f"{n} {suffix}" for suffix, n in counts[:_SHOWN]]
    rest = sum(n for _, n in counts[_SHOWN:])
    return f"{', '.join(parts)}{f' and {rest} other' if rest else ''} file{'s' if len(files) > 1 else ''}"
