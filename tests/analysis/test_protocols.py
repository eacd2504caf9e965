"""Held-out and in-sample CCA against a slow route over raw rows (spec layerwise.md 3.2 to 3.4), and what they are for.

The slow route never forms moments: it cuts rows out, whitens with the singular values of the rows, projects,
correlates, and takes the weights from a QR of the variates themselves.
"""

import warnings
from itertools import product

import numpy as np
import pytest
from columns import standardised
from refusals import refused
from scipy import signal, stats

from layertool.analysis import cca, folds, protocols
from layertool.analysis.moments import Moments, fold_moments, total
from layertool.analysis.protocols import EPS_GRID, NAMES, PUBLISHED_EPS_GRID, held_out, in_sample

N_FOLDS = 10
VARIANTS = tuple(NAMES)


def parts_of(x, y, control, dealt, n_folds=N_FOLDS):
    return fold_moments(dealt, n_folds, [x], [y], [control])


def equally(n, n_folds=N_FOLDS, seed=0):
    return np.random.default_rng(seed).permutation(np.arange(n) % n_folds)


# --- the slow route -----------------------------------------------------------------------------------


def plain_root(view, eps, share=None, published=False):
    """Inverse symmetric root (d, d) of a scaled, regularised covariance, and how many directions it has."""
    n, d = view.shape
    centred = view - view.mean(0)
    scale = centred.var(0, ddof=1).max()
    kept = centred.var(0, ddof=1) >= (eps if published else 0) * scale
    _, singular, vt = np.linalg.svd(centred[:, kept] / np.sqrt((n - 1) * scale), full_matrices=False)
    values = singular**2
    good = values > 1e-12 * values[0]
    if share is not None:  # principal components to this share of the variance
        good[int((np.cumsum(values) / values.sum() < share).sum()) + 1 :] = False
    root = np.zeros((d, d))
    root[np.ix_(kept, kept)] = (vt[good].T / np.sqrt((values[good] + eps) * scale)) @ vt[good]
    return root, int(good.sum())


def plain_fit(x, y, eps_x, eps_y, share=None, published=False):
    """Directions (k, d1), (k, d2): singular vectors of the whitened covariance."""
    (root_x, rank_x), (root_y, rank_y) = (plain_root(*view, share, published) for view in ((x, eps_x), (y, eps_y)))
    sxy = (x - x.mean(0)).T @ (y - y.mean(0)) / (len(x) - 1)
    u, _, vt = np.linalg.svd(root_x @ sxy @ root_y)
    k = min(rank_x, rank_y)
    return u[:, :k].T @ root_x, vt[:k] @ root_y


def plain_weights(variates, neurons):
    """Of each variate, orthonormalised in their order; 0 for one that depends on those before it."""
    q, r = np.linalg.qr(variates)
    m = q.shape[1]
    out = np.zeros(variates.shape[1])
    out[:m] = np.abs(q.T @ neurons).sum(1)
    out[:m][np.diag(r) ** 2 <= cca.DEPENDENT * (variates[:, :m] ** 2).sum(0)] = 0
    return out


def plain_score(x, y, a, b, variant):
    hx, hy = (x - x.mean(0)) @ a.T, (y - y.mean(0)) @ b.T
    rho = np.array([np.corrcoef(hx[:, i], hy[:, i])[0, 1] for i in range(len(a))])
    if variant in ("mean", "svcca"):
        return rho.mean()
    if variant == "mean-square":
        return (rho**2).mean()
    if variant == "legacy":
        h, view, neurons = (hx, x, np.abs(a) > 0) if (a != 0).any(0).sum() < (b != 0).any(0).sum() else (hy, y, b != 0)
        view = view[:, neurons.any(0)][:, : len(a)]  # the first k that vary, not centred
        weights = [plain_weights(h + view.mean(0), view)]
    else:
        weights = [plain_weights(h, view - view.mean(0)) for h, view in ((hx, x), (hy, y))]
        weights = {"pwcca": weights, "pwcca-x": weights[:1], "pwcca-y": weights[1:]}[variant]
    return float(np.mean([w @ rho / w.sum() for w in weights]))


def with_signs_of(fit, a, b):
    """Directions of covariances scaled to largest entry 1, turned as LAPACK did; only the legacy score notices."""
    turns = np.sign((a * fit.a).sum(1))[:, None]
    return a * turns * np.sqrt(fit.scales[0]), b * turns * np.sqrt(fit.scales[1])


