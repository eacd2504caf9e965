"""Whisper as a listener: how likely it thinks words are, given a noisy clip (spec lexical.md 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layertool.analysis.lexical import search
from layertool.analysis.lexical.lexicon import SURFACES, Lexicon, in_tokens
from layertool.errors import CorpusError, ModelError, UsageError
from layertool.models import whisper
from layertool.models.computing import choose, computing_in
from layertool.models.open import Model

CHECKED = 1000  # words of a lexicon, for whether they are in this model's tokens
OUTPUT = "AutoModelForSpeechSeq2Seq"  # transformers' models with an output layer


@dataclass(frozen=True)
class Variant:
    """What the paper leaves open and what changes every number; rows say it in their settings.

    ``end_token``: the product ends with end-of-text, so that P is a distribution over words. ``surface``: how words are
    written (lexicon.SURFACES; "marginal" adds the probabilities of all). ``timestamps``: leave the token out that says
    there are none. ``window``: what the encoder sees (models.whisper.WINDOWS). ``language``: of multilingual models.
    """

    end_token: bool = True
    surface: str = "lower"
    timestamps: bool = False
    window: str = "30s"
    language: str | None = None

    def __post_init__(self) -> None:
        for value, known, what in ((self.surface, SURFACES, "surface form"), (self.window, whisper.WINDOWS, "window")):
            if value not in known:
                raise UsageError(f"'{value}' is no {what}: choose {', '.join(known)}")


class WhisperScorer:
    """A Whisper checkpoint that scores and ranks words on clips of 16 kHz.

    ``model``: a Model, a Hugging Face id (``name@revision``) or a local folder. ``random_init``: a seed, for the
    untrained control. Raises ModelError for what is no Whisper, UsageError for a language or device that is not there.
    """

    def __init__(
        self,
        model: Model | str | Path,
        variant: Variant | None = None,
        device: str = "auto",
        dtype: str = "float32",
        random_init: int | None = None,
    ):
        place, self.dtype = choose(device, dtype)
        opened, variant = open_whisper(Model.open(model, random_init=random_init)), variant or Variant()
        tokenizer, prefix = opened.tokenizer(variant.language, variant.timestamps)
        mel, network = opened.mel, opened.load(OUTPUT)
        self._set_up(network.to(place), tokenizer, prefix, mel, variant, opened.provenance)

    @classmethod
    def of(cls, network: Any, tokenizer: Any, prefix: list[int], mel: Any, variant: Variant) -> WhisperScorer:
        """The same of a network in memory, as it is."""
        self = cls.__new__(cls)
        self._set_up(network, tokenizer, prefix, mel, variant, {"id": "in memory"})
        self.dtype = torch.float32
        return self

    def _set_up(self, network: Any, tokenizer: Any, prefix: list[int], mel: Any, variant: Variant, provenance: dict):
        self.network, self.tokenizer, self.mel = network, tokenizer, mel
        self.variant, self.provenance = variant, provenance
        self.end_of_text = int(tokenizer.eos_token_id)
        self.encoder = network.model.encoder
        self.decoder = whisper.ForcedDecoder(network, prefix)
        self.layers = [f"T{k}" for k in range(len(self.encoder.layers) + 1)] + ["final"]
        self.layers += [f"D{k}" for k in range(self.decoder.n_layers + 1)]
        self.output_layer = self.layers[-1]  # what the model says is read there
        self.device = self.decoder.decoder.embed_tokens.weight.device

    @contextmanager
    def computing(self) -> Iterator[None]:
        """No gradients, in the precision that was asked for."""
        with torch.inference_mode(), computing_in(self.device, self.dtype):
            yield

    def tokenise(self, words: Sequence[str]) -> list[list[int]]:
        """Tokens of words, each with a space before it. Raises CorpusError for one that has none, or special ones."""
        tokens = self.tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"] if words else []
        for word, ids in zip(words, tokens, strict=True):
            if not ids:
                raise CorpusError(f"the word '{word}' has no tokens, so it has no probability: take it out")
            if max(ids) >= self.end_of_text:  # text comes before it, times and languages after it
                raise CorpusError(f"the word '{word}' is a special token of the model: take it out")
        return tokens

    def lexicon(self, words: Sequence[str]) -> Lexicon:
        """The prefix tree of words, for ``top_words`` on many clips."""
        return Lexicon(_words(words), self.tokenise, self.variant.surface)

    def encode(
        self, waveforms: Sequence[np.ndarray], layers: Sequence[str] = ("final",)
    ) -> dict[str, list[torch.Tensor]]:
        """Encoder layers of clips: layer -> for each clip what the decoder can read, (positions, width).

        T layers go through the encoder's last norm; T0 is the input of the first block. Raises AudioError beyond 30 s.
        """
        own = [whisper.n_positions(len(waveform)) for waveform in waveforms]
        features = whisper.log_mel(self.mel, waveforms).to(self.device)
        exact = own if self.variant.window == "exact" else None
        with self.computing():
            found = whisper.encoder_layers(self.encoder, features, exact, layers)
            found = {
                name: hidden if name == "final" else self.encoder.layer_norm(hidden) for name, hidden in found.items()
            }
        kept = [slice(None) if self.variant.window == "30s" else slice(n) for n in own]
        return {name: [hidden[k, part] for k, part in enumerate(kept)] for name, hidden in found.items()}

    def read(self, heard: whisper.Heard | torch.Tensor, layer: str | None = None) -> whisper.Reading:
        """Begin to read words on one clip, or its states; ``layer``: a decoder layer D0 to DM to read the words
        from."""
        if layer is not None and layer not in self.layers[-self.decoder.n_layers - 1 :]:
            raise UsageError(f"words are read from decoder layers D0 to {self.output_layer}, not from {layer}")
        return self.decoder.read(heard, None if layer is None else int(layer[1:]))

    def score(self, reading: whisper.Reading, words: Sequence[str], end_token: bool | None = None) -> np.ndarray:
        """Log-probability of words, shape (len(words),), float64; words that begin alike share the work."""
        if empty := [word for word in words if not word.strip()]:
            raise CorpusError(f"the word '{empty[0]}' has no letters, so it has no probability: take it out")
        forms = in_tokens(words, self.variant.surface, self.tokenise)
        ends = self.variant.end_token if end_token is None else end_token
        return search.score_words(reading, forms, self.end_of_text if ends else None)

    def rank(
        self, reading: whisper.Reading, lexicon: Lexicon, n: int, most_prefixes: int = search.MOST_PREFIXES
    ) -> search.Found:
        """The n most likely words of a lexicon, in order."""
        return search.most_likely(reading, lexicon, n, self.end, most_prefixes)

    @property
    def end(self) -> int | None:
        """The token that ends a word, None where the variant has none."""
        return self.end_of_text if self.variant.end_token else None

    def log_probs(self, waveform: np.ndarray, words: Sequence[str], end_token: bool | None = None) -> np.ndarray:
        """Natural log-probability of each word on a clip, shape (len(words),), float64.

        ``waveform``: (n_samples,) at 16 kHz, up to 30 s. ``end_token``: whether the end-of-text token is in the product
        (default: as the variant says, which is yes). Section 3 of the spec; one encoder and one decoder pass.
        """
        with self.computing():
            return self.score(self.read(self.encode([_clip(waveform)])["final"][0]), _words(words), end_token)

    def top_words(self, waveform: np.ndarray, lexicon: Lexicon | Sequence[str], n: int) -> list[tuple[str, float]]:
        """The n most likely words of a lexicon on a clip, best first, each with its log-probability. Exact.

        ``lexicon``: words, or what ``lexicon()`` made of them once for many clips. Raises ModelError where the model
        knows so little that more than search.MOST_PREFIXES prefixes would have to be opened.
        """
        if not isinstance(n, int | np.integer) or n < 1:
            raise UsageError(f"{n} words cannot be ranked: ask for at least 1")
        if not isinstance(lexicon, Lexicon):
            lexicon = self.lexicon(lexicon)
        elif lexicon.surface != self.variant.surface or lexicon.forms[:CHECKED] != in_tokens(
            lexicon.words[:CHECKED], lexicon.surface, self.tokenise
        ):
            raise UsageError(
                "this lexicon was made for another model or surface form: make it with this one's lexicon()"
            )
        with self.computing():
            found = self.rank(self.read(self.encode([_clip(waveform)])["final"][0]), lexicon, n)
        if not found.exact:
            raise ModelError(
                f"{self.provenance['id']} finds so many words equally likely that {search.MOST_PREFIXES} "
                "prefixes did not "
                "decide which are the best: score the words with log_probs"
            )
        return list(zip(found.words, found.log_p, strict=True))


def open_whisper(model: Model | str) -> Model:
    """A Whisper checkpoint. Raises ModelError for any other model."""
    model = Model.open(model)
    if model.type != "whisper":
        raise ModelError(
            f"{model} is of type '{model.type}'; lexical responses need Whisper's decoder: give a Whisper checkpoint"
        )
    return model


def _words(words: Sequence[str]) -> list[str]:
    if isinstance(words, str):
        raise UsageError(f"'{words}' is one word, a list of words is wanted: ['{words}']")
    return list(words)


def _clip(waveform: np.ndarray) -> np.ndarray:
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 1 or not waveform.size or not np.isfinite(waveform).all():
        raise UsageError(
            f"a clip is a row of finite samples, not of shape {waveform.shape}: give one channel at 16 kHz"
        )
    return waveform
