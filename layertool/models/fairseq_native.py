"""Networks of fairseq's own modules, for what transformers has no network for: with the package of fairseq alone."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from layertool.errors import MissingExtraError, ModelError
from layertool.models.fairseq import Facts, take_apart


def version() -> str:
    """Of fairseq: a part of what identifies its networks."""
    import fairseq

    return str(fairseq.__version__)


def read(path: Path) -> tuple[Any, Facts]:
    """The network of a checkpoint in evaluation mode and float32, and what its file says of it.

    Raises ModelError for a file that cannot be read, MissingExtraError where fairseq is not installed.
    """
    facts, settings, tensors = take_apart(path)
    try:
        shape = settings.convolutions
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    try:
        from fairseq.examples.data2vec.models.data2vec_audio import Data2VecAudioConfig, Data2VecAudioModel
        from fairseq.models.hubert import HubertConfig, HubertModel
        from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model
    except ImportError as error:
        raise MissingExtraError(
            "fairseq-fixed", "fairseq", "fairseq-native:FILE, which docs/checkpoints.md says how to build,"
        ) from error
    logging.getLogger("fairseq").setLevel(logging.WARNING)  # it tells every setting of every network
    without_labels = (SimpleNamespace(sample_rate=16_000), [None])  # of the pre-training of HuBERT
    config, kind, more = {
        "wav2vec2": (Wav2Vec2Config(), Wav2Vec2Model, ()),
        "hubert": (HubertConfig(), HubertModel, without_labels),
        "data2vec-audio": (Data2VecAudioConfig(), Data2VecAudioModel, ()),
    }[facts.family]
    for one in dataclasses.fields(config):
        setattr(config, one.name, settings.value(settings.model, one.name, getattr(config, one.name)))
    config.conv_feature_layers = repr(shape)  # fairseq evaluates it
    if facts.family == "hubert":
        config.label_rate = -1.0
    try:
        network = kind(config, *more)
        network.remove_pretraining_modules()
        network.load_state_dict(_spelled(tensors, network), strict=True)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ModelError(
            f"fairseq makes no network of it ({' '.join(str(error).split())[:400]}): is the file damaged?"
        ) from error
    return network.float().eval(), facts


def _spelled(tensors: dict[str, torch.Tensor], network: Any) -> dict[str, torch.Tensor]:
    """Tensors with weight norm spelled as this torch and fairseq spell it."""
    spellings = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
    if any(name.endswith(".weight_g") for name in network.state_dict()):
        spellings = {new: old for old, new in spellings.items()}
    spelled = {}
    for name, value in tensors.items():
        ending = next((ending for ending in spellings if name.endswith(ending)), "")
        spelled[name.removesuffix(ending) + spellings.get(ending, "")] = value
    return spelled
