"""Procrustes distance and RSA against slow references, and their invariances."""

import itertools

import numpy as np
import pytest
from columns import related, rotation
from refusals import refused
from scipy import optimize, spatial

from layertool.analysis import similarity


def normalised(x):
    x = x - x.mean(0)
    return x / np.linalg.norm(x)


# --- Procrustes -------------------------------------------------------------------------------------


def test_procrustes_is_the_distance_after_the_best_rotation():
    x, y = related(np.random.default_rng(0), 40, 5, 5)
    a, b = normalised(x), normalised(y)
    u, _, vt = np.linalg.svd(b.T @ a)
    assert similarity.procrustes(x, y) == pytest.approx(np.linalg.norm(a - b @ u @ vt) ** 2, abs=1e-12)
    # scipy's also scales b: its disparity is 1 - |A'B|_*²
    assert (1 - similarity.procrustes(x, y) / 2) ** 2 == pytest.approx(1 - spatial.procrustes(x, y)[2], abs=1e-12)


def test_procrustes_in_the_plane_is_the_smallest_over_all_angles():
    x, y = related(np.random.default_rng(1), 40, 2, 2)
    a, b = normalised(x), normalised(y)

    def distance(angle, flip):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1, flip])
        return np.linalg.norm(a - b @ turn) ** 2

    starts = np.linspace(0, 2 * np.pi, 9)
    found = [
        optimize.minimize_scalar(distance, bounds=(low, high), args=(flip,), method="bounded").fun
        for flip in (1, -1)
        for low, high in itertools.pairwise(starts)
    ]
    assert similarity.procrustes(x, y) == pytest.approx(min(found), abs=1e-9)


@pytest.mark.parametrize(("width_x", "width_y"), [(3, 8), (8, 3), (60, 50), (1, 4)])
def test_procrustes_of_other_widths_is_that_of_zero_filled_views(width_x, width_y):
    x, y = related(np.random.default_rng(2), 40, width_x, width_y)
    widest = max(width_x, width_y)
    filled = [np.pad(view, ((0, 0), (0, widest - view.shape[1]))) for view in (x, y)]
    assert similarity.procrustes(x, y) == pytest.approx(similarity.procrustes(*filled), abs=1e-12)
    assert 0 < similarity.procrustes(x, y) < 2


def test_procrustes_invariances():
    rng = np.random.default_rng(3)
    x, y = related(rng, 40, 5, 5)
    value = similarity.procrustes(x, y)
    assert similarity.procrustes(y, x) == pytest.approx(value, abs=1e-12)
    for moved in (x @ rotation(rng, 5), 1e-3 * x, -20 * x, x + rng.standard_normal(5), x * [1, 1, -1, 1, 1]):
        assert similarity.procrustes(x, moved) == pytest.approx(0, abs=1e-12)
    assert similarity.procrustes(x @ rotation(rng, 5) * 3 + 1, y) == pytest.approx(value, abs=1e-12)
    assert similarity.procrustes(x, x @ np.diag([30, 1, 1, 1, 1.0])) > 0.1


def test_procrustes_of_uncorrelated_views_is_two():
    x, y = np.array([[1.0], [1], [-1], [-1]]), np.array([[1.0], [-1], [1], [-1]])
    assert similarity.procrustes(x, y) == pytest.approx(2, abs=1e-15)


def test_procrustes_with_an_offset():
    x, y = related(np.random.default_rng(4), 40, 5, 5)
    shifted = x + 1e4
    exact = shifted.astype(np.longdouble)
    centred = (exact - exact.mean(0)).astype(float)
    assert similarity.procrustes(shifted, y - 1e4) == pytest.approx(similarity.procrustes(centred, y), abs=1e-12)


def test_procrustes_errors():
    x = np.random.default_rng(5).standard_normal((20, 3))
    refused(r"same rows: x has shape \(20, 3\), y has shape \(19, 3\)", similarity.procrustes, x, x[:-1])
    refused("view y: all its rows are the same", similarity.procrustes, x, np.full((20, 2), 0.1))
    refused("at least 2 rows, not 0", similarity.procrustes, x[:0], x[:0])
    x[3, 1] = np.nan
    refused("view x holds values that are not finite", similarity.procrustes, x, np.ones((20, 2)))


# --- RSA --------------------------------------------------------------------------------------------

LOOPS = {
    "correlation": lambda a, b: 1 - np.corrcoef(a, b)[0, 1],
    "cosine": lambda a, b: 1 - a @ b / np.sqrt((a @ a) * (b @ b)),
    "euclidean": lambda a, b: np.sqrt(((a - b) ** 2).sum()),
}


