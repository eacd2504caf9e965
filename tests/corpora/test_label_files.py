"""Label files of one line a label, beside the audio and as segments of a table."""

import re
import time

import pytest
from commands import refused, succeeds
from label_writing import segments, sound, textgrid

import layertool
from layertool.corpora import folder, tables
from layertool.corpora.labels import Rules
from layertool.errors import CorpusError, UsageError

RAW = Rules(raw=True)


@pytest.fixture
def source(tmp_path):
    """A recording of two seconds, a.wav."""
    sound(tmp_path / "talk" / "a.wav", 32_000)
    return tmp_path / "talk"


def put(source, name, text):
    (source / name).write_text(text, encoding="utf-8")


def read(source, **how):
    return folder.read(source, rules=RAW, **how)


def labelled(corpus):
    return [row[1:] for row in segments(corpus)]


TIMIT = "0 2260 h#\n2260 16000 sh\n16000 32000 iy\n"
HTK = "0 1412500 h#\n1412500 10000000 sh\n10000000 20000000 iy\n"
SECONDS = "0.0 0.14125 h#\n0.14125 1.0 sh\n1.0 2.0 iy\n"
XLABEL = "separator ;\nnfields 1\n#\n 0.14125 125 h#\n 1.0 125 sh ; \n\t2.0 125 iy; x; y\n"
PHONES = [("phone", 0, 2260, "h#"), ("phone", 2260, 16_000, "sh"), ("phone", 16_000, 32_000, "iy")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.phn", TIMIT),
        ("a.PHN", TIMIT),
        ("a.phn", SECONDS),
        ("a.lab", HTK),
        ("a.lab", TIMIT),
        ("a.lab", SECONDS),
        ("a.lab", XLABEL),
        ("a.phones", XLABEL),
        ("a.phn", TIMIT.replace("\n", "\r\n")),
        ("a.lab", HTK.replace(" sh", " sh -20.5 word -3")),
        ("a.lab", "\ufeff" + HTK),
    ],
)
def test_labels_are_known_by_their_lines(source, name, text):
    put(source, name, text)
    corpus = read(source)
    assert labelled(corpus) == PHONES
    assert "text" not in corpus.utterances
    assert corpus.provenance["label_files"] == 1


@pytest.mark.parametrize("name", ["a.wrd", "a.words", "a.word"])
def test_words_give_the_text(source, name):
    put(source, name, "100 16000 She\n16000 31000 had\n")
    corpus = folder.read(source)
    assert labelled(corpus) == [("word", 100, 16_000, "She"), ("word", 16_000, 31_000, "had")]
    assert corpus.utterances["text"].tolist() == ["She had"]
    assert corpus.provenance["text_from_words"] == 1


def test_samples_are_those_of_the_file(source):
    sound(source / "a.wav", 16_000, rate=8000)
    put(source, "a.phn", "0 1130 h#\n1130 8000 sh\n8000 16000 iy\n")
    assert labelled(read(source)) == PHONES


@pytest.mark.parametrize("name", ["a.txt", "a.lab", "a.TXT"])
@pytest.mark.parametrize(
    "text",
    [
        "1 2 buckle my shoe",
        "1 2 buckle my shoe\n3 4 knock at the door\n5 6 pick up sticks",
        "2 3 apples",
        "0 800 1111 is the number",
        "1.5 1.75 per cent",
        "1,5 1,75 Prozent",
        "0, 1, 2, 3",
        "0, 1, zero, one\n2, 3, two, three",
        "... 3 dots",
        "1.2.3 4.5.6 versions",
        "- 1 2",
        "1 2",
        "3.5 4.5 per cent",
        "100 200 300\n400 500 600",
        "",
        "# 1 song",
        "a\n#\nb",
    ],
)
def test_numbers_that_somebody_says_are_a_transcript(source, name, text):
    put(source, name, text)
    corpus = read(source)
    assert corpus.segments.empty
    assert corpus.utterances["text"].tolist() == [text.strip()]


def test_a_label_of_audacity_is_what_was_said(source):
    put(source, "a.txt", "0.510000\t1.500000\thello you\n")
    assert read(source).utterances["text"].tolist() == ["hello you"]


def test_transcripts_of_timit_lose_their_samples(source):
    said = "She had your dark suit in greasy wash water all year."
    put(source, "a.TXT", f"0 32000 {said}\n")
    assert read(source).utterances["text"].tolist() == [said]
    put(source, "a.TXT", f"0 46797 {said}\n")  # not of this length
    assert read(source).utterances["text"].tolist() == [f"0 46797 {said}"]
    put(source, "a.PHN", TIMIT)
    corpus = read(source)
    assert corpus.utterances["text"].tolist() == [said]
    assert labelled(corpus) == PHONES


