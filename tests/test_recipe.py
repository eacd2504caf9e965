"""Recipes of papers: every command in them is one, and running them goes on where it stopped."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import click
import pandas as pd
import pytest
import small
from commands import run as layertool
from commands import succeeds

from layertool import recipes, rehearsal
from layertool.commands import recipe
from layertool.corpora.corpus import Corpus

MODELS = ["organisation/one@main", "fairseq:folder/two.pt"]
RECIPES = {name: recipes.read(name) for name in recipe.RECIPES}
GIVEN = {name: {wanted: f"given/{wanted}" for wanted in about["inputs"]} for name, about in RECIPES.items()}


def steps_of(name: str, corpus: str, models: list[str], out: str, given: dict, rehearse: bool = False) -> list:
    """The steps of a recipe, as it is written in the package."""
    return recipes.Recipe.of(name, corpus, models, out, given, rehearse).steps()


def all_steps() -> list:
    """Every step of every recipe, without inputs and with all of them."""
    return [
        pytest.param(step, id=f"{name}-{step.name}-{len(given)}-{place}")
        for name, about in RECIPES.items()
        for given in ({}, GIVEN[name])
        for place, step in enumerate(steps_of(name, "corpus", MODELS, "out folder", given))
    ]


@pytest.mark.parametrize("step", all_steps())
def test_every_step_is_a_command(step):
    recipe.parse(step.words)
    assert shlex.split(step.line) == ["layertool", *step.words]


@pytest.mark.parametrize(
    "words",
    [["ccaa", "store"], ["cca", "store", "--wiht", "mel"], ["cca", "store"], ["probe", "sing", "store"],
     ["lexical", "finetune", "model", "corpus", "-o", "f", "--objective", "some"]],
)  # fmt: skip
def test_parsing_sees_what_is_no_command(words):
    with pytest.raises(click.UsageError):
        recipe.parse(words)


@pytest.mark.parametrize("name", recipe.RECIPES)
def test_the_data_hold_together(name):
    about = RECIPES[name]
    names = [step["name"] for step in about["steps"]]
    assert len(set(names)) == len(names)
    text = json.dumps(about["steps"])
    assert all(f"{{{wanted}}}" in text for wanted in about["inputs"]), "an input that no step takes"
    steps = steps_of(name, "corpus", MODELS, "out", GIVEN[name])
    made: list[str] = []
    for step in steps:
        words = list(step.words)
        own = [word for word in words if any(path == word or path.startswith(f"{word}/") for path in step.makes)]
        assert own, f"{step.name} does not name what it makes"
        for word in words:
            if word.startswith("out/") and word not in own and not word.startswith(tuple(f"{path}-" for path in own)):
                written = words[words.index(word) - 1] in ("-o", "--plot", "--results")
                parts = [f"{word}/".startswith(f"{path}/") for path in made]
                assert written or any(parts), f"{step.name} reads {word}, which no step before it makes"
        made += step.makes
    assert len({step.line for step in steps}) == len(steps)


@pytest.mark.parametrize("name", recipe.RECIPES)
def test_a_dry_run_prints_commands_to_copy(name):
    printed = succeeds("recipe", name, "--corpus", "my corpus", "--dry-run").stdout.splitlines()
    about = RECIPES[name]
    assert all(f"# {step['gives']}" in printed for step in about["steps"])
    steps = steps_of(name, "my corpus", about["models"], name, {})
    ready = [line for line in printed if line and not line.startswith("#")]
    assert ready == [
        *(step.line for step in steps if not step.missing),
        f"layertool report {name}/*.csv -o {name}/report.html",
    ]
    waiting = [line.removeprefix("#   ") for line in printed if line.startswith("#   ")]
    assert waiting == [step.line for step in steps if step.missing]
    for step in steps:
        for missing in step.missing:
            assert any(
                line.startswith(f"# step {step.name}; waits for") and f"--with {missing}=" in line for line in printed
            )
    for line in ready:
        recipe.parse(shlex.split(line)[1:])


def test_a_dry_run_of_a_step_and_with_an_input():
    done = succeeds(
        "recipe", "pasad2021", "--corpus", "c", "--model", "mine", "--only", "mi-phone", "--with", "train=t", "-o",
        "x", "--dry-run",
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    assert (
        lines[0]
        == "layertool mi x/mine --labels phone -o x/mi-phone-mine.csv --plot x/mi-phone-mine.pdf --fit-on x/mine-train"
    )
    assert len(lines) == 2


def test_patterns_stay_for_the_commands():
    """Which read them themselves, in natural order."""
    (step,) = [one for one in steps_of("lin2024", "c", MODELS, "my out", {}) if one.name == "speat-pruned"]
    assert "my out/series/heads/*" in step.words
    assert "'my out/series/heads/*'" in step.line


@pytest.mark.parametrize(
    ("model", "name"),
    [("facebook/wav2vec2-base", "wav2vec2-base"), ("openai/whisper-small@v1.0", "whisper-small-v1.0"), ("here/model/", "model"),
     ("fairseq:runs/checkpoint_best.pt", "checkpoint_best"), ("melhubert:last.ckpt", "last"), ("mel:pasad", "pasad")],
)  # fmt: skip
def test_folders_are_called_as_models(model, name):
    assert recipes.folder_name(model) == name


# A recipe for a corpus of noise: one store, one analysis of it, and one of that and another store.
SMALL = {
    "paper": "Nobody 2026",
    "made_by": "make it with 'layertool corpus align'",
    "models": ["mfcc"],
    "inputs": {"words": {"is": "FILE of words"}, "label": {"default": "phone", "is": "LABEL"}, "seed": {"default": "0", "is": "SEED"}},
    "steps": [
        {"name": "extract", "gives": "Stores", "command": "extract {model} {corpus} -o {store} --units phone",
         "makes": ["{store}"], "needs": {"corpus": {"tiers": ["phone"], "columns": {"speaker": ["s0", "s1"]}}}},
        {"name": "extract-mel", "gives": "Stores", "command": "extract mel {corpus} -o {out}/mel --units phone",
         "makes": ["{out}/mel"]},
        {"name": "phones", "gives": "Figure 1: phones", "makes": ["{out}/phones.csv"],
         "command": "probe neighbours {stores} --labels {label} --seed {seed} -o {out}/phones.csv"},
        {"name": "both", "gives": "Figure 2: phones", "makes": ["{out}/both.csv"],
         "command": "probe neighbours {stores} {out}/mel --labels phone -o {out}/both.csv"},
        {"name": "never", "gives": "Figure 3", "command": "report {words} -o {out}/never.html", "makes": ["{out}/never.html"]},
    ],
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with a small corpus, in which the recipe lin2024 is SMALL."""
    monkeypatch.chdir(tmp_path)
    small.corpus(tmp_path / "audio", 6, 16000).write(tmp_path / "corpus")
    monkeypatch.setattr(recipes, "read", lambda name: json.loads(json.dumps(SMALL)))
    return tmp_path


