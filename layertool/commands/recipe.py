"""recipe: the tables and figures of a paper, step by step, each by a command that can be copied."""

from __future__ import annotations

from collections.abc import Sequence

import click

from layertool.commands import output
from layertool.commands.options import HELP, ONLY_READ, names, quiet_option
from layertool.errors import UsageError

RECIPES = ("pasad2021", "lin2024", "cuervo2024")


def parse(words: Sequence[str]) -> tuple[click.Command, click.Context]:
    """The command that the words name, and its context: click's own errors for what it does not know."""
    from layertool.cli import cli

    command: click.Command = cli
    context = click.Context(cli, info_name="layertool")
    context.meta[ONLY_READ] = True  # what other steps make is not there yet
    rest = list(words)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        if found is None:
            raise click.UsageError(f"there is no command '{name}'", context)
        command, context = found, click.Context(found, info_name=name, parent=context)
    return command, command.make_context(context.info_name, rest, parent=context.parent)


def _given(_context, _parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise click.BadParameter(f"'{name}{equals}{value}' is not NAME=VALUE")
    return {name: value for name, _, value in pairs}


@click.command(context_settings=HELP)
@click.argument("name", type=click.Choice(RECIPES), metavar="|".join(RECIPES))
@click.option("--corpus", required=True, metavar="CORPUS", help="Corpus of the paper, or one like it.")
@click.option(
    "--model",
    "models",
    multiple=True,
    callback=names,
    metavar="MODEL",
    help="Model to take. Repeatable.  [default: those of the paper]",
)
@click.option(
    "-o",
    "--output",
    "out",
    default=None,
    metavar="FOLDER",
    help="Where stores, results and figures go.  [default: the recipe's name; of a rehearsal NAME-rehearsal]",
)
@click.option(
    "--only",
    multiple=True,
    callback=names,
    metavar="STEP",
    help="Only this step. Repeatable; --dry-run has their names.",
)
@click.option(
    "--with",
    "given",
    multiple=True,
    callback=_given,
    metavar="NAME=VALUE",
    help="What some steps wait for, e.g. glove=FILE. Repeatable; --dry-run has the names.",
)
@click.option(
    "--rehearse",
    is_flag=True,
    help="All in minutes: a few steps of each training, a small --model, stand-ins for what --with does not give. To "
    "see that it runs; its numbers mean nothing.",
)
@click.option("--dry-run", is_flag=True, help="Print the commands, to be copied, and stop.")
@quiet_option
def recipe(name, corpus, models, out, only, given, rehearse, dry_run, quiet) -> None:
    """Make the tables and figures of a paper, step by step.

    \b
    Steps that are done are passed over, so that the same command goes on after an error. docs/papers says what each
    step gives, and which numbers the paper has.
    Examples:
      layertool recipe pasad2021 --corpus dev-clean --dry-run
      layertool recipe cuervo2024 --corpus eccc --model openai/whisper-tiny.en --only finetune-all --only sizes
      layertool recipe lin2024 --corpus speat --with speech=librispeech -o bias
      layertool recipe lin2024 --corpus speat --model tiny/step-2 --rehearse
    """
    from layertool.recipes import Recipe

    asked = Recipe.of(name, corpus, models, out, given, rehearse)
    steps = asked.steps(only)
    for step in steps:  # a command that would not understand its arguments is told before anything runs
        try:
            parse(step.words)
        except click.ClickException as error:
            raise UsageError(f"step {step.name} cannot run ({error.format_message()}): {step.line}") from error
    if dry_run:
        output.echo(*asked.lines(steps))
        for problem in asked.missing_tables(steps):
            output.note(f"note: {problem}", quiet)
        return
    asked.check(steps)
    output.echo(*asked.run(steps, lambda step: _do(step, quiet), lambda text: output.note(text, quiet)))


def _do(step, quiet: bool) -> None:
    """Run one step in this process. Its error is shown as it is, then which step it was and how to go on."""
    from layertool.cli import cli

    command, _ = parse(step.words)
    can_be_quiet = any("-q" in parameter.opts for parameter in command.params)
    words = [*step.words, *(["-q"] if quiet and can_be_quiet else [])]
    try:
        code = cli.main(args=words, prog_name="layertool", standalone_mode=False)
    except click.ClickException as error:
        code = output.failure(error)
    if code:
        output.echo(
            f"The recipe stopped at step {step.name}. What is done is kept: the same command goes on with it, and so "
            "does this one alone:",
            f"  {step.line}",
            err=True,
        )
        click.get_current_context().exit(code)