@pytest.mark.parametrize("text", [SECONDS, TIMIT, HTK])
def test_labels_in_a_txt_are_no_transcript(source, text):
    put(source, "a.txt", text)
    corpus = read(source)
    assert "text" not in corpus.utterances
    assert corpus.segments.empty
    [note] = corpus.provenance["notes"]
    assert note.startswith(f"not read: 1 .txt file beside the audio, the first {source / 'a.txt'}")
    assert labelled(read(source, tiers={"phone": ".txt"})) == PHONES


def test_long_lines_cost_nothing(source):
    start = time.perf_counter()
    for text in ("1" * 50_000 + "x", "1 " * 50_000, "1 2" + " " * 50_000 + "x", "\n" * 50_000 + "#", '"' * 50_000):
        put(source, "a.txt", text)
        put(source, "all.mlf", text)
        read(source)
    assert time.perf_counter() - start < 5


def test_whole_seconds_that_run_on(source):
    put(source, "a.lab", "0 1 h#\n1 2 sh\n")
    assert labelled(read(source)) == [("phone", 0, 16_000, "h#"), ("phone", 16_000, 32_000, "sh")]


def test_times_that_are_not_finite(source):
    put(source, "a.ctm", "a 1 0.5 inf she\n")
    with pytest.raises(CorpusError, match=r"the segment 'she' goes from 0\.5 to inf s; correct its times"):
        read(source)


def test_labels_of_longer_audio_are_refused_not_said(source):
    put(source, "a.lab", HTK.replace("20000000", "90000000"))
    with pytest.raises(CorpusError, match=r"'a' lasts 2\.000 s, but its phone 'iy' goes from 1\.000 to 9\.000 s"):
        read(source)


def test_what_is_no_label_file_says_so(source):
    put(source, "a.phn", "0 100 a\nhello\n")
    with pytest.raises(CorpusError, match=r"a\.phn is no label file: its lines are neither 'start end label'"):
        read(source)
    sound(source / "b.wav", 16_000)
    corpus = read(source, max_failures=1)
    assert corpus.utterances["utterance"].tolist() == ["b"]
    assert "a.phn is no label file" in corpus.provenance["left_out"]["a"]


def test_a_textgrid_goes_first_and_the_rest_is_named(source):
    textgrid(source / "a.TextGrid", {"words": [(0, 2, "hi")]}, 0, 2)
    for name in ("a.phn", "a.eaf", "a.json", "all.mlf"):
        put(source, name, TIMIT)
    corpus = read(source)
    assert labelled(corpus) == [("word", 0, 32_000, "hi")]
    [note] = corpus.provenance["notes"]
    assert all(f"1 {suffix}" in note for suffix in (".mlf", ".eaf", ".json", ".phn"))
    assert labelled(read(source, tiers={"phone": ".phn"})) == PHONES
    with pytest.raises(UsageError, match="names both tiers and suffixes"):
        read(source, tiers={"phone": ".phn", "word": "words"})
    with pytest.raises(CorpusError, match=r"has no \.wrd file that belongs to its audio"):
        read(source, tiers={"word": ".wrd"})


AUDACITY = "0.000000\t1.000000\tshe\n\\\t100.000000\t4000.000000\n1.000000\t1.500000\thad a\n"
GRID = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n0\n'
SUBTITLES = "1\n00:00:00,000 --> 00:00:01,500\nshe had\n"
XLABEL_WITHOUT_HEADER = "0.500 125 pau\n1.200 125 ih\n"


@pytest.mark.parametrize(
    "text",
    [
        SECONDS,
        TIMIT,
        HTK,
        AUDACITY,
        AUDACITY.replace(".", ","),
        XLABEL_WITHOUT_HEADER,
        GRID,
        SUBTITLES,
        "WEBVTT\n\n" + SUBTITLES,
    ],
)
def test_labels_of_other_programs_are_no_transcript(source, text):
    put(source, "a.txt", text)
    corpus = read(source)
    assert "text" not in corpus.utterances
    [note] = corpus.provenance["notes"]
    assert note.startswith("not read: 1 .txt file beside the audio")


def test_audacity_and_the_frequencies_of_its_labels(source):
    put(source, "a.txt", AUDACITY.replace(".", ","))
    corpus = read(source, tiers={"word": ".txt"})
    assert labelled(corpus) == [("word", 0, 16_000, "she"), ("word", 16_000, 24_000, "had a")]


def test_transcripts_that_lie_elsewhere_are_named(source):
    for name in ("txt/a.txt", "transcripts.txt", "labels/a.phn", "README.txt"):
        (source / name).parent.mkdir(exist_ok=True)
        put(source, name, "hello")
    [note] = read(source).provenance["notes"]
    assert note.startswith("not read: 2 .txt, 1 .phn files without audio of that name in the same folder, the first ")


CTM = ";; comment\na 1 0.5 0.25 she 0.98\na 1 0.75 1.0 had\n"


