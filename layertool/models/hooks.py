"""Taking layers where they are, with forward hooks: never from a library's list of hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# Called with a layer's name and its frames: a tensor or array (items, frames or tokens, width).
Emit = Callable[[str, Any], None]


@dataclass(frozen=True)
class Tap:
    """Where a layer is taken: what ``module`` returns or is given (the first of several), through ``change`` if there
    is one.
    """

    module: nn.Module
    is_before: bool = False
    change: Callable[[torch.Tensor], torch.Tensor] | None = None


def block_taps(blocks: Sequence[nn.Module], norm: nn.Module | None, letter: str = "T") -> dict[str, Tap]:
    """Taps of blocks: ``T0``, what goes into the first, ``T1`` to ``TL``, and ``final`` where a norm comes last."""
    taps = {f"{letter}0": Tap(blocks[0], is_before=True)}
    taps |= {f"{letter}{k}": Tap(block) for k, block in enumerate(blocks, start=1)}
    return taps if norm is None else taps | {"final": Tap(norm)}


@contextmanager
def hooked(hooks: Iterable[Any]) -> Iterator[None]:
    """Handles of hooks, which are gone after the block."""
    with ExitStack() as stack:
        for handle in hooks:
            stack.callback(handle.remove)
        yield


@contextmanager
def tapped(taps: Mapping[str, Tap], layers: Sequence[str], emit: Emit) -> Iterator[None]:
    """Whatever runs inside the block emits these layers, each where its tap is."""
    with hooked(_handle(taps[name], name, emit) for name in layers):
        yield


def _handle(tap: Tap, name: str, emit: Emit) -> Any:
    def take(_module: nn.Module, inputs: tuple, named: Any, output: Any = None) -> None:
        value = (inputs[0] if inputs else named["hidden_states"]) if tap.is_before else output
        hidden = value[0] if isinstance(value, tuple) else value
        emit(name, tap.change(hidden) if tap.change else hidden)

    register = tap.module.register_forward_pre_hook if tap.is_before else tap.module.register_forward_hook
    return register(take, with_kwargs=True)
