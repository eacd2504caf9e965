"""recipe: the tables and figures of a paper, step by step, each by a command that can be copied."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from layertool.commands import output, rehearsal
from layertool.commands.options import HELP, quiet_option
from layertool.commands.recipe_steps import REHEARSAL, Step, read, steps_of
from layertool.errors import CorpusError, UsageError
from layertool.files import read_json, write_json

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus

NAMES = ("pasad2021", "lin2024", "cuervo2024")
RECORD = "recipe.json"  # in the folder of results: which command lines are done


def parse(words: Sequence[str]) -> tuple[click.Command, click.Context]:
    """The command that the words name, and its context: click's own errors for what it does not know."""
    from layertool.cli import cli

    command: click.Command = cli
    context = click.Context(cli, info_name="layertool")
    rest = list(words)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        if found is None:
            raise click.UsageError(f"there is no command '{name}'", context)
        command, context = found, click.Context(found, info_name=name, parent=context)
    return command, command.make_context(context.info_name, rest, parent=context.parent)


def lacking(steps: Iterable[Step], corpora: dict[str, str]) -> list[str]:
    """A sentence for what a corpus lacks and steps need. ``corpora``: its folder, by its name in ``needs``."""
    from layertool.corpora.corpus import Corpus

    opened = cache(Corpus.read)
    wanting: dict[tuple[str, str], list[str]] = {}  # the steps, by corpus and thing
    for step in steps:
        for name, needs in step.needs.items():
            if step.missing or name not in corpora:
                continue
            for what in _absent(opened(corpora[name]), needs):
                wanting.setdefault((corpora[name], what), []).append(step.name)
    things: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (corpus, what), names in wanting.items():
        things.setdefault((corpus, tuple(dict.fromkeys(names))), []).append(what)
    return [f"{corpus} has no {', '.join(what)} (for {', '.join(names)})" for (corpus, names), what in things.items()]


def unmade(asked: Iterable[Step], steps: Iterable[Step]) -> Iterator[tuple[Step, str, Step]]:
    """Steps with a file that they read, which is not there, and the step that makes it and was not asked for."""
    asked = list(asked)
    names = {step.name for step in asked}
    for other in steps:
        for path in other.makes if other.name not in names else ():
            if not Path(path).exists():
                yield from ((step, path, other) for step in asked if step.reads([path]) and not step.missing)


def _absent(corpus, needs: dict) -> Iterator[str]:
    from layertool import columns

    for tier in needs.get("tiers", []):
        if tier not in corpus.tiers:
            yield f"tier {tier}"
    for column, values in needs.get("columns", {}).items():
        if column not in corpus.utterances:
            yield f"column {column}"
        else:
            held = set(columns.texts(corpus.utterances[column].dropna()))
            yield from (f"{column}={value}" for value in values if value not in held)


class Record:
    """Which command line made each file of a folder; what another line is to make is made again."""

    def __init__(self, out: str, name: str, fingerprint: str, rehearse: bool = False):
        """Raises UsageError for a folder of another recipe or corpus, or where one is a rehearsal and the other is not."""
        self.path = Path(out) / RECORD
        self.about: dict = {"recipe": name, REHEARSAL: rehearse, "corpus": fingerprint, "made": {}}
        if not self.path.exists():
            return
        there = {REHEARSAL: False, **read_json(self.path, "the record of a recipe")}
        what = None
        if there.get("recipe") != name:
            what = f"results of another recipe ({there.get('recipe')})"
        elif there[REHEARSAL] != rehearse:
            what = "a rehearsal" if there[REHEARSAL] else "results of the recipe, and no rehearsal of it"
        elif there.get("corpus") != fingerprint:
            what = "results of another corpus, or of this one before it changed"
        if what:
            raise UsageError(f"{out} holds {what}: choose another folder with -o")
        self.about = there

    def has(self, step: Step) -> bool:
        return all(self.about["made"].get(made) == step.line and Path(made).exists() for made in step.makes)

    def begin(self, step: Step) -> None:
        """From now on its files are not known to be whole."""
        for made in step.makes:
            self.about["made"].pop(made, None)
        self._write()

    def add(self, step: Step) -> None:
        self.about["made"] |= dict.fromkeys(step.makes, step.line)
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.about)


