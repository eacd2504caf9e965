"""Word similarity of stores: the rows are scipy's Spearman of cosines of plain means over ``store.read``."""

from __future__ import annotations

import numpy as np
import planted
import pytest
from running import asked, run, settings
from scipy.stats import spearmanr

from layertool.conditions import parse_where
from layertool.errors import CorpusError, FeatureError, UsageError
from layertool.layerwise.similarity import COVERAGE, MACRO, MICRO, Similarity
from layertool.probes.word_similarity import read

LABELS = ["The", "SIL", "cat", "dog", "the", "sun", "moon", "<unk>", "boat", "once", "car",
          "river", "tree", "stone", "house"]  # fmt: skip
MORE = ["cat", "dog", "sun", "river", "tree", "stone", "house"]
FIRST = [("the", "cat", 3.0), ("cat", "dog", 8.0), ("sun", "moon", 7.5), ("boat", "car", 6.0), ("dog", "moon", 1.0),
         ("cat", "never", 9.0), ("once", "sun", 2.0),
         *((a, b, 1.25 + 0.5 * ((3 * i + 5 * k) % 16)) for i, a in enumerate(MORE) for k, b in enumerate(MORE) if i < k)]  # fmt: skip
SECOND = [("cat", "sun", 1.0), ("boat", "cat", 2.0), ("Car", "Dog", 2.5), ("unsaid", "cat", 4.0)]
FEW = [("cat", "car", 1.0), ("dog", "car", 3.0), ("never", "car", 2.0), ("never", "cat", 1.5)]
LAYERS = ("T0", "T1")


def make(path, seed=0, corpus="planted", said=LABELS):
    random = np.random.default_rng(seed)
    segments = []
    for k in range(8):
        names = [str(name) for name in random.choice([n for n in said if n != "once"], 7)]
        if k == 3 and "once" in said:
            names[2] = "once"
        segments += [(k, "word", 2_000 * i, 2_000 * i + 1_900, name) for i, name in enumerate(names)]
    n = len(segments)
    return planted.store(
        path, [16_000] * 8, segments,
        rows={"word": {name: 5 + planted.matrix(n, 6, seed + d) for d, name in enumerate(LAYERS)}},
        labels={"word": list(said)}, split=[("dev", "test")[k % 2] for k in range(8)], corpus=corpus,
    )  # fmt: skip


def task(folder, name, pairs):
    path = folder / f"{name}.csv"
    path.write_text("word1,word2,similarity\n" + "".join(f"{a},{b},{r}\n" for a, b, r in pairs))
    return path


def word_similarity_rows(store, benchmark, unit=None, layers="all", options=None, say=None, workers=None):
    analysis = Similarity(benchmark=benchmark, unit=unit, layers=layers, **(options or {}))
    return run(analysis, store, say=say, workers=workers)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("said") / "store")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for name, pairs in (("few", FEW), ("first", FIRST), ("second", SECOND)):
        task(folder, name, pairs)
    return read(folder)


def vectors(store, layer, keep=lambda row: True):
    """Lower-case word -> every vector of its tokens."""
    out = {}
    for (_, row), vector in zip(store.rows("word").iterrows(), store.read("word", layer), strict=True):
        if row["label"] not in ("SIL", "<unk>") and keep(row):
            out.setdefault(row["label"].lower(), []).append(vector.astype(np.float64))
    return out


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def rho(pairs, of_word):
    """Spearman's correlation and number of the pairs that are known."""
    there = [(a.lower(), b.lower(), r) for a, b, r in pairs if {a.lower(), b.lower()} <= set(of_word)]
    similar = [cosine(of_word[a], of_word[b]) for a, b, _ in there]
    return float(spearmanr(similar, [r for *_, r in there]).statistic), len(there)


def of(rows, layer, target):
    (row,) = [row for row in rows if row.layer == layer and row.target == target and row.metric != COVERAGE]
    return row


