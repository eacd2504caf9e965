"""How results of probes are shown where they are more than one curve: tasks or metrics across, layers down."""

from __future__ import annotations

from pathlib import Path

from layertool.commands import output
from layertool.report.choosing import DRAWN_METRICS
from layertool.result_rows import BASELINE, metrics_of

SHOWN_METRICS = ("F1", "precision", "recall", "over-segmentation", "R-value", "lenient F1", "token F1")


def show(table) -> None:
    """Print results of any analysis."""
    from layertool.feed import segmentation, word_similarity

    for analysis, part in table.groupby("analysis", sort=False):
        if analysis == word_similarity.ANALYSIS:
            _tasks(part)
        elif analysis == segmentation.ANALYSIS:
            _metrics(part)
        else:
            output.scores(part)


def _tasks(rows) -> None:
    """Means and tasks across; baselines and how many pairs there are below."""
    from layertool.layerwise.similarity import COVERAGE, MACRO, MICRO

    covered = rows[rows["variant"] == COVERAGE]
    rows = rows[rows["variant"] != COVERAGE]
    for variant, part in rows.groupby("variant", sort=False):
        are = part["layer"] == BASELINE
        layers, others = part[~are], part[are]
        for store, mine in layers.groupby("store", sort=False):
            targets = list(dict.fromkeys(mine["target"]))
            corpus = mine["corpus"].iloc[0]
            lines = [[layer, *(_cell(line, target, wide=target in (MACRO, MICRO)) for target in targets)]
                     for layer, line in mine.groupby("layer", sort=False)]  # fmt: skip
            own = others[(others["corpus"] == corpus) & (others["store"].isna() | (others["store"] == store))]
            for name, line in own.groupby("model", sort=False):
                lines.append([name, *(_cell(line, target, wide=target in (MACRO, MICRO)) for target in targets)])
            of_store = covered[covered["store"] == store].set_index("target")
            if len(of_store):
                counted = [f"{of_store.loc[t, 'n']:.0f} ({of_store.loc[t, 'value']:.0%})" if t in of_store.index else ""
                           for t in targets]  # fmt: skip
                lines.append(["pairs (coverage)", *counted])
            output.echo(f"word similarity of {Path(store).name}, Spearman's correlation with human ratings")
            output.table(None, ["layer", *targets], lines)
            output.echo(f"  {variant}; [95 % interval over words]", "")


def _metrics(rows) -> None:
    """Metrics across; the cells that tuning took, and chance."""
    from layertool.layerwise.segmentation import CHOSEN

    rows = rows.assign(metric=metrics_of(rows))
    for (store, how), part in rows.groupby(["store", _how(rows)], sort=False):
        chosen = part[part["metric"].str.startswith(CHOSEN)]
        metrics = [name for name in SHOWN_METRICS if (part["metric"] == name).any()]
        metrics += [name for name in dict.fromkeys(part["metric"]) if name not in SHOWN_METRICS and len(metrics) == 0]
        lines = []
        for layer, line in part[~part["metric"].str.startswith(CHOSEN)].groupby("layer", sort=False):
            cells = [_cell(line, name, column="metric", wide=name in DRAWN_METRICS) for name in metrics]
            lines.append([layer, *cells, *([_cells_of(chosen[chosen["layer"] == layer])] if len(chosen) else [])])
        chance = part.groupby("metric")["chance"].max()
        lines.append(["chance (highest)", *(f"{chance[name]:.3f}" for name in metrics), *([""] if len(chosen) else [])])
        heads = ["layer", *metrics, *(["distance, smoothing, prominence"] if len(chosen) else [])]
        output.echo(f"word boundaries of {Path(store).name}, found without training")
        output.table(None, heads, lines)
        n = part[part["metric"].isin(metrics)]["n"].max()
        output.echo(f"  {how}; n = {output.number(int(n))} boundaries; [95 % interval]", "")


def _how(rows):
    """What all metrics of one run have in common: from the tolerance on."""
    return "±" + rows["variant"].str.partition("±")[2]


def _cells_of(chosen) -> str:
    """ "cosine 4 0.03", of each half where they differ."""
    numbers = [f"{value:g}" for value in chosen["value"]]
    cells = []
    for k in range(0, len(numbers) - 2, 3):
        prominence, window, distance = numbers[k : k + 3]
        cells.append(f"{('euclidean', 'cosine')[int(distance)]} {window} {prominence}")
    return "; ".join(dict.fromkeys(cells))


def _cell(rows, name: str, column: str = "target", wide: bool = False) -> str:
    found = rows[rows[column] == name]
    if found.empty or found["value"].isna().all():
        return "" if found.empty else "undefined"
    row = found.iloc[0]
    if wide and row["ci_low"] is not None and row["ci_low"] == row["ci_low"]:
        return f"{row['value']:.3f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
    return f"{row['value']:.3f}"
