"""Stores written from given arrays: what no model has to be run for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from layertool import layers as layer_names
from layertool.store import FeatureStore, StoreWriter, layout

UTTERANCES_PER_SHARD = 3
HOP, FIELD = 320, 400


def n_frames(length: int, hop: int = HOP, field: int = FIELD) -> int:
    """How many frames lie in so many samples."""
    return max(0, (length - field) // hop + 1)


def store(
    path: Path,
    lengths: Sequence[int],
    segments: Sequence[tuple] = (),
    frames: Mapping[str, Sequence[np.ndarray]] | None = None,
    rows: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    hops: Mapping[str, int] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    model: str = "org/net",
    corpus: str = "planted",
    without: Sequence[int] = (),
    **columns: Sequence,
) -> FeatureStore:
    """Utterances u0, u1, ... of ``lengths`` samples in shards of three or more.

    ``segments``: (number of the utterance, tier, first sample, one past the last, label or None). ``frames``: layer ->
    matrix of each utterance, (frames, width), one every ``hops[layer]`` samples (320). ``rows``: unit -> layer ->
    matrix of the unit's segments, by utterance, else as given; of each utterance, for the unit utterance.
    ``labels``: the order of a tier's labels; default sorted. ``without``: utterances that have failed. ``columns``:
    metadata.
    """
    path, frames, rows, hops = Path(path), dict(frames or {}), dict(rows or {}), dict(hops or {})
    names = list(dict.fromkeys([*frames, *(name for of_unit in rows.values() for name in of_unit)]))
    tiers = [unit for unit in ("phone", "word") if unit in rows]
    labels = {
        tier: list((labels or {}).get(tier) or sorted({s[4] for s in segments if s[1] == tier and s[4] is not None}))
        for tier in tiers
    }
    matrices: dict[tuple[str, str], np.ndarray] = {}
    tables: dict[tuple[str, str], np.ndarray] = {}
    table_of: dict[tuple[str, str], str] = {}
    for name, clips in frames.items():
        hop = hops.get(name, HOP)
        table = "rows" if hop == HOP or len(set(map(hops.get, frames))) == 1 else f"rows_{hop}"
        table_of["frame", name] = table
        matrices["frame", name] = np.concatenate(clips).astype(np.float32)
        spans = [(k, i * hop, i * hop + FIELD, None) for k, clip in enumerate(clips) for i in range(len(clip))]
        tables["frame", table] = _table(spans, [])
    for unit, of_unit in rows.items():
        if unit == "utterance":
            spans = [(k, 0, length, None) for k, length in enumerate(lengths)]
        else:
            spans = [(k, a, b, label) for k, tier, a, b, label in sorted(segments, key=lambda s: s[0]) if tier == unit]
        tables[unit, "rows"] = _table(spans, labels.get(unit, []))
        for name, matrix in of_unit.items():
            table_of[unit, name] = "rows"
            matrices[unit, name] = np.asarray(matrix, np.float32)
    units = [unit for unit in layout.UNITS if any(u == unit for u, _ in table_of)]
    widths = {name: next(m.shape[1] for (_, n), m in matrices.items() if n == name) for name in names}
    step = max(UTTERANCES_PER_SHARD, len(lengths) // 4)
    shards = [range(at, min(at + step, len(lengths))) for at in range(0, len(lengths), step)]
    about = {
        "layers": {name: {"width": width, "geometry": None, "frame_average": None} for name, width in widths.items()},
        "units": {
            unit: {
                "layers": [name for name in names if (unit, name) in table_of],
                "rows": {name: table for (u, name), table in table_of.items() if u == unit},
            }
            for unit in units
        },
        "n_shards": len(shards),
        "corpus": {"name": corpus, "n_utterances": len(lengths), "seconds": sum(lengths) / 16_000},
        "audio": {"sample_rate": 16_000, "columns": ["utterance", "audio", "start", "end", "channel", "n_samples"]},
    }
    configuration = {
        "model": {"id": model, "family": "planted", "revision": "r"},
        "store_dtype": "float32",
        "layers": names,
        "layer_convention": layer_names.CONVENTION,
        "corpus": {"name": corpus},
        "units": {unit: "none" if unit == "frame" else "mean" for unit in units},
    }
    utterances = pd.DataFrame(
        {
            "utterance": [f"u{k}" for k in range(len(lengths))],
            "n_samples": list(lengths),
            **{k: list(v) for k, v in columns.items()},
        }
    )
    with StoreWriter(path, configuration, about, utterances, labels) as writer:
        for number, mine in enumerate(shards):
            kept = {key: np.isin(table["utterance"], mine) for key, table in tables.items()}
            part = writer.shard(
                number,
                {"/".join(key): table[kept[key]] for key, table in tables.items()},
                {"/".join(key): (widths[key[1]], table) for key, table in table_of.items()},
            )
            for (unit, name), table in table_of.items():
                part.put(f"{unit}/{name}", 0, matrices[unit, name][kept[unit, table]])
            failed = [k for k in mine if k in without]
            part.finish(
                failed,
                utterances=[mine[0], mine[-1] + 1],
                seconds=1.0,
                failures=[{"utterance": f"u{k}", "error": "bad"} for k in failed],
            )
        writer.finish(len(shards))
    return FeatureStore(path)


def _table(spans: Sequence[tuple], labels: Sequence[str]) -> np.ndarray:
    table = np.empty(len(spans), layout.ROW_DTYPE)
    for k, (utterance, start, end, label) in enumerate(spans):
        table[k] = (utterance, start, end, layout.NO_LABEL if label is None else list(labels).index(label))
    return table


def matrix(n: int, width: int = 4, seed: int = 0) -> np.ndarray:
    """Any values (n, width), float32."""
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)
