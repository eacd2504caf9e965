"""Mutual information of stores: what ``mi_rows`` reports equals k-means and scores on rows that are chosen here by hand."""

from __future__ import annotations

import math
import shutil

import models
import numpy as np
import planted
import pytest
from running import asked, run, settings
from scipy import stats

import layertool
from layertool import FeatureStore
from layertool.analysis import folds, mi
from layertool.conditions import parse_where
from layertool.errors import UsageError
from layertool.layerwise import rows
from layertool.layerwise.mi import MI
from layertool.layerwise.rows import Sampling
from layertool.layerwise.views import LayerView

N = 16
UNITS = ("frame", "phone", "word", "utterance")
LAYERS = "C1,C7,T0-T1"
NAMES = {
    "mi": lambda s: (s.nats, s.permuted),
    "normalized mi": lambda s: (s.nats / s.label_entropy, s.permuted / s.label_entropy),
    "adjusted mi": lambda s: (s.adjusted, 0),
    "corrected mi": lambda s: (s.nats - s.permuted, 0),
    "label purity": lambda s: (s.phone_purity, s.permuted_phone_purity),
    "cluster purity": lambda s: (s.cluster_purity, s.permuted_cluster_purity),
    "v-measure": lambda s: (s.v_measure, 2 * s.permuted / (s.label_entropy + s.cluster_entropy)),
}


def mi_rows(store, labels, unit=None, layers="all", options=None, say=None, progress=None):
    """Rows of one store and one kind of labels."""
    return run(MI(labels=labels, unit=unit, layers=layers, **(options or {})), store, say=say, progress=progress)


