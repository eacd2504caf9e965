"""Canonical correlation analysis, its held-out scores, and the projection-weighted mean (PWCCA).

Definitions: spec layerwise.md 3.2 (regularised CCA of Pasad et al.'s protocol), PWCCA as Morcos et al.
2018 define it (centred, all neurons), by default the mean of both directions (Pasad et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from layertool.analysis.moments import Moments
from layertool.errors import UsageError

RANK_TOLERANCE = 1e-12  # of the largest eigenvalue: directions below it are rounding, not data


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
    """One view's whitening: ``directions`` (rank, d) map centred rows to uncorrelated ones of unit variance."""

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray  # (d, rank), zero in dropped dimensions
    scale: float

    @classmethod
    def of(cls, covariance: np.ndarray, eps: float) -> Whitener:
        """Eigen-decomposition of a covariance scaled to largest entry 1, without dimensions of variance < eps.

        Directions whose eigenvalue is rounding only (one-hot labels, constant columns) are dropped.
        """
        scale = float(np.abs(covariance).max(initial=0.0))
        keep = np.flatnonzero(np.diag(covariance) >= eps * scale) if scale > 0 else np.empty(0, int)
        if not len(keep):
            raise UsageError("a view is constant on the rows it is fitted on: canonical correlation is undefined there")
        values, vectors = linalg.eigh(covariance[np.ix_(keep, keep)] / scale)
        good = values > RANK_TOLERANCE * values[-1]
        whole = np.zeros((len(covariance), int(good.sum())))
        whole[keep] = vectors[:, good]
        return cls(values[good], whole, scale)

    def matrix(self, eps: float) -> np.ndarray:
        """(rank, d): rows divide out the standard deviation of each eigenvector, with ``eps`` added to its variance."""
        return self.eigenvectors.T / np.sqrt((self.eigenvalues[:, None] + eps) * self.scale)


@dataclass(frozen=True)
class Fit:
    """Canonical directions: ``a`` (k, d1) and ``b`` (k, d2), and ``correlations`` (k,) on the fitting rows."""

    a: np.ndarray
    b: np.ndarray
    correlations: np.ndarray

    def score(self, x: np.ndarray, y: np.ndarray) -> Score:
        """Score of rows x (n, d1), y (n, d2) along these directions, each view centred on its own mean."""
        x, y = paired_views(x, y)
        return self.score_moments(Moments.of(x - x.mean(0), y - y.mean(0)))

    def score_moments(self, moments: Moments) -> Score:
        """The same from sufficient statistics."""
        sxx, syy, sxy = moments.covariances()
        a_sxx, b_syy = self.a @ sxx, self.b @ syy
        gram_a, gram_b = a_sxx @ self.a.T, b_syy @ self.b.T
        cross = np.einsum("kd,de,ke->k", self.a, sxy, self.b, optimize=True)
        size = np.sqrt(np.clip(np.diag(gram_a), 0, None) * np.clip(np.diag(gram_b), 0, None))
        # a direction without variance on these rows has no correlation: 0, never rounding noise over rounding noise
        defined = size > 1e-10 * max(float(size.max(initial=0.0)), np.finfo(float).tiny)
        rho = np.divide(cross, size, out=np.zeros_like(cross), where=defined)
        pwcca_x, pwcca_y = _weighted(rho, gram_a, a_sxx), _weighted(rho, gram_b, b_syy)
        return Score(rho, float(rho.mean()), float((rho**2).mean()), pwcca_x, pwcca_y, (pwcca_x + pwcca_y) / 2)


def paired_views(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both views as float64. Raises UsageError when they are no matrices with the same rows."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise UsageError(f"two views need the same rows: x has shape {x.shape}, y has shape {y.shape}")
    return x, y


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
        factor = linalg.cholesky(gram, lower=True)
        if np.diag(factor).min() > 1e-7 * np.sqrt(np.diag(gram).max()):
            return linalg.solve_triangular(factor, cross, lower=True)
    except linalg.LinAlgError:
        pass  # rank-deficient rows: step by step, leaving dependent directions out
    gram, cross = gram.copy(), cross.copy()
    out = np.zeros_like(cross)
    first = np.diag(gram).copy()
    for k in range(len(gram)):
        pivot = gram[k, k]
        if first[k] <= 0 or pivot <= 1e-12 * first[k]:
            gram[k + 1 :, k] = 0
            continue
        column = gram[k + 1 :, k] / pivot
        out[k] = cross[k] / np.sqrt(pivot)
        cross[k + 1 :] -= np.outer(column, cross[k])
        gram[k + 1 :, k + 1 :] -= np.outer(column, gram[k, k + 1 :])
    return out


def fit(x: np.ndarray, y: np.ndarray, eps_x: float = 1e-10, eps_y: float = 1e-10) -> Fit:
    """Regularised CCA of rows x (n, d1) and y (n, d2), n > max(d1, d2).

    ``eps_x``, ``eps_y`` are added to the covariances after these are scaled to largest entry 1, and
    dimensions of less variance are left out. Raises UsageError when there are too few rows: with as
    many dimensions as rows every correlation is 1 whatever the data are.
    """
    x, y = paired_views(x, y)
    return fit_moments(Moments.of(x - x.mean(0), y - y.mean(0)), eps_x, eps_y)


def fit_moments(moments: Moments, eps_x: float = 1e-10, eps_y: float = 1e-10) -> Fit:
    """The same from sufficient statistics."""
    widest = max(len(moments.sum_x), len(moments.sum_y))
    if moments.n <= widest:
        raise UsageError(
            f"{moments.n} rows of {widest} dimensions: canonical correlation needs more rows than dimensions "
            "(it would be 1 for any data); take more rows, or reduce the views first"
        )
    sxx, syy, sxy = moments.covariances()
    white_x, white_y = Whitener.of(sxx, eps_x).matrix(eps_x), Whitener.of(syy, eps_y).matrix(eps_y)
    return fit_whitened(white_x, white_y, sxy)


def fit_whitened(white_x: np.ndarray, white_y: np.ndarray, sxy: np.ndarray) -> Fit:
    """Canonical directions from each view's whitening and their covariance."""
    u, s, vt = linalg.svd(white_x @ sxy @ white_y.T, full_matrices=False)
    return Fit(u.T @ white_x, vt @ white_y, s)
