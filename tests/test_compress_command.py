"""layertool compress as a person types it."""

from __future__ import annotations

import json
from itertools import pairwise

import commands
import models
import pytest
import torch
from commands import succeeds

from layertool.training import compression_run, plans
from layertool.training.pretraining_data import Spans
from layertool.training.pretraining_networks import Sizes, build
from layertool.training.pretraining_recipes import Recipe
from layertool.training.schedules import Trigger

pytest.importorskip("accelerate")

pytestmark = pytest.mark.slow
QUICK = ("--device", "cpu", "--batch-size", "2", "--max-seconds", "0.5", "--min-frames", "5", "--learning-rate", "1e-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("corpus")
    return models.corpus(place, [models.speech_like(n, k) for k, n in enumerate([7000, 9600, 8000, 5000])]).write(place)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """By the names of the three; MelHuBERT tells 6 clusters."""
    place = tmp_path_factory.mktemp("models")
    for name in ("melhubert", "hubert", "wav2vec2"):
        torch.manual_seed(0)
        build(name, Sizes(2, 32, 300, 4, 16), 6).save(place / name, 3)
    return place


def refused(*arguments) -> str:
    return commands.refused("compress", *arguments)


def asked(monkeypatch, *arguments) -> tuple:
    """What reaches the function."""
    return commands.reaches(monkeypatch, compression_run, "compress", "compress", *arguments)


def test_every_option_reaches_the_function(folder, model, tmp_path, monkeypatch):
    name, corpus, out, pruning, recipe, settings, store, options = asked(
        monkeypatch, "heads", model / "melhubert", folder, "-o", tmp_path / "o", "--at", "3,5", "--steps", "9", "--amount", "1", "--score", "data",
        "--by", "whole", "--learning-rate", "2e-3", "--batch-size", "3", "--save-steps", "4", "--clusters", "33", "--cluster-frames", "444",
        "--mask-prob", "0.6", "--mask-length", "7", "--min-masks", "1", "--max-seconds", "3.5", "--min-frames", "9", "--statistics", "360",
        "--accumulation", "5", "--seed", "6", "--device", "cpu", "--dtype", "bfloat16", "--overwrite",
    )  # fmt: skip
    assert (str(name), out, store) == (str(model / "melhubert"), tmp_path / "o", None)
    assert (options["device"], options["overwrite"]) == ("cpu", True)
    assert len(corpus.utterances) == 4
    assert (pruning.kind, pruning.plan.steps, pruning.plan.amounts) == ("heads", (3, 5), (1, 1))
    assert (pruning.total_steps, pruning.trains, pruning.score, pruning.by) == (9, True, "data", "whole")
    usual = Recipe(
        "melhubert",
        clusters=33,
        spans=Spans(0.6, 7, 1),
        max_seconds=3.5,
        min_frames=9,
        statistics="360",
        max_fitted=444,
    )
    assert recipe == usual
    assert (settings.learning_rate, settings.batch_size, settings.save_steps) == (2e-3, 3, 4)
    assert (settings.accumulation, settings.seed, settings.precision) == (5, 6, "bfloat16")


@pytest.mark.parametrize("kind", ["heads", "rows", "weights"])
@pytest.mark.parametrize("name", ["melhubert", "hubert", "wav2vec2"])
def test_without_options_the_papers(kind, name, folder, model, tmp_path, monkeypatch):
    _, _, _, pruning, recipe, settings, *_ = asked(monkeypatch, kind, model / name, folder, "-o", tmp_path / "o")
    about = plans.look(str(model / name))
    plan, total = plans.usual_plan(kind, about)
    assert (vars(pruning.plan), pruning.total_steps) == (vars(plan), total)
    assert (recipe, settings) == (
        Recipe(name, clusters=None if name == "wav2vec2" else 6),
        plans.usual_settings(kind, name),
    )


def test_when_weights_are_pruned(folder, model, tmp_path, monkeypatch):
    def plan(*arguments):
        pruning = asked(monkeypatch, "weights", model / "wav2vec2", folder, "-o", tmp_path / "o", *arguments)[3]
        return pruning.plan, pruning.total_steps

    options = "--first-pruning 10 --period 20 --lag 5 --improvement 0.1 --decay 0.5 --seeding original --sparsities 0.1,0.4".split()
    assert plan(*options) == (Trigger((0.1, 0.4), 10, 20, 5, 0.5, 0.1, "original"), 1_000_000)
    assert plan("--sparsities", "0.3")[0] == Trigger((0.3,))
    fixed, total = plan("--at", "5,10", "--steps", "12")
    assert (fixed.steps, fixed.amounts, total) == ((5, 10), (0.2, 0.3), 12)
    fixed, total = plan("--at", "5,10", "--sparsities", "0.5,0.6", "--steps", "12")
    assert fixed.amounts == (0.5, 0.6)


def test_the_help_says_the_defaults():
    text = {kind: " ".join(succeeds("compress", kind, "-h").output.split()) for kind in ("heads", "rows", "weights")}
    for kind, said in (
        ("heads", "5e-5"),
        ("heads", "366000; wav2vec2: 331000"),
        ("rows", "510000"),
        ("rows", "1e-5"),
        ("weights", "0.9998"),
        ("weights", "25000"),
    ):
        assert said in text[kind]
    assert all("4; hubert, wav2vec2: 12" in one and "--mask-prob" in one for one in text.values())
    assert "distill" in succeeds("compress", "-h").output


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("heads", "melhubert"), "type a CORPUS after MODEL, or --steps 0"),
        (("heads", "melhubert", "--steps", "0", "--score", "data"), "need speech"),
        (("heads", "melhubert", "CORPUS", "--steps", "0"), "leave the CORPUS out"),
        (("heads", "melhubert", "--steps", "0", "--at", "5"), "leave --at out"),
        (("weights", "melhubert", "--steps", "0", "--period", "5"), "leave --period out"),
        (("rows", "melhubert", "--steps", "0", "--mask-prob", "0.5"), "leave --mask-prob out"),
        (("heads", "melhubert", "CORPUS", "--at", "5"), "add --steps"),
        (("heads", "melhubert", "CORPUS", "--at", "5,x", "--steps", "9"), "--at takes whole numbers, separated by commas, not"),
        (("heads", "melhubert", "CORPUS", "--at", "1,2,3,4", "--steps", "9"), "4 prunings remove 4 heads of each block, but block 1 has 4"),
        (("heads", "melhubert", "--steps", "0", "--amount", "4"), "remove 4 heads of each block, but block 1 has 4"),
        (("heads", "melhubert", "CORPUS", "--steps", "100"), "leaves no training after it, which ends at step 100"),
        (("weights", "melhubert", "CORPUS", "--at", "5", "--period", "9", "--steps", "9"), "leave one out"),
        (("weights", "melhubert", "CORPUS", "--sparsities", "0.5,0.4"), "that ascend"),
        (("weights", "melhubert", "CORPUS", "--sparsities", "a"), "--sparsities takes numbers, separated by commas, not"),
        (("heads", "wav2vec2", "CORPUS", "--clusters", "5"), "leave --clusters out"),
        (("heads", "melhubert", "CORPUS", "--targets", "T2"), "'T2' are no targets"),
        (("heads", "melhubert", "CORPUS", "--replay", "nowhere", "--steps", "9"), "nowhere is no file"),
        (("heads", "melhubert", "CORPUS"), "321 are asked for; give fewer with --min-frames"),
        (("heads", "nowhere/at/all", "--steps", "0"), "does not exist"),
    ],
)  # fmt: skip
def test_what_is_refused(arguments, what, folder, model, tmp_path):
    names = {"CORPUS": folder, "melhubert": model / "melhubert", "wav2vec2": model / "wav2vec2"}
    assert what in refused(*(names.get(word, word) for word in arguments), "-o", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_one_shot_replayed_and_drawn(folder, model, tmp_path):
    shot = succeeds(
        "compress", "heads", model / "melhubert", "-o", tmp_path / "shot", "--steps", "0", "--device", "cpu"
    )
    lines = [line.split() for line in shot.stdout.splitlines() if line.strip()]
    assert lines[0] == [f"{tmp_path}/shot:", "4", "models"]
    n = plans.look(str(model / "melhubert"))
    assert n.heads == [4, 4]
    removed = [int("".join(line[3:])) if len(line) == 4 else "".join(line) for line in lines[-4:]]
    assert len(removed) == 4
    assert "2 096" in shot.stdout  # of 2 heads: 2 (3 8 33 + 8 32)
    assert "training loss" not in shot.stdout
    assert f"layertool extract '{tmp_path}/shot/heads-*'" in shot.stderr
    again = succeeds(
        "compress", "heads", model / "melhubert", "-o", tmp_path / "shot", "--steps", "0", "--device", "cpu"
    )
    assert "(the run was finished already)" in again.stdout
    done = succeeds(
        "compress",
        "heads",
        model / "melhubert",
        folder,
        "-o",
        tmp_path / "run",
        *QUICK,
        "--at",
        "1,2",
        "--steps",
        "3",
        "-q",
    )
    assert "training loss" in done.stdout
    assert done.stderr == ""
    succeeds(
        "compress",
        "heads",
        model / "melhubert",
        folder,
        "-o",
        tmp_path / "re",
        *QUICK,
        "--replay",
        tmp_path / "run/prunings.json",
        "--steps",
        "3",
        "-q",
    )
    assert (tmp_path / "re/prunings.json").read_bytes() == (tmp_path / "run/prunings.json").read_bytes()
    wrong = refused(
        "rows",
        model / "melhubert",
        folder,
        "-o",
        tmp_path / "x",
        "--replay",
        tmp_path / "run/prunings.json",
        "--steps",
        "3",
    )
    assert "is a record of pruning heads: type 'layertool compress heads'" in wrong
    other = refused("heads", model / "melhubert", folder, "-o", tmp_path / "run", *QUICK, "--at", "1", "--steps", "3")
    assert "was trained otherwise" in other
    succeeds(
        "extract",
        f"{tmp_path}/run/heads-*",
        folder,
        "-o",
        tmp_path / "series",
        "--units",
        "utterance",
        "--device",
        "cpu",
        "-q",
    )
    abouts = [json.loads((tmp_path / f"series/heads-{k}/store.json").read_text()) for k in (4, 6, 8)]
    assert [about["configuration"]["model"]["step"] for about in abouts] == [3, 2, 1]
    n_left = [about["parameters"]["all"] for about in abouts]
    assert [b - a for a, b in pairwise(n_left)] == [2096, 2096]
