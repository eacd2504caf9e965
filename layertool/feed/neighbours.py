"""Which label has a row? Nearest neighbours and nearest centroids of every layer of a store, on unseen speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from layertool.analysis import folds
from layertool.analysis import rows as row_rules
from layertool.analysis.rows import ALL, PUBLISHED, Condition, Rows, Sampling
from layertool.analysis.views import LayerView
from layertool.errors import UsageError
from layertool.feed.common import (
    Progress,
    Say,
    baseline,
    conditions_of,
    joined,
    layers_of,
    result,
    said_once,
    sampling_of,
    silent,
    unit_of,
)
from layertool.feed.frames import FrameRows
from layertool.feed.information import TIERS
from layertool.feed.parallel import each_layer
from layertool.geometry import SAMPLE_RATE
from layertool.probes import neighbours as probe
from layertool.results import Result
from layertool.store import FeatureStore

ANALYSIS = "neighbours"
MAJORITY = "most frequent label"
SPEAKER, TEXT = "speaker", "text"
NEARLY_ALL = 0.8  # rows of a speaker that have his usual label


@dataclass(frozen=True)
class Options:
    """How rows are classified; see ``neighbour_rows``. ``sampling``: None is the published one of the labels' unit."""

    methods: Sequence[str] = probe.METHODS
    n_neighbours: int = 5
    n_folds: int = 5
    groups: str | None = None
    sampling: Sampling | None = None
    where: Sequence[Condition] = ()
    seed: int = 0
    n_workers: int | None = None


def neighbour_rows(
    store: FeatureStore,
    labels: str,
    unit: str | None = None,
    layers: str = "all",
    options: Options | None = None,
    say: Say = silent,
    progress: Progress | None = None,
) -> list[Result]:
    """Accuracy of naming the label of a row from rows of other groups, for each layer and method.

    ``labels``: phone, word, or a metadata column (then of utterance rows, unless ``unit`` says otherwise). Folds keep
    ``options.groups`` whole: a column, by default the utterance, and the speaker for labels that each speaker has only
    one of (gender), which a model that knows voices would find without knowing the label. Chance is the same
    classifier on permuted labels; rows of ``BASELINE`` hold the share of the most frequent label.
    Raises UsageError, in one sentence, for missing units and columns, and for too few labels or groups.
    """
    options = options or Options()
    say = said_once(say)
    is_tier = labels in TIERS
    unit = unit_of(store, unit, labels if is_tier else "utterance", only=is_tier)
    asked = layers_of(store, unit, layers)
    by_table: dict[str, tuple[Rows, np.ndarray]] = {}
    for layer in asked:  # frames of another rate are other rows
        table = store.table_of(unit, layer)
        if table not in by_table:
            by_table[table] = _rows(store, unit, layer, labels, options)
            for note in by_table[table][0].notes:
                say(note)
    rows, names = next(iter(by_table.values()))
    groups = options.groups or _usual_groups(store, unit, rows, names, labels, say)
    group_of = {table: row_rules.filled(store, unit, mine, groups) for table, (mine, _) in by_table.items()}
    dealt: dict[str, np.ndarray] = {}
    for table, (_, codes) in by_table.items():
        n_groups = len(np.unique(group_of[table]))
        if n_groups < 2:
            raise UsageError(
                f"{store.path}: all rows are of one {groups}, so none is left to learn from: choose other --groups"
            )
        n_lost = _n_in_one_group(codes, group_of[table])
        if n_lost == len(codes):
            raise UsageError(
                f"{store.path}: each label of {labels} stands in one {groups} only, so that none can be found in another: "
                "choose other --groups"
            )
        if n_lost:
            say(f"{n_lost} of {len(codes)} rows have a label that stands in one {groups} only, and count as wrong")
        n_folds = min(options.n_folds, n_groups)
        dealt[table] = folds.disjoint(group_of[table], codes, n_folds, options.seed, f"values of {groups}")

    def compute(layer: str) -> list[probe.Accuracy]:
        table = store.table_of(unit, layer)
        mine, codes = by_table[table]
        features = LayerView(store, unit, layer, mine.index).read()
        return [
            probe.classify(
                features, codes, group_of[table], method, options.n_neighbours, seed=options.seed, folds=dealt[table]
            )
            for method in options.methods
        ]

    found = each_layer(store, asked, compute, options.n_workers, progress)
    out = []
    for k, method in enumerate(options.methods):
        how = joined([
            f"{options.n_neighbours} nearest neighbours" if method == "knn" else "nearest centroid",
            "accuracy",
            f"{found[0][k].n_folds} {groups}-disjoint folds",
            sampling_of(options.sampling) if labels in TIERS else str(options.sampling) if options.sampling else "",
            conditions_of(options.where),
            "chance: permuted labels",
        ])  # fmt: skip
        shared: dict[str, Any] = {"analysis": ANALYSIS, "variant": how, "target": labels, "seed": options.seed}
        for layer, accuracies in zip(asked, found, strict=True):
            one = accuracies[k]
            out.append(
                result(store, unit, layer, value=one.value, ci_low=one.ci_low, ci_high=one.ci_high, chance=one.permuted,
                       n=one.n, **shared)
            )  # fmt: skip
        by_rate = {store.table_of(unit, layer): of[k] for layer, of in zip(asked, found, strict=True)}
        for table, first in by_rate.items():
            name = MAJORITY if len(by_rate) == 1 else f"{MAJORITY}, {_milliseconds(store, asked, table)} ms frames"
            out.append(baseline(store, unit, name, value=first.majority, n=first.n, **shared))
    return out


