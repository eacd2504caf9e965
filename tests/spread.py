"""Slow second implementations of intervals, from their formulas; nothing here calls the package."""

from __future__ import annotations

import math

from scipy import stats


def ends(n_clusters: int) -> list[float]:
    """Where the expanded percentile interval of resamples of n clusters ends (Hesterberg 2015, section 5.3), as shares."""
    reach = stats.t.ppf(0.975, n_clusters - 1) * math.sqrt(n_clusters / (n_clusters - 1))
    return [stats.norm.cdf(-reach), stats.norm.cdf(reach)]


def jackknife(value: float, left_out) -> tuple[float, float]:
    """Delete-a-group jackknife with Student's t."""
    g = len(left_out)
    mean = sum(left_out) / g
    error = math.sqrt((g - 1) / g * sum((one - mean) ** 2 for one in left_out))
    return value - stats.t.ppf(0.975, g - 1) * error, value + stats.t.ppf(0.975, g - 1) * error
