"""Slow second implementations: what extraction must give, written from the papers' spec and transformers' modules.

Nothing here calls the package. Networks run in float64, one clip at a time, without padding; frames
are pooled in Python loops with integers (spec layerwise.md 1.5).
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SAMPLE_RATE = 16_000
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
# (hop, field) in samples of C1 to C7, as tabled in spec layerwise.md 1.2
CONVOLUTIONS = {
    "C1": (5, 10),
    "C2": (10, 20),
    "C3": (20, 40),
    "C4": (40, 80),
    "C5": (80, 160),
    "C6": (160, 240),
    "C7": (320, 400),
}
# (kernel, stride) in frames that bring C1 to C6 to 10 ms, as tabled in spec 3.5
MOVING_AVERAGES = {"C1": (79, 32), "C2": (39, 16), "C3": (19, 8), "C4": (9, 4), "C5": (4, 2), "C6": (2, 1)}


def load(folder: Path | str) -> nn.Module:
    """The transformers model of a folder, in float64 and evaluation mode."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype=torch.float64).eval()


def hop(layer: str) -> int:
    """Samples between two frames of a layer of the wav2vec 2.0 kind."""
    return CONVOLUTIONS.get(layer, (320, 400))[0]


def standardised(waveform: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the whole waveform, in float64 (1e-7 as in Wav2Vec2FeatureExtractor)."""
    waveform = waveform.astype(np.float64)
    return (waveform - waveform.mean()) / math.sqrt(waveform.var() + 1e-7)


def gelu(hidden: torch.Tensor) -> torch.Tensor:
    """x Phi(x), with the error function."""
    return hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))


def convolution_layers(network: nn.Module, waveform: np.ndarray) -> dict[str, torch.Tensor]:
    """C1, C2, ... of one clip, each (frames, width), every norm written out."""
    hidden = torch.from_numpy(np.asarray(waveform, np.float64))[None, None]
    layers = {}
    for k, block in enumerate(network.feature_extractor.conv_layers, start=1):
        hidden = functional.conv1d(hidden, block.conv.weight, block.conv.bias, stride=STRIDES[k - 1])
        norm = getattr(block, "layer_norm", None)
        if norm is not None:
            over = 2 if isinstance(norm, nn.GroupNorm) else 1  # time for one group a channel, else channels
            centred = hidden - hidden.mean(dim=over, keepdim=True)
            variance = centred.square().mean(dim=over, keepdim=True)
            hidden = centred / torch.sqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]
        hidden = gelu(hidden)
        layers[f"C{k}"] = hidden[0].T
    return layers


@torch.no_grad()
def speech_layers(network: nn.Module, waveform: np.ndarray) -> dict[str, np.ndarray]:
    """All layers of one clip through a model of the wav2vec 2.0 kind: name -> (frames, width), float64.

    ``waveform``: as the model takes it (standardised already, if it wants that).
    """
    kind, encoder = network.config.model_type, network.encoder
    is_conformer = kind == "wav2vec2-conformer"
    norm_comes_last = is_conformer or getattr(network.config, "do_stable_layer_norm", False)
    layers = convolution_layers(network, waveform)
    projected = network.feature_projection(list(layers.values())[-1][None])
    hidden = projected[0] if isinstance(projected, tuple) else projected
    options: dict = {}
    if is_conformer:
        if encoder.embed_positions is not None:
            options["relative_position_embeddings"] = encoder.embed_positions(hidden)
    else:
        hidden = hidden + encoder.pos_conv_embed(hidden)
    if not norm_comes_last:
        hidden = encoder.layer_norm(hidden)
    layers["T0"] = hidden[0]
    for k, block in enumerate(encoder.layers, start=1):
        if kind == "wavlm":
            hidden, options["position_bias"] = block(hidden, **options)
        else:
            out = block(hidden, attention_mask=None, **options)
            hidden = out[0] if isinstance(out, tuple) else out
        layers[f"T{k}"] = hidden[0]
    if norm_comes_last:
        layers["final"] = encoder.layer_norm(hidden)[0]
    return {name: value.numpy() for name, value in layers.items()}


@torch.no_grad()
def whisper_encoder(network: nn.Module, mel: np.ndarray) -> dict[str, np.ndarray]:
    """C1, C2, T0 to TL and final of 30 s of log-mel (80, 3000): name -> (3000 or 1500, width), float64."""
    encoder = network.encoder
    hidden = torch.from_numpy(np.asarray(mel, np.float64))[None]
    hidden = gelu(functional.conv1d(hidden, encoder.conv1.weight, encoder.conv1.bias, stride=1, padding=1))
    layers = {"C1": hidden[0].T}
    hidden = gelu(functional.conv1d(hidden, encoder.conv2.weight, encoder.conv2.bias, stride=2, padding=1))
    layers["C2"] = hidden[0].T
    hidden = hidden.transpose(1, 2) + encoder.embed_positions.weight
    layers["T0"] = hidden[0]
    for k, block in enumerate(encoder.layers, start=1):
        hidden = block(hidden, None)
        layers[f"T{k}"] = hidden[0]
    layers["final"] = encoder.layer_norm(hidden)[0]
    return {name: value.numpy() for name, value in layers.items()}


@torch.no_grad()
def whisper_decoder(network: nn.Module, tokens: list[int], states: np.ndarray) -> dict[str, np.ndarray]:
    """D0 to DM of a token sequence forced on encoder states (1500, width): name -> (tokens, width), float64.

    Pre-norm blocks written out: masked self-attention, cross-attention, feed-forward, residuals around each.
    """
    decoder = network.decoder
    states = torch.from_numpy(np.asarray(states, np.float64))
    hidden = decoder.embed_tokens.weight[tokens] + decoder.embed_positions.weight[: len(tokens)]
    layers = {"D0": hidden}
    future = torch.ones(len(tokens), len(tokens)).triu(1).bool()
    for k, block in enumerate(decoder.layers, start=1):
        normed = block.self_attn_layer_norm(hidden)
        hidden = hidden + _attention(block.self_attn, normed, normed, future)
        hidden = hidden + _attention(block.encoder_attn, block.encoder_attn_layer_norm(hidden), states, None)
        hidden = hidden + block.fc2(gelu(block.fc1(block.final_layer_norm(hidden))))
        layers[f"D{k}"] = hidden
    return {name: value.numpy() for name, value in layers.items()}


def _attention(attention: nn.Module, query, source, hidden_from: torch.Tensor | None) -> torch.Tensor:
    width = attention.head_dim
    queries, keys, values = attention.q_proj(query), attention.k_proj(source), attention.v_proj(source)
    heads = []
    for k in range(attention.num_heads):
        part = slice(k * width, (k + 1) * width)
        scores = queries[:, part] @ keys[:, part].T / math.sqrt(width)
        if hidden_from is not None:
            scores = scores.masked_fill(hidden_from, -math.inf)
        heads.append(scores.softmax(dim=-1) @ values[:, part])
    return attention.out_proj(torch.cat(heads, dim=-1))


def segment_frames(start: int, end: int, frame_hop: int, n_frames: int, pooling: str = "mean") -> range:
    """The frames of a segment [start, end) in samples, by spec 1.5, in plain integers."""
    lo, hi = start // frame_hop, end // frame_hop
    if end % frame_hop:
        hi += 1
    if pooling == "centre-third":
        off = (hi - lo + 1) // 3
        lo, hi = lo + off, hi - off
    elif pooling.startswith("quarter"):
        quarter, length = int(pooling[-1]), hi - lo
        lo, hi = lo + (quarter - 1) * length // 4, lo + quarter * length // 4
    elif pooling.startswith("position@"):
        hi = min(hi, n_frames)
        lo = min(lo, hi - 1)
        frame = min(int(Fraction(pooling.split("@")[1]) * (hi - lo)), hi - lo - 1)
        lo, hi = lo + frame, lo + frame + 1
    if hi == lo:
        hi += 1
    if hi > n_frames:
        hi = n_frames
    if lo >= hi:
        lo = hi - 1
    return range(lo, hi)


def pooled(frames: np.ndarray, chosen: range, pooling: str = "mean") -> np.ndarray:
    """Mean of the chosen rows, one after another, in float64; or their extremes."""
    if pooling in ("min", "max"):
        return np.array(
            [{"min": min, "max": max}[pooling](frames[k, d] for k in chosen) for d in range(frames.shape[1])]
        )
    total = np.zeros(frames.shape[1])
    for k in chosen:
        total += frames[k]
    return total / len(chosen)


def ten_millisecond_frames(frames: np.ndarray, layer: str) -> np.ndarray:
    """Uniform moving average per channel with numpy's convolution, then every stride-th (spec 3.5)."""
    kernel, stride = MOVING_AVERAGES[layer]
    channels = [np.convolve(channel, np.full(kernel, 1 / kernel), mode="valid")[::stride] for channel in frames.T]
    return np.stack(channels, axis=1)


def worst_row(values, expected) -> float:
    """The largest relative error of a row: |row - expected| / |expected|, Euclidean."""
    values, expected = np.asarray(values, np.float64), np.asarray(expected, np.float64)
    if values.shape != expected.shape:
        raise AssertionError(f"shape {values.shape} instead of {expected.shape}")
    if not len(values):
        return 0.0
    error, size = np.linalg.norm(values - expected, axis=-1), np.linalg.norm(expected, axis=-1)
    return float((error / size).max())
