"""The command of every analysis, made from its declaration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from layertool.commands import delivery, output
from layertool.commands.declared import click_option
from layertool.commands.options import HELP, Commands, engine_options
from layertool.declared import listed, options_of
from layertool.layerwise import ANALYSES, declared


def named(words: str) -> click.Command:
    """The command of the analysis that words such as "probe neighbours" name."""
    return command(declared(words))


def command(analysis: Any) -> click.Command:
    """The click command of a declared analysis: its fields are the options, its docstring is the help."""
    arguments = [
        click.Argument(
            [name.strip(".[]").lower()],
            nargs=-1 if "..." in name else 1,
            required=not name.startswith("["),
            metavar=name,
            type=click.Path(),
        )
        for name in analysis.inputs
    ]

    beside = [
        click.Option([f"--{name}"], type=click.Path(path_type=Path), metavar="FILE", help=text)
        for name, text in analysis.tables.items()
    ]

    def run(engine, address, workers, **asked) -> None:
        from layertool.layerwise.stores import opened
        from layertool.outline import check_names
        from layertool.results import Results

        where = {name: asked.pop(name) for name in delivery.OPTIONS}
        files = {name: asked.pop(name) for name in analysis.tables}
        delivery.check_places(where["out"], where["plot"], *files.values())
        delivery.check_axis(where["x"], where["reference"])
        inputs = [asked.pop(str(argument.name)) for argument in arguments]
        if where["reference"] is not None:
            inputs[0] = (where["reference"], *inputs[0])  # it is drawn, too
        if where["names"] and analysis.inputs[0] == "STORE...":  # before the work
            check_names(list(listed(where["names"])), len(opened(inputs[0])))
        call = analysis(**{name: value for name, value in asked.items() if value != ()})
        tables: dict[str, list] = {}
        with output.progress_bar(where["quiet"], analysis.counted) as show:
            rows = call.run(*inputs, engine=engine, address=address, workers=workers, progress=show, tables=tables)
        delivery.deliver(Results(rows, tables), **where, files=files)

    return made(analysis, arguments, run, beside)


def made(
    declaration: Any,
    arguments: Sequence[click.Parameter],
    run: Callable[..., None],
    beside: Sequence[click.Parameter] = (),
) -> click.Command:
    """A command of what is declared, with ``arguments`` before its options and those of every analysis after them."""
    own = [click_option(one) for one in options_of(declaration)]
    run = delivery.options(engine_options(run))
    common = list(reversed(run.__click_params__))  # type: ignore[attr-defined]
    return click.Command(
        declaration.command.split()[-1],
        params=[*arguments, *own, *beside, *common],
        callback=run,
        help=declaration.__doc__,
        context_settings=HELP,
    )


class Group(Commands):
    """The analyses of one group, e.g. ``probe``, and what else is added to it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = [words.partition(" ")[2] for words in ANALYSES if words.startswith(f"{self.name} ")]
        return [*own, *(name for name in super().list_commands(ctx) if name not in own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        words = f"{self.name} {cmd_name}"
        return named(words) if words in ANALYSES else super().get_command(ctx, cmd_name)
