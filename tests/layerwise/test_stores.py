"""What analyses read from a store's description."""

from __future__ import annotations

import pytest

from layertool.layerwise.stores import step_of


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("org/model", None),
        ("checkpoint-4000", 4000),
        ("runs/small/checkpoint-4000", 4000),
        ("runs/checkpoint-4000/pytorch_model.bin", 4000),
        ("checkpoint_3_25000.pt", 25_000),  # fairseq: epoch and updates
        ("checkpoint10.pt", None),  # fairseq: an epoch
        ("checkpoint_best.pt", None),
        ("step_100k", 100_000),
        ("step1e5", 100_000),
        ("step-25,000", 25_000),
        ("steps_1.5k", 1500),
        ("step0", 0),
        ("update_400000", 400_000),
        ("states-200000.ckpt", 200_000),
        ("hubert-iter2", None),  # the second model, not a step
        ("footstep2000", None),
        ("wav2vec2-base-100h", None),
        ("step_100kh", None),
        ("org/model@step3000", 3000),
        ("org/checkpoint-5@step3000", 3000),
    ],
)
def test_step(name, step):
    model = {"id": name, "revision": None}
    assert step_of(model) == step


def test_what_says_the_step_comes_first():
    say = {"id": "checkpoint-5", "revision": "step7", "step": 9}
    assert step_of(say) == 9
    del say["step"]
    assert step_of(say) == 7
