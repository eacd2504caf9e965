"""What a run will take, before it begins: time, from two batches of noise, and memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from layertool.account import Account, count, duration, number, size
from layertool.extractors.base import Extractor, Item
from layertool.extractors.prepare import Prepared
from layertool.extractors.work import AHEAD
from layertool.geometry import WINDOW_GRID, Window, windows
from layertool.layers import summary
from layertool.machine import resident, there_is
from layertool.store import layout
from layertool.store.account import mask_facts
from layertool.store.writer import Part

N_BATCHES = 2  # timed after one that warms up
PATIENCE_SECONDS = 4.0  # after which no further batch is begun
# Bytes that the libraries take at the first forward pass and the first shard, measured on Linux
_LIBRARIES = 70_000_000
_TABLE_COPIES = 3  # of a shard's table of frames while it is made and written


def account_of_plan(prepared: Prepared, out: Path, batch_seconds: float | None, part: Part | None) -> Account:
    """What a run would write, and what it would take: two batches of noise are timed."""
    corpus, warnings = prepared.corpus, []
    (memory, on_device), limit = needed(prepared, batch_seconds), there_is()
    device = prepared.extractor.device
    if memory > limit:
        time_here = "not timed, as it would not fit into memory"
        warnings.append(
            f"the run needs about {size(memory)} of memory, this process may have {size(limit)}: give a smaller "
            "--batch-seconds or --window-seconds, or take a machine that has more"
        )
    else:
        seconds = forecast(prepared, batch_seconds)
        each = f"; with --nshard {part.of}: {duration(seconds / part.of)} each" if part else ""
        time_here = (
            f"about {duration(seconds)} on {device} (forward passes alone; two batches of noise were timed){each}"
        )
    beside = f", and {size(on_device)} on {device}" if on_device else ""
    facts = [
        ("audio", f"{count(len(corpus.utterances), 'utterance')}, {duration(corpus.seconds)}"),
        ("layers", summary(prepared.layers)),
        *((f"{name.split('/')[0]} rows", number(n_rows)) for name, n_rows in prepared.n_rows.items()),
        *mask_facts(prepared.configuration),
        ("shards", number(len(prepared.shards))),
        ("on the disk", size(prepared.n_bytes)),
        ("memory", f"about {size(memory)}{beside}"),
        ("time here", time_here),
    ]
    return Account(f"{out} (nothing was written)", facts, warnings=warnings)


def forecast(prepared: Prepared, batch_seconds: float | None = None) -> float:
    """Seconds that the forward passes of a run take on its device, reading and writing left out.

    Timed are batches of noise whose utterances have the corpus's mean length (at most a window's). Samples are
    counted as the model is given them: with what windows share, and with Whisper's padding.
    """
    extractor, lengths = prepared.extractor, prepared.corpus.utterances["n_samples"].to_numpy()
    longest = prepared.longest_window
    computed = computed_samples(extractor, lengths, longest, prepared.overlap, prepared.grid)
    mean = max(min(round(float(lengths.mean())), longest), extractor.min_samples)
    n_items = min(prepared.batch_size(mean, batch_seconds), len(lengths))
    batch_took = _seconds_of_a_batch(prepared, mean, n_items, extractor.device)
    return batch_took * computed / (n_items * extractor.padded_samples(mean))


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


def needed(prepared: Prepared, batch_seconds: float | None = None) -> tuple[int, int]:
    """Bytes at the peak, estimated: of this process as a whole, and on the device where that is another than the CPU.

    They are for what this process has already (weights, corpus), the largest batch, and what is read ahead.
    """
    extractor = prepared.extractor
    device = extractor.device
    lengths = prepared.corpus.utterances["n_samples"].to_numpy()
    longest = min(int(lengths.max()), prepared.longest_window)
    cost = extractor.padded_samples(longest)
    n_items = prepared.batch_size(longest, batch_seconds)
    n_windows = sum(len(prepared.windows(int(n))) for n in lengths[np.argsort(lengths)[-n_items * (AHEAD + 2) :]])
    n_items = min(n_items, n_windows)
    held = 4 * longest + extractor.prepared_bytes(longest)
    waiting = held * min(n_windows, n_items * (AHEAD + 2))
    if lengths.max() > longest and not extractor.is_streaming:
        waiting += 4 * int(lengths.max()) * min(len(lengths), AHEAD + 1)
    frames = sum(
        layout.row_dtype("frame", prepared.mask is not None).itemsize
        * max(geometry.n_frames(shard.n_samples) for shard in prepared.shards)
        for geometry in prepared.pooler.frame_tables().values()
    )
    activations = n_items * extractor.activation_bytes(cost)
    process = resident() + _LIBRARIES + waiting + _TABLE_COPIES * frames
    if device.type == "cpu":
        return process + activations, 0
    return process, 4 * (extractor.n_parameters or 0) + activations
