"""Bars, parameters removed, the lexical lens and single stimuli: which numbers stand where."""

import math

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba

from layertool import figures, outline, result_rows
from layertool.errors import UsageError
from layertool.figures.specification import COLOURS
from layertool.layerwise.lexical_rows import LIKELIHOOD, SURPLUS, TAU, TOP_1, TOP_N, UNFINISHED
from layertool.result_rows import PARAMETERS

TARGETS = ("gender=female:male, valence=positive:negative", "age=young:old, valence=positive:negative")
SIZES = {"/x/base": 1000, "/w/heads/1": 900, "/w/heads/2": 700, "/m/heads/1": 600}
LAYERS = ["T0", "T1", "final", "D0", "D1"]
METRICS = {LIKELIHOOD.name: -100.0, TAU.name: 0.1, TOP_N.name: 0.2, TOP_1.name: 0.0}


def lines(axis):
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


# SpEAT


def bias(stores, sizes=None):
    """d of two tests of each store, and how large its model is."""
    found = []
    for k, store in enumerate(stores):
        about = {"analysis": "speat", "model": store.split("/")[-1], "corpus": "c", "unit": "utterance", "store": store}
        for target in TARGETS:
            d = {"value": k / 10, "ci_low": k / 10 - 0.1, "ci_high": k / 10 + 0.3, "chance": 0.0, "n": 40}
            place = {"layer": "T0-T3", "layer_index": 9, "target": target}
            found.append(result_rows.row("d", {"aggregate": "mean"}, **about, **place, **d))
        for size in [sizes[store]] if sizes else []:
            place = {"layer": "model", "layer_index": 9, "target": "model"}
            found.append(result_rows.row(PARAMETERS, {}, **about, **place, value=float(size)))
    return result_rows.table(found)


@pytest.mark.parametrize(
    ("stores", "names"),
    [
        (["/x/heads/1", "/x/heads/2", "/x/rows/1"], ["heads", "heads", "rows"]),
        (["/w2v2/heads/1", "/mel/heads/2"], ["w2v2/heads", "mel/heads"]),
        (["/a/1", "/a/2"], ["a", "a"]),
    ],
)
def test_stores_of_one_folder_are_a_family(stores, names):
    assert outline.families(result_rows.pd.Series(stores)).tolist() == names


@pytest.mark.parametrize("reference", ["/x/base", None])
def test_parameters_removed(reference):
    figure = figures.draw(bias(list(SIZES), SIZES), x="parameters", reference=reference)
    assert len(figure.axes) == 2
    for axis in figure.axes:
        drawn = lines(axis)
        assert drawn.keys() == {"w/heads", "m/heads", "unpruned", "chance"}
        assert drawn["w/heads"].get_xdata().tolist() == [100, 300]
        assert drawn["w/heads"].get_ydata() == pytest.approx([0.1, 0.2])
        assert drawn["m/heads"].get_xdata().tolist() == [400]
        assert set(drawn["unpruned"].get_ydata()) == {0.0}


def test_sizes_that_are_not_there():
    sizes = {"/x/base": 1000, "/w/heads/1": 900}
    rows = bias(list(sizes), sizes)
    without = rows[(rows["metric"] != PARAMETERS) | (rows["store"] == "/x/base")]
    with pytest.raises(UsageError, match="/w/heads/1 does not say how many parameters its model has"):
        figures.draw(without, x="parameters", reference="/x/base")
    with pytest.raises(UsageError, match="nothing to draw beside the reference"):
        figures.draw(rows[rows["store"] == "/x/base"], x="parameters", reference="/x/base")


def test_bars():
    (axis,) = figures.draw(bias(["/x/one", "/x/two", "/x/three"])).axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["gender=female:male", "age=young:old"]
    heights = [bar.get_height() for bars in axis.containers for bar in bars]
    assert heights == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])
    assert axis.get_ylabel() == "SpEAT d"


# the lexical lens


def lens(models=("a", "b"), layers=LAYERS, ended=("D0",)):
    found = []
    for m, model in enumerate(models):
        for k, layer in enumerate(layers):
            settings = {"read_by": "the output layer" if layer.startswith("D") else "the decoder"}
            about = {"analysis": "lexical lens", "model": model, "corpus": "c", "unit": "utterance", "target": "all"}
            about |= {"layer": layer, "layer_index": k, "n": 6}
            for metric, value in METRICS.items():
                value += k / 100 + m
                ends = {"ci_low": value - 1, "ci_high": value + 1, "chance": 0.0}
                found.append(result_rows.row(metric, settings, **about, value=value, **ends))
            if layer in ended:
                found.append(result_rows.row(UNFINISHED.name, settings, **about, value=2.0))
    return result_rows.table(found)


