"""SpEAT: golden values of the original formula, slow loops over relabellings and resamples, invariances."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from refusals import refused
from scipy import stats

from layertool.analysis import speat
from layertool.errors import FeatureError

# spec speat.md 1.11: v(i)[j] = sin(1 + 3i + 7j + .5ij)
V = np.array([[math.sin(1 + 3 * i + 7 * j + 0.5 * i * j) for j in range(5)] for i in range(15)])
X, Y, A, B = V[:4], V[4:8], V[8:11], V[11:15]


def cosine(u, v):
    return sum(a * b for a, b in zip(u, v, strict=True)) / (math.hypot(*u) * math.hypot(*v))


def s_of(w, a, b):
    return sum(cosine(w, v) for v in a) / len(a) - sum(cosine(w, v) for v in b) / len(b)


def slow_d(s_x, s_y):
    both = [*s_x, *s_y]
    mean = sum(both) / len(both)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in both) / (len(both) - 1))
    return (sum(s_x) / len(s_x) - sum(s_y) / len(s_y)) / deviation


def groups(n_x=12, n_y=9, n_a=5, n_b=7, width=6, seed=0, bias=0.0):
    random = np.random.default_rng(seed)
    x, y, a, b = (random.standard_normal((n, width)) for n in (n_x, n_y, n_a, n_b))
    a[:, 0] += 2
    b[:, 0] -= 2
    x[:, 0] += bias
    return x, y, a, b


# --- golden values ----------------------------------------------------------------------------------------


def test_golden_values():
    assert speat.associations(X, A, B) == pytest.approx([-0.0849571, -0.0224182, -0.27661055, -0.01053576], abs=5e-8)
    assert speat.associations(Y, A, B) == pytest.approx([0.32207711, 0.19169077, -0.11827583, -0.33282199], abs=5e-8)
    found = speat.association_test(X, Y, A, B)
    assert found.d == pytest.approx(-0.5218378318828488, abs=1e-12)
    assert (found.p, found.exact, found.n_permutations) == (52 / 70, True, 70)
    assert found.p == pytest.approx(0.742857142857, abs=1e-12)


def test_other_alternatives_of_the_golden_data():
    """51 of 70 sums are above the observed one, one is it: 19 + 1 are at most it; p of both sides by enumeration."""
    s = [s_of(w, A, B) for w in V[:8]]
    observed = sum(s[:4]) - sum(s) / 2
    sums = [sum(s[i] for i in chosen) - sum(s) / 2 for chosen in combinations(range(8), 4)]
    both = sum(abs(v) >= abs(observed) - 1e-12 for v in sums) / 70
    assert speat.association_test(X, Y, A, B, alternative="less").p == 19 / 70
    assert speat.association_test(X, Y, A, B, alternative="two-sided").p == both


def test_the_largest_effect():
    """Four items all alike against four others: |d| = 2 sqrt((2n - 1) / 2n)."""
    x, y = np.tile([[1.0, 0.0]], (4, 1)), np.tile([[0.0, 1.0]], (4, 1))
    found = speat.association_test(x, y, x[:1], y[:1])
    assert found.d == pytest.approx(1.8708286933869707, abs=1e-12)
    assert found.p == 1 / 70


# --- slow references ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(2, 2, 1, 1), (12, 9, 5, 7), (3, 20, 2, 4)])
def test_d_of_loops(sizes):
    x, y, a, b = groups(*sizes)
    s_x, s_y = ([s_of(w, a, b) for w in part] for part in (x, y))
    assert speat.association_test(x, y, a, b, 100).d == pytest.approx(slow_d(s_x, s_y), abs=1e-12)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize(("n_x", "n_y"), [(5, 5), (4, 7), (8, 3)])
def test_exact_p_of_loops(n_x, n_y, alternative):
    """By differences of means, as sums would not do for groups of two sizes."""
    x, y, a, b = groups(n_x, n_y, bias=0.4)
    s = np.array([s_of(w, a, b) for w in [*x, *y]])

    def difference(chosen):
        mine = np.isin(np.arange(len(s)), chosen)
        return s[mine].mean() - s[~mine].mean()

    observed = difference(range(n_x))
    all_of_them = np.array([difference(chosen) for chosen in combinations(range(len(s)), n_x)])
    hits = {
        "greater": all_of_them >= observed - 1e-12,
        "less": all_of_them <= observed + 1e-12,
        "two-sided": np.abs(all_of_them) >= abs(observed) - 1e-12,
    }[alternative]
    found = speat.association_test(x, y, a, b, 10_000, alternative)
    assert (found.p, found.exact) == (hits.mean(), True)


def test_ties_count_whatever_their_rounding():
    """Items that occur twice make sums that are equal but for their last digit."""
    x, y, a, b = groups(4, 4)
    x[1], y[1], y[2] = x[0], x[2] * 3, x[0] * 0.1
    s = [round(s_of(w, a, b), 10) for w in [*x, *y]]
    hits = sum(sum(s[i] for i in chosen) >= sum(s[:4]) - 1e-8 for chosen in combinations(range(8), 4))
    assert speat.association_test(x, y, a, b).p == hits / 70


def test_sampled_p_is_near_the_exact_one():
    x, y, a, b = groups(9, 9, bias=0.5)
    exact = speat.association_test(x, y, a, b, 100_000)
    drawn = [speat.association_test(x, y, a, b, 20_000, seed=seed) for seed in range(5)]
    assert exact.exact
    assert not any(one.exact for one in drawn)
    error = math.sqrt(exact.p * (1 - exact.p) / 20_000)
    assert all(abs(one.p - exact.p) < 4 * error for one in drawn)
    assert len({one.p for one in drawn}) > 1
    assert speat.association_test(x, y, a, b, 20_000, seed=3) == drawn[3]


def test_the_observed_labelling_is_a_draw_and_a_hit():
    """p is never 0: at least 1 / number of permutations."""
    x, y, a, b = groups(30, 30, bias=50)
    assert speat.association_test(x, y, a, b, 1000).p == 1 / 1000
    assert speat.association_test(x, y, a, b, 1).p == 1.0


def test_exact_where_all_relabellings_are_few_enough():
    x, y, a, b = groups(8, 8)
    assert math.comb(16, 8) == 12_870
    assert speat.association_test(x, y, a, b, 12_870).exact
    assert not speat.association_test(x, y, a, b, 12_869).exact


def test_drawn_groups_are_uniform():
    counts: dict[tuple, int] = {}
    for members in speat._drawn_groups(5, 2, 20_000, 0):
        assert (members.sum(1) == 2).all()
        for row in members:
            counts[tuple(np.flatnonzero(row))] = counts.get(tuple(np.flatnonzero(row)), 0) + 1
    assert len(counts) == 10
    assert sum(counts.values()) == 20_000
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_equal_random_numbers_are_drawn_again(monkeypatch):
    """With four different numbers nearly every draw has ties; groups have their size and are uniform all the same."""
    source = np.random.default_rng(0)

    class Coarse:
        def integers(self, _low, _high, shape, dtype):
            return source.integers(0, 4, shape, dtype=dtype)

    monkeypatch.setattr(speat.np.random, "default_rng", lambda _seed: Coarse())
    drawn = np.concatenate(list(speat._drawn_groups(4, 2, 6000, 0)))
    assert (drawn.sum(1) == 2).all()
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.001


def test_layers_share_their_relabellings():
    """Many layers at once give what each gives alone."""
    random = np.random.default_rng(1)
    s = random.standard_normal((6, 30))
    together, exact, n = speat.permutation_p(s, 14, 3000, "greater", 5)
    assert (exact, n) == (False, 3000)
    for layer, p in zip(s, together, strict=True):
        assert speat.permutation_p(layer[None], 14, 3000, "greater", 5)[0] == [p]


def test_no_bias_is_uniform_in_p():
    """400 data sets without a difference: Kolmogorov and Smirnov find p uniform; with a planted one it is small."""

    def p_of(bias):
        found = [speat.association_test(*groups(10, 10, seed=seed, bias=bias), 1000, seed=seed) for seed in range(400)]
        return np.array([one.p for one in found])

    assert stats.kstest(p_of(0.0), "uniform").pvalue > 0.01
    assert (p_of(1.5) < 0.05).mean() > 0.6
    assert (p_of(-1.5) > 0.95).mean() > 0.6


# --- invariances ----------------------------------------------------------------------------------------------


def test_the_length_of_an_embedding_does_not_matter():
    x, y, a, b = groups()
    random = np.random.default_rng(7)
    scaled = [part * 10.0 ** random.uniform(-150, 150, (len(part), 1)) for part in (x, y, a, b)]
    mine, theirs = speat.association_test(x, y, a, b, 500), speat.association_test(*scaled, 500)
    assert theirs.d == pytest.approx(mine.d, abs=1e-12)
    assert theirs.p == mine.p


def test_swapping_turns_the_sign():
    x, y, a, b = groups(10, 10)
    d = speat.association_test(x, y, a, b, 10).d
    assert speat.association_test(y, x, a, b, 10).d == pytest.approx(-d, abs=1e-13)
    assert speat.association_test(x, y, b, a, 10).d == pytest.approx(-d, abs=1e-13)
    small = [part[:5] for part in (x, y)]
    greater = speat.association_test(*small, a, b).p
    assert speat.association_test(*small[::-1], a, b, alternative="less").p == greater


def test_a_rotation_of_all_embeddings_does_not_matter():
    parts = groups()
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 6)))[0]
    turned = speat.association_test(*(part @ rotation for part in parts), 10).d
    assert turned == pytest.approx(speat.association_test(*parts, 10).d, abs=1e-12)


def test_the_order_within_a_group_does_not_matter():
    x, y, a, b = groups(5, 5)
    mine, theirs = speat.association_test(x, y, a, b), speat.association_test(x[::-1], y, a[::-1], b)
    assert theirs.d == pytest.approx(mine.d, abs=1e-12)
    assert theirs.p == mine.p


# --- bootstrap --------------------------------------------------------------------------------------------------


def ends_of(resampled, d, n_x, n_y):
    """Symmetric in Fisher's z of the correlation of s with the group, with Student's t for a normal's 1.96."""
    n = n_x + n_y
    most = math.sqrt(n * (n - 1) / (n_x * n_y))
    apart = [abs(math.atanh(one / most) - math.atanh(d / most)) for one in resampled]
    half = np.percentile(apart, 95) * math.sqrt(n / (n - 2)) * stats.t.ppf(0.975, n - 2) / stats.norm.ppf(0.975)
    return tuple(most * math.tanh(math.atanh(d / most) + sign * half) for sign in (-1, 1))


