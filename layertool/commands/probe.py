"""probe: what can be read from a layer without training anything."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import delivery, output
from layertool.commands.options import (
    HELP,
    draw_options,
    names,
    on_an_engine,
    place_options,
    result_options,
    sampling_of,
    sampling_options,
    seed_option,
    where_option,
)  # fmt: skip
from layertool.commands.stores import STORES, open_all, say_to_person
from layertool.errors import UsageError

PATH = click.Path(path_type=Path)
stores_argument = click.argument("stores", type=STORES, nargs=-1, required=True, metavar="STORE...")


def resample_option(what: tuple[str, ...]):
    """What bootstrap intervals resample; the first is the default."""
    return click.option(
        "--resample", type=click.Choice(what), default=what[0], show_default=True, help="Of the 95 % intervals."
    )


@click.group(context_settings=HELP)
def probe() -> None:
    """What can be read from a layer without training: words, boundaries, meanings, labels.

    \b
    Every probe takes one store or several, and gives one table and one figure (Pasad et al. 2021, 2024).
    """


def _deliver(stores, usual: str, unit: str | None, layers: str, compute, out, plot, as_json, quiet, ylabel) -> None:
    """Rows of every store by ``compute(store, say, progress)``; ``usual``: the unit of the probe."""
    from layertool.feed.common import layers_of, merged, unit_of

    rows: list = []
    opened = open_all({path.resolve(): path for path in stores}.values())
    for store in opened:  # what is wrong with the last one is said before the work on the first
        layers_of(store, unit_of(store, unit, usual, only=True), layers)
    for store in opened:
        with output.progress_bar(quiet, "layers") as show:
            rows += compute(store, say_to_person(quiet), show)
    delivery.deliver(merged(rows), out, plot, as_json, quiet, ylabel)


@probe.command(context_settings=HELP)
@stores_argument
@click.option("--distance", type=click.Choice(["cosine", "dtw"]), default="cosine", show_default=True,
              help="Of pooled vectors; or of frames, by dynamic time warping.")  # fmt: skip
@click.option("--cross-speaker", is_flag=True, help="Only pairs of different speakers.")
@click.option("--min-characters", type=click.IntRange(min=0), default=5, show_default=True, help="Leave shorter words out.")  # fmt: skip
@click.option("--min-seconds", type=click.FloatRange(min=0), default=0.5, show_default=True, help="Leave shorter words out.")  # fmt: skip
@draw_options
@resample_option(("words", "speakers", "none"))
@result_options
@on_an_engine(threads=True)
def discrimination(stores, quiet, out, plot, as_json, unit, layers, where, seed, **asked) -> None:
    """The same word, or another? Average precision over pairs of tokens.

    \b
    All pairs of word tokens, nearest first; chance is the share of pairs that are of one word.
    Examples:
      layertool probe discrimination w2v2 mel --plot words.pdf
      layertool probe discrimination w2v2 --distance dtw --cross-speaker -o words.csv
      layertool probe discrimination w2v2 --min-characters 3 --min-seconds 0.2 --per-label 20
    """
    from layertool.feed.discrimination import Options, discrimination_rows

    delivery.check_places(out, plot)
    options = Options(
        distance=asked["distance"], cross_speaker=asked["cross_speaker"], min_characters=asked["min_characters"],
        min_seconds=asked["min_seconds"], resample=asked["resample"], where=where, seed=seed, n_workers=asked["workers"],
        sampling=sampling_of("all", asked["max_utterances"], asked["per_label"], asked["top_labels"]),
    )  # fmt: skip
    _deliver(
        stores, "word", unit, layers, lambda store, say, show: discrimination_rows(store, unit, layers, options, say, show),
        out, plot, as_json, quiet, "average precision",
    )  # fmt: skip


@probe.command(context_settings=HELP)
@stores_argument
@click.option("--benchmark", "benchmarks", type=PATH, multiple=True, required=True, metavar="FILE|FOLDER",
              help="Rated word pairs, .csv with word1, word2, similarity (vecto-ai/word-benchmarks). Repeatable.")  # fmt: skip
@click.option("--embeddings", type=PATH, multiple=True, metavar="FILE", help="A baseline, e.g. glove.txt. Repeatable.")
@click.option("--min-tokens", type=click.IntRange(min=1), default=1, show_default=True, help="Leave rarer words out.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=None, metavar="N",
              help="Draw up to so many tokens of each word.  [default: all]")  # fmt: skip
@result_options
@on_an_engine(threads=True)
def similarity(stores, benchmarks, quiet, out, plot, as_json, unit, layers, where, seed, **asked) -> None:
    """Words that people call alike: Spearman's correlation with ratings.

    \b
    A word's vector is the mean over its tokens. Below the layers: how well spelling and text embeddings do.
    Examples:
      layertool probe similarity w2v2 --benchmark word-benchmarks/word-similarity/monolingual/en
      layertool probe similarity w2v2 hubert --benchmark men.csv --embeddings glove.txt --plot meaning.pdf
    """
    from layertool.feed.word_similarity import Options, word_similarity_rows
    from layertool.probes.word_similarity import read

    delivery.check_places(out, plot)
    options = Options(
        embeddings=asked["embeddings"], min_tokens=asked["min_tokens"], max_tokens=asked["max_tokens"], where=where,
        seed=seed, n_workers=asked["workers"],
    )  # fmt: skip
    tasks = [task for path in dict.fromkeys(benchmarks) for task in read(path)]
    _deliver(
        stores, "word", unit, layers, lambda store, say, show: word_similarity_rows(store, tasks, unit, layers, options, say, show),
        out, plot, as_json, quiet, "Spearman's correlation",
    )  # fmt: skip


def _numbers(kind):
    """Callback of an option that takes numbers separated by commas."""

    def parse(ctx, param, values):
        numbers = []
        for value in names(ctx, param, values):
            try:
                numbers.append(kind(value))
            except ValueError as error:
                what = "whole numbers" if kind is int else "numbers"
                raise UsageError(f"{param.opts[0]} takes {what} separated by commas, not '{value}'") from error
        return tuple(numbers)

    return parse


@probe.command(context_settings=HELP)
@stores_argument
@click.option("--tune-on", type=STORES, default=None, metavar="STORE2",
              help="Tune on this store of the same model.  [default: on the other half of the utterances]")  # fmt: skip
@click.option("--tune-for", type=click.Choice(["F1", "R-value", "lenient F1", "token F1"]), default="F1", show_default=True,
              help="What the best cell of the grid has most of.")  # fmt: skip
@click.option("--distance", "distances", multiple=True, callback=names, metavar="NAMES",
              help="Of neighbouring frames.  [default: euclidean,cosine]")  # fmt: skip
@click.option("--window", "windows", multiple=True, callback=_numbers(int), metavar="N,N",
              help="Frames of smoothing.  [default: 1,2,4,6,8,16]")  # fmt: skip
@click.option("--prominence", "prominences", multiple=True, callback=_numbers(float), metavar="P,P",
              help="Least prominence of a peak.  [default: 15 values from 0 to 10]")  # fmt: skip
@click.option("--tolerance", type=click.IntRange(min=0, max=1000), default=20, show_default=True, metavar="MS",
              help="How far a boundary may be off, in milliseconds.")  # fmt: skip
@click.option("--max-utterances", type=click.IntRange(min=2), default=500, show_default=True, metavar="N",
              help="Draw so many, where there are more.")  # fmt: skip
@resample_option(("utterances", "speakers", "none"))
@click.option("--layers", default="all", show_default=True, metavar="LAYERS", help="E.g. T0-T12,C7.")
@where_option
@seed_option
@place_options
@on_an_engine(threads=True)
def segmentation(stores, tune_on, quiet, out, plot, as_json, layers, where, seed, **asked) -> None:
    """Word boundaries without training: peaks of change between frames.

    \b
    The grid of distance, smoothing and prominence is tuned on other speech than it is scored on. The store needs
    frames and words (extract --units frame,word).
    Examples:
      layertool probe segmentation w2v2 mel --plot boundaries.pdf
      layertool probe segmentation buckeye --tune-on librispeech -o boundaries.csv
      layertool probe segmentation w2v2 --distance cosine --window 4 --prominence 0.03
    """
    from layertool.feed.segmentation import Options, Sampling, segmentation_rows
    from layertool.geometry import SAMPLE_RATE
    from layertool.probes import segmentation as grids
    from layertool.store import FeatureStore

    delivery.check_places(out, plot)
    options = Options(
        cells=grids.grid(
            asked["distances"] or grids.DISTANCES, asked["windows"] or grids.WINDOWS, asked["prominences"] or grids.PROMINENCES
        ),
        tune_store=None if tune_on is None else FeatureStore(tune_on), criterion=asked["tune_for"],
        tolerance=asked["tolerance"] * SAMPLE_RATE // 1000, resample=asked["resample"],
        sampling=Sampling(utterances=asked["max_utterances"]), where=where, seed=seed, n_workers=asked["workers"],
    )  # fmt: skip
    _deliver(
        stores, "frame", None, layers, lambda store, say, show: segmentation_rows(store, layers, options, say, show),
        out, plot, as_json, quiet, None,
    )  # fmt: skip


@probe.command(context_settings=HELP)
@stores_argument
@click.option("--across-speakers", is_flag=True, help="Never compare a speaker's sentence with one of his own.")
@click.option("--pair", default="pair", show_default=True, metavar="COLUMN", help="Names the pair.")
@click.option("--side", default="side", show_default=True, metavar="COLUMN", help="Says which of its two sentences.")
@click.option(
    "--rating", default="similarity", show_default=True, metavar="COLUMN", help="The human score of the pair."
)
@click.option("--speaker", default="speaker", show_default=True, metavar="COLUMN", help="Says who speaks.")
@resample_option(("pairs", "speakers", "none"))
@click.option("--layers", default="all", show_default=True, metavar="LAYERS", help="E.g. T0-T12,C7.")
@where_option
@seed_option
@place_options
@on_an_engine(threads=True)
def sentences(stores, quiet, out, plot, as_json, layers, where, seed, **asked) -> None:
    """Sentences that people call alike: Spearman's correlation with ratings.

    \b
    A pair's similarity is the mean cosine over all combinations of its speakers (layertool corpus spoken-sts).
    Examples:
      layertool probe sentences w2v2 whisper --plot sentences.pdf
      layertool probe sentences w2v2 --across-speakers --resample speakers -o sentences.csv
    """
    from layertool.feed.sentences import Options, sentence_rows

    delivery.check_places(out, plot)
    options = Options(
        pair=asked["pair"], side=asked["side"], rating=asked["rating"], speaker=asked["speaker"],
        across_speakers=asked["across_speakers"], resample=asked["resample"], where=where, seed=seed,
        n_workers=asked["workers"],
    )  # fmt: skip
    options.check()
    _deliver(
        stores, "utterance", None, layers, lambda store, say, show: sentence_rows(store, layers, options, say, show),
        out, plot, as_json, quiet, "Spearman's correlation",
    )  # fmt: skip


@probe.command(context_settings=HELP)
@stores_argument
@click.option("--labels", required=True, metavar="TIER|COLUMN", help="phone, word, or a column such as speaker.")
@click.option("--method", type=click.Choice(["both", "knn", "centroid"]), default="both", show_default=True,
              help="k nearest neighbours, or the nearest mean of a label's rows.")  # fmt: skip
@click.option(
    "-k", "--neighbours", type=click.IntRange(min=1), default=5, show_default=True, metavar="K", help="Of knn."
)
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Of cross-validation.")
@click.option("--groups", default=None, metavar="COLUMN",
              help="Kept whole in folds.  [default: utterance, or speaker where each has one label]")  # fmt: skip
@sampling_options
@result_options
@on_an_engine(threads=True)
def neighbours(stores, labels, quiet, out, plot, as_json, unit, layers, where, seed, **asked) -> None:
    """Which phone, word, speaker, emotion? Nearest neighbours on unseen speech.

    \b
    Cross-validated accuracy, against the most frequent label and the same classifier on permuted labels.
    Examples:
      layertool probe neighbours w2v2 mel --labels phone --plot phones.pdf
      layertool probe neighbours w2v2 --labels gender --groups speaker
      layertool probe neighbours w2v2 --labels word --method knn -k 1 --top-labels 50 -o words.csv
    """
    from layertool.feed.information import TIERS
    from layertool.feed.neighbours import Options, neighbour_rows

    delivery.check_places(out, plot)
    options = Options(
        methods=("knn", "centroid") if asked["method"] == "both" else (asked["method"],),
        n_neighbours=asked["neighbours"], n_folds=asked["folds"], groups=asked["groups"],
        sampling=sampling_of(asked["sample"], asked["max_utterances"], asked["per_label"], asked["top_labels"]),
        where=where, seed=seed, n_workers=asked["workers"],
    )  # fmt: skip
    _deliver(
        stores, labels if labels in TIERS else "utterance", unit, layers, lambda store, say, show: neighbour_rows(store, labels, unit, layers, options, say, show),
        out, plot, as_json, quiet, "accuracy on unseen speech",
    )  # fmt: skip
