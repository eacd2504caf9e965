"""speat: social bias of every layer, of many models in one table."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import delivery, output
from layertool.commands.options import HELP, names, result_options
from layertool.commands.stores import STORES, open_all, say_to_person
from layertool.errors import UsageError


def _groups(_ctx, _param, values: tuple[str, ...]) -> list:
    from layertool.layerwise.speat import parse_groups

    return [parse_groups(value) for value in values]


@click.command(context_settings=HELP)
@click.argument("stores", type=STORES, nargs=-1, required=True, metavar="STORE...")
@click.option("--target", "targets", multiple=True, required=True, callback=_groups, metavar="COLUMN=X:Y",
              help="Two groups of speakers, e.g. gender=female:male; or NAME=@FILE:@FILE, ids in text files. Repeatable.")  # fmt: skip
@click.option("--attribute", "attributes", multiple=True, required=True, callback=_groups, metavar="COLUMN=A:B",
              help="Pleasant and unpleasant speech, e.g. valence=positive:negative. Repeatable.")  # fmt: skip
@click.option("--aggregate", multiple=True, default=("mean", "each"), show_default="mean,each", callback=names,
              metavar="NAMES", help="Over layers: mean, normalized-mean, max, min, last, concat, speat-compat, each.")  # fmt: skip
@click.option("--alternative", type=click.Choice(["greater", "less", "two-sided"]), default="greater", show_default=True,
              help="Of p: X nearer to A, nearer to B, or either.")  # fmt: skip
@click.option("--permutations", type=click.IntRange(min=1), default=100_000, show_default=True,
              help="Relabellings; all of them where there are fewer. The SpEAT paper drew 1000000.")  # fmt: skip
@click.option("--resample", type=click.Choice(["targets", "all", "none"]), default="targets", show_default=True,
              help="What the bootstrap intervals resample; all: attributes too.")  # fmt: skip
@click.option("--resamples", type=click.IntRange(min=100), default=10_000, show_default=True, help="How many.")
@click.option("--strata", default=None, metavar="COLUMN", help="Resample within the values of this column, e.g. sex.")
@click.option("--pairs", default=None, metavar="COLUMN", help="Resample pairs: the X and the Y with the same value.")
@click.option("--x", type=click.Choice(["layer", "step", "parameters"]), default="layer", show_default=True,
              help="Axis of the figure: layers, training steps, or parameters removed (see --reference).")  # fmt: skip
@click.option("--reference", type=STORES, default=None, metavar="STORE",
              help="The model that nothing was removed from, for --x parameters: a dashed line.")  # fmt: skip
@result_options
def speat(
    stores, targets, attributes, x, reference, quiet, out, plot, as_json, unit, layers, where, seed, **asked
) -> None:
    """Social bias of every layer: is one group nearer to pleasant speech than another (SpEAT)?

    \b
    d > 0: X is nearer to A; 0.2 is small, 0.5 medium, 0.8 large. One store holds targets and attributes
    (layertool corpus join); several stores give one table.
    Examples:
      layertool speat w2v2 --target gender=female:male --attribute valence=positive:negative
      layertool speat w2v2 hubert mel --target age_group=young:old --target gender=female:male \\
          --attribute valence=positive:negative -o bias.csv --plot layers.pdf
      layertool speat checkpoint-* --target gender=female:male --attribute valence=positive:negative --x step
      layertool speat pruned-* --reference base --x parameters --target ... --attribute ... --plot pruned.pdf
    """
    from layertool import results
    from layertool.layerwise.speat import Options, speat_rows

    if (reference is not None) != (x == "parameters"):
        raise UsageError(
            "--x parameters and --reference STORE belong together: parameters are removed from the reference"
        )
    options = Options(
        aggregate=asked["aggregate"] or ("mean", "each"), alternative=asked["alternative"],
        n_permutations=asked["permutations"], resample=asked["resample"], n_resamples=asked["resamples"],
        strata=asked["strata"], pairs=asked["pairs"], where=where, seed=seed,
    )  # fmt: skip
    options.check()
    delivery.check_places(out, plot)
    opened = open_all(stores)
    if reference is not None:
        opened = [*open_all([reference]), *(store for store in opened if store.path.resolve() != reference.resolve())]
    with output.progress_bar(quiet, "tests") as show:
        rows = speat_rows(
            opened, targets, attributes, unit, layers, options, say_to_person(quiet), show, with_sizes=x == "parameters"
        )
    table = results.table(rows)
    delivery.hand_over(table, _show, lambda path: _draw(table, path, x, str(opened[0].path)), out, plot, as_json, quiet)


def _show(table) -> None:
    """Models down, categories across; layers alone below, with their intervals."""
    from layertool.report.choosing import layer_by_layer, pooling_of

    alone = layer_by_layer(table)
    together = table[~alone & table["variant"].str.startswith(("SpEAT d", "p,", "p ("))]
    for kind, part in together.assign(kind=pooling_of(together)).groupby("kind", sort=False):
        targets = list(dict.fromkeys(part["target"]))
        folders = part.groupby("model")["store"].nunique().max() > 1  # two stores of one model
        short = part["store"].map(lambda store: Path(store).name).nunique() == part["store"].nunique()
        pooled = part["variant"].str.split(", ").str[2]
        lines = []
        for (model, store), mine in part.groupby(["model", "store"], sort=False):
            cells = [_cell(mine[mine["target"] == target]) for target in targets]
            name = model if not folders else Path(store).name if short else store
            how = f" ({pooled[mine.index[0]]})" if pooled.nunique() > 1 else ""
            lines.append([name + how, mine["layer"].iloc[0], *cells])
        first = part.iloc[0]
        output.echo(
            f"{kind} over layers, {first['unit']} rows"
            + (f", {first['target'].rpartition(', ')[2]}" if _one(part) else "")
        )
        heads = [target.rpartition(", ")[0] for target in targets] if _one(part) else targets
        output.table(None, ["store" if folders else "model", "layers", *heads], lines)
        _explain(part)
    effects = table[alone & table["variant"].str.startswith("SpEAT d")]
    if len(effects) and (together.empty or effects.groupby("store")["layer"].nunique().max() > 1):
        output.scores(effects)
    if len(effects) and together.empty:
        output.scores(table[alone & table["variant"].str.startswith(("p,", "p ("))])


def _explain(part) -> None:
    """What the cells of a table are."""
    parts = part[part["variant"].str.startswith("p (Ben")]["variant"].iloc[0].split(", ")
    several = "" if parts[-1] == "1 test" else ", ** also by Benjamini and Hochberg, *** also by Bonferroni"
    output.echo(f"  d [95 % interval], p ({', '.join(parts[-3:-1])}); {parts[-1]}: * p < .05{several}", "")


def _one(rows) -> bool:
    """Whether all tests have the same attributes."""
    return rows["target"].str.rpartition(", ")[2].nunique() == 1


def _cell(rows) -> str:
    """d, its interval and p of one test."""
    from layertool.report.choosing import p_text, stars

    if rows.empty:
        return ""
    value = dict(zip(rows["variant"].str.split(",").str[0], rows["value"], strict=True))
    d = rows[rows["variant"].str.startswith("SpEAT d")].iloc[0]
    corrected = not rows["variant"].str.endswith(", 1 test").any()
    count = stars(value["p"], value["p (Benjamini-Hochberg)"], value["p (Bonferroni)"], corrected)
    interval = "" if d["ci_low"] != d["ci_low"] or d["ci_low"] is None else f" [{d['ci_low']:.2f}, {d['ci_high']:.2f}]"
    return f"{d['value']:.2f}{interval} p {p_text(value['p'])}{' ' + '*' * count if count else ''}"


def _draw(table, path: Path, x: str, reference: str) -> None:
    import pandas as pd

    from layertool import figures
    from layertool.report.choosing import layer_by_layer, one_of_each_model
    from layertool.result_rows import PARAMETERS

    effects = table[table["variant"].str.startswith("SpEAT d")]
    alone = effects[layer_by_layer(effects)]
    first = one_of_each_model(effects)
    if x != "layer" and first.empty:
        raise UsageError(f"a figure over {x} takes one number for each model: add --aggregate mean")
    if x == "step":
        families = figures.families(first["store"])  # a line for each folder of checkpoints
        line = families if families.nunique() > 1 else "all layers"
        figures.series(first.assign(layer=line, store=""), path, x, "SpEAT d")
    elif x == "parameters":
        sizes = table[table["variant"] == PARAMETERS]
        figures.removed(pd.concat([first, sizes]), path, reference, "SpEAT d")
    elif len(alone) and alone.groupby("store")["layer"].nunique().max() > 1:
        figures.layer_curves(alone, path, "SpEAT d")
    else:
        figures.bars(first if len(first) else alone, path, "SpEAT d")
