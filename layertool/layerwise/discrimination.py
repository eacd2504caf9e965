"""Acoustic word discrimination of every layer of a store: pooled vectors, or frames through dynamic time warping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from layertool.declared import option
from layertool.errors import UsageError, tell
from layertool.geometry import SAMPLE_RATE, Pooling
from layertool.layerwise import rows as row_rules
from layertool.layerwise.analysis import Analysis, Drawn, Metric, Problem, Score, unit_option
from layertool.layerwise.rows import ALL, Rows
from layertool.layerwise.stores import check_layers
from layertool.layerwise.views import FrameRows, LayerView
from layertool.probes import word_discrimination as probe
from layertool.store import FeatureStore

SPEAKER = "speaker"  # the column of utterances
MIN_CHARACTERS, MIN_SECONDS = 5, 0.5  # of a word, in Pasad et al. 2021


@dataclass(frozen=True)
class Tokens(Problem):
    """Who says each token (n,), and what the interval resamples (n,), where these are asked for."""

    speakers: np.ndarray | None
    clusters: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Discrimination(Drawn, Analysis):
    """The same word, or another? Average precision over pairs of tokens.

    All pairs of word tokens, nearest first; chance is the share of pairs that are of one word.

    \b
    Examples:
      layertool probe discrimination w2v2 mel --plot words.pdf
      layertool probe discrimination w2v2 --cross-speaker -o words.csv
      layertool probe discrimination w2v2 --distance dtw --min-seconds 0.2
    """

    distance: Literal["cosine", "dtw"] = option(
        "cosine",
        "Distance of two tokens: cosine of their pooled vectors, or dtw, dynamic time warping of their frames.",
    )
    cross_speaker: bool = option(False, "Only pairs of different speakers.")
    min_characters: int = option(MIN_CHARACTERS, "Leave words of fewer characters out.", low=0)
    min_seconds: float = option(MIN_SECONDS, "Leave words that are shorter out, in seconds.", low=0)
    resample: Literal["words", "speakers", "none"] = option("words", "What the 95 % intervals resample.")
    unit: str | None = unit_option()

    name = "word discrimination"
    command = "probe discrimination"
    metrics = (Metric("average precision", "average precision", is_share=True),)
    cites = ("carlin2011", "pasad2021", "pasad2024")
    usual_unit = "word"

    def pieces(self, store: FeatureStore, unit: str, layers: Sequence[str]) -> list[tuple]:
        if self.distance == "dtw":
            check_layers(store, "frame", layers)
        return super().pieces(store, unit, layers)

    def prepare(self, store: FeatureStore, unit: str, layer: str) -> Tokens:
        rows = self._tokens(store, unit, layer)
        words = rows.table["label"]
        if np.unique(words, return_counts=True)[1].max() < 2:
            raise UsageError(
                f"{store.path}: no {unit} stands twice among {len(rows)} rows of {self.min_characters}+ characters and "
                f"{self.min_seconds:g}+ s: choose less with --min-characters and --min-seconds, or take a larger corpus"
            )
        speakers = None
        if self.cross_speaker or self.resample == "speakers":
            speakers = row_rules.filled(store, unit, rows, SPEAKER)
        clusters = {"words": words, "speakers": speakers, "none": None}[self.resample]
        pooling = store.configuration["units"][unit] if self.distance == "cosine" else None
        return Tokens(rows, speakers, clusters, settings={"pooling": pooling})

    def _tokens(self, store: FeatureStore, unit: str, layer: str) -> Rows:
        rows = row_rules.of_speech(store, unit, row_rules.select(store, unit, layer, self.where))
        characters = np.array([len(name) for name in store.labels[unit]])
        seconds = (rows.table["end"] - rows.table["start"]) / SAMPLE_RATE
        long = (characters[rows.table["label"]] >= self.min_characters) & (seconds >= self.min_seconds - 1e-9)
        if not long.any():
            raise UsageError(
                f"{store.path}: none of {len(rows)} {unit} rows has {self.min_characters} characters and "
                f"{self.min_seconds:g} s: choose less with --min-characters and --min-seconds"
            )
        n_short = int((~long).sum())
        note = (
            f"left out: {n_short} of {len(rows)} {unit} rows, which are shorter than {self.min_characters} characters "
            f"or {self.min_seconds:g} s"
        )
        if unit == "word":
            rows = row_rules.folded(store, unit, rows)
        return row_rules.draw(rows.of(long, note if n_short else ""), self.sampling or ALL, self.seed)

    def compute(self, view: LayerView, problem: Tokens) -> probe.Discrimination:
        distance: probe.Distance
        if self.distance == "dtw":
            distance = probe.Warped(_frames(view.store, view.layer, problem.rows))
        else:
            distance = probe.Cosine(replace(view, as_directions=True).read())
        words = problem.rows.table["label"]
        return probe.average_precision(
            distance, words, problem.speakers, self.cross_speaker, problem.clusters, self.seed
        )

    def conclude(
        self, store: FeatureStore, unit: str, pieces: Sequence[tuple], outcomes: Sequence[probe.Discrimination]
    ) -> Iterator[tuple[str, Score, Mapping[str, Any]]]:
        rows, first = pieces[0][1].rows, outcomes[0]
        n, n_words = len(rows), len(np.unique(rows.table["label"]))
        tell(
            f"{store.path}: {first.n_pairs} pairs of {n} tokens of {n_words} {unit}s, {first.n_same} of them of "
            f"one {unit}"
        )
        for (view, problem), one in zip(pieces, outcomes, strict=True):
            score = Score("average precision", one.value, one.ci_low, one.ci_high, one.chance, n, target=f"same {unit}")
            yield view.layer, score, problem.settings


def _frames(store: FeatureStore, layer: str, rows: Rows) -> list[np.ndarray]:
    """The frames (frames, width) of each token: those that its pooled vector is the mean of."""
    frames = FrameRows.of(store, layer)
    table = rows.table
    taken = np.flatnonzero(np.isin(frames.utterance, table["utterance"]))
    features = LayerView(store, "frame", layer, taken, as_directions=True).read()
    # where the frames of each utterance end in what is read
    ends = np.cumsum(np.isin(np.arange(len(frames.n)), table["utterance"]) * frames.n)
    n = frames.n[table["utterance"]]
    begins = ends[table["utterance"]] - n
    low, high = Pooling("mean").frames(table["start"], table["end"], frames.hop, n)
    return [features[at + a : at + b] for at, a, b in zip(begins, low, high, strict=True)]
