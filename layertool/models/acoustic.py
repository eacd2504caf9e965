"""Acoustic features: spectrograms, mel filterbanks and cepstra, exactly as named toolkits compute them.

"MFCC" means something else in every toolkit, and papers seldom say which. A preset is one exact
meaning, named ``FEATURE`` or ``FEATURE:VARIANT``; a plain ``FEATURE`` is what s3prl gives, without its
normalisation (spec speat.md 2). Nothing here is random: Kaldi's dither is off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from scipy.fft import dct

from layertool.errors import AudioError, UsageError
from layertool.geometry import FRAME_FIELD, FRAME_HOP, SAMPLE_RATE, FrameGeometry

BLOCK_FRAMES = 4096  # frames transformed at once: tens of megabytes, however long the audio
KALDI_GEOMETRY = FrameGeometry(FRAME_HOP, FRAME_FIELD)  # 25 ms every 10 ms, only where the whole window is audio
KALDI_FFT = 512
PREEMPHASIS = 0.97
S3PRL_FLOOR = 1e-10  # s3prl adds it to spectra before the logarithm and to deviations before dividing
TOP_DB = 80.0  # decibels kept below the loudest value

Compute = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Preset:
    """One exact definition of an acoustic feature.

    ``layer``: its layer name in a store. ``width``: numbers per frame. ``geometry``: where the windows
    lie (deltas see two more frames on each side, per order). ``compute``: float32 waveform (n_samples,),
    at least ``min_samples`` long, to float32 (geometry.n_frames(n_samples), width). ``is_local``: no frame depends on
    audio that is far from it, such as the loudest of the utterance.
    """

    name: str
    layer: str
    width: int
    geometry: FrameGeometry
    description: str
    compute: Compute
    is_local: bool

    @property
    def min_samples(self) -> int:
        """Samples without which there is no frame: a whole window, or what reflecting half of one takes."""
        return self.geometry.field // 2 + 1 if self.geometry.centred else self.geometry.field


def preset(name: str) -> Preset:
    """The preset called ``FEATURE`` or ``FEATURE:VARIANT``; UsageError naming the known ones if there is none."""
    if name in PRESETS:
        return PRESETS[name]
    layer = name.partition(":")[0]
    variants = [known for known in PRESETS if PRESETS[known].layer == layer]
    if variants:
        raise UsageError(f"'{name}' is no variant of {layer}: choose one of {', '.join(variants)}")
    raise UsageError(f"'{name}' is no acoustic feature: choose one of {', '.join(PRESETS)}")


def features(name: str, waveform: np.ndarray, cmvn: bool = False) -> np.ndarray:
    """Acoustic features of one utterance, float32 of shape (frames, width).

    ``name``: a preset (``PRESETS``). ``waveform``: 16 kHz mono, floating point in [-1, 1], finite,
    shape (n_samples,). ``cmvn``: normalise every dimension over the utterance, see ``normalise``; the
    mean over time is then zero by construction, so that pooled features are rounding noise.
    Raises UsageError for an unknown name, AudioError for audio that is too short or no such waveform.
    """
    chosen = preset(name)
    values = chosen.compute(checked(name, waveform, chosen.min_samples))
    return normalise(values) if cmvn else values


def checked(name: str, waveform: np.ndarray, needed: int) -> np.ndarray:
    """A waveform as float32; AudioError for what is none, or has fewer than the ``needed`` samples of what has this
    name.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise AudioError(f"{name} needs one channel, shape (n_samples,), but the waveform has shape {waveform.shape}")
    if not np.issubdtype(waveform.dtype, np.floating):
        raise AudioError(f"{name} needs floating-point samples in [-1, 1], not {waveform.dtype}: divide by full scale")
    if len(waveform) < needed:
        raise AudioError(
            f"{name} needs at least {needed} samples at 16 kHz ({1000 * needed / SAMPLE_RATE:g} ms), but the audio "
            f"has {len(waveform)}: leave the utterance out or lengthen it"
        )
    return np.ascontiguousarray(waveform, dtype=np.float32)


