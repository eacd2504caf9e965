"""Figures of SpEAT: bars of models side by side, and d against parameters removed (Lin et al. 2024, figures 2 and 3)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from layertool.figures.choices import group_names, removed_of
from layertool.figures.panels import COLOURS, add_legend, draw_curve, label_x, new_panels, palette, plain, plt
from layertool.figures.table import PANEL, only_once, tidy

_BAR_INCHES, _GROUP_INCHES = 0.22, 1.4  # a bar, and at least for a group with its name


def draw_bars(rows: pd.DataFrame, ylabel: str | None = None) -> Figure:
    """A group of bars for each target, a bar for each model, with its interval. One number of each, so no layers."""
    rows = tidy(rows)
    only_once(rows, ["analysis", "variant", "target", "curve"])
    targets, curves = (list(dict.fromkeys(rows[column])) for column in ("target", "curve"))
    colours = palette(len(curves))
    width = max(3.4, max(_BAR_INCHES * (len(curves) + 1), _GROUP_INCHES) * len(targets) + 0.8)
    figure = plt.figure(figsize=(width + 2.2, 3.2), layout="constrained")
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    for k, curve in enumerate(curves):
        part = rows[rows["curve"] == curve].set_index("target").reindex(targets)
        place = np.arange(len(targets)) + (k - (len(curves) - 1) / 2) / (len(curves) + 1)
        value = part["value"].to_numpy()
        axis.bar(place, value, 1 / (len(curves) + 1), color=colours[k], label=plain(curve))
        known = part["ci_low"].notna().to_numpy()
        axis.vlines(place[known], part["ci_low"][known], part["ci_high"][known], color="0.2", linewidth=1)
    axis.axhline(0, color="0.3", linewidth=0.8)
    axis.set_xticks(range(len(targets)), list(map(plain, group_names(targets))), fontsize=8)
    axis.tick_params(labelsize=8)
    axis.set_ylabel(plain(ylabel or "value"), fontsize=9)
    add_legend(figure, [(axis, rows)], curves, at_side=True)
    return figure


def draw_removed(rows: pd.DataFrame, reference: str, ylabel: str | None = None) -> Figure:
    """A line for each kind of compression over the parameters removed; the unpruned model is a dashed line.

    ``rows``: with rows of the variant ``PARAMETERS`` that say how large each store's model is; ``reference``: the
    store that nothing was removed from. Stores of one folder are a line. Raises UsageError without them.
    """
    rows = removed_of(rows, reference)
    kinds = list(dict.fromkeys(rows["kind"][rows["store"] != reference]))
    figure, panels = new_panels(rows, PANEL, 3.8, 1.2, ylabel)
    for axis, part in panels:
        for k, kind in enumerate(kinds):
            points = part[(part["kind"] == kind) & (part["store"] != reference)]
            label = kind if len(kinds) > 1 else "compressed"
            draw_curve(axis, points["removed"], points, label=plain(label), color=COLOURS[k % len(COLOURS)], marker="o")
        for value in part["value"][part["store"] == reference]:
            axis.axhline(value, color="0.3", linestyle="--", linewidth=1, label="unpruned")
        axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    label_x(panels, "parameters removed")
    add_legend(figure, panels, [*(kinds if len(kinds) > 1 else ["compressed"]), "unpruned"], at_side=True)
    return figure
