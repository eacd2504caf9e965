"""Training-free word segmentation: word boundaries where neighbouring frames differ most (Pasad et al. 2024, section
3.3).

Frames are z-scored, the dissimilarity of neighbours is smoothed, and its prominent peaks are boundaries (spec
layerwise.md 5.3). The change between frames i and i+1 lies halfway between their centres, and peak p of a curve
smoothed over n lies at p + (n-1)/2: for 20 ms frames of 25 ms that is 20 (p + (n-1)/2) + 22.5 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from scipy.signal import find_peaks, peak_prominences

from layertool.errors import FeatureError, UsageError
from layertool.geometry import SAMPLE_RATE

DISTANCES = ("euclidean", "cosine")
WINDOWS = (1, 2, 4, 6, 8, 16)  # frames
PROMINENCES = (0, 1e-5, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 2, 4, 6, 8, 10)
TOLERANCE = SAMPLE_RATE // 50  # samples: 20 ms, inclusive
_FRAMES_AT_ONCE = 8192


@dataclass(frozen=True)
class Cell:
    """One way to find boundaries: dissimilarity of frames, frames it is smoothed over, least prominence of a peak."""

    distance: str
    window: int
    prominence: float

    def __str__(self) -> str:
        return f"{self.distance} distance, smoothed over {self.window}, prominence {self.prominence:g}"


def grid(
    distances: Sequence[str] = DISTANCES,
    windows: Sequence[int] = WINDOWS,
    prominences: Sequence[float] = PROMINENCES,
) -> list[Cell]:
    """All combinations; the published grid has 180. Raises UsageError for a distance, window or prominence there is
    not."""
    for distance in distances:
        if distance not in DISTANCES:
            raise UsageError(f"'{distance}' is no distance of frames: choose {' or '.join(DISTANCES)}")
    if any(window < 1 for window in windows) or any(not p >= 0 for p in prominences):
        raise UsageError("a window takes 1 frame or more, a prominence 0 or more")
    return [Cell(d, n, p) for d in distances for n in windows for p in prominences]


@dataclass(frozen=True)
class Speech:
    """Frames and reference words of utterances, one after the other; all times in samples from an utterance's start.

    ``utterance`` (n_frames,): place of each frame's utterance, ascending. ``centres`` (n_frames,): of each frame, may
    be halves. ``lengths`` (n_utterances,). ``words``: (n_words, 3) utterance, start, end, in order, no silence.
    """

    utterance: np.ndarray
    centres: np.ndarray
    lengths: np.ndarray
    words: np.ndarray

    @cached_property
    def references(self) -> tuple[np.ndarray, np.ndarray]:
        """Utterance and time of every boundary: starts and ends of words, each time once."""
        both = np.concatenate([self.words[:, [0, 1]], self.words[:, [0, 2]]])
        both = np.unique(both, axis=0)
        return both[:, 0].astype(np.int64), both[:, 1]


def dissimilarity(frames: np.ndarray, utterance: np.ndarray, distance: str) -> np.ndarray:
    """Of frames i and i+1 (n_frames - 1,), inf where they are of two utterances; frames (n_frames, width), z-scored.

    Cosine distance is half the squared distance of the directions, which is exactly 0 for equal frames; a frame of
    zeros has the distance 1 to others.
    """
    if distance == "euclidean":
        out = np.linalg.norm(np.diff(frames, axis=0), axis=1)
    else:
        length = np.linalg.norm(frames, axis=1, keepdims=True)
        unit = np.divide(frames, length, out=np.zeros_like(frames), where=length > 0)
        none = (length[:, 0] == 0).astype(int)
        out = (np.diff(unit, axis=0) ** 2).sum(1) / 2
        out[none[:-1] + none[1:] == 1] = 1
    out[np.diff(utterance) != 0] = np.inf
    return out.astype(np.float64)


@dataclass(frozen=True)
class Scaling:
    """What z-scores frames: of each dimension, one value, the mean relative to it, and the (population) deviation."""

    shift: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, frames: np.ndarray) -> Scaling:
        """Raises FeatureError for values that are not finite, UsageError for no frames."""
        if not len(frames):
            raise UsageError("there are no frames to segment: take other utterances")
        if not all(np.isfinite(block).all() for block in _blocks(frames)):
            raise FeatureError("frames hold values that are not finite: extract them again")
        shift = frames[0].astype(np.float64)  # then a constant dimension is exactly 0
        none = np.zeros(frames.shape[1])
        mean = sum(((block - shift).sum(0) for block in _blocks(frames)), none) / len(frames)
        square = sum((((block - shift - mean) ** 2).sum(0) for block in _blocks(frames)), none)
        return cls(shift, mean, np.sqrt(square / len(frames)))

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Frames (n, width) in float64 with zero mean and unit variance in every dimension; constant ones 0."""
        scaled = frames - self.shift - self.mean
        return np.divide(scaled, self.deviation, out=np.zeros_like(scaled), where=self.deviation > 0)


