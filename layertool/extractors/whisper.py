"""Whisper: the encoder's layers over the frames that belong to the audio, and the decoder's on given text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from layertool.errors import CorpusError, UsageError
from layertool.extractors.base import Emit, Extractor, Item, Layer
from layertool.extractors.hooks import Hook, after, before, hooked
from layertool.geometry import FRAME_HOP, MODEL_HOP, SAMPLE_RATE, FrameGeometry
from layertool.models.checkpoint_files import split_revision
from layertool.models.checkpoints import load_model
from layertool.models.computing import computing_in
from layertool.models.whisper import (
    WINDOW_POSITIONS,
    WINDOW_SAMPLES,
    WINDOWS,
    encode,
    load_mel,
    load_tokenizer,
    n_positions,
)

# log-mel frames: 400 samples centred on every 160th; conv1 sees 3 of them, conv2 3 of conv1's
CONV1 = FrameGeometry(FRAME_HOP, 400 + 2 * FRAME_HOP, -(200 + FRAME_HOP), centred=True)
CONV2 = FrameGeometry(MODEL_HOP, 400 + 4 * FRAME_HOP, -(200 + 2 * FRAME_HOP), centred=True)


class WhisperExtractor(Extractor):
    """One Whisper checkpoint.

    Encoder layers C1, C2 (after GELU), T0 (with positions) to TL and ``final``; of the 1500 frames
    those of the audio are kept: ceil(n/320) (``encoder_window`` "30s": all of them; "exact": the encoder sees no
    others). Decoder layers D0 to DM are the states at the tokens of
    the utterance's text, forced after the checkpoint's own prefix without timestamps; every word is
    tokenised with a leading space.
    """

    max_window = WINDOW_SAMPLES

    def __init__(
        self,
        model: str,
        config: Any,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        random_init: int | None = None,
        language: str | None = None,
        encoder_window: str = "clip",
    ):
        if encoder_window not in WINDOWS:
            raise UsageError(f"'{encoder_window}' is no encoder window: choose {', '.join(WINDOWS)}")
        self.name, self.revision = split_revision(model)
        self.mel, self.language = load_mel(self.name, self.revision, config), language
        if language is not None:  # the tokenizer is loaded again where decoder layers are asked
            load_tokenizer(self.name, self.revision, config, language)
        self.network, provenance, self.lacking = load_model(model, config, random_init, partly=True)
        self._count_parameters(self.network, self.lacking)
        self.network.to(device)
        self.device, self.dtype = device, dtype
        self.provenance = {"family": "Whisper", **provenance}
        self._encoder_blocks, self._decoder_blocks = (
            list(self.network.encoder.layers),
            list(self.network.decoder.layers),
        )
        width = config.d_model
        self.encoder_window = encoder_window
        conv1, conv2 = CONV1, CONV2
        if encoder_window != "clip":
            self.provenance["encoder_window"] = encoder_window
        if encoder_window == "30s":
            self.only_unit = "frame"
            conv1, conv2 = replace(CONV1, always=2 * WINDOW_POSITIONS), replace(CONV2, always=WINDOW_POSITIONS)
        self.layers = {"C1": Layer(width, conv1), "C2": Layer(width, conv2)}
        self.layers |= {f"T{k}": Layer(width, conv2) for k in range(config.encoder_layers + 1)}
        self.layers["final"] = Layer(width, conv2)
        if {f"decoder.{name}" for name, _ in self.network.decoder.named_parameters()} - set(
            self.lacking
        ):  # else an encoder alone
            self.layers |= {f"D{k}": Layer(width, None) for k in range(config.decoder_layers + 1)}
        self.max_tokens = config.max_target_positions
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
        encoder, decoder = self._encoder_blocks, [int(name[1:]) for name in layers if name.startswith("D")]
        self.provenance.pop("decoder_prefix", None)
        self._tokenizer = None
        if decoder:
            self._tokenizer, prefix = load_tokenizer(self.name, self.revision, self.network.config, self.language)
            self.provenance["decoder_prefix"] = prefix
        elif "final" not in layers:
            top = max((int(name[1:]) for name in layers if name.startswith("T")), default=0)
            encoder = encoder[: max(top, 1)]
        self.network.encoder.layers = torch.nn.ModuleList(encoder)
        self.network.decoder.layers = torch.nn.ModuleList(self._decoder_blocks[: max([*decoder, 1])] if decoder else [])

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
                f"utterance '{item.utterance}' has no text, which decoder layers need: add a 'text' column to the corpus, "
                "or leave the D layers out"
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
                f"the text of utterance '{item.utterance}' has {len(tokens)} tokens, the decoder takes {self.max_tokens}: cut it"
            )
        item.token_spans = np.array(spans, dtype=np.int64)
        return tokens

    @torch.inference_mode()
    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        batch = torch.from_numpy(np.stack([item.model_input for item in items]))
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        of_decoder = [name for name in layers if name.startswith("D")]
        of_encoder = [name for name in layers if name not in of_decoder]
        exact = [n_positions(len(item.samples)) for item in items] if self.encoder_window == "exact" else None
        with computing_in(self.device, self.dtype):
            with hooked(self._hooks(of_encoder, emit)):
                states = encode(self.network.encoder, batch.to(self.device, non_blocking=True), exact)
            if self._tokenizer is not None:
                longest = max(len(item.tokens) for item in items)
                # padding comes after the text, and attention is causal: it changes nothing
                padded = [item.tokens + [item.tokens[-1]] * (longest - len(item.tokens)) for item in items]
                self._decode(torch.tensor(padded, device=self.device), states, exact, of_decoder, emit)

    def _decode(self, tokens, states, exact: list[int] | None, layers: list[str], emit: Emit) -> None:
        decoder = self.network.decoder
        if exact is None:
            with hooked(self._hooks(layers, emit)):
                decoder(input_ids=tokens, encoder_hidden_states=states, use_cache=False)
            return
        alone: dict[str, list[torch.Tensor]] = {}  # a clip's text must not hear the padding behind it
        with hooked(self._hooks(layers, lambda name, hidden: alone.setdefault(name, []).append(hidden))):
            for k, n in enumerate(exact):
                decoder(input_ids=tokens[k : k + 1], encoder_hidden_states=states[k : k + 1, :n], use_cache=False)
        for name, hidden in alone.items():
            emit(name, torch.cat(hidden))

    def _hooks(self, layers: Sequence[str], emit: Emit) -> list[Hook]:
        encoder, decoder, hooks = self.network.encoder, self.network.decoder, []
        for name in layers:
            blocks = decoder.layers if name.startswith("D") else encoder.layers
            if name in ("C1", "C2"):
                hooks.append(after(getattr(encoder, f"conv{name[1]}"), emit, name, _activated))
            elif name in ("T0", "D0"):
                hooks.append(before(blocks[0], emit, name))
            elif name == "final":
                hooks.append(after(encoder.layer_norm, emit, name))
            else:
                hooks.append(after(blocks[int(name[1:]) - 1], emit, name))
        return hooks


def _activated(hidden: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(hidden).transpose(1, 2)
