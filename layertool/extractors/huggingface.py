"""wav2vec 2.0 and its relatives in transformers: a convolution stack on the waveform, then blocks.

Batched features equal single ones because three things are put right that padding would change:
the first convolution's GroupNorm takes its statistics over each clip's own frames; every padded
convolution inside the encoder sees zeros where a clip has ended; attention is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from layertool.errors import ModelError
from layertool.extractors.base import Emit, Extractor, Item, Layer
from layertool.extractors.hooks import Hook, after, before, hooked
from layertool.extractors.masking import LENGTH, PROBABILITY, TimeMask
from layertool.geometry import convolution_geometry
from layertool.models.checkpoint_files import normalises
from layertool.models.checkpoints import load_model
from layertool.models.computing import computing_in

# transformers model types with this structure (XLS-R, MMS are wav2vec2; DistilHuBERT is hubert).
MODEL_TYPES = {
    "wav2vec2": "wav2vec 2.0",
    "hubert": "HuBERT",
    "wavlm": "WavLM",
    "data2vec-audio": "data2vec-audio",
    "unispeech": "UniSpeech",
    "unispeech-sat": "UniSpeech-SAT",
    "wav2vec2-conformer": "wav2vec2-conformer",
}
MASK_EMBEDDING = "masked_spec_embed"  # only masked frames are computed from it
EPSILON = 1e-7  # of transformers' Wav2Vec2FeatureExtractor


class ClipGroupNorm(nn.Module):
    """A GroupNorm over time that, in a padded batch, normalises each clip over its own frames."""

    def __init__(self, norm: nn.GroupNorm):
        super().__init__()
        self.norm = norm
        self.lengths: list[int] | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.lengths is None:
            return self.norm(hidden)
        out = hidden  # in place: the convolution's output is used nowhere else
        for k, length in enumerate(self.lengths):
            clip = self.norm(hidden[k : k + 1, :, :length])
            if clip.dtype != out.dtype:  # autocast normalises in float32
                out = out.to(clip.dtype)
            out[k : k + 1, :, :length] = clip
        return out


class SpeechExtractor(Extractor):
    """One encoder of the wav2vec 2.0 kind.

    ``network``: transformers' model, in evaluation mode; ``provenance``: what identifies it; ``normalises``: whether the
    waveform gets zero mean and unit variance over the whole utterance; ``lacking``: parameters that the checkpoint
    had not, whose layers are refused; ``epsilon``: added to the variance (fairseq's is another).
    """

    def __init__(
        self,
        network: Any,
        provenance: dict,
        normalises: bool,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        lacking: Sequence[str] = (),
        epsilon: float = EPSILON,
    ):
        self.network, self.lacking, config = network, list(lacking), network.config
        self._count_parameters(self.network, lacking)
        self.network.to(device)
        self.device, self.dtype = device, dtype
        self.normalises, self.epsilon = normalises, epsilon
        self.provenance = {"family": MODEL_TYPES[config.model_type], **provenance, "normalise": self.normalises}
        convolutions = self.network.feature_extractor.conv_layers
        geometry = convolution_geometry(config.conv_kernel, config.conv_stride)
        self._blocks = list(self.network.encoder.layers)
        hidden, n_blocks = config.hidden_size, len(self._blocks)
        self.layers = {f"C{k}": Layer(config.conv_dim[k - 1], g) for k, g in enumerate(geometry, start=1)}
        self.layers |= {f"T{k}": Layer(hidden, geometry[-1]) for k in range(n_blocks + 1)}
        # post-norm encoders apply encoder.layer_norm before their first block: nothing comes after the last
        self.has_final = (
            bool(getattr(config, "do_stable_layer_norm", False)) or config.model_type == "wav2vec2-conformer"
        )
        if self.has_final:
            self.layers["final"] = Layer(hidden, geometry[-1])
        self.first_geometry, self.geometry = geometry[0], geometry[-1]
        self.min_samples = self.geometry.field
        self.group_norm: ClipGroupNorm | None = None
        norm = getattr(convolutions[0], "layer_norm", None)
        if isinstance(norm, nn.GroupNorm):
            self.group_norm = convolutions[0].layer_norm = ClipGroupNorm(norm)
        self._mask: torch.Tensor | None = None
        for module in self.network.encoder.modules():
            if isinstance(module, nn.Conv1d) and module.padding != (0,):
                module.register_forward_pre_hook(self._zero_padding)

    @classmethod
    def open(
        cls,
        model: str,
        config: Any,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        random_init: int | None = None,
        normalise: bool | None = None,
    ) -> SpeechExtractor:
        """The extractor of a Hugging Face checkpoint; ``normalise``: None follows its preprocessor."""
        normalised = normalises(model, config, normalise)
        network, provenance, lacking = load_model(model, config, random_init, partly=True)
        epsilon = provenance.get("normalisation_epsilon") or EPSILON
        made = cls(network, provenance, normalised, device, dtype, lacking, epsilon)
        made.name = model
        return made

    def _zero_padding(self, _module: nn.Module, inputs: tuple) -> tuple | None:
        if self._mask is None:
            return None
        return (inputs[0].masked_fill(~self._mask[:, None, :], 0.0), *inputs[1:])

    def normalise(self, waveform: np.ndarray) -> np.ndarray:
        if not self.normalises:
            return waveform
        mean, variance = waveform.mean(dtype=np.float64), waveform.var(dtype=np.float64)
        return ((waveform - mean) / np.sqrt(variance + self.epsilon)).astype(np.float32)

    def time_mask(self, seed: int, probability: float | None = None, length: int | None = None) -> TimeMask:
        """The mask of pre-training. Raises ModelError where the checkpoint has nothing to put at masked frames."""
        name = self.provenance["id"]
        if not hasattr(self.network, "masked_spec_embed"):
            raise ModelError(
                f"{name} has nothing to put at masked frames (its config.json has mask_time_prob and mask_feature_prob 0): "
                "leave out --mask-seed; or, if masked_spec_embed is among its weights, set mask_time_prob above 0 in a copy"
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
        if part == "encoder" and kind == "layer_norm" and self.has_final:
            return "final"
        return "T0" if part in ("feature_projection", "encoder") else None

    def restrict(self, layers: Sequence[str]) -> None:
        """Drop the blocks above the highest asked layer: their work would be thrown away."""
        self.check_whole(layers)
        top = max((int(name[1:]) for name in layers if name.startswith("T")), default=0)
        # the first stays: T0 is what goes into it
        blocks = self._blocks if "final" in layers else self._blocks[: max(top, 1)]
        self.network.encoder.layers = nn.ModuleList(blocks)

    @torch.inference_mode()
    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        lengths = [len(item.samples) for item in items]
        longest = max(lengths)
        batch = torch.zeros(len(items), longest)
        for k, item in enumerate(items):
            batch[k, : lengths[k]] = torch.from_numpy(item.samples)
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True)
        attention = None
        if min(lengths) < longest:
            ends = torch.tensor(lengths, device=self.device)[:, None]
            attention = (torch.arange(longest, device=self.device) < ends).long()
            frames = torch.tensor([self.geometry.n_frames(n) for n in lengths], device=self.device)[:, None]
            self._mask = torch.arange(self.geometry.n_frames(longest), device=self.device) < frames
            if self.group_norm is not None:
                self.group_norm.lengths = [self.first_geometry.n_frames(n) for n in lengths]
        try:
            hooks = self._hooks(layers, emit) + self._masking(items, self.geometry.n_frames(longest))
            with hooked(hooks), computing_in(self.device, self.dtype):
                self.network(batch, attention_mask=attention)
        finally:
            self._mask = None
            if self.group_norm is not None:
                self.group_norm.lengths = None

    def _hooks(self, layers: Sequence[str], emit: Emit) -> list[Hook]:
        network, hooks = self.network, []
        for name in layers:
            number = int(name[1:]) if name != "final" else 0
            if name.startswith("C"):
                hooks.append(after(network.feature_extractor.conv_layers[number - 1], emit, name, _channels_last))
            elif name == "T0":
                hooks.append(before(network.encoder.layers[0], emit, name))
            elif name == "final":
                hooks.append(after(network.encoder.layer_norm, emit, name))
            else:
                hooks.append(after(network.encoder.layers[number - 1], emit, name))
        return hooks

    def _masking(self, items: Sequence[Item], n_frames: int) -> list[Hook]:
        """Puts the mask embedding at the masked frames, after the projection, before the positions are added.

        The ``mask_time_indices`` of transformers do the same, but not where a checkpoint's configuration has
        ``apply_spec_augment`` off: there they are left aside without a word.
        """
        if all(item.masked is None for item in items):
            return []
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

        return [Hook(self.network.feature_projection, replace, False)]


def _channels_last(hidden: torch.Tensor) -> torch.Tensor:
    return hidden.transpose(1, 2)
