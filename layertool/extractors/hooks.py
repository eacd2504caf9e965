"""Taking layers where they are, with forward hooks: never from a library's list of hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from layertool.extractors.base import Emit


@dataclass(frozen=True)
class Hook:
    """A function at one module, before or after its forward."""

    module: nn.Module
    function: Callable
    is_before: bool


def after(
    module: nn.Module, emit: Emit, name: str, change: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> Hook:
    """Emit what ``module`` returns (the first of a tuple) as layer ``name``, through ``change`` if given."""

    def hook(_module, _inputs, output) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        emit(name, change(hidden) if change else hidden)

    return Hook(module, hook, False)


def before(module: nn.Module, emit: Emit, name: str) -> Hook:
    """Emit what goes into ``module`` as layer ``name``."""

    def hook(_module, inputs) -> None:
        emit(name, inputs[0])

    return Hook(module, hook, True)


@contextmanager
def hooked(hooks: Sequence[Hook]) -> Iterator[None]:
    """The hooks are in place inside the block and gone after it."""
    with ExitStack() as stack:
        for hook in hooks:
            register = hook.module.register_forward_pre_hook if hook.is_before else hook.module.register_forward_hook
            stack.callback(register(hook.function).remove)
        yield
