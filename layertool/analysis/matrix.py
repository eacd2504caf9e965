"""Layer by layer matrices of any similarity, with intervals and chance levels.

``fill`` streams: it needs the products of views only, so memory does not depend on the number of rows.
``compare_in_memory`` is for measures of all pairs of rows (RBF CKA, RSA), on a sample of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from layertool.analysis.moments import Array
from layertool.analysis.products import Centre, Cross, Measure, Products, paired_views
from layertool.errors import UsageError
from layertool.resampling import jackknife

MATRIX_BYTES = 2**31  # of products that are held at once
BLOCK_ROWS = 8192  # of views in memory, centred at once

Layer = Hashable
View = tuple[str, Layer]  # side ("x", "y", or "control": y without its relation to x) and layer
Name = Callable[[View], str]
BlocksOf = Callable[[str, Any], Iterable[np.ndarray]]
Progress = Callable[[float, float], object]


@dataclass(frozen=True)
class Matrix:
    """Similarities (layers x, layers y), 95 % intervals (NaN without groups), chance levels, directions (0: none)."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: np.ndarray
    directions: np.ndarray

    @classmethod
    def empty(cls, n_x: int, n_y: int) -> Matrix:
        value, low, high, chance = (np.full((n_x, n_y), np.nan) for _ in range(4))
        return cls(value, low, high, chance, np.zeros((n_x, n_y), np.int64))

    def put(self, i: int, j: int, value: float, left_out: Sequence[float], chance: float, directions: int = 0) -> None:
        """Set one cell; ``left_out``: its value without each group of rows."""
        low, high = jackknife(value, left_out)
        self.value[i, j], self.chance[i, j], self.directions[i, j] = value, chance, directions
        if low is not None and high is not None:
            self.low[i, j], self.high[i, j] = low, high

    def mirror(self, i: int, j: int) -> None:
        """The similarity of j and i is that of i and j."""
        for part in (self.value, self.low, self.high, self.chance, self.directions):
            part[j, i] = part[i, j]


def joined(parts: Sequence[Matrix]) -> Matrix:
    """One matrix of parts that were computed apart, each with NaN where the others have numbers."""
    out = Matrix.empty(*parts[0].value.shape)
    for part in parts:
        known = np.isfinite(part.value)
        for name, values in vars(part).items():
            getattr(out, name)[known] = values[known]
    return out


def view_name(view: View) -> str:
    """What errors call a view, unless the caller knows better."""
    return f"layer {view[1]} of side {view[0]}"


