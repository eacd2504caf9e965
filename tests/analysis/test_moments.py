"""Sums over folds against sums over the raw rows; NumPy against torch, which a GPU takes."""

import tracemalloc

import numpy as np
import pytest
import torch

from layertool.analysis import cca, cka, matrix, protocols, similarity
from layertool.analysis.moments import Moments, fold_moments, on_device, to_numpy, total

N_FOLDS = 5
PARTS = ("sum_x", "sum_y", "xx", "yy", "xy")


def views(n=403, d1=6, d2=4, seed=0, size=0.7):
    """x, y of one latent signal, and a control that has nothing to do with x; means and scales differ by column."""
    random = np.random.default_rng(seed)
    latent = random.standard_normal((n, 3))
    x = latent @ random.standard_normal((3, d1)) + size * random.standard_normal((n, d1))
    y = latent @ random.standard_normal((3, d2)) + size * random.standard_normal((n, d2))
    control = random.standard_normal((n, d2)) * np.arange(1, d2 + 1)
    return x + np.arange(d1), y - 3.0, control + 1.0


def dealt(n, seed=0, n_folds=N_FOLDS):
    return np.random.default_rng(seed).integers(0, n_folds, n)


def cut(view, size):
    return [view[first : first + size] for first in range(0, len(view), size)]


def of(views, folds, size=64, n_folds=N_FOLDS, device="cpu"):
    return fold_moments(folds, n_folds, *(cut(view, size) for view in views), device=device)


def exact(view):
    """Rows about their mean, worked out with more digits than float64 has."""
    rows = view.astype(np.longdouble)
    return (rows - rows.mean(0)).astype(np.float64)


def covariances(x, y):
    """Row by row."""
    x, y = x - x.mean(0), y - y.mean(0)
    return [sum(np.outer(a, b) for a, b in zip(u, v, strict=True)) / (len(x) - 1) for u, v in ((x, x), (y, y), (x, y))]


def close(found, expected, tolerance=1e-12):
    found, expected = to_numpy(found), np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, float(np.abs(expected).max())))


# --- sums ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 64, 403, 1000])
def test_folds_are_the_sums_over_their_rows(size):
    x, y, control = views()
    folds = dealt(len(x))
    plain, controls = of((x, y, control), folds, size)
    assert len(plain) == len(controls) == N_FOLDS
    for fold in range(N_FOLDS):
        mine = folds == fold
        for moments, other in ((plain[fold], y), (controls[fold], control)):
            a, b = x[mine] - moments.origin_x, other[mine] - moments.origin_y
            assert moments.n == mine.sum()
            for name, expected in zip(PARTS, (a.sum(0), b.sum(0), a.T @ a, b.T @ b, a.T @ b), strict=True):
                close(getattr(moments, name), expected)
            for found, expected in zip(moments.covariances, covariances(x[mine], other[mine]), strict=True):
                close(found, expected)
            for found, expected in zip(moments.means(), (x[mine].mean(0), other[mine].mean(0)), strict=True):
                close(found, expected)


