"""Views: one matrix each, (n, width), that comes in blocks of rows and need not fit in memory; where frames lie in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from layertool.errors import RowError, UsageError
from layertool.geometry import MODEL_HOP
from layertool.layerwise.rows import Rows
from layertool.store import FeatureStore

_KEYS = ("utterance", "start", "end", "label")  # what tells rows apart; whether a frame is masked does not
BLOCK_ROWS = 8192  # of every block but the last


def turned(values: np.ndarray) -> np.ndarray:
    """Values (n,) half of the rows further on: their relation to other rows is gone, neighbours stay neighbours."""
    return np.roll(values, len(values) // 2)


class View(Protocol):
    """A matrix (n, width) read in order."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks (rows, width) of ``BLOCK_ROWS`` rows; the last may be shorter."""
        ...


@dataclass(frozen=True)
class LayerView:
    """Rows of one layer of a store, ``index`` (n,) in any order; quick where they mostly ascend.

    Reading raises RowError, naming utterance and time, for a row that is not finite; with ``as_directions`` also for
    one that is all zeros, which has no direction.
    """

    store: FeatureStore
    unit: str
    layer: str
    index: np.ndarray
    as_directions: bool = False

    def __len__(self) -> int:
        return len(self.index)

    def blocks(self) -> Iterator[np.ndarray]:
        waiting: list[np.ndarray] = []
        n_waiting = 0
        n_seen = 0
        for piece in self._pieces():
            self._check(piece, n_seen)
            n_seen += len(piece)
            while len(piece):
                part, piece = piece[: BLOCK_ROWS - n_waiting], piece[BLOCK_ROWS - n_waiting :]
                waiting.append(part)
                n_waiting += len(part)
                if n_waiting == BLOCK_ROWS:
                    yield np.concatenate(waiting)
                    waiting, n_waiting = [], 0
        if waiting:
            yield np.concatenate(waiting)

    def _pieces(self) -> Iterator[np.ndarray]:
        for run in np.split(self.index, np.flatnonzero(np.diff(self.index) < 0) + 1):
            first = int(run[0])
            done = 0
            for block in self.store.blocks(self.unit, self.layer, BLOCK_ROWS, first):
                last = first + len(block)
                upto = int(np.searchsorted(run, last))
                if upto > done:
                    yield block[run[done:upto] - first]
                first, done = last, upto
                if done == len(run):
                    break

    def _check(self, rows: np.ndarray, first: int) -> None:
        bad, how = ~np.isfinite(rows).all(1), "is not all finite"
        if self.as_directions and not bad.any():
            bad, how = ~rows.any(1), "is all zeros, which have no direction"
        if bad.any():
            row = self.store.row_table(self.unit, self.layer)[self.index[first + int(np.argmax(bad))]]
            utterance = self.store.utterances["utterance"].iloc[int(row["utterance"])]
            at = (
                ""
                if self.unit == "utterance"
                else f" at {row['start'] / self.store.about['audio']['sample_rate']:.2f} s"
            )
            raise RowError(
                f"layer {self.layer} of {self.store.path}: the {self.unit} row of utterance '{utterance}'{at} "
                f"{how}: leave "
                f"the utterance out with --where 'utterance!={utterance}', or extract it again"
            )

    def read(self) -> np.ndarray:
        """All rows at once, (n, width), in an array of the caller's own."""
        out = np.empty((len(self), self.store.width(self.layer)), self.store.configuration["store_dtype"])
        for k, block in enumerate(self.blocks()):  # never two copies, as joining blocks would make
            out[k * BLOCK_ROWS : (k + 1) * BLOCK_ROWS] = block
        return out

    def rolled(self) -> LayerView:
        """The same rows, turned by half their number: what an unrelated stretch of the same features looks like.

        Rows keep their neighbours, so a score that leaks through autocorrelation shows here too.
        """
        return replace(self, index=turned(self.index))


@dataclass(frozen=True)
class TableView:
    """Rows of a table (k, width), one for each code (n,): one-hot labels, word embeddings."""

    codes: np.ndarray
    table: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def blocks(self) -> Iterator[np.ndarray]:
        for first in range(0, len(self.codes), BLOCK_ROWS):
            yield self.table[self.codes[first : first + BLOCK_ROWS]]


