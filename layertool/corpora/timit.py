"""TIMIT (LDC93S1): sentences read by 630 Americans, with phones and words by hand.

Its layout, in capitals or small letters: SPLIT/REGION/SPEAKER/SENTENCE, as in TRAIN/DR1/FCJF0/SA1 with .WAV, .TXT, .PHN
and .WRD. Times are numbers of samples at 16 kHz, and stay these numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import pandas as pd

from layertool import audio
from layertool.corpora import label_files
from layertool.corpora.alignments import Progress, Stretch, Voice, read_all
from layertool.corpora.corpus import Corpus
from layertool.corpora.labels import USUAL, Rules
from layertool.corpora.segments import Entry
from layertool.corpora.source_files import files_below, unread, without
from layertool.corpora.texts import read_text
from layertool.errors import CorpusError, UsageError
from layertool.geometry import SAMPLE_RATE

REGIONS = {
    "DR1": "New England",
    "DR2": "Northern",
    "DR3": "North Midland",
    "DR4": "South Midland",
    "DR5": "Southern",
    "DR6": "New York City",
    "DR7": "Western",
    "DR8": "Army Brat",  # moved around
}
# Two men and a woman of each region; their SX and SI sentences are the core test set.
CORE_TEST_SPEAKERS = frozenset(
    "MDAB0 MWBT0 FELC0 MTAS1 MWEW0 FPAS0 MJMP0 MLNT0 FPKT0 MLLL0 MTLS0 FJLM0 "
    "MBPM0 MKLT0 FNLP0 MCMJ0 MJDH0 FMGD0 MGRT0 MNJM0 FDHC0 MJLN0 MPAM0 FMLD0".split()
)
# Lee & Hon 1989, table 2: 61 phones to 48 (allophones joined), and these to the 39 that are told apart in scoring.
# The glottal stop q is left out of both.
TO_48 = {
    **dict.fromkeys(("pcl", "tcl", "kcl", "qcl"), "cl"),
    **dict.fromkeys(("bcl", "dcl", "gcl"), "vcl"),
    **dict.fromkeys(("h#", "#h", "pau"), "sil"),
    **{"ux": "uw", "axr": "er", "ax-h": "ax", "em": "m", "nx": "n", "eng": "ng", "hv": "hh"},
}
TO_39 = {
    **dict.fromkeys(("cl", "vcl", "epi"), "sil"),
    **{"el": "l", "en": "n", "zh": "sh", "ao": "aa", "ix": "ih", "ax": "ah"},
}
_PIECES = {"phone": ".phn", "word": ".wrd"}
_PATH = re.compile(r"(?<![^/])(TRAIN|TEST)/(DR[1-8])/([FM][A-Z]{3}\d)/((SA|SI|SX)\d+)((?:\.\w+)+)$", re.IGNORECASE)


def read(
    source: Path | str,
    splits: Collection[str] = (),
    sentences: Collection[str] = (),
    phones: str = "61",
    rules: Rules = USUAL,
    name: str | None = None,
    progress: Progress | None = None,
    max_failures: int = 0,
) -> Corpus:
    """Make a corpus of TIMIT, or of a part of its folders.

    The id of an utterance is its path in capitals (``TRAIN/DR1/FCJF0/SA1``), which is their order. Columns: split
    (train, test), test_set (core: SX and SI of the 24 speakers of the core test set; complete: the rest of the test
    part), region (DR1) and dialect (New England), speaker, gender, sentence (SA1), sentence_type (SA, SX, SI), text;
    and from SPKRINFO.TXT, where it is somewhere below ``source``, age (years on the day of recording), race and
    education. Segments: the tiers phone (.PHN) and word (.WRD).

    ``splits``: of train and test, ``sentences``: of SA, SX and SI, those to take (default: all). ``phones``: the 61
    of the files, or folded to the 48 or 39 of Lee & Hon (1989). Of SA1.WAV and a copy SA1.WAV.wav the first is taken.
    Raises UsageError, CorpusError or AudioError.
    """
    _choice("set of phones", [phones], ("61", "48", "39"))
    wanted_splits = _choice("split", splits, ("TRAIN", "TEST"))
    # dialect, the same two for everybody; compact; diverse
    wanted_types = _choice("type of sentences", sentences, ("SA", "SX", "SI"))
    source = Path(source)
    files = files_below(source)
    utterances: dict[str, dict[str, Path]] = {}
    copies = 0
    for path in files:
        fit = _PATH.search(path.absolute().as_posix())
        if fit is None or fit[1].upper() not in wanted_splits or fit[5].upper() not in wanted_types:
            continue
        own = utterances.setdefault("/".join(fit.group(1, 2, 3, 4)).upper(), {})
        kind = ".wav" if path.suffix.lower() in audio.SUFFIXES else fit[6].lower()  # of a copy: .WAV.wav
        copies += kind == ".wav" and kind in own
        own[kind] = min(own.get(kind, path), path, key=lambda one: len(one.name))
    spoken = {one: own for one, own in sorted(utterances.items()) if ".wav" in own}
    if not spoken:
        raise CorpusError(
            f"{source} has no audio of TIMIT: the layout is SPLIT/REGION/SPEAKER/SENTENCE.WAV, as in "
            "TRAIN/DR1/FCJF0/SA1.WAV, with .TXT, .PHN and .WRD beside it"
        )
    found = read_all({one: partial(_labels, own, phones) for one, own in spoken.items()}, progress, max_failures)
    table = pd.DataFrame([_facts(one, own) for one, own in spoken.items()])
    speakers = next((path for path in files if path.name.upper() == "SPKRINFO.TXT"), None)
    if speakers is not None:
        about = _speakers(speakers)
        for column in ("age", "race", "education"):
            table[column] = [about.get(speaker, {}).get(column) for speaker in table["speaker"]]
    notes = unread(files, source, {path for own in spoken.values() for path in own.values()})
    if copies:
        notes.append(
            f"{copies} recording{'s are' if copies > 1 else ' is'} there twice, as SA1.WAV and SA1.WAV.wav: "
            "the first was taken"
        )
    provenance = {
        "reader": "timit",
        "source": str(source.resolve()),
        "phones": phones,
        **without(spoken, (".txt", *_PIECES.values())),
        "labels_without_audio": len(utterances) - len(spoken),
        "notes": notes,
    }
    return Corpus.build(table, found.segments, name or "timit", provenance, max_failures, found.unusable, rules=rules)


def fold(label: str, phones: str) -> str | None:
    """One of the 61 phones as one of the 48 or 39 (``phones``); None for the glottal stop, which they leave out."""
    if phones == "61":
        return label
    if label == "q":
        return None
    folded = TO_48.get(label, label)
    return folded if phones == "48" else TO_39.get(folded, folded)


def _choice(what: str, asked: Collection[str], there: Sequence[str]) -> Sequence[str]:
    chosen = [one.upper() for one in asked]
    if unknown := [one for one in chosen if one not in there]:
        raise UsageError(f"'{unknown[0]}' is no {what} of TIMIT: choose from {', '.join(there)}")
    return chosen or there


def _labels(own: dict[str, Path], phones: str) -> list[Voice]:
    """Phones and words of one sentence, their samples as seconds."""
    tiers: dict[str, tuple[Stretch | None, list[Entry]]] = {}
    for tier, kind in _PIECES.items():
        if kind not in own:
            continue
        rows = label_files.spans(read_text(own[kind]))
        if rows is None or not all(time.isdecimal() for row in rows for time in row[:2]):
            raise CorpusError(
                f"{own[kind]} is no label file of TIMIT, lines 'first_sample last_sample label': restore it or take "
                "it away"
            )
        labelled = [(a, b, fold(label, phones) if tier == "phone" else label) for a, b, label in rows]
        tiers[tier] = (None, [(int(a) / SAMPLE_RATE, int(b) / SAMPLE_RATE, label) for a, b, label in labelled if label])
    return [Voice(None, tiers)]


def _facts(one: str, own: dict[str, Path]) -> dict:
    """The row of an utterance."""
    split, region, speaker, sentence = one.split("/")
    is_core = split == "TEST" and speaker in CORE_TEST_SPEAKERS and not sentence.startswith("SA")
    content = read_text(own[".txt"]).strip() if ".txt" in own else None
    return {
        "utterance": one,
        "audio": str(own[".wav"]),
        "split": split.lower(),
        "test_set": None if split == "TRAIN" else "core" if is_core else "complete",
        "region": region,
        "dialect": REGIONS[region],
        "speaker": speaker,
        "gender": {"F": "female", "M": "male"}[speaker[0]],
        "sentence": sentence,
        "sentence_type": sentence[:2],
        "text": content and re.sub(r"\d+\s+\d+\s+", "", content, count=1),
    }


def _speakers(path: Path) -> dict[str, dict]:
    """Age, race and education by speaker from lines ``ABC0  M  6  TRN  03/03/87  06/17/60  5'11"  WHT  HS``."""
    about = {}
    for line in read_text(path).split("\n"):
        fields = line.split()
        if len(fields) < 6 or fields[0].startswith(";"):
            continue
        # id, sex, region, use, dates of recording and of birth, height, race, education
        name, sex, _, _, *dates, _, race, education = [*fields, "?", "?", "?"][:9]
        try:
            recorded, born = (datetime.strptime(date, "%m/%d/%y") for date in dates)
            born = born.replace(year=1900 + born.year % 100)
            age = recorded.year - born.year - ((recorded.month, recorded.day) < (born.month, born.day))
        except ValueError:  # ??/??/??
            age = None
        about[(sex + name).upper()] = {
            "age": age,
            "race": None if "?" in race else race,
            "education": None if "?" in education else education,
        }
    return about
