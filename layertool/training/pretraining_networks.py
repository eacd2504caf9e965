"""The networks of pre-training, whose ``forward(**batch)`` gives {"loss": …}, and how they are built and saved.

MelHuBERT (spec speat.md 3.2, 3.3), HuBERT (Hsu et al. 2021) and wav2vec 2.0 (Baevski et al. 2020), the latter two on
transformers' networks. What fairseq does besides and transformers does not, is here: gradients of the convolutions are
scaled by 0.1, and the mean square of what they give counts, by 10. Padded frames count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2ForPreTraining
from transformers.utils import logging

from layertool.errors import ModelError, UsageError
from layertool.files import whole_file, write_json
from layertool.geometry import FrameGeometry, convolution_geometry
from layertool.models import melhubert
from layertool.models.checkpoint_files import SOURCE, write_preprocessor
from layertool.models.foreign import read_safetensors
from layertool.models.hooks import Tap, tapped
from layertool.models.open import EPSILON, Model
from layertool.models.padding import each_alone, inside
from layertool.training.encoders import scaled_gradient

PROJECTED = 256  # dimensions in which clusters or code vectors are told (fairseq's final_dim)
CONVOLUTION_WIDTH = 512
TEMPERATURE = 0.1  # of cosines, in both losses
FEATURE_GRADIENT, FEATURE_PENALTY = 0.1, 10.0  # fairseq's feature_grad_mult; its weight of the features' mean square
GUMBEL = (2.0, 0.5, 0.999995)  # first and last temperature, and what it is multiplied by at each step
HEADS = "heads.safetensors"  # beside a HuBERT: what tells clusters, which no layer is computed from


@dataclass(frozen=True)
class Sizes:
    """Blocks, width between them, rows of their feed-forward part, heads; channels of the convolutions (not in
    MelHuBERT)."""

    blocks: int
    width: int
    ffn: int
    heads: int
    convolution_width: int = CONVOLUTION_WIDTH

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UsageError(f"a network with {name.replace('_', ' ')} {value} cannot be: give 1 or more")
        for what, parts in (("heads", self.heads), ("groups of its convolution over positions", 16)):
            if self.width % parts:
                raise UsageError(
                    f"a width of {self.width} cannot be shared among {parts} {what}: give a multiple of {parts}"
                )


# Lin et al. 2024, Table 2 (spec speat.md 3.4)
PRESETS = {"small": Sizes(3, 640, 2048, 8), "slim": Sizes(12, 384, 768, 8), "base": Sizes(12, 768, 3072, 12)}


class Mel(nn.Module):
    """MelHuBERT: hidden input frames are 0, clusters are told by one projection."""

    def __init__(self, network: melhubert.MelHuBERT):
        super().__init__()
        self.network = network

    @property
    def geometry(self) -> FrameGeometry:
        return melhubert.GEOMETRIES[self.network.config.stride or 20]

    def forward(
        self, features: torch.Tensor, attention_mask: torch.Tensor, masked: torch.Tensor, clusters: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Mean cross-entropy of the clusters at hidden frames (spec 3.3). All (batch, frames), ``features`` with
        numbers of each."""
        logits = self.network(features, attention_mask, masked).logits
        loss = melhubert.masked_prediction_loss(logits, clusters, masked, attention_mask)
        return {"loss": loss, "told": loss.detach()}

    def save(self, folder: Path, step: int) -> None:
        melhubert.save(self.network, replace(self.network.config, step=step), folder)


class _OfWaveforms(nn.Module):
    """What networks that read waveforms share."""

    def __init__(self, network: Any, normalises: bool = False, epsilon: float = EPSILON):
        super().__init__()
        self.network, self.normalises, self.epsilon = network, normalises, epsilon
        network.base_model.feature_extractor.register_forward_hook(scaled_gradient(FEATURE_GRADIENT))

    @property
    def geometry(self) -> FrameGeometry:
        config = self.network.config
        return convolution_geometry(config.conv_kernel, config.conv_stride)[-1]

    def _hear(self, waveforms: torch.Tensor, n_samples: torch.Tensor, **given: Any) -> Any:
        """What transformers' network gives for padded clips, and the mean square of the convolutions' output."""
        base, lengths, taken = self.network.base_model, n_samples.tolist(), dict[str, torch.Tensor]()
        taps = {"features": Tap(base.feature_extractor)}
        with each_alone(base, lengths, waveforms) as attention, tapped(taps, list(taps), taken.__setitem__):
            out = self.network(waveforms, attention_mask=attention, **given)
        features = taken["features"].float()
        own = inside([self.geometry.n_frames(n) for n in lengths], features.shape[2], features.device)
        penalty = features.square().masked_fill(~own[:, None], 0).sum() / (own.sum() * features.shape[1])
        return out, penalty

    def save(self, folder: Path, step: int) -> None:
        """Write a network, and what ``layertool extract`` needs to know besides."""
        logging.disable_progress_bar()
        self.network.save_pretrained(folder)
        write_preprocessor(folder, self.normalises)
        facts: dict[str, Any] = {"file": None, "sha256": None, "step": step, "made_by": "layertool pretrain"}
        if self.epsilon != EPSILON:
            facts["normalisation_epsilon"] = self.epsilon
        write_json(folder / SOURCE, facts)


