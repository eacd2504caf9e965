"""Figures show the numbers of the rows, all of them and nothing else; checked on matplotlib's own objects."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from layertool import figures, outline, result_rows
from layertool.errors import UsageError
from layertool.figures.canvas import MARKERS
from layertool.figures.specification import COLOURS, DASHES, specifications
from layertool.result_rows import is_matrix

BASE = [f"C{k}" for k in range(1, 8)] + [f"T{k}" for k in range(13)]
LARGE = [f"T{k}" for k in range(25)]
INTERVAL = 0.05


def rows(layers, target="word", top=0.5, ci=INTERVAL, metric="pwcca", settings=None, **fields) -> list:
    """A store's rows for one target; every value, interval and layer index follows from ``top``."""
    known = {"analysis": "cca", "model": "org/base", "corpus": "c", "unit": "word", "chance": 0.1, "store": "/s/base"}
    return [
        result_rows.row(
            metric,
            settings or {},
            **{**known, **fields},
            layer=layer,
            layer_index=k,
            target=target,
            value=top + 0.01 * k,
            ci_low=None if ci is None else top + 0.01 * k - ci,
            ci_high=None if ci is None else top + 0.01 * k + ci,
        )
        for k, layer in enumerate(layers)
    ]


def table(*parts) -> pd.DataFrame:
    return result_rows.table(row for part in parts for row in part)


def matrix(layers, others, other="", scale=1.0, metric="linear cka", **fields) -> list:
    """value = scale * (index of layer + index of other layer / 100) / 30"""
    prefix = f"{other}:" if other else ""
    known = {"analysis": "cka", "model": "org/base", "corpus": "c", "unit": "word", "store": "/s/base"}
    return [
        result_rows.row(
            metric,
            {},
            **{**known, **fields},
            layer=layer,
            layer_index=i,
            target=prefix + name,
            value=scale * (i + j / 100) / 30,
        )
        for i, layer in enumerate(layers)
        for j, name in enumerate(others)
    ]


