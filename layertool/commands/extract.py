"""extract: from a model and a corpus to a feature store."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from layertool.cluster import Cluster
from layertool.commands import output
from layertool.commands.options import HELP, ModelText, engine_options, output_folder, quiet_option
from layertool.errors import ModelError, UsageError

if TYPE_CHECKING:
    from layertool.models.open import Model
    from layertool.store import FeatureStore
    from layertool.store.writer import Part

# oneDNN, which computes convolutions on a CPU, keeps what it has prepared for each length of a batch, 1024 things by default,
# about 0.1 MB each. Lengths of speech hardly repeat, so memory grows and nothing is gained; one batch needs about ten.
KERNELS_KEPT = "64"


def _pairs(_ctx, _param, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        unit, equals, how = value.partition("=")
        if not equals:
            raise click.BadParameter(f"'{value}' is not UNIT=HOW, e.g. phone=mean")
        pairs[unit] = how
    return pairs


@click.command(context_settings=HELP)
@click.argument("members", metavar="MODEL", type=ModelText(series=True))
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
@click.option("--workers", type=click.IntRange(min=1), default=None, metavar="N",
              help="Threads that read audio  [default: 2]; of Ray: workers  [default: one a GPU, or else a core]")  # fmt: skip
@click.option("--nshard", type=click.IntRange(min=1), default=None, metavar="N",
              help="Write only every N-th shard, beside other processes; 'layertool store merge' finishes.  [default: of a Slurm "
              "job array, or RANK and WORLD_SIZE]")  # fmt: skip
@click.option(
    "--rank", type=click.IntRange(min=0), default=None, metavar="R", help="Which of the N processes this is: 0 to N-1."
)
@engine_options
@click.option("--gpus-per-worker", type=click.FloatRange(min=0), default=None, metavar="N",
              help="Of each worker of Ray.  [default: 1 where there are GPUs]")  # fmt: skip
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
def extract(members: list, corpus: Path, out: Path, quiet: bool, dry_run: bool, **options) -> None:
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
      layertool extract facebook/wav2vec2-base corpus -o w2v2 --nshard 8 --rank 0
      layertool extract facebook/wav2vec2-base corpus -o w2v2 --engine ray --address auto
    """
    # read at the first convolution; what a person has set counts
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS_KEPT)
    part = _part(options.pop("nshard"), options.pop("rank"), options, quiet)
    if len(members) > 1 or members[0][0] is not None:
        output.note(f"{output.count(len(members), 'checkpoint')}, each into a store of its own in {out}", quiet)
    if len(members) > 1 and options["random_init"] is not None:
        raise UsageError("--random-init draws the same weights for every checkpoint of a series: give one of them")
    failed = []
    with _cluster(dry_run, options) as cluster:
        for name, member in members:
            try:
                _extract(member, corpus, out if name is None else out / name, dry_run, quiet, options, part, cluster)
            except ModelError as error:
                if name is None:
                    raise
                failed.append(name)
                output.note(f"left out: {error}")
    if failed:
        raise ModelError(
            f"{len(failed)} of {len(members)} checkpoints could not be extracted ({', '.join(failed[:5])}): restore or remove "
            "them, and run the same command again; the others are done"
        )


def _part(nshard: int | None, rank: int | None, options: dict, quiet: bool) -> Part | None:
    """Which shards this process writes."""
    from layertool.extractors.ranks import part_of_job

    if options["engine"] == "ray":
        if nshard is not None or rank is not None:
            raise UsageError("Ray deals out the shards itself: leave out --nshard and --rank, or --engine ray")
        return None
    for name in ("address", "gpus_per_worker"):
        if options[name] is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for Ray: add --engine ray")
    part, source = part_of_job(nshard, rank, os.environ)
    if part and source:
        output.note(f"{part}, as {source} says (--nshard 1: all of the work)", quiet)
    return part


@contextmanager
def _cluster(dry_run: bool, options: dict) -> Iterator[Cluster | None]:
    """The cluster that was asked for, if any."""
    engine, address, n_gpus = (options.pop(name) for name in ("engine", "address", "gpus_per_worker"))
    if engine == "local" or dry_run:
        yield None
        return
    with Cluster.open(address, options["workers"], n_gpus) as cluster:
        yield cluster


