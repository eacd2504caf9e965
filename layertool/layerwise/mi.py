"""Mutual information of every layer of a store with labels, through k-means clusters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from layertool import columns, resampling
from layertool.analysis import folds, mi
from layertool.layerwise import rows as row_rules
from layertool.layerwise.rows import Condition, Rows
from layertool.layerwise.views import LayerView, turned
from layertool.errors import UsageError
from layertool.layerwise.stores import (
    Progress,
    Say,
    check_same_model,
    conditions_of,
    joined,
    layers_of,
    result,
    said_once,
    silent,
    speech_of,
    unit_of,
)
from layertool.layerwise.folds import PERMUTED, TURNED, by_utterance
from layertool.layerwise.engine import one_by_one
from layertool.geometry import SAMPLE_RATE
from layertool.layers import summary
from layertool.result_rows import Result
from layertool.store import FeatureStore

TIERS = ("phone", "word")  # other labels are columns
ROWS_PER_CLUSTER = 5  # at least, where the number of clusters is not asked for
N_GROUPS = 10  # of utterances, each left out once for the interval
PLACE_SAMPLES = SAMPLE_RATE // 2  # how finely it is asked whether clusters tell the time in the clip
TELLS_TIME = 0.1  # adjusted MI with it that is worth a note

# Each number of a score; its chance level is that of labels permuted row by row, unless rows come in runs.
METRICS: dict[str, tuple[str, Callable[[mi.Score], float], Callable[[mi.Score], float]]] = {
    "nats": ("MI (nats)", lambda s: s.nats, lambda s: s.permuted),
    "normalized": ("MI/H(label)", lambda s: s.normalized, lambda s: s.permuted / s.label_entropy),
    "adjusted": ("adjusted MI", lambda s: s.adjusted, lambda s: 0.0),
    "corrected": ("corrected MI (nats)", lambda s: s.corrected, lambda s: 0.0),
    "label-purity": ("label purity", lambda s: s.phone_purity, lambda s: s.permuted_phone_purity),
    "cluster-purity": ("cluster purity", lambda s: s.cluster_purity, lambda s: s.permuted_cluster_purity),
    "v-measure": (
        "V-measure",
        lambda s: s.v_measure,
        lambda s: 2 * s.permuted / (s.label_entropy + s.cluster_entropy),
    ),
}


@dataclass(frozen=True)
class Options:
    """How mutual information is measured; see ``mi_rows``."""

    n_clusters: int | None = None
    batch_size: int | None = None
    repeats: int = 3
    fit_store: FeatureStore | None = None
    fit_where: Sequence[Condition] = ()
    where: Sequence[Condition] = ()
    published_sampling: bool = True
    standardise: bool = False
    seed: int = 0

    def check(self) -> None:
        """Raise UsageError for options that no data could satisfy."""
        if self.repeats < 1:
            raise UsageError(f"{self.repeats} repeats give no number: type --repeats 1 or more")


@dataclass(frozen=True)
class Labelled:
    """Rows and the label code (n,) of each; ``control``: codes without their relation to the rows, None for permuted ones."""

    rows: Rows
    codes: np.ndarray
    control: np.ndarray | None = None


@dataclass(frozen=True)
class _Scored:
    """One repeat of one layer: its score, that of the control, those without each group of utterances, and the adjusted
    mutual information with the half second of the clip that a row lies in (NaN where there is none to tell)."""

    score: mi.Score
    luck: mi.Score | None
    left_out: list[mi.Score]
    time: float


def mi_rows(
    store: FeatureStore,
    labels: str,
    unit: str | None = None,
    layers: str = "all",
    options: Options | None = None,
    say: Say = silent,
    progress: Progress | None = None,
) -> list[Result]:
    """Mutual information of k-means clusters and labels, for each layer: one result per layer and metric.

    ``labels``: phone, word, or a metadata column (then of utterance rows, unless ``unit`` says otherwise). Clusters
    are fitted on ``options.fit_store`` (the same model on another corpus), on the rows of ``fit_where``, or, without
    either, on one half of the utterances, and scored on the other rows. Repeats draw, split and cluster
    with the seeds seed, seed + 1, ...; the value is their mean. The interval is about the mean that other speech would
    give: a jackknife over groups of utterances, the same ones in all repeats, with the clusters as they are, and the
    variance between repeats, of seeds and halves. ``standardise``: k-means of columns over their deviation in the
    rows of the fit. A note says where clusters tell the time in the clip better than the labels.
    Raises UsageError, in one sentence, for missing units, few rows, stores of other models.
    """
    options = options or Options()
    options.check()
    say = said_once(say)
    is_tier = labels in TIERS
    unit = unit_of(store, unit, labels if is_tier else "utterance", only=is_tier)
    asked = layers_of(store, unit, layers)
    fit_store = options.fit_store or store
    _check_fit_store(store, fit_store, unit, asked, say)
    # all rows first: one number of clusters for all layers and repeats, whose numbers could not be compared else
    table_of = {layer: store.table_of(unit, layer) for layer in asked}  # frames of another rate are other rows
    sets: dict[tuple[int, str], tuple[Rows, Labelled]] = {}
    for repeat in range(options.repeats):
        for layer, table in table_of.items():
            if (repeat, table) not in sets:
                sets[repeat, table] = _sets(store, fit_store, unit, layer, labels, options, options.seed + repeat)
    for _, scored in sets.values():
        for note in scored.rows.notes:
            say(note)
    n_clusters = _n_clusters(options, labels, min(len(fit) for fit, _ in sets.values()), say)
    group_of, n_groups = _groups(store, [scored.rows for _, scored in sets.values()], options.seed)
    batch = options.batch_size or (mi.WORD_BATCH_SIZE if labels == "word" else mi.PHONE_BATCH_SIZE)
    work = []
    for repeat in range(options.repeats):
        for layer in asked:
            fit, scored = sets[repeat, table_of[layer]]
            features = LayerView(fit_store, unit, layer, fit.index)
            view = LayerView(store, unit, layer, scored.rows.index)
            work.append((features, view, scored, options.seed + repeat))

    def compute(features: LayerView, view: LayerView, scored: Labelled, seed: int) -> _Scored:
        clusters = mi.fit_clusters(
            features.read(), n_clusters, batch, seed=seed, overwrite=True, standardise=options.standardise
        )
        assigned = np.concatenate([clusters.assign(block) for block in view.blocks()])
        return _Scored(
            mi.score(assigned, scored.codes, seed=seed),
            None if scored.control is None else mi.score(assigned, scored.control, seed=seed),
            mi.without_each(assigned, scored.codes, group_of[scored.rows.table["utterance"]], n_groups),
            _told_by(assigned, scored.rows.table) if unit != "utterance" else np.nan,
        )

    scores: dict[str, list[_Scored]] = {layer: [] for layer in asked}
    for (_, view, *_), score in zip(work, one_by_one(compute, work, progress), strict=True):
        scores[view.layer].append(score)
    _tell_time(store, labels, scores, options, say)
    how = joined([
        f"k-means, {n_clusters} clusters, fitted on {_fitted_on(store, options)}",
        "columns standardised" if options.standardise else "",
        f"{options.repeats} repeats" if options.repeats > 1 else "1 repeat",
        ("published sampling" if options.published_sampling else "all rows") if is_tier else "",
        f"interval over {n_groups} groups of utterances" if n_groups > 1 else "no interval",
        conditions_of(options.where),
        f"chance: {_control_name(unit, labels)}",
    ])  # fmt: skip
    fits_elsewhere = options.fit_store is not None or bool(options.fit_where)
    out = []
    for layer, parts in scores.items():
        for name, value_of, chance_of in METRICS.values():
            values = np.array([value_of(part.score) for part in parts])
            value = float(values.mean())
            # what seeds and halves change, as repeats show it; of R halves the jackknife has 1 / R of this beside what other
            # utterances change, so that this much of it is taken away
            drawn = values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
            share = 1.0 if fits_elsewhere or len(values) < 2 else len(values) / (len(values) + 1)
            chance = [chance_of(part.score) if part.luck is None else value_of(part.luck) for part in parts]
            left_out = [[value_of(one) for one in part.left_out] for part in parts if part.left_out]
            # a repeat that cannot spare a group says nothing of how much it would change
            without = np.sqrt(share) * np.mean(left_out, 0) if len(left_out) == len(parts) else ()
            low, high = resampling.jackknife(value, without, drawn)
            out.append(
                result(
                    store, unit, layer, analysis="mi", target=labels, variant=f"{name}, {how}", value=value, ci_low=low,
                    ci_high=high, chance=float(np.mean(chance)), n=min(part.score.n for part in parts), seed=options.seed,
                )
            )  # fmt: skip
    return out


def _groups(store: FeatureStore, scored: Sequence[Rows], seed: int) -> tuple[np.ndarray, int]:
    """Group (n_utterances,) of each utterance that any repeat scores, whole utterances, and how many there are."""
    codes = np.unique(np.concatenate([rows.table["utterance"] for rows in scored]))
    group_of = np.zeros(len(store.utterances), np.int64)
    group_of[codes] = resampling.jackknife_groups(np.arange(len(codes)), N_GROUPS, seed)
    return group_of, min(N_GROUPS, len(codes))


def _told_by(assigned: np.ndarray, table: np.ndarray) -> float:
    """Adjusted mutual information of clusters (n,) with the half second of the clip in whose middle a row lies."""
    place = (table["start"] + table["end"]) // 2 // PLACE_SAMPLES
    return mi.score(assigned, place, n_permutations=1).adjusted if len(np.unique(place)) > 1 else np.nan


def _tell_time(store: FeatureStore, labels: str, scores: dict[str, list[_Scored]], options: Options, say: Say) -> None:
    """Tell which layers' clusters are of the time in the clip rather than of the labels."""
    time = {layer: float(np.mean([part.time for part in parts])) for layer, parts in scores.items()}
    label = {layer: float(np.mean([part.score.adjusted for part in parts])) for layer, parts in scores.items()}
    told = [layer for layer in scores if time[layer] > max(label[layer], TELLS_TIME)]
    if told:
        worst = max(told, key=lambda layer: time[layer] - label[layer])
        remedy = (
            f"ask 'layertool probe neighbours {store.path} --labels {labels}' what else these layers tell"
            if options.standardise
            else "columns of large variance may mark it; ask again with --standardise"
        )
        say(
            f"{store.path}: the clusters of {summary(told)} tell the time in the clip better than {labels} (adjusted MI of "
            f"{worst} {time[worst]:.2f} with the half second, {label[worst]:.2f} with {labels}): {remedy}"
        )


