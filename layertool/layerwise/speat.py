"""SpEAT of stores: groups of utterances from their metadata, layers alone and put together, a family of tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from layertool.analysis import layer_sets, speat
from layertool.errors import FeatureError, UsageError
from layertool.layers import summary
from layertool.layerwise import rows as row_rules
from layertool.layerwise.rows import Condition, Rows
from layertool.layerwise.stores import Progress, Say, conditions_of, joined, result, said_once, silent, unit_of
from layertool.layerwise.views import LayerView
from layertool.result_rows import PARAMETERS, Result
from layertool.spelling import nfc
from layertool.store import FeatureStore

RESAMPLED = ("targets", "all", "none")
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
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {what}: a list of utterances is a text file with one id on each line")
    try:
        lines = [nfc(line.strip()) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: a list of utterances has one id on each line") from error
    return tuple(dict.fromkeys(line for line in lines if line))


@dataclass(frozen=True)
class Options:
    """How SpEAT is computed; see ``speat_rows``."""

    aggregate: Sequence[str] = ("mean", "each")
    alternative: str = "greater"
    n_permutations: int = N_PERMUTATIONS
    resample: str = "targets"
    n_resamples: int = speat.N_RESAMPLES
    strata: str | None = None
    pairs: str | None = None
    where: Sequence[Condition] = ()
    seed: int = 0

    def check(self) -> None:
        """Raise UsageError for options that no data could satisfy."""
        for how in self.aggregate:
            layer_sets.check(how)
        if self.alternative not in speat.ALTERNATIVES:
            raise UsageError(f"'{self.alternative}' is no alternative: choose {', '.join(speat.ALTERNATIVES)}")
        if self.resample not in RESAMPLED:
            raise UsageError(f"'{self.resample}' cannot be resampled: choose {', '.join(RESAMPLED)}")


@dataclass(frozen=True)
class _Outcome:
    """What the tests of one store and one pair of groups gave for one aggregation or layer."""

    store: FeatureStore
    target: str
    how: str
    layer: str
    layer_index: int
    d: float
    interval: speat.Interval | None
    p: float
    exact: bool
    n_permutations: int
    n: int


def speat_rows(
    stores: Sequence[FeatureStore],
    targets: Sequence[Groups],
    attributes: Sequence[Groups],
    unit: str | None = None,
    layers: str = "all",
    options: Options | None = None,
    say: Say = silent,
    progress: Progress | None = None,
    with_sizes: bool = False,
) -> list[Result]:
    """SpEAT of every store, pair of targets and pair of attributes: d, p and p corrected for many tests.

    ``targets``: X and Y; ``attributes``: A (pleasant) and B. ``layers``: "all" means T0 to TL (or the only layer).
    ``options.aggregate``: see ``layer_sets``; ``each`` gives every layer a test of its own. Tests with one
    aggregation are one family, for Bonferroni and for Benjamini and Hochberg. d > 0: X is nearer to A.
    ``with_sizes``: rows that say how many parameters each model has, too.

    Raises UsageError, in one sentence, for groups that are empty, too small or overlap, and stores that lack
    layers or the unit; FeatureError for embeddings that have no direction.
    """
    options = options or Options()
    options.check()
    say = said_once(say)
    # a test that is asked twice would make the family larger than it is
    once: dict[Path, FeatureStore] = {}
    for store in stores:
        once.setdefault(store.path.resolve(), store)
    stores = list(once.values())
    targets, attributes = list(dict.fromkeys(targets)), list(dict.fromkeys(attributes))
    names = [str(groups) for groups in (*targets, *attributes)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two different pairs of groups are called '{name}': give one of them another NAME")
    work = [(store, x_y, a_b) for store in stores for x_y in targets for a_b in attributes]
    found: list[_Outcome] = []
    for done, (store, x_y, a_b) in enumerate(work):
        if progress:
            progress(done, len(work))
        try:
            found += _tests(store, x_y, a_b, unit_of(store, unit, "utterance"), layers, options, say)
        except FeatureError as error:
            raise FeatureError(f"{store.path}, {x_y} with {a_b}: {error}") from error
    if progress:
        progress(1, 1)
    return [
        *_rows(found, unit or "utterance", options),
        *(size_rows(stores, unit or "utterance") if with_sizes else []),
    ]


def size_rows(stores: Sequence[FeatureStore], unit: str) -> list[Result]:
    """How many parameters each store's model has; stores of acoustic features have none, older ones do not say."""
    out = []
    for store in stores:
        n_nonzero = (store.about.get("parameters") or {}).get("nonzero")
        if n_nonzero is not None:
            size = {"analysis": "speat", "variant": PARAMETERS, "target": "model", "value": float(n_nonzero)}
            out.append(result(store, unit, "model", len(store.layers), **size))
    return out


