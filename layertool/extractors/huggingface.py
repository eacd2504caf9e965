"""wav2vec 2.0 and its relatives in transformers: a convolution stack on the waveform, then blocks.

Batched features equal single ones because three things are put right that padding would change:
the first convolution's GroupNorm takes its statistics over each clip's own frames; every padded
convolution inside the encoder sees zeros where a clip has ended; attention is masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from layertool.errors import ModelError
from layertool.extractors.base import Emit, Extractor, Item
from layertool.extractors.masking import LENGTH, PROBABILITY, TimeMask
from layertool.models.computing import computing_in
from layertool.models.hooks import Tap, block_taps, hooked, tapped
from layertool.models.open import Model
from layertool.models.padding import each_alone, moved, padded

HOLDING_ATTENTION = ("wavlm", "wav2vec2-conformer")  # the others' is fused
MASK_EMBEDDING = "masked_spec_embed"  # only masked frames are computed from it


class SpeechExtractor(Extractor):
    """One encoder of the wav2vec 2.0 kind, in transformers' network."""

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype = torch.float32):
        _ = model.normalises  # what is wrong with its input is said before its weights are read
        self._take(model, model.load(partly=True), device, dtype)
        config, encoder = self.network.config, self.network.encoder
        self._blocks = list(encoder.layers)
        self.geometry, self.min_samples = model.geometry, model.geometry.field
        if config.model_type in HOLDING_ATTENTION:
            self.attention_heads = config.num_attention_heads
        self.taps = block_taps(self._blocks, encoder.layer_norm if "final" in self.layers else None)
        for k, convolution in enumerate(self.network.feature_extractor.conv_layers, start=1):
            self.taps[f"C{k}"] = Tap(convolution, change=lambda hidden: hidden.transpose(1, 2))

    def time_mask(self, seed: int, probability: float | None = None, length: int | None = None) -> TimeMask:
        """The mask of pre-training. Raises ModelError where the checkpoint has nothing to put at masked frames."""
        name = self.provenance["id"]
        if not hasattr(self.network, "masked_spec_embed"):
            raise ModelError(
                f"{name} has nothing to put at masked frames (its config.json has mask_time_prob and "
                f"mask_feature_prob 0): "
                "leave out --mask-seed; or, if masked_spec_embed is among its weights, set mask_time_prob above 0 in "
                "a copy"
            )
        if MASK_EMBEDDING in self.lacking:
            raise ModelError(
                f"{name} has no {MASK_EMBEDDING} among its weights, so random numbers would stand at masked frames: "
                "take the pre-trained checkpoint, or leave out --mask-seed"
            )
        if probability is None:
            probability = PROBABILITY[self.network.config.model_type]
        return TimeMask(int(seed), float(probability), int(LENGTH if length is None else length), self.geometry)

    def first_layer(self, parameter: str) -> str | None:
        part, _, rest = parameter.partition(".")
        kind, _, rest = rest.partition(".")
        number = int(rest.partition(".")[0]) + 1 if kind in ("conv_layers", "layers") else 0
        if part == "feature_extractor":
            return f"C{number}"
        if part == "encoder" and kind == "layers":
            return f"T{number}"
        if part == "encoder" and kind == "layer_norm" and "final" in self.layers:
            return "final"
        return "T0" if part in ("feature_projection", "encoder") else None

    @torch.inference_mode()
    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        lengths = [len(item.samples) for item in items]
        batch = moved(padded([item.samples for item in items]), self.device)
        with (
            each_alone(self.network, lengths, batch) as attention,
            hooked(self._masking(items, self.geometry.n_frames(max(lengths)))),
            tapped(self.taps, layers, emit),
            computing_in(self.device, self.dtype),
        ):
            self.network(batch, attention_mask=attention)

    def _masking(self, items: Sequence[Item], n_frames: int) -> Iterator[Any]:
        """Puts the mask embedding at the masked frames, after the projection, before the positions are added.

        The ``mask_time_indices`` of transformers do the same, but not where a checkpoint's configuration has
        ``apply_spec_augment`` off: there they are left aside without a word.
        """
        if all(item.masked is None for item in items):
            return
        masked = torch.zeros(len(items), n_frames, 1, dtype=torch.bool)
        for k, item in enumerate(items):
            if item.masked is not None:
                masked[k, : len(item.masked), 0] = torch.from_numpy(item.masked)
        masked = masked.to(self.device)
        embedding = self.network.masked_spec_embed

        def replace(_module, _inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = torch.where(masked, embedding.to(hidden.dtype), hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        yield self.network.feature_projection.register_forward_hook(replace)
