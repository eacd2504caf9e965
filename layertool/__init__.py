"""layertool: what does each layer of a speech model know?"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus
    from layertool.extractors.run import extract
    from layertool.models.open import Model
    from layertool.store import FeatureStore

try:
    __version__ = version("layertool")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["Corpus", "FeatureStore", "Model", "__version__", "extract"]

# Loaded on first use: `layertool --help` must not wait for pandas or torch.
_HOMES = {
    "Corpus": "layertool.corpora.corpus",
    "FeatureStore": "layertool.store",
    "Model": "layertool.models.open",
    "extract": "layertool.extractors.run",
}


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'layertool' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
