"""Encoders that learn or are learned from: opened from a MODEL, and on padded batches, whose states equal those of each
utterance alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from layertool.audio import read_utterance
from layertool.errors import ModelError, UsageError
from layertool.geometry import convolution_geometry
from layertool.models import melhubert, pruned
from layertool.models.hooks import block_taps, hooked, tapped
from layertool.models.melhubert import MelHuBERT
from layertool.models.open import EPSILON, Model
from layertool.models.padding import each_alone, inside, padded

IGNORED = -100  # in `labels`, after the last token of an utterance


@dataclass
class States:
    """What an encoder gives for a padded batch.

    ``states``: all hidden states, (batch, frames, width) each, named by ``layer_names``; empty where they were not
    asked for. ``last``: the encoder's output. ``n_frames``: (batch,) integers. ``valid``: bool (batch, frames), not
    padding.
    """

    states: tuple[torch.Tensor, ...]
    last: torch.Tensor
    n_frames: torch.Tensor
    valid: torch.Tensor


def layer_names(encoder: Any) -> list[str]:
    """Names of the hidden states, as s3prl counts them: what goes into the first block, then the output of each.

    MelHuBERT's first is its projection, ``C1``; the last of an encoder with its norm at the end is ``final``.
    """
    n, first = len(encoder.encoder.layers), "C1" if isinstance(encoder, MelHuBERT) else "T0"
    return [first, *(f"T{k}" for k in range(1, n)), "final" if _norm_at_the_end(encoder) else f"T{n}"]


def width_of(encoder: Any) -> int:
    """Numbers a frame of every hidden state."""
    return encoder.config.encoder_embed_dim if isinstance(encoder, MelHuBERT) else encoder.config.hidden_size


def place_of(encoder: Any) -> torch.device:
    """The device of an encoder; "meta" where only shapes are there (but for a mask embedding, which transformers
    draws)."""
    return next(encoder.encoder.parameters()).device


def encode(
    encoder: Any, inputs: torch.Tensor, lengths: torch.Tensor, states: bool = False, front_gradient: float = 1.0
) -> States:
    """The states of a padded batch; those of valid frames are what each utterance gives alone.

    ``encoder``: a MelHuBERT, or a transformers encoder of the wav2vec 2.0 family. ``inputs``: (batch, samples)
    waveforms, or (batch, frames, numbers) features of MelHuBERT, which stay as they are; ``lengths``: (batch,) their
    samples or frames. ``states``: give all hidden states, in evaluation mode only (layerdrop leaves some out).
    ``front_gradient``: what part of the gradient reaches the convolutions, whose layers cannot be checkpointed.
    Raises UsageError for inputs of another kind, and for utterances too short for a frame.
    """
    sizes = lengths.tolist()
    if isinstance(encoder, MelHuBERT):
        n_frames = sizes
    else:
        if inputs.ndim != 2:
            raise UsageError(
                f"{type(encoder).__name__} hears waveforms (batch, samples), not inputs of shape {tuple(inputs.shape)}"
            )
        geometry = convolution_geometry(encoder.config.conv_kernel, encoder.config.conv_stride)[-1]
        n_frames = [geometry.n_frames(n) for n in sizes]
    if len(sizes) != len(inputs) or max(sizes, default=0) > inputs.shape[1]:
        raise UsageError(
            f"lengths {sizes[:8]} do not belong to inputs of shape {tuple(inputs.shape)}: give one each, none longer"
        )
    if min(n_frames, default=0) < 1:
        k = n_frames.index(0) if n_frames else 0
        raise UsageError(
            f"utterance {k + 1} of a batch ({sizes[k] if sizes else 0} samples or frames) is too short for a frame of "
            f"{type(encoder).__name__}: leave it out"
        )
    if states and encoder.training:
        raise UsageError("hidden states are those of evaluation mode: call eval() on the encoder first")
    of_batch = torch.tensor(n_frames, device=inputs.device)
    if isinstance(encoder, MelHuBERT):
        valid = inside(sizes, inputs.shape[1], inputs.device)
        out = encoder(inputs, attention_mask=valid)
        last = out.last_hidden_state
        kept = [*out.hidden_states[:-1], last] if states else []
        return States(tuple(kept), last, of_batch, valid)
    valid = inside(n_frames, geometry.n_frames(inputs.shape[1]), inputs.device)
    taken: dict[str, torch.Tensor] = {}
    taps = block_taps(encoder.encoder.layers, encoder.encoder.layer_norm if _norm_at_the_end(encoder) else None)
    with (
        each_alone(encoder, sizes, inputs) as attention,
        tapped(taps, layer_names(encoder) if states else (), taken.__setitem__),
        hooked([encoder.feature_extractor.register_forward_hook(scaled_gradient(front_gradient))]),
    ):
        last = encoder(inputs, attention_mask=attention).last_hidden_state
    return States(tuple(taken.values()), last, of_batch, valid)


def _norm_at_the_end(encoder: Any) -> bool:
    name = "layer_norm_first" if isinstance(encoder, MelHuBERT) else "do_stable_layer_norm"
    return bool(getattr(encoder.config, name, False))


def scaled_gradient(factor: float) -> Callable[..., None]:
    """A forward hook after which so large a part of the gradient goes back into its module."""

    def scale(_module: nn.Module, _given: tuple, out: torch.Tensor) -> None:
        if out.requires_grad and factor != 1.0:
            out.register_hook(lambda gradients: gradients * factor)

    return scale


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of ``{"input": waveform or features, "target": token ids}``, for every network here.

    ``input``: (samples,) or (frames, numbers), padded with zeros to ``inputs``, their ``lengths`` beside them.
    ``target`` may be missing from all; ``labels`` (batch, longest) are padded with -100, as transformers has it.
    """
    sequences = [torch.as_tensor(item["input"], dtype=torch.float32) for item in items]
    batch = {
        "inputs": padded(sequences),
        "lengths": torch.tensor([len(sequence) for sequence in sequences]),
    }
    if "target" in items[0]:
        targets = [torch.as_tensor(item["target"], dtype=torch.long) for item in items]
        batch["labels"] = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED)
    return batch


