import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from refusals import refused
from scipy import stats
from scipy.spatial.distance import cosine
from scipy.stats import spearmanr

from layertool import resampling
from layertool.errors import CorpusError, FeatureError
from layertool.probes.word_similarity import (
    Task,
    cosines,
    edit_distance,
    read,
    score,
    spelling,
    without_copies,
)


def written(folder: Path, text: str, name: str = "task.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def task(name: str, *rows: tuple[str, str, float]) -> Task:
    return Task(name, [(a, b) for a, b, _ in rows], np.array([r for *_, r in rows], float), len(rows))


def numbered(name: str, numbers, salt: str = "") -> Task:
    """Pair k of words "ak" and "bk", rated k."""
    return task(name, *((f"a{k}{salt}", f"b{k}", k) for k in numbers))


def names(tasks) -> list[str]:
    return [t.name for t in tasks]


@pytest.mark.parametrize(
    "text",
    [
        ",word1,word2,similarity\n0,sun,moon,7.5\n1,car,tree,1\n",
        ",similarity,word1,word2,relation\n0,7.5,sun,moon,NONE\n1,1,car,tree,SYNONYMS\n",
        "word2,similarity,word1\r\nmoon,7.5,sun\r\ntree,1,car\r\n",
        "\ufeffword1,word2,similarity\nsun,moon,7.5\ncar,tree,1\n",
        " Word1 ,WORD2,Similarity\n SUN , Moon ,7.5\nCar,tree, 1.0\n",
        ',word1,word2,similarity\n0,sun,moon,7.5\n1,,,\n\n2,"car",tree,1\n,,,\n5\n6,sun,tree\n',
        ",word1,word2,similarity\n0,sun-n,moon-n,7.5\n1,car-v,tree-j,1\n",
    ],
    ids=["plain", "simverb", "other order", "byte-order mark", "capitals", "blank rows", "part of speech"],
)
def test_read(tmp_path, text):
    (found,) = read(written(tmp_path, text, "wordsim353-sim.csv"))
    assert found.name == "wordsim353-sim"
    assert found.pairs == [("sun", "moon"), ("car", "tree")]
    assert found.ratings.tolist() == [7.5, 1]
    assert found.n_read == 2
    assert found.words == ["sun", "moon", "car", "tree"]


def test_read_keeps_what_belongs_to_a_word(tmp_path):
    """Several words, commas in quotes, accents, hyphens; a part of speech only where all words have one."""
    text = ',word1,word2,similarity\n0,"Rolling Stones","salt, pepper",-2\n1,CAFÉ,t-shirt,0\n2,sun-n,moon-n,1\n'
    (found,) = read(str(written(tmp_path, text)))
    assert found.pairs == [("rolling stones", "salt, pepper"), ("café", "t-shirt"), ("sun-n", "moon-n")]
    assert found.ratings.tolist() == [-2, 0, 1]


def test_read_a_folder(tmp_path):
    for name, word in [("rg-65.csv", "c"), ("men.csv", "b"), ("README.md", "x"), ("mc-30.csv", "a")]:
        written(tmp_path, f"word1,word2,similarity\n{word},d,1\n", name)
    found = read(tmp_path)
    assert [(t.name, t.pairs) for t in found] == [
        ("mc-30", [("a", "d")]),
        ("men", [("b", "d")]),
        ("rg-65", [("c", "d")]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'word1' .*it has none"),
        ("first,second,similarity\na,b,1\n", "has no column 'word1' .*it has first, second, similarity"),
        (",word1,word2\n0,a,b\n", "has no column 'similarity'"),
        ("word1;word2;similarity\na;b;1\n", "has no column"),
        ("word1,word2,similarity\n", "no pair of words below its header"),
        ("word1,word2,similarity\n,,\n\n", "no pair of words below its header"),
        ("word1,word2,similarity\na,b,1\n\nc,d,high\n", "line 4 has the rating 'high'"),
        ("word1,word2,similarity\na,b,nan\n", "line 2 has the rating 'nan'"),
        ("word1,word2,similarity\na,b,1\nc,d,-inf\n", "line 3 has the rating '-inf'"),
        ('word1,word2,similarity\na,b,"1,5"\n', "line 2 has the rating '1,5'"),
    ],
)
def test_files_that_are_no_task(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message) as caught:
        read(written(tmp_path, text))
    assert str(tmp_path / "task.csv") in str(caught.value)


def test_what_cannot_be_read(tmp_path):
    refused("does not exist", read, tmp_path / "men.csv", error=CorpusError)
    refused(r"has no \.csv file", read, tmp_path, error=CorpusError)
    (tmp_path / "men.csv").write_bytes(bytes(range(256)))
    for path in (tmp_path, tmp_path / "men.csv"):
        refused(r"men\.csv is no CSV file in UTF-8", read, path, error=CorpusError)


def test_among():
    whole = task("t", ("a", "b", 3), ("a", "c", 2), ("b", "b", 1), ("d", "b", 0))
    part = whole.among({"a", "b", "e"})
    assert part.pairs == [("a", "b"), ("b", "b")]
    assert part.ratings.tolist() == [3, 1]
    assert (part.n_read, part.name) == (4, "t")
    assert part.among({"a"}).pairs == []


def test_a_task_that_stands_there_twice_counts_once():
    """verb-143 of word-benchmarks is yp-130 but for 4 of 130 rows (spec 9.2, item 25)."""
    yp, rg = numbered("yp-130", range(130)), numbered("rg-65", range(1000, 1065))
    figures = numbered("verb-143", range(4), "x")
    verb = Task("verb-143", figures.pairs + yp.pairs[4:], np.concatenate([figures.ratings, yp.ratings[4:]]), 130)
    kept, copies = without_copies([verb, rg, yp])
    assert names(kept) == ["verb-143", "rg-65"]  # the first of two that are as long
    assert [(a.name, b.name) for a, b in copies] == [("yp-130", "verb-143")]
    # of those words that are known, the one with more pairs
    fewer = verb.among(set(verb.words) - {"a0x", "a1x", "b2", "b3"})
    kept, copies = without_copies([fewer, rg, yp])
    assert names(kept) == ["rg-65", "yp-130"]
    assert [(a.name, b.name) for a, b in copies] == [("verb-143", "yp-130")]


def test_of_two_copies_the_one_with_more_known_pairs_is_kept():
    one, other = numbered("one", range(100)), numbered("other", range(5, 100))
    assert names(without_copies([other, one])[0]) == ["one"]
    assert names(without_copies([other, one], n_known=[60, 59])[0]) == ["other"]
    assert names(without_copies([other, one], n_known=[60, 60])[0]) == ["other"]
    assert names(without_copies([other, one], n_known=[60, 61])[0]) == ["one"]


def test_how_much_two_tasks_share():
    """Nine tenths of the larger: half of the pairs, or all of a small file within a large one, are no copy."""
    similar, related = numbered("wordsim353-sim", range(200)), numbered("wordsim353-rel", range(100, 350))
    assert without_copies([similar, related]) == ([similar, related], [])
    for n_same, n_kept in [(90, 1), (89, 2)]:
        other = numbered("other", range(100 - n_same, 200 - n_same))
        assert len(without_copies([numbered("one", range(100)), other])[0]) == n_kept
    assert len(without_copies([numbered("one", range(100)), numbered("part", range(89))])[0]) == 2
    assert len(without_copies([numbered("part", range(90)), numbered("one", range(100))])[0]) == 1


def test_other_ratings_make_another_task():
    one = numbered("one", range(50))
    assert len(without_copies([one, Task("other", one.pairs, one.ratings / 10 + 1, 50)])[0]) == 2


def test_the_order_of_words_and_rows_makes_no_other_task():
    one = numbered("one", range(50))
    swapped = Task("other", [(b, a) for a, b in one.pairs][::-1], one.ratings[::-1], 50)
    assert names(without_copies([one, swapped])[0]) == ["one"]


def test_the_order_of_tasks_is_kept():
    tasks = [numbered(f"t{k}", range(100 * k, 100 * k + n)) for k, n in enumerate([5, 50, 20, 90])]
    kept, copies = without_copies([*tasks, tasks[1], tasks[3]])
    assert kept == tasks
    assert sorted(a.name for a, _ in copies) == ["t1", "t3"]


@cache
def recursive(a: str, b: str) -> int:
    """Levenshtein's distance by its definition."""
    if not a or not b:
        return len(a) + len(b)
    exchanged = recursive(a[1:], b[1:]) + (a[0] != b[0])
    return min(exchanged, recursive(a[1:], b) + 1, recursive(a, b[1:]) + 1)


def test_edit_distance():
    random = np.random.default_rng(0)
    for _ in range(300):
        a, b = ("".join(random.choice(list("abc"), random.integers(0, 8))) for _ in range(2))
        assert edit_distance(a, b) == recursive(a, b)
    assert edit_distance("kitten", "sitting") == 3
    assert spelling(task("t", ("sun", "sun", 1), ("car", "cat", 0), ("", "four", 0))).tolist() == [0, -1, -4]


def test_cosines():
    random = np.random.default_rng(0)
    words = [f"w{k}" for k in range(20)]
    vectors = random.standard_normal((20, 6)) * np.geomspace(1e-6, 1e6, 20)[:, None]
    pairs = random.integers(0, 20, size=(40, 2))
    these = task("t", *((words[a], words[b], 0) for a, b in pairs))
    expected = [1 - cosine(vectors[a], vectors[b]) for a, b in pairs]
    np.testing.assert_allclose(cosines(vectors, words, these), expected, atol=1e-12)
    vectors = vectors.astype(np.float32)
    expected = [1 - cosine(vectors[a].astype(float), vectors[b].astype(float)) for a, b in pairs]
    np.testing.assert_allclose(cosines(vectors, words, these), expected, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_words_without_a_direction(value):
    vectors = np.ones((3, 2))
    vectors[1] = value
    refused("'moon'", cosines, vectors, ["sun", "moon", "car"], task("t", ("sun", "car", 1)), error=FeatureError)


def tasks_of_one_vocabulary(seed: int = 0) -> tuple[list[Task], list[np.ndarray]]:
    """Tasks of 30, 12 and 4 pairs that share words; ratings with ties; a pair of a word with itself."""
    random = np.random.default_rng(seed)
    words = [f"w{k}" for k in range(14)]
    tasks, similarities = [], []
    for name, n in [("large", 30), ("small", 12), ("tiny", 4)]:
        pairs = [tuple(random.choice(words, 2, replace=False)) for _ in range(n)]
        if n == 30:
            pairs[3] = ("w5", "w5")
        ratings = random.integers(0, 6, n).astype(float)
        ratings[:2] = [0, 5]
        tasks.append(Task(name, pairs, ratings, n))
        similarities.append(np.round(ratings + 2 * random.standard_normal(n), 1))
    return tasks, similarities


def plain_means(values, sizes) -> tuple[float, float]:
    """Macro and micro mean of the tasks that have a correlation."""
    known = [(v, n) for v, n in zip(values, sizes, strict=True) if not math.isnan(v)]
    if not known:
        return math.nan, math.nan
    return sum(v for v, _ in known) / len(known), sum(v * n for v, n in known) / sum(n for _, n in known)


def test_score_is_spearmans_of_each_task():
    tasks, similarities = tasks_of_one_vocabulary()
    found = score(tasks, similarities)
    values = [spearmanr(s, t.ratings).statistic for s, t in zip(similarities, tasks, strict=True)]
    assert [value for value, _, _ in found.tasks] == pytest.approx(values)
    macro, micro = plain_means(values, [30, 12, 4])
    assert abs(macro - micro) > 0.01
    assert found.macro[0] == pytest.approx(macro)
    assert found.micro[0] == pytest.approx(micro)


def slow_interval(values, weights, tasks, similarities) -> tuple[float | None, float | None]:
    """Of a weighted sum of correlations: variance from pairs of pairs that share a word, by changes of each pair.

    ``values``: of each task; one without a correlation has weight 0.
    """
    moved = []  # (words, how much)
    for weight, t, s in zip(weights, tasks, similarities, strict=True):
        n = len(t.pairs)
        if not weight:
            continue
        left = [spearmanr(np.delete(s, k), np.delete(t.ratings, k)).statistic if n > 3 else math.nan for k in range(n)]
        if not np.isfinite(left).all():
            if weight == 1:
                return None, None
            moved += [({*pair}, weight / math.sqrt(n * (n - 1))) for pair in t.pairs]
        else:
            mean = sum(left) / n
            moved += [
                ({*pair}, weight * math.sqrt((n - 1) / n) * (mean - x)) for pair, x in zip(t.pairs, left, strict=True)
            ]
    sharing = sum(x * y for one, x in moved for other, y in moved if one & other)
    alone = sum(x * y for one, x in moved for other, y in moved if one == other)
    variance = max(sharing, alone)
    value = sum(weight * value for weight, value in zip(weights, values, strict=True) if weight)
    reach = stats.t.ppf(0.975, len({w for words, _ in moved for w in words}) - 1) * math.sqrt(variance) / (1 - value**2)
    return math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)


@pytest.mark.parametrize("seed", [0, 7])
def test_intervals_know_which_pairs_share_a_word(seed):
    tasks, similarities = tasks_of_one_vocabulary(seed)
    found = score(tasks, similarities)
    values = [value for value, _, _ in found.tasks]
    for k, (_, low, high) in enumerate(found.tasks):
        expected = slow_interval(values, [float(k == j) for j in range(3)], tasks, similarities)
        assert (low, high) == (expected if expected[0] is None else pytest.approx(expected, abs=1e-9))
    assert found.macro[1:] == pytest.approx(slow_interval(values, [1 / 3] * 3, tasks, similarities), abs=1e-9)
    sizes = np.array([30, 12, 4]) / 46
    assert found.micro[1:] == pytest.approx(slow_interval(values, sizes, tasks, similarities), abs=1e-9)


def test_a_task_without_a_correlation_is_left_out_of_the_means():
    tasks, similarities = tasks_of_one_vocabulary()
    plain = score(tasks, similarities)
    constant = [similarities[0], np.full(12, 0.3), similarities[2]]
    found = score(tasks, constant)
    assert math.isnan(found.tasks[1][0])
    assert found.tasks[1][1:] == (None, None)
    first, third = plain.tasks[0][0], plain.tasks[2][0]
    assert found.tasks[0] == plain.tasks[0]
    assert found.macro[0] == pytest.approx((first + third) / 2)
    assert found.micro[0] == pytest.approx((30 * first + 4 * third) / 34)
    values = [first, math.nan, third]
    assert found.macro[1:] == pytest.approx(slow_interval(values, [0.5, 0, 0.5], tasks, constant), abs=1e-9)
    none = score(tasks[1:2], constant[1:2])
    assert math.isnan(none.macro[0])
    assert none.macro[1:] == none.micro[1:] == (None, None)


def test_pairs_that_share_no_word_are_independent():
    """Then the interval is that of a jackknife over pairs, in Fisher's z, with the words as what is free."""
    random = np.random.default_rng(5)
    n = 25
    apart = Task("apart", [(f"a{k}", f"b{k}") for k in range(n)], random.standard_normal(n), n)
    s = apart.ratings + random.standard_normal(n)
    value, low, high = score([apart], [s]).tasks[0]
    left = np.array([spearmanr(np.delete(s, k), np.delete(apart.ratings, k)).statistic for k in range(n)])
    error = np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()) / (1 - value**2)
    reach = stats.t.ppf(0.975, 2 * n - 1) * error
    assert (low, high) == pytest.approx(
        tuple(np.tanh([np.arctanh(value) - reach, np.arctanh(value) + reach])), abs=1e-9
    )


