"""One loop for every training: what is trained is a ``Task``, how is ``Settings``, where a run's folder.

A run that is stopped goes on with the numbers it would have had, and N processes (``torchrun``, ``accelerate launch``)
give those of one with N times the accumulation: which examples make a batch, what is drawn for each, and what dropout
draws in a batch are functions of the seed and the place in the run; the rest is in one file, written at every save.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple, dataclass, fields, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device, set_seed
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import get_scheduler
from transformers.trainer_pt_utils import get_parameter_names

from layertool.errors import LayertoolError, MissingExtraError, ModelError, UsageError
from layertool.files import read_json, whole_file
from layertool.models.computing import DTYPES, choose, computing_in
from layertool.training.attention import attention_recomputed
from layertool.training.outlook import Outlook, measured
from layertool.training.runs import RunFolder, models_of, plain
from layertool.training.tasks.base import Logger, Progress, Say

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
LOSSES, LOGS = "losses.csv", "logs"
MOST_LOG_STEPS = 50
LOGGERS = get_args(Logger)
_NOT_DECAYED = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")  # as transformers has it
_WAIT = timedelta(hours=12)  # for the first process, which clusters targets and transcribes dev parts
Item = dict[str, Any]


class Diverged(ModelError):
    """Training led to a loss or weights that are no numbers."""


@dataclass(frozen=True)
class Settings:
    """How weights are optimised: AdamW with ``weight_decay`` (0 is Adam), warm-up in steps, then ``schedule``.

    A step is ``batch_size`` examples, ``accumulation`` times. ``bucket_steps``: the examples of so many steps are
    sorted by length before they are cut into batches, which come in an order drawn anew; 1: as they are drawn.
    ``max_gradient_norm`` 0 never clips. ``precision``: of the computation; the weights stay in float32. ``save_steps``:
    a model, and a checkpoint to go on from, every so many steps.
    """

    steps: int
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    schedule: str = "constant"
    batch_size: int = 4
    accumulation: int = 1
    bucket_steps: int = 16
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_gradient_norm: float = 10.0
    save_steps: int = 1000
    seed: int = 0
    precision: str = "float32"

    @property
    def examples_of_step(self) -> int:
        return self.batch_size * self.accumulation

    @property
    def log_steps(self) -> int:
        """Steps between losses: up to 50, and a whole number of times in ``save_steps``."""
        return next(n for n in range(min(MOST_LOG_STEPS, self.save_steps), 0, -1) if self.save_steps % n == 0)


def processes(device: str, precision: str, log: Sequence[str], folder: Path) -> Accelerator:
    """This process, and the others that a launcher started. Raises UsageError for a device or log that is not there."""
    place, _ = choose(device, precision)
    if place.type == "cuda" and (place.index or 0) > 0:
        raise UsageError(
            f"training takes the first GPU that it sees: type CUDA_VISIBLE_DEVICES={place.index} before it"
        )
    for name in log:
        if name not in LOGGERS:
            raise UsageError(f"'{name}' is no log: choose {' or '.join(LOGGERS)}")
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, "log", f"--log {name}")
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in this process, on another device
    handlers: list = [InitProcessGroupKwargs(timeout=_WAIT)]
    return Accelerator(
        cpu=place.type == "cpu", log_with=list(log) or None, project_dir=folder, kwargs_handlers=handlers
    )


@dataclass(frozen=True)
class Loss:
    """Mean training loss of the steps since the one before, and learning rate and norm of the gradient at the last."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float


@dataclass(frozen=True)
class Trained:
    """A finished run.

    ``facts``: what its record says, as JSON has it; ``losses``; ``models``: of the steps that were kept, the first one
    first; ``was_there``: whether an earlier process had finished it.
    """

    folder: Path
    facts: dict
    was_there: bool = False

    @property
    def losses(self) -> list[Loss]:
        return [Loss(*loss) for loss in self.facts["losses"]]

    @property
    def models(self) -> list[Any]:
        return list(models_of(self.folder).values())

    def check(self) -> None:
        """Look at everything; raises KeyError, TypeError or ValueError for a damaged record."""
        self.losses  # noqa: B018


