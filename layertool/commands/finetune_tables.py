"""How error rates and learned weights of layers are shown and drawn."""

from __future__ import annotations

from pathlib import Path

from layertool.commands import output

_HEAD = "linear CTC head"  # what all models of a command share begins so in a variant
_MOST_MODELS = 8  # beside each other


def show(table) -> None:
    """Print rates, one line a model and treatment, and the weights of frozen layers below."""
    from layertool.training.ctc_rates import WEIGHT

    rates, weights = table[table["variant"] != WEIGHT], table[table["variant"] == WEIGHT]
    rates = rates.assign(
        metric=rates["variant"].str.split(", ").str[0],
        treatment=rates["variant"].str.partition(", ")[2].str.partition(f", {_HEAD}")[0],
    )
    metrics = [(metric, part) for part in dict.fromkeys(rates["target"]) for metric in dict.fromkeys(rates["metric"])]
    lines = []
    for (_, model, step, treatment), mine in rates.groupby(
        ["store", "model", "step", "treatment"], sort=False, dropna=False
    ):
        cells = [_cell(mine[(mine["metric"] == metric) & (mine["target"] == part)]) for metric, part in metrics]
        lines.append([model, "" if step != step or step is None else int(step), treatment, *cells])
    output.echo(f"ctc of {rates['corpus'].iloc[0]}, rates [95 % interval over utterances]")
    output.table(None, ["model", "step", "layers", *(f"{part} {metric}" for metric, part in metrics)], lines)
    output.echo(f"  {_HEAD}{rates['variant'].iloc[0].partition(_HEAD)[2]}; n = {_counted(rates)} utterances", "")
    if len(weights):
        _weights(weights)


def _counted(rows) -> str:
    """How many utterances each part has."""
    return ", ".join(
        f"{output.number(int(part['n'].max()))} ({name})" for name, part in rows.groupby("target", sort=False)
    )


def _weights(rows) -> None:
    models = list(rows.groupby(["store", "model", "step"], sort=False, dropna=False))
    if len(models) > _MOST_MODELS:
        output.echo(f"weights of the layers of {len(models)} models: see them with --plot or --results", "")
        return
    layers = list(dict.fromkeys(rows.sort_values("layer_index", kind="stable")["layer"]))
    lines = []
    for layer in layers:
        found = [part[part["layer"] == layer]["value"] for _, part in models]
        lines.append([layer, *("" if values.empty else float(values.iloc[0]) for values in found)])
    lines.append(["equal weights", *(float(part["chance"].iloc[0]) for _, part in models)])
    output.echo("learned weight of each layer in the sum")
    output.table(None, ["layer", *(str(model) for (_, model, _), _ in models)], lines)


def _cell(rows) -> str:
    if rows.empty:
        return ""
    row = rows.iloc[0]
    low, high = row["ci_low"], row["ci_high"]
    wide = "" if low is None or low != low else f" [{low:.3f}, {high:.3f}]"
    return f"{row['value']:.3f}{wide}"


def draw(table, path: Path) -> None:
    """Rates and weights over the steps of a series, or the weights over layers."""
    from layertool import figures
    from layertool.training.ctc_rates import WEIGHT

    if table["step"].notna().all() and table["step"].nunique() > 1:
        figures.series(table, path, "step")
    else:
        figures.layer_curves(table[table["variant"] == WEIGHT], path)