def run(*more):
    return layertool("recipe", "lin2024", "--corpus", "corpus", "-o", "out", *more)


def said(done) -> list[str]:
    """What became of each step: done already, left out, or its command."""
    return [line.split("] ")[1] for line in done.stderr.splitlines() if line.startswith("[")]


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.glob("*.csv"))}


@pytest.mark.slow
def test_a_recipe_runs_and_goes_on(here):
    done = run()
    assert done.exit_code == 0, done.output
    assert [line.split(":")[0] for line in said(done)] == ["extract", "extract-mel", "phones", "both", "never"]
    assert "waits for --with words=... (FILE of words)" in said(done)[-1]
    assert set(pd.read_csv("out/both.csv")["model"]) >= {"mfcc", "mel"}
    assert "Results of Nobody 2026, in out:" in done.stdout
    assert "layertool report out/*.csv -o out/report.html" in done.stdout

    before = times(here / "out")
    done = run()
    assert said(done)[:-1] == [f"{name}: done already" for name in ("extract", "extract-mel", "phones", "both")]
    assert times(here / "out") == before

    (here / "out/phones.csv").unlink()  # one result: made again, the others stay
    assert ["done already" in line for line in said(run())][:-1] == [True, True, False, True]
    assert (here / "out/phones.csv").exists()
    assert times(here / "out")["both.csv"] == before["both.csv"]

    shutil.rmtree(here / "out/mel")  # a store: what was read from it is made again, too
    assert ["done already" in line for line in said(run())][:-1] == [True, False, True, False]
    assert times(here / "out")["both.csv"] > before["both.csv"]

    # another command for a file: neither the old nor the new line takes the other's result for its own
    assert "phones: done already" not in said(run("--only", "phones", "--with", "seed=3"))
    assert set(pd.read_csv("out/phones.csv")["seed"]) == {3}
    assert "phones: done already" not in said(run("--only", "phones"))
    assert set(pd.read_csv("out/phones.csv")["seed"]) == {0}


