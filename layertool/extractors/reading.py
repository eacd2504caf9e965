"""Reading: batches of utterances, prepared in threads ahead of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from layertool import audio
from layertool.errors import AudioError, LayertoolError
from layertool.extractors import plan
from layertool.extractors.base import Item
from layertool.extractors.prepare import Prepared
from layertool.geometry import SAMPLE_RATE

AHEAD = 3  # batches that are read while one is at the model


@dataclass
class Work:
    """One batch of utterances that has been read: windows in order, and what could not be read."""

    shard: plan.Shard
    positions: list[int]
    items: list[Item]
    failures: list[tuple[int, LayertoolError]]
    is_last: bool


def read_ahead(prepared: Prepared, pending: Sequence[plan.Shard], batch_samples: int, workers: int) -> Iterator[Work]:
    """Batches in order, each read by ``workers`` threads while the one before is at the model."""
    lengths = prepared.corpus.utterances["n_samples"].to_numpy()
    columns = {
        name: prepared.corpus.utterances[name].tolist() for name in ("utterance", "audio", "start", "end", "channel")
    }
    texts = (
        prepared.corpus.utterances["text"].tolist() if "text" in prepared.corpus.utterances else [None] * len(lengths)
    )

    def read_one(position: int) -> list[Item] | LayertoolError:
        try:
            waveform = audio.read(
                columns["audio"][position],
                SAMPLE_RATE,
                prepared.options.channel or _given(columns["channel"][position]),
                _given(columns["start"][position]),
                _given(columns["end"][position]),
                lengths[position],
            )
            return _items(prepared, position, columns["utterance"][position], waveform, texts[position])
        except LayertoolError as error:
            return error

    def schedule() -> Iterator[tuple[plan.Shard, list[int], bool]]:
        for shard in pending:
            cost = {p: prepared.extractor.padded_samples(int(lengths[p])) for p in range(shard.first, shard.last)}
            groups = plan.batches(range(shard.first, shard.last), cost, batch_samples)
            for k, group in enumerate(groups):
                yield shard, group, k == len(groups) - 1

    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="read") as pool:
        ahead: list[tuple[plan.Shard, list[int], bool, list[Future]]] = []
        upcoming = schedule()
        while True:
            while len(ahead) < AHEAD and (task := next(upcoming, None)) is not None:
                ahead.append((*task, [pool.submit(read_one, position) for position in task[1]]))
            if not ahead:
                return
            shard, group, is_last, futures = ahead.pop(0)
            results = [future.result() for future in futures]
            items = [item for result in results if not isinstance(result, LayertoolError) for item in result]
            failures = [(p, r) for p, r in zip(group, results, strict=True) if isinstance(r, LayertoolError)]
            yield Work(shard, group, items, failures, is_last)


def _given(value):
    """None for the missing values of a table."""
    return None if value is None or (isinstance(value, float) and np.isnan(value)) else value


def _items(prepared: Prepared, position: int, utterance: str, waveform: np.ndarray, text) -> list[Item]:
    extractor = prepared.extractor
    n_samples = len(waveform)
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
            f"utterance '{utterance}' has {n_samples} samples ({n_samples / SAMPLE_RATE * 1000:.1f} ms), fewer than the "
            f"receptive field of {what} ({field} samples, {field / SAMPLE_RATE * 1000:g} ms): take it out of the corpus, "
            "or leave it out with --max-failures 1"
        )
    waveform = extractor.normalise(waveform)
    mask = prepared.mask
    masked = None if mask is None else mask.frames(utterance, n_samples)
    items = []
    for window in prepared.windows(n_samples):
        samples = waveform[window.start : window.end]
        item = Item(position, utterance, n_samples, window, samples, text if isinstance(text, str) else None)
        if mask is not None and masked is not None:
            item.masked = mask.of_window(masked, window)
        extractor.prepare(item)
        items.append(item)
    return items
