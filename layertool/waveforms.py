"""Samples in memory: their mean and variance, and what models that want both plain are given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean and variance of a waveform."""

    mean: np.float64
    variance: np.float64


def moments(blocks: Iterable[np.ndarray]) -> Moments:
    """Mean and variance of a waveform that comes in blocks (Chan, Golub and LeVeque 1983, equation 2.1)."""
    n, mean, squares = 0, np.float64(0), np.float64(0)
    for block in blocks:
        if k := len(block):
            difference = block.mean(dtype=np.float64) - mean
            mean += difference * (k / (n + k))
            squares += k * block.var(dtype=np.float64) + difference**2 * (n * (k / (n + k)))
            n += k
    return Moments(mean, squares / max(n, 1))


def standardised(waveform: np.ndarray, epsilon: float, of: Moments | None = None) -> np.ndarray:
    """A waveform with zero mean and unit variance, float32. ``of``: of the whole of it, where it is a part.

    ``epsilon``: added to the variance.
    """
    mean, variance = of or (waveform.mean(dtype=np.float64), waveform.var(dtype=np.float64))
    return ((waveform - mean) / np.sqrt(variance + epsilon)).astype(np.float32)