def normalise(values: np.ndarray) -> np.ndarray:
    """Mean and variance normalisation over the frames of one utterance, float32 (frames, width).

    (x - mean) / (1e-10 + standard deviation), the deviation with n - 1 in the denominator (s3prl's
    CMVN). A dimension that is constant becomes 0. Raises AudioError for a single frame, which has no
    deviation.
    """
    n_frames = len(values)
    if n_frames < 2:
        raise AudioError(
            "CMVN needs at least 2 frames, but the audio has 1: leave the utterance out or do without CMVN"
        )
    # Relative to the first frame a constant dimension sums to exactly 0, not to rounding that 1e-10 would blow up.
    origin = values[0].astype(np.float64)
    mean = sum((values[block] - origin).sum(axis=0) for block in _blocks(n_frames)) / n_frames
    squares = sum(np.square(values[block] - origin - mean).sum(axis=0) for block in _blocks(n_frames))
    scale = S3PRL_FLOOR + np.sqrt(squares / (n_frames - 1))
    normalised = np.empty(values.shape, np.float32)
    for block in _blocks(n_frames):
        normalised[block] = (values[block] - origin - mean) / scale
    return normalised


def deltas(values: np.ndarray) -> np.ndarray:
    """Rate of change per frame, (frames, width) like its input: least-squares slope over 5 frames.

    sum_k k x[t+k] / sum_k k^2 with k = -2..2, first and last frame repeated beyond the ends
    (torchaudio's ``compute_deltas``, win_length 5, replicate).
    """
    padded = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    return (2 * (padded[4:] - padded[:-4]) + (padded[3:-1] - padded[1:-3])) / 10


