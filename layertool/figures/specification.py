"""What a figure shows, whoever draws it: panels with axes, curves, bars, violins or a map, and the look of each series.

``specifications`` makes them of result rows; nothing here draws. matplotlib and the page of ``layertool.report`` draw
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from layertool import outline
from layertool.errors import UsageError
from layertool.layerwise import measure, of_rows
from layertool.layerwise.lexical_rows import EVERYTHING, TOP_1, TOP_N, UNFINISHED
from layertool.outline import AXES, NUMBERS, PANEL, check_axis, layer_order, only_once

# Okabe and Ito's colours: told apart by colour-blind readers and in greyscale print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLOUR_MAP = "viridis"
DARK = 0.88  # the part of the colour map that can be seen as a line on white
GREY = "#6b6b6b"  # of chance and zero
DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot", "8px,2px,2px,2px,2px,2px")  # dots are of chance
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
PATTERNS = ("", "/", "x", "\\", "-", "|", "+", ".")
OWN_CHANCE, HIGHEST_CHANCE = "chance of each curve", "highest chance of a layer"  # in legends
SAME_CHANCE = 0.01  # of the height of the axis: chance levels as close as this are one line
LOG_RATIO = 100
SHARE_TOP = 1.05  # an axis of shares that need not go higher ends at 1, with the intervals
LOWEST_THIRD = 1 / 3  # unless curves would lie so low that nothing can be told of them
MAX_COLUMNS = 4
OVER = {"step": "training", "parameters": "parameters removed", "layer": "layers", "depth": "relative depth"}


@dataclass(frozen=True)
class Mark:
    """How a series is drawn, told apart by colour, by dash and by marker: one of them is left in any print."""

    key: str
    name: str
    colour: str
    dash: str = "solid"
    symbol: str | None = "circle"
    pattern: str | None = None  # of bars


@dataclass(frozen=True)
class Series:
    """Numbers of one series. ``kind``: curve, level (one number across the panel), chance, bars or violin.

    ``x``: names of the axis, or numbers; ``points``: the rows of ``y``, whose intervals are bands, None for what is of
    no row; ``names``: of the points; ``hollow``: which marks are.
    """

    kind: str
    mark: Mark
    x: list[Any]
    y: list[float]
    points: pd.DataFrame | None = None
    names: list[str] = field(default_factory=list)
    hollow: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class Axis:
    """The x axis: ``names`` in their order, or the numbers that stand on it."""

    title: str
    names: list[str] | None = None
    numbers: pd.Series | None = None

    @property
    def scale(self) -> str:
        """ "log" where checkpoints lie far apart, "symlog" (a linear start) where there is a step 0 too, else
        "linear"."""
        if self.numbers is None:
            return "linear"
        positive = self.numbers[self.numbers > 0]
        if self.numbers.min() >= 0 and positive.max() > LOG_RATIO * positive.min():
            return "symlog" if (self.numbers == 0).any() else "log"
        return "linear"

    @property
    def least(self) -> float:
        """The least positive number: up to it, an axis with a linear start is linear."""
        return float(self.numbers[self.numbers > 0].min())  # type: ignore[index,operator]

    @property
    def decades(self) -> list[float]:
        """The powers of ten between the positive numbers."""
        last = math.floor(math.log10(self.numbers.max()))  # type: ignore[union-attr]
        return [10.0**k for k in range(math.ceil(math.log10(self.least)), last + 1)]


@dataclass(frozen=True)
class Map:
    """A layer by layer map: values (layers down, layers across) with NaN where there is no row, and the row of each, or
    -1."""

    values: np.ndarray
    rows: np.ndarray
    x: list[str]
    y: list[str]
    names: tuple[str, str]


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ``y``: what the numbers are; ``limits``: of y (of the colours of a map), None for any."""

    title: str
    y: str
    x: Axis
    limits: tuple[float, float] | None
    series: list[Series] = field(default_factory=list)
    map: Map | None = None


@dataclass(frozen=True)
class Figure:
    """Panels that share a legend. ``kind``: as ``outline.kinds``; ``rows``: tidy ones that it shows; ``columns``: of
    panels."""

    kind: str
    title: str
    caption: str
    panels: list[Panel]
    legend: list[Mark]
    rows: pd.DataFrame
    columns: int

    @property
    def is_ordered(self) -> bool:
        """Whether its series are layers, whose colours go from dark to light."""
        return self.kind in ("series", "removed") and outline.is_layer(self.legend[0].name)


