"""How wrong transcripts are: rates with intervals, as result rows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layertool import resampling
from layertool.errors import UsageError
from layertool.files import whole_file
from layertool.training.text import error_rate, letters

ANALYSIS = "ctc"
LAYER = "model"  # the layer of rows of whole models
WEIGHT = "weight of the layer in the sum"  # the metric of rows of learned weights
EMPTY = 1.0  # the rate of empty transcripts: what saying nothing gives


@dataclass(frozen=True)
class Rate:
    """Errors per reference token, and those of each utterance, integers (n,), from which ``interval`` is drawn."""

    value: float
    errors: np.ndarray
    n_tokens: np.ndarray

    def interval(self, seed: int = 0) -> tuple[float | None, float | None]:
        """Percentile interval of the rate over resamples of utterances; None for fewer than two."""
        return bootstrap_rate(self.errors, self.n_tokens, seed=seed)


@dataclass(frozen=True)
class Assessed:
    """Transcripts of a part. ``rate``: of words, or of phones; ``characters``: of characters, None for phones."""

    part: str
    utterances: list[str]
    references: list[str]
    hypotheses: list[str]
    rate: Rate
    characters: Rate | None


def assess(
    part: str,
    utterances: Sequence[str],
    references: Sequence[Sequence[str] | str],
    hypotheses: Sequence[Sequence[str] | str],
) -> Assessed:
    """Compare transcripts with references: texts by words and characters, lists of phones by phones."""
    rate = Rate(*error_rate(references, hypotheses))
    of_letters, shown = (
        None,
        [[s if isinstance(s, str) else " ".join(s) for s in side] for side in (references, hypotheses)],
    )
    if isinstance(references[0], str):
        of_letters = Rate(*error_rate(letters(shown[0]), letters(shown[1])))
    return Assessed(part, list(utterances), shown[0], shown[1], rate, of_letters)


def bootstrap_rate(
    errors: np.ndarray, n_tokens: np.ndarray, n_resamples: int = resampling.N_RESAMPLES, seed: int = 0
) -> tuple[float | None, float | None]:
    """95 % interval of sum(errors) / sum(n_tokens) over resamples of utterances; integers (n,) each.

    ``errors`` may be differences of two systems on the same utterances: a paired interval. Resamples without a single
    token are left out. None for fewer than two utterances. Raises UsageError for other shapes.
    """
    errors, n_tokens = np.asarray(errors), np.asarray(n_tokens)
    if errors.shape != n_tokens.shape or errors.ndim != 1:
        raise UsageError(f"errors {errors.shape} and tokens {n_tokens.shape} are not one of each utterance")
    if len(errors) < 2:
        return None, None
    drawn = resampling.counts(len(errors), seed, n_resamples)
    with np.errstate(invalid="ignore"):
        rates = (drawn @ errors) / (drawn @ n_tokens)
    return resampling.interval(rates, len(errors))


def write_transcripts(path: Path, parts: Sequence[Assessed]) -> None:
    """Write what was said and what was written of each utterance, with its errors."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["part", "utterance", "reference", "hypothesis", "errors", "tokens"])
        for one in parts:
            columns = (one.utterances, one.references, one.hypotheses, one.rate.errors, one.rate.n_tokens)
            writer.writerows([one.part, *line] for line in zip(*columns, strict=True))
