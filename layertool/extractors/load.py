"""From the MODEL that a user types to an extractor."""

from __future__ import annotations

import difflib
from pathlib import Path

from layertool.errors import ModelError, UsageError
from layertool.extractors import acoustic
from layertool.extractors.base import Extractor
from layertool.models.checkpoints import read_config
from layertool.models.computing import DTYPES, check_dtype, choose_device


def open_extractor(
    model: str,
    device: str = "auto",
    dtype: str = "float32",
    random_init: int | None = None,
    normalise: bool | None = None,
    cmvn: bool = False,
    language: str | None = None,
    mask_seed: int | None = None,
    encoder_window: str = "clip",
) -> Extractor:
    """The extractor for a Hugging Face id (``name@revision``), a local folder, or an acoustic feature's name.

    ``normalise`` and ``mask_seed`` (wav2vec 2.0 kind), ``cmvn`` (acoustic), ``language`` and ``encoder_window`` (Whisper) concern one
    kind of model each; the mask itself is the extractor's ``time_mask``. Raises ModelError or UsageError.
    """
    if dtype not in DTYPES:
        raise UsageError(f"'{dtype}' is no compute dtype: choose {', '.join(DTYPES)}")
    place = choose_device(device)
    # the name of a feature means the feature, also where a store or folder of that name lies (./mel is the folder)
    if model.split(":")[0] in {name.split(":")[0] for name in acoustic.PRESETS}:
        from layertool.extractors.acoustic_run import AcousticExtractor

        given = {
            "--random-init": random_init, "--normalise": normalise, "--language": language, "--mask-seed": mask_seed,
            "--encoder-window": None if encoder_window == "clip" else encoder_window,
        }  # fmt: skip
        for option in (name for name, value in given.items() if value is not None):
            raise UsageError(f"{option} is for models; {model} is an acoustic feature")
        if dtype != "float32":
            raise UsageError(f"{model} is an acoustic feature, always computed in float32: leave out --dtype {dtype}")
        return AcousticExtractor(model, cmvn)
    if cmvn:
        raise UsageError(f"--cmvn is for acoustic features; {model} is a model")
    if not Path(model).exists() and (":" in model or "/" not in model):  # speech models have an owner: OWNER/NAME
        near = difflib.get_close_matches(model, acoustic.PRESETS, n=1)
        raise UsageError(
            f"'{model}' is no model{f' (did you mean {near[0]}?)' if near else ''}: give a Hugging Face id (OWNER/NAME), "
            f"a local folder, or an acoustic feature ({', '.join(sorted(acoustic.PRESETS))})"
        )
    from layertool.extractors import huggingface

    compute = check_dtype(dtype, place)
    config = read_config(model)
    if language is not None and config.model_type != "whisper":
        raise UsageError(f"--language is for Whisper's decoder; {model} is of type '{config.model_type}'")
    if encoder_window != "clip" and config.model_type != "whisper":
        raise UsageError(f"--encoder-window is for Whisper; {model} is of type '{config.model_type}': leave it out")
    if config.model_type in huggingface.MODEL_TYPES:
        return huggingface.SpeechExtractor.open(model, config, place, compute, random_init, normalise)
    if mask_seed is not None:
        raise UsageError(
            f"--mask-seed is for models of the wav2vec 2.0 kind, which are trained on masked frames; {model} is of type "
            f"'{config.model_type}': leave it out"
        )
    if normalise is not None:
        raise UsageError(f"--normalise is for models that read waveforms; {model} is of type '{config.model_type}'")
    if config.model_type == "whisper":
        from layertool.extractors.whisper import WhisperExtractor

        return WhisperExtractor(model, config, place, compute, random_init, language, encoder_window)
    known = ", ".join([*huggingface.MODEL_TYPES, "whisper"])
    raise ModelError(f"{model} is of type '{config.model_type}', which has no extractor here (there are: {known})")
