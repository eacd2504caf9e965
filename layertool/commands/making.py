"""What the commands that make corpora share: options, writing, showing what was made."""

from __future__ import annotations

from collections.abc import Iterable
from functools import wraps
from pathlib import Path

import click

from layertool.commands import output
from layertool.commands.options import names

_SHOWN = 10  # of what was left out
PATH = click.Path(path_type=Path)
source_argument = click.argument("source", type=PATH)
name_option = click.option("--name", default=None, help="Name of the corpus in results.  [default: from the source]")
channel_option = click.option(
    "--channel", default=None, metavar="N|mix|sum", help="Which channel of files that have several; mix is their mean."
)
failures_option = click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Leave out up to this many utterances with unusable audio or label files, and list them.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace a corpus that is there already.")


def label_options(command):
    """The options for labels; the command gets ``rules`` (``corpora.labels.Rules``)."""

    @click.option(
        "--raw-labels",
        is_flag=True,
        help="Keep labels as they are.  [default: of ARPABET AH0 -> ah; silences -> SIL, noises left out]",
    )
    @click.option(
        "--non-speech",
        multiple=True,
        callback=names,
        metavar="LABELS",
        help="Labels that are no phone and no word either, e.g. AP,xxx; may be given again.",
    )
    @wraps(command)
    def run(*arguments, raw_labels: bool, non_speech: tuple[str, ...], **asked):
        from layertool.corpora.labels import Rules

        return command(*arguments, rules=Rules(raw_labels, non_speech), **asked)

    return run


def metadata_options(command):
    """The options for tables of metadata."""
    for option in (
        click.option("--text-column", default=None, help="Column with the transcript, renamed to text."),
        click.option(
            "--by",
            multiple=True,
            metavar="KEY",
            help="What joins the last --metadata: a column, also as folder names, or a pattern like '(?P<speaker>\\d+)_.*'.",
        ),
        click.option(
            "--metadata", multiple=True, type=PATH, help="Table of metadata; may be given again, each with --by."
        ),
    ):
        command = option(command)
    return command


def write(made, out: Path, overwrite: bool, quiet: bool) -> None:
    """Write a corpus that was made and say what is in it."""
    refuse(out, overwrite)
    made.write(out)
    for note in made.provenance.get("notes", []):
        output.note(f"note: {note}", quiet)
    if not quiet:
        show(made, out)


def refuse(out: Path, overwrite: bool, read: Iterable[Path] = ()) -> None:
    """Raise CorpusError where a corpus would be replaced unasked; an unfinished one is finished. ``read``: corpora that it is made of."""
    from layertool.corpora import on_disk
    from layertool.errors import CorpusError, UsageError

    for folder in read:
        if out.exists() and folder.exists() and out.samefile(folder):
            raise UsageError(f"the corpus {folder} is {out}, which is to be written: choose another -o")
    on_disk.CorpusFolder(out)
    if on_disk.is_corpus(out) and not overwrite:
        raise CorpusError(f"{out} holds a corpus already: choose another -o, or replace it with --overwrite")


def facts(made) -> dict:
    """What there is to say of a corpus, for programs."""
    segments = made.segments.groupby("tier", observed=True)["label"].agg(["size", "nunique"])
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


def show(made, out: Path) -> None:
    """Print the same for a person."""
    known = facts(made)
    rows = [("utterances", f"{output.number(known['utterances'])}, {output.duration(known['seconds'])}")]
    for tier, counts in known["segments"].items():
        rows.append(
            (f"{tier} segments", f"{output.number(counts['count'])} with {output.number(counts['labels'])} labels")
        )
    if not known["segments"]:
        rows.append(("segments", "none: units phone and word need them ('layertool corpus align', or TextGrids)"))
    left_out = known["provenance"].pop("left_out", {})
    known["provenance"].pop("notes", None)  # sentences, which were told when it was made
    metadata = ", ".join(f"{name} ({values})" for name, values in known["metadata"].items())
    rows.append(("metadata (values)", metadata or "none"))
    brief = {key: _brief(value) for key, value in known["provenance"].items()}
    rows += [(key.replace("_", " "), text) for key, text in brief.items() if text not in ("", "0")]
    rows += [("left out", f"{utterance}: {error}") for utterance, error in list(left_out.items())[:_SHOWN]]
    if len(left_out) > _SHOWN:
        rows.append(("left out", f"… ({len(left_out)} in all; see corpus.json)"))
    output.facts(str(out), rows)


def _brief(value) -> str:
    """What is worth a line of provenance: lists by their beginning, counts without the empty ones."""
    if isinstance(value, dict) and value.keys() == {"count", "ids"}:
        return f"{value['count']} ({_brief(value['ids'])})" if value["count"] else ""
    if isinstance(value, dict):
        if any(isinstance(part, dict) and "reader" in part for part in value.values()):  # of joined corpora
            return ", ".join(f"{name} ({part.get('reader', '?')})" for name, part in value.items())
        parts = {name: part if isinstance(part, (int, float)) else _brief(part) for name, part in value.items()}
        return ", ".join(f"{name} {part}" for name, part in parts.items() if part not in ("", 0))
    if isinstance(value, list):
        text = ", ".join(map(str, value[:5]))
        return f"{text}, … ({len(value)})" if len(value) > 5 else text
    return str(value)
