import builtins
import io
import os
import tarfile
import unicodedata
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import xxhash

from layertool.corpora import huggingface as reader
from layertool.errors import AudioError, CorpusError, MissingExtraError, StoreError, UsageError

datasets = pytest.importorskip("datasets")


def encoded(n_samples, kind="WAV", channels=1, rate=16000):
    """A file of ``n_samples`` in memory, its samples a ramp."""
    buffer = io.BytesIO()
    samples = np.repeat(np.linspace(-0.5, 0.5, n_samples)[:, None], channels, axis=1)
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


WAV, FLAC, MP3 = encoded(1600), encoded(800, "FLAC"), encoded(16000, "MP3")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def with_audio(columns, *names):
    dataset = datasets.Dataset.from_dict(columns)
    for name in names or ("audio",):
        dataset = dataset.cast_column(name, datasets.Audio())
    return dataset


def undeclared(*items):
    """A dataset of bytes and paths that does not call them Audio: saving it leaves named files where they are."""
    features = datasets.Features({"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    return datasets.Dataset.from_dict({"audio": list(items)}, features)


def saved(dataset, folder):
    dataset.save_to_disk(str(folder))
    return folder


@pytest.fixture
def speech(tmp_path):
    """Three rows with embedded audio, saved on disk."""
    dataset = with_audio(
        {
            "audio": [
                {"bytes": WAV, "path": "x/one.wav"},
                {"bytes": FLAC, "path": None},
                {"bytes": MP3, "path": "three.webm"},
            ],
            "id": ["a", "b/../c", "A"],
            "sentence": ["one", None, "three"],
            "text": ["1", "2", "3"],
            "age": [31, 32, None],
            "start": [0.5, 0.6, 0.7],
            "ok": [True, False, True],
            "gender": [0, 1, -1],
            "vector": [[1.0], [2.0], [3.0]],
        }
    ).cast_column("gender", datasets.ClassLabel(names=["female", "male"]))
    return saved(dataset, tmp_path / "speech")


def test_saved_on_disk(speech, tmp_path):
    seen = []
    out = tmp_path / "out"
    corpus = reader.read(speech, out, text_column="sentence", progress=lambda done, total: seen.append((done, total)))
    got = corpus.utterances
    assert corpus.name == "speech"
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(got["utterance"]) == ["a", "b/../c", "A"]
    names = [os.path.relpath(path, out / "audio") for path in got["audio"]]
    # 'A' could be the file 'a' where file names have no case
    assert names == [
        "a.wav",
        f"b_.._c-{xxhash.xxh3_64_hexdigest(b'b/../c')}.flac",
        f"A-{xxhash.xxh3_64_hexdigest(b'A')}.mp3",
    ]
    assert [Path(path).read_bytes() for path in got["audio"]] == [WAV, FLAC, MP3]
    assert sorted(os.listdir(out / "audio")) == sorted(names)
    assert list(got["n_samples"][:2]) == [1600, 800]
    assert corpus.metadata_columns == ["text", "source_text", "age", "source_start", "ok", "gender"]
    assert list(got["text"].fillna("missing")) == ["one", "missing", "three"]
    assert list(got["source_text"]) == ["1", "2", "3"]
    np.testing.assert_array_equal(got["age"], [31, 32, np.nan])
    assert list(got["source_start"]) == [0.5, 0.6, 0.7]
    assert got["start"].isna().all()
    assert list(got["ok"]) == [True, False, True]
    assert list(got["gender"].fillna("missing")) == ["female", "male", "missing"]
    assert corpus.segments.empty
    assert corpus.provenance == {
        "reader": "huggingface",
        "source": str(speech),
        "split": None,
        "audio_column": "audio",
        "columns_left_out": ["vector"],
    }
    again = reader.read(speech, tmp_path / "again", text_column="sentence", name="mine", channel="0")
    assert again.name == "mine"
    assert set(again.utterances["channel"]) == {"0"}
    corpus.write(out)


def test_folder_of_parquet_files(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    files = [{"bytes": WAV, "path": "a.wav"}] * 11
    with_audio({"audio": files, "id": ["x"] * 11, "n": list(range(11))}).to_parquet(folder / "train-0.parquet")
    with_audio({"audio": files[:1], "id": ["y"], "n": [99]}).to_parquet(folder / "test-0.parquet")
    with pytest.raises(CorpusError, match=r"tables has the splits train, test: choose one with --split NAME"):
        reader.read(folder, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"tables has no split 'dev': choose from train, test with --split NAME"):
        reader.read(folder, tmp_path / "out", split="dev")
    corpus = reader.read(folder, tmp_path / "out", split="train")
    assert list(corpus.utterances["utterance"]) == [f"{k:02d}" for k in range(11)]  # the column 'id' repeats
    assert list(corpus.utterances["id"]) == ["x"] * 11
    assert corpus.provenance["split"] == "train"
    assert corpus.provenance["config"] == "default"
    assert "revision" not in corpus.provenance
    by_number = reader.read(folder, tmp_path / "out", split="train", id_column="n")
    assert list(by_number.utterances["utterance"]) == [str(k) for k in range(11)]
    assert by_number.metadata_columns == ["id"]
    with pytest.raises(CorpusError, match=r"the column 'id' of .*tables has the utterance id 'x' more than once"):
        reader.read(folder, tmp_path / "out", split="train", id_column="id")


def test_parquet_without_the_type_audio(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    pd.DataFrame({"sound": [{"bytes": WAV, "path": "a.wav"}], "raw": [FLAC]}).to_parquet(folder / "x.parquet")
    corpus = reader.read(folder, tmp_path / "out")
    assert Path(corpus.utterances["audio"][0]).read_bytes() == WAV
    assert corpus.provenance["columns_left_out"] == ["raw"]
    corpus = reader.read(folder, tmp_path / "out", audio_column="raw")
    assert corpus.utterances["audio"][0].endswith("0.flac")
    assert Path(corpus.utterances["audio"][0]).read_bytes() == FLAC


def test_audio_folder_is_used_in_place(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for k in range(2):
        (folder / f"{k}.wav").write_bytes(WAV)
    (folder / "metadata.csv").write_text("file_name,speaker\n1.wav,ann\n0.wav,bob\n")
    corpus = reader.read(folder, tmp_path / "out")
    assert list(corpus.utterances["audio"]) == [str(folder / "1.wav"), str(folder / "0.wav")]
    assert list(corpus.utterances["speaker"]) == ["ann", "bob"]
    assert os.listdir(tmp_path / "out" / "audio") == []


def test_zipped_audio_folder(tmp_path):
    folder = tmp_path / "zipped"
    folder.mkdir()
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("d/0.flac", FLAC)
        archive.writestr("d/metadata.csv", "file_name,speaker\n0.flac,ann\n")
    corpus = reader.read(folder, tmp_path / "out")
    assert corpus.utterances["audio"][0] == str(tmp_path / "out" / "audio" / "0.flac")
    assert Path(corpus.utterances["audio"][0]).read_bytes() == FLAC
    assert list(corpus.utterances["speaker"]) == ["ann"]


@pytest.mark.skipif(find_spec("torchcodec") is not None, reason="datasets can read it with torchcodec")
def test_layout_that_needs_torchcodec(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    (tmp_path / "0.wav").write_bytes(WAV)
    with tarfile.open(folder / "train.tar", "w") as archive:
        archive.add(tmp_path / "0.wav", "0.wav")
    with pytest.raises(CorpusError, match=r"web has a layout .*torchcodec.*: install that, or unpack the audio files"):
        reader.read(folder, tmp_path / "out")


def test_paths_relative_to_the_dataset(tmp_path):
    source = saved(undeclared({"bytes": None, "path": "wav/a.wav"}), tmp_path / "named")
    with pytest.raises(CorpusError, match=r"utterance '0' of .*named names the audio file wav/a.wav, which does not"):
        reader.read(source, tmp_path / "out")
    (source / "wav").mkdir()
    (source / "wav" / "a.wav").write_bytes(WAV)
    assert list(reader.read(source, tmp_path / "out").utterances["audio"]) == [str(source / "wav" / "a.wav")]
    text = saved(datasets.Dataset.from_dict({"file": [str(source / "wav" / "a.wav")]}), tmp_path / "text")
    assert list(reader.read(text, tmp_path / "out", audio_column="file").utterances["n_samples"]) == [1600]


def test_arrays_become_float_wav(tmp_path):
    samples = np.linspace(-0.9, 0.9, 800)
    source = saved(
        datasets.Dataset.from_dict({"audio": [{"array": samples, "sampling_rate": 8000}], "id": [7]}),
        tmp_path / "arrays",
    )
    corpus = reader.read(source, tmp_path / "out")
    path = corpus.utterances["audio"][0]
    assert path.endswith("audio/7.wav")
    assert soundfile.info(path).subtype == "FLOAT"
    got, rate = soundfile.read(path, dtype="float32")
    assert rate == 8000
    np.testing.assert_array_equal(got, samples.astype(np.float32))
    first = Path(path).read_bytes()
    reader.read(source, tmp_path / "out")
    assert Path(path).read_bytes() == first
    stereo = np.stack([samples, -samples])
    source = saved(
        datasets.Dataset.from_dict({"audio": [{"array": stereo, "sampling_rate": 8000}]}), tmp_path / "stereo"
    )
    corpus = reader.read(source, tmp_path / "out", channel="1")
    np.testing.assert_array_equal(
        soundfile.read(corpus.utterances["audio"][0], dtype="float32")[0], np.float32(stereo.T)
    )


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"array": [1, 2], "sampling_rate": 8000}, "utterance '0' of .* holds no fractions"),
        ({"array": [0.5], "sampling_rate": 0}, "has the sampling rate 0"),
        ({"array": [[0.5], [0.5, 0.5]], "sampling_rate": 8000}, "has channels of different lengths"),
        ({"array": None, "sampling_rate": 8000}, "utterance '0' of .* has no audio"),
    ],
)
def test_unusable_arrays(tmp_path, item, message):
    rows = [item, {"array": [0.5], "sampling_rate": 8000}] if item["array"] is None else [item]
    source = saved(datasets.Dataset.from_dict({"audio": rows}), tmp_path / "arrays")
    with pytest.raises(CorpusError, match=message):
        reader.read(source, tmp_path / "out")


def test_unusable_files(tmp_path):
    for name, item, error, message in (
        ("none", {"bytes": None, "path": None}, CorpusError, "utterance '0' of .*none has no audio: take it out"),
        (
            "text",
            {"bytes": b"hello", "path": None},
            AudioError,
            "utterance '0' of .*text holds 5 bytes that are no audio",
        ),
        ("wave", {"bytes": b"hello", "path": "a.wav"}, AudioError, "0.wav cannot be read as audio"),
        (
            "zip",
            {"bytes": None, "path": "zip://a.wav::/no.zip"},
            CorpusError,
            "'0' of .*zip cannot be read from zip://",
        ),
        (
            "url",
            {"bytes": None, "path": "https://x.org/a.wav"},
            CorpusError,
            "names the audio file https://x.org/a.wav",
        ),
    ):
        with pytest.raises(error, match=message):
            reader.read(saved(undeclared(item), tmp_path / name), tmp_path / "out")


def test_stereo_needs_a_channel_at_once(tmp_path):
    stereo = {"bytes": encoded(1600, channels=2), "path": "s.wav"}
    source = saved(undeclared(stereo, {"bytes": None, "path": None}), tmp_path / "stereo")
    with pytest.raises(AudioError, match=r"0.wav has 2 channels: say which to take with --channel 0"):
        reader.read(source, tmp_path / "out")
    with pytest.raises(UsageError, match="'left' is no channel"):
        reader.read(source, tmp_path / "out", channel="left")


def test_audio_files_are_whole_or_absent(speech, tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reader.Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"a.wav could not be written: the disk is full"):
        reader.read(speech, tmp_path / "out")
    assert os.listdir(tmp_path / "out" / "audio") == []


@pytest.mark.parametrize(("stored", "typed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_of_columns_in_two_spellings(tmp_path, stored, typed):
    names = {"audio_column": "audió", "id_column": "né", "text_column": "texté"}
    columns = [unicodedata.normalize(stored, name) for name in names.values()]
    rows = [[{"bytes": WAV, "path": "a.wav"}], ["e\u0301"], ["hi"]]
    source = saved(with_audio(dict(zip(columns, rows, strict=True)), columns[0]), tmp_path / "data")
    asked = {option: unicodedata.normalize(typed, name) for option, name in names.items()}
    [row] = reader.read(source, tmp_path / "out", **asked).utterances.to_dict("records")
    assert (row["utterance"], row["text"]) == ("é", "hi")


def test_choices_of_columns(tmp_path):
    item = {"bytes": WAV, "path": "a.wav"}
    both = with_audio({"audio_a": [item], "audio_b": [item], "score": [1.5], "v": [[1]]}, "audio_a", "audio_b")
    source = saved(both, tmp_path / "both")
    out = tmp_path / "out"
    assert reader.read(source, out, audio_column="audio_b").metadata_columns == ["score"]
    for asked, message in (
        ((), r"both has the audio columns audio_a, audio_b: choose one with --audio-column"),
        (
            ("audio",),
            r"no column 'audio' \(columns there: audio_a, audio_b, score, v\): choose one with --audio-column",
        ),
        (("score",), r"the column 'score' of .*both holds no audio, paths or bytes"),
        (("audio_a", "v"), r"table of text and numbers of .* has no column 'v' \(columns there: score\): .* --id"),
        (("audio_a", None, "words"), r"no column 'words' \(columns there: score\): choose another --text-column"),
    ):
        columns = dict(zip(("audio_column", "id_column", "text_column"), asked, strict=False))
        with pytest.raises(CorpusError, match=message):
            reader.read(source, out, **columns)
    no_audio = saved(datasets.Dataset.from_dict({"x": ["a"], "y": [None]}), tmp_path / "no_audio")
    with pytest.raises(CorpusError, match=r"no_audio has no column of audio \(columns there: x, y\).*--audio-column"):
        reader.read(no_audio, out)
    with pytest.raises(CorpusError, match=r"has no 'key' in row 2 \(1 such rows\): choose another --id-column"):
        reader.read(
            saved(with_audio({"audio": [item] * 2, "key": ["a", None]}), tmp_path / "key"), out, id_column="key"
        )


def test_splits_saved_on_disk(tmp_path):
    one = with_audio({"audio": [{"bytes": WAV, "path": "a.wav"}]})
    source = saved(datasets.DatasetDict({"dev": one, "test": one}), tmp_path / "splits")
    with pytest.raises(CorpusError, match=r"splits has the splits dev, test: choose one with --split NAME"):
        reader.read(source, tmp_path / "out")
    assert reader.read(source, tmp_path / "out", split="dev").provenance["split"] == "dev"
    single = saved(one, tmp_path / "single")
    with pytest.raises(CorpusError, match=r"single is the single split 'without name', not 'dev': leave out --split"):
        reader.read(single, tmp_path / "out", split="dev")
    with pytest.raises(CorpusError, match=r"empty cannot be read as a dataset"):
        reader.read(saved(one.select([]), tmp_path / "empty"), tmp_path / "out")


def test_hub_ids(tmp_path, monkeypatch):
    """A hub id is split at '@' and passed on without any leave to run code; files in the hub's cache are copied."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "blob.flac").write_bytes(FLAC)
    original, asked = datasets.load_dataset_builder, []

    def load(path, **options):
        asked.append((path, options))
        return original(str(folder), name=options["name"])

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    corpus = reader.read("org/speech@v1.0", tmp_path / "out")
    assert asked == [("org/speech", {"name": None, "revision": "v1.0", "data_files": None})]
    assert corpus.name == "speech"
    assert corpus.provenance["source"] == "org/speech@v1.0"
    assert corpus.provenance["revision"] == "v1.0"
    assert corpus.utterances["audio"][0] == str(tmp_path / "out" / "audio" / "0.flac")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConnectionError("Couldn't reach 'o/s'  on the Hub."),
            r"o/s cannot be .* \(Couldn't reach 'o/s' on the Hub\): check",
        ),
        (
            RuntimeError("Dataset scripts are no longer supported, but found s.py"),
            r"its own code.*o/s@refs/convert/parquet",
        ),
        (ValueError("BuilderConfig 'x' not found. Available: ['a', 'b']"), r"--config NAME .*Available: \['a', 'b'\]"),
    ],
)
def test_hub_errors(tmp_path, monkeypatch, error, message):
    def fail(path, **options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    with pytest.raises(CorpusError, match=message):
        reader.read("o/s", tmp_path / "out")


def test_folders_that_are_no_dataset(tmp_path):
    out = tmp_path / "out"
    for source in (tmp_path / "nowhere", "./nowhere", "some/deep/folder"):
        with pytest.raises(CorpusError, match=r"does not exist: check the folder, or give the id of a dataset"):
            reader.read(source, out)
    (tmp_path / "file.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=r"file.parquet is a file: give the folder that it is in"):
        reader.read(tmp_path / "file.parquet", out)
    (tmp_path / "bad").mkdir()
    with pytest.raises(CorpusError, match=r"bad cannot be read as a dataset \(The directory at .*\): check its files"):
        reader.read(tmp_path / "bad", out)
    (tmp_path / "bad" / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=r"bad cannot be read as a dataset \(Parquet"):
        reader.read(tmp_path / "bad", out)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(CorpusError, match=r"code would have to run its own code, which layertool never does"):
        reader.read(tmp_path / "code", out)
    configs = "---\nconfigs:\n- config_name: a\n  data_files: a/*\n- config_name: b\n  data_files: b/*\n---\n"
    for name in ("a", "b"):
        (tmp_path / "two" / name).mkdir(parents=True)
        (tmp_path / "two" / name / "x.wav").write_bytes(WAV)
    (tmp_path / "two" / "README.md").write_text(configs)
    with pytest.raises(CorpusError, match=r"two needs another --config NAME \(Config name is missing.*\['a', 'b'\]\)"):
        reader.read(tmp_path / "two", out)
    assert reader.read(tmp_path / "two", out, config="b").provenance["config"] == "b"


def test_without_datasets(speech, tmp_path, monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(
        MissingExtraError, match=r"Hugging Face dataset needs .* pip install 'layertool\[huggingface\]'"
    ):
        reader.read(speech, tmp_path / "out")


def test_rows_with_unusable_audio_are_left_out_and_listed(tmp_path):
    """One that is found when it is written, one when it is probed; the metadata of the others stays beside them."""
    cells = [WAV, b"no audio", FLAC, WAV[:-100]]
    dataset = with_audio(
        {"audio": [{"bytes": c, "path": "x.wav"} for c in cells], "id": list("abcd"), "n": [1, 2, 3, 4]}
    )
    source = saved(dataset, tmp_path / "source")
    with pytest.raises(AudioError, match=r"cut short|cannot be read as audio"):
        reader.read(source, tmp_path / "out", max_failures=1)
    made = reader.read(source, tmp_path / "out", max_failures=2)
    assert made.utterances[["utterance", "n"]].values.tolist() == [["a", 1], ["c", 3]]
    assert set(made.provenance["left_out"]) == {"b", "d"}
    arrays = datasets.Dataset.from_dict(
        {"audio": [{"array": [0.5, value], "sampling_rate": 8000} for value in (0.1, 3e4)], "n": [1, 2]}
    )
    made = reader.read(saved(arrays, tmp_path / "arrays"), tmp_path / "out2", max_failures=1)
    assert made.utterances["n"].tolist() == [1]
    assert "samples from 0.5 to 30000" in made.provenance["left_out"]["1"]
