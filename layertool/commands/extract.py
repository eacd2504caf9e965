"""extract: from a model and a corpus to a feature store."""

from __future__ import annotations

import time
from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import HELP, output_folder, quiet_option
from layertool.errors import ModelError, UsageError


def _pairs(_ctx, _param, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        unit, equals, how = value.partition("=")
        if not equals:
            raise click.BadParameter(f"'{value}' is not UNIT=HOW, e.g. phone=mean")
        pairs[unit] = how
    return pairs


@click.command(context_settings=HELP)
@click.argument("model")
@click.argument("corpus", type=click.Path(path_type=Path))
@output_folder("Store")
@click.option(
    "--units", default="word,utterance", show_default=True, metavar="UNITS", help="Among frame,phone,word,utterance."
)
@click.option("--layers", default="all", show_default=True, metavar="LAYERS",
              help="E.g. T0-T12,C7. 'all' leaves out Whisper's decoder; ask for it by name: all,D0-D4.")  # fmt: skip
@click.option("--pooling", multiple=True, callback=_pairs, metavar="UNIT=HOW",
              help="mean, min, max, centre-third, position@0.5, quarter1 to quarter4.  [default: phone=centre-third, others mean]")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda:N or mps.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Of the computation.",
)
@click.option(
    "--store-dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="On the disk.",
)
@click.option(
    "--batch-seconds",
    type=click.FloatRange(min=0.1),
    default=None,
    help="Padded audio in one batch.  [default: 8 on a CPU, 400 on a GPU]",
)
@click.option(
    "--shard-seconds",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    help="Audio in one shard, the unit of resuming.",
)
@click.option(
    "--window-seconds",
    type=click.FloatRange(min=4),
    default=60.0,
    show_default=True,
    help="Longer utterances are run in windows of this length (Whisper: at most 30).",
)
@click.option(
    "--overlap-seconds",
    type=click.FloatRange(min=1),
    default=10.0,
    show_default=True,
    help="What two windows share; they are joined in its middle.",
)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Reading threads.")
@click.option("--random-init", type=int, default=None, metavar="SEED", help="Untrained control: draw the weights anew.")
@click.option(
    "--channel", default=None, metavar="N|mix|sum", help="Which channel of files that have several; mix is their mean."
)
@click.option(
    "--normalise/--no-normalise",
    default=None,
    help="Zero mean, unit variance of the waveform.  [default: as the checkpoint says]",
)
@click.option("--cmvn", is_flag=True, help="Per-utterance mean and variance normalisation of acoustic features.")
@click.option("--language", default=None, help="Of the forced text, for Whisper's decoder layers.  [default: en]")
@click.option("--encoder-window", type=click.Choice(["clip", "30s", "exact"]), default="clip", show_default=True,
              help="Whisper: 30 s seen, the clip's frames kept; 30 s seen and kept (--units frame); only the clip seen.")  # fmt: skip
@click.option("--statistics", default=None, metavar="HOURS|FILE",
              help="Of MelHuBERT's input: 100, 360 or 960 hours of LibriSpeech, or a .npy file.  [default: 960]")  # fmt: skip
@click.option("--mask-seed", type=int, default=None, metavar="SEED",
              help="Run with the time mask of pre-training on, and flag masked frames (wav2vec 2.0 kind).")  # fmt: skip
@click.option("--mask-prob", type=click.FloatRange(0, 1, min_open=True), default=None,
              help="Of that mask: spans * their length / frames.  [default: 0.65, HuBERT, WavLM, UniSpeech-SAT 0.8]")  # fmt: skip