def _blocks(frames: np.ndarray, overlap: int = 0) -> Iterator[np.ndarray]:
    """Some thousand frames at a time, each block with the first ``overlap`` of the next."""
    for begin in range(0, len(frames), _FRAMES_AT_ONCE):
        yield frames[begin : begin + _FRAMES_AT_ONCE + overlap]


@dataclass(frozen=True)
class Peaks:
    """Peaks of one dissimilarity, smoothed over one window: utterance, time (samples) and prominence, in order."""

    utterance: np.ndarray
    time: np.ndarray
    prominence: np.ndarray

    def of(self, least: float) -> tuple[np.ndarray, np.ndarray]:
        """Utterance and time of those of at least this prominence."""
        kept = self.prominence >= least
        return self.utterance[kept], self.time[kept]


def peaks(differences: np.ndarray, speech: Speech, window: int) -> Peaks:
    """Every peak of ``dissimilarity`` after a moving average over ``window`` differences.

    What lies between utterances is infinite: no peak's prominence looks beyond it, so that one pass over all of them
    gives what a pass over each would. A plateau's peak is its middle, be it between two frames.
    """
    n = len(differences) - window + 1
    if n < 1:
        none = np.empty(0)
        return Peaks(none.astype(np.int64), none, none)
    smooth = sum((differences[k : k + n] for k in range(1, window)), differences[:n].copy()) / window
    found, plateaus = find_peaks(smooth, plateau_size=1)
    inside = np.isfinite(smooth[found])  # what lies between utterances is a peak to SciPy
    prominence = peak_prominences(smooth, found[inside])[0]
    middle = (plateaus["left_edges"] + plateaus["right_edges"])[inside] / 2 + (window - 1) / 2
    low = np.floor(middle).astype(np.int64)
    # halfway between the centres of frames middle and middle + 1, where middle may lie between two frames
    share = middle - low
    between = (speech.centres[:-1] + speech.centres[1:]) / 2
    high = np.minimum(low + 1, len(between) - 1)
    time = between[low] * (1 - share) + between[high] * share
    return Peaks(speech.utterance[low], time, prominence)


@dataclass(frozen=True)
class Counts:
    """What was found, for each utterance (n_utterances,) or in all: predictions and references, how many of them match.

    ``strict``: matched one to one, as many as can be. ``near_reference``: predictions near any reference;
    ``near_prediction``: references near any prediction (the lenient scores). ``tokens``: predicted intervals both of
    whose ends match one word's.
    """

    predicted: np.ndarray
    references: np.ndarray
    strict: np.ndarray
    near_reference: np.ndarray
    near_prediction: np.ndarray
    intervals: np.ndarray
    words: np.ndarray
    tokens: np.ndarray

    def of(self, which: np.ndarray) -> Counts:
        """Sums over utterances, each as often as ``which`` (..., n_utterances) says."""
        return Counts(*(which @ getattr(self, f.name) for f in fields(self)))


