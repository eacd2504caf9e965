"""Which rows of a store an analysis uses: ``--where`` conditions and the published sampling rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from layertool import columns
from layertool.conditions import SHOWN, Condition, equal
from layertool.errors import UsageError
from layertool.geometry import samples_to_seconds, seconds_to_samples
from layertool.non_speech import is_speech
from layertool.spelling import nfc
from layertool.store import FeatureStore
from layertool.store.layout import NO_LABEL

_TIMES = ("start", "end")
_LONGEST = 10**9  # seconds
TIERS = ("phone", "word")  # other labels are columns


@dataclass(frozen=True)
class Sampling:
    """How many rows are drawn (spec layerwise.md 2.3); None: all.

    ``utterances``: this many, with all their rows. ``top_labels``: only the most frequent labels.
    ``per_label``: up to so many rows of each label, or a uniformly drawn number between two.
    """

    utterances: int | None = None
    top_labels: int | None = None
    per_label: int | tuple[int, int] | None = None

    def __str__(self) -> str:
        """Without commas, for the name of a variant."""
        many = self.per_label if isinstance(self.per_label, tuple) else (self.per_label, self.per_label)
        parts = [
            f"{self.utterances} utterances" if self.utterances is not None else "",
            f"the {self.top_labels} most frequent labels" if self.top_labels is not None else "",
            f"{' to '.join(map(str, dict.fromkeys(many)))} rows a label" if self.per_label is not None else "",
        ]
        return f"up to {' and '.join(filter(None, parts))}" if any(parts) else "all rows"


ALL = Sampling()
# What each analysis of Pasad et al. draws from the set that it scores, and k-means from the set that it is fitted on.
PUBLISHED = {
    "frame": Sampling(utterances=500),
    "phone": Sampling(per_label=200),
    "word": Sampling(per_label=15, top_labels=500),
    "attributes": Sampling(per_label=200),
    "utterance": ALL,
}
PUBLISHED_FIT = {
    "phone": Sampling(per_label=(3000, 7000)),
    "word": Sampling(per_label=(600, 1200), top_labels=500),
    "utterance": ALL,
}


@dataclass(frozen=True)
class Rows:
    """Chosen rows of one unit, in the order of the store.

    ``index``: (n,) their positions in the store's matrix; ``table``: (n,) their row table (utterance and
    label codes, start and end in samples); ``notes``: what was left out, for a person.
    """

    index: np.ndarray
    table: np.ndarray
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.index)

    def of(self, which: np.ndarray, *notes: str) -> Rows:
        """Those rows for which ``which`` (a mask or sorted positions) holds."""
        return Rows(self.index[which], self.table[which], [*self.notes, *(note for note in notes if note)])


def select(store: FeatureStore, unit: str, layer: str | None, where: Sequence[Condition] = ()) -> Rows:
    """The rows of a unit (at the rate of ``layer``, for frames) that meet all conditions.

    Columns are the rows' own (utterance, start, end, label, and masked in stores of the masking
    experiment) and the utterances' metadata. Raises UsageError for a column that is not there, naming
    those that are, and for a condition that no row meets, naming values that occur.
    """
    table = store.row_table(unit, layer)
    rows = Rows(np.arange(len(table)), table)
    for condition in where:
        values, codes = _column(store, unit, table, condition.column)
        wanted = condition.values
        if condition.column in _TIMES and condition.column in (table.dtype.names or ()):
            wanted = tuple(_sample_time(text) for text in wanted)
        meets = equal(values, wanted)[codes]
        meets = meets if not condition.negated else ~meets
        if not meets.any():
            there = columns.shown(values[np.unique(codes)], SHOWN)
            raise UsageError(f"{store.path}: no {unit} row has {condition} (values of {condition.column}: {there})")
        rows = rows.of(meets[rows.index])
    if not len(rows):
        what = " and ".join(map(str, where)) or "a label"
        raise UsageError(f"{store.path}: no {unit} row has {what}: nothing is left to analyse")
    return rows


def _column(store: FeatureStore, unit: str, table: np.ndarray, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of a column, and for each row which of them it has."""
    utterances, column = store.utterances, nfc(column)
    if column in (*_TIMES, "masked") and column in (table.dtype.names or ()):
        values, codes = np.unique(table[column], return_inverse=True)
        return (values / store.about["audio"]["sample_rate"] if column != "masked" else values), codes
    if column == "utterance":
        return utterances["utterance"].to_numpy(), table["utterance"]
    if column == "label" and unit in store.labels:
        return np.array([*store.labels[unit], None], dtype=object), table["label"]  # -1 is the last: no label
    located = set(store.about["audio"]["columns"])
    metadata = {
        (f"utterance_{name}" if name in ("label", "masked") else name): name
        for name in utterances.columns
        if name not in located
    }
    if column not in metadata:
        own = [
            name
            for name in ("utterance", "start", "end", "label", "masked")
            if name in (table.dtype.names or ()) and (name != "label" or unit in store.labels)
        ]
        raise UsageError(f"{store.path} has no column '{column}' at unit {unit}: it has {', '.join([*own, *metadata])}")
    return columns.exact(utterances[metadata[column]]), table["utterance"]


