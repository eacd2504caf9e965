"""A series of checkpoints: one MODEL with a pattern in it means many."""

from __future__ import annotations

import glob
from pathlib import Path

from layertool.errors import ModelError
from layertool.models.checkpoint_files import split_kind
from layertool.spelling import natural

ENDINGS = (".pt", ".ckpt", ".pth", ".bin")


def members(model: str) -> list[tuple[str | None, str]]:
    """The MODELs that a pattern names, each with a name for its store, in the order of the numbers in their names.

    A MODEL without a pattern is its only member, and has no name. Of KIND:PATTERN only files count, of others only
    folders. Raises ModelError where nothing has such a name.
    """
    kind, pattern = split_kind(model)
    if not glob.has_magic(pattern) or Path(pattern).exists():
        return [(None, model)]
    found = [path for path in map(Path, glob.glob(pattern)) if path.is_dir() == (kind is None)]
    found.sort(key=lambda path: natural(str(path)))
    if not found:
        raise ModelError(f"no checkpoint is called {pattern}: check the pattern, and keep it in quotes")
    return [(name, f"{kind}:{path}" if kind else str(path)) for name, path in zip(_names(found), found, strict=True)]


def _names(found: list[Path]) -> list[str]:
    """A name for each path that is one part of a path: as much of its end as tells it from the others."""
    stems = [path.with_suffix("") if path.suffix in ENDINGS and not path.is_dir() else path for path in found]
    candidates = [[path.name for path in stems], [path.name for path in found]]
    parts = [[part for part in path.resolve().parts if part != path.anchor] for path in found]
    candidates += [["-".join(own[-k:]) for own in parts] for k in range(2, max(map(len, parts)) + 1)]
    return next(names for names in candidates if len(set(names)) == len(names))
