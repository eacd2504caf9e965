"""Results or stores side by side: rows that are chosen, layers that are compared across models, sizes of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from layertool import layers as layer_names
from layertool import result_rows
from layertool.declared import option, options_of
from layertool.errors import UsageError, telling_once
from layertool.functions import COMMON
from layertool.layerwise import stores as of_stores
from layertool.layerwise.cka import CKA
from layertool.layerwise.engine import Progress, Watch, opened
from layertool.outline import check_axis
from layertool.result_rows import BASELINE, PARAMETERS, Result
from layertool.results import Results
from layertool.store import FeatureStore

Input = str | Path | FeatureStore | Results
OF_FILES = ("analysis", "metric", "target")  # options that choose among results
OF_BOTH = ("layers", "unit")


@dataclass(frozen=True, kw_only=True)
class Comparison(CKA):
    """Put result files or stores side by side: curves, heatmaps, or a checkpoint series.

    \b
    Result files are joined into one table and one figure. Stores are each compared with the first one.
    Examples:
      layertool compare base.csv finetuned.csv --plot both.pdf
      layertool compare mi.csv --x step --metric mi --plot emergence.pdf
      layertool compare mi.csv --x parameters --metric mi --plot compressed.pdf
      layertool compare w2v2 hubert wavlm --unit phone --plot heatmaps.png
      layertool compare checkpoint-1000 checkpoint-2000 checkpoint-4000 --same-layer --x step
    """

    analysis: str | None = option(None, "Analysis whose rows of result files to take.", metavar="NAME")
    metric: str | None = option(None, "Metric whose rows of result files to take, e.g. 'adjusted mi'.", metavar="NAME")
    target: str | None = option(None, "Target whose rows of result files to take.", metavar="NAME")
    same_layer: bool = option(False, "Compare only layers of the same name of stores, as curves.")

    command = "compare"
    inputs = ("RESULTS...|STORES...",)

    def check(self) -> None:
        super().check()
        if self.same_layer and self.other_layers is not None:
            raise UsageError("--same-layer and --other-layers exclude each other: leave out one of both")

    def compared(self, inputs: Input | Sequence[Input], x: str = "layer", watch: Watch | None = None) -> Results:
        """What ``compare`` gives, by an engine that is open."""
        given: list[Any] = [inputs] if isinstance(inputs, (str, Path, FeatureStore, Results)) else [*inputs]
        if not given:
            raise UsageError("nothing is named to compare: give result files or stores")
        are_results = [_are_results(one) for one in given]
        if any(are_results) != all(are_results):
            raise UsageError(
                f"{given[are_results.index(True)]} is a file and {given[are_results.index(False)]} a folder: "
                "compare either result files or stores"
            )
        self._refuse_unused(are_results[0])
        if are_results[0]:
            return Results(self._chosen(given), x=x)
        if x == "parameters":
            raise UsageError("--x parameters is for result files: write each analysis with -o, and compare these")
        stores = of_stores.opened(given)
        if len(stores) < 2:
            raise UsageError(
                "one store has nothing to be compared with: give two or more, or use 'layertool cka STORE'"
            )
        return Results(self._similarities(stores, self.same_layer or x != "layer", watch or Watch(self.at_once)), x=x)

    def _refuse_unused(self, of_files: bool) -> None:
        """Raise UsageError for an option that would do nothing."""
        for one in options_of(Comparison):
            unused = one.name not in (*OF_FILES, *OF_BOTH) if of_files else one.name in OF_FILES
            if unused and getattr(self, one.name) != one.default:
                instead = ", and choose among results with --analysis, --target, --metric" if of_files else ""
                raise UsageError(
                    f"{one.flag} does nothing for {'result files' if of_files else 'stores'}: leave it out{instead}"
                )

    def _chosen(self, given: Sequence[Any]) -> pd.DataFrame:
        """The rows of results that are asked for, each once."""
        parts = [one.rows if isinstance(one, Results) else result_rows.read([one]) for one in given]
        rows = pd.concat(parts, ignore_index=True)
        for column in ("analysis", "target", "unit", "metric"):
            value = getattr(self, column)
            if value is not None:
                there = ", ".join(dict.fromkeys(rows[column].astype(str)))
                rows = rows[rows[column] == value]
                if rows.empty:
                    raise UsageError(f"no result has the {column} '{value}' (there are {there})")
        if self.layers != "all":
            known = rows.sort_values("layer_index")["layer"].unique().tolist()
            rows = rows[rows["layer"].isin(layer_names.select(self.layers, known, "these results"))]
        return rows.drop_duplicates().reset_index(drop=True)

    def _similarities(self, stores: Sequence[FeatureStore], same_layer: bool, watch: Watch) -> list[Result]:
        """Rows of the first store with each of the others; or of each layer of the others with that of the first."""
        asked = {one.name: getattr(self, one.name) for one in options_of(CKA)}
        first, *others = stores
        if not same_layer:
            return [row for other in others for row in CKA(**asked).of_stores([first, other], watch)]
        unit, rows = self.unit_of(first), []
        for other in others:
            shared = [layer for layer in other.layers_of(self.unit_of(other)) if layer in first.layers_of(unit)]
            if self.layers != "all":
                shared = layer_names.select(self.layers, shared, f"both {first.path} and {other.path}")
            for layer in shared:
                (row,) = CKA(**asked | {"layers": layer, "other_layers": layer}).of_stores([other, first], watch)
                rows.append(replace(row, target=f"the same layer of {first.path.resolve().name}"))
        return rows


def compare(
    inputs: Input | Sequence[Input],
    x: str = "layer",
    *,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Results:
    """Inputs side by side: ``Results`` and result files are joined, stores are each compared with the first.

    ``x``: the axis of table and figure, "layer", "depth", "step" or "parameters"; over steps, stores are compared
    layer by layer of the same name. ``options``: the fields of ``Comparison``: ``analysis``, ``metric`` and ``target``
    (exact names) choose among results; ``same_layer``, ``measure`` and the others of ``layertool.cka`` are for stores;
    ``unit`` and ``layers`` for both. ``engine``, ``address``, ``workers``, ``progress``: as of every analysis.

    Raises UsageError, in one sentence, for inputs that are missing or of two kinds, for options that would do nothing,
    and when no row is left.
    """
    comparison = Comparison.of_call("compare", options, ("x", *COMMON))
    check_axis(x)
    with telling_once(), opened(engine, address, workers):
        return comparison.compared(inputs, x, Watch(workers or comparison.at_once, progress))


def _are_results(given: Any) -> bool:
    """Whether an input is results, and not a store or a pattern of stores. UsageError for what is not there."""
    if isinstance(given, (Results, FeatureStore)):
        return isinstance(given, Results)
    path = Path(given)
    if not path.exists() and not any(sign in str(given) for sign in "*?["):
        raise UsageError(f"{path} does not exist: name result files or feature stores that are there")
    return path.is_file()


def with_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Result rows of any analysis, and a row of each store that says how many parameters of its model are not 0.

    Rows that say so already are kept; stores of acoustic features have no parameters, and older stores do not say.
    Raises UsageError for rows that do not say which store they are of, stores that are not there, and where none says
    a size.
    """
    of_layers = rows[(rows["layer"] != BASELINE) & (rows["metric"] != PARAMETERS)]
    if of_layers["store"].isna().any() or of_layers.empty:
        raise UsageError("--x parameters needs results of stores: these do not say which store they are of")
    known = rows["store"][rows["metric"] == PARAMETERS]
    unknown = of_layers[~of_layers["store"].isin(known)].drop_duplicates("store")
    sizes = []
    for of_store in unknown.to_dict("records"):
        if not Path(of_store["store"]).exists():
            raise UsageError(
                f"{of_store['store']} is not there, which says how large its model is: type the command where the "
                "stores are"
            )
        store = FeatureStore(of_store["store"], allow_unfinished=True)
        size = (store.about.get("parameters") or {}).get("nonzero")
        if size is not None:
            facts = of_stores.facts(store) | {"store": of_store["store"]}
            place = {"unit": of_store["unit"], "layer": "model", "layer_index": len(store.layers), "target": "model"}
            sizes.append(
                result_rows.row(PARAMETERS, {}, analysis=of_store["analysis"], value=float(size), **facts, **place)
            )
    if not sizes and known.empty:
        raise UsageError("none of these stores says how many parameters its model has: extract them again")
    return pd.concat([rows, result_rows.table(sizes)], ignore_index=True) if sizes else rows
