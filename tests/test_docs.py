"""The README and the docs say what there is, and what they say works."""

import re
import shlex
from pathlib import Path

import click
import pytest

from layertool.cli import COMMANDS, SUMMARIES, cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def commands(command: click.Command, name: str = "layertool"):
    """(full name, command) of every command that does something."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            yield from commands(command.get_command(context, child), f"{name} {child}")
    else:
        yield name, command


ALL = dict(commands(cli))


@pytest.mark.parametrize("name", ALL)
def test_every_command_is_in_the_docs(name):
    assert name in TEXT


def test_every_option_of_extract_is_in_the_docs():
    options = {
        o for p in ALL["layertool extract"].params if isinstance(p, click.Option) for o in p.opts if o.startswith("--")
    }
    missing = {o for o in options if o not in TEXT} - {"--output", "--quiet", "--help"}
    assert not missing


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_an_example(name):
    assert f"{name} " in (ALL[name].help or ""), "the help shows no example"


def test_summaries_are_the_commands_own_first_lines():
    context = click.Context(cli)
    for name in COMMANDS:
        assert cli.get_command(context, name).help.split("\n\n")[0].strip().startswith(SUMMARIES[name].rstrip("."))


def shown_commands() -> list[str]:
    lines = [line.split("#")[0].strip() for line in TEXT.splitlines()]
    inline = re.findall(r"`(layertool [^`]+)`", TEXT)
    return sorted({*(line for line in lines if line.startswith("layertool ")), *(c for c in inline if "…" not in c)})


@pytest.mark.parametrize("line", shown_commands())
def test_commands_in_the_docs_parse(line):
    """Every command line in the docs names commands and options that exist."""
    words = shlex.split(line)
    name = next((n for n in sorted(ALL, key=len, reverse=True) if words[: len(n.split())] == n.split()), None)
    if name is None:
        pytest.skip("names a group, not a command")
    options = {o for p in ALL[name].params for o in (*p.opts, *getattr(p, "secondary_opts", []))} | {"-h", "--help"}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in options, f"{name} has no {word}"
