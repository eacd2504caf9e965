"""What there is to say of a run: of its plan, and of the store that it wrote."""

from __future__ import annotations

from pathlib import Path

from layertool.account import Account, count, duration, number, size
from layertool.extractors.forecast import forecast
from layertool.extractors.memory import needed, there_is
from layertool.extractors.prepare import Prepared
from layertool.layers import summary
from layertool.store import FeatureStore
from layertool.store.account import mask_facts
from layertool.store.layout import part_indexes
from layertool.store.writer import Part


def of_store(store: FeatureStore, part: Part | None, when: str) -> Account:
    """What a run has written; ``when``: "already complete", or how long it took."""
    warnings = [f"left out: {failure['utterance']}: {failure['error']}" for failure in store.failures]
    notes = []
    if n_empty := store.about["zero_length_segments"]:
        notes.append(f"{n_empty} segments of zero length were left out")
    n_bytes, n_shards = size(sum(entry["size"] for entry in store.index.values())), store.about["n_shards"]
    if part is None:
        rows = ", ".join(count(store.n_rows(unit), unit) for unit in store.units)
        title = f"{store.path}: {rows}; layers {summary(store.layers)}; {n_bytes}, {when}"
        return Account(title, notes=notes, warnings=warnings)
    if part.rank >= n_shards:
        notes.append(f"there are only {n_shards} shards, so that rank {part.rank} has none (--shard-seconds)")
    if store.finished and part_indexes(store.path):
        notes.append(f"all shards are there: type layertool store merge {store.path}")
    title = f"{store.path}: {part} is done; {len(store.index)} of {n_shards} shards are there, {n_bytes}, {when}"
    return Account(title, notes=notes, warnings=warnings)


def of_plan(prepared: Prepared, out: Path, batch_seconds: float | None, part: Part | None) -> Account:
    """What a run would write, and what it would take: two batches of noise are timed."""
    planned, warnings = prepared.plan, []
    most, limit = needed(prepared, batch_seconds), there_is()
    device = prepared.extractor.device
    if most.process > limit:
        time_here = "not timed, as it would not fit into memory"
        warnings.append(
            f"the run needs about {size(most.process)} of memory, this process may have {size(limit)}: give a smaller "
            "--batch-seconds or --window-seconds, or take a machine that has more"
        )
    else:
        seconds = forecast(prepared, batch_seconds).seconds
        each = f"; with --nshard {part.of}: {duration(seconds / part.of)} each" if part else ""
        time_here = (
            f"about {duration(seconds)} on {device} (forward passes alone; two batches of noise were timed){each}"
        )
    on_device = f", and {size(most.on_device)} on {device}" if most.on_device else ""
    facts = [
        ("audio", f"{count(planned.n_utterances, 'utterance')}, {duration(planned.seconds)}"),
        ("layers", summary(prepared.layers)),
        *((f"{name.split('/')[0]} rows", number(n_rows)) for name, n_rows in planned.rows.items()),
        *mask_facts(prepared.configuration),
        ("shards", number(planned.n_shards)),
        ("on the disk", size(planned.n_bytes)),
        ("memory", f"about {size(most.process)}{on_device}"),
        ("time here", time_here),
    ]
    return Account(f"{out} (nothing was written)", facts, warnings=warnings)
