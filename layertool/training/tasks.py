"""What can be trained, declared once: the fields of a task are the options of its command and the keywords of Python.

    Pretraining(model="hubert", size="slim", steps=20_000).run(corpus, "run")
    Heads(at=(1000, 6000), steps=11_000).run("run/step-20000", corpus, "pruned")

A value that is None is the paper's, which depends on the model. ``run`` returns what the function behind it does,
``account`` says it to a person. Nothing heavy is imported before ``run``: the help of commands is made of these classes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from layertool.account import Account, Table, count, number
from layertool.declared import Declared, listed, option, options_of
from layertool.errors import MissingExtraError, UsageError
from layertool.layerwise.reading import Reading

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus
    from layertool.models.open import Model

Progress = Callable[[float, float], object]
Say = Callable[[str], object]
Dtype = Literal["float32", "bfloat16", "float16"]
_SHOWN = 10  # losses in a terminal
_OWN_TARGETS = ("targets", "clusters", "max_fitted", "statistics")  # wav2vec 2.0 has none of them


@dataclass(frozen=True, kw_only=True)
class Task(Declared):
    """What every training has."""

    device: str = option("auto", "Device that trains: auto, cpu, cuda or mps.")
    dtype: Dtype = option("float32", "Precision of the computation; the weights stay in float32.")
    overwrite: bool = option(False, "Start again.", usual="go on where an earlier run stopped")
    purpose: ClassVar[str] = "training"
    packages: ClassVar[tuple[str, ...]] = ("accelerate",)
    usuals: ClassVar[Mapping[str, str]] = {}

    def require(self) -> None:
        """Raise MissingExtraError where a package is not there."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "train", self.purpose)

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
class Stepwise(Task):
    """How many steps of what size (``session.Settings``)."""

    steps: int | None = option(None, "Steps of training.", low=1)
    save_steps: int | None = option(
        None, "Write RUN/step-N, a MODEL, every so many steps (and at 0); a stopped run goes on from there.", low=1
    )
    batch_size: int | None = option(None, "Utterances in a batch.", low=1)
    accumulation: int | None = option(None, "Batches in a step.", low=1)
    learning_rate: float | None = option(None, "Learning rate at its peak.", low=0)
    seed: int | None = option(None, "Seed of weights, order and crops.", low=0)
    statistics: str | None = option(
        None, "Statistics of a MelHuBERT's input, as for extract.", metavar="100|360|960|FILE", usual="960"
    )

    def settings(self) -> dict[str, Any]:
        """Those of ``session.Settings`` that were given, and the precision."""
        names = (
            "steps",
            "save_steps",
            "batch_size",
            "accumulation",
            "learning_rate",
            "warmup_steps",
            "schedule",
            "seed",
        )
        return self.given(*names) | {"precision": self.dtype}


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
        "What is clustered to be predicted: log mel energies every 10 ms (stage 1), or the frames of a layer in a store "
        "of the same corpus (stage 2).",
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


