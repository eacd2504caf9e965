"""Iterative pruning: train with the loss of pre-training, save the recovered network, take a part away, go on (spec speat.md 4).

A run is a chain of trainings, one from each pruning to the next; each begins with a new optimiser, as the network's parameters
are others. What is saved is the network just before the next pruning, and at the end.

from layertool.training import compressing, plans
about = plans.look("run/step-421000")
plan, total_steps = plans.usual_plan("heads", about)                 # of Lin et al. 2024
compressing.compress("run/step-421000", corpus, "pruned", plans.Pruning("heads", plan, total_steps))
compressing.compress("run/step-421000", None, "one-shot", plans.Pruning("heads", plan, 0, trains=False))
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from layertool.corpora.corpus import Corpus
from layertool.errors import ModelError, StoreError, UsageError
from layertool.files import whole_file
from layertool.models import pruned
from layertool.models.checkpoints import load_model, read_config
from layertool.store import FeatureStore
from layertool.store.layout import configuration_hash
from layertool.training import compression
from layertool.training.opening import check_apart
from layertool.training.plans import (
    NO_END,
    PREFIXES,
    SCORED_SHARE,
    About,
    Pruning,
    look,
    usual_settings,
)
from layertool.training.pretraining import TARGETS, Recipe, Run, data_of, described, prepare
from layertool.training.pretraining_networks import (
    GUMBEL,
    HEADS,
    Hubert,
    Mel,
    Network,
    Wav2Vec2,
    normalises_of,
    reopen,
)  # fmt: skip
from layertool.training.pretraining_recipes import MODELS
from layertool.training.runs import CHECKPOINTS, RunFolder, whole_checkpoints
from layertool.training.schedules import (
    Record,
    Schedule,
    Trigger,
)  # fmt: skip
from layertool.training.series import log_steps, write_losses
from layertool.training.session import (
    Diverged,
    Drawn,
    Loss,
    Progress,
    Settings,
    place_of,
    random_states_kept,
    train,
)  # fmt: skip

N_ASKED, WORSE = 32, 1.35  # examples for a look at a model; times chance, where no untrained network is
RECORD, PRUNINGS, START, LOSSES = "compress.json", "prunings.json", "start.safetensors", "losses.csv"


@dataclass(frozen=True)
class Saved:
    """A model of a run. ``n_parameters``: of the whole network; of weight pruning, those that it has not made 0."""

    path: Path
    step: int
    n_parameters: int


@dataclass(frozen=True)
class Compressed:
    """A finished run: models in the order in which they were saved; ``n_parameters`` of the network before any pruning."""

    folder: Path
    models: list[Saved]
    losses: list[Loss]
    n_parameters: int
    was_there: bool = False


def compress(
    model: str,
    corpus: Corpus | None,
    out: Path | str,
    pruning: Pruning,
    recipe: Recipe | None = None,
    settings: Settings | None = None,
    targets: tuple[FeatureStore, str] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> Compressed:
    """Prune a pre-trained MODEL step by step; ``out``/heads-132 and so on are MODELs, named by what is left.

    ``corpus``, ``targets``, ``recipe``, ``settings``: of the training, as ``pretrain`` has them, but with as many clusters as
    the model tells, and ``usual_settings``; without training and scores from data there are none. compress.json says what
    decided the run, prunings.json what was pruned when (``Record.read``), losses.csv the losses. A run that was stopped goes on
    with the same numbers; a finished one is returned as it is.
    Raises as ``pretrain`` does, and UsageError for a plan that removes more than there is.
    """
    out, about = Path(out), look(model)
    check_apart(model, out)
    pruning.check_sizes(about)
    if pruning.needs_speech and corpus is None:
        raise UsageError("training and scores from data need speech: give a CORPUS, or neither steps nor such scores")
    if not pruning.needs_speech and (corpus, targets, recipe) != (None, None, None):
        raise UsageError(
            "without training and scores from data nothing is heard: leave the CORPUS and what is done with it out"
        )
    if pruning.needs_speech and about.model not in MODELS:
        raise ModelError(
            f"{model} is of type '{about.model}', whose pre-training is not known here: prune it without training (--steps 0), or "
            f"give one of the type {', '.join(MODELS)}"
        )
    settings = settings or usual_settings(pruning.kind, about.model)
    if settings.schedule != "constant":
        raise UsageError(f"the learning rate of a compression is constant, not {settings.schedule}")
    settings = replace(settings, steps=pruning.total_steps, log_steps=log_steps(settings.save_steps))
    place = place_of(device, settings.precision)
    with random_states_kept():
        torch.manual_seed(settings.seed)
        decided: dict[str, Any] = {"kind": "compression", "pruning": pruning.decided()}
        if pruning.needs_speech:
            recipe = recipe or Recipe(about.model, clusters=about.clusters or None)
            run, source = prepare(corpus, recipe, settings, targets, model, same_clusters=True)
            decided |= described(run, corpus, source)
        else:
            network, source = _open(model, about)
            run = Run(network, Recipe(), settings, [], None)
            decided |= {"model": about.model, "init": source}
        network = run.network.network
        if pruning.kind == "heads":
            pruned.check_heads_removable(network)
        counts, n_weights = compression.n_parameters(network), _n_weights(network)
        pruning.check_zeros(counts.all - int(counts.nonzero or 0), n_weights)
        with _Folder(out, RECORD, decided, (PRUNINGS, LOSSES, TARGETS), (START,), overwrite) as folder:
            if folder.finished is not None:
                folder.tidy(keep_checkpoints=False)
                return _finished(folder)
            if say and corpus is not None and len(run.rows) < len(corpus.utterances):
                say(
                    f"{len(corpus.utterances) - len(run.rows)} of {len(corpus.utterances)} utterances are left out: shorter than "
                    f"{run.recipe.min_frames} frames (--min-frames)"
                )
            data = None if corpus is None else data_of(folder, run, say)
            if data is not None and data.targets is not None and not folder.checkpoints():
                _check_told(run, data, say)
            return _Chain(folder, run, data, pruning, place, progress, source or {}).go()


@torch.no_grad()
def _check_told(run: Run, data, say: Callable[[str], object] | None) -> None:
    """Raise UsageError where the network tells the clusters worse than chance: they are numbered otherwise than those it learned.

    Where its run is known they are its own; else they are made anew, and depend on corpus, seed, features and number of frames.
    """
    n = min(len(run.rows), N_ASKED)
    drawn = Drawn(data.make, len(run.rows), n, run.settings.seed)
    network, told = run.network.eval(), []
    for first in range(0, n, run.settings.batch_size):
        batch = data.collate([drawn[k] for k in range(first, min(n, first + run.settings.batch_size))])
        told.append(float(network(**batch)["told"]))
    found, chance = sum(told) / len(told), math.log(data.targets.n_clusters)
    if found > WORSE * chance:
        raise UsageError(
            f"the model tells these clusters worse than chance ({found:.2f} nats, chance {chance:.2f}): they are not those that it "
            "was trained on; give the corpus, --seed, --cluster-frames, --statistics and --targets of its pre-training"
        )
    if found > 0.98 * chance and say:
        say(
            f"the model tells these clusters no better than chance ({found:.2f} nats, chance {chance:.2f}): are they those that it "
            "was trained on?"
        )


class _Bare(nn.Module):
    """A network that is not trained."""

    def __init__(self, network: Any, normalises: bool | None):
        super().__init__()
        self.network, self.normalises = network, normalises


def _open(model: str, about: About) -> tuple[Any, dict]:
    """A network to prune without training, with all that its folder has."""
    if about.model == "melhubert":
        return reopen("melhubert", model, about.clusters)
    if about.clusters:  # a HuBERT with its heads
        return reopen("hubert", model, about.clusters)
    config = read_config(model)
    has_quantiser = "Wav2Vec2ForPreTraining" in (getattr(config, "architectures", None) or ())
    if has_quantiser and not pruned.is_config(config):
        return reopen("wav2vec2", model, 0)
    network, source, _ = load_model(model, config, None)
    return _Bare(network, normalises_of(model, config)), source


def _n_weights(network: nn.Module) -> int:
    return sum(
        getattr(linear, part).numel()
        for block in pruned.blocks(network)
        for linear in block.linears
        for part in ("weight", "bias")
    )


class _Folder(RunFolder):
    """A run's folder: its models are named by what is left, its checkpoints are of one training between prunings."""

    def checkpoints(self) -> dict[int, Path]:
        """What a stopped run goes on from."""
        found = {0: self.path / START} if (self.path / START).exists() else {}
        for training in (self.path / CHECKPOINTS).glob("after-*"):
            found |= whole_checkpoints(training)
        return found

    def _clear(self) -> None:
        super()._clear()
        _keep_models(self.path, [])


