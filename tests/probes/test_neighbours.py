import numpy as np
import pytest
import spread
from probes import slowly
from refusals import refused

from layertool.errors import FeatureError
from layertool.probes import neighbours
from layertool.probes.neighbours import classify


def clusters(spread: float, n_groups: int = 10, seed: int = 0):
    """Four classes on the corners of a square, every class in every group."""
    random = np.random.default_rng(seed)
    labels = np.tile(np.repeat(np.arange(4), 5), n_groups)
    groups = np.repeat(np.arange(n_groups), 20)
    centres = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=float)
    return centres[labels] + spread * random.standard_normal((len(labels), 2)), labels, groups


@pytest.mark.parametrize("method", ["centroid", "knn"])
def test_separated_classes_are_all_found(method):
    score = classify(*clusters(0.01), method=method)
    assert (score.value, score.ci_low, score.ci_high, score.n, score.n_folds) == (1, 1, 1, 200, 5)
    assert score.majority == 0.25


def test_noise_is_at_chance():
    random = np.random.default_rng(1)
    features = random.standard_normal((2000, 8))
    labels, groups = random.integers(0, 4, 2000), np.repeat(np.arange(40), 50)
    score = classify(features, labels, groups)
    assert abs(score.value - 0.25) < 0.04
    assert abs(score.permuted - 0.25) < 0.04
    assert score.ci_low < score.value < score.ci_high


def test_groups_are_kept_apart():
    """Features that only say which group a row is of tell nothing about labels that go with the group."""
    groups = np.repeat(np.arange(20), 10)
    labels = groups % 2
    random = np.random.default_rng(0)
    features = random.standard_normal((20, 30))[groups] + 1e-3 * random.standard_normal((200, 30))
    assert classify(features, labels, groups, method="knn", n_folds=20).value < 0.7
    shuffled = np.random.default_rng(0).permutation(200)  # rows of one group on both sides: the leak
    assert classify(features, labels, shuffled, method="knn", n_folds=5).value == 1


def test_scale_of_a_dimension_does_not_matter():
    features, labels, groups = clusters(0.3)
    scaled = features * [1.0, 1000.0] + [5.0, -300.0]
    assert classify(features, labels, groups) == classify(scaled, labels, groups)


def test_same_seed_same_numbers():
    assert classify(*clusters(0.5), seed=3) == classify(*clusters(0.5), seed=3)


def test_errors():
    features, labels, groups = clusters(0.1)
    refused("'svm' is no method", classify, features, labels, groups, method="svm")
    refused("at least two of each", classify, features, np.zeros(len(labels)), groups)
    refused("at least two of each", classify, features, labels, np.zeros(len(labels)))


def rows(n: int = 120, n_labels: int = 4, n_groups: int = 13, seed: int = 0):
    """Overlapping classes, groups of unequal size, dimensions of unequal scale; numbers as names sort as text."""
    random = np.random.default_rng(seed)
    labels, groups = random.integers(0, n_labels, n), random.integers(0, n_groups, n)
    features = 1.2 * random.standard_normal((n_labels, 3))[labels] + random.standard_normal((n, 3))
    return features * [1, 30, 0.01] + [5, 0, -7], labels, groups


@pytest.mark.slow
@pytest.mark.parametrize(("method", "k"), [("centroid", 5), ("knn", 1), ("knn", 4), ("knn", 5), ("knn", 100)])
@pytest.mark.parametrize(("n_folds", "seed"), [(2, 0), (5, 1), (50, 2)])
def test_value_majority_permuted_and_interval(monkeypatch, method, k, n_folds, seed):
    features, labels, groups = rows(seed=seed)
    random = np.random.default_rng(seed)
    drawn = [random.permutation(labels) for _ in range(neighbours.N_PERMUTATIONS)]
    monkeypatch.setattr(neighbours, "_permuted", lambda *_: drawn)
    score = classify(features, labels, groups, method, k, n_folds, seed)
    folds, names = min(n_folds, 13), groups.astype(str)
    hits = np.array(slowly.hits(features, labels, names, method, k, folds))
    assert 0.3 < hits.mean() < 0.95 or k == 100
    assert score.value == pytest.approx(hits.mean(), abs=1e-12)
    permuted = [np.mean(slowly.hits(features, other, names, method, k, folds)) for other in drawn]
    assert score.permuted == pytest.approx(np.mean(permuted), abs=1e-12)
    assert score.majority == np.max(np.bincount(labels)) / 120
    assert (score.n, score.n_folds) == (120, folds)
    dealt = np.random.default_rng(seed).permutation(13) % 10
    left_out = []
    for part in range(10):
        unheard = [name for name, of in zip(sorted(set(names)), dealt, strict=True) if of == part]
        found = np.array(slowly.hits(features, labels, names, method, k, folds, unheard))
        left_out.append(found[~np.isin(names, unheard)].mean())
    expected = np.clip(spread.jackknife(score.value, left_out), 0, 1)
    assert (score.ci_low, score.ci_high) == pytest.approx(tuple(expected), abs=1e-12)


