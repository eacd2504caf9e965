import math

import numpy as np
import pytest
from refusals import refused
from sklearn import metrics

from layertool.analysis import mi
from layertool.errors import FeatureError


def related(n: int = 600, n_clusters: int = 12, n_labels: int = 7, seed: int = 0):
    """Clusters that tell something about the labels, both of uneven sizes."""
    random = np.random.default_rng(seed)
    labels = (n_labels * random.random(n) ** 2).astype(int)
    clusters = np.where(random.random(n) < 0.5, labels, (n_clusters * random.random(n) ** 1.5).astype(int))
    return clusters, labels


def plain_nats(clusters, labels) -> float:
    """Mutual information as in the textbook: one cell after the other."""
    total = 0.0
    for c in set(clusters):
        for y in set(labels):
            joint, in_c, in_y = np.mean((clusters == c) & (labels == y)), np.mean(clusters == c), np.mean(labels == y)
            if joint:
                total += joint * math.log(joint / (in_c * in_y))
    return total


def blobs(n_each: int = 40, offset: float = 0.0, seed: int = 0):
    """Eight clouds of standard deviation 0.1 on the corners of a cube of edge 2."""
    random = np.random.default_rng(seed)
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    labels = random.permutation(np.repeat(np.arange(8), n_each))
    return offset + corners[labels] + 0.1 * random.standard_normal((len(labels), 3)), labels


def test_equal_partitions_reach_the_ceiling():
    _, labels = related()
    score = mi.score((labels * 5 + 3) % 7, labels)
    shares = np.bincount(labels) / len(labels)
    assert score.nats == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-12)
    assert score.label_entropy == pytest.approx(score.nats, abs=1e-12)
    for value in (score.normalized, score.adjusted, score.v_measure, score.phone_purity, score.cluster_purity):
        assert value == pytest.approx(1, abs=1e-12)


def test_every_score_survives_relabelling():
    clusters, labels = related()
    names = np.array([f"p{7 - i}" for i in range(7)])
    direct, renamed = mi.score(clusters, labels), mi.score(1000 - 3 * clusters, names[labels])
    for field in direct.__dataclass_fields__:
        tolerance = 0.01 if field == "permuted_std" else 1e-12  # other names, other draws
        assert getattr(renamed, field) == pytest.approx(getattr(direct, field), abs=tolerance), field


def test_mutual_information_is_symmetric_and_purities_swap():
    clusters, labels = related()
    one, other = mi.score(clusters, labels), mi.score(labels, clusters)
    assert other.nats == pytest.approx(one.nats, abs=1e-12)
    assert other.adjusted == pytest.approx(one.adjusted, abs=1e-12)
    assert (other.phone_purity, other.cluster_purity) == (one.cluster_purity, one.phone_purity)
    assert one.phone_purity != one.cluster_purity


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_equal_slow_and_other_implementations(seed):
    clusters, labels = related(seed=seed)
    score = mi.score(clusters, labels)
    assert score.nats == pytest.approx(plain_nats(clusters, labels), abs=1e-12)
    assert score.nats == pytest.approx(metrics.mutual_info_score(labels, clusters), abs=1e-12)
    assert score.adjusted == pytest.approx(metrics.adjusted_mutual_info_score(labels, clusters), abs=1e-10)
    assert score.v_measure == pytest.approx(metrics.v_measure_score(labels, clusters), abs=1e-12)
    assert score.normalized == pytest.approx(metrics.homogeneity_score(labels, clusters), abs=1e-12)
    assert score.cluster_entropy == pytest.approx(plain_nats(clusters, clusters), abs=1e-12)


@pytest.mark.parametrize(
    ("n", "n_clusters", "n_labels", "nats"),
    [(7600, mi.PHONE_CLUSTERS, 39, 1.16), (6900, mi.WORD_CLUSTERS, 500, 5.46)],
)
def test_random_clusters_look_good_until_corrected(n, n_clusters, n_labels, nats):
    random = np.random.default_rng(0)
    score = mi.score(random.integers(0, n_clusters, n), random.integers(0, n_labels, n), n_permutations=3)
    assert score.nats == pytest.approx(nats, rel=0.02)
    assert abs(score.adjusted) < 0.01
    assert abs(score.corrected) < 0.02
    assert score.permuted == pytest.approx(nats, rel=0.02)


