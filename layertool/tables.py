"""The one printer of result rows: tables that fit a terminal, and the same as HTML.

Layers stand down in network order, what differs (store, metric, setting, target) across, matrices layer by layer; a
series has steps down and layers across. Below stand chance, baselines, how many rows there are, and the settings that
all have.
"""

from __future__ import annotations

import html as markup
import math
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from layertool import outline
from layertool.figures.specification import label_of, short_targets, title_of
from layertool.outline import PANEL, layer_order, only_once
from layertool.result_rows import BASELINE, CORRECTED, EFFECT, PARAMETERS, P, settings_of
from layertool.spelling import visible

WIDTH = 80
WIDE = 150  # of tables on a page, which can be scrolled
MAX_HEAD, MAX_WORD, MAX_KEY = 12, 20, 34  # characters of a head, of its words, of a line's name, before they are folded
MIN_KEY = 6
SIGNIFICANT = 0.05
OTHER_WAY = "†"
SPLIT = ("unit", "group", "target", "own", "label", "metric")  # a table of its own first, where one is too wide


@dataclass(frozen=True)
class Table:
    """Cells as text. The first ``n_heads`` cells of a line are its name; the last ``n_feet`` lines stand below a rule.

    ``notes``: lines below it.
    """

    caption: str
    head: list[str]
    lines: list[list[str]]
    n_heads: int = 1
    n_feet: int = 0
    notes: list[str] = field(default_factory=list)


def text(
    rows: pd.DataFrame,
    brief: bool = False,
    x: str = "layer",
    reference: str | Path | None = None,
    names: Sequence[str] | None = None,
    width: int = WIDTH,
) -> str:
    """Result rows as tables of at most ``width`` columns.

    ``brief``: the main metrics, without intervals; ``x``, ``reference`` and ``names`` as ``layertool.figures.draw``.
    """
    return "\n\n".join(
        "\n".join(line.rstrip() for line in _printed(table, width))
        for table in tables(rows, brief, x, reference, names, width)
    )


def html(rows: pd.DataFrame) -> str:
    """The same tables as HTML, for a notebook."""
    return "\n".join(
        html_table(table) + "".join(f"<p>{escaped(note)}</p>" for note in table.notes)
        for table in tables(rows, width=WIDE)
    )


