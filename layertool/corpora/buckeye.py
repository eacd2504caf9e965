"""The Buckeye corpus: 40 people of Columbus, Ohio, in conversation, with phones and words by hand.

Its layout: s01/s0101a.wav with .words, .phones, .txt and .log (in a folder s0101a of its own or not), each some ten
minutes. Label files are those of xlabel: a header up to a line with #, then 'end colour label', the ends in seconds
from 0.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from layertool import audio
from layertool.corpora import label_files
from layertool.corpora.alignments import Progress, Stretch, Voice, read_all
from layertool.corpora.corpus import Corpus
from layertool.corpora.labels import USUAL, Rules
from layertool.corpora.segments import Entry
from layertool.corpora.source_files import files_below, unread, without
from layertool.corpora.texts import read_text
from layertool.errors import CorpusError, UsageError
from layertool.geometry import SAMPLE_RATE, seconds_to_samples

# Pitt et al. 2007, Buckeye Corpus of Conversational Speech, the table of speakers: gender, age (young: under 30, old:
# over 40), and the gender of the interviewer.
_SPEAKERS = """
    s01 f y f  s02 f o m  s03 m o m  s04 f y f  s05 f o f  s06 m y f  s07 f o f  s08 f y f  s09 f y f  s10 m o f
    s11 m y m  s12 f y m  s13 m y f  s14 f o f  s15 m y m  s16 f o m  s17 f o m  s18 f o f  s19 m o f  s20 f o f
    s21 f y m  s22 m o f  s23 m o m  s24 m o m  s25 f o m  s26 f y f  s27 f o m  s28 m y m  s29 m o f  s30 m y m
    s31 f y m  s32 m y f  s33 m y f  s34 m y m  s35 m o m  s36 m o f  s37 f y m  s38 m o m  s39 f y m  s40 m y f