def test_the_control_shares_the_rows_of_x_only():
    x, y, control = views()
    plain, controls = of((x, y, control), dealt(len(x)))
    for a, b in zip(plain, controls, strict=True):
        assert a.n == b.n
        for name in ("sum_x", "xx", "origin_x"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for name in ("sum_y", "yy", "xy", "origin_y"):
            assert not np.allclose(getattr(a, name), getattr(b, name))


def test_a_control_of_another_width_than_y():
    x, y, _ = views()
    control = np.random.default_rng(3).standard_normal((len(x), 9))
    plain, controls = of((x, y, control), dealt(len(x)))
    close(total(controls).covariances[2], covariances(x, control)[2])
    close(total(plain).covariances[2], covariances(x, y)[2])


def test_any_folds_together_or_without_others_are_the_moments_of_those_rows():
    x, y, control = views()
    folds = dealt(len(x))
    plain, _ = of((x, y, control), folds)
    whole = total(plain)
    for chosen, moments in (
        ([0, 1, 2, 3, 4], whole),
        ([0, 3], plain[0] + plain[3]),
        ([1], total(plain[1:2])),
        ([0, 2, 4], whole - plain[1] - plain[3]),
        ([2], whole - total([plain[k] for k in (0, 1, 3, 4)])),
    ):
        mine = np.isin(folds, chosen)
        assert moments.n == mine.sum()
        for found, expected in zip(moments.covariances, covariances(x[mine], y[mine]), strict=True):
            close(found, expected)
        for found, expected in zip(moments.means(), (x[mine].mean(0), y[mine].mean(0)), strict=True):
            close(found, expected)


def test_a_fold_without_rows_adds_nothing():
    x, y, control = views()
    folds = dealt(len(x))
    folds[folds == 2] = 3
    plain, controls = of((x, y, control), folds)
    for moments in (plain[2], controls[2]):
        assert moments.n == 0
        assert all(not getattr(moments, name).any() for name in PARTS)
    close(total(plain).covariances[2], covariances(x, y)[2])


def test_folds_may_come_in_any_order_of_rows():
    x, y, control = views()
    folds = dealt(len(x))
    order = np.random.default_rng(8).permutation(len(x))
    plain, _ = of((x, y, control), folds)
    turned, _ = of((x[order], y[order], control[order]), folds[order])
    for a, b in zip(plain, turned, strict=True):
        for found, expected in zip(a.covariances, b.covariances, strict=True):
            close(found, expected)


@pytest.mark.parametrize("size", [1, 64, 403])
@pytest.mark.parametrize("offset", [1e4, 1e7])
def test_a_large_offset_does_not_eat_the_digits(offset, size):
    x, y, control = views()
    x, y, control = x + offset, y - 3 * offset, control + offset
    folds = dealt(len(x))
    plain, controls = of((x, y, control), folds, size)
    for fold in range(N_FOLDS):
        mine = folds == fold
        for moments, other in ((plain[fold], y), (controls[fold], control)):
            for found, expected in zip(
                moments.covariances, covariances(exact(x[mine]), exact(other[mine])), strict=True
            ):
                close(found, expected)
            close(moments.means()[0], x[mine].mean(0))
            close(moments.means()[1], other[mine].mean(0))
    train = total(plain) - plain[0]
    rows = folds != 0
    expected = cca.Solver(Moments.of(exact(x[rows]), exact(y[rows])), deleting=True).fit(1e-10, 1e-10).correlations
    assert cca.Solver(train, deleting=True).fit(1e-10, 1e-10).correlations == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_narrow_numbers_are_added_up_in_float64(dtype):
    narrow = tuple((view + 30).astype(dtype) for view in views())
    folds = dealt(len(narrow[0]))
    (found, _), (expected, _) = of(narrow, folds), of(tuple(view.astype(np.float64) for view in narrow), folds)
    for a, b in zip(found, expected, strict=True):
        for name in PARTS:
            assert getattr(a, name).dtype == np.float64
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_views_of_other_numbers_of_blocks_are_refused():
    x, y, control = views()
    with pytest.raises(ValueError, match=r"shorter|longer"):
        fold_moments(dealt(len(x)), N_FOLDS, cut(x, 64), cut(y, 64)[:-1], cut(control, 64))


def test_moments_in_memory_about_a_given_origin():
    x, y, _ = views()
    ox, oy = np.full(6, 2.0), np.arange(4.0)
    moments = Moments.of(x - ox, y - oy, ox, oy)
    for kept in (moments, moments + moments - moments):  # origins outlive sums and differences
        close(kept.means()[0], x.mean(0))
        close(kept.means()[1], y.mean(0))
        for found, expected in zip(kept.covariances, covariances(x, y), strict=True):
            close(found, expected)
    close(Moments.of(x, y).means()[0], x.mean(0))


def test_memory_does_not_grow_with_the_rows():
    width, size = 16, 1000

    def blocks(n_blocks, seed):
        random = np.random.default_rng(seed)
        for _ in range(n_blocks):
            yield random.standard_normal((size, width))

    def peak(n_blocks):
        folds = np.arange(n_blocks * size) % 10
        tracemalloc.start()
        try:
            parts, _ = fold_moments(folds, 10, *(blocks(n_blocks, seed) for seed in range(3)))
            assert total(parts).n == n_blocks * size
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)  # what is loaded on first use
    few, many = peak(10), peak(200)
    assert few > 3 * size * width * 8  # the blocks themselves are seen
    assert many < 1.05 * few  # 200 blocks of one view alone would be 26 MB


# --- torch --------------------------------------------------------------------------------------------

TORCH = "cpu:0"  # anything but "cpu" is torch's


@pytest.fixture(scope="module")
def both():
    """Moments of the same views and folds, in NumPy and in torch."""
    rows = tuple((view + 20).astype(np.float32) for view in views(600, 12, 7, size=1.5)), dealt(600, n_folds=10)
    return of(*rows, n_folds=10), of(*rows, n_folds=10, device=TORCH)


