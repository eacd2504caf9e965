"""Tables of metadata with one row a file, or one a speaker; and tables that name a part of the audio."""

import unicodedata

import numpy as np
import pytest
import soundfile
from commands import refused, succeeds

from layertool import columns
from layertool.corpora import folder, tables
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, UsageError


def sounds(root, *names):
    for name in names:
        path = root / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(1600, 0.1, dtype=np.float32), 16000)
    return root


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def values(corpus, *names):
    return [tuple(row) for row in zip(*(columns.texts(corpus.utterances[name]) for name in names), strict=True)]


ACTOR = r"(?P<ActorID>\d+)_.*"


@pytest.fixture
def crema(tmp_path):
    """CREMA-D: the actor is a part of the file name, and a table says who that is."""
    write(tmp_path / "people.csv", "ActorID,Age,Sex\n1001,51,Male\n1002,21,Female\n1091,29,Female\n")
    return sounds(tmp_path / "AudioWAV", "1001_DFA_ANG_XX", "1001_IEO_HAP_LO", "1002_DFA_ANG_XX")


@pytest.mark.parametrize(
    "by",
    [ACTOR, r"(?P<ActorID>\d+)", r"(?<ActorID>\d+)_", r"(?P<ActorID>\d+)_\w+\.wav", r"^(?P<ActorID>[0-9]{4})_.*$"],
)
def test_a_pattern_in_the_file_name(crema, tmp_path, by):
    corpus = folder.read(crema, metadata=tmp_path / "people.csv", by=by)
    assert values(corpus, "utterance", "ActorID", "Age", "Sex") == [
        ("1001_DFA_ANG_XX", "1001", "51", "Male"),
        ("1001_IEO_HAP_LO", "1001", "51", "Male"),
        ("1002_DFA_ANG_XX", "1002", "21", "Female"),
    ]
    assert corpus.utterances["Age"].dtype == "int64"
    assert corpus.provenance["metadata_by"] == {
        by: {
            "table": str((tmp_path / "people.csv").resolve()),
            "rows_without_utterances": 1,
            "utterances_without_row": 0,
        }
    }
    assert corpus.provenance["notes"] == [
        f"1 of 3 rows of {tmp_path}/people.csv fit no utterance (the first: ActorID '1091'): "
        "add what they name, or leave it so"
    ]


def test_who_has_no_row_has_empty_cells_and_is_told(crema, tmp_path):
    people = write(tmp_path / "people.csv", "Actor ID,Age,Sex\n1002,1000000000000000001,Female\n")
    corpus = folder.read(crema, metadata=people, by=r"(?P<Actor_ID>\d+)_.*")
    assert values(corpus, "Actor ID", "Age", "Sex") == [
        ("1001", None, None),
        ("1001", None, None),
        ("1002", "1000000000000000001", "Female"),
    ]
    assert corpus.utterances["Age"].dtype == "Int64"  # a float would be another number
    assert corpus.provenance["notes"] == [
        f"2 of 3 utterances have no row in {people}, so its columns are empty there "
        "(the first: '1001_DFA_ANG_XX', Actor ID '1001'): add the rows, or leave it so"
    ]


def test_several_groups_are_one_key(crema, tmp_path):
    ratings = write(tmp_path / "r.csv", "ActorID,emotion,rating\n1001,ANG,0.5\n1001,HAP,0.25\n1002,ANG,0.75\n")
    corpus = folder.read(crema, metadata=ratings, by=r"(?P<ActorID>\d+)_\w+_(?P<emotion>[A-Z]{3})_.*")
    assert values(corpus, "ActorID", "emotion", "rating") == [
        ("1001", "ANG", "0.5"),
        ("1001", "HAP", "0.25"),
        ("1002", "ANG", "0.75"),
    ]


def test_a_level_of_the_folders(tmp_path):
    talk = sounds(tmp_path / "talk", "train/007/a", "train/007/b", "test/7/c")
    people = write(tmp_path / "people.csv", "speaker,sex\n007,f\n7,m\n")
    corpus = folder.read(talk, metadata=people, by="speaker")
    assert values(corpus, "utterance", "speaker", "sex") == [
        ("test/7/c", "7", "m"),
        ("train/007/a", "007", "f"),
        ("train/007/b", "007", "f"),
    ]
    with pytest.raises(UsageError, match=r"folders of 2 levels below .*talk have names that stand in 'speaker' of"):
        folder.read(talk, metadata=write(tmp_path / "p.csv", "speaker,sex\n007,f\n7,m\ntrain,m\n"), by="speaker")
    with pytest.raises(
        UsageError, match=r"no column 'speaker', and no folder below .*talk has the name of one in .*p\.csv \(x\)"
    ):
        folder.read(talk, metadata=write(tmp_path / "p.csv", "speaker,sex\nx,f\n"), by="speaker")


