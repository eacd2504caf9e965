"""Whisper: the encoder's layers over the frames that belong to the audio, and the decoder's on given text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from layertool.errors import CorpusError
from layertool.extractors.base import Emit, Extractor, Item, needed_blocks
from layertool.geometry import MODEL_HOP, SAMPLE_RATE
from layertool.models.computing import computing_in
from layertool.models.hooks import Tap, block_taps, tapped
from layertool.models.open import Model
from layertool.models.padding import moved
from layertool.models.whisper import WINDOW_SAMPLES, encode, n_positions


class WhisperExtractor(Extractor):
    """One Whisper checkpoint.

    Encoder layers C1, C2 (after GELU), T0 (with positions) to TL and ``final``; of the 1500 frames
    those of the audio are kept: ceil(n/320) (``encoder_window`` "30s": all of them; "exact": the encoder sees no
    others). Decoder layers D0 to DM are the states at the tokens of
    the utterance's text, forced after the checkpoint's own prefix without timestamps; every word is
    tokenised with a leading space.
    """

    max_window = WINDOW_SAMPLES

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype = torch.float32):
        self.model, self.mel, self.encoder_window = model, model.mel, model.asked.encoder_window
        if model.asked.language is not None:  # the tokenizer is loaded again where decoder layers are asked
            model.tokenizer(model.asked.language)
        _ = model.layers  # which the weights say
        self._take(model, model.load(partly=True), device, dtype)
        self.only_unit = "frame" if self.encoder_window == "30s" else None
        encoder, decoder = self.network.encoder, self.network.decoder
        self._encoder_blocks, self._decoder_blocks = list(encoder.layers), list(decoder.layers)
        self.taps = {"C1": Tap(encoder.conv1, change=_activated), "C2": Tap(encoder.conv2, change=_activated)}
        self.taps |= block_taps(self._encoder_blocks, encoder.layer_norm) | block_taps(self._decoder_blocks, None, "D")
        self.max_tokens = self.network.config.max_target_positions
        self._tokenizer: Any = None

    def padded_samples(self, n_samples: int) -> int:
        if self.encoder_window == "exact":
            return -(-n_samples // MODEL_HOP) * MODEL_HOP  # whole frames
        return WINDOW_SAMPLES

    def first_layer(self, parameter: str) -> str | None:
        half, _, rest = parameter.partition(".")
        part, _, rest = rest.partition(".")
        if part == "layers":
            return f"{'T' if half == 'encoder' else 'D'}{int(rest.partition('.')[0]) + 1}"
        if half == "decoder":
            return None if part == "layer_norm" else "D0"
        return {"conv1": "C1", "conv2": "C2", "layer_norm": "final"}.get(part, "T0")

    def restrict(self, layers: Sequence[str]) -> None:
        """Drop the blocks above the highest asked layer, and the decoder when none of its layers is asked."""
        self.check_whole(layers)
        self.provenance.pop("decoder_prefix", None)
        self._tokenizer = None
        encoder, decoder = self._encoder_blocks, [name for name in layers if name.startswith("D")]
        if decoder:
            self._tokenizer, self.provenance["decoder_prefix"] = self.model.tokenizer(self.model.asked.language)
        self.network.encoder.layers = needed_blocks(encoder, ["final"] if decoder else layers)
        self.network.decoder.layers = needed_blocks(self._decoder_blocks if decoder else [], decoder, "D")

    def prepare(self, item: Item) -> None:
        if self.encoder_window == "30s" and not item.is_whole:
            raise CorpusError(
                f"utterance '{item.utterance}' is longer than 30 s, the most that --encoder-window 30s can keep: cut it"
            )
        if self._tokenizer is not None:
            item.tokens = self._tokens(item)
        features = self.mel(item.samples, sampling_rate=SAMPLE_RATE, return_tensors="np")
        item.model_input = features["input_features"][0]

    def _tokens(self, item: Item) -> list[int]:
        """Prefix and text tokens; notes in the item where each word's tokens are."""
        words = (item.text or "").split()
        if not words:
            raise CorpusError(
                f"utterance '{item.utterance}' has no text, which decoder layers need: add a 'text' column to the "
                f"corpus, or leave the D layers out"
            )
        if not item.is_whole:
            raise CorpusError(
                f"utterance '{item.utterance}' is longer than 30 s, so its text cannot be forced in one piece: "
                "cut it, or leave the D layers out"
            )
        tokens = list(self.provenance["decoder_prefix"])
        spans = []
        for word in words:
            ids = self._tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            spans.append((len(tokens), len(tokens) + len(ids)))
            tokens += ids
        if len(tokens) > self.max_tokens:
            raise CorpusError(
                f"the text of utterance '{item.utterance}' has {len(tokens)} tokens, the decoder takes "
                f"{self.max_tokens}: cut it"
            )
        item.token_spans = np.array(spans, dtype=np.int64)
        return tokens

    @torch.inference_mode()
    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        batch = torch.from_numpy(np.stack([item.model_input for item in items]))
        of_decoder = [name for name in layers if name.startswith("D")]
        of_encoder = [name for name in layers if name not in of_decoder]
        exact = [n_positions(len(item.samples)) for item in items] if self.encoder_window == "exact" else None
        with computing_in(self.device, self.dtype):
            with tapped(self.taps, of_encoder, emit):
                states = encode(self.network.encoder, moved(batch, self.device), exact)
            if self._tokenizer is not None:
                longest = max(len(item.tokens) for item in items)
                # padding comes after the text, and attention is causal: it changes nothing
                padded = [item.tokens + [item.tokens[-1]] * (longest - len(item.tokens)) for item in items]
                self._decode(torch.tensor(padded, device=self.device), states, exact, of_decoder, emit)

    def _decode(self, tokens, states, exact: list[int] | None, layers: list[str], emit: Emit) -> None:
        decoder = self.network.decoder
        if exact is None:
            with tapped(self.taps, layers, emit):
                decoder(input_ids=tokens, encoder_hidden_states=states, use_cache=False)
            return
        alone: dict[str, list[torch.Tensor]] = {}  # a clip's text must not hear the padding behind it
        with tapped(self.taps, layers, lambda name, hidden: alone.setdefault(name, []).append(hidden)):
            for k, n in enumerate(exact):
                decoder(input_ids=tokens[k : k + 1], encoder_hidden_states=states[k : k + 1, :n], use_cache=False)
        for name, hidden in alone.items():
            emit(name, torch.cat(hidden))


def _activated(hidden: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(hidden).transpose(1, 2)
