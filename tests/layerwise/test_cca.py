"""CCA of stores: what ``cca_rows`` reports equals the pure functions on rows that are chosen here by hand.

Also: two models are scored on the same rows and folds, and real speech through real weights shows the known trends.
"""

from __future__ import annotations

import json
from itertools import product

import models
import numpy as np
import pytest
from click.testing import CliRunner
from columns import standardised
from running import asked, run, settings
from scipy import stats

import layertool
from layertool.analysis import cca, folds, protocols
from layertool.analysis.moments import fold_moments
from layertool.cli import cli
from layertool.conditions import parse_where
from layertool.corpora import folder as folder_reader
from layertool.errors import UsageError
from layertool.layerwise import rows, views
from layertool.layerwise.cca import CCA, LabelTarget, LayerTarget, Problems
from layertool.layerwise.mi import MI
from layertool.layerwise.rows import ALL, Sampling

N, N_FOLDS, N_TRIALS = 20, 5, 2
UNITS = ("frame", "phone", "word", "utterance")
LAYERS = "C1,C7,T0-T2"
FEW = {"n_folds": N_FOLDS, "n_trials": N_TRIALS}
VARIANTS = ("pwcca", "pwcca-x", "pwcca-y", "mean", "mean-square")
EXACT = {"rel": 1e-6, "abs": 1e-8}  # two routes through the same float64 arithmetic


def cca_rows(store, target, unit=None, layers="all", options=None, say=None, progress=None):
    """Rows of one store and one target."""
    how = {"unit": unit, "layers": layers, **(options or {})}
    return run(CCA(target=[target], **how), store, say=say, progress=progress)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """20 utterances of 1.5 to 2.2 s and 5 speakers, with words w0 to w4 and phones p0 to p7, SIL, and one that is alone."""
    lengths = [24_000 + 1733 * ((5 * k) % 7) for k in range(N)]
    segments = models.random_segments(lengths)
    phones = [k for k, segment in enumerate(segments) if segment[1] == "phone"]
    for k in phones[::9]:
        segments[k] = (*segments[k][:4], "SIL")
    segments[phones[5]] = (*segments[phones[5]][:4], "alone")
    folder = tmp_path_factory.mktemp("corpus")
    waveforms = [models.speech_like(n, k) for k, n in enumerate(lengths)]
    return models.corpus(folder, waveforms, segments, speaker=[f"s{k % 5}" for k in range(N)])


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "one": str(models.save("wav2vec2-base", folder / "one")),
        "two": str(models.save("wavlm-base", folder / "two", seed=1, hidden_size=32)),
    }


@pytest.fixture(scope="module")
def store(corpus, networks, tmp_path_factory):
    return layertool.extract(networks["one"], corpus, tmp_path_factory.mktemp("store") / "one", UNITS, LAYERS)


@pytest.fixture(scope="module")
def other(corpus, networks, tmp_path_factory):
    """Another model of another width, in shards of other lengths."""
    out = tmp_path_factory.mktemp("store") / "two"
    return layertool.extract(networks["two"], corpus, out, UNITS, LAYERS, shard_seconds=7)


