"""Word similarity of every layer of a store: one vector for each word, against human ratings of pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from layertool.analysis import embeddings
from layertool.declared import option
from layertool.errors import UsageError, tell
from layertool.layerwise import rows as row_rules
from layertool.layerwise.analysis import Analysis, Metric, Problem, Score, unit_option
from layertool.layerwise.rows import Rows, Sampling
from layertool.layerwise.views import LayerView
from layertool.probes import word_similarity as probe
from layertool.result_rows import Result
from layertool.store import FeatureStore

MACRO, MICRO = "mean over tasks", "mean over pairs"  # targets
CORRELATION, COVERAGE = "Spearman", "coverage"  # metrics
SPELLING = "edit distance"


def tasks_of(given: Any) -> tuple[probe.Task, ...]:
    """Tasks, however they are given: files, folders, ready ones."""
    return tuple(task for one in _each(given) for task in ([one] if isinstance(one, probe.Task) else probe.read(one)))


def _each(given: Any) -> Sequence[Any]:
    return [given] if isinstance(given, (str, Path, probe.Task)) else list(given)


@dataclass(frozen=True)
class Said(Problem):
    """``tasks``, ``left``: each with those of its pairs that were said; ``words`` (n_words,) of the tasks that suffice.

    The label codes of the rows are places in ``words``.
    """

    tasks: Sequence[probe.Task]
    left: Sequence[probe.Task]
    words: Sequence[str]

    @property
    def scored(self) -> list[probe.Task]:
        """What is left of the tasks that have enough pairs."""
        return _with_enough(self.left)

    def means(self, features: np.ndarray) -> np.ndarray:
        """Mean vector (n_words, width) of each word's tokens; features (n, width) of the rows."""
        word = self.rows.table["label"]
        order = np.argsort(word, kind="stable")
        first = np.searchsorted(word[order], np.arange(len(self.words)))
        sums = np.add.reduceat(features[order].astype(np.float64), first)
        return sums / np.bincount(word)[:, None]


