"""Segments of utterances: their table, its order, and whether they lie in the audio.

Columns, not rows, and categories where values repeat: LibriSpeech has 40 million segments.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from layertool import columns
from layertool.geometry import END_TOLERANCE, SAMPLE_RATE, seconds_to_samples
from layertool.spelling import nfc_values

SEGMENT_COLUMNS = ["utterance", "tier", "start", "end", "label"]
CODED = ["utterance", "tier"]  # columns with few values, kept as categories: half of the memory
BLOCK_ROWS = 1 << 13  # segments that are looked at at a time
ROUNDING = END_TOLERANCE / SAMPLE_RATE  # seconds that a label may reach beyond its utterance

Entry = tuple[float, float, str]  # start and end in seconds, label


class SegmentRows:
    """Segments as they are read, column by column."""

    def __init__(self) -> None:
        self._utterances: list[str] = []
        self._tiers: list[str] = []
        self._starts, self._ends = array("d"), array("d")
        self._labels: list[str] = []

    def add(self, utterance: str, tier: str, entries: Iterable[Entry]) -> None:
        """Labels of a tier of an utterance; without a label there is no segment."""
        entries = [entry for entry in entries if entry[2]]
        self._utterances += [utterance] * len(entries)
        self._tiers += [sys.intern(tier)] * len(entries)
        self._starts.extend(start for start, _, _ in entries)
        self._ends.extend(end for _, end, _ in entries)
        self._labels += [sys.intern(label) for _, _, label in entries]

    def table(self) -> pd.DataFrame:
        """The table, in the order in which they came."""
        values = (self._utterances, self._tiers, self._starts, self._ends, self._labels)
        return pd.DataFrame(dict(zip(SEGMENT_COLUMNS, values, strict=True)))


def no_segments() -> pd.DataFrame:
    """A table of segments without any."""
    types = ("str", "str", float, float, "str")
    return pd.DataFrame({c: pd.Series(dtype=t) for c, t in zip(SEGMENT_COLUMNS, types, strict=True)})


def blocks(n_rows: int) -> Iterator[slice]:
    """Rows [0, n_rows) in stretches of ``BLOCK_ROWS``."""
    return (slice(first, min(first + BLOCK_ROWS, n_rows)) for first in range(0, n_rows, BLOCK_ROWS))


def places(values: pd.Series, among: Sequence[str] | pd.Series) -> np.ndarray:
    """Position (n,) of each value in ``among``, where all differ, int32; -1 where it is not there."""
    coded = values.astype("category").cat
    found = np.append(pd.Index(among).get_indexer(coded.categories), -1)  # a missing value has the code -1
    return found.astype(np.int32)[coded.codes]


def coded(segments: pd.DataFrame) -> pd.DataFrame:
    """The same segments with categories, in alphabetical order, in the columns ``CODED``."""
    new = {}
    for column in CODED:
        values = segments[column]
        if not isinstance(values.dtype, pd.CategoricalDtype):
            new[column] = values.astype("category")
        elif not values.cat.categories.is_monotonic_increasing:
            new[column] = values.cat.reorder_categories(values.cat.categories.sort_values())
    return segments.assign(**new) if new else segments


def of_utterances(segments: pd.DataFrame, chosen: np.ndarray) -> pd.DataFrame:
    """The segments for which ``chosen`` holds, with the categories that are left."""
    segments = segments[chosen].reset_index(drop=True)
    return coded(segments.assign(**{column: segments[column].astype(str) for column in CODED}))


def in_order(segments: pd.DataFrame, ids: pd.Series, what: str) -> tuple[pd.DataFrame, int]:
    """Segments in the order of ``ids``, tiers and time, without those of zero length, and how many of these there
    were."""
    segments = columns.seconds(segments[SEGMENT_COLUMNS], what)
    segments = segments.assign(**{c: nfc_values(segments[c].astype(str)) for c in ("utterance", "tier", "label")})
    known = {utterance: k for k, utterance in enumerate(ids)}
    segments["_position"] = segments["utterance"].map(known).fillna(len(known))
    segments = segments.sort_values(["_position", "tier", "start", "end"], kind="stable").drop(columns="_position")
    start, end = (segments[column].where(np.isfinite(segments[column])) for column in ("start", "end"))
    zero = seconds_to_samples(end.fillna(-1)) == seconds_to_samples(start.fillna(-2))
    return segments[~zero].reset_index(drop=True), int(zero.sum())


def misplaced(segments: pd.DataFrame, owners: np.ndarray, n_samples: np.ndarray) -> dict[str, str]:
    """Utterances with segments that run backwards or do not lie in them (20 ms beyond the end pass), with reasons.

    ``owners``: position (n,) of each segment's utterance in ``n_samples``, the lengths at 16 kHz.
    """
    starts, ends = (segments[column].to_numpy(float) for column in ("start", "end"))
    backwards = ~((ends >= starts) & np.isfinite(starts) & np.isfinite(ends))  # or missing
    wrong = backwards.copy()
    for rows in blocks(len(owners)):
        forwards = ~backwards[rows]
        length, start = n_samples[owners[rows]], seconds_to_samples(np.where(forwards, starts[rows], 0))
        end = seconds_to_samples(np.where(forwards, ends[rows], 0))
        wrong[rows] |= forwards & ((start < 0) | (start >= length) | (end > length + END_TOLERANCE))
    faults = {}
    wrong_rows = np.flatnonzero(wrong)
    whose, first, counts = np.unique(owners[wrong_rows], return_index=True, return_counts=True)
    for owner, row, count in zip(whose, wrong_rows[first], counts, strict=True):
        bad = segments.iloc[row]
        faults[bad.utterance] = (
            f"utterance '{bad.utterance}', tier {bad.tier}: the segment '{bad.label}' goes from {bad.start} "
            f"to {bad.end} s; correct its times"
            if backwards[row]
            else f"utterance '{bad.utterance}' lasts {n_samples[owner] / SAMPLE_RATE:.3f} s, but its {bad.tier} "
            f"'{bad.label}' goes from {bad.start:.3f} to {bad.end:.3f} s ({count} such segments): "
            "is this the right TextGrid for this audio?"
        )
    return faults


def fit_stretches(
    segments: pd.DataFrame, stretches: pd.DataFrame, utterances: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """Segments at their times in the audio; utterances whose label files cannot be theirs, with reasons; sentences.

    ``stretches``: utterance, tier, start and end (seconds) of the time that a label file covers. Where it does not
    begin at 0 but lasts as long as the audio (a part that Praat cut out with "preserve times"), its times are shifted
    to begin at 0. Others are kept and told, but for those that begin elsewhere and do not lie in the audio: their
    times say nothing.
    """
    owners = pd.Index(utterances["utterance"]).get_indexer(stretches["utterance"])
    stretches, owners = stretches[owners >= 0], owners[owners >= 0]
    seconds = utterances["n_samples"].to_numpy()[owners] / SAMPLE_RATE
    start, end = (stretches[column].to_numpy(float) for column in ("start", "end"))
    lasting, ending = abs(end - start - seconds), abs(end - seconds)
    moved = (abs(start) > 1 / SAMPLE_RATE) & (lasting <= ROUNDING) & (lasting < ending)
    elsewhere = ~moved & (abs(start) > ROUNDING)
    lost = elsewhere & ((start < 0) | (end > seconds + ROUNDING))
    other = ~moved & ~lost & (elsewhere | (ending > ROUNDING))

    def first(which: np.ndarray) -> str:
        k = int(which.argmax())
        audio = Path(utterances["audio"].iloc[owners[k]]).name
        return (
            f"of '{stretches['utterance'].iloc[k]}' go from {start[k]:g} to {end[k]:g} s, "
            f"while {audio} lasts {seconds[k]:g} s"
        )

    def files(which: np.ndarray) -> str:
        n = stretches["utterance"][which].nunique()
        return f"the label files of {n} utterance{'s' if n > 1 else ''}"

    faults = {
        utterance: f"the labels {first(lost & (stretches['utterance'] == utterance).to_numpy())}: shift them so that "
        "they begin with the audio, or give the right label file"
        for utterance in stretches["utterance"][lost].unique()
    }
    notes = []
    if moved.any():
        notes.append(
            f"{files(moved)} do not begin at 0 but last as long as their audio, so their times were shifted "
            f"to begin at 0: those {first(moved)}"
        )
        by = pd.Series(start[moved], pd.MultiIndex.from_frame(stretches.loc[moved, CODED]))
        shift = by.reindex(pd.MultiIndex.from_frame(segments[CODED])).fillna(0).to_numpy()
        segments = segments.assign(start=segments["start"] - shift, end=segments["end"] - shift)
    if other.any():
        notes.append(
            f"{files(other)} cover another time than their audio, and their times were kept: "
            f"those {first(other)}; check that they are of this audio"
        )
    return segments, faults, notes
