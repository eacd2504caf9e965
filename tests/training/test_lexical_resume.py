"""Runs that are stopped go on as if nothing had been; folders of something else are left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import models
import pytest
import tuning

from layertool.errors import LayertoolError, StoreError
from layertool.training import engine, lexical
from layertool.training.lexical import fine_tune

pytestmark = pytest.mark.slow  # together a minute


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.whisper(tmp_path_factory.mktemp("model") / "tiny", tokenizer="english")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tuning.corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(model, corpus, tmp_path_factory):
    """An uninterrupted run."""
    return fine_tune(str(model), corpus, tmp_path_factory.mktemp("whole") / "o", tuning.recipe())


@pytest.fixture(scope="module")
def stopped_run(model, corpus, tmp_path_factory):
    """A run stopped in its third epoch; copies of it are worked on."""
    folder = tmp_path_factory.mktemp("stopped") / "o"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(str(model), corpus, folder, tuning.recipe(), progress=tuning.StopAfter(5))
    return folder


@pytest.fixture
def stopped(stopped_run, tmp_path):
    return shutil.copytree(stopped_run, tmp_path / "o")


def assert_same(tuned, whole) -> None:
    assert tuned.history == whole.history
    assert tuned.best == whole.best
    files = tuning.contents(tuned.folder)
    expected = tuning.contents(whole.folder)
    assert files.keys() == expected.keys()
    differ = {name for name in files if files[name] != expected[name]}
    assert not differ, differ


@pytest.mark.parametrize("step", range(1, 7))
def test_stopped_at_any_step(model, corpus, whole, tmp_path, step):
    """Steps 2, 4 and 6 end an epoch, which is saved before they are told."""
    out = tmp_path / "o"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(str(model), corpus, out, tuning.recipe(), progress=tuning.StopAfter(step))
    assert not (out / "config.json").exists()
    watch = tuning.StopAfter(-1)
    assert_same(fine_tune(str(model), corpus, out, tuning.recipe(), progress=watch), whole)
    assert watch.seen == list(range(2 * (step // 2) + 1, 7))


def test_stopped_in_every_epoch(model, corpus, whole, tmp_path):
    for step in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(), progress=tuning.StopAfter(step))
    assert_same(fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe()), whole)


@pytest.mark.parametrize("when", ["in the last epoch", "after it"])
def test_moved_while_stopped(model, tmp_path, monkeypatch, when):
    """The best epoch was before the stop. Its weights must be found where the folder is now."""
    said = ["drink"] * 6 + ["qq"] * 5  # dev gets worse with every epoch
    other = tuning.corpus(tmp_path / "c", responses=said, counts=["5"] * 11)
    recipe = tuning.recipe(epochs=4, learning_rate=1e-2, warmup=0.0)
    expected = fine_tune(str(model), other, tmp_path / "whole", recipe)
    assert expected.best.epoch == 1
    stop = tuning.StopAfter(7 if when == "in the last epoch" else -1)
    with monkeypatch.context() as patch:
        if when == "after it":
            patch.setattr(lexical.Listening, "facts", stop.at_once)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(str(model), other, tmp_path / "o", recipe, progress=stop)
    (tmp_path / "o").rename(tmp_path / "moved")
    tuned = fine_tune(str(model), other, tmp_path / "moved", recipe)
    assert tuned.history == expected.history
    assert tuning.same_bits(tuning.weights(tuned.folder), tuning.weights(expected.folder))


def test_stopped_while_the_model_is_written(model, corpus, whole, tmp_path, monkeypatch):
    out = tmp_path / "o"
    replace = Path.replace

    def stop(path, target):
        if Path(target).name == "preprocessor_config.json":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(str(model), corpus, out, tuning.recipe())
    assert not (out / "config.json").exists()
    assert_same(fine_tune(str(model), corpus, out, tuning.recipe()), whole)


def test_stopped_when_all_but_clearing_away_is_done(model, corpus, whole, tmp_path, monkeypatch):
    """Gigabytes of checkpoints must not stay for good."""
    out = tmp_path / "o"
    remove = shutil.rmtree

    def stop(path, *rest, **options):
        if Path(path).name == "checkpoints":
            raise KeyboardInterrupt
        return remove(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(str(model), corpus, out, tuning.recipe())
    fine_tune(str(model), corpus, out, tuning.recipe())
    assert tuning.contents(out).keys() == tuning.contents(whole.folder).keys()


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import tuning
from layertool.corpora.corpus import Corpus
from layertool.training.lexical import fine_tune
def progress(done, *_):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
fine_tune(sys.argv[2], Corpus.read(sys.argv[3]), sys.argv[4], tuning.recipe(), progress=progress)
"""


