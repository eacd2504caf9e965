"""Networks of fairseq's own modules, for what transformers has no network for: with the package of fairseq alone."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from layertool.errors import MissingExtraError, ModelError
from layertool.models.fairseq import Facts, Parts, take_apart
from layertool.models.fairseq_names import CROPPED, DEFAULT_CONVOLUTIONS, convolutions


@dataclasses.dataclass(frozen=True)
class Described:
    """A network of fairseq: ``convolutions``, (width, kernel, stride) each; ``width`` and number of its blocks.

    ``version``: of fairseq.
    """

    facts: Facts
    convolutions: list[tuple[int, int, int]]
    width: int
    n_blocks: int
    has_final: bool
    version: str


def read(path: Path) -> tuple[Any, Described]:
    """The network of a checkpoint in evaluation mode and float32, and what it is.

    Raises ModelError for a file that cannot be read, MissingExtraError where fairseq is not installed.
    """
    parts = take_apart(path)
    try:
        text = parts.settings.value(parts.settings.model, "conv_feature_layers", DEFAULT_CONVOLUTIONS)
        shape = convolutions(text)
        if parts.settings.whole_number("crop_seq_to_multiple", 1) != 1:
            raise ModelError(CROPPED)
        network, version = _genuine(parts, shape)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    encoder = network.encoder
    return network, Described(
        parts.facts, shape, encoder.embedding_dim, len(encoder.layers), bool(encoder.layer_norm_first), version
    )


def _genuine(parts: Parts, shape: Sequence[tuple[int, int, int]]) -> tuple[Any, str]:
    """fairseq's network of these settings and tensors in evaluation mode, and fairseq's version."""
    try:
        import fairseq
        from fairseq.examples.data2vec.models.data2vec_audio import Data2VecAudioConfig, Data2VecAudioModel
        from fairseq.models.hubert import HubertConfig, HubertModel
        from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2Model
    except ImportError as error:
        raise MissingExtraError(
            "fairseq-fixed", "fairseq", "fairseq-native:FILE, which docs/checkpoints.md says how to build,"
        ) from error
    logging.getLogger("fairseq").setLevel(logging.WARNING)  # it tells every setting of every network
    settings = parts.settings
    config = {"wav2vec2": Wav2Vec2Config, "hubert": HubertConfig, "data2vec-audio": Data2VecAudioConfig}[parts.family]()
    for one in dataclasses.fields(config):
        default = getattr(config, one.name)
        setattr(config, one.name, settings.value(settings.model, one.name, default))
    config.conv_feature_layers = repr(list(shape))  # fairseq evaluates it
    try:
        if parts.family == "hubert":
            config.label_rate = -1.0
            task = SimpleNamespace(sample_rate=16_000)
            network = HubertModel(config, task, [None])  # None: without the labels of its pre-training
        else:
            network = (Wav2Vec2Model if parts.family == "wav2vec2" else Data2VecAudioModel)(config)
        network.remove_pretraining_modules()
        network.load_state_dict(_spelled(parts.tensors, network), strict=True)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ModelError(
            f"fairseq makes no network of it ({' '.join(str(error).split())[:400]}): is the file damaged?"
        ) from error
    return network.float().eval(), str(fairseq.__version__)


def _spelled(tensors: dict[str, torch.Tensor], network: Any) -> dict[str, torch.Tensor]:
    """Tensors with weight norm spelled as this torch and fairseq spell it."""
    if any(name.endswith(".weight_g") for name in network.state_dict()):
        new = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    else:
        new = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    spelled = {}
    for name, value in tensors.items():
        for old, replacement in new.items():
            if name.endswith("." + old):
                name = name.removesuffix(old) + replacement
        spelled[name] = value
    return spelled
