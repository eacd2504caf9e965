"""Layers put together for one embedding of each item.

"Aggregating these averaged embeddings across all layers" (Lin et al. 2024) is their plain mean, in which layers
of large norm weigh more; the alternatives have names of their own, which results carry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from layertool import layers as layer_names
from layertool.errors import UsageError
from layertool.store import FeatureStore

OVER = " over layers "  # between what is made of layers, and which
AGGREGATIONS = {
    "mean": "mean",
    "normalized-mean": "mean at length 1",
    "max": "largest",
    "min": "smallest",
    "concat": "joined",
    "last": "last layer",
    "speat-compat": "mean as in the SpEAT code",
    "each": "one layer",
}
Say = Callable[[str], object]


def check(how: str) -> None:
    """Raise UsageError for an aggregation that there is not."""
    if how not in AGGREGATIONS:
        raise UsageError(f"'{how}' is no aggregation over layers: choose {', '.join(AGGREGATIONS)}")


def describe(how: str, layers: str) -> str:
    """What an aggregation is, for the variant of a result; ``layers``: their names."""
    if how in ("last", "each"):
        return AGGREGATIONS[how]
    return AGGREGATIONS[how] + OVER + layers.replace(", ", " ")


def default_layers(store: FeatureStore, unit: str, asked: str) -> list[str]:
    """The asked layers; ``all`` means T0 to TL, which a mean has to be over, or the only layer of acoustic features.

    Raises UsageError when the store lacks one of T0 to TL, as the mean over the rest would be another number.
    """
    there = store.layers_of(unit)
    if asked != "all":
        return layer_names.select(asked, there, f"{store.path} at unit {unit}")
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
            f"{store.path} lacks {layer_names.summary(missing)} of {whole[0]} to {whole[-1]}, so a mean over layers would not be that of all: "
            f"extract them, or say --layers {','.join(blocks)}"
        )
    return blocks


def network_blocks(store: FeatureStore) -> list[str]:
    """T0 to TL of the network, whichever the store holds; stores of older versions do not say L: the highest there is."""
    known = layer_names.blocks(store.about.get("network_layers", []))
    highest = max((int(layer[1:]) for layer in layer_names.blocks(store.layers)), default=-1)
    return known or [f"T{k}" for k in range(highest + 1)]


def aggregate(
    held: Mapping[str, np.ndarray], how: str, store: FeatureStore, say: Say
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(name, place among layers, embeddings (n, width)) from layers (n, width) each, in network order.

    ``each`` gives one for every layer, others give one in all. UsageError for layers of different widths where they
    are added or compared.
    """
    names = list(held)
    if how == "each":
        for name in names:
            yield name, store.layers.index(name), held[name]
        return
    place = len(store.layers)
    span = layer_names.summary(names)
    if how == "last":
        yield names[-1], store.layers.index(names[-1]), held[names[-1]]
        return
    if how == "speat-compat":
        names = _original(names, store, say)
        how = "mean"
    if how == "concat":
        yield span, place, np.concatenate([held[name] for name in names], axis=1)
        return
    widths = {held[name].shape[1] for name in names}
    if len(widths) > 1:
        raise UsageError(
            f"{span} of {store.path} have widths {', '.join(map(str, sorted(widths)))}: only concat puts such layers together"
        )
    stack = np.stack([held[name] for name in names])
    if how == "normalized-mean":
        stack = stack / np.sqrt((stack**2).sum(-1, keepdims=True))
    if how in ("max", "min"):
        yield span, place, stack.max(0) if how == "max" else stack.min(0)
    else:
        yield span, place, stack.mean(0)


def _original(names: list[str], store: FeatureStore, say: Say) -> list[str]:
    """The layer list of the original code (spec speat.md 1.5): for HuBERT, its first file holds the last layer."""
    family, whole = store.configuration["model"]["family"], network_blocks(store)
    if family not in ("HuBERT", "wav2vec 2.0", "WavLM", "Whisper", "acoustic"):
        raise UsageError(
            f"the SpEAT code has no list of layers for {family}, so there is no speat-compat of {store.path}"
        )
    if whole and names != whole:
        raise UsageError(
            f"speat-compat stands for {whole[0]} to {whole[-1]} of {family}, not for {layer_names.summary(names)}: leave out --layers"
        )
    if family == "HuBERT":
        return [names[-1], *names[1:]]
    if family == "wav2vec 2.0":
        say(
            "speat-compat of wav2vec 2.0: the original's first layer is the projection before positions are added, "
            "which stores do not hold; T0 stands in its place"
        )
    return names
