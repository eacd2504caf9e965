"""Iterative pruning: what is left after each step, and runs that go on with the same numbers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from kills import Killed, killer
from safetensors.torch import load_file

import layertool
from layertool.errors import ModelError, StoreError, UsageError
from layertool.models import melhubert, pruned
from layertool.training import compression
from layertool.training.compression_run import Compression, compress
from layertool.training.engine import Order, Settings
from layertool.training.plans import About, Pruning, look, usual_plan, usual_settings
from layertool.training.pretraining import pretrain
from layertool.training.pretraining_data import Spans
from layertool.training.pretraining_networks import PRESETS, Sizes, build
from layertool.training.pretraining_recipes import Recipe
from layertool.training.runs import RunFolder
from layertool.training.schedules import Record, Schedule, Trigger

pytest.importorskip("accelerate")

pytestmark = pytest.mark.slow
TINY = Sizes(2, 32, 48, 4, 16)
CLUSTERS = 6
MODELS = ("melhubert", "hubert", "wav2vec2")
PLANS = {
    "heads": Schedule("heads", (2, 5), 1),
    "rows": Schedule("rows", (0, 3, 6), 8),
    "weights": Trigger((0.2, 0.5, 0.7), warm_up=2, period=3, lag=1, improvement=0.05),
}
TOTAL = 7


def recipe(model: str) -> Recipe:
    clusters = None if model == "wav2vec2" else CLUSTERS
    return Recipe(model, TINY, clusters=clusters, spans=Spans(0.5, 3), max_seconds=0.5, min_frames=5)


def settings(kind: str, model: str, **changes) -> Settings:
    return usual_settings(kind, model, learning_rate=1e-3, batch_size=2, save_steps=2, seed=7, **changes)


def run(speech, folder, model, kind, name="run", plan=None, total=TOTAL, changes=None, **options):
    how = Pruning(kind, plan or PLANS[kind], total, **(changes or {}))
    options.setdefault("settings", settings(kind, model))
    return compress(str(folder / model / "step-0"), speech, folder / name, how, recipe(model), device="cpu", **options)


def one_shot(model, out, kind, plan, **options):
    return compress(str(model), None, out, Pruning(kind, plan, 0, trains=False), device="cpu", **options)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    lengths = [7000, 16000, 12345, 9600, 5000]
    return models.corpus(tmp_path_factory.mktemp("speech"), [models.speech_like(n, k) for k, n in enumerate(lengths)])


@pytest.fixture(scope="module")
def base(speech, tmp_path_factory):
    """A folder with MODEL/step-0 of each, and a finished run of each kind of MelHuBERT."""
    folder = tmp_path_factory.mktemp("base")
    for model in MODELS:
        pretrain(speech, folder / model, recipe(model), Settings(0, save_steps=2, seed=7), device="cpu")
    return folder


@pytest.fixture(scope="module")
def whole(base, speech):
    return {kind: run(speech, base, "melhubert", kind, f"whole-{kind}") for kind in PLANS}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}:{name}": value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()
    }


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def equal(one, other) -> None:
    """Two runs with the same models, steps, losses and prunings."""
    assert [(m.path.name, m.step, m.n_parameters) for m in one.models] == [
        (m.path.name, m.step, m.n_parameters) for m in other.models
    ]
    assert one.losses == other.losses
    for mine, its in zip(one.models, other.models, strict=True):
        assert same(mine.path, its.path), mine.path.name
        assert (mine.path / "config.json").read_bytes() == (its.path / "config.json").read_bytes()
    for name in ("prunings.json", "losses.csv"):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
    assert sorted(p.name for p in one.folder.iterdir()) == sorted(p.name for p in other.folder.iterdir())


# What is left


def test_models_are_saved_before_each_pruning_and_at_the_end(whole):
    found = {kind: [(m.path.name, m.step) for m in done.models] for kind, done in whole.items()}
    assert found["heads"] == [("heads-8", 2), ("heads-6", 5), ("heads-4", 7)]
    assert found["rows"] == [("rows-48", 0), ("rows-40", 3), ("rows-32", 6), ("rows-24", 7)]
    assert [name for name, _ in found["weights"]] == ["sparsity-0", "sparsity-0.2", "sparsity-0.5", "sparsity-0.7"][
        : len(found["weights"])
    ]
    for done in whole.values():
        left = {p.name for p in done.folder.iterdir()} - {m.path.name for m in done.models}
        assert left == {".lock", "compress.json", "prunings.json", "losses.csv", "targets.npz"}


def test_parameters_after_each_step(whole):
    n = whole["heads"].facts["parameters"]
    per_head = 3 * 8 * 33 + 8 * 32
    assert [m.n_parameters for m in whole["heads"].models] == [n, n - 2 * per_head, n - 4 * per_head]
    assert [n - m.n_parameters for m in whole["rows"].models] == [0, 2 * 8 * 65, 4 * 8 * 65, 6 * 8 * 65]
    prunable = 2 * (4 * (32 * 32 + 32) + 2 * 32 * 48 + 48 + 32)
    for m in whole["weights"].models[1:]:
        assert n - m.n_parameters == round(float(m.path.name.removeprefix("sparsity-")) * prunable)


def test_the_networks_are_trained_between_prunings(whole, base):
    first = pruned.load(whole["rows"].models[0].path)
    assert torch.equal(first.final_proj.weight, pruned.load(base / "melhubert/step-0").final_proj.weight)  # step 0
    for done in whole.values():
        nets = [pruned.load(m.path).final_proj.weight for m in done.models]
        for one, other, a, b in zip(nets, nets[1:], done.models, done.models[1:], strict=False):
            assert torch.equal(one, other) == (a.step == b.step)
        assert [m.step for m in done.models] == [pruned.load(m.path).config.step for m in done.models]


def test_losses_are_of_all_steps_once(whole):
    assert [loss.step for loss in whole["heads"].losses] == [2, 4, 5, 6, 7]  # every second, the prunings, and the end
    assert len({loss.step for loss in whole["weights"].losses}) == len(whole["weights"].losses)


def test_prunings_are_those_of_the_saved_network(whole):
    record = Record.read(whole["heads"].folder / "prunings.json")
    assert (record.steps, record.amounts) == ([2, 5], [1, 1])
    for m, removed in zip(whole["heads"].models, record.removed, strict=False):
        assert removed == compression.prune_heads(pruned.load(m.path))


def test_the_trigger_waits_and_the_run_is_longer(base, speech):
    """With a learning rate that loses nothing, the average falls: by how much decides."""
    never = run(speech, base, "melhubert", "weights", "never", Trigger((0.2, 0.5), 2, 3, 1, 0.9, 9.0))
    assert [(m.path.name, m.step) for m in never.models] == [
        ("sparsity-0", 2),
        ("sparsity-0.2", 5),
        ("sparsity-0.5", 7),
    ]
    waits = run(speech, base, "melhubert", "weights", "waits", Trigger((0.2, 0.5), 2, 3, 1, 0.9, 0.0))
    second, last = waits.models[1].step, waits.models[-1].step
    assert (second - 2) % 3 == 0
    assert second > 5
    assert last == TOTAL + second - 5  # a period longer for every wait
    again = run(speech, base, "melhubert", "weights", "waits", Trigger((0.2, 0.5), 2, 3, 1, 0.9, 0.0))
    assert again.was_there
    assert again.models == waits.models


@pytest.mark.parametrize("model", ["hubert", "wav2vec2"])
def test_networks_that_read_waveforms(model, base, speech, tmp_path):
    done = run(speech, base, model, "heads", f"{model}-heads", Schedule("heads", (2,), 1), 3)
    assert [m.path.name for m in done.models] == ["heads-8", "heads-6"]
    store = layertool.extract(str(done.models[1].path), speech, tmp_path / "s", units=("utterance",), device="cpu")
    assert store.configuration["model"]["step"] == 3
    assert (
        store.about["parameters"]["all"]
        < layertool.extract(str(done.models[0].path), speech, tmp_path / "t", units=("utterance",), device="cpu").about[
            "parameters"
        ]["all"]
    )
    if model == "hubert":
        assert look(str(done.models[1].path)).clusters == CLUSTERS


def test_scores_from_data(base, speech, monkeypatch):
    seen = []
    draw, scores = Order.item, Compression._scores

    def watched(self):
        with monkeypatch.context() as patch:
            patch.setattr(Order, "item", lambda order, place: seen.append(place) or draw(order, place))
            return scores(self)

    monkeypatch.setattr(Compression, "_scores", watched)
    changes = {"score": "data", "by": "whole"}
    done = run(speech, base, "melhubert", "heads", "data", changes=changes)
    assert [m.path.name for m in done.models] == ["heads-8", "heads-6", "heads-4"]
    assert seen == [0, 1, 2, 3]  # a quarter of 5, rounded up, each time others
    record = Record.read(done.folder / "prunings.json")
    assert [sum(map(len, removed)) for removed in record.removed] == [2, 2]


# One shot


@pytest.mark.parametrize(("kind", "per"), [("heads", 205_040 * 3), ("rows", 1_281 * 3 * 128), ("weights", None)])
def test_one_shot_on_the_small_network_of_the_paper(kind, per, tmp_path):
    torch.manual_seed(0)
    build("melhubert", PRESETS["small"], 512).save(tmp_path / "small", 5)
    about = look(str(tmp_path / "small"))
    assert (about.heads, about.rows, about.clusters) == ([8] * 3, [2048] * 3, 512)
    if kind == "weights":
        done = one_shot(tmp_path / "small", tmp_path / "run", kind, Schedule(kind, (0, 1), (0.2, 0.8)))
        wanted = [round(s * 12_795_264) for s in (0.2, 0.8)]
        assert [16_461_824 - m.n_parameters for m in done.models[1:]] == wanted
        return
    plan = Schedule(kind, (0, 1), 1 if kind == "heads" else 128)
    done = one_shot(tmp_path / "small", tmp_path / "run", kind, plan)
    assert [m.n_parameters for m in done.models] == [16_461_824 - k * per for k in range(3)]
    assert [m.path.name for m in done.models] == (
        ["heads-24", "heads-21", "heads-18"] if kind == "heads" else ["rows-2048", "rows-1920", "rows-1792"]
    )
    assert pruned.load(done.models[-1].path).final_proj.out_features == 512  # its own, not other clusters
    assert not plan.n_done
    assert done.losses == []


def test_parameters_of_the_base_networks():
    """Spec 4.5, on no weights."""
    for kind, n_left in (
        ("heads", {132: 87_869_824, 72: 76_061_824, 12: 64_253_824}),
        ("rows", {1536: 61_901_440, 512: 43_014_784}),
    ):
        with torch.device("meta"):
            network = build("melhubert", PRESETS["base"], 512).network
        plan, _ = usual_plan(kind, About("melhubert", 512, *pruned.sizes(network)))
        found = {}
        for _ in plan.steps:
            heads, rows = pruned.sizes(network)
            pruned.resize(
                network, *(([n - 1 for n in heads], rows) if kind == "heads" else (heads, [n - 128 for n in rows]))
            )
            found[sum(pruned.sizes(network)[0]) if kind == "heads" else network.config.encoder_ffn_embed_dim] = (
                compression.n_parameters(network).all
            )
        assert n_left.items() <= found.items()
        assert list(found)[-1] == min(n_left)


def test_one_shot_of_other_families(tmp_path):
    folder = models.save("wavlm-base", tmp_path / "wavlm")
    done = one_shot(folder, tmp_path / "rows", "rows", Schedule("rows", (0,), 4))
    assert [m.path.name for m in done.models] == ["rows-64", "rows-60"]
    assert done.facts["parameters"] - done.models[1].n_parameters == 3 * 4 * (2 * 48 + 1)
    with pytest.raises(ModelError, match="cannot lose heads"):
        one_shot(folder, tmp_path / "heads", "heads", Schedule("heads", (0,), 1))
    assert not (tmp_path / "heads").exists()


# When


def test_the_papers_plans():
    base = About("melhubert", 512, [12] * 12, [3072] * 12)
    plan, total = usual_plan("heads", base)
    assert (plan.steps[0], plan.steps[-1], len(plan.steps), plan.amounts[0], total) == (1000, 326_000, 11, 1, 366_000)
    assert usual_plan("heads", replace(base, model="wav2vec2"))[1] == 331_000
    plan, total = usual_plan("rows", base)
    assert (plan.steps[:2], len(plan.steps), plan.amounts[0], total) == ((1000, 26_000), 20, 128, 510_000)
    assert usual_plan("weights", base) == (Trigger(), 1_000_000)
    plan, total = usual_plan("weights", replace(base, model="wav2vec2"))
    assert (plan.steps[0], plan.steps[-1], plan.amounts[-1], total) == (5000, 3_230_000, 0.8, 3_355_000)
    small = About("melhubert", 512, [8] * 3, [2048] * 3)
    plan, total = usual_plan("heads", small)
    assert (len(plan.steps), plan.steps[-1], total) == (7, 166_000, 206_000)
    assert len(usual_plan("rows", small)[0].steps) == 15
    given = usual_settings("heads", "melhubert")
    assert (given.learning_rate, given.batch_size, given.betas, given.weight_decay) == (5e-5, 4, (0.9, 0.999), 0)
    assert (given.schedule, given.max_gradient_norm) == ("constant", 10)
    given = usual_settings("rows", "wav2vec2")
    assert (given.learning_rate, given.batch_size) == (1e-5, 12)


# Runs that are stopped


@pytest.mark.parametrize(
    ("kind", "at"), [("heads", 1), ("heads", 5), ("heads", 7), ("rows", 5), ("weights", 4), ("weights", 6)]
)
def test_a_run_killed_in_training(kind, at, base, whole, speech, tmp_path):
    with pytest.raises(Killed):
        run(speech, base, "melhubert", kind, tmp_path / "run", progress=killer(at))
    torch.rand(3), np.random.random(3)
    steps: list[float] = []
    again = run(speech, base, "melhubert", kind, tmp_path / "run", progress=lambda done, *_: steps.append(done))
    equal(again, whole[kind])
    last = whole[kind].models[-1].step
    first = steps[0] if steps else last + 1
    assert steps == list(range(first, last + 1))
    assert first <= at + 1
    assert first > 2 or at < 5  # it did go on


@pytest.mark.parametrize("kind", list(PLANS))
@pytest.mark.parametrize("where", ["_save", "_prune", "write_checkpoint", "record", "start"])
@pytest.mark.parametrize("time", [1, 2])
def test_a_run_killed_between(kind, where, time, base, whole, speech, tmp_path, monkeypatch):
    """Just after a model was saved, a part was pruned, or a checkpoint was written; just before that."""
    count = [0]
    owner = RunFolder if where in ("write_checkpoint", "start") else Compression
    method = {"record": "_prune", "start": "write_checkpoint"}.get(where, where)
    real = getattr(owner, method)

    def then(self, *arguments):
        count[0] += 1
        if where == "start" and count[0] == time:
            raise Killed
        found = real(self, *arguments)
        if count[0] == time:
            raise Killed
        return found

    monkeypatch.setattr(owner, method, then)
    with pytest.raises(Killed):
        run(speech, base, "melhubert", kind, tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "run/.heads-4.123.part").mkdir()
    equal(run(speech, base, "melhubert", kind, tmp_path / "run"), whole[kind])


def test_a_kill_in_a_wait_of_the_trigger(base, speech, tmp_path):
    plan = Trigger((0.2, 0.5), 2, 3, 1, 0.9, 0.0)
    unstopped = run(speech, base, "melhubert", "weights", tmp_path / "whole", plan)
    at = unstopped.models[1].step - 2  # after the first wait

    with pytest.raises(Killed):
        run(speech, base, "melhubert", "weights", tmp_path / "run", plan, progress=killer(at))
    equal(run(speech, base, "melhubert", "weights", tmp_path / "run", plan), unstopped)


def test_a_kill_with_scores_from_data_in_half_precision(base, speech, tmp_path, monkeypatch):
    options = {"changes": {"score": "data"}, "settings": settings("heads", "wav2vec2", precision="bfloat16")}
    unstopped = run(speech, base, "wav2vec2", "heads", tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(Compression, "_prune", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run(speech, base, "wav2vec2", "heads", tmp_path / "run", **options)
    again = run(speech, base, "wav2vec2", "heads", tmp_path / "run", **options)
    assert again.losses == unstopped.losses
    assert all(same(a.path, b.path) for a, b in zip(again.models, unstopped.models, strict=True))


def test_finished_other_and_overwritten_runs(whole, base, speech, tmp_path):
    assert run(speech, base, "melhubert", "heads", "whole-heads").was_there
    with pytest.raises(StoreError, match=r"was trained otherwise .*pruning.plan.steps"):
        run(speech, base, "melhubert", "heads", "whole-heads", Schedule("heads", (2, 6), 1))

    with pytest.raises(Killed):
        run(speech, base, "melhubert", "heads", tmp_path / "run", progress=killer(6))
    with pytest.raises(StoreError, match="was trained otherwise"):  # what is there is not lost
        run(speech, base, "melhubert", "heads", tmp_path / "run", Schedule("heads", (2,), 1))
    other = run(speech, base, "melhubert", "heads", tmp_path / "run", Schedule("heads", (2,), 2), overwrite=True)
    assert sorted(p.name for p in other.folder.glob("heads-*")) == ["heads-4", "heads-8"]


# What cannot be


def test_more_than_there_is(base, speech, tmp_path):
    with pytest.raises(UsageError, match="4 prunings remove 4 heads of each block, but block 1 has 4"):
        run(speech, base, "melhubert", "heads", tmp_path / "x", Schedule("heads", (1, 2, 3, 4), 1))
    with pytest.raises(UsageError, match="remove 48 rows of each block, but block 1 has 48"):
        run(speech, base, "melhubert", "rows", tmp_path / "x", Schedule("rows", (1,), 48))
    with pytest.raises(UsageError, match="removes 8 heads of 8, and one must stay in each of 2"):
        run(speech, base, "melhubert", "heads", tmp_path / "x", Schedule("heads", (1,), 4), changes={"by": "whole"})
    with pytest.raises(UsageError, match="a schedule for rows does not prune heads"):
        Pruning("heads", PLANS["rows"], 9)
    with pytest.raises(
        UsageError, match="the last pruning, at step 5, leaves no training after it, which ends at step 4"
    ):
        Pruning("heads", PLANS["heads"], 4)
    with pytest.raises(UsageError, match="the first pruning, at step 25000, leaves no training after it"):
        Pruning("weights", Trigger(), 10)
    with pytest.raises(UsageError, match="a trigger on the loss"):
        Pruning("weights", Trigger(), 0, trains=False)
    assert not (tmp_path / "x").exists()


def test_less_than_is_gone(base, tmp_path):
    half = one_shot(base / "melhubert/step-0", tmp_path / "a", "weights", Schedule("weights", (0,), (0.5,))).models[-1]
    with pytest.raises(UsageError, match=r"a first sparsity of 0.3 is less than there is: .* are 0 already"):
        one_shot(half.path, tmp_path / "b", "weights", Schedule("weights", (0,), (0.3,)))


def test_models_and_corpora_that_do_not_fit(base, speech, tmp_path):
    plan = Schedule("rows", (1,), 4)
    with pytest.raises(ModelError, match="'whisper', which cannot be pruned"):
        look(str(models.whisper(tmp_path / "whisper")))
    with pytest.raises(UsageError, match="layertool convert"):
        look("fairseq:x.pt")
    wavlm = models.save("wavlm-base", tmp_path / "wavlm")
    with pytest.raises(ModelError, match="whose pre-training is not known here"):
        compress(str(wavlm), speech, tmp_path / "x", Pruning("rows", plan, 2), device="cpu")
    with pytest.raises(UsageError, match="give a CORPUS"):
        compress(str(base / "hubert/step-0"), None, tmp_path / "x", Pruning("rows", plan, 2), device="cpu")
    with pytest.raises(UsageError, match="nothing is heard"):
        compress(str(base / "hubert/step-0"), speech, tmp_path / "x", Pruning("rows", plan, 0, False), device="cpu")
    with pytest.raises(UsageError, match="learning rate of a compression is constant"):
        run(
            speech,
            base,
            "melhubert",
            "rows",
            tmp_path / "x",
            settings=replace(settings("rows", "melhubert"), schedule="linear"),
        )
    store = layertool.extract(
        str(base / "melhubert/step-0"), speech, tmp_path / "s", units=("frame",), layers="T1", device="cpu"
    )
    torch.manual_seed(0)
    build("melhubert", TINY, CLUSTERS, 10).save(tmp_path / "ten", 0)
    with pytest.raises(UsageError, match="every 20 ms do not fit a network with frames every 10 ms"):
        compress(
            str(tmp_path / "ten"),
            speech,
            tmp_path / "x",
            Pruning("rows", plan, 2),
            recipe("melhubert"),
            targets=(store, "T1"),
            device="cpu",
        )
    assert not (tmp_path / "x").exists()


# --- what MODEL learned, and what it has lost ------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(speech, tmp_path_factory):
    """A network that has learned clusters of its own run."""
    from layertool.training.pretraining import pretrain

    folder = tmp_path_factory.mktemp("learned")
    recipe = Recipe("melhubert", Sizes(1, 32, 48, 4), clusters=12, max_seconds=1.0, min_frames=5)
    settings = Settings(80, 5e-3, warmup_steps=5, batch_size=4, save_steps=80, seed=3)
    return pretrain(speech, folder / "run", recipe, settings, device="cpu").models[-1]


def pruned_heads(model, speech, out, **options):
    plan = Schedule("heads", (4,), 1)
    how = usual_settings("heads", "melhubert", batch_size=4, save_steps=4, seed=options.pop("seed", 0))
    recipe = Recipe("melhubert", clusters=12, max_seconds=1.0, min_frames=5, **options)
    return compress(str(model), speech, out, Pruning("heads", plan, 8), recipe, how, device="cpu")


def test_the_clusters_are_those_that_the_model_learned(learned, speech, tmp_path):
    """Their numbers are k-means' whim: with another seed, anew, the loss would be of other classes."""
    from layertool.training import targets

    own = targets.load(learned.parent / "targets.npz")
    done = pruned_heads(learned, speech, tmp_path / "run", seed=7)
    there = targets.load(tmp_path / "run/targets.npz")
    np.testing.assert_array_equal(there.centroids, own.centroids)
    np.testing.assert_array_equal(there.labels, own.labels)
    assert done.losses[0].loss < 0.9 * np.log(12)
    again = pruned_heads(done.models[0].path, speech, tmp_path / "again", seed=8)  # and those of a compressed one
    np.testing.assert_array_equal(targets.load(again.folder / "targets.npz").centroids, own.centroids)


