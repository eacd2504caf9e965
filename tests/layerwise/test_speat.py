"""SpEAT of stores equals d, p and intervals computed by hand from the matrices and the utterance table of a store."""

from __future__ import annotations

import math

import models
import numpy as np
import planted
import pytest
from running import run, settings
from scipy import stats

import layertool
from layertool.analysis import speat
from layertool.conditions import parse_where
from layertool.errors import UsageError
from layertool.layerwise.speat import SpEAT, parse_groups

N, N_TARGETS = 40, 22
BLOCKS = ["T0", "T1", "T2", "T3"]
BASELINES = ("stft", "spectrogram", "mel", "mfcc")
GENDER, AGE, SOUND, SIDE = "gender=female:male", "age=20:60", "sound=low:high", "side=x:y"
VALENCE, TRAIN = "valence=positive:negative", "recording=a:b"
D, P, BONFERRONI, FDR = "d", "p", "p bonferroni", "p benjamini-hochberg"


def pick(k, value, targets=True):
    return value if (k < N_TARGETS) == targets else None


def columns():
    """Targets are u0 to u21 (8 female, 14 male; 11 low, 11 high), attributes the rest (6 positive, 12 negative)."""
    each = range(N)
    random = np.random.default_rng(5)
    out = {
        "gender": [pick(k, "male" if k % 3 else "female") for k in each],
        "age": [pick(k, 20.0 if k % 4 < 2 else 60.0) for k in each],
        "sound": [pick(k, ("low", "high")[k % 2]) for k in each],
        "side": [("x", "y")[k % 2] if k < 20 else None for k in each],
        "pair": [f"p{(k // 2 * (3 if k % 2 else 7)) % 10}" for k in each],
        "valence": [pick(k, "negative" if k % 3 else "positive", False) for k in each],
        "recording": [pick(k, "ab"[k % 2], False) for k in each],
        "split": [("dev", "train")[k // 3 % 2] for k in each],
        "sex": [("f", "m")[k % 4 < 1] for k in each],
        "one": ["me" if k == 3 else pick(k, "others") for k in each],
    }
    for j in range(60):
        order = list(random.permutation(N_TARGETS))
        out[f"r{j}"] = [pick(k, "xy"[order.index(k) % 2] if k < N_TARGETS else "") for k in each]
    return out


def waveform(k, n):
    """Low speech and positive emotions are dull, high speech and negative ones are sharp."""
    noise = np.random.default_rng(k).standard_normal(n + 8)
    dull, sharp = np.convolve(noise, np.ones(8) / 8, "same")[:n], np.diff(noise)[:n]
    share = {0: 0.75, 1: 0.25}[k % 2] if k < N_TARGETS else (0.1 if k % 3 else 0.9)
    return (0.05 * (share * dull + (1 - share) * sharp) + 0.2 * models.speech_like(n, k % 7)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bias")
    lengths = [6_400 + 331 * ((5 * k) % 7) for k in range(N)]
    waveforms = [waveform(k, n) for k, n in enumerate(lengths)]
    corpus = models.corpus(folder / "audio", waveforms, models.random_segments(lengths), **columns())
    networks = {name: str(models.save(name, folder / name)) for name in ("hubert-base", "wav2vec2-base")}
    units = ("frame", "word", "utterance")
    out = {"hubert": layertool.extract(networks["hubert-base"], corpus, folder / "hubert", units, shard_seconds=8)}
    out["w2v2"] = layertool.extract(networks["wav2vec2-base"], corpus, folder / "w2v2", ("utterance",))
    for name in BASELINES:
        out[name] = layertool.extract(name, corpus, folder / name, ("utterance",))
    return out


@pytest.fixture(scope="module")
def store(made):
    return made["hubert"]


def ask(stores, targets=GENDER, attributes=VALENCE, unit=None, layers="all", say=None, **options):
    """Rows of ``SpEAT``, with few draws; texts of several groups have spaces between them."""
    options = {"permutations": 300, "n_resamples": 200, "aggregate": ("mean",), **options}
    test = SpEAT(target=targets.split(), attribute=attributes.split(), unit=unit, layers=layers, **options)
    return run(test, stores, say=say)


def values(found, kind=D):
    """Of one kind of number; with (store, target, layer) when there are several tests."""
    return [row.value for row in found if row.metric == kind]


def only(found, kind=D):
    (row,) = [row for row in found if row.metric == kind]
    return row


def members(store, text, unit="utterance", keep=lambda u: u["split"] != ""):
    """Positions of the rows of both groups of a store, from its utterance table."""
    column, _, pair = text.partition("=")
    codes, table = store.row_table(unit)["utterance"], store.utterances
    chosen = keep(table).to_numpy()
    chosen = [table[column].eq(float(v) if v.isdigit() else v).to_numpy() & chosen for v in pair.split(":")]
    return [np.flatnonzero(which[codes]) for which in chosen]


def s_by_hand(w, a, b):
    def cosines(group):
        return w @ group.T / np.outer(np.linalg.norm(w, axis=1), np.linalg.norm(group, axis=1))

    return cosines(a).mean(1) - cosines(b).mean(1)


def d_by_hand(x, y, a, b):
    s_x, s_y = s_by_hand(x, a, b), s_by_hand(y, a, b)
    return (s_x.mean() - s_y.mean()) / np.concatenate([s_x, s_y]).std(ddof=1)


TOGETHER = {
    "mean": lambda held: sum(held) / len(held),
    "normalized-mean": lambda held: sum(m / np.linalg.norm(m, axis=1)[:, None] for m in held) / len(held),
    "max": lambda held: np.maximum.reduce(held),
    "min": lambda held: np.minimum.reduce(held),
    "concat": np.hstack,
    "last": lambda held: held[-1],
    "speat-compat": lambda held: sum([held[-1], *held[1:]]) / len(held),
}


def parts_of(store, how="mean", target=GENDER, attribute=VALENCE, unit="utterance", layers=BLOCKS, **more):
    rows = [*members(store, target, unit, **more), *members(store, attribute, unit, **more)]
    assert all(len(part) for part in rows)
    together = TOGETHER[how]([store.read(unit, layer).astype(float) for layer in layers])
    return [together[part] for part in rows]


# --- d ----------------------------------------------------------------------------------------------------


CHOICES = [(how, *rest) for how in TOGETHER for rest in (("utterance", "all"), ("word", "all"), ("utterance", "T1,T3"))]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "unit", "layers"), [one for one in CHOICES if one[::2] != ("speat-compat", "T1,T3")])
def test_layers_together(store, how, unit, layers):
    names = BLOCKS if layers == "all" else ["T1", "T3"]
    row = only(ask(store, unit=unit, layers=layers, aggregate=(how,)))
    parts = parts_of(store, how, unit=unit, layers=names)
    assert row.value == pytest.approx(d_by_hand(*parts), abs=1e-9)
    assert (row.n, row.unit) == (len(parts[0]) + len(parts[1]), unit)
    assert (row.analysis, row.target, row.chance) == ("speat", f"{GENDER}, {VALENCE}", 0.0)
    assert row.layer == ("T3" if how == "last" else "T0-T3" if layers == "all" else "T1, T3")


def test_sizes_are_unequal(store):
    assert [len(part) for part in parts_of(store)] == [8, 14, 6, 12]
    assert len({round(d_by_hand(*parts_of(store, how)), 4) for how in TOGETHER}) >= 6


@pytest.mark.parametrize("unit", ["utterance", "word", "frame"])
def test_layers_alone(store, unit):
    found = [row for row in ask(store, unit=unit, aggregate=("each",)) if row.metric == D]
    assert [(row.layer, row.layer_index) for row in found] == [(name, store.layers.index(name)) for name in BLOCKS]
    for row in found:
        assert row.value == pytest.approx(d_by_hand(*parts_of(store, unit=unit, layers=[row.layer])), abs=1e-9)


def test_layers_by_name(store):
    """Convolutions are taken when they are asked for; their other width is no matter for concat."""
    found = ask(store, layers="C7,T2", aggregate=("each", "concat"))
    expected = [d_by_hand(*parts_of(store, "concat", layers=names)) for names in (["C7"], ["T2"], ["C7", "T2"])]
    assert values(found) == pytest.approx(expected, abs=1e-9)
    with pytest.raises(UsageError, match=r"C7, T2 of .* have widths 24, 48: only concat"):
        ask(store, layers="C7,T2")


def test_frames_of_another_rate(store):
    """C1 has more frames than T0; its rows have a table of their own."""
    table, hand = store.row_table("frame", "C1"), []
    for text in (GENDER, VALENCE):
        column, _, pair = text.partition("=")
        of_row = store.utterances[column].to_numpy()[table["utterance"]]
        hand += [store.read("frame", "C1")[of_row == value].astype(float) for value in pair.split(":")]
    found = only(ask(store, unit="frame", layers="C1", aggregate=("each",), resample="none", permutations=2))
    assert found.value == pytest.approx(d_by_hand(*hand), abs=1e-6)


@pytest.mark.parametrize("name", BASELINES)
def test_acoustic_baselines_and_a_planted_bias(made, name):
    """One layer, alone and as mean; low speech is as dull as positive emotions: X is nearer to A."""
    store = made[name]
    found = ask(store, f"{SOUND} sound=high:low", aggregate=("mean", "each"), permutations=5000)
    hand = d_by_hand(*parts_of(store, target=SOUND, layers=store.layers))
    assert values(found) == pytest.approx([hand, -hand] * 2, abs=1e-9)
    assert hand > 0.8
    assert {row.layer for row in found} == {name}
    p = values(found, P)
    assert p[0] < 0.05
    assert p[1] > 0.95


# --- groups -----------------------------------------------------------------------------------------------


def test_groups_of_numbers_and_conditions(store):
    found = ask(store, AGE, where=parse_where(["split=dev"]))
    assert only(found).value == pytest.approx(
        d_by_hand(*parts_of(store, target=AGE, keep=lambda u: u["split"] == "dev")), abs=1e-9
    )
    assert settings(only(found))["where"] == ["split=dev"]
    not_u3 = ask(store, AGE, where=parse_where(["utterance!=u3"]))
    assert only(not_u3).n == N_TARGETS - 1
    assert only(not_u3).value == pytest.approx(
        d_by_hand(*parts_of(store, target=AGE, keep=lambda u: u["utterance"] != "u3")), abs=1e-9
    )


def id_file(path, rows, store, end="\n"):
    path.write_text("".join(f"  {store.utterances['utterance'][k]} {end}" for k in rows) + end)
    return f"@{path}"


@pytest.mark.parametrize("unit", ["utterance", "word"])
def test_groups_of_lists(store, tmp_path, unit):
    """Spaces, empty lines and an id twice are nothing; the words of those utterances are the rows of unit word."""
    rows = [*members(store, GENDER), *members(store, VALENCE)]
    files = [
        id_file(tmp_path / f"{name}.txt", [*part, part[0]], store) for name, part in zip("xyab", rows, strict=True)
    ]
    row = only(ask(store, "who={}:{}".format(*files[:2]), "how={}:{}".format(*files[2:]), unit=unit))
    assert row.value == pytest.approx(only(ask(store, unit=unit)).value, abs=1e-12)
    assert row.target == "who=x:y, how=a:b"
    mixed = only(ask(store, "who={}:{}".format(*files[:2]), where=parse_where(["split=dev"])))
    assert mixed.value == pytest.approx(only(ask(store, where=parse_where(["split=dev"]))).value, abs=1e-12)


# --- p and families ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alternative", speat.ALTERNATIVES)
@pytest.mark.parametrize("seed", [0, 7])
def test_p(store, alternative, seed):
    found = ask(store, aggregate=("mean", "each"), permutations=1000, alternative=alternative, seed=seed)
    parts = [parts_of(store), *(parts_of(store, layers=[name]) for name in BLOCKS)]
    hand = [speat.association_test(*part, 1000, alternative, seed) for part in parts]
    assert values(found, P) == [test.p for test in hand]
    assert {row.seed for row in found} == {seed}
    for decided in (settings(row) for row in found if row.metric != D):
        assert (decided["alternative"], decided["relabellings"]) == (speat.ALTERNATIVES[alternative], 1000)


def test_exact_p(store):
    """No more relabellings than asked for: all of them are counted; one more, and they are drawn."""
    where = parse_where(["utterance=u0", *(f"utterance=u{k}" for k in [1, 2, 3, 4, 5, 6, *range(22, 40)])])
    n_all = math.comb(7, 3)
    found = only(ask(store, where=where, permutations=n_all), P)
    assert (settings(found)["exact"], settings(found)["relabellings"]) == (True, n_all)
    assert found.value * n_all == pytest.approx(round(found.value * n_all), abs=1e-9)
    assert not settings(only(ask(store, where=where, permutations=n_all - 1), P))["exact"]


def test_families(made):
    """Tests of one aggregation, of all stores, targets and attributes, are a family; each layer alone is in another."""
    stores = [made["hubert"], made["w2v2"]]
    found = ask(stores, f"{GENDER} {SOUND}", f"{VALENCE} {TRAIN}", aggregate=("mean", "each", "last"))
    for how, over, size in (("mean", "T0-T3", 8), ("each", None, 32), ("last", None, 8)):
        mine = [row for row in found if settings(row)["aggregate"] == how]
        assert {settings(row).get("over") for row in mine} == {over}
        p = values(mine, P)
        assert len(p) == size
        assert len({(row.store, row.target, row.layer) for row in mine}) == size
        assert values(mine, BONFERRONI) == pytest.approx([min(1, v * size) for v in p])
        order = np.argsort(p)
        scaled = np.array(p)[order] * size / np.arange(1, size + 1)
        fdr = np.empty(size)
        fdr[order] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
        assert values(mine, FDR) == pytest.approx(fdr)
        assert all(settings(row)["tests"] == size for row in mine if row.metric in (BONFERRONI, FDR))


def test_the_order_of_stores_is_no_matter(made):
    stores = [made["hubert"], made["w2v2"], made["mel"]]

    def numbers(found):
        return {
            (row.store, row.target, row.layer, row.settings, row.metric): (row.value, row.ci_low, row.ci_high)
            for row in found
        }

    asked = {"aggregate": ("mean", "each"), "resample": "all"}
    forth = numbers(ask(stores, f"{GENDER} {SOUND}", **asked))
    assert forth == numbers(ask(stores[::-1], f"{SOUND} {GENDER}", **asked))
    alone = numbers(ask(stores[1], **asked))
    same = [key for key in alone if key[-1] in (D, P)]
    assert {key: forth[key] for key in same} == {key: alone[key] for key in same}


@pytest.mark.slow
def test_no_bias_is_uniform_in_p(store):
    found = ask(store, " ".join(f"r{j}=x:y" for j in range(60)), layers="T2", permutations=500, resample="none")
    assert len(values(found, P)) == 60
    assert stats.kstest(values(found, P), "uniform").pvalue > 0.01
    assert np.mean(np.array(values(found, BONFERRONI)) < 0.05) == 0


# --- intervals --------------------------------------------------------------------------------------------


def slow_interval(w, a, b, n_x, cells, paired, attributes):
    """3000 resamples, each drawn and computed as it is; symmetric in Fisher's z of d as a correlation with the side."""
    random, out = np.random.default_rng(99), []
    unit = [part / np.linalg.norm(part, axis=1)[:, None] for part in (w, a, b)]
    near, far = unit[0] @ unit[1].T, unit[0] @ unit[2].T
    for _ in range(3000):
        drawn = np.empty(len(w), int)
        for cell in np.unique(cells):
            mine = np.flatnonzero(cells == cell)
            drawn[mine] = random.choice(mine, len(mine))
        if paired:
            drawn[n_x:] = drawn[:n_x] + n_x
        of_a = random.integers(len(a), size=len(a)) if attributes else slice(None)
        of_b = random.integers(len(b), size=len(b)) if attributes else slice(None)
        s = near[drawn][:, of_a].mean(1) - far[drawn][:, of_b].mean(1)
        out.append((s[:n_x].mean() - s[n_x:].mean()) / s.std(ddof=1))
    n, n_drawn = len(w), n_x if paired else len(w)
    most = math.sqrt(n * (n - 1) / (n_x * (n - n_x)))
    z = math.atanh(d_by_hand(w[:n_x], w[n_x:], a, b) / most)
    free = n_drawn - len(set(cells[:n_drawn]))
    widening = math.sqrt(n_drawn / free) * stats.t.ppf(0.975, free) / stats.norm.ppf(0.975)
    half = widening * np.percentile(np.abs(np.arctanh(np.array(out) / most) - z), 95)
    return most * np.tanh([z - half, z + half])


CASES = [(None, None), ("sex", None), (None, "pair")]


@pytest.mark.slow
@pytest.mark.parametrize(("strata", "pairs"), CASES)
@pytest.mark.parametrize("resample", ["targets", "all"])
def test_intervals(store, resample, strata, pairs):
    asked = {"resample": resample, "strata": strata, "pairs": pairs}
    row = only(ask(store, SIDE, n_resamples=6000, **asked))
    x, y = members(store, SIDE)
    if pairs:
        names = store.utterances["pair"].to_numpy()
        x, y = (part[np.argsort(names[part])] for part in (x, y))
        assert (names[x] == names[y]).all()
        assert (np.diff(y) < 0).any()
    a, b = parts_of(store, target=SIDE)[2:]
    together = TOGETHER["mean"]([store.read("utterance", layer).astype(float) for layer in BLOCKS])
    w, side = together[[*x, *y]], np.repeat([0, 1], [len(x), len(y)])
    cells = 2 * (store.utterances["sex"].to_numpy()[[*x, *y]] == "f") + side if strata else side
    low, high = slow_interval(w, a, b, len(x), cells, bool(pairs), resample == "all")
    assert (row.ci_low, row.ci_high) == pytest.approx((low, high), abs=0.1)
    assert row.value == pytest.approx(d_by_hand(w[: len(x)], w[len(x) :], a, b), abs=1e-9)
    what = "targets and attributes" if resample == "all" else "targets"
    end = f" in pairs of {pairs}" if pairs else f" within {strata}" if strata else ""
    assert settings(row)["interval"] == f"bootstrap of {what}{end}"
    s = s_by_hand(w, a, b)[None]
    if resample == "targets":
        groups = store.utterances["sex"].to_numpy()[[*x, *y]] if strata else None
        exact = speat.bootstrap(s, len(x), 6000, 0, groups, bool(pairs))[0]
        assert (row.ci_low, row.ci_high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_no_interval(store):
    row = only(ask(store, resample="none"))
    assert (row.ci_low, row.ci_high) == (None, None)
    assert all(r.ci_low is None for r in ask(store) if r.metric != D)


def test_workers_and_engines_change_no_number(made):
    """A test of one store and one pair of groups is a piece of work."""
    stores, asked = [made["hubert"], made["w2v2"], made["mel"]], {"aggregate": ("mean", "each"), "resample": "all"}
    test = SpEAT(target=[GENDER, SOUND], attribute=VALENCE, permutations=300, n_resamples=200, **asked)
    told = []
    assert run(test, stores, workers=4, progress=lambda *n: told.append(n)) == ask(stores, f"{GENDER} {SOUND}", **asked)
    assert told[-1] == (6, 6)


def test_groups_as_texts_and_ready(store):
    ready = [parse_groups(GENDER), SOUND]
    found = layertool.speat(store, target=ready, attribute=VALENCE, aggregate="mean", permutations=300, n_resamples=200)
    assert found.rows["value"].to_list() == [row.value for row in ask(store, f"{GENDER} {SOUND}")]


def test_several_targets_of_one_speaker_are_told(tmp_path):
    """The draws take items for independent, which recordings of one voice are not."""
    n = 24
    speaker = [f"s{k % 5}" if k < 12 else f"r{k}" for k in range(n)]
    shared = {"group": ["x", "y"] * 6 + ["a", "b"] * 6, "rows": {"utterance": {"T0": planted.matrix(n, 5)}}}
    told = []
    for name, who in (("several", speaker), ("each", [f"s{k}" for k in range(n)])):
        store = planted.store(tmp_path / name, [16_000] * n, rows=shared["rows"], group=shared["group"], speaker=who)
        ask(store, "group=x:y", "group=a:b", say=told.append)
    assert [text.split(": ")[1] for text in told] == ["12 targets of group=x:y are of 5 speakers"]
