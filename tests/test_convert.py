"""convert: what is written gives the numbers of the file it came from, and says where it came from."""

from __future__ import annotations

import json

import fairseq_writer
import melhuberts
import models
import numpy as np
import pytest
from commands import run, succeeds

import layertool


@pytest.fixture
def corpus(tmp_path):
    """Quiet clips: there the two constants that are added to a variance differ."""
    return models.corpus(tmp_path / "corpus", [0.02 * models.speech_like(n, k) for k, n in enumerate((9_000, 16_001))])


def frames(model, corpus, out):
    store = layertool.extract(model, corpus, out, units=("frame",), layers="all")
    return store, {layer: store.read("frame", layer) for layer in store.layers}


@pytest.mark.parametrize("name", ["wav2vec2-large", "hubert-base"])
def test_fairseq(tmp_path, corpus, name):
    file = fairseq_writer.write(name, tmp_path)
    succeeds("convert", f"fairseq:{file}", "-o", tmp_path / "folder")
    before, expected = frames(f"fairseq:{file}", corpus, tmp_path / "a")
    after, found = frames(str(tmp_path / "folder"), corpus, tmp_path / "b")
    assert list(found) == list(expected)
    for layer in expected:
        assert np.abs(found[layer] - expected[layer]).max() <= 1e-6 * np.abs(expected[layer]).max(), layer
    step = before.configuration["model"]["step"]
    assert step == 4200
    assert after.configuration["model"]["step"] == step


def test_melhubert_series_goes_on(tmp_path, corpus):
    settings = dict(melhuberts.SMALL, feat_emb_dim=80)
    (tmp_path / "run").mkdir()
    for step in (900, 1000):
        state = melhuberts.random_state(settings, seed=step)
        melhuberts.write(tmp_path / f"run/checkpoint-{step}.ckpt", state, settings, step=step)
    first = succeeds("convert", f"melhubert:{tmp_path}/run/*.ckpt", "-o", tmp_path / "out")
    assert [line.split(":")[0].rpartition("-")[2] for line in first.stdout.splitlines()] == ["900", "1000"]
    written = (tmp_path / "out/checkpoint-900/model.safetensors").stat().st_mtime_ns
    assert succeeds("convert", f"melhubert:{tmp_path}/run/*.ckpt", "-o", tmp_path / "out").stdout == first.stdout
    assert (tmp_path / "out/checkpoint-900/model.safetensors").stat().st_mtime_ns == written
    source = json.loads((tmp_path / "out/checkpoint-1000/source.json").read_text())
    assert source["file"] == "checkpoint-1000.ckpt"
    assert source["step"] == 1000
    _, expected = frames(f"melhubert:{tmp_path}/run/checkpoint-1000.ckpt", corpus, tmp_path / "a")
    store, found = frames(str(tmp_path / "out/checkpoint-1000"), corpus, tmp_path / "b")
    for layer in expected:
        np.testing.assert_array_equal(found[layer], expected[layer])
    assert store.configuration["model"]["step"] == 1000


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("facebook/wav2vec2-base", "is no checkpoint of another tool"),
        ("fairseq:", "names no file"),
        ("fairseq:nowhere.pt", "does not exist"),
        ("melhubert:run/*.ckpt", "no checkpoint is called"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, model, says):
    monkeypatch.chdir(tmp_path)
    result = run("convert", model, "-o", "out")
    assert result.exit_code in (1, 2)
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    file = fairseq_writer.write("wav2vec2-base", tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    result = run("convert", f"fairseq:{file}", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "choose another -o" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
