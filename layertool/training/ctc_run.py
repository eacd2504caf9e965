"""Runs of CTC: fine-tuning with re-initialised top layers, and the check of frozen layers (spec layerwise.md 6,
speat.md 4).

from layertool.training.ctc_run import Options, assess_run, fine_tune
run = fine_tune("facebook/wav2vec2-base", corpus, "run", Options(reinit_top=3))
assess_run(run.folder, corpus, Parts(test=parse_where(["split=test"])))["test"].rate.value
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from layertool.corpora.corpus import Corpus
from layertool.errors import UsageError
from layertool.geometry import SAMPLE_RATE
from layertool.models.computing import choose, drawing
from layertool.models.open import Model
from layertool.training import ctc_models, engine
from layertool.training.ctc import CTC, PhoneProbe, reinitialise_top
from layertool.training.ctc_data import Hearing, Material, Writing, material, transcribe, unspell
from layertool.training.ctc_models import MODEL_FILES, RECORD, Learner
from layertool.training.ctc_rates import Assessed, assess, write_transcripts
from layertool.training.encoders import Opened, collate, layer_names, open_encoder
from layertool.training.engine import Item, Say, Settings
from layertool.training.runs import RunFolder, plain
from layertool.training.series import Best, Selected
from layertool.training.tasks.ctc import CTC as Options

TRANSCRIPTS = "transcripts.csv"
ASSESSED_AT_ONCE = 8  # utterances
# options that are in the record: what was trained
DECIDE = ("tokens", "case", "reinit_top", "freeze", "weighted_sum", "normalise_layers", "unknown", "augment")
# SpeechBrain's wav2vec 2.0 CTC recipe; the paper does not say its steps, 10 000 with a tenth of warm-up are ours
TUNED = Settings(
    10_000, 1e-4, warmup_steps=1000, schedule="linear", batch_size=6, max_gradient_norm=5.0, save_steps=1000
)
# SUPERB's phone recognition (s3prl)
FROZEN = Settings(100_000, 1e-2, batch_size=16, accumulation=2, max_gradient_norm=1.0, save_steps=1000)


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


class Tuned(Best):
    """A finished run; ``facts["weights"]``: of each layer, for frozen networks."""

    Point = Point

    @property
    def options(self) -> Options:
        """What was trained."""
        return Options(**{name: value for name, value in self.facts["recipe"].items() if value != []})


class Writer(Selected):
    """A network that learns to write what it hears."""

    kind, record, result = "CTC fine-tuning", RECORD, Tuned
    outputs = (*Selected.outputs, *MODEL_FILES, TRANSCRIPTS)

    def __init__(self, opened: Opened, corpus: Corpus, options: Options, settings: Settings):
        self.opened, self.options, self.keeps_all = opened, options, options.keep_models
        self.batch_size, self.history = settings.batch_size, []
        self.material = there = material(corpus, options.parts, options.writing, opened, options.unknown)
        self.network: Learner = _network(opened, len(there.vocabulary), options, settings.seed)
        rows = {name: there.rows[name] for part in ("train", "dev") for name in there.parts[part]}
        n_states = len(layer_names(opened.encoder)) if options.freeze else 0
        self.hearing = Hearing(opened, rows, n_states, options.cache_gb * 1e9)
        self.names = there.parts["train"]
        self.lengths = [int(there.rows[name]["n_samples"]) / SAMPLE_RATE for name in self.names]
        own = {part: there.parts[part] for part in ("train", "dev")}
        said = [(name, there.tokens[name]) for names in own.values() for name in names]
        self.decided = {
            "model": opened.decided,
            "recipe": {name: plain(getattr(options, name)) for name in DECIDE},
            "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
            "parts": own,
            "said": xxhash.xxh3_128_hexdigest(repr(said).encode()),
            "states": {True: "once", False: "per batch"}[self.hearing.computed_once] if options.freeze else None,
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
        if self.options.freeze:
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
        ctc_models.save(self.network, self.opened, self.material.vocabulary, self.options.writing, folder, step)

    def measure(self, step: int) -> Point:
        found = _assess(self.network, self.hearing, self.material, self.options.writing, "dev", self.batch_size)
        return Point(step, found.rate.value, None if found.characters is None else found.characters.value)

    def facts(self) -> dict:
        kept = super().facts()
        weights = None
        if isinstance(self.network, PhoneProbe):
            ctc_models.load_head(self.network.cpu(), self.folder.path)
            weights = self.network.layer_weights
        return {
            "opened_as": self.opened.name,
            "statistics": self.options.statistics,
            "utterances": {part: len(own) for part, own in self.material.parts.items()},
            "unreachable": self.material.unreachable,
            "parameters": sum(p.numel() for p in self.network.parameters() if p.requires_grad),
            "weights": weights,
            **kept,
        }


def fine_tune(model: Model | str, corpus: Corpus, out: Path | str, options: Options | None = None, **how: Any) -> Tuned:
    """Train a MODEL with CTC on the train part; the network of the step with the best dev part is kept in ``out``.

    ``out`` is a MODEL for every command and for transformers, of a frozen run only the head (``ctc_models.load`` opens
    both). The dev part is transcribed every ``save_steps``; ``keep_models`` keeps those networks as ``out``/step-N.
    ``how``: device, progress and the like, as ``engine.run`` has them. A run that was stopped
    goes on with the numbers that it would have had; a finished one is returned as it is. ctc.json says what decided the
    run and what came out. Raises UsageError for more layers re-initialised than there are and empty parts, CorpusError
    for texts that cannot be learned, StoreError for a folder of something else, ModelError, AudioError.
    """
    options, out = options or Options(), Path(out)
    settings = options.settings(FROZEN if options.freeze else TUNED)
    model = Model.open(model)
    model.check_apart(out)
    with drawing(settings.seed):
        task = Writer(open_encoder(model, options.statistics), corpus, options, settings)
    return engine.run(task, settings, out, **how)


def _network(opened: Opened, n_tokens: int, options: Options, seed: int) -> Learner:
    if options.freeze:
        return PhoneProbe(opened.encoder, n_tokens, options.normalise_layers, seed=seed)
    reinitialise_top(opened.encoder, options.reinit_top[0] if options.reinit_top else 0, seed)
    return CTC(opened.encoder, n_tokens, seed=seed, augment=options.augment)


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
    folder: Path | str, corpus: Corpus, options: Options, model: Model | str | None = None, with_test: bool = True
) -> dict[str, Assessed]:
    """Transcribe the dev part, and the test part where there is one, with a finished run; transcripts.csv gets them.

    ``options``: parts, tokens that are not known, and the device. ``model``: of a frozen run, where it lies elsewhere
    now. Raises as ``fine_tune`` and ``ctc_models.load``.
    """
    folder = Path(folder)
    network, opened, vocabulary, writing = ctc_models.load(folder, model)
    parts = options.parts if with_test else replace(options.parts, test=None)
    there = material(corpus, parts, writing, opened, options.unknown)
    if there.vocabulary != vocabulary:
        raise UsageError(
            f"the train part of {corpus.name} has other tokens than {folder} was trained on: give the corpus and the "
            "--train-where of that run"
        )
    network.to(choose(options.device, "float32")[0])
    hearing = Hearing(opened, there.rows)
    names = [name for name in there.parts if name != "train"]
    found = {part: _assess(network, hearing, there, writing, part, ASSESSED_AT_ONCE) for part in names}
    write_transcripts(folder / TRANSCRIPTS, list(found.values()))
    return found
