"""Matrices of every measure against the pure functions on all rows, and on the rows without each group."""

from itertools import permutations

import numpy as np
import pytest
from columns import standardised
from refusals import refused
from scipy import stats

from layertool.analysis import cca, cka, matrix, similarity
from layertool.analysis.products import Centre, Cross

N, N_GROUPS = 130, 5
WIDTHS = {"x": {"C7": 4, "T0": 9, "T1": 6}, "y": {"T0": 5, "T3": 12}}


@pytest.fixture(scope="module")
def layers():
    """side -> layer -> rows; the control is y in another order."""
    random = np.random.default_rng(0)
    latent = random.standard_normal((N, 4))
    out = {
        side: {
            name: latent @ random.standard_normal((4, d)) + random.standard_normal((N, d)) + 20.0
            for name, d in sides.items()
        }
        for side, sides in WIDTHS.items()
    }
    order = random.permutation(N)
    out["control"] = {name: rows[order] for name, rows in (out["x"] | out["y"]).items()}
    return out


def alone(layers):
    """One side only, and the control of it."""
    order = np.random.default_rng(7).permutation(N)
    return {"x": layers["x"], "control": {name: rows[order] for name, rows in layers["x"].items()}}


@pytest.fixture(scope="module")
def groups():
    """Of unequal sizes, in no order; one number is not there."""
    return np.random.default_rng(1).choice([0, 1, 3, 4, 5], N, p=[0.1, 0.3, 0.2, 0.15, 0.25])


def blocks_of(layers, sizes=(17, 1, 60, 2, 50)):
    cuts = np.cumsum(sizes)[:-1]
    return lambda side, layer: np.split(layers[side][layer], cuts)


def cross_of(x, y, groups, size=40):
    """Both passes by hand, as the second wants its blocks: sorted by group."""
    n_groups = int(groups.max()) + 1
    centre_x, centre_y, cross = Centre("x"), Centre("y"), Cross(n_groups)
    cuts = np.arange(size, len(x), size)
    for centre, view in ((centre_x, x), (centre_y, y)):
        for block in np.split(view, cuts):
            centre.add(block)
    centred_x, centred_y = centre_x.relative(), centre_y.relative()
    for block_x, block_y, mine in zip(*(np.split(part, cuts) for part in (x, y, groups)), strict=True):
        order = np.argsort(mine, kind="stable")
        bounds = np.searchsorted(mine[order], np.arange(n_groups + 1))
        cross.add(centred_x(block_x[order]), centred_y(block_y[order]), bounds)
    return cross


# --- products -----------------------------------------------------------------------------------------


def products(x, y):
    """n, X'Y, and the sums over rows of |x|², |y|² and |x|² |y|², row by row."""
    x, y = x - x.mean(0), y - y.mean(0)
    r, s = [float(row @ row) for row in x], [float(row @ row) for row in y]
    product = sum(np.outer(a, b) for a, b in zip(x, y, strict=True))
    return len(x), product, sum(r), sum(s), sum(a * b for a, b in zip(r, s, strict=True))


