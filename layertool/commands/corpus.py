"""corpus: make a corpus folder, align it, look at it."""

from __future__ import annotations

import click

from layertool.commands import output, published
from layertool.commands.making import (
    PATH,
    channel_option,
    facts,
    failures_option,
    label_options,
    metadata_options,
    name_option,
    overwrite_option,
    refuse,
    show,
    source_argument,
    write,
)
from layertool.commands.options import HELP, json_option, output_folder, quiet_option


@click.group(context_settings=HELP)
def corpus() -> None:
    """Make a corpus folder from audio and labels, align it, look at it.

    \b
    A corpus is a folder with two tables: utterances (id, audio file, and any metadata: speaker, gender,
    text, ...) and segments (utterance, tier, start, end, label). The audio stays where it is.
    """


for command in (
    published.librispeech,
    published.speech_accent_archive,
    published.mess,
    published.eccc,
    published.timit,
    published.buckeye,
    published.spoken_sts,
):
    corpus.add_command(command)


def _tiers(_ctx, _param, values: tuple[str, ...]) -> dict[str, str] | None:
    if not values:
        return None
    tiers = {}
    for value in values:
        tier, equals, name = value.partition("=")
        if not equals or tier not in ("phone", "word"):
            raise click.BadParameter(f"'{value}' is not word=NAME or phone=NAME")
        tiers[tier] = name
    return tiers


@corpus.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@click.option("--textgrids", type=PATH, default=None, help="Folder of TextGrids.  [default: beside the audio]")
@metadata_options
@click.option(
    "--id-column", default=None, help="Its column that names the file.  [default: utterance, utt, id, path, ...]"
)
@click.option(
    "--tier",
    "tiers",
    multiple=True,
    callback=_tiers,
    metavar="TIER=NAME",
    help="Name of a tier in the TextGrids, e.g. phone=MAU; word='* : words' where each speaker has one; or a suffix of "
    "label files, e.g. phone=.phn.  [default: word=words, phone=phones]",
)
@label_options
@channel_option
@name_option
@failures_option
@overwrite_option
@quiet_option
def folder(source, out, tiers, overwrite, quiet, **asked) -> None:
    """From a folder of audio, TextGrids, transcripts, metadata.

    TextGrids, label files (.phn, .wrd, .lab, .words, .phones, .ctm, .mlf) and transcripts (.lab, .txt) are found
    beside the audio; all may be absent. Speakers with tiers of their own become an utterance each.

    A table of --metadata has one row a file, and its rows decide what is in the corpus; with --by it has one row a
    speaker, or whatever else KEY names.

    \b
    Examples:
      layertool corpus folder recordings/ -o corpus --metadata files.csv
      layertool corpus folder wavs/ -o corpus --tier phone=MAU --non-speech AP,xxx
      layertool corpus folder AudioWAV/ -o corpus --metadata demographics.csv --by '(?P<ActorID>\\d+)_.*'
      layertool corpus folder interviews/ -o corpus --tier word='* : words'
    """
    from layertool.corpora import folder as reader

    refuse(out, overwrite)
    with output.progress_bar(quiet, "TextGrids") as progress:
        made = reader.read(source, tiers=tiers or None, progress=progress, **asked)
    write(made, out, overwrite, quiet)


@corpus.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@click.option(
    "--segments", type=PATH, default=None, help="Table with utterance, tier, start, end, label; or a .ctm or .mlf file."
)
@click.option(
    "--audio-root", type=PATH, default=None, help="Folder that audio paths start from.  [default: that of the table]"
)
@metadata_options
@label_options
@channel_option
@name_option
@failures_option
@overwrite_option
@quiet_option
def csv(source, out, overwrite, quiet, **asked) -> None:
    """From a table with one row per utterance.

    It needs the column audio (or path, file, filename); utterance, start, end, channel and metadata as you like.

    \b
    Examples:
      layertool corpus csv utterances.csv -o corpus --segments words.csv
      layertool corpus csv train.tsv -o corpus --audio-root clips --metadata speakers.csv --by client_id
    """
    from layertool.corpora import tables

    refuse(out, overwrite)
    write(tables.read_csv(source, **asked), out, overwrite, quiet)


