"""Slow second implementation of word segmentation, one utterance and one cell at a time (spec layerwise.md 5.3).

Nothing here calls the package. Peaks are scipy's, per utterance; matches are maximum bipartite matchings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.signal import find_peaks
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

NAMES = (
    "predicted",
    "references",
    "strict",
    "near_reference",
    "near_prediction",
    "intervals",
    "words",
    "tokens",
)


@dataclass
class Utterance:
    """Frames (n, width), one every ``hop`` samples, each seeing ``span``; words are (start, end) in samples."""

    frames: np.ndarray
    length: int
    words: list[tuple[int, int]] = field(default_factory=list)
    hop: int = 320
    span: int = 400


def z_scored(utterances: list[Utterance]) -> list[np.ndarray]:
    """Over all frames of all utterances, population deviation; a constant dimension becomes 0."""
    everything = np.concatenate([u.frames for u in utterances]).astype(np.float64)
    mean, deviation = everything.mean(axis=0), everything.std(axis=0)
    deviation[deviation == 0] = 1
    return [(u.frames - mean) / deviation for u in utterances]


def distances(frames: np.ndarray, kind: str) -> list[float]:
    out = []
    for a, b in pairwise(frames):
        if kind == "euclidean":
            out.append(np.linalg.norm(a - b))
        else:
            out.append(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return out


def boundaries(frames: np.ndarray, utterance: Utterance, kind: str, window: int, prominence: float) -> list[float]:
    """Times in samples; ``frames`` are z-scored."""
    curve = distances(frames, kind)
    if len(curve) < window:
        return []
    smooth = np.convolve(curve, np.full(window, 1 / window), mode="valid")
    places = find_peaks(smooth, prominence=prominence)[0]
    # the change between frames 0 and 1 is half a hop after the centre of frame 0: 22.5 ms for 20 ms frames of 25 ms
    return [utterance.hop * (p + (window - 1) / 2) + utterance.span / 2 + utterance.hop / 2 for p in places]


def turned(times: list[float], length: int) -> list[float]:
    """The same boundaries half an utterance later, those beyond its end at its start."""
    return sorted(t + length / 2 if t + length / 2 < length else t - length / 2 for t in times)


def most_matches(these, those, tolerance: float) -> int:
    """Size of the largest one-to-one assignment of points no further apart than the tolerance."""
    near = [[int(abs(a - b) <= tolerance) for b in those] for a in these]
    if not any(map(any, near)):
        return 0
    return int((maximum_bipartite_matching(csr_matrix(near)) >= 0).sum())


def counts(times: list[float], utterance: Utterance, tolerance: int = 320) -> tuple[int, ...]:
    """In the order of NAMES. What is not further than the tolerance from an end of the utterance is not scored."""

    def inside(values):
        return sorted(t for t in values if tolerance < t < utterance.length - tolerance)

    predicted = inside(times)
    references = inside({t for word in utterance.words for t in word})
    ends = [0, *predicted, utterance.length]
    tokens = 0
    for start, end in utterance.words:
        for a, b in pairwise(ends):
            if abs(start - a) <= tolerance and abs(end - b) <= tolerance:
                tokens += 1
    return (
        len(predicted),
        len(references),
        most_matches(predicted, references, tolerance),
        sum(any(abs(p - r) <= tolerance for r in references) for p in predicted),
        sum(any(abs(p - r) <= tolerance for p in predicted) for r in references),
        len(ends) - 1,
        len(utterance.words),
        tokens,
    )
