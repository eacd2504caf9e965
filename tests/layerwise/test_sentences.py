"""Sentence similarity of stores: the rows are scipy's Spearman of mean cosines over all combinations, by plain loops."""

from __future__ import annotations

import numpy as np
import planted
import pytest
import spread
from running import asked, run, settings
from scipy.stats import rankdata, spearmanr

from layertool.conditions import parse_where
from layertool.errors import FeatureError, UsageError
from layertool.layerwise.sentences import Sentences

LAYERS = ("T0", "T1")


def make(path, said=None, seed=0, n_pairs=12, names=("pair", "side", "similarity", "speaker"), change=None, zero=None):
    """12 pairs, each sentence by 2 or 3 of 4 speakers; and two utterances of no pair.

    ``change``: of (column, row) other values.
    """
    random = np.random.default_rng(seed)
    if said is None:
        said = []
        for pair in range(n_pairs):
            for side in "ab":
                for voice in random.permutation(4)[: 2 + (pair % 4 > (1 if side == "a" else 2))]:
                    said.append((f"p{pair}", side, 0.25 * ((7 * pair) % 17), f"s{voice}"))
        said += [(None, "a", None, "s1"), (None, None, None, None)]
    said = [said[k] for k in random.permutation(len(said))]
    columns = {name: [row[k] for row in said] for k, name in enumerate(names)}
    for (name, at), value in (change or {}).items():
        columns[name][at] = value
    n = len(said)
    base = {key: random.standard_normal(5) for key in sorted({(str(r[0]), str(r[1])) for r in said})}
    vectors = {
        layer: np.stack([base[str(r[0]), str(r[1])] + 0.8 * random.standard_normal(5) + depth for r in said])
        for depth, layer in enumerate(LAYERS)
    }
    if zero is not None:
        vectors["T1"][zero] = 0
    rows = {"utterance": vectors, "word": {"T0": planted.matrix(2, 5)}}
    segments = [(k, "word", 0, 100, "w") for k in range(2)]
    return planted.store(
        path, [1_000] * n, segments, rows=rows, split=[("dev", "test")[k % 3 == 0] for k in range(n)], **columns
    )


def sentence_rows(store, layers="all", options=None, say=None, workers=None):
    return run(Sentences(layers=layers, **(options or {})), store, say=say, workers=workers)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("sentences") / "store")


def expected(store, layer, across=False, keep=lambda row: True, names=("pair", "side", "similarity", "speaker")):
    """Spearman's correlation, how many pairs, and how many combinations each has."""
    pair_name, side_name, rating_name, speaker_name = names
    rows = store.rows("utterance")
    x = store.read("utterance", layer).astype(np.float64)
    pairs = {}
    for k, row in rows.iterrows():
        if isinstance(row[pair_name], str) and keep(row):
            pairs.setdefault(row[pair_name], {}).setdefault(row[side_name], []).append(k)
    means, ratings, counts = [], [], []
    for sides in pairs.values():
        found = [
            x[i] @ x[j] / np.sqrt((x[i] @ x[i]) * (x[j] @ x[j]))
            for i in sides.get("a", [])
            for j in sides.get("b", [])
            if not across or rows[speaker_name][i] != rows[speaker_name][j]
        ]
        if found:
            means.append(np.mean(found))
            ratings.append(float(rows[rating_name][next(iter(sides.values()))[0]]))
            counts.append(len(found))
    return float(spearmanr(means, ratings).statistic), len(means), counts


@pytest.mark.parametrize("across", [False, True])
def test_every_combination_of_speakers(store, across):
    told = []
    found = sentence_rows(store, options=asked(across_speakers=across), say=told.append)
    assert [row.layer for row in found] == list(LAYERS)
    for row in found:
        value, n, counts = expected(store, row.layer, across)
        assert (row.value, row.n) == (pytest.approx(value, abs=1e-9), n)
        assert row.ci_low < row.value < row.ci_high
        assert (row.analysis, row.target, row.chance, row.unit) == (
            "sentence similarity",
            "similarity",
            0.0,
            "utterance",
        )
    number = f"{min(counts)} to {max(counts)}"
    assert f"{n} pairs, each the mean of {number} combinations of speakers" in told[-1]
    about = {"combinations of speakers": number, "across_speakers": across, "pooling": "mean"}
    assert about.items() <= settings(found[0]).items()
    assert len(set(counts)) > 1


def test_speakers_with_themselves_change_the_number(store):
    plain, across = (sentence_rows(store, layers="T0", options=asked(across_speakers=x))[0] for x in (False, True))
    assert plain.value != across.value


def test_pairs_without_both_sentences(tmp_path):
    """By ``--where``, or since one speaker alone said both; they are named."""
    said = [(f"p{k}", side, float((3 * k) % 7), f"s{v}") for k in range(6) for side in "ab" for v in range(2)]
    said += [("lonely", "a", 3.0, "s0"), ("same", "a", 2.0, "s1"), ("same", "b", 2.0, "s1")]
    store = make(tmp_path / "s", said)
    told = []
    (row,) = sentence_rows(store, layers="T1", options=asked(across_speakers=True), say=told.append)
    value, n, _ = expected(store, "T1", True)
    assert (row.value, row.n, n) == (pytest.approx(value, abs=1e-9), 6, 6)
    assert told[0] == "left out: 2 pairs that have no combination of two utterances (lonely, same)"
    assert "each the mean of 2 combinations" in told[1]
    told.clear()
    (row,) = sentence_rows(store, layers="T1", say=told.append)
    value, n, _ = expected(store, "T1")
    assert (row.value, row.n) == (pytest.approx(value, abs=1e-9), 7)
    assert told[0] == "left out: 1 pairs that have no combination of two utterances (lonely)"


