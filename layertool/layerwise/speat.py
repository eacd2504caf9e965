"""SpEAT of stores: groups of utterances from their metadata, layers alone and put together, a family of tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from layertool.analysis import speat
from layertool.conditions import Condition
from layertool.declared import option
from layertool.errors import FeatureError, RowError, UsageError, tell
from layertool.files import text_lines
from layertool.layers import summary
from layertool.layerwise import rows as row_rules
from layertool.layerwise.analysis import Analysis, Metric, Score, unit_option
from layertool.layerwise.engine import Watch
from layertool.layerwise.layer_sets import Aggregation, LayerSet, default_layers, layer_sets
from layertool.layerwise.rows import Rows
from layertool.layerwise.views import LayerView
from layertool.result_rows import Result
from layertool.spelling import nfc
from layertool.store import FeatureStore

N_PERMUTATIONS = 100_000


@dataclass(frozen=True)
class Groups:
    """Two groups of rows: those with one and with another value of a column, or those of two lists of utterances."""

    name: str
    column: str | None
    values: tuple[str, str]
    ids: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    def __str__(self) -> str:
        return f"{self.name}={self.values[0]}:{self.values[1]}"


def parse_groups(text: str) -> Groups:
    """Groups from ``COLUMN=VALUE:VALUE``, or ``NAME=@FILE:@FILE`` with one utterance id on each line.

    Raises UsageError for anything else.
    """
    name, equals, values = text.partition("=")
    first, colon, second = values.partition(":")
    if not (equals and colon and name.strip() and first.strip() and second.strip()):
        raise UsageError(
            f"'{text}' names no two groups: type COLUMN=VALUE:VALUE, e.g. gender=female:male, or NAME=@FILE:@FILE"
        )
    name, pair = nfc(name.strip()), (first.strip(), second.strip())
    if not any(value.startswith("@") for value in pair):
        return Groups(name, name, (nfc(pair[0]), nfc(pair[1])))
    if pair[0].startswith("@") != pair[1].startswith("@"):
        raise UsageError(f"'{text}' has a file on one side only: type NAME=@FILE:@FILE")
    lists = (_ids(Path(pair[0][1:])), _ids(Path(pair[1][1:])))
    names = (Path(pair[0][1:]).stem, Path(pair[1][1:]).stem)
    return Groups(name, None, names if names[0] != names[1] else (pair[0][1:], pair[1][1:]), lists)


def _ids(path: Path) -> tuple[str, ...]:
    lines = text_lines(path, "a list of utterances is a text file with one id on each line")
    lines = [nfc(line.strip()) for line in lines]
    return tuple(dict.fromkeys(line for line in lines if line))


def groups_of(given: str | Groups | Sequence[str | Groups]) -> tuple[Groups, ...]:
    """Pairs of groups as somebody gives them: one or several texts, ready ones, or both; each once."""
    parts = [given] if isinstance(given, (str, Groups)) else given
    return tuple(dict.fromkeys(part if isinstance(part, Groups) else parse_groups(part) for part in parts))


@dataclass(frozen=True)
class Prepared:
    """One test of one store: rows of X, Y, A and B, what is made of its layers, the stratum (n,) of each target."""

    store: FeatureStore
    unit: str
    names: tuple[Groups, Groups]
    members: Sequence[Rows]
    sets: Sequence[LayerSet]
    strata: np.ndarray | None

    @property
    def target(self) -> str:
        return ", ".join(map(str, self.names))

    @property
    def n_x(self) -> int:
        return len(self.members[0])

    @property
    def n(self) -> int:
        """How many targets there are."""
        return self.n_x + len(self.members[1])

    def parts(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Embeddings of the targets, X first, of A and of B, for each set of layers."""
        index = np.concatenate([rows.index for rows in self.members])
        layers = dict.fromkeys(name for one in self.sets for name in one.layers)
        held = {
            name: LayerView(self.store, self.unit, name, index, as_directions=True).read().astype(np.float64)
            for name in layers
        }
        stacks = [one.together([held[name] for name in one.layers]) for one in self.sets]
        first_of_b = self.n + len(self.members[2])
        return [(rows[: self.n], rows[self.n : first_of_b], rows[first_of_b:]) for rows in stacks]


