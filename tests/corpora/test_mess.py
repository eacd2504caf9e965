"""Morgan Emotional Speech Set: names, ratings, groups, what is missing."""

from __future__ import annotations

import shutil
import sys
from itertools import product

import pandas as pd
import pytest
import small
from commands import says

from layertool.corpora import mess
from layertool.corpora.corpus import Corpus
from layertool.errors import AudioError, CorpusError, MissingExtraError

CODES = [f"{e}{s}{c}{i:02}" for s, e, c, i in product(["F1", "M3"], "ACHS", "MV", (1, 7))]  # 16 clips a speaker


@pytest.fixture
def source(tmp_path):
    """16 clips of F1 beside one another, 16 of M3 in a folder below; one is called .WAV."""
    root = tmp_path / "mess"
    sound = small.sound(tmp_path / "sound.wav", 800)
    (root / "men").mkdir(parents=True)
    for code in CODES:
        shutil.copyfile(sound, root / ("men" if code[1] == "M" else "") / f"{code}_SCR.wav")
    (root / "AF1M01_SCR.wav").rename(root / "AF1M01_SCR.WAV")
    return root


def rating(code):
    """From 1 to 16 in each speaker, in order of the code."""
    return 1 + sorted(c for c in CODES if c[1:3] == code[1:3]).index(code)


def sheet(codes=CODES, value=rating, **columns):
    return pd.DataFrame({"code": codes, "Gender": "x", "Valence": [value(c) for c in codes], "Arousal": 5.5, **columns})


def write(table, path):
    table.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)
    return path


def group(corpus, value):
    table = corpus.utterances
    return [one.removesuffix("_SCR") for one in table["utterance"][table["valence"] == value]]


def test_ratings_decide(source, tmp_path):
    write(sheet(), source / "Coded stimuli final.csv")
    (source / "readme.txt").write_text("hello")
    (source / "AF4M01_SCR.wav").write_text("there is no F4")
    corpus = mess.read(source, n_per_speaker=3)
    for speaker in ("F1", "M3"):
        own = sorted(c for c in CODES if c[1:3] == speaker)
        assert [c for c in group(corpus, "negative") if c[1:3] == speaker] == own[:3]
        assert [c for c in group(corpus, "positive") if c[1:3] == speaker] == own[-3:]
    table = corpus.utterances.set_index("utterance")
    assert len(table) == 12
    first = table.loc["AF1M01_SCR"]
    assert first[["speaker", "sex", "emotion", "cue", "item"]].tolist() == ["F1", "female", "angry", "M", 1]
    assert first[["valence", "valence_rating", "arousal_rating"]].tolist() == ["negative", 1.0, 5.5]
    assert table.loc["SM3V07_SCR", ["speaker", "sex", "emotion", "item"]].tolist() == ["M3", "male", "sad", 7]
    assert not {"code", "gender"} & set(table)  # gender is a group of the Speech Accent Archive
    about = corpus.provenance
    assert (corpus.name, about["reader"], about["seed"]) == ("mess", "mess", 431137)
    assert about["ratings_from"] == str((source / "Coded stimuli final.csv").resolve())
    assert about["other_files"] == {"count": 2, "first": ["AF4M01_SCR.wav", "readme.txt"]}
    assert about["clips_per_speaker_and_group"] == {"F1": 3, "M3": 3}
    assert about["rated_but_not_there"] == {"count": 0, "ids": []}
    read = Corpus.read(corpus.write(tmp_path / "corpus"))
    assert read.fingerprint == corpus.fingerprint
    assert read.provenance == about
    assert list(read.utterances["valence"]) == list(corpus.utterances["valence"])


def test_all_keeps_the_others_without_a_group(source, tmp_path):
    corpus = mess.read(source, write(sheet(), tmp_path / "r.tsv"), selection="all", n_per_speaker=2)
    assert [one.removesuffix("_SCR") for one in corpus.utterances["utterance"]] == sorted(CODES)
    assert corpus.utterances["valence"].isna().sum() == 32 - 8
    read = Corpus.read(corpus.write(tmp_path / "corpus"))
    assert read.utterances["valence"].isna().sum() == 24


