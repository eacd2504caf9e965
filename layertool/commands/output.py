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

import click

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


def number(cell) -> str:
    """A cell as text: thousands apart, three digits after the point."""
    if isinstance(cell, bool) or cell is None:
        return {True: "yes", False: "no", None: ""}[cell]
    if isinstance(cell, int):
        return f"{cell:,}".replace(",", " ")
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def count(n: int, thing: str) -> str:
    """A number and its noun: 1 shard, 12 shards."""
    return f"{number(n)} {thing}{'' if n == 1 else 's'}"


def as_json(value) -> None:
    """Print a value as JSON, for other programs: what cannot be seen is written with JSON's own \\u…."""
    _print(visible(json.dumps(value, indent=2, ensure_ascii=False, default=str), keep="\n", spell=json.dumps))


def note(text: str, quiet: bool = False) -> None:
    """A line for the person, on stderr."""
    if not quiet:
        echo(text, err=True)


def size(n_bytes: float) -> str:
    """Bytes for a person, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds of audio for a person: 12.3 s, 4 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


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
