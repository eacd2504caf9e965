"""CCA of every layer of a store with a target: acoustic frames, another layer, labels, word embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from layertool.analysis import embeddings, folds, protocols
from layertool.analysis import rows as row_rules
from layertool.analysis.moments import FoldMoments
from layertool.analysis.rows import Condition, Rows, Sampling
from layertool.analysis.views import LayerView, TableView, View, pair, turned
from layertool.errors import UsageError
from layertool.feed.common import (
    Progress,
    Say,
    check_comparable,
    check_pooling,
    conditions_of,
    joined,
    layers_of,
    result,
    said_once,
    sampling_of,
    silent,
    unit_of,
)  # fmt: skip
from layertool.feed.dealing import PERMUTED, TURNED, deal
from layertool.feed.parallel import one_by_one
from layertool.results import Result
from layertool.store import FeatureStore

PROTOCOLS = ("held-out", "in-sample")
MIN_COVERAGE = 0.5  # of the rows whose word has an embedding


@dataclass(frozen=True)
class LayerTarget:
    """A layer of a store (``layer`` None: the one of the same name). ``derived``: made from the other store's audio."""

    store: FeatureStore
    layer: str | None
    name: str
    derived: bool = False


@dataclass(frozen=True)
class LabelTarget:
    """One-hot labels of a tier, ``phone`` or ``word``."""

    tier: str

    @property
    def name(self) -> str:
        return self.tier


@dataclass(frozen=True)
class EmbeddingTarget:
    """A vector for each word, from a file (see ``analysis.embeddings``)."""

    path: Path

    @property
    def name(self) -> str:
        return f"embedding:{self.path.name}"


Target = LayerTarget | LabelTarget | EmbeddingTarget
USUAL_UNIT = {LayerTarget: "frame", EmbeddingTarget: "word"}


@dataclass(frozen=True)
class Options:
    """How a score is made; see ``cca_rows``."""

    protocol: str = "held-out"
    variants: Sequence[str] = ("pwcca",)
    folds: str = "utterance-disjoint"
    n_folds: int = protocols.N_FOLDS
    n_trials: int = protocols.N_TRIALS
    eps: Sequence[float] | str | None = None
    share: float = 0.99
    where: Sequence[Condition] = ()
    sampling: Sampling | None = None
    samples: int = 1
    seed: int = 0
    min_coverage: float = MIN_COVERAGE
    device: str = "cpu"

    def check(self) -> None:
        """Raise UsageError for options that no data could satisfy."""
        for variant in self.variants:
            protocols.check_variant(variant)
        if self.protocol not in PROTOCOLS:
            raise UsageError(f"'{self.protocol}' is no protocol: choose {' or '.join(PROTOCOLS)}")
        if not 0 < self.share <= 1:
            raise UsageError(
                f"the share of variance lies between 0 and 1, not at {self.share:g}: type e.g. --share 0.99"
            )
        if isinstance(self.eps, str) and not self.published:
            raise UsageError(f"eps is a list of numbers or 'published', not '{self.eps}'")
        if not self.grid or not all(0 < eps < np.inf for eps in self.grid):
            raise UsageError("eps has to be positive: type e.g. --eps 1e-8,1e-6")
        if self.protocol == "in-sample" and len(self.grid) > 1:
            raise UsageError("in-sample scores have no development folds to choose eps on: give one --eps")
        folds.check_folds(self.n_folds)
        if self.protocol == "held-out":
            protocols.trials(self.n_folds, self.n_trials, self.seed)

    @property
    def published(self) -> bool:
        """Whether columns keep their scales and each eps deletes dimensions, as in the published code."""
        return self.eps == "published"

    @property
    def grid(self) -> Sequence[float]:
        """The values of eps to choose from."""
        if self.eps is not None and not isinstance(self.eps, str):
            return self.eps
        if self.protocol == "in-sample":
            return (protocols.IN_SAMPLE_EPS,)
        return protocols.PUBLISHED_EPS_GRID if self.published else protocols.EPS_GRID


@dataclass(frozen=True)
class Problem:
    """What one layer is scored on: rows of the layer, of the target, of the control, and the fold of each."""

    x: LayerView
    y: View
    control: View
    folds: np.ndarray
    chance: str


