"""Trainings that write a model every so many steps: all of them, or the best one on the dev part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from layertool.errors import StoreError
from layertool.files import remove
from layertool.training.engine import Task, Trained
from layertool.training.runs import models_of, write_model


class Series(Task):
    """A training whose every saved step is a MODEL, step 0 among them."""

    outputs: ClassVar[tuple[str, ...]] = ("step-*", "losses.csv", "logs")

    def write(self, folder: Path, step: int) -> None:
        """Write the network of a step as a MODEL folder."""
        raise NotImplementedError

    def start(self) -> None:
        if self.folder.leads:
            self.save(0, is_last=False)

    def save(self, step: int, is_last: bool) -> None:
        write_model(self.folder.path, step, lambda part: self.write(part, step))

    def goes_on(self, step: int | None) -> None:
        for there, path in models_of(self.folder.path).items():
            if step is None or there > step:
                remove(path)


@dataclass(frozen=True)
class Best(Trained):
    """A finished run that kept the best of its networks.

    ``history``: the dev part at every step that was saved; ``best``: the point of it whose network was kept.
    """

    Point: ClassVar[type]

    @property
    def history(self) -> list[Any]:
        return [self.Point(**point) for point in self.facts["history"]]

    @property
    def best(self) -> Any:
        return next(point for point in self.history if point.step == self.facts["best_step"])

    def check(self) -> None:
        super().check()
        self.best  # noqa: B018


class Selected(Series):
    """A training that measures every saved step on the dev part, and keeps the best: the earlier one of equals.

    ``result.Point``: a dataclass of what is measured, with ``step`` and ``order`` (the lower the better).
    ``last_file``: of a model, which is put in its place last. ``keeps_all``: networks of all steps stay as ``step-N``.
    """

    result: ClassVar[type[Best]]
    last_file: ClassVar[str] = "config.json"
    keeps_all: bool
    history: list[Any]

    def measure(self, step: int) -> Any:
        """The dev part with the network as it is now."""
        raise NotImplementedError

    def start(self) -> None:
        """The network before training is no candidate."""

    def save(self, step: int, is_last: bool) -> None:
        super().save(step, is_last)
        self.history.append(self.measure(step))
        if not self.keeps_all:  # a kill before the checkpoint takes the last point back
            known = self.candidates, self.candidates[:-1]
            self._keep({step, *(min(points, key=lambda point: point.order).step for points in known if points)})

    def _keep(self, steps: set[int]) -> None:
        for step, path in models_of(self.folder.path).items():
            if step not in steps:
                remove(path)

    @property
    def candidates(self) -> list[Any]:
        return self.history

    @property
    def best(self) -> Any:
        return min(self.candidates, key=lambda point: point.order)

    def state(self) -> dict:
        return {"history": [asdict(point) for point in self.history]}

    def load_state(self, state: dict, tensors) -> None:
        self.history = [self.result.Point(**point) for point in state["history"]]

    def facts(self) -> dict:
        """Puts the best network into the run's own folder, whole."""
        if self.folder.leads:
            source = self.folder.path / f"step-{self.best.step}"
            if not source.is_dir():
                raise StoreError(
                    f"the network of the best step ({self.best.step}) is not in {self.folder.path} any more: start again "
                    "with --overwrite"
                )
            names = {path.name for path in source.iterdir()}
            self.folder.put_in_place(source, self.last_file if self.last_file in names else max(names))
        history = [asdict(point) for point in self.history]
        return {"history": history, "best_step": self.best.step, "models_kept": self.keeps_all}

    def tidy(self, facts: dict) -> None:
        if not facts.get("models_kept"):
            self._keep(set())
