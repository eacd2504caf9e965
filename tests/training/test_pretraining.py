"""Pre-training: what is hidden, what the losses are, and runs that go on with the same numbers."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import pytest
import soundfile
import torch
from kills import Killed, killer
from safetensors.torch import load_file
from torch.nn import functional

import layertool
from layertool.errors import AudioError, CorpusError, ModelError, StoreError, UsageError
from layertool.models import melhubert
from layertool.models.padding import clipwise
from layertool.training import pretraining_networks as networks
from layertool.training.engine import Diverged, Settings
from layertool.training.pretraining import pretrain
from layertool.training.pretraining_data import Examples, Spans, draw_negatives, kept
from layertool.training.pretraining_networks import PRESETS, Sizes, build, reopen
from layertool.training.pretraining_recipes import SETTINGS, SPANS, Recipe
from layertool.training.targets import Targets, load, save

pytest.importorskip("accelerate")

pytestmark = pytest.mark.slow
TINY = Sizes(2, 32, 48, 4, 16)
CLUSTERS = 6
LENGTHS = [7000, 16000, 12345, 9600, 5000]
MODELS = ("melhubert", "hubert", "wav2vec2")
SPANS_OF_TESTS = Spans(0.5, 3)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return models.corpus(tmp_path_factory.mktemp("speech"), [models.speech_like(n, k) for k, n in enumerate(LENGTHS)])


def network(model: str, seed: int = 0):
    """In evaluation mode: nothing is dropped."""
    torch.manual_seed(seed)
    net = build(model, TINY, CLUSTERS).eval()
    if model == "wav2vec2":
        net.network.config.num_negatives = 7
    return net


def examples(net, speech, max_frames=40, spans=SPANS_OF_TESTS, seed=0):
    """Examples with targets drawn at random, at 100 Hz."""
    counts = [melhubert.GEOMETRIES[10].n_frames(n) for n in LENGTHS]
    stops = np.cumsum(counts)
    labels = np.random.default_rng(seed).integers(0, CLUSTERS, stops[-1])
    ends = {f"u{k}": (int(stop - n), int(stop)) for k, (n, stop) in enumerate(zip(counts, stops, strict=True))}
    made = Targets(labels, ends, np.zeros((CLUSTERS, 1)), 160, 0, 0.0, 0.0, {})
    targets = None if isinstance(net, networks.Wav2Vec2) else made
    return Examples(net, kept(speech, net.geometry, 1), max_frames, spans, targets)


def items(net, speech, n=4, **options) -> tuple:
    data = examples(net, speech, **options)
    return data, [data.make(k, np.random.default_rng([5, k])) for k in range(n)]


# What is built


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ("small", (16_461_824, 20_905_344, 21_252_352)),
        ("slim", (15_615_616, 20_013_824, 20_360_832)),
        ("base", (90_231_424, 94_697_600, 95_044_608)),
    ],
)
def test_networks_of_table_2(size, counts):
    for model, n_clusters, wanted in zip(MODELS, (512, 504, 0), counts, strict=True):
        with torch.device("meta"):
            net = build(model, PRESETS[size], n_clusters)
        assert sum(p.numel() for p in net.parameters()) == wanted
    assert Recipe("hubert").clusters == 504  # so that the default is the table's network
    assert Recipe().clusters == 512


def test_a_network_of_10_ms():
    with torch.device("meta"):
        assert sum(p.numel() for p in build("melhubert", PRESETS["base"], 512, 10).parameters()) == 90_200_704


def test_the_recipes_of_the_papers():
    settings = SETTINGS["melhubert"]
    assert (settings.steps, settings.batch_size, settings.accumulation, settings.learning_rate) == (
        421_000,
        12,
        1,
        1e-4,
    )
    assert (settings.betas, settings.epsilon, settings.weight_decay, settings.max_gradient_norm) == (
        (0.9, 0.999),
        1e-8,
        0.0,
        10,
    )
    assert (settings.schedule, settings.warmup_steps, settings.seed) == ("constant", 0, 1337)
    recipe = Recipe()
    assert (recipe.spans, recipe.max_seconds, recipe.min_frames) == (Spans(0.7, 5, 2), 15.0, 321)
    assert Recipe("wav2vec2").spans == Spans(0.65, 10, 2)


# What is drawn


def test_52_to_53_percent_of_the_frames_are_hidden():
    random = np.random.default_rng(0)
    shares = [SPANS["melhubert"].draw(750, random).mean() for _ in range(400)]
    assert 0.52 < np.mean(shares) < 0.531  # 105 spans begin among 745 frames: 53.0 % away from the ends


def test_crops_are_of_features_labels_and_masks_alike(speech):
    net = network("melhubert")
    data = examples(net, speech, max_frames=11)
    rows, starts = data.rows, set()
    for seed in range(30):
        item = data.make(1, np.random.default_rng(seed))
        whole = melhubert.features(models.speech_like(LENGTHS[1], 1), 20)
        start = next(k for k in range(len(whole)) if (whole[k] == item["features"][0]).all())
        starts.add(start)
        assert (item["features"] == whole[start : start + 11]).all()
        labels = data.targets.labels[slice(*data.targets.ends["u1"])][::2]
        assert item["clusters"].tolist() == labels[start : start + 11].tolist()
        assert item["masked"].shape == (11,)
    assert rows[1]["utterance"] == "u1"
    assert min(starts) == 0 or max(starts) > 30
    assert max(starts) <= len(whole) - 11
    assert len(starts) > 10
    again = data.make(1, np.random.default_rng(29))
    assert all((again[name] == item[name]).all() for name in item)


def test_crops_of_waveforms_are_the_samples_that_their_frames_see(speech):
    net = network("hubert")
    data = examples(net, speech, max_frames=9)
    whole = models.speech_like(LENGTHS[2], 2)
    for seed in range(10):
        item = data.make(2, np.random.default_rng(seed))
        n = len(item["waveforms"])
        assert n == 8 * 320 + 400
        start = next(k for k in range(len(whole) // 320) if (whole[320 * k : 320 * k + n] == item["waveforms"]).all())
        labels = data.targets.labels[slice(*data.targets.ends["u2"])][::2]
        assert item["clusters"].tolist() == labels[start : start + 9].tolist()


def test_waveforms_are_normalised_over_the_whole_utterance(speech):
    net = network("wav2vec2")
    data = examples(net, speech, max_frames=9)
    net.normalises = True
    whole = models.speech_like(LENGTHS[4], 4).astype(float)
    wanted = (whole - whole.mean()) / np.sqrt(whole.var() + 1e-7)
    found = data.make(4, np.random.default_rng(0))["waveforms"]
    assert any(np.allclose(wanted[320 * k : 320 * k + len(found)], found, atol=1e-5) for k in range(15))


def test_distractors_are_the_other_hidden_frames_of_the_utterance():
    random = np.random.default_rng(0)
    masked = np.zeros(20, bool)
    masked[[2, 3, 7, 11, 19]] = True
    drawn = draw_negatives(masked, 4000, random)
    for frame in np.flatnonzero(masked):
        counts = np.bincount(drawn[frame], minlength=20)
        others = [k for k in np.flatnonzero(masked) if k != frame]
        assert counts[others].sum() == 4000
        assert (abs(counts[others] - 1000) < 120).all()
    assert (drawn[~masked] == 0).all()
    alone = np.zeros(4, bool)
    alone[2] = True
    assert draw_negatives(alone, 3, random)[2].tolist() == [2, 2, 2]


def test_distractors_are_counted_through_the_batch(speech):
    net = network("wav2vec2")
    data, drawn = items(net, speech)
    batch = data.collate(drawn)
    n_frames = batch["masked"].shape[1]
    for k, item in enumerate(drawn):
        own = batch["negatives"][k, : len(item["masked"])]
        assert (own - k * n_frames).numpy().tolist() == item["negatives"].tolist()
    hidden = batch["masked"].flatten()
    assert hidden[batch["negatives"][batch["masked"]].flatten()].all()


# Losses


def test_melhubert_loss_is_cross_entropy_at_hidden_frames(speech):
    net = network("melhubert")
    data, drawn = items(net, speech)
    found = net(**data.collate(drawn))["loss"].item()
    told = []
    for item in drawn:
        features = item["features"].copy()
        features[item["masked"]] = 0
        logits = net.network(torch.from_numpy(features)[None]).logits[0].detach().double()
        told += [-math.log(torch.softmax(logits[t], 0)[item["clusters"][t]]) for t in np.flatnonzero(item["masked"])]
    assert found == pytest.approx(np.mean(told), abs=1e-5)


def _alone(net, waveform: np.ndarray, masked: np.ndarray):
    """Hidden states of one clip without padding, and the mean square of its convolutional features."""
    clip = torch.from_numpy(waveform)[None]
    base = getattr(net.network, "wav2vec2", net.network)
    out = base(clip, mask_time_indices=torch.from_numpy(masked)[None])
    return out.last_hidden_state[0], base.feature_extractor(clip)[0]


def test_hubert_loss_is_of_cosines_with_the_embeddings(speech):
    net = network("hubert")
    data, drawn = items(net, speech)
    found = net(**data.collate(drawn))["loss"].item()
    told, squares = [], []
    for item in drawn:
        hidden, features = _alone(net, item["waveforms"], item["masked"])
        squares.append(features.square().flatten())
        for t in np.flatnonzero(item["masked"]):
            projected = net.final_proj(hidden[t]).double()
            cosines = [functional.cosine_similarity(projected, e, dim=0) / 0.1 for e in net.label_embeddings.double()]
            told.append(-math.log(torch.softmax(torch.stack(cosines).detach(), 0)[item["clusters"][t]]))
    assert found == pytest.approx(np.mean(told) + 10 * torch.cat(squares).mean().item(), rel=1e-5)


def test_wav2vec2_loss_is_contrastive_and_diverse(speech):
    net = network("wav2vec2")
    data, drawn = items(net, speech, n=3)
    found = net(**data.collate(drawn))["loss"].item()
    contrast, choices, squares = [], [], []
    for item in drawn:
        hidden, features = _alone(net, item["waveforms"], item["masked"])
        squares.append(features.square().flatten())
        normed = net.network.wav2vec2.feature_projection.layer_norm(features.T)
        logits = net.network.quantizer.weight_proj(normed).view(len(normed), 2, -1)
        choices.append(functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()[item["masked"]])
        codes = net.network.quantizer.codevectors.view(2, logits.shape[-1], -1)
        quantised = torch.cat([codes[g][logits[:, g].argmax(-1)] for g in (0, 1)], 1)
        quantised, hidden = net.network.project_q(quantised), net.network.project_hid(hidden)
        for t in np.flatnonzero(item["masked"]):
            right = torch.exp(functional.cosine_similarity(hidden[t], quantised[t], dim=0) / 0.1)
            wrong = [quantised[n] for n in item["negatives"][t] if not torch.equal(quantised[n], quantised[t])]
            total = right + sum(torch.exp(functional.cosine_similarity(hidden[t], q, dim=0) / 0.1) for q in wrong)
            contrast.append(-math.log((right / total).item()))
    used = torch.cat(choices).mean(0)
    perplexity = torch.exp(-torch.xlogy(used, used).sum(-1)).sum().item()
    diversity = (used.numel() - perplexity) / used.numel()
    wanted = np.mean(contrast) + 0.1 * diversity + 10 * torch.cat(squares).mean().item()
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_what_stands_at_padded_places_does_not_matter(model, speech):
    net = network(model)
    data, drawn = items(net, speech)
    batch = data.collate(drawn)
    loss = net(**batch)["loss"].item()
    spoilt = {name: value.clone() for name, value in batch.items()}
    longest = 0
    for k, item in enumerate(drawn):
        for name in ("features", "waveforms", "clusters"):
            if name in item:
                spoilt[name][k, len(item[name]) :] = 3
                longest = max(longest, spoilt[name].shape[1] - len(item[name]))
    assert longest > 5
    assert net(**spoilt)["loss"].item() == pytest.approx(loss, rel=2e-6)


def test_a_padded_norm_is_that_of_single_clips():
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(5, 5)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    hidden = torch.randn(3, 5, 40) * 3 + 1
    padded = clipwise(norm, hidden, [40, 17, 29])
    for k, n in enumerate((40, 17, 29)):
        assert torch.allclose(padded[k, :, :n], norm(hidden[k : k + 1, :, :n])[0], atol=1e-5)


def test_gradients_of_the_convolutions_are_a_tenth(speech, monkeypatch):
    gradients = {}
    for scale in (1.0, 0.1):
        monkeypatch.setattr(networks, "FEATURE_GRADIENT", scale)
        net = network("hubert")
        data, drawn = items(net, speech, n=2)
        net(**data.collate(drawn))["loss"].backward()
        gradients[scale] = [
            p.grad.clone() for p in (net.network.feature_extractor.conv_layers[0].conv.weight, net.final_proj.weight)
        ]
    assert torch.allclose(0.1 * gradients[1.0][0], gradients[0.1][0], rtol=1e-4)
    assert torch.equal(gradients[1.0][1], gradients[0.1][1])


def test_the_temperature_falls_with_the_step():
    net = network("wav2vec2")
    for step, wanted in ((0, 2.0), (1, 1.99999), (100_000, 2 * 0.999995**100_000), (10**7, 0.5)):
        net.cool(step)
        assert net.network.quantizer.temperature == pytest.approx(wanted)


# Runs

QUICK = Settings(6, 1e-3, batch_size=2, save_steps=2, warmup_steps=1, schedule="linear", seed=7)


def recipe(model: str, **changes) -> Recipe:
    given = {"clusters": None if model == "wav2vec2" else CLUSTERS, "max_seconds": 0.5, "min_frames": 5, **changes}
    return Recipe(model, TINY, spans=SPANS_OF_TESTS, **given)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}:{name}": value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()
    }


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def runs(speech, tmp_path_factory):
    """One finished run of each model."""
    folder = tmp_path_factory.mktemp("runs")
    return {model: pretrain(speech, folder / model, recipe(model), QUICK, device="cpu") for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(model, at, runs, speech, tmp_path):
    with pytest.raises(Killed):
        pretrain(speech, tmp_path / "run", recipe(model), QUICK, device="cpu", progress=killer(at))
    (tmp_path / "run/step-4").mkdir(exist_ok=True)  # as if the kill had come between a model and its checkpoint
    torch.rand(3), np.random.random(3)
    steps = []
    again = pretrain(
        speech, tmp_path / "run", recipe(model), QUICK, device="cpu", progress=lambda done, *_: steps.append(done)
    )
    assert steps[0] == at - at % 2 + 1  # it went on from the last model
    assert again.losses == runs[model].losses
    assert [m.name for m in again.models] == ["step-0", "step-2", "step-4", "step-6"]
    for name in ("step-0", "step-2", "step-4", "step-6"):
        assert same(weights(tmp_path / "run" / name), weights(runs[model].folder / name))
    assert (tmp_path / "run/losses.csv").read_bytes() == (runs[model].folder / "losses.csv").read_bytes()


@pytest.mark.parametrize("model", MODELS)
def test_every_step_is_a_model_that_extract_takes(model, runs, speech, tmp_path):
    run = runs[model]
    assert not (run.folder / "checkpoints").exists()
    for folder, step in zip(run.models, (0, 2, 4, 6), strict=True):
        store = layertool.extract(str(folder), speech, tmp_path / folder.name, units=("frame",), device="cpu")
        assert store.configuration["model"]["step"] == step
        assert [name for name in store.layers if name.startswith("T")] == ["T0", "T1", "T2"]
    first, last = (layertool.FeatureStore(tmp_path / name).read("frame", "T2") for name in ("step-0", "step-6"))
    assert np.abs(first - last).max() > 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_the_record_of_a_run(model, runs):
    run = runs[model]
    record = json.loads((run.folder / "pretrain.json").read_text())
    assert record["finished"] is True
    assert record["model"] == model
    assert record["mask"] == {"probability": 0.5, "length": 3, "least": 2}
    assert record["max_frames"] == 25
    assert record["settings"]["learning_rate"] == 1e-3
    with open(run.folder / "losses.csv", newline="") as file:
        table = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert (
        table
        == [(loss.step, loss.loss) for loss in run.losses]
        == [(step, loss) for step, loss, *_ in record["losses"]]
    )
    assert [step for step, _ in table] == [2, 4, 6]
    assert all(math.isfinite(loss) for _, loss in table)
    assert (record["targets"] is None) == (model == "wav2vec2") == (run.facts["clustered"] is None)
    assert record["parameters"] == sum(p.numel() for p in network(model).parameters())


def test_a_finished_run_is_returned_as_it_is(runs, speech):
    run = runs["melhubert"]
    before = {
        path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock"
    }
    again = pretrain(speech, run.folder, recipe("melhubert"), QUICK, device="cpu", progress=killer(1))
    assert again == replace(run, was_there=True)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_decided_otherwise(runs, speech, tmp_path):
    run = runs["melhubert"]
    for asked, what in (
        ((recipe("melhubert"), replace(QUICK, seed=8)), "seed"),
        ((recipe("melhubert", clusters=5), QUICK), "clusters"),
        ((recipe("melhubert", max_seconds=0.4), QUICK), "max_frames"),
        ((recipe("hubert"), QUICK), "features"),
        ((recipe("melhubert", statistics="100"), QUICK), "statistics"),
    ):
        with pytest.raises(StoreError, match=rf"trained otherwise \(.*{what}.*--overwrite"):
            pretrain(speech, run.folder, *asked, device="cpu")
    short = replace(QUICK, steps=2)
    pretrain(speech, tmp_path / "run", recipe("melhubert"), QUICK, device="cpu")
    done = pretrain(speech, tmp_path / "run", recipe("melhubert"), short, device="cpu", overwrite=True)
    assert [m.name for m in done.models] == ["step-0", "step-2"]  # those of the longer run are gone


@pytest.mark.parametrize("model", MODELS)
def test_going_on_with_the_weights_of_a_step(model, runs, speech, tmp_path):
    step = runs[model].models[-1]
    done = pretrain(speech, tmp_path / "run", recipe(model), replace(QUICK, steps=0), init=str(step), device="cpu")
    assert same(weights(done.models[0]), weights(step))
    other = "wav2vec2" if model == "hubert" else "hubert"
    with pytest.raises(ModelError):
        reopen(other, str(step), CLUSTERS)
    if model != "wav2vec2":
        torch.manual_seed(0)
        fewer, _ = reopen(model, str(step), 4)
        assert not [n for n, p in fewer.named_parameters() if p.shape[0] == CLUSTERS]


@pytest.mark.parametrize("model", ["melhubert", "hubert"])
def test_stage_2_predicts_clusters_of_a_layer_of_stage_1(model, runs, speech, tmp_path):
    step = runs["melhubert"].models[-1]
    store = layertool.extract(str(step), speech, tmp_path / "stage1", units=("frame",), device="cpu")
    told = []
    done = pretrain(speech, tmp_path / "run", recipe(model), QUICK, (store, "T2"), device="cpu", say=told.append)
    record = json.loads((done.folder / "pretrain.json").read_text())
    assert record["targets"]["features"] == "layer T2"
    assert record["targets"]["store"]["step"] == 6
    assert "clusters are used" in done.facts["clustered"]
    assert done.facts["clustered"] in told
    assert all(math.isfinite(loss.loss) for loss in done.losses)
    with pytest.raises(UsageError, match="every 20 ms do not fit a network with frames every 10 ms"):
        pretrain(speech, tmp_path / "x", recipe("melhubert", frame_ms=10), QUICK, (store, "T2"), device="cpu")
    assert not (tmp_path / "x").exists()


def test_untrained_and_stopped_before_the_first_model(runs, speech, tmp_path):
    done = pretrain(speech, tmp_path / "run", recipe("melhubert"), replace(QUICK, steps=0), device="cpu")
    assert [m.name for m in done.models] == ["step-0"]
    assert done.losses == []
    with pytest.raises(Killed):
        pretrain(speech, tmp_path / "other", recipe("melhubert"), QUICK, device="cpu", progress=killer(1))
    stale = load(
        tmp_path / "other/targets.npz"
    )  # as if the kill had come before the targets of another run were cleared
    save(replace(stale, labels=0 * stale.labels, decided=stale.decided | {"seed": 1}), tmp_path / "other/targets.npz")
    again = pretrain(speech, tmp_path / "other", recipe("melhubert"), QUICK, device="cpu")
    assert again.losses == runs["melhubert"].losses
    with pytest.raises(Killed):
        pretrain(speech, tmp_path / "third", recipe("melhubert"), QUICK, device="cpu", progress=killer(1))
    changed = replace(QUICK, seed=9)  # nothing is lost: the folder is free
    assert len(pretrain(speech, tmp_path / "third", recipe("melhubert"), changed, device="cpu").losses) == 3


@pytest.mark.parametrize("model", MODELS)
def test_losses_fall_on_synthetic_audio(model, speech, tmp_path):
    settings = Settings(40, 3e-3, batch_size=4, save_steps=10, seed=1)
    losses = [loss.loss for loss in pretrain(speech, tmp_path, recipe(model), settings, device="cpu").losses]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0] - 0.02


def test_a_tiny_melhubert_learns_from_real_speech(shared, tmp_path):
    """19 utterances, 150 steps: the mean loss of 50 steps falls from 3.4 to 2.5 nats, and well below that of
    the best guess that hears nothing, the entropy of the clusters (3.8; log 50 is 3.91)."""
    from layertool.corpora import folder

    speech = folder.read(shared / "data/speech/english")
    settings = Settings(150, 2e-3, batch_size=8, save_steps=50, seed=0)
    small = Recipe("melhubert", Sizes(2, 64, 128, 4), clusters=50, max_seconds=2.0, min_frames=60)
    losses = [loss.loss for loss in pretrain(speech, tmp_path, small, settings, device="cpu").losses]
    shares = np.bincount(load(tmp_path / "targets.npz").labels) / len(load(tmp_path / "targets.npz").labels)
    assert losses[-1] < losses[0] - 0.6
    assert losses[-1] < -(shares * np.log(shares)).sum() - 0.9


def test_weights_that_are_no_numbers_are_not_written(speech, tmp_path):
    with pytest.raises(Diverged, match="lower the learning rate"):
        pretrain(
            speech, tmp_path, recipe("melhubert"), replace(QUICK, learning_rate=1e30, warmup_steps=0), device="cpu"
        )
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-0"]


@pytest.mark.parametrize("model", MODELS)
def test_half_precision(model, speech, runs, tmp_path):
    half = pretrain(speech, tmp_path, recipe(model), replace(QUICK, precision="bfloat16"), device="cpu").losses
    assert [loss.loss for loss in half] == pytest.approx([loss.loss for loss in runs[model].losses], rel=0.05)
    assert half != runs[model].losses


# What cannot be


def test_log_steps_divide_the_steps_between_models():
    assert [Settings(1, save_steps=n).log_steps for n in (1, 7, 50, 60, 101, 5000)] == [1, 7, 50, 30, 1, 50]


def test_too_short_utterances(speech, tmp_path):
    with pytest.raises(
        CorpusError, match=r"all 5 utterances of .* the longest has 49 frames of 20 ms, and 321 are asked for"
    ):
        pretrain(speech, tmp_path / "run", replace(recipe("melhubert"), min_frames=None), QUICK, device="cpu")
    assert not (tmp_path / "run").exists()
    assert [row["utterance"] for row in kept(speech, melhubert.GEOMETRIES[20], 30)] == ["u1", "u2"]
    assert [row["utterance"] for row in kept(speech, melhubert.GEOMETRIES[20], 29)] == ["u1", "u2", "u3"]


def test_more_clusters_than_frames(speech, tmp_path):
    with pytest.raises(UsageError, match="clusters need at least as many frames"):
        pretrain(speech, tmp_path / "run", replace(recipe("melhubert"), clusters=1000), QUICK, device="cpu")
    assert not (tmp_path / "run").exists()


def test_audio_that_is_not_finite(tmp_path):
    broken = models.corpus(tmp_path, [models.speech_like(9000, k) for k in range(3)])
    waveform = models.speech_like(9000, 1)
    waveform[5] = np.inf
    soundfile.write(broken.utterances["audio"][1], waveform, 16000, subtype="FLOAT")
    for model in ("melhubert", "wav2vec2"):
        with pytest.raises(AudioError, match="not finite"):
            pretrain(broken, tmp_path / model, recipe(model), QUICK, device="cpu")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": "whisper"}, "no model to pre-train"),
        ({"frame_ms": 30}, "no frames of 30 ms"),
        ({"model": "hubert", "frame_ms": 10}, "hubert has no frames of 10 ms"),
        ({"spans": Spans(0, 5)}, "cannot be drawn"),
        ({"spans": Spans(0.5, 0)}, "cannot be drawn"),
        ({"spans": Spans(0.5, 5, 0)}, "cannot be drawn"),
        ({"max_seconds": 0.01}, "too short"),
        ({"clusters": 1}, "nothing to predict"),
    ],
)
def test_recipes_that_cannot_be(changes, what):
    with pytest.raises(UsageError, match=what):
        Recipe(**changes)


def test_sizes_that_cannot_be():
    with pytest.raises(UsageError, match="blocks 0 cannot be"):
        Sizes(0, 64, 64, 4)
    with pytest.raises(UsageError, match="among 5 heads"):
        Sizes(1, 64, 64, 5)
    with pytest.raises(UsageError, match="among 16 groups"):
        Sizes(1, 40, 64, 4)


def test_targets_for_wav2vec2(speech, tmp_path):
    with pytest.raises(UsageError, match="makes its targets itself"):
        pretrain(speech, tmp_path / "run", recipe("wav2vec2"), QUICK, ("store", "T1"), device="cpu")