@pytest.mark.slow
def test_an_error_in_the_middle_names_the_step_and_how_to_go_on(here):
    done = run("--with", "label=word")  # the store has no words
    assert done.exit_code == 2, done.output
    lines = done.stderr.strip().splitlines()
    (error,) = [line for line in lines if line.startswith("Error: ")]
    assert "word" in error
    assert "stopped at step phones" in lines[-2]
    assert lines[-1] == "  layertool probe neighbours out/mfcc --labels word --seed 0 -o out/phones.csv"
    assert not (here / "out/both.csv").exists()
    done = run()
    assert said(done)[:2] == ["extract: done already", "extract-mel: done already"]
    assert done.exit_code == 0, done.output


def test_a_stop_is_not_an_error_of_the_step(here, monkeypatch):
    from layertool.extractors import run as extraction

    def stop(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction, "carry_out", stop)
    done = run("--only", "extract")
    assert done.exit_code == 130
    assert "stopped at step extract" in done.stderr
    record = json.loads((here / "out/recipe.json").read_text())
    assert record["made"] == {}


def fails(code: int, done, *says) -> None:
    assert done.exit_code == code, done.output
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: "), done.stderr
    for text in says:
        assert text in line


def test_what_a_corpus_lacks_is_said_before_anything_runs(here):
    corpus = Corpus.read("corpus")
    corpus.segments = corpus.segments[corpus.segments["tier"] == "word"]
    corpus.utterances["speaker"] = "s0"
    corpus.write("bare")
    done = layertool("recipe", "lin2024", "--corpus", "bare", "-o", "out")
    fails(1, done, "bare has no tier phone, speaker=s1 (for extract)", "layertool corpus align", "--only")
    assert not Path("out").exists()
    dry = layertool("recipe", "lin2024", "--corpus", "bare", "-o", "out", "--dry-run")
    assert dry.exit_code == 0
    assert "note: bare has no tier phone" in dry.stderr
    corpus.utterances = corpus.utterances.drop(columns="speaker")
    corpus.write("bare")
    fails(1, layertool("recipe", "lin2024", "--corpus", "bare", "-o", "out"), "bare has no tier phone, column speaker")


def test_a_folder_of_another_corpus_or_recipe_is_refused(here):
    assert run("--only", "extract-mel").exit_code == 0
    small.corpus(here / "more", 4, 8000).write(here / "other")
    fails(2, layertool("recipe", "lin2024", "--corpus", "other", "-o", "out"), "another corpus", "-o")
    fails(2, layertool("recipe", "pasad2021", "--corpus", "corpus", "-o", "out"), "another recipe", "-o")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--only", "figure"], ["no step 'figure'", "extract, extract-mel, phones, both, never"]),
        (["--with", "glove=x"], ["no input 'glove'", "words, label, seed"]),
        (["--with", "words"], ["'words' is not NAME=VALUE"]),
        (["--with", "label="], ["'label=' is not NAME=VALUE"]),
        (["--model", "a/one", "--model", "b/one"], ["a/one, b/one", "one name", "-o"]),
        (["--model", "runs/step-*"], ["'runs/step-*'", "--model"]),
    ],
)
def test_requests_that_cannot_be_met(here, more, says):
    fails(2, run(*more), *says)
    assert not Path("out").exists()


