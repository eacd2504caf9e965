"""Iterative pruning: train with the loss of pre-training, save the recovered network, take a part away, go on (spec
speat.md 4).

A new optimiser follows each pruning, as the network's parameters are others. What is saved is the network just before
the next pruning, and at the end.

from layertool.training import compression_run, plans
about = plans.look("run/step-421000")
plan, total_steps = plans.usual_plan("heads", about)                 # of Lin et al. 2024
compression_run.compress("run/step-421000", corpus, "pruned", plans.Pruning("heads", plan, total_steps))
compression_run.compress("run/step-421000", None, "one-shot", plans.Pruning("heads", plan, 0, trains=False))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn

from layertool.corpora.corpus import Corpus
from layertool.errors import ModelError, UsageError
from layertool.files import remove
from layertool.models import pruned
from layertool.models.computing import drawing
from layertool.models.open import Model
from layertool.store import FeatureStore
from layertool.training import compression, engine
from layertool.training.engine import LOGS, LOSSES, Say, Settings, Trained
from layertool.training.plans import NO_END, PREFIXES, SCORED_SHARE, About, Pruning, look, usual_settings
from layertool.training.pretraining import TARGETS, Heard, Run, described, prepare
from layertool.training.pretraining_networks import Hubert, Mel, Wav2Vec2, reopen
from layertool.training.pretraining_recipes import MODELS, Recipe
from layertool.training.runs import CHECKPOINTS, RunFolder
from layertool.training.schedules import Record, Schedule, Trigger
from layertool.training.targets import Targets

PRUNINGS = "prunings.json"
N_ASKED, WORSE = 32, 1.35  # examples for a look at a model; times chance, where no untrained network is


@dataclass(frozen=True)
class Saved:
    """A model of a run. ``n_parameters``: of the whole network; of weight pruning, those that it has not made 0."""

    path: Path
    step: int
    n_parameters: int


@dataclass(frozen=True)
class Compressed(Trained):
    """A finished run: ``models`` in the order in which they were saved; ``facts["parameters"]`` before any pruning."""

    @property
    def models(self) -> list[Saved]:
        return [Saved(self.folder / name, int(step), int(n)) for name, step, n in self.facts["models"]]

    def check(self) -> None:
        super().check()
        self.models, int(self.facts["parameters"])


class Compression(Heard):
    """A network that loses a part of itself again and again."""

    kind, record, result = "compression", "compress.json", Compressed
    outputs = (PRUNINGS, LOSSES, LOGS, TARGETS, *(f"{prefix}*" for prefix in PREFIXES.values()))

    def __init__(self, run: Run, corpus: Corpus | None, pruning: Pruning, source: dict, decided: dict):
        self.hear(run, corpus)
        self.pruning, self.source, self.hears = pruning, source, corpus is not None
        self.decided = {"pruning": pruning.decided(), **decided}
        self.plan, self.prunings = pruning.begun(), Record(pruning.kind)
        self.models: list[list] = []  # name, step, parameters
        network = run.network.network
        if pruning.kind == "heads":
            pruned.check_heads_removable(network)
        counts = compression.n_parameters(network)
        self.n_parameters = counts.all
        pruning.check_zeros(counts.all - int(counts.nonzero or 0), _n_weights(network))
        if isinstance(run.network, Wav2Vec2):
            run.network.cool(NO_END)  # pre-training has come to its end
        self.sparsity = compression.keep_zeros(network) if pruning.trains else 0.0

    def begin(self, folder: RunFolder, say: Say) -> None:
        if self.hears:
            super().begin(folder, say)
            if self.examples.targets is not None and not (folder.path / CHECKPOINTS).exists():
                self._check_told(self.examples.targets, say)

    def end(self, settings: Settings) -> int:
        waits = self.plan.n_waits * self.plan.period if isinstance(self.plan, Trigger) else 0
        return settings.steps + waits

    def start(self) -> None:
        plan = self.plan
        while (
            isinstance(plan, Schedule)
            and not plan.is_finished
            and (not self.pruning.trains or not plan.steps[plan.n_done])
        ):
            self._prune(0, plan.amounts[plan.n_done])
        if not self.pruning.trains:
            self._save(0)

    def after_step(self, step: int, loss: float) -> bool:
        if isinstance(self.plan, Trigger):
            amount = self.plan.sparsity if self.plan.update(step, loss) == "prune" else 0
        else:
            amount = self.plan.due(step)
        if amount:
            self._prune(step, amount)
        return bool(amount)

    def save(self, step: int, is_last: bool) -> None:
        if is_last:
            self._save(step)

    def goes_on(self, step: int | None) -> None:
        """Of the models, those that the checkpoint does not know are removed when it is read."""
        if step is None:
            self._keep([])

    def _keep(self, names: list[str]) -> None:
        for prefix in PREFIXES.values():
            for path in self.folder.path.glob(f"{prefix}*"):
                if path.name not in names:
                    remove(path)

    def state(self) -> dict:
        heads, rows = pruned.sizes(self.run.network.network)
        record = self.prunings
        return {
            "heads": heads,
            "ffn_rows": rows,
            "plan": self.plan.state_dict(),
            "prunings": list(zip(record.steps, record.amounts, record.removed, strict=True)),
            "models": self.models,
        }

    def load_state(self, state: dict, tensors: Mapping[str, torch.Tensor]) -> None:
        network = self.run.network.network
        pruned.resize(network, state["heads"], state["ffn_rows"])
        masks = {key: value for key, value in tensors.items() if key.endswith(".0.mask")}
        names = [key.removeprefix("network.").replace(".parametrizations", "").removesuffix(".0.mask") for key in masks]
        compression.put_masks(network, dict(zip(names, masks.values(), strict=True)))
        self.plan.load_state_dict(state["plan"])
        self.prunings = Record(self.pruning.kind)
        for step, amount, removed in state["prunings"]:
            self.prunings.add(step, amount, removed)
        self.models = state["models"]
        if self.folder.leads:
            self._keep([name for name, *_ in self.models])
            self.prunings.write(self.folder.path / PRUNINGS)  # without a pruning that is to be done again

    def facts(self) -> dict:
        return {"parameters": self.n_parameters, "models": self.models}

    def _save(self, step: int) -> None:
        """Write the network as it has recovered, named by what is left of it."""
        kind, network = self.pruning.kind, self.run.network.network
        heads, rows = pruned.sizes(network)
        left = {
            "heads": sum(heads),
            "rows": rows[0] if len(set(rows)) == 1 else sum(rows),
            "weights": self.prunings.amounts[-1] if self.prunings.amounts else float(f"{self.sparsity:.3g}") or 0,
        }
        name = f"{PREFIXES[kind]}{left[kind]}"
        counts = compression.n_parameters(network)
        self.models.append([name, step, int((counts.nonzero if kind == "weights" else counts.all) or 0)])
        if self.folder.leads:
            self._write(self.folder.path / name, step)

    def _write(self, path: Path, step: int) -> None:
        network = self.run.network.network
        remove(path)
        if isinstance(self.network, Mel):
            network.config = replace(network.config, step=step)
        facts = {"step": step, "made_by": "layertool compress"}
        if self.source.get("normalisation_epsilon") is not None:
            facts["normalisation_epsilon"] = self.source["normalisation_epsilon"]
        pruned.save(network, path, getattr(self.network, "normalises", None), facts)
        if isinstance(self.network, Hubert):
            self.network.save_heads(path)

    def _prune(self, step: int, amount: float) -> None:
        self._save(step)
        kind, network, plan = self.pruning.kind, self.run.network.network, self.plan
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
        self.prunings.add(step if self.pruning.trains else len(self.prunings.steps), amount, removed)
        if self.folder.leads:
            self.prunings.write(self.folder.path / PRUNINGS)

    def _batches(self, seed: int, n: int, first: int = 0):
        """Examples drawn apart from those of the training, in batches."""
        settings = replace(self.run.settings, seed=seed)
        order, size, place = engine.Order(self, settings), settings.batch_size, next(self.network.parameters()).device
        for start in range(first, first + n, size):
            items = [order.item(k) for k in range(start, min(first + n, start + size))]
            yield send_to_device(self.collate(items), place)

    def _scores(self) -> list[torch.Tensor]:
        """Of heads, from the loss on a quarter of the utterances, in evaluation mode: another quarter each time."""
        n = math.ceil(SCORED_SHARE * len(self.run.rows))
        network = self.network.eval()
        with compression.DataDrivenScore(self.run.network.network) as found:
            for batch in self._batches(self.run.settings.seed + 1, n, n * len(self.prunings.steps)):
                self.loss(batch).backward()
                found.step()
                network.zero_grad()
        return found.scores()

    @torch.no_grad()
    def _check_told(self, targets: Targets, say: Say) -> None:
        """Raise UsageError where the network tells the clusters worse than chance: they are numbered otherwise than
        those it learned.

        Where its run is known they are its own; else they are made anew, and depend on corpus, seed, features and
        number of frames.
        """
        network, n = self.network.eval(), min(len(self.run.rows), N_ASKED)
        told = [float(network(**batch)["told"]) for batch in self._batches(self.run.settings.seed, n)]
        found, chance = float(np.mean(told)), math.log(targets.n_clusters)
        if found > WORSE * chance:
            raise UsageError(
                f"the model tells these clusters worse than chance ({found:.2f} nats, chance {chance:.2f}): they are "
                "not those that it was trained on; give the corpus, --seed, --cluster-frames, --statistics and "
                "--targets of its pre-training, or another number of --clusters, which it then learns from the start"
            )
        if found > 0.98 * chance:
            say(
                f"the model tells these clusters no better than chance ({found:.2f} nats, chance {chance:.2f}): are "
                "they those that it was trained on?"
            )


def compress(
    model: Model | str,
    corpus: Corpus | None,
    out: Path | str,
    pruning: Pruning,
    recipe: Recipe | None = None,
    settings: Settings | None = None,
    targets: tuple[FeatureStore, str] | None = None,
    **how: Any,
) -> Compressed:
    """Prune a pre-trained MODEL step by step; ``out``/heads-132 and so on are MODELs, named by what is left.

    ``corpus``, ``targets``, ``recipe``, ``settings``: of the training, as ``pretrain`` has them, but with as many
    clusters as the model tells, and ``usual_settings``; without training and scores from data there are none. ``how``:
    device, progress and the like, as ``engine.run`` has them.
    compress.json says what decided the run, prunings.json what was pruned when (``Record.read``), losses.csv the
    losses. A run that was stopped goes on with the same numbers; a finished one is returned as it is.
    Raises as ``pretrain`` does, and UsageError for a plan that removes more than there is.
    """
    out, model = Path(out), Model.open(model)
    model.check_apart(out)
    about = look(model)
    pruning.check_sizes(about)
    if pruning.needs_speech and corpus is None:
        raise UsageError("training and scores from data need speech: give a CORPUS, or neither steps nor such scores")
    if not pruning.needs_speech and (corpus, targets, recipe) != (None, None, None):
        raise UsageError(
            "without training and scores from data nothing is heard: leave the CORPUS and what is done with it out"
        )
    if pruning.needs_speech and about.model not in MODELS:
        raise ModelError(
            f"{model} is of type '{about.model}', whose pre-training is not known here: prune it without "
            "training (--steps 0), or "
            f"give one of the type {', '.join(MODELS)}"
        )
    settings = settings or usual_settings(pruning.kind, about.model)
    if settings.schedule != "constant":
        raise UsageError(f"the learning rate of a compression is constant, not {settings.schedule}")
    settings = replace(settings, steps=pruning.total_steps if pruning.trains else 0)
    with drawing(settings.seed):
        if pruning.needs_speech:
            recipe = recipe or Recipe(about.model, clusters=about.clusters or None)
            run, source = prepare(corpus, recipe, settings, targets, model, same_clusters=True)
            decided = described(run, corpus, source)
        else:
            network, source = _open(model, about)
            run, decided = Run(network, Recipe(), settings, [], None), {"model": about.model, "init": source}
    task = Compression(run, corpus, pruning, source or {}, decided)
    return engine.run(task, settings, out, **how)


class _Bare(nn.Module):
    """A network that is not trained."""

    def __init__(self, network: Any, normalises: bool | None):
        super().__init__()
        self.network, self.normalises = network, normalises


def _open(model: Model, about: About) -> tuple[Any, dict]:
    """A network to prune without training, with all that its folder has."""
    if about.model == "melhubert":
        return reopen("melhubert", model, about.clusters)
    if about.clusters:  # a HuBERT with its heads
        return reopen("hubert", model, about.clusters)
    config = model.configuration
    has_quantiser = "Wav2Vec2ForPreTraining" in (getattr(config, "architectures", None) or ())
    if has_quantiser and not pruned.is_config(config):
        return reopen("wav2vec2", model, 0)
    return _Bare(model.load(), model.normalises), model.identity


def _n_weights(network: nn.Module) -> int:
    return sum(
        getattr(linear, part).numel()
        for block in pruned.blocks(network)
        for linear in block.linears
        for part in ("weight", "bias")
    )
