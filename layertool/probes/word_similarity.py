"""Word similarity: are words that people call alike near each other in a layer? (Pasad et al. 2021, section 4.3.)

A word's vector is the mean of its tokens' vectors, whatever their context; the score of a task is Spearman's
correlation of cosines with human ratings (spec layerwise.md 5.2).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from layertool import resampling
from layertool.errors import CorpusError
from layertool.probes.directions import directions
from layertool.spelling import is_number, nfc

COLUMNS = ("word1", "word2", "similarity")
SAME_ROWS = 0.9  # of the larger file: two of that many equal rows are one task that stands there twice
_PAIRS_AT_ONCE = 256
FEWEST_PAIRS = 3  # a rank correlation takes as many
_TAGGED = re.compile(r".+-[a-z]")  # of a word with its part of speech, as in MEN: sun-n


@dataclass(frozen=True)
class Task:
    """Word pairs (n, 2), casefolded, and human ratings (n,); ``n_read``: pairs in the file before any was left out."""

    name: str
    pairs: list[tuple[str, str]]
    ratings: np.ndarray
    n_read: int

    def __str__(self) -> str:
        return self.name

    @property
    def words(self) -> list[str]:
        """Every word once, in the order of the pairs."""
        return list(dict.fromkeys(word for pair in self.pairs for word in pair))

    def among(self, known: set[str]) -> Task:
        """The pairs whose two words are known."""
        kept = [k for k, pair in enumerate(self.pairs) if known.issuperset(pair)]
        return replace(self, pairs=[self.pairs[k] for k in kept], ratings=self.ratings[kept])


def read(path: Path | str) -> list[Task]:
    """Tasks of a CSV file in the layout of vecto-ai/word-benchmarks, or of every such file of a folder, by name.

    A header names the columns word1, word2 and similarity, in any order among others. Rows without words or rating
    are passed over. Words are taken without regard to case and, where all words of a file end so, without their part of
    speech ("sun-n"). Raises CorpusError for a file that is missing, has other columns, or a rating that is no number.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.csv"))
        if not files:
            raise CorpusError(f"{path} has no .csv file: give the folder of word-benchmarks, or a file of it")
        return [task for file in files for task in read(file)]
    if not path.is_file():
        raise CorpusError(f"{path} does not exist: give a .csv file of word-benchmarks, or a folder of them")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path} is no CSV file in UTF-8 ({error}): give one of word-benchmarks") from error
    head = [name.strip().lower() for name in rows[0]] if rows else []
    missing = [name for name in COLUMNS if name not in head]
    if missing:
        raise CorpusError(
            f"{path} has no column '{missing[0]}' (it has {', '.join(filter(None, head)) or 'none'}): a task has the "
            f"columns {', '.join(COLUMNS)}"
        )
    places = [head.index(name) for name in COLUMNS]
    pairs: list[tuple[str, str]] = []
    ratings: list[float] = []
    for number, row in enumerate(rows[1:], start=2):
        first, second, text = (nfc(row[place].strip()).casefold() if place < len(row) else "" for place in places)
        if not (first and second and text):
            continue
        pairs.append((first, second))
        if not (is_number(text) and math.isfinite(float(text))):
            raise CorpusError(f"{path}, line {number} has the rating '{text}', which is no finite number: correct it")
        ratings.append(float(text))
    if not pairs:
        raise CorpusError(f"{path} has no pair of words below its header: give a whole file")
    if all(_TAGGED.fullmatch(word) for pair in pairs for word in pair):
        pairs = [(first[:-2], second[:-2]) for first, second in pairs]
    return [Task(path.stem, pairs, np.array(ratings), len(pairs))]


def without_copies(
    tasks: Sequence[Task], n_known: Sequence[int] | None = None
) -> tuple[list[Task], list[tuple[Task, Task]]]:
    """Tasks of which each counts once, and the (copy, original) that were left out.

    Two tasks are one where 90 % of the rows of the larger stand in the other: verb-143 of word-benchmarks is yp-130.
    The one with more pairs (``n_known``: more of them known) is kept, then the first. A file given twice is such a
    copy, too.
    """
    sizes = [len(task.pairs) for task in tasks] if n_known is None else n_known
    ranked = sorted(range(len(tasks)), key=lambda k: -sizes[k])
    kept: list[int] = []
    copies = []
    for k in ranked:
        original = next((j for j in kept if _same(tasks[k], tasks[j])), None)
        if original is None:
            kept.append(k)
        else:
            copies.append((tasks[k], tasks[original]))
    return [tasks[k] for k in sorted(kept)], copies


