"""info, verify, export, store merge."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import HELP, Commands, json_option, names, output_folder, quiet_option

_PATH = click.Path(path_type=Path)


@click.command(context_settings=HELP)
@click.argument("store", type=_PATH)
@json_option
def info(store: Path, as_json: bool) -> None:
    """Say what is in a store.

    \b
    Example:
      layertool info w2v2
    """
    from layertool.store import FeatureStore
    from layertool.store.account import account

    output.show(account(FeatureStore(store, allow_unfinished=True)), data=as_json)


@click.command(context_settings=HELP)
@click.argument("store", type=_PATH)
@quiet_option
def verify(store: Path, quiet: bool) -> None:
    """Check that a store is whole and sound: shapes, order, finite values, checksums.

    \b
    Reads everything once. Exit code 1 when something is wrong.
    Example:
      layertool verify w2v2
    """
    from layertool.store import FeatureStore
    from layertool.store.verify import verdict
    from layertool.store.verify import verify as check

    opened = FeatureStore(store, allow_unfinished=True)
    with output.progress_bar(quiet, "bytes") as progress:
        problems = check(opened, progress)
    for problem in problems:
        output.echo(problem)
    output.echo(verdict(opened, problems))


@click.command(context_settings=HELP)
@click.argument("store", type=_PATH)
@output_folder("Folder of arrays")
@click.option(
    "--to", "layout", type=click.Choice(["npy", "npz", "fastabx"]), default="npy", show_default=True, help="Layout."
)
@click.option(
    "--layers", multiple=True, metavar="LAYERS", help="Only these layers, e.g. T0-T12,C7.  [default: all there are]"
)
@click.option(
    "--units",
    multiple=True,
    callback=names,
    metavar="UNITS",
    help="Only these units, e.g. phone,word.  [default: all there are]",
)
@click.option("--overwrite", is_flag=True, help="Replace what an earlier export wrote.")
@quiet_option
def export(store: Path, out: Path, layout: str, quiet: bool, **asked) -> None:
    """Write a store as .npy, .npz, or the files of fastabx.

    \b
    npy: one file per layer in the folder layout of Pasad et al.'s code,
    MODEL/CORPUS/contextualized/word_level/0/layer_7.npy with labels_0.lst beside it.
    npz: UNIT.npz with one array per layer and the row columns.
    fastabx: LAYER/UTTERANCE.pt with the frames, and phone.item (word.item) with the segments, for ABX
    discrimination with the package fastabx; the store needs --units frame,phone and speakers.
    Example:
      layertool export w2v2 -o arrays/ --to npz --units word --layers T0-T12
      layertool export w2v2 -o abx/ --to fastabx --layers T0-T12
    """
    from layertool.store import FeatureStore

    with output.progress_bar(quiet, "layers") as progress:
        account = FeatureStore(store).export(out, layout, **asked, progress=progress)
    output.show(account, quiet)


@click.group(cls=Commands, context_settings=HELP)
def store() -> None:
    """Finish a store that many processes have written."""


@store.command(context_settings=HELP)
@click.argument("path", metavar="STORE", type=_PATH)
def merge(path: Path) -> None:
    """Put the parts of a job array together: one index, and one matrix per unit and layer.

    \b
    When all ranks of 'layertool extract ... --nshard N --rank R' have ended. Says which shards are missing.
    Example:
      layertool store merge w2v2
    """
    from layertool.store.concluding import merge as put_together

    output.echo(f"{path} is {put_together(path)}")
