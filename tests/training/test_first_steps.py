"""The first 50 steps of every training on real speech are those of 0.1.0's trainers (transformers' Trainer).

Written down before the engine took their place, with generators seeded for each batch as the engine does: dropout,
layer drop and Gumbel noise were drawn from one stream then, and cannot be the same draws otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path

import first_steps
import pytest

pytest.importorskip("accelerate")
pytest.importorskip("jiwer")

WRITTEN = json.loads((Path(__file__).parent / "first_steps.json").read_text())


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    first_steps.corpora(shared, folder)
    first_steps.networks(folder)
    return folder


@pytest.mark.slow  # each trains for 50 steps, as it was written down
@pytest.mark.parametrize("training", first_steps.TRAININGS)
def test_the_first_50_steps(training, folder):
    found, written = first_steps.losses(training, folder), WRITTEN[training]
    assert [step for step, _ in found] == [step for step, _ in written]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in written], rel=1e-5)
