"""Word segmentation of stores: the rows are those of a slow computation, utterance by utterance, cell by cell."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import planted
import pytest
import spread
from running import asked, run, settings
from scipy.signal import find_peaks
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from layertool.conditions import parse_where
from layertool.errors import FeatureError, UsageError
from layertool.layerwise.segmentation import Segmentation
from layertool.probes.segmentation import Cell, grid

TOLERANCE = 320
HOPS = {"C1": 160, "T0": 320, "T1": 320}
N = 11
SILENT = ("SIL", "<p:>")
BAD, EMPTY = (2, 5, 6), (0, 7)  # with spn, <unk>, <laugh>; with silence only, without a segment
GOOD = [k for k in range(N) if k not in (*BAD, *EMPTY)]
GRID = {"distance": ("euclidean", "cosine"), "window": (1, 2, 4), "prominence": (0, 0.1, 0.5, 1)}
CELLS = grid(*GRID.values())
SCORES = [
    "F1", "precision", "recall", "over-segmentation", "R-value", "lenient F1", "lenient precision", "lenient recall",
    "token F1", "token precision", "token recall",
]  # fmt: skip


def make(path, seed=0, noise=1.0, without=(), model="org/net", layers=tuple(HOPS), **columns):
    """11 utterances of 1 to 2.5 s: words of which each frame knows something, and pauses; five cannot be scored."""
    random = np.random.default_rng(seed)
    lengths = [int(n) for n in random.integers(18_000, 40_000, N)]
    made = []
    for k, length in enumerate(lengths):
        at, i = int(random.integers(100, 3_000)), 0
        while at + 7_000 < length:
            end = at + int(random.integers(2_500, 6_000))
            made.append((k, "word", at, end, "wxyz"[int(random.integers(4))]))
            at, i = (end, i + 1) if i % 3 else (end + int(random.integers(300, 2_000)), i + 1)
    for k, name in zip((*BAD, 0), ("spn", "<unk>", "<laugh>", "SIL"), strict=True):
        mine = [place for place, row in enumerate(made) if row[0] == k]
        for place in mine if name == "SIL" else mine[1:2]:
            made[place] = (*made[place][:4], name)
    for k, name in ((3, "SIL"), (8, "<p:>")):  # silence among words
        place = [place for place, row in enumerate(made) if row[0] == k][1]
        made[place] = (*made[place][:4], name)
    made = [row for row in made if row[0] != 7]
    frames = {}
    for name in layers:
        hop, clips = HOPS[name], []
        for k, length in enumerate(lengths):
            clip = noise * random.standard_normal((planted.n_frames(length, hop), 5))
            for row in made:
                if row[0] == k:
                    inside = [i for i in range(len(clip)) if row[2] <= i * hop + 200 < row[3]]
                    clip[inside] += 3 * random.standard_normal(5)
            clips.append(clip)
        frames[name] = clips
    return planted.store(
        path, lengths, made, frames, {"word": {"T0": planted.matrix(len(made), 5)}}, HOPS, model=model, without=without,
        **{"speaker": [f"s{k % 3}" for k in range(N)], "split": [("dev", "test")[k % 5 < 2] for k in range(N)], **columns},
    )  # fmt: skip


def segmentation_rows(store, layers="all", options=None, say=None, workers=None):
    return run(Segmentation(layers=layers, **(options or {})), store, say=say, workers=workers)


def only(cell):
    """Options that leave no other cell."""
    return {name: [value] for name, value in vars(cell).items()}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("frames") / "store")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another corpus, noisier, so that other cells are best; without speakers or splits of its own."""
    return make(tmp_path_factory.mktemp("tuned") / "other", seed=4, noise=2.0, speaker=[None] * N, split=["x"] * N)


# a slow computation


def scorable(store):
    """Numbers of utterances with words, all of them known."""
    rows, out = store.rows("word"), []
    for k, name in enumerate(store.utterances["utterance"]):
        said = [x for x in rows[rows["utterance"] == name]["label"] if isinstance(x, str) and x not in SILENT]
        if said and not any(x == "spn" or x.startswith("<") for x in said):
            out.append(k)
    return out


