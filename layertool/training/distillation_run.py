"""Runs of distillation: small students of a teacher, as a series of MODELs (spec speat.md 4.4).

from layertool.training.distillation_run import Recipe, distill
run = distill("teacher", corpus, "run", Recipe(2, targets=(4, 12)))        # run/step-0, run/step-1000, …
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, UsageError
from layertool.geometry import SAMPLE_RATE
from layertool.models.open import Model
from layertool.training import engine
from layertool.training.distillation import FRONT_GRADIENT, PAD, TARGETS, Distillation, student_of
from layertool.training.encoders import collate
from layertool.training.engine import Item, Loss, Say, Settings
from layertool.training.opening import Opened, open_encoder
from layertool.training.runs import RunFolder, models_of
from layertool.training.series import Series

WARM_UP = 0.07  # of the steps (s3prl, and the 14 000 of 200 005 of Lin et al. 2024)


def settings(steps: int = 200_000, **changes: Any) -> Settings:
    """The settings of s3prl and Lin et al. 2024 (spec 4.4); ``changes``: other ones."""
    usual: dict[str, Any] = {
        "learning_rate": 2e-4,
        "warmup_steps": round(WARM_UP * steps),
        "schedule": "linear",
        "batch_size": 24,
        "betas": (0.9, 0.98),
        "epsilon": 1e-6,
        "weight_decay": 1e-6,
        "max_gradient_norm": 5.0,
        "save_steps": 5000,
        "seed": 1337,
    }
    return Settings(steps, **usual | changes)


@dataclass(frozen=True)
class Recipe:
    """Which student learns what.

    ``layers``: its blocks. ``targets``: the teacher's layers that it predicts. ``from_teacher``: it begins with the
    teacher's front end and first blocks. ``pad``: what padded frames do, see ``distillation.PAD``. ``max_samples``:
    longer utterances are cropped, elsewhere each time. ``cosine_weight``: lambda of the loss.
    """

    layers: int = 2
    targets: tuple[int, ...] = TARGETS
    from_teacher: bool = True
    pad: str = "mask"
    max_samples: int = 250_000
    cosine_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.pad not in PAD:
            raise UsageError(f"'{self.pad}' is no way to treat padded frames: choose {' or '.join(PAD)}")
        if self.max_samples < 1600:
            raise UsageError(f"crops of {self.max_samples} samples are too short: give 1600 (0.1 s) or more")


@dataclass(frozen=True)
class Distilled:
    """A finished run. ``models``: its steps' folders, step 0 first; parameters: of the student, and of its heads
    besides."""

    folder: Path
    models: list[Path]
    losses: list[Loss]
    n_utterances: int
    n_left_out: int
    n_parameters: int
    n_head_parameters: int
    was_there: bool = False


class Student(Series):
    """A student that hears utterances, or a stretch of one that is drawn for its place in the run."""

    kind, record = "distillation", "distill.json"

    def __init__(self, network: Distillation, opened: Opened, corpus: Corpus, recipe: Recipe):
        self.network: Distillation = network
        self.opened, self.longest = opened, max(1, recipe.max_samples // opened.samples_a_step)
        self.n_utterances = len(corpus.utterances)
        self.rows = [row for row in corpus.utterances.to_dict("records") if opened.n_frames(row) > 0]
        if not self.rows:
            raise CorpusError(
                f"all {self.n_utterances} utterances of {corpus.name} are too short for a frame: give longer ones"
            )
        self.lengths = [min(int(row["n_samples"]), recipe.max_samples) / SAMPLE_RATE for row in self.rows]
        self.decided = {
            "teacher": opened.decided,
            "recipe": asdict(recipe),
            "front_gradient": FRONT_GRADIENT,
            "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
        }

    def begin(self, folder: RunFolder, say: Say) -> None:
        if n_short := self.n_utterances - len(self.rows):
            say(f"{n_short} of {self.n_utterances} utterances are left out: too short for a frame")

    def example(self, number: int, random: np.random.Generator) -> Item:
        heard = self.opened.hear(self.rows[number])
        length = min(len(heard), self.longest)
        start = int(random.integers(len(heard) - length + 1))
        return {"input": heard[start : start + length]}

    def collate(self, items: list[Item]) -> dict[str, Any]:
        return collate(items)

    def write(self, folder: Path, step: int) -> None:
        self.opened.save(self.network.student, folder, step, "layertool compress distill")  # hears as its teacher does

    def facts(self) -> dict:
        student, both = (sum(p.numel() for p in part.parameters()) for part in (self.network.student, self.network))
        return {
            "utterances": len(self.rows),
            "left_out": self.n_utterances - len(self.rows),
            "parameters": student,
            "head_parameters": both - student,
        }


def distill(
    teacher: Model | str,
    corpus: Corpus,
    out: Path | str,
    recipe: Recipe | None = None,
    how: Settings | None = None,
    statistics: str | None = None,
    **options: Any,
) -> Distilled:
    """Train a student of the MODEL ``teacher``. ``out``/step-N, every ``how.save_steps`` and at step 0, are MODELs
    without heads.

    ``how``: None is ``settings()``. ``statistics``: of a MelHuBERT's input. ``options``: ``machine``, ``overwrite``,
    ``progress``, ``say`` and ``dry_run`` of ``engine.run``. A run that was stopped goes on with the losses and weights
    that it would have had; a finished one is returned as it is. distill.json says what decided the run and its losses,
    losses.csv has them as a table.
    Raises UsageError for layers that the teacher has not, CorpusError for a corpus that is too short, StoreError for a
    folder of something else, AudioError, ModelError.
    """
    recipe, how, out = recipe or Recipe(), how or settings(), Path(out)
    teacher = Model.open(teacher)
    teacher.check_apart(out)
    opened = open_encoder(teacher, statistics)
    student = student_of(opened.encoder, recipe.layers, recipe.from_teacher, how.seed)
    network = Distillation(opened.encoder, student, recipe.targets, recipe.cosine_weight, recipe.pad, seed=how.seed)

    def result(facts: dict, was_there: bool) -> Distilled:
        return Distilled(
            out,
            list(models_of(out).values()),
            [Loss(*loss) for loss in facts["losses"]],
            facts["utterances"],
            facts["left_out"],
            facts["parameters"],
            facts["head_parameters"],
            was_there,
        )

    return engine.run(Student(network, opened, corpus, recipe), how, out, result, **options)
