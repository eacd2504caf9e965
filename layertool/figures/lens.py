"""The lexical lens: what can be read from encoder layers by the decoder, and from decoder layers by the output."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layertool.figures.choices import lens_of
from layertool.figures.panels import add_legend, draw_curve, name_ticks, palette, plain, plt
from layertool.result_rows import TOP_1, TOP_N

WIDTH, HEIGHT = 3.0, 2.0  # inches of a panel


def draw_lens(rows: pd.DataFrame) -> Figure:
    """A row of panels for each metric, encoder layers left and decoder layers right; a line for each model.

    Hollow marks: the search for top words was ended early for some stimuli. Raises UsageError for no rows of the lens.
    """
    chosen = lens_of(rows)
    rows, metrics, halves = chosen.rows, chosen.metrics, chosen.halves
    figure = plt.figure(figsize=(WIDTH * len(halves) + 0.6, HEIGHT * len(metrics) + 0.7), layout="constrained")
    axes = figure.subplots(len(metrics), len(halves), squeeze=False, sharex="col")
    curves = list(dict.fromkeys(rows["curve"]))
    colours = palette(len(curves))
    panels = []
    for number, (title, metric, layers, part) in enumerate(chosen.panels()):
        column, line = divmod(number, len(metrics))
        axis = axes[line, column]
        if line == 0:
            axis.set_title(plain(title), fontsize=9)
        for k, curve in enumerate(curves):
            points = part[part["curve"] == curve]
            colour = colours[k]
            draw_curve(axis, points["layer"].map(layers.index), points, label=plain(curve), color=colour, marker="o")
            ended = points[points["ended"]]
            axis.plot(
                ended["layer"].map(layers.index), ended["value"], "o", markersize=3.5, color="white",
                markeredgecolor=colour, zorder=3,
            )  # fmt: skip
        chance = part["chance"].to_numpy()
        if np.isfinite(chance).any():
            axis.axhline(np.nanmean(chance), color="0.5", linewidth=1, linestyle=(0, (2, 2)), label="chance")
        if metric in (TOP_1, TOP_N):
            own = rows.loc[rows["metric"] == metric, ["value", "ci_high"]].to_numpy()
            axis.set_ylim(-0.02 * (top := max(0.1, float(np.nanmax(own)))), 1.05 * top)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.set_xlim(-0.5, len(layers) - 0.5)
        name_ticks(axis.xaxis, layers, WIDTH - 0.8)
        if column == 0:
            axis.set_ylabel(plain(metric), fontsize=9)
        panels.append((axis, part))
    add_legend(figure, panels, [*curves, "chance"], at_side=False)
    return figure
