"""What happens to a store when something around it changes: texts, files, checkpoints, options."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import models
import numpy as np
import pytest
import small
import soundfile
from click.testing import CliRunner

import layertool
from layertool.cli import cli
from layertool.corpora import folder as folder_reader
from layertool.errors import AudioError, CorpusError, ModelError, StoreError, UsageError
from layertool.extractors import work as running
from layertool.extractors.load import open_extractor
from layertool.models.checkpoints import files_sha256
from layertool.store import FeatureStore, verify


@pytest.fixture
def corpus(tmp_path):
    return small.corpus(tmp_path / "corpus", 6)


def command(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def test_a_shard_that_is_gone_is_nan_in_the_view_and_the_view_goes_when_shards_are_made_anew(
    corpus, tmp_path, monkeypatch
):
    store = layertool.extract("mel", corpus, tmp_path / "s", units=("word",), shard_seconds=1)
    whole = store.read("word", "mel")
    (store.path / "shards" / "00000.h5").unlink()
    with h5py.File(store.path / "store.h5") as view:
        seen = view["word/mel"][:]
    lost = np.isnan(seen).all(1)
    assert lost.any()
    assert (seen[~lost] == whole[~lost]).all()

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running, "_process", stop)
        with pytest.raises(KeyboardInterrupt):
            layertool.extract("mel", corpus, tmp_path / "s", units=("word",), shard_seconds=1)
    assert not (store.path / "store.h5").exists()
    again = layertool.extract("mel", corpus, tmp_path / "s", units=("word",), shard_seconds=1)
    assert (again.read("word", "mel") == whole).all()
    assert verify(again) == []


def test_a_repaired_file_is_picked_up(corpus, tmp_path):
    path = Path(corpus.utterances["audio"][2])
    sound = path.read_bytes()
    soundfile.write(path, np.full(len(soundfile.read(path)[0]), np.nan, np.float32), 16000, subtype="FLOAT")
    store = layertool.extract("mel", corpus, tmp_path / "s", units=("word",), max_failures=1)
    assert [failure["utterance"] for failure in store.failures] == ["u02"]
    with pytest.raises(AudioError, match="not finite"):  # without the option it is an error again, and the store stays
        layertool.extract("mel", corpus, tmp_path / "s", units=("word",))
    assert len(FeatureStore(tmp_path / "s").failures) == 1
    path.write_bytes(sound)
    repaired = layertool.extract("mel", corpus, tmp_path / "s", units=("word",))
    assert repaired.failures == []
    assert repaired.n_rows("word") == store.n_rows("word") + 2
    assert verify(repaired) == []


def test_a_run_that_failed_before_its_first_shard_does_not_block_another_configuration(corpus, tmp_path):
    path = Path(corpus.utterances["audio"][0])
    sound = path.read_bytes()
    path.unlink()
    with pytest.raises(AudioError):
        layertool.extract("mel", corpus, tmp_path / "s", units=("word",))
    path.write_bytes(sound)
    store = layertool.extract("mfcc", corpus, tmp_path / "s", units=("word",))
    assert (store.model, verify(store)) == ("mfcc", [])
    with pytest.raises(StoreError, match=r"another configuration: .*model.id = mfcc \(asked: mel\)"):
        layertool.extract("mel", corpus, tmp_path / "s", units=("word",))


def test_texts_count_where_the_decoder_reads_them(corpus, tmp_path):
    model = models.whisper(tmp_path / "whisper", tokenizer="english")
    corpus.utterances["text"] = "a cat"
    layertool.extract(str(model), corpus, tmp_path / "d", units=("utterance",), layers="D1")
    layertool.extract(str(model), corpus, tmp_path / "t", units=("utterance",), layers="T0")
    corpus.utterances["text"] = "a dog"
    with pytest.raises(StoreError, match="texts = "):
        layertool.extract(str(model), corpus, tmp_path / "d", units=("utterance",), layers="D1")
    same = layertool.extract(str(model), corpus, tmp_path / "t", units=("utterance",), layers="T0")
    assert set(same.utterances["text"]) == {"a dog"}


def test_long_texts_are_failures_of_their_utterance(corpus, tmp_path):
    model = models.whisper(tmp_path / "whisper", tokenizer="english")
    corpus.utterances["text"] = ["a cat", "a " * 600, *["a cat"] * 4]
    options = {"units": ("utterance",), "layers": "D1"}
    with pytest.raises(CorpusError, match="the text of utterance 'u01' has"):
        layertool.extract(str(model), corpus, tmp_path / "s", **options)
    store = layertool.extract(str(model), corpus, tmp_path / "s", max_failures=1, **options)
    assert [failure["utterance"] for failure in store.failures] == ["u01"]
    assert store.n_rows("utterance") == 5


@pytest.mark.parametrize("changed", ["config.json", "preprocessor_config.json"])
def test_a_checkpoint_is_its_weights_and_its_description(corpus, tmp_path, changed):
    model = models.save("wav2vec2-base", tmp_path / "m")
    layertool.extract(str(model), corpus, tmp_path / "s", units=("utterance",), layers="T0")
    described = json.loads((model / changed).read_text())
    described["layer_norm_eps" if changed == "config.json" else "do_normalize"] = (
        0.5 if changed == "config.json" else True
    )
    (model / changed).write_text(json.dumps(described))
    with pytest.raises(StoreError, match=r"model.description_sha256 = "):
        layertool.extract(str(model), corpus, tmp_path / "s", units=("utterance",), layers="T0")


def test_the_place_of_a_checkpoint_does_not_count(corpus, tmp_path):
    model = models.save("wav2vec2-base", tmp_path / "m")
    layertool.extract(str(model), corpus, tmp_path / "s", units=("utterance",), layers="T0")
    moved = tmp_path / "elsewhere" / "m"
    moved.parent.mkdir()
    shutil.move(model, moved)
    layertool.extract(str(moved), corpus, tmp_path / "s", units=("utterance",), layers="T0")
    assert files_sha256(moved, ("*.safetensors",)) != files_sha256(moved, ("*.json",))


def test_normalisation_of_a_folder_without_preprocessor(tmp_path):
    base, large = models.save("wav2vec2-base", tmp_path / "b"), models.save("wav2vec2-large", tmp_path / "l")
    for model in (base, large):
        (model / "preprocessor_config.json").unlink()
    assert open_extractor(str(base)).provenance["normalise"] is False
    assert open_extractor(str(large)).provenance["normalise"] is True
    assert open_extractor(str(large), normalise=False).provenance["normalise"] is False
    (base / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match="give --normalise or --no-normalise"):
        open_extractor(str(base))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"normalise": True}, "--normalise is for models that read waveforms; mel is an acoustic feature"),
        ({"language": "fr"}, "--language is for Whisper's decoder; mel is an acoustic feature"),
        ({"dtype": "bfloat16"}, "--dtype is for networks; mel is an acoustic feature"),
        ({"device": "cuda:7"}, "device 'cuda:7' is not on this machine"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        open_extractor("mel", **options)


def test_a_language_where_there_is_none(tmp_path):
    with pytest.raises(UsageError, match="--language is for Whisper's decoder"):
        open_extractor(str(models.save("wav2vec2-base", tmp_path / "m")), language="fr")
    with pytest.raises(UsageError, match="is an English-only checkpoint"):
        open_extractor(str(models.whisper(tmp_path / "w", tokenizer="english")), language="fr")


def test_a_misspelt_feature_asks_no_hub():
    with pytest.raises(UsageError, match=r"'melx' is no model \(did you mean mel\?\)"):
        open_extractor("melx")


def test_metadata_called_label_is_not_lost(corpus, tmp_path):
    corpus.utterances["label"] = [f"L{k}" for k in range(6)]
    rows = layertool.extract("mel", corpus, tmp_path / "s", units=("word",)).rows("word")
    assert rows["utterance_label"].tolist() == [f"L{k}" for k in range(6) for _ in range(2)]
    assert set(rows["label"]) <= set("xyz")
    assert rows.columns.is_unique


def test_a_corpus_can_leave_bad_files_out(tmp_path):
    for k in range(3):
        small.sound(tmp_path / "a" / f"{k}.wav", seed=k)
    (tmp_path / "a" / "bad.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match=r"bad.wav cannot be read as audio"):
        folder_reader.read(tmp_path / "a")
    made = folder_reader.read(tmp_path / "a", max_failures=1)
    assert list(made.utterances["utterance"]) == ["0", "1", "2"]
    assert list(made.provenance["left_out"]) == ["bad"]
    shown = command("corpus", "folder", tmp_path / "a", "-o", tmp_path / "c", "--max-failures", "1")
    assert shown.exit_code == 0
    assert "bad: " in shown.stdout
    for k in range(3):
        (tmp_path / "a" / f"{k}.wav").unlink()
    with pytest.raises(CorpusError, match="none of the utterances can be used"):
        folder_reader.read(tmp_path / "a", max_failures=9)


def test_align_does_not_replace_without_being_told(corpus, tmp_path):
    corpus.write(tmp_path / "c")
    small.corpus(tmp_path / "other").write(tmp_path / "other")
    refused = command("corpus", "align", tmp_path / "c")
    assert refused.exit_code == 1
    assert "has phone and word segments already" in refused.stderr
    refused = command("corpus", "align", tmp_path / "c", "-o", tmp_path / "other")
    assert refused.exit_code == 1
    assert "holds a corpus already" in refused.stderr


def test_a_finished_store_says_so(corpus, tmp_path):
    corpus.write(tmp_path / "c")
    assert "already complete" not in command("extract", "mel", tmp_path / "c", "-o", tmp_path / "s").stdout
    assert "already complete" in command("extract", "mel", tmp_path / "c", "-o", tmp_path / "s").stdout
