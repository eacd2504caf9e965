"""A pattern as MODEL: one store for each checkpoint, and what becomes of the bad ones."""

from __future__ import annotations

import melhuberts
import models
import pytest
from commands import run, succeeds

from layertool import FeatureStore
from layertool.layerwise.stores import step_of


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.corpus(tmp_path / "audio", [models.speech_like(8_000, k) for k in range(2)]).write("corpus")
    settings = dict(melhuberts.SMALL, feat_emb_dim=80)
    (tmp_path / "run").mkdir()
    for step in (500, 4000, 30_000):
        melhuberts.write(
            tmp_path / f"run/states-{step}.ckpt", melhuberts.random_state(settings, step), settings, step=step
        )
    return tmp_path


UNITS = ("--units", "utterance")


def test_every_checkpoint_has_a_store_and_its_step(place):
    told = succeeds("extract", "melhubert:run/*.ckpt", "corpus", "-o", "series", *UNITS)
    assert [line.split(":")[0] for line in told.stdout.splitlines()] == [
        f"series/states-{n}" for n in (500, 4000, 30_000)
    ]
    stores = [FeatureStore(place / f"series/states-{n}") for n in (500, 4000, 30_000)]
    assert [step_of(store.configuration["model"]) for store in stores] == [500, 4000, 30_000]
    assert len({store.configuration["model"]["sha256"] for store in stores}) == 3
    again = succeeds("extract", "melhubert:run/*.ckpt", "corpus", "-o", "series", *UNITS)
    assert again.stdout.count("already complete") == 3
    assert "30 000" in succeeds("info", "series/states-30000").stdout


def test_a_damaged_checkpoint_does_not_stop_the_others(place):
    (place / "run/states-4000.ckpt").write_bytes(b"PK\x03\x04 nothing")
    result = run("extract", "melhubert:run/*.ckpt", "corpus", "-o", "series", *UNITS)
    assert result.exit_code == 1
    assert "1 of 3 checkpoints could not be extracted (states-4000)" in result.stderr
    assert sorted(path.name for path in (place / "series").iterdir()) == ["states-30000", "states-500"]
    alone = run("extract", "melhubert:run/states-4000.ckpt", "corpus", "-o", "alone", *UNITS)
    assert alone.exit_code == 1
    assert "states-4000.ckpt is cut short or no checkpoint" in alone.stderr


def test_dry_run_and_what_is_refused(place):
    succeeds("extract", "melhubert:run/*.ckpt", "corpus", "-o", "series", *UNITS, "--dry-run")
    assert not (place / "series").exists()
    drawn = run("extract", "melhubert:run/*.ckpt", "corpus", "-o", "series", *UNITS, "--random-init", "0")
    assert drawn.exit_code == 2
    assert "--random-init draws the same weights" in drawn.stderr
    absent = run("extract", "melhubert:run/*.pt", "corpus", "-o", "series", *UNITS)
    assert "no checkpoint is called run/*.pt" in absent.stderr
    for option, value in (("--statistics", "37"), ("--language", "de"), ("--mask-seed", "1"), ("--normalise", None)):
        arguments = [option, *([value] if value else [])]
        result = run("extract", "melhubert:run/states-500.ckpt", "corpus", "-o", "x", *UNITS, *arguments)
        assert result.exit_code in (1, 2), option
        assert result.stderr.startswith("Error: ")
