"""`layertool compress distill` as a person runs it; the command alone, wherever it is registered."""

from __future__ import annotations

import json

import models
import pytest
from click.testing import CliRunner

from layertool.commands.training import distill
from layertool.errors import LayertoolError, UsageError

pytest.importorskip("accelerate")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    speech = models.corpus(folder / "audio", [models.speech_like(n, k) for k, n in enumerate((9000, 300, 8000))])
    speech.write(folder / "corpus")
    models.save("hubert-base", folder / "teacher")
    return folder


def run(place, *options, out="out"):
    usual = [place / "teacher", place / "corpus", "-o", place / out, "--steps", 4, "--save-steps", 2, "--device", "cpu"]
    return CliRunner().invoke(distill, [str(word) for word in (*usual, *options)])


def test_a_run(place):
    result = run(place, "--teacher-layers", "1,3", "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert "out: 3 models" in result.output
    assert "utterances  2 (1 too short)" in result.output
    assert "layertool extract" in result.stderr
    assert "1 of 3 utterances are left out" in result.stderr
    again = run(place, "--teacher-layers", "1,3", "--batch-size", 2, "-q")
    assert "the run was finished already" in again.output
    assert again.stderr == ""
    record = json.loads((place / "out/distill.json").read_text())
    assert record["settings"]["warmup_steps"] == 0  # 7 % of four
    assert record["recipe"] == {
        "blocks": 2, "teacher_layers": [1, 3], "teacher_init": True, "pad": "mask", "max_samples": 250_000,
    }  # fmt: skip


def test_options_reach_the_run(place):
    options = ("--blocks", 1, "--teacher-layers", 2, "--no-teacher-init", "--pad", "count", "--max-samples", 4000, "--seed", 5,
               "--learning-rate", 1e-3, "--warmup-steps", 2, "--schedule", "constant", "--batch-size", 1)  # fmt: skip
    assert run(place, *options, out="other").exit_code == 0
    record = json.loads((place / "other/distill.json").read_text())
    assert record["recipe"] == {
        "blocks": 1, "teacher_layers": [2], "teacher_init": False, "pad": "count", "max_samples": 4000,
    }  # fmt: skip
    settings = record["settings"]
    assert (settings["seed"], settings["learning_rate"], settings["warmup_steps"], settings["schedule"]) == (
        5,
        1e-3,
        2,
        "constant",
    )
    assert (settings["batch_size"], settings["steps"], settings["save_steps"], settings["betas"]) == (
        1,
        4,
        2,
        [0.9, 0.98],
    )


@pytest.mark.parametrize(
    ("options", "what"),
    [(["--teacher-layers", "last"], "--teacher-layers takes whole numbers"), (["--teacher-layers", "4,12"], "no layer 4"),
     (["--teacher-layers", "1,1,9"], "no layer 9"),
     (["--blocks", "4", "--teacher-layers", "1"], "choose from 1 to 3"), (["--statistics", "100"], "--statistics is for MelHuBERT")],
)  # fmt: skip
def test_wrong_requests(options, what, place):
    result = run(place, *options, out="wrong")
    assert isinstance(result.exception, UsageError)
    assert what in str(result.exception)
    assert not (place / "wrong").exists()


def test_what_click_refuses(place):
    for options in (["--steps", "0"], ["--pad", "drop"], ["--layers", "0"], ["--max-samples", "5"]):
        assert run(place, *options, out="wrong").exit_code == 2


def test_a_folder_of_something_else(place):
    result = run(place, "--teacher-layers", "1", out="corpus")
    assert isinstance(result.exception, LayertoolError)
    assert "holds other things" in str(result.exception)
