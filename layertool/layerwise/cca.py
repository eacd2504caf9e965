"""CCA of every layer of a store with a target: acoustic frames, another layer, labels, word embeddings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from layertool import columns
from layertool.analysis import embeddings, protocols
from layertool.analysis.moments import fold_moments
from layertool.declared import listed, option
from layertool.errors import UsageError, tell
from layertool.layerwise import rows as row_rules
from layertool.layerwise.analysis import Analysis, Drawn, Metric, Score, naming, unit_option
from layertool.layerwise.engine import Watch, place_of
from layertool.layerwise.folds import PERMUTED, TARGET_TURNED, TURNED, deal
from layertool.layerwise.rows import TIERS, Rows
from layertool.layerwise.stores import check_comparable, check_pooling, layers_of, unit_of
from layertool.layerwise.views import LayerView, TableView, View, pair, turned
from layertool.result_rows import Result
from layertool.store import FeatureStore

# What ``mel`` means here: 80 filters without deltas, on windows that are not centre-padded (spec layerwise.md 3.5).
FRAME_TARGETS = {"mel": "mel:pasad", "fbank": "fbank:static"}


@dataclass(frozen=True)
class LayerTarget:
    """A layer of a store (``layer`` None: the one of the same name). ``derived``: made from the other store's audio."""

    store: FeatureStore
    layer: str | None
    name: str
    derived: bool = False
    unit = "frame"


@dataclass(frozen=True)
class LabelTarget:
    """One-hot labels of a tier, ``phone`` or ``word``, or the vector of each word in ``vectors``, a file of them."""

    unit: str
    vectors: Path | None = None

    @property
    def name(self) -> str:
        return f"embedding:{self.vectors.name}" if self.vectors else self.unit


@dataclass(frozen=True)
class AcousticTarget:
    """Acoustic features, a preset, which are computed of the utterances that are drawn."""

    name: str
    unit = "frame"


Target = LayerTarget | LabelTarget


def target_of(text: str | FeatureStore | Target, store: FeatureStore) -> Target | AcousticTarget:
    """What a text or an open store names to correlate a store with. Raises UsageError for what is nothing."""
    from layertool.models import acoustic

    if isinstance(text, FeatureStore):
        return LayerTarget(text, None, text.path.resolve().name)
    if not isinstance(text, str):
        return text
    if text in TIERS:
        return LabelTarget(text)
    if text.startswith("embedding:"):
        if text == "embedding:":
            raise UsageError("--with embedding: names no file: type e.g. --with embedding:glove.txt")
        return LabelTarget("word", Path(text.removeprefix("embedding:")))
    if text.split(":")[0] in {name.split(":")[0] for name in acoustic.PRESETS}:
        return AcousticTarget(acoustic.preset(FRAME_TARGETS.get(text, text)).name)
    if text in store.layers:
        return LayerTarget(store, text, text)
    path, _, layer = text.rpartition(":")
    for folder, name in ((text, ""), (path, layer)):
        if folder and (Path(folder) / "store.json").exists():
            other = FeatureStore(folder)
            return LayerTarget(other, name or None, other.path.resolve().name + (f":{name}" if name else ""))
    if text in store.utterances:
        raise UsageError(
            f"{text} is a column, with which cca does not correlate: ask 'layertool mi {store.path} --labels "
            f"{text}' or "
            f"'layertool probe neighbours {store.path} --labels {text}'"
        )
    raise UsageError(
        f"'{text}' is nothing to correlate {store.path} with: choose mel, fbank or another acoustic feature, a layer "
        f"of it ({store.layers[0]} to {store.layers[-1]}), phone, word, embedding:FILE, or another store"
    )


@dataclass(frozen=True)
class Problem:
    """What one layer is scored on: rows of the layer, of the target, of the control, and the fold of each."""

    x: LayerView
    y: View
    control: View
    folds: np.ndarray
    chance: str

    @property
    def layer(self) -> str:
        return self.x.layer


