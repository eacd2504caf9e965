"""Runs of CTC: fine-tuning with re-initialised top layers, and the check of frozen layers (spec layerwise.md 6,
speat.md 4).

from layertool.training.ctc_runs import Recipe, assess_run, fine_tune
run = fine_tune("facebook/wav2vec2-base", corpus, "run", Recipe(reinit_top=3))
assess_run(run.folder, corpus, Parts(test=parse_where(["split=test"])))["test"].rate.value
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from layertool.corpora.corpus import Corpus
from layertool.errors import StoreError, UsageError
from layertool.files import read_json, write_json
from layertool.models.open import Model
from layertool.training import ctc_models
from layertool.training.ctc import CTC, PER, PhoneProbe, reinitialise_top
from layertool.training.ctc_data import Hearing, Material, Parts, Writing, material, transcribe, unspell
from layertool.training.ctc_models import MODEL_FILES, RECORD, Learner
from layertool.training.ctc_rates import Assessed, assess, write_transcripts
from layertool.training.encoders import Opened, collate, layer_names, open_encoder
from layertool.training.runs import CHECKPOINTS, RunFolder
from layertool.training.series import forget, log_steps, plain, write_losses
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

KIND, LOSSES, TRANSCRIPTS, HISTORY = "CTC fine-tuning", "losses.csv", "transcripts.csv", "history.json"
CACHE_GB = 8.0  # of hidden states that are computed once
Say = Callable[[str], object]


def settings(frozen: bool = False, steps: int | None = None, **changes: Any) -> Settings:
    """The usual settings.

    Frozen: SUPERB's phone recognition (s3prl): Adam at 1e-2, constant, 100 000 steps of twice 16 utterances, clipped at
    1. Else the learning rate and batches of SpeechBrain's wav2vec 2.0 CTC recipe; the paper does not say its steps, 10
    000 are ours.
    """
    if frozen:
        usual: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 16, "accumulation": 2, "max_gradient_norm": 1.0}
        steps = 100_000 if steps is None else steps
    else:
        steps = 10_000 if steps is None else steps
        usual = {"learning_rate": 1e-4, "batch_size": 6, "schedule": "linear", "warmup_steps": round(0.1 * steps)}
        usual["max_gradient_norm"] = 5.0
    return Settings(steps, **usual | {"save_steps": 1000} | changes)


@dataclass(frozen=True)
class Recipe:
    """What is trained. ``reinit_top``: so many top layers begin anew; 0 is the standard of fine-tuning.

    ``frozen``: only a head and the weights of a sum of all layers; ``normalise``: each layer to mean 0 and variance 1
    before. ``unknown``: "error", or "count" tokens of dev and test that are in no training utterance. ``augment``,
    ``per``: see ``ctc.CTC``.
    """

    reinit_top: int = 0
    frozen: bool = False
    normalise: bool = False
    unknown: str = "error"
    augment: bool = False
    per: str = "utterance"
    writing: Writing = field(default_factory=Writing)

    def __post_init__(self) -> None:
        if self.frozen and (self.reinit_top or self.augment):
            raise UsageError("a frozen network is measured as it is: leave --reinit-top and --augment out")
        if self.normalise and not self.frozen:
            raise UsageError(
                "only layers of a frozen network are summed: --normalise-layers goes with --freeze --weighted-sum"
            )
        if self.unknown not in ("error", "count"):
            raise UsageError(f"'{self.unknown}' is no way to treat unknown tokens: choose error or count")
        if self.per not in PER:
            raise UsageError(f"'{self.per}' is no mean of losses: choose {' or '.join(PER)}")


@dataclass(frozen=True)
class Point:
    """The dev part after a step: errors per word or phone, and per character (None for phones)."""

    step: int
    rate: float
    characters: float | None

    @property
    def order(self) -> tuple:
        """The lower the better: words, then characters, then the earlier."""
        return self.rate, 0.0 if self.characters is None else self.characters, self.step


@dataclass(frozen=True)
class Tuned:
    """A finished run. ``best``: of ``history``, whose network was kept; ``weights``: of each layer, for frozen
    networks."""

    folder: Path
    recipe: Recipe
    history: list[Point]
    best: Point
    losses: list[Loss]
    n_utterances: dict[str, int]
    n_unreachable: int
    n_parameters: int
    weights: dict[str, float] | None
    provenance: dict
    steps: int
    models_kept: bool
    was_there: bool = False


@dataclass(frozen=True)
class _Run:
    network: Learner
    opened: Opened
    hearing: Hearing
    there: Material
    recipe: Recipe
    how: Settings
    statistics: str | None
    place: torch.device


def fine_tune(
    model: Model | str,
    corpus: Corpus,
    out: Path | str,
    recipe: Recipe | None = None,
    how: Settings | None = None,
    parts: Parts | None = None,
    statistics: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    keep_models: bool = False,
    cache_gb: float = CACHE_GB,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Tuned:
    """Train a MODEL with CTC on the train part; the network of the step with the best dev part is kept in ``out``.

    ``out`` is a MODEL for every command and for transformers, of a frozen run only the head (``ctc_models.load`` opens
    both). The dev part is transcribed every ``how.save_steps``; ``keep_models`` keeps those networks as ``out``/step-N.
    A run that was stopped goes on with the numbers that it would have had; a finished one is returned as it is.
    ctc.json says what decided the run and what came out. Raises UsageError for more layers re-initialised than there
    are and empty parts, CorpusError for texts that cannot be learned, StoreError for a folder of something else,
    ModelError, AudioError.
    """
    recipe, out, parts = recipe or Recipe(), Path(out), parts or Parts()
    how = how or settings(recipe.frozen)
    how = replace(how, log_steps=log_steps(how.save_steps))
    if how.steps < 1:
        raise UsageError("no step of training keeps nothing: give --steps 1 or more")
    model = Model.open(model)
    model.check_apart(out)
    place = place_of(device, how.precision)
    with random_states_kept():
        torch.manual_seed(how.seed)
        opened = open_encoder(model, statistics)
        there = material(corpus, parts, recipe.writing, opened, recipe.unknown)
        network = _network(opened, len(there.vocabulary), recipe, how.seed)
        rows = {name: there.rows[name] for part in ("train", "dev") for name in there.parts[part]}
        n_states = len(layer_names(opened.encoder)) if recipe.frozen else 0
        hearing = Hearing(opened, rows, n_states, cache_gb * 1e9)
        run = _Run(network, opened, hearing, there, recipe, how, statistics, place)
        with RunFolder(
            out, RECORD, _decided(run, corpus), (*MODEL_FILES, LOSSES, TRANSCRIPTS), (HISTORY,), overwrite
        ) as folder:
            if folder.finished is not None:
                tuned = _result(folder, folder.finished, recipe, was_there=True)
            else:
                if say:
                    _tell(run, say)
                tuned = _train(folder, run, keep_models, progress)
            folder.tidy(keep_checkpoints=False)
            if not tuned.models_kept:
                forget(out, -1)
            return tuned


def _network(opened: Opened, n_tokens: int, recipe: Recipe, seed: int) -> Learner:
    if recipe.frozen:
        return PhoneProbe(opened.encoder, n_tokens, recipe.normalise, recipe.per, seed=seed)
    reinitialise_top(opened.encoder, recipe.reinit_top, seed)
    return CTC(opened.encoder, n_tokens, recipe.per, seed=seed, augment=recipe.augment)


def _decided(run: _Run, corpus: Corpus) -> dict:
    """Everything that decides the numbers of a run."""
    there, described = run.there, asdict(run.recipe)
    writing = described.pop("writing")
    parts = {part: there.parts[part] for part in ("train", "dev")}
    said = [(name, there.tokens[name]) for names in parts.values() for name in names]
    return {
        "kind": KIND,
        "model": run.opened.decided,
        "recipe": described,
        "writing": writing,
        "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        "parts": parts,
        "said": xxhash.xxh3_128_hexdigest(repr(said).encode()),
        "settings": plain(asdict(run.how)),
        "states": {True: "once", False: "per batch"}[run.hearing.computed_once] if run.recipe.frozen else None,
    }


def _tell(run: _Run, say: Say) -> None:
    """What there is to know before training."""
    there = run.there
    if there.unreachable:
        say(
            f"{len(there.unreachable)} of {len(there.targets)} training utterances are left out: their texts "
            "have more tokens than "
            f"CTC can tell in their frames (the first: {there.unreachable[0]})"
        )
    if there.unknown:
        shown = ", ".join(f"'{token}'" for token in list(there.unknown)[:5])
        say(
            f"{sum(there.unknown.values())} tokens outside training are in no training utterance and count as "
            f"errors: {shown}"
        )
    if run.recipe.frozen:
        size = f"{run.hearing.n_bytes / 1e9:.2f} GB"
        once = run.hearing.computed_once
        say(
            "hidden states are computed "
            f"{'once and held in memory' if once else 'for every batch, as they do not fit'}: {size} for "
            f"{len(run.hearing.rows)} utterances (--cache-gb)"
        )


def _train(folder: RunFolder, run: _Run, keep_models: bool, progress: Progress | None) -> Tuned:
    network, there, how = run.network, run.there, run.how
    last = max(folder.checkpoints(), default=-1)
    forget(folder.path, last)
    path = folder.path / HISTORY
    known = read_json(path, "the dev part's history") if path.exists() else []
    history = [Point(**point) for point in known if point["step"] <= last]
    run.hearing.compute(run.place)
    names = there.parts["train"]

    def make(number: int, _random: np.random.Generator) -> dict[str, Any]:
        return {"input": run.hearing(names[number]), "target": there.targets[names[number]]}

    def write(step: int) -> None:
        check_weights(network, f"at step {step}")
        _save(folder.path, run, step)
        history.append(_point(run, step))
        write_json(path, [asdict(point) for point in history])
        if not keep_models:
            _forget_others(folder.path, history)

    network.to(run.place)
    data = Drawn(make, len(names), how.steps * how.examples_of_step, how.seed)
    losses = train(network, data, collate, how, folder.path / CHECKPOINTS, run.place, write=write, progress=progress)
    write_losses(folder.path / LOSSES, losses)
    best = min(history, key=lambda point: point.order)
    _keep(folder, best)
    weights = None
    if isinstance(network, PhoneProbe):
        ctc_models.load_head(network.cpu(), folder.path)
        weights = network.layer_weights
    facts = {
        "opened_as": run.opened.name,
        "statistics": run.statistics,
        "utterances": {part: len(own) for part, own in there.parts.items()},
        "unreachable": there.unreachable,
        "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "history": [asdict(point) for point in history],
        "best_step": best.step,
        "weights": weights,
        "models_kept": keep_models,
        "losses": [[loss.step, loss.loss] for loss in losses],
    }
    folder.finish(keep_checkpoints=True, **facts)
    return _result(folder, folder.decided | facts, run.recipe, was_there=False)


def _save(folder: Path, run: _Run, step: int) -> None:
    """The network of a step, on the way."""
    write_model(
        folder,
        step,
        lambda part: ctc_models.save(run.network, run.opened, run.there.vocabulary, run.recipe.writing, part, step),
    )


def _point(run: _Run, step: int) -> Point:
    found = _assess(run.network, run.hearing, run.there, run.recipe.writing, "dev", run.how.batch_size, run.place)
    return Point(step, found.rate.value, None if found.characters is None else found.characters.value)


def _assess(
    network: Learner,
    hearing: Hearing,
    there: Material,
    writing: Writing,
    part: str,
    batch_size: int,
    place: torch.device,
) -> Assessed:
    names = there.parts[part]
    order = {name: int(there.rows[name]["n_samples"]) for name in names}
    written = [there.vocabulary.decode(ids) for ids in transcribe(network, hearing, names, order, batch_size, place)]
    wanted = [there.tokens[name] for name in names]
    if writing.units == "characters":
        return assess(part, names, [unspell(tokens) for tokens in wanted], [unspell(tokens) for tokens in written])
    return assess(part, names, wanted, written)


def _forget_others(folder: Path, history: list[Point]) -> None:
    """Remove networks that cannot be the best any more; a kill now may take the last point back."""
    bests = [min(points, key=lambda point: point.order).step for points in (history, history[:-1]) if points]
    for path in folder.glob("step-*"):
        if path.name not in {f"step-{step}" for step in (*bests, history[-1].step)}:
            shutil.rmtree(path)


def _keep(folder: RunFolder, best: Point) -> None:
    """Put the best network into the run's own folder: whole, its last file last."""
    source = folder.path / f"step-{best.step}"
    if not source.is_dir():
        raise StoreError(
            f"the network of the best step ({best.step}) is not in {folder.path} any more: start again with --overwrite"
        )
    shutil.rmtree(folder.part, ignore_errors=True)
    shutil.copytree(source, folder.part)
    folder.put_in_place(last="config.json" if (source / "config.json").exists() else ctc_models.HEAD)


