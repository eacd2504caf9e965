"""Linear and RBF CKA against slow Gram-space references, their invariances, and streaming in blocks."""

import numpy as np
import pytest
from columns import related, rotation
from refusals import refused
from scipy.spatial.distance import pdist, squareform

from layertool.analysis import cka, matrix


def gram_cka(k, l, debiased):  # noqa: E741
    """CKA from Gram matrices: HKH, or the U-statistic term by term with zeroed diagonals (Song et al. 2012)."""

    def biased(k, l):  # noqa: E741
        n = len(k)
        h = np.eye(n) - np.ones((n, n)) / n
        return np.trace(h @ k @ h @ l) / (n - 1) ** 2

    def unbiased(k, l):  # noqa: E741
        n, one = len(k), np.ones(len(k))
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
        ends = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ l) + ends - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))

    hsic = unbiased if debiased else biased
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def rbf_gram(x, threshold):
    distances = pdist(x)
    return np.exp(-(squareform(distances) ** 2) / (2 * (threshold * np.median(distances)) ** 2))


def cka_matrix(blocks_of, layers_x, layers_y=None, debiased=True, max_bytes=2**31):
    return matrix.fill(blocks_of, layers_x, layers_y, cka.LinearCKA(debiased), max_bytes=max_bytes).value


both = pytest.mark.parametrize("debiased", [True, False], ids=["debiased", "biased"])
kernels = pytest.mark.parametrize("score", [cka.linear, cka.rbf], ids=["linear", "rbf"])


@both
@pytest.mark.parametrize("shape", [(60, 7, 5), (4, 3, 2), (12, 40, 30), (50, 1, 20)], ids=str)
def test_linear_is_the_gram_space_value(shape, debiased):
    x, y = related(np.random.default_rng(0), *shape)
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    score = cka.linear(x + 3, y - 2, debiased=debiased)
    assert score == pytest.approx(gram_cka(centred_x @ centred_x.T, centred_y @ centred_y.T, debiased), abs=1e-10)
    assert score == pytest.approx(gram_cka((x + 3) @ (x + 3).T, (y - 2) @ (y - 2).T, debiased), abs=1e-10)


@both
@pytest.mark.parametrize("threshold", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("n", [40, 41, 42])  # odd and even numbers of pairs
def test_rbf_is_the_gram_space_value(n, threshold, debiased):
    x, y = related(np.random.default_rng(1), n)
    expected = gram_cka(rbf_gram(x, threshold), rbf_gram(y, threshold), debiased)
    assert cka.rbf(x, y, threshold, debiased=debiased) == pytest.approx(expected, abs=1e-10)


def test_debiased_is_the_default():
    x, y = related(np.random.default_rng(2))
    for score in (cka.linear, cka.rbf):
        assert score(x, y) == score(x, y, debiased=True) != score(x, y, debiased=False)
    blocks = {"x": [x], "y": [y]}
    assert cka_matrix(lambda side, _: blocks[side], [0], [0])[0, 0] == pytest.approx(cka.linear(x, y), abs=1e-12)


@both
@kernels
def test_invariances(score, debiased):
    rng = np.random.default_rng(3)
    x, y = related(rng)
    value = score(x, y, debiased=debiased)
    assert score(x, x, debiased=debiased) == pytest.approx(1, abs=1e-12)
    assert score(y, x, debiased=debiased) == pytest.approx(value, abs=1e-12)
    order = rng.permutation(len(x))
    assert score(x[order], y[order], debiased=debiased) == pytest.approx(value, abs=1e-12)
    for moved in (
        x @ rotation(rng, 7),
        1e-3 * x,
        -20 * x,
        x + rng.standard_normal(7),
        np.hstack([x, np.ones((60, 2))]),
    ):
        assert score(moved, y, debiased=debiased) == pytest.approx(value, abs=1e-10)
        assert score(x, moved, debiased=debiased) == pytest.approx(1, abs=1e-10)


@both
@kernels
def test_an_invertible_map_changes_it(score, debiased):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((80, 6))
    assert score(x, x @ np.diag([1, 1, 1, 1, 1, 20.0]), debiased=debiased) < 0.9


def test_independent_noise():
    biased, debiased = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((100, 64)), rng.standard_normal((100, 64))
        biased.append(cka.linear(x, y, debiased=False))
        debiased.append(cka.linear(x, y))
    assert np.mean(biased) == pytest.approx(0.395, abs=0.01)
    assert np.mean(debiased) == pytest.approx(0, abs=0.01)
    assert min(debiased) < 0 < max(debiased)


@both
@kernels
def test_an_offset_does_not_eat_the_digits(score, debiased):
    x, y = related(np.random.default_rng(5))
    shifted_x, shifted_y = x + 1e4, 1e-3 * y - 1e4  # as stored: the rounding of these values is in the data
    exact_x, exact_y = (view.astype(np.longdouble) for view in (shifted_x, shifted_y))
    centred_x, centred_y = ((view - view.mean(0)).astype(float) for view in (exact_x, exact_y))
    expected = score(centred_x, centred_y, debiased=debiased)
    assert score(shifted_x, shifted_y, debiased=debiased) == pytest.approx(expected, abs=1e-12)


def test_float32_is_computed_in_float64():
    x, y = (view.astype(np.float32) for view in related(np.random.default_rng(6)))
    assert cka.linear(x, y) == cka.linear(x.astype(float), y.astype(float))


@both
def test_constant_columns_and_one_hot_labels(debiased):
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 5, 50)
    x, y = np.eye(6)[labels], np.eye(5)[labels] @ rotation(rng, 5)
    assert cka.linear(x, y, debiased=debiased) == pytest.approx(1, abs=1e-12)