def count(utterance: np.ndarray, time: np.ndarray, speech: Speech, tolerance: int = TOLERANCE) -> Counts:
    """Compare predicted boundaries (in order) with the references, for each utterance.

    Boundaries within the tolerance of an utterance's start or end are there whatever a model knows: neither
    predictions nor references among them are scored. As ends of intervals they count: an utterance is cut at its
    predicted boundaries, and its own start and end.
    """
    n = len(speech.lengths)
    # one line for all utterances, so far apart that nothing is near two of them
    offset = np.concatenate([[0], np.cumsum(speech.lengths + 4 * tolerance + 4)[:-1]]).astype(np.float64)

    def inner(at: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept = (times > tolerance) & (times < speech.lengths[at] - tolerance)
        return at[kept], offset[at[kept]] + times[kept]

    at, predicted = inner(utterance, time)
    of, references = inner(*speech.references)
    hit = match(predicted, references, tolerance)
    ends = np.sort(np.concatenate([predicted, offset, offset + speech.lengths]))
    words = offset[speech.words[:, 0].astype(np.int64)][:, None] + speech.words[:, 1:]
    found = match_intervals(ends, words, tolerance)
    n_predicted = np.bincount(at, minlength=n)
    return Counts(
        n_predicted,
        np.bincount(of, minlength=n),
        np.bincount(of[hit], minlength=n),
        np.bincount(at[_near(predicted, references, tolerance)], minlength=n),
        np.bincount(of[_near(references, predicted, tolerance)], minlength=n),
        n_predicted + 1,
        np.bincount(speech.words[:, 0].astype(np.int64), minlength=n),
        np.bincount(speech.words[found, 0].astype(np.int64), minlength=n),
    )


def _near(these: np.ndarray, those: np.ndarray, tolerance: float) -> np.ndarray:
    """Which of these have one of those (both sorted) within the tolerance."""
    return np.searchsorted(those, these + tolerance, side="right") > np.searchsorted(those, these - tolerance)


def match(predicted: np.ndarray, references: np.ndarray, tolerance: float) -> np.ndarray:
    """Which references (n,) get a prediction of their own within the tolerance, as many as can; both sorted.

    In order, each takes the first prediction that is left and near: no other assignment matches more. Only references
    with a prediction in common have to wait for each other; these chains are short, and all go on at once.
    """
    first = np.searchsorted(predicted, references - tolerance, side="left")
    last = np.searchsorted(predicted, references + tolerance, side="right")
    return _assigned(first, last)


def match_intervals(ends: np.ndarray, words: np.ndarray, tolerance: float) -> np.ndarray:
    """Which words (n, 2) get an interval between two neighbours of ``ends`` (sorted), both ends within the tolerance.

    One word has one interval and the other way round, as many as can; words in order.
    """
    begin, end = words[:, 0], words[:, 1]
    first = np.searchsorted(ends, begin - tolerance, side="left")
    first = np.maximum(np.maximum(first, np.searchsorted(ends, end - tolerance, side="left") - 1), 0)
    last = np.searchsorted(ends, begin + tolerance, side="right")
    last = np.minimum(last, np.searchsorted(ends, end + tolerance, side="right") - 1)
    return _assigned(first, last)


def _assigned(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Which of these get a place of their own from ``first`` to before ``last``, both ascending: each the first that is
    left."""
    hit = first < last
    waits = np.zeros(len(first), bool)
    waits[1:] = first[1:] < last[:-1]
    place = np.arange(len(first))
    rank = place - np.maximum.accumulate(np.where(waits, 0, place))
    free = np.zeros(len(first) + 1, np.int64)  # the first place that is left before each
    for k in range(int(rank.max(initial=0)) + 1):
        mine = np.flatnonzero(rank == k)
        taken = np.maximum(first[mine], free[mine])
        hit[mine] = taken < last[mine]
        free[mine + 1] = taken + hit[mine]
    return hit


def scores(counts: Counts) -> dict[str, np.ndarray]:
    """The named scores of counts, each a number or an array of the counts' shape. Where nothing was
    predicted, precision, recall and F1 are 0, over-segmentation is -1, and the R-value what its formula gives (0.29).

    Over-segmentation is R/P - 1 (0 is right), the R-value 1 - (|r1| + |r2|)/2 with r1 = sqrt((1-R)² + OS²) and
    r2 = (R - 1 - OS)/sqrt(2) (Räsänen et al. 2009); both are of strict precision and recall.
    """
    c = {f.name: np.asarray(getattr(counts, f.name), np.float64) for f in fields(counts)}
    precision, recall = _share(c["strict"], c["predicted"]), _share(c["strict"], c["references"])
    # how many boundaries there are for each that should be, which holds where none matches, too
    surplus = _share(c["predicted"], c["references"]) - 1
    r1 = np.sqrt((1 - recall) ** 2 + surplus**2)
    r2 = (recall - 1 - surplus) / np.sqrt(2)
    loose, found = _share(c["near_reference"], c["predicted"]), _share(c["near_prediction"], c["references"])
    tokens, words = _share(c["tokens"], c["intervals"]), _share(c["tokens"], c["words"])
    return {
        "F1": _f1(precision, recall),
        "precision": precision,
        "recall": recall,
        "over-segmentation": surplus,
        "R-value": 1 - (np.abs(r1) + np.abs(r2)) / 2,
        "lenient F1": _f1(loose, found),
        "lenient precision": loose,
        "lenient recall": found,
        "token F1": _f1(tokens, words),
        "token precision": tokens,
        "token recall": words,
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)


def _f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return _share(2 * precision * recall, precision + recall)


def sweep(
    frames: np.ndarray, speech: Speech, cells: Sequence[Cell], tolerance: int = TOLERANCE
) -> Iterator[tuple[Cell, Counts, Counts]]:
    """Counts of each cell of a grid, and those of its chance: the same boundaries, turned by half of their utterance.

    ``frames``: (n_frames, width). What cells share is computed once: z-scores, a dissimilarity for each distance, and
    all peaks with their prominences for each window.
    """
    scaling = Scaling.of(frames)
    blocks = zip(_blocks(frames, 1), _blocks(speech.utterance, 1), strict=True)
    wanted = list(dict.fromkeys(cell.distance for cell in cells))
    parts = [
        [dissimilarity(z, of, distance) for distance in wanted] for z, of in ((scaling(x), of) for x, of in blocks)
    ]
    for distance, pieces in zip(wanted, zip(*parts, strict=True), strict=True):
        differences = np.concatenate(pieces)
        for window in dict.fromkeys(cell.window for cell in cells if cell.distance == distance):
            found = peaks(differences, speech, window)
            turned = _turned(found, speech)
            for cell in cells:
                if (cell.distance, cell.window) == (distance, window):
                    yield (
                        cell,
                        count(*found.of(cell.prominence), speech, tolerance),
                        count(*turned.of(cell.prominence), speech, tolerance),
                    )


def _turned(found: Peaks, speech: Speech) -> Peaks:
    """As many boundaries, as far apart, which know nothing of this utterance's words."""
    lengths = speech.lengths[found.utterance]
    time = (found.time + lengths / 2) % lengths
    order = np.lexsort((time, found.utterance))
    return Peaks(found.utterance[order], time[order], found.prominence[order])
