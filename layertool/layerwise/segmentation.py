"""Word segmentation of every layer of a store: boundaries where frames differ, tuned on other speech than they are scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layertool import columns, resampling
from layertool.errors import UsageError
from layertool.layerwise import rows as row_rules
from layertool.layerwise.engine import each_layer
from layertool.layerwise.frames import FrameRows
from layertool.layerwise.rows import PUBLISHED, Condition, Rows, Sampling
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
from layertool.layerwise.views import LayerView
from layertool.non_speech import NOISE, is_speech, non_speech
from layertool.probes import segmentation
from layertool.probes.segmentation import Cell, Counts, Speech
from layertool.result_rows import Result
from layertool.store import FeatureStore

ANALYSIS = "word segmentation"
CRITERIA = ("F1", "R-value", "lenient F1", "token F1")
RESAMPLED = ("utterances", "speakers", "none")
CHOSEN = "chosen"  # variants of rows that say which cell of the grid was taken begin with it
TARGET = "word boundaries"


@dataclass(frozen=True)
class Options:
    """How segmentation is tuned and scored; see ``segmentation_rows``."""

    cells: Sequence[Cell] = ()
    tune_store: FeatureStore | None = None
    criterion: str = "F1"
    tolerance: int = segmentation.TOLERANCE
    resample: str = "utterances"
    sampling: Sampling = PUBLISHED["frame"]
    where: Sequence[Condition] = ()
    seed: int = 0
    n_workers: int | None = None

    def check(self) -> None:
        """Raise UsageError for options that no data could satisfy."""
        if self.criterion not in CRITERIA:
            raise UsageError(f"'{self.criterion}' is nothing to tune for: choose {', '.join(CRITERIA)}")
        if self.resample not in RESAMPLED:
            raise UsageError(f"'{self.resample}' cannot be resampled: choose {', '.join(RESAMPLED)}")


@dataclass(frozen=True)
class _Swept:
    """Counts (n_cells, n_utterances) of all cells, and of their chance."""

    found: Counts
    chance: Counts

    def best(self, which: np.ndarray, criterion: str) -> int:
        """The first cell with the best score over the utterances for which ``which`` holds."""
        return int(np.argmax(segmentation.scores(_sums(self.found, which))[criterion]))


@dataclass(frozen=True)
class _Scored:
    """Cells taken, and counts (n_utterances,) of each utterance with the cell that was tuned without it; ``resampled``: sums
    (n_resamples,) over resamples of the utterances."""

    cells: list[Cell]
    found: Counts
    chance: Counts
    resampled: Counts | None


def segmentation_rows(
    store: FeatureStore,
    layers: str = "all",
    options: Options | None = None,
    say: Say = silent,
    progress: Progress | None = None,
) -> list[Result]:
    """Scores of word boundaries found without training, for each layer.

    The cell of the grid with the best ``options.criterion`` on ``tune_store`` (the same model on another corpus) is used;
    without it, each half of the utterances is scored with the cell that is best on the other half; a grid of one cell
    needs no tuning. Utterances without words, or with words that are not known (``spn``, ``<unk>``), are left out,
    frames and references alike. Chance: as many boundaries, turned by half of their utterance. Intervals resample
    utterances or speakers, and halves are tuned anew in each resample; a cell that was tuned on another corpus stays.
    Raises UsageError, in one sentence, for stores without frames or words, and too few utterances.
    """
    options = options or Options()
    options.check()
    say = said_once(say)
    unit_of(store, "word", "word")
    unit_of(store, "frame", "frame")
    asked = layers_of(store, "frame", layers)
    cells = list(options.cells) or segmentation.grid()
    tune = options.tune_store
    if tune is not None:
        check_same_model(store, tune, "tuned boundaries")
        for unit in ("word", "frame"):
            unit_of(tune, unit, unit)
        missing = [layer for layer in asked if layer not in tune.layers_of("frame")]
        if missing:
            raise UsageError(f"{tune.path} has no frames of {missing[0]}: type --layers without it")
    codes = _utterances(store, options, say)
    tune_codes = None if tune is None else _unscored(tune, _utterances(tune, options, say, where=()), store, codes, say)
    halves = _halves(len(codes), options.seed) if tune is None and len(cells) > 1 else None
    if halves is not None and len(codes) < 2:
        raise UsageError(
            f"{store.path}: one utterance has no half to tune on: take more of them, tune on another store (--tune-on), or "
            "choose one cell (--distance, --window, --prominence)"
        )
    clusters = _clusters(store, codes, options)

    n_clusters = 0 if clusters is None else int(clusters.max()) + 1
    drawn = None
    if clusters is not None and n_clusters > 1:  # one cluster has no spread
        drawn = resampling.counts(n_clusters, options.seed)[:, clusters]

    def with_one(cell: Cell, mine: _Swept) -> _Scored:
        found = _of_cell(mine.found, 0)
        return _Scored([cell], found, _of_cell(mine.chance, 0), None if drawn is None else found.of(drawn))

    own = _heard(store, asked, codes)
    of_tuning = {} if tune is None or tune_codes is None else _heard(tune, asked, tune_codes)

    def compute(layer: str) -> _Scored:
        if tune is not None and tune_codes is not None:
            tuned = _sweep(tune, layer, of_tuning, cells, options.tolerance)
            best = cells[tuned.best(np.ones(len(tune_codes), bool), options.criterion)]
            return with_one(best, _sweep(store, layer, own, [best], options.tolerance))
        mine = _sweep(store, layer, own, cells, options.tolerance)
        if halves is None:
            return with_one(cells[0], mine)
        taken = np.array([mine.best(halves != half, options.criterion) for half in (0, 1)])
        return _Scored(
            [cells[k] for k in taken],
            _of_cell(mine.found, taken[halves]),
            _of_cell(mine.chance, taken[halves]),
            None if drawn is None else _tuned_anew(mine.found, halves, drawn, options.criterion),
        )

    found = each_layer(store, asked, compute, options.n_workers, progress)
    tuned_on = (
        f"tuned on {tune.about['corpus']['name']}" if tune is not None else "tuned on the other half of the utterances"
    )
    how = joined(
        [
            f"±{options.tolerance * 1000 / segmentation.SAMPLE_RATE:g} ms",
            f"{tuned_on} for {options.criterion} over {len(cells)} cells" if len(cells) > 1 else str(cells[0]),
            str(options.sampling),
            conditions_of(options.where),
        ]
    )
    out = []
    for layer, one in zip(asked, found, strict=True):
        out += _rows(store, layer, one, how, n_clusters, options)
    return out


def _rows(store: FeatureStore, layer: str, one: _Scored, how: str, n_clusters: int, options: Options) -> list[Result]:
    everything = np.ones(len(one.found.words))
    values = segmentation.scores(one.found.of(everything))
    chances = segmentation.scores(one.chance.of(everything))
    resampled = {} if one.resampled is None else segmentation.scores(one.resampled)
    out = []
    for name, value in values.items():
        matching = "" if name.startswith("lenient") else ", one to one" if "token" not in name else ", both ends"
        low, high = resampling.interval(resampled[name], n_clusters) if name in resampled else (None, None)
        out.append(
            result(
                store, "frame", layer, analysis=ANALYSIS, target=TARGET, variant=f"{name}{matching}, {how}", value=float(value),
                ci_low=low, ci_high=high, chance=float(chances[name]), n=int(one.found.references.sum()), seed=options.seed,
            )
        )  # fmt: skip
    if len(one.cells) > 1 or options.tune_store is not None:
        for k, cell in enumerate(one.cells, start=1):
            half = f", half {k}" if len(one.cells) > 1 else ""
            for name, number in (
                ("prominence", cell.prominence),
                ("frames of smoothing", cell.window),
                ("distance (0 euclidean or 1 cosine)", segmentation.DISTANCES.index(cell.distance)),
            ):
                out.append(
                    result(store, "frame", layer, analysis=ANALYSIS, target=TARGET, variant=f"{CHOSEN} {name}{half}, {how}",
                           value=float(number), n=len(one.found.words), seed=options.seed)
                )  # fmt: skip
    return out


def _utterances(
    store: FeatureStore, options: Options, say: Say, where: Sequence[Condition] | None = None
) -> np.ndarray:
    """Codes of the utterances that are scored, in order: those with words, all of them known."""
    rows = row_rules.select(store, "word", None, options.where if where is None else where)
    names = store.labels["word"]
    unknown = np.array([non_speech("word", name) == NOISE for name in names] + [False])  # -1: no label
    asked = np.unique(rows.table["utterance"])
    table = store.row_table("word")  # all words of an utterance, whichever were asked for
    bad = np.intersect1d(asked, table["utterance"][unknown[table["label"]]])
    if len(bad):
        say(f"left out: {len(bad)} utterances of {store.path} with words that are not known (spn, <unk>)")
    of_speech = row_rules.of_speech(store, "word", rows)
    is_word = ~_silent(store)[table["label"]] | unknown[table["label"]]
    without = len(store.utterances) - len(np.unique(table["utterance"][is_word]))
    if without:
        say(f"left out: {without} utterances of {store.path} without words")
    of_speech = of_speech.of(~np.isin(of_speech.table["utterance"], bad))
    drawn = row_rules.draw(of_speech, options.sampling, options.seed)
    for note in drawn.notes:
        say(note)
    codes = np.unique(drawn.table["utterance"])
    if not len(codes):
        raise UsageError(f"{store.path}: no utterance that was asked for has known words: choose others with --where")
    return codes


def _unscored(
    tune: FeatureStore, tune_codes: np.ndarray, store: FeatureStore, codes: np.ndarray, say: Say
) -> np.ndarray:
    """The utterances to tune on that are not scored. UsageError when none is left."""
    both = np.isin(speech_of(tune)[tune_codes], speech_of(store)[codes])
    if both.all():
        raise UsageError(
            f"{tune.path}: all utterances to tune on are scored in {store.path}: give another corpus, or leave --tune-on out, "
            "which tunes on one half and scores the other"
        )
    if both.any():
        say(f"{int(both.sum())} utterances of {tune.path} are scored, and not tuned on")
    return tune_codes[~both]


def _silent(store: FeatureStore) -> np.ndarray:
    """Of each label code whether it stands for no word; code -1 is the last: no label."""
    return np.array([not is_speech("word", name) for name in store.labels["word"]] + [True])


def _halves(n: int, seed: int) -> np.ndarray:
    """0 or 1 for each utterance, at random."""
    return np.random.default_rng(seed).permutation(n) % 2


def _clusters(store: FeatureStore, codes: np.ndarray, options: Options) -> np.ndarray | None:
    """What is resampled: a number for each utterance."""
    if options.resample == "none":
        return None
    if options.resample == "utterances":
        return np.arange(len(codes))
    table = store.utterances
    if "speaker" not in table:
        raise UsageError(f"{store.path} has no column 'speaker': type --resample utterances")
    names = table["speaker"].iloc[codes]
    if names.isna().any():
        raise UsageError(
            f"{store.path}: {int(names.isna().sum())} utterances have no speaker: type --resample utterances"
        )
    return np.unique(columns.texts(names).astype(str), return_inverse=True)[1]


def _heard(store: FeatureStore, layers: Sequence[str], codes: np.ndarray) -> dict[str, tuple[Rows, Speech]]:
    """By the row table of frames, as layers of one rate share it: the frames of these utterances, and what is said there."""
    words = store.row_table("word")
    words = words[np.isin(words["utterance"], codes) & ~_silent(store)[words["label"]]]
    words = words[np.lexsort((words["start"], words["utterance"]))]
    spoken = np.column_stack([np.searchsorted(codes, words["utterance"]), words["start"], words["end"]])
    found = {}
    for table, layer in {store.table_of("frame", layer): layer for layer in layers}.items():
        frames = FrameRows.of(store, layer)
        mine = np.flatnonzero(np.isin(frames.utterance, codes))
        speech = Speech(
            np.searchsorted(codes, frames.utterance[mine]),
            frames.centres[mine],
            store.utterances["n_samples"].to_numpy()[codes],
            spoken.astype(np.float64),
        )
        found[table] = Rows(mine, frames.table[mine]), speech
    return found


def _sweep(
    store: FeatureStore, layer: str, heard: dict[str, tuple[Rows, Speech]], cells: Sequence[Cell], tolerance: int
) -> _Swept:
    rows, speech = heard[store.table_of("frame", layer)]
    features = LayerView(store, "frame", layer, rows.index).read()
    counts = [(found, chance) for _, found, chance in
              segmentation.sweep(features, speech, cells, tolerance)]  # fmt: skip
    return _Swept(*(_stacked(column) for column in zip(*counts, strict=True)))


def _stacked(counts: Sequence[Counts]) -> Counts:
    return Counts(*(np.stack(column) for column in zip(*(vars(one).values() for one in counts), strict=True)))


def _sums(counts: Counts, which: np.ndarray) -> Counts:
    """Over the utterances for which ``which`` holds, of each cell."""
    return Counts(*(values[:, which].sum(1) for values in vars(counts).values()))


def _tuned_anew(found: Counts, halves: np.ndarray, drawn: np.ndarray, criterion: str) -> Counts:
    """Sums (n_resamples,) of utterances as often as they are drawn (n_resamples, n_utterances), each half of them with the
    cell that is best on what is drawn of the other."""
    sums = [
        Counts(*(values[:, halves == half] @ drawn[:, halves == half].T for values in vars(found).values()))
        for half in (0, 1)
    ]
    parts = []
    for mine, other in (sums, sums[::-1]):
        best = np.argmax(segmentation.scores(other)[criterion], axis=0)
        parts.append([values[best, np.arange(len(best))] for values in vars(mine).values()])
    return Counts(*(a + b for a, b in zip(*parts, strict=True)))


def _of_cell(counts: Counts, cell: int | np.ndarray) -> Counts:
    """Of one cell, or of one for each utterance."""
    n = next(iter(vars(counts).values())).shape[1]
    return Counts(*(values[cell, np.arange(n)] for values in vars(counts).values()))