def test_rows_beyond_one_block(monkeypatch):
    x, y = related(np.random.default_rng(8))
    whole = cka.linear(x, y)
    monkeypatch.setattr(matrix, "BLOCK_ROWS", 7)
    assert cka.linear(x, y) == pytest.approx(whole, abs=1e-12)


# --- matrices ---------------------------------------------------------------------------------------


class Store:
    """Layers in memory, read in blocks; counts the readings."""

    def __init__(self, layers, lengths=(9, 0, 20, 1, 30)):
        self.layers, self.cuts, self.reads = layers, np.cumsum(lengths)[:-1], []

    def __call__(self, side, layer):
        self.reads.append((side, layer))
        yield from np.split(self.layers[side][layer], self.cuts)


@pytest.fixture
def store():
    rng = np.random.default_rng(9)
    base, widths = rng.standard_normal((60, 6)), {"x": {"C7": 4, "T0": 9, "T1": 9}, "y": {"T0": 6, "T3": 80}}
    layers = {
        side: {
            name: (base @ rng.standard_normal((6, d)) + rng.standard_normal((60, d)) + 50).astype(np.float32)
            for name, d in sides.items()
        }
        for side, sides in widths.items()
    }
    return Store(layers)


@both
@pytest.mark.parametrize("max_bytes", [0, 10_000, 2**31])
def test_matrix_is_linear_on_every_pair(store, debiased, max_bytes):
    found = cka_matrix(store, ["C7", "T0", "T1"], ["T3", "T0"], debiased=debiased, max_bytes=max_bytes)
    x, y = store.layers["x"], store.layers["y"]
    expected = [[cka.linear(x[a], y[b], debiased=debiased) for b in ("T3", "T0")] for a in ("C7", "T0", "T1")]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@both
@pytest.mark.parametrize("max_bytes", [0, 2**31])
def test_matrix_within_a_store(store, debiased, max_bytes):
    layers = ["C7", "T0", "T1"]
    found = cka_matrix(store, layers, debiased=debiased, max_bytes=max_bytes)
    x = store.layers["x"]
    expected = [[cka.linear(x[a], x[b], debiased=debiased) for b in layers] for a in layers]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert (found == found.T).all()
    assert {side for side, _ in store.reads} == {"x"}


