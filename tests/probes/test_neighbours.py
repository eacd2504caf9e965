import numpy as np
import pytest

from layertool.errors import UsageError
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
    with pytest.raises(UsageError, match="'svm' is no method"):
        classify(features, labels, groups, method="svm")
    with pytest.raises(UsageError, match="at least two of each"):
        classify(features, np.zeros(len(labels)), groups)
    with pytest.raises(UsageError, match="at least two of each"):
        classify(features, labels, np.zeros(len(labels)))