def html_table(table: Table) -> str:
    """A table as HTML, without its notes."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in table.head)
    lines = "\n".join(f"<tr>{_html_cells(line, table.n_heads)}</tr>" for line in table.lines)
    caption = f"<caption>{escaped(table.caption)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table>"


def escaped(words: str) -> str:
    """Text of anybody as HTML."""
    return markup.escape(visible(str(words)))


def _html_cells(line: Sequence[str], n_heads: int) -> str:
    heads = "".join(f'<th scope="row">{escaped(cell)}</th>' for cell in line[:n_heads])
    return heads + "".join(f"<td>{escaped(cell)}</td>" for cell in line[n_heads:])


def tables(
    rows: pd.DataFrame,
    brief: bool = False,
    x: str = "layer",
    reference: str | Path | None = None,
    names: Sequence[str] | None = None,
    width: int = WIDTH,
) -> list[Table]:
    """The tables of result rows, those of an analysis one after the other; see ``text``."""
    if rows.empty:
        return []
    made: list[Table] = []
    for _, part in outline.tidy(rows, names).groupby("analysis", sort=False):
        own = list(_tables(part, brief, x, reference, width))
        own[-1:] = [replace(one, notes=[*one.notes, *_shared(part)]) for one in own[-1:]]
        made += own
    return made


def _tables(part: pd.DataFrame, brief: bool, x: str, reference: str | Path | None, width: int) -> Iterator[Table]:
    """The tables of one analysis."""
    if x in ("step", "parameters"):
        ((_, shown),) = outline.kinds(part, x)
        yield from _changes(outline.change(shown, x, reference), x, brief, width)
        return
    runs = outline.trajectories(part[outline.has_layers(part) & outline.is_drawn(part)])
    if x == "layer" and len(runs):
        yield from _changes(outline.steps(runs), "step", brief, width)
        part = part.drop(part.index[part["label"].isin(runs["label"])])
    tests = part["metric"].isin([EFFECT, P, *CORRECTED])
    if (part["metric"] == P).any():
        whole = part[tests & ~outline.has_layers(part)]
        yield from _tests(whole if len(whole) else part[tests], brief, width)
        part = part[(part["metric"] == EFFECT) & outline.has_layers(part)] if len(whole) else part.iloc[:0]
    drawn = outline.is_drawn(part)
    yield from _kinds(part[drawn], brief, x, width)
    if not brief:
        yield from _kinds(part[~drawn & (part["metric"] != PARAMETERS)], True, x, width)


def _kinds(rows: pd.DataFrame, brief: bool, x: str, width: int) -> Iterator[Table]:
    for kind, own in outline.kinds(rows, whole=True):
        if kind == "maps":
            yield from matrices(own)
        elif kind == "curves":
            yield from _split(own, lambda part: _layers(part, brief, x), width)
        elif kind == "bars":
            yield from (_whole(part, brief) for _, part in own.groupby("unit", sort=False))
        else:
            counted = [f"{n} of {metric}" for metric, n in own["metric"].value_counts(sort=False).items()]
            yield Table(f"single stimuli, which -o FILE holds: {', '.join(counted)}", [], [])


def _split(rows: pd.DataFrame, make: Callable[[pd.DataFrame], Table], width: int) -> Iterator[Table]:
    """One table where it fits, else one for each value of what is best looked at alone; levels stand below the last
    store."""
    level = outline.is_level(rows) & (rows["layer"].nunique() > 1)
    layered = rows[~level]
    apart = outline.differing(layered, SPLIT)
    table = make(rows)
    if not apart or ("unit" not in apart and (len(apart) == 1 or _width(table) <= width)):
        yield table
        return
    parts = list(layered.groupby(apart[0], sort=False))
    for k, (value, part) in enumerate(parts):
        if apart[0] != "label":
            part = pd.concat([part, rows[level & (rows[apart[0]] == value)]])
        elif k == len(parts) - 1:
            part = pd.concat([part, rows[level]])
        yield from _split(part, make, width)


def _caption(rows: pd.DataFrame, but: Sequence[str] = ()) -> str:
    """What the rows of a table have in common: analysis, store, target, unit, metric."""
    first = rows.iloc[0]
    alike = [name for name in ("target", "unit", "group", "own") if name not in but and rows[name].nunique() == 1]
    if "unit" in alike and first["unit"] in ("", first["target"]):  # phones of phones are phones
        alike.remove("unit")
    words = [f"{first[name]} rows" if name == "unit" else first[name] for name in alike]
    title = title_of(first["analysis"])
    if "label" not in but and rows["label"].nunique() == 1 and first["label"]:
        title += f" of {first['label']}"
    title = outline.heading([title, *words])
    return title if rows["metric"].nunique() > 1 else f"{title}: {label_of(rows)}"


def _shared(rows: pd.DataFrame) -> list[str]:
    """How many rows there are, and the settings that all have; those of all rows of one metric with its name."""
    rows = rows[(rows["metric"] != PARAMETERS) & ~outline.is_single(rows)]
    return [] if rows.empty else list(filter(None, [n_of(rows), *settings_in(rows)]))


def settings_in(rows: pd.DataFrame) -> list[str]:
    """The settings that all rows of one analysis have; those of all rows of some metrics with their names."""
    shared = outline.common(rows)
    own: dict[str, list[str]] = {}
    for metric, part in rows.groupby("metric", sort=False):
        if said := ", ".join(phrase for phrase in outline.common(part) if phrase not in shared):
            own.setdefault(said, []).append(str(metric))
    return [", ".join(shared), *(f"{', '.join(metrics)}: {said}" for said, metrics in own.items())]


def n_of(rows: pd.DataFrame) -> str:
    """How many rows numbers are of: n = 300 to 1 133."""
    known = rows["n"].dropna()
    if known.empty:
        return ""
    return f"n = {counted(known.min())}" + (f" to {counted(known.max())}" if known.nunique() > 1 else "")


def number(value: float) -> str:
    """A number in a table: 0.664, -120.5, 1 133; "" for none."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) >= 100:
        return counted(value)
    return f"{value:.{1 if abs(value) >= 10 else 3}f}".replace("-0.000", "0.000")


