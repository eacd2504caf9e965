"""When a run prunes, and how much: fixed steps, the trigger of weight pruning, records of runs (spec speat.md 4.1 to
4.3).

A step is a number of finished updates. Pruning that is due at a step happens after that update and before the next one;
the checkpoint to evaluate is the one saved just before. Everything here is numbers: no network, no files but records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from layertool.errors import ModelError, UsageError
from layertool.files import read_json, write_json

KINDS = ("heads", "rows", "weights")
# Lin et al. 2024: one head of each block at a time, to one of twelve (of eight: the first seven); totals of their runs
HEAD_STEPS = tuple(1_000 + 1_000 * k for k in (0, 25, 50, 75, 100, 125, 165, 205, 245, 285, 325))
HEAD_TOTALS = {"melhubert": 366_000, "wav2vec2": 331_000}
# 128 rows of each block at a time, 3072 to 512
ROW_STEPS = tuple(1_000 + 25_000 * k for k in range(20))
ROWS_AT_ONCE, ROW_TOTAL = 128, 510_000
SPARSITIES = (.2, .3, .4, .5, .55, .6, .65, .675, .7, .71, .72, .73, .74, .75, .76, .77, .78, .79, .8)  # fmt: skip
WEIGHT_TOTAL = 1_000_000  # longer by a period for every wait
# of wav2vec 2.0, where MelHuBERT's trigger had fired
# fmt: off
WAV2VEC2_WEIGHT_STEPS = tuple(1_000 * k for k in (
    5, 130, 205, 505, 705, 905, 1_080, 1_305, 1_655, 1_880, 2_080, 2_155, 2_280, 2_455, 2_605, 2_830, 2_955, 3_080,
    3_230,
))
# fmt: on
WAV2VEC2_WEIGHT_TOTAL = 3_355_000

_RECORD = "layertool pruning record"
SEEDINGS = ("first", "original", "corrected")


class _Plan:
    """A dataclass whose arguments are settings; its other fields change in a run, and a checkpoint keeps them."""

    n_done: int

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments, as JSON can have them."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.init}  # type: ignore[arg-type]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON can have it."""
        changing = {one.name: getattr(self, one.name) for one in fields(self) if not one.init}  # type: ignore[arg-type]
        return self.settings | changing

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another of the same settings stopped. Raises UsageError for the state of others."""
        settings, own = self.settings, self.state_dict()
        if set(state) != set(own):
            raise UsageError(
                f"a state with {', '.join(sorted(state)) or 'nothing'} is not that of such a schedule: take its own "
                "checkpoint"
            )
        for name in own:
            if name not in settings:
                setattr(self, name, state[name])
            elif state[name] != own[name]:
                raise UsageError(
                    f"a checkpoint was pruned with {name} = {state[name]}, not {own[name]}: go on with the same, or "
                    "start again"
                )


@dataclass
class Schedule(_Plan):
    """Prunings at fixed steps.

    ``kind``: "heads" or "rows" (``amounts``: how many of each block) or "weights" (``amounts``: whole sparsities).
    ``amounts``: one for every step, or one for all. Raises UsageError for steps that do not ascend from 0 or more, and
    for amounts that cannot be.

        if amount := schedule.due(step):
            prune(model, amount)
            schedule.done(step)
    """

    kind: str
    steps: Sequence[int]
    amounts: Any  # a tuple, once it is made
    n_done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.steps = steps = tuple(self.steps)
        self.amounts = tuple(self.amounts) if isinstance(self.amounts, Sequence) else (self.amounts,) * len(steps)
        if self.kind not in KINDS:
            raise UsageError(f"'{self.kind}' cannot be pruned: choose {', '.join(KINDS)}")
        if not steps or any(type(step) is not int or step < 0 for step in steps) or _falls(steps):
            raise UsageError(
                f"steps {list(steps)} of a schedule cannot be: give one or more whole numbers from 0 on, each once, "
                "the earliest first"
            )
        if len(self.amounts) != len(steps):
            raise UsageError(
                f"{len(self.amounts)} amounts do not fit {len(steps)} steps: give one for each, or one for all"
            )
        if self.kind == "weights":
            _check_sparsities(self.amounts)
        elif any(type(amount) is not int or amount < 1 for amount in self.amounts):
            raise UsageError(
                f"{list(self.amounts)} {self.kind} of each block cannot be removed: give whole numbers of 1 or more"
            )

    def check(self, sizes: Sequence[int]) -> None:
        """Raise UsageError where what is left to remove is more than blocks with ``sizes`` heads or rows can give."""
        n_gone = 0 if self.kind == "weights" else sum(self.amounts[self.n_done :])
        if n_gone >= min(sizes):
            raise UsageError(
                f"{len(self.steps) - self.n_done} prunings remove {n_gone:g} {self.kind} of each block, but block "
                f"{sizes.index(min(sizes)) + 1} has {min(sizes)}, and one must stay: give fewer steps, or smaller "
                "amounts"
            )

    @property
    def is_finished(self) -> bool:
        return self.n_done == len(self.steps)

    def due(self, step: int) -> float:
        """The amount to prune at a step, 0 for none. Raises UsageError where an earlier pruning was passed over."""
        if self.is_finished or step < self.steps[self.n_done]:
            return 0
        if step > self.steps[self.n_done]:
            raise UsageError(
                f"a run at step {step} has passed over the pruning at step {self.steps[self.n_done]}: go on from "
                "a checkpoint with the state of its schedule"
            )
        return self.amounts[self.n_done]

    def done(self, step: int) -> None:
        """Say that what was due at a step is pruned. Raises UsageError where nothing was."""
        if not self.due(step):
            raise UsageError(f"nothing was to be pruned at step {step}")
        self.n_done += 1


@dataclass
class Trigger(_Plan):
    """Weight pruning when the loss no longer improves (spec speat.md 4.3).

    The first pruning is at step ``warm_up``. At each decision, ``period`` steps after the last, the moving average of
    the loss is compared with that of ``lag`` steps earlier: lower by more than ``improvement`` means wait for another
    period, else prune, and begin the average anew. ``seeding``: how it begins: "first" with the first loss; "original"
    with the mean of three, after which a fourth changes nothing; "corrected" weighs all losses since as if there had
    been none before them. By the paper's numbers what the average begins with is 14 % of the
    reference that it is compared with.
    ``n_done``, ``n_waits``: prunings and waits so far; each wait makes the run longer by a period.
    """

    sparsities: Sequence[float] = SPARSITIES
    warm_up: int = 25_000
    period: int = 25_000
    lag: int = 15_000
    decay: float = 0.9998
    improvement: float = 0.001
    seeding: str = "first"
    n_done: int = field(default=0, init=False)
    n_waits: int = field(default=0, init=False)
    step: int = field(default=0, init=False)
    average: float | None = field(default=None, init=False)
    reference: float | None = field(default=None, init=False)
    decision_step: int = field(default=0, init=False)
    _sum: float = field(default=0.0, init=False)  # of the losses since the average began, and their number
    _n_losses: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.sparsities = tuple(self.sparsities)
        _check_sparsities(self.sparsities)
        if (
            self.seeding not in SEEDINGS
            or self.warm_up < 1
            or not 0 <= self.decay < 1
            or not math.isfinite(self.improvement)
        ):
            raise UsageError(
                f"a trigger with warm_up {self.warm_up}, decay {self.decay:g}, improvement {self.improvement:g} and "
                f"seeding '{self.seeding}' cannot be: the first is 1 or more, the second from 0 to below 1, the last "
                f"{' or '.join(SEEDINGS)}"
            )
        longest = self.period - (3 if self.seeding == "original" else 1)  # there is an average after so many losses
        if not 1 <= self.lag <= longest:
            raise UsageError(
                f"a lag of {self.lag} steps does not fit a period of {self.period}: give 1 to {longest}, so that there "
                "is an average to look back to"
            )
        self.decision_step = self.warm_up

    @property
    def is_finished(self) -> bool:
        return self.n_done == len(self.sparsities)

    @property
    def sparsity(self) -> float:
        """Whole sparsity after the prunings so far, 0 before the first.

        A run that goes on from a checkpoint prunes to it once: that restores masks, and does what was decided just
        before.
        """
        return self.sparsities[self.n_done - 1] if self.n_done else 0.0

    def update(self, step: int, loss: float) -> Literal["go on", "wait", "prune"]:
        """What to do after update ``step`` (counted from 1), whose loss this is: "go on", "wait" (go on longer) or
        "prune" to ``sparsity``, which is the new one then.

        Raises UsageError for a step that does not follow the last one, ModelError for a loss that is not finite.
        """
        if step != self.step + 1:
            raise UsageError(
                f"the trigger stands at step {self.step} and was given step {step}: go on from a checkpoint with "
                "its state"
            )
        if not math.isfinite(loss):
            raise ModelError(f"the loss of step {step} is {loss}: the network has diverged, lower the learning rate")
        self.step = step
        if self.is_finished:
            return "go on"
        self._average(float(loss))
        if step == self.decision_step - self.lag:
            self.reference = self.average
        if step < self.decision_step:
            return "go on"
        self.decision_step += self.period
        now, before = self.average, self.reference
        if self.n_done and now is not None and before is not None and now < before - self.improvement:
            self.n_waits += 1
            return "wait"
        self.n_done += 1
        self.average = self.reference = None
        self._sum, self._n_losses = 0.0, 0
        return "prune"

    def _average(self, loss: float) -> None:
        self._sum += loss
        self._n_losses += 1
        if self.seeding == "original" and self._n_losses <= 4:
            if self._n_losses == 3:
                self.average = self._sum / 3
        elif self.average is None:
            self.average = loss
        elif self.seeding == "corrected":  # as Adam's moments are: the average divided by 1 - decay^n
            self.average += (loss - self.average) * (1 - self.decay) / (1 - self.decay**self._n_losses)
        else:
            self.average = self.decay * self.average + (1 - self.decay) * loss


def _falls(numbers: Sequence[float]) -> bool:
    return list(numbers) != sorted(set(numbers))


def _check_sparsities(sparsities: Sequence[float]) -> None:
    sound = all(isinstance(s, (int, float)) and not isinstance(s, bool) and 0 < s < 1 for s in sparsities)
    if not sparsities or not sound or _falls(sparsities):
        raise UsageError(
            f"sparsities {list(sparsities)} cannot be: give numbers between 0 and 1 that ascend, such as 0.2,0.3; each "
            "is the whole share that is 0 afterwards"
        )


@dataclass
class Record:
    """What a run pruned at which steps, for another run to repeat.

    ``kind``: "heads", "rows" or "weights"; ``steps`` and ``amounts`` as in ``Schedule``; ``removed``: of each pruning
    the heads or rows of each block, numbered as they stood there, None for weights.
    """

    kind: str
    steps: list[int] = field(default_factory=list)
    amounts: list[float] = field(default_factory=list)
    removed: list[list[list[int]] | None] = field(default_factory=list)

    def add(self, step: int, amount: float, removed: list[list[int]] | None = None) -> None:
        """One pruning more. Raises UsageError where a schedule could not have it."""
        Schedule(self.kind, [*self.steps, step], [*self.amounts, amount])
        self.steps.append(step)
        self.amounts.append(amount)
        self.removed.append(removed)

    def write(self, path: Path | str) -> None:
        """Write the record as JSON, whole or not at all."""
        prunings = [
            {"step": step, "amount": amount, **({} if removed is None else {"removed": removed})}
            for step, amount, removed in zip(self.steps, self.amounts, self.removed, strict=True)
        ]
        write_json(Path(path), {"record": _RECORD, "kind": self.kind, "prunings": prunings})

    @classmethod
    def read(cls, path: Path | str) -> Record:
        """A record that ``write`` wrote. Raises UsageError for other files, and StoreError for what is no JSON."""
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"{path} is no file: give the record that a pruning run wrote")
        given = read_json(path, "the record of a pruning run")
        try:
            if given["record"] != _RECORD:
                raise KeyError(_RECORD)
            record = cls(given["kind"])
            for one in given["prunings"]:
                record.add(one["step"], one["amount"], one.get("removed"))
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is no record of a pruning run: give the JSON file that one wrote") from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        return record

    def schedule(self) -> Schedule:
        """The same prunings again. Raises UsageError for a record without any."""
        return Schedule(self.kind, self.steps, self.amounts)
