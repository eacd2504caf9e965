"""Write docs/reference.md: every command and option, from the commands themselves.

python docs/make_reference.py
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from layertool.cli import cli
from layertool.layerwise import ANALYSES

PAGE = Path(__file__).parent / "reference.md"
INTRODUCTION = """# Every command and option

Written by `python docs/make_reference.py` from the commands themselves, so it says what `-h` says: change the help, not this page.
Capitals stand for what you type; an option that is *repeatable* may be given again. Every command has `-h`, `--help`.

`layertool --version` prints the versions that decide numbers. What the options mean for the numbers is told on the pages of the
analyses: [metrics.md](metrics.md) is the way in.
"""

# What other programs may call; the names are fixed. Fields of what comes back are named where they are not in the signature.
PUBLIC = {
    "layertool": (
        "extract",
        "Corpus",
        "Corpus.read",
        "Corpus.subset",
        "Model",
        "Model.open",
        "FeatureStore",
        "FeatureStore.layers",
        "FeatureStore.read",
        "FeatureStore.rows",
        "Results",
        "Results.read",
        "Results.write",
        "Results.plot",
        "Results.report",
        "compare",
        *(words for words in ANALYSES if " " not in words),
    ),
    "layertool.probe": tuple(words.removeprefix("probe ") for words in ANALYSES if words.startswith("probe ")),
    "layertool.lexical": tuple(words.removeprefix("lexical ") for words in ANALYSES if words.startswith("lexical ")),
    "layertool.analysis.cca": ("fit", "Fit", "Fit.score", "Score"),
    "layertool.analysis.cka": ("linear",),
    "layertool.analysis.mi": ("score", "Score"),
    "layertool.analysis.speat": ("association_test", "Test"),
    "layertool.analysis.lexical": (
        "log_likelihood",
        "WhisperScorer",
        "WhisperScorer.log_probs",
        "WhisperScorer.top_words",
    ),
    "layertool.models.melhubert": ("load",),
    "layertool.models.fairseq": ("load",),
    "layertool.training.compression": ("prune_heads", "prune_rows", "prune_weights"),
    "layertool.extractors.acoustic": ("features",),
}
FROM_PYTHON = """## From Python

These names are fixed. `layertool.__version__` is the version; a corpus has the tables `corpus.utterances` and `corpus.segments`.
Errors are classes of `layertool.errors`, all of them `LayertoolError`.
"""


def commands(command: click.Command, name: str = "layertool") -> Iterator[tuple[str, click.Command]]:
    """(full name, command) of every group and command below ``command``, in the order of the help."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield f"{name} {child}", found
                yield from commands(found, f"{name} {child}")


def render() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for name, command in commands(cli):
        parts.append(_section(name, command))
    parts += [FROM_PYTHON, *(_interface(module, names) for module, names in PUBLIC.items())]
    return "\n".join(parts)


def _section(name: str, command: click.Command) -> str:
    # with its own settings: click keeps the help option that the first context of a command makes
    context = click.Context(command, info_name=name, **command.context_settings)
    said, examples = _help(command)
    lines = [f"{'##' if name.count(' ') == 1 else '###'} {name}", "", said, ""]
    if isinstance(command, click.Group):
        lines += [f"Commands: {', '.join(f'`{child}`' for child in command.list_commands(context))}.", ""]
    else:
        lines += [f"    {name} {' '.join(command.collect_usage_pieces(context))}", ""]
    if examples:
        lines += [*(f"    {line}" for line in examples), ""]
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    if options:
        lines += ["| option | |", "|---|---|"]
        lines += [_option(one, context) for one in options]
        lines.append("")
    return "\n".join(lines)


def _interface(module: str, names: tuple[str, ...]) -> str:
    """What a module gives to other programs: signatures, and the first paragraph of what is said of each."""
    lines = [f"### {module}", ""]
    for name in names:
        thing = importlib.import_module(module)
        for part in name.split("."):
            thing = getattr(thing, part)
        told = inspect.getdoc(thing) or ""
        is_data = isinstance(thing, property) or not callable(thing) or inspect.isclass(thing)
        lines.append(f"* `{name}`: {_first(told)}" if is_data else f"* `{name}({_arguments(thing)})`: {_first(told)}")
        if inspect.isclass(thing) and hasattr(thing, "__dataclass_fields__"):
            lines[-1] += f" Fields: {', '.join(f'`{field}`' for field in thing.__dataclass_fields__)}."
    return "\n".join([*lines, ""])


def _arguments(function) -> str:
    signature = inspect.signature(function)
    return ", ".join(
        one.name if one.default is inspect.Parameter.empty else f"{one.name}={one.default!r}"
        for one in signature.parameters.values()
        if one.name not in ("self", "cls")
    )


def _first(text: str) -> str:
    return re.sub(r"\s+", " ", text.split("\n\n")[0]).strip()


def _help(command: click.Command) -> tuple[str, list[str]]:
    """What a command's help says, as one paragraph, and its lines of examples."""
    text = inspect.cleandoc(command.help or "").replace("\b", "")
    said, examples = [], []
    for line in text.splitlines():
        bare = line.strip()
        if examples and examples[-1].endswith("\\"):  # an example that goes on
            examples[-1] = f"{examples[-1][:-1].rstrip()} {bare}"
        elif bare.startswith("layertool "):
            examples.append(bare)
        elif bare not in ("Example:", "Examples:"):
            said.append(bare)
    return re.sub(r"\s+", " ", " ".join(said)).strip(), examples


def _option(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    record = option.get_help_record(context)
    said = "" if record is None else re.sub(r"\s+", " ", record[1]).strip()
    value = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    repeatable = " *Repeatable.*" if option.multiple and "epeatable" not in said else ""
    return f"| {names}{_plain(value)} | {_plain(said)}{repeatable} |"


def _plain(text: str) -> str:
    """Text in a cell of a table: a bar would end the cell."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
