"""Groups of people or clips that are compared: pairing them, keeping them equal, and building a corpus of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from layertool.corpora.corpus import Corpus


def exact_pairs(
    table: pd.DataFrame, x: Sequence[str], y: Sequence[str], by: Sequence[str], random: np.random.Generator
) -> list[tuple[str, str]]:
    """Pairs of one of ``x`` and one of ``y`` (labels of the index) that are equal in all columns ``by``.

    Each occurs at most once. Of those with equal values, who is paired with whom, and who is left over, is drawn.
    The pairs come in the order of ``x``.
    """
    others = _cells(table, y, by)
    pairs: dict[str, str] = {}
    for cell, here in _cells(table, x, by).items():
        drawn, partners = (random.permutation(np.array(c, dtype=object)) for c in (here, others.get(cell, [])))
        pairs |= zip(drawn, partners, strict=False)
    return [(one, pairs[one]) for one in x if one in pairs]


def equal_numbers(
    table: pd.DataFrame, groups: Mapping[str, Sequence[str]], by: str, random: np.random.Generator
) -> dict[str, list[str]]:
    """The groups (lists of labels of the index) with equally many of each value of ``by``; who stays is drawn."""
    cells = {group: _cells(table, ids, [by]) for group, ids in groups.items()}
    kept: dict[str, set[str]] = {group: set() for group in groups}
    for cell in sorted({cell for parts in cells.values() for cell in parts}):
        n = min(len(parts.get(cell, [])) for parts in cells.values())
        for group, parts in cells.items():
            kept[group] |= set(draw(parts.get(cell, []), n, random))
    return {group: [one for one in ids if one in kept[group]] for group, ids in groups.items()}


def extremes(
    table: pd.DataFrame, ids: Sequence[str], column: str, n: int, stratum: str, random: np.random.Generator
) -> tuple[list[str], list[str]]:
    """The ``n`` (at most half) of ``ids`` lowest and highest in ``column``, then equally many per ``stratum``.

    Ties are broken by a shuffle. Of each stratum and end as many are drawn as the smallest of these cells has.
    """
    shuffled = table.loc[[ids[k] for k in random.permutation(len(ids))], column]
    ordered = list(shuffled.sort_values(kind="stable").index)
    n = min(n, len(ids) // 2)
    ends = [set(ordered[:n]), set(ordered[len(ordered) - n :])]
    strata = _cells(table, ids, [stratum]).values()
    cells = [[[one for one in own if one in end] for own in strata] for end in ends]
    smallest = min((len(cell) for end in cells for cell in end), default=0)
    low, high = (sorted((one for cell in end for one in draw(cell, smallest, random)), key=ids.index) for end in cells)
    return low, high


def draw(ids: Sequence[str], n: int, random: np.random.Generator) -> list[str]:
    """``n`` of ``ids`` in their order; nothing is drawn when that is all of them."""
    if n >= len(ids):
        return list(ids)
    return [ids[k] for k in sorted(random.permutation(len(ids))[:n])]


def counted(ids: Sequence[str]) -> dict:
    """How many and which, for the provenance."""
    return {"count": len(ids), "ids": list(ids)}


def build(
    choose: Callable[[Mapping[str, str]], tuple[pd.DataFrame, dict]],
    name: str,
    max_failures: int,
    unusable: Mapping[str, str] | None = None,
) -> Corpus:
    """Build the corpus that ``choose`` proposes; when audio in it is unusable, ask again without it.

    ``choose``: from the utterances whose audio turned out to be unusable to the table of utterances and the provenance.
    So groups are balanced with what can be read. Up to ``max_failures`` utterances are given up in this way, with
    their errors in ``provenance["left_out"]``; ``unusable`` are known before. Raises CorpusError or AudioError.
    """
    unusable = dict(unusable or {})
    while True:
        table, provenance = choose(unusable)
        corpus = Corpus.build(table, None, name, provenance, max_failures, unusable)
        left_out = corpus.provenance.get("left_out", {})
        if len(left_out) == len(unusable):
            return corpus
        unusable = left_out


def _cells(table: pd.DataFrame, ids: Sequence[str], by: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """The ``ids`` by their values in ``by``, in their order; what is missing is a value too."""
    cells: dict[tuple[str, ...], list[str]] = {}
    for one, *values in table.loc[list(ids), list(by)].itertuples(name=None):
        cells.setdefault(tuple(str(value) for value in values), []).append(one)
    return cells
