"""Acoustic features as an extractor: one layer, no network."""

from __future__ import annotations

from collections.abc import Sequence

import kaldi_native_fbank
import numpy as np
import torch

from layertool.extractors import acoustic
from layertool.extractors.base import Emit, Extractor, Item, Layer
from layertool.geometry import SAMPLE_RATE

LONGEST = 120 * SAMPLE_RATE  # samples at a time: the same frames are made of more, up to rounding


class AcousticExtractor(Extractor):
    """One acoustic feature; see ``acoustic.PRESETS``. ``cmvn``: per-utterance mean and variance normalisation."""

    is_acoustic = True

    def __init__(self, name: str, cmvn: bool = False):
        self.preset, self.cmvn = acoustic.preset(name), cmvn
        self.min_samples = self.preset.min_samples
        self.max_window = LONGEST if self.preset.is_local and not cmvn else None
        self.layers = {self.preset.layer: Layer(self.preset.width, self.preset.geometry)}
        self.provenance = {
            "family": "acoustic",
            "id": self.preset.name,
            "revision": None,
            "cmvn": cmvn,
            "definition": self.preset.description,
            "kaldi_native_fbank": kaldi_native_fbank.__version__,
        }

    def prepared_bytes(self, n_samples: int) -> int:
        return 4 * self.preset.width * self.preset.geometry.n_frames(n_samples)

    def activation_bytes(self, n_samples: int) -> int:
        """Its frames as a batch, and the samples with what stands at their ends."""
        return self.prepared_bytes(n_samples) + 4 * n_samples

    def prepare(self, item: Item) -> None:
        item.model_input = acoustic.features(self.preset.name, item.samples, self.cmvn)

    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        batch = np.zeros((len(items), max(len(item.model_input) for item in items), self.preset.width), np.float32)
        for k, item in enumerate(items):
            batch[k, : len(item.model_input)] = item.model_input
        emit(layers[0], torch.from_numpy(batch))
