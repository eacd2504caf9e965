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
from importlib import import_module
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
# numpy's arrays and random states, whose reconstruction is harmless
_NUMPY = re.compile(
    r"numpy\.(core|_core)\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)|numpy\.(ndarray|dtype|dtypes\.\w+)"
)
_REFUSED = re.compile(r"(?:Unsupported global: GLOBAL |load unsupported GLOBAL )([\w.<>]+)")
_MOST_NAMES = 200


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
    # objects of these come out of numpy.dtype, and are filled without their names standing in the file
    allowed: dict[str, Any] = {f"numpy.dtypes.{name}": getattr(np.dtypes, name) for name in np.dtypes.__all__}
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
    return plain(loaded)


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


def _numpy(name: str) -> Any:
    """NumPy's own object, whatever its module was called in the version that wrote the file."""
    last = name.rpartition(".")[2]
    if last in ("_reconstruct", "scalar"):
        return getattr(import_module("numpy._core.multiarray"), last)
    if last == "_frombuffer":
        return import_module("numpy._core.numeric")._frombuffer
    return getattr(np.dtypes, last, None) if ".dtypes." in name else getattr(np, last)


def plain(value: Any) -> Any:
    """Stand-ins as plain Python: namespaces and configurations as dicts and lists, nodes and enums as their values."""
    if isinstance(value, Kept):
        return _plain_kept(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return type(value)(plain(item) for item in value)
    return value


def _plain_kept(kept: Kept) -> Any:
    state = kept.state
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], Mapping):
        state = {**(state[0] or {}), **state[1]}
    if isinstance(state, Mapping):
        if "_content" in state:  # omegaconf's dicts and lists
            return plain(state["_content"])
        if "_val" in state:  # its leaves
            return plain(state["_val"])
        if state:
            return {str(key): plain(item) for key, item in state.items()}
    if len(kept.arguments) == 1:  # an enum's value
        return plain(kept.arguments[0])
    return plain(list(kept.arguments)) if kept.arguments else {}


def file_sha256(path: Path | str) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # torch begins with advice to turn safety off
    return text.splitlines()[0][:160].rstrip(".") if text else type(error).__name__
