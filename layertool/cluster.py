"""Ray: the engine of work that one machine is too small for (extra ``ray``).

with Cluster.open(address="auto"):                # analyses inside spread their layers over the cluster
    rows = cca_rows(store, target)
    for number, value in current().each(function, [(1,), (2,)]):    # or any work, as it comes
        ...
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from layertool.errors import LayertoolError, MissingExtraError, UsageError

ENGINES = ("local", "ray")
OLDEST = "2.52"  # of Ray: the first that demands tokens
MAX_DEATHS = 3  # of workers over one piece of work, before it is the work's fault


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to. ``n_workers`` work at a time, each with ``n_gpus``."""

    n_workers: int
    n_gpus: float = 0.0

    @staticmethod
    @contextmanager
    def open(
        address: str | None = None, n_workers: int | None = None, n_gpus: float | None = None
    ) -> Iterator[Cluster]:
        """Connect to the cluster at ``address`` (``auto``: the one that this machine is part of); None starts one on
        this machine.

        ``n_workers``: default one for each GPU, or for each core where there is none. ``n_gpus``: of each worker,
        default 1 where the cluster has any. Raises MissingExtraError without Ray, UsageError where no cluster answers
        or has what is asked.
        """
        if importlib.util.find_spec("ray") is None:
            raise MissingExtraError("ray", "ray", "--engine ray")
        # before the import: Ray reads these once. Nothing is reported to anybody; a worker without a GPU sees none.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        os.environ.setdefault("RAY_task_oom_retries", str(MAX_DEATHS - 1))  # else Ray tries for ever
        if n_gpus is not None and n_gpus > 1 and n_gpus != int(n_gpus):
            raise UsageError(f"{n_gpus:g} GPUs for each worker: above 1 it is a whole number")
        _check_reachable(address)
        with nullcontext() if address else _for_this_machine_alone():
            yield from Cluster._opened(address, n_workers, n_gpus)

    @staticmethod
    def _opened(address: str | None, n_workers: int | None, n_gpus: float | None) -> Iterator[Cluster]:
        import ray
        import ray._private.worker

        ray._private.worker._worker_logs_enabled = False  # Ray writes of deaths to stdout, among the results
        was_there, on_term = ray.is_initialized(), signal.getsignal(signal.SIGTERM)
        with _Starting(address):
            if not was_there:
                ray.init(
                    address=address or "local",
                    num_cpus=None if address else n_workers,
                    include_dashboard=None if address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        try:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_term)  # Ray puts one of its own there
            has_gpus = ray.cluster_resources().get("GPU", 0.0) > 0
            each = (1.0 if has_gpus else 0.0) if n_gpus is None else float(n_gpus)
            room = sum(_room(node["Resources"], each) for node in ray.nodes() if node["Alive"])
            if not room:
                gpus = f" and {each:g} GPUs" if each else ""
                raise UsageError(
                    f"no machine of the cluster has a core{gpus} for a worker: give another --gpus-per-worker, or add "
                    "machines"
                )
            cluster = Cluster(min(n_workers or room, room), each)
            token = _CURRENT.set(cluster)
            try:
                yield cluster
            finally:
                _CURRENT.reset(token)
        finally:
            if not was_there:
                ray.shutdown()

    def start(self, kind: type, *arguments: Any) -> Any:
        """A long-lived worker: an actor of class ``kind``, made with ``arguments`` on a machine that has room for
        it.
        """
        import ray

        return ray.remote(kind).options(num_cpus=1, num_gpus=self.n_gpus, max_restarts=0).remote(*arguments)

    def each(
        self, function: Callable[..., Any], work: Sequence[tuple[Any, ...]], what: str = "a task"
    ) -> Iterator[tuple[int, Any]]:
        """(number, function(*work[number])) as they come, ``n_workers`` at a time.

        A worker keeps ``function``, with what it has made for itself. Work whose worker dies is done again. Raises what
        the function raises, LayertoolError when workers die of it.
        """
        import ray

        # by value, once: it may hold tables of rows
        kept, key = ray.put(function), secrets.token_hex(8)
        task = ray.remote(_do).options(num_cpus=1, num_gpus=self.n_gpus, max_retries=MAX_DEATHS - 1)
        waiting, running = list(enumerate(work))[::-1], dict[Any, int]()
        try:
            while waiting or running:
                while waiting and len(running) < self.n_workers:
                    number, arguments = waiting.pop()
                    running[task.remote([kept], key, os.getcwd(), arguments)] = number
                ready, _ = ray.wait(list(running), num_returns=1)
                for reference in ready:
                    yield running.pop(reference), result(reference, what)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _room(resources: dict[str, float], n_gpus: float) -> int:
    """How many workers a machine takes: each has a core, and stands with all its GPUs on one machine."""
    cores, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
    if not n_gpus:
        return cores
    return min(cores, int(1 / n_gpus) * int(gpus) if n_gpus <= 1 else int(gpus // n_gpus))


def _check_reachable(address: str | None) -> None:
    """Raise UsageError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if address is None or not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _no_answer(address, str(error)) from error


@contextmanager
def _for_this_machine_alone() -> Iterator[None]:
    """Ray started inside listens on the loopback only, and answers nobody without a token, which nothing but it knows.

    Raises LayertoolError for a Ray that knows no tokens.
    """
    if Version(version := importlib.metadata.version("ray")) < Version(OLDEST):
        raise LayertoolError(
            f"Ray {version} lets everybody who reaches this machine run code on it; layertool starts Ray {OLDEST} or "
            "newer: pip install -U 'layertool[ray]', or give the --address of a cluster"
        )
    # the first is named after the systems where a Ray of one machine is the default
    wanted = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    from ray._private import ray_constants

    raylet: Any = importlib.import_module("ray._raylet")  # of C++

    def read_again() -> None:
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()

    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    read_again()  # Ray may have been imported before
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        read_again()


class _Starting:
    """Makes one sentence of what Ray raises while it starts: of a node that is too slow, a bare Exception."""

    def __init__(self, address: str | None):
        self.address = address

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: Any) -> None:
        from ray.exceptions import RayError

        if kind is None or not (kind is Exception or issubclass(kind, (OSError, ValueError, RuntimeError, RayError))):
            return
        why = (str(error).strip().splitlines() or [kind.__name__])[0].rstrip(".")
        if self.address:
            raise _no_answer(self.address, why) from error
        raise LayertoolError(
            f"Ray did not start on this machine ({why}): try again when it has less to do, with fewer --workers, or "
            "leave --engine ray out"
        ) from error


def _no_answer(address: str, why: str) -> UsageError:
    where = "this machine" if address == "auto" else address
    return UsageError(
        f"no Ray cluster answers at {where} ({why}): start one with 'ray start --head', give its --address, or leave "
        "--address out for one on this machine"
    )


_TOKEN = secrets.token_hex(32)  # of the clusters that this process starts: Ray remembers the first that it was given
_CURRENT: ContextVar[Cluster | None] = ContextVar("cluster", default=None)
_KEPT: dict[str, Callable[..., Any]] = {}  # in a worker: the function it was last given


def current() -> Cluster | None:
    """The cluster that is open, if any."""
    return _CURRENT.get()


def _do(kept: list[Any], key: str, folder: str, arguments: tuple[Any, ...]) -> Any:
    """One piece of work, in a worker.

    ``kept``: where the function is; in a list, so that Ray does not bring it every time.
    """
    if key not in _KEPT:
        import ray

        go_to(folder)
        _KEPT.clear()
        _KEPT[key] = ray.get(kept[0])
    return _KEPT[key](*arguments)


def go_to(folder: str) -> None:
    """Paths mean in a worker what they mean to the person, where there is such a folder."""
    if os.path.isdir(folder):
        os.chdir(folder)


def result(reference: Any, what: str) -> Any:
    """The value of a Ray reference. Raises the error of the work itself, without Ray's account of where it was."""
    import ray
    from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, LayertoolError):
            raise error.cause from None
        raise
    except (WorkerCrashedError, OutOfMemoryError) as error:
        raise LayertoolError(
            f"{MAX_DEATHS} workers died of {what} ({str(error).splitlines()[0]}): there may be too little memory for "
            "it; give fewer --workers, or more memory"
        ) from error