def _control_name(unit: str, labels: str) -> str:
    """What chance is of: where neighbouring rows have one label, permuting single rows would not do."""
    comes_in_runs = unit == "frame" if labels in TIERS else unit != "utterance"
    return TURNED if comes_in_runs else PERMUTED


def _check_fit_store(store: FeatureStore, fit: FeatureStore, unit: str, layers: Sequence[str], say: Say) -> None:
    if fit is store:
        return
    unit_of(fit, unit, unit)
    check_same_model(store, fit, "clusters")
    if (a := fit.configuration["units"][unit]) != (b := store.configuration["units"][unit]):
        raise UsageError(
            f"{unit} rows are pooled by {a} in {fit.path} and by {b} in {store.path}: extract both with one --pooling"
        )
    missing = [layer for layer in layers if layer not in fit.layers_of(unit)]
    if missing:
        raise UsageError(f"{fit.path} has no layer {missing[0]} at unit {unit}: type --layers without it")
    if (a := fit.configuration.get("mask_seed")) != (b := store.configuration.get("mask_seed")):
        how = ["without the time mask" if seed is None else f"with the time mask of seed {seed}" for seed in (a, b)]
        say(f"{fit.path}, for the clusters, was extracted {how[0]}, {store.path} {how[1]}")


def _sets(
    store: FeatureStore, fit_store: FeatureStore, unit: str, layer: str, labels: str, options: Options, seed: int
) -> tuple[Rows, Labelled]:
    """The rows that clusters are fitted on, and those that they are scored on, with labels."""
    is_tier = labels in TIERS
    scored = _rows(store, unit, layer, labels, options.where)
    if options.fit_store is not None or options.fit_where:
        # clusters need labels only where these decide which rows are drawn
        if is_tier:
            fit = _rows(fit_store, unit, layer, labels, options.fit_where)
        else:
            fit = row_rules.select(fit_store, unit, layer, options.fit_where)
        both = np.isin(speech_of(store)[scored.table["utterance"]], speech_of(fit_store)[fit.table["utterance"]])
        if both.all():
            raise UsageError(
                f"{store.path}: every utterance that is scored is also fitted on: say with --where which rows are "
                "scored, e.g. --fit-where split=train --where split=dev"
            )
        note = f"left out: {int(both.sum())} {unit} rows of utterances that the clusters are fitted on"
        scored = scored.of(~both, note if both.any() else "")
    else:
        half = _halves(store, unit, labels, scored, seed)
        fit, scored = scored.of(half == 0), scored.of(half == 1)
    if is_tier and options.published_sampling:
        fit = row_rules.draw(fit, row_rules.PUBLISHED_FIT[labels], seed)
        # the same labels by name: another corpus has codes of its own
        fitted = {fit_store.labels[labels][code] for code in np.unique(fit.table["label"])}
        known = [code for code, name in enumerate(store.labels[labels]) if name in fitted]
        scored = scored.of(np.isin(scored.table["label"], known))
        scored = row_rules.draw(scored, row_rules.Sampling(per_label=row_rules.PUBLISHED[labels].per_label), seed)
    codes = scored.table["label"] if is_tier else _values(store, unit, scored, labels)
    codes = np.unique(codes, return_inverse=True)[1]
    if len(codes) and codes.max() < 1:
        raise UsageError(
            f"{store.path}: all {len(codes)} rows have one label of {labels}, where they are scored: take more utterances, or "
            "choose them with --where and --fit-where"
        )
    # neighbours are alike, and so are their labels: what has no relation to the rows keeps its runs
    return fit, Labelled(scored, codes, turned(codes) if _control_name(unit, labels) == TURNED else None)