class Hubert(_OfWaveforms):
    """HuBERT: cosines between projected states and embeddings of the clusters (Hsu et al. 2021, equation 3)."""

    def __init__(self, network: HubertModel, n_clusters: int, normalises: bool = False, epsilon: float = EPSILON):
        super().__init__(network, normalises, epsilon)
        self.final_proj = nn.Linear(network.config.hidden_size, PROJECTED)
        self.label_embeddings = nn.Parameter(torch.empty(n_clusters, PROJECTED).uniform_())

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Cosines over 0.1: (frames, width) -> (frames, clusters)."""
        projected = functional.normalize(self.final_proj(hidden).float(), dim=-1)
        return projected @ functional.normalize(self.label_embeddings.float(), dim=-1).T / TEMPERATURE

    def forward(
        self, waveforms: torch.Tensor, n_samples: torch.Tensor, masked: torch.Tensor, clusters: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Mean cross-entropy at hidden frames and the penalty. (batch, samples), (batch,), twice (batch, frames)."""
        out, penalty = self._hear(waveforms, n_samples, mask_time_indices=masked)
        told = functional.cross_entropy(self.logits(out.last_hidden_state[masked]), clusters[masked])
        return {"loss": told + FEATURE_PENALTY * penalty, "told": told.detach()}

    def save(self, folder: Path, step: int) -> None:
        super().save(folder, step)
        self.save_heads(folder)

    def _heads(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.state_dict().items() if not name.startswith("network.")}

    def save_heads(self, folder: Path) -> None:
        """Write what tells clusters beside a network."""
        heads = {name: value.detach().cpu().contiguous() for name, value in self._heads().items()}
        with whole_file(folder / HEADS) as temporary:
            safetensors.torch.save_file(heads, temporary)

    def take_heads(self, folder: Path) -> None:
        """Go on with the heads of an earlier run, where there are as many clusters."""
        if not (folder / HEADS).exists():
            return
        state, own = read_safetensors(folder / HEADS), self._heads()
        if {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in own.items()}:
            self.load_state_dict(state, strict=False)


class Wav2Vec2(_OfWaveforms):
    """wav2vec 2.0: the quantised frame among distractors, and the use of all code vectors (Baevski et al. 2020, section
    3.2)."""

    def forward(
        self, waveforms: torch.Tensor, n_samples: torch.Tensor, masked: torch.Tensor, negatives: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Contrastive and 0.1 times diversity loss of each hidden frame, and the penalty.

        ``negatives`` (batch, frames, n): frames of the batch, counted through it; only those of hidden frames matter.
        """
        out, penalty = self._hear(waveforms, n_samples, mask_time_indices=masked, sampled_negative_indices=negatives)
        return {"loss": out.loss / masked.sum() + FEATURE_PENALTY * penalty}

    def cool(self, step: int) -> None:
        """Lower the temperature with which code vectors are drawn to that after ``step`` steps."""
        first, last, factor = GUMBEL
        self.network.quantizer.temperature = max(first * factor**step, last)


Network = Mel | Hubert | Wav2Vec2


def build(model: str, sizes: Sizes, n_clusters: int, frame_ms: int = 20) -> Network:
    """A network with weights drawn from torch's random state."""
    if model == "melhubert":
        config = replace(
            melhubert.PRESETS["base"],
            feat_emb_dim={10: 40, 20: 80}[frame_ms],
            encoder_layers=sizes.blocks,
            encoder_embed_dim=sizes.width,
            encoder_ffn_embed_dim=sizes.ffn,
            encoder_attention_heads=sizes.heads,
            num_cluster=n_clusters,
        )
        return Mel(melhubert.MelHuBERT(config))
    given: dict = {
        "num_hidden_layers": sizes.blocks,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.ffn,
        "num_attention_heads": sizes.heads,
        "conv_dim": (sizes.convolution_width,) * 7,
        # fairseq's recipes for the base networks
        "activation_dropout": 0.0,
        "layerdrop": 0.05,
        "feat_proj_dropout": 0.1,
    }
    if model == "hubert":
        return Hubert(HubertModel(HubertConfig(**given)), n_clusters)
    of_codes: dict = {"feat_quantizer_dropout": 0.1, "codevector_dim": PROJECTED, "proj_codevector_dim": PROJECTED}
    return Wav2Vec2(Wav2Vec2ForPreTraining(Wav2Vec2Config(**given, **of_codes)))


def reopen(wanted: str, model: Model | str, n_clusters: int) -> tuple[Network, dict]:
    """The network of a MODEL to go on with, and what identifies it. Heads for another number of clusters are drawn
    anew.

    Raises ModelError for a MODEL of another kind than ``wanted``.
    """
    model = Model.open(model)
    if model.type != wanted:
        raise ModelError(f"{model} is of type '{model.type}', and cannot be gone on with as {wanted}: change --model")
    config = model.configuration
    if wanted == "melhubert":
        network = model.load()
        if config.num_cluster != n_clusters:
            network.final_proj = nn.Linear(config.encoder_embed_dim, n_clusters)
            network.config = replace(config, num_cluster=n_clusters)
        return Mel(network), {key: model.identity[key] for key in ("id", "sha256", "step")}
    if not getattr(config, "apply_spec_augment", True):
        config.apply_spec_augment = True  # or transformers leaves masks aside without a word
    network = model.load("AutoModelForPreTraining" if wanted == "wav2vec2" else "AutoModel")
    if model.lacking:
        raise ModelError(
            f"{model} has no {model.lacking[0]} among its weights, which pre-training needs: take another checkpoint"
        )
    if wanted == "wav2vec2":
        if not isinstance(network, Wav2Vec2ForPreTraining):
            raise ModelError(f"{model} has no quantiser, which its pre-training needs: take another checkpoint")
        return Wav2Vec2(network, bool(model.normalises), model.epsilon), model.identity
    built = Hubert(network, n_clusters, bool(model.normalises), model.epsilon)
    built.take_heads(model.path)
    return built, model.identity
