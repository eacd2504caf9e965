"""Specifications of figures drawn by matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis as Ticks
from matplotlib.axis import XAxis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from layertool.figures.specification import COLOUR_MAP, COLOURS, Axis, Figure, Map, Mark, Panel, Series
from layertool.spelling import visible

DASHES: dict[str, Any] = {
    "solid": "-",
    "dash": (0, (5, 2.5)),
    "dashdot": (0, (5, 2, 1, 2)),
    "longdash": (0, (9, 3)),
    "longdashdot": (0, (9, 2, 1, 2)),
    "8px,2px,2px,2px,2px,2px": (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)),
    "dot": (0, (1.5, 2)),
}
MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle-up": "^",
    "diamond": "D",
    "triangle-down": "v",
    "cross": "P",
    "x": "X",
    "star": "*",
}
CHARACTERS_PER_INCH, LINES_PER_INCH = 14, 7.5  # at 8 to 9 points
MARGIN = 0.8  # inches that labels take beside the axes
HEIGHT = 3.0  # inches of a panel
MAX_LEGEND_LAYERS = 13  # T0 to T12; more become a colour bar
MAX_WRITTEN_CELLS = 14  # a side
FEW = 5  # values that are drawn as points, not as a violin


def draw(figures: Sequence[Figure]) -> Canvas:
    """One figure of all of them, one below the other."""
    sizes = [_size(one) for one in figures]
    width, height = max(wide for wide, _ in sizes), sum(high for _, high in sizes)
    whole = Canvas(figsize=(width, height), layout="constrained")  # not by pyplot, whose windows are the user's
    ratios = [high for _, high in sizes]
    parts = (
        whole.subfigures(len(figures), 1, squeeze=False, height_ratios=ratios)[:, 0] if len(figures) > 1 else [whole]
    )
    for one, canvas, size in zip(figures, parts, sizes, strict=True):
        if len(figures) > 1:
            canvas.suptitle(plain(one.title), fontsize=10, x=0.02, ha="left")
        _draw(one, canvas, (width, size[1]))
    return whole


def plain(text: str) -> str:
    """``text`` that matplotlib draws as it stands, though it may hold a formula to it, or be left out of legends
    (_)."""
    text = visible(text, keep="\n").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def wrap(text: str, inches: float) -> str:
    """``text`` to be drawn as it stands, in lines that fit ``inches``."""
    width = max(8, int(inches * CHARACTERS_PER_INCH))
    return plain("\n".join(textwrap.fill(line, width) for line in visible(text, keep="\n").split("\n")))


def _panel_width(one: Figure) -> float:
    """Inches."""
    names = max((len(panel.x.names or ()) for panel in one.panels), default=0)
    if one.kind == "curves":
        return min(max(3.4, names / LINES_PER_INCH + MARGIN), 6.5)
    if one.kind == "bars":
        return max(3.4, max(0.22 * (len(one.legend) + 1), 1.4) * names + 0.8)
    if one.kind == "singles":
        return max(4.2, 0.35 * len(one.legend) * names + 1.4)
    if one.kind == "maps":
        return max(3.0, 0.3 * min(max(len(panel.map.x) for panel in one.panels if panel.map), 25) + MARGIN)
    return 3.8


def _at_side(one: Figure) -> bool:
    return one.kind in ("series", "removed") or (one.kind == "curves" and len(one.legend) > len(COLOURS) + 2)


def _size(one: Figure) -> tuple[float, float]:
    """Width and height in inches, with room for legends and titles."""
    lines = math.ceil(len(one.panels) / one.columns)
    names = [mark.name for mark in one.legend]
    beside = _text_length(names) + 0.6 if names and _at_side(one) else 0.9 if one.kind == "maps" else 0.0
    below = 0.2 * len(names) if names and not beside else 0.0
    high = _panel_width(one) if one.kind == "maps" else 2.6 if one.kind == "singles" else HEIGHT
    return one.columns * _panel_width(one) + 0.6 + beside, lines * high + 0.6 + min(below, 1.5)


def _draw(one: Figure, canvas: Any, size: tuple[float, float]) -> None:
    lines = math.ceil(len(one.panels) / one.columns)
    axes = canvas.subplots(lines, one.columns, squeeze=False).ravel()
    width = _panel_width(one)
    for axis in axes[len(one.panels) :]:
        axis.remove()
    quantities = {panel.y for panel in one.panels}
    for k, (axis, panel) in enumerate(zip(axes, one.panels, strict=False)):
        axis.tick_params(labelsize=8)
        axis.set_title(wrap(panel.title, width - 0.3), fontsize=9)
        if panel.map is not None:
            _map(axis, panel, panel.map, width)
            continue
        axis.spines[["top", "right"]].set_visible(False)
        if len(quantities) > 1 or k % one.columns == 0:
            axis.set_ylabel(wrap(panel.y, 2.3), fontsize=9)
        _panel(axis, panel, width - MARGIN, len(one.legend))
        if k + one.columns >= len(one.panels):
            axis.set_xlabel(plain(panel.x.title), fontsize=9)
    if one.kind == "maps":
        bar = canvas.colorbar(_colouring(one.panels[0]), ax=list(axes[: len(one.panels)]), shrink=0.8)
        bar.ax.tick_params(labelsize=8)
        bar.set_label(wrap(one.panels[0].y, 2.3), fontsize=9)
    _legend(one, canvas, list(axes[: len(one.panels)]), size)


def _panel(axis: Axes, panel: Panel, inches: float, n_bars: int) -> None:
    if panel.limits:
        axis.set_ylim(*panel.limits)
    low, high = axis.get_ylim()
    bars = [one for one in panel.series if one.kind in ("bars", "violin")]
    if (panel.limits and low < 0 < high) or bars:
        axis.axhline(0, color="0.3" if bars and bars[0].kind == "bars" else "0.85", linewidth=0.6, zorder=0)
    for k, one in enumerate(bars):
        draw_one = _bars if one.kind == "bars" else _violins
        draw_one(axis, one, panel.x.names or [], (k - (len(bars) - 1) / 2) / (len(bars) + 0.5), 1 / (len(bars) + 0.5))
    for one in panel.series:
        if one.kind == "level":
            _level(axis, one)
        elif one.kind in ("curve", "chance"):
            _curve(axis, one, panel.x)
    if panel.x.names is not None:
        axis.set_xlim(-0.5, len(panel.x.names) - 0.5)
        name_ticks(axis.xaxis, panel.x.names, inches, is_fixed=bool(bars))
    else:
        _scale(axis, panel.x)


def _level(axis: Axes, one: Series) -> None:
    """A number across the whole panel, with its interval."""
    axis.axhline(
        one.y[0], linewidth=1.3, color=one.mark.colour, linestyle=DASHES[one.mark.dash], label=plain(one.mark.name)
    )
    low, high = _interval(one)
    if np.isfinite([low[0], high[0]]).all():
        axis.axhspan(low[0], high[0], color=one.mark.colour, alpha=0.1, linewidth=0)


def _interval(one: Series) -> tuple[np.ndarray, np.ndarray]:
    if one.points is None:
        return np.full(len(one.y), np.nan), np.full(len(one.y), np.nan)
    return one.points["ci_low"].to_numpy(), one.points["ci_high"].to_numpy()


def _curve(axis: Axes, one: Series, x: Axis) -> None:
    """A line with markers and its band; the interval of a single point is a bar."""
    place = np.array([x.names.index(name) for name in one.x] if x.names is not None else one.x, float)
    value, colour = np.array(one.y, float), one.mark.colour
    if one.kind == "chance":
        alone = "_" if len(place) == 1 else None  # a line through one point cannot be seen
        style: dict[str, Any] = {"linewidth": 1, "linestyle": DASHES["dot"], "marker": alone}
        axis.plot(place, value, color=colour, label=plain(one.mark.name), **style)
        return
    # a marker at the limit of the axis is whole, too
    style = {"linewidth": 1.3, "markersize": 4, "clip_on": False, "linestyle": DASHES[one.mark.dash]}
    marker = MARKERS[one.mark.symbol or "circle"]
    axis.plot(place, value, color=colour, marker=marker, label=plain(one.mark.name), **style)
    hollow = np.array(one.hollow or [False] * len(place))
    if hollow.any():
        style = {"markersize": 4, "color": "white", "markeredgecolor": colour, "zorder": 3, "linestyle": "none"}
        axis.plot(place[hollow], value[hollow], marker=marker, **style)
    low, high = _interval(one)
    known = np.isfinite(low) & np.isfinite(high)
    if len(place) == 1:
        axis.vlines(place[known], low[known], high[known], color=colour, linewidth=1)
    elif known.any():
        axis.fill_between(place, low, high, where=known, color=colour, alpha=0.14, linewidth=0)


def _bars(axis: Axes, one: Series, groups: list[str], shift: float, width: float) -> None:
    place = np.array([groups.index(name) for name in one.x]) + shift
    axis.bar(
        place,
        one.y,
        width,
        color=one.mark.colour,
        label=plain(one.mark.name),
        hatch=(one.mark.pattern or "") * 2,
        **HATCH,
    )
    low, high = _interval(one)
    known = np.isfinite(low)
    axis.vlines(place[known], low[known], high[known], color="0.2", linewidth=1)


HATCH: Any = {"edgecolor": "white", "linewidth": 0}


def _violins(axis: Axes, one: Series, groups: list[str], shift: float, width: float) -> None:
    values = pd.Series(one.y)
    for name, own in values.groupby(np.array(one.x, object), sort=False):
        _violin(axis, groups.index(str(name)) + shift * 0.8, width * 0.72, own.to_numpy(), one.mark.colour)


def _violin(axis: Axes, place: float, width: float, values: np.ndarray, colour: str) -> None:
    finite = values[np.isfinite(values)]
    if len(finite) < FEW:
        axis.plot([place] * len(finite), finite, ".", color=colour, markersize=5)
    elif np.ptp(finite) > 0:
        drawn = axis.violinplot(finite, [place], widths=width, showextrema=False, points=200)
        for body in drawn["bodies"]:  # type: ignore[attr-defined]
            body.set(facecolor=colour, alpha=0.45, linewidth=0)
    low, middle, high = quartiles(values)
    if np.isfinite(high):
        axis.vlines(place, max(low, finite.min()), high, color=colour, linewidth=2.5)
    if np.isfinite(middle):
        axis.plot(place, middle, marker="o", markersize=4, color="white", markeredgecolor=colour, markeredgewidth=1.2)
    if len(finite) < len(values):
        text, where = f"{len(values) - len(finite)} at −∞", ("data", "axes fraction")
        axis.annotate(text, (place, 0), xycoords=where, fontsize=8, color=colour, rotation=90, ha="center", va="bottom")


def quartiles(values: np.ndarray) -> np.ndarray:
    """Of all values: -inf is the smallest; a quartile that is -inf has no place on an axis."""
    return np.quantile(values, [0.25, 0.5, 0.75], method="linear" if np.isfinite(values).all() else "lower")


def _colouring(panel: Panel) -> ScalarMappable:
    colours = matplotlib.colormaps[COLOUR_MAP].with_extremes(bad="0.8")
    return ScalarMappable(Normalize(*panel.limits), colours)  # type: ignore[misc]


def _map(axis: Axes, panel: Panel, shown: Map, inches: float) -> None:
    """Cells without a number are grey; maps of few cells have theirs written in."""
    colouring = _colouring(panel)
    axis.imshow(colouring.to_rgba(np.ma.masked_invalid(shown.values)), origin="lower", aspect="equal")
    name_ticks(axis.xaxis, shown.x, inches - MARGIN)
    name_ticks(axis.yaxis, shown.y, (inches - MARGIN) * len(shown.y) / max(len(shown.x), len(shown.y)))
    axis.set_xlabel(wrap(shown.names[0], inches), fontsize=9)
    axis.set_ylabel(wrap(shown.names[1], inches), fontsize=9)
    if max(shown.values.shape) > MAX_WRITTEN_CELLS:
        return
    for (row, column), value in np.ndenumerate(shown.values):
        if np.isfinite(value):
            bright = np.dot(colouring.to_rgba(value)[:3], (0.299, 0.587, 0.114)) > 0.5
            colour = "black" if bright else "white"
            axis.text(column, row, cell_text(value), ha="center", va="center", fontsize=7, color=colour)


def cell_text(value: float) -> str:
    """A number in a cell of a map; "" for none."""
    return f"{value:.2f}".replace("-0.00", "0.00") if math.isfinite(value) else ""


def _text_length(texts: Iterable[str]) -> float:
    """Inches that the longest text takes."""
    return max(map(len, texts)) / CHARACTERS_PER_INCH


def name_ticks(axis: Ticks, names: list[str], inches: float, is_fixed: bool = False) -> None:
    """A tick for each name, thinned out where ``inches`` have no room for all; upright names along a full x axis."""
    every = 1 if is_fixed else math.ceil(len(names) / LINES_PER_INCH / inches)
    longest = sum(max(map(len, name.split("\n"))) + 2 for name in names)
    upright = isinstance(axis, XAxis) and longest / CHARACTERS_PER_INCH > inches and not is_fixed
    labels = list(map(plain, names[::every]))
    axis.set_ticks(range(0, len(names), every), labels, fontsize=8, rotation=90 if upright else 0)


def _scale(axis: Axes, x: Axis) -> None:
    numbers = x.numbers
    if numbers is None:
        return
    if x.scale == "linear" and (numbers == numbers.round()).all():
        axis.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 5, 10]))
    if x.scale == "log":
        axis.set_xscale("log")
    elif x.scale == "symlog":
        axis.set_xscale("symlog", linthresh=x.least)
        axis.set_xticks([0, *x.decades])
        axis.minorticks_off()
    if numbers.max() >= 10_000:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _legend(one: Figure, canvas: Any, axes: list[Axes], size: tuple[float, float]) -> None:
    """One legend for all panels; many layers are a colour bar instead, as their colours go from dark to light."""
    shown = list(one.legend)
    if shown and one.is_ordered and sum(mark.symbol is not None for mark in shown) > MAX_LEGEND_LAYERS:
        layers = [mark for mark in shown if mark.symbol is not None]
        shown = [mark for mark in shown if mark.symbol is None]
        bounds = BoundaryNorm(np.arange(len(layers) + 1) - 0.5, len(layers))
        bar = canvas.colorbar(
            ScalarMappable(bounds, ListedColormap([mark.colour for mark in layers])), ax=axes, aspect=30
        )
        bar.set_label("layer", fontsize=9)
        bar.ax.minorticks_off()
        name_ticks(bar.ax.yaxis, [mark.name for mark in layers], size[1] - MARGIN)
    if not shown:
        return
    place: dict[str, Any]
    if _at_side(one):
        place = {"loc": "outside right upper", "ncols": math.ceil(len(shown) * 0.18 / size[1])}
    else:
        room = min(max(1, int(size[0] / (_text_length(mark.name for mark in shown) + 0.6))), 6)
        place = {"loc": "outside lower center", "ncols": math.ceil(len(shown) / math.ceil(len(shown) / room))}
    labels = [wrap(mark.name, size[0] - 0.6) for mark in shown]
    canvas.legend(
        [_handle(mark, one.kind) for mark in shown], labels, frameon=False, fontsize=9, handlelength=2.8, **place
    )


def _handle(mark: Mark, kind: str) -> Patch | Line2D:
    if kind == "bars":
        return Patch(facecolor=mark.colour, hatch=(mark.pattern or "") * 2, **HATCH)
    if kind == "singles":
        return Patch(color=mark.colour)
    marker = MARKERS[mark.symbol] if mark.symbol else None
    return Line2D([], [], color=mark.colour, linestyle=DASHES[mark.dash], marker=marker, markersize=4, linewidth=1.3)