def test_perfect_similarities():
    """1 whatever words are drawn; the interval is that one number, and so for -1."""
    tasks, _ = tasks_of_one_vocabulary()
    for sign in (1, -1):
        found = score(tasks[:2], [sign * np.exp(t.ratings) for t in tasks[:2]])
        for triple in (*found.tasks, found.macro, found.micro):
            assert triple == pytest.approx((sign, sign, sign))


def test_a_task_too_small_for_an_interval():
    """Three pairs of six words: all three are drawn in few resamples."""
    few = task("few", ("a", "b", 1), ("c", "d", 2), ("e", "f", 3))
    found = score([few], [np.array([1.0, 2, 3])])
    assert found.tasks == [(pytest.approx(1), None, None)]
    assert math.isnan(score([few.among({"a", "b", "c", "d"})], [np.array([1.0, 2])]).tasks[0][0])


def test_weighted_spearman_is_that_of_copies():
    random = np.random.default_rng(3)
    x, y = random.integers(0, 5, 12).astype(float), random.standard_normal(12)
    weights = random.integers(0, 4, size=(200, 12))
    weights[0] = 1
    weights[1] = [5, 7] + [0] * 10  # two items
    weights[2] = [0] * 12
    weights[3] = np.where(x == x[0], 1, 0)  # a constant
    found = resampling.weighted_spearman(x, y, weights)
    assert np.isnan(found[1:4]).all()
    assert found[0] == pytest.approx(resampling.spearman(x, y))
    for k in [0, *range(4, 200)]:
        expected = spearmanr(np.repeat(x, weights[k]), np.repeat(y, weights[k])).statistic
        assert found[k] == pytest.approx(expected, abs=1e-12)


def test_one_item_of_a_million_that_differs_is_no_constant():
    step = np.array([0, 0, 0, 1.0])
    assert resampling.weighted_spearman(step, -step, np.array([[1_000_000, 1, 1, 1]])) == pytest.approx([-1])
