"""From a MODEL to its extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layertool.extractors.acoustic import AcousticExtractor
from layertool.extractors.base import Extractor
from layertool.extractors.fairseq_native import FairseqNativeExtractor
from layertool.extractors.huggingface import SpeechExtractor
from layertool.extractors.melhubert import MelHubertExtractor
from layertool.extractors.whisper import WhisperExtractor
from layertool.models.computing import choose
from layertool.models.open import ACOUSTIC, Model

_OF_KIND: dict[str, Any] = {"melhubert": MelHubertExtractor, "fairseq-native": FairseqNativeExtractor}


def open_extractor(
    model: Model | Path | str, device: str = "auto", dtype: str = "float32", mask_seed: int | None = None, **asked: Any
) -> Extractor:
    """The extractor of a MODEL; ``asked``: see ``layertool.models.open.Asked``.

    ``mask_seed`` is only looked at: the mask itself is the extractor's ``time_mask``. Raises ModelError or UsageError.
    """
    place, compute = choose(device, dtype)
    model = Model.open(model, **asked)
    model.check_options({"dtype": dtype, "mask_seed": mask_seed})
    if model.kind == ACOUSTIC:
        return AcousticExtractor(model)
    family = WhisperExtractor if model.family == "whisper" else SpeechExtractor
    return _OF_KIND.get(model.kind, family)(model, place, compute)
