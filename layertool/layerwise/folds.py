"""Which fold each row of a store belongs to: the same for every model and every layer of it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layertool.analysis import folds
from layertool.errors import UsageError
from layertool.layerwise import rows as row_rules
from layertool.layerwise.rows import Rows
from layertool.store import FeatureStore

PERMUTED, TURNED = "labels permuted", "labels turned by half of the rows"  # controls, as variants name them
TARGET_TURNED = "target turned by half of the rows"  # the same of what is no labels


def deal(
    store: FeatureStore,
    unit: str,
    tier: str | None,
    rows: Rows,
    candidates: Rows,
    how: str,
    n_folds: int,
    seed: int,
    types: np.ndarray | None = None,
) -> np.ndarray:
    """Fold (n,) of each row.

    ``how``: utterance-disjoint, random, type-disjoint, or COLUMN-disjoint; folds are balanced in the labels of
    ``tier``, where the rows have them. ``types`` (n,): what type-disjoint folds keep together, if not the labels.
    ``candidates``: what the rows were drawn from. Raises UsageError for folds that there are not, and for too few rows,
    utterances or labels.
    """
    labels = rows.table["label"] if tier is not None else None
    if how == "random":
        return folds.random(len(rows), labels, n_folds, seed)
    if how == "type-disjoint":
        if labels is None:
            raise UsageError(f"{unit} rows have no labels, so there are no type-disjoint folds: take others")
        return folds.disjoint(labels if types is None else types, None, n_folds, seed, "labels")
    column, dash, disjoint = how.rpartition("-")
    if not dash or disjoint != "disjoint":
        raise UsageError(
            f"'{how}' are no folds: choose utterance-disjoint, random, type-disjoint, or COLUMN-disjoint, "
            "e.g. speaker-disjoint"
        )
    if column == "utterance":
        return by_utterance(store, unit, tier, rows, candidates, n_folds, seed)
    values = row_rules.written(store, unit, rows, column)
    values[pd.isna(values)] = ""  # who is not known stays on one side
    return folds.disjoint(values, labels, n_folds, seed, f"values of {column}")


def by_utterance(
    store: FeatureStore, unit: str, tier: str | None, rows: Rows, candidates: Rows, n_folds: int, seed: int
) -> np.ndarray:
    """Fold (n,) of each row, whole utterances in one fold.

    Frames of 10 and of 20 ms are dealt alike, so that their scores compare: by the lengths of utterances or, where
    frames are labelled, by the segments that they lie in (of all ``candidates``, as fewer may be drawn at one rate).
    """
    codes, which = np.unique(rows.table["utterance"], return_inverse=True)
    if tier is None:
        return folds.by_utterance(codes, store.utterances["n_samples"].to_numpy()[codes], n_folds, seed)[which]
    if unit != "frame":
        return folds.disjoint(which, rows.table["label"], n_folds, seed, "utterances")
    codes = np.unique(candidates.table["utterance"])
    segments = store.row_table(tier)
    segments = segments[np.isin(segments["utterance"], codes)]
    dealt = folds.disjoint(segments["utterance"], segments["label"], n_folds, seed, "utterances")
    first = np.unique(segments["utterance"], return_index=True)[1]
    return dealt[first][np.searchsorted(codes, rows.table["utterance"])]
