"""Acoustic word discrimination of every layer of a store: pooled vectors, or frames through dynamic time warping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layertool.errors import UsageError
from layertool.geometry import SAMPLE_RATE, Pooling
from layertool.layerwise import rows as row_rules
from layertool.layerwise.engine import each_layer
from layertool.layerwise.frames import FrameRows
from layertool.layerwise.rows import ALL, Condition, Rows, Sampling
from layertool.layerwise.stores import (
    Progress,
    Say,
    conditions_of,
    joined,
    layers_of,
    result,
    said_once,
    silent,
    unit_of,
)
from layertool.layerwise.views import LayerView
from layertool.probes import word_discrimination
from layertool.result_rows import Result
from layertool.store import FeatureStore

ANALYSIS = "word discrimination"
DISTANCES = ("cosine", "dtw")
RESAMPLED = ("words", "speakers", "none")
SPEAKER = "speaker"  # the column of utterances
MIN_CHARACTERS, MIN_SECONDS = 5, 0.5  # of a word, in Pasad et al. 2021


@dataclass(frozen=True)
class Options:
    """How word discrimination is measured; see ``discrimination_rows``."""

    distance: str = "cosine"
    cross_speaker: bool = False
    min_characters: int = MIN_CHARACTERS
    min_seconds: float = MIN_SECONDS
    resample: str = "words"
    sampling: Sampling = ALL
    where: Sequence[Condition] = ()
    seed: int = 0
    n_workers: int | None = None

    def check(self) -> None:
        """Raise UsageError for options that no data could satisfy."""
        if self.distance not in DISTANCES:
            raise UsageError(f"'{self.distance}' is no distance of words: choose {' or '.join(DISTANCES)}")
        if self.resample not in RESAMPLED:
            raise UsageError(f"'{self.resample}' cannot be resampled: choose {', '.join(RESAMPLED)}")


def discrimination_rows(
    store: FeatureStore,
    unit: str | None = None,
    layers: str = "all",
    options: Options | None = None,
    say: Say = silent,
    progress: Progress | None = None,
) -> list[Result]:
    """Average precision of "the same word" over all pairs of word tokens, for each layer.

    Tokens shorter than ``options.min_characters`` or ``min_seconds`` are left out. ``dtw`` warps the frames of the
    tokens onto each other, for which the store needs frames beside its words. The interval resamples words or speakers,
    the same ones in every layer; chance is the share of pairs that are of one word.
    Raises UsageError, in one sentence, for stores without words, speakers or frames, and for too few tokens.
    """
    options = options or Options()
    options.check()
    say = said_once(say)
    unit = unit_of(store, unit, "word", only=True)
    asked = layers_of(store, unit, layers)
    rows = _tokens(store, unit, options)
    for note in rows.notes:
        say(note)
    words = rows.table["label"]
    if np.unique(words, return_counts=True)[1].max() < 2:
        raise UsageError(
            f"{store.path}: no {unit} stands twice among {len(rows)} rows of {options.min_characters}+ characters and "
            f"{options.min_seconds:g}+ s: choose less with --min-characters and --min-seconds, or take a larger corpus"
        )
    speakers = None
    if options.cross_speaker or options.resample == "speakers":
        speakers = row_rules.filled(store, unit, rows, SPEAKER)
    clusters = {"words": words, "speakers": speakers, "none": None}[options.resample]
    if options.distance == "dtw":
        _check_frames(store, asked)

    def compute(layer: str) -> word_discrimination.Discrimination:
        distance: word_discrimination.Distance
        if options.distance == "dtw":
            distance = word_discrimination.Warped(_frames(store, layer, rows))
        else:
            vectors = LayerView(store, unit, layer, rows.index, as_directions=True).read()
            distance = word_discrimination.Cosine(vectors)
        return word_discrimination.average_precision(
            distance, words, speakers, options.cross_speaker, clusters, options.seed
        )

    found = each_layer(store, asked, compute, options.n_workers, progress)
    say(
        f"{store.path}: {found[0].n_pairs} pairs of {len(rows)} tokens of {len(np.unique(words))} {unit}s, "
        f"{found[0].n_same} of them of one {unit}"
    )
    pooling = store.configuration["units"][unit]
    how = joined(
        [
            "average precision",
            f"cosine of vectors pooled by {pooling}" if options.distance == "cosine" else "DTW of frames by cosine",
            "pairs of different speakers" if options.cross_speaker else "all pairs",
            f"{unit}s of {options.min_characters}+ characters" if options.min_characters > 1 else "",
            f"{options.min_seconds:g}+ s" if options.min_seconds else "",
            "" if options.sampling == ALL else str(options.sampling),
            conditions_of(options.where),
        ]
    )
    return [
        result(
            store, unit, layer, analysis=ANALYSIS, variant=how, target=f"same {unit}", value=one.value, ci_low=one.ci_low,
            ci_high=one.ci_high, chance=one.chance, n=len(rows), seed=options.seed,
        )
        for layer, one in zip(asked, found, strict=True)
    ]  # fmt: skip


def _tokens(store: FeatureStore, unit: str, options: Options) -> Rows:
    rows = row_rules.of_speech(store, unit, row_rules.select(store, unit, None, options.where))
    characters = np.array([len(name) for name in store.labels[unit]])
    seconds = (rows.table["end"] - rows.table["start"]) / SAMPLE_RATE
    long = (characters[rows.table["label"]] >= options.min_characters) & (seconds >= options.min_seconds - 1e-9)
    if not long.any():
        raise UsageError(
            f"{store.path}: none of {len(rows)} {unit} rows has {options.min_characters} characters and "
            f"{options.min_seconds:g} s: choose less with --min-characters and --min-seconds"
        )
    n_short = int((~long).sum())
    note = f"left out: {n_short} of {len(rows)} {unit} rows, which are shorter than {options.min_characters} characters or {options.min_seconds:g} s"
    if unit == "word":
        rows = row_rules.folded(store, unit, rows)
    rows = row_rules.draw(rows.of(long, note if n_short else ""), options.sampling, options.seed)
    return rows


def _check_frames(store: FeatureStore, layers: Sequence[str]) -> None:
    unit_of(store, "frame", "frame")
    missing = [layer for layer in layers if layer not in store.layers_of("frame")]
    if missing:
        raise UsageError(f"{store.path} has no frames of {missing[0]} to warp: type --layers without it")


def _frames(store: FeatureStore, layer: str, rows: Rows) -> list[np.ndarray]:
    """The frames (frames, width) of each token: those that its pooled vector is the mean of."""
    frames = FrameRows.of(store, layer)
    table = rows.table
    mine = np.flatnonzero(np.isin(frames.utterance, table["utterance"]))
    features = LayerView(store, "frame", layer, mine, as_directions=True).read()
    place = np.cumsum(np.isin(np.arange(len(frames.n)), table["utterance"]) * frames.n)  # in what is read
    n = frames.n[table["utterance"]]
    first = place[table["utterance"]] - n
    low, high = Pooling("mean").frames(table["start"], table["end"], frames.hop, n)
    return [features[at + a : at + b] for at, a, b in zip(first, low, high, strict=True)]
