"""Listeners' responses against what a model says: result rows (Cuervo and Marxer; spec lexical.md 5 to 8)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from layertool import resampling
from layertool.analysis.lexical import metrics
from layertool.analysis.lexical.baselines import Multinomial, Oracle, Uniform
from layertool.analysis.lexical.lexicon import Pronunciations, unique
from layertool.analysis.lexical.stimuli import Corpus, Stimulus, relative_frequency, stimuli_of
from layertool.cluster import current
from layertool.layerwise.listening import Listener, Outcome, answers, listen_on
from layertool.layerwise.rows import Condition
from layertool.layerwise.stores import Progress, conditions_of, joined, model_name, step_of
from layertool.result_rows import (
    EVERYTHING,
    IMPOSSIBLE,
    LIKELIHOOD,
    SEPARATOR,
    SURPLUS,
    TAU,
    TOP_1,
    TOP_N,
    UNFINISHED,
    Result,
)  # fmt: skip

ANALYSIS, LENS = "lexical", "lexical lens"
N_RESAMPLES = 10_000


@dataclass(frozen=True)
class Task:
    """Which stimuli of a corpus are looked at, and how numbers are drawn.

    ``split``: train, dev, test or None for all; ``by_target``: of the target-disjoint split.
    """

    corpus: Corpus
    split: str | None = None
    by_target: bool = False
    where: Sequence[Condition] = ()
    seed: int = 0
    n_resamples: int = N_RESAMPLES

    def stimuli(self) -> list[Stimulus]:
        """Its stimuli. Errors as ``stimuli_of``."""
        return stimuli_of(self.corpus, self.split, self.by_target, self.where)

    def training(self) -> list[Stimulus]:
        """All stimuli of the train part; conditions are on what is scored."""
        return stimuli_of(self.corpus, "train", self.by_target)

    def vocabulary(self, words: Sequence[str]) -> list[str]:
        """Words, and those of the corpus that they lack: what a guess is among."""
        every = stimuli_of(self.corpus)
        return unique([*words, *(word for one in every for word in one.words)])

    def __str__(self) -> str:
        part = f"{'target-disjoint ' if self.by_target else ''}{self.split} part" if self.split else ""
        seed = self.corpus.provenance.get("split_seed")
        drawn = f" (seed {seed})" if part and seed is not None else ""
        return joined([part + drawn, conditions_of(self.where)])


@dataclass(frozen=True)
class About:
    """What rows say of where they come from. ``how``: the rest of a variant's name."""

    model: str
    corpus: str
    how: str
    analysis: str = ANALYSIS
    layer: str = ""
    layer_index: int = 0
    revision: str | None = None
    step: int | None = None
    store: str | None = None
    seed: int = 0
    n_resamples: int = N_RESAMPLES
    vocabulary: int | None = None  # words to guess among: chance
    most_prefixes: int = 0  # where a search was ended
    ranked: str = ""  # what words were ranked, where that is not in ``how``
    stimuli_too: bool = True  # rows for each stimulus


def listener_rows(
    listener: Listener,
    task: Task,
    vocabulary: int,
    lexicon_name: str = "",
    layers: Sequence[str] | None = None,
    progress: Progress | None = None,
    remark: str = "",
    opened: Callable[[], Listener] | None = None,
) -> tuple[list[Result], dict[str, list[Outcome]]]:
    """Rows of a model, and what it said in each layer.

    ``layers``: None for the model itself, else the layers of the lens, whose rows are means only. ``vocabulary``: words
    to guess among, for chance. ``lexicon_name``: of what is ranked, and ``remark``: what else is to be said, for the
    variant. ``opened`` makes a listener like this one in another process: on an open cluster, blocks of stimuli are heard side by
    side. Raises UsageError and AudioError.
    """
    scorer, words = listener.scorer, Pronunciations() if listener.lexicon is not None else None
    stimuli, asked = task.stimuli(), layers or [scorer.output_layer]
    if opened is not None and (cluster := current()) is not None:
        found = listen_on(cluster, opened, listener, stimuli, asked, progress)
    else:
        found = listener.listen(stimuli, asked, progress)
    rows = []
    for layer, outcomes in found.items():
        about = About(
            model=model_name(scorer.provenance),
            revision=_revision(scorer.provenance),
            step=step_of(scorer.provenance),
            corpus=task.corpus.name,
            how=joined(
                [str(scorer.variant), listener.precision, str(task), remark, "" if layers is None else _reading(layer)]
            ),
            most_prefixes=listener.most_prefixes,
            ranked=lexicon_name,
            analysis=ANALYSIS if layers is None else LENS,
            layer=layer,
            layer_index=scorer.layers.index(layer),
            store=listener.source,
            seed=task.seed,
            n_resamples=task.n_resamples,
            vocabulary=vocabulary,
            stimuli_too=layers is None,
        )
        rows += rows_of(outcomes, about, words)
    return rows, found


