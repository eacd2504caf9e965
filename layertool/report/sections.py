"""Which figures and tables result rows become: a section for each analysis, whatever is among the rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from layertool import outline, tables
from layertool.errors import UsageError
from layertool.figures import specification
from layertool.figures.canvas import quartiles
from layertool.figures.specification import Axis, Figure, Panel, Series
from layertool.report.inputs import Run
from layertool.result_rows import PARAMETERS
from layertool.tables import Table

MOST_LINES = 2000  # of a table on the page; the saved rows have all


@dataclass(frozen=True)
class Shown:
    """A figure, the same numbers as tables, and in ``short`` what is worth saying beside it."""

    figure: Figure
    tables: list[Table]
    short: Table | None = None
    source: str = "rows"  # which table of the page its rows are of


@dataclass
class Section:
    """Everything of one analysis. ``notes``: what could not be drawn, and why."""

    title: str
    figures: list[Shown] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def of_results(rows: pd.DataFrame) -> list[Section]:
    """``rows``: the tidy table of results with an index of its own; figures say by it which rows they show."""
    made = []
    for analysis, part in rows.groupby("analysis", sort=False):
        section = Section(specification.title_of(str(analysis)))
        for kind, own in outline.kinds(part):
            _add(section, kind, own, part)
            changed = outline.trajectories(own) if kind in ("curves", "bars") else own.iloc[:0]
            if len(changed):
                _add(section, "series", changed, part, "step")
        sizes = part[part["metric"] == PARAMETERS]
        whole = part[~outline.has_layers(part) & ~outline.is_single(part)]
        sized = whole[whole["store"].isin(sizes["store"]) & (outline.is_drawn(whole) | (whole["metric"] == PARAMETERS))]
        if sizes["value"].nunique() > 1 and len(sized) > len(sizes):
            _add(section, "removed", sized, part, "parameters")
        shown = {k for one in section.figures for k in one.figure.rows.index}
        told = whole[whole["metric"] != PARAMETERS]
        if len(told) and not section.notes:
            section.tables += tables.tables(told, width=tables.WIDE)
            shown |= set(told.index)
        rest = part[~part.index.isin(shown)]
        if len(rest):
            caption = "Rows that no figure shows" if section.figures else "Rows"
            section.tables.append(tables.long(rest, caption, MOST_LINES))
        made.append(section)
    return made


def _add(section: Section, kind: str, rows: pd.DataFrame, part: pd.DataFrame, x: str = "layer") -> None:
    """Add what can be drawn; rows that contradict each other are said so, and stay in the tables."""
    try:
        for figure in specification.figures_of(kind, rows, section.title, x, None, part):
            section.figures.append(Shown(figure, list(_numbers(figure)), _in_short(figure)))
    except UsageError as error:
        section.notes.append(f"A figure is left out: {error}.")


def _numbers(figure: Figure) -> Iterable[Table]:
    """Every number of a figure."""
    if figure.kind == "maps":
        yield from tables.matrices(figure.rows)
    elif figure.kind == "singles":
        yield _quartiles(figure)
    else:
        yield tables.long(figure.rows, outline.heading([figure.title, figure.caption]))


def _quartiles(figure: Figure) -> Table:
    """Numbers of −∞ are the smallest, and counted."""
    lines = []
    for panel in figure.panels:
        for one in panel.series:
            for group, values in pd.Series(one.y).groupby(np.array(one.x, object), sort=False):
                marked = [tables.number(float(mark)) for mark in quartiles(values.to_numpy())]
                n_infinite = int((~np.isfinite(values)).sum())
                lines.append([panel.y, one.mark.name, str(group), str(len(values)), *marked, str(n_infinite or "")])
    heads = ["metric", "model", "stimuli", "n", "lower quartile", "median", "upper quartile", "at −∞"]
    return Table("Numbers of single stimuli", heads, lines, n_heads=3)


def _in_short(figure: Figure) -> Table | None:
    """For each curve over layers its highest layer, and how many layers are above chance."""
    lines = []
    for panel in figure.panels if figure.kind == "curves" else ():
        for one in panel.series:
            points = one.points
            if one.kind != "curve" or points is None or points["value"].notna().sum() == 0 or len(points) < 2:
                continue
            best = points.loc[points["value"].idxmax()]
            sides = [tables.against_chance(row) for _, row in points.iterrows()]
            judged = len(sides) - sides.count("")
            above = f"{sides.count('above')} of {judged}" if judged else ""
            numbers = [tables.with_interval(best), tables.number(best["chance"]), above]
            lines.append([outline.heading([panel.y, panel.title]), one.mark.name, str(best["layer"]), *numbers])
    heads = ["panel", "curve", "layer", "highest value", "chance", "layers above chance"]
    caption = "In short: the highest value of each curve"
    return Table(caption, heads, lines, n_heads=2) if lines else None


def of_runs(runs: Sequence[Run]) -> tuple[list[Section], pd.DataFrame]:
    """Training curves, a figure for each kind of run and quantity, and their points: run, step, quantity, value."""
    points = pd.DataFrame(
        [
            (name, step, quantity, value, run.kind)
            for run, name in zip(runs, names_of(runs), strict=True)
            for quantity, pairs in run.curves.items()
            for step, value in pairs
        ],
        columns=["run", "step", "quantity", "value", "kind"],
    )
    section = Section("Training curves")
    for (kind, quantity), own in points.groupby(["kind", "quantity"], sort=False):
        section.figures.append(_losses(f"{kind[:1].upper()}{kind[1:]}", str(quantity), own))
    silent = [name for run, name in zip(runs, names_of(runs), strict=True) if not run.curves]
    section.notes += [f"{name} has no losses: nothing was trained, or it has not begun." for name in silent]
    return ([section] if runs else []), points.drop(columns="kind")


def _losses(title: str, quantity: str, rows: pd.DataFrame) -> Shown:
    rows = rows.assign(ci_low=math.nan, ci_high=math.nan, chance=math.nan, n=math.nan)
    looks = specification.marks(rows["run"].unique())
    series = [
        Series(
            "curve",
            looks[str(name)],
            own["step"].tolist(),
            own["value"].tolist(),
            own,
            [f"step {step}" for step in own["step"]],
        )
        for name, own in rows.groupby("run", sort=False)
    ]
    lines = [[row.run, str(row.step), tables.number(row.value)] for row in rows.itertuples()]
    panel = Panel("", quantity, Axis("step", numbers=rows["step"].clip(lower=1)), None, series)
    figure = Figure("losses", title, quantity, [panel], list(looks.values()), rows, 1)
    return Shown(figure, [Table(f"{title}: {quantity}", ["run", "step", quantity], lines)], source="losses")


def names_of(runs: Sequence[Run]) -> list[str]:
    """A name for each run: as many last parts of its path as tell it from the others."""
    parts = [run.folder.resolve().parts for run in runs]
    for n in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run.folder) for run in runs]
