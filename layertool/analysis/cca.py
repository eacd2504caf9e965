"""Canonical correlation analysis, its held-out scores, and the projection-weighted mean (PWCCA).

Definitions: spec layerwise.md 3.2 (regularised CCA of Pasad et al.'s protocol), PWCCA as Morcos et al.
2018 define it (centred, all neurons), by default the mean of both directions (Pasad et al. 2021). The
products run where the moments are, in NumPy or on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from array_api_compat import array_namespace

from layertool.analysis.moments import ROUNDING, Array, Moments, to_numpy
from layertool.analysis.products import Measure, Products, paired_views
from layertool.errors import UsageError

RANK_TOLERANCE = 1e-12  # of the largest eigenvalue: directions below it are rounding, not data
DEPENDENT = (
    1e-7  # of a variate's variance: with less left of it, its own direction is rounding of the products (1e-16 / 1e-7)
)


@dataclass(frozen=True)
class Score:
    """CCA of some rows along given directions. ``correlations`` are signed and in the order of the fit.

    ``mean``, ``mean_square``: plain means of the correlations and of their squares. ``pwcca_x``,
    ``pwcca_y``: weighted by how much of view x (y) each direction accounts for; ``pwcca``: mean of both.
    """

    correlations: np.ndarray
    mean: float
    mean_square: float
    pwcca_x: float
    pwcca_y: float
    pwcca: float


@dataclass(frozen=True)
class Whitener:
    """One view's eigenvectors and variances, from which its whitening for any regularisation follows."""

    eigenvalues: Array  # (rank,), of the covariance scaled to largest entry 1
    eigenvectors: Array  # (d, rank), zero in dropped dimensions
    scale: float

    @classmethod
    def of(cls, covariance: Array, least: float = 0.0, share: float | None = None) -> Whitener:
        """Eigen-decomposition of a covariance scaled to largest entry 1.

        Directions whose eigenvalue is rounding only (one-hot labels, constant columns) are dropped, and dimensions
        whose scaled variance is under ``least``. ``share``: keep only the largest directions that hold this share of
        the variance together (SVCCA, Raghu et al. 2017).
        """
        xp = array_namespace(covariance)
        scale = float(xp.max(xp.abs(covariance))) if covariance.shape[0] else 0.0
        if not math.isfinite(scale):
            raise UsageError("a view has values that are not finite (NaN or infinite): leave out these rows")
        keep = xp.linalg.diagonal(covariance) >= least * scale
        if scale <= 0 or not bool(xp.any(keep)):
            raise UsageError("a view is constant on the rows it is fitted on: canonical correlation is undefined there")
        values, vectors = xp.linalg.eigh(covariance[keep][:, keep] / scale)
        good = values > RANK_TOLERANCE * values[-1]
        if share is not None:
            above = xp.cumulative_sum(xp.flip(xp.where(good, values, 0.0)))
            n_kept = int(xp.sum(xp.astype(above < share * above[-1], xp.int64))) + 1
            good = good & (xp.arange(len(values), device=values.device) >= len(values) - n_kept)
        whole = xp.zeros(
            (covariance.shape[0], int(xp.sum(xp.astype(good, xp.int64)))), dtype=values.dtype, device=values.device
        )
        whole[keep] = vectors[:, good]
        return cls(values[good], whole, scale)

    def scales(self, eps: float) -> Array:
        """(rank,): what divides out the standard deviation of each eigenvector, with ``eps`` added to its variance."""
        return ((self.eigenvalues + eps) * self.scale) ** -0.5


class Bases:
    """Directions of both views, ``x`` (rank, d1) and ``y`` (rank, d2), and the covariances of some rows in them.

    Fits of all regularisations share them, so what takes products of width³ is done once for each set of rows.
    """

    def __init__(self, x: Array, y: Array):
        self.x, self.y = x, y
        self._seen: list[tuple[Moments, Seen]] = []

    def of(self, moments: Moments) -> Seen:
        """The covariances of these rows, from the last ones asked for where possible."""
        for known, seen in self._seen:
            if known is moments:
                return seen
        seen = Seen(self, *moments.covariances)
        self._seen = [*self._seen[-3:], (moments, seen)]
        return seen


