"""The paper's table: models between predictors that do not listen and one that knows (spec lexical.md 6)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from layertool.declared import option, options_of
from layertool.errors import UsageError, tell
from layertool.layerwise.engine import Watch
from layertool.layerwise.lexical import Ranked, Task
from layertool.layerwise.reading import Reading
from layertool.layerwise.stimuli import Stimulus, relative_frequency, stimuli_of
from layertool.result_rows import Result

UNTRAINED_PREFIXES = (
    100  # all words are alike to it: what it finds first is chance, and an exact search would open them all
)


@dataclass(frozen=True, kw_only=True)
class LexicalBaselines(Ranked):
    """The paper's table: chance, word frequencies, the untrained model, the models, and the best possible.

    The first MODEL is run with weights drawn anew, too. Fine-tuned models and those trained from scratch are
    further MODELs.

    \b
    Examples:
      layertool lexical baselines openai/whisper-small tuned eccc -o table.csv
    """

    split: Literal["train", "dev", "test", "all"] = option(
        "test", "Part of the corpus to score; the multinomial is fitted on train."
    )
    smoothing: float = option(
        1.0, "Smoothing of the multinomial: added to the count of every word of the vocabulary.", low=0, decides=False
    )

    command = "lexical baselines"

    def of_models(self, task: Task, models: Sequence[str], watch: Watch) -> list[Result]:
        """Rows of what is below any model, of the models, and of what is above."""
        below, above = self.predictors(task)
        untrained: list[Result] = []
        if self.random_init is None:
            control = replace(self, random_init=self.seed, states=None, most_prefixes=UNTRAINED_PREFIXES)
            untrained = Ranked.of_models(control, task, models[:1], watch)
        return [*below, *untrained, *super().of_models(task, models, watch), *above]

    def predictors(self, task: Task) -> tuple[list[Result], list[Result]]:
        """Rows of chance and of word frequencies, and rows of the oracle.

        The multinomial is fitted on the whole part train, and left out where that is (among) what is scored.
        """
        known = task.vocabulary
        among = f"{len(known)} words ({task.lexicon} and the corpus)"
        below = self._predicted(task, "random", Uniform(known, self.seed), f"uniform over {among}")
        if self.split in ("dev", "test"):
            training = stimuli_of(task.corpus, "train", self.target_disjoint)
            by = f"frequencies in the whole train part, {self.smoothing:g} added to each of {among}"
            below += self._predicted(task, "multinomial", Multinomial(training, known, self.smoothing), by)
        else:
            tell("no multinomial: it is fitted on train, and would be scored on what it was fitted on")
        return below, self._predicted(task, "oracle", Oracle(), "relative frequencies of the responses")

    def _predicted(self, task: Task, model: str, predictor: Uniform | Multinomial | Oracle, by: str) -> list[Result]:
        from layertool.layerwise.listener import Outcome

        outcomes = [Outcome.of(one, predictor.log_p(one, one.words), predictor.top(one)) for one in task.stimuli]
        settings = dict.fromkeys([*(one.name for one in options_of(Reading)), "dtype"]) | {"predicted_by": by}
        return self.rows(task, model, outcomes, settings, {}, layer="", layer_index=0)


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

    ``smoothing`` is added to the count of every word of the vocabulary: 1 is add-one (Laplace); with 0, a word that
    nobody gave has probability 0. The paper does not say how it smoothed.
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
        self._best = sorted(self.words, key=lambda word: -self.counts[word])  # of one count in the vocabulary's order

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