def test_chance_level_and_spread_are_those_of_permuted_labels():
    clusters, labels = related()
    score, random = mi.score(clusters, labels, n_permutations=200), np.random.default_rng(9)
    drawn = [metrics.mutual_info_score(random.permutation(labels), clusters) for _ in range(400)]
    assert score.permuted == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20)
    assert score.permuted_std == pytest.approx(np.std(drawn), rel=0.25)
    assert score.corrected == score.nats - score.permuted
    assert score.corrected > 10 * score.permuted_std


def test_purities_by_hand():
    #         label a  b  c
    # cluster 0     3  1  0
    # cluster 1     2  2  1
    # cluster 2     0  0  1
    clusters = np.repeat([0, 0, 1, 1, 1, 2], [3, 1, 2, 2, 1, 1])
    labels = np.repeat(list("ababcc"), [3, 1, 2, 2, 1, 1])
    score = mi.score(clusters, labels)
    assert score.phone_purity == pytest.approx((3 + 2 + 1) / 10)
    assert score.cluster_purity == pytest.approx((3 + 2 + 1) / 10)
    assert (score.n, score.n_labels, score.n_clusters) == (10, 3, 3)
    one_cluster_more = mi.score(np.r_[clusters, 3, 3], np.r_[labels, ["b", "b"]])
    assert one_cluster_more.phone_purity == pytest.approx((3 + 2 + 1 + 2) / 12)
    assert one_cluster_more.cluster_purity == pytest.approx((3 + 2 + 1) / 12)


def test_one_cluster_tells_nothing():
    score = mi.score(np.zeros(6, int), np.array(list("aabbbc")))
    assert (score.nats, score.cluster_entropy, score.cluster_purity, score.phone_purity) == (0, 0, 1, 0.5)
    assert score.adjusted == pytest.approx(0, abs=1e-12)


def test_a_cluster_for_every_row_tells_nothing_beyond_chance():
    score = mi.score(np.arange(60), np.arange(60) % 5)
    assert score.normalized == pytest.approx(1, abs=1e-12)
    assert score.adjusted == pytest.approx(0, abs=1e-9)
    assert mi.score(np.arange(60), np.arange(60)).adjusted == 1


def test_values_need_no_order():
    clusters, labels = related()
    names = np.empty(7, object)
    names[:] = ["a", 1, ("t", 2), 3.5, frozenset("x"), b"b", "z"]
    assert mi.score(clusters, names[labels]).nats == pytest.approx(mi.score(clusters, labels).nats, abs=1e-12)


@pytest.mark.parametrize(
    ("clusters", "labels", "words"),
    [
        ([0, 1, 1], ["a", "b"], "3 clusters for 2 labels"),
        ([], [], "no rows"),
        ([0, 1, 2], ["a", "a", "a"], "one label"),
        ([[0, 1]], ["a", "b"], r"shape \(1, 2\)"),
    ],
)
def test_what_cannot_be_scored_is_said(clusters, labels, words):
    refused(words, mi.score, clusters, labels)


def test_no_permutations_is_an_error():
    refused("at least 1", mi.score, [0, 1], ["a", "b"], n_permutations=0)


@pytest.mark.parametrize("offset", [0.0, 1e4])  # in float32, 1e4 squared leaves no digits for the distances
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_separated_clouds_are_recovered(offset, dtype):
    features, labels = blobs(offset=offset)
    clusters = mi.fit_clusters(features.astype(dtype), 8)
    fresh, fresh_labels = blobs(offset=offset, seed=1)
    assert mi.score(clusters.assign(features.astype(dtype)), labels).adjusted == pytest.approx(1)
    assert mi.score(clusters.assign(fresh.astype(dtype)), fresh_labels).adjusted == pytest.approx(1)
    assert clusters.centroids.shape == (8, 3)


@pytest.mark.parametrize("offset", [5, 1e9])  # the square of 1e9 leaves no digits even in float64
def test_assignment_in_blocks_is_the_nearest_centroid(monkeypatch, offset):
    random = np.random.default_rng(0)
    clusters, rows = mi.Clusters(random.standard_normal((11, 4)) + offset), random.standard_normal((101, 4)) + offset
    nearest = ((rows[:, None] - clusters.centroids) ** 2).sum(2).argmin(1)
    np.testing.assert_array_equal(clusters.assign(rows), nearest)
    monkeypatch.setattr(mi, "_BLOCK_BYTES", 8 * 11 * 7)  # blocks of 7 rows
    np.testing.assert_array_equal(clusters.assign(rows), nearest)
    assert clusters.assign(rows[:0]).shape == (0,)


