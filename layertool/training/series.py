"""What runs share that write a model every so many steps."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layertool.files import remove, whole_file
from layertool.training.session import Loss

MOST_LOG_STEPS = 50


def log_steps(save_steps: int) -> int:
    """Steps between losses: up to 50, and a whole number of times in ``save_steps``, or a run that goes on would lose
    some."""
    return next(n for n in range(min(MOST_LOG_STEPS, save_steps), 0, -1) if save_steps % n == 0)


def forget(folder: Path, last: int) -> None:
    """Remove models of steps that are to be done again, and whatever a kill left half-written."""
    for path in [*folder.glob("step-*"), *folder.glob(".step-*.part")]:
        step = path.name.removeprefix("step-")
        if not step.isdecimal() or int(step) > last:
            remove(path)


def models_of(folder: Path) -> list[Path]:
    """The models of a run, the first step first."""
    return sorted(folder.glob("step-*"), key=lambda model: int(model.name.removeprefix("step-")))


def write_losses(path: Path, losses: Sequence[Loss]) -> None:
    """Write losses as a table of steps."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "loss"])
        writer.writerows([loss.step, repr(loss.loss)] for loss in losses)


def plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples, text for names."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value