def test_the_halves_of_the_lens_stand_side_by_side():
    figure = figures.draw(lens())
    assert len(figure.axes) == 2 * len(METRICS)
    panels = dict(zip([(metric, half) for metric in METRICS for half in (0, 1)], figure.axes, strict=True))
    for (metric, half), axis in panels.items():
        first, n = (3, 2) if half else (0, 3)
        for m, model in enumerate("ab"):
            expected = [METRICS[metric] + k / 100 + m for k in range(first, first + n)]
            assert list(lines(axis)[model].get_ydata()) == pytest.approx(expected)
    names = [[tick.get_text() for tick in axis.get_xticklabels()] for axis in figure.axes[-2:]]
    assert names == [["T0", "T1", "final"], ["D0", "D1"]]
    assert [axis.get_title() for axis in figure.axes[:2]] == ["read by the decoder", "read by the output layer"]


def test_the_lens_is_of_all_stimuli_though_groups_are_in_the_rows():
    rows = lens()
    groups = rows[rows["metric"] != UNFINISHED.name].assign(target="SSN", group="SSN", value=9.0)
    figure = figures.draw(result_rows.pd.concat([rows, groups], ignore_index=True))
    assert len(figure.axes) == 2 * len(METRICS)
    assert not [line for axis in figure.axes for line in axis.lines if 9.0 in line.get_ydata()]


def test_ended_searches_are_hollow():
    figure = figures.draw(lens(models=("a",)))
    hollow = [
        (k, list(line.get_xdata()))
        for k, axis in enumerate(figure.axes)
        for line in axis.lines
        if line.get_marker() == "o" and to_rgba(line.get_color()) == to_rgba("white")
    ]
    assert hollow == [(5, [0]), (7, [0])]  # D0 of both metrics of top words


# single stimuli


def single(model, metric, masker, k, value, **settings):
    about = {"analysis": "lexical", "model": model, "corpus": "c", "unit": "utterance", "layer": "D4", "layer_index": 9}
    return result_rows.row(
        metric.name, settings, **about, target=f"{masker}: u{k}", group=masker, item=f"u{k}", value=value, n=15
    )


def numbers(seed, n):
    return np.random.default_rng(seed).normal(-100 - 10 * seed, 20, n)


def stimuli(models=("a", "b"), maskers=("BMN3", "SSN"), n=9, metrics=(LIKELIHOOD, SURPLUS)):
    """Single stimuli, and the means that are not to be drawn."""
    rows, known = [], {}
    about = {"analysis": "lexical", "corpus": "c", "unit": "utterance", "layer": "D4", "layer_index": 9}
    for m, model in enumerate(models):
        for k, metric in enumerate(metrics):
            for g, masker in enumerate(maskers):
                values = numbers(m + 3 * k + 7 * g, n) / (1 if metric == LIKELIHOOD else 1000)
                known[model, metric, masker] = values
                rows += [single(model, metric, masker, f"{g}_{i}", value) for i, value in enumerate(values)]
                means = {"target": masker, "group": masker, "value": 12_345.0}
                rows.append(result_rows.row(metric.name, {}, **about, model=model, **means))
            rows.append(result_rows.row(metric.name, {}, **about, model=model, target="all", value=54_321.0))
    return result_rows.table(rows), known


def marks(axis) -> dict[float, tuple[float, float, float]]:
    """Place -> the three quartiles as they are drawn."""
    found = {}
    for collection in axis.collections:
        if isinstance(collection, LineCollection):
            for (x, low), (_, high) in collection.get_segments():
                found[round(float(x), 6)] = (low, high)
    middles = {
        round(float(line.get_xdata()[0]), 6): line.get_ydata()[0] for line in axis.lines if line.get_marker() == "o"
    }
    assert found.keys() == middles.keys()
    return {x: (found[x][0], middle, found[x][1]) for x, middle in middles.items()}


def quartiles(values):
    ordered = sorted(float(value) for value in values)

    def at(share):
        place = share * (len(ordered) - 1)
        below = math.floor(place)
        return ordered[below] + (place - below) * (ordered[min(below + 1, len(ordered) - 1)] - ordered[below])

    return at(0.25), at(0.5), at(0.75)


def bodies(axis) -> list[tuple[float, float, float]]:
    """(middle, lowest, highest) of each violin."""
    found = []
    for collection in axis.collections:
        if isinstance(collection, PolyCollection) and not isinstance(collection, LineCollection):
            points = collection.get_paths()[0].vertices
            x = points[:, 0]
            found.append((float(x.min() + x.max()) / 2, float(points[:, 1].min()), float(points[:, 1].max())))
    return sorted(found)


def names(axis) -> list[str]:
    return [text.get_text() for text in axis.get_xticklabels()]