def _extract(
    model: Model,
    corpus: Path,
    out: Path,
    dry_run: bool,
    quiet: bool,
    options: dict,
    part: Part | None,
    cluster: Cluster | None,
) -> None:
    """One model into one store."""
    from layertool.corpora.corpus import Corpus
    from layertool.extractors.on_cluster import Request, extract_on_cluster
    from layertool.extractors.prepare import Options, prepare
    from layertool.extractors.run import READING_THREADS, carry_out

    decided = Options(**{field.name: options[field.name] for field in fields(Options)})
    compute = {
        name: options[name]
        for name in ("device", "dtype", "random_init", "normalise", "cmvn", "language", "encoder_window", "statistics")
    }
    prepared = prepare(model, corpus, decided, **compute) if cluster is None else None
    if prepared and dry_run:
        _say_plan(prepared, out, options["batch_seconds"], part)
        return
    begun = time.monotonic()
    told: list[float] = []
    with output.progress_bar(quiet) as show:

        def progress(done: float, total: float) -> None:
            told.append(done)
            if show:
                show(done, total)

        common = {"overwrite": options["overwrite"], "max_failures": options["max_failures"], "progress": progress}
        if prepared:
            threads = options["workers"] or READING_THREADS
            store = carry_out(prepared, out, options["batch_seconds"], threads, part=part, **common)
        elif cluster:
            request = Request(model.text, decided, compute, options["batch_seconds"])
            read = Corpus.read(corpus, decided.channel)
            store = extract_on_cluster(cluster, request, read, out, say=output.note, **common)
    _say_what_is_there(
        store, part, "already complete" if len(told) == 1 else f"in {output.duration(time.monotonic() - begun)}", quiet
    )


def _say_what_is_there(store: FeatureStore, part: Part | None, when: str, quiet: bool) -> None:
    """What a run has written."""
    from layertool.layers import summary
    from layertool.store.layout import part_indexes

    for failure in store.failures:
        output.note(f"left out: {failure['utterance']}: {failure['error']}")
    if store.about["zero_length_segments"]:
        output.note(f"{store.about['zero_length_segments']} segments of zero length were left out", quiet)
    size = output.size(sum(entry["size"] for entry in store.index.values()))
    if part:
        n_shards = store.about["n_shards"]
        output.echo(f"{store.path}: {part} is done; {len(store.index)} of {n_shards} shards are there, {size}, {when}")
        if part.rank >= n_shards:
            output.note(f"there are only {n_shards} shards, so that rank {part.rank} has none (--shard-seconds)", quiet)
        if store.finished and part_indexes(store.path):
            output.note(f"all shards are there: type layertool store merge {store.path}", quiet)
        return
    rows = ", ".join(output.count(store.n_rows(unit), unit) for unit in store.units)
    output.echo(f"{store.path}: {rows}; layers {summary(store.layers)}; {size}, {when}")


def _say_plan(prepared, out: Path, batch_seconds: float | None, part: Part | None) -> None:
    from layertool.commands.store import mask_facts
    from layertool.extractors.forecast import forecast
    from layertool.extractors.memory import needed, there_is
    from layertool.layers import summary

    planned = prepared.plan
    most, there = needed(prepared, batch_seconds), there_is()
    device = prepared.extractor.device
    memory = f"about {output.size(most.process)}"
    if most.on_device:
        memory += f", and {output.size(most.on_device)} on {device}"
    if most.process > there:
        time_here = "not timed, as it would not fit into memory"
        output.note(
            f"the run needs about {output.size(most.process)} of memory, this process may have {output.size(there)}: give a "
            "smaller --batch-seconds or --window-seconds, or take a machine that has more"
        )
    else:
        seconds = forecast(prepared, batch_seconds).seconds
        time_here = (
            f"about {output.duration(seconds)} on {device} (forward passes alone; two batches of noise were timed)"
        )
        if part:
            time_here += f"; with --nshard {part.of}: {output.duration(seconds / part.of)} each"
    rows = [
        ("audio", f"{output.count(planned.n_utterances, 'utterance')}, {output.duration(planned.seconds)}"),
        ("layers", summary(prepared.layers)),
        *((f"{name.split('/')[0]} rows", output.number(count)) for name, count in planned.rows.items()),
        *mask_facts(prepared.configuration),
        ("shards", output.number(planned.n_shards)),
        ("on the disk", output.size(planned.n_bytes)),
        ("memory", memory),
        ("time here", time_here),
    ]
    output.facts(f"{out} (nothing was written)", rows)
