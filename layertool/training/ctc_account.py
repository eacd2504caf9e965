"""How error rates and learned weights of layers are said and drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pandas as pd

from layertool.account import Account, Table, number
from layertool.result_rows import Result
from layertool.training.ctc_rates import WEIGHT
from layertool.training.ctc_run import Tuned

_MOST_MODELS = 8  # beside each other
_MODEL = ["store", "model", "step"]


def accounts(table: pd.DataFrame) -> Iterator[Account]:
    """Rates, one line a model and treatment, and the weights of frozen layers below."""
    are_weights = table["metric"] == WEIGHT
    rates, weights = table[~are_weights], table[are_weights]
    settings = rates["settings"].map(json.loads)
    rates = rates.assign(treatment=[one["layers"] for one in settings])
    metrics = [(metric, part) for part in dict.fromkeys(rates["target"]) for metric in dict.fromkeys(rates["metric"])]
    lines = []
    for (_, model, step, treatment), rows in rates.groupby([*_MODEL, "treatment"], sort=False, dropna=False):
        cells = [_cell(rows[(rows["metric"] == metric) & (rows["target"] == part)]) for metric, part in metrics]
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


def _weights(rows: pd.DataFrame) -> Account:
    models = list(rows.groupby(_MODEL, sort=False, dropna=False))
    if len(models) > _MOST_MODELS:
        said = f"weights of the layers of {len(models)} models: see them with --plot or --results"
        return Account(said, lines=[""])
    lines = []
    for layer in dict.fromkeys(rows.sort_values("layer_index", kind="stable")["layer"]):
        values = [part[part["layer"] == layer]["value"] for _, part in models]
        lines.append([layer, *("" if one.empty else float(one.iloc[0]) for one in values)])
    lines.append(["equal weights", *(float(part["chance"].iloc[0]) for _, part in models)])
    table = Table(None, ["layer", *(str(model) for (_, model, _), _ in models)], lines)
    return Account("learned weight of each layer in the sum", tables=[table])


def _cell(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    row = rows.iloc[0]
    interval = "" if pd.isna(row["ci_low"]) else f" [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    return f"{row['value']:.3f}{interval}"


def axis(rows: Sequence[Result]) -> str:
    """What a figure is drawn over: the steps of a series, or the layers."""
    return "step" if len({row.step for row in rows} - {None}) > 1 else "layer"


def said(tuned: Tuned) -> str:
    """What became of a run."""
    state = "it was finished already" if tuned.was_there else f"{number(tuned.facts['parameters'])} parameters trained"
    return f"{tuned.folder}: best on dev at step {number(tuned.best.step)} ({state})"
