"""How networks are pre-trained unless one says otherwise: the recipes of the papers and of their code (spec speat.md
3.3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from layertool.errors import UsageError
from layertool.models import melhubert
from layertool.training.engine import Settings
from layertool.training.pretraining_data import Spans
from layertool.training.pretraining_networks import PRESETS, Sizes
from layertool.training.targets import MAX_FRAMES

MODELS = ("melhubert", "hubert", "wav2vec2")
SEED = 1337  # of the original MelHuBERT


def _fairseq(max_gradient_norm: float) -> Settings:
    return Settings(
        400_000,
        5e-4,
        warmup_steps=32_000,
        schedule="linear",
        batch_size=6,
        betas=(0.9, 0.98),
        epsilon=1e-6,
        weight_decay=0.01,
        max_gradient_norm=max_gradient_norm,
        save_steps=5000,
        seed=SEED,
    )


# MelHuBERT: Lin et al. 2024 (batch, steps) and the original code (the rest); HuBERT and wav2vec 2.0: Lin et al. 2024
# (400 000 steps, up to 87.5 s of audio in a batch) and fairseq's recipes for the base networks (the rest). Spec
# speat.md 3.3.
SETTINGS = {
    "melhubert": Settings(421_000, 1e-4, batch_size=12, save_steps=5000, seed=SEED),
    "hubert": _fairseq(10.0),
    "wav2vec2": _fairseq(0.0),
}
SPANS = {"melhubert": Spans(0.7, 5), "hubert": Spans(0.8, 10), "wav2vec2": Spans(0.65, 10)}
# 750 frames of 20 ms, 1500 of 10 ms; 250 000 samples
MAX_SECONDS = {"melhubert": 15.0, "hubert": 15.625, "wav2vec2": 15.625}
# utterances of up to 320 frames are left out; of less than 32 000 samples
MIN_FRAMES = {"melhubert": 321, "hubert": 99, "wav2vec2": 99}
MOST_CLUSTERS = 50_000
CLUSTERS = {"melhubert": 512, "hubert": 504, "wav2vec2": 0}  # as many as networks of Table 2 tell


@dataclass(frozen=True)
class Recipe:
    """What is trained on what; None is the default of the model (``SPANS``, ``MAX_SECONDS``, ``MIN_FRAMES``,
    ``CLUSTERS``).

    ``frame_ms``: of MelHuBERT, 10 or 20. ``min_frames``: utterances with fewer of the network's frames are left out.
    ``max_seconds``: longer ones are cropped, elsewhere each time. ``max_fitted``: frames that clusters are fitted on.
    ``statistics``: of MelHuBERT's input and of stage 1 (``melhubert.features``).
    """

    model: str = "melhubert"
    sizes: Sizes = field(default_factory=lambda: PRESETS["base"])
    frame_ms: int = 20
    clusters: int | None = None
    spans: Spans | None = None
    max_seconds: float | None = None
    min_frames: int | None = None
    statistics: str = melhubert.DEFAULT_STATISTICS
    max_fitted: int = MAX_FRAMES

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise UsageError(f"'{self.model}' is no model to pre-train: choose {', '.join(MODELS)}")
        defaults = {"clusters": CLUSTERS, "spans": SPANS, "max_seconds": MAX_SECONDS, "min_frames": MIN_FRAMES}
        for name, of_models in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, of_models[self.model])  # type: ignore[index]
        spans, clusters, hops = self.its_spans, self.clusters or 0, (10, 20) if self.model == "melhubert" else (20,)
        for fits, said in (
            (self.frame_ms in hops, f"{self.model} has no frames of {self.frame_ms} ms: {' or '.join(map(str, hops))}"),
            (
                0 < spans.probability <= 1 and spans.length >= 1 and spans.least >= 1,
                f"masks of at least {spans.least} spans of {spans.length} frames with probability "
                f"{spans.probability:g} cannot be drawn: the probability is above 0 and at most 1, the others are 1 or "
                "more",
            ),
            (
                (self.max_seconds or 0) >= 0.1,
                f"crops of {self.max_seconds} s are too short: give --max-seconds 0.1 or more",
            ),
            (
                self.model == "wav2vec2" or clusters >= 2,
                f"{clusters} clusters leave nothing to predict: give 2 or more",
            ),
            (
                clusters <= MOST_CLUSTERS,
                f"{clusters} clusters are more than any speech has kinds of frames: give up to {MOST_CLUSTERS}",
            ),
        ):
            if not fits:
                raise UsageError(said)

    @property
    def its_spans(self) -> Spans:
        return self.spans or SPANS[self.model]
