"""The loop of every training: a run that is stopped goes on with the numbers that it would have had."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import safetensors.torch
import torch
from kills import Killed, killer
from torch import nn

from layertool.account import Account
from layertool.errors import AudioError, MissingExtraError, StoreError, UsageError
from layertool.training import engine
from layertool.training import pretraining_networks as networks
from layertool.training.attention import attention_recomputed
from layertool.training.engine import Diverged, Order, Settings, run
from layertool.training.series import Best, Selected, Series

pytest.importorskip("accelerate")

N = 7  # examples
SETTINGS = Settings(20, 0.02, batch_size=2, accumulation=2, save_steps=4, warmup_steps=3, schedule="linear")


class Line(nn.Module):
    """A line through points, with dropout: it needs the random state."""

    def __init__(self):
        super().__init__()
        self.line, self.dropout, self.seen = nn.Linear(3, 1), nn.Dropout(0.3), []

    def forward(self, x, y):
        self.seen.append(x[:, 0].tolist())
        return {"loss": ((self.line(self.dropout(x)) - y) ** 2).mean()}


class Points(Series):
    kind, record = "drawing lines", "line.json"

    def __init__(self, lengths=tuple(1 + 3 * k % N for k in range(N)), whole_passes=False, broken=None):
        torch.manual_seed(0)
        self.network, self.lengths, self.decided = Line(), lengths, {"line": 1}
        self.whole_passes, self.broken = whole_passes, broken

    def example(self, number, random):
        if number == self.broken:
            raise AudioError(f"point {number} is broken")
        x = random.standard_normal(3).astype(np.float32)
        return {"x": x, "y": np.float32(number + x.sum())}

    def collate(self, items):
        return {"x": torch.tensor(np.stack([i["x"] for i in items])), "y": torch.tensor([[i["y"]] for i in items])}

    def write(self, folder, step):
        folder.mkdir()
        safetensors.torch.save_file(self.network.state_dict(), folder / "model.safetensors")


def train(folder, settings=SETTINGS, task=None, **how):
    """The task and its finished run."""
    task = task or Points()
    return task, run(task, settings, folder, device="cpu", **how)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "run")


# The same numbers


def test_the_same_seed_gives_the_same_run_and_another_another(whole, tmp_path):
    (first, done), (second, again) = whole, train(tmp_path / "b")
    assert done.losses == again.losses
    assert [loss.step for loss in done.losses] == [4, 8, 12, 16, 20]
    assert first.network.seen[1:] == second.network.seen[1:]
    assert contents(done.folder) == contents(again.folder)
    _, other = train(tmp_path / "c", replace(SETTINGS, seed=1))
    assert other.losses != done.losses


def test_the_loop_is_that_of_a_plain_one(tmp_path):
    """Adam with warm-up, decay and clipping, written out."""
    settings = replace(SETTINGS, save_steps=53, max_gradient_norm=0.5, weight_decay=0.1, bucket_steps=1, steps=9)
    task, done = train(tmp_path, settings)
    plain = Points()
    network = plain.network.train()
    groups = [
        {"params": [network.line.weight], "weight_decay": 0.1},
        {"params": [network.line.bias], "weight_decay": 0},
    ]
    optimiser = torch.optim.AdamW(groups, 0.02)
    for step in range(9):
        factor = step / 3 if step < 3 else (9 - step) / 6
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * factor
        total = 0.0
        for batch in range(2):
            places = [4 * step + 2 * batch, 4 * step + 2 * batch + 1]
            items = []
            for place in places:
                turn, within = divmod(place, N)
                number = np.random.default_rng([0, turn]).permutation(N)[within]
                items.append(plain.example(int(number), np.random.default_rng([0, 1, place])))
            torch.manual_seed(int(np.random.default_rng([0, 2, places[0]]).integers(2**32)))
            loss = network(**plain.collate(items))["loss"] / 2
            loss.backward()
            total += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        optimiser.zero_grad()
        found = done.losses[step]
        assert found.loss == pytest.approx(total, rel=1e-6)
        assert found.gradient_norm == pytest.approx(float(norm), rel=1e-6)
    assert torch.equal(network.line.weight, task.network.line.weight)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stopped_at", [1, 6, 8, 19])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(whole, tmp_path, stopped_at, workers):
    with pytest.raises(Killed):
        train(tmp_path / "run", progress=killer(stopped_at), workers=workers)
    torch.rand(5), np.random.random(3)  # what happens elsewhere does not matter
    again, found = train(tmp_path / "run", workers=workers)
    assert found.losses == whole[1].losses
    assert contents(tmp_path / "run") == contents(whole[1].folder)
    assert len(again.network.seen) < len(whole[0].network.seen) or stopped_at < 4  # it did go on


KILLED = """
import os, sys
sys.path[:0] = sys.argv[1:3]
import test_engine
from layertool import files
calls, at, replace = [], int(sys.argv[4]), os.replace
def kill(*arguments):
    calls.append(arguments)
    if len(calls) == at:
        os.kill(os.getpid(), 9)
    replace(*arguments)
