"""A series of checkpoints: one MODEL with a pattern in it means many."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from layertool.errors import ModelError

KINDS = ("fairseq", "melhubert", "fairseq-native")  # of MODELs that name a file: KIND:FILE
_PATTERN = re.compile(r"[*?\[]")


def split_kind(model: str) -> tuple[str | None, str]:
    """'melhubert:FILE' -> ('melhubert', FILE); (None, model) for every other MODEL."""
    kind, colon, path = model.partition(":")
    return (kind, path) if colon and kind in KINDS else (None, model)


def members(model: str) -> list[tuple[str | None, str]]:
    """The MODELs that a pattern names, each with a name for its store, in the order of the numbers in their names.

    A MODEL without a pattern is its only member, and has no name. Raises ModelError where nothing has such a name.
    """
    kind, pattern = split_kind(model)
    if not _PATTERN.search(pattern) or Path(pattern).exists():
        return [(None, model)]
    found = sorted(map(Path, glob.glob(pattern)), key=lambda path: _natural(str(path)))
    if kind is None:  # checkpoints of Hugging Face are folders
        found = [path for path in found if path.is_dir()]
    if not found:
        raise ModelError(f"no checkpoint is called {pattern}: check the pattern, and keep it in quotes")
    parts = 1
    while len({_name(path, parts) for path in found}) < len(found) and parts < max(len(p.parts) for p in found):
        parts += 1
    return [(_name(path, parts), f"{kind}:{path}" if kind else str(path)) for path in found]


def _name(path: Path, parts: int) -> str:
    """As many last parts of a path as tell it from the others, without the suffix of a file."""
    whole = path if path.is_dir() else path.with_suffix("")
    return "-".join(whole.parts[-parts:])


def _natural(text: str) -> list:
    """Sorts step 900 before step 1000."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", text) if part]
