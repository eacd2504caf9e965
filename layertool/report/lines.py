"""Traces of plotly for curves: values with their bands, levels across a panel, chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from layertool.report.spec import GREY, Mark, band_colour, finite, hover, text


def curve(points: pd.DataFrame, x: Sequence[Any], mark: Mark, names: Sequence[str]) -> list[dict[str, Any]]:
    """A line with markers, and its band where neighbours have intervals; a bar where one point alone has.

    ``points``: rows in the order of ``x``; ``names``: of each point, for the pointer (after the series' own).
    """
    if points.empty:
        return []
    low, high = points["ci_low"].to_numpy(), points["ci_high"].to_numpy()
    known = np.isfinite(low) & np.isfinite(high)
    runs = [run for run in np.split(np.arange(len(known)), np.flatnonzero(np.diff(known)) + 1) if known[run[0]]]
    line = {
        "type": "scatter", "mode": "lines+markers", "x": list(x), "y": finite(points["value"]), "line": mark.line(),
        "marker": {"symbol": mark.symbol or "circle", "size": 7, "color": mark.colour},
        **_common(points, mark, names),
    }  # fmt: skip
    alone = [int(run[0]) for run in runs if len(run) == 1]
    if alone:
        line["error_y"] = _bars(points, alone, mark.colour)
    return [*_band([run for run in runs if len(run) > 1], x, low, high, mark), line]


def _common(points: pd.DataFrame, mark: Mark, names: Sequence[str]) -> dict[str, Any]:
    texts = [hover(row, mark.name, name) for (_, row), name in zip(points.iterrows(), names, strict=True)]
    return {
        "name": text(mark.name), "meta": mark.key, "customdata": [int(k) for k in points.index], "hovertext": texts,
        "hoverinfo": "text",
    }  # fmt: skip


def _bars(points: pd.DataFrame, places: Sequence[int], colour: str) -> dict[str, Any]:
    """Error bars of the points at ``places``."""
    above, below = np.zeros(len(points)), np.zeros(len(points))
    value = points["value"].to_numpy()
    for k in places:
        above[k], below[k] = points["ci_high"].iloc[k] - value[k], value[k] - points["ci_low"].iloc[k]
    return {
        "type": "data", "symmetric": False, "array": finite(above), "arrayminus": finite(below), "color": colour,
        "thickness": 1.3, "width": 3,
    }  # fmt: skip


def _band(runs: Sequence[np.ndarray], x: Sequence[Any], low: np.ndarray, high: np.ndarray, mark: Mark) -> list[dict]:
    """One closed shape for each run of points with intervals."""
    if not runs:
        return []
    across: list[Any] = []
    along: list[float | None] = []
    for run in runs:
        if across:
            across, along = [*across, None], [*along, None]
        across += [x[k] for k in [*run, *run[::-1], run[0]]]
        along += [float(v) for v in (*high[run], *low[run][::-1], high[run[0]])]
    return [
        {
            "type": "scatter", "mode": "lines", "x": across, "y": along, "fill": "toself", "meta": mark.key,
            "fillcolor": band_colour(mark.colour), "line": {"width": 0, "color": mark.colour}, "hoverinfo": "skip", "name": text(mark.name),
        }
    ]  # fmt: skip


def level(points: pd.DataFrame, x: Sequence[Any], mark: Mark) -> list[dict[str, Any]]:
    """One number across the whole panel, with its interval: a store of one layer, or a baseline."""
    wide = points.loc[points.index[:1].repeat(len(x))]
    traces = curve(wide, x, mark, [wide["layer"].iloc[0]] * len(x))
    traces[-1] |= {"mode": "lines"}
    return traces


def constant(value: float, x: Sequence[Any], mark: Mark, label: str) -> dict[str, Any]:
    """A line of chance, or another that is of no row."""
    return path([value] * len(x), x, mark, [f"{text(label)} {value:.4g}"] * len(x))


def path(values: Sequence[float], x: Sequence[Any], mark: Mark, texts: Sequence[str]) -> dict[str, Any]:
    """A thin line without markers."""
    return {
        "type": "scatter", "mode": "lines" if len(values) > 1 else "markers", "x": list(x), "y": finite(values), "meta": mark.key, "name": text(mark.name),
        "line": {"color": mark.colour, "dash": mark.dash, "width": 1.2}, "marker": {"symbol": "line-ew-open", "color": mark.colour, "size": 12},
        "hovertext": list(texts), "hoverinfo": "text",
    }  # fmt: skip


def zero_line() -> list[dict[str, Any]]:
    """A shape at 0, for axes that go below it."""
    return [
        {
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "layer": "below",
            "line": {"color": GREY, "width": 0.8},
        }
    ]  # fmt: skip