def counted(value: float) -> str:
    """A count, or what is one nearly always: 3, 1 133, 0.5; "" for none."""
    if math.isnan(value):
        return ""
    return f"{value:,.0f}".replace(",", " ") if float(value).is_integer() else f"{value:g}"


def interval(low: float, high: float) -> str:
    """[0.62, 0.71]; "" for none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    digits = 1 if max(abs(low), abs(high)) >= 10 else 2
    return f"[{round(low, digits) + 0.0:.{digits}f}, {round(high, digits) + 0.0:.{digits}f}]"  # 0.00, not -0.00


def with_interval(row: pd.Series, brief: bool = False) -> str:
    """0.664 [0.62, 0.71]; what has neither interval nor chance may be a count: 3."""
    if row[["ci_low", "ci_high", "chance"]].isna().all() and float(row["value"]).is_integer():
        return counted(row["value"])
    return " ".join(filter(None, [number(row["value"]), "" if brief else interval(row["ci_low"], row["ci_high"])]))


def p_text(value: float) -> str:
    """p for a table: 0.012, 3e-05."""
    if math.isnan(value):
        return ""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def stars(p: float, mild: float, strict: float) -> int:
    """How many of p and its corrections say that a test is significant; one at most where there was one test alone."""
    count = sum(value < SIGNIFICANT for value in (p, mild, strict))
    return count if strict > p else min(count, 1)


def against_chance(row: pd.Series) -> str:
    """Whether a row's interval is above its chance level, below, or around it; "" where one of them is unknown."""
    if row[["ci_low", "ci_high", "chance"]].isna().any():
        return ""
    if row["ci_low"] > row["chance"]:
        return "above"
    return "below" if row["ci_high"] < row["chance"] else "around"


def _layers(rows: pd.DataFrame, brief: bool, x: str = "layer") -> Table:
    """Layers down; what differs across; chance below, and what has no layers: baselines, acoustic features."""
    only_once(rows, [*PANEL, "label", "layer"])
    level = outline.is_level(rows)
    layered, others = rows[~level], rows[level]
    fields = outline.differing(layered, ("label", "group", "target", "own", "metric"))
    if x == "depth":
        depth = layered["layer_index"] / layered.groupby("label")["layer_index"].transform("max")
        layered = layered.assign(layer=[f"{share:.2f}" for share in depth])
        order = sorted(set(layered["layer"]), key=float)
    else:
        order = layer_order(layered)
    columns = dict(iter(layered.groupby(fields or ["analysis"], sort=False)))
    lines = [[layer] for layer in order]
    chance = ["chance" if layered.groupby(PANEL)["chance"].nunique().max() <= 1 else "chance (highest)"]
    for part in columns.values():
        found = {row["layer"]: with_interval(row, brief) for _, row in part.iterrows()}
        for line in lines:
            line.append(found.get(line[0], ""))
        chance.append(number(part["chance"].max()))
    feet = [chance] if any(chance[1:]) else []
    heads = [outline.heading(key) for key in columns] if fields else ["value"]
    return Table(
        _caption(layered, fields), [x, *heads], [*lines, *feet], n_feet=len(feet), notes=list(_others(others, brief))
    )


def _others(rows: pd.DataFrame, brief: bool) -> Iterator[str]:
    """A line for each number of what has no layers."""
    for label, own in rows.groupby("label", sort=False):
        fields = outline.differing(own, ("target", "own", "metric"))
        if own["value"].nunique() == 1:
            fields, own = [], own.iloc[:1]
        for _, row in own.iterrows():
            of = outline.heading(row[name] for name in fields)
            what = "baseline, " if row["layer"] == BASELINE else ""
            yield f"{what}{label}{f' ({of})' if of else ''}: {with_interval(row, brief)}"