def _halves(store: FeatureStore, unit: str, labels: str, rows: Rows, seed: int) -> np.ndarray:
    """0 or 1 for each row, whole utterances on one side, both sides with all labels as far as possible."""
    if len(np.unique(rows.table["utterance"])) < 2:
        raise UsageError(
            f"{store.path}: one utterance has no half to fit clusters on: take more of them (--where), or fit on "
            "others (--fit-on, --fit-where)"
        )
    if labels not in TIERS:
        return folds.disjoint(rows.table["utterance"], _values(store, unit, rows, labels), 2, seed, "utterances")
    if np.bincount(rows.table["label"]).max() < 2:
        raise UsageError(
            f"{store.path}: no {labels} occurs twice, so clusters cannot be fitted on one half of the rows"
        )
    return by_utterance(store, unit, labels, rows, rows, 2, seed)


def _values(store: FeatureStore, unit: str, rows: Rows, column: str) -> np.ndarray:
    """Values (n,) of a column as something that has an order."""
    values = row_rules.column(store, unit, rows, column)
    return columns.texts(values).astype(str) if values.dtype == object else values


def _rows(store: FeatureStore, unit: str, layer: str, labels: str, where: Sequence[Condition]) -> Rows:
    if labels not in TIERS:
        rows = row_rules.select(store, unit, layer, where)
        rows = rows.of(~pd.isna(row_rules.column(store, unit, rows, labels)))
        if not len(rows):
            raise UsageError(f"{store.path}: no {unit} row has a value of {labels}")
        return rows
    return row_rules.with_labels(store, labels, row_rules.labelled(store, unit, layer, labels, where))


def _n_clusters(options: Options, labels: str, n_rows: int, say: Say) -> int:
    if options.n_clusters is not None:
        return options.n_clusters
    usual = mi.WORD_CLUSTERS if labels == "word" else mi.PHONE_CLUSTERS
    most = max(2, n_rows // ROWS_PER_CLUSTER)
    if most < usual:
        say(
            f"{most} clusters instead of {usual}: they are fitted on {n_rows} rows, {ROWS_PER_CLUSTER} a "
            "cluster; choose with --clusters"
        )
    return min(usual, most)


def _fitted_on(store: FeatureStore, options: Options) -> str:
    where = " and ".join(map(str, options.fit_where))
    if options.fit_store is not None and options.fit_store is not store:
        return f"{options.fit_store.about['corpus']['name']}" + (f" where {where}" if where else "")
    return f"rows where {where}" if where else "the other half of the utterances"
