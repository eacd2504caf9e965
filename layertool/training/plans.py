"""What a compression takes away, and when: what a MODEL has, the paper's schedules for it, and what was asked (spec
speat.md 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layertool.errors import ModelError, UsageError
from layertool.models import pruned
from layertool.models.foreign import read_safetensors
from layertool.models.open import Model
from layertool.training import compression
from layertool.training.engine import Settings
from layertool.training.pretraining_networks import HEADS
from layertool.training.pretraining_recipes import SEED
from layertool.training.schedules import (
    HEAD_STEPS,
    HEAD_TOTALS,
    ROW_STEPS,
    ROW_TOTAL,
    ROWS_AT_ONCE,
    SPARSITIES,
    WAV2VEC2_WEIGHT_STEPS,
    WAV2VEC2_WEIGHT_TOTAL,
    WEIGHT_TOTAL,
    Schedule,
    Trigger,
)

PREFIXES = {"heads": "heads-", "rows": "rows-", "weights": "sparsity-"}
LEARNING_RATES = {"heads": 5e-5, "rows": 1e-5, "weights": 1e-5}
SCORED_SHARE = 0.25  # of the utterances, for scores of heads from the loss
SCORES = ("weights", "data")
NO_END = 10**9  # steps that are never done: a trigger ends its trainings
Plan = Schedule | Trigger


@dataclass(frozen=True)
class About:
    """What a MODEL is, before it is pruned: ``model``: melhubert or transformers' type; ``clusters`` that it tells, 0
    if none; ``heads`` and ``rows`` of each block."""

    model: str
    clusters: int
    heads: list[int]
    rows: list[int]


def look(model: Model | str) -> About:
    """What a MODEL is. Raises ModelError for those that cannot be pruned, UsageError for files that are to be converted
    first."""
    model = Model.open(model)
    if model.kind in ("fairseq", "fairseq-native"):
        raise UsageError(f"{model} is a file of fairseq: write it as a folder with 'layertool convert' first")
    config = model.configuration
    if model.kind == "melhubert":
        return About("melhubert", config.num_cluster, *map(list, (config.heads_of_blocks, config.rows_of_blocks)))
    if model.type not in pruned.FAMILIES:
        raise ModelError(
            f"{model} is of type '{model.type}', which cannot be pruned: give a MelHuBERT, or a model of the type "
            f"{', '.join(pruned.FAMILIES)}"
        )
    sizes = getattr(config, pruned.KEY) if pruned.is_config(config) else {}
    n = config.num_hidden_layers
    heads = sizes.get("heads") or [config.num_attention_heads] * n
    rows = sizes.get("ffn_rows") or [config.intermediate_size] * n
    return About(config.model_type, _clusters_of(model.path / HEADS), heads, rows)


def _clusters_of(path: Path) -> int:
    if not path.exists():
        return 0
    embeddings = read_safetensors(path).get("label_embeddings")
    if embeddings is None:
        raise ModelError(f"{path} has no label_embeddings, by which clusters are told: copy it again")
    return len(embeddings)


def usual_plan(kind: str, about: About, amount: int | None = None) -> tuple[Plan, int]:
    """When Lin et al. 2024 prune, and their steps in all (spec speat.md 4.1 to 4.3).

    ``amount``: heads or rows of each block at once. A network with fewer than those of theirs has as many of the first
    prunings as it can give, and after the last as many steps as they had. Weights of wav2vec 2.0 go where MelHuBERT's
    trigger fired.
    """
    if kind == "weights":
        if about.model == "wav2vec2":
            return Schedule(kind, WAV2VEC2_WEIGHT_STEPS, SPARSITIES), WAV2VEC2_WEIGHT_TOTAL
        return Trigger(), WEIGHT_TOTAL
    sizes, steps, total = about.rows, ROW_STEPS, ROW_TOTAL
    if kind == "heads":
        sizes, steps, total = about.heads, HEAD_STEPS, HEAD_TOTALS.get(about.model, HEAD_TOTALS["melhubert"])
    amount = amount or (1 if kind == "heads" else ROWS_AT_ONCE)
    n = max(1, min(len(steps), (min(sizes) - 1) // amount))  # one, for check() to refuse where it is too much
    return Schedule(kind, steps[:n], amount), total - steps[-1] + steps[n - 1]


def usual_settings(kind: str, model: str, **changes: Any) -> Settings:
    """How Lin et al. 2024 train between prunings: Adam, a constant learning rate, norms clipped at 10."""
    given = {"learning_rate": LEARNING_RATES[kind], "batch_size": 4 if model == "melhubert" else 12, "seed": SEED}
    return Settings(**{"steps": 0, **given, **changes})


@dataclass(frozen=True)
class Pruning:
    """What is taken away when. ``kind``: heads, rows or weights; ``plan``: fixed steps, or a trigger on the loss
    (weights).

    ``trains``: False prunes without any training, one pruning after another. ``score``: of heads, "weights" or "data";
    ``by``: "layer" or "whole" (``compression.prune_heads``).
    """

    kind: str
    plan: Plan
    total_steps: int
    trains: bool = True
    score: str = "weights"
    by: str = "layer"

    def __post_init__(self) -> None:
        plan = self.plan
        if self.score not in SCORES or self.by not in compression.BY:
            raise UsageError(
                f"heads are not scored by '{self.score}' and pruned by '{self.by}': choose {' or '.join(SCORES)}, and "
                f"{' or '.join(compression.BY)}"
            )
        if self.kind != "heads" and (self.score, self.by) != ("weights", "layer"):
            raise UsageError("only heads are scored by data or pruned over the whole network")
        if isinstance(plan, Schedule) and plan.kind != self.kind:
            raise UsageError(f"a schedule for {plan.kind} does not prune {self.kind}: give one for {self.kind}")
        if isinstance(plan, Trigger) and (self.kind != "weights" or not self.trains):
            raise UsageError(
                "a trigger on the loss prunes weights while they are trained: give steps for anything else"
            )
        steps = (plan.warm_up,) if isinstance(plan, Trigger) else plan.steps
        if self.trains and steps[-1] >= self.total_steps:  # the network at the end would not have recovered
            raise UsageError(
                f"the {'first' if len(steps) == 1 else 'last'} pruning, at step {steps[-1]}, leaves no training after "
                f"it, which ends at step {self.total_steps}: train longer (--steps), or prune earlier (--at; of "
                "weights --first-pruning)"
            )

    @property
    def needs_speech(self) -> bool:
        return self.trains or self.score == "data"

    def begun(self) -> Plan:
        """The plan before its first pruning; this one stays as it is."""
        return replace(self.plan)

    def check_zeros(self, n_zeros: int, n_weights: int) -> None:
        """Raise UsageError where a first sparsity is less than what is gone already."""
        first = (self.plan.sparsities if isinstance(self.plan, Trigger) else self.plan.amounts)[0]
        if self.kind == "weights" and round(first * n_weights) < n_zeros:
            raise UsageError(
                f"a first sparsity of {first:g} is less than there is: {n_zeros} of {n_weights} weights of the "
                f"blocks are 0 already ({n_zeros / n_weights:.4g})"
            )

    def check_sizes(self, about: About) -> None:
        """Raise UsageError for a plan that removes more heads or rows than there are."""
        plan = self.begun()
        if isinstance(plan, Trigger):
            return
        if self.by == "layer":
            plan.check(about.heads if self.kind == "heads" else about.rows)
        elif (n_gone := sum(plan.amounts) * len(about.heads)) > sum(about.heads) - len(about.heads):
            raise UsageError(
                f"the schedule removes {n_gone:g} heads of {sum(about.heads)}, and one must stay in each of "
                f"{len(about.heads)} blocks: give fewer steps, or smaller amounts"
            )

    def decided(self) -> dict:
        """What decides the run of it, as JSON has it."""
        plan, total = self.plan.settings, self.total_steps
        if isinstance(self.plan, Schedule):
            del plan["kind"]
        if not self.trains:
            plan["steps"], total = None, 0
        return {"what": self.kind, "score": self.score, "by": self.by, "total_steps": total, "plan": plan}
