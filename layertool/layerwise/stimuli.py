"""Stimuli: what listeners said to each utterance of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from layertool.conditions import Condition, holds
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, UsageError

_REQUIRED = ("responses", "counts")


@dataclass(frozen=True)
class Stimulus:
    """One clip, the different words that listeners gave, and how many gave each (spec lexical.md 1).

    ``place``: the row in the corpus. ``group``: its masker, "" where the corpus has none; ``target``: the word spoken.
    """

    place: int
    utterance: str
    responses: tuple[str, ...]
    counts: tuple[int, ...]
    group: str = ""
    target: str | None = None

    @property
    def words(self) -> list[str]:
        """The responses, and after them the target where one is known."""
        return [*self.responses, *([self.target] if self.target else [])]


def stimuli_of(
    corpus: Corpus, split: str | None = None, by_target: bool = False, where: Sequence[Condition] = ()
) -> list[Stimulus]:
    """The stimuli of a corpus, in its order.

    The corpus has the columns responses (joined by ``|``) and counts (joined by spaces), and may have masker and
    target. ``split``: train, dev or test, of the column split, or with ``by_target`` split_by_target. Raises
    CorpusError for rows that contradict themselves, UsageError for parts and conditions that nothing meets.
    """
    table = corpus.utterances
    for column in _REQUIRED:
        if column not in table:
            raise CorpusError(
                f"the corpus {corpus.name} has no column '{column}', so it holds no listeners' responses: make one "
                "with 'layertool corpus eccc', or add responses (joined by |) and counts (joined by spaces)"
            )
    conditions = list(where)
    if split is not None:
        column = "split_by_target" if by_target else "split"
        if column not in table:
            raise UsageError(f"the corpus {corpus.name} has no column '{column}': leave out --split {split}")
        conditions.append(Condition(column, (split,)))
    chosen = holds(table, conditions, f"the corpus {corpus.name}")
    columns = {name: table[name].tolist() if name in table else None for name in (*_REQUIRED, "masker", "target")}
    return [
        _stimulus(int(place), str(table["utterance"].iloc[place]), {n: v and v[place] for n, v in columns.items()})
        for place in chosen.nonzero()[0]
    ]


def _stimulus(place: int, utterance: str, cells: dict) -> Stimulus:
    # a table made by hand may hold counts as numbers
    given = {
        name: ""
        if cell is None or pd.isna(cell)
        else f"{cell:.0f}"
        if isinstance(cell, float) and cell.is_integer()
        else str(cell)
        for name, cell in cells.items()
    }
    responses = tuple(part.strip() for part in given["responses"].split("|"))
    parts = given["counts"].split()
    if "" in responses:
        raise CorpusError(f"utterance '{utterance}' has an empty response: correct its 'responses'")
    if len({word.lower() for word in responses}) < len(responses):
        raise CorpusError(f"utterance '{utterance}' has a response twice: add their counts up in one")
    if len(parts) != len(responses) or not all(part.isdecimal() and int(part) for part in parts):
        raise CorpusError(
            f"utterance '{utterance}' has {len(responses)} response{'s' * (len(responses) != 1)} and the counts "
            f"'{given['counts']}': give a whole number above 0 for each response"
        )
    return Stimulus(
        place, utterance, responses, tuple(map(int, parts)), given["masker"], given["target"].strip() or None
    )


def top_response(stimulus: Stimulus) -> str:
    """The most common response; of several, the one that the corpus names first."""
    return stimulus.responses[stimulus.counts.index(max(stimulus.counts))]


def relative_frequency(stimulus: Stimulus, word: str) -> float:
    """Share of the listeners who gave this word."""
    given = dict(zip((r.lower() for r in stimulus.responses), stimulus.counts, strict=True))
    return given.get(word.lower(), 0) / sum(stimulus.counts)
