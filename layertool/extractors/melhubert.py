"""MelHuBERT: log mel energies, a projection, positions and blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from layertool.extractors.base import Emit, Extractor, Item
from layertool.models import melhubert
from layertool.models.computing import computing_in
from layertool.models.hooks import Tap, block_taps, tapped
from layertool.models.open import Model
from layertool.models.padding import inside, moved, padded


class MelHubertExtractor(Extractor):
    """One MelHuBERT, from an original checkpoint or a folder of ``melhubert.save``.

    Layers: ``C1``, the projection (hidden state 0 of the original code: before positions and norm, the
    place of what other models have of their convolutions); ``T0``, what goes into the first block; ``T1`` to ``TL``;
    ``final`` where the encoder's norm comes last. The width of its input says whether there is a
    frame every 10 or 20 ms.
    """

    min_samples = melhubert.GEOMETRIES[10].field  # one frame of the filterbank, at both rates

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype = torch.float32):
        melhubert.name_statistics(model.statistics)
        self._take(model, model.load(), device, dtype)
        self.network.final_proj = None  # it only tells clusters
        self.model, encoder = model, self.network.encoder
        self._blocks = list(encoder.layers)
        self.taps = {"C1": Tap(encoder, is_before=True), **block_taps(self._blocks, encoder.layer_norm)}

    def prepare(self, item: Item) -> None:
        item.model_input = self.model.hear(item.samples)

    @torch.inference_mode()
    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        lengths = [len(item.model_input) for item in items]
        features = moved(padded([item.model_input for item in items]), self.device)
        mask = None if min(lengths) == max(lengths) else inside(lengths, max(lengths), self.device)
        with tapped(self.taps, layers, emit), computing_in(self.device, self.dtype):
            self.network(features, attention_mask=mask)