@dataclass
class Problems:
    """Makes the problem of each layer. Which rows are taken depends on the corpus and the seed, not on the model."""

    store: FeatureStore
    target: Target
    unit: str
    options: Options
    seed: int
    say: Say
    _rows: dict = field(default_factory=dict)

    def of(self, layer: str) -> Problem:
        """Raises UsageError when the rows do not suffice."""
        if isinstance(self.target, LayerTarget):
            return self._with_layer(layer, self.target)
        key = self.store.table_of(self.unit, layer)
        if key not in self._rows:
            self._rows[key] = self._labelled(layer, self.target)
        rows, codes, table, dealt, control, chance = self._rows[key]
        x = LayerView(self.store, self.unit, layer, rows.index)
        return Problem(x, TableView(codes, table), control, dealt, chance)

    def _sampling(self, usual: str) -> Sampling:
        return row_rules.PUBLISHED[usual] if self.options.sampling is None else self.options.sampling

    def _with_layer(self, layer: str, target: LayerTarget) -> Problem:
        other = target.layer or layer
        key = (self.store.table_of(self.unit, layer), target.store.table_of(self.unit, other))
        if key not in self._rows:
            x = row_rules.select(self.store, self.unit, layer, self.options.where)
            if self.unit in self.store.labels and self.options.sampling != row_rules.ALL:
                x = row_rules.of_speech(self.store, self.unit, x)
            x = row_rules.draw(x, self._sampling(self.unit), self.seed)
            y = _in_the_utterances_of(self.store, target.store, row_rules.select(target.store, self.unit, other))
            x, y = pair(x, y, self.unit, (str(self.store.path), target.name))
            for note in x.notes:
                self.say(note)
            self._rows[key] = (x, y, self._deal(x, x, self.unit if self.unit in self.store.labels else None))
        x, y, dealt = self._rows[key]
        view = LayerView(target.store, self.unit, other, y.index)
        return Problem(
            LayerView(self.store, self.unit, layer, x.index), view, view.rolled(), dealt,
            "target turned by half of the rows",
        )  # fmt: skip

    def _labelled(self, layer: str, target: LabelTarget | EmbeddingTarget) -> tuple:
        tier = target.tier if isinstance(target, LabelTarget) else "word"
        rows = row_rules.labelled(self.store, self.unit, layer, tier, self.options.where)
        minimum = 2 if isinstance(target, LabelTarget) else 1
        rows = candidates = row_rules.with_labels(self.store, tier, rows, minimum)
        names = np.array(self.store.labels[tier], dtype=object)
        random = np.random.default_rng([self.seed, 1])
        if isinstance(target, LabelTarget):
            if self.options.folds == "type-disjoint":
                raise UsageError(
                    "type-disjoint folds hide the very labels that one-hot targets consist of: take them with "
                    "--with embedding:FILE, or other --folds"
                )
            rows = row_rules.draw(rows, self._sampling(tier), self.seed)
            kept, codes = np.unique(rows.table["label"], return_inverse=True)
            table = np.eye(len(kept))
            if self.unit == tier:
                control, chance = TableView(random.permutation(codes), table), PERMUTED
            else:  # frames of one segment have one label and are alike: what is independent keeps its runs, too
                control, chance = TableView(turned(codes), table), TURNED
        else:
            present = np.unique(rows.table["label"])
            found = embeddings.read(target.path, list(names[present]))
            vector_of = np.full(len(names), -1)
            vector_of[present] = found.index
            rows = row_rules.draw(
                rows, self._sampling("attributes" if found.kind == "attributes" else "word"), self.seed
            )
            rows = self._covered(rows, vector_of, names, target)
            codes, table = vector_of[rows.table["label"]], found.vectors
            control = TableView(codes, random.standard_normal(table.shape))
            chance = "a random vector for each word"
        for note in rows.notes:
            self.say(note)
        # "The" and "the" have one vector, so they are one type
        types = None if isinstance(target, LabelTarget) else codes
        return rows, codes, table, self._deal(rows, candidates, tier, types), control, chance

    def _covered(self, rows: Rows, vector_of: np.ndarray, names: np.ndarray, target: EmbeddingTarget) -> Rows:
        """The rows whose word has an embedding; UsageError when these are too few."""
        has = vector_of[rows.table["label"]] >= 0
        words = np.unique(rows.table["label"])
        missing = words[vector_of[words] < 0]
        shown = ", ".join(names[missing][:5]) + (", …" if len(missing) > 5 else "")
        coverage = (
            f"{len(words) - len(missing)} of {len(words)} words and {has.mean():.1%} of {len(rows)} rows have an "
            f"embedding in {target.name}" + (f" (not: {shown})" if len(missing) else "")
        )
        if has.mean() < self.options.min_coverage or not has.any():
            raise UsageError(
                f"only {coverage}: check its language and spelling, or accept less with --min-coverage "
                f"{np.floor(has.mean() * 100) / 100:g}"
            )
        return rows.of(has, coverage)

    def _deal(self, rows: Rows, candidates: Rows, tier: str | None, types: np.ndarray | None = None) -> np.ndarray:
        options = self.options
        return deal(self.store, self.unit, tier, rows, candidates, options.folds, options.n_folds, self.seed, types)