def test_killed(model, corpus, whole, tmp_path):
    corpus.write(tmp_path / "corpus")
    here = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", KILLED, here, str(model), str(tmp_path / "corpus"), str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    tuned = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe())
    assert tuned.history == whole.history
    assert tuning.same_bits(tuning.weights(tuned.folder), tuning.weights(whole.folder))


def test_finished_is_returned(model, corpus, whole, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")}
    monkeypatch.setattr(engine, "Loop", None)
    again = fine_tune(str(model), corpus, whole.folder, tuning.recipe())
    assert again.was_there
    assert (again.history, again.best) == (whole.history, whole.best)
    assert {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")} == before


@pytest.mark.parametrize("what", ["recipe", "model", "weights", "responses", "split", "by_target", "audio"])
def test_something_else_is_refused(model, corpus, stopped, tmp_path, what):
    """Whether finished or not; what is there stays."""
    recipe, other, own = tuning.recipe(target_disjoint=what == "by_target"), corpus, model
    if what == "recipe":
        recipe = tuning.recipe(variant=tuning.Variant(window="clip"))
    elif what == "model":
        own = models.whisper(tmp_path / "other", tokenizer="english")
    elif what == "weights":
        own = models.whisper(tmp_path / "tiny", seed=8, tokenizer="english")
    elif what == "responses":
        other = tuning.corpus(tmp_path / "c", counts=["1", "1 2", "1 2 3"] * 3 + ["1", "1 2"])
    elif what == "split":
        other = tuning.corpus(tmp_path / "c", split=tuning.table()["split"][::-1])
    elif what == "audio":
        other = tuning.corpus(tmp_path / "c")
        import numpy as np
        import soundfile

        soundfile.write(tmp_path / "c/u0.wav", np.full(3001, 0.1, np.float32), 16_000, subtype="FLOAT")
        other.utterances.loc[0, "n_samples"] = 3001
    before = tuning.contents(stopped)
    with pytest.raises(StoreError, match=r"choose another -o, or start again with --overwrite"):
        fine_tune(str(own), other, stopped, recipe)
    assert tuning.contents(stopped) == before


def test_overwrite(model, corpus, stopped, tmp_path):
    recipe = tuning.recipe(epochs=1)
    tuned = fine_tune(str(model), corpus, stopped, recipe, overwrite=True)
    assert_same(tuned, fine_tune(str(model), corpus, tmp_path / "fresh", recipe))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["notes", "model", "a file", "foreign finetune.json", "own with a table"])
def test_never_deletes_what_is_not_its_own(model, corpus, stopped, tmp_path, kind, overwrite):
    out = tmp_path / "mine"
    if kind == "notes":
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    elif kind == "model":
        shutil.copytree(model, out)
    elif kind == "a file":
        out.write_text("years of work")
    elif kind == "foreign finetune.json":  # of another program
        shutil.copytree(model, out)
        (out / "finetune.json").write_text('{"lr": 3}')
        (out / "thesis.txt").write_text("years of work")
    else:
        out = stopped
        (out / "test_scores.csv").write_text("years of work")
    before = tuning.contents(out) if out.is_dir() else out.read_bytes()
    try:
        fine_tune(str(model), corpus, out, tuning.recipe(epochs=1, learning_rate=1e-4), overwrite=overwrite)
    except StoreError:
        assert (tuning.contents(out) if out.is_dir() else out.read_bytes()) == before
    else:
        assert kind == "own with a table", set(before) - set(tuning.contents(out))
        assert (out / "test_scores.csv").read_text() == "years of work"


def test_overwrite_does_not_delete_its_own_model(model, corpus, tmp_path):
    """MODEL and -o are one folder, or one is in the other."""
    tuned = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=1))
    before = tuning.contents(tuned.folder)
    with pytest.raises(LayertoolError):
        fine_tune(str(tuned.folder), corpus, tuned.folder, tuning.recipe(epochs=1, seed=1), overwrite=True)
    assert tuning.contents(tuned.folder) == before


