"""Iterative pruning: train with the loss of pre-training, save the recovered network, take a part away, go on (spec
speat.md 4).

A run is a chain of trainings, one from each pruning to the next; each begins with a new optimiser, as the network's
parameters are others. What is saved is the network just before the next pruning, and at the end.

from layertool.training import compressing, plans
about = plans.look("run/step-421000")
plan, total_steps = plans.usual_plan("heads", about)                 # of Lin et al. 2024
compressing.compress("run/step-421000", corpus, "pruned", plans.Pruning("heads", plan, total_steps))
compressing.compress("run/step-421000", None, "one-shot", plans.Pruning("heads", plan, 0, trains=False))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layertool.corpora.corpus import Corpus
from layertool.errors import ModelError, StoreError, UsageError
from layertool.models import pruned
from layertool.models.open import Model
from layertool.store import FeatureStore
from layertool.training import compression
from layertool.training.chain import LOSSES, PRUNINGS, START, Chain, Compressed, Saved, keep_models
from layertool.training.plans import (
    About,
    Pruning,
    look,
    usual_settings,
)
from layertool.training.pretraining import TARGETS, Recipe, Run, data_of, described, prepare
from layertool.training.pretraining_networks import (
    reopen,
)
from layertool.training.pretraining_recipes import MODELS
from layertool.training.runs import CHECKPOINTS, RunFolder, whole_checkpoints
from layertool.training.series import log_steps
from layertool.training.session import (
    Drawn,
    Loss,
    Progress,
    Settings,
    place_of,
    random_states_kept,
)

N_ASKED, WORSE = 32, 1.35  # examples for a look at a model; times chance, where no untrained network is
RECORD = "compress.json"


def compress(
    model: Model | str,
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

    ``corpus``, ``targets``, ``recipe``, ``settings``: of the training, as ``pretrain`` has them, but with as many
    clusters as the model tells, and ``usual_settings``; without training and scores from data there are none.
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
                    f"{len(corpus.utterances) - len(run.rows)} of {len(corpus.utterances)} utterances are left "
                    "out: shorter than "
                    f"{run.recipe.min_frames} frames (--min-frames)"
                )
            data = None if corpus is None else data_of(folder, run, say)
            if data is not None and data.targets is not None and not folder.checkpoints():
                _check_told(run, data, say)
            return Chain(folder, run, data, pruning, place, progress, source or {}).go()


@torch.no_grad()
def _check_told(run: Run, data, say: Callable[[str], object] | None) -> None:
    """Raise UsageError where the network tells the clusters worse than chance: they are numbered otherwise than those
    it learned.

    Where its run is known they are its own; else they are made anew, and depend on corpus, seed, features and number of
    frames.
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
            f"the model tells these clusters worse than chance ({found:.2f} nats, chance {chance:.2f}): they are "
            "not those that it "
            "was trained on; give the corpus, --seed, --cluster-frames, --statistics and --targets of its "
            "pre-training, or another "
            "number of --clusters, which it then learns from the start"
        )
    if found > 0.98 * chance and say:
        say(
            f"the model tells these clusters no better than chance ({found:.2f} nats, chance {chance:.2f}): are "
            "they those that it "
            "was trained on?"
        )


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
        keep_models(self.path, [])


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