def test_d_is_a_correlation():
    """With 0 and 1 for the groups: what its interval is built on."""
    s = np.random.default_rng(2).standard_normal(12)
    r = stats.pearsonr(s, np.arange(12) < 7).statistic
    assert slow_d(s[:7], s[7:]) == pytest.approx(r * math.sqrt(12 * 11 / 35), abs=1e-12)


def test_intervals_of_loops():
    """The same counts, item by item with multiplicity: every resampled d is that of a list with repetitions."""
    x, y, a, b = groups(7, 5)
    s = speat.associations(np.concatenate([x, y]), a, b)
    _, counts = speat._resamples(12, 7, 50, 3, None, False)
    assert (counts[:, :7].sum(1) == 7).all()
    assert (counts[:, 7:].sum(1) == 5).all()
    slow = [
        slow_d(*([s[i] for i in side for _ in range(int(row[i]))] for side in (range(7), range(7, 12))))
        for row in counts
    ]
    (found,) = speat.bootstrap(s[None], 7, 50, 3)
    assert (found.low, found.high) == pytest.approx(ends_of(slow, slow_d(s[:7], s[7:]), 7, 5), abs=1e-11)
    assert found.error == pytest.approx(np.std(slow, ddof=1), abs=1e-11)


def test_attributes_resampled_too():
    x, y, a, b = groups(7, 5, 4, 6)
    _, counts = speat._resamples(12, 7, 40, 3, None, False)
    random = np.random.default_rng([3, 1])
    of_a, of_b = (random.multinomial(k, np.full(k, 1 / k), 40) for k in (4, 6))
    slow = []
    for row, mine, theirs in zip(counts, of_a, of_b, strict=True):
        rows = [np.repeat(part, n, axis=0) for part, n in ((a, mine), (b, theirs))]
        drawn = [np.repeat(part, n.astype(int), axis=0) for part, n in ((x, row[:7]), (y, row[7:]))]
        slow.append(slow_d(*([s_of(w, *rows) for w in part] for part in drawn)))
    (found,) = speat.bootstrap_all(np.concatenate([x, y])[None], a[None], b[None], 7, 40, 3)
    d = speat.association_test(x, y, a, b, 10).d
    assert (found.low, found.high) == pytest.approx(ends_of(slow, d, 7, 5), abs=1e-10)


