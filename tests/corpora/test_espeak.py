"""Synthetic speech: the same bytes every time, and times that fit the sound."""

import collections
import dataclasses
import itertools
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader")

from layertool.corpora import espeak
from layertool.corpora.corpus import Corpus
from layertool.corpora.espeak import SENTENCES, VOICES, Event, Segment
from layertool.errors import CorpusError, MissingExtraError

WORD, END, PHONEME = 1, 5, 7
VOWELS = {"@", "I", "i:", "E", "a", "A:", "0", "O:", "V", "U", "u:", "3:", "eI", "aI", "OI", "aU", "oU"}
CONTENT_WORDS = ["boat", "garden", "house", "jacket", "mother", "music"]
CONTENT_WORDS += ["river", "teacher", "thunder", "voice", "window", "yellow"]


@pytest.fixture(scope="module")
def utterances():
    """Four sentences with a comma, by four voices."""
    return [espeak.synthesise(SENTENCES[k], voice) for k, voice in zip((2, 4, 10, 11), VOICES[:4], strict=True)]


def rms(samples) -> float:
    return float(np.sqrt(np.mean(samples.astype(float) ** 2)))


def test_a_second_synthesis_gives_the_same_bytes_in_another_order(utterances):
    for first in reversed(utterances):
        again = espeak.synthesise(first.text, first.voice)
        assert again.samples.tobytes() == first.samples.tobytes()
        assert (again.words, again.phones) == (first.words, first.phones)


def test_voices_sound_different():
    spoken = {espeak.synthesise("Yellow.", voice).samples.tobytes() for voice in VOICES}
    assert len(spoken) == len(VOICES) == 6
    assert collections.Counter(voice.gender for voice in VOICES) == {"female": 3, "male": 3}


def test_every_content_word_is_in_three_sentences():
    counts = collections.Counter(word for text in SENTENCES for word in set(re.findall(r"\w+", text.lower())))
    assert min(counts[word] for word in CONTENT_WORDS) >= 3


def test_words_are_those_of_the_text_and_phones_lie_inside_them(utterances):
    for utterance in utterances:
        assert [word.label for word in utterance.words] == utterance.text.lower().replace(",", "").strip(".").split()
        for tier in (utterance.words, utterance.phones):
            assert all(0 <= segment.start < segment.end <= len(utterance.samples) for segment in tier)
            assert all(left.end <= right.start for left, right in itertools.pairwise(tier))
        for word in utterance.words:
            inside = [phone for phone in utterance.phones if word.start <= phone.start < word.end]
            assert (inside[0].start, inside[-1].end) == (word.start, word.end)
        covered = [
            word for phone in utterance.phones for word in utterance.words if word.start <= phone.start < word.end
        ]
        assert len(covered) == len(utterance.phones)


def test_pauses_are_silent_and_vowels_are_not(utterances):
    for utterance in utterances:
        words = utterance.words
        gaps = [(a.end, b.start) for a, b in itertools.pairwise(words) if b.start > a.end]
        gaps.append((words[-1].end, len(utterance.samples)))
        assert len(gaps) == 2  # at the comma and at the end
        loudest_pause = max(rms(utterance.samples[start + 40 : end - 40]) for start, end in gaps)
        vowels = [phone for phone in utterance.phones if phone.label in VOWELS]
        quietest_vowel = min(rms(utterance.samples[phone.start : phone.end]) for phone in vowels)
        assert loudest_pause < 1 < 500 < quietest_vowel


def test_a_voiceless_stop_is_a_silent_closure_and_a_burst(utterances):
    stops = [(u, phone) for u in utterances for phone in u.phones if phone.label in ("p", "t", "k")]
    assert len(stops) >= 10
    for utterance, stop in stops:
        sound = utterance.samples[stop.start : stop.end]
        # 2 ms left out: where the vowel before it fades, and the ringing of the resampler
        assert rms(sound[32:160]) < 0.05 * rms(sound[-400:])


def test_words_that_espeak_runs_together_are_kept_apart():
    utterance = espeak.synthesise("It is on the end of a boat, isn't it?", VOICES[0])
    assert " ".join(word.label for word in utterance.words) == "it is on the end of a boat isn't it"


def test_text_that_is_not_plain_words():
    utterance = espeak.synthesise("The café, twenty-five 'good' days — and so on.", VOICES[4])
    assert " ".join(word.label for word in utterance.words) == "the café twenty-five good days and so on"


