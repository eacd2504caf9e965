"""A small student of a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from layertool.account import Account, number
from layertool.declared import option
from layertool.training.tasks.base import Optimised, Progress, Say, of_series, read

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus
    from layertool.models.open import Model


@dataclass(frozen=True, kw_only=True)
class Distillation(Optimised):
    """Train a small student to predict layers of a teacher (DistilHuBERT); every step saved is a MODEL.

    \b
    TEACHER is a MelHuBERT, HuBERT or wav2vec 2.0. The defaults are those of Lin et al. 2024 (docs/finetuning.md).
    Examples:
      layertool compress distill facebook/hubert-base-ls960 corpus -o distilled
      layertool compress distill melhubert:checkpoint.ckpt corpus -o distilled --no-teacher-init --blocks 4
      layertool extract 'distilled/step-*' corpus -o series
    """

    blocks: int = option(2, "Blocks of the student.", low=1)
    teacher_layers: tuple[int, ...] = option(
        (4, 12), "Layers of the teacher that the student predicts.", metavar="K[,K...]"
    )
    teacher_init: bool = option(True, "Begin with the teacher's front end and first blocks, or with new weights.")
    pad: Literal["mask", "count"] = option(
        "mask", "Padded frames are left out of the loss, or count, as in the original."
    )
    max_samples: int = option(250_000, "Longer utterances are cropped, elsewhere each time.", low=1600)
    purpose: ClassVar[str] = "distillation"
    usuals: ClassVar[Mapping[str, str]] = {
        "steps": "200000",
        "save_steps": "5000",
        "batch_size": "24",
        "accumulation": "1",
        "learning_rate": "2e-4",
        "warmup_steps": "7 % of the steps",
        "schedule": "linear, to 0",
        "seed": "1337",
    }

    def run(
        self,
        teacher: Model | str,
        corpus: Corpus | Path | str,
        out: Path | str,
        progress: Progress | None = None,
        say: Say | None = None,
    ):
        """``distillation_run.distill`` with these options."""
        self.require()
        from layertool.training.distillation_run import distill

        return distill(teacher, read(corpus), out, self, **self.how(progress, say))

    def account(self, done, corpus: object) -> Account:
        """What a run has made."""
        parameters = (
            f"{number(done.facts['parameters'])} of the student, {number(done.facts['head_parameters'])} of its heads"
        )
        return of_series(done, corpus, parameters)
