"""`layertool finetune ctc` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import models
import pandas as pd
import pytest
import tones
from commands import run, succeeds

pytest.importorskip("accelerate")
pytest.importorskip("jiwer")

pytestmark = pytest.mark.slow
SPLITS = ["train"] * 4 + ["dev"] * 2 + ["test"] * 2
QUICK = ("--steps", 4, "--save-steps", 2, "--batch-size", 2, "--device", "cpu")
FROZEN = ("--tokens", "phone", "--freeze", "--weighted-sum")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A corpus, and two checkpoints of a training."""
    folder = tmp_path_factory.mktemp("place")
    tones.corpus(folder / "audio", [*tones.texts(6), "abc de", "cab"], SPLITS).write(folder / "corpus")
    for step in (10, 20):
        models.save("wav2vec2-base", folder / f"run/step-{step}", seed=step)
        (folder / f"run/step-{step}/source.json").write_text(json.dumps({"step": step}))
    return folder


def ctc(place, *options, model="run/step-10", out="out"):
    return ("finetune", "ctc", place / model, place / "corpus", "-o", place / out, *QUICK, *options)


def test_standard_fine_tuning(place):
    result = succeeds(*ctc(place, out="standard"))
    assert "dev word error rate" in result.output
    assert "standard (all layers from the checkpoint)" in result.output
    assert "test word" not in result.output
    assert "best on dev at step" in result.stderr
    assert (place / "standard/model.safetensors").exists()
    again = succeeds(*ctc(place, out="standard"))
    assert "it was finished already" in again.stderr
    assert again.stdout == result.stdout
    quiet = succeeds(*ctc(place, "-q", "--test-where", "split=test", out="standard"))
    assert quiet.stderr == ""
    assert "test word error rate" in quiet.output


def test_a_sweep_in_one_table(place):
    result = succeeds(
        *ctc(place, "--sweep-reinit", "--test-where", "split=test", "--results", place / "sweep.csv", out="sweep")
    )
    table = pd.read_csv(place / "sweep.csv")
    test = table[(table["target"] == "test") & table["variant"].str.startswith("word error rate")]
    assert len(test) == 3  # standard, modified, and the difference
    assert set(table["analysis"]) == {"ctc"}
    assert "top 3 layers re-initialised" in result.output
    assert "chosen on dev" in result.output
    assert sorted(path.name for path in (place / "sweep").iterdir()) == [f"reinit-{n}" for n in range(4)]
    listed = succeeds(*ctc(place, "--reinit-top", "0,2", out="sweep"))
    assert "top 2 layers" in listed.output
    assert "top 1 layers" not in listed.output


def test_frozen_layers_of_a_series(place):
    result = succeeds(
        *ctc(place, *FROZEN, "--results", place / "per.csv", "--plot", place / "per.png", model="run/step-*", out="per")
    )
    assert "phone error rate" in result.output
    assert "learned weight of each layer in the sum" in result.output
    assert "computed once" in result.stderr
    table = pd.read_csv(place / "per.csv")
    weights = table[table["variant"] == "weight of the layer in the sum"]
    assert list(weights.groupby("step")["value"].sum().round(6)) == [1, 1]
    assert list(weights.groupby("step")["layer"].size()) == [4, 4]
    assert len(table) == 2 + 8
    assert (place / "per.png").stat().st_size > 5000
    assert sorted(path.name for path in (place / "per").iterdir()) == ["step-10", "step-20"]
    drawn = succeeds("compare", place / "per.csv", "--x", "step", "--plot", place / "again.png")
    assert drawn.exit_code == 0


def test_one_frozen_model(place):
    result = succeeds(*ctc(place, *FROZEN, "--json", "--plot", place / "one.svg", out="one"))
    rows = json.loads(result.stdout)
    assert len(rows) == 5
    assert (place / "one.svg").exists()
    assert (place / "one/head.safetensors").exists()


def test_models_of_one_name(place):
    for name in ("a", "b"):
        models.save("wav2vec2-base", place / f"{name}/model")
    result = succeeds(
        "finetune", "ctc", place / "a/model", place / "b/model", place / "corpus", "-o", place / "ab", *QUICK
    )
    assert sorted(path.name for path in (place / "ab").iterdir()) == ["a-model", "b-model"]
    assert result.output.count("standard (all layers") == 2


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--freeze"], "--freeze goes with --weighted-sum"),
        (["--weighted-sum"], "--weighted-sum goes with --freeze"),
        ([*FROZEN, "--reinit-top", "1"], "leave --reinit-top out"),
        ([*FROZEN, "--augment"], "leave --augment out"),
        (["--normalise-layers"], "--normalise-layers is for frozen layers"),
        (["--plot", "x.png"], "--plot draws the weights of frozen layers"),
        (["--tokens", "phone", "--case", "lower"], "--case is for characters"),
        (["--reinit-top", "many"], "--reinit-top takes whole numbers"),
        (["--reinit-top", "4"], "choose from 0 to 3"),
        (["--reinit-top", "0", "--sweep-reinit"], "name some with --reinit-top"),
        (["--dev-where", "split=x"], "there is no dev part"),
        (["--train-where", "split"], "is no condition"),
        (["--results", "rows.txt"], "has no known format"),
        (["--statistics", "360"], "--statistics is for MelHuBERT"),
    ],
)
def test_wrong_requests(options, what, place):
    result = run(*ctc(place, *options, out="wrong"))
    assert result.exit_code == 2
    assert what in result.output
    assert not (place / "wrong").exists()


def test_what_is_not_there(place):
    assert run("finetune", "ctc", place / "corpus", "-o", place / "x").exit_code == 2
    missing = run("finetune", "ctc", place / "none", place / "corpus", "-o", place / "x", *QUICK)
    assert missing.exit_code == 1
    assert "does not exist" in missing.output
    no_pattern = run("finetune", "ctc", str(place / "none-*"), place / "corpus", "-o", place / "x", *QUICK)
    assert "no checkpoint is called" in no_pattern.output
    both = run(*ctc(place, "--test-where", "split!=train", out="x"))
    assert both.exit_code == 1
    assert "is in the dev part and in the test part" in both.output


def test_without_the_packages_of_training(place, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "jiwer" else find(name, *a))
    result = run(*ctc(place, out="x"))
    assert "pip install 'layertool[train]'" in result.output
