from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from layertool.corpora import align
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, MissingExtraError, UsageError

pytest.importorskip("pocketsphinx")

# Two of these need "bestpath" to be off: with it, axb_a0005 loses its last word and aew_a0003 fails.
TEXTS = {
    "LJ002-0035": "The press-yard.",
    "arctic_axb_a0005": "Will we ever forget it?",
    "arctic_aew_a0003": "For the twentieth time that evening, the two men shook hands.",
}


@pytest.fixture
def corpus(shared):
    folder = shared / "data" / "speech" / "english"
    return Corpus.build([{"utterance": u, "audio": str(folder / f"{u}.wav"), "text": t} for u, t in TEXTS.items()])


@pytest.fixture
def noise(tmp_path):
    """Three utterances of 0.2 s of noise: 'a' and 'c' have more words than fit, 'b' has no text."""
    rng = np.random.default_rng(0)
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(0, 0.1, 3200), 16000)
    texts = {"a": "four score and seven years ago", "b": None, "c": "ask not what your country can do for you"}
    return Corpus.build([{"utterance": u, "audio": str(tmp_path / f"{u}.wav"), "text": t} for u, t in texts.items()])


def rows(corpus, utterance, tier):
    table = corpus.segments[(corpus.segments["utterance"] == utterance) & (corpus.segments["tier"] == tier)]
    return list(table[["label", "start", "end"]].itertuples(index=False, name=None))


def test_words_and_phones_of_real_speech(corpus):
    seen = []
    aligned = align.align(corpus, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert rows(aligned, "LJ002-0035", "word") == [("the", 0.0, 0.35), ("press", 0.64, 1.06), ("yard", 1.06, 1.59)]
    phones = rows(aligned, "LJ002-0035", "phone")
    assert [phone for phone, _, _ in phones] == ["dh", "iy", "SIL", "p", "r", "eh", "s", "y", "aa", "r", "d"]
    assert phones[2] == ("SIL", 0.35, 0.64)
    assert [word for word, _, _ in rows(aligned, "arctic_axb_a0005", "word")] == ["will", "we", "ever", "forget", "it"]
    assert len(rows(aligned, "arctic_aew_a0003", "word")) == 11
    for utterance in TEXTS:
        words, phones = rows(aligned, utterance, "word"), rows(aligned, utterance, "phone")
        # phones cover the utterance without a gap, and every word begins and ends with one of them
        assert phones[0][1] == 0.0
        assert all(left[2] == right[1] for left, right in pairwise(phones))
        assert {start for _, start, _ in words} <= {start for phone, start, _ in phones if phone != "SIL"}
        assert {end for _, _, end in words} <= {end for phone, _, end in phones if phone != "SIL"}
    assert aligned.provenance["alignment"].startswith("pocketsphinx ")
    assert aligned.provenance["alignment"].endswith(", en-us")
    assert "alignment_failures" not in aligned.provenance


def test_boundaries_agree_with_textgrids(corpus, shared):
    from layertool.corpora import textgrid

    aligned = align.align(corpus)
    folder = shared / "data" / "speech" / "english"
    differences = []
    for utterance in TEXTS:
        [voice] = textgrid.voices(folder / f"{utterance}.TextGrid")
        expected = [entry for entry in voice.tiers["word"][1] if entry[2]]
        found = rows(aligned, utterance, "word")
        assert [label for _, _, label in expected] == [word for word, _, _ in found]
        differences += [abs(s[0] - f[1]) for s, f in zip(expected, found, strict=True)]
        differences += [abs(s[1] - f[2]) for s, f in zip(expected, found, strict=True)]
    assert np.mean(np.array(differences) < 0.0201) > 0.9


@pytest.mark.slow
def test_neither_order_nor_processes_change_the_result(corpus):
    """pocketsphinx carries an estimate of the noise from one utterance into the next; we do not."""
    aligned = align.align(corpus)
    backwards = align.align(Corpus.build(corpus.utterances.iloc[::-1], corpus.segments))
    many = Corpus.build(pd.concat([corpus.utterances, corpus.utterances.assign(utterance=["x", "y", "z"])]))
    in_two = align.align(many, jobs=2)
    for copy, utterance in zip("xyz", TEXTS, strict=True):
        for tier in ("word", "phone"):
            assert rows(backwards, utterance, tier) == rows(aligned, utterance, tier)
            assert rows(in_two, utterance, tier) == rows(aligned, utterance, tier)
            assert rows(in_two, copy, tier) == rows(aligned, utterance, tier)


def test_part_of_a_file_and_tiers_that_stay(corpus):
    part = corpus.utterances.iloc[:1].assign(start=0.5, end=1.5, text="press yard")
    segments = [
        {"utterance": "LJ002-0035", "tier": "word", "start": 0.0, "end": 0.5, "label": "old"},
        {"utterance": "LJ002-0035", "tier": "tone", "start": 0.1, "end": 0.2, "label": "H"},
    ]
    old = Corpus.build(part, segments, "mine", {"reader": "csv", "alignment_failures": {"old": "news"}})
    aligned = align.align(old)
    assert aligned.tiers == ["phone", "tone", "word"]
    assert rows(aligned, "LJ002-0035", "tone") == [("H", 0.1, 0.2)]
    (press, start, _), (yard, _, end) = rows(aligned, "LJ002-0035", "word")
    assert (press, yard) == ("press", "yard")
    assert start == pytest.approx(0.64 - 0.5, abs=0.03)
    assert end <= 1.0
    assert aligned.name == "mine"
    assert set(aligned.provenance) == {"reader", "alignment"}


def test_unknown_words_are_collected_and_a_dictionary_helps(corpus, tmp_path):
    corpus.utterances.loc[0, "text"] = "The presz yaard"
    corpus.utterances.loc[1, "text"] = "Will we ever forgett it"
    with pytest.raises(
        CorpusError,
        match=r"3 words that the dictionary does not know: presz, yaard, forgett \(the first in utterance "
        r"'LJ002-0035'\).*--dictionary FILE",
    ):
        align.align(corpus)
    dictionary = tmp_path / "my.dict"
    dictionary.write_text(
        ";;; mine\nPRESZ  P R EH1 S\npresz(2)  P R IY Z # no\n\nyaard Y AA R D\nforgett F ER G EH1 T\nunused P\n"
        "press P R EH S\npress P R IY S\n",
        encoding="utf-8",
    )
    aligned = align.align(corpus, dictionary)
    assert rows(aligned, "LJ002-0035", "word") == [("the", 0.0, 0.35), ("presz", 0.64, 1.06), ("yaard", 1.06, 1.59)]
    assert [phone for phone, _, _ in rows(aligned, "LJ002-0035", "phone")] == [
        "dh",
        "iy",
        "SIL",
        "p",
        "r",
        "eh",
        "s",
        "y",
        "aa",
        "r",
        "d",
    ]


def test_ten_unknown_words_are_shown(noise):
    noise.utterances["text"] = ["xqa xqb xqc xqd", "xqe xqf xqg xqh xqi", "xqj xqk xql xqa"]
    with pytest.raises(CorpusError, match=r"have 12 words .*: xqa, xqb, .*, xqj and 2 more \(the first in .* 'a'\)"):
        align.align(noise)


def test_failures(noise):
    with pytest.raises(
        CorpusError, match=r"'a' cannot be aligned: its words do not fit .* \(1 failed among the first 1"
    ):
        align.align(noise)
    with pytest.raises(CorpusError, match=r"'a' cannot .*\(3 failed among the first 3 of 3\).*--max-failures 3"):
        align.align(noise, max_failures=2)
    aligned = align.align(noise, max_failures=3)
    assert aligned.segments.empty
    assert aligned.provenance["alignment_failures"] == {
        "a": "its words do not fit its audio",
        "b": "its text has no words",
        "c": "its words do not fit its audio",
    }


def test_wrong_requests(noise, monkeypatch):
    with pytest.raises(UsageError, match="--jobs 0 is no number"):
        align.align(noise, jobs=0)
    with pytest.raises(CorpusError, match=r"corpus has no column 'text' \(columns there: utterance, audio, "):
        align.align(Corpus.build(noise.utterances.drop(columns="text")))
    monkeypatch.setattr(align, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"forced alignment needs .* pip install 'layertool\[align\]'"):
        align.align(noise)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world!", ["hello", "world"]),
        ("a cold-hearted man\u2014and/or", ["a", "cold", "hearted", "man", "and", "or"]),
        ("don\u2019t 'quote this'", ["don't", "quote", "this"]),
        ("bless 'em, the dogs' home", ["bless", "'em", "the", "dogs'", "home"]),
        ("CAFE\u0301_1984 ' ...", ["caf\u00e9", "1984"]),
        ("", []),
    ],
)
def test_tokens(text, words):
    assert align.tokens(text, {"'em", "dogs'"}.__contains__) == words


