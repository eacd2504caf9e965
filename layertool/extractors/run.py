"""The run: read, forward, pool, write, each while the others work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from layertool.corpora.corpus import Corpus
from layertool.errors import ModelError
from layertool.extractors.base import Extractor
from layertool.extractors.prepare import Options, Prepared, prepare
from layertool.extractors.reading import Work, read_ahead
from layertool.extractors.sink import BatchEnd, Failures, Pooled, Progress, Sink
from layertool.geometry import SAMPLE_RATE
from layertool.store import FeatureStore, StoreWriter

BATCH_SECONDS = {"cpu": 8.0, "mps": 60.0, "cuda": 400.0}


def extract(
    model: str | Extractor,
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
    workers: int = 2,
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
    progress: Progress | None = None,
) -> FeatureStore:
    """Run a model over a corpus once and write every asked layer at every asked unit into a store.

    ``model``: a Hugging Face id, a local folder, an acoustic feature's name, or an Extractor.
    ``units``: among frame, phone, word, utterance. ``pooling``: unit -> pooling name (see
    geometry.Pooling); phones default to their centre third, words and utterances to the mean.
    ``dtype``: of the computation; ``store_dtype``: on the disk. ``max_failures``: how many utterances
    may fail before the run does. ``mask_seed``: run a model of the wav2vec 2.0 kind with the time
    mask of its pre-training on; frame rows then have a column ``masked``. ``mask_prob``,
    ``mask_length`` (frames): other values than pre-training's. ``encoder_window``: what
    Whisper's encoder sees and which frames are kept (models.whisper.WINDOWS). ``statistics``: of MelHuBERT's input. A run that was stopped goes on where
    it was; ``overwrite`` starts again. Raises a LayertoolError that says what to do.
    """
    options = Options(
        units, layers, store_dtype, dict(pooling or {}), channel, window_seconds, overlap_seconds, shard_seconds,
        mask_seed, mask_prob, mask_length,
    )  # fmt: skip
    prepared = prepare(
        model, corpus, options, device, dtype, random_init, normalise, cmvn, language, encoder_window, statistics
    )
    return carry_out(prepared, out, batch_seconds, workers, overwrite, max_failures, progress)


def carry_out(
    prepared: Prepared,
    out: Path | str,
    batch_seconds: float | None = None,
    workers: int = 2,
    overwrite: bool = False,
    max_failures: int = 0,
    progress: Progress | None = None,
) -> FeatureStore:
    """Do what was prepared, shard by shard, leaving out the shards that are there already."""
    device = getattr(prepared.extractor, "device", torch.device("cpu"))
    batch_seconds = batch_seconds or BATCH_SECONDS[device.type]
    with StoreWriter(
        out, prepared.configuration, prepared.about, prepared.corpus.utterances, prepared.labels, overwrite
    ) as store:
        facts = {"device": str(device), "batch_seconds": batch_seconds}
        sink = Sink(prepared, store, max_failures, progress, facts)
        pending = [shard for shard in prepared.shards if shard.number not in store.finished]
        with sink:
            for work in read_ahead(prepared, pending, round(batch_seconds * SAMPLE_RATE), workers):
                sink.check()
                _process(prepared, work, round(batch_seconds * SAMPLE_RATE), sink)
        store.finish(len(prepared.shards))
    return FeatureStore(out)


def _process(prepared: Prepared, work: Work, batch_samples: int, sink: Sink) -> None:
    """Run one batch of utterances; the windows of a long one go through in batches of their own."""
    extractor = prepared.extractor
    cost = max((extractor.padded_samples(len(item.samples)) for item in work.items), default=1)
    per_batch = max(1, batch_samples // cost)
    rows = {position: prepared.rows[position] for position in work.positions}
    sink.put(Failures(work.shard, work.failures))
    for first in range(0, len(work.items), per_batch):
        items = work.items[first : first + per_batch]
        emitted: set[str] = set()

        def emit(name: str, frames: torch.Tensor, items=items, emitted=emitted) -> None:
            emitted.add(name)
            for unit, values, slices in prepared.pooler.pool(name, frames, items, rows):
                sink.put(Pooled(work.shard, unit, name, values, slices))

        try:
            extractor.forward(items, prepared.layers, emit)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"the device ran out of memory on a batch of {len(items)} windows of {cost / SAMPLE_RATE:.1f} s: "
                "give a smaller --batch-seconds (or --window-seconds, for long audio)"
            ) from error
        missing = [name for name in prepared.layers if name not in emitted]
        if missing:
            raise ModelError(
                f"{extractor.provenance['id']} did not give the layers {', '.join(missing)}: its structure is not what "
                "its model type promises"
            )
    sink.put(BatchEnd(work.shard, work.positions, work.is_last))