def specifications(
    rows: pd.DataFrame, x: str = "layer", reference: str | Path | None = None, names: Sequence[str] | None = None
) -> list[Figure]:
    """The figures of result rows over ``x``: layer, depth, step, parameters (removed from the store ``reference``).

    Raises UsageError for rows that have no such axis, and for two results of one point.
    """
    check_axis(x)
    figures = []
    for analysis, part in outline.tidy(rows, names).groupby("analysis", sort=False):
        title = title_of(str(analysis))
        for kind, own in outline.kinds(part, x):
            own = outline.of_models(own) if x in ("step", "parameters") else own
            figures += list(figures_of(kind, own, title, x, reference, part))
    if not figures:
        raise UsageError("there are no results to draw: check the files and what was asked of them")
    return figures


def title_of(analysis: str) -> str:
    """An analysis as a heading: CCA, SpEAT, Word discrimination."""
    known = of_rows(analysis)
    if known is not None and known.__name__.lower() == analysis:
        return known.__name__
    return analysis[:1].upper() + analysis[1:]


def figures_of(
    kind: str, rows: pd.DataFrame, title: str, x: str, reference: str | Path | None, part: pd.DataFrame
) -> Iterator[Figure]:
    """The figures of one kind of rows; ``part``: all rows of their analysis. Raises UsageError as
    ``specifications``."""
    over = f"{title} over {OVER[x]}"
    if kind == "maps":
        yield from _maps(rows, title)
    elif kind == "curves":
        yield _curves(rows, over, x, part)
    elif kind == "bars":
        yield _bars(rows, title)
    elif kind == "singles":
        yield _singles(rows, f"{title}: single stimuli")
    else:
        yield _changes(outline.change(rows, x, reference), over, kind, x)


def shades(n: int) -> list[str]:
    """Colours from dark to light, as #rrggbb."""
    return [matplotlib.colors.to_hex(one) for one in matplotlib.colormaps[COLOUR_MAP](np.linspace(0, DARK, n))]


def marks(names: Iterable[str], colours: Sequence[str] | None = None) -> dict[str, Mark]:
    """A mark for each name: colours that everybody can tell apart, or shades where there are too many."""
    names = list(names)
    if colours is None:
        colours = COLOURS[: len(names)] if len(names) <= len(COLOURS) else shades(len(names))
    return {
        name: Mark(
            f"s{k}", name, colour, DASHES[k % len(DASHES)], SYMBOLS[k % len(SYMBOLS)], PATTERNS[k % len(PATTERNS)]
        )
        for k, (name, colour) in enumerate(zip(names, colours, strict=True))
    }


def chance_mark(name: str = "chance") -> Mark:
    return Mark("chance" if name != OWN_CHANCE else "own-chance", name, GREY, "dot", None)


def label_of(rows: pd.DataFrame) -> str:
    """What the numbers of rows of one metric are, for an axis."""
    first = rows.iloc[0]
    return measure(first["analysis"], first["metric"]).label


def axis_limits(rows: pd.DataFrame, columns: Sequence[str] = NUMBERS, room: float = 0.05) -> tuple[float, float]:
    """Bottom and top of an axis for rows of one metric: 0 and 1 for shares, below 0 only for numbers that are."""
    numbers = rows[list(columns)].to_numpy()
    numbers = numbers[np.isfinite(numbers)]
    low, high = (numbers.min(), numbers.max()) if len(numbers) else (0.0, 1.0)
    low = 0.0 if low > -1e-9 else low  # rounding
    room *= high - min(low, 0.0) or 1.0
    first = rows.iloc[0]
    share = measure(first["analysis"], first["metric"]).is_share and (high == 0 or LOWEST_THIRD <= high <= SHARE_TOP)
    return float(low - room if low < 0 else 0.0), float(max(1.0, high) if share else high + room)


