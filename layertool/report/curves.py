"""Figures with lines: over layers, over checkpoints, over parameters removed, and the lexical lens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from layertool.figures.choices import (
    HIGHEST_CHANCE,
    OWN_CHANCE,
    curves_of,
    decades_of,
    is_one_level,
    lens_of,
    removed_of,
    scale_of,
    series_of,
)
from layertool.figures.panels import axis_limits, shades
from layertool.figures.table import PANEL, split, titles
from layertool.report import lines
from layertool.report.spec import (
    DASHES,
    GREY,
    SYMBOLS,
    Figure,
    Mark,
    Panel,
    Table,
    against_chance,
    chance_mark,
    interval,
    layers_axis,
    layout,
    marks,
    number,
    text,
    x_title,
)
from layertool.result_rows import TOP_1, TOP_N

MAX_Y_TITLE = 40  # characters that fit beside a panel


def over_layers(rows: pd.DataFrame, title: str) -> Figure:
    """Curves over layers, a panel for each analysis, variant, unit and target. Raises UsageError as ``curves_of`` does."""
    chosen = curves_of(rows)
    known = marks(chosen.names)
    parts = split(chosen.rows, PANEL)
    shared, names = titles([fields for fields, _ in parts])
    levels = {name for name, points in chosen.rows.groupby("curve") if chosen.is_level(points)}
    legend = [replace(mark, symbol=None) if name in levels else mark for name, mark in known.items()]
    panels = []
    for (_, part), name in zip(parts, names, strict=True):
        limits = _limits(chosen.rows, part)
        data = []
        layers = [text(layer) for layer in chosen.layers]
        for curve, points in part.groupby("curve", sort=False):
            mark = known[str(curve)]
            if chosen.is_level(points):
                data += lines.level(points.iloc[:1], layers, mark)
                continue
            points = _in_order(points, chosen.layers)
            data += lines.curve(points, points["layer"].map(text).tolist(), mark, points["layer"].tolist())
        chance, level = _chance(part, chosen.layers, limits, known)
        if level is not None and level not in legend:
            legend.append(level)
        axes = layout(_y_title(shared, part), limits, layers_axis(chosen.layers), shapes=_zero(limits))
        panels.append(Panel(name, [*chance, *data], axes))
    tables = [_table(name or shared, part, "layer") for (_, part), name in zip(parts, names, strict=True)]
    short = _in_short(parts, names, chosen.layers)
    return Figure(title, shared, panels, legend, chosen.rows.index.tolist(), tables, short=short)


def over_checkpoints(rows: pd.DataFrame, title: str, x: str = "step") -> Figure:
    """A line for each layer over the steps of checkpoints. Raises UsageError as ``series_of`` does."""
    rows, fields, layers = series_of(rows, x)
    known = {
        layer: Mark(f"l{k}", layer, _shade(k, len(layers)), DASHES[k % len(DASHES)], SYMBOLS[k % len(SYMBOLS)])
        for k, layer in enumerate(layers)
    }
    place, axis = _steps_axis(rows[x], x)
    parts = split(rows, fields)
    shared, names = titles([panel for panel, _ in parts])
    legend, panels = list(known.values()), []
    for (_, part), name in zip(parts, names, strict=True):
        limits = _limits(rows, part)
        data = []
        chance = part.groupby(x)["chance"].agg(["min", "max"]).dropna()
        if len(chance):
            same = all(is_one_level(levels, limits) for _, levels in chance.iterrows())
            mark = chance_mark("chance" if same else HIGHEST_CHANCE)
            legend += [mark] if mark not in legend else []
            texts = [f"{text(mark.name)} {number(level)}" for level in chance["max"]]
            data.append(lines.path(chance["max"].tolist(), [place(step) for step in chance.index], mark, texts))
        for layer, points in part.groupby("layer", sort=False):
            points = points.sort_values(x, kind="stable")
            said = [f"{x} {number(step)}" for step in points[x]]
            data += lines.curve(points, [place(step) for step in points[x]], known[str(layer)], said)
        panels.append(Panel(name, data, layout(_y_title(shared, part), limits, axis, shapes=_zero(limits))))
    tables = [_table(name or shared, part, x) for (_, part), name in zip(parts, names, strict=True)]
    return Figure(title, shared, panels, legend, rows.index.tolist(), tables)


def over_removed(rows: pd.DataFrame, title: str, reference: str) -> Figure:
    """A line for each folder of compressed models over the parameters removed from the model of store ``reference``."""
    rows = removed_of(rows, reference)
    pruned = rows[rows["store"] != reference]
    known = marks(list(dict.fromkeys(pruned["kind"])))
    unpruned = Mark("unpruned", "unpruned", GREY, "dash", None)
    parts = split(rows, PANEL)
    shared, names = titles([panel for panel, _ in parts])
    panels = []
    ends = [float(pruned["removed"].min()), float(pruned["removed"].max())]
    for (_, part), name in zip(parts, names, strict=True):
        limits = _limits(rows, part)
        data = [
            lines.constant(value, ends, unpruned, "unpruned")
            for value in part["value"][part["store"] == reference]
        ]  # fmt: skip
        for kind, points in part[part["store"] != reference].groupby("kind", sort=False):
            points = points.sort_values("removed", kind="stable")
            said = [f"{number(removed)} parameters removed" for removed in points["removed"]]
            data += lines.curve(points, points["removed"].astype(float).tolist(), known[str(kind)], said)
        axis = {**x_title("parameters removed"), "tickformat": "~s"}
        panels.append(Panel(name, data, layout(_y_title(shared, part), limits, axis, shapes=_zero(limits))))
    tables = [_table(name or shared, part, "removed") for (_, part), name in zip(parts, names, strict=True)]
    return Figure(title, shared, panels, [*known.values(), unpruned], rows.index.tolist(), tables)


def lens(rows: pd.DataFrame, title: str) -> Figure:
    """The lexical lens: a panel for each metric and half of the network. Hollow marks: searches that were ended early."""
    chosen = lens_of(rows)
    known = marks(list(dict.fromkeys(chosen.rows["curve"])))
    panels, tables, legend = [], [], list(known.values())
    for half, metric, layers, part in chosen.panels():
        data = []
        for curve, points in part.groupby("curve", sort=False):
            mark = known[str(curve)]
            points = _in_order(points, layers)
            made = lines.curve(points, points["layer"].map(text).tolist(), mark, points["layer"].tolist())
            for trace in made:
                if "marker" in trace:
                    trace["marker"]["symbol"] = [
                        f"{mark.symbol}-open" if ended else mark.symbol for ended in points["ended"]
                    ]
            data += made
        chance = part["chance"].dropna()
        if len(chance):
            names = [text(layer) for layer in layers]
            data.insert(0, lines.constant(float(chance.mean()), names, chance_mark(), "chance"))
            legend += [chance_mark()] if chance_mark() not in legend else []
        limits = _limits(chosen.rows.assign(variant=chosen.rows["metric"]), part.assign(variant=metric))
        if metric in (TOP_1, TOP_N):  # shares that are small
            own = chosen.rows.loc[chosen.rows["metric"] == metric, ["value", "ci_high"]]
            limits = (0.0, 1.05 * max(0.1, float(np.nanmax(own.to_numpy()))))
        axes = layout(text(metric), limits, layers_axis(layers), shapes=_zero(limits))
        panels.append(Panel(f"{metric}, {half}", data, axes))
        tables.append(_table(f"{metric}, {half}", part, "layer"))
    caption = "Hollow marks: the search for the most likely words was ended early for some stimuli."
    return Figure(title, caption, panels, legend, chosen.rows.index.tolist(), tables)


def losses(title: str, runs: Sequence[tuple[str, Sequence[tuple[int, float]], Sequence[int]]], quantity: str) -> Figure:
    """Training curves: (name of the run, (step, number) pairs, rows of the page's table of losses)."""
    known = marks([name for name, _, _ in runs], "r")
    data = []
    for name, points, places in runs:
        texts = [
            f"{text(name)}, step {number(float(step))}<br><b>{text(quantity)} {number(loss)}</b>"
            for step, loss in points
        ]
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "x": [step for step, _ in points], "y": [loss for _, loss in points],
                "line": known[name].line(), "marker": {"symbol": known[name].symbol, "size": 5, "color": known[name].colour},
                "name": text(name), "meta": known[name].key, "customdata": list(places), "hovertext": texts, "hoverinfo": "text",
            }
        )  # fmt: skip
    lines_of = [
        [name, str(step), number(loss)]
        for name, points, _ in runs
        for step, loss in points
    ]  # fmt: skip
    table = Table(f"{title}: {quantity}", ["run", "step", quantity], lines_of)
    panel = Panel("", data, layout(text(quantity), None, {**x_title("step"), "tickformat": "~s"}))
    places = [place for _, _, own in runs for place in own]
    return Figure(title, quantity, [panel], list(known.values()), places, [table], source="losses")


