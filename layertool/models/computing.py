"""Where and in which precision networks compute."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from layertool.errors import UsageError, tell

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str) -> torch.device:
    """'auto', 'cpu', 'cuda', 'cuda:N' or 'mps' as a torch device. Raises UsageError when it is not there."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"'{device}' is no device: choose auto, cpu, cuda:N or mps") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(
        chosen.type
    )
    if there is None or (chosen.index or 0) >= there:
        raise UsageError(f"device '{device}' is not on this machine: choose auto or cpu")
    return chosen


def choose(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Where a network computes (``choose_device``), and in which dtype, by its name.

    Raises UsageError for an unknown one, or float16 on a CPU.
    """
    place = choose_device(device)
    if dtype not in DTYPES:
        raise UsageError(f"'{dtype}' is no compute dtype: choose {', '.join(DTYPES)}")
    if place.type == "cpu" and dtype == "float16":
        raise UsageError("float16 compute is slow and coarse on a CPU: choose --dtype float32 or bfloat16")
    return place, DTYPES[dtype]


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Weights inside are drawn from ``seed``; the process's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def shapes_only() -> Iterator[None]:
    """Networks made inside take no memory and draw nothing."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield


@cache
def _narrow_groups_are_sound() -> bool:
    """Whether grouped convolutions of few channels are right in bfloat16 on this CPU.

    oneDNN's for Intel AMX gives noise (100 % off) with four channels a group and an even kernel of 16 or more, which is
    the convolution of positions in small models (torch 2.13, Xeon with amx_bf16).
    """
    with drawing(0), torch.no_grad():
        rows, layer = torch.randn(1, 64, 64), torch.nn.Conv1d(64, 64, 16, groups=16, padding=8)
        right = layer(rows)
        return bool((layer.bfloat16()(rows.bfloat16()).float() - right).norm() < 0.05 * right.norm())


@contextmanager
def sound(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Without oneDNN where it is wrong: slower, which is told."""
    wrong = device.type == "cpu" and dtype == torch.bfloat16 and not _narrow_groups_are_sound()
    if wrong:
        tell("bfloat16 is computed without oneDNN, which is wrong on this CPU: --dtype float32 is faster")
    was = bool(torch.backends.mkldnn.enabled)
    setattr(torch.backends.mkldnn, "enabled", was and not wrong)  # noqa: B010 - a property that its types do not know
    try:
        yield
    finally:
        setattr(torch.backends.mkldnn, "enabled", was)  # noqa: B010


@contextmanager
def computing_in(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Autocast to ``dtype``; float32 is true float32 on a GPU too (cuDNN's convolutions would use TF32)."""
    is_plain = dtype == torch.float32
    with (
        sound(device, dtype),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=not is_plain),
        torch.autocast(device.type, dtype, enabled=not is_plain),
        warnings.catch_warnings(),
    ):
        # WavLM hands torch a boolean and a float mask together
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
        yield
