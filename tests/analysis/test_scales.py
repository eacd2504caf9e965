"""No score of CCA follows the scale of a neuron, and every eps has the same directions."""

import itertools

import models
import numpy as np
import pytest

from layertool.analysis import cca, matrix, protocols
from layertool.analysis.moments import fold_moments, standard_scales, total
from layertool.analysis.protocols import EPS_GRID, NAMES, held_out, in_sample
from layertool.models import acoustic

N_FOLDS = 10
SCALED = tuple(name for name in NAMES if name != "svcca")  # which the scales decide by definition
EXACT = 1e-9


def shared_factors(n=4000, d1=40, d2=20, k=8, seed=0):
    """Two views with eight factors in common, each with noise of its own."""
    random = np.random.default_rng(seed)
    latent = random.standard_normal((n, k))
    x = latent @ random.standard_normal((k, d1)) + 6 * random.standard_normal((n, d1)) + random.standard_normal(d1)
    y = latent @ random.standard_normal((k, d2)) + 6 * random.standard_normal((n, d2)) + random.standard_normal(d2)
    return x, y


def labels_of(x, n_labels=12, seed=1):
    """One-hot labels (n, n_labels) that a view says something about; the last is rare."""
    scores = x @ np.random.default_rng(seed).standard_normal((x.shape[1], n_labels))
    scores = (scores - scores.mean(0)) / scores.std(0)
    scores[:, -1] -= 2
    return np.eye(n_labels)[scores.argmax(1)]


def cepstra():
    """MFCC with both orders of deltas, whose variances span three powers of ten, and labels."""
    x = acoustic.features("mfcc", models.speech_like(16_000 * 30, 3)).astype(np.float64)
    return x, labels_of(x + 0.1 * np.random.default_rng(0).standard_normal(x.shape) * x.std(0))


def attributes():
    """A layer and word vectors whose columns span six powers of ten, as counts and ratings do."""
    random = np.random.default_rng(5)
    x = random.standard_normal((1500, 60))
    y = (x[:, :15] @ random.standard_normal((15, 15)) + 5 * random.standard_normal((1500, 15))) * np.logspace(-3, 3, 15)
    return x, y


DATA = {"factors": shared_factors, "cepstra": cepstra, "attributes": attributes}
FACTORS = {
    "one hundredfold": lambda d: np.where(np.arange(d) == 3, 100.0, 1.0),
    "one hundredth": lambda d: np.where(np.arange(d) == d - 2, 0.01, 1.0),
    "one turned": lambda d: np.where(np.arange(d) == 1, -7.0, 1.0),
    "all": lambda d: 10.0 ** np.random.default_rng(d).uniform(-4, 4, d) * np.where(np.arange(d) % 3, 1, -1),
}


