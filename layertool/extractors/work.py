"""The work on shards: read, forward, pool, write, each while the others work; long utterances window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from layertool import audio, waveforms
from layertool.errors import AudioError, LayertoolError, ModelError
from layertool.extractors import plan
from layertool.extractors.base import Item
from layertool.extractors.prepare import Prepared
from layertool.extractors.sink import Sink
from layertool.geometry import SAMPLE_RATE, Window
from layertool.store import StoreWriter
from layertool.store.writer import LooseShards

AHEAD = 3  # batches that are read while one is at the model


def write_shards(
    prepared: Prepared,
    store: StoreWriter | LooseShards,
    shards: Sequence[plan.Shard],
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
    sink.put(work.shard, sink.fail, list(work.failures))  # a first one ends the run before more is computed
    for items in work.batches:
        emitted: set[str] = set()

        def emit(name: str, frames: torch.Tensor, items=items, emitted=emitted) -> None:
            check_frames(prepared, name, frames, items)
            emitted.add(name)
            for unit, values, slices in prepared.pooler.pool(name, frames, items, rows):
                sink.put_rows(work.shard, unit, name, values, slices)

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
    sink.put(work.shard, sink.fail, work.failures)
    sink.put(work.shard, sink.end_batch, work.positions, work.is_last)


@dataclass
class Work:
    """One batch of utterances: windows in order, as many at a time as the model is given, and what could not be read.

    The windows of long utterances are read while ``batches`` goes on, and so can still fail.
    """

    shard: plan.Shard
    positions: list[int]
    batches: Iterator[list[Item]]
    failures: list[tuple[int, LayertoolError]] = field(default_factory=list)
    is_last: bool = False


def read_ahead(prepared: Prepared, pending: Sequence[plan.Shard], batch_samples: int, workers: int) -> Iterator[Work]:
    """Batches in order, each read by ``workers`` threads while the one before is at the model."""
    lengths = prepared.corpus.utterances["n_samples"].to_numpy()
    columns = {
        name: prepared.corpus.utterances[name].tolist() for name in ("utterance", "audio", "start", "end", "channel")
    }
    texts = (
        prepared.corpus.utterances["text"].tolist() if "text" in prepared.corpus.utterances else [None] * len(lengths)
    )

    def read_one(position: int) -> Iterable[Item] | LayertoolError:
        excerpt = audio.Excerpt(
            columns["audio"][position],
            prepared.options.channel or _given(columns["channel"][position]),
            _given(columns["start"][position]),
            _given(columns["end"][position]),
            int(lengths[position]),
        )
        try:
            return _items(prepared, position, columns["utterance"][position], excerpt, texts[position])
        except LayertoolError as error:
            return error

    def schedule() -> Iterator[tuple[plan.Shard, list[int], bool]]:
        for shard in pending:
            cost = {p: prepared.extractor.padded_samples(int(lengths[p])) for p in range(shard.first, shard.last)}
            groups = plan.batches(range(shard.first, shard.last), cost, batch_samples)
            for k, group in enumerate(groups):
                yield shard, group, k == len(groups) - 1

    with (
        ThreadPoolExecutor(max(1, workers), thread_name_prefix="read") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="cut") as cutting,
    ):
        ahead: list[tuple[plan.Shard, list[int], bool, list[Future]]] = []
        upcoming = schedule()
        while True:
            while len(ahead) < AHEAD and (task := next(upcoming, None)) is not None:
                ahead.append((*task, [pool.submit(read_one, position) for position in task[1]]))
            if not ahead:
                return
            shard, group, is_last, futures = ahead.pop(0)
            results = dict(zip(group, [future.result() for future in futures], strict=True))
            failures = [(p, r) for p, r in results.items() if isinstance(r, LayertoolError)]
            read = {p: r for p, r in results.items() if not isinstance(r, LayertoolError)}
            costs = (
                prepared.extractor.padded_samples(window.end - window.start)
                for position in read
                for window in prepared.windows(int(lengths[position]))
            )
            per_batch = max(1, batch_samples // max(costs, default=1))
            batches = _one_ahead(cutting, _all(read, failures), per_batch)
            yield Work(shard, group, batches, failures, is_last)


def _all(read: dict[int, Iterable[Item]], failures: list[tuple[int, LayertoolError]]) -> Iterator[Item]:
    """The windows of all utterances; of one whose file has changed meanwhile, those before."""
    for position, items in read.items():
        try:
            yield from items
        except LayertoolError as error:
            failures.append((position, error))


def _one_ahead(pool: ThreadPoolExecutor, items: Iterator[Item], n: int) -> Iterator[list[Item]]:
    """``n`` items at a time, the next of which are made in a thread while the last are at work."""

    def take() -> list[Item]:
        return list(islice(items, n))

    coming = pool.submit(take)
    while batch := coming.result():
        coming = pool.submit(take)
        yield batch


def _given(value):
    """None for the missing values of a table."""
    return None if value is None or (isinstance(value, float) and np.isnan(value)) else value


def _items(prepared: Prepared, position: int, utterance: str, excerpt: audio.Excerpt, text) -> Iterable[Item]:
    """The windows of one utterance. Of one that is cut, all but the first are read when they are asked for."""
    extractor, n_samples = prepared.extractor, excerpt.n_samples or 0
    windows = prepared.windows(n_samples)
    is_streamed = len(windows) > 1 and extractor.is_streaming
    if is_streamed:  # once for its moments, and for whatever is wrong with it; then window by window
        normalise = partial(extractor.normalise, of=waveforms.moments(excerpt.stream()))
    else:
        waveform = excerpt.read()
    needed = {
        f"{name} at unit {unit}": g.least or g.field
        for (unit, name), g in prepared.pooler.geometry.items()
        if g and g.n_frames(n_samples) < 1
    }
    if n_samples < extractor.min_samples:
        needed[extractor.provenance["id"]] = extractor.min_samples
    if needed:
        what, field = max(needed.items(), key=lambda pair: pair[1])
        raise AudioError(
            f"utterance '{utterance}' has {n_samples} samples ({n_samples / SAMPLE_RATE * 1000:.1f} ms), fewer than "
            f"the receptive field of {what} ({field} samples, {field / SAMPLE_RATE * 1000:g} ms): take it out of the "
            f"corpus, or leave it out with --max-failures 1"
        )
    pieces: Iterator[np.ndarray]
    if is_streamed:
        pieces = map(normalise, _cut(excerpt.stream(), windows))
    else:
        waveform = extractor.normalise(waveform)
        pieces = (waveform[window.start : window.end] for window in windows)
    mask = prepared.mask
    masked = None if mask is None else mask.frames(utterance, n_samples)

    def made() -> Iterator[Item]:
        for window, samples in zip(windows, pieces, strict=True):
            item = Item(position, utterance, n_samples, window, samples, text if isinstance(text, str) else None)
            if mask is not None and masked is not None:
                item.masked = mask.of_window(masked, window)
            extractor.prepare(item)
            yield item

    items = made()
    return chain([next(items)], items) if is_streamed else list(items)


def _cut(blocks: Iterator[np.ndarray], windows: Sequence[Window]) -> Iterator[np.ndarray]:
    """The samples of each window, of a waveform that comes in blocks; what two windows share is kept between them."""
    held, first = np.empty(0, np.float32), 0
    for window in windows:
        parts, end = [held[window.start - first :]], first + len(held)
        while end < window.end and len(block := next(blocks, held[:0])):
            parts.append(block)
            end += len(block)
        held, first = np.concatenate(parts), window.start
        yield held[: window.end - window.start]
    for _ in blocks:  # behind the last come its checks
        pass
