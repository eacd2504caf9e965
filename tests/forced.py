"""Whisper's words one at a time: plain references for what layertool computes in trees and padded batches.

Nothing here calls the package. Networks are transformers' and run in float64, without a cache, one sequence at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from references import gelu
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput


@cache
def load(folder: Path) -> Any:
    """The encoder-decoder with its output layer, in float64."""
    from transformers import WhisperForConditionalGeneration

    network = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return network.eval()


@cache
def mel_of(folder: Path) -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor.from_pretrained(folder)


def log_mel(folder: Path, waveform: np.ndarray) -> np.ndarray:
    """(mel bands, 3000), padded with silence to 30 s."""
    return mel_of(folder)(waveform, sampling_rate=16_000, return_tensors="np")["input_features"][0]


@torch.no_grad()
def cut_encoder(network: Any, mel: np.ndarray, n: int) -> dict[str, torch.Tensor]:
    """C1, C2, T0 to TL and final of the first ``n`` positions of log-mel, nothing behind them: (positions, width)."""
    encoder = network.model.encoder
    hidden = torch.from_numpy(np.asarray(mel, np.float64))[None, :, : 2 * n]
    hidden = gelu(functional.conv1d(hidden, encoder.conv1.weight, encoder.conv1.bias, padding=1))
    layers = {"C1": hidden[0].T}
    hidden = gelu(functional.conv1d(hidden, encoder.conv2.weight, encoder.conv2.bias, stride=2, padding=1))
    layers["C2"] = hidden[0].T
    hidden = hidden.transpose(1, 2) + encoder.embed_positions.weight[:n]
    layers["T0"] = hidden[0]
    for k, block in enumerate(encoder.layers, start=1):
        hidden = block(hidden, None)
        layers[f"T{k}"] = hidden[0]
    return layers | {"final": encoder.layer_norm(hidden)[0]}


def next_token(network: Any, states: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
    """Log-probabilities after every token of one sequence: (tokens, vocabulary), by transformers' own forward."""
    out = network(
        encoder_outputs=BaseModelOutput(last_hidden_state=states[None]),
        decoder_input_ids=torch.tensor([list(tokens)]),
        use_cache=False,
    )
    return out.logits[0].log_softmax(dim=-1)


def form_log_p(network: Any, states: torch.Tensor, prefix: Sequence[int], form: Sequence[int], end: int | None) -> Any:
    """Log-probability of one word's tokens after the prefix, and of the end after them unless None."""
    wanted = [*form] if end is None else [*form, end]
    rows = next_token(network, states, [*prefix, *form])
    return sum(rows[len(prefix) - 1 + k, token] for k, token in enumerate(wanted))
