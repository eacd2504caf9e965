"""Runs of the command line that can be killed at any point, or given little room on the disk.

Importing torch takes seconds. One process imports it and forks for every run, so that a test can
afford dozens of them. As a program this file is that process; ``Forks`` is its client.
"""

from __future__ import annotations

import atexit
import builtins
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Where a run can be made to die: every step of writing a store that changes what is on the disk.
POINTS = (
    "labels.json renamed",
    "store.json before rename",
    "store.json renamed",
    "utterances.parquet before rename",
    "shard begun",
    "row written",
    "shard before rename",
    "shard renamed",
    "index line half written",
    "index line written",
    "store.h5 half written",
    "store.h5 before rename",
    "store.h5 renamed",
)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code, or minus the signal that killed it; and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Forks:
    """The client: ``run`` is one run of ``layertool ARGUMENTS`` in a process of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def run(
        self,
        arguments: Sequence[object],
        *,
        kill_at: tuple[str, int] | None = None,
        kill_after: float | None = None,
        pause: float = 0.0,
        file_limit: int | None = None,
    ) -> Outcome:
        """Run ``layertool`` with ``arguments``.

        ``kill_at``: die by SIGKILL at the n-th time of a point; ``kill_after``: be killed after so many
        seconds; ``pause``: seconds to sleep at every point; ``file_limit``: bytes a file may have.
        """
        outputs = [self.folder / name for name in ("stdout.txt", "stderr.txt")]
        request = {
            "arguments": [str(a) for a in arguments],
            "kill_at": kill_at,
            "pause": pause,
            "file_limit": file_limit,
            "outputs": [str(path) for path in outputs],
        }
        self._send(request)
        pid = self._receive()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)  # a child that has ended already is a zombie until "wait"
        self._send("wait")
        code = self._receive()
        return Outcome(code, *(path.read_text(encoding="utf-8") for path in outputs))

    def _send(self, value) -> None:
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def _receive(self) -> int:
        line = self.process.stdout.readline()
        assert line, "the forking process died"
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


def _serve() -> None:
    """Import everything once, then fork for each request that comes in."""
    import pyarrow.parquet  # noqa: F401
    import transformers.models.wav2vec2.modeling_wav2vec2  # noqa: F401

    import layertool.commands.extract
    import layertool.extractors.acoustic
    import layertool.extractors.huggingface
    import layertool.extractors.run  # noqa: F401

    gc.freeze()  # collecting in a child would copy the parent's memory
    while line := sys.stdin.readline():
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become_a_run(request)
        print(pid, flush=True)
        sys.stdin.readline()  # "wait"
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become_a_run(request: dict) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, path in enumerate(request["outputs"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if request["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], resource.RLIM_INFINITY))
    _watch(request["kill_at"], request["pause"])
    from layertool.cli import cli

    code = 1
    try:
        code = cli(request["arguments"], prog_name="layertool", standalone_mode=True) or 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    # All that the interpreter does at its end, but for freeing torch, which takes a second.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watch(kill_at: list | None, pause: float) -> None:
    """Make the run stop for a moment, or for good, at the points."""
    import h5py

    from layertool.store import writer

    seen: Counter[str] = Counter()

    def point(name: str) -> None:
        seen[name] += 1
        if kill_at and [name, seen[name]] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(pause)

    def kind(path) -> str:
        return "shard" if Path(path).parent.name == "shards" else Path(path).name

    def with_point(owner, name: str, label: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args, **options):
            result = real(*args, **options)
            point(label)
            return result

        setattr(owner, name, wrapped)

    real_replace = os.replace

    def replace(source, target, **options) -> None:
        if not str(target).endswith(".part"):
            point(f"{kind(target)} before rename")
        real_replace(source, target, **options)
        if not str(target).endswith(".part"):
            point(f"{kind(target)} renamed")

    class Torn:
        """An index file that reaches the disk in two halves of every line."""

        def __init__(self, file):
            self.file = file

        def write(self, line: bytes) -> int:
            written = self.file.write(line[: len(line) // 2])
            self.file.flush()
            point("index line half written")
            return written + self.file.write(line[written:])

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *reason):
            return self.file.__exit__(*reason)

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    def opened(path, mode="r", *args, **options):
        file = builtins.open(path, mode, *args, **options)  # noqa: SIM115 - it is the caller's
        return Torn(file) if Path(path).name == "index.jsonl" and mode != "r" else file

    os.replace = replace
    writer.open = opened  # type: ignore[attr-defined]
    with_point(writer.StoreWriter, "shard", "shard begun")
    with_point(writer.ShardWriter, "put", "row written")
    with_point(writer.StoreWriter, "add", "index line written")
    with_point(h5py.Group, "create_virtual_dataset", "store.h5 half written")


if __name__ == "__main__":
    _serve()
