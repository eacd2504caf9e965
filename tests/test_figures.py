"""Figures show the numbers of the rows, all of them and nothing else; checked on matplotlib's own objects."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from layertool import figures, results
from layertool.errors import UsageError
from layertool.figures.panels import COLOURS
from layertool.result_rows import is_matrix

BASE = [f"C{k}" for k in range(1, 8)] + [f"T{k}" for k in range(13)]
LARGE = [f"T{k}" for k in range(25)]
INTERVAL = 0.05


@pytest.fixture(autouse=True)
def _close_all():
    yield
    plt.close("all")


def rows(layers, target="word", top=0.5, ci=INTERVAL, **fields) -> list[dict]:
    """A store's rows for one target; every value, interval and layer index follows from ``top``."""
    known = {"analysis": "cca", "variant": "pwcca, both directions", "model": "org/base", "corpus": "c", "unit": "word"}
    values = [top + 0.01 * k for k in range(len(layers))]
    return [
        vars(results.Result(**{**known, "chance": 0.1, "store": "/s/base", **fields}, layer=layer, layer_index=k, target=target,
                            value=v, ci_low=None if ci is None else v - ci, ci_high=None if ci is None else v + ci))
        for k, (layer, v) in enumerate(zip(layers, values, strict=True))
    ]  # fmt: skip


def table(*parts) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part], columns=results.COLUMNS)


def matrix(layers, others, other="", scale=1.0, **fields) -> list[dict]:
    """value = scale * (index of layer + index of other layer / 100) / 30"""
    prefix = f"{other}:" if other else ""
    out = []
    for i, layer in enumerate(layers):
        for j, name in enumerate(others):
            (row,) = rows(
                [layer], prefix + name, ci=None, **{"analysis": "cka", "variant": "linear", "chance": None, **fields}
            )
            out.append(row | {"layer_index": i, "value": scale * (i + j / 100) / 30})
    return out


def lines(axis) -> dict:
    return {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}