def meet(found, layer, means, seed=0):
    """Rows of a layer are those of these means of words."""
    parts = {"first": rho(FIRST, means), "second": rho(SECOND, means)}
    for name, (value, n) in parts.items():
        row = of(found, layer, name)
        assert (row.value, row.n) == (pytest.approx(value, abs=1e-9), n)
    values, counts = zip(*parts.values(), strict=True)
    assert of(found, layer, MACRO).value == pytest.approx(np.mean(values), abs=1e-9)
    assert of(found, layer, MACRO).n == 2
    assert of(found, layer, MICRO).value == pytest.approx(np.average(values, weights=counts), abs=1e-9)
    assert of(found, layer, MICRO).n == sum(counts)
    for name in (MACRO, MICRO):
        row = of(found, layer, name)
        assert row.ci_low < row.value < row.ci_high
        assert (row.chance, row.analysis, row.unit, row.seed) == (0.0, "word similarity", "word", seed)


def test_means_of_all_tokens(store, tasks):
    told = []
    found = word_similarity_rows(store, tasks, say=told.append)
    assert {"The", "the"} <= set(store.rows("word")["label"])
    for layer in LAYERS:
        meet(found, layer, {word: np.mean(some, axis=0) for word, some in vectors(store, layer).items()})
    assert of(found, "T0", "first").value != of(found, "T1", "first").value
    assert told[0] == "left out: tasks with fewer than 3 pairs whose words were said (few: 2 of 4)"
    assert not [row for row in found if row.target == "few" and row.metric != COVERAGE]
    assert {row.item for row in found if row.metric != COVERAGE} == {None, "first", "second"}
    assert settings(found[0])["benchmark"] == ["few", "first", "second"]
    assert found[0].store == str(store.path)


def test_capitals_are_one_word(store, tasks):
    """A mean over one spelling would be another number."""
    spellings = {}
    for (_, row), vector in zip(store.rows("word").iterrows(), store.read("word", "T0"), strict=True):
        spellings.setdefault(row["label"], []).append(vector)
    apart = {word: np.mean(some, axis=0) for word, some in spellings.items()}
    value, _ = rho(FIRST, apart)
    assert abs(of(word_similarity_rows(store, tasks), "T0", "first").value - value) > 1e-3


def test_coverage(store, tasks):
    rows = [row for row in word_similarity_rows(store, tasks, layers="T1") if row.metric == COVERAGE]
    assert all(row.item == row.target for row in rows)
    assert [(row.target, row.value, row.n) for row in rows] == [
        ("few", 0.5, 2),
        ("first", 27 / 28, 27),
        ("second", 0.75, 3),
    ]
    assert {row.layer for row in rows} == {"model"}
    assert {row.store for row in rows} == {str(store.path)}


def test_chosen_rows(store, tasks):
    where = parse_where(["split=dev"])
    found = word_similarity_rows(store, tasks, options=asked(where=where))
    means = {w: np.mean(v, axis=0) for w, v in vectors(store, "T1", lambda row: row["split"] == "dev").items()}
    parts = rho(FIRST, means)
    assert (of(found, "T1", "first").value, of(found, "T1", "first").n) == (pytest.approx(parts[0], abs=1e-9), parts[1])
    assert settings(found[0])["where"] == ["split=dev"]
    assert parts[1] < 27


def test_words_that_were_said_often_enough(store, tasks):
    """``once`` is not; of the two spellings of "the" each for itself has to be."""
    counts = store.rows("word")["label"].value_counts()
    assert counts["once"] == 1
    found = word_similarity_rows(store, tasks, options=asked(min_tokens=2))
    means = {w: np.mean(v, axis=0) for w, v in vectors(store, "T0").items() if len(v) >= 2}
    value, n = rho(FIRST, means)
    assert n == 26
    assert (of(found, "T0", "first").value, of(found, "T0", "first").n) == (pytest.approx(value, abs=1e-9), n)
    assert settings(found[0])["min_tokens"] == 2
    (row,) = [row for row in found if row.metric == COVERAGE and row.target == "first"]
    assert (row.n, row.value) == (26, 26 / 28)


def test_tokens_of_both_spellings_are_counted_together(tmp_path):
    """One token of "The" and one of "the" are two tokens of the word."""
    names = ["The", "the", "a", "a", "b", "b", "c", "c"]
    store = planted.store(
        tmp_path / "s", [16_000], [(0, "word", 2_000 * k, 2_000 * k + 1_000, name) for k, name in enumerate(names)],
        rows={"word": {"T0": planted.matrix(8)}},
    )  # fmt: skip
    tasks = read(task(tmp_path, "t", [("the", "a", 1), ("a", "b", 2), ("b", "c", 3), ("the", "c", 4)]))
    found = word_similarity_rows(store, tasks, options=asked(min_tokens=2))
    assert of(found, "T0", "t").n == 4


