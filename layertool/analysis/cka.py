"""Centred kernel alignment (CKA) of two views of the same rows, and layer × layer matrices of it.

CKA(X, Y) = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) (Kornblith et al. 2019, eq. 2), in two variants:

* biased, as in Kornblith et al. 2019: HSIC = tr(KHLH) / (n - 1)², which is far above 0 for independent
  views unless there are many more rows than dimensions;
* debiased, the default: the U-statistic of Song et al. 2012, eq. 5, which Nguyen et al. 2021 put in place
  of it. 0 on average for independent views, so it can be slightly negative.

The linear kernel never forms the n × n Gram matrices. With centred rows, r_i = |x_i|² and s_i = |y_i|²,
the U-statistic is (|X'Y|² - n/(n-2) Σ r_i s_i + Σ r_i Σ s_i / ((n-1)(n-2))) / (n (n-3)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layertool.analysis import matrix
from layertool.analysis.products import Measure, Products, centred, paired_views
from layertool.errors import UsageError

MAX_GRAM_ROWS = 20_000  # two float64 Gram matrices of that many rows take 6.4 GB
ZERO = 1e-12  # of the largest term of a difference: below it there is rounding, no signal


@dataclass(frozen=True)
class LinearCKA(Measure):
    """Linear CKA from products of centred views: a measure for ``matrix.fill``."""

    debiased: bool = True

    def check(self, n: int) -> None:
        """Raise UsageError for too few rows."""
        _enough(n, self.debiased)

    def own(self, view: Products, name: str, _whole: Products) -> float:
        """sqrt(HSIC) of a view with itself; UsageError when that is 0 or rounding around it."""
        scale = view.square / (view.n * (view.n - 3)) if self.debiased else 0.0  # only the U-statistic is a difference
        return _root(self.hsic(view), ZERO * scale, name)

    def hsic(self, pair: Products) -> float:
        """HSIC of the linear kernel: the U-statistic (n >= 4), or tr(KHLH) / (n - 1)²."""
        n = pair.n
        if not self.debiased:
            return pair.square / (n - 1) ** 2
        correction = pair.sum_r * pair.sum_s / ((n - 1) * (n - 2)) - n / (n - 2) * pair.sum_rs
        return (pair.square + correction) / (n * (n - 3))

    def value(self, pair: Products, own_x: float, own_y: float) -> float:
        return self.hsic(pair) / (own_x * own_y)

    def chance(self, pair: Products, own_x: float, own_y: float, _control: Products | None) -> float:
        """The exact mean over all permutations of the rows of one view.

        0 for the U-statistic. tr(HKH) tr(HLH) / (n - 1) for tr(KHLH): the mean of its diagonal and other terms.
        """
        if self.debiased:
            return 0.0
        return pair.sum_r * pair.sum_s / (pair.n - 1) ** 3 / (own_x * own_y)


def linear(x: np.ndarray, y: np.ndarray, debiased: bool = True) -> float:
    """Linear CKA of views x (n, d1) and y (n, d2) of the same n rows.

    Biased (Kornblith et al. 2019, eq. 3 and 4): |X'Y|² / (|X'X| |Y'Y|) of centred views, in 0..1.
    ``debiased``: the same ratio of U-statistics (Song et al. 2012; Nguyen et al. 2021), at most 1 and
    about 0 for independent views. Computed from d × d products: time O(n d²), d > n is fine.

    UsageError: rows that do not match, fewer than 4 of them (biased: 2), values that are not finite, a
    view that is constant or, for the debiased variant, has no similarity structure.
    """
    return matrix.of_views(x, y, LinearCKA(debiased))


def rbf(x: np.ndarray, y: np.ndarray, threshold: float = 1.0, debiased: bool = True) -> float:
    """CKA with Gaussian kernels exp(-|a - b|² / (2 σ²)) of views x (n, d1) and y (n, d2).

    σ is ``threshold`` times the median distance between two different rows of the view (Kornblith et al.
    2019, section 4; their notebook's median also counts each row's distance 0 to itself, a difference of
    order 1/n). HSIC is biased or debiased as in the module's docstring. Time O(n² d), memory O(n²).

    UsageError: as ``linear``; more than ``MAX_GRAM_ROWS`` rows; a threshold that is not positive; a view
    half of whose distances are 0.
    """
    x, y = paired_views(x, y)
    kernel = rbf_kernel(x, threshold, debiased, "view x")
    return float(np.vdot(kernel, rbf_kernel(y, threshold, debiased, "view y")))


def rbf_kernel(x: np.ndarray, threshold: float = 1.0, debiased: bool = True, name: str = "view x") -> np.ndarray:
    """Centred Gaussian kernel matrix (n, n) of a view (n, d), with norm 1: ``rbf`` is the sum of products of two.

    The trace of it times that of another, over n - 1, is the mean of ``rbf`` over permutations of the rows.
    """
    n = len(x)
    _enough(n, debiased)
    if n > MAX_GRAM_ROWS:
        raise UsageError(
            f"RBF CKA compares all pairs of rows and takes at most {MAX_GRAM_ROWS} of them, not {n}: "
            "draw a sample of the rows"
        )
    if not (np.isfinite(threshold) and threshold > 0):
        raise UsageError(f"the threshold is a positive share of the median distance, not {threshold}")
    kernel = _rbf_centred(x, threshold, debiased, name)
    kernel /= _root(float(np.vdot(kernel, kernel)), (ZERO * n) ** 2, name)
    return kernel


def _enough(n: int, debiased: bool) -> None:
    if debiased and n < 4:
        raise UsageError(f"debiased CKA needs at least 4 rows, not {n}: take more rows")
    if n < 2:
        raise UsageError(f"CKA needs at least 2 rows, not {n}: take more rows")


def _root(hsic: float, floor: float, name: str) -> float:
    """sqrt of a view's HSIC with itself, which has to be above ``floor``."""
    if not np.isfinite(hsic):
        raise UsageError(f"{name}: values are too large to be multiplied in float64; scale the view down")
    if hsic <= floor or hsic < np.finfo(float).tiny:
        raise UsageError(
            f"{name}: HSIC with itself is not positive, so CKA is undefined: all its rows are the same, or all "
            "are equally similar; take more rows, or leave the view out"
        )
    return float(np.sqrt(hsic))


