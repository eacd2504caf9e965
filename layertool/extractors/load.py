"""From a MODEL to its extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layertool.extractors.base import Extractor
from layertool.models.computing import choose
from layertool.models.open import ACOUSTIC, Model


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
        from layertool.extractors.acoustic import AcousticExtractor

        return AcousticExtractor(model)
    if model.kind == "melhubert":
        from layertool.extractors.melhubert import MelHubertExtractor

        return MelHubertExtractor(model, place, compute)
    if model.kind == "fairseq-native":
        from layertool.extractors.fairseq_native import FairseqNativeExtractor

        return FairseqNativeExtractor(model, place, compute)
    if model.family == "whisper":
        from layertool.extractors.whisper import WhisperExtractor

        return WhisperExtractor(model, place, compute)
    from layertool.extractors.huggingface import SpeechExtractor

    return SpeechExtractor(model, place, compute)