def test_some_tokens_are_drawn(tmp_path):
    """As many of each word as asked for: with two different ones to a word, the mean tells which were taken."""
    names = ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"]
    values = planted.matrix(10)
    store = planted.store(
        tmp_path / "s", [32_000], [(0, "word", 2_000 * k, 2_000 * k + 1_000, n) for k, n in enumerate(names)],
        rows={"word": {"T0": values}},
    )  # fmt: skip
    pairs = [("a", "b", 1.5), ("a", "c", 2), ("b", "c", 3), ("a", "d", 4), ("b", "d", 2.5)]
    tasks = read(task(tmp_path, "t", pairs))
    from itertools import combinations, product

    places = [[k for k, n in enumerate(names) if n == w] for w in "abcd"]
    for n_tokens in (1, 2):
        possible = {
            round(
                rho(
                    pairs,
                    {
                        w: np.mean(values[list(some)].astype(float), axis=0)
                        for w, some in zip("abcd", taken, strict=True)
                    },
                )[0],
                6,
            )
            for taken in product(*(combinations(mine, min(n_tokens, len(mine))) for mine in places))
        }
        options = [asked(max_tokens=n_tokens, seed=seed) for seed in range(6)]
        found = [of(word_similarity_rows(store, tasks, options=each), "T0", "t").value for each in options]
        assert {round(value, 6) for value in found} <= possible
        assert len(set(found)) > 1
        assert found[0] == of(word_similarity_rows(store, tasks, options=options[0]), "T0", "t").value
    every = of(word_similarity_rows(store, tasks, options=asked(max_tokens=4)), "T0", "t").value
    assert every == of(word_similarity_rows(store, tasks), "T0", "t").value


def test_a_capped_word_of_two_spellings(tmp_path):
    """The cap is of the word: 2 tokens, not 2 of "The" and 2 of "the"."""
    names = ["The"] * 3 + ["the"] * 3 + ["a", "b", "c"]
    values = planted.matrix(9)
    store = planted.store(
        tmp_path / "s", [32_000], [(0, "word", 2_000 * k, 2_000 * k + 1_000, n) for k, n in enumerate(names)],
        rows={"word": {"T0": values}},
    )  # fmt: skip
    pairs = [("the", "a", 1.5), ("the", "b", 2), ("the", "c", 3), ("a", "b", 4), ("b", "c", 2.5)]
    from itertools import combinations

    rest = {w: values[6 + k].astype(float) for k, w in enumerate("abc")}
    possible = {
        round(rho(pairs, {"the": values[list(two)].astype(float).mean(0), **rest})[0], 6)
        for two in combinations(range(6), 2)
    }
    tasks = read(task(tmp_path, "t", pairs))
    for seed in range(8):
        found = of(word_similarity_rows(store, tasks, options=asked(max_tokens=2, seed=seed)), "T0", "t").value
        assert round(found, 6) in possible


def test_a_copy_counts_once(store, tmp_path):
    """Of a task and its copy the one with more words that were said is kept."""
    many = [(a, b, r + 0.125 * k) for k in range(3) for a, b, r in FIRST[:5]] + [
        ("cat", "never", 1.0),
        ("sun", "dog", 2.0),
    ]
    worse = [*many[:-2], ("cat", "never", 1.0), ("never mind", "dog", 2.0)]
    told = []
    tasks = [read(task(tmp_path, name, pairs))[0] for name, pairs in (("worse", worse), ("many", many))]
    found = word_similarity_rows(store, tasks, layers="T0", say=told.append)
    assert {row.target for row in found} == {MACRO, MICRO, "many"}
    assert told[0] == "left out: worse, which has the same pairs and ratings as many"
    assert of(found, "T0", MACRO).value == of(found, "T0", "many").value
    tasks = [read(task(tmp_path, name, many))[0] for name in ("a", "b")]
    assert {row.target for row in word_similarity_rows(store, tasks)} == {MACRO, MICRO, "a"}


def edits(a, b):
    """Levenshtein's distance by its recursion."""
    if not a or not b:
        return len(a) + len(b)
    return min(edits(a[1:], b) + 1, edits(a, b[1:]) + 1, edits(a[1:], b[1:]) + (a[0] != b[0]))


def baseline(found, model, target):
    (row,) = [row for row in found if row.model == model and row.target == target]
    assert (row.layer, row.layer_index) == ("baseline", 0)
    return row