def plain_held_out(x, y, control, dealt, variant, grid, n_trials=3, seed=0, share=None, published=False):
    """(test score, chance, eps) of each trial."""
    share = share if variant == "svcca" else None
    given = x, y, control
    out = []
    for dev, test in protocols.trials(dealt.max() + 1, n_trials, seed):
        train = (dealt != dev) & (dealt != test)
        x, y, control = given if published or share else (standardised(view, train) for view in given)

        def directions(other, eps, train=train, dev=dev, test=test, x=x):
            a, b = plain_fit(x[train], other[train], *eps, share, published)
            if variant != "legacy":
                return a, b
            parts = parts_of(x, other, other, dealt)[0]
            solver = cca.Solver(total(parts) - parts[dev] - parts[test], deleting=published)
            return with_signs_of(solver.fit(*eps), a, b)

        best, highest = None, -np.inf
        for eps in product(grid, grid):
            found = directions(y, eps)
            score = plain_score(x[dealt == dev], y[dealt == dev], *found, variant)
            if score > highest:
                best, highest = (found, eps), score
        found, eps = best
        value = plain_score(x[dealt == test], y[dealt == test], *found, variant)
        level = plain_score(x[dealt == test], control[dealt == test], *directions(control, eps), variant)
        out.append((value, level, eps))
    return out


def related(n=700, d1=7, d2=4, seed=0, size=1.0):
    random = np.random.default_rng(seed)
    latent = random.standard_normal((n, 3))
    x = latent @ random.standard_normal((3, d1)) + size * random.standard_normal((n, d1)) + 2.0
    y = latent @ random.standard_normal((3, d2)) + size * random.standard_normal((n, d2)) - np.arange(d2)
    return x, y, y[random.permutation(n)]


def uneven(seed=1):
    """Variances over four powers of ten: where they are not standardised, eps decides which dimensions there are."""
    x, y, control = related(500, 9, 5, seed)
    return x * np.logspace(0, -2.2, 9), y * [1, 0.3, 0.09, 0.04, 0.9], control * [1, 0.3, 0.09, 0.04, 0.9]


def noisy(seed=2):
    """Few rows for each dimension: the development fold has something to choose."""
    x, y, control = related(400, 60, 25, seed, size=3.0)
    return x @ np.diag(np.logspace(0, -1.5, 60)), y, control


def few(seed=6):
    """Folds of fewer rows than there are directions: the last variates depend on the others there."""
    x, y, control = related(240, 40, 25, seed, size=3.0)
    return x, y, control


def wide_target(seed=3):
    """The layer is the narrower view: legacy weights are its own."""
    y, x, _ = related(500, 9, 4, seed)
    return x, y, y[np.random.default_rng(seed).permutation(500)]


def with_labels(seed=4):
    """One-hot labels, one rarer than the other, and a layer with a column that never changes."""
    random = np.random.default_rng(seed)
    labels = np.searchsorted([0.35, 0.6, 0.8, 0.92], random.random(600))
    y = np.eye(5)[labels]
    x = y @ random.standard_normal((5, 8)) + random.standard_normal((600, 8))
    x[:, 3] = 7.0
    return x, y, y[random.permutation(600)]


DATA = {
    "related": related,
    "uneven": uneven,
    "noisy": noisy,
    "few": few,
    "wide target": wide_target,
    "labels": with_labels,
}


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("variant", VARIANTS)
def test_held_out_is_the_slow_route(data, variant):
    x, y, control = DATA[data]()
    dealt = equally(len(x))
    expected = plain_held_out(x, y, control, dealt, variant, EPS_GRID, seed=5, share=0.8)
    found = held_out(*parts_of(x, y, control, dealt), (variant,), EPS_GRID, seed=5, share=0.8)[variant]
    # a fold of `few` has hardly more rows than there are directions: the products of its variates are nearly
    # singular, and orthonormalising from products keeps half of the digits there that QR of the rows keeps
    within = 1e-7 if data == "few" else 1e-10
    assert found.trials == pytest.approx([value for value, _, _ in expected], abs=within)
    assert found.chance_trials == pytest.approx([level for _, level, _ in expected], abs=within)
    assert found.value == pytest.approx(np.mean(found.trials), abs=1e-14)
    assert found.chance == pytest.approx(np.mean(found.chance_trials), abs=1e-14)
    if data == "noisy":  # elsewhere the scores of neighbours on the grid are nearly the same
        assert found.eps == tuple(eps for _, _, eps in expected)