@dataclass(frozen=True)
class Outcome:
    """What a test gave for one set of layers."""

    d: float
    interval: speat.Interval | None
    p: float
    exact: bool
    n_permutations: int


@dataclass(frozen=True, kw_only=True)
class SpEAT(Analysis):
    """Social bias of every layer: is one group nearer to pleasant speech than another (SpEAT)?

    d > 0: X is nearer to A; 0.2 is small, 0.5 medium, 0.8 large. One store holds targets and attributes
    (layertool corpus join); several stores give one table.

    \b
    Examples:
      layertool speat w2v2 hubert mel --target gender=female:male \\
          --target age_group=young:old --attribute valence=positive:negative \\
          -o bias.csv --plot layers.pdf
      layertool speat 'checkpoint-*' --x step \\
          --target gender=female:male --attribute valence=positive:negative
      layertool speat 'pruned-*' --x parameters --reference base \\
          --target gender=female:male --attribute valence=positive:negative
    """

    target: tuple[Groups, ...] = option(
        help="Two groups of speakers, e.g. gender=female:male; or NAME=@FILE:@FILE, ids in text files. Repeatable.",
        metavar="COLUMN=X:Y",
        parse=groups_of,
        decides=False,
    )
    attribute: tuple[Groups, ...] = option(
        help="Pleasant and unpleasant speech, e.g. valence=positive:negative. Repeatable.",
        metavar="COLUMN=A:B",
        parse=groups_of,
        decides=False,
    )
    aggregate: tuple[Aggregation, ...] = option(
        ("mean", "each"),
        "What to make of the layers: mean, normalized-mean, max, min, last, concat, speat-compat, each.",
        metavar="NAMES",
        decides=False,
    )
    alternative: Literal["greater", "less", "two-sided"] = option(
        "greater", "What p is of: X nearer to A, nearer to B, or either.", decides=False
    )
    permutations: int = option(
        N_PERMUTATIONS,
        "Relabellings for p; all of them where there are fewer. The SpEAT paper drew 1000000.",
        low=1,
        decides=False,
    )
    resample: Literal["targets", "all", "none"] = option(
        "targets", "What the bootstrap intervals resample; all: attributes too.", decides=False
    )
    n_resamples: int = option(10_000, "How often the bootstrap resamples.", low=100, decides=False)
    strata: str | None = option(
        None, "Column within whose values the bootstrap resamples, e.g. sex.", metavar="COLUMN", decides=False
    )
    pairs: str | None = option(
        None,
        "Column that pairs an X with the Y of the same value, which are resampled together.",
        metavar="COLUMN",
        decides=False,
    )
    unit: str | None = unit_option("utterance")

    name = command = "speat"
    metrics = (
        Metric("d", "SpEAT d", better=""),
        Metric("p", "p", better="lower", is_share=True, drawn=False),
        Metric("p bonferroni", "p (Bonferroni)", better="lower", is_share=True, drawn=False),
        Metric("p benjamini-hochberg", "p (Benjamini-Hochberg)", better="lower", is_share=True, drawn=False),
    )
    cites = ("slaughter2023", "lin2024")
    counted = "tests"
    usual_unit = "utterance"
    only_unit = False
    at_once = 1  # all layers of a test are in memory

    def check(self) -> None:
        names = [str(groups) for groups in (*self.target, *self.attribute)]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two different pairs of groups are called '{name}': give one of them another NAME")

    def of_stores(self, stores: Sequence[FeatureStore], watch: Watch) -> list[Result]:
        """d, p, and p corrected for many tests, of every store, pair of targets and pair of attributes.

        Tests with one aggregation are one family, for Bonferroni and for Benjamini and Hochberg.
        """
        tests = [self._prepared(store, x_y, a_b) for store in stores for x_y in self.target for a_b in self.attribute]
        outcomes = watch.each(self.compute, [(test,) for test in tests], "a test")
        found = [
            (test, layers, outcome)
            for test, of_test in zip(tests, outcomes, strict=True)
            for layers, outcome in zip(test.sets, of_test, strict=True)
        ]
        rows = []
        for aggregation in self.aggregate:
            family = [one for one in found if one[1].aggregation == aggregation]
            for one, *corrected in zip(family, *speat.corrected([outcome.p for *_, outcome in family]), strict=True):
                rows += self._rows(*one, corrected, len(family))
        return rows

    def _prepared(self, store: FeatureStore, x_y: Groups, a_b: Groups) -> Prepared:
        """Everything that can be refused before the work."""
        unit = self.unit_of(store)
        _refuse_noise(store, unit)
        names = default_layers(store, unit, self.layers)
        if len({store.table_of(unit, layer) for layer in names}) > 1:
            raise UsageError(
                f"{summary(names)} of {store.path} have frames of different rates, which are different rows: "
                "choose layers of one rate with --layers, or take --unit utterance"
            )
        members = [rows for groups in (x_y, a_b) for rows in _members(store, unit, names[0], groups, self.where)]
        _check_members(store, members, x_y, a_b)
        if self.pairs is not None:
            try:
                members[:2] = _in_pairs(store, unit, members[0], members[1], self.pairs)
            except UsageError as error:
                raise UsageError(f"{x_y} are no pairs: {error}") from error
        _tell_of_speakers(store, members[:2], x_y)
        strata = None
        if self.strata is not None:
            strata = np.concatenate([row_rules.filled(store, unit, rows, self.strata) for rows in members[:2]])
        sets = [one for aggregation in self.aggregate for one in layer_sets(store, names, aggregation)]
        return Prepared(store, unit, (x_y, a_b), members, sets, strata)

    def compute(self, test: Prepared) -> list[Outcome]:
        """The outcome of each set of layers of a test."""
        try:
            return self._outcomes(test, test.parts())
        except RowError:
            raise
        except FeatureError as error:
            x_y, a_b = test.names
            raise FeatureError(f"{test.store.path}, {x_y} with {a_b}: {error}") from error

    def _outcomes(self, test: Prepared, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[Outcome]:
        s = np.stack([speat.associations(*part) for part in parts])
        d = speat.effect_sizes(s, test.n_x, [f"layer {one.name}: " for one in test.sets])
        p, exact, n_permutations = speat.permutation_p(s, test.n_x, self.permutations, self.alternative, self.seed)
        drawn = (test.n_x, self.n_resamples, self.seed, test.strata, self.pairs is not None)
        intervals: Sequence[speat.Interval | None] = [None] * len(parts)
        if self.resample == "targets":
            intervals = speat.bootstrap(s, *drawn)
        elif self.resample == "all":
            w, a, b = zip(*parts, strict=True)
            intervals = speat.bootstrap_all(w, a, b, *drawn)
        return [
            Outcome(float(one_d), interval, float(one_p), exact, n_permutations)
            for one_d, interval, one_p in zip(d, intervals, p, strict=True)
        ]

    def _rows(
        self, test: Prepared, layers: LayerSet, outcome: Outcome, corrected: Sequence[float], n_tests: int
    ) -> list[Result]:
        """d, p, and p corrected for a family of ``n_tests``, of one set of layers."""
        pooling = test.store.configuration["units"][test.unit]
        context = {"aggregate": layers.aggregation, "over": layers.over, "pooling": f"{pooling} over time"}
        relabelled = {
            "alternative": speat.ALTERNATIVES[self.alternative],
            "relabellings": outcome.n_permutations,
            "exact": outcome.exact,
        }
        low, high = (outcome.interval.low, outcome.interval.high) if outcome.interval else (None, None)
        scores = [Score("d", outcome.d, low, high, 0.0, settings=self._interval())]
        for metric, p in zip(self.metrics[1:], (outcome.p, *corrected), strict=True):
            family = {} if metric.name == "p" else {"tests": n_tests}
            scores.append(Score(metric.name, p, settings=relabelled | family))
        common: dict[str, Any] = {"target": test.target, "n": test.n, "layer_index": layers.index}
        return [self.row(test.store, test.unit, layers.name, replace(score, **common), context) for score in scores]

    def _interval(self) -> dict[str, Any]:
        if self.resample == "none":
            return {"interval": "none"}
        what = "targets" if self.resample == "targets" else "targets and attributes"
        pairs = f" in pairs of {self.pairs}" if self.pairs else ""
        strata = f" within {self.strata}" if self.strata else ""
        return {"interval": f"bootstrap of {what}{pairs}{strata}", "n_resamples": self.n_resamples}


def _tell_of_speakers(store: FeatureStore, members: Sequence[Rows], x_y: Groups) -> None:
    """The draws take items for independent, which recordings of one voice are not."""
    if "speaker" not in store.utterances:
        return
    speakers = store.utterances["speaker"].iloc[np.concatenate([rows.table["utterance"] for rows in members])]
    if n_again := int(speakers.dropna().duplicated().sum()):
        tell(
            f"{store.path}: {len(speakers)} targets of {x_y} are of {len(speakers) - n_again} speakers: interval and "
            "p take each for another speaker's and are too good; choose one of each speaker with --where or a list "
            "of ids"
        )


def _refuse_noise(store: FeatureStore, unit: str) -> None:
    if (
        store.configuration["model"].get("cmvn")
        and store.configuration["units"][unit] == "mean"
        and unit == "utterance"
    ):
        raise UsageError(
            f"{store.path} holds features whose mean and variance were normalised in every utterance: their mean over "
            "time is 0 up to rounding, and d would be that of numerical noise; extract them without --cmvn"
        )


def _members(store: FeatureStore, unit: str, layer: str, groups: Groups, where: Sequence[Condition]) -> list[Rows]:
    """The rows of both groups. UsageError for a value that no row has, naming those there are."""
    if groups.column is not None:
        return [
            row_rules.select(store, unit, layer, [*where, Condition(groups.column, (value,))])
            for value in groups.values
        ]
    rows = row_rules.select(store, unit, layer, where)
    known = store.utterances["utterance"].to_numpy()
    out = []
    for name, ids in zip(groups.values, groups.ids or ((), ()), strict=True):
        failed = [one["utterance"] for one in store.failures if one["utterance"] in ids]
        if failed:
            tell(f"{store.path} lacks {len(failed)} of the list '{name}', which could not be extracted ({failed[0]})")
        there = {*known, *failed}
        missing = [one for one in ids if one not in there]
        if missing:
            raise UsageError(
                f"{store.path} has no utterance '{missing[0]}' of the list '{name}' ({len(missing)} such ids): leave "
                "them out"
            )
        mine = rows.of(np.isin(known[rows.table["utterance"]], ids))
        if not len(mine):
            raise UsageError(f"{store.path}: no {unit} row is of the list '{name}'")
        out.append(mine)
    return out


def _check_members(store: FeatureStore, members: Sequence[Rows], x_y: Groups, a_b: Groups) -> None:
    names = [f"{groups.name}={value}" for groups in (x_y, a_b) for value in groups.values]
    for k, first in enumerate(members):
        for other, second in zip(names[k + 1 :], members[k + 1 :], strict=True):
            shared = np.intersect1d(first.index, second.index)
            if len(shared):
                row = first.table[np.isin(first.index, shared)][0]
                utterance = store.utterances["utterance"].iloc[int(row["utterance"])]
                raise UsageError(
                    f"{names[k]} and {other} overlap in {len(shared)} items (utterance '{utterance}'): "
                    "an item belongs to one group of a test"
                )
    for name, rows in zip(names[:2], members[:2], strict=True):
        if len(rows) < 2:
            raise UsageError(
                f"{store.path}: {name} has {len(rows)} item: an association test takes two or more of each group"
            )


def _in_pairs(store: FeatureStore, unit: str, x: Rows, y: Rows, column: str) -> list[Rows]:
    """Both groups in the order of their pairs. UsageError where they are none."""
    names = [row_rules.filled(store, unit, rows, column) for rows in (x, y)]
    for name in names:
        repeated, counts = np.unique(name, return_counts=True)
        if (counts > 1).any():
            raise UsageError(
                f"{column} '{repeated[counts > 1][0]}' stands more than once in one group: pairs are of one and one"
            )
    alone = np.setxor1d(names[0], names[1])
    if len(alone):
        raise UsageError(
            f"{column} '{alone[0]}' has nobody in the other group ({len(alone)} such): leave them out with --where"
        )
    return [rows.of(np.argsort(name)) for rows, name in zip((x, y), names, strict=True)]
