"""A MODEL as distillation and CTC need it: its encoder, what it hears of an utterance, and how it is written again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from layertool.audio import read_utterance
from layertool.errors import ModelError
from layertool.geometry import FrameGeometry
from layertool.models import melhubert, pruned
from layertool.models.melhubert import MelHuBERT
from layertool.models.open import EPSILON, Model


@dataclass(frozen=True)
class Opened:
    """A model, and its encoder in evaluation mode and float32."""

    model: Model
    encoder: Any

    @property
    def name(self) -> str:
        """As it was typed."""
        return self.model.text

    @property
    def geometry(self) -> FrameGeometry:
        """Of its frames."""
        return self.model.geometry

    @property
    def samples_a_step(self) -> int:
        """How many samples at 16 kHz one step along its input is: 1, or those between frames of mel energies."""
        return self.geometry.hop if isinstance(self.encoder, MelHuBERT) else 1

    def n_frames(self, row: Mapping[str, Any]) -> int:
        """Frames of an utterance of a corpus; 0 where it is too short."""
        return self.geometry.n_frames(int(row["n_samples"]))

    def hear(self, row: Mapping[str, Any]) -> np.ndarray:
        """Its input of a whole utterance: float32 (samples,), or (frames, 40 or 80) of MelHuBERT."""
        return self.model.hear(read_utterance(row))

    @property
    def decided(self) -> dict:
        """What decides its numbers, for the record of a run."""
        model = self.model
        identity = {key: model.identity.get(key) for key in ("id", "revision", "sha256", "description_sha256", "step")}
        if isinstance(self.encoder, MelHuBERT):
            return identity | {"description_sha256": None, "statistics": melhubert.name_statistics(model.statistics)}
        return identity | {"normalise": model.normalises, "epsilon": model.epsilon}

    def save(self, network: Any, folder: Path, step: int, made_by: str) -> None:
        """Write a network that hears the same input, of whatever it was made, as a MODEL folder."""
        if isinstance(network, MelHuBERT):
            network.config = replace(network.config, step=step)
        facts: dict[str, Any] = {"step": step, "made_by": made_by}
        if self.model.kind != "melhubert" and self.model.epsilon != EPSILON:
            facts["normalisation_epsilon"] = self.model.epsilon
        pruned.save(network, folder, self.model.normalises, facts)


def open_encoder(model: Model | str, statistics: str | None = None) -> Opened:
    """The encoder of a MODEL: a Hugging Face id or folder of the wav2vec 2.0 family, fairseq:FILE, or a MelHuBERT.

    ``statistics``: of MelHuBERT's input (``melhubert.features``), None for those of 960 h. Pruned networks open as any.
    Raises ModelError for other models, UsageError for statistics of a model that has none.
    """
    model = Model.open(model, statistics=statistics)
    if model.type not in ("melhubert", *pruned.FAMILIES):
        raise ModelError(
            f"{model} is of type '{model.type}', whose encoder is not trained here: give a MelHuBERT, or a model "
            f"of the type {', '.join(pruned.FAMILIES)}"
        )
    if model.kind == "melhubert":
        melhubert.name_statistics(model.statistics)
    network = model.load()
    if isinstance(network, MelHuBERT):
        network.final_proj = None  # it only tells clusters
        network.config = replace(network.config, num_cluster=0)
    return Opened(model, network)
