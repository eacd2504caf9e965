"""The store on the disk: what plain h5py sees, what verify finds, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import small
import xxhash

import layertool
from layertool.errors import LayertoolError, StoreError, UsageError
from layertool.store import FeatureStore, StoreWriter, layout, verify
from layertool.store.export import export_npy, export_npz

WIDTHS = {"C1": 3, "C7": 4, "T0": 5, "T1": 5, "final": 5, "D0": 2}
N_UTTERANCES, N_SHARDS = 8, 4
TABLE = {("frame", "C1"): "rows_160_400"}  # of the layers whose frames are not the model's
LABELS = {"word": ["a", "b", "ß"]}


def configuration(**changes):
    return {
        "model": {"id": "org/net", "family": "test", "revision": "abc"},
        "store_dtype": "float32",
        "layers": list(WIDTHS),
        "units": {"frame": "none", "word": "mean", "utterance": "mean"},
        **changes,
    }


def units_of(layer):
    return ["word", "utterance"] if layer == "D0" else ["frame", "word", "utterance"]


def about():
    units = {}
    for unit in ("frame", "word", "utterance"):
        there = [layer for layer in WIDTHS if unit in units_of(layer)]
        units[unit] = {"layers": there, "rows": {layer: TABLE.get((unit, layer), "rows") for layer in there}}
    return {
        "layers": {name: {"width": width, "geometry": None, "frame_average": None} for name, width in WIDTHS.items()},
        "units": units,
        "n_shards": N_SHARDS,
        "corpus": {"name": "a corpus", "n_utterances": N_UTTERANCES, "seconds": float(N_UTTERANCES)},
        "audio": {"sample_rate": 16000, "columns": ["utterance", "audio", "start", "end", "channel", "n_samples"]},
    }


def utterances():
    names = [f"u{k}" for k in range(N_UTTERANCES)]
    speakers = [None if k == 2 else f"s{k % 3}" for k in range(N_UTTERANCES)]
    return pd.DataFrame({"utterance": names, "n_samples": 16000, "speaker": speakers, "age": range(20, 28)})


def rows_of(utterance, hop, count, label=layout.NO_LABEL):
    rows = np.empty(count, layout.ROW_DTYPE)
    rows["utterance"], rows["start"] = utterance, hop * np.arange(count)
    rows["end"], rows["label"] = rows["start"] + hop, label
    return rows


def tables_of(shard):
    """Utterances 2s and 2s+1: 4 or 5 frames, twice that at 10 ms, 2 or 3 words."""
    pair = (2 * shard, 2 * shard + 1)
    return {
        "frame/rows": np.concatenate([rows_of(u, 320, 4 + u % 2) for u in pair]),
        "frame/rows_160_400": np.concatenate([rows_of(u, 160, 8 + u % 2) for u in pair]),
        "word/rows": np.concatenate([rows_of(u, 4000, 2 + u % 2, np.arange(2 + u % 2)) for u in pair]),
        "utterance/rows": np.concatenate([rows_of(u, 16000, 1) for u in pair]),
    }


def values(shard, unit, layer):
    rows = tables_of(shard)[f"{unit}/{TABLE.get((unit, layer), 'rows')}"]
    random = np.random.default_rng([shard, len(unit), list(WIDTHS).index(layer)])
    return random.standard_normal((len(rows), WIDTHS[layer])).astype(np.float32)


def expected(unit, layer):
    return np.concatenate([values(shard, unit, layer) for shard in range(N_SHARDS)])


def datasets_of_layers():
    return {(unit, layer) for layer in WIDTHS for unit in units_of(layer)}


def write_shard(writer, shard, dropped=(), dtype=np.float32):
    layers = {f"{u}/{name}": (WIDTHS[name], TABLE.get((u, name), "rows")) for u, name in sorted(datasets_of_layers())}
    part = writer.shard(shard, tables_of(shard), layers)
    for unit, layer in sorted(datasets_of_layers(), reverse=True):
        rows = values(shard, unit, layer).astype(dtype)
        for first in reversed(range(0, len(rows), 3)):  # rows may come in any order
            part.put(f"{unit}/{layer}", first, rows[first : first + 3])
    failures = [{"utterance": f"u{u}", "error": f"u{u} is bad"} for u in dropped]
    return part.finish(dropped, utterances=[2 * shard, 2 * shard + 2], seconds=2.0, failures=failures)


def opened(path, overwrite=False, **changes):
    return StoreWriter(path, configuration(**changes), about(), utterances(), LABELS, overwrite)


def complete(writer, dtype=np.float32):
    """Write the shards that are missing, and finish."""
    for shard in range(N_SHARDS):
        if shard not in writer.finished:
            write_shard(writer, shard, dtype=dtype)
    writer.finish(N_SHARDS)


def write(path, shards=range(N_SHARDS), dropped=None):
    with opened(path) as writer:
        for shard in shards:
            write_shard(writer, shard, (dropped or {}).get(shard, ()))
        if len(writer.finished) == N_SHARDS:
            writer.finish(N_SHARDS)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole store; not to be changed."""
    return write(tmp_path_factory.mktemp("made") / "store")


