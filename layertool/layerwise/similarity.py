"""Word similarity of every layer of a store: one vector for each word, against human ratings of pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from layertool.analysis import embeddings
from layertool.errors import UsageError
from layertool.layerwise import rows as row_rules
from layertool.layerwise.engine import each_layer
from layertool.layerwise.rows import Condition, Rows, Sampling
from layertool.layerwise.stores import (
    Progress,
    Say,
    baseline,
    conditions_of,
    joined,
    layers_of,
    result,
    said_once,
    silent,
    unit_of,
)
from layertool.layerwise.views import LayerView
from layertool.probes import word_similarity as probe
from layertool.result_rows import Result
from layertool.store import FeatureStore

ANALYSIS = "word similarity"
MACRO, MICRO = "mean over tasks", "mean over pairs"
COVERAGE = "coverage, share of the task's pairs whose words were said"
SPELLING = "edit distance"


@dataclass(frozen=True)
class Options:
    """How word similarity is measured; see ``word_similarity_rows``."""

    embeddings: Sequence[Path] = ()
    min_tokens: int = 1
    max_tokens: int | None = None
    where: Sequence[Condition] = ()
    seed: int = 0
    n_workers: int | None = None


@dataclass(frozen=True)
class _Words:
    """The words (n_words,) of the tasks' pairs that are left, and for each row which of them it says."""

    names: list[str]
    rows: Rows
    place: np.ndarray

    def means(self, features: np.ndarray) -> np.ndarray:
        """Mean vector (n_words, width) of each word's tokens; features (n, width) of the rows."""
        order = np.argsort(self.place, kind="stable")
        first = np.searchsorted(self.place[order], np.arange(len(self.names)))
        sums = np.add.reduceat(features[order].astype(np.float64), first)
        return sums / np.bincount(self.place)[:, None]


def word_similarity_rows(
    store: FeatureStore,
    tasks: Sequence[probe.Task],
    unit: str | None = None,
    layers: str = "all",
    options: Options | None = None,
    say: Say = silent,
    progress: Progress | None = None,
) -> list[Result]:
    """Spearman's correlation of cosines with human ratings, for each layer and task, and their means over tasks.

    A word's vector is the mean over its tokens (``options.max_tokens`` of them, drawn), at least ``min_tokens``. Pairs
    of which a word was not said are left out: rows of ``COVERAGE`` say how many are there. A task that stands there twice
    counts once, one with fewer than 3 pairs not at all. Baselines: the edit distance, and each of
    ``options.embeddings``, on the same pairs (of those that the file has both words of).
    Raises UsageError, in one sentence, for stores without words, and when no task is left.
    """
    options = options or Options()
    say = said_once(say)
    unit = unit_of(store, unit, "word", only=True)
    asked = layers_of(store, unit, layers)
    rows = row_rules.of_speech(store, unit, row_rules.select(store, unit, None, options.where))
    said = _said(store, unit, rows, options)
    tasks = _each_once(tasks, said, say)
    left, chosen, words = _choose(store, unit, tasks, rows, said, options, say)

    def compute(layer: str) -> probe.Scores:
        features = LayerView(store, unit, layer, words.rows.index).read()
        means = words.means(features)
        return probe.score(chosen, [probe.cosines(means, words.names, task) for task in chosen])

    found = each_layer(store, asked, compute, options.n_workers, progress)
    how = joined([
        "Spearman",
        f"cosine of each word's mean over {'all' if options.max_tokens is None else f'up to {options.max_tokens}'} tokens",
        f"of {options.min_tokens} or more" if options.min_tokens > 1 else "",
        conditions_of(options.where),
    ])  # fmt: skip
    out = []
    for layer, one in zip(asked, found, strict=True):
        out += _rows(one, chosen, partial(result, store, unit, layer), how, options)
    for name, alike in _baselines(chosen, options, say):
        scored = [task for task, _ in alike]
        scores = probe.score(scored, [similarity for _, similarity in alike])
        out += _rows(scores, scored, partial(baseline, store, unit, name), how, options)
    for task, known in zip(tasks, left, strict=True):
        out.append(
            result(store, unit, "model", len(store.layers), analysis=ANALYSIS, variant=COVERAGE, target=task.name,
                   value=len(known.pairs) / task.n_read, n=len(known.pairs))
        )  # fmt: skip
    return out


