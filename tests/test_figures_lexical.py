"""Violins of lexical results: where they stand, their quartiles, and what is counted instead of drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba

from layertool import figures, results
from layertool.errors import UsageError
from layertool.figures.panels import COLOURS
from layertool.result_rows import Result

LIKELIHOOD, SURPLUS = "log-likelihood", "frequency minus probability of the target"
HOW = "notimestamps, end token, lower case, 30 s window"


def row(model, metric, target, value, how=HOW):
    return Result(
        analysis="lexical", variant=f"{metric}, {how}", model=model, corpus="c", unit="utterance", layer="D4", layer_index=9,
        target=target, value=value, chance=-160.0, n=15,
    )  # fmt: skip


def numbers(seed, n):
    return np.random.default_rng(seed).normal(-100 - 10 * seed, 20, n)


def table(models=("a", "b"), maskers=("BMN3", "SSN"), n=9, metrics=(LIKELIHOOD, SURPLUS), how=HOW):
    """Single stimuli, and the means that are not to be drawn."""
    rows, known = [], {}
    for m, model in enumerate(models):
        for k, metric in enumerate(metrics):
            for g, masker in enumerate(maskers):
                values = numbers(m + 3 * k + 7 * g, n) / (1 if metric == LIKELIHOOD else 1000)
                known[model, metric, masker] = values
                rows += [
                    row(model, metric, f"{masker}: u{g}_{i}" if masker else f"u{i}", v, how)
                    for i, v in enumerate(values)
                ]
                rows.append(row(model, metric, masker or "all", 12_345.0, how))
            rows += [
                row(model, "Kendall tau-b", f"{maskers[0]}: u0_0", 0.5, how),
                row(model, metric, "all", 54_321.0, how),
            ]
    return results.table(dict.fromkeys(rows)), known


def marks(axis) -> dict[float, tuple[float, float, float]]:
    """Place -> the three quartiles as they are drawn."""
    lines = {}
    for collection in axis.collections:
        if isinstance(collection, LineCollection):
            for (x, low), (_, high) in collection.get_segments():
                lines[round(float(x), 6)] = (low, high)
    middles = {
        round(float(line.get_xdata()[0]), 6): line.get_ydata()[0] for line in axis.lines if line.get_marker() == "o"
    }
    assert lines.keys() == middles.keys()
    return {x: (lines[x][0], middle, lines[x][1]) for x, middle in middles.items()}


def quartiles(values):
    ordered = sorted(float(v) for v in values)

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
    rows, known = table(models)
    figure = figures.draw_distributions(rows)
    assert [axis.get_ylabel().replace("\n", " ").split(" of ")[0] for axis in figure.axes] == [
        "log-likelihood", "frequency minus probability",
    ]  # fmt: skip
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
    rows, _ = table(("a",), n=6)
    chosen = rows.index[(rows["target"].isin(["SSN: u1_0", "SSN: u1_3"])) & rows["variant"].str.startswith(LIKELIHOOD)]
    rows.loc[chosen, "value"] = -math.inf
    axis = figures.draw_distributions(rows).axes[0]
    assert [text.get_text() for text in axis.texts] == ["2 at −∞", "2 at −∞"]
    assert [round(text.xy[0]) for text in axis.texts] == [0, 2]
    assert all(math.isfinite(y) for body in bodies(axis) for y in body)


def test_quartiles_where_some_are_impossible():
    """The median of 1 number and 3 at -inf is -inf: a mark at the number would put the model above all others."""
    values = [-12.0, -math.inf, -math.inf, -math.inf]
    rows = results.table([row("a", LIKELIHOOD, f"no masker: u{k}", value) for k, value in enumerate(values)])
    (axis,) = figures.draw_distributions(rows).axes
    assert not [line for line in axis.lines if line.get_marker() == "o" and line.get_ydata()[0] == -12]


def test_only_impossible_ones():
    rows = results.table([row("a", LIKELIHOOD, f"SSN: u{k}", -math.inf) for k in range(3)])
    axis = figures.draw_distributions(rows).axes[0]
    assert {text.get_text() for text in axis.texts} == {"3 at −∞"}


@pytest.mark.parametrize("value", [-120.0, 0.0])
def test_one_stimulus(value, tmp_path):
    rows = results.table([row("a", LIKELIHOOD, "SSN: u0", value), row("a", LIKELIHOOD, "all", value)])
    (axis,) = figures.draw_distributions(rows).axes
    assert set(marks(axis).values()) == {(value, value, value)}
    assert bodies(axis) == []
    figures.distributions(rows, tmp_path / "x.png")


def test_equal_numbers_need_no_violin():
    rows = results.table([row("a", LIKELIHOOD, f"SSN: u{k}", -160.0) for k in range(5)])
    (axis,) = figures.draw_distributions(rows).axes
    assert bodies(axis) == []
    assert set(marks(axis).values()) == {(-160.0, -160.0, -160.0)}


def test_a_corpus_without_maskers():
    rows, known = table(("a",), maskers=("no masker",), metrics=(LIKELIHOOD,))
    (axis,) = figures.draw_distributions(rows).axes
    assert names(axis) == ["all"]
    (found,) = marks(axis).values()
    assert found == pytest.approx(quartiles(known["a", LIKELIHOOD, "no masker"]))


def test_variants_of_one_model_stand_apart():
    rows = results.table(
        [
            row("a", LIKELIHOOD, f"SSN: u{k}", -100.0 - k - 50 * v, how)
            for v, how in enumerate((HOW, HOW + ", dev part"))
            for k in range(4)
        ]
    )
    figure = figures.draw_distributions(rows)
    found = [value[1] for _, value in sorted(marks(figure.axes[0]).items())]
    assert found == pytest.approx([-101.5, -151.5])
    assert len({text.get_text() for text in figure.legends[0].get_texts()}) == 2


def test_models_of_one_name_have_short_names():
    rows, _ = table(("small", "b/small"))
    texts = [text.get_text() for text in figures.draw_distributions(rows).legends[0].get_texts()]
    assert texts == ["small", "b/small"]


def test_many_models_have_colours_of_their_own():
    rows, _ = table(tuple("abcdefghij"), n=3)
    handles = figures.draw_distributions(rows).legends[0].get_patches()
    assert len({handle.get_facecolor() for handle in handles}) == 10


@pytest.mark.parametrize("kind", ["means", "others", "none"])
def test_nothing_to_draw(kind):
    rows, _ = table()
    if kind == "means":
        rows = rows[~rows["target"].str.contains(":")].assign(target="all")
    elif kind == "others":
        rows = rows[rows["variant"].str.startswith("Kendall")]
    else:
        rows = rows.iloc[:0]
    with pytest.raises(UsageError, match="to draw"):
        figures.draw_distributions(rows)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", figures.FORMATS)
def test_same_rows_give_the_same_bytes(tmp_path, suffix):
    rows, _ = table()
    for name in "xy":
        figures.distributions(rows, tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"x{suffix}").read_bytes() == (tmp_path / f"y{suffix}").read_bytes()
    with pytest.raises(UsageError, match="no known figure format"):
        figures.distributions(rows, tmp_path / "x.bmp")
