"""SpEAT: which of two groups of speech is nearer to pleasant speech, in the eyes of a layer.

Caliskan et al. 2017 (WEAT), Slaughter et al. 2023 (SpEAT), Lin et al. 2024. For an embedding w of a
target, and attributes A (pleasant) and B (unpleasant):

    s(w) = mean over a of cos(w, a) - mean over b of cos(w, b)
    d    = (mean over X of s - mean over Y of s) / standard deviation of s over X and Y (ddof 1)

All in float64. Everything after s(w) needs only these numbers, so many layers are permuted and resampled
at once, with the same draws for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from scipy import stats

from layertool.errors import FeatureError, UsageError
from layertool.resampling import LEVEL, reach

ALTERNATIVES = {
    "greater": "one-sided: X nearer to A",
    "less": "one-sided: X nearer to B",
    "two-sided": "two-sided",
}
N_PERMUTATIONS = 10_000
N_RESAMPLES = 10_000
TIE = 1e-12  # of the sum of |s|: statistics that are closer are equal
_CERTAIN = 1 - 1e-9  # correlations beyond differ by rounding
_CHUNK_NUMBERS = 1 << 22  # held at once
_CACHED_NUMBERS = 1 << 18  # drawn at once


@dataclass(frozen=True)
class Test:
    """Effect size d, its p-value, and whether p counts every relabelling or a sample of them (``n_permutations``)."""

    d: float
    p: float
    exact: bool
    n_permutations: int


@dataclass(frozen=True)
class Interval:
    """95 % interval of d from resamples of the items, and the standard deviation of d in them."""

    low: float
    high: float
    error: float


def associations(w: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """s(w) of each embedding: w (n, d), a (n_a, d), b (n_b, d) -> (n,); or (layers, n) from (layers, n, d) each.

    Raises FeatureError for embeddings that are not finite or have no direction.
    """
    w, a, b = (_unit(part, name) for part, name in ((w, "targets"), (a, "A"), (b, "B")))
    return np.einsum("...nd,...d->...n", w, a.mean(-2) - b.mean(-2))


def association_test(
    x: np.ndarray,
    y: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    n_permutations: int = N_PERMUTATIONS,
    alternative: str = "greater",
    seed: int = 0,
) -> Test:
    """The association test of targets x (n_x, d), y (n_y, d) with attributes a (n_a, d), b (n_b, d).

    p: share of the relabellings of the targets whose difference of mean associations is at least the observed
    one, ties included. All of them are counted when there are at most ``n_permutations``; else that many less one are
    drawn, and the observed one counts as a hit. ``alternative``: greater (X nearer to A), less, two-sided.

    Raises UsageError for groups of fewer than two (targets) or none (attributes), FeatureError for
    embeddings that are not finite, have no direction, or are all associated alike.
    """
    x, y, a, b = (np.asarray(part, np.float64) for part in (x, y, a, b))
    check_sizes(len(x), len(y), len(a), len(b))
    s = associations(np.concatenate([x, y]), a, b)
    (p,), exact, n = permutation_p(s[None], len(x), n_permutations, alternative, seed)
    return Test(float(effect_sizes(s[None], len(x))[0]), float(p), exact, n)


def check_sizes(n_x: int, n_y: int, n_a: int, n_b: int) -> None:
    """Raise UsageError for groups that have no test."""
    for name, n, least in (("group X", n_x, 2), ("group Y", n_y, 2), ("group A", n_a, 1), ("group B", n_b, 1)):
        if n < least:
            raise UsageError(
                f"{name} has {n} items: an association test takes two or more of each target group (X, Y) and one or "
                "more of each attribute group (A, B)"
            )


def _unit(rows: np.ndarray, name: str) -> np.ndarray:
    """Embeddings of length 1, in float64; the scale of each is taken out first, so that no square overflows."""
    rows = np.asarray(rows, np.float64)
    if not np.isfinite(rows).all():
        raise FeatureError(f"the embeddings of {name} are not all finite: extract them again, or leave those items out")
    largest = np.abs(rows).max(-1, keepdims=True, initial=0.0)
    if not (largest > 0).all():
        at = np.argwhere(largest[..., 0] == 0)[0]
        raise FeatureError(f"item {at[-1]} of {name} has an embedding of zeros, which has no direction: leave it out")
    rows = rows / largest
    return rows / np.sqrt(np.einsum("...d,...d->...", rows, rows))[..., None]


def effect_sizes(s: np.ndarray, n_x: int, prefixes: Sequence[str] | None = None) -> np.ndarray:
    """d of each layer: (layers,) from associations s (layers, n), of which the first ``n_x`` are X.

    FeatureError, after the layer's prefix, where all associations are the same up to rounding (cosines are at most 1).
    """
    deviation = s.std(-1, ddof=1)
    if (deviation <= 1e-14).any():
        prefix = "" if prefixes is None else prefixes[int(np.argmax(deviation <= 1e-14))]
        raise FeatureError(f"{prefix}all targets are associated alike, so that the effect size is undefined")
    return (s[:, :n_x].mean(-1) - s[:, n_x:].mean(-1)) / deviation


def permutation_p(
    s: np.ndarray, n_x: int, n_permutations: int, alternative: str, seed: int
) -> tuple[np.ndarray, bool, int]:
    """p of each layer (layers,), whether it is exact, and the number of relabellings, from s (layers, n).

    The sum over X decides: the difference of means grows with it. Every layer sees the same relabellings.
    """
    if alternative not in ALTERNATIVES:
        raise UsageError(f"'{alternative}' is no alternative: choose {', '.join(ALTERNATIVES)}")
    if n_permutations < 1:
        raise UsageError(f"{n_permutations} permutations give no p: take 1 or more")
    s = s - s.mean(-1, keepdims=True)  # the expected sum is 0 then, and small numbers keep their digits
    if alternative == "less":
        s = -s
    n = s.shape[-1]
    observed, tie = s[:, :n_x].sum(-1), TIE * np.abs(s).sum(-1)
    n_all = math.comb(n, n_x)
    exact = n_all <= n_permutations
    hits = np.zeros(len(s), np.int64)
    for members in _all_groups(n, n_x) if exact else _drawn_groups(n, n_x, n_permutations - 1, seed):
        sums = members @ s.T
        if alternative == "two-sided":
            hits += (np.abs(sums) >= np.abs(observed) - tie).sum(0)
        else:
            hits += (sums >= observed - tie).sum(0)
    return (hits / n_all, True, n_all) if exact else ((1 + hits) / n_permutations, False, n_permutations)


def _all_groups(n: int, n_x: int) -> Iterator[np.ndarray]:
    """Every choice of n_x among n items, as rows (choices, n) of 0 and 1."""
    choices = combinations(range(n), n_x)
    while chosen := list(islice(choices, _CHUNK_NUMBERS // n)):
        members = np.zeros((len(chosen), n))
        np.put_along_axis(members, np.array(chosen), 1.0, axis=1)
        yield members


def _drawn_groups(n: int, n_x: int, n_draws: int, seed: int) -> Iterator[np.ndarray]:
    """Uniformly drawn choices: the items with the n_x smallest of n random numbers.

    Where the last of these is not the only one of its size (once in 10 million draws), all are drawn again.
    """
    random = np.random.default_rng(seed)
    size = max(1, _CACHED_NUMBERS // n)
    for first in range(0, n_draws, size):
        members = np.zeros((min(size, n_draws - first), n), bool)
        while (again := members.sum(1) != n_x).any():
            keys = random.integers(0, 1 << 32, (int(again.sum()), n), dtype=np.uint32)
            members[again] = keys <= np.partition(keys, n_x - 1, axis=1)[:, n_x - 1 : n_x]
        yield members.astype(np.float64)


def bootstrap(
    s: np.ndarray,
    n_x: int,
    n_resamples: int,
    seed: int,
    strata: Sequence | np.ndarray | None = None,
    paired: bool = False,
) -> list[Interval]:
    """Interval of d for each layer, resampling targets with replacement: from s (layers, n), X first.

    ``strata`` (n,): items are resampled within their group and stratum. ``paired``: item i of X and
    item i of Y are drawn together. An item that is drawn twice counts twice. d is sqrt(n (n - 1) / (n_x n_y)) times the
    point-biserial correlation r of s with the group: the interval is symmetric in Fisher's z = artanh r, holds 95 % of
    the resampled z, and is widened for few items as ``resampling.reach`` says. So it never leaves what d can be.
    """
    n = s.shape[-1]
    cells, counts = _resamples(n, n_x, n_resamples, seed, strata, paired)
    d = effect_sizes(s, n_x)
    s = (s - s.mean(-1, keepdims=True)).T
    return _intervals(_d_of_sums(counts[:, :n_x] @ s[:n_x], counts @ s, counts @ s**2, n_x, n).T, d, n_x, n, cells)


def bootstrap_all(
    w: Sequence[np.ndarray],
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    n_x: int,
    n_resamples: int,
    seed: int,
    strata: Sequence | np.ndarray | None = None,
    paired: bool = False,
) -> list[Interval]:
    """The same, resampling targets and attributes: of each layer w (n, d), X first, a (n_a, d) and b (n_b, d)."""
    n = len(w[0])
    cells, counts = _resamples(n, n_x, n_resamples, seed, strata, paired)
    random = np.random.default_rng([seed, 1])
    weights = [random.multinomial(k, np.full(k, 1 / k), n_resamples) / k for k in (len(a[0]), len(b[0]))]
    out = []
    for layer_w, layer_a, layer_b in zip(w, a, b, strict=True):
        d = effect_sizes(associations(layer_w, layer_a, layer_b)[None], n_x)
        layer_w, layer_a, layer_b = (_unit(part, "a layer") for part in (layer_w, layer_a, layer_b))
        s = (layer_w @ layer_a.T) @ weights[0].T - (layer_w @ layer_b.T) @ weights[1].T
        s = (s - s.mean(0)).T
        drawn = counts * s
        resampled = _d_of_sums(drawn[:, :n_x].sum(-1), drawn.sum(-1), (drawn * s).sum(-1), n_x, n)
        out += _intervals(resampled[None], d, n_x, n, cells)
    return out


def _resamples(
    n: int, n_x: int, n_resamples: int, seed: int, strata: Sequence | np.ndarray | None, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What each item (n,), or each pair (n_x,), is resampled among, as a number; how often each item is in each
    resample, (resamples, n). UsageError for what cannot be resampled."""
    if paired and 2 * n_x != n:
        raise UsageError(f"{n_x} and {n - n_x} items are no pairs: a paired bootstrap takes two groups of one size")
    codes = (
        np.zeros(n, np.int64) if strata is None else np.unique(np.asarray(strata).astype(str), return_inverse=True)[1]
    )
    if paired and (codes[:n_x] != codes[n_x:]).any():
        raise UsageError("two items of one pair are in different strata: leave out one of both options")
    cells = codes[:n_x] if paired else 2 * codes + (np.arange(n) >= n_x)
    if len(np.unique(cells)) == len(cells):
        raise UsageError(
            "every item is alone in its stratum, so that none can be drawn instead of it: take other --strata"
        )
    random = np.random.default_rng(seed)
    counts = np.zeros((n_resamples, n))
    for cell in np.unique(cells):
        mine = np.flatnonzero(cells == cell)
        counts[:, mine] = random.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), n_resamples)
    if paired:
        counts[:, n_x:] = counts[:, :n_x]
    return cells, counts


