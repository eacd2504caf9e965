"""Layers side by side: what is computed of one layer knows nothing of the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from layertool.cluster import current
from layertool.errors import FeatureError, RowError, UsageError
from layertool.feed.common import Progress
from layertool.store import FeatureStore

T = TypeVar("T")


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each_layer(
    store: FeatureStore,
    layers: Sequence[str],
    compute: Callable[[str], T],
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> list[T]:
    """``compute(layer)`` of each, in their order, by so many threads at once (default: one a core), or by an open cluster.

    NumPy, SciPy and scikit-learn release the interpreter's lock where the work is. The cores are shared out among the
    threads, so that products of matrices do not ask for all of them each. Memory is that of as many layers as threads.
    FeatureError and UsageError gain the names of store and layer.
    """
    from threadpoolctl import threadpool_limits

    def named(layer: str) -> T:
        try:
            return compute(layer)
        except RowError:
            raise
        except (FeatureError, UsageError) as error:
            raise type(error)(f"{store.path}, layer {layer}: {error}") from error

    if current() is not None:
        return one_by_one(named, [(layer,) for layer in layers], progress)
    n = min(n_workers or n_cores(), len(layers))
    with threadpool_limits(max(1, n_cores() // n)), ThreadPoolExecutor(n) as pool:
        work = {pool.submit(named, layer): layer for layer in layers}
        try:
            for done, one in enumerate(as_completed(work), start=1):
                one.result()
                if progress:
                    progress(done, len(layers))
        finally:
            pool.shutdown(cancel_futures=True)
        return [one.result() for one in work]


def one_by_one(compute: Callable[..., T], work: Sequence[tuple[Any, ...]], progress: Progress | None = None) -> list[T]:
    """``compute(*work[k])`` of each, in their order: one after the other, or side by side on an open cluster."""
    cluster = current()
    found = cluster.each(compute, work, "a layer") if cluster else ((k, compute(*one)) for k, one in enumerate(work))
    out: dict[int, T] = {}
    if progress and work:
        progress(0, len(work))
    for number, value in found:
        out[number] = value
        if progress:
            progress(len(out), len(work))
    return [out[number] for number in range(len(work))]
