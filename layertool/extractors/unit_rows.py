"""The rows of each utterance at phone, word and utterance, made when they are needed.

All at once they would fill memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from layertool.corpora.corpus import Corpus
from layertool.corpora.segments import blocks, places
from layertool.errors import CorpusError, UsageError
from layertool.geometry import seconds_to_samples
from layertool.spelling import is_text
from layertool.store import layout
from layertool.store.schema import check_unit


@dataclass(frozen=True)
class UnitRows:
    """The rows of one utterance at one unit: start, end (samples) and label code, each shape (rows,)."""

    start: np.ndarray
    end: np.ndarray
    label: np.ndarray


class CorpusRows:
    """Where the rows of every utterance lie.

    ``labels``: tier -> its labels in alphabetical order; ``counts``: unit -> rows in all; ``n_empty``: segments that
    are left out because they have no sample. Raises UsageError for an unknown unit or a tier that the corpus has not.
    """

    def __init__(self, corpus: Corpus, units: Sequence[str]):
        self.tiers = _tiers(corpus, units)
        self.lengths = corpus.utterances["n_samples"].to_numpy()
        segments, owners = corpus.segments, corpus.owners()
        if (owners[1:] < owners[:-1]).any():  # a table made by hand
            order = np.argsort(owners, kind="stable")
            segments, owners = segments.iloc[order], owners[order]
        self._bounds = np.searchsorted(owners, np.arange(len(self.lengths) + 1, dtype=owners.dtype))
        self._starts, self._ends = (segments[column].to_numpy(float) for column in ("start", "end"))
        self._tier = places(segments["tier"], self.tiers).astype(np.int8)  # -1: of no tier that was asked for
        self._label = np.full(len(owners), layout.NO_LABEL, np.int32)
        self.counts = {"utterance": len(self.lengths), **dict.fromkeys(self.tiers, 0)}
        self.n_empty = 0
        known: dict[str, dict[str, int]] = {tier: {} for tier in self.tiers}
        for rows in blocks(len(owners)):
            is_empty = seconds_to_samples(self._ends[rows]) <= seconds_to_samples(self._starts[rows])
            for k, tier in enumerate(self.tiers):
                mine = self._tier[rows] == k
                self.n_empty += int((mine & is_empty).sum())
                self.counts[tier] += int((mine & ~is_empty).sum())
                codes, names = pd.factorize(segments["label"].iloc[rows][mine])
                if (codes < 0).any() or not all(isinstance(name, str) and is_text(name) for name in names):
                    wrong = next((name for name in names if not isinstance(name, str) or not is_text(name)), None)
                    raise CorpusError(
                        f"the corpus {corpus.name} has a {tier} with the label {wrong!a}, which is no text: correct it"
                    )
                found = [known[tier].setdefault(name, len(known[tier])) for name in names]
                self._label[rows][mine] = np.array(found, np.int32)[codes]
        self.labels = {tier: sorted(names) for tier, names in known.items()}
        for k, tier in enumerate(self.tiers):
            place = {name: code for code, name in enumerate(self.labels[tier])}
            code_of = np.array([place[name] for name in known[tier]], np.int32)
            for rows in blocks(len(owners)):
                mine = self._tier[rows] == k
                self._label[rows][mine] = code_of[self._label[rows][mine]]

    def of(self, position: int) -> dict[str, UnitRows]:
        """Unit -> rows of one utterance in the order of time, at the asked tiers and at ``utterance``."""
        mine = slice(self._bounds[position], self._bounds[position + 1])
        starts, ends = seconds_to_samples(self._starts[mine]), seconds_to_samples(self._ends[mine])
        whole = np.array([0]), self.lengths[position : position + 1], np.array([layout.NO_LABEL])
        rows = {"utterance": UnitRows(*whole)}
        for k, tier in enumerate(self.tiers):
            kept = np.flatnonzero((self._tier[mine] == k) & (ends > starts))
            kept = kept[np.lexsort((ends[kept], starts[kept]))]
            rows[tier] = UnitRows(starts[kept], ends[kept], self._label[mine][kept])
        return rows


def _tiers(corpus: Corpus, units: Sequence[str]) -> list[str]:
    """The tiers among the units. Raises UsageError for an unknown unit or a tier that the corpus has not."""
    for unit in units:
        check_unit(unit)
    tiers = [unit for unit in units if unit in ("phone", "word")]
    for tier in tiers:
        if tier not in corpus.tiers:
            there = ", ".join(corpus.tiers) or "none"
            raise UsageError(
                f"the corpus {corpus.name} has no {tier} segments (tiers there: {there}): make them with "
                "'layertool corpus align', name the tier with --tier when the corpus is made, or leave the unit out"
            )
    return tiers
