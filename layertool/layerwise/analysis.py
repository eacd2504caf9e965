"""An analysis is declared once: a class whose fields are its options, with what it measures and how it is computed.

From the declaration come the Python function, the command and its help, threads and Ray, the rows, table, figure and
the sentence of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from layertool.conditions import Condition, conditions
from layertool.declared import Declared, option, options_of
from layertool.errors import FeatureError, RowError, UsageError, tell
from layertool.layerwise import DECLARED
from layertool.layerwise import stores as of_stores
from layertool.layerwise.engine import Progress, Watch, opened
from layertool.layerwise.rows import ALL, PUBLISHED, TIERS, Rows, Sampling, of_speech, select
from layertool.layerwise.views import LayerView
from layertool.result_rows import CHOSEN, Result, row
from layertool.store import FeatureStore

Stores = str | Path | FeatureStore | Sequence[str | Path | FeatureStore]


@dataclass(frozen=True)
class Metric:
    """What a number is. ``label``: of an axis; ``better``: "higher", "lower" or "" where neither is; ``is_share``: of 0
    to 1.

    ``drawn``: whether figures and short tables show it, unless it was asked for.
    """

    name: str
    label: str
    better: str = "higher"
    is_share: bool = False
    drawn: bool = True


@dataclass(frozen=True)
class Score:
    """One number of an analysis. ``chosen``: what was found for it alone; ``settings``: where they differ from the
    others'.

    ``layer``, ``layer_index``: of what is no layer of the store; ``baseline``: the name of what is compared with all
    layers.
    """

    metric: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    chance: float | None = None
    n: int | None = None
    target: str | None = None
    group: str | None = None
    item: str | None = None
    layer: str | None = None
    layer_index: int | None = None
    baseline: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """What all layers of one row table are scored on. Analyses add what they need; ``settings``: what was decided for
    it."""

    rows: Rows
    settings: Mapping[str, Any] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, kw_only=True)
class AnyAnalysis(Declared):
    """What all analyses share, of stores and of what else is heard.

    A subclass says ``name`` (of its rows), ``command`` (the words a person types), ``metrics``, ``cites``.
    """

    where: tuple[Condition, ...] = option(
        (),
        "Only rows with this value (or COLUMN!=VALUE) of a column of theirs or of their utterance. Repeatable: "
        "the same column again is an alternative, another column has to hold too.",
        metavar="COLUMN=VALUE",
        parse=conditions,
    )
    seed: int = option(0, "Seed of everything that is drawn.", low=0)

    name: ClassVar[str]
    command: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    cites: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ("STORE...",)
    # that it can give beside the rows: their names, and the help of --NAME FILE
    tables: ClassVar[Mapping[str, str]] = {}
    counted: ClassVar[str] = "layers"  # by the progress bar
    at_once: ClassVar[int | None] = None  # pieces, unless --workers says it; None: one a core
    in_threads: ClassVar[bool] = True  # whether pieces can be computed side by side in one process
    names: ClassVar[tuple[str, ...]] = ()  # of its rows besides ``name``

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "command"):
            for name in (cls.name, *cls.names):
                DECLARED.setdefault(name, cls)

    def settings(self) -> dict[str, Any]:
        """Everything that was asked and decides the numbers, defaults too."""
        return settings_of(self)

    def run(
        self,
        *inputs: Any,
        engine: str = "local",
        address: str | None = None,
        workers: int | None = None,
        progress: Progress | None = None,
        tables: dict[str, list] | None = None,
    ) -> list[Result]:
        """Result rows of the inputs of the command; ``tables`` is filled with those beside them: a dict for each line.

        Raises LayertoolError, in one sentence.
        """
        if workers is not None and engine == "local" and not self.in_threads:
            raise UsageError("--workers is for Ray: add --engine ray")
        compute = self.of(*inputs)  # what is wrong with them is said before an engine starts
        with opened(engine, address, workers):
            return compute(Watch(workers or self.at_once, progress, {} if tables is None else tables))

    def of(self, *inputs: Any) -> Callable[[Watch], list[Result]]:
        """What computes the rows of the inputs, which were looked at and opened."""
        raise NotImplementedError

    def result(self, score: Score, settings: Mapping[str, Any], **facts: Any) -> Result:
        """The result row of a score. ``settings``: beside those that were asked; ``facts``: the columns of what it is
        of."""
        all_settings = {**self.settings(), **settings, **score.settings}
        if score.chosen:
            all_settings[CHOSEN] = dict(score.chosen)
        return row(
            score.metric,
            all_settings,
            **facts,
            analysis=self.name,
            value=float(score.value),
            ci_low=score.ci_low,
            ci_high=score.ci_high,
            chance=score.chance,
            n=score.n,
            group=score.group,
            item=score.item,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Analysis(AnyAnalysis):
    """What all analyses of stores share.

    A subclass says ``prepare`` and ``score``, or ``pieces``, ``compute`` and ``conclude`` where a layer is not one
    piece of work.
    """

    layers: str = option("all", "Layers to analyse, e.g. T0-T12,C7.", metavar="LAYERS")

    @property
    def usual_unit(self) -> str:
        """The unit of rows, where nobody says it."""
        raise NotImplementedError

    @property
    def only_unit(self) -> bool:
        """Whether no other unit would do."""
        return True

    @property
    def compared_with(self) -> str:
        """What the layers are compared with: the target of rows."""
        return ""

    def of(self, stores: Stores) -> Callable[[Watch], list[Result]]:
        return partial(self.of_stores, of_stores.opened(stores))

    def of_stores(self, stores: Sequence[FeatureStore], watch: Watch) -> list[Result]:
        """Rows of each store; what is wrong with the last one is said before the work on the first."""
        for store in stores:
            self.layers_of(store)
        return of_stores.merged([one for store in stores for one in self.of_store(store, watch)])

    def of_store(self, store: FeatureStore, watch: Watch) -> list[Result]:
        """Rows of one store."""
        unit, layers = self.unit_of(store), self.layers_of(store)
        pieces = self.pieces(store, unit, layers)
        outcomes = watch.each(naming(store, self.compute), pieces)
        return [self.row(store, unit, *one) for one in self.conclude(store, unit, pieces, outcomes)]

    def unit_of(self, store: FeatureStore) -> str:
        """The unit of the rows that are taken."""
        return of_stores.unit_of(store, getattr(self, "unit", None), self.usual_unit, only=self.only_unit)

    def layers_of(self, store: FeatureStore) -> list[str]:
        """The layers that are taken, in network order."""
        return of_stores.layers_of(store, self.unit_of(store), self.layers)

    def pieces(self, store: FeatureStore, unit: str, layers: Sequence[str]) -> list[tuple]:
        """What ``compute`` is called with, a tuple each: here each layer, and the problem of its row table."""
        problems: dict[str, Any] = {}
        for layer in layers:  # frames of another rate are other rows
            table = store.table_of(unit, layer)
            if table not in problems:
                problems[table] = self.prepare(store, unit, layer)
                for note in problems[table].rows.notes:
                    tell(note)
        return [
            (LayerView(store, unit, layer, problem.rows.index), problem)
            for layer in layers
            for problem in (problems[store.table_of(unit, layer)],)
        ]

    def prepare(self, store: FeatureStore, unit: str, layer: str) -> Any:
        """The ``Problem`` of a layer, and of all others with its rows."""
        raise NotImplementedError

    def compute(self, *piece: Any) -> Any:
        """What one piece gives; runs beside others, or on another machine."""
        return list(self.score(*piece))

    def score(self, view: LayerView, problem: Any) -> Iterable[Score]:
        """The numbers of one layer."""
        raise NotImplementedError

    def conclude(
        self, store: FeatureStore, unit: str, pieces: Sequence[tuple], outcomes: Sequence[Any]
    ) -> Iterable[tuple[str, Score, Mapping[str, Any]]]:
        """(layer, score, settings of its problem) of every number, in the order of the rows."""
        for (view, problem), scores in zip(pieces, outcomes, strict=True):
            for score in scores:
                yield view.layer, score, problem.settings

    def row(self, store: FeatureStore, unit: str, layer: str, score: Score, settings: Mapping[str, Any]) -> Result:
        """The result row of a score."""
        own = {"model": score.baseline, "revision": None, "step": None} if score.baseline else {}
        if score.baseline:
            layer, index = of_stores.BASELINE, 0
        else:
            layer = score.layer or layer
            index = store.layers.index(layer) if score.layer_index is None else score.layer_index
        target = self.compared_with if score.target is None else score.target
        facts = of_stores.facts(store) | own
        return self.result(score, settings, **facts, unit=unit, layer=layer, layer_index=index, target=target)


def naming(store: FeatureStore, compute: Callable[..., Any]) -> Callable[..., Any]:
    """The same, whose errors name store and layer: the first of a piece is the view of its layer, or has one."""

    def named(*piece: Any) -> Any:
        try:
            return compute(*piece)
        except RowError:
            raise
        except (FeatureError, UsageError) as error:
            layer = getattr(piece[0], "layer", None)
            raise type(error)(f"{store.path}{f', layer {layer}' if layer else ''}: {error}") from error

    return named


def settings_of(declared: Declared) -> dict[str, Any]:
    """The options of a declaration that decide numbers, as plain values for the rows."""
    return {
        one.name: plain(getattr(declared, one.name))
        for one in options_of(type(declared))
        if one.about["decides"] and one.name not in ("layers", "unit", "seed")
    }


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, FeatureStore):
        return value.about["corpus"]["name"]
    if isinstance(value, Path):
        return value.name
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


def unit_option(usual: str = "that of what is asked") -> Any:
    """The option of analyses that can take rows of several units; ``usual``: as help says it."""
    return option(
        None,
        "Rows to take: frame, phone, word or utterance.",
        metavar="UNIT",
        usual=usual,
        decides=False,
    )


@dataclass(frozen=True, kw_only=True)
class OfLabels(Declared):
    """Analyses of labels: those of a tier stand at its rows, those of a column at utterances, if ``unit`` is silent."""

    labels: str = option(help="Labels to tell: phone, word, or a column such as speaker.", metavar="TIER|COLUMN")
    unit: str | None = unit_option()

    @property
    def usual_unit(self) -> str:
        return self.labels if self.only_unit else "utterance"

    @property
    def only_unit(self) -> bool:
        return self.labels in TIERS

    @property
    def compared_with(self) -> str:
        return self.labels


@dataclass(frozen=True, kw_only=True)
class Drawn(Declared):
    """Analyses of some of the rows: how many are drawn of all there are."""

    max_utterances: int | None = option(None, "Draw so many utterances instead.", low=1, metavar="N")
    per_label: int | None = option(None, "Draw up to so many rows of each label instead.", low=1, metavar="N")
    top_labels: int | None = option(None, "Take only so many of the most frequent labels instead.", low=2, metavar="N")

    @property
    def sampling(self) -> Sampling | None:
        """What is drawn; None: by the published rules of each unit."""
        asked = Sampling(self.max_utterances, self.top_labels, self.per_label)
        return None if asked == ALL and getattr(self, "sample", "all") == "published" else asked

    def sampling_of(self, kind: str) -> Sampling:
        """The same of a kind of rows, a unit or what labels stand for."""
        return PUBLISHED[kind] if self.sampling is None else self.sampling

    def candidates(self, store: FeatureStore, unit: str, layer: str) -> Rows:
        """The rows that are drawn from: of speech, where they have labels and some of them are drawn."""
        rows = select(store, unit, layer, self.where)  # type: ignore[attr-defined]
        return of_speech(store, unit, rows) if unit in store.labels and self.sampling != ALL else rows

    def settings(self) -> dict[str, Any]:
        found = super().settings()  # type: ignore[misc]
        for name in ("sample", "max_utterances", "per_label", "top_labels"):
            found.pop(name, None)
        return found | {"sampling": "published" if self.sampling is None else str(self.sampling)}
