"""lexical: does Whisper mishear words as listeners do?"""

from __future__ import annotations

import click

from layertool.commands.analyses import Group
from layertool.commands.options import HELP
from layertool.commands.training import lexical_finetune


@click.group(cls=Group, context_settings=HELP)
def lexical() -> None:
    """Does Whisper mishear words as listeners do? Score, rank, fine-tune, and read its layers.

    The corpus says what listeners heard (layertool corpus eccc). A model gives P(word | noisy clip); the score of a
    stimulus is the log multinomial probability of all its responses (Cuervo and Marxer).
    """


lexical.add_command(lexical_finetune)
