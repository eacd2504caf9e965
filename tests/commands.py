"""Running a command as a person does."""

from __future__ import annotations

import re
import traceback

import pytest
from click.testing import CliRunner

from layertool.cli import cli
from layertool.errors import LayertoolError


def run(*arguments):
    """The result of ``layertool ARGUMENTS``; a traceback fails the test."""
    result = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="layertool")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        pytest.fail("a traceback for the user:\n" + "".join(traceback.format_exception(result.exception)))
    return result


def succeeds(*arguments):
    """The same, with exit code 0."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments) -> str:
    """The sentence of a command that is refused: one line on stderr, nothing on stdout."""
    result = run(*arguments)
    assert result.exit_code in (1, 2), result.output
    assert result.stdout == ""
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    return line


def says(error: type[Exception], message: str):
    """Context in which an error of this class must come, with this in its sentence."""
    return pytest.raises(error, match=re.escape(message))


class Seen(LayertoolError):
    pass


def reaches(monkeypatch, module, name: str, *arguments) -> tuple:
    """What a command gives to the function ``module.name``, its options by name last."""
    calls = []

    def stand_in(*given, **options):
        calls.append((*given, options))
        raise Seen("enough")

    monkeypatch.setattr(module, name, stand_in)
    assert "enough" in refused(*arguments)
    return calls[0]
