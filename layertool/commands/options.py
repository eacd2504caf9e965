"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

HELP: dict = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes, only results and errors.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


def output_folder(what: str):
    """The -o option of a command that writes a folder."""
    return click.option(
        "-o",
        "--output",
        "out",
        type=click.Path(path_type=Path),
        required=True,
        metavar="FOLDER",
        help=f"{what} to write.",
    )
