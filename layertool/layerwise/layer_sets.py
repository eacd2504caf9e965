"""Layers put together for one embedding of each item.

"Aggregating these averaged embeddings across all layers" (Lin et al. 2024) is their plain mean, in which layers
of large norm weigh more; the alternatives have names of their own, which results carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from layertool import layers as layer_names
from layertool.errors import UsageError, tell
from layertool.layerwise.stores import layers_of
from layertool.store import FeatureStore

Aggregation = Literal["mean", "normalized-mean", "max", "min", "last", "concat", "speat-compat", "each"]
ONE_LAYER = ("each", "last")  # nothing is put together


@dataclass(frozen=True)
class LayerSet:
    """One embedding of ``layers``, as often as each stands there; ``name``, ``index``: the layer of result rows."""

    aggregation: str
    name: str
    index: int
    layers: Sequence[str]

    @property
    def over(self) -> str | None:
        """Which layers were put together."""
        return None if self.aggregation in ONE_LAYER else self.name

    def together(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (n, width) from (n, width) of each layer."""
        if self.aggregation == "concat":
            return np.concatenate(parts, axis=1)
        stack = np.stack(parts)
        if self.aggregation == "normalized-mean":
            stack = stack / np.sqrt((stack**2).sum(-1, keepdims=True))
        if self.aggregation in ("max", "min"):
            return stack.max(0) if self.aggregation == "max" else stack.min(0)
        return stack.mean(0)


def layer_sets(store: FeatureStore, names: Sequence[str], aggregation: str) -> list[LayerSet]:
    """The sets that an aggregation makes of layers in network order: ``each`` one for every layer, others one in all.

    UsageError for layers of different widths where they are added or compared.
    """
    if aggregation in ONE_LAYER:
        chosen = names if aggregation == "each" else names[-1:]
        return [LayerSet(aggregation, name, store.layers.index(name), [name]) for name in chosen]
    span = layer_names.summary(names)
    widths = sorted({store.width(name) for name in names})
    if len(widths) > 1 and aggregation != "concat":
        raise UsageError(
            f"{span} of {store.path} have widths {', '.join(map(str, widths))}: only concat puts such layers together"
        )
    layers = _original(list(names), store) if aggregation == "speat-compat" else names
    return [LayerSet(aggregation, span, len(store.layers), layers)]


def default_layers(store: FeatureStore, unit: str, asked: str) -> list[str]:
    """The asked layers; ``all`` means T0 to TL, which a mean has to be over, or the only layer of acoustic features.

    Raises UsageError when the store lacks one of T0 to TL, as the mean over the rest would be another number.
    """
    there = layers_of(store, unit, asked)
    if asked != "all":
        return there
    blocks = layer_names.blocks(there)
    if not blocks:
        if len(there) == 1:
            return there
        raise UsageError(
            f"{store.path} has no transformer layers at unit {unit}: choose among its layers with --layers"
        )
    whole = network_blocks(store)
    missing = [layer for layer in whole if layer not in blocks]
    if missing:
        raise UsageError(
            f"{store.path} lacks {layer_names.summary(missing)} of {whole[0]} to {whole[-1]}, so a mean over layers "
            f"would not be that of all: extract them, or say --layers {','.join(blocks)}"
        )
    return blocks


def network_blocks(store: FeatureStore) -> list[str]:
    """T0 to TL of the network, whichever the store holds; older stores do not say L: the highest there is."""
    known = layer_names.blocks(store.about.get("network_layers", []))
    highest = max((int(layer[1:]) for layer in layer_names.blocks(store.layers)), default=-1)
    return known or [f"T{k}" for k in range(highest + 1)]


def _original(names: list[str], store: FeatureStore) -> list[str]:
    """The layer list of the original code (spec speat.md 1.5): for HuBERT, its first file holds the last layer."""
    family, whole = store.configuration["model"]["family"], network_blocks(store)
    if family not in ("HuBERT", "wav2vec 2.0", "WavLM", "Whisper", "acoustic"):
        raise UsageError(
            f"the SpEAT code has no list of layers for {family}, so there is no speat-compat of {store.path}"
        )
    if whole and names != whole:
        raise UsageError(
            f"speat-compat stands for {whole[0]} to {whole[-1]} of {family}, not for {layer_names.summary(names)}: "
            "leave out --layers"
        )
    if family == "HuBERT":
        return [names[-1], *names[1:]]
    if family == "wav2vec 2.0":
        tell(
            "speat-compat of wav2vec 2.0: the original's first layer is the projection before positions are added, "
            "which stores do not hold; T0 stands in its place"
        )
    return names
