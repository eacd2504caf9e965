"""Label files of one line a label: HTK, TIMIT, xlabel (Festival, Buckeye), Audacity, NIST's CTM, HTK's MLF.

Which of them a file is shows in its lines, not in its name: ``.lab`` is HTK's, Festival's, and what the Montreal Forced
Aligner calls a transcript; ``.txt`` is TIMIT's, Audacity's, and everybody's transcript.

    HTK        0 3200000 sil                start and end in units of 100 ns
    TIMIT      0 2260 h#                    start and end in samples
    seconds    0.00 0.32 sil                start and end with decimal points (Audacity)
    xlabel     #                            a header up to a line with #, then
               0.320000  125 sil            only the end: a label begins where the one before it ends
    CTM        a0001 1 0.32 0.21 she 0.98   recording, channel, start, duration, word; the confidence if it is there
    MLF        #!MLF!#                      HTK's lines of many recordings, each below its name and above a point
               "*/a0001.lab"
               0 3200000 sil
               .
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path, PurePosixPath

from layertool import audio
from layertool.corpora.alignments import Stretch, Voice
from layertool.corpora.segments import Entry
from layertool.corpora.texts import read_text
from layertool.errors import AudioError, CorpusError
from layertool.geometry import END_TOLERANCE, SAMPLE_RATE
from layertool.spelling import nfc

# Our tier of each suffix; of two files of a tier the first here is taken.
TIERS = {
    ".phn": "phone",
    ".phones": "phone",
    ".phone": "phone",
    ".wrd": "word",
    ".words": "word",
    ".word": "word",
    ".lab": "phone",
    ".ctm": "word",  # these two: or as their names say
    ".mlf": "phone",
}
OF_MANY = (".ctm", ".mlf")  # files of many recordings
TRANSCRIPTS = (".lab", ".txt")  # these are transcripts unless they are label files; of two the first is taken
_HTK_RATE = 10_000_000  # units of time per second
_NUMBER = r"(-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)"
_TIME = _NUMBER.replace(r"\.\d*", r"\.\d*|,\d+")  # Audacity writes what the language of the system does
_LINE = re.compile(rf"{_TIME}\s+{_TIME}(?:\s+(.*))?")
_XLABEL_LINE = re.compile(rf"{_NUMBER}\s+-?\d+(?:\s+(.*))?")
_HTK_LABEL = re.compile(rf"(\S+)\s+{_NUMBER}(?:\s.*)?")  # a score, and what is above the label, may follow it
# TextGrids, subtitles and XML, whatever their suffix
_OF_ANOTHER_KIND = re.compile(r"ooTextFile|\d:\d\d[.,]\d+ +-->|\A<\?xml")
_LEAST_SHARE = 0.2  # of the audio is behind the last label of "1 2 buckle my shoe", read as times


def voices(files: Mapping[str, Path], recording: Path) -> list[Voice]:
    """The labels of one recording from a label file for each tier; none where the audio cannot be read.

    Raises CorpusError for what is no label file.
    """
    tiers: dict[str, tuple[Stretch | None, list[Entry]]] = {}
    for tier, path in files.items():
        entries: list[Entry] | None
        if path.suffix.lower() in OF_MANY:
            entries = _own(of_many(path), path)
        else:
            try:
                entries = times(read_text(path), path, recording)
            except AudioError:  # told when the corpus is built
                return []
        if entries is None:
            raise CorpusError(
                f"{path} is no label file: its lines are neither 'start end label' (in samples, units of 100 ns or "
                "seconds) nor, below a line with #, 'end number label'; correct it or take it away"
            )
        tiers[tier] = (None, entries)
    return [Voice(None, tiers)]


def times(text: str, path: Path, recording: Path) -> list[Entry] | None:
    """The labels that ``text``, read from ``path``, holds, in seconds; None where it is no label file.

    Whole numbers are samples in files that are called like TIMIT's, else whatever of samples and units of 100 ns fits
    the length of ``recording``. A ``.lab`` or ``.txt`` that only looks like labels (``1 2 buckle my shoe``) is none.
    Raises AudioError where the length is needed and cannot be found out.
    """
    if (ends := xlabel(text)) is not None:
        starts = [0.0, *(end for end, _ in ends)]
        return [(start, end, label) for start, (end, label) in zip(starts, ends, strict=False)]
    rows = spans(text)
    if not rows:
        return None
    suffix = path.suffix.lower()
    info = audio.probe(recording)
    in_seconds = any("." in time for row in rows for time in row[:2])
    rates = [1] if in_seconds else [_HTK_RATE, info.sample_rate] if suffix == ".lab" else [info.sample_rate, _HTK_RATE]
    if suffix == ".lab" and not in_seconds and len(rows) > 1:
        rows = [(start, end, _htk_label(label)) for start, end, label in rows]
    entries = [(float(start), float(end), label) for start, end, label in rows]
    rate = rates[0]
    if suffix in TRANSCRIPTS:
        seconds = info.n_frames / info.sample_rate
        last = max(end for _, end, _ in entries)
        runs_on = len(rows) > 1 and all(before[1] == after[0] for before, after in pairwise(entries))
        rates += [1] if runs_on else []  # whole seconds
        fitting = [r for r in rates if _LEAST_SHARE * seconds <= last / r <= seconds + END_TOLERANCE / SAMPLE_RATE]
        # Audacity, which alone has labels that are one and do not begin at 0, writes tabs: "3.5 4.5 per cent" is a text
        is_decimal = len(rows) > 1 and all("." in start for start, _, _ in rows)  # of whatever program: no text
        is_text = len(rows) == 1 and entries[0][0] != 0 and "\t" not in text
        if is_text or not (fitting or runs_on or is_decimal):
            return None
        rate = (fitting or rates)[0]
    return [(start / rate, end / rate, label) for start, end, label in entries]


def transcript(text: str, path: Path, recording: Path, beside_labels: bool) -> str | None:
    """What ``text``, read from ``path``, says was spoken in ``recording``; None where it is a label file.

    TIMIT's transcripts begin with the numbers of the first sample, 0, and the last: they are cut where these fit the
    recording, or where labels of TIMIT's kind lie beside it (``beside_labels``).
    """
    if _OF_ANOTHER_KIND.search(text):
        return None
    rows = spans(text) or []
    is_timit = len(rows) == 1 and (path.suffix.lower() == ".txt" or " " in rows[0][2])
    if is_timit and beside_labels and rows[0][0] == "0":
        return rows[0][2]
    try:
        is_labels = times(text, path, recording) is not None
    except AudioError:  # told when the corpus is built
        is_labels = False
    if not is_labels:
        return text.strip()
    return rows[0][2] if is_timit else None


def spans(text: str) -> list[tuple[str, str, str]] | None:
    """Start, end and label of each line; None where a line is not of this kind."""
    lines = (line.strip() for line in text.split("\n") if not line.startswith("\\"))  # Audacity: of which frequencies
    fits = [_LINE.fullmatch(line) for line in lines if line]
    if not all(fits):
        return None
    return [(fit[1].replace(",", "."), fit[2].replace(",", "."), fit[3] or "") for fit in fits if fit]


def xlabel(text: str) -> list[tuple[float, str]] | None:
    """End (seconds) and label of each line below the header; None where there is none, or a line of another kind.

    Of a line with several fields (``okay; ow k ey; k ay; UH``) the label is the first.
    """
    lines = [line.strip() for line in text.split("\n")]
    if "#" not in lines:
        return None
    fits = [_XLABEL_LINE.fullmatch(line) for line in lines[lines.index("#") + 1 :] if line]
    if not all(fits):
        return None
    return [(float(fit[1]), (fit[2] or "").partition(";")[0].strip()) for fit in fits if fit]


def of_many(path: Path) -> dict[str, list[Entry]]:
    """The labels of each recording that a CTM or MLF file names. Raises CorpusError for lines of another kind."""
    return _from_mlf(path) if path.suffix.lower() == ".mlf" else _from_ctm(path)


def _from_mlf(path: Path) -> dict[str, list[Entry]]:
    """Of an MLF file those with times; others are transcripts."""
    _, *parts = re.split(r'^"(.*)"[ ]*$', read_text(path), flags=re.MULTILINE)
    found: dict[str, list[Entry]] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        rows = spans("\n".join(line for line in body.split("\n") if line.strip() != "."))
        if rows:
            found[nfc(PurePosixPath(name).stem)] = [
                (float(start) / _HTK_RATE, float(end) / _HTK_RATE, _htk_label(label)) for start, end, label in rows
            ]
    return found


def _htk_label(text: str) -> str:
    """The label of what follows the times in HTK: a score, and labels of higher levels, may stand behind it."""
    fit = _HTK_LABEL.fullmatch(text)
    return fit[1] if fit else text


def _from_ctm(path: Path) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    channels: dict[str, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        fields = line.split()
        if not fields or line.startswith(";;"):
            continue
        try:
            name, channel, start, duration, label = fields[:5]
            name = nfc(name)
            entry = (float(start), float(start) + float(duration), label)
        except ValueError as error:
            raise CorpusError(
                f"{path}, line {number}, is not 'recording channel start duration word': correct it or take it away"
            ) from error
        if channels.setdefault(name, channel) != channel:
            raise CorpusError(
                f"{path}, line {number}: '{name}' has the channels {channels[name]} and {channel}, an utterance is one "
                "of them: write a file for each channel"
            )
        found.setdefault(name, []).append(entry)
    return found


def tier_of(path: Path) -> str:
    """The tier that a label file is read as: by its suffix; a file of many recordings by its name first
    (phones.ctm)."""
    suffix = path.suffix.lower()
    named = [tier for tier in ("phone", "word") if suffix in OF_MANY and tier in path.stem.lower()]
    return named[0] if named else TIERS[suffix]


def _own(found: Mapping[str, list[Entry]], path: Path) -> list[Entry]:
    """The labels of the CTM or MLF file beside a recording: those of its only recording, or of that with its name."""
    if len(found) == 1:
        return next(iter(found.values()))
    stem = nfc(path.stem)
    if stem not in found:
        raise CorpusError(
            f"{path} has labels of {len(found)} recordings, but of none called '{stem}': correct the names in it"
        )
    return found[stem]
