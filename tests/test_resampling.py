import numpy as np
import pytest
from scipy import stats
from scipy.stats import spearmanr

from layertool import resampling


@pytest.mark.parametrize("n", [2, 7, 200])
def test_each_resample_draws_as_many_clusters_as_there_are(n):
    drawn = resampling.counts(n, 0)
    assert drawn.shape == (1000, n)
    assert drawn.min() >= 0
    assert (drawn.sum(1) == n).all()
    # mean 1 over 1000 resamples, standard error sqrt((1 - 1/n) / 1000): five of them
    assert np.abs(drawn.mean(0) - 1).max() <= 5 * np.sqrt((1 - 1 / n) / 1000)


def test_a_cluster_is_left_out_as_often_as_with_replacement():
    """(1 - 1/n)^n of the draws, 0.3585 for 20: not one each, and not a permutation."""
    share = (resampling.counts(20, 1, 5000) == 0).mean()
    assert abs(share - 0.95**20) < 0.01


def test_draws_follow_the_seed():
    assert (resampling.counts(9, 3) == resampling.counts(9, 3)).all()
    assert (resampling.counts(9, 3) != resampling.counts(9, 4)).any()


def test_interval_is_the_middle_95_percent_of_many_clusters():
    random = np.random.default_rng(0)
    assert resampling.interval(random.permutation(1001) / 1000, 10**7) == pytest.approx((0.025, 0.975), abs=1e-6)


@pytest.mark.parametrize("n", [5, 10, 40])
def test_few_clusters_make_a_wide_interval(n):
    """Of a mean of normal values the resampled means are normal, and the interval is Student's."""
    values = np.random.default_rng(n).standard_normal(n)
    spread = values.std() / np.sqrt(n)  # of resampled means, exactly
    normal = values.mean() + spread * stats.norm.ppf((np.arange(10**6) + 0.5) / 10**6)
    expected = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert resampling.interval(normal, n) == pytest.approx(expected, abs=1e-3 * spread)


def test_interval_leaves_out_what_is_not_defined():
    values = np.r_[np.full(400, np.nan), np.linspace(0, 1, 601)]
    assert resampling.interval(values, 10**7) == pytest.approx((0.025, 0.975), abs=1e-6)
    assert resampling.interval(np.r_[np.full(501, np.nan), np.arange(499.0)], 9) == (None, None)
    assert resampling.interval(np.r_[np.full(500, np.nan), np.arange(500.0)], 9) != (None, None)
    assert resampling.interval(np.full(1000, np.nan), 9) == (None, None)
    assert resampling.interval(np.arange(100.0), 9) != (None, None)


@pytest.mark.parametrize("n_values", [3, 6, 10**6])
@pytest.mark.parametrize("n", [4, 15])
def test_weighted_spearman_is_that_of_repeated_items(n, n_values):
    random = np.random.default_rng(n)
    x = random.integers(0, n_values, n).astype(float)
    y = 0.3 * x + random.integers(0, n_values, n)
    weights = np.vstack([np.ones(n, int), resampling.counts(n, 0, 200), random.integers(0, 9, (50, n))])
    got = resampling.weighted_spearman(x, y, weights)
    n_defined = 0
    for row, value in zip(weights, got, strict=True):
        a, b = np.repeat(x, row), np.repeat(y, row)
        if (row > 0).sum() < 3 or len(set(a)) < 2 or len(set(b)) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
            n_defined += 1
    assert n_defined > 100
    assert got[0] == pytest.approx(resampling.spearman(x, y), abs=1e-12)


def test_weighted_spearman_of_many_items():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 2000)).round(2)
    weights = resampling.counts(2000, 0, 3)
    expected = [spearmanr(np.repeat(x, row), np.repeat(y, row)).statistic for row in weights]
    np.testing.assert_allclose(resampling.weighted_spearman(x, y, weights), expected, atol=1e-12)
    one_differs = np.r_[np.ones(1999), 2.0]  # nearly constant is not constant
    expected = spearmanr(one_differs, y).statistic
    assert resampling.weighted_spearman(one_differs, y, np.ones((1, 2000)))[0] == pytest.approx(expected, abs=1e-9)


def test_weighted_spearman_follows_ranks_alone():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 12))
    weights = resampling.counts(12, 0, 50)
    one = resampling.weighted_spearman(x, y, weights)
    np.testing.assert_allclose(resampling.weighted_spearman(np.exp(x), y**3, weights), one, atol=1e-12)
    np.testing.assert_allclose(resampling.weighted_spearman(y, x, weights), one, atol=1e-12)
    np.testing.assert_allclose(resampling.weighted_spearman(x, -y, weights), -one, atol=1e-12)
    np.testing.assert_allclose(resampling.weighted_spearman(x, y, 3 * weights), one, atol=1e-12)
    np.testing.assert_allclose(resampling.weighted_spearman(x, x, weights), 1, atol=1e-12)


def test_spearman_without_an_answer():
    x = np.arange(5.0)
    for a, b in ((x[:2], x[:2]), (x, np.ones(5)), (np.ones(5), x), (x[:0], x[:0])):
        assert np.isnan(resampling.spearman(a, b))
    weights = np.array([[5, 0, 0, 0, 0], [4, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 1, 1, 3]])
    y = np.array([1.0, 1.0, 1.0, 2.0, 3.0])
    got = resampling.weighted_spearman(x, y, weights)
    assert np.isnan(got[:4]).all()  # one item, two, none, a constant
    assert got[4] == pytest.approx(1)
    assert np.isnan(resampling.weighted_spearman(x, np.ones(5), np.ones((1, 5)))).all()


def test_one_cluster_has_no_interval():
    drawn = resampling.counts(1, 0)
    assert not drawn.any()
    with np.errstate(invalid="ignore"):
        assert resampling.interval((drawn @ np.array([3.0])) / drawn.sum(1), 9) == (None, None)


def test_one_group_has_no_jackknife():
    assert resampling.jackknife(0.5, []) == (None, None)
    assert resampling.jackknife(0.5, [0.4]) == (None, None)
    assert resampling.jackknife(0.5, [0.4, 0.4]) == (0.5, 0.5)


def test_the_interval_of_a_mean_is_that_of_the_textbook():
    """For a mean of equal groups the jackknife is Student's interval of the groups' means."""
    groups = np.random.default_rng(0).standard_normal((8, 30)).mean(1)
    left_out = [np.delete(groups, k).mean() for k in range(8)]
    expected = stats.t.interval(0.95, 7, groups.mean(), stats.sem(groups))
    assert resampling.jackknife(groups.mean(), left_out) == pytest.approx(expected, abs=1e-12)
