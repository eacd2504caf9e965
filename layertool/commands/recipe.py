"""recipe: the tables and figures of a paper, step by step, each by a command that can be copied."""

from __future__ import annotations

import glob
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import HELP, quiet_option
from layertool.errors import CorpusError, UsageError
from layertool.files import read_json, write_json

NAMES = ("pasad2021", "lin2024", "cuervo2024")
RECORD = "recipe.json"  # in the folder of results: which command lines are done
_FILE_ENDINGS = (".pt", ".ckpt", ".pth", ".bin")
_WORD = re.compile(r"'([^']*)'|(\S+)")
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Word:
    """One argument. ``pattern``: what the shell expands to the files that are there, if it is one."""

    text: str
    pattern: str | None = None

    def shown(self) -> str:
        """As it is typed in a shell."""
        if self.pattern is None:
            return shlex.quote(self.text)
        return "*".join(shlex.quote(part) if part else "" for part in self.text.split("*"))

    def expanded(self) -> list[str]:
        """The arguments that a command sees; of a pattern all files, step 900 before step 1000."""
        if self.pattern is None:
            return [self.text]
        found = sorted(glob.glob(self.pattern), key=_natural)
        if not found:
            raise UsageError(f"there is no {self.text}: run the steps before this one, too")
        return found


@dataclass(frozen=True)
class Step:
    """One command of a recipe for one model, or for all of them.

    ``gives``: the table or figure; ``makes``: files or folders; ``missing``: inputs that it waits for; ``needs``: what
    tables of a corpus have to hold, by the name of the corpus among the inputs.
    """

    name: str
    gives: str
    words: tuple[Word, ...]
    makes: tuple[str, ...]
    missing: tuple[str, ...]
    needs: dict[str, dict]

    @property
    def line(self) -> str:
        """The command, to be copied."""
        return " ".join(["layertool", *(word.shown() for word in self.words)])

    def arguments(self) -> list[str]:
        return [text for word in self.words for text in word.expanded()]

    def reads(self, paths: Iterable[str]) -> bool:
        """Whether an argument is one of the paths, or lies in one."""
        return any(f"{word.text}/".startswith(f"{path}/") for path in paths for word in self.words)


def read(name: str) -> dict:
    """The recipe as it is written in the package."""
    file = resources.files("layertool") / "data" / "recipes" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def steps_of(
    recipe: dict, corpus: str, models: Sequence[str], out: str, given: dict[str, str], only: Sequence[str] = ()
) -> list[Step]:
    """The steps of a recipe, one for each model where its command names one.

    Raises UsageError for models of one name, and for steps and inputs that the recipe does not have.
    """
    inputs = recipe["inputs"]
    _check_names("input", given, inputs)
    _check_names("step", only, [step["name"] for step in recipe["steps"]])
    names = [folder_name(model) for model in models]
    if len(set(names)) < len(names):
        raise UsageError(
            f"the stores of {', '.join(models)} would have one name: make them in folders of their own (-o)"
        )
    values = {name: about["default"] for name, about in inputs.items() if "default" in about} | given
    places = {name: [values.get(name, name.upper())] for name in inputs} | {
        "corpus": [corpus], "out": [out], "stores": [f"{out}/{name}" for name in names], "first": [f"{out}/{names[0]}"],
        "last": [models[-1]], "last_name": [names[-1]],
    }  # fmt: skip
    steps = []
    for about in recipe["steps"]:
        if only and about["name"] not in only:
            continue
        extra = [text for name, text in about.get("when", {}).items() if name in values]
        command = " ".join([about["command"], *extra])
        named = {*_PLACE.findall(command), *about.get("with", [])}
        missing = tuple(name for name in inputs if name in named and name not in values)
        each: Iterable = zip(models, names, strict=True) if named & {"model", "name", "store"} else [("", "")]
        for model, name in each:
            own = places | {"model": [model], "name": [name], "store": [f"{out}/{name}"]}
            makes = tuple(text for made in about["makes"] for text in _filled(made, own))
            words = tuple(_words(command, own))
            needs = about.get("needs", recipe.get("needs", {}))
            steps.append(Step(about["name"], about["gives"], words, makes, missing, needs))
    return steps


