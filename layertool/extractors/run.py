"""The run: what was asked for is carried out here, as a part of a job array, or by a Ray cluster."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from layertool.account import Account, count, duration, size
from layertool.cluster import Cluster
from layertool.corpora.corpus import Corpus
from layertool.declared import keywords
from layertool.errors import ModelError, UsageError, tell
from layertool.extractors.base import Extractor
from layertool.extractors.extraction import Extraction
from layertool.extractors.forecast import account_of_plan
from layertool.extractors.on_cluster import Request, extract_on_cluster
from layertool.extractors.prepare import Prepared
from layertool.extractors.ranks import part_of, part_of_job
from layertool.extractors.sink import Progress
from layertool.extractors.work import write_shards
from layertool.geometry import SAMPLE_RATE
from layertool.layers import summary
from layertool.models.open import Model
from layertool.store import FeatureStore, StoreWriter, layout
from layertool.store.writer import Part

Say = Callable[[str], object]
_MOST_NAMED = 5  # checkpoints of a series that could not be extracted


def extract(
    model: str | Model | Extractor,
    corpus: Corpus | Path | str,
    out: Path | str,
    units: Sequence[str] | str = ("word", "utterance"),
    layers: Sequence[str] | str = "all",
    *,
    progress: Progress | None = None,
    say: Say | None = None,
    **options: Any,
) -> FeatureStore:
    """Run a model over a corpus once and write every asked layer at every asked unit into a store.

    ``model``: a Hugging Face id, a local folder, an acoustic feature's name, a Model, or an Extractor.
    ``units``: among frame, phone, word, utterance. ``options``: those of the command, with their defaults
    (``extractors.extraction.Extraction``): ``pooling`` (also unit -> pooling name), ``dtype`` of the computation,
    ``store_dtype`` on the disk, ``random_init``, ``normalise``, ``cmvn``, ``language``, ``encoder_window``,
    ``statistics``, ``mask_seed``, ``mask_prob``, ``mask_length``, ``device``, ``batch_seconds``, ``shard_seconds``,
    ``window_seconds``, ``overlap_seconds``, ``channel``, ``max_failures``, ``overwrite``, ``workers``, ``nshard``,
    ``rank``, ``engine``, ``address``, ``gpus_per_worker``. A run that was stopped goes on where it was; ``overwrite``
    starts again. ``progress`` is told (seconds of audio done, in all). Raises a LayertoolError that says what to do.
    """
    asked = Extraction.of_call("extract", {"units": units, "layers": layers, **options})
    part = part_of(asked.nshard, asked.rank)
    if asked.engine == "ray" and isinstance(model, Extractor):
        raise UsageError("the workers of Ray open the model themselves: give its name, not an extractor")
    with asked.cluster() as cluster:
        return _store(model, corpus, out, asked, part, cluster, progress, say)


_GIVEN = inspect.signature(extract).parameters
extract.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [one for one in _GIVEN.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
    + [one for one in keywords(Extraction) if one.name not in _GIVEN]
    + [_GIVEN["progress"], _GIVEN["say"]]
)


def extractions(
    model: str | list,
    corpus: Path,
    out: Path,
    asked: Extraction,
    dry_run: bool,
    watch: Callable[[], AbstractContextManager[Progress | None]],
) -> Iterator[Account]:
    """Extract a MODEL, or each checkpoint of a series into a store of its own in ``out``; yields what there is to say
    of each.

    The part of the shards is the one that a job array says, where nobody else does. ``dry_run`` writes nothing;
    ``watch`` gives, for each, what is told the progress. A checkpoint of a series that cannot be read is left out;
    ModelError in the end.
    """
    part, source = (None, None) if asked.engine == "ray" else part_of_job(asked.nshard, asked.rank, os.environ)
    if part and source:
        tell(f"{part}, as {source} says (--nshard 1: all of the work)")
    found = Model.series(model)
    if found[0][0] is not None:
        tell(f"{count(len(found), 'checkpoint')}, each into a store of its own in {out}")
    if len(found) > 1 and asked.random_init is not None:
        raise UsageError("--random-init draws the same weights for every checkpoint of a series: give one of them")
    failed = []
    with nullcontext() if dry_run else asked.cluster() as cluster:
        for name, member in found:
            place = out if name is None else out / name
            try:
                if dry_run:
                    yield account_of_plan(asked.prepared(member, corpus), place, asked.batch_seconds, part)
                else:
                    yield _extracted(member, corpus, place, asked, part, cluster, watch)
            except ModelError as error:
                if name is None:
                    raise
                failed.append(name)
                yield Account("", warnings=[f"left out: {error}"])
    if failed:
        raise ModelError(
            f"{len(failed)} of {len(found)} checkpoints could not be extracted ({', '.join(failed[:_MOST_NAMED])}): "
            "restore or remove them, and run the same command again; the others are done"
        )


def _extracted(
    model: Model,
    corpus: Path,
    out: Path,
    asked: Extraction,
    part: Part | None,
    cluster: Cluster | None,
    watch: Callable[[], AbstractContextManager[Progress | None]],
) -> Account:
    """One model into one store, and what there is to say of it."""
    begun, told = time.monotonic(), []
    with watch() as show:

        def progress(done: float, total: float) -> None:
            told.append(done)
            if show:
                show(done, total)

        store = _store(model, corpus, out, asked, part, cluster, progress, tell)
    when = "already complete" if len(told) == 1 else f"in {duration(time.monotonic() - begun)}"
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
    if store.finished and layout.part_indexes(store.path):
        notes.append(f"all shards are there: type layertool store merge {store.path}")
    title = f"{store.path}: {part} is done; {len(store.index)} of {n_shards} shards are there, {n_bytes}, {when}"
    return Account(title, notes=notes, warnings=warnings)


def _store(
    model: str | Model | Extractor,
    corpus: Corpus | Path | str,
    out: Path | str,
    asked: Extraction,
    part: Part | None,
    cluster: Cluster | None,
    progress: Progress | None,
    say: Say | None,
) -> FeatureStore:
    common: dict[str, Any] = {
        "overwrite": asked.overwrite,
        "max_failures": asked.max_failures,
        "progress": progress,
    }
    if cluster is None:
        threads = asked.workers or asked.READING_THREADS
        return carry_out(asked.prepared(model, corpus), out, asked.batch_seconds, threads, part=part, **common)
    read = corpus if isinstance(corpus, Corpus) else Corpus.read(corpus, asked.channel)
    asked = replace(asked, **model.asked.given) if isinstance(model, Model) else asked
    return extract_on_cluster(cluster, Request(str(model), asked), read, out, say=say, **common)


def carry_out(
    prepared: Prepared,
    out: Path | str,
    batch_seconds: float | None = None,
    workers: int = Extraction.READING_THREADS,
    overwrite: bool = False,
    max_failures: int = 0,
    progress: Progress | None = None,
    part: Part | None = None,
) -> FeatureStore:
    """Do what was prepared, shard by shard, leaving out the shards that are there already.

    With a ``part``, only its shards; the store that comes back may be unfinished, and ``layertool store merge``
    finishes it.
    """
    with StoreWriter(
        out, prepared.configuration, prepared.about, prepared.corpus.utterances, prepared.rows.labels, overwrite, part
    ) as store:
        mine = [shard for shard in prepared.shards if part is None or part.has(shard.number)]
        pending = [shard for shard in mine if shard.number not in store.finished]
        total = sum(shard.n_samples for shard in mine) / SAMPLE_RATE
        done = total - sum(shard.n_samples for shard in pending) / SAMPLE_RATE
        seconds_done = None if progress is None else lambda seconds: progress(done + seconds, total)
        write_shards(prepared, store, pending, batch_seconds, workers, max_failures, seconds_done)
        if part is None:
            store.finish(len(prepared.shards))
    return FeatureStore(out, allow_unfinished=part is not None)