def test_overwrite_does_not_delete_a_corpus_in_the_folder(model, tmp_path):
    own = tuning.corpus(tmp_path / "c")
    fine_tune(str(model), own, tmp_path / "o", tuning.recipe(epochs=1))
    inside = tuning.corpus(tmp_path / "o/corpus")
    before = tuning.contents(tmp_path / "o/corpus")
    fine_tune(str(model), inside, tmp_path / "o", tuning.recipe(epochs=1, seed=1), overwrite=True)
    assert tuning.contents(tmp_path / "o/corpus") == before


@pytest.mark.parametrize("n", range(1, 7))
def test_stopped_while_starting_again(model, corpus, whole, tmp_path, monkeypatch, n):
    """What --overwrite leaves, at whatever moment, --overwrite can clear away; and it is not called finished."""
    out = shutil.copytree(whole.folder, tmp_path / "o")
    unlink, seen = Path.unlink, []

    def stop(path, *rest, **options):
        if path.parent == out and not path.name.endswith(".part"):
            seen.append(path.name)
            if len(seen) == n:
                raise KeyboardInterrupt
        return unlink(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(str(model), corpus, out, tuning.recipe(epochs=1), overwrite=True)
    copy = shutil.copytree(out, tmp_path / "copy")
    fine_tune(str(model), corpus, out, tuning.recipe(epochs=1), overwrite=True)
    old = fine_tune(str(model), corpus, copy, tuning.recipe())  # or the first run once more
    assert tuning.contents(old.folder).keys() == tuning.contents(whole.folder).keys()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", "3", "finished without history", "best beyond"], ids=lambda t: t or "empty"
)
def test_a_damaged_record(model, corpus, whole, tmp_path, text):
    out = shutil.copytree(whole.folder, tmp_path / "o")
    record = tuning.record(out)
    if text == "finished without history":
        text = json.dumps({key: value for key, value in record.items() if key != "history"})
    elif text == "best beyond":
        text = json.dumps(record | {"best_step": 77})
    (out / "finetune.json").write_text(text)
    before = tuning.contents(out)
    with pytest.raises(StoreError):
        fine_tune(str(model), corpus, out, tuning.recipe())
    assert tuning.contents(out) == before


def test_a_checkpoint_that_is_cut_is_a_sentence(model, corpus, stopped):
    (path,) = (stopped / "checkpoints").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match="is damaged"):
        fine_tune(str(model), corpus, stopped, tuning.recipe())


def test_every_checkpoint_is_kept_and_a_model(model, corpus, whole, tmp_path):
    from layertool.analysis.lexical.scorer import WhisperScorer
    from layertool.layerwise.stimuli import stimuli_of
    from layertool.training.lexical import dev_likelihood

    tuned = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(keep_models=True))
    assert tuned.history == whole.history
    folders = [tuned.folder / f"step-{step}" for step in (2, 4, 6)]
    assert tuned.models == folders
    for epoch, folder in zip(tuned.history[1:], folders, strict=True):
        config = json.loads((folder / "config.json").read_text())
        assert config["architectures"] == ["WhisperForConditionalGeneration"]
        scorer = WhisperScorer(folder, tuning.EXACT)
        assert dev_likelihood(scorer, corpus, stimuli_of(corpus, "dev")) == pytest.approx(epoch.dev, rel=1e-6)