@pytest.mark.parametrize(
    ("column", "form"), [("Code", "{}"), ("FILE", "{}_SCR.wav"), ("File name", "{}_scr"), ("stimulus", " {} ")]
)
def test_names_of_codes(source, tmp_path, column, form):
    table = sheet().rename(columns={"code": column, "Valence": " VALENCE"}).drop(columns="Arousal")
    table[column] = [form.format(code) for code in table[column]]
    corpus = mess.read(source, write(table, tmp_path / "r.csv"), n_per_speaker=1)
    assert group(corpus, "positive") == ["SF1V07", "SM3V07"]
    assert "arousal_rating" not in corpus.utterances


def test_a_seed_decides_between_equal_ratings(source, tmp_path):
    ratings = write(sheet(value=lambda code: 3), tmp_path / "r.csv")
    chosen = {seed: mess.read(source, ratings, seed=seed, n_per_speaker=8) for seed in (1, 1, 2)}
    for corpus in chosen.values():
        assert sorted(group(corpus, "positive") + group(corpus, "negative")) == sorted(CODES)
    assert group(chosen[1], "positive") != group(chosen[2], "positive")
    assert group(mess.read(source, ratings, seed=1, n_per_speaker=8), "positive") == group(chosen[1], "positive")


def test_clips_that_are_not_there_are_replaced_and_reported(source, tmp_path):
    ratings = write(sheet([*CODES, "HF2M01"], lambda c: rating(c) if c in CODES else 9), tmp_path / "r.csv")
    (source / "AF1M01_SCR.WAV").unlink()  # the lowest rating
    (source / "CF1V01_SCR.wav").unlink()  # in the middle
    corpus = mess.read(source, ratings, n_per_speaker=2)
    assert [c for c in group(corpus, "negative") if "F1" in c] == ["AF1M07", "AF1V01"]
    about = corpus.provenance
    assert about["rated_but_not_there"] == {"count": 3, "ids": ["AF1M01", "CF1V01", "HF2M01"]}
    assert about["replaced_in_the_groups_because_not_there"] == {"count": 1, "ids": ["AF1M01"]}
    assert about["clips_per_speaker_and_group"] == {"F1": 2, "M3": 2}


def test_unusable_audio_is_replaced_too(source, tmp_path):
    ratings = write(sheet(), tmp_path / "r.csv")
    (source / "AF1M01_SCR.WAV").write_bytes(b"no sound")
    with says(AudioError, "AF1M01_SCR.WAV cannot be read as audio"):
        mess.read(source, ratings, n_per_speaker=2)
    corpus = mess.read(source, ratings, n_per_speaker=2, max_failures=1)
    assert [c for c in group(corpus, "negative") if "F1" in c] == ["AF1M07", "AF1V01"]
    assert list(corpus.provenance["left_out"]) == ["AF1M01_SCR"]


def test_clips_without_a_number(source, tmp_path):
    ratings = write(sheet(value=lambda c: "n/a" if c == "AF1M01" else rating(c)).iloc[:-1], tmp_path / "r.csv")
    corpus = mess.read(source, ratings, n_per_speaker=1)
    assert corpus.provenance["clips_without_a_valence_rating"] == {"count": 2, "ids": ["AF1M01", "SM3V07"]}
    assert group(corpus, "negative") == ["AF1M07", "AM3M01"]
    assert group(corpus, "positive") == ["SF1V07", "SM3V01"]


