"""What figures read from the table of results: names of curves, the order of layers, titles of panels."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pandas as pd

from layertool.errors import UsageError

STORE = ["model", "revision", "step", "corpus", "store"]  # what makes a curve
PANEL = ["analysis", "variant", "unit", "target"]
NUMBERS = ["value", "ci_low", "ci_high", "chance"]
REQUIRED = [*PANEL, "model", "layer", "layer_index", "value"]
_LAYER = re.compile(r"(C|T|D)(\d+)|final")


def tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """A copy with every column, "" for missing text, floats for numbers, and ``curve``: a name for each row's store.

    Rows keep their index where no two share one: whoever draws finds them in the table by it.
    """
    if missing := [column for column in REQUIRED if column not in rows]:
        raise UsageError(f"the table has no column '{missing[0]}': draw a table of results that layertool wrote")
    if rows.empty:
        raise UsageError("there are no results to draw: check the files and what was asked of them")
    rows = rows.drop_duplicates() if rows.index.is_unique else rows.drop_duplicates().reset_index(drop=True)
    for column in (*PANEL, "layer", "model", "revision", "corpus", "store"):
        known = rows[column].astype(object) if column in rows else pd.Series("", rows.index)
        rows[column] = known.where(known.notna(), "").astype(str)
    for column in ("step", "layer_index", *NUMBERS):
        rows[column] = _floats(rows, column) if column in rows else math.nan
    rows["curve"] = curve_names(rows)
    return rows


def _floats(rows: pd.DataFrame, column: str) -> pd.Series:
    if column not in rows:
        raise UsageError(f"the table has no column '{column}': give a numeric one that it has, such as step or n")
    try:
        return rows[column].astype(float)
    except (TypeError, ValueError) as error:
        raise UsageError(f"column '{column}' of the table has text in it: give a numeric one, such as step") from error


def steps(rows: pd.DataFrame, x: str) -> pd.Series:
    """The column to draw a series over: a number in every row and at least two different ones."""
    values = _floats(rows, x)
    if values.isna().all():
        raise UsageError(
            f"no result has a {x}: a series needs results that have one each, such as those of checkpoints"
        )
    if values.isna().any():
        curve, layer = rows.loc[values.isna(), ["curve", "layer"]].iloc[0]
        raise UsageError(f"the result of layer {layer} of {curve} has no {x}: leave such rows out of a series")
    if values.nunique() < 2:
        raise UsageError(
            f"all results have {x} {values.iloc[0]:.15g}: a series needs results of two or more, such as checkpoints"
        )
    return values


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


def only_once(rows: pd.DataFrame, keys: list[str]) -> None:
    """Raises UsageError when two rows claim the same point."""
    if (twice := rows.duplicated(keys, keep=False)).any():
        first = rows[twice].iloc[0]
        same = rows[(rows[keys] == first[keys]).all(axis=1)]
        differ = [column for column in same.drop(columns=NUMBERS) if same[column].nunique(dropna=False) > 1] or [
            "value"
        ]
        raise UsageError(
            f"layer {first['layer']} of {first['curve']} has {len(same)} results for {', '.join(first[PANEL])} "
            f"(they differ in {', '.join(differ)}): keep one of them"
        )


def curve_names(rows: pd.DataFrame) -> pd.Series:
    """The model's short name for each row and, where stores share it, what tells them apart."""
    number = rows.groupby(STORE, sort=False, dropna=False).ngroup()
    stores = rows[STORE].assign(number=number).drop_duplicates("number").set_index("number")
    texts = pd.DataFrame(
        {
            "short": stores["model"].map(lambda model: re.split(r"[/\\]", model.rstrip("/\\"))[-1]),
            "step": stores["step"].map(lambda step: "" if math.isnan(step) else f"step {step:.15g}"),
            "revision": stores["revision"].str.replace(r"^([0-9a-f]{8})[0-9a-f]{32}$", r"\1", regex=True),
            "folder": stores["store"].map(lambda store: Path(store).name),
        }
    ).join(stores[["corpus", "model", "store"]])
    names: dict[int, str] = {}
    for _, group in texts.groupby("short", sort=False):
        differ = [column for column in group.columns[1:] if group[column].nunique() > 1]
        chosen = ["short", *[column for column in differ if group[column].is_unique][:1]]
        for column in differ:
            if group.duplicated(chosen).any():
                chosen.append(column)
        if "model" in chosen:  # it ends in the short name
            chosen.remove("short")
        names |= {k: ", ".join(filter(None, words)) for k, *words in group[chosen].itertuples()}
    return number.map(names)


def depth(layer: str) -> tuple[int, int]:
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
    groups = ordered.groupby(["curve", *PANEL], sort=False)["layer"]
    chains = list(dict.fromkeys(tuple(dict.fromkeys(layers)) for _, layers in groups))
    order: list[str] = []
    while heads := list(dict.fromkeys(chain[0] for chain in chains if chain)):
        free = [layer for layer in heads if not any(layer in chain[1:] for chain in chains)]
        order.append(min(free or heads, key=depth))  # none is free where two stores contradict each other
        chains = [tuple(layer for layer in chain if layer != order[-1]) for chain in chains]
    return order


def split(rows: pd.DataFrame, fields: list[str]) -> list[tuple[dict[str, str], pd.DataFrame]]:
    groups = rows.groupby(fields, sort=False)
    return [(dict(zip(fields, key, strict=True)), part) for key, part in groups]


def titles(panels: list[dict[str, str]]) -> tuple[str, list[str]]:
    """What all panels share, and for each what only some have (of a variant: its parts between commas)."""
    shared = {field: value for field, value in panels[0].items() if all(p[field] == value for p in panels)}
    parts = [panel.get("variant", "").split(", ") for panel in panels]
    common = [part for part in parts[0] if all(part in other for other in parts)]
    own = [", ".join(part for part in variant if part not in common) for variant in parts]
    names = [_title({**panel, "variant": rest}, shared) for panel, rest in zip(panels, own, strict=True)]
    if len(panels) > 1 and ("" in names or len(set(names)) < len(names)):
        names, common = [_title(panel, shared) for panel in panels], parts[0] if "variant" in shared else []
    # what panels of several analyses have in common is how they were made, not what they measure
    measure = ": ".join([shared["analysis"], *filter(None, [", ".join(common)])]) if "analysis" in shared else "value"
    target, unit = shared.get("target"), shared.get("unit")
    of_rows = f"{unit} rows" if unit and unit != target else ""  # phones of phones are phones
    asked = ", ".join(filter(None, (target, of_rows, shared.get("model"))))
    return f"{measure} ({asked})" if asked else measure, names


def _title(panel: dict[str, str], shared: dict[str, str]) -> str:
    own = {field: value for field, value in panel.items() if field not in shared}
    first = dict.fromkeys(own.get(field, "") for field in ("model", "target", "unit"))  # phones of phones are phones
    rest = (own.get(field, "") for field in ("analysis", "variant"))
    return "\n".join(filter(None, [", ".join(filter(None, first)), ", ".join(filter(None, rest))]))
