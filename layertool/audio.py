"""Reading audio: one channel, one rate, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr

from layertool.audio_files import (
    UNKNOWN,
    AudioInfo,
    Header,
    blocks,
    check_length,
    check_scale,
    completed,
    header_of,
    resampled_length,
)
from layertool.errors import AudioError, UsageError
from layertool.geometry import SAMPLE_RATE

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf", ".sph"})
RESAMPLER = f"soxr {soxr.__version__} HQ"


def check_channel(channel: str | None) -> str | None:
    """Return ``channel`` if it is None, 'mix', 'sum' or a channel number; raise UsageError otherwise."""
    if channel is None or channel in ("mix", "sum") or channel.isdecimal():
        return channel
    raise UsageError(f"'{channel}' is no channel: give a number from 0, 'mix' (mean of all) or 'sum' (sum of all)")


def probe(path: Path | str) -> AudioInfo:
    """What a file holds: by its header, or by decoding it once where the header cannot be trusted with that.

    Decoded are compressed files, FLAC only where its length is not credible, and floats, for their scale. A second call
    does not decode again. Raises AudioError when the file is missing, not audio, empty, damaged, shorter than its
    header says, or not on the scale from -1 to 1.
    """
    return completed(Path(path), header_of(Path(path)))


def probe_all(paths: Iterable[str]) -> dict[str, AudioInfo | AudioError]:
    """``probe`` of many files, an error in place of what it prevents; threads decode what has to be."""
    headers = {path: _outcome(header_of, Path(path)) for path in paths}
    with ThreadPoolExecutor() as pool:
        futures = {
            path: pool.submit(_outcome, completed, Path(path), header)
            for path, header in headers.items()
            if isinstance(header, Header) and header.is_decoded
        }
        return {
            path: futures[path].result() if path in futures else getattr(header, "info", header)
            for path, header in headers.items()
        }


def _outcome(function: Callable, *arguments):
    try:
        return function(*arguments)
    except AudioError as error:
        return error


def cut(path: Path | str, info: AudioInfo, start: float | None, end: float | None) -> tuple[int, int]:
    """First and one-past-last frame, at the file's own rate, of an utterance given in seconds (None: the file's ends).

    Raises AudioError when they do not lie in the file (1 ms beyond its end passes).
    """
    given = zip((start, end), (0, info.n_frames), strict=True)
    first, stop = (
        usual if time is None else round(min(max(time * info.sample_rate, -1), UNKNOWN)) for time, usual in given
    )
    if not 0 <= first < stop or first >= info.n_frames or stop > info.n_frames + info.sample_rate // 1000:
        lasts = ":" if info.n_frames == UNKNOWN else f" lasts {info.n_frames / info.sample_rate:.3f} s, but"
        raise AudioError(
            f"{path}{lasts} an utterance is given as "
            f"{0 if start is None else start:g} to {'the end' if end is None else f'{end:g}'} s of it: correct start "
            "and end"
        )
    return first, min(stop, info.n_frames)


class Excerpt(NamedTuple):
    """The audio of one utterance: a file or a part of it, one channel.

    ``channel``: None for mono files, a number from 0, 'mix' (mean of the channels) or 'sum'. ``start``, ``end``:
    seconds inside the file; None for its ends. ``n_samples``: how many there were when a corpus was made of it, at the
    rate at which it is read.
    """

    path: Path | str
    channel: str | None = None
    start: float | None = None
    end: float | None = None
    n_samples: int | None = None

    def read(self, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
        """A float32 waveform of shape (n_samples,) at ``sample_rate`` Hz; other rates are resampled with soxr (HQ).

        Raises AudioError for whatever makes the samples unusable, and where there are not ``n_samples``.
        """
        return _joined(self.stream(sample_rate))

    def stream(self, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
        """The samples as ``read`` gives them, to the bit, in blocks: memory does not grow with their number.

        Whatever makes them unusable is raised at the latest behind the last block.
        """
        path, channel = Path(self.path), check_channel(self.channel)
        header = header_of(path)
        info = header.info
        first, stop = cut(path, info, self.start, self.end)
        resampler = None
        if info.sample_rate != sample_rate:
            resampler = soxr.ResampleStream(info.sample_rate, sample_rate, 1, dtype="float32", quality="HQ")
        found, is_finite, low, high = 0, True, np.inf, -np.inf
        for block in blocks(path, header, first, stop):
            mono = np.ascontiguousarray(_one_channel(block, channel, path))
            found += len(mono)
            is_finite = is_finite and bool(np.isfinite(mono).all())
            low, high = mono.min(initial=low), mono.max(initial=high)
            yield resampler.resample_chunk(mono) if resampler else mono
        if info.n_frames == UNKNOWN and found < stop - first:  # this is where it ends
            known = replace(info, n_frames=first + found) if found else completed(path, header)
            first, stop = cut(path, known, self.start, self.end)
        check_length(path, stop - first, found)
        if not is_finite:
            raise AudioError(f"{path} has samples that are not finite (NaN or infinite): write the file anew")
        check_scale(path, (low, high))
        n = resampled_length(found, info.sample_rate, sample_rate)
        if self.n_samples not in (None, n):
            raise AudioError(
                f"{path} gives {n} samples, {self.n_samples} were there when the corpus was made: make the corpus again"
            )
        if resampler:
            yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def read(path: Path | str, sample_rate: int, **part: Any) -> np.ndarray:
    """``Excerpt.read`` of a file, or of the ``part`` that the fields of an excerpt name."""
    return Excerpt(path, **part).read(sample_rate)


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Blocks of samples as one array, with no second copy of it in memory, and no memory for what is only promised."""
    parts = iter(parts)
    samples = next(parts, np.empty(0, np.float32))  # of most utterances all of it
    n = len(samples)
    for block in parts:
        if not samples.flags.owndata:
            samples = samples.copy()
        if n + len(block) > len(samples):
            samples.resize(max(n + len(block), n + n // 4), refcheck=False)
        samples[n : n + len(block)] = block
        n += len(block)
    if n < len(samples):
        samples.resize(n, refcheck=False)
    return samples


def read_utterance(row: Any, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read the audio of one row of a corpus's utterances. Errors as ``Excerpt.read``."""
    known = (None if (value := row[name]) is None or value != value else value for name in ("channel", "start", "end"))
    return Excerpt(row["audio"], *known).read(sample_rate)


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
