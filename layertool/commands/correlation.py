"""cca and mi: what layers share with acoustic frames, labels, embeddings and other layers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from layertool.commands import delivery, output
from layertool.commands.options import (
    HELP,
    device_option,
    names,
    on_an_engine,
    result_options,
    sampling_of,
    sampling_options,
)
from layertool.commands.stores import STORES, open_all, place_of, say_to_person
from layertool.errors import UsageError

# What `--with mel` means: 80 filters without deltas, on windows that are not centre-padded (spec layerwise.md 3.5).
FRAME_TARGETS = {"mel": "mel:pasad", "fbank": "fbank:static"}


def _numbers(_ctx, _param, value: str | None) -> tuple[float, ...] | str | None:
    if value is None or value == "published":
        return value
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' is no list of numbers: type e.g. 1e-8,1e-6") from None


def _variants(ctx, param, values: tuple[str, ...]) -> tuple[str, ...]:
    found = names(ctx, param, values)
    if not found:
        raise click.BadParameter("no variant is named: type e.g. --variant pwcca,mean")
    return found


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
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="With other folds for eps and score each.",
)
@click.option("--eps", default=None, callback=_numbers, metavar="LIST",
              help="Regularisation of standardised columns to choose from; 'published': their code, whose scores follow the scales "
              "of neurons.  [default: 1e-6,1e-4,1e-2,1; in-sample 1e-10]")  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True,
              help="Draw rows and folds so many times; the mean is over all trials.")  # fmt: skip
@click.option("--min-coverage", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="Share of rows whose word must have an embedding.")  # fmt: skip
@sampling_options
@device_option
@result_options
@on_an_engine()
def cca(stores, targets, quiet, out, plot, as_json, unit, layers, where, seed, device, **asked) -> None:
    """Correlate every layer with acoustic frames, another layer, labels, or embeddings (CCA).

    \b
    Examples:
      layertool cca w2v2 --with phone --plot phones.pdf
      layertool cca w2v2 --with mel --with C7 -o frames.csv
      layertool cca finetuned --with w2v2
      layertool cca w2v2 --with embedding:glove.txt --folds type-disjoint
    """
    from layertool.feed.correlation import Options, cca_rows

    options = Options(
        protocol=asked["protocol"], variants=asked["variants"], folds=asked["folds"], n_folds=asked["n_folds"],
        n_trials=asked["trials"], eps=asked["eps"], share=asked["share"], where=where,
        sampling=sampling_of(asked["sample"], asked["max_utterances"], asked["per_label"], asked["top_labels"]),
        samples=asked["samples"], seed=seed, min_coverage=asked["min_coverage"], device=place_of(device),
    )  # fmt: skip
    options.check()
    delivery.check_places(out, plot)
    rows = []
    named = [(store, [_target(text, store) for text in targets]) for store in open_all(stores)]  # all before the work
    with ExitStack() as stack:
        for store, theirs in named:
            for target in theirs:
                if isinstance(target, str):
                    target = stack.enter_context(_acoustic_target(target, store, unit, options, quiet))
                with output.progress_bar(quiet, "layers") as show:
                    rows += cca_rows(store, target, unit, layers, options, say_to_person(quiet), show)
    delivery.deliver(rows, out, plot, as_json, quiet, "CCA similarity")


def _target(text: str, store):
    """What ``--with`` names; acoustic features, which have to be computed, by their name."""
    from layertool.extractors import acoustic
    from layertool.feed.correlation import EmbeddingTarget, LabelTarget, LayerTarget
    from layertool.store import FeatureStore

    if text in ("phone", "word"):
        return LabelTarget(text)
    if text.startswith("embedding:"):
        if text == "embedding:":
            raise UsageError("--with embedding: names no file: type e.g. --with embedding:glove.txt")
        return EmbeddingTarget(Path(text.removeprefix("embedding:")))
    if text.split(":")[0] in {name.split(":")[0] for name in acoustic.PRESETS}:
        return acoustic.preset(FRAME_TARGETS.get(text, text)).name
    if text in store.layers:
        return LayerTarget(store, text, text)
    path, _, layer = text.rpartition(":")
    for folder, name in ((text, ""), (path, layer)):
        if folder and (Path(folder) / "store.json").exists():
            other = FeatureStore(folder)
            return LayerTarget(other, name or None, other.path.resolve().name + (f":{name}" if name else ""))
    if text in store.utterances:
        raise UsageError(
            f"{text} is a column, with which cca does not correlate: ask 'layertool mi {store.path} --labels {text}' or "
            f"'layertool probe neighbours {store.path} --labels {text}'"
        )
    raise UsageError(
        f"'{text}' is nothing to correlate {store.path} with: choose mel, fbank or another acoustic feature, a layer "
        f"of it ({store.layers[0]} to {store.layers[-1]}), phone, word, embedding:FILE, or another store"
    )


@contextmanager
def _acoustic_target(name: str, store, unit: str | None, options, quiet: bool) -> Iterator:
    """Acoustic frames of the utterances that will be drawn, in a store that is gone afterwards."""
    import layertool
    from layertool.corpora.corpus import Corpus
    from layertool.corpora.segments import no_segments
    from layertool.feed.correlation import LayerTarget, utterances_drawn

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
@click.argument("stores", type=STORES, nargs=-1, required=True, metavar="STORE...")
@click.option("--labels", required=True, metavar="TIER|COLUMN", help="phone, word, or a column such as speaker.")
@click.option("--clusters", type=click.IntRange(min=2), default=None, metavar="N",
              help="Of k-means.  [default: 500, words 5000; fewer when there are few rows]")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), default=None, metavar="N",
              help="Rows of a mini-batch.  [default: 1500, words 4000]")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="With other seeds.")
@click.option("--fit-on", type=STORES, default=None, metavar="STORE2", help="Fit the clusters on this store.")
@click.option("--fit-where", multiple=True, metavar="COLUMN=VALUE", help="Fit the clusters on these rows.")
@click.option("--standardise", is_flag=True, help="Columns, by the mean and deviation of the rows of the fit.")
@click.option("--sample", type=click.Choice(["published", "all"]), default="published", show_default=True,
              help="published: fit on 3000 to 7000 rows a phone (600 to 1200 a word), score 200 (15).")  # fmt: skip
@result_options
@on_an_engine()
def mi(stores, labels, quiet, out, plot, as_json, unit, layers, where, seed, fit_on, fit_where, **asked) -> None:
    """Mutual information of k-means clusters of every layer with phones, words, or other labels.

    \b
    Clusters are fitted on STORE2, on the rows of --fit-where, or else on one half of the utterances.
    Examples:
      layertool mi w2v2 --labels phone
      layertool mi dev --labels word --fit-on train --plot words.pdf
      layertool mi w2v2 --labels phone --fit-where split=train --where split=dev -o mi.csv
      layertool mi whisper --labels phone --standardise
    """
    from layertool.analysis.rows import parse_where
    from layertool.feed.information import Options, mi_rows
    from layertool.store import FeatureStore

    options = Options(
        n_clusters=asked["clusters"], batch_size=asked["batch_size"], repeats=asked["repeats"],
        fit_store=FeatureStore(fit_on) if fit_on else None, fit_where=parse_where(fit_where), where=where,
        published_sampling=asked["sample"] == "published", standardise=asked["standardise"], seed=seed,
    )  # fmt: skip
    delivery.check_places(out, plot)
    rows = []
    for store in open_all(stores):
        with output.progress_bar(quiet, "layers") as show:
            rows += mi_rows(store, labels, unit, layers, options, say_to_person(quiet), show)
    delivery.deliver(rows, out, plot, as_json, quiet, None)
