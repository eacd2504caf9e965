"""Acoustic word discrimination: are two tokens of one word nearer to each other than tokens of different words?

Average precision over all pairs of tokens as the threshold varies (Carlin et al. 2011; Pasad et al. 2021, section 4.2;
spec layerwise.md 5.1). Tied pairs enter together: the precision of a pair counts all pairs that are as near as it
or nearer, so the order of rows cannot matter. Chance is the share of pairs that are of one word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from layertool import resampling
from layertool.errors import FeatureError, UsageError
from layertool.probes.directions import directions

Places = np.ndarray | slice  # of tokens


_PAIRS_AT_ONCE = 2**22
_NO_DISTANCE = 1e-12  # cosines of equal vectors differ from 1 by rounding
_MOST_CLUSTERS = 200  # more are put together for the bootstrap, whose memory grows with their square
_N_BINS = 128  # of distances, in the bootstrap


@dataclass(frozen=True)
class Discrimination:
    """Average precision with its 95 % interval; ``chance``: the share of the ``n_pairs`` that are of one word."""

    value: float
    ci_low: float | None
    ci_high: float | None
    chance: float
    n_pairs: int
    n_same: int


class Cosine:
    """1 - cos of pooled vectors (n, width), in float64, then rounded to float32: pairs that differ by less are tied.

    Raises FeatureError for vectors of zeros or with values that are not finite.
    """

    def __init__(self, vectors: np.ndarray):
        self._unit = directions(vectors, "vector {}".format)

    def arranged(self, order: np.ndarray) -> Cosine:
        return Cosine(self._unit[order])

    def __call__(self, rows: Places, columns: Places) -> np.ndarray:
        distances = 1 - self._unit[rows] @ self._unit[columns].T
        distances[distances < _NO_DISTANCE] = 0
        return distances.astype(np.float32)


class Warped:
    """Dynamic time warping of frames, each token (frames, width): the least sum of 1 - cos along a path of steps
    (1, 0), (0, 1) and (1, 1), over the number of frames of both tokens; in float64, then rounded to float32 as
    ``Cosine`` is.

    Raises FeatureError for frames of zeros or with values that are not finite, and tokens without frames.
    """

    def __init__(self, tokens: Sequence[np.ndarray]):
        self._lengths = np.array([len(token) for token in tokens])
        if not self._lengths.all():
            raise FeatureError(f"token {int(np.argmin(self._lengths))} has no frame to warp: leave it out")
        self._frames = directions(np.concatenate(tokens), "frame {}".format)
        self._first = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])

    def arranged(self, order: np.ndarray) -> Warped:
        other = copy(self)  # of the same frames
        other._lengths, other._first = self._lengths[order], self._first[order]
        return other

    def __call__(self, rows: Places, columns: Places) -> np.ndarray:
        lengths, first = self._lengths, self._first
        rows, columns = (np.arange(len(lengths))[places] for places in (rows, columns))
        out = np.empty((len(rows), len(columns)), np.float32)
        # tokens of like length together: what is padded is computed in vain
        by_length = np.argsort(lengths[columns], kind="stable")
        for begin in range(0, len(columns), _COLUMNS_AT_ONCE):
            places = by_length[begin : begin + _COLUMNS_AT_ONCE]
            some = columns[places]
            longest = int(lengths[some].max())
            # (longest, columns): the frames of each token, the last repeated
            index = first[some] + np.minimum(np.arange(longest)[:, None], lengths[some] - 1)
            theirs = self._frames[index.ravel()].T
            for k, row in enumerate(rows):
                mine = self._frames[first[row] : first[row] + lengths[row]]
                costs = 1 - mine @ theirs
                costs[costs < _NO_DISTANCE] = 0
                costs = costs.reshape(len(mine), longest, len(some))
                out[k, places] = _least_costs(costs, lengths[some]) / (lengths[some] + len(mine))
        return out


_COLUMNS_AT_ONCE = 512


def _least_costs(costs: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of the best path through each of the matrices ``costs[:, :lengths[k], k]``."""
    total = np.cumsum(costs[0], axis=0)
    for cost in costs[1:]:
        before = total.copy()
        np.minimum(before[1:], total[:-1], out=before[1:])
        total[0] = before[0] + cost[0]
        for u in range(1, len(total)):
            np.minimum(before[u], total[u - 1], out=total[u])
            total[u] += cost[u]
    return total[lengths - 1, np.arange(len(lengths))]


