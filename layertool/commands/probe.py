"""probe: what can be read from a layer without training anything."""

from __future__ import annotations

import click

from layertool.commands.analyses import Group
from layertool.commands.options import HELP


@click.group(cls=Group, context_settings=HELP)
def probe() -> None:
    """What can be read from a layer without training: words, boundaries, meanings, labels.

    Every probe takes one store or several, and gives one table and one figure (Pasad et al. 2021, 2024).
    """
