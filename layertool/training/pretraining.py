"""Pre-training: MelHuBERT and HuBERT by masked prediction of clusters, wav2vec 2.0 by contrast (spec speat.md 3.3).

from layertool.training.pretraining import Recipe, pretrain
run = pretrain(corpus, "run", Recipe("melhubert", PRESETS["small"]))        # run/step-0, run/step-5000, …
run = pretrain(corpus, "run2", recipe, targets=(FeatureStore("stage1"), "T2"))
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layertool.corpora.corpus import Corpus
from layertool.errors import UsageError
from layertool.folders import check_outside
from layertool.geometry import SAMPLE_RATE
from layertool.models import melhubert
from layertool.models.computing import drawing
from layertool.models.open import EPSILON, Model
from layertool.store import FeatureStore
from layertool.training import engine
from layertool.training import targets as clustering
from layertool.training.engine import Item, Say, Settings, Task, Trained
from layertool.training.pretraining_data import Examples, kept
from layertool.training.pretraining_networks import (
    FEATURE_GRADIENT,
    FEATURE_PENALTY,
    GUMBEL,
    Mel,
    Network,
    Wav2Vec2,
    build,
    reopen,
)
from layertool.training.pretraining_recipes import SETTINGS, Recipe
from layertool.training.runs import RunFolder, plain
from layertool.training.series import Series
from layertool.training.targets import Frames, Targets

TARGETS = clustering.FILE


@dataclass(frozen=True)
class Run:
    """What a run is made of. ``rows``: of the utterances that are trained on; ``frames``: that targets are made from,
    None for wav2vec 2.0; ``known``: whose clusters are taken, None for new ones."""

    network: Network
    recipe: Recipe
    settings: Settings
    rows: list[dict]
    frames: Frames | None
    known: Targets | None = None

    @property
    def max_frames(self) -> int:
        """Frames of the longest crop."""
        return int(float(self.recipe.max_seconds or 0) * SAMPLE_RATE) // self.network.geometry.hop


class Heard(Task):
    """A training by masked prediction, or by contrast: what is heard, and what is predicted of it."""

    run: Run
    n_left_out: int = 0

    def hear(self, run: Run, corpus: Corpus | None) -> None:
        """``run`` is trained on the utterances of ``corpus``."""
        self.run, self.network = run, run.network
        longest = float(run.recipe.max_seconds or 0)
        self.lengths = [min(int(row["n_samples"]) / SAMPLE_RATE, longest) for row in run.rows]
        self.n_left_out = 0 if corpus is None else len(corpus.utterances) - len(run.rows)

    def begin(self, folder: RunFolder, say: Say) -> None:
        if self.n_left_out:
            say(
                f"{self.n_left_out} of {self.n_left_out + len(self.run.rows)} utterances are left out: shorter than "
                f"{self.run.recipe.min_frames} frames (--min-frames)"
            )
        self.examples = examples_of(self.run, _targets(folder, self.run, say))

    def rehearse(self) -> None:
        frames = self.run.frames
        self.examples = examples_of(self.run, None if frames is None else clustering.made_up(frames))

    def example(self, number: int, random: np.random.Generator) -> Item:
        return self.examples.make(number, random)

    def collate(self, items: list[Item]) -> dict[str, torch.Tensor]:
        return self.examples.collate(items)


class Pretraining(Heard, Series):
    """A network from its first weights on, or from those of another run."""

    kind, record = "pre-training", "pretrain.json"
    outputs = (*Series.outputs, TARGETS)

    def __init__(self, run: Run, corpus: Corpus, source: dict | None):
        self.hear(run, corpus)
        self.decided = described(run, corpus, source)

    def before_step(self, step: int) -> None:
        if isinstance(self.network, Wav2Vec2):
            self.network.cool(step)

    def write(self, folder: Path, step: int) -> None:
        self.run.network.save(folder, step)

    def facts(self) -> dict:
        targets = self.examples.targets
        return {
            "utterances": len(self.lengths),
            "left_out": self.n_left_out,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "clustered": clustering.describe(targets) if targets else None,
        }


def pretrain(
    corpus: Corpus,
    out: Path | str,
    recipe: Recipe | None = None,
    settings: Settings | None = None,
    targets: tuple[FeatureStore, str] | None = None,
    init: Model | str | None = None,
    **how: Any,
) -> Trained:
    """Pre-train a network on a corpus. ``out``/step-N, every ``settings.save_steps`` and at step 0, are MODELs.

    ``targets``: a store of the same corpus and a layer of it (stage 2); None is stage 1, log mel energies. ``init``:
    MODEL whose weights are gone on from, and whose sizes count then. ``how``: device, progress and the
    like, as ``engine.run`` has them. A run that was stopped goes on with the losses and weights that it would
    have had; a finished one is returned as it is. pretrain.json says what decided the run and its losses, losses.csv
    has them as a table, targets.npz the cluster of every frame. Raises CorpusError for a corpus of short utterances or
    other targets, StoreError for a folder or store of something else, AudioError, ModelError, UsageError.
    """
    recipe, out = recipe or Recipe(), Path(out)
    settings = settings or SETTINGS[recipe.model]
    init = None if init is None else Model.open(init)
    if init:
        init.check_apart(out)
    with drawing(settings.seed):
        run, source = prepare(corpus, recipe, settings, targets, init)
    if targets is not None:
        check_outside(out, f"the store {targets[0].path}", targets[0].path)
    return engine.run(Pretraining(run, corpus, source), settings, out, **how)


def prepare(
    corpus: Corpus | None,
    recipe: Recipe,
    settings: Settings,
    targets: tuple[FeatureStore, str] | None,
    init: Model | None,
    same_clusters: bool = False,
) -> tuple[Run, dict | None]:
    """The network and what it learns from, and what identifies ``init``; nothing is written, nothing computed from
    audio.

    ``same_clusters``: those that ``init`` learned, where its run is known.

    Without a corpus there is nothing to learn from: for those who only need the network.
    """
    clusters, source = int(recipe.clusters or 0), None
    if targets is not None and recipe.model == "wav2vec2":
        raise UsageError("wav2vec 2.0 makes its targets itself: leave out --targets")
    if init:
        network, source = reopen(recipe.model, init, clusters)
    else:
        network = build(recipe.model, recipe.sizes, clusters, recipe.frame_ms)
    if isinstance(network, Mel):
        spans = recipe.its_spans
        network.network.config = replace(network.network.config, mask_prob=spans.probability, mask_length=spans.length)
    if corpus is None:
        return Run(network, recipe, settings, [], None), source
    frames = None
    if recipe.model != "wav2vec2" and targets is None:
        frames = clustering.mel_frames(corpus, recipe.statistics)
    elif targets is not None:
        frames = clustering.layer_frames(*targets, corpus)
    rows, geometry = kept(corpus, network.geometry, int(recipe.min_frames or 0)), network.geometry
    if frames is not None:
        numbers = [(row["utterance"], geometry.n_frames(int(row["n_samples"]))) for row in rows]
        clustering.check_fit(frames, numbers, geometry.hop, clusters)
    known = clustering.learned(init, frames, clusters) if init and same_clusters and frames is not None else None
    return Run(network, recipe, settings, rows, frames, known), source


def described(run: Run, corpus: Corpus | None, source: dict | None) -> dict:
    """Everything that decides the numbers of a run, as JSON has it."""
    recipe, network = run.recipe, run.network
    config = asdict(network.network.config) if isinstance(network, Mel) else network.network.config.to_diff_dict()
    clusters = int(recipe.clusters or 0)
    decided: dict[str, Any] = {
        "model": recipe.model,
        "network": {
            key: value for key, value in config.items() if key not in ("transformers_version", "_name_or_path")
        },
        "init": source,
        "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint} if corpus else None,
        "mask": asdict(recipe.its_spans),
        "max_frames": run.max_frames,
        "min_frames": recipe.min_frames,
        "targets": clustering.decided(run.frames, clusters, run.settings.seed, recipe.max_fitted, run.known)
        if run.frames
        else None,
    }
    if isinstance(network, Mel):
        decided["statistics"] = melhubert.name_statistics(recipe.statistics)
    else:
        decided["features"] = {
            "gradient": FEATURE_GRADIENT,
            "penalty": FEATURE_PENALTY,
            "normalise": network.normalises,
        }
        if network.normalises and network.epsilon != EPSILON:
            decided["features"]["epsilon"] = network.epsilon
    if isinstance(network, Wav2Vec2):
        decided["gumbel_temperature"] = GUMBEL
    return plain(decided)


def examples_of(run: Run, targets: Targets | None) -> Examples:
    """What a run is trained on."""
    recipe = run.recipe
    return Examples(run.network, run.rows, run.max_frames, recipe.its_spans, targets, recipe.statistics)


def _targets(folder: RunFolder, run: Run, say: Say) -> Targets | None:
    """The clusters of the corpus's frames: made once for a run."""
    if run.frames is None:
        return None
    path, recipe, seed = folder.path / TARGETS, run.recipe, run.settings.seed
    wanted = clustering.decided(run.frames, int(recipe.clusters or 0), seed, recipe.max_fitted, run.known)
    if path.exists():
        there = clustering.load(path)
        if there.decided == wanted:
            return there
    n_clusters = int(recipe.clusters or 0)
    made = clustering.make_targets(run.frames, n_clusters, seed, recipe.max_fitted, say, run.known)
    clustering.save(made, path)
    return made
