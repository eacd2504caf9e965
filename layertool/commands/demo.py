"""demo: the whole road on a corpus that layertool speaks itself."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import HELP, quiet_option


@click.command(context_settings=HELP)
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    metavar="FOLDER",
    help="Folder to work in.",
)
@quiet_option
def demo(out: Path, quiet: bool) -> None:
    """Make a small spoken corpus, extract it, and show what the layers know. No download, no data.

    \b
    The network is small, inside the package, and trained on synthetic speech; beside it stands its untrained control.
    Example:
      layertool demo -o demo
    """
    from layertool import demo as road

    with ExitStack() as stack:

        def say(text: str) -> None:
            stack.close()  # the bar of the stage before
            output.note(text, quiet)

        def progress(what: str):
            return stack.enter_context(output.progress_bar(quiet, None if what == "audio" else what))

        made = road.run(out, say, progress)
    output.show(road.account(made))
