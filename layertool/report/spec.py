"""What the page is made of: figures of panels, tables, and the marks of their series.

A panel is a figure of plotly as plain data. Every trace has its series as ``meta``, by which the page switches it on and off, and
every point its row of the table as ``customdata``, by which the page saves rows.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from layertool.figures.panels import palette

DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot", "8px,2px,2px,2px,2px,2px")  # dots are of chance
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
PATTERNS = ("", "/", "x", "\\", "-", "|", "+", ".")
GREY, BAND = "#6b6b6b", 0.16  # chance and zero; how dense a band is
HEIGHT = 300  # pixels of a panel


@dataclass(frozen=True)
class Mark:
    """How a series is drawn, told apart by colour, by dash and by marker: one of them is left in any print."""

    key: str
    name: str
    colour: str
    dash: str = "solid"
    symbol: str | None = "circle"
    pattern: str | None = None  # of bars

    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "dash": self.dash, "width": 1.8}


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ``aspect``: height over width of maps, else the height is fixed."""

    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    aspect: float | None = None


@dataclass(frozen=True)
class Table:
    """Cells as text. The first ``n_heads`` cells of a line are its name."""

    caption: str
    head: list[str]
    lines: list[list[str]]
    n_heads: int = 1


@dataclass(frozen=True)
class Figure:
    """Panels that share a legend, the numbers of the rows they show, and tables with the same numbers.

    ``source``: which table of the page the rows are of. ``short``: what is worth saying beside the figure.
    """

    title: str
    caption: str
    panels: list[Panel]
    legend: list[Mark]
    rows: list[int]
    tables: list[Table]
    source: str = "rows"
    short: Table | None = None


@dataclass
class Section:
    """Everything of one analysis. ``notes``: what could not be drawn, and why."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def text(value: object) -> str:
    """Text for plotly, which reads a little HTML: names of models have none."""
    return html.escape(str(value), quote=False).replace("\n", "<br>")


def number(value: float | None, digits: int = 4) -> str:
    """A number for a person: 0.4321, 12.3, 1 133, −∞; "" for none."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.{digits}g}" if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.3g}"


def interval(low: float, high: float) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f"{number(low)} to {number(high)}"


def against_chance(row: pd.Series) -> str:
    """Whether a row's interval is above its chance level, below, or around it; "" where one of them is unknown."""
    if row[["ci_low", "ci_high", "chance"]].isna().any():
        return ""
    if row["ci_low"] > row["chance"]:
        return "above"
    return "below" if row["ci_high"] < row["chance"] else "around"


def hover(row: pd.Series, *names: str) -> str:
    """What the pointer reads: the number, its interval, chance and n."""
    value = number(row["value"])
    between = interval(row["ci_low"], row["ci_high"])
    lines = [", ".join(text(name) for name in names if name), f"<b>{value}</b>" + (f" [{between}]" if between else "")]
    if not math.isnan(row["chance"]):
        side = against_chance(row)
        lines.append(f"chance {number(row['chance'])}" + (f" ({side})" if side else ""))
    if not pd.isna(row["n"]):
        lines.append(f"n = {number(float(row['n']))}")
    return "<br>".join(lines)


def marks(names: Sequence[str], prefix: str = "s") -> dict[str, Mark]:
    """A mark for each name."""
    colours = [_hex(colour) for colour in palette(len(names))]
    return {
        name: Mark(f"{prefix}{k}", name, colours[k], DASHES[k % len(DASHES)], SYMBOLS[k % len(SYMBOLS)], PATTERNS[k % len(PATTERNS)])
        for k, name in enumerate(names)
    }  # fmt: skip


def _hex(colour: Any) -> str:
    """A colour of matplotlib as #rrggbb."""
    if isinstance(colour, str):
        return colour
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])


def band_colour(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{BAND})"


def chance_mark(name: str = "chance") -> Mark:
    return Mark("chance", name, GREY, "dot", None)


def finite(values: Iterable[float]) -> list[float | None]:
    """Numbers as JSON has them: None where there is none to draw."""
    return [float(value) if math.isfinite(value) else None for value in values]


def layout(
    y_title: str, limits: tuple[float, float] | None, x: dict[str, Any], height: int | None = HEIGHT, **more: Any
) -> dict[str, Any]:
    """Axes as all panels have them. ``limits``: of y, None lets plotly choose; ``x``: the x axis."""
    grid = {"gridcolor": "#e6e6e6", "zeroline": False, "linecolor": "#444", "ticks": "outside", "automargin": True}
    y: dict[str, Any] = {**grid, "title": {"text": y_title, "font": {"size": 12}, "standoff": 8}}
    if limits is not None:
        y["range"] = [float(limit) for limit in limits]
    return {
        "xaxis": {**grid, "showgrid": False, **x},
        "yaxis": y,
        "showlegend": False,
        "margin": {"l": 52, "r": 12, "t": 8, "b": 44},
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Arial, sans-serif", "size": 12, "color": "#1a1a1a"},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": "#1a1a1a"}, "align": "left"},
        "dragmode": False,
        **({"height": height} if height else {}),
        **more,
    }


def x_title(title: str) -> dict[str, Any]:
    return {"title": {"text": text(title), "font": {"size": 12}, "standoff": 6}}


def layers_axis(layers: Sequence[str], title: str = "layer") -> dict[str, Any]:
    """The x axis of layers, in their order."""
    names = [text(layer) for layer in layers]
    return {
        **x_title(title), "type": "category", "categoryorder": "array", "categoryarray": names,
        "range": [-0.5, len(names) - 0.5],
    }  # fmt: skip
