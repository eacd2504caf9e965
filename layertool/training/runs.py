"""The folder of a training run: what decides it, its models, its checkpoint, and what is finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import xxhash
from safetensors import SafetensorError

from layertool.errors import StoreError
from layertool.files import read_json, remove, whole_file, whole_folder, write_json
from layertool.folders import OutputFolder, sweep
from layertool.store.layout import differences

_OF_SAFETENSORS = ".tmp" + "[A-Za-z0-9]" * 6  # where it writes a file before that gets its name
CHECKPOINTS, PART = "checkpoints", ".model.part"
_AGAIN = "choose another -o, or start again with --overwrite"


class RunFolder(OutputFolder):
    """One process's hold on the folder of a run.

    ``record``: name of the JSON file that says what decides the run (``decided``, whose "kind" names what sort of
    training it is) and, once it is finished, what came out (``finished``); ``outputs``: patterns of whatever else a run
    writes. ``leads``: False for the other processes of one run, which only read.
    Raises StoreError for a folder that holds something else, a run decided otherwise, or one that is being written.
    """

    def __init__(
        self,
        path: Path,
        record: str,
        decided: dict,
        outputs: Sequence[str],
        overwrite: bool = False,
        leads: bool = True,
    ):
        # a kill before the first record leaves the lock alone
        super().__init__(path, "trained model", record, ())
        self.file, self.decided, self.outputs, self.leads = path / record, decided, outputs, leads
        old = self._read()
        if leads:
            try:
                self.hold(f"{path} is being trained by another process: wait for it, or choose another -o")
                sweep(self.path)
                for stale in path.glob(_OF_SAFETENSORS):
                    stale.unlink()
                old = self._begun(self._read(), overwrite)
            except BaseException:
                self.close()
                raise
        self.finished: dict | None = old if old.get("finished") is True else None

    def _read(self) -> dict:
        """The record that is there. Raises StoreError for one of another kind: the folder is not touched then."""
        if not self.file.exists():
            return {}
        old = read_json(self.file, "the record of a training run")
        if not isinstance(old, dict) or old.get("kind") != self.decided["kind"]:
            raise StoreError(f"{self.file} is no record of {self.decided['kind']}: choose another -o")
        return old

    def _begun(self, old: dict, overwrite: bool) -> dict:
        differ = differences({key: old.get(key) for key in self.decided}, self.decided) if old else []
        if differ and not overwrite:
            if old.get("finished") is True or (self.path / CHECKPOINTS).exists():
                raise StoreError(f"{self.path} was trained otherwise ({'; '.join(differ[:3])}): {_AGAIN}")
            overwrite = True  # an earlier run stopped before its first checkpoint: nothing is lost
        if old and not overwrite:
            return old
        self.restart(bool(old))
        return {}

    def restart(self, clear: bool = True) -> None:
        """Begin again: what is finished is not there any more."""
        self.finished = None
        write_json(self.file, self.decided | {"finished": False})  # a kill now leaves nothing that looks finished
        if clear:
            for pattern in (CHECKPOINTS, PART, *self.outputs):
                for path in self.path.glob(pattern):
                    remove(path)

    def write_checkpoint(self, step: int, tensors: Mapping[str, torch.Tensor], about: dict) -> None:
        """Keep what a stopped run goes on from, instead of what was kept before."""
        folder = self.path / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        own = folder / f"step-{step}.safetensors"
        text = json.dumps(about)
        with whole_file(own) as temporary:
            metadata = {"layertool": text, "checksum": _checksum(tensors, text)}
            safetensors.torch.save_file(dict(tensors), temporary, metadata)
        for other in folder.glob("step-*"):
            if other != own:
                other.unlink()

    def read_checkpoint(self) -> tuple[dict, dict[str, torch.Tensor]] | None:
        """What ``write_checkpoint`` kept last. Raises StoreError where it is damaged."""
        steps = {int(path.stem.removeprefix("step-")): path for path in (self.path / CHECKPOINTS).glob("step-*")}
        if not steps:
            return None
        path = steps[max(steps)]
        try:
            with safetensors.safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                text, checksum = file.metadata()["layertool"], file.metadata()["checksum"]
            if _checksum(tensors, text) != checksum:
                raise ValueError("its checksum is another")
            return json.loads(text), tensors
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path} is damaged ({error}): start again with --overwrite") from error

    def put_in_place(self, source: Path, last: str) -> None:
        """Copy the files of a model into the run's own folder; the one named ``last`` comes last."""
        umask = os.umask(0)
        os.umask(umask)
        part = self.path / PART
        remove(part)
        shutil.copytree(source, part)
        for path in sorted(part.iterdir(), key=lambda path: path.name == last):
            path.chmod(0o666 & ~umask)  # safetensors' files are for their owner alone
            path.replace(self.path / path.name)
        part.rmdir()

    def finish(self, **facts: Any) -> None:
        """Say what came out, and tidy up."""
        write_json(self.file, self.decided | facts | {"finished": True})
        self.tidy()

    def tidy(self) -> None:
        """Remove what only an unfinished run needs."""
        remove(self.path / CHECKPOINTS)

    def result(self, kind: Callable[..., Any]) -> Any:
        """What a finished run gave. Raises StoreError for a damaged record."""
        found = kind(self.path, self.finished, was_there=True)
        try:
            found.check()
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise StoreError(f"{self.file} is damaged ({error!r}): {_AGAIN}") from error
        return found


def _checksum(tensors: Mapping[str, torch.Tensor], about: str) -> str:
    digest = xxhash.xxh3_128(about.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_model(run: Path, step: int, save: Callable[[Path], object]) -> Path:
    """Write a model as ``run/step-STEP``, whole or not at all: a folder that every command takes as MODEL."""
    out = run / f"step-{step}"
    remove(out)
    with whole_folder(out) as part:
        save(part)
    return out


def models_of(folder: Path) -> dict[int, Path]:
    """The models of a run by their step, the first one first."""
    steps = {path.name.removeprefix("step-"): path for path in folder.glob("step-*")}
    return {int(step): steps[step] for step in sorted(filter(str.isdecimal, steps), key=int)}


def plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples, text for names."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value
