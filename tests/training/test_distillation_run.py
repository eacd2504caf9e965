"""Runs of distillation: their series of students, and going on after a stop."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import melhuberts
import models
import numpy as np
import pytest
import torch
from kills import Killed, killer
from safetensors.torch import load_file

import layertool
from layertool.errors import CorpusError, ModelError, StoreError, UsageError
from layertool.models import melhubert
from layertool.training.distillation import Distillation
from layertool.training.distillation_run import SETTINGS, Options, Student, distill
from layertool.training.encoders import open_encoder

pytest.importorskip("accelerate")

pytestmark = pytest.mark.slow
LENGTHS = [7000, 16000, 12345, 9600, 5000]
QUICK = Options(
    steps=6, batch_size=2, save_steps=2, learning_rate=1e-3, seed=3, blocks=2, teacher_layers=(1, 3), max_samples=8000
)
TEACHERS = ("melhubert", "hubert-base", "wav2vec2-large")


def make_teacher(name: str, folder):
    if name != "melhubert":
        return models.save(name, folder / name, seed=3)
    torch.manual_seed(3)
    config = melhubert.Config(**{**melhuberts.SMALL, "encoder_layers": 3})
    melhubert.save(melhubert.MelHuBERT(config), config, folder / name)
    return folder / name


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return models.corpus(tmp_path_factory.mktemp("speech"), [models.speech_like(n, k) for k, n in enumerate(LENGTHS)])


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return {name: make_teacher(name, folder) for name in TEACHERS}


@pytest.fixture(scope="module")
def runs(teachers, speech, tmp_path_factory):
    """Of each teacher a run that was not stopped."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: distill(str(teachers[name]), speech, folder / name, QUICK, device="cpu") for name in TEACHERS}


def weights(model):
    return load_file(model / "model.safetensors")


def same(left, right) -> bool:
    left, right = weights(left), weights(right)
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def test_settings_of_the_papers():
    usual = Options().settings(SETTINGS)
    assert (usual.steps, usual.batch_size, usual.learning_rate, usual.schedule) == (200_000, 24, 2e-4, "linear")
    assert (usual.betas, usual.epsilon, usual.weight_decay, usual.max_gradient_norm) == ((0.9, 0.98), 1e-6, 1e-6, 5.0)
    given = Options()
    assert (given.blocks, given.teacher_layers, given.max_samples) == (2, (4, 12), 250_000)
    assert (given.pad, given.teacher_init) == ("mask", True)


def test_the_warm_up_is_7_percent(runs):
    assert runs["melhubert"].facts["settings"]["warmup_steps"] == round(0.07 * 6)


@pytest.mark.parametrize("name", TEACHERS)
def test_every_step_is_a_model_without_heads(name, runs, speech, tmp_path):
    run = runs[name]
    assert [model.name for model in run.models] == ["step-0", "step-2", "step-4", "step-6"]
    assert [loss.step for loss in run.losses] == [2, 4, 6]
    assert not [key for key in weights(run.models[-1]) if "output_layer" in key or "final_proj" in key]
    assert sum(value.numel() for value in weights(run.models[-1]).values()) == run.facts["parameters"]
    assert not same(run.models[0], run.models[1])
    store = layertool.extract(str(run.models[2]), speech, tmp_path / "store", units=("utterance",), device="cpu")
    assert [layer for layer in store.layers if layer.startswith("T")] == ["T0", "T1", "T2"]


@pytest.mark.parametrize("name", TEACHERS)
def test_the_student_hears_what_its_teacher_hears(name, runs, teachers, speech):
    teacher, student = open_encoder(str(teachers[name])), open_encoder(str(runs[name].models[-1]))
    row = speech.utterances.to_dict("records")[2]
    assert np.array_equal(teacher.hear(row), student.hear(row))
    if teacher.model.normalises:
        assert abs(teacher.hear(row).mean()) < 1e-6
        assert teacher.hear(row).std() == pytest.approx(1, abs=1e-3)
    assert student.model.identity["step"] == 6
    assert student.model.normalises == {"melhubert": None, "hubert-base": False, "wav2vec2-large": True}[name]


@pytest.mark.parametrize(("name", "stopped_at"), [("melhubert", 1), ("melhubert", 5), ("wav2vec2-large", 3)])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(name, stopped_at, runs, teachers, speech, tmp_path):
    def again(**more):
        return distill(str(teachers[name]), speech, tmp_path / "run", QUICK, device="cpu", **more)

    with pytest.raises(Killed):
        again(progress=killer(stopped_at))
    (tmp_path / "run/step-5").mkdir()  # of a step that is to be done again
    (tmp_path / "run/.step-6.part").mkdir()
    done = []
    run = again(progress=lambda step, *_: done.append(step))
    assert done[0] == stopped_at  # after the last whole checkpoint
    assert run.losses == runs[name].losses
    assert len(run.models) == len(runs[name].models)
    assert all(same(one, other) for one, other in zip(run.models, runs[name].models, strict=True))
    assert again().was_there
    assert not list((tmp_path / "run").glob("checkpoints"))
    assert not list((tmp_path / "run").glob(".step*"))


def test_students_begin_with_the_teacher_or_anew(runs, teachers, speech, tmp_path):
    teacher = weights(teachers["hubert-base"])
    anew = distill(
        str(teachers["hubert-base"]), speech, tmp_path / "run", replace(QUICK, teacher_init=False, steps=1),
        device="cpu",
    )  # fmt: skip
    for run, alike in ((runs["hubert-base"], True), (anew, False)):
        student = weights(run.models[0])
        for name in ("encoder.layers.1.attention.q_proj.weight", "feature_extractor.conv_layers.3.conv.weight"):
            assert torch.equal(student[name], teacher[name]) is alike
        assert not torch.equal(student["encoder.layer_norm.weight"], teacher["encoder.layer_norm.weight"])


