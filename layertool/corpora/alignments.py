"""What label files say of the audio beside them: reading many of them, whose the labels are, and when they are.

Every reader of a kind of file gives ``Voice``s; what follows from them is decided here, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from layertool.corpora.failures import Failures
from layertool.corpora.segments import SEGMENT_COLUMNS, Entry, SegmentRows

Progress = Callable[[int, int], None]  # called with (files read, files in all)
Stretch = tuple[float, float]  # of time: start and end in seconds


class Voice(NamedTuple):
    """The labels of one speaker in one recording.

    ``speaker``: None where the file does not say. ``tiers``: by our name of a tier (``word``, ``phone``), the stretch
    of time that it says it covers (None: it does not say) and its labels, in seconds from the same zero.
    """

    speaker: str | None
    tiers: dict[str, tuple[Stretch | None, list[Entry]]]


@dataclass
class Alignments:
    """The labels of many recordings.

    ``segments``: the columns of ``Corpus.segments``, labels as in the files. ``stretches``: utterance, tier, start, end
    (seconds) of what the files say they cover. ``speakers``: recording to the utterances in it, each with its speaker
    or None; recordings without labels are not there. ``unusable``: recordings whose label files cannot be used, with
    the reason. ``without_tier``: how many files lack a tier that others have.
    """

    segments: pd.DataFrame
    stretches: pd.DataFrame
    speakers: dict[str, dict[str, str | None]]
    unusable: dict[str, str]
    without_tier: dict[str, int]

    def utterances(self, recordings: pd.DataFrame, provenance: dict) -> pd.DataFrame:
        """One row for each speaker of a recording; what is to be told goes to the notes of the provenance.

        ``recordings``: a table with the column ``utterance``. Rows of recordings with several speakers are repeated, as
        the utterances ``RECORDING/SPEAKER``, without ``text``: that of all is nobody's. The column ``speaker`` is
        filled where label files name the speakers.
        """
        if self.without_tier:
            provenance["textgrids_without_tier"] = self.without_tier
        named = {u: who for parts in self.speakers.values() for u, who in parts.items() if who is not None}
        if not named:
            return recordings
        parts = [list(self.speakers.get(one, {one: None})) for one in recordings["utterance"]]
        table = recordings.loc[recordings.index.repeat([len(part) for part in parts])].reset_index(drop=True)
        table["utterance"] = [one for part in parts for one in part]
        known = table.get("speaker", pd.Series(None, table.index, dtype=object))
        shared = [len(part) > 1 for part in parts for _ in part]  # what a table says of a recording is not said of both
        table["speaker"] = [
            named.get(one, speaker) if is_shared or pd.isna(speaker) else speaker
            for one, speaker, is_shared in zip(table["utterance"], known, shared, strict=True)
        ]
        if "text" in table:
            table["text"] = table["text"].mask(pd.Series(shared, table.index), None)
        several = [part[0] for part in parts if len(part) > 1]
        if several:
            provenance.setdefault("notes", []).append(
                f"{len(several)} recording{'s have' if len(several) > 1 else ' has'} the labels of several speakers: "
                "each "
                f"speaker became an utterance of the whole recording, like '{several[0]}', with the column speaker"
            )
        return table


def read_all(
    sources: Mapping[str, Callable[[], list[Voice]]], progress: Progress | None = None, max_failures: int = 0
) -> Alignments:
    """Read the labels of many recordings.

    ``sources``: recording to a function that reads its labels. Raises the CorpusError of the first that cannot be used
    after ``max_failures`` of them.
    """
    segments = SegmentRows()
    stretches: list[tuple[str, str, float, float]] = []
    speakers: dict[str, dict[str, str | None]] = {}
    unusable = Failures(max_failures)
    n_with: Counter[str] = Counter()
    for n_read, (recording, source) in enumerate(sources.items(), start=1):
        voices: list[Voice] = []
        with unusable.tolerated(recording):
            voices = source()
        several = len(voices) > 1
        own = {f"{recording}/{voice.speaker}" if several else recording: voice.speaker for voice in voices}
        if own:
            speakers[recording] = own
        for utterance, voice in zip(own, voices, strict=True):
            for tier, (stretch, entries) in voice.tiers.items():
                n_with[tier] += 1
                segments.add(utterance, tier, entries)
                if stretch is not None:
                    stretches.append((utterance, tier, *stretch))
        if progress:
            progress(n_read, len(sources))
    n_voices = sum(map(len, speakers.values()))
    return Alignments(
        segments.table(),
        pd.DataFrame(stretches, columns=SEGMENT_COLUMNS[:-1]),
        speakers,
        unusable,
        {tier: n_voices - n for tier, n in sorted(n_with.items()) if n < n_voices},
    )