def _in_the_utterances_of(store: FeatureStore, other: FeatureStore, rows: Rows) -> Rows:
    """Rows of ``other`` with the utterance codes of ``store``; rows of utterances that it lacks are left out."""
    place = {utterance: code for code, utterance in enumerate(store.utterances["utterance"])}
    code_of = np.array([place.get(utterance, -1) for utterance in other.utterances["utterance"]])
    table = rows.table.copy()
    table["utterance"] = code_of[rows.table["utterance"]]
    return replace(rows, table=table).of(table["utterance"] >= 0)


def cca_rows(
    store: FeatureStore,
    target: Target,
    unit: str | None = None,
    layers: str = "all",
    options: Options | None = None,
    say: Say = silent,
    progress: Progress | None = None,
) -> list[Result]:
    """CCA of each layer with a target: one result per layer and variant.

    ``options.protocol``: ``held-out`` (fit on 8 of 10 folds, choose eps on one, score one; mean of 3 trials) or
    ``in-sample``. ``folds``: utterance-disjoint, random, type-disjoint, or COLUMN-disjoint.
    ``sampling``: None for the published rules (spec layerwise.md 2.3); ``samples``: independent draws and
    dealings, with the seeds seed, seed + 1, ...: all their trials are averaged. ``share``: of the variance that
    svcca keeps. The layers are read block by block: memory does not depend on the number of rows.

    Raises UsageError, in one sentence, for too few rows, missing units, stores that are not comparable.
    """
    options = options or Options()
    options.check()
    say = said_once(say)
    usual = target.tier if isinstance(target, LabelTarget) else USUAL_UNIT[type(target)]
    unit = unit_of(store, unit, usual, only=not isinstance(target, LayerTarget))
    if isinstance(target, EmbeddingTarget) and unit != usual:
        raise UsageError(f"{target.name} belongs to {usual} rows: leave out --unit {unit}")
    asked = layers_of(store, unit, layers)
    if isinstance(target, LayerTarget):
        asked = _with_a_partner(store, target, unit, asked, say)
    estimates: dict[tuple[str, str], list[protocols.Estimate]] = {}
    n_rows: dict[str, int] = {}
    chances: dict[str, str] = {}
    work = []
    for sample in range(options.samples):
        problems = Problems(store, target, unit, options, options.seed + sample, say)
        for layer in asked:
            problem = problems.of(layer)
            n_rows[layer], chances[layer] = len(problem.x), problem.chance
            work.append((problem, options.seed + sample))

    def compute(problem: Problem, seed: int) -> dict[str, protocols.Estimate]:
        try:
            return _score(problem, options, seed)
        except UsageError as error:
            raise UsageError(f"{store.path}, layer {problem.x.layer}: {error}") from error

    for (problem, _), scores in zip(work, one_by_one(compute, work, progress), strict=True):
        for variant, estimate in scores.items():
            estimates.setdefault((problem.x.layer, variant), []).append(estimate)
    out = []
    for (layer, variant), parts in estimates.items():
        estimate = protocols.pooled(parts)
        out.append(
            result(
                store, unit, layer, analysis="cca", target=target.name,
                variant=_variant(variant, options, chances[layer]),
                value=estimate.value, ci_low=estimate.low, ci_high=estimate.high, chance=estimate.chance,
                n=n_rows[layer], seed=options.seed, settings=_settings(estimate),
            )
        )  # fmt: skip
    return out


