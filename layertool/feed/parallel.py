"""Layers side by side: what is computed of one layer knows nothing of the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from layertool.errors import FeatureError, UsageError
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
    """``compute(layer)`` of each, in their order, by so many threads at once (default: one a core).

    NumPy, SciPy and scikit-learn release the interpreter's lock where the work is. The cores are shared out among the
    threads, so that products of matrices do not ask for all of them each. Memory is that of as many layers as threads.
    FeatureError and UsageError gain the names of store and layer.
    """
    from threadpoolctl import threadpool_limits

    def named(layer: str) -> T:
        try:
            return compute(layer)
        except (FeatureError, UsageError) as error:
            raise type(error)(f"{store.path}, layer {layer}: {error}") from error

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
