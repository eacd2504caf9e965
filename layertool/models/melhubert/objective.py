"""What MelHuBERT is trained on: spans of frames to hide, and the clusters to tell there (spec speat.md 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from layertool.errors import UsageError


def span_mask(
    n_frames: Sequence[int],
    random: np.random.Generator,
    probability: float = 0.7,
    length: int = 5,
    min_spans: int = 2,
) -> np.ndarray:
    """Which frames of each utterance of a batch are hidden, bool (batch, longest).

    floor(probability T / length + U), U uniform in [0, 1), spans of ``length`` in T frames, at least
    ``min_spans``; they begin at different frames among the first T - length, and may overlap, so that
    with the defaults 52 to 53 % of the frames are hidden (fairseq's static masks, whose last frame is
    never hidden). In utterances that are too short for that, spans are cut off at the end.
    """
    if not 0 < probability <= 1 or length < 1 or min_spans < 0:
        raise UsageError(
            f"spans of {length} frames with probability {probability:g}, at least {min_spans}, cannot be drawn: the "
            f"length is 1 or more, the probability above 0 and at most 1"
        )
    mask = np.zeros((len(n_frames), max(n_frames, default=0)), dtype=bool)
    for row, n in zip(mask, n_frames, strict=True):
        if not n:
            continue
        n_spans = max(min_spans, int(probability * n / length + random.random()))
        # as many places to begin as there are spans, also where the utterance is too short for whole ones
        places = min(n, max(n - length, n_spans + 1))
        starts = random.choice(places, min(n_spans, places), replace=False)
        hidden = (starts[:, None] + np.arange(length)).ravel()
        row[hidden[hidden < n]] = True
    return mask


def masked_prediction_loss(
    logits: torch.Tensor,
    clusters: torch.Tensor,
    masked: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    masked_weight: float = 1.0,
    unmasked_weight: float = 0.0,
) -> torch.Tensor:
    """Mean cross-entropy of the clusters over hidden frames, plus that over the others by their weight.

    ``logits`` (batch, frames, clusters); ``clusters`` integers, ``masked`` and ``attention_mask`` bool,
    (batch, frames). Padded frames count nowhere, whatever stands there. Raises UsageError when there is
    no frame to count.
    """
    valid = torch.ones_like(masked, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if logits.shape[:2] != clusters.shape or masked.shape != clusters.shape or valid.shape != clusters.shape:
        raise UsageError(
            f"logits {tuple(logits.shape)}, clusters {tuple(clusters.shape)} and masks {tuple(masked.shape)}, "
            f"{tuple(valid.shape)} do not belong together: give (batch, frames, clusters) and (batch, frames)"
        )
    logits = logits if logits.dtype == torch.float64 else logits.float()
    total = logits.new_zeros(())
    for weight, chosen in ((masked_weight, valid & masked.bool()), (unmasked_weight, valid & ~masked.bool())):
        if weight:
            if not chosen.any():
                raise UsageError(
                    "a batch has no frame to predict clusters at: mask some frames, or leave its utterances out"
                )
            total = total + weight * functional.cross_entropy(logits[chosen], clusters[chosen].long())
    return total
