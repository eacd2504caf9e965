"""What a figure shows of a table of results, whoever draws it: which curves, which axis, which level of chance.

Nothing here draws. The figures of this folder and the page of ``layertool.report`` take the same decisions from here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from layertool.errors import UsageError
from layertool.figures.table import (
    PANEL,
    curve_names,
    depth,
    families,
    layer_order,
    only_once,
    split,
    steps,
    tidy,
)
from layertool.result_rows import (
    EVERYTHING,
    LIKELIHOOD,
    PARAMETERS,
    SEPARATOR,
    TAU,
    TOP_1,
    TOP_N,
    UNFINISHED,
    is_matrix,
    is_stimulus,
    metrics_of,
)

OWN_CHANCE, HIGHEST_CHANCE = "chance of each curve", "highest chance of a layer"  # in legends
SAME_CHANCE = 0.01  # of the height of the axis: chance levels as close as this are one line
LOG_RATIO = 100
LENS_METRICS = (LIKELIHOOD, TAU, TOP_N, TOP_1)
HALVES = {"encoder layers, read by the decoder": False, "decoder layers, read by the output": True}


@dataclass(frozen=True)
class Curves:
    """Rows as curves over layers: the layers of the axis in order, and the names of the curves, networks first.

    A curve whose layers are not on the axis (mel, a baseline) is a level across the panel.
    """

    rows: pd.DataFrame
    layers: list[str]
    names: list[str]

    def is_level(self, points: pd.DataFrame) -> bool:
        """Whether the rows of one curve are a horizontal line."""
        return not set(points["layer"]) <= set(self.layers)


def curves_of(rows: pd.DataFrame) -> Curves:
    """Rows of the table of results as curves over layers. Raises UsageError for no rows, and for two of one point."""
    rows = tidy(rows)
    only_once(rows, [*PANEL, "curve", "layer"])
    networks = rows[rows.groupby("curve")["layer"].transform("nunique") > 1]
    on_axis = rows["layer"].isin(networks["layer"] if len(networks) else rows["layer"])
    names = list(dict.fromkeys([*rows["curve"][on_axis], *rows["curve"]]))
    return Curves(rows, layer_order(rows[on_axis]), names)


def is_one_level(chance: pd.Series, limits: tuple[float, float]) -> bool:
    """Whether levels of chance are so close, on an axis with these limits, that they are one line."""
    return bool(chance.max() - chance.min() <= SAME_CHANCE * (limits[1] - limits[0]))


@dataclass(frozen=True)
class Map:
    """One layer by layer map: what it is of, values (target layers, layers) with NaN where there is no row, their names."""

    fields: dict[str, str]
    rows: pd.DataFrame
    values: np.ndarray
    x: list[str]
    y: list[str]


def maps_of(rows: pd.DataFrame) -> list[tuple[dict[str, str], pd.DataFrame, list[Map]]]:
    """Groups of maps that share their colours: (analysis and variant, rows, maps).

    The rows get ``other`` and ``row``: the curve name of the store that is compared with, and its layer. Raises
    UsageError for rows that are no matrix, and for two of one cell.
    """
    rows = tidy(rows)
    if not is_matrix(rows):
        raise UsageError("these results are no layer by layer table: draw them as curves over layers")
    only_once(rows, ["analysis", "variant", "unit", "curve", "layer", "target"])
    rows[["other", "row"]] = rows["target"].str.rpartition(":")[[0, 2]]
    rows["other"] = rows["curve"].where(rows["other"] == "", rows["other"].replace(_folders(rows)))
    return [
        (
            fields,
            group,
            [
                Map(panel, part, *_matrix(part, rows))
                for panel, part in split(group, ["unit", "curve", "other"])
            ],
        )
        for fields, group in split(rows, ["analysis", "variant"])
    ]  # fmt: skip


def _folders(rows: pd.DataFrame) -> dict[str, str]:
    """Folder name of a store -> name of its curve, where the rows have one such store."""
    stores = rows[["store", "curve"]].drop_duplicates()
    stores["store"] = stores["store"].map(lambda store: Path(store).name)
    return dict(stores.drop_duplicates("store", keep=False).itertuples(index=False, name=None))


def _matrix(part: pd.DataFrame, rows: pd.DataFrame) -> tuple[np.ndarray, list[str], list[str]]:
    """Values (target layers, layers) of one panel, NaN where there is no row, and the names of columns and of rows."""
    x, found = layer_order(part), list(dict.fromkeys(part["row"]))
    order = layer_order(rows[rows["curve"] == part["other"].iloc[0]])  # empty for a store that is only compared with
    y = [layer for layer in order if layer in found] + sorted((n for n in found if n not in order), key=depth)
    values = np.full((len(y), len(x)), np.nan)
    values[part["row"].map(y.index), part["layer"].map(x.index)] = part["value"]
    return values, x, y


def series_of(rows: pd.DataFrame, x: str) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Rows as lines over checkpoints: the rows with numbers in column ``x``, what makes a panel, the layers in order.

    Raises UsageError for rows without ``x``, for fewer than two values of it, and for two results of one point.
    """
    rows = tidy(rows)
    rows[x] = steps(rows, x)
    fields = PANEL
    folders = families(rows["store"]) if (rows["store"] != "").all() else None
    if folders is not None and folders.nunique() > 1:  # checkpoints of two trainings are no series
        fields, rows["model"] = [*PANEL, "model"], folders
    elif rows.duplicated([*PANEL, "layer", x]).any():
        fields = [*PANEL, "model"]
        rows["model"] = curve_names(rows.assign(revision="", step=math.nan, corpus="", store=""))
    only_once(rows, [*fields, "layer", x])
    return rows, fields, layer_order(rows)


