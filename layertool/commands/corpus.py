"""corpus: make a corpus folder, align it, take a part of it, look at it."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.corpus_output import PATH, show, write
from layertool.commands.declared import click_option
from layertool.commands.options import HELP, Commands, json_option, output_folder, quiet_option, where_option
from layertool.corpora.readers import COMMON, READERS, Reader, make
from layertool.declared import Option

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace a corpus that is there already.")
corpus_argument = click.argument("folder", metavar="CORPUS", type=PATH)


@click.group(cls=Commands, context_settings=HELP)
def corpus() -> None:
    """Make a corpus folder from audio and labels, align it, look at it.

    \b
    A corpus is a folder with two tables: utterances (id, audio file, and any metadata: speaker, gender,
    text, ...) and segments (utterance, tier, start, end, label). The audio stays where it is.
    """


def _declared(*options: Option):
    """Decorator: declared options."""

    def decorate(command):
        command.__dict__.setdefault("__click_params__", []).extend(map(click_option, reversed(options)))
        return command

    return decorate


def _reading(layout: str, reader: Reader) -> click.Command:
    """The command of a reader."""

    def run(source: str, out: Path, overwrite: bool, quiet: bool, **asked) -> None:
        write(
            lambda progress: make(layout, source, out, progress, **asked), out, overwrite, quiet, counted=reader.counted
        )

    options = (output_folder("Corpus"), _declared(*reader.all_options), overwrite_option, quiet_option)
    for add in reversed((click.argument("source"), *options)):
        run = add(run)
    return click.command(layout, help=reader.help, context_settings=HELP)(run)


for _layout, _reader in READERS.items():
    corpus.add_command(_reading(_layout, _reader))


@corpus.command(context_settings=HELP)
@click.argument("folders", metavar="CORPUS...", type=PATH, nargs=-1, required=True)
@output_folder("Corpus")
@_declared(COMMON[0])
@overwrite_option
@quiet_option
def join(folders, out, name, overwrite, quiet) -> None:
    """Several corpora as one, which one extraction serves.

    The column part names the corpus of each utterance; metadata that a corpus lacks is empty.

    \b
    Example:
      layertool corpus join accents emotions -o speat
    """
    from layertool.corpora.corpus import Corpus
    from layertool.corpora.join import join as join_corpora

    write(lambda _: join_corpora([Corpus.read(one) for one in folders], name), out, overwrite, quiet, folders)


@corpus.command(context_settings=HELP)
@corpus_argument
@output_folder("Corpus")
@where_option
@click.option("--first", type=click.IntRange(min=1), default=None, metavar="N", help="The first N utterances of these.")
@click.option("--sample", type=click.IntRange(min=1), default=None, metavar="N", help="Draw N utterances of these.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of --sample.")
@_declared(COMMON[0])
@overwrite_option
@quiet_option
def subset(folder, out, where, first, sample, seed, name, overwrite, quiet) -> None:
    """Some utterances of a corpus, with their segments.

    \b
    Examples:
      layertool corpus subset librispeech -o try --first 20
      layertool corpus subset librispeech -o women --where gender=female --sample 500
    """
    from layertool.corpora.corpus import Corpus

    write(lambda _: Corpus.read(folder).subset(where, first, sample, seed, name), out, overwrite, quiet, [folder])


@corpus.command(context_settings=HELP)
@corpus_argument
@click.option("-o", "--output", "out", type=PATH, metavar="FOLDER", help="Corpus to write.  [default: CORPUS itself]")
@click.option("--dictionary", type=PATH, help="More pronunciations, lines as in CMUdict: WORD  P H OW N Z.")
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How many utterances may fail to align.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--overwrite", is_flag=True, help="Replace phone and word segments, or a corpus, that are there already.")
@quiet_option
def align(folder, out, dictionary, max_failures, jobs, overwrite, quiet) -> None:
    """Make word and phone segments by forced alignment.

    \b
    Uses pocketsphinx and its US English models. The corpus needs a column text.
    Example:
      layertool corpus align corpus
    """
    from layertool.corpora import align as aligner
    from layertool.corpora.corpus import Corpus

    read = Corpus.read(folder)
    replacing = overwrite or out is not None
    write(
        lambda progress: aligner.align(read, dictionary, max_failures, jobs, progress, replacing),
        out or folder,
        overwrite or out is None,
        quiet,
        counted="utterances",
    )


@corpus.command(context_settings=HELP)
@corpus_argument
@click.option("--check", is_flag=True, help="Compute the fingerprint of its tables anew, and compare it.")
@json_option
def info(folder, check, as_json) -> None:
    """Say what is in a corpus.

    \b
    Examples:
      layertool corpus info corpus
      layertool corpus info corpus --check
    """
    from layertool.corpora.corpus import Corpus

    read = Corpus.read(folder, in_full=check)
    if as_json:
        output.as_json(read.facts())
    else:
        show(read, folder)
