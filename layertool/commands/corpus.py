"""corpus: make a corpus folder, align it, look at it."""

from __future__ import annotations

from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import HELP, json_option, output_folder, quiet_option

_PATH = click.Path(path_type=Path)
source_argument = click.argument("source", type=_PATH)
name_option = click.option("--name", default=None, help="Name of the corpus in results.  [default: from the source]")
channel_option = click.option(
    "--channel", default=None, metavar="N|mix|sum", help="Which channel of files that have several; mix is their mean."
)
raw_option = click.option(
    "--raw-labels", is_flag=True, help="Keep labels as they are.  [default: AH0 -> ah, sil -> SIL; spn, sp left out]"
)
failures_option = click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Leave out up to this many files with unusable audio, and list them.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace a corpus that is there already.")


@click.group(context_settings=HELP)
def corpus() -> None:
    """Make a corpus folder from audio and labels, align it, look at it.

    \b
    A corpus is a folder with two tables: utterances (id, audio file, and any metadata: speaker, gender,
    text, ...) and segments (utterance, tier, start, end, label). The audio stays where it is.
    """


def _write(made, out: Path, overwrite: bool, quiet: bool) -> None:
    _refuse(out, overwrite)
    made.write(out)
    if not quiet:
        _show(made, out)


def _refuse(out: Path, overwrite: bool) -> None:
    from layertool.errors import CorpusError

    if (out / "utterances.parquet").exists() and not overwrite:
        raise CorpusError(f"{out} holds a corpus already: choose another -o, or replace it with --overwrite")


def _rule(raw: bool):
    from layertool.corpora import labels

    return labels.raw if raw else labels.normalise


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
@click.option("--textgrids", type=_PATH, default=None, help="Folder of TextGrids.  [default: beside the audio]")
@click.option("--metadata", type=_PATH, default=None, help="Table (.csv, .tsv, .parquet) with one row per file.")
@click.option(
    "--id-column", default=None, help="Its column that names the file.  [default: utterance, utt, id, file, ...]"
)
@click.option("--tier", "tiers", multiple=True, callback=_tiers, metavar="TIER=NAME",
              help="Name of a tier in the TextGrids, e.g. phone=MAU.  [default: word=words, phone=phones]")  # fmt: skip
@raw_option
@channel_option
@name_option
@failures_option
@overwrite_option
@quiet_option
def folder(
    source, out, textgrids, metadata, id_column, tiers, raw_labels, channel, name, max_failures, overwrite, quiet
) -> None:
    """From a folder of audio, TextGrids, transcripts, metadata.

    TextGrids and transcripts (.lab, .txt) are found beside the audio; both may be absent.

    \b
    Example:
      layertool corpus folder recordings/ -o corpus --metadata speakers.csv
    """
    from layertool.corpora import folder as reader

    _refuse(out, overwrite)
    with output.progress_bar(quiet, "TextGrids") as progress:
        made = reader.read(
            source,
            textgrids=textgrids,
            metadata=metadata,
            id_column=id_column,
            tiers=tiers or None,
            normalise=_rule(raw_labels),
            channel=channel,
            name=name,
            progress=progress,
            max_failures=max_failures,
        )
    _write(made, out, overwrite, quiet)


@corpus.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@click.option(
    "--alignments", type=_PATH, default=None, help="Folder of TextGrids, SPLIT/SPEAKER/CHAPTER/UTTERANCE.TextGrid."
)
@click.option("--split", "splits", multiple=True, help="E.g. dev-clean; may be given again.  [default: all there are]")
@raw_option
@name_option
@failures_option
@overwrite_option
@quiet_option
def librispeech(source, out, alignments, splits, raw_labels, name, max_failures, overwrite, quiet) -> None:
    """From LibriSpeech as published, with TextGrid alignments.

    The alignments are those of zenodo record 2619474 or your own.

    \b
    Example:
      layertool corpus librispeech LibriSpeech/ -o dev --split dev-clean --alignments librispeech_alignments/
    """
    from layertool.corpora import librispeech as reader

    _refuse(out, overwrite)
    with output.progress_bar(quiet, "TextGrids") as progress:
        made = reader.read(source, alignments, splits, _rule(raw_labels), name, progress, max_failures)
    _write(made, out, overwrite, quiet)


