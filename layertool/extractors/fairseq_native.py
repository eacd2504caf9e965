"""fairseq's own network, one clip at a time: padding changes nothing where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from layertool.extractors.base import Emit, Extractor, Item
from layertool.models.computing import computing_in
from layertool.models.hooks import Tap, block_taps, tapped
from layertool.models.open import Model


class FairseqNativeExtractor(Extractor):
    """One checkpoint through fairseq's own modules."""

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype = torch.float32):
        self._take(model, model.load(), device, dtype)
        self.geometry, self.min_samples = model.geometry, model.geometry.field
        encoder, convolutions = self.network.encoder, self.network.feature_extractor.conv_layers
        norm = encoder.layer_norm if "final" in self.layers else None
        # blocks see (frames, clips, width), and even numbers of frames
        blocks = block_taps(encoder.layers, None)
        self.taps = {name: Tap(tap.module, tap.is_before, lambda hidden: hidden[:, 0]) for name, tap in blocks.items()}
        self.taps |= {f"C{k}": Tap(one, False, lambda hidden: hidden[0].T) for k, one in enumerate(convolutions, 1)}
        self.taps |= {} if norm is None else {"final": Tap(norm, False, lambda hidden: hidden[0])}

    @torch.inference_mode()
    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        alone: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
        for item in items:
            n_frames = self.geometry.n_frames(len(item.samples))

            def keep(name: str, hidden: torch.Tensor, n_frames: int = n_frames) -> None:
                alone[name].append(hidden if name.startswith("C") else hidden[:n_frames])

            with tapped(self.taps, layers, keep), computing_in(self.device, self.dtype):
                source = torch.from_numpy(item.samples)[None].to(self.device)
                self.network.extract_features(source=source, padding_mask=None, mask=False)
        for name, hidden in alone.items():
            emit(name, torch.nn.utils.rnn.pad_sequence(hidden, batch_first=True))
