"""Running a command as a person does."""

from __future__ import annotations

import traceback

import pytest
from click.testing import CliRunner

from layertool.cli import cli


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
