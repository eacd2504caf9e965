"""Sufficient statistics: one pass over the data, then every fold, regularisation and score from sums.

For views x (n, d1) and y (n, d2) everything that CCA, its held-out scores and linear CKA need is in
n, the sums, and the products x'x, y'y, x'y. Moments of disjoint rows add up, so a train/dev/test split
costs nothing once the folds are there. All in float64. A large common offset eats the digits of the products:
give rows from which something near their mean has been subtracted, the same for all moments that are added up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """n, sums and products of two views.

    Shapes: sum_x (d1,), sum_y (d2,), xx (d1, d1), yy (d2, d2), xy (d1, d2).
    """

    n: int
    sum_x: np.ndarray
    sum_y: np.ndarray
    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Moments:
        """Moments of rows that are in memory; x (n, d1) and y (n, d2) are taken as they are, unshifted."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return cls(len(x), x.sum(0), y.sum(0), x.T @ x, y.T @ y, x.T @ y)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.n + other.n,
            self.sum_x + other.sum_x,
            self.sum_y + other.sum_y,
            self.xx + other.xx,
            self.yy + other.yy,
            self.xy + other.xy,
        )

    def covariances(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sample covariances (divided by n - 1): Sxx, Syy, Sxy."""
        scale = 1.0 / (self.n - 1)
        return (
            (self.xx - np.outer(self.sum_x, self.sum_x) / self.n) * scale,
            (self.yy - np.outer(self.sum_y, self.sum_y) / self.n) * scale,
            (self.xy - np.outer(self.sum_x, self.sum_y) / self.n) * scale,
        )