def test_the_choice_of_eps_matters_where_rows_are_few():
    x, y, control = noisy()
    parts = parts_of(x, y, control, equally(len(x)))
    chosen, least = held_out(*parts)["pwcca"], held_out(*parts, eps_grid=EPS_GRID[:1])["pwcca"]
    assert max(max(eps) for eps in chosen.eps) == 1
    assert chosen.value > least.value + 0.01


@pytest.mark.parametrize("variant", ["pwcca", "mean", "legacy"])
@pytest.mark.parametrize("grid", [PUBLISHED_EPS_GRID, EPS_GRID], ids=["published", "wide"])
def test_as_published_and_another_number_of_trials(variant, grid):
    """Columns as they are; of the wide grid, eps of 1e-6 and more delete dimensions."""
    x, y, control = uneven()
    x[:, 4] *= 1e-2
    dealt = equally(len(x))
    expected = plain_held_out(x, y, control, dealt, variant, grid, 5, 9, published=True)
    found = held_out(*parts_of(x, y, control, dealt), (variant,), grid, 5, 9, published=True)[variant]
    assert found.trials == pytest.approx([value for value, _, _ in expected], abs=1e-10)
    assert found.eps == tuple(eps for _, _, eps in expected)


def test_variants_together_are_the_variants_alone():
    x, y, control = uneven()
    parts = parts_of(x, y, control, equally(len(x)))
    together = held_out(*parts, VARIANTS, share=0.8)
    assert tuple(together) == VARIANTS
    for variant in VARIANTS:
        assert together[variant] == held_out(*parts, (variant,), share=0.8)[variant]
    together = in_sample(*parts, VARIANTS, share=0.8)
    for variant in VARIANTS:
        assert together[variant] == in_sample(*parts, (variant,), share=0.8)[variant]


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95, 1.0])
def test_svcca_keeps_the_share_that_was_asked(share):
    x, y, control = related()
    dealt = equally(len(x))
    expected = plain_held_out(x, y, control, dealt, "svcca", [1e-8], share=share)
    found = held_out(*parts_of(x, y, control, dealt), ("svcca",), [1e-8], share=share)["svcca"]
    assert found.trials == pytest.approx([value for value, _, _ in expected], abs=1e-10)
    if share == 1.0:
        mean = held_out(*parts_of(x, y, control, dealt), ("mean",), [1e-8])["mean"]
        assert found.trials == pytest.approx(
            mean.trials, abs=1e-7
        )  # eps is of the largest neuron here, of each one there


# --- legacy -------------------------------------------------------------------------------------------


def centred_folds(view, dealt):
    return np.concatenate([view[dealt == k] - view[dealt == k].mean(0) for k in range(N_FOLDS)])


def test_legacy_on_centred_data_with_the_narrower_target_is_pwcca_y():
    x, y, control = related()
    dealt = equally(len(x))
    parts = parts_of(*(centred_folds(view, dealt) for view in (x, y, control)), np.sort(dealt))
    found = held_out(*parts, ("legacy", "pwcca-y"))
    assert found["legacy"].trials == pytest.approx(found["pwcca-y"].trials, abs=1e-10)
    assert found["legacy"].eps == found["pwcca-y"].eps


def test_legacy_changes_under_translation_and_pwcca_does_not():
    x, y, control = related()
    dealt = equally(len(x))
    plain, moved = (
        held_out(*parts_of(x, view, control, dealt), ("legacy", "pwcca", "pwcca-x", "pwcca-y"))
        for view in (y, y + 100.0)
    )
    assert abs(moved["legacy"].value - plain["legacy"].value) > 0.01
    for variant in ("pwcca", "pwcca-x", "pwcca-y"):
        assert moved[variant].value == pytest.approx(plain[variant].value, abs=1e-10)


@pytest.mark.parametrize("d2", [4, 7, 9])  # y is narrower, as wide, wider
def test_legacy_takes_its_weights_from_the_narrower_view_or_y(d2):
    x, y, _ = related(300, 7, d2)
    fit = cca.fit(x[:200], y[:200])
    x, y = x[200:], y[200:]
    moments = Moments.of(x, y)
    expected = plain_score(x, y, *with_signs_of(fit, fit.a, fit.b), "legacy")
    assert fit.score_legacy(moments) == pytest.approx(expected, abs=1e-10)
    others = Moments.of(*((x, y + 100) if d2 == 9 else (x + 100, y)))  # the view without the weights may move
    assert fit.score_legacy(others) == pytest.approx(expected, abs=1e-10)


