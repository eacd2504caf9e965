"""Runs of distillation: small students of a teacher, as a series of MODELs (spec speat.md 4.4).

from layertool.training.distilling import Recipe, distill
run = distill("teacher", corpus, "run", Recipe(2, targets=(4, 12)))        # run/step-0, run/step-1000, …
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, StoreError, UsageError
from layertool.models.open import Model
from layertool.training.distillation import FRONT_GRADIENT, PAD, TARGETS, Distillation, student_of
from layertool.training.encoders import Opened, collate, open_encoder
from layertool.training.runs import CHECKPOINTS, RunFolder
from layertool.training.series import forget, log_steps, models_of, plain, write_losses
from layertool.training.session import (
    Drawn,
    Loss,
    Progress,
    Settings,
    check_weights,
    place_of,
    random_states_kept,
    train,
    write_model,
)

RECORD, LOSSES = "distill.json", "losses.csv"
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


class Crops:
    """``make`` of a run: an utterance, or a stretch of it that is drawn for its place in the run."""

    def __init__(self, opened: Opened, rows: Sequence[dict], max_samples: int):
        self.opened, self.rows = opened, rows
        self.longest = max(1, max_samples // opened.samples_a_step)

    def make(self, number: int, random: np.random.Generator) -> dict[str, Any]:
        heard = self.opened.hear(self.rows[number])
        length = min(len(heard), self.longest)
        start = int(random.integers(len(heard) - length + 1))
        return {"input": heard[start : start + length]}


def distill(
    teacher: Model | str,
    corpus: Corpus,
    out: Path | str,
    recipe: Recipe | None = None,
    how: Settings | None = None,
    statistics: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> Distilled:
    """Train a student of the MODEL ``teacher``. ``out``/step-N, every ``how.save_steps`` and at step 0, are MODELs
    without heads.

    ``how``: None is ``settings()``. ``statistics``: of a MelHuBERT's input. A run that was stopped goes on with the
    losses and weights that it would have had; a finished one is returned as it is. distill.json says what decided the
    run and its losses, losses.csv has them as a table. ``say`` is told what there is to know before training.
    Raises UsageError for layers that the teacher has not, CorpusError for a corpus that is too short, StoreError for a
    folder of something else, AudioError, ModelError.
    """
    recipe, how, out = recipe or Recipe(), how or settings(), Path(out)
    how = replace(how, log_steps=log_steps(how.save_steps))
    teacher = Model.open(teacher)
    teacher.check_apart(out)
    place = place_of(device, how.precision)
    with random_states_kept():
        torch.manual_seed(how.seed)
        opened = open_encoder(teacher, statistics)
        student = student_of(opened.encoder, recipe.layers, recipe.from_teacher, how.seed)
        network = Distillation(opened.encoder, student, recipe.targets, recipe.cosine_weight, recipe.pad, seed=how.seed)
        decided = {
            "kind": "distillation",
            "teacher": opened.decided,
            "recipe": plain(asdict(recipe)),
            "front_gradient": FRONT_GRADIENT,
            "corpus": {"name": corpus.name, "fingerprint": corpus.fingerprint},
            "settings": plain(asdict(how)),
        }
        with RunFolder(out, RECORD, decided, (LOSSES,), (), overwrite) as folder:
            if folder.finished is not None:
                folder.tidy(keep_checkpoints=False)
                return _finished(folder)
            return _train(folder, network, opened, corpus, recipe, how, place, progress, say)


def _train(
    folder: RunFolder,
    network: Distillation,
    opened: Opened,
    corpus: Corpus,
    recipe: Recipe,
    how: Settings,
    place: torch.device,
    progress: Progress | None,
    say: Callable[[str], object] | None,
) -> Distilled:
    rows = corpus.utterances.to_dict("records")
    long = [row for row in rows if opened.n_frames(row) > 0]
    if not long:
        raise CorpusError(f"all {len(rows)} utterances of {corpus.name} are too short for a frame: give longer ones")
    if say and len(long) < len(rows):
        say(f"{len(rows) - len(long)} of {len(rows)} utterances are left out: too short for a frame")
    whole = folder.checkpoints()
    forget(folder.path, max(whole, default=-1))

    def write(step: int) -> None:
        check_weights(network, f"at step {step}")
        save = opened.save  # the student hears what its teacher hears
        write_model(folder.path, step, lambda part: save(network.student, part, step, "layertool compress distill"))

    if not whole:
        write(0)
    data = Drawn(Crops(opened, long, recipe.max_samples).make, len(long), how.steps * how.examples_of_step, how.seed)
    network.to(place)
    losses = train(
        network,
        data,
        collate,
        how,
        folder.path / CHECKPOINTS,
        place,
        write=write,
        progress=progress,
    )
    write_losses(folder.path / LOSSES, losses)
    of_student, of_all = (sum(p.numel() for p in part.parameters()) for part in (network.student, network))
    facts = {
        "utterances": len(long),
        "left_out": len(rows) - len(long),
        "parameters": of_student,
        "head_parameters": of_all - of_student,
        "losses": [[loss.step, loss.loss] for loss in losses],
    }
    folder.finish(keep_checkpoints=False, **facts)
    return _result(folder.path, facts, was_there=False)


def _finished(folder: RunFolder) -> Distilled:
    try:
        return _result(folder.path, folder.finished or {}, was_there=True)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{folder.file} is damaged ({error!r}): choose another -o, or start again with --overwrite"
        ) from error


def _result(path: Path, facts: dict, was_there: bool) -> Distilled:
    models = models_of(path)
    losses = [Loss(step, loss) for step, loss in facts["losses"]]
    return Distilled(
        path,
        models,
        losses,
        facts["utterances"],
        facts["left_out"],
        facts["parameters"],
        facts["head_parameters"],
        was_there,
    )