def _whole(rows: pd.DataFrame, brief: bool) -> Table:
    """What has no layers: stores, settings and groups down, metrics across, or targets where there is one metric."""
    across = "metric" if rows["metric"].nunique() > 1 else "target"
    down = outline.differing(rows, [name for name in ("layer", "own", "unit", "target", "group") if name != across])
    if "target" in down and "group" in down:
        down.remove("group")
    notes = []
    if "own" in down and rows.groupby("label")["own"].nunique().max() == 1:
        down.remove("own")
        notes = [
            f"{label}: {own}" for label, own in rows[["label", "own"]].drop_duplicates().itertuples(index=False) if own
        ]
    down = ["label", *down]
    only_once(rows, ["analysis", "metric", "own", "unit", "target", "label", "layer"])
    names = list(dict.fromkeys(rows[across]))
    lines = []
    for key, part in rows.groupby(down, sort=False):
        cells = {row[across]: with_interval(row, brief) for _, row in part.iterrows()}
        lines.append([*map(str, key), *(cells.get(name, "") for name in names)])
    by_column = [rows[rows[across] == name] for name in names]
    feet = []
    for column, show in (("chance", number), ("n", counted)):
        counts = [part[column].dropna() for part in by_column]
        differ = column == "chance" or (
            len({tuple(set(count)) for count in counts}) > 1 and all(c.nunique() == 1 for c in counts)
        )
        if differ and any(len(count) for count in counts):
            feet.append(
                [column, *[""] * (len(down) - 1), *(show(count.max()) if len(count) else "" for count in counts)]
            )
    heads = [{"label": "model", "own": "settings"}.get(name, name) for name in down]
    return Table(
        _caption(rows, [*down, across, *(["own"] if notes else [])]),
        [*heads, *names],
        [*lines, *feet],
        len(down),
        len(feet),
        notes,
    )


def _tests(rows: pd.DataFrame, brief: bool, width: int) -> Iterator[Table]:
    """Models down, association tests across: d, its interval, p; a p near 1 of a one-sided test is said to be of the
    other side."""
    rows = rows.assign(one_sided=[one.get("alternative", "two-sided") != "two-sided" for one in settings_of(rows)])
    of_d, of_p = ({p for said in rows["said"][rows["metric"] == name] for p in said} for name in (EFFECT, P))
    about = (of_d & of_p).difference(outline.common(rows))  # what a test is of, not how d and p of it were computed
    rows["own"] = [", ".join(phrase for phrase in said if phrase in about) for said in rows["said"]]

    def table(part: pd.DataFrame) -> Table:
        targets = list(dict.fromkeys(part["target"]))
        down = ["label", *outline.differing(part, ("layer", "own"))]
        lines, cells = [], []
        for key, own in part.groupby(down, sort=False):
            cells = [_test(own[own["target"] == target], brief) for target in targets]
            lines.append([*map(str, key), *cells])
        attributes = {target.rpartition(", ")[2] for target in targets}
        caption = title_of(part["analysis"].iloc[0]) + (f", {attributes.pop()}" if len(attributes) == 1 else "")
        heads = ["model" if name == "label" else "layers" if name == "layer" else "settings" for name in down]
        every = "".join(cell for line in lines for cell in line)
        n_tests = {one.get("tests") for one in settings_of(part[part["metric"].isin(CORRECTED)])}
        family = f", of {n_tests.pop()} tests together" if len(n_tests) == 1 else ""
        notes = [
            f"d{'' if brief else ' [95 % interval]'}, p: * p < .05, ** also after Benjamini and Hochberg, *** "
            f"also after Bonferroni{family}"
        ]
        if OTHER_WAY in every:
            notes.append(f"{OTHER_WAY} the bias goes the other way: p of the other side is below .05")
        return Table(caption, [*heads, *short_targets(targets)], lines, n_heads=len(down), notes=notes)

    first = table(rows)
    labels = _width(
        replace(first, head=first.head[: first.n_heads], lines=[line[: first.n_heads] for line in first.lines])
    )
    room = max(
        1, (width - labels) // max(1, max(len(cell) for line in first.lines for cell in line[first.n_heads :]) + 2)
    )
    targets = list(dict.fromkeys(rows["target"]))
    for k in range(0, len(targets), room):
        yield table(rows[rows["target"].isin(targets[k : k + room])])


