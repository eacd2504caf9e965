"""Which label does a row have? Nearest centroid and k nearest neighbours, on unseen groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from layertool.errors import UsageError

METHODS = ("centroid", "knn")
_BOOTSTRAP = 1000


@dataclass(frozen=True)
class Accuracy:
    """Share of rows whose label was found, with its 95 % interval over groups and two chance levels.

    ``majority``: share of the most frequent label; ``permuted``: the same classifier on permuted labels.
    """

    value: float
    ci_low: float
    ci_high: float
    majority: float
    permuted: float
    n: int
    n_folds: int


def classify(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    method: str = "centroid",
    n_neighbours: int = 5,
    n_folds: int = 5,
    seed: int = 0,
) -> Accuracy:
    """Cross-validated accuracy of naming the label of a row from rows of other groups.

    ``features``: (n, width); ``labels``, ``groups``: (n,). No group (utterance, speaker, sentence) is
    in both parts of a fold. Each dimension is scaled to zero mean and unit variance on the training
    part. The interval is a percentile bootstrap over groups. Raises UsageError for fewer than two
    groups or labels.
    """
    labels, groups = np.asarray(labels).astype(str), np.asarray(groups).astype(str)
    n_groups, n_labels = len(np.unique(groups)), len(np.unique(labels))
    if method not in METHODS:
        raise UsageError(f"'{method}' is no method: choose {' or '.join(METHODS)}")
    if n_groups < 2 or n_labels < 2:
        raise UsageError(f"{n_labels} labels in {n_groups} groups: at least two of each are needed to compare them")
    folds = min(n_folds, n_groups)
    features = np.asarray(features, dtype=np.float64)
    hits = _hits(features, labels, groups, method, n_neighbours, folds)
    random = np.random.default_rng(seed)
    permuted = _hits(features, random.permutation(labels), groups, method, n_neighbours, folds)
    _, codes = np.unique(groups, return_inverse=True)
    right, total = np.bincount(codes, hits), np.bincount(codes)
    drawn = random.integers(0, n_groups, size=(_BOOTSTRAP, n_groups))
    low, high = np.quantile(right[drawn].sum(1) / total[drawn].sum(1), [0.025, 0.975])
    majority = np.unique(labels, return_counts=True)[1].max() / len(labels)
    return Accuracy(
        float(hits.mean()), float(low), float(high), float(majority), float(permuted.mean()), len(labels), folds
    )


def _hits(features, labels, groups, method: str, n_neighbours: int, n_folds: int) -> np.ndarray:
    """1.0 where the label of a row was found from the other folds, else 0.0."""
    hits = np.zeros(len(labels))
    for train, test in GroupKFold(n_folds).split(features, labels, groups):
        if len(np.unique(labels[train])) < 2:
            hits[test] = labels[test] == labels[train][0]
            continue
        scaler = StandardScaler().fit(features[train])
        model = NearestCentroid() if method == "centroid" else KNeighborsClassifier(min(n_neighbours, len(train)))
        model.fit(scaler.transform(features[train]), labels[train])
        hits[test] = model.predict(scaler.transform(features[test])) == labels[test]
    return hits
