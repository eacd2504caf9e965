"""The files of fastabx: what is in them, and which frames fastabx would take of them by its own rule."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import models
import numpy as np
import pandas as pd
import pytest
import small
import torch
from commands import run, succeeds

import layertool
from layertool.cli import SUMMARIES
from layertool.errors import StoreError, UsageError
from layertool.geometry import FrameGeometry
from layertool.store import FeatureStore, StoreWriter, abx, layout
from layertool.store.abx import export_fastabx, file_name, shift_ms

GEOMETRY = {
    "C1": FrameGeometry(5, 10),  # averaged to 10 ms in stores
    "T0": FrameGeometry(320, 400),
    "T1": FrameGeometry(320, 400),
}
STORED = {**GEOMETRY, "C1": FrameGeometry(160, 400)}
WIDTHS = {"C1": 3, "T0": 4, "T1": 4}
TABLE = {"C1": "rows_160_400", "T0": "rows", "T1": "rows"}
IDS = ["a/b 1", "a_b 1", 'c%"d', "ü.x", "short"]
LENGTHS = [16_000, 12_345, 9_000, 8_000, 399]  # samples; the last is too short for a frame
SPEAKERS = ["s 1", "s2", "s 1", "s2", "s2"]
# (utterance, start, end, label) in samples
PHONES = [
    (0, 0, 1600, "SIL"),
    (0, 1600, 3200, "aa"),
    (0, 3200, 4810, "b c"),
    (0, 4810, 4900, "t"),  # no frame of 20 ms has its centre there
    (0, 5000, 8000, "iy"),  # 100 samples later: rounding
    (0, 8200, 12000, "k"),  # 200 samples later: a pause
    (0, 12000, 16000, "aa"),  # up to the end, where no whole frame lies
    (1, 0, 4000, "b c"),
    (1, 4000, 8000, "spn"),
    (1, 8000, 12345, "aa"),
    (2, 500, 4500, "iy"),
    (2, 4500, 9000, "sp"),
    (3, 7700, 8000, "aa"),  # after the last frame
    (4, 0, 399, "aa"),
]
WORDS = [(0, 1600, 4900, "tea"), (0, 5000, 16000, "007"), (1, 0, 4000, "7"), (1, 4000, 8000, "<unk>")]


def table(rows, labels):
    out = np.empty(len(rows), layout.ROW_DTYPE)
    for k, (utterance, start, end, label) in enumerate(rows):
        out[k] = (utterance, start, end, labels.index(label) if label is not None else layout.NO_LABEL)
    return out


def frame_rows(utterances, geometry):
    rows = []
    for u in utterances:
        start, end = geometry.spans(geometry.n_frames(LENGTHS[u]))
        rows += [(u, s, e, None) for s, e in zip(start, end, strict=True)]
    return table(rows, [])


def make(path, units=("frame", "phone", "word"), dtype="float32", speakers=SPEAKERS, phones=PHONES):
    """A store of two shards (utterances 0-2 and 3-4) whose frames are random."""
    tiers = {"phone": phones, "word": WORDS}
    labels = {tier: sorted({r[3] for r in tiers[tier]}) for tier in units if tier in tiers}
    about = {
        "layers": {
            name: {
                "width": w,
                "geometry": GEOMETRY[name].to_json(),
                "frame_average": [79, 32] if name == "C1" else None,
            }
            for name, w in WIDTHS.items()
        },
        "units": {
            unit: {
                "layers": list(WIDTHS),
                "rows": {name: TABLE[name] if unit == "frame" else "rows" for name in WIDTHS},
            }
            for unit in units
        },
        "n_shards": 2,
        "corpus": {"name": "a corpus", "n_utterances": len(IDS), "seconds": 3.0},
        "audio": {"sample_rate": 16000, "columns": ["utterance", "n_samples"]},
    }
    configuration = {"model": {"id": "org/net", "family": "test", "revision": "r"}, "store_dtype": dtype, "units": {}}
    utterances = pd.DataFrame({"utterance": IDS, "n_samples": LENGTHS})
    if speakers is not None:
        utterances["speaker"] = speakers
    random = np.random.default_rng(5)
    with StoreWriter(path, configuration, about, utterances, labels, False) as writer:
        for shard, mine in enumerate(([0, 1, 2], [3, 4])):
            tables = {}
            for unit in units:
                for name in WIDTHS:
                    if unit == "frame":
                        tables[f"frame/{TABLE[name]}"] = frame_rows(mine, STORED[name])
                    else:
                        tables[f"{unit}/rows"] = table([r for r in tiers[unit] if r[0] in mine], labels[unit])
            datasets = {
                f"{unit}/{name}": (WIDTHS[name], TABLE[name] if unit == "frame" else "rows")
                for unit in units
                for name in WIDTHS
            }
            part = writer.shard(shard, tables, datasets)
            for dataset, (width, rows) in datasets.items():
                n = len(tables[f"{dataset.split('/')[0]}/{rows}"])
                part.put(dataset, 0, random.standard_normal((n, width)).astype(dtype))
            part.finish((), utterances=[mine[0], mine[-1] + 1], seconds=1.0, failures=[])
        writer.finish(2)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store; not to be changed."""
    return FeatureStore(make(tmp_path_factory.mktemp("made") / "store"))


