"""Corpora joined into one."""

from __future__ import annotations

import models
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import layertool
from layertool import columns
from layertool.cli import cli
from layertool.corpora.join import join
from layertool.errors import CorpusError


def make(folder, name, ids, **metadata):
    """Utterances with the ids asked for, a word in each, and metadata."""
    folder.mkdir()
    corpus = models.corpus(
        folder / "audio",
        [models.speech_like(8000 + 160 * k, k) for k in range(len(ids))],
        [(k, "word", 0, 4000, f"w{k}") for k in range(len(ids))],
        **metadata,
    )
    names = dict(zip(corpus.utterances["utterance"], ids, strict=True))
    corpus.utterances["utterance"] = ids
    corpus.segments["utterance"] = corpus.segments["utterance"].map(names)
    corpus.name = name
    return corpus


@pytest.fixture
def parts(tmp_path):
    first = make(tmp_path / "a", "accents", ["s1", "s2", "s3"], gender=["f", "m", "f"])
    return first, make(tmp_path / "b", "emotions", ["e1", "e2"], valence=["positive", "negative"])


def test_everything_of_both_is_there(parts, tmp_path):
    made = join(parts)
    assert made.name == "accents+emotions"
    assert made.utterances["utterance"].tolist() == ["s1", "s2", "s3", "e1", "e2"]
    assert made.utterances["part"].tolist() == ["accents"] * 3 + ["emotions"] * 2
    assert made.utterances["gender"].isna().tolist() == [False] * 3 + [True] * 2
    assert made.utterances["valence"].tolist()[3:] == ["positive", "negative"]
    assert made.utterances["n_samples"].tolist() == [n for p in parts for n in p.utterances["n_samples"]]
    assert len(made.segments) == 5
    made.write(tmp_path / "both")
    again = layertool.Corpus.read(tmp_path / "both")
    assert again.fingerprint == made.fingerprint
    assert again.provenance["parts"].keys() == {"accents", "emotions"}


def test_the_features_are_those_of_the_parts(parts, tmp_path):
    store = layertool.extract("mfcc", join(parts), tmp_path / "both", ("word", "utterance"))
    alone = [layertool.extract("mfcc", p, tmp_path / p.name, ("word", "utterance")) for p in parts]
    for unit in ("word", "utterance"):
        assert np.array_equal(store.read(unit, "mfcc"), np.concatenate([s.read(unit, "mfcc") for s in alone]))


def test_what_cannot_be_joined(parts, tmp_path):
    first, second = parts
    with pytest.raises(CorpusError, match="one corpus has nothing to be joined with"):
        join([first])
    with pytest.raises(CorpusError, match="two of the corpora are called 'accents'"):
        join([first, first])
    second.utterances["utterance"] = ["e1", "s2"]
    with pytest.raises(CorpusError, match="'s2' is an utterance of accents and of emotions: ids have to differ"):
        join([first, second])
    first.utterances["part"] = "x"
    with pytest.raises(CorpusError, match="accents has a column 'part'"):
        join([first, second])


def test_command(parts, tmp_path):
    for part in parts:
        part.write(tmp_path / part.name)
    folders = [str(tmp_path / part.name) for part in parts]
    done = CliRunner().invoke(cli, ["corpus", "join", *folders, "-o", str(tmp_path / "both"), "--name", "speat"])
    assert done.exit_code == 0, done.output
    assert layertool.Corpus.read(tmp_path / "both").name == "speat"
    again = CliRunner().invoke(cli, ["corpus", "join", *folders, "-o", str(tmp_path / "both")])
    assert again.exit_code == 1
    assert "holds a corpus already" in again.stderr


def test_columns_of_two_kinds_become_text_which_is_told(parts, tmp_path):
    first, second = parts
    first.utterances["age"], second.utterances["age"] = [27, 40, 33], ["twenties", None]
    first.utterances["score"], second.utterances["score"] = [1, 2, 3], [0.5, np.nan]
    first.utterances["native"], second.utterances["native"] = [True, False, True], ["yes", "no"]
    first.utterances["id"], second.utterances["id"] = [10**18 + 1, 2, 3], pd.array([None, 10**18], dtype="Int64")
    for part in parts:
        part.write(tmp_path / part.name)
    made = join([layertool.Corpus.read(tmp_path / part.name) for part in parts])
    made.write(tmp_path / "both")
    table = layertool.Corpus.read(tmp_path / "both").utterances
    assert columns.texts(table["age"]).tolist() == ["27", "40", "33", "twenties", None]
    assert columns.texts(table["native"]).tolist() == ["True", "False", "True", "yes", "no"]
    assert table["score"].tolist()[:4] == [1.0, 2.0, 3.0, 0.5]
    assert columns.texts(table["id"]).tolist() == [str(10**18 + 1), "2", "3", None, str(10**18)]
    kinds = [note.split(":")[0] for note in made.provenance["notes"]]
    assert kinds == [
        "the column 'age' of the utterances of accents and emotions holds text and whole numbers",
        "the column 'native' of the utterances of accents and emotions holds text and truth values",
    ]
    folders = [str(tmp_path / part.name) for part in parts]
    done = CliRunner().invoke(cli, ["corpus", "join", *folders, "-o", str(tmp_path / "again")])
    assert done.exit_code == 0
    assert "note: the column 'age' of" in done.stderr


def test_whole_numbers_stay_so_where_a_corpus_has_none(parts):
    parts[0].utterances["id"] = [10**18 + 1, 2, 3]
    assert columns.texts(join(parts).utterances["id"]).tolist() == [str(10**18 + 1), "2", "3", None, None]
