"""Scoring CCA: on held-out folds (Pasad et al. 2023) or on the rows it was fitted on (as the 2021 curves).

Both start from the moments of each fold; what the data themselves are is not needed any more. ``control``
moments are of the same x with a y that has lost its relation to it, and give the chance level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from layertool.analysis import cca
from layertool.analysis.moments import Moments, total
from layertool.errors import UsageError
from layertool.resampling import jackknife, students_interval

# Added to covariances scaled to largest entry 1. The published grid, 1e-11 to 1e-9, hardly regularises at all
# where there are few rows per dimension (spec layerwise.md 9.2, item 14).
EPS_GRID = (1e-8, 1e-6, 1e-4, 1e-2)
PUBLISHED_EPS_GRID = (1e-11, 1e-10, 1e-9)
IN_SAMPLE_EPS = 1e-10
N_FOLDS, N_TRIALS = 10, 3

# Each number that a fit gives on some rows. `svcca` is the mean correlation of views cut to their largest directions.
NAMES = {
    "pwcca": "pwcca, mean of both directions",
    "pwcca-x": "pwcca-x, weights of the layer",
    "pwcca-y": "pwcca-y, weights of the target",
    "mean": "mean CCA",
    "mean-square": "mean squared CCA",
    "svcca": "SVCCA",
    "legacy": "legacy pwcca, as in the published code",
}


@dataclass(frozen=True)
class Estimate:
    """One score: its value, 95 % interval, chance level, and the single ``trials`` and eps that it is the mean of."""

    value: float
    low: float | None
    high: float | None
    chance: float
    trials: tuple[float, ...]
    chance_trials: tuple[float, ...] = ()
    eps: tuple[tuple[float, float], ...] = ()


def check_variant(variant: str) -> str:
    """The variant's name, or UsageError with the known ones."""
    if variant not in NAMES:
        raise UsageError(f"'{variant}' is no variant of CCA: choose among {', '.join(NAMES)}")
    return variant


def trials(n_folds: int, n_trials: int, seed: int) -> list[tuple[int, int]]:
    """(development fold, test fold) of each trial, drawn without replacement: no two trials share one."""
    if n_trials < 1 or 2 * n_trials > n_folds:
        raise UsageError(
            f"{n_trials} trials take {2 * n_trials} folds for development and test, there are {n_folds}: "
            f"type --trials {max(1, n_folds // 2)} or fewer"
        )
    drawn = np.random.default_rng(seed).permutation(n_folds)
    return [(int(drawn[2 * k]), int(drawn[2 * k + 1])) for k in range(n_trials)]


def held_out(
    folds: Sequence[Moments],
    control: Sequence[Moments],
    variants: Sequence[str] = ("pwcca",),
    eps_grid: Sequence[float] = EPS_GRID,
    n_trials: int = N_TRIALS,
    seed: int = 0,
    share: float | None = None,
) -> dict[str, Estimate]:
    """Fit on all folds but two, choose eps for x and y on the development fold, score the test fold.

    The value is the mean over ``n_trials`` trials with disjoint development and test folds, the interval
    Student's t over them (trials share training rows, so it is approximate). Every variant chooses
    its own eps, among all pairs of ``eps_grid``. Chance: the control, fitted and scored the same way with
    the eps that was chosen. ``share``: of the variance that SVCCA keeps. Raises UsageError for too few rows.
    """
    whole, whole_control = total(folds), total(control)
    found: dict[str, list[tuple[float, float, tuple[float, float]]]] = {variant: [] for variant in variants}
    for dev, test in trials(len(folds), n_trials, seed):
        for k in (dev, test):
            if folds[k].n < 2:
                raise UsageError(f"a fold has {folds[k].n} rows: take more rows or fewer folds (--n-folds)")
        train = whole - folds[dev] - folds[test]
        train_control = whole_control - control[dev] - control[test]
        for cut in dict.fromkeys(share if variant == "svcca" else None for variant in variants):
            mine = [variant for variant in variants if (share if variant == "svcca" else None) == cut]
            solver = cca.Solver(train, cut)
            best = _choose(solver, folds[dev], mine, eps_grid)
            control_solver = cca.Solver(train_control, cut, like=solver)
            for variant in mine:
                fit, eps = best[variant]
                chance = scores(control_solver.fit(*eps), control[test], [variant])[variant]
                found[variant].append((scores(fit, folds[test], [variant])[variant], chance, eps))
    return {variant: _over_trials(values) for variant, values in found.items()}


