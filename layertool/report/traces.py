"""Specifications of figures as plotly draws them: plain data, which the page's script hands over.

Every trace has its series as ``meta``, by which the page switches it on and off, and every point its row of the table
as ``customdata``, by which the page saves rows.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from layertool.figures.canvas import MAX_WRITTEN_CELLS, cell_text
from layertool.figures.specification import GREY, Axis, Figure, Map, Mark, Panel, Series
from layertool.tables import against_chance

BAND = 0.16  # how dense a band is
HEIGHT, TALL = 300, 340  # pixels of a panel, and of one whose groups have long names
MAX_Y_TITLE = 40  # characters that fit beside a panel
FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Arial, sans-serif", "size": 12, "color": "#1a1a1a"}


def plain(figure: Figure, name: str, source: str = "rows") -> dict[str, Any]:
    """What the page's script needs of a figure. ``source``: which table of the page its rows are of."""
    return {
        "id": name,
        "title": figure.title,
        "source": source,
        "rows": [int(k) for k in dict.fromkeys(figure.rows.index)],
        "legend": [asdict(mark) for mark in figure.legend],
        "panels": [
            {
                "title": panel.title,
                "data": _data(panel, figure.rows),
                "layout": _layout(panel),
                "aspect": _aspect(panel),
            }
            for panel in figure.panels
        ],
    }


def text(value: object) -> str:
    """Text for plotly, which reads a little HTML: names of models have none."""
    return html.escape(str(value), quote=False).replace("\n", "<br>")


def number(value: float, digits: int = 4) -> str:
    """A number for a person who points at it: 0.4321, 12.3, 1 133, −∞; "" for none."""
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.{digits}g}" if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.3g}"


def hover(row: pd.Series, *names: str) -> str:
    """What the pointer reads: the number, its interval, chance and n."""
    low, high = row["ci_low"], row["ci_high"]
    between = "" if math.isnan(low) or math.isnan(high) else f" [{number(low)} to {number(high)}]"
    lines = [", ".join(text(name) for name in names if name), f"<b>{number(row['value'])}</b>{between}"]
    if not math.isnan(row["chance"]):
        side = against_chance(row)
        lines.append(f"chance {number(row['chance'])}" + (f" ({side})" if side else ""))
    if not math.isnan(row["n"]):
        lines.append(f"n = {number(row['n'])}")
    return "<br>".join(lines)


