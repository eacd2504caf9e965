"""report: one page of everything that was measured."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import delivery, output
from layertool.commands.options import HELP, quiet_option
from layertool.declared import listed

PATHS = click.Path(path_type=Path)


@click.command(context_settings=HELP)
@click.argument("inputs", type=PATHS, nargs=-1, required=True, metavar="RESULTS...")
@click.option("-o", "--output", "out", type=PATHS, required=True, metavar="FILE.html", help="Page to write.")
@click.option("--title", default="layertool report", show_default=True, help="Title of the page.")
@click.option("--names", default=None, metavar="NAME,NAME", help="Labels of the stores, in their order.")
@quiet_option
def report(inputs, out, title, names, quiet) -> None:
    """Make one HTML page of result files and training runs: figures, tables, methods, provenance.

    \b
    RESULTS are result files (.csv, .parquet, .json), folders of training runs, or their losses.csv. The page is
    one file that needs no network.
    Examples:
      layertool report cca.csv mi.csv cka.csv -o report.html
      layertool report speat.csv runs/hubert -o emergence.html --title "Bias during pre-training"
    """
    from layertool.report import check_name, page

    check_name(out)
    delivery.check_place(out)

    page.check_plotly()
    page.write(inputs, out, title, list(listed(names)) if names else None)
    output.note(f"page in {out} ({output.size(out.stat().st_size)})", quiet)
