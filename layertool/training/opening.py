"""A MODEL as distillation and CTC need it: its encoder, what it hears of an utterance, and how it is written again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layertool.audio import read_utterance
from layertool.errors import ModelError, UsageError
from layertool.geometry import SAMPLE_RATE, FrameGeometry, convolution_geometry
from layertool.models import fairseq, melhubert, pruned
from layertool.models.checkpoint_files import normalises, split_kind
from layertool.models.checkpoints import files_sha256, load_model, read_config
from layertool.models.foreign import file_sha256
from layertool.models.melhubert import MelHuBERT
from layertool.training.encoders import encode, width_of
from layertool.training.pretraining_networks import EPSILON
from layertool.waveforms import standardised


@dataclass(frozen=True)
class Opened:
    """An encoder in evaluation mode and float32, and its input.

    ``provenance``: what identifies it (id, revision, sha256, step). ``normalises``: whether waveforms get zero mean and
    unit variance, None for MelHuBERT; ``epsilon`` is added to that variance. ``statistics``: of MelHuBERT's input.
    """

    name: str
    encoder: Any
    provenance: dict
    normalises: bool | None
    epsilon: float
    statistics: str

    @property
    def geometry(self) -> FrameGeometry:
        """Of its frames."""
        if isinstance(self.encoder, MelHuBERT):
            return melhubert.GEOMETRIES[self.encoder.config.stride or 20]
        return convolution_geometry(self.encoder.config.conv_kernel, self.encoder.config.conv_stride)[-1]

    @property
    def samples_a_step(self) -> int:
        """How many samples at 16 kHz one step along its input is: 1, or those between frames of mel energies."""
        return self.geometry.hop if isinstance(self.encoder, MelHuBERT) else 1

    def n_frames(self, row: Mapping[str, Any]) -> int:
        """Frames of an utterance of a corpus; 0 where it is too short."""
        return self.geometry.n_frames(int(row["n_samples"]))

    def hear(self, row: Mapping[str, Any]) -> np.ndarray:
        """Its input of a whole utterance: float32 (samples,), or (frames, 40 or 80) of MelHuBERT."""
        waveform = read_utterance(row)
        if isinstance(self.encoder, MelHuBERT):
            return melhubert.features(waveform, 1000 * self.geometry.hop // SAMPLE_RATE, self.statistics)
        return standardised(waveform, self.epsilon) if self.normalises else waveform

    @property
    def decided(self) -> dict:
        """What decides its numbers, for the record of a run."""
        wanted = ("id", "revision", "sha256", "description_sha256", "step")
        found: dict = {key: self.provenance.get(key) for key in wanted}
        if isinstance(self.encoder, MelHuBERT):
            return found | {"statistics": melhubert.name_statistics(self.statistics)}
        return found | {"normalise": self.normalises, "epsilon": self.epsilon}

    def save(self, network: Any, folder: Path, step: int, made_by: str) -> None:
        """Write a network that hears the same input, of whatever it was made, as a MODEL folder."""
        if isinstance(network, MelHuBERT):
            network.config = replace(network.config, step=step)
        facts: dict[str, Any] = {"step": step, "made_by": made_by}
        if self.epsilon != EPSILON:
            facts["normalisation_epsilon"] = self.epsilon
        pruned.save(network, folder, self.normalises, facts)


def open_encoder(model: str, statistics: str | None = None) -> Opened:
    """The encoder of a MODEL: a Hugging Face id or folder of the wav2vec 2.0 family, fairseq:FILE, or a MelHuBERT.

    ``statistics``: of MelHuBERT's input (``melhubert.features``), None for those of 960 h. Pruned networks open as any.
    Raises ModelError for other models, UsageError for statistics of a model that has none.
    """
    kind, path = split_kind(model)
    if kind == "melhubert" or (kind is None and melhubert.is_folder(path)):
        return _melhubert(model, Path(path), statistics or melhubert.DEFAULT_STATISTICS)
    if statistics is not None:
        raise UsageError(f"--statistics is for MelHuBERT; {model} is another model: leave it out")
    epsilon = fairseq.EPSILON
    provenance: dict[str, Any]
    if kind == "fairseq":
        network, facts = fairseq.read(Path(path))
        provenance = {"id": Path(path).name, "revision": None, "sha256": file_sha256(path), "step": facts.step}
        normalised = facts.normalise
    else:
        config = read_config(model)
        _check_family(model, config.model_type)
        network, provenance, _ = load_model(model, config, None)
        normalised, epsilon = normalises(model, config), provenance.get("normalisation_epsilon") or EPSILON
    _check_family(model, network.config.model_type)
    return Opened(model, network, provenance, normalised, epsilon, melhubert.DEFAULT_STATISTICS)


def _check_family(model: str, kind: str) -> None:
    if kind not in pruned.FAMILIES:
        raise ModelError(
            f"{model} is of type '{kind}', whose encoder is not trained here: give a MelHuBERT, or a model of the type "
            f"{', '.join(pruned.FAMILIES)}"
        )


def _melhubert(model: str, path: Path, statistics: str) -> Opened:
    melhubert.name_statistics(statistics)
    network, config = melhubert.load(path)
    if config.stride is None:
        raise ModelError(
            f"{path} takes {config.feat_emb_dim} numbers a frame, which is the input of no MelHuBERT (40 or 80)"
        )
    network.final_proj = None  # it only tells clusters
    network.config = replace(network.config, num_cluster=0)
    sha256 = files_sha256(path, ("*.safetensors",)) if path.is_dir() else file_sha256(path)
    provenance = {"id": path.resolve().name, "revision": None, "sha256": sha256, "step": config.step}
    return Opened(model, network.eval(), provenance, None, EPSILON, statistics)


@torch.no_grad()
def states_of(opened: Opened, row: Mapping[str, Any], place: torch.device) -> np.ndarray:
    """All hidden states of one utterance, float32 (frames, states, width); the encoder is on ``place`` already."""
    heard = torch.from_numpy(opened.hear(row))[None]
    found = encode(opened.encoder.eval(), heard.to(place), torch.tensor([heard.shape[1]]), states=True)
    return torch.stack([state[0] for state in found.states], dim=1).float().cpu().numpy()


def states_bytes(opened: Opened, n_states: int, rows: Sequence[Mapping[str, Any]]) -> int:
    """How large the states of these utterances are."""
    return 4 * n_states * width_of(opened.encoder) * sum(opened.n_frames(row) for row in rows)