def _d_of_sums(sums_x: np.ndarray, sums: np.ndarray, squares: np.ndarray, n_x: int, n: int) -> np.ndarray:
    """d from sums over X and over all n items drawn, and over their squares, of one shape; NaN where it is
    undefined."""
    variance = np.maximum(squares - sums**2 / n, 0) / (n - 1)
    difference = sums_x / n_x - (sums - sums_x) / (n - n_x)
    defined = variance > 1e-12 * squares / n
    return np.divide(difference, np.sqrt(variance), out=np.full(sums.shape, np.nan), where=defined)


def _intervals(resampled: np.ndarray, d: np.ndarray, n_x: int, n: int, cells: np.ndarray) -> list[Interval]:
    """Of each layer: d (layers,), resampled (layers, resamples) with NaN where all items drawn are one (in tiny
    groups)."""
    most = math.sqrt(n * (n - 1) / (n_x * (n - n_x)))  # what d is where all of X and all of Y are alike
    widening = reach(len(cells), len(np.unique(cells))) / stats.norm.ppf((1 + LEVEL) / 2)

    def fishers_z(values):
        return np.arctanh(np.clip(values / most, -_CERTAIN, _CERTAIN))

    out = []
    for value, values in zip(d, resampled, strict=True):
        known, z = values[np.isfinite(values)], fishers_z(value)
        half = widening * np.quantile(np.abs(fishers_z(known) - z), LEVEL)
        low, high = most * np.tanh([z - half, z + half])
        out.append(Interval(float(low), float(high), float(known.std(ddof=1))))
    return out


def corrected(p: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """p-values of a family of tests after Bonferroni and after Benjamini and Hochberg (1995), (n,) each."""
    values = np.asarray(p, np.float64)
    return np.minimum(1.0, values * len(values)), stats.false_discovery_control(values, method="bh")