@corpus.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@click.option("--segments", type=_PATH, default=None, help="Table with utterance, tier, start, end, label.")
@click.option(
    "--audio-root", type=_PATH, default=None, help="Folder that audio paths start from.  [default: that of the table]"
)
@raw_option
@channel_option
@name_option
@failures_option
@overwrite_option
@quiet_option
def csv(source, out, segments, audio_root, raw_labels, channel, name, max_failures, overwrite, quiet) -> None:
    """From a table with one row per utterance.

    It needs the column audio; utterance, start, end, channel and metadata as you like.

    \b
    Example:
      layertool corpus csv utterances.csv -o corpus --segments words.csv
    """
    from layertool.corpora import tables

    _refuse(out, overwrite)
    made = tables.read_csv(source, segments, _rule(raw_labels), channel, name, audio_root, max_failures)
    _write(made, out, overwrite, quiet)


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
@overwrite_option
@quiet_option
def huggingface(
    source, out, split, config, audio_column, id_column, text_column, channel, name, overwrite, quiet
) -> None:
    """From a Hugging Face dataset with an audio column.

    SOURCE is a local folder or a hub id (ID@REVISION).

    \b
    Example:
      layertool corpus huggingface juice500/spoken_sts -o sts --split test --audio-column audio_a
    """
    from layertool.corpora import huggingface as reader

    _refuse(out, overwrite)
    with output.progress_bar(quiet, "utterances") as progress:
        made = reader.read(source, out, split, config, audio_column, id_column, text_column, name, channel, progress)
    _write(made, out, overwrite, quiet)


@corpus.command(context_settings=HELP)
@source_argument
@output_folder("Corpus")
@raw_option
@channel_option
@name_option
@overwrite_option
@quiet_option
def lhotse(source, out, raw_labels, channel, name, overwrite, quiet) -> None:
    """From a Lhotse cuts manifest (.jsonl, .jsonl.gz).

    \b
    Example:
      layertool corpus lhotse cuts.jsonl.gz -o corpus
    """
    from layertool.corpora import lhotse as reader

    _refuse(out, overwrite)
    _write(reader.read(source, channel, _rule(raw_labels), name), out, overwrite, quiet)


@corpus.command(context_settings=HELP)
@click.argument("corpus_folders", metavar="CORPUS...", type=_PATH, nargs=-1, required=True)
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

    _refuse(out, overwrite)
    _write(join_corpora([Corpus.read(folder) for folder in corpus_folders], name), out, overwrite, quiet)


@corpus.command(context_settings=HELP)
@click.argument("corpus_folder", metavar="CORPUS", type=_PATH)
@click.option(
    "-o",
    "--output",
    "out",
    type=_PATH,
    default=None,
    metavar="FOLDER",
    help="Corpus to write.  [default: CORPUS itself]",
)
@click.option(
    "--dictionary", type=_PATH, default=None, help="More pronunciations, lines as in CMUdict: WORD  P H OW N Z."
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
        _refuse(out, overwrite)
    elif {"phone", "word"} & set(read.tiers) and not overwrite:
        raise CorpusError(
            f"{corpus_folder} has {' and '.join(read.tiers)} segments already: write to another corpus with -o, "
            "or replace them with --overwrite"
        )
    with output.progress_bar(quiet, "utterances") as progress:
        made = aligner.align(read, dictionary, max_failures, jobs, progress)
    _write(made, out or corpus_folder, True, quiet)


@corpus.command(context_settings=HELP)
@click.argument("corpus_folder", metavar="CORPUS", type=_PATH)
@json_option
def info(corpus_folder, as_json) -> None:
    """Say what is in a corpus.

    \b
    Example:
      layertool corpus info corpus
    """
    from layertool.corpora.corpus import Corpus

    read = Corpus.read(corpus_folder)
    if as_json:
        output.as_json(_facts(read))
    else:
        _show(read, corpus_folder)


def _facts(made) -> dict:
    segments = made.segments.groupby("tier")["label"].agg(["size", "nunique"])
    return {
        "name": made.name,
        "utterances": len(made.utterances),
        "seconds": made.seconds,
        "segments": {
            tier: {"count": int(row["size"]), "labels": int(row["nunique"])} for tier, row in segments.iterrows()
        },
        "metadata": {c: int(made.utterances[c].nunique()) for c in made.metadata_columns},
        "fingerprint": made.fingerprint,
        "provenance": dict(made.provenance),
    }


def _show(made, out: Path) -> None:
    facts = _facts(made)
    rows = [("utterances", f"{output.number(facts['utterances'])}, {output.duration(facts['seconds'])}")]
    for tier, counts in facts["segments"].items():
        rows.append(
            (f"{tier} segments", f"{output.number(counts['count'])} with {output.number(counts['labels'])} labels")
        )
    if not facts["segments"]:
        rows.append(("segments", "none: units phone and word need them ('layertool corpus align', or TextGrids)"))
    left_out = facts["provenance"].pop("left_out", {})
    metadata = ", ".join(f"{name} ({values})" for name, values in facts["metadata"].items())
    rows.append(("metadata (values)", metadata or "none"))
    rows += [(key.replace("_", " "), _brief(value)) for key, value in facts["provenance"].items()]
    rows += [("left out", f"{utterance}: {error}") for utterance, error in left_out.items()]
    output.facts(str(out), rows)


def _brief(value) -> str:
    if isinstance(value, list):
        text = ", ".join(map(str, value[:5]))
        return f"{text}, … ({len(value)})" if len(value) > 5 else text
    return str(value)