@dataclass(frozen=True)
class FrameRows:
    """``n``: (n_utterances,) frames of each utterance; ``table``: (n_rows,) the row table.

    ``centres``: (n_rows,) of each frame, in samples from the start of its utterance, may be halves; ``hop`` samples
    from one to the next; ``utterance``: (n_rows,) codes.
    """

    n: np.ndarray
    centres: np.ndarray
    hop: int
    utterance: np.ndarray
    table: np.ndarray

    @classmethod
    def of(cls, store: FeatureStore, layer: str) -> FrameRows:
        """Raises UsageError where no utterance has two frames."""
        table = store.row_table("frame", layer)
        utterance = table["utterance"].astype(np.int64)
        n = np.bincount(utterance, minlength=len(store.utterances))
        centres = (table["start"] + table["end"]) / 2
        neighbours = np.flatnonzero(np.diff(utterance) == 0)
        if not len(neighbours):
            raise UsageError(f"{store.path}: no utterance has two frames of {layer}: take longer ones")
        hop = int(table["start"][neighbours[0] + 1] - table["start"][neighbours[0]])
        return cls(n, centres, hop, utterance, table)


def pair(x: Rows, y: Rows, unit: str, names: tuple[str, str]) -> tuple[Rows, Rows]:
    """The rows that two sets have in common, in the same order.

    Frames are paired by their centres: the slower side's frame takes the nearest of the other's, within half
    of its hop, so that 20 ms frames meet every other frame of a 10 ms filterbank without an offset (spec
    3.5). Other rows are the same stretch of speech with the same label; a row that one side lacks is left out.
    """
    if len(x) == len(y) and all((x.table[column] == y.table[column]).all() for column in _KEYS):
        return x, y
    if unit == "frame":
        if _hop(x) < _hop(y):
            second, first = _nearest(y, x)
        else:
            first, second = _nearest(x, y)
    else:
        keys = [np.stack([r.table[c] for c in _KEYS], 1) for r in (x, y)]
        _, codes = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
        if len(np.unique(codes[: len(x)])) < len(x) or len(np.unique(codes[len(x) :])) < len(y):
            raise UsageError(f"{names[0]} and {names[1]} hold other rows, and some of them twice: extract both again")
        _, first, second = np.intersect1d(codes[: len(x)], codes[len(x) :], return_indices=True)
        order = np.argsort(first)
        first, second = first[order], second[order]
    if not len(first):
        raise UsageError(f"{names[0]} and {names[1]} have no {unit} row in common: were they made from one corpus?")
    lost = min(len(x), len(y)) - len(first)
    note = f"left out: {lost} {unit} rows that only one of {names[0]} and {names[1]} has" if lost else ""
    return x.of(first, note if unit != "frame" else ""), y.of(second)


def _hop(rows: Rows) -> float:
    """Distance of neighbouring frames in samples; infinite where no two are left of one utterance."""
    table = rows.table
    steps = np.diff(table["start"])[np.diff(table["utterance"]) == 0]
    return float(steps.min()) if len(steps) else np.inf


def _nearest(slow: Rows, fast: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Positions in ``slow`` and in ``fast`` of frames whose centres meet; each of ``fast`` at most once."""
    span = 4 * int(max(np.abs(slow.table["end"]).max(), np.abs(fast.table["end"]).max())) + 4
    keys = [r.table["utterance"].astype(np.int64) * span + r.table["start"] + r.table["end"] for r in (slow, fast)]
    right = np.clip(np.searchsorted(keys[1], keys[0]), 1, max(1, len(keys[1]) - 1))
    if len(keys[1]) == 1:
        right = np.zeros(len(keys[0]), np.int64)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(keys[1][left] - keys[0]) <= np.abs(keys[1][right] - keys[0]), left, right)
    # keys are twice the centres: within half a hop of the faster frames is within one hop here
    hop = _hop(fast)
    close = np.abs(keys[1][nearest] - keys[0]) <= (hop if np.isfinite(hop) else MODEL_HOP)
    close &= slow.table["utterance"] == fast.table["utterance"][nearest]
    first, where = np.unique(nearest[close], return_index=True)
    return np.flatnonzero(close)[where], first