def equal(found, expected):
    n, product, *sums = expected
    assert found.n == n
    np.testing.assert_allclose(found.product, product, rtol=0, atol=1e-12 * np.abs(product).max())
    assert (found.sum_r, found.sum_s, found.sum_rs) == pytest.approx(sums, rel=1e-12)
    assert found.square == pytest.approx((product**2).sum(), rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_products_without_a_group_are_those_of_the_other_rows(layers, groups, offset):
    """The groups have means of their own, so that the rest has to be centred anew."""
    x, y = layers["x"]["C7"] + offset, layers["y"]["T3"] - offset
    x = x + 3.0 * groups[:, None] * [1, -1, 0.5, 0]
    y = y - groups[:, None] ** 1.5
    cross = cross_of(x, y, groups)
    equal(cross.whole(), products(x, y))
    for group in np.unique(groups):
        kept = groups != group
        assert np.abs(x[kept].mean(0) - x.mean(0)).max() > 0.1
        equal(cross.without(group), products(x[kept], y[kept]))
    equal(cross.whole(), products(x, y))  # nothing was taken away for good


def test_products_do_not_depend_on_the_blocks(layers, groups):
    x, y = layers["x"]["T0"], layers["y"]["T0"]
    for size in (1, 7, 200):
        equal(cross_of(x, y, groups, size).without(3), products(x[groups != 3], y[groups != 3]))


def test_a_view_with_itself(layers, groups):
    x = layers["x"]["T1"]
    for group in np.unique(groups):
        equal(cross_of(x, x, groups).without(group), products(x[groups != group], x[groups != group]))


# --- every measure ------------------------------------------------------------------------------------


def in_sample(name, eps=1e-10):
    def score(x, y):
        x, y = standardised(x), standardised(y)
        return getattr(cca.fit(x, y, eps, eps).score(x, y), name)

    return score


MEASURES = {
    "cka": (cka.LinearCKA(), cka.linear),
    "biased cka": (cka.LinearCKA(debiased=False), lambda x, y: cka.linear(x, y, debiased=False)),
    "procrustes": (similarity.Procrustes(), similarity.procrustes),
    "pwcca": (cca.InSampleCCA(), in_sample("pwcca")),
    "mean": (cca.InSampleCCA("mean"), in_sample("mean")),
    "mean-square": (cca.InSampleCCA("mean-square"), in_sample("mean_square")),
    "regularised": (cca.InSampleCCA("pwcca", 0.03), in_sample("pwcca", 0.03)),
}
every_measure = pytest.mark.parametrize("name", MEASURES)


def interval(value, left_out):
    """Delete-a-group jackknife, Student's t."""
    g = len(left_out)
    error = np.sqrt((g - 1) / g * sum((part - np.mean(left_out)) ** 2 for part in left_out))
    return value + stats.t.ppf([0.025, 0.975], g - 1) * error


def expected_cell(score, x, y, groups):
    """value, low, high"""
    value = score(x, y)
    return value, *interval(value, [score(x[groups != g], y[groups != g]) for g in np.unique(groups)])


@every_measure
@pytest.mark.parametrize("max_bytes", [0, 2**31])
def test_every_cell_is_the_measure_of_the_two_layers(layers, groups, name, max_bytes):
    measure, score = MEASURES[name]
    xs, ys = ["C7", "T0", "T1"], ["T3", "T0"]
    found = matrix.fill(blocks_of(layers), xs, ys, measure, groups, max_bytes)
    expected = np.array([[expected_cell(score, layers["x"][a], layers["y"][b], groups) for b in ys] for a in xs])
    for k, part in enumerate((found.value, found.low, found.high)):
        assert part.shape == (3, 2)
        np.testing.assert_allclose(part, expected[..., k], rtol=0, atol=1e-10)
    assert (found.low < found.value).all()
    assert (found.value < found.high).all()


@every_measure
def test_a_matrix_of_one_side_is_symmetric(layers, groups, name):
    measure, score = MEASURES[name]
    names = ["C7", "T0", "T1"]
    x = layers["x"]
    found = matrix.fill(blocks_of(alone(layers)), names, None, measure, groups)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            expected = expected_cell(score, x[a], x[b], groups)
            assert (found.value[i, j], found.low[i, j], found.high[i, j]) == pytest.approx(expected, abs=1e-10)
    for part in (found.value, found.low, found.high, found.chance):
        np.testing.assert_array_equal(part, part.T)
    own = 0 if name == "procrustes" else 1 if name != "regularised" else found.value.diagonal()
    np.testing.assert_allclose(found.value.diagonal(), own, rtol=0, atol=1e-7)


@every_measure
def test_without_groups_there_is_no_interval(layers, groups, name):
    measure, _ = MEASURES[name]
    value = matrix.fill(blocks_of(layers), ["T0"], ["T3"], measure, groups).value
    for one in (None, np.zeros(N, np.int64)):
        found = matrix.fill(blocks_of(layers), ["T0"], ["T3"], measure, one)
        assert np.isnan([found.low, found.high]).all()
        assert found.value == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in MEASURES if "cka" not in name])
def test_chance_is_the_measure_of_the_control(layers, groups, name):
    measure, score = MEASURES[name]
    xs, ys = ["C7", "T0"], ["T3", "T0"]
    found = matrix.fill(blocks_of(layers), xs, ys, measure, groups)
    expected = [[score(layers["x"][a], layers["control"][b]) for b in ys] for a in xs]
    np.testing.assert_allclose(found.chance, expected, rtol=0, atol=1e-10)
    assert np.abs(found.chance - found.value).min() > 0.02


# --- chance of CKA ------------------------------------------------------------------------------------