def test_a_column_of_another_table(tmp_path):
    talk = sounds(tmp_path / "talk", "a", "b", "c")
    files = write(tmp_path / "files.csv", "file,client_id,age\na.wav,007,20\nb.wav,7,30\n")
    people = write(tmp_path / "people.csv", "client_id,sex\n007,f\n7,m\n")
    corpus = folder.read(talk, metadata=[files, people], by="client_id")
    assert values(corpus, "utterance", "client_id", "age", "sex") == [("a", "007", "20", "f"), ("b", "7", "30", "m")]
    given = write(tmp_path / "utterances.csv", "audio,client_id\ntalk/a.wav,7\ntalk/c.wav,007\n")
    towns = write(tmp_path / "towns.csv", "sex;town\nf;Köln\nm;Bonn\n")
    corpus = tables.read_csv(given, metadata=[people, towns], by=["client_id", "sex"])
    assert values(corpus, "utterance", "sex", "town") == [("a", "m", "Bonn"), ("c", "f", "Köln")]


def test_keys_in_two_spellings(tmp_path):
    talk = sounds(tmp_path / "talk", "Jose\u0301_1")
    people = write(tmp_path / "people.csv", "name,sex\nJosé,m\n")
    assert values(folder.read(talk, metadata=people, by="(?P<name>[^_]+)_.*"), "name", "sex") == [("José", "m")]


@pytest.mark.parametrize(
    ("text", "by", "error", "message"),
    [
        (
            "ActorID,Age\n1001,1\n",
            r"(\d+)_.*",
            UsageError,
            r"has no column '\(\\d\+\)_\.\*' \(columns there: ActorID, Age\)",
        ),
        (
            "ActorID,Age\n1001,1\n",
            r"(?:\d+)_.*",
            UsageError,
            r"has no named group: name the part .* like '\(\?P<speaker>",
        ),
        ("ActorID,Age\n1001,1\n", r"(?P<speaker>\d+)", UsageError, "has no column 'speaker'"),
        ("ActorID,Age\n1001,1\n", r"(?P<ActorID>\d+", UsageError, "is no pattern .*: write one like"),
        ("ActorID,Age\n1001,1\n", "", UsageError, "has no column ''"),
        (
            "ActorID,Age\n1001,1\n1001,2\n",
            ACTOR,
            CorpusError,
            r"two rows for the ActorID '1001' \(rows 1 and 2\): take one out",
        ),
        ("ActorID,Age\n1001,1\n,2\n", ACTOR, CorpusError, r"has no 'ActorID' in row 2 \(1 such rows\): fill it in"),
        (
            "ActorID,Age\n9,1\n",
            ACTOR,
            CorpusError,
            "no utterance has a row in .*: '1001_DFA_ANG_XX' has the ActorID '1001'.*'9'",
        ),
        ("ActorID,Age\n1001,1\n", "(?P<ActorID>x)", CorpusError, "does not fit the pattern"),
        ("ActorID,Age\n", ACTOR, CorpusError, "no utterance has a row in .*, the first row the nothing|no rows"),
        ("ActorID,audio\n1001,1\n", "ActorID", UsageError, "no folder below"),
    ],
)
def test_keys_that_join_nothing(crema, tmp_path, text, by, error, message):
    with pytest.raises(error, match=message):
        folder.read(crema, metadata=write(tmp_path / "people.csv", text), by=by)


def test_a_column_that_is_there_already(tmp_path):
    talk = sounds(tmp_path / "talk", "a")
    files = write(tmp_path / "files.csv", "file,speaker,age\na.wav,s,20\n")
    with pytest.raises(
        CorpusError, match=r"people\.csv has the column 'age', which the utterances have already: rename"
    ):
        folder.read(talk, metadata=[files, write(tmp_path / "people.csv", "speaker,age\ns,20\n")], by="speaker")


def test_tables_and_keys_that_do_not_pair(tmp_path):
    talk = sounds(tmp_path / "talk", "a")
    files = write(tmp_path / "files.csv", "file,speaker\na.wav,s\n")
    with pytest.raises(UsageError, match="--by speaker says how a table of metadata is joined: name the table"):
        folder.read(talk, by="speaker")
    with pytest.raises(UsageError, match=r"one table of metadata has one row a file, but 2 are given: say with --by"):
        folder.read(talk, metadata=[files, files])
    with pytest.raises(UsageError, match=r"files\.csv has the rows of the files: say with --by what joins"):
        tables.read_csv(files, audio_root=talk, metadata=files)


# --- tables that name a part of the audio -------------------------------------------------------------


