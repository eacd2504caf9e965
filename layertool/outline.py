"""What tables, figures and the report read from result rows: labels of stores, the order of layers, what belongs
together.

Everything is decided from columns. ``tidy`` adds those that the others need: ``label``, a name for each store, and
``own``, the settings in which rows of one metric differ.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from layertool.account import count
from layertool.errors import UsageError
from layertool.layerwise import measure
from layertool.result_rows import BASELINE, PARAMETERS, WORDS, is_matrix, phrases

STORE = ["model", "revision", "step", "corpus", "store"]  # what has a label
TEXTS = ["analysis", "metric", "unit", "target", "layer", "model", "revision", "corpus", "store", "group", "item"]
PANEL = ["analysis", "metric", "own", "unit", "target", "group"]  # what makes numbers comparable
NUMBERS = ["value", "ci_low", "ci_high", "chance"]
REQUIRED = ["analysis", "metric", "unit", "target", "model", "layer", "layer_index", "value"]
RUN = 3  # checkpoints make a trajectory
AXES = {"layer": "layer", "depth": "relative depth", "step": "step", "parameters": "parameters removed"}
_LAYER = re.compile(r"(C|T|D)(\d+)|final")


def tidy(rows: pd.DataFrame, names: Sequence[str] | None = None) -> pd.DataFrame:
    """A copy with every column, "" for missing text, floats for numbers, and with ``label`` and ``own``.

    ``names``: labels of the stores, in their order. Rows keep their index where no two share one: whoever draws finds
    them in the table by it. Raises UsageError for no rows and for a table of something else.
    """
    if "own" in rows:
        return rows
    if missing := [column for column in REQUIRED if column not in rows]:
        raise UsageError(f"the table has no column '{missing[0]}': draw a table of results that layertool wrote")
    if rows.empty:
        raise UsageError("there are no results to draw: check the files and what was asked of them")
    rows = rows.drop_duplicates() if rows.index.is_unique else rows.drop_duplicates().reset_index(drop=True)
    for column in TEXTS:
        known = rows[column].astype(object) if column in rows else pd.Series("", rows.index)
        rows[column] = known.where(known.notna(), "").astype(str)
    for column in ("step", "layer_index", "n", *NUMBERS):
        rows[column] = floats(rows, column) if column in rows else math.nan
    if "settings" not in rows:
        rows["settings"] = "{}"
    rows["said"] = [_said(text) if isinstance(text, str) else () for text in rows["settings"]]
    rows["label"] = labels(rows, names)
    rows["own"] = ""
    for _, part in rows.groupby(["analysis", "metric"], sort=False):
        shared = common(part)
        rows.loc[part.index, "own"] = [", ".join(p for p in said if p not in shared) for said in part["said"]]
    return rows


@cache
def _said(settings: str) -> tuple[str, ...]:
    """Settings as phrases; which layers were put together stands in the column of the layer. Rows of 0.1.0 have one
    sentence."""
    known = json.loads(settings or "{}")
    said = phrases({key: value for key, value in known.items() if key not in (WORDS, "over")})
    return (*said, *filter(None, known.get(WORDS, "").split(", ")))


def common(rows: pd.DataFrame) -> list[str]:
    """The phrases of settings that all rows have."""
    every = list(dict.fromkeys(rows["said"]))
    return [phrase for phrase in every[0] if all(phrase in said for said in every)] if every else []


def floats(rows: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers. Raises UsageError for one that is not there, and for text."""
    if column not in rows:
        raise UsageError(f"the table has no column '{column}': give a numeric one that it has, such as step or n")
    try:
        return rows[column].astype(float)
    except (TypeError, ValueError) as error:
        raise UsageError(f"column '{column}' of the table has text in it: give a numeric one, such as step") from error


def check_names(names: Sequence[str], n: int) -> None:
    """Raise UsageError unless there is a label for each of ``n`` stores."""
    if len(names) != n:
        said = f"{count(len(names), 'label')} for {count(n, 'store')}"
        raise UsageError(f"--names has {said}: type one for each, in their order")