def _test(rows: pd.DataFrame, brief: bool) -> str:
    """d, its interval and p of one test."""
    value = dict(zip(rows["metric"], rows["value"], strict=True))
    if EFFECT not in value:
        return ""
    d = rows[rows["metric"] == EFFECT].iloc[0]
    words = [f"{d['value']:.2f}", "" if brief else interval(d["ci_low"], d["ci_high"])]
    p = value.get(P, math.nan)
    if not math.isnan(p):
        marks = "*" * stars(p, *(value.get(name, math.nan) for name in CORRECTED))
        words.append(f"p {p_text(p)}")
        words.append(OTHER_WAY if rows["one_sided"].any() and p > 1 - SIGNIFICANT else marks)
    return " ".join(filter(None, words))


def matrices(rows: pd.DataFrame) -> Iterator[Table]:
    """Layers of a store across, those it is compared with down."""
    rows = outline.of_pairs(rows)
    for _, part in rows.groupby(["metric", "own", "unit", "label", "other"], sort=False):
        only_once(part, ["layer", "target"])
        across, down = layer_order(part), sorted(dict.fromkeys(part["row"]), key=outline.place)
        values = part.pivot(index="row", columns="layer", values="value")
        lines = [[name, *(f"{values.at[name, layer]:.2f}".replace("nan", "") for layer in across)] for name in down]
        caption = _caption(part, ["target"]).replace(
            ": ", f" (across) with {part['other'].iloc[0] or 'itself'} (down): ", 1
        )
        yield Table(caption, ["", *across], lines, notes=_spread(part))


def _spread(rows: pd.DataFrame) -> list[str]:
    """How wide intervals are that a table has no room for, and what chance is."""
    half = ((rows["ci_high"] - rows["ci_low"]) / 2).max()
    notes = [] if math.isnan(half) else [f"intervals of ±{number(half)} or less"]
    chance = rows["chance"].max()
    return notes if math.isnan(chance) else [*notes, f"chance up to {number(chance)}"]


def _changes(rows: pd.DataFrame, x: str, brief: bool, width: int) -> Iterator[Table]:
    """Steps, or parameters removed, down; across the layers of one measure of one run, or the tests of whole models."""
    layered = bool(outline.has_layers(rows).any())
    fields = outline.differing(rows, [*PANEL, "family"] if layered else [n for n in PANEL if n != "target"])
    for _, part in rows.groupby(fields or ["analysis"], sort=False):
        across = ["layer"] if layered else outline.differing(part, ("family", "target")) or ["target"]
        only_once(part, [*across, "x"])
        keys = [(layer,) for layer in layer_order(part)] if layered else list(part.groupby(across, sort=False).groups)
        keys = [key if isinstance(key, tuple) else (key,) for key in keys]
        found = {(*(row[name] for name in across), row["x"]): row for _, row in part.iterrows()}
        caption = outline.heading([_caption(part.assign(label=part["family"] if layered else ""), across)])
        for short in (brief, True):
            lines = [
                [
                    counted(value),
                    *(with_interval(found[*key, value], short) if (*key, value) in found else "" for key in keys),
                ]
                for value in sorted(part["x"].unique())
            ]
            heads = short_targets([outline.heading(key) for key in keys])
            table = Table(
                caption, [outline.AXES[x], *heads], lines, notes=_spread(part) if short else _spread(part)[-1:]
            )
            if _width(table) <= width:
                break
        yield table


def long(rows: pd.DataFrame, caption: str, most: int | None = None) -> Table:
    """Rows one below the other, each with everything in which it differs from the others."""
    names = {"metric": "metric", "own": "settings", "target": "target", "group": "group", "item": "item"}
    names |= {"label": "model", "corpus": "corpus", "unit": "unit", "layer": "layer", "step": "step"}
    keys = [name for name in outline.differing(rows, list(names)) if name != "step"] or ["metric"]
    heads = [*(names[key] for key in keys), "value", "95 % interval", "chance", "against chance", "n"]
    lines = [
        [
            *(row[key] for key in keys),
            number(row["value"]),
            interval(row["ci_low"], row["ci_high"]),
            number(row["chance"]),
            against_chance(row),
            counted(row["n"]),
        ]
        for _, row in rows.head(most or len(rows)).iterrows()
    ]
    more = f" (the first {most} of {len(rows)}; the saved rows have all)" if most and len(rows) > most else ""
    return Table(caption + more, heads, lines, n_heads=len(keys))


