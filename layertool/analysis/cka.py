"""Centred kernel alignment (CKA) of two views of the same rows, and layer × layer matrices of it.

CKA(X, Y) = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) (Kornblith et al. 2019, eq. 2), in two variants:

* biased, as in Kornblith et al. 2019: HSIC = tr(KHLH) / (n - 1)², which is far above 0 for independent
  views unless there are many more rows than dimensions;
* debiased, the default: the U-statistic of Song et al. 2012, eq. 5, which Nguyen et al. 2021 put in place
  of it. 0 on average for independent views, so it can be slightly negative.

The linear kernel never forms the n × n Gram matrices. With centred rows, r_i = |x_i|² and s_i = |y_i|²,
the U-statistic is (|X'Y|² - n/(n-2) Σ r_i s_i + Σ r_i Σ s_i / ((n-1)(n-2))) / (n (n-3)).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TypeVar

import numpy as np

from layertool.analysis.cca import paired_views
from layertool.errors import UsageError

BLOCK_ROWS = 4096  # rows centred at once by ``linear``
MAX_GRAM_ROWS = 20_000  # two float64 Gram matrices of that many rows take 6.4 GB
MATRIX_BYTES = 2**31  # of layer × layer products that ``matrix`` holds at once
ZERO = 1e-12  # of the largest term of a difference: below it there is rounding, no signal

Layer = TypeVar("Layer", bound=Hashable)


class Centre:
    """First pass over one view: rows, width and mean, taken relative to the first row.

    The shift keeps the digits of views with a large offset, and makes constant columns exactly 0.
    """

    def __init__(self, name: str):
        self.name = name
        self.n = 0
        self.width = 0
        self._shift = self._sum = np.zeros(0)

    def add(self, block: np.ndarray) -> None:
        """Take in rows (b, d). UsageError for another width than before, or values that are not finite."""
        block = np.asarray(block, np.float64)
        if block.ndim != 2 or (self.n and block.shape[1] != self.width):
            wanted = f"(rows, {self.width})" if self.n else "(rows, dimensions)"
            raise UsageError(f"{self.name}: a block has shape {block.shape}, expected {wanted}")
        if not np.isfinite(block).all():
            raise UsageError(
                f"{self.name} holds values that are not finite: leave those rows out or extract them again"
            )
        if not len(block):
            return
        if not self.n:
            self.width = block.shape[1]
            self._shift, self._sum = block[0].copy(), np.zeros(self.width)
        self._sum += (block - self._shift).sum(0)
        self.n += len(block)

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Rows (b, d) in float64, minus the mean of all rows of the first pass."""
        rows = np.asarray(block, np.float64) - self._shift
        rows -= self._sum / self.n
        return rows


