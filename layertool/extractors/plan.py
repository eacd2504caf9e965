"""How a run is divided: shards, batches, and the rows of each shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from layertool.extractors.masking import TimeMask
from layertool.extractors.pooling import Pooler
from layertool.extractors.unit_rows import CorpusRows
from layertool.store import layout


@dataclass(frozen=True)
class Shard:
    """Utterances [first, last) of the corpus."""

    number: int
    first: int
    last: int
    n_samples: int


def shards(lengths: Sequence[int], shard_samples: int) -> list[Shard]:
    """Cut the corpus, in its order, into shards of about ``shard_samples`` of audio (at least one utterance each)."""
    out: list[Shard] = []
    first, total = 0, 0
    for k, length in enumerate(lengths):
        if k > first and total + length > shard_samples:
            out.append(Shard(len(out), first, k, total))
            first, total = k, 0
        total += int(length)
    out.append(Shard(len(out), first, len(lengths), total))
    return out


def batches(positions: Sequence[int], cost: Mapping[int, int], batch_samples: int) -> list[list[int]]:
    """Group utterances, longest first, so that (longest of a batch) x (its size) stays within ``batch_samples``."""
    out: list[list[int]] = []
    for position in sorted(positions, key=lambda p: (-cost[p], p)):
        if out and cost[out[-1][0]] * (len(out[-1]) + 1) <= batch_samples:
            out[-1].append(position)
        else:
            out.append([position])
    return out


def shard_tables(
    shard: Shard,
    pooler: Pooler,
    rows: CorpusRows,
    lengths: Sequence[int],
    ids: Sequence[str],
    mask: TimeMask | None = None,
) -> dict[str, np.ndarray]:
    """The row tables of one shard, "unit/table" -> array of ``layout.row_dtype``, in corpus order.

    ``lengths``, ``ids``: of all utterances. With a ``mask``, rows of frames say whether they are masked.
    """
    tables: dict[str, np.ndarray] = {}
    wanted = {f"{unit}/{table}" for (unit, _), table in pooler.table.items()}
    frames = pooler.frame_tables()
    spans_of = {position: rows.of(position) for position in range(shard.first, shard.last)}
    for name in sorted(wanted):
        unit, table = name.split("/")
        dtype = layout.row_dtype(unit, mask is not None)
        parts = []
        for position, there in spans_of.items():
            if unit == "frame":
                geometry = frames[table]
                start, end = geometry.spans(geometry.n_frames(int(lengths[position])))
                label: np.ndarray | int = layout.NO_LABEL
            else:
                start, end, label = there[unit].start, there[unit].end, there[unit].label
            part = np.empty(len(start), dtype)
            part["utterance"], part["start"], part["end"], part["label"] = position, start, end, label
            if unit == "frame" and mask is not None:
                part["masked"] = mask.of_rows(mask.frames(ids[position], int(lengths[position])), start, end)
            parts.append(part)
        tables[name] = np.concatenate(parts)
    return tables


def first_rows(tables: Mapping[str, np.ndarray]) -> dict[tuple[str, int], int]:
    """(table name, utterance position) -> its first row in the shard."""
    out = {}
    for name, rows in tables.items():
        codes, first = np.unique(rows["utterance"], return_index=True)
        out.update({(name, int(code)): int(k) for code, k in zip(codes, first, strict=True)})
    return out