""".split()
_IN_WORDS = {"f": "female", "m": "male", "y": "young", "o": "old"}
SPEAKERS = {
    _SPEAKERS[k]: {
        "gender": _IN_WORDS[_SPEAKERS[k + 1]],
        "age": _IN_WORDS[_SPEAKERS[k + 2]],
        "interviewer_gender": _IN_WORDS[_SPEAKERS[k + 3]],
    }
    for k in range(0, len(_SPEAKERS), 4)
}
_PIECES = {"word": ".words", "phone": ".phones"}


def read(
    source: Path | str,
    pause: float = 0.5,
    whole_files: bool = False,
    rules: Rules = USUAL,
    name: str | None = None,
    progress: Progress | None = None,
    max_failures: int = 0,
) -> Corpus:
    """Make a corpus of Buckeye, or of a part of its folders.

    An utterance is a stretch of the interviewee's words that no ``pause`` (seconds of silence, noise or interviewer)
    parts: ``s0101a-001`` with its start and end in the file. With ``whole_files`` it is the file, ``s0101a``.
    Columns: speaker (s01), track (s0101a), gender, age (young, old), interviewer_gender, and text from the words.
    Segments: the tiers word (.words) and phone (.phones). What is written in <> or {}, and phones in capitals but
    SIL, are no speech and left out, unless ``rules`` keeps labels as they are. Lines that end before the line above
    them are left out and counted in ``provenance["lines_that_run_backwards"]``. Raises UsageError, CorpusError or
    AudioError.
    """
    if not pause > 0:
        raise UsageError(f"a pause of {pause:g} s parts nothing: give --pause more than 0")
    source = Path(source)
    files = files_below(source)
    tracks: dict[str, dict[str, Path]] = {}
    for path in files:
        if re.fullmatch(r"s\d{4}[a-z]", path.stem, re.IGNORECASE):
            own = tracks.setdefault(path.stem.lower(), {})
            kind = ".wav" if path.suffix.lower() in audio.SUFFIXES else path.suffix.lower()
            if kind in own and kind in (".wav", *_PIECES.values()):
                raise CorpusError(f"{own[kind]} and {path} are of the same recording: move one of them away")
            own[kind] = path
    spoken = {track: own for track, own in sorted(tracks.items()) if ".wav" in own}
    if not spoken:
        packed = any(path.suffix.lower() == ".zip" for path in files)
        raise CorpusError(
            f"{source} has no audio of the Buckeye corpus: {'unpack its .zip files; ' if packed else ''}the layout "
            "is SPEAKER/TRACK.wav, as in s01/s0101a.wav, with .words and .phones beside it"
        )
    backwards: Counter[str] = Counter()
    found = read_all(
        {track: partial(_voices, track, own, rules.raw, backwards) for track, own in spoken.items()},
        progress,
        max_failures,
    )
    table = pd.DataFrame(
        [
            {"utterance": track, "audio": str(own[".wav"]), "speaker": track[:3], "track": track}
            | SPEAKERS.get(track[:3], {})
            for track, own in spoken.items()
        ]
    )
    segments = found.segments
    if not whole_files:
        table, segments = _cut(table[~table["utterance"].isin(found.unusable)], segments, pause)
        if table.empty:
            raise CorpusError(
                f"no recording in {source} has words: put .words files beside the audio, or take --whole-files"
            )
    provenance = {
        "reader": "buckeye",
        "source": str(source.resolve()),
        "recordings": len(spoken),
        "utterances_are": "whole files" if whole_files else f"stretches between pauses of {pause:g} s",
        **without(spoken, _PIECES.values()),
        "lines_that_run_backwards": dict(backwards),
        "notes": unread(files, source, {path for own in spoken.values() for path in own.values()}),
    }
    return Corpus.build(table, segments, name or "buckeye", provenance, max_failures, found.unusable, rules=rules)


def is_spoken(tier: str, label: str) -> bool:
    """Whether a label is a word or a phone of the interviewee: not <SIL>, {B_TRANS}; of phones, not SIL or VOCNOISE
    either."""
    return bool(label) and label[0] not in "<{" and (tier == "word" or not label.isupper())


def _voices(track: str, own: dict[str, Path], raw: bool, backwards: Counter[str]) -> list[Voice]:
    tiers: dict[str, tuple[Stretch | None, list[Entry]]] = {}
    for tier, kind in _PIECES.items():
        if kind not in own:
            continue
        lines = label_files.xlabel(read_text(own[kind]))
        if lines is None:
            raise CorpusError(
                f"{own[kind]} is no label file of Buckeye: a header, a line with #, then lines 'end colour label'; "
                "restore it"
            )
        entries, before = [], 0.0
        for end, text in lines:
            label = text.replace("+1", "") if tier == "phone" else text
            if end < before:  # s1603b begins with one, s2801a has another
                backwards[track] += 1
                continue
            if raw or is_spoken(tier, label) or (tier == "phone" and label == "SIL"):
                entries.append((before, end, label))
            before = end
        tiers[tier] = (None, entries)
    return [Voice(None, tiers)]


def _cut(tracks: pd.DataFrame, segments: pd.DataFrame, pause: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The stretches of words between pauses as utterances, and the segments whose middle is in one, in time from
    its start."""
    rows, parts = [], []
    of_track = dict(list(segments.groupby("utterance", sort=False)))
    for track in tracks.to_dict("records"):
        own = of_track.get(track["utterance"], segments[:0])
        # the cut is at whole samples, so that what is left of the times is exact
        begins, ends = (seconds_to_samples(times) / SAMPLE_RATE for times in _stretches(own, pause))
        ids = [f"{track['utterance']}-{k:03}" for k in range(1, len(begins) + 1)]
        rows += [track | {"utterance": one, "start": a, "end": b} for one, a, b in zip(ids, begins, ends, strict=True)]
        middles = (own["start"].to_numpy() + own["end"].to_numpy()) / 2
        which = np.searchsorted(begins, middles, side="right") - 1
        inside = (which >= 0) & (middles < np.append(ends, 0.0)[which])
        kept, which = own[inside], which[inside]
        parts.append(
            kept.assign(
                utterance=np.array(ids, dtype=object)[which],
                start=np.maximum(kept["start"], begins[which]) - begins[which],
                end=np.minimum(kept["end"], ends[which]) - begins[which],
            )
        )
    return pd.DataFrame(rows), pd.concat(parts, ignore_index=True) if parts else segments[:0]


def _stretches(own: pd.DataFrame, pause: float) -> tuple[np.ndarray, np.ndarray]:
    """First and last second of each stretch of words (without words: of phones) that no ``pause`` parts."""
    for tier in _PIECES:
        labels = own.loc[own["tier"] == tier, "label"]
        spoken = own.loc[labels.index[labels.map(partial(is_spoken, tier)).astype(bool)]]
        if len(spoken):
            break
    starts, ends = spoken["start"].to_numpy(), spoken["end"].to_numpy()
    parted = np.flatnonzero(starts[1:] - ends[:-1] >= pause) + 1
    return starts[np.append(0, parted)[: len(starts)]], ends[np.append(parted, len(ends))[: len(ends)] - 1]