def test_without_a_sheet_the_emotions_decide(source):
    corpus = mess.read(source)
    assert corpus.name == "mess-by-emotion"
    assert {c[0] for c in group(corpus, "positive")} == {"H", "C"}
    assert {c[0] for c in group(corpus, "negative")} == {"A", "S"}
    assert len(corpus.utterances) == 32
    assert "this is not the set of the paper" in corpus.provenance["valence_from"]
    assert "valence_rating" not in corpus.utterances
    for code in ("HF1M01", "HF1M07", "CF1M01"):
        (source / f"{code}_SCR.wav").unlink()
    fewer = mess.read(source)
    assert fewer.provenance["clips_per_speaker_and_group"] == {"F1": 5, "M3": 8}
    assert fewer.provenance["left_out_to_keep_groups_equal"]["count"] == 3
    everything = mess.read(source, selection="all")
    assert len(everything.utterances) == 29
    assert sorted(group(everything, "negative")) == sorted(group(fewer, "negative"))


def test_copies_of_a_clip(source):
    (source / "women").mkdir()
    shutil.copy(source / "SF1V07_SCR.wav", source / "women" / "sf1v07_scr.wav")
    corpus = mess.read(source)
    assert corpus.provenance["copies_passed_over"] == {"count": 1, "ids": ["women/sf1v07_scr.wav"]}
    assert len(corpus.utterances) == 32


def test_workbook(source):
    pytest.importorskip("openpyxl")
    with pd.ExcelWriter(source / "Coded stimuli final.xlsx") as book:
        pd.DataFrame({"about": ["ratings"]}).to_excel(book, sheet_name="notes", index=False)
        sheet().to_excel(book, sheet_name="stimuli", index=False)
    corpus = mess.read(source, n_per_speaker=1)
    assert group(corpus, "positive") == ["SF1V07", "SM3V07"]
    assert corpus.provenance["other_files"]["count"] == 0
    (source / "Coded stimuli final.xlsx").write_text("not a workbook")
    with says(CorpusError, "Coded stimuli final.xlsx cannot be read as a workbook"):
        mess.read(source)


def test_workbook_without_openpyxl(source, monkeypatch):
    (source / "coded stimuli final.xlsx").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with says(MissingExtraError, "(a .csv or .tsv saved from it needs nothing) needs the package 'openpyxl'"):
        mess.read(source)
    write(sheet(), source / "Coded stimuli final.tsv")  # goes before the workbook
    assert group(mess.read(source, n_per_speaker=1), "positive") == ["SF1V07", "SM3V07"]


def test_errors(source, tmp_path):
    ratings = write(sheet(), tmp_path / "r.csv")
    (tmp_path / "empty").mkdir()
    for folder, given, n, message in (
        (tmp_path / "nowhere", None, 10, "nowhere does not exist: check the path"),
        (tmp_path / "empty", None, 10, "empty has no clips of MESS: they are called like AF1M01_SCR.wav"),
        (source, tmp_path / "lost.xlsx", 10, "lost.xlsx does not exist: check the path of the table"),
        (source, ratings, 9, "the speaker F1 has 16 rated clips, but 9 positive and 9 negative ones are wanted"),
    ):
        with says(CorpusError, message):
            mess.read(folder, given, n_per_speaker=n)
    for table, message in (
        (sheet().rename(columns={"code": "what"}), "has no column 'code', 'file', 'filename', "),
        (sheet().drop(columns="Valence"), "has no column 'valence' (columns there: code, Gender, Arousal)"),
        (sheet(value=lambda c: "good"), "has no row with a code like AF1M01 in 'code' and a number in 'valence'"),
        (pd.concat([sheet(), sheet().iloc[:2]]), "rates the clip 'AF1M01' more than once (2 such rows)"),
        (sheet(["AF2M01"], lambda c: 1), "rates none of the 32 clips"),
    ):
        with says(CorpusError, message):
            mess.read(source, write(table, tmp_path / "wrong.csv"))
    for path in source.glob("[CH]F1*"):
        path.unlink()
    with says(CorpusError, "the speaker F1 has no positive clips: unpack the whole set"):
        mess.read(source)
