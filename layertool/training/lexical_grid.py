"""The paper's search over learning rate, warm-up, schedule and epochs (spec lexical.md 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from layertool.corpora.corpus import Corpus
from layertool.files import read_json, write_json
from layertool.models.open import Model
from layertool.training.lexical import DIVERGED, Diverged, Options, Tuned, fine_tune

# The paper's search space.
GRID = {
    "learning_rate": (1e-3, 1e-4, 1e-5),
    "warmup": (0.1, 0.5),
    "schedule": ("linear", "cosine"),
    "epochs": (1, 4, 8, 12, 16),
}


def grid(options: Options) -> dict[str, Options]:
    """The paper's search space around what was asked for: a name and the options of each of its 60 points."""
    points = {}
    for values in product(*GRID.values()):
        changed: Any = dict(zip(GRID, values, strict=True))
        point = replace(options, grid=False, **changed)
        name = f"lr{point.learning_rate:.0e}-warmup{point.warmup:g}-{point.schedule}-{point.epochs}epochs"
        points[name] = point
    return points


def search_grid(
    model: Model | str,
    corpus: Corpus,
    out: Path | str,
    options: Options,
    tell: Callable[[str, Tuned | Diverged], object],
    **how: Any,
) -> tuple[str, Tuned]:
    """Fine-tune at every point of the grid, each in a folder of its own, and keep the best model's weights, there.

    ``tell``: called after each. Returns the name and the run of the best. What is finished, or has diverged, is not run
    again. Raises Diverged where every point has.
    """
    out = Path(out)
    best: tuple[str, Tuned] | None = None
    for name, point in grid(options).items():
        lost = out / name / DIVERGED
        try:
            if lost.exists() and not how.get("overwrite"):
                raise Diverged(read_json(lost, "what became of a run")["diverged"])
            tuned = fine_tune(model, corpus, out / name, point, weights_needed=False, **how)
        except Diverged as error:
            write_json(lost, {"diverged": str(error)})
            tell(name, error)
            continue
        tell(name, tuned)
        worse: Path | None = tuned.folder
        if best is None or tuned.best.dev > best[1].best.dev:
            worse = best[1].folder if best else None
            best = name, tuned
        for weights in worse.glob("model*.safetensors") if worse else ():
            weights.unlink()
    if best is None:
        raise Diverged("training diverged at every point of the grid: lower the learning rates")
    return best