def run(steps, layers=LARGE[:13], **fields) -> list:
    return [r for k, s in enumerate(steps) for r in rows(layers, step=s, top=0.1 * k, store=f"/runs/{s}", **fields)]


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
    (axis,) = figures.draw(table(rows(BASE))).axes
    drawn = lines(axis)
    assert set(drawn) == {"base", "chance"}
    values = np.array([0.5 + 0.01 * k for k in range(20)])
    np.testing.assert_allclose(drawn["base"].get_xydata(), np.column_stack([np.arange(20), values]))
    (band,) = axis.collections
    corners = {(round(x), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(k, round(v + side, 6)) for k, v in enumerate(values) for side in (-INTERVAL, INTERVAL)}
    assert tick_names(axis.xaxis) == BASE
    assert axis.get_ylim() == (0, 1)
    assert axis.get_title() == "word"
    assert axis.get_ylabel().replace("\n", " ") == "PWCCA, mean of both directions"
    assert not drawn["base"].get_clip_on(), "markers at the end of the axis are whole"


def test_rows_may_come_in_any_order_and_lack_columns():
    shuffled = table(rows(BASE)).sample(frac=1, random_state=0)
    (axis,) = figures.draw(shuffled[outline.REQUIRED]).axes
    np.testing.assert_allclose(lines(axis)["base"].get_ydata(), [0.5 + 0.01 * k for k in range(20)])
    assert set(lines(axis)) == {"base"}
    assert not axis.collections


def test_layers_of_unlike_stores_line_up_by_name():
    other = ["C1", "T0", "T6", "T12", "T24", "final"]
    (axis,) = figures.draw(
        table(rows(other, model="other", store="/s/other"), rows([*BASE, "final", "D0"]), rows(["mel"], model="mel"))
    ).axes
    names = [*BASE, "T24", "final", "D0"]
    assert tick_names(axis.xaxis) == names
    assert list(lines(axis)["other"].get_xdata()) == [names.index(layer) for layer in other]
    assert set(lines(axis)["mel"].get_ydata()) == {0.5}
    assert list(lines(axis)["mel"].get_xdata()) == [0, 1]  # of the axes: across the whole panel
    spans = [patch for patch in axis.patches if patch.get_height()]
    assert [(s.get_y(), s.get_height()) for s in spans] == [(pytest.approx(0.45), pytest.approx(2 * INTERVAL))]


def test_models_of_different_depth_meet_at_their_ends():
    deep = rows(LARGE, model="large", store="/s/large")
    (axis,) = figures.draw(table(rows(LARGE[:13]), deep, rows(["mel"], model="mel")), x="depth").axes
    assert lines(axis)["base"].get_xdata() == pytest.approx(np.arange(13) / 12)
    assert lines(axis)["large"].get_xdata() == pytest.approx(np.arange(25) / 24)
    assert axis.get_xlabel() == "relative depth"


def test_a_part_of_the_layers_numbered_anew_does_not_disturb_the_order():
    figure = figures.draw(table(rows(["T5", "T1"][::-1], "phone"), rows(BASE)))
    assert tick_names(figure.axes[0].xaxis) == BASE
    assert list(lines(figure.axes[0])["base"].get_xdata()) == [BASE.index("T1"), BASE.index("T5")]


def test_layers_without_a_convention_keep_the_order_of_their_index():
    (axis,) = figures.draw(table(rows(["stem", "T0", "zebra", "ape"]))).axes
    assert tick_names(axis.xaxis) == ["stem", "T0", "zebra", "ape"]


def test_one_layer_of_a_network_is_a_point_with_its_interval():
    (axis,) = figures.draw(table(rows(BASE), rows(["T3"], model="m/x", store="/s/x"))).axes
    assert lines(axis)["x"].get_xydata().tolist() == [[BASE.index("T3"), 0.5]]
    (segment,) = axis.collections[1].get_segments()
    np.testing.assert_allclose(segment, [[10, 0.45], [10, 0.55]])


def test_only_acoustic_features_are_bars():
    figure = figures.draw(table(*(rows([n], model=n, store=n) for n in ("mel", "mfcc"))))
    assert [bar.get_height() for bars_of in figure.axes[0].containers for bar in bars_of] == [0.5, 0.5]
    assert legend_names(figure) == ["mel", "mfcc"]


def test_missing_numbers_leave_gaps():
    messy = table(rows(BASE))
    messy.loc[3, "value"] = None
    messy.loc[10, ["ci_low", "ci_high"]] = None
    messy["chance"] = None
    (axis,) = figures.draw(messy).axes
    assert set(lines(axis)) == {"base"}
    assert np.isnan(lines(axis)["base"].get_ydata()[3])
    assert len(axis.collections[0].get_paths()) == 2
    (axis,) = figures.draw(table(rows(BASE, ci=None))).axes
    assert not axis.collections


def test_chance_is_one_grey_line_or_one_line_for_each():
    near = table(rows(LARGE, chance=0.1), rows(LARGE, model="x", store="/x", chance=0.105))
    (axis,) = figures.draw(near).axes
    assert set(lines(axis)["chance"].get_ydata()) == {0.105}
    far = table(
        rows(LARGE, chance=0.1), rows(LARGE, model="x", store="/x", chance=0.3), rows(["mel"], model="mel", chance=0.2)
    )
    figure = figures.draw(far)
    (axis,) = figure.axes
    found = {
        line.get_color(): set(line.get_ydata()) for line in axis.lines if line.get_label() == "chance of each curve"
    }
    assert found == {COLOURS[0]: {0.1}, COLOURS[1]: {0.3}, COLOURS[2]: {0.2}}
    assert legend_names(figure) == ["base", "x", "mel", "chance of each curve"]


@pytest.mark.parametrize(
    ("values", "of", "limits"),
    [
        ([0.1, 0.4], {}, (0, 1)),
        ([0.1, 1.03], {}, (0, 1.03)),
        ([0.1, 6.0], {"analysis": "my own"}, (0, 6.3)),
        ([0.1, 0.4], {"analysis": "mi", "metric": "mi"}, (0, 0.42)),  # nats
        ([-0.1, 0.9], {}, (-0.15, 1)),
        ([-3.0, -1.0], {"analysis": "my own"}, (-3.1, -0.9)),
        ([0.0, 0.0], {}, (0, 1)),
        ([0.01, 0.1], {}, (0, 0.105)),
        ([-1e-16, 0.5], {}, (0, 1)),
        ([None, None], {}, (0, 1)),
    ],
)
def test_limits(values, of, limits):
    part = table(rows(["T0", "T1"], ci=None, chance=None, **of)).assign(value=values)
    (axis,) = figures.draw(part).axes
    assert axis.get_ylim() == pytest.approx(limits)


def test_panels_of_one_quantity_share_their_limits():
    figure = figures.draw(table(rows(BASE, "word", top=1), rows(BASE, "phone", top=5)))
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() == pytest.approx((0, (5.19 + INTERVAL) * 1.05))


@pytest.mark.parametrize(("n", "grid"), [(1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (9, (3, 3)), (10, (3, 4))])
def test_many_panels_make_a_grid(n, grid):
    figure = figures.draw(table(*(rows(BASE, f"target {k}") for k in range(n))))
    assert len(figure.axes) == n
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == grid
    assert [axis.get_title() for axis in figure.axes] == [f"target {k}" for k in range(n)]
    assert sum(axis.get_xlabel() == "layer" for axis in figure.axes) == grid[1]
    assert sum(axis.get_ylabel() != "" for axis in figure.axes) == grid[0]


def test_metrics_stand_in_rows_and_their_targets_side_by_side():
    parts = [rows(BASE, target, metric=metric) for target in ("phone", "word") for metric in ("pwcca", "mean cca")]
    figure = figures.draw(table(*parts))
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (2, 2)
    said = [(axis.get_ylabel().replace("\n", " "), axis.get_title()) for axis in figure.axes]
    first = "PWCCA, mean of both directions"
    assert said == [(first, "phone"), (first, "word"), ("mean CCA", "phone"), ("mean CCA", "word")]


def test_titles_say_what_differs():
    def of(*fields):
        return [axis.get_title() for axis in figures.draw(table(*(rows(BASE, **f) for f in fields))).axes]

    one, other = {"folds": 6}, {"folds": 6, "shuffled": True}
    assert of({"target": "phone", "unit": "phone"}, {"target": "word"}) == ["phone", "word"]
    assert of({"settings": one}, {"settings": other}) == ["word", "shuffled"]
    assert of({"unit": "word"}, {"unit": "phone"}) == ["word", "phone"]
    (caption,) = [one.caption for one in specifications(table(rows(BASE, settings=one), rows(BASE, settings=other)))]
    assert caption == "word, word rows, folds 6"


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
    figure = figures.draw(table(*(rows(LARGE, **store) for store in stores)))
    assert legend_names(figure) == [*names, "chance"]


def test_labels_may_be_given():
    part = table(rows(BASE), rows(["baseline"], model="most frequent"), rows(BASE, model="x", store="/s/x"))
    assert legend_names(figures.draw(part, names=["one", "two"])) == ["one", "two", "most frequent", "chance"]
    with pytest.raises(UsageError, match="--names has 1 label for 2 stores: type one for each, in their order"):
        figures.draw(part, names=["one"])


def test_curves_are_told_apart_by_dash_and_marker():
    figure = figures.draw(table(*(rows(BASE, model=f"m{k}", store=f"/s/{k}") for k in range(6))))
    curves = [line for name, line in lines(figure.axes[0]).items() if name != "chance"]
    assert [line.get_marker() for line in curves] == list(MARKERS.values())[:6]
    assert len({str(line._dash_pattern) for line in curves}) == len(DASHES)
    shown = [(handle.get_marker(), str(handle._dash_pattern)) for handle in figure.legends[0].get_lines()[:6]]
    assert shown == [(line.get_marker(), str(line._dash_pattern)) for line in curves]


def test_few_curves_have_plain_colours_and_many_a_colour_map():
    def drawn(n):
        figure = figures.draw(table(*(rows(BASE, model=f"m{k}", store=f"/s/{k}") for k in range(n))))
        return figure, [line.get_color() for name, line in lines(figure.axes[0]).items() if name != "chance"]

    figure, colours = drawn(7)
    assert tuple(colours) == COLOURS
    figure, colours = drawn(12)
    assert len(set(colours)) == 12
    assert colours[0] == to_hex(matplotlib.colormaps["viridis"](0.0))
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= figure.axes[0].get_window_extent().x1  # beside the panel
    assert box.x1 <= figure.bbox.x1


def test_metrics_that_are_not_drawn_are_left_out_unless_there_are_no_others():
    both = table(*(rows(BASE, metric=metric, analysis="word segmentation") for metric in ("F1", "recall")))
    assert [axis.get_ylabel().replace("\n", " ") for axis in figures.draw(both).axes] == ["F1 of word boundaries"]
    alone = both[both["metric"] == "recall"]
    assert [axis.get_ylabel().replace("\n", " ") for axis in figures.draw(alone).axes] == ["recall of word boundaries"]


# layer by layer maps


def test_a_map_has_the_values_of_the_rows_in_layer_order():
    shuffled = table(matrix(LARGE[:13], LARGE[:13])).sample(frac=1, random_state=1)
    figure = figures.draw(shuffled)
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
    assert bar.get_ylabel() == "linear CKA"


def test_large_maps_have_no_numbers_and_missing_cells_are_grey():
    part = table(matrix(LARGE, LARGE))
    part = part[~((part["layer"] == "T3") & (part["target"] == "T7"))]
    part.loc[part["layer"].eq("T4") & part["target"].eq("T8"), "value"] = None
    (axis,) = maps(figures.draw(part))
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
        matrix(LARGE[:13], LARGE[:13]),
        matrix(LARGE[:13], LARGE, "large-store"),
        matrix(LARGE, LARGE, **large),
        matrix(LARGE[:13], ["D0", "T10", "C2", "T9"], "other: elsewhere"),
    )
    figure = figures.draw(part)
    assert len(bars(figure)) == 1
    axes = maps(figure)
    assert [(a.get_xlabel(), a.get_ylabel().replace("\n", " ")) for a in axes] == [
        ("base", "base"),
        ("base", "large"),
        ("large", "large"),
        ("base", "other: elsewhere"),
    ]
    assert [a.images[0].get_array().shape[:2] for a in axes] == [(13, 13), (25, 13), (25, 25), (4, 13)]
    assert tick_names(axes[3].yaxis) == ["C2", "T9", "T10", "D0"]
    assert bool(axes[0].texts) > bool(axes[1].texts)


def test_each_measure_has_its_own_scale():
    part = table(
        matrix(BASE, BASE),
        matrix(BASE, BASE, unit="phone"),
        matrix(BASE, BASE, metric="rbf cka", scale=-1),
        matrix(BASE, BASE, analysis="procrustes", metric="procrustes distance", scale=6),
    )
    figure = figures.draw(part)
    assert [a.get_title() for a in maps(figure)] == ["word", "phone", "", ""]
    highest = (19 + 0.19) / 30
    scales = [pytest.approx((0, 1)), pytest.approx((-highest, 1)), pytest.approx((0, 6 * highest))]
    assert [b.get_ylim() for b in bars(figure)] == scales
    assert [b.get_ylabel() for b in bars(figure)] == ["linear CKA", "RBF CKA", "Procrustes distance"]
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert titles == ["CKA: linear CKA", "CKA: RBF CKA", "Procrustes: Procrustes distance"]


def test_nothing_overlaps_in_a_figure_of_maps():
    part = table(
        matrix(BASE, BASE),
        matrix(BASE, ["mel", "T0"], "mel"),
        matrix(["T1", "T2"], BASE, "x"),
        matrix(BASE, BASE, metric="b"),
    )
    figure = figures.draw(part)
    figure.draw_without_rendering()
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


# series


def test_a_series_has_a_line_for_each_layer():
    figure = figures.draw(table(run([300, 100, 200])), x="step")
    (axis,) = figure.axes
    drawn = lines(axis)
    assert set(drawn) == {*LARGE[:13], "chance"}
    assert legend_names(figure) == [*LARGE[:13], "chance"]
    np.testing.assert_allclose(drawn["T4"].get_xydata(), [[100, 0.14], [200, 0.24], [300, 0.04]])
    assert axis.get_xscale() == "linear"
    assert axis.get_xlabel() == "step"
    assert drawn["T0"].get_color() == to_hex(matplotlib.colormaps["viridis"](0.0))
    band = axis.collections[4].get_paths()[0].vertices
    assert {(round(x), round(y, 6)) for x, y in band} == {
        (x, round(y + side, 6)) for x, y in drawn["T4"].get_xydata() for side in (-INTERVAL, INTERVAL)
    }
    assert set(drawn["chance"].get_ydata()) == {0.1}


def test_many_layers_make_a_colour_bar():
    figure = figures.draw(table(run([1, 2, 3], BASE), run([1, 2, 3], BASE, target="phone", chance=None)), x="step")
    *panels, bar = figure.axes
    assert [axis.get_title() for axis in panels] == ["word", "phone"]
    assert tick_names(bar.yaxis) == BASE
    assert legend_names(figure) == ["chance"]
    assert "chance" not in lines(panels[1])


def test_the_chance_of_a_series_is_the_highest_and_says_so():
    part = table(run([1, 2]))
    part["chance"] = part["layer_index"] / 20
    figure = figures.draw(part, x="step")
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
    (axis,) = figures.draw(table(run(steps)), x="step").axes
    assert axis.get_xscale() == scale
    if scale == "symlog":
        assert list(axis.get_xticks()) == [0, 10, 100, 1000]


def test_lines_of_whole_models_have_colours_of_their_own():
    parts = [
        rows(["T0-T3"], model=f"{name}-{step}", store=f"/{name}/{step}", step=step)
        for name in ("hubert", "slim", "wav2vec2")
        for step in (0, 2, 4)
    ]
    (axis,) = figures.draw(table(*parts), x="step").axes
    drawn = {name: line.get_color() for name, line in lines(axis).items() if name != "chance"}
    assert drawn == dict(zip(("hubert", "slim", "wav2vec2"), COLOURS, strict=False))
    (axis,) = figures.draw(table(run([0, 2, 4], ["T0", "T1", "T2"])), x="step").axes
    assert not {lines(axis)[name].get_color() for name in ("T0", "T1", "T2")} & set(COLOURS)
    assert all(place == round(place) for place in axis.get_xticks())


def test_two_trainings_are_no_one_series():
    """Also when no two of their steps are the same; of one folder they are a line."""

    def whole(*stores):
        parts = [rows(["T0-T3"], model=s, store=s, step=1000 * (k + 1)) for k, s in enumerate(stores)]
        (axis,) = figures.draw(table(*parts), x="step").axes
        return {name: list(line.get_xdata()) for name, line in lines(axis).items() if name != "chance"}

    assert whole("/a/s1", "/b/s2") == {"a": [1000], "b": [2000]}
    assert whole("/a/s1", "/a/s2") == {"all layers": [1000, 2000]}


def test_series_of_two_models_are_two_panels():
    part = table(run([1, 2], model="a/x"), run([1, 2], model="b/y"))
    assert [axis.get_title() for axis in figures.draw(part, x="step").axes] == ["x", "y"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (rows(BASE), r"no result has a step: a series needs results that have one each"),
        (run([7]), r"all results have step 7: a series needs results of two or more"),
        ([*run([1, 2]), *rows(["mel"], model="mel")], r"layer mel of mel has no step: leave such rows out"),
        (
            [*run([1, 2]), *run([1, 2], seed=3)],
            r"layer T0 of base, step 1 has 2 results for .* \(they differ in seed\): keep one",
        ),
    ],
)
def test_a_series_says_what_it_needs(part, message):
    with pytest.raises(UsageError, match=message):
        figures.draw(table(part), x="step")


