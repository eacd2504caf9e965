"""convert: checkpoints of other tools as safetensors."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import HELP, output_folder, quiet_option
from layertool.errors import UsageError


@click.command(context_settings=HELP)
@click.argument("model")
@output_folder("Model")
@quiet_option
def convert(model: str, out: Path, quiet: bool) -> None:
    """Write a fairseq or MelHuBERT checkpoint as safetensors and a configuration.

    \b
    No code of the file is run. The folder is a MODEL for every other command; transformers opens those of fairseq.
    With * or ? in it, all checkpoints of that name, each into a folder of its own.
    Examples:
      layertool convert fairseq:wav2vec_small.pt -o wav2vec-small
      layertool convert 'melhubert:run/*.ckpt' -o converted
    """
    from layertool.extractors.series import members
    from layertool.models.checkpoint_files import split_kind
    from layertool.models.convert import convert as write

    if split_kind(model)[0] not in ("fairseq", "melhubert"):
        raise UsageError(f"'{model}' is no checkpoint of another tool: give fairseq:FILE or melhubert:FILE")
    for name, member in members(model):
        kind, path = split_kind(member)
        folder = write(str(kind), path, out if name is None else out / name)
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        output.echo(f"{folder}: {output.size(weights)} of weights")
