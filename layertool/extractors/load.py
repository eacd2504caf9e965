"""From the MODEL that a user types to an extractor."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch

from layertool.errors import ModelError, UsageError
from layertool.extractors import acoustic
from layertool.extractors.base import Extractor
from layertool.models import melhubert
from layertool.models.checkpoint_files import split_kind
from layertool.models.checkpoints import draw_anew, read_config, state_sha256
from layertool.models.computing import DTYPES, check_dtype, choose_device
from layertool.models.foreign import file_sha256


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
    statistics: str | None = None,
) -> Extractor:
    """The extractor for a Hugging Face id (``name@revision``), a local folder, KIND:FILE, or an acoustic feature's name.

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
            "--encoder-window": None if encoder_window == "clip" else encoder_window, "--statistics": statistics,
        }  # fmt: skip
        for option in (name for name, value in given.items() if value is not None):
            raise UsageError(f"{option} is for models; {model} is an acoustic feature")
        if dtype != "float32":
            raise UsageError(f"{model} is an acoustic feature, always computed in float32: leave out --dtype {dtype}")
        return AcousticExtractor(model, cmvn)
    if cmvn:
        raise UsageError(f"--cmvn is for acoustic features; {model} is a model")
    kind, path = split_kind(model)
    if kind == "melhubert" or (kind is None and melhubert.is_folder(path)):
        from layertool.extractors.melhubert import MelHubertExtractor

        given = {
            "--normalise": normalise, "--language": language, "--mask-seed": mask_seed,
            "--encoder-window": None if encoder_window == "clip" else encoder_window,
        }  # fmt: skip
        for option in (name for name, value in given.items() if value is not None):
            raise UsageError(f"{option} is not for MelHuBERT, which {model} is: leave it out")
        compute = check_dtype(dtype, place)
        return MelHubertExtractor(path, place, compute, random_init, statistics or melhubert.DEFAULT_STATISTICS)
    if statistics is not None:
        raise UsageError(f"--statistics is for MelHuBERT; {model} is another model: leave it out")
    if (
        kind is None and not Path(model).exists() and (":" in model or "/" not in model)
    ):  # speech models have an owner: OWNER/NAME
        near = difflib.get_close_matches(model, acoustic.PRESETS, n=1)
        raise UsageError(
            f"'{model}' is no model{f' (did you mean {near[0]}?)' if near else ''}: give a Hugging Face id (OWNER/NAME), "
            f"a local folder, fairseq:FILE, melhubert:FILE, or an acoustic feature ({', '.join(sorted(acoustic.PRESETS))})"
        )
    from layertool.extractors import huggingface

    if kind is not None:
        given = {
            "--language": language, "--encoder-window": None if encoder_window == "clip" else encoder_window,
            "--random-init": random_init if kind == "fairseq-native" else None,
            "--mask-seed": mask_seed if kind == "fairseq-native" else None,
        }  # fmt: skip
        for option in (name for name, value in given.items() if value is not None):
            raise UsageError(f"{option} is not for {kind}:FILE: leave it out")
        return _open_fairseq(kind, Path(path), place, check_dtype(dtype, place), random_init, normalise)
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


def _open_fairseq(
    kind: str, path: Path, place: torch.device, dtype: torch.dtype, random_init: int | None, normalise: bool | None
) -> Extractor:
    """A fairseq checkpoint, read without fairseq or run by it."""
    if kind == "fairseq-native":
        from layertool.extractors.fairseq_native import FairseqNativeExtractor

        return FairseqNativeExtractor(path, place, dtype, normalise)
    from layertool.extractors.huggingface import SpeechExtractor
    from layertool.models import fairseq

    network, facts = fairseq.read(path)
    provenance = {
        "id": path.name, "revision": None, "sha256": file_sha256(path), "step": facts.step,
        "is_finetuned": facts.is_finetuned, "random_init": random_init, "normalisation_epsilon": fairseq.EPSILON,
    }  # fmt: skip
    if random_init is not None:
        network = draw_anew(network.config, random_init)
        provenance |= {"sha256": state_sha256(network), "step": 0}
    normalises = facts.normalise if normalise is None else normalise
    return SpeechExtractor(network, provenance, normalises, place, dtype, epsilon=fairseq.EPSILON)