@pytest.mark.parametrize("debiased", [True, False])
def test_chance_of_cka_is_the_mean_over_all_permutations(debiased):
    random = np.random.default_rng(2)
    x, y = random.standard_normal((6, 3)) * [1, 2, 4] + 5, random.standard_normal((6, 2))
    mean = np.mean([cka.linear(x, y[list(order)], debiased=debiased) for order in permutations(range(6))])
    views = {"x": [x], "y": [y]}
    found = matrix.fill(lambda side, _: views[side], [0], [0], cka.LinearCKA(debiased))
    assert found.chance[0, 0] == pytest.approx(mean, abs=1e-12)
    assert (found.chance[0, 0] == 0) == debiased


def test_chance_of_biased_cka_is_about_the_mean_over_some_permutations(layers):
    x, y = layers["x"]["T0"], layers["y"]["T3"]
    random = np.random.default_rng(3)
    drawn = [cka.linear(x, y[random.permutation(N)], debiased=False) for _ in range(1000)]
    found = matrix.fill(blocks_of(layers), ["T0"], ["T3"], cka.LinearCKA(False)).chance[0, 0]
    assert found == pytest.approx(np.mean(drawn), abs=4 * stats.sem(drawn))
    assert found > 0.01


@pytest.mark.parametrize("debiased", [True, False])
def test_chance_of_rbf_cka_is_the_mean_over_all_permutations(debiased):
    random = np.random.default_rng(4)
    x, y = random.standard_normal((6, 3)), random.standard_normal((6, 2))
    mean = np.mean([cka.rbf(x, y[list(order)], debiased=debiased) for order in permutations(range(6))])
    a, b = (cka.rbf_kernel(view, debiased=debiased) for view in (x, y))
    assert np.trace(a) * np.trace(b) / 5 == pytest.approx(mean, abs=1e-12)


def test_chance_of_rsa_is_the_mean_over_all_permutations():
    random = np.random.default_rng(5)
    x, y = random.standard_normal((6, 4)), random.standard_normal((6, 3))
    assert np.mean([similarity.rsa(x, y[list(order)]) for order in permutations(range(6))]) == pytest.approx(
        0, abs=1e-12
    )


# --- in memory ----------------------------------------------------------------------------------------

IN_MEMORY = {
    "rbf": (lambda rows, name: cka.rbf_kernel(rows, name=name), cka.rbf),
    "biased rbf": (
        lambda rows, name: cka.rbf_kernel(rows, 0.5, False, name),
        lambda x, y: cka.rbf(x, y, 0.5, debiased=False),
    ),
    "rsa": (lambda rows, name: similarity.rsa_ranks(rows, name=name), similarity.rsa),
    "euclidean rsa": (
        lambda rows, name: similarity.rsa_ranks(rows, "euclidean", name),
        lambda x, y: similarity.rsa(x, y, "euclidean"),
    ),
}
in_memory = pytest.mark.parametrize("name", IN_MEMORY)


def shapes(a, b):
    return float(a.size + 2 * b.size)  # of the embedded views, in their order


@in_memory
def test_in_memory_every_cell_is_the_measure_of_the_two_layers(layers, name):
    embed, score = IN_MEMORY[name]
    groups = np.random.default_rng(1).integers(0, N_GROUPS, N)
    xs, ys = ["C7", "T0", "T1"], ["T3", "T0"]
    found = matrix.compare_in_memory(lambda side, layer: layers[side][layer], xs, ys, embed, shapes, groups)
    expected = np.array([[expected_cell(score, layers["x"][a], layers["y"][b], groups) for b in ys] for a in xs])
    for k, part in enumerate((found.value, found.low, found.high)):
        np.testing.assert_allclose(part, expected[..., k], rtol=0, atol=1e-10)
    assert (found.chance == 3 * embed(layers["x"]["T0"], "").size).all()  # of all rows, once


@in_memory
def test_in_memory_a_matrix_of_one_side_is_symmetric(layers, name):
    embed, score = IN_MEMORY[name]
    names = ["C7", "T0", "T1"]
    groups = np.arange(N) % N_GROUPS
    found = matrix.compare_in_memory(lambda side, layer: layers[side][layer], names, None, embed, np.vdot, groups)
    for part in (found.value, found.low, found.high, found.chance):
        np.testing.assert_array_equal(part, part.T)
    np.testing.assert_allclose(found.value.diagonal(), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.chance, found.value, rtol=0, atol=1e-15)
    assert found.value[0, 2] == pytest.approx(score(layers["x"]["C7"], layers["x"]["T1"]), abs=1e-10)


