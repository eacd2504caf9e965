import os
import re
import unicodedata

import numpy as np
import pandas as pd
import pytest
import soundfile
from label_writing import segments, textgrid

from layertool.corpora import folder, labels
from layertool.corpora.corpus import Corpus
from layertool.errors import AudioError, CorpusError

GRID = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n0.1\n<exists>\n1\n'
GRID += '"IntervalTier"\n"phones"\n0\n0.1\n{}\n{}'


def sound(path, seconds=0.1, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((round(seconds * 16000), channels), 0.1, dtype=np.float32), 16000)


def grid(path, *intervals):
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(f'{start}\n{end}\n"{label}"\n' for start, end, label in intervals)
    path.write_text(GRID.format(len(intervals), body))


def table(path, text):
    path.write_text(text)
    return path


@pytest.fixture
def source(tmp_path):
    """s1/a.wav, s1/b.FLAC, s2/a.wav"""
    root = tmp_path / "talk"
    for name in ("s2/a.wav", "s1/a.wav", "s1/b.FLAC"):
        sound(root / name)
    return root


def test_every_audio_file_is_an_utterance_in_order_of_id(source):
    (source / "notes.md").write_text("no audio")
    (source / "s1" / "._a.wav").write_bytes(b"what macOS leaves in archives")
    corpus = folder.read(source)
    assert corpus.name == "talk"
    assert list(corpus.utterances["utterance"]) == ["s1/a", "s1/b", "s2/a"]
    assert list(corpus.utterances["audio"]) == [
        str(source.resolve() / p) for p in ("s1/a.wav", "s1/b.FLAC", "s2/a.wav")
    ]
    assert list(corpus.utterances["n_samples"]) == [1600, 1600, 1600]
    assert corpus.metadata_columns == []
    assert corpus.segments.empty
    assert corpus.provenance == {
        "reader": "folder",
        "source": str(source.resolve()),
        "textgrids": 0,
        "without_textgrid": 3,
        "textgrids_without_audio": 0,
    }


def test_dots_in_a_name_belong_to_it(tmp_path):
    sound(tmp_path / "talk" / "rec.1.wav")
    sound(tmp_path / "talk" / "rec.2.wav")
    grid(tmp_path / "talk" / "rec.2.TextGrid", (0, 0.1, "N"))
    corpus = folder.read(tmp_path / "talk")
    assert list(corpus.utterances["utterance"]) == ["rec.1", "rec.2"]
    assert list(corpus.segments["utterance"]) == ["rec.2"]


def test_textgrids_beside_the_audio(source):
    grid(source / "s1/a.TextGrid", (0, 0.02, "sil"), (0.02, 0.05, "AH0"), (0.05, 0.05, "T"), (0.05, 0.1, "spn"))
    grid(source / "s2/a.textgrid", (0, 0.1, "IY1"))
    grid(source / "s3/lost.TextGrid", (0, 0.1, "IY1"))
    calls = []
    corpus = folder.read(source, progress=lambda *call: calls.append(call))
    assert list(corpus.segments.itertuples(index=False, name=None)) == [
        ("s1/a", "phone", 0.0, 0.02, "SIL"),
        ("s1/a", "phone", 0.02, 0.05, "ah"),
        ("s2/a", "phone", 0.0, 0.1, "iy"),
    ]
    counts = {k: v for k, v in corpus.provenance.items() if k not in ("reader", "source")}
    assert counts == {
        "labels": {"phone": "ARPABET"},
        "non_speech": {"phone": ["sil", "spn"]},
        "segments_left_out": 1,
        "textgrids": 2,
        "without_textgrid": 1,
        "textgrids_without_audio": 1,
        "zero_length_segments": 1,
    }
    assert calls == [(1, 2), (2, 2)]


def test_other_tiers_and_raw_labels(source):
    for name in ("s1/a", "s1/b", "s2/a"):
        grid(source / f"{name}.TextGrid", (0, 0.1, "AH0"))
    corpus = folder.read(source, tiers={"sound": "phones"}, rules=labels.Rules(raw=True))
    assert corpus.tiers == ["sound"]
    assert set(corpus.segments["label"]) == {"AH0"}
    assert corpus.provenance["labels"] == {"sound": "raw"}
    with pytest.raises(CorpusError, match=r"s1/a\.TextGrid has no interval tier 'Word' .*--tier word=NAME"):
        folder.read(source, tiers={"word": "Word"})