def _eps(given: Any) -> str | tuple[float, ...]:
    parts = list(listed(given))
    if parts == ["published"]:
        return "published"
    try:
        eps = tuple(map(float, parts))
    except (TypeError, ValueError):
        asked = ",".join(map(str, parts))
        raise UsageError(f"--eps takes 'published' or numbers, e.g. --eps 1e-8,1e-6, not '{asked}'") from None
    if not eps or not all(0 < one < np.inf for one in eps):
        raise UsageError("eps has to be positive: type e.g. --eps 1e-8,1e-6")
    return eps


@dataclass(frozen=True, kw_only=True)
class CCA(Drawn, Analysis):
    """Correlate every layer with acoustic frames, another layer, labels, or embeddings (CCA).

    \b
    Examples:
      layertool cca w2v2 --with phone --plot phones.pdf
      layertool cca w2v2 --with mel --with C7 -o frames.csv
      layertool cca finetuned --with w2v2
      layertool cca w2v2 --with embedding:glove.txt --folds type-disjoint
    """

    target: tuple[str | FeatureStore | Target, ...] = option(
        help="What to correlate with: mel, fbank or another acoustic feature; a layer (C7, T0); phone, word; "
        "embedding:FILE; STORE2 or "
        "STORE2:LAYER. Repeatable.",
        flags=("--with",),
        metavar="TARGET",
        parse=lambda given: tuple(dict.fromkeys(given if isinstance(given, (list, tuple)) else [given])),
        decides=False,
    )
    protocol: Literal["held-out", "in-sample"] = option(
        "held-out", "Rows to score: unseen folds, or the rows of the fit (as the 2021 paper)."
    )
    variant: tuple[Literal["pwcca", "pwcca-x", "pwcca-y", "mean", "mean-square", "svcca", "legacy"], ...] = option(
        ("pwcca",),
        "Summaries of the canonical correlations: pwcca, pwcca-x, pwcca-y, mean, mean-square, svcca, legacy.",
        metavar="NAMES",
        decides=False,
    )
    share: float = option(0.99, "Share of the variance that svcca keeps.", low=0, high=1)
    folds: str = option(
        "utterance-disjoint",
        "What no two folds share: utterance-disjoint, random, type-disjoint (no word type in both parts), or "
        "COLUMN-disjoint.",
        metavar="FOLDS",
    )
    n_folds: int = option(10, "How many folds; one chooses eps, one is scored.")
    trials: int = option(3, "How often eps is chosen and scored, on other folds each time.", low=1)
    eps: tuple[float, ...] | str | None = option(
        None,
        "Regularisation of standardised columns to choose from; 'published': their code, whose scores follow the "
        "scales of neurons.",
        metavar="LIST",
        usual="1e-6,1e-4,1e-2,1; in-sample 1e-10",
        parse=_eps,
    )
    draws: int = option(1, "How often rows and folds are drawn; the mean is over all trials.", low=1)
    min_coverage: float = option(0.5, "Share of rows whose word must have an embedding.", low=0, high=1)
    sample: Literal["published", "all"] = option(
        "published",
        "Rows to draw: published, 500 utterances of frames, 200 rows a phone, 15 of the 500 most frequent words; "
        "or all.",
    )
    device: str = option("auto", "Where products are computed: auto, cpu or cuda:N.", decides=False)
    unit: str | None = unit_option()

    name = command = "cca"
    metrics = (
        Metric("pwcca", "PWCCA, mean of both directions", is_share=True),
        Metric("pwcca-x", "PWCCA, weights of the layer", is_share=True),
        Metric("pwcca-y", "PWCCA, weights of the target", is_share=True),
        Metric("mean cca", "mean CCA", is_share=True),
        Metric("mean squared cca", "mean squared CCA", is_share=True),
        Metric("svcca", "SVCCA", is_share=True),
        Metric("legacy pwcca", "PWCCA as in the published code", is_share=True),
    )
    cites = ("pasad2021", "raghu2017", "morcos2018")
    at_once = 1  # products of matrices take all cores

    def check(self) -> None:
        if not self.share:
            raise UsageError("the share of variance lies between 0 and 1, not at 0: type e.g. --share 0.99")
        if self.protocol == "in-sample" and len(self.grid) > 1:
            raise UsageError("in-sample scores have no development folds to choose eps on: give one --eps")
        if self.n_folds < 3:
            raise UsageError(
                f"{self.n_folds} folds are too few for training, development and test: type --n-folds 3 or more"
            )
        if self.protocol == "held-out":
            protocols.trials(self.n_folds, self.trials, self.seed)

    @property
    def published(self) -> bool:
        """Whether columns keep their scales and each eps deletes dimensions, as in the published code."""
        return self.eps == "published"

    @property
    def grid(self) -> Sequence[float]:
        """The values of eps to choose from."""
        if isinstance(self.eps, tuple):
            return self.eps
        if self.protocol == "in-sample":
            return (protocols.IN_SAMPLE_EPS,)
        return protocols.PUBLISHED_EPS_GRID if self.published else protocols.EPS_GRID

    def settings(self) -> dict[str, Any]:
        held_out = {} if self.protocol == "held-out" else {"trials": None}
        columns = "as they are" if self.published else "standardised"
        return super().settings() | {"eps": list(self.grid), "columns": columns} | held_out

    def of_stores(self, stores: Sequence[FeatureStore], watch: Watch) -> list[Result]:
        named = [(store, target_of(text, store)) for store in stores for text in self.target]  # all before the work
        for store, target in named:
            self._taken(store, target)
        rows = []
        for store, target in named:
            with self._made(target, store, watch) as made:
                rows += self._with(store, made, watch)
        return rows

    @contextmanager
    def _made(self, target: Target | AcousticTarget, store: FeatureStore, watch: Watch) -> Iterator[Target]:
        """Acoustic frames of the utterances that will be drawn, in a store that is gone afterwards; other targets as
        they are."""
        if not isinstance(target, AcousticTarget):
            yield target
            return
        from layertool.corpora.corpus import Corpus
        from layertool.corpora.segments import no_segments
        from layertool.extractors.run import extract

        if self.unit not in (None, "frame"):
            raise UsageError(
                f"{target.name} is compared frame by frame: leave out --unit {self.unit}, or extract "
                f"{target.name} and give its store "
                "to --with"
            )
        utterances = store.utterances.iloc[self._utterances_drawn(store)].reset_index(drop=True)
        with tempfile.TemporaryDirectory(prefix="layertool-") as folder:
            made = extract(
                target.name,
                Corpus(utterances, no_segments(), store.about["corpus"]["name"]),
                Path(folder) / "store",
                units=("frame",),
                channel=store.configuration["channel"],
            )
            yield LayerTarget(made, made.layers[0], target.name, derived=True)

    def _utterances_drawn(self, store: FeatureStore) -> np.ndarray:
        """Codes of the utterances whose frames are drawn, over all draws."""
        unit = unit_of(store, "frame", "frame")
        tables = {store.table_of(unit, layer): layer for layer in store.layers_of(unit)}
        codes = [np.zeros(0, np.int64)]
        for layer in tables.values():
            rows = row_rules.select(store, unit, layer, self.where)
            for sample in range(self.draws):
                codes.append(row_rules.draw(rows, self.sampling_of(unit), self.seed + sample).table["utterance"])
        return np.unique(np.concatenate(codes))

    def _taken(self, store: FeatureStore, target: Target | AcousticTarget) -> tuple[str, list[str]]:
        """The unit and the layers of a store that are correlated with a target."""
        of_labels = isinstance(target, LabelTarget)
        unit = unit_of(store, self.unit, target.unit, only=of_labels)
        if isinstance(target, LabelTarget) and target.vectors and unit != target.unit:
            raise UsageError(f"{target.name} belongs to {target.unit} rows: leave out --unit {unit}")
        return unit, layers_of(store, unit, self.layers)

    def _with(self, store: FeatureStore, target: Target, watch: Watch) -> list[Result]:
        """Rows of one store and target. The layers are read block by block: memory does not depend on the number of
        rows."""
        unit, asked = self._taken(store, target)
        if isinstance(target, LayerTarget):
            asked = _with_a_partner(store, target, unit, asked)
        pieces = []
        for sample in range(self.draws):
            problems = Problems(self, store, target, unit, self.seed + sample)
            pieces += [(problems.of(layer), self.seed + sample) for layer in asked]
        estimates: dict[tuple[str, str], list[protocols.Estimate]] = {}
        for (problem, _), scores in zip(pieces, watch.each(naming(store, self.compute), pieces), strict=True):
            for variant, estimate in scores.items():
                estimates.setdefault((problem.layer, variant), []).append(estimate)
        last = {problem.layer: problem for problem, _ in pieces}
        own = {} if isinstance(target, LabelTarget) and target.vectors else {"min_coverage": None}
        out = []
        for (layer, variant), parts in estimates.items():
            one = protocols.pooled(parts)
            # the canonical directions, a list where trials differ, and the eps of each trial, where it was chosen
            counts = one.directions
            chosen = {"directions": counts[0] if len(set(counts)) == 1 else list(counts)}
            score = Score(
                protocols.NAMES[variant],
                one.value,
                one.low,
                one.high,
                one.chance,
                len(last[layer].x),
                target.name,
                settings={"share": self.share if variant == "svcca" else None, "chance": last[layer].chance} | own,
                chosen=chosen | ({"eps": one.eps} if one.eps else {}),
            )
            out.append(self.row(store, unit, layer, score, {}))
        return out

    def compute(self, problem: Problem, seed: int) -> dict[str, protocols.Estimate]:
        views = problem.x.blocks(), problem.y.blocks(), problem.control.blocks()
        parts, control = fold_moments(problem.folds, self.n_folds, *views, device=place_of(self.device))
        how = (self.share, self.published)
        if self.protocol == "in-sample":
            return protocols.in_sample(parts, control, self.variant, self.grid[0], *how)
        return protocols.held_out(parts, control, self.variant, self.grid, self.trials, seed, *how)