def clips_of(store, layer, chosen):
    """z-scored frames of each utterance, by what all of them have."""
    owner, values = store.row_table("frame", layer)["utterance"], store.read("frame", layer).astype(np.float64)
    some = values[np.isin(owner, chosen)]
    return {k: (values[owner == k] - some.mean(0)) / some.std(0) for k in chosen}


def boundaries(clip, hop, cell):
    if cell.distance == "euclidean":
        change = [np.sqrt(((a - b) ** 2).sum()) for a, b in pairwise(clip)]
    else:
        change = [1 - a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairwise(clip)]
    n = cell.window
    smooth = [sum(change[k : k + n]) / n for k in range(len(change) - n + 1)]
    # frame 0 is centred at sample 200: the change to the next half a hop later
    return [200 + hop / 2 + hop * (p + (n - 1) / 2) for p in find_peaks(smooth, prominence=cell.prominence)[0]]


def assigned(near):
    near = np.array(near, int)
    return int((maximum_bipartite_matching(csr_matrix(near)) >= 0).sum()) if near.size and near.any() else 0


def counted(times, words, length, tolerance):
    """predicted, references, strict, near a reference, near a prediction, intervals, words, tokens."""
    inner = [t for t in sorted(times) if tolerance < t < length - tolerance]
    wanted = [t for t in sorted({t for word in words for t in word}) if tolerance < t < length - tolerance]
    near = [[abs(t - r) <= tolerance for r in wanted] for t in inner]
    spans = list(pairwise([0, *inner, length]))
    fit = [[abs(a - s) <= tolerance and abs(b - e) <= tolerance for s, e in words] for a, b in spans]
    columns = list(zip(*near, strict=True)) if near else []
    return np.array([len(inner), len(wanted), assigned(near), sum(map(any, near)), sum(map(any, columns)),
                     len(spans), len(words), assigned(fit)], float)  # fmt: skip


def tables(store, layer, chosen, cells, tolerance=TOLERANCE):
    """Counts (cells, utterances, 8), and of boundaries turned by half of the utterance."""
    clips, lengths = clips_of(store, layer, chosen), store.utterances["n_samples"]
    words = {k: [] for k in chosen}
    for row, label in zip(store.row_table("word"), store.rows("word")["label"], strict=True):
        if row["utterance"] in words and isinstance(label, str) and label not in SILENT:
            words[row["utterance"]].append((int(row["start"]), int(row["end"])))
    out = []
    for cell in cells:
        mine = []
        for k in chosen:
            times, n = boundaries(clips[k], HOPS[layer], cell), lengths[k]
            mine.append([counted(some, words[k], n, tolerance) for some in (times, [(t + n / 2) % n for t in times])])
        out.append(mine)
    return np.array(out).transpose(2, 0, 1, 3)


def scores(total):
    predicted, references, strict, right, reached, intervals, words, tokens = total

    def both(p, r):
        return 2 * p * r / (p + r) if p + r else 0.0

    p, r = strict / predicted if predicted else 0.0, strict / references
    over = predicted / references - 1
    away, slant = np.hypot(1 - r, over), (r - 1 - over) / np.sqrt(2)
    loose, found = right / predicted if predicted else 0.0, reached / references
    tp, tr = tokens / intervals, tokens / words
    values = (
        both(p, r),
        p,
        r,
        over,
        1 - (abs(away) + abs(slant)) / 2,
        both(loose, found),
        loose,
        found,
        both(tp, tr),
        tp,
        tr,
    )
    return dict(zip(SCORES, values, strict=True))


def best(found, which, criterion="F1"):
    """The first cell that has most over these utterances."""
    return max(range(len(found)), key=lambda k: scores(found[k][which].sum(0))[criterion])


def values(rows, layer):
    """Scores and chance of a layer by name, and the cells that were chosen, of each half."""
    of_layer = [row for row in rows if row.layer == layer]
    assert [row.metric for row in of_layer] == SCORES
    (chosen,) = {str(settings(row).get("chosen", {})): settings(row).get("chosen", {}) for row in of_layer}.values()
    both = [value if isinstance(value, list) else [value, value] for value in chosen.values()]
    return {row.metric: row for row in of_layer}, [Cell(*cell) for cell in zip(*both, strict=True)]


