"""Padded batches in which every clip gives what it gives alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from layertool.geometry import convolution_geometry
from layertool.models.hooks import hooked


def padded(arrays: Sequence[np.ndarray | torch.Tensor]) -> torch.Tensor:
    """Arrays of one kind, each (length, ...), below each other with zeros after the shorter ones.

    Gives (items, longest, ...).
    """
    return nn.utils.rnn.pad_sequence([torch.as_tensor(array) for array in arrays], batch_first=True)


def moved(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch on a device, copied while the GPU is at work."""
    return (batch.pin_memory() if device.type == "cuda" else batch).to(device, non_blocking=True)


def inside(lengths: Sequence[int], longest: int, device: torch.device | None = None) -> torch.Tensor:
    """Which places of a padded batch are an item's own, bool (items, longest)."""
    return torch.arange(longest, device=device) < torch.tensor(lengths, device=device)[:, None]


@contextmanager
def each_alone(encoder: Any, lengths: Sequence[int], batch: torch.Tensor) -> Iterator[torch.Tensor | None]:
    """The attention mask of a padded batch for an encoder of the wav2vec 2.0 kind, None where no clip is padded.

    ``lengths``: samples of each clip; ``batch``: (clips, samples). Inside the block two more things are put right that
    padding would change: the norm of the first convolution takes its statistics over each clip's own frames, and every
    padded convolution of the encoder sees zeros where a clip has ended.
    """
    longest, device = batch.shape[1], batch.device
    if min(lengths) == longest:
        yield None
        return
    geometries = convolution_geometry(encoder.config.conv_kernel, encoder.config.conv_stride)
    frames = [[geometry.n_frames(n) for n in lengths] for geometry in (geometries[0], geometries[-1])]
    outside = ~inside(frames[1], geometries[-1].n_frames(longest), device)[:, None, :]

    def silence(_module: nn.Module, given: tuple) -> tuple:
        return (silenced(given[0], outside), *given[1:])

    convolutions = [one for one in encoder.encoder.modules() if isinstance(one, nn.Conv1d) and one.padding != (0,)]
    norm = getattr(encoder.feature_extractor.conv_layers[0], "layer_norm", None)
    with hooked(one.register_forward_pre_hook(silence) for one in convolutions):
        if isinstance(norm, nn.GroupNorm):
            vars(norm)["forward"] = lambda hidden: clipwise(norm, hidden, frames[0])
        try:
            yield inside(lengths, longest, device).long()
        finally:
            if isinstance(norm, nn.GroupNorm):
                del vars(norm)["forward"]


def silenced(hidden: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
    """Zeros where a clip has ended."""
    return hidden.masked_fill(outside, 0.0)


def clipwise(norm: nn.GroupNorm, hidden: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """A norm over time of padded clips, each over its own frames: (clips, channels, frames) like its input."""

    def normed(clip: torch.Tensor) -> torch.Tensor:
        return functional.group_norm(clip, norm.num_groups, norm.weight, norm.bias, norm.eps)

    if torch.is_grad_enabled():
        clips = [normed(hidden[k : k + 1, :, :n]) for k, n in enumerate(lengths)]
        return torch.cat([functional.pad(clip, (0, hidden.shape[2] - clip.shape[2])) for clip in clips])
    out = hidden  # in place: the convolution's output is used nowhere else
    for k, length in enumerate(lengths):
        clip = normed(hidden[k : k + 1, :, :length])
        out = out.to(clip.dtype)  # autocast normalises in float32
        out[k : k + 1, :, :length] = clip
    return out
