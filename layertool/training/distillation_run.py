"""Runs of distillation: small students of a teacher, as a series of MODELs (spec speat.md 4.4).

from layertool.training.distillation_run import Options, distill
run = distill("teacher", corpus, "run", Options(blocks=2, teacher_layers=(4, 12)))  # run/step-0, run/step-5000, …
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError
from layertool.geometry import SAMPLE_RATE
from layertool.models.computing import drawing
from layertool.models.open import Model
from layertool.training import engine
from layertool.training.distillation import FRONT_GRADIENT, Distillation, student_of
from layertool.training.encoders import Opened, collate, open_encoder
from layertool.training.engine import Item, Say, Settings, Trained
from layertool.training.runs import RunFolder
from layertool.training.series import Series
from layertool.training.tasks.distillation import Distillation as Options

_DECIDE = ("blocks", "teacher_layers", "teacher_init", "pad", "max_samples")
# s3prl and Lin et al. 2024 (spec 4.4); the warm-up is 7 % of the steps, 14 000 of 200 005 in the paper
SETTINGS = Settings(
    200_000,
    2e-4,
    warmup_steps=14_000,
    schedule="linear",
    batch_size=24,
    betas=(0.9, 0.98),
    epsilon=1e-6,
    weight_decay=1e-6,
    max_gradient_norm=5.0,
    save_steps=5000,
    seed=1337,
)


class Student(Series):
    """A student that hears utterances, or a stretch of one that is drawn for its place in the run."""

    kind, record = "distillation", "distill.json"

    def __init__(self, network: Distillation, opened: Opened, corpus: Corpus, options: Options):
        self.network: Distillation = network
        self.opened, self.longest = opened, max(1, options.max_samples // opened.samples_a_step)
        self.n_utterances = len(corpus.utterances)
        self.rows = [row for row in corpus.utterances.to_dict("records") if opened.n_frames(row) > 0]
        if not self.rows:
            raise CorpusError(
                f"all {self.n_utterances} utterances of {corpus.name} are too short for a frame: give longer ones"
            )
        self.lengths = [min(int(row["n_samples"]), options.max_samples) / SAMPLE_RATE for row in self.rows]
        self.decided = {
            "teacher": opened.decided,
            "recipe": {name: getattr(options, name) for name in _DECIDE},
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
    teacher: Model | str, corpus: Corpus, out: Path | str, options: Options | None = None, **how: Any
) -> Trained:
    """Train a student of the MODEL ``teacher``. ``out``/step-N, every ``save_steps`` and at step 0, are MODELs without
    heads.

    ``how``: device, progress and the like, as ``engine.run`` has them. A run that was stopped
    goes on with the losses and weights that it would have had; a finished one is returned as it is. distill.json says
    what decided the run and its losses, losses.csv has them as a table.
    Raises UsageError for layers that the teacher has not, CorpusError for a corpus that is too short, StoreError for a
    folder of something else, AudioError, ModelError.
    """
    options, out = options or Options(), Path(out)
    settings = options.settings(SETTINGS)
    teacher = Model.open(teacher)
    teacher.check_apart(out)
    with drawing(settings.seed):
        opened = open_encoder(teacher, options.statistics)
        student = student_of(opened.encoder, options.blocks, options.teacher_init, settings.seed)
        network = Distillation(opened.encoder, student, options.teacher_layers, pad=options.pad, seed=settings.seed)
    return engine.run(Student(network, opened, corpus, options), settings, out, **how)
