"""Slow second implementations of what layertool.probes computes, written from its docstrings in plain loops.

Nothing here calls the package; the draws of a bootstrap are handed in.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np


def pairs(words, speakers=None) -> tuple[list[tuple[int, int]], list[bool]]:
    """Every pair of tokens once, by different speakers if speakers are given, and whether they are of one word."""
    found = [(i, j) for i, j in combinations(range(len(words)), 2) if speakers is None or speakers[i] != speakers[j]]
    return found, [bool(words[i] == words[j]) for i, j in found]


def average_precision(distances, same) -> float:
    """The mean, over pairs of one word, of the share of one word among the pairs as near or nearer."""
    precisions = []
    for wanted, threshold in zip(same, distances, strict=True):
        if wanted:
            inside = [s for s, d in zip(same, distances, strict=True) if d <= threshold]
            precisions.append(Fraction(sum(inside), len(inside)))
    return float(sum(precisions) / len(precisions))


def exact_cosine_order(a, b) -> Fraction:
    """Of vectors of integers: a number that orders pairs as 1 - cos does, without any rounding (-cos |cos|)."""
    a, b = [int(x) for x in a], [int(x) for x in b]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return -Fraction(dot * abs(dot), sum(x * x for x in a) * sum(y * y for y in b))


def cosine_distance(a, b) -> float:
    """1 - cos in float64."""
    a, b = [float(x) for x in a], [float(x) for x in b]
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / (math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b)))


def warped_distance(a, b) -> float:
    """The textbook table of dynamic time warping over 1 - cos; the last cell over the number of frames of both."""
    table = [[math.inf] * (len(b) + 1) for _ in range(len(a) + 1)]
    table[0][0] = 0.0
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            before = min(table[i - 1][j], table[i][j - 1], table[i - 1][j - 1])
            table[i][j] = before + cosine_distance(a[i - 1], b[j - 1])
    return table[-1][-1] / (len(a) + len(b))


def resampled_precisions(distances, found, same, clusters, draws) -> np.ndarray:
    """Average precision in each resample, NaN where no pair of one word is drawn.

    A pair stands as often as the product of the draws of both its clusters, or as its one cluster is drawn.
    """
    names = sorted(set(clusters))
    at = [names.index(c) for c in clusters]
    distances, same = np.asarray(distances), np.asarray(same)
    weights = np.array(
        [draws[:, at[i]] if at[i] == at[j] else draws[:, at[i]] * draws[:, at[j]] for i, j in found], dtype=float
    ).T
    inside = (distances <= distances[same][:, None]).astype(float)  # (pairs of one word, pairs)
    right, total = (weights * same) @ inside.T, weights @ inside.T
    wanted = weights[:, same]
    with np.errstate(invalid="ignore"):
        return np.where(wanted > 0, wanted * (right / total), 0).sum(1) / wanted.sum(1)


def nearest_labels(known, labels, row, n_neighbours: int):
    """The label most frequent among the nearest rows; of equally frequent ones that of the nearest row."""
    by_distance = sorted(range(len(known)), key=lambda k: math.dist(known[k], row))[:n_neighbours]
    nearest = [labels[k] for k in by_distance]
    votes = Counter(nearest)
    return next(label for label in nearest if votes[label] == max(votes.values()))


def hits(features, labels, groups, method: str, n_neighbours: int, n_folds: int, unheard=()) -> list[bool]:
    """Whether the label of each row is found from the other folds of scikit-learn's GroupKFold.

    Of the groups ``unheard`` nothing is learned, but for the scale of each dimension.
    """
    from sklearn.model_selection import GroupKFold

    out = [False] * len(labels)
    for train, test in GroupKFold(n_folds).split(features, groups=groups):
        mean = [float(np.mean(features[train, d])) for d in range(features.shape[1])]
        spread = [float(np.std(features[train, d])) or 1.0 for d in range(features.shape[1])]
        known, asked = ((features[part] - mean) / spread for part in (train, test))
        heard = [groups[k] not in unheard for k in train]
        known, of_known = known[heard], [labels[k] for k in train[heard]]
        of_name = {name: known[[label == name for label in of_known]] for name in set(of_known)}
        means = {name: some.mean(0) for name, some in of_name.items()}
        for k, row in zip(test, asked, strict=True):
            if method == "knn":
                found = nearest_labels(known, of_known, row, n_neighbours)
            else:
                found = min(means, key=lambda name: math.dist(means[name], row))
            out[k] = bool(found == labels[k])
    return out