@corpus.command(context_settings=HELP)
@click.argument("source")
@output_folder("Corpus")
@click.option("--split", default=None, help="Which split of the dataset.")
@click.option("--config", default=None, help="Which configuration of the dataset.")
@click.option("--audio-column", default=None, help="Column with the audio.  [default: the only one]")
@click.option("--id-column", default=None, help="Column with the ids.  [default: id, utterance, or the row's number]")
@click.option("--text-column", default=None, help="Column with the transcript, renamed to text.")
@channel_option
@name_option
@failures_option
@overwrite_option
@quiet_option
def huggingface(
    source, out, split, config, audio_column, id_column, text_column, channel, name, max_failures, overwrite, quiet
) -> None:
    """From a Hugging Face dataset with an audio column.

    SOURCE is a local folder or a hub id (ID@REVISION).

    \b
    Example:
      layertool corpus huggingface juice500/spoken_sts -o sts --split test --audio-column audio_a
    """
    from layertool.corpora import huggingface as reader

    refuse(out, overwrite)
    with output.progress_bar(quiet, "utterances") as progress:
        made = reader.read(
            source, out, split, config, audio_column, id_column, text_column, name, channel, progress, max_failures
        )
    write(made, out, overwrite, quiet)


@corpus.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@label_options
@channel_option
@name_option
@failures_option
@overwrite_option
@quiet_option
def lhotse(source, out, rules, channel, name, max_failures, overwrite, quiet) -> None:
    """From a Lhotse cuts manifest (.jsonl, .jsonl.gz).

    \b
    Example:
      layertool corpus lhotse cuts.jsonl.gz -o corpus
    """
    from layertool.corpora import lhotse as reader

    refuse(out, overwrite)
    write(reader.read(source, channel, rules, name, max_failures), out, overwrite, quiet)


@corpus.command(context_settings=HELP)
@click.argument("corpus_folders", metavar="CORPUS...", type=PATH, nargs=-1, required=True)
@output_folder("Corpus")
@name_option
@overwrite_option
@quiet_option
def join(corpus_folders, out, name, overwrite, quiet) -> None:
    """Several corpora as one, which one extraction serves.

    The column part names the corpus of each utterance; metadata that a corpus lacks is empty.

    \b
    Example:
      layertool corpus join accents emotions -o speat
    """
    from layertool.corpora.corpus import Corpus
    from layertool.corpora.join import join as join_corpora

    refuse(out, overwrite, corpus_folders)
    write(join_corpora([Corpus.read(folder) for folder in corpus_folders], name), out, overwrite, quiet)


@corpus.command(context_settings=HELP)
@click.argument("corpus_folder", metavar="CORPUS", type=PATH)
@click.option(
    "-o",
    "--output",
    "out",
    type=PATH,
    default=None,
    metavar="FOLDER",
    help="Corpus to write.  [default: CORPUS itself]",
)
@click.option(
    "--dictionary", type=PATH, default=None, help="More pronunciations, lines as in CMUdict: WORD  P H OW N Z."
)
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
def align(corpus_folder, out, dictionary, max_failures, jobs, overwrite, quiet) -> None:
    """Make word and phone segments by forced alignment.

    \b
    Uses pocketsphinx and its US English models. The corpus needs a column text.
    Example:
      layertool corpus align corpus
    """
    from layertool.corpora import align as aligner
    from layertool.corpora.corpus import Corpus
    from layertool.errors import CorpusError

    read = Corpus.read(corpus_folder)
    if out is not None:
        refuse(out, overwrite)
    elif {"phone", "word"} & set(read.tiers) and not overwrite:
        raise CorpusError(
            f"{corpus_folder} has {' and '.join(read.tiers)} segments already: write to another corpus with -o, "
            "or replace them with --overwrite"
        )
    with output.progress_bar(quiet, "utterances") as progress:
        made = aligner.align(read, dictionary, max_failures, jobs, progress)
    write(made, out or corpus_folder, True, quiet)


@corpus.command(context_settings=HELP)
@click.argument("corpus_folder", metavar="CORPUS", type=PATH)
@click.option("--check", is_flag=True, help="Compute the fingerprint of its tables anew, and compare it.")
@json_option
def info(corpus_folder, check, as_json) -> None:
    """Say what is in a corpus.

    \b
    Examples:
      layertool corpus info corpus
      layertool corpus info corpus --check
    """
    from layertool.corpora.corpus import Corpus

    read = Corpus.read(corpus_folder, in_full=check)
    if as_json:
        output.as_json(facts(read))
    else:
        show(read, corpus_folder)
