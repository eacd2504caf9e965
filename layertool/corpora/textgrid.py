"""Praat's TextGrids, in the long and the short text form.

Praat reads such a file as a sequence of free-standing numbers and texts in quotation marks; whatever stands between
them is for people (https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html). So both forms are one, and
intervals of zero length or overlapping ones are no reason to refuse a file. A file that breaks off is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from layertool.corpora.alignments import Stretch, Voice
from layertool.corpora.segments import Entry
from layertool.corpora.texts import read_text
from layertool.errors import CorpusError
from layertool.spelling import nfc

MFA_TIERS = {"word": "words", "phone": "phones"}  # the names that the Montreal Forced Aligner gives

# a text, a number or a lone quotation mark; in between, comments and words that Praat passes over
_FIELD = re.compile(r'(?<!\S)!.*|("[^"]*+(?:""[^"]*+)*+")|(?<![^\s=])([-+]?[\d.]+(?:[eE][-+]?\d+)?)(?!\S)|(")')
_N_TIMES = {"IntervalTier": 2, "TextTier": 1}  # times of each entry


@dataclass(frozen=True)
class Tier:
    """A tier of a TextGrid: its name, the stretch of time that it covers (seconds), and its entries.

    Entries: (start, end, label); those of a tier of points have the same start and end.
    """

    name: str
    has_intervals: bool
    stretch: Stretch
    entries: list[Entry]


def voices(path: Path | str, tiers: Mapping[str, str] | None = None) -> list[Voice]:
    """The labelled intervals of a TextGrid, for each speaker who has tiers of his or her own.

    ``tiers`` maps our tier names to those in the file, and then each of them must be there; without it the Montreal
    Forced Aligner's ``words`` and ``phones`` are read, of which one may be missing. A name is that of a tier, or the
    last part of those of several speakers (``ann - words``); in ``* : words`` the star stands for the speaker. Order:
    tier by tier as in ``tiers``, then as in the file. Labels are as in the file, without surrounding space. Raises
    CorpusError for a tier that is missing or stands twice, and for a file that is damaged, cut short or no TextGrid.
    """
    path = Path(path)
    there = read(path)
    wanted = tiers or MFA_TIERS
    found = {tier: _find(there, name, path) for tier, name in wanted.items()}
    missing = [tier for tier, by_speaker in found.items() if not by_speaker]
    if missing and (tiers or len(missing) == len(wanted)):
        raise CorpusError(
            f"{path} has no interval tier {' or '.join(repr(wanted[tier]) for tier in missing)} "
            f"(tiers there: {_names(there)}): say which to take with "
            + " or ".join(f"--tier {tier}=NAME" for tier in missing)
        )
    speakers = list(dict.fromkeys(speaker for by_speaker in found.values() for speaker in by_speaker))
    named = [speaker for speaker in speakers if speaker is not None]
    if len(named) > 1 and None in speakers:
        raise CorpusError(
            f"{path} has tiers of {' and '.join(named)} and others of nobody (tiers there: {_names(there)}): "
            "say which to take with --tier word='* - words', where the star stands for the speaker"
        )
    made = []
    for speaker in named or speakers:
        own = {tier: by_speaker.get(speaker, by_speaker.get(None)) for tier, by_speaker in found.items()}
        made.append(Voice(speaker, {tier: (part.stretch, part.entries) for tier, part in own.items() if part}))
    return made


def read(path: Path) -> list[Tier]:
    """All tiers of a TextGrid. Raises CorpusError for a file that is damaged, cut short or no TextGrid."""
    text = read_text(path)
    if "ooTextFile" not in text or '"TextGrid"' not in text:
        raise CorpusError(
            f"{path} is no TextGrid in text form: open it in Praat and save it with 'Save as text file...'"
        )
    found = _FIELD.findall(text, text.index('"TextGrid"'))
    fields = iter([quoted or number for quoted, number, lone in found if quoted or number or lone][1:])
    try:
        return list(_tiers(fields))
    except ValueError as error:
        raise CorpusError(
            f"{path} is damaged or cut short (its tiers and intervals are not as many as it announces, a time is no "
            "number, or a quotation mark in a label is not written twice): export it again or take it away"
        ) from error


def _tiers(fields: Iterator[str]) -> Iterator[Tier]:
    """The tiers that the fields behind ``"TextGrid"`` announce. Raises ValueError where they are not there."""
    try:
        whole = (float(next(fields)), float(next(fields)))
        for _ in range(int(next(fields))):
            kind, name = next(fields), next(fields)
            stretch = (float(next(fields)), float(next(fields)))
            n_times, n_entries = _N_TIMES[kind.strip('"')], int(next(fields))
            parts = list(islice(fields, (n_times + 1) * n_entries))
            times = [list(map(float, parts[k :: n_times + 1])) for k in range(n_times)]
            labels = [_text(label) for label in parts[n_times :: n_times + 1]]
            entries = list(zip(times[0], times[-1], labels, strict=True))
            if len(entries) != n_entries:
                raise ValueError("entries are missing")
            # other programs write the last label's end as that of the tier; the file says how long all is
            yield Tier(nfc(_text(name)), n_times == 2, whole if stretch[0] == whole[0] else stretch, entries)
    except (StopIteration, KeyError) as error:
        raise ValueError("a tier is missing") from error
    if next(fields, None) is not None:
        raise ValueError("there is more than announced")


def _text(quoted: str) -> str:
    if not quoted.startswith('"'):
        raise ValueError(f"{quoted} is no text")
    return quoted[1:-1].replace('""', '"').strip()


def _find(there: Sequence[Tier], name: str, path: Path) -> dict[str | None, Tier]:
    """The interval tiers called ``name`` by speaker: None where it is the whole name."""
    intervals = [tier for tier in there if tier.has_intervals]
    exact: list[tuple[str | None, Tier]] = [(None, tier) for tier in intervals if tier.name == nfc(name)]
    pattern = re.compile(re.escape(nfc(name if "*" in name else f"* - {name}")).replace(r"\*", "(.+)", 1))
    matches = exact or [(fit[1].strip(), tier) for tier in intervals if (fit := pattern.fullmatch(tier.name))]
    found: dict[str | None, Tier] = {}
    for speaker, tier in matches:
        if speaker in found:
            raise CorpusError(
                f"{path} has several tiers for '{name}' ({found[speaker].name}, {tier.name}): rename one of them"
            )
        found[speaker] = tier
    return found


def _names(there: Sequence[Tier]) -> str:
    names = [repr(tier.name) + ("" if tier.has_intervals else " with points") for tier in there]
    return ", ".join(names) or "none"
