"""Pre-training of MelHuBERT, HuBERT and wav2vec 2.0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from layertool.account import Account, number
from layertool.declared import option
from layertool.errors import UsageError
from layertool.training.tasks.base import Heard, Optimised, Progress, Say, of_series, read

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus


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

        sizes = replace(PRESETS[self.size], **self.given(*self._sizes))
        recipe = self.recipe(self.model, sizes=sizes, frame_ms=int(self.frame_ms))
        return pretraining.pretrain(
            read(corpus),
            Path(out),
            recipe,
            self.settings(SETTINGS[self.model]),
            self.store(),
            self.init,
            **self.how(progress, say),
        )

    def account(self, done, corpus: object) -> Account:
        """What a run has made."""
        return of_series(done, corpus, number(done.facts["parameters"]), done.facts["clustered"])