def make(folder, seed, instead=()):
    """16 utterances of 4 speakers; ``instead``: labels in place of others."""
    lengths = [24_000 + 1733 * ((5 * k + seed) % 7) for k in range(N)]
    replace = dict(instead)
    segments = [(*row[:4], replace.get(row[4], row[4])) for row in models.random_segments(lengths, seed)]
    waveforms = [models.speech_like(n, k + seed) for k, n in enumerate(lengths)]
    split = ["train" if k < 10 else "dev" for k in range(N)]
    return models.corpus(folder, waveforms, segments, speaker=[f"s{k % 4}" for k in range(N)], split=split)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make(tmp_path_factory.mktemp("corpus"), 0, {"p3": "SIL"}.items())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(models.save("wav2vec2-base", tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def store(corpus, model, tmp_path_factory):
    return layertool.extract(model, corpus, tmp_path_factory.mktemp("store") / "scored", UNITS, LAYERS)


@pytest.fixture(scope="module")
def train(model, tmp_path_factory):
    """Another corpus: its labels have other codes, p7 and w4 do not occur, and some are of its own."""
    corpus = make(tmp_path_factory.mktemp("train"), 40, {"p7": "a", "w4": "extra"}.items())
    return layertool.extract(model, corpus, tmp_path_factory.mktemp("store") / "train", UNITS, LAYERS)


def spoken(store, unit):
    return np.flatnonzero(~store.rows(unit)["label"].isin(["SIL", None]))


def scores_by_hand(
    fit_store,
    fitted,
    store,
    scored,
    labels,
    layer,
    unit,
    n_clusters,
    batch,
    seeds=(0,),
    turned=False,
    standardise=False,
):
    """``fitted``, ``scored``: functions of the seed that give row numbers; ``turned``: labels of rows half way on.

    Each score comes with those without the rows of each of ten groups of the utterances that are scored in any repeat.
    """
    out = []
    utterances = store.row_table(unit, layer)["utterance"]
    there = sorted({int(code) for seed in seeds for code in utterances[scored(seed)]})
    dealt = np.random.default_rng(seeds[0]).permutation(len(there)) % 10
    group_of = dict(zip(there, dealt, strict=True))
    for seed in seeds:
        rows_of_fit = fit_store.read(unit, layer)[fitted(seed)]
        clusters = mi.fit_clusters(rows_of_fit, n_clusters, batch, seed=seed, standardise=standardise)
        mine = scored(seed)
        known = labels[mine]
        known = np.concatenate([known[-(len(known) // 2) :], known[: -(len(known) // 2)]]) if turned else known
        assigned = clusters.assign(store.read(unit, layer)[mine])
        group = np.array([group_of[code] for code in utterances[mine]])
        without = [mi.score(assigned[group != k], known[group != k]) for k in range(max(dealt) + 1)]
        out.append((mi.score(assigned, known, seed=seed), without))
    return out


def agree(found, parts, controls=None):
    """Seven numbers of a layer, means over the repeats, with the jackknife of these means around them.

    ``controls``: scores with labels turned by half of the rows, whose values are the chance levels then.
    """
    assert [row.metric for row in found] == list(NAMES)
    for row, numbers in zip(found, NAMES.values(), strict=True):
        values, chances = zip(*(numbers(part) for part, _ in parts), strict=True)
        if controls is not None:
            chances = [numbers(control)[0] for control, _ in controls]
        assert row.value == pytest.approx(np.mean(values), abs=1e-12)
        assert row.chance == pytest.approx(np.mean(chances), abs=1e-12)
        assert row.n == parts[0][0].n
        without = np.mean([[numbers(one)[0] for one in part] for _, part in parts], axis=0)
        g, r = len(without), len(parts)
        variance = (g - 1) / g * sum((one - sum(without) / g) ** 2 for one in without)
        if r > 1:  # halves
            variance = r / (r + 1) * variance + np.var(values, ddof=1) / r
        reach = stats.t.ppf(0.975, g - 1) * math.sqrt(variance)
        assert (row.ci_low, row.ci_high) == pytest.approx((row.value - reach, row.value + reach), abs=1e-10)
        assert settings(row)["interval_groups"] == g


def half_of(store, unit, kept, which):
    """Row numbers of one half of the utterances."""
    table = store.row_table(unit)[kept]

    def rows_of(seed):
        return kept[folds.disjoint(table["utterance"], table["label"], 2, seed, "utterances") == which]

    return rows_of


@pytest.mark.parametrize("layer", ["C7", "T1"])
def test_halves_of_the_utterances(store, layer):
    kept = spoken(store, "phone")
    found = mi_rows(store, "phone", layers=layer, options=asked(n_clusters=20))
    parts = scores_by_hand(
        store, half_of(store, "phone", kept, 0), store, half_of(store, "phone", kept, 1),
        store.rows("phone")["label"].to_numpy(), layer, "phone", 20, mi.PHONE_BATCH_SIZE, (0, 1, 2),
    )  # fmt: skip
    agree(found, parts)
    assert len(kept) < store.n_rows("phone")
    assert {(row.analysis, row.layer, row.target, row.unit, row.seed) for row in found} == {
        ("mi", layer, "phone", "phone", 0)
    }
    assert {"clusters": 20, "fit_on": "half of the utterances", "repeats": 3}.items() <= settings(found[0]).items()


@pytest.mark.parametrize("seed", [0, 6])
def test_words_are_drawn_as_published(store, seed):
    """15 of each word are scored; fewer than 600 of each are all fitted."""
    kept = np.arange(store.n_rows("word"))
    scored_half = half_of(store, "word", kept, 1)

    def scored(seed):
        table = rows.select(store, "word", None).of(scored_half(seed))
        return rows.draw(table, Sampling(per_label=15), seed).index

    labels = store.rows("word")["label"].to_numpy()
    options = asked(n_clusters=8, batch_size=50, repeats=1, seed=seed)
    parts = scores_by_hand(store, half_of(store, "word", kept, 0), store, scored, labels, "C7", "word", 8, 50, (seed,))
    agree(mi_rows(store, "word", layers="C7", options=options), parts)


def test_everything_is_scored_when_asked(store):
    kept = np.arange(store.n_rows("word"))
    labels = store.rows("word")["label"].to_numpy()
    options = asked(n_clusters=8, repeats=1, sample="all")
    halves = [half_of(store, "word", kept, which) for which in (0, 1)]
    agree(
        mi_rows(store, "word", layers="C7", options=options),
        scores_by_hand(store, halves[0], store, halves[1], labels, "C7", "word", 8, mi.WORD_BATCH_SIZE),
    )


@pytest.mark.parametrize("unit", ["phone", "word"])
def test_clusters_of_another_corpus(store, train, unit):
    """Labels are the same by name, whatever their codes; those that the fit never saw are not scored."""
    assert store.labels[unit] != train.labels[unit]
    known = set(train.rows(unit)["label"])
    labels = store.rows(unit)["label"].to_numpy()
    kept = np.array([k for k in spoken(store, unit) if labels[k] in known])
    assert 0 < len(kept) < len(spoken(store, unit))
    if unit == "word":
        kept = rows.draw(rows.select(store, unit, None).of(kept), Sampling(per_label=15), 0).index
    options = asked(n_clusters=12, batch_size=100, repeats=1, fit_on=train)
    found = mi_rows(store, unit, layers="T1", options=options)
    fitted = spoken(train, unit)
    parts = scores_by_hand(train, lambda _: fitted, store, lambda _: kept, labels, "T1", unit, 12, 100)
    agree(found, parts)
    assert found[0].store == str(store.path)
    assert settings(found[0])["fit_on"] == "synthetic"


def test_other_rows_of_the_same_store(store):
    splits = store.rows("phone")["split"].to_numpy()
    kept = spoken(store, "phone")
    options = asked(n_clusters=12, repeats=1, fit_where=parse_where(["split=train"]), where=parse_where(["split=dev"]))
    told = []
    found = mi_rows(store, "phone", layers="T0", options=options, say=told.append)
    labels = store.rows("phone")["label"].to_numpy()
    fitted, scored = (kept[splits[kept] == name] for name in ("train", "dev"))
    parts = scores_by_hand(store, lambda _: fitted, store, lambda _: scored, labels, "T0", "phone", 12, 1500)
    agree(found, parts)
    assert told == []
    assert settings(found[0])["fit_where"] == ["split=train"]
    assert (settings(found[0])["where"], settings(found[0])["chance"]) == (["split=dev"], "labels permuted")


def test_utterances_that_are_fitted_on_are_not_scored(store):
    told = []
    options = asked(n_clusters=12, repeats=1, fit_where=parse_where(["split=train"]))
    found = mi_rows(store, "phone", layers="T0", options=options, say=told.append)
    kept = spoken(store, "phone")
    in_train = (store.rows("phone")["split"] == "train").to_numpy()[kept]
    assert told == [f"left out: {in_train.sum()} phone rows of utterances that the clusters are fitted on"]
    assert {row.n for row in found} == {(~in_train).sum()}
    with pytest.raises(UsageError, match="every utterance that is scored is also fitted on: say with --where"):
        mi_rows(
            store, "phone", options=asked(fit_where=parse_where(["split=train"]), where=parse_where(["speaker=s0", "split=train"]))
        )  # fmt: skip


@pytest.mark.parametrize("way", ["the same object", "opened again", "a copy"])
def test_the_same_speech_is_never_fitted_on_and_scored(store, tmp_path, way):
    """``--fit-on`` the very store that is scored is the mistake that the docs speak of; how it is opened does not matter."""
    fit = {
        "the same object": lambda: store,
        "opened again": lambda: FeatureStore(store.path),
        "a copy": lambda: FeatureStore(shutil.copytree(store.path, tmp_path / "copy")),
    }[way]()
    with pytest.raises(UsageError, match="every utterance that is scored is also fitted on"):
        mi_rows(store, "phone", layers="T0", options=asked(n_clusters=12, repeats=1, fit_on=fit))


def test_too_few_rows_lower_the_default_number_of_clusters(store):
    """Five rows a cluster, which a note says once for all layers; a number that was asked for stays."""
    told = []
    found = mi_rows(store, "phone", layers="T0-T1", options=asked(repeats=1), say=told.append)
    kept = spoken(store, "phone")
    n_fit = len(half_of(store, "phone", kept, 0)(0))
    assert told == [
        f"{n_fit // 5} clusters instead of 500: they are fitted on {n_fit} rows, 5 a cluster; choose with --clusters"
    ]
    assert all(settings(row)["clusters"] == n_fit // 5 for row in found)
    found = mi_rows(store, "phone", layers="T0", options=asked(repeats=1, n_clusters=n_fit), say=told.append)
    assert settings(found[0])["clusters"] == n_fit
    assert len(told) == 1
    with pytest.raises(UsageError, match=f"{n_fit + 1} clusters need at least as many rows, but there are {n_fit}"):
        mi_rows(store, "phone", layers="T0", options=asked(repeats=1, n_clusters=n_fit + 1))


def test_repeats_reproduce_and_differ(store):
    def values(seed, repeats=1):
        options = asked(n_clusters=20, repeats=repeats, seed=seed)
        return [row.value for row in mi_rows(store, "phone", layers="T1", options=options)]

    assert values(3) == values(3)
    assert values(3) != values(4)
    assert values(3, 2) == pytest.approx(np.mean([values(3), values(4)], axis=0))


def test_frames_and_their_phones(store):
    """The label of a frame is that of the segment at its centre."""
    options = asked(n_clusters=15, repeats=1, sample="all")
    found = mi_rows(store, "phone", "frame", "T1", options)
    labelled = rows.with_labels(store, "phone", rows.labelled(store, "frame", "T1", "phone"))
    segments = store.row_table("phone")
    half = folds.disjoint(segments["utterance"], segments["label"], 2, 0, "utterances")
    half_of = dict(zip(segments["utterance"], half, strict=True))
    half = np.array([half_of[code] for code in labelled.table["utterance"]])
    labels = np.full(store.n_rows("frame", "T1"), -1)
    labels[labelled.index] = labelled.table["label"]
    fitted, scored = (labelled.index[half == which] for which in (0, 1))
    parts, controls = (
        scores_by_hand(store, lambda _: fitted, store, lambda _: scored, labels, "T1", "frame", 15, 1500, turned=turned)
        for turned in (False, True)
    )
    agree(found, parts, controls)
    assert settings(found[0])["chance"] == "labels turned by half of the rows"


def test_layers_of_two_frame_rates_are_scored_on_the_same_utterances(store):
    """Else a difference between C1 and T1 could be one between two halves of the corpus."""
    pieces = MI(labels="phone", unit="frame", repeats=1).pieces(store, "frame", ["C1", "T1"])
    scored = [set(labelled.rows.table["utterance"].tolist()) for _, _, labelled, *_ in pieces]
    assert scored[0] == scored[1]


def test_labels_from_the_metadata(store):
    """Of utterance rows unless a unit is named; whole utterances are on one side."""
    found = mi_rows(store, "speaker", layers="T1", options=asked(n_clusters=3, repeats=1))
    assert {(row.unit, row.target) for row in found} == {("utterance", "speaker")}
    table = store.row_table("utterance")
    speakers = store.utterances["speaker"].to_numpy()[table["utterance"]]
    half = folds.disjoint(table["utterance"], speakers.astype(str), 2, 0, "utterances")
    fitted, scored = np.flatnonzero(half == 0), np.flatnonzero(half == 1)
    parts = scores_by_hand(store, lambda _: fitted, store, lambda _: scored, speakers, "T1", "utterance", 3, 1500)
    agree(found, parts)
    assert mi_rows(store, "speaker", "word", "T1", asked(n_clusters=3, repeats=1))[0].unit == "word"


def test_missing_metadata_is_left_out(corpus, model, tmp_path):
    corpus = layertool.Corpus(corpus.utterances.copy(), corpus.segments, corpus.name)
    corpus.utterances["town"] = [None if k % 3 == 0 else f"t{k % 2}" for k in range(N)]
    store = layertool.extract(model, corpus, tmp_path / "s", ("word",), "T0")
    found = mi_rows(store, "town", "word", options=asked(n_clusters=4, repeats=1))
    table = store.row_table("word")
    known = store.rows("word")["town"].notna().to_numpy()
    towns = store.rows("word")["town"][known].astype(str).to_numpy()
    scored = folds.disjoint(table["utterance"][known], towns, 2, 0, "utterances") == 1
    assert found[0].n == scored.sum()
    assert 0 < scored.sum() < known.sum() < len(known)


def test_the_mask_as_a_label(corpus, model, tmp_path):
    """The embedding that stands at masked frames makes T0 tell which they are."""
    masked = layertool.extract(model, corpus, tmp_path / "m", ("frame",), "C7,T0", mask_seed=0)
    found = mi_rows(masked, "masked", "frame", options=asked(n_clusters=20, repeats=1))
    value = {row.layer: row.value for row in found if row.metric == "adjusted mi"}
    assert value["T0"] > 0.3 > abs(value["C7"])


# --- what is refused -----------------------------------------------------------------------------------


def refused(match, *arguments, **options):
    with pytest.raises(UsageError, match=match):
        mi_rows(*arguments, options=asked(repeats=1, **options))


def test_clusters_of_another_model(store, corpus, tmp_path):
    second = str(models.save("wav2vec2-base", tmp_path / "second", seed=9))
    other = layertool.extract(second, corpus, tmp_path / "s", ("phone",), "T0")
    refused("hold different models .*: clusters of one say nothing about the other", store, "phone", fit_on=other)


def test_clusters_of_acoustic_features(store, corpus, tmp_path):
    refused(
        "hold different models", store, "phone", fit_on=layertool.extract("mel", corpus, tmp_path / "m", ("phone",))
    )


def test_clusters_of_rows_that_are_pooled_otherwise(store, corpus, model, tmp_path):
    other = layertool.extract(model, corpus, tmp_path / "s", ("phone",), LAYERS, pooling={"phone": "mean"})
    refused(
        "pooled by mean in .* and by centre-third in .*: extract both with one --pooling",
        store,
        "phone",
        fit_on=other,
    )


def test_clusters_of_layers_and_units_that_are_not_there(store, model, tmp_path):
    corpus = make(tmp_path / "c", 3)
    other = layertool.extract(model, corpus, tmp_path / "s", ("phone",), "T0")
    refused("has no layer C1 at unit phone: type --layers without it", store, "phone", fit_on=other)
    refused("has no word rows .*extract again with --units word,phone", store, "word", fit_on=other)


def test_clusters_of_a_masked_run(store, model, tmp_path):
    """What the mask makes of T0 and above is not what the model makes of speech: a refusal or a note has to say so."""
    masked = layertool.extract(model, make(tmp_path / "c", 3), tmp_path / "m", ("phone",), LAYERS, mask_seed=0)
    told = []
    try:
        mi_rows(store, "phone", options=asked(repeats=1, fit_on=masked, n_clusters=5), say=told.append)
    except UsageError as error:
        told.append(str(error))
    assert any("mask" in text for text in told)


def test_labels_that_are_not_there(store):
    refused("has no column 'town' at unit utterance: it has utterance, start, end, speaker, split", store, "town")
    refused("word rows of .* have no phone labels: take --unit phone", store, "phone", "word")
    refused(
        "all .* rows have one label", store, "speaker", "word", "T0", where=parse_where(["speaker=s1"]), n_clusters=2
    )


def test_one_utterance_has_no_halves(store):
    """The remedy is one of this command: it has neither folds nor --n-folds."""
    with pytest.raises(UsageError) as error:
        mi_rows(store, "phone", options=asked(where=parse_where(["utterance=u3"]), repeats=1))
    assert "folds" not in str(error.value)


def test_independent_features_that_change_slowly_are_at_chance(corpus, tmp_path):
    """Frames and labels that both come in runs share 'information' by themselves: chance has to say how much."""
    store = layertool.extract("mfcc", corpus, tmp_path / "s", ("frame", "phone"))
    random = np.random.default_rng(0)

    def smooth(self, unit, layer, *_args, **_kwargs):
        n = self.n_rows(unit, layer)
        walk = np.zeros((n, 8))
        noise = random.standard_normal((n, 8))
        for k in range(1, n):
            walk[k] = 0.97 * walk[k - 1] + noise[k]
        return walk

    found = None
    with pytest.MonkeyPatch.context() as patch:
        kept: dict = {}
        patch.setattr(LayerView, "read", lambda v: kept.setdefault("x", smooth(v.store, v.unit, v.layer))[v.index])
        patch.setattr(LayerView, "blocks", lambda v: iter([v.read()]))
        found = mi_rows(store, "phone", "frame", options=asked(n_clusters=30, repeats=6))
    adjusted = next(row for row in found if row.metric == "adjusted mi")
    assert adjusted.value > 0.02  # far above what permuted labels would give
    assert adjusted.chance == pytest.approx(adjusted.value, abs=0.5 * adjusted.value)


# --- intervals, standardised columns, the time in the clip ------------------------------------------------------------


def test_repeats_on_another_corpus_add_what_their_seeds_change(store, train):
    """They score the same rows, so what differs between them is no other speech."""
    options = asked(n_clusters=12, batch_size=100, repeats=4, fit_on=train)
    found = mi_rows(store, "phone", layers="T1", options=options)
    known = set(train.rows("phone")["label"])
    labels = store.rows("phone")["label"].to_numpy()
    kept = np.array([k for k in spoken(store, "phone") if labels[k] in known])
    fitted = spoken(train, "phone")
    parts = scores_by_hand(train, lambda _: fitted, store, lambda _: kept, labels, "T1", "phone", 12, 100, (0, 1, 2, 3))
    for row, numbers in zip(found, NAMES.values(), strict=True):
        values = [numbers(part)[0] for part, _ in parts]
        without = np.mean([[numbers(one)[0] for one in part] for _, part in parts], axis=0)
        variance = 0.9 * ((without - without.mean()) ** 2).sum() + np.var(values, ddof=1) / 4
        reach = stats.t.ppf(0.975, 9) * np.sqrt(variance)
        assert np.std(values) > 0
        assert (row.ci_low, row.ci_high) == pytest.approx((row.value - reach, row.value + reach), abs=1e-10)


def test_no_interval_where_a_label_is_of_one_group(tmp_path):
    """Two utterances in the scored half, each with a label of its own: without one nothing is left to tell."""
    rows_of = np.random.default_rng(0).standard_normal((24, 3))
    segments = [(u, "phone", 1600 * k, 1600 * (k + 1), "ab"[u % 2]) for u in range(4) for k in range(6)]
    store = planted.store(tmp_path / "s", [16_000] * 4, segments, rows={"phone": {"T1": rows_of}})
    found = mi_rows(store, "phone", options=asked(n_clusters=2, repeats=1))
    assert {(row.ci_low, row.ci_high) for row in found} == {(None, None)}


def with_the_time(folder, model, marked=50.0, n=24):
    """Phones of random order; one column of T1 says how late it is, the others which phone; T2 knows the phone alone."""
    random = np.random.default_rng(5)
    codes, place = random.integers(0, 6, n * 12), np.tile(np.arange(12), n)
    rows_of = 3 * np.eye(6)[codes] + random.standard_normal((len(codes), 6))
    segments = [
        (k // 12, "phone", 8000 * t, 8000 * (t + 1), f"p{c}") for k, (t, c) in enumerate(zip(place, codes, strict=True))
    ]
    late = np.column_stack([rows_of, marked * place[:, None]])
    lengths = [96_000 + 100 * k for k in range(n)]
    return planted.store(folder, lengths, segments, rows={"phone": {"T1": late, "T2": rows_of}}, model=model)


def test_clusters_of_the_time_in_the_clip_are_told(tmp_path):
    store = with_the_time(tmp_path / "s", "org/net")
    told = []
    plain = mi_rows(store, "phone", options=asked(n_clusters=12), say=told.append)
    (note,) = [text for text in told if "time in the clip" in text]
    assert "the clusters of T1 tell the time in the clip better than phone (adjusted MI of T1 " in note
    assert note.endswith("ask again with --standardise")
    told.clear()
    even = mi_rows(store, "phone", options=asked(n_clusters=12, standardise=True), say=told.append)
    assert not [text for text in told if "time in the clip" in text]
    of = [{row.layer: row for row in found if row.metric == "adjusted mi"} for found in (plain, even)]
    assert of[0]["T1"].value < 0.1 < of[0]["T2"].value
    assert of[1]["T1"].value > of[0]["T1"].value + 0.1
    assert settings(of[1]["T1"])["standardise"] is True
    assert settings(of[0]["T1"])["standardise"] is False
    # in the very numbers: scores of the half seconds, as scikit-learn makes them
    parts = scores_by_hand(
        store, half_of(store, "phone", np.arange(288), 0), store, half_of(store, "phone", np.arange(288), 1),
        store.rows("phone")["start"].to_numpy(), "T1", "phone", 12, 1500, (0, 1, 2),
    )  # fmt: skip
    assert f"T1 {np.mean([part.adjusted for part, _ in parts]):.2f} with the half second" in note


def test_standardised_rows_are_those_of_standardised_clusters(store):
    kept = spoken(store, "phone")
    found = mi_rows(store, "phone", layers="T1", options=asked(n_clusters=20, standardise=True))
    halves = [half_of(store, "phone", kept, which) for which in (0, 1)]
    agree(found, scores_by_hand(
        store, halves[0], store, halves[1], store.rows("phone")["label"].to_numpy(), "T1", "phone", 20, 1500, (0, 1, 2), standardise=True,
    ))  # fmt: skip


def test_clusters_that_tell_the_time_however_scaled(tmp_path):
    """All columns say how late it is: --standardise is no remedy, and is not named as one."""
    store = with_the_time(tmp_path / "s", "org/net")
    place = np.tile(np.arange(12.0), 24)[:, None]
    other = planted.store(
        tmp_path / "t", list(store.utterances["n_samples"]),
        [(k // 12, "phone", 8000 * (k % 12), 8000 * (k % 12 + 1), label) for k, label in enumerate(store.rows("phone")["label"])],
        rows={"phone": {"T1": place + 0.1 * planted.matrix(288, 3)}},
    )  # fmt: skip
    told = []
    mi_rows(other, "phone", options=asked(n_clusters=12, standardise=True), say=told.append)
    (note,) = [text for text in told if "time in the clip" in text]
    assert note.endswith(f"ask 'layertool probe neighbours {other.path} --labels phone' what else these layers tell")