def fill(
    blocks_of: BlocksOf,
    layers_x: Sequence[Any],
    layers_y: Sequence[Any] | None,
    measure: Measure,
    groups: np.ndarray | None = None,
    max_bytes: int = MATRIX_BYTES,
    device: str = "cpu",
    name_of: Name = view_name,
    progress: Progress | None = None,
    rows: Sequence[int] | None = None,
) -> Matrix:
    """A measure of every layer of one side with every layer of another: (len(layers_x), len(layers_y)).

    ``blocks_of(side, layer)``, with side "x", "y" or (for measures that need it) "control", yields the rows of a
    layer in blocks (b, d). It is called afresh for every pass, and gives the same rows in blocks of the
    same lengths for all layers. Without ``layers_y`` the layers of side x are compared among themselves: a
    symmetric matrix. ``groups`` (n,): numbers from 0 on; the interval is a jackknife that leaves out one group at a
    time. ``rows``: fill only these rows of the matrix (of a symmetric one, from the diagonal on, and its mirror image);
    ``joined`` puts parts together.

    Each layer is read once for its mean and once for its own products; then as many rows of the matrix as
    have products within ``max_bytes`` (one row at least) are filled in one reading. UsageError for rows or blocks that
    do not match, and those of the measure, naming side and layer.
    """
    xs, ys, cells = _cells(layers_x, layers_y, rows)
    centres = {view: Centre(name_of(view), device) for view in _views_of(xs, ys, cells)}
    for view, centre in centres.items():
        for block in blocks_of(*view):
            centre.add(block)
    first = next(iter(centres.values()))
    for centre in centres.values():
        if centre.n != first.n:
            raise UsageError(f"views need the same rows: {first.name} has {first.n}, {centre.name} has {centre.n}")
    measure.check(first.n)
    groups = np.zeros(first.n, np.int64) if groups is None else groups
    if len(groups) != first.n:
        raise UsageError(f"{len(groups)} groups for {first.n} rows: each row needs one")
    n_groups = int(groups.max()) + 1
    left_out = [g for g in range(n_groups) if (groups == g).any()] if n_groups > 1 else []

    own: dict[View, list] = {}
    diagonal: dict[View, tuple[Products, list[float]]] = {}  # of a symmetric matrix: the same products again
    for view, centre in centres.items():
        cross = Cross(n_groups)
        for (rows_of_view,), bounds in _together(blocks_of, {view: centre}, groups, n_groups, name_of):
            cross.add(rows_of_view, rows_of_view, bounds)
        parts = _parts(cross, left_out)
        own[view] = [measure.own(part, centre.name, parts[0]) for part in parts]
        if layers_y is None:
            diagonal[view] = parts[0], [measure.value(part, a, a) for part, a in zip(parts, own[view], strict=True)]

    out = Matrix.empty(len(xs), len(ys))
    by_row = [[(i, j) for i, j in cells if i == row] for row in dict.fromkeys(i for i, _ in cells)]
    n_copies = n_groups + measure.needs_control
    sizes = [sum(8 * n_copies * centres[xs[i]].width * centres[ys[j]].width for i, j in row) for row in by_row]
    row_groups = list(_groups(sizes, max_bytes))
    done = 0
    for numbers in row_groups:
        pairs = {(i, j): (xs[i], ys[j]) for number in numbers for i, j in by_row[number]}
        crosses = {(i, j): Cross(n_groups) for i, j in pairs if layers_y is not None or i != j}
        controls = {key: Cross() for key in pairs} if measure.needs_control else {}
        needed = {view: centres[view] for pair in pairs.values() for view in pair}
        if controls:
            needed |= {("control", v[1]): centres[v] for _, v in pairs.values()}
        for blocks, bounds in _together(blocks_of, needed, groups, n_groups, name_of):
            of = dict(zip(needed, blocks, strict=True))
            for key, (u, v) in pairs.items():
                if key in crosses:
                    crosses[key].add(of[u], of[v], bounds)
                if controls:
                    controls[key].add(of[u], of["control", v[1]], bounds[[0, -1]])
            done += len(blocks[0])
            if progress:
                progress(done, len(row_groups) * first.n)
        for (i, j), (u, v) in pairs.items():
            if (i, j) in crosses:
                parts = _parts(crosses.pop((i, j)), left_out)
                pair = parts[0]
                values = [measure.value(part, a, b) for part, a, b in zip(parts, own[u], own[v], strict=True)]
            else:
                pair, values = diagonal.pop(u)
            control = controls.pop((i, j)).whole() if controls else None
            mine = own[u][0], own[v][0]
            out.put(i, j, values[0], values[1:], measure.chance(pair, *mine, control), measure.directions(*mine))
            if layers_y is None:
                out.mirror(i, j)
    return out


def of_views(x: np.ndarray, y: np.ndarray, measure: Measure) -> float:
    """A measure of two views in memory, x (n, d1) and y (n, d2). UsageError for rows that do not match, too."""
    views = dict(zip("xy", paired_views(x, y), strict=True))

    def blocks_of(side: str, _layer: None) -> Iterator[np.ndarray]:
        for begin in range(0, len(views[side]), BLOCK_ROWS):
            yield views[side][begin : begin + BLOCK_ROWS]

    return float(fill(blocks_of, [None], [None], measure, name_of=lambda view: f"view {view[0]}").value[0, 0])


def _cells(
    layers_x: Sequence[Any], layers_y: Sequence[Any] | None, rows: Sequence[int] | None
) -> tuple[list[View], list[View], list[tuple[int, int]]]:
    """The views of both sides, and which cells are computed: of a symmetric matrix those from the diagonal on."""
    xs = [("x", layer) for layer in layers_x]
    ys = xs if layers_y is None else [("y", layer) for layer in layers_y]
    if not xs or not ys:
        raise UsageError("a matrix needs at least one layer on either side")
    chosen = range(len(xs)) if rows is None else rows
    return xs, ys, [(i, j) for i in chosen for j in range(len(ys)) if layers_y is not None or j >= i]