def _check_names(what: str, asked: Iterable[str], known: Iterable[str]) -> None:
    known = list(dict.fromkeys(known))
    for name in asked:
        if name not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"this recipe has no {what} '{name}': {there}")


def folder_name(model: str) -> str:
    """The name of a MODEL's store: the last part of its id or path."""
    if "*" in model or "?" in model:
        raise UsageError(f"'{model}' is many models: name each of them with a --model of its own")
    last = re.split(r"[/:]", model.rstrip("/"))[-1]
    for ending in _FILE_ENDINGS:
        last = last.removesuffix(ending)
    return re.sub(r"[^\w.-]", "-", last) or "model"


def _filled(template: str, values: dict[str, list[str]]) -> list[str]:
    """The template with the value of each place; a place of several values alone is several texts."""
    if (alone := _PLACE.fullmatch(template)) is not None:
        return list(values[alone.group(1)])
    return [_PLACE.sub(lambda place: values[place.group(1)][0], template)]


def _words(command: str, values: dict[str, list[str]]) -> Iterator[Word]:
    """As in a shell: what is in quotes stays as it is, a * elsewhere stands for files."""
    escaped = {name: [glob.escape(value) for value in found] for name, found in values.items()}
    for quoted, bare in _WORD.findall(command):
        for text, pattern in zip(_filled(quoted or bare, values), _filled(quoted or bare, escaped), strict=True):
            yield Word(text, pattern if "*" in bare else None)


def _natural(text: str) -> list:
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", text))]


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
    """A sentence for each thing that a corpus lacks and steps need. ``corpora``: its folder, by its name in ``needs``."""
    from layertool.corpora.corpus import Corpus

    opened = cache(Corpus.read)
    found: dict[str, list[str]] = {}
    for step in steps:
        for name, needs in step.needs.items():
            if step.missing or name not in corpora:
                continue
            for what in _absent(opened(corpora[name]), needs):
                found.setdefault(f"{corpora[name]} has no {what}", []).append(step.name)
    return [f"{what} (for {', '.join(dict.fromkeys(names))})" for what, names in found.items()]


def _absent(corpus, needs: dict) -> Iterator[str]:
    for tier in needs.get("tiers", []):
        if tier not in corpus.tiers:
            yield f"tier {tier}"
    for column, values in needs.get("columns", {}).items():
        if column not in corpus.utterances:
            yield f"column {column}"
        else:
            held = set(corpus.utterances[column].dropna().astype(str))
            yield from (f"{column}={value}" for value in values if value not in held)


class Record:
    """Which command line made each file of a folder; what another line is to make is made again."""

    def __init__(self, out: str, name: str, fingerprint: str):
        self.path = Path(out) / RECORD
        self.about: dict = {"recipe": name, "corpus": fingerprint, "made": {}}
        if self.path.exists():
            there = read_json(self.path, "the record of a recipe")
            for key, what in (
                ("recipe", "another recipe"),
                ("corpus", "another corpus, or this one before it changed"),
            ):
                if there.get(key) != self.about[key]:
                    raise UsageError(f"{out} holds results of {what}: choose another folder with -o")
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
@click.option("-o", "--output", "out", default=None, metavar="FOLDER", help="Where stores, results and figures go.  [default: the recipe's name]")  # fmt: skip
@click.option("--only", multiple=True, metavar="STEP", help="Only this step. Repeatable; --dry-run has their names.")
@click.option("--with", "given", multiple=True, callback=_given, metavar="NAME=VALUE",
              help="What some steps wait for, e.g. glove=FILE. Repeatable; --dry-run has the names.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the commands, to be copied, and stop.")
