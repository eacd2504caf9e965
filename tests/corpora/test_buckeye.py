import numpy as np
import pytest
from commands import refused, succeeds
from label_writing import segments, sound

from layertool.corpora import buckeye
from layertool.corpora.labels import Rules
from layertool.errors import CorpusError, UsageError

HEADER = """signal s0101a
type 0
color 122
comment created using xlabel Fri Apr 04 12:49:43 2003
font -*-times-medium-r-*-*-17-*-*-*-*-*-*-*
separator ;
nfields 1
#
"""
WORDS = """    0.000000  122 {B_TRANS}; {B_TRANS}; {B_TRANS}; null
    0.400000  122 <SIL>; S; S; null
    0.700000  122 okay; ow k ey; k ay; UH
    0.900000  122 <SIL>; S; S; null
    1.100000  122 so; s ow; s ow; RB
    1.400000  122 <VOCNOISE>; U; U; null
    1.700000  122 <IVER>; U; U; null
    1.900000  122 yes; y eh s; y ae s; UH
    2.000000  122 {E_TRANS}; {E_TRANS}; {E_TRANS}; null
"""
PHONES = """    0.000000  122 {B_TRANS}
    0.400000  122 SIL
    0.550000  122 k
    0.701000  122 ay; *
    0.900000  122 SIL
    1.000000  122 s
    1.100000  122 ow+1
    1.400000  122 VOCNOISE
    1.700000  122 IVER
    1.750000  122 y
    1.800000  122 aen
    1.900000  122 s
    2.000000  122 {E_TRANS}
"""


def track(folder, name="s0101a", words=WORDS, phones=PHONES):
    for suffix, body in ((".words", words), (".phones", phones)):
        folder.mkdir(parents=True, exist_ok=True)
        if body is not None:
            (folder / f"{name}{suffix}").write_text(HEADER + body)
    (folder / f"{name}.txt").write_text("okay so\nyes\n")
    (folder / f"{name}.log").write_text(HEADER + "    2.0  122 <CONF-HIGH>\n")
    return sound(folder / f"{name}.wav", 32_000)


@pytest.fixture
def source(tmp_path):
    track(tmp_path / "buckeye" / "s01")
    return tmp_path / "buckeye"


def test_utterances_are_words_between_pauses(source):
    corpus = buckeye.read(source)
    table = corpus.utterances
    assert table["utterance"].tolist() == ["s0101a-001", "s0101a-002"]
    assert table[["start", "end"]].to_numpy().tolist() == [[0.4, 1.1], [1.7, 1.9]]  # 0.2 s of silence parts nothing
    assert table["n_samples"].tolist() == [11_200, 3200]
    assert table["text"].tolist() == ["okay so", "yes"]
    row = table[["speaker", "track", "gender", "age", "interviewer_gender"]].iloc[0].tolist()
    assert row == ["s01", "s0101a", "female", "young", "female"]
    assert segments(corpus) == [
        ("s0101a-001", "phone", 0, 2400, "k"),
        ("s0101a-001", "phone", 2400, 4816, "ay"),
        ("s0101a-001", "phone", 4816, 8000, "SIL"),
        ("s0101a-001", "phone", 8000, 9600, "s"),
        ("s0101a-001", "phone", 9600, 11_200, "ow"),
        ("s0101a-001", "word", 0, 4800, "okay"),
        ("s0101a-001", "word", 8000, 11_200, "so"),
        ("s0101a-002", "phone", 0, 800, "y"),
        ("s0101a-002", "phone", 800, 1600, "aen"),
        ("s0101a-002", "phone", 1600, 3200, "s"),
        ("s0101a-002", "word", 0, 3200, "yes"),
    ]


def test_the_pause_is_a_choice(source):
    assert len(buckeye.read(source, pause=0.2).utterances) == 3
    assert len(buckeye.read(source, pause=5).utterances) == 1
    with pytest.raises(UsageError, match="a pause of 0 s parts nothing"):
        buckeye.read(source, pause=0)


def test_whole_files(source):
    corpus = buckeye.read(source, whole_files=True)
    assert corpus.utterances["utterance"].tolist() == ["s0101a"]
    assert corpus.utterances["n_samples"].tolist() == [32_000]
    assert corpus.utterances["text"].tolist() == ["okay so yes"]
    words = [s[2:] for s in segments(corpus) if s[1] == "word"]
    assert words == [(6400, 11_200, "okay"), (14_400, 17_600, "so"), (27_200, 30_400, "yes")]
    raw = buckeye.read(source, whole_files=True, rules=Rules(raw=True))
    assert {"<SIL>", "<VOCNOISE>", "<IVER>", "{E_TRANS}"} < set(raw.segments["label"])
    assert raw.utterances["text"].tolist() == ["okay so yes"]


def test_a_folder_for_each_recording_and_forty_speakers(tmp_path):
    track(tmp_path / "s40" / "s4001b", "s4001b")
    row = buckeye.read(tmp_path).utterances.iloc[0]
    assert row[["speaker", "gender", "age", "interviewer_gender"]].tolist() == ["s40", "male", "young", "female"]
    counts = np.unique([tuple(s.values()) for s in buckeye.SPEAKERS.values()], axis=0, return_counts=True)[1]
    assert len(buckeye.SPEAKERS) == 40
    genders, ages = ([s[key] for s in buckeye.SPEAKERS.values()] for key in ("gender", "age"))
    assert (genders.count("female"), ages.count("young")) == (20, 20)  # as the corpus was designed
    assert counts.sum() == 40


def test_lines_that_run_backwards_are_left_out_and_counted(tmp_path):
    # s1603b begins at -1 s, s2801a has a line that ends before the one above it
    words = "   -1.000000  122 {B_TRANS}; x\n" + WORDS.replace("0.900000  122 <SIL>", "0.650000  122 <SIL>")
    track(tmp_path, "s2801a", words=words)
    corpus = buckeye.read(tmp_path, whole_files=True)
    assert corpus.provenance["lines_that_run_backwards"] == {"s2801a": 2}
    words = [s[2:] for s in segments(corpus) if s[1] == "word"]
    assert words == [(6400, 11_200, "okay"), (11_200, 17_600, "so"), (27_200, 30_400, "yes")]


def test_lines_with_fields_missing(tmp_path):
    track(tmp_path, words=WORDS.replace("okay; ow k ey; k ay; UH", "okay").replace("so; s ow; s ow; RB", "so; RB"))
    assert buckeye.read(tmp_path).utterances["text"].tolist() == ["okay so", "yes"]


def test_without_words_the_phones_decide(tmp_path):
    track(tmp_path, words=None)
    corpus = buckeye.read(tmp_path)
    assert len(corpus.utterances) == 2
    assert "text" not in corpus.utterances
    assert corpus.provenance["without_words"] == 1


def test_damaged_files(source):
    track(source / "s02", "s0201a")
    (source / "s02" / "s0201a.words").write_text("no header\n")
    with pytest.raises(CorpusError, match=r"s0201a\.words is no label file of Buckeye"):
        buckeye.read(source)
    corpus = buckeye.read(source, max_failures=1)
    assert list(corpus.provenance["left_out"]) == ["s0201a"]
    assert len(corpus.utterances) == 2


def test_the_command(source, tmp_path):
    told = succeeds("corpus", "buckeye", source, "-o", tmp_path / "c")
    assert "text from words" in told.stdout
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "s01.zip").write_bytes(b"PK")
    assert "unpack its .zip files" in refused("corpus", "buckeye", tmp_path / "packed", "-o", tmp_path / "d")