@dataclass
class Problems:
    """Makes the problem of each layer. Which rows are taken depends on the corpus and the seed, not on the model."""

    cca: CCA
    store: FeatureStore
    target: Target
    unit: str
    seed: int
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

    def _with_layer(self, layer: str, target: LayerTarget) -> Problem:
        other = target.layer or layer
        key = (self.store.table_of(self.unit, layer), target.store.table_of(self.unit, other))
        if key not in self._rows:
            x = self.cca.candidates(self.store, self.unit, layer)
            x = row_rules.draw(x, self.cca.sampling_of(self.unit), self.seed)
            y = _in_the_utterances_of(self.store, target.store, row_rules.select(target.store, self.unit, other))
            x, y = pair(x, y, self.unit, (str(self.store.path), target.name))
            for note in x.notes:
                tell(note)
            self._rows[key] = (x, y, self._deal(x, x, self.unit if self.unit in self.store.labels else None))
        x, y, dealt = self._rows[key]
        view = LayerView(target.store, self.unit, other, y.index)
        return Problem(
            LayerView(self.store, self.unit, layer, x.index),
            view,
            view.rolled(),
            dealt,
            TARGET_TURNED,
        )

    def _labelled(self, layer: str, target: LabelTarget) -> tuple:
        tier, types = target.unit, None
        rows = row_rules.labelled(self.store, self.unit, layer, tier, self.cca.where)
        rows = candidates = row_rules.with_labels(self.store, tier, rows, 1 if target.vectors else 2)
        names = np.array(self.store.labels[tier], dtype=object)
        random = np.random.default_rng([self.seed, 1])
        if target.vectors is None:
            if self.cca.folds == "type-disjoint":
                raise UsageError(
                    "type-disjoint folds hide the very labels that one-hot targets consist of: take them with "
                    "--with embedding:FILE, or other --folds"
                )
            rows = row_rules.draw(rows, self.cca.sampling_of(tier), self.seed)
            kept, codes = np.unique(rows.table["label"], return_inverse=True)
            table = np.eye(len(kept))
            if self.unit == tier:
                control, chance = TableView(random.permutation(codes), table), PERMUTED
            else:  # frames of one segment have one label and are alike: what is independent keeps its runs, too
                control, chance = TableView(turned(codes), table), TURNED
        else:
            present = np.unique(rows.table["label"])
            found = embeddings.read(target.vectors, list(names[present]))
            vector_of = np.full(len(names), -1)
            vector_of[present] = found.index
            rows = row_rules.draw(rows, self.cca.sampling_of("attributes" if found.columns else "word"), self.seed)
            rows = self._covered(rows, vector_of, names, target)
            # "The" and "the" have one vector, so they are one type
            codes = types = vector_of[rows.table["label"]]
            table = found.vectors
            control = TableView(codes, random.standard_normal(table.shape))
            chance = "a random vector for each word"
        for note in rows.notes:
            tell(note)
        return rows, codes, table, self._deal(rows, candidates, tier, types), control, chance

    def _covered(self, rows: Rows, vector_of: np.ndarray, names: np.ndarray, target: LabelTarget) -> Rows:
        """The rows whose word has an embedding; UsageError when these are too few."""
        has = vector_of[rows.table["label"]] >= 0
        words = np.unique(rows.table["label"])
        missing = words[vector_of[words] < 0]
        coverage = (
            f"{len(words) - len(missing)} of {len(words)} words and {has.mean():.1%} of {len(rows)} rows have an "
            f"embedding in {target.name}" + (f" (not: {columns.shown(names[missing], 5)})" if len(missing) else "")
        )
        if has.mean() < self.cca.min_coverage or not has.any():
            raise UsageError(
                f"only {coverage}: check its language and spelling, or accept less with --min-coverage "
                f"{np.floor(has.mean() * 100) / 100:g}"
            )
        return rows.of(has, coverage)

    def _deal(self, rows: Rows, candidates: Rows, tier: str | None, types: np.ndarray | None = None) -> np.ndarray:
        cca = self.cca
        return deal(self.store, self.unit, tier, rows, candidates, cca.folds, cca.n_folds, self.seed, types)


