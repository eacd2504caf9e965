"""MelHuBERT's masks and loss against spec speat.md 3.3 and plain computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layertool.errors import UsageError
from layertool.models.melhubert import masked_prediction_loss, span_mask


def spans(n_frames, seed=0, **options) -> np.ndarray:
    return span_mask(n_frames, np.random.default_rng(seed), **options)


def test_about_half_of_the_frames_are_hidden():
    for n, low, high in ((330, 0.525, 0.54), (750, 0.525, 0.535), (1_500, 0.525, 0.535)):
        mask = spans([n] * 400)
        assert low < mask.mean() < high
        assert mask.any(axis=1).all()
        assert len(set(mask.sum(axis=1))) > 10  # no equal counts across the batch
    coarse = spans([1500] * 200, length=10)  # the 10 ms configuration of the compression code
    assert abs(coarse.mean() - (1 - (1 - 0.07) ** 10)) < 0.01


def test_the_number_of_spans():
    """floor(pT/len + U): with spans of one frame they cannot overlap, so that they can be counted."""
    counts = spans([103] * 4_000, probability=0.7, length=1).sum(axis=1)
    assert set(counts) == {72, 73}  # 72.1
    assert abs(counts.mean() - 72.1) < 0.03
    whole = spans([100] * 50, probability=0.5, length=1).sum(axis=1)
    assert set(whole) == {50}
    assert set(spans([1000] * 50, probability=1e-9, length=5, min_spans=3).sum(axis=1)) <= {5 + k for k in range(11)}


def test_every_frame_but_the_last_is_hidden_about_as_often():
    mask = spans([60] * 20_000)
    share = mask.mean(axis=0)
    assert share[59] == 0  # fairseq's masks begin at one of the first T - length frames
    assert np.ptp(share[5:55]) < 0.03
    assert np.all(np.diff(share[:5]) > 0)


def test_padding_is_never_hidden_and_short_utterances_work():
    lengths = [30, 1, 2, 5, 6, 7, 0, 12]
    mask = spans(lengths)
    assert mask.shape == (8, 30)
    for row, n in zip(mask, lengths, strict=True):
        assert not row[n:].any()
        assert row.any() == (n > 0)


def test_the_seed_decides():
    assert np.array_equal(spans([100, 50], 3), spans([100, 50], 3))
    assert not np.array_equal(spans([100, 50], 3), spans([100, 50], 4))


@pytest.mark.parametrize("wrong", [{"probability": 0.0}, {"probability": 1.2}, {"length": 0}, {"min_spans": -1}])
def test_masks_that_cannot_be_drawn(wrong):
    with pytest.raises(UsageError, match="cannot be drawn"):
        spans([50], **wrong)


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
    clusters = torch.randint(5, (3, 7), generator=generator)
    masked = torch.rand(3, 7, generator=generator) < 0.5
    valid = torch.arange(7) < torch.tensor([7, 4, 5])[:, None]
    return logits, clusters, masked, valid


def plain(logits, clusters, counted) -> float:
    losses = []
    for b in range(3):
        for t in range(7):
            if counted[b, t]:
                row = logits[b, t].tolist()
                losses.append(math.log(sum(math.exp(x) for x in row)) - row[clusters[b, t]])
    return sum(losses) / len(losses)


def test_the_loss_is_over_masked_frames_that_are_no_padding():
    logits, clusters, masked, valid = example()
    expected = plain(logits, clusters, masked & valid)
    assert abs(float(masked_prediction_loss(logits, clusters, masked, valid)) - expected) < 1e-12
    at_padding = clusters.masked_fill(~valid, -100)
    spoilt = logits.masked_fill(~valid[..., None], math.nan)
    assert abs(float(masked_prediction_loss(spoilt, at_padding, masked, valid.long())) - expected) < 1e-12
    both = masked_prediction_loss(logits, clusters, masked, valid, masked_weight=0.5, unmasked_weight=2.0)
    assert abs(float(both) - 0.5 * expected - 2 * plain(logits, clusters, ~masked & valid)) < 1e-12
    whole = masked_prediction_loss(logits.float(), clusters, masked)
    assert abs(float(whole) - plain(logits, clusters, masked)) < 1e-6


def test_the_gradient_is_at_masked_frames_alone():
    logits, clusters, masked, valid = example()
    logits.requires_grad_()
    masked_prediction_loss(logits, clusters, masked, valid).backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, masked & valid)


def test_a_loss_without_frames_or_with_other_shapes():
    logits, clusters, masked, valid = example()
    with pytest.raises(UsageError, match="mask some frames"):
        masked_prediction_loss(logits, clusters, torch.zeros_like(masked), valid)
    with pytest.raises(UsageError, match="do not belong together"):
        masked_prediction_loss(logits, clusters[:, :5], masked, valid)
