"""Layer by layer similarities of stores equal the pure functions on arrays that are read and paired here by hand."""

from __future__ import annotations

import models
import numpy as np
import pytest
from columns import standardised
from running import asked, run, settings
from scipy import stats

import layertool
from layertool.analysis import cca, cka, folds, similarity
from layertool.conditions import parse_where
from layertool.errors import UsageError
from layertool.layerwise import rows
from layertool.layerwise.cka import CKA, METRICS
from layertool.layerwise.rows import ALL, Sampling

N = 12
UNITS = ("frame", "phone", "word")
LAYERS = "C1,C7,T0-T2"
EXACT = {"rel": 1e-7, "abs": 1e-9}

PURE = {
    "cka": cka.linear,
    "cka-biased": lambda x, y: cka.linear(x, y, debiased=False),
    "cka-rbf": cka.rbf,
    "cka-rbf-biased": lambda x, y: cka.rbf(x, y, debiased=False),
    "procrustes": similarity.procrustes,
    "rsa": similarity.rsa,
    "rsa-cosine": lambda x, y: similarity.rsa(x, y, "cosine"),
    "rsa-euclidean": lambda x, y: similarity.rsa(x, y, "euclidean"),
    "cca": lambda x, y: in_sample_pwcca(standardised(x), standardised(y)),
}


def similarity_rows(store, other=None, unit=None, layers="all", other_layers=None, options=None, say=None, **how):
    """Rows of ``CKA``, on the CPU."""
    cka_of = CKA(unit=unit, layers=layers, other_layers=other_layers, device="cpu", **(options or {}))
    return run(cka_of, store, other, say=say, **how)


def in_sample_pwcca(x, y):
    return cca.fit(x, y, 1e-10, 1e-10).score(x, y).pwcca


def options_of(name, **more):
    for measure in ("cka-rbf", "cka", "rsa", "procrustes", "cca"):
        if name == measure or name.startswith(f"{measure}-"):
            rest = name.removeprefix(measure).strip("-")
            form = {"biased": True} if rest == "biased" else {"distance": rest} if rest else {}
            return asked(measure=measure, **form, **more)
    raise ValueError(name)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    lengths = [7_000 + 997 * ((5 * k) % 7) for k in range(N)]
    segments = [(*row[:4], "SIL" if row[4] == "p3" else row[4]) for row in models.random_segments(lengths)]
    waveforms = [models.speech_like(n, k) for k, n in enumerate(lengths)]
    return models.corpus(
        tmp_path_factory.mktemp("corpus"), waveforms, segments, speaker=[f"s{k % 3}" for k in range(N)]
    )


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [str(models.save(name, folder / name, seed=k)) for k, name in enumerate(("wav2vec2-base", "wavlm-base"))]


@pytest.fixture(scope="module")
def store(corpus, networks, tmp_path_factory):
    return layertool.extract(networks[0], corpus, tmp_path_factory.mktemp("store") / "one", UNITS, LAYERS)


