"""The run: what was prepared is carried out here, as a part of a job array, or by a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layertool.cluster import ENGINES, Cluster
from layertool.corpora.corpus import Corpus
from layertool.errors import UsageError
from layertool.extractors.base import Extractor
from layertool.extractors.on_cluster import Request, extract_on_cluster
from layertool.extractors.prepare import Options, Prepared, prepare
from layertool.extractors.ranks import part_of
from layertool.extractors.sink import Progress
from layertool.extractors.work import write_shards
from layertool.geometry import SAMPLE_RATE
from layertool.models.open import Model
from layertool.store import FeatureStore, StoreWriter
from layertool.store.writer import Part

READING_THREADS = 2


def extract(
    model: str | Model | Extractor,
    corpus: Corpus | Path | str,
    out: Path | str,
    units: Sequence[str] = ("word", "utterance"),
    layers: str | Sequence[str] = "all",
    *,
    dtype: str = "float32",
    store_dtype: str = "float32",
    device: str = "auto",
    batch_seconds: float | None = None,
    shard_seconds: float = 600.0,
    workers: int | None = None,
    random_init: int | None = None,
    overwrite: bool = False,
    max_failures: int = 0,
    pooling: Mapping[str, str] | None = None,
    channel: str | None = None,
    normalise: bool | None = None,
    cmvn: bool = False,
    language: str | None = None,
    window_seconds: float = 60.0,
    overlap_seconds: float = 10.0,
    mask_seed: int | None = None,
    mask_prob: float | None = None,
    mask_length: int | None = None,
    encoder_window: str = "clip",
    statistics: str | None = None,
    nshard: int | None = None,
    rank: int | None = None,
    engine: str = "local",
    address: str | None = None,
    gpus_per_worker: float | None = None,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> FeatureStore:
    """Run a model over a corpus once and write every asked layer at every asked unit into a store.

    ``model``: a Hugging Face id, a local folder, an acoustic feature's name, a Model, or an Extractor.
    ``units``: among frame, phone, word, utterance. ``pooling``: unit -> pooling name (see
    geometry.Pooling); phones default to their centre third, words and utterances to the mean.
    ``dtype``: of the computation; ``store_dtype``: on the disk. ``max_failures``: how many utterances
    may fail before the run does. ``mask_seed``: run a model of the wav2vec 2.0 kind with the time
    mask of its pre-training on; frame rows then have a column ``masked``. ``mask_prob``,
    ``mask_length`` (frames): other values than pre-training's. ``encoder_window``: what
    Whisper's encoder sees and which frames are kept (models.whisper.WINDOWS). ``statistics``: of MelHuBERT's input.
    ``nshard``, ``rank``: write only every nshard-th shard, beside other processes; ``layertool store merge`` finishes the store.
    ``engine``: local, or ray: the workers of the cluster at ``address`` (``layertool.cluster.Cluster.open``), with so many GPUs each;
    ``workers``: threads that read audio, or workers of Ray. A run that was stopped goes on where it was; ``overwrite`` starts
    again. Raises a LayertoolError that says what to do.
    """
    options = Options(
        units, layers, store_dtype, dict(pooling or {}), channel, window_seconds, overlap_seconds, shard_seconds,
        mask_seed, mask_prob, mask_length,
    )  # fmt: skip
    compute: dict[str, Any] = {
        "device": device, "dtype": dtype, "random_init": random_init, "normalise": normalise, "cmvn": cmvn, "language": language,
        "encoder_window": encoder_window, "statistics": statistics,
    }  # fmt: skip
    part = part_of(nshard, rank)
    if engine == "local":
        prepared = prepare(model, corpus, options, **compute)
        return carry_out(
            prepared, out, batch_seconds, workers or READING_THREADS, overwrite, max_failures, progress, part
        )
    if engine not in ENGINES:
        raise UsageError(f"'{engine}' is no engine: choose {' or '.join(ENGINES)}")
    if part:
        raise UsageError("Ray deals out the shards itself: leave out --nshard and --rank, or --engine ray")
    if isinstance(model, Extractor):
        raise UsageError("the workers of Ray open the model themselves: give its name, not an extractor")
    if not isinstance(corpus, Corpus):
        corpus = Corpus.read(corpus, channel)
    if isinstance(model, Model):
        compute |= asdict(model.asked)
    request = Request(str(model), options, compute, batch_seconds)
    with Cluster.open(address, workers, gpus_per_worker) as cluster:
        return extract_on_cluster(cluster, request, corpus, out, overwrite, max_failures, progress, say)


def carry_out(
    prepared: Prepared,
    out: Path | str,
    batch_seconds: float | None = None,
    workers: int = READING_THREADS,
    overwrite: bool = False,
    max_failures: int = 0,
    progress: Progress | None = None,
    part: Part | None = None,
) -> FeatureStore:
    """Do what was prepared, shard by shard, leaving out the shards that are there already.

    With a ``part``, only its shards; the store that comes back may be unfinished, and ``layertool store merge`` finishes it.
    """
    with StoreWriter(
        out, prepared.configuration, prepared.about, prepared.corpus.utterances, prepared.rows.labels, overwrite, part
    ) as store:
        mine = [shard for shard in prepared.shards if part is None or part.has(shard.number)]
        pending = [shard for shard in mine if shard.number not in store.finished]
        total = sum(shard.n_samples for shard in mine) / SAMPLE_RATE
        done = total - sum(shard.n_samples for shard in pending) / SAMPLE_RATE
        seconds_done = None if progress is None else lambda seconds: progress(done + seconds, total)
        write_shards(prepared, store, pending, batch_seconds, workers, max_failures, seconds_done)
        if part is None:
            store.finish(len(prepared.shards))
    return FeatureStore(out, allow_unfinished=part is not None)