def check_axis(x: str) -> None:
    """Raise UsageError for an axis that there is not."""
    if x not in AXES:
        raise UsageError(f"'{x}' is no axis: choose {', '.join(AXES)}")


def labels(rows: pd.DataFrame, names: Sequence[str] | None = None) -> pd.Series:
    """The label of each row's store: ``names`` in the order of the stores, else what tells it from the others.

    That is the model's short name and, where stores share it, as little as is needed of step, folder, corpus, model
    and revision.
    """
    number = rows.groupby(STORE, sort=False, dropna=False).ngroup()
    stores = rows[[*STORE, "layer"]].assign(number=number).drop_duplicates("number").set_index("number")
    texts = pd.DataFrame(  # what tells stores apart, what says most to a person first: digits of a hash say least
        {
            "short": stores["model"].map(lambda model: re.split(r"[/\\]", model.rstrip("/\\"))[-1]),
            "step": stores["step"].map(lambda step: "" if math.isnan(step) else f"step {step:.15g}"),
            "folder": stores["store"].map(lambda store: Path(store).name),
            "corpus": stores["corpus"],
            "model": stores["model"],
            "revision": stores["revision"].str.replace(r"^([0-9a-f]{8})[0-9a-f]{32}$", r"\1", regex=True),
            "store": stores["store"],
        }
    )
    known: dict[int, str] = {}
    for _, group in texts.groupby("short", sort=False):
        differ = [column for column in group.columns[1:] if group[column].nunique() > 1]
        chosen = ["short", *[column for column in differ if group[column].is_unique][:1]]
        for column in differ:
            if group.duplicated(chosen).any():
                chosen.append(column)
        if "model" in chosen:  # it ends in the short name
            chosen.remove("short")
        known |= {k: ", ".join(filter(None, words)) for k, *words in group[chosen].itertuples()}
    if names is not None:
        own = [k for k in stores.index if stores["layer"][k] != BASELINE]
        check_names(names, len(own))
        known |= dict(zip(own, names, strict=True))
    return number.map(known)


def families(stores: pd.Series) -> pd.Series:
    """A name for the folder of each store: models of one family, or of one kind of compression, lie in one folder.

    As many last parts of its path as tell it from the others.
    """
    parts = {store: Path(store).resolve().parent.parts for store in dict.fromkeys(stores)}
    for n in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {store: "/".join(part[-n:]) for store, part in parts.items()}
        if len(set(names.values())) == len(set(parts.values())):
            break
    return stores.map(names)


def runs(rows: pd.DataFrame) -> pd.Series:
    """The training run of each row: checkpoints of one model, or models in one folder whose names say no more."""
    folder = families(rows["store"]) if (rows["store"] != "").all() else pd.Series("", rows.index)
    one = rows.groupby([folder, rows["model"]])["step"].transform("nunique") > 1
    name = rows["model"].map(lambda model: re.split(r"[/\\]", model.rstrip("/\\"))[-1])
    if folder.nunique() > 1:
        name = name.where(folder == "", folder + ", " + name)
    return name.where(one, folder)


def only_once(rows: pd.DataFrame, keys: list[str]) -> None:
    """Raises UsageError when two rows claim the same point."""
    if (twice := rows.duplicated(keys, keep=False)).any():
        first = rows[twice].iloc[0]
        same = rows[(rows[keys] == first[keys]).all(axis=1)]
        differ = [column for column in same.drop(columns=[*NUMBERS, "said"]) if same[column].nunique(dropna=False) > 1]
        raise UsageError(
            f"layer {first['layer']} of {first['label']} has {len(same)} results for "
            f"{', '.join(filter(None, first[PANEL]))} "
            f"(they differ in {', '.join(differ or ['value'])}): keep one of them"
        )


