"""Where each training of a compression stands in the run: its examples, its seed, and the state of its trigger. Nothing is trained."""

from __future__ import annotations

from types import SimpleNamespace

import models
import pytest
import torch

from layertool.training import chain
from layertool.training.chain import _Triggered
from layertool.training.compressing import compress
from layertool.training.plans import Pruning, usual_settings
from layertool.training.pretraining_data import Spans
from layertool.training.pretraining_networks import Sizes, build
from layertool.training.pretraining_recipes import Recipe
from layertool.training.schedules import Schedule, Trigger

pytestmark = pytest.mark.slow

TINY, CLUSTERS, BATCH, SEED = Sizes(1, 32, 32, 4), 3, 2, 7
RECIPE = Recipe("melhubert", TINY, clusters=CLUSTERS, spans=Spans(0.5, 3), max_seconds=0.5, min_frames=5)
HOW = usual_settings("heads", "melhubert", batch_size=BATCH, save_steps=2, seed=SEED)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return models.corpus(tmp_path_factory.mktemp("speech"), [models.speech_like(n, n) for n in (8000, 9600)])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "mel"
    torch.manual_seed(0)
    build("melhubert", TINY, CLUSTERS).save(folder, 0)
    return str(folder)


@pytest.fixture
def trainings(monkeypatch):
    """(step, first example, number of examples, seed) of each training that is asked for; ``dies_at``: a step of a kill."""
    seen = SimpleNamespace(asked=[], dies_at=None)

    def train(_network, data, _collate, settings, *_, first_step, **__):
        if first_step == seen.dies_at:
            raise Killed
        seen.asked.append((first_step, data.first, len(data), settings.seed))
        return []

    monkeypatch.setattr(chain, "train", train)
    return seen


def run(base, speech, out):
    plan = Pruning("heads", Schedule("heads", (2, 5), 1), 7)
    return compress(base, speech, out, plan, RECIPE, HOW, device="cpu")


WHOLE = [(0, 0, 2 * BATCH, SEED), (2, 2 * BATCH, 3 * BATCH, SEED + 2), (5, 5 * BATCH, 2 * BATCH, SEED + 5)]


def test_every_example_is_heard_once_and_no_dropout_is_drawn_twice(base, speech, trainings, tmp_path):
    run(base, speech, tmp_path / "run")
    assert trainings.asked == WHOLE


@pytest.mark.parametrize("at", [2, 5])
def test_a_resumed_run_goes_on_at_its_place_in_the_data(at, base, speech, trainings, tmp_path):
    trainings.dies_at = at
    with pytest.raises(Killed):
        run(base, speech, tmp_path / "run")
    trainings.dies_at, trainings.asked = None, []
    run(base, speech, tmp_path / "run")
    assert trainings.asked == [one for one in WHOLE if one[0] >= at]


def test_a_resumed_trigger_decides_as_if_it_had_not_stopped():
    """Up to and after a wait: what the checkpoint says counts, not what the trigger of the process begins with."""
    losses = [3.0, 3.0, 2.9, 2.5, 2.0, 1.9, 1.9, 1.9, 1.9, 1.9, 1.9, 1.9]
    how = {"sparsities": (0.2, 0.5), "warm_up": 2, "period": 3, "lag": 1, "decay": 0.5, "improvement": 0.05}
    whole = Trigger(**how)
    wanted = [whole.update(k, loss) for k, loss in enumerate(losses, start=1)]
    assert {"wait", "prune"} <= set(wanted)
    for stop in range(1, len(losses)):
        before = Trigger(**how)
        found = [before.update(k, loss) for k, loss in enumerate(losses[:stop], start=1)]
        kept = _Triggered(before, torch.nn.Linear(1, 1), 0, 100).state()
        again = _Triggered(Trigger(**how), torch.nn.Linear(1, 1), 0, 100)
        state = SimpleNamespace(global_step=stop, stateful_callbacks={"_Triggered": kept})
        again.on_train_begin(None, state, None)
        found += [again.trigger.update(k, loss) for k, loss in enumerate(losses[stop:], start=stop + 1)]
        assert found == wanted, stop
        assert again.end == 100 + 3 * wanted.count("wait")