@pytest.fixture(scope="module")
def masked(corpus, networks, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "masked"
    return layertool.extract(networks["one"], corpus, out, ("frame", "phone"), LAYERS, mask_seed=0)


@pytest.fixture(scope="module")
def mel(corpus, tmp_path_factory):
    return layertool.extract("mel:pasad", corpus, tmp_path_factory.mktemp("store") / "mel", UNITS)


# --- the same by hand ---------------------------------------------------------------------------------


def by_hand(x, y, control, dealt, variant="pwcca", seed=0, grid=protocols.EPS_GRID):
    """Trials and chances of held-out CCA from the rows themselves: every pair of eps is fitted afresh."""
    values, chances = [], []
    given = x, y, control
    for dev, test in protocols.trials(N_FOLDS, N_TRIALS, seed):
        train, dev, test = (dealt != dev) & (dealt != test), dealt == dev, dealt == test
        x, y, control = (standardised(view, train) for view in given)

        def on_dev(eps, train=train, dev=dev, x=x, y=y):
            return score(cca.fit(x[train], y[train], *eps, deleting=False), x[dev], y[dev], variant)

        eps = max(product(grid, grid), key=on_dev)
        values.append(score(cca.fit(x[train], y[train], *eps, deleting=False), x[test], y[test], variant))
        chances.append(score(cca.fit(x[train], control[train], *eps, deleting=False), x[test], control[test], variant))
    return values, chances


def score(fit, x, y, variant):
    return getattr(fit.score(x, y), variant.replace("-", "_"))


def interval(values):
    reach = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return max(-1, np.mean(values) - reach), min(1, np.mean(values) + reach)


def agrees(result, values, chances, n):
    assert result.value == pytest.approx(np.mean(values), **EXACT)
    assert result.chance == pytest.approx(np.mean(chances), **EXACT)
    assert (result.ci_low, result.ci_high) == pytest.approx(interval(values), **EXACT)
    assert result.n == n


def one(results):
    (result,) = results
    return result


def frames_by_start(store, layer):
    """(utterance, first sample) -> position; the windows of all layers are 25 ms."""
    table = store.row_table("frame", layer)
    assert (table["end"] - table["start"] == 400).all()
    return {(int(row["utterance"]), int(row["start"])): k for k, row in enumerate(table)}


def frame_pairs(first, layer, second, other_layer):
    """Positions in both layers of the frames that begin together, in order."""
    mine, theirs = frames_by_start(first, layer), frames_by_start(second, other_layer)
    common = sorted(mine.keys() & theirs.keys())
    return common, np.array([mine[key] for key in common]), np.array([theirs[key] for key in common])


def frame_folds(store, utterances, seed=0):
    codes, which = np.unique(utterances, return_inverse=True)
    lengths = store.utterances["n_samples"].to_numpy()[codes]
    return folds.by_utterance(codes, lengths, N_FOLDS, seed)[which]


def frames_by_hand(first, layer, second, other_layer, keep=None, variant="pwcca", seed=0):
    keys, a, b = frame_pairs(first, layer, second, other_layer)
    if keep is not None:
        kept = np.asarray(keep(first.row_table("frame", layer)[a]))
        keys, a, b = [key for key, k in zip(keys, kept, strict=True) if k], a[kept], b[kept]
    x, y = first.read("frame", layer)[a], second.read("frame", other_layer)[b]
    dealt = frame_folds(first, [utterance for utterance, _ in keys], seed)
    return *by_hand(x, y, np.roll(y, len(y) // 2, axis=0), dealt, variant, seed), len(x)


# --- layers and acoustic frames -------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "target"), [("T2", "T0"), ("T1", "C7"), ("T0", "C1"), ("C1", "T1"), ("C1", "C7")])
def test_a_layer_of_the_same_store(store, layer, target):
    """Also of another frame rate: 10 ms frames are those that begin with a 20 ms frame."""
    found = one(cca_rows(store, LayerTarget(store, target, target), layers=layer, options=asked(**FEW)))
    agrees(found, *frames_by_hand(store, layer, store, target))
    assert (found.analysis, found.layer, found.target, found.unit) == ("cca", layer, target, "frame")
    assert found.layer_index == store.layers.index(layer)
    assert (found.corpus, found.seed, found.store) == ("synthetic", 0, str(store.path))
    assert found.n == len(store.row_table("frame", "T0"))


def test_a_layer_is_not_compared_with_itself(store):
    found = cca_rows(store, LayerTarget(store, "T1", "T1"), options=asked(**FEW))
    assert [row.layer for row in found] == ["C1", "C7", "T0", "T2"]


def test_layers_of_the_same_name_in_another_store(store, other):
    found = cca_rows(store, LayerTarget(other, None, "two"), options=asked(**FEW))
    assert [row.layer for row in found] == store.layers
    for row in found:
        agrees(row, *frames_by_hand(store, row.layer, other, row.layer))
        assert row.target == "two"


def test_one_layer_of_another_store(store, other):
    found = cca_rows(store, LayerTarget(other, "T1", "two:T1"), layers="C1,T2", options=asked(**FEW))
    for row in found:
        agrees(row, *frames_by_hand(store, row.layer, other, "T1"))


@pytest.mark.parametrize("unit", ["phone", "word"])
def test_layers_at_segments(store, other, unit):
    """All rows but those without speech; balanced in labels."""
    found = one(
        cca_rows(store, LayerTarget(other, None, "two"), unit, "T1", asked(sampling=Sampling(per_label=10_000), **FEW))
        if unit == "phone"
        else cca_rows(store, LayerTarget(other, None, "two"), unit, "C7", asked(sampling=ALL, **FEW))
    )  # fmt: skip
    table = store.rows(unit)
    kept = (table["label"] != "SIL").to_numpy()
    layer = found.layer
    x, y = store.read(unit, layer)[kept], other.read(unit, layer)[kept]
    codes = store.row_table(unit)[kept]
    dealt = folds.disjoint(codes["utterance"], codes["label"], N_FOLDS, 0, "utterances")
    agrees(found, *by_hand(x, y, np.roll(y, len(y) // 2, axis=0), dealt), kept.sum())


def test_layers_at_segments_with_everything_keep_silence(store, other):
    found = one(cca_rows(store, LayerTarget(other, None, "two"), "phone", "T1", asked(sampling=ALL, **FEW)))
    assert found.n == store.n_rows("phone")
    assert settings(found)["sampling"] == "all rows"


def command(*arguments):
    result = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_derived_acoustic_frames_equal_extracted_ones(store, mel):
    """What ``--with mel`` computes and throws away is what a store of mel:pasad holds."""
    few = ["--n-folds", N_FOLDS, "--trials", N_TRIALS, "--layers", "C1,T0,T2", "--json", "-q"]
    derived = command("cca", store.path, "--with", "mel", *few)
    extracted = command("cca", store.path, "--with", f"{mel.path}:mel", *few)
    assert [row["layer"] for row in derived] == ["C1", "T0", "T2"]
    for mine, theirs in zip(derived, extracted, strict=True):
        assert mine["target"] == "mel:pasad"
        assert {k: v for k, v in mine.items() if k != "target"} == {k: v for k, v in theirs.items() if k != "target"}
        values, chances, n = frames_by_hand(store, mine["layer"], mel, "mel")
        assert mine["value"] == pytest.approx(np.mean(values), **EXACT)
        assert mine["chance"] == pytest.approx(np.mean(chances), **EXACT)
        assert mine["n"] == n


def test_derived_frames_of_drawn_utterances_equal_extracted_ones(store, mel):
    """Only the utterances that are drawn are computed; the numbers do not change."""
    few = ["--n-folds", N_FOLDS, "--trials", N_TRIALS, "--layers", "C1,T0", "--json", "-q"]
    few += ["--max-utterances", 9, "--draws", 2, "--where", "speaker!=s0"]
    derived = command("cca", store.path, "--with", "mel", *few)
    extracted = command("cca", store.path, "--with", f"{mel.path}:mel", *few)
    assert [{**row, "target": ""} for row in derived] == [{**row, "target": ""} for row in extracted]
    drawn = CCA(target="mel", max_utterances=9, draws=2, where=["speaker!=s0"])._utterances_drawn(store)
    assert 9 <= len(drawn) <= 16
    assert not (store.utterances["speaker"].iloc[drawn] == "s0").any()


# --- labels ---------------------------------------------------------------------------------------------


def labelled_by_hand(store, tier, layer, kept, seed=0, variant="pwcca"):
    table = store.row_table(tier)[kept]
    _, codes = np.unique(table["label"], return_inverse=True)
    one_hot = np.eye(codes.max() + 1)
    control = one_hot[np.random.default_rng([seed, 1]).permutation(codes)]
    dealt = folds.disjoint(np.unique(table["utterance"], return_inverse=True)[1], codes, N_FOLDS, seed, "utterances")
    x = store.read(tier, layer)[kept]
    return *by_hand(x, one_hot[codes], control, dealt, variant, seed), len(x)


def test_one_hot_phones(store):
    """Silence and the label that occurs once are left out; fewer than 200 rows of each are all taken."""
    told = []
    found = cca_rows(store, LabelTarget("phone"), layers="C1,T1", options=asked(**FEW), say=told.append)
    labels = store.rows("phone")["label"].to_numpy()
    kept = (labels != "SIL") & (labels != "alone")
    assert 0 < kept.sum() < len(kept)
    for row in found:
        agrees(row, *labelled_by_hand(store, "phone", row.layer, kept))
    assert told == ["left out: a phone label that occurs once (alone)"]


@pytest.mark.parametrize("seed", [0, 3])
def test_one_hot_words_are_drawn(store, seed):
    """15 rows of each of the words, as published, which the seed decides."""
    told = []
    found = one(cca_rows(store, LabelTarget("word"), layers="C7", options=asked(seed=seed, **FEW), say=told.append))
    chosen = rows.draw(rows.select(store, "word", None), Sampling(per_label=15, top_labels=500), seed).index
    assert found.n == len(chosen) == 5 * 15 < store.n_rows("word")
    agrees(found, *labelled_by_hand(store, "word", "C7", chosen, seed))
    assert told == [f"75 of {store.n_rows('word')} rows were drawn"]
    assert found.seed == seed


def test_several_variants_are_those_of_single_runs(store):
    labels = store.rows("phone")["label"].to_numpy()
    kept = (labels != "SIL") & (labels != "alone")
    found = cca_rows(store, LabelTarget("phone"), layers="T1", options=asked(variants=VARIANTS, **FEW))
    assert [row.metric for row in found] == [protocols.NAMES[name] for name in VARIANTS]
    for name, row in zip(VARIANTS, found, strict=True):
        agrees(row, *labelled_by_hand(store, "phone", "T1", kept, variant=name))
    assert len({row.value for row in found}) == len(VARIANTS)


def frames_in_segments(store, layer, tier):
    """Label of the segment at the centre of each frame, by looking at every segment; None outside."""
    segments = store.row_table(tier).tolist()  # utterance, start, end, label
    out = []
    for utterance, start, end, *_ in store.row_table("frame", layer).tolist():
        inside = [s[3] for s in segments if s[0] == utterance and 2 * s[1] <= start + end < 2 * s[2]]
        assert len(inside) < 2
        out.append(store.labels[tier][inside[0]] if inside else None)
    return np.array(out, dtype=object)


@pytest.mark.parametrize(("layer", "tier"), [("C1", "word"), ("T1", "phone"), ("T0", "word")])
def test_frames_are_labelled_by_the_segment_at_their_centre(store, layer, tier):
    expected = frames_in_segments(store, layer, tier)
    found = rows.labelled(store, "frame", layer, tier)
    inside = np.array([label is not None for label in expected])
    np.testing.assert_array_equal(found.index, np.flatnonzero(inside))
    assert [store.labels[tier][code] for code in found.table["label"]] == list(expected[inside])
    assert 0.7 < inside.mean() < 1


def test_one_hot_phones_of_frames(store):
    told = []
    found = one(
        cca_rows(store, LabelTarget("phone"), "frame", "T1", asked(sampling=Sampling(per_label=10_000), **FEW), told.append)
    )  # fmt: skip
    labels = frames_in_segments(store, "T1", "phone")
    counts = {label: (labels == label).sum() for label in set(labels)}
    kept = np.flatnonzero([label not in (None, "SIL") and counts[label] > 1 for label in labels])
    codes = np.unique([store.labels["phone"].index(label) for label in labels[kept]], return_inverse=True)[1]
    one_hot = np.eye(codes.max() + 1)
    control = one_hot[np.roll(codes, len(codes) // 2)]  # whose runs of one label stay together
    segments = store.row_table("phone")  # they are dealt, with the frames in them, so that the rate does not matter
    dealt = folds.disjoint(segments["utterance"], segments["label"], N_FOLDS, 0, "utterances")
    fold_of = dict(zip(segments["utterance"], dealt, strict=True))
    dealt = np.array([fold_of[code] for code in store.row_table("frame", "T1")["utterance"][kept]])
    x = store.read("frame", "T1")[kept]
    agrees(found, *by_hand(x, one_hot[codes], control, dealt), len(kept))
    assert (found.unit, found.target) == ("frame", "phone")


# --- embeddings -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vectors():
    return dict(
        zip(["w0", "w1", "w2", "w3", "w4"], np.random.default_rng(5).standard_normal((5, 3)).round(4), strict=True)
    )


@pytest.fixture
def glove(vectors, tmp_path):
    """Four of the five words and two that nobody says."""
    lines = [f"{word} {' '.join(map(str, vector))}" for word, vector in vectors.items() if word != "w3"]
    path = tmp_path / "glove.txt"
    path.write_text("\n".join(["never 1 2 3", *lines, "said 3 2 1"]) + "\n")
    return path


@pytest.mark.parametrize("how", ["utterance-disjoint", "random"])
def test_word_embeddings(store, glove, vectors, how):
    told = []
    found = one(
        cca_rows(store, LabelTarget("word", glove), layers="C7", options=asked(folds=how, **FEW), say=told.append)
    )
    drawn = rows.draw(rows.select(store, "word", None), Sampling(per_label=15, top_labels=500), 0).index
    names = store.rows("word")["label"].to_numpy()
    chosen = drawn[names[drawn] != "w3"]
    table = store.row_table("word")[chosen]
    y = np.stack([vectors[name] for name in names[chosen]])
    order = ["w0", "w1", "w2", "w4"]  # of the file
    random = np.random.default_rng([0, 1]).standard_normal((4, 3))
    control = np.stack([random[order.index(name)] for name in names[chosen]])
    if how == "random":
        dealt = folds.random(len(chosen), table["label"], N_FOLDS, 0)
    else:
        dealt = folds.disjoint(table["utterance"], table["label"], N_FOLDS, 0, "utterances")
    agrees(found, *by_hand(store.read("word", "C7")[chosen], y, control, dealt), 60)
    assert found.target == "embedding:glove.txt"
    assert told[-1] == "4 of 5 words and 80.0% of 75 rows have an embedding in embedding:glove.txt (not: w3)"
    assert settings(found)["chance"] == "a random vector for each word"


def test_type_disjoint_folds_keep_every_word_on_one_side(store, glove):
    target = LabelTarget("word", glove)
    problems = Problems(CCA(target=[target], folds="type-disjoint", n_folds=4, trials=1), store, target, "word", 0)
    problem = problems.of("C7")
    labels = store.row_table("word")["label"][problem.x.index]
    assert sorted({(int(label), int(fold)) for label, fold in zip(labels, problem.folds, strict=True)}) == sorted(
        {int(label): (int(label), int(fold)) for label, fold in zip(labels, problem.folds, strict=True)}.values()
    )
    assert set(problem.folds) == {0, 1, 2, 3}


def test_word_attributes(store, tmp_path):
    """Up to 200 rows of each word, so all of them; what a word does not name is 0."""
    path = tmp_path / "attributes.txt"
    weights = {
        "w0": {"a": 0.5, "b": 0.5},
        "w1": {"b": 1.0},
        "w2": {"c": 0.25, "a": 0.75},
        "w3": {"c": 1},
        "w4": {"a": 1},
    }
    path.write_text("".join(f"{word}\t{json.dumps(given)}\n" for word, given in weights.items()))
    found = one(cca_rows(store, LabelTarget("word", path), layers="C7", options=asked(**FEW)))
    names = store.rows("word")["label"]
    y = np.array([[weights[name].get(key, 0.0) for key in "abc"] for name in names])
    table = store.row_table("word")
    control = np.random.default_rng([0, 1]).standard_normal((5, 3))[[sorted(weights).index(name) for name in names]]
    dealt = folds.disjoint(table["utterance"], table["label"], N_FOLDS, 0, "utterances")
    agrees(found, *by_hand(store.read("word", "C7"), y, control, dealt), store.n_rows("word"))


def test_embeddings_that_cover_too_little(store, glove):
    with pytest.raises(UsageError, match=r"only 4 of 5 words and 80\.0% of 75 rows .* --min-coverage 0\.8$"):
        cca_rows(store, LabelTarget("word", glove), layers="C7", options=asked(min_coverage=0.9, **FEW))
    assert cca_rows(store, LabelTarget("word", glove), layers="C7", options=asked(min_coverage=0.8, **FEW))


def test_embeddings_belong_to_words(store, glove):
    with pytest.raises(UsageError, match="belongs to word rows: leave out --unit phone"):
        cca_rows(store, LabelTarget("word", glove), "phone", options=asked(**FEW))


# --- protocols --------------------------------------------------------------------------------------------


def test_in_sample_scores_are_of_the_rows_of_the_fit(store):
    found = one(
        cca_rows(store, LayerTarget(store, "C7", "C7"), layers="T1", options=asked(protocol="in-sample", **FEW))
    )
    keys, a, b = frame_pairs(store, "T1", store, "C7")
    x, y = store.read("frame", "T1")[a].astype(float), store.read("frame", "C7")[b].astype(float)
    dealt = frame_folds(store, [utterance for utterance, _ in keys])

    def value(x, y):
        x, y = standardised(x), standardised(y)
        return cca.fit(x, y, 1e-10, 1e-10).score(x, y).pwcca

    assert found.value == pytest.approx(value(x, y), **EXACT)
    assert found.chance == pytest.approx(value(x, np.roll(y, len(y) // 2, axis=0)), **EXACT)
    parts = np.array([value(x[dealt != fold], y[dealt != fold]) for fold in range(N_FOLDS)])
    error = np.sqrt((N_FOLDS - 1) / N_FOLDS * ((parts - parts.mean()) ** 2).sum())
    reach = stats.t.ppf(0.975, N_FOLDS - 1) * error
    assert found.ci_high == pytest.approx(min(1, found.value + reach), **EXACT)
    assert found.ci_low == pytest.approx(found.value - reach, **EXACT)


def test_in_sample_intervals_of_several_samples_still_come_from_groups_of_rows(store):
    """Draws that take all rows are the same draw: they say nothing about how far the score could be off."""
    options = {"protocol": "in-sample", **FEW}
    once, twice = (
        one(cca_rows(store, LayerTarget(store, "C7", "C7"), layers="T1", options=asked(draws=n, **options)))
        for n in (1, 2)
    )
    assert twice.value == pytest.approx(once.value)
    assert twice.ci_high is None or twice.ci_high - twice.ci_low > 0.5 * (once.ci_high - once.ci_low)


def test_seeds_reproduce(store):
    def run(seed):
        return cca_rows(store, LabelTarget("word"), layers="C7", options=asked(seed=seed, **FEW))

    assert run(4) == run(4)
    assert run(4)[0].value != run(5)[0].value


def test_samples_pool_their_trials(store):
    pooled = one(cca_rows(store, LabelTarget("word"), layers="C7", options=asked(seed=2, draws=3, **FEW)))
    values, chances = [], []
    for seed in (2, 3, 4):
        chosen = rows.draw(rows.select(store, "word", None), Sampling(per_label=15, top_labels=500), seed).index
        mine, theirs, _ = labelled_by_hand(store, "word", "C7", chosen, seed)
        values += mine
        chances += theirs
    assert len(values) == 3 * N_TRIALS
    agrees(pooled, values, chances, 75)
    assert settings(pooled)["draws"] == 3


def test_blocks_of_rows_change_nothing(store, monkeypatch):
    whole = cca_rows(store, LayerTarget(store, "C1", "C1"), options=asked(**FEW))
    monkeypatch.setattr(views, "BLOCK_ROWS", 37)
    parts = cca_rows(store, LayerTarget(store, "C1", "C1"), options=asked(**FEW))
    for mine, theirs in zip(whole, parts, strict=True):
        assert mine.value == pytest.approx(theirs.value, **EXACT)
        assert mine.chance == pytest.approx(theirs.chance, **EXACT)


def problem_of(store, target, unit, layer, **options):
    problem = Problems(CCA(target=[target], **asked(**FEW, **options)), store, target, unit, 0).of(layer)
    return problem, store.row_table(unit, layer)[problem.x.index]


@pytest.mark.parametrize("where", [[], ["speaker!=s1"]])
@pytest.mark.parametrize("unit", ["phone", "word"])
def test_two_models_are_compared_on_the_same_rows_and_folds(store, other, mel, unit, where):
    """Whatever their widths and frame rates are."""
    found = [
        problem_of(s, LabelTarget(unit), unit, layer, where=parse_where(where))
        for s, layer in ((store, "T1"), (store, "C1"), (other, "T1"), (mel, "mel"))
    ]
    first, table = found[0]
    assert len(table) > 50
    for problem, mine in found[1:]:
        np.testing.assert_array_equal(mine, table)
        np.testing.assert_array_equal(problem.folds, first.folds)
        np.testing.assert_array_equal(problem.control.codes, first.control.codes)


def test_frames_of_two_models_are_dealt_alike(store, other):
    (one_, table), (two, their_table) = (
        problem_of(s, LayerTarget(s, "C7", "C7"), "frame", "T1", sampling=Sampling(utterances=11))
        for s in (store, other)
    )
    np.testing.assert_array_equal(table, their_table)
    np.testing.assert_array_equal(one_.folds, two.folds)
    assert len(np.unique(table["utterance"])) == 11


def fold_of_utterances(problem, table):
    return {int(u): set(problem.folds[table["utterance"] == u].tolist()) for u in np.unique(table["utterance"])}


def test_frames_of_two_rates_are_dealt_alike(store):
    """The utterances of a fold are the same for layers of 10 and of 20 ms frames, so their scores compare."""
    found = [
        fold_of_utterances(*problem_of(store, LayerTarget(store, "T2", "T2"), "frame", layer)) for layer in ("C1", "T1")
    ]
    assert all(len(dealt) == 1 for dealt in found[0].values())
    assert found[0] == found[1]


def test_labelled_frames_of_two_rates_are_dealt_alike(store):
    found = [fold_of_utterances(*problem_of(store, LabelTarget("phone"), "frame", layer)) for layer in ("C1", "T1")]
    assert found[0] == found[1]


@pytest.mark.parametrize("how", ["speaker-disjoint", "utterance-disjoint"])
def test_disjoint_folds(store, how):
    problem, table = problem_of(store, LabelTarget("phone"), "phone", "T1", folds=how)
    values = rows.column(store, "phone", rows.Rows(problem.x.index, table), how.split("-")[0])
    folds_of = {value: set(problem.folds[values == value].tolist()) for value in values}
    assert all(len(dealt) == 1 for dealt in folds_of.values())
    assert set.union(*folds_of.values()) == set(range(N_FOLDS))


# --- --where ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "keep"),
    [
        (["label=p1", "label=p2", "label=p5"], lambda t: t["label"].isin(["p1", "p2", "p5"])),
        (["label!=p0"], lambda t: (t["label"] != "p0") & ~t["label"].isin(["SIL", "alone"])),
        (["speaker!=s3"], lambda t: (t["speaker"] != "s3") & ~t["label"].isin(["SIL", "alone"])),
        (["utterance!=u1", "utterance!=u7"], lambda t: ~t["utterance"].isin(["u1", "u7"]) & ~t["label"].isin(["SIL", "alone"])),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_conditions_on_phones(store, where, keep):
    found = one(cca_rows(store, LabelTarget("phone"), layers="C7", options=asked(where=parse_where(where), **FEW)))
    kept = keep(store.rows("phone")).to_numpy()
    agrees(found, *labelled_by_hand(store, "phone", "C7", kept))
    assert "where " in found.variant
    assert all(condition.split("=")[-1] in found.variant for condition in where)


def test_conditions_on_frames(store, other):
    options = asked(where=parse_where(["speaker=s1", "speaker=s2"]), **FEW)
    found = one(cca_rows(store, LayerTarget(other, None, "two"), layers="T1", options=options))
    chosen = np.flatnonzero(store.utterances["speaker"].isin(["s1", "s2"]))
    agrees(found, *frames_by_hand(store, "T1", other, "T1", keep=lambda rows: np.isin(rows["utterance"], chosen)))


@pytest.mark.parametrize("truth", ["true", "false"])
@pytest.mark.parametrize("layer", ["C1", "T2"])
def test_masked_frames_only(masked, truth, layer):
    options = asked(where=parse_where([f"masked={truth}"]), **FEW)
    found = one(cca_rows(masked, LayerTarget(masked, "C7", "C7"), layers=layer, options=options))
    assert found.model.endswith("(time mask on)")
    wanted = masked.rows("frame", layer)["masked"].to_numpy() == (truth == "true")
    assert 0.2 < wanted.mean() < 0.8
    agrees(found, *frames_by_hand(masked, layer, masked, "C7", keep=lambda rows: rows["masked"] == (truth == "true")))


def test_masked_phones_of_frames(masked):
    options = asked(where=parse_where(["masked=true"]), sampling=Sampling(per_label=10_000), **FEW)
    found = one(cca_rows(masked, LabelTarget("phone"), "frame", "T1", options))
    labels = frames_in_segments(masked, "T1", "phone")
    labels[~masked.rows("frame", "T1")["masked"].to_numpy()] = None
    kept = [label for label in labels if label not in (None, "SIL")]
    assert found.n == sum(kept.count(label) for label in set(kept) if kept.count(label) > 1)


@pytest.mark.parametrize("turned", [False, True])
def test_a_masked_store_with_an_unmasked_one(store, masked, turned):
    """The rows are the same frames; that one side also says which are masked does not matter."""
    first, second = (masked, store) if turned else (store, masked)
    found = one(cca_rows(first, LayerTarget(second, "T1", "x"), layers="T1", options=asked(**FEW)))
    agrees(found, *frames_by_hand(first, "T1", second, "T1"))


def test_masked_frames_of_two_stores(store, masked):
    options = asked(where=parse_where(["masked=true"]), **FEW)
    found = one(cca_rows(masked, LayerTarget(store, None, "one"), layers="C7", options=options))
    assert found.value == pytest.approx(1, abs=1e-6)  # the convolutions do not see the mask
    assert found.n == masked.rows("frame", "C7")["masked"].sum()
    deeper = one(cca_rows(masked, LayerTarget(store, None, "one"), layers="T2", options=options))
    agrees(deeper, *frames_by_hand(masked, "T2", store, "T2", keep=lambda rows: rows["masked"]))


@pytest.mark.parametrize("value", ["maybe", "2", "ture"])
def test_a_mask_is_true_or_false(masked, value):
    """Anything else is a slip of the hand, not 'false'."""
    with pytest.raises(UsageError, match=f"masked={value}"):
        rows.select(masked, "frame", "T1", parse_where([f"masked={value}"]))


# --- real speech through real weights ---------------------------------------------------------------------

MIDDLE, FIRST = ("T2", "T3"), ("T0", "T1")


@pytest.fixture(scope="module")
def whisper(shared, tmp_path_factory):
    speech = shared / "data/speech/english"
    corpus = folder_reader.read(speech, metadata=speech / "manifest.tsv")
    out = tmp_path_factory.mktemp("real") / "whisper"
    return layertool.extract(str(shared / "models/whisper-tiny.en"), corpus, out, ("frame", "phone"), "C1,T0-T4")


def ridge_accuracy(store, layer, index, names, lam=1e3):
    """Accuracy of one-hot targets regressed in closed form, fitted on half of the utterances and tested on the other."""
    x = store.read("phone", layer)[index].astype(float)
    utterances = store.row_table("phone")["utterance"][index]
    kinds, codes = np.unique(names, return_inverse=True)
    right = 0
    for half in (0, 1):
        test = utterances % 2 == half
        mean, deviation = x[~test].mean(0), x[~test].std(0) + 1e-9
        z = (x - mean) / deviation
        targets = np.eye(len(kinds))[codes[~test]]
        weights = np.linalg.solve(
            z[~test].T @ z[~test] + lam * np.eye(z.shape[1]), z[~test].T @ (targets - targets.mean(0))
        )
        right += (np.argmax(z[test] @ weights + targets.mean(0), axis=1) == codes[test]).sum()
    return right / len(x)


@pytest.mark.slow
def test_phone_information_rises_to_the_middle(whisper, record_property):
    found = {row.layer: row for row in cca_rows(whisper, LabelTarget("phone"))}
    value = {layer: row.value for layer, row in found.items()}
    record_property("cca", {layer: round(v, 3) for layer, v in value.items()})
    assert min(value[layer] for layer in MIDDLE) > value["T1"] + 0.1 > value["T0"] + 0.2
    assert value["T0"] < 0.35
    assert min(value[layer] for layer in MIDDLE) > 0.55
    assert max(abs(row.chance) for row in found.values()) < 0.05
    assert all(row.ci_low < row.value < row.ci_high for row in found.values())
    assert {row.n for row in found.values()} == {1_133}  # of 1134, zh occurs once


@pytest.mark.slow
def test_a_plain_classifier_of_the_same_rows_agrees(whisper, record_property):
    problem = Problems(CCA(target="phone"), whisper, LabelTarget("phone"), "phone", 0).of("T0")
    index = problem.x.index
    names = whisper.rows("phone")["label"].to_numpy()[index]
    accuracy = {layer: ridge_accuracy(whisper, layer, index, names) for layer in ("T0", "T1", "T2", "T3")}
    record_property("ridge", {layer: round(float(v), 3) for layer, v in accuracy.items()})
    assert accuracy["T0"] < accuracy["T1"] - 0.05
    assert accuracy["T1"] < min(accuracy[layer] for layer in MIDDLE) - 0.1
    assert accuracy["T0"] < 0.45
    assert max(accuracy[layer] for layer in MIDDLE) > 0.7
    assert ridge_accuracy(whisper, "T3", index, np.random.default_rng(0).permutation(names)) < 0.12


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["T1", "T3"])
def test_real_neurons_at_other_scales(whisper, layer):
    problem = Problems(CCA(target="phone"), whisper, LabelTarget("phone"), "phone", 0).of(layer)
    x, y, control = (np.concatenate(list(v.blocks())).astype(float) for v in (problem.x, problem.y, problem.control))
    by = 10.0 ** np.random.default_rng(0).uniform(-3, 3, x.shape[1])
    names = [name for name in protocols.NAMES if name != "svcca"]
    for score in (protocols.held_out, protocols.in_sample):
        plain, scaled = (score(*fold_moments(problem.folds, 10, [view], [y], [control]), names) for view in (x, x * by))
        for name in names:
            assert scaled[name].trials == pytest.approx(plain[name].trials, abs=1e-9), name
            assert scaled[name].chance == pytest.approx(plain[name].chance, abs=1e-9), name


@pytest.mark.slow
def test_in_sample_chance_is_far_above_held_out_chance(whisper):
    """1133 rows of 384 dimensions: about sqrt(384 / 1133) = .58."""
    for row in cca_rows(whisper, LabelTarget("phone"), layers="T0,T3", options=asked(protocol="in-sample")):
        assert row.chance == pytest.approx(np.sqrt(384 / 1133), abs=0.03)
        assert row.value > row.chance + 0.05


@pytest.mark.slow
def test_frames_show_the_same_rise(whisper, record_property):
    found = {row.layer: row for row in cca_rows(whisper, LabelTarget("phone"), "frame", "T0-T4")}
    value = {layer: row.value for layer, row in found.items()}
    record_property("cca", {layer: round(v, 3) for layer, v in value.items()})
    assert max(value[layer] for layer in FIRST) < min(value[layer] for layer in MIDDLE) - 0.1
    assert value["T0"] < value["T1"] - 0.05
    assert max(abs(row.chance) for row in found.values()) < 0.05


@pytest.mark.slow
def test_mutual_information_rises_to_the_middle(whisper, record_property):
    found = {row.layer: row for row in run(MI(labels="phone", layers="T0-T4"), whisper) if row.metric == "adjusted mi"}
    value = {layer: row.value for layer, row in found.items()}
    record_property("adjusted", {layer: round(v, 3) for layer, v in value.items()})
    assert max(value[layer] for layer in FIRST) < 0.1
    assert min(value[layer] for layer in MIDDLE) > max(value[layer] for layer in FIRST) + 0.2


@pytest.mark.slow
def test_acoustic_detail_falls_with_depth(whisper, record_property):
    found = command("cca", whisper.path, "--with", "mel", "--json", "-q")
    value = {row["layer"]: row["value"] for row in found}
    record_property("mel", {layer: round(v, 3) for layer, v in value.items()})
    order = ["C1", "T0", "T1", "T2", "T3", "T4"]
    assert list(value) == order
    falls = -np.diff([value[layer] for layer in order])
    assert falls.min() > 0.04
    assert value["C1"] > value["T4"] + 0.4
    assert max(abs(row["chance"]) for row in found) < 0.05
