import math

import numpy as np
import pytest
import spread
from refusals import refused
from scipy.spatial.distance import cosine
from scipy.stats import spearmanr

from layertool.errors import FeatureError
from layertool.probes.sentence_similarity import combine, cosines, score


def said(n_pairs: int, speakers=(4, 4), seed: int = 0, width: int = 6):
    """Utterances in random order: pair, side, rating, speaker; vectors that are nearer where the rating is high.

    ``speakers``: how many say the first and the second sentence; a callable draws them for each pair.
    """
    random = np.random.default_rng(seed)
    rows, vectors = [], []
    for k in range(n_pairs):
        rating = float(random.integers(0, 11)) / 2
        first, second = random.standard_normal((2, width))
        second = rating / 3 * first + second
        for side, centre, n in zip(
            "ab", (first, second), speakers(random) if callable(speakers) else speakers, strict=True
        ):
            for s in random.permutation(6)[:n]:
                rows.append((f"sts_{k}", side, rating, f"s{s}"))
                vectors.append(centre + random.standard_normal(width))
    order = random.permutation(len(rows))
    pairs, sides, ratings, voices = (np.array(column)[order] for column in zip(*rows, strict=True))
    return np.array(vectors)[order], pairs, sides, ratings, voices


def slow_cosines(vectors, pairs, sides, voices, across: bool = False) -> dict[str, list[tuple[float, str, str]]]:
    """Of each pair, in order of the names: cosine and both speakers of every combination."""
    out = {}
    for name in sorted(set(pairs.tolist())):
        out[name] = [
            (1 - cosine(vectors[i], vectors[j]), voices[i], voices[j])
            for i in range(len(pairs))
            for j in range(len(pairs))
            if pairs[i] == pairs[j] == name and sides[i] == "a" and sides[j] == "b"
            if not (across and voices[i] == voices[j])
        ]
    return out


def rating_of(pairs, ratings) -> dict[str, float]:
    return dict(zip(pairs.tolist(), ratings.tolist(), strict=True))


def slow_value(found, rated) -> float:
    """Spearman's of the mean of each pair's cosines; pairs without any do not count."""
    known = [name for name, these in found.items() if these]
    if len(known) < 3:
        return math.nan
    means = [sum(these) / len(these) for these in (found[name] for name in known)]
    return float(spearmanr(means, [rated[name] for name in known]).statistic)


@pytest.mark.parametrize(
    ("speakers", "across"),
    [
        ((4, 4), False),
        ((4, 4), True),
        ((1, 1), False),
        (lambda r: r.integers(1, 6, 2), False),
        (lambda r: r.integers(2, 6, 2), True),
    ],
    ids=["4 x 4", "across speakers", "one each", "unequal", "unequal, across speakers"],
)
def test_every_combination_is_averaged(speakers, across):
    vectors, pairs, sides, ratings, voices = said(12, speakers)
    these, alone = combine(pairs, sides, ratings, voices, across)
    expected = slow_cosines(vectors, pairs, sides, voices, across)
    assert alone == []
    assert these.names.tolist() == list(expected)
    assert these.n_of_pair.tolist() == [len(found) for found in expected.values()]
    if speakers == (4, 4) and not across:
        assert these.n_of_pair.tolist() == [16] * 12
    assert these.ratings.tolist() == [rating_of(pairs, ratings)[name] for name in expected]
    found = cosines(vectors, these)
    for k, combinations in enumerate(expected.values()):
        assert sorted(found[these.pair == k]) == pytest.approx(sorted(c for c, *_ in combinations), abs=1e-12)
    value = slow_value({n: [c for c, *_ in f] for n, f in expected.items()}, rating_of(pairs, ratings))
    assert score(vectors, these)[0] == pytest.approx(value)
    assert 0 < value < 1


def test_one_speaker_is_not_compared_with_himself():
    _, pairs, sides, ratings, voices = said(20)
    these, _ = combine(pairs, sides, ratings, voices, across_speakers=True)
    assert (voices[these.first] != voices[these.second]).all()
    everything, _ = combine(pairs, sides, ratings, voices)
    same = voices[everything.first] == voices[everything.second]
    assert same.any()
    assert len(these.pair) == len(everything.pair) - same.sum()
    assert (pairs[these.first] == pairs[these.second]).all()
    assert (sides[these.first] == "a").all()
    assert (sides[these.second] == "b").all()


def test_pairs_without_a_combination_are_named():
    pairs = ["p1", "p1", "p2", "p2", "p3", "p3", "p4", "p4", "p5", "p6", "p6"]
    sides = ["a", "b", "a", "b", "b", "a", "a", "b", "a", "b", "b"]
    voices = ["x", "y", "x", "x", "x", "y", "y", "x", "x", "x", "y"]
    ratings = [1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 6]
    these, alone = combine(pairs, sides, ratings)
    assert alone == ["p5", "p6"]
    assert these.names.tolist() == ["p1", "p2", "p3", "p4"]
    assert list(zip(these.pair, these.first, these.second, strict=True)) == [(0, 0, 1), (1, 2, 3), (2, 5, 4), (3, 6, 7)]
    these, alone = combine(pairs, sides, ratings, voices, across_speakers=True)
    assert alone == ["p2", "p5", "p6"]
    assert these.names.tolist() == ["p1", "p3", "p4"]
    assert these.ratings.tolist() == [1, 3, 4]
    assert list(zip(these.pair, these.first, these.second, strict=True)) == [(0, 0, 1), (1, 5, 4), (2, 6, 7)]


