"""convert: checkpoints of other tools as safetensors."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import HELP, ModelText, output_folder, quiet_option


@click.command(context_settings=HELP)
@click.argument("members", metavar="MODEL", type=ModelText(series=True))
@output_folder("Model")
@quiet_option
def convert(members: list, out: Path, quiet: bool) -> None:
    """Write a fairseq or MelHuBERT checkpoint as safetensors and a configuration.

    \b
    No code of the file is run. The folder is a MODEL for every other command; transformers opens those of fairseq.
    With * or ? in it, all checkpoints of that name, each into a folder of its own.
    Examples:
      layertool convert fairseq:wav2vec_small.pt -o wav2vec-small
      layertool convert 'melhubert:run/*.ckpt' -o converted
    """
    from layertool.models.convert import convert as write

    for name, model in members:
        folder = write(model, out if name is None else out / name)
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        output.echo(f"{folder}: {output.size(weights)} of weights")
