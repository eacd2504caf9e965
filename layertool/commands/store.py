"""info, verify, export, store merge."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import HELP, json_option, quiet_option
from layertool.errors import UsageError
from layertool.kinds import kind


@click.command(context_settings=HELP)
@click.argument("store", type=click.Path(path_type=Path))
@json_option
def info(store: Path, as_json: bool) -> None:
    """Say what is in a store.

    \b
    Example:
      layertool info w2v2
    """
    from layertool.store import FeatureStore
    from layertool.store.layout import part_indexes

    opened = FeatureStore(store, allow_unfinished=True)
    about = opened.about
    if as_json:
        output.as_json(
            {**about, "finished": opened.finished, "failures": opened.failures, "n_finished_shards": len(opened.index)}
        )
        return
    model, configuration = opened.configuration["model"], opened.configuration
    identity = next(
        (f"{k} {model[k]}" for k in ("definition", "revision", "sha256") if model.get(k)), "no identity recorded"
    )
    untrained = f", random weights of seed {model['random_init']}" if model.get("random_init") is not None else ""
    state = "complete" if opened.finished else f"unfinished: {len(opened.index)} of {about['n_shards']} shards"
    if opened.damaged:
        state = f"damaged: shards {', '.join(map(str, opened.damaged))}; run the same extract command again"
    elif opened.finished and part_indexes(store):
        state += f", not merged: type layertool store merge {store}"
    facts = [
        ("model", f"{model['id']} ({model['family']}{untrained}; {identity})"),
        *([("statistics", f"{model['statistics']} (of MelHuBERT's input)")] if model.get("statistics") else []),
        *([("step", output.number(model["step"]))] if isinstance(model.get("step"), int) else []),
        ("corpus", f"{about['corpus']['name']}: {about['corpus']['n_utterances']} utterances, "
                   f"{output.duration(about['corpus']['seconds'])}"),
        ("state", f"{state}; left out: {len(opened.failures) or 'nothing'}"),
        *_parameter_facts(about.get("parameters") or {}),
        ("computed in", f"{configuration['dtype']}, stored as {configuration['store_dtype']}"),
        ("size", output.size(sum(entry["size"] for entry in opened.index.values()))),
        ("audio", _audio(about["audio"], configuration)),
        *mask_facts(configuration),
        ("made with", ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())),
    ]  # fmt: skip
    output.facts(str(store), facts)
    from layertool.layers import summary

    rows = []
    for unit in opened.units:
        by_table: dict[str, list[str]] = {}
        for layer, table in about["units"][unit]["rows"].items():
            by_table.setdefault(table, []).append(layer)
        for layers in by_table.values():
            pooling = configuration["units"][unit]
            average = about["layers"][layers[0]].get("frame_average") if unit == "frame" else None
            how = "averaged to 10 ms" if average else "" if pooling == "none" else pooling
            widths = sorted({opened.width(layer) for layer in layers})
            rows.append((unit, summary(layers), opened.n_rows(unit, layers[0]), "/".join(map(str, widths)), how))
    output.table(None, ("unit", "layers", "rows", "width", "pooling"), rows)
    for failure in opened.failures:
        output.echo(f"left out: {failure['utterance']}: {failure['error']}")


def _parameter_facts(parameters: dict) -> list[tuple[str, str]]:
    """The line about the size of the model; acoustic features and older stores have none."""
    n, nonzero = parameters.get("all"), parameters.get("nonzero")
    if not n or nonzero is None:
        return []
    zero = "" if n - nonzero < 0.01 * n else f", of which {output.number(n - nonzero)} are 0"
    return [("parameters", output.number(n) + zero)]


def mask_facts(configuration: dict) -> list[tuple[str, str]]:
    """The line about the time mask of pre-training, when it was on."""
    if "mask_seed" not in configuration:
        return []
    length, probability = configuration["mask_length"], configuration["mask_prob"]
    what = f"spans of {output.count(length, 'frame')}, probability {probability:g}, seed {configuration['mask_seed']}"
    return [("time mask", f"on: {what}")]


def _audio(audio: dict, configuration: dict) -> str:
    parts = [", ".join(f"{count} at {rate} Hz" for rate, count in audio.get("source_rates", {}).items())]
    if audio.get("resampler"):
        parts.append(f"resampled to {audio['sample_rate']} Hz with {audio['resampler']}")
    if configuration["channel"]:
        parts.append(f"channel {configuration['channel']}")
    if configuration["window_seconds"]:
        parts.append(f"windows of {configuration['window_seconds']:g} s where longer")
    return "; ".join(parts)


@click.command(context_settings=HELP)
@click.argument("store", type=click.Path(path_type=Path))
@quiet_option
def verify(store: Path, quiet: bool) -> None:
    """Check that a store is whole and sound: shapes, order, finite values, checksums.

    \b
    Reads everything once. Exit code 1 when something is wrong.
    Example:
      layertool verify w2v2
    """
    from layertool.errors import StoreError
    from layertool.store import FeatureStore
    from layertool.store import verify as check

    opened = FeatureStore(store, allow_unfinished=True)
    total = sum(entry["size"] for entry in opened.index.values())
    with output.progress_bar(quiet, "bytes") as progress:
        problems = check(opened, progress)
    for problem in problems:
        output.echo(problem)
    if problems:
        raise StoreError(
            f"{store} has {output.count(len(problems), 'problem')} (above): run the same extract command again, it writes just these shards anew"
        )
    output.echo(
        f"{store} is sound: {output.count(len(opened.index), 'shard')}, {output.size(total)}, every checksum right"
    )


@click.command(context_settings=HELP)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@click.option(
    "--to", "layout", type=click.Choice(["npy", "npz", "fastabx"]), default="npy", show_default=True, help="Layout."
)
@click.option("--layers", default=None, metavar="LAYERS", help="Only these, e.g. T0-T12,C7  [default: all there are]")
@click.option("--units", default=None, metavar="UNITS", help="Only these, e.g. phone,word  [default: all there are]")
@click.option("--overwrite", is_flag=True, help="Replace what an earlier export wrote.")
@quiet_option
def export(
    store: Path, out: Path, layout: str, layers: str | None, units: str | None, overwrite: bool, quiet: bool
) -> None:
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
    from layertool.store.abx import export_fastabx
    from layertool.store.export import export_npy, export_npz

    opened = FeatureStore(store)
    if out.is_file() or (there := kind(out)):
        raise UsageError(
            f"{out} is a {'file' if out.is_file() else there}: arrays go into a folder of their own, choose another -o"
        )
    write = {"npy": export_npy, "npz": export_npz, "fastabx": export_fastabx}[layout]
    with output.progress_bar(quiet, "layers") as progress:
        written = write(opened, out, units.split(",") if units else None, layers, overwrite, progress)
    for path in written:
        output.echo(path)
    if layout == "fastabx":
        _say_what_is_next(out, quiet)


def _say_what_is_next(out: Path, quiet: bool) -> None:
    """What an export to fastabx left out, and the command that scores its last layer."""
    from layertool.files import read_json
    from layertool.store.abx import DESCRIPTION

    about = read_json(out / DESCRIPTION, "the description of an export")
    for tier, counts in about["items"].items():
        short = counts["left_out_too_short"]
        left_out = f"; {output.count(short, tier)} shorter than a frame left out" if short else ""
        output.note(f"{tier}: {output.count(counts['n_items'], 'item')}{left_out}", quiet)
    layer, facts = list(about["layers"].items())[-1]
    if isinstance(facts["frequency"], int):  # its command line takes no other
        files = shlex.join([str(out / f"{next(iter(about['items']))}.item"), str(out / layer)])
        output.note(f"score a layer with: fastabx {files} --frequency {facts['frequency']} --max-size-group 10", quiet)


@click.group(context_settings=HELP)
def store() -> None:
    """Finish a store that many processes have written."""


@store.command(context_settings=HELP)
@click.argument("path", metavar="STORE", type=click.Path(path_type=Path))
def merge(path: Path) -> None:
    """Put the parts of a job array together: one index, and one matrix per unit and layer.

    \b
    When all ranks of 'layertool extract ... --nshard N --rank R' have ended. Says which shards are missing.
    Example:
      layertool store merge w2v2
    """
    from layertool.store.concluding import merge as put_together

    merged = put_together(path)
    parts = f" of {output.count(merged.n_parts, 'rank')}" if merged.n_parts else ", merged before"
    output.echo(f"{path} is complete: {output.count(merged.n_shards, 'shard')}{parts}")