def _rbf_centred(x: np.ndarray, threshold: float, debiased: bool, name: str) -> np.ndarray:
    """The centred (debiased: U-centred, Székely and Rizzo 2014) kernel matrix (n, n).

    The sum of products of two of them is HSIC up to a factor that cancels in CKA. In place throughout.
    """
    x = centred(x, name)
    x /= np.abs(x).max(initial=0.0) or 1.0  # the kernel does not depend on the scale: no overflow
    n = len(x)
    square = np.einsum("nd,nd->n", x, x)
    k = x @ x.T
    k *= -2
    k += square[:, None]
    k += square[None, :]
    np.maximum(k, 0, out=k)
    pairs = k.reshape(-1)[:-1].reshape(n - 1, n + 1)[:, 1:]  # all but the diagonal: every pair twice
    median = float(np.median(np.sqrt(pairs), overwrite_input=True))
    if median**2 <= ZERO * float(square.max()):
        raise UsageError(f"{name}: half of its rows are the same, so the median distance is 0; use linear CKA")
    k /= -2 * (threshold * median) ** 2
    np.exp(k, out=k)
    np.fill_diagonal(k, 0.0 if debiased else 1.0)
    rows = k.sum(0)
    total = rows.sum() / ((n - 1) * (n - 2) if debiased else n * n)
    rows /= n - 2 if debiased else n
    k -= rows[:, None]
    k -= rows[None, :]
    k += total
    if debiased:
        np.fill_diagonal(k, 0.0)
    return k