def test_clusters_that_cannot_be_the_models_are_refused(learned, speech, tmp_path):
    with pytest.raises(
        UsageError, match=r"learned clusters of log mel energies.*statistics 960, not of .*statistics 100"
    ):
        pruned_heads(learned, speech, tmp_path / "run", statistics="100")
    shutil.copytree(learned, tmp_path / "alone")  # its run is not known
    said = []
    how = usual_settings("heads", "melhubert", batch_size=4, save_steps=4, seed=7)
    recipe = Recipe("melhubert", clusters=12, max_seconds=1.0, min_frames=5)
    plan = Pruning("heads", Schedule("heads", (4,), 1), 8)
    try:
        compress(str(tmp_path / "alone"), speech, tmp_path / "x", plan, recipe, how, device="cpu", say=said.append)
    except UsageError as error:
        said.append(str(error))
    assert any("the model tells these clusters" in text and "than chance" in text for text in said)


def test_zeros_of_an_earlier_pruning_stay(learned, speech, tmp_path):
    """In a model on the disk they are zeros without masks; training must not fill them."""
    half = Pruning("weights", Schedule("weights", (0,), (0.5,)), 0, trains=False)
    one_shot = compress(str(learned), None, tmp_path / "half", half)
    model = one_shot.models[-1].path
    zeros = one_shot.facts["parameters"] - one_shot.models[-1].n_parameters
    recipe = Recipe("melhubert", clusters=12, max_seconds=1.0, min_frames=5)
    how = usual_settings("weights", "melhubert", batch_size=4, save_steps=4)
    plan = Pruning("weights", Schedule("weights", (4,), (0.6,)), 8)
    shutil.copy(learned.parent / "targets.npz", tmp_path / "half")
    done = compress(str(model), speech, tmp_path / "more", plan, recipe, how, device="cpu")
    assert [saved.path.name for saved in done.models] == ["sparsity-0.5", "sparsity-0.6"]
    assert done.facts["parameters"] - done.models[0].n_parameters == zeros
    assert done.models[1].n_parameters < done.models[0].n_parameters
    heads = pruned_heads(model, speech, tmp_path / "heads")
    network, _ = melhubert.load(heads.models[0].path)
    before, _ = melhubert.load(model)
    for (name, value), old in zip(network.state_dict().items(), before.state_dict().values(), strict=True):
        if "encoder" in name and name.endswith("weight") and (old == 0).any():
            assert (value[old == 0] == 0).all(), name
    counts = compression.n_parameters(network)
    assert counts.all - counts.nonzero > 0.4 * zeros  # the rest went with the heads
