"""Reading audio: one channel, one rate, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from layertool.errors import AudioError, UsageError
from layertool.geometry import SAMPLE_RATE

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf", ".sph"})
_SIZES = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_SIZE_UNKNOWN = 2**31 - 2**16
RESAMPLER = f"soxr {soxr.__version__} HQ"


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says: frames per channel, sampling rate in Hz, channels, container."""

    n_frames: int
    sample_rate: int
    channels: int
    format: str

    def n_samples(self, sample_rate: int) -> int:
        """Samples after resampling to ``sample_rate`` (the number soxr gives)."""
        return resampled_length(self.n_frames, self.sample_rate, sample_rate)


def resampled_length(n_frames: int, source_rate: int, target_rate: int) -> int:
    """Length that ``read`` gives for ``n_frames`` at ``source_rate``: rounded half up, as soxr does."""
    return (2 * n_frames * target_rate + source_rate) // (2 * source_rate)


def check_channel(channel: str | None) -> str | None:
    """Return ``channel`` if it is None, 'mix', 'sum' or a channel number; raise UsageError otherwise."""
    if channel is None or channel in ("mix", "sum") or channel.isdecimal():
        return channel
    raise UsageError(f"'{channel}' is no channel: give a number from 0, 'mix' (mean of all) or 'sum' (sum of all)")


def probe(path: Path | str) -> AudioInfo:
    """Read a file's header.

    Raises AudioError when the file is missing, not audio, empty, or a WAV shorter than its header says.
    """
    path = Path(path)
    if not path.exists():
        raise AudioError(f"{path} does not exist: check the path, or make the corpus again if its audio has moved")
    if path.is_dir():
        raise AudioError(f"{path} is a folder, not an audio file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes): restore the file or take it out of the corpus")
    try:
        info = soundfile.info(str(path), verbose=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path} cannot be read as audio ({error.error_string.strip().rstrip('.')}): "
            "convert it to WAV or FLAC, or take it out of the corpus"
        ) from error
    if info.frames <= 0:
        raise AudioError(f"{path} has no samples: restore the file or take it out of the corpus")
    if _is_cut_short(path, info):
        raise AudioError(f"{path} is cut short: its header promises more samples than there are; restore the file")
    return AudioInfo(info.frames, info.samplerate, info.channels, info.format)


def _is_cut_short(path: Path, info) -> bool:
    """Whether the header of an uncompressed file promises more than there is; libsndfile says so only in its log."""
    if info.format == "NIST":
        with open(path, "rb") as file:
            count = re.search(rb"sample_count -i (\d+)", file.read(1024))
        return count is not None and int(count[1]) > info.frames
    sizes = _SIZES.search(info.extra_info)
    # a program that writes into a pipe cannot go back to fill in the size: all bits set, or the largest it dares
    return (
        sizes is not None and int(sizes[2]) < int(sizes[1]) < _SIZE_UNKNOWN
    ) or "does not match value from 'ds64'" in info.extra_info


def cut(path: Path | str, info: AudioInfo, start: float | None, end: float | None) -> tuple[int, int]:
    """First and one-past-last frame, at the file's own rate, of an utterance given in seconds (None: the file's ends).

    Raises AudioError when they do not lie in the file (1 ms beyond its end passes).
    """
    first = 0 if start is None else round(start * info.sample_rate)
    stop = info.n_frames if end is None else round(end * info.sample_rate)
    if not 0 <= first < stop or first >= info.n_frames or stop > info.n_frames + info.sample_rate // 1000:
        raise AudioError(
            f"{path} lasts {info.n_frames / info.sample_rate:.3f} s, but an utterance is given as "
            f"{0 if start is None else start:g} to {'the end' if end is None else f'{end:g}'} s of it: correct start and end"
        )
    return first, min(stop, info.n_frames)


def read(
    path: Path | str,
    sample_rate: int,
    channel: str | None = None,
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """Read one utterance as a float32 waveform of shape (n_samples,) at ``sample_rate`` Hz.

    ``channel``: None for mono files, a number from 0, 'mix' (mean of the channels) or 'sum'.
    ``start``, ``end``: seconds inside the file; None for its ends. Other rates are resampled with
    soxr (HQ). Raises AudioError for whatever makes the samples unusable.
    """
    path = Path(path)
    info = probe(path)
    first, stop = cut(path, info, start, end)
    try:
        samples, _ = soundfile.read(str(path), start=first, stop=stop, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path} breaks off or is damaged ({error.error_string.strip().rstrip('.')}): restore the file"
        ) from error
    if len(samples) != stop - first:
        raise AudioError(
            f"{path} is cut short: {stop - first} samples are promised, {len(samples)} are there; restore the file"
        )
    mono = _one_channel(samples, check_channel(channel), path)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path} has samples that are not finite (NaN or infinite): write the file anew")
    if info.sample_rate != sample_rate:
        mono = soxr.resample(mono, info.sample_rate, sample_rate, quality="HQ")
    return np.ascontiguousarray(mono, dtype=np.float32)


def read_utterance(row: Any, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read the audio of one row of a corpus's utterances. Errors as ``read``."""
    channel, start, end = (
        None if (value := row[name]) is None or value != value else value for name in ("channel", "start", "end")
    )
    return read(row["audio"], sample_rate, channel, start, end)


def _one_channel(samples: np.ndarray, channel: str | None, path: Path) -> np.ndarray:
    n_channels = samples.shape[1]
    require_channel(path, n_channels, channel)
    if channel is None:
        return samples[:, 0]
    if channel == "mix":
        return samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    if channel == "sum":
        return samples.sum(axis=1, dtype=np.float64).astype(np.float32)
    return samples[:, int(channel)]


def require_channel(path: Path | str, n_channels: int, channel: str | None) -> None:
    """Raise AudioError when a file of several channels comes without a choice, or lacks the chosen one."""
    if channel is None and n_channels > 1:
        raise AudioError(
            f"{path} has {n_channels} channels: say which to take with --channel 0 (to {n_channels - 1}), "
            "or --channel mix for their mean"
        )
    if channel is not None and channel.isdecimal() and int(channel) >= n_channels:
        raise AudioError(f"{path} has no channel {channel}: it has {n_channels}, counted from 0")
