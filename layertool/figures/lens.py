"""The lexical lens: what can be read from encoder layers by the decoder, and from decoder layers by the output."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layertool.errors import UsageError
from layertool.figures.panels import add_legend, draw_curve, name_ticks, palette, plt
from layertool.figures.table import layer_order, only_once, tidy
from layertool.results import EVERYTHING, LIKELIHOOD, TAU, TOP_1, TOP_N, UNFINISHED, metrics_of

METRICS = (LIKELIHOOD, TAU, TOP_N, TOP_1)
HALVES = {"encoder layers, read by the decoder": False, "decoder layers, read by the output": True}
WIDTH, HEIGHT = 3.0, 2.0  # inches of a panel


def draw_lens(rows: pd.DataFrame) -> Figure:
    """A row of panels for each metric, encoder layers left and decoder layers right; a line for each model.

    Hollow marks: the search for top words was ended early for some stimuli. Raises UsageError for no rows of the lens.
    """
    rows = tidy(rows)
    rows["metric"] = metrics_of(rows)
    rows = rows[rows["target"] == EVERYTHING]
    cut = set(rows.loc[rows["metric"] == UNFINISHED, ["curve", "layer"]].itertuples(index=False, name=None))
    rows = rows[rows["metric"].isin(METRICS)]
    if rows.empty:
        raise UsageError("these results have no layers of the lexical lens: draw what 'layertool lexical lens' writes")
    only_once(rows, ["metric", "target", "curve", "layer"])
    rows["of_decoder"] = rows["layer"].str.startswith("D")
    metrics = [name for name in METRICS if (rows["metric"] == name).any()]
    halves = {title: half for title, half in HALVES.items() if (rows["of_decoder"] == half).any()}
    figure = plt.figure(figsize=(WIDTH * len(halves) + 0.6, HEIGHT * len(metrics) + 0.7), layout="constrained")
    axes = figure.subplots(len(metrics), len(halves), squeeze=False, sharex="col")
    curves = list(dict.fromkeys(rows["curve"]))
    colours = palette(len(curves))
    panels = []
    for column, (title, half) in enumerate(halves.items()):
        layers = layer_order(rows[rows["of_decoder"] == half].assign(variant="", target=""))
        axes[0, column].set_title(title, fontsize=9)
        for line, metric in enumerate(metrics):
            axis, part = axes[line, column], rows[(rows["metric"] == metric) & (rows["of_decoder"] == half)]
            for k, curve in enumerate(curves):
                points = part[part["curve"] == curve]
                colour = colours[k]
                draw_curve(axis, points["layer"].map(layers.index), points, label=curve, color=colour, marker="o")
                ended = points[[metric in (TOP_1, TOP_N) and (curve, layer) in cut for layer in points["layer"]]]
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
                axis.set_ylabel(metric, fontsize=9)
            panels.append((axis, part))
    add_legend(figure, panels, [*curves, "chance"], at_side=False)
    return figure