# --- trials and intervals -----------------------------------------------------------------------------


def test_trials_never_share_a_fold():
    seen = set()
    for seed in range(50):
        found = protocols.trials(10, 5, seed)
        used = [fold for trial in found for fold in trial]
        assert sorted(used) == list(range(10))
        assert protocols.trials(10, 5, seed) == found
        assert protocols.trials(10, 3, seed) == found[:3]  # more trials do not change the first ones
        seen.add(tuple(used))
    assert len(seen) > 40
    assert protocols.trials(3, 1, 0)[0][0] != protocols.trials(3, 1, 0)[0][1]


@pytest.mark.parametrize(("n_folds", "n_trials"), [(10, 6), (3, 2), (10, 0)])
def test_more_trials_than_folds(n_folds, n_trials):
    refused(rf"{n_trials} trials take .* there are {n_folds}: type --trials", protocols.trials, n_folds, n_trials, 0)


def test_the_same_seed_gives_the_same_answer():
    x, y, control = noisy()
    parts = parts_of(x, y, control, equally(len(x)))
    assert held_out(*parts, VARIANTS, seed=3) == held_out(*parts, VARIANTS, seed=3)
    assert held_out(*parts, seed=3)["pwcca"].trials != held_out(*parts, seed=4)["pwcca"].trials


@pytest.mark.parametrize("n_trials", [2, 3, 5])
def test_the_interval_is_students(n_trials):
    x, y, control = noisy()
    found = held_out(*parts_of(x, y, control, equally(len(x))), n_trials=n_trials)["pwcca"]
    assert len(found.trials) == len(found.chance_trials) == len(found.eps) == n_trials
    low, high = stats.t.interval(0.95, n_trials - 1, np.mean(found.trials), stats.sem(found.trials))
    assert (found.low, found.high) == pytest.approx((max(low, -1), min(high, 1)), abs=1e-12)


def test_one_trial_has_no_interval():
    x, y, control = related()
    found = held_out(*parts_of(x, y, control, equally(len(x))), n_trials=1)["pwcca"]
    assert (found.low, found.high) == (None, None)
    assert found.value == found.trials[0]


def test_samples_are_pooled_over_all_their_trials():
    x, y, control = noisy()
    estimates = [held_out(*parts_of(x, y, control, equally(len(x), seed=k)), seed=k)["pwcca"] for k in range(3)]
    found = protocols.pooled(estimates)
    trials = [trial for estimate in estimates for trial in estimate.trials]
    assert found.trials == tuple(trials)
    assert found.eps == tuple(eps for estimate in estimates for eps in estimate.eps)
    assert found.value == pytest.approx(np.mean(trials), abs=1e-14)
    assert found.chance == pytest.approx(np.mean([c for e in estimates for c in e.chance_trials]), abs=1e-14)
    low, high = stats.t.interval(0.95, 8, np.mean(trials), stats.sem(trials))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert protocols.pooled(estimates[:1]) is estimates[0]


def plain_jackknife(value, left_out):
    g = len(left_out)
    variance = (g - 1) / g * sum((part - sum(left_out) / g) ** 2 for part in left_out)
    reach = stats.t.ppf(0.975, g - 1) * variance**0.5
    return value - reach, value + reach