def _parts(rows: pd.DataFrame, fields: Sequence[str]) -> Iterator[tuple[str, str, tuple[float, float], pd.DataFrame]]:
    """(title, quantity, limits, rows) of each panel. Panels of one quantity can be compared: their axes are the same.

    The metrics come in the order of the rows, their panels side by side. Titles say what differs beside the metric.
    """
    differ = outline.differing(rows, [name for name in fields if name not in ("analysis", "metric")])
    for _, of_metric in rows.groupby(["analysis", "metric"], sort=False):
        limits = axis_limits(of_metric)
        for key, part in of_metric.groupby(list(fields), sort=False):
            one = dict(zip(fields, key, strict=True))
            words = [one[name] for name in ("target", "unit", "group", "family", "own") if name in differ]
            yield outline.heading(words) or one.get("target", ""), label_of(part), limits, part


def _columns(panels: Sequence[Panel]) -> int:
    """As few columns as the fewest rows allow; metrics with as many panels each stand in rows."""
    counts = [sum(panel.y == name for panel in panels) for name in dict.fromkeys(panel.y for panel in panels)]
    if len(counts) > 1 and set(counts) == {counts[0]} and 1 < counts[0] <= MAX_COLUMNS:
        return counts[0]
    return math.ceil(len(panels) / math.ceil(len(panels) / MAX_COLUMNS))


def _caption(rows: pd.DataFrame) -> str:
    """What all rows share, which their panels do not say."""
    alike = [name for name in ("target", "unit") if rows[name].nunique() == 1]
    said = [rows[alike[0]].iloc[0]] if alike[:1] == ["target"] else []
    said += [f"{rows['unit'].iloc[0]} rows"] if "unit" in alike and rows["unit"].iloc[0] else []
    return outline.heading([*said, *outline.common(rows)])


def _curve(mark: Mark, x: Sequence[Any], points: pd.DataFrame, names: Sequence[str], kind: str = "curve") -> Series:
    return Series(kind, mark, list(x), points["value"].tolist(), points, list(names))


def _curves(rows: pd.DataFrame, title: str, x: str, everything: pd.DataFrame) -> Figure:
    """Curves over layers; a store whose layers no network has (mel, a baseline) is a level across the panel."""
    only_once(rows, [*PANEL, "label", "layer"])
    is_level = outline.is_level(rows)
    looks = marks(dict.fromkeys([*rows["label"][~is_level], *rows["label"]]))
    for name in rows["label"][is_level].unique():
        looks[name] = replace(looks[name], symbol=None, pattern=None)
    depth = rows["layer_index"] / rows["layer_index"].where(~is_level).groupby(rows["label"]).transform("max")
    ended = _ended(everything)
    panels, legend = [], list(looks.values())
    for name, quantity, limits, part in _parts(rows, PANEL):
        if x == "depth":
            where = depth[part.index]
            axis = Axis(AXES[x], numbers=where)
        else:
            where = part["layer"]
            axis = Axis(AXES[x], _axis_layers(rows, part, is_level))
        across: list[Any] = [0.0, 1.0] if axis.names is None else axis.names
        series: list[Series] = []
        for label, points in part.groupby("label", sort=False):
            mark = looks[str(label)]
            if is_level[points.index[0]]:
                wide = points.iloc[:1].loc[points.index[:1].repeat(len(across))]
                series.append(_curve(mark, across, wide, wide["layer"], "level"))
                continue
            points = points.loc[_order(points, axis)]
            hollow = [
                (row.label, row.layer) in ended and row.metric in (TOP_1.name, TOP_N.name)
                for row in points.itertuples()
            ]
            series.append(replace(_curve(mark, where[points.index], points, points["layer"]), hollow=hollow))
        series = [*_chances(series, limits, across), *series]
        legend = list(dict.fromkeys([*legend, *map(_key, series)]))
        panels.append(Panel(name, quantity, axis, limits, series))
    said = "Hollow marks: the search for the most likely words was ended early for some stimuli." if ended else ""
    return Figure(
        "curves", title, ". ".join(filter(None, [_caption(rows), said])), panels, legend, rows, _columns(panels)
    )


def _order(points: pd.DataFrame, axis: Axis) -> pd.Index:
    places = points["layer_index"] if axis.names is None else points["layer"].map(axis.names.index)
    return places.sort_values(kind="stable").index


def _axis_layers(rows: pd.DataFrame, part: pd.DataFrame, is_level: pd.Series) -> list[str]:
    """The layers of a panel: those of all panels, but of panels that have no layer in common with it."""
    shown = rows[~is_level]
    own = set(part["layer"][~is_level])
    others = shown.groupby(PANEL, sort=False)["layer"].agg(set)
    return layer_order(shown[shown["layer"].isin(set().union(*(other for other in others if other & own)))])


