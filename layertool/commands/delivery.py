"""Where the rows of every analysis go: a table in the terminal, a result file, a figure."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from layertool.account import Account
from layertool.commands import output
from layertool.commands.options import bundle, json_option, quiet_option
from layertool.errors import StoreError, UsageError
from layertool.kinds import kind

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".parquet")


def check_places(out: Path | None, plot: Path | None, *tables: Path | None) -> None:
    """Refuse a format or a place that cannot be written before the work: of rows, of a figure, of other tables."""
    from layertool import figures, result_rows
    from layertool.files import check_suffix

    if out is not None:
        check_suffix(out, result_rows.FORMATS)
    if plot is not None:
        check_suffix(plot, figures.FORMATS, "figure format")
    for path in filter(None, tables):
        if path.suffix not in TABLES:
            raise UsageError(f"{path} has no known format: end it in {' or '.join(TABLES)}")
    named = [path for path in (out, plot, *tables) if path is not None]
    if len({path.resolve() for path in named}) < len(named):
        raise UsageError("two of the files to write have the same name: give each its own")
    for path in named:
        check_place(path)


def check_axis(x: str, reference: Path | None) -> None:
    """Refuse a reference that nothing is removed from."""
    if reference is not None and x != "parameters":
        raise UsageError(
            "--reference is the model that parameters are removed from: add --x parameters, or leave it out"
        )


def check_place(path: Path) -> None:
    """Refuse a file that cannot be written."""
    there = path.parent
    while not there.exists() and there != there.parent:
        there = there.parent
    if path.is_dir():
        problem = f"{path} is a folder"
    elif not there.is_dir():
        problem = f"{there} is no folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        problem = f"{there} cannot be written to"
    else:
        _check_not_read(path)
        return
    raise StoreError(f"{path} cannot be written, as {problem}: check the path")


def _check_not_read(path: Path) -> None:
    """Refuse a file that the command reads, and one of those that a store, a corpus or a model consists of."""
    if not path.exists():
        return
    context = click.get_current_context()
    for parameter in context.command.params:
        if isinstance(parameter, click.Argument):
            given = context.params.get(str(parameter.name))
            for one in given if isinstance(given, tuple) else (given,):
                if isinstance(one, (str, Path)) and Path(one).is_file() and path.samefile(one):
                    raise UsageError(f"{one} is read, and {path} would replace it: choose another -o")
    what = kind(path.parent)
    # results are a list, and what describes a folder is no list
    if what and (path.stem in ("utterances", "segments") or (path.suffix == ".json" and path.read_bytes()[:1] == b"{")):
        raise UsageError(f"{path} is a part of the {what} {path.parent}: choose another -o")


options = bundle(
    click.option(
        "-o",
        "--output",
        "out",
        type=click.Path(path_type=Path),
        default=None,
        metavar="FILE",
        help="Write the result rows as .csv, .parquet or .json.",
    ),
    click.option(
        "--plot",
        type=click.Path(path_type=Path),
        default=None,
        metavar="FILE",
        help="Draw the figure as .png, .pdf or .svg.",
    ),
    click.option(
        "--x",
        type=click.Choice(["layer", "depth", "step", "parameters"]),
        default="layer",
        show_default=True,
        help="Axis of figure and table: layers, relative depth, training steps, or parameters removed from "
        "--reference.",
    ),
    click.option(
        "--reference",
        type=click.Path(path_type=Path),
        default=None,
        metavar="STORE",
        help="Store of the model that nothing was removed from, for --x parameters.  [default: the largest]",
    ),
    click.option(
        "--names", default=None, metavar="NAME,NAME", help="Labels of the stores in table and figure, in their order."
    ),
    click.option("--brief", is_flag=True, help="Tables without intervals."),
    json_option,
    quiet_option,
)
OPTIONS = ("out", "plot", "x", "reference", "names", "brief", "as_json", "quiet")


def deliver(
    rows,
    out: Path | None = None,
    plot: Path | None = None,
    x: str = "layer",
    reference: Path | None = None,
    names: str | None = None,
    brief: bool = False,
    as_json: bool = False,
    quiet: bool = False,
    show: Callable[[pd.DataFrame], Iterable[Account]] | None = None,
    files: Mapping[str, Path | None] | None = None,
) -> None:
    """Write results first, so that they are not lost, then print and draw them.

    ``show``: says the rows in a way of its own; ``files``: of the tables beside the rows, by name.
    """
    from layertool.result_rows import records, write
    from layertool.results import Results

    results = rows if isinstance(rows, Results) else Results(rows)
    results = results.over(x=x, reference=reference, names=names or None)
    try:
        for name, file in (files or {}).items():
            if file is not None:
                write(results.tables[name], file)
                output.note(f"{output.count(len(results.tables[name]), 'row')} in {file}", quiet)
        if out is not None:
            results.write(out)
    finally:  # numbers that a full disk has no room for are seen, at least
        if as_json:
            output.as_json(records(results.rows))
        elif show:
            for account in show(results.rows):
                output.show(account)
        else:
            output.shown(results.text(brief))
    if out is not None:
        output.note(f"{output.count(len(results), 'row')} in {out}", quiet)
    if plot is not None:
        results.plot(plot)
        output.note(f"figure in {plot}", quiet)