def test_align_moves_closures_and_ends_phones_at_pauses():
    samples = np.ones(100, dtype=np.int16)
    samples[20:30] = 0  # the closure of t
    samples[60:80] = 0  # a pause, then the silence before s
    events = [
        Event(WORD, 0, 1, ""),
        Event(PHONEME, 0, 1, "'a"),
        Event(PHONEME, 30, 1, "t"),
        Event(PHONEME, 60, 1, "_:"),
        Event(END, 70, 1, ""),
        Event(WORD, 70, 7, ""),
        Event(PHONEME, 80, 7, "s"),
        Event(PHONEME, 90, 7, ",I2"),
        Event(PHONEME, 92, 7, ";"),
        Event(END, 95, 7, ""),
    ]
    words, phones = espeak.align(samples, events, "At, | see")
    assert phones == [Segment("a", 0, 20), Segment("t", 20, 60), Segment("s", 70, 90), Segment("I", 90, 95)]
    assert words == [Segment("at", 0, 60), Segment("see", 70, 95)]


def test_align_gives_a_nasal_before_a_vowel_to_its_own_word():
    samples = np.ones(100, dtype=np.int16)
    events = [
        Event(WORD, 0, 1, ""),
        Event(PHONEME, 0, 1, "a#"),
        Event(PHONEME, 40, 1, "n"),
        Event(WORD, 40, 6, ""),
        Event(PHONEME, 60, 6, "'oU"),
        Event(END, 100, 6, ""),
    ]
    words, _ = espeak.align(samples, events, "an | owe")
    assert words == [Segment("an", 0, 60), Segment("owe", 60, 100)]


def test_align_misses_a_word_without_sound():
    events = [Event(WORD, 0, 1, ""), Event(PHONEME, 0, 1, "a#"), Event(END, 10, 1, "")]
    with pytest.raises(CorpusError, match="no sound of its own to the word 'the'"):
        espeak.align(np.ones(10, dtype=np.int16), events, "a | the")


def test_an_empty_text_is_an_error():
    with pytest.raises(CorpusError, match="voice ada, ' ': there is no word to speak"):
        espeak.synthesise(" ", VOICES[0])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *(("'aI2", "aI"), ("@5", "@"), ("r-", "r"), ("t#", "t"), ("I#", "I"), ("tS", "tS"), ("0", "0"), ("3:", "3:")),
        *(("3", "@"), ("A@", "A:"), ("i@3", "i@"), (",O2", "0"), ("_", ""), ("_:", ""), (";", None)),
    ],
)
def test_phone_label(name, label):
    assert espeak.phone_label(name) == label


@pytest.mark.parametrize(
    ("espeak_voice", "message"), [("en-xx", "has no voice 'en-xx'"), ("en-us+q9", "has no variant 'q9'")]
)
def test_unknown_voice(espeak_voice, message):
    voice = dataclasses.replace(VOICES[0], espeak_voice=espeak_voice)
    with pytest.raises(CorpusError, match=rf"'Good morning\.' with the voice ada: it {message}"):
        espeak.synthesise("Good morning.", voice)


def test_a_worker_that_dies_is_an_error(monkeypatch):
    monkeypatch.setattr(espeak.sys, "executable", shutil.which("false"))
    with pytest.raises(CorpusError, match=r"'Hello\.' with the voice dan: its process ended with code 1"):
        espeak.synthesise("Hello.", VOICES[3])


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'layertool\[demo\]'"):
        espeak.make_corpus(tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_the_worker_imports_nothing_heavy():
    code = (
        "import sys, layertool.corpora.espeak_worker; sys.exit(bool({'numpy', 'pandas', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_corpus_round_trip(tmp_path):
    calls = []
    voices = (VOICES[5], VOICES[1])
    corpus = espeak.make_corpus(
        tmp_path / "a", voices, SENTENCES[:2], jobs=2, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert list(corpus.utterances["utterance"]) == ["finn_01", "finn_02", "bess_01", "bess_02"]
    assert corpus.tiers == ["phone", "word"]
    assert list(corpus.utterances["text"]) == list(SENTENCES[:2]) * 2
    assert list(corpus.utterances["gender"]) == ["male", "male", "female", "female"]
    read = Corpus.read(tmp_path / "a")
    assert read.fingerprint == corpus.fingerprint
    assert read.metadata_columns == ["speaker", "gender", "accent", "text"]
    assert "eSpeak NG 1." in read.provenance["source"]

    info = soundfile.info(tmp_path / "a" / "audio" / "finn_01.wav")
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    alone = espeak.make_corpus(tmp_path / "b", voices[1:], SENTENCES[:2], jobs=1)
    for name in alone.utterances["utterance"]:
        files = [(tmp_path / folder / "audio" / f"{name}.wav").read_bytes() for folder in "ab"]
        assert files[0] == files[1]
