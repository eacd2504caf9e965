"""Which labels are no speech: the one list, for readers of corpora and for analyses. docs/corpus.md shows it."""

from __future__ import annotations

import re

SILENCE, NOISE = "silence", "noise"  # nobody speaks; something is heard that has no phones or words
PHONE = "phone"

# Names in any case, with or without Kaldi's position. In a tier of phones only: a word can be "noise" or "breath".
_SILENCES = frozenset("sil silb sile ssil !sil sp pau .pau pause silence h# #h epi".split())
_NOISES = frozenset(
    "spn nsn noise vocnoise laugh laughter breath brth cough iver iver-laugh unknown unk oov gbg garbage exclude "
    "cutoff error".split()
)
# Names in brackets, in any tier and case. In <…> nothing is speech: WebMAUS's <p:>, Kaldi's <eps>, <s>, <unk>. In [x]
# and {x} of a tier of phones only what is known (P2FA's {SL}, {BR}): "[tS]" is a phone, and "{" is one of SAMPA.
_SILENCES_IN_ANGLES = _SILENCES | {"", "eps", "s", "/s", "p", "p:"}
_SILENCES_IN_BRACKETS = _SILENCES | {"sl", "b_trans", "e_trans"}
_NOISES_IN_BRACKETS = _NOISES | frozenset("ns br lg cg ls music inaudible unintelligible hesitation".split())
# Words as aligners spell them in a tier of words: exactly so.
_WORDS = {"SIL": SILENCE, "sil": SILENCE, "!SIL": SILENCE, "!sil": SILENCE, "sp": SILENCE, "spn": NOISE, "SPN": NOISE}
_PAUSE = re.compile(r"[#_.…–—-]*|#\d+|\((\.+|\d+(\.\d+)?)\)")  # nothing, #, _, …, Kaldi's #0, (.), (0.5)
_IN_BRACKETS = re.compile(r"<(.*)>|\++([^+]+)\++|\[(.+)\]|\{(.+)\}")
_POSITION = re.compile(r"_[BIES]$")


def non_speech(tier: str, label: str) -> str | None:
    """What a label stands for if not for a phone or a word: ``SILENCE`` or ``NOISE``; None for speech.

    ``tier``: names without brackets count in tiers of phones (``PHONE``) only.
    """
    is_phone = tier == PHONE
    label = _POSITION.sub("", label.strip()) if is_phone else label.strip()
    if _PAUSE.fullmatch(label):
        return SILENCE
    name = label.casefold()
    if not (found := _IN_BRACKETS.fullmatch(name)):
        if not is_phone:
            return _WORDS.get(label)
        return SILENCE if name in _SILENCES else NOISE if name in _NOISES else None
    kind, inner = found.lastindex or 1, found[found.lastindex or 1].strip()
    if inner in (_SILENCES_IN_ANGLES if kind == 1 else _SILENCES_IN_BRACKETS):
        return SILENCE
    is_known = inner in _NOISES_IN_BRACKETS or inner.startswith(("b_", "e_"))  # Buckeye's {B_THIRD_SPKR}
    return NOISE if kind <= 2 or is_known or not is_phone else None


def is_speech(tier: str, label: str) -> bool:
    """Whether a label of this tier stands for a phone or a word."""
    return non_speech(tier, label) is None