class Seen:
    """Covariances of some rows in the bases; each computed when it is needed."""

    def __init__(self, bases: Bases, sxx: Array, syy: Array, sxy: Array):
        self._bases, self._sxx, self._syy, self._sxy = bases, sxx, syy, sxy

    @cached_property
    def neurons(self) -> tuple[Array, Array]:
        """With the neurons of x (rank, d1) and of y (rank, d2)."""
        return self._bases.x @ self._sxx, self._bases.y @ self._syy

    @cached_property
    def grams(self) -> tuple[Array, Array]:
        """Within each view, (rank, rank)."""
        return self.neurons[0] @ self._bases.x.T, self.neurons[1] @ self._bases.y.T

    @cached_property
    def cross(self) -> Array:
        """Of both views, (rank, rank)."""
        return self._bases.x @ self._sxy @ self._bases.y.T


@dataclass(frozen=True)
class Fit:
    """Canonical directions: ``a`` (k, d1) and ``b`` (k, d2), and ``correlations`` (k,) on the fitting rows.

    Kept as combinations of bases: a = left @ bases.x, b = right @ bases.y.
    """

    left: Array
    right: Array
    bases: Bases
    correlations: np.ndarray
    scales: tuple[float, float] = (1.0, 1.0)  # largest entries of both covariances of the fitting rows

    @property
    def a(self) -> Array:
        """Canonical directions of x, (k, d1)."""
        return self.left @ self.bases.x

    @property
    def b(self) -> Array:
        """Canonical directions of y, (k, d2)."""
        return self.right @ self.bases.y

    def score(self, x: np.ndarray, y: np.ndarray) -> Score:
        """Score of rows x (n, d1), y (n, d2) along these directions, each view centred on its own mean."""
        return self.score_moments(_centred(x, y))

    def score_moments(self, moments: Moments) -> Score:
        """The same from sufficient statistics."""
        rho, gram_a, gram_b, a_sxx, b_syy = self._on(moments)
        pwcca_x, pwcca_y = _weighted(rho, gram_a, a_sxx), _weighted(rho, gram_b, b_syy)
        return Score(rho, float(rho.mean()), float((rho**2).mean()), pwcca_x, pwcca_y, (pwcca_x + pwcca_y) / 2)

    def score_legacy(self, moments: Moments) -> float:
        """PWCCA as the published code of Pasad et al. computes it (spec 3.3), for comparison only.

        The mean of neuron i is added to variate i (of variance max |S|, as its covariances are scaled to largest entry
        1 and its data are not), weights come from the first k neurons that vary, uncentred,
        of the view with fewer of them (y when there are as many). It changes under translation and
        permutation of a view, and with the signs of the directions, which are arbitrary: here both variates of a
        direction have a mean of 0 or more together, there they are as the decomposition happened to leave them.
        """
        rho, gram_a, gram_b, a_sxx, b_syy = self._on(moments)
        mean_x, mean_y = (to_numpy(mean) for mean in moments.means())
        keep_x, keep_y = (to_numpy(directions != 0).any(0) for directions in (self.a, self.b))
        use_x = keep_x.sum() < keep_y.sum()
        gram, cross, mean, scale = (
            (gram_a, a_sxx[:, keep_x], mean_x[keep_x], self.scales[0])
            if use_x
            else (gram_b, b_syy[:, keep_y], mean_y[keep_y], self.scales[1])
        )
        n, k = moments.n, len(rho)
        added = mean[:k] / np.sqrt(scale)  # these variates have variance 1
        gram = (n - 1) * gram + n * np.outer(added, added)
        cross = (n - 1) * cross[:, :k] + n * np.outer(added, mean[:k])
        return _weighted(rho, gram, cross)

    def _on(self, moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Correlations (k,); products of the variates of x and of y (k, k); of variates and neurons (k, d)."""
        seen = self.bases.of(moments)
        turns = self.left, self.right
        a_sxx, b_syy = (to_numpy(turn @ side) for turn, side in zip(turns, seen.neurons, strict=True))
        gram_a, gram_b = (to_numpy(turn @ gram @ turn.T) for turn, gram in zip(turns, seen.grams, strict=True))
        cross = to_numpy(((self.left @ seen.cross) * self.right).sum(1))
        size = np.sqrt(np.clip(np.diag(gram_a), 0, None) * np.clip(np.diag(gram_b), 0, None))
        # a direction without variance on these rows has no correlation: 0, never rounding noise over rounding noise
        defined = size > 1e-10 * max(float(size.max(initial=0.0)), np.finfo(float).tiny)
        rho = np.divide(cross, size, out=np.zeros_like(cross), where=defined)
        return rho, gram_a, gram_b, a_sxx, b_syy


class Solver:
    """CCA of given moments for any regularisation: each view is decomposed once for all of them.

    ``share``: SVCCA, see ``Whitener.of``. ``like``: the solver of other moments with the same x, whose
    decomposition of it is taken over. ``deleting``: each eps also deletes the dimensions of less variance (relative to
    the largest), as the published code does; without it all eps have the same directions. Raises UsageError when there
    are too few rows: with as many dimensions as rows every correlation is 1 whatever the data are.
    """

    def __init__(
        self, moments: Moments, share: float | None = None, like: Solver | None = None, deleting: bool = False
    ):
        widest = max(len(moments.sum_x), len(moments.sum_y))
        if moments.n <= (2 if share is not None else widest):
            raise _too_few(moments.n, widest, ", or reduce the views first (SVCCA: --variant svcca --share 0.9)")
        self.moments, self.share, self.deleting = moments, share, deleting
        self._covariance = dict(zip("xy", moments.covariances, strict=False))
        self._whiteners: dict = {} if like is None else {k: v for k, v in like._whiteners.items() if k[0] == "x"}
        self._cross: dict[tuple, tuple[Bases, Array]] = {}
        self._bases: dict[tuple, tuple[Bases, Array]] = {}

    def fit(self, eps_x: float, eps_y: float) -> Fit:
        """Canonical directions with ``eps_x`` and ``eps_y`` added to the scaled covariances."""
        (key_x, white_x), (key_y, white_y) = self._whitener("x", eps_x), self._whitener("y", eps_y)
        scale_x, scale_y = white_x.scales(eps_x), white_y.scales(eps_y)
        n_x, n_y = len(scale_x), len(scale_y)
        wide = "x" if n_x >= 2 * n_y else "y" if n_y >= 2 * n_x else None
        key = (key_x, key_y, {"x": eps_x, "y": eps_y, None: None}[wide])
        if key not in self._bases:
            self._bases[key] = self._reduced(wide, key_x, key_y, white_x, white_y, scale_x, scale_y)
        bases, core = self._bases[key]
        xp = array_namespace(core)
        rest_x = xp.ones_like(core[:, 0]) if wide == "x" else scale_x  # of the wide side it is in the basis
        rest_y = xp.ones_like(core[0, :]) if wide == "y" else scale_y
        u, s, vt = xp.linalg.svd(rest_x[:, None] * core * rest_y, full_matrices=False)
        left, right = u.T * rest_x, vt * rest_y
        # directions have no sign of their own; legacy scores depend on it, so it is that of the mean of both variates
        mean_x, mean_y = self.moments.means()
        turn = xp.where(left @ (bases.x @ mean_x) + right @ (bases.y @ mean_y) < 0, -1.0, 1.0)[:, None]
        return Fit(left * turn, right * turn, bases, to_numpy(s), (white_x.scale, white_y.scale))

    def _reduced(
        self,
        wide: str | None,
        key_x: tuple,
        key_y: tuple,
        white_x: Whitener,
        white_y: Whitener,
        scale_x: Array,
        scale_y: Array,
    ) -> tuple[Bases, Array]:
        """Bases of both views, and the cross-covariance in them; the scaling of the ``wide`` side is part of its basis.

        All canonical directions of a much wider view lie in as many dimensions as the other view has: a QR
        decomposition finds them, for all regularisations of the other view. Householder QR errs relative to each
        column, so scaling columns afterwards costs no digits.
        """
        if (key_x, key_y) not in self._cross:
            eigen = Bases(white_x.eigenvectors.T, white_y.eigenvectors.T)
            self._cross[key_x, key_y] = eigen, eigen.of(self.moments).cross
        eigen, cross = self._cross[key_x, key_y]
        if wide is None:
            return eigen, cross
        scaled = scale_x[:, None] * cross if wide == "x" else (cross * scale_y).T
        q, r = array_namespace(cross).linalg.qr(scaled, mode="reduced")
        if wide == "x":
            return Bases((q.T * scale_x) @ eigen.x, eigen.y), r
        return Bases(eigen.x, (q.T * scale_y) @ eigen.y), r.T

    def _whitener(self, side: str, eps: float) -> tuple[tuple, Whitener]:
        covariance = self._covariance[side]
        variance = to_numpy(array_namespace(covariance).linalg.diagonal(covariance))
        least = eps if self.deleting else 0.0
        key = (side, (variance >= least * variance.max(initial=0.0)).tobytes())  # the largest entry is a variance
        if key not in self._whiteners:
            self._whiteners[key] = Whitener.of(covariance, least, self.share)
        rank = len(self._whiteners[key].eigenvalues)
        if self.share is not None and self.moments.n - 1 <= rank:  # centred rows have n - 1 dimensions
            raise _too_few(self.moments.n, rank)
        return key, self._whiteners[key]


def _too_few(n: int, widest: int, otherwise: str = "") -> UsageError:
    return UsageError(
        f"{n} rows of {widest} dimensions: canonical correlation needs more rows than dimensions "
        f"(it would be 1 for any data); take more rows{otherwise}"
    )


def _centred(x: np.ndarray, y: np.ndarray) -> Moments:
    x, y = paired_views(x, y)
    mean_x, mean_y = x.mean(0), y.mean(0)
    return Moments.of(x - mean_x, y - mean_y, mean_x, mean_y)


def _weighted(rho: np.ndarray, gram: np.ndarray, cross: np.ndarray) -> float:
    """Mean of ``rho`` weighted by the share of a view along each orthonormalised direction.

    ``gram`` (k, k): products of the canonical variates; ``cross`` (k, d): of variates and neurons. The
    variates are orthonormalised in their order (QR), through a Cholesky factor of ``gram``.
    """
    weights = np.abs(_orthonormal(gram, cross)).sum(1)
    total = weights.sum()
    return float(weights @ rho / total) if total > 0 else 0.0


def _orthonormal(gram: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """L^-1 cross with gram = L L'; rows of directions that depend on earlier ones are 0."""
    try:
        factor = np.linalg.cholesky(gram)
        if (np.diag(factor) ** 2 > DEPENDENT * np.diag(gram)).all():
            # SciPy's triangular solver has threads of its own, which get in the way of NumPy's
            return np.linalg.solve(factor, cross)
    except np.linalg.LinAlgError:
        pass  # rank-deficient rows: step by step, leaving dependent directions out
    gram, cross = gram.copy(), cross.copy()
    out = np.zeros_like(cross)
    first = np.diag(gram).copy()
    for k in range(len(gram)):
        pivot = gram[k, k]
        if first[k] <= 0 or pivot <= DEPENDENT * first[k]:
            gram[k + 1 :, k] = 0
            continue
        column = gram[k + 1 :, k] / pivot
        out[k] = cross[k] / np.sqrt(pivot)
        cross[k + 1 :] -= np.outer(column, cross[k])
        gram[k + 1 :, k + 1 :] -= np.outer(column, gram[k, k + 1 :])
    return out


def fit(x: np.ndarray, y: np.ndarray, eps_x: float = 1e-10, eps_y: float = 1e-10, deleting: bool = True) -> Fit:
    """Regularised CCA of rows x (n, d1) and y (n, d2), n > max(d1, d2), as they are: see ``protocols`` for standardised
    ones.

    ``eps_x``, ``eps_y`` are added to the covariances after these are scaled to largest entry 1; ``deleting``: and
    dimensions of less variance are left out (spec layerwise.md 3.2). Raises UsageError when there are too few rows:
    with as many dimensions as rows every correlation is 1 whatever the data are.
    """
    return Solver(_centred(x, y), deleting=deleting).fit(eps_x, eps_y)


@dataclass(frozen=True)
class Side:
    """One view, its columns standardised and whitened once for all its partners: ``white`` (rank, d), and products with
    it."""

    white: Array  # maps centred rows as they are
    gram: np.ndarray  # (rank,), variance left to each whitened direction: 1 but for eps
    cross: Array  # (rank, d), of whitened directions and standardised neurons


@dataclass(frozen=True)
class InSampleCCA(Measure):
    """CCA fitted and scored on the same rows, from products of centred views: a measure for ``matrix.fill``.

    Columns are standardised, so that no score depends on the scale of a neuron. ``variant``: ``pwcca`` (mean of both
    directions), ``mean`` or ``mean-square``. Chance is that of the control.
    """

    variant: str = "pwcca"
    eps: float = 1e-10
    needs_control: bool = True

    def check(self, n: int) -> None:
        """Raise UsageError for another variant."""
        if self.variant not in ("pwcca", "mean", "mean-square"):
            raise UsageError(f"'{self.variant}' has no matrix: choose pwcca, mean or mean-square")

    def own(self, view: Products, name: str, whole: Products) -> Side:
        """UsageError, naming the view, when it has too few rows or is constant."""
        covariance = view.product / (view.n - 1)
        if view.n <= len(covariance):
            raise UsageError(f"{name}: {_too_few(view.n, len(covariance))}")
        xp = array_namespace(covariance)
        variance = xp.linalg.diagonal(covariance)
        varies = variance > ROUNDING * xp.linalg.diagonal(whole.product) / whole.n
        factors = xp.where(varies, xp.where(varies, variance, 1.0) ** -0.5, 0.0)
        covariance = covariance * factors[:, None] * factors
        try:
            whitener = Whitener.of(covariance)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
        white = (whitener.eigenvectors * whitener.scales(self.eps)).T  # to uncorrelated rows of unit variance
        values = to_numpy(whitener.eigenvalues)
        cross = white @ covariance if self.variant == "pwcca" else white
        return Side(white * factors, values / (values + self.eps), cross)

    def directions(self, own_x: Side, own_y: Side) -> int:
        return min(len(own_x.gram), len(own_y.gram))

    def value(self, pair: Products, own_x: Side, own_y: Side) -> float:
        xp = array_namespace(pair.product)
        whitened = own_x.white @ (pair.product / (pair.n - 1)) @ own_y.white.T
        u, s, vt = xp.linalg.svd(whitened, full_matrices=False)
        turns = (to_numpy(u.T), to_numpy(vt))
        variances = [(turn**2 @ side.gram) for turn, side in zip(turns, (own_x, own_y), strict=True)]
        rho = to_numpy(s) / np.sqrt(variances[0] * variances[1])
        if self.variant != "pwcca":
            return float(rho.mean() if self.variant == "mean" else (rho**2).mean())
        scores = [
            _weighted(rho, turn * side.gram @ turn.T, to_numpy(rotation @ side.cross))
            for turn, rotation, side in zip(turns, (u.T, vt), (own_x, own_y), strict=True)
        ]
        return sum(scores) / 2
