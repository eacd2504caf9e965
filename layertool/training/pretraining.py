"""Pre-training: MelHuBERT and HuBERT by masked prediction of clusters, wav2vec 2.0 by contrast (spec speat.md 3.3).

from layertool.training.pretraining import Recipe, pretrain
run = pretrain(corpus, "run", Recipe("melhubert", PRESETS["small"]))        # run/step-0, run/step-5000, …
run = pretrain(corpus, "run2", recipe, targets=(FeatureStore("stage1"), "T2"))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from layertool.corpora.corpus import Corpus
from layertool.errors import StoreError, UsageError
from layertool.folders import check_outside
from layertool.geometry import SAMPLE_RATE
from layertool.models import melhubert
from layertool.models.open import EPSILON, Model
from layertool.store import FeatureStore
from layertool.training import targets as clustering
from layertool.training.pretraining_data import Examples, kept
from layertool.training.pretraining_networks import (
    FEATURE_GRADIENT,
    FEATURE_PENALTY,
    GUMBEL,
    GumbelTemperature,
    Mel,
    Network,
    Wav2Vec2,
    build,
    reopen,
)
from layertool.training.pretraining_recipes import SETTINGS, Recipe
from layertool.training.runs import CHECKPOINTS, RunFolder
from layertool.training.series import forget, log_steps, models_of, plain, write_losses
from layertool.training.session import (
    Drawn,
    Loss,
    Progress,
    Settings,
    check_weights,
    place_of,
    random_states_kept,
    train,
    write_model,
)
from layertool.training.targets import Frames, Targets

RECORD, LOSSES, TARGETS = "pretrain.json", "losses.csv", clustering.FILE
MOST_LOG_STEPS = 50


@dataclass(frozen=True)
class Pretrained:
    """A finished run. ``models``: its steps' folders, step 0 first; ``targets``: how they were clustered, in words, or
    None."""

    folder: Path
    models: list[Path]
    losses: list[Loss]
    n_utterances: int
    n_left_out: int
    n_parameters: int
    targets: str | None
    was_there: bool = False


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


def pretrain(
    corpus: Corpus,
    out: Path | str,
    recipe: Recipe | None = None,
    settings: Settings | None = None,
    targets: tuple[FeatureStore, str] | None = None,
    init: Model | str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> Pretrained:
    """Pre-train a network on a corpus. ``out``/step-N, every ``settings.save_steps`` and at step 0, are MODELs.

    ``targets``: a store of the same corpus and a layer of it (stage 2); None is stage 1, log mel energies. ``init``:
    MODEL whose weights are gone on from, and whose sizes count then. A run that was stopped goes on with the losses and
    weights that it would have had; a finished one is returned as it is. pretrain.json says what decided the run and its
    losses, losses.csv has them as a table, targets.npz the cluster of every frame. ``say`` is told what there is to
    know before training. Raises CorpusError for a corpus of short utterances or other targets, StoreError for a folder
    or store of something else, AudioError, ModelError, UsageError.
    """
    recipe, out = recipe or Recipe(), Path(out)
    settings = replace(settings or SETTINGS[recipe.model])
    settings = replace(settings, log_steps=log_steps(settings.save_steps))
    init = None if init is None else Model.open(init)
    if init:
        init.check_apart(out)
    place = place_of(device, settings.precision)
    with random_states_kept():
        torch.manual_seed(settings.seed)
        run, source = prepare(corpus, recipe, settings, targets, init)
        if targets is not None:
            check_outside(out, f"the store {targets[0].path}", targets[0].path)
        decided = {"kind": "pre-training", **described(run, corpus, source)}
        with RunFolder(out, RECORD, decided, (LOSSES, TARGETS), (), overwrite) as folder:
            if folder.finished is not None:
                folder.tidy(keep_checkpoints=False)
                return _finished(folder)
            return _train(folder, run, corpus, place, progress, say)


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
        "settings": asdict(run.settings),
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


def _train(
    folder: RunFolder,
    run: Run,
    corpus: Corpus,
    place: torch.device,
    progress: Progress | None,
    say: Callable[[str], object] | None,
) -> Pretrained:
    network, settings = run.network, run.settings
    whole = folder.checkpoints()
    forget(folder.path, max(whole, default=-1))
    left_out = len(corpus.utterances) - len(run.rows)
    if say and left_out:
        say(
            f"{left_out} of {len(corpus.utterances)} utterances are left out: shorter than "
            f"{run.recipe.min_frames} frames "
            "(--min-frames)"
        )
    examples = data_of(folder, run, say)
    n_items = settings.steps * settings.examples_of_step
    data = Drawn(examples.make, len(run.rows), n_items, settings.seed)
    if not whole:
        write_model(folder.path, 0, lambda part: network.save(part, 0))
    n_parameters = sum(parameter.numel() for parameter in network.parameters())

    def write(step: int) -> None:
        check_weights(network, f"at step {step}")
        write_model(folder.path, step, lambda part: network.save(part, step))

    callbacks = (GumbelTemperature(network),) if isinstance(network, Wav2Vec2) else ()
    losses = train(
        network,
        data,
        examples.collate,
        settings,
        folder.path / CHECKPOINTS,
        place,
        write=write,
        callbacks=callbacks,
        progress=progress,
    )
    write_losses(folder.path / LOSSES, losses)
    facts = {
        "utterances": len(run.rows),
        "left_out": left_out,
        "parameters": n_parameters,
        "clustered": clustering.describe(examples.targets) if examples.targets else None,
        "losses": [[loss.step, loss.loss] for loss in losses],
    }
    folder.finish(keep_checkpoints=False, **facts)
    return _result(folder.path, facts, was_there=False)


def data_of(folder: RunFolder, run: Run, say: Callable[[str], object] | None = None) -> Examples:
    """What a run is trained on; its targets are made, or read where an earlier process of the run made them."""
    recipe, targets = run.recipe, _targets(folder, run, say)
    return Examples(run.network, run.rows, run.max_frames, recipe.its_spans, targets, recipe.statistics)


def _targets(folder: RunFolder, run: Run, say: Callable[[str], object] | None) -> Targets | None:
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


def _finished(folder: RunFolder) -> Pretrained:
    """What a finished run said. Raises StoreError for a damaged record."""
    try:
        return _result(folder.path, folder.finished or {}, was_there=True)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{folder.file} is damaged ({error!r}): choose another -o, or start again with --overwrite"
        ) from error


def _result(path: Path, facts: dict, was_there: bool) -> Pretrained:
    models = models_of(path)
    losses = [Loss(step, loss) for step, loss in facts["losses"]]
    return Pretrained(
        path, models, losses, facts["utterances"], facts["left_out"], facts["parameters"], facts["clustered"], was_there
    )