class Task:
    """What is trained: a network, what it learns from, and what is written of it.

    ``kind`` and ``record`` name the training and its JSON file; ``outputs``: patterns of the files that it writes
    besides. ``lengths``: of each example, in seconds. ``whole_passes``: a step never has examples of two passes, and
    the last of a pass may have fewer. ``decided``: what decides the numbers, beside the settings, as JSON has it.
    """

    kind: ClassVar[str]
    record: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]] = ()
    whole_passes: ClassVar[bool] = False
    result: ClassVar[type[Trained]] = Trained
    network: nn.Module
    lengths: Sequence[float]
    decided: dict
    folder: RunFolder

    def settled(self, settings: Settings) -> Settings:
        """The settings of a run whose step has so many examples, in all processes together."""
        return settings

    def is_there(self) -> bool:
        """Whether a finished run still has what it made."""
        return True

    def begin(self, folder: RunFolder, say: Say) -> None:
        """Get ready in a folder that this process holds, before the first step or where an earlier run stopped."""

    def rehearse(self) -> None:
        """Get ready to make examples, without a folder: what they hold besides what is heard means nothing."""

    def example(self, number: int, random: np.random.Generator) -> Item:
        """One example; ``random`` depends on the seed and the place in the run only."""
        raise NotImplementedError

    def collate(self, items: list[Item]) -> dict[str, Any]:
        """A batch."""
        raise NotImplementedError

    def loss(self, batch: dict[str, Any]) -> torch.Tensor:
        """The loss of a batch."""
        return self.network(**batch)["loss"]

    def before_step(self, step: int) -> None:
        """``step`` steps are done, and another one begins."""

    def after_step(self, step: int, loss: float) -> bool:
        """Whether the network has other parameters from now on."""
        return False

    def end(self, settings: Settings) -> int:
        """The last step, as far as it is known."""
        return settings.steps

    def save(self, step: int, is_last: bool) -> None:
        """Write what there is of a step; a checkpoint follows."""

    def start(self) -> None:
        """Nothing is done yet: write what there is before the first step."""

    def goes_on(self, step: int | None) -> None:
        """Remove what was written after ``step``, from which a stopped run goes on; None: it begins."""

    def state(self) -> dict:
        """What a checkpoint keeps, as JSON can have it."""
        return {}

    def load_state(self, state: dict, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from there; the network gets its ``tensors`` afterwards."""

    def facts(self) -> dict:
        """What the record of a finished run says, after the last model is in its place."""
        return {}

    def tidy(self, facts: dict) -> None:
        """Remove what a run that is finished, as ``facts`` say, needs no more."""


class Order(Dataset):
    """The examples of a run by their place: every example once in each pass, each pass in an order of its own."""

    def __init__(self, task: Task, settings: Settings):
        self.task, self.settings, self.n = task, settings, len(task.lengths)
        self._passes: dict[int, np.ndarray] = {}
        self._buckets: dict[int, list[list[int]]] = {}

    def number(self, place: int) -> int:
        """Which example has a place."""
        turn, within = divmod(place, self.n)
        if turn not in self._passes:
            drawn = np.random.default_rng([self.settings.seed, turn]).permutation(self.n)
            self._passes = {**dict(list(self._passes.items())[-2:]), turn: drawn}
        return int(self._passes[turn][within])

    def item(self, place: int) -> Item:
        """The example at a place."""
        return self.task.example(self.number(place), np.random.default_rng([self.settings.seed, 1, place]))

    def __getitem__(self, place: int) -> Item | LayertoolError:
        try:
            return self.item(place)
        except LayertoolError as error:  # a worker of the loader would put its traceback into the message
            return error

    def batches(self, step: int) -> list[list[int]]:
        """The places of each batch of the step after ``step`` steps."""
        size, each = self.settings.batch_size, self.settings.examples_of_step
        if self.task.whole_passes:
            turn, within = divmod(step, self.steps_of_pass)
            stop = min(self.n, (within + 1) * each)
            places = range(turn * self.n + within * each, turn * self.n + stop)
            return [list(places[first : first + size]) for first in range(0, len(places), size)]
        bucket, within = divmod(step, self.settings.bucket_steps)
        if bucket not in self._buckets:
            self._buckets = {bucket: self._bucket(bucket)}
        n = self.settings.accumulation
        return self._buckets[bucket][n * within : n * (within + 1)]

    @property
    def steps_of_pass(self) -> int:
        return math.ceil(self.n / self.settings.examples_of_step)

    def _bucket(self, bucket: int) -> list[list[int]]:
        size, n = self.settings.batch_size, self.settings.examples_of_step * self.settings.bucket_steps
        places = list(range(bucket * n, (bucket + 1) * n))
        if self.settings.bucket_steps == 1:
            return [places[first : first + size] for first in range(0, n, size)]
        places.sort(key=lambda place: self.task.lengths[self.number(place)])
        order = np.random.default_rng([self.settings.seed, 3, bucket]).permutation(n // size)
        return [places[size * k : size * (k + 1)] for k in order]

    def loader(self, first: int, rank: int, n_processes: int, workers: int, pin: bool) -> Iterator:
        """The batches of one of several processes from the step after ``first`` on, without an end."""
        own = (places for step in itertools.count(first) for places in self.batches(step)[rank::n_processes])
        return iter(DataLoader(self, batch_sampler=own, num_workers=workers, collate_fn=self._collate, pin_memory=pin))

    def _collate(self, items: list) -> dict[str, Any] | LayertoolError:
        failed = next((item for item in items if isinstance(item, LayertoolError)), None)
        return self.task.collate(items) if failed is None else failed


class Loop:
    """A training between its first step in this process and its last."""

    def __init__(self, task: Task, settings: Settings, accelerator: Accelerator, workers: int):
        self.task, self.settings, self.accelerator = task, settings, accelerator
        self.device, self.order = accelerator.device, Order(task, settings)
        self.dtype, self.workers = DTYPES[settings.precision], workers
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.step, self.highest_rate = 0, 0.0
        self.losses: list[Loss] = []
        self.window: list[float] = []

    def renew(self) -> None:
        """A new optimiser and schedule, for the parameters that the network has now."""
        settings, network = self.settings, self.task.network
        decayed = set(get_parameter_names(network, [nn.LayerNorm], list(_NOT_DECAYED)))
        learning = {name: value for name, value in network.named_parameters() if value.requires_grad}
        groups = [
            {"params": [learning[name] for name in learning if (name in decayed) is decays], "weight_decay": decay}
            for decays, decay in ((True, settings.weight_decay), (False, 0.0))
        ]
        self.parameters = list(learning.values())
        self.optimiser = torch.optim.AdamW(groups, settings.learning_rate, settings.betas, settings.epsilon)
        name = SCHEDULES[settings.schedule]
        self.rate = get_scheduler(name, self.optimiser, settings.warmup_steps, settings.steps)

    @cached_property
    def batches(self) -> Iterator:
        alike = self.accelerator
        pin = self.device.type == "cuda"
        return self.order.loader(self.step, alike.process_index, alike.num_processes, self.workers, pin)

    def take_step(self) -> tuple[float, float]:
        """The loss of a step, and the norm of its gradient before it is clipped. Raises Diverged."""
        task, network = self.task, self.task.network.train()
        task.before_step(self.step)
        all_batches = self.order.batches(self.step)
        total = torch.zeros((), device=self.device)
        for places in all_batches[self.accelerator.process_index :: self.accelerator.num_processes]:
            batch = next(self.batches)
            if isinstance(batch, LayertoolError):
                raise batch
            batch = send_to_device(batch, self.device)
            set_seed(int(np.random.default_rng([self.settings.seed, 2, places[0]]).integers(2**32)))
            with attention_recomputed(self.device), computing_in(self.device, self.dtype):
                loss = task.loss(batch)
            self.scaler.scale(loss / len(all_batches)).backward()
            total += loss.detach().float() / len(all_batches)
        self._gather(total)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.settings.max_gradient_norm or math.inf)
        if not math.isfinite(value := float(total)):
            raise Diverged(f"training diverged at step {self.step + 1} (loss {value}): lower the learning rate")
        self.highest_rate = max(self.highest_rate, *self.rate.get_last_lr())
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # else the step was left out
            self.rate.step()
        self.optimiser.zero_grad()
        self.step += 1
        return value, float(norm)

    def _gather(self, total: torch.Tensor) -> None:
        """The sums of all processes' gradients and losses in each of them."""
        if self.accelerator.num_processes == 1:
            return
        there = torch.tensor([p.grad is not None for p in self.parameters], dtype=torch.float32, device=self.device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        flat = torch.cat([total.reshape(1), there, *(one.flatten() for one in gradients)])
        torch.distributed.all_reduce(flat)
        total.copy_(flat[0])
        there, values = flat[1 : 1 + len(there)], flat[1 + len(there) :].split([p.numel() for p in self.parameters])
        for parameter, is_there, value in zip(self.parameters, there.tolist(), values, strict=True):
            parameter.grad = value.view_as(parameter).clone() if is_there else None

    def check_weights(self) -> None:
        """Raise Diverged for weights that are not finite."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.task.network.parameters()):
            raise Diverged(f"the weights are not finite at step {self.step}: lower the learning rate")

    # --- checkpoints --------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, torch.Tensor]:
        """What training changes of the network; a tensor with two names is there once."""
        network = self.task.network
        learned = {name: value for name, value in network.named_parameters() if value.requires_grad}
        return learned | dict(network.named_buffers())

    def write(self, folder: RunFolder) -> None:
        """Everything that the next step needs, as one file; then the one before it goes."""
        tensors = {f"network.{name}": value.detach() for name, value in self._tensors().items()}
        for k, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{k}.{name}": value for name, value in state.items()}
        about = {
            "step": self.step,
            "task": self.task.state(),
            "losses": [astuple(loss) for loss in self.losses],
            "window": self.window,
            "highest_rate": self.highest_rate,
            "schedule": self.rate.state_dict(),
            "rates": self.rate.get_last_lr(),
            "scaler": self.scaler.state_dict(),
        }
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        folder.write_checkpoint(self.step, tensors, about)

    def read(self, folder: RunFolder) -> None:
        """Go on from the last whole checkpoint, if there is one."""
        found = folder.read_checkpoint()
        if folder.leads:
            self.task.goes_on(None if found is None else found[0]["step"])
        if found is None:
            self.task.start()
            self.renew()
        else:
            about, tensors = found
            network = {name.removeprefix("network."): value for name, value in tensors.items() if name[0] == "n"}
            self.task.load_state(about["task"], network)
            self.task.network.to(self.device)
            self.renew()
            with torch.no_grad():
                for name, value in self._tensors().items():
                    value.copy_(network[name])
            state: dict[int, dict] = {}
            for name, value in tensors.items():
                if name[0] == "o":
                    _, k, part = name.split(".")
                    state.setdefault(int(k), {})[part] = value
            self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
            self.rate.load_state_dict(about["schedule"])
            for group, rate in zip(self.optimiser.param_groups, about["rates"], strict=True):
                group["lr"] = rate
            self.scaler.load_state_dict(about["scaler"])
            self.step, self.window, self.highest_rate = about["step"], about["window"], about["highest_rate"]
            self.losses = [Loss(*loss) for loss in about["losses"]]

    def write_losses(self, table: Path) -> None:
        """Write the losses so far, those that a stopped run had before among them."""
        with whole_file(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([one.name for one in fields(Loss)])
            writer.writerows([[loss.step, *map(repr, astuple(loss)[1:])] for loss in self.losses])

    # --- the loop -----------------------------------------------------------------------------------

    def go(self, folder: RunFolder, outlook: Outlook | None, progress: Progress | None, say: Say) -> None:
        """Train to the end, from wherever it stands."""
        task, settings, begun, first = self.task, self.settings, time.monotonic(), self.step
        if folder.leads:
            self.write_losses(folder.path / LOSSES)
        while self.step < task.end(settings):
            loss, norm = self.take_step()
            self.window.append(loss)
            changed = task.after_step(self.step, loss)
            is_last = self.step >= task.end(settings)
            if changed or is_last or self.step % settings.log_steps == 0:
                mean = sum(self.window) / len(self.window)
                self.losses.append(Loss(self.step, mean, self.rate.get_last_lr()[0], norm))
                self.window = []
                if folder.leads:
                    self.write_losses(folder.path / LOSSES)
                values = asdict(self.losses[-1])
                self.accelerator.log(values, step=values.pop("step"))
            if changed:
                self.renew()
            if changed or is_last or self.step % settings.save_steps == 0:
                self.check_weights()
                if folder.leads:
                    task.save(self.step, is_last)
                    self.write(folder)
            if self.step == first + 1 and outlook is not None:
                say(outlook.after_first(time.monotonic() - begun, task.end(settings) - self.step))
            if progress is not None:
                progress(self.step, task.end(settings), f"loss {loss:.3f}")
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if first < self.step and not self.highest_rate:
            say(
                f"nothing was learned: the learning rate was 0 in every step; give more than {self.step}, or a shorter "
                "warm-up"
            )


def run(
    task: Task,
    settings: Settings,
    out: Path,
    device: str = "auto",
    workers: int | None = None,
    log: Sequence[str] = (),
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Any:
    """Train a task into the folder ``out``, or go on there: the ``Trained`` of its task; with ``dry_run`` what it would
    take, as an ``Account``.

    ``device``: auto, cpu, cuda or mps. ``workers``: processes that decode audio beside the step, None: 2 with a GPU,
    else 0. ``log``: names of LOGGERS that are told the losses, beside losses.csv. ``progress`` is told the steps done,
    of how many, and the last loss in words; ``say`` what there is to know besides.
    Random states of the process are left as they were. Raises Diverged for a loss or weights that are not finite, and
    StoreError for a folder of something else.
    """
    accelerator = processes(device, settings.precision, log, out)
    leads, n_processes = accelerator.is_main_process, accelerator.num_processes
    settings = task.settled(replace(settings, accumulation=settings.accumulation * n_processes))
    decided = plain({"kind": task.kind, **task.decided, "settings": asdict(settings)})
    told: Say = say if say and leads else lambda _text: None
    with random_states_kept(), ExitStack() as held:
        if dry_run:
            task.rehearse()
            task.network.to(accelerator.device)
            found = measured(task, settings, accelerator.device, n_processes)
            return found.account(f"{out} (nothing was written)", task.end(settings))
        for turn in (True, False):  # the first process holds the folder before the others read what it wrote
            if leads is turn:
                folder = held.enter_context(RunFolder(out, task.record, decided, task.outputs, overwrite, leads))
                task.folder = folder
                if folder.finished is not None and not task.is_there():
                    folder.restart()
                if folder.finished is None:
                    task.network.to(accelerator.device)
                    task.begin(folder, told)
            accelerator.wait_for_everyone()
        if folder.finished is not None:
            if leads:
                folder.tidy()
                task.tidy(folder.finished)
            return folder.result(task.result)
        if workers is None:
            workers = 2 if accelerator.device.type == "cuda" else 0
        loop = Loop(task, settings, accelerator, workers)
        loop.read(folder)
        outlook: Outlook | None = None
        if task.end(settings) > loop.step:
            if not len(task.lengths):
                raise UsageError("there is nothing to train on: take a corpus with utterances")
            outlook = measured(task, settings, accelerator.device, n_processes)
            for line in outlook.lines(task.end(settings)):
                told(line)
        if log and leads:
            accelerator.init_trackers(
                LOGS, init_kwargs={"wandb": {"dir": str(out), "mode": "offline", "name": out.name}}
            )
        loop.go(folder, outlook, progress if leads else None, told)
        if leads:
            facts = task.facts() | {"losses": [list(astuple(loss)) for loss in loop.losses]}
            folder.finish(**facts)
            task.tidy(facts)
        accelerator.wait_for_everyone()
    return task.result(out, read_json(folder.file, "the record of a training run"))


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Every batch seeds the generators of the whole process: leave them as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
