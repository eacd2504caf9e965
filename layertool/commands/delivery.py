"""Where the rows of every analysis go: a table in the terminal, a result file, a figure."""

from __future__ import annotations

import os
from pathlib import Path

import click

from layertool.commands import output
from layertool.errors import StoreError, UsageError
from layertool.kinds import kind

TABLES = (".csv", ".parquet")
FIGURES = (".png", ".pdf", ".svg")


def check_places(out: Path | None, plot: Path | None) -> None:
    """Refuse a format or a place that cannot be written before the work, not after it."""
    from layertool import results

    if out is not None and out.suffix not in results.FORMATS:
        raise UsageError(f"{out} has no known format: end it in {', '.join(results.FORMATS)}")
    if plot is not None and plot.suffix not in FIGURES:
        raise UsageError(f"{plot} has no known figure format: end it in {', '.join(FIGURES)}")
    for path in filter(None, (out, plot)):
        check_place(path)


def check_table(path: Path) -> None:
    """The same for a table beside the rows."""
    if path.suffix not in TABLES:
        raise UsageError(f"{path} has no known format: end it in {' or '.join(TABLES)}")
    check_place(path)


def write_table(lines: list[dict], path: Path, quiet: bool) -> None:
    """Write a table beside the rows, as .csv or .parquet."""
    import pandas as pd

    from layertool import columns
    from layertool.files import whole_file

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(lines)
    with whole_file(path) as temporary:
        table.to_parquet(temporary, index=False) if path.suffix == ".parquet" else columns.write_csv(table, temporary)
    output.note(f"{output.count(len(table), 'row')} in {path}", quiet)


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


def deliver(
    rows, out: Path | None, plot: Path | None, as_json: bool, quiet: bool, ylabel: str | None, x: str = "layer"
) -> None:
    """Write results first, so that they are not lost, then print and draw them. ``ylabel``: None takes the variants."""
    import pandas as pd

    from layertool import results
    from layertool.commands.probe_tables import show

    table = rows if isinstance(rows, pd.DataFrame) else results.table(rows)

    def draw(path: Path) -> None:
        from layertool import figures
        from layertool.report.choosing import drawn

        rows = drawn(table)
        if x != "layer":
            rows = rows[rows["layer"] != results.BASELINE]  # they have no steps
        if rows.empty:
            raise UsageError("none of these results is a curve or a map: choose others to draw")
        are_maps = {results.is_matrix(part) for _, part in rows.groupby(["analysis", "unit"])}
        if len(are_maps) > 1 and x == "layer":
            raise UsageError(
                "these results hold layer by layer tables and curves, which are two figures: choose with --analysis or --unit"
            )
        if x != "layer":
            figures.series(rows, path, x, ylabel)
        elif results.is_matrix(rows):
            figures.heatmaps(rows, path, ylabel)
        else:
            figures.layer_curves(rows, path, ylabel)

    hand_over(table, show, draw, out, plot, as_json, quiet)


def hand_over(table, show, draw, out: Path | None, plot: Path | None, as_json: bool, quiet: bool) -> None:
    """The same with a way of its own to ``show(table)`` and to ``draw(path)``."""
    from layertool import results

    try:
        if out is not None:
            results.write(table, out)
    finally:  # numbers that a full disk has no room for are seen, at least
        if as_json:
            output.as_json(results.records(table))
        else:
            show(table)
    if out is not None:
        output.note(f"{output.count(len(table), 'row')} in {out}", quiet)
    if plot is not None:
        draw(plot)
        output.note(f"figure in {plot}", quiet)