@lru_cache
def mel_filterbank(n_mels: int, n_fft: int, scale: str, low_hz: float, high_hz: float) -> np.ndarray:
    """Triangular mel filters on the bins of a real FFT at 16 kHz, float64 (n_fft // 2 + 1, n_mels), read-only.

    ``scale``: 'htk', 2595 log10(1 + f/700), peaks of height 1 (torchaudio's default); or 'slaney',
    linear below 1 kHz and logarithmic above, area 1 in hertz (librosa's default). Triangles are linear
    in hertz. A filter narrower than the distance of two bins can miss them all and then stays 0, as do
    numbers 0, 3, 6 and 13 of torchaudio's 128 on 400 points.
    """
    to_mel, to_hertz = _MEL_SCALES[scale]
    edges = to_hertz(np.linspace(to_mel(low_hz), to_mel(high_hz), n_mels + 2))
    bins = np.linspace(0, SAMPLE_RATE / 2, n_fft // 2 + 1)[:, np.newaxis]
    left, peak, right = edges[:-2], edges[1:-1], edges[2:]
    filters = np.maximum(0, np.minimum((bins - left) / (peak - left), (right - bins) / (right - peak)))
    if scale == "slaney":
        filters *= 2 / (right - left)
    filters.setflags(write=False)
    return filters


def _htk_mel(hertz):
    return 2595 * np.log10(1 + hertz / 700)


def _htk_hertz(mel):
    return 700 * (10 ** (mel / 2595) - 1)


_SLANEY_LINEAR = 200 / 3  # hertz per mel, below 1000 Hz, which is 15 mel
_SLANEY_LOG = np.log(6.4) / 27  # log-frequency per mel, above


def _slaney_mel(hertz):
    return np.where(hertz < 1000, hertz / _SLANEY_LINEAR, 15 + np.log(np.maximum(hertz, 1000) / 1000) / _SLANEY_LOG)


def _slaney_hertz(mel):
    return np.where(mel < 15, mel * _SLANEY_LINEAR, 1000 * np.exp((mel - 15) * _SLANEY_LOG))


_MEL_SCALES = {"htk": (_htk_mel, _htk_hertz), "slaney": (_slaney_mel, _slaney_hertz)}


def _blocks(n_frames: int) -> Iterator[slice]:
    for first in range(0, n_frames, BLOCK_FRAMES):
        yield slice(first, min(first + BLOCK_FRAMES, n_frames))


def _framewise(read, rows, n_frames: int, field: int, hop: int, width: int) -> np.ndarray:
    """Features that depend on one frame each, computed in blocks.

    ``read``: samples [start, stop) of the (padded) waveform. ``rows``: frames (block, field), a
    read-only view on these samples, to features (block, width).
    """
    values = np.empty((n_frames, width), np.float32)
    for block in _blocks(n_frames):
        samples = read(block.start * hop, (block.stop - 1) * hop + field)
        values[block] = rows(np.lib.stride_tricks.sliding_window_view(samples, field)[::hop])
    return values


def _hann(length: int) -> np.ndarray:
    """Periodic Hann window, as of every short-time Fourier transform here."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def _power(frames: np.ndarray, window: np.ndarray, n_fft: int) -> np.ndarray:
    """Power spectrum of each frame, (frames, n_fft // 2 + 1)."""
    spectrum = np.fft.rfft(frames * window, n_fft)
    return np.square(spectrum.real) + np.square(spectrum.imag)


def _centred(waveform: np.ndarray, length: int, hop: int, width: int, finish) -> np.ndarray:
    """``finish`` of the power spectra around every multiple of ``hop``, the waveform reflected at its ends."""
    padded = np.pad(waveform, length // 2, mode="reflect")
    return _framewise(
        lambda start, stop: padded[start:stop].astype(np.float64),
        lambda frames: finish(_power(frames, _hann(length), length)),
        1 + len(waveform) // hop,
        length,
        hop,
        width,
    )


def _stft(waveform: np.ndarray, log: bool) -> np.ndarray:
    def finish(power):
        magnitude = np.sqrt(power)
        return np.log(np.maximum(magnitude, 1e-8)) if log else magnitude

    return _centred(waveform, 512, 320, 257, finish)


def _energies(waveform: np.ndarray, hop: int, n_mels: int | None, log: bool) -> np.ndarray:
    """Power of 25 ms every ``hop`` samples: of 201 bins, or of mels."""

    def finish(power):
        energy = power if n_mels is None else power @ mel_filterbank(n_mels, 400, "htk", 0, SAMPLE_RATE / 2)
        return np.log(energy + S3PRL_FLOOR) if log else energy

    return _centred(waveform, 400, hop, n_mels or 201, finish)


def _mfcc_torchaudio(waveform: np.ndarray) -> np.ndarray:
    energy = _energies(waveform, 200, 128, log=False)
    decibels = 10 * np.log10(np.maximum(energy, 1e-10))
    np.maximum(decibels, decibels.max() - TOP_DB, out=decibels)
    cepstra = np.empty((len(decibels), 40), np.float32)
    for block in _blocks(len(decibels)):
        cepstra[block] = dct(decibels[block].astype(np.float64), norm="ortho", axis=1)[:, :40]
    return cepstra


def _mel_pasad(waveform: np.ndarray, geometry: FrameGeometry) -> np.ndarray:
    """Filterbank of Pasad et al. (layerwise.md 3.5); zeros beyond the ends of the audio (librosa 0.9.1)."""
    peak = float(np.abs(waveform).max())
    gain = 0.999 / peak if peak > 0 else 1.0

    def emphasised(start, stop):
        start, stop = start + geometry.offset, stop + geometry.offset
        low, high = max(start, 0), min(stop, len(waveform))
        # a block's first sample lacks its predecessor, but begins a frame, where the window is 0
        audio = gain * waveform[low:high].astype(np.float64)
        audio[1:] -= PREEMPHASIS * audio[:-1]
        samples = np.zeros(stop - start)
        samples[low - start : high - start] = audio
        return samples

    def rows(frames):
        magnitude = np.sqrt(_power(frames, _hann(geometry.field), 2048)) @ mel_filterbank(80, 2048, "slaney", 50, 8000)
        return 20 * np.log10(np.maximum(magnitude, 1e-5))

    n_frames = geometry.n_frames(len(waveform))
    decibels = _framewise(emphasised, rows, n_frames, geometry.field, geometry.hop, 80)
    np.maximum(decibels, decibels.max() - TOP_DB, out=decibels)
    decibels /= TOP_DB
    decibels += 1
    return decibels


def _kaldi_spectrogram(waveform: np.ndarray) -> np.ndarray:
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(FRAME_FIELD) / (FRAME_FIELD - 1)))) ** 0.85

    def rows(frames):
        frames = frames - frames.mean(axis=1, keepdims=True)
        previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        power = _power(frames - PREEMPHASIS * previous, povey, KALDI_FFT)
        # torchaudio's floor of bin 0 is 1, which s3prl leaves as it is: log energy 0 in quiet frames
        power[:, 0] = np.maximum(np.square(frames).sum(axis=1), 1.0)
        return np.log(np.maximum(power, float(np.finfo(np.float32).eps)))  # Kaldi's floor of energies

    return _framewise(
        lambda start, stop: waveform[start:stop].astype(np.float64),
        rows,
        KALDI_GEOMETRY.n_frames(len(waveform)),
        FRAME_FIELD,
        FRAME_HOP,
        KALDI_FFT // 2 + 1,
    )


