"""What all trainings share: transformers' Trainer over data in a fixed order, checkpoints, models on the way, losses.

A run that is stopped goes on from its last whole checkpoint with the numbers that it would have had: every example that
is drawn, cropped or masked at random is a function of the seed and of its place in the run, not of what was drawn
before.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from layertool.errors import ModelError, UsageError
from layertool.files import remove, whole_folder
from layertool.models.computing import DTYPES, choose, sound
from layertool.training.runs import mark_whole, whole_checkpoints

SCHEDULES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
}
Progress = Callable[[float, float], object]  # (steps done, in all)
Make = Callable[[int, np.random.Generator], dict[str, Any]]  # (number of the example, what is drawn for it)
Collate = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


class Diverged(ModelError):
    """Training led to a loss or weights that are no numbers."""


@dataclass(frozen=True)
class Settings:
    """How weights are optimised: AdamW with ``weight_decay`` (0 is Adam), warm-up in steps, then ``schedule``.

    A step is ``batch_size`` examples, ``accumulation`` times. ``max_gradient_norm`` 0 never clips. ``precision``: of
    the computation; the weights stay in float32. ``save_steps``: a model, and a checkpoint to go on from, every so many
    steps.
    """

    steps: int
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    schedule: str = "constant"
    batch_size: int = 4
    accumulation: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_gradient_norm: float = 10.0
    save_steps: int = 1000
    log_steps: int = 50
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UsageError(f"'{self.schedule}' is no schedule: choose {', '.join(SCHEDULES)}")
        for what, number, fits, wanted in (
            ("number of steps", self.steps, self.steps >= 0, "0 or more"),
            ("learning rate", self.learning_rate, 0 < self.learning_rate < math.inf, "a number above 0"),
            ("warm-up", self.warmup_steps, self.warmup_steps >= 0, "steps, 0 or more"),
            ("batch size", self.batch_size, self.batch_size >= 1, "1 or more"),
            ("accumulation", self.accumulation, self.accumulation >= 1, "1 or more"),
            ("weight decay", self.weight_decay, self.weight_decay >= 0, "0 or more"),
            ("largest gradient norm", self.max_gradient_norm, self.max_gradient_norm >= 0, "0 (never clipped) or more"),
            ("number of steps between models", self.save_steps, self.save_steps >= 1, "1 or more"),
            ("number of steps between losses", self.log_steps, self.log_steps >= 1, "1 or more"),
            ("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295"),
        ):
            if not fits:
                raise UsageError(f"{number} is no {what}: give {wanted}")

    @property
    def examples_of_step(self) -> int:
        return self.batch_size * self.accumulation


class Drawn(Dataset):
    """The examples of a run in their order: every example once in each pass, each pass in an order of its own.

    ``make(number, random)`` gives one example; ``random`` depends on ``seed`` and on the place in the run only.
    ``first``: place of the first, where a run goes on with another network after so many examples.
    """

    def __init__(self, make: Make, n_examples: int, n_items: int, seed: int, first: int = 0):
        if n_examples < 1:
            raise UsageError("there is nothing to train on: take a corpus with utterances")
        self.make, self.n_examples, self.n_items, self.seed, self.first = make, n_examples, n_items, seed, first
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, place: int) -> dict[str, Any]:
        if not 0 <= place < self.n_items:
            raise IndexError(place)
        at = self.first + place
        turn, within = divmod(at, self.n_examples)
        if self._order[0] != turn:
            self._order = turn, np.random.default_rng([self.seed, turn]).permutation(self.n_examples)
        return self.make(int(self._order[1][within]), np.random.default_rng([self.seed, 1, at]))


@dataclass(frozen=True)
class Loss:
    """Mean training loss of the steps since the one before."""

    step: int
    loss: float


def place_of(device: str, precision: str) -> torch.device:
    """Where training runs. Raises UsageError for a GPU that is not the first, and a precision that it has not."""
    place, _ = choose(device, precision)
    if place.type == "cuda" and (place.index or 0) > 0:
        raise UsageError(
            f"training takes the first GPU that it sees: type CUDA_VISIBLE_DEVICES={place.index} before it"
        )
    return place


class _InOrder(Trainer):
    """The rest is transformers'."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(dataset)  # type: ignore[arg-type]


