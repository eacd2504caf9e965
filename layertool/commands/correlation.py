"""cca, cka, mi, compare: what layers share with targets, with each other, and across checkpoints."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import (
    HELP,
    device_option,
    result_options,
    sampling_of,
    sampling_options,
)
from layertool.errors import UsageError

# What `--with mel` means: 80 filters without deltas, on windows that are not centre-padded (spec layerwise.md 3.5).
FRAME_TARGETS = {"mel": "mel:pasad", "fbank": "fbank:static"}
STORES = click.Path(path_type=Path)


def _numbers(_ctx, _param, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    if value == "published":
        from layertool.analysis.protocols import PUBLISHED_EPS_GRID

        return PUBLISHED_EPS_GRID
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' is no list of numbers: type e.g. 1e-8,1e-6") from None


def _variants(_ctx, _param, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def _place(device: str) -> str:
    """Where float64 products are computed: a GPU of CUDA, or the CPU (others have no float64)."""
    if device == "cpu":
        return device
    from layertool.extractors.checkpoints import choose_device

    place = choose_device(device)
    return str(place) if place.type == "cuda" else "cpu"


@click.command(context_settings=HELP)
@click.argument("stores", type=STORES, nargs=-1, required=True, metavar="STORE...")
@click.option("--with", "targets", multiple=True, required=True, metavar="TARGET",
              help="mel, fbank or another acoustic feature; a layer (C7, T0); phone, word; embedding:FILE; STORE2 or "
              "STORE2:LAYER. Repeatable.")  # fmt: skip
@click.option("--protocol", type=click.Choice(["held-out", "in-sample"]), default="held-out", show_default=True,
              help="Score unseen folds, or the rows of the fit (as the 2021 paper).")  # fmt: skip
@click.option("--variant", "variants", multiple=True, default=("pwcca",), show_default=True, callback=_variants,
              metavar="NAMES", help="pwcca, pwcca-x, pwcca-y, mean, mean-square, svcca, legacy; separated by commas.")  # fmt: skip
@click.option("--share", type=float, default=0.99, show_default=True, help="Of the variance that svcca keeps.")
@click.option("--folds", default="utterance-disjoint", show_default=True, metavar="FOLDS",
              help="utterance-disjoint, random, type-disjoint (no word type in both parts), or COLUMN-disjoint.")  # fmt: skip
@click.option("--n-folds", type=int, default=10, show_default=True, help="How many: one for eps, one for the score.")
@click.option("--trials", type=int, default=3, show_default=True, help="With other folds for eps and score each.")
@click.option("--eps", default=None, callback=_numbers, metavar="LIST",
              help="Regularisation to choose from, or 'published'.  [default: 1e-8,1e-6,1e-4,1e-2; in-sample 1e-10]")  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True,
              help="Draw rows and folds so many times; the mean is over all trials.")  # fmt: skip
@click.option("--min-coverage", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="Share of rows whose word must have an embedding.")  # fmt: skip
@sampling_options
@device_option
@result_options
def cca(stores, targets, quiet, out, plot, as_json, unit, layers, where, seed, device, **asked) -> None:
    """Correlate every layer with acoustic frames, another layer, labels, or embeddings (CCA).

    \b
    Examples:
      layertool cca w2v2 --with phone --plot phones.pdf
      layertool cca w2v2 --with mel --with C7 -o frames.csv
      layertool cca finetuned --with w2v2
      layertool cca w2v2 --with embedding:glove.txt --folds type-disjoint
    """
    from layertool.analysis.feed.correlation import Options, cca_rows

    options = Options(
        protocol=asked["protocol"], variants=asked["variants"], folds=asked["folds"], n_folds=asked["n_folds"],
        n_trials=asked["trials"], eps=asked["eps"], share=asked["share"], where=where,
        sampling=sampling_of(asked["sample"], asked["max_utterances"], asked["per_label"], asked["top_labels"]),
        samples=asked["samples"], seed=seed, min_coverage=asked["min_coverage"], device=_place(device),
    )  # fmt: skip
    options.check()
    _check_outputs(out, plot)
    rows = []
    with ExitStack() as stack:
        for store in _open(stores):
            for text in targets:
                target = _target(text, store, unit, options, stack, quiet)
                with output.progress_bar(quiet, "layers") as show:
                    rows += cca_rows(store, target, unit, layers, options, _say(quiet), show)
    _deliver(rows, out, plot, as_json, quiet, "CCA similarity")


def _target(text: str, store, unit: str | None, options, stack: ExitStack, quiet: bool):
    """What ``--with`` names."""
    from layertool.analysis.feed.correlation import EmbeddingTarget, LabelTarget, LayerTarget
    from layertool.extractors import acoustic
    from layertool.store import FeatureStore

    if text in ("phone", "word"):
        return LabelTarget(text)
    if text.startswith("embedding:"):
        return EmbeddingTarget(Path(text.removeprefix("embedding:")))
    if text.split(":")[0] in {name.split(":")[0] for name in acoustic.PRESETS}:
        name = acoustic.preset(FRAME_TARGETS.get(text, text)).name
        return stack.enter_context(_acoustic_target(name, store, unit, options, quiet))
    if text in store.layers:
        return LayerTarget(store, text, text)
    path, _, layer = text.rpartition(":")
    for folder, name in ((text, ""), (path, layer)):
        if folder and (Path(folder) / "store.json").exists():
            other = FeatureStore(folder)
            return LayerTarget(other, name or None, other.path.resolve().name + (f":{name}" if name else ""))
    raise UsageError(
        f"'{text}' is nothing to correlate {store.path} with: choose mel, fbank or another acoustic feature, a layer "
        f"of it ({store.layers[0]} to {store.layers[-1]}), phone, word, embedding:FILE, or another store"
    )


@contextmanager
def _acoustic_target(name: str, store, unit: str | None, options, quiet: bool) -> Iterator:
    """Acoustic frames of the utterances that will be drawn, in a store that is gone afterwards."""
    import layertool
    from layertool.analysis.feed.correlation import LayerTarget, utterances_drawn
    from layertool.corpora.corpus import Corpus, no_segments

    if unit not in (None, "frame"):
        raise UsageError(
            f"{name} is compared frame by frame: leave out --unit {unit}, or extract {name} and give its store to --with"
        )
    codes = utterances_drawn(store, "frame", options)
    utterances = store.utterances.iloc[codes].reset_index(drop=True)
    output.note(f"computing {name} of {output.count(len(codes), 'utterance')}", quiet)
    with tempfile.TemporaryDirectory(prefix="layertool-") as folder, output.progress_bar(quiet) as show:
        made = layertool.extract(
            name, Corpus(utterances, no_segments(), store.about["corpus"]["name"]), Path(folder) / "store",
            units=("frame",), channel=store.configuration["channel"], progress=show,
        )  # fmt: skip
        yield LayerTarget(made, made.layers[0], name, derived=True)


@click.command(context_settings=HELP)
@click.argument("store", type=STORES)
@click.argument("store2", type=STORES, required=False)
@click.option("--measure", type=click.Choice(["cka", "cka-rbf", "procrustes", "rsa", "cca"]), default="cka",
              show_default=True, help="Linear or RBF CKA, Procrustes distance, RSA, or in-sample PWCCA.")  # fmt: skip
@click.option("--biased", is_flag=True, help="CKA as in Kornblith et al. 2019, far above 0 by chance.")
@click.option("--distance", type=click.Choice(["correlation", "cosine", "euclidean"]), default="correlation",
              show_default=True, help="Of rows, for rsa.")  # fmt: skip
@click.option("--other-layers", default=None, metavar="LAYERS", help="Of STORE2.  [default: --layers]")
@click.option("--max-rows", type=click.IntRange(min=4), default=2000, show_default=True,
              help="Sample of rows for cka-rbf and rsa, which compare all pairs.")  # fmt: skip
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
    _check_outputs(out, plot)
    opened = _open([store] if store2 is None else [store, store2])
    options = _similarity_options(asked, where, seed, device)
    rows = _similarities(opened[0], opened[1] if store2 else None, unit, layers, asked["other_layers"], options, quiet)
    _deliver(rows, out, plot, as_json, quiet, None)


def _similarity_options(asked: dict, where, seed: int, device: str):
    from layertool.analysis.feed.similarity import Options

    options = Options(
        measure=asked["measure"], debiased=not asked["biased"], distance=asked["distance"], where=where,
        sampling=sampling_of(asked["sample"], asked["max_utterances"], asked["per_label"], asked["top_labels"]),
        max_rows=asked["max_rows"], seed=seed, device=_place(device),
    )  # fmt: skip
    options.check()
    return options


def _similarities(store, other, unit, layers, other_layers, options, quiet: bool) -> list:
    from layertool.analysis.feed.similarity import similarity_rows

    with output.progress_bar(quiet, "rows" if options.measure not in ("rsa", "cka-rbf") else "groups") as show:
        return similarity_rows(store, other, unit, layers, other_layers, options, _say(quiet), show)


@click.command(context_settings=HELP)
@click.argument("stores", type=STORES, nargs=-1, required=True, metavar="STORE...")
@click.option("--labels", required=True, metavar="TIER|COLUMN", help="phone, word, or a column such as speaker.")
@click.option("--clusters", type=click.IntRange(min=2), default=None, metavar="N",
              help="Of k-means.  [default: 500, words 5000; fewer when there are few rows]")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), default=None, metavar="N",
              help="Rows of a mini-batch.  [default: 1500, words 4000]")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="With other seeds.")
@click.option("--fit-on", type=STORES, default=None, metavar="STORE2", help="Fit the clusters on this store.")
@click.option("--fit-where", multiple=True, metavar="COLUMN=VALUE", help="Fit the clusters on these rows.")
@click.option("--sample", type=click.Choice(["published", "all"]), default="published", show_default=True,
              help="published: fit on 3000 to 7000 rows a phone (600 to 1200 a word), score 200 (15).")  # fmt: skip
@result_options
def mi(stores, labels, quiet, out, plot, as_json, unit, layers, where, seed, fit_on, fit_where, **asked) -> None:
    """Mutual information of k-means clusters of every layer with phones, words, or other labels.

    \b
    Clusters are fitted on STORE2, on the rows of --fit-where, or else on one half of the utterances.
    Examples:
      layertool mi w2v2 --labels phone
      layertool mi dev --labels word --fit-on train --plot words.pdf
      layertool mi w2v2 --labels phone --fit-where split=train --where split=dev -o mi.csv
    """
    from layertool.analysis.feed.information import Options, mi_rows
    from layertool.analysis.rows import parse_where
    from layertool.store import FeatureStore

    options = Options(
        n_clusters=asked["clusters"], batch_size=asked["batch_size"], repeats=asked["repeats"],
        fit_store=FeatureStore(fit_on) if fit_on else None, fit_where=parse_where(fit_where), where=where,
        published_sampling=asked["sample"] == "published", seed=seed,
    )  # fmt: skip
    _check_outputs(out, plot)
    rows = []
    for store in _open(stores):
        with output.progress_bar(quiet, "layers") as show:
            rows += mi_rows(store, labels, unit, layers, options, _say(quiet), show)
    _deliver(rows, out, plot, as_json, quiet, None)


@click.command(context_settings=HELP)
@click.argument("inputs", type=STORES, nargs=-1, required=True, metavar="RESULTS...|STORES...")
@click.option("--x", default="layer", show_default=True, metavar="COLUMN",
              help="layer, or a column of checkpoints as the axis: step.")  # fmt: skip
@click.option("--analysis", default=None, metavar="NAME", help="Of result files: take only these rows.")
@click.option("--target", default=None, metavar="NAME", help="Of result files: take only these rows.")
@click.option("--variant", default=None, metavar="TEXT", help="Of result files: take only rows whose variant has it.")
@click.option("--same-layer", is_flag=True, help="Of stores: only layers of the same name, as curves.")
@click.option("--measure", type=click.Choice(["cka", "cka-rbf", "procrustes", "rsa", "cca"]), default="cka",
              show_default=True, help="Of stores: how layers are compared.")  # fmt: skip
@click.option("--biased", is_flag=True, help="CKA as in Kornblith et al. 2019, far above 0 by chance.")
@click.option("--distance", type=click.Choice(["correlation", "cosine", "euclidean"]), default="correlation",
              show_default=True, help="Of rows, for rsa.")  # fmt: skip
@click.option("--max-rows", type=click.IntRange(min=4), default=2000, show_default=True,
              help="Sample of rows for cka-rbf and rsa, which compare all pairs.")  # fmt: skip
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
      layertool compare w2v2 hubert wavlm --unit phone --plot heatmaps.png
      layertool compare checkpoint-1000 checkpoint-2000 checkpoint-4000 --same-layer --x step
    """
    _check_outputs(out, plot)
    are_files = [path.is_file() for path in inputs]
    if any(are_files) != all(are_files):
        raise UsageError(
            f"{inputs[are_files.index(True)]} is a file and {inputs[are_files.index(False)]} is not: compare either "
            "result files or stores"
        )
    if all(are_files):
        rows = _merged(inputs, unit, layers, where, asked)
    else:
        rows = _stores_compared(_open(inputs), unit, layers, x, _similarity_options(asked, where, seed, device), asked, quiet)  # fmt: skip
    _deliver(rows, out, plot, as_json, quiet, None, x)


