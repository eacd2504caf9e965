"""layertool: what does each layer of a speech model know?"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from layertool.layerwise import ANALYSES

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus as Corpus
    from layertool.extractors.run import extract as extract
    from layertool.models.open import Model as Model
    from layertool.results import Results as Results
    from layertool.store import FeatureStore as FeatureStore

try:
    __version__ = version("layertool")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

# Loaded on first use: `layertool --help` must not wait for pandas or torch.
_HOMES = {
    "Corpus": "layertool.corpora.corpus",
    "FeatureStore": "layertool.store",
    "Model": "layertool.models.open",
    "Results": "layertool.results",
    "compare": "layertool.comparison",
    "extract": "layertool.extractors.run",
}
_ANALYSES = tuple(words for words in ANALYSES if " " not in words)
_GROUPS = ("probe", "lexical")  # of analyses: layertool.probe.neighbours

__all__ = ["__version__", *_ANALYSES, *_GROUPS, *_HOMES]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ANALYSES:
        return import_module("layertool.functions").named(name)
    if name in _GROUPS:
        return import_module(f"layertool.{name}")
    raise AttributeError(f"module 'layertool' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
