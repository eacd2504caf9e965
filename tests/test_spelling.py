"""An é of one code point and of two is one letter, wherever text enters."""

import os

import numpy as np
import pandas as pd
import pytest
from small import sound

from layertool.analysis import embeddings
from layertool.analysis.lexical.lexicon import read_words
from layertool.conditions import parse_where
from layertool.corpora.align import read_dictionary
from layertool.corpora.corpus import Corpus
from layertool.corpora.table_files import read_table
from layertool.errors import CorpusError
from layertool.layerwise.speat import parse_groups
from layertool.probes import word_similarity
from layertool.spelling import nfc, nfc_values, on_disk

ONE, TWO = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("dtype", [object, "str", "category"])
def test_values_of_a_column(dtype):
    found = nfc_values(pd.Series([TWO, ONE, None, "a"], dtype=dtype, index=[3, 1, 2, 0]))
    assert found[[3, 1, 0]].tolist() == [ONE, ONE, "a"]
    assert pd.isna(found[2])
    same = pd.Series([ONE, "a", None], dtype=dtype)
    assert nfc_values(same) is same


def test_cells_that_are_no_text_stay():
    assert nfc_values(pd.Series([[1], TWO, True, 2.5], dtype=object)).tolist() == [[1], ONE, True, 2.5]
    numbers = pd.Series([1, 2])
    assert nfc_values(numbers) is numbers


def test_files_are_found_under_another_spelling(tmp_path):
    (tmp_path / TWO).mkdir()
    (tmp_path / TWO / f"{TWO}.wav").touch()
    assert on_disk(tmp_path / ONE / f"{ONE}.wav") == tmp_path / TWO / f"{TWO}.wav"
    (tmp_path / TWO / f"{ONE}.wav").touch()  # as written comes first
    os.utime(tmp_path / TWO, ns=(1, 1))
    assert on_disk(tmp_path / TWO / f"{ONE}.wav") == tmp_path / TWO / f"{ONE}.wav"
    assert on_disk(tmp_path / ONE / "\u00e1.wav") == tmp_path / TWO / "\u00e1.wav"
    assert not on_disk(tmp_path / "\u00e1.wav").exists()


@pytest.mark.parametrize(
    "line", [f"{TWO} 1 2\n{ONE} 3 4\nthe 5 6\n", f'{TWO}\t{{"noun": 1.0}}\nthe\t{{"noun": 0.5}}\n']
)
def test_embeddings(tmp_path, line):
    (tmp_path / "e.txt").write_text(line, encoding="utf-8")
    found = embeddings.read(tmp_path / "e.txt", [ONE, "the", TWO])
    assert found.index.tolist() == [0, 1, 0]
    assert found.vectors[0, 0] == 1.0
    assert not found.missing


def test_benchmarks_and_lists(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(f"word1,word2,similarity\n{TWO},the,3\n", encoding="utf-8")
    assert word_similarity.read(path)[0].pairs == [(ONE, "the")]
    path.write_text(f"{TWO}\n{ONE}\nthe\n", encoding="utf-8")
    assert read_words(path) == [ONE, "the"]
    path.write_text(f"{TWO}  K AE F EY\n", encoding="utf-8")
    assert read_dictionary(path) == {ONE: ["K AE F EY"]}
    path.write_text(f"a,{TWO},audio,label\n{TWO},1,{TWO},{TWO}\n", encoding="utf-8")
    table = read_table(path)
    assert list(table.columns) == ["a", ONE, "audio", "label"]
    assert table.iloc[0][["a", "audio"]].tolist() == [ONE, TWO]  # a path is as the disk has it


def test_conditions_and_groups(tmp_path):
    assert parse_where([f"{TWO}={TWO}"]) == parse_where([f"{ONE}={ONE}"])
    assert parse_groups(f"{TWO}={TWO}:b") == parse_groups(f"{ONE}={ONE}:b")
    (tmp_path / "x").write_text(TWO, encoding="utf-8")
    (tmp_path / "y").write_text("b", encoding="utf-8")
    assert parse_groups(f"g=@{tmp_path / 'x'}:@{tmp_path / 'y'}").ids == ((ONE,), ("b",))


def test_corpora_made_in_python(tmp_path):
    path = str(sound(tmp_path / f"{TWO}.wav", 16_000))
    row = {"utterance": TWO, "audio": path, TWO: TWO, "n": 1}
    segments = [
        {"utterance": name, "tier": "phone", "start": k / 2, "end": k / 2 + 0.5, "label": name}
        for k, name in enumerate((ONE, TWO))
    ]
    corpus = Corpus.build([row], segments)
    assert corpus.utterances[["utterance", ONE]].iloc[0].tolist() == [ONE, ONE]
    assert corpus.segments["label"].tolist() == [ONE, ONE]
    assert np.array_equal(corpus.owners(), [0, 0])
    assert corpus.utterances["audio"][0] == path
    with pytest.raises(CorpusError, match="have two columns called 'caf\u00e9'"):
        Corpus.build([row | {ONE: ONE}])
    with pytest.raises(CorpusError, match="the utterance id 'caf\u00e9' more than once"):
        Corpus.build([row, row | {"utterance": ONE}])


def test_what_is_composed_stays():
    assert nfc(ONE) is not TWO
    assert nfc(ONE) == nfc(TWO) == ONE