def scores_of(x, y, seed=0):
    """Every score, interval end and chance level of both protocols, by name."""
    dealt = np.random.default_rng(seed).permutation(np.arange(len(x)) % N_FOLDS)
    parts = fold_moments(dealt, N_FOLDS, [x], [y], [np.roll(y, len(y) // 2, axis=0)])
    found = {}
    for protocol, estimates in (("held-out", held_out(*parts, SCALED)), ("in-sample", in_sample(*parts, SCALED))):
        for name, e in estimates.items():
            found |= {(protocol, name, k): value for k, value in enumerate((*e.trials, *e.chance_trials))}
            if (protocol, name) != ("in-sample", "legacy"):  # without a fold its directions may turn over
                found |= {(protocol, name, "low"): e.low, (protocol, name, "high"): e.high}
            found[protocol, name, "directions"] = e.directions
    return found


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("side", ["x", "y", "both"])
def test_no_score_changes_with_the_scale_of_a_column(data, factors, side):
    x, y = DATA[data]()
    by_x, by_y = (FACTORS[factors](view.shape[1]) if side in (s, "both") else 1.0 for s, view in (("x", x), ("y", y)))
    plain, scaled = scores_of(x, y), scores_of(x * by_x, y * by_y)
    for name, value in plain.items():
        assert scaled[name] == pytest.approx(value, abs=EXACT), name


def test_a_neuron_a_hundredfold_is_no_finding():
    """In 0.1.0 the mean CCA of these rows went from .31 to .68, as eps deleted all other neurons."""
    x, y = shared_factors()
    by = np.ones(x.shape[1])
    by[3] = 100
    found = [scores_of(view, y)["held-out", "mean", "directions"] for view in (x, x * by)]
    assert found == [(20, 20, 20)] * 2


@pytest.mark.parametrize("name", ["pwcca", "mean", "mean-square"])
@pytest.mark.parametrize("factors", FACTORS)
def test_no_cell_of_a_matrix_changes_with_the_scale_of_a_column(name, factors):
    x, y = shared_factors(800, 20, 12)
    groups = np.arange(800) % 5

    def cells(x, y):
        views = {"x": x, "y": y, "control": np.roll(y, 400, axis=0)}
        return matrix.fill(lambda side, _: [views[side]], [0], [0], cca.InSampleCCA(name), groups)

    plain = cells(x, y)
    scaled = cells(x * FACTORS[factors](20), y * FACTORS[factors](12))
    for part in ("value", "low", "high", "chance"):
        assert getattr(scaled, part) == pytest.approx(getattr(plain, part), abs=EXACT)
    assert plain.directions.tolist() == scaled.directions.tolist() == [[12]]


def test_every_eps_has_the_same_directions():
    x, y = cepstra()
    dealt = np.arange(len(x)) % N_FOLDS
    whole = total(fold_moments(dealt, N_FOLDS, [x], [y], [y])[0])
    solver = cca.Solver(whole.scaled(*standard_scales(whole, whole)))
    for eps in itertools.product((*EPS_GRID, 1e-11, 100.0), repeat=2):
        assert len(solver.fit(*eps).correlations) == 11, eps  # of 12 labels
    # as the published code has it, more of eps is fewer directions: the cepstra's deltas go first
    deleted = [len(cca.fit(x, x[:, ::-1] ** 2, eps, eps).correlations) for eps in (1e-10, 1e-2)]
    assert deleted[0] == 39 > deleted[1]


def test_dimensions_go_only_at_rounding():
    """A neuron of a billionth of the others' variance is one, a constant and a copy are none."""
    x, y = shared_factors(600, 10, 30)
    x[:, 2] *= 1e-9
    wide = np.hstack([x, np.full((600, 2), 0.1), 3 * x[:, :1]])
    assert set(scores_of(wide, y)["held-out", "mean", "directions"]) == {10}
    plain, constant = scores_of(x, y), scores_of(wide[:, :12], y)  # the copy counts twice, as any two neurons do
    assert constant["held-out", "pwcca", 0] == pytest.approx(plain["held-out", "pwcca", 0], abs=EXACT)


def test_a_label_of_the_test_fold_alone_is_no_direction_of_the_fit():
    """Of moments that are differences, such a column leaves rounding: it is nothing, however it is scaled."""
    x, y = shared_factors(500, 6, 4)
    dealt = np.arange(500) % N_FOLDS
    rare = np.zeros((500, 1))
    for scale in (1.0, 1e6):
        (dev, test), *_ = protocols.trials(N_FOLDS, 1, 0)
        rare[dealt == test] = scale * np.arange((dealt == test).sum())[:, None]
        parts = fold_moments(dealt, N_FOLDS, [x], [np.hstack([y, rare])], [y[::-1]])
        train = total(parts[0]) - parts[0][dev] - parts[0][test]
        assert standard_scales(train, total(parts[0]))[1][4] == 0
        assert held_out(*parts, n_trials=1)["pwcca"].directions == (4,)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_random_attributes_of_unequal_scale_are_at_chance(seed):
    """Vectors for 300 words that say nothing, columns over six powers of ten; words are in one fold each."""
    random = np.random.default_rng(seed)
    words = np.repeat(np.arange(300), 8)
    centres, vectors = random.standard_normal((300, 50)), random.standard_normal((2, 300, 24)) * np.logspace(-3, 3, 24)
    x = centres[words] + random.standard_normal((2400, 50))
    dealt = (np.arange(300) % N_FOLDS)[words]
    parts = fold_moments(dealt, N_FOLDS, [x], [vectors[0][words]], [vectors[1][words]])
    for estimate in held_out(*parts, ("pwcca", "mean")).values():
        assert abs(estimate.value) < 0.05
        assert abs(estimate.chance) < 0.05
