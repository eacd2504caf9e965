"""Texts or phones with CTC, from the whole network or from frozen layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from layertool.declared import option
from layertool.errors import UsageError
from layertool.training.tasks.base import Optimised, Progress, Say, read

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus
    from layertool.models.open import Model
    from layertool.training.ctc_data import Parts, Writing


def _conditions(given: Any) -> Sequence:
    from layertool.conditions import conditions

    return conditions(given)


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
        from layertool.training import ctc_rates, ctc_run, ctc_sweep

        sweeps = self.sweep_reinit or len(self.reinit_top) > 1
        jobs = _jobs([member for model in models for member in Model.series(model)], Path(out))
        speech, seed = read(corpus), self.seed or 0
        rows: list = []
        runs: list = []
        for k, (model, folder) in enumerate(jobs):
            named = f"{model}: " if len(jobs) > 1 else ""
            note = (lambda text, named=named: say(named + text)) if say else None
            how = self.how(ctc_sweep._nth(progress, k, len(jobs)), note)
            if sweeps and not self.dry_run:
                swept = ctc_sweep.sweep_reinit(model, speech, folder, self, **how)
                runs += swept.runs.values()
                rows += ctc_rates.sweep_rows(swept, speech.name, str(model), seed)
                if not swept.is_better and note:
                    note("on dev no number of re-initialised layers beats the standard; the best of them is compared")
                continue
            tuned = ctc_run.fine_tune(model, speech, folder, self, **how)
            runs.append(tuned)
            if not self.dry_run:
                assessed = ctc_run.assess_run(tuned.folder, speech, self, model)
                rows += ctc_rates.rows(tuned, assessed, speech.name, str(model), seed)
        return rows, runs

    @property
    def parts(self) -> Parts:
        """Conditions on the utterances of each part."""
        from layertool.training.ctc_data import Parts

        given = {part: where for part in ("train", "dev", "test") if (where := getattr(self, f"{part}_where"))}
        return Parts(**given)

    @property
    def writing(self) -> Writing:
        """What is written of an utterance."""
        from layertool.training.ctc_data import Writing

        return Writing(self.tokens, self.case)


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
