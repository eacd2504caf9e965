"""Golden values of spec layerwise.md 11.1 and the properties of 11.2."""

import warnings

import numpy as np
import pytest
from refusals import refused
from scipy import linalg

from layertool.analysis import cca
from layertool.analysis.moments import Moments


@pytest.fixture(scope="module")
def golden():
    i = np.arange(200.0)[:, None]
    s = [np.sin(0.37 * (k + 1) * i + k) for k in range(3)]
    x = [
        sum(s[k] * np.cos(1 + j * (k + 1)) for k in range(3)) + 0.5 * np.sin(1.3 * (j + 2) * i + 0.1 * j)
        for j in range(5)
    ]
    y = [
        sum(s[k] * np.sin(2 + m * (k + 2)) for k in range(3)) + 0.5 * np.cos(0.9 * (m + 3) * i + 0.2 * m)
        for m in range(3)
    ]
    return np.hstack(x), np.hstack(y)


def noise(n: int, d1: int, d2: int, seed: int = 0):
    random = np.random.default_rng(seed)
    return random.standard_normal((n, d1)), random.standard_normal((n, d2))


def related(n: int, d1: int, d2: int, seed: int = 0, size: float = 1.0):
    """Two views of one latent signal of three dimensions."""
    random = np.random.default_rng(seed)
    latent = random.standard_normal((n, 3))
    x = latent @ random.standard_normal((3, d1)) + size * random.standard_normal((n, d1))
    return x, latent @ random.standard_normal((3, d2)) + size * random.standard_normal((n, d2))


def test_the_input_of_the_golden_test(golden):
    x, y = golden
    assert x[0] == pytest.approx([0.945944, -1.37749, 1.02355, 0.019181, 0.253159], abs=1e-5)
    assert y[199] == pytest.approx([-1.759366, 1.717357, -0.804445], abs=1e-5)


def test_golden_values(golden):
    x, y = golden
    fit = cca.fit(x[:160], y[:160], eps_x=1e-10, eps_y=1e-10)
    assert fit.correlations == pytest.approx([0.91765826, 0.89205870, 0.37851589], abs=1e-7)
    train = fit.score(x[:160], y[:160])
    assert (train.pwcca_x, train.pwcca_y, train.pwcca) == pytest.approx((0.76332153, 0.82752319, 0.79542236), abs=1e-7)
    assert train.mean == pytest.approx(0.72941095, abs=1e-7)
    test = fit.score(x[160:], y[160:])
    assert test.correlations == pytest.approx([0.91823407, 0.88688561, 0.73644987], abs=1e-7)
    assert (test.pwcca_x, test.pwcca_y, test.pwcca) == pytest.approx((0.86149274, 0.89297119, 0.87723197), abs=1e-7)
    assert test.mean == pytest.approx(0.84718985, abs=1e-7)
    assert test.mean_square == pytest.approx(np.mean(test.correlations**2))


def plain_cca(x, y, eps_x, eps_y):
    """The published recipe, step by step: scaled covariances, pinv, symmetric roots."""
    x, y = x - x.mean(0), y - y.mean(0)
    sxx, syy, sxy = x.T @ x / (len(x) - 1), y.T @ y / (len(y) - 1), x.T @ y / (len(x) - 1)
    a, b = np.abs(sxx).max(), np.abs(syy).max()
    sxx, syy, sxy = sxx / a + eps_x * np.eye(len(sxx)), syy / b + eps_y * np.eye(len(syy)), sxy / np.sqrt(a * b)
    root_x, root_y = linalg.sqrtm(np.linalg.pinv(sxx)).real, linalg.sqrtm(np.linalg.pinv(syy)).real
    u, s, vt = np.linalg.svd(root_x @ sxy @ root_y, full_matrices=False)
    return u.T @ root_x, vt @ root_y, s


def plain_pwcca(x, y, a, b):
    """Both directions by QR of the canonical variates themselves."""
    x, y = x - x.mean(0), y - y.mean(0)
    hx, hy = x @ a.T, y @ b.T
    rho = np.array([np.corrcoef(hx[:, k], hy[:, k])[0, 1] for k in range(hx.shape[1])])
    out = []
    for h, view in ((hx, x), (hy, y)):
        q, _ = np.linalg.qr(h)
        alpha = np.abs(q.T @ view).sum(1)
        out.append(alpha @ rho / alpha.sum())
    return rho, out


@pytest.mark.parametrize("eps", [1e-10, 1e-6, 1e-3])
@pytest.mark.parametrize(("d1", "d2"), [(6, 4), (4, 6), (5, 5), (12, 1)])
def test_equal_to_the_plain_recipe(d1, d2, eps):
    x, y = related(300, d1, d2)
    a, b, s = plain_cca(x[:200], y[:200], eps, eps)
    fit = cca.fit(x[:200], y[:200], eps, eps)
    assert fit.correlations == pytest.approx(s, abs=1e-10)
    for part in (slice(0, 200), slice(200, 300)):
        rho, (px, py) = plain_pwcca(x[part], y[part], a, b)
        score = fit.score(x[part], y[part])
        assert score.correlations == pytest.approx(rho, abs=1e-8)
        assert (score.pwcca_x, score.pwcca_y) == pytest.approx((px, py), abs=1e-8)


