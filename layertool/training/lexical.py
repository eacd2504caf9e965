"""Fine-tuning Whisper to say what listeners say (Cuervo and Marxer; spec lexical.md 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from transformers import WhisperForConditionalGeneration

from layertool.analysis.lexical.scorer import WhisperScorer
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, ModelError
from layertool.geometry import SAMPLE_RATE
from layertool.layerwise.listener import Listener, check_lengths
from layertool.layerwise.stimuli import Stimulus, stimuli_of
from layertool.models.computing import drawing, shapes_only
from layertool.models.open import Model
from layertool.training import engine
from layertool.training.engine import Diverged, Item, Settings
from layertool.training.responses import MODULES, Network, StimulusData, batch
from layertool.training.series import Best, Selected
from layertool.training.tasks.listeners import Listeners as Options

# The paper does not say whether it clipped; 1 is transformers' own default.
SETTINGS = Settings(0, max_gradient_norm=1.0, bucket_steps=1)
# options that are in the record: what was trained
DECIDE = ("objective", "warmup", "epochs", "from_scratch")
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


class Tuned(Best):
    """A finished run. ``history`` begins with epoch 0, before training."""

    Point = Epoch


class Listening(Selected):
    """A Whisper that learns what listeners say; the epoch with the best dev part is kept."""

    kind, record, result = "lexical fine-tuning", "finetune.json", Tuned
    outputs = (*Selected.outputs, *MODEL_FILES, DIVERGED)
    whole_passes = True

    def __init__(self, scorer: WhisperScorer, corpus: Corpus, options: Options, weights_needed: bool):
        self.scorer, self.corpus, self.options = scorer, corpus, options
        self.keeps_all, self.weights_needed = options.keep_models, weights_needed
        self.parts = parts = _parts(corpus, options.target_disjoint)
        self.history: list[Epoch] = []
        self.losses: list[float] = []  # of this epoch
        self.network: Network = scorer.network
        modules = [name for name in MODULES if name in (options.modules or MODULES)]
        recipe = {name: getattr(options, name) for name in DECIDE}
        self.network.set_up(scorer, modules, options.objective)
        self.data = StimulusData(corpus, parts["train"], scorer.mel, options.objective == "top")
        lengths = corpus.utterances["n_samples"].to_numpy() / SAMPLE_RATE
        self.lengths = [float(lengths[one.place]) for one in parts["train"]]
        said = [(one.utterance, one.responses, one.counts) for stimuli in parts.values() for one in stimuli]
        self.decided = {
            "model": {key: scorer.provenance.get(key) for key in ("id", "revision", "sha256", "random_init")},
            "recipe": dict(recipe, modules=modules, variant=asdict(options.variant)),
            "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
            "responses": xxhash.xxh3_128_hexdigest(repr(said).encode()),
            "split": {
                "by_target": options.target_disjoint,
                **{name: [s.utterance for s in own] for name, own in parts.items()},
            },
        }

    def settled(self, settings: Settings) -> Settings:
        """Steps are passes through the train part."""
        of_pass = math.ceil(len(self.lengths) / settings.examples_of_step)
        steps = self.options.epochs * of_pass
        return replace(settings, steps=steps, save_steps=of_pass, warmup_steps=math.ceil(self.options.warmup * steps))

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
    options: Options | None = None,
    weights_needed: bool = True,
    **how: Any,
) -> Tuned:
    """Fine-tune on the train part of a corpus, keep the model of the epoch with the best dev part, in ``out``.

    ``out``: a Hugging Face folder that every command takes as MODEL, with finetune.json beside it: what was asked for,
    the history, and which stimulus was in which part. A run that was stopped goes on after its last whole epoch, with
    the same numbers; one that is finished is returned as it is. ``weights_needed``: a finished run whose weights were
    removed is done again. ``how``: device, progress and the like, as ``engine.run`` has them.
    Raises CorpusError for a corpus without parts, StoreError for a folder with something else, ModelError, UsageError.
    """
    options, out = options or Options(), Path(out)
    model = Model.open(model)
    model.check_apart(out)
    with drawing(options.seed):
        task = Listening(_scorer(model, options), corpus, options, weights_needed)
    return engine.run(task, options.settings(SETTINGS), out, **how)


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


def _scorer(model: Model, options: Options) -> WhisperScorer:
    """A scorer of a network that can learn; float32, whatever the precision of training."""
    opened = WhisperScorer(model, options.variant, "cpu", random_init=options.seed if options.from_scratch else None)
    network = Network(opened.network.config)
    network.load_state_dict(opened.network.state_dict())
    network.generation_config = opened.network.generation_config
    scorer = WhisperScorer.of(network.eval(), opened.tokenizer, opened.decoder.prefix, opened.mel, options.variant)
    scorer.provenance = opened.provenance
    return scorer