Distance = Cosine | Warped  # of n tokens; called with places of some and of others: (rows, columns), float32


def average_precision(
    distance: Distance,
    words: np.ndarray,
    speakers: np.ndarray | None = None,
    cross_speaker: bool = False,
    clusters: np.ndarray | None = None,
    seed: int = 0,
) -> Discrimination:
    """Average precision of "one word" over all pairs of n tokens, nearest first.

    ``words``, ``speakers`` (n,): of each token. ``cross_speaker``: pairs of one speaker, of one word or of two, are
    left out. ``clusters`` (n,): what the interval resamples, words or speakers; None for no interval. A pair counts as
    often as both its clusters are drawn, pairs within one cluster as often as that one is; more than 200 clusters are
    put together at random into 200. Memory is that of a few million pairs at a time, and 6 bytes for each pair of one
    word. Raises UsageError where no pair is of one word, or all are.
    """
    for what, values in (("speakers", speakers), ("clusters", clusters)):
        if values is not None and len(values) != len(words):
            raise UsageError(f"{len(values)} {what} for {len(words)} tokens: give one for each")
    words = np.unique(np.asarray(words), return_inverse=True)[1]
    if cross_speaker and speakers is None:
        raise UsageError("pairs across speakers need the speaker of each token: give speakers")
    voices = np.unique(np.asarray(speakers), return_inverse=True)[1] if cross_speaker else None
    groups = _clusters(clusters, len(words), seed)
    order = np.argsort(groups, kind="stable")  # then a block of rows is of one cluster
    words, groups = words[order], groups[order]
    voices = None if voices is None else voices[order]
    distance = distance.arranged(order)
    same = _same_pairs(distance, words, voices, groups)
    thresholds, n_at = np.unique(same[0], return_counts=True)
    n_same = int(n_at.sum())
    if not n_same:
        across = " by different speakers" if cross_speaker else ""
        raise UsageError(f"no word stands twice{across} among {len(words)} tokens: take more of them, or shorter words")
    counted = _Counted(thresholds, groups, clusters is not None)
    n_different = 0
    for rows in _blocks(groups):
        columns = np.arange(rows[0] + 1, len(words))
        if not len(columns):
            break
        found = distance(slice(rows[0], rows[-1] + 1), slice(columns[0], None))
        wanted = (columns > rows[:, None]) & (words[columns] != words[rows][:, None])
        if voices is not None:
            wanted &= voices[columns] != voices[rows][:, None]
        counted.add(found, wanted, groups[rows[0]], groups[columns])
        n_different += int(wanted.sum())
    if not n_different:
        raise UsageError(f"all {len(words)} tokens are of one word: there is nothing to tell them from")
    above = counted.at_most()
    hits = np.cumsum(n_at)
    value = float((n_at * (hits / (hits + above))).sum() / n_same)
    low, high = (None, None) if clusters is None else counted.interval(same, value, seed)
    return Discrimination(value, low, high, n_same / (n_same + n_different), n_same + n_different, n_same)


def _clusters(clusters: np.ndarray | None, n: int, seed: int) -> np.ndarray:
    """A number for each token, at most 200 different ones."""
    if clusters is None:
        return np.zeros(n, np.int64)
    names, codes = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) <= _MOST_CLUSTERS:
        return codes
    return (np.random.default_rng(seed).permutation(len(names)) % _MOST_CLUSTERS)[codes]


