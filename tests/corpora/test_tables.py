import numpy as np
import pandas as pd
import pytest
import soundfile

from layertool.corpora import labels, tables
from layertool.errors import AudioError, CorpusError, UsageError


@pytest.fixture
def root(tmp_path):
    """audio/a.wav, audio/b.wav (1 s, mono) and audio/deep/a.wav (1 s, stereo)"""
    for name, channels in (("a", 1), ("b", 1), ("deep/a", 2)):
        path = tmp_path / "audio" / f"{name}.wav"
        path.parent.mkdir(exist_ok=True, parents=True)
        soundfile.write(path, np.full((16000, channels), 0.1, dtype=np.float32), 16000)
    return tmp_path


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_all_columns(root):
    source = write(
        root / "mess.csv",
        "valence,utterance,audio,start,end,channel,id\nnegative,007,audio/a.wav,0.25,0.75,,x\n"
        "positive,008,audio/a.wav,,,,y\nneutral,009,audio/deep/a.wav,0.5,,1,z\n",
    )
    corpus = tables.read_csv(source)
    assert corpus.name == "mess"
    assert corpus.metadata_columns == ["valence", "id"]
    got = corpus.utterances
    assert list(got["utterance"]) == ["007", "008", "009"]
    assert list(got["audio"]) == [str((root / "audio" / p).resolve()) for p in ("a.wav", "a.wav", "deep/a.wav")]
    np.testing.assert_array_equal(got["start"], [0.25, np.nan, 0.5])
    np.testing.assert_array_equal(got["end"], [0.75, np.nan, np.nan])
    assert list(got["n_samples"]) == [8000, 16000, 8000]
    assert list(got["channel"]) == [None, None, "1"]
    assert list(got["valence"]) == ["negative", "positive", "neutral"]
    assert corpus.segments.empty
    assert corpus.provenance == {"reader": "csv", "source": str(source.resolve())}


def test_stems_are_ids_where_they_differ(root):
    assert list(
        tables.read_csv(write(root / "t.tsv", "audio\naudio/b.wav\naudio/a.wav\n")).utterances["utterance"]
    ) == ["b", "a"]
    source = write(root / "t.csv", "audio\naudio/deep/a.wav\naudio/b.wav\n./audio/a.wav\n")
    corpus = tables.read_csv(source, channel="0", name="mine")
    assert list(corpus.utterances["utterance"]) == ["audio/deep/a", "audio/b", "audio/a"]
    assert list(corpus.utterances["channel"]) == ["0", "0", "0"]
    assert corpus.name == "mine"


def test_the_channel_of_the_call_wins(root):
    source = write(root / "t.csv", "audio,channel\naudio/deep/a.wav,1\n")
    assert list(tables.read_csv(source, channel="mix").utterances["channel"]) == ["mix"]
    with pytest.raises(UsageError, match="'left' is no channel"):
        tables.read_csv(source, channel="left")


