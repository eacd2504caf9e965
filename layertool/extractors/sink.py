"""Writing: pooled rows are checked and put where they belong, beside the model's work."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from layertool.errors import FeatureError, LayertoolError
from layertool.extractors import plan
from layertool.extractors.pooling import Slice
from layertool.extractors.prepare import Prepared
from layertool.geometry import SAMPLE_RATE
from layertool.store.writer import StoreWriter

Progress = Callable[[float, float], None]  # (audio seconds done, audio seconds in all)


@dataclass
class Pooled:
    shard: plan.Shard
    unit: str
    layer: str
    values: torch.Tensor
    slices: list[Slice]


@dataclass
class Failures:
    shard: plan.Shard
    failures: list[tuple[int, LayertoolError]]


@dataclass
class BatchEnd:
    shard: plan.Shard
    positions: list[int]
    is_last: bool


class Sink:
    """The writing thread: takes pooled rows, checks them, writes them where they belong."""

    def __init__(
        self,
        prepared: Prepared,
        store: StoreWriter,
        max_failures: int,
        failed: int,
        done: float,
        progress,
        device: str,
        batch_seconds: float,
    ):
        self.prepared, self.store, self.max_failures, self.progress = prepared, store, max_failures, progress
        self.facts = {"device": device, "batch_seconds": batch_seconds}
        self.n_failed, self.done = failed, done
        self.queue: queue.Queue = queue.Queue(maxsize=128)
        self.error: BaseException | None = None
        self.shard = None
        self.thread = threading.Thread(target=self._work, name="write", daemon=True)

    def __enter__(self) -> Sink:
        self.thread.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self.stopping = kind is not None
        if kind is not None:
            self.error = self.error or InterruptedError("the run was stopped")
        self.queue.put(None)
        self.thread.join()
        if self.shard is not None:
            self.shard.abandon()
        if kind is None:
            self.check()

    def put(self, task) -> None:
        self.queue.put(task)
        self.check()

    def check(self) -> None:
        """Raise in the main thread what went wrong in the writing one."""
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        while (task := self.queue.get()) is not None:
            if self.error is not None:
                continue  # empty the queue, so that the main thread is not held up
            try:
                self._take(task)
            except BaseException as error:  # handed to the main thread, which raises it
                self.error = error

    def _take(self, task) -> None:
        if self.shard is None:
            self._begin(task.shard)
        if isinstance(task, Pooled):
            self._write(task)
        elif isinstance(task, Failures):
            for position, error in task.failures:
                self._fail(position, error)
        else:
            self._end_batch(task)

    def _begin(self, shard: plan.Shard) -> None:
        prepared = self.prepared
        self.lengths = prepared.corpus.utterances["n_samples"].to_numpy()
        tables = plan.shard_tables(shard, prepared.pooler, prepared.rows, self.lengths)
        self.first = plan.first_rows(tables)
        widths = {
            f"{unit}/{name}": (prepared.extractor.layers[name].width, table)
            for (unit, name), table in prepared.pooler.table.items()
        }
        self.shard = self.store.shard(shard.number, tables, widths)
        self.failures: dict[int, str] = {}
        self.partial: dict[tuple[str, int], np.ndarray] = {}

    def _fail(self, position: int, error: LayertoolError) -> None:
        if position in self.failures:
            return
        self.n_failed += 1
        if self.n_failed > self.max_failures:
            raise error
        self.failures[position] = str(error)

    def _write(self, task: Pooled) -> None:
        values = task.values.cpu().numpy()
        for part in task.slices:
            position = part.item.position
            if position in self.failures or not part.n_rows:
                continue
            rows = values[part.first : part.first + len(part.target)]
            whole = (
                len(part.target) == part.n_rows and part.item.window.end - part.item.window.start == part.item.n_samples
            )
            if whole:
                self._store(task.unit, task.layer, position, 0, rows)
            elif task.unit == "frame":
                self._store(task.unit, task.layer, position, int(part.target[0]) if len(part.target) else 0, rows)
            else:
                name = f"{task.unit}/{task.layer}"
                total = self.partial.setdefault((name, position), np.zeros((part.n_rows, values.shape[1]), np.float32))
                total[part.target] += rows

    def _store(self, unit: str, layer: str, position: int, offset: int, rows: np.ndarray) -> None:
        with np.errstate(over="ignore"):
            stored = rows.astype(self.shard.dtype, copy=False)
        if not np.isfinite(stored).all():
            utterance = self.prepared.corpus.utterances["utterance"].iloc[position]
            if np.isfinite(rows).all():
                what = f"values up to {np.abs(rows).max():.3g}, too large for float16: give --store-dtype float32"
            else:
                what = "values that are not finite: give --dtype float32, or check the audio and the checkpoint"
            self._fail(position, FeatureError(f"layer {layer} of utterance '{utterance}' has {what}"))
            return
        table = self.prepared.pooler.table[unit, layer]
        first = self.first.get((f"{unit}/{table}", position), 0) + offset
        self.shard.put(f"{unit}/{layer}", first, stored)

    def _end_batch(self, task: BatchEnd) -> None:
        for (name, position), rows in self.partial.items():
            unit, layer = name.split("/")
            if position not in self.failures:
                self._store(unit, layer, position, 0, rows)
        self.partial.clear()
        if task.is_last:
            ids = self.prepared.corpus.utterances["utterance"]
            self.shard.finish(
                self.failures.keys(),
                utterances=[task.shard.first, task.shard.last],
                seconds=task.shard.n_samples / SAMPLE_RATE,
                failures=[{"utterance": ids.iloc[p], "error": text} for p, text in sorted(self.failures.items())],
                **self.facts,
            )
            self.shard = None
        self.done += sum(int(self.lengths[p]) for p in task.positions) / SAMPLE_RATE
        if self.progress:
            self.progress(self.done, self.prepared.plan.seconds)