@pytest.fixture
def voices(tmp_path):
    """Common Voice: one folder of clips, and a table for each part of them."""
    rows = 'client_id\tpath\tsentence\n001\ta.wav\tsay "hi\n1\tc.wav\tbye\n1\tlost.wav\tbye\n'
    write(tmp_path / "train.tsv", rows)
    return sounds(tmp_path / "clips", "a", "b", "c", "d")


def test_rows_decide_what_is_in_the_corpus(voices, tmp_path):
    (voices / "b.TextGrid").write_text("broken, but of a file that is not in the corpus")
    corpus = folder.read(voices, metadata=tmp_path / "train.tsv", text_column="sentence")
    assert values(corpus, "utterance", "client_id", "text") == [("a", "001", 'say "hi'), ("c", "1", "bye")]
    assert corpus.provenance["audio_without_metadata"] == 2
    assert corpus.provenance["metadata_rows_without_audio"] == 1
    assert corpus.provenance["notes"] == [
        f"1 of 3 rows of {tmp_path}/train.tsv fit no utterance (the first: path 'lost.wav'): "
        "add what they name, or leave it so",
        f"2 of 4 utterances have no row in {tmp_path}/train.tsv, so they are left out (the first: 'b'): "
        "add the rows, or leave it so",
    ]


def test_rows_may_call_audio_by_the_kind_that_it_had(voices, tmp_path):
    """As after the conversion that is asked for where audio cannot be read."""
    table = write(tmp_path / "clips.csv", "path,age\na.m4a,20\nb.webm,30\n")
    assert values(folder.read(voices, metadata=table), "utterance", "age") == [("a", "20"), ("b", "30")]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_columns_in_two_spellings(voices, tmp_path, form):
    table = write(tmp_path / "clips.csv", "Fichié,dité\na,yes\n")
    named = {
        name: unicodedata.normalize(form, text) for name, text in (("id_column", "Fichié"), ("text_column", "dité"))
    }
    assert values(folder.read(voices, metadata=table, **named), "utterance", "text") == [("a", "yes")]


@pytest.mark.parametrize("column", ["audio", "path", "file", "filename", "file_name", "Path", "FILE"])
def test_columns_that_name_audio(tmp_path, column):
    sounds(tmp_path / "clips", "a", "b")
    source = write(tmp_path / "t.csv", f"{column},n\nclips\\b.wav,1\nclips/a.wav,2\n")
    corpus = tables.read_csv(source)
    assert values(corpus, "utterance", "n") == [("b", "1"), ("a", "2")]
    assert corpus.metadata_columns == ["n"]
    assert values(folder.read(tmp_path / "clips", metadata=source), "utterance", "n") == [("a", "2"), ("b", "1")]


def test_the_column_audio_goes_first(tmp_path):
    sounds(tmp_path, "a")
    corpus = tables.read_csv(write(tmp_path / "t.csv", "path,audio\nelsewhere,a.wav\n"))
    assert values(corpus, "utterance", "path") == [("a", "elsewhere")]


def test_text_columns_that_are_wrong(voices, tmp_path):
    with pytest.raises(
        CorpusError, match=r"train\.tsv has no column 'text_' \(columns there: .*\): correct --text-column"
    ):
        folder.read(voices, metadata=tmp_path / "train.tsv", text_column="text_")
    with pytest.raises(CorpusError, match=r"t\.csv has a column 'text' already: correct --text-column"):
        tables.read_csv(write(tmp_path / "t.csv", "audio,text,says\na.wav,x,y\n"), text_column="says")


# --- commands -----------------------------------------------------------------------------------------


def test_commands(crema, tmp_path):
    people = tmp_path / "people.csv"
    done = succeeds("corpus", "folder", crema, "-o", tmp_path / "c", "--metadata", people, "--by", ACTOR)
    assert "note: 1 of 3 rows of" in done.stderr
    assert "ActorID (2), Age (2), Sex (2)" in done.stdout
    assert Corpus.read(tmp_path / "c").utterances["Age"].tolist() == [51, 51, 21]
    files = write(tmp_path / "files.csv", "path;ActorID\n1001_DFA_ANG_XX.wav;1001\n")
    succeeds(
        "corpus", "csv", files, "-o", tmp_path / "d", "--audio-root", crema, "--metadata", people, "--by", "ActorID"
    )
    assert values(Corpus.read(tmp_path / "d"), "Sex") == [("Male",)]
    said = refused("corpus", "folder", crema, "-o", tmp_path / "e", "--metadata", people, "--by", "x")
    assert "people.csv has no column 'x' (columns there: ActorID, Age, Sex)" in said
    assert not (tmp_path / "e").exists()