def _sample_time(text: str) -> str:
    """The time of the sample that a time in seconds falls on, as rows have it: 0.33333 s is that of sample 5333."""
    seconds = columns.number(text)
    if seconds is None or abs(seconds) > _LONGEST:
        return text  # which no row has
    return str(samples_to_seconds(seconds_to_samples(float(seconds))))


def column(store: FeatureStore, unit: str, rows: Rows, name: str) -> np.ndarray:
    """Values (n,) of a column of the rows or of their utterances' metadata; errors as ``select``."""
    values, codes = _column(store, unit, rows.table, name)
    return values[codes]


def filled(store: FeatureStore, unit: str, rows: Rows, name: str) -> np.ndarray:
    """The same (n,) as text. UsageError where a value is missing."""
    values = written(store, unit, rows, name)
    missing = int(pd.isna(values).sum())
    if missing:
        raise UsageError(
            f"{store.path}: {missing} of {len(values)} {unit} rows have no {name}: choose a column that all of "
            "them have, or "
            "leave them out with --where"
        )
    return values.astype(str)


def known(store: FeatureStore, unit: str, rows: Rows, name: str) -> Rows:
    """The rows that have a value of a column. UsageError when none is left."""
    missing = pd.isna(column(store, unit, rows, name))
    rows = rows.of(~missing, f"left out: {int(missing.sum())} {unit} rows without {name}" if missing.any() else "")
    if not len(rows):
        raise UsageError(f"{store.path}: no {unit} row has a value of {name}")
    return rows


def written(store: FeatureStore, unit: str, rows: Rows, name: str) -> np.ndarray:
    """The same (n,) as they are written, None where a value is missing."""
    values, codes = _column(store, unit, rows.table, name)
    return columns.texts(values)[codes]


def folded(store: FeatureStore, tier: str, rows: Rows) -> Rows:
    """The same rows, with one label code for words that differ only in case ("The", "the")."""
    first: dict[str, int] = {}
    codes = np.array([first.setdefault(name.casefold(), k) for k, name in enumerate(store.labels[tier])] + [NO_LABEL])
    table = rows.table.copy()
    table["label"] = codes[table["label"]]
    return Rows(rows.index, table, rows.notes)


def repeated(rows: Rows, minimum: int = 2) -> Rows:
    """The rows whose label at least ``minimum`` of them have."""
    counts = np.bincount(rows.table["label"], minlength=1)
    return rows.of(counts[rows.table["label"]] >= minimum)


def labelled(store: FeatureStore, unit: str, layer: str | None, tier: str, where: Sequence[Condition] = ()) -> Rows:
    """The rows of ``select`` whose label code is one of ``tier``.

    Rows of the tier itself have it; a frame has that of the segment at its centre, for which the store needs the
    unit ``tier`` beside its frames (frames in no segment are left out). UsageError for other units.
    """
    rows = select(store, unit, layer, where)
    if unit == tier:
        return rows
    if unit != "frame" or tier not in store.units:
        raise UsageError(
            f"{unit} rows of {store.path} have no {tier} labels: take --unit {tier}, or frames of a store that has "
            f"both units (extract with --units frame,{tier})"
        )
    segments = store.row_table(tier)
    # (utterance, time) as one number, so that all utterances are looked up at once
    span = 2 * int(max(segments["end"].max(initial=0), rows.table["end"].max())) + 2
    begins = segments["utterance"].astype(np.int64) * span + 2 * segments["start"]
    order = np.argsort(begins, kind="stable")
    segments, begins = segments[order], begins[order]
    centres = rows.table["start"] + rows.table["end"]  # doubled, to stay whole
    place = np.searchsorted(begins, rows.table["utterance"].astype(np.int64) * span + centres, side="right") - 1
    found = segments[np.maximum(place, 0)]
    inside = (place >= 0) & (found["utterance"] == rows.table["utterance"]) & (2 * found["end"] > centres)
    table = rows.table.copy()
    table["label"] = np.where(inside, found["label"], NO_LABEL)
    if not inside.any():
        raise UsageError(f"{store.path}: no frame lies in a {tier} segment")
    return Rows(rows.index, table, rows.notes).of(inside)