def test_textgrids_in_a_folder_of_their_own(source, tmp_path):
    grid(tmp_path / "grids/s1/a.TextGrid", (0, 0.1, "A"))
    grid(tmp_path / "grids/s2/a.TextGrid", (0, 0.1, "E"))
    grid(tmp_path / "grids/b.TextGrid", (0, 0.1, "I"))
    grid(tmp_path / "grids/lost.TextGrid", (0, 0.1, "O"))
    grid(source / "s1/a.TextGrid", (0, 0.1, "beside"))
    corpus = folder.read(source, textgrids=tmp_path / "grids")
    assert list(zip(corpus.segments["utterance"], corpus.segments["label"], strict=True)) == [
        ("s1/a", "A"),
        ("s1/b", "I"),
        ("s2/a", "E"),
    ]
    assert corpus.provenance["textgrids_from"] == str((tmp_path / "grids").resolve())
    assert corpus.provenance["textgrids_without_audio"] == 1
    assert corpus.provenance["without_textgrid"] == 0


def test_a_file_name_that_two_recordings_have_decides_nothing(source, tmp_path):
    grid(tmp_path / "grids/a.TextGrid", (0, 0.1, "A"))
    with pytest.raises(CorpusError, match=r"grids does not say .* 's2/a' .*a\.TextGrid.*: give .* the same subfolders"):
        folder.read(source, textgrids=tmp_path / "grids")


def test_a_file_name_that_two_textgrids_have_decides_nothing(source, tmp_path):
    grid(tmp_path / "grids/x/b.TextGrid", (0, 0.1, "A"))
    grid(tmp_path / "grids/y/b.TextGrid", (0, 0.1, "A"))
    with pytest.raises(CorpusError, match=r"grids does not say .* 's1/b' .*: give .* the same subfolders"):
        folder.read(source, textgrids=tmp_path / "grids")


def test_a_folder_without_fitting_textgrids_is_refused(source, tmp_path):
    with pytest.raises(CorpusError, match=r"grids does not exist: check the path"):
        folder.read(source, textgrids=tmp_path / "grids")
    (tmp_path / "grids").mkdir()
    with pytest.raises(CorpusError, match=r"grids has no \.TextGrid files: check --textgrids"):
        folder.read(source, textgrids=tmp_path / "grids")
    grid(tmp_path / "grids/z.TextGrid", (0, 0.1, "A"))
    with pytest.raises(CorpusError, match=r"grids belongs to an audio file: .* 'z', the audio like 's1/a'; give"):
        folder.read(source, textgrids=tmp_path / "grids")


def test_transcripts_become_text(source):
    (source / "s1/a.lab").write_text("\ufeff  Hello wörld \n", encoding="utf-8")
    (source / "s1/a.txt").write_text("the .lab file goes first")
    (source / "s2/a.TXT").write_text("good bye")
    (source / "readme.txt").write_text("nobody said this")
    corpus = folder.read(source)
    text = corpus.utterances["text"]
    assert text.iloc[0] == "Hello wörld"
    assert pd.isna(text.iloc[1])
    assert text.iloc[2] == "good bye"
    assert corpus.provenance["without_transcript"] == 1
    (source / "s1/b.lab").write_bytes("wörld".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"b\.lab, line \d+ is not UTF-8"):
        folder.read(source)


def test_channel_is_set_for_all(tmp_path):
    sound(tmp_path / "talk/a.wav", channels=2)
    with pytest.raises(AudioError, match=r"a\.wav has 2 channels: .*--channel"):
        folder.read(tmp_path / "talk")
    corpus = folder.read(tmp_path / "talk", channel="mix", name="two")
    assert list(corpus.utterances["channel"]) == ["mix"]
    assert corpus.name == "two"


def test_metadata_is_joined(source, tmp_path):
    path = table(
        tmp_path / "about.tsv",
        "speaker\tutt\tgender\taudio\tchannel\ns2\ts2/a\tmale\tx\t1\ns1\ts1/b\tfemale\ty\t1\n"
        "s9\ts9/q\tmale\tz\t1\ns1\ts1/a\tfemale\tw\t1\n",
    )
    corpus = folder.read(source, metadata=path)
    assert corpus.metadata_columns == ["speaker", "gender"]
    got = corpus.utterances[["utterance", "speaker", "gender"]]
    assert list(got.itertuples(index=False, name=None)) == [
        ("s1/a", "s1", "female"),
        ("s1/b", "s1", "female"),
        ("s2/a", "s2", "male"),
    ]
    assert list(corpus.utterances["channel"]) == [None, None, None]
    assert corpus.utterances["audio"].iloc[0].endswith("s1/a.wav")
    assert corpus.provenance["metadata"] == str(path.resolve())
    assert corpus.provenance["metadata_rows_without_audio"] == 1
    assert corpus.provenance["metadata_columns_left_out"] == ["audio", "channel"]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("utterance", ["s1/a", "s1/b", "s2/a"]),
        ("id", ["s1/a", "b", "s2/a"]),
        ("file", ["s1/a.wav", "b.flac", "./s2/a.mp3"]),
        ("filename", ["s1\\a.wav", "b.FLAC", "s2\\a.wav"]),
        ("path", ["/data/talk/s1/a.wav", "/data/talk/s1/b.flac", "/data/talk/s2/a.wav"]),
        ("audio", ["talk/s1/a", "talk/s1/b", "talk/s2/a"]),
    ],
)
def test_ids_file_names_and_paths_all_fit(source, tmp_path, column, values):
    pd.DataFrame({column: values, "n": [1, 2, 3]}).to_parquet(tmp_path / "about.parquet")
    corpus = folder.read(source, metadata=tmp_path / "about.parquet")
    assert list(corpus.utterances["n"]) == [1, 2, 3]


