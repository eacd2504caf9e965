"""How long a run will take here, from two batches of noise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from layertool.extractors.base import Extractor, Item
from layertool.extractors.prepare import Prepared
from layertool.geometry import SAMPLE_RATE, WINDOW_GRID, Window, windows

N_BATCHES = 2  # timed after one that warms up
PATIENCE_SECONDS = 4.0  # after which no further batch is begun


@dataclass(frozen=True)
class Forecast:
    """``seconds`` of computing for the whole corpus.

    ``audio_per_second``: seconds of audio in a second of computing.
    """

    seconds: float
    audio_per_second: float


def forecast(prepared: Prepared, batch_seconds: float | None = None) -> Forecast:
    """How long the forward passes of a run take on its device, reading and writing left out.

    Timed are batches of noise whose utterances have the corpus's mean length (at most a window's). Samples are
    counted as the model is given them: with what windows share, and with Whisper's padding.
    """
    extractor, lengths = prepared.extractor, prepared.corpus.utterances["n_samples"].to_numpy()
    longest = prepared.longest_window
    needed = computed_samples(extractor, lengths, longest, prepared.overlap, prepared.grid)
    mean = max(min(round(float(lengths.mean())), longest), extractor.min_samples)
    cost = extractor.padded_samples(mean)
    n_items = min(prepared.batch_size(mean, batch_seconds), len(lengths))
    batch_took = _seconds_of_a_batch(prepared, mean, n_items, extractor.device)
    seconds = batch_took * needed / (n_items * cost)
    return Forecast(seconds, float(lengths.sum()) / SAMPLE_RATE / seconds)


def computed_samples(
    extractor: Extractor, lengths: Sequence[int], longest: int, overlap: int, grid: int = WINDOW_GRID
) -> int:
    """Samples that the model is given in all, when utterances are cut into windows of ``longest`` that share
    ``overlap``.
    """
    return sum(
        extractor.padded_samples(window.end - window.start)
        for n_samples in lengths
        for window in windows(int(n_samples), longest, overlap, grid)
    )


def _seconds_of_a_batch(prepared: Prepared, n_samples: int, n_items: int, device: torch.device) -> float:
    """The least of the timed batches; of a slow model the first, which then was more than warming up."""
    text = None
    if "text" in prepared.corpus.utterances:  # decoder layers are states on a text: of the utterance of that length
        lengths = prepared.corpus.utterances["n_samples"].to_numpy()
        text = prepared.corpus.utterances["text"].iloc[int(np.abs(lengths - n_samples).argmin())]
    random = np.random.default_rng(0)
    times: list[float] = []
    for _ in range(1 + N_BATCHES):
        noise = [0.1 * random.standard_normal(n_samples, np.float32) for _ in range(n_items)]
        _synchronise(device)
        begun = time.perf_counter()
        items = [_item(prepared.extractor, k, waveform, text) for k, waveform in enumerate(noise)]
        prepared.extractor.forward(items, prepared.layers, lambda _name, _frames: None)
        _synchronise(device)
        times.append(time.perf_counter() - begun)
        if sum(times) > PATIENCE_SECONDS:
            break
    return min(times[1:] or times)


def _item(extractor: Extractor, position: int, waveform: np.ndarray, text: object) -> Item:
    samples = extractor.normalise(waveform)
    whole = Window(0, len(samples), 0, len(samples))
    item = Item(position, "noise", len(samples), whole, samples, text if isinstance(text, str) else None)
    extractor.prepare(item)
    return item


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
