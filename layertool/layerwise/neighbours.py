"""Which label has a row? Nearest neighbours and nearest centroids of every layer of a store, on unseen speech."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from layertool.analysis import folds
from layertool.declared import option
from layertool.errors import UsageError, tell
from layertool.geometry import SAMPLE_RATE
from layertool.layerwise import rows as row_rules
from layertool.layerwise.analysis import Analysis, Drawn, Metric, OfLabels, Problem, Score
from layertool.layerwise.folds import PERMUTED
from layertool.layerwise.rows import ALL, TIERS, Rows
from layertool.layerwise.views import FrameRows, LayerView
from layertool.probes import neighbours as probe
from layertool.store import FeatureStore

MAJORITY = "most frequent label"
SPEAKER, TEXT = "speaker", "text"
NEARLY_ALL = 0.8  # rows of a speaker that have his usual label


@dataclass(frozen=True)
class Labelled(Problem):
    """The label, the group and the fold (n,) of each row."""

    labels: np.ndarray
    groups: np.ndarray
    folds: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Neighbours(OfLabels, Drawn, Analysis):
    """Which phone, word, speaker, emotion? Nearest neighbours on unseen speech.

    Cross-validated accuracy, against the most frequent label and the same classifier on permuted labels.

    \b
    Examples:
      layertool probe neighbours w2v2 mel --labels phone --plot phones.pdf
      layertool probe neighbours w2v2 --labels gender --groups speaker
      layertool probe neighbours w2v2 --labels word -k 1 -o words.csv
    """

    method: Literal["both", "knn", "centroid"] = option(
        "both", "Classifier: k nearest neighbours, or the nearest mean of a label's rows.", decides=False
    )
    neighbours: int = option(5, "How many neighbours vote, of knn.", flags=("-k", "--neighbours"), low=1, metavar="K")
    n_folds: int = option(5, "How many folds, each named from the others.", low=2)
    groups: str | None = option(
        None,
        "Column whose values folds keep whole.",
        metavar="COLUMN",
        usual="utterance, or speaker where each has one label",
    )
    sample: Literal["published", "all"] = option(
        "published", "Rows to draw: published, 200 a phone and 15 of the 500 most frequent words; or all."
    )

    name = "neighbours"
    command = "probe neighbours"
    metrics = (Metric("accuracy", "accuracy on unseen speech", is_share=True),)
    cites = ("pasad2024",)

    def settings(self) -> dict[str, Any]:
        found = super().settings()
        if not self.only_unit and self.sampling in (None, ALL):
            found["sampling"] = str(ALL)
        return found | {"chance": PERMUTED}

    def pieces(self, store: FeatureStore, unit: str, layers: Sequence[str]) -> list[tuple]:
        """One choice of groups for all layers, then folds of each row table."""
        made = super().pieces(store, unit, layers)
        first = made[0][1]
        groups = self.groups or _usual_groups(store, unit, first.rows, first.labels, self.labels)
        dealt: dict[int, Labelled] = {}
        for _, problem in made:
            if id(problem) not in dealt:
                dealt[id(problem)] = self._dealt(store, unit, problem, groups)
        return [(view, dealt[id(problem)]) for view, problem in made]

    def prepare(self, store: FeatureStore, unit: str, layer: str) -> Labelled:
        rows, labels = self._rows(store, unit, layer)
        return Labelled(rows, labels, np.array([]), np.array([]))

    def _dealt(self, store: FeatureStore, unit: str, problem: Labelled, groups: str) -> Labelled:
        labels, values = problem.labels, row_rules.filled(store, unit, problem.rows, groups)
        n_groups = len(np.unique(values))
        if n_groups < 2:
            raise UsageError(
                f"{store.path}: all rows are of one {groups}, so none is left to learn from: choose other --groups"
            )
        n_lost = _n_in_one_group(labels, values)
        if n_lost == len(labels):
            raise UsageError(
                f"{store.path}: each label of {self.labels} stands in one {groups} only, so that none can be "
                "found in another: "
                "choose other --groups"
            )
        if n_lost:
            tell(f"{n_lost} of {len(labels)} rows have a label that stands in one {groups} only, and count as wrong")
        n_folds = min(self.n_folds, n_groups)
        return replace(
            problem,
            groups=values,
            folds=folds.disjoint(values, labels, n_folds, self.seed, f"values of {groups}"),
            settings={"groups": groups, "n_folds": n_folds},
        )

    def compute(self, view: LayerView, problem: Labelled) -> list[probe.Accuracy]:
        x = view.read()
        return [
            probe.classify(
                x, problem.labels, problem.groups, method, self.neighbours, seed=self.seed, folds=problem.folds
            )
            for method in self._methods
        ]

    @property
    def _methods(self) -> Sequence[str]:
        return ("knn", "centroid") if self.method == "both" else (self.method,)

    def conclude(
        self, store: FeatureStore, unit: str, pieces: Sequence[tuple], outcomes: Sequence[list[probe.Accuracy]]
    ) -> Iterator[tuple[str, Score, Mapping[str, Any]]]:
        tables = {store.table_of(unit, view.layer): view.layer for view, _ in pieces}
        for k, method in enumerate(self._methods):
            last: dict[str, tuple[probe.Accuracy, Labelled]] = {}
            for (view, problem), accuracies in zip(pieces, outcomes, strict=True):
                one = accuracies[k]
                last[store.table_of(unit, view.layer)] = one, problem
                yield (
                    view.layer,
                    Score("accuracy", one.value, one.ci_low, one.ci_high, one.permuted, one.n),
                    self._settings(method, problem),
                )
            for table, (one, problem) in last.items():
                name = MAJORITY
                if len(last) > 1:
                    hop = FrameRows.of(store, tables[table]).hop
                    name += f", {hop * 1000 / SAMPLE_RATE:g} ms frames"
                yield "", Score("accuracy", one.majority, n=one.n, baseline=name), self._settings(method, problem)

    @staticmethod
    def _settings(method: str, problem: Labelled) -> dict[str, Any]:
        return {**problem.settings, "method": method, **({} if method == "knn" else {"neighbours": None})}

    def _rows(self, store: FeatureStore, unit: str, layer: str) -> tuple[Rows, np.ndarray]:
        """The rows, and the label (n,) of each."""
        tier = self.labels
        if tier in TIERS:
            rows = row_rules.with_labels(store, tier, row_rules.labelled(store, unit, layer, tier, self.where), 2)
            if tier == "word":
                rows = row_rules.folded(store, tier, rows)
            rows = row_rules.draw(rows, self.sampling_of(tier), self.seed)
            rows = row_rules.repeated(rows)  # what was drawn may have some of them once
            if len(np.unique(rows.table["label"])) < 2:
                raise UsageError(
                    f"{store.path}: fewer than two {tier}s occur twice in the rows that were drawn: draw more of them"
                )
            return rows, np.array(store.labels[tier], dtype=object)[rows.table["label"]].astype(str)
        rows = row_rules.known(store, unit, row_rules.select(store, unit, layer, self.where), tier)
        sampling = self.sampling or ALL
        if sampling.per_label is not None or sampling.top_labels is not None:
            raise UsageError(
                "rows are drawn by label where labels are phones or words: draw utterances (--max-utterances)"
            )
        rows = row_rules.draw(rows, sampling, self.seed)
        return rows, row_rules.filled(store, unit, rows, tier)


def _n_in_one_group(codes: np.ndarray, groups: np.ndarray) -> int:
    """How many rows have a label that no other group has."""
    of_label: dict[str, set[str]] = {}
    for label, group in zip(codes, groups, strict=True):
        of_label.setdefault(label, set()).add(group)
    alone = [label for label, there in of_label.items() if len(there) == 1]
    return int(np.isin(codes, alone).sum())


def _usual_groups(store: FeatureStore, unit: str, rows: Rows, names: np.ndarray, labels: str) -> str:
    """What folds keep whole where nobody said it; tells where that leaves one sentence on both sides."""
    groups = _utterance_or_speaker(store, unit, rows, names, labels)
    if groups == "utterance" and TEXT in store.utterances:
        texts = store.utterances[TEXT].iloc[np.unique(rows.table["utterance"])].dropna()
        if n_again := int(texts.duplicated(keep=False).sum()):
            tell(
                f"{n_again} of {len(texts)} utterances have the text of another one, which may be learned from: "
                f"--groups {TEXT} keeps "
                "them together"
            )
    return groups


def _utterance_or_speaker(store: FeatureStore, unit: str, rows: Rows, names: np.ndarray, labels: str) -> str:
    """utterance; speaker where nearly all rows of each speaker have one label, which several speakers have.

    A model that knows voices would find such a label without knowing it; a mistyped one changes nothing.
    """
    if labels == SPEAKER or SPEAKER not in store.utterances:
        return "utterance"
    speakers = row_rules.written(store, unit, rows, SPEAKER)
    if pd.isna(speakers).any():
        tell(f"folds keep utterances whole, not speakers: {int(pd.isna(speakers).sum())} rows have none")
        return "utterance"
    usual = pd.DataFrame({"speaker": speakers, "label": names})
    usual["usual"] = usual.groupby("speaker")["label"].transform(lambda own: own.mode().iloc[0])
    by_speaker = usual.drop_duplicates("speaker")["usual"]
    if (usual["label"] == usual["usual"]).mean() < NEARLY_ALL or not by_speaker.duplicated().any():
        return "utterance"
    if by_speaker.nunique() < 2:
        return "utterance"
    tell(f"folds keep speakers whole, as each has one {labels}: choose otherwise with --groups")
    return SPEAKER