def agree(rows, layer, total, turned, n_references):
    found, cells = values(rows, layer)
    for name, value in scores(total).items():
        assert found[name].value == pytest.approx(value, abs=1e-9), name
        assert found[name].chance == pytest.approx(scores(turned)[name], abs=1e-9), name
        assert found[name].n == n_references
        assert (found[name].unit, found[name].target) == ("frame", "word boundaries")
    return cells


ONE = Cell("cosine", 2, 0.1)


@pytest.mark.parametrize("layer", ["C1", "T0"])
@pytest.mark.parametrize("cell", [ONE, Cell("euclidean", 1, 0.5), Cell("euclidean", 4, 0)], ids=str)
def test_one_cell(store, layer, cell):
    """Utterances that are not scored move nobody: the boundaries of the others meet their own words."""
    told = []
    found = segmentation_rows(store, layer, only(cell), say=told.append)
    assert scorable(store) == GOOD
    both = tables(store, layer, GOOD, [cell])
    total, turned = both[:, 0].sum(1)
    assert agree(found, layer, total, turned, total[1]) == []  # nothing is chosen
    assert {name: settings(found[0])[name] for name in GRID} == only(cell)
    assert "tune_on" not in settings(found[0])
    assert told[0].startswith("left out: 3 utterances of")
    # the words of other utterances, as in the published code, would be another number
    clips, lengths = clips_of(store, layer, GOOD), store.utterances["n_samples"]
    table = store.row_table("word")
    moved = sum(
        counted(boundaries(clips[k], HOPS[layer], cell),
                [(r["start"], r["end"]) for r in table if r["utterance"] == wrong], lengths[k], TOLERANCE)
        for k, wrong in zip(GOOD[1:], GOOD, strict=False)
    )  # fmt: skip
    assert abs(scores(moved)["F1"] - scores(total)["F1"]) > 0.005


def test_layers_of_two_rates_at_once(store):
    found = segmentation_rows(store, options=only(ONE), workers=3)
    assert list(dict.fromkeys(row.layer for row in found)) == list(HOPS)
    for layer in HOPS:
        total, turned = tables(store, layer, GOOD, [ONE])[:, 0].sum(1)
        agree(found, layer, total, turned, total[1])
    assert found == segmentation_rows(store, options=only(ONE), workers=1)


