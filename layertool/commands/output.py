"""What commands print: tables on stdout, progress on stderr. All that reaches the terminal goes through here.

Names and labels are text: nothing in them is read as markup, and control characters are spelled out.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from layertool.account import Account
from layertool.account import count as count
from layertool.account import duration as duration
from layertool.account import number as number
from layertool.account import size as size
from layertool.spelling import visible

PLAIN_WIDTH = 200  # columns of a table that is not shown on a terminal
_EVERY = 30.0  # seconds between lines where there is no bar


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
    if not isinstance(error, click.exceptions.NoArgsIsHelpError):
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
def progress_bar(quiet: bool, what: str | None = None) -> Iterator[Callable[..., None] | None]:
    """A bar that is told (done, total, and what else there is to say), on stderr; None off a terminal and when quiet.

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

        def show(done: float, total: float, said: str = "") -> None:
            begun_at[:] = begun_at or [done]  # what an earlier run did says nothing about the speed of this one
            if what:
                progress.update(
                    task,
                    completed=done,
                    total=total,
                    rate=f"{done:,.0f} of {total:,.0f}".replace(",", " ") + f" {said}",
                )
                return
            elapsed = progress.tasks[0].elapsed or 0
            rate = f"{(done - begun_at[0]) / elapsed:.1f} audio s/s" if elapsed and done > begun_at[0] else ""
            text = f"{duration(done)} of {duration(total)}"
            progress.update(task, completed=done, total=total, rate=rate, description=text)

        yield show


@contextmanager
def steps(quiet: bool) -> Iterator[Callable[..., object] | None]:
    """A bar of steps with the last loss; off a terminal a line after the first step, now and then, and the last."""
    if quiet or sys.stderr.isatty():
        with progress_bar(quiet, "steps") as bar:
            yield bar
        return
    told: list[float] = []

    def tell(done: float, total: float, said: str = "") -> None:
        if not told or done >= total or time.monotonic() - told[-1] > _EVERY:
            told.append(time.monotonic())
            note(f"step {number(int(done))} of {number(int(total))}, {said}")

    yield tell