def test_an_unknown_recipe_and_a_missing_corpus(here):
    fails(2, layertool("recipe", "nobody2020", "--corpus", "corpus"), "nobody2020", "pasad2021", "cuervo2024")
    fails(1, layertool("recipe", "lin2024", "--corpus", "nowhere"), "nowhere", "does not exist")


def test_a_step_that_does_not_parse_is_said_before_anything_runs(here, monkeypatch):
    broken = json.loads(json.dumps(SMALL))
    broken["steps"][3]["command"] += " --colour red"
    monkeypatch.setattr(recipes, "read", lambda name: broken)
    fails(2, run(), "step both cannot run", "--colour")
    assert not Path("out").exists()


# Rehearsals

TRAINS = (("pretrain",), ("compress",), ("finetune", "ctc"), ("lexical", "finetune"))


def rehearsed(name: str) -> list:
    return steps_of(name, "corpus", MODELS, "out folder", {}, rehearse=True)


@pytest.mark.parametrize(
    "step", [pytest.param(step, id=f"{name}-{step.name}") for name in recipe.RECIPES for step in rehearsed(name)]
)
def test_every_step_of_a_rehearsal_is_a_command_and_trains_little(step):
    words = list(step.words)
    recipe.parse(words)
    assert not step.missing, "a rehearsal has a stand-in for every input"
    assert words.count("--reinit-top") <= 1
    if any(tuple(words[: len(start)]) == start for start in TRAINS):
        name = "--epochs" if words[0] == "lexical" else "--steps"
        assert 1 <= int(words[words.index(name) + 1]) <= 10, f"{step.name} trains for long"
        assert words.count(name) == 1
        assert int(words[words.index("--batch-size") + 1]) <= 4


@pytest.mark.parametrize("name", recipe.RECIPES)
def test_a_rehearsal_has_every_step_and_says_nothing_of_it_in_the_real_run(name):
    real = steps_of(name, "corpus", MODELS, "out folder", GIVEN[name])
    assert [step.name for step in real] == [step.name for step in rehearsed(name)]
    text = json.dumps(RECIPES[name]["steps"])
    for setting, about in RECIPES[name].get("settings", {}).items():
        assert f"{{{setting}}}" in text, f"no step has the setting {setting}"
        assert about["paper"] != about["rehearsal"]
    assert not any("{" in step.line or "made-up" in step.line for step in real)
    assert not any("{" in step.line for step in rehearsed(name))


def test_a_rehearsal_says_so_and_stays_in_a_folder_of_its_own(here):
    mine = ("recipe", "lin2024", "--corpus", "corpus", "--model", "mfcc", "--only", "extract", "--rehearse")
    done = succeeds(*mine)
    assert "Its numbers mean nothing" in done.stdout
    assert Path("lin2024-rehearsal/mfcc").is_dir()
    assert "Nobody 2026" in Path("lin2024-rehearsal/REHEARSAL.txt").read_text()
    assert json.loads(Path("lin2024-rehearsal/recipe.json").read_text())["rehearsal"] is True
    fails(2, layertool(*mine[:-1], "-o", "lin2024-rehearsal"), "lin2024-rehearsal holds a rehearsal", "-o")
    assert run("--only", "extract").exit_code == 0
    fails(2, layertool(*mine, "-o", "out"), "out holds results of the recipe, and no rehearsal of it", "-o")
    record = json.loads(Path("out/recipe.json").read_text())
    del record["rehearsal"]  # as earlier versions wrote it
    Path("out/recipe.json").write_text(json.dumps(record))
    assert "extract: done already" in said(run("--only", "extract"))
    dry = succeeds(*mine, "--dry-run").stdout
    assert dry.startswith("# A rehearsal of Nobody 2026")


