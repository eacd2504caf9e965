import numpy as np
import pandas as pd
import pytest
import soundfile

from layertool.corpora import labels, librispeech
from layertool.errors import CorpusError

SPEAKERS = """; Some comments about the corpus
;ID  |SEX| SUBSET           |MINUTES| NAME
84   | F | dev-clean        |  8.02 | Christie Nowak
1272 | M | dev-clean        |  8.02 | Kirk|202 Ziegler
61   | M | test-clean       |  8.08 | Paul-Gabriel Wiener
"""
GRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
0.1
<exists>
2
"IntervalTier"
"words"
0
0.1
1
0
0.1
"go"
"IntervalTier"
"phones"
0
0.1
3
0
0.04
"G"
0.04
0.08
"OW1"
0.08
0.1
"spn"
"""
UTTERANCES = {
    ("dev-clean", 84, 121123): ["0000", "0001"],
    ("dev-clean", 84, 99): ["0000"],
    ("dev-clean", 1272, 128104): ["0000"],
    ("test-clean", 61, 70968): ["0000"],
}
ORDER = ["84-99-0000", "84-121123-0000", "84-121123-0001", "1272-128104-0000", "61-70968-0000"]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "LibriSpeech"
    for (split, speaker, chapter), numbers in UTTERANCES.items():
        folder = root / split / str(speaker) / str(chapter)
        folder.mkdir(parents=True)
        lines = []
        for number in numbers:
            name = f"{speaker}-{chapter}-{number}"
            soundfile.write(folder / f"{name}.flac", np.full(1600, 0.1, dtype=np.float32), 16000)
            lines.append(f"{name} HE'S GOING\n")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text(SPEAKERS)
    (root / "README.TXT").write_text("about")
    return root


def align(folder, *names):
    for split, name in names:
        speaker, chapter, _ = name.split("-")
        path = folder / split / speaker / chapter / f"{name}.TextGrid"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GRID)


def test_the_whole_table(root):
    corpus = librispeech.read(root)
    assert corpus.name == "librispeech-dev-clean+test-clean"
    assert list(corpus.utterances["utterance"]) == ORDER
    assert corpus.metadata_columns == ["split", "speaker", "chapter", "gender", "text"]
    assert list(corpus.utterances[corpus.metadata_columns].itertuples(index=False, name=None)) == [
        ("dev-clean", "84", "99", "female", "he's going"),
        ("dev-clean", "84", "121123", "female", "he's going"),
        ("dev-clean", "84", "121123", "female", "he's going"),
        ("dev-clean", "1272", "128104", "male", "he's going"),
        ("test-clean", "61", "70968", "male", "he's going"),
    ]
    assert corpus.utterances["audio"].iloc[4] == str((root / "test-clean/61/70968/61-70968-0000.flac").resolve())
    assert corpus.segments.empty
    assert corpus.provenance == {
        "reader": "librispeech",
        "source": str(root.resolve()),
        "splits": ["dev-clean", "test-clean"],
        "textgrids": 0,
        "without_textgrid": 5,
        "transcripts_without_audio": 0,
    }


def test_the_folder_above_and_single_splits(root, monkeypatch):
    assert list(librispeech.read(root.parent).utterances["utterance"]) == ORDER
    split = librispeech.read(root / "test-clean", name="tests")
    assert list(split.utterances["utterance"]) == ORDER[4:]
    assert split.name == "tests"
    assert list(split.utterances["gender"]) == ["male"]
    monkeypatch.chdir(root / "test-clean")
    assert list(librispeech.read(".").utterances["split"]) == ["test-clean"]


@pytest.mark.parametrize("splits", [("test-clean",), ["test-clean", "test-clean"], "test-clean"])
def test_chosen_splits(root, splits):
    assert list(librispeech.read(root, splits=splits).utterances["utterance"]) == ORDER[4:]


def test_no_choice_is_all_splits(root):
    assert len(librispeech.read(root, splits=()).utterances) == 5


def test_unknown_split_lists_those_there(root):
    with pytest.raises(CorpusError, match=r"LibriSpeech has no split 'dev-other': choose from dev-clean, test-clean"):
        librispeech.read(root, splits=["dev-clean", "dev-other"])
    with pytest.raises(CorpusError, match=r"has no split 'test-clean': choose from dev-clean"):
        librispeech.read(root / "dev-clean", splits=["test-clean"])


def test_gender_needs_the_speaker_list(root):
    (root / "SPEAKERS.TXT").write_text("84 | F | dev-clean | 8.02 | Christie Nowak\n")
    gender = librispeech.read(root).utterances["gender"]
    assert list(gender[:3]) == ["female"] * 3
    assert pd.isna(gender[3])
    (root / "SPEAKERS.TXT").unlink()
    assert "gender" not in librispeech.read(root).utterances


EXPECTED = [
    ("84-99-0000", "phone", 0.0, 0.04, "g"),
    ("84-99-0000", "phone", 0.04, 0.08, "ow"),
    ("84-99-0000", "word", 0.0, 0.1, "go"),
]


@pytest.mark.parametrize(
    ("where", "given"),
    [
        ("alignments", "alignments"),
        ("alignments/LibriSpeech", "alignments"),
        ("alignments", "alignments/dev-clean"),
        ("LibriSpeech", None),
        ("LibriSpeech", "LibriSpeech"),
    ],
)
def test_alignments_are_found(root, where, given):
    align(root.parent / where, ("dev-clean", "84-99-0000"), ("dev-clean", "84-99-7777"))
    calls = []
    alignments = None if given is None else root.parent / given
    corpus = librispeech.read(root, alignments, progress=lambda *call: calls.append(call))
    assert list(corpus.segments.itertuples(index=False, name=None)) == EXPECTED
    assert corpus.provenance["textgrids"] == 1
    assert corpus.provenance["without_textgrid"] == 4
    assert corpus.provenance.get("textgrids_from") == (None if given is None else str(alignments.resolve()))
    assert calls == [(1, 1)]


def test_raw_labels(root):
    align(root, ("dev-clean", "84-99-0000"))
    corpus = librispeech.read(root, rules=labels.Rules(raw=True))
    assert list(corpus.segments["label"]) == ["G", "OW1", "spn", "go"]
    assert corpus.provenance["labels"] == {"phone": "raw", "word": "raw"}


def test_alignments_that_do_not_fit_are_refused(root, tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere does not exist: check the path"):
        librispeech.read(root, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"empty is not laid out like LibriSpeech: .*84-121123-0000\.TextGrid"):
        librispeech.read(root, tmp_path / "empty")
    align(tmp_path / "other", ("train-clean-100", "19-198-0000"))
    message = r"other has no TextGrid for any of the 5 utterances: .*other/dev-clean/84/99/84-99-0000\.TextGrid"
    with pytest.raises(CorpusError, match=message):
        librispeech.read(root, tmp_path / "other")


def test_every_utterance_needs_its_transcript(root):
    transcripts = root / "dev-clean/84/121123/84-121123.trans.txt"
    transcripts.write_text("84-121123-0000 GO\n84-121123-0005 LOST\n")
    with pytest.raises(CorpusError, match=r"'84-121123-0001' has no transcript: .*84-121123\.trans\.txt has no line"):
        librispeech.read(root)
    transcripts.unlink()
    with pytest.raises(CorpusError, match=r"'84-121123-0000' has no transcript: .*trans\.txt does not exist; unpack"):
        librispeech.read(root)
    transcripts.write_bytes("84-121123-0000 GRÖSSER\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"84-121123\.trans\.txt, line \d+ is not UTF-8"):
        librispeech.read(root)


def test_transcripts_without_audio_are_counted(root):
    (root / "dev-clean/84/121123/84-121123-0001.flac").unlink()
    corpus = librispeech.read(root)
    assert len(corpus.utterances) == 4
    assert corpus.provenance["transcripts_without_audio"] == 1


@pytest.mark.parametrize("where", [".", "dev-clean/84", "dev-clean/84/99"])
def test_other_layouts_are_refused(root, where, tmp_path):
    folder = tmp_path / "empty" if where == "." else root / where
    folder.mkdir(exist_ok=True)
    with pytest.raises(CorpusError, match=r"is not laid out like LibriSpeech: .* SPLIT/SPEAKER/CHAPTER/.*\.flac"):
        librispeech.read(folder)


def test_other_names_and_formats_are_refused(root):
    wrong = root / "test-clean/61/70968/61-1-0000.flac"
    (root / "test-clean/61/70968/61-70968-0000.flac").rename(wrong)
    with pytest.raises(CorpusError, match=r"61-1-0000\.flac is not called 61-70968-NUMBER\.flac: the layout is"):
        librispeech.read(root)
    wrong.rename(wrong.with_suffix(".wav"))
    with pytest.raises(CorpusError, match=r"has no \.flac files: .*'layertool corpus folder'"):
        librispeech.read(root, splits=["test-clean"])


def test_missing_and_ambiguous_sources_are_refused(root):
    with pytest.raises(CorpusError, match=r"nowhere does not exist: check the path"):
        librispeech.read(root / "nowhere")
    (root.parent / "Copy").symlink_to(root)
    with pytest.raises(CorpusError, match=r"holds several corpora \(Copy, LibriSpeech\): give the path of one"):
        librispeech.read(root.parent)


def test_a_broken_textgrid_is_tolerated_and_other_audio_named(root):
    align(root, ("dev-clean", "84-99-0000"), ("test-clean", "61-70968-0000"))
    grids = sorted(root.rglob("*.TextGrid"))
    grids[0].write_text("nothing")
    (grids[0].parent / "more.m4a").write_bytes(b"x")
    with pytest.raises(CorpusError, match=r"is no TextGrid in text form"):
        librispeech.read(root)
    whole = len(grids)
    corpus = librispeech.read(root, max_failures=1)
    assert list(corpus.provenance["left_out"]) == [grids[0].stem]
    assert grids[0].stem not in set(corpus.segments["utterance"])
    assert corpus.provenance["textgrids"] == whole
    assert corpus.provenance["notes"][0].startswith("left out: 1 .m4a file, audio of kinds that cannot be read")
