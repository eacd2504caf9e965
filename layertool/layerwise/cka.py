"""Every layer against every layer, of one store or of two: CKA, Procrustes distance, RSA, in-sample PWCCA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from layertool.analysis import cka, folds, matrix, similarity
from layertool.analysis.cca import InSampleCCA
from layertool.cluster import current
from layertool.declared import option
from layertool.errors import UsageError, tell
from layertool.layerwise import rows as row_rules
from layertool.layerwise.analysis import Analysis, Drawn, Metric, Score, Stores, unit_option
from layertool.layerwise.engine import Progress, Watch, place_of
from layertool.layerwise.folds import TARGET_TURNED
from layertool.layerwise.rows import Rows
from layertool.layerwise.stores import check_comparable, check_pooling, layers_of, unit_of
from layertool.layerwise.views import LayerView, pair
from layertool.result_rows import Result
from layertool.store import FeatureStore

IN_MEMORY = ("cka-rbf", "rsa")  # they compare all pairs of rows
METRICS = {  # of each measure
    "cka": Metric("linear cka", "linear CKA", is_share=True),
    "cka-rbf": Metric("rbf cka", "RBF CKA", is_share=True),
    "procrustes": Metric("procrustes distance", "Procrustes distance", better="lower"),
    "rsa": Metric("rsa", "RSA"),
    "cca": Metric("pwcca", "PWCCA, mean of both directions", is_share=True),
}
N_GROUPS, N_GROUPS_CCA = 10, 5  # of the jackknife

Views = Mapping[tuple[str, str], LayerView]  # by side and layer


@dataclass(frozen=True)
class Sides:
    """Layers of both sides (``ys`` None: of one store among themselves), the same rows of each, their groups (n,)."""

    xs: list[str]
    ys: list[str] | None
    views: Views
    groups: np.ndarray

    @property
    def n(self) -> int:
        return len(self.groups)

    @property
    def n_groups(self) -> int:
        return int(self.groups.max()) + 1

    def of(self, side: str, layer: Any) -> LayerView:
        """The rows of a layer; side "control" is side y without its relation to x."""
        if side == "control":
            return self.of("x" if self.ys is None else "y", layer).rolled()
        return self.views[side, layer]

    def name(self, view: matrix.View) -> str:
        """A layer as a person knows it."""
        return f"layer {view[1]} of {self.of(*view).store.path}"


@dataclass(frozen=True, kw_only=True)
class CKA(Drawn, Analysis):
    """Compare every layer with every layer, of one store or of two (CKA, Procrustes, RSA).

    \b
    Examples:
      layertool cka w2v2 --plot layers.png
      layertool cka w2v2 hubert --unit phone -o cka.csv
      layertool cka w2v2 --measure rsa --unit word
    """

    measure: Literal["cka", "cka-rbf", "procrustes", "rsa", "cca"] = option(
        "cka",
        "How two layers are compared: linear or RBF CKA, Procrustes distance, RSA, or in-sample PWCCA (cca).",
        decides=False,
    )
    biased: bool = option(False, "CKA as in Kornblith et al. 2019, far above 0 by chance.", decides=False)
    distance: Literal["correlation", "cosine", "euclidean"] = option(
        "correlation", "Distance of two rows, for --measure rsa."
    )
    max_rows: int = option(
        2000, "Rows to draw for --measure cka-rbf and rsa, which compare all pairs of rows.", low=4, metavar="N"
    )
    other_layers: str | None = option(
        None,
        "Layers of STORE2, or of STORE, to compare --layers with.",
        metavar="LAYERS",
        usual="--layers",
        decides=False,
    )
    sample: Literal["published", "all"] = option(
        "published",
        "Rows to draw: published, 500 utterances of frames, 200 rows a phone, 15 of the 500 most frequent words; "
        "or all.",
    )
    device: str = option("auto", "Where products are computed: auto, cpu or cuda:N.", decides=False)
    unit: str | None = unit_option("frame")

    name = command = "cka"
    names = ("rsa", "procrustes")  # of the analysis in rows of these measures
    metrics = tuple(METRICS.values())
    cites = ("kornblith2019",)
    inputs: ClassVar[tuple[str, ...]] = ("STORE", "[STORE2]")
    counted = "rows"
    usual_unit = "frame"
    only_unit = False
    at_once = 1  # products of matrices take all cores

    def check(self) -> None:
        if self.biased and not self.measure.startswith("cka"):
            raise UsageError(f"{self.measure} has no biased form: leave --biased out, or take --measure cka")

    def settings(self) -> dict[str, Any]:
        estimator = {"estimator": "biased" if self.biased else "debiased"}
        of_measure: dict[str, dict[str, Any]] = {
            "cka": estimator,
            "cka-rbf": estimator | {"threshold": 1},
            "procrustes": {"chance": TARGET_TURNED},
            "rsa": {"correlation": "Spearman"},
            "cca": {"protocol": "in-sample", "eps": [1e-10], "columns": "standardised", "chance": TARGET_TURNED},
        }
        unused = {} if self.measure == "rsa" else {"distance": None}
        unused |= {} if self._in_memory else {"max_rows": None}
        return super().settings() | unused | of_measure[self.measure]

    @property
    def _in_memory(self) -> bool:
        return self.measure in IN_MEMORY

    def of(self, stores: Stores, other: str | Path | FeatureStore | None = None) -> Callable[[Watch], list[Result]]:
        first = [stores] if isinstance(stores, (str, Path, FeatureStore)) else [*stores]
        return super().of(first if other is None else [*first, other])

    def of_stores(self, stores: Sequence[FeatureStore], watch: Watch) -> list[Result]:
        """Every layer of the first store against every layer of it or of the second one.

        The target of a row is the other layer, "T3", or "STORE:T3" where it belongs to another store (the name of its
        folder). Intervals: jackknife over groups of utterances.
        """
        if len(stores) > 2:
            raise UsageError(
                f"cka compares a store with itself or with one other, not {len(stores)}: 'layertool compare' takes "
                "more of them"
            )
        store, other = stores[0], stores[-1]
        unit = self.unit_of(store)
        sides = self._sides(store, other, unit)
        found = self._matrix(sides, watch)
        prefix = "" if other is store else f"{other.path.resolve().name}:"
        return [
            self.row(
                store,
                unit,
                x,
                _score(METRICS[self.measure].name, found, (i, j), sides.n, prefix + y),
                {"interval": f"over {sides.n_groups} groups of utterances" if sides.n_groups > 1 else "none"},
            )
            for i, x in enumerate(sides.xs)
            for j, y in enumerate(sides.xs if sides.ys is None else sides.ys)
        ]

    def row(self, *of: Any) -> Result:
        """As all rows, with the name of the analysis that measures of another kind have."""
        return replace(super().row(*of), analysis="cka" if self.measure == "cka-rbf" else self.measure)

    def _sides(self, store: FeatureStore, other: FeatureStore, unit: str) -> Sides:
        xs, ys = layers_of(store, unit, self.layers), None
        if other is not store:
            check_comparable(store, other)
            unit_of(other, unit, unit)
            check_pooling(store, other, unit)
        if other is not store or self.other_layers is not None:
            ys = layers_of(other, unit, self.other_layers or self.layers)
        views = self._views(store, other, unit, xs, ys)
        return Sides(xs, ys, views, self._groups(store, views["x", xs[0]]))

    def _views(
        self, store: FeatureStore, other: FeatureStore, unit: str, xs: Sequence[str], ys: Sequence[str] | None
    ) -> Views:
        """The same rows of every layer: those of the slowest frame rate, which the others are brought to."""
        sides = [("x", store, layer) for layer in xs] + [("y", other, layer) for layer in ys or ()]
        tables: dict[tuple[str, str], Rows] = {}
        for _, owner, layer in sides:
            key = (str(owner.path), owner.table_of(unit, layer))
            if key not in tables:
                tables[key] = self.candidates(owner, unit, layer)
        slowest = min(tables, key=lambda key: len(tables[key]))
        common = row_rules.draw(tables[slowest], self.sampling_of(unit), self.seed)
        for key in tables:  # rows that every table has
            common = pair(common, tables[key], unit, (slowest[0], key[0]))[0]
        if self._in_memory and len(common) > self.max_rows:
            kept = np.sort(np.random.default_rng(self.seed).permutation(len(common))[: self.max_rows])
            common = common.of(kept, f"{self.max_rows} of {len(common)} rows were drawn")
        for note in common.notes:
            tell(note)
        index = {key: pair(common, tables[key], unit, (slowest[0], key[0]))[1].index for key in tables}
        return {
            (side, layer): LayerView(owner, unit, layer, index[str(owner.path), owner.table_of(unit, layer)])
            for side, owner, layer in sides
        }

    def _groups(self, store: FeatureStore, view: LayerView) -> np.ndarray:
        """Group (n,) of each row for the jackknife: whole utterances."""
        codes, which = np.unique(store.row_table(view.unit, view.layer)[view.index]["utterance"], return_inverse=True)
        n_groups = min(N_GROUPS_CCA if self.measure == "cca" else N_GROUPS, len(codes))
        if n_groups < 2:
            return np.zeros(len(which), np.int64)
        return folds.by_utterance(codes, store.utterances["n_samples"].to_numpy()[codes], n_groups, self.seed)[which]

    def _matrix(self, sides: Sides, watch: Watch) -> matrix.Matrix:
        """All at once, as each layer is read once then; in as many parts as workers, where somebody asked for them."""
        n_parts = len(sides.xs) if current() else min(watch.at_once or 1, len(sides.xs))
        parts = [(sides, range(k, len(sides.xs), n_parts)) for k in range(n_parts)]
        progress = watch.progress if n_parts == 1 and not current() else None
        return matrix.joined(watch.each(partial(self.compute, progress=progress), parts, "rows of a matrix"))

    def compute(self, sides: Sides, numbers: Sequence[int], progress: Progress | None = None) -> matrix.Matrix:
        """Rows of the matrix, by their numbers."""
        if self._in_memory:
            held = {view: layer.read() for view, layer in sides.views.items()}
            return matrix.compare_in_memory(
                lambda side, layer: held[side, layer],
                sides.xs,
                sides.ys,
                self._embed,
                self._chance,
                sides.groups,
                sides.name,
                progress,
                numbers,
            )
        measures: dict[str, matrix.Measure] = {
            "cka": cka.LinearCKA(not self.biased),
            "procrustes": similarity.Procrustes(),
            "cca": InSampleCCA(),
        }

        def blocks_of(side: str, layer: str) -> Iterator[np.ndarray]:
            return sides.of(side, layer).blocks()

        return matrix.fill(
            blocks_of,
            sides.xs,
            sides.ys,
            measures[self.measure],
            sides.groups,
            device=place_of(self.device),
            name_of=sides.name,
            progress=progress,
            rows=numbers,
        )

    def _embed(self, rows: np.ndarray, name: str) -> np.ndarray:
        if self.measure == "rsa":
            return similarity.rsa_ranks(rows, self.distance, name)
        return cka.rbf_kernel(np.asarray(rows, np.float64), 1.0, not self.biased, name)

    def _chance(self, x: np.ndarray, y: np.ndarray) -> float:
        """The exact mean over permutations of the rows."""
        if self.measure == "rsa" or not self.biased:
            return 0.0
        return float(np.trace(x) * np.trace(y)) / (len(x) - 1)


def _score(metric: str, found: matrix.Matrix, cell: tuple[int, int], n: int, target: str) -> Score:
    low, high, chance = (
        None if np.isnan(part[cell]) else float(part[cell]) for part in (found.low, found.high, found.chance)
    )
    n_directions = int(found.directions[cell])
    chosen = {"directions": n_directions} if n_directions else {}
    return Score(metric, float(found.value[cell]), low, high, chance, n, target, chosen=chosen)