@pytest.fixture(scope="module")
def other(corpus, networks, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "two"
    return layertool.extract(networks[1], corpus, out, UNITS, "C1,C7,T0-T1", shard_seconds=5)


@pytest.fixture(scope="module")
def masked(corpus, networks, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "masked"
    return layertool.extract(networks[0], corpus, out, ("frame", "phone"), "C1,C7,T0-T1", mask_seed=0)


def frames(store, layer):
    """Rows (n, width) of a layer at the times of the 20 ms frames: those that begin when they do."""
    where = {(int(t["utterance"]), int(t["start"])): k for k, t in enumerate(store.row_table("frame", layer))}
    slow = store.row_table("frame", "T0")
    return store.read("frame", layer)[[where[int(t["utterance"]), int(t["start"])] for t in slow]].astype(float)


def groups_of(store, unit, layer, kept=None, n_groups=10):
    """Group of each row for the jackknife: utterances, dealt by their lengths."""
    table = store.row_table(unit, layer)
    table = table if kept is None else table[kept]
    codes, which = np.unique(table["utterance"], return_inverse=True)
    lengths = store.utterances["n_samples"].to_numpy()[codes]
    return folds.by_utterance(codes, lengths, n_groups, 0)[which]


def grid(found):
    return {(row.layer, row.target): row for row in found}


def jackknife(value, parts):
    parts = np.asarray(parts)
    error = np.sqrt((len(parts) - 1) / len(parts) * ((parts - parts.mean()) ** 2).sum())
    reach = stats.t.ppf(0.975, len(parts) - 1) * error
    return value - reach, value + reach


# --- one store --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PURE)
def test_layers_of_one_store(store, name):
    """Also of two frame rates: C1 is taken at the times of the slower frames."""
    found = grid(similarity_rows(store, None, "frame", "C1,C7,T1", options=options_of(name)))
    views = {layer: frames(store, layer) for layer in ("C1", "C7", "T1")}
    assert list(found) == [(a, b) for a in views for b in views]
    for (a, b), row in found.items():
        assert row.value == pytest.approx(PURE[name](views[a], views[b]), **EXACT), (a, b)
        assert row.value == found[b, a].value
        assert row.n == store.n_rows("frame", "T0") < store.n_rows("frame", "C1")
        assert row.layer_index == store.layers.index(a)
        assert (row.unit, row.seed, row.store) == ("frame", 0, str(store.path))
    same = 0.0 if name == "procrustes" else 1.0
    assert all(found[a, a].value == pytest.approx(same, abs=1e-7) for a in views)
    assert found["C1", "T1"].value != pytest.approx(same, abs=0.05)


@pytest.mark.parametrize("name", PURE)
def test_intervals_leave_out_groups_of_utterances(store, name):
    found = grid(similarity_rows(store, None, "frame", "C7,T1", options=options_of(name)))
    x, y = frames(store, "C7"), frames(store, "T1")
    groups = groups_of(store, "frame", "T1", n_groups=5 if name == "cca" else 10)
    parts = [PURE[name](x[groups != g], y[groups != g]) for g in range(groups.max() + 1)]
    row = found["C7", "T1"]
    assert (row.ci_low, row.ci_high) == pytest.approx(jackknife(row.value, parts), rel=1e-5, abs=1e-8)
    assert settings(row)["interval"] == f"over {groups.max() + 1} groups of utterances"


def mean_over_permutations(k, kernel):
    """Of tr(P K P' L) / (|K| |L|) for centred kernels: every off-diagonal pair is equally likely."""
    n = len(k)
    off = lambda m: m.sum() - np.trace(m)  # noqa: E731
    total = np.trace(k) * np.trace(kernel) / n + off(k) * off(kernel) / (n * (n - 1))
    return total / (np.linalg.norm(k) * np.linalg.norm(kernel))


@pytest.mark.parametrize("name", PURE)
def test_chance_levels(store, name):
    found = grid(similarity_rows(store, None, "frame", "C7,T1", options=options_of(name)))["C7", "T1"]
    x, y = frames(store, "C7"), frames(store, "T1")
    if name == "cka-biased":
        x, y = x - x.mean(0), y - y.mean(0)
        assert found.chance == pytest.approx(mean_over_permutations(x @ x.T, y @ y.T), **EXACT)
    elif name == "cka-rbf-biased":
        kernels = [cka.rbf_kernel(view, 1.0, False) for view in (x, y)]
        assert found.chance == pytest.approx(mean_over_permutations(*kernels), **EXACT)
    elif name in ("procrustes", "cca"):
        assert found.chance == pytest.approx(PURE[name](x, np.roll(y, len(y) // 2, axis=0)), **EXACT)
    else:
        assert found.chance == 0


def test_segments_without_silence(store):
    kept = (store.rows("phone")["label"] != "SIL").to_numpy()
    views = {layer: store.read("phone", layer)[kept].astype(float) for layer in ("C1", "T2")}
    found = grid(similarity_rows(store, None, "phone", "C1,T2"))
    for (a, b), row in found.items():
        assert row.value == pytest.approx(cka.linear(views[a], views[b]), **EXACT)
        assert row.n == kept.sum() < len(kept)
    everything = similarity_rows(store, None, "phone", "T2", options=asked(sampling=ALL))
    assert everything[0].n == len(kept)
    assert settings(everything[0])["sampling"] == "all rows"


@pytest.mark.parametrize("where", [["speaker=s1"], ["utterance!=u0", "utterance!=u3"], ["label=p1", "label=p2"]])
def test_conditions(store, where):
    table = store.rows("phone")
    keep = {
        "s": table["speaker"] == "s1",
        "u": ~table["utterance"].isin(["u0", "u3"]),
        "l": table["label"].isin(["p1", "p2"]),
    }[where[0][0]]
    kept = (keep & (table["label"] != "SIL")).to_numpy()
    found = grid(similarity_rows(store, None, "phone", "C7,T1", options=asked(where=parse_where(where))))
    views = [store.read("phone", layer)[kept].astype(float) for layer in ("C7", "T1")]
    assert found["C7", "T1"].value == pytest.approx(cka.linear(*views), **EXACT)
    assert found["C7", "T1"].n == kept.sum()
    assert settings(found["C7", "T1"])["where"] == [str(one) for one in parse_where(where)]


def test_rows_of_one_label(store):
    """Within a phone there is something to compare as well."""
    kept = (store.rows("phone")["label"] == "p1").to_numpy()
    found = grid(similarity_rows(store, None, "phone", "C7,T1", options=asked(where=parse_where(["label=p1"]))))
    views = [store.read("phone", layer)[kept].astype(float) for layer in ("C7", "T1")]
    assert found["C7", "T1"].value == pytest.approx(cka.linear(*views), **EXACT)


def test_words_are_drawn_as_published(store):
    drawn = rows.draw(rows.select(store, "word", None), Sampling(per_label=15, top_labels=500), 7).index
    told = []
    found = grid(similarity_rows(store, None, "word", "C7,T1", options=asked(seed=7, measure="rsa"), say=told.append))
    views = [store.read("word", layer)[drawn].astype(float) for layer in ("C7", "T1")]
    assert found["C7", "T1"].value == pytest.approx(similarity.rsa(*views), **EXACT)
    assert (found["C7", "T1"].n, found["C7", "T1"].seed) == (len(drawn), 7)
    if len(drawn) < store.n_rows("word"):
        assert told == [f"{len(drawn)} of {store.n_rows('word')} rows were drawn"]


@pytest.mark.parametrize("measure", ["rsa", "cka-rbf"])
def test_measures_of_all_pairs_take_a_sample(store, measure):
    told = []
    n = store.n_rows("frame", "T0")
    options = asked(measure=measure, max_rows=100, seed=3)
    found = grid(similarity_rows(store, None, "frame", "C1,T1", options=options, say=told.append))
    kept = np.sort(np.random.default_rng(3).permutation(n)[:100])
    row = found["C1", "T1"]
    assert row.value == pytest.approx(PURE[measure](frames(store, "C1")[kept], frames(store, "T1")[kept]), **EXACT)
    assert row.n == 100
    assert told == [f"100 of {n} rows were drawn"]
    assert settings(row)["max_rows"] == 100
    assert (
        row.value
        != grid(similarity_rows(store, None, "frame", "C1,T1", options=asked(measure=measure)))["C1", "T1"].value
    )


@pytest.mark.parametrize("measure", ["cka", "procrustes", "cca"])
def test_measures_of_products_take_all_rows(store, measure):
    told = []
    options = asked(measure=measure, max_rows=100)
    found = similarity_rows(store, None, "frame", "T1", options=options, say=told.append)
    assert found[0].n == store.n_rows("frame", "T1")
    assert told == []


# --- two stores ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METRICS, "cka-biased"])
def test_layers_of_two_stores(store, other, name):
    found = grid(similarity_rows(store, other, "frame", "C1,T0-T1", options=options_of(name)))
    layers = ("C1", "T0", "T1")
    assert list(found) == [(a, f"two:{b}") for a in layers for b in layers]
    for (a, b), row in found.items():
        x, y = frames(store, a), frames(other, b.removeprefix("two:"))
        assert row.value == pytest.approx(PURE[name](x, y), **EXACT)
        if name in ("procrustes", "cca"):
            assert row.chance == pytest.approx(PURE[name](x, np.roll(y, len(y) // 2, axis=0)), **EXACT)
        assert row.model == store.model


def test_other_layers(store, other):
    found = similarity_rows(store, other, "phone", "T2,C7", "T0")
    assert [(row.layer, row.target) for row in found] == [("C7", "two:T0"), ("T2", "two:T0")]
    found = similarity_rows(store, None, "phone", "T2", "C7,T0")
    assert [(row.layer, row.target) for row in found] == [("T2", "C7"), ("T2", "T0")]
    kept = (store.rows("phone")["label"] != "SIL").to_numpy()
    views = [store.read("phone", layer)[kept].astype(float) for layer in ("T2", "C7")]
    assert found[0].value == pytest.approx(cka.linear(*views), **EXACT)


def test_fast_frames_alone_stay_fast(store, other):
    (row,) = similarity_rows(store, other, "frame", "C1")
    assert row.n == store.n_rows("frame", "C1")
    assert row.value == pytest.approx(cka.linear(store.read("frame", "C1"), other.read("frame", "C1")), **EXACT)


def test_acoustic_frames_beside_layers(store, corpus, tmp_path):
    """Of mel:pasad every other frame stands where a 20 ms frame stands."""
    mel = layertool.extract("mel:pasad", corpus, tmp_path / "mel", ("frame",))
    where = {(int(t["utterance"]), int(t["start"])): k for k, t in enumerate(mel.row_table("frame"))}
    pairs = [
        (k, where[key])
        for k, t in enumerate(store.row_table("frame", "T1"))
        if (key := (int(t["utterance"]), int(t["start"]))) in where
    ]
    mine, theirs = np.array(pairs).T
    (row,) = similarity_rows(store, mel, "frame", "T1", "mel")
    assert row.value == pytest.approx(
        cka.linear(store.read("frame", "T1")[mine], mel.read("frame", "mel")[theirs]), **EXACT
    )
    assert row.n == len(pairs)
    assert row.target == "mel:mel"


@pytest.mark.parametrize("truth", ["true", "false"])
def test_masked_frames_only(masked, truth):
    options = asked(where=parse_where([f"masked={truth}"]))
    found = grid(similarity_rows(masked, None, "frame", "C1,T1", options=options))
    flags = masked.rows("frame", "T0")["masked"].to_numpy() == (truth == "true")
    x, y = frames(masked, "C1")[flags], frames(masked, "T1")[flags]
    assert found["C1", "T1"].n == flags.sum()
    assert found["C1", "T1"].value == pytest.approx(cka.linear(x, y), **EXACT)


@pytest.mark.parametrize("turned", [False, True])
def test_a_masked_store_beside_an_unmasked_one(store, masked, turned):
    """The convolutions do not see the mask, the blocks do; all frames are the same frames."""
    first, second = (masked, store) if turned else (store, masked)
    found = grid(similarity_rows(first, second, "frame", "C7,T1"))
    name = second.path.name
    assert found["C7", f"{name}:C7"].value == pytest.approx(1, abs=1e-9)
    expected = cka.linear(first.read("frame", "T1"), second.read("frame", "T1"))
    assert found["T1", f"{name}:T1"].value == pytest.approx(expected, **EXACT)
    assert found["T1", f"{name}:T1"].value < 0.95


def test_two_models_are_compared_on_the_same_rows(store, other):
    """A sample of frames is the same sample for each store."""
    told = [], []
    options = asked(measure="rsa", max_rows=50, seed=1)
    for s, notes in zip((store, other), told, strict=True):
        similarity_rows(s, None, "frame", "T0", options=options, say=notes.append)
    assert told[0] == told[1]
    row = similarity_rows(store, other, "frame", "T0", options=options)[0]
    kept = np.sort(np.random.default_rng(1).permutation(store.n_rows("frame", "T0"))[:50])
    expected = similarity.rsa(store.read("frame", "T0")[kept], other.read("frame", "T0")[kept])
    assert row.value == pytest.approx(expected, **EXACT)


def test_other_pooling_is_told(store, corpus, networks, tmp_path):
    pooled = layertool.extract(networks[0], corpus, tmp_path / "pooled", ("phone",), LAYERS, pooling={"phone": "mean"})
    told = []
    similarity_rows(store, pooled, "phone", "T1", say=told.append)
    assert told == [f"phone rows are pooled by centre-third in {store.path} and by mean in {pooled.path}"]


def test_one_utterance_has_no_interval(store):
    (row,) = similarity_rows(store, None, "phone", "T1", options=asked(where=parse_where(["utterance=u1"])))
    assert (row.ci_low, row.ci_high) == (None, None)
    assert settings(row)["interval"] == "none"


# --- how it is called ---------------------------------------------------------------------------------------


def numbers(rows):
    names = ("layer", "target", "value", "ci_low", "ci_high", "chance", "settings")
    return [tuple(getattr(row, name) for name in names) for row in rows]


def test_two_stores_are_one_list_or_two_arguments(store, other):
    how = {"unit": "phone", "layers": "T0,T1", "device": "cpu"}
    expected = similarity_rows(store, other, "phone", "T0,T1")
    for inputs in ((store, other), ([store, other],), (str(store.path), str(other.path)), ([store.path], other.path)):
        assert numbers(layertool.cka(*inputs, **how).rows.itertuples()) == numbers(expected)
    assert len(layertool.cka(store, store, **how)) == len(layertool.cka(store, **how)) == 4


@pytest.mark.parametrize("measure", METRICS)
@pytest.mark.parametrize("workers", [2, 9])
def test_workers_change_no_number(store, other, measure, workers):
    """The matrix is computed in parts then; that of one store is symmetric all the same."""
    for second, unit in ((None, "frame"), (other, "phone")):
        asked_for = (store, second, unit, "C7,T0,T1", None, asked(measure=measure, max_rows=200))
        alone, several = similarity_rows(*asked_for), similarity_rows(*asked_for, workers=workers)
        assert [row.target for row in several] == [row.target for row in alone]
        for one, many in zip(alone, several, strict=True):
            kept = (one.ci_low, one.ci_high, one.chance, one.settings)
            assert many.value == pytest.approx(one.value, rel=1e-12, abs=1e-12)
            assert (many.ci_low, many.ci_high, many.chance) == pytest.approx(kept[:3], rel=1e-9, abs=1e-12)
            assert many.settings == kept[-1]
        if second is None:
            found = grid(several)
            assert all(row.value == found[b, a].value for (a, b), row in found.items())


def test_progress_counts_rows(store):
    told = []
    similarity_rows(store, None, "frame", "T0,T1", progress=lambda done, total: told.append((done, total)))
    assert (store.n_rows("frame", "T0"),) * 2 in told
    assert told[-1] == (1, 1)


def test_rows_say_what_they_are(store):
    """The analysis as in 0.1.0, the number's name, and what decided it."""
    expected = {
        "cka": ("cka", "linear cka", {"estimator": "debiased"}),
        "cka-rbf": ("cka", "rbf cka", {"estimator": "debiased", "threshold": 1, "max_rows": 2000}),
        "procrustes": ("procrustes", "procrustes distance", {"chance": "target turned by half of the rows"}),
        "rsa": ("rsa", "rsa", {"distance": "correlation", "correlation": "Spearman", "max_rows": 2000}),
        "cca": ("cca", "pwcca", {"protocol": "in-sample", "eps": [1e-10], "columns": "standardised"}),
    }
    for measure, (analysis, metric, own) in expected.items():
        (row,) = similarity_rows(store, None, "frame", "T1", options={"measure": measure})
        decided = settings(row)
        assert (row.analysis, row.metric) == (analysis, metric)
        assert decided.items() >= own.items()
        assert decided["sampling"] == "published"
        assert set(decided) - set(own) <= {"sampling", "interval", "where", "chance", "chosen"}


# --- what is refused ----------------------------------------------------------------------------------------


def test_what_cannot_be_compared(store, other, networks, tmp_path):
    second = models.corpus(tmp_path / "c", [models.speech_like(16_000, k) for k in range(3)])
    elsewhere = layertool.extract(networks[0], second, tmp_path / "s", ("frame",), "T0")
    for match, arguments in {
        r"hold different corpora \(synthetic, 12 utterances; synthetic, 3 utterances\)": (store, elsewhere),
        "has no utterance rows .*extract again with --units utterance,": (store, None, "utterance"),
        "'T9' is no layer": (store, None, "phone", "T9"),
        "'T2' is no layer": (store, other, "phone", "T2"),
    }.items():
        with pytest.raises(UsageError, match=match):
            similarity_rows(*arguments)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"measure": "cosine"}, "choose cka, cka-rbf, procrustes, rsa, cca"),
        ({"measure": "rsa", "distance": "manhattan"}, "choose correlation, cosine, euclidean"),
        ({"measure": "rsa", "biased": True}, "rsa has no biased form: leave --biased out"),
        ({"max_rows": 3}, "--max-rows 3 cannot be: it is 4 or more"),
    ],
)
def test_options_that_nothing_satisfies(options, says):
    with pytest.raises(UsageError, match=says):
        CKA(**options)


def test_three_stores_are_for_compare(store, other, masked):
    with pytest.raises(UsageError, match="with itself or with one other, not 3: 'layertool compare' takes more"):
        layertool.cka([store, other, masked])


def test_too_few_rows(store):
    where = parse_where(["utterance=u1", "utterance=u2"])
    table = store.rows("phone")
    n = (table["utterance"].isin(["u1", "u2"]) & (table["label"] != "SIL")).sum()
    assert n <= 24
    with pytest.raises(UsageError, match=f"{n} rows of 24 dimensions"):
        similarity_rows(store, None, "phone", "C7", options=asked(measure="cca", where=where))


def test_the_remedy_for_too_few_rows_is_one_that_there_is(store):
    """Similarities have no --variant; the layer is named as a person knows it."""
    with pytest.raises(UsageError) as error:
        similarity_rows(store, None, "word", "T1", options=asked(measure="cca", where=parse_where(["speaker=s0"])))
    assert "--variant" not in str(error.value)
    assert "side x" not in str(error.value)


def test_more_rows_than_rsa_compares(store, monkeypatch):
    monkeypatch.setattr(similarity, "MAX_RSA_ROWS", 200)
    n = store.n_rows("frame", "T0")
    with pytest.raises(UsageError, match=f"at most 200 of them, not {n}") as error:
        similarity_rows(store, None, "frame", "T0", options=asked(measure="rsa", max_rows=10_000))
    assert "--max-rows" in str(error.value)