os.replace = kill
from pathlib import Path
test_engine.train(Path(sys.argv[3]))
print(len(calls))
"""


@pytest.mark.slow
def test_killed_before_any_rename(whole, tmp_path):
    """kill -9 before each of the files gets its name, checkpoints and records among them: the same bytes."""
    here = os.path.dirname(__file__)
    script = [sys.executable, "-c", KILLED, here, os.path.dirname(here)]
    n = int(subprocess.run([*script, tmp_path / "count", "0"], capture_output=True, text=True, check=True).stdout)
    assert n > 10
    for at in sorted({1, 2, 3, 4, 5, n // 2, n // 2 + 1, n - 1, n}):
        folder = tmp_path / f"at-{at}"
        assert subprocess.run([*script, folder, str(at)], capture_output=True).returncode == -9
        train(folder)
        assert contents(folder) == contents(whole[1].folder), at


PROCESSES = """
import sys
sys.path[:0] = sys.argv[1:3]
import test_engine
from dataclasses import replace
from pathlib import Path
task, done = test_engine.train(Path(sys.argv[3]), replace(test_engine.SETTINGS, accumulation=1))
"""


@pytest.mark.slow
def test_two_processes_give_the_run_of_one_with_twice_the_accumulation(whole, tmp_path):
    here, script = os.path.dirname(__file__), tmp_path / "two.py"
    script.write_text(PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29713"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, script, here, os.path.dirname(here), tmp_path / "run"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads((tmp_path / "run/line.json").read_text())["losses"]
    np.testing.assert_allclose(losses, whole[1].facts["losses"], rtol=1e-5)
    _, again = train(tmp_path / "run")  # one process with twice the accumulation finds its own run
    assert again.was_there


def test_random_states_of_the_process_are_left_alone(tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)
    wanted = torch.rand(2), np.random.random(2)
    task = Points()
    torch.manual_seed(5)
    np.random.seed(5)
    train(tmp_path, task=task)
    assert torch.equal(torch.rand(2), wanted[0])
    assert (np.random.random(2) == wanted[1]).all()


# Which examples


def test_every_example_once_in_each_pass_whatever_the_bucket():
    for settings in (replace(SETTINGS, bucket_steps=1), replace(SETTINGS, bucket_steps=N)):
        order = Order(Points(), settings)
        batches = [places for step in range(N) for places in order.batches(step)]
        assert sorted(place for batch in batches for place in batch) == list(range(4 * N))
        assert {len(batch) for batch in batches} == {2}
    for turn in range(4):
        assert sorted(order.number(place) for place in range(turn * N, (turn + 1) * N)) == list(range(N))
    again = Order(Points(), settings)
    assert again.batches(5) == order.batches(5)  # wherever one begins


def test_batches_of_a_bucket_are_alike_in_length():
    lengths = [float(k) for k in range(32)]
    plain, sorted_ = (Order(Points(lengths), replace(SETTINGS, bucket_steps=n)) for n in (1, 8))
    spread = [
        np.mean(
            [np.ptp([lengths[order.number(place)] for place in batch]) for k in range(8) for batch in order.batches(k)]
        )
        for order in (plain, sorted_)
    ]
    assert spread[1] == 1 < spread[0] / 5


def test_whole_passes():
    order = Order(Points(whole_passes=True), replace(SETTINGS, bucket_steps=1))
    assert order.steps_of_pass == 2
    assert [order.batches(k) for k in range(3)] == [[[0, 1], [2, 3]], [[4, 5], [6]], [[7, 8], [9, 10]]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_example_that_cannot_be_made_is_one_sentence(tmp_path, workers):
    with pytest.raises(AudioError, match=r"^point 3 is broken$"):
        train(tmp_path, task=Points(broken=3), workers=workers)


# What is written


def test_losses_are_a_table_and_resumed_ones_too(whole, tmp_path):
    with open(whole[1].folder / "losses.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [4, 8, 12, 16, 20]
    assert [float(row["loss"]) for row in rows] == [loss.loss for loss in whole[1].losses]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(
        [0.02 * (20 - k) / 17 for k in (4, 8, 12, 16, 20)]
    )


def test_models_are_written_on_the_way_and_checkpoints_go(whole):
    assert [path.name for path in whole[1].models] == [f"step-{k}" for k in range(0, 21, 4)]
    last = safetensors.torch.load_file(whole[1].models[-1] / "model.safetensors")
    assert torch.equal(last["line.weight"], whole[0].network.line.weight)
    assert not (whole[1].folder / "checkpoints").exists()


def test_a_finished_run_is_returned(whole):
    task, again = train(whole[1].folder, progress=killer(1))
    assert again.was_there
    assert again.losses == whole[1].losses
    assert not task.network.seen


def test_a_damaged_checkpoint_is_refused(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, progress=killer(6))
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    damaged = bytearray(checkpoint.read_bytes())
    damaged[-1] ^= 1
    checkpoint.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"is damaged .* start again with --overwrite"):
        train(tmp_path)
    train(tmp_path, overwrite=True)


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(whole, tmp_path, monkeypatch):
    saved, save = [], safetensors.torch.save_file

    def full(tensors, path, metadata=None):
        saved.append(path)
        if len(saved) == 6:  # a model, or a checkpoint, of the second time
            raise safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )
        save(tensors, path, metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(StoreError, match="the disk is full; free some room"):
        train(tmp_path / "run")
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == 1
    train(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(whole[1].folder)


def test_a_run_that_diverges_says_so(tmp_path):
    settings = replace(SETTINGS, learning_rate=1e30, max_gradient_norm=0, schedule="constant", warmup_steps=0)
    with pytest.raises(Diverged, match="lower the learning rate"):
        train(tmp_path, settings)


def test_no_steps_write_the_network_as_it_is(tmp_path):
    _, done = train(tmp_path, replace(SETTINGS, steps=0))
    assert done.losses == []
    assert [path.name for path in done.models] == ["step-0"]
    with pytest.raises(UsageError, match="nothing to train on"):
        train(tmp_path / "empty", task=Points(lengths=()))


# What is said


def test_what_is_known_before_and_after_the_first_step(tmp_path):
    said, seen = [], []
    train(tmp_path, say=said.append, progress=lambda *told: seen.append(told))
    assert said[0] == "parameters: 4; examples: 7, 28.0 s of audio"
    assert said[1].startswith("a step: 4 examples in 2 batches, about 16.0 s of audio; memory: about ")
    assert said[2].startswith("the first step took ")
    assert said[2].endswith("for the 19 steps to come")
    assert seen[0][:2] == (1, 20)
    assert seen[0][2].startswith("loss ")


def test_a_batch_that_does_not_fit_is_told_with_one_that_does(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("layertool.training.outlook.there_is", lambda: 1)
    train(tmp_path, say=said.append)
    assert "take a smaller network, or shorter crops" in said[2]
    found = replace(engine.measured(Points(), SETTINGS, torch.device("cpu")), fixed=0, of_example=10, there=15)
    assert found.warnings == ["a batch of 2 needs about 20 B, and there are 15 B: --batch-size 1 --accumulation 4 makes the same steps and fits"]  # fmt: skip


def test_a_dry_run_writes_nothing(tmp_path):
    _, account = train(tmp_path / "run", dry_run=True)
    assert isinstance(account, Account)
    assert [name for name, _ in account.facts] == ["parameters", "examples", "a step", "steps", "memory", "time here"]
    assert not (tmp_path / "run").exists()


def test_a_run_whose_every_rate_was_0_says_so(tmp_path):
    said = []
    train(tmp_path, replace(SETTINGS, steps=1, warmup_steps=1), say=said.append)
    assert said[-1].startswith("nothing was learned: the learning rate was 0 in every step")


@pytest.mark.parametrize("kind", ["melhubert", "hubert"])
def test_memory_grows_with_the_frames_and_not_with_their_square(kind):
    """No attention weights are kept on a CPU; numbers and gradients are those of attention that keeps them."""
    torch.manual_seed(0)
    network = networks.build(kind, networks.Sizes(2, 32, 32, 2, 8), 5).train()
    kept = []
    for n in (200, 800):
        waves = {"waveforms": torch.randn(1, 320 * n + 80), "n_samples": torch.tensor([320 * n + 80])}
        mels = {"features": torch.randn(1, n, 80), "attention_mask": torch.ones(1, n, dtype=torch.bool)}
        clusters = torch.arange(n)[None] % 5
        batch = (mels if kind == "melhubert" else waves) | {"masked": clusters < 3, "clusters": clusters}
        task = Points((1.0,))
        task.network, task.example, task.collate = network, lambda *_: None, lambda _, batch=batch: dict(batch)
        kept.append(engine.measured(task, SETTINGS, torch.device("cpu")).of_example)
    assert kept[1] < 5 * kept[0]
    found = []
    for device in ("cpu", "meta"):  # recomputed, and as it is
        network.zero_grad()
        torch.manual_seed(1)
        with attention_recomputed(torch.device(device)):
            loss = network(**batch)["loss"]
        loss.backward()
        found.append([loss, *(p.grad for p in network.parameters() if p.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_tensorboard_has_the_losses(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, done = train(tmp_path, log=["tensorboard"])
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [
        (loss.step, pytest.approx(loss.loss)) for loss in done.losses
    ]


def test_other_logs(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="'paper' is no log"):
        train(tmp_path / "a", log=["paper"])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    with pytest.raises(MissingExtraError, match="wandb"):
        train(tmp_path / "b", log=["wandb"])
    with pytest.raises(UsageError, match="float16"):
        train(tmp_path / "c", replace(SETTINGS, precision="float16"))


def test_of_equals_the_earlier_is_kept(tmp_path):
    @dataclass(frozen=True)
    class Point:
        step: int
        order: float

    class Kept(Selected):
        kind, record, keeps_all = "keeping lines", "kept.json", False
        result = type("Found", (Best,), {"Point": Point})
        example, collate, write = Points.example, Points.collate, Points.write
        last_file = "model.safetensors"

        def __init__(self):
            Points.__init__(self)
            self.history = []

        def measure(self, step):
            return Point(step, 1.0 if step in (8, 16) else 2.0)

    _, done = train(tmp_path, task=Kept())
    assert [point.step for point in done.history] == [4, 8, 12, 16, 20]
    assert done.best.step == 8
    assert not list(tmp_path.glob("step-*"))
    whole = run(Points(), SETTINGS, tmp_path / "series", device="cpu")
    assert (tmp_path / "model.safetensors").read_bytes() == (whole.models[2] / "model.safetensors").read_bytes()