def _ended(rows: pd.DataFrame) -> set[tuple[str, str]]:
    """Store and layer of numbers whose search for top words was cut short for some stimuli."""
    cut = (rows["metric"] == UNFINISHED.name) & (rows["group"] == "")
    return set(rows.loc[cut, ["label", "layer"]].itertuples(index=False, name=None))


def _key(one: Series) -> Mark:
    """The series' entry in the legend."""
    return chance_mark(one.mark.name) if one.kind == "chance" else one.mark


def _is_one_level(chance: Iterable[float], limits: tuple[float, float]) -> bool:
    """Whether levels of chance are so close, on an axis with these limits, that they are one line."""
    return max(chance) - min(chance) <= SAME_CHANCE * (limits[1] - limits[0])


def _chances(curves: Sequence[Series], limits: tuple[float, float], across: list[Any]) -> list[Series]:
    """One grey line where chance is the same for all, else a thin dotted line for each curve."""
    known = [(one, one.points["chance"].to_numpy()) for one in curves if one.points is not None]
    known = [(one, levels) for one, levels in known if np.isfinite(levels).any()]
    if not known:
        return []
    every = np.concatenate([levels[np.isfinite(levels)] for _, levels in known])
    if _is_one_level(every, limits):
        return [
            Series("chance", chance_mark(), across, [float(every.max())] * len(across), names=["chance"] * len(across))
        ]
    made = []
    for one, levels in known:
        mark = Mark("own-chance", OWN_CHANCE, one.mark.colour, "dot", None)
        made.append(Series("chance", mark, one.x, levels.tolist(), names=[f"chance of {one.mark.name}"] * len(levels)))
    return made


def _changes(rows: pd.DataFrame, title: str, kind: str, x: str) -> Figure:
    """Lines over ``x`` of the rows: of each layer, a panel for each family; of whole models, of each family.

    The model that nothing was removed from is a level across the panel, or the beginning of the lines of layers.
    """
    layered = bool(outline.has_layers(rows).any())
    fields = [*PANEL, "family"] if layered else PANEL
    if not layered and rows["family"].nunique() == 1:
        rows = rows.assign(family="all layers" if x == "step" else "compressed")
    line = "layer" if layered else "family"
    only_once(rows, list(dict.fromkeys([*fields, line, "x"])))
    layers = layer_order(rows) if layered else []
    looks = marks(layers, shades(len(layers))) if layered else marks(rows["family"].unique())
    unpruned = Mark("unpruned", "unpruned", GREY, "dash", None)
    panels, legend = [], list(looks.values())
    axis = Axis(AXES[x], numbers=rows["x"] if layered else rows["x"][~rows["is_reference"]])
    for name, quantity, limits, part in _parts(rows, fields):
        series = []
        if not layered and part["is_reference"].any():
            whole, part = part[part["is_reference"]].iloc[[0, 0]], part[~part["is_reference"]]
            ends = [axis.numbers.min(), axis.numbers.max()]  # type: ignore[union-attr]
            series.append(_curve(unpruned, ends, whole, ["unpruned"] * 2, "level"))
        chance = part.groupby("x")["chance"].agg(["min", "max"]).dropna()
        if len(chance):
            is_level = all(_is_one_level(levels, limits) for levels in chance.to_numpy())
            mark = chance_mark("chance" if is_level else HIGHEST_CHANCE)
            series.append(
                Series("chance", mark, chance.index.tolist(), chance["max"].tolist(), names=[mark.name] * len(chance))
            )
        for key, points in part.groupby(line, sort=False):
            points = points.sort_values("x", kind="stable")
            series.append(
                _curve(looks[str(key)], points["x"], points, [f"{axis.title} {value:.15g}" for value in points["x"]])
            )
        legend = list(dict.fromkeys([*legend, *map(_key, series)]))
        panels.append(Panel(name, quantity, axis, limits, series))
    return Figure(kind, title, _caption(rows), panels, legend, rows, _columns(panels))


