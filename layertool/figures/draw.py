"""Drawing: three kinds of figures and what they share. Titles say only what differs between panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure

from layertool.figures.choices import HIGHEST_CHANCE, OWN_CHANCE, curves_of, is_one_level, maps_of, series_of
from layertool.figures.panels import (
    COLOUR_MAP,
    COLOURS,
    LINES_PER_INCH,
    MARGIN,
    add_legend,
    axis_limits,
    draw_curve,
    label_x,
    n_columns,
    name_ticks,
    new_panels,
    palette,
    plain,
    plt,
    scale_x,
    shades,
    text_length,
    wrap,
)
from layertool.figures.table import PANEL, is_layer, titles

DASHES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "os^Dv"
CHANCE_DASHES = (0, (2, 2))
MAX_LEGEND_LAYERS = 13  # T0 to T12; more become a colour bar
MAX_WRITTEN_CELLS = 14  # a side
BESIDE, BELOW, ABOVE = 1.0, 0.8, 0.3  # inches around a map, for its labels
BAR, MIN_BAR, MAX_BAR = 0.9, 1.6, 5  # inches: width of a colour bar with its label, and how high it may be


def draw_layer_curves(rows: pd.DataFrame, ylabel: str | None = None) -> Figure:
    """The figure of ``layer_curves``. A store whose only layer no network has (mel) is a horizontal line."""
    chosen = curves_of(rows)
    rows, layers, curves = chosen.rows, chosen.layers, chosen.names
    few = len(curves) <= len(COLOURS)
    colours = dict(zip(curves, palette(len(curves)), strict=False))
    width = min(max(3.4, len(layers) / LINES_PER_INCH + MARGIN), 6.5)
    figure, panels = new_panels(rows, PANEL, width, 0 if few else text_length(curves) + 0.6, ylabel)
    for axis, part in panels:
        for k, curve in enumerate(curves):
            points = part[part["curve"] == curve]
            style = {"color": colours[curve], "label": plain(curve)}
            if chosen.is_level(points):
                _level(axis, points.iloc[0], linestyle=DASHES[k % len(DASHES)], **style)
            else:
                draw_curve(
                    axis, points["layer"].map(layers.index), points, marker="o" if few else MARKERS[k % 5], **style
                )
        _chance(axis, part, layers, colours)
        axis.set_xlim(-0.5, len(layers) - 0.5)
        name_ticks(axis.xaxis, layers, width - MARGIN)
    label_x(panels, "layer")
    add_legend(figure, panels, [*curves, "chance", OWN_CHANCE], at_side=not few)
    return figure


def draw_heatmaps(rows: pd.DataFrame, label: str | None = None) -> Figure:
    """The figure of ``heatmaps``. Cells without a number are grey; maps of few cells have theirs written in."""
    groups = maps_of(rows)
    largest = max(max(one.values.shape) for *_, maps in groups for one in maps)
    side = max(0.36 * largest, 2) if largest <= MAX_WRITTEN_CELLS else min(max(0.16 * largest, 3), 6.5)  # inches
    inches = [[side * np.array(one.values.shape[::-1]) / max(one.values.shape) for one in maps] for *_, maps in groups]
    blocks = [_Block.of(sizes, bool(label) and len(groups) > 1) for sizes in inches]
    width, height = max(block.width for block in blocks), sum(block.height for block in blocks)
    figure = plt.figure(figsize=(width, height))
    names = titles([fields for fields, *_ in groups])[1]
    top = height
    for (fields, group, maps), sizes, block, name in zip(groups, inches, blocks, names, strict=True):
        colouring = ScalarMappable(
            Normalize(*axis_limits(group, label, columns=["value"], room=0)),
            matplotlib.colormaps[COLOUR_MAP].with_extremes(bad="0.8"),
        )
        shared, units = titles([{**fields, "unit": one.fields["unit"]} for one in maps])
        if block.title:
            figure.text(0.1 / width, (top - 0.1) / height, wrap(name, width), va="top", fontsize=10)
        for place, unit, (wide, high), one in zip(block.places, units, sizes, maps, strict=True):
            left, bottom = place[0], top - place[1] - high
            axis = figure.add_axes((left / width, bottom / height, wide / width, high / height))
            _map(axis, one.values, colouring)
            axis.set_title(plain(unit), fontsize=9)
            name_ticks(axis.xaxis, one.x, wide)
            name_ticks(axis.yaxis, one.y, high)
            axis.set_xlabel(wrap(one.fields["curve"], wide + 0.4), fontsize=9)
            axis.set_ylabel(wrap(one.fields["other"], high + 0.4), fontsize=9)
        high = min(block.height - block.title - ABOVE - BELOW, MAX_BAR)
        bottom = top - block.title - ABOVE - high
        edges = ((block.width - BAR) / width, bottom / height, 0.15 / width, high / height)
        bar = figure.colorbar(colouring, cax=figure.add_axes(edges))
        bar.ax.tick_params(labelsize=8)
        bar.set_label(wrap(label or shared, high), fontsize=9)
        top -= block.height
    return figure


def draw_series(rows: pd.DataFrame, x: str = "step", ylabel: str | None = None) -> Figure:
    """The figure of ``series``. Lines go from dark (first layer) to light (last layer); lines of models have no such order."""
    rows, fields, layers = series_of(rows, x)
    ordered = any(map(is_layer, layers))
    colours = dict(zip(layers, shades(len(layers)) if ordered else palette(len(layers)), strict=False))
    as_bar = len(layers) > MAX_LEGEND_LAYERS
    figure, panels = new_panels(rows, fields, 3.8, 0.9, ylabel)
    for axis, part in panels:
        for layer in layers:
            points = part[part["layer"] == layer]
            draw_curve(axis, points[x], points, alpha=0.1, label=plain(layer), color=colours[layer], marker="o")
        if part["chance"].notna().any():
            chance = part.groupby(x)["chance"].agg(["min", "max"])
            same = all(is_one_level(levels, axis.get_ylim()) for _, levels in chance.dropna().iterrows())
            name = "chance" if same else HIGHEST_CHANCE
            axis.plot(chance.index, chance["max"], label=name, color="0.5", linestyle="--", linewidth=1)
        scale_x(axis, rows[x])
    label_x(panels, x.replace("_", " "))
    if as_bar:
        colouring = ScalarMappable(
            BoundaryNorm(np.arange(len(layers) + 1) - 0.5, len(layers)), ListedColormap(list(colours.values()))
        )
        bar = figure.colorbar(colouring, ax=[axis for axis, _ in panels], aspect=30)
        bar.set_label("layer", fontsize=9)
        bar.ax.minorticks_off()
        name_ticks(bar.ax.yaxis, layers, figure.get_figheight() - MARGIN)
    add_legend(figure, panels, [*([] if as_bar else layers), "chance", HIGHEST_CHANCE], at_side=not as_bar)
    return figure


def _level(axis: Axes, point: pd.Series, **style: Any) -> None:
    """A store of one layer across the whole panel."""
    axis.axhline(point["value"], linewidth=1.3, **style)
    if np.isfinite([point["ci_low"], point["ci_high"]]).all():
        axis.axhspan(point["ci_low"], point["ci_high"], color=style["color"], alpha=0.1, linewidth=0)


def _chance(axis: Axes, rows: pd.DataFrame, layers: list[str], colours: dict[str, str]) -> None:
    """One grey line where chance is the same for all, else a dashed line for each curve."""
    known = rows[rows["chance"].notna()]
    if is_one_level(known["chance"], axis.get_ylim()):
        axis.axhline(known["chance"].max(), color="0.6", linewidth=1, label="chance")
        return
    style: dict[str, Any] = {"linewidth": 0.9, "linestyle": CHANCE_DASHES}
    for curve, points in known.groupby("curve", sort=False):
        if points["layer"].iloc[0] not in layers:
            axis.axhline(points["chance"].iloc[0], color=colours[curve], **style)
            continue
        points = points.assign(place=points["layer"].map(layers.index)).sort_values("place")
        alone = "_" if len(points) == 1 else None  # a line through one point cannot be seen
        axis.plot(points["place"], points["chance"], color=colours[curve], marker=alone, **style)
    if len(known):
        axis.plot([], [], color="0.4", label=OWN_CHANCE, **style)


@dataclass(frozen=True)
class _Block:
    """Where the maps of one analysis and variant go: all in inches, as square cells fix the size of the axes.

    ``places``: left and top of the axes of each map, from the top left of the block.
    """

    width: float
    height: float
    title: float
    places: list[tuple[float, float]]

    @classmethod
    def of(cls, sizes: list[np.ndarray], titled: bool) -> _Block:
        """A grid for maps of these widths and heights, in rows as high as the colour bar needs."""
        columns, title = n_columns(len(sizes)), 0.3 if titled else 0.0
        wide = [max(w for w, _ in sizes[k::columns]) + BESIDE for k in range(columns)]
        high = [max(MIN_BAR, *(h for _, h in sizes[k : k + columns])) for k in range(0, len(sizes), columns)]
        places = [
            (
                sum(wide[: k % columns]) + BESIDE,
                title + sum(high[: k // columns]) + k // columns * (ABOVE + BELOW) + ABOVE,
            )
            for k in range(len(sizes))
        ]
        return cls(sum(wide) + 0.2 + BAR, title + sum(high) + len(high) * (ABOVE + BELOW), title, places)


def _map(axis: Axes, values: np.ndarray, colouring: ScalarMappable) -> None:
    axis.imshow(colouring.to_rgba(np.ma.masked_invalid(values)), origin="lower", aspect="equal")
    if max(values.shape) > MAX_WRITTEN_CELLS:
        return
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            bright = np.dot(colouring.to_rgba(value)[:3], (0.299, 0.587, 0.114)) > 0.5
            text = f"{value:.2f}".replace("-0.00", "0.00")
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color="black" if bright else "white")