def _tests(
    store: FeatureStore, x_y: Groups, a_b: Groups, unit: str, layers: str, options: Options, say: Say
) -> list[_Outcome]:
    _refuse_noise(store, unit)
    names = layer_sets.default_layers(store, unit, layers)
    if len({store.table_of(unit, layer) for layer in names}) > 1:
        raise UsageError(
            f"{summary(names)} of {store.path} have frames of different rates, which are different rows: choose layers of "
            "one rate with --layers, or take --unit utterance"
        )
    members = [rows for groups in (x_y, a_b) for rows in _members(store, unit, names[0], groups, options.where, say)]
    _check_members(store, members, x_y, a_b)
    if options.pairs is not None:
        try:
            members[:2] = _in_pairs(store, unit, members[0], members[1], options.pairs)
        except UsageError as error:
            raise UsageError(f"{x_y} are no pairs: {error}") from error
    if "speaker" in store.utterances:
        speakers = store.utterances["speaker"].iloc[np.concatenate([rows.table["utterance"] for rows in members[:2]])]
        if n_again := int(speakers.dropna().duplicated().sum()):
            say(
                f"{store.path}: {len(speakers)} targets of {x_y} are of {len(speakers) - n_again} speakers: interval and p take each "
                "for another speaker's and are too good; choose one of each speaker with --where or a list of ids"
            )
    sizes = [len(rows) for rows in members]
    index = np.concatenate([rows.index for rows in members])
    held = {
        layer: LayerView(store, unit, layer, index, as_directions=True).read().astype(np.float64) for layer in names
    }
    sets = [(how, *made) for how in options.aggregate for made in layer_sets.aggregate(held, how, store, say)]
    n_x, n = sizes[0], sizes[0] + sizes[1]
    parts = [(rows[:n], rows[n : n + sizes[2]], rows[n + sizes[2] :]) for _, _, _, rows in sets]
    s = np.stack([speat.associations(*part) for part in parts])
    d = speat.effect_sizes(s, n_x, [f"layer {label}: " for _, label, _, _ in sets])
    p, exact, n_permutations = speat.permutation_p(s, n_x, options.n_permutations, options.alternative, options.seed)
    strata = None
    if options.strata is not None:
        strata = np.concatenate([row_rules.filled(store, unit, rows, options.strata) for rows in members[:2]])
    intervals: list[speat.Interval] | list[None] = [None] * len(sets)
    how_drawn = (n_x, options.n_resamples, options.seed, strata, options.pairs is not None)
    if options.resample == "targets":
        intervals = speat.bootstrap(s, *how_drawn)
    elif options.resample == "all":
        w, a, b = zip(*parts, strict=True)
        intervals = speat.bootstrap_all(w, a, b, *how_drawn)
    return [
        _Outcome(
            store, f"{x_y}, {a_b}", how, label, place, float(d[k]), intervals[k], float(p[k]), exact, n_permutations, n
        )
        for k, (how, label, place, _) in enumerate(sets)
    ]


def _refuse_noise(store: FeatureStore, unit: str) -> None:
    if (
        store.configuration["model"].get("cmvn")
        and store.configuration["units"][unit] == "mean"
        and unit == "utterance"
    ):
        raise UsageError(
            f"{store.path} holds features whose mean and variance were normalised in every utterance: their mean over time "
            "is 0 up to rounding, and d would be that of numerical noise; extract them without --cmvn"
        )


def _members(
    store: FeatureStore, unit: str, layer: str, groups: Groups, where: Sequence[Condition], say: Say
) -> list[Rows]:
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
            say(f"{store.path} lacks {len(failed)} of the list '{name}', which could not be extracted ({failed[0]})")
        there = {*known, *failed}
        missing = [one for one in ids if one not in there]
        if missing:
            raise UsageError(
                f"{store.path} has no utterance '{missing[0]}' of the list '{name}' ({len(missing)} such ids): leave them out"
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
    return [replace(rows, index=rows.index[order], table=rows.table[order])
            for rows, order in ((x, np.argsort(names[0])), (y, np.argsort(names[1])))]  # fmt: skip


def _rows(found: Sequence[_Outcome], unit: str, options: Options) -> list[Result]:
    out = []
    for how in dict.fromkeys(one.how for one in found):
        family = [one for one in found if one.how == how]
        bonferroni, fdr = speat.corrected([one.p for one in family])
        for one, strict, mild in zip(family, bonferroni, fdr, strict=True):
            pooling = one.store.configuration["units"][unit]
            context = joined(
                [layer_sets.describe(how, one.layer), f"{pooling} over time", conditions_of(options.where)]
            )
            count = (
                f"exact over {one.n_permutations} relabellings" if one.exact else f"{one.n_permutations} relabellings"
            )
            test = f"{speat.ALTERNATIVES[options.alternative]}, {count}"
            n_family = f"{len(family)} test{'s together' if len(family) > 1 else ''}"
            common = {"analysis": "speat", "target": one.target, "n": one.n, "seed": options.seed}
            made = {
                f"SpEAT d, {context}, {_interval_name(options)}": (one.d, one.interval, 0.0),
                f"p, {context}, {test}": (one.p, None, None),
                f"p (Bonferroni), {context}, {test}, {n_family}": (float(strict), None, None),
                f"p (Benjamini-Hochberg), {context}, {test}, {n_family}": (float(mild), None, None),
            }
            for variant, (value, interval, chance) in made.items():
                ends = {"ci_low": interval.low, "ci_high": interval.high} if interval else {}
                row = {"variant": variant, "value": value, "chance": chance, **ends, **common}
                out.append(result(one.store, unit, one.layer, one.layer_index, **row))
    return out


def _interval_name(options: Options) -> str:
    if options.resample == "none":
        return "no interval"
    what = "targets" if options.resample == "targets" else "targets and attributes"
    pairs = f" in pairs of {options.pairs}" if options.pairs else ""
    strata = f" within {options.strata}" if options.strata else ""
    return f"bootstrap of {what}{pairs}{strata}"
