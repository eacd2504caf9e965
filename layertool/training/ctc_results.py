"""Result rows of CTC runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layertool.result_rows import Result
from layertool.training.ctc_data import Writing
from layertool.training.ctc_rates import ANALYSIS, EMPTY, LAYER, WEIGHT, Assessed, Rate, bootstrap_rate
from layertool.training.ctc_runs import Recipe, Tuned
from layertool.training.ctc_sweep import Sweep

STANDARD = "standard (all layers from the checkpoint)"
FROZEN = "frozen, learned weighted sum of all layers"


def treatment(recipe: Recipe) -> str:
    """What was done to the network, in words."""
    if recipe.frozen:
        return FROZEN + (" after a layer norm each" if recipe.normalise else "")
    return f"top {recipe.reinit_top} layers re-initialised" if recipe.reinit_top else STANDARD


def rate_names(writing: Writing) -> tuple[str, str | None]:
    """What the two rates of ``Assessed`` are of."""
    return ("word error rate", "character error rate") if writing.units == "characters" else ("phone error rate", None)


def how(tuned: Tuned) -> str:
    """The rest of a variant's name."""
    writing = tuned.recipe.writing
    units = (
        f"characters in {writing.case} case" if writing.units == "characters" else f"labels of the tier {writing.tier}"
    )
    units = units.replace("keep case", "the case of the texts")
    more = ", SpecAugment" if tuned.recipe.augment else ""
    return f"linear CTC head on {units}, greedy decoding, best on dev of {tuned.steps} steps{more}"


def rows(
    tuned: Tuned, assessed: dict[str, Assessed], corpus: str, model: str | None = None, seed: int = 0
) -> list[Result]:
    """Rates on dev and test, and the weight of each layer of a frozen network (chance: equal weights).

    ``model``: the path of the MODEL, by which figures tell one training's checkpoints from another's.
    """
    about = _about(tuned, corpus, model, seed)
    names = rate_names(tuned.recipe.writing)
    out = []
    for part, found in assessed.items():
        for name, rate in zip(names, (found.rate, found.characters), strict=True):
            if name is not None and rate is not None:
                out.append(_rate(about, f"{name}, {treatment(tuned.recipe)}, {how(tuned)}", part, rate, seed))
    weights = tuned.weights or {}
    for k, (layer, weight) in enumerate(weights.items()):
        out.append(
            Result(**about, variant=WEIGHT, layer=layer, layer_index=k, target=tuned.recipe.writing.units, value=weight,
                   chance=1 / len(weights), n=tuned.n_utterances["train"])
        )  # fmt: skip
    return out


def sweep_rows(sweep: Sweep, corpus: str, model: str | None = None, seed: int = 0) -> list[Result]:
    """Rows of all runs, and of how much better the modified one is than the standard, on the same utterances."""
    out = []
    for n, tuned in sweep.runs.items():
        out += rows(tuned, sweep.assessed[n], corpus, model, seed)
    tuned = sweep.runs[sweep.chosen]
    name, about = rate_names(tuned.recipe.writing)[0], _about(tuned, corpus, model, seed)
    for part, found in sweep.assessed[sweep.chosen].items():
        standard = sweep.assessed[0][part]
        value, low, high = difference(standard.rate, found.rate, seed)
        variant = f"{name}, standard minus {treatment(tuned.recipe)} (chosen on dev), paired bootstrap, {how(tuned)}"
        out.append(
            Result(**about, variant=variant, layer=LAYER, layer_index=0, target=part, value=value, ci_low=low, ci_high=high,
                   chance=0.0, n=len(found.utterances))
        )  # fmt: skip
    return out


def difference(one: Rate, other: Rate, seed: int = 0) -> tuple[float, float | None, float | None]:
    """How much lower the other rate is, and its interval over resamples of the utterances that both have."""
    return one.value - other.value, *bootstrap_rate(one.errors - other.errors, one.n_tokens, seed=seed)


def _about(tuned: Tuned, corpus: str, model: str | None, seed: int) -> dict[str, Any]:
    of = tuned.provenance
    return {
        "analysis": ANALYSIS, "model": of["id"], "revision": of.get("revision"), "step": of.get("step"), "corpus": corpus,
        "unit": "utterance", "seed": seed, "store": model if model and Path(model).exists() else None,
    }  # fmt: skip


def _rate(about: dict, variant: str, part: str, rate: Rate, seed: int) -> Result:
    low, high = rate.interval(seed)
    return Result(
        **about, variant=variant, layer=LAYER, layer_index=0, target=part, value=rate.value, ci_low=low, ci_high=high,
        chance=EMPTY, n=len(rate.errors),
    )  # fmt: skip