class Cross:
    """Second pass over two views: what linear HSIC needs, from blocks of centred rows.

    ``product`` (d1, d2) is X'Y; the others are sums over rows of the squared norms r and s and of r s.
    Memory O(d1 d2), whatever the number of rows.
    """

    def __init__(self, width_x: int, width_y: int):
        self.n = 0
        self.product = np.zeros((width_x, width_y))
        self.sum_r = self.sum_s = self.sum_rs = 0.0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take in centred rows x (b, d1) and y (b, d2)."""
        with np.errstate(over="ignore", invalid="ignore"):  # ``norm`` refuses what is not finite
            r = np.einsum("nd,nd->n", x, x)
            s = r if x is y else np.einsum("nd,nd->n", y, y)
            self.product += x.T @ y
        self.n += len(x)
        self.sum_r += float(r.sum())
        self.sum_s += float(s.sum())
        self.sum_rs += float(r @ s)

    def hsic(self, debiased: bool = True) -> float:
        """HSIC of the linear kernel: the U-statistic (n >= 4), or tr(KHLH) / (n - 1)²."""
        n, square = self.n, float(np.vdot(self.product, self.product))
        if not debiased:
            return square / (n - 1) ** 2
        correction = self.sum_r * self.sum_s / ((n - 1) * (n - 2)) - n / (n - 2) * self.sum_rs
        return (square + correction) / (n * (n - 3))

    def norm(self, name: str, debiased: bool = True) -> float:
        """sqrt(HSIC) of a view with itself; UsageError when that is 0 or rounding around it."""
        square = float(np.vdot(self.product, self.product))
        scale = square / (self.n * (self.n - 3)) if debiased else 0.0  # only the U-statistic is a difference
        return _root(self.hsic(debiased), ZERO * scale, name)


def linear(x: np.ndarray, y: np.ndarray, debiased: bool = True) -> float:
    """Linear CKA of views x (n, d1) and y (n, d2) of the same n rows.

    Biased (Kornblith et al. 2019, eq. 3 and 4): |X'Y|² / (|X'X| |Y'Y|) of centred views, in 0..1.
    ``debiased``: the same ratio of U-statistics (Song et al. 2012; Nguyen et al. 2021), at most 1 and
    about 0 for independent views. Computed from d × d products: time O(n d²), d > n is fine.

    UsageError: rows that do not match, fewer than 4 of them (biased: 2), values that are not finite, a
    view that is constant or, for the debiased variant, has no similarity structure.
    """
    x, y = paired_views(x, y)
    _enough(len(x), debiased)
    centre_x, centre_y = Centre("view x"), Centre("view y")
    centre_x.add(x)
    centre_y.add(y)
    width_x, width_y = centre_x.width, centre_y.width
    xx, yy, xy = Cross(width_x, width_x), Cross(width_y, width_y), Cross(width_x, width_y)
    for start in range(0, len(x), BLOCK_ROWS):
        block_x, block_y = centre_x(x[start : start + BLOCK_ROWS]), centre_y(y[start : start + BLOCK_ROWS])
        xx.add(block_x, block_x)
        yy.add(block_y, block_y)
        xy.add(block_x, block_y)
    return xy.hsic(debiased) / (xx.norm("view x", debiased) * yy.norm("view y", debiased))


def matrix(
    blocks_of: Callable[[str, Layer], Iterable[np.ndarray]],
    layers_x: Sequence[Layer],
    layers_y: Sequence[Layer] | None = None,
    debiased: bool = True,
    max_bytes: int = MATRIX_BYTES,
) -> np.ndarray:
    """Linear CKA of every layer of one side with every layer of another: (len(layers_x), len(layers_y)).

    ``blocks_of(side, layer)``, with side "x" or "y", yields the rows of a layer in blocks (b, d). It is
    called afresh for every pass, and gives the same rows in blocks of the same lengths for all layers.
    Without ``layers_y`` the layers of side x are compared among themselves: a symmetric matrix.

    Each layer is read once for its mean and once for its own HSIC; then as many rows of the matrix as
    have products within ``max_bytes`` (one row at least) are filled in one reading. Memory is that, plus one
    block per layer, whatever the number of rows. Values as ``linear``, errors too, naming side and layer.
    """
    xs = [("x", layer) for layer in layers_x]
    ys = xs if layers_y is None else [("y", layer) for layer in layers_y]
    if not xs or not ys:
        raise UsageError("a matrix needs at least one layer on either side")
    centres = {view: _centre(blocks_of, view) for view in dict.fromkeys(xs + ys)}
    first = centres[xs[0]]
    for centre in centres.values():
        if centre.n != first.n:
            raise UsageError(f"views need the same rows: {first.name} has {first.n}, {centre.name} has {centre.n}")
    _enough(first.n, debiased)

    norms = {}
    for view, centre in centres.items():
        cross = Cross(centre.width, centre.width)
        for (block,) in _together(blocks_of, {view: centre}):
            cross.add(block, block)
        norms[view] = cross.norm(centre.name, debiased)

    out = np.ones((len(xs), len(ys)))
    for rows in _groups([_row_bytes(centres, view, ys) for view in xs], max_bytes):
        pairs = {(i, j): (xs[i], ys[j]) for i in rows for j in range(len(ys)) if layers_y is not None or j > i}
        crosses = {key: Cross(centres[u].width, centres[v].width) for key, (u, v) in pairs.items()}
        needed = {view: centres[view] for pair in pairs.values() for view in pair}
        for blocks in _together(blocks_of, needed):
            of = dict(zip(needed, blocks, strict=True))
            for key, (u, v) in pairs.items():
                crosses[key].add(of[u], of[v])
        for (i, j), (u, v) in pairs.items():
            out[i, j] = crosses[i, j].hsic(debiased) / (norms[u] * norms[v])
            if layers_y is None:
                out[j, i] = out[i, j]
    return out


def rbf(x: np.ndarray, y: np.ndarray, threshold: float = 1.0, debiased: bool = True) -> float:
    """CKA with Gaussian kernels exp(-|a - b|² / (2 σ²)) of views x (n, d1) and y (n, d2).

    σ is ``threshold`` times the median distance between two different rows of the view (Kornblith et al.
    2019, section 4; their notebook's median also counts each row's distance 0 to itself, a difference of
    order 1/n). HSIC is biased or debiased as in the module's docstring. Time O(n² d), memory O(n²).

    UsageError: as ``linear``; more than ``MAX_GRAM_ROWS`` rows; a threshold that is not positive; a view
    half of whose distances are 0.
    """
    x, y = paired_views(x, y)
    n = len(x)
    _enough(n, debiased)
    if n > MAX_GRAM_ROWS:
        raise UsageError(
            f"RBF CKA compares all pairs of rows and takes at most {MAX_GRAM_ROWS} of them, not {n}: "
            "draw a sample of the rows"
        )
    if not (np.isfinite(threshold) and threshold > 0):
        raise UsageError(f"the threshold is a positive share of the median distance, not {threshold}")
    k, norm_x = _rbf_centred(x, threshold, debiased, "view x")
    l, norm_y = _rbf_centred(y, threshold, debiased, "view y")  # noqa: E741 - K and L as in the papers
    return float(np.vdot(k, l)) / (norm_x * norm_y)


def _enough(n: int, debiased: bool) -> None:
    if debiased and n < 4:
        raise UsageError(f"debiased CKA needs at least 4 rows, not {n}: take more rows")
    if n < 2:
        raise UsageError(f"CKA needs at least 2 rows, not {n}: take more rows")


def _root(hsic: float, floor: float, name: str) -> float:
    """sqrt of a view's HSIC with itself, which has to be above ``floor``."""
    if not np.isfinite(hsic):
        raise UsageError(f"{name}: values are too large to be multiplied in float64; scale the view down")
    if hsic <= floor or hsic < np.finfo(float).tiny:
        raise UsageError(
            f"{name}: HSIC with itself is not positive, so CKA is undefined: all its rows are the same, or all "
            "are equally similar; take more rows, or leave the view out"
        )
    return float(np.sqrt(hsic))


