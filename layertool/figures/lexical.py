"""Figures of listeners' lexical responses: how likely they are, and how often listeners hear the target (Cuervo and Marxer, figure 3)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from layertool.figures.choices import stimuli_of
from layertool.figures.panels import palette, plain, plt, text_length
from layertool.result_rows import EVERYTHING, LIKELIHOOD, SURPLUS

LABELS = {
    LIKELIHOOD: LIKELIHOOD,
    SURPLUS: "frequency minus probability\nof the target word",
}
FEW = 5  # values that are drawn as points, not as a violin


def draw_distributions(rows: pd.DataFrame) -> Figure:
    """Violins of each stimulus's number for each model and masker, with their quartiles; one panel for each metric.

    ``rows``: with those of single stimuli. Numbers of -inf are counted beside the violin, not drawn.
    """
    rows = stimuli_of(rows, LABELS)
    groups = sorted(set(rows["group"]))
    groups = [EVERYTHING, *(groups if len(groups) > 1 else [])]
    metrics = [name for name in LABELS if (rows["metric"] == name).any()]
    curves = list(dict.fromkeys(rows["curve"]))
    colours = palette(len(curves))
    width = max(4.2, 0.35 * len(curves) * len(groups) + 1.4)
    figure = plt.figure(figsize=(width + 0.4, 2.6 * len(metrics) + 0.3 + 0.2 * len(curves)), layout="constrained")
    axes = figure.subplots(len(metrics), 1, squeeze=False, sharex=True)[:, 0]
    for axis, name in zip(axes, metrics, strict=True):
        for k, curve in enumerate(curves):
            part = rows[(rows["curve"] == curve) & (rows["metric"] == name)]
            for g, group in enumerate(groups):
                values = part["value"] if group == EVERYTHING else part["value"][part["group"] == group]
                place = g + (k - (len(curves) - 1) / 2) * 0.8 / len(curves)
                _violin(axis, place, 0.72 / len(curves), values.to_numpy(), colours[k])
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylabel(LABELS[name], fontsize=9)
        axis.tick_params(labelsize=8)
        if name != metrics[0] or (len(metrics) == 1 and name != LIKELIHOOD):
            axis.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes[-1].set_xlim(-0.5, len(groups) - 0.5)
    axes[-1].set_xticks(range(len(groups)), list(map(plain, groups)), fontsize=9)
    columns = max(1, int(width / (text_length(curves) + 0.6)))
    handles = [Patch(color=colours[k], label=plain(curve)) for k, curve in enumerate(curves)]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    return figure


def _violin(axis: Axes, place: float, width: float, values: np.ndarray, colour) -> None:
    finite = values[np.isfinite(values)]
    if len(finite) < FEW:
        axis.plot([place] * len(finite), finite, ".", color=colour, markersize=5)
    elif np.ptp(finite) > 0:
        drawn = axis.violinplot(finite, [place], widths=width, showextrema=False, points=200)
        for body in drawn["bodies"]:  # type: ignore[attr-defined]
            body.set(facecolor=colour, alpha=0.45, linewidth=0)
    if not len(values):
        return
    # of all values: -inf is the smallest; a quartile that is -inf has no place on the axis
    low, middle, high = np.quantile(
        values, [0.25, 0.5, 0.75], method="linear" if len(finite) == len(values) else "lower"
    )
    if np.isfinite(high):
        axis.vlines(place, max(low, finite.min()), high, color=colour, linewidth=2.5)
    if np.isfinite(middle):
        axis.plot(place, middle, marker="o", markersize=4, color="white", markeredgecolor=colour, markeredgewidth=1.2)
    if len(finite) < len(values):
        text = f"{len(values) - len(finite)} at −∞"
        where = ("data", "axes fraction")
        axis.annotate(text, (place, 0), xycoords=where, fontsize=8, color=colour, rotation=90, ha="center", va="bottom")