@in_memory
def test_in_memory_without_groups_there_is_no_interval(layers, name):
    embed, score = IN_MEMORY[name]
    for groups in (None, np.zeros(N, np.int64)):  # one utterance is one group, as for ``fill``
        found = matrix.compare_in_memory(
            lambda side, layer: layers[side][layer], ["T0"], ["T3"], embed, np.vdot, groups
        )
        assert found.value[0, 0] == pytest.approx(score(layers["x"]["T0"], layers["y"]["T3"]), abs=1e-10)
        assert np.isnan([found.low, found.high]).all()


@in_memory
def test_in_memory_a_group_without_rows_is_none(layers, groups, name):
    embed, score = IN_MEMORY[name]
    found = matrix.compare_in_memory(lambda side, layer: layers[side][layer], ["T0"], ["T3"], embed, np.vdot, groups)
    expected = expected_cell(score, layers["x"]["T0"], layers["y"]["T3"], groups)
    assert (found.value[0, 0], found.low[0, 0], found.high[0, 0]) == pytest.approx(expected, abs=1e-10)


def test_in_memory_the_layer_at_fault_is_named(layers):
    same = {"x": {0: np.zeros((20, 3))}, "y": {1: layers["y"]["T0"][:20]}}
    embed, _ = IN_MEMORY["rbf"]
    refused(
        "layer 0 of side x: half of its rows are the same",
        matrix.compare_in_memory,
        lambda side, layer: same[side][layer],
        [0],
        [1],
        embed,
        np.vdot,
    )


# --- progress and errors ------------------------------------------------------------------------------


def test_progress_ends_where_it_should(layers, groups):
    seen = []
    for max_bytes in (0, 2**31):
        seen.clear()
        measure = similarity.Procrustes()
        matrix.fill(
            blocks_of(layers), ["C7", "T0"], ["T3"], measure, groups, max_bytes, progress=lambda *d: seen.append(d)
        )
        done = [one / whole for one, whole in seen]
        assert done == sorted(done)
        assert done[-1] == 1


def test_groups_of_other_rows(layers):
    refused(
        "129 groups for 130 rows: each row needs one",
        matrix.fill,
        blocks_of(layers),
        ["C7"],
        None,
        cka.LinearCKA(),
        np.zeros(N - 1, np.int64),
    )


@every_measure
def test_the_layer_at_fault_is_named(layers, name):
    measure, _ = MEASURES[name]
    broken = {"x": {"C7": layers["x"]["C7"]}, "y": {"T0": np.full((N, 4), 0.1)}, "control": {"T0": layers["y"]["T0"]}}
    refused("layer T0 of side y: ", matrix.fill, blocks_of(broken), ["C7"], ["T0"], measure)
    broken["y"]["T0"] = layers["y"]["T0"].copy()
    broken["y"]["T0"][3, 1] = np.nan
    refused(
        "layer T0 of side y holds values that are not finite", matrix.fill, blocks_of(broken), ["C7"], ["T0"], measure
    )


def test_too_few_rows_for_cca():
    rows = np.random.default_rng(6).standard_normal((30, 30))
    refused(
        r"layer 0 of side x: 30 rows of 30 dimensions: canonical correlation",
        matrix.fill,
        lambda *_: [rows],
        [0],
        None,
        cca.InSampleCCA(),
    )
    narrow = rows[:, :25]  # enough rows of all, too few without a group
    refused(
        "24 rows of 25 dimensions", matrix.fill, lambda *_: [narrow], [0], None, cca.InSampleCCA(), np.arange(30) // 6
    )


def test_unknown_variants_of_cca(layers):
    refused(
        "'legacy' has no matrix: choose pwcca, mean or mean-square",
        matrix.fill,
        blocks_of(layers),
        ["C7"],
        None,
        cca.InSampleCCA("legacy"),
    )


def test_a_control_of_other_blocks(layers):
    views = {"x": [layers["x"]["C7"]], "y": [layers["y"]["T0"]], "control": np.split(layers["y"]["T0"], 2)}
    refused(
        "layer 0 of side x and layer 0 of side control come in blocks of other lengths",
        matrix.fill,
        lambda side, _: views[side],
        [0],
        [0],
        similarity.Procrustes(),
    )
