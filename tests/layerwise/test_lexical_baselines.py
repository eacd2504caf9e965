"""Predictors that do not listen: formulas written out, the real corpus, and rows of the paper's table by hand."""

from __future__ import annotations

import json
import math
import warnings
from fractions import Fraction

import heard
import numpy as np
import pytest

from layertool import Corpus
from layertool.analysis.lexical import cmudict_words
from layertool.corpora import eccc
from layertool.errors import UsageError
from layertool.layerwise.lexical_baselines import LexicalBaselines, Multinomial, Oracle, Uniform
from layertool.layerwise.lexical_rows import IMPOSSIBLE
from layertool.layerwise.stimuli import Stimulus, stimuli_of

METRICS = ("log-likelihood", "Kendall tau-b", "top-1 accuracy", "top-n coverage")
SURPLUS = "frequency minus probability of the target"
TRAIN = (
    Stimulus(0, "a", ("the", "Tea"), (3, 2)),
    Stimulus(1, "b", ("tea", "he"), (4, 1)),
)
WORDS = ["he", "hat", "the", "tea"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return heard.corpus(tmp_path_factory.mktemp("heard"))


@pytest.fixture(scope="module")
def real(shared):
    return eccc.read(shared / "data/eccc")


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def baseline_rows(corpus, split="all", lexicon=heard.LEXICON, **options) -> tuple[list, list]:
    """Rows below and above any model."""
    analysis = LexicalBaselines(split=split or "all", lexicon=lexicon, **options)
    return analysis.predictors(analysis.task(corpus))


def settings(row) -> dict:
    return json.loads(row.settings)


def values(rows, target="all") -> dict[str, float]:
    return {row.metric: row.value for row in rows if row.target == target}


def of(rows, model) -> list:
    return [row for row in rows if row.model == model]


def counted(corpus, part="train") -> dict[str, int]:
    """How often each word was given in a part, from the table."""
    table, out = corpus.utterances, {}
    for _, row in table[table["split"] == part].iterrows():
        for word, k in zip(row["responses"].split("|"), row["counts"].split(), strict=True):
            out[word.lower()] = out.get(word.lower(), 0) + int(k)
    return out


def known_words(corpus, lexicon) -> list[str]:
    said = [word for text in corpus.utterances["responses"] for word in text.split("|")]
    return list(dict.fromkeys([*lexicon, *(word.lower() for word in [*said, *corpus.utterances["target"]])]))


# --- predictors ---------------------------------------------------------------------------------------


def test_uniform():
    chance, stimulus = Uniform(WORDS, seed=1), Stimulus(0, "u", ("a", "b", "c"), (1, 1, 1))
    assert chance.log_p(stimulus, ["a", "he"]).tolist() == pytest.approx([math.log(0.25)] * 2)
    drawn = [chance.top(stimulus) for _ in range(4_000)]
    assert all(len(set(words)) == 3 and set(words) <= set(WORDS) for words in drawn)
    for word in WORDS:
        assert sum(words[0] == word for words in drawn) == pytest.approx(1_000, abs=150)
    again = Uniform(WORDS, seed=1)
    assert [again.top(stimulus) for _ in range(4_000)] == drawn
    assert [Uniform(WORDS, seed=2).top(stimulus) for _ in range(9)] != drawn[:9]
    assert sorted(Uniform(["x", "y"]).top(stimulus)) == ["x", "y"]


@pytest.mark.parametrize("smoothing", [1, 0.5, 3.25, 0])
def test_multinomial(smoothing):
    model, counts = Multinomial(TRAIN, WORDS, smoothing), {"the": 3, "tea": 6, "he": 1, "hat": 0}
    total = sum(counts.values()) + smoothing * 4
    p = np.exp(model.log_p(TRAIN[0], WORDS))
    assert p.tolist() == pytest.approx([(counts[word] + smoothing) / total for word in WORDS])
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert model.log_p(TRAIN[0], ["TEA", "zoo"]).tolist() == [math.log((6 + smoothing) / total), -math.inf]
    assert model.top(Stimulus(0, "u", ("a", "b", "c"), (1, 1, 1))) == ["tea", "the", "he"]
    if not smoothing:
        assert model.log_p(TRAIN[0], ["hat"])[0] == -math.inf


def test_multinomial_refuses():
    with pytest.raises(UsageError, match="'tea' is not in the vocabulary"):
        Multinomial(TRAIN, ["he", "hat", "the"])
    with pytest.raises(UsageError, match="no training responses and no smoothing"):
        Multinomial([], WORDS, 0)


@pytest.mark.slow
def test_oracle_on_the_real_corpus(real):
    """719 real stimuli: lgamma, and exact fractions for some."""
    table, total, oracle = real.utterances, 0.0, Oracle()
    for place, (_, row) in enumerate(table.iterrows()):
        k = [int(count) for count in row["counts"].split()]
        g = math.lgamma(sum(k) + 1) - sum(math.lgamma(c + 1) for c in k) + sum(c * math.log(c / sum(k)) for c in k)
        total += g
        if place % 60 == 0:
            exact = Fraction(math.factorial(sum(k)), math.prod(math.factorial(c) for c in k))
            assert math.log(exact * math.prod(Fraction(c, sum(k)) ** c for c in k)) == pytest.approx(g, abs=1e-9)
    below, above = baseline_rows(real, lexicon=None)
    found = values(above)
    assert found["log-likelihood"] == pytest.approx(total / 719, abs=1e-9)
    assert found["log-likelihood"] == pytest.approx(-4.94, abs=0.1)
    assert [found[name] for name in METRICS[1:]] == pytest.approx([1, 1, 1])
    chance = values(below)
    assert chance["log-likelihood"] == pytest.approx(-159.36, abs=1)
    assert {row.model for row in below} == {"random"}
    stimulus = stimuli_of(real)[0]
    assert oracle.top(stimulus)[0] == stimulus.responses[stimulus.counts.index(max(stimulus.counts))]
    assert oracle.log_p(stimulus, ["zoo"])[0] == -math.inf


# --- rows by hand -------------------------------------------------------------------------------------


def by_hand(corpus, part, log_p_of, top_of) -> dict[str, list[float]]:
    """Every metric of every stimulus of a part; log_p_of(word, row), top_of(row)."""
    table, out = corpus.utterances, {name: [] for name in (*METRICS, SURPLUS)}
    for _, row in table[table["split"] == part].iterrows():
        words, counts = row["responses"].split("|"), [int(k) for k in row["counts"].split()]
        log_p, top = [log_p_of(word.lower(), row) for word in words], top_of(row)
        out["log-likelihood"].append(heard.multinomial(log_p, counts))
        out["Kendall tau-b"].append(heard.tau_b(log_p, counts))
        out["top-1 accuracy"].append(float(heard.top_is_right(top[0], words, counts)))
        out["top-n coverage"].append(heard.share_found(top, words))
        frequency = sum(k for word, k in zip(words, counts, strict=True) if word.lower() == row["target"]) / sum(counts)
        out[SURPLUS].append(frequency - math.exp(log_p_of(row["target"], row)))
    return {name: [x for x in numbers if not math.isnan(x)] for name, numbers in out.items()}


@pytest.mark.parametrize("smoothing", [1.0, 0.5])
@pytest.mark.parametrize("part", ["dev", "test"])
def test_multinomial_rows(corpus, part, smoothing):
    """The most frequent words of train are, by themselves: tea and tee (homophones), he, the."""
    counts, known = counted(corpus), known_words(corpus, heard.LEXICON)
    total = sum(counts.values()) + smoothing * len(known)
    best = sorted(known, key=lambda word: -counts.get(word, 0))
    expected = by_hand(
        corpus, part, lambda word, _: math.log((counts.get(word, 0) + smoothing) / total),
        lambda row: best[: row["responses"].count("|") + 1],
    )  # fmt: skip
    below, _ = baseline_rows(corpus, part, smoothing=smoothing)
    rows = of(below, "multinomial")
    assert values(rows) == pytest.approx({name: np.mean(numbers) for name, numbers in expected.items()})
    means = [row for row in rows if row.target == "all"]
    assert {row.metric: row.n for row in means} == {name: len(x) for name, x in expected.items()}
    assert all(f"{smoothing:g} added to each of {len(known)} words" in settings(row)["predicted_by"] for row in rows)
    assert all(settings(row)["split"] == part for row in rows)
    assert all("encoder_window" not in settings(row) for row in rows)
    surplus = next(row for row in means if row.metric == SURPLUS)
    assert surplus.chance is None
    assert min(expected["top-n coverage"]) < max(expected["top-n coverage"])


def test_homophones_are_found(corpus, tmp_path):
    """Nobody in train says tee, everybody tea: they sound alike, so tee is found, hat is not."""
    clips = [("tea", "9", "x", "tea", "train", "train"), ("tee|hat", "9 4", "x", "tee", "test", "test"),
             ("hat|tee", "9 4", "x", "tee", "test", "test")]  # fmt: skip
    below, above = baseline_rows(heard.corpus(tmp_path, clips), "test", ["zoo"])
    found = values(of(below, "multinomial"))
    assert (found["top-1 accuracy"], found["top-n coverage"]) == (0.5, 0.5)
    assert values(above)["top-1 accuracy"] == 1


def test_uniform_rows(corpus):
    known = known_words(corpus, heard.LEXICON)
    chance = math.log(1 / len(known))
    expected = by_hand(corpus, "test", lambda *_: chance, lambda _: ["zoo"])
    below, _ = baseline_rows(corpus, "test", [*heard.LEXICON, "The "], seed=3)
    rows = of(below, "random")
    found = values(rows)
    for name in ("log-likelihood", "Kendall tau-b", SURPLUS):
        assert found[name] == pytest.approx(np.mean(expected[name])), name
    assert found["Kendall tau-b"] == 0
    for row in rows:
        if row.metric.startswith("log-likelihood"):
            assert row.chance == pytest.approx(row.value)
    again = [row.value for row in of(baseline_rows(corpus, "test", seed=3)[0], "random")]
    assert again == [row.value for row in rows]
    sizes = {row.chance for row in rows if row.metric.startswith("top-1")}
    assert sizes == {1 / len(known)}


def test_oracle_rows(corpus):
    expected = by_hand(corpus, "test", lambda *_: 0.0, lambda row: row["responses"].split("|"))
    _, above = baseline_rows(corpus, "test")
    found = values(above)
    assert [found[name] for name in METRICS[1:]] == pytest.approx([1, 1, 1])
    tau = next(row for row in above if row.target == "all" and row.metric.startswith("Kendall"))
    assert tau.n == len(expected["Kendall tau-b"]) == 3  # eat|tea|heat 3 3 3 ranks nothing
    assert found[SURPLUS] == pytest.approx(0, abs=1e-12)


def test_no_chance_above_1(corpus):
    """A share that is expected of guessing is a share, however small the lexicon."""
    clips = [(*clip[:4], "test", "test") for clip in heard.CLIPS[7:8]]
    one = Corpus(corpus.utterances.iloc[7:8].reset_index(drop=True), corpus.segments, "c", {})
    assert len(clips[0][0].split("|")) == 6
    below, above = baseline_rows(one, lexicon=["the"])
    assert all(row.chance is None or row.chance <= 1 for row in [*below, *above])


# --- what is fitted on what ---------------------------------------------------------------------------


def with_cell(corpus, place, **cells) -> Corpus:
    table = corpus.utterances.copy()
    for name, value in cells.items():
        table.loc[place, name] = value
    return Corpus(table, corpus.segments, corpus.name, corpus.provenance)


def test_the_multinomial_is_fitted_on_train_only(corpus):
    before = of(baseline_rows(corpus, "test")[0], "multinomial")
    other = with_cell(corpus, 6, responses="zoo|eat|het", counts="70 1 1")  # dev; het, so that no word goes
    assert of(baseline_rows(other, "test")[0], "multinomial") == before
    other = with_cell(corpus, 9, responses="zoo|tea|heat", counts="70 1 1")  # test
    after = of(baseline_rows(other, "test")[0], "multinomial")
    alone = [
        {row.metric + row.target: row.value for row in rows if row.target.endswith("u7")} for rows in (before, after)
    ]
    assert alone[0] == alone[1] != {}
    other = with_cell(corpus, 0, responses="zoo|tea|he")  # train
    assert of(baseline_rows(other, "test")[0], "multinomial") != before


@pytest.mark.parametrize("by_target", [False, True])
def test_the_train_part_of_the_same_split(corpus, by_target):
    column = "split_by_target" if by_target else "split"
    table = corpus.utterances
    renamed = Corpus(table.assign(split=table[column]), corpus.segments, corpus.name, {})
    counts, known = counted(renamed), known_words(corpus, heard.LEXICON)
    total = sum(counts.values()) + len(known)
    expected = by_hand(renamed, "test", lambda word, _: math.log((counts.get(word, 0) + 1) / total), lambda _: ["zoo"])[
        "log-likelihood"
    ]
    below, _ = baseline_rows(corpus, "test", target_disjoint=by_target)
    assert values(of(below, "multinomial"))["log-likelihood"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("part", [None, "train"])
def test_the_multinomial_is_not_scored_on_what_it_was_fitted_on(corpus, part):
    below, above = baseline_rows(corpus, part)
    assert {row.model for row in below} == {"random"}
    assert {row.model for row in above} == {"oracle"}


def test_conditions_that_only_the_scored_part_meets(corpus):
    """One test stimulus by name: what the multinomial was fitted on is the train part all the same."""
    below, _ = baseline_rows(corpus, "test", where="utterance=u7")
    assert "multinomial" in {row.model for row in below}


def test_impossible_responses_are_counted(corpus):
    """Without smoothing: u7 (eh tht hth ee), u10 (teeth) have words that nobody said in train, u9 (eat, heat) too."""
    counts = counted(corpus)
    part = corpus.utterances[corpus.utterances["split"] == "test"]
    expected = {
        masker: sum(any(word.lower() not in counts for word in text.split("|")) for text in own["responses"])
        for masker, own in [("all", part), *part.groupby("masker")]
    }
    assert expected == {"all": 3, "BAB4": 1, "BMN3": 1, "SSN": 1}
    below, _ = baseline_rows(corpus, "test", smoothing=0)
    rows = of(below, "multinomial")
    found = {row.target: (row.value, row.n) for row in rows if row.metric == IMPOSSIBLE.name}
    assert found == {name: (n, {"all": 4, "BAB4": 1, "BMN3": 2, "SSN": 1}[name]) for name, n in expected.items()}
    means = {row.target: row for row in rows if row.metric.startswith("log-likelihood")}
    assert means["all"].value == means["BMN3"].value == means["SSN: u7"].value == -math.inf
    assert math.isfinite(means["BMN3: u8"].value)
    assert means["all"].ci_low == -math.inf
    for row in [*below, *rows]:
        for number in (row.value, row.ci_low, row.ci_high, row.chance):
            assert number is None or not math.isnan(number), row
    taus = [row.value for row in rows if row.metric.startswith("Kendall") and ":" in row.target]
    assert len(taus) == 3
    assert all(-1 <= tau <= 1 for tau in taus)


def test_no_row_of_impossible_responses_where_there_are_none(corpus):
    below, above = baseline_rows(corpus, "test")
    assert not [row for row in [*below, *above] if row.metric == IMPOSSIBLE.name]


def test_rows_of_the_real_test_part(real):
    """The paper's table: chance is far below, frequencies a little above it; by add-one over CMUdict about -130."""
    below, above = baseline_rows(real, "test", lexicon=None)
    counts, known = counted(real), known_words(real, cmudict_words())
    total = sum(counts.values()) + len(known)
    best = sorted(known, key=lambda word: -counts.get(word, 0))[:20]
    expected = by_hand(
        real, "test", lambda word, _: math.log((counts.get(word, 0) + 1) / total),
        lambda row: best[: row["responses"].count("|") + 1],
    )  # fmt: skip
    assert values(of(below, "multinomial")) == pytest.approx({name: np.mean(x) for name, x in expected.items()})
    assert -155 < values(of(below, "multinomial"))["log-likelihood"] < -130  # trained on 575 stimuli, not on 2565
    assert values(above)["log-likelihood"] == pytest.approx(-4.94, abs=0.4)
