"""layertool pretrain as a person types it."""

from __future__ import annotations

import json
import sys

import commands
import models
import pytest
from commands import succeeds

from layertool.training import pretraining
from layertool.training.pretraining_data import Spans
from layertool.training.pretraining_networks import Sizes
from layertool.training.pretraining_recipes import MODELS, SETTINGS, Recipe

pytest.importorskip("accelerate")

pytestmark = pytest.mark.slow
TINY = ("--blocks", "1", "--width", "32", "--ffn", "48", "--heads", "4", "--device", "cpu")
QUICK = (*TINY, "--steps", "4", "--save-steps", "2", "--batch-size", "2", "--max-seconds", "0.5", "--min-frames", "10", "--learning-rate", "1e-3")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("corpus")
    waveforms = [models.speech_like(n, k) for k, n in enumerate([7000, 16000, 12345, 2000])]
    return models.corpus(place, waveforms).write(place)


def refused(*arguments) -> str:
    return commands.refused("pretrain", *arguments)


def asked(monkeypatch, *arguments) -> tuple:
    """What reaches the function."""
    return commands.reaches(monkeypatch, pretraining, "pretrain", "pretrain", *arguments)


def test_every_option_reaches_the_function(folder, tmp_path, monkeypatch):
    _, out, recipe, settings, store, init, options = asked(
        monkeypatch, folder, "-o", tmp_path / "o", "--size", "small", "--heads", "10", "--frame-ms", "10", "--clusters", "33",
        "--cluster-frames", "444", "--mask-prob", "0.6", "--mask-length", "7", "--min-masks", "1", "--max-seconds", "3.5", "--min-frames", "9",
        "--statistics", "360", "--steps", "11", "--save-steps", "3", "--batch-size", "2", "--accumulation", "5", "--learning-rate", "2e-3",
        "--warmup-steps", "4", "--schedule", "cosine", "--seed", "6", "--device", "cpu", "--dtype", "bfloat16", "--overwrite", "--workers", "3", "--bucket-steps", "2", "--log", "tensorboard",
    )  # fmt: skip
    assert recipe == Recipe("melhubert", Sizes(3, 640, 2048, 10), 10, 33, Spans(0.6, 7, 1), 3.5, 9, "360", 444)
    assert (settings.steps, settings.save_steps, settings.batch_size, settings.accumulation) == (11, 3, 2, 5)
    assert (settings.learning_rate, settings.warmup_steps, settings.schedule, settings.seed) == (2e-3, 4, "cosine", 6)
    assert (settings.precision, settings.betas, settings.max_gradient_norm) == ("bfloat16", (0.9, 0.999), 10.0)
    assert settings.bucket_steps == 2
    assert (out, store, init) == (tmp_path / "o", None, None)
    assert [options[name] for name in ("device", "overwrite", "workers", "log")] == ["cpu", True, 3, ("tensorboard",)]


@pytest.mark.parametrize("model", MODELS)
def test_without_options_the_papers_recipe(model, folder, tmp_path, monkeypatch):
    _, _, recipe, settings, *_ = asked(monkeypatch, folder, "-o", tmp_path / "o", "--model", model)
    assert recipe == Recipe(model)
    assert settings == SETTINGS[model]


@pytest.mark.parametrize(("model", "warmup"), [("melhubert", 0), ("hubert", 80), ("wav2vec2", 80)])
def test_warm_up_is_a_share_of_the_steps(model, warmup, folder, tmp_path, monkeypatch):
    settings = asked(monkeypatch, folder, "-o", tmp_path / "o", "--model", model, "--steps", "1000")[3]
    assert (settings.steps, settings.warmup_steps) == (1000, warmup)
    assert (
        asked(monkeypatch, folder, "-o", tmp_path / "o", "--steps", "1000", "--warmup-steps", "7")[3].warmup_steps == 7
    )