@dataclass(frozen=True, kw_only=True)
class Pretraining(Heard, Optimised):
    """Pre-train MelHuBERT, HuBERT or wav2vec 2.0 on a corpus; every step saved is a MODEL.

    \b
    The defaults are those of Lin et al. 2024, MelHuBERT's own code and fairseq's recipes (docs/training.md).
    Examples:
      layertool pretrain corpus -o run --size small --steps 20000 --save-steps 1000
      layertool extract 'run/step-*' corpus -o series --units phone,utterance
      layertool extract run/step-20000 corpus -o stage1 --units frame --layers T2
      layertool pretrain corpus -o stage2 --size small --targets stage1:T2
      layertool pretrain corpus -o w2v2 --model wav2vec2 --blocks 4 --width 256 --ffn 1024 --heads 4
    """

    model: Literal["melhubert", "hubert", "wav2vec2"] = option("melhubert", "Kind of network that is trained.")
    size: Literal["small", "slim", "base"] = option(
        "base", "Size as in Table 2 of Lin et al. 2024: 3 blocks of 640, 12 of 384, 12 of 768."
    )
    blocks: int | None = option(None, "Another number of blocks than --size has.", low=1)
    width: int | None = option(None, "Another width of the blocks.", low=1)
    ffn: int | None = option(None, "Other rows in their feed-forward parts.", low=1)
    heads: int | None = option(None, "Another number of heads.", low=1)
    convolution_width: int | None = option(
        None, "Channels of the convolutions of hubert and wav2vec2.", flags=("--conv-width",), low=1, usual="512"
    )
    init: str | None = option(None, "Go on with the weights of this MODEL, and with its sizes.", metavar="MODEL")
    frame_ms: Literal["10", "20"] = option("20", "Milliseconds between frames of melhubert.")
    purpose: ClassVar[str] = "pre-training"
    usuals: ClassVar[Mapping[str, str]] = {
        "clusters": "512; hubert: 504, as in Table 2",
        "steps": "421000; hubert, wav2vec2: 400000",
        "save_steps": "5000",
        "batch_size": "12; hubert, wav2vec2: 6",
        "accumulation": "1",
        "learning_rate": "1e-4; hubert, wav2vec2: 5e-4",
        "warmup_steps": "0; hubert, wav2vec2: 8 % of the steps",
        "schedule": "constant; hubert, wav2vec2: linear, to 0",
        "seed": "1337",
    }
    steps: int | None = option(None, "Steps of training; 0 writes the untrained network alone.", low=0)
    seed: int | None = option(None, "Seed of weights, clusters, order, crops and masks.", low=0)
    _sizes: ClassVar[tuple[str, ...]] = ("blocks", "width", "ffn", "heads", "convolution_width")

    def check(self) -> None:
        super().check()
        if self.init and (clash := self.clash("size", *self._sizes, "frame_ms")):
            raise UsageError(f"--init goes on with a network that has its sizes: leave {clash} out")
        if self.model == "melhubert" and (clash := self.clash("convolution_width")):
            raise UsageError(f"{clash} is for networks that read waveforms, which melhubert is not: leave it out")
        if self.model != "melhubert" and (clash := self.clash("frame_ms")):
            raise UsageError(f"{clash} is for melhubert: {self.model} has a frame every 20 ms")

    def run(
        self, corpus: Corpus | Path | str, out: Path | str, progress: Progress | None = None, say: Say | None = None
    ):
        """``pretraining.pretrain`` with these options."""
        self.require()
        from layertool.training import pretraining
        from layertool.training.pretraining_networks import PRESETS
        from layertool.training.pretraining_recipes import SETTINGS

        usual, settings = SETTINGS[self.model], self.settings()
        if "steps" in settings:  # a short run would end within the warm-up of a long one
            settings.setdefault("warmup_steps", round(usual.warmup_steps / usual.steps * settings["steps"]))
        sizes = replace(PRESETS[self.size], **self.given(*self._sizes))
        recipe = self.recipe(self.model, sizes=sizes, frame_ms=int(self.frame_ms))
        return pretraining.pretrain(
            _read(corpus),
            Path(out),
            recipe,
            replace(usual, **settings),
            self.store(),
            self.init,
            self.device,
            self.overwrite,
            progress,
            say,
        )

    def account(self, done, corpus: object) -> Account:
        """What a run has made."""
        return _of_series(done, corpus, number(done.n_parameters), done.targets)


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
        """``distilling.distill`` with these options."""
        self.require()
        from layertool.training import distilling

        recipe = distilling.Recipe(self.blocks, self.teacher_layers, self.teacher_init, self.pad, self.max_samples)
        return distilling.distill(
            teacher,
            _read(corpus),
            out,
            recipe,
            distilling.settings(**self.settings()),
            self.statistics,
            self.device,
            self.overwrite,
            progress,
            say,
        )

    def account(self, done, corpus: object) -> Account:
        """What a run has made."""
        parameters = f"{number(done.n_parameters)} of the student, {number(done.n_head_parameters)} of its heads"
        return _of_series(done, corpus, parameters)


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
        """``compressing.compress`` with these options. ``corpus``: None where nothing is heard."""
        asked = {one.name: getattr(self, one.name) for one in options_of(type(self))}
        trains = self.steps != 0
        hears = trains or asked.get("score") == "data"
        if hears:
            self.require()
        self._check_speech(corpus is not None, trains, hears)
        from layertool.training import compressing, plans
        from layertool.training.pretraining_recipes import MODELS

        about = plans.look(model)
        plan, total = self._plan(about, trains, asked)
        pruning = plans.Pruning(self.kind, plan, total, trains, asked.get("score", "weights"), asked.get("by", "layer"))
        recipe = settings = store = None
        if hears:
            if about.model in MODELS:  # others are refused by name where they are opened
                recipe = self.recipe(about.model, clusters=about.clusters or None)
            settings = plans.usual_settings(self.kind, about.model, **self.settings() | {"steps": 0})
            store = self.store()
        return compressing.compress(
            model,
            _read(corpus) if corpus is not None else None,
            out,
            pruning,
            recipe,
            settings,
            store,
            self.device,
            self.overwrite,
            progress,
            say,
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
            removed = done.n_parameters - saved.n_parameters
            rows.append(
                [saved.path.name, saved.step, saved.n_parameters, removed, f"{before[-1]:.3f}" if before else ""]
            )
        parameters = "parameters that are not 0" if self.kind == "weights" else "parameters"
        headers = ["model", "step", parameters, "removed", *(["training loss"] if done.losses else [])]
        pattern = f"{done.models[0].path.name.partition('-')[0]}-*"
        table = Table(None, headers, [row[: len(headers)] for row in rows])
        return Account(_made(done), tables=[table], notes=_next(done, pattern, corpus))


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
        "Step of the first pruning; the others wait until the loss falls no more. Not for --at, nor for wav2vec2, which is "
        "pruned when MelHuBERT was unless you give one of these.",
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


def _conditions(given: Any) -> Sequence:
    from layertool.layerwise.rows import parse_where

    return parse_where(given)


def _where(part: str, usual: str) -> Any:
    said = f"Utterances of the {part} part, by their metadata; as --where elsewhere."
    return option((), said, metavar="COLUMN=VALUE", usual=usual, parse=_conditions)


@dataclass(frozen=True, kw_only=True)
class CTC(Optimised):
    """Write texts or phones with a linear CTC head; error rates on dev and test, greedy decoding.

    \b
    The corpus needs texts (column text), or phones. Without --freeze the result is a MODEL; a MODEL may be a
    pattern ('run/step-*'). Protocols of Pasad et al. 2021 and Lin et al. 2024: docs/finetuning.md.
    Examples:
      layertool finetune ctc facebook/wav2vec2-base corpus -o tuned --test-where split=test
      layertool finetune ctc facebook/wav2vec2-base corpus -o top3 --reinit-top 3
      layertool finetune ctc facebook/wav2vec2-base corpus -o sweep --sweep-reinit --results wer.csv
      layertool finetune ctc 'run/step-*' corpus -o per --tokens phone --freeze --weighted-sum --plot per.pdf
    """

    tokens: Literal["characters", "phone"] = option(
        "characters", "What is written: the column text, or the labels of the tier phone."
    )
    case: Literal["upper", "lower", "keep"] = option("upper", "Case of the characters.")
    train_where: tuple[str, ...] = _where("train", "split=train")
    dev_where: tuple[str, ...] = _where("dev", "split=dev")
    test_where: tuple[str, ...] = _where("test", "none, only dev is reported")
    unknown: Literal["error", "count"] = option(
        "error", "Refuse dev and test with a token that is in no training utterance, or count it as an error."
    )
    reinit_top: tuple[int, ...] = option(
        (), "Re-initialise so many top layers; several numbers make a sweep.", metavar="N[,N...]", low=0, usual="0"
    )
    sweep_reinit: bool = option(
        False, "Try all numbers of layers (or those of --reinit-top), choose on dev, compare with the standard."
    )
    freeze: bool = option(False, "Train no layer of the model; with --weighted-sum.")
    weighted_sum: bool = option(False, "Read a learned weighted sum of all layers; with --freeze.")
    normalise_layers: bool = option(False, "Mean 0 and variance 1 of each layer before the sum.")
    cache_gb: float = option(
        8.0, "Compute frozen layers once if they take no more memory, in GB, else for every batch.", low=0
    )
    augment: bool = option(False, "Hide spans of frames in training (SpecAugment of the model's config).")
    save_steps: int | None = option(
        None, "Transcribe dev every so many steps; the best step is kept, a stopped run goes on from there.", low=1
    )
    keep_models: bool = option(False, "Keep the network of every step saved as RUN/step-N.")
    results: Path | None = option(
        None, "Write the result rows as .csv, .parquet or .json.", metavar="FILE", decides=False
    )
    plot: Path | None = option(
        None,
        "Draw weights of frozen layers, over steps for a series, as .png, .pdf or .svg.",
        metavar="FILE",
        decides=False,
    )
    purpose: ClassVar[str] = "fine-tuning"
    packages: ClassVar[tuple[str, ...]] = ("accelerate", "jiwer")
    usuals: ClassVar[Mapping[str, str]] = {
        "steps": "10000; frozen: 100000",
        "save_steps": "1000",
        "batch_size": "6; frozen: 16",
        "accumulation": "1; frozen: 2",
        "learning_rate": "1e-4; frozen: 1e-2",
        "warmup_steps": "10 % of the steps; frozen: 0",
        "seed": "0",
        "schedule": "linear, to 0; frozen: constant",
    }

    def check(self) -> None:
        if self.freeze != self.weighted_sum:
            one, other = ("--freeze", "--weighted-sum") if self.freeze else ("--weighted-sum", "--freeze")
            raise UsageError(f"{one} goes with {other}: a frozen model is read through a weighted sum of its layers")
        if self.freeze and (clash := self.clash("reinit_top", "sweep_reinit", "augment")):
            raise UsageError(f"a frozen model is measured as it is: leave {clash} out")
        if not self.freeze and (clash := self.clash("normalise_layers", "cache_gb")):
            raise UsageError(f"{clash} is for frozen layers: give --freeze --weighted-sum too, or leave it out")
        if not self.freeze and self.plot is not None:
            raise UsageError(
                "--plot draws the weights of frozen layers: give --freeze --weighted-sum too, or leave it out"
            )
        if self.tokens == "phone" and (clash := self.clash("case")):
            raise UsageError(f"{clash} is for characters: leave it out")

    def run(
        self,
        models: Sequence[str | list],
        corpus: Corpus | Path | str,
        out: Path | str,
        progress: Progress | None = None,
        say: Say | None = None,
    ) -> tuple[list, list]:
        """Each MODEL fine-tuned, or swept; of several each in a folder of ``out``. Returns (result rows, runs)."""
        self.require()
        from layertool.models.open import Model
        from layertool.training import ctc_results, ctc_runs, ctc_sweep
        from layertool.training.ctc_data import Parts, Writing

        tops = self.reinit_top or (0,)
        sweeps = self.sweep_reinit or len(tops) > 1
        recipe = ctc_runs.Recipe(
            0 if sweeps else tops[0],
            self.freeze,
            self.normalise_layers,
            self.unknown,
            self.augment,
            writing=Writing(self.tokens, self.case),
        )
        given = {part: where for part in ("train", "dev", "test") if (where := getattr(self, f"{part}_where"))}
        how, parts = ctc_runs.settings(self.freeze, **self.settings()), Parts(**given)
        jobs = _jobs([member for model in models for member in Model.series(model)], Path(out))
        read = _read(corpus)
        rows: list = []
        runs: list = []
        kept: dict[str, Any] = {"overwrite": self.overwrite, "keep_models": self.keep_models, "cache_gb": self.cache_gb}
        for k, (model, folder) in enumerate(jobs):
            named = f"{model}: " if len(jobs) > 1 else ""
            note = (lambda text, named=named: say(named + text)) if say else None
            common = (recipe, how, parts, self.statistics, self.device)
            shown = ctc_sweep._nth(progress, k, len(jobs))
            if sweeps:
                swept = ctc_sweep.sweep_reinit(
                    model, read, folder, self.reinit_top or None, *common, progress=shown, say=note, **kept
                )
                runs += swept.runs.values()
                rows += ctc_results.sweep_rows(swept, read.name, str(model), how.seed)
                if not swept.is_better and note:
                    note("on dev no number of re-initialised layers beats the standard; the best of them is compared")
                continue
            tuned = ctc_runs.fine_tune(model, read, folder, *common, progress=shown, say=note, **kept)
            assessed = ctc_runs.assess_run(tuned.folder, read, parts, model, self.device, recipe.unknown)
            runs.append(tuned)
            rows += ctc_results.rows(tuned, assessed, read.name, str(model), how.seed)
        return rows, runs


def _jobs(found: list[tuple[str | None, Model]], out: Path) -> list[tuple[Model, Path]]:
    """Each model with the folder of its run. Raises UsageError for two models of one name."""
    models = list(dict.fromkeys(model for _, model in found))
    if len(models) == 1:
        return [(models[0], out)]
    names = {model: name or Path(str(model)).name for name, model in found}
    if len(set(names.values())) < len(names):  # run-a/step-100 and run-b/step-100
        names = {model: "-".join(Path(str(model)).parts[-2:]) for model in models}
    twice = [name for name in names.values() if list(names.values()).count(name) > 1]
    if twice:
        raise UsageError(f"two models are called {twice[0]}, and so would their folders in {out}: run them one by one")
    return [(model, out / names[model]) for model in models]


def _parts(given: Any) -> tuple[str, ...]:
    names = tuple(listed(given))
    if not names:
        raise UsageError("--modules names no part: choose among decoder, encoder, convolutions")
    return names


@dataclass(frozen=True, kw_only=True)
class Listeners(Reading, Task):
    """Fine-tune a Whisper model on the listeners' responses; the epoch with the best dev part is kept.

    \b
    The corpus needs the parts train and dev (layertool corpus eccc). The result is a MODEL for every other command.
    Examples:
      layertool lexical finetune openai/whisper-small eccc -o tuned
      layertool lexical finetune openai/whisper-small eccc -o top --objective top --modules decoder,encoder
      layertool lexical finetune openai/whisper-small eccc -o scratch --from-scratch
    """

    objective: Literal["all", "top"] = option("all", "The distribution of all responses, or the most common one.")
    modules: tuple[str, ...] = option(
        (), "Parts to train, the rest is frozen.", metavar="PARTS", usual="decoder,encoder,convolutions", parse=_parts
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
    seed: int = option(0, "Seed of the order, and of new weights.", low=0)
    keep_checkpoints: bool = option(False, "Keep the model of every epoch, not only the best.")
    purpose: ClassVar[str] = "fine-tuning"

    def check(self) -> None:
        if self.grid and (twice := self.clash("learning_rate", "warmup", "schedule", "epochs")):
            raise UsageError(f"--grid tries several values of {twice}: leave one of the two out")

    def run(
        self,
        model: Model | str,
        corpus: Corpus | Path | str,
        out: Path | str,
        progress: Progress | None = None,
        say: Say | None = None,
    ) -> tuple[Any, list]:
        """``lexical.fine_tune`` with these options, or the search of the grid.

        Returns the best run, and (name, run or error) of each point of the grid.
        """
        self.require()
        from layertool.training.lexical import Recipe, fine_tune
        from layertool.training.lexical_grid import search_grid
        from layertool.training.responses import MODULES

        recipe = Recipe(
            self.objective,
            self.modules or MODULES,
            self.learning_rate,
            self.warmup,
            self.schedule,
            self.epochs,
            self.batch_size,
            from_scratch=self.from_scratch,
            seed=self.seed,
            precision=self.dtype,
            variant=self.variant,
        )
        given: dict[str, Any] = {
            "by_target": self.target_disjoint,
            "device": self.device,
            "overwrite": self.overwrite,
            "keep_checkpoints": self.keep_checkpoints,
            "progress": progress,
        }
        points: list[tuple[str, Any]] = []
        if self.grid:
            _, tuned = search_grid(
                model, _read(corpus), out, recipe, lambda name, run: points.append((name, run)), **given
            )
        else:
            tuned = fine_tune(model, _read(corpus), out, recipe, **given)
        return tuned, points

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


def _read(corpus: Corpus | Path | str) -> Corpus:
    from layertool.corpora.corpus import Corpus

    return corpus if isinstance(corpus, Corpus) else Corpus.read(corpus)


def _made(done) -> str:
    finished = " (the run was finished already)" if done.was_there else ""
    return f"{done.folder}: {count(len(done.models), 'model')}{finished}"


def _next(done, pattern: str, corpus: object) -> list[str]:
    """How to see what a new run's models know."""
    said = f"see what the layers know with: layertool extract '{done.folder}/{pattern}' {corpus or 'CORPUS'} -o SERIES"
    return [] if done.was_there else [said]


def _of_series(done, corpus: object, parameters: str, targets: str | None = None) -> Account:
    """What a run of saved steps has made."""
    left_out = f" ({done.n_left_out} too short)" if done.n_left_out else ""
    facts = [("utterances", f"{number(done.n_utterances)}{left_out}"), ("parameters", parameters)]
    facts += [("targets", targets)] if targets else []
    last = len(done.losses) - 1
    shown = sorted({round(k * last / (_SHOWN - 1)) for k in range(_SHOWN)}) if done.losses else []
    rows = [[done.losses[k].step, done.losses[k].loss] for k in shown]
    tables = [Table(None, ["step", "training loss"], rows)] if rows else []
    return Account(_made(done), facts, tables, notes=_next(done, "step-*", corpus))
