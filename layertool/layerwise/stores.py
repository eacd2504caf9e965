"""What every analysis of a store needs: which stores, unit and layers, whether stores compare, what rows say of a
store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from layertool import layers as layer_names
from layertool.errors import UsageError, tell
from layertool.result_rows import BASELINE, Result
from layertool.store import FeatureStore, matching
from layertool.store.schema import check_unit

T = TypeVar("T")

# Where names say a training step: checkpoint-4000 (Hugging Face), checkpoint_3_25000.pt (fairseq, after the epoch),
# step_100k, states-200000.ckpt (s3prl). Not checkpoint10.pt, an epoch, nor iter2, a model trained on another's labels.
_NUMBER = r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?(?:e\d+)?)([km]?)(?![\da-z])"
_STEP = re.compile(
    r"(?:^|[^a-z])(?:(?:checkpoint|ckpt)_\d+_|(?:checkpoint|ckpt|states)[-_=]|(?:steps?|updates?)[-_=]?)" + _NUMBER,
    re.IGNORECASE,
)


def opened(stores: str | Path | FeatureStore | Sequence[str | Path | FeatureStore]) -> list[FeatureStore]:
    """The stores that somebody names, each once: paths, patterns such as ``series/*`` in natural order, open stores."""
    kinds = (str, Path, FeatureStore)
    asked = [stores] if isinstance(stores, kinds) or not isinstance(stores, Iterable) else list(stores)
    for one in asked:
        if not isinstance(one, kinds):
            raise UsageError(f"{one!r} is no store: give a folder, a pattern of folders, or a FeatureStore")
    known: dict[Path, FeatureStore] = {}
    for one in asked:
        for store in [one] if isinstance(one, FeatureStore) else map(FeatureStore, matching([one])):
            known.setdefault(store.path.resolve(), store)
    if not known:
        raise UsageError("no store is named: give one or several")
    return list(known.values())


def one_store(given: str | Path | FeatureStore) -> FeatureStore:
    """The store that an option names."""
    return opened(given)[0]


def unit_of(store: FeatureStore, asked: str | None, usual: str, only: bool = False) -> str:
    """The unit to analyse: the one asked for, else the usual one of the analysis.

    ``only``: no other unit would do, as labels come with theirs.
    Raises UsageError when the store has it not, naming what it has.
    """
    unit = asked or usual
    if unit not in store.units:
        check_unit(unit)
        there = ", ".join(store.units)
        choose = f"type --unit {store.units[0]}, or " if asked is None and store.units and not only else ""
        raise UsageError(
            f"{store.path} has no {unit} rows (it has {there}): {choose}extract again with --units "
            f"{unit},{','.join(store.units)}"
        )
    return unit


def layers_of(store: FeatureStore, unit: str, asked: str) -> list[str]:
    """The asked layers that stand at a unit, in network order; ``all`` includes decoder layers where they stand."""
    there = store.layers_of(unit)
    return there if asked == "all" else layer_names.select(asked, there, f"{store.path} at unit {unit}")


def by_table(store: FeatureStore, unit: str, layers: Sequence[str], make: Callable[[str], T]) -> dict[str, T]:
    """What ``make`` makes of each layer, once for all of one row table: frames of another rate are other rows."""
    first: dict[str, str] = {}
    for layer in layers:
        first.setdefault(store.table_of(unit, layer), layer)
    made = {table: make(layer) for table, layer in first.items()}
    return {layer: made[store.table_of(unit, layer)] for layer in layers}


def check_layers(store: FeatureStore, unit: str, layers: Sequence[str]) -> None:
    """Raise UsageError unless a store has rows of a unit of these layers."""
    unit_of(store, unit, unit)
    missing = [layer for layer in layers if layer not in store.layers_of(unit)]
    if missing:
        raise UsageError(f"{store.path} has no layer {missing[0]} at unit {unit}: type --layers without it")


def check_comparable(first: FeatureStore, second: FeatureStore) -> None:
    """Raise UsageError unless two stores name layers alike and hold the same speech."""
    for store in (first, second):
        convention = store.configuration["layer_convention"]
        if convention != layer_names.CONVENTION:
            raise UsageError(
                f"{store.path} names layers by the convention '{convention}', this layertool by "
                f"'{layer_names.CONVENTION}': the same name would mean other layers; extract it again"
            )
    if first.configuration["corpus"] != second.configuration["corpus"]:
        names = [
            f"{s.about['corpus']['name']}, {s.about['corpus']['n_utterances']} utterances" for s in (first, second)
        ]
        raise UsageError(
            f"{first.path} and {second.path} hold different corpora ({names[0]}; {names[1]}): their rows are not the "
            "same speech; extract both models from one corpus"
        )


def check_same_model(store: FeatureStore, fit: FeatureStore, what: str) -> None:
    """Raise UsageError unless what is fitted on one store can be used on the other: both hold one model."""
    mine, theirs = ({k: v for k, v in s.configuration["model"].items() if k != "decoder_prefix"} for s in (store, fit))
    if mine != theirs:
        other = next(key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key))
        raise UsageError(
            f"{fit.path} and {store.path} hold different models ({other}: {theirs.get(other)}, {mine.get(other)}): "
            f"{what} of one say nothing about the other"
        )


def check_pooling(first: FeatureStore, second: FeatureStore, unit: str) -> None:
    """Tell when the rows of two stores are pooled differently: it is allowed, and it is part of the answer."""
    pooled = [store.configuration["units"].get(unit) for store in (first, second)]
    if pooled[0] != pooled[1]:
        tell(f"{unit} rows are pooled by {pooled[0]} in {first.path} and by {pooled[1]} in {second.path}")


def model_name(model: Mapping, masked: bool = False) -> str:
    """The model's id, and what makes it another model than that: drawn anew, or run with its time mask on.

    ``model``: what identifies it, as a store's configuration says.
    """
    name = model["id"]
    if model.get("random_init") is not None:
        name += f" (random init {model['random_init']})"
    return f"{name} (time mask on)" if masked else name


def step_of(model: Mapping) -> int | None:
    """Training step of the checkpoint, as its folder, file or revision says (checkpoint-4000, step_4000)."""
    if isinstance(model.get("step"), int):
        return model["step"]
    asked, _, revision = str(model["id"]).rpartition("@")
    path = Path(str(model["id"]))
    for text in (revision if asked else "", str(model.get("revision") or ""), path.name, path.parent.name):
        found = _STEP.search(text)
        if found:
            thousands = {"": 1, "k": 1_000, "m": 1_000_000}[found.group(2).lower()]
            return round(float(found.group(1).replace(",", "")) * thousands)
    return None


def facts(store: FeatureStore) -> dict[str, Any]:
    """What rows say of a store."""
    model = store.configuration["model"]
    return {
        "model": model_name(model, store.is_masked),
        "revision": model.get("revision"),
        "step": step_of(model),
        "corpus": store.about["corpus"]["name"],
        "store": str(store.path),
    }


def merged(rows: Sequence[Result]) -> list[Result]:
    """Results of several stores in one list: a baseline that is the same for all of them stands there once, for no
    store."""
    known: dict[tuple, set[str]] = {}
    of = [
        tuple(v for k, v in vars(row).items() if k not in ("store", "value", "ci_low", "ci_high", "n")) for row in rows
    ]
    for row, key in zip(rows, of, strict=True):
        known.setdefault(key, set()).add(repr((row.value, row.ci_low, row.ci_high, row.n)))
    out: list[Result] = []
    told = set()
    for row, key in zip(rows, of, strict=True):
        if row.layer == BASELINE and len(known[key]) == 1:
            if key in told:
                continue
            told.add(key)
            row = replace(row, store=None)
        out.append(row)
    return out


def speech_of(store: FeatureStore) -> np.ndarray:
    """What tells each utterance of a store (n_utterances,) from others, in any store: its name and its length."""
    utterances = store.utterances
    return (utterances["utterance"] + "/" + utterances["n_samples"].astype(str)).to_numpy(str)
