"""The figure of the lexical lens: which numbers stand where, and which marks are hollow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.colors import to_rgba

from layertool import figures, results
from layertool.errors import UsageError
from layertool.result_rows import Result

LAYERS = ["T0", "T1", "final", "D0", "D1"]
HOW = "notimestamps, end token, lower case, 30 s window"
METRICS = {"log-likelihood": -100.0, "Kendall tau-b": 0.1, "top-n coverage": 0.2, "top-1 accuracy": 0.0}


def rows(models=("a",), layers=LAYERS, ended=("D0",)):
    found = []
    for m, model in enumerate(models):
        for k, layer in enumerate(layers):
            for metric, value in METRICS.items():
                found += [
                    Result(
                        analysis="lexical lens", variant=f"{metric}, {HOW}", model=model, corpus="c", unit="utterance",
                        layer=layer, layer_index=k, target=target, value=value + k / 100 + m, ci_low=value - 1,
                        ci_high=value + 1, chance=0.0, n=6,
                    )
                    for target in ("all", "SSN")
                ]  # fmt: skip
            if layer in ended:
                cut = "stimuli whose search for top words was ended"
                found.append(replace(found[-2], variant=f"{cut}, {HOW}", value=2.0, target="all"))
    return results.table(found)


def curves(axis):
    return {
        line.get_label(): list(line.get_ydata())
        for line in axis.lines
        if not line.get_label().startswith("_") and line.get_label() != "chance"
    }


def test_numbers_stand_in_their_half():
    figure = figures.draw_lens(rows(("a", "b")))
    assert len(figure.axes) == 2 * len(METRICS)
    panels = dict(zip([(metric, half) for metric in METRICS for half in (0, 1)], figure.axes, strict=True))
    for (metric, half), axis in panels.items():
        first, n = (3, 2) if half else (0, 3)
        for m, model in enumerate("ab"):
            expected = [METRICS[metric] + k / 100 + m for k in range(first, first + n)]
            assert curves(axis)[model] == pytest.approx(expected)
    names = [[tick.get_text() for tick in axis.get_xticklabels()] for axis in figure.axes[-2:]]
    assert names == [["T0", "T1", "final"], ["D0", "D1"]]


def test_ended_searches_are_hollow():
    figure = figures.draw_lens(rows())
    hollow = [
        (k, list(line.get_xdata()))
        for k, axis in enumerate(figure.axes)
        for line in axis.lines
        if line.get_marker() == "o" and to_rgba(line.get_color()) == to_rgba("white") and len(line.get_xdata())
    ]
    assert hollow == [(5, [0]), (7, [0])]  # D0 of both metrics of top words


@pytest.mark.slow
def test_one_half_alone_and_no_rows(tmp_path):
    assert len(figures.draw_lens(rows(layers=["T0", "T1"])).axes) == len(METRICS)
    assert (
        figures.lens(rows(), tmp_path / "x.png").read_bytes() == figures.lens(rows(), tmp_path / "y.png").read_bytes()
    )
    with pytest.raises(UsageError, match="no layers of the lexical lens"):
        figures.draw_lens(rows()[lambda table: table["target"] == "SSN"])
