"""Reading checkpoints of other tools without their code, and without running any (spec platform.md, "Loading checkpoints").

torch's restricted unpickler reads tensors and plain values. Research checkpoints also hold settings as argparse, omegaconf
or fairseq objects: those names get inert stand-ins that only keep what was stored. Any other name is refused.
"""

from __future__ import annotations

import builtins
import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layertool.errors import ModelError

# Packages whose classes only describe: their objects are kept as what was stored in them.
_SETTINGS = re.compile(
    r"(argparse\.Namespace|typing\.\w+|pathlib\.(Posix|Pure)?\w*Path|collections\.(defaultdict|Counter)|"
    r"(omegaconf|fairseq|examples|data2vec|hydra)(\.\w+)+|enum\.\w+|builtins\.(dict|list|int|str|float|bool|tuple|set|object|complex|bytes))"
)
# numpy's names, for which there are stand-ins, too
_NUMPY = re.compile(
    r"numpy\.(core|_core)\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|numpy\.(ndarray|dtype|dtypes\.\w+)"
)
_NUMBER_KIND = re.compile(r"[<>=|]?[biuf][1248]")  # booleans, whole and broken numbers of up to 8 bytes
_REFUSED = re.compile(r"(?:Unsupported global: GLOBAL |load unsupported GLOBAL )([\w.<>]+)")
_MOST_NAMES = 200
_DEEPEST = 60


class Kept:
    """Stands for an object of a class that is not loaded: ``name`` of the class, ``arguments``, ``state``."""

    name = ""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments, self.state = arguments, named

    def __new__(cls, *_arguments: Any, **_named: Any) -> Kept:
        self = super().__new__(cls)
        self.arguments, self.state = (), {}
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<{self.name}>"


def read_checkpoint(path: Path | str) -> dict:
    """The dict that torch.save wrote: tensors, and plain Python for settings. No code of the file is run.

    Raises ModelError for what is no such file, breaks off, or asks for a name that is not known to be harmless.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{path} {what}: give the file of one checkpoint")
    allowed: dict[str, Any] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(thing, name) for name, thing in allowed.items()]):
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            break
        except pickle.UnpicklingError as error:
            found = _REFUSED.search(str(error))
            if found is None:
                raise ModelError(f"{path} is no checkpoint that can be read safely ({_first_line(error)})") from error
            name = _full_name(found[1])
            thing = _harmless(name)
            if thing is None or name in allowed or len(allowed) > _MOST_NAMES:
                raise ModelError(
                    f"{path} asks for '{name}' while it is read, which is not known to be harmless: layertool does not run "
                    "code of a checkpoint; save its state dict alone, or as safetensors"
                ) from error
            allowed[name] = thing
        except (RuntimeError, EOFError, KeyError, OSError, ValueError, AttributeError, IndexError, TypeError, AssertionError, zipfile.BadZipFile) as error:  # fmt: skip
            raise ModelError(
                f"{path} is cut short or no checkpoint of torch ({_first_line(error)}): copy it again"
            ) from error
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{path} holds a {type(loaded).__name__}, a checkpoint is a dict: give another file")
    try:
        return plain(loaded)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _full_name(name: str) -> str:
    """torch leaves 'builtins.' out of names."""
    return name if "." in name else f"builtins.{name}"


def _harmless(name: str) -> Any:
    """What stands for a global of this name while a file is read, None where nothing does."""
    if _NUMPY.fullmatch(name):
        return _numpy(name)
    if name == "collections.defaultdict":
        return _empty_dict  # torch fills no other dicts than its own
    if name.startswith("builtins.") and _SETTINGS.fullmatch(name):
        return getattr(builtins, name.partition(".")[2])
    if _SETTINGS.fullmatch(name):
        return type(name.rpartition(".")[2], (Kept,), {"name": name})
    return None


def _empty_dict(*_arguments: Any) -> dict:
    return {}


class _NumberKind:
    """Stands for numpy.dtype: only its text is kept, and only that of plain numbers. What is filled into it is left aside.

    NumPy's own dtype and scalar, called by a file, can be made to take its bytes for the address of an object.
    """

    def __init__(self, text: Any = "", *_rest: Any) -> None:
        self.text = text if isinstance(text, str) and _NUMBER_KIND.fullmatch(text) else ""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in (">", "<") and self.text:
            self.text = state[1] + self.text.lstrip("<>=|")


def _number(kind: Any, content: Any = b"") -> float | int | bool | None:
    """Stands for numpy's scalar: a Python number from a plain kind and the bytes of one, None for all else."""
    content = content.encode("latin-1", errors="replace") if isinstance(content, str) else content
    if not isinstance(kind, _NumberKind) or not kind.text or not isinstance(content, bytes):
        return None
    of = np.dtype(kind.text)
    return np.frombuffer(content, of)[0].item() if len(content) == of.itemsize else None


