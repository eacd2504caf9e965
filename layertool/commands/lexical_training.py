"""lexical finetune: teach Whisper what listeners say."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.analyses import click_option
from layertool.commands.options import HELP, names, output_folder, quiet_option, typed
from layertool.commands.training_options import require
from layertool.declared import options_of
from layertool.errors import UsageError
from layertool.layerwise.lexical import Reading


def variant_options(command):
    """The options of how a model reads words."""
    for one in reversed(options_of(Reading)):
        command.__dict__.setdefault("__click_params__", []).append(click_option(one))
    return command


@click.command(context_settings=HELP)
@click.argument("model")
@click.argument("corpus", type=click.Path(path_type=Path))
@output_folder("Model")
@click.option("--objective", type=click.Choice(["all", "top"]), default="all", show_default=True,
              help="The distribution of all responses, or the most common one.")  # fmt: skip
@click.option("--train", "modules", multiple=True, callback=names, metavar="PARTS",
              help="Parts to train, the rest is frozen.  [default: decoder,encoder,convolutions]")  # fmt: skip
@click.option("--from-scratch", is_flag=True, help="Control: begin with weights drawn anew.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-5,
    help="At its peak.  [default: 1e-5]",
)
@click.option(
    "--warmup", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True, help="Share of the steps."
)
@click.option(
    "--schedule", type=click.Choice(["cosine", "linear"]), default="cosine", show_default=True, help="Of the decay."
)
@click.option("--epochs", type=click.IntRange(min=1), default=12, show_default=True, help="Through the train part.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Stimuli in a step.")
@click.option("--grid", is_flag=True, help="All 60 points of the paper's search space, into folders of their own.")
@click.option("--target-disjoint", is_flag=True, help="Of the split in which no target word is in two parts.")
@variant_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda:N or mps.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True,
              help="Of the computation; the weights stay in float32.")  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the order, and of new weights."
)
@click.option("--keep-checkpoints", is_flag=True, help="Keep the model of every epoch, not only the best.")
@click.option("--overwrite", is_flag=True, help="Start again.  [default: go on where an earlier run stopped]")
@quiet_option
def finetune(
    model, corpus, out, objective, modules, from_scratch, learning_rate, warmup, schedule, epochs, batch_size, grid,
    target_disjoint, device, dtype, seed, keep_checkpoints, overwrite, quiet, **asked,
) -> None:  # fmt: skip
    """Fine-tune a Whisper model on the listeners' responses; the epoch with the best dev part is kept.

    \b
    The corpus needs the parts train and dev (layertool corpus eccc). The result is a MODEL for every other command.
    Examples:
      layertool lexical finetune openai/whisper-small eccc -o tuned
      layertool lexical finetune openai/whisper-small eccc -o top --objective top --train decoder,encoder
      layertool lexical finetune openai/whisper-small eccc -o scratch --from-scratch
    """
    require("fine-tuning", "accelerate")
    from layertool.corpora.corpus import Corpus
    from layertool.training.lexical import Recipe, Tuned, fine_tune
    from layertool.training.lexical_grid import search_grid

    if not modules and typed({"modules"}):
        raise UsageError("--train names no part: choose among decoder, encoder, convolutions")
    if grid and (twice := typed({"learning_rate", "warmup", "schedule", "epochs"})):
        raise UsageError(f"--grid tries several values of {twice[0]}: leave one of the two out")
    recipe = Recipe(
        objective, modules or ("decoder", "encoder", "convolutions"), learning_rate, warmup, schedule, epochs, batch_size,
        from_scratch=from_scratch, seed=seed, precision=dtype, variant=Reading(**asked).variant,
    )  # fmt: skip
    there = Corpus.read(corpus)
    options = {
        "by_target": target_disjoint,
        "device": device,
        "overwrite": overwrite,
        "keep_checkpoints": keep_checkpoints,
    }
    with output.progress_bar(quiet, "steps") as progress:
        if grid:
            lines: list = []
            _, tuned = search_grid(
                model, there, out, recipe, lambda name, run: lines.append((name, run)), progress=progress, **options
            )
        else:
            tuned = fine_tune(model, there, out, recipe, progress=progress, **options)
    if grid:
        done = sorted((line for line in lines if isinstance(line[1], Tuned)), key=lambda line: -line[1].best.dev)
        output.echo("log-likelihood of the dev part at the best epoch")
        output.table(None, ["run", "best epoch", "dev"], [[name, run.best.epoch, run.best.dev] for name, run in done])
        for name, error in (line for line in lines if not isinstance(line[1], Tuned)):
            output.note(f"{name}: {error}", quiet)
    _show(tuned)
    if not quiet and not tuned.was_there:
        output.note(
            f"see the test part with: layertool lexical score {tuned.folder} {corpus} --split test{_like(asked, target_disjoint)}"
        )


def _show(tuned) -> None:
    output.echo(
        f"{tuned.folder}: log-likelihood of the dev part{' (it was finished already)' if tuned.was_there else ''}"
    )
    lines = [
        [epoch.epoch, epoch.step, "" if epoch.loss is None else f"{epoch.loss:.3f}", epoch.dev, "kept" if epoch == tuned.best else ""]
        for epoch in tuned.history
    ]  # fmt: skip
    output.table(None, ["epoch", "step", "training loss", "dev", ""], lines)
    if tuned.best.dev < tuned.history[0].dev:
        output.note(
            "no epoch is better than the model was before: what was kept is worse; try another --learning-rate or --epochs"
        )


def _like(asked: dict, target_disjoint: bool) -> str:
    """The options with which the model was trained, where they are not the usual ones."""
    text = " --target-disjoint" if target_disjoint else ""
    text += "" if asked["encoder_window"] == "30s" else f" --encoder-window {asked['encoder_window']}"
    text += "" if asked["end_token"] else " --no-end-token"
    text += "" if asked["surface"] == "lower" else f" --surface {asked['surface']}"
    text += " --timestamps" if asked["timestamps"] else ""
    return text + (f" --language {asked['language']}" if asked["language"] else "")