def test_strata_and_pairs():
    strata = ["f", "f", "m", "m", "m", "f", "m", "m", "f"]
    _, counts = speat._resamples(9, 5, 200, 0, strata, False)
    for side in (range(5), range(5, 9)):
        for stratum in "fm":
            mine = [i for i in side if strata[i] == stratum]
            assert (counts[:, mine].sum(1) == len(mine)).all()
    assert len(np.unique(counts, axis=0)) > 50
    _, paired = speat._resamples(8, 4, 200, 0, None, True)
    assert (paired[:, :4] == paired[:, 4:]).all()
    assert (paired[:, :4].sum(1) == 4).all()
    assert paired.max() > 1  # with multiplicity
    refused("5 and 4 items are no pairs", speat._resamples, 9, 5, 10, 0, None, True)
    refused("different strata", speat._resamples, 4, 2, 10, 0, ["f", "m", "f", "f"], True)


def test_an_interval_never_leaves_what_d_can_be():
    """Two of each group: some resamples are of two items only."""
    (found,) = speat.bootstrap(np.array([[0.3, 0.31, -0.2, -0.19]]), 2, 400, 0)
    most = 2 * math.sqrt(3 / 4)
    assert -most <= found.low < 1.7 < found.high <= most
    (found,) = speat.bootstrap(np.array([[0.3, 0.3, -0.2, -0.2]]), 2, 400, 0)  # nothing else can be drawn
    assert (found.low, found.high) == pytest.approx((most, most), abs=1e-6)


