"""Label files that cover another stretch of time than their audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from layertool.geometry import END_TOLERANCE, SAMPLE_RATE

_TOLERANCE = END_TOLERANCE / SAMPLE_RATE  # seconds: rounding of label files


def fit_stretches(
    segments: pd.DataFrame, stretches: pd.DataFrame, utterances: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """Segments at their times in the audio; utterances whose label files cannot be of their audio, with reasons; sentences.

    ``stretches``: utterance, tier, start and end (seconds) of the time that a label file covers. Where it does not begin at 0 but
    lasts as long as the audio (a part that Praat cut out with "preserve times"), its times are shifted to begin at 0.
    Others are kept and told, but for those that begin elsewhere and do not lie in the audio: their times say nothing.
    """
    owners = pd.Index(utterances["utterance"]).get_indexer(stretches["utterance"])
    stretches, owners = stretches[owners >= 0], owners[owners >= 0]
    seconds = utterances["n_samples"].to_numpy()[owners] / SAMPLE_RATE
    start, end = (stretches[column].to_numpy(float) for column in ("start", "end"))
    lasting, ending = abs(end - start - seconds), abs(end - seconds)
    moved = (abs(start) > 1 / SAMPLE_RATE) & (lasting <= _TOLERANCE) & (lasting < ending)
    elsewhere = ~moved & (abs(start) > _TOLERANCE)
    lost = elsewhere & ((start < 0) | (end > seconds + _TOLERANCE))
    other = ~moved & ~lost & (elsewhere | (ending > _TOLERANCE))

    def first(which: np.ndarray) -> str:
        k = int(which.argmax())
        audio = Path(utterances["audio"].iloc[owners[k]]).name
        return f"of '{stretches['utterance'].iloc[k]}' go from {start[k]:g} to {end[k]:g} s, while {audio} lasts {seconds[k]:g} s"

    faults = {}
    for utterance in stretches["utterance"][lost].unique():
        where = first((lost & (stretches["utterance"] == utterance)).to_numpy())
        faults[utterance] = (
            f"the labels {where}: shift them so that they begin with the audio, or give the right label file"
        )
    notes = []
    if moved.any():
        n = stretches["utterance"][moved].nunique()
        notes.append(
            f"the label files of {n} utterance{'s' if n > 1 else ''} do not begin at 0 but last as long as their audio, so their "
            f"times were shifted to begin at 0: those {first(moved)}"
        )
        by = pd.Series(start[moved], pd.MultiIndex.from_frame(stretches.loc[moved, ["utterance", "tier"]]))
        shift = by.reindex(pd.MultiIndex.from_frame(segments[["utterance", "tier"]])).fillna(0).to_numpy()
        segments = segments.assign(start=segments["start"] - shift, end=segments["end"] - shift)
    if other.any():
        n = stretches["utterance"][other].nunique()
        notes.append(
            f"the label files of {n} utterance{'s' if n > 1 else ''} cover another time than their audio, and their times were kept: "
            f"those {first(other)}; check that they are of this audio"
        )
    return segments, faults, notes
