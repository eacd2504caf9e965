"""extract: from a model and a corpus to a feature store."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.declared import asked, declared_options
from layertool.commands.options import HELP, ModelText, output_folder, quiet_option
from layertool.extractors.extraction import Extraction


@click.command(context_settings=HELP, help=inspect.getdoc(Extraction))
@click.argument("model", type=ModelText(series=True))
@click.argument("corpus", type=click.Path(path_type=Path))
@output_folder("Store")
@declared_options(Extraction)
@click.option("--dry-run", is_flag=True, help="Say what would be written, and stop.")
@quiet_option
def extract(model: list, corpus: Path, out: Path, dry_run: bool, quiet: bool, **typed) -> None:
    extraction = asked(Extraction, typed)
    from layertool.extractors.run import extractions

    for account in extractions(model, corpus, out, extraction, dry_run, lambda: output.progress_bar(quiet)):
        output.show(account, quiet)