@quiet_option
def recipe(name, corpus, models, out, only, given, dry_run, quiet) -> None:
    """Make the tables and figures of a paper, step by step.

    \b
    Steps that are done are passed over, so that the same command goes on after an error. docs/papers says what each
    step gives, and which numbers the paper has.
    Examples:
      layertool recipe pasad2021 --corpus dev-clean --dry-run
      layertool recipe cuervo2024 --corpus eccc --model openai/whisper-tiny.en --only finetune-all --only sizes
      layertool recipe lin2024 --corpus speat --with speech=librispeech -o bias
    """
    about = read(name)
    out = (out or name).rstrip("/") or "/"
    models = list(dict.fromkeys(models)) or about["models"]
    steps = steps_of(about, corpus, models, out, given, only)
    for step in steps:
        _check(step)
    corpora = {"corpus": corpus, **given}
    if dry_run:
        _print(about, steps, out)
        there = {which: folder for which, folder in corpora.items() if Path(folder).is_dir()}
        for problem in lacking(steps, there):
            output.note(f"note: {problem}", quiet)
        return
    if problems := lacking(steps, corpora):
        raise CorpusError(
            f"{'; '.join(problems)}: add it to the corpus ('layertool corpus align' makes phones and words), or choose "
            "other steps with --only"
        )
    _run(name, about, steps, corpus, out, quiet)


def _check(step: Step) -> None:
    """Say before anything runs that a command would not understand its arguments."""
    try:
        parse([word.text for word in step.words])
    except click.ClickException as error:
        raise UsageError(f"step {step.name} cannot run ({error.format_message()}): {step.line}") from error


def _print(about: dict, steps: list[Step], out: str) -> None:
    """Commands to copy; what waits for an input is a comment."""
    click.echo(f"# {about['paper']}")
    for name, given in about["inputs"].items():
        if "default" in given:
            click.echo(f"# --with {_input(about, name)}; if it is not given: {given['default']}")
    for gives, part in _groups(steps):
        click.echo(f"\n# {gives}")
        before = None
        for step in part:
            if step.name != before:  # else the same for another model
                waits = "".join(f"; waits for --with {_input(about, name)}" for name in step.missing)
                click.echo(f"# step {step.name}{waits}")
            click.echo(f"#   {step.line}" if step.missing else step.line)
            before = step.name
    if any(_results(step) for step in steps):
        click.echo(f"\n# All results on one page\n{_report(out)}")


def _input(about: dict, name: str) -> str:
    return f"{name}=... ({about['inputs'][name]['is']})"


def _groups(steps: list[Step]) -> Iterator[tuple[str, list[Step]]]:
    for gives in dict.fromkeys(step.gives for step in steps):
        yield gives, [step for step in steps if step.gives == gives]


def _results(step: Step) -> list[str]:
    return [made for made in step.makes if made.endswith(".csv")]


def _report(out: str) -> str:
    return f"layertool report {shlex.quote(f'{out}/')}*.csv -o {shlex.quote(f'{out}/report.html')}"


def _run(name: str, about: dict, steps: list[Step], corpus: str, out: str, quiet: bool) -> None:
    from layertool.corpora.corpus import Corpus

    record = Record(out, name, Corpus.read(corpus).fingerprint)
    made: list[str] = []  # by this call: what reads it is done again, too
    for place, step in enumerate(steps, 1):
        head = f"[{place}/{len(steps)}] {step.name}"
        if step.missing:
            waits = ", ".join(f"--with {_input(about, missing)}" for missing in step.missing)
            output.note(f"{head}: left out, it waits for {waits}", quiet)
            continue
        if record.has(step) and not step.reads(made):
            output.note(f"{head}: done already", quiet)
            continue
        output.note(f"{head}: {step.line}", quiet)
        record.begin(step)
        _do(step, quiet)
        record.add(step)
        made.extend(step.makes)
    found = sorted({made for step in steps for made in _results(step) if Path(made).exists()})
    click.echo(f"\nResults of {about['paper']}, in {out}:")
    for gives, part in _groups([step for step in steps if not step.missing]):
        click.echo(f"  {gives}: {', '.join(made for step in part for made in step.makes)}")
    if found:
        click.echo(f"\nAll on one page:\n  {_report(out)}")


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
        error.show()
        code = error.exit_code
    if code:
        click.echo(f"The recipe stopped at step {step.name}. What is done is kept: the same command goes on with it, "
                   f"and so does this one alone:\n  {step.line}", err=True)  # fmt: skip
        click.get_current_context().exit(code)