def _merged(paths: Sequence[Path], unit, layers: str, where, asked: dict):
    from layertool import results

    rows = results.read(paths)
    if where:
        raise UsageError("--where chooses rows of stores: choose among results with --analysis, --target, --variant")
    chosen = {"analysis": asked["analysis"], "target": asked["target"], "unit": unit}
    for column, value in chosen.items():
        if value is not None:
            there = ", ".join(dict.fromkeys(rows[column].astype(str)))
            rows = rows[rows[column] == value]
            if rows.empty:
                raise UsageError(f"no result has the {column} '{value}' (there are {there})")
    if asked["variant"] is not None:
        there = "; ".join(dict.fromkeys(rows["variant"]))
        rows = rows[rows["variant"].str.contains(asked["variant"], regex=False)]
        if rows.empty:
            raise UsageError(f"no result's variant has '{asked['variant']}' in it (there are: {there})")
    if layers != "all":
        from layertool.layers import select

        ordered = rows.sort_values("layer_index")["layer"]
        rows = rows[rows["layer"].isin(select(layers, list(dict.fromkeys(ordered)), "these results"))]
    return rows.drop_duplicates().reset_index(drop=True)


def _stores_compared(stores, unit, layers: str, x: str, options, asked: dict, quiet: bool) -> list:
    if len(stores) < 2:
        raise UsageError("one store has nothing to be compared with: give two or more, or use 'layertool cka STORE'")
    first, *others = stores
    rows = []
    for other in others:
        if not (asked["same_layer"] or x != "layer"):
            rows += _similarities(first, other, unit, layers, None, options, quiet)
            continue
        there = [layer for layer in other.layers if layer in first.layers]
        from layertool.layers import select

        for layer in there if layers == "all" else select(layers, there, f"both {first.path} and {other.path}"):
            (row,) = _similarities(other, first, unit, layer, layer, options, quiet)
            rows.append(replace(row, target=f"the same layer of {first.path.resolve().name}"))
    return rows