def test_strata_that_leave_nothing_to_draw():
    s = np.random.default_rng(0).standard_normal((1, 8))
    refused(
        r"every item is alone in its stratum, .* take other --strata",
        speat.bootstrap,
        s,
        4,
        100,
        0,
        strata=list("abcdabcd"),
    )
    refused("every item is alone in its stratum", speat.bootstrap, s, 4, 100, 0, strata=list("abcdabcd"), paired=True)


# --- many tests -------------------------------------------------------------------------------------------------


def test_corrections():
    p = [0.01, 0.04, 0.03, 0.5]
    bonferroni, fdr = speat.corrected(p)
    assert bonferroni == pytest.approx([0.04, 0.16, 0.12, 1.0])
    # by hand: sorted .01 .03 .04 .5, times 4/1, 4/2, 4/3, 1, then the smallest from the right
    assert fdr == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert [part.tolist() for part in speat.corrected([0.3])] == [[0.3], [0.3]]


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ((1, 4, 2, 2), "group X has 1 items"),
        ((4, 0, 2, 2), "group Y has 0 items"),
        ((4, 4, 0, 2), "group A has 0 items"),
    ],
)
def test_too_few_items(sizes, match):
    refused(match, speat.association_test, *groups(*sizes))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    ("value", "match"), [(0.0, "embedding of zeros"), (np.nan, "not all finite"), (np.inf, "finite")]
)
def test_embeddings_without_a_direction(place, value, match):
    parts = groups()
    parts[place][2] = value
    refused(match, speat.association_test, *parts, error=FeatureError)


def test_targets_that_are_all_alike():
    x, y, a, b = groups(4, 4)
    refused("associated alike", speat.association_test, np.ones_like(x), 2 * np.ones_like(y), a, b, error=FeatureError)


def test_alternatives_and_numbers_of_permutations():
    refused(
        "'bigger' is no alternative: choose greater, less, two-sided",
        speat.association_test,
        X,
        Y,
        A,
        B,
        alternative="bigger",
    )
    refused("0 permutations", speat.association_test, X, Y, A, B, n_permutations=0)
