"""The work on shards: read, forward, pool, write, each while the others work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from layertool.errors import ModelError
from layertool.extractors.base import Item
from layertool.extractors.plan import Shard
from layertool.extractors.prepare import Prepared
from layertool.extractors.reading import Work, read_ahead
from layertool.extractors.sink import BatchEnd, Failures, Pooled, Sink
from layertool.geometry import SAMPLE_RATE
from layertool.store import StoreWriter
from layertool.store.writer import LooseShards


def write_shards(
    prepared: Prepared,
    store: StoreWriter | LooseShards,
    shards: Sequence[Shard],
    batch_seconds: float | None,
    workers: int,
    max_failures: int,
    progress: Callable[[float], object] | None,
) -> None:
    """Write shards in their order; ``progress`` is told the seconds of audio that are done of them."""
    batch_seconds = prepared.batch_seconds(batch_seconds)
    facts = {"device": str(prepared.extractor.device), "batch_seconds": batch_seconds}
    with Sink(prepared, store, max_failures, progress, facts) as sink:
        for work in read_ahead(prepared, shards, round(batch_seconds * SAMPLE_RATE), workers):
            sink.check()
            _process(prepared, work, sink)


def check_frames(prepared: Prepared, name: str, frames: Any, items: Sequence[Item]) -> None:
    """Raise ModelError for other frames than an extractor's geometry says: they would stand at wrong times."""
    extractor = prepared.extractor
    layer = extractor.layers.get(name)
    shape = tuple(frames.shape)
    if layer is None or len(shape) != 3 or (shape[0], shape[2]) != (len(items), layer.width):
        expected = "no such layer" if layer is None else f"({len(items)}, frames, {layer.width})"
        raise ModelError(
            f"{extractor.provenance['id']} gave an array of shape {shape} for layer {name} of {len(items)} windows, "
            f"expected is {expected}: correct its layers"
        )
    if layer.geometry is not None:
        longest = max(len(item.samples) for item in items)
        least, most = (layer.geometry.n_frames(n) for n in (longest, extractor.padded_samples(longest)))
        if not least <= shape[1] <= max(least, most):
            raise ModelError(
                f"{extractor.provenance['id']} gave {shape[1]} frames of layer {name} for {longest} samples, its "
                f"geometry says {least}: correct the geometry (or padded_samples, if it pads its input itself)"
            )


def _process(prepared: Prepared, work: Work, sink: Sink) -> None:
    """Run one batch of utterances; the windows of a long one go through in batches of their own."""
    extractor = prepared.extractor
    rows = {position: prepared.rows.of(position) for position in work.positions}
    sink.put(Failures(work.shard, list(work.failures)))  # a first one ends the run before more is computed
    for items in work.batches:
        emitted: set[str] = set()

        def emit(name: str, frames: torch.Tensor, items=items, emitted=emitted) -> None:
            check_frames(prepared, name, frames, items)
            emitted.add(name)
            for unit, values, slices in prepared.pooler.pool(name, frames, items, rows):
                sink.put(Pooled(work.shard, unit, name, values, slices))

        try:
            extractor.forward(items, prepared.layers, emit)
        except torch.OutOfMemoryError as error:
            cost = max(extractor.padded_samples(len(item.samples)) for item in items)
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
    sink.put(Failures(work.shard, work.failures))
    sink.put(BatchEnd(work.shard, work.positions, work.is_last))
