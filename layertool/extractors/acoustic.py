"""Acoustic features as an extractor: one layer, no network."""

from __future__ import annotations

from collections.abc import Sequence

from layertool.extractors.base import Emit, Extractor, Item
from layertool.geometry import SAMPLE_RATE
from layertool.models.acoustic import PRESETS, features, preset
from layertool.models.open import Model
from layertool.models.padding import padded

__all__ = ["LONGEST", "PRESETS", "AcousticExtractor", "features", "preset"]

LONGEST = 120 * SAMPLE_RATE  # samples at a time: the same frames are made of more, up to rounding


class AcousticExtractor(Extractor):
    """One acoustic feature; see ``PRESETS``."""

    is_acoustic = True

    def __init__(self, model: Model):
        self.preset, self.cmvn = model.configuration, model.asked.cmvn
        self.min_samples = self.preset.min_samples
        self.max_window = LONGEST if self.preset.is_local and not self.cmvn else None
        self.layers, self.provenance = dict(model.layers), model.provenance

    def prepared_bytes(self, n_samples: int) -> int:
        return 4 * self.preset.width * self.preset.geometry.n_frames(n_samples)

    def activation_bytes(self, n_samples: int) -> int:
        """Its frames as a batch, and the samples with what stands at their ends."""
        return self.prepared_bytes(n_samples) + 4 * n_samples

    def prepare(self, item: Item) -> None:
        item.model_input = features(self.preset.name, item.samples, self.cmvn)

    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        emit(layers[0], padded([item.model_input for item in items]))