def _choose(
    solver: cca.Solver, dev: Moments, variants: Sequence[str], eps_grid: Sequence[float]
) -> dict[str, tuple[cca.Fit, tuple[float, float]]]:
    """The fit with the highest development score, for each variant; the first of equals."""
    best: dict[str, tuple[cca.Fit, tuple[float, float]]] = {}
    highest = dict.fromkeys(variants, -np.inf)
    for eps_x in eps_grid:
        for eps_y in eps_grid:
            fit = solver.fit(eps_x, eps_y)
            for variant, score in scores(fit, dev, variants).items():
                if score > highest[variant]:
                    highest[variant], best[variant] = score, (fit, (eps_x, eps_y))
    return best


def scores(fit: cca.Fit, rows: Moments, variants: Sequence[str]) -> dict[str, float]:
    """The number that each variant makes of a fit on some rows."""
    out = {"legacy": fit.score_legacy(rows)} if "legacy" in variants else {}
    if set(variants) - {"legacy"}:
        score = fit.score_moments(rows)
        out |= {"pwcca": score.pwcca, "pwcca-x": score.pwcca_x, "pwcca-y": score.pwcca_y, "mean": score.mean}
        out |= {"mean-square": score.mean_square, "svcca": score.mean}
    return {variant: out[variant] for variant in variants}


def _over_trials(values: list[tuple[float, float, tuple[float, float]]]) -> Estimate:
    found = np.array([value for value, _, _ in values])
    chances = [chance for _, chance, _ in values]
    low, high = (None if end is None else _within(end) for end in students_interval(found))
    return Estimate(
        float(found.mean()), low, high, float(np.mean(chances)), tuple(found.tolist()), tuple(chances),
        tuple(eps for _, _, eps in values),
    )  # fmt: skip


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate from those of several independent draws of rows: the mean over all their trials.

    Draws of in-sample scores share most of their rows, so their spread says little: the interval is the mean one.
    """
    if len(estimates) == 1:
        return estimates[0]
    ends = [(estimate.low, estimate.high) for estimate in estimates if len(estimate.trials) == 1]
    if len(ends) == len(estimates) and all(low is not None for low, _ in ends):
        low, high = np.mean(np.array(ends, np.float64), 0).tolist()
        whole = _over_trials([(e.value, e.chance, (0.0, 0.0)) for e in estimates])
        return replace(whole, low=low, high=high, eps=())
    rows = [
        (value, chance, eps)
        for estimate in estimates
        for value, chance, eps in zip(
            estimate.trials, estimate.chance_trials, estimate.eps or [(0.0, 0.0)] * len(estimate.trials), strict=True
        )
    ]
    return _over_trials(rows)


def in_sample(
    folds: Sequence[Moments],
    control: Sequence[Moments],
    variants: Sequence[str] = ("pwcca",),
    eps: float = IN_SAMPLE_EPS,
    share: float | None = None,
) -> dict[str, Estimate]:
    """Fit and score on the same rows, as the curves of Pasad et al. 2021 most probably were.

    Chance is far above 0 there, about sqrt(dimensions / rows): compare with the control's value. The interval
    is a jackknife that leaves one fold of rows out at a time. Raises UsageError for too few rows.
    """
    whole, whole_control = total(folds), total(control)
    values, chances = (_fitted(part, variants, eps, share) for part in (whole, whole_control))
    left_out = [_fitted(whole - fold, variants, eps, share) for fold in folds if fold.n]
    out = {}
    for variant in variants:
        ends = jackknife(values[variant], [part[variant] for part in left_out])
        low, high = (None if end is None else _within(end) for end in ends)
        out[variant] = Estimate(values[variant], low, high, chances[variant], (values[variant],), (chances[variant],))
    return out


def _fitted(moments: Moments, variants: Sequence[str], eps: float, share: float | None) -> dict[str, float]:
    out: dict[str, float] = {}
    for cut in dict.fromkeys(share if variant == "svcca" else None for variant in variants):
        fit = cca.Solver(moments, cut).fit(eps, eps)
        mine = [variant for variant in variants if (share if variant == "svcca" else None) == cut]
        out |= scores(fit, moments, mine)
    return out


def _within(value: float) -> float:
    """An end of an interval, no further than correlations go."""
    return float(np.clip(value, -1.0, 1.0))