def tick_names(axis) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def legend_names(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def maps(figure):
    return [axis for axis in figure.axes if axis.images]


def bars(figure):
    return [axis for axis in figure.axes if not axis.images]


# curves over layers


def test_a_curve_is_its_values_and_a_band_its_intervals():
    (axis,) = figures.draw_layer_curves(table(rows(BASE))).axes
    drawn = lines(axis)
    assert set(drawn) == {"base", "chance"}
    values = np.array([0.5 + 0.01 * k for k in range(20)])
    np.testing.assert_allclose(drawn["base"].get_xydata(), np.column_stack([np.arange(20), values]))
    (band,) = axis.collections
    corners = {(round(x), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(k, round(v + side, 6)) for k, v in enumerate(values) for side in (-INTERVAL, INTERVAL)}
    assert tick_names(axis.xaxis) == BASE
    assert axis.get_ylim() == (0, 1)
    assert axis.get_title() == ""
    assert axis.get_ylabel().replace("\n", " ") == "cca: pwcca, both directions (word)"


def test_rows_may_come_in_any_order_and_lack_columns():
    shuffled = table(rows(BASE)).sample(frac=1, random_state=0)
    (axis,) = figures.draw_layer_curves(shuffled[figures.table.REQUIRED]).axes
    np.testing.assert_allclose(lines(axis)["base"].get_ydata(), [0.5 + 0.01 * k for k in range(20)])
    assert set(lines(axis)) == {"base"}
    assert not axis.collections


def test_layers_of_unlike_stores_line_up_by_name():
    other = ["C1", "T0", "T6", "T12", "T24", "final"]
    (axis,) = figures.draw_layer_curves(
        table(rows(other, model="other", store="/s/other"), rows([*BASE, "final", "D0"]), rows(["mel"], model="mel"))
    ).axes
    names = [*BASE, "T24", "final", "D0"]
    assert tick_names(axis.xaxis) == names
    assert list(lines(axis)["other"].get_xdata()) == [names.index(layer) for layer in other]
    assert set(lines(axis)["mel"].get_ydata()) == {0.5}
    assert list(lines(axis)["mel"].get_xdata()) == [0, 1]  # of the axes: across the whole panel
    spans = [patch for patch in axis.patches if patch.get_height()]
    assert [(s.get_y(), s.get_height()) for s in spans] == [(pytest.approx(0.45), pytest.approx(2 * INTERVAL))]


def test_a_part_of_the_layers_numbered_anew_does_not_disturb_the_order():
    figure = figures.draw_layer_curves(table(rows(["T5", "T1"][::-1], "phone"), rows(BASE)))
    assert tick_names(figure.axes[0].xaxis) == BASE
    assert list(lines(figure.axes[0])["base"].get_xdata()) == [BASE.index("T1"), BASE.index("T5")]


def test_layers_without_a_convention_keep_the_order_of_their_index():
    (axis,) = figures.draw_layer_curves(table(rows(["stem", "T0", "zebra", "ape"]))).axes
    assert tick_names(axis.xaxis) == ["stem", "T0", "zebra", "ape"]


def test_one_layer_of_a_network_is_a_point_with_its_interval():
    (axis,) = figures.draw_layer_curves(table(rows(BASE), rows(["T3"], model="m/x", store="/s/x"))).axes
    assert lines(axis)["x"].get_xydata().tolist() == [[BASE.index("T3"), 0.5]]
    (segment,) = axis.collections[1].get_segments()
    np.testing.assert_allclose(segment, [[10, 0.45], [10, 0.55]])


def test_only_acoustic_features_are_points():
    (axis,) = figures.draw_layer_curves(table(*(rows([n], model=n, store=n) for n in ("mel", "mfcc")))).axes
    assert tick_names(axis.xaxis) == ["mel", "mfcc"]
    assert list(lines(axis)["mfcc"].get_xdata()) == [1]


def test_missing_numbers_leave_gaps():
    messy = table(rows(BASE))
    messy.loc[3, "value"] = None
    messy.loc[10, ["ci_low", "ci_high"]] = None
    messy["chance"] = None
    (axis,) = figures.draw_layer_curves(messy).axes
    assert set(lines(axis)) == {"base"}
    assert np.isnan(lines(axis)["base"].get_ydata()[3])
    assert len(axis.collections[0].get_paths()) == 2
    (axis,) = figures.draw_layer_curves(table(rows(BASE, ci=None))).axes
    assert not axis.collections


def test_chance_is_one_grey_line_or_one_line_for_each():
    near = table(rows(LARGE, chance=0.1), rows(LARGE, model="x", store="/x", chance=0.105))
    (axis,) = figures.draw_layer_curves(near).axes
    assert set(lines(axis)["chance"].get_ydata()) == {0.105}
    far = table(
        rows(LARGE, chance=0.1), rows(LARGE, model="x", store="/x", chance=0.3), rows(["mel"], model="mel", chance=0.2)
    )
    figure = figures.draw_layer_curves(far)
    (axis,) = figure.axes
    levels = {line.get_color(): set(line.get_ydata()) for line in axis.lines if line.get_label().startswith("_")}
    assert levels == {figures.draw.COLOURS[0]: {0.1}, figures.draw.COLOURS[1]: {0.3}, figures.draw.COLOURS[2]: {0.2}}
    assert legend_names(figure) == ["base", "x", "mel", "chance of each curve"]


@pytest.mark.parametrize(
    ("values", "variant", "limits"),
    [
        ([0.1, 0.4], "accuracy", (0, 1)),
        ([0.1, 1.03], "accuracy", (0, 1.03)),
        ([0.1, 6.0], "clusters", (0, 6.3)),
        ([0.1, 0.4], "nats, clusters", (0, 0.42)),
        ([-0.1, 0.9], "held out", (-0.15, 1)),
        ([-3.0, -1.0], "log likelihood", (-3.1, -0.9)),
        ([0.0, 0.0], "accuracy", (0, 1)),
        ([0.01, 0.1], "average precision", (0, 0.105)),
        ([-1e-16, 0.5], "cka", (0, 1)),
        ([None, None], "cka", (0, 1)),
    ],
)
def test_limits(values, variant, limits):
    part = table(rows(["T0", "T1"], ci=None, variant=variant, chance=None)).assign(value=values)
    (axis,) = figures.draw_layer_curves(part).axes
    assert axis.get_ylim() == pytest.approx(limits)


def test_panels_of_one_quantity_share_their_limits():
    figure = figures.draw_layer_curves(table(rows(BASE, "word", top=1), rows(BASE, "phone", top=5)))
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() == pytest.approx((0, (5.19 + INTERVAL) * 1.05))


@pytest.mark.parametrize(("n", "grid"), [(1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (9, (3, 3)), (10, (3, 4))])
def test_many_panels_make_a_grid(n, grid):
    figure = figures.draw_layer_curves(table(*(rows(BASE, f"target {k}") for k in range(n))))
    assert len(figure.axes) == n
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == grid
    assert [axis.get_title() for axis in figure.axes] == ([f"target {k}" for k in range(n)] if n > 1 else [""])
    assert sum(axis.get_xlabel() == "layer" for axis in figure.axes) == grid[1]
    assert sum(axis.get_ylabel() != "" for axis in figure.axes) == grid[0]


def test_titles_say_what_differs():
    def of(*fields):
        figure = figures.draw_layer_curves(table(*(rows(BASE, **f) for f in fields)))
        return [axis.get_title() for axis in figure.axes], figure.axes[0].get_ylabel().replace("\n", " ")

    assert of({"target": "phone", "unit": "phone", "variant": "accuracy, 6 folds"},
              {"target": "word", "variant": "accuracy, 6 folds, long words"}) == (
        ["phone", "word\nlong words"], "cca: accuracy, 6 folds")  # fmt: skip
    assert of({"variant": "accuracy"}, {"variant": "accuracy, shuffled"})[0] == ["accuracy", "accuracy, shuffled"]
    assert of({"unit": "word"}, {"unit": "phone"}) == (["word", "phone"], "cca: pwcca, both directions (word)")
    long = "every single word of this one variant goes on and on until nobody reads it any more"
    (title, other), label = of({"variant": long}, {"variant": "b", "analysis": "mi"})
    assert title.replace("\n", " ") == f"cca, {long}"
    assert (title.count("\n"), other, label) == (2, "mi, b", "value (word)")


@pytest.mark.parametrize(
    ("stores", "names"),
    [
        ([{"model": "a/base"}, {"model": "/path/large/"}], ["base", "large"]),
        ([{"model": "a/m", "step": 1000}, {"model": "a/m", "step": 20000}], ["m, step 1000", "m, step 20000"]),
        (
            [{"model": "a/m", "revision": "0123456789" * 4}, {"model": "a/m", "revision": "main"}],
            ["m, 01234567", "m, main"],
        ),
        ([{"model": "a/m", "store": "/x/first"}, {"model": "b/m", "store": "/x/second"}], ["m, first", "m, second"]),
        (
            [{"model": "m", "step": s, "store": f"/{run}/s"} for s in (1, 2) for run in "ab"],
            [f"m, step {s}, /{run}/s" for s in (1, 2) for run in "ab"],
        ),
    ],
)
def test_curves_are_called_by_what_tells_them_apart(stores, names):
    figure = figures.draw_layer_curves(table(*(rows(LARGE, **store) for store in stores)))
    assert legend_names(figure) == [*names, "chance"]


def test_few_curves_have_plain_colours_and_many_a_colour_map():
    def drawn(n):
        figure = figures.draw_layer_curves(table(*(rows(BASE, model=f"m{k}", store=f"/s/{k}") for k in range(n))))
        return figure, [line.get_color() for name, line in lines(figure.axes[0]).items() if name != "chance"]

    figure, colours = drawn(7)
    assert tuple(colours) == figures.draw.COLOURS
    figure, colours = drawn(12)
    assert len(set(colours)) == 12
    assert tuple(colours[0]) == matplotlib.colormaps["viridis"](0.0)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= figure.axes[0].get_window_extent().x1  # beside the panel
    assert box.x1 <= figure.bbox.x1


# layer by layer maps


def test_a_map_has_the_values_of_the_rows_in_layer_order():
    shuffled = table(matrix(LARGE[:13], LARGE[:13])).sample(frac=1, random_state=1)
    figure = figures.draw_heatmaps(shuffled)
    (axis,) = maps(figure)
    (bar,) = bars(figure)
    assert tick_names(axis.xaxis) == tick_names(axis.yaxis) == LARGE[:13]
    texts = {text.get_position(): text.get_text() for text in axis.texts}
    assert texts == {(i, j): f"{(i + j / 100) / 30:.2f}" for i in range(13) for j in range(13)}
    colours = axis.images[0].get_array()
    np.testing.assert_allclose(colours[4, 12], matplotlib.colormaps["viridis"]((12 + 0.04) / 30))
    assert axis.get_aspect() == 1
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()) == ("base", "base", "")
    assert bar.get_ylim() == (0, 1)
    assert bar.get_ylabel().replace("\n", " ") == "cka: linear (word rows)"
    box = axis.get_window_extent()
    assert box.width == pytest.approx(box.height)


def test_large_maps_have_no_numbers_and_missing_cells_are_grey():
    part = table(matrix(LARGE, LARGE))
    part = part[~((part["layer"] == "T3") & (part["target"] == "T7"))]
    part.loc[part["layer"].eq("T4") & part["target"].eq("T8"), "value"] = None
    (axis,) = maps(figures.draw_heatmaps(part, "similarity"))
    assert not axis.texts
    colours = axis.images[0].get_array()
    grey = {
        (row, column)
        for row, column in zip(*np.nonzero((colours == 0.8 * np.ones(4) + [0, 0, 0, 0.2]).all(-1)), strict=True)
    }
    assert grey == {(7, 3), (8, 4)}


def test_maps_within_and_between_stores_share_a_bar():
    large = {"model": "org/large", "store": "/deep/large-store"}
    part = table(
        matrix(LARGE[:13], LARGE[:13]), matrix(LARGE[:13], LARGE, "large-store"), matrix(LARGE, LARGE, **large),
        matrix(LARGE[:13], ["D0", "T10", "C2", "T9"], "other: elsewhere"),
    )  # fmt: skip
    figure = figures.draw_heatmaps(part)
    assert len(bars(figure)) == 1
    axes = maps(figure)
    assert [(a.get_xlabel(), a.get_ylabel().replace("\n", " ")) for a in axes] == [
        ("base", "base"), ("base", "large"), ("large", "large"), ("base", "other: elsewhere")]  # fmt: skip
    assert [a.images[0].get_array().shape[:2] for a in axes] == [(13, 13), (25, 13), (25, 25), (4, 13)]
    assert tick_names(axes[3].yaxis) == ["C2", "T9", "T10", "D0"]
    assert bool(axes[0].texts) > bool(axes[1].texts)


def test_each_analysis_has_its_own_scale():
    part = table(
        matrix(BASE, BASE), matrix(BASE, BASE, unit="phone"), matrix(BASE, BASE, variant="other", scale=-1),
        matrix(BASE, BASE, analysis="procrustes", scale=6),
    )  # fmt: skip
    figure = figures.draw_heatmaps(part)
    assert [a.get_title() for a in maps(figure)] == ["word", "phone", "", ""]
    highest = (19 + 0.19) / 30
    assert [b.get_ylim() for b in bars(figure)] == [
        (0, 1),
        pytest.approx((-highest, 1)),
        pytest.approx((0, 6 * highest)),
    ]
    assert [b.get_ylabel() for b in bars(figure)] == [
        "cka: linear",
        "cka: other (word rows)",
        "procrustes: linear (word rows)",
    ]
    figure = figures.draw_heatmaps(part, "similarity")
    assert {b.get_ylabel() for b in bars(figure)} == {"similarity"}
    assert [t.get_text() for t in figure.texts] == ["cka, linear", "cka, other", "procrustes, linear"]


def test_nothing_overlaps_in_a_figure_of_maps():
    part = table(
        matrix(BASE, BASE),
        matrix(BASE, ["mel"], "mel"),
        matrix(["T1", "T2"], BASE, "x"),
        matrix(BASE, BASE, variant="b"),
    )
    figure = figures.draw_heatmaps(part, "a label that is so long that it needs several lines beside a bar")
    figure.canvas.draw()
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_is_matrix():
    assert is_matrix(table(matrix(["T0", "T1"], ["T0", "T1"])))
    assert is_matrix(table(matrix(["mel"], ["T0", "T1", "T2"], "a:b")))
    assert not is_matrix(table(matrix(["mel", "T0", "T1"], ["T0", "T1"], "a:b")))  # two curves
    assert is_matrix(table(matrix(["stem", "head"], ["stem", "head"])))
    assert not is_matrix(table(rows(BASE, "word"), rows(BASE, "phone")))
    assert not is_matrix(table(matrix(BASE, ["mel"], "mel")))
    assert not is_matrix(table(rows(BASE, "T1"), rows(BASE, "T2", unit="phone")))
    with pytest.raises(UsageError, match="no layer by layer table: draw them as curves"):
        figures.draw_heatmaps(table(rows(BASE)))


# series


def run(steps, layers=LARGE[:13], **fields) -> list[dict]:
    return [r for k, s in enumerate(steps) for r in rows(layers, step=s, top=0.1 * k, store=f"/runs/{s}", **fields)]


def test_a_series_has_a_line_for_each_layer():
    figure = figures.draw_series(table(run([300, 100, 200])))
    (axis,) = figure.axes
    drawn = lines(axis)
    assert list(drawn) == [*LARGE[:13], "chance"] == legend_names(figure)
    np.testing.assert_allclose(drawn["T4"].get_xydata(), [[100, 0.14], [200, 0.24], [300, 0.04]])
    assert axis.get_xscale() == "linear"
    assert axis.get_xlabel() == "step"
    assert tuple(drawn["T0"].get_color()) == matplotlib.colormaps["viridis"](0.0)
    band = axis.collections[4].get_paths()[0].vertices
    assert {(round(x), round(y, 6)) for x, y in band} == {
        (x, round(y + side, 6)) for x, y in drawn["T4"].get_xydata() for side in (-INTERVAL, INTERVAL)
    }
    assert (drawn["chance"].get_linestyle(), set(drawn["chance"].get_ydata())) == ("--", {0.1})


def test_many_layers_make_a_colour_bar():
    figure = figures.draw_series(table(run([1, 2, 3], BASE), run([1, 2, 3], BASE, target="phone", chance=None)))
    *panels, bar = figure.axes
    assert [axis.get_title() for axis in panels] == ["word", "phone"]
    assert tick_names(bar.yaxis) == BASE
    assert legend_names(figure) == ["chance"]
    assert "chance" not in lines(panels[1])


def test_the_chance_of_a_series_is_the_highest_and_says_so():
    part = table(run([1, 2]))
    part["chance"] = part["layer_index"] / 20
    figure = figures.draw_series(part)
    assert set(lines(figure.axes[0])["highest chance of a layer"].get_ydata()) == {0.6}


@pytest.mark.parametrize(
    ("steps", "scale"),
    [
        ([1, 100], "linear"),
        ([1, 10, 101], "log"),
        ([0, 10, 1001], "symlog"),
        ([0, 10, 100], "linear"),
        ([-5, 1, 1000], "linear"),
    ],
)
def test_far_steps_are_on_a_logarithmic_axis(steps, scale):
    (axis,) = figures.draw_series(table(run(steps))).axes
    assert axis.get_xscale() == scale
    if scale == "symlog":
        assert list(axis.get_xticks()) == [0, 10, 100, 1000]


def test_lines_of_models_have_colours_of_their_own():
    part = table(*(run([0, 2, 4], [name]) for name in ("hubert-slim", "hubert-small", "wav2vec2-slim")))
    (axis,) = figures.draw_series(part).axes
    drawn = {name: line.get_color() for name, line in lines(axis).items() if "-" in name}
    assert list(drawn.values()) == list(COLOURS[:3])
    (axis,) = figures.draw_series(table(run([0, 2, 4], ["T0", "T1", "T2"]))).axes
    assert not {lines(axis)[name].get_color() for name in ("T0", "T1", "T2")} & set(COLOURS)


def test_steps_are_whole_on_the_axis():
    (axis,) = figures.draw_series(table(run([0, 2, 4]))).axes
    assert all(place == round(place) for place in axis.get_xticks())


def test_a_panel_alone_says_what_it_is_of_and_shows_markers_at_its_end_whole():
    (axis,) = figures.draw_layer_curves(table(rows(BASE, "mel", top=1.0, ci=None)), "CCA similarity").axes
    assert axis.get_title() == "mel"
    assert axis.get_ylabel() == "CCA similarity"
    assert not lines(axis)["base"].get_clip_on()
    (axis,) = figures.draw_layer_curves(table(rows(BASE, "mel"))).axes
    assert axis.get_title() == ""
    assert "mel" in axis.get_ylabel()


def test_other_columns_and_several_models():
    part = table(run([1, 2], model="a/x"), run([1, 2], model="b/y"))
    figure = figures.draw_series(part)
    assert [axis.get_title() for axis in figure.axes] == ["x", "y"]
    part = table(run([1, 2])).assign(learning_rate=lambda p: p["step"] / 1e4, step=None)
    (axis,) = figures.draw_series(part, "learning_rate").axes
    assert axis.get_xlabel() == "learning rate"
    np.testing.assert_allclose(lines(axis)["T0"].get_xdata(), [1e-4, 2e-4])


@pytest.mark.parametrize(
    ("part", "x", "message"),
    [
        (run([1, 2]), "epoch", r"no column 'epoch': give a numeric one that it has, such as step or n"),
        (run([1, 2]), "model", r"column 'model' of the table has text in it"),
        (rows(BASE), "step", r"no result has a step: a series needs results that have one each"),
        (run([7]), "step", r"all results have step 7: a series needs results of two or more"),
        ([*run([1, 2]), *rows(["mel"], model="mel")], "step", r"layer mel of mel has no step: leave such rows out"),
        ([*run([1, 2]), *run([1, 2], seed=3)], "step", r"layer T0 of base, step 1 has 2 results for .* \(they differ in seed\): keep one"),
    ],
)  # fmt: skip
def test_a_series_says_what_it_needs(part, x, message):
    with pytest.raises(UsageError, match=message):
        figures.draw_series(table(part), x)


# files and mistakes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "part"),
    [
        (figures.layer_curves, rows(BASE)),
        (figures.heatmaps, matrix(BASE, BASE)),
        (figures.series, run([1, 2])),
    ],
    ids=["curves", "heatmaps", "series"],
)
@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_same_rows_give_the_same_bytes(tmp_path, write, part, suffix, magic):
    first, second = (write(table(part), tmp_path / "deep" / f"{name}{suffix}") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(magic)
    assert sorted(path.name for path in first.parent.iterdir()) == [f"a{suffix}", f"b{suffix}"]
    assert not plt.get_fignums()
    with pytest.raises(UsageError, match=r"x.bmp has no known figure format: end it in .png, .pdf, .svg"):
        write(table(part), tmp_path / "x.bmp")


def test_mistakes_are_named():
    with pytest.raises(UsageError, match="there are no results to draw"):
        figures.draw_layer_curves(table([]))
    with pytest.raises(UsageError, match="the table has no column 'target'"):
        figures.draw_layer_curves(table(rows(BASE)).drop(columns="target"))
    with pytest.raises(
        UsageError, match=r"layer T0 of base has 2 results for cca, .* \(they differ in n, seed\): keep one"
    ):
        figures.draw_layer_curves(table(rows(LARGE), rows(LARGE, seed=1, n=5)))
    with pytest.raises(UsageError, match=r"they differ in value"):
        figures.draw_layer_curves(table(rows(LARGE), rows(LARGE, top=0.2)))
    figures.draw_layer_curves(table(rows(LARGE), rows(LARGE)))  # the same file twice is no mistake