def fbank(waveform: np.ndarray, n_mels: int, window: str = "povey") -> np.ndarray:
    """Log mel energies of kaldi-native-fbank, 25 ms every 10 ms, without dither: float32 (frames, n_mels).

    Frames: 1 + (n_samples - 400) // 160, none below 400 samples. ``window``: Kaldi's name of it.
    """
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = n_mels
    return _of_kaldi(waveform, options, kaldi_native_fbank.OnlineFbank, n_mels)


def _mfcc_kaldi(waveform: np.ndarray) -> np.ndarray:
    """13 cepstra of 23 mels, without energy, on the frames of ``fbank``."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.MfccOptions()
    options.mel_opts.num_bins = 23
    options.num_ceps = 13
    options.use_energy = False
    return _of_kaldi(waveform, options, kaldi_native_fbank.OnlineMfcc, 13)


def _of_kaldi(waveform: np.ndarray, options: Any, extractor: Any, width: int) -> np.ndarray:
    options.frame_opts.dither = 0
    values = np.empty((KALDI_GEOMETRY.n_frames(len(waveform)), width), np.float32)
    for block in _blocks(len(values)):
        online = extractor(options)
        samples = waveform[block.start * FRAME_HOP : (block.stop - 1) * FRAME_HOP + FRAME_FIELD]
        online.accept_waveform(SAMPLE_RATE, samples)
        values[block] = [online.get_frame(k) for k in range(block.stop - block.start)]
    return values


def _with_deltas(waveform: np.ndarray, compute: Compute) -> np.ndarray:
    """Features with their first and second deltas, which need the whole utterance."""
    features = compute(waveform)
    width = features.shape[1]
    values = np.empty((len(features), 3 * width), np.float32)
    values[:, :width] = features
    for k in (width, 2 * width):
        values[:, k : k + width] = deltas(values[:, k - width : k])
    return values


def melhubert_energies(waveform: np.ndarray) -> np.ndarray:
    """Those of MelHuBERT, float32 (frames, 40), whose filterbank sees samples as 16-bit audio has them."""
    return fbank(2**15 * waveform, 40, "hamming")


def _centred_geometry(length: int, hop: int) -> FrameGeometry:
    return FrameGeometry(hop, length, -(length // 2), centred=True, extra_frame=True)


_STFT = _centred_geometry(512, 320)
_SPECTRUM = _centred_geometry(400, 160)
_TORCHAUDIO = _centred_geometry(400, 200)

_DESCRIPTIONS = {
    "stft": "magnitude of the short-time Fourier transform, 32 ms Hann window every 20 ms, centred (s3prl stft_mag)",
    "stft:log": "natural logarithm of stft, floored at 1e-8 (s3prl log_stft)",
    "spectrogram": "Kaldi log power spectrogram, 25 ms Povey window every 10 ms, "
    "bin 0 the log energy, at least 0 (s3prl spectrogram)",
    "spectrogram:linear": "log power spectrogram, 25 ms Hann window every 10 ms, centred (s3prl linear)",
    "spectrogram:torchaudio": "power spectrogram, 25 ms Hann window every 12.5 ms, centred (torchaudio Spectrogram)",
    "mel": "80 log HTK mel energies, 25 ms Hann window every 10 ms, centred (s3prl mel)",
    "mel:torchaudio": "128 HTK mel energies, 25 ms Hann window every 12.5 ms, centred (torchaudio MelSpectrogram)",
    "mel:pasad": "80 Slaney mels in decibels of Pasad et al., on the frames of convolution layers (not centred)",
    "mel:pasad-centred": "mel:pasad as published: centred, so 12.5 ms earlier than the layers it is compared with",
    "fbank": "Kaldi 80 log mel energies, 25 ms Povey window every 10 ms, first and second deltas (s3prl fbank)",
    "fbank:static": "fbank without deltas",
    "fbank:melhubert": "Kaldi 40 log mel energies, Hamming window, 16-bit scale: "
    "MelHuBERT's input before its statistics",
    "mfcc": "Kaldi 13 cepstra of 23 mels, 25 ms Povey window every 10 ms, first and second deltas (s3prl mfcc)",
    "mfcc:static": "mfcc without deltas",
    "mfcc:torchaudio": "40 cepstra of 128 HTK mels in decibels, 25 ms Hann window every 12.5 ms, "
    "centred (torchaudio MFCC)",
}

PRESETS: dict[str, Preset] = {
    name: Preset(
        name,
        name.partition(":")[0],
        width,
        geometry,
        _DESCRIPTIONS[name],
        compute,
        is_local=name not in ("mel:pasad", "mel:pasad-centred", "mfcc:torchaudio"),
    )
    for name, width, geometry, compute in (
        ("stft", 257, _STFT, partial(_stft, log=False)),
        ("stft:log", 257, _STFT, partial(_stft, log=True)),
        ("spectrogram", 257, KALDI_GEOMETRY, _kaldi_spectrogram),
        ("spectrogram:linear", 201, _SPECTRUM, partial(_energies, hop=160, n_mels=None, log=True)),
        ("spectrogram:torchaudio", 201, _TORCHAUDIO, partial(_energies, hop=200, n_mels=None, log=False)),
        ("mel", 80, _SPECTRUM, partial(_energies, hop=160, n_mels=80, log=True)),
        ("mel:torchaudio", 128, _TORCHAUDIO, partial(_energies, hop=200, n_mels=128, log=False)),
        ("mel:pasad", 80, KALDI_GEOMETRY, partial(_mel_pasad, geometry=KALDI_GEOMETRY)),
        ("mel:pasad-centred", 80, _SPECTRUM, partial(_mel_pasad, geometry=_SPECTRUM)),
        ("fbank", 240, KALDI_GEOMETRY, partial(_with_deltas, compute=partial(fbank, n_mels=80))),
        ("fbank:static", 80, KALDI_GEOMETRY, partial(fbank, n_mels=80)),
        ("fbank:melhubert", 40, KALDI_GEOMETRY, melhubert_energies),
        ("mfcc", 39, KALDI_GEOMETRY, partial(_with_deltas, compute=_mfcc_kaldi)),
        ("mfcc:static", 13, KALDI_GEOMETRY, _mfcc_kaldi),
        ("mfcc:torchaudio", 40, _TORCHAUDIO, _mfcc_torchaudio),
    )
}
