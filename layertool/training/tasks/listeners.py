"""Whisper on what listeners say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from layertool.account import Account, Table
from layertool.declared import option
from layertool.errors import UsageError
from layertool.layerwise.reading import Reading
from layertool.training.tasks.base import Progress, Say, Training, read

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus
    from layertool.models.open import Model


@dataclass(frozen=True, kw_only=True)
class Listeners(Reading, Training):
    """Fine-tune a Whisper model on the listeners' responses; the epoch with the best dev part is kept.

    \b
    The corpus needs the parts train and dev (layertool corpus eccc). The result is a MODEL for every other command.
    Examples:
      layertool lexical finetune openai/whisper-small eccc -o tuned
      layertool lexical finetune openai/whisper-small eccc -o top --objective top --modules decoder,encoder
      layertool lexical finetune openai/whisper-small eccc -o scratch --from-scratch
    """

    objective: Literal["all", "top"] = option("all", "The distribution of all responses, or the most common one.")
    modules: tuple[Literal["decoder", "encoder", "convolutions"], ...] = option(
        (), "Parts to train, the rest is frozen.", metavar="PARTS", usual="decoder,encoder,convolutions"
    )
    from_scratch: bool = option(False, "Control: begin with weights drawn anew.")
    learning_rate: float = option(1e-5, "Learning rate at its peak.", low=0, usual="1e-5")
    warmup: float = option(
        0.1, "Share of the steps until the learning rate is at its peak.", flags=("--warmup-share",), low=0, high=1
    )
    schedule: Literal["cosine", "linear"] = option("cosine", "Decay of the learning rate.")
    epochs: int = option(12, "Times through the train part.", low=1)
    batch_size: int = option(16, "Stimuli in a step.", low=1)
    grid: bool = option(False, "All 60 points of the paper's search space, into folders of their own.")
    target_disjoint: bool = option(False, "Take the split in which no target word is in two parts.")
    seed: int = option(0, "Seed of the order, and of new weights.", low=0, high=2**32 - 1)
    keep_models: bool = option(False, "Keep the model of every epoch as RUN/step-N, not only the best.")
    purpose: ClassVar[str] = "fine-tuning"

    def check(self) -> None:
        if self.grid and (twice := self.clash("learning_rate", "warmup", "schedule", "epochs")):
            raise UsageError(f"--grid tries several values of {twice}: leave one of the two out")
        if self.warmup >= 1:
            raise UsageError("--warmup-share 1 never ends the warm-up: give a share of the steps below 1")

    def run(
        self,
        model: Model | str,
        corpus: Corpus | Path | str,
        out: Path | str,
        progress: Progress | None = None,
        say: Say | None = None,
    ) -> Any:
        """``lexical.fine_tune`` with these options, or the search of the grid.

        Returns the best run, and (name, run or error) of each point of the grid.
        """
        self.require()
        from layertool.training.lexical import fine_tune
        from layertool.training.lexical_grid import search_grid

        points: list[tuple[str, Any]] = []
        how = self.how(progress, say)
        if self.grid and not self.dry_run:
            tuned = search_grid(model, read(corpus), out, self, lambda name, run: points.append((name, run)), **how)[1]
        else:
            tuned = fine_tune(model, read(corpus), out, self, **how)
        return tuned if self.dry_run else (tuned, points)

    def account(self, done: tuple[Any, list], corpus: object) -> Account:
        """What a run has made, and how to score it."""
        tuned, points = done
        tables, notes = [], [f"{name}: {run}" for name, run in points if isinstance(run, Exception)]
        if points:
            best = sorted(
                (one for one in points if not isinstance(one[1], Exception)), key=lambda one: -one[1].best.dev
            )
            title = "log-likelihood of the dev part at the best epoch"
            tables.append(
                Table(title, ["run", "best epoch", "dev"], [[name, run.best.epoch, run.best.dev] for name, run in best])
            )
        rows = [
            [
                one.epoch,
                one.step,
                "" if one.loss is None else f"{one.loss:.3f}",
                one.dev,
                "kept" if one == tuned.best else "",
            ]
            for one in tuned.history
        ]
        tables.append(Table(None, ["epoch", "step", "training loss", "dev", ""], rows))
        if tuned.best.dev < tuned.history[0].dev:
            notes.append(
                "no epoch is better than the model was before: what was kept is worse; try another --learning-rate or "
                "--epochs"
            )
        if not tuned.was_there:
            notes.append(
                f"see the test part with: layertool lexical score {tuned.folder} {corpus} --split test{self._like()}"
            )
        finished = " (it was finished already)" if tuned.was_there else ""
        return Account(f"{tuned.folder}: log-likelihood of the dev part{finished}", tables=tables, notes=notes)

    def _like(self) -> str:
        """The options with which the model was trained, where they are not the usual ones."""
        shared = self.given("target_disjoint", "encoder_window", "end_token", "surface", "timestamps", "language")
        words = []
        for name, value in shared.items():
            flag = name.replace("_", "-")
            words += [f"--{flag}" if value is True else f"--no-{flag}" if value is False else f"--{flag} {value}"]
        return "".join(f" {word}" for word in words)