def test_rows_go_where_they_are_asked():
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    here, there = on_device(rows), on_device(rows[:, ::-1], TORCH)
    assert isinstance(here, np.ndarray)
    assert isinstance(there, torch.Tensor)
    assert here.dtype == np.float64
    assert there.dtype == torch.float64
    np.testing.assert_array_equal(to_numpy(there), rows[:, ::-1])
    assert to_numpy(here) is here


def test_torch_sums_are_the_same(both):
    for plain, other in zip(*both, strict=True):
        for a, b in zip(plain, other, strict=True):
            assert a.n == b.n
            assert isinstance(b.xx, torch.Tensor)
            for name in (*PARTS, "origin_x", "origin_y"):
                close(getattr(b, name), getattr(a, name))
            for found, expected in zip((*b.covariances, *b.means()), (*a.covariances, *a.means()), strict=True):
                close(found, expected)


@pytest.mark.parametrize("share", [None, 0.9])
@pytest.mark.parametrize(("eps_x", "eps_y"), [(1e-10, 1e-10), (1e-2, 1e-6)])
def test_torch_fits_and_scores_are_the_same(both, eps_x, eps_y, share):
    (plain, _), (other, _) = both
    here = cca.Solver(total(plain[1:]), share).fit(eps_x, eps_y)
    there = cca.Solver(total(other[1:]), share).fit(eps_x, eps_y)
    assert isinstance(there.a, torch.Tensor)
    close(there.correlations, here.correlations)
    for k in (0, 1):
        expected, found = here.score_moments(plain[k]), there.score_moments(other[k])
        close(found.correlations, expected.correlations)
        names = ("mean", "mean_square", "pwcca_x", "pwcca_y", "pwcca")
        assert [getattr(found, name) for name in names] == pytest.approx(
            [getattr(expected, name) for name in names], abs=1e-12
        )
        assert there.score_legacy(other[k]) == pytest.approx(here.score_legacy(plain[k]), abs=1e-12)


def test_torch_and_columns_that_say_nothing():
    """One-hot labels, a constant column, a repeated one: eigenvalues of 0 are dropped in torch as in NumPy."""
    x, _, control = views()
    x = np.hstack([x, np.full((len(x), 1), 4.0), x[:, :1]])
    y = np.eye(5)[np.random.default_rng(2).integers(0, 5, len(x))]
    y[:, 0] += x[:, 0] > 0
    folds = dealt(len(x))
    here, there = (total(of((x, y, control), folds, device=device)[0]) for device in ("cpu", TORCH))
    expected, found = (cca.Solver(moments, deleting=True).fit(1e-10, 1e-10) for moments in (here, there))
    assert found.a.shape == expected.a.shape == (5, 8)
    close(found.correlations, expected.correlations)
    assert found.score_moments(there).pwcca == pytest.approx(expected.score_moments(here).pwcca, abs=1e-12)


def test_torch_held_out_and_in_sample_are_the_same(both):
    variants = ("pwcca", "pwcca-x", "pwcca-y", "mean", "mean-square", "svcca")
    for protocol in (protocols.held_out, protocols.in_sample):
        here, there = (protocol(*parts, variants, share=0.9) for parts in both)
        for variant in variants:
            a, b = here[variant], there[variant]
            assert b.eps == a.eps
            assert (b.value, b.low, b.high, b.chance, *b.trials, *b.chance_trials) == pytest.approx(
                (a.value, a.low, a.high, a.chance, *a.trials, *a.chance_trials), abs=1e-12
            )


@pytest.mark.parametrize(
    "measure",
    [cka.LinearCKA(), cka.LinearCKA(False), similarity.Procrustes(), cca.InSampleCCA(), cca.InSampleCCA("mean-square")],
    ids=str,
)
def test_torch_matrices_are_the_same(measure):
    x, y, control = views()
    layers = {"x": {0: x, 1: x[:, :2] ** 2}, "y": {0: y, 1: np.tanh(y)}}
    layers["control"] = {0: control, 1: np.tanh(control)}

    def blocks_of(side, layer):
        return cut(layers[side][layer], 64)

    groups = dealt(len(x))
    here, there = (matrix.fill(blocks_of, [0, 1], [0, 1], measure, groups, device=device) for device in ("cpu", TORCH))
    for name in ("value", "low", "high", "chance"):
        assert np.isfinite(getattr(here, name)).all()
        close(getattr(there, name), getattr(here, name))
