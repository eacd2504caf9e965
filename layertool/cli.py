"""The front door: the click root group; commands are imported only when called."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import signal
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from layertool.commands import output
from layertool.commands.options import HELP, Commands, renamed
from layertool.errors import LayertoolError, LayertoolWarning, telling_once
from layertool.layerwise import ANALYSES
from layertool.spelling import is_text

COMMANDS = {
    "corpus": "layertool.commands.corpus:corpus",
    "extract": "layertool.commands.extract:extract",
    "convert": "layertool.commands.convert:convert",
    "info": "layertool.commands.store:info",
    "verify": "layertool.commands.store:verify",
    "export": "layertool.commands.store:export",
    "store": "layertool.commands.store:store",
    "cca": "",
    "cka": "",
    "mi": "",
    "speat": "",
    "probe": "layertool.commands.probe:probe",
    "lexical": "layertool.commands.lexical:lexical",
    "pretrain": "layertool.commands.training:pretrain",
    "compress": "layertool.commands.training:compress",
    "finetune": "layertool.commands.training:finetune",
    "compare": "layertool.commands.compare:compare",
    "report": "layertool.commands.report:report",
    "recipe": "layertool.commands.recipe:recipe",
    "demo": "layertool.commands.demo:demo",
    "doctor": "layertool.commands.doctor:doctor",
    "completion": "layertool.commands.completion:completion",
}
# The first lines of the commands' help, here so that `layertool --help` imports none of them.
SUMMARIES = {
    "corpus": "Make a corpus folder from audio and labels, align it, look at it.",
    "extract": "Run a model over a corpus once and write its layers into a store.",
    "convert": "Write a fairseq or MelHuBERT checkpoint as safetensors and a configuration.",
    "info": "Say what is in a store.",
    "verify": "Check that a store is whole and sound.",
    "export": "Write a store as .npy, .npz, or the files of fastabx.",
    "store": "Finish a store that many processes have written.",
    "cca": "Correlate every layer with acoustic frames, another layer, labels, or embeddings (CCA).",
    "cka": "Compare every layer with every layer, of one store or of two (CKA, Procrustes, RSA).",
    "mi": "Mutual information of k-means clusters of every layer with phones, words, or other labels.",
    "probe": "What can be read from a layer without training: words, boundaries, meanings, labels.",
    "speat": "Social bias of every layer: is one group nearer to pleasant speech than another (SpEAT)?",
    "lexical": "Does Whisper mishear words as listeners do? Score, rank, fine-tune, and read its layers.",
    "pretrain": "Pre-train MelHuBERT, HuBERT or wav2vec 2.0 on a corpus; every step saved is a MODEL.",
    "compress": "Make a model smaller, step by step: prune heads, rows or weights, or teach a student.",
    "finetune": "Fine-tune a model, or check what its frozen layers are good for: characters or phones with CTC.",
    "compare": "Put result files or stores side by side: curves, heatmaps, or a checkpoint series.",
    "report": "Make one HTML page of result files and training runs: figures, tables, methods, provenance.",
    "recipe": "Make the tables and figures of a paper, step by step.",
    "demo": "Make a small spoken corpus, extract it, and show what the layers know.",
    "doctor": "Say what is installed, which device is used, and which extras are missing.",
    "completion": "Print the script that lets a shell complete commands and options.",
}


class Sentence(click.ClickException):
    """A LayertoolError as click shows it: one sentence and the right exit code."""

    def __init__(self, error: LayertoolError):
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]


class Formatter(click.HelpFormatter):
    """Help that fits the terminal: where lines stand as they are written, prose is filled, and examples go on with a
    backslash."""

    def write_text(self, text: str) -> None:
        room, as_written = self.width - self.current_indent, False
        lines: list[str] = []
        for line in inspect.cleandoc(text).splitlines():
            as_written = line == "\b" or (as_written and bool(line))
            is_prose = as_written and line[:1] not in ("", " ", "\b") and not line.endswith(":")
            if is_prose and lines and lines[-1][:1] not in ("", " ", "\b") and not lines[-1].endswith(":"):
                line = f"{lines.pop()} {line}"
            lines.append(line)
        super().write_text("\n".join(self._folded(line, room) for line in lines))

    @staticmethod
    def _folded(line: str, room: int) -> str:
        if len(line) <= room:
            return line
        is_example = line.startswith("  ")
        width, further = (room - 2, "      ") if is_example else (room, "")
        parts = textwrap.wrap(line, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
        return (" \\\n" if is_example else "\n").join(parts)


click.Context.formatter_class = Formatter


@contextmanager
def telling() -> Iterator[None]:
    """Print what ``layertool.errors.tell`` says on stderr: each sentence once, without the place in the code."""
    with telling_once(), warnings.catch_warnings():
        warnings.simplefilter("always", LayertoolWarning)

        def show(message, category, filename, lineno, file=None, line=None) -> None:
            if not issubclass(category, LayertoolWarning):
                output.echo(*warnings.formatwarning(message, category, filename, lineno, line).splitlines(), err=True)
            else:
                running = click.get_current_context(silent=True)
                if running is None or not running.params.get("quiet"):
                    output.note(f"note: {message}")

        warnings.showwarning = show
        yield


class Root(Commands):
    """Loads a command's module when the command is called; turns errors into sentences and exit codes."""

    def main(self, args=None, prog_name=None, complete_var=None, standalone_mode=True, **extra) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, False, **extra)
        except click.ClickException as error:
            code = output.failure(renamed(error) if isinstance(error, click.NoSuchOption) else error)
        except click.Abort:
            output.echo("Stopped.", err=True)
            code = 1
        sys.exit(code)

    def make_context(self, info_name, args, parent=None, **extra):
        for word in args:
            if not is_text(word):
                raise click.UsageError(f"'{word}' is not text in UTF-8: give the file or folder another name")
        return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in ANALYSES:
            from layertool.commands.analyses import named

            return named(cmd_name)
        module, attribute = COMMANDS[cmd_name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))

    def invoke(self, ctx: click.Context):
        try:
            with telling():
                return super().invoke(ctx)
        except LayertoolError as error:
            raise Sentence(error) from error
        except KeyboardInterrupt as error:
            output.echo(
                "Stopped. Stores and runs that were begun are kept: the same command goes on with them.", err=True
            )
            ctx.exit(128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT))
        except OSError as error:
            if error.filename is None or isinstance(error, BrokenPipeError):
                raise
            raise Sentence(
                LayertoolError(f"{error.filename}: {error.strerror}; check the path and its permissions")
            ) from error


def _versions(context: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        from layertool.doctor import versions

        output.echo(*(f"{name} {number}" for name, number in versions().items()))
        context.exit()


@click.group(
    cls=Root,
    context_settings=HELP,
    epilog="Start with 'layertool demo', then 'layertool corpus -h' and 'layertool extract -h'.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_versions,
    help="Print the versions of layertool and of what decides its numbers.",
)
def cli() -> None:
    """What does each layer of a speech model know?"""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system sends it before it kills: everything is tidied up as after Ctrl-C."""


def _terminate(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one does not disturb the tidying up
    raise Terminated


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks
    # The hub library and tokenizers chatter on stderr, which belongs to progress and errors.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Arrow's own allocator sets a gigabyte aside, which counts where memory is limited, and gives little back: for
    # tables, the system's will do.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    sys.exit(cli())


if __name__ == "__main__":
    main()
