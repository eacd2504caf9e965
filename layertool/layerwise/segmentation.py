"""Word segmentation of every layer of a store: boundaries where frames differ, tuned on other speech than is scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from layertool import columns, resampling
from layertool.conditions import Condition
from layertool.declared import option
from layertool.errors import UsageError, tell
from layertool.geometry import SAMPLE_RATE
from layertool.layerwise import rows as row_rules
from layertool.layerwise.analysis import Analysis, Metric, Score
from layertool.layerwise.rows import Sampling
from layertool.layerwise.stores import check_layers, check_same_model, one_store, speech_of, unit_of
from layertool.layerwise.views import FrameRows, LayerView
from layertool.non_speech import NOISE, non_speech
from layertool.probes import segmentation as probe
from layertool.probes.segmentation import Cell, Counts, Speech
from layertool.store import FeatureStore


@dataclass(frozen=True)
class Heard:
    """What is said in the utterances that are scored (n,).

    ``halves`` (n,): 0 or 1, where each half is scored with what is best on the other. ``clusters`` (n,): what is
    resampled together. ``tuning``: frames of the layer in another store to tune on, and what is said there.
    """

    speech: Speech
    halves: np.ndarray | None
    clusters: np.ndarray | None
    tuning: tuple[LayerView, Speech] | None
    settings: ClassVar[Mapping[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Segmentation(Analysis):
    """Word boundaries without training: peaks of change between frames.

    The grid of distance, smoothing and prominence is tuned on other speech than it is scored on. The store needs
    frames and words (extract --units frame,word).

    \b
    Examples:
      layertool probe segmentation w2v2 mel --plot boundaries.pdf
      layertool probe segmentation buckeye --tune-on librispeech -o edges.csv
      layertool probe segmentation w2v2 --window 4 --prominence 0.03
    """

    tune_on: FeatureStore | None = option(
        None,
        "Store of the same model and another corpus that the grid is tuned on.",
        metavar="STORE2",
        usual="the other half of the utterances",
        parse=one_store,
    )
    tune_for: Literal["F1", "R-value", "lenient F1", "token F1"] = option(
        "F1", "What the best cell of the grid has most of."
    )
    distance: tuple[str, ...] = option(
        probe.DISTANCES, "Distances of neighbouring frames that the grid holds.", metavar="NAMES"
    )
    window: tuple[int, ...] = option(
        probe.WINDOWS, "Numbers of frames that changes are smoothed over in the grid.", metavar="N,N"
    )
    prominence: tuple[float, ...] = option(
        probe.PROMINENCES,
        "Least prominences of a peak in the grid.",
        metavar="P,P",
        usual=f"{len(probe.PROMINENCES)} values from {probe.PROMINENCES[0]} to {probe.PROMINENCES[-1]}",
    )
    tolerance: int = option(20, "How far a boundary may be off, in milliseconds.", low=0, high=1000, metavar="MS")
    max_utterances: int = option(500, "Draw so many utterances, where there are more.", low=2, metavar="N")
    resample: Literal["utterances", "speakers", "none"] = option("utterances", "What the 95 % intervals resample.")

    name = "word segmentation"
    command = "probe segmentation"
    metrics = (
        Metric("F1", "F1 of word boundaries", is_share=True),
        Metric("precision", "precision of word boundaries", is_share=True, drawn=False),
        Metric("recall", "recall of word boundaries", is_share=True, drawn=False),
        Metric("over-segmentation", "over-segmentation", better="", drawn=False),
        Metric("R-value", "R-value of word boundaries"),
        Metric("lenient F1", "lenient F1 of word boundaries", is_share=True, drawn=False),
        Metric("lenient precision", "lenient precision of word boundaries", is_share=True, drawn=False),
        Metric("lenient recall", "lenient recall of word boundaries", is_share=True, drawn=False),
        Metric("token F1", "F1 of word tokens", is_share=True),
        Metric("token precision", "precision of word tokens", is_share=True, drawn=False),
        Metric("token recall", "recall of word tokens", is_share=True, drawn=False),
    )
    cites = ("pasad2024", "rasanen2009")
    usual_unit = "frame"
    compared_with = "word boundaries"

    def check(self) -> None:
        self._cells()

    def _cells(self) -> list[Cell]:
        """The grid."""
        return probe.grid(self.distance, self.window, self.prominence)

    def settings(self) -> dict[str, Any]:
        found = super().settings() | {"tolerance": f"{self.tolerance} ms"}
        if len(self._cells()) == 1:
            return found | {"tune_on": None, "tune_for": None}
        return found if self.tune_on is not None else found | {"tune_on": "the other half of the utterances"}

    def pieces(self, store: FeatureStore, unit: str, layers: Sequence[str]) -> list[tuple]:
        """Of utterances with words, all of them known (not ``spn`` or ``<unk>``): their frames and their words."""
        unit_of(store, "word", "word")
        tune = self.tune_on
        if tune is not None:
            check_same_model(store, tune, "tuned boundaries")
            unit_of(tune, "word", "word")
            check_layers(tune, "frame", layers)
        codes = self._utterances(store, self.where)
        tuning = {} if tune is None else _heard(tune, layers, _unscored(tune, self._utterances(tune, ()), store, codes))
        halves = None
        if tune is None and len(self._cells()) > 1:
            halves = np.random.default_rng(self.seed).permutation(len(codes)) % 2
            if len(codes) < 2:
                raise UsageError(
                    f"{store.path}: one utterance has no half to tune on: take more of them, tune on another store "
                    "(--tune-on), or choose one cell (--distance, --window, --prominence)"
                )
        clusters = self._clusters(store, codes)
        return [
            (view, Heard(speech, halves, clusters, tuning.get(view.layer)))
            for view, speech in _heard(store, layers, codes).values()
        ]

    def _utterances(self, store: FeatureStore, where: Sequence[Condition]) -> np.ndarray:
        """Codes of the utterances that are scored, in order: those with words, all of them known."""
        rows = row_rules.select(store, "word", None, where)
        table = store.row_table("word")  # all words of an utterance, whichever were asked for
        # label -1 is the last: no label
        unknown = np.array([non_speech("word", name) == NOISE for name in store.labels["word"]] + [False])
        with_unknown = np.unique(table["utterance"][unknown[table["label"]]])
        bad = np.intersect1d(rows.table["utterance"], with_unknown)
        if len(bad):
            tell(f"left out: {len(bad)} utterances of {store.path} with words that are not known (spn, <unk>)")
        with_words = np.union1d(_words(store)["utterance"], with_unknown)
        if n_without := len(store.utterances) - len(with_words):
            tell(f"left out: {n_without} utterances of {store.path} without words")
        of_speech = row_rules.of_speech(store, "word", rows)
        of_speech = of_speech.of(~np.isin(of_speech.table["utterance"], bad))
        drawn = row_rules.draw(of_speech, Sampling(utterances=self.max_utterances), self.seed)
        for note in drawn.notes:
            tell(note)
        if not len(drawn):
            raise UsageError(
                f"{store.path}: no utterance that was asked for has known words: choose others with --where"
            )
        return np.unique(drawn.table["utterance"])

    def _clusters(self, store: FeatureStore, codes: np.ndarray) -> np.ndarray | None:
        """What is resampled: a number for each utterance. None: nothing is, or one cluster, which has no spread."""
        if self.resample == "none":
            return None
        names = np.arange(len(codes))
        if self.resample == "speakers":
            if "speaker" not in store.utterances:
                raise UsageError(f"{store.path} has no column 'speaker': type --resample utterances")
            speakers = store.utterances["speaker"].iloc[codes]
            if n_unknown := int(speakers.isna().sum()):
                raise UsageError(f"{store.path}: {n_unknown} utterances have no speaker: type --resample utterances")
            names = columns.texts(speakers).astype(str)
        clusters = np.unique(names, return_inverse=True)[1]
        return clusters if clusters.any() else None

    def score(self, view: LayerView, problem: Heard) -> Iterator[Score]:
        cells = grid = self._cells()
        if problem.tuning is not None:
            tuned, _ = self._swept(*problem.tuning, cells)
            cells = [cells[_best(_sums(tuned, np.ones(tuned.words.shape[1])), self.tune_for)]]
        found, chance = self._swept(view, problem.speech, cells)
        every = np.ones(len(problem.speech.lengths))
        taken, own = np.zeros(1, int), np.zeros(len(every), int)
        if problem.halves is not None:
            taken = np.array([_best(_sums(found, 1.0 * (problem.halves != half)), self.tune_for) for half in (0, 1)])
            own = taken[problem.halves]
        resampled, n_clusters = {}, 0
        if problem.clusters is not None:
            n_clusters = int(problem.clusters.max()) + 1
            drawn = resampling.counts(n_clusters, self.seed)[:, problem.clusters]
            if problem.halves is None:
                sums = _of_cell(found, own).of(drawn)
            else:
                sums = _tuned_anew(found, problem.halves, drawn, self.tune_for)
            resampled = probe.scores(sums)
        total = _of_cell(found, own).of(every)
        chances = probe.scores(_of_cell(chance, own).of(every))
        chosen = {} if len(grid) == 1 else _spelled([cells[k] for k in taken])
        for name, value in probe.scores(total).items():
            low, high = resampling.interval(resampled[name], n_clusters) if name in resampled else (None, None)
            yield Score(name, float(value), low, high, float(chances[name]), int(total.references), chosen=chosen)

    def _swept(self, view: LayerView, speech: Speech, cells: Sequence[Cell]) -> tuple[Counts, Counts]:
        """Counts (n_cells, n_utterances) of all cells, and of their chance."""
        tolerance = self.tolerance * SAMPLE_RATE // 1000
        _, found, chance = zip(*probe.sweep(view.read(), speech, cells, tolerance), strict=True)
        return _stacked(found), _stacked(chance)


def _spelled(cells: Sequence[Cell]) -> dict[str, Any]:
    """The cells taken, in words: one value each, or those of both halves, where they differ."""
    spelled = {}
    for name in ("distance", "window", "prominence"):
        values = [getattr(cell, name) for cell in cells]
        spelled[name] = values[0] if len(set(values)) == 1 else values
    return spelled


def _unscored(tune: FeatureStore, tune_codes: np.ndarray, store: FeatureStore, codes: np.ndarray) -> np.ndarray:
    """The utterances to tune on that are not scored. UsageError when none is left."""
    both = np.isin(speech_of(tune)[tune_codes], speech_of(store)[codes])
    if both.all():
        raise UsageError(
            f"{tune.path}: all utterances to tune on are scored in {store.path}: give another corpus, or leave "
            "--tune-on out, which tunes on one half and scores the other"
        )
    if both.any():
        tell(f"{int(both.sum())} utterances of {tune.path} are scored, and not tuned on")
    return tune_codes[~both]


def _words(store: FeatureStore) -> np.ndarray:
    """The row table of all words that are said."""
    return row_rules.of_speech(store, "word", row_rules.select(store, "word", None)).table


def _heard(store: FeatureStore, layers: Sequence[str], codes: np.ndarray) -> dict[str, tuple[LayerView, Speech]]:
    """By layer: its frames of these utterances, and what is said there, which layers of one rate share."""
    words = _words(store)
    words = words[np.isin(words["utterance"], codes)]
    words = words[np.lexsort((words["start"], words["utterance"]))]
    spoken = np.column_stack([np.searchsorted(codes, words["utterance"]), words["start"], words["end"]])
    tables: dict[str, tuple[np.ndarray, Speech]] = {}
    heard = {}
    for layer in layers:
        table = store.table_of("frame", layer)
        if table not in tables:
            frames = FrameRows.of(store, layer)
            index = np.flatnonzero(np.isin(frames.utterance, codes))
            tables[table] = (
                index,
                Speech(
                    np.searchsorted(codes, frames.utterance[index]),
                    frames.centres[index],
                    store.utterances["n_samples"].to_numpy()[codes],
                    spoken.astype(np.float64),
                ),
            )
        index, speech = tables[table]
        heard[layer] = LayerView(store, "frame", layer, index), speech
    return heard


def _stacked(counts: Sequence[Counts]) -> Counts:
    return Counts(*(np.stack(column) for column in zip(*(vars(one).values() for one in counts), strict=True)))


def _best(counts: Counts, criterion: str) -> np.ndarray:
    """The first cell (counts (n_cells, ...)) with the best score."""
    return np.argmax(probe.scores(counts)[criterion], axis=0)


def _sums(counts: Counts, times: np.ndarray) -> Counts:
    """Over utterances, each as often as ``times`` (..., n_utterances) says: (n_cells, ...)."""
    return Counts(*(values @ times.T for values in vars(counts).values()))


def _tuned_anew(found: Counts, halves: np.ndarray, drawn: np.ndarray, criterion: str) -> Counts:
    """Sums (n_resamples,) of utterances as often as they are drawn (n_resamples, n_utterances), each half of them with
    the cell that is best on what is drawn of the other."""
    sums = [_sums(found, drawn * (halves == half) * 1.0) for half in (0, 1)]  # floats: products of integers are slow
    parts = []
    for own, other in (sums, sums[::-1]):
        best = _best(other, criterion)
        parts.append([values[best, np.arange(len(best))] for values in vars(own).values()])
    return Counts(*(a + b for a, b in zip(*parts, strict=True)))


def _of_cell(counts: Counts, cells: np.ndarray) -> Counts:
    """Of one cell for each utterance (n_utterances,)."""
    return Counts(*(values[cells, np.arange(len(cells))] for values in vars(counts).values()))
