"""Standard against modified fine-tuning: how many top layers begin anew is found on dev (Pasad et al. 2021, section
6)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layertool.corpora.corpus import Corpus
from layertool.errors import StoreError, UsageError
from layertool.models.open import Model
from layertool.training.ctc_models import RECORD
from layertool.training.ctc_rates import Assessed
from layertool.training.ctc_run import Options, Tuned, assess_run, fine_tune
from layertool.training.encoders import open_encoder
from layertool.training.engine import Progress

FOLDER = "reinit-"  # of the run that re-initialises so many layers


@dataclass(frozen=True)
class Sweep:
    """Finished runs by how many top layers began anew, 0 (standard) first, and their rates on dev.

    ``chosen``: the best on dev of those that re-initialise any (modified). Only standard and chosen have rates on test.
    """

    runs: dict[int, Tuned]
    assessed: dict[int, dict[str, Assessed]]
    chosen: int

    @property
    def is_better(self) -> bool:
        """Whether the chosen one beats the standard on dev."""
        return self.runs[self.chosen].best.order[:2] < self.runs[0].best.order[:2]


def sweep_reinit(
    model: Model | str, corpus: Corpus, out: Path | str, options: Options | None = None, **how: Any
) -> Sweep:
    """``fine_tune`` with each number of top layers re-initialised, into ``out``/reinit-N; what is finished is not done
    again.

    ``options.reinit_top``: which numbers, none for 0 to all layers; 0 is always among them. ``how``: as for
    ``fine_tune``. Raises UsageError for more layers than there are, else as ``fine_tune``.
    """
    options, out = options or Options(), Path(out)
    model = Model.open(model)
    model.check_apart(out)
    if (out / RECORD).exists():
        raise StoreError(f"{out} holds a single run: choose another -o for a sweep")
    n_layers = len(open_encoder(model, options.statistics).encoder.encoder.layers)
    numbers = sorted({0, *(options.reinit_top or range(n_layers + 1))})
    if numbers[-1] > n_layers:
        raise UsageError(f"{numbers[-1]} layers cannot be re-initialised in {model}: choose from 0 to {n_layers}")
    if len(numbers) < 2:
        raise UsageError(
            "a sweep compares the standard with layers re-initialised: name some with --reinit-top, as 0,1,3"
        )
    runs: dict[int, Tuned] = {}
    for k, n in enumerate(numbers):
        of_run = how | {
            "progress": _nth(how.get("progress"), k, len(numbers)),
            "say": how.get("say") if k == 0 else None,
        }
        runs[n] = fine_tune(model, corpus, out / f"{FOLDER}{n}", replace(options, reinit_top=(n,)), **of_run)
    chosen = min(numbers[1:], key=lambda n: (*runs[n].best.order[:2], n))
    assessed = {n: assess_run(run.folder, corpus, options, with_test=n in (0, chosen)) for n, run in runs.items()}
    return Sweep(runs, assessed, chosen)


def _nth(progress: Progress | None, k: int, n: int) -> Progress | None:
    """Progress of the k-th run of n."""
    if progress is None:
        return None
    return lambda done, total, *said: progress(k * total + done, n * total, *said)
