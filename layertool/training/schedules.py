"""When a run prunes, and how much: fixed steps, the trigger of weight pruning, records of runs (spec speat.md 4.1 to
4.3).

A step is a number of finished updates. Pruning that is due at a step happens after that update and before the next one;
the checkpoint to evaluate is the one saved just before. Everything here is numbers: no network, no files but records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
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
# whole sparsities; the original tool goes on after those of the paper
SPARSITIES = (.2, .3, .4, .5, .55, .6, .65, .675, .7, .71, .72, .73, .74, .75, .76, .77, .78, .79, .8)  # fmt: skip
# fmt: off
MORE_SPARSITIES = (
    *SPARSITIES,
    .81, .82, .83, .84, .85, .86, .87, .88, .89, .9, .91, .915, .92, .925, .93, .935, .94, .945, .95,
)
# fmt: on
WEIGHT_TOTAL = 1_000_000  # longer by a period for every wait
# of wav2vec 2.0, where MelHuBERT's trigger had fired
# fmt: off
_THOUSANDS = (
    0, 125, 200, 500, 700, 900, 1_075, 1_300, 1_650, 1_875, 2_075, 2_150, 2_275, 2_450, 2_600, 2_825, 2_950,
    3_075, 3_225,
)
# fmt: on
WAV2VEC2_WEIGHT_STEPS = tuple(5_000 + 1_000 * k for k in _THOUSANDS)
WAV2VEC2_WEIGHT_TOTAL = 3_355_000

_RECORD = "layertool pruning record"
SEEDINGS = ("first", "original", "corrected")
Decision = Literal["go on", "wait", "prune"]


class Schedule:
    """Prunings at fixed steps.

    ``kind``: "heads" or "rows" (``amounts``: how many of each block) or "weights" (``amounts``: whole sparsities).
    ``amounts``: one for every step, or one for all. Raises UsageError for steps that do not ascend from 0 or more, and
    for amounts that cannot be.

        if amount := schedule.due(step):
            prune(model, amount)
            schedule.done(step)
    """

    def __init__(self, kind: str, steps: Sequence[int], amounts: Sequence[float] | float):
        self.kind, self.steps = kind, tuple(steps)
        self.amounts: tuple[float, ...] = (
            tuple(amounts) if isinstance(amounts, Sequence) else (amounts,) * len(self.steps)
        )
        self.n_done = 0
        self._check()

    def _check(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"'{self.kind}' cannot be pruned: choose {', '.join(KINDS)}")
        if not self.steps:
            raise UsageError("a schedule without steps prunes nothing: give one or more")
        if any(type(step) is not int or step < 0 for step in self.steps):
            raise UsageError(f"steps {list(self.steps)} of a schedule cannot be: give whole numbers of 0 or more")
        if any(later <= earlier for earlier, later in pairwise(self.steps)):
            raise UsageError(
                f"steps {list(self.steps)} of a schedule do not ascend: give each once, the earliest first"
            )
        if len(self.amounts) != len(self.steps):
            raise UsageError(
                f"{len(self.amounts)} amounts do not fit {len(self.steps)} steps: give one for each, or one for all"
            )
        if self.kind == "weights":
            check_sparsities(self.amounts)
        elif any(type(amount) is not int or amount < 1 for amount in self.amounts):
            raise UsageError(
                f"{list(self.amounts)} {self.kind} of each block cannot be removed: give whole numbers of 1 or more"
            )

    def check(self, sizes: Sequence[int]) -> None:
        """Raise UsageError where what is left to remove is more than blocks with ``sizes`` heads or rows can give."""
        if self.kind == "weights":
            return
        n_gone = sum(self.amounts[self.n_done :])
        for k, size in enumerate(sizes, start=1):
            if size <= n_gone:
                raise UsageError(
                    f"{len(self.steps) - self.n_done} prunings remove {n_gone:g} {self.kind} of each block, but "
                    f"block {k} has "
                    f"{size}, and one must stay: give fewer steps, or smaller amounts"
                )

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to prune."""
        return self.n_done == len(self.steps)

    def due(self, step: int) -> float:
        """The amount to prune at a step, 0 for none. Raises UsageError where an earlier pruning was passed over."""
        if self.is_finished or step < self.steps[self.n_done]:
            return 0
        if step > self.steps[self.n_done]:
            raise UsageError(
                f"a run at step {step} has passed over the pruning at step {self.steps[self.n_done]}: go on from "
                "a checkpoint "
                "with the state of its schedule"
            )
        return self.amounts[self.n_done]

    def done(self, step: int) -> None:
        """Say that what was due at a step is pruned. Raises UsageError where nothing was."""
        if not self.due(step):
            raise UsageError(f"nothing was to be pruned at step {step}")
        self.n_done += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON can have it."""
        return {"kind": self.kind, "steps": list(self.steps), "amounts": list(self.amounts), "n_done": self.n_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another of the same prunings stopped. Raises UsageError for the state of others."""
        _check_same(state, self.state_dict(), ("n_done",))
        self.n_done = state["n_done"]


