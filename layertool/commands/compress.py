"""compress: a pre-trained network with fewer heads, rows or weights, or a smaller one that was taught by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from layertool.commands import output
from layertool.commands.distill import distill
from layertool.commands.options import HELP, ModelText, bundle, output_folder, quiet_option, typed
from layertool.commands.pretrain import pretrain
from layertool.commands.training_options import require
from layertool.errors import UsageError

# Options that mean what they mean for pretrain: what is heard, hidden and predicted, and where.
_HEARD = ("targets", "max_fitted", "mask_prob", "mask_length", "min_masks", "max_seconds", "min_frames", "statistics")
_PLACE = ("accumulation", "seed", "device", "dtype", "overwrite")
# Without training, and without scores from data, these would say nothing.
_OF_TRAINING = {*_HEARD, "clusters", "at", "batch_size", "accumulation", "learning_rate", "save_steps", "dtype"}
_TRIGGER = ("period", "lag", "warm_up", "decay", "improvement", "seeding")


def _options_of_pretrain(command: click.Command) -> click.Command:
    """Add them, before --quiet and --help."""
    there = {parameter.name: parameter for parameter in pretrain.params}
    command.params[-1:-1] = [there[name] for name in (*_HEARD, *_PLACE)]
    return command


def _common(amount: str, learning_rate: str, steps: str):
    """The options of all three; ``amount``: the option of how much is pruned, and their defaults in words."""
    return bundle(
        click.argument("model", type=ModelText()),
        click.argument("corpus", type=click.Path(path_type=Path), required=False),
        output_folder("Run"),
        click.option("--at", default=None, metavar="STEP[,STEP...]",
                     help="Prune after these steps.  [default: those of Lin et al. 2024]"),
        click.option("--replay", type=click.Path(path_type=Path), default=None, metavar="FILE",
                     help=f"Prune when another run did, and {amount}: its prunings.json."),
        click.option("--steps", "--total-steps", "total_steps", type=click.IntRange(min=0), default=None,
                     help=f"Of training, in all; 0 prunes without any, and without CORPUS.  [default: {steps}]"),
        click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=None,
                     help=f"Constant.  [default: {learning_rate}]"),
        click.option("--batch-size", type=click.IntRange(min=1), default=None,
                     help="Utterances at once.  [default: 4; hubert, wav2vec2: 12]"),
        click.option("--save-steps", type=click.IntRange(min=1), default=1000, show_default=True,
                     help="Write a checkpoint to go on from every so many steps."),
        click.option("--clusters", type=click.IntRange(min=2), default=None,
                     help="[default: as many as MODEL tells; without heads that tell any 512, hubert: 504]"),
    )  # fmt: skip


@click.group(context_settings=HELP)
def compress() -> None:
    """Make a model smaller, step by step: prune heads, rows or weights, or teach a student."""


@_options_of_pretrain
@click.command(context_settings=HELP)
@_common("as many", "5e-5", "366000; wav2vec2: 331000")
@click.option("--amount", type=click.IntRange(min=1), default=None, help="Heads of each block at once.  [default: 1]")
@click.option("--score", type=click.Choice(["weights", "data"]), default="weights", show_default=True,
              help="The lowest go: sums of absolute weights, or gradients of the loss on a quarter of the utterances.")  # fmt: skip
@click.option("--by", type=click.Choice(["layer", "whole"]), default="layer", show_default=True,
              help="As many of each block, or the lowest of all blocks, but no block's best.")  # fmt: skip
@quiet_option
def heads(**asked) -> None:
    """Prune attention heads: the lowest of each block, train, again; each step is a MODEL.

    \b
    RUN/heads-132 has 132 heads, and is what training made of it before the next were pruned. The defaults are those
    of Lin et al. 2024 (docs/compression.md).
    Examples:
      layertool compress heads run/step-421000 corpus -o pruned
      layertool compress heads run/step-421000 corpus -o pruned --at 1000,6000,11000 --steps 16000
      layertool compress heads facebook/wav2vec2-base -o one-shot --steps 0
      layertool extract 'pruned/heads-*' corpus -o series
    """
    _prune("heads", **asked)


@_options_of_pretrain
@click.command(context_settings=HELP)
@_common("as many", "1e-5", "510000")
@click.option("--amount", type=click.IntRange(min=1), default=None, help="Rows of each block at once.  [default: 128]")
@quiet_option
def rows(**asked) -> None:
    """Prune rows of the feed-forward parts: 128 of each block, train, again; each step is a MODEL.

    \b
    RUN/rows-2944 has 2944 in each block. The defaults are those of Lin et al. 2024 (docs/compression.md).
    Examples:
      layertool compress rows run/step-421000 corpus -o pruned
      layertool compress rows run/step-421000 -o one-shot --steps 0 --amount 256
    """
    _prune("rows", **asked)


@_options_of_pretrain
@click.command(context_settings=HELP)
@_common("to as much", "1e-5", "1000000, longer by a period for every wait; wav2vec2: 3355000")
@click.option("--sparsities", default=None, metavar="S[,S...]",
              help="Shares of weights that are 0 after each pruning.  [default: 0.2,0.3 ... 0.8, 19 of them]")  # fmt: skip
@click.option("--warm-up", type=click.IntRange(min=1), default=25_000, show_default=True,
              help="Step of the first pruning; the others wait until the loss falls no more. Not for --at, nor for "
                   "wav2vec2, which is pruned when MelHuBERT was unless you give one of these.")  # fmt: skip
@click.option("--period", type=click.IntRange(min=2), default=25_000, show_default=True, help="Steps from one look at the loss to the next.")  # fmt: skip
@click.option("--lag", type=click.IntRange(min=1), default=15_000, show_default=True, help="Its moving average is compared with that of so many steps before.")  # fmt: skip
@click.option("--improvement", type=float, default=0.001, show_default=True, help="Prune unless it is lower by more than this.")  # fmt: skip
@click.option("--decay", type=click.FloatRange(0, 1, max_open=True), default=0.9998, show_default=True, help="Of the moving average.")  # fmt: skip
@click.option("--seeding", type=click.Choice(["first", "original", "corrected"]), default="first", show_default=True,
              help="The average begins with the first loss, the mean of three, or is corrected for its beginning.")  # fmt: skip
@quiet_option
def weights(**asked) -> None:
    """Prune single weights: the smallest of all blocks become 0, train, again; each step is a MODEL.

    \b
    In RUN/sparsity-0.2 a fifth of them are 0. The defaults are those of Lin et al. 2024 (docs/compression.md).
    Examples:
      layertool compress weights run/step-421000 corpus -o pruned
      layertool compress weights w2v2/step-400000 corpus -o pruned-too --replay pruned/prunings.json --steps 1000000
      layertool compress weights run/step-421000 -o one-shot --steps 0 --sparsities 0.2,0.4,0.6
    """
    _prune("weights", **asked)


for _command in (heads, rows, weights, distill):
    compress.add_command(_command)


def _prune(kind: str, model, corpus, out, targets, device, overwrite, quiet, **asked) -> None:
    trains = asked["total_steps"] != 0
    hears = trains or asked.get("score") == "data"
    if hears:
        require("training", "accelerate")
    if hears and corpus is None:
        raise UsageError("training and scores from data need speech: type a CORPUS after MODEL, or --steps 0")
    if not hears and corpus is not None:
        raise UsageError("--steps 0 prunes without hearing anything: leave the CORPUS out")
    if not hears and (clash := typed(_OF_TRAINING)):
        raise UsageError(f"--steps 0 prunes without training: leave {clash[0]} out")
    if not trains and (clash := typed({"at", "learning_rate", "save_steps", "accumulation", *_TRIGGER})):
        raise UsageError(f"--steps 0 prunes without training: leave {clash[0]} out")
    from layertool.corpora.corpus import Corpus
    from layertool.training import compressing, plans

    about = plans.look(model)
    plan, total_steps = _plan(kind, about, trains, asked)
    pruning = plans.Pruning(kind, plan, total_steps, trains, asked.get("score", "weights"), asked.get("by", "layer"))
    recipe = settings = store = None
    if hears:
        recipe, store = _recipe(about, asked), _store(about.model, targets)
        given = {name: asked[name] for name in ("batch_size", "learning_rate") if asked[name] is not None}
        settings = plans.usual_settings(
            kind, about.model, save_steps=asked["save_steps"], accumulation=asked["accumulation"], seed=asked["seed"],
            precision=asked["dtype"], **given,
        )  # fmt: skip
    with output.progress_bar(quiet, "steps") as progress:
        done = compressing.compress(
            model, Corpus.read(corpus) if hears else None, out, pruning, recipe, settings, store, device, overwrite, progress,
            lambda text: output.note(text, quiet),
        )  # fmt: skip
    _show(done, kind, corpus, quiet)


def _plan(kind: str, about, trains: bool, asked: dict) -> tuple:
    """When to prune, and how many steps there are."""
    from layertool.training import plans
    from layertool.training.schedules import SPARSITIES, Record, Schedule, Trigger, parse_steps

    at, replay, steps = asked["at"], asked["replay"], asked["total_steps"]
    trigger = typed(set(_TRIGGER))
    if replay and (clash := typed({"at", "amount", "sparsities", *_TRIGGER})):
        raise UsageError(f"--replay prunes as another run did: leave {clash[0]} out")
    if at and trigger:
        raise UsageError(f"--at says when weights are pruned, and {trigger[0]} that the loss does: leave one out")
    if (at or replay) and steps is None:
        raise UsageError(f"{'--at' if at else '--replay'} says when to prune, not when to end: add --steps")
    if replay:
        record = Record.read(replay)
        if record.kind != kind:
            raise UsageError(f"{replay} is a record of pruning {record.kind}: type 'layertool compress {record.kind}'")
        return record.schedule(), steps
    amounts: Any = asked.get("amount")
    sparsities = _shares(asked["sparsities"]) if asked.get("sparsities") else SPARSITIES
    if at:
        steps_at = parse_steps(at)
        if kind == "weights":
            amounts = sparsities if asked["sparsities"] else SPARSITIES[: len(steps_at)]
        usual = 1 if kind == "heads" else plans.ROWS_AT_ONCE
        return Schedule(kind, steps_at, amounts or usual), steps
    if kind == "weights" and not trains:
        return Schedule(kind, range(len(sparsities)), sparsities), 0
    plan, total = plans.usual_plan(kind, about, amounts)
    if kind == "weights" and (trigger or asked["sparsities"]):
        plan, total = Trigger(sparsities, **{name: asked[name] for name in _TRIGGER}), plans.WEIGHT_TOTAL
    return plan, total if steps is None else steps


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"'{text}' are no sparsities: give numbers with commas, such as 0.2,0.3,0.4") from None


def _recipe(about, asked: dict):
    """What is heard, hidden and predicted."""
    from dataclasses import replace

    from layertool.training.pretraining_recipes import MODELS, SPANS, Recipe

    if about.model not in MODELS:
        return None  # refused by name where it is opened
    spans = {"probability": asked["mask_prob"], "length": asked["mask_length"], "least": asked["min_masks"]}
    spans = {name: value for name, value in spans.items() if value is not None}
    statistics = {} if asked["statistics"] is None else {"statistics": asked["statistics"]}
    return Recipe(
        about.model, clusters=asked["clusters"] or about.clusters or None, spans=replace(SPANS[about.model], **spans),
        max_seconds=asked["max_seconds"], min_frames=asked["min_frames"], max_fitted=asked["max_fitted"], **statistics,
    )  # fmt: skip


def _store(model: str, targets: str):
    """The store and layer that are clustered; None for log mel energies."""
    from layertool.store import FeatureStore

    if model == "wav2vec2" and (clash := typed({"targets", "clusters", "max_fitted", "statistics"})):
        raise UsageError(f"wav2vec 2.0 makes its targets itself: leave {clash[0]} out")
    if targets == "mel":
        return None
    path, _, layer = targets.rpartition(":")
    if not (path and layer):
        raise UsageError(f"'{targets}' are no targets: type mel, or STORE:LAYER (stage1:T2)")
    return FeatureStore(path), layer


def _show(done, kind: str, corpus: Path | None, quiet: bool) -> None:
    was_there = " (the run was finished already)" if done.was_there else ""
    output.echo(f"{done.folder}: {output.count(len(done.models), 'model')}{was_there}")
    lines = []
    for saved in done.models:
        before = [loss.loss for loss in done.losses if loss.step <= saved.step]
        removed = done.n_parameters - saved.n_parameters
        lines.append([saved.path.name, saved.step, saved.n_parameters, removed, f"{before[-1]:.3f}" if before else ""])
    parameters = "parameters that are not 0" if kind == "weights" else "parameters"
    headers = ["model", "step", parameters, "removed", *(["training loss"] if done.losses else [])]
    output.table(None, headers, [line[: len(headers)] for line in lines])
    if not done.was_there:
        pattern = f"{done.folder}/{done.models[0].path.name.partition('-')[0]}-*"
        output.note(
            f"see what the layers know with: layertool extract '{pattern}' {corpus or 'CORPUS'} -o SERIES", quiet
        )
