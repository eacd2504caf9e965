"""Corpora as they are published: LibriSpeech, the Speech Accent Archive, MESS, the ECCC, TIMIT, Buckeye, Spoken STS."""

from __future__ import annotations

import click

from layertool.commands import output
from layertool.commands.making import (
    PATH,
    channel_option,
    failures_option,
    label_options,
    name_option,
    overwrite_option,
    refuse,
    source_argument,
    write,
)
from layertool.commands.options import HELP, output_folder, quiet_option


@click.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@click.option(
    "--alignments", type=PATH, default=None, help="Folder of TextGrids, SPLIT/SPEAKER/CHAPTER/UTTERANCE.TextGrid."
)
@click.option("--split", "splits", multiple=True, help="E.g. dev-clean; may be given again.  [default: all there are]")
@label_options
@name_option
@failures_option
@overwrite_option
@quiet_option
def librispeech(source, out, alignments, splits, rules, name, max_failures, overwrite, quiet) -> None:
    """From LibriSpeech as published, with TextGrid alignments.

    The alignments are those of zenodo record 2619474 or your own.

    \b
    Example:
      layertool corpus librispeech LibriSpeech/ -o dev --split dev-clean --alignments librispeech_alignments/
    """
    from layertool.corpora import librispeech as reader

    refuse(out, overwrite)
    with output.progress_bar(quiet, "TextGrids") as progress:
        made = reader.read(source, alignments, splits, rules, name, progress, max_failures)
    write(made, out, overwrite, quiet)


seed_option = click.option("--seed", type=click.IntRange(min=0), default=None, help="Of everything that is drawn.")


@click.command("speech-accent-archive", context_settings=HELP)
@source_argument
@output_folder("Corpus")
@click.option("--metadata", type=PATH, default=None, help="Table of the speakers.  [default: the one in SOURCE]")
@click.option("--selection", type=click.Choice(["published", "matched", "all"]), default="published", show_default=True,
              help="People of the published SpEAT tests; drawn anew, matched on age and sex; everybody.")  # fmt: skip
@seed_option
@name_option
@failures_option
@overwrite_option
@quiet_option
def speech_accent_archive(source, out, metadata, selection, seed, name, max_failures, overwrite, quiet) -> None:
    """From the Speech Accent Archive: website scrape or Kaggle mirror.

    Groups for SpEAT are columns: age_group (young, old), native (us, korean), gender (female, male).
    What is missing is listed, and groups stay balanced.

    \b
    Example:
      layertool corpus speech-accent-archive archive/ -o accents
    """
    from layertool.corpora import speech_accent_archive as reader

    refuse(out, overwrite)
    write(reader.read(source, metadata, selection, seed or 0, name, max_failures), out, overwrite, quiet)


@click.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@click.option("--ratings", type=PATH, default=None,
              help="'Coded stimuli final.xlsx', or a .csv or .tsv of it.  [default: the one below SOURCE]")  # fmt: skip
@click.option("--selection", type=click.Choice(["rated", "all"]), default="rated", show_default=True,
              help="Only clips of the two groups, or all.")  # fmt: skip
@click.option("--n-per-speaker", type=click.IntRange(min=1), default=10, show_default=True,
              help="Clips of highest and of lowest valence, of each speaker.")  # fmt: skip
@seed_option
@name_option
@failures_option
@overwrite_option
@quiet_option
def mess(source, out, ratings, selection, n_per_speaker, seed, name, max_failures, overwrite, quiet) -> None:
    """From the Morgan Emotional Speech Set.

    The column valence (positive, negative) is for SpEAT. Without the ratings it comes from the emotion in the
    file name, which is not the set of the paper.

    \b
    Example:
      layertool corpus mess MESS/ -o emotions
    """
    from layertool.corpora import mess as reader

    refuse(out, overwrite)
    seed = reader.SEED if seed is None else seed
    write(reader.read(source, ratings, selection, seed, n_per_speaker, name, max_failures), out, overwrite, quiet)


