"""Panels: what all figures share, axes with titles, curves with bands, limits, legends."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from layertool.figures.choices import decades_of, scale_of
from layertool.figures.table import NUMBERS, split, titles
from layertool.spelling import visible

matplotlib.use("Agg")  # files only; must come before pyplot

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

# Okabe and Ito's colours: told apart by colour-blind readers and in greyscale print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLOUR_MAP = "viridis"
DARK = 0.88  # the part of the colour map that can be seen as a line on white
MAX_COLUMNS = 4
SHARE_TOP = 1.05  # an axis that need not go higher ends at 1: accuracies and correlations, with their intervals
LOWEST_THIRD = 1 / 3  # unless curves would lie so low that nothing can be told of them
CHARACTERS_PER_INCH, LINES_PER_INCH = 14, 7.5  # at 8 to 9 points
MARGIN = 0.8  # inches that labels take beside the axes
_NOT_A_SHARE = re.compile(r"\b(nats|bits)\b")


def plain(text: str) -> str:
    """``text`` that matplotlib draws as it stands, though it may hold a formula to it, or be left out of legends (_)."""
    text = visible(text, keep="\n").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def wrap(text: str, inches: float) -> str:
    """``text`` to be drawn as it stands, in lines that fit ``inches``."""
    width = max(8, int(inches * CHARACTERS_PER_INCH))
    return plain("\n".join(textwrap.fill(line, width) for line in visible(text, keep="\n").split("\n")))


def n_columns(n: int) -> int:
    """As few columns as the fewest rows allow."""
    return math.ceil(n / math.ceil(n / MAX_COLUMNS))


def new_axes(figure: Figure, n: int, columns: int) -> list[Axes]:
    axes = figure.subplots(math.ceil(n / columns), columns, squeeze=False).ravel()
    for axis in axes[n:]:
        axis.remove()
    return list(axes[:n])


def new_panels(
    rows: pd.DataFrame, fields: list[str], width: float, extra: float, ylabel: str | None
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A figure with titled panels of ``width`` inches, and ``extra`` inches for a legend, and the rows of each."""
    parts = split(rows, fields)
    shared, names = titles([panel for panel, _ in parts])
    if ylabel and len(parts) == 1:  # else nothing would say what it is of
        names = [parts[0][0].get("target", "")]
    columns = n_columns(len(parts))
    size = (columns * width + extra + 0.6, math.ceil(len(parts) / columns) * 3 + 0.6)
    figure = plt.figure(figsize=size, layout="constrained")
    panels = list(zip(new_axes(figure, len(parts), columns), [part for _, part in parts], strict=True))
    for k, ((axis, part), title) in enumerate(zip(panels, names, strict=True)):
        axis.set_title(wrap(title, width - 0.3), fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        # panels of one quantity can be compared
        same = rows[(rows["analysis"] == part["analysis"].iloc[0]) & (rows["variant"] == part["variant"].iloc[0])]
        low, high = axis_limits(same, ylabel)
        axis.tick_params(labelsize=8)
        axis.set_ylim(low, high)
        if low < 0 < high:
            axis.axhline(0, color="0.85", linewidth=0.6, zorder=0)
        if k % columns == 0:
            axis.set_ylabel(wrap(ylabel or shared, 2.3), fontsize=9)
    return figure, panels


def axis_limits(
    rows: pd.DataFrame, label: str | None, columns: Sequence[str] = NUMBERS, room: float = 0.05
) -> tuple[float, float]:
    """Bottom and top of an axis: 0 and 1 for shares, below 0 only for numbers that are."""
    numbers = rows[list(columns)].to_numpy()
    numbers = numbers[np.isfinite(numbers)]
    low, high = (numbers.min(), numbers.max()) if len(numbers) else (0.0, 1.0)
    low = 0.0 if low > -1e-9 else low  # rounding
    room *= high - min(low, 0.0) or 1.0
    texts = (*rows["analysis"].head(1), *rows["variant"].head(1), label or "")
    share = (high == 0 or LOWEST_THIRD <= high <= SHARE_TOP) and not any(_NOT_A_SHARE.search(text) for text in texts)
    return low - room if low < 0 else 0.0, max(1.0, high) if share else high + room


def draw_curve(axis: Axes, x: pd.Series, points: pd.DataFrame, alpha: float = 0.2, **style: Any) -> None:
    """A line with markers and its band; the interval of a single point is a bar."""
    order = np.argsort(x.to_numpy(), kind="stable")
    place, (value, low, high) = x.to_numpy()[order], points[NUMBERS[:3]].to_numpy()[order].T
    if not len(place):
        return
    # a marker at the limit of the axis is whole, too
    axis.plot(place, value, linestyle="-", linewidth=1.3, markersize=3.5, clip_on=False, **style)
    known = np.isfinite(low) & np.isfinite(high)
    if len(place) == 1:
        axis.vlines(place[known], low[known], high[known], color=style["color"], linewidth=1)
    elif known.any():
        axis.fill_between(place, low, high, where=known, color=style["color"], alpha=alpha, linewidth=0)


def shades(n: int) -> list[tuple[float, ...]]:
    return [tuple(colour) for colour in matplotlib.colormaps[COLOUR_MAP](np.linspace(0, DARK, n))]


def palette(n: int) -> list[Any]:
    """Colours of n curves: those that can be told apart by everybody, or shades where there are too many."""
    return list(COLOURS) if n <= len(COLOURS) else shades(n)


def text_length(texts: Iterable[str]) -> float:
    """Inches that the longest text takes."""
    return max(map(len, texts)) / CHARACTERS_PER_INCH


def name_ticks(axis: Axis, names: list[str], inches: float) -> None:
    """A tick for each name, thinned out where ``inches`` have no room for all; upright names along a full x axis."""
    every = math.ceil(len(names) / LINES_PER_INCH / inches)
    upright = isinstance(axis, XAxis) and sum(len(name) + 2 for name in names) / CHARACTERS_PER_INCH > inches
    axis.set_ticks(
        range(0, len(names), every), list(map(plain, names[::every])), fontsize=8, rotation=90 if upright else 0
    )


def label_x(panels: list[tuple[Axes, pd.DataFrame]], label: str) -> None:
    """The label under the lowest panel of each column."""
    for k, (axis, _) in enumerate(panels):
        if k + n_columns(len(panels)) >= len(panels):
            axis.set_xlabel(plain(label), fontsize=9)


def scale_x(axis: Axes, values: pd.Series) -> None:
    """Logarithmic where checkpoints lie far apart, with a linear start where there is a step 0."""
    scale = scale_of(values)
    if scale == "linear" and (values == values.round()).all():
        axis.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 5, 10]))
    if scale == "log":
        axis.set_xscale("log")
    elif scale == "symlog":
        axis.set_xscale("symlog", linthresh=values[values > 0].min())
        axis.set_xticks([0, *(10.0**k for k in decades_of(values))])
        axis.minorticks_off()
    if values.max() >= 10_000:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def add_legend(figure: Figure, panels: list[tuple[Axes, pd.DataFrame]], order: list[str], at_side: bool) -> None:
    """One legend for all panels, of the names in ``order`` that some panel has."""
    drawn: dict = {}
    for axis, _ in panels:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            drawn.setdefault(name, handle)
    names = [name for name in order if plain(name) in drawn]
    place: dict[str, Any]
    if not names:
        return
    width, height = figure.get_size_inches()
    if at_side:
        place = {"loc": "outside right upper", "ncols": math.ceil(len(names) * 0.18 / height)}
    else:
        lines = math.ceil(len(names) / min(max(1, int(width / (text_length(names) + 0.6))), 6))
        place = {"loc": "outside lower center", "ncols": math.ceil(len(names) / lines)}
    labels = [wrap(name, width - 0.6) for name in names]
    figure.legend([drawn[plain(name)] for name in names], labels, frameon=False, fontsize=9, **place)
