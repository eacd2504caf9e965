from dataclasses import astuple

import numpy as np
import pytest
import spread
from probes import slowly
from refusals import refused
from scipy.spatial.distance import pdist
from sklearn.metrics import average_precision_score

from layertool import resampling
from layertool.errors import FeatureError
from layertool.probes import word_discrimination
from layertool.probes.word_discrimination import Cosine, Warped, average_precision

pytestmark = pytest.mark.slow


def tokens(n: int, n_words: int, n_speakers: int = 4, seed: int = 0, width: int = 5, integers: bool = False):
    """Vectors that say something of their word, words, speakers. Integers: small ones, of which many stand twice."""
    random = np.random.default_rng(seed)
    words, speakers = random.integers(0, n_words, n), random.integers(0, n_speakers, n)
    if not integers:
        return (
            0.7 * random.standard_normal((n_words, width))[words] + random.standard_normal((n, width)),
            words,
            speakers,
        )
    vectors = random.integers(-1, 2, (n_words, width))[words] + random.integers(-1, 2, (n, width))
    vectors[np.arange(n), random.integers(0, width, n)] += 3  # none all zeros
    assert vectors.any(axis=1).all()
    return np.vstack([vectors[: n // 2], vectors[: n - n // 2]]), words, speakers


class Table:
    """Given distances; ``asked`` is told how many pairs are asked for at once."""

    def __init__(self, distances: np.ndarray, asked: list[int] | None = None):
        self.distances, self.asked = distances, [] if asked is None else asked

    def arranged(self, order):
        return Table(self.distances[np.ix_(order, order)], self.asked)

    def __call__(self, rows, columns):
        found = self.distances[rows][:, columns]
        self.asked.append(found.size)
        return found


def frames(n: int, seed: int = 0, most: int = 7, width: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal((length, width)) for length in random.integers(1, most + 1, n)]


def matrix(distance, n: int) -> np.ndarray:
    return distance(np.arange(n), np.arange(n))


# ---- average precision


@pytest.mark.parametrize("cross_speaker", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_with_exact_ties(seed, cross_speaker):
    """Cosines of small integers in exact arithmetic, half of the vectors twice."""
    vectors, words, speakers = tokens(40, 8, seed=seed, width=3, integers=True)
    found, same = slowly.pairs(words, speakers if cross_speaker else None)
    order = [slowly.exact_cosine_order(vectors[i], vectors[j]) for i, j in found]
    assert len(set(order)) < len(order) / 2
    score = average_precision(Cosine(vectors), words, speakers, cross_speaker)
    assert score.value == pytest.approx(slowly.average_precision(order, same), abs=1e-12)
    assert (score.n_pairs, score.n_same) == (len(same), sum(same))
    assert score.chance == sum(same) / len(same)
    assert (score.ci_low, score.ci_high) == (None, None)


@pytest.mark.parametrize("cross_speaker", [False, True])
@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("n_speakers", [2, 30])
def test_average_precision_is_that_of_scikit_learn(n_speakers, integers, cross_speaker):
    vectors, words, speakers = tokens(150, 25, n_speakers, integers=integers)
    found, same = slowly.pairs(words, speakers if cross_speaker else None)
    near = dict(zip(slowly.pairs(words)[0], pdist(vectors, "cosine"), strict=True))
    scores = -np.float32([round(near[pair], 12) for pair in found])  # ties of exact arithmetic, without their rounding
    score = average_precision(Cosine(vectors), words, speakers, cross_speaker)
    assert score.value == pytest.approx(average_precision_score(same, scores), abs=1e-12)


def test_average_precision_by_hand():
    """Distances 0 (same), 1 (different, same: tied), 2 (different), 3 (same, different)."""
    table = np.zeros((4, 4), np.float32)
    words = np.array([0, 0, 0, 1])
    for (i, j), d in {(0, 1): 0, (0, 2): 1, (1, 2): 3, (0, 3): 1, (1, 3): 2, (2, 3): 3}.items():
        table[i, j] = table[j, i] = d
    score = average_precision(Table(table), words)
    assert score.value == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3, abs=1e-15)
    assert astuple(score)[1:] == (None, None, 0.5, 6, 3)


def test_perfect_separation_is_exactly_1():
    random = np.random.default_rng(0)
    words = np.repeat(np.arange(12), 7)
    vectors = np.eye(12)[words] + 0.01 * random.standard_normal((84, 12))
    score = average_precision(Cosine(vectors), words, clusters=words)
    assert score.value == 1
    assert (score.ci_low, score.ci_high) == (pytest.approx(1, abs=1e-6), 1)
    assert average_precision(Cosine(np.eye(12)[words]), words).value == 1  # two distances in all


def test_opposite_separation_is_the_least_there_is():
    """Tokens of one word farther apart than all others: the k-th of them has k hits among all nearer pairs."""
    angle = np.array([0.0, 1.0, 0.3, 0.7])
    score = average_precision(Cosine(np.c_[np.cos(angle), np.sin(angle)]), np.array([0, 0, 1, 2]))
    assert score.value == score.chance == 1 / 6


def test_random_vectors_are_at_the_positive_rate():
    """The mean of 20 draws, to five of its standard errors.

    A pair of one word at rank k has 1 + (k - 1) (P - 1) / (N - 1) of P among the k nearest of N: the mean over k.
    """
    values, chance = [], set()
    for seed in range(20):
        words = np.repeat(np.arange(50), 4)
        score = average_precision(Cosine(np.random.default_rng(seed).standard_normal((200, 20))), words)
        values.append(score.value)
        chance.add(score.chance)
    n_same, n = 50 * 6, 200 * 199 // 2
    assert chance == {n_same / n}
    rank = np.arange(1, n + 1)
    expected = np.mean((1 + (rank - 1) * (n_same - 1) / (n - 1)) / rank)
    error = np.std(values, ddof=1) / np.sqrt(20)
    assert error < 0.02 * expected
    assert abs(np.mean(values) - expected) < 5 * error


def test_words_that_stand_once_only_give_pairs_of_different_words():
    vectors, words, _ = tokens(30, 6)
    alone = np.arange(100, 105)
    more = np.vstack([vectors, tokens(5, 2, seed=9)[0]])
    score, before = average_precision(Cosine(more), np.r_[words, alone]), average_precision(Cosine(vectors), words)
    assert (score.n_same, score.n_pairs) == (before.n_same, before.n_pairs + 30 * 5 + 10)
    assert score.value < before.value


@pytest.mark.parametrize("distance", ["cosine", "warped"])
@pytest.mark.parametrize("clusters", [None, "words", "speakers", "many"])
def test_order_of_rows_and_names_do_not_matter(distance, clusters):
    vectors, words, speakers = tokens(300 if clusters == "many" else 90, 20, integers=True)
    if distance == "warped":
        vectors = [np.atleast_2d(v)[:, :2] + np.atleast_2d(v)[:, 2:4] * 0.37 + 0.01 for v in vectors]
    some = {"words": words, "speakers": speakers, "many": np.arange(300)}
    of = some[clusters] if clusters else None
    make = Cosine if distance == "cosine" else Warped
    one = average_precision(make(vectors), words, speakers, True, of)
    for seed in range(2):
        mixed = np.random.default_rng(seed).permutation(len(words))
        names = np.array([f"w{k:03}" for k in range(300)])  # same alphabetical order as the numbers
        other = average_precision(
            make([vectors[k] for k in mixed]),
            names[words[mixed]],
            speakers[mixed],
            True,
            None if of is None else of[mixed],
        )
        assert astuple(other) == pytest.approx(astuple(one), abs=1e-6 if of is not None else 1e-12, nan_ok=True)


def test_scale_of_each_vector_does_not_matter():
    vectors, words, _ = tokens(60, 10, integers=True)
    scale = np.exp(np.random.default_rng(0).uniform(-20, 20, (60, 1)))
    assert average_precision(Cosine(vectors * scale), words) == average_precision(Cosine(vectors), words)
    turned = np.linalg.qr(np.random.default_rng(1).standard_normal((5, 5)))[0]
    assert average_precision(Cosine(vectors @ turned), words) == average_precision(Cosine(vectors), words)


@pytest.mark.parametrize("at_once", [1, 3, 100, 1000])
@pytest.mark.parametrize("clusters", [None, "words", "speakers"])
def test_block_size_does_not_matter(monkeypatch, at_once, clusters):
    vectors, words, speakers = tokens(50, 8, integers=True)
    of = {"words": words, "speakers": speakers}[clusters] if clusters else None
    watched = Table(matrix(Cosine(vectors), 50))
    for cross_speaker in (False, True):
        one = average_precision(Cosine(vectors), words, speakers, cross_speaker, of)
        with monkeypatch.context() as patch:
            patch.setattr(word_discrimination, "_PAIRS_AT_ONCE", at_once)
            other = average_precision(watched, words, speakers, cross_speaker, of)
        assert other == one
    assert max(watched.asked) <= max(at_once, 50)


def test_errors():
    four = Cosine(np.eye(4))
    refused("no word stands twice among 4 tokens", average_precision, four, np.arange(4))
    refused(
        "no word stands twice by different speakers among 4",
        average_precision,
        four,
        np.array([0, 0, 1, 1]),
        np.array([0, 0, 1, 1]),
        cross_speaker=True,
    )
    refused("all 4 tokens are of one word", average_precision, four, np.zeros(4))
    refused("give speakers", average_precision, four, np.array([0, 0, 1, 1]), cross_speaker=True)
    for n in (0, 1):
        refused("no word stands twice", average_precision, four, np.zeros(n), clusters=np.zeros(n))


# ---- the interval


def of_clusters(which: str, n: int = 48, **options):
    vectors, words, speakers = tokens(n, 9, 6, width=3, integers=True, **options)
    return vectors, words, speakers, {"words": words, "speakers": speakers, "tokens": np.arange(n)}[which]


@pytest.mark.parametrize("cross_speaker", [False, True])
@pytest.mark.parametrize("clusters", ["words", "speakers", "tokens"])
@pytest.mark.parametrize("seed", range(2))
def test_interval_with_few_distances_is_exact(clusters, cross_speaker, seed):
    """Fewer different distances than bins: what is left is the rounding of float32."""
    vectors, words, speakers, of = of_clusters(clusters, seed=seed)
    found, same = slowly.pairs(words, speakers if cross_speaker else None)
    order = [slowly.exact_cosine_order(vectors[i], vectors[j]) for i, j in found]
    ranks = np.unique(np.array([float(o) for o in order]).round(12), return_inverse=True)[1]
    assert len(set(ranks[np.array(same)])) < 128
    score = average_precision(Cosine(vectors), words, speakers, cross_speaker, of, seed=seed + 7)
    draws = resampling.counts(len(set(of)), seed + 7)
    values = slowly.resampled_precisions(ranks, found, same, of, draws)
    expected = np.quantile(values[np.isfinite(values)], spread.ends(len(set(of))))
    assert (score.ci_low, score.ci_high) == pytest.approx(tuple(expected), abs=1e-5)
    assert score.value == pytest.approx(slowly.average_precision(ranks, same), abs=1e-12)


@pytest.mark.parametrize("clusters", ["words", "speakers"])
def test_interval_with_many_distances(clusters):
    """Binning moves the ends by far less than the interval is wide."""
    vectors, words, speakers = tokens(120, 12, 10)
    of = {"words": words, "speakers": speakers}[clusters]
    found, same = slowly.pairs(words)
    assert sum(same) > 4 * 128
    score = average_precision(Cosine(vectors), words, speakers, clusters=of)
    draws = resampling.counts(len(set(of)), 0)
    low, high = np.quantile(
        slowly.resampled_precisions(pdist(vectors, "cosine"), found, same, of, draws), spread.ends(len(set(of)))
    )
    assert score.ci_low < score.value < score.ci_high
    assert (score.ci_low, score.ci_high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_coarse_bins_widen_or_shrink_but_do_not_move_the_interval(monkeypatch):
    """Precision at the far end of a bin is too low; the interval is moved by what the value itself is moved by."""
    vectors, words, speakers = tokens(120, 12, 10)
    fine = average_precision(Cosine(vectors), words, clusters=speakers)
    monkeypatch.setattr(word_discrimination, "_N_BINS", 5)
    coarse = average_precision(Cosine(vectors), words, clusters=speakers)
    middle = [(score.ci_low + score.ci_high) / 2 for score in (fine, coarse)]
    assert coarse.value == fine.value
    assert abs(middle[1] - middle[0]) < 0.2 * (fine.ci_high - fine.ci_low)


def test_more_than_200_clusters_are_put_together():
    """500 of them: the interval is about that of other mergers into 200 at random."""
    vectors, words, _ = tokens(500, 100, width=3)
    speakers = np.arange(500)
    score = average_precision(Cosine(vectors), words, clusters=speakers)
    others = []
    for seed in range(1, 3):
        merged = np.random.default_rng(seed).permutation(500) % 200
        other = average_precision(Cosine(vectors), words, clusters=merged, seed=seed)
        others.append((other.ci_low, other.ci_high))
    low, high = np.mean(others, axis=0)
    assert (score.ci_low, score.ci_high) == pytest.approx((low, high), abs=0.25 * (high - low))
    assert score == average_precision(Cosine(vectors), words, clusters=speakers)
    assert set(np.bincount(word_discrimination._clusters(speakers, 500, 0))) == {2, 3}
    assert (word_discrimination._clusters(speakers[:200], 200, 0) == speakers[:200]).all()


def test_copies_in_one_cluster_are_one_unit():
    """Two copies of every token, drawn together: fewer units, a wider interval."""
    vectors, words, _ = tokens(80, 20, width=3)
    twice = np.repeat(np.arange(80), 2)
    noise = 0.01 * np.random.default_rng(0).standard_normal((160, 3))
    doubled, words = vectors[twice] + noise, words[twice]
    together = average_precision(Cosine(doubled), words, clusters=twice)
    apart = average_precision(Cosine(doubled), words, clusters=np.arange(160))
    assert together.value == apart.value
    assert together.ci_high - together.ci_low > 1.1 * (apart.ci_high - apart.ci_low)


def test_one_cluster_has_no_interval():
    vectors, words, _ = tokens(30, 6)
    one = average_precision(Cosine(vectors), words, clusters=np.zeros(30))
    assert one == average_precision(Cosine(vectors), words)
    assert (one.ci_low, one.ci_high) == (None, None)


def test_no_interval_where_most_resamples_have_no_pair_of_one_word():
    """One pair across two of 30 clusters, both drawn in about 40 % of the resamples."""
    vectors, words = tokens(30, 6)[0], np.r_[0, 0, np.arange(1, 29)]
    score = average_precision(Cosine(vectors), words, clusters=np.arange(30))
    assert 0 < score.value < 1
    assert (score.ci_low, score.ci_high) == (None, None)


def test_interval_covers_the_mean_of_many_samples():
    """40 samples of 15 words: 95 % +- 3.4 % of intervals cover their mean; the width is 3.92 standard deviations."""
    scores = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        words = np.repeat(np.arange(15), 5)
        vectors = 0.6 * random.standard_normal((15, 20))[words] + random.standard_normal((75, 20))
        scores.append(average_precision(Cosine(vectors), words, clusters=words, seed=seed))
    values, low, high = (np.array([getattr(s, name) for s in scores]) for name in ("value", "ci_low", "ci_high"))
    assert np.mean((low < values.mean()) & (values.mean() < high)) > 0.95 - 4 * 0.034
    assert 0.7 < np.mean(high - low) / (3.92 * np.std(values)) < 1.5


def test_interval_follows_the_seed():
    vectors, words, speakers = tokens(60, 10, 6)
    one = average_precision(Cosine(vectors), words, clusters=speakers, seed=1)
    assert one == average_precision(Cosine(vectors), words, clusters=speakers, seed=1)
    other = average_precision(Cosine(vectors), words, clusters=speakers, seed=2)
    assert (one.ci_low, one.ci_high) != (other.ci_low, other.ci_high)
    assert one.value == other.value


# ---- distances


def test_cosine_is_that_of_the_definition():
    vectors = tokens(12, 3)[0]
    got = Cosine(vectors)(np.array([3, 1]), np.arange(12)[::-1])
    expected = [[slowly.cosine_distance(vectors[i], vectors[j]) for j in range(11, -1, -1)] for i in (3, 1)]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_cosine_of_equal_opposite_and_tied_vectors():
    vectors = np.random.default_rng(0).standard_normal((200, 768)).astype(np.float32)
    assert (np.diagonal(matrix(Cosine(vectors), 200)) == 0).all()
    both = matrix(Cosine(np.vstack([vectors, -3 * vectors])), 400)
    assert (np.diagonal(both, 200) == 2).all()
    assert (both == both.T).all()
    near = np.vstack([vectors[0], vectors[0] + 1e-4 * vectors[1]])
    assert 0 < matrix(Cosine(near), 2)[0, 1] < 1e-7  # nearly equal is not equal


@pytest.mark.parametrize("width", [1, 3, 16])
def test_warped_is_the_textbook_table(width):
    some = frames(14, width=width, most=9)
    assert {len(token) for token in some} >= {1, 2, 9}
    expected = [[slowly.warped_distance(a, b) for b in some] for a in some]
    np.testing.assert_allclose(matrix(Warped(some), 14), expected, atol=1e-6)


def test_warped_rows_and_columns_in_any_order(monkeypatch):
    some = frames(20)
    whole = matrix(Warped(some), 20)
    assert whole.dtype == np.float32
    random = np.random.default_rng(0)
    for at_once in (1, 4, 512):
        monkeypatch.setattr(word_discrimination, "_COLUMNS_AT_ONCE", at_once)
        rows, columns = random.integers(0, 20, 7), random.integers(0, 20, 30)
        np.testing.assert_allclose(Warped(some)(rows, columns), whole[np.ix_(rows, columns)], atol=1e-6)
    assert Warped(some)(np.array([2, 3]), np.array([], int)).shape == (2, 0)


def test_warped_is_a_dissimilarity():
    some = frames(20)
    got = matrix(Warped(some), 20)
    assert got.min() >= 0
    np.testing.assert_allclose(got, got.T, atol=1e-6)
    np.testing.assert_allclose(np.diagonal(got), 0, atol=1e-6)
    np.testing.assert_allclose(matrix(Warped([token[::-1] for token in some]), 20), got, atol=1e-6)
    scaled = [token * np.exp(np.random.default_rng(0).uniform(-5, 5, (len(token), 1))) for token in some]
    np.testing.assert_allclose(matrix(Warped(scaled), 20), got, atol=1e-6)


def test_warped_by_hand():
    """Frames at right angles cost 1, opposite ones 2: over the frames of both tokens, not over the steps."""
    east, north = np.array([1.0, 0]), np.array([0, 1.0])
    some = [np.array(t) for t in ([east], [north], [-east], [east, north], [north, east], [east, east, north])]
    got = matrix(Warped(some), 6)
    assert got[0].tolist() == pytest.approx([0, 1 / 2, 2 / 2, 1 / 3, 1 / 3, 1 / 4])
    assert got[3, 4] == pytest.approx(2 / 4)  # both ends cost 1
    assert got[3, 5] == 0
    assert got[4, 5] == pytest.approx(2 / 5)  # 1, then the diagonal to 0, then 1


def test_a_token_said_slowly_is_at_no_distance():
    some = frames(12, width=8)
    random = np.random.default_rng(0)
    slow = [np.repeat(token, random.integers(1, 5, len(token)), axis=0) for token in some]
    between = matrix(Warped([*some, *slow]), 24)[:12, 12:]
    np.testing.assert_allclose(np.diagonal(between), 0, atol=1e-6)
    assert between[~np.eye(12, dtype=bool)].min() > 0.05
    both = average_precision(Warped([*some, *slow]), np.tile(np.arange(12), 2))
    assert both.value == 1


def test_tokens_of_one_frame_are_warped_as_vectors():
    vectors = tokens(40, 6, integers=True)[0]
    one = Warped([v[None] for v in vectors])
    np.testing.assert_allclose(2 * matrix(one, 40), matrix(Cosine(vectors), 40), atol=1e-6)


def test_tied_warped_tokens_enter_together():
    """Eight tokens, each standing many times under several words: the order of rows cannot matter."""
    random = np.random.default_rng(0)
    some = frames(8, width=16, most=8)
    which, words = random.integers(0, 8, 60), random.integers(0, 6, 60)
    values = set()
    for _ in range(5):
        mixed = random.permutation(60)
        values.add(average_precision(Warped([some[k] for k in which[mixed]]), words[mixed]).value)
    assert max(values) - min(values) < 1e-12


def test_bad_vectors_and_frames():
    good = np.ones((3, 4))
    for bad in (np.zeros(4), np.full(4, np.nan), [1, 1, 1, np.inf]):
        refused("vector 2 has no direction", Cosine, np.vstack([good[:2], bad, good]), error=FeatureError)
        refused("frame 4 has no direction", Warped, [good, np.vstack([good[:1], bad])], error=FeatureError)
    refused("token 1 has no frame", Warped, [good, good[:0], good], error=FeatureError)
