"""Training in a fixed order: a run that is stopped goes on with the numbers that it would have had."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from layertool.errors import UsageError
from layertool.training.runs import whole_checkpoints
from layertool.training.session import Diverged, Drawn, Settings, place_of, train, write_model

pytest.importorskip("accelerate")

pytestmark = pytest.mark.slow
N = 7  # examples
CPU = torch.device("cpu")


class Line(nn.Module):
    """A line through points, with dropout: it needs the random state."""

    def __init__(self):
        super().__init__()
        self.line, self.dropout, self.seen = nn.Linear(3, 1), nn.Dropout(0.3), []

    def forward(self, x, y):
        self.seen.append(x[:, 0].tolist())
        return {"loss": ((self.line(self.dropout(x)) - y) ** 2).mean()}


def make(number: int, random: np.random.Generator) -> dict:
    x = random.standard_normal(3).astype(np.float32)
    return {"x": x, "y": np.float32(number + x.sum())}


def collate(items: list[dict]) -> dict:
    return {"x": torch.tensor(np.stack([i["x"] for i in items])), "y": torch.tensor([[i["y"]] for i in items])}


def run(folder, settings: Settings, write=None, network=None, progress=None):
    torch.manual_seed(0)
    network = network or Line()
    data = Drawn(make, N, settings.steps * settings.examples_of_step, settings.seed)
    losses = train(network, data, collate, settings, folder, CPU, write=write, progress=progress)
    return network, losses


SETTINGS = Settings(steps=20, learning_rate=0.02, batch_size=2, accumulation=2, save_steps=4, log_steps=1, warmup_steps=3, schedule="linear")  # fmt: skip


def test_the_same_seed_gives_the_same_run_and_another_another(tmp_path):
    first, losses = run(tmp_path / "a", SETTINGS)
    second, again = run(tmp_path / "b", SETTINGS)
    assert losses == again
    assert len(losses) == 20
    assert [loss.step for loss in losses] == list(range(1, 21))
    assert torch.equal(first.line.weight, second.line.weight)
    assert first.seen == second.seen
    other, different = run(tmp_path / "c", Settings(**{**vars(SETTINGS), "seed": 1}))
    assert different != losses
    assert not torch.equal(first.line.weight, other.line.weight)


@pytest.mark.parametrize("stopped_at", [1, 6, 8, 9, 19])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, stopped_at):
    whole, losses = run(tmp_path / "whole", SETTINGS)

    class Killed(Exception):
        pass

    def kill(done, _total):
        if done == stopped_at:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "part", SETTINGS, progress=kill)
    torch.rand(5), np.random.random(3)  # what happens elsewhere does not matter
    again, found = run(tmp_path / "part", SETTINGS)
    assert found == losses
    assert torch.equal(whole.line.weight, again.line.weight)
    assert len(again.seen) < len(whole.seen) or stopped_at < 4  # it did go on


def test_models_are_written_on_the_way_and_at_the_end(tmp_path):
    written = []
    torch.manual_seed(0)
    network = Line()
    run(tmp_path / "run", SETTINGS, lambda step: written.append((step, network.line.weight.sum().item())), network)
    assert [step for step, _ in written] == [4, 8, 12, 16, 20]
    assert written[-1][1] == network.line.weight.sum().item()
    assert len({value for _, value in written}) == 5
    assert list(whole_checkpoints(tmp_path / "run")) == [20]


def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path):
    run(tmp_path / "run", SETTINGS)
    (tmp_path / "run/checkpoint-20/model.safetensors").write_bytes(b"")
    assert whole_checkpoints(tmp_path / "run") == {}
    assert run(tmp_path / "run", SETTINGS)[1] == run(tmp_path / "other", SETTINGS)[1]


def test_every_example_once_in_each_pass_and_drawn_by_its_place():
    data = Drawn(lambda number, random: {"n": number, "u": random.random()}, N, 3 * N, seed=3)
    items = [data[k] for k in range(3 * N)]
    for turn in range(3):
        assert sorted(item["n"] for item in items[turn * N : (turn + 1) * N]) == list(range(N))
    assert len({item["u"] for item in items}) == 3 * N
    assert len({tuple(item["n"] for item in items[k * N : (k + 1) * N]) for k in range(3)}) > 1
    later = Drawn(data.make, N, N, seed=3, first=N + 2)
    assert [later[k] for k in (4, 0, 3)] == [items[N + 2 + k] for k in (4, 0, 3)]
    with pytest.raises(IndexError):
        data[3 * N]
    with pytest.raises(UsageError, match="nothing to train on"):
        Drawn(make, 0, 1, 0)


def test_random_states_of_the_process_are_left_alone(tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)
    wanted = torch.rand(2), np.random.random(2)
    torch.manual_seed(5)
    np.random.seed(5)
    network = Line()
    torch.manual_seed(5)
    train(network, Drawn(make, N, 80, 0), collate, SETTINGS, tmp_path, CPU)
    assert torch.equal(torch.rand(2), wanted[0])
    assert (np.random.random(2) == wanted[1]).all()


def test_a_run_that_diverges_says_so(tmp_path):
    with pytest.raises(Diverged, match="lower the learning rate"):
        run(tmp_path, Settings(**{**vars(SETTINGS), "learning_rate": 1e30, "max_gradient_norm": 0, "schedule": "constant", "warmup_steps": 0}))  # fmt: skip


def test_no_steps_do_nothing(tmp_path):
    network = Line()
    before = network.line.weight.clone()
    assert train(network, Drawn(make, N, 1, 0), collate, Settings(steps=0), tmp_path, CPU) == []
    assert torch.equal(network.line.weight, before)


def test_a_model_is_written_whole_or_not_at_all(tmp_path):
    def save(folder):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"n": 1}))

    assert write_model(tmp_path, 40, save) == tmp_path / "step-40"
    assert write_model(tmp_path, 40, save).is_dir()  # again, after a kill

    def fail(folder):
        folder.mkdir()
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write_model(tmp_path, 41, fail)
    assert not (tmp_path / "step-41").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", -1), ("learning_rate", 0), ("warmup_steps", -1), ("schedule", "step"), ("batch_size", 0), ("accumulation", 0),
     ("weight_decay", -1), ("max_gradient_norm", -1), ("save_steps", 0), ("log_steps", 0), ("seed", -1)],
)  # fmt: skip
def test_settings_that_cannot_be(field, value):
    with pytest.raises(UsageError):
        Settings(**{"steps": 5, field: value})


def test_places():
    assert place_of("cpu", "float32").type == "cpu"
    with pytest.raises(UsageError, match="float16"):
        place_of("cpu", "float16")


def test_a_run_whose_last_checkpoint_is_there_takes_no_step_more(tmp_path):
    first, losses = run(tmp_path, SETTINGS)
    again, found = run(tmp_path, SETTINGS)
    assert found == losses
    assert not again.seen
    assert torch.equal(first.line.weight, again.line.weight)