def _open(paths: Sequence[Path]) -> list:
    from layertool.store import FeatureStore

    return [FeatureStore(path) for path in paths]


def _say(quiet: bool) -> Callable[[str], None]:
    return lambda text: output.note(text, quiet)


def _check_outputs(out: Path | None, plot: Path | None) -> None:
    """Refuse a format before the work, not after it."""
    from layertool import results

    if out is not None and out.suffix not in results.FORMATS:
        raise UsageError(f"{out} has no known format: end it in {', '.join(results.FORMATS)}")
    if plot is not None and plot.suffix not in (".png", ".pdf", ".svg"):
        raise UsageError(f"{plot} has no known figure format: end it in .png, .pdf, .svg")


def _deliver(rows, out: Path | None, plot: Path | None, as_json: bool, quiet: bool, ylabel: str | None, x="layer"):
    """Print results, write them, draw them."""
    import pandas as pd

    from layertool import results

    table = rows if isinstance(rows, pd.DataFrame) else results.table(rows)
    if out is not None:
        results.write(table, out)
        output.note(f"{output.count(len(table), 'row')} in {out}", quiet)
    if as_json:
        output.as_json(results.records(table))
    else:
        output.scores(table)
    if plot is not None:
        from layertool import figures

        if x != "layer":
            figures.series(table, plot, x, ylabel)
        elif results.is_matrix(table):
            figures.heatmaps(table, plot, ylabel)
        else:
            figures.layer_curves(table, plot, ylabel)
        output.note(f"figure in {plot}", quiet)