def of_speech(store: FeatureStore, tier: str, rows: Rows) -> Rows:
    """The rows that have a label, and not that of silence. UsageError for a tier without labels, or when none is
    left."""
    if tier not in store.labels:
        raise UsageError(f"rows of unit {tier} have no labels in {store.path}: phone and word rows have")
    spoken = np.array([is_speech(tier, name) for name in store.labels[tier]] + [False])  # -1 is the last: no label
    rows = rows.of(spoken[rows.table["label"]])
    if not len(rows):
        raise UsageError(f"{store.path}: no row has a {tier} label other than silence")
    return rows


def with_labels(store: FeatureStore, tier: str, rows: Rows, minimum: int = 1) -> Rows:
    """The rows of ``of_speech`` whose label has at least ``minimum`` rows. UsageError when fewer than two labels are
    left."""
    rows = of_speech(store, tier, rows)
    names = np.array(store.labels[tier], dtype=object)
    counts = np.bincount(rows.table["label"], minlength=len(names))
    rare = np.flatnonzero((counts > 0) & (counts < minimum))
    note = ""
    if len(rare):
        times = "once" if minimum == 2 else f"fewer than {minimum} times"
        which = f"a {tier} label that occurs" if len(rare) == 1 else f"{len(rare)} {tier} labels that occur"
        note = f"left out: {which} {times} ({columns.shown(names[rare], 5)})"
        rows = rows.of(~np.isin(rows.table["label"], rare), note)
    if len(np.unique(rows.table["label"])) < 2:
        raise UsageError(
            f"{store.path}: fewer than two {tier} labels occur {'twice or more' if minimum == 2 else 'in the rows'}: "
            "take more rows (--where), or a larger corpus"
        )
    return rows


def draw(rows: Rows, sampling: Sampling, seed: int, labels_like: Rows | None = None) -> Rows:
    """Draw rows by the rules of ``sampling``: the same for every model with these rows and this seed.

    ``labels_like``: take only labels that occur in these rows instead of the most frequent ones.
    """
    random = np.random.default_rng(seed)
    by_label = sampling.top_labels is not None or sampling.per_label is not None or labels_like is not None
    if by_label and (rows.table["label"] == NO_LABEL).all():
        raise UsageError(
            "these rows have no labels to draw by: draw utterances instead (--max-utterances), or all (--sample all)"
        )
    if labels_like is not None:
        rows = rows.of(np.isin(rows.table["label"], np.unique(labels_like.table["label"])))
    elif sampling.top_labels is not None:
        labels = rows.table["label"]
        counts = np.bincount(labels[labels != NO_LABEL], minlength=1)
        top = np.argsort(-counts, kind="stable")[: sampling.top_labels]
        n_labels = int((counts > 0).sum())
        note = f"the {len(top)} most frequent of {n_labels} labels were taken" if n_labels > len(top) else ""
        rows = rows.of(np.isin(labels, top), note)
    if sampling.per_label is not None:
        rows = _per_label(rows, sampling.per_label, random)
    if sampling.utterances is not None:
        codes = np.unique(rows.table["utterance"])
        if len(codes) > sampling.utterances:
            # a ranking of all utterances: a row more or less at another frame rate does not change who is drawn
            rank = random.random(int(codes.max()) + 1)[codes]
            drawn = codes[np.argsort(rank)[: sampling.utterances]]
            note = f"{sampling.utterances} of {len(codes)} utterances were drawn"
            rows = rows.of(np.isin(rows.table["utterance"], drawn), note)
    return rows


def _per_label(rows: Rows, per_label: int | tuple[int, int], random: np.random.Generator) -> Rows:
    labels = rows.table["label"]
    order = random.permutation(len(rows))
    order = order[np.argsort(labels[order], kind="stable")]
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    if isinstance(per_label, tuple):
        most = random.integers(per_label[0], per_label[1] + 1, len(counts))
    else:
        most = np.full(len(counts), per_label)
    within = np.arange(len(rows)) - np.repeat(first, counts)
    kept = np.sort(order[within < np.repeat(most, counts)])
    note = f"{len(kept)} of {len(rows)} rows were drawn" if len(kept) < len(rows) else ""
    return rows.of(kept, note)
