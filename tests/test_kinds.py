"""One thing in the place of another: each is told what it is, and nothing is written over."""

import shutil

import pandas as pd
import pytest
import small
from commands import refused, succeeds

import layertool
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, StoreError
from layertool.kinds import CORPUS, MODEL, STORE, kind, mistaken
from layertool.store import FeatureStore, verify


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    corpus = small.corpus(folder, n_utterances=4)
    corpus.write(folder / "corpus")
    layertool.extract("mel", corpus, folder / "store", ("phone", "word"))
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "wav2vec2"}')
    (folder / "rows.csv").write_text("analysis\n")
    return folder


def test_kinds(there):
    assert [kind(there / name) for name in ("store", "corpus", "model", "rows.csv", "audio", "none")] == [
        *(STORE, CORPUS, MODEL, None, None, None)
    ]
    assert mistaken(there / "store", STORE) is None
    assert mistaken(there / "audio", STORE) is None


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("info corpus", "corpus is a corpus, not a feature store: make a store of it with 'layertool extract MODEL "),
        ("verify model", "model is a model, not a feature store: make a store with 'layertool extract "),
        ("store merge corpus", "corpus is a corpus, not a feature store"),
        ("cca rows.csv --with phone", "rows.csv is a file, not a feature store: files of results go to"),
        ("corpus info store", "store is a feature store, not a corpus: give the corpus that it was made of"),
        ("corpus align store", "store is a feature store, not a corpus"),
        ("extract corpus model -o x", "model is a model, not a corpus: give the MODEL first, then the CORPUS"),
        ("extract store corpus -o x", "store is a feature store, not a model: give the model that it was made with"),
        ("extract corpus corpus -o x", "corpus is a corpus, not a model: give the MODEL first, then the CORPUS"),
        ("corpus info rows.csv", "rows.csv is a file, a corpus is a folder"),
        ("export store -o corpus --to npz", "corpus is a corpus: arrays go into a folder of their own"),
        ("export store -o rows.csv --to npz", "rows.csv is a file: arrays go into a folder of their own"),
        ("corpus folder audio -o store --overwrite", "store is a feature store, in which a corpus cannot be written"),
        ("corpus folder audio -o new --tier word=foo", "audio has no TextGrid that belongs to its audio"),
        ("cca store --with speaker", "speaker is a column, with which cca does not correlate: ask 'layertool mi "),
        ("cka store --measure procrustes --biased", "procrustes has no biased form"),
        ("probe neighbours store --labels phone -k 1000 --sample all", "1000 neighbours of 16 rows: ask for fewer"),
        ("export store -o arrays --layers T3-T1", "the layers 'T3-T1' go backwards: type T1-T3"),
        ("extract mel corpus -o x --units frame --pooling frame=mean", "frames are not pooled"),
    ],
)
def test_mistakes(there, monkeypatch, command, says):
    monkeypatch.chdir(there)
    before = {path: path.read_bytes() for path in (there / "store").rglob("*") if path.is_file()}
    assert says in refused(*command.split())
    assert {path: path.read_bytes() for path in (there / "store").rglob("*") if path.is_file()} == before


def test_a_corpus_is_not_written_over_a_store(there):
    with pytest.raises(CorpusError, match="is a feature store, in which a corpus cannot be written"):
        Corpus.read(there / "corpus").write(there / "store")


def test_utterances_of_another_corpus(there, tmp_path):
    store = shutil.copytree(there / "store", tmp_path / "store")
    table = pd.read_parquet(store / "utterances.parquet")
    table.iloc[:2].to_parquet(store / "utterances.parquet", index=False)
    with pytest.raises(StoreError, match=r"has 2 utterances, the store 4: it is of another corpus"):
        verify(FeatureStore(store))


def test_one_sentence_on_both_sides_is_told(tmp_path):
    corpus = small.corpus(tmp_path, n_utterances=6)
    corpus.utterances["text"] = ["one", "one", "two", "two", "three", "four"]
    corpus.write(tmp_path / "corpus")
    layertool.extract("mel", corpus, tmp_path / "store", ("phone",))
    asked = ("probe", "neighbours", tmp_path / "store", "--labels", "phone", "--sample", "all")
    assert "4 of 6 utterances have the text of another one" in succeeds(*asked).stderr
    assert "have the text of another one" not in succeeds(*asked, "--groups", "text").stderr