class Beside(nn.Module):
    """A module with a frozen encoder beside it, ``encoder``: moved along, never trained, and not in its weights.

    The encoder stays in evaluation mode whatever mode the module is in; its parameters ask for no gradients from now
    on.
    """

    def __init__(self, encoder: Any):
        super().__init__()
        self._beside = (encoder.eval().requires_grad_(False),)  # in a tuple: torch would take it for a part

    @property
    def encoder(self) -> Any:
        return self._beside[0]

    def _apply(self, fn, recurse=True):  # how torch moves a module to a device or dtype
        super()._apply(fn, recurse)
        self.encoder._apply(fn, recurse)
        return self

    @torch.no_grad()
    def hidden_states(self, inputs: torch.Tensor, lengths: torch.Tensor) -> States:
        """All hidden states of the frozen encoder, without gradients."""
        self.encoder.eval()
        return encode(self.encoder, inputs, lengths, states=True)


@dataclass(frozen=True)
class Opened:
    """A model, and its encoder in evaluation mode and float32."""

    model: Model
    encoder: Any

    @property
    def name(self) -> str:
        """As it was typed."""
        return self.model.text

    @property
    def samples_a_step(self) -> int:
        """How many samples at 16 kHz one step along its input is: 1, or those between frames of mel energies."""
        return self.model.geometry.hop if isinstance(self.encoder, MelHuBERT) else 1

    def n_frames(self, row: Mapping[str, Any]) -> int:
        """Frames of an utterance of a corpus; 0 where it is too short."""
        return self.model.geometry.n_frames(int(row["n_samples"]))

    def hear(self, row: Mapping[str, Any]) -> np.ndarray:
        """Its input of a whole utterance: float32 (samples,), or (frames, 40 or 80) of MelHuBERT."""
        return self.model.hear(read_utterance(row))

    @property
    def decided(self) -> dict:
        """What decides its numbers, for the record of a run."""
        model = self.model
        identity = {key: model.identity.get(key) for key in ("id", "revision", "sha256", "description_sha256", "step")}
        if isinstance(self.encoder, MelHuBERT):
            return identity | {"description_sha256": None, "statistics": melhubert.name_statistics(model.statistics)}
        return identity | {"normalise": model.normalises, "epsilon": model.epsilon}

    def save(self, network: Any, folder: Path, step: int, made_by: str) -> None:
        """Write a network that hears the same input, of whatever it was made, as a MODEL folder."""
        if isinstance(network, MelHuBERT):
            network.config = replace(network.config, step=step)
        facts: dict[str, Any] = {"step": step, "made_by": made_by}
        if self.model.kind != "melhubert" and self.model.epsilon != EPSILON:
            facts["normalisation_epsilon"] = self.model.epsilon
        pruned.save(network, folder, self.model.normalises, facts)


def open_encoder(model: Model | str, statistics: str | None = None) -> Opened:
    """The encoder of a MODEL: a Hugging Face id or folder of the wav2vec 2.0 family, fairseq:FILE, or a MelHuBERT.

    ``statistics``: of MelHuBERT's input (``melhubert.features``), None for those of 960 h. Pruned networks open as any.
    Raises ModelError for other models, UsageError for statistics of a model that has none.
    """
    model = Model.open(model, statistics=statistics)
    if model.type not in ("melhubert", *pruned.FAMILIES):
        raise ModelError(
            f"{model} is of type '{model.type}', whose encoder is not trained here: give a MelHuBERT, or a model "
            f"of the type {', '.join(pruned.FAMILIES)}"
        )
    if model.kind == "melhubert":
        melhubert.name_statistics(model.statistics)
    network = model.load()
    if isinstance(network, MelHuBERT):
        network.final_proj = None  # it only tells clusters
        network.config = replace(network.config, num_cluster=0)
    return Opened(model, network)