def test_seeded_runs_are_identical():
    features = np.random.default_rng(0).standard_normal((400, 5)).astype(np.float32)
    first, again, other = (mi.fit_clusters(features, 20, batch_size=100, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.centroids, again.centroids)
    assert not np.array_equal(first.centroids, other.centroids)
    labels = np.arange(400) % 9
    codes = first.assign(features)
    assert mi.score(codes, labels, seed=1) == mi.score(codes, labels, seed=1)
    assert mi.score(codes, labels, seed=1).permuted_std != mi.score(codes, labels, seed=2).permuted_std


def test_fitting_needs_a_row_for_each_cluster():
    features = np.random.default_rng(0).standard_normal((30, 2))
    refused(r"there are 30: type --clusters 30 or fewer", mi.fit_clusters, features, 31)
    refused("at least 1", mi.fit_clusters, features, 0)
    assert mi.fit_clusters(features, 30).centroids.shape == (30, 2)


def test_features_that_cannot_be_clustered_are_named():
    features = np.zeros((5000, 2))
    features[4500, 1] = np.nan
    refused("row 4500", mi.fit_clusters, features, 2, error=FeatureError)
    clusters = mi.Clusters(np.eye(2))
    refused("row 4500", clusters.assign, features, error=FeatureError)
    refused("2 dimensions, these features have 3", clusters.assign, np.zeros((4, 3)))
    refused(r"not \(4,\)", clusters.assign, np.zeros(4))


def test_clusters_fitted_in_place_are_the_same():
    features = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32) + 3
    before = features.copy()
    one = mi.fit_clusters(features, 5)
    np.testing.assert_array_equal(features, before)
    other = mi.fit_clusters(features, 5, overwrite=True)
    np.testing.assert_array_equal(one.centroids, other.centroids)
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-6)  # nothing was copied


def standard_blobs(seed: int = 0):
    """The cube's corners again, one axis stretched, and a column of large numbers that says something else."""
    features, labels = blobs(seed=seed)
    random = np.random.default_rng(seed + 50)
    other = 1000 + 100 * random.integers(0, 8, len(labels))
    return np.column_stack([features * [1, 10, 0.01], other, np.full(len(labels), 7.3)]), labels, other


def test_standardised_clusters_do_not_follow_the_largest_column():
    features = standard_blobs()[0]
    fresh, fresh_labels, fresh_other = standard_blobs(1)
    plain, even = (mi.fit_clusters(features, 8, standardise=which).assign(fresh) for which in (False, True))
    assert mi.score(plain, fresh_other).adjusted > 0.9
    assert mi.score(plain, fresh_labels).adjusted < 0.05
    assert mi.score(even, fresh_labels).adjusted > 0.6


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_standardised_clusters_are_those_of_standardised_columns(dtype):
    """By hand: mean and population deviation of the fit's rows; a constant column is not looked at, even later."""
    features, _, _ = standard_blobs()
    fresh, _, _ = standard_blobs(1)
    fresh[:, 4] += 3
    mean, deviation = features.mean(0), features.std(0)
    deviation[4] = np.inf
    by_hand = mi.fit_clusters((features - mean) / deviation, 12, seed=4)
    found = mi.fit_clusters(features.astype(dtype), 12, seed=4, standardise=True)
    assert np.isfinite(found.centroids).all()
    same = found.assign(fresh.astype(dtype)) == by_hand.assign((fresh - mean) / deviation)
    assert same.mean() > 0.98  # float32 may move a row that lies between two
    scaled = mi.fit_clusters((features * 1000).astype(dtype), 12, seed=4, standardise=True)
    assert (scaled.assign(fresh * 1000) == found.assign(fresh)).mean() > 0.98


def test_scores_without_each_group():
    clusters, labels = related()
    groups = np.arange(600) // 100
    found = mi.without_each(clusters, labels, groups, 6)
    assert len(found) == 6
    for k, one in enumerate(found):
        kept = groups != k
        assert one.nats == pytest.approx(metrics.mutual_info_score(labels[kept], clusters[kept]), abs=1e-12)
        assert one.adjusted == pytest.approx(
            metrics.adjusted_mutual_info_score(labels[kept], clusters[kept]), abs=1e-10
        )
    assert mi.without_each(clusters, labels, groups * 0, 1) == []
    assert mi.without_each(clusters, np.where(groups == 2, 1, 0), groups, 6) == []  # one label without the third
