"""Figures of whole models: bars side by side, and violins of single stimuli."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layertool.figures.choices import group_names
from layertool.figures.panels import axis_limits
from layertool.figures.table import only_once, split, tidy
from layertool.report import lines
from layertool.report.choosing import own_of_variant
from layertool.report.spec import (
    Figure,
    Mark,
    Panel,
    Table,
    against_chance,
    band_colour,
    finite,
    hover,
    interval,
    layout,
    marks,
    number,
    text,
    x_title,
)
from layertool.result_rows import EVERYTHING, metrics_of

TALL = 340  # pixels of a panel whose groups have long names
TICKS = {"type": "category", "automargin": True}


def bars(rows: pd.DataFrame, title: str) -> Figure:
    """A panel for each metric, in it a group of bars for each target, a bar for each model and variant.

    Raises UsageError for two results of one bar.
    """
    rows = tidy(rows)
    only_once(rows, ["analysis", "variant", "unit", "target", "curve", "layer"])
    rows["metric"] = metrics_of(rows)
    fields = ["analysis", "metric", "unit"]
    several = rows.groupby("curve")["layer"].nunique().max() > 1
    rows["bar"] = rows["curve"] + (", " + rows["layer"] if several else "")
    for _, part in rows.groupby(fields, sort=False):
        variants = list(dict.fromkeys(part["variant"]))
        own = part["variant"].map({variant: own_of_variant(variant, variants) for variant in variants})
        rows.loc[part.index, "bar"] += own.where(own == "", ", " + own)
    known = marks(list(dict.fromkeys(rows["bar"])))
    parts = split(rows, fields)
    names = [
        ", ".join(panel[name] for name in ("metric", "unit") if name == "metric" or rows["unit"].nunique() > 1)
        for panel, _ in parts
    ]
    shared = "; ".join(dict.fromkeys(rows["variant"])) if rows["variant"].nunique() == 1 else ""
    panels, tables = [], []
    for (panel, part), name in zip(parts, names, strict=True):
        low, high = axis_limits(part, None, columns=["value", "ci_low", "ci_high"])
        high = max(high, 0.0)  # bars begin at 0
        targets = list(dict.fromkeys(part["target"]))
        shown = dict(zip(targets, (text(group) for group in group_names(targets)), strict=True))
        data = [_bars(own, known[str(bar)], shown) for bar, own in part.groupby("bar", sort=False)]
        axes = layout(
            text(panel["metric"]), (low, high + 0.02 * (high - low)), {**x_title(""), **TICKS}, height=TALL, barmode="group",
            shapes=lines.zero_line() if low < 0 else [],
        )  # fmt: skip
        panels.append(Panel(name if len(parts) > 1 else "", data, axes))
        tables.append(_table(name, part))
    return Figure(title, shared, panels, list(known.values()), rows.index.tolist(), tables)


def _bars(points: pd.DataFrame, mark: Mark, shown: dict[str, str]) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "bar", "x": [shown[target] for target in points["target"]], "y": finite(points["value"]), "name": text(mark.name), "meta": mark.key,
        "marker": {"color": mark.colour, "line": {"color": "#222222", "width": 0.6}, "pattern": {"shape": mark.pattern, "solidity": 0.25, "fgcolor": "#ffffff", "bgcolor": mark.colour}},
        "customdata": [int(k) for k in points.index], "hoverinfo": "text",
        "hovertext": [hover(row, mark.name, row["target"]) for _, row in points.iterrows()],
    }  # fmt: skip
    known = points[["ci_low", "ci_high"]].notna().all(axis=1)
    if known.any():
        above, below = (points["ci_high"] - points["value"]).where(known, 0.0), (points["value"] - points["ci_low"])
        trace["error_y"] = {
            "type": "data", "symmetric": False, "array": finite(above), "arrayminus": finite(below.where(known, 0.0)),
            "color": "#222222", "thickness": 1.2, "width": 3,
        }  # fmt: skip
    return trace


def _table(caption: str, part: pd.DataFrame) -> Table:
    heads = ["model", "target", "value", "95 % interval", "chance", "against chance", "n"]
    out = [
        [row["bar"], row["target"], number(row["value"]), interval(row["ci_low"], row["ci_high"]), number(row["chance"]),
         against_chance(row), "" if pd.isna(row["n"]) else number(float(row["n"]))]
        for _, row in part.iterrows()
    ]  # fmt: skip
    return Table(caption.replace("\n", ", "), heads, out, n_heads=2)


def violins(rows: pd.DataFrame, labels: dict[str, str], title: str) -> Figure:
    """Single stimuli of the lexical analysis, as ``stimuli_of`` gives them: a panel for each metric of ``labels``.

    Numbers of −∞ have no place on the axis: the table counts them.
    """
    curves = list(dict.fromkeys(rows["curve"]))
    known = marks(curves)
    groups = [EVERYTHING, *(own if len(own := sorted(set(rows["group"]))) > 1 else [])]
    panels, out = [], []
    for metric, label in labels.items():
        data = []
        for curve in curves:
            part = rows[(rows["curve"] == curve) & (rows["metric"] == metric)]
            x: list[str] = []
            places: list[int] = []
            for group in groups:
                own = part if group == EVERYTHING else part[part["group"] == group]
                x += [text(group)] * len(own)
                places += own.index.tolist()
                out.append([metric, str(curve), group, *_quartiles(own["value"].to_numpy())])
            mark = known[curve]
            data.append(
                {
                    "type": "violin", "x": x, "y": finite(rows["value"].loc[places]), "customdata": [int(k) for k in places], "name": text(curve),
                    "meta": mark.key, "scalegroup": text(curve), "points": False, "box": {"visible": True, "width": 0.25}, "meanline": {"visible": True},
                    "line": {"color": mark.colour, "width": 1.4}, "fillcolor": band_colour(mark.colour), "spanmode": "hard",
                }
            )  # fmt: skip
        axes = layout(text(label.replace("\n", " ")), None, {**x_title(""), **TICKS}, height=TALL, violinmode="group")
        panels.append(Panel(metric, data, axes))
    heads = ["metric", "model", "stimuli", "n", "lower quartile", "median", "upper quartile", "at −∞"]
    table = Table("Numbers of single stimuli", heads, [line for line in out if line[3] != "0"], n_heads=3)
    caption = "A violin for each model and masker, from left to right as in the legend; the box holds the middle half of the stimuli, the dashed line is the mean."
    return Figure(title, caption, panels, list(known.values()), rows.index.tolist(), [table])


def _quartiles(values: np.ndarray) -> list[str]:
    if not len(values):
        return ["0", "", "", "", ""]
    all_finite = bool(np.isfinite(values).all())
    marked = np.quantile(values, [0.25, 0.5, 0.75], method="linear" if all_finite else "lower")
    return [str(len(values)), *(number(float(one)) for one in marked), str(int((~np.isfinite(values)).sum()) or "")]