def _keep_models(folder: Path, kept: list[str]) -> None:
    """Remove models that are to be made again, and whatever a kill left half-written."""
    for prefix in PREFIXES.values():
        for path in [*folder.glob(f"{prefix}*"), *folder.glob(f".{prefix}*.part")]:
            if path.is_dir() and path.name not in kept:
                shutil.rmtree(path)


class _Chain:
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
        _keep_models(folder.path, [saved.path.name for saved in self.models])

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
                self.network, drawn, self.data.collate, settings, self._checkpoints(), self.place, first_step=self.step,
                total_steps=self.pruning.total_steps if watch is None else watch.end,
                callbacks=() if watch is None else (watch,), progress=self.progress,
            )  # fmt: skip
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
            "run": self.id, "step": self.step, "heads": heads, "ffn_rows": rows, "plan": self.plan.state_dict(),
            "prunings": list(zip(record.steps, record.amounts, record.removed, strict=True)),
            "models": [[saved.path.name, saved.step, saved.n_parameters] for saved in self.models],
            "losses": [asdict(loss) for loss in self.losses],
        }  # fmt: skip
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
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
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


def _finished(folder: RunFolder) -> Compressed:
    found = folder.finished or {}
    try:
        models = [Saved(folder.path / name, int(step), int(n)) for name, step, n in found["models"]]
        losses = [Loss(step, loss) for step, loss in found["losses"]]
        return Compressed(folder.path, models, losses, int(found["parameters"]), was_there=True)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{folder.file} is damaged ({error!r}): choose another -o, or start again with --overwrite"
        ) from error
