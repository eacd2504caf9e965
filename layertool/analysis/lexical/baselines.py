"""Predictors that do not listen, and one that knows: the floor and the ceiling of the paper's table (spec lexical.md 6).

Each gives log-probabilities of a stimulus's responses, of its target, and its most likely words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from layertool.analysis.lexical.stimuli import Stimulus, relative_frequency
from layertool.errors import UsageError


class Uniform:
    """Every word of the vocabulary is as likely as every other; its most likely words are drawn."""

    def __init__(self, vocabulary: Sequence[str], seed: int = 0):
        self.vocabulary = list(vocabulary)
        self._random = np.random.default_rng(seed)

    def log_p(self, _stimulus: Stimulus, words: Sequence[str]) -> np.ndarray:
        """Log-probability of words, shape (len(words),)."""
        return np.full(len(words), -math.log(len(self.vocabulary)))

    def top(self, stimulus: Stimulus) -> list[str]:
        """As many words as there are responses."""
        n = min(len(stimulus.responses), len(self.vocabulary))
        return [self.vocabulary[k] for k in self._random.choice(len(self.vocabulary), n, replace=False)]


class Multinomial:
    """How often listeners gave each word in the training stimuli, whatever they heard.

    ``smoothing`` is added to the count of every word of the vocabulary: 1 is add-one (Laplace); with 0, a word that nobody
    gave has probability 0. The paper does not say how it smoothed.
    """

    def __init__(self, training: Iterable[Stimulus], vocabulary: Sequence[str], smoothing: float = 1.0):
        self.counts: Counter[str] = Counter()
        for stimulus in training:
            for word, k in zip(stimulus.responses, stimulus.counts, strict=True):
                self.counts[word.lower()] += k
        self.words = dict.fromkeys(vocabulary)
        if unknown := [word for word in self.counts if word not in self.words]:
            raise UsageError(f"the response '{unknown[0]}' is not in the vocabulary: add it")
        self.smoothing = smoothing
        self.total = self.counts.total() + smoothing * len(self.words)
        if not self.total:
            raise UsageError("there are no training responses and no smoothing: nothing would have a probability")
        order = {word: k for k, word in enumerate(self.words)}
        self._best = sorted(self.words, key=lambda word: (-self.counts[word], order[word]))

    def log_p(self, _stimulus: Stimulus, words: Sequence[str]) -> np.ndarray:
        """Log-probability of words, shape (len(words),); -inf for one outside the vocabulary."""
        mass = [self.counts[w] + self.smoothing if (w := word.lower()) in self.words else 0.0 for word in words]
        with np.errstate(divide="ignore"):
            return np.log(np.array(mass) / self.total)

    def top(self, stimulus: Stimulus) -> list[str]:
        """As many words as there are responses, the most frequent ones."""
        return self._best[: len(stimulus.responses)]


class Oracle:
    """What the listeners said, as relative frequencies: no model can be more likely."""

    def log_p(self, stimulus: Stimulus, words: Sequence[str]) -> np.ndarray:
        """Log of the relative frequencies of words, shape (len(words),)."""
        with np.errstate(divide="ignore"):
            return np.log([relative_frequency(stimulus, word) for word in words])

    def top(self, stimulus: Stimulus) -> list[str]:
        """The responses, the most common first."""
        order = sorted(range(len(stimulus.counts)), key=lambda k: -stimulus.counts[k])
        return [stimulus.responses[k] for k in order]
