"""Figures from result rows: curves over layers, layer by layer maps, and series of checkpoints.

``layer_curves``, ``heatmaps`` and ``series`` write a file; the ``draw_…`` functions return the Figure.
They draw nothing but rows of the table of results.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from layertool.errors import UsageError
from layertool.figures.bias import draw_bars, draw_removed
from layertool.figures.draw import draw_heatmaps, draw_layer_curves, draw_series
from layertool.figures.lens import draw_lens
from layertool.figures.lexical import draw_distributions
from layertool.figures.panels import plt
from layertool.figures.table import families
from layertool.files import whole_file

__all__ = [
    "FORMATS",
    "bars",
    "distributions",
    "draw_bars",
    "draw_distributions",
    "draw_heatmaps",
    "draw_layer_curves",
    "draw_lens",
    "draw_removed",
    "draw_series",
    "families",
    "heatmaps",
    "layer_curves",
    "lens",
    "removed",
    "series",
]

FORMATS = (".png", ".pdf", ".svg")
# No dates and no random names in a file: the same rows give the same bytes. And fonts that publishers accept.
METADATA: dict[str, dict] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
SETTINGS: Any = {
    "svg.hashsalt": "layertool",
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.05,
}


def layer_curves(rows: pd.DataFrame, path: Path | str, ylabel: str | None = None) -> Path:
    """Write curves over layers, one panel per analysis, variant, unit and target, as PNG, PDF or SVG.

    ``rows``: the table of results; ``ylabel``: default what all panels have in common. A curve is a
    store; its band is the rows' intervals. Raises UsageError for other formats, for no rows, and for
    two results for the same point.
    """
    return _write(path, lambda: draw_layer_curves(rows, ylabel))


def heatmaps(rows: pd.DataFrame, path: Path | str, label: str | None = None) -> Path:
    """Write layer by layer maps, one panel per analysis, variant, unit and pair of stores, as PNG, PDF or SVG.

    ``rows``: the table of results, where ``target`` is a layer of the same store ("T3") or "OTHER:T3",
    with the folder name of the other store. ``label``: of the colour bars, which the panels of one
    analysis and variant share. Raises UsageError for other formats and rows that are no matrix.
    """
    return _write(path, lambda: draw_heatmaps(rows, label))


def series(rows: pd.DataFrame, path: Path | str, x: str = "step", ylabel: str | None = None) -> Path:
    """Write a line per layer over training steps (or another numeric column ``x``), as PNG, PDF or SVG.

    One panel per analysis, variant, unit and target, and per model where there are several. Raises
    UsageError for other formats, rows without ``x``, and fewer than two values of it.
    """
    return _write(path, lambda: draw_series(rows, x, ylabel))


def bars(rows: pd.DataFrame, path: Path | str, ylabel: str | None = None) -> Path:
    """Write a group of bars for each target, one bar for each model, as PNG, PDF or SVG."""
    return _write(path, lambda: draw_bars(rows, ylabel))


def removed(rows: pd.DataFrame, path: Path | str, reference: str, ylabel: str | None = None) -> Path:
    """Write numbers of compressed models over the parameters removed from the store ``reference``, as PNG, PDF or SVG."""
    return _write(path, lambda: draw_removed(rows, reference, ylabel))


def distributions(rows: pd.DataFrame, path: Path | str) -> Path:
    """Write violins of lexical results of single stimuli, for each model and masker, as PNG, PDF or SVG."""
    return _write(path, lambda: draw_distributions(rows))


def lens(rows: pd.DataFrame, path: Path | str) -> Path:
    """Write the lexical lens: metrics over encoder layers and over decoder layers, as PNG, PDF or SVG."""
    return _write(path, lambda: draw_lens(rows))


def _write(path: Path | str, draw: Callable[[], Figure]) -> Path:
    """Draw and save, whole or not at all; the same rows give the same bytes."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise UsageError(f"{path} has no known figure format: end it in {', '.join(FORMATS)}")
    figure = draw()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, matplotlib.rc_context(SETTINGS):
            figure.savefig(temporary, format=path.suffix[1:], metadata=METADATA[path.suffix])
    finally:
        plt.close(figure)
    return path


def draw(rows, file=None, **how):
    """The figure of result rows."""
    raise NotImplementedError


def svg(rows) -> str:
    """The figure of result rows for a notebook."""
    return ""