def test_ctm_beside_the_audio(source):
    put(source, "a.ctm", CTM)
    words = [("word", 8000, 12_000, "she"), ("word", 12_000, 28_000, "had")]
    assert labelled(read(source)) == words
    put(source, "a.ctm", CTM.replace("a 1", "conversation 1"))
    assert labelled(read(source)) == words
    put(source, "a.ctm", CTM + "b 1 0 1 x\n")
    assert labelled(read(source)) == words
    put(source, "a.ctm", CTM + "a 2 0 1 x\n")
    with pytest.raises(CorpusError, match=r"a\.ctm, line 4: 'a' has the channels 1 and 2"):
        read(source)
    put(source, "a.ctm", CTM + "a 1 0 x\n")
    with pytest.raises(CorpusError, match=r"a\.ctm, line 4, is not 'recording channel start duration word'"):
        read(source)


def test_ctm_that_names_files(source):
    put(source, "all.ctm", CTM.replace("a 1", "a.wav 1"))
    assert labelled(read(source)) == [("word", 8000, 12_000, "she"), ("word", 12_000, 28_000, "had")]


def test_ctm_of_other_recordings_says_so(source):
    put(source, "all.ctm", CTM.replace("a 1", "b 1"))
    [note] = read(source).provenance["notes"]
    assert re.search(r"all\.ctm has labels of 1 recordings that are not in .* \(the first: 'b'\)", note)


@pytest.mark.parametrize(
    ("name", "text", "tier"),
    [
        ("all.ctm", CTM + "s1/b 1 0 0.5 yes\nz 1 0 1 no\n", "word"),
        ("phones.ctm", CTM + "b 1 0 0.5 yes\n", "phone"),
        (
            "all.mlf",
            '#!MLF!#\n"*/a.lab"\n5000000 7500000 she -3.2\n7500000 17500000 had\n.\n"/x/b.rec"\n0 5000000 yes\n.\n',
            "phone",
        ),
        (
            "words.mlf",
            '#!MLF!#\n"*/a.lab"\n5000000 7500000 she\n7500000 17500000 had\n.\n"*/b.lab"\n0 5000000 yes\n.\n',
            "word",
        ),
    ],
)
def test_one_file_for_all_recordings(source, name, text, tier):
    sound(source / "s1" / "b.wav", 16_000)
    put(source, name, text)
    notes = read(source).provenance.get("notes", [])
    assert [note.partition(": name")[0] for note in notes] == [
        f"{source / name} has labels of 1 recordings that are not in {source}, or there more than once (the first: 'z')"
    ] * ("z 1" in text)
    assert segments(read(source)) == [
        ("a", tier, 8000, 12_000, "she"),
        ("a", tier, 12_000, 28_000, "had"),
        ("s1/b", tier, 0, 8000, "yes"),
    ]


def test_a_ctm_as_segments_of_a_table(source, tmp_path):
    put(source, "x.csv", "audio,utterance\na.wav,u1\n")
    put(source, "x.ctm", CTM.replace("a 1", "u1 1"))
    words = [("u1", "word", 8000, 12_000, "she"), ("u1", "word", 12_000, 28_000, "had")]
    assert segments(tables.read_csv(source / "x.csv", source / "x.ctm")) == words
    put(source, "x.ctm", CTM)  # named by the audio file
    assert segments(tables.read_csv(source / "x.csv", source / "x.ctm")) == words
    put(source, "x.csv", "audio,utterance,start,end\na.wav,u1,0.25,0.75\na.wav,u2,1,2\n")
    corpus = tables.read_csv(source / "x.csv", source / "x.ctm")
    assert segments(corpus) == [("u1", "word", 4000, 8000, "she")]
    assert corpus.provenance["notes"] == [
        f"1 labels of {source / 'x.ctm'} lie in no utterance of the table, and are left out"
    ]
    put(source, "x.ctm", CTM.replace("a 1", "z 1"))
    with pytest.raises(
        CorpusError, match=r"x\.ctm has no labels of the utterances: it names recordings like 'z', .* like 'u1'"
    ):
        tables.read_csv(source / "x.csv", source / "x.ctm")
    with pytest.raises(UsageError, match=r"a\.lab has the labels of one recording"):
        tables.read_csv(source / "x.csv", source / "a.lab")


def test_the_commands(source, tmp_path):
    put(source, "a.phn", TIMIT)
    succeeds("corpus", "folder", source, "-o", tmp_path / "c", "--tier", "phone=.phn")
    assert layertool.Corpus.read(tmp_path / "c").segments["label"].tolist() == ["SIL", "sh", "iy"]
    put(source, "x.csv", "audio,utterance\na.wav,u1\n")
    put(source, "x.ctm", CTM)
    succeeds("corpus", "csv", source / "x.csv", "--segments", source / "x.ctm", "-o", tmp_path / "d")
    assert layertool.Corpus.read(tmp_path / "d").utterances["text"].tolist() == ["she had"]
    assert "has no .lab file" in refused("corpus", "folder", source, "-o", tmp_path / "e", "--tier", "word=.lab")
