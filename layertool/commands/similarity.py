"""cka and compare: what layers share with each other, within a model and across checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from layertool.commands import delivery, lexical_tables, output
from layertool.commands.options import (
    HELP,
    MEASURES,
    device_option,
    measure_options,
    result_options,
    sampling_of,
    sampling_options,
    typed,
)
from layertool.commands.stores import STORES, open_all, place_of, say_to_person
from layertool.errors import UsageError


@click.command(context_settings=HELP)
@click.argument("store", type=STORES)
@click.argument("store2", type=STORES, required=False)
@measure_options("Linear or RBF CKA, Procrustes distance, RSA, or in-sample PWCCA.")
@click.option("--other-layers", default=None, metavar="LAYERS", help="Of STORE2.  [default: --layers]")
@sampling_options
@device_option
@result_options
def cka(store, store2, quiet, out, plot, as_json, unit, layers, where, seed, device, **asked) -> None:
    """Compare every layer with every layer, of one store or of two (CKA, Procrustes, RSA).

    \b
    Examples:
      layertool cka w2v2 --plot layers.png
      layertool cka w2v2 hubert --unit phone -o cka.csv
      layertool cka w2v2 --measure rsa --unit word
    """
    delivery.check_places(out, plot)
    opened = open_all([store] if store2 is None else [store, store2])
    options = _similarity_options(asked, where, seed, device)
    rows = _similarities(opened[0], opened[1] if store2 else None, unit, layers, asked["other_layers"], options, quiet)
    delivery.deliver(rows, out, plot, as_json, quiet, MEASURES[asked["measure"]])


def _similarity_options(asked: dict, where, seed: int, device: str):
    from layertool.layerwise.cka import Options

    options = Options(
        measure=asked["measure"], debiased=not asked["biased"], distance=asked["distance"], where=where,
        sampling=sampling_of(asked["sample"], asked["max_utterances"], asked["per_label"], asked["top_labels"]),
        max_rows=asked["max_rows"], seed=seed, device=place_of(device),
    )  # fmt: skip
    options.check()
    return options


def _similarities(store, other, unit, layers, other_layers, options, quiet: bool) -> list:
    from layertool.layerwise.cka import similarity_rows

    with output.progress_bar(quiet, "rows" if options.measure not in ("rsa", "cka-rbf") else "groups") as show:
        return similarity_rows(store, other, unit, layers, other_layers, options, say_to_person(quiet), show)


@click.command(context_settings=HELP)
@click.argument("inputs", type=STORES, nargs=-1, required=True, metavar="RESULTS...|STORES...")
@click.option("--x", type=click.Choice(["layer", "step", "parameters"]), default="layer", show_default=True,
              help="Axis of the curves: layers, training steps of checkpoints, or parameters removed from the largest model.")  # fmt: skip
@click.option("--analysis", default=None, metavar="NAME", help="Of result files: take only these rows.")
@click.option("--target", default=None, metavar="NAME", help="Of result files: take only these rows.")
@click.option("--variant", default=None, metavar="TEXT", help="Of result files: take only rows whose variant has it.")
@click.option("--same-layer", is_flag=True, help="Of stores: only layers of the same name, as curves.")
@measure_options("Of stores: how layers are compared.")
@sampling_options
@device_option
@result_options
def compare(inputs, x, quiet, out, plot, as_json, unit, layers, where, seed, device, **asked) -> None:
    """Put result files or stores side by side: curves, heatmaps, or a checkpoint series.

    \b
    Result files are joined into one table and one figure. Stores are each compared with the first one.
    Examples:
      layertool compare base.csv finetuned.csv --plot both.pdf
      layertool compare mi.csv --x step --variant nats --plot emergence.pdf
      layertool compare mi.csv --x parameters --variant nats --plot compressed.pdf
      layertool compare w2v2 hubert wavlm --unit phone --plot heatmaps.png
      layertool compare checkpoint-1000 checkpoint-2000 checkpoint-4000 --same-layer --x step
    """
    delivery.check_places(out, plot)
    missing = [path for path in inputs if not path.exists()]
    if missing:
        raise UsageError(f"{missing[0]} does not exist: name result files or feature stores that are there")
    are_files = [path.is_file() for path in inputs]
    if any(are_files) != all(are_files):
        raise UsageError(
            f"{inputs[are_files.index(True)]} is a file and {inputs[are_files.index(False)]} a folder: compare either "
            "result files or stores"
        )
    _refuse(OF_STORES if all(are_files) else OF_FILES, "result files" if all(are_files) else "stores")
    if all(are_files):
        rows = _merged(inputs, unit, layers, asked)
        if x == "step" and plot is None:
            output.note("--x step is the axis of a figure: add --plot FILE", quiet)
        if x == "parameters":
            _deliver_removed(rows, out, plot, as_json, quiet)
        elif x == "layer" and set(rows["analysis"]) <= LEXICAL:  # stimuli and maskers, no layers
            lexical_tables.deliver(rows, out, plot, as_json, quiet)
        else:
            delivery.deliver(rows, out, plot, as_json, quiet, None, x)
        return
    if x == "parameters":
        raise UsageError("--x parameters is for result files: write each analysis with -o, and compare these")
    if plot is not None and x != "layer" and len(inputs) < 3:
        raise UsageError(
            f"a figure over {x}s takes three stores or more, not {len(inputs)}: the first is what the others are "
            "compared with"
        )
    options = _similarity_options(asked, where, seed, device)
    rows = _stores_compared(open_all(inputs), unit, layers, x, options, asked, quiet)
    delivery.deliver(rows, out, plot, as_json, quiet, MEASURES[asked["measure"]], x)


def _deliver_removed(rows, out, plot, as_json, quiet: bool) -> None:
    """Results of compressed models over what was removed from the largest, whose store says how large it is."""
    import pandas as pd

    from layertool import figures, results
    from layertool.commands.probe_tables import show
    from layertool.layerwise.speat import size_rows
    from layertool.store import FeatureStore

    rows = rows[(rows["layer"] != results.BASELINE) & (rows["variant"] != results.PARAMETERS)]
    paths = rows["store"].dropna().unique()
    if rows["store"].isna().any() or not len(paths):
        raise UsageError("--x parameters needs results of stores: these do not say which store they are of")
    gone = [path for path in paths if not Path(path).exists()]
    if gone:
        raise UsageError(
            f"{gone[0]} is not there, which says how large its model is: type the command where the stores are"
        )
    sizes = results.table(size_rows([FeatureStore(path, allow_unfinished=True) for path in paths], "utterance"))
    if sizes.empty:
        raise UsageError("none of these stores says how many parameters its model has: extract them again")
    reference = sizes["store"][sizes["value"].idxmax()]
    output.note(f"parameters are removed from {reference}, the largest model", quiet)
    table = pd.concat([rows, sizes], ignore_index=True)
    apart = rows.assign(target=rows["target"] + ", " + rows["layer"]) if rows["layer"].nunique() > 1 else rows
    drawn = pd.concat([apart, sizes], ignore_index=True)  # a panel for each layer
    delivery.hand_over(
        table, lambda _: show(rows), lambda path: figures.removed(drawn, path, reference), out, plot, as_json, quiet
    )


LEXICAL = {"lexical", "lexical lens"}
OF_FILES = {"analysis", "target", "variant"}
OF_STORES = {"where", "measure", "same_layer", "biased", "distance", "max_rows", "sample", "max_utterances", "per_label",
             "top_labels", "seed", "device"}  # fmt: skip


def _refuse(names: set[str], inputs: str) -> None:
    """Raise UsageError for an option that was typed and would do nothing."""
    for option in typed(names):
        instead = ", and choose among results with --analysis, --target, --variant" if names is OF_STORES else ""
        raise UsageError(f"{option} does nothing for {inputs}: leave it out{instead}")


def _merged(paths: Sequence[Path], unit, layers: str, asked: dict):
    from layertool import results

    rows = results.read(paths)
    chosen = {"analysis": asked["analysis"], "target": asked["target"], "unit": unit}
    for column, value in chosen.items():
        if value is not None:
            there = ", ".join(dict.fromkeys(rows[column].astype(str)))
            rows = rows[rows[column] == value]
            if rows.empty:
                raise UsageError(f"no result has the {column} '{value}' (there are {there})")
    if asked["variant"] is not None:
        there = "; ".join(dict.fromkeys(rows["variant"].str.split(", ").str[0]))
        rows = rows[rows["variant"].str.contains(asked["variant"], regex=False)]
        if rows.empty:
            raise UsageError(f"no result's variant has '{asked['variant']}' in it (they begin with: {there})")
    if layers != "all":
        from layertool.layers import select

        ordered = rows.sort_values("layer_index")["layer"]
        rows = rows[rows["layer"].isin(select(layers, list(dict.fromkeys(ordered)), "these results"))]
    return rows.drop_duplicates().reset_index(drop=True)


def _stores_compared(stores, unit, layers: str, x: str, options, asked: dict, quiet: bool) -> list:
    if len(stores) < 2:
        raise UsageError("one store has nothing to be compared with: give two or more, or use 'layertool cka STORE'")
    from layertool.layers import select
    from layertool.layerwise.stores import unit_of

    first, *others = stores
    rows = []
    for other in others:
        if not (asked["same_layer"] or x != "layer"):
            rows += _similarities(first, other, unit, layers, None, options, quiet)
            continue
        at = unit_of(first, unit, "frame")
        there = [layer for layer in other.layers_of(unit_of(other, unit, "frame")) if layer in first.layers_of(at)]
        for layer in there if layers == "all" else select(layers, there, f"both {first.path} and {other.path}"):
            (row,) = _similarities(other, first, unit, layer, layer, options, quiet)
            rows.append(replace(row, target=f"the same layer of {first.path.resolve().name}"))
    return rows
