"""pretrain, compress, finetune: what is trained is declared in ``layertool.training.tasks``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from layertool.commands import output
from layertool.commands.declared import asked, declared_options
from layertool.commands.options import HELP, Commands, ModelText, bundle, json_option, output_folder, quiet_option
from layertool.machine import rank
from layertool.training.tasks.compression import Heads, Rows, Weights
from layertool.training.tasks.ctc import CTC
from layertool.training.tasks.distillation import Distillation
from layertool.training.tasks.listeners import Listeners
from layertool.training.tasks.pretraining import Pretraining

_PATH = click.Path(path_type=Path)
_corpus = click.argument("corpus", type=_PATH)


def _command(name: str, task: type, *arguments, folder: str = "Run") -> click.Command:
    """The command of a task that makes one run."""

    def run(out: Path, quiet: bool, **typed) -> None:
        one: Any = asked(task, typed)
        with output.steps(quiet) as progress:
            done = one.run(**typed, out=out, progress=progress, say=lambda text: output.note(text, quiet))
        if rank() == 0:
            output.show(done if one.dry_run else one.account(done, typed["corpus"]), quiet)

    decorate = bundle(*arguments, output_folder(folder), declared_options(task), quiet_option)
    return click.command(name, context_settings=HELP, help=inspect.getdoc(task))(decorate(run))


pretrain = _command("pretrain", Pretraining, _corpus)
distill = _command("distill", Distillation, click.argument("teacher", type=ModelText()), _corpus)
lexical_finetune = _command("finetune", Listeners, click.argument("model", type=ModelText()), _corpus, folder="Model")


@click.group(cls=Commands, context_settings=HELP)
def compress() -> None:
    """Make a model smaller, step by step: prune heads, rows or weights, or teach a student."""


for _task in (Heads, Rows, Weights):
    _speech = click.argument("corpus", type=_PATH, required=False)
    compress.add_command(_command(_task.kind, _task, click.argument("model", type=ModelText()), _speech))
compress.add_command(distill)


@click.group(cls=Commands, context_settings=HELP)
def finetune() -> None:
    """Fine-tune a model, or check what its frozen layers are good for: characters or phones with CTC."""


@finetune.command(context_settings=HELP, help=inspect.getdoc(CTC))
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=ModelText(series=True))
@_corpus
@output_folder("Run")
@declared_options(CTC)
@json_option
@quiet_option
def ctc(models: tuple[list, ...], corpus: Path, out: Path, as_json: bool, quiet: bool, **typed) -> None:
    from layertool.commands import delivery
    from layertool.training import ctc_rates

    task = asked(CTC, typed)
    delivery.check_places(task.results, task.plot)
    with output.steps(quiet) as progress:
        rows, runs = task.run(models, corpus, out, progress, lambda text: output.note(text, quiet))
    if task.dry_run:
        for account in runs:
            output.show(account, quiet)
    if task.dry_run or rank():
        return
    delivery.deliver(
        rows, task.results, task.plot, ctc_rates.axis(rows), as_json=as_json, quiet=quiet, show=ctc_rates.accounts
    )
    for tuned in runs:
        output.note(ctc_rates.said(tuned), quiet or as_json)
