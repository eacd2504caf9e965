"""Fine-tuning Whisper to say what listeners say (Cuervo and Marxer; spec lexical.md 7)."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from transformers import WhisperForConditionalGeneration

from layertool.analysis.lexical.scorer import Variant, WhisperScorer
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, ModelError, UsageError
from layertool.geometry import SAMPLE_RATE
from layertool.layerwise.listener import Listener, check_lengths
from layertool.layerwise.stimuli import Stimulus, stimuli_of
from layertool.models.computing import shapes_only
from layertool.models.open import Model
from layertool.training import engine
from layertool.training.engine import Diverged, Item, Settings
from layertool.training.responses import MODULES, OBJECTIVES, Network, StimulusData, batch
from layertool.training.series import Selected

SCHEDULES = ("cosine", "linear")
DIVERGED = "diverged.json"
MODEL_FILES = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "normalizer.json",
    "chat_template.*",
)


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned; the defaults are the paper's.

    ``modules``: which parts are trained, the rest is frozen. ``warmup``: share of the steps. ``from_scratch``: weights
    drawn from ``seed``. ``precision``: of the computation; the weights stay in float32. ``max_gradient_norm``: the
    paper does not say whether it clipped; 1 is transformers' own default.
    """

    objective: str = "all"
    modules: tuple[str, ...] = MODULES
    learning_rate: float = 1e-5
    warmup: float = 0.1
    schedule: str = "cosine"
    epochs: int = 12
    batch_size: int = 16
    max_gradient_norm: float = 1.0
    from_scratch: bool = False
    seed: int = 0
    precision: str = "float32"
    variant: Variant = field(default_factory=Variant)

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.objective, OBJECTIVES, "objective"),
            (self.schedule, SCHEDULES, "schedule"),
            *((name, MODULES, "part that can be trained") for name in self.modules),
        ):
            if value not in known:
                raise UsageError(f"'{value}' is no {what}: choose among {', '.join(known)}")
        if not self.modules:
            raise UsageError(f"nothing is to be trained: choose among {', '.join(MODULES)}")
        object.__setattr__(self, "modules", tuple(name for name in MODULES if name in self.modules))
        for what, number, fits, wanted in (
            ("learning rate", self.learning_rate, 0 < self.learning_rate < math.inf, "a number above 0"),
            ("warm-up", self.warmup, 0 <= self.warmup < 1, "a share of the steps, from 0 to less than 1"),
            ("number of epochs", self.epochs, self.epochs >= 1, "1 or more"),
            ("batch size", self.batch_size, self.batch_size >= 1, "1 or more"),
            ("largest gradient norm", self.max_gradient_norm, self.max_gradient_norm >= 0, "0 (never clipped) or more"),
            ("seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 4294967295"),
        ):
            if not fits:
                raise UsageError(f"{number} is no {what}: give {wanted}")


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch: the mean training loss of its steps and the mean log-likelihood of the dev part."""

    epoch: int
    step: int
    loss: float | None
    dev: float

    @property
    def order(self) -> float:
        """The lower the better."""
        return -self.dev


@dataclass(frozen=True)
class Tuned:
    """A finished run. ``history`` begins with epoch 0, before training; ``best``: the epoch whose model was kept."""

    folder: Path
    history: list[Epoch]
    best: Epoch
    was_there: bool = False


class Listening(Selected):
    """A Whisper that learns what listeners say; the epoch with the best dev part is kept."""

    kind, record = "lexical fine-tuning", "finetune.json"
    outputs = (*Selected.outputs, *MODEL_FILES, DIVERGED)
    whole_passes = True
    Point = Epoch

    def __init__(
        self, scorer: WhisperScorer, corpus: Corpus, recipe: Recipe, by_target: bool, keep_models: bool, needed: bool
    ):
        self.scorer, self.corpus, self.recipe = scorer, corpus, recipe
        self.keeps_all, self.weights_needed = keep_models, needed
        self.parts = parts = _parts(corpus, by_target)
        self.history: list[Epoch] = []
        self.losses: list[float] = []  # of this epoch
        self.network: Network = scorer.network
        self.network.set_up(scorer, recipe.modules, recipe.objective)
        self.data = StimulusData(corpus, parts["train"], scorer.mel, recipe.objective == "top")
        lengths = corpus.utterances["n_samples"].to_numpy() / SAMPLE_RATE
        self.lengths = [float(lengths[one.place]) for one in parts["train"]]
        said = [(one.utterance, one.responses, one.counts) for stimuli in parts.values() for one in stimuli]
        self.decided = {
            "model": {key: scorer.provenance.get(key) for key in ("id", "revision", "sha256", "random_init")},
            "recipe": {**asdict(recipe), "modules": list(recipe.modules)},
            "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
            "responses": xxhash.xxh3_128_hexdigest(repr(said).encode()),
            "split": {"by_target": by_target, **{name: [s.utterance for s in own] for name, own in parts.items()}},
        }

    def settled(self, settings: Settings) -> Settings:
        """Steps are passes through the train part."""
        of_pass = math.ceil(len(self.lengths) / settings.examples_of_step)
        steps = self.recipe.epochs * of_pass
        return replace(settings, steps=steps, save_steps=of_pass, warmup_steps=math.ceil(self.recipe.warmup * steps))

    def is_there(self) -> bool:
        return not self.weights_needed or any(self.folder.path.glob("model*.safetensors"))

    def example(self, number: int, random: np.random.Generator) -> Item:
        return self.data[number]

    def collate(self, items: list[Item]) -> dict[str, Any]:
        return batch(items)

    def start(self) -> None:
        if self.folder.leads:
            self.history = [Epoch(0, 0, None, self._dev(0))]

    def after_step(self, step: int, loss: float) -> bool:
        self.losses.append(loss)
        return False

    def measure(self, step: int) -> Epoch:
        loss, self.losses = float(np.mean(self.losses)), []
        return Epoch(len(self.history), step, loss, self._dev(step))

    def _dev(self, step: int) -> float:
        self.scorer.device = next(self.network.parameters()).device
        try:
            return dev_likelihood(self.scorer, self.corpus, self.parts["dev"])
        except ModelError as error:
            raise Diverged(f"training diverged at step {step} ({error}): lower the learning rate") from error

    @property
    def candidates(self) -> list[Epoch]:
        return self.history[1:]

    def write(self, folder: Path, step: int) -> None:
        """As any Whisper."""
        network = self.network
        with shapes_only():
            plain = WhisperForConditionalGeneration(deepcopy(network.config))
        plain.load_state_dict(network.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = network.generation_config
        plain.save_pretrained(folder)
        self.scorer.mel.save_pretrained(folder)
        self.scorer.tokenizer.save_pretrained(folder)

    def facts(self) -> dict:
        n_trained = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        return {"trained_parameters": n_trained, **super().facts()}


def fine_tune(
    model: Model | str,
    corpus: Corpus,
    out: Path | str,
    recipe: Recipe | None = None,
    by_target: bool = False,
    keep_models: bool = False,
    weights_needed: bool = True,
    **options: Any,
) -> Tuned:
    """Fine-tune on the train part of a corpus, keep the model of the epoch with the best dev part, in ``out``.

    ``out``: a Hugging Face folder that every command takes as MODEL, with finetune.json beside it: the recipe, the
    history, and which stimulus was in which part. A run that was stopped goes on after its last whole epoch, with the
    same numbers; one that is finished is returned as it is. ``by_target``: the target-disjoint split. ``keep_models``:
    those of all epochs, as ``out``/step-N. ``weights_needed``: a finished run whose weights were removed is done again.
    ``options``: ``machine``, ``overwrite``, ``progress``, ``say`` and ``dry_run`` of ``engine.run``.
    Raises CorpusError for a corpus without parts, StoreError for a folder with something else, ModelError, UsageError.
    """
    recipe, out = recipe or Recipe(), Path(out)
    model = Model.open(model)
    model.check_apart(out)
    task = Listening(_scorer(model, recipe), corpus, recipe, by_target, keep_models, weights_needed)
    settings = Settings(
        0,
        recipe.learning_rate,
        schedule=recipe.schedule,
        batch_size=recipe.batch_size,
        max_gradient_norm=recipe.max_gradient_norm,
        seed=recipe.seed,
        precision=recipe.precision,
    )

    def result(facts: dict, was_there: bool) -> Tuned:
        history = [Epoch(**epoch) for epoch in facts["history"]]
        return Tuned(out, history, next(one for one in history if one.step == facts["best_step"]), was_there)

    return engine.run(task, settings, out, result, **options)


def _parts(corpus: Corpus, by_target: bool) -> dict[str, list[Stimulus]]:
    """Stimuli of train, dev and, where there is one, test."""
    column = "split_by_target" if by_target else "split"
    there = set(corpus.utterances[column]) if column in corpus.utterances else set()
    for part in ("train", "dev"):
        if part not in there:
            raise CorpusError(
                f"the corpus {corpus.name} has no part {part} (column '{column}'), which fine-tuning needs: make "
                "it with "
                "'layertool corpus eccc', or add the column"
            )
    parts = {part: stimuli_of(corpus, part, by_target) for part in ("train", "dev", "test") if part in there}
    check_lengths(corpus, [*parts["train"], *parts["dev"]])
    return parts


def dev_likelihood(scorer: WhisperScorer, corpus: Corpus, stimuli: Sequence[Stimulus]) -> float:
    """Mean log-likelihood of stimuli (equation 1), as ``layertool lexical score`` computes it."""
    scorer.network.eval()
    outcomes = Listener(scorer, corpus).listen(stimuli, [scorer.output_layer])[scorer.output_layer]
    return float(np.mean([outcome.log_likelihood for outcome in outcomes]))


def _scorer(model: Model, recipe: Recipe) -> WhisperScorer:
    """A scorer of a network that can learn; float32, whatever the precision of training."""
    opened = WhisperScorer(model, recipe.variant, "cpu", random_init=recipe.seed if recipe.from_scratch else None)
    network = Network(opened.network.config)
    network.load_state_dict(opened.network.state_dict())
    network.generation_config = opened.network.generation_config
    scorer = WhisperScorer.of(network.eval(), opened.tokenizer, opened.decoder.prefix, opened.mel, recipe.variant)
    scorer.provenance = opened.provenance
    return scorer
