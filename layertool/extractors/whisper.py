"""Whisper: the encoder's layers over the frames that belong to the audio, and the decoder's on given text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from layertool.errors import CorpusError, ModelError, UsageError
from layertool.extractors.base import Emit, Extractor, Item, Layer
from layertool.extractors.checkpoints import load_model, split_revision
from layertool.extractors.hooks import Hook, after, before, computing_in, hooked
from layertool.geometry import FRAME_HOP, MODEL_HOP, SAMPLE_RATE, FrameGeometry

WINDOW_SAMPLES = 30 * SAMPLE_RATE  # the encoder always sees 30 s
# log-mel frames: 400 samples centred on every 160th; conv1 sees 3 of them, conv2 3 of conv1's
CONV1 = FrameGeometry(FRAME_HOP, 400 + 2 * FRAME_HOP, -(200 + FRAME_HOP), centred=True)
CONV2 = FrameGeometry(MODEL_HOP, 400 + 4 * FRAME_HOP, -(200 + 2 * FRAME_HOP), centred=True)


class WhisperExtractor(Extractor):
    """One Whisper checkpoint.

    Encoder layers C1, C2 (after GELU), T0 (with positions) to TL and ``final``; of the 1500 frames
    those of the audio are kept: ceil(n/320). Decoder layers D0 to DM are the states at the tokens of
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
    ):
        from transformers import WhisperFeatureExtractor

        self.network, provenance, _ = load_model(model, config, random_init)
        self._count_parameters(self.network)
        self.network.to(device)
        self.device, self.dtype = device, dtype
        self.name, self.revision = split_revision(model)
        self.language = language or "en"
        if self.language != "en" and not self._is_multilingual():
            raise UsageError(f"{self.name} is an English-only checkpoint: leave out --language {self.language}")
        try:
            self.mel = WhisperFeatureExtractor.from_pretrained(self.name, revision=self.revision or "main")
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{self.name} has no preprocessor_config.json, so its log-mel input is unknown: add the file"
            ) from error
        self.provenance = {"family": "Whisper", **provenance}
        self._encoder_blocks, self._decoder_blocks = (
            list(self.network.encoder.layers),
            list(self.network.decoder.layers),
        )
        width = config.d_model
        self.layers = {"C1": Layer(width, CONV1), "C2": Layer(width, CONV2)}
        self.layers |= {f"T{k}": Layer(width, CONV2) for k in range(config.encoder_layers + 1)}
        self.layers["final"] = Layer(width, CONV2)
        self.layers |= {f"D{k}": Layer(width, None) for k in range(config.decoder_layers + 1)}
        self.max_tokens = config.max_target_positions
        self._tokenizer: Any = None

    def padded_samples(self, n_samples: int) -> int:
        return WINDOW_SAMPLES

    def restrict(self, layers: Sequence[str]) -> None:
        """Drop the blocks above the highest asked layer, and the decoder when none of its layers is asked."""
        encoder, decoder = self._encoder_blocks, [int(name[1:]) for name in layers if name.startswith("D")]
        self.provenance.pop("decoder_prefix", None)
        self._tokenizer = None
        if decoder:
            self._tokenizer = self._load_tokenizer()
            self.provenance["decoder_prefix"] = [int(token) for token in self._tokenizer.prefix_tokens]
        elif "final" not in layers:
            top = max((int(name[1:]) for name in layers if name.startswith("T")), default=0)
            encoder = encoder[: max(top, 1)]
        self.network.encoder.layers = torch.nn.ModuleList(encoder)
        self.network.decoder.layers = torch.nn.ModuleList(self._decoder_blocks[: max([*decoder, 1])] if decoder else [])

    def _load_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        no_tokenizer = f"{self.name} has no tokenizer, which decoder layers need: add tokenizer.json"
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.name, revision=self.revision, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelError(no_tokenizer) from error
        if "<|startoftranscript|>" not in tokenizer.get_vocab():  # transformers makes an empty one without the file
            raise ModelError(no_tokenizer)
        if tokenizer.convert_tokens_to_ids("<|transcribe|>") in tokenizer.all_special_ids and self._is_multilingual():
            try:
                tokenizer.set_prefix_tokens(language=self.language, task="transcribe", predict_timestamps=False)
            except ValueError as error:
                raise ModelError(
                    f"{self.name} does not know the language '{self.language}': choose another --language"
                ) from error
        return tokenizer

    def _is_multilingual(self) -> bool:
        return self.network.config.vocab_size >= 51865  # English-only checkpoints have 51864 entries

    def prepare(self, item: Item) -> None:
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
        tokens = list(self._tokenizer.prefix_tokens)
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
        encoder, decoder = self.network.encoder, self.network.decoder
        wants_decoder = self._tokenizer is not None
        with hooked(self._hooks(layers, emit)), computing_in(self.device, self.dtype):
            states = encoder(batch.to(self.device, non_blocking=True)).last_hidden_state
            if wants_decoder:
                tokens = [item.tokens for item in items]
                longest = max(map(len, tokens))
                # padding comes after the text, and attention is causal: it changes nothing
                padded = torch.tensor([ids + [ids[-1]] * (longest - len(ids)) for ids in tokens], device=self.device)
                decoder(input_ids=padded, encoder_hidden_states=states, use_cache=False)

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