def place(layer: str) -> tuple[int, int]:
    """Sorts layers by the convention of ``layertool.layers``; other names come first."""
    match = _LAYER.fullmatch(layer)
    if match is None:
        return 0, 0
    return {"C": 1, "T": 2, None: 3, "D": 4}[match.group(1)], int(match.group(2) or 0)


def is_layer(name: str) -> bool:
    """Whether the name is one of a layer of a network, not of an acoustic feature or of a family of models."""
    return _LAYER.fullmatch(name) is not None


def layer_order(rows: pd.DataFrame) -> list[str]:
    """The layers of all stores in network order: the order in each store and panel, put together by name."""
    ordered = rows.sort_values("layer_index", kind="stable")
    groups = ordered.groupby(["label", *PANEL], sort=False)["layer"]
    chains = list(dict.fromkeys(tuple(dict.fromkeys(layers)) for _, layers in groups))
    order: list[str] = []
    while heads := list(dict.fromkeys(chain[0] for chain in chains if chain)):
        free = [layer for layer in heads if not any(layer in chain[1:] for chain in chains)]
        order.append(min(free or heads, key=place))  # none is free where two stores contradict each other
        chains = [tuple(layer for layer in chain if layer != order[-1]) for chain in chains]
    return order


def is_single(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of one stimulus: a task, too, is an item, but one that layers are compared with."""
    return (rows["item"] != "") & (rows["item"] != rows["target"])


def is_drawn(rows: pd.DataFrame) -> pd.Series:
    """Which rows figures and short tables show: the main metrics of their analysis, or all where there are only
    others."""
    pairs = dict.fromkeys(zip(rows["analysis"], rows["metric"], strict=True))
    main = {pair for pair in pairs if measure(*pair).drawn and pair[1] != PARAMETERS}
    known = {analysis for analysis, _ in main}
    main |= {pair for pair in pairs if pair[0] not in known and pair[1] != PARAMETERS}
    shown = [pair in main for pair in zip(rows["analysis"], rows["metric"], strict=True)]
    of_mean = (rows["item"] == "").groupby([rows["analysis"], rows["metric"]]).transform("any")
    return pd.Series(shown, rows.index, dtype=bool) & ((rows["item"] == "") | ~of_mean | is_single(rows))


def has_layers(rows: pd.DataFrame) -> pd.Series:
    """Which rows are part of a curve over layers: some store has several layers of this number."""
    of_network = rows["layer"].where(rows["layer"] != BASELINE)
    counts = of_network.groupby([rows[name] for name in [*PANEL, "label"]]).transform("nunique")
    return counts.groupby([rows[name] for name in PANEL]).transform("max") > 1


def of_models(rows: pd.DataFrame) -> pd.DataFrame:
    """Those rows that are of whole models, of layers put together, where there are any: one line for each family."""
    whole = ~has_layers(rows)
    return rows[whole] if (whole & (rows["metric"] != PARAMETERS)).any() else rows


def is_level(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of what has no layers beside networks that have: baselines, mel. They are levels across a
    figure."""
    several = rows.groupby("label")["layer"].transform("nunique") > 1
    on_axis = rows["layer"].isin(rows["layer"][several]) & (rows["layer"] != BASELINE)
    return ~on_axis.groupby(rows["label"]).transform("all")


def kinds(rows: pd.DataFrame, x: str = "layer", whole: bool = False) -> list[tuple[str, pd.DataFrame]]:
    """Which kinds of figures show which rows of one analysis: maps, curves, bars, singles (of stimuli), series,
    removed.

    ``whole``: those of all metrics, not the main ones only.
    """
    shown = rows if whole else rows[is_drawn(rows)]
    means, singles = shown[~is_single(shown)], shown[is_single(shown)]
    if x in ("step", "parameters"):
        sizes = rows[rows["metric"] == PARAMETERS]
        return [("series", means)] if x == "step" else [("removed", pd.concat([means, sizes]))]
    maps: list[pd.DataFrame] = []
    lines: list[pd.DataFrame] = []
    for _, part in means.groupby(["unit", "metric", "own"], sort=False):
        (maps if is_matrix(part) else lines).append(part)
    found = [("maps", pd.concat(maps))] if maps else []
    if lines:
        means = pd.concat(lines)
        layered = has_layers(means)
        of_all = means["group"] == ""  # curves of every group would hide those of all: -o FILE has them
        curves = layered & (of_all | ~(layered & of_all).any())
        found += [("curves", means[curves]), ("bars", means[~layered])]
    return [(kind, part) for kind, part in [*found, ("singles", singles)] if len(part)]


def of_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of maps with ``other`` and ``row``: the store ("" for the same one) and layer that their target names."""
    target = rows["target"].str.rpartition(":")
    return rows.assign(other=target[0], row=target[2])


def removed(rows: pd.DataFrame, reference: str | Path | None) -> pd.DataFrame:
    """Rows with ``x``, the parameters removed from the store ``reference`` (the largest where None is named), and
    ``family``.

    ``rows``: with rows of the metric ``PARAMETERS`` that say how large each store's model is. Families are folders of
    stores; the rows of the reference, which nothing was removed from, are in each of them, with ``is_reference``.
    Raises UsageError without sizes, and where nothing stands beside the reference.
    """
    sizes = rows[rows["metric"] == PARAMETERS].set_index("store")["value"]
    sizes = sizes[~sizes.index.duplicated()]
    rows = rows[(rows["metric"] != PARAMETERS) & (rows["layer"] != BASELINE)]
    whole = str(sizes.idxmax() if reference is None and len(sizes) else reference or "")
    lacking = [store for store in rows["store"].unique() if store not in sizes.index]
    if whole not in sizes.index or lacking:
        raise UsageError(
            f"{(lacking or [whole])[0]} does not say how many parameters its model has: extract it again, or "
            "leave it out"
        )
    first = rows["store"] == whole
    if first.all():
        raise UsageError("there is nothing to draw beside the reference: give stores of compressed models")
    rows = rows.assign(x=sizes[whole] - rows["store"].map(sizes), family=families(rows["store"]), is_reference=first)
    found = rows["family"][~first].unique()
    return pd.concat([*(rows[first].assign(family=name) for name in found), rows[~first]])


def steps(rows: pd.DataFrame, x: str = "step") -> pd.DataFrame:
    """Rows with ``x``, a number in every row and at least two different ones, and ``family``, their training run.

    Raises UsageError for others.
    """
    rows = rows[rows["layer"] != BASELINE]
    values = floats(rows, x)
    if values.isna().all():
        raise UsageError(
            f"no result has a {x}: a series needs results that have one each, such as those of checkpoints"
        )
    if values.isna().any():
        label, layer = rows.loc[values.isna(), ["label", "layer"]].iloc[0]
        raise UsageError(f"the result of layer {layer} of {label} has no {x}: leave such rows out of a series")
    if values.nunique() < 2:
        raise UsageError(
            f"all results have {x} {values.iloc[0]:.15g}: a series needs results of two or more, such as checkpoints"
        )
    return rows.assign(x=values, family=runs(rows), is_reference=False)


def change(rows: pd.DataFrame, x: str, reference: str | Path | None) -> pd.DataFrame:
    """Rows over "step" or "parameters": ``steps`` or ``removed``."""
    return steps(rows) if x == "step" else removed(rows, reference)


def trajectories(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of training runs of which at least ``RUN`` checkpoints are there; controls have no step, and are not in
    it."""
    stepped = rows[rows["step"].notna() & (rows["layer"] != BASELINE)]
    if stepped.empty:
        return stepped
    return stepped[stepped.groupby(runs(stepped))["step"].transform("nunique") >= RUN]


def heading(fields: Iterable[str]) -> str:
    """Fields as one title: each once, without those that are empty."""
    return ", ".join(filter(None, dict.fromkeys(fields)))


def differing(rows: pd.DataFrame, fields: Sequence[str]) -> list[str]:
    """The fields in which rows differ."""
    return [field for field in fields if rows[field].nunique() > 1]