# files and mistakes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "axis"),
    [(rows(BASE), {}), (matrix(BASE, BASE), {}), (run([1, 2]), {"x": "step"})],
    ids=["curves", "heatmaps", "series"],
)
@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_same_rows_give_the_same_bytes(tmp_path, part, axis, suffix, magic):
    first, second = (tmp_path / "deep" / f"{name}{suffix}" for name in "ab")
    for path in (first, second):
        figures.draw(table(part), path, **axis)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(magic)
    assert sorted(path.name for path in first.parent.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_a_notebook_gets_svg_and_nothing_where_nothing_can_be_drawn():
    assert figures.svg(table(rows(BASE))).startswith("<svg")
    assert figures.svg(table(rows(LARGE), rows(LARGE, seed=1))) == ""


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UsageError, match="there are no results to draw"):
        figures.draw(table([]))
    with pytest.raises(UsageError, match="the table has no column 'target'"):
        figures.draw(table(rows(BASE)).drop(columns="target"))
    with pytest.raises(
        UsageError, match=r"layer T0 of base has 2 results for cca, .* \(they differ in n, seed\): keep one"
    ):
        figures.draw(table(rows(LARGE), rows(LARGE, seed=1, n=5)))
    with pytest.raises(UsageError, match=r"they differ in value"):
        figures.draw(table(rows(LARGE), rows(LARGE, top=0.2)))
    with pytest.raises(UsageError, match=r"x.bmp has no known figure format: end it in .png, .pdf, .svg"):
        figures.draw(table(rows(BASE)), tmp_path / "x.bmp")
    with pytest.raises(UsageError, match="'epoch' is no axis: choose layer, depth, step, parameters"):
        figures.draw(table(rows(BASE)), x="epoch")
    figures.draw(table(rows(LARGE), rows(LARGE)))  # the same file twice is no mistake
