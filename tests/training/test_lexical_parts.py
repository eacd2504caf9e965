"""Which parts of the network learn, and how: optimizer, schedule, order of the stimuli."""

from __future__ import annotations

import itertools
import math

import models
import pytest
import torch
import tuning

from layertool.errors import UsageError
from layertool.training import engine, lexical, lexical_grid
from layertool.training.lexical import MODULES, fine_tune

pytestmark = pytest.mark.slow  # networks are run, or trained

SUBSETS = [names for n in (1, 2, 3) for names in itertools.combinations(MODULES, n)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.whisper(tmp_path_factory.mktemp("model") / "tiny", seed=3, tokenizer="english")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tuning.corpus(tmp_path_factory.mktemp("corpus"))


def part_of(name: str) -> str | None:
    """By the spec's words, from the name of a parameter; None for what never learns."""
    if name.startswith("proj_out") or ".decoder." in name:
        return "decoder"
    if ".encoder.conv" in name:
        return "convolutions"
    return None if ".encoder.embed_positions" in name else "encoder"


def before(model, random_init: int | None = None) -> dict[str, torch.Tensor]:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    if random_init is None:
        return WhisperForConditionalGeneration.from_pretrained(model).state_dict()
    torch.manual_seed(random_init)
    return WhisperForConditionalGeneration(WhisperConfig.from_pretrained(model)).state_dict()


@pytest.mark.parametrize("modules", SUBSETS, ids="+".join)
@pytest.mark.parametrize("window", ["exact", pytest.param("30s", marks=pytest.mark.slow)])
def test_only_what_was_asked_for_changes(model, corpus, tmp_path, modules, window):
    """Bit for bit. With the 30 s window transformers' own forward of the encoder is used."""
    variant = tuning.Variant(window=window)
    changes = {"epochs": 1, "modules": modules, "warmup": 0.0, "variant": variant}
    tuned = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(**changes))
    old, new = before(model), tuning.weights(tmp_path / "o")
    n_trained = 0
    for name, value in new.items():
        learns = part_of(name) in modules
        assert torch.equal(value, old[name]) != learns, name
        n_trained += value.numel() if learns else 0
    assert {part_of(name) for name in new} == {*MODULES, None}
    assert tuning.record(tuned.folder)["trained_parameters"] == n_trained  # tied weights once
    assert "proj_out.weight" not in new


def test_output_and_embeddings_stay_one(model, corpus, tmp_path):
    from transformers import WhisperForConditionalGeneration

    fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=1, modules=("decoder",)))
    network = WhisperForConditionalGeneration.from_pretrained(tmp_path / "o")
    assert network.proj_out.weight.data_ptr() == network.model.decoder.embed_tokens.weight.data_ptr()


def test_from_scratch_begins_with_the_weights_of_the_seed(model, corpus, tmp_path):
    """Frozen parts show what was drawn; the convolutions here."""
    from layertool.analysis.lexical.scorer import WhisperScorer
    from layertool.layerwise.stimuli import stimuli_of
    from layertool.training.lexical import dev_likelihood

    for seed in (0, 5):
        options = {"epochs": 1, "from_scratch": True, "seed": seed, "modules": ("decoder", "encoder")}
        tuned = fine_tune(str(model), corpus, tmp_path / f"{seed}", tuning.recipe(**options))
        drawn, kept = before(model, seed), tuning.weights(tuned.folder)
        assert torch.equal(kept["model.encoder.conv1.weight"], drawn["model.encoder.conv1.weight"])
        assert not torch.equal(kept["model.encoder.conv1.weight"], before(model)["model.encoder.conv1.weight"])
        assert not torch.equal(kept["model.encoder.layers.0.fc1.weight"], drawn["model.encoder.layers.0.fc1.weight"])
        control = WhisperScorer(model, tuning.EXACT, random_init=seed)
        dev = dev_likelihood(control, corpus, stimuli_of(corpus, "dev"))
        assert tuned.history[0].dev == pytest.approx(dev, abs=1e-9)
    zero, five = (tuning.weights(tmp_path / f"{seed}")["model.encoder.conv1.weight"] for seed in (0, 5))
    assert not torch.equal(zero, five)


@pytest.fixture
def watched(monkeypatch):
    """What the optimizer is told at every step, and which stimuli came."""
    seen: list[dict] = []
    take, loss_of = engine.Loop.take_step, engine.Task.loss

    def step(loop):
        groups = loop.optimiser.param_groups
        seen.append({"lr": groups[0]["lr"], "groups": groups, "kind": type(loop.optimiser), "settings": loop.settings})
        seen[-1]["loss"], norm = take(loop)
        return seen[-1]["loss"], norm

    def loss(task, inputs):
        if len(seen) and "loss" not in seen[-1]:
            seen[-1]["words"] = [tuple(words) for words in inputs["words"]]
        return loss_of(task, inputs)

    monkeypatch.setattr(engine.Loop, "take_step", step)
    monkeypatch.setattr(engine.Task, "loss", loss)
    return seen