def _name(view: tuple[str, Hashable]) -> str:
    return f"layer {view[1]} of side {view[0]}"


def _centre(blocks_of: Callable[[str, Layer], Iterable[np.ndarray]], view: tuple[str, Layer]) -> Centre:
    centre = Centre(_name(view))
    for block in blocks_of(*view):
        centre.add(block)
    return centre


def _together(
    blocks_of: Callable[[str, Layer], Iterable[np.ndarray]], centres: dict[tuple[str, Layer], Centre]
) -> Iterator[list[np.ndarray]]:
    """Centred blocks of several views, read side by side; UsageError when their lengths differ."""
    for blocks in zip_longest(*(blocks_of(*view) for view in centres)):
        lengths = [-1 if block is None else len(block) for block in blocks]
        for view, length in zip(centres, lengths, strict=True):
            if length != lengths[0]:
                raise UsageError(
                    f"blocks do not match: {_name(next(iter(centres)))} and {_name(view)} come in blocks of "
                    "other lengths; read both in the same order and in equal blocks"
                )
        yield [centre(block) for centre, block in zip(centres.values(), blocks, strict=True)]


def _row_bytes(centres: dict[tuple[str, Layer], Centre], x: tuple[str, Layer], ys: list[tuple[str, Layer]]) -> int:
    return 8 * centres[x].width * sum(centres[y].width for y in ys)


def _groups(sizes: list[int], limit: int) -> Iterator[list[int]]:
    """Consecutive indices whose sizes sum to at most ``limit``; a larger one stands alone."""
    group: list[int] = []
    for index, size in enumerate(sizes):
        if group and sum(sizes[i] for i in group) + size > limit:
            yield group
            group = []
        group.append(index)
    yield group


def _rbf_centred(x: np.ndarray, threshold: float, debiased: bool, name: str) -> tuple[np.ndarray, float]:
    """The centred (debiased: U-centred, Székely and Rizzo 2014) kernel matrix (n, n) and its Frobenius norm.

    The sum of products of two of them is HSIC up to a factor that cancels in CKA. In place throughout.
    """
    centre = Centre(name)
    centre.add(x)
    x = centre(x)
    x /= np.abs(x).max(initial=0.0) or 1.0  # the kernel does not depend on the scale: no overflow
    n = len(x)
    square = np.einsum("nd,nd->n", x, x)
    k = x @ x.T
    k *= -2
    k += square[:, None]
    k += square[None, :]
    np.maximum(k, 0, out=k)
    pairs = k.reshape(-1)[:-1].reshape(n - 1, n + 1)[:, 1:]  # all but the diagonal: every pair twice
    median = float(np.median(np.sqrt(pairs), overwrite_input=True))
    if median**2 <= ZERO * float(square.max()):
        raise UsageError(f"{name}: half of its rows are the same, so the median distance is 0; use linear CKA")
    k /= -2 * (threshold * median) ** 2
    np.exp(k, out=k)
    np.fill_diagonal(k, 0.0 if debiased else 1.0)
    rows = k.sum(0)
    total = rows.sum()
    if debiased:
        rows /= n - 2
        total /= (n - 1) * (n - 2)
    else:
        rows /= n
        total /= n * n
    k -= rows[:, None]
    k -= rows[None, :]
    k += total
    if debiased:
        np.fill_diagonal(k, 0.0)
    return k, _root(float(np.vdot(k, k)), (ZERO * n) ** 2, name)
