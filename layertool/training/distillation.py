"""Small students that predict a teacher's layers (DistilHuBERT's recipe, Lin et al. 2024; spec speat.md 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from layertool.errors import ModelError, UsageError
from layertool.models.computing import drawing
from layertool.models.melhubert import MelHuBERT
from layertool.training.encoders import Beside, encode, place_of, width_of

PAD = ("mask", "count")  # padded frames are left out of the loss; or they count, as in the original
TARGETS = (4, 12)  # the teacher's layers (Lin et al. 2024)
FRONT_GRADIENT = 0.1  # what reaches the student's convolutions (DistilHuBERT's feature_grad_mult)
# Settings of a student that are its own: no LayerNorm before the projection, and nothing hidden or left out in
# training.
_OF_STUDENTS = {"feat_proj_layer_norm": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}


def student_of(teacher: Any, n_layers: int, from_teacher: bool = True, seed: int = 0) -> Any:
    """A student without its prediction heads: the teacher's front end, positions and ``n_layers`` blocks.

    A MelHuBERT without ``final_proj`` for a MelHuBERT, which ``melhubert.save`` writes; a HubertModel without a norm
    before its projection for a HubertModel or Wav2Vec2Model, as DistilHuBERT is, which ``save_pretrained`` writes
    (beside it belongs the teacher's preprocessor_config.json). All is drawn from ``seed``; ``from_teacher``: then front
    end, projection, positions and first blocks are the teacher's, the encoder's LayerNorm is not.
    Training mode, float32, on the teacher's device; the teacher stays as it is. Raises UsageError for more blocks than
    the teacher has, ModelError for a teacher of another family or whose weights are not those of its configuration.
    """
    n_blocks = len(getattr(getattr(teacher, "encoder", None), "layers", ()))
    kind = getattr(getattr(teacher, "config", None), "model_type", None)
    is_melhubert = isinstance(teacher, MelHuBERT)
    if not is_melhubert and (kind not in ("hubert", "wav2vec2") or not n_blocks):  # whose blocks are the same
        raise ModelError(
            f"{type(teacher).__name__} can be no teacher whose blocks a student has: give a MelHuBERT, "
            "HubertModel or Wav2Vec2Model"
        )
    if not 1 <= n_layers <= n_blocks:
        raise UsageError(
            f"a student of {n_layers} layers is none of a teacher of {n_blocks}: choose from 1 to {n_blocks}"
        )
    place = place_of(teacher)
    with drawing(seed), torch.device("meta" if place.type == "meta" else "cpu"):
        student = _melhubert(teacher, n_layers) if is_melhubert else _hubert(teacher, n_layers)
    if from_teacher:
        _copy(teacher, student)
    return student.to(place).train()


def _melhubert(teacher: MelHuBERT, n_layers: int) -> MelHuBERT:
    whole = teacher.config
    return MelHuBERT(
        replace(
            whole,
            encoder_layers=n_layers,
            num_cluster=0,
            step=None,
            encoder_layerdrop=0.0,
            heads=whole.heads and whole.heads[:n_layers],
            ffn_rows=whole.ffn_rows and whole.ffn_rows[:n_layers],
        )
    )


def _hubert(teacher: Any, n_layers: int) -> Any:
    from transformers import HubertConfig, HubertModel

    known = HubertConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version", "dtype"}
    given = {name: value for name, value in teacher.config.to_dict().items() if name in known}
    return HubertModel(HubertConfig(**given | _OF_STUDENTS | {"num_hidden_layers": n_layers})).float()


@torch.no_grad()
def _copy(teacher: Any, student: Any) -> None:
    """The teacher's weights for all of a student but the encoder's LayerNorm."""
    theirs = teacher.state_dict()
    for name, value in student.state_dict().items():
        if name.startswith("encoder.layer_norm."):
            continue
        if name not in theirs or theirs[name].shape != value.shape:
            raise ModelError(
                f"the teacher has no {name} of shape {tuple(value.shape)}, which its configuration gives a student: "
                "take the network before its pruning, or let the student begin anew (from_teacher=False)"
            )
        value.copy_(theirs[name])


class SplitLinear(nn.Module):
    """A linear map of its own for each of ``n`` stretches of the last axis (s3prl's SplitLinear).

    (..., n * width) -> (..., n, width_out); ``weight`` (n, width, width_out), ``bias`` (1, 1, n, width_out).
    """

    def __init__(self, n: int, width: int, width_out: int):
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(n, width, width_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(1, 1, n, width_out).uniform_(-bound, bound))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        split = hidden.unflatten(-1, self.weight.shape[:2])
        return torch.einsum("...nd,nde->...ne", split, self.weight) + self.bias


class Distillation(Beside):
    """A ``student`` with heads (``output_layer``) that predict layers of a frozen teacher, which ``encoder`` is.

    ``targets``: hidden states of the teacher, counted as ``layer_names`` does, 1 to L for the outputs of its blocks.
    ``cosine_weight``: lambda of ``distillation_loss``. ``pad``: "mask", or "count" as in the original, see PAD.
    ``seed``: of the heads. Raises UsageError for layers that the teacher has not.
    """

    def __init__(
        self,
        teacher: Any,
        student: nn.Module,
        targets: Sequence[int] = TARGETS,
        cosine_weight: float = 1.0,
        pad: str = "mask",
        front_gradient: float = FRONT_GRADIENT,
        seed: int = 0,
    ):
        super().__init__(teacher)
        n_blocks = len(teacher.encoder.layers)
        if not targets or len(set(targets)) < len(targets):
            raise UsageError(f"targets {list(targets)} are none or repeated: name layers of the teacher, each once")
        for target in targets:
            if not 0 <= target <= n_blocks:
                raise UsageError(
                    f"the teacher has no layer {target} to predict: choose targets from 1 to {n_blocks}, its last"
                )
        if pad not in PAD:
            raise UsageError(f"'{pad}' is no way to treat padded frames: choose {' or '.join(PAD)}")
        self.student, self.targets = student, tuple(targets)
        self.cosine_weight, self.pad, self.front_gradient = cosine_weight, pad, front_gradient
        width, n, place = width_of(student), len(self.targets), place_of(student)
        with drawing(seed), torch.device("meta" if place.type == "meta" else "cpu"):
            heads = nn.Linear(width, n * width), nn.GELU(), SplitLinear(n, width, width_of(teacher))
        self.output_layer = nn.Sequential(*heads).to(place)

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        """The ``loss`` of a batch of ``collate``; see ``encode`` for what it holds."""
        aim = self.hidden_states(inputs, lengths)
        own = encode(self.student, inputs, lengths, front_gradient=self.front_gradient)
        predicted = self.output_layer(own.last).transpose(1, 2)  # (batch, targets, frames, width)
        target = torch.stack([aim.states[k] for k in self.targets], dim=1)
        valid = aim.valid if self.pad == "mask" else None
        return {"loss": distillation_loss(predicted, target, valid, self.cosine_weight)}


def distillation_loss(
    predicted: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None, cosine_weight: float = 1.0
) -> torch.Tensor:
    """mean |predicted - target| + lambda mean(-log sigmoid(cos(predicted, target))) (spec speat.md 4.4).

    ``predicted``, ``target``: (batch, targets, frames, width), the cosine is along the width. ``valid``: bool (batch,
    frames), the frames that count; None for all. Raises UsageError for other shapes, and where no frame counts.
    """
    if predicted.shape != target.shape or predicted.ndim != 4:
        raise UsageError(
            f"predictions {tuple(predicted.shape)} and targets {tuple(target.shape)} do not belong together: "
            "give both as (batch, targets, frames, width), of one frame rate"
        )
    if valid is not None and valid.shape != (predicted.shape[0], predicted.shape[2]):
        raise UsageError(f"a mask of shape {tuple(valid.shape)} is not that of (batch, frames) of the predictions")
    if valid is not None and not valid.any():
        raise UsageError("a batch has no frame to predict: leave its utterances out")
    if predicted.dtype != torch.float64:
        predicted, target = predicted.float(), target.float()
    if valid is not None:
        predicted, target = predicted.transpose(1, 2)[valid.bool()], target.transpose(1, 2)[valid.bool()]
    cosine = functional.cosine_similarity(predicted, target, dim=-1)
    return (predicted - target).abs().mean() - cosine_weight * functional.logsigmoid(cosine).mean()