def test_the_help_says_the_defaults():
    text = " ".join(succeeds("pretrain", "-h").output.split())
    for said in ("421000", "400000", "1e-4", "5e-4", "8 % of the steps", "512; hubert: 504", "0.7; hubert: 0.8, wav2vec2: 0.65",
                 "15; hubert, wav2vec2: 15.625", "321; hubert, wav2vec2: 99", "12; hubert, wav2vec2: 6", "1337", "500000"):  # fmt: skip
        assert said in text


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--model", "wav2vec2", "--clusters", "5"), "leave --clusters out"),
        (("--model", "wav2vec2", "--targets", "s:T1"), "leave --targets out"),
        (("--model", "hubert", "--frame-ms", "10"), "--frame-ms is for melhubert"),
        (("--conv-width", "8"), "--conv-width is for networks that read waveforms"),
        (("--init", "x", "--width", "32"), "leave --width out"),
        (("--init", "nowhere"), "nowhere"),
        (("--targets", "T2"), "'T2' are no targets: type mel, or STORE:LAYER"),
        (("--targets", "nowhere:T2"), "nowhere is not a feature store"),
        (("--width", "100"), "a width of 100 cannot be shared among 12 heads"),
        (("--width", "24", "--heads", "4"), "among 16 groups"),
        (("--statistics", "50"), "'50' names no statistics"),
        ((), "the longest has 49 frames of 20 ms, and 321 are asked for; give fewer with --min-frames"),
        (("--min-frames", "5", "--clusters", "9999"), "9999 clusters need at least as many frames"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--mask-prob", "0"), "with probability 0 cannot be drawn"),
        (("--steps", "-1"), "--steps"),
        (("--size", "large"), "--size"),
    ],
)
def test_what_is_refused(arguments, what, folder, tmp_path):
    small = () if {"--width", "--init"} & set(arguments) else TINY[:8]
    assert what in refused(folder, "-o", tmp_path / "o", *small, *arguments)
    assert not (tmp_path / "o").exists()


def test_other_things_that_are_wrong(folder, tmp_path):
    assert "make a corpus with" in refused(tmp_path / "nowhere", "-o", tmp_path / "o")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").touch()
    assert "holds other things" in refused(folder, "-o", tmp_path / "full", *QUICK, "--clusters", "5")


def test_without_accelerate(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert "pre-training needs the package 'accelerate': pip install 'layertool[train]'" in refused(
        folder, "-o", tmp_path / "o"
    )


def test_two_stages_and_a_series(folder, tmp_path):
    done = succeeds("pretrain", folder, "-o", tmp_path / "run", *QUICK, "--clusters", "7")
    assert "1 of 4 utterances are left out: shorter than 10 frames (--min-frames)" in done.stderr
    assert "of 7 clusters are used" in done.stderr
    assert f"layertool extract '{tmp_path}/run/step-*'" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tmp_path}/run: 3 models"
    assert "utterances  3 (1 too short)" in done.stdout
    assert [line.split()[0] for line in lines if line.strip()][-2:] == ["2", "4"]
    again = succeeds("pretrain", folder, "-o", tmp_path / "run", *QUICK, "--clusters", "7")
    assert "(the run was finished already)" in again.stdout
    assert "left out" not in again.stderr
    other = refused(folder, "-o", tmp_path / "run", *QUICK, "--clusters", "8")
    assert "targets.clusters = 7 (asked: 8)" in other
    succeeds(
        "extract",
        f"{tmp_path}/run/step-*",
        folder,
        "-o",
        tmp_path / "series",
        "--units",
        "utterance",
        "--device",
        "cpu",
        "-q",
    )
    steps = [
        json.loads((tmp_path / f"series/step-{n}/store.json").read_text())["configuration"]["model"]["step"]
        for n in (0, 2, 4)
    ]
    assert steps == [0, 2, 4]
    succeeds(
        "extract",
        tmp_path / "run/step-4",
        folder,
        "-o",
        tmp_path / "stage1",
        "--units",
        "frame",
        "--device",
        "cpu",
        "-q",
    )
    succeeds(
        "pretrain",
        folder,
        "-o",
        tmp_path / "run2",
        *QUICK,
        "--clusters",
        "7",
        "--targets",
        f"{tmp_path}/stage1:T1",
        "-q",
    )
    record = json.loads((tmp_path / "run2/pretrain.json").read_text())
    assert (record["targets"]["features"], record["targets"]["store"]["step"]) == ("layer T1", 4)
    missing = refused(folder, "-o", tmp_path / "run3", *QUICK, "--clusters", "7", "--targets", f"{tmp_path}/stage1:T9")
    assert "has no layer 'T9' at unit frame" in missing
    on = succeeds(
        "pretrain",
        folder,
        "-o",
        tmp_path / "on",
        *QUICK[8:],
        "--clusters",
        "7",
        "--init",
        tmp_path / "run/step-4",
        "-q",
    )
    assert on.stderr == ""


def test_the_other_networks(folder, tmp_path):
    for model, more in (("hubert", ("--clusters", "7")), ("wav2vec2", ())):
        done = succeeds(
            "pretrain", folder, "-o", tmp_path / model, "--model", model, *QUICK, "--conv-width", "16", *more
        )
        assert ("  targets  " in done.stdout) == (model == "hubert")
        succeeds("extract", f"{tmp_path}/{model}/step-*", folder, "-o", tmp_path / f"{model}-series", "--units", "utterance", "--device", "cpu", "-q")  # fmt: skip
