"""What all tasks of training share: options, what they hear, and what is said of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from layertool.account import Account, Table, count, number
from layertool.declared import Declared, option, options_of
from layertool.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus
    from layertool.training.engine import Settings

Progress = Callable[..., object]  # (steps done, in all, the loss in words)
Say = Callable[[str], object]
Dtype = Literal["float32", "bfloat16", "float16"]
Logger = Literal["tensorboard", "wandb"]
_SHOWN = 10  # losses in a terminal
_OWN_TARGETS = ("targets", "clusters", "max_fitted", "statistics")  # wav2vec 2.0 has none of them


@dataclass(frozen=True, kw_only=True)
class Training(Declared):
    """What every training has."""

    device: str = option("auto", "Device that trains: auto, cpu, cuda or mps.")
    dtype: Dtype = option("float32", "Precision of the computation; the weights stay in float32.")
    workers: int | None = option(
        None, "Processes that decode audio beside the step.", low=0, usual="2 with a GPU, else 0"
    )
    log: tuple[Logger, ...] = option(
        (), "Write the losses for these, too, into RUN/logs (wandb offline).", metavar="tensorboard|wandb"
    )
    overwrite: bool = option(False, "Start again.", usual="go on where an earlier run stopped")
    dry_run: bool = option(False, "Say what would be trained and what it would take, and stop.")
    purpose: ClassVar[str] = "training"
    packages: ClassVar[tuple[str, ...]] = ("accelerate",)
    usuals: ClassVar[Mapping[str, str]] = {}

    def require(self) -> None:
        """Raise MissingExtraError where a package is not there, and UsageError for a device that is not."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "train", self.purpose)
        from layertool.models.computing import choose

        choose(self.device, self.dtype)

    def settings(self, usual: Settings) -> Settings:
        """How weights are optimised: as ``usual``, but for what was asked for."""
        asked = {one.name: getattr(self, one.name, None) for one in fields(usual)}
        given = {name: one for name, one in asked.items() if one is not None}
        settings = replace(usual, precision=self.dtype, **given)
        if usual.warmup_steps and "warmup_steps" not in given:  # a short run would end within that of a long one
            settings = replace(settings, warmup_steps=round(usual.warmup_steps / usual.steps * settings.steps))
        return settings

    def how(self, progress: Progress | None, say: Say | None) -> dict[str, Any]:
        """What ``engine.run`` is told besides the task and its settings."""
        names = ("device", "workers", "log", "overwrite", "dry_run")
        return {**{name: getattr(self, name) for name in names}, "progress": progress, "say": say}

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the values that are not the defaults."""
        defaults = {one.name: one.default for one in options_of(type(self))}
        return {
            name: getattr(self, name) for name in names if name in defaults and getattr(self, name) != defaults[name]
        }

    def clash(self, *names: str) -> str | None:
        """The option of the first value among them that is not the default."""
        given = self.given(*names)
        return next((one.flag for name in given for one in options_of(type(self)) if one.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Stepwise(Training):
    """How many steps of what size (``engine.Settings``)."""

    steps: int | None = option(None, "Steps of training.", low=1)
    save_steps: int | None = option(
        None, "Write RUN/step-N, a MODEL, every so many steps (and at 0); a stopped run goes on from there.", low=1
    )
    batch_size: int | None = option(None, "Utterances in a batch.", low=1)
    accumulation: int | None = option(None, "Batches in a step.", low=1)
    bucket_steps: int = option(
        16,
        "Sort the examples of so many steps by length before they are cut into batches; 1: take them as drawn.",
        low=1,
    )
    learning_rate: float | None = option(None, "Learning rate at its peak.", low=0)
    seed: int | None = option(None, "Seed of weights, order and crops.", low=0, high=2**32 - 1)
    statistics: str | None = option(
        None, "Statistics of a MelHuBERT's input, as for extract.", metavar="100|360|960|FILE", usual="960"
    )


@dataclass(frozen=True, kw_only=True)
class Optimised(Stepwise):
    """The same, with a learning rate that rises and falls."""

    warmup_steps: int | None = option(None, "Steps until the learning rate is at its peak.", low=0)
    schedule: Literal["constant", "linear", "cosine"] | None = option(None, "Learning rate after the warm-up.")


@dataclass(frozen=True, kw_only=True)
class Heard(Stepwise):
    """What a network of masked prediction hears, what is hidden of it, and what it predicts."""

    targets: str = option(
        "mel",
        "What is clustered to be predicted: log mel energies every 10 ms (stage 1), or the frames of a layer in a "
        "store of the same corpus (stage 2).",
        metavar="mel|STORE:LAYER",
    )
    clusters: int | None = option(None, "Clusters that are predicted.", low=2)
    max_fitted: int = option(
        500_000, "Draw up to so many frames to fit clusters on.", flags=("--cluster-frames",), low=2
    )
    mask_prob: float | None = option(
        None,
        "Probability of a frame to be in a hidden span, were there no overlaps.",
        low=0,
        high=1,
        usual="0.7; hubert: 0.8, wav2vec2: 0.65",
    )
    mask_length: int | None = option(None, "Frames in a hidden span.", low=1, usual="5; hubert, wav2vec2: 10")
    min_masks: int = option(2, "Hidden spans in an utterance, at least.", low=1)
    max_seconds: float | None = option(
        None, "Longer utterances are cropped, elsewhere each time.", low=0.1, usual="15; hubert, wav2vec2: 15.625"
    )
    min_frames: int | None = option(
        None, "Utterances with fewer frames are left out.", low=1, usual="321; hubert, wav2vec2: 99"
    )
    statistics: str | None = option(
        None, "Means and deviations of log mel energies, as for extract.", metavar="100|360|960|FILE", usual="960"
    )

    def check(self) -> None:
        path, _, layer = self.targets.rpartition(":")
        if self.targets != "mel" and not (path and layer):
            raise UsageError(f"'{self.targets}' are no targets: type mel, or STORE:LAYER (stage1:T2)")

    def recipe(self, model: str, **more: Any):
        """``pretraining_recipes.Recipe`` of a kind of model. Raises UsageError for targets where it makes its own."""
        from layertool.training.pretraining_recipes import SPANS, Recipe

        if model == "wav2vec2" and (clash := self.clash(*_OWN_TARGETS)):
            raise UsageError(f"wav2vec 2.0 makes its targets itself: leave {clash} out")
        spans: dict[str, Any] = {"probability": self.mask_prob, "length": self.mask_length, "least": self.min_masks}
        spans = {name: value for name, value in spans.items() if value is not None}
        given = self.given("max_seconds", "min_frames", "max_fitted", "statistics", "clusters")
        return Recipe(model, spans=replace(SPANS[model], **spans), **{**more, **given})

    def store(self):
        """The store and the layer that are clustered, None for log mel energies."""
        from layertool.store import FeatureStore

        path, _, layer = self.targets.rpartition(":")
        return None if self.targets == "mel" else (FeatureStore(path), layer)


def read(corpus: Corpus | Path | str) -> Corpus:
    from layertool.corpora.corpus import Corpus

    return corpus if isinstance(corpus, Corpus) else Corpus.read(corpus)


def made(done) -> str:
    finished = " (the run was finished already)" if done.was_there else ""
    return f"{done.folder}: {count(len(done.models), 'model')}{finished}"


def next_steps(done, pattern: str, corpus: object) -> list[str]:
    """How to see what a new run's models know."""
    said = f"see what the layers know with: layertool extract '{done.folder}/{pattern}' {corpus or 'CORPUS'} -o SERIES"
    return [] if done.was_there else [said]


def of_series(done, corpus: object, parameters: str, targets: str | None = None) -> Account:
    """What a run of saved steps has made."""
    left_out = f" ({done.facts['left_out']} too short)" if done.facts["left_out"] else ""
    facts = [("utterances", f"{number(done.facts['utterances'])}{left_out}"), ("parameters", parameters)]
    facts += [("targets", targets)] if targets else []
    last = len(done.losses) - 1
    shown = sorted({round(k * last / (_SHOWN - 1)) for k in range(_SHOWN)}) if done.losses else []
    rows = [[done.losses[k].step, done.losses[k].loss] for k in shown]
    tables = [Table(None, ["step", "training loss"], rows)] if rows else []
    return Account(made(done), facts, tables, notes=next_steps(done, "step-*", corpus))