def _rows(store: FeatureStore, unit: str, layer: str, labels: str, options: Options) -> tuple[Rows, np.ndarray]:
    """The rows, and the label (n,) of each."""
    if labels in TIERS:
        rows = row_rules.with_labels(store, labels, row_rules.labelled(store, unit, layer, labels, options.where), 2)
        if labels == "word":
            rows = row_rules.folded(store, labels, rows)
        rows = row_rules.draw(rows, PUBLISHED[labels] if options.sampling is None else options.sampling, options.seed)
        rows = row_rules.repeated(rows)  # what was drawn may have some of them once
        if len(np.unique(rows.table["label"])) < 2:
            raise UsageError(
                f"{store.path}: fewer than two {labels}s occur twice in the rows that were drawn: draw more of them"
            )
        return rows, np.array(store.labels[labels], dtype=object)[rows.table["label"]].astype(str)
    rows = row_rules.select(store, unit, layer, options.where)
    missing = pd.isna(row_rules.column(store, unit, rows, labels))
    rows = rows.of(~missing, f"left out: {int(missing.sum())} {unit} rows without {labels}" if missing.any() else "")
    if not len(rows):
        raise UsageError(f"{store.path}: no {unit} row has a value of {labels}")
    sampling = options.sampling or ALL
    if sampling.per_label is not None or sampling.top_labels is not None:
        raise UsageError("rows are drawn by label where labels are phones or words: draw utterances (--max-utterances)")
    rows = row_rules.draw(rows, sampling, options.seed)
    return rows, row_rules.filled(store, unit, rows, labels)


def _milliseconds(store: FeatureStore, layers: Sequence[str], table: str) -> str:
    """Between frames of the layers of one rate."""
    layer = next(layer for layer in layers if store.table_of("frame", layer) == table)
    return f"{FrameRows.of(store, layer).hop * 1000 / SAMPLE_RATE:g}"


def _n_in_one_group(codes: np.ndarray, groups: np.ndarray) -> int:
    """How many rows have a label that no other group has."""
    of_label: dict[str, set[str]] = {}
    for label, group in zip(codes, groups, strict=True):
        of_label.setdefault(label, set()).add(group)
    alone = [label for label, there in of_label.items() if len(there) == 1]
    return int(np.isin(codes, alone).sum())


def _usual_groups(store: FeatureStore, unit: str, rows: Rows, names: np.ndarray, labels: str, say: Say) -> str:
    """What folds keep whole where nobody said it; tells where that leaves one sentence on both sides."""
    groups = _utterance_or_speaker(store, unit, rows, names, labels, say)
    if groups == "utterance" and TEXT in store.utterances:
        texts = store.utterances[TEXT].iloc[np.unique(rows.table["utterance"])].dropna()
        if n_again := int(texts.duplicated(keep=False).sum()):
            say(
                f"{n_again} of {len(texts)} utterances have the text of another one, which may be learned from: --groups {TEXT} keeps "
                "them together"
            )
    return groups


def _utterance_or_speaker(store: FeatureStore, unit: str, rows: Rows, names: np.ndarray, labels: str, say: Say) -> str:
    """utterance; speaker where nearly all rows of each speaker have one label, which several speakers have.

    A model that knows voices would find such a label without knowing it; a mistyped one changes nothing.
    """
    if labels == SPEAKER or SPEAKER not in store.utterances:
        return "utterance"
    speakers = row_rules.written(store, unit, rows, SPEAKER)
    if pd.isna(speakers).any():
        say(f"folds keep utterances whole, not speakers: {int(pd.isna(speakers).sum())} rows have none")
        return "utterance"
    usual = pd.DataFrame({"speaker": speakers, "label": names})
    usual["usual"] = usual.groupby("speaker")["label"].transform(lambda own: own.mode().iloc[0])
    by_speaker = usual.drop_duplicates("speaker")["usual"]
    if (usual["label"] == usual["usual"]).mean() < NEARLY_ALL or not by_speaker.duplicated().any():
        return "utterance"
    if by_speaker.nunique() < 2:
        return "utterance"
    say(f"folds keep speakers whole, as each has one {labels}: choose otherwise with --groups")
    return SPEAKER