def _revision(model: Mapping) -> str | None:
    """The revision of a hub's model; of a local one the beginning of its weights' sha256, as many are called 'tuned'."""
    return model.get("revision") or (f"sha256:{model['sha256'][:12]}" if model.get("sha256") else None)


def _reading(layer: str) -> str:
    """How the lens reads words from a layer."""
    return "read by the output layer" if layer.startswith("D") else "read by the decoder"


def baseline_rows(
    task: Task, vocabulary: Sequence[str], lexicon_name: str, smoothing: float = 1.0
) -> tuple[list[Result], list[Result]]:
    """Rows of chance and of word frequencies, and rows of the oracle: below and above any model.

    The vocabulary is ``vocabulary`` and the words of the corpus that it lacks. The multinomial is fitted on the part
    train, and left out where that is (among) what is scored.
    """
    stimuli, known = task.stimuli(), task.vocabulary(vocabulary)
    among = f"{len(known)} words ({lexicon_name} and the corpus)"

    def rows(model: str, predictor: Uniform | Multinomial | Oracle, how: str) -> list[Result]:
        about = About(
            model, task.corpus.name, joined([how, str(task)]), seed=task.seed, n_resamples=task.n_resamples,
            vocabulary=len(known),
        )  # fmt: skip
        return rows_of(answers(predictor, stimuli), about, Pronunciations())

    below = rows("random", Uniform(known, task.seed), f"uniform over {among}")
    if task.split in ("dev", "test"):
        fitted = Multinomial(task.training(), known, smoothing)
        below += rows(
            "multinomial", fitted, f"frequencies in the whole train part, {smoothing:g} added to each of {among}"
        )
    return below, rows("oracle", Oracle(), "relative frequencies of the responses")


@dataclass(frozen=True)
class _Measure:
    """One metric of each stimulus (nan: it has none), and what a guess among the vocabulary would give."""

    name: str
    values: np.ndarray
    chance: np.ndarray
    note: str = ""


def rows_of(outcomes: Sequence[Outcome], about: About, words: Pronunciations | None = None) -> list[Result]:
    """Result rows of one model: over all stimuli, over those of each masker, and for each stimulus (unit utterance).

    Log-likelihood and Kendall's tau-b; with ranked words top-1 accuracy and top-n coverage; where targets are known the
    listeners' relative frequency of the target minus its probability. Intervals: percentile bootstrap over stimuli.
    Where responses have probability 0, or the search for words was ended, a row says of how many stimuli.
    """
    groups = _groups([outcome.stimulus for outcome in outcomes])
    rows: list[Result] = []
    alone: list[Result] = []
    for measure in _measures(outcomes, about, words):
        variant = joined([measure.name, about.how, measure.note])
        for target, places in groups.items():
            rows += _mean(measure.values[places], measure.chance[places], variant, target, about)
            if measure.name == LIKELIHOOD and (impossible := np.isneginf(measure.values[places])).any():
                variant_too = joined([IMPOSSIBLE, about.how])
                rows.append(_row(about, variant_too, target, impossible.sum(), n=len(places)))
            if measure.name == TOP_N and (ended := sum(not outcomes[k].exact for k in places)):
                rows.append(_row(about, joined([UNFINISHED, about.how, measure.note]), target, ended, n=len(places)))
        if about.stimuli_too:
            alone += [
                _row(
                    about, variant, _target_of(outcome.stimulus), value, n=sum(outcome.stimulus.counts), chance=_or_none(luck)
                )
                for outcome, value, luck in zip(outcomes, measure.values, measure.chance, strict=True)
                if not math.isnan(value)
            ]  # fmt: skip
    return rows + alone


