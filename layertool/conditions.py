"""Conditions on columns, ``COLUMN=VALUE``: what --where says, of rows of a store and of utterances of a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from layertool import columns
from layertool.errors import UsageError
from layertool.spelling import nfc

SHOWN = 8  # values named in an error


@dataclass(frozen=True)
class Condition:
    """Rows whose ``column`` has one of ``values``; none of them, when ``negated``."""

    column: str
    values: tuple[str, ...]
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.column}{'!=' if self.negated else '='}{' or '.join(self.values)}"


def parse_where(texts: Sequence[str]) -> list[Condition]:
    """Conditions from ``COLUMN=VALUE`` and ``COLUMN!=VALUE``. Raises UsageError for anything else.

    Several values of one column are alternatives; conditions on different columns hold together.
    """
    alternatives: dict[tuple[str, bool], list[str]] = {}
    for text in texts:
        column, equals, value = nfc(text).partition("=")
        if not equals or not column.strip("! "):
            raise UsageError(f"'{text}' is no condition: type --where COLUMN=VALUE or COLUMN!=VALUE")
        negated = column.rstrip().endswith("!")
        alternatives.setdefault((column.rstrip("! ").strip(), negated), []).append(value.strip())
    return [Condition(column, tuple(values), negated) for (column, negated), values in alternatives.items()]


def conditions(given: Condition | str | Iterable[Condition | str]) -> tuple[Condition, ...]:
    """Conditions as somebody gives them: texts ``COLUMN=VALUE``, ready ones, or both."""
    parts = [given] if isinstance(given, (str, Condition)) else list(given)
    typed = parse_where([str(part) for part in parts if not isinstance(part, Condition)])
    return (*(part for part in parts if isinstance(part, Condition)), *typed)


def holds(table: pd.DataFrame, where: Sequence[Condition], what: str) -> np.ndarray:
    """Which rows of a table of utterances meet all conditions, a mask; ``what`` they are of, for errors.

    Raises UsageError for a column that is not there, and when nothing is left.
    """
    chosen = np.ones(len(table), bool)
    for condition in where:
        if condition.column not in table:
            raise UsageError(f"{what} has no column '{condition.column}': it has {', '.join(map(str, table.columns))}")
        values = columns.exact(table[condition.column])
        meets = equal(values, condition.values)
        chosen &= ~meets if condition.negated else meets
        if not chosen.any():
            there = columns.shown(values, SHOWN)
            wanted = " and ".join(map(str, where))
            raise UsageError(f"no utterance of {what} has {wanted} (values of {condition.column}: {there})")
    return chosen


def equal(values: np.ndarray, wanted: Sequence[str]) -> np.ndarray:
    """Which values (n,) of ``columns.exact`` a person means by one of these texts, a mask."""
    return np.any([columns.equal(values, text) for text in wanted], axis=0)
