"""doctor: what is installed, where models compute, what is missing."""

from __future__ import annotations

import click

from layertool.commands import output
from layertool.commands.options import HELP, json_option


@click.command(context_settings=HELP)
@json_option
def doctor(as_json: bool) -> None:
    """Say what is installed, which device is used, and which extras are missing.

    \b
    For each missing package there is the command that installs it. Nothing is changed, and nothing is downloaded.
    Example:
      layertool doctor
      layertool doctor --json
    """
    from layertool.doctor import accounts, examine

    found = examine()
    if as_json:
        output.as_json(found)
        return
    for account in accounts(found):
        output.show(account)
