"""Which label does a row have? Nearest centroid and k nearest neighbours, on unseen groups."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from layertool import resampling
from layertool.errors import FeatureError, UsageError

METHODS = ("centroid", "knn")
SPARE = 4  # times as many neighbours are looked up as vote
N_PARTS = 10  # that groups are put together in, each left out once for the interval
N_PERMUTATIONS, N_GROUP_PERMUTATIONS = 5, 50  # of rows; of groups, of which there are few


@dataclass(frozen=True)
class Accuracy:
    """Share of rows whose label was found, with its 95 % interval over groups and two chance levels.

    ``majority``: share of the most frequent label; ``permuted``: the same classifier on permuted labels (a mean over
    permutations); ``found``: of each row (n,), bool.
    """

    value: float
    ci_low: float | None
    ci_high: float | None
    majority: float
    permuted: float
    n: int
    n_folds: int
    found: np.ndarray = field(repr=False, compare=False, default_factory=lambda: np.zeros(0, bool))


def classify(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    method: str = "centroid",
    n_neighbours: int = 5,
    n_folds: int = 5,
    seed: int = 0,
    folds: np.ndarray | None = None,
) -> Accuracy:
    """Cross-validated accuracy of naming the label of a row from rows of other groups.

    ``features``: (n, width); ``labels``, ``groups``: (n,). No group (utterance, speaker, sentence) is
    in both parts of a fold. Each dimension is scaled to zero mean and unit variance on the training
    part; distances are Euclidean. ``folds``: (n,) that of each row, where they are dealt already; scikit-learn's
    GroupKFold else. Of labels that as many of the k neighbours have, the one with the nearest of them is taken. A label
    that the training part lacks is never found. Labels that are the same in all rows of every group (the gender of a
    speaker) are permuted among groups, others among rows. The interval is a jackknife over (parts of) the groups: what
    is left out is not learned from either, as other rows to learn from would find other labels. Raises UsageError for
    fewer than two groups or labels, FeatureError for values that are not finite.
    """
    labels, groups = np.asarray(labels).astype(str), np.asarray(groups).astype(str)
    codes, of_group = (np.unique(names, return_inverse=True)[1] for names in (labels, groups))
    n_groups, n_labels = (int(c.max(initial=-1)) + 1 for c in (of_group, codes))
    if method not in METHODS:
        raise UsageError(f"'{method}' is no method: choose {' or '.join(METHODS)}")
    if n_neighbours < 1 or n_folds < 2:
        raise UsageError(f"{n_neighbours} neighbours and {n_folds} folds: at least 1 and 2 are needed")
    if method == "knn" and n_neighbours >= len(features):
        raise UsageError(f"{n_neighbours} neighbours of {len(features)} rows: ask for fewer")
    if n_groups < 2 or n_labels < 2:
        raise UsageError(f"{n_labels} labels in {n_groups} groups: at least two of each are needed to compare them")
    if folds is None:
        splits = list(GroupKFold(min(n_folds, n_groups)).split(features, groups=of_group))
    else:
        splits = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in np.unique(folds)]
    features = np.asarray(features, dtype=np.float64)
    if not np.isfinite(features).all():
        at = int(np.argmin(np.isfinite(features).all(1)))
        raise FeatureError(f"row {at} is not all finite: leave its utterance out with --where, or extract it again")
    labellings = np.stack([codes, *_permuted(codes, of_group, seed)])
    parts = resampling.jackknife_groups(of_group, N_PARTS, seed)
    hits, hits_without = _hits(features, labellings, splits, method, n_neighbours, parts)
    value = float(hits[0].mean())
    ends = resampling.jackknife(value, [row[parts != part].mean() for part, row in enumerate(hits_without)])
    low, high = (None if end is None else float(np.clip(end, 0, 1)) for end in ends)
    majority = float(np.bincount(codes).max() / len(codes))
    return Accuracy(value, low, high, majority, float(hits[1:].mean()), len(codes), len(splits), hits[0] > 0)


def difference(
    one: Accuracy, other: Accuracy, groups: np.ndarray, seed: int = 0
) -> tuple[float, float | None, float | None]:
    """How much more of the same rows ``one`` found than ``other``, and its 95 % interval.

    ``groups``: (n,), as ``classify`` had them. A percentile bootstrap over groups of the paired difference, much
    narrower than the two intervals where the same groups are hard for both; what was learned is not learned anew.
    Raises UsageError for other rows.
    """
    of_group = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    if not len(one.found) == len(other.found) == len(of_group):
        raise UsageError(f"{len(one.found)} and {len(other.found)} rows of {len(of_group)} cannot be paired")
    more = one.found.astype(np.float64) - other.found
    n_groups = int(of_group.max()) + 1
    drawn = resampling.counts(n_groups, seed)
    means = (drawn @ np.bincount(of_group, more)) / (drawn @ np.bincount(of_group))
    return float(more.mean()), *resampling.interval(means, n_groups)


def _permuted(codes: np.ndarray, groups: np.ndarray, seed: int) -> list[np.ndarray]:
    """Labels without their relation to the rows, but still one for each group where that is how they are."""
    random = np.random.default_rng(seed)
    of_group = np.zeros(int(groups.max()) + 1, codes.dtype)
    of_group[groups] = codes
    if (of_group[groups] == codes).all():
        return [random.permutation(of_group)[groups] for _ in range(N_GROUP_PERMUTATIONS)]
    return [random.permutation(codes) for _ in range(N_PERMUTATIONS)]


def _hits(
    features: np.ndarray,
    labellings: np.ndarray,
    splits: list[tuple[np.ndarray, np.ndarray]],
    method: str,
    n_neighbours: int,
    parts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """1.0 where the label of a row was found from the other folds, else 0.0: (n_labellings, n), and (n_parts, n) of the
    first labelling where each part (numbers from 0 on, (n,)) is not learned from; NaN where nothing else is."""
    hits, without = np.zeros(labellings.shape), np.full((int(parts.max()) + 1, len(features)), np.nan)
    for train, test in splits:
        scaler = StandardScaler().fit(features[train])
        known, asked = scaler.transform(features[train]), scaler.transform(features[test])
        nearest = None
        if method == "knn":  # more than vote: those of a part that is left out are passed over
            n_near = min(SPARE * n_neighbours + 10, len(train))
            search = NearestNeighbors(n_neighbors=n_near, algorithm="brute").fit(known)
            nearest = search.kneighbors(asked, return_distance=False)
        everything = np.ones(len(train), bool)
        for k, codes in enumerate(labellings):
            hits[k, test] = _found(known, codes[train], everything, asked, nearest, n_neighbours) == codes[test]
        true = labellings[0]
        for part in range(len(without)):
            kept = parts[train] != part
            if kept.any():
                without[part, test] = _found(known, true[train], kept, asked, nearest, n_neighbours) == true[test]
    return hits, without


def _found(
    known: np.ndarray,
    codes: np.ndarray,
    kept: np.ndarray,
    asked: np.ndarray,
    nearest: np.ndarray | None,
    n_neighbours: int,
) -> np.ndarray:
    """The label of each asked row from those known rows that are kept; ``nearest``: places of known rows, None for
    centroids."""
    mine = codes[kept]
    if (mine == mine[0]).all():
        return np.full(len(asked), mine[0])
    if nearest is None:
        return _nearest_mean(known[kept], mine, asked)
    order = np.argsort(~kept[nearest], axis=1, kind="stable")[:, : min(n_neighbours, len(mine))]
    return _vote(codes[np.take_along_axis(nearest, order, axis=1)])


def _nearest_mean(known: np.ndarray, codes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The label (n,) of the nearest of the labels' mean rows; of equally near ones the first."""
    there, of = np.unique(codes, return_inverse=True)
    order = np.argsort(of, kind="stable")
    means = np.add.reduceat(known[order], np.searchsorted(of[order], np.arange(len(there)))) / np.bincount(of)[:, None]
    # |a - m|² less |a|², which is the same for all m
    return there[((means**2).sum(1) - 2 * asked @ means.T).argmin(1)]


def _vote(nearest: np.ndarray) -> np.ndarray:
    """The most frequent label (n,) of each row of (n, k) labels, nearest first; of equally frequent ones the
    nearest."""
    votes = np.stack([(nearest == nearest[:, [k]]).sum(1) for k in range(nearest.shape[1])], axis=1)
    return nearest[np.arange(len(nearest)), votes.argmax(1)]
