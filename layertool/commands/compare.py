"""compare: results or stores side by side."""

from __future__ import annotations

import click

from layertool.commands import delivery, output
from layertool.commands.analyses import made
from layertool.comparison import Comparison
from layertool.comparison import compare as compared


def _run(inputs, engine, address, workers, **asked) -> None:
    where = {name: asked.pop(name) for name in delivery.OPTIONS}
    delivery.check_places(where["out"], where["plot"])
    delivery.check_axis(where["x"], where["reference"])
    options = {name: value for name, value in asked.items() if value != ()}
    with output.progress_bar(where["quiet"], Comparison.counted) as show:
        rows = compared(inputs, where["x"], engine=engine, address=address, workers=workers, progress=show, **options)
    delivery.deliver(rows, **where)


_INPUTS = click.Argument(["inputs"], nargs=-1, required=True, metavar="RESULTS...|STORES...", type=click.Path())
compare = made(Comparison, [_INPUTS], _run)