@click.option("--mask-length", type=click.IntRange(min=1), default=None, help="Frames in one span.  [default: 10]")
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Leave out up to this many bad utterances, and list them.",
)
@click.option("--overwrite", is_flag=True, help="Start again.  [default: go on where an earlier run stopped]")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and stop.")
@quiet_option
def extract(model: str, corpus: Path, out: Path, quiet: bool, dry_run: bool, **options) -> None:
    """Run a model over a corpus once and write its layers into a store.

    \b
    MODEL is a Hugging Face id (facebook/wav2vec2-base, name@revision), a local folder, fairseq:FILE,
    melhubert:FILE, or an acoustic feature: stft, spectrogram, mel, mfcc, fbank, or a variant such as mel:pasad.
    With * or ? in it, all checkpoints of that name, each into a store of its own: a series.
    Families: wav2vec 2.0 (XLS-R, MMS), HuBERT (DistilHuBERT), WavLM, data2vec-audio, UniSpeech(-SAT),
    wav2vec2-conformer, Whisper, MelHuBERT.
    \b
    Examples:
      layertool extract facebook/wav2vec2-base corpus -o w2v2 --units phone,word
      layertool extract openai/whisper-small corpus -o whisper --layers all,D0-D12
      layertool extract mel corpus -o mel --units phone,word
      layertool extract facebook/wav2vec2-base corpus -o untrained --random-init 0 --units phone,word
      layertool extract 'melhubert:run/*.ckpt' corpus -o series --units phone,utterance
      layertool extract facebook/wav2vec2-base corpus -o masked --units frame --layers T0-T12 --mask-seed 0
    """
    from layertool.extractors.series import members

    found = members(model)
    if len(found) > 1 or found[0][0] is not None:
        output.note(f"{output.count(len(found), 'checkpoint')}, each into a store of its own in {out}", quiet)
    if len(found) > 1 and options["random_init"] is not None:
        raise UsageError("--random-init draws the same weights for every checkpoint of a series: give one of them")
    failed = []
    for name, member in found:
        try:
            _extract(member, corpus, out if name is None else out / name, dry_run, quiet, options)
        except ModelError as error:
            if name is None:
                raise
            failed.append(name)
            output.note(f"left out: {error}")
    if failed:
        raise ModelError(
            f"{len(failed)} of {len(found)} checkpoints could not be extracted ({', '.join(failed[:5])}): restore or remove "
            "them, and run the same command again; the others are done"
        )


def _extract(model: str, corpus: Path, out: Path, dry_run: bool, quiet: bool, options: dict) -> None:
    """One model into one store."""
    from layertool.extractors.prepare import Options, prepare
    from layertool.extractors.run import carry_out

    names = (
        "units",
        "layers",
        "store_dtype",
        "pooling",
        "channel",
        "window_seconds",
        "overlap_seconds",
        "shard_seconds",
        "mask_seed",
        "mask_prob",
        "mask_length",
    )
    decided = Options(**{name: options[name] for name in names})
    compute = {
        name: options[name]
        for name in ("device", "dtype", "random_init", "normalise", "cmvn", "language", "encoder_window", "statistics")
    }
    prepared = prepare(model, corpus, decided, **compute)
    if dry_run:
        _say_plan(prepared, out)
        return
    begun = time.monotonic()
    told: list[float] = []
    with output.progress_bar(quiet) as show:

        def progress(done: float, total: float) -> None:
            told.append(done)
            if show:
                show(done, total)

        store = carry_out(
            prepared,
            out,
            options["batch_seconds"],
            options["workers"],
            options["overwrite"],
            options["max_failures"],
            progress,
        )
    elapsed = time.monotonic() - begun
    for failure in store.failures:
        output.note(f"left out: {failure['utterance']}: {failure['error']}")
    if store.about["zero_length_segments"]:
        output.note(f"{store.about['zero_length_segments']} segments of zero length were left out", quiet)
    rows = ", ".join(output.count(store.n_rows(unit), unit) for unit in store.units)
    from layertool.layers import summary

    # told once, of what was there: there was nothing left to do
    when = "already complete" if len(told) == 1 else f"in {output.duration(elapsed)}"
    size = output.size(sum(entry["size"] for entry in store.index.values()))
    click.echo(f"{store.path}: {rows}; layers {summary(store.layers)}; {size}, {when}")


def _say_plan(prepared, out: Path) -> None:
    from layertool.commands.store import mask_facts
    from layertool.layers import summary

    planned = prepared.plan
    rows = [
        ("audio", f"{output.count(planned.n_utterances, 'utterance')}, {output.duration(planned.seconds)}"),
        ("layers", summary(prepared.layers)),
        *((f"{name.split('/')[0]} rows", output.number(count)) for name, count in planned.rows.items()),
        *mask_facts(prepared.configuration),
        ("shards", output.number(planned.n_shards)),
        ("on the disk", output.size(planned.n_bytes)),
    ]
    output.facts(f"{out} (nothing was written)", rows)
