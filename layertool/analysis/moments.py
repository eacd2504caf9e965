"""Sufficient statistics: one pass over the data, then every fold, regularisation and score from sums.

For views x (n, d1) and y (n, d2) everything that CCA and its held-out scores need is in n, the sums, and
the products x'x, y'y, x'y. Moments of disjoint rows add up, so a train/dev/test split costs nothing once
the folds are there. All in float64, as NumPy arrays or, on a GPU, torch tensors: the same code for both. A
large common offset eats the digits of the products, so rows are taken relative to an origin near their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from array_api_compat import array_namespace

Array = Any  # a NumPy array or a torch tensor
ROUNDING = 1e-12  # of the variance of all rows, and its square of a squared mean: a variance below it is rounding


@dataclass(frozen=True)
class Moments:
    """n, sums and products of two views, taken relative to an origin.

    Shapes: sum_x, origin_x (d1,), sum_y, origin_y (d2,), xx (d1, d1), yy (d2, d2), xy (d1, d2). The origin is
    0 where none is given; moments that are added up must share it.
    """

    n: int
    sum_x: Array
    sum_y: Array
    xx: Array
    yy: Array
    xy: Array
    origin_x: Array | None = None
    origin_y: Array | None = None

    @classmethod
    def of(cls, x: Array, y: Array, origin_x: Array | None = None, origin_y: Array | None = None) -> Moments:
        """Moments of rows in memory: x (n, d1) and y (n, d2), in float64, with their origins already subtracted."""
        return cls(len(x), x.sum(0), y.sum(0), x.T @ x, y.T @ y, x.T @ y, origin_x, origin_y)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.n + other.n,
            self.sum_x + other.sum_x,
            self.sum_y + other.sum_y,
            self.xx + other.xx,
            self.yy + other.yy,
            self.xy + other.xy,
            self.origin_x,
            self.origin_y,
        )

    def __sub__(self, other: Moments) -> Moments:
        """The moments without those of some of their rows."""
        return Moments(
            self.n - other.n,
            self.sum_x - other.sum_x,
            self.sum_y - other.sum_y,
            self.xx - other.xx,
            self.yy - other.yy,
            self.xy - other.xy,
            self.origin_x,
            self.origin_y,
        )

    def scaled(self, by_x: Array, by_y: Array) -> Moments:
        """The moments of the same rows with every column multiplied by its factor: ``by_x`` (d1,), ``by_y`` (d2,)."""
        return Moments(
            self.n,
            self.sum_x * by_x,
            self.sum_y * by_y,
            self.xx * by_x[:, None] * by_x,
            self.yy * by_y[:, None] * by_y,
            self.xy * by_x[:, None] * by_y,
            None if self.origin_x is None else self.origin_x * by_x,
            None if self.origin_y is None else self.origin_y * by_y,
        )

    @cached_property
    def covariances(self) -> tuple[Array, Array, Array]:
        """Sample covariances (divided by n - 1): Sxx, Syy, Sxy."""
        scale = 1.0 / (self.n - 1)
        return (
            (self.xx - self.sum_x[:, None] * self.sum_x / self.n) * scale,
            (self.yy - self.sum_y[:, None] * self.sum_y / self.n) * scale,
            (self.xy - self.sum_x[:, None] * self.sum_y / self.n) * scale,
        )

    def means(self) -> tuple[Array, Array]:
        """Means of both views, (d1,) and (d2,), with the origins put back."""
        mean_x, mean_y = self.sum_x / self.n, self.sum_y / self.n
        return (
            mean_x if self.origin_x is None else mean_x + self.origin_x,
            mean_y if self.origin_y is None else mean_y + self.origin_y,
        )


def standard_scales(rows: Moments, whole: Moments) -> tuple[Array, Array]:
    """Factors (d1,), (d2,) that give every column of ``rows`` the variance 1 and a mean of 0 or more; 0 for a constant
    one.

    ``rows`` may be what is left of ``whole`` after subtraction: a variance within the rounding of that is none. Only
    scores that depend on means (legacy PWCCA) notice their signs.
    """
    xp = array_namespace(rows.sum_x)
    out = []
    for covariance, mean, of_all in zip(rows.covariances, rows.means(), (whole.xx, whole.yy), strict=False):
        variance = xp.linalg.diagonal(covariance)
        rounding = ROUNDING * (xp.linalg.diagonal(of_all) / whole.n + ROUNDING * mean * mean)
        varies = variance > rounding
        sign = xp.where(mean < 0, -1.0, 1.0)
        out.append(xp.where(varies, sign * xp.where(varies, variance, 1.0) ** -0.5, 0.0))
    return out[0], out[1]


def total(parts: Sequence[Moments]) -> Moments:
    """The moments of all rows of ``parts``."""
    return sum(parts[1:], parts[0])


def on_device(array: np.ndarray, device: str = "cpu") -> Array:
    """Rows in float64 where the products are to be computed: a NumPy array, or a torch tensor on a GPU."""
    if device == "cpu":
        return np.asarray(array, np.float64)
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(device).double()


class Relative:
    """Rows less their origin (d,), in float64. The memory of each block is that of the one before: use it first."""

    def __init__(self, origin: Array, device: str = "cpu"):
        self.origin, self.device = origin, device
        self._rows = np.empty((0, len(origin)))

    def __call__(self, block: np.ndarray) -> Array:
        """Rows (b, d) where the products are to be computed, valid until the next call."""
        if self.device != "cpu":
            return on_device(block, self.device) - self.origin
        if len(self._rows) < len(block):
            self._rows = np.empty(block.shape)
        return np.subtract(block, self.origin, out=self._rows[: len(block)], dtype=np.float64)


def to_numpy(array: Array) -> np.ndarray:
    """An array as NumPy holds it, brought back from a GPU where it was there."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def accumulate(sums: list[list], bounds: np.ndarray, views: Sequence[Array], terms: Callable[..., Sequence]) -> None:
    """Add to each group's sums the ``terms`` of its rows in all views: bounds[group] to bounds[group + 1]."""
    for of_group, (first, last) in zip(sums, pairwise(bounds.tolist()), strict=True):
        if not of_group:
            of_group.extend(terms(*(view[first:last] for view in views)))
        elif last > first:
            for place, term in enumerate(terms(*(view[first:last] for view in views))):
                of_group[place] += term


