"""95 % intervals: bootstrap and jackknife over clusters (words, speakers, utterances, sentence pairs), Student's t.

A bootstrap of few clusters is too narrow: its spread is that of a variance over n, and its ends are a normal's. Every
interval here makes up for both. tests/test_coverage_of_intervals.py holds each of them against what it promises.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, rankdata, spearmanr, t

N_RESAMPLES = 1000
LEVEL = 0.95


def counts(n_clusters: int, seed: int, n_resamples: int = N_RESAMPLES) -> np.ndarray:
    """How often each cluster is drawn, with replacement, in each resample: (n_resamples, n_clusters) int64.

    One cluster has no spread to learn from: it is drawn 0 times, so that nothing is defined and no interval comes of
    it.
    """
    if n_clusters < 2:
        return np.zeros((n_resamples, n_clusters), np.int64)
    random = np.random.default_rng(seed)
    return random.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=n_resamples)


def reach(n_clusters: int, n_cells: int = 1) -> float:
    """How many standard deviations of resampled values an interval takes on either side: 1.96 of many clusters, more of
    few.

    Clusters are drawn within ``n_cells``. Their resampled values spread by sqrt((n - n_cells) / n) too little, and
    Student's t has longer ends than a normal. inf where no cell has two clusters.
    """
    free = n_clusters - n_cells
    return float(t.ppf((1 + LEVEL) / 2, free) * np.sqrt(n_clusters / free)) if free > 0 else np.inf


def tail(n_clusters: int) -> float:
    """Share of resampled values beyond each end of an interval: 2.5 % of many clusters, less of few.

    The expanded percentile interval (Hesterberg 2015, The American Statistician 69, section 5.3).
    """
    return float(norm.cdf(-reach(n_clusters)))


def interval(values: np.ndarray, n_clusters: int) -> tuple[float, float] | tuple[None, None]:
    """95 % percentile interval of resampled values; resamples in which the number is not defined (NaN) do not count.

    None, None where it is defined in fewer than half of them.
    """
    known = values[np.isfinite(values)]
    if 2 * len(known) < max(1, len(values)):
        return None, None
    low, high = np.quantile(known, [tail(n_clusters), 1 - tail(n_clusters)])
    return float(low), float(high)


def students_interval(values: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of the mean of values (n,) by Student's t; none of a single one."""
    if len(values) < 2:
        return None, None
    reach = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)


def jackknife(
    value: float, left_out: Sequence[float] | np.ndarray, drawn: float = 0.0
) -> tuple[float, float] | tuple[None, None]:
    """95 % interval around ``value`` from the same statistic without each of g groups (delete-a-group jackknife).

    ``drawn``: variance of the value that is of other draws than the groups (seeds), and the same in every part.

    A statistic that is biased at n is as biased in every part, so the interval is about what n rows give on average,
    which a bootstrap's is not: its resamples have fewer different rows. None where a part is not defined (NaN).
    """
    groups, parts = len(left_out), np.asarray(left_out, np.float64)
    if groups < 2 or not np.isfinite(parts).all():
        return None, None
    variance = (groups - 1) / groups * ((parts - parts.mean()) ** 2).sum() + drawn
    half = float(t.ppf((1 + LEVEL) / 2, groups - 1) * np.sqrt(variance))
    return value - half, value + half


def jackknife_groups(groups: np.ndarray, n_groups: int, seed: int) -> np.ndarray:
    """Clusters (n,), integers from 0 on, put together at random into at most so many groups of like numbers of
    clusters."""
    n_clusters = int(groups.max()) + 1
    return (np.random.default_rng(seed).permutation(n_clusters) % n_groups)[groups]


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of x and y (n,), ties at their mean rank; NaN for fewer than 3 items or a
    constant."""
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