@pytest.fixture(scope="module")
def exported(made, tmp_path_factory):
    """Its export; not to be changed."""
    out = tmp_path_factory.mktemp("exported") / "abx"
    export_fastabx(made, out)
    return out


def items(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#file onset offset #phone prev-phone next-phone speaker"
    return [line.split(" ") for line in lines[1:]]


def taken(features, frequency, onset, offset):
    """fastabx 0.9.0, dataset.py, item_frontiers and load_data_from_item: [start, end[, or its two errors."""
    half, frequency = Decimal("0.5"), Decimal(str(frequency))
    start = math.ceil(Decimal(onset) * frequency - half)
    end = math.floor(Decimal(offset) * frequency - half) + 1
    assert start >= 0, "FeaturesSizeError"
    assert end <= len(features), "FeaturesSizeError"
    assert start < end, "EmptyFeaturesError"
    return start, end


# features


def test_one_file_for_every_utterance_with_frames(made, exported):
    codes = {name: made.row_table("frame", name)["utterance"] for name in WIDTHS}
    for name, width in WIDTHS.items():
        assert sorted(p.name for p in (exported / name).iterdir()) == sorted(f"{file_name(u)}.pt" for u in IDS[:4])
        for u, utterance in enumerate(IDS[:4]):
            path = exported / name / f"{file_name(utterance)}.pt"
            tensor = torch.load(path, weights_only=True)
            assert tensor.dtype == torch.float32
            assert tensor.shape == (STORED[name].n_frames(LENGTHS[u]), width)
            assert torch.equal(tensor, torch.from_numpy(made.read("frame", name)[codes[name] == u]))
            assert path.stat().st_size < tensor.nbytes + 5000  # not the whole block


def test_utterances_across_blocks(made, exported, tmp_path, monkeypatch):
    """A block may hold several utterances, and an utterance several blocks."""
    blocks = FeatureStore.blocks
    monkeypatch.setattr(FeatureStore, "blocks", lambda self, unit, layer: blocks(self, unit, layer, max_rows=7))
    export_fastabx(made, tmp_path)
    for path in exported.glob("*/*.pt"):
        assert torch.equal(torch.load(tmp_path / path.relative_to(exported)), torch.load(path))


def test_float16_stores_give_float32(tmp_path):
    store = FeatureStore(make(tmp_path / "s", dtype="float16"))
    export_fastabx(store, tmp_path / "out", layers="T1")
    tensors = [torch.load(tmp_path / "out" / "T1" / f"{file_name(u)}.pt") for u in IDS[:4]]
    assert {t.dtype for t in tensors} == {torch.float32}
    assert torch.equal(torch.cat(tensors), torch.from_numpy(store.read("frame", "T1").astype(np.float32)))


def test_ids_are_safe_distinct_file_names():
    ids = [*IDS, "a%2Fb 1", "..", "", "x" * 300, "x" * 299 + "y", "ж/" * 200, "a\nb", "a\\b", "~"]
    names = [file_name(i) for i in ids]
    assert len(set(names)) == len(names)
    assert names[:4] == ["a%2Fb%201", "a_b%201", "c%25%22d", "ü.x"]
    for name in names:
        assert not set(name) & set(' /\\"\n')
        assert len(name.encode()) <= 200
    assert names[-5] != names[-6]


def test_every_item_names_a_file_of_every_layer(exported):
    for tier in ("phone", "word"):
        files = {line[0] for line in items(exported / f"{tier}.item")}
        for name in WIDTHS:
            assert files <= {path.name.removesuffix(".pt") for path in (exported / name).iterdir()}


# items


def test_the_phones(exported):
    assert items(exported / "phone.item") == [
        # a/b 1 has 49 frames of 20 ms and 98 of 10 ms, a_b 1 has 38 and 75: later ends are drawn in
        ["a%2Fb%201", "0.1000000", "0.2000000", "aa", "SIL", "b%20c", "s%201"],
        ["a%2Fb%201", "0.2000000", "0.3006250", "b%20c", "aa", "t", "s%201"],
        ["a%2Fb%201", "0.3125000", "0.5000000", "iy", "t", "SIL", "s%201"],
        ["a%2Fb%201", "0.5125000", "0.7500000", "k", "SIL", "aa", "s%201"],
        ["a%2Fb%201", "0.7500000", "0.9800000", "aa", "k", "SIL", "s%201"],
        ["a_b%201", "0.0000000", "0.2500000", "b%20c", "SIL", "spn", "s2"],
        ["a_b%201", "0.5000000", "0.7500000", "aa", "spn", "SIL", "s2"],
        ["c%25%22d", "0.0312500", "0.2812500", "iy", "SIL", "SIL", "s%201"],
    ]


def test_the_words_do_not_turn_into_numbers(exported):
    """polars reads 007 and 7 as the same number, unless a first row says that the column is text."""
    assert [line[3] for line in items(exported / "word.item")] == ["tea", "007", "7"]
    assert [line[4:6] for line in items(exported / "word.item")] == [["SIL", "007"], ["tea", "SIL"], ["SIL", "<unk>"]]


@pytest.mark.parametrize(
    ("labels", "tokens"),
    [
        (["6295", "1", "0"], ["6295", "1", "0"]),
        (["007", "7"], ["%3007", "%37"]),
        (["1.5", "2"], ["%31.5", "%32"]),
        (["1"] * 100 + ["s2"], ["%31"] * 100 + ["s2"]),
        (["s2"] + ["1"] * 100, ["s2"] + ["1"] * 100),
        (["nan", "inf"], ["%6Ean", "%69nf"]),
        (["a b", 'a"b', "a%20b", "aɪ̯"], ["a%20b", "a%22b", "a%2520b", "aɪ̯"]),
    ],
)
def test_labels_are_read_back_as_text(labels, tokens):
    assert abx._tokens(pd.Series(labels)) == tokens


def test_what_is_said_about_it(exported):
    about = json.loads((exported / "fastabx.json").read_text())
    assert about["model"] == "org/net"
    assert about["layers"] == {
        "C1": {"frequency": 100, "width": 3, "shift_ms": 7.5},
        "T0": {"frequency": 50, "width": 4, "shift_ms": 2.5},
        "T1": {"frequency": 50, "width": 4, "shift_ms": 2.5},
    }
    # t has no frame; aa of ü.x lies after the last, of short there is none
    assert about["items"]["phone"] == {"n_items": 8, "left_out_too_short": 3, "end_drawn_in": 2}
    assert about["items"]["word"] == {"n_items": 3, "left_out_too_short": 0, "end_drawn_in": 1}


def test_without_slow_layers_short_phones_stay(made, tmp_path):
    export_fastabx(made, tmp_path, layers="C1")
    assert [line[1:4] for line in items(tmp_path / "phone.item") if line[3] == "t"] == [["0.3006250", "0.3062500", "t"]]


# fastabx


def test_fastabx_takes_the_frames_whose_supposed_centres_lie_in_the_segment(exported):
    about = json.loads((exported / "fastabx.json").read_text())
    for tier in ("phone", "word"):
        for name, facts in about["layers"].items():
            hop = 16000 // facts["frequency"]
            for file, onset, offset, *_ in items(exported / f"{tier}.item"):
                features = torch.load(exported / name / f"{file}.pt")
                start, end = taken(features, facts["frequency"], onset, offset)
                centres = hop * np.arange(len(features)) + hop / 2
                on, off = float(onset) * 16000, float(offset) * 16000
                assert np.flatnonzero((on <= centres) & (centres <= off)).tolist() == list(range(start, end))
                # the frames as they were made lie later, by what is said
                true = STORED[name].spans(len(features))[0] + STORED[name].field / 2
                np.testing.assert_allclose(true - centres, facts["shift_ms"] * 16)


def test_drawing_in_loses_no_frame(exported):
    """Of the last phone fastabx takes all that the audio has."""
    file, onset, offset, *_ = items(exported / "phone.item")[4]
    assert taken(torch.load(exported / "T1" / f"{file}.pt"), 50, onset, offset) == (37, 49)


@pytest.mark.parametrize(
    ("geometry", "milliseconds"),
    [
        (FrameGeometry(320, 400), 2.5),  # wav2vec 2.0
        (FrameGeometry(160, 400), 7.5),  # Kaldi
        (FrameGeometry(320, 560, least=400), 7.5),  # MelHuBERT
        (FrameGeometry(320, 1040, -520, centred=True), -10),  # Whisper
        (FrameGeometry(160, 400, -200, centred=True, extra_frame=True), -5),
        (FrameGeometry(320, 320), 0),
    ],
)
def test_shifts(geometry, milliseconds):
    assert shift_ms(geometry) == milliseconds


def test_frequencies():
    assert [abx._frequency("x", hop) for hop in (320, 160, 200, 5, 1280)] == [50, 100, 80, 3200, "12.5"]
    with pytest.raises(StoreError, match="layer x has 160/3 frames per second, which is no finite decimal"):
        abx._frequency("x", 300)


# choices and refusals


def test_choices(made, tmp_path):
    told = []
    written = export_fastabx(made, tmp_path / "out", ["word"], "T1,C1", progress=lambda *p: told.append(p))
    assert [str(p.relative_to(tmp_path / "out")) for p in written] == ["C1", "T1", "word.item", "fastabx.json"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)
    assert told[-1] == (2, 2)
    assert len(told) == 8
    assert all(total == 2 for _, total in told)


def test_an_export_that_is_there(made, tmp_path):
    out = tmp_path / "out"
    export_fastabx(made, out, layers="T1")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for layers, there in (("T1", "T1"), ("T0", r"phone\.item")):
        with pytest.raises(StoreError, match=f"{there} exists already: choose another -o, or replace it with --overw"):
            export_fastabx(made, out, layers=layers)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    (out / "phone.item").write_text("old")
    export_fastabx(made, out, layers="T1", overwrite=True)
    assert (out / "phone.item").read_bytes() == before[out / "phone.item"]


def test_what_is_half_written_is_not_described(made, tmp_path, monkeypatch):
    export_fastabx(made, tmp_path)

    def stopped(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_fastabx(made, tmp_path, overwrite=True, progress=stopped)
    assert not (tmp_path / "fastabx.json").exists()
    assert not list(tmp_path.rglob("*.part"))
    assert torch.load(next((tmp_path / "C1").iterdir())).shape[1] == 3


@pytest.mark.parametrize("units", [("phone",), ("frame", "word"), ("word",)])
def test_stores_without_frames_or_phones(tmp_path, units):
    store = FeatureStore(make(tmp_path / "s", units))
    with pytest.raises(UsageError, match=r"has no unit '(frame|phone)' .* extract again with --units frame,phone"):
        export_fastabx(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_words_alone_suffice_for_words(tmp_path):
    store = FeatureStore(make(tmp_path / "s", ("frame", "word")))
    assert export_fastabx(store, tmp_path / "out", ["word"])[-2].name == "word.item"


def test_units_and_layers_that_cannot_be(made, tmp_path):
    with pytest.raises(UsageError, match="'utterance' is none: ask for --units phone, word, or both"):
        export_fastabx(made, tmp_path / "out", ["utterance"])
    with pytest.raises(UsageError, match="'T7' is no layer of"):
        export_fastabx(made, tmp_path / "out", layers="T7")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("speakers", "says"),
    [
        (None, r"\(5 such utterances\), and fastabx compares .*: fill in the column 'speaker'"),
        (["a", None, "b", "b", "b"], r"does not say who speaks in a_b 1 \(1 such utterances\), .* fill in the column"),
        (["a", "", " ", "b", "b"], r"in a_b 1 \(2 such utterances\)"),
    ],
)
def test_speakers_that_are_not_known(tmp_path, speakers, says):
    store = FeatureStore(make(tmp_path / "s", speakers=speakers))
    with pytest.raises(StoreError, match=says):
        export_fastabx(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_to_score(tmp_path):
    store = FeatureStore(make(tmp_path / "s", phones=[(0, 0, 9000, "SIL")]))
    with pytest.raises(StoreError, match="has no phone that is speech and as long as a frame"):
        export_fastabx(store, tmp_path / "out")


def test_every_silence_is_one_context_and_no_noise_is_an_item(tmp_path):
    phones = [
        (0, 0, 3200, "h#"),
        (0, 3200, 6400, "t"),
        (0, 6400, 9600, "NSN"),
        (0, 9600, 12800, "aa"),
        (0, 12800, 16000, "pau"),
    ]
    export_fastabx(FeatureStore(make(tmp_path / "s", phones=phones)), tmp_path / "out")
    assert [line[3:6] for line in items(tmp_path / "out" / "phone.item")] == [["t", "SIL", "NSN"], ["aa", "NSN", "SIL"]]


# from real runs, by the command


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A corpus with the stores of a filterbank and of a small network."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = small.corpus(folder / "made")
    corpus.write(folder / "corpus")
    network = models.save("wav2vec2-base", folder / "network")
    for name, model in (("net", network), ("mel", "mel")):
        layertool.extract(str(model), corpus, folder / name, units=["frame", "phone", "word"])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net", "mel"])
def test_the_command(runs, tmp_path, name):
    out = tmp_path / "a b"
    result = succeeds("export", runs / name, "-o", out, "--to", "fastabx")
    about = json.loads((out / "fastabx.json").read_text())
    layers = list(about["layers"])
    assert result.stdout.split("\n") == [
        *(str(out / n) for n in (*layers, "phone.item", "word.item", "fastabx.json")),
        "",
    ]
    assert "phone: 24 items\nword: 12 items\n" in result.stderr
    frequency = {"net": 50, "mel": 100}[name]
    assert f"fastabx '{out}/phone.item' '{out}/{layers[-1]}' --frequency {frequency} --max-siz" in result.stderr
    for layer, facts in about["layers"].items():
        for tier in ("phone", "word"):
            for file, onset, offset, *_ in items(out / f"{tier}.item"):
                features = torch.load(out / layer / f"{file}.pt")
                assert features.shape[1] == facts["width"]
                taken(features, facts["frequency"], onset, offset)
        rows = FeatureStore(runs / name).rows("frame", layer)
        first = rows[rows["utterance"] == "u03"]
        hop = 1 / facts["frequency"]
        centres = (first["start"] + first["end"]).to_numpy() / 2 - hop * (np.arange(len(first)) + 0.5)
        np.testing.assert_allclose(centres * 1000, facts["shift_ms"], atol=1e-9)
        assert len(torch.load(out / layer / "u03.pt")) == len(first)


def test_the_command_says_what_is_wrong(runs, tmp_path):
    result = run("export", runs / "mel", "-o", tmp_path, "--to", "fastabx", "--units", "utterance")
    assert result.exit_code == 2
    assert "ask for --units phone, word, or both" in result.stderr
    assert SUMMARIES["export"] in succeeds("export", "-h").stdout