def _views_of(xs: Sequence[View], ys: Sequence[View], cells: Sequence[tuple[int, int]]) -> list[View]:
    """The views that cells need, each once, side x first."""
    return list(dict.fromkeys([*(xs[i] for i, _ in cells), *(ys[j] for _, j in cells)]))


def _parts(cross: Cross, left_out: Sequence[int]) -> list[Products]:
    return [cross.whole(), *(cross.without(group) for group in left_out)]


def _together(
    blocks_of: BlocksOf, centres: dict[View, Centre], groups: np.ndarray, n_groups: int, name_of: Name
) -> Iterator[tuple[list[Array], np.ndarray]]:
    """Centred blocks of several views, read side by side and sorted by group; where each group of a block begins."""
    begin = 0
    relative = [centre.relative() for centre in centres.values()]
    for blocks in zip_longest(*(blocks_of(*view) for view in centres)):
        lengths = [-1 if block is None else len(block) for block in blocks]
        for view, length in zip(centres, lengths, strict=True):
            if length != lengths[0]:
                raise UsageError(
                    f"blocks do not match: {name_of(next(iter(centres)))} and {name_of(view)} come in blocks of "
                    "other lengths; read both in the same order and in equal blocks"
                )
        of_rows = groups[begin : begin + lengths[0]]
        begin += lengths[0]
        order = np.argsort(of_rows, kind="stable") if n_groups > 1 else slice(None)
        bounds = np.searchsorted(of_rows[order], np.arange(n_groups + 1))
        yield [less(np.asarray(block)[order]) for less, block in zip(relative, blocks, strict=True)], bounds


def _groups(sizes: list[int], limit: int) -> Iterator[list[int]]:
    """Consecutive indices whose sizes sum to at most ``limit``; a larger one stands alone."""
    group: list[int] = []
    for index, size in enumerate(sizes):
        if group and sum(sizes[i] for i in group) + size > limit:
            yield group
            group = []
        group.append(index)
    yield group


def compare_in_memory(
    read: Callable[[str, Any], np.ndarray],
    layers_x: Sequence[Any],
    layers_y: Sequence[Any] | None,
    embed: Callable[[np.ndarray, str], np.ndarray],
    chance: Callable[[np.ndarray, np.ndarray], float],
    groups: np.ndarray | None = None,
    name_of: Name = view_name,
    progress: Progress | None = None,
    rows: Sequence[int] | None = None,
) -> Matrix:
    """The same for measures that are the product of something that each view is turned into by ``embed``.

    ``embed``: rows (n, d) and the view's name to an array of norm 1.

    ``read(side, layer)``: (n, d). ``chance``: of two embedded views. Every embedded view is held in memory.
    """
    xs, ys, pairs = _cells(layers_x, layers_y, rows)
    present = np.unique(groups) if groups is not None else np.zeros(0, np.int64)
    turns = [-1, *(present.tolist() if len(present) > 1 else [])]  # -1: all rows
    out = Matrix.empty(len(xs), len(ys))
    cells: dict[tuple[int, int], list[float]] = {pair: [] for pair in pairs}
    levels: dict[tuple[int, int], float] = {}
    for done, turn in enumerate(turns, start=1):
        kept = np.ones(0, bool) if groups is None else groups != turn
        embedded = {}
        for view in _views_of(xs, ys, pairs):
            held = read(*view)
            embedded[view] = embed(held if turn < 0 or groups is None else held[kept], name_of(view))
        for i, j in pairs:
            cells[i, j].append(float(np.vdot(embedded[xs[i]], embedded[ys[j]])))
            if turn < 0:
                levels[i, j] = chance(embedded[xs[i]], embedded[ys[j]])
        if progress:
            progress(done, len(turns))
    for (i, j), (whole, *rest) in cells.items():
        out.put(i, j, whole, rest, levels[i, j])
        if layers_y is None:
            out.mirror(i, j)
    return out
