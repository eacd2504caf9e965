"""What an extractor is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from layertool.errors import UsageError, tell
from layertool.extractors.masking import TimeMask
from layertool.geometry import Window
from layertool.layers import summary
from layertool.models.checkpoints import refuse_lacking
from layertool.models.families import Layer
from layertool.models.hooks import Emit
from layertool.models.open import Model
from layertool.waveforms import Moments, standardised


@dataclass
class Item:
    """One window of one utterance on its way through the model.

    ``position``: the utterance's place in the corpus; ``n_samples``: length of the whole utterance;
    ``samples``: the window's waveform as the model takes it; ``model_input``: what ``prepare`` made of it;
    ``masked``: whether each model frame of the window is masked, None when the mask is off.
    """

    position: int
    utterance: str
    n_samples: int
    window: Window
    samples: np.ndarray
    text: str | None = None
    model_input: Any = None
    masked: np.ndarray | None = None
    tokens: list[int] = field(default_factory=list)  # of a decoder's prefix and the text
    token_spans: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))  # of each word of the text

    @property
    def is_whole(self) -> bool:
        """Whether the window is the whole utterance."""
        return self.window.end - self.window.start == self.n_samples


class Extractor(ABC):
    """A model that turns waveforms into layers.

    ``layers``: all layers in network order. ``provenance``: what identifies the model (id, revision
    or sha256, family, normalisation, ...); it becomes part of the store's configuration.
    ``n_parameters``, ``n_nonzero``: of the whole network, None where there is none; pruned weights are 0.
    ``min_samples``, ``max_window``: the shortest and the longest stretch that the model can take.
    """

    layers: dict[str, Layer]
    provenance: dict
    n_parameters: int | None = None
    n_nonzero: int | None = None
    name: str = ""  # as it was typed
    device = torch.device("cpu")
    network: Any = None
    _blocks: Sequence[Any] = ()
    lacking: Sequence[str] = ()  # parameters that the checkpoint has not, so that they hold random numbers
    min_samples: int = 1
    max_window: int | None = None
    only_unit: str | None = None  # the one unit at which its rows mean something
    is_acoustic = False
    normalises = False  # whether waveforms get zero mean and unit variance; ``epsilon`` is added to the variance
    epsilon = 0.0
    attention_heads = 0  # of attention whose weights are held: frames x frames for each

    @abstractmethod
    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        """Run the items as one batch and emit each of ``layers`` once, in any order."""

    def normalise(self, waveform: np.ndarray, of: Moments | None = None) -> np.ndarray:
        """What the model's own recipe does to an utterance before it is cut into windows.

        ``of``: the moments of a whole utterance of which ``waveform`` is one window. Of a class with a ``normalise`` of
        its own, long utterances are held in memory whole.
        """
        return standardised(waveform, self.epsilon, of) if self.normalises else waveform

    def prepare(self, item: Item) -> None:  # noqa: B027 - nothing is right for most models
        """Work on one item that can be done beside the model, in a reading thread."""

    @property
    def is_streaming(self) -> bool:
        """Whether the windows of a long utterance can be read one by one."""
        return type(self).normalise is Extractor.normalise

    def prepared_bytes(self, n_samples: int) -> int:
        """Memory of what ``prepare`` makes of an item of this length, beside its samples."""
        return 0

    def activation_bytes(self, n_samples: int) -> int:
        """Memory that the forward pass of one item of this length takes at its peak, estimated.

        Three arrays as large as the largest layer; in blocks ten as large as a layer, of which eight are around the
        feed-forward network; and four of the attention weights of all heads, where these are held.
        """
        geometries = [(name, layer.width, layer.geometry) for name, layer in self.layers.items() if layer.geometry]
        largest = max((10 if name[0] == "T" else 3) * width * g.n_frames(n_samples) for name, width, g in geometries)
        n_frames = max((g.n_frames(n_samples) for name, _, g in geometries if name[0] == "T"), default=0)
        return 4 * max(largest, 4 * self.attention_heads * n_frames**2)

    def padded_samples(self, n_samples: int) -> int:
        """Samples that an item of this length costs in a batch."""
        return n_samples

    def time_mask(self, seed: int, probability: float | None = None, length: int | None = None) -> TimeMask:
        """The mask of pre-training, with its own values where None is given. Raises UsageError or ModelError."""
        raise UsageError(
            f"--mask-seed is for models of the wav2vec 2.0 kind, which are trained on masked frames; "
            f"{self.provenance['id']} is not one: leave it out"
        )

    def _take(self, model: Model, network: Any, device: torch.device, dtype: torch.dtype) -> None:
        """Begin with a network of ``model``, before parts of it are left out."""
        self.name, self.network, self.lacking = model.text, network, model.lacking
        self.layers, self.provenance = dict(model.layers), model.provenance
        self.normalises, self.epsilon = bool(model.normalises), model.epsilon
        self._count_parameters(network, self.lacking)
        self.network.to(device)
        self.device, self.dtype = device, dtype

    def _count_parameters(self, network: Any, lacking: Sequence[str] = ()) -> None:
        """``lacking``: parameters that the checkpoint has not."""
        parameters = [parameter for name, parameter in network.named_parameters() if name not in lacking]
        self.n_parameters = sum(p.numel() for p in parameters)
        self.n_nonzero = sum(int(p.count_nonzero()) for p in parameters)

    def first_layer(self, parameter: str) -> str | None:
        """The first layer, in network order, that is computed from a parameter; None where no layer is."""
        return next(iter(self.layers))

    def check_whole(self, layers: Sequence[str]) -> None:
        """Raise ModelError where ``layers`` are computed from weights that the checkpoint lacks; tell of others."""
        order = {name: k for k, name in enumerate(self.layers)}
        top = max(order[name] for name in layers)
        firsts = {
            key: order.get(first, len(order)) for key in self.lacking if (first := self.first_layer(key)) is not None
        }
        name = self.name or self.provenance["id"]
        refuse_lacking(name, [key for key in firsts if firsts[key] <= top], summary(layers))
        if firsts:
            tell(
                f"{name} lacks {len(firsts)} weights of its architecture (first: {next(iter(firsts))}); the layers "
                f"asked ({summary(layers)}) are computed without them"
            )

    def restrict(self, layers: Sequence[str]) -> None:
        """Leave out the parts of the network that none of ``layers`` needs; called once, before the first batch.

        Of networks with blocks (``_blocks``) these are the blocks above the highest layer.
        """
        self.check_whole(layers)
        if self._blocks:
            self.network.encoder.layers = needed_blocks(self._blocks, layers)


def needed_blocks(blocks: Sequence[Any], layers: Sequence[str], letter: str = "T") -> torch.nn.ModuleList:
    """The blocks up to the highest asked layer; the first stays, as the layer before it is what goes into it."""
    top = max((int(name[1:]) for name in layers if name.startswith(letter)), default=0)
    return torch.nn.ModuleList(blocks if letter == "T" and "final" in layers else blocks[: max(top, 1)])
