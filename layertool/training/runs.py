"""The folder of a training run: what decides it, its checkpoints, and what is finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from layertool.errors import StoreError
from layertool.files import file_checksum, read_json, write_json
from layertool.folders import OutputFolder, sweep
from layertool.store.layout import differences

_OF_SAFETENSORS = ".tmp" + "[A-Za-z0-9]" * 6  # where it writes a file before that gets its name
CHECKPOINTS, PART, WHOLE = "checkpoints", ".model.part", "whole.json"


class RunFolder(OutputFolder):
    """One process's hold on the folder of a run.

    ``record``: name of the JSON file that says what decides the run (``decided``, whose "kind" names what sort of
    training it is) and, once it is finished, what came out; ``outputs``: patterns of the other files that a run writes;
    ``passing``: files that only an unfinished run has.
    Raises StoreError for a folder that holds something else, a run decided otherwise, or one that is being written.
    """

    def __init__(
        self,
        path: Path,
        record: str,
        decided: dict,
        outputs: Sequence[str],
        passing: Sequence[str] = (),
        overwrite: bool = False,
    ):
        # a kill before the first record leaves the lock alone
        super().__init__(path, "trained model", record, ())
        self.file, self.decided = path / record, decided
        self.outputs, self.passing = outputs, passing
        self._read()
        try:
            self.hold(f"{path} is being trained by another process: wait for it, or choose another -o")
            sweep(self.path)
            for stale in path.glob(_OF_SAFETENSORS):
                stale.unlink()
            self._begin(overwrite)
        except BaseException:
            self.close()
            raise

    def _read(self) -> dict:
        """The record that is there. Raises StoreError for one of another kind: the folder is not touched then."""
        if not self.file.exists():
            return {}
        old = read_json(self.file, "the record of a training run")
        if not isinstance(old, dict) or old.get("kind") != self.decided["kind"]:
            raise StoreError(f"{self.file} is no record of {self.decided['kind']}: choose another -o")
        return old

    def _begin(self, overwrite: bool) -> None:
        old = self._read()
        if old:
            differ = differences({key: old.get(key) for key in self.decided}, self.decided)
            if differ and old.get("finished") is not True and not self.checkpoints():
                overwrite = True  # an earlier run stopped before its first checkpoint: nothing is lost
            if differ and not overwrite:
                raise StoreError(
                    f"{self.path} was trained otherwise ({'; '.join(differ[:3])}): choose another -o, or start "
                    "again with "
                    "--overwrite"
                )
            if overwrite:
                write_json(
                    self.file, self.decided | {"finished": False}
                )  # a kill now leaves nothing that looks finished
                old = {}
                self._clear()
        self.finished: dict | None = old if old.get("finished") is True else None
        if not old:
            write_json(self.file, self.decided | {"finished": False})

    def _clear(self) -> None:
        """Take away what a run wrote, and nothing else."""
        for folder in (CHECKPOINTS, PART):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for pattern in (*self.outputs, *self.passing):
            for path in self.path.glob(pattern):
                path.unlink()

    def restart(self) -> None:
        """Begin again: what is finished is not there any more."""
        self._clear()
        self.finished = None
        write_json(self.file, self.decided | {"finished": False})

    def checkpoints(self) -> dict[int, Path]:
        """Whole checkpoints by their step; a damaged or half-written one is none."""
        return whole_checkpoints(self.path / CHECKPOINTS)

    def keep_only(self, steps: Iterable[int]) -> None:
        """Remove checkpoints of other steps."""
        names = {f"checkpoint-{step}" for step in steps}
        for path in (self.path / CHECKPOINTS).glob("checkpoint-*"):
            if path.name not in names:
                shutil.rmtree(path)

    def put_in_place(self, last: str) -> None:
        """Move the files of the model, which were written to ``part``, to the folder; ``last`` comes last."""
        umask = os.umask(0)
        os.umask(umask)
        for path in sorted(self.part.iterdir(), key=lambda path: path.name == last):
            path.chmod(0o666 & ~umask)  # safetensors' files are for their owner alone
            path.replace(self.path / path.name)
        self.part.rmdir()

    @property
    def part(self) -> Path:
        """Where the model is written before it is whole."""
        return self.path / PART

    def finish(self, keep_checkpoints: bool, **facts) -> None:
        """Say what came out, and tidy up."""
        write_json(self.file, self.decided | facts | {"finished": True})
        self.tidy(keep_checkpoints)

    def tidy(self, keep_checkpoints: bool) -> None:
        """Remove what only an unfinished run needs."""
        for name in self.passing:
            (self.path / name).unlink(missing_ok=True)
        if not keep_checkpoints:
            shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)


def mark_whole(checkpoint: Path) -> None:
    """Say that a checkpoint is whole: called when all of its files are written."""
    sums = {
        path.name: file_checksum(path) for path in sorted(checkpoint.iterdir()) if path.is_file() and path.name != WHOLE
    }
    write_json(checkpoint / WHOLE, sums)


def whole_checkpoints(folder: Path) -> dict[int, Path]:
    """Whole checkpoints of a folder by their step; a damaged or half-written one is none."""
    found = {}
    for path in folder.glob("checkpoint-*"):
        step = path.name.rpartition("-")[2]
        if step.isdecimal() and (path / WHOLE).exists():
            sums = read_json(path / WHOLE, "the checksums of a checkpoint")
            if all((path / name).is_file() and file_checksum(path / name) == sums[name] for name in sums):
                found[int(step)] = path
    return dict(sorted(found.items()))