def _each_once(tasks: Sequence[probe.Task], said: set[str], say: Say) -> list[probe.Task]:
    """Tasks without copies; of two copies the one with more words that were said."""
    kept, copies = probe.without_copies(tasks, [len(task.among(said).pairs) for task in tasks])
    for copy, original in copies:
        say(f"left out: {copy.name}, which has the same pairs and ratings as {original.name}")
    names = [task.name for task in kept]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two different tasks are called '{name}': rename one of the files")
    return kept


def _said(store: FeatureStore, unit: str, rows: Rows, options: Options) -> set[str]:
    """The words, in lower case, that have enough tokens in whatever spelling."""
    n_tokens: Counter[str] = Counter()
    for name, n in zip(
        store.labels[unit], np.bincount(rows.table["label"], minlength=len(store.labels[unit])), strict=True
    ):
        n_tokens[name.casefold()] += int(n)
    return {word for word, n in n_tokens.items() if n >= max(1, options.min_tokens)}


def _choose(
    store: FeatureStore, unit: str, tasks: Sequence[probe.Task], rows: Rows, said: set[str], options: Options, say: Say
) -> tuple[list[probe.Task], list[probe.Task], _Words]:
    """Every task's pairs whose words were said, the tasks that have enough of them, and their words."""
    left = [task.among(said) for task in tasks]
    few = [task for task in left if len(task.pairs) < probe.FEWEST_PAIRS]
    chosen = [task for task in left if len(task.pairs) >= probe.FEWEST_PAIRS]
    if few:
        shown = ", ".join(f"{task.name}: {len(task.pairs)} of {task.n_read}" for task in few[:8])
        if not chosen:
            raise UsageError(
                f"{store.path}: no task has {probe.FEWEST_PAIRS} pairs whose words were said ({shown}): take a larger corpus, or "
                "other benchmarks"
            )
        say(f"left out: tasks with fewer than {probe.FEWEST_PAIRS} pairs whose words were said ({shown})")
    names = list(dict.fromkeys(word for task in chosen for word in task.words))
    place_of = {name: k for k, name in enumerate(names)}
    places = np.array([place_of.get(label.casefold(), -1) for label in store.labels[unit]])
    rows = rows.of(places[rows.table["label"]] >= 0)
    rows.table["label"] = places[rows.table["label"]]  # words, in whatever spelling; a copy: rows were chosen
    if options.max_tokens is not None:
        rows = row_rules.draw(rows, Sampling(per_label=options.max_tokens), options.seed)
    return left, chosen, _Words(names, rows, rows.table["label"])


def _baselines(
    tasks: Sequence[probe.Task], options: Options, say: Say
) -> list[tuple[str, list[tuple[probe.Task, np.ndarray]]]]:
    """Name of each baseline, and the tasks that it has pairs of, with their similarities."""
    out = [(SPELLING, [(task, probe.spelling(task)) for task in tasks])]
    words = list(dict.fromkeys(word for task in tasks for word in task.words))
    for path in options.embeddings:
        found = embeddings.read(path, words)
        known = [word for word, row in zip(words, found.index, strict=True) if row >= 0]
        if found.missing:
            say(f"{path} lacks {len(found.missing)} of {len(words)} words: {found.name_missing()}")
        vectors = found.vectors[found.index[found.index >= 0]]
        left = [task.among(set(known)) for task in tasks]
        left = [task for task in left if len(task.pairs) >= probe.FEWEST_PAIRS]
        if not left:
            raise UsageError(
                f"{path} has both words of fewer than {probe.FEWEST_PAIRS} pairs of every task: choose another file"
            )
        out.append((path.name, [(task, probe.cosines(vectors, known, task)) for task in left]))
    return out


def _rows(found: probe.Scores, tasks: Sequence[probe.Task], make, how: str, options: Options) -> list[Result]:
    named = [
        (MACRO, len(tasks), found.macro),
        (MICRO, sum(len(task.pairs) for task in tasks), found.micro),
        *((task.name, len(task.pairs), one) for task, one in zip(tasks, found.tasks, strict=True)),
    ]
    return [
        make(analysis=ANALYSIS, variant=how, target=target, value=value, ci_low=low, ci_high=high, chance=0.0, n=n,
             seed=options.seed)
        for target, n, (value, low, high) in named
    ]  # fmt: skip
