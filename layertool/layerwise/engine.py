"""Who computes: pieces of work side by side, by threads of this process or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, TypeVar

from layertool.cluster import ENGINES, Cluster, current
from layertool.errors import UsageError

T = TypeVar("T")
Progress = Callable[[float, float], object]  # (done, total)


@dataclass(frozen=True)
class Watch:
    """How a run goes: so many pieces ``at_once`` (None: one a core), and who is told of its ``progress``.

    ``tables``: what it gives beside its rows, by name.
    """

    at_once: int | None = None
    progress: Progress | None = None
    tables: dict[str, list] = field(default_factory=dict)

    def counting(self, n: int) -> Watch:
        """The same, whose progress tells the share that is done as so many of ``n`` things."""
        progress = self.progress
        return replace(self, progress=progress and (lambda done, total: progress(n * done / total, n)))

    def each(self, compute: Callable[..., T], pieces: Sequence[tuple[Any, ...]], what: str = "a layer") -> list[T]:
        """``compute(*piece)`` of each, in their order, by an open cluster or by threads.

        NumPy, SciPy and scikit-learn release the interpreter's lock where the work is. The cores are shared out among
        the threads, so that products of matrices do not ask for all of them each. Memory is that of as many pieces as
        threads.
        """
        if not pieces:
            return []
        cluster, n = current(), min(self.at_once or n_cores(), len(pieces))
        with nullcontext() if cluster or n == 1 else _threads(n) as pool:
            if cluster:
                numbered: Iterator[tuple[int, T]] = cluster.each(compute, pieces, what)
            elif pool is None:
                numbered = ((k, compute(*piece)) for k, piece in enumerate(pieces))
            else:
                work = {pool.submit(compute, *piece): k for k, piece in enumerate(pieces)}
                numbered = ((work[one], one.result()) for one in as_completed(work))
            found: dict[int, T] = {}
            self.tell(0, len(pieces))
            for number, value in numbered:
                found[number] = value
                self.tell(len(found), len(pieces))
        return [found[number] for number in range(len(pieces))]

    def tell(self, done: float, total: float) -> None:
        """Say how far the work is."""
        if self.progress:
            self.progress(done, total)


@contextmanager
def _threads(n: int) -> Iterator[ThreadPoolExecutor]:
    from threadpoolctl import threadpool_limits

    each = max(1, n_cores() // n)
    # OpenMP counts for every thread apart, BLAS for all of them
    with threadpool_limits(each), ThreadPoolExecutor(n, initializer=threadpool_limits, initargs=(each,)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def opened(engine: str = "local", address: str | None = None, workers: int | None = None) -> Iterator[None]:
    """The engine of the analyses inside. Raises UsageError for one that there is not."""
    if engine not in ENGINES:
        raise UsageError(f"'{engine}' is no engine: choose {' or '.join(ENGINES)}")
    if workers is not None and (not isinstance(workers, Integral) or workers < 1):
        raise UsageError(f"--workers {workers} cannot be: it is a whole number, 1 or more")
    if engine == "ray":
        with Cluster.open(address, workers):
            yield
        return
    if address is not None:
        raise UsageError("--address is for Ray: add --engine ray")
    yield


def place_of(device: str) -> str:
    """Where float64 products are computed: a GPU of CUDA, or the CPU (others have no float64)."""
    if device == "cpu":
        return device
    from layertool.models.computing import choose_device

    place = choose_device(device)
    return str(place) if place.type == "cuda" else "cpu"
