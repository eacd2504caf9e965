"""What there is to say to a person about something: facts, tables and notes as values, and numbers in words.

Functions of the library return an ``Account``; the command line prints it (``commands.output.show``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Table(NamedTuple):
    """``rows`` under ``headers``, below a ``title`` or none."""

    title: str | None
    headers: Sequence[str]
    rows: Sequence[Sequence]


@dataclass(frozen=True)
class Account:
    """``title`` above ``facts`` (name, value); ``tables``; ``lines`` below them.

    ``notes`` are no results, and nor are ``warnings``, which are told to those who want no notes, too.

    ``data``: the same for programs, where it is not only ``facts``.
    """

    title: str
    facts: Sequence[tuple[str, object]] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    data: dict = field(default_factory=dict)


def number(cell: object) -> str:
    """A cell as text: thousands apart, three digits after the point."""
    if isinstance(cell, bool) or cell is None:
        return {True: "yes", False: "no", None: ""}[cell]
    if isinstance(cell, int):
        return f"{cell:,}".replace(",", " ")
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def count(n: int, thing: str) -> str:
    """A number and its noun: 1 shard, 12 shards."""
    return f"{number(n)} {thing}{'' if n == 1 else 's'}"


def size(n_bytes: float) -> str:
    """Bytes for a person, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds of audio for a person: 12.3 s, 4 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