def _bars(rows: pd.DataFrame, title: str) -> Figure:
    """A panel for each metric and unit, in it a group of bars for each target, a bar for each store and setting."""
    only_once(rows, ["analysis", "metric", "own", "unit", "target", "label", "layer"])
    names = _bar_names(rows)
    looks = marks(names.unique())
    panels = []
    for name, quantity, _, part in _parts(rows, ["analysis", "metric", "unit"]):
        low, high = axis_limits(part, NUMBERS[:3])
        targets = list(dict.fromkeys(part["target"]))
        shown = dict(zip(targets, short_targets(targets), strict=True))
        series = [
            _curve(looks[str(bar)], points["target"].map(shown), points, points["target"], "bars")
            for bar, points in part.groupby(names[part.index], sort=False)
        ]
        panels.append(Panel(name, quantity, Axis("", list(shown.values())), (low, max(high, 0.0)), series))
    return Figure("bars", title, _caption(rows), panels, list(looks.values()), rows, _columns(panels))


def _bar_names(rows: pd.DataFrame) -> pd.Series:
    """The label of each bar, with layer and settings where one store has several."""
    extra = [name for name in ("layer", "own") if rows.groupby(["label", "metric", "target"])[name].nunique().max() > 1]
    return pd.Series([outline.heading(row[["label", *extra]]) for _, row in rows.iterrows()], rows.index)


def short_targets(targets: Sequence[str]) -> list[str]:
    """Targets of association tests without the attributes, where these are the same for all."""
    attributes = {target.rpartition(", ")[2] for target in targets}
    return [
        (target.rpartition(", ")[0] or target) if len(attributes) == 1 else target.replace(", ", "\n")
        for target in targets
    ]


def _singles(rows: pd.DataFrame, title: str) -> Figure:
    """Violins of single stimuli for each store and group; a panel for each metric."""
    several = rows.groupby(["label", "metric"])["own"].nunique().max() > 1
    names = rows["label"] + (", " + rows["own"] if several else "")
    looks = marks(names.unique())
    groups = sorted(set(rows["group"]))
    groups = [EVERYTHING, *(groups if len(groups) > 1 else [])]
    panels = []
    for _, part in rows.groupby(["analysis", "metric"], sort=False):
        series = []
        for name, points in part.groupby(names[part.index], sort=False):
            wide = pd.concat([points, *(points[points["group"] == group] for group in groups[1:])])
            x = [EVERYTHING] * len(points) + [
                group for group in groups[1:] for _ in range((points["group"] == group).sum())
            ]
            series.append(_curve(looks[str(name)], x, wide, wide["item"], "violin"))
        panels.append(Panel("", label_of(part), Axis("", groups), None, series))
    caption = (
        "A violin for each model and group of stimuli, from left to right as in the legend; the box holds the "
        "middle half of "
        "the stimuli"
    )
    return Figure("singles", title, caption, panels, list(looks.values()), rows, 1)


def _maps(rows: pd.DataFrame, title: str) -> Iterator[Figure]:
    """A figure for each metric and setting, whose maps share their colours: within a store, or of two."""
    only_once(rows, ["analysis", "metric", "own", "unit", "label", "layer", "target"])
    rows = outline.of_pairs(rows)
    folders = rows[["store", "label"]].drop_duplicates()
    folders["store"] = folders["store"].map(lambda store: Path(store).name)
    known = folders.drop_duplicates("store", keep=False).set_index("store")["label"].to_dict()
    rows["other"] = rows["label"].where(rows["other"] == "", rows["other"].replace(known))
    for (_, _, own), group in rows.groupby(["analysis", "metric", "own"], sort=False):
        limits, panels = axis_limits(group, ["value"], room=0), []
        for (unit, label, other), part in group.groupby(["unit", "label", "other"], sort=False):
            x, found = layer_order(part), list(dict.fromkeys(part["row"]))
            order = layer_order(rows[rows["label"] == other])  # empty for a store that is only compared with
            y = [layer for layer in order if layer in found]
            y += sorted((name for name in found if name not in order), key=outline.place)
            places = part["row"].map(y.index), part["layer"].map(x.index)
            values, numbers = np.full((len(y), len(x)), np.nan), np.full((len(y), len(x)), -1)
            values[places], numbers[places] = part["value"], part.index
            title_of_panel = str(unit) if group["unit"].nunique() > 1 else ""
            shown = Map(values, numbers, x, y, (str(label), str(other)))
            panels.append(Panel(title_of_panel, label_of(part), Axis(str(label), x), limits, map=shown))
        name = outline.heading([label_of(group), str(own)])
        yield Figure("maps", f"{title}: {name}", _caption(group.assign(target="")), panels, [], group, _columns(panels))
