"""Runs of CTC: fine-tuning with re-initialised top layers, and the check of frozen layers (spec layerwise.md 6,
speat.md 4).

from layertool.training.ctc_run import Recipe, assess_run, fine_tune
run = fine_tune("facebook/wav2vec2-base", corpus, "run", Recipe(reinit_top=3))
assess_run(run.folder, corpus, Parts(test=parse_where(["split=test"])))["test"].rate.value
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from layertool.corpora.corpus import Corpus
from layertool.errors import UsageError
from layertool.geometry import SAMPLE_RATE
from layertool.models.computing import choose
from layertool.models.open import Model
from layertool.training import ctc_models, engine
from layertool.training.ctc import CTC, PER, PhoneProbe, reinitialise_top
from layertool.training.ctc_data import Hearing, Material, Parts, Writing, material, transcribe
from layertool.training.ctc_models import MODEL_FILES, RECORD, Learner
from layertool.training.ctc_rates import Assessed, assess, write_transcripts
from layertool.training.encoders import collate, layer_names
from layertool.training.engine import Item, Loss, Say, Settings
from layertool.training.opening import Opened, open_encoder
from layertool.training.runs import RunFolder
from layertool.training.series import Selected
from layertool.training.text import unspell

TRANSCRIPTS = "transcripts.csv"
CACHE_GB = 8.0  # of hidden states that are computed once


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


class Writer(Selected):
    """A network that learns to write what it hears."""

    kind, record = "CTC fine-tuning", RECORD
    outputs = (*Selected.outputs, *MODEL_FILES, TRANSCRIPTS)
    Point = Point

    def __init__(
        self,
        opened: Opened,
        corpus: Corpus,
        recipe: Recipe,
        parts: Parts,
        how: Settings,
        statistics: str | None,
        keep_models: bool,
        cache_gb: float,
    ):
        self.opened, self.recipe, self.statistics, self.keeps_all = opened, recipe, statistics, keep_models
        self.batch_size, self.history = how.batch_size, []
        self.material = there = material(corpus, parts, recipe.writing, opened, recipe.unknown)
        self.network: Learner = _network(opened, len(there.vocabulary), recipe, how.seed)
        rows = {name: there.rows[name] for part in ("train", "dev") for name in there.parts[part]}
        n_states = len(layer_names(opened.encoder)) if recipe.frozen else 0
        self.hearing = Hearing(opened, rows, n_states, cache_gb * 1e9)
        self.names = there.parts["train"]
        self.lengths = [int(there.rows[name]["n_samples"]) / SAMPLE_RATE for name in self.names]
        described = asdict(recipe)
        writing = described.pop("writing")
        own = {part: there.parts[part] for part in ("train", "dev")}
        said = [(name, there.tokens[name]) for names in own.values() for name in names]
        self.decided = {
            "model": opened.decided,
            "recipe": described,
            "writing": writing,
            "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
            "parts": own,
            "said": xxhash.xxh3_128_hexdigest(repr(said).encode()),
            "states": {True: "once", False: "per batch"}[self.hearing.computed_once] if recipe.frozen else None,
        }

    def begin(self, folder: RunFolder, say: Say) -> None:
        there, hearing = self.material, self.hearing
        if there.unreachable:
            say(
                f"{len(there.unreachable)} of {len(there.targets)} training utterances are left out: their texts "
                f"have more tokens than CTC can tell in their frames (the first: {there.unreachable[0]})"
            )
        if there.unknown:
            shown = ", ".join(f"'{token}'" for token in list(there.unknown)[:5])
            say(
                f"{sum(there.unknown.values())} tokens outside training are in no training utterance and count as "
                f"errors: {shown}"
            )
        if self.recipe.frozen:
            how = "once and held in memory" if hearing.computed_once else "for every batch, as they do not fit"
            say(
                f"hidden states are computed {how}: {hearing.n_bytes / 1e9:.2f} GB for {len(hearing.rows)} utterances "
                "(--cache-gb)"
            )
            hearing.compute(next(self.network.parameters()).device)

    def example(self, number: int, random: np.random.Generator) -> Item:
        name = self.names[number]
        return {"input": self.hearing(name), "target": self.material.targets[name]}

    def collate(self, items: list[Item]) -> dict[str, Any]:
        return collate(items)

    def write(self, folder: Path, step: int) -> None:
        ctc_models.save(self.network, self.opened, self.material.vocabulary, self.recipe.writing, folder, step)

    def measure(self, step: int) -> Point:
        found = _assess(self.network, self.hearing, self.material, self.recipe.writing, "dev", self.batch_size)
        return Point(step, found.rate.value, None if found.characters is None else found.characters.value)

    def facts(self) -> dict:
        kept = super().facts()
        weights = None
        if isinstance(self.network, PhoneProbe):
            ctc_models.load_head(self.network.cpu(), self.folder.path)
            weights = self.network.layer_weights
        return {
            "opened_as": self.opened.name,
            "statistics": self.statistics,
            "utterances": {part: len(own) for part, own in self.material.parts.items()},
            "unreachable": self.material.unreachable,
            "parameters": sum(p.numel() for p in self.network.parameters() if p.requires_grad),
            "weights": weights,
            **kept,
        }


def fine_tune(
    model: Model | str,
    corpus: Corpus,
    out: Path | str,
    recipe: Recipe | None = None,
    how: Settings | None = None,
    parts: Parts | None = None,
    statistics: str | None = None,
    keep_models: bool = False,
    cache_gb: float = CACHE_GB,
    **options: Any,
) -> Tuned:
    """Train a MODEL with CTC on the train part; the network of the step with the best dev part is kept in ``out``.

    ``out`` is a MODEL for every command and for transformers, of a frozen run only the head (``ctc_models.load`` opens
    both). The dev part is transcribed every ``how.save_steps``; ``keep_models`` keeps those networks as ``out``/step-N.
    ``options``: ``machine``, ``overwrite``, ``progress``, ``say`` and ``dry_run`` of ``engine.run``. A run that was
    stopped goes on with the numbers that it would have had; a finished one is returned as it is. ctc.json says what
    decided the run and what came out. Raises UsageError for more layers re-initialised than there are and empty parts,
    CorpusError for texts that cannot be learned, StoreError for a folder of something else, ModelError, AudioError.
    """
    recipe, out, parts = recipe or Recipe(), Path(out), parts or Parts()
    how = how or settings(recipe.frozen)
    if how.steps < 1:
        raise UsageError("no step of training keeps nothing: give --steps 1 or more")
    model = Model.open(model)
    model.check_apart(out)
    task = Writer(open_encoder(model, statistics), corpus, recipe, parts, how, statistics, keep_models, cache_gb)

    def result(facts: dict, was_there: bool) -> Tuned:
        history = [Point(**point) for point in facts["history"]]
        return Tuned(
            out,
            recipe,
            history,
            next(point for point in history if point.step == facts["best_step"]),
            [Loss(*loss) for loss in facts["losses"]],
            facts["utterances"],
            len(facts["unreachable"]),
            facts["parameters"],
            facts["weights"],
            facts["model"],
            facts["settings"]["steps"],
            facts["models_kept"],
            was_there,
        )

    return engine.run(task, how, out, result, **options)


def _network(opened: Opened, n_tokens: int, recipe: Recipe, seed: int) -> Learner:
    if recipe.frozen:
        return PhoneProbe(opened.encoder, n_tokens, recipe.normalise, recipe.per, seed=seed)
    reinitialise_top(opened.encoder, recipe.reinit_top, seed)
    return CTC(opened.encoder, n_tokens, recipe.per, seed=seed, augment=recipe.augment)


def _assess(
    network: Learner, hearing: Hearing, there: Material, writing: Writing, part: str, batch_size: int
) -> Assessed:
    names = there.parts[part]
    order = {name: int(there.rows[name]["n_samples"]) for name in names}
    place = next(network.parameters()).device
    written = [there.vocabulary.decode(ids) for ids in transcribe(network, hearing, names, order, batch_size, place)]
    wanted = [there.tokens[name] for name in names]
    if writing.units == "characters":
        return assess(part, names, [unspell(tokens) for tokens in wanted], [unspell(tokens) for tokens in written])
    return assess(part, names, wanted, written)


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
    network.to(choose(device, "float32")[0])
    hearing = Hearing(opened, there.rows)
    names = [name for name in there.parts if name != "train"]
    found = {part: _assess(network, hearing, there, writing, part, batch_size) for part in names}
    write_transcripts(folder / TRANSCRIPTS, list(found.values()))
    return found
