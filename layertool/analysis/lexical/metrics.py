"""The metrics of Cuervo and Marxer (spec lexical.md 1 and 5), of one stimulus each; functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln
from scipy.stats import kendalltau

from layertool.analysis.lexical.lexicon import Pronunciations
from layertool.errors import UsageError

_OVER_ONE = 1e-4  # log-probabilities may be above 0 by rounding


def log_likelihood(log_p, counts) -> float:
    """Log multinomial probability of what the listeners of one stimulus said (equation 1).

    ``log_p``: natural log-probability of each different response, shape (n,), at most 0; ``counts``: how many listeners
    gave it, shape (n,), whole numbers. -inf when a response that was given has p = 0. Raises UsageError otherwise.
    """
    log_p, counts = np.asarray(log_p, dtype=np.float64).ravel(), _counts(counts)
    _same_length(log_p.size, counts, "log-probabilities")
    if np.isnan(log_p).any() or (log_p > _OVER_ONE).any():
        raise UsageError(f"log-probabilities must be numbers up to 0, not {log_p[~(log_p <= _OVER_ONE)][0]:g}")
    said = counts > 0
    log_orders = float(gammaln(counts.sum() + 1) - gammaln(counts + 1).sum())  # m! / (k_1! k_2! ...)
    return float(log_orders + np.sum(counts[said] * log_p[said]))


def oracle(counts) -> float:
    """The highest log-likelihood that any model could have: that of the responses' relative frequencies."""
    counts = _counts(counts)
    total = counts.sum()
    with np.errstate(divide="ignore"):
        return log_likelihood(np.log(counts / total) if total else counts * 0.0, counts)


def _same_length(n: int, counts: np.ndarray, what: str) -> None:
    if n != counts.size:
        raise UsageError(f"{n} {what} and {counts.size} counts: give one count for each response")


def _counts(counts) -> np.ndarray:
    counts = np.asarray(counts, dtype=np.float64)
    if counts.ndim != 1 or not counts.size:
        raise UsageError(f"counts of one stimulus are a list of numbers, not of shape {counts.shape}")
    if not (np.isfinite(counts) & (counts >= 0) & (counts == np.floor(counts))).all():
        raise UsageError("counts of responses must be whole numbers from 0 on")
    return counts


def kendall(scores, counts) -> float:
    """Kendall's tau-b between the scores and the counts of one stimulus's responses (Kendall 1945).

    nan where the listeners rank nothing (one response, or equal counts); 0 for scores that are all equal.
    """
    counts, scores = _counts(counts), np.asarray(scores, dtype=np.float64)
    _same_length(scores.size, counts, "scores")
    if np.isnan(scores).any():
        raise UsageError("a score that is no number (nan) has no rank: check what gave it")
    if len(set(counts.tolist())) < 2:
        return math.nan
    if len(set(scores.tolist())) < 2:
        return 0.0
    return float(kendalltau(scores, counts, variant="b").statistic)


def top_is_right(top: str, responses: Sequence[str], counts, words: Pronunciations) -> bool:
    """Whether the model's most likely word sounds like the listeners' most common response (any of those that tie)."""
    counts = _counts(counts)
    _same_length(len(responses), counts, "responses")
    most = max(counts.max(), 1)  # nobody's response is nobody's most common one
    return any(words.alike(top, response) for response, k in zip(responses, counts, strict=True) if k == most)


def coverage(top: Sequence[str], responses: Sequence[str], words: Pronunciations) -> float:
    """Share of the responses that sound like one of the model's words ``top``, of which there should be as many."""
    if not responses:
        raise UsageError("a stimulus without responses has nothing to cover")
    sounds = {sound for word in top for sound in words.of(word)}
    return float(np.mean([any(sound in sounds for sound in words.of(response)) for response in responses]))
