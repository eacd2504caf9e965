"""``fairseq-native:FILE``: the genuine network of the installed fairseq package, for what our own reading does not cover.

fairseq builds the network from the checkpoint's settings, and its own loading is not used: the file is read as safely as
everywhere here, and the one setting that fairseq gives to ``eval`` is parsed and written anew. Clips go one at a time.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from layertool.errors import MissingExtraError, ModelError
from layertool.extractors.base import Emit, Extractor, Item, Layer
from layertool.extractors.hooks import Hook, after, hooked
from layertool.geometry import convolution_geometry
from layertool.models.computing import computing_in
from layertool.models.fairseq import EPSILON, Parts, take_apart
from layertool.models.fairseq_names import DEFAULT_CONVOLUTIONS, convolutions
from layertool.models.foreign import file_sha256


class FairseqNativeExtractor(Extractor):
    """One checkpoint through fairseq's own modules.

    ``normalise``: whether the waveform gets zero mean and unit variance; None follows the checkpoint.
    Raises ModelError for a file that cannot be read, MissingExtraError where fairseq is not installed.
    """

    epsilon = EPSILON

    def __init__(
        self,
        path: Path | str,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        normalise: bool | None = None,
    ):
        path = Path(path)
        parts = take_apart(path)
        try:
            shape = convolutions(
                parts.settings.value(parts.settings.model, "conv_feature_layers", DEFAULT_CONVOLUTIONS)
            )
            if parts.settings.whole_number("crop_seq_to_multiple", 1) != 1:
                raise ModelError(
                    "crop_seq_to_multiple is above 1, so that frames are dropped at the end, which is not read: set it to 1 in a copy of the file"
                )
            self.network, version = _genuine(parts, shape)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        self._count_parameters(self.network)
        self.network.to(device)
        self.device, self.dtype = device, dtype
        self.normalises = parts.facts.normalise if normalise is None else normalise
        self.provenance = {
            "family": parts.family,
            "id": path.name,
            "revision": None,
            "sha256": file_sha256(path),
            "step": parts.facts.step,
            "is_finetuned": parts.facts.is_finetuned,
            "random_init": None,
            "normalise": self.normalises,
            "reader": f"fairseq {version}",
        }
        geometry = convolution_geometry([layer[1] for layer in shape], [layer[2] for layer in shape])
        encoder = self.network.encoder
        self.layers = {f"C{k}": Layer(shape[k - 1][0], g) for k, g in enumerate(geometry, start=1)}
        self.layers |= {f"T{k}": Layer(encoder.embedding_dim, geometry[-1]) for k in range(len(encoder.layers) + 1)}
        if encoder.layer_norm_first:
            self.layers["final"] = Layer(encoder.embedding_dim, geometry[-1])
        self.geometry, self.min_samples = geometry[-1], geometry[-1].field

    @torch.inference_mode()
    def forward(self, items: Sequence[Item], layers: Sequence[str], emit: Emit) -> None:
        alone = [self._layers_of(item.samples, layers) for item in items]
        for name in layers:
            emit(name, torch.nn.utils.rnn.pad_sequence([found[name] for found in alone], batch_first=True))

    def _layers_of(self, samples: np.ndarray, layers: Sequence[str]) -> dict[str, torch.Tensor]:
        """Layers of one clip, each (frames, width)."""
        found: dict[str, torch.Tensor] = {}
        n_frames = self.geometry.n_frames(len(samples))

        def keep(name: str, hidden: torch.Tensor) -> None:
            found[name] = hidden if name.startswith("C") else hidden[:n_frames]  # blocks see even numbers of frames

        hooks = []
        for name in layers:
            encoder, number = self.network.encoder, 0 if name == "final" else int(name[1:])
            if name.startswith("C"):
                convolution = self.network.feature_extractor.conv_layers[number - 1]
                hooks.append(after(convolution, keep, name, lambda hidden: hidden[0].T))
            elif name == "T0":
                hooks.append(Hook(encoder.layers[0], lambda _module, inputs: keep("T0", inputs[0][:, 0]), True))
            elif name == "final":
                hooks.append(after(encoder.layer_norm, keep, name, lambda hidden: hidden[0]))
            else:
                hooks.append(after(encoder.layers[number - 1], keep, name, lambda hidden: hidden[:, 0]))
        with hooked(hooks), computing_in(self.device, self.dtype):
            source = torch.from_numpy(samples)[None].to(self.device)
            self.network.extract_features(source=source, padding_mask=None, mask=False)
        return found


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
