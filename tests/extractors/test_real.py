"""Real speech through real weights: whisper-tiny.en on 19 English utterances with their TextGrids."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import references

import layertool
from layertool.corpora import folder as folder_reader

HANDFUL = ["LJ002-0035", "arctic_aew_a0001", "arctic_axb_a0005", "librivox_0880"]
UNITS = ("phone", "word", "frame")
N_FOLDS, RIDGE = 5, 100.0


@pytest.fixture(scope="module")
def corpus(shared):
    speech = shared / "data/speech/english"
    return folder_reader.read(speech, metadata=speech / "manifest.tsv")


@pytest.fixture(scope="module")
def handful(shared, corpus, tmp_path_factory):
    """Four of the utterances and their store: every layer, at phones, words and frames."""
    few = layertool.Corpus.build(
        corpus.utterances[corpus.utterances["utterance"].isin(HANDFUL)],
        corpus.segments[corpus.segments["utterance"].isin(HANDFUL)],
        "handful",
    )
    out = tmp_path_factory.mktemp("handful") / "store"
    return few, layertool.extract(str(shared / "models/whisper-tiny.en"), few, out, UNITS)


def manifest(shared) -> dict[str, dict]:
    with open(shared / "data/speech/english/manifest.tsv", newline="") as file:
        return {row["utt"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


@pytest.mark.slow
def test_rows_are_the_words_and_phones_of_the_manifest(shared, handful):
    _, store = handful
    assert store.layers == ["C1", "C2", "T0", "T1", "T2", "T3", "T4", "final"]
    words, phones = store.rows("word"), store.rows("phone")
    assert list(dict.fromkeys(words["utterance"])) == HANDFUL
    for utterance, row in manifest(shared).items():
        if utterance in HANDFUL:
            mine = words[words["utterance"] == utterance]
            assert list(mine["label"]) == row["text"].split()
            assert (mine["speaker"] == row["speaker"]).all()
            assert len(mine) == int(row["n_words"])
            assert (phones["utterance"] == utterance).sum() == int(row["n_phones"])
    inside = [
        (
            (words["utterance"] == p.utterance) & (words["start"] <= p.start + 1e-9) & (p.end <= words["end"] + 1e-9)
        ).any()
        for p in phones.itertuples()
    ]
    assert all(inside)


def test_segments_are_means_of_the_stored_frames(handful):
    few, store = handful
    lengths = few.utterances["n_samples"].to_numpy()
    for name, hop in (("C1", 160), ("C2", 320), ("T0", 320), ("T4", 320), ("final", 320)):
        owner, values = store.row_table("frame", name)["utterance"], store.read("frame", name)
        frames = [values[owner == k] for k in range(len(lengths))]
        assert [len(clip) for clip in frames] == [-(-int(n) // hop) for n in lengths]
        for unit, pooling in (("phone", "centre-third"), ("word", "mean")):
            expected = []
            for row in store.row_table(unit):
                clip = frames[row["utterance"]]
                chosen = references.segment_frames(int(row["start"]), int(row["end"]), hop, len(clip), pooling)
                expected.append(references.pooled(clip, chosen))
            assert references.worst_row(store.read(unit, name), expected) < 1e-5


def test_stores_of_one_corpus_have_the_same_rows(handful, tmp_path):
    few, store = handful
    mel = layertool.extract("mel", few, tmp_path / "mel", UNITS)
    for unit in ("phone", "word"):
        assert mel.rows(unit).equals(store.rows(unit))
    assert len(mel.read("word", "mel")) == len(store.read("word", "T3"))


# --- what the layers know --------------------------------------------------------------------------


def phone_accuracy(vectors: np.ndarray, rows) -> float:
    """Accuracy of a linear (ridge) classifier of phones, tested on utterances that it was not fitted on."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), RidgeClassifier(RIDGE))
    folds = GroupKFold(N_FOLDS)
    guesses = cross_val_predict(classifier, vectors, rows["label"], groups=rows["utterance"], cv=folds)
    return float((guesses == rows["label"].to_numpy()).mean())


@pytest.fixture(scope="module")
def whole(shared, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "store"
    return layertool.extract(str(shared / "models/whisper-tiny.en"), corpus, out, ("phone", "frame"), "T0-T4")


@pytest.mark.slow
def test_phone_information_rises_over_the_encoder(whole, record_property):
    rows = whole.rows("phone")
    assert len(rows) == 1_134
    accuracy = {name: phone_accuracy(whole.read("phone", name), rows) for name in whole.layers}
    record_property("accuracy", {name: round(value, 3) for name, value in accuracy.items()})
    assert accuracy["T0"] < 0.45
    assert accuracy["T0"] + 0.1 < accuracy["T1"] < accuracy["T2"] - 0.1
    assert min(accuracy[name] for name in ("T2", "T3", "T4")) > 0.70
    shuffled = rows.assign(label=np.random.default_rng(0).permutation(rows["label"]))
    assert phone_accuracy(whole.read("phone", "T3"), shuffled) < 0.1  # the commonest phone has 0.09


@pytest.mark.slow
def test_rows_stand_at_the_time_of_their_phones(whole, record_property):
    """Phones are told best from the frames at their own times, and worse from those before and after.

    T1, because higher layers know what was around a frame too (T3 knows best 20 ms later).
    """
    table, rows = whole.row_table("phone"), whole.rows("phone")
    owner, values = whole.row_table("frame")["utterance"], whole.read("frame", "T1")
    clips = [values[owner == k] for k in range(len(whole.utterances))]
    accuracy = {}
    for shift in (-5, -3, 0, 3, 5):  # frames of 20 ms
        vectors = []
        for row in table:
            clip = clips[row["utterance"]]
            middle = (int(row["start"]) + int(row["end"])) // 2 // 320
            vectors.append(clip[np.clip(middle + shift, 0, len(clip) - 1)])
        accuracy[shift] = phone_accuracy(np.stack(vectors), rows)
    record_property("accuracy", {shift: round(value, 3) for shift, value in accuracy.items()})
    assert accuracy[0] > 0.5
    assert accuracy[0] > max(accuracy[-3], accuracy[3]) + 0.1
    assert max(accuracy[-5], accuracy[5]) < 0.35
