"""How lexical results are shown: the paper's table, numbers per masker, curves of the lens, violins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layertool.commands import delivery, output
from layertool.errors import UsageError
from layertool.result_rows import (
    EVERYTHING,
    IMPOSSIBLE,
    LIKELIHOOD,
    SURPLUS,
    TAU,
    TOP_1,
    TOP_N,
    UNFINISHED,
    is_stimulus,
    metrics_of,
)  # fmt: skip

HEADS = {LIKELIHOOD: "log-likelihood", TOP_1: "top-1", TOP_N: "top-n", TAU: "tau-b", SURPLUS: "freq. - prob."}


def deliver(rows, out: Path | None, plot: Path | None, as_json: bool, quiet: bool) -> None:
    """Write, print and draw lexical results."""
    from layertool import results

    table = results.table(rows) if isinstance(rows, list) else rows
    delivery.hand_over(table, show, lambda path: draw(table, path), out, plot, as_json, quiet)


def show(table) -> None:
    """Print models and maskers down and metrics across; lenses as layers down."""
    from layertool.layerwise.lexical_rows import ANALYSIS, LENS

    table = table.assign(metric=metrics_of(table), how=table["variant"].str.partition(", ")[2])
    # models of one name are told apart by their weights
    several = table.groupby("model")["revision"].transform("nunique") > 1
    table["model"] = table["model"].where(~several, table["model"] + " " + table["revision"].astype(str))
    means = table[(table["analysis"] == ANALYSIS) & ~is_stimulus(table)]
    if len(means):
        _metrics(means)
        for _, row in means[(means["metric"] == IMPOSSIBLE) & (means["target"] == EVERYTHING)].iterrows():
            output.note(f"{row['model']}: {row['value']:.0f} of {row['n']} stimuli have a response of probability 0")
        for _, row in means[(means["metric"] == UNFINISHED) & (means["target"] == EVERYTHING)].iterrows():
            output.note(
                f"{row['model']}: the search for top words was ended for {row['value']:.0f} of {row['n']} stimuli"
            )
        _notes(means)
    curves = table[(table["analysis"] == LENS) & (table["target"] == EVERYTHING)]
    for _, of_model in curves.groupby(["model", "step"], sort=False, dropna=False):
        _lens(of_model)


def _lens(curves) -> None:
    """Layers down, metrics across."""
    names = [name for name in HEADS if name != SURPLUS and (curves["metric"] == name).any()]
    layers = list(dict.fromkeys(curves.sort_values("layer_index", kind="stable")["layer"]))
    lines = [
        [layer, *(_cell(curves[(curves["layer"] == layer) & (curves["metric"] == name)]) for name in names)]
        for layer in layers
    ]
    output.echo(f"words read from the layers of {curves['model'].iloc[0]}: means over {curves['n'].max()} stimuli")
    output.table(None, ["layer", *(HEADS[name] for name in names)], lines)
    shared = (
        _basic(curves["how"].iloc[0]).replace(", read by the decoder", "").replace(", read by the output layer", "")
    )
    output.echo(f"  {shared}; encoder layers read by the decoder, decoder layers by the output layer")
    _chances(curves)


def _metrics(means) -> None:
    """A line for each model, and one for each masker, with every metric."""
    names = [name for name in HEADS if (means["metric"] == name).any()]
    groups = list(dict.fromkeys(means["target"]))
    lines = []
    for group in groups:
        for (model, how), mine in _models(means[means["target"] == group]):
            n = int(mine["n"].max())
            cells = [_cell(mine[mine["metric"] == name]) for name in names]
            lines.append([group, _label(means, model, how), n, *cells])
    heads = ["model", "stimuli", *(HEADS[name] for name in names)]
    output.echo("means over stimuli, 95 % bootstrap intervals")
    if len(groups) > 1:
        output.table(None, ["masker", *heads], lines)
    else:
        output.table(None, heads, [line[1:] for line in lines])


def _notes(means) -> None:
    """Which variants these are, and what chance is."""
    longest = means.loc[
        means["how"].str.len().groupby([means["model"], means["how"].map(_basic)]).idxmax()
    ].sort_index()
    for how, part in longest.groupby("how", sort=False):
        output.echo(f"  {', '.join(dict.fromkeys(part['model']))}: {how}")
    _chances(means[means["target"] == EVERYTHING])


def _chances(means) -> None:
    """What a guess would give: among the words of the lexicon, or of CMUdict where nothing was ranked."""
    lucky = means[means["chance"].notna()].drop_duplicates("metric")
    shown = [f"{HEADS[row['metric']]} {row['chance']:.3g}" for _, row in lucky.iterrows() if row["metric"] in HEADS]
    if shown:
        output.echo(f"  chance, a guess among the vocabulary: {', '.join(shown)}")


def _models(rows):
    """Models in order, each of its variants apart; what only one metric says of itself does not count."""
    return rows.assign(how=rows["how"].map(_basic)).groupby(["model", "how"], sort=False)


def _basic(how: str) -> str:
    """What all metrics of one model and variant have in common."""
    return how.partition(", among ")[0].partition(", search of up to")[0]


def _label(means, model: str, how: str) -> str:
    """The model, and what is its own of the variant where it stands there in several."""
    variants = [basic.split(", ") for basic in dict.fromkeys(means.loc[means["model"] == model, "how"].map(_basic))]
    own = [part for part in how.split(", ") if not all(part in other for other in variants)]
    return f"{model} ({', '.join(own)})" if own else model


def _cell(rows) -> str:
    if rows.empty:
        return ""
    if len(rows) > 1 and rows["value"].nunique() > 1:
        raise UsageError(
            f"these results have {len(rows)} numbers for one model, variant and masker ({', '.join(rows['corpus'].unique())}, "
            f"seeds {', '.join(map(str, rows['seed'].unique()))}): compare fewer files"
        )
    row = rows.iloc[0]
    digits = 1 if abs(row["value"]) >= 10 else 2
    value, low, high = (_brief(row[name], digits) for name in ("value", "ci_low", "ci_high"))
    return f"{value} [{low}, {high}]" if low else value


def _brief(value, digits: int) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.{digits}f}".replace("-0.00", "0.00") if abs(value) < 0.005 else f"{value:.{digits}f}"


def draw(table, path: Path) -> None:
    """Violins of single stimuli, or the lens's curves over layers."""
    from layertool import figures
    from layertool.layerwise.lexical_rows import LENS

    curves = table[table["analysis"] == LENS]
    if len(curves):
        figures.lens(curves, path)
    else:
        figures.distributions(table, path)


def responses(said: Sequence[tuple]) -> list[dict]:
    """A line for each response: how often it was given, and what the model thinks of it."""
    return [
        {
            "model": model, "utterance": one.stimulus.utterance, "masker": one.stimulus.group,
            "target": one.stimulus.target, "response": word, "count": k, "log_p": float(log_p),
        }
        for model, _, outcomes in said
        for one in outcomes
        for word, k, log_p in zip(one.stimulus.responses, one.stimulus.counts, one.log_p, strict=True)
    ]  # fmt: skip


def ranked_words(said: Sequence[tuple]) -> list[dict]:
    """A line for each ranked word."""
    return [
        {"model": model, "utterance": one.stimulus.utterance, "rank": k, "word": word}
        for model, _, outcomes in said
        for one in outcomes
        for k, word in enumerate(one.top, 1)
    ]