def _in_order(points: pd.DataFrame, layers: Sequence[str]) -> pd.DataFrame:
    return points.iloc[np.argsort([layers.index(layer) for layer in points["layer"]], kind="stable")]


def _limits(rows: pd.DataFrame, part: pd.DataFrame) -> tuple[float, float]:
    """Panels of one quantity can be compared: their axes are the same."""
    same = rows[(rows["analysis"] == part["analysis"].iloc[0]) & (rows["variant"] == part["variant"].iloc[0])]
    low, high = axis_limits(same, None)
    return low, high + 0.02 * (high - low)  # marks at the very top are whole


def _zero(limits: tuple[float, float]) -> list[dict[str, Any]]:
    return lines.zero_line() if limits[0] < 0 < limits[1] else []


def _y_title(shared: str, part: pd.DataFrame) -> str:
    """What the numbers of a panel are, in short: what all panels share is in the caption."""
    first = shared.partition(": ")[2].split(" (")[0].split(", ")[0]
    if not first[:1].isalnum():  # panels of different metrics
        first = str(part["variant"].iloc[0]).split(", ")[0]
    return text(first if len(first) <= MAX_Y_TITLE else first[: MAX_Y_TITLE - 1] + "…")


def _chance(
    part: pd.DataFrame, layers: Sequence[str], limits: tuple[float, float], known: dict[str, Mark]
) -> tuple[list[dict[str, Any]], Mark | None]:
    """One grey line where chance is the same for all, else a thin dotted line for each curve; and its mark."""
    there = part[part["chance"].notna()]
    if there.empty:
        return [], None
    names = [text(layer) for layer in layers]
    if is_one_level(there["chance"], limits):
        return [lines.constant(float(there["chance"].max()), names, chance_mark(), "chance")], chance_mark()
    made = []
    for curve, points in there.groupby("curve", sort=False):
        mark = Mark("own-chance", OWN_CHANCE, known[str(curve)].colour, "dot", None)
        label = f"chance of {curve}"
        if points["layer"].iloc[0] not in layers:
            made.append(lines.constant(float(points["chance"].iloc[0]), names, mark, label))
            continue
        points = _in_order(points, layers)
        texts = [
            f"{text(label)}, {text(layer)}: {number(level)}"
            for layer, level in zip(points["layer"], points["chance"], strict=True)
        ]
        made.append(lines.path(points["chance"].tolist(), points["layer"].map(text).tolist(), mark, texts))
    return made, Mark("own-chance", OWN_CHANCE, GREY, "dot", None)


