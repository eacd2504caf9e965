"""From waveforms to what MelHuBERT hears: Kaldi's log mel energies in units of LibriSpeech's deviations."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from layertool.errors import ModelError, UsageError
from layertool.geometry import FRAME_FIELD, FRAME_HOP, FrameGeometry
from layertool.models.acoustic import checked, melhubert_energies
from layertool.models.foreign import file_sha256

N_MELS = 40
DEFAULT_STATISTICS = "960"  # hours of LibriSpeech
# Of ms between frames. At 20 ms a frame is two of the filterbank; the second of the last one may be missing, and is
# zeros then.
GEOMETRIES = {
    10: FrameGeometry(FRAME_HOP, FRAME_FIELD),
    20: FrameGeometry(2 * FRAME_HOP, FRAME_FIELD + FRAME_HOP, least=FRAME_FIELD),
}
_TABLES = Path(__file__).parents[1] / "melhubert_statistics.json"


def features(waveform: np.ndarray, stride: int = 20, statistics: str = DEFAULT_STATISTICS) -> np.ndarray:
    """The input of a 10 ms or 20 ms model, float32 (frames, 40 or 80), of one utterance (spec speat.md 3.1).

    Log mel energies (Hamming window, 25 ms every 10 ms) of the samples times 2^15, less the mean and
    over the deviation of LibriSpeech; at 20 ms frames 2t and 2t + 1 stand side by side, and a zero
    frame (after normalisation) goes with an odd last one. ``waveform``: 16 kHz mono, floating point in
    [-1, 1], shape (n_samples,). ``stride``: ms. ``statistics``: see ``table``.
    Raises AudioError for audio shorter than 25 ms or no such waveform, UsageError for unknown options.
    """
    if stride not in GEOMETRIES:
        raise UsageError(f"MelHuBERT has no frames every {stride} ms: choose 10 or 20")
    energies = melhubert_energies(checked("MelHuBERT", waveform, FRAME_FIELD))
    mean, deviation = table(statistics)
    values = ((energies - mean) / deviation).astype(np.float32)
    if stride == 20:
        values = np.pad(values, ((0, len(values) % 2), (0, 0))).reshape(-1, 2 * N_MELS)
    return values


def table(statistics: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population deviation of each of the 40 log mel energies, float64 (40,) each.

    ``statistics``: "100", "360" or "960", hours of LibriSpeech that the model was trained on (checkpoints
    do not say which); or the path of a .npy file of shape (2, 40) as the original tool writes it.
    """
    known = _tables()
    if str(statistics) in known:
        return known[str(statistics)]
    path = Path(statistics)
    if path.suffix != ".npy":
        raise UsageError(
            f"'{statistics}' names no statistics of MelHuBERT's input: choose {', '.join(known)} (hours of "
            f"LibriSpeech), or give a .npy file of shape (2, 40), means and deviations"
        )
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"the statistics {path} cannot be read ({str(error).splitlines()[0]}): give a .npy file of shape (2, "
            f"{N_MELS})"
        ) from error
    is_table = isinstance(values, np.ndarray) and values.shape == (2, N_MELS) and values.dtype.kind == "f"
    if not is_table or not np.isfinite(values).all() or not (values[1] > 0).all():
        raise UsageError(
            f"the statistics {path} are not {N_MELS} means and {N_MELS} positive deviations, shape (2, {N_MELS}): "
            f"give others"
        )
    return values[0].astype(np.float64), values[1].astype(np.float64)


def name_statistics(statistics: str | Path) -> str:
    """What identifies a table in a store: its hours, or the sha256 of its file. Raises UsageError if there is none."""
    table(statistics)
    return str(statistics) if str(statistics) in _tables() else f"sha256:{file_sha256(statistics)}"


@lru_cache
def _tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        read = json.loads(_TABLES.read_text(encoding="utf-8"))
        tables = {hours: (np.array(of["mean"]), np.array(of["std"])) for hours, of in read.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{_TABLES} with the statistics of MelHuBERT's input is missing or damaged: install layertool again"
        ) from error
    for mean, deviation in tables.values():
        mean.setflags(write=False)
        deviation.setflags(write=False)
    return tables
