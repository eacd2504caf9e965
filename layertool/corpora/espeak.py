"""A small synthetic corpus with exact word and phone times, spoken by eSpeak NG.

The shared library comes with the package ``espeakng-loader``. Each utterance is spoken by a process
of its own (``espeak_worker``).
"""

from __future__ import annotations

import bisect
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from layertool import audio
from layertool.audio_files import resampled_length
from layertool.corpora import espeak_worker
from layertool.corpora.corpus import Corpus
from layertool.corpora.espeak_worker import END, PHONEME, SEED, WORD, Event
from layertool.corpora.on_disk import CorpusFolder
from layertool.corpora.segments import SegmentRows
from layertool.errors import CorpusError, MissingExtraError
from layertool.files import whole_file
from layertool.geometry import SAMPLE_RATE

ROOM_DB = -55.0  # full-scale decibels of the noise that a corpus gets: eSpeak NG's silence is digital, a room's never


@dataclass(frozen=True)
class Voice:
    """A speaker: an eSpeak NG voice with a variant, speaking rate (words per minute) and pitch (0 to 99).

    Choose variants without ``echo``: an echo fills the silence of a closure, which then counts as
    part of the phone before it.
    """

    name: str
    espeak_voice: str
    gender: str
    accent: str
    rate: int
    pitch: int


# British English is called "en" here: this library has no voice "en-gb".
VOICES = (
    Voice("ada", "en-us+f1", "female", "american", rate=150, pitch=52),
    Voice("bess", "en-gb-x-rp+linda", "female", "received pronunciation", rate=165, pitch=40),
    Voice("cora", "en-gb-scotland+Annie", "female", "scottish", rate=140, pitch=30),
    Voice("dan", "en-us+m3", "male", "american", rate=170, pitch=45),
    Voice("ed", "en+m1", "male", "british", rate=145, pitch=35),
    Voice("finn", "en-gb-x-gbclan+m4", "male", "lancashire", rate=155, pitch=62),
)

# Twelve content words in at least three sentences each: boat, garden, house, jacket, mother, music,
# river, teacher, thunder, voice, window, yellow.
SENTENCES = (
    "The teacher played loud music in the garden.",
    "My mother found a yellow jacket by the river.",
    "Thunder shook the big house, and the window broke.",
    "A new boat brought the teacher down the river.",
    "Her voice was quiet, but the music was very loud.",
    "The yellow boat belongs to my mother.",
    "Put the jacket near the window of the boat.",
    "We watched thunder and rain from the garden house.",
    "The voice of the river brings this house joy.",
    "Each teacher measures a window with yellow thread.",
    "After the thunder, music came through the garden.",
    "Mother hung her jacket up, then raised her voice.",
)


class Segment(NamedTuple):
    """A labelled stretch [start, end), in samples."""

    label: str
    start: int
    end: int


@dataclass(frozen=True)
class Utterance:
    """One spoken sentence: int16 samples at 16 kHz, its words and its phones in order and in these samples."""

    text: str
    voice: Voice
    samples: np.ndarray
    words: tuple[Segment, ...]
    phones: tuple[Segment, ...]
    engine: str


def synthesise(text: str, voice: Voice) -> Utterance:
    """Speak ``text`` in a process of its own; the same text and voice always give the same bytes.

    Raises CorpusError when the voice is unknown, the process dies, or a word of the text gets no
    sound; MissingExtraError when the package espeakng-loader is not installed.
    """
    _require_engine()
    spoken = " | ".join(text.split())  # else eSpeak NG speaks pairs such as "of the" as one word with one event
    header, pcm = _run_worker(text, spoken, voice)
    samples = np.frombuffer(pcm, dtype=np.int16)
    events = [Event(*event) for event in header["events"]]
    try:
        words, phones = align(samples, events, spoken)
    except CorpusError as error:
        raise CorpusError(f"voice {voice.name}, '{text}': {error}") from error
    rate = header["rate"]

    def at_16_khz(segments: Iterable[Segment]) -> tuple[Segment, ...]:
        moved = (
            Segment(label, resampled_length(start, rate, SAMPLE_RATE), resampled_length(end, rate, SAMPLE_RATE))
            for label, start, end in segments
        )
        return tuple(segment for segment in moved if segment.end > segment.start)

    # As floats: soxr adds dither to integers, even where they are silent.
    resampled = np.rint(soxr.resample(samples.astype(np.float64), rate, SAMPLE_RATE, quality="HQ"))
    resampled = resampled.clip(-32768, 32767).astype(np.int16)
    return Utterance(text, voice, resampled, at_16_khz(words), at_16_khz(phones), f"eSpeak NG {header['version']}")


