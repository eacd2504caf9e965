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
from layertool.geometry import SAMPLE_RATE, FrameGeometry
from layertool.models import melhubert
from layertool.models.padding import inside, padded
from layertool.training.pretraining_networks import Mel, Network, Wav2Vec2
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
    """What a run is trained on: crops of utterances, what is hidden of them, and what is to be predicted.

    ``rows``: utterances; ``max_frames``: of a crop; ``targets``: None for wav2vec 2.0, which is told its distractors
    instead; ``statistics``: of a MelHuBERT's input.
    """

    def __init__(
        self,
        network: Network,
        rows: Sequence[dict],
        max_frames: int,
        spans: Spans,
        targets: Targets | None,
        statistics: str = melhubert.DEFAULT_STATISTICS,
    ):
        self.network, self.geometry, self.rows, self.max_frames = network, network.geometry, rows, max_frames
        self.spans, self.targets, self.statistics = spans, targets, statistics

    def make(self, number: int, random: np.random.Generator) -> Item:
        """An example of an utterance; the same draws for every network."""
        row, network, geometry = self.rows[number], self.network, self.geometry
        heard, name = read_utterance(row), "waveforms"
        n_frames, hop, field = geometry.n_frames(len(heard)), geometry.hop, geometry.field
        if isinstance(network, Mel):
            name, heard = "features", melhubert.features(heard, hop * 1000 // SAMPLE_RATE, self.statistics)
            n_frames, hop, field = len(heard), 1, 1
        elif network.normalises:  # over the whole utterance, as `layertool extract` does
            heard = standardised(heard, network.epsilon)
        check_count(row["utterance"], n_frames, geometry.n_frames(int(row["n_samples"])))
        labels = None
        if self.targets is not None:
            labels = self.targets.of(row["utterance"], geometry.hop, n_frames)
            n_frames = min(n_frames, len(labels))  # their windows end a frame or two apart
        length = min(n_frames, self.max_frames)
        start = int(random.integers(n_frames - length + 1))
        seen = heard[start * hop : (start + length - 1) * hop + field]
        item: Item = {name: seen, "masked": self.spans.draw(length, random)}
        if labels is not None:
            item["clusters"] = labels[start : start + length].astype(np.int64)
        if isinstance(network, Wav2Vec2):
            item["negatives"] = draw_negatives(item["masked"], network.network.config.num_negatives, random)
        return item

    def collate(self, items: list[Item]) -> Batch:
        """A padded batch, as the network's ``forward`` takes it."""
        batch = {name: padded([item[name] for item in items]) for name in items[0]}
        if isinstance(self.network, Mel):
            batch["attention_mask"] = inside([len(item["features"]) for item in items], batch["features"].shape[1])
        else:
            batch["n_samples"] = torch.tensor([len(item["waveforms"]) for item in items])
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
