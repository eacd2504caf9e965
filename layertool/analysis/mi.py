"""Mutual information between k-means clusters of features and phone or word labels.

Protocol: Pasad et al. 2021 (spec layerwise.md 4): MiniBatchKMeans fitted on the segments of one split, the
segments of another assigned to their nearest centroid, plug-in mutual information of cluster and label.
That estimate is biased upwards, near its ceiling where there are few rows per cluster (5.46 of 6.2 nats
for random word clusters), so every score comes with its chance level and with measures that are 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics.cluster import expected_mutual_information

from layertool.errors import FeatureError, UsageError

PHONE_CLUSTERS = 500  # Pasad et al. 2021, mi-phone
PHONE_BATCH_SIZE = 1500  # rows in a mini-batch
WORD_CLUSTERS = 5000  # mi-word
WORD_BATCH_SIZE = 4000
MAX_ITER = 500  # passes over the rows; scikit-learn stops earlier when 10 batches bring nothing
N_INIT = 3  # k-means++ starts, scikit-learn's default when the protocol was published

_BLOCK_BYTES = 64 * 2**20  # of the distances that are in memory at once


@dataclass(frozen=True)
class Score:
    """How much clusters tell about labels, and how much they would tell by chance.

    ``nats``: plug-in mutual information. ``normalized``: nats / label_entropy. ``adjusted``: AMI, (nats -
    permuted) / (mean of both entropies - permuted), 0 at chance and 1 for equal partitions. ``permuted``:
    the exact expectation of nats when the labels are permuted; ``permuted_std``: how far single
    permutations fall from it, in nats; ``corrected``: nats - permuted. ``phone_purity``: share of rows
    whose label is the most frequent one of their cluster; ``cluster_purity``: share of rows whose cluster
    is the most frequent one of their label; ``permuted_phone_purity``, ``permuted_cluster_purity``: their means
    over permuted labels. ``v_measure``: 2 nats / (label_entropy + cluster_entropy).
    Of these only ``adjusted`` and ``corrected`` are free of the bias. ``n_labels``, ``n_clusters``: those
    that occur in the ``n`` rows.
    """

    nats: float
    normalized: float
    adjusted: float
    permuted: float
    permuted_std: float
    corrected: float
    phone_purity: float
    cluster_purity: float
    permuted_phone_purity: float
    permuted_cluster_purity: float
    v_measure: float
    label_entropy: float
    cluster_entropy: float
    n: int
    n_labels: int
    n_clusters: int


@dataclass(frozen=True)
class Clusters:
    """K-means clusters: ``centroids`` (n_clusters, width), float64; ``scale`` (width,): what distances are divided by
    in each dimension, where columns were standardised (inf: not looked at)."""

    centroids: np.ndarray
    scale: np.ndarray | None = None

    def assign(self, features: np.ndarray) -> np.ndarray:
        """Index (n,) of the centroid nearest to each row of features (n, width); the first of equals.

        Distances are taken in float64, in blocks of rows. Raises UsageError for another width and
        FeatureError for values that are not finite.
        """
        features, (n_clusters, width) = _rows(features), self.centroids.shape
        if features.shape[1] != width:
            raise UsageError(f"the clusters were fitted on {width} dimensions, these features have {features.shape[1]}")
        offset = self.centroids.mean(0)  # a large common offset would eat the digits of the products
        scale = np.ones(width) if self.scale is None else self.scale
        centroids = (self.centroids - offset) / scale
        half_square = (centroids**2).sum(1) / 2
        block = max(1, _BLOCK_BYTES // (8 * n_clusters))
        out = np.empty(len(features), np.int64)
        for start in range(0, len(features), block):
            rows = (features[start : start + block] - offset) / scale
            out[start : start + block] = np.argmin(half_square - rows @ centroids.T, axis=1)
        return out


def fit_clusters(
    features: np.ndarray,
    n_clusters: int,
    batch_size: int = PHONE_BATCH_SIZE,
    max_iter: int = MAX_ITER,
    seed: int = 0,
    overwrite: bool = False,
    standardise: bool = False,
) -> Clusters:
    """Mini-batch k-means of the rows of features (n, width), neither scaled nor whitened.

    The parity path of Pasad et al. 2021 (k-means++ starts, ``PHONE_*`` or ``WORD_*`` sizes), with a seed.
    ``standardise``: distances are between columns divided by their standard deviation, so that a few large ones do not
    decide. Rows are clustered as float32 about their mean, in a copy, or in place with ``overwrite`` where they are
    float32. Raises UsageError for fewer rows than clusters and FeatureError for values that are not finite.
    """
    features = _rows(features)
    if n_clusters < 1:
        raise UsageError(f"{n_clusters} clusters cannot be fitted: ask for at least 1 with --clusters")
    if len(features) < n_clusters:
        raise UsageError(
            f"{n_clusters} clusters need at least as many rows, but there are {len(features)}: "
            f"type --clusters {len(features)} or fewer, or take more rows"
        )
    offset = features.mean(0, dtype=np.float64)
    centred = features if overwrite and features.dtype == np.float32 else np.empty(features.shape, np.float32)
    np.subtract(features, offset, out=centred, casting="unsafe")
    model = MiniBatchKMeans(
        n_clusters, init="k-means++", n_init=N_INIT, max_iter=max_iter, batch_size=batch_size, random_state=seed
    )
    if not standardise:
        return Clusters(model.fit(centred).cluster_centers_.astype(np.float64) + offset)
    deviation = np.sqrt(np.einsum("nd,nd->d", centred, centred, dtype=np.float64) / len(centred))
    # what varies by less than the digits of float32 is constant
    scale = np.where(deviation > np.finfo(np.float32).eps * np.abs(offset), deviation, np.inf)
    np.divide(centred, scale, out=centred, casting="unsafe")
    found = model.fit(centred).cluster_centers_.astype(np.float64)
    return Clusters(found * np.where(np.isfinite(scale), scale, 0) + offset, scale)


def score(clusters: np.ndarray, labels: np.ndarray, n_permutations: int = 20, seed: int = 0) -> Score:
    """Mutual information of clusters (n,) and labels (n,), any hashable values, from their contingency table.

    The plug-in estimate is H(cluster) + H(label) - H(cluster, label) of the counts. The chance level is
    exact: the mean over all permutations of the labels (Vinh et al. 2010, eq. 24a, scikit-learn's
    implementation), not over draws; ``n_permutations`` draws give only its spread. AMI is that of
    scikit-learn's ``adjusted_mutual_info_score`` with ``average_method="arithmetic"``, its default.
    Raises UsageError for other lengths, no rows, or one label only.
    """
    cluster_codes, label_codes = _codes(clusters, "clusters"), _codes(labels, "labels")
    n = len(label_codes)
    if len(cluster_codes) != n:
        raise UsageError(f"{len(cluster_codes)} clusters for {n} labels: each row needs one of each")
    if n == 0:
        raise UsageError("there are no rows: mutual information needs labelled rows")
    if n_permutations < 1:
        raise UsageError(f"{n_permutations} permutations have no spread: ask for at least 1")
    cluster_counts, label_counts = np.bincount(cluster_codes), np.bincount(label_codes)
    n_clusters, n_labels = len(cluster_counts), len(label_counts)
    if n_labels < 2:
        raise UsageError(f"all {n} rows have one label: mutual information needs at least two")
    pairs, counts = np.unique(cluster_codes * n_labels + label_codes, return_counts=True)
    pair_clusters, pair_labels = np.divmod(pairs, n_labels)
    h_clusters, h_labels = _entropy(cluster_counts), _entropy(label_counts)
    nats = max(0.0, h_clusters + h_labels - _entropy(counts))  # below 0 is rounding

    table = sparse.csr_matrix((counts, (pair_clusters, pair_labels)), shape=(n_clusters, n_labels))
    permuted = max(0.0, float(expected_mutual_information(table, n)))
    random = np.random.default_rng(seed)
    drawn, purities = np.empty(n_permutations), np.empty((n_permutations, 2))
    for i in range(n_permutations):
        joint, joint_counts = np.unique(cluster_codes * n_labels + random.permutation(label_codes), return_counts=True)
        drawn[i] = h_clusters + h_labels - _entropy(joint_counts)
        purities[i] = [_largest(groups, joint_counts) / n for groups in np.divmod(joint, n_labels)]
    mean_entropy = (h_clusters + h_labels) / 2
    # of equal partitions into single rows every permutation is equal too, and AMI would be 0 / 0
    equal = len(pairs) == n_clusters == n_labels

    return Score(
        nats=nats,
        normalized=nats / h_labels,
        adjusted=1.0 if equal else (nats - permuted) / (mean_entropy - permuted),
        permuted=permuted,
        permuted_std=float(np.sqrt(((drawn - permuted) ** 2).mean())),
        corrected=nats - permuted,
        phone_purity=_largest(pair_clusters, counts) / n,
        cluster_purity=_largest(pair_labels, counts) / n,
        permuted_phone_purity=float(purities[:, 0].mean()),
        permuted_cluster_purity=float(purities[:, 1].mean()),
        v_measure=nats / mean_entropy,
        label_entropy=h_labels,
        cluster_entropy=h_clusters,
        n=n,
        n_labels=n_labels,
        n_clusters=n_clusters,
    )


def without_each(clusters: np.ndarray, labels: np.ndarray, groups: np.ndarray, n_groups: int) -> list[Score]:
    """Scores without the rows of each group 0 … n_groups - 1 in turn, for a jackknife; ``groups`` (n,): that of each
    row.

    None at all for a single group, and where fewer than two labels would be left.
    """
    kept = [groups != group for group in range(n_groups)]
    if n_groups < 2 or any(len(np.unique(labels[which])) < 2 for which in kept):
        return []
    return [score(clusters[which], labels[which], n_permutations=1) for which in kept]


def _rows(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2:
        raise UsageError(f"clusters need features of shape (rows, width), not {features.shape}")
    # row by row would be slow, and a mask of everything as large as the features
    for start in range(0, len(features), 4096):
        finite = np.isfinite(features[start : start + 4096]).all(1)
        if not finite.all():
            raise FeatureError(f"row {start + int(np.argmin(finite))} of the features has values that are not finite")
    return features


def _codes(values: np.ndarray, name: str) -> np.ndarray:
    """Values (n,) as integers 0, 1, … without gaps."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise UsageError(f"{name} need one value for each row, not the shape {values.shape}")
    if values.dtype != object:
        return np.unique(values, return_inverse=True)[1]
    seen: dict = {}  # objects of several types have no order, only equality
    return np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.int64)


def _entropy(counts: np.ndarray) -> float:
    """Entropy in nats of positive counts."""
    n = counts.sum()
    return max(0.0, float(np.log(n) - counts @ np.log(counts) / n))  # below 0 is rounding


def _largest(groups: np.ndarray, counts: np.ndarray) -> int:
    """Sum over groups of the largest count in each."""
    largest = np.zeros(groups.max() + 1, np.int64)
    np.maximum.at(largest, groups, counts)
    return int(largest.sum())