def _measures(outcomes: Sequence[Outcome], about: About, words: Pronunciations | None) -> list[_Measure]:
    size = about.vocabulary or math.nan
    n_responses = np.array([len(outcome.stimulus.responses) for outcome in outcomes])

    def each(function: Callable[[Outcome], float]) -> np.ndarray:
        return np.array([function(outcome) for outcome in outcomes], dtype=np.float64)

    def guessed(one: Outcome) -> float:
        if math.isnan(size):
            return math.nan
        return metrics.log_likelihood(np.full(len(one.stimulus.counts), -math.log(size)), one.stimulus.counts)

    likelihood = each(lambda one: one.log_likelihood)
    tau = each(lambda one: metrics.kendall(one.log_p, one.stimulus.counts))
    measures = [_Measure(LIKELIHOOD, likelihood, each(guessed)), _Measure(TAU, tau, np.zeros(len(tau)))]
    if words is not None and all(outcome.top is not None for outcome in outcomes):
        limit = f"search of up to {about.most_prefixes} prefixes" if about.most_prefixes else ""
        note = joined([about.ranked and f"among {about.ranked}", limit])
        first = each(lambda one: _first_is_right(one, words))
        share = each(lambda one: metrics.coverage(one.top or (), one.stimulus.responses, words))
        measures.append(_Measure(TOP_1, first, np.full(len(first), 1 / size), note))
        measures.append(_Measure(TOP_N, share, np.minimum(n_responses / size, 1), note))
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
    groups = {EVERYTHING: np.arange(len(stimuli))}
    names = sorted({_masker(stimulus) for stimulus in stimuli})
    if len(names) > 1:
        groups |= {name: np.array([k for k, one in enumerate(stimuli) if _masker(one) == name]) for name in names}
    return groups


def _masker(stimulus: Stimulus) -> str:
    """The masker as rows name it: never the name of all, nor with what parts it from the stimulus."""
    name = stimulus.group.replace(SEPARATOR, ":") or "no masker"
    return f"masker {name}" if name == EVERYTHING else name


def _target_of(stimulus: Stimulus) -> str:
    return f"{_masker(stimulus)}{SEPARATOR}{stimulus.utterance}"


def _mean(values: np.ndarray, chance: np.ndarray, variant: str, target: str, about: About) -> list[Result]:
    known = ~np.isnan(values)
    if not known.any():
        return []
    values, chance = values[known], chance[known]
    low, high = bootstrap_mean(values, about.n_resamples, about.seed)
    return [
        _row(
            about, variant, target, float(values.mean()), n=len(values), ci_low=low, ci_high=high,
            chance=_or_none(float(chance.mean())),
        )
    ]  # fmt: skip


def _row(about: About, variant: str, target: str, value: float, **fields) -> Result:
    return Result(
        analysis=about.analysis, variant=variant, model=about.model, revision=about.revision, step=about.step,
        corpus=about.corpus, unit="utterance", layer=about.layer, layer_index=about.layer_index, target=target,
        value=float(value), seed=about.seed, store=about.store, **fields,
    )  # fmt: skip


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def bootstrap_mean(
    values: np.ndarray, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> tuple[float | None, float | None]:
    """95 % interval of the mean of ``values`` (n,) over resamples, as ``resampling.tail`` says; None for fewer than two.

    -inf among them makes means of -inf, and so perhaps an end of the interval.
    """
    if len(values) < 2:
        return None, None
    random = np.random.default_rng(seed)
    at_once = max(1, 4_000_000 // len(values))
    means = np.concatenate(
        [
            values[random.integers(len(values), size=(min(at_once, n_resamples - done), len(values)))].mean(axis=1)
            for done in range(0, n_resamples, at_once)
        ]
    )
    tail = resampling.tail(len(values))
    # an order statistic: between -inf and a number there is nothing
    low, high = np.quantile(means, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
