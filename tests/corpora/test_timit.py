import h5py
import numpy as np
import pytest
from commands import refused, run, succeeds
from label_writing import segments, sound

from layertool.corpora import readers, timit
from layertool.corpora.labels import Rules
from layertool.errors import CorpusError, UsageError

# of TRAIN/DR1/FCJF0/SA1, cut short
PHN = "0 2260 h#\n2260 4070 sh\n4070 5265 iy\n5265 6100 hv\n6100 6500 bcl\n6500 6700 b\n6700 7000 q\n7000 9600 h#\n"
WRD = "2260 5265 she\n5265 7000 had\n"
TXT = "0 9600 She had your dark suit in greasy wash water all year.\n"


def sentence(folder, name, upper=True, phn=PHN, wrd=WRD, txt=TXT, **how):
    """A sentence as published: SPHERE in a file called .WAV."""
    case = str.upper if upper else str.lower
    for suffix, content in ((".phn", phn), (".wrd", wrd), (".txt", txt)):
        if content is not None:
            path = folder / case(name + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    return sound(folder / case(name + ".wav"), 9600, format=how.pop("format", "NIST"))


@pytest.fixture
def source(tmp_path):
    """Three sentences of the training part, two of the test part; MDAB0 is a speaker of the core test set."""
    for name in (
        "train/dr1/fcjf0/sa1",
        "train/dr1/fcjf0/si1027",
        "train/dr8/mbcg0/sx57",
        "test/dr1/mdab0/sx49",
        "test/dr2/mabw0/sa2",
    ):
        sentence(tmp_path / "TIMIT", name)
    return tmp_path / "TIMIT"


def test_samples_of_the_files_are_samples_of_the_corpus(source):
    corpus = timit.read(source)
    assert list(corpus.utterances["utterance"]) == [
        "TEST/DR1/MDAB0/SX49",
        "TEST/DR2/MABW0/SA2",
        "TRAIN/DR1/FCJF0/SA1",
        "TRAIN/DR1/FCJF0/SI1027",
        "TRAIN/DR8/MBCG0/SX57",
    ]
    one = [s[1:] for s in segments(corpus) if s[0] == "TRAIN/DR1/FCJF0/SA1"]
    assert one == [
        ("phone", 0, 2260, "SIL"),
        ("phone", 2260, 4070, "sh"),
        ("phone", 4070, 5265, "iy"),
        ("phone", 5265, 6100, "hv"),
        ("phone", 6100, 6500, "bcl"),
        ("phone", 6500, 6700, "b"),
        ("phone", 6700, 7000, "q"),
        ("phone", 7000, 9600, "SIL"),
        ("word", 2260, 5265, "she"),
        ("word", 5265, 7000, "had"),
    ]
    assert corpus.utterances["n_samples"].tolist() == [9600] * 5


def test_columns(source):
    row = timit.read(source).utterances.set_index("utterance").loc["TRAIN/DR1/FCJF0/SA1"]
    told = row[
        ["split", "test_set", "region", "dialect", "speaker", "gender", "sentence", "sentence_type", "text"]
    ].tolist()
    assert told[0] == "train"
    assert told[2:] == [
        "DR1",
        "New England",
        "FCJF0",
        "female",
        "SA1",
        "SA",
        "She had your dark suit in greasy wash water all year.",
    ]
    table = timit.read(source).utterances.set_index("utterance")
    assert table["test_set"].isna().tolist() == [False, False, True, True, True]
    assert table["test_set"].tolist()[:2] == ["core", "complete"]
    assert table["dialect"]["TRAIN/DR8/MBCG0/SX57"] == "Army Brat"
    assert table["gender"]["TRAIN/DR8/MBCG0/SX57"] == "male"


@pytest.mark.parametrize("below", ["", "TRAIN", "TRAIN/DR1", "TRAIN/DR1/FCJF0"])
def test_a_part_of_the_folders_is_read_like_the_whole(source, below):
    assert "TRAIN/DR1/FCJF0/SA1" in timit.read(source / below).utterances["utterance"].tolist()


def test_small_letters_and_folders_above_change_nothing(source, tmp_path):
    sentence(tmp_path / "copy" / "data" / "lisa", "train/dr1/fcjf0/sa1", upper=False)
    small = timit.read(tmp_path / "copy")
    assert small.utterances["utterance"].tolist() == ["TRAIN/DR1/FCJF0/SA1"]
    assert segments(small) == [s for s in segments(timit.read(source)) if s[0] == "TRAIN/DR1/FCJF0/SA1"]


def test_copies_of_kaggle(source):
    sentence(source, "train/dr1/fcjf0/sa1")
    sound(source / "TRAIN/DR1/FCJF0/SA1.WAV.wav", 9600, format="WAV")
    corpus = timit.read(source)
    assert len(corpus.utterances) == 5
    assert corpus.utterances["audio"].tolist()[2].endswith("FCJF0/SA1.WAV")
    assert "1 recording is there twice" in corpus.provenance["notes"][0]
    (source / "TRAIN/DR1/FCJF0/SA1.WAV").unlink()
    assert timit.read(source).utterances["audio"].tolist()[2].endswith("FCJF0/SA1.WAV.wav")


def test_parts_of_the_corpus(source):
    only = timit.read(source, splits=["train"], sentences=["SX", "si"]).utterances
    assert only["utterance"].tolist() == ["TRAIN/DR1/FCJF0/SI1027", "TRAIN/DR8/MBCG0/SX57"]
    with pytest.raises(UsageError, match="'DEV' is no split of TIMIT: choose from TRAIN, TEST"):
        timit.read(source, splits=["dev"])
    with pytest.raises(UsageError, match="'60' is nothing that --phones takes: choose 61, 48, 39"):
        readers.make("timit", source, phones="60")


# the 61 symbols of the documentation of TIMIT (PHONCODE.DOC)
SYMBOLS = (
    "b d g p t k dx q jh ch s sh z zh f th v dh m n ng em en eng nx l r w y hh hv el iy ih eh ey ae aa aw ay ah ao "
    "oy ow uh uw "
    "ux er ax ix axr ax-h bcl dcl gcl pcl tcl kcl pau epi h#"
).split()


def test_folded_phones_are_those_of_lee_and_hon():
    assert len(SYMBOLS) == 61
    assert {timit.fold(s, "61") for s in SYMBOLS} == set(SYMBOLS)
    folded = {n: {timit.fold(s, n) for s in SYMBOLS if s != "q"} for n in ("48", "39")}
    assert {n: len(symbols) for n, symbols in folded.items()} == {"48": 48, "39": 39}
    assert timit.fold("q", "39") is timit.fold("q", "48") is None
    same = [
        ("aa", "ao"),
        ("ah", "ax", "ax-h"),
        ("er", "axr"),
        ("hh", "hv"),
        ("ih", "ix"),
        ("l", "el"),
        ("m", "em"),
        ("n", "en", "nx"),
        ("ng", "eng"),
        ("sh", "zh"),
        ("uw", "ux"),
        ("bcl", "dcl", "gcl", "pcl", "tcl", "kcl", "h#", "pau", "epi"),
    ]
    for group in same:
        assert len({timit.fold(s, "39") for s in group}) == 1, group


def test_folding_in_a_corpus(source):
    corpus = timit.read(source, phones="39")
    one = [s[2:] for s in segments(corpus) if s[:2] == ("TRAIN/DR1/FCJF0/SA1", "phone")]
    assert one == [
        (0, 2260, "SIL"),
        (2260, 4070, "sh"),
        (4070, 5265, "iy"),
        (5265, 6100, "hh"),
        (6100, 6500, "SIL"),
        (6500, 6700, "b"),
        (7000, 9600, "SIL"),
    ]
    raw = timit.read(source, rules=Rules(raw=True)).segments
    assert set(raw["label"]) == {"h#", "sh", "iy", "hv", "bcl", "b", "q", "she", "had"}


def test_speakers(source):
    lines = [
        ";ID  Sex DR Use RecDate  BirthDate Ht    Race Edu  Comments",
        "CJF0  F   1 TRN 02/05/86 11/24/59  5'04\" WHT  BS",
        "BCG0  M   8 TRN 03/05/86 ??/??/??  6'00\" ???  HS",
    ]
    (source / "DOC").mkdir()
    (source / "DOC" / "SPKRINFO.TXT").write_text("\n".join(lines) + "\n")
    table = timit.read(source, splits=["train"]).utterances
    assert table["age"].tolist()[:2] == [26, 26]
    assert np.isnan(table["age"].tolist()[2])
    assert table["race"].tolist()[:2] == ["WHT", "WHT"]
    assert table["race"].isna().tolist() == [False, False, True]
    assert table["education"].tolist() == ["BS", "BS", "HS"]


def test_a_damaged_label_file_is_left_out_with_its_sentence(source):
    (source / "TRAIN/DR1/FCJF0/SI1027.PHN").write_text("0 22.6 h#\n")
    with pytest.raises(CorpusError, match=r"SI1027\.PHN is no label file of TIMIT"):
        timit.read(source)
    corpus = timit.read(source, max_failures=1)
    assert list(corpus.provenance["left_out"]) == ["TRAIN/DR1/FCJF0/SI1027"]
    assert len(corpus.utterances) == 4


def test_missing_files_are_counted(source):
    (source / "TRAIN/DR1/FCJF0/SA1.WRD").unlink()
    (source / "TRAIN/DR1/FCJF0/SI1027.WAV").unlink()
    about = timit.read(source).provenance
    assert (about["without_wrd"], about["without_phn"], about["labels_without_audio"]) == (1, 0, 1)


def test_the_command_up_to_a_store(source, tmp_path):
    succeeds("corpus", "timit", source, "-o", tmp_path / "c", "--sentences", "SX")
    succeeds("extract", "mfcc", tmp_path / "c", "-o", tmp_path / "s", "--units", "phone")
    [shard] = (tmp_path / "s" / "shards").iterdir()
    with h5py.File(shard) as file:
        stored = file["phone/rows"]["start"].tolist()
    assert stored == [0, 2260, 4070, 5265, 6100, 6500, 6700, 7000] * 2
    assert (
        refused("corpus", "timit", tmp_path / "c", "-o", tmp_path / "d").count(
            "has no audio of TIMIT: the layout is SPLIT/REGION"
        )
        == 1
    )
    assert run("corpus", "timit", source, "-o", tmp_path / "e", "--sentences", "SB").exit_code == 2
