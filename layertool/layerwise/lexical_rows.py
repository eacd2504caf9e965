"""The numbers of listeners' responses against what a model says (Cuervo and Marxer; spec lexical.md 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from layertool import resampling
from layertool.analysis.lexical import metrics
from layertool.analysis.lexical.lexicon import Pronunciations
from layertool.layerwise.analysis import Metric, Score
from layertool.layerwise.stimuli import Stimulus, relative_frequency

if TYPE_CHECKING:
    from layertool.layerwise.listener import Outcome

N_RESAMPLES = 10_000
EVERYTHING = "all"  # the target of rows over all stimuli
SEPARATOR = ": "  # of masker and stimulus in the target of a row of one stimulus
LIKELIHOOD = Metric("log-likelihood", "log-likelihood")
TAU = Metric("Kendall tau-b", "Kendall's tau-b")
TOP_1 = Metric("top-1 accuracy", "top-1 accuracy", is_share=True)
TOP_N = Metric("top-n coverage", "top-n coverage", is_share=True)
SURPLUS = Metric("frequency minus probability of the target", "frequency minus probability\nof the target word", "")
IMPOSSIBLE = Metric("stimuli with a response of probability 0", "stimuli", "lower", drawn=False)
UNFINISHED = Metric("stimuli whose search for top words was ended", "stimuli", "lower", drawn=False)
METRICS = (LIKELIHOOD, TAU, TOP_1, TOP_N, SURPLUS, IMPOSSIBLE, UNFINISHED)


@dataclass(frozen=True)
class _Measure:
    """One metric of each stimulus (nan: it has none), and what a guess among the vocabulary would give."""

    metric: Metric
    values: np.ndarray
    chance: np.ndarray
    settings: Mapping[str, Any] = field(default_factory=dict)


def scores(
    outcomes: Sequence[Outcome], n_words: int, search: Mapping[str, Any], seed: int, items: bool = True
) -> Iterator[Score]:
    """Means over all stimuli, and those of each masker where there are several; then, with ``items``, each stimulus.

    Log-likelihood and Kendall's tau-b; with ranked words top-1 accuracy and top-n coverage; where targets are known the
    listeners' relative frequency of the target minus its probability. Intervals: percentile bootstrap over stimuli.
    Where responses have probability 0, or the search for words was ended, a number says of how many stimuli.
    ``n_words``: to guess among, for chance; ``search``: settings of what was ranked.
    """
    measures = _measures(outcomes, n_words, search)
    groups = _groups([outcome.stimulus for outcome in outcomes])
    for measure in measures:
        for target, places in groups.items():
            yield from _means(measure, [outcomes[k] for k in places], places, target, seed)
    for measure in measures if items else ():
        for outcome, value, chance in zip(outcomes, measure.values, measure.chance, strict=True):
            stimulus = outcome.stimulus
            if not math.isnan(value):
                yield Score(
                    measure.metric.name,
                    value,
                    chance=_or_none(chance),
                    n=sum(stimulus.counts),
                    target=f"{masker(stimulus)}{SEPARATOR}{stimulus.utterance}",
                    group=masker(stimulus),
                    item=stimulus.utterance,
                    settings=measure.settings,
                )


def _means(
    measure: _Measure, outcomes: Sequence[Outcome], places: np.ndarray, target: str, seed: int
) -> Iterator[Score]:
    values, chance = measure.values[places], measure.chance[places]
    known = ~np.isnan(values)
    if not known.any():
        return
    of: dict[str, Any] = {"target": target, "group": None if target == EVERYTHING else target}
    of["settings"] = measure.settings
    low, high = bootstrap_mean(values[known], seed=seed)
    mean, luck = values[known].mean(), _or_none(chance[known].mean())
    yield Score(measure.metric.name, mean, low, high, luck, int(known.sum()), **of)
    if measure.metric is LIKELIHOOD and (impossible := np.isneginf(values).sum()):
        yield Score(IMPOSSIBLE.name, impossible, n=len(places), **of)
    if measure.metric is TOP_N and (ended := sum(not outcome.exact for outcome in outcomes)):
        yield Score(UNFINISHED.name, ended, n=len(places), **of)


def _measures(outcomes: Sequence[Outcome], n_words: int, search: Mapping[str, Any]) -> list[_Measure]:
    n_responses = np.array([len(outcome.stimulus.responses) for outcome in outcomes])
    guess = {"chance": f"a guess among {n_words} words"}

    def each(function: Callable[[Outcome], float]) -> np.ndarray:
        return np.array([function(outcome) for outcome in outcomes], dtype=np.float64)

    def guessed(one: Outcome) -> float:
        return metrics.log_likelihood(np.full(len(one.stimulus.counts), -math.log(n_words)), one.stimulus.counts)

    likelihood = each(lambda one: one.log_likelihood)
    tau = each(lambda one: metrics.kendall(one.log_p, one.stimulus.counts))
    measures = [_Measure(LIKELIHOOD, likelihood, each(guessed), guess), _Measure(TAU, tau, np.zeros(len(tau)), guess)]
    if all(outcome.top is not None for outcome in outcomes):
        words = Pronunciations()
        first = each(lambda one: _first_is_right(one, words))
        share = each(lambda one: metrics.coverage(one.top or (), one.stimulus.responses, words))
        measures.append(_Measure(TOP_1, first, np.full(len(first), 1 / n_words), {**search, **guess}))
        measures.append(_Measure(TOP_N, share, np.minimum(n_responses / n_words, 1), {**search, **guess}))
    surplus = each(_surplus)
    if not np.isnan(surplus).all():
        measures.append(_Measure(SURPLUS, surplus, np.full(len(surplus), math.nan)))
    return measures


def _surplus(outcome: Outcome) -> float:
    target = outcome.stimulus.target
    return math.nan if target is None else relative_frequency(outcome.stimulus, target) - outcome.target_p


def _first_is_right(outcome: Outcome, words: Pronunciations) -> float:
    top, stimulus = outcome.top or (), outcome.stimulus
    return float(any(metrics.top_is_right(word, stimulus.responses, stimulus.counts, words) for word in top[:1]))


def _groups(stimuli: Sequence[Stimulus]) -> dict[str, np.ndarray]:
    """Places of all stimuli, and of those with each masker where there are several."""
    maskers = np.array([masker(stimulus) for stimulus in stimuli])
    names = sorted(set(maskers.tolist()))
    own = {name: np.flatnonzero(maskers == name) for name in names} if len(names) > 1 else {}
    return {EVERYTHING: np.arange(len(stimuli)), **own}


def masker(stimulus: Stimulus) -> str:
    """The masker as rows name it: never the name of all, nor with what parts it from the stimulus."""
    name = stimulus.group.replace(SEPARATOR, ":") or "no masker"
    return f"masker {name}" if name == EVERYTHING else name


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def bootstrap_mean(
    values: np.ndarray, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> tuple[float | None, float | None]:
    """95 % interval of the mean of ``values`` (n,) over resamples, as ``resampling.tail`` says.

    None for fewer than two. -inf among them makes means of -inf, and so perhaps an end of the interval.
    """
    if len(values) < 2:
        return None, None
    random = np.random.default_rng(seed)
    at_once = max(1, 4_000_000 // len(values))
    resampled = np.concatenate(
        [
            values[random.integers(len(values), size=(min(at_once, n_resamples - done), len(values)))].mean(axis=1)
            for done in range(0, n_resamples, at_once)
        ]
    )
    tail = resampling.tail(len(values))
    # an order statistic: between -inf and a number there is nothing
    low, high = np.quantile(resampled, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