def _same_pairs(
    distance: Distance, words: np.ndarray, voices: np.ndarray | None, groups: np.ndarray
) -> list[np.ndarray]:
    """Of pairs of one word: distances (n_same,), and the clusters of the first and of the second tokens."""
    small = groups.astype(np.uint8)  # up to 200: a word of thousands of tokens has millions of pairs
    parts: list[tuple[np.ndarray, ...]] = [(np.empty(0, np.float32), small[:0], small[:0])]
    by_word = np.argsort(words, kind="stable")
    for tokens in np.split(by_word, np.flatnonzero(np.diff(words[by_word])) + 1):
        if len(tokens) < 2:
            continue
        for begin in range(0, len(tokens), step := max(1, _PAIRS_AT_ONCE // len(tokens))):
            rows = tokens[begin : begin + step]
            found = distance(rows, tokens)
            wanted = np.arange(len(tokens)) > np.arange(begin, begin + len(rows))[:, None]
            if voices is not None:
                wanted &= voices[tokens] != voices[rows][:, None]
            i, j = np.nonzero(wanted)
            parts.append((found[i, j], small[rows[i]], small[tokens[j]]))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _blocks(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive rows of one cluster, few enough for their pairs with all others."""
    step = max(1, _PAIRS_AT_ONCE // max(1, len(groups)))
    for rows in np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups)) + 1):
        for begin in range(0, len(rows), step):
            yield rows[begin : begin + step]


class _Counted:
    """Pairs of different words that are as near as each threshold or nearer: in all, and by pair of clusters."""

    def __init__(self, thresholds: np.ndarray, groups: np.ndarray, by_cluster: bool):
        self.thresholds = thresholds
        self._above = np.zeros(len(thresholds), np.int64)
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        self.by_cluster = by_cluster
        if by_cluster:
            picked = np.unique(np.linspace(0, len(thresholds) - 1, _N_BINS).round().astype(np.int64))
            self.edges = thresholds[picked]
            n = int(groups.max()) + 1
            self.pairs = np.zeros((len(self.edges), n, n), np.float32)

    def add(self, found: np.ndarray, wanted: np.ndarray, group: int, groups: np.ndarray) -> None:
        """Distances (rows, columns) of rows of one cluster."""
        wanted = wanted & (found <= self.thresholds[-1])
        near = found[wanted]
        self._waiting.append(near)
        self._n_waiting += len(near)
        if self.by_cluster:
            n_bins, n = self.pairs.shape[:2]
            place = np.broadcast_to(groups, found.shape)[wanted] * n_bins + np.searchsorted(self.edges, near)
            self.pairs[:, group] += np.bincount(place, minlength=n * n_bins).reshape(n, n_bins).T
        if self._n_waiting >= _PAIRS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            near = np.sort(np.concatenate(self._waiting))
            self._above += np.searchsorted(near, self.thresholds, side="right")
            self._waiting, self._n_waiting = [], 0

    def at_most(self) -> np.ndarray:
        """How many pairs are as near as each threshold or nearer."""
        self._flush()
        return self._above

    def interval(self, same: Sequence[np.ndarray], value: float, seed: int) -> tuple[float, float] | tuple[None, None]:
        """95 % percentile bootstrap over clusters, of average precision at binned thresholds, moved to the exact
        value."""
        n_bins, n = self.pairs.shape[:2]
        if n < 2:
            return None, None
        hits = np.zeros((n_bins, n, n), np.float32)
        np.add.at(hits, (np.searchsorted(self.edges, same[0]), *same[1:]), 1)
        drawn = np.concatenate([np.ones((1, n)), resampling.counts(n, seed)])  # the first is all clusters, once
        right, wrong = (np.cumsum(_weighted(pairs, drawn), axis=1) for pairs in (hits, self.pairs))
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(right > 0, right / (right + wrong), 0)
            values = (np.diff(right, axis=1, prepend=0) * precision).sum(1) / right[:, -1]
        low, high = resampling.interval(values[1:], n)
        if low is None or high is None:
            return None, None
        shift = value - float(values[0])
        return max(0.0, low + shift), min(1.0, high + shift)


def _weighted(pairs: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Pairs (bins, clusters, clusters) as often as their clusters are drawn (resamples, clusters): (resamples,
    bins)."""
    drawn = drawn.astype(np.float32)
    out = np.empty((len(drawn), len(pairs)))
    for k, table in enumerate(pairs):
        within = np.diagonal(table)
        across = table - np.diag(within)
        out[:, k] = np.einsum("ij,ij->i", drawn @ across, drawn) + drawn @ within
    return out
