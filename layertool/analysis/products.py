"""Products of centred views, from blocks of rows: what linear CKA, Procrustes and CCA matrices need.

Two passes: the mean of each view, then X'Y and the norms of rows about it. Sums are kept for each group of
rows, so that all of them without one group, recentred exactly, cost no further pass: the intervals.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from layertool.analysis.moments import Array, Relative, accumulate, on_device
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
        check_finite(block, self.name)
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


def centred(rows: np.ndarray, name: str) -> np.ndarray:
    """Rows (n, d) of a view in memory, in float64, minus their mean."""
    centre = Centre(name)
    centre.add(rows)
    return centre.relative()(rows)


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


class Measure(ABC):
    """A similarity of two views that their products decide: what ``matrix.fill`` fills matrices with.

    ``needs_control``: for its chance level, y without its relation to x.
    """

    needs_control: bool = False

    @abstractmethod
    def check(self, n: int) -> None:
        """Raise UsageError for too few rows, or what is no such measure."""

    @abstractmethod
    def own(self, view: Products, name: str, whole: Products) -> Any:
        """What it makes of a view's products with itself, of ``whole`` or of a part of its rows; UsageError, with the
        ``name``, where that is undefined."""

    @abstractmethod
    def value(self, pair: Products, own_x: Any, own_y: Any) -> float:
        """The similarity of two views."""

    def directions(self, own_x: Any, own_y: Any) -> int:
        """How many two views are compared in; 0: as wholes."""
        return 0

    def chance(self, pair: Products, own_x: Any, own_y: Any, control: Products | None) -> float:
        """The value of the control, as far as unrelated rows are; NaN without one."""
        return math.nan if control is None else self.value(control, own_x, own_y)


class Cross:
    """Second pass over two views: adds up ``Products`` of each group of rows.

    Memory O(groups x d1 x d2), whatever the number of rows.
    """

    def __init__(self, n_groups: int = 1):
        self._sums: list[list] = [[] for _ in range(n_groups)]

    def add(self, x: Array, y: Array, bounds: np.ndarray) -> None:
        """Take in centred rows of x (b, d1) and y (b, d2), sorted by group: bounds[g] to bounds[g + 1] are of group
        g."""
        with np.errstate(over="ignore", invalid="ignore"):  # measures refuse what is not finite
            accumulate(self._sums, bounds, (x, y), self._terms)

    def _terms(self, x: Array, y: Array) -> Sequence:
        vecdot = array_namespace(x).vecdot
        r, s = vecdot(x, x), vecdot(y, y)
        terms = len(x), x.T @ y, float(r.sum()), float(s.sum()), float(r @ s)
        # of several groups, what recentring takes
        return terms if len(self._sums) == 1 else (*terms, x.sum(0), y.sum(0), s @ x, r @ y)

    def whole(self) -> Products:
        """Of all rows, which are centred as they are."""
        return Products(*self._total()[:5])

    def without(self, group: int) -> Products:
        """Of all rows but one group's, about their own mean."""
        rest = zip(self._total(), self._sums[group], strict=True)
        n, product, r, s, rs, sum_x, sum_y, sx, ry = (whole - part for whole, part in rest)
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

    def _total(self) -> list:
        return [sum(terms[1:], terms[0]) for terms in zip(*self._sums, strict=True)]


def paired_views(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both views as float64. Raises UsageError when they are no matrices with the same rows."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise UsageError(f"two views need the same rows: x has shape {x.shape}, y has shape {y.shape}")
    return x, y


def check_finite(rows: np.ndarray, name: str) -> None:
    """Raise UsageError, with the view's name, for values that are not."""
    if not np.isfinite(rows).all():
        raise UsageError(f"{name} holds values that are not finite: leave those rows out or extract them again")
