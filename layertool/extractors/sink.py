"""Writing: pooled rows are checked and put where they belong, beside the model's work."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from layertool.errors import FeatureError, LayertoolError
from layertool.extractors import plan
from layertool.extractors.pooling import Slice
from layertool.extractors.prepare import Prepared
from layertool.geometry import SAMPLE_RATE
from layertool.store.writer import LooseShards, ShardWriter, StoreWriter

Progress = Callable[[float, float], Any]  # (audio seconds done, audio seconds in all)
# How the shares that windows have in one row become it.
_JOIN = {"mean": np.add, "min": np.minimum, "max": np.maximum}
# Of pooled rows, still on the device, that may wait to be written. On a CPU that is memory of this process, and writing
# is often slower than acoustic features: what may wait is waiting.
_AHEAD_BYTES = {"cpu": 1 << 23, "mps": 1 << 30, "cuda": 1 << 30}
_SLICE_BYTES = 1000  # of Python's objects about the rows of one item


@dataclass
class _OpenShard:
    """The shard being written, and what is known of its utterances so far."""

    plan: plan.Shard
    writer: ShardWriter
    first_rows: dict[tuple[str, int], int]
    failures: dict[int, str] = field(default_factory=dict)
    # of rows that go on in the next window: unit, layer, utterance, row of it
    shares: dict[tuple[str, str, int, int], np.ndarray] = field(default_factory=dict)


class Sink:
    """The writing thread. What goes wrong in it is raised by the next call from the main thread."""

    def __init__(
        self,
        prepared: Prepared,
        store: StoreWriter | LooseShards,
        max_failures: int,
        progress: Callable[[float], Any] | None,
        facts: dict,
    ):
        self.prepared, self.store, self.max_failures, self.progress = prepared, store, max_failures, progress
        self.facts = facts
        self.lengths = prepared.corpus.utterances["n_samples"].to_numpy()
        self.ids = prepared.corpus.utterances["utterance"].tolist()
        self.n_failed, self.done = 0, 0.0
        self.open: _OpenShard | None = None
        self.error: BaseException | None = None
        self.tasks: queue.SimpleQueue[tuple[plan.Shard, Callable[..., None], tuple, int] | None] = queue.SimpleQueue()
        self.waiting = 0  # bytes handed over and not yet written
        self.most_waiting = _AHEAD_BYTES[prepared.extractor.device.type]
        self.room = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="write", daemon=True)
        self._report()

    def __enter__(self) -> Sink:
        self.thread.start()
        return self

    def __exit__(self, kind, error, _traceback) -> None:
        if error is not None and self.error is None:
            self.error = error  # the thread takes no more work
        self.tasks.put(None)
        self.thread.join()
        if self.open is not None:
            self.open.writer.abandon()
        if error is None:
            self.check()

    def put(self, shard: plan.Shard, write: Callable[..., None], *arguments: Any, n_bytes: int = 0) -> None:
        """Have ``write(open shard, *arguments)`` done, when there is room; raises what went wrong before."""
        with self.room:
            self.room.wait_for(
                lambda: self.error is not None or not self.waiting or self.waiting + n_bytes <= self.most_waiting
            )
            self.waiting += n_bytes
        self.check()
        self.tasks.put((shard, write, arguments, n_bytes))

    def put_rows(self, shard: plan.Shard, unit: str, layer: str, values: torch.Tensor, slices: list[Slice]) -> None:
        """Hand over rows of one layer at one unit, from one batch; still on the device."""
        self.put(shard, self.write, unit, layer, values, slices, n_bytes=values.nbytes + _SLICE_BYTES * len(slices))

    def check(self) -> None:
        """Raise in the main thread what went wrong in the writing one."""
        if self.error is not None:
            raise self.error

    def _report(self) -> None:
        if self.progress:
            self.progress(self.done)

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            shard, write, arguments, n_bytes = task
            if self.error is not None:
                continue  # what comes after an error is dropped
            try:
                self.open = self.open or self._begin(shard)
                write(self.open, *arguments)
            except BaseException as error:  # `check` raises it in the main thread
                self.error = error
            with self.room:
                self.waiting -= n_bytes
                self.room.notify()

    def _begin(self, shard: plan.Shard) -> _OpenShard:
        pooler, extractor = self.prepared.pooler, self.prepared.extractor
        tables = plan.shard_tables(shard, pooler, self.prepared.rows, self.lengths, self.ids, self.prepared.mask)
        layers = {
            f"{unit}/{name}": (extractor.layers[name].width, table) for (unit, name), table in pooler.table.items()
        }
        return _OpenShard(shard, self.store.shard(shard.number, tables, layers), plan.first_rows(tables))

    def fail(self, shard: _OpenShard, failures: list[tuple[int, LayertoolError]]) -> None:
        """Leave out utterances of a batch that could not be read."""
        for position, error in failures:
            if position in shard.failures:
                continue
            self.n_failed += 1
            if self.n_failed > self.max_failures:
                raise error
            shard.failures[position] = str(error)

    def write(self, shard: _OpenShard, unit: str, layer: str, pooled: torch.Tensor, slices: list[Slice]) -> None:
        """Join the shares that windows have in rows, and store the rows that are whole."""
        values, join = pooled.cpu().numpy(), _JOIN[self.prepared.pooler.reduction(unit)]
        for part in slices:
            position = part.position
            if position in shard.failures or not len(part.target):
                continue
            rows = values[part.first : part.first + len(part.target)]
            for k in np.flatnonzero(part.has_begun | part.goes_on):
                key = (unit, layer, position, int(part.target[k]))
                if part.has_begun[k]:
                    rows[k] = join(shard.shares.pop(key), rows[k])
                if part.goes_on[k]:
                    shard.shares[key] = rows[k].copy()
            there = np.flatnonzero(~part.goes_on)
            for run in np.split(there, np.flatnonzero(np.diff(part.target[there]) != 1) + 1):
                if len(run):
                    self._store(shard, unit, layer, position, int(part.target[run[0]]), rows[run[0] : run[-1] + 1])

    def _store(self, shard: _OpenShard, unit: str, layer: str, position: int, offset: int, rows: np.ndarray) -> None:
        """Put rows of one utterance, from its row ``offset`` on, where they belong in the shard."""
        with np.errstate(over="ignore"):  # looked for below
            stored = rows.astype(shard.writer.dtype, copy=False)
        if not np.isfinite(stored).all():
            utterance = self.ids[position]
            if np.isfinite(rows).all():
                what = f"values up to {np.abs(rows).max():.3g}, too large for float16: give --store-dtype float32"
            else:
                what = "values that are not finite: give --dtype float32, or check the audio and the checkpoint"
            self.fail(shard, [(position, FeatureError(f"layer {layer} of utterance '{utterance}' has {what}"))])
            return
        table = self.prepared.pooler.table[unit, layer]
        shard.writer.put(f"{unit}/{layer}", shard.first_rows[f"{unit}/{table}", position] + offset, stored)

    def end_batch(self, shard: _OpenShard, positions: list[int], is_last: bool) -> None:
        """Every row of these utterances has been handed over; ``is_last``: of the shard's."""
        shard.shares.clear()  # those left are of failures
        if is_last:
            shard.writer.finish(
                shard.failures.keys(),
                utterances=[shard.plan.first, shard.plan.last],
                seconds=shard.plan.n_samples / SAMPLE_RATE,
                failures=[{"utterance": self.ids[p], "error": text} for p, text in sorted(shard.failures.items())],
                **self.facts,
            )
            self.open = None
        self.done += sum(int(self.lengths[p]) for p in positions) / SAMPLE_RATE
        self._report()
