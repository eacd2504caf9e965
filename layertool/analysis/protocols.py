"""Scoring CCA: on held-out folds (Pasad et al. 2023) or on the rows it was fitted on (as the 2021 curves).

Both start from the moments of each fold; what the data themselves are is not needed any more. ``control``
moments are of the same x with a y that has lost its relation to it, and give the chance level.

Every column is divided by its standard deviation on the fitting rows first. So eps, the only thing here that knows of
scales, shrinks every neuron alike, and the weights of PWCCA count every neuron alike: no score changes when a neuron is
multiplied by a constant, and every eps has the same directions. SVCCA keeps the scales, which decide what it cuts away;
so does ``published``, which also deletes the dimensions whose variance is under eps of the largest, as the published
code does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from layertool.analysis import cca
from layertool.analysis.moments import Moments, standard_scales, total
from layertool.errors import UsageError
from layertool.resampling import jackknife, students_interval

# Added to the covariances, whose largest entry is 1: from nothing to as much as a neuron varies. The published grid
# hardly regularises at all where there are few rows per dimension (spec layerwise.md 9.2, item 14).
EPS_GRID = (1e-6, 1e-4, 1e-2, 1.0)
PUBLISHED_EPS_GRID = (1e-11, 1e-10, 1e-9)
IN_SAMPLE_EPS = 1e-10
N_FOLDS, N_TRIALS = 10, 3

# Each number that a fit gives on some rows. `svcca` is the mean correlation of views cut to their largest directions.
NAMES = {  # of variants, as rows name their metric
    "pwcca": "pwcca",
    "pwcca-x": "pwcca-x",
    "pwcca-y": "pwcca-y",
    "mean": "mean cca",
    "mean-square": "mean squared cca",
    "svcca": "svcca",
    "legacy": "legacy pwcca",
}


@dataclass(frozen=True)
class Estimate:
    """One score: its value, 95 % interval, chance level, and the single ``trials`` that it is the mean of, with their
    eps.

    ``directions``: of the fit of each trial, how many canonical correlations there are.
    """

    value: float
    low: float | None
    high: float | None
    chance: float
    trials: tuple[float, ...]
    chance_trials: tuple[float, ...] = ()
    eps: tuple[tuple[float, float], ...] = ()
    directions: tuple[int, ...] = ()


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
    published: bool = False,
) -> dict[str, Estimate]:
    """Fit on all folds but two, choose eps for x and y on the development fold, score the test fold.

    The value is the mean over ``n_trials`` trials with disjoint development and test folds, the interval
    Student's t over them (trials share training rows, so it is approximate). Every variant chooses
    its own eps, among all pairs of ``eps_grid``. Chance: the control, fitted and scored the same way with
    the eps that was chosen. ``share``: of the variance that SVCCA keeps. ``published``: columns as they are, and each
    eps deletes dimensions. Raises UsageError for too few rows.
    """
    whole, whole_control = total(folds), total(control)
    found: dict[str, list[tuple]] = {variant: [] for variant in variants}
    for dev, test in trials(len(folds), n_trials, seed):
        for k in (dev, test):
            if folds[k].n < 2:
                raise UsageError(f"a fold has {folds[k].n} rows: take more rows or fewer folds (--n-folds)")
        parts = whole - folds[dev] - folds[test], folds[dev], folds[test]
        control_parts = whole_control - control[dev] - control[test], control[test]
        for cut, mine in _by_cut(variants, share):
            as_they_are = published or cut is not None  # by the scales SVCCA chooses what it cuts away
            train, dev_rows, test_rows = _scaled(parts, whole, as_they_are)
            train_control, test_control = _scaled(control_parts, whole_control, as_they_are)
            solver = cca.Solver(train, cut, deleting=published)
            best = _choose(solver, dev_rows, mine, eps_grid)
            control_solver = cca.Solver(train_control, cut, like=solver, deleting=published)
            for variant in mine:
                fit, eps = best[variant]
                chance = scores(control_solver.fit(*eps), test_control, [variant])[variant]
                score = scores(fit, test_rows, [variant])[variant]
                found[variant].append((score, chance, eps, len(fit.correlations)))
    return {variant: _over_trials(*zip(*values, strict=True)) for variant, values in found.items()}


def _by_cut(variants: Sequence[str], share: float | None) -> Iterator[tuple[float | None, list[str]]]:
    """The variants that one solver serves, with the share of the variance that SVCCA keeps; None for the others."""
    cuts = {variant: share if variant == "svcca" else None for variant in variants}
    for cut in dict.fromkeys(cuts.values()):
        yield cut, [variant for variant in variants if cuts[variant] == cut]


def _scaled(parts: Sequence[Moments], whole: Moments, as_they_are: bool) -> Sequence[Moments]:
    """Moments with the columns divided by their standard deviations on the first part, unless they stay as they are."""
    if as_they_are:
        return parts
    by = standard_scales(parts[0], whole)
    return [part.scaled(*by) for part in parts]


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


def _over_trials(
    values: tuple[float, ...],
    chances: tuple[float, ...],
    eps: tuple[tuple[float, float], ...],
    directions: tuple[int, ...],
) -> Estimate:
    low, high = _within(students_interval(np.array(values)))
    return Estimate(float(np.mean(values)), low, high, float(np.mean(chances)), values, chances, eps, directions)


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate from those of several independent draws of rows: the mean over all their trials.

    Draws of in-sample scores share most of their rows, so their spread says little: the interval is the mean one.
    """
    if len(estimates) == 1:
        return estimates[0]
    names = "trials", "chance_trials", "eps", "directions"
    whole = _over_trials(*(sum((getattr(one, name) for one in estimates), ()) for name in names))
    if all(len(one.trials) == 1 and one.low is not None for one in estimates):
        low, high = (float(np.mean([getattr(one, end) for one in estimates])) for end in ("low", "high"))
        return replace(whole, low=low, high=high)
    return whole