def _same(one: Task, other: Task) -> bool:
    rows = [
        {(*sorted(pair), rating) for pair, rating in zip(t.pairs, t.ratings.tolist(), strict=True)}
        for t in (one, other)
    ]
    return len(rows[0] & rows[1]) >= SAME_ROWS * max(map(len, rows))


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's: how many characters are inserted, left out or exchanged."""
    costs = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        before, costs[0] = costs[0], i
        for j, b in enumerate(second, start=1):
            before, costs[j] = costs[j], min(costs[j] + 1, costs[j - 1] + 1, before + (a != b))
    return costs[-1]


def spelling(task: Task) -> np.ndarray:
    """The baseline of spelling (n,): minus the edit distance of each pair."""
    return -np.array([edit_distance(*pair) for pair in task.pairs], np.float64)


def cosines(vectors: np.ndarray, words: Sequence[str], task: Task) -> np.ndarray:
    """Cosine (n,) of each pair of the task, from one vector (n_words, width) of each word.

    Raises FeatureError for a vector of zeros or with values that are not finite.
    """
    unit = directions(vectors, lambda at: f"the vector of '{words[at]}'")
    place = {word: k for k, word in enumerate(words)}
    first, second = (unit[[place[pair[side]] for pair in task.pairs]] for side in (0, 1))
    return np.einsum("ij,ij->i", first, second)


@dataclass(frozen=True)
class Scores:
    """Spearman's correlation of each task with its 95 % interval, their mean over tasks, and over pairs."""

    tasks: list[tuple[float, float | None, float | None]]
    macro: tuple[float, float | None, float | None]
    micro: tuple[float, float | None, float | None]


def score(tasks: Sequence[Task], similarities: Sequence[np.ndarray]) -> Scores:
    """Correlations of similarities (n,) with the ratings of each task, NaN where all similarities are equal.

    Means are over the tasks with a correlation: macro counts them alike, micro by their pairs. Intervals are of other
    words and other pairs of them: pairs depend on each other where they share a word, so the variance is the sum over
    words of what leaving out all pairs of a word changes, less what leaving out each pair does, which stands in the
    sums of both its words (Aronow, Samii and Assenova 2015, Political Analysis 23, dyadic clusters); at least that of
    independent pairs. Ends are taken in Fisher's z. None for a task that has no correlation without one of its pairs
    (three of them, or one rating that differs); in means it counts as one that says nothing, whose variance is 1 / (n -
    1).
    """
    values = np.array([resampling.spearman(s, task.ratings) for s, task in zip(similarities, tasks, strict=True)])
    known = np.flatnonzero(np.isfinite(values))
    changes = [_changes(s, task.ratings) for s, task in zip(similarities, tasks, strict=True)]

    def weighted(which: Sequence[int] | np.ndarray, weights: np.ndarray) -> tuple[float, float | None, float | None]:
        if not len(which):
            return math.nan, None, None
        shares = weights / weights.sum()
        change: dict[tuple[str, ...], float] = {}  # of one pair of words in whatever tasks and order
        for share, k in zip(shares, which, strict=True):
            mine = changes[k]
            if len(which) > 1 and np.isnan(mine).any():
                mine = np.full(len(mine), (len(mine) * (len(mine) - 1)) ** -0.5)
            for pair, one in zip(tasks[k].pairs, mine, strict=True):
                change[tuple(sorted(set(pair)))] = change.get(tuple(sorted(set(pair))), 0.0) + share * one
        return float(values[which] @ shares), *_interval(float(values[which] @ shares), change)

    n_pairs = np.array([len(task.pairs) for task in tasks], np.float64)
    return Scores(
        [weighted([k], np.ones(1)) for k in range(len(tasks))],
        weighted(known, np.ones(len(known))),
        weighted(known, n_pairs[known]),
    )


def _changes(similarities: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """How much each pair (n,) moves the correlation: its change without the pair, about the mean, as a jackknife takes
    it."""
    n = len(ratings)
    without = np.empty(n)
    for first in range(0, n, _PAIRS_AT_ONCE):  # the weights of a block of pairs are in memory at once
        places = np.arange(first, min(first + _PAIRS_AT_ONCE, n))
        without[places] = resampling.weighted_spearman(similarities, ratings, places[:, None] != np.arange(n))
    return np.sqrt((n - 1) / n) * (without.mean() - without)


def _interval(value: float, change: dict[tuple[str, ...], float]) -> tuple[float, float] | tuple[None, None]:
    of_word: dict[str, float] = {}
    for pair, one in change.items():
        for word in pair:
            of_word[word] = of_word.get(word, 0.0) + one
    apart = sum(one**2 for one in change.values())
    twice = sum(one**2 for pair, one in change.items() if len(pair) == 2)
    variance = max(sum(one**2 for one in of_word.values()) - twice, apart)
    if not math.isfinite(variance) or len(of_word) < 2:
        return None, None
    if abs(value) >= 1 or not variance:
        return value, value
    reach = stats.t.ppf((1 + resampling.LEVEL) / 2, len(of_word) - 1) * math.sqrt(variance) / (1 - value**2)
    return math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)