def mean_ranks(values):
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


@pytest.mark.parametrize("distance", LOOPS)
def test_rsa_is_the_rank_correlation_of_plain_loops(distance):
    x, y = related(np.random.default_rng(6), 25, 6, 4)
    pairs = [(i, j) for i in range(25) for j in range(i + 1, 25)]
    a, b = (np.array([LOOPS[distance](view[i], view[j]) for i, j in pairs]) for view in (x, y))
    expected = np.corrcoef(mean_ranks(a), mean_ranks(b))[0, 1]
    assert similarity.rsa(x, y, distance) == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected < 0.99


def test_rsa_takes_mean_ranks_of_ties():
    labels = np.repeat([0, 1, 2], [3, 4, 5])
    x, y = np.eye(3)[labels], np.random.default_rng(7).standard_normal((12, 4))
    pairs = [(i, j) for i in range(12) for j in range(i + 1, 12)]
    other = np.array([float(labels[i] != labels[j]) for i, j in pairs])
    far = np.array([LOOPS["euclidean"](y[i], y[j]) for i, j in pairs])
    expected = np.corrcoef(mean_ranks(other), mean_ranks(far))[0, 1]
    assert similarity.rsa(x, y, "euclidean") == pytest.approx(expected, abs=1e-12)


def test_rsa_invariances():
    rng = np.random.default_rng(8)
    x, y = related(rng, 40, 5, 5)
    assert similarity.rsa(x, y) == similarity.rsa(x, y, "correlation") == similarity.rsa(x, y, distance="correlation")
    same = {
        "correlation": [3 * x, x + rng.standard_normal((len(x), 1)), x * rng.uniform(1, 2, (len(x), 1))],
        "cosine": [3 * x, x @ rotation(rng, 5), x * rng.uniform(1, 2, (len(x), 1))],
        "euclidean": [3 * x, x @ rotation(rng, 5), x + rng.standard_normal(5)],
    }
    for distance, moves in same.items():
        value = similarity.rsa(x, y, distance)
        assert similarity.rsa(y, x, distance) == pytest.approx(value, abs=1e-12)
        for moved in [x, *moves]:
            assert similarity.rsa(moved, y, distance) == pytest.approx(value, abs=1e-10)
            assert similarity.rsa(x, moved, distance) == pytest.approx(1, abs=1e-10)
    assert similarity.rsa(x, x + 5 * rng.standard_normal(5), "cosine") < 0.999
    assert similarity.rsa(x, x @ rotation(rng, 5), "correlation") < 0.999


def test_rsa_of_independent_noise():
    values = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values.append(similarity.rsa(rng.standard_normal((40, 16)), rng.standard_normal((40, 16))))
    assert np.mean(values) == pytest.approx(0, abs=0.05)


def test_rsa_errors():
    x = np.random.default_rng(9).standard_normal((20, 3))
    refused(
        "unknown distance 'cityblock': take one of correlation, cosine, euclidean", similarity.rsa, x, x, "cityblock"
    )
    refused(r"same rows: x has shape \(20, 3\), y has shape \(19, 3\)", similarity.rsa, x, x[:-1])
    refused("at least 3 rows, not 2", similarity.rsa, x[:2], x[:2])
    rows = np.zeros((similarity.MAX_RSA_ROWS + 1, 1))
    refused("at most 10000 of them, not 10001: draw a sample", similarity.rsa, rows, rows)
    refused(
        "view y: all its rows are equally far from each other",
        similarity.rsa,
        x,
        np.eye(20) @ rotation(np.random.default_rng(10), 20),
        "euclidean",
    )
    refused("view y: all its rows are equally far", similarity.rsa, x, np.full((20, 3), 0.1), "euclidean")


@pytest.mark.parametrize(("distance", "row", "what"), [("correlation", 0.1, "constant"), ("cosine", 0.0, "zero")])
def test_rsa_names_rows_without_a_direction(distance, row, what):
    x = np.random.default_rng(11).standard_normal((20, 3))
    broken = x.copy()
    broken[[4, 7]] = row
    refused(rf"view y: row 4 is {what} across its dimensions \(2 such rows\)", similarity.rsa, x, broken, distance)
    assert np.isfinite(similarity.rsa(x, broken, "euclidean"))
    broken[6, 2] = np.nan
    refused("view x holds values that are not finite", similarity.rsa, broken, x, distance)
