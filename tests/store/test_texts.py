"""Texts that tables, HDF5, NumPy and lines of text cannot all hold: told before the work, or written."""

from __future__ import annotations

import datetime
import urllib.parse
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import small
from commands import refused, succeeds

import layertool
from layertool import columns
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, LayertoolWarning
from layertool.extractors import run
from layertool.store import FeatureStore, verify
from layertool.store.abx import export_fastabx
from layertool.store.export import export_npy, export_npz

N = 4
ENDS_LINES = ["a\nb", "a\r", "\ta", "a\x0bb", "a\x0cb", "a\x1cb", "a\x85b", "a\u2028b", "a\u2029", "a\x00b", "b\x00"]


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return small.corpus(tmp_path / "audio", N, 8000)


def with_columns(corpus: Corpus, **more) -> Corpus:
    return Corpus(corpus.utterances.assign(**more), corpus.segments, corpus.name)


def extracted(corpus: Corpus, out: Path, units=("phone", "word", "utterance"), model="mel") -> FeatureStore:
    store = layertool.extract(model, corpus, out, units=units)
    assert verify(store) == []
    return store


def view_of(store: FeatureStore) -> dict[str, list]:
    """What plain h5py reads of the utterances."""
    with h5py.File(store.path / "store.h5") as file:
        return {
            name: (dataset.asstr()[:] if dataset.dtype == object else dataset[:]).tolist()
            for name, dataset in file["utterances"].items()
        }


def no_forward(monkeypatch) -> None:
    """A run that comes to the audio fails the test."""

    def forward(*_):
        pytest.fail("the work was begun")

    monkeypatch.setattr(run, "write_shards", forward)


@pytest.mark.parametrize(
    "names",
    [
        {"x": "x", "x/y": "x%2Fy"},
        {"x/y": "x%2Fy", "x%2Fy": "x%252Fy"},
        {"x/y/z": "x%2Fy%2Fz", "x/y": "x%2Fy"},
        {".": "%2E", "..": "..", "./x": ".%2Fx", "/": "%2F", "//": "%2F%2F"},
        {"a\x00b": "a%00b", "a": "a"},
        {"100 %": "100 %", "50%de": "50%25de", "new\nline": "new\nline", " ": " "},
        {"n" * 70_000: "n" * 70_000},
    ],
)
def test_names_of_columns_that_hdf5_reads_as_places(corpus, tmp_path, names):
    cells = {name: [f"{k}{i}" for i in range(N)] for k, name in enumerate(names)}
    store = extracted(with_columns(corpus, **cells), tmp_path / "s", ("utterance",))
    assert {name: view_of(store)[written] for name, written in names.items()} == cells
    assert {name: store.utterances[name].tolist() for name in names} == cells
    assert {urllib.parse.unquote(written) for written in names.values()} == set(names)


def test_ordinary_names_and_cells_are_written_as_they_are(corpus, tmp_path):
    url = ["https://a.b/c%20d.wav"] * N
    assert view_of(extracted(with_columns(corpus, url=url), tmp_path / "s", ("utterance",)))["url"] == url


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ([[1]] * N, "holds a list in row 1"),
        ([{"a": 1}] * N, "holds a dict in row 1"),
        (["a", b"b", "c", "d"], "holds a bytes in row 2"),
        ([{1}] * N, "holds a set in row 1"),
        ([np.zeros(2)] * N, "holds a ndarray in row 1"),
        (["a", "b", "c\ud800", "d"], "'c\\ud800' (row 3) is not text that can be written as UTF-8"),
        ([1j] * N, "complex128"),
        (np.ones(N, np.longdouble), "make fractions of them"),
        (pd.period_range("2020", periods=N, freq="M"), "holds a Period"),
    ],
)
def test_cells_that_no_table_holds_are_told_before_the_work(corpus, tmp_path, monkeypatch, cells, says):
    no_forward(monkeypatch)
    plain = (
        cells
        if isinstance(cells, (np.ndarray, pd.PeriodIndex))
        else pd.Series(cells, dtype=object if says != "complex128" else None)
    )
    bad = with_columns(corpus, note=plain)
    for attempt in (lambda: layertool.extract("mel", bad, tmp_path / "s"), lambda: bad.write(tmp_path / "c")):
        with pytest.raises(CorpusError, match="the column 'note'") as told:
            attempt()
        assert says in str(told.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [("", "has no name"), (1, "two columns called '1'")],
)
def test_names_that_are_none_or_stand_twice(corpus, tmp_path, monkeypatch, name, says):
    bad = with_columns(corpus, **{"1": 1})
    bad.utterances[name] = "a"
    no_forward(monkeypatch)
    with pytest.raises(CorpusError, match=says):
        layertool.extract("mel", bad, tmp_path / "s")


