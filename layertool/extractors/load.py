"""From a MODEL to its extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layertool.errors import UsageError
from layertool.extractors.acoustic import AcousticExtractor
from layertool.extractors.base import Extractor
from layertool.extractors.fairseq_native import FairseqNativeExtractor
from layertool.extractors.huggingface import SpeechExtractor
from layertool.extractors.melhubert import MelHubertExtractor
from layertool.extractors.whisper import WhisperExtractor
from layertool.models.computing import DTYPES, check_dtype, choose_device
from layertool.models.open import ACOUSTIC, Model

_OF_KIND: dict[str, Any] = {"melhubert": MelHubertExtractor, "fairseq-native": FairseqNativeExtractor}


def open_extractor(
    model: Model | Path | str, device: str = "auto", dtype: str = "float32", mask_seed: int | None = None, **asked: Any
) -> Extractor:
    """The extractor of a MODEL; ``asked``: see ``layertool.models.open.Asked``.

    ``mask_seed`` is only looked at: the mask itself is the extractor's ``time_mask``. Raises ModelError or UsageError.
    """
    if dtype not in DTYPES:
        raise UsageError(f"'{dtype}' is no compute dtype: choose {', '.join(DTYPES)}")
    place = choose_device(device)
    model = Model.open(model, **asked)
    model.check_options({"dtype": dtype, "mask_seed": mask_seed})
    if model.kind == ACOUSTIC:
        return AcousticExtractor(model)
    family = WhisperExtractor if model.family == "whisper" else SpeechExtractor
    return _OF_KIND.get(model.kind, family)(model, place, check_dtype(dtype, place))
