"""The trainings of a compression, one from each pruning to the next, with the models that are saved between them."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from layertool.errors import StoreError
from layertool.files import remove, whole_file
from layertool.models import pruned
from layertool.store.layout import configuration_hash
from layertool.training import compression
from layertool.training.plans import NO_END, PREFIXES, SCORED_SHARE, Pruning
from layertool.training.pretraining import Run
from layertool.training.pretraining_networks import GUMBEL, HEADS, Hubert, Mel, Network, Wav2Vec2
from layertool.training.runs import CHECKPOINTS, RunFolder
from layertool.training.schedules import Record, Schedule, Trigger
from layertool.training.series import write_losses
from layertool.training.session import Diverged, Drawn, Loss, train

PRUNINGS, START, LOSSES = "prunings.json", "start.safetensors", "losses.csv"


@dataclass(frozen=True)
class Saved:
    """A model of a run. ``n_parameters``: of the whole network; of weight pruning, those that it has not made 0."""

    path: Path
    step: int
    n_parameters: int


@dataclass(frozen=True)
class Compressed:
    """A finished run: models in the order in which they were saved; ``n_parameters`` of the network before any
    pruning."""

    folder: Path
    models: list[Saved]
    losses: list[Loss]
    n_parameters: int
    was_there: bool = False


def keep_models(folder: Path, kept: list[str]) -> None:
    """Remove models that are to be made again, and whatever a kill left half-written."""
    for prefix in PREFIXES.values():
        for path in [*folder.glob(f"{prefix}*"), *folder.glob(f".{prefix}*.part")]:
            if path.is_dir() and path.name not in kept:
                remove(path)


class Chain:
    """The trainings of a run, one from each pruning to the next."""

    def __init__(self, folder: RunFolder, run: Run, data, pruning: Pruning, place, progress, source: dict):
        self.folder, self.run, self.data, self.pruning = folder, run, data, pruning
        self.place, self.progress, self.source = place, progress, source
        self.network: Network = run.network
        self.plan, self.record = pruning.begun(), Record(pruning.kind)
        self.step = 0
        self.losses: list[Loss] = []
        self.models: list[Saved] = []
        self.n_parameters = compression.n_parameters(self.network.network).all
        self.id = configuration_hash(folder.decided)
        if isinstance(self.network, Wav2Vec2):
            self.network.network.quantizer.temperature = GUMBEL[1]  # the last: pre-training has come to its end
        self.sparsity = compression.keep_zeros(self.network.network) if pruning.trains else 0.0
        self._read_start()
        keep_models(folder.path, [saved.path.name for saved in self.models])

    def go(self) -> Compressed:
        while True:
            amount = self._train_to_next()
            self._save_model()
            if not amount:
                break
            self._prune(amount)
            if self.pruning.trains:
                self._write_start()
        write_losses(self.folder.path / LOSSES, self.losses)
        facts = {
            "parameters": self.n_parameters,
            "models": [[saved.path.name, saved.step, saved.n_parameters] for saved in self.models],
            "losses": [[loss.step, loss.loss] for loss in self.losses],
        }
        self.folder.finish(keep_checkpoints=False, **facts)
        return Compressed(self.folder.path, self.models, self.losses, self.n_parameters)

    def _train_to_next(self) -> float:
        """Train until something is to be pruned, or to the end; how much is to be pruned, 0 for nothing."""
        plan, total = self.plan, self.pruning.total_steps
        if isinstance(plan, Schedule):
            if not self.pruning.trains:
                return 0 if plan.is_finished else plan.amounts[plan.n_done]
            self._train((total if plan.is_finished else plan.steps[plan.n_done]) - self.step)
            return plan.due(self.step)
        watch = _Triggered(plan, self.network, self.step, total)
        if self.step >= watch.end:
            return 0
        with watch:
            self._train(NO_END, watch)
        return plan.sparsity if watch.fired else 0

    def _train(self, n_steps: int, watch: _Triggered | None = None) -> None:
        if n_steps:
            settings = replace(self.run.settings, steps=n_steps)
            n, seed = settings.examples_of_step, settings.seed
            drawn = Drawn(self.data.make, len(self.run.rows), n * n_steps, seed, first=n * self.step)
            settings = replace(settings, seed=(seed + self.step) % 2**32)  # no dropout is drawn twice
            self.losses += train(
                self.network,
                drawn,
                self.data.collate,
                settings,
                self._checkpoints(),
                self.place,
                first_step=self.step,
                total_steps=self.pruning.total_steps if watch is None else watch.end,
                callbacks=() if watch is None else (watch,),
                progress=self.progress,
            )
            vars(self.network).pop("forward", None)  # accelerate's, of half precision
            self.network.to("cpu").eval()
        self.step = self.step + n_steps if watch is None else watch.stopped

    def _checkpoints(self) -> Path:
        """Of the training that begins now, and of no other run: a kill may come before those are removed."""
        return self.folder.path / CHECKPOINTS / f"after-{self.step}-{self.id[:8]}"

    def _save_model(self) -> None:
        """The network as it has recovered, named by what is left of it."""
        kind, network = self.pruning.kind, self.network.network
        heads, rows = pruned.sizes(network)
        left = {
            "heads": sum(heads),
            "rows": rows[0] if len(set(rows)) == 1 else sum(rows),
            "weights": self.record.amounts[-1] if self.record.amounts else float(f"{self.sparsity:.3g}") or 0,
        }
        path = self.folder.path / f"{PREFIXES[kind]}{left[kind]}"
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(self.network, Mel):
            network.config = replace(network.config, step=self.step)
        facts = {"step": self.step, "made_by": "layertool compress"}
        if self.source.get("normalisation_epsilon") is not None:
            facts["normalisation_epsilon"] = self.source["normalisation_epsilon"]
        pruned.save(network, path, getattr(self.network, "normalises", None), facts)
        if isinstance(self.network, Hubert):
            own = {name: value for name, value in self._state().items() if not name.startswith("network.")}
            with whole_file(path / HEADS) as temporary:
                safetensors.torch.save_file(own, temporary)
        counts = compression.n_parameters(network)
        self.models.append(Saved(path, self.step, int((counts.nonzero if kind == "weights" else counts.all) or 0)))

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}

    def _prune(self, amount: float) -> None:
        kind, network, plan = self.pruning.kind, self.network.network, self.plan
        removed = None
        if kind == "heads":
            scores = self._scores() if self.pruning.score == "data" else None
            removed = compression.prune_heads(network, int(amount), scores, self.pruning.by)
        elif kind == "rows":
            removed = compression.prune_rows(network, int(amount))
        else:
            compression.prune_weights(network, amount)
        if isinstance(plan, Schedule):
            plan.done(plan.steps[plan.n_done])
        self.record.add(self.step if self.pruning.trains else len(self.record.steps), amount, removed)
        self.record.write(self.folder.path / PRUNINGS)

    def _scores(self) -> list[torch.Tensor]:
        """Of heads, from the loss on a quarter of the utterances, in evaluation mode: another quarter each time."""
        data, size = self.data, self.run.settings.batch_size
        n = math.ceil(SCORED_SHARE * len(self.run.rows))
        drawn = Drawn(data.make, len(self.run.rows), n, self.run.settings.seed + 1, first=n * len(self.record.steps))
        network = self.network.to(self.place).eval()
        with compression.DataDrivenScore(network.network) as found:
            for first in range(0, n, size):
                batch = data.collate([drawn[k] for k in range(first, min(n, first + size))])
                network(**{name: value.to(self.place) for name, value in batch.items()})["loss"].backward()
                found.step()
                network.zero_grad()
        network.to("cpu")
        return found.scores()

    def _write_start(self) -> None:
        """What the next training begins with, whole: a kill goes back to here, or to a checkpoint of that training."""
        heads, rows = pruned.sizes(self.network.network)
        record = self.record
        about = {
            "run": self.id,
            "step": self.step,
            "heads": heads,
            "ffn_rows": rows,
            "plan": self.plan.state_dict(),
            "prunings": list(zip(record.steps, record.amounts, record.removed, strict=True)),
            "models": [[saved.path.name, saved.step, saved.n_parameters] for saved in self.models],
            "losses": [asdict(loss) for loss in self.losses],
        }
        with whole_file(self.folder.path / START) as temporary:
            safetensors.torch.save_file(self._state(), temporary, metadata={"layertool": json.dumps(about)})
        shutil.rmtree(self.folder.path / CHECKPOINTS, ignore_errors=True)

    def _read_start(self) -> None:
        """Go on after the last pruning that an earlier process finished, if there is one."""
        path = self.folder.path / START
        if not path.exists():
            return
        try:
            with safetensors.safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["layertool"])
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise StoreError(f"{path} is damaged ({error}): start again with --overwrite") from error
        if about["run"] != self.id:  # of another run: a kill came while this folder was cleared
            path.unlink()
            return
        network = self.network.network
        pruned.resize(network, about["heads"], about["ffn_rows"])
        masks = {key: value for key, value in state.items() if key.endswith(".0.mask")}
        names = [key.removeprefix("network.").replace(".parametrizations", "").removesuffix(".0.mask") for key in masks]
        compression.put_masks(network, dict(zip(names, masks.values(), strict=True)))
        self.network.load_state_dict(state)
        self.plan.load_state_dict(about["plan"])
        for step, amount, removed in about["prunings"]:
            self.record.add(step, amount, removed)
        self.record.write(self.folder.path / PRUNINGS)  # without a pruning that is to be done again
        self.step = about["step"]
        self.models = [Saved(self.folder.path / name, step, n) for name, step, n in about["models"]]
        self.losses = [Loss(**loss) for loss in about["losses"]]


class _Triggered(TrainerCallback, ExportableState):
    """Tells the trigger each step's loss, and ends the training when it fires, or at the end of the run."""

    def __init__(self, trigger: Trigger, network: nn.Module, first: int, total: int):
        self.trigger, self.network, self.first, self.total = trigger, network, first, total
        self.fired, self.stopped = False, first
        self._losses: list[torch.Tensor] = []

    def __enter__(self) -> _Triggered:
        self._hook = self.network.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    @property
    def end(self) -> int:
        """The last step: later by a period for every wait."""
        return self.total + self.trigger.n_waits * self.trigger.period

    def _keep(self, _module, _inputs, output) -> None:
        self._losses.append(output["loss"].detach().float())

    def on_train_begin(self, args, state, control, **_) -> None:
        if state.global_step:  # goes on from a checkpoint
            self.trigger.load_state_dict(state.stateful_callbacks[type(self).__name__]["attributes"]["trigger"])

    def on_step_end(self, args, state, control, **_):
        step, loss = self.first + state.global_step, float(torch.stack(self._losses).mean())
        self._losses = []
        if not math.isfinite(loss):
            raise Diverged(f"training diverged at step {step} (loss {loss}): lower the learning rate")
        self.fired = self.trigger.update(step, loss) == "prune"
        if self.fired or step >= self.end:
            self.stopped = step
            control.should_training_stop = True
            control.should_save = False  # the chain saves what comes of it
        return control

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"trigger": self.trigger.state_dict()}}
