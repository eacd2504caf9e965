"""Pruning of heads, rows and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from layertool.account import Account, Table
from layertool.declared import option, options_of
from layertool.errors import UsageError
from layertool.training.tasks.base import Heard, Progress, Say, made, next_steps, read

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus
    from layertool.models.open import Model


_TRIGGER = ("period", "lag", "warm_up", "decay", "improvement", "seeding")


@dataclass(frozen=True, kw_only=True)
class Pruning(Heard):
    """What prunings of heads, rows and weights have in common."""

    at: tuple[int, ...] = option(
        (), "Prune after these steps.", metavar="STEP[,STEP...]", usual="those of Lin et al. 2024", low=0
    )
    replay: Path | None = option(None, "Prune when another run did, and as much: its prunings.json.", metavar="FILE")
    steps: int | None = option(None, "Steps of training, in all; 0 prunes without any, and without CORPUS.", low=0)
    save_steps: int = option(1000, "Write a checkpoint to go on from every so many steps.", low=1)
    accumulation: int = option(1, "Batches in a step.", low=1)
    learning_rate: float | None = option(None, "Learning rate, constant.", low=0)
    seed: int | None = option(None, "Seed of clusters, order, crops and masks.", low=0, usual="1337")
    kind: ClassVar[str]
    _common: ClassVar[Mapping[str, str]] = {
        "batch_size": "4; hubert, wav2vec2: 12",
        "clusters": "as many as MODEL tells; without heads that tell any 512, hubert: 504",
    }

    def run(
        self,
        model: Model | str,
        corpus: Corpus | Path | str | None,
        out: Path | str,
        progress: Progress | None = None,
        say: Say | None = None,
    ):
        """``compression_run.compress`` with these options. ``corpus``: None where nothing is heard."""
        asked = {one.name: getattr(self, one.name) for one in options_of(type(self))}
        trains = self.steps != 0
        hears = trains or asked.get("score") == "data"
        if hears:
            self.require()
        self._check_speech(corpus is not None, trains, hears)
        from layertool.training import compression_run, plans
        from layertool.training.pretraining_recipes import MODELS

        about = plans.look(model)
        plan, total = self._plan(about, trains, asked)
        pruning = plans.Pruning(self.kind, plan, total, trains, asked.get("score", "weights"), asked.get("by", "layer"))
        recipe = settings = store = None
        if hears:
            if about.model in MODELS:  # others are refused by name where they are opened
                recipe = self.recipe(about.model, clusters=about.clusters or None)
            settings = self.settings(plans.usual_settings(self.kind, about.model))
            store = self.store()
        return compression_run.compress(
            model,
            read(corpus) if corpus is not None else None,
            out,
            pruning,
            recipe,
            settings,
            store,
            **self.how(progress, say),
        )

    def _check_speech(self, is_there: bool, trains: bool, hears: bool) -> None:
        if hears and not is_there:
            raise UsageError("training and scores from data need speech: type a CORPUS after MODEL, or --steps 0")
        if not hears and is_there:
            raise UsageError("--steps 0 prunes without hearing anything: leave the CORPUS out")
        of_training = ("at", "learning_rate", "save_steps", "accumulation", *_TRIGGER)
        heard = (
            "targets",
            "max_fitted",
            "mask_prob",
            "mask_length",
            "min_masks",
            "max_seconds",
            "min_frames",
            "statistics",
        )
        idle = () if trains else of_training if hears else (*heard, "clusters", "batch_size", "dtype", *of_training)
        if clash := self.clash(*idle):
            raise UsageError(f"--steps 0 prunes without training: leave {clash} out")

    def _plan(self, about, trains: bool, asked: dict[str, Any]) -> tuple:
        """When to prune, and how many steps there are."""
        from layertool.training import plans
        from layertool.training.schedules import SPARSITIES, Record, Schedule, Trigger

        trigger, sparsities = self.clash(*_TRIGGER), asked.get("sparsities") or SPARSITIES
        if self.replay and (clash := self.clash("at", "amount", "sparsities", *_TRIGGER)):
            raise UsageError(f"--replay prunes as another run did: leave {clash} out")
        if self.at and trigger:
            raise UsageError(f"--at says when weights are pruned, and {trigger} that the loss does: leave one out")
        if (self.at or self.replay) and self.steps is None:
            raise UsageError(f"{'--at' if self.at else '--replay'} says when to prune, not when to end: add --steps")
        if self.replay:
            record = Record.read(self.replay)
            if record.kind != self.kind:
                raise UsageError(
                    f"{self.replay} is a record of pruning {record.kind}: type 'layertool compress {record.kind}'"
                )
            return record.schedule(), self.steps
        if self.at and self.kind == "weights":
            return Schedule(self.kind, self.at, asked["sparsities"] or SPARSITIES[: len(self.at)]), self.steps
        if self.at:
            usual = 1 if self.kind == "heads" else plans.ROWS_AT_ONCE
            return Schedule(self.kind, self.at, asked["amount"] or usual), self.steps
        if self.kind == "weights" and not trains:
            return Schedule(self.kind, range(len(sparsities)), sparsities), 0
        plan, total = plans.usual_plan(self.kind, about, asked.get("amount"))
        if self.kind == "weights" and (trigger or asked["sparsities"]):
            plan, total = Trigger(sparsities, **{name: asked[name] for name in _TRIGGER}), plans.WEIGHT_TOTAL
        return plan, total if self.steps is None else self.steps

    def account(self, done, corpus: object) -> Account:
        """What a run has made."""
        rows = []
        for saved in done.models:
            before = [loss.loss for loss in done.losses if loss.step <= saved.step]
            removed = done.facts["parameters"] - saved.n_parameters
            rows.append(
                [saved.path.name, saved.step, saved.n_parameters, removed, f"{before[-1]:.3f}" if before else ""]
            )
        parameters = "parameters that are not 0" if self.kind == "weights" else "parameters"
        headers = ["model", "step", parameters, "removed", *(["training loss"] if done.losses else [])]
        pattern = f"{done.models[0].path.name.partition('-')[0]}-*"
        table = Table(None, headers, [row[: len(headers)] for row in rows])
        return Account(made(done), tables=[table], notes=next_steps(done, pattern, corpus))


@dataclass(frozen=True, kw_only=True)
class Heads(Pruning):
    """Prune attention heads: the lowest of each block, train, again; each step is a MODEL.

    \b
    RUN/heads-132 has 132 heads, and is what training made of it before the next were pruned. The defaults are those
    of Lin et al. 2024 (docs/compression.md).
    Examples:
      layertool compress heads run/step-421000 corpus -o pruned
      layertool compress heads run/step-421000 corpus -o pruned --at 1000,6000,11000 --steps 16000
      layertool compress heads facebook/wav2vec2-base -o one-shot --steps 0
      layertool extract 'pruned/heads-*' corpus -o series
    """

    amount: int | None = option(None, "Heads of each block that go at once.", low=1, usual="1")
    score: Literal["weights", "data"] = option(
        "weights",
        "The lowest heads go: by sums of absolute weights, or by gradients of the loss on a quarter of the utterances.",
    )
    by: Literal["layer", "whole"] = option(
        "layer", "As many heads of each block, or the lowest of all blocks, but no block's best."
    )
    kind: ClassVar[str] = "heads"
    usuals: ClassVar[Mapping[str, str]] = {
        **Pruning._common,
        "steps": "366000; wav2vec2: 331000",
        "learning_rate": "5e-5",
    }


@dataclass(frozen=True, kw_only=True)
class Rows(Pruning):
    """Prune rows of the feed-forward parts: 128 of each block, train, again; each step is a MODEL.

    \b
    RUN/rows-2944 has 2944 in each block. The defaults are those of Lin et al. 2024 (docs/compression.md).
    Examples:
      layertool compress rows run/step-421000 corpus -o pruned
      layertool compress rows run/step-421000 -o one-shot --steps 0 --amount 256
    """

    amount: int | None = option(None, "Rows of each block that go at once.", low=1, usual="128")
    kind: ClassVar[str] = "rows"
    usuals: ClassVar[Mapping[str, str]] = {**Pruning._common, "steps": "510000", "learning_rate": "1e-5"}


@dataclass(frozen=True, kw_only=True)
class Weights(Pruning):
    """Prune single weights: the smallest of all blocks become 0, train, again; each step is a MODEL.

    \b
    In RUN/sparsity-0.2 a fifth of them are 0. The defaults are those of Lin et al. 2024 (docs/compression.md).
    Examples:
      layertool compress weights run/step-421000 corpus -o pruned
      layertool compress weights w2v2/step-400000 corpus -o pruned-too --replay pruned/prunings.json --steps 1000000
      layertool compress weights run/step-421000 -o one-shot --steps 0 --sparsities 0.2,0.4,0.6
    """

    sparsities: tuple[float, ...] = option(
        (), "Shares of weights that are 0 after each pruning.", metavar="S[,S...]", usual="0.2,0.3 ... 0.8, 19 of them"
    )
    warm_up: int = option(
        25_000,
        "Step of the first pruning; the others wait until the loss falls no more. Not for --at, nor for wav2vec2, "
        "which is pruned when MelHuBERT was unless you give one of these.",
        flags=("--first-pruning",),
        low=1,
    )
    period: int = option(25_000, "Steps from one look at the loss to the next.", low=2)
    lag: int = option(15_000, "The moving average of the loss is compared with that of so many steps before.", low=1)
    improvement: float = option(0.001, "Prune unless the average is lower by more than this.")
    decay: float = option(0.9998, "Decay of the moving average.", low=0, high=1)
    seeding: Literal["first", "original", "corrected"] = option(
        "first", "The average begins with the first loss, the mean of three, or is corrected for its beginning."
    )
    kind: ClassVar[str] = "weights"
    usuals: ClassVar[Mapping[str, str]] = {
        **Pruning._common,
        "steps": "1000000, longer by a period for every wait; wav2vec2: 3355000",
        "learning_rate": "1e-5",
    }
