"""pretrain: MelHuBERT, HuBERT and wav2vec 2.0 from audio, as a series of checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import HELP, ModelText, output_folder, quiet_option, typed
from layertool.commands.training_options import require
from layertool.errors import UsageError

_SIZES = ("blocks", "width", "ffn", "heads", "convolution_width")


@click.command(context_settings=HELP)
@click.argument("corpus", type=click.Path(path_type=Path))
@output_folder("Run")
@click.option("--model", type=click.Choice(["melhubert", "hubert", "wav2vec2"]), default="melhubert", show_default=True,
              help="What is trained.")  # fmt: skip
@click.option("--size", type=click.Choice(["small", "slim", "base"]), default="base", show_default=True,
              help="As Table 2 of Lin et al. 2024: 3 blocks of 640, 12 of 384, 12 of 768.")  # fmt: skip
@click.option("--blocks", type=click.IntRange(min=1), default=None, help="Another number of blocks than --size has.")
@click.option("--width", type=click.IntRange(min=1), default=None, help="Another width of the blocks.")
@click.option("--ffn", type=click.IntRange(min=1), default=None, help="Other rows in their feed-forward parts.")
@click.option("--heads", type=click.IntRange(min=1), default=None, help="Another number of heads.")
@click.option("--conv-width", "convolution_width", type=click.IntRange(min=1), default=None,
              help="Channels of the convolutions of hubert and wav2vec2.  [default: 512]")  # fmt: skip
@click.option(
    "--init",
    type=ModelText(),
    metavar="MODEL",
    default=None,
    help="Go on with the weights of this MODEL, and with its sizes.",
)
@click.option("--frames", "frame_ms", type=click.Choice(["10", "20"]), default="20", show_default=True,
              help="ms between frames of melhubert.")  # fmt: skip
@click.option("--targets", default="mel", show_default=True, metavar="mel|STORE:LAYER",
              help="What is clustered to be predicted: log mel energies every 10 ms (stage 1), or the frames of a layer "
                   "in a store of the same corpus (stage 2).")  # fmt: skip
@click.option("--clusters", type=click.IntRange(min=2), default=None, help="[default: 512; hubert: 504, as in Table 2]")
@click.option("--cluster-frames", "max_fitted", type=click.IntRange(min=2), default=500_000, show_default=True,
              help="Draw up to so many frames to fit clusters on.")  # fmt: skip
@click.option("--mask-prob", type=click.FloatRange(0, 1, min_open=True), default=None,
              help="Of a frame to be in a span, were there no overlaps.  [default: 0.7; hubert: 0.8, wav2vec2: 0.65]")  # fmt: skip
@click.option(
    "--mask-length",
    type=click.IntRange(min=1),
    default=None,
    help="Frames in a span.  [default: 5; hubert, wav2vec2: 10]",
)
@click.option(
    "--min-masks", type=click.IntRange(min=1), default=2, show_default=True, help="Spans in an utterance, at least."
)
@click.option("--max-seconds", type=click.FloatRange(min=0.1), default=None,
              help="Longer utterances are cropped, elsewhere each time.  [default: 15; hubert, wav2vec2: 15.625]")  # fmt: skip
@click.option("--min-frames", type=click.IntRange(min=1), default=None,
              help="Utterances with fewer are left out.  [default: 321; hubert, wav2vec2: 99]")  # fmt: skip
@click.option("--statistics", default=None, metavar="100|360|960|FILE",
              help="Means and deviations of log mel energies, as for extract.  [default: 960]")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=0), default=None, help="[default: 421000; hubert, wav2vec2: 400000]")
@click.option("--save-steps", type=click.IntRange(min=1), default=5000, show_default=True,
              help="Write RUN/step-N, a MODEL, every so many steps (and at 0); a stopped run goes on from there.")  # fmt: skip
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=None,
    help="Utterances at once.  [default: 12; hubert, wav2vec2: 6]",
)
@click.option("--accumulation", type=click.IntRange(min=1), default=1, show_default=True, help="Batches in a step.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=None,
              help="At its peak.  [default: 1e-4; hubert, wav2vec2: 5e-4]")  # fmt: skip
@click.option(
    "--warmup-steps", type=click.IntRange(min=0), default=None, help="[default: 0; hubert, wav2vec2: 8 % of the steps]"
)
@click.option("--schedule", type=click.Choice(["constant", "linear", "cosine"]), default=None,
              help="After the warm-up.  [default: constant; hubert, wav2vec2: linear, to 0]")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=1337, show_default=True,
              help="Of weights, clusters, order, crops and masks.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True,
              help="Of the computation; the weights stay in float32.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Start again.  [default: go on where an earlier run stopped]")
@quiet_option
def pretrain(corpus, out, model, size, init, frame_ms, targets, device, dtype, overwrite, quiet, **asked) -> None:
    """Pre-train MelHuBERT, HuBERT or wav2vec 2.0 on a corpus; every step saved is a MODEL.

    \b
    The defaults are those of Lin et al. 2024, MelHuBERT's own code and fairseq's recipes (docs/training.md).
    Examples:
      layertool pretrain corpus -o run --size small --steps 20000 --save-steps 1000
      layertool extract 'run/step-*' corpus -o series --units phone,utterance
      layertool extract run/step-20000 corpus -o stage1 --units frame --layers T2
      layertool pretrain corpus -o stage2 --size small --targets stage1:T2
      layertool pretrain corpus -o w2v2 --model wav2vec2 --blocks 4 --width 256 --ffn 1024 --heads 4
    """
    require("pre-training", "accelerate")
    _refuse(model, init, targets)
    from dataclasses import replace

    from layertool.corpora.corpus import Corpus
    from layertool.store import FeatureStore
    from layertool.training import pretraining
    from layertool.training.pretraining_networks import PRESETS
    from layertool.training.pretraining_recipes import SETTINGS, SPANS, Recipe

    sizes = {name: value for name in _SIZES if (value := asked.pop(name)) is not None}
    settings = {
        name: value
        for name in (
            "steps",
            "save_steps",
            "batch_size",
            "accumulation",
            "learning_rate",
            "warmup_steps",
            "schedule",
            "seed",
        )
        if (value := asked.pop(name)) is not None
    }
    usual = SETTINGS[model]
    if "steps" in settings:  # a short run would end within the warm-up of a long one
        settings.setdefault("warmup_steps", round(usual.warmup_steps / usual.steps * settings["steps"]))
    spans = {"probability": asked["mask_prob"], "length": asked["mask_length"], "least": asked["min_masks"]}
    spans = {name: value for name, value in spans.items() if value is not None}
    recipe = Recipe(
        model, replace(PRESETS[size], **sizes), int(frame_ms), asked["clusters"],
        replace(SPANS[model], **spans), asked["max_seconds"], asked["min_frames"], max_fitted=asked["max_fitted"],
        **({} if asked["statistics"] is None else {"statistics": asked["statistics"]}),
    )  # fmt: skip
    store = None
    if targets != "mel":
        path, _, layer = targets.rpartition(":")
        store = FeatureStore(path), layer
    with output.progress_bar(quiet, "steps") as progress:
        done = pretraining.pretrain(
            Corpus.read(corpus), out, recipe, replace(usual, precision=dtype, **settings), store, init,
            device, overwrite, progress, lambda text: output.note(text, quiet),
        )  # fmt: skip
    _show(done, corpus, quiet)


def _refuse(model: str, init: str | None, targets: str) -> None:
    """What was typed and does not go together."""
    if init and (clash := typed({"size", *_SIZES, "frame_ms"})):
        raise UsageError(f"--init goes on with a network that has its sizes: leave {clash[0]} out")
    if model == "melhubert" and (clash := typed({"convolution_width"})):
        raise UsageError(f"{clash[0]} is for networks that read waveforms, which melhubert is not: leave it out")
    if model != "melhubert" and (clash := typed({"frame_ms"})):
        raise UsageError(f"{clash[0]} is for melhubert: {model} has a frame every 20 ms")
    if model == "wav2vec2" and (clash := typed({"targets", "clusters", "max_fitted", "statistics"})):
        raise UsageError(f"wav2vec 2.0 makes its targets itself: leave {clash[0]} out")
    path, _, layer = targets.rpartition(":")
    if targets != "mel" and not (path and layer):
        raise UsageError(f"'{targets}' are no targets: type mel, or STORE:LAYER (stage1:T2)")


def _show(done, corpus: Path, quiet: bool) -> None:
    output.echo(
        f"{done.folder}: {output.count(len(done.models), 'model')}{' (the run was finished already)' if done.was_there else ''}"
    )
    facts = [
        (
            "utterances",
            f"{output.number(done.n_utterances)}{f' ({done.n_left_out} too short)' if done.n_left_out else ''}",
        ),
        ("parameters", output.number(done.n_parameters)),
    ]
    if done.targets:
        facts.append(("targets", done.targets))
    shown = (
        [done.losses[k] for k in sorted({round(k * (len(done.losses) - 1) / 9) for k in range(10)})]
        if done.losses
        else []
    )
    for name, value in facts:
        output.echo(f"  {name}: {value}")
    if shown:
        output.table(None, ["step", "training loss"], [[loss.step, loss.loss] for loss in shown])
    if not done.was_there:
        output.note(
            f"see what the layers know with: layertool extract '{done.folder}/step-*' {corpus} -o SERIES", quiet
        )