@click.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the splits.")
@name_option
@failures_option
@overwrite_option
@quiet_option
def eccc(source, out, seed, name, max_failures, overwrite, quiet) -> None:
    """From the English Consistent Confusion Corpus.

    Words in noise with what listeners heard (responses, counts, confusion). The columns split and split_by_target
    hold train, dev, test; in the second no target word is in two of them. Rows of the table that contradict
    themselves count for --max-failures too.

    \b
    Example:
      layertool corpus eccc EnglishCCC_v1.2/ -o confusions
    """
    from layertool.corpora import eccc as reader

    refuse(out, overwrite)
    write(reader.read(source, seed, name, max_failures), out, overwrite, quiet)


@click.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@click.option("--split", "splits", multiple=True, help="train or test; may be given again.  [default: both]")
@click.option(
    "--sentences", multiple=True, metavar="SA|SX|SI", help="Type of sentences; may be given again.  [default: all]"
)
@click.option(
    "--phones",
    type=click.Choice(["61", "48", "39"]),
    default="61",
    show_default=True,
    help="Phones of the files, or folded as by Lee & Hon (1989).",
)
@label_options
@name_option
@failures_option
@overwrite_option
@quiet_option
def timit(source, out, splits, sentences, phones, rules, name, max_failures, overwrite, quiet) -> None:
    """From TIMIT as published (LDC93S1), or a copy.

    Phones and words with the times of the .PHN and .WRD files. Everybody reads the two SA sentences, so leave
    them out where training and test data must differ: --sentences SX --sentences SI.

    \b
    Example:
      layertool corpus timit TIMIT/ -o timit --sentences SX --sentences SI --phones 39
    """
    from layertool.corpora import timit as reader

    refuse(out, overwrite)
    with output.progress_bar(quiet, "label files") as progress:
        made = reader.read(source, splits, sentences, phones, rules, name, progress, max_failures)
    write(made, out, overwrite, quiet)


@click.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@click.option(
    "--pause",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Silence, noise or interviewer of this length parts utterances.",
)
@click.option("--whole-files", is_flag=True, help="An utterance is a file of some ten minutes.")
@label_options
@name_option
@failures_option
@overwrite_option
@quiet_option
def buckeye(source, out, pause, whole_files, rules, name, max_failures, overwrite, quiet) -> None:
    """From the Buckeye corpus as published, unpacked.

    An utterance is a stretch of the interviewee's words between pauses; words and phones are those of the
    .words and .phones files.

    \b
    Example:
      layertool corpus buckeye buckeye/ -o buckeye
    """
    from layertool.corpora import buckeye as reader

    refuse(out, overwrite)
    with output.progress_bar(quiet, "label files") as progress:
        made = reader.read(source, pause, whole_files, rules, name, progress, max_failures)
    write(made, out, overwrite, quiet)


@click.command("spoken-sts", context_settings=HELP)
@click.argument("source")
@output_folder("Corpus")
@click.option("--split", default=None, help="Which split of the dataset.  [default: test, or the only one]")
@click.option("--config", default=None, help="Which configuration of the dataset.")
@channel_option
@name_option
@failures_option
@overwrite_option
@quiet_option
def spoken_sts(source, out, split, config, channel, name, max_failures, overwrite, quiet) -> None:
    """From Spoken STS: sentence pairs with human similarity scores.

    SOURCE is a copy of the Hugging Face dataset juice500/spoken_sts (a folder written by save_to_disk, a parquet
    file or a folder of them) or its hub id. The columns pair, side (a, b), speaker and similarity say which
    utterances are compared. Pairs without a score are left out and counted.

    \b
    Example:
      layertool corpus spoken-sts juice500/spoken_sts -o sts
    """
    from layertool.corpora import spoken_sts as reader

    refuse(out, overwrite)
    with output.progress_bar(quiet, "utterances") as progress:
        made = reader.read(source, out, split, config, name, channel, max_failures, progress)
    write(made, out, overwrite, quiet)
