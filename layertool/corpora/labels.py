"""What the label of a segment is: one spelling, ARPABET, Kaldi's positions, silences and noises.

Readers hand over labels as they stand in the files. What a label means depends on the others: ``s`` and ``S`` are two
phones of SAMPA and one of ARPABET, ``ao1`` is a vowel with its stress or with its tone. So the rules are chosen once,
for all labels of a tier.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from layertool.non_speech import NOISE, PHONE, SILENCE, non_speech
from layertool.spelling import nfc

TIERS = (PHONE, "word")
SILENT = "SIL"  # what every silence of a tier of phones is called

# The 39 phones of CMUdict, and what ARPABET has besides (TIMIT, Buckeye, pronunciation dictionaries).
# Vowels and syllabic consonants, which may bear stress.
_VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW AX AX-H AXR IX UX EL EM EN ENG".split())
_CONSONANTS = frozenset("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split())
_ARPABET = _VOWELS | _CONSONANTS | frozenset("DX HV NX Q TQ WH BCL DCL GCL PCL TCL KCL".split())
_NOISES_OF_P2FA = frozenset({"ns", "br", "lg", "cg", "ls"})  # beside ARPABET only: "br" is a phone of other alphabets
_STRESSED = re.compile(r"(.+)([012])")
_POSITIONED = re.compile(r"(.+)_[BIES]")
_LEFT_OUT = frozenset({"sp", "spn"})
# What aligners call silences and noises of phones and is a word of no text: told where it stands among words.
_NO_WORDS = frozenset("silb sile ssil pau nsn brth vocnoise unk h# #h".split())
# Letters that people type for one another: script g, length, apostrophes. Told, not changed.
_LOOK_ALIKES = str.maketrans("\u0261\u02d0\u2019\u02bc\u02bb", "g:'''")
_FEW = 0.1  # of the segments of a tier: what is rarer and keeps the others from a rule may be a slip, and is told
_SHOWN = 3  # labels that a note names


@dataclass(frozen=True)
class Rules:
    """What is done to the labels of a corpus.

    ``raw``: labels keep case, digits and positions, silences and noises their names and segments; only the spelling is
    one (NFC). ``non_speech``: labels that stand for no speech in this corpus, beside those of ``layertool.non_speech``;
    they are written in angle brackets (``<AP>``), by which every analysis knows them.
    """

    raw: bool = False
    non_speech: tuple[str, ...] = ()

    def apply(self, segments: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
        """Segments with the labels that analyses see, and what to note of it in the provenance of the corpus.

        ``segments``: all of a corpus, with the columns ``tier`` and ``label``: labels as in the files, missing ones
        empty. Left out are segments without a label, short pauses (``sp``) and ``spn``, noises of phones and silences
        of words. The notes, where there is something to say: ``labels`` (the rule of each tier), ``non_speech`` (of
        each tier, the labels that stand for none), ``segments_left_out`` (how many), ``notes`` (sentences for the
        user).
        """
        codes, names = pd.factorize(segments["label"].astype(object).fillna("").astype(str))
        tier_codes, tiers = pd.factorize(segments["tier"].astype(str))
        given = {nfc(label.strip()) for label in self.non_speech}
        table = np.full((len(tiers), len(names)), None, dtype=object)
        made: dict[str, _Renamed] = {}
        for k, tier in enumerate(tiers):
            counts = np.bincount(codes[tier_codes == k], minlength=len(names))
            there = np.flatnonzero(counts)
            made[tier] = _rename(tier, {names[code]: int(counts[code]) for code in there}, given, self.raw)
            table[k, there] = [made[tier].labels[names[code]] for code in there]
        labels = table[tier_codes, codes]
        kept = pd.notna(labels)
        found = {label for one in made.values() for label in one.given}
        facts = {
            "labels": {tier: one.rule for tier, one in made.items()},
            "non_speech": {tier: one.non_speech for tier, one in made.items() if one.non_speech},
            "segments_left_out": int((~kept).sum()),
            "notes": [note for one in made.values() for note in one.notes]
            + [f"no segment is labelled '{label}': correct --non-speech" for label in sorted(given - found)],
        }
        return segments.assign(label=labels)[kept], {name: fact for name, fact in facts.items() if fact}


USUAL = Rules()


@dataclass
class _Renamed:
    """The labels of one tier: those of the files to those of the corpus, None where segments are left out."""

    labels: dict[str, str | None]
    rule: str
    non_speech: list[str]
    given: set[str]  # of the labels that the user calls no speech, those that are there
    notes: list[str]


def _rename(tier: str, counts: Mapping[str, int], given: Collection[str], raw: bool) -> _Renamed:
    """The rules for one tier, from the number of segments of each label in the files."""
    spelled = {label: nfc(label if raw else label.strip()) for label in counts}
    notes = _merged(tier, spelled, "the same letters in another spelling") + _merged(
        tier, {text: text.translate(_LOOK_ALIKES) for text in spelled.values()}
    )
    named = {text: name for text in spelled.values() for name in (text.strip(), _name(tier, text)) if name in given}
    texts = {label: _in_brackets(named[text]) if text in named else text for label, text in spelled.items()}
    kinds = {text: non_speech(tier, text) for text in texts.values()}
    new: dict[str, str | None] = {text: text if text.strip() else None for text in kinds}
    rule = "raw" if raw else "as written"
    if not raw:
        new |= {text: None for text, kind in kinds.items() if _is_left_out(tier, text, kind)}
    if tier == PHONE and not raw:
        silences = {text: SILENT for text, kind in kinds.items() if kind == SILENCE and new[text]}
        speech: Counter[str] = Counter()
        for label, text in texts.items():
            if kinds[text] is None:
                speech[text] += counts[label]
        phones, rule, more = _phones(speech)
        new |= silences | phones
        notes += _merged(tier, {_base(text): SILENT for text in silences}, "they are silences") + more
    names = sorted(text for text in kinds if tier != PHONE and kinds[text] is None and text.casefold() in _NO_WORDS)
    if names:
        notes.append(
            f"{_listed(names, 'counts', 'count')} as a {tier}: if it is no speech, type --non-speech {','.join(names)}"
        )
    found = sorted(label for label, text in texts.items() if label.strip() and (kinds[text] or not new[text]))
    return _Renamed({label: new[text] for label, text in texts.items()}, rule, found, set(named.values()), notes)


def _phones(counts: Mapping[str, int]) -> tuple[dict[str, str | None], str, list[str]]:
    """New names of phones, how to call the rule, and what to tell; ``counts``: the segments of each phone."""
    bases, notes = {label: _base(label) for label in counts}, []
    bare = [label for label, base in bases.items() if base == label]
    positions = sorted({label[-2:] for label in counts if label not in bare})
    if len(positions) > 1 and _are_few(bare, counts):
        notes.append(
            f"the phone labels keep their positions ({', '.join(positions)}), because {_listed(bare, 'has', 'have')} "
            "none: "
            f"{_remedy(bare)}"
        )
    if bare:  # one label without a position: what looks like positions is part of the others' names
        bases = {label: label for label in counts}
    of_bases: Counter[str] = Counter()
    for label, base in bases.items():
        of_bases[base] += counts[label]
    phones, rule, more = _arpabet(of_bases)
    rule += ", Kaldi's positions cut" if positions and not bare else ""
    return {label: phones[base] for label, base in bases.items()}, rule, notes + more


def _arpabet(counts: Mapping[str, int]) -> tuple[dict[str, str | None], str, list[str]]:
    """The same for phones without positions: in small letters and without stress, if all of them are ARPABET."""
    parts = {label: _STRESSED.fullmatch(label) for label in counts}
    symbols = {label: part[1] if part and part[1].upper() in _VOWELS else label for label, part in parts.items()}
    known = {label: symbol for label, symbol in symbols.items() if symbol.upper() in _ARPABET}
    n_upper = sum(counts[label] for label, symbol in known.items() if symbol.isupper())
    is_upper = 2 * n_upper > sum(counts[label] for label in known)
    known = {label: symbol for label, symbol in known.items() if (symbol.isupper() if is_upper else symbol.islower())}
    foreign = [label for label in counts if label not in known and label not in _NOISES_OF_P2FA]
    stressed = {label: symbol for label, symbol in sorted(known.items()) if label != symbol}
    if foreign or not any(len(symbol) > 1 for symbol in known.values()):  # S, T and N are SAMPA as well
        notes = []
        if (
            stressed and _are_few(foreign, counts, at_most=0.5) and not any(label[-1] in "3456789" for label in foreign)
        ):  # tones
            notes.append(
                f"the phone labels keep their stress marks ('{next(iter(stressed))}'), because "
                f"{_listed(foreign, 'is', 'are')} not ARPABET "
                f"{'in capitals' if is_upper else 'in small letters'}: {_remedy(foreign)}"
            )
        return {label: label for label in counts}, "as written", notes
    why = "0, 1, 2 are the stress of ARPABET; if they are tones, type --raw-labels"  # pinyin has ao1 and er2 too
    notes = [] if is_upper else _merged(PHONE, stressed, why)
    return {label: known[label].lower() if label in known else None for label in counts}, "ARPABET", notes


def _are_few(labels: Collection[str], counts: Mapping[str, int], at_most: float = _FEW) -> bool:
    """Whether some, but at most this share of the segments have one of these labels."""
    return 0 < sum(counts[label] for label in labels) <= at_most * sum(counts.values())


def _base(label: str) -> str:
    """A phone without the position in its word that Kaldi writes: beginning, inside, end, single."""
    position = _POSITIONED.fullmatch(label)
    return position[1] if position else label


def _name(tier: str, text: str) -> str:
    return _base(text) if tier == PHONE else text


def _in_brackets(name: str) -> str:
    return name if name.startswith("<") and name.endswith(">") else f"<{name}>"


def _is_left_out(tier: str, text: str, kind: str | None) -> bool:
    """Noises of phones; silences between words, unless they look like a word; ``sp`` and ``spn`` of both.

    Spec layerwise.md 2.2, which keeps ``<unk>``: an utterance with a word that nobody understood is unlike one without.
    """
    name = _name(tier, text).casefold()
    unheard = kind == NOISE if tier == PHONE else kind == SILENCE and not text.isalpha()
    return kind is not None and (unheard or name in _LEFT_OUT)


def _merged(tier: str, new: Mapping[str, str], why: str = "") -> list[str]:
    """What to tell, a sentence if anything, of labels that become one, and ``why``; else of those that only look so."""
    groups: dict[str, list[str]] = {}
    for label, name in sorted(new.items()):
        groups.setdefault(name, []).append(label)
    parts = []
    for name, labels in groups.items():
        if name and len(labels) > 1:
            *others, last = map(_spelled_out, labels)
            parts.append(f"{', '.join(others)} and {last}" + (f" become '{name}'" if why else ""))
    end = f" ({why})" if why else " look alike and stay apart: if they are one, write them alike"
    return [f"the {tier} labels {_first(parts, '; ')}{end}"] if parts else []


def _spelled_out(label: str) -> str:
    """A label for a message; its code points where it does not look like what it is."""
    points = "" if nfc(label) == label else f" ({' '.join(f'U+{ord(letter):04X}' for letter in label)})"
    return f"'{label}'{points}"


def _remedy(labels: Sequence[str]) -> str:
    return f"correct it, or if it is no speech, type --non-speech {','.join(labels[:_SHOWN])}"


def _listed(labels: Sequence[str], one: str, several: str) -> str:
    named = _first([f"'{label}'" for label in labels], ", ")
    return f"{named} {one if len(labels) == 1 else several}"


def _first(parts: Sequence[str], between: str) -> str:
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return between.join(parts[:_SHOWN]) + more