def test_ties_of_votes_go_to_the_nearest():
    """Row 0 has y at 1, z at -1.15 and 2.3, y at -2.4: y wins."""
    features = np.array([[0.0], [1.0], [-1.15], [2.3], [-2.4], [50.0]])
    labels, groups = np.array(list("yyzzyx")), np.arange(6)
    one = slowly.hits(features, labels, groups, "knn", 4, 6)
    assert one[0]
    assert classify(features, labels, groups, "knn", 4, 6).value == np.mean(one)
    assert neighbours._vote(np.array([[3, 1, 1, 3], [0, 2, 2, 1], [2, 1, 0, 3], [1, 1, 0, 0]])).tolist() == [3, 2, 2, 1]


@pytest.mark.parametrize("method", ["centroid", "knn"])
def test_a_label_of_one_group_is_never_found(method):
    features, labels, groups = clusters(0.01)
    labels = np.where(groups == 3, 9, labels)
    score = classify(features, labels, groups, method)
    assert 0.88 < score.value <= 0.9  # five of them may stand together, and win a vote elsewhere
    assert score.ci_low < 0.9
    assert classify(features, groups, groups, method).value == 0


@pytest.mark.parametrize("method", ["centroid", "knn"])
def test_one_label_alone_in_training(method):
    """Two groups: what is known of each is the one label of the other."""
    features = np.random.default_rng(0).standard_normal((20, 2))
    groups = np.repeat([0, 1], 10)
    assert classify(features, groups, groups, method).value == 0
    labels = np.r_[np.zeros(10), np.zeros(5), np.ones(5)]
    assert 0.25 <= classify(features, labels, groups, method).value <= 0.75  # 5 of group 1, 0 to 10 of group 0


def test_labels_of_groups_are_permuted_among_groups():
    random = np.random.default_rng(0)
    groups = random.permutation(np.repeat(np.arange(12), np.arange(1, 13)))
    of_group = np.arange(12) % 3
    changed = 0
    for other in neighbours._permuted(of_group[groups], groups, 0):
        now = np.array([set(other[groups == g]) for g in range(12)])
        assert all(len(s) == 1 for s in now)
        assert sorted(min(s) for s in now) == sorted(of_group)
        changed += any(other != of_group[groups])
    assert changed > 40


def test_labels_of_rows_are_permuted_among_all_rows():
    groups, labels = np.repeat(np.arange(10), 20), np.arange(200) % 4
    labels[groups == 0] = 0  # one constant group does not make them labels of groups
    for other in neighbours._permuted(labels, groups, 0):
        assert sorted(other) == sorted(labels)
        assert len(set(other[groups == 0])) > 1
        assert abs((other == labels).mean() - 0.25) < 0.1


@pytest.mark.slow
def test_permuted_is_the_chance_of_labels_of_groups():
    """Groups that differ, labels of groups that have nothing to do with it: value and permuted have one mean.

    Not so were rows permuted: a group left out leaves its own label rarer in training, and is at less than a half.
    """
    differences, values = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        groups = np.repeat(np.arange(8), 5)
        features = random.standard_normal((8, 4))[groups] + 0.1 * random.standard_normal((40, 4))
        score = classify(features, random.permutation(np.arange(8) % 2)[groups], groups, "knn", 15, 8, seed)
        values.append(score.value)
        differences.append(score.value - score.permuted)
    error = np.std(differences, ddof=1) / np.sqrt(40)
    assert abs(np.mean(differences)) < 4 * error
    assert np.mean(values) < 0.45


def test_order_of_rows_and_type_of_names_do_not_matter():
    features, labels, groups = rows(seed=4)
    mixed = np.random.default_rng(0).permutation(120)
    for method in neighbours.METHODS:
        one = classify(features, labels, groups, method)
        other = classify(features[mixed], labels[mixed], groups[mixed].astype(str), method)
        assert (other.value, other.ci_low, other.ci_high) == pytest.approx((one.value, one.ci_low, one.ci_high))


def test_seed_changes_the_chance_and_the_interval_alone():
    one, other = (classify(*rows(), seed=seed) for seed in (0, 1))
    assert one.value == other.value
    assert one.permuted != other.permuted
    assert one.ci_low != other.ci_low


@pytest.mark.parametrize("method", ["centroid", "knn"])
def test_a_constant_dimension_does_not_matter(method):
    features, labels, groups = rows()
    assert classify(np.c_[features, np.full(120, 7.0)], labels, groups, method) == classify(
        features, labels, groups, method
    )


def test_constant_features_tell_nothing():
    labels, groups = np.tile([0, 0, 1], 20), np.repeat(np.arange(10), 6)
    assert classify(np.ones((60, 2)), labels, groups).value < 0.7


@pytest.mark.filterwarnings("error")
def test_no_warning_of_a_constant_dimension():
    features, labels, groups = rows()
    classify(np.c_[features, np.ones(120)], labels, groups)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["centroid", "knn"])
def test_values_that_are_not_finite(method, value):
    features, labels, groups = rows()
    features[17, 1] = features[90, 0] = value
    refused("row 17 is not all finite", classify, features, labels, groups, method, error=FeatureError)


def test_no_neighbours_and_no_folds():
    refused("0 neighbours and 5 folds", classify, *rows(), method="knn", n_neighbours=0)
    refused("5 neighbours and 1 folds", classify, *rows(), n_folds=1)
    refused("at least two of each", classify, np.zeros((0, 3)), np.zeros(0), np.zeros(0))