def rate(step: int, total: int, warmup: float, schedule: str) -> float:
    """The share of the peak that step number ``step`` (from 0) is made with."""
    rising = math.ceil(warmup * total)
    if step < rising:
        return step / rising
    done = (step - rising) / (total - rising)
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_learning_rate_of_every_step(model, corpus, tmp_path, watched, schedule, warmup):
    options = {"schedule": schedule, "warmup": warmup, "learning_rate": 2e-4, "epochs": 4, "batch_size": 2}
    fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(**options))
    assert len(watched) == 12
    wanted = [2e-4 * rate(k, 12, warmup, schedule) for k in range(12)]
    assert [one["lr"] for one in watched] == pytest.approx(wanted, rel=1e-9, abs=1e-15)


def test_adam_as_in_the_paper(model, corpus, tmp_path, watched):
    fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=1))
    for one in watched:
        assert one["kind"] is torch.optim.AdamW
        assert all(group["betas"] == (0.9, 0.999) and group["weight_decay"] == 0 for group in one["groups"])
        assert (one["settings"].accumulation, one["settings"].max_gradient_norm) == (1, 1)


def test_defaults_are_the_papers():
    recipe = lexical.Options()
    assert (recipe.learning_rate, recipe.warmup, recipe.schedule, recipe.epochs) == (1e-5, 0.1, "cosine", 12)
    assert (recipe.batch_size, recipe.objective, set(recipe.modules)) == (16, "all", set())
    assert not recipe.from_scratch
    points = lexical_grid.grid(recipe)
    assert len(points) == 60 == len(set(map(str, points.values())))


def test_every_epoch_shows_every_train_stimulus_once_in_another_order(model, corpus, tmp_path, watched):
    """And nothing of dev or test."""
    from layertool.layerwise.stimuli import stimuli_of

    fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=4))
    train = sorted(stimulus.responses for stimulus in stimuli_of(corpus, "train"))
    assert [len(one["words"]) for one in watched] == [4, 2] * 4
    epochs = [watched[k]["words"] + watched[k + 1]["words"] for k in range(0, 8, 2)]
    assert all(sorted(epoch) == train for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_the_loss_in_the_history_is_the_mean_of_the_steps(model, corpus, tmp_path, watched):
    tuned = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=3))
    losses = [one["loss"] for one in watched]
    assert [epoch.loss for epoch in tuned.history[1:]] == pytest.approx(
        [(losses[k] + losses[k + 1]) / 2 for k in (0, 2, 4)], rel=1e-6
    )
    assert [epoch.step for epoch in tuned.history] == [0, 2, 4, 6]
    assert [epoch.epoch for epoch in tuned.history] == [0, 1, 2, 3]


def test_one_step_by_hand(model, corpus, tmp_path):
    """Whole batch, no warm-up, one epoch: one step of torch's Adam on clipped gradients."""
    from layertool.layerwise.stimuli import stimuli_of
    from layertool.training.responses import StimulusData, batch

    recipe = tuning.recipe(epochs=1, batch_size=6, warmup=0.0)
    fine_tune(str(model), corpus, tmp_path / "o", recipe)
    scorer = lexical._scorer(str(model), recipe)
    network = scorer.network
    network.set_up(scorer, MODULES, "all")
    data = StimulusData(corpus, stimuli_of(corpus, "train"), scorer.mel, False)
    network(**batch([data[k] for k in range(6)]))["loss"].backward()
    learning = [p for p in network.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(learning, 1.0)
    torch.optim.Adam(learning, lr=recipe.learning_rate).step()
    new = tuning.weights(tmp_path / "o")
    # a gradient of nearly 0 may have either sign after another order of summing: Adam makes a whole step of it
    wrong = total = 0
    for name, value in network.state_dict().items():
        if name in new:
            wrong += int((~torch.isclose(value, new[name], rtol=0, atol=2e-5)).sum())
            total += value.numel()
    assert wrong < 0.002 * total, (wrong, total)


@pytest.mark.parametrize(
    "wrong",
    [{"modules": ("encode",)}, {"modules": ","}, {"objective": "both"}, {"schedule": "constant"}, {"dtype": "int8"},
     {"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1.0}, {"learning_rate": float("nan")},
     {"learning_rate": float("inf")}, {"warmup": 1.0}, {"warmup": 5.0}, {"warmup": -0.1}, {"seed": -1}, {"seed": 2**32}],
    ids=str,
)  # fmt: skip
def test_recipes_that_cannot_be(model, corpus, tmp_path, wrong):
    """From Python, too: a sentence, and no folder left behind."""
    with pytest.raises(UsageError):
        fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(**wrong))
    assert not (tmp_path / "o").exists()