def _terms(x: Array, y: Array, c: Array) -> Sequence:
    return len(x), x.sum(0), y.sum(0), c.sum(0), x.T @ x, y.T @ y, x.T @ y, c.T @ c, x.T @ c


def fold_moments(
    folds: np.ndarray,
    n_folds: int,
    x: Iterable[np.ndarray],
    y: Iterable[np.ndarray],
    control: Iterable[np.ndarray],
    device: str = "cpu",
) -> tuple[list[Moments], list[Moments]]:
    """Moments of every fold of (x, y), and of (x, control), from blocks of rows; all three in blocks of equal lengths.

    ``folds``: fold of each row, (n,) integers below ``n_folds``. The control is what y is without its relation
    to x: the same rows in another order, or random vectors; it shares n and the products of x. Memory
    O(n_folds x width²), whatever the number of rows.
    """
    sums: list[list] = [[] for _ in range(n_folds)]
    relative: list[Relative] = []
    begin = 0
    for views in zip(x, y, control, strict=True):
        of_rows = folds[begin : begin + len(views[0])]
        begin += len(of_rows)
        order = np.argsort(of_rows, kind="stable")
        relative = relative or [Relative(on_device(view, device).mean(0), device) for view in views]
        rows = [less(view[order]) for less, view in zip(relative, views, strict=True)]
        accumulate(sums, np.searchsorted(of_rows[order], np.arange(n_folds + 1)), rows, _terms)
    ox, oy, oc = (less.origin for less in relative)
    plain = [Moments(n, sx, sy, xx, yy, xy, ox, oy) for n, sx, sy, _, xx, yy, xy, _, _ in sums]
    return plain, [Moments(n, sx, sc, xx, cc, xc, ox, oc) for n, sx, _, sc, xx, _, _, cc, xc in sums]