def test_audio_below_another_root_or_absolute(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    source = write(elsewhere / "t.csv", f"audio\na.wav\n{root}/audio/b.wav\n")
    corpus = tables.read_csv(source, audio_root=root / "audio")
    assert list(corpus.utterances["audio"]) == [str((root / "audio" / p).resolve()) for p in ("a.wav", "b.wav")]
    with pytest.raises(AudioError, match=r"a\.wav does not exist: check the path"):
        tables.read_csv(source)


SEGMENTS = (
    "label,utterance,start,end,tier\nAH0,b,0.1,0.2,phone\nsil,a,0,0.1,phone\nspn,a,0.1,0.2,phone\n"
    "Null,a,0.2,0.4,word\nT,a,0.4,0.4,phone\n,a,0.5,0.6,word\n"
)


def test_segments(root):
    source = write(root / "t.csv", "audio\naudio/a.wav\naudio/b.wav\n")
    segments = write(root / "s.csv", SEGMENTS)
    corpus = tables.read_csv(source, segments)
    assert list(corpus.segments.itertuples(index=False, name=None)) == [
        ("a", "phone", 0.0, 0.1, "SIL"),
        ("a", "word", 0.2, 0.4, "Null"),
        ("b", "phone", 0.1, 0.2, "ah"),
    ]
    assert corpus.provenance == {
        "reader": "csv",
        "source": str(source.resolve()),
        "segments_from": str(segments.resolve()),
        "labels": {"phone": "ARPABET", "word": "as written"},
        "non_speech": {"phone": ["sil", "spn"]},
        "segments_left_out": 2,
        "zero_length_segments": 1,
        "text_from_words": 1,
    }
    raw = tables.read_csv(source, segments, rules=labels.Rules(raw=True))
    assert list(raw.segments["label"]) == ["sil", "spn", "Null", "AH0"]
    assert raw.provenance["labels"] == {"phone": "raw", "word": "raw"}
    assert raw.provenance["segments_left_out"] == 1


def test_numbers_as_ids_and_labels_in_parquet(root):
    pd.DataFrame({"utterance": [1, 2], "audio": ["audio/a.wav", "audio/b.wav"]}).to_parquet(root / "t.parquet")
    pd.DataFrame({"utterance": [2], "tier": ["word"], "start": [0], "end": [1], "label": [7]}).to_parquet(
        root / "s.parquet"
    )
    corpus = tables.read_csv(root / "t.parquet", root / "s.parquet")
    assert list(corpus.segments.itertuples(index=False, name=None)) == [("2", "word", 0.0, 1.0, "7")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\naudio/a.wav\n", r"t\.csv has no column 'audio' \(columns there: name\): add or rename it"),
        ("audio\n", r"t\.csv has no rows: write one line per utterance"),
        ("", r"t\.csv cannot be read as a table .*: save it as UTF-8"),
        ("audio,n\naudio/a.wav,1\n,2\n", r"t\.csv has no 'audio' in row 2 \(1 such rows\): fill it in"),
        ("audio,utterance\naudio/a.wav,\n", r"t\.csv has no 'utterance' in row 1 \(1 such rows\): fill it in"),
        (
            "audio\naudio/a.wav\naudio/a.wav\n",
            r"t\.csv names .* 'audio/a\.wav' more than once: add a column 'utterance'",
        ),
        (
            "audio,start\naudio/a.wav,0:30\n",
            r"t\.csv, utterance 'a': the start '0:30' is no time in seconds; write numbers",
        ),
        ("audio,end\naudio/a.wav,inf\n", "given as 0 to inf s of it: correct start and end"),
        ("audio,end\naudio/a.wav,-1\n", "given as 0 to -1 s of it"),
        ("audio,start,end\naudio/a.wav,0.5,0.2\n", "given as 0.5 to 0.2 s of it"),
        ("audio,utterance\naudio/a.wav,x\naudio/b.wav,x\n", r"the utterance id 'x' more than once .*: give each"),
    ],
)
def test_wrong_tables_are_refused(root, text, message):
    with pytest.raises((CorpusError, AudioError), match=message):
        tables.read_csv(write(root / "t.csv", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "utterance,start,end,label\na,0,1,x\n",
            r"s\.csv has no column 'tier' \(columns there: .*\): add or rename it",
        ),
        ("utterance,tier,start,end,label\na,,0,1,x\n", r"s\.csv has no 'tier' in row 1 \(1 such rows\)"),
        ("utterance,tier,start,end,label\na,word,zero,1,x\n", r"s\.csv, utterance 'a': the start 'zero' is no time"),
        (
            "utterance,tier,start,end,label\na,word,1,0,x\n",
            "utterance 'a', tier word: .* goes from 1.0 to 0.0 s; correct",
        ),
        ("utterance,tier,start,end,label\nq,word,0,1,x\n", r"segments of t name the utterance 'q', .*: add it there"),
    ],
)
def test_wrong_segments_are_refused(root, text, message):
    source = write(root / "t.csv", "audio\naudio/a.wav\n")
    with pytest.raises(CorpusError, match=message):
        tables.read_csv(source, write(root / "s.csv", text))


def test_missing_tables_are_refused(root):
    with pytest.raises(CorpusError, match=r"gone\.csv does not exist: check the path"):
        tables.read_csv(root / "gone.csv")
    source = write(root / "t.csv", "audio\naudio/a.wav\n")
    with pytest.raises(CorpusError, match=r"gone\.csv does not exist: check the path"):
        tables.read_csv(source, root / "gone.csv")
