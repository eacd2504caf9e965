"""What commands print: tables on stdout, progress on stderr. All that reaches the terminal goes through here.

Names and labels are text: nothing in them is read as markup, and control characters are spelled out.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from layertool.account import Account
from layertool.account import count as count
from layertool.account import duration as duration
from layertool.account import number as number
from layertool.account import size as size
from layertool.spelling import visible

PLAIN_WIDTH = 200  # columns of a table that is not shown on a terminal


def echo(*lines: object, err: bool = False) -> None:
    """Print lines, on stderr with ``err``: one for each value, whatever is in it."""
    _print("\n".join(visible(str(line)) for line in lines), err)


def _print(text: str, err: bool = False) -> None:
    """Print text that has been made visible. A reader that has gone (``| head``) ends the printing, not the work."""
    try:
        click.echo(text, err=err)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
        os.close(nowhere)


def failure(error: click.ClickException) -> int:
    """Print an error on stderr; return the exit code."""
    # before click takes colours out; line breaks are those of names
    error.message = visible(error.message)  # type: ignore[misc]
    said = io.StringIO()
    error.show(said)
    echo(*said.getvalue().removesuffix("\n").split("\n"), err=True)
    return error.exit_code


def table(title: str | None, headers: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Print a table; numbers stand right, text left."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False, markup=False, emoji=False)
    shown = Table(title=title and visible(title), title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column, header in enumerate(headers):
        numeric = bool(rows) and all(isinstance(row[column], (int, float)) for row in rows)
        shown.add_column(visible(header), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(visible(number(cell)) for cell in row))
    with console.capture() as capture:
        console.print(shown)
    _print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def shown(text: str) -> None:
    """Print a table that was made elsewhere."""
    _print(text)


def facts(title: str, pairs: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one a line, under a title."""
    width = max(len(name) for name, _ in pairs)
    echo(title, *(f"  {name:<{width}}  {value}" for name, value in pairs))


def show(account: Account, quiet: bool = False, data: bool = False) -> None:
    """Print what there is to say of something; its notes on stderr, unless ``quiet``. ``data``: as JSON instead."""
    if data:
        as_json(account.data)
        return
    for text in account.warnings:
        note(text)
    if account.facts:
        facts(account.title, account.facts)
    elif account.title:
        echo(account.title)
    for one in account.tables:
        table(*one)
    if account.lines:
        echo(*account.lines)
    for text in account.notes:
        note(text, quiet)


def as_json(value) -> None:
    """Print a value as JSON, for other programs: what cannot be seen is written with JSON's own \\u…."""
    _print(visible(json.dumps(value, indent=2, ensure_ascii=False, default=str), keep="\n", spell=json.dumps))


def note(text: str, quiet: bool = False) -> None:
    """A line for the person, on stderr."""
    if not quiet:
        echo(text, err=True)


