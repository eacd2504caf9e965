"""Result rows of CTC runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layertool.result_rows import Result, row
from layertool.training.ctc_data import Writing
from layertool.training.ctc_rates import ANALYSIS, EMPTY, LAYER, WEIGHT, Assessed, Rate, bootstrap_rate
from layertool.training.ctc_run import Options, Tuned
from layertool.training.ctc_sweep import Sweep

STANDARD = "standard (all layers from the checkpoint)"
FROZEN = "frozen, learned weighted sum of all layers"


def treatment(options: Options) -> str:
    """What was done to the network, in words."""
    if options.freeze:
        return FROZEN + (" after a layer norm each" if options.normalise_layers else "")
    return f"top {options.reinit_top[0]} layers re-initialised" if any(options.reinit_top) else STANDARD


def rate_names(writing: Writing) -> tuple[str, str | None]:
    """What the two rates of ``Assessed`` are of."""
    return ("word error rate", "character error rate") if writing.units == "characters" else ("phone error rate", None)


def settings(tuned: Tuned, treated: str | None = None) -> dict[str, Any]:
    """What decides a rate. ``treated``: what was done to the network, None for what its recipe says."""
    writing = tuned.options.writing
    case = "the case of the texts" if writing.case == "keep" else f"{writing.case} case"
    tokens = f"characters in {case}" if writing.units == "characters" else f"labels of the tier {writing.tier}"
    return {
        "layers": treated or treatment(tuned.options),
        "head": f"linear CTC on {tokens}, greedy decoding",
        "best_on_dev_of_steps": tuned.facts["settings"]["steps"],
        "SpecAugment": tuned.options.augment or None,
    }


def rows(
    tuned: Tuned, assessed: dict[str, Assessed], corpus: str, model: str | None = None, seed: int = 0
) -> list[Result]:
    """Rates on dev and test, and the weight of each layer of a frozen network (chance: equal weights).

    ``model``: the path of the MODEL, by which figures tell one training's checkpoints from another's.
    """
    about = _about(tuned, corpus, model, seed)
    names = rate_names(tuned.options.writing)
    out = []
    for part, found in assessed.items():
        for name, rate in zip(names, (found.rate, found.characters), strict=True):
            if name is not None and rate is not None:
                low, high = rate.interval(seed)
                out.append(_rate(about, name, settings(tuned), part, rate, (rate.value, low, high), EMPTY))
    weights = tuned.facts["weights"] or {}
    for k, (layer, weight) in enumerate(weights.items()):
        out.append(
            row(
                WEIGHT,
                {},
                **about,
                layer=layer,
                layer_index=k,
                target=tuned.options.writing.units,
                value=weight,
                chance=1 / len(weights),
                n=tuned.facts["utterances"]["train"],
            )
        )
    return out


def sweep_rows(sweep: Sweep, corpus: str, model: str | None = None, seed: int = 0) -> list[Result]:
    """Rows of all runs, and of how much better the modified one is than the standard, on the same utterances."""
    out = []
    for n, tuned in sweep.runs.items():
        out += rows(tuned, sweep.assessed[n], corpus, model, seed)
    tuned = sweep.runs[sweep.chosen]
    name, about = rate_names(tuned.options.writing)[0], _about(tuned, corpus, model, seed)
    for part, found in sweep.assessed[sweep.chosen].items():
        standard = sweep.assessed[0][part]
        treated = f"standard minus {treatment(tuned.options)} (chosen on dev), paired bootstrap"
        numbers = difference(standard.rate, found.rate, seed)
        out.append(_rate(about, name, settings(tuned, treated), part, found.rate, numbers, 0.0))
    return out


def difference(one: Rate, other: Rate, seed: int = 0) -> tuple[float, float | None, float | None]:
    """How much lower the other rate is, and its interval over resamples of the utterances that both have."""
    return one.value - other.value, *bootstrap_rate(one.errors - other.errors, one.n_tokens, seed=seed)


def _about(tuned: Tuned, corpus: str, model: str | None, seed: int) -> dict[str, Any]:
    of = tuned.facts["model"]
    return {
        "analysis": ANALYSIS,
        "model": of["id"],
        "revision": of.get("revision"),
        "step": of.get("step"),
        "corpus": corpus,
        "unit": "utterance",
        "seed": seed,
        "store": model if model and Path(model).exists() else None,
    }


def _rate(about: dict, metric: str, how: dict, part: str, rate: Rate, numbers: tuple, chance: float) -> Result:
    value, low, high = numbers
    return row(
        metric,
        how,
        **about,
        layer=LAYER,
        layer_index=0,
        target=part,
        value=value,
        ci_low=low,
        ci_high=high,
        chance=chance,
        n=len(rate.errors),
    )
