"""Labelled segments from Praat TextGrids.

The files go through praatio's parser only. ``praatio.textgrid.openTextgrid`` refuses a whole file
for one interval of zero length, or for two that overlap by a rounding error (0.30000000000000004
and 0.3), even in a tier that nobody asked for; and it reads a file that breaks off as if it ended
there.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from layertool.corpora.corpus import SEGMENT_COLUMNS
from layertool.errors import CorpusError
from layertool.spelling import nfc

MFA_TIERS = {"word": "words", "phone": "phones"}  # the names that the Montreal Forced Aligner gives

Progress = Callable[[int, int], None]  # called with (files read, files in all)

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_N_TIERS = re.compile(r"<exists>\s+(?:size\s*=\s*)?(\d+)")
_TIER_HEADER = re.compile(
    r'"(?:IntervalTier|TextTier)"\s+(?:name\s*=\s*)?"(?:[^"]|"")*"\s+(?:xmin\s*=\s*)?\S+\s+(?:xmax\s*=\s*)?\S+\s+'
    r"(?:(?:intervals|points)\s*:\s*size\s*=\s*)?(\d+)"
)
_FIELD = r"^(\s*(?:(?:xmin|xmax|number)\s*=\s*)?"  # a time alone in its line, of the long or the short form
_EXPONENT = re.compile(_FIELD + r"-?)(\d[\d.]*[eE][-+]?\d+)\s*?$", re.MULTILINE)
_NEGATIVE_TIME = re.compile(_FIELD + r")-[\d.]*[1-9][\d.]*\s*?$", re.MULTILINE)


def read_segments(path: Path | str, tiers: Mapping[str, str] | None = None) -> list[dict]:
    """The labelled intervals of one TextGrid: dicts with tier, start, end (seconds) and label.

    ``tiers`` maps our tier names to those in the file and then each of them must be there; without
    it the Montreal Forced Aligner's ``words`` and ``phones`` are read, of which one may be missing.
    A tier of one speaker (``Mary - words``) is found by its last part when there is only one.
    Labels are those of the file, and intervals without one are left out: what is done to labels depends
    on all of a corpus (``labels.Rules``).
    Order: tier by tier as in ``tiers``, then as in the file. Zero-length and overlapping intervals
    are kept as they stand. Raises CorpusError for a tier that is missing or stands twice, and for a
    file that is damaged, cut short or no TextGrid.
    """
    path = Path(path)
    parsed = _parse(path)
    wanted = tiers or MFA_TIERS
    found = {tier: _find(parsed, tier, name, path) for tier, name in wanted.items()}
    missing = [tier for tier, entries in found.items() if entries is None]
    if missing and (tiers or len(missing) == len(wanted)):
        raise CorpusError(
            f"{path} has no interval tier {' or '.join(repr(wanted[tier]) for tier in missing)} "
            f"(tiers there: {_names(parsed)}): say which to take with "
            + " or ".join(f"--tier {tier}=NAME" for tier in missing)
        )
    segments = []
    for tier, entries in found.items():
        for start, end, label in entries or ():
            if label and not label.isspace():
                segments.append({"tier": tier, "start": start, "end": end, "label": label})
    return segments


def read_all(
    files: Mapping[str, Path],
    tiers: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, dict]:
    """The segments of many utterances with the labels of the files, and what to note of them in the provenance of a corpus.

    ``files``: utterance id to TextGrid. Returns a table with the columns of ``Corpus.segments``, and
    ``textgrids`` (how many) and, where some files lack a tier that others have, ``textgrids_without_tier`` (how many, by tier).
    """
    utterances, names, kept = [], [], []
    starts, ends = array("d"), array("d")  # columns, not dicts: LibriSpeech has 40 million segments
    n_with: dict[str, int] = {}
    for n_read, (utterance, path) in enumerate(files.items(), start=1):
        here = set()
        for segment in read_segments(path, tiers):
            tier = sys.intern(segment["tier"])
            here.add(tier)
            utterances.append(utterance)
            names.append(tier)
            starts.append(segment["start"])
            ends.append(segment["end"])
            kept.append(sys.intern(segment["label"]))
        for tier in here:
            n_with[tier] = n_with.get(tier, 0) + 1
        if progress:
            progress(n_read, len(files))
    table = pd.DataFrame(dict(zip(SEGMENT_COLUMNS, (utterances, names, starts, ends, kept), strict=True)))
    notes: dict = {"textgrids": len(files)}
    without = {tier: len(files) - n for tier, n in sorted(n_with.items()) if n < len(files)}
    if without:
        notes["textgrids_without_tier"] = without
    return table, notes


def _parse(path: Path) -> list[dict]:
    """The tiers of a TextGrid: dicts with name, class and entries (start, end, label) or (time, label)."""
    from praatio.utilities.errors import PraatioException
    from praatio.utilities.textgrid_io import parseTextgridStr

    text = _read_text(path)
    if "ooTextFile" not in text or '"TextGrid"' not in text:
        raise CorpusError(
            f"{path} is no TextGrid in text form: open it in Praat and save it with 'Save as text file...'"
        )
    if "-" in text:  # in files of the long form, praatio takes 5.55e-17 for damage and -0.5 for 0.5
        text = _EXPONENT.sub(lambda field: f"{field[1]}{float(field[2]):.9f}", text)
        if _NEGATIVE_TIME.search(text):
            raise CorpusError(f"{path} has a negative time: shift its tiers so that they begin with the audio, at 0")
    try:
        tiers = parseTextgridStr(text, includeEmptyIntervals=True)["tiers"]
        for tier in tiers:
            tier["name"] = nfc(tier["name"])
            tier["entries"] = [(*map(float, entry[:-1]), entry[-1]) for entry in tier["entries"]]
    except (PraatioException, ValueError, IndexError) as error:
        reason = f" ({error})" if str(error) else ""
        raise CorpusError(f"{path} is damaged or no TextGrid{reason}: export it again or take it away") from error
    n_tiers = _N_TIERS.search(text)
    promised = [int(n) for n in _TIER_HEADER.findall(text)]
    if promised != [len(tier["entries"]) for tier in tiers] or (n_tiers and int(n_tiers.group(1)) != len(tiers)):
        raise CorpusError(
            f"{path} is damaged or cut short (its tiers and intervals are not as many as it announces): "
            "export it again or take it away"
        )
    return tiers


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from error
    try:
        text = content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not in UTF-8 or UTF-16: save it as text in one of them") from error
    # praatio drops the last interval of a short-form file without a final newline
    return text.replace("\r\n", "\n").replace("\r", "\n") + "\n"


def _find(parsed: list[dict], tier: str, name: str, path: Path) -> list[tuple] | None:
    """Entries of the interval tier called ``name`` or ``SPEAKER - name``; None when there is none."""
    intervals = [t for t in parsed if t["class"] == "IntervalTier"]
    name = nfc(name)
    matches = [t for t in intervals if t["name"] == name] or [t for t in intervals if t["name"].endswith(f" - {name}")]
    if len(matches) > 1:
        names = sorted({t["name"] for t in matches})
        remedy = f"say which to take with --tier {tier}='{names[0]}'" if len(names) > 1 else "rename one of them"
        raise CorpusError(f"{path} has {len(matches)} tiers for '{name}' ({', '.join(names)}): {remedy}")
    return matches[0]["entries"] if matches else None


def _names(parsed: list[dict]) -> str:
    names = [repr(t["name"]) + ("" if t["class"] == "IntervalTier" else " with points") for t in parsed]
    return ", ".join(names) or "none"