@pytest.mark.parametrize("models", [("a",), ("a", "b"), ("a", "b", "c")])
def test_every_violin_and_its_quartiles(models):
    rows, known = stimuli(models)
    figure = figures.draw(rows)
    labels = ["log-likelihood", "frequency minus probability of the target word"]
    assert [axis.get_ylabel().replace("\n", " ") for axis in figure.axes] == labels
    for axis, metric in zip(figure.axes, (LIKELIHOOD, SURPLUS), strict=True):
        expected = {}
        for m, model in enumerate(models):
            for g, masker in enumerate(("all", "BMN3", "SSN")):
                parts = [known[model, metric, name] for name in ("BMN3", "SSN") if masker in ("all", name)]
                expected[g, m] = np.concatenate(parts)
        places = sorted(marks(axis))
        assert len(places) == len(expected)
        for x, key, body in zip(places, sorted(expected), bodies(axis), strict=True):
            assert round(x) == key[0]
            assert marks(axis)[x] == pytest.approx(quartiles(expected[key]))
            assert body[0] == pytest.approx(x, abs=1e-5)
            assert body[1:] == pytest.approx((min(expected[key]), max(expected[key])))
        low, high = axis.get_ylim()
        assert -1000 < low < high < 1000  # means are not drawn
    assert names(figure.axes[-1]) == ["all", "BMN3", "SSN"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(models)
    colours = [patch.get_facecolor() for patch in figure.legends[0].get_patches()]
    assert colours == [to_rgba(colour) for colour in COLOURS[: len(models)]]


def test_impossible_stimuli_are_counted():
    rows, _ = stimuli(("a",), n=6)
    chosen = rows["target"].isin(["SSN: u1_0", "SSN: u1_3"]) & (rows["metric"] == LIKELIHOOD.name)
    rows.loc[chosen, "value"] = -math.inf
    axis = figures.draw(rows).axes[0]
    assert [text.get_text() for text in axis.texts] == ["2 at −∞", "2 at −∞"]
    assert [round(text.xy[0]) for text in axis.texts] == [0, 2]
    assert all(math.isfinite(y) for body in bodies(axis) for y in body)


def test_quartiles_where_some_are_impossible():
    """The median of 1 number and 3 at -inf is -inf: a mark at the number would put the model above all others."""
    values = [-12.0, -math.inf, -math.inf, -math.inf]
    rows = result_rows.table(single("a", LIKELIHOOD, "no masker", k, value) for k, value in enumerate(values))
    (axis,) = figures.draw(rows).axes
    assert not [line for line in axis.lines if line.get_marker() == "o" and line.get_ydata()[0] == -12]


def test_only_impossible_ones():
    rows = result_rows.table(single("a", LIKELIHOOD, "SSN", k, -math.inf) for k in range(3))
    assert {text.get_text() for text in figures.draw(rows).axes[0].texts} == {"3 at −∞"}


@pytest.mark.parametrize("n", [1, 5])
def test_equal_numbers_need_no_violin(n):
    rows = result_rows.table(single("a", LIKELIHOOD, "SSN", k, -160.0) for k in range(n))
    (axis,) = figures.draw(rows).axes
    assert bodies(axis) == []
    assert set(marks(axis).values()) == {(-160.0, -160.0, -160.0)}


def test_a_corpus_without_maskers():
    rows, known = stimuli(("a",), maskers=("no masker",), metrics=(LIKELIHOOD,))
    (axis,) = figures.draw(rows).axes
    assert names(axis) == ["all"]
    (found,) = marks(axis).values()
    assert found == pytest.approx(quartiles(known["a", LIKELIHOOD, "no masker"]))


def test_settings_of_one_model_stand_apart():
    rows = result_rows.table(
        single("a", LIKELIHOOD, "SSN", k, -100.0 - k - 50 * v, split=part)
        for v, part in enumerate(("dev", "test"))
        for k in range(4)
    )
    figure = figures.draw(rows)
    found = [value[1] for _, value in sorted(marks(figure.axes[0]).items())]
    assert found == pytest.approx([-101.5, -151.5])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a, split dev", "a, split test"]


def test_models_of_one_name_have_short_names():
    rows, _ = stimuli(("small", "b/small"))
    assert [text.get_text() for text in figures.draw(rows).legends[0].get_texts()] == ["small", "b/small"]


def test_many_models_have_colours_of_their_own():
    rows, _ = stimuli(tuple("abcdefghij"), n=3)
    assert len({handle.get_facecolor() for handle in figures.draw(rows).legends[0].get_patches()}) == 10


@pytest.mark.slow
@pytest.mark.parametrize("suffix", figures.FORMATS)
def test_same_rows_give_the_same_bytes(tmp_path, suffix):
    for name, rows in (("violins", stimuli()[0]), ("bars", bias(["/x/one", "/x/two"])), ("lens", lens())):
        for copy in "xy":
            figures.draw(rows, tmp_path / f"{name}{copy}{suffix}")
        assert (tmp_path / f"{name}x{suffix}").read_bytes() == (tmp_path / f"{name}y{suffix}").read_bytes()