def test_errors():
    pairs, sides, ratings = np.repeat(["p1", "p2", "p3"], 2), np.tile(["a", "b"], 3), np.repeat([1.0, 2, 3], 2)
    assert combine(pairs, sides, ratings)[1] == []
    refused(r"not 1 \(a\)", combine, pairs, ["a"] * 6, ratings)
    refused(r"not 3 \(a, b, c\)", combine, pairs, ["a", "b", "c", "b", "a", "b"], ratings)
    refused("'p2' has more than one rating", combine, pairs, sides, [1, 1, 2, 2.5, 3, 3])
    refused(r"'p3' has .* no number", combine, pairs, sides, [1, 1, 2, 2, np.nan, np.nan])
    refused("need the speaker of each utterance", combine, pairs, sides, ratings, across_speakers=True)
    refused("2 pairs have both sentences: ", combine, pairs[:4], sides[:4], ratings[:4])
    refused(
        "2 pairs have both sentences by different speakers",
        combine,
        pairs,
        sides,
        ratings,
        ["x", "y", "x", "y", "x", "x"],
        across_speakers=True,
    )
    these, _ = combine(pairs, sides, ratings)
    for value in (0.0, np.nan, np.inf):
        vectors = np.ones((6, 2))
        vectors[4] = value
        refused("a vector of pair 'p3' has no direction", cosines, vectors, these, error=FeatureError)


def circle(angles) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_similarities_in_the_order_of_the_ratings():
    """Sentences an angle apart: 1 where the angle falls with the rating, -1 where it grows, NaN for neither."""
    ratings = np.arange(10.0)
    pairs, sides = np.repeat(np.arange(10), 2), np.tile(["a", "b"], 10)
    these, _ = combine(pairs, sides, np.repeat(ratings, 2))
    for sign in (1, -1):
        angles = np.zeros(20)
        angles[1::2] = 1.5 - sign * 0.1 * ratings
        assert score(circle(angles), these) == pytest.approx((sign, sign, sign))
    value, *ends = score(np.tile([1.0, 2.0], (20, 1)), these)
    assert math.isnan(value)
    assert ends == [None, None]


def test_length_of_vectors_and_the_order_of_utterances_do_not_matter():
    vectors, pairs, sides, ratings, voices = said(10)
    these, _ = combine(pairs, sides, ratings)
    plain = score(vectors, these, voices)
    assert score(vectors * np.geomspace(1e-3, 1e3, len(vectors))[:, None], these)[0] == plain[0]
    order = np.random.default_rng(1).permutation(len(pairs))
    these, _ = combine(pairs[order], sides[order], ratings[order])
    assert score(vectors[order], these, voices[order]) == pytest.approx(plain)


@pytest.mark.parametrize("seed", [0, 5])
def test_interval_over_pairs(seed):
    vectors, pairs, sides, ratings, voices = said(15)
    expected = slow_cosines(vectors, pairs, sides, voices)
    means = [sum(c for c, *_ in found) / len(found) for found in expected.values()]
    rated = [rating_of(pairs, ratings)[name] for name in expected]
    values = []
    for drawn in np.random.default_rng(seed).multinomial(15, [1 / 15] * 15, size=1000):
        copies = [k for k in range(15) for _ in range(drawn[k])]
        values.append(spearmanr([means[k] for k in copies], [rated[k] for k in copies]).statistic)
    found = score(vectors, combine(pairs, sides, ratings)[0], seed=seed)
    assert found[1:] == pytest.approx(tuple(np.quantile(values, spread.ends(len(set(pairs))))), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("speakers", "across"), [((4, 4), False), ((2, 3), True), ((1, 2), False)])
def test_interval_over_speakers(speakers, across):
    """A combination of two speakers counts as often as both are drawn, one of a speaker with himself as he is."""
    vectors, pairs, sides, ratings, voices = said(9, speakers, seed=2)
    expected = slow_cosines(vectors, pairs, sides, voices, across)
    rated = rating_of(pairs, ratings)
    everyone = sorted(set(voices.tolist()))
    n = len(everyone)
    values, lost = [], 0
    for drawn in np.random.default_rng(3).multinomial(n, [1 / n] * n, size=1000):
        times = dict(zip(everyone, drawn, strict=True))
        found = {
            name: [c for c, a, b in these for _ in range(times[a] if a == b else times[a] * times[b])]
            for name, these in expected.items()
        }
        lost += not all(found.values())
        values.append(slow_value(found, rated))
    assert lost > 0
    values = [v for v in values if not math.isnan(v)]
    assert len(values) > 500
    these, _ = combine(pairs, sides, ratings, voices, across)
    found = score(vectors, these, voices, seed=3)
    assert found[1:] == pytest.approx(tuple(np.quantile(values, spread.ends(n))), abs=1e-9)
