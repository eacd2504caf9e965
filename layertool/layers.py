"""Layer names: C1… convolution, T0 input of the first block, T1…TL blocks, final, D0…DM decoder.

A layer is named after where its hook sits, never after a position in a library's ``hidden_states``:

* ``C{i}``: output of convolution block i after its norm (if any) and activation;
* ``T0``: input of the first transformer block (after projection, positions and, in post-norm
  models, the encoder's norm); ``T{l}``: output of block l, the raw residual stream;
* ``final``: output of the last block after the encoder's own last norm, in models that have one;
* ``D0``: input of the first decoder block; ``D{m}``: output of decoder block m.

Acoustic features have one layer, named after the feature.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from layertool.errors import UsageError

CONVENTION = "blocks-by-hook-1"  # changes when the meaning of a name changes
_NAME = re.compile(r"(C|T|D)(\d+)")


def select(asked: str | Iterable[str], available: Sequence[str], model: str) -> list[str]:
    """The asked layers in network order.

    ``asked``: names or ranges separated by commas (``"T0-T12,C7"``), a list of such, or ``"all"``:
    every layer but the decoder's, which need the utterance's text and are asked for by name.
    Raises UsageError for a name that ``model`` does not have, with those it has.
    """
    parts = [
        p
        for item in (asked if isinstance(asked, Iterable) and not isinstance(asked, str) else [asked])
        for p in str(item).split(",")
    ]
    chosen: set[str] = set()
    for part in (p.strip() for p in parts):
        if not part:
            continue
        if part == "all":
            chosen.update(name for name in available if not name.startswith("D"))
        elif part in available:
            chosen.add(part)
        else:
            chosen.update(_range(part, available, model))
    if not chosen:
        raise UsageError(f"no layer was asked for: give --layers all, or some of {summary(available)}")
    return [name for name in available if name in chosen]


def blocks(names: Iterable[str]) -> list[str]:
    """Those of the names that are T0, T1, ..., in their order."""
    return [name for name in names if (match := _NAME.fullmatch(name)) and match.group(1) == "T"]


def _range(part: str, available: Sequence[str], model: str) -> list[str]:
    first, dash, last = part.partition("-")
    left, right = _NAME.fullmatch(first), _NAME.fullmatch(last)
    if dash and left and right and left.group(1) == right.group(1):
        names = [f"{left.group(1)}{k}" for k in range(int(left.group(2)), int(right.group(2)) + 1)]
        if names and all(name in available for name in names):
            return names
        if not names:
            raise UsageError(f"the layers '{part}' go backwards: type {last}-{first}")
    raise UsageError(f"'{part}' is no layer of {model}: it has {summary(available)}")


def summary(available: Sequence[str]) -> str:
    """Layer names for a person: runs of one letter as a range, e.g. "C1-C7, T0-T12, final"."""
    runs: list[list[str]] = []
    for name in available:
        match = _NAME.fullmatch(name)
        previous = _NAME.fullmatch(runs[-1][-1]) if runs else None
        if (
            match
            and previous
            and match.group(1) == previous.group(1)
            and int(match.group(2)) == int(previous.group(2)) + 1
        ):
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
