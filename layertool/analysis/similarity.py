"""Two more ways to compare views of the same rows: orthogonal Procrustes distance and RSA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg, stats
from scipy.spatial import distance as distances

from layertool.analysis import matrix
from layertool.analysis.cka import ZERO
from layertool.analysis.moments import to_numpy
from layertool.analysis.products import Measure, Products, check_finite, paired_views
from layertool.errors import UsageError

MAX_RSA_ROWS = 10_000  # 50 million pairs of rows, 400 MB for each array of them
DISTANCES = ("correlation", "cosine", "euclidean")


@dataclass(frozen=True)
class Procrustes(Measure):
    """Orthogonal Procrustes distance from products of centred views: a measure for ``matrix.fill``."""

    needs_control: bool = True

    def check(self, n: int) -> None:
        """Raise UsageError for too few rows."""
        if n < 2:
            raise UsageError(f"Procrustes distance needs at least 2 rows, not {n}: take more rows")

    def own(self, view: Products, name: str, _whole: Products) -> float:
        """Frobenius norm of the view; UsageError when it is 0."""
        if not 0 < view.sum_r < np.inf:
            of_rows = "values are too large to be multiplied in float64" if view.sum_r else "all its rows are the same"
            raise UsageError(f"{name}: {of_rows}, so Procrustes distance is undefined; take more rows")
        return float(np.sqrt(view.sum_r))

    def value(self, pair: Products, own_x: float, own_y: float) -> float:
        nuclear = float(linalg.svdvals(to_numpy(pair.product)).sum())
        return max(0.0, 2.0 - 2.0 * nuclear / (own_x * own_y))


def procrustes(x: np.ndarray, y: np.ndarray) -> float:
    """Orthogonal Procrustes distance of views x (n, d1) and y (n, d2) of the same n rows.

    The smallest |X - YQ|² over orthogonal Q, each view centred and divided by its Frobenius norm first:
    2 - 2 |X'Y|_*, with the nuclear norm (Schönemann 1966; the squared form of Ding et al. 2021, section
    2). 0 for views that differ by rotation, reflection, translation and scale, 2 for uncorrelated ones.
    The narrower of two views counts as filled up with zero columns. Not corrected for chance: for
    independent views it is well below 2 unless there are many more rows than dimensions.

    UsageError: rows that do not match, values that are not finite, a view whose rows are all the same.
    """
    return matrix.of_views(x, y, Procrustes(needs_control=False))


def rsa(x: np.ndarray, y: np.ndarray, distance: str = "correlation") -> float:
    """Representational similarity of views x (n, d1) and y (n, d2): do the same pairs of rows lie close?

    Spearman correlation, in -1..1, of the n (n - 1) / 2 dissimilarities in one view with those in the
    other (Kriegeskorte et al. 2008). ``distance`` "correlation" is 1 - Pearson's r of two rows,
    "cosine" 1 - their cosine, "euclidean" |a - b|. Ties get the mean of their ranks. About 0 for
    independent views. Time O(n² d), memory O(n²).

    UsageError: rows that do not match, fewer than 3 or more than ``MAX_RSA_ROWS``, values that are not
    finite, rows that have no correlation or cosine, a view with all dissimilarities equal.
    """
    x, y = paired_views(x, y)
    return float(np.vdot(rsa_ranks(x, distance, "view x"), rsa_ranks(y, distance, "view y")))


def rsa_ranks(x: np.ndarray, distance: str = "correlation", name: str = "view x") -> np.ndarray:
    """Centred ranks of the dissimilarities of all pairs of rows, with norm 1: ``rsa`` is the product of two of them."""
    n = len(x)
    if distance not in DISTANCES:
        raise UsageError(f"unknown distance '{distance}': take one of {', '.join(DISTANCES)}")
    if n < 3:
        raise UsageError(f"RSA needs at least 3 rows, not {n}: take more rows")
    if n > MAX_RSA_ROWS:
        raise UsageError(
            f"RSA compares all pairs of rows and takes at most {MAX_RSA_ROWS} of them, not {n}: draw a sample "
            "(--max-rows)"
        )
    ranks = stats.rankdata(_dissimilarities(np.asarray(x, np.float64), distance, name))
    ranks -= ranks.mean()
    return ranks / np.sqrt(ranks @ ranks)


def _dissimilarities(x: np.ndarray, distance: str, name: str) -> np.ndarray:
    """(n (n - 1) / 2,) in the order of ``scipy.spatial.distance.pdist``."""
    check_finite(x, name)
    if distance != "euclidean":
        undefined = np.ptp(x, 1) == 0 if distance == "correlation" else ~x.any(1)
        if undefined.any():
            what = "constant" if distance == "correlation" else "zero"
            raise UsageError(
                f"{name}: row {int(undefined.argmax())} is {what} across its dimensions ({int(undefined.sum())} "
                "such rows), "
                f"so it has no {distance} with others; leave it out or use distance 'euclidean'"
            )
    values = distances.pdist(x, distance)
    if np.ptp(values) <= ZERO * np.abs(values).max():
        raise UsageError(f"{name}: all its rows are equally far from each other, so RSA is undefined; take other rows")
    return values
