"""Nothing that a person may type or call is missing from the docs, and no page says another name than the code writes."""

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import layertool
from layertool.analysis import protocols
from layertool.cli import cli
from layertool.layerwise import ANALYSES, declared
from layertool.result_rows import PARAMETERS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {str(page.relative_to(DOCS)): page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")}
TEXT = "\n".join(PAGES.values())

_spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
make_reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_reference)
COMMANDS = dict(make_reference.commands(cli))
# What the design fixes for other programs: (where it is, how the docs name it).
FIXED = [(module, name) for module, names in make_reference.PUBLIC.items() for name in names]
FIELDS = {
    ("layertool.analysis.cca", "Fit"): ("correlations",),
    ("layertool.analysis.cca", "Score"): ("correlations", "mean", "pwcca_x", "pwcca_y", "pwcca"),
    ("layertool.analysis.mi", "Score"): ("nats", "normalized", "adjusted"),
    ("layertool.analysis.speat", "Test"): ("d", "p", "exact"),
}


def reference_of(heading: str) -> str:
    """The section of the reference under a heading, without those below it."""
    page = PAGES["reference.md"]
    start = next(k for level in ("##", "###") if (k := page.find(f"{level} {heading}\n")) >= 0)
    return page[start:].split("\n## ", 1)[0].split("\n### ", 1)[0]


def test_the_reference_is_up_to_date():
    assert PAGES["reference.md"] == make_reference.render(), "type python docs/make_reference.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_docs(name):
    section = reference_of(name)
    for option in COMMANDS[name].params:
        if isinstance(option, click.Option):
            for spelling in (*option.opts, *option.secondary_opts):
                assert f"`{spelling}`" in section, f"{name} {spelling}"


def test_every_command_is_shown_outside_the_reference():
    shown = "\n".join(text for name, text in PAGES.items() if name != "reference.md")
    shown += (DOCS.parent / "README.md").read_text(encoding="utf-8")
    missing = [name for name, one in COMMANDS.items() if not isinstance(one, click.Group) and name not in shown]
    assert not missing


def test_a_missing_option_would_be_noticed(monkeypatch):
    command = COMMANDS["layertool info"]
    monkeypatch.setattr(command, "params", [*command.params, click.Option(["--brand-new"], help="New.")])
    assert "`--brand-new`" in make_reference.render()
    assert PAGES["reference.md"] != make_reference.render()


@pytest.mark.parametrize("name", layertool.__all__)
def test_every_public_name_is_in_the_docs(name):
    assert f"layertool.{name}" in TEXT


@pytest.mark.parametrize(("module", "name"), FIXED)
def test_every_fixed_name_is_there_and_in_the_docs(module, name):
    thing = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    assert inspect.getdoc(thing), "no documentation"
    assert f"* `{name}" in reference_of(module)


@pytest.mark.parametrize(("module", "kind"), FIELDS)
def test_every_fixed_field_is_there_and_in_the_docs(module, kind):
    there = getattr(importlib.import_module(module), kind).__dataclass_fields__
    for name in FIELDS[module, kind]:
        assert name in there
        assert f"`{name}`" in reference_of(module)


METRICS = [metric.name for words in ANALYSES for metric in declared(words).metrics]


@pytest.mark.parametrize("name", dict.fromkeys([*METRICS, PARAMETERS]))
def test_every_metric_is_in_the_tables(name):
    assert f"`{name}`" in PAGES["metrics.md"]


@pytest.mark.parametrize("variant", protocols.NAMES)
def test_every_choice_of_cca_is_in_the_table_of_metrics(variant):
    assert f"| `{variant}` |" in PAGES["metrics.md"]


def test_every_page_is_linked_from_the_readme():
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    missing = [name for name in PAGES if "/" not in name and f"docs/{name}" not in readme]
    assert not missing


def run(*words: str, **variables: str) -> subprocess.CompletedProcess:
    """layertool as a person's shell runs it."""
    code = "import sys; sys.argv[0] = 'layertool'; from layertool.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shells_script(shell):
    done = run("completion", shell)
    assert done.returncode == 0, done.stderr
    assert "_LAYERTOOL_COMPLETE" in done.stdout
    assert f"{shell}_complete" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ext", ["extract"]),
        ("extract --nsh", ["--nshard"]),
        ("probe seg", ["segmentation"]),
        ("completion z", ["zsh"]),
        ("doc", ["doctor"]),
    ],
)
def test_commands_and_options_are_completed(typed, offered):
    words = ["layertool", *typed.split()]
    asked = {"_LAYERTOOL_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = run(**asked)
    assert [line.split(",")[1] for line in done.stdout.splitlines()] == offered, done.stderr


def test_bash_takes_the_script():
    done = run("completion", "bash")
    checked = subprocess.run(["bash", "-n"], input=done.stdout, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