def finite(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON has them: None where there is none to draw."""
    return [float(value) if math.isfinite(value) else None for value in values]


def _data(panel: Panel, rows: pd.DataFrame) -> list[dict[str, Any]]:
    if panel.map is not None:
        return [_map(panel, panel.map, rows)]
    place, traces = _place(panel.x), []
    for one in panel.series:
        x = [place(value) for value in one.x]
        if one.kind == "chance":
            traces.append(_path(one, x))
        elif one.kind == "violin":
            traces.append(_violin(one, x))
        elif one.points is not None:
            traces += _bars(one, one.points, x) if one.kind == "bars" else _curve(one, one.points, x)
    return traces


def _common(one: Series, points: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    texts = [hover(row, one.mark.name, name) for (_, row), name in zip(points.iterrows(), names, strict=True)]
    return {
        "name": text(one.mark.name),
        "meta": one.mark.key,
        "customdata": [int(k) for k in points.index],
        "hovertext": texts,
        "hoverinfo": "text",
    }


def _line(mark: Mark) -> dict[str, Any]:
    return {"color": mark.colour, "dash": mark.dash, "width": 1.8}


def _curve(one: Series, points: pd.DataFrame, x: list[Any]) -> list[dict[str, Any]]:
    """A line with markers, and its band where neighbours have intervals; a bar where one point alone has."""
    low, high = points["ci_low"].to_numpy(), points["ci_high"].to_numpy()
    known = np.isfinite(low) & np.isfinite(high)
    runs = [run for run in np.split(np.arange(len(known)), np.flatnonzero(np.diff(known)) + 1) if known[run[0]]]
    symbol = one.mark.symbol or "circle"
    hollow: Any = [f"{symbol}-open" if is_open else symbol for is_open in one.hollow] if any(one.hollow) else symbol
    line = {
        "type": "scatter",
        "mode": "lines" if one.kind == "level" else "lines+markers",
        "x": x,
        "y": finite(one.y),
        "line": _line(one.mark),
        "marker": {"symbol": hollow, "size": 7, "color": one.mark.colour},
        **_common(one, points, one.names),
    }
    alone = np.zeros(len(known), bool)
    alone[[run[0] for run in runs if len(run) == 1]] = True
    if alone.any():
        line["error_y"] = _errors(points, alone, one.mark.colour)
    return [*_band([run for run in runs if len(run) > 1], x, low, high, one.mark), line]


def _errors(points: pd.DataFrame, known: np.ndarray, colour: str) -> dict[str, Any]:
    """Bars of intervals of the points that are known."""
    above = np.where(known, points["ci_high"] - points["value"], 0.0)
    below = np.where(known, points["value"] - points["ci_low"], 0.0)
    ends = {"array": finite(above), "arrayminus": finite(below)}
    return {"type": "data", "symmetric": False, **ends, "color": colour, "thickness": 1.3, "width": 3}


def _band(runs: Sequence[np.ndarray], x: list[Any], low: np.ndarray, high: np.ndarray, mark: Mark) -> list[dict]:
    """One closed shape for each run of points with intervals."""
    across: list[Any] = []
    along: list[float | None] = []
    for run in runs:
        if across:
            across, along = [*across, None], [*along, None]
        across += [x[k] for k in [*run, *run[::-1], run[0]]]
        along += [float(value) for value in (*high[run], *low[run][::-1], high[run[0]])]
    shape = {
        "type": "scatter",
        "mode": "lines",
        "x": across,
        "y": along,
        "fill": "toself",
        "meta": mark.key,
        "fillcolor": _faint(mark.colour),
        "line": {"width": 0, "color": mark.colour},
        "hoverinfo": "skip",
        "name": text(mark.name),
    }
    return [shape] if runs else []


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{BAND})"


def _path(one: Series, x: list[Any]) -> dict[str, Any]:
    """A thin line without markers: chance."""
    where = one.names if len(set(one.names)) > 1 else [f"{one.names[0]}" for _ in x]
    return {
        "type": "scatter",
        "mode": "lines" if len(x) > 1 else "markers",
        "x": x,
        "y": finite(one.y),
        "meta": one.mark.key,
        "name": text(one.mark.name),
        "line": {"color": one.mark.colour, "dash": one.mark.dash, "width": 1.2},
        "marker": {"symbol": "line-ew-open", "color": one.mark.colour, "size": 12},
        "hovertext": [f"{text(name)} {number(level)}" for name, level in zip(where, one.y, strict=True)],
        "hoverinfo": "text",
    }


def _bars(one: Series, points: pd.DataFrame, x: list[Any]) -> list[dict[str, Any]]:
    mark = one.mark
    pattern = {"shape": mark.pattern, "solidity": 0.25, "fgcolor": "#ffffff", "bgcolor": mark.colour}
    look = {"color": mark.colour, "line": {"color": "#222222", "width": 0.6}, "pattern": pattern}
    trace = {"type": "bar", "x": x, "y": finite(one.y), "marker": look, **_common(one, points, one.names)}
    known = points[["ci_low", "ci_high"]].notna().all(axis=1).to_numpy()
    if known.any():
        trace["error_y"] = _errors(points, known, "#222222")
    return [trace]


def _violin(one: Series, x: list[Any]) -> dict[str, Any]:
    """Numbers of −∞ have no place on the axis: the table counts them."""
    return {
        "type": "violin",
        "x": x,
        "y": finite(one.y),
        "customdata": [int(k) for k in one.points.index],  # type: ignore[union-attr]
        "name": text(one.mark.name),
        "meta": one.mark.key,
        "scalegroup": text(one.mark.name),
        "points": False,
        "box": {"visible": True, "width": 0.25},
        "meanline": {"visible": True},
        "line": {"color": one.mark.colour, "width": 1.4},
        "fillcolor": _faint(one.mark.colour),
        "spanmode": "hard",
    }


def _map(panel: Panel, one: Map, rows: pd.DataFrame) -> dict[str, Any]:
    """A map in its own axes: layers of the store along x, those it is compared with along y."""
    low, high = panel.limits or (0.0, 1.0)
    places = one.rows.tolist()
    texts = [
        [
            hover(rows.loc[k], f"{one.names[0]} {x}", f"{one.names[1]} {y}") if k >= 0 else ""
            for k, x in zip(line, one.x, strict=True)
        ]
        for line, y in zip(places, one.y, strict=True)
    ]
    trace = {
        "type": "heatmap",
        "x": [text(x) for x in one.x],
        "y": [text(y) for y in one.y],
        "z": [finite(line) for line in one.values],
        "customdata": [[k if k >= 0 else None for k in line] for line in places],
        "hovertext": texts,
        "hoverinfo": "text",
        "colorscale": "Viridis",
        "zmin": low,
        "zmax": high,
        "meta": "map",
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 12, "outlinewidth": 0, "len": 1},
    }
    if max(one.values.shape) <= MAX_WRITTEN_CELLS:
        cells = [[cell_text(value) for value in line] for line in one.values]
        trace |= {"text": cells, "texttemplate": "%{text}", "textfont": {"size": 10}}
    return trace


def _aspect(panel: Panel) -> float | None:
    """Height over width of maps; the height of others is fixed."""
    return None if panel.map is None else min(max(len(panel.map.y) / len(panel.map.x), 0.35), 1.2)


def _place(x: Axis) -> Callable[[Any], Any]:
    """Where a value stands. plotly has no logarithm with a linear start: its places are made here."""
    if x.names is not None:
        return text
    if x.scale != "symlog":
        return float
    least = x.least
    return lambda value: value / least if value <= least else 1 + math.log10(value / least)


def _title(words: str) -> dict[str, Any]:
    return {"title": {"text": text(words), "font": {"size": 12}, "standoff": 6}}


def _names(names: Sequence[str]) -> dict[str, Any]:
    shown = [text(name) for name in names]
    ordered = {"categoryorder": "array", "categoryarray": shown}
    return {"type": "category", **ordered, "range": [-0.5, len(shown) - 0.5], "automargin": True}


def _axis(x: Axis) -> dict[str, Any]:
    if x.names is not None:
        return {**_title(x.title), **_names(x.names)}
    if x.scale == "linear":
        return {**_title(x.title), "tickformat": "~s"}
    if x.scale == "log":
        return {**_title(x.title), "type": "log", "tickformat": "~s", "dtick": 1}
    place, ticks = _place(x), [0.0, *x.decades]
    return {
        **_title(x.title),
        "tickvals": [place(tick) for tick in ticks],
        "ticktext": [number(tick) for tick in ticks],
    }


def _layout(panel: Panel) -> dict[str, Any]:
    """Axes as all panels have them."""
    grid = {"gridcolor": "#e6e6e6", "zeroline": False, "linecolor": "#444", "ticks": "outside", "automargin": True}
    label = panel.map.names[1] if panel.map else panel.y
    label = text(label.replace("\n", " ") if len(label) <= MAX_Y_TITLE else label[: MAX_Y_TITLE - 1] + "…")
    y: dict[str, Any] = {**grid, "title": {"text": label, "font": {"size": 12}, "standoff": 8}}
    kinds = {one.kind for one in panel.series}
    made: dict[str, Any] = {
        "xaxis": {**grid, "showgrid": False, **_axis(panel.x)},
        "yaxis": y,
        "showlegend": False,
        "margin": {"l": 52, "r": 12, "t": 8, "b": 44},
        "font": FONT,
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": "#1a1a1a"}, "align": "left"},
        "dragmode": False,
    }
    if panel.map is not None:
        y |= {**_names(panel.map.y), "showgrid": False}
        return made | {
            "plot_bgcolor": "#cccccc",
            "margin": {"l": 60, "r": 8, "t": 8, "b": 50},
        }  # grey: cells without a number
    made["height"] = TALL if kinds & {"bars", "violin"} else HEIGHT
    made |= {"barmode": "group"} if "bars" in kinds else {"violinmode": "group"} if "violin" in kinds else {}
    if panel.limits is not None:
        low, high = panel.limits
        y["range"] = [low, high + 0.02 * (high - low)]  # marks at the very top are whole
        made["shapes"] = [_zero()] if low < 0 < high or (low < 0 and "bars" in kinds) else []
    return made


def _zero() -> dict[str, Any]:
    """A line at 0, for axes that go below it."""
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0}
    return {"type": "line", **ends, "layer": "below", "line": {"color": GREY, "width": 0.8}}
