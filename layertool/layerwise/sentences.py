"""Spoken sentence similarity of every layer of a store: utterance vectors of sentence pairs, against human ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from layertool.errors import UsageError
from layertool.layerwise import rows as row_rules
from layertool.layerwise.engine import each_layer
from layertool.layerwise.rows import Condition
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
from layertool.probes import sentence_similarity as probe
from layertool.result_rows import Result
from layertool.store import FeatureStore

ANALYSIS = "sentence similarity"
RESAMPLED = ("pairs", "speakers", "none")


@dataclass(frozen=True)
class Options:
    """Which columns say what, and which combinations count; see ``sentence_rows``."""

    pair: str = "pair"
    side: str = "side"
    rating: str = "similarity"
    speaker: str = "speaker"
    across_speakers: bool = False
    resample: str = "pairs"
    where: Sequence[Condition] = ()
    seed: int = 0
    n_workers: int | None = None

    def check(self) -> None:
        """Raise UsageError for options that no data could satisfy."""
        if self.resample not in RESAMPLED:
            raise UsageError(f"'{self.resample}' cannot be resampled: choose {', '.join(RESAMPLED)}")


def sentence_rows(
    store: FeatureStore,
    layers: str = "all",
    options: Options | None = None,
    say: Say = silent,
    progress: Progress | None = None,
) -> list[Result]:
    """Spearman's correlation of mean cosines of sentence pairs with human ratings, for each layer.

    Columns of the utterances say the pair, the side (two values), the rating and the speaker; utterances without a pair
    are left out. ``across_speakers``: a speaker's sentence is not compared with one of his own.
    Raises UsageError, in one sentence, for missing columns, pairs with two ratings, and fewer than 3 pairs.
    """
    options = options or Options()
    options.check()
    say = said_once(say)
    unit = unit_of(store, None, "utterance", only=True)
    asked = layers_of(store, unit, layers)
    if options.pair not in store.utterances:
        raise UsageError(
            f"{store.path} has no column '{options.pair}', so it has no sentence pairs: make such a corpus with "
            "'layertool corpus spoken-sts', or name the column with --pair"
        )
    rows = row_rules.select(store, unit, None, options.where)
    rows = rows.of(~pd.isna(row_rules.column(store, unit, rows, options.pair)))
    if not len(rows):
        raise UsageError(
            f"{store.path}: no {unit} row has a {options.pair}: choose the column of sentence pairs with --pair"
        )
    pairs, sides = (row_rules.filled(store, unit, rows, name) for name in (options.pair, options.side))
    texts = row_rules.filled(store, unit, rows, options.rating)
    try:
        ratings = texts.astype(np.float64)
    except ValueError as error:
        raise UsageError(
            f"{store.path}: column '{options.rating}' is no number everywhere ({error}): choose another with --rating"
        ) from error
    speakers = None
    if options.across_speakers or options.resample == "speakers":
        speakers = row_rules.filled(store, unit, rows, options.speaker)
    combinations, alone = probe.combine(pairs, sides, ratings, speakers, options.across_speakers)
    if alone:
        say(
            f"left out: {len(alone)} pairs that have no combination of two utterances ({', '.join(alone[:5])}{', …' if len(alone) > 5 else ''})"
        )
    counts = combinations.n_of_pair
    number = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    say(f"{store.path}: {len(combinations.names)} pairs, each the mean of {number} combinations of speakers")

    def compute(layer: str) -> probe.Correlation:
        vectors = LayerView(store, unit, layer, rows.index, as_directions=True).read()
        voices = speakers if options.resample == "speakers" else None
        return probe.score(vectors, combinations, voices, options.seed, options.resample != "none")

    found = each_layer(store, asked, compute, options.n_workers, progress)
    how = joined([
        "Spearman",
        f"mean cosine over {number} combinations of speakers",
        "none of a speaker with himself" if options.across_speakers else "",
        f"{unit}s pooled by {store.configuration['units'][unit]}",
        conditions_of(options.where),
    ])  # fmt: skip
    return [
        result(
            store, unit, layer, analysis=ANALYSIS, variant=how, target=options.rating, value=one.value, ci_low=one.ci_low,
            ci_high=one.ci_high, chance=0.0, n=len(combinations.names), seed=options.seed,
        )
        for layer, one in zip(asked, found, strict=True)
    ]  # fmt: skip