def make_corpus(
    folder: Path | str,
    voices: Sequence[Voice] = VOICES,
    sentences: Sequence[str] = SENTENCES,
    jobs: int = 2,
    progress: Callable[[float, float], object] | None = None,
    room_db: float | None = ROOM_DB,
) -> Corpus:
    """Speak every sentence with every voice and write the corpus to ``folder``, voice by voice.

    The audio is ``folder/audio/VOICE_NN.wav`` (16 kHz, 16 bit); the tiers are ``word`` and
    ``phone``. ``jobs`` processes speak at a time; ``progress`` is called with (utterances
    spoken, utterances in all). ``room_db``: level of the noise that is added (``in_a_room``), None for none.
    Raises what ``synthesise`` raises, and StoreError when there is no room.
    """
    _require_engine()
    folder = Path(folder)
    tasks = [(number, text, voice) for voice in voices for number, text in enumerate(sentences, start=1)]
    utterances, segments, engine = [], SegmentRows(), None
    with CorpusFolder(folder) as place, ThreadPoolExecutor(jobs) as pool:
        spoken_to = place.new_audio()
        spoken = pool.map(lambda task: synthesise(task[1], task[2]), tasks)
        for (number, text, voice), utterance in zip(tasks, spoken, strict=True):
            name = f"{voice.name}_{number:02d}"
            path = spoken_to / f"{name}.wav"
            with whole_file(path) as temporary:
                samples = utterance.samples if room_db is None else in_a_room(utterance.samples, room_db, name)
                sound = BytesIO()  # libsndfile does not say why it could not write a file
                soundfile.write(sound, samples, SAMPLE_RATE, subtype="PCM_16", format="WAV")
                temporary.write_bytes(sound.getvalue())
            utterances.append(
                {
                    "utterance": name,
                    "audio": str(path),
                    "speaker": voice.name,
                    "gender": voice.gender,
                    "accent": voice.accent,
                    "text": text,
                }
            )
            for tier, spoken_parts in (("word", utterance.words), ("phone", utterance.phones)):
                segments.add(name, tier, [(a / SAMPLE_RATE, b / SAMPLE_RATE, label) for label, a, b in spoken_parts])
            engine = utterance.engine
            if progress is not None:
                progress(len(utterances), len(tasks))
    provenance = {
        "source": f"{engine} (espeakng-loader {version('espeakng-loader')}), seed {SEED}",
        "resampler": audio.RESAMPLER,
        "noise": None if room_db is None else f"white, {room_db:g} dB of full scale, seed {SEED}",
        "voices": [asdict(voice) for voice in voices],
    }
    corpus = Corpus.build(utterances, segments.table(), name="espeak", provenance=provenance)
    corpus.write(folder)
    return corpus


def in_a_room(samples: np.ndarray, level_db: float, name: str) -> np.ndarray:
    """``samples`` (int16, shape (n,)) with white noise of ``level_db`` decibels of full scale, one for each ``name``.

    Without it, frames of digital silence are further from speech than any sound from another, and decide every mean,
    variance and cluster of log energies.
    """
    noise = np.random.default_rng([SEED, zlib.crc32(name.encode())]).normal(
        scale=32768 * 10 ** (level_db / 20), size=len(samples)
    )
    return np.rint(samples + noise).clip(-32768, 32767).astype(np.int16)


