"""Mutual information of every layer of a store with labels, through k-means clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from layertool import columns, resampling
from layertool.analysis import folds, mi
from layertool.conditions import Condition, conditions
from layertool.declared import option
from layertool.errors import UsageError, tell
from layertool.geometry import SAMPLE_RATE
from layertool.layers import summary
from layertool.layerwise import rows as row_rules
from layertool.layerwise.analysis import Analysis, Metric, OfLabels, Score
from layertool.layerwise.folds import PERMUTED, TURNED, by_utterance
from layertool.layerwise.rows import TIERS, Rows
from layertool.layerwise.stores import by_table, check_layers, check_same_model, one_store, speech_of
from layertool.layerwise.views import LayerView, turned
from layertool.store import FeatureStore

ROWS_PER_CLUSTER = 5  # at least, where the number of clusters is not asked for
N_GROUPS = 10  # of utterances, each left out once for the interval
PLACE_SAMPLES = SAMPLE_RATE // 2  # how finely it is asked whether clusters tell the time in the clip
TELLS_TIME = 0.1  # adjusted MI with it that is worth a note

# Each number of a score; its chance level is that of labels permuted row by row, unless rows come in runs.
NUMBERS: dict[str, tuple[Callable[[mi.Score], float], Callable[[mi.Score], float]]] = {
    "mi": (lambda s: s.nats, lambda s: s.permuted),
    "normalized mi": (lambda s: s.normalized, lambda s: s.permuted / s.label_entropy),
    "adjusted mi": (lambda s: s.adjusted, lambda s: 0.0),
    "corrected mi": (lambda s: s.corrected, lambda s: 0.0),
    "label purity": (lambda s: s.phone_purity, lambda s: s.permuted_phone_purity),
    "cluster purity": (lambda s: s.cluster_purity, lambda s: s.permuted_cluster_purity),
    "v-measure": (lambda s: s.v_measure, lambda s: 2 * s.permuted / (s.label_entropy + s.cluster_entropy)),
}


@dataclass(frozen=True)
class Labelled:
    """Rows and the label code (n,) of each; ``control``: codes without their relation to the rows, None for permuted
    ones."""

    rows: Rows
    codes: np.ndarray
    control: np.ndarray | None = None


@dataclass(frozen=True)
class Clustering:
    """What all layers and repeats share: clusters of k-means, rows of a batch, the group (n_utterances,) of each
    utterance."""

    n_clusters: int
    batch_size: int
    groups: np.ndarray
    n_groups: int


@dataclass(frozen=True)
class Scored:
    """One repeat of one layer: its score, that of the control, those without each group of utterances, and the adjusted
    mutual information with the half second of the clip that a row lies in (NaN where there is none to tell)."""

    score: mi.Score
    luck: mi.Score | None
    left_out: list[mi.Score]
    time: float


@dataclass(frozen=True, kw_only=True)
class MI(OfLabels, Analysis):
    """Mutual information of k-means clusters of every layer with phones, words, or other labels.

    Clusters are fitted on STORE2, on the rows of --fit-where, or else on one half of the utterances.

    \b
    Examples:
      layertool mi w2v2 --labels phone
      layertool mi dev --labels word --fit-on train --plot words.pdf
      layertool mi w2v2 --labels phone --fit-where split=train --where split=dev
      layertool mi whisper --labels phone --standardise
    """

    clusters: int | None = option(
        None, "How many clusters.", low=2, metavar="N", usual="500, words 5000; fewer when there are few rows"
    )
    batch_size: int | None = option(
        None, "Rows of a mini-batch of k-means.", low=1, metavar="N", usual="1500, words 4000"
    )
    repeats: int = option(3, "How often rows are drawn, split and clustered, with seeds of their own.", low=1)
    fit_on: FeatureStore | None = option(
        None, "Store of the same model to fit the clusters on.", metavar="STORE2", parse=one_store
    )
    fit_where: tuple[Condition, ...] = option(
        (), "Rows to fit the clusters on, as --where. Repeatable.", metavar="COLUMN=VALUE", parse=conditions
    )
    standardise: bool = option(False, "Divide columns by their deviation in the rows of the fit.")
    sample: Literal["published", "all"] = option(
        "published",
        "Rows to draw: published, fit on 3000 to 7000 rows a phone (600 to 1200 a word), score 200 (15); or all.",
    )

    name = command = "mi"
    metrics = (
        Metric("mi", "MI (nats)"),
        Metric("normalized mi", "MI / H(label)", is_share=True),
        Metric("adjusted mi", "adjusted MI", is_share=True),
        Metric("corrected mi", "corrected MI (nats)"),
        Metric("label purity", "label purity", is_share=True),
        Metric("cluster purity", "cluster purity", is_share=True),
        Metric("v-measure", "V-measure", is_share=True),
    )
    cites = ("pasad2021",)
    at_once = 1  # k-means takes all cores

    def settings(self) -> dict[str, Any]:
        unit = self.unit or self.usual_unit
        drawn: dict[str, Any] = {} if self.only_unit else {"sample": None}
        if self.fit_on is None and not self.fit_where:
            drawn["fit_on"] = "half of the utterances"
        return super().settings() | drawn | {"chance": _control_name(unit, self.labels)}

    def pieces(self, store: FeatureStore, unit: str, layers: Sequence[str]) -> list[tuple]:
        """(view of the layer to score, view to fit on, labels, seed, clustering) of each repeat and layer."""
        fit_store = self.fit_on or store
        _check_fit_store(store, fit_store, unit, layers)
        # all rows first: one number of clusters for all layers and repeats, whose numbers could not be compared else
        seeds = range(self.seed, self.seed + self.repeats)
        sets = {
            (seed, layer): one
            for seed in seeds
            for layer, one in by_table(store, unit, layers, partial(self._sets, store, fit_store, unit, seed)).items()
        }
        n_clusters = self._n_clusters(min(len(fit) for fit, _ in sets.values()))
        batch_size = self.batch_size or (mi.WORD_BATCH_SIZE if self.labels == "word" else mi.PHONE_BATCH_SIZE)
        groups = _groups(store, [scored.rows for _, scored in sets.values()], self.seed)
        clustering = Clustering(n_clusters, batch_size, *groups)
        return [
            (
                LayerView(store, unit, layer, scored.rows.index),
                LayerView(fit_store, unit, layer, fit.index),
                scored,
                seed,
                clustering,
            )
            for (seed, layer), (fit, scored) in sets.items()
        ]

    def compute(self, view: LayerView, fit: LayerView, labelled: Labelled, seed: int, how: Clustering) -> Scored:
        clusters = mi.fit_clusters(
            fit.read(), how.n_clusters, how.batch_size, seed=seed, overwrite=True, standardise=self.standardise
        )
        assigned = np.concatenate([clusters.assign(block) for block in view.blocks()])
        table = labelled.rows.table
        return Scored(
            mi.score(assigned, labelled.codes, seed=seed),
            None if labelled.control is None else mi.score(assigned, labelled.control, seed=seed),
            mi.without_each(assigned, labelled.codes, how.groups[table["utterance"]], how.n_groups),
            _told_by(assigned, table) if view.unit != "utterance" else np.nan,
        )

    def conclude(
        self, store: FeatureStore, unit: str, pieces: Sequence[tuple], outcomes: Sequence[Scored]
    ) -> Iterator[tuple[str, Score, Mapping[str, Any]]]:
        """The mean over repeats of every number, and how far it would be off with other speech.

        The interval is a jackknife over groups of utterances, the same ones in all repeats, with the clusters as they
        are, and the variance between repeats, of seeds and halves.
        """
        scores: dict[str, list[Scored]] = {}
        for (view, *_), one in zip(pieces, outcomes, strict=True):
            scores.setdefault(view.layer, []).append(one)
        self._tell_time(store, scores)
        how = pieces[0][-1]
        settings: dict[str, Any] = {"clusters": how.n_clusters, "batch_size": how.batch_size}
        settings["interval_groups"] = how.n_groups if how.n_groups > 1 else None
        fits_elsewhere = self.fit_on is not None or bool(self.fit_where)
        for layer, parts in scores.items():
            for name, (value_of, chance_of) in NUMBERS.items():
                values = np.array([value_of(part.score) for part in parts])
                value = float(values.mean())
                # what seeds and halves change, as repeats show it; of R halves the jackknife has 1 / R of this beside
                # what other utterances change, so that this much of it is taken away
                drawn = values.var(ddof=1) / len(values) if len(values) > 1 else 0.0
                share = 1.0 if fits_elsewhere or len(values) < 2 else len(values) / (len(values) + 1)
                chance = [chance_of(part.score) if part.luck is None else value_of(part.luck) for part in parts]
                left_out = [[value_of(one) for one in part.left_out] for part in parts if part.left_out]
                # a repeat that cannot spare a group says nothing of how much it would change
                without = np.sqrt(share) * np.mean(left_out, 0) if len(left_out) == len(parts) else ()
                low, high = resampling.jackknife(value, without, drawn)
                n = min(part.score.n for part in parts)
                yield layer, Score(name, value, low, high, float(np.mean(chance)), n), settings

    def _tell_time(self, store: FeatureStore, scores: Mapping[str, list[Scored]]) -> None:
        """Tell which layers' clusters are of the time in the clip rather than of the labels."""
        time = {layer: float(np.mean([part.time for part in parts])) for layer, parts in scores.items()}
        label = {layer: float(np.mean([part.score.adjusted for part in parts])) for layer, parts in scores.items()}
        told = [layer for layer in scores if time[layer] > max(label[layer], TELLS_TIME)]
        if told:
            worst = max(told, key=lambda layer: time[layer] - label[layer])
            remedy = (
                f"ask 'layertool probe neighbours {store.path} --labels {self.labels}' what else these layers tell"
                if self.standardise
                else "columns of large variance may mark it; ask again with --standardise"
            )
            tell(
                f"{store.path}: the clusters of {summary(told)} tell the time in the clip better than "
                f"{self.labels} (adjusted "
                f"MI of {worst} {time[worst]:.2f} with the half second, {label[worst]:.2f} with {self.labels}): "
                f"{remedy}"
            )

    def _sets(
        self, store: FeatureStore, fit_store: FeatureStore, unit: str, seed: int, layer: str
    ) -> tuple[Rows, Labelled]:
        """The rows that clusters are fitted on, and those that they are scored on, with labels."""
        labels, is_tier = self.labels, self.only_unit
        scored = _rows(store, unit, layer, labels, self.where)
        if self.fit_on is not None or self.fit_where:
            # clusters need labels only where these decide which rows are drawn
            if is_tier:
                fit = _rows(fit_store, unit, layer, labels, self.fit_where)
            else:
                fit = row_rules.select(fit_store, unit, layer, self.fit_where)
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
        if is_tier and self.sample == "published":
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
                f"{store.path}: all {len(codes)} rows have one label of {labels}, where they are scored: take "
                "more utterances, or "
                "choose them with --where and --fit-where"
            )
        # neighbours are alike, and so are their labels: what has no relation to the rows keeps its runs
        return fit, Labelled(scored.tell(), codes, turned(codes) if _control_name(unit, labels) == TURNED else None)

    def _n_clusters(self, n_rows: int) -> int:
        if self.clusters is not None:
            return self.clusters
        usual = mi.WORD_CLUSTERS if self.labels == "word" else mi.PHONE_CLUSTERS
        most = max(2, n_rows // ROWS_PER_CLUSTER)
        if most < usual:
            tell(
                f"{most} clusters instead of {usual}: they are fitted on {n_rows} rows, {ROWS_PER_CLUSTER} a "
                "cluster; choose with --clusters"
            )
        return min(usual, most)


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


def _control_name(unit: str, labels: str) -> str:
    """What chance is of: where neighbouring rows have one label, permuting single rows would not do."""
    comes_in_runs = unit == "frame" if labels in TIERS else unit != "utterance"
    return TURNED if comes_in_runs else PERMUTED


def _check_fit_store(store: FeatureStore, fit: FeatureStore, unit: str, layers: Sequence[str]) -> None:
    if fit is store:
        return
    check_same_model(store, fit, "clusters")
    check_layers(fit, unit, layers)
    if (a := fit.configuration["units"][unit]) != (b := store.configuration["units"][unit]):
        raise UsageError(
            f"{unit} rows are pooled by {a} in {fit.path} and by {b} in {store.path}: extract both with one --pooling"
        )
    if (a := fit.configuration.get("mask_seed")) != (b := store.configuration.get("mask_seed")):
        how = ["without the time mask" if seed is None else f"with the time mask of seed {seed}" for seed in (a, b)]
        tell(f"{fit.path}, for the clusters, was extracted {how[0]}, {store.path} {how[1]}")


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
        return row_rules.known(store, unit, row_rules.select(store, unit, layer, where), labels)
    return row_rules.with_labels(store, labels, row_rules.labelled(store, unit, layer, labels, where))