def test_the_command_tells_it_before_the_work(corpus, tmp_path, monkeypatch):
    """A table that somebody has edited after layertool wrote it."""
    no_forward(monkeypatch)
    folder = corpus.write(tmp_path / "c")
    table = pd.read_parquet(folder / "utterances.parquet")
    table.assign(note=[[1, 2]] * N).to_parquet(folder / "utterances.parquet", index=False)
    assert "'note'" in refused("extract", "mel", folder, "-o", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_kinds_of_columns_keep_their_values(corpus, tmp_path):
    times = pd.DatetimeIndex(["2020-01-01 00:00", None, "2021-07-01 12:30", "2020-01-01 00:00"])
    cells = {
        "whole": pd.array([2**60 + 1, None, 3, 4], "Int64"),
        "all": pd.array([2**60 + 1, 2, 3, 4], "Int64"),
        "unsigned": pd.array([2**64 - 1, 2, 3, 4], "UInt64"),
        "kind": pd.Categorical(["a", None, "b/c", "a"]),
        "when": times,
        "zone": times.tz_localize("Europe/Berlin"),
        "truth": pd.array([True, None, False, True], "boolean"),
        "day": [datetime.date(2020, 1, 1)] * N,
        "long": ["a" * 200_000] * N,
        "nul": ["a\x00b", "\x00", "c\x00", "d"],
    }
    store = extracted(with_columns(corpus, **cells), tmp_path / "s", ("utterance",))
    view = view_of(store)
    assert view["whole"] == ["1152921504606846977", "", "3", "4"]
    assert view["all"] == [2**60 + 1, 2, 3, 4]
    assert [int(value) for value in view["unsigned"]] == [2**64 - 1, 2, 3, 4]
    assert view["kind"] == ["a", "", "b/c", "a"]
    assert view["when"] == ["2020-01-01", "", "2021-07-01 12:30:00", "2020-01-01"]
    assert view["zone"][2] == "2021-07-01 12:30:00+02:00"
    assert view["truth"] == ["True", "", "False", "True"]
    assert view["day"] == ["2020-01-01"] * N
    assert view["long"] == cells["long"]
    assert view["nul"] == ["a%00b", "%00", "c%00", "d"]
    assert store.utterances["nul"].tolist() == cells["nul"]
    assert columns.texts(store.utterances["whole"]).tolist() == ["1152921504606846977", None, "3", "4"]


@pytest.mark.parametrize("label", [None, 3, "a\ud800"])
def test_labels_that_are_no_text(corpus, tmp_path, monkeypatch, label):
    no_forward(monkeypatch)
    labels = corpus.segments["label"].astype(object)
    labels.iloc[3] = label
    bad = Corpus(corpus.utterances, corpus.segments.assign(label=pd.Series(labels, dtype=object)), "bad")
    with pytest.raises(CorpusError, match=r"has a phone with the label .* which is no text"):
        layertool.extract("mel", bad, tmp_path / "s", units=("phone",))


def test_audio_is_read_where_the_disk_has_it(tmp_path):
    """A file name of a Mac: its letters are two code points each, and stay so."""
    path = small.sound(tmp_path / "e\u0301.wav")
    corpus = Corpus.build([{"utterance": "e", "audio": str(path), "note": "e\u0301"}])
    store = extracted(corpus, tmp_path / "s", ("utterance",))
    assert store.utterances["audio"].tolist() == [str(path.resolve())]
    assert store.utterances["note"].tolist() == ["\u00e9"]


def test_columns_of_two_kinds_are_told(corpus, tmp_path):
    with pytest.warns(
        LayertoolWarning, match="the column 'mix' of the utterances of small holds text and whole numbers"
    ):
        extracted(with_columns(corpus, mix=["a", 1, "b", 2]), tmp_path / "s", ("utterance",))


@pytest.mark.parametrize("one", [7, None, 1.5])
def test_ids_that_are_no_text(corpus, tmp_path, one):
    ids = pd.Series([one, "u01", "u02", "u03"], dtype=object)
    bad = Corpus(corpus.utterances.assign(utterance=ids), corpus.segments.iloc[:0], "bad")
    with pytest.raises(CorpusError, match=r"for an id in row 1: ids are text"):
        layertool.extract("mel", bad, tmp_path / "s", units=("utterance",))


# exports


def hostile(corpus: Corpus) -> Corpus:
    """Ids and labels that end lines and cells, or are quotes, or look as if they had been written so."""
    names = [*ENDS_LINES, '"', "%0A", " a", "a b", "r\\n"]
    ids = {one: f"{one}{names[k]}" for k, one in enumerate(corpus.utterances["utterance"])}
    phones = (corpus.segments["tier"] == "phone").tolist()
    labels = [names[k % len(names)] if is_phone else f"w{names[k % 7]}" for k, is_phone in enumerate(phones)]
    segments = corpus.segments.astype({"utterance": str, "tier": str})
    return Corpus.build(
        corpus.utterances.assign(utterance=corpus.utterances["utterance"].map(ids), speaker=["a b", "c\nd"] * (N // 2)),
        segments.assign(utterance=segments["utterance"].map(ids), label=labels),
        "../..",
    )


def test_files_of_lines_have_a_line_a_row(corpus, tmp_path):
    store = extracted(hostile(corpus), tmp_path / "s")
    for path in export_npy(store, tmp_path / "out"):
        assert path.resolve().is_relative_to((tmp_path / "out").resolve())
        unit = path.parents[1].name.removesuffix("_level")
        rows = store.rows(unit)
        text = (path.parent.parent / "labels_0.lst").read_bytes().decode()
        lines = text.splitlines()  # at everything that may end a line
        assert len(lines) == len(rows) == len(np.load(path)) == text.count("\n")
        expected = rows["utterance" if unit == "utterance" else "label"].tolist()
        assert list(map(urllib.parse.unquote, lines)) == expected
        table = (path.parent.parent / "segments_0.tsv").read_bytes().decode()
        assert len(table.splitlines()) == table.count("\n") == len(rows) + 1
        assert {line.count("\t") for line in table.splitlines()} == {3}
        read = pd.read_csv(path.parent.parent / "segments_0.tsv", sep="\t", keep_default_na=False)
        assert read["utterance"].map(urllib.parse.unquote).tolist() == rows["utterance"].tolist()
        if unit != "utterance":
            assert read["label"].map(urllib.parse.unquote).tolist() == expected


def test_frames_have_a_line_a_row(corpus, tmp_path):
    store = extracted(hostile(corpus), tmp_path / "s", ("frame",))
    (path,) = export_npy(store, tmp_path / "out")
    text = (path.parent / "frames.tsv").read_bytes().decode()
    assert len(text.splitlines()) == len(np.load(path)) + 1
    counts = (path.parent / "n_frames.txt").read_text().split()
    assert sum(map(int, counts)) == len(np.load(path))
    assert len(counts) == N


def test_arrays_keep_labels_and_rows_together(corpus, tmp_path):
    store = extracted(hostile(corpus), tmp_path / "s")
    for path in export_npz(store, tmp_path / "out"):
        rows = store.rows(path.stem)
        with np.load(path) as arrays:
            assert len(arrays["label"]) == len(arrays["mel"]) == len(rows)
            for name in ("utterance", "label"):
                expected = [("" if text is None else text).replace("\x00", "%00") for text in rows[name]]
                assert arrays[name].tolist() == expected  # NumPy would cut what follows the last letter


def test_items_of_fastabx_have_seven_columns(corpus, tmp_path):
    store = extracted(hostile(corpus), tmp_path / "s", ("frame", "phone"))
    export_fastabx(store, tmp_path / "out")
    text = (tmp_path / "out" / "phone.item").read_bytes().decode()
    lines = text.splitlines()
    assert len(lines) == text.count("\n")
    assert {len(line.split()) for line in lines} == {len(line.split(" ")) for line in lines} == {7}
    said = {urllib.parse.unquote(line.split(" ")[3]) for line in lines[1:]}
    assert said <= set(store.labels["phone"])
    assert len(said) > N
    for line in lines[1:]:
        assert (tmp_path / "out" / "mel" / f"{line.split(' ')[0]}.pt").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "a/../../b", "x" * 300, "é" * 200, "a\x00b\n"])
def test_an_export_stays_in_its_folder(corpus, tmp_path, name):
    named = Corpus(corpus.utterances, corpus.segments, name)
    store = extracted(named, tmp_path / "s", ("utterance",))
    (path,) = export_npy(store, tmp_path / "a" / "out")
    assert path.exists()
    assert path.relative_to(tmp_path / "a" / "out").parts[0] == "mel"
    assert ".." not in path.parts


def test_hostile_labels_are_extracted_and_exported_by_commands(corpus, tmp_path):
    hostile(corpus).write(tmp_path / "c")
    succeeds("extract", "mel", tmp_path / "c", "-o", tmp_path / "s", "--units", "frame,phone")
    for layout in ("npy", "npz", "fastabx"):
        succeeds("export", tmp_path / "s", "-o", tmp_path / layout, "--to", layout)


def test_tables_with_carriage_returns_read_back(tmp_path):
    table = pd.DataFrame(
        {"name": ["a\rb", "a\nb", '"', "a,b", "", "c\r"], "n": [1, 2, 3, 4, 5, 6], "x": [0.5, None, 1, 2, 3, 4]}
    )
    columns.write_csv(table, tmp_path / "t.csv")
    back = pd.read_csv(tmp_path / "t.csv", keep_default_na=False, na_values={"x": [""]})
    pd.testing.assert_frame_equal(back, table, check_dtype=False)
    columns.write_csv(table[["n", "x"]], tmp_path / "u.csv")
    assert (tmp_path / "u.csv").read_text().splitlines()[:3] == ["n,x", "1,0.5", "2,"]


def test_names_of_files_that_are_no_text(corpus, tmp_path):
    small.sound(tmp_path / "bad" / "x.wav").rename(tmp_path / "bad" / "x\udcff.wav")
    assert "x\\udcff.wav has a name that is not text" in refused(
        "corpus", "folder", tmp_path / "bad", "-o", tmp_path / "c"
    )