def utterances_drawn(store: FeatureStore, unit: str, options: Options) -> np.ndarray:
    """Codes of the utterances that ``cca_rows`` will use of a unit without labels, over all samples."""
    sampling = row_rules.PUBLISHED[unit] if options.sampling is None else options.sampling
    unit = unit_of(store, unit, unit)
    tables = {store.table_of(unit, layer): layer for layer in store.layers_of(unit)}
    codes = [np.zeros(0, np.int64)]
    for layer in tables.values():
        rows = row_rules.select(store, unit, layer, options.where)
        for sample in range(options.samples):
            codes.append(row_rules.draw(rows, sampling, options.seed + sample).table["utterance"])
    return np.unique(np.concatenate(codes))


def _with_a_partner(store: FeatureStore, target: LayerTarget, unit: str, asked: Sequence[str], say: Say) -> list[str]:
    """The layers that have another layer to be compared with."""
    if not target.derived:
        check_comparable(store, target.store)
        check_pooling(store, target.store, unit, say)
    there = target.store.layers_of(unit_of(target.store, unit, unit))
    if target.layer is not None and target.layer not in there:
        raise UsageError(
            f"{target.store.path} has no layer '{target.layer}' at unit {unit} (it has {', '.join(there)})"
        )
    same = target.store.path.resolve() == store.path.resolve()
    if same and target.layer is None:
        raise UsageError(f"{store.path} is compared with itself: type --with LAYER, e.g. --with {there[0]}")
    out = [
        layer for layer in asked
        if (target.layer is not None and not (same and layer == target.layer)) or (target.layer is None and layer in there)
    ]  # fmt: skip
    if not out:
        raise UsageError(
            f"no asked layer of {store.path} has a partner in {target.name}: name one with --with STORE:LAYER"
        )
    if target.layer is not None and target.layer in asked and target.layer not in out:
        say(f"{target.layer} is left out: it is what the others are compared with")
    return out


def _score(problem: Problem, options: Options, seed: int) -> dict[str, protocols.Estimate]:
    moments = FoldMoments(problem.folds, options.n_folds, options.device)
    parts, control = moments.of(problem.x.blocks(), problem.y.blocks(), problem.control.blocks())
    variants, share, published = options.variants, options.share, options.published
    if options.protocol == "in-sample":
        return protocols.in_sample(parts, control, variants, options.grid[0], share, published)
    return protocols.held_out(parts, control, variants, options.grid, options.n_trials, seed, share, published)


def _settings(estimate: protocols.Estimate) -> str:
    """The canonical directions, a list where trials differ, and the eps of each trial, where it was chosen."""
    counts = estimate.directions
    found: dict = {"directions": counts[0] if len(set(counts)) == 1 else list(counts)}
    if estimate.eps:
        found["eps"] = estimate.eps
    return json.dumps(found)


def _variant(variant: str, options: Options, chance: str) -> str:
    grid = "/".join(f"{eps:g}".replace("e-0", "e-") for eps in options.grid)
    columns = "columns as they are" if options.published else "" if variant == "svcca" else "standardised columns"
    name = protocols.NAMES[variant] + (f" ({options.share:g} of the variance)" if variant == "svcca" else "")
    if options.protocol == "in-sample":
        how = joined([f"in-sample, eps {grid}", columns, f"interval over {options.n_folds} {options.folds} groups"])
    else:
        how = joined(
            [
                f"held-out, {options.n_folds} {options.folds} folds",
                f"{options.n_trials} trials",
                f"eps from {grid}",
                columns,
            ]
        )
    draws = f"{options.samples} samples" if options.samples > 1 else ""
    drawn, where = sampling_of(options.sampling), conditions_of(options.where)
    return joined([name, how, draws, drawn, where, f"chance: {chance}"])
