"""Figures from result rows: curves over layers, layer by layer maps, bars, single stimuli, series of checkpoints.

``draw`` makes one of matplotlib; ``specification`` says what it shows, for the page of ``layertool.report`` too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from layertool.errors import UsageError
from layertool.files import check_suffix, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def draw(
    rows: pd.DataFrame,
    file: Path | str | None = None,
    x: str = "layer",
    reference: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """The figure of result rows, written to ``file`` (.png, .pdf or .svg), whole or not at all, where one is named.

    ``x``: the axis: layer, depth (the share of the layers below), step, or parameters, removed from the store
    ``reference`` (default: the largest); ``names``: labels of the stores, in their order. Panels are of one metric,
    target, unit and setting; bands are the rows' intervals. The same rows give the same bytes. Raises UsageError for
    other suffixes, for rows without that axis, and for two results of one point.
    """
    if file is not None:
        check_suffix(Path(file), FORMATS, "figure format")
    from layertool.figures import canvas, specification

    shown = specification.specifications(rows, x, reference, names)
    whole = {one.title.partition(":")[0] for one in shown if one.kind == "singles"}  # their means stand in tables
    figure = canvas.draw([one for one in shown if one.kind != "bars" or one.title not in whole])
    if file is not None:
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            _save(figure, temporary, path.suffix)
    return figure


def svg(rows: pd.DataFrame) -> str:
    """The figure of result rows as SVG, for a notebook; "" for rows that no figure shows."""
    try:
        figure = draw(rows)
    except UsageError:
        return ""
    text = io.StringIO()
    _save(figure, text, ".svg")
    return text.getvalue()[text.getvalue().index("<svg") :]


def _save(figure: Figure, place: Any, suffix: str) -> None:
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        figure.savefig(place, format=suffix[1:], metadata=METADATA[suffix])