def test_baselines(store, tasks, tmp_path):
    """On the same pairs; an embedding file on those of them that it has, and without tasks it knows too little of."""
    words = sorted(set(vectors(store, "T0")) - {"boat"})
    given = dict(zip(words, planted.matrix(len(words), 5, 9).round(4), strict=True))
    path = tmp_path / "glove.txt"
    path.write_text("".join(f"{w} {' '.join(map(str, v))}\n" for w, v in [*given.items(), ("other", given["cat"])]))
    told = []
    found = word_similarity_rows(store, tasks, options=asked(embeddings=[path]), say=told.append)
    said = set(vectors(store, "T0"))
    for name, pairs in (("first", FIRST), ("second", SECOND)):
        there = [(a.lower(), b.lower(), r) for a, b, r in pairs if {a.lower(), b.lower()} <= said]
        value = spearmanr([-edits(a, b) for a, b, _ in there], [r for *_, r in there]).statistic
        assert baseline(found, "edit distance", name).value == pytest.approx(value, abs=1e-9)
        assert baseline(found, "edit distance", name).n == len(there)
    value, n = rho(FIRST, {w: v.astype(float) for w, v in given.items()})
    row = baseline(found, "glove.txt", "first")
    assert (row.value, row.n) == (pytest.approx(value, abs=1e-6), n)
    assert n == 26
    assert [row.target for row in found if row.model == "glove.txt"] == [MACRO, MICRO, "first"]  # of second it has 2
    assert baseline(found, "glove.txt", MACRO).n == 1
    assert any("glove.txt lacks 1 of 12 words: 'boat'" in text for text in told)


def test_one_place_for_each_word_of_embeddings(store, tasks, tmp_path):
    """The order of the file is not that of the words."""
    words = sorted(vectors(store, "T0"), reverse=True)
    given = dict(zip(words, planted.matrix(len(words), 5, 3).round(4), strict=True))
    path = tmp_path / "v.txt"
    path.write_text("".join(f"{w} {' '.join(map(str, v))}\n" for w, v in given.items()))
    found = word_similarity_rows(store, tasks, options=asked(embeddings=[path]))
    for name, pairs in (("first", FIRST), ("second", SECOND)):
        value, n = rho(pairs, {w: v.astype(float) for w, v in given.items()})
        assert baseline(found, "v.txt", name).value == pytest.approx(value, abs=1e-6)
        assert baseline(found, "v.txt", name).n == n


def test_layers_side_by_side_are_the_same(store, tasks):
    assert word_similarity_rows(store, tasks, workers=1) == word_similarity_rows(store, tasks, workers=4)


def test_what_cannot_be(store, tasks, tmp_path):
    def refused(says, store=store, tasks=tasks, error=UsageError, unit=None, **options):
        with pytest.raises(error) as caught:
            word_similarity_rows(store, tasks, unit, options=asked(**options))
        assert all(part in str(caught.value) for part in says), str(caught.value)
        assert "\n" not in str(caught.value)

    (tmp_path / "other").mkdir()
    same = [read(task(tmp_path, "men", FIRST))[0], read(task(tmp_path / "other", "men", SECOND))[0]]
    refused(["two different tasks are called 'men'"], tasks=same)
    refused(["no task has 3 pairs", "few: 2 of 4"], tasks=tasks[:1])
    refused(["no word row has split=nothing"], where=parse_where(["split=nothing"]))
    refused(["no phone rows"], unit="phone")
    lacking = tmp_path / "lacking.txt"
    lacking.write_text("cat 1 2\ndog 2 3\nother 3 3\n")
    refused(["lacking.txt has both words of fewer than 3 pairs"], embeddings=[lacking])
    refused(["nothing.txt"], embeddings=[tmp_path / "nothing.txt"], error=CorpusError)
    values = planted.matrix(store.n_rows("word"))
    label = store.rows("word")["label"].to_numpy()
    values[label == "once"] = 0
    segments = [
        (r["utterance"], "word", r["start"], r["end"], name)
        for r, name in zip(store.row_table("word"), label, strict=True)
    ]
    zero = planted.store(tmp_path / "zero", [16_000] * 8, segments, rows={"word": {"T3": values}})
    refused(["layer T3", "'once' has no direction"], store=zero, error=FeatureError)