@pytest.mark.parametrize("data", ["related", "uneven", "labels"])
def test_in_sample_is_fit_and_score_on_the_same_rows(data):
    x, y, control = DATA[data]()
    dealt = equally(len(x))
    found = in_sample(*parts_of(x, y, control, dealt), VARIANTS, 1e-6, 0.8)
    names = {"pwcca": "pwcca", "pwcca-x": "pwcca_x", "pwcca-y": "pwcca_y", "mean": "mean", "mean-square": "mean_square"}

    def score(variant, other, kept):
        u, v = (view if variant == "svcca" else standardised(view) for view in (x[kept], other[kept]))
        if variant in names:
            return getattr(cca.fit(u, v, 1e-6, 1e-6).score(u, v), names[variant])
        a, b = plain_fit(u, v, 1e-6, 1e-6, 0.8 if variant == "svcca" else None)
        if variant == "legacy":
            a, b = with_signs_of(cca.fit(u, v, 1e-6, 1e-6), a, b)
        return plain_score(u, v, a, b, variant)

    for variant in VARIANTS:
        everything = np.ones(len(x), bool)
        value = score(variant, y, everything)
        assert found[variant].value == pytest.approx(value, abs=1e-10)
        assert found[variant].trials == (found[variant].value,)
        assert found[variant].chance == pytest.approx(score(variant, control, everything), abs=1e-10)
        if variant != "legacy":  # whose signs are drawn anew without each fold
            u, v = (view if variant == "svcca" else standardised(view) for view in (x, y))
            directions = plain_fit(u, v, 1e-6, 1e-6, 0.8 if variant == "svcca" else None)
            assert value == pytest.approx(plain_score(u, v, *directions, variant), abs=1e-10)
            low, high = plain_jackknife(value, [score(variant, y, dealt != k) for k in range(N_FOLDS)])
            ends = (max(low, -1), min(high, 1))
            assert (found[variant].low, found[variant].high) == pytest.approx(ends, abs=1e-10)
            assert found[variant].low < value < found[variant].high


def test_folds_without_rows_are_no_groups_of_the_jackknife():
    x, y, control = related()
    dealt = equally(len(x), 4)
    few, many = (in_sample(*parts_of(x, y, control, dealt, n))["pwcca"] for n in (4, 9))
    assert many == few
    assert few.low is not None


# --- what the protocols are for -----------------------------------------------------------------------


@pytest.mark.parametrize("target", ["gaussian", "one-hot"])
def test_chance(target):
    """Independent views: about 0 held-out, about sqrt(dimensions / rows) in-sample."""
    n, d, k = 7500, 300, 39
    random = np.random.default_rng(0)
    x = random.standard_normal((n, d))
    y = random.standard_normal((n, k)) if target == "gaussian" else np.eye(k)[random.integers(0, k, n)]
    parts = parts_of(x, y, y[random.permutation(n)], equally(n))
    found = held_out(*parts, ("pwcca", "mean"))
    for variant in ("pwcca", "mean"):
        assert abs(found[variant].value) < 0.02
        assert abs(found[variant].chance) < 0.02
    found = in_sample(*parts, ("pwcca", "mean", "mean-square"))
    assert found["mean-square"].value == pytest.approx(d / n, abs=0.003)  # its expectation, for Gaussians
    for variant in ("pwcca", "mean"):
        assert found[variant].value == pytest.approx(np.sqrt(d / n), abs=0.02)
        assert found[variant].chance == pytest.approx(np.sqrt(d / n), abs=0.02)


def test_a_view_with_itself_is_1():
    x, _, control = related()
    parts = parts_of(x, x, control[:, :3], equally(len(x)))
    for found in (held_out(*parts, VARIANTS), in_sample(*parts, VARIANTS)):
        for variant in VARIANTS:
            assert found[variant].value == pytest.approx(1, abs=1e-6)
            assert found[variant].high <= 1
            assert found[variant].chance < 0.5


def test_one_hot_labels_have_one_direction_less_than_classes_and_warn_of_nothing():
    x, y, control = with_labels()
    dealt = equally(len(x))  # not every class need be in every fold
    dealt[(y[:, 2] == 1) & (dealt == 6)] = 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, controls = parts_of(x, y, control, dealt)
        fit = cca.Solver(total(plain)).fit(1e-8, 1e-8)
        found = held_out(plain, controls, VARIANTS, n_trials=5)
        inside = in_sample(plain, controls, VARIANTS)
    assert len(fit.correlations) == 4
    for variant in VARIANTS:
        for estimate in (found[variant], inside[variant]):
            assert np.isfinite([*estimate.trials, *estimate.chance_trials, estimate.low, estimate.high]).all()
            assert max(estimate.trials) <= 1 + 1e-12
    assert found["mean"].value > 0.4
    assert abs(found["mean"].chance) < 0.2


