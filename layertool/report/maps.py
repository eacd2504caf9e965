"""Layer by layer maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from layertool.figures.choices import Map, maps_of
from layertool.figures.draw import MAX_WRITTEN_CELLS
from layertool.figures.panels import axis_limits
from layertool.figures.table import titles
from layertool.report.spec import Figure, Panel, Table, hover, layers_axis, layout, number, text


def heatmaps(rows: pd.DataFrame, title: str) -> list[Figure]:
    """A figure for each analysis and variant, whose maps share their colours. Raises UsageError as ``maps_of`` does."""
    groups = maps_of(rows)
    names = titles([fields for fields, *_ in groups])[1]
    figures = []
    for (fields, group, maps), name in zip(groups, names, strict=True):
        shared, own = titles([{**fields, "unit": one.fields["unit"]} for one in maps])
        low, high = axis_limits(group, None, columns=["value"], room=0)
        panels = [_panel(one, unit, (low, high)) for one, unit in zip(maps, own, strict=True)]
        tables = [_table(one, shared) for one in maps]
        whole = f"{title}: {name}" if name else title
        figures.append(Figure(whole, shared, panels, [], group.index.tolist(), tables))
    return figures


def _panel(one: Map, unit: str, colours: tuple[float, float]) -> Panel:
    """A map in its own axes: layers of the store along x, those it is compared with along y."""
    places = np.full(one.values.shape, -1)
    places[one.rows["row"].map(one.y.index), one.rows["layer"].map(one.x.index)] = one.rows.index
    names = (one.fields["curve"], one.fields["other"])
    texts = [[hover(one.rows.loc[k], f"{names[0]} {one.rows.loc[k, 'layer']}", f"{names[1]} {one.rows.loc[k, 'row']}") if k >= 0 else "" for k in line]
             for line in places]  # fmt: skip
    trace: dict[str, Any] = {
        "type": "heatmap", "x": [text(x) for x in one.x], "y": [text(y) for y in one.y],
        "z": [[float(v) if math.isfinite(v) else None for v in line] for line in one.values],
        "customdata": [[int(k) if k >= 0 else None for k in line] for line in places], "hovertext": texts, "hoverinfo": "text",
        "colorscale": "Viridis", "zmin": float(colours[0]), "zmax": float(colours[1]), "meta": "map", "xgap": 1, "ygap": 1,
        "colorbar": {"thickness": 12, "outlinewidth": 0, "len": 1},
    }  # fmt: skip
    if max(one.values.shape) <= MAX_WRITTEN_CELLS:
        trace |= {
            "text": [[_short(v) for v in line] for line in one.values],
            "texttemplate": "%{text}",
            "textfont": {"size": 10},
        }
    axes = layout(
        text(names[1]), None, layers_axis(one.x, names[0]), height=None, margin={"l": 60, "r": 8, "t": 8, "b": 50}
    )
    axes["yaxis"] |= {
        "type": "category", "categoryorder": "array", "categoryarray": [text(y) for y in one.y], "showgrid": False,
        "range": [-0.5, len(one.y) - 0.5],
    }  # fmt: skip
    axes["plot_bgcolor"] = "#cccccc"  # cells without a number
    title = ", ".join(filter(None, [f"{names[0]} and {names[1] if names[0] != names[1] else 'itself'}", unit]))
    return Panel(title, [trace], axes, aspect=min(max(len(one.y) / len(one.x), 0.35), 1.2))


def _short(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00") if math.isfinite(value) else ""


def _table(one: Map, shared: str) -> Table:
    lines = [
        [name, *(number(value) for value in line)]
        for name, line in zip(reversed(one.y), reversed(one.values), strict=True)
    ]
    caption = f"{shared}: layers of {one.fields['curve']} across, of {one.fields['other']} down"
    return Table(caption, ["layer", *one.x], lines)
