"""completion: what a shell needs to complete layertool's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from layertool.commands import output
from layertool.commands.options import HELP

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "layertool"
VARIABLE = "_LAYERTOOL_COMPLETE"  # click's own name for it, in which the shell's script asks


@click.command(context_settings=HELP)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that lets a shell complete commands and options.

    \b
    Examples:
      layertool completion bash >> ~/.bashrc
      layertool completion zsh >> ~/.zshrc
      layertool completion fish > ~/.config/fish/completions/layertool.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"this click has no completion for {shell}: update it (pip install --upgrade click)")
    output.echo(*found(click.get_current_context().find_root().command, {}, PROGRAM, VARIABLE).source().split("\n"))
