"""Figures of SpEAT: which stores become one line, what the axes show."""

from __future__ import annotations

import functools
import operator

import pandas as pd
import pytest

from layertool import figures, results
from layertool.errors import UsageError
from layertool.result_rows import PARAMETERS, Result

TARGETS = ("gender=female:male, valence=positive:negative", "age=young:old, valence=positive:negative")


def row(store, target, value, variant="SpEAT d, mean"):
    return Result(
        analysis="speat", variant=variant, model=store.split("/")[-1], corpus="c", unit="utterance", layer="T0-T3",
        layer_index=9, target=target, value=value, ci_low=value - 0.1, ci_high=value + 0.3, chance=0.0, n=40, store=store,
    )  # fmt: skip


def table(stores, sizes=None):
    rows = [row(store, target, k / 10) for k, store in enumerate(stores) for target in TARGETS]
    rows += [row(store, "model", float(size), PARAMETERS) for store, size in (sizes or {}).items()]
    return results.table(rows)


@pytest.mark.parametrize(
    ("stores", "names"),
    [
        (["/x/heads/1", "/x/heads/2", "/x/rows/1"], ["heads", "heads", "rows"]),
        (["/w2v2/heads/1", "/mel/heads/2"], ["w2v2/heads", "mel/heads"]),
        (["/a/1", "/a/2"], ["a", "a"]),
    ],
)
def test_stores_of_one_folder_are_a_family(stores, names):
    assert figures.families(pd.Series(stores)).tolist() == names


def test_parameters_removed():
    sizes = {"/x/base": 1000, "/w/heads/1": 900, "/w/heads/2": 700, "/m/heads/1": 600}
    figure = figures.draw_removed(table(list(sizes), sizes), "/x/base", "SpEAT d")
    assert len(figure.axes) == 2
    for axis in figure.axes:
        lines = {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}
        assert lines.keys() == {"w/heads", "m/heads", "unpruned"}
        assert lines["w/heads"].get_xdata().tolist() == [100, 300]
        assert lines["w/heads"].get_ydata() == pytest.approx([0.1, 0.2])
        assert lines["m/heads"].get_xdata().tolist() == [400]
        assert set(lines["unpruned"].get_ydata()) == {0.0}
        assert lines["unpruned"].get_linestyle() == "--"


def test_sizes_that_are_not_there():
    sizes = {"/x/base": 1000}
    with pytest.raises(UsageError, match="/w/heads/1 does not say how many parameters its model has"):
        figures.draw_removed(table(["/x/base", "/w/heads/1"], sizes), "/x/base")
    with pytest.raises(UsageError, match="nothing to draw beside the reference"):
        figures.draw_removed(table(["/x/base"], sizes), "/x/base")


def test_bars():
    figure = figures.draw_bars(table(["/x/one", "/x/two", "/x/three"]), "SpEAT d")
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["gender=female:male", "age=young:old"]
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers]
    assert functools.reduce(operator.iadd, heights, []) == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])
    assert axis.get_ylabel() == "SpEAT d"


def test_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a.svg", "b.svg"):
        figures.bars(table(["/x/one", "/x/two"]), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_two_trainings_are_no_one_series():
    """Also when no two of their steps are the same; of one folder they are a line."""
    rows = table(["/a/s1", "/b/s2"]).assign(step=[1000, 1000, 2000, 2000])
    figure = figures.draw_series(rows)
    assert len(figure.axes) == 4
    assert all(len(line.get_xdata()) == 1 for axis in figure.axes for line in axis.lines if line.get_label() == "T0-T3")
    together = figures.draw_series(table(["/a/s1", "/a/s2"]).assign(step=[1000, 1000, 2000, 2000]))
    assert len(together.axes) == 2
    assert all(
        line.get_xdata().tolist() == [1000, 2000]
        for axis in together.axes
        for line in axis.lines
        if line.get_label() == "T0-T3"
    )