def test_constant_columns_change_nothing():
    x, y, control = related()
    dealt = equally(len(x))
    variants = ("mean", "mean-square", "pwcca", "pwcca-x", "pwcca-y", "svcca")
    plain = held_out(*parts_of(x, y, control, dealt), variants)
    wider = np.hstack([x[:, :2], np.full((len(x), 2), 1 / 3), x[:, 2:]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = held_out(*parts_of(wider, np.hstack([np.zeros((len(x), 1)), y]), control, dealt), variants)
    for variant in variants:
        assert found[variant].trials == pytest.approx(plain[variant].trials, abs=1e-10)


def test_too_few_rows():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((50, 40)), random.standard_normal((50, 3))
    parts = parts_of(x, y, y[::-1], equally(50))  # 40 rows to fit on
    refused("40 rows of 40 dimensions: canonical correlation needs more rows", held_out, *parts)
    refused("45 rows of 45 dimensions", in_sample, *parts_of(random.standard_normal((50, 45)), y, y[::-1], equally(50)))


def test_svcca_of_as_many_components_as_rows():
    """40 centred rows have 39 components: they span all there is, and every correlation is 1 for any data."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((50, 60)), random.standard_normal((50, 3))
    parts = parts_of(x, y, y[::-1], equally(50))
    found = held_out(*parts, ("svcca",), share=0.5)  # the first components are fewer
    assert np.isfinite(found["svcca"].value)
    for protocol in (held_out, in_sample):
        refused("more rows than dimensions", protocol, *parts, ("svcca",), share=1.0)


def test_a_fold_that_is_too_small_to_score():
    x, y, control = related(100)
    dealt = equally(100, 9)
    dealt[0] = 9  # alone in its fold
    refused("a fold has 1 rows: take more rows or fewer folds", held_out, *parts_of(x, y, control, dealt), n_trials=5)


def test_a_constant_view():
    x, y, control = related()
    refused("a view is constant", held_out, *parts_of(x, np.full_like(y, 0.1), control, equally(len(x))))


# --- leaks --------------------------------------------------------------------------------------------


def test_independent_slow_sequences_leak_through_random_folds_only():
    """AR(0.97) sequences that have nothing to do with each other, in 40 utterances of 100 frames (spec 6).

    4000 such frames are worth about 60 independent ones: single draws scatter, so the mean over draws is tested.
    """
    n, utterance = 4000, np.repeat(np.arange(40), 100)
    lengths = np.full(40, 100 * 320)
    strict, levels = [], []
    for seed in range(8):
        random = np.random.default_rng(seed)
        noise = (random.standard_normal((40, 400, d)) for d in (60, 30))
        x, y = (signal.lfilter([1], [1, -0.97], u, axis=1)[:, 300:].reshape(n, -1) for u in noise)
        control = np.roll(y, n // 2, axis=0)
        leaking = held_out(*parts_of(x, y, control, folds.random(n, None, N_FOLDS, seed)))["pwcca"]
        assert leaking.value > 0.5
        assert leaking.chance > 0.5  # turned by half, the target leaks as much: chance says so
        dealt = folds.by_utterance(np.arange(40), lengths, N_FOLDS, seed)[utterance]
        found = held_out(*parts_of(x, y, control, dealt))["pwcca"]
        strict.append(found.value)
        levels.append(found.chance)
    assert abs(np.mean(strict)) < 0.05
    assert abs(np.mean(levels)) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_random_embeddings_of_types_leak_through_token_folds_only(seed):
    """A random vector for each type says which type it is, and nothing else (spec 6)."""
    n_types, n_tokens, random = 200, 14, np.random.default_rng(seed)
    types = np.repeat(np.arange(n_types), n_tokens)
    x = random.standard_normal((n_types, 50))[types] + random.standard_normal((len(types), 50))
    embedding = random.standard_normal((n_types, 40))
    y, control = embedding[types], random.standard_normal(embedding.shape)[types]
    token = held_out(*parts_of(x, y, control, folds.random(len(types), types, N_FOLDS, seed)))["pwcca"]
    disjoint = folds.disjoint(types, None, N_FOLDS, seed, "labels")
    strict = held_out(*parts_of(x, y, control, disjoint))["pwcca"]
    assert token.value > 0.25
    assert token.chance > 0.25
    assert abs(strict.value) < 0.1
    assert abs(strict.chance) < 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_not_finite_are_no_constant_view(bad, side):
    random = np.random.default_rng(0)
    views = [random.standard_normal((60, 3)) for _ in range(2)]
    views[side][7, 1] = bad
    with np.errstate(invalid="ignore"):
        moments = fold_moments(np.arange(60) % 10, 10, [views[0]], [views[1]], [views[1][::-1]])
        for score in (protocols.held_out, protocols.in_sample):
            refused("not finite", score, *moments)
        refused("not finite", cca.fit, *views)
