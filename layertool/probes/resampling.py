"""Bootstrap over clusters: words, speakers, utterances, sentence pairs."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata, spearmanr

N_RESAMPLES = 1000
LEVEL = 0.95


def counts(n_clusters: int, seed: int, n_resamples: int = N_RESAMPLES) -> np.ndarray:
    """How often each cluster is drawn, with replacement, in each resample: (n_resamples, n_clusters) int64.

    One cluster has no spread to learn from: it is drawn 0 times, so that nothing is defined and no interval comes of it.
    """
    if n_clusters < 2:
        return np.zeros((n_resamples, n_clusters), np.int64)
    random = np.random.default_rng(seed)
    return random.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)


def interval(values: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """The middle 95 % of resampled values; resamples in which the number is not defined (NaN) do not count.

    None, None where it is defined in fewer than half of them.
    """
    known = values[np.isfinite(values)]
    if 2 * len(known) < max(1, len(values)):
        return None, None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of x and y (n,), ties at their mean rank; NaN for fewer than 3 items or a constant."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def weighted_spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same (n_resamples,) of x and y (n,) in which item k stands weights[:, k] times, (n_resamples, n).

    NaN where fewer than 3 items are left, or a constant.
    """
    weights = np.asarray(weights, np.float64)
    if not len(x) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return np.full(len(weights), np.nan)
    total = weights.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (_weighted_ranks(values, weights) for values in (x, y))
        a -= (weights * a).sum(1, keepdims=True) / total
        b -= (weights * b).sum(1, keepdims=True) / total
        spread = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
        out = (weights * a * b).sum(1) / spread
    few = ((weights > 0).sum(1) < 3) | (spread < 1e-9 * total[:, 0] ** 2)
    out[few] = np.nan
    return out


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean rank of each item among all copies of all items, ties together."""
    group = rankdata(values, method="dense") - 1
    order = np.argsort(group, kind="stable")
    first = np.searchsorted(group[order], np.arange(group.max() + 1))
    of_group = np.add.reduceat(weights[:, order], first, axis=1)
    ranks = np.cumsum(of_group, axis=1) - of_group / 2 + 0.5
    return ranks[:, group]
