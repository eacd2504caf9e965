"""Speech Accent Archive: both layouts, the published and the matched groups, and what is missing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from importlib import resources

import numpy as np
import pandas as pd
import pytest
import small
import soundfile
from commands import says

from layertool.corpora import speech_accent_archive as saa
from layertool.corpora.corpus import Corpus
from layertool.corpora.groups import counted, equal_numbers, exact_pairs
from layertool.errors import AudioError, CorpusError

TESTS = json.loads(resources.files("layertool.corpora").joinpath("speat_ids.json").read_text())["tests"]
LISTS = {group: [str(i) for i in ids] for parts in TESTS.values() for group, ids in parts.items()}
EVERYBODY = sorted({i for ids in LISTS.values() for i in ids}, key=int)
US, KOREA = "boise, idaho, usa", "seoul, south korea"


def person(number, sex="female", age=30, place=US, language="english", name=None):
    name = name or f"{language}{number}"
    return {
        "language": language,
        "id": number,
        "name": name,
        "birth_place": place,
        "native_language": language,
        "age_of_english_onset": 0,
        "age": age,
        "sex": sex,
    }


def listed(number):
    """Somebody who fits all the published lists that name this number."""
    sex = "female" if number in LISTS["female"] or (number not in LISTS["male"] and int(number) % 2) else "male"
    age = 18 if number in LISTS["young"] else 60 if number in LISTS["old"] else 30
    korean = number in LISTS["korean"]
    return person(number, sex, age, *((KOREA, "korean") if korean else (US, "english")))


def website(folder, people, audio=None):
    """A folder with speakers.csv and NUMBER.wav for each, or for those named."""
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(people).to_csv(folder / "speakers.csv", index=False)
    sound = small.sound(folder / "first.wav", 800).rename(folder.parent / "sound.wav")
    for number in [p["id"] for p in people] if audio is None else audio:
        shutil.copyfile(sound, folder / f"{number}.wav")
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return website(tmp_path_factory.mktemp("saa") / "website", [listed(number) for number in EVERYBODY])


def groups(corpus):
    """Speakers by group."""
    table = corpus.utterances
    return {g: list(table["speaker"][table[column] == g]) for column, parts in TESTS.items() for g in parts}


def again(corpus, folder):
    """The same corpus from the disk."""
    read = Corpus.read(corpus.write(folder))
    assert read.fingerprint == corpus.fingerprint
    assert read.provenance == corpus.provenance
    for one, other in zip(read.utterances.items(), corpus.utterances.items(), strict=True):
        assert one[0] == other[0]
        assert [None if pd.isna(v) else v for v in one[1]] == [None if pd.isna(v) else v for v in other[1]]
    return read


# the published lists


def test_the_lists_are_those_of_the_paper():
    sizes = {"young": 58, "old": 58, "us": 59, "korean": 59, "female": 60, "male": 60}
    assert {group: len(set(ids)) for group, ids in LISTS.items()} == sizes
    for column in TESTS.values():
        one, other = column.values()
        assert not set(one) & set(other)
    assert list(zip(LISTS["female"], LISTS["male"], strict=True))[:3] == [
        ("510", "775"),
        ("1548", "465"),
        ("1571", "76"),
    ]


def test_published_groups_of_a_complete_copy(full, tmp_path):
    corpus = again(saa.read(full), tmp_path / "corpus")
    assert corpus.name == "speech-accent-archive-published"
    assert list(corpus.utterances["utterance"]) == EVERYBODY  # in order of the number
    assert {g: set(ids) for g, ids in groups(corpus).items()} == {g: set(ids) for g, ids in LISTS.items()}
    table = corpus.utterances.set_index("speaker")
    pairs = table.dropna(subset="gender_pair").groupby("gender_pair").groups
    assert {frozenset(ids) for ids in pairs.values()} == set(
        map(frozenset, zip(LISTS["female"], LISTS["male"], strict=True))
    )
    assert "native_pair" not in table
    assert pd.isna(table.loc["238", "gender"])
    assert table.loc["238", ["native", "korean_native", "us_native", "country"]].tolist() == [
        "korean",
        True,
        False,
        "south korea",
    ]
    about = corpus.provenance
    assert (about["reader"], about["layout"], about["selection"]) == ("speech_accent_archive", "website", "published")
    assert about["speakers_per_group"] == {group: len(ids) for group, ids in LISTS.items()}
    for key in (
        "published_but_not_in_the_table",
        "published_but_without_usable_audio",
        "left_out_to_keep_groups_equal",
    ):
        assert about[key] == {}


def test_missing_speakers_take_their_counterparts_along(full, tmp_path):
    """775 is the partner of 510 and in no other test; numbers beyond 2176 are newer than the Kaggle mirror."""
    copy = shutil.copytree(full, tmp_path / "copy")
    table = pd.read_csv(copy / "speakers.csv", dtype={"id": str})
    table[table["id"].astype(int) <= 2176].to_csv(copy / "speakers.csv", index=False)
    (copy / "775.wav").unlink()
    corpus = saa.read(copy, seed=5)
    about, kept = corpus.provenance, groups(corpus)
    newer = {group: [i for i in ids if int(i) > 2176] for group, ids in LISTS.items()}
    assert {g: len(ids) for g, ids in newer.items()} == {
        "young": 10,
        "old": 4,
        "us": 5,
        "korean": 23,
        "female": 9,
        "male": 4,
    }
    assert about["published_but_not_in_the_table"] == {g: counted(ids) for g, ids in newer.items()}
    assert about["published_but_without_usable_audio"] == {"male": {"count": 1, "ids": ["775"]}}
    assert "510" not in kept["female"]
    gone = {"775", *newer["female"], *newer["male"]}
    couples = [c for c in zip(LISTS["female"], LISTS["male"], strict=True) if not gone & set(c)]
    assert set(kept["female"]) | set(kept["male"]) == {i for couple in couples for i in couple}
    sex = {number: listed(number)["sex"] for number in EVERYBODY}
    for one, other in (("young", "old"), ("us", "korean")):
        there = {g: Counter(sex[i] for i in LISTS[g] if i not in newer[g]) for g in (one, other)}
        for g in (one, other):
            assert Counter(sex[i] for i in kept[g]) == there[one] & there[other]
            out = [i for i in LISTS[g] if i not in newer[g] and i not in kept[g]]
            assert about["left_out_to_keep_groups_equal"].get(g, {"ids": []})["ids"] == out
    assert groups(saa.read(copy, seed=5)) == kept
    assert groups(saa.read(copy, seed=6)) != kept


def test_unusable_audio_is_missing_audio(full, tmp_path):
    copy = shutil.copytree(full, tmp_path / "copy")
    (copy / "775.wav").write_bytes(b"no sound")
    with says(AudioError, "775.wav cannot be read as audio"):
        saa.read(copy)
    corpus = saa.read(copy, max_failures=1)
    assert list(corpus.provenance["left_out"]) == ["775"]
    assert corpus.provenance["published_but_without_usable_audio"] == {"male": {"count": 1, "ids": ["775"]}}
    assert "510" not in groups(corpus)["female"]


def test_a_table_with_other_numbers_is_refused(full):
    table = pd.read_csv(full / "speakers.csv", dtype=str)
    table.loc[table["id"] == "67", "sex"] = "male"  # one mistake is reported
    table.to_csv(full.parent / "slip.csv", index=False)
    about = saa.read(full, metadata=full.parent / "slip.csv").provenance
    assert about["published_but_described_otherwise_in_the_table"] == {"female": {"count": 1, "ids": ["67"]}}
    table["id"] = table["id"].to_numpy()[::-1]
    table.to_csv(full.parent / "other.csv", index=False)
    with says(CorpusError, "so its speaker ids are not those of accent.gmu.edu: give the website's table"):
        saa.read(full, metadata=full.parent / "other.csv")


# the Kaggle mirror


KAGGLE = """age,age_onset,birthplace,filename,native_language,sex,speakerid,country,file_missing?,,,
22,0,"torrington, connecticut, usa",english102,english,male,65,usa,FALSE,,,
65,35,"taipei, taiwan",taiwanese7,taiwanese,famale,1864,taiwan,FALSE,,,
15.5,12,"leeds, uk",English5,english,female,7,uk,FALSE,,,no
24,12,"koussi, senegal",balanta,balanta,male,788,senegal,TRUE,,,
0,0,,synthesized1,synthesized,male,355,,FALSE,,,
"""


@pytest.mark.parametrize("below", ["recordings/recordings", "recordings"])
def test_kaggle_layout(tmp_path, below):
    source = tmp_path / "archive"
    (source / below).mkdir(parents=True)
    (source / "speakers_all.csv").write_text(KAGGLE)
    (source / "reading-passage.txt").write_text("Please call Stella.")
    stereo = np.stack([small.noise(22050), small.noise(22050, 1)], 1)
    for name in ("english102", "taiwanese7", "english5", "synthesized1", "french9"):
        soundfile.write(source / below / f"{name}.mp3", stereo, 44100, format="MP3")
    corpus = again(saa.read(source, selection="all"), tmp_path / "corpus")
    table = corpus.utterances.set_index("utterance")
    assert list(table.index) == ["7", "65", "355", "1864"]
    assert table["sex"].tolist() == ["female", "male", "male", "female"]
    assert table["age"].fillna(-1).tolist() == [15.5, 22.0, -1.0, 65.0]
    assert table["age_of_english_onset"].tolist() == [12.0, 0.0, 0.0, 35.0]
    assert table["name"].tolist() == ["english5", "english102", "synthesized1", "taiwanese7"]
    assert table["us_native"].tolist() == [False, True, False, False]
    assert table["uk_native"].tolist() == [True, False, False, False]
    assert set(table["channel"]) == {"mix"}
    assert table["n_samples"].between(8000, 9000).all()
    assert "gender" not in table
    about = corpus.provenance
    assert about["layout"] == "Kaggle"
    assert about["misspelt_sex_corrected"] == 1
    assert about["audio_found_by"] == {"name": 4, "speaker id": 0}
    assert about["audio_of_no_speaker_in_the_table"] == 1
    assert about["speakers_without_audio"] == {"count": 1, "ids": ["788"]}


def test_names_and_numbers_and_copies(tmp_path):
    """WAV before MP3; by name or by number; the first row of a number; text like 'NA' is missing."""
    people = [person(1), person(2), person(2, age=99), person(3, age="NA"), {**person(4), "id": None}]
    source = website(tmp_path / "a", people, audio=[1])
    for name in ("english1.mp3", "english2.mp3", "more/english2.mp3", "3.mp3"):
        (source / name).parent.mkdir(exist_ok=True)
        soundfile.write(source / name, small.noise(8000), 16000, format="MP3")
    corpus = saa.read(source, selection="all")
    assert [path.rsplit("/", 1)[1] for path in corpus.utterances["audio"]] == ["1.wav", "english2.mp3", "3.mp3"]
    assert corpus.utterances["age"].fillna(0).tolist() == [30, 30, 0]
    about = corpus.provenance
    assert about["audio_found_by"] == {"name": 1, "speaker id": 2}
    assert about["audio_copies_passed_over"] == 1
    assert about["rows_without_a_speaker_id"] == 1
    assert about["speakers_listed_twice_first_row_taken"] == ["2"]


# matching anew


def test_matched_groups(tmp_path):
    """Young 1-4 (2 women, 2 men) against old 5-8 (1 woman, 3 men) of the US; Koreans 20-22."""
    us = [("f", 10), ("f", 11), ("m", 12), ("m", 13), ("f", 60), ("m", 60), ("m", 62), ("m", 13)]
    people = [person(k, {"f": "female", "m": "male"}[s], age) for k, (s, age) in enumerate(us, 1)]
    people += [person(9, "female", 13, language="korean")]  # born in the USA, but no native speaker of English
    people += [
        person(k, s, a, KOREA, "korean") for k, (s, a) in enumerate([("male", 13), ("female", 11), ("male", 10)], 20)
    ]
    people += [person(30, "female", 13, language="synthesized"), person(31, "female", "", US), person(32, "", 12, US)]
    source = website(tmp_path / "a", people)
    corpus = again(saa.read(source, selection="matched", seed=3), tmp_path / "corpus")
    table = corpus.utterances.set_index("speaker")
    found = groups(corpus)
    assert len(found["young"]) == len(found["old"]) == 2
    for group, pool in (("young", {"1", "2", "3", "4", "8"}), ("old", {"5", "6", "7", "8", "4"})):
        assert set(found[group]) < pool
        assert sorted(table.loc[found[group], "sex"]) == ["female", "male"]
    assert not set(found["young"]) & set(found["old"])
    assert found["korean"] == ["20", "21"]
    assert len(found["us"]) == 2
    assert "2" in found["us"]
    assert set(found["us"]) - {"2"} < {"4", "8"}
    assert table.loc["21", "native_pair"] == table.loc["2", "native_pair"]
    assert table.loc["20", "native_pair"] == table.loc[(set(found["us"]) - {"2"}).pop(), "native_pair"]
    assert (found["female"], found["male"]) == (["5"], ["6"])
    assert table.loc["5", "gender_pair"] == table.loc["6", "gender_pair"] == "gender 01"
    assert corpus.provenance["matched_by"] == saa.RULES


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """200 US natives of 100 ages, a woman and a man each; one Korean."""
    people = [person(k + 1, ("female", "male")[k % 2], 1 + k // 2) for k in range(200)]
    return website(tmp_path_factory.mktemp("crowd") / "a", [*people, person(999, "male", 7, KOREA, "korean")])


def test_matched_sizes_and_seeds(crowd):
    corpus = saa.read(crowd, selection="matched")
    found, table = groups(corpus), corpus.utterances.set_index("speaker")
    assert {g: len(ids) for g, ids in found.items()} == {
        "young": 60,
        "old": 60,
        "us": 1,
        "korean": 1,
        "female": 60,
        "male": 60,
    }
    assert table.loc[found["young"], "age"].max() == 30
    assert table.loc[found["old"], "age"].min() == 71
    assert found["us"] == ["14"]  # the man of 7 years
    couples = table.dropna(subset="gender_pair").groupby("gender_pair")
    assert (couples["age"].nunique() == 1).all()
    assert (couples["gender"].nunique() == 2).all()
    other = groups(saa.read(crowd, selection="matched", seed=1))
    assert other["female"] != found["female"]
    assert other["young"] == found["young"]  # no choice there
    assert groups(saa.read(crowd, selection="matched"))["female"] == found["female"]


def test_equal_numbers_and_pairs():
    table = pd.DataFrame({"sex": list("ffmmfm"), "age": [1.0, 2, 3, np.nan, 2, np.nan]}, index=list("abcdef"))
    kept = equal_numbers(table, {"x": list("abcd"), "y": list("ef")}, "sex", np.random.default_rng(0))
    assert kept["y"] == ["e", "f"]
    assert [table.loc[one, "sex"] for one in kept["x"]] == ["f", "m"]
    assert exact_pairs(table, list("abc"), list("ef"), ["sex", "age"], np.random.default_rng(0)) == [("b", "e")]


# errors


def test_errors(full, crowd, tmp_path):
    with says(CorpusError, "nowhere does not exist: check the path"):
        saa.read(tmp_path / "nowhere")
    source = website(tmp_path / "a", [person(1)])
    (source / "notes.csv").write_text("id,remark\n1,good\n")
    shutil.copy(source / "speakers.csv", source / "subset.csv")
    with says(CorpusError, "several tables of speakers (speakers.csv, subset.csv): choose with --metadata"):
        saa.read(source, selection="all")
    (source / "subset.csv").unlink()
    assert len(saa.read(source, selection="all").utterances) == 1
    (source / "speakers.csv").rename(tmp_path / "speakers.csv")
    with says(CorpusError, "has no table of the speakers (a .csv or .tsv at its top with the columns id, age, sex,"):
        saa.read(source)
    pd.DataFrame([person(1)]).drop(columns="birth_place").to_csv(source / "speakers.csv", index=False)
    with says(
        CorpusError, "speakers.csv has no column 'birth_place' or 'birthplace' (columns there: language, id, name,"
    ):
        saa.read(source)
    with says(CorpusError, "lost.csv does not exist: check the path of the table"):
        saa.read(source, metadata=tmp_path / "lost.csv")
    (source / "1.wav").rename(source / "somebody.wav")
    with says(CorpusError, "none of the 1 audio files in"):
        saa.read(source, metadata=tmp_path / "speakers.csv")
    (source / "somebody.wav").unlink()
    with says(CorpusError, "has no audio files (looked for .wav, .flac, .mp3): check the folder"):
        saa.read(source, metadata=tmp_path / "speakers.csv")
    with says(CorpusError, "nobody is left of the group 'young' (age_group) in"):
        saa.read(crowd, metadata=tmp_path / "speakers.csv")
    pd.read_csv(crowd / "speakers.csv").query("id < 900").to_csv(tmp_path / "us.csv", index=False)
    with says(CorpusError, "nobody is left of the group 'us' (native) in"):
        saa.read(crowd, metadata=tmp_path / "us.csv", selection="matched")
