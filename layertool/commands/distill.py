"""compress distill: a small student of a teacher, as a series of checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import HELP, ModelText, output_folder, quiet_option
from layertool.commands.training_options import require, settings_of, training_options, whole_numbers

_SHOWN = 10  # losses in a terminal


@click.command(context_settings=HELP)
@click.argument("teacher", type=ModelText())
@click.argument("corpus", type=click.Path(path_type=Path))
@output_folder("Run")
@click.option("--layers", type=click.IntRange(min=1), default=2, show_default=True, help="Blocks of the student.")
@click.option("--targets", default="4,12", show_default=True, metavar="K[,K...]",
              help="Layers of the teacher that the student predicts.")  # fmt: skip
@click.option("--teacher-init/--no-teacher-init", default=True, show_default=True,
              help="Begin with the teacher's front end and first blocks, or with new weights.")  # fmt: skip
@click.option("--pad", type=click.Choice(["mask", "count"]), default="mask", show_default=True,
              help="Padded frames are left out of the loss, or count as in the original.")  # fmt: skip
@click.option("--max-samples", type=click.IntRange(min=1600), default=250_000, show_default=True,
              help="Longer utterances are cropped, elsewhere each time.")  # fmt: skip
@training_options(
    steps="200000", save_steps="5000", batch_size="24", accumulation="1", learning_rate="2e-4", warmup_steps="7 % of the steps",
    schedule="linear, to 0", seed="1337",
    what_is_saved="Write RUN/step-N, a MODEL, every so many steps (and at 0); a stopped run goes on from there.",
)  # fmt: skip
@quiet_option
def distill(
    teacher, corpus, out, layers, targets, teacher_init, pad, max_samples, statistics, device, overwrite, quiet, **asked
) -> None:
    """Train a small student to predict layers of a teacher (DistilHuBERT); every step saved is a MODEL.

    \b
    TEACHER is a MelHuBERT, HuBERT or wav2vec 2.0. The defaults are those of Lin et al. 2024 (docs/finetuning.md).
    Examples:
      layertool compress distill facebook/hubert-base-ls960 corpus -o distilled
      layertool compress distill melhubert:checkpoint.ckpt corpus -o distilled --no-teacher-init --layers 4
      layertool extract 'distilled/step-*' corpus -o series
    """
    require("distillation", "accelerate")
    from layertool.corpora.corpus import Corpus
    from layertool.training import distilling

    recipe = distilling.Recipe(layers, tuple(whole_numbers(targets, "--targets")), teacher_init, pad, max_samples)
    how = distilling.settings(**settings_of(asked))
    with output.progress_bar(quiet, "steps") as progress:
        done = distilling.distill(
            teacher, Corpus.read(corpus), out, recipe, how, statistics, device, overwrite, progress,
            lambda text: output.note(text, quiet),
        )  # fmt: skip
    was_there = " (the run was finished already)" if done.was_there else ""
    left_out = f" ({done.n_left_out} too short)" if done.n_left_out else ""
    known = [
        ("utterances", f"{output.number(done.n_utterances)}{left_out}"),
        (
            "parameters",
            f"{output.number(done.n_parameters)} of the student, {output.number(done.n_head_parameters)} of its heads",
        ),
    ]
    output.facts(f"{done.folder}: {output.count(len(done.models), 'model')}{was_there}", known)
    if done.losses:
        last = len(done.losses) - 1
        shown = [done.losses[k] for k in sorted({round(k * last / (_SHOWN - 1)) for k in range(_SHOWN)})]
        output.table(None, ["step", "training loss"], [[loss.step, loss.loss] for loss in shown])
    if not done.was_there:
        output.note(
            f"see what the layers know with: layertool extract '{done.folder}/step-*' {corpus} -o SERIES", quiet
        )