def test_a_rehearsal_needs_a_small_model(here, monkeypatch):
    small_one = json.loads(json.dumps(SMALL)) | {"small_model": "one of a few blocks does"}
    monkeypatch.setattr(recipes, "read", lambda name: small_one)
    fails(2, run("--rehearse"), "small MODEL", "one of a few blocks does")
    assert not Path("out").exists()


def test_what_stands_for_missing_files_is_the_same_for_the_same_corpus(here):
    corpus = Corpus.read("corpus")
    for out in ("a", "b"):
        rehearsal.make_up(out, corpus)
    files = sorted(str(path.relative_to("a")) for path in Path("a").rglob("*") if path.is_file())
    assert {"made-up/glove.txt", "made-up/agwe.txt", "made-up/benchmarks/drawn.csv"} < set(files)
    for name in ("glove.txt", "agwe.txt", "benchmarks/drawn.csv"):
        assert (Path("a/made-up") / name).read_bytes() == (Path("b/made-up") / name).read_bytes()
    assert Path("a/made-up/glove.txt").read_bytes() != Path("a/made-up/agwe.txt").read_bytes()
    words = {line.split()[0] for line in Path("a/made-up/glove.txt").read_text().splitlines()}
    assert words == set(corpus.segments["label"][corpus.segments["tier"] == "word"])
    half = Corpus.read("a/made-up/corpus")
    assert list(half.utterances["utterance"]) == list(corpus.utterances["utterance"][1::2])
    assert list(half.utterances["split"]) == ["train", "train", "dev"]
    first = half.segments[(half.segments["utterance"] == "u01") & (half.segments["tier"] == "word")]
    assert half.utterances["text"][0] == " ".join(first["label"])
    assert half.fingerprint != corpus.fingerprint


def test_a_stand_in_that_lacks_what_a_step_needs_leaves_the_step_out(here, monkeypatch):
    one = json.loads(json.dumps(SMALL)) | {"small_model": "any"}
    one["inputs"] = {"train": {"rehearsal": "{out}/made-up/corpus", "is": "CORPUS of training"}}
    extract = {"name": "train", "gives": "Stores", "command": "extract {model} {train} -o {out}/train --units phone", "makes": ["{out}/train"]}  # fmt: skip
    one["steps"] = [one["steps"][1], extract | {"needs": {"train": {"tiers": ["syllable"], "columns": {"text": []}}}}]
    monkeypatch.setattr(recipes, "read", lambda name: one)
    done = run("--rehearse", "--model", "mfcc")
    assert done.exit_code == 0, done.output
    assert said(done)[1] == "train: left out, out/made-up/corpus has no tier syllable (for train)"
    assert "out/train" not in done.stdout


def test_what_other_steps_make_is_asked_for_before_anything_runs(here):
    fails(2, run("--only", "phones", "--only", "extract-mel"), "step phones reads out/mfcc", "run step extract, too")
    assert not Path("out").exists()


def test_a_file_that_is_given_has_to_be_there(here):
    fails(2, run("--with", "words=nothing.csv"), "--with words=nothing.csv does not exist: give a FILE of words")
    assert run("--with", "words=nothing.csv", "--dry-run").exit_code == 0
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_training_step_is_rehearsed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small.corpus(tmp_path / "audio", 6, 16000).write(tmp_path / "corpus")
    steps = ("--only", "pretrain-melhubert-slim", "--only", "extract-melhubert-slim")
    done = succeeds("recipe", "lin2024", "--corpus", "corpus", "--model", "mfcc", "--rehearse", *steps)
    assert "Its numbers mean nothing" in done.stderr
    stores = sorted(path.name for path in Path("lin2024-rehearsal/series/melhubert-slim").iterdir())
    assert stores == ["step-0", "step-2", "step-4"]
    again = succeeds("recipe", "lin2024", "--corpus", "corpus", "--model", "mfcc", "--rehearse", *steps)
    assert all("done already" in line for line in said(again))