def _result(folder: RunFolder, facts: dict, recipe: Recipe, was_there: bool) -> Tuned:
    try:
        history = [Point(**point) for point in facts["history"]]
        best = next(point for point in history if point.step == facts["best_step"])
        losses = [Loss(step, loss) for step, loss in facts["losses"]]
        return Tuned(
            folder.path,
            recipe,
            history,
            best,
            losses,
            facts["utterances"],
            len(facts["unreachable"]),
            facts["parameters"],
            facts["weights"],
            facts["model"],
            facts["settings"]["steps"],
            facts["models_kept"],
            was_there,
        )
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise StoreError(
            f"{folder.file} is damaged ({error!r}): choose another -o, or start again with --overwrite"
        ) from error


def assess_run(
    folder: Path | str,
    corpus: Corpus,
    parts: Parts | None = None,
    model: Model | str | None = None,
    device: str = "auto",
    unknown: str = "error",
    batch_size: int = 8,
) -> dict[str, Assessed]:
    """Transcribe the dev part, and the test part where there is one, with a finished run; transcripts.csv gets them.

    ``model``: of a frozen run, where it lies elsewhere now. Raises as ``fine_tune`` and ``ctc_models.load``.
    """
    folder, parts = Path(folder), parts or Parts()
    network, opened, vocabulary, writing = ctc_models.load(folder, model)
    there = material(corpus, parts, writing, opened, unknown)
    if there.vocabulary != vocabulary:
        raise UsageError(
            f"the train part of {corpus.name} has other tokens than {folder} was trained on: give the corpus and the "
            "--train-where of that run"
        )
    place = place_of(device, "float32")
    hearing = Hearing(opened, there.rows)
    found = {}
    for part in [name for name in there.parts if name != "train"]:
        found[part] = _assess(network, hearing, there, writing, part, batch_size, place)
    write_transcripts(folder / TRANSCRIPTS, list(found.values()))
    return found