@dataclass
class Trigger:
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
    _seeds: list[float] = field(default_factory=list, init=False, repr=False)
    _n_losses: int = field(default=0, init=False, repr=False)  # since the average began

    def __post_init__(self) -> None:
        self.sparsities = tuple(self.sparsities)
        check_sparsities(self.sparsities)
        if self.seeding not in SEEDINGS:
            raise UsageError(f"a moving average cannot begin with '{self.seeding}': choose {' or '.join(SEEDINGS)}")
        if self.warm_up < 1 or not 0 <= self.decay < 1 or not math.isfinite(self.improvement):
            raise UsageError(
                f"a trigger with warm_up {self.warm_up}, decay {self.decay:g} and improvement "
                f"{self.improvement:g} cannot be: the "
                "first is 1 or more, the second from 0 to below 1"
            )
        first = 3 if self.seeding == "original" else 1  # losses until there is an average
        if not 1 <= self.lag <= self.period - first:
            raise UsageError(
                f"a lag of {self.lag} steps does not fit a period of {self.period}: give 1 to "
                f"{self.period - first}, so that there "
                "is an average to look back to"
            )
        self.decision_step = self.warm_up

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to prune."""
        return self.n_done == len(self.sparsities)

    @property
    def sparsity(self) -> float:
        """Whole sparsity after the prunings so far, 0 before the first.

        A run that goes on from a checkpoint prunes to it once: that restores masks, and does what was decided just
        before.
        """
        return self.sparsities[self.n_done - 1] if self.n_done else 0.0

    def update(self, step: int, loss: float) -> Decision:
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
        if self.n_done and self._improves():
            self.n_waits += 1
            return "wait"
        self.n_done += 1
        self.average = self.reference = None
        self._seeds, self._n_losses = [], 0
        return "prune"

    def _average(self, loss: float) -> None:
        self._n_losses += 1
        if self.seeding == "original" and self._n_losses <= 4:
            if self._n_losses < 4:
                self._seeds.append(loss)
            if self._n_losses == 3:
                self.average = sum(self._seeds) / 3
        elif self.average is None:
            self.average = loss
        elif self.seeding == "corrected":  # as Adam's moments are: the average divided by 1 - decay^n
            self.average += (loss - self.average) * (1 - self.decay) / (1 - self.decay**self._n_losses)
        else:
            self.average = self.decay * self.average + (1 - self.decay) * loss

    def _improves(self) -> bool:
        return (
            self.average is not None and self.reference is not None and self.average < self.reference - self.improvement
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON can have it."""
        state = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: list(value) if isinstance(value, (tuple, list)) else value for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another of the same settings stopped. Raises UsageError for the state of others."""
        changing = (
            "n_done",
            "n_waits",
            "step",
            "average",
            "reference",
            "decision_step",
            "_seeds",
            "_n_losses",
        )
        _check_same(state, self.state_dict(), changing)
        for name in changing:
            setattr(self, name, list(state[name]) if name == "_seeds" else state[name])


def check_sparsities(sparsities: Sequence[float]) -> None:
    """Raise UsageError unless they ascend between 0 and 1."""
    if not sparsities or any(
        isinstance(s, bool) or not isinstance(s, (int, float)) or not 0 < s < 1 for s in sparsities
    ):
        raise UsageError(f"sparsities {list(sparsities)} cannot be: give numbers between 0 and 1, such as 0.2")
    if any(later <= earlier for earlier, later in pairwise(sparsities)):
        raise UsageError(f"sparsities {list(sparsities)} do not ascend: each is the whole share that is 0 afterwards")


def _check_same(state: Mapping[str, Any], own: Mapping[str, Any], changing: Sequence[str]) -> None:
    """Raise UsageError for a state of something else, or of other settings."""
    if set(state) != set(own):
        raise UsageError(
            f"a state with {', '.join(sorted(state)) or 'nothing'} is not that of such a schedule: take its own "
            "checkpoint"
        )
    for name in own:
        if name not in changing and state[name] != own[name]:
            raise UsageError(
                f"a checkpoint was pruned with {name} = {state[name]}, not {own[name]}: go on with the same, or "
                "start again"
            )


class Record:
    """What a run pruned at which steps, for another run to repeat.

    ``kind``: "heads", "rows" or "weights"; ``steps`` and ``amounts`` as in ``Schedule``; ``removed``: of each pruning
    the heads or rows of each block, numbered as they stood there, None for weights.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.steps: list[int] = []
        self.amounts: list[float] = []
        self.removed: list[list[list[int]] | None] = []

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
        prunings = given.get("prunings") if isinstance(given, dict) and given.get("record") == _RECORD else None
        if not isinstance(prunings, list) or not all(
            isinstance(one, dict) and {"step", "amount"} <= set(one) for one in prunings
        ):
            raise UsageError(f"{path} is no record of a pruning run: give the JSON file that one wrote")
        record = cls(given.get("kind"))
        try:
            for one in prunings:
                record.add(one["step"], one["amount"], one.get("removed"))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        return record

    def schedule(self) -> Schedule:
        """The same prunings again. Raises UsageError for a record without any."""
        return Schedule(self.kind, self.steps, self.amounts)