def align(samples: np.ndarray, events: Sequence[Event], spoken: str) -> tuple[list[Segment], list[Segment]]:
    """Words and phones of one utterance, in samples at the engine's rate.

    samples: int16, shape (n,). ``spoken``: the text as eSpeak NG got it. A phone goes from its event
    to the next; a pause ends it and gets no segment. The event of a phone comes after the silence
    that eSpeak NG puts before it (the closure of a stop): that silence, exact zeros back to the last
    event, is moved into the phone. A word goes from the start of its first phone to the end of its
    last; its WORD event is the same place, except before a vowel after a nasal or liquid of the word
    before, whose sound the WORD event cuts off.

    Two habits of eSpeak NG remain: the event of a vowel after a nasal or liquid comes after the
    transition, and some liquids before a consonant (the l of "old") are spoken as the end of the
    vowel, have no samples of their own, and come back with length 0.

    Raises CorpusError when a word has no phone.
    """
    tokens = list(re.finditer(r"\S+", spoken))
    token_starts = [token.start() for token in tokens]
    marks: list[tuple[str, int, int]] = []  # phone ("" for a pause), first sample, token
    token = last_sample = 0
    for event in events:
        if event.kind == WORD:
            token = bisect.bisect_right(token_starts, event.position - 1) - 1
        elif event.kind == END:
            marks.append(("", event.sample, token))
        elif event.kind == PHONEME and (label := phone_label(event.name)) is not None:
            start = event.sample
            if label:
                sounding = np.flatnonzero(samples[last_sample:start])
                start = last_sample + (int(sounding[-1]) + 1 if len(sounding) else 0)
            marks.append((label, start, token))
        last_sample = event.sample
    marks.append(("", len(samples), token))

    phones: list[Segment] = []
    spans: dict[int, tuple[int, int]] = {}
    for (label, start, token), (_, end, _) in itertools.pairwise(marks):
        if label:
            phones.append(Segment(label, start, end))
            first = spans[token][0] if token in spans else start
            spans[token] = (first, end)
    words = []
    for k, found in enumerate(tokens):
        if k in spans:
            label = re.sub(r"^\W+|\W+$", "", found.group()).lower()
            words.append(Segment(label or found.group(), *spans[k]))
        silent = k not in spans or spans[k][0] == spans[k][1]
        if silent and any(character.isalnum() for character in found.group()):
            raise CorpusError(f"eSpeak NG gives no sound of its own to the word '{found.group()}': reword the sentence")
    if not words:
        raise CorpusError("there is no word to speak: give the sentence some text")
    return words, phones


# One label for what English dictionaries of eSpeak NG spell in several ways: reduced vowels, the
# vowel at the end of "happy", vowels before a written r, and accents' choices within one word class.
_SAME_PHONE = {"3": "@", "a#": "@", "i": "i:", "aa": "a", "A@": "A:", "O@": "O:", "o@": "O:", "O2": "0", "O": "0"}
_PAUSES = frozenset({"_", "_:", "_::", "_!", "_|", "_^_", "||"})


def phone_label(name: str) -> str | None:
    """eSpeak NG's name of a phone without stress marks and variant numbers; "" for a pause, None for a mere mark.

    ``'aI2`` becomes ``aI``, ``@5`` becomes ``@``, ``r-`` becomes ``r``; ``;`` (palatalisation) is a
    mark on the phone before it.
    """
    if name in _PAUSES:
        return ""
    name = name.lstrip("',%=|;")
    if not name:
        return None
    return _SAME_PHONE.get(name) or re.sub(r"(?<=.)[\d#-]+$", "", name)


def _require_engine() -> None:
    if importlib.util.find_spec("espeakng_loader") is None:
        raise MissingExtraError("espeakng-loader", "demo", "synthetic speech")


def _run_worker(text: str, spoken: str, voice: Voice) -> tuple[dict, bytes]:
    """The worker's header (version, rate, events) and int16 samples as bytes."""
    request = {"text": spoken, "voice": voice.espeak_voice, "rate": voice.rate, "pitch": voice.pitch}
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    worker = subprocess.run(
        [sys.executable, "-m", espeak_worker.__name__],
        input=json.dumps(request).encode(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if worker.returncode != 0:
        said = worker.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1].strip() if said else f"its process ended with code {worker.returncode}"
        raise CorpusError(f"eSpeak NG could not speak '{text}' with the voice {voice.name}: {reason}")
    header, _, pcm = worker.stdout.partition(b"\n")
    return json.loads(header), pcm
