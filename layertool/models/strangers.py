"""Checkpoints of strangers: how what is wrong with them ends in a sentence, what their settings may say, how large they
may be.
"""

from __future__ import annotations

import copy
import pickle
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from layertool.errors import ModelError, tell
from layertool.machine import memory_bytes
from layertool.models.computing import shapes_only

# What reading a file that nobody vouches for may end in, here and in the libraries that read it.
BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    SafetensorError,
    StrictDataclassError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
# Settings by which transformers fetches or imports code, or takes other files.
_OF_CODE = (
    "attn_implementation",
    "experts_implementation",
    "quantization_config",
    "compression_config",
    "kernel_config",
    "use_kernels",
    "fusion_config",
    "distributed_config",
    "per_layer_config",
    "transformers_weights",
    "configuration_files",
    "gguf_file",
)
_OURS = ("is_multilingual", "forced_decoder_ids")  # what is read here beyond the fields of transformers
_TIMES_THE_FILE, _FREE = 8, 1_000_000  # numbers: an encoder alone may come without its decoder (Whisper's classifiers)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")


def opening(function: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
    """A function that opens a checkpoint, its first argument: whatever is wrong with the files ends in a ModelError."""

    @wraps(function)
    def opened(*arguments: Arguments.args, **named: Arguments.kwargs) -> Made:
        try:
            return function(*arguments, **named)
        except BROKEN as error:
            what = (
                f"{arguments[0] if arguments else 'the checkpoint'} cannot be opened as a model ({first_line(error)})"
            )
            if isinstance(error, MemoryError) or "allocate memory" in what:
                raise ModelError(f"{what}: there is too little memory for it") from error
            raise ModelError(f"{what}: it is damaged, or made for other tools; copy it again") from error

    return opened


def listed(names: Iterable[Any], most: int = 4) -> str:
    """The first names of many."""
    names = list(map(str, names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "nothing"


def shown(value: Any) -> str:
    """A value of a file, in few words: what stands in it many times may be endless when it is written out."""
    return _SHORT.repr(value)


def first_line(error: BaseException) -> str:
    """What an error says, in one line of bounded length, after its kind where that says more."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:400].rstrip(". ")  # what is wrong, and why
    is_bare = isinstance(error, (LookupError, ImportError, MemoryError, RecursionError, AttributeError)) or not text
    return f"{type(error).__name__}{': ' if text else ''}{text}" if is_bare else text


def check_settings(where: str, said: Mapping) -> None:
    """Refuse settings of a checkpoint's file that would fetch or run code, at any depth.

    Tell of code that is left aside.
    """
    waiting: list[Any] = [said]
    code: set[str] = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        if not isinstance(value, dict):
            continue
        for key, setting in value.items():
            if key.removeprefix("_").removesuffix("_internal") in _OF_CODE and not _is_harmless(setting):
                raise ModelError(
                    f"{where} says {key} = {str(setting)[:80]!r}, by which transformers would fetch or run other "
                    f"code, or read "
                    "other files; layertool never does that: take the line out of a copy if the weights are plain ones"
                )
            if key in ("auto_map", "custom_pipelines", "trust_remote_code") and setting:
                code.add(key)
        waiting += value.values()
    if code:
        tell(
            f"{where} names code of its own ({', '.join(sorted(code))}), which is not run: it is read as a plain "
            f"checkpoint"
        )


def _is_harmless(setting: Any) -> bool:
    return setting in ({}, []) or (not isinstance(setting, (dict, list)) and setting in (None, False, "eager", "sdpa"))


def configuration(kind: str, said: Mapping, *also: str) -> Any:
    """transformers' configuration of a known model type, from those settings alone that it has declared (and
    ``also``).
    """
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[kind]
    # "dtype" is left out: networks are opened in float32, and it is looked up among the names of torch
    declared = {one.name for one in fields(cls)} - {"dtype"} | cls.attribute_map.keys() | {*_OURS, *also}
    return cls(**{key: value for key, value in said.items() if key in declared})


def check_counts(name: str, config: Any, n_tensors: int | None) -> None:
    """Raise ModelError where a configuration counts more parts than its files have tensors, or any network without
    files.
    """
    keys = ["num_hidden_layers", "encoder_layers", "decoder_layers", "num_adapter_layers", "num_feat_extract_layers"]
    if config.model_type == "data2vec-audio":
        keys.append("num_conv_pos_embeddings")  # which counts convolutions there
    for key in keys:
        value = getattr(config, key, None)
        if isinstance(value, int) and value > (1000 if n_tensors is None else n_tensors):
            backed = (
                f"and its weights are {n_tensors} tensors" if n_tensors is not None else "more than any network has"
            )
            raise ModelError(f"{name} says {key} = {value} in its settings, {backed}: copy it again")


def check_size(name: str, config: Any, opener: Any, sizes: Sequence[int] | None) -> None:
    """Raise ModelError, before a network is made, where its configuration asks for much more than its files hold.

    ``sizes``: how many numbers each of their tensors has; without files (None), the network must fit the memory.
    """
    check_counts(name, config, None if sizes is None else len(sizes))
    with shapes_only():
        twin = opener.from_config(copy.deepcopy(config), trust_remote_code=False)
    wanted, memory = sum(one.numel() for one in twin.parameters()), memory_bytes()
    if sizes is not None and wanted > _TIMES_THE_FILE * sum(sizes) + _FREE:
        raise ModelError(
            f"{name} describes a network of {wanted:,} numbers in its config.json, and its weights are "
            f"{sum(sizes):,}: the two do not belong together; copy them again"
        )
    if sizes is None and memory is not None and 4 * wanted > memory:
        raise ModelError(
            f"{name} describes a network of {wanted:,} numbers, {4 * wanted / 1e9:.0f} GB, and this machine has a "
            f"memory of {memory / 1e9:.0f} GB: take a larger one"
        )
