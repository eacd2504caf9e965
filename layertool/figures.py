"""Figures from result rows."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd

from layertool.errors import UsageError
from layertool.files import whole_file

matplotlib.use("Agg")  # files only; must come before pyplot

from matplotlib import pyplot as plt

FORMATS = (".png", ".pdf", ".svg")
# Okabe and Ito's colours: told apart by colour-blind readers and in greyscale print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def layer_curves(rows: pd.DataFrame, path: Path | str, ylabel: str) -> Path:
    """One panel per target: a curve over layers for each model, single-layer models and chance as lines.

    ``rows``: the table of results. Bands are the rows' intervals. Raises UsageError for other formats
    than PNG, PDF, SVG.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise UsageError(f"{path} has no known figure format: end it in {', '.join(FORMATS)}")
    targets = list(dict.fromkeys(rows["target"]))
    figure, axes = plt.subplots(
        1, len(targets), figsize=(0.6 + 3.6 * len(targets), 3.4), layout="constrained", squeeze=False
    )
    for axis, target in zip(axes[0], targets, strict=True):
        _panel(axis, rows[rows["target"] == target])
        axis.set_title(target)
    axes[0, 0].set_ylabel(ylabel)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=200)
    plt.close(figure)
    return path


def _panel(axis, rows: pd.DataFrame) -> None:
    layers: list[str] = []
    curves: list[tuple[str, pd.DataFrame]] = []
    lines: list[tuple[str, pd.DataFrame]] = []
    for model, part in rows.groupby("model", sort=False):
        (curves if len(part) > 1 else lines).append((model, part.sort_values("layer_index")))
    for k, (model, part) in enumerate(curves):
        layers = list(part["layer"]) if len(part) > len(layers) else layers
        place = [layers.index(layer) for layer in part["layer"]]
        axis.plot(place, part["value"], "o-", color=COLOURS[k % len(COLOURS)], markersize=3.5, label=model)
        axis.fill_between(
            place, part["ci_low"], part["ci_high"], color=COLOURS[k % len(COLOURS)], alpha=0.2, linewidth=0
        )
    for k, (model, part) in enumerate(lines):
        style = {"color": COLOURS[(len(curves) + k) % len(COLOURS)], "linestyle": DASHES[k % len(DASHES)]}
        axis.axhline(part["value"].iloc[0], label=model, linewidth=1.3, **style)
    axis.axhline(rows["chance"].max(), color="0.6", linewidth=1, label="chance")
    axis.set_xticks(range(len(layers)), layers, rotation=90 if len(layers) > 8 else 0, fontsize=8)
    axis.set_xlabel("layer")
    axis.set_ylim(0, 1)
    axis.spines[["top", "right"]].set_visible(False)
