"""Fine-tuning and probing encoders with CTC.

Characters with re-initialised top layers (Pasad et al. 2021, section 6; spec layerwise.md 6), and phones from a frozen
encoder's weighted layers (Lin et al. 2024, Table 4, which is s3prl's SUPERB task; spec speat.md 5.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from layertool.errors import CorpusError, ModelError, UsageError
from layertool.models.checkpoints import draw_anew
from layertool.models.computing import drawing
from layertool.models.melhubert import MelHuBERT
from layertool.training.encoders import Beside, encode, layer_names, place_of, width_of

# How the losses of a batch become one number.
PER = {
    "utterance": "the mean over utterances of nats per token (PyTorch's 'mean', as s3prl and SpeechBrain have it)",
    "token": "all nats of the batch over all its tokens",
}
BLANK = 0  # the id of CTC's blank; see layertool.training.ctc_data


@torch.no_grad()
def reinitialise_top(model: Any, n: int, seed: int = 0) -> None:
    """Draw the top ``n`` transformer blocks of an encoder anew, in place, as before its pre-training.

    A whole network of its configuration is drawn from ``seed`` by its own library (transformers, or ours for
    MelHuBERT), and its top blocks are copied: for one seed a block gets the same weights whatever ``n``. All other
    weights stay bit for bit. Raises UsageError for more blocks than there are, ModelError for blocks whose weights are
    not those of the configuration (masked ones).
    """
    blocks = model.encoder.layers
    if not 0 <= n <= len(blocks):
        raise UsageError(
            f"{n} layers cannot be re-initialised in a model of {len(blocks)}: choose from 0 to {len(blocks)}"
        )
    if n == 0:
        return
    if isinstance(model, MelHuBERT):
        with drawing(seed):
            drawn: Any = MelHuBERT(model.config)
    else:
        drawn = draw_anew(model.config, seed)
    for k in range(len(blocks) - n, len(blocks)):
        own, new = blocks[k].state_dict(), drawn.encoder.layers[k].state_dict()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in new.items()}:
            raise ModelError(
                f"block {k + 1} has other weights than its configuration gives it, so that it cannot be drawn anew: "
                "re-initialise before pruning"
            )
        for name, value in own.items():
            value.copy_(new[name])


def needed_frames(target: Sequence[int]) -> int:
    """The fewest frames that CTC can tell a target in: one a token, and a blank between equal neighbours."""
    return len(target) + sum(left == right for left, right in pairwise(target))


def unreachable(n_frames: Mapping[str, int], targets: Mapping[str, Sequence[int]]) -> list[str]:
    """The utterances whose targets are longer than their frames can tell; their loss is counted as 0.

    Both by utterance. Raises CorpusError where all are: call it before training.
    """
    found = [name for name, target in targets.items() if needed_frames(target) > n_frames[name]]
    if targets and len(found) == len(targets):
        name = found[0]
        raise CorpusError(
            f"utterance '{name}' has {n_frames[name]} frames, but its {len(targets[name])} tokens need "
            f"{needed_frames(targets[name])} ({len(found)} such utterances): correct their texts or times, or "
            "leave them out"
        )
    return found


def ctc_loss(
    logits: torch.Tensor, n_frames: torch.Tensor, labels: torch.Tensor, per: str = "utterance", blank: int = BLANK
) -> torch.Tensor:
    """Connectionist temporal classification (Graves et al. 2006) of a padded batch, in nats.

    ``logits``: (batch, frames, tokens), before the softmax; ``n_frames``: (batch,), what stands after them changes
    nothing; ``labels``: (batch, longest), negative after the last token. ``per``: see PER; an empty target counts as
    one token. The loss of a target that its frames cannot tell is 0, without gradients (see ``unreachable``).
    Raises UsageError for shapes that do not belong together, and ids that are blank or unknown.
    """
    if per not in PER:
        raise UsageError(f"'{per}' is no mean of losses: choose {' or '.join(PER)}")
    if logits.ndim != 3 or labels.ndim != 2 or not len(logits) == len(labels) == len(n_frames):
        raise UsageError(
            f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)} and {len(n_frames)} lengths do not "
            "belong together: give (batch, frames, tokens), (batch, longest) and (batch,)"
        )
    there = labels >= 0
    if (labels == blank).any() or (labels >= logits.shape[2]).any() or (there[:, 1:] & ~there[:, :-1]).any():
        raise UsageError(
            f"labels are ids from 0 to {logits.shape[2] - 1} without the blank's ({blank}), and negative only "
            "after the last"
        )
    n_tokens = there.sum(dim=1)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = functional.ctc_loss(
        functional.log_softmax(logits, dim=-1).transpose(0, 1),
        labels.clamp(min=0),
        n_frames,
        n_tokens,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    counted = n_tokens.clamp(min=1)
    return (losses / counted).mean() if per == "utterance" else losses.sum() / counted.sum()


class CTC(nn.Module):
    """An ``encoder`` and a linear ``head`` on its output, trained together; only the convolutions are frozen.

    ``encoder``: a transformers encoder of the wav2vec 2.0 family, or a MelHuBERT, which has no convolutions before its
    positions and of which all is trained. ``n_tokens``: with the blank. ``per``: see PER. ``seed``: of the head.
    ``augment``: hide spans of frames in training by the encoder's own configuration (transformers' SpecAugment, drawn
    from NumPy's generator); off as in SpeechBrain, and written into that configuration. Raises UsageError where there
    is none.
    """

    def __init__(self, encoder: Any, n_tokens: int, per: str = "utterance", seed: int = 0, augment: bool = False):
        super().__init__()
        self.encoder, self.per, self.augment = encoder, per, augment
        if augment and not hasattr(encoder, "masked_spec_embed"):
            raise UsageError(
                f"{type(encoder).__name__} has nothing to put at hidden frames: train it without augmentation"
            )
        encoder.requires_grad_(True)
        if hasattr(encoder, "feature_extractor"):
            encoder.feature_extractor._freeze_parameters()
            encoder.config.apply_spec_augment = augment
        if hasattr(encoder, "masked_spec_embed"):  # no loss reaches it where nothing is hidden
            encoder.masked_spec_embed.requires_grad_(augment)
        if isinstance(encoder, MelHuBERT) and encoder.final_proj is not None:
            encoder.final_proj.requires_grad_(False)  # it tells clusters, and no loss reaches it
        self.head = _head(encoder, n_tokens, seed)

    def forward(
        self, inputs: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """``loss`` (where there are ``labels``), ``logits`` (batch, frames, tokens) and ``n_frames`` of a batch of
        ``collate``."""
        if self.augment and self.training:
            span = self.encoder.config.mask_time_length
            longest = int(self.encoder._get_feat_extract_output_lengths(lengths.max()))
            if longest < span:
                raise UsageError(
                    f"all utterances of a batch are shorter ({longest} frames at most) than the {span} frames that "
                    "augmentation hides: leave short utterances out, or train without augmentation"
                )
        heard = encode(self.encoder, inputs, lengths)
        return _outcome(self.head(heard.last), heard.n_frames, labels, self.per)


class PhoneProbe(Beside):
    """A linear ``head`` on a learned weighted sum of all hidden states of a frozen ``encoder``, with CTC.

    The weights are softmax(``mixture``), equal at first. ``normalise``: each state gets mean 0 and variance 1 over its
    width before, which s3prl's Featurizer can do and SUPERB does not. ``n_tokens``, ``per``, ``seed``: as for CTC.
    """

    def __init__(self, encoder: Any, n_tokens: int, normalise: bool = False, per: str = "utterance", seed: int = 0):
        super().__init__(encoder)
        self.normalise, self.per = normalise, per
        self.mixture = nn.Parameter(torch.zeros(len(layer_names(encoder)), device=place_of(encoder)))
        self.head = _head(encoder, n_tokens, seed)

    @property
    def layer_weights(self) -> dict[str, float]:
        """The learned weight of each layer, by its name; they sum to 1."""
        weights = torch.softmax(self.mixture.detach().double(), 0).tolist()
        return dict(zip(layer_names(self.encoder), weights, strict=True))

    def forward(
        self, inputs: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """``loss`` (where there are ``labels``), ``logits`` and ``n_frames``, as of CTC.

        ``inputs`` of four dimensions are hidden states that were computed before: (batch, frames, states, width), and
        ``lengths`` their frames.
        """
        if inputs.ndim == 4:
            states, n_frames = inputs.unbind(2), lengths
        else:
            heard = self.hidden_states(inputs, lengths)
            states, n_frames = heard.states, heard.n_frames
        weights = torch.softmax(self.mixture, 0)
        mixed = torch.zeros_like(states[0])
        for weight, state in zip(weights, states, strict=True):
            mixed = mixed + weight * (functional.layer_norm(state, state.shape[-1:]) if self.normalise else state)
        return _outcome(self.head(mixed), n_frames, labels, self.per)


def _head(encoder: Any, n_tokens: int, seed: int) -> nn.Linear:
    with drawing(seed):
        head = nn.Linear(width_of(encoder), n_tokens)
    return head.to(place_of(encoder))


def _outcome(
    logits: torch.Tensor, n_frames: torch.Tensor, labels: torch.Tensor | None, per: str
) -> dict[str, torch.Tensor]:
    loss = {} if labels is None else {"loss": ctc_loss(logits, n_frames, labels, per)}
    return loss | {"logits": logits, "n_frames": n_frames}
