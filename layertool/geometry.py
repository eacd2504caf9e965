"""Samples, frames and seconds.

Every position is an integer number of samples at 16 kHz. Seconds exist only where a person or a
file gives or reads them: on the usual 10 ms grid, ``floor(t / 0.02)`` in binary floating point is
off by one for 321 of the first 4000 times, the integer form never is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from layertool.errors import UsageError

SAMPLE_RATE = 16_000  # Hz, of every model here
MODEL_HOP = 320  # samples: 20 ms, one frame of wav2vec 2.0, HuBERT, WavLM and Whisper
FRAME_HOP = 160  # samples: 10 ms, one frame of an acoustic feature
FRAME_FIELD = 400  # samples: 25 ms, the window of an acoustic frame and the field of a wav2vec 2.0 frame

# How far a segment may reach beyond its audio before it is an error rather than rounding: one frame.
END_TOLERANCE = MODEL_HOP


def seconds_to_samples(seconds):
    """Seconds (scalar or array) to the nearest integer sample at 16 kHz."""
    return np.rint(np.asarray(seconds, dtype=np.float64) * SAMPLE_RATE).astype(np.int64)


def samples_to_seconds(samples):
    """Samples at 16 kHz (scalar or array) to seconds."""
    return np.asarray(samples, dtype=np.float64) / SAMPLE_RATE


@dataclass(frozen=True)
class FrameGeometry:
    """Where the frames of one layer lie: frame i sees samples [i*hop + offset, i*hop + offset + field).

    ``centred`` frames (Whisper, centre-padded spectrograms) start before the first sample, and there
    is one for every hop that is begun; the others exist only where their whole field is audio.
    """

    hop: int
    field: int
    offset: int = 0
    centred: bool = False
    extra_frame: bool = False  # centre-padded short-time Fourier transforms give 1 + n // hop frames
    always: int | None = None  # so many frames whatever the length: Whisper's 30 s with their padding
    least: int | None = None  # samples that suffice for a frame, where the last may reach beyond the audio (MelHuBERT)

    def n_frames(self, n_samples: int) -> int:
        """Number of frames that ``n_samples`` of audio give (0 when they are fewer than the field)."""
        if self.always is not None:
            return self.always
        if self.extra_frame:
            return 1 + n_samples // self.hop
        if self.centred:
            return -(-n_samples // self.hop)
        return max(0, (n_samples - (self.least or self.field)) // self.hop + 1)

    def spans(self, n_frames: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """First and one-past-last sample seen by each of ``n_frames`` frames, from frame ``first`` on."""
        start = (np.arange(first, first + n_frames, dtype=np.int64)) * self.hop + self.offset
        return start, start + self.field

    def to_json(self) -> dict:
        return asdict(self)


def convolution_geometry(kernels, strides) -> list[FrameGeometry]:
    """Geometry after each of a stack of unpadded convolutions on the waveform.

    For wav2vec 2.0 (kernels 10,3,3,3,3,2,2; strides 5,2,2,2,2,2,2) the last has hop 320 and field 400.
    """
    geometries, hop, field = [], 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
        geometries.append(FrameGeometry(hop, field))
    return geometries


def moving_average(geometry: FrameGeometry) -> tuple[int, int] | None:
    """Kernel and stride (in frames) that bring a fast convolution layer to 10 ms frames of 25 ms.

    Uniform average, without padding: kernel (400 - field)/hop + 1, stride 160/hop; C1 to C6 of
    wav2vec 2.0 then share floor((n - 400)/160) + 1 frames with a filterbank (Pasad et al. 2021;
    spec 3.5). None when the layer is no faster than 10 ms or the numbers do not divide.
    """
    if geometry.centred or geometry.extra_frame or geometry.hop > FRAME_HOP or geometry.field >= FRAME_FIELD:
        return None
    kernel, left = divmod(FRAME_FIELD - geometry.field, geometry.hop)
    stride, rest = divmod(FRAME_HOP, geometry.hop)
    return None if left or rest else (kernel + 1, stride)


_POOLING = re.compile(r"(mean|min|max|centre-third|position@(0(?:\.\d+)?|1(?:\.0+)?)|quarter([1-4]))")


@dataclass(frozen=True)
class Pooling:
    """How the frames of one segment become one row.

    ``mean``, ``min``, ``max``: of all frames, for each dimension. ``centre-third``: the frames left after cutting
    floor((L+1)/3) at each end (Pasad et al., phones). ``position@Q``: the single frame floor(Q*L) of L, the last for
    Q=1. ``quarter1`` to ``quarter4``: the mean of one of four equal parts.
    """

    name: str

    def __post_init__(self):
        if not _POOLING.fullmatch(self.name):
            raise UsageError(
                f"'{self.name}' is no pooling: choose mean, min, max, centre-third, position@Q with Q from 0 to 1 "
                "(position@0.5 is the middle frame), or quarter1 to quarter4"
            )

    @property
    def reduction(self) -> str:
        """What is made of the frames: ``mean``, ``min`` or ``max``."""
        return self.name if self.name in ("min", "max") else "mean"

    def frames(self, start, end, hop: int, n_frames) -> tuple[np.ndarray, np.ndarray]:
        """Frames [lo, hi) of segments given in samples, at least one each, all inside [0, n_frames).

        start, end: integer samples, shape (n,). ``n_frames``: frames of the whole utterance, scalar
        or shape (n,), at least 1. floor(start/hop) and ceil(end/hop), then the trimming of the
        pooling mode, then the clamp to the audio: the order of spec 1.5.
        """
        lo = np.asarray(start, dtype=np.int64) // hop
        hi = -(-np.asarray(end, dtype=np.int64) // hop)
        length = hi - lo
        if self.name == "centre-third":
            trim = (length + 1) // 3
            lo, hi = lo + trim, hi - trim
        elif self.name.startswith("position@"):
            # position 0.5 of a segment cut at the end of the file means half of what is there
            lo = np.minimum(lo, np.asarray(n_frames) - 1)
            length = np.maximum(np.minimum(hi, n_frames) - lo, 1)
            quantile = Fraction(self.name.split("@")[1])  # 0.29 of 100 frames is 28.999... in binary
            lo = lo + np.minimum(quantile.numerator * length // quantile.denominator, length - 1)
            hi = lo + 1
        elif self.name.startswith("quarter"):
            k = int(self.name[-1])
            lo, hi = lo + (k - 1) * length // 4, lo + k * length // 4
        hi = np.maximum(hi, lo + 1)
        hi = np.minimum(hi, n_frames)
        lo = np.minimum(lo, hi - 1)
        return lo, hi


DEFAULT_POOLING = {"phone": "centre-third", "word": "mean", "utterance": "mean"}


@dataclass(frozen=True)
class Window:
    """A stretch of a long utterance: the model sees [start, end), frames of [keep_start, keep_end) are kept."""

    start: int
    end: int
    keep_start: int
    keep_end: int


WINDOW_GRID = 2 * MODEL_HOP  # samples: windows start and are cut at multiples of it, where all hops divide it


def window_grid(hops: Iterable[int]) -> int:
    """Samples between the places where windows may start: a multiple of every hop, at least ``WINDOW_GRID``."""
    together = math.lcm(*hops)
    return together * -(-WINDOW_GRID // together)


def windows(n_samples: int, length: int, overlap: int, grid: int = WINDOW_GRID) -> list[Window]:
    """Overlapping windows over an utterance, cut in the middle of each overlap.

    ``length`` and ``overlap`` in samples; ``overlap`` is what two neighbours share. Windows start and are cut at
    multiples of ``grid`` samples (``window_grid``), so that every layer has a whole frame there. An
    utterance of up to ``length`` samples is one window: nothing is cut. The last window is moved
    back so that it is as long as the others, or less than a cut's grid shorter: never longer,
    because some models can take no more. Raises UsageError where windows leave no step of the grid.
    """
    if n_samples <= length:
        return [Window(0, n_samples, 0, n_samples)]
    asked, length = length, length - length % grid
    step = length - overlap
    step -= step % grid
    if step <= 0:
        remedy = "at least twice the overlap, or --overlap-seconds smaller"
        if grid > WINDOW_GRID:
            least = (-(-overlap // grid) + 1) * grid / SAMPLE_RATE
            remedy = (
                f"at least {math.ceil(least)}, as the layers asked have whole frames together only every "
                f"{grid / SAMPLE_RATE:g} s, or ask for fewer layers at a time"
            )
        raise UsageError(
            f"windows of {(length or asked) / SAMPLE_RATE:g} s cannot overlap by {overlap / SAMPLE_RATE:g} s: "
            f"make --window-seconds {remedy}"
        )
    starts = [k * step for k in range(math.ceil((n_samples - length) / step))]
    starts.append(-(-(n_samples - length) // grid) * grid)
    cuts = [0]
    for left, right in pairwise(starts):
        middle = (right + left + length) // 2
        cuts.append(middle - middle % grid)
    cuts.append(n_samples)
    return [
        Window(start, min(start + length, n_samples) if k + 1 < len(starts) else n_samples, cuts[k], cuts[k + 1])
        for k, start in enumerate(starts)
    ]


def kept_frames(geometry: FrameGeometry, window: Window, n_samples: int) -> tuple[int, int]:
    """Frames [first, last) of the utterance that are taken from a window; cuts lie on whole hops."""
    last = geometry.n_frames(n_samples) if window.keep_end == n_samples else window.keep_end // geometry.hop
    return window.keep_start // geometry.hop, last


def sees_beyond(geometry: FrameGeometry, window: Window, n_samples: int) -> bool:
    """Whether a frame that is kept of a window would see audio before or behind it, or is not among its frames."""
    first, last = kept_frames(geometry, window, n_samples)
    if geometry.always is not None or last <= first:
        return False
    start, end = first * geometry.hop + geometry.offset, (last - 1) * geometry.hop + geometry.offset + geometry.field
    is_lacking = last - window.start // geometry.hop > geometry.n_frames(window.end - window.start)
    return is_lacking or (window.start > 0 and start < window.start) or (window.end < n_samples and end > window.end)
