"""Corpus: tables in, checked tables out, and the same tables again from the disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import small
import soundfile
import xxhash
from commands import says

from layertool.columns import texts
from layertool.conditions import Condition
from layertool.corpora.corpus import AUDIO_COLUMNS, Corpus
from layertool.corpora.segments import SEGMENT_COLUMNS
from layertool.corpora.table_files import read_table
from layertool.errors import AudioError, CorpusError, StoreError, UsageError


@pytest.fixture
def source(tmp_path):
    """a.wav (1 s), b.wav (0.5 s), fast.wav (0.25 s at 44.1 kHz), stereo.wav (1 s), all in tmp_path/audio."""
    folder = tmp_path / "audio"
    small.sound(folder / "a.wav", 16000)
    small.sound(folder / "b.wav", 8000, seed=1)
    small.sound(folder / "fast.wav", 11025, seed=2, rate=44100)
    soundfile.write(folder / "stereo.wav", np.tile(small.noise(16000)[:, None], 2), 16000)
    return folder


def utterances(source, *names):
    return [{"utterance": name, "audio": str(source / f"{name}.wav")} for name in names]


def segment(utterance, start, end, label="x", tier="word"):
    return {"utterance": utterance, "tier": tier, "start": start, "end": end, "label": label}


def assert_same(one, two):
    """Equal tables; what is missing may be None in one and NaN in the other."""
    assert list(one.columns) == list(two.columns)
    for column in one:
        left, right = ([None if pd.isna(v) else v for v in table[column]] for table in (one, two))
        assert left == right, column


# build


def test_columns_of_several_kinds_become_text_which_is_told(source, tmp_path):
    """In rows and in tables, when a corpus is made and when a column is put into it afterwards."""
    big = 10**18 + 1
    rows = [
        {**row, "age": age, "person": person}
        for row, age, person in zip(
            utterances(source, "a", "b", "fast"), (27, "old", None), (big, None, big + 1), strict=True
        )
    ]
    for given in (rows, pd.DataFrame(rows, dtype=object), {key: [row[key] for row in rows] for key in rows[0]}):
        corpus = Corpus.build(given, name="c")
        assert corpus.utterances["age"].tolist()[:2] == ["27", "old"]
        assert texts(corpus.utterances["person"]).tolist() == [str(big), None, str(big + 1)]
        assert [note[:55] for note in corpus.provenance["notes"]] == [
            "the column 'age' of the utterances of c holds text and "
        ]
    corpus.utterances["later"] = [1, "x", 2.5]
    corpus.utterances["e\u0301"] = ["e\u0301", None, "b"]
    corpus.write(tmp_path / "c")
    again = Corpus.read(tmp_path / "c")
    assert again.utterances["later"].tolist() == ["1", "x", "2.5"]
    assert again.utterances["é"].tolist()[0] == "é"
    assert texts(again.utterances["person"]).tolist() == [str(big), None, str(big + 1)]
    assert len(again.provenance["notes"]) == 2
    corpus.utterances["list"] = [[1], [2], [3]]
    with says(
        CorpusError,
        "the column 'list' of the utterances of c holds a list in row 1: write one text or one number a cell",
    ):
        corpus.write(tmp_path / "d")
    assert not (tmp_path / "d" / "utterances.parquet").exists()


def test_ids_stay_what_they_are(source, tmp_path):
    names = ["1e5", "0012", "NA", "nan", "None", "1.10", "True"]
    lines = "".join(f"{name},{source}/a.wav\n" for name in names)
    (tmp_path / "utterances.csv").write_text(f"utterance,audio\n{lines}")
    (tmp_path / "segments.csv").write_text(
        "utterance,tier,start,end,label\n" + "".join(f"{name},word,0.10,0.2,{name}\n" for name in names)
    )
    corpus = Corpus.read(tmp_path)
    corpus.write(tmp_path / "again")
    for one in (corpus, Corpus.read(tmp_path / "again")):
        assert one.utterances["utterance"].tolist() == names
        assert one.segments["label"].tolist() == names
        assert one.segments["start"].tolist() == [0.1] * len(names)


def test_a_corpus_made_by_hand_may_call_its_audio_a_file(source, tmp_path):
    (tmp_path / "utterances.CSV").write_text("utterance; File; score\nx;audio/a.wav;1,5\n")
    corpus = Corpus.read(tmp_path)
    assert corpus.utterances["score"].tolist() == [1.5]
    assert corpus.utterances["audio"].tolist() == [str(source / "a.wav")]
    assert "decimal commas are read as points in score" in corpus.provenance["notes"][0]


def test_what_build_finds_out(source):
    rows = [{**row, "speaker": f"s{k}", "age": 30 + k} for k, row in enumerate(utterances(source, "b", "a", "fast"))]
    rows[1] |= {"start": 0.25, "end": 0.75}
    corpus = Corpus.build(
        rows,
        [
            segment("a", 0.3, 0.4, "late"),
            segment("a", 0.1, 0.3, "early"),
            segment("b", 0, 0.5),
            segment("a", 0, 0.2, "p", "phone"),
        ],
        "mine",
        {"reader": "test"},
    )
    table = corpus.utterances
    assert list(table.columns) == [*AUDIO_COLUMNS, "speaker", "age", "text"]
    assert table["text"].tolist()[:2] == ["x", "early late"]
    assert table["utterance"].tolist() == ["b", "a", "fast"]  # the order of the source
    assert table["n_samples"].tolist() == [8000, 8000, 4000]
    assert table["sample_rate"].tolist() == [16000, 16000, 44100]
    assert table["channel"].tolist() == [None, None, None]
    np.testing.assert_array_equal(table["start"], [np.nan, 0.25, np.nan])
    assert corpus.segments[["utterance", "tier", "label"]].to_numpy().tolist() == [
        ["b", "word", "x"],
        ["a", "phone", "p"],
        ["a", "word", "early"],
        ["a", "word", "late"],
    ]
    assert list(corpus.segments.columns) == SEGMENT_COLUMNS
    assert corpus.tiers == ["phone", "word"]
    assert corpus.metadata_columns == ["speaker", "age", "text"]
    assert corpus.seconds == 1.25
    assert (corpus.name, corpus.provenance) == ("mine", {"reader": "test", "text_from_words": 2})


def test_tables_and_lists_make_the_same_corpus(source):
    segments = [segment("a", 0, 0.5), segment("b", 0, 0.5)]
    one = Corpus.build(utterances(source, "a", "b"), segments)
    two = Corpus.build(pd.DataFrame(utterances(source, "a", "b")), pd.DataFrame(segments))
    pd.testing.assert_frame_equal(one.utterances, two.utterances)
    pd.testing.assert_frame_equal(one.segments, two.segments)


def test_a_corpus_without_segments(source, tmp_path):
    for segments in (None, [], pd.DataFrame()):
        corpus = Corpus.build(utterances(source, "a"), segments)
        assert corpus.tiers == []
        assert Corpus.read(corpus.write(tmp_path / "c")).tiers == []


def test_segments_of_zero_length_are_counted(source):
    segments = [
        segment("a", 0.1, 0.1),
        segment("a", 0.2, 0.20001),
        segment("a", 0.2, 0.3, "kept"),
        segment("b", 0.5, 0.5),
    ]
    corpus = Corpus.build(utterances(source, "a", "b"), segments)
    assert corpus.segments["label"].tolist() == ["kept"]
    assert corpus.provenance == {"zero_length_segments": 3, "text_from_words": 1}
    assert Corpus.build(utterances(source, "a"), [segment("a", 0, 0.1, tier="phone")]).provenance == {}


def test_a_segment_may_reach_20_ms_beyond_its_utterance(source):
    assert len(Corpus.build(utterances(source, "a"), [segment("a", 0.9, 1.02)]).segments) == 1
    with says(
        CorpusError, "utterance 'a' lasts 1.000 s, but its word 'x' goes from 0.900 to 1.020 s (1 such segments)"
    ):
        Corpus.build(utterances(source, "a"), [segment("a", 0.9, 16321 / 16000)])


def test_channels(source):
    rows = [*utterances(source, "stereo"), {"utterance": "mono", "audio": str(source / "a.wav")}]
    for given, kept in (("0", "0"), ("mix", "mix"), (1, "1")):
        rows[0]["channel"] = given
        assert Corpus.build(rows).utterances["channel"].tolist() == [kept, None]


# what build refuses


def test_no_utterances(source):
    with says(CorpusError, "mine has no utterances: check the source folder and the kind of corpus"):
        Corpus.build(pd.DataFrame({"utterance": [], "audio": []}), name="mine")


@pytest.mark.parametrize("column", ["utterance", "audio"])
def test_a_missing_column(source, column):
    rows = [{"speaker": "s", **{k: v for k, v in row.items() if k != column}} for row in utterances(source, "a")]
    there = "speaker, audio" if column == "utterance" else "speaker, utterance"
    with says(
        CorpusError,
        f"the table of utterances of mine has no column '{column}' (columns there: {there}): add or rename it",
    ):
        Corpus.build(rows, name="mine")


@pytest.mark.parametrize("column", SEGMENT_COLUMNS)
def test_a_missing_column_of_segments(source, column):
    row = segment("a", 0, 1)
    del row[column]
    with says(CorpusError, f"the table of segments of mine has no column '{column}' (columns there: {', '.join(row)})"):
        Corpus.build(utterances(source, "a"), [row], "mine")


def test_repeated_ids(source):
    with says(CorpusError, "the corpus mine has the utterance id 'a' more than once (2 repeated ids): give each"):
        Corpus.build(utterances(source, "a", "b", "a", "b"), name="mine")


def test_segments_of_unknown_utterances(source):
    with says(CorpusError, "segments of mine name the utterance 'c', which is not in its utterances (2 such segments)"):
        Corpus.build(utterances(source, "a"), [segment("a", 0, 1), segment("c", 0, 1), segment("d", 0, 1)], "mine")


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [(0.5, 0.4, "from 0.5 to 0.4"), (np.nan, 0.4, "from nan to 0.4"), (0.5, None, "from 0.5 to nan")],
)
def test_a_segment_without_a_span(source, start, end, said):
    with says(CorpusError, f"utterance 'a', tier word: the segment 'x' goes {said} s; correct its times"):
        Corpus.build(utterances(source, "a"), [segment("a", 0, 0.1, "good"), segment("a", start, end)])


@pytest.mark.parametrize(("start", "end"), [(-0.01, 0.2), (1.0, 1.01), (0.5, 1.2), (30.0, 31.0)])
def test_a_segment_outside_its_utterance(source, start, end):
    message = (
        f"utterance 'a' lasts 1.000 s, but its phone 'ah' goes from {start:.3f} to {end:.3f} s (1 such segments): "
        "is this the right TextGrid for this audio?"
    )
    with says(CorpusError, message):
        Corpus.build(utterances(source, "b", "a"), [segment("b", 0, 0.5), segment("a", start, end, "ah", "phone")])


def test_utterances_with_misplaced_segments_are_tolerated_like_bad_audio(source):
    rows = utterances(source, "a", "b", "fast", "gone")
    wrong = [
        segment("a", 0.5, 9, "long"),
        segment("a", 0.6, 9, "too"),
        segment("b", 0.4, 0.3, "back"),
        segment("fast", 0, 0.1, "good"),
    ]
    with says(AudioError, f"{source / 'gone.wav'} does not exist"):
        Corpus.build(rows, wrong)
    with says(CorpusError, "utterance 'b', tier word: the segment 'back' goes from 0.4 to 0.3 s"):
        Corpus.build(rows, wrong, max_failures=2)
    made = Corpus.build(rows, wrong, max_failures=3)
    assert made.utterances["utterance"].tolist() == ["fast"]
    assert made.segments["label"].tolist() == ["good"]
    assert list(made.provenance["left_out"]) == ["gone", "a", "b"]
    assert "'long' goes from 0.500 to 9.000 s (2 such segments)" in made.provenance["left_out"]["a"]
    with says(CorpusError, "none of the utterances can be used; the first: utterance 'a' lasts 1.000 s"):
        Corpus.build(utterances(source, "a"), wrong[:2], max_failures=5)


def test_words_are_the_text_where_there_is_none(source):
    words = [
        segment("a", 0.5, 0.9, "world"),
        segment("a", 0, 0.1, "<sil>"),
        segment("a", 0.1, 0.5, "hello"),
        segment("b", 0, 0.1, "never"),
        segment("fast", 0, 0.1, "<p:>"),
        segment("fast", 0, 0.1, "h", "phone"),
    ]
    rows = [
        row | {"text": text}
        for row, text in zip(utterances(source, "a", "b", "fast"), (" ", "as written", None), strict=True)
    ]
    made = Corpus.build(rows, words)
    assert made.utterances["text"].tolist()[:2] == ["hello world", "as written"]
    assert pd.isna(made.utterances["text"].iloc[2])
    assert made.provenance == {"text_from_words": 1}
    assert "text" not in Corpus.build(utterances(source, "fast"), words[4:]).utterances


STRETCHES = ["utterance", "tier", "start", "end"]


@pytest.mark.parametrize(
    ("stretch", "first", "told"),
    [
        ((0.5, 1.5), 0.0, "do not begin at 0 but last as long as their audio"),
        ((-0.3, 0.7), 0.8, "do not begin at 0"),
        ((0.0, 1.0), 0.5, None),
        ((0.0, 1.015), 0.5, None),
        ((0.01, 1.0), 0.5, None),
        ((0.0, 0.8), 0.5, "cover another time than their audio"),
        ((0.0, 7.0), 0.5, "cover another time than their audio"),
        ((0.3, 1.0), 0.5, "cover another time than their audio"),
        ((0.5, 1.6), None, "the labels of 'a' go from 0.5 to 1.6 s, while a.wav lasts 1 s: shift them"),
        ((-0.5, 0.9), None, "the labels of 'a' go from -0.5 to 0.9 s"),
    ],
)
def test_labels_stand_where_the_audio_is(source, stretch, first, told):
    """``first``: start in seconds of a segment that its file has at 0.5 s; None: nobody can know."""
    stretches = pd.DataFrame([("a", "word", *stretch), ("b", "word", 0.0, 0.5)], columns=STRETCHES)
    given = [segment("a", 0.5, 0.6), segment("b", 0.1, 0.2)]
    if first is None:
        with says(CorpusError, told):
            Corpus.build(utterances(source, "a", "b"), given, stretches=stretches)
        made = Corpus.build(utterances(source, "a", "b"), given, stretches=stretches, max_failures=1)
        assert list(made.provenance["left_out"]) == ["a"]
        return
    made = Corpus.build(utterances(source, "a", "b"), given, stretches=stretches)
    np.testing.assert_allclose(made.segments["start"], [first, 0.1])
    notes = made.provenance.get("notes", [])
    assert [told in note for note in notes] == ([True] if told else [])


@pytest.mark.parametrize("column", ["start", "end"])
def test_times_that_are_no_numbers(source, column):
    rows = utterances(source, "a")
    rows[0][column] = "soon"
    told = f"of mine, utterance 'a': the {column} 'soon' is no time in seconds; write numbers from 0 like 12.34"
    with says(CorpusError, f"the table of utterances {told}"):
        Corpus.build(rows, name="mine")
    with says(CorpusError, f"the table of segments {told}"):
        Corpus.build(utterances(source, "a"), [{**segment("a", 0, 1), column: "soon"}], "mine")


def test_audio_that_cannot_be_used(source):
    with says(AudioError, f"{source / 'c.wav'} does not exist"):
        Corpus.build(utterances(source, "a", "c"))
    with says(AudioError, f"{source / 'stereo.wav'} has 2 channels: say which to take with --channel 0 (to 1)"):
        Corpus.build(utterances(source, "a", "stereo"))
    with says(UsageError, "'left' is no channel: give a number from 0, 'mix' (mean of all) or 'sum'"):
        Corpus.build([{**utterances(source, "stereo")[0], "channel": "left"}])
    with says(AudioError, f"{source / 'a.wav'} lasts 1.000 s, but an utterance is given as 0.5 to 1.5 s of it"):
        Corpus.build([{**utterances(source, "a")[0], "start": 0.5, "end": 1.5}])


def test_a_channel_that_the_file_has_not(source):
    """Known from the header: better now than hours into an extraction."""
    with says(AudioError, f"{source / 'stereo.wav'} has no channel 2: it has 2, counted from 0"):
        Corpus.build([{**utterances(source, "stereo")[0], "channel": "2"}])


@pytest.mark.parametrize("empty", [None, np.nan])
def test_an_empty_cell(source, empty):
    with pytest.raises(CorpusError, match=r"'audio'"):
        Corpus.build([*utterances(source, "a"), {"utterance": "b", "audio": empty}], name="mine")
    with pytest.raises(CorpusError, match=r"'utterance'"):
        Corpus.build([*utterances(source, "a"), {"utterance": empty, "audio": str(source / "b.wav")}], name="mine")
    with pytest.raises(CorpusError, match=r"utterance 'a'|'label'"):
        Corpus.build(utterances(source, "a"), [segment("a", 0, 0.5, empty), segment("a", 0.5, 1, "x")], name="mine")


# the disk


@pytest.fixture
def rich(source):
    rows = utterances(source, "b", "a", "stereo", "fast")
    for k, row in enumerate(rows):
        row |= {"speaker": f"0{k}", "age": 20 + k, "text": None if k == 1 else "so it is"}
    rows[1] |= {"start": 0.1, "end": 0.9}
    rows[2] |= {"channel": "mix"}
    segments = [segment("a", 0, 0.4, "null"), segment("a", 0.4, 0.8, "12"), segment("b", 0, 0.1, "ß", "phone")]
    return Corpus.build(rows, segments, "rich", {"reader": "test", "counts": [1, 2]})


def test_a_corpus_comes_back_as_it_was(rich, tmp_path):
    back = Corpus.read(rich.write(tmp_path / "c"))
    assert_same(back.utterances, rich.utterances)
    assert_same(back.segments, rich.segments)
    assert (back.name, back.provenance, back.fingerprint) == (rich.name, rich.provenance, rich.fingerprint)
    again = Corpus.read(back.write(tmp_path / "d"))
    assert_same(again.utterances, rich.utterances)
    assert again.fingerprint == rich.fingerprint
    assert json.loads((tmp_path / "c" / "corpus.json").read_text())["fingerprint"] == rich.fingerprint
    assert not list((tmp_path / "c").glob(".*"))


def test_reading_again_does_not_probe_the_audio(rich, tmp_path):
    rich.write(tmp_path / "c")
    shutil.rmtree(tmp_path / "audio")
    assert Corpus.read(tmp_path / "c").utterances["n_samples"].tolist() == rich.utterances["n_samples"].tolist()


def test_audio_inside_the_corpus_moves_with_it(tmp_path):
    corpus = small.corpus(tmp_path / "here", 2)
    corpus.write(tmp_path / "here")
    stored = pd.read_parquet(tmp_path / "here" / "utterances.parquet")["audio"].tolist()
    assert stored == ["audio/u00.wav", "audio/u01.wav"]
    (tmp_path / "here").rename(tmp_path / "there")
    moved = Corpus.read(tmp_path / "there")
    assert moved.utterances["audio"].tolist() == [str(tmp_path / "there" / "audio" / f"u0{k}.wav") for k in (0, 1)]
    assert moved.fingerprint == corpus.fingerprint


def test_audio_outside_the_corpus_keeps_its_absolute_path(source, tmp_path):
    Corpus.build(utterances(source, "a")).write(tmp_path / "c")
    assert pd.read_parquet(tmp_path / "c" / "utterances.parquet")["audio"].tolist() == [str(source / "a.wav")]
    (tmp_path / "c").rename(tmp_path / "d")
    assert Corpus.read(tmp_path / "d").utterances["audio"].tolist() == [str(source / "a.wav")]


def test_relative_paths_of_the_caller_become_absolute(source, monkeypatch):
    monkeypatch.chdir(source)
    assert Corpus.build([{"utterance": "a", "audio": "a.wav"}]).utterances["audio"].tolist() == [str(source / "a.wav")]


@pytest.mark.parametrize(("suffix", "comma"), [("csv", ","), ("tsv", "\t")])
def test_a_corpus_made_by_hand(source, tmp_path, suffix, comma):
    folder = tmp_path / "by_hand"
    folder.mkdir()
    lines = [
        "utterance,audio,start,end,channel,speaker,age",
        "001,../audio/a.wav,0.25,0.75,,007,33",
        "002,../audio/stereo.wav,,,0,008,44",
    ]
    (folder / f"utterances.{suffix}").write_text("\n".join(lines).replace(",", comma) + "\n")
    lines = ["utterance,tier,start,end,label", "001,word,0,0.3,null", "001,word,0.3,0.5,NA", "002,word,0,1,1e5"]
    (folder / f"segments.{suffix}").write_text("\n".join(lines).replace(",", comma) + "\n")
    corpus = Corpus.read(folder)
    assert corpus.name == "by_hand"
    assert corpus.utterances["utterance"].tolist() == ["001", "002"]
    assert corpus.utterances["speaker"].tolist() == ["007", "008"]
    assert corpus.utterances["age"].tolist() == [33, 44]
    assert corpus.utterances["channel"].tolist() == [None, "0"]
    assert corpus.utterances["n_samples"].tolist() == [8000, 16000]
    assert corpus.segments["label"].tolist() == ["null", "NA", "1e5"]
    assert corpus.segments["end"].tolist() == [0.3, 0.5, 1.0]


def test_quotes_are_letters_in_tsv_and_quotes_in_csv(source, tmp_path):
    (tmp_path / "utterances.tsv").write_text('utterance\taudio\ttext\na\taudio/a.wav\tsay "ah\nb\taudio/b.wav\t"\n')
    assert Corpus.read(tmp_path).utterances["text"].tolist() == ['say "ah', '"']
    (tmp_path / "utterances.tsv").unlink()
    (tmp_path / "utterances.csv").write_text('utterance,audio,text\na,audio/a.wav,"one, two"\n')
    assert Corpus.read(tmp_path).utterances["text"].tolist() == ["one, two"]


def test_only_the_utterances_are_needed(source, tmp_path):
    (tmp_path / "utterances.csv").write_text("utterance,audio\na,audio/a.wav\n")
    (tmp_path / "segments.csv").write_text("utterance,tier,start,end,label\n")
    assert Corpus.read(tmp_path).segments.empty


@pytest.mark.parametrize(
    "lines",
    ["a,word,0,0.5,\na,word,0.5,1,x\n", ",word,0,0.5,x\n", "a,,0,0.5,x\n"],
    ids=["label", "utterance", "tier"],
)
def test_an_empty_cell_in_segments_made_by_hand(source, tmp_path, lines):
    (tmp_path / "utterances.csv").write_text("utterance,audio\na,audio/a.wav\n")
    (tmp_path / "segments.csv").write_text("utterance,tier,start,end,label\n" + lines)
    with pytest.raises(CorpusError, match=r"label|utterance|tier") as caught:
        Corpus.read(tmp_path)
    assert "nan" not in str(caught.value)


@pytest.mark.parametrize("line", [",audio/b.wav\n", "b,\n"], ids=["utterance", "audio"])
def test_an_empty_cell_in_utterances_made_by_hand(source, tmp_path, line):
    (tmp_path / "utterances.csv").write_text("utterance,audio\na,audio/a.wav\n" + line)
    with pytest.raises(CorpusError, match=r"no '(utterance|audio)'") as caught:
        Corpus.read(tmp_path)
    assert "nan" not in str(caught.value)


def test_what_is_no_corpus(tmp_path):
    with says(CorpusError, f"{tmp_path / 'c'} does not exist: make a corpus with 'layertool corpus folder AUDIO -o"):
        Corpus.read(tmp_path / "c")
    with says(CorpusError, f"{tmp_path} is not a corpus (no utterances.parquet or utterances.csv in it): make one"):
        Corpus.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("utterances.parquet", b"PAR1 and no more"),
        ("utterances.csv", b""),
        ("utterances.csv", b"utterance,audio\n\xff\xfe,a\n"),
        ("utterances.csv", b'utterance,audio\na,"b\n'),
        ("utterances.csv", b"utterance,audio\na,b,c,d\ne\n"),
    ],
)
def test_a_damaged_table(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with says(CorpusError, f"{tmp_path / name}"):
        Corpus.read(tmp_path)


def test_a_table_without_rows_and_one_without_columns(source, tmp_path):
    (tmp_path / "utterances.csv").write_text("utterance,audio\n")
    with says(CorpusError, "has no utterances"):
        Corpus.read(tmp_path)
    (tmp_path / "utterances.csv").write_text("id,wav\na,a.wav\n")
    with says(CorpusError, "has no column 'utterance' (columns there: id, wav): add or rename it"):
        Corpus.read(tmp_path)


def test_a_damaged_description(rich, tmp_path):
    rich.write(tmp_path / "c")
    (tmp_path / "c" / "corpus.json").write_text('{"name": "ri')
    with says(StoreError, f"{tmp_path / 'c' / 'corpus.json'} is not readable as the description of a corpus"):
        Corpus.read(tmp_path / "c")


def test_a_corpus_that_was_tampered_with_is_checked_when_read(rich, tmp_path):
    path = rich.write(tmp_path / "c") / "segments.parquet"
    table = pd.read_parquet(path)
    table.loc[table["label"] == "12", "end"] = 5.0
    table.to_parquet(path)
    with says(CorpusError, "utterance 'a' lasts 0.800 s, but its word '12' goes from 0.400 to 5.000 s"):
        Corpus.read(tmp_path / "c")


def test_a_missing_table(tmp_path):
    with says(CorpusError, f"{tmp_path / 'x.csv'} does not exist: check the path of the table"):
        read_table(tmp_path / "x.csv")


# few values, many rows


def test_ids_and_tiers_are_categories_in_one_order(rich, tmp_path):
    """Wherever a corpus comes from; in the file they are text."""
    turned = rich.segments.assign(utterance=rich.segments["utterance"].cat.reorder_categories(["b", "a"]))
    for one in (
        rich,
        Corpus.read(rich.write(tmp_path)),
        replace(rich, segments=turned),
        replace(rich, segments=rich.segments.astype({"utterance": str})),
    ):
        pd.testing.assert_frame_equal(one.segments, rich.segments)
        assert one.segments["utterance"].cat.categories.tolist() == ["a", "b"]
        assert one.segments["tier"].cat.categories.tolist() == ["phone", "word"]
    for name in ("utterance", "tier", "label"):
        assert pyarrow.parquet.read_schema(tmp_path / "segments.parquet").field(name).type in (
            pyarrow.string(),
            pyarrow.large_string(),
        )


def test_owners(rich):
    segments = pd.concat([rich.segments, rich.segments.assign(utterance=["b", "nobody", None])], ignore_index=True)
    place = {name: k for k, name in enumerate(rich.utterances["utterance"])}
    owners = replace(rich, segments=segments).owners()
    assert owners.tolist() == [place.get(name, -1) for name in segments["utterance"]]


# the fingerprint


def changed(corpus, table, column, row, value):
    frame = getattr(corpus, table).copy()
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return replace(corpus, **{table: frame}).fingerprint


@pytest.mark.parametrize(
    ("table", "column", "row", "value"),
    [
        ("utterances", "utterance", 0, "z"),
        ("utterances", "start", 1, 0.1001),
        ("utterances", "start", 0, 0.0),
        ("utterances", "end", 1, 0.8),
        ("utterances", "channel", 2, "0"),
        ("utterances", "channel", 0, "0"),
        ("utterances", "n_samples", 3, 4001),
        ("segments", "utterance", 0, "a"),
        ("segments", "tier", 0, "word"),
        ("segments", "start", 1, 0.01),
        ("segments", "end", 1, 0.39),
        ("segments", "label", 1, "NULL"),
    ],
)
def test_what_changes_the_fingerprint(rich, table, column, row, value):
    assert changed(rich, table, column, row, value) != rich.fingerprint


@pytest.mark.parametrize(
    ("column", "value"),
    [("audio", "/elsewhere.wav"), ("sample_rate", 8000), ("speaker", "x"), ("text", "other"), ("age", 99)],
)
def test_what_does_not_change_the_fingerprint(rich, column, value):
    assert changed(rich, "utterances", column, 0, value) == rich.fingerprint


def test_more_about_the_fingerprint(rich):
    fingerprint = rich.fingerprint
    assert replace(rich, name="other", provenance={}).fingerprint == fingerprint
    assert replace(rich, utterances=rich.utterances.assign(gender="f")).fingerprint == fingerprint
    assert replace(rich, utterances=rich.utterances.iloc[::-1]).fingerprint != fingerprint
    assert replace(rich, segments=rich.segments.iloc[1:]).fingerprint != fingerprint
    assert replace(rich, segments=rich.segments.iloc[::-1]).fingerprint != fingerprint


def plain_fingerprint(corpus):
    """As it is defined: one column after the other, samples as eight bytes, texts as one list in JSON."""
    digest = xxhash.xxh3_128()
    for columns, table in (
        (["utterance", "start", "end", "channel", "n_samples"], corpus.utterances),
        (SEGMENT_COLUMNS, corpus.segments),
    ):
        for column in columns:
            values = table[column]
            if column in ("start", "end"):
                digest.update(np.rint(values.astype(float).fillna(-1.0) * 16000).astype("<i8").to_numpy().tobytes())
            elif column == "n_samples":
                digest.update(values.to_numpy(dtype="<i8").tobytes())
            else:
                digest.update(json.dumps(["" if pd.isna(v) else str(v) for v in values]).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("block_rows", [1, 2, 3, 100])
def test_the_fingerprint_is_that_of_its_definition(rich, block_rows, monkeypatch):
    monkeypatch.setattr("layertool.corpora.segments.BLOCK_ROWS", block_rows)
    odd = pd.Series([1, True, 1.0], dtype=object)  # equal, and not the same text
    for one in (
        rich,
        replace(rich, segments=rich.segments.iloc[:0]),
        replace(rich, segments=rich.segments.assign(label=odd)),
        replace(rich, segments=rich.segments.assign(label=pd.Series(['"', None, "\\"], dtype=object))),
        replace(rich, segments=rich.segments.assign(utterance=["b", None, "a"], tier=["x", "é", "x"])),
        replace(rich, utterances=rich.utterances.assign(channel=[None, 1, "mix", np.nan])),
    ):
        assert one.fingerprint == plain_fingerprint(one)


def test_the_fingerprint_is_the_same_next_year(rich):
    """Pinned: stores that exist are refused when this value changes."""
    assert rich.fingerprint == "fdfba76fe52ff889bd89fc36fc04c8b7"


def test_what_a_reader_left_out_counts_with_bad_audio(tmp_path):
    rows = [{"utterance": k, "audio": str(tmp_path / f"{k}.wav")} for k in "abc"]
    small.sound(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(b"no audio")
    small.sound(tmp_path / "c.wav")
    told = {"c": "c.TextGrid breaks off: restore it", "d": "no such row"}
    words = [{"utterance": k, "tier": "word", "start": 0.0, "end": 0.1, "label": "w"} for k in "abc"]
    with pytest.raises(
        CorpusError, match=r"^c\.TextGrid breaks off: restore it \(2 utterances .* out with --max-failures 2\)$"
    ):
        Corpus.build(rows, words, left_out=told)
    with pytest.raises(AudioError, match=r"b\.wav cannot be read as audio.* --max-failures 3\)"):
        Corpus.build(rows, words, left_out=told, max_failures=2)
    made = Corpus.build(rows, words, left_out=told, max_failures=3)
    assert list(made.utterances["utterance"]) == ["a"]
    assert list(made.segments["utterance"]) == ["a"]
    assert list(made.provenance["left_out"]) == ["c", "d", "b"]
    assert list(told) == ["c", "d"]


# a part of a corpus


@pytest.fixture
def ten(source):
    """Ten utterances of a.wav with one word each, the odd ones by a woman."""
    rows = [
        {"utterance": f"u{k}", "audio": str(source / "a.wav"), "gender": "f" if k % 2 else "m", "age": 20 + k}
        for k in range(10)
    ]
    segments = [segment(f"u{k}", 0.1, 0.2, f"w{k}") for k in reversed(range(10))]
    return Corpus.build(rows, segments, "ten", {"reader": "hand"})


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"first": 3}, [0, 1, 2]),
        ({"first": 99}, range(10)),
        ({"where": "gender=f"}, [1, 3, 5, 7, 9]),
        ({"where": ["gender=f", "age!=23", "age!=25.0"], "first": 2}, [1, 7]),
        ({"where": [Condition("age", ("20", "29"))]}, [0, 9]),
        ({"sample": 10, "seed": 3}, range(10)),
    ],
)
def test_subset(ten, asked, kept):
    part = ten.subset(**asked)
    assert part.utterances["utterance"].tolist() == [f"u{k}" for k in kept]
    assert part.segments["label"].tolist() == [f"w{k}" for k in kept]
    assert list(part.segments["utterance"].cat.categories) == sorted(f"u{k}" for k in kept)
    # the same as a corpus that was made of these utterances alone
    alone = [row for row in ten.utterances.to_dict("records") if row["utterance"] in set(part.utterances["utterance"])]
    built = Corpus.build(alone, ten.segments[ten.segments["utterance"].isin(part.utterances["utterance"])])
    assert part.fingerprint == built.fingerprint
    assert len(ten.utterances) == len(ten.segments) == 10


def test_a_sample_is_drawn_by_its_seed_in_corpus_order(ten, tmp_path):
    draws = {seed: ten.subset("gender=m", sample=3, seed=seed) for seed in range(20)}
    for seed, part in draws.items():
        ids = part.utterances["utterance"].tolist()
        assert len(ids) == 3
        assert ids == sorted(ids)
        assert set(part.utterances["gender"]) == {"m"}
        assert part.fingerprint == ten.subset("gender=m", sample=3, seed=seed).fingerprint
    counts = pd.Series([u for part in draws.values() for u in part.utterances["utterance"]]).value_counts()
    assert len(counts) == 5  # each is drawn by some seed
    again = draws[0].subset(first=1, name="one")
    again.write(tmp_path / "one")
    read = Corpus.read(tmp_path / "one", in_full=True)
    assert [read.name, read.provenance["reader"]] == ["one", "hand"]
    of = f"ten (10 utterances, fingerprint {ten.fingerprint})"
    assert read.provenance["subset"][0] == {"of": of, "where": ["gender=m"], "sample": 3, "seed": 0}
    assert read.provenance["subset"][1]["first"] == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"where": "sex=f"}, "the corpus ten has no column 'sex': it has utterance, audio"),
        ({"where": ["gender=f", "age=20"]}, "no utterance of the corpus ten has gender=f and age=20"),
        ({"where": "f"}, "'f' is no condition"),
        ({"first": 2, "sample": 2}, "give --first or --sample"),
        ({"first": 0}, "0 is no number of utterances"),
        ({"first": "3"}, "'3' is no number of utterances"),
    ],
)
def test_subsets_that_are_none(ten, asked, message):
    with says(UsageError, message):
        ten.subset(**asked)


def test_the_short_form(ten, source):
    assert repr(ten) == "<Corpus 'ten': 10 utterances, 0.00278 h, tiers word>"
    assert (
        repr(Corpus.build(utterances(source, "a"), name="a")) == "<Corpus 'a': 1 utterances, 0.000278 h, no segments>"
    )