def in_sample(
    folds: Sequence[Moments],
    control: Sequence[Moments],
    variants: Sequence[str] = ("pwcca",),
    eps: float = IN_SAMPLE_EPS,
    share: float | None = None,
    published: bool = False,
) -> dict[str, Estimate]:
    """Fit and score on the same rows, as the curves of Pasad et al. 2021 most probably were.

    Chance is far above 0 there, about sqrt(dimensions / rows): compare with the control's value. The interval
    is a jackknife that leaves one fold of rows out at a time. ``published``: columns as they are, and eps deletes
    dimensions. Raises UsageError for too few rows.
    """
    whole, whole_control = total(folds), total(control)

    def fitted(rows: Moments, like: Moments) -> dict[str, tuple[float, int]]:
        out: dict[str, tuple[float, int]] = {}
        for cut, mine in _by_cut(variants, share):
            (rows_in,) = _scaled([rows], like, published or cut is not None)
            fit = cca.Solver(rows_in, cut, deleting=published).fit(eps, eps)
            out |= {name: (value, len(fit.correlations)) for name, value in scores(fit, rows_in, mine).items()}
        return out

    values, chances = fitted(whole, whole), fitted(whole_control, whole_control)
    left_out = [fitted(whole - fold, whole) for fold in folds if fold.n]
    out = {}
    for variant, (value, directions) in values.items():
        low, high = _within(jackknife(value, [part[variant][0] for part in left_out]))
        chance, _ = chances[variant]
        out[variant] = Estimate(value, low, high, chance, (value,), (chance,), directions=(directions,))
    return out


def _within(ends: tuple[float, float] | tuple[None, None]) -> tuple[float | None, float | None]:
    """An interval no wider than correlations go."""
    low, high = (None if end is None else float(np.clip(end, -1.0, 1.0)) for end in ends)
    return low, high