# printing


def _printed(table: Table, width: int) -> Iterator[str]:
    """The lines of a table; where it is too wide, of several with the same names of lines."""
    yield from textwrap.wrap(visible(table.caption), width)
    if table.head:
        gap = 1 if width < _width(table) <= width + len(table.head) - 1 else 2
        for k, part in enumerate(_chunks(table, width, gap)):
            yield from ([""] if k else [])
            yield from _drawn(part, width, gap)
    for note in table.notes:
        yield from textwrap.wrap(visible(note), width, initial_indent="  ", subsequent_indent="    ")


def _chunks(table: Table, width: int, gap: int) -> Iterator[Table]:
    """The table in parts whose columns fit ``width``."""
    widths = _widths(table, width - gap * table.n_heads)
    heads, columns = list(range(table.n_heads)), list(range(table.n_heads, len(table.head)))
    while columns:
        room, n = width - sum(widths[k] + gap for k in heads) + gap, 0
        while n < len(columns) and (n == 0 or sum(widths[k] + gap for k in columns[: n + 1]) <= room):
            n += 1
        chosen = [*heads, *columns[:n]]
        yield replace(
            table, head=[table.head[k] for k in chosen], lines=[[line[k] for k in chosen] for line in table.lines]
        )
        columns = columns[n:]


def _drawn(table: Table, width: int, gap: int) -> Iterator[str]:
    widths = _widths(table, width - gap * table.n_heads)
    heads = [_folded(name, width) for name, width in zip(table.head, widths, strict=True)]
    high = max(map(len, heads))
    heads = [[""] * (high - len(head)) + head for head in heads]  # the last lines stand above the rule

    def joined(cells: Sequence[str]) -> str:
        return (" " * gap).join(
            cell + " " * (width - _length(cell)) if k < table.n_heads else " " * (width - _length(cell)) + cell
            for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )

    yield from (joined([head[k] for head in heads]) for k in range(high))
    rule = "─" * (sum(widths) + gap * (len(widths) - 1))
    yield rule
    for k, line in enumerate(table.lines):
        if table.n_feet and k == len(table.lines) - table.n_feet:
            yield rule
        cells = [_folded(cell, width) for cell, width in zip(line, widths, strict=True)]
        high = max(map(len, cells))
        yield from (joined([cell[n] if n < len(cell) else "" for cell in cells]) for n in range(high))


def _widths(table: Table, room: float = math.inf) -> list[int]:
    """How wide each column has to be: as its longest number, or word of its head; names give way to one of the
    columns."""
    widths = []
    for k, name in enumerate(table.head):
        cells = [_length(line[k]) for line in table.lines] or [0]
        longest = max(map(_length, name.split()), default=0)
        words = [_length(part) for part in _folded(name, max(MAX_HEAD, min(longest, MAX_WORD)))]
        widths.append(max(*words, min(max(cells), MAX_KEY if k < table.n_heads else WIDTH)))
    names = widths[: table.n_heads]
    while sum(names) + max(widths[table.n_heads :], default=0) > room and max(names) > MIN_KEY:
        names[names.index(max(names))] -= 1
    return [*names, *widths[table.n_heads :]]


def _width(table: Table) -> int:
    widths = _widths(table)
    return sum(widths) + 2 * (len(widths) - 1)


def _folded(cell: str, width: int) -> list[str]:
    """A cell in lines of at most ``width``."""
    words = visible(cell.replace("\n", " "))
    n_letters = max(width, 2) * len(words) // max(_length(words), 1)
    return textwrap.wrap(words, max(n_letters, 1)) or [""]


def _length(cell: str) -> int:
    """Columns of a terminal: letters of some scripts take two, accents that stand on another letter none."""
    letters = [letter for letter in visible(cell) if not unicodedata.combining(letter)]
    return len(letters) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in letters)
