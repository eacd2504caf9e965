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
    help="Where to work.",
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
    targets = list(road.QUESTIONS)
    rows = []
    for (model, layer), part in made.table.groupby(["model", "layer"], sort=False):
        values = part.set_index("target")
        rows.append((model, layer, *(_cell(values.loc[target]) for target in targets)))
    chance = made.table.groupby("target")["chance"].max()
    rows.append(("chance*", "", *(f"{chance[target]:.0%}" for target in targets)))
    output.table(
        "Share of labels found: phones and words in unseen sentences, the gender of unseen voices from one phone; 95 % "
        "intervals",
        ("model", "layer", *targets),
        rows,
    )
    output.echo(
        "* permuted labels, or the most frequent label, whichever is found more often", "", "What the numbers say:"
    )
    for finding in made.findings:
        output.echo(f"  {finding}")
    output.echo(
        "", f"Figure: {made.figure}", f"Rows:   {made.folder / 'demo.csv'}", "", "The commands, to copy and change:"
    )
    for command in made.commands:
        output.echo(f"  {command}")


def _cell(row) -> str:
    return f"{row['value']:.0%} [{row['ci_low']:.0%}, {row['ci_high']:.0%}]"