class _Watch(TrainerCallback):
    """Tells of steps, stops a run that diverges, and writes models on the way."""

    def __init__(self, progress: Progress | None, first: int, total: int, write: Callable[[int], object] | None):
        self.progress, self.first, self.total, self.write = progress, first, total, write

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last steps have a loss, too, where logs do not fall on the end
        if self.progress:
            self.progress(self.first + state.global_step, self.total)

    def on_log(self, args, state, control, logs=None, **_) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise Diverged(
                f"training diverged before step {self.first + state.global_step} (loss {loss}): lower the learning rate"
            )

    def on_save(self, args, state, control, **_) -> None:
        if self.write is not None:
            self.write(self.first + state.global_step)
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        mark_whole(checkpoint)
        for other in Path(args.output_dir).glob("checkpoint-*"):
            if other != checkpoint:
                shutil.rmtree(other)


def train(
    network: nn.Module,
    data: Dataset,
    collate: Collate,
    settings: Settings,
    checkpoints: Path,
    place: torch.device,
    write: Callable[[int], object] | None = None,
    first_step: int = 0,
    total_steps: int | None = None,
    callbacks: tuple[TrainerCallback, ...] = (),
    progress: Progress | None = None,
) -> list[Loss]:
    """Train ``network``, whose ``forward(**batch)`` gives {"loss": …}, in place for ``settings.steps`` steps; the
    losses.

    ``data``: as many examples as all steps take (``Drawn``). ``checkpoints``: folder of the Trainer's checkpoints; the
    last whole one is gone on from. ``write(step)`` is called when a checkpoint is saved: the network has the weights of
    that step. ``first_step``: steps that other networks took before. ``callbacks`` that keep something between steps
    are transformers' ``ExportableState``. Random states of the process are left as they were.
    Raises Diverged for a loss or weights that are not finite.
    """
    if not settings.steps:
        return []
    with random_states_kept(), sound(place, DTYPES[settings.precision]):
        trainer = _InOrder(
            model=network,
            args=_arguments(settings, checkpoints, place),
            train_dataset=data,
            data_collator=collate,
            callbacks=[_Watch(progress, first_step, total_steps or first_step + settings.steps, write), *callbacks],
        )
        trainer.remove_callback(PrinterCallback)  # it prints every log as a dict
        whole = list(whole_checkpoints(checkpoints).values())
        trainer.train(resume_from_checkpoint=str(whole[-1]) if whole else None)
    check_weights(network, "after training")
    return [
        Loss(first_step + int(entry["step"]), entry["loss"]) for entry in trainer.state.log_history if "loss" in entry
    ]


def check_weights(network: nn.Module, when: str) -> None:
    """Raise Diverged for weights that are not finite."""
    if not all(bool(parameter.isfinite().all()) for parameter in network.parameters()):
        raise Diverged(f"the weights are not finite {when}: lower the learning rate")


def _arguments(settings: Settings, checkpoints: Path, place: torch.device) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type=SCHEDULES[settings.schedule],
        optim="adamw_torch",
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        adam_epsilon=settings.epsilon,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=settings.precision == "bfloat16",
        fp16=settings.precision == "float16",
        use_cpu=place.type == "cpu",
        save_strategy="steps",
        save_steps=min(settings.save_steps, settings.steps),
        logging_strategy="steps",
        logging_steps=min(settings.log_steps, settings.steps),
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=place.type == "cuda",
        eval_strategy="no",
        logging_nan_inf_filter=False,
    )
    return arguments


@contextmanager
def random_states_kept() -> Iterator[None]:
    """The Trainer seeds the generators of the whole process: leave them as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def write_model(run: Path, step: int, save: Callable[[Path], object]) -> Path:
    """Write a model as ``run/step-STEP``, whole or not at all: a folder that every command takes as MODEL."""
    out = run / f"step-{step}"
    remove(out)
    with whole_folder(out) as part:
        save(part)
    return out