def test_chosen_rows(store):
    (row,) = sentence_rows(store, layers="T0", options=asked(where=parse_where(["split=dev"])))
    value, n, _ = expected(store, "T0", keep=lambda r: r["split"] == "dev")
    assert (row.value, row.n) == (pytest.approx(value, abs=1e-9), n)
    assert value != expected(store, "T0")[0]
    assert settings(row)["where"] == ["split=dev"]


def test_other_columns(tmp_path):
    names = ("item", "half", "score", "who")
    store = make(tmp_path / "s", names=names)
    options = asked(**dict(zip(("pair", "side", "rating", "speaker"), names, strict=True)), across_speakers=True)
    (row,) = sentence_rows(store, layers="T1", options=options)
    assert row.value == pytest.approx(expected(store, "T1", True, names=names)[0], abs=1e-9)
    assert row.target == "score"


def test_ratings_that_are_text(tmp_path):
    """ "4.5" of a metadata table is 4.5; ten is more than nine."""
    said = [(f"p{k}", side, str(1.5 * ((5 * k) % 9)), "s0") for k in range(9) for side in "ab"]
    store = make(tmp_path / "s", said)
    assert {"10.5", "9.0"} <= set(store.utterances["similarity"])
    (row,) = sentence_rows(store, layers="T0")
    assert row.value == pytest.approx(expected(store, "T0")[0], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "across"), [("pairs", False), ("pairs", True), ("speakers", False), ("none", False)])
def test_intervals(store, what, across):
    """A combination counts as often as both its speakers are drawn, one of a speaker with himself as often as he is."""
    (row,) = sentence_rows(store, layers="T1", options=asked(resample=what, seed=2, across_speakers=across))
    if what == "none":
        assert (row.ci_low, row.ci_high) == (None, None)
        return
    rows, x = store.rows("utterance"), store.read("utterance", "T1").astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    names = sorted(p for p in rows["pair"].unique() if isinstance(p, str))
    voices = sorted(v for v in rows["speaker"][rows["pair"].notna()].unique())
    combinations = []
    for name in names:
        mine = rows[rows["pair"] == name]
        both = [(i, j) for i in mine.index[mine["side"] == "a"] for j in mine.index[mine["side"] == "b"]]
        both = [(i, j) for i, j in both if not across or rows["speaker"][i] != rows["speaker"][j]]
        who = np.array([[voices.index(rows["speaker"][k]) for k in pair] for pair in both])
        combinations.append((who, np.array([x[i] @ x[j] for i, j in both]), mine["similarity"].iloc[0]))
    n = len(names if what == "pairs" else voices)
    values = []
    for drawn in np.random.default_rng(2).multinomial(n, [1 / n] * n, 1000):
        means, ratings = [], []
        for place, (who, cosines, rating) in enumerate(combinations):
            weights = np.ones(len(cosines))
            if what == "speakers":
                weights = np.array([drawn[v] if v == w else drawn[v] * drawn[w] for v, w in who])
            if weights.sum():
                times = int(drawn[place]) if what == "pairs" else 1
                means += [np.average(cosines, weights=weights)] * times
                ratings += [rating] * times
        if len(set(means)) > 2 and len(set(ratings)) > 1:
            values.append(np.corrcoef(rankdata(means), rankdata(ratings))[0, 1])
    assert (row.ci_low, row.ci_high) == pytest.approx(tuple(np.quantile(values, spread.ends(n))), abs=1e-9)


def test_layers_side_by_side_are_the_same(store):
    assert sentence_rows(store, workers=1) == sentence_rows(store, workers=2)


def test_what_cannot_be(store, tmp_path):
    def refused(says, store=store, error=UsageError, **options):
        with pytest.raises(error) as caught:
            sentence_rows(store, options=asked(**options))
        assert all(part in str(caught.value) for part in says), str(caught.value)
        assert "\n" not in str(caught.value)

    refused(["'words'", "--resample", "pairs, speakers, none"], resample="words")
    refused(["no column 'item'", "layertool corpus spoken-sts", "--pair"], pair="item")
    refused(["no column 'half'"], side="half")
    refused(["no column 'score'"], rating="score")
    refused(["no column 'who'"], speaker="who", across_speakers=True)
    refused(["the sides of sentence pairs are two, not 4"], side="speaker")
    refused(["column 'split' is no number everywhere", "--rating"], rating="split")
    refused(["no utterance row has split=nothing"], where=parse_where(["split=nothing"]))
    refused(["2 pairs have both sentences", "3 or more"], where=parse_where(["pair=p1", "pair=p2"]))
    refused(["no utterance row has a pair", "--pair"], where=parse_where(["pair="]))
    refused(
        ["0 pairs have both sentences by different speakers"], across_speakers=True, where=parse_where(["speaker=s1"])
    )
    pairs = store.utterances["pair"]
    at = int(pairs.notna().idxmax())
    name = pairs[at]
    for column, value, says in (
        ("similarity", 99.0, [f"pair '{name}' has more than one rating"]),
        ("similarity", None, ["1 of", "rows have no similarity"]),
        ("side", None, ["1 of", "rows have no side"]),
    ):
        refused(says, store=make(tmp_path / f"{column}{value}", change={(column, at): value}))
    silent = make(tmp_path / "silent", change={("speaker", at): None})
    refused(["1 of", "rows have no speaker"], store=silent, across_speakers=True)
    assert sentence_rows(silent, layers="T0")[0].value == sentence_rows(store, layers="T0")[0].value
    refused(["layer T1", "no direction"], store=make(tmp_path / "zero", zero=at), error=FeatureError)