def test_the_first_known_id_column_counts_unless_one_is_named(source, tmp_path):
    path = table(tmp_path / "about.csv", "path,take,id\nx,s1/a,s2/a\ny,s1/b,s1/b\nz,s2/a,s1/a\n")
    assert list(folder.read(source, metadata=path).utterances["take"]) == ["s2/a", "s1/b", "s1/a"]
    by_take = folder.read(source, metadata=path, id_column="take").utterances
    assert list(by_take["path"]) == ["x", "y", "z"]
    assert "take" not in by_take


def test_text_of_the_table_wins_over_a_transcript(source, tmp_path):
    (source / "s1/a.txt").write_text("file")
    path = table(tmp_path / "about.csv", "id,text\ns1/a,table\ns1/b,table\ns2/a,table\n")
    assert list(folder.read(source, metadata=path).utterances["text"]) == ["table"] * 3


ROWS = "s1/a,1\ns1/b,2\ns2/a,3\n"


@pytest.mark.parametrize(
    ("text", "id_column", "message"),
    [
        (
            "name,n\n" + ROWS,
            None,
            r"about\.csv has no column 'utterance', .* \(columns there: name, n\): .*--id-column",
        ),
        ("id,n\n" + ROWS, "name", r"about\.csv has no column 'name' \(columns there: id, n\): correct --id-column"),
        ("id,start\n" + ROWS, None, r"about\.csv has the column 'start'.*: use 'layertool corpus csv .*about\.csv'"),
        ("id,end\n" + ROWS, None, r"about\.csv has the column 'end'.*: use 'layertool corpus csv .*about\.csv'"),
        ("id,n\nq,1\n", None, r"no row of .*about\.csv fits .*talk: .* 'id' says 'q', .* like 's1/a'; .*--id-column"),
        ("id,n\n", None, r"no row of .*about\.csv fits"),
        ("id,n\na,1\n", None, r"about\.csv, row 1: 'a' fits 2 utterances \('s1/a', 's2/a'\): write the path"),
        ("id,n\n" + ROWS + "b.flac,4\n", None, r"about\.csv has two rows for the utterance 's1/b' \(rows 2 and 4\)"),
        ("id,n\n" + ROWS + ",4\n", None, r"about\.csv has no 'id' in row 4 \(1 such rows\): fill it in"),
    ],
)
def test_tables_that_do_not_fit_are_refused(source, tmp_path, text, id_column, message):
    with pytest.raises(CorpusError, match=message):
        folder.read(source, metadata=table(tmp_path / "about.csv", text), id_column=id_column)


def test_two_files_for_one_utterance_are_refused(source):
    sound(source / "s1/b.wav")
    with pytest.raises(CorpusError, match=r"s1/b\.FLAC and .*s1/b\.wav would both be .* 's1/b': move one"):
        folder.read(source)