@dataclass(frozen=True, kw_only=True)
class Similarity(Analysis):
    """Words that people call alike: Spearman's correlation with ratings.

    A word's vector is the mean over its tokens. Below the layers: how well spelling and text embeddings do.

    \b
    Examples:
      layertool probe similarity w2v2 --benchmark word-similarity/monolingual/en
      layertool probe similarity w2v2 hubert --benchmark men.csv \\
          --embeddings glove.txt --plot meaning.pdf
    """

    benchmark: tuple[probe.Task, ...] = option(
        help="Rated word pairs, .csv with word1, word2, similarity (vecto-ai/word-benchmarks). Repeatable.",
        metavar="FILE|FOLDER",
        parse=tasks_of,
    )
    embeddings: tuple[Path, ...] = option(
        (),
        "Vectors of words to compare the layers with, e.g. glove.txt. Repeatable.",
        metavar="FILE",
        parse=lambda given: tuple(map(Path, _each(given))),
        decides=False,
    )
    min_tokens: int = option(1, "Leave words that were said less often out.", low=1)
    max_tokens: int | None = option(None, "Draw up to so many tokens of each word.", low=1, metavar="N", usual="all")
    unit: str | None = unit_option()

    name = "word similarity"
    command = "probe similarity"
    metrics = (
        Metric(CORRELATION, "Spearman's correlation"),
        Metric(COVERAGE, "share of pairs whose words were said", is_share=True, drawn=False),
    )
    cites = ("pasad2021", "pasad2024")
    usual_unit = "word"

    def prepare(self, store: FeatureStore, unit: str, layer: str) -> Said:
        rows = row_rules.of_speech(store, unit, row_rules.select(store, unit, layer, self.where))
        said = self._said(store, unit, rows)
        tasks = _each_once(self.benchmark, said)
        left = [task.among(said) for task in tasks]
        few = [task for task in left if len(task.pairs) < probe.FEWEST_PAIRS]
        shown = ", ".join(f"{task.name}: {len(task.pairs)} of {task.n_read}" for task in few[:8])
        if len(few) == len(left):
            raise UsageError(
                f"{store.path}: no task has {probe.FEWEST_PAIRS} pairs whose words were said ({shown}): take a larger "
                "corpus, or other benchmarks"
            )
        if few:
            tell(f"left out: tasks with fewer than {probe.FEWEST_PAIRS} pairs whose words were said ({shown})")
        words = _words(_with_enough(left))
        place_of = {name: k for k, name in enumerate(words)}
        places = np.array([place_of.get(label.casefold(), -1) for label in store.labels[unit]])
        rows = rows.of(places[rows.table["label"]] >= 0)
        rows.table["label"] = places[rows.table["label"]]  # words, in whatever spelling; a copy: rows were chosen
        if self.max_tokens is not None:
            rows = row_rules.draw(rows, Sampling(per_label=self.max_tokens), self.seed)
        return Said(rows, tasks, left, words)

    def _said(self, store: FeatureStore, unit: str, rows: Rows) -> set[str]:
        """The words, in lower case, that have enough tokens in whatever spelling."""
        names = store.labels[unit]
        n_tokens: Counter[str] = Counter()
        for name, n in zip(names, np.bincount(rows.table["label"], minlength=len(names)), strict=True):
            n_tokens[name.casefold()] += int(n)
        return {word for word, n in n_tokens.items() if n >= self.min_tokens}

    def compute(self, view: LayerView, problem: Said) -> probe.Scores:
        means = problem.means(view.read())
        return probe.score(problem.scored, [probe.cosines(means, problem.words, task) for task in problem.scored])

    def conclude(
        self, store: FeatureStore, unit: str, pieces: Sequence[tuple], outcomes: Sequence[probe.Scores]
    ) -> Iterator[tuple[str, Score, Mapping[str, Any]]]:
        problem: Said = pieces[0][1]
        for (view, _), found in zip(pieces, outcomes, strict=True):
            for score in _scores(found, problem.scored):
                yield view.layer, score, problem.settings
        for name, tasks, similarities in self._baselines(problem.scored):
            for score in _scores(probe.score(tasks, similarities), tasks):
                yield "", replace(score, baseline=name), problem.settings
        for task, known in zip(problem.tasks, problem.left, strict=True):
            n, at = len(known.pairs), len(store.layers)
            share = n / task.n_read
            score = Score(COVERAGE, share, n=n, target=task.name, item=task.name, layer="model", layer_index=at)
            yield "", score, problem.settings

    def row(self, store: FeatureStore, unit: str, layer: str, score: Score, settings: Mapping[str, Any]) -> Result:
        made = super().row(store, unit, layer, score, settings)
        return replace(made, seed=None) if score.metric == COVERAGE else made  # nothing is drawn

    def _baselines(
        self, tasks: Sequence[probe.Task]
    ) -> Iterator[tuple[str, Sequence[probe.Task], Sequence[np.ndarray]]]:
        """Name of each baseline, and the tasks that it has pairs of, with their similarities."""
        yield SPELLING, tasks, [probe.spelling(task) for task in tasks]
        words = _words(tasks)
        for path in self.embeddings:
            found = embeddings.read(path, words)
            known = [word for word, row in zip(words, found.index, strict=True) if row >= 0]
            if found.missing:
                tell(f"{path} lacks {len(found.missing)} of {len(words)} words: {found.name_missing()}")
            vectors = found.vectors[found.index[found.index >= 0]]
            left = _with_enough([task.among(set(known)) for task in tasks])
            if not left:
                raise UsageError(
                    f"{path} has both words of fewer than {probe.FEWEST_PAIRS} pairs of every task: choose another file"
                )
            yield path.name, left, [probe.cosines(vectors, known, task) for task in left]


def _each_once(tasks: Sequence[probe.Task], said: set[str]) -> list[probe.Task]:
    """Tasks without copies; of two copies the one with more words that were said."""
    kept, copies = probe.without_copies(tasks, [len(task.among(said).pairs) for task in tasks])
    for copy, original in copies:
        tell(f"left out: {copy.name}, which has the same pairs and ratings as {original.name}")
    names = [task.name for task in kept]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two different tasks are called '{name}': rename one of the files")
    return kept


def _with_enough(tasks: Sequence[probe.Task]) -> list[probe.Task]:
    """Those that a correlation can be taken of."""
    return [task for task in tasks if len(task.pairs) >= probe.FEWEST_PAIRS]


def _words(tasks: Sequence[probe.Task]) -> list[str]:
    """Every word once, in the order of the tasks."""
    return list(dict.fromkeys(word for task in tasks for word in task.words))


def _scores(found: probe.Scores, tasks: Sequence[probe.Task]) -> Iterator[Score]:
    """The means, then each task."""
    n_pairs = [len(task.pairs) for task in tasks]
    for target, n, (value, low, high) in ((MACRO, len(tasks), found.macro), (MICRO, sum(n_pairs), found.micro)):
        yield Score(CORRELATION, value, low, high, chance=0.0, n=n, target=target)
    for task, n, (value, low, high) in zip(tasks, n_pairs, found.tasks, strict=True):
        yield Score(CORRELATION, value, low, high, chance=0.0, n=n, target=task.name, item=task.name)