def _steps_axis(values: pd.Series, name: str) -> tuple[Callable[[float], float], dict[str, Any]]:
    """Where a step stands, and the axis. plotly has no logarithm with a linear start: its places are made here."""
    scale = scale_of(values)
    axis: dict[str, Any] = {**x_title(name.replace("_", " "))}
    if scale == "linear":
        return float, axis | {"tickformat": "~s"}
    if scale == "log":
        return float, axis | {"type": "log", "tickformat": "~s", "dtick": 1}
    least = float(values[values > 0].min())
    ticks = [0.0, *(10.0**k for k in decades_of(values))]

    def place(step: float) -> float:
        return step / least if step <= least else 1 + math.log10(step / least)

    return place, axis | {"tickvals": [place(tick) for tick in ticks], "ticktext": [number(tick) for tick in ticks]}


def _shade(k: int, n: int) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in shades(n)[k][:3])


def _table(caption: str, part: pd.DataFrame, x: str) -> Table:
    """Every number of a panel."""
    series = {"layer": ("curve", "layer"), "removed": ("curve", "layer")}.get(x, ("layer", x))
    heads = [*(series if x != "removed" else ("curve", "removed")), "value", "95 % interval", "chance", "against chance", "n"]  # fmt: skip
    out = []
    for _, row in part.iterrows():
        first = [row[name] if isinstance(row[name], str) else number(float(row[name])) for name in heads[:2]]
        out.append(
            [*first, number(row["value"]), interval(row["ci_low"], row["ci_high"]), number(row["chance"]), against_chance(row),
             "" if pd.isna(row["n"]) else number(float(row["n"]))]
        )  # fmt: skip
    return Table(caption.replace("\n", ", "), heads, out, n_heads=2)


def _in_short(
    parts: Sequence[tuple[dict[str, str], pd.DataFrame]], names: Sequence[str], layers: Sequence[str]
) -> Table | None:
    """For each curve its highest layer, and how many layers are above chance."""
    out = []
    for (_, part), name in zip(parts, names, strict=True):
        for curve, points in part.groupby("curve", sort=False):
            if points["value"].notna().sum() == 0 or points["layer"].nunique() < 2:
                continue
            best = points.loc[points["value"].idxmax()]
            sides = [against_chance(row) for _, row in points.iterrows()]
            judged = len(sides) - sides.count("")
            between = interval(best["ci_low"], best["ci_high"])
            highest = f"{number(best['value'])}" + (f" [{between}]" if between else "")
            above = f"{sides.count('above')} of {judged}" if judged else ""
            out.append(
                [name.replace("\n", ", "), str(curve), str(best["layer"]), highest, number(best["chance"]), above]
            )
    heads = ["panel", "curve", "layer", "highest value", "chance", "layers above chance"]
    if not out:
        return None
    if len(parts) == 1:
        heads, out = heads[1:], [line[1:] for line in out]
    return Table("In short: the highest value of each curve", heads, out, n_heads=1 if len(parts) == 1 else 2)