def test_losses_are_written_down(runs):
    run = runs["melhubert"]
    lines = list(csv.reader((run.folder / "losses.csv").open()))
    assert [(int(step), float(loss)) for step, loss, *_ in lines[1:]] == [(loss.step, loss.loss) for loss in run.losses]
    record = json.loads((run.folder / "distill.json").read_text())
    assert record["teacher"]["statistics"] == "960"
    assert record["recipe"]["teacher_layers"] == [1, 3]
    assert record["finished"] is True


def test_padded_frames_count_only_when_asked(teachers, speech, tmp_path, runs):
    counted = distill(str(teachers["melhubert"]), speech, tmp_path / "run", replace(QUICK, pad="count"), device="cpu")
    assert counted.losses != runs["melhubert"].losses


@pytest.mark.parametrize("name", ["melhubert", "wav2vec2-large"])
def test_crops_are_stretches_of_utterances(name, teachers, speech):
    opened = open_encoder(str(teachers[name]))
    rows = speech.utterances.to_dict("records")
    student = Distillation(opened.encoder, opened.encoder, (1, 2))
    crops = Student(student, opened, speech, replace(QUICK, max_samples=6400))
    longest = 20 if name == "melhubert" else 6400
    begun = set()
    for k in range(12):
        whole, crop = opened.hear(rows[1]), crops.example(1, np.random.default_rng(k))["input"]
        assert len(crop) == longest
        places = [at for at in range(len(whole) - longest + 1) if np.array_equal(whole[at : at + longest], crop)]
        assert len(places) == 1
        begun.add(places[0])
    assert len(begun) > 5
    assert len(crops.example(4, np.random.default_rng(0))["input"]) == len(opened.hear(rows[4])[:longest])


def test_losses_fall_on_synthetic_audio(teachers, speech, tmp_path):
    how = replace(QUICK, steps=40, batch_size=3, save_steps=10, learning_rate=3e-3, seed=1)
    for name in ("melhubert", "hubert-base"):
        losses = [loss.loss for loss in distill(str(teachers[name]), speech, tmp_path / name, how, device="cpu").losses]
        assert losses[-1] < losses[0] - 0.2


def test_the_loss_falls_on_real_speech(shared, tmp_path):
    """19 utterances: from 1.07 to 0.63, from a student that begins anew."""
    from layertool.corpora import folder

    speech = folder.read(shared / "data/speech/english")
    torch.manual_seed(0)
    config = melhubert.Config(
        feat_emb_dim=80, encoder_layers=4, encoder_embed_dim=64, encoder_ffn_embed_dim=128, encoder_attention_heads=4
    )
    melhubert.save(melhubert.MelHuBERT(config), config, tmp_path / "teacher")
    sizes = {"blocks": 2, "teacher_layers": (2, 4), "teacher_init": False, "max_samples": 32_000}
    how = Options(steps=120, batch_size=8, save_steps=30, learning_rate=2e-3, seed=0, **sizes)
    losses = [
        loss.loss for loss in distill(str(tmp_path / "teacher"), speech, tmp_path / "run", how, device="cpu").losses
    ]
    assert losses[-1] < losses[0] - 0.3


def test_what_cannot_be(teachers, speech, tmp_path):
    teacher = str(teachers["hubert-base"])

    def refused(error, match, options=QUICK, corpus=speech, model=teacher, out=tmp_path / "run", **more):
        with pytest.raises(error, match=match):
            distill(model, corpus, out, options, device="cpu", **more)

    refused(UsageError, "choose from 1 to 3", replace(QUICK, blocks=4))
    refused(UsageError, "no layer 4 to predict", replace(QUICK, teacher_layers=(2, 4)))
    refused(UsageError, "is for MelHuBERT", replace(QUICK, statistics="360"))
    refused(ModelError, "whose encoder is not trained here", model=str(models.whisper(tmp_path / "whisper")))
    refused(ModelError, "can be no teacher", model=str(models.save("wavlm-base", tmp_path / "wavlm")))
    assert not (tmp_path / "run").exists()
    short = models.corpus(tmp_path / "short", [models.speech_like(300, k) for k in range(2)])
    refused(CorpusError, "too short for a frame", corpus=short)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    refused(StoreError, "holds other things", out=tmp_path / "other")


def test_recipes_that_cannot_be():
    with pytest.raises(UsageError, match="pad"):
        Options(pad="drop")
    with pytest.raises(UsageError, match="1600 or more"):
        Options(max_samples=10)


def test_short_utterances_are_left_out_and_told(teachers, tmp_path):
    mixed = models.corpus(tmp_path / "mixed", [models.speech_like(n, k) for k, n in enumerate((9000, 300, 8000))])
    told = []
    run = distill(
        str(teachers["hubert-base"]),
        mixed,
        tmp_path / "run",
        replace(QUICK, steps=1),
        device="cpu",
        say=told.append,
    )
    assert (run.facts["utterances"], run.facts["left_out"]) == (2, 1)
    assert told[0] == "1 of 3 utterances are left out: too short for a frame"


def test_another_recipe_needs_another_folder(runs, teachers, speech):
    with pytest.raises(StoreError, match="trained otherwise"):
        distill(str(teachers["melhubert"]), speech, runs["melhubert"].folder, replace(QUICK, blocks=1), device="cpu")
