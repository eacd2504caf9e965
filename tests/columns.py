"""Views that tests share, and columns in the scale of some rows, the slow way."""

import numpy as np


def standardised(view, rows=slice(None)):
    """The view (n, d) over its deviations on ``rows``, turned to a mean of 0 or more there; 0 where it is constant."""
    view = np.asarray(view, np.float64)
    mean, deviation = view[rows].mean(0), view[rows].std(0, ddof=1)
    varies = deviation > 1e-10 * (np.abs(mean) + view.std(0))
    return view * np.where(varies, np.where(mean < 0, -1, 1) / np.where(varies, deviation, 1), 0)


def related(rng, n=60, width_x=7, width_y=5):
    """Two views, the second a noisy linear map of the first, whose columns have unlike scales."""
    x = rng.standard_normal((n, width_x)) * np.arange(1, width_x + 1)
    return x, x @ rng.standard_normal((width_x, width_y)) + 3 * rng.standard_normal((n, width_y))


def rotation(rng, d):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]