def test_moments_of_folds_add_up_to_the_direct_route():
    x, y = related(400, 7, 5)
    parts = [Moments.of(x[k::4], y[k::4]) for k in range(4)]
    train = parts[0] + parts[1] + parts[2]
    rows = np.sort(np.concatenate([np.arange(k, 400, 4) for k in range(3)]))
    summed, direct = cca.Solver(train, deleting=True).fit(1e-8, 1e-8), cca.fit(x[rows], y[rows], 1e-8, 1e-8)
    assert summed.correlations == pytest.approx(direct.correlations, abs=1e-10)
    assert summed.score_moments(parts[3]).pwcca == pytest.approx(direct.score(x[3::4], y[3::4]).pwcca, abs=1e-10)


def test_correlations_do_not_change_under_invertible_maps_and_translation():
    x, y = related(500, 6, 4)
    random = np.random.default_rng(1)
    mapped = 3.0 * x @ random.standard_normal((6, 6)) + 50.0
    plain, other = cca.fit(x, y), cca.fit(mapped, y @ random.standard_normal((4, 4)) - 7.0)
    assert other.correlations == pytest.approx(plain.correlations, abs=1e-6)


def test_pwcca_under_translation_scaling_permutation_but_not_linear_maps():
    x, y = related(500, 6, 4)
    random = np.random.default_rng(1)
    plain = cca.fit(x, y).score(x, y).pwcca
    for other in (x + 100.0, 1000.0 * x, x[:, random.permutation(6)]):
        assert cca.fit(other, y).score(other, y).pwcca == pytest.approx(plain, abs=1e-6)
    stretched = x * [1, 1, 1, 1, 1, 100.0]
    assert abs(cca.fit(stretched, y).score(stretched, y).pwcca - plain) > 1e-3


def test_constant_and_repeated_columns():
    x, y = related(400, 5, 3)
    padded = np.hstack([x, np.full((400, 2), 4.0), x[:, :2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = cca.fit(padded, y)
    assert fit.correlations == pytest.approx(cca.fit(x, y).correlations, abs=1e-6)
    assert fit.a.shape == (3, 9)
    assert (fit.a[:, 5:7] == 0).all()


def test_a_view_that_does_not_vary_where_it_is_scored_has_no_correlation():
    x, y = related(300, 4, 3)
    score = cca.fit(x, y).score(x[:50], np.tile(y[:1], (50, 1)))
    assert (score.correlations == 0).all()
    assert score.pwcca == 0


def test_errors():
    x, y = noise(50, 60, 3)
    refused("50 rows of 60 dimensions: canonical correlation needs more rows", cca.fit, x, y)
    refused(r"x has shape \(50, 60\), y has shape \(49, 3\)", cca.fit, x, y[1:])
    refused("a view is constant", cca.fit, np.ones((50, 2)), y)


@pytest.mark.parametrize("size", [0.2, 3.0, 20.0])
def test_legacy_by_the_steps_of_the_published_code(size):
    """Spec layerwise.md 3.2 and 3.3 from the rows, with its scaled covariances; the signs are those of the fit."""
    random = np.random.default_rng(4)
    x = random.standard_normal((300, 9)) @ random.standard_normal((9, 9)) + 2
    y = size * (x[:, :6] @ random.standard_normal((6, 6)) + 3 * random.standard_normal((300, 6)) + 1.5)
    covariance = np.cov(x.T, y.T)
    sxx, syy, sxy = covariance[:9, :9], covariance[9:, 9:], covariance[:9, 9:]
    a, b = np.abs(sxx).max(), np.abs(syy).max()
    roots = []
    for scaled in (sxx / a, syy / b):
        values, vectors = np.linalg.eigh(np.linalg.pinv(scaled + 1e-10 * np.eye(len(scaled)), hermitian=True))
        roots.append((vectors * np.sqrt(values)) @ vectors.T)
    u, _, vt = np.linalg.svd(roots[0] @ (sxy / np.sqrt(a * b)) @ roots[1], full_matrices=False)
    found = cca.fit(x, y)
    directions = [u.T @ roots[0], vt @ roots[1]]
    signs = np.sign((directions[1] * found.b).sum(1))
    assert found.scales == pytest.approx((a, b), rel=1e-12)
    left, right = ((view - view.mean(0)) @ (d * signs[:, None]).T for view, d in zip((x, y), directions, strict=True))
    rho = (left * right).sum(0) / np.sqrt((left**2).sum(0) * (right**2).sum(0))
    weights = np.abs(np.linalg.qr(right + y.mean(0))[0].T @ y).sum(1)
    moments = Moments.of(x - x.mean(0), y - y.mean(0), x.mean(0), y.mean(0))
    assert found.score_legacy(moments) == pytest.approx(weights @ rho / weights.sum(), abs=1e-8)
