"""Spoken STS from every layout: each side of each row is an utterance, with the score of its pair."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
from commands import run, succeeds

import layertool
from layertool.corpora import spoken_sts as reader
from layertool.errors import AudioError, CorpusError, UsageError

datasets = pytest.importorskip("datasets")

# task, subtask, pair_id, similarity, speakers
PAIRS = (
    ("sts12", "MSRpar", 10, 3.25, ("ann", "bob", "Zoë", "dan")),
    ("sts12", "MSRpar", 9, 0.0, ("ann", "bob")),
    ("sts13", "überschrift_1", 9, 5.0, ("ann",)),
)
FIELDS = ["task", "subtask", "pair_id", "speaker_id", "similarity", "audio_a", "audio_b"]
RATES = (8_000, 16_000, 22_050)


def samples(row: int, side: int) -> np.ndarray:
    """Noise of a length and content of its own, in steps of 16 bits."""
    random = np.random.default_rng([row, side])
    return random.integers(-20_000, 20_000, 900 + 50 * row + 7 * side) / 2**15


def wav(row: int, side: int, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    waveform = np.repeat(samples(row, side)[:, None], channels, axis=1)
    soundfile.write(buffer, waveform, RATES[row % 3], format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def as_file(row: int, side: int) -> dict:
    return {"bytes": wav(row, side), "path": f"{row}_{'ab'[side]}.wav"}


def as_array(row: int, side: int) -> dict:
    return {"array": samples(row, side).tolist(), "sampling_rate": RATES[row % 3]}


def table(audio=as_file, pairs=PAIRS) -> dict[str, list]:
    """The columns of the dataset, one row for each pair and speaker."""
    rows = []
    for task, subtask, pair, similarity, speakers in pairs:
        for speaker in speakers:
            sides = audio(len(rows), 0), audio(len(rows), 1)
            rows.append(dict(zip(FIELDS, (task, subtask, pair, speaker, similarity, *sides), strict=True)))
    return {field: [row[field] for row in rows] for field in FIELDS}


def parquet(path: Path, columns: dict[str, list]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def saved(folder: Path, columns: dict[str, list], split: str | None = None) -> Path:
    """What save_to_disk writes: arrow files and state.json, below a folder for the split if there are splits."""
    dataset = datasets.Dataset.from_dict(columns)
    (datasets.DatasetDict({split: dataset}) if split else dataset).save_to_disk(str(folder))
    return folder


def declared(folder: Path, columns: dict[str, list]) -> Path:
    """The same with features of type Audio, and labels for the tasks."""
    dataset = datasets.Dataset.from_dict(columns).cast_column("task", datasets.ClassLabel(names=["sts12", "sts13"]))
    for side in ("audio_a", "audio_b"):
        dataset = dataset.cast_column(side, datasets.Audio(sampling_rate=16_000))
    dataset.save_to_disk(str(folder))
    return folder


LAYOUTS = {
    "parquet file": lambda place: parquet(place / "test-00000-of-00001.parquet", table()),
    "folder of the hub": lambda place: parquet(place / "hub" / "data" / "test-0.parquet", table()).parents[1],
    "parquet of arrays": lambda place: parquet(place / "arrays.parquet", table(as_array)),
    "saved": lambda place: saved(place / "saved", table()),
    "saved split": lambda place: saved(place / "split", table(), "test"),
    "saved arrays": lambda place: saved(place / "arrays", table(as_array)),
    "type Audio": lambda place: declared(place / "declared", {**table(), "task": [0, 0, 0, 0, 0, 0, 1]}),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(tmp_path, layout):
    source, out, seen = LAYOUTS[layout](tmp_path), tmp_path / "out", []
    made = reader.read(source, out, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 14) for n in range(1, 15)]
    got = made.utterances
    assert made.metadata_columns == ["pair", "side", "speaker", "similarity", "task", "subtask"]
    assert list(zip(got["pair"], got["speaker"], got["similarity"], strict=True))[::2] == [
        ("sts12_MSRpar_9", "ann", 0.0),
        ("sts12_MSRpar_9", "bob", 0.0),
        ("sts12_MSRpar_10", "Zoë", 3.25),
        ("sts12_MSRpar_10", "ann", 3.25),
        ("sts12_MSRpar_10", "bob", 3.25),
        ("sts12_MSRpar_10", "dan", 3.25),
        ("sts13_überschrift_1_9", "ann", 5.0),
    ]
    assert list(got["side"]) == ["a", "b"] * 7
    assert got["utterance"][4] == "sts12_MSRpar_10_Zoë_a"
    assert got["similarity"].dtype == float
    assert set(got["task"]) == {"sts12", "sts13"}
    assert set(got["subtask"]) == {"MSRpar", "überschrift_1"}
    rows = [4, 5, 2, 0, 1, 3, 6]  # of the dataset, in the order of the corpus
    for utterance, (row, side) in enumerate((row, side) for row in rows for side in (0, 1)):
        path = Path(got["audio"][utterance])
        assert path.parent == out / "audio"
        waveform, rate = soundfile.read(path)
        np.testing.assert_array_equal(waveform, samples(row, side))
        assert rate == got["sample_rate"][utterance] == RATES[row % 3]
        if "arrays" not in layout:
            assert path.read_bytes() == wav(row, side)
    assert made.name == "spoken-sts"
    told = made.provenance
    assert told["reader"] == "spoken-sts"
    assert told["source"] == str(source)
    assert told["pairs"] == 3
    assert told["pairs_without_a_similarity"] == told["pairs_that_lost_a_side"] == {"count": 0, "ids": []}
    assert "left_out" not in told
    assert len(os.listdir(out / "audio")) == 14
    made.write(out)
    assert layertool.Corpus.read(out).fingerprint == made.fingerprint


def test_the_order_of_the_rows_does_not_matter(tmp_path):
    columns = table()
    order = np.random.default_rng(3).permutation(7)
    mixed = {field: [values[k] for k in order] for field, values in columns.items()}
    one = reader.read(saved(tmp_path / "one", columns), tmp_path / "1")
    other = reader.read(saved(tmp_path / "other", mixed), tmp_path / "2")
    described = one.utterances.drop(columns="audio")
    pd.testing.assert_frame_equal(described, other.utterances.drop(columns="audio"))
    assert one.fingerprint == other.fingerprint
    for mine, theirs in zip(one.utterances["audio"], other.utterances["audio"], strict=True):
        assert Path(mine).relative_to(tmp_path / "1") == Path(theirs).relative_to(tmp_path / "2")
        assert Path(mine).read_bytes() == Path(theirs).read_bytes()


def test_the_folder_of_parquet_files_may_hold_other_splits(tmp_path):
    parquet(tmp_path / "hub" / "test-0.parquet", table())
    parquet(tmp_path / "hub" / "train-0.parquet", table(pairs=PAIRS[:1]))
    assert reader.read(tmp_path / "hub", tmp_path / "out").provenance["pairs"] == 3
    made = reader.read(tmp_path / "hub", tmp_path / "out", split="train")
    assert made.provenance["split"] == "train"
    assert made.provenance["pairs"] == 1
    with pytest.raises(CorpusError, match=r"hub has no split 'dev': choose from train, test with --split NAME"):
        reader.read(tmp_path / "hub", tmp_path / "out", split="dev")


def test_several_parquet_files_are_one_split(tmp_path):
    columns = table()
    for k, rows in enumerate((slice(0, 3), slice(3, 7))):
        parquet(tmp_path / "hub" / f"test-{k}.parquet", {f: values[rows] for f, values in columns.items()})
    made = reader.read(tmp_path / "hub", tmp_path / "out")
    assert len(made.utterances) == 14
    assert made.provenance["pairs"] == 3


def test_audio_that_is_named_lies_beside_the_parquet_file(tmp_path):
    columns = table(lambda row, side: {"bytes": None, "path": f"wav/{row}{side}.wav"})
    source = parquet(tmp_path / "sts.parquet", columns)
    with pytest.raises(CorpusError, match=r"'sts12_MSRpar_9_ann_a' of .*names the audio file wav/40.wav, which does"):
        reader.read(source, tmp_path / "out")
    (tmp_path / "wav").mkdir()
    for row in range(7):
        for side in (0, 1):
            (tmp_path / "wav" / f"{row}{side}.wav").write_bytes(wav(row, side))
    made = reader.read(source, tmp_path / "out")
    assert made.utterances["audio"][0] == str(tmp_path / "wav" / "40.wav")


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_pairs_without_a_score_are_left_out_and_counted(tmp_path, missing):
    columns = table()
    columns["similarity"][4:6] = [missing, missing]
    made = reader.read(parquet(tmp_path / "sts.parquet", columns), tmp_path / "out")
    assert made.provenance["pairs_without_a_similarity"] == {"count": 1, "ids": ["sts12_MSRpar_9"]}
    assert made.provenance["pairs"] == 2
    assert "sts12_MSRpar_9" not in set(made.utterances["pair"])
    assert len(os.listdir(tmp_path / "out" / "audio")) == 10
    columns["similarity"] = [missing] * 7
    columns["similarity"] = pa.array(columns["similarity"], pa.float64())
    with pytest.raises(CorpusError, match=r"no row of .* has a similarity: give a split with human scores"):
        reader.read(parquet(tmp_path / "none.parquet", columns), tmp_path / "out")


def test_scores_may_be_text(tmp_path):
    columns = table()
    columns["similarity"] = ["3.25"] * 4 + ["", " "] + ["5"]
    made = reader.read(parquet(tmp_path / "sts.parquet", columns), tmp_path / "out")
    assert sorted(made.utterances["similarity"].unique()) == [3.25, 5.0]
    assert made.provenance["pairs_without_a_similarity"]["ids"] == ["sts12_MSRpar_9"]


def changed(field: str, values: dict[int, object]):
    """The columns with some cells replaced; any text makes the whole field text."""
    cells = table()[field]
    for row, value in values.items():
        cells[row] = value
    return {field: list(map(str, cells)) if any(isinstance(v, str) for v in values.values()) else cells}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            changed("similarity", {1: 3.5}),
            r"the pair 'sts12_MSRpar_10' of .* has several similarities \(3.25 and 3.5\)",
        ),
        (changed("similarity", {5: None}), r"the pair 'sts12_MSRpar_9' of .* several similarities \(0.0 and none\)"),
        (changed("similarity", {6: "high"}), r"the pair 'sts13_überschrift_1_9' of .* similarity 'high', .* no number"),
        (changed("similarity", {6: float("inf")}), r"the pair 'sts13_überschrift_1_9' of .* 'inf', which is no number"),
        (changed("speaker_id", {5: "ann"}), r"'sts12_MSRpar_9' of .* has the speaker 'ann' more than once \(1 such"),
        (changed("speaker_id", {2: None, 3: None}), r"s.* has no 'speaker_id' in row 3 \(2 such rows\)"),
        (changed("task", {4: ""}), r"has no 'task' in row 5 \(1 such rows"),
        ({"similarity": [[1.0]] * 7}, r"the field 'similarity' of .* holds no text or numbers"),
        ({"audio_b": [1] * 7}, r"the field 'audio_b' of .* holds no audio"),
        (
            {"task": ["x"] * 4 + ["y_z", "y", "w"], "subtask": ["x"] * 4 + ["v", "z_v", "w"]},
            r"the pair 'y_z_v_9' of .* could be two",
        ),
        (
            {"pair_id": ["1", "1_p", "2", "3", "4", "5", "6"], "speaker_id": ["p_q", "q", *"rstuv"]},
            r"has the utterance id 'sts12_MSRpar_1_p_q_a' more than once",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_rows_that_contradict_each_other_are_refused_before_anything_is_written(tmp_path, kind, columns, says):
    columns = {**table(), **columns}
    source = parquet(tmp_path / "s.parquet", columns) if kind == "parquet" else saved(tmp_path / "s", columns)
    with pytest.raises(CorpusError, match=says):
        reader.read(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_fields_are_named_with_those_there(tmp_path):
    columns = table()
    del columns["similarity"], columns["audio_b"]
    says = r"has no column 'similarity' \(columns there: task, subtask, pair_id, speaker_id, audio_a\): give the split"
    with pytest.raises(CorpusError, match=says):
        reader.read(saved(tmp_path / "s", columns), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def broken(cells: dict[tuple[int, int], dict]):
    """Audio as files, some replaced: ``cells`` by row and side."""
    return lambda row, side: cells.get((row, side)) or as_file(row, side)


NOISE = {"bytes": b"this is no audio", "path": "x.wav"}
NOTHING = {"bytes": None, "path": None}


def test_unusable_audio_is_left_out_and_listed(tmp_path):
    source = parquet(tmp_path / "sts.parquet", table(broken({(0, 1): NOISE, (1, 0): NOTHING, (6, 0): NOTHING})))
    with pytest.raises(AudioError, match=r"sts12_MSRpar_10_ann_b.wav cannot be read as audio"):
        reader.read(source, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"utterance 'sts13_überschrift_1_9_ann_a' of .* has no audio"):
        reader.read(source, tmp_path / "out", max_failures=2)
    made = reader.read(source, tmp_path / "out", max_failures=3)
    left_out = made.provenance["left_out"]
    assert list(left_out) == ["sts12_MSRpar_10_ann_b", "sts12_MSRpar_10_bob_a", "sts13_überschrift_1_9_ann_a"]
    # the third pair had one speaker only: sentence b has nothing left to be compared with
    assert made.provenance["pairs_that_lost_a_side"] == {"count": 1, "ids": ["sts13_überschrift_1_9"]}
    assert made.provenance["pairs"] == 2
    ids = list(made.utterances["utterance"])
    assert len(ids) == 14 - 3 - 1
    assert {"sts12_MSRpar_10_ann_a", "sts12_MSRpar_10_bob_b"} < set(ids)
    by_id = dict(zip(ids, made.utterances["audio"], strict=True))
    assert Path(by_id["sts12_MSRpar_10_bob_b"]).read_bytes() == wav(1, 1)  # nobody has another's audio


def test_nothing_that_can_be_compared(tmp_path):
    pairs = PAIRS[2:]
    source = parquet(tmp_path / "sts.parquet", table(broken({(0, 0): NOISE}), pairs))
    with pytest.raises(CorpusError, match=r"no pair of .* has usable audio of both sentences: .*cannot be read"):
        reader.read(source, tmp_path / "out", max_failures=1)


def test_stereo_needs_a_channel(tmp_path):
    source = parquet(tmp_path / "s.parquet", table(lambda row, side: {"bytes": wav(row, side, 2), "path": None}))
    with pytest.raises(AudioError, match=r"_a.wav has 2 channels: say which to take with --channel 0"):
        reader.read(source, tmp_path / "out")
    made = reader.read(source, tmp_path / "out", channel="mix")
    assert set(made.utterances["channel"]) == {"mix"}
    with pytest.raises(UsageError, match="'left' is no channel"):
        reader.read(source, tmp_path / "out", channel="left")


def test_files_that_are_no_table(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=r"x.parquet cannot be read as a dataset \(Parquet"):
        reader.read(tmp_path / "x.parquet", tmp_path / "out")
    (tmp_path / "x.csv").write_text("task\n")
    with pytest.raises(CorpusError, match=r"x.csv is a file: give the folder that it is in"):
        reader.read(tmp_path / "x.csv", tmp_path / "out")
    with pytest.raises(CorpusError, match=r"nowhere does not exist"):
        reader.read(tmp_path / "nowhere", tmp_path / "out")


def test_the_command(tmp_path):
    columns = table(broken({(0, 1): NOISE}))
    columns["similarity"][4:6] = [None, None]
    source, out = saved(tmp_path / "sts", columns), tmp_path / "corpus"
    failed = run("corpus", "spoken-sts", source, "-o", out)
    assert failed.exit_code == 1
    assert "sts12_MSRpar_10_ann_b.wav cannot be read as audio" in failed.stderr
    assert not (out / "utterances.parquet").exists()
    told = succeeds("corpus", "spoken-sts", source, "-o", out, "--max-failures", "1").stdout
    assert "pairs without a similarity  1 (sts12_MSRpar_9)" in told
    assert "sts12_MSRpar_10_ann_b: " in told
    facts = json.loads(succeeds("corpus", "info", out, "--json").stdout)
    assert facts["utterances"] == 9
    assert facts["metadata"] == {"pair": 2, "side": 2, "speaker": 4, "similarity": 2, "task": 2, "subtask": 2}
    again = run("corpus", "spoken-sts", source, "-o", out)
    assert again.exit_code == 1
    assert "holds a corpus already" in again.stderr
    # extraction resamples: an utterance of every rate gets the frames of its 16 kHz length
    succeeds("extract", "mfcc", out, "-o", tmp_path / "store", "--units", "utterance")
    store = layertool.FeatureStore(tmp_path / "store")
    assert list(store.utterances["pair"]) == list(layertool.Corpus.read(out).utterances["pair"])
    assert np.isfinite(store.read("utterance", "mfcc")).all()
