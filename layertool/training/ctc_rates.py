"""How wrong transcripts are: rates with intervals, their result rows, and how these are said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layertool import resampling
from layertool.account import Account, Table, number
from layertool.errors import MissingExtraError, UsageError
from layertool.files import whole_file
from layertool.result_rows import Result, row

if TYPE_CHECKING:
    from layertool.training.ctc_run import Tuned
    from layertool.training.ctc_sweep import Sweep

WEIGHT = "weight of the layer in the sum"  # the metric of rows of learned weights
_MOST_MODELS = 8  # beside each other
_MODEL = ["store", "model", "step"]
Sentence = str | Sequence[str]


@dataclass(frozen=True)
class Rate:
    """Errors per reference token, and those of each utterance, integers (n,), from which ``interval`` is drawn."""

    value: float
    errors: np.ndarray
    n_tokens: np.ndarray

    def interval(self, seed: int = 0) -> tuple[float | None, float | None]:
        """Percentile interval of the rate over resamples of utterances; None for fewer than two."""
        return bootstrap_rate(self.errors, self.n_tokens, seed=seed)


@dataclass(frozen=True)
class Assessed:
    """Transcripts of a part. ``rate``: of words, or of phones; ``characters``: of characters, None for phones."""

    part: str
    utterances: list[str]
    references: list[str]
    hypotheses: list[str]
    rate: Rate
    characters: Rate | None


def assess(
    part: str,
    utterances: Sequence[str],
    references: Sequence[Sequence[str] | str],
    hypotheses: Sequence[Sequence[str] | str],
) -> Assessed:
    """Compare transcripts with references: texts by words and characters, lists of phones by phones."""
    rate = Rate(*error_rate(references, hypotheses))
    shown = [[s if isinstance(s, str) else " ".join(s) for s in side] for side in (references, hypotheses)]
    are_texts = isinstance(references[0], str)
    of_letters = Rate(*error_rate(letters(shown[0]), letters(shown[1]))) if are_texts else None
    return Assessed(part, list(utterances), shown[0], shown[1], rate, of_letters)


def error_rate(references: Sequence[Sentence], hypotheses: Sequence[Sentence]) -> tuple[float, np.ndarray, np.ndarray]:
    """Errors per reference token, and errors and reference tokens of each utterance, integers (n,) each, by jiwer.

    Sentences are lists of tokens (phones, characters), or texts, of which words are compared (word error rate); for the
    character error rate of texts see ``letters``. Errors are substitutions, deletions and insertions of the shortest
    edit. The counts let the rate be bootstrapped over utterances. Raises UsageError where references and hypotheses are
    not as many, or there is no reference token; MissingExtraError without jiwer.
    """
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtraError("jiwer", "train", "counting transcription errors") from error
    if len(references) != len(hypotheses):
        raise UsageError(
            f"{len(references)} references cannot be compared with {len(hypotheses)} hypotheses: give as many"
        )
    wanted, given = (
        [one.split() if isinstance(one, str) else list(one) for one in side] for side in (references, hypotheses)
    )
    n_tokens = np.array([len(sentence) for sentence in wanted], dtype=np.int64)
    if not n_tokens.sum():
        raise UsageError("references without a single token have no error rate: give transcripts of what is said")
    as_they_are = jiwer.Compose([])  # they are tokens already, and jiwer's own way would join and split them again
    found = jiwer.process_words(wanted, given, as_they_are, as_they_are)  # type: ignore[arg-type]
    n_errors = [
        sum(
            max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for chunk in chunks
            if chunk.type != "equal"
        )
        for chunks in found.alignments
    ]
    return float(found.wer), np.array(n_errors, dtype=np.int64), n_tokens


def letters(texts: Iterable[str]) -> list[list[str]]:
    """The characters of texts, one space between words among them: what the character error rate counts."""
    return [list(" ".join(text.split())) for text in texts]


def bootstrap_rate(
    errors: np.ndarray, n_tokens: np.ndarray, n_resamples: int = resampling.N_RESAMPLES, seed: int = 0
) -> tuple[float | None, float | None]:
    """95 % interval of sum(errors) / sum(n_tokens) over resamples of utterances; integers (n,) each.

    ``errors`` may be differences of two systems on the same utterances: a paired interval. Resamples without a single
    token are left out. None for fewer than two utterances. Raises UsageError for other shapes.
    """
    errors, n_tokens = np.asarray(errors), np.asarray(n_tokens)
    if errors.shape != n_tokens.shape or errors.ndim != 1:
        raise UsageError(f"errors {errors.shape} and tokens {n_tokens.shape} are not one of each utterance")
    drawn = resampling.counts(len(errors), seed, n_resamples)
    with np.errstate(invalid="ignore"):
        rates = (drawn @ errors) / (drawn @ n_tokens)
    return resampling.interval(rates, len(errors))


def write_transcripts(path: Path, parts: Sequence[Assessed]) -> None:
    """Write what was said and what was written of each utterance, with its errors."""
    lines = [
        [one.part, *line]
        for one in parts
        for line in zip(one.utterances, one.references, one.hypotheses, one.rate.errors, one.rate.n_tokens, strict=True)
    ]
    table = pd.DataFrame(lines, columns=["part", "utterance", "reference", "hypothesis", "errors", "tokens"])
    with whole_file(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def _treatment(tuned: Tuned) -> str:
    options = tuned.options
    if options.freeze:
        each = " after a layer norm each" if options.normalise_layers else ""
        return f"frozen, learned weighted sum of all layers{each}"
    top = sum(options.reinit_top)
    return f"top {top} layers re-initialised" if top else "standard (all layers from the checkpoint)"


def rows(
    tuned: Tuned, assessed: dict[str, Assessed], corpus: str, model: str | None = None, seed: int = 0
) -> list[Result]:
    """Rates on dev and test, and the weight of each layer of a frozen network (chance: equal weights).

    ``model``: the path of the MODEL, by which figures tell one training's checkpoints from another's.
    """
    about = _about(tuned, corpus, model, seed)
    out = []
    for part, found in assessed.items():
        for rate, name in ((found.rate, _rate_name(tuned)), (found.characters, "character error rate")):
            if rate is not None:
                of = about | {"target": part, "chance": 1.0}  # what saying nothing gives
                out.append(_rate(tuned, _treatment(tuned), name, rate, (rate.value, *rate.interval(seed)), of))
    weights = tuned.facts["weights"] or {}
    n, units = tuned.facts["utterances"]["train"], tuned.options.tokens
    for k, (layer, weight) in enumerate(weights.items()):
        of = {"layer": layer, "layer_index": k, "target": units, "value": weight, "chance": 1 / len(weights), "n": n}
        out.append(row(WEIGHT, {}, **about, **of))
    return out


def sweep_rows(sweep: Sweep, corpus: str, model: str | None = None, seed: int = 0) -> list[Result]:
    """Rates of all runs, and how much better the modified one is than the standard, on the same utterances."""
    out = []
    for n, tuned in sweep.runs.items():
        out += rows(tuned, sweep.assessed[n], corpus, model, seed)
    tuned = sweep.runs[sweep.chosen]
    treated = f"standard minus {_treatment(tuned)} (chosen on dev), paired bootstrap"
    for part, found in sweep.assessed[sweep.chosen].items():
        numbers = difference(sweep.assessed[0][part].rate, found.rate, seed)
        of = _about(tuned, corpus, model, seed) | {"target": part, "chance": 0.0}
        out.append(_rate(tuned, treated, _rate_name(tuned), found.rate, numbers, of))
    return out


def difference(one: Rate, other: Rate, seed: int = 0) -> tuple[float, float | None, float | None]:
    """How much lower the other rate is, and its interval over resamples of the utterances that both have."""
    return one.value - other.value, *bootstrap_rate(one.errors - other.errors, one.n_tokens, seed=seed)


def _about(tuned: Tuned, corpus: str, model: str | None, seed: int) -> dict[str, Any]:
    of = tuned.facts["model"]
    return {
        "analysis": "ctc",
        "model": of["id"],
        "revision": of.get("revision"),
        "step": of.get("step"),
        "corpus": corpus,
        "unit": "utterance",
        "seed": seed,
        "store": model if model and Path(model).exists() else None,
    }


def _rate_name(tuned: Tuned) -> str:
    return "word error rate" if tuned.options.tokens == "characters" else "phone error rate"


def _rate(tuned: Tuned, treated: str, metric: str, rate: Rate, numbers: tuple, of: dict) -> Result:
    writing = tuned.options.writing
    case = "the case of the texts" if writing.case == "keep" else f"{writing.case} case"
    tokens = f"characters in {case}" if writing.units == "characters" else f"labels of the tier {writing.tier}"
    decided = {
        "layers": treated,
        "head": f"linear CTC on {tokens}, greedy decoding",
        "best_on_dev_of_steps": tuned.facts["settings"]["steps"],
        "SpecAugment": tuned.options.augment or None,
    }
    value, low, high = numbers
    n = len(rate.errors)
    return row(metric, decided, **of, layer="model", layer_index=0, n=n, value=value, ci_low=low, ci_high=high)


def accounts(table: pd.DataFrame) -> Iterator[Account]:
    """Rates, one line a model and treatment, and the weights of frozen layers below."""
    are_weights = table["metric"] == WEIGHT
    rates, weights = table[~are_weights], table[are_weights]
    settings = rates["settings"].map(json.loads)
    rates = rates.assign(treatment=[one["layers"] for one in settings])
    metrics = [(metric, part) for part in dict.fromkeys(rates["target"]) for metric in dict.fromkeys(rates["metric"])]
    lines = []
    for (_, model, step, treatment), own in rates.groupby([*_MODEL, "treatment"], sort=False, dropna=False):
        cells = [_cell(own[(own["metric"] == metric) & (own["target"] == part)]) for metric, part in metrics]
        lines.append([model, "" if pd.isna(step) else int(step), treatment, *cells])
    counted = ", ".join(
        f"{number(int(part['n'].max()))} ({name})" for name, part in rates.groupby("target", sort=False)
    )
    head = settings.iloc[0]
    yield Account(
        f"ctc of {rates['corpus'].iloc[0]}, rates [95 % interval over utterances]",
        tables=[Table(None, ["model", "step", "layers", *(f"{part} {metric}" for metric, part in metrics)], lines)],
        lines=[f"  {head['head']}, best on dev of {head['best_on_dev_of_steps']} steps; n = {counted} utterances", ""],
    )
    if len(weights):
        yield _weights(weights)


def _weights(table: pd.DataFrame) -> Account:
    models = list(table.groupby(_MODEL, sort=False, dropna=False))
    if len(models) > _MOST_MODELS:
        return Account(f"weights of the layers of {len(models)} models: see them with --plot or --results", lines=[""])
    lines = []
    for layer in dict.fromkeys(table.sort_values("layer_index", kind="stable")["layer"]):
        values = [part[part["layer"] == layer]["value"] for _, part in models]
        lines.append([layer, *("" if one.empty else float(one.iloc[0]) for one in values)])
    lines.append(["equal weights", *(float(part["chance"].iloc[0]) for _, part in models)])
    shown = Table(None, ["layer", *(str(model) for (_, model, _), _ in models)], lines)
    return Account("learned weight of each layer in the sum", tables=[shown])


def _cell(rates: pd.DataFrame) -> str:
    if rates.empty:
        return ""
    value, low, high = rates.iloc[0][["value", "ci_low", "ci_high"]]
    return f"{value:.3f}" + ("" if pd.isna(low) else f" [{low:.3f}, {high:.3f}]")


def axis(rows: Sequence[Result]) -> str:
    """What a figure is drawn over: the steps of a series, or the layers."""
    return "step" if len({row.step for row in rows} - {None}) > 1 else "layer"


def said(tuned: Tuned) -> str:
    """What became of a run."""
    state = "it was finished already" if tuned.was_there else f"{number(tuned.facts['parameters'])} parameters trained"
    return f"{tuned.folder}: best on dev at step {number(tuned.best.step)} ({state})"
