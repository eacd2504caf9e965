"""English Consistent Confusion Corpus: the table, the WAVs, the splits."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import small
import soundfile
from commands import run, says, succeeds

from layertool import audio
from layertool.corpora import eccc
from layertool.corpora.corpus import Corpus
from layertool.errors import AudioError, CorpusError

LENGTH = 1600
GOOD = {
    "ID": "1",
    "Length": str(LENGTH),
    "Masker": "SSN",
    "Onset": "77",
    "SNR": "-4.25",
    "Speaker": "s1",
    "Target": "fit",
    "Raw": "bit|thick|bit|fit",
    "Responses": "bit|thick|fit",
    "N-Listeners": "4",
    "Counts": "2 1 1",
    "Confusion": "bit",
    "Consistency": "2",
    "Target-frequency": "4.97",
    "Confusion-frequency": "6.1",
    "Phoneme-distance": "10",
}


def make(folder, rows, wavs=True):
    """The archive with these rows, each given by what is not as in GOOD."""
    (folder / "confusionWavs").mkdir(parents=True, exist_ok=True)
    rows = [GOOD | {"ID": str(k)} | row for k, row in enumerate(rows, 1)]
    with open(folder / "confusionCorpus_v1.2.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    for row in rows if wavs else ():
        wav(folder, row["ID"])
    return folder


def wav(folder, number, n_samples=LENGTH + 6400, channels=2, rate=16_000):
    sound = np.stack([small.noise(n_samples, seed=k) for k in range(channels)], axis=1)
    path = folder / "confusionWavs" / f"T_{number}.wav"
    soundfile.write(path, sound, rate)
    return path


@pytest.fixture
def source(tmp_path):
    """Three stimuli with the IDs 30, 4 and 100."""
    return make(tmp_path / "EnglishCCC_v1.2", [{"ID": "30"}, {"ID": "4", "Target": "kit"}, {"ID": "100"}])


@pytest.fixture(scope="module")
def published(shared):
    return shared / "data" / "eccc" / "EnglishCCC_v1.2"


def shuffled(table, seed=1):
    return table.iloc[np.random.default_rng(seed).permutation(len(table))]


def parts(table, column="split"):
    return dict(zip(table["utterance"], table[column], strict=True))


def test_the_published_corpus(published):
    corpus = eccc.read(published)
    there = pd.read_csv(published / "confusionCorpus_v1.2.csv", dtype=str, keep_default_na=False)
    table = corpus.utterances
    assert (len(table), corpus.name, set(table["channel"])) == (719, "eccc", {"sum"})
    for column in ("Masker", "Speaker", "Target", "Responses", "Counts", "Confusion"):
        assert list(table[column.lower()]) == list(there[column])
    for column in ("SNR", "Consistency", "Target-frequency", "Confusion-frequency", "Phoneme-distance"):
        assert list(table[column.lower().replace("-", "_")]) == list(there[column].astype(float))
    assert list(table["listeners"]) == list(there["N-Listeners"].astype(int))
    assert list(table["text"]) == list(there["Target"])
    assert list(table["utterance"]) == [f"T_{one}" for one in there["ID"]]
    assert table["masker"].value_counts().to_dict() == {"BMN3": 269, "SSN": 240, "BAB4": 210}
    for row in table.itertuples():
        words, counts = row.responses.split("|"), [int(n) for n in row.counts.split()]
        assert sum(counts) == row.listeners
        assert counts[words.index(row.confusion)] == row.consistency
        assert max((n, w) for n, w in zip(counts, words, strict=True) if w != row.target)[0] == row.consistency
    assert list(corpus.segments["label"]) == list(there["Target"])
    assert set(corpus.segments["tier"]) == {"word"}
    assert list(corpus.segments["start"]) == [0.2] * 719
    assert np.allclose(corpus.segments["end"], table["n_samples"] / 16_000 - 0.2, rtol=0, atol=1e-12)
    about = corpus.provenance
    assert (about["reader"], about["rows"], about["licence"]) == ("eccc", 719, "CC BY 4.0")
    content = (published / "confusionCorpus_v1.2.csv").read_bytes()
    assert about["csv_sha256"] == hashlib.sha256(content).hexdigest()


def test_what_is_heard_is_left_plus_right(published):
    for row in eccc.read(published).utterances.iloc[[0, 350, 718]].itertuples():
        sound, _ = soundfile.read(row.audio, dtype="int16", always_2d=True)
        heard = audio.read(row.audio, 16_000, channel=row.channel)
        assert np.array_equal(heard * 32768, sound.astype(int).sum(axis=1))  # exact: 17 bits
        assert len(heard) == row.n_samples


def test_splits_of_the_published_corpus(published):
    table = eccc.read(published).utterances
    for masker, own in table.groupby("masker"):
        n = int(0.1 * len(own) + 0.5)
        for column in ("split", "split_by_target"):  # 607 targets of 1 to 4 stimuli: the greedy one comes as near
            numbers = own[column].value_counts()
            assert abs(numbers["test"] - n) <= (column != "split"), masker
            assert abs(numbers["dev"] - n) <= (column != "split"), masker
    assert (table.groupby("target")["split_by_target"].nunique() == 1).all()
    assert (table.groupby("target")["split"].nunique() > 1).any()  # or the other would be for nothing


def test_one_row(source, tmp_path):
    corpus = eccc.read(tmp_path)  # the folder above
    assert corpus.utterances["utterance"].tolist() == ["T_30", "T_4", "T_100"]  # the order of the table
    assert corpus.utterances.iloc[1].drop(["audio", "split", "split_by_target", "start", "end"]).to_dict() == {
        "utterance": "T_4",
        "channel": "sum",
        "sample_rate": 16_000,
        "n_samples": LENGTH + 6400,
        "speaker": "s1",
        "masker": "SSN",
        "snr": -4.25,
        "target": "kit",
        "text": "kit",
        "responses": "bit|thick|fit",
        "counts": "2 1 1",
        "listeners": 4,
        "confusion": "bit",
        "consistency": 2,
        "target_frequency": 4.97,
        "confusion_frequency": 6.1,
        "phoneme_distance": 10,
    }
    assert corpus.segments.iloc[1].tolist() == ["T_4", "word", 0.2, 0.3, "kit"]
    assert corpus.provenance["source"] == str(source)
    assert "left_out" not in corpus.provenance
    assert corpus.provenance["split_stimuli"] == {"train": {"SSN": 3}, "dev": {"SSN": 0}, "test": {"SSN": 0}}


def test_words_that_look_like_nothing(tmp_path):
    rows = [
        {"Target": "null", "Responses": "nan|NA|none", "Confusion": "nan"},
        {"Target": "nan", "Responses": "cross-eyed|true|don't", "Confusion": "cross-eyed"},
        {"Target": "NA", "Responses": "null", "Confusion": "null", "Counts": "4", "Consistency": "4"},
        {"Target": "12", "Responses": "7", "Confusion": "7", "Counts": "4", "Masker": "null", "Speaker": "None"},
    ]
    corpus = eccc.read(make(tmp_path / "made", rows))
    for row, got in zip(rows, corpus.utterances.to_dict("records"), strict=True):
        assert (got["target"], got["text"], got["responses"]) == (row["Target"], row["Target"], row["Responses"])
    read = Corpus.read(corpus.write(tmp_path / "corpus"))
    pd.testing.assert_frame_equal(read.utterances.astype({"channel": object}), corpus.utterances)
    pd.testing.assert_frame_equal(read.segments, corpus.segments)
    assert (read.provenance, read.fingerprint) == (corpus.provenance, corpus.fingerprint)
    for column in ("target", "text", "responses", "counts", "confusion", "masker", "speaker"):
        assert {type(value) for value in read.utterances[column]} == {str}, column
    assert [read.utterances[c].dtype.kind for c in ("snr", "listeners", "consistency")] == ["f", "i", "i"]


def test_values_that_may_be_absent(tmp_path):
    frequencies = {"Target-frequency": "", "Confusion-frequency": "", "Phoneme-distance": ""}
    folder = make(tmp_path / "made", [frequencies | {"Masker": "WIND"}])
    corpus = eccc.read(folder, name="windy")
    assert (corpus.name, corpus.utterances["masker"].tolist()) == ("windy", ["WIND"])
    assert corpus.utterances[["target_frequency", "confusion_frequency", "phoneme_distance"]].isna().all(axis=None)
    lines = pd.read_csv(folder / "confusionCorpus_v1.2.csv", dtype=str).drop(columns=["Raw", "Onset"])
    lines.to_csv(folder / "confusionCorpus_v1.2.csv", index=False, encoding="utf-8-sig")  # with a byte order mark
    assert len(eccc.read(folder).utterances) == 1


def test_homophones_of_raw_are_merged_in_responses(tmp_path):
    row = {"Raw": "write|right|right|rite", "Responses": "right", "Counts": "4", "Confusion": "right"}
    assert len(eccc.read(make(tmp_path / "made", [row])).utterances) == 1


WRONG_ROWS = [
    ({"Responses": "bit||fit"}, "Responses 'bit||fit' has an empty response"),
    ({"Responses": ""}, "Responses '' has an empty response"),
    ({"Responses": "bit|fit|bit "}, "Responses has 'bit' more than once"),
    ({"Counts": "2 2"}, "Responses has 3 words, but Counts 2 numbers"),
    ({"Counts": ""}, "Responses has 3 words, but Counts 0 numbers"),
    ({"Counts": "4 0 0"}, "Counts has '0', which is no whole number above 0"),
    ({"Counts": "5 -2 1"}, "Counts has '-2', which"),
    ({"Counts": "2 1 1.0"}, "Counts has '1.0', which"),
    ({"Counts": "2 1 2"}, "the Counts 2 + 1 + 2 make 5, but N-Listeners is 4"),
    ({"Raw": "bit|bit|fit"}, "Raw has 3 responses, but N-Listeners is 4"),
    ({"N-Listeners": "many"}, "N-Listeners is 'many', which is no whole number above 0"),
    ({"Length": "0"}, "Length is '0', which"),
    ({"Consistency": ""}, "Consistency is '', which"),
    ({"SNR": "loud"}, "SNR is 'loud', which is no number"),
    ({"SNR": "nan"}, "SNR is 'nan', which is no number"),
    ({"SNR": ""}, "SNR is '', which is no number"),
    ({"Target-frequency": "often"}, "Target-frequency is 'often', which is no number"),
    ({"Masker": " "}, "Masker is empty"),
    ({"Speaker": ""}, "Speaker is empty"),
    ({"Target": ""}, "Target is empty"),
    ({"Confusion": ""}, "Confusion is empty"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_ROWS)
def test_a_row_that_is_wrong(tmp_path, change, message):
    folder = make(tmp_path / "made", [{}, {"ID": "77"} | change, {}])
    with says(CorpusError, f"confusionCorpus_v1.2.csv, ID 77: {message}") as error:
        eccc.read(folder)
    assert str(error.value).endswith("; correct the row")
    corpus = eccc.read(folder, max_failures=1)
    assert corpus.utterances["utterance"].tolist() == ["T_1", "T_3"]
    assert corpus.segments["utterance"].tolist() == ["T_1", "T_3"]
    assert corpus.provenance["left_out"] == {"T_77": str(error.value)}
    assert corpus.provenance["rows"] == 3


WRONG_WAVS = [
    (lambda f: wav(f, 2, channels=1), "has 1 channel, but the layout says two channels: word left, masker right"),
    (lambda f: wav(f, 2, channels=3), "has 3 channels, but the layout says two channels: word left, masker right"),
    (lambda f: wav(f, 2, rate=8000), "has 8000 Hz, the corpus 16000 Hz"),
    (
        lambda f: wav(f, 2, n_samples=LENGTH + 6399),
        "has 7999 samples, but its Length is 1600, which with 200 ms before and after the word makes 8000",
    ),
    (lambda f: (f / "confusionWavs" / "T_2.wav").write_bytes(b"RIFF"), "cannot be read as audio"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG_WAVS)
def test_a_wav_that_is_wrong(tmp_path, spoil, message):
    folder = make(tmp_path / "made", [{}, {}, {}])
    spoil(folder)
    with says(AudioError, f"T_2.wav {message}"):
        eccc.read(folder)
    corpus = eccc.read(folder, max_failures=1)
    assert corpus.utterances["utterance"].tolist() == ["T_1", "T_3"]
    assert list(corpus.provenance["left_out"]) == ["T_2"]


def test_rows_and_wavs_count_together(tmp_path):
    folder = make(tmp_path / "made", [{}, {"SNR": "loud"}, {}, {}])
    wav(folder, 3, channels=1)
    with says(CorpusError, "ID 2: SNR is 'loud'"):
        eccc.read(folder)
    with says(AudioError, "T_3.wav has 1 channel"):
        eccc.read(folder, max_failures=1)
    corpus = eccc.read(folder, max_failures=2)
    assert corpus.utterances["utterance"].tolist() == ["T_1", "T_4"]
    assert list(corpus.provenance["left_out"]) == ["T_2", "T_3"]


def test_part_of_the_archive(tmp_path):
    folder = make(tmp_path / "made", [{}] * 5, wavs=False)
    with says(AudioError, "T_1.wav does not exist (5 of 5 WAVs are missing): unpack all of confusionWavs") as error:
        eccc.read(folder)
    assert "--max-failures" not in str(error.value)  # nothing would be left
    with says(CorpusError, "none of the utterances can be used; the first: "):
        eccc.read(folder, max_failures=5)
    for number in (2, 5):
        wav(folder, number)
    message = "(3 of 5 WAVs are missing): unpack all of confusionWavs, or leave them out with --max-failures 3"
    with says(AudioError, message):
        eccc.read(folder, max_failures=2)
    corpus = eccc.read(folder, max_failures=3)
    assert corpus.utterances["utterance"].tolist() == ["T_2", "T_5"]
    assert corpus.provenance["left_out"]["T_1"].endswith("(3 of 5 WAVs are missing): unpack all of confusionWavs")


def test_tables_that_are_wrong(source, tmp_path):
    path = source / "confusionCorpus_v1.2.csv"
    good = path.read_text()
    for column in eccc.COLUMNS:
        pd.read_csv(path, dtype=str).drop(columns=column).to_csv(path, index=False)
        with says(CorpusError, f"confusionCorpus_v1.2.csv has no column '{column}' (columns there: "):
            eccc.read(source, max_failures=9)
        path.write_text(good)
    header, *rows = good.splitlines()
    for text, message in (
        ("", "cannot be read as a table (it is empty)"),
        (header, "has no rows: unpack the archive again"),
        ("\n".join([header, rows[0], rows[1], rows[0]]), "has the utterance id '30' more than once (1 repeated ids)"),
        (
            "\n".join([header, rows[0], rows[1].rpartition(",")[0]]),
            "row 2 has fewer cells than its header (15 for 16 names)",
        ),
        ("\n".join([header, rows[0], rows[1] + ",x"]), "row 2 has more cells than its header (17 for 16 names)"),
        (
            "\n".join([header, rows[0].partition(",")[1] + rows[0].partition(",")[2]]),
            "has no 'ID' in row 1 (1 such rows)",
        ),
        (good + '"no end', "cannot be read as a table ("),
    ):
        path.write_text(text)
        with says(CorpusError, message):
            eccc.read(source, max_failures=9)
    path.write_bytes(b"ID,Target\n1,na\xefve\n")
    with says(CorpusError, "line 2 is not UTF-8"):
        eccc.read(source)


def test_finding_the_table(source, tmp_path):
    with says(CorpusError, "nowhere does not exist: check the path"):
        eccc.read(tmp_path / "nowhere")
    table = source / "confusionCorpus_v1.2.csv"
    with says(CorpusError, "confusionCorpus_v1.2.csv is not a folder: check the path"):
        eccc.read(table)
    with says(CorpusError, "confusionWavs has no confusionCorpus_*.csv: give the folder EnglishCCC_v1.2"):
        eccc.read(source / "confusionWavs")
    shutil.copytree(source, tmp_path / "copy")
    with says(CorpusError, "(EnglishCCC_v1.2/confusionCorpus_v1.2.csv, copy/confusionCorpus_v1.2.csv): keep one"):
        eccc.read(tmp_path)
    table.rename(source / "confusionCorpus_v2.csv")
    assert eccc.read(source).provenance["csv"] == "confusionCorpus_v2.csv"
    shutil.copy(source / "confusionCorpus_v2.csv", table)
    with says(CorpusError, "has several tables (confusionCorpus_v1.2.csv, confusionCorpus_v2.csv): keep one"):
        eccc.read(source)


# splits, of tables: no audio is needed for them


@pytest.fixture(scope="module")
def many():
    """600 stimuli of 3 maskers and 200 targets, some of them often."""
    random = np.random.default_rng(0)
    targets = np.concatenate([np.arange(200), (200 * random.random(400) ** 2).astype(int)])
    maskers = random.choice(["SSN", "BMN3", "BAB4"], 600, p=[0.5, 0.3, 0.2])
    ids = [f"T_{k}" for k in random.permutation(5000)[:600]]
    return pd.DataFrame({"utterance": ids, "target": [f"word{k}" for k in targets], "masker": maskers})


@pytest.mark.parametrize("rule", [eccc._by_masker, eccc._by_target])
def test_splits_follow_from_the_seed_and_the_stimuli(many, rule):
    first = parts(many.assign(split=rule(many, 5)))
    again = shuffled(many)
    assert parts(again.assign(split=rule(again, 5))) == first
    assert parts(many.assign(split=rule(many, 6))) != first


@pytest.mark.parametrize("seed", range(5))
def test_splits_are_balanced(many, seed):
    table = many.assign(split=eccc._by_masker(many, seed), split_by_target=eccc._by_target(many, seed))
    wanted = table["masker"].value_counts() / 10
    for column, off in (("split", 0.5), ("split_by_target", 4)):
        for part in ("dev", "test"):
            numbers = table[table[column] == part]["masker"].value_counts()
            assert (numbers - wanted).abs().max() <= off, (column, part)
    assert (table.groupby("target")["split_by_target"].nunique() == 1).all()


def test_one_stimulus_less_changes_little(many):
    """So that a copy with a damaged file does not train on the test words of another."""
    first = parts(many.assign(split=eccc._by_masker(many, 0)))
    for gone in many.index[:10]:
        fewer = many.drop(gone)
        moved = [
            one for one, part in parts(fewer.assign(split=eccc._by_masker(fewer, 0))).items() if first[one] != part
        ]
        assert len(moved) <= 3  # at the end of the test words one, at that of the dev words two


# the command


def test_the_command(source, tmp_path):
    told = succeeds("corpus", "eccc", source, "-o", tmp_path / "out").stdout
    assert re.search(r"utterances +3, ", told)
    assert re.search(r"split stimuli +train SSN 3", told)
    assert Corpus.read(tmp_path / "out").provenance["split_seed"] == 0
    assert "holds a corpus already" in run("corpus", "eccc", source, "-o", tmp_path / "out").stderr
    (source / "confusionWavs" / "T_4.wav").unlink()
    failed = run("corpus", "eccc", source, "-o", tmp_path / "new", "--seed", "3")
    assert failed.exit_code == 1
    assert "T_4.wav does not exist (1 of 3 WAVs are missing)" in failed.stderr
    assert not (tmp_path / "new").exists()
    more = ("--seed", "3", "--name", "mine", "--max-failures", "1")
    told = succeeds("corpus", "eccc", source, "-o", tmp_path / "new", *more).stdout
    assert re.search(r"left out +T_4: ", told)
    made = Corpus.read(tmp_path / "new")
    assert (made.name, made.provenance["split_seed"], len(made.utterances)) == ("mine", 3, 2)


@pytest.mark.parametrize(
    ("arguments", "says_so"),
    [
        ([], "'SOURCE'"),
        (["nowhere", "-o", "out"], "nowhere does not exist"),
        (["nowhere"], "'-o'"),
        (["nowhere", "-o", "out", "--seed", "-1"], "--seed"),
    ],
)
def test_the_command_asked_wrongly(tmp_path, monkeypatch, arguments, says_so):
    monkeypatch.chdir(tmp_path)
    done = run("corpus", "eccc", *arguments)
    assert done.exit_code in (1, 2)
    assert says_so in done.stderr
    assert not (tmp_path / "out").exists()