def _numpy(name: str) -> Any:
    """Numbers of NumPy come back as Python's; its arrays (states of random generators) are not read."""
    last = name.rpartition(".")[2]
    if last == "scalar":
        return _number
    return _NumberKind if last == "dtype" else type(last, (Kept,), {"name": name})


def plain(value: Any) -> Any:
    """Stand-ins as plain Python: namespaces and configurations as dicts and lists, nodes and enums as their values.

    What stands there several times is made plain once. Raises ModelError for what holds itself, or is nested too deep.
    """
    return _Plain().of(value, 0)


class _Plain:
    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.open: set[int] = set()

    def of(self, value: Any, depth: int) -> Any:
        if not isinstance(value, (Kept, Mapping, list, tuple, set)):
            return value
        key = id(value)
        if key in self.done:
            return self.done[key]
        if key in self.open or depth > _DEEPEST:
            raise ModelError(
                "its settings hold themselves, or are nested too deep: this is no checkpoint of a known tool"
            )
        self.open.add(key)
        if isinstance(value, Kept):
            made = self._kept(value, depth + 1)
        elif isinstance(value, Mapping):
            made = {self._key(name): self.of(item, depth + 1) for name, item in value.items()}
        else:
            made = [self.of(item, depth + 1) for item in value]
            made = made if isinstance(value, list) else tuple(made)
        self.open.discard(key)
        self.done[key] = made
        return made

    def _key(self, name: Any) -> Any:
        return repr(name) if isinstance(name, (Kept, set)) else name

    def _kept(self, kept: Kept, depth: int) -> Any:
        state = kept.state
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], Mapping):
            state = {**(state[0] if isinstance(state[0], Mapping) else {}), **state[1]}
        if isinstance(state, Mapping):
            for name in ("_content", "_val"):  # omegaconf's dicts and lists, and its leaves
                if name in state:
                    return self.of(state[name], depth)
            if state:
                return {str(key): self.of(item, depth) for key, item in state.items()}
        if len(kept.arguments) == 1:  # an enum's value
            return self.of(kept.arguments[0], depth)
        return [self.of(item, depth) for item in kept.arguments] if kept.arguments else {}


def whole_step(value: Any) -> int | None:
    """A training step as a checkpoint says it: a whole number from 0 to 2^53, None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**53 else None


def check_tensors(tensors: Mapping[Any, Any], path: Path | str, finite: bool = True) -> None:
    """Raise ModelError for tensors that are no plain, finite numbers, or that pretend to be larger than the file."""
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ModelError(f"{path} has {name!r} among its tensors, which is none: give another file")
        plain_kind = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain_kind or tensor.is_complex():
            raise ModelError(
                f"{path}: the tensor {name} is of a kind that no such network has ({tensor.dtype}, {tensor.layout})"
            )
        if (
            0 in tensor.stride()
            and tensor.numel() > 1
            and any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))
        ):
            raise ModelError(f"{path}: the tensor {name} repeats a few numbers many times: write the checkpoint anew")
        if finite and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"{path}: the tensor {name} has numbers that are not finite: the training diverged, or the file is damaged"
            )


def file_sha256(path: Path | str) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # torch begins with advice to turn safety off
    return text.splitlines()[0][:160].rstrip(".") if text else type(error).__name__
