"""What the commands of ``layertool lexical`` share: options, and what they ask for."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import delivery
from layertool.commands.options import bundle, where_option
from layertool.errors import UsageError

PATH = click.Path(path_type=Path)
disjoint_option = click.option(
    "--target-disjoint", is_flag=True, help="--split is of the split in which no target word is in two parts."
)
stimuli_options = bundle(
    click.option("--split", type=click.Choice(["train", "dev", "test"]), default=None,
                 help="Only this part of the corpus.  [default: all stimuli]"),
    disjoint_option,
    where_option,
)  # fmt: skip
variant_options = bundle(
    click.option("--end-token/--no-end-token", default=True, show_default=True,
                 help="Whether P(word) has the probability that the word ends there."),
    click.option("--surface", type=click.Choice(["lower", "capitalised", "sentence", "marginal"]), default="lower",
                 show_default=True, help="How words are written: drink, Drink, Drink., or the sum of the three."),
    click.option("--timestamps", is_flag=True, help="Leave <|notimestamps|> out of the prefix."),
    click.option("--encoder-window", type=click.Choice(["30s", "clip", "exact"]), default="30s", show_default=True,
                 help="30 s seen by encoder and decoder; by the encoder only; only the clip (fast, other numbers)."),
    click.option("--language", default=None, help="Of the prefix of multilingual models.  [default: en]"),
)  # fmt: skip
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda:N or mps.")
model_options = bundle(
    device_option,
    click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32",
                 show_default=True, help="Of the computation."),
    click.option("--random-init", type=int, default=None, metavar="SEED", help="Untrained control: draw the weights anew."),
    click.option("--states", type=PATH, default=None, metavar="STORE",
                 help="Keep the encoder's states there, or take them from there (one model)."),
)  # fmt: skip


def ranking_options(most_prefixes: int):
    """What is ranked, and when the search for one stimulus is given up."""
    return bundle(
        click.option("--lexicon", type=PATH, default=None, metavar="FILE",
                     help="Words to rank, one a line.  [default: the 126 052 of CMUdict]"),
        click.option("--most-prefixes", type=click.IntRange(min=1), default=most_prefixes, show_default=True,
                     help="End the search for one stimulus after so many, and say so: what knows nothing opens all."),
    )  # fmt: skip


models_argument = click.argument("models", nargs=-1, required=True, metavar="MODEL...")
corpus_argument = click.argument("corpus", type=PATH)


def check(*paths: Path | None) -> None:
    """Refuse places that cannot be written before the work: of rows, of a figure, of a table beside them."""
    out, plot, *tables = paths
    delivery.check_places(out, plot)
    named = [path.resolve() for path in paths if path is not None]
    if len(set(named)) < len(named):
        raise UsageError("two of the files to write have the same name: give each its own")
    for path in filter(None, tables):
        delivery.check_table(path)


def task_of(folder: Path, seed: int, asked: dict):
    """The corpus and the stimuli that were asked for."""
    from layertool.corpora.corpus import Corpus
    from layertool.layerwise.lexical_rows import Task

    split = None if asked["split"] == "all" else asked["split"]
    if asked["target_disjoint"] and split is None:
        raise UsageError("--target-disjoint chooses one of two splits: add --split train, dev or test")
    task = Task(Corpus.read(folder), split, asked["target_disjoint"], asked["where"], seed)
    task.stimuli()  # what is wrong with them is said before a model is loaded
    return task


def variant_of(asked: dict):
    """The variant of the likelihood that was asked for."""
    from layertool.analysis.lexical.scorer import Variant

    return Variant(
        asked["end_token"], asked["surface"], asked["timestamps"], asked["encoder_window"], asked["language"]
    )