@pytest.fixture
def store(made, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(made, tmp_path / "store")


# reading


def test_what_was_written_is_read(made):
    store = FeatureStore(made)
    assert store.finished
    assert (store.model, store.units, store.layers) == ("org/net", ["frame", "word", "utterance"], list(WIDTHS))
    assert store.layers_of("frame") == ["C1", "C7", "T0", "T1", "final"]
    for unit, layer in datasets_of_layers():
        got = store.read(unit, layer)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected(unit, layer))
        assert (store.n_rows(unit, layer), store.width(layer)) == got.shape
        blocks = list(store.blocks(unit, layer, max_rows=4))
        assert max(map(len, blocks)) <= 4
        np.testing.assert_array_equal(np.concatenate(blocks), got)
    assert verify(store) == []


def test_rows_say_what_they_stand_for(made):
    store = FeatureStore(made)
    words = store.rows("word")
    assert list(words.columns) == ["utterance", "start", "end", "label", "speaker", "age"]
    assert words[["utterance", "start", "end", "label"]].to_numpy().tolist()[:5] == [
        ["u0", 0.0, 0.25, "a"],
        ["u0", 0.25, 0.5, "b"],
        ["u1", 0.0, 0.25, "a"],
        ["u1", 0.25, 0.5, "b"],
        ["u1", 0.5, 0.75, "ß"],
    ]
    assert words["age"].tolist()[:5] == [20, 20, 21, 21, 21]
    assert words["utterance"].tolist() == sorted(words["utterance"])
    assert list(store.rows("word", metadata=False).columns) == ["utterance", "start", "end", "label"]
    whole = store.rows("utterance")
    assert whole["utterance"].tolist() == [f"u{k}" for k in range(8)]
    assert whole["label"].tolist() == [None] * 8
    assert whole["speaker"].isna().tolist() == [k == 2 for k in range(8)]
    frames, fast = store.rows("frame", "T1"), store.rows("frame", "C1")
    assert (len(frames), len(fast)) == (36, 68)
    assert fast["end"].iloc[0] == 0.01
    assert len(store.rows("frame")) == 36


def test_a_moved_store_is_the_same_store(store, tmp_path, monkeypatch):
    store.rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    assert verify(FeatureStore(tmp_path / "moved")) == []
    with h5py.File(tmp_path / "moved" / "store.h5") as view:
        np.testing.assert_array_equal(view["word/T1"][:], expected("word", "T1"))


def test_what_a_store_has_not(made):
    store = FeatureStore(made)
    with pytest.raises(
        UsageError, match=r"has no unit 'phone' \(it has frame, word, utterance\): extract again with --units phone"
    ):
        store.read("phone", "T1")
    with pytest.raises(UsageError, match=r"has no layer 'T9' at unit word \(it has C1, C7, T0, T1, final, D0\)"):
        store.read("word", "T9")
    with pytest.raises(UsageError, match="has no layer 'D0' at unit frame"):
        store.rows("frame", "D0")


def test_what_is_no_store(tmp_path):
    with pytest.raises(
        StoreError, match=r"nowhere is not a feature store \(it does not exist\): make one with 'layertool extract"
    ):
        FeatureStore(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"is not a feature store \(it has no store\.json\)"):
        FeatureStore(tmp_path)


def test_an_unfinished_store(tmp_path):
    path = write(tmp_path / "s", [0, 2])
    with pytest.raises(
        StoreError, match=r"is unfinished \(2 of 4 shards\): run the same extract command again, it goes on"
    ):
        FeatureStore(path)
    half = FeatureStore(path, allow_unfinished=True)
    assert not half.finished
    assert verify(half) == ["shard 1 of 4 is not in the index", "shard 3 of 4 is not in the index"]
    np.testing.assert_array_equal(half.read("word", "T0"), np.concatenate([values(s, "word", "T0") for s in (0, 2)]))