@pytest.mark.parametrize("tolerance", [0, 160, 640])
def test_tolerances(store, tolerance):
    found = segmentation_rows(store, "T0", asked(**only(ONE), tolerance=tolerance // 16))
    total, turned = tables(store, "T0", GOOD, [ONE], tolerance)[:, 0].sum(1)
    agree(found, "T0", total, turned, total[1])
    assert settings(found[0])["tolerance"] == f"{tolerance // 16} ms"


def test_failed_utterances(tmp_path):
    """Rows of an utterance that failed are nowhere; the others keep their places."""
    store = make(tmp_path / "s", without=(1, 4))
    good = [k for k in GOOD if k not in (1, 4)]
    found = segmentation_rows(store, "T0", only(ONE))
    total, turned = tables(store, "T0", good, [ONE])[:, 0].sum(1)
    agree(found, "T0", total, turned, total[1])


def test_chosen_utterances(store):
    found = segmentation_rows(store, "T0", asked(**only(ONE), where=parse_where(["split=dev"])))
    dev = [k for k in GOOD if store.utterances["split"][k] == "dev"]
    assert 2 <= len(dev) < len(GOOD)
    total, turned = tables(store, "T0", dev, [ONE])[:, 0].sum(1)
    agree(found, "T0", total, turned, total[1])
    assert settings(found[0])["where"] == ["split=dev"]


def test_some_utterances_are_drawn(store):
    """Three, whichever; z-scored by themselves."""
    possible = {}
    for three in combinations(GOOD, 3):
        total = tables(store, "T0", list(three), [ONE])[0, 0].sum(0)
        possible[round(scores(total)["F1"], 9)] = total[1]
    values = set()
    for seed in range(4):
        told = []
        options = asked(**only(ONE), max_utterances=3, seed=seed)
        row = segmentation_rows(store, "T0", options, told.append)[0]
        assert possible[round(row.value, 9)] == row.n
        assert f"3 of {len(GOOD)} utterances were drawn" in told
        values.add(row.value)
    assert len(values) > 1


def halves_of(n):
    """Every way to cut n utterances in two halves, as masks."""
    for some in combinations(range(n), n // 2):
        yield np.isin(np.arange(n), some)


@pytest.mark.parametrize("layer", ["C1", "T1"])
def test_each_half_is_scored_with_the_cell_of_the_other(store, layer):
    """Some cut in halves explains all numbers; none would, were the halves scored with their own best cells."""
    both = tables(store, layer, GOOD, CELLS)
    right, leaking = {}, set()
    for half in halves_of(len(GOOD)):
        mine, theirs = best(both[0], half), best(both[0], ~half)
        for cells, book in (((theirs, mine), right), ((mine, theirs), None)):
            total, turned = (table[cells[0]][half].sum(0) + table[cells[1]][~half].sum(0) for table in both)
            key = (round(scores(total)["F1"], 9), CELLS[cells[0]], CELLS[cells[1]])
            if book is None:
                leaking.add(key)
            else:
                book.setdefault(key, []).append((total, turned))
    keys = set()
    for seed in range(5):
        found = segmentation_rows(store, layer, asked(**GRID, seed=seed))
        by_name, (first, second) = values(found, layer)
        straight = (round(by_name["F1"].value, 9), first, second)
        swapped = (straight[0], second, first)
        key = straight if straight in right else swapped
        assert key in right
        keys.add(key)
        chance = by_name["F1"].chance  # cuts may differ in it only
        total, turned = min(right[key], key=lambda pair: abs(scores(pair[1])["F1"] - chance))
        agree(found, layer, total, turned, total[1])
        tuned = {"tune_on": "the other half of the utterances", "tune_for": "F1", "window": [1, 2, 4]}
        assert tuned.items() <= settings(found[0]).items()
    assert len(keys) > 1
    assert not keys <= leaking
    assert any(key[1] != key[2] for key in keys)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["F1", "R-value", "lenient F1", "token F1"])
def test_tuned_on_another_store(store, other, criterion):
    found = segmentation_rows(store, "T0", asked(**GRID, tune_on=other, tune_for=criterion))
    theirs = tables(other, "T0", scorable(other), CELLS)[0]
    cell = CELLS[best(theirs, slice(None), criterion)]
    total, turned = tables(store, "T0", GOOD, [cell])[:, 0].sum(1)
    assert agree(found, "T0", total, turned, total[1]) == [cell, cell]
    assert {"tune_on": "planted", "tune_for": criterion}.items() <= settings(found[0]).items()
    assert found[0].store == str(store.path)


def test_criteria_take_different_cells(store, other):
    theirs = tables(other, "T0", scorable(other), CELLS)[0]
    assert len({best(theirs, slice(None), name) for name in ("F1", "R-value", "lenient F1", "token F1")}) > 1
    mine = tables(store, "T0", GOOD, CELLS)[0]
    assert best(mine, slice(None)) != best(theirs, slice(None))


def test_conditions_are_not_of_the_store_that_is_tuned_on(store, other):
    """Its utterances have no such value."""
    where = parse_where(["split=dev"])
    found = segmentation_rows(store, "T0", asked(**GRID, tune_on=other, where=where))
    theirs = tables(other, "T0", scorable(other), CELLS)[0]
    assert values(found, "T0")[1] == [CELLS[best(theirs, slice(None))]] * 2


def test_the_published_grid_is_the_default(store):
    (row, *_) = segmentation_rows(store, "T0", asked(resample="none"))
    assert np.prod([len(settings(row)[name]) for name in GRID]) == len(grid()) == 180


@pytest.mark.parametrize("what", ["utterances", "speakers", "none"])
def test_intervals(store, what):
    """Percentiles of the scores of resampled clusters."""
    found, _ = values(segmentation_rows(store, "T0", asked(**only(ONE), resample=what, seed=3)), "T0")
    if what == "none":
        assert {(row.ci_low, row.ci_high) for row in found.values()} == {(None, None)}
        return
    names = [str(k) if what == "utterances" else store.utterances["speaker"][k] for k in GOOD]
    clusters = list(dict.fromkeys(sorted(names) if what == "speakers" else names))
    per = tables(store, "T0", GOOD, [ONE])[0, 0]
    of_cluster = np.array([sum(row for row, name in zip(per, names, strict=True) if name == c) for c in clusters])
    drawn = np.random.default_rng(3).multinomial(len(clusters), [1 / len(clusters)] * len(clusters), 1000)
    all_scores = [scores(total) for total in drawn @ of_cluster]
    for name, row in found.items():
        low, high = np.quantile([each[name] for each in all_scores], spread.ends(len(clusters)))
        assert (row.ci_low, row.ci_high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_every_utterance_that_is_left_out_is_told(store):
    """Three with unknown words, one with nothing but silence, one without segments."""
    told = []
    segmentation_rows(store, "T0", only(ONE), say=told.append)
    assert [text.split(": ")[1].split(" ")[0] for text in told] == ["3", "2"]
    assert "without words" in told[1]


def test_what_cannot_be(store, other, tmp_path):
    def refused(says, store=store, layers="T0", error=UsageError, **options):
        with pytest.raises(error) as caught:
            segmentation_rows(store, layers, asked(**GRID, **options))
        assert all(part in str(caught.value) for part in says), str(caught.value)
        assert "\n" not in str(caught.value)

    refused(["'F2'", "--tune-for", "R-value"], tune_for="F2")
    refused(["'words'", "--resample"], resample="words")
    another = make(tmp_path / "another", model="org/other")
    refused(["hold different models", "org/other", "tuned boundaries"], tune_on=another)
    few = make(tmp_path / "few", layers=("T0",))
    refused(["has no layer T1 at unit frame", "--layers"], layers="T0,T1", tune_on=few)
    refused(["have no speaker", "--resample utterances"], store=other, resample="speakers")
    refused(["no word row has split=nothing"], where=parse_where(["split=nothing"]))
    refused(["one utterance has no half to tune on", "--tune-on"], where=parse_where(["utterance=u1"]))
    segments = [(k, "word", 1_000, 9_000, "w") for k in range(3)]
    lengths, frames = [12_000] * 3, {"T0": [planted.matrix(37, 3, k) for k in range(3)]}
    no_words = planted.store(tmp_path / "no_words", lengths, (), frames)
    refused(["no word rows", "--units word,frame"], store=no_words)
    no_frames = planted.store(tmp_path / "no_frames", lengths, segments, rows={"word": {"T0": planted.matrix(3)}})
    refused(["no frame rows", "--units frame,word"], store=no_frames)
    nobody = planted.store(tmp_path / "nobody", lengths, segments, frames, {"word": {"T0": planted.matrix(3, 3)}})
    refused(["no column 'speaker'"], store=nobody, resample="speakers")
    frames["T0"][1][4, 2] = np.nan
    bad = planted.store(tmp_path / "bad", lengths, segments, frames, {"word": {"T0": planted.matrix(3, 3)}})
    refused(["layer T0", "utterance 'u1' at 0.08 s", "not all finite"], store=bad, error=FeatureError)


@pytest.mark.parametrize("what", ["utterances", "speakers"])
def test_halves_are_tuned_anew_in_each_resample(store, what):
    """From the definition, resample by resample: the cell that is best on what was drawn of one half, counted on the other."""
    options = asked(**GRID, resample=what, seed=1)
    found, _ = values(segmentation_rows(store, "T0", options), "T0")
    names = [str(k) if what == "utterances" else store.utterances["speaker"][k] for k in GOOD]
    clusters = list(dict.fromkeys(sorted(names) if what == "speakers" else names))
    per = tables(store, "T0", GOOD, CELLS)[0]  # (cells, utterances, counts)
    half = np.random.default_rng(1).permutation(len(GOOD)) % 2
    drawn = np.random.default_rng(1).multinomial(len(clusters), [1 / len(clusters)] * len(clusters), 1000)
    times = drawn[:, [clusters.index(name) for name in names]]
    all_scores, taken = [], set()
    for row in times:
        total = 0
        for h in (0, 1):
            with np.errstate(invalid="ignore"):  # nothing of a half may have been drawn
                f1 = [scores((row * (half != h)) @ cell)["F1"] for cell in per]
            taken.add(int(np.argmax(f1)))
            total = total + (row * (half == h)) @ per[int(np.argmax(f1))]
        all_scores.append(scores(total))
    assert len(taken) > 2
    for name, row in found.items():
        low, high = np.quantile([each[name] for each in all_scores], spread.ends(len(clusters)))
        assert (row.ci_low, row.ci_high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