def _given(_context, _parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise click.BadParameter(f"'{name}{equals}{value}' is not NAME=VALUE")
    return {name: value for name, _, value in pairs}


@click.command(context_settings=HELP)
@click.argument("name", type=click.Choice(NAMES), metavar="|".join(NAMES))
@click.option("--corpus", required=True, metavar="CORPUS", help="Corpus of the paper, or one like it.")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Repeatable.  [default: those of the paper]")
@click.option("-o", "--output", "out", default=None, metavar="FOLDER",
              help="Where stores, results and figures go.  [default: the recipe's name; of a rehearsal NAME-rehearsal]")  # fmt: skip
@click.option("--only", multiple=True, metavar="STEP", help="Only this step. Repeatable; --dry-run has their names.")
@click.option("--with", "given", multiple=True, callback=_given, metavar="NAME=VALUE",
              help="What some steps wait for, e.g. glove=FILE. Repeatable; --dry-run has the names.")  # fmt: skip
@click.option("--rehearse", is_flag=True,
              help="All in minutes: a few steps of each training, a small --model, stand-ins for what --with does not give. "
              "To see that it runs; its numbers mean nothing.")  # fmt: skip
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
    about = read(name)
    if rehearse and not models:
        raise UsageError(f"a rehearsal needs a small MODEL of your own: {about['small_model']}")
    out = (out or (f"{name}-{REHEARSAL}" if rehearse else name)).rstrip("/") or "/"
    models = list(dict.fromkeys(models)) or about["models"]
    steps = steps_of(about, corpus, models, out, given, only, rehearse)
    for step in steps:
        _check(step)
    corpora = {"corpus": corpus, **given}
    if dry_run:
        _print(about, steps, out, rehearse)
        there = {which: folder for which, folder in corpora.items() if Path(folder).is_dir()}
        for problem in lacking(steps, there):
            output.note(f"note: {problem}", quiet)
        return
    for which, value in given.items():
        if (is_what := about["inputs"][which]["is"]).split()[0] in ("CORPUS", "FILE", "FOLDER") and not Path(
            value
        ).exists():
            raise UsageError(f"--with {which}={value} does not exist: give a {is_what}")
    if problems := lacking(steps, corpora):
        raise CorpusError(f"{'; '.join(problems)}: {about['made_by']}, or choose other steps with --only")
    for step, path, other in unmade(steps, steps_of(about, corpus, models, out, given, rehearse=rehearse)):
        raise UsageError(
            f"step {step.name} reads {path}, which is not there: run step {other.name}, too (--only {other.name})"
        )
    _run(name, about, steps, corpus, out, rehearse, quiet)


def _check(step: Step) -> None:
    """Say before anything runs that a command would not understand its arguments."""
    try:
        parse([word.text for word in step.words])
    except click.ClickException as error:
        raise UsageError(f"step {step.name} cannot run ({error.format_message()}): {step.line}") from error


def _print(about: dict, steps: list[Step], out: str, rehearse: bool) -> None:
    """Commands to copy; what waits for an input is a comment."""
    output.echo(f"# {rehearsal.says(about['paper']) if rehearse else about['paper']}")
    for name, given in about["inputs"].items():
        if "default" in given and not rehearse:
            output.echo(f"# --with {_input(about, name)}; if it is not given: {given['default']}")
    for gives, part in _groups(steps):
        output.echo("", f"# {gives}")
        before = None
        for step in part:
            if step.name != before:  # else the same for another model
                waits = "".join(f"; waits for --with {_input(about, name)}" for name in step.missing)
                output.echo(f"# step {step.name}{waits}")
            output.echo(f"#   {step.line}" if step.missing else step.line)
            before = step.name
    if any(_results(step) for step in steps):
        output.echo("", "# All results on one page", _report(out, rehearse))


def _input(about: dict, name: str) -> str:
    return f"{name}=... ({about['inputs'][name]['is']})"


def _groups(steps: list[Step]) -> Iterator[tuple[str, list[Step]]]:
    for gives in dict.fromkeys(step.gives for step in steps):
        yield gives, [step for step in steps if step.gives == gives]


def _results(step: Step) -> list[str]:
    return [made for made in step.makes if made.endswith(".csv")]


def _report(out: str, rehearse: bool) -> str:
    line = f"layertool report {shlex.quote(f'{out}/')}*.csv -o {shlex.quote(f'{out}/report.html')}"
    return f"{line} --title 'A rehearsal: its numbers mean nothing'" if rehearse else line


def _run(name: str, about: dict, steps: list[Step], corpus: str, out: str, rehearse: bool, quiet: bool) -> None:
    from layertool.corpora.corpus import Corpus

    read_corpus = Corpus.read(corpus)
    record = Record(out, name, read_corpus.fingerprint, rehearse)
    if rehearse:
        _begin_rehearsal(about, steps, read_corpus, out, quiet)
    made: list[str] = []  # by this call: what reads it is done again, too
    done: list[Step] = []
    for place, step in enumerate(steps, 1):
        head = f"[{place}/{len(steps)}] {step.name}"
        if why := _why_not(about, step, f"{out}/{rehearsal.MADE_UP}/corpus" if rehearse else None):
            output.note(f"{head}: left out, {why}", quiet)
            continue
        done.append(step)
        if record.has(step) and not step.reads(made):
            output.note(f"{head}: done already", quiet)
            continue
        output.note(f"{head}: {step.line}", quiet)
        record.begin(step)
        _do(step, quiet)
        record.add(step)
        made.extend(step.makes)
    output.echo("", *([rehearsal.says(about["paper"])] if rehearse else []))
    output.echo(f"Results of {about['paper']}, in {out}:")
    for gives, part in _groups(done):
        output.echo(f"  {gives}: {', '.join(made for step in part for made in step.makes)}")
    if any(_results(step) for step in done):
        output.echo("", "All on one page:", f"  {_report(out, rehearse)}")


def _begin_rehearsal(about: dict, steps: list[Step], corpus: Corpus, out: str, quiet: bool) -> None:
    rehearsal.note(out, about["paper"])
    if any(f"{out}/{rehearsal.MADE_UP}/" in f"{word.text}/" for step in steps for word in step.words):
        rehearsal.make_up(out, corpus)
    output.note(rehearsal.says(about["paper"]), quiet)
    if corpus.seconds > rehearsal.LONG_SECONDS:
        output.note(f"note: {corpus.name} has {output.duration(corpus.seconds)} of audio, all of which is extracted: a corpus "
                    "of some minutes does for a rehearsal", quiet)  # fmt: skip


def _why_not(about: dict, step: Step, stand_in: str | None) -> str | None:
    """Why a step is left out: what it waits for, or what the corpus that stands for one that nobody gave lacks."""
    if step.missing:
        return "it waits for " + ", ".join(f"--with {_input(about, missing)}" for missing in step.missing)
    if stand_in is None or not any(word.text == stand_in for word in step.words):
        return None
    return "; ".join(lacking([step], dict.fromkeys(set(step.needs) - {"corpus"}, stand_in))) or None


def _do(step: Step, quiet: bool) -> None:
    """Run one step in this process. Its error is shown as it is, then which step it was and how to go on."""
    from layertool.cli import cli

    arguments = step.arguments()
    command, _ = parse(arguments)
    if quiet and any("-q" in parameter.opts for parameter in command.params):
        arguments.append("-q")
    code: int | None = None
    try:
        code = cli.main(args=arguments, prog_name="layertool", standalone_mode=False)
    except click.ClickException as error:
        code = output.failure(error)
    if code:
        output.echo(f"The recipe stopped at step {step.name}. What is done is kept: the same command goes on with it, "
                   "and so does this one alone:", f"  {step.line}", err=True)  # fmt: skip
        click.get_current_context().exit(code)
