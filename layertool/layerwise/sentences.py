"""Spoken sentence similarity of every layer of a store: utterance vectors of sentence pairs, against human ratings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from layertool import columns
from layertool.declared import option
from layertool.errors import UsageError, tell
from layertool.layerwise import rows as row_rules
from layertool.layerwise.analysis import Analysis, Metric, Problem, Score
from layertool.layerwise.views import LayerView
from layertool.probes import sentence_similarity as probe
from layertool.store import FeatureStore


@dataclass(frozen=True)
class Pairs(Problem):
    """Which utterances are compared, and who speaks each (n,), where speakers are resampled."""

    combinations: probe.Combinations
    voices: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class Sentences(Analysis):
    """Sentences that people call alike: Spearman's correlation with ratings.

    A pair's similarity is the mean cosine over all combinations of its speakers (layertool corpus spoken-sts).

    \b
    Examples:
      layertool probe sentences w2v2 whisper --plot sentences.pdf
      layertool probe sentences w2v2 --across-speakers --resample speakers
    """

    across_speakers: bool = option(False, "Never compare a speaker's sentence with one of his own.")
    pair: str = option("pair", "Column that names the pair of an utterance.", metavar="COLUMN")
    side: str = option("side", "Column that says which of the two sentences of its pair is said.", metavar="COLUMN")
    rating: str = option("similarity", "Column of the human score of the pair.", metavar="COLUMN", decides=False)
    speaker: str = option("speaker", "Column that says who speaks.", metavar="COLUMN")
    resample: Literal["pairs", "speakers", "none"] = option("pairs", "What the 95 % intervals resample.")

    name = "sentence similarity"
    command = "probe sentences"
    metrics = (Metric("Spearman", "Spearman's correlation"),)
    cites = ("merkx2021", "pasad2024")
    usual_unit = "utterance"

    @property
    def compared_with(self) -> str:
        return self.rating

    @property
    def _needs_speakers(self) -> bool:
        return self.across_speakers or self.resample == "speakers"

    def settings(self) -> dict[str, Any]:
        return super().settings() | ({} if self._needs_speakers else {"speaker": None})

    def prepare(self, store: FeatureStore, unit: str, layer: str) -> Pairs:
        if self.pair not in store.utterances:
            raise UsageError(
                f"{store.path} has no column '{self.pair}', so it has no sentence pairs: make such a corpus with "
                "'layertool corpus spoken-sts', or name the column with --pair"
            )
        rows = row_rules.select(store, unit, layer, self.where)
        rows = rows.of(~pd.isna(row_rules.column(store, unit, rows, self.pair)))
        if not len(rows):
            raise UsageError(
                f"{store.path}: no {unit} row has a {self.pair}: choose the column of sentence pairs with --pair"
            )
        pairs, sides, texts = (
            row_rules.filled(store, unit, rows, name) for name in (self.pair, self.side, self.rating)
        )
        try:
            ratings = texts.astype(np.float64)
        except ValueError as error:
            raise UsageError(
                f"{store.path}: column '{self.rating}' is no number everywhere ({error}): choose another with --rating"
            ) from error
        speakers = row_rules.filled(store, unit, rows, self.speaker) if self._needs_speakers else None
        combinations, alone = probe.combine(pairs, sides, ratings, speakers, self.across_speakers)
        if alone:
            tell(f"left out: {len(alone)} pairs that have no combination of two utterances ({columns.shown(alone, 5)})")
        counts = combinations.n_of_pair
        number = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
        tell(f"{store.path}: {len(combinations.names)} pairs, each the mean of {number} combinations of speakers")
        return Pairs(
            rows,
            combinations,
            speakers if self.resample == "speakers" else None,
            settings={"combinations of speakers": number, "pooling": store.configuration["units"][unit]},
        )

    def score(self, view: LayerView, problem: Pairs) -> Iterator[Score]:
        vectors = replace(view, as_directions=True).read()
        ends = probe.score(vectors, problem.combinations, problem.voices, self.seed, self.resample != "none")
        yield Score("Spearman", *ends, chance=0.0, n=len(problem.combinations.names))