def test_read_dictionary(tmp_path):
    path = tmp_path / "d.dict"
    path.write_text("# comment\n;;; comment\nTomato  T AH0 M EY1 T OW2\ntomato(2) t ah m aa t ow\nx EH K S\n")
    assert align.read_dictionary(path) == {"tomato": ["T AH M EY T OW", "T AH M AA T OW"], "x": ["EH K S"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a AH\nb QQ\n", r"d.dict, line 2: 'QQ' is no phone of CMUdict; write lines like"),
        (b"a AH\n\nb\n", r"d.dict, line 3: 'b' has no phones"),
        (b"a SIL\n", "'SIL' is no phone"),
        (b"\xff\xfea", "d.dict is cut short .truncated data in its UTF-16.: save it again"),
        (None, "d.dict cannot be read .No such file or directory.: check the path"),
    ],
)
def test_read_dictionary_errors(tmp_path, content, message):
    path = tmp_path / "d.dict"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        align.read_dictionary(path)


def test_audio_that_cannot_be_read_is_a_failure_like_others(noise):
    path = noise.utterances["audio"][0]
    Path(path).write_bytes(b"no audio any more")
    with pytest.raises(CorpusError, match=r"'a' cannot be aligned: .*a\.wav cannot be read as audio.*--max-failures 1"):
        align.align(noise)
    aligned = align.align(noise, max_failures=3)
    assert "cannot be read as audio" in aligned.provenance["alignment_failures"]["a"]
