"""Listeners' lexical responses to noisy words, and the words that Whisper expects (Cuervo and Marxer).

``log_likelihood`` and the other metrics are functions on arrays; ``WhisperScorer`` gives them their numbers.
"""

from typing import TYPE_CHECKING

from layertool.analysis.lexical.lexicon import Lexicon, Pronunciations, cmudict_words
from layertool.analysis.lexical.metrics import (
    coverage,
    kendall,
    log_likelihood,
    oracle,
    top_is_right,
)

if TYPE_CHECKING:
    from layertool.analysis.lexical.scorer import WhisperScorer

__all__ = [
    "Lexicon",
    "Pronunciations",
    "WhisperScorer",
    "cmudict_words",
    "coverage",
    "kendall",
    "log_likelihood",
    "oracle",
    "top_is_right",
]


def __getattr__(name: str):
    if name == "WhisperScorer":  # the metrics need no torch
        from layertool.analysis.lexical.scorer import WhisperScorer

        return WhisperScorer
    raise AttributeError(f"module 'layertool.analysis.lexical' has no attribute '{name}'")
