"""The files of a source folder: which there are, what each is called, and which of them nobody reads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from layertool.audio_files import conversion
from layertool.errors import CorpusError
from layertool.spelling import nfc

# Kinds of audio, and of video with audio, that libsndfile does not read.
UNREADABLE = frozenset(
    ".m4a .m4b .m4v .mp4 .aac .adts .amr .awb .3gp .3g2 .wma .asf .wmv .webm .weba .mkv .mka .mov .avi .flv .mpg .mpeg "
    ".ac3 .eac3 .dts .ape .wv .tta .mpc .spx .shn .ra .rm .qcp .gsm .dss .ds2 .raw .pcm .vox .voc .snd .aifc .wv1 .wv2".split()
)
# Labels and transcripts of kinds that no reader knows; others are named where they are called like a recording.
_OTHER_LABELS = frozenset(".eaf .ctm .mlf .srt .vtt .stm .rttm .trs .cha .antx .lbl .sbv .ass .par".split())
_SHOWN = 5  # kinds that a note names


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


def identity(path: Path, root: Path) -> str:
    """The id of a file: its path below ``root`` without suffix, in composed letters (file names of a Mac are not)."""
    below = str(path).removeprefix(f"{root}{os.sep}")  # pathlib takes ten times as long, for each of 100 000 files
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


def unread(files: Iterable[Path], root: Path, read: Collection[Path], recordings: Collection[str] = ()) -> list[str]:
    """Sentences on what a reader passed over: audio that cannot be read, and labels or whatever is called like a recording.

    ``read``: the files that it read. ``recordings``: ids of its audio.
    """
    audio, others = [], []
    for path in files:
        if path in read:
            continue
        suffix = path.suffix.lower()
        if recordings and identity(path, root) in recordings:
            others.append(path)
        elif suffix in UNREADABLE:
            audio.append(path)
        elif suffix in _OTHER_LABELS:
            others.append(path)
    notes = []
    if audio:
        notes.append(
            f"left out: {_counted(audio)}, audio of kinds that cannot be read, the first {audio[0]}: "
            f"convert it with '{conversion(audio[0])}'"
        )
    if others:
        notes.append(
            f"not read: {_counted(others)} beside the audio, the first {others[0]}: labels are read from TextGrids, "
            "else from .phn, .wrd, .lab, .words, .phones or .ctm (--tier phone=.phn takes these first), text from .lab or .txt"
        )
    return notes


def _counted(files: Collection[Path]) -> str:
    """12 .m4a and 3 .webm files."""
    counts = Counter(path.suffix.lower() or path.name for path in files).most_common()
    parts = [f"{n} {suffix}" for suffix, n in counts[:_SHOWN]]
    rest = sum(n for _, n in counts[_SHOWN:])
    return f"{', '.join(parts)}{f' and {rest} other' if rest else ''} file{'s' if len(files) > 1 else ''}"