def test_a_store_of_another_time(store):
    text = (store / "store.json").read_text()
    (store / "store.json").write_text(text.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(StoreError, match="has store schema 2, this layertool reads 1: extract it again"):
        FeatureStore(store)
    with pytest.raises(
        StoreError, match=r"has store schema 2, this layertool writes 1: .* or start again with --overwrite"
    ):
        opened(store)


# the files, read with nothing but h5py and json


def test_shards_in_plain_h5py(made):
    for shard in range(N_SHARDS):
        with h5py.File(made / "shards" / f"0000{shard}.h5") as file:
            for name, rows in tables_of(shard).items():
                np.testing.assert_array_equal(file[name][:], rows)
            for unit, layer in datasets_of_layers():
                dataset = file[f"{unit}/{layer}"]
                np.testing.assert_array_equal(dataset[:], values(shard, unit, layer))
                assert dataset.attrs["rows"] == TABLE.get((unit, layer), "rows")
                assert dataset.chunks is None
                assert dataset.compression is None


def test_the_view_in_plain_h5py(made):
    with h5py.File(made / "store.h5") as view:
        for unit, layer in datasets_of_layers():
            dataset = view[f"{unit}/{layer}"]
            assert dataset.is_virtual
            np.testing.assert_array_equal(dataset[:], expected(unit, layer))
            rows = view[unit][dataset.attrs["rows"]][:]
            assert len(rows) == len(dataset)
            assert (np.diff(rows["utterance"]) >= 0).all()
        assert view["utterances/utterance"].asstr()[:].tolist() == [f"u{k}" for k in range(8)]
        assert view["utterances/age"][:].tolist() == list(range(20, 28))
        assert view["utterances/speaker"].asstr()[2] == ""
        assert view["labels/word"].asstr()[:].tolist() == LABELS["word"]
        label = view["labels/word"].asstr()[:][view["word/rows"][4]["label"]]
        assert label == "ß"


def test_the_index(made):
    lines = [json.loads(line) for line in (made / "index.jsonl").read_text().splitlines()]
    assert [line["shard"] for line in lines] == [0, 1, 2, 3]
    for shard, line in enumerate(lines):
        path = made / line["file"]
        assert path.stat().st_size == line["size"]
        assert line["configuration"] == json.loads((made / "store.json").read_text())["configuration_hash"]
        assert line["utterances"] == [2 * shard, 2 * shard + 2]
        assert line["rows"] == {name: len(rows) for name, rows in tables_of(shard).items()}
        assert set(line["checksums"]) == {f"{u}/{name}" for u, name in datasets_of_layers()} | set(tables_of(shard))
        for unit, layer in datasets_of_layers():
            content = values(shard, unit, layer).tobytes()
            assert line["checksums"][f"{unit}/{layer}"] == xxhash.xxh3_128(content).hexdigest()


def test_nothing_else_is_left(made):
    names = sorted(str(p.relative_to(made)) for p in made.glob("**/*") if p.is_file())
    assert names == [
        ".lock",
        "index.jsonl",
        "labels.json",
        "shards/00000.h5",
        "shards/00001.h5",
        "shards/00002.h5",
        "shards/00003.h5",
        "store.h5",
        "store.json",
        "utterances.parquet",
    ]


def test_shards_in_any_order_make_the_same_store(made, tmp_path):
    other = write(tmp_path / "s", [3, 0, 2, 1])
    assert small.contents(other) == small.contents(made)
    np.testing.assert_array_equal(FeatureStore(other).read("frame", "C1"), expected("frame", "C1"))


def test_two_stores_have_equal_bytes(made, tmp_path):
    other = write(tmp_path / "s")
    for path in (*made.glob("shards/*"), made / "store.json", made / "index.jsonl", made / "labels.json"):
        assert (other / path.relative_to(made)).read_bytes() == path.read_bytes(), path


def test_checksums_are_of_all_rows(tmp_path):
    """Taken block by block, they are those of the whole."""
    for shape in ((0, 3), (1, 3), (layout.BLOCK_ROWS, 2), (2 * layout.BLOCK_ROWS + 1, 3)):
        array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        assert layout.checksum(array) == xxhash.xxh3_128(array.tobytes()).hexdigest()
        assert layout.checksum(np.asfortranarray(array)) == layout.checksum(array)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            assert layout.checksum(file.create_dataset("x", data=array)) == layout.checksum(array)
    assert (
        layout.checksum(tables_of(0)["word/rows"]) == xxhash.xxh3_128(tables_of(0)["word/rows"].tobytes()).hexdigest()
    )


def test_float16(tmp_path):
    with opened(tmp_path / "s", store_dtype="float16") as writer:
        complete(writer, np.float16)
    store = FeatureStore(tmp_path / "s")
    assert store.read("word", "T1").dtype == np.float16
    np.testing.assert_array_equal(store.read("word", "T1"), expected("word", "T1").astype(np.float16))
    with h5py.File(tmp_path / "s" / "store.h5") as view:
        assert view["word/T1"].dtype == np.float16
    assert verify(store) == []


# verify


def shard_path(store, shard):
    return store / "shards" / f"0000{shard}.h5"


def problems(store):
    return verify(FeatureStore(store, allow_unfinished=True))


def test_progress_is_told_in_bytes(made):
    told = []
    assert verify(FeatureStore(made), lambda done, total: told.append((done, total))) == []
    sizes = np.cumsum([shard_path(made, s).stat().st_size for s in range(N_SHARDS)])
    assert told == [(size, sizes[-1]) for size in sizes]


def test_a_flipped_bit(store):
    path = shard_path(store, 2)
    with h5py.File(path) as file:
        offset = file["word/T1"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 7] ^= 1  # a mantissa bit: the value stays finite and plausible
    path.write_bytes(content)
    assert problems(store) == ["shards/00002.h5, word/T1: the checksum differs, the data were changed after writing"]


def test_every_dataset_is_looked_at(store):
    path = shard_path(store, 1)
    with h5py.File(path) as file:
        offsets = {}
        file.visititems(
            lambda name, d: offsets.update({name: d.id.get_offset()}) if isinstance(d, h5py.Dataset) else None
        )
    whole = path.read_bytes()
    for name, offset in offsets.items():
        content = bytearray(whole)
        content[offset] ^= 1
        path.write_bytes(content)
        assert any(f"shards/00001.h5, {name}: the checksum differs" in text for text in problems(store)), name


def test_a_truncated_shard(store):
    path = shard_path(store, 1)
    size = path.stat().st_size
    for length in (size - 1, size // 2, 100, 0):
        os.truncate(path, length)
        found = problems(store)
        assert found[0] == f"shards/00001.h5 has {length} bytes, {size} were written"
        assert all("shards/00001.h5" in text for text in found)


MISSING_VIEW = "store.h5 is missing: run the same extract command again (or layertool store merge), it is written anew"


def test_a_deleted_shard(store):
    shard_path(store, 3).unlink()
    with pytest.raises(
        StoreError, match=r"00003\.h5 is missing: run the same extract command again, it redoes just this shard"
    ):
        FeatureStore(store).read("word", "T1")
    assert problems(store) == ["shards/00003.h5 is missing"]


def test_a_damaged_shard_of_the_right_size(store, made):
    """It looks finished until it is read: what reads it names it, and what verify finds is done again."""
    path = shard_path(store, 3)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(
        StoreError, match=r"00003\.h5 cannot be opened .*: delete it and run the same extract command again"
    ):
        FeatureStore(store).read("word", "T1")
    with opened(store) as writer:
        assert sorted(writer.finished) == [0, 1, 2, 3]
    assert any(text.startswith("shards/00003.h5 cannot be ") for text in problems(store))
    with pytest.raises(
        StoreError, match=r"is damaged \(1 of 4 shards; shard 3: .*\): run the same extract command again"
    ):
        FeatureStore(store)
    with opened(store) as writer:
        assert sorted(writer.finished) == [0, 1, 2]
        complete(writer)
    assert problems(store) == []
    assert small.contents(store) == small.contents(made)


def test_damage_that_cannot_be_kept_is_told(store, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(layout, "write_json", refuse)
    assert problems(store) == []
    shard_path(store, 3).write_bytes(b"")
    told = problems(store)
    assert told[-1].startswith("damaged.json cannot be written ([Errno 30] Read-only file system): the next run will")


def test_a_missing_view(store):
    (store / "store.h5").unlink()
    assert problems(store) == [MISSING_VIEW]


@pytest.mark.parametrize("content", [b"", b"not HDF5", None], ids=["empty", "other", "half"])
def test_a_damaged_view(store, content):
    path = store / "store.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)
    (found,) = problems(store)
    assert found.startswith("store.h5 ")
    assert "run the same extract command again" in found


def test_a_view_without_a_layer(store):
    with h5py.File(store / "store.h5", "a") as view:
        del view["word/T1"]
    assert any("store.h5" in text and "T1" in text for text in problems(store))


def test_a_view_of_fewer_rows(store):
    with h5py.File(store / "store.h5", "a") as view:
        attributes = dict(view["word/T1"].attrs)
        del view["word/T1"]
        view["word/T1"] = expected("word", "T1")[:-1]
        view["word/T1"].attrs.update(attributes)
    assert any("store.h5, word/T1: 19 rows instead of 20" in text for text in problems(store))


def change_index(store, change, shard=1):
    path = store / "index.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines[shard])
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def test_a_changed_index(store):
    good = (store / "index.jsonl").read_text()

    def changed(change):
        (store / "index.jsonl").write_text(good)
        change_index(store, change)
        return problems(store)

    size = shard_path(store, 1).stat().st_size
    assert changed(lambda e: e.update(size=size + 8)) == [f"shards/00001.h5 has {size} bytes, {size + 8} were written"]
    assert changed(lambda e: e["checksums"].update({"word/T1": "0" * 32})) == [
        "shards/00001.h5, word/T1: the checksum differs, the data were changed after writing"
    ]
    assert any(
        "shards/00001.h5, word/T1: shape" in text for text in changed(lambda e: e["rows"].update({"word/rows": 4}))
    )
    with pytest.raises(StoreError, match=r"index\.jsonl, line 2, .*file is not shards/00001\.h5"):
        changed(lambda e: e.update(file="shards/00009.h5"))
    assert any("has no dataset word/T2" in t for t in changed(lambda e: e["checksums"].update({"word/T2": "0" * 32})))
    assert changed(lambda e: e.update(configuration="0" * 32)), "a shard of another configuration"
    for field in ("file", "size", "rows", "checksums", "utterances", "configuration"):
        with pytest.raises(StoreError, match=r"index\.jsonl, line 2, is damaged: delete that line"):
            changed(lambda e, field=field: e.pop(field))


def test_a_missing_index_line(store):
    lines = (store / "index.jsonl").read_text().splitlines(keepends=True)
    (store / "index.jsonl").write_text("".join(lines[:1] + lines[2:]))
    assert problems(store)[0] == "shard 1 of 4 is not in the index"
    (store / "index.jsonl").unlink()
    assert problems(store)[:4] == [f"shard {k} of 4 is not in the index" for k in range(4)]


def rewrite(store, shard, name, change):
    """Change a dataset and make its checksum right: what a wrong program would write."""
    with h5py.File(shard_path(store, shard), "a") as file:
        data = file[name][:]
        change(data)
        file[name][:] = data
    entry = {name: layout.checksum(data)}
    change_index(store, lambda e: e["checksums"].update(entry), shard)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("word/T1", lambda d: d.__setitem__((2, 1), np.nan), "shards/00001.h5, word/T1: values that are not finite"),
        ("word/T1", lambda d: d.__setitem__((2, 1), np.inf), "shards/00001.h5, word/T1: values that are not finite"),
        (
            "word/rows",
            lambda d: d["utterance"].__setitem__(slice(None), d["utterance"][::-1].copy()),
            "rows are not in corpus order",
        ),
        ("word/rows", lambda d: d["end"].__setitem__(1, d["start"][1]), "rows that end before they start"),
        ("word/rows", lambda d: d["start"].__setitem__(0, -1), "rows that start outside their utterance"),
        (
            "word/rows",
            lambda d: (d["start"].__setitem__(4, 16000), d["end"].__setitem__(4, 16001)),
            "rows that start outside",
        ),
        ("word/rows", lambda d: d["label"].__setitem__(0, 3), "label codes without a label"),
        (
            "word/rows",
            lambda d: d["utterance"].__setitem__(0, 1),
            "utterance codes outside this shard's part of the corpus",
        ),
        (
            "word/rows",
            lambda d: d["utterance"].__setitem__(-1, 4),
            "utterance codes outside this shard's part of the corpus",
        ),
        (
            "word/rows",
            lambda d: d["utterance"].__setitem__(-1, 99),
            "utterance codes outside this shard's part of the corpus",
        ),
    ],
)
def test_what_a_wrong_program_would_write(store, name, change, said):
    rewrite(store, 1, name, change)
    assert any(text.startswith("shards/00001.h5, ") and said in text for text in problems(store)), problems(store)


def test_a_changed_description(store):
    """Numbers do not tell from which model they are: what says so must be what was written."""
    text = (store / "store.json").read_text()
    (store / "store.json").write_text(text.replace('"revision": "abc"', '"revision": "abd"'))
    assert any("store.json" in found for found in problems(store))


def test_changed_labels(store):
    (store / "labels.json").write_text((store / "labels.json").read_text().replace('"b"', '"c"'))
    assert any("labels.json" in found for found in problems(store))


def test_damaged_tables(store):
    (store / "labels.json").write_text("[")
    with pytest.raises(StoreError, match=r"labels\.json is not readable as the labels of a store"):
        verify(FeatureStore(store))
    shutil.copy(store / "store.h5", store / "utterances.parquet")
    with pytest.raises(StoreError, match=r"utterances\.parquet is not readable"):
        verify(FeatureStore(store))
    (store / "store.json").write_text("{")
    with pytest.raises(StoreError, match=r"store\.json is not readable as the description of a store"):
        FeatureStore(store)


FLIPS = """
import random, sys
from pathlib import Path
from layertool.store import FeatureStore, verify
path, store, found = Path(sys.argv[1]), Path(sys.argv[2]), 0
whole, rng = path.read_bytes(), random.Random(0)
for byte in rng.sample(range(len(whole)), 100):
    content = bytearray(whole)
    content[byte] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    found += bool(verify(FeatureStore(store, allow_unfinished=True)))
print(found)
"""


@pytest.mark.slow
def test_any_flipped_bit_of_a_shard_is_no_crash(store):
    """In a process of its own: HDF5 itself may crash on damaged metadata."""
    command = [sys.executable, "-c", FLIPS, shard_path(store, 1), store]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 10 < int(done.stdout) <= 100  # most of so small a file is padding


# going on


def test_a_torn_last_line_is_redone(store, made):
    lines = (store / "index.jsonl").read_bytes().splitlines(keepends=True)
    for torn in (lines[3][:-1], lines[3][:40], lines[3][:1]):
        (store / "index.jsonl").write_bytes(b"".join(lines[:3]) + torn)
        assert sorted(FeatureStore(store, allow_unfinished=True).index) == [0, 1, 2]
        with opened(store) as writer:
            assert sorted(writer.finished) == [0, 1, 2]
            complete(writer)
        assert (store / "index.jsonl").read_bytes() == b"".join(lines)
        assert problems(store) == []
    assert small.contents(store) == small.contents(made)


def test_a_damaged_middle_line_is_named(store):
    path = store / "index.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * 40 + lines[1][40:] + lines[2] + lines[3])
    message = (
        r"index\.jsonl, line 2, is damaged: delete that line and run the same extract command again, "
        "it redoes just that shard"
    )
    with pytest.raises(StoreError, match=message):
        FeatureStore(store)
    with pytest.raises(StoreError, match=message):
        opened(store)
    path.write_bytes(lines[0] + lines[2] + lines[3])  # what the message says
    with opened(store) as writer:
        assert sorted(writer.finished) == [0, 2, 3]
        complete(writer)
    assert problems(store) == []
    np.testing.assert_array_equal(FeatureStore(store).read("word", "T1"), expected("word", "T1"))


def test_a_shard_that_is_gone_or_cut_is_redone(store, made):
    shard_path(store, 0).unlink()
    os.truncate(shard_path(store, 2), 1000)
    with opened(store) as writer:
        assert sorted(writer.finished) == [1, 3]
        complete(writer)
    assert problems(store) == []
    assert small.contents(store) == small.contents(made)


def test_a_shard_of_another_configuration_is_redone(store):
    change_index(store, lambda e: e.update(configuration="0" * 32))
    with opened(store) as writer:
        assert sorted(writer.finished) == [0, 2, 3]


def test_leftovers_of_a_kill_are_cleared_away(store):
    for name in (".store.json.99.part", "shards/.00001.h5.99.part", "shards/.00001.h5.99.whole.part"):
        (store / name).write_bytes(b"half")
    opened(store).close()
    assert not list(store.glob("**/*.part"))


def test_a_missing_shard_cannot_be_finished(tmp_path):
    with opened(tmp_path / "s") as writer:
        write_shard(writer, 0)
        with pytest.raises(StoreError, match="is unfinished: 3 of 4 shards are missing; run the same command again"):
            writer.finish(N_SHARDS)


def test_an_abandoned_shard_leaves_nothing(tmp_path):
    with opened(tmp_path / "s") as writer:
        part = writer.shard(0, tables_of(0), {"word/T1": (5, "rows")})
        part.put("word/T1", 0, values(0, "word", "T1"))
        part.abandon()
        assert list((tmp_path / "s" / "shards").iterdir()) == []
        assert not (tmp_path / "s" / "index.jsonl").exists()


def test_new_metadata_are_taken_over(store):
    with StoreWriter(store, configuration(), about(), utterances().assign(gender="f"), LABELS) as writer:
        assert len(writer.finished) == N_SHARDS
        writer.finish(N_SHARDS)
    assert FeatureStore(store).rows("word")["gender"].tolist() == ["f"] * 20
    with h5py.File(store / "store.h5") as view:
        assert view["utterances/gender"].asstr()[:].tolist() == ["f"] * 8
    assert problems(store) == []


# utterances that failed


def test_dropped_utterances_leave_no_rows(tmp_path):
    path = write(tmp_path / "s", dropped={1: [2], 3: [6, 7]})
    store = FeatureStore(path)
    assert verify(store) == []
    assert [f["utterance"] for f in store.failures] == ["u2", "u6", "u7"]
    assert store.failures[0]["error"] == "u2 is bad"
    assert store.rows("utterance")["utterance"].tolist() == ["u0", "u1", "u3", "u4", "u5"]
    for unit, layer in datasets_of_layers():
        table = TABLE.get((unit, layer), "rows")
        owner = np.concatenate([tables_of(s)[f"{unit}/{table}"]["utterance"] for s in range(N_SHARDS)])
        np.testing.assert_array_equal(store.read(unit, layer), expected(unit, layer)[~np.isin(owner, [2, 6, 7])])
        with h5py.File(path / "store.h5") as view:
            np.testing.assert_array_equal(view[f"{unit}/{layer}"][:], store.read(unit, layer))
            assert len(view[f"{unit}/{table}"]) == store.n_rows(unit, layer)
    assert not list(path.glob("**/*.part"))
    with h5py.File(shard_path(path, 3)) as file:
        assert file["word/T1"].shape == (0, 5)
        assert file["word/T1"].attrs["rows"] == "rows"


def test_a_store_of_which_nothing_is_left(tmp_path):
    path = write(tmp_path / "s", dropped={k: [2 * k, 2 * k + 1] for k in range(N_SHARDS)})
    store = FeatureStore(path)
    assert verify(store) == []
    assert store.read("word", "T1").shape == (0, 5)
    assert store.rows("word").empty
    with h5py.File(path / "store.h5") as view:
        assert view["word/T1"].shape == (0, 5)


# refusing


def test_another_configuration_is_named_field_by_field(store):
    with pytest.raises(StoreError) as caught:
        opened(
            store,
            store_dtype="float16",
            layers=["T0", "T1"],
            cmvn=True,
            model={"id": "org/net", "family": "test", "revision": "abd"},
        )
    text = str(caught.value)
    assert text.startswith(f"{store} was made with another configuration: ")
    for said in (
        "store_dtype = float32 (asked: float16)",
        "layers = C1 C7 T0 T1 final D0 (asked: T0 T1)",
        "cmvn = none (asked: True)",
        "model.revision = abc (asked: abd)",
    ):
        assert said in text
    assert "model.id" not in text
    assert "units" not in text
    assert text.endswith("Choose another -o, or start again with --overwrite")
    assert problems(store) == []


def test_overwrite_starts_again(store):
    (store / "mine.txt").write_text("keep me")
    with opened(store, overwrite=True, layers=["other"]) as writer:
        assert writer.finished == {}
        assert not (store / "index.jsonl").exists()
        assert not (store / "store.h5").exists()
        assert list((store / "shards").iterdir()) == []
        complete(writer)
    assert problems(store) == []
    assert FeatureStore(store).configuration["layers"] == ["other"]
    assert (store / "mine.txt").read_text() == "keep me"


def test_a_folder_that_holds_other_things(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"is no store but holds other things \(thesis\.tex\): choose another -o"):
            opened(tmp_path, overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["utterances.parquet", "labels.json", "index.jsonl", "store.h5"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_only_has_the_name_of_ours(tmp_path, name, overwrite):
    """A corpus made by hand may be one utterances.parquet; -o on that folder must not replace it."""
    (tmp_path / name).write_bytes(b"years of work")
    with pytest.raises(StoreError, match=rf"is no store but holds other things \({name}\): choose another -o"):
        opened(tmp_path, overwrite)
    assert (tmp_path / name).read_bytes() == b"years of work"


def test_a_file_in_the_place_of_a_store(tmp_path):
    (tmp_path / "s").write_text("")
    with pytest.raises(StoreError, match="s is a file, a store is a folder: choose another -o"):
        opened(tmp_path / "s")


def test_one_writer_at_a_time(tmp_path):
    first = opened(tmp_path / "s")
    program = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "import test_store\n"
        "try: test_store.opened(sys.argv[3], overwrite=sys.argv[4] == 'yes')\n"
        "except test_store.StoreError as error: print(error); sys.exit(3)\n"
    )
    here = os.path.dirname(__file__)
    for overwrite in ("no", "yes"):
        command = [sys.executable, "-c", program, here, os.path.dirname(here), str(tmp_path / "s"), overwrite]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 3, done.stderr
        assert done.stdout == (
            f"{tmp_path / 's'} is being written by another layertool process: wait for it, or choose another -o\n"
        )
    with pytest.raises(StoreError, match="is being written by another layertool process"):
        opened(tmp_path / "s")
    write_shard(first, 0)
    first.close()
    with opened(tmp_path / "s") as second:
        assert sorted(second.finished) == [0]


def test_a_refused_writer_lets_go(store):
    with pytest.raises(StoreError):
        opened(store, layers=["other"])
    opened(store).close()


# export


def test_export_as_npy(made, tmp_path):
    store = FeatureStore(made)
    written = export_npy(store, tmp_path / "out")
    root = tmp_path / "out" / "org_net" / "a_corpus"
    place = {
        ("frame", "C1"): "local/frame_level/layer_1.npy",
        ("frame", "C7"): "local/frame_level/layer_7.npy",
        ("frame", "T0"): "contextualized/frame_level/layer_0.npy",
        ("frame", "T1"): "contextualized/frame_level/layer_1.npy",
        ("frame", "final"): "contextualized/frame_level/layer_final.npy",
        ("word", "C1"): "local/word_level/0/layer_1.npy",
        ("word", "C7"): "local/word_level/0/layer_7.npy",
        ("word", "T0"): "contextualized/word_level/0/layer_0.npy",
        ("word", "T1"): "contextualized/word_level/0/layer_1.npy",
        ("word", "final"): "contextualized/word_level/0/layer_final.npy",
        ("word", "D0"): "decoder/word_level/0/layer_0.npy",
    }
    place |= {("utterance", name): p.replace("word", "utterance") for (u, name), p in place.items() if u == "word"}
    assert sorted(written) == sorted(root / path for path in place.values())
    for (unit, layer), path in place.items():
        got = np.load(root / path, allow_pickle=False)
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, expected(unit, layer))
    words = store.rows("word")
    for kind in ("local", "contextualized", "decoder"):
        level = root / kind / "word_level"
        assert (level / "labels_0.lst").read_text(encoding="utf-8").splitlines() == words["label"].tolist()
        table = pd.read_csv(level / "segments_0.tsv", sep="\t")
        assert table.to_numpy().tolist() == words[["utterance", "start", "end", "label"]].to_numpy().tolist()
    level = root / "contextualized" / "utterance_level"
    assert (level / "labels_0.lst").read_text().split() == [f"u{k}" for k in range(8)]
    level = root / "contextualized" / "frame_level"
    assert (level / "n_frames.txt").read_text().split() == ["4", "5"] * 4
    assert len(pd.read_csv(level / "frames.tsv", sep="\t")) == 36
    assert not list(root.glob("**/.*"))


def test_every_exported_frame_matrix_has_its_frame_counts(made, tmp_path):
    """C1 to C6 stand in one folder with C7 but have twice its frames."""
    export_npy(FeatureStore(made), tmp_path, ["frame"])
    level = tmp_path / "org_net" / "a_corpus" / "local" / "frame_level"
    totals = {sum(map(int, path.read_text().split())) for path in level.glob("n_frames*.txt")}
    assert totals == {len(np.load(path)) for path in level.glob("layer_*.npy")} == {36, 68}
    assert {len(pd.read_csv(path, sep="\t")) for path in level.glob("frames*.tsv")} == totals


def test_export_as_npz(made, tmp_path):
    store = FeatureStore(made)
    written = export_npz(store, tmp_path / "out")
    assert sorted(p.name for p in written) == ["frame.npz", "frame_10ms.npz", "utterance.npz", "word.npz"]
    for path in written:
        unit, fast = path.stem.split("_")[0], path.stem.endswith("10ms")
        layers = [n for n in WIDTHS if unit in units_of(n) and ((unit, n) in TABLE) == fast]
        with np.load(path, allow_pickle=False) as arrays:
            assert set(arrays.files) == {"utterance", "start", "end", "label", *layers}
            rows = store.rows(unit, layers[0])
            assert arrays["utterance"].tolist() == rows["utterance"].tolist()
            assert arrays["start"].tolist() == rows["start"].tolist()
            assert arrays["end"].tolist() == rows["end"].tolist()
            assert arrays["label"].tolist() == [label or "" for label in rows["label"]]
            for layer in layers:
                np.testing.assert_array_equal(arrays[layer], expected(unit, layer))
    assert [p for p in (tmp_path / "out").iterdir() if p not in written] == []


def test_exports_of_a_choice(made, tmp_path):
    store = FeatureStore(made)
    told = []
    written = export_npy(store, tmp_path, ["word"], "T0-T1,C7", progress=lambda *p: told.append(p))
    assert [p.name for p in written] == ["layer_7.npy", "layer_0.npy", "layer_1.npy"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(
        StoreError, match=r"layer_7\.npy exists already: choose another -o, or replace it with --overwrite"
    ):
        export_npy(store, tmp_path, ["word"], "C7")
    export_npy(store, tmp_path, ["word"], "C7", overwrite=True)
    written = export_npz(store, tmp_path / "z", ["word"], "T1")
    with np.load(written[0]) as arrays:
        assert set(arrays.files) == {"utterance", "start", "end", "label", "T1"}
    with pytest.raises(StoreError, match=r"word\.npz exists already"):
        export_npz(store, tmp_path / "z", ["word"], "T1")
    with pytest.raises(UsageError, match=r"'T7' is no layer of .*: it has C1, C7, T0-T1, final, D0"):
        export_npy(store, tmp_path, None, "T7")
    with pytest.raises(UsageError, match="has no unit 'phone'"):
        export_npz(store, tmp_path, ["phone"])
    with pytest.raises(UsageError, match="has none of the layers D0 at the units frame"):
        export_npy(store, tmp_path, ["frame"], "D0")


def test_float16_exports(tmp_path):
    with opened(tmp_path / "s", store_dtype="float16") as writer:
        complete(writer, np.float16)
    store = FeatureStore(tmp_path / "s")
    (path,) = export_npy(store, tmp_path / "npy", ["word"], "T1")
    assert np.load(path).dtype == np.float32  # what Pasad et al.'s code reads
    (path,) = export_npz(store, tmp_path / "npz", ["word"], "T1")
    with np.load(path) as arrays:
        assert arrays["T1"].dtype == np.float16


# from a real run


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return small.corpus(tmp_path_factory.mktemp("speech"), 6, 8000)


def test_a_real_run_leaves_out_bad_audio(speech, tmp_path):
    bad = tmp_path / "audio"
    shutil.copytree(os.path.dirname(speech.utterances["audio"][0]), bad)
    table = speech.utterances.assign(audio=[str(bad / os.path.basename(p)) for p in speech.utterances["audio"]])
    corpus = layertool.Corpus(table, speech.segments, "small")
    (bad / "u02.wav").write_bytes(b"")
    with pytest.raises(LayertoolError, match=r"u02\.wav is empty"):
        layertool.extract("mel", corpus, tmp_path / "s", shard_seconds=1.0)
    assert not list((tmp_path / "s").glob("**/*.part"))
    store = layertool.extract("mel", corpus, tmp_path / "s", shard_seconds=1.0, max_failures=1)
    assert [f["utterance"] for f in store.failures] == ["u02"]
    assert verify(store) == []
    whole = layertool.extract("mel", speech, tmp_path / "whole", shard_seconds=1.0)
    for unit in ("word", "utterance"):
        keep = (whole.rows(unit)["utterance"] != "u02").to_numpy()
        assert not keep.all()
        np.testing.assert_array_equal(store.read(unit, "mel"), whole.read(unit, "mel")[keep])
        assert store.rows(unit)["utterance"].tolist() == whole.rows(unit)["utterance"][keep].tolist()


def test_workers_and_batches_do_not_change_a_byte(speech, tmp_path):
    one = layertool.extract("fbank", speech, tmp_path / "a", ["frame", "phone"], workers=1, batch_seconds=0.1)
    four = layertool.extract("fbank", speech, tmp_path / "b", ["phone", "frame"], workers=4, batch_seconds=60)
    assert small.contents(one.path) == small.contents(four.path)