@contextmanager
def progress_bar(quiet: bool, what: str | None = None) -> Iterator[Callable[[float, float], None] | None]:
    """A bar that is told (done, total), on stderr; None off a terminal and when quiet.

    ``what``: the things that are counted; without it they are seconds of audio, and the bar shows how
    many go through per second.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=120) as progress:
        task = progress.add_task(what or "reading", total=None, rate="")
        begun_at: list[float] = []

        def show(done: float, total: float) -> None:
            begun_at[:] = begun_at or [done]  # what an earlier run did says nothing about the speed of this one
            if what:
                progress.update(
                    task, completed=done, total=total, rate=f"{done:,.0f} of {total:,.0f}".replace(",", " ")
                )
                return
            elapsed = progress.tasks[0].elapsed or 0
            rate = f"{(done - begun_at[0]) / elapsed:.1f} audio s/s" if elapsed and done > begun_at[0] else ""
            text = f"{duration(done)} of {duration(total)}"
            progress.update(task, completed=done, total=total, rate=rate, description=text)

        yield show


def scores(rows) -> None:
    """Print result rows: layers down, stores and variants across; layer by layer matrices as such."""
    from layertool.result_rows import is_matrix

    for (analysis, unit), part in rows.groupby(["analysis", "unit"], sort=False):
        if is_matrix(part):
            _matrices(analysis, unit, part)
            continue
        for target, mine in part.groupby("target", sort=False):
            _curves(f"{analysis} with {target}, {unit} rows", mine)


def _curves(title: str, rows) -> None:
    rows, below = without_baselines(rows)
    if rows.empty:
        echo(title, *below, "")
        return
    several = [name for name in ("store", "variant") if rows[name].nunique(dropna=False) > 1]
    columns = list(rows.groupby(several or ["analysis"], sort=False, dropna=False))
    if len(columns) > _MAX_CURVES and "store" in several:
        for store, part in rows.groupby("store", sort=False, dropna=False):
            _curves(f"{title} of {_short('store', store)}", part)
        if below:
            echo(*below)
        return
    names = ["value"]
    if several:
        names = [", ".join(_head(rows, *one) for one in zip(several, key, strict=True)) for key, _ in columns]
    wide = len(columns) == 1 and bool(columns[0][1]["ci_low"].notna().any())
    layers = list(dict.fromkeys(rows.sort_values("layer_index", kind="stable")["layer"]))
    headers = ["layer", *names, *(["95 % interval"] if wide else []), *(["chance"] if len(columns) == 1 else [])]
    lines: list[list] = []
    for layer in layers:
        line: list = [layer]
        for _, part in columns:
            found = part[part["layer"] == layer]
            line.append("" if found.empty else _value(found.iloc[0], brief=wide))
        if len(columns) == 1:
            only = columns[0][1][columns[0][1]["layer"] == layer].iloc[0]
            line += ([f"{only['ci_low']:.3f} to {only['ci_high']:.3f}"] if wide else []) + [_number(only["chance"])]
        lines.append(line)
    if len(columns) > 1:
        lines.append(["chance (highest)", *(_number(part["chance"].max()) for _, part in columns)])
    echo(title)
    table(None, headers, lines)
    echo(*below, f"  {_in_common(list(dict.fromkeys(rows['variant'])))}; {_rows_counted(rows)}", "")


def without_baselines(rows) -> tuple:
    """The rows of layers, and a line for each of the others."""
    from layertool.result_rows import BASELINE

    are = rows["layer"] == BASELINE
    lines = []
    for model, mine in rows[are].groupby("model", sort=False):
        places = mine["corpus"].where(mine["store"].isna(), mine["store"].map(lambda store: Path(str(store)).name))
        for place, own in mine.groupby(places, sort=False):
            for _, row in own.iterrows():
                parts = [
                    "" if own["value"].nunique() == 1 else _parted(row["variant"], rows["variant"]),
                    "" if mine["value"].nunique() == 1 or places.nunique() == 1 else str(place),
                ]
                which = ", ".join(filter(None, parts))
                lines.append(f"  baseline, {model}{f' ({which})' if which else ''}: {_value(row, brief=False)}")
    return rows[~are], list(dict.fromkeys(lines))


def _parted(variant: str, variants) -> str:
    """What one variant's name has and not all others."""
    parts = [set(other.split(", ")) for other in dict.fromkeys(variants)]
    return ", ".join(part for part in variant.split(", ") if not all(part in other for other in parts))


def _in_common(variants: Sequence[str]) -> str:
    """What the names of all variants end in; the columns are headed by what they begin with."""
    parts = [variant.split(", ") for variant in variants]
    shared = 0
    while shared < min(map(len, parts)) and len({part[-1 - shared] for part in parts}) == 1:
        shared += 1
    return ", ".join(parts[0][len(parts[0]) - shared :]) or "; ".join(variants)


def _rows_counted(part) -> str:
    few, many = int(part["n"].min()), int(part["n"].max())
    return f"n = {number(few)}" + (f" to {number(many)}" if few != many else "")


def _matrices(analysis: str, unit: str, rows) -> None:
    for (store, variant), part in rows.groupby(["store", "variant"], sort=False):
        for other, mine in part.groupby(part["target"].str.rpartition(":")[0], sort=False):
            mine = mine.assign(down=mine["target"].str.rpartition(":")[2])
            across = list(dict.fromkeys(mine["layer"]))
            title = f"{analysis} of {_short('store', store)} (across) and {other or 'itself'} (down), {unit} rows"
            if len(across) > _MAX_COLUMNS:
                echo(f"{title}: {len(across)} x {mine['down'].nunique()} layers; see them with --plot or -o")
            else:
                lines = [[layer, *map(_number, line["value"])] for layer, line in mine.groupby("down", sort=False)]
                echo(title)
                table(None, ["layer", *across], lines)
            half = ((mine["ci_high"] - mine["ci_low"]) / 2).max()
            spread = "" if half != half else f"; intervals of ±{half:.3f} or less"
            echo(f"  {variant}; {_rows_counted(mine)}{spread}; chance up to {_number(mine['chance'].max())}", "")


_MAX_COLUMNS = 16  # of a matrix in a terminal
_MAX_CURVES = 8  # beside each other


def _short(column: str, cell) -> str:
    """The folder of a store, the first words of a variant."""
    return Path(str(cell)).name if column == "store" else str(cell).split(",")[0]


def _head(rows, column: str, cell) -> str:
    """The same, and what a variant alone has where others begin with the same words."""
    alike = [other for other in rows[column].unique() if _short(column, other) == _short(column, cell)]
    own = _parted(cell, alike) if column == "variant" else ""
    return _short(column, cell) + (f", {own}" if own else "")


def _number(value) -> str:
    return "" if value is None or value != value else f"{value:.3f}"


def _value(row, brief: bool) -> str:
    low, high = row["ci_low"], row["ci_high"]
    if brief or low is None or high is None or low != low or high != high:
        return _number(row["value"])
    half = (high - low) / 2
    lopsided = abs((high + low) / 2 - row["value"]) > 0.0005
    return _number(row["value"]) + (f" [{low:.2f}, {high:.2f}]" if lopsided else f" ±{half:.3f}")
