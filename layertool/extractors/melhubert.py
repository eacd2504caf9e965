"""MelHuBERT: log mel energies, a projection, positions and blocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from layertool.errors import ModelError
from layertool.extractors.base import Emit, Extractor, Item, Layer
from layertool.extractors.hooks import Hook, after, before, hooked
from layertool.models import melhubert
from layertool.models.checkpoints import files_sha256, state_sha256
from layertool.models.computing import computing_in
from layertool.models.foreign import file_sha256


class MelHubertExtractor(Extractor):
    """One MelHuBERT, from an original checkpoint or a folder of ``melhubert.save``.

    Layers: ``C1``, the projection (hidden state 0 of the original code: before positions and norm, the
    place of what other models have of their convolutions); ``T0``, what goes into the first block; ``T1`` to ``TL``;
    ``final`` where the encoder's norm comes last. The width of its input says whether there is a
    frame every 10 or 20 ms. ``statistics``: of its input, which checkpoints do not say (``melhubert.features``).
    """

    min_samples = melhubert.GEOMETRIES[10].field  # one frame of the filterbank, at both rates

    def __init__(
        self,
        path: str | Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        random_init: int | None = None,
        statistics: str = melhubert.DEFAULT_STATISTICS,
    ):
        path = Path(path)
        named = melhubert.name_statistics(statistics)
        self.network, config = melhubert.load(path)
        if config.stride is None:
            raise ModelError(
                f"{path} takes {config.feat_emb_dim} numbers a frame, which is the input of no MelHuBERT (40 at 10 ms, 80 at "
                "20 ms): use layertool.models.melhubert with features of your own"
            )
        self.stride, self.statistics = config.stride, statistics
        if random_init is None:
            sha256 = files_sha256(path, ("*.safetensors",)) if path.is_dir() else file_sha256(path)
        else:
            self.network = _drawn(config, random_init)
            sha256 = state_sha256(self.network)
        self._count_parameters(self.network)
        self.network.final_proj = None  # it only tells clusters
        self.network.to(device)
        self.device, self.dtype = device, dtype
        self.provenance = {
            "family": "MelHuBERT",
            "id": path.resolve().name,
            "revision": None,
            "sha256": sha256,
            "description_sha256": files_sha256(path, ("config.json",)) if path.is_dir() else None,
            "random_init": random_init,
            "step": config.step if random_init is None else 0,
            "statistics": named,
        }
        self._blocks = list(self.network.encoder.layers)
        layer = Layer(config.encoder_embed_dim, melhubert.GEOMETRIES[self.stride])
        names = [
            "C1",
            *(f"T{k}" for k in range(len(self._blocks) + 1)),
            *(["final"] if config.layer_norm_first else []),
        ]
        self.layers = dict.fromkeys(names, layer)

    def prepare(self, item: Item) -> None:
        item.model_input = melhubert.features(item.samples, self.stride, self.statistics)

    def restrict(self, layers: Sequence[str]) -> None:
        """Drop the blocks above the highest asked layer; the first stays, T0 is what goes into it."""
        top = max((int(name[1:]) for name in layers if name.startswith("T")), default=0)
        blocks = self._blocks if "final" in layers else self._blocks[: max(top, 1)]
        self.network.encoder.layers = torch.nn.ModuleList(blocks)

    @torch.inference_mode()
    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        lengths = [len(item.model_input) for item in items]
        longest = max(lengths)
        batch = np.zeros((len(items), longest, items[0].model_input.shape[1]), np.float32)
        for k, item in enumerate(items):
            batch[k, : lengths[k]] = item.model_input
        features = torch.from_numpy(batch)
        if self.device.type == "cuda":
            features = features.pin_memory()
        features = features.to(self.device, non_blocking=True)
        mask = None
        if min(lengths) < longest:
            ends = torch.tensor(lengths, device=self.device)[:, None]
            mask = torch.arange(longest, device=self.device) < ends
        with hooked(self._hooks(layers, emit)), computing_in(self.device, self.dtype):
            self.network(features, attention_mask=mask)

    def _hooks(self, layers: Sequence[str], emit: Emit) -> list[Hook]:
        encoder, hooks = self.network.encoder, []
        for name in layers:
            if name == "C1":
                hooks.append(before(encoder, emit, name))
            elif name == "T0":
                hooks.append(before(encoder.layers[0], emit, name))
            elif name == "final":
                hooks.append(after(encoder.layer_norm, emit, name))
            else:
                hooks.append(after(encoder.layers[int(name[1:]) - 1], emit, name))
        return hooks


def _drawn(config: melhubert.Config, seed: int) -> melhubert.MelHuBERT:
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    network = melhubert.MelHuBERT(config).eval()
    torch.set_rng_state(generator_state)
    return network