def _in_the_utterances_of(store: FeatureStore, other: FeatureStore, rows: Rows) -> Rows:
    """Rows of ``other`` with the utterance codes of ``store``; rows of utterances that it lacks are left out."""
    place = {utterance: code for code, utterance in enumerate(store.utterances["utterance"])}
    code_of = np.array([place.get(utterance, -1) for utterance in other.utterances["utterance"]])
    table = rows.table.copy()
    table["utterance"] = code_of[rows.table["utterance"]]
    return replace(rows, table=table).of(table["utterance"] >= 0)


def _with_a_partner(store: FeatureStore, target: LayerTarget, unit: str, asked: Sequence[str]) -> list[str]:
    """The layers that have another layer to be compared with."""
    if not target.derived:
        check_comparable(store, target.store)
        check_pooling(store, target.store, unit)
    there = target.store.layers_of(unit_of(target.store, unit, unit))
    if target.layer is not None and target.layer not in there:
        raise UsageError(
            f"{target.store.path} has no layer '{target.layer}' at unit {unit} (it has {', '.join(there)})"
        )
    same = target.store.path.resolve() == store.path.resolve()
    if same and target.layer is None:
        raise UsageError(f"{store.path} is compared with itself: type --with LAYER, e.g. --with {there[0]}")
    out = [
        layer
        for layer in asked
        if (target.layer is not None and not (same and layer == target.layer))
        or (target.layer is None and layer in there)
    ]
    if not out:
        raise UsageError(
            f"no asked layer of {store.path} has a partner in {target.name}: name one with --with STORE:LAYER"
        )
    if target.layer is not None and target.layer in asked and target.layer not in out:
        tell(f"{target.layer} is left out: it is what the others are compared with")
    return out
