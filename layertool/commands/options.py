"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.cluster import ENGINES
from layertool.declared import listed
from layertool.spelling import meant

HELP: dict = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes, only results and errors.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


ONLY_READ = "layertool: only read"  # in the meta of a context whose command is read, but does not run


class Commands(click.Group):
    """A group that says in whole sentences what its commands are for, and what was meant where there is no such one."""

    def resolve_command(self, ctx, args):
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command '{args[0]}'; {meant(args[0], known, 'commands')}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(500)) for name, one in commands if one])


class ModelText(click.ParamType):
    """What is typed for MODEL, as a ``layertool.Model``.

    ``series``: with a pattern in it many, each with a name for its store.
    """

    name = "model"

    def __init__(self, series: bool = False):
        self.series = series

    def convert(self, value, _param, ctx):
        if not isinstance(value, str) or (ctx and ctx.meta.get(ONLY_READ)):
            return value
        from layertool.models.open import Model

        return Model.series(value) if self.series else Model.open(value)


def output_folder(what: str):
    """The -o option of a command that writes a folder."""
    return click.option(
        "-o",
        "--output",
        "out",
        type=click.Path(path_type=Path),
        required=True,
        metavar="FOLDER",
        help=f"{what} to write.",
    )


def _conditions(_ctx, _param, values: tuple[str, ...]):
    from layertool.conditions import parse_where

    return parse_where(values)


where_option = click.option(
    "--where",
    multiple=True,
    callback=_conditions,
    metavar="COLUMN=VALUE",
    help="Only rows with this value (or COLUMN!=VALUE) of a column of theirs or of their utterance. Repeatable: the "
    "same column again is an alternative, another column has to hold too.",
)


# Spellings of before that mean something else elsewhere: of each command, what is typed now.
OLD: dict[str, dict[str, str]] = {
    "pretrain": {"--frames": "--frame-ms"},
    "compress heads": {"--total-steps": "--steps"},
    "compress rows": {"--total-steps": "--steps"},
    "compress weights": {"--total-steps": "--steps", "--warm-up": "--first-pruning"},
    "compress distill": {"--layers": "--blocks", "--targets": "--teacher-layers"},
    "finetune ctc": {"--units": "--tokens"},
    "compare": {"--variant": "--metric NAME, the whole name of what a number is, e.g. 'adjusted mi'"},
    "cca": {"--samples": "--draws"},
    "speat": {"--resamples": "--n-resamples"},
    "probe neighbours": {"--folds": "--n-folds"},
    "lexical lens": {"--rank": "--top-words", "--no-rank": "--no-top-words"},
    "lexical finetune": {
        "--train": "--modules",
        "--warmup": "--warmup-share",
        "--keep-checkpoints": "--keep-models",
    },
}


def renamed(error: click.NoSuchOption) -> click.UsageError:
    """The error of an option that has another name now, which says that one; any other as it is."""
    path, root = (error.ctx.command_path, error.ctx.find_root().command_path) if error.ctx else ("", "")
    command = path.removeprefix(root).strip()
    new = OLD.get(command, {}).get(error.option_name)
    said = f"'layertool {command}' has no {error.option_name} any more: type {new}"
    return click.UsageError(said, error.ctx) if new else error


def names(_ctx, _param, values: tuple[str, ...]) -> tuple[str, ...]:
    """Callback of an option that takes names separated by commas and may be given again: each once."""
    return tuple(dict.fromkeys(listed(values)))


def bundle(*options):
    """Several options as one decorator; help shows them in this order."""

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


engine_options = bundle(
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=None,
        metavar="N",
        help="Pieces of work at once, each in memory.",
    ),
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default="local",
        show_default=True,
        help="Who computes: this process, or a Ray cluster.",
    ),
    click.option(
        "--address",
        default=None,
        metavar="ADDRESS",
        help="Address of the Ray cluster; auto: the one this machine is part of.  [default: one on this machine alone]",
    ),
)
