"""Options that commands share which train: how weights are optimised, where, and what is kept."""

from __future__ import annotations

import click

from layertool.commands.options import bundle
from layertool.errors import MissingExtraError, UsageError

SETTINGS = ("steps", "batch_size", "accumulation", "learning_rate", "warmup_steps", "schedule", "save_steps", "seed")


def training_options(**defaults: str):
    """``defaults``: what the help says that an option is where nobody gives it, by its name."""

    def usual(name: str) -> str:
        return f"  [default: {defaults[name]}]" if name in defaults else ""

    return bundle(
        click.option("--steps", type=click.IntRange(min=1), default=None, help=f"Of training.{usual('steps')}"),
        click.option("--save-steps", type=click.IntRange(min=1), default=None,
                     help=f"{defaults['what_is_saved']}{usual('save_steps')}"),
        click.option("--batch-size", type=click.IntRange(min=1), default=None,
                     help=f"Utterances at once.{usual('batch_size')}"),
        click.option("--accumulation", type=click.IntRange(min=1), default=None,
                     help=f"Batches in a step.{usual('accumulation')}"),
        click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=None,
                     help=f"At its peak.{usual('learning_rate')}"),
        click.option("--warmup-steps", type=click.IntRange(min=0), default=None,
                     help=f"Until the peak.{usual('warmup_steps')}"),
        click.option("--schedule", type=click.Choice(["constant", "linear", "cosine"]), default=None,
                     help=f"After the warm-up.{usual('schedule')}"),
        click.option("--seed", type=click.IntRange(min=0), default=None, help=f"Of all that is drawn.{usual('seed')}"),
        click.option("--statistics", default=None, metavar="100|360|960|FILE",
                     help="Of a MelHuBERT's input, as for extract.  [default: 960]"),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps."),
        click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32",
                     show_default=True, help="Of the computation; the weights stay in float32."),
        click.option("--overwrite", is_flag=True, help="Start again.  [default: go on where an earlier run stopped]"),
    )  # fmt: skip


def settings_of(asked: dict) -> dict:
    """Those of ``SETTINGS`` that somebody gave, and the precision; taken out of ``asked``."""
    given = {name: value for name in SETTINGS if (value := asked.pop(name)) is not None}
    return given | {"precision": asked.pop("dtype")}


def require(what: str, *packages: str) -> None:
    """Raise MissingExtraError where a package is not there that ``what`` needs."""
    import importlib.util

    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "train", what)


def whole_numbers(text: str, option: str) -> list[int]:
    """'0,1,3' -> [0, 1, 3], each once. Raises UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"'{text}' are no whole numbers: type {option} 3, or {option} 0,1,3")
    return list(dict.fromkeys(map(int, parts)))
