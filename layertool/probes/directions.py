"""Vectors that are compared by their angles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from layertool.errors import FeatureError


def directions(rows: np.ndarray, name: Callable[[int], str]) -> np.ndarray:
    """Rows (n, width) of length 1, in float64.

    Raises FeatureError for one of zeros or with values that are not finite; ``name``: what the error calls a row.
    """
    rows = np.asarray(rows, np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~np.isfinite(length[:, 0]) | (length[:, 0] == 0)
    if bad.any():
        raise FeatureError(
            f"{name(int(np.argmax(bad)))} has no direction (zeros, or not finite): leave it out with --where, or "
            "extract it again"
        )
    return rows / length
