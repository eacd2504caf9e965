"""What networks are pre-trained on: crops of utterances, hidden spans, clusters or distractors, each drawn for its
place in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layertool.audio import read_utterance
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError
from layertool.geometry import FrameGeometry
from layertool.models import melhubert
from layertool.models.open import EPSILON
from layertool.models.padding import inside, padded
from layertool.training.targets import Targets, check_count
from layertool.waveforms import standardised

Item = dict[str, Any]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Spans:
    """Hidden spans: ``probability`` times the frames over ``length`` of them, at least ``least``
    (``melhubert.span_mask``)."""

    probability: float
    length: int
    least: int = 2

    def draw(self, n_frames: int, random: np.random.Generator) -> np.ndarray:
        """Which frames are hidden, bool (n_frames,)."""
        return melhubert.span_mask([n_frames], random, self.probability, self.length, self.least)[0]


def kept(corpus: Corpus, geometry: FrameGeometry, min_frames: int) -> list[dict]:
    """Rows of the utterances with ``min_frames`` or more. Raises CorpusError when there is none."""
    rows = corpus.utterances.to_dict("records")
    numbers = [geometry.n_frames(int(row["n_samples"])) for row in rows]
    long = [row for row, n in zip(rows, numbers, strict=True) if n >= max(min_frames, 1)]
    if not long:
        raise CorpusError(
            f"all {len(rows)} utterances of {corpus.name} are too short: the longest has "
            f"{max(numbers, default=0)} frames of {geometry.hop // 16} ms, and {min_frames} are asked for; give fewer "
            "with --min-frames, or longer utterances"
        )
    return long


class Examples:
    """``make`` and ``collate`` of a run (``layertool.training.session.Drawn``).

    ``rows``: utterances; ``max_frames``: of a crop; ``targets``: None for wav2vec 2.0, which has ``n_negatives``
    instead.
    """

    def __init__(
        self,
        rows: Sequence[dict],
        geometry: FrameGeometry,
        max_frames: int,
        spans: Spans,
        targets: Targets | None,
        n_negatives: int = 0,
    ):
        self.rows, self.geometry, self.max_frames, self.spans = rows, geometry, max_frames, spans
        self.targets, self.n_negatives = targets, n_negatives

    def _crop(self, row: dict, n_frames: int, random: np.random.Generator) -> tuple[slice, Item]:
        """Which frames of an utterance are taken, and what is drawn for them; the same draws for every network."""
        check_count(row["utterance"], n_frames, self.geometry.n_frames(int(row["n_samples"])))
        labels = None
        if self.targets is not None:
            labels = self.targets.of(row["utterance"], self.geometry.hop, n_frames)
            n_frames = min(n_frames, len(labels))  # their windows end a frame or two apart
        length = min(n_frames, self.max_frames)
        start = int(random.integers(n_frames - length + 1))
        item: Item = {"masked": self.spans.draw(length, random)}
        if labels is not None:
            item["clusters"] = labels[start : start + length].astype(np.int64)
        if self.n_negatives:
            item["negatives"] = draw_negatives(item["masked"], self.n_negatives, random)
        return slice(start, start + length), item


class MelExamples(Examples):
    """Log mel energies."""

    def __init__(self, *arguments, stride: int, statistics: str, **options):
        super().__init__(*arguments, **options)
        self.stride, self.statistics = stride, statistics

    def make(self, number: int, random: np.random.Generator) -> Item:
        row = self.rows[number]
        features = melhubert.features(read_utterance(row), self.stride, self.statistics)
        crop, item = self._crop(row, len(features), random)
        return {"features": features[crop], **item}

    def collate(self, items: list[Item]) -> Batch:
        lengths = [len(item["features"]) for item in items]
        within = inside(lengths, max(lengths))
        named = {name: padded([item[name] for item in items]) for name in ("features", "masked", "clusters")}
        return {**named, "attention_mask": within}


class WaveformExamples(Examples):
    """Waveforms, of as many samples as their frames see."""

    def __init__(self, *arguments, normalises: bool, epsilon: float = EPSILON, **options):
        super().__init__(*arguments, **options)
        self.normalises, self.epsilon = normalises, epsilon

    def make(self, number: int, random: np.random.Generator) -> Item:
        row, geometry = self.rows[number], self.geometry
        waveform = read_utterance(row)
        crop, item = self._crop(row, geometry.n_frames(len(waveform)), random)
        if self.normalises:  # over the whole utterance, as `layertool extract` does
            waveform = standardised(waveform, self.epsilon)
        last = (crop.stop - 1) * geometry.hop + geometry.field
        return {"waveforms": waveform[crop.start * geometry.hop : last], **item}

    def collate(self, items: list[Item]) -> Batch:
        batch = {"n_samples": torch.tensor([len(item["waveforms"]) for item in items])}
        batch |= {name: padded([item[name] for item in items]) for name in items[0]}
        if "negatives" in batch:  # counted through the batch
            n_frames = batch["masked"].shape[1]
            batch["negatives"] += n_frames * torch.arange(len(items))[:, None, None]
        return batch


def draw_negatives(masked: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """``n`` distractors of each hidden frame, drawn evenly among the other hidden frames of its utterance: (frames, n)
    int64.

    The rule of transformers' ``_sample_negative_indices``, with a generator of its own. A frame that is alone is its
    own distractor, which the loss leaves out. Rows of frames that are not hidden are 0.
    """
    hidden = np.flatnonzero(masked)
    drawn = np.zeros((len(hidden), n), np.int64)
    if len(hidden) > 1:
        drawn = random.integers(len(hidden) - 1, size=drawn.shape)
        drawn += drawn >= np.arange(len(hidden))[:, None]
    out = np.zeros((len(masked), n), np.int64)
    out[hidden] = hidden[drawn]
    return out
