"""Products of centred views, from blocks of rows: what linear CKA, Procrustes and CCA matrices need.

Two passes: the mean of each view, then X'Y and the norms of rows about it. Sums are kept for each group of
rows, so that all of them without one group, recentred exactly, cost no further pass: the intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from layertool.analysis.moments import Array, Relative, on_device
from layertool.errors import UsageError

_CACHED_ROWS = 512  # small enough that what is computed of them stays in the processor's cache


class Centre:
    """First pass over one view: rows, width and mean, taken relative to the first row.

    The shift keeps the digits of views with a large offset, and makes constant columns exactly 0.
    """

    def __init__(self, name: str, device: str = "cpu"):
        self.name, self.device = name, device
        self.n = 0
        self.width = 0
        self._shift = self._sum = on_device(np.zeros(0), device)

    def add(self, block: np.ndarray) -> None:
        """Take in rows (b, d). UsageError for another width than before, or values that are not finite."""
        block = np.asarray(block)
        if block.ndim != 2 or (self.n and block.shape[1] != self.width):
            wanted = f"(rows, {self.width})" if self.n else "(rows, dimensions)"
            raise UsageError(f"{self.name}: a block has shape {block.shape}, expected {wanted}")
        if not np.isfinite(block).all():
            raise UsageError(
                f"{self.name} holds values that are not finite: leave those rows out or extract them again"
            )
        if not len(block):
            return
        rows = on_device(block, self.device)
        if not self.n:
            self.width = block.shape[1]
            self._shift, self._sum = rows[0] * 1.0, rows[0] * 0.0
        for first in range(0, len(rows), _CACHED_ROWS):
            self._sum = self._sum + (rows[first : first + _CACHED_ROWS] - self._shift).sum(0)
        self.n += len(block)

    def relative(self) -> Relative:
        """What gives rows (b, d) in float64, minus the mean of all rows of the first pass."""
        return Relative(self._shift + self._sum / self.n, self.device)


@dataclass(frozen=True)
class Products:
    """Centred views x and y of n rows: X'Y (d1, d2), and sums over rows of r = |x|², of s = |y|² and of r s."""

    n: int
    product: Array
    sum_r: float
    sum_s: float
    sum_rs: float

    @property
    def square(self) -> float:
        """|X'Y|², squared Frobenius norm."""
        return float((self.product * self.product).sum())


@dataclass(frozen=True)
class Block:
    """Centred rows (b, d) of one view, sorted by group, and their squared norms (b,) where they are wanted."""

    rows: Array
    norms: Array | None

    @classmethod
    def of(cls, rows: Array, with_norms: bool = True) -> Block:
        """Norms are taken once for all pairs that the view is in."""
        with np.errstate(over="ignore", invalid="ignore"):  # measures refuse what is not finite
            return cls(rows, array_namespace(rows).vecdot(rows, rows) if with_norms else None)


class Cross:
    """Second pass over two views: adds up ``Products`` of each group of rows.

    Memory O(groups x d1 x d2), whatever the number of rows. Without norms, their sums are NaN.
    """

    def __init__(self, n_groups: int = 1):
        self.n_groups = n_groups
        self._sums: list[list] = [[] for _ in range(n_groups)]

    def add(self, x: Block, y: Block, bounds: np.ndarray | None = None) -> None:
        """Take in a block of rows of x and of y, sorted by group; group g is rows bounds[g] to bounds[g + 1]."""
        bounds = np.array([0, len(x.rows)]) if bounds is None else bounds
        for group in range(self.n_groups):
            lo, hi = int(bounds[group]), int(bounds[group + 1])
            if hi > lo:
                self._add(self._sums[group], x, y, slice(lo, hi))

    def _add(self, sums: list, x: Block, y: Block, mine: slice) -> None:
        a, b = x.rows[mine], y.rows[mine]
        with np.errstate(over="ignore", invalid="ignore"):
            terms: list = [len(a), a.T @ b]
            if x.norms is not None and y.norms is not None:
                r, s = x.norms[mine], y.norms[mine]
                terms += [float(r.sum()), float(s.sum()), float(r @ s)]
            else:
                terms += [float("nan")] * 3
            if self.n_groups > 1:  # what recentring takes
                terms += [a.sum(0), b.sum(0)]
                terms += [s @ a, r @ b] if x.norms is not None and y.norms is not None else [0 * a[0], 0 * b[0]]
        if not sums:
            sums.extend(terms)
            return
        for place, term in enumerate(terms):
            sums[place] += term

    def whole(self) -> Products:
        """Of all rows, which are centred as they are."""
        n, product, r, s, rs, *_ = _total(self._sums)
        return Products(n, product, r, s, rs)

    def without(self, group: int) -> Products:
        """Of all rows but one group's, about their own mean."""
        rest = _total(self._sums)
        for place, term in enumerate(self._sums[group]):
            rest[place] = rest[place] - term
        n, product, r, s, rs, sum_x, sum_y, sx, ry = rest
        dx, dy = sum_x / n, sum_y / n
        xx, yy = float(dx @ dx), float(dy @ dy)
        # sum of (r - 2 x.dx + dx.dx) (s - 2 y.dy + dy.dy), multiplied out
        moved = (
            rs
            - 2 * float(dy @ ry)
            + yy * r
            - 2 * float(dx @ sx)
            + 4 * float(dx @ product @ dy)
            + xx * s
            - 3 * n * xx * yy
        )
        return Products(n, product - n * dx[:, None] * dy, r - n * xx, s - n * yy, moved)


def _total(sums: list[list]) -> list:
    filled = [part for part in sums if part]
    return [sum(terms[1:], terms[0]) for terms in zip(*filled, strict=True)]