def test_more_memory_means_fewer_readings(store):
    arguments = store, ["C7", "T0", "T1"], ["T0", "T3"]
    cka_matrix(*arguments, max_bytes=2**31)
    assert len(store.reads) == 5 * 3  # mean, own HSIC, pairs
    store.reads.clear()
    cka_matrix(*arguments, max_bytes=0)
    assert len(store.reads) == 5 * 2 + 3 * 3  # a row at a time: one x layer and both y layers


def test_matrix_refuses_other_rows_or_blocks(store):
    store.layers["y"]["T3"] = store.layers["y"]["T3"][:-1]
    refused("layer C7 of side x has 60, layer T3 of side y has 59", cka_matrix, store, ["C7"], ["T0", "T3"])
    rows = np.random.default_rng(10).standard_normal((20, 3))
    cut = {"x": [rows[:10], rows[10:]], "y": [rows[:9], rows[9:]]}
    refused(
        "layer 0 of side x and layer 0 of side y come in blocks of other lengths",
        cka_matrix,
        lambda side, _: cut[side],
        [0],
        [0],
    )
    cut["y"] = [rows[:10], rows[10:], rows[:0]]  # one side ends early
    refused("equal blocks", cka_matrix, lambda side, _: cut[side], [0], [0])


def test_matrix_names_the_layer_at_fault(store):
    store.layers["y"]["T0"][:] = 0.1
    refused("layer T0 of side y: HSIC with itself is not positive", cka_matrix, store, ["C7"], ["T3", "T0"])
    store.layers["x"]["C7"][5, 2] = np.nan
    refused("layer C7 of side x holds values that are not finite", cka_matrix, store, ["C7"], ["T3"])
    refused(
        r"layer 0 of side x: a block has shape \(5, 4\), expected \(rows, 3\)",
        cka_matrix,
        lambda *_: [np.ones((5, 3)), np.ones((5, 4))],
        [0],
    )
    refused("at least one layer", cka_matrix, store, ["C7"], [])
    refused("at least 4 rows, not 0", cka_matrix, lambda *_: [], [0])


# --- errors -----------------------------------------------------------------------------------------


@kernels
def test_rows_that_cannot_be_compared(score):
    rng = np.random.default_rng(11)
    x = rng.standard_normal((20, 3))
    refused(r"same rows: x has shape \(20, 3\), y has shape \(19, 3\)", score, x, x[:-1])
    refused("debiased CKA needs at least 4 rows, not 3", score, x[:3], x[:3])
    assert score(x[:3], x[:3], debiased=False) == pytest.approx(1)
    refused("at least 2 rows, not 1", score, x[:1], x[:1], debiased=False)
    broken = x.copy()
    broken[4, 1] = np.inf
    refused("view y holds values that are not finite", score, x, broken)


@both
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 / 3])  # whose mean over rows is rounded
def test_a_constant_view(value, debiased):
    x, constant = np.random.default_rng(12).standard_normal((21, 3)), np.full((21, 4), value)
    refused("view y: HSIC with itself is not positive", cka.linear, x, constant, debiased=debiased)
    refused("view x: half of its rows are the same", cka.rbf, constant, x, debiased=debiased)


@kernels
def test_rows_that_are_all_equally_similar(score):
    x, corners = (
        np.random.default_rng(13).standard_normal((20, 3)),
        np.eye(20) @ rotation(np.random.default_rng(14), 20),
    )
    refused(r"view x: HSIC with itself is not positive.*equally similar", score, corners, x)
    assert np.isfinite(score(corners, x, debiased=False))


def test_values_too_large_for_products():
    x = 1e200 * np.random.default_rng(15).standard_normal((20, 3))
    refused("view x: values are too large", cka.linear, x, x)
    assert cka.rbf(x, x / 1e200) == pytest.approx(1, abs=1e-12)


def test_rbf_limits():
    rows = np.zeros((cka.MAX_GRAM_ROWS + 1, 1))
    refused("at most 20000 of them, not 20001: draw a sample", cka.rbf, rows, rows)
    for threshold in (0, -1.0, np.nan):
        refused("threshold is a positive share", cka.rbf, rows[:9], rows[:9], threshold)
