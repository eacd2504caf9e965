"""Layer by layer similarities within a store and between two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from layertool.analysis import cka, folds, matrix, similarity
from layertool.analysis.cca import InSampleCCA
from layertool.errors import UsageError
from layertool.layerwise import rows as row_rules
from layertool.layerwise.rows import Condition, Rows, Sampling
from layertool.layerwise.stores import (
    Progress,
    Say,
    check_comparable,
    check_pooling,
    conditions_of,
    joined,
    layers_of,
    result,
    said_once,
    sampling_of,
    silent,
    unit_of,
)
from layertool.layerwise.views import LayerView, pair
from layertool.result_rows import Result
from layertool.store import FeatureStore

MEASURES = ("cka", "cka-rbf", "procrustes", "rsa", "cca")
SAMPLE_ROWS = 2000  # of measures that compare all pairs of rows
GROUPS = {"cka": 10, "cka-rbf": 10, "procrustes": 10, "rsa": 10, "cca": 5}  # of the jackknife


@dataclass(frozen=True)
class Options:
    """How layers are compared; see ``similarity_rows``."""

    measure: str = "cka"
    debiased: bool = True
    distance: str = "correlation"
    where: Sequence[Condition] = ()
    sampling: Sampling | None = None
    max_rows: int = SAMPLE_ROWS
    seed: int = 0
    device: str = "cpu"

    def check(self) -> None:
        """Raise UsageError for options that no data could satisfy."""
        if self.measure not in MEASURES:
            raise UsageError(f"'{self.measure}' is no measure: choose among {', '.join(MEASURES)}")
        if not self.debiased and not self.measure.startswith("cka"):
            raise UsageError(f"{self.measure} has no biased form: leave --biased out, or take --measure cka")
        if self.distance not in similarity.DISTANCES:
            raise UsageError(f"'{self.distance}' is no distance: choose among {', '.join(similarity.DISTANCES)}")


def similarity_rows(
    store: FeatureStore,
    other: FeatureStore | None = None,
    unit: str | None = None,
    layers: str = "all",
    other_layers: str | None = None,
    options: Options | None = None,
    say: Say = silent,
    progress: Progress | None = None,
) -> list[Result]:
    """Every layer of a store against every layer of it or of another store of the same corpus.

    ``options.measure``: ``cka`` (linear; ``debiased`` or biased), ``cka-rbf``, ``procrustes`` (distance), ``rsa``
    (Spearman of dissimilarities), ``cca`` (PWCCA, in-sample). The result's target is the other layer, "T3", or
    "STORE:T3" where it belongs to another store (the name of its folder). Intervals: jackknife over
    groups of utterances. ``cka-rbf`` and ``rsa`` take a sample of ``max_rows`` rows, which the variant says.
    Raises UsageError, in one sentence, for stores that are not comparable or too few rows.
    """
    options = options or Options()
    options.check()
    say = said_once(say)
    unit = unit_of(store, unit, "frame")
    if other is not None:
        check_comparable(store, other)
        unit_of(other, unit, unit)
        check_pooling(store, other, unit, say)
    xs = layers_of(store, unit, layers)
    ys = None if other is None else layers_of(other, unit, other_layers or layers)
    if other is None and other_layers is not None:
        ys = layers_of(store, unit, other_layers)
        other = store
    views = _views(store, other, unit, xs, ys, options, say)
    n = len(views["x", xs[0]])
    groups = _groups(store, views["x", xs[0]], unit, options)
    if options.measure in ("cka-rbf", "rsa"):
        found = _in_memory(views, xs, ys, options, groups, progress)
    else:
        found = _streamed(views, xs, ys, options, groups, progress)
    prefix = "" if other is None or other is store else f"{other.path.resolve().name}:"
    n_groups = int(groups.max()) + 1
    variant = joined([
        _name(options),
        f"{n} rows drawn" if options.measure in ("cka-rbf", "rsa") and n == options.max_rows else "",
        f"interval over {n_groups} groups of utterances" if n_groups > 1 else "no interval",
        sampling_of(options.sampling),
        conditions_of(options.where),
    ])  # fmt: skip
    analysis = {"cka-rbf": "cka"}.get(options.measure, options.measure)
    return [
        result(
            store, unit, x, analysis=analysis, variant=variant, target=prefix + y, value=float(found.value[i, j]),
            ci_low=_number(found.low[i, j]), ci_high=_number(found.high[i, j]), chance=_number(found.chance[i, j]),
            n=n, seed=options.seed,
            settings=json.dumps({"directions": k}) if (k := int(found.directions[i, j])) else None,
        )
        for i, x in enumerate(xs)
        for j, y in enumerate(xs if ys is None else ys)
    ]  # fmt: skip


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _name(options: Options) -> str:
    debiased = "debiased" if options.debiased else "biased"
    return {
        "cka": f"linear CKA, {debiased}",
        "cka-rbf": f"RBF CKA, {debiased}, threshold 1",
        "procrustes": "orthogonal Procrustes distance, chance: target turned by half of the rows",
        "rsa": f"RSA, Spearman of {options.distance} dissimilarities",
        "cca": "pwcca, mean of both directions, in-sample, eps 1e-10, standardised columns, chance: target turned by half of the rows",
    }[options.measure]


def _views(
    store: FeatureStore, other: FeatureStore | None, unit: str, xs: Sequence[str], ys: Sequence[str] | None,
    options: Options, say: Say,
) -> dict[tuple[str, str], LayerView]:  # fmt: skip
    """The same rows of every layer: those of the slowest frame rate, which the others are brought to."""
    sides = [("x", store, layer) for layer in xs] + [("y", other or store, layer) for layer in ys or ()]
    tables: dict[tuple[str, str], Rows] = {}
    for _, owner, layer in sides:
        key = (str(owner.path), owner.table_of(unit, layer))
        if key not in tables:
            rows = row_rules.select(owner, unit, layer, options.where)
            if unit in owner.labels and options.sampling != row_rules.ALL:
                rows = row_rules.of_speech(owner, unit, rows)
            tables[key] = rows
    names = list(tables)
    slowest = min(names, key=lambda key: len(tables[key]))
    sampling = row_rules.PUBLISHED[unit] if options.sampling is None else options.sampling
    common = row_rules.draw(tables[slowest], sampling, options.seed)
    for key in names:  # rows that every table has
        common = pair(common, tables[key], unit, (slowest[0], key[0]))[0]
    if options.measure in ("cka-rbf", "rsa") and len(common) > options.max_rows:
        kept = np.sort(np.random.default_rng(options.seed).permutation(len(common))[: options.max_rows])
        common = common.of(kept, f"{options.max_rows} of {len(common)} rows were drawn")
    for note in common.notes:
        say(note)
    index = {key: pair(common, tables[key], unit, (slowest[0], key[0]))[1].index for key in names}
    return {
        (side, layer): LayerView(owner, unit, layer, index[str(owner.path), owner.table_of(unit, layer)])
        for side, owner, layer in sides
    }


def _groups(store: FeatureStore, view: LayerView, unit: str, options: Options) -> np.ndarray:
    """Group (n,) of each row for the jackknife: whole utterances."""
    table = store.row_table(unit, view.layer)[view.index]
    codes, which = np.unique(table["utterance"], return_inverse=True)
    n_groups = min(GROUPS[options.measure], len(codes))
    if n_groups < 2:
        return np.zeros(len(which), np.int64)
    lengths = store.utterances["n_samples"].to_numpy()[codes]
    return folds.by_utterance(codes, lengths, n_groups, options.seed)[which]


def _streamed(views, xs, ys, options: Options, groups: np.ndarray, progress: Progress | None) -> matrix.Matrix:
    measures: dict[str, matrix.Measure] = {
        "cka": cka.LinearCKA(options.debiased),
        "procrustes": similarity.Procrustes(),
        "cca": InSampleCCA(),
    }

    def blocks_of(side: str, layer: str) -> Iterator[np.ndarray]:
        if side == "control":
            return views["x" if ys is None else "y", layer].rolled().blocks()
        return views[side, layer].blocks()

    return matrix.fill(blocks_of, xs, ys, measures[options.measure], groups, device=options.device,
                       name_of=_namer(views), progress=progress)  # fmt: skip


def _namer(views) -> matrix.Name:
    """Layers as a person knows them."""
    owner = {side: view.store.path for (side, _), view in views.items()}
    owner["control"] = owner.get("y", owner["x"])
    return lambda view: f"layer {view[1]} of {owner[view[0]]}"


def _in_memory(views, xs, ys, options: Options, groups: np.ndarray, progress: Progress | None) -> matrix.Matrix:
    def embed(rows: np.ndarray, name: str) -> np.ndarray:
        if options.measure == "rsa":
            return similarity.rsa_ranks(rows, options.distance, name)
        return cka.rbf_kernel(np.asarray(rows, np.float64), 1.0, options.debiased, name)

    def chance(x: np.ndarray, y: np.ndarray) -> float:
        """The exact mean over permutations of the rows."""
        if options.measure == "rsa" or options.debiased:
            return 0.0
        return float(np.trace(x) * np.trace(y)) / (len(x) - 1)

    held = {view: layer.read() for view, layer in views.items()}
    return matrix.compare_in_memory(
        lambda side, layer: held[side, layer], xs, ys, embed, chance, groups, _namer(views), progress
    )
