"""What a training will take: parameters, audio in a step, memory, time; measured on one example before it begins."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import send_to_device

from layertool.account import Account, count, duration, number, size
from layertool.machine import resident, there_is
from layertool.models.computing import DTYPES, computing_in
from layertool.training.attention import attention_recomputed

if TYPE_CHECKING:
    from layertool.training.engine import Settings, Task

_DAY = 86_400.0  # seconds
_PER_PARAMETER = 12  # bytes: gradient and two moments
_BACKWARD = 3  # forward and backward passes, in forward passes


@dataclass(frozen=True)
class Outlook:
    """Sizes of a training, and what one forward pass of its longest example took.

    ``needed``: bytes at the peak, on the device that trains; ``there``: that it has; ``of_example``: bytes that are
    kept of the longest example until its gradients are there. ``step_seconds``: estimated.
    """

    n_parameters: int
    n_learning: int
    n_examples: int
    audio_seconds: float
    step_audio_seconds: float
    settings: Settings
    n_processes: int
    fixed: int
    of_example: int
    there: int
    step_seconds: float
    device: torch.device

    @property
    def needed(self) -> int:
        return self.fixed + self.settings.batch_size * self.of_example

    def facts(self, end: int) -> list[tuple[str, str]]:
        """Names and values, for a person."""
        learning = "" if self.n_learning == self.n_parameters else f", {number(self.n_learning)} of them learn"
        each, of = self.settings.examples_of_step, ""
        if self.settings.accumulation > 1:
            of += f" in {self.settings.accumulation} batches"
        if self.n_processes > 1:
            of += f" in {self.n_processes} processes"
        passes, for_one = end * each / self.n_examples, size(self.of_example)
        return [
            ("parameters", f"{number(self.n_parameters)}{learning}"),
            ("examples", f"{number(self.n_examples)}, {duration(self.audio_seconds)} of audio"),
            ("a step", f"{number(each)} examples{of}, about {duration(self.step_audio_seconds)} of audio"),
            ("steps", f"{number(end)}, {passes:.3g} times through the examples"),
            ("memory", f"about {size(self.needed)} on {self.device.type}, {for_one} of it for each example of a batch"),
        ]

    def account(self, title: str, end: int) -> Account:
        """What ``--dry-run`` says."""
        time_here = f"about {_time(end * self.step_seconds)} on {self.device} (one forward pass was timed)"
        return Account(title, [*self.facts(end), ("time here", time_here)], warnings=self.warnings)

    def lines(self, end: int) -> list[str]:
        """The same in sentences, and what to type where it will not fit."""
        facts = dict(self.facts(end))
        lines = ("parameters", "examples"), ("a step", "memory")
        return ["; ".join(f"{name}: {facts[name]}" for name in names) for names in lines] + self.warnings

    @property
    def warnings(self) -> list[str]:
        """What to type where there is not memory enough."""
        settings = self.settings
        if self.needed <= self.there:
            return []
        said = f"a batch of {settings.batch_size} needs about {size(self.needed)}, and there are {size(self.there)}"
        each = settings.examples_of_step // self.n_processes
        sizes = [n for n in range(1, each + 1) if each % n == 0 and self.fixed + n * self.of_example <= self.there]
        if not sizes:
            return [f"{said}: take a smaller network, or shorter crops"]
        return [f"{said}: --batch-size {sizes[-1]} --accumulation {each // sizes[-1]} makes the same steps and fits"]

    def after_first(self, seconds: float, n_left: int) -> str:
        """What the first step of this process has shown."""
        most = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else resident(at_most=True)
        to_come = f": about {_time(seconds * n_left)} for the {count(n_left, 'step')} to come" if n_left else ""
        return f"the first step took {duration(seconds)}, with {size(most)} of memory at most{to_come}"


def _time(seconds: float) -> str:
    return duration(seconds) if seconds < 3 * _DAY else f"{seconds / _DAY:.0f} days"


def measured(task: Task, settings: Settings, device: torch.device, n_processes: int = 1) -> Outlook:
    """One forward pass of the longest example, on the device that trains."""
    network, lengths = task.network.train(), np.asarray(task.lengths, dtype=float)
    batch = send_to_device(task.collate([task.example(int(lengths.argmax()), np.random.default_rng(0))]), device)
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    own_tensors = *network.parameters(), *network.buffers(), *filter(torch.is_tensor, batch.values())
    own = {value.untyped_storage().data_ptr() for value in own_tensors}
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    begun = time.monotonic()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
    with attention_recomputed(device), hooks, computing_in(device, DTYPES[settings.precision]):
        float(task.loss(batch).detach())
    seconds = time.monotonic() - begun
    for name, value in network.named_buffers():
        value.copy_(buffers[name])
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    n_all = sum(p.numel() for p in network.parameters())
    is_cuda = device.type == "cuda"
    fixed = _PER_PARAMETER * learning + (4 * n_all if is_cuda else resident())
    each = settings.examples_of_step * float(lengths.mean())
    return Outlook(
        n_all,
        learning,
        len(lengths),
        float(lengths.sum()),
        each,
        settings,
        n_processes,
        fixed,
        sum(kept.values()),
        torch.cuda.mem_get_info(device)[1] if is_cuda else there_is(),
        _BACKWARD * seconds * each / float(lengths.max() or 1) / n_processes,
        device,
    )
