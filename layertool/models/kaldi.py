"""Kaldi's mel energies and cepstra, by kaldi-native-fbank, in blocks of frames: memory does not grow with the audio.

The library is imported when features are computed, or asked for its version.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from layertool.geometry import FRAME_FIELD, FRAME_HOP, SAMPLE_RATE, FrameGeometry

GEOMETRY = FrameGeometry(FRAME_HOP, FRAME_FIELD)  # 25 ms every 10 ms, only where the whole window is audio
_BLOCK_FRAMES = 4096


def version() -> str:
    """Of kaldi-native-fbank: a part of what identifies acoustic features."""
    import kaldi_native_fbank

    return kaldi_native_fbank.__version__


def fbank(waveform: np.ndarray, n_mels: int, window: str = "povey") -> np.ndarray:
    """Log mel energies of 25 ms every 10 ms, without dither: float32 (n_samples,) -> float32 (frames, n_mels).

    Frames: 1 + (n_samples - 400) // 160, none below 400 samples. ``window``: Kaldi's name of it.
    """
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = n_mels
    return _framewise(waveform, options, kaldi_native_fbank.OnlineFbank, n_mels)


def mfcc(waveform: np.ndarray) -> np.ndarray:
    """13 cepstra of 23 mels, without energy, on the same frames: float32 (n_samples,) -> float32 (frames, 13)."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.MfccOptions()
    options.mel_opts.num_bins = 23
    options.num_ceps = 13
    options.use_energy = False
    return _framewise(waveform, options, kaldi_native_fbank.OnlineMfcc, 13)


def _framewise(waveform: np.ndarray, options: Any, extractor: Any, width: int) -> np.ndarray:
    options.frame_opts.dither = 0
    n_frames = GEOMETRY.n_frames(len(waveform))
    values = np.empty((n_frames, width), np.float32)
    for first in range(0, n_frames, _BLOCK_FRAMES):
        last = min(first + _BLOCK_FRAMES, n_frames)
        online = extractor(options)
        online.accept_waveform(SAMPLE_RATE, waveform[first * FRAME_HOP : (last - 1) * FRAME_HOP + FRAME_FIELD])
        values[first:last] = [online.get_frame(k) for k in range(last - first)]
    return values