def test_folders_without_audio_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere does not exist: check the path"):
        folder.read(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no audio")
    with pytest.raises(CorpusError, match=r"has no audio files \(looked for \.aif, .*\.wav\): check the folder"):
        folder.read(tmp_path)


def test_folders_that_cannot_be_read_are_not_skipped(source, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("s2"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(CorpusError, match=r"s2 cannot be read \(Permission denied\): correct"):
        folder.read(source)


def test_linked_folders_are_followed_but_not_in_circles(source, tmp_path):
    sound(tmp_path / "elsewhere/c.wav")
    (source / "s3").symlink_to(tmp_path / "elsewhere")
    (source / "s1/up").symlink_to(source)
    assert list(folder.read(source).utterances["utterance"]) == ["s1/a", "s1/b", "s2/a", "s3/c"]


def test_audio_that_cannot_be_read_is_named_and_counted(source):
    for name in ("s1/x.m4a", "s1/y.M4A", "s2/z.webm", "s2/a.mp4", "s2/a.eaf"):
        (source / name).write_bytes(b"x")
    corpus = folder.read(source)
    assert len(corpus.utterances) == 3
    left, beside = corpus.provenance["notes"]
    assert left == (
        f"left out: 2 .m4a, 1 .webm files, audio of kinds that cannot be read, the first {source / 's1/x.m4a'}: "
        "convert it with 'ffmpeg -i x.m4a x.wav'"
    )
    assert beside.startswith(f"not read: 1 .eaf, 1 .mp4 files beside the audio, the first {source / 's2/a.eaf'}")
    for path in (*source.rglob("*.wav"), *source.rglob("*.FLAC")):
        path.unlink()
    with pytest.raises(
        CorpusError, match=r"has no audio files .*: left out: 2 \.m4a, 1 \.mp4, 1 \.webm files, .*ffmpeg -i x\.m4a"
    ):
        folder.read(source)


@pytest.mark.parametrize(("audio", "grids"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_of_a_mac_are_matched(tmp_path, audio, grids):
    name = {form: unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")}
    sound(tmp_path / "talk" / f"{name[audio]}.wav")
    grid(tmp_path / "grids" / f"{name[grids]}.TextGrid", (0, 0.1, "A"))
    (tmp_path / "talk" / f"{name[grids]}.txt").write_text("un")
    path = table(tmp_path / "about.csv", f"file,n\n{name[grids]}.wav,3\n")
    corpus = folder.read(tmp_path / "talk", textgrids=tmp_path / "grids", metadata=path)
    assert corpus.utterances[["utterance", "text", "n"]].to_numpy().tolist() == [[name["NFC"], "un", 3]]
    assert corpus.segments["utterance"].tolist() == [name["NFC"]]
    assert corpus.provenance["without_textgrid"] == 0


TALK = {
    "ann - words": [(0, 0.04, "hi")],
    "ann - phones": [(0, 0.02, "HH"), (0.02, 0.04, "AY1")],
    "bob - words": [(0.05, 0.1, "yo")],
}


@pytest.fixture
def dialogues(tmp_path):
    """Two dialogues of different people, and a monologue."""
    for name in ("one", "two", "three"):
        sound(tmp_path / "talks" / f"{name}.wav")
    textgrid(tmp_path / "talks" / "one.TextGrid", TALK, 0, 0.1)
    textgrid(
        tmp_path / "talks" / "two.TextGrid", {key.replace("ann", "eve"): part for key, part in TALK.items()}, 0, 0.1
    )
    textgrid(tmp_path / "talks" / "three.TextGrid", {"words": [(0, 0.1, "alone")]}, 0, 0.1)
    return tmp_path / "talks"


@pytest.mark.parametrize("tiers", [None, {"word": "* - words"}, {"word": "words"}])
def test_a_dialogue_is_an_utterance_a_speaker(dialogues, tiers, tmp_path):
    if tiers == {"word": "* - words"}:
        (dialogues / "three.TextGrid").unlink()
    path = table(tmp_path / "about.csv", "file,room,speaker\none.wav,lab,x\ntwo.wav,home,x\nthree.wav,home,tom\n")
    (dialogues / "one.txt").write_text("hi yo")  # what both say is not what each says
    corpus = folder.read(dialogues, tiers=tiers, metadata=path)
    assert corpus.utterances[["utterance", "speaker", "room"]].to_numpy().tolist() == [
        ["one/ann", "ann", "lab"],
        ["one/bob", "bob", "lab"],
        ["three", "tom", "home"],
        ["two/eve", "eve", "home"],
        ["two/bob", "bob", "home"],
    ]
    assert corpus.utterances["n_samples"].tolist() == [1600] * 5
    texts = corpus.utterances.set_index("utterance")["text"]
    assert texts.drop("three").tolist() == ["hi", "yo", "hi", "yo"]
    words = [row for row in segments(corpus) if row[0].startswith("one")]
    phones = [("one/ann", "phone", 0, 320, "hh"), ("one/ann", "phone", 320, 640, "ay")]
    assert words == [
        *(phones if tiers is None else []),
        ("one/ann", "word", 0, 640, "hi"),
        ("one/bob", "word", 800, 1600, "yo"),
    ]
    [note] = corpus.provenance["notes"]
    assert note.startswith("2 recordings have the labels of several speakers: each speaker became an utterance")


def test_facts_of_the_speakers_of_dialogues_are_joined(dialogues, tmp_path):
    path = table(tmp_path / "people.csv", "speaker,age\nann,30\nbob,40\neve,50\n")
    corpus = folder.read(dialogues, metadata=path, by="speaker")
    ages = corpus.utterances.set_index("utterance")["age"]
    assert ages.drop("three").to_dict() == {"one/ann": 30, "one/bob": 40, "two/eve": 50, "two/bob": 40}


def test_a_speaker_alone_keeps_the_name_of_the_recording(tmp_path):
    sound(tmp_path / "talks" / "one.wav")
    textgrid(tmp_path / "talks" / "one.TextGrid", {"ann - words": [(0, 0.1, "hi")]}, 0, 0.1)
    corpus = folder.read(tmp_path / "talks")
    assert corpus.utterances[["utterance", "speaker", "text"]].to_numpy().tolist() == [["one", "ann", "hi"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GRID.format(2, '0\n0.1\n"A"\n'), r"a\.TextGrid is damaged or cut short"),
        (
            GRID.format(1, '0\n9\n"A"\n'),
            r"utterance 's1/a' lasts 0\.100 s, but its phone 'A' goes from 0\.000 to 9\.000 s",
        ),
        (
            GRID.format(1, '0\n0.1\n"A"\n').replace("phones", "notes"),
            r"a\.TextGrid has no interval tier 'words' or 'phones'",
        ),
        (GRID.format(1, '-0.5\n0.1\n"A"\n'), r"but its phone 'A' goes from -0\.500 to 0\.100 s"),
        ("", r"a\.TextGrid is no TextGrid in text form"),
    ],
)
def test_broken_labels_are_tolerated_like_bad_audio(source, text, said):
    (source / "s1/a.TextGrid").write_text(text)
    grid(source / "s2/a.TextGrid", (0, 0.1, "E"))
    with pytest.raises(CorpusError, match=said):
        folder.read(source)
    (source / "s1/b.FLAC").write_bytes(b"no audio")
    with pytest.raises((AudioError, CorpusError)):
        folder.read(source, max_failures=1)
    corpus = folder.read(source, max_failures=2)
    assert corpus.utterances["utterance"].tolist() == ["s2/a"]
    assert sorted(corpus.provenance["left_out"]) == ["s1/a", "s1/b"]
    assert re.search(said, corpus.provenance["left_out"]["s1/a"])
    assert corpus.segments["label"].tolist() == ["E"]


@pytest.mark.parametrize(("start", "end", "stretches"), [(0.5, 0.6, None), (0, 0.1, {"words": (0.5, 0.6)})])
def test_times_that_praat_preserved_are_shifted(tmp_path, start, end, stretches):
    sound(tmp_path / "talk" / "a.wav")
    textgrid(
        tmp_path / "talk" / "a.TextGrid", {"words": [(0.5, 0.52, "one"), (0.52, 0.6, "two")]}, start, end, stretches
    )
    corpus = folder.read(tmp_path / "talk")
    assert segments(corpus) == [("a", "word", 0, 320, "one"), ("a", "word", 320, 1600, "two")]
    assert "do not begin at 0 but last as long as their audio" in corpus.provenance["notes"][0]


def test_a_corpus_survives_writing_and_reading(source, tmp_path):
    grid(source / "s1/a.TextGrid", (0, 0.1, "AH0"))
    corpus = folder.read(source)
    again = Corpus.read(corpus.write(tmp_path / "corpus"))
    assert again.fingerprint == corpus.fingerprint
    assert again.provenance["without_textgrid"] == 2


def test_real_speech(shared):
    source = shared / "data" / "speech" / "english"
    corpus = folder.read(source, metadata=source / "manifest.tsv")
    assert len(corpus.utterances) == 19
    assert corpus.tiers == ["phone", "word"]
    counts = corpus.segments.groupby(["utterance", "tier"]).size().unstack()
    manifest = corpus.utterances.set_index("utterance")
    assert (counts["word"] == manifest["n_words"]).all()
    assert (counts["phone"] == manifest["n_phones"]).all()
    phones = set(corpus.segments.loc[corpus.segments["tier"] == "phone", "label"])
    assert len(phones) == 38
    assert {"ah", "zh"} <= phones
    words = corpus.segments[corpus.segments["tier"] == "word"].groupby("utterance", sort=False)["label"].agg(" ".join)
    assert words["LJ002-0035"] == manifest["text"]["LJ002-0035"] == "the press yard"
    np.testing.assert_allclose(corpus.utterances["n_samples"] / 16000, corpus.utterances["seconds"], atol=0.006)
    assert corpus.provenance["textgrids"] == 19
    assert corpus.provenance["without_textgrid"] == 0