def scale_of(values: pd.Series) -> str:
    """ "log" where checkpoints lie far apart, "symlog" (a linear start) where there is a step 0 too, else "linear"."""
    positive = values[values > 0]
    if values.min() >= 0 and positive.max() > LOG_RATIO * positive.min():
        return "symlog" if (values == 0).any() else "log"
    return "linear"


def decades_of(values: pd.Series) -> range:
    """The exponents of the powers of ten between the positive values."""
    positive = values[values > 0]
    return range(math.ceil(math.log10(positive.min())), math.floor(math.log10(positive.max())) + 1)


def removed_of(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Rows with ``removed``, the parameters removed from the store ``reference``, and ``kind``, the folder of the store.

    ``rows``: with rows of the variant ``PARAMETERS`` that say how large each store's model is. Raises UsageError
    without them, and where nothing stands beside the reference.
    """
    sizes = rows[rows["variant"] == PARAMETERS].set_index("store")["value"]
    rows = tidy(rows[rows["variant"] != PARAMETERS])
    lacking = [store for store in rows["store"].unique() if store not in sizes.index]
    if reference not in sizes.index or lacking:
        raise UsageError(
            f"{(lacking or [reference])[0]} does not say how many parameters its model has: extract it again, or leave it out"
        )
    only_once(rows, [*PANEL, "store"])
    rows["removed"] = sizes[reference] - rows["store"].map(sizes)
    if (rows["store"] == reference).all():
        raise UsageError("there is nothing to draw beside the reference: give stores of compressed models")
    rows["kind"] = families(rows["store"])
    return rows


def group_names(targets: list[str]) -> list[str]:
    """Targets of SpEAT without the attributes, where these are the same for all."""
    attributes = {target.rpartition(", ")[2] for target in targets}
    return [
        (target.rpartition(", ")[0] or target) if len(attributes) == 1 else target.replace(", ", "\n")
        for target in targets
    ]


@dataclass(frozen=True)
class Lens:
    """Rows of the lexical lens: with ``metric`` and ``of_decoder``, and ``ended``: the search for top words was cut short."""

    rows: pd.DataFrame
    metrics: list[str]
    halves: dict[str, bool]

    def panels(self) -> Iterator[tuple[str, str, list[str], pd.DataFrame]]:
        """(title of the half, metric, layers of the half, rows of the panel), column by column."""
        for title, half in self.halves.items():
            mine = self.rows[self.rows["of_decoder"] == half]
            layers = layer_order(mine.assign(variant="", target=""))
            for metric in self.metrics:
                yield title, metric, layers, mine[mine["metric"] == metric]


def lens_of(rows: pd.DataFrame) -> Lens:
    """Means over all stimuli of the lens's metrics. Raises UsageError for no rows of the lens, and two of one point."""
    rows = tidy(rows)
    rows["metric"] = metrics_of(rows)
    rows = rows[rows["target"] == EVERYTHING]
    cut = set(rows.loc[rows["metric"] == UNFINISHED, ["curve", "layer"]].itertuples(index=False, name=None))
    rows = rows[rows["metric"].isin(LENS_METRICS)]
    if rows.empty:
        raise UsageError("these results have no layers of the lexical lens: draw what 'layertool lexical lens' writes")
    only_once(rows, ["metric", "target", "curve", "layer"])
    rows["of_decoder"] = rows["layer"].str.startswith("D")
    points = rows[["curve", "layer"]].itertuples(index=False, name=None)
    rows["ended"] = rows["metric"].isin((TOP_1, TOP_N)) & pd.Series([point in cut for point in points], rows.index)
    metrics = [name for name in LENS_METRICS if (rows["metric"] == name).any()]
    return Lens(rows, metrics, {title: half for title, half in HALVES.items() if (rows["of_decoder"] == half).any()})


def stimuli_of(rows: pd.DataFrame, metrics: Collection[str]) -> pd.DataFrame:
    """Rows of single stimuli, with ``metric`` and ``group``, their masker; a curve for each model and variant.

    Raises UsageError where there are none of these metrics.
    """
    rows = tidy(rows)
    metric = metrics_of(rows)
    rows = rows.assign(metric=metric)[is_stimulus(rows) & metric.isin(metrics)]
    if rows.empty:
        raise UsageError(
            "these results have no numbers of single stimuli to draw: draw what 'layertool lexical score' writes"
        )
    rows["group"] = rows["target"].str.rpartition(SEPARATOR)[0]
    # one model may stand there in several variants
    kinds = rows["variant"].str.partition(", ")[2]
    if rows.assign(kind=kinds).groupby("curve")["kind"].nunique().max() > 1:
        rows["curve"] = rows["curve"] + ", " + kinds
    return rows
