"""What the commands that make corpora share: writing them, and showing what was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from layertool.commands import output

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus

_SHOWN = 10  # of what was left out
PATH = click.Path(path_type=Path)


Progress = Callable[[float, float], None] | None


def write(
    make: Callable[[Progress], Corpus],
    out: Path,
    overwrite: bool,
    quiet: bool,
    read: Iterable[Path] = (),
    counted: str = "",
) -> None:
    """Write the corpus that ``make`` gives, once it is sure that it may stand in ``out``, and say what is in it.

    ``read``: corpora that it is made of. ``counted``: what its progress counts, if it has one.
    """
    from layertool.corpora import on_disk

    on_disk.check_free(out, overwrite, read)
    with output.progress_bar(quiet or not counted, counted) as progress:
        made = make(progress)
    on_disk.check_free(out, overwrite, read)  # another process may have been faster
    made.write(out)
    for note in made.provenance.get("notes", []):
        output.note(f"note: {note}", quiet)
    if not quiet:
        show(made, out)


def show(made: Corpus, out: Path) -> None:
    """Print what is in a corpus."""
    facts = made.facts()
    rows = [("utterances", f"{output.number(facts['utterances'])}, {output.duration(facts['seconds'])}")]
    for tier, counts in facts["segments"].items():
        text = f"{output.number(counts['count'])} with {output.number(counts['labels'])} labels"
        rows.append((f"{tier} segments", text))
    if not facts["segments"]:
        rows.append(("segments", "none: units phone and word need them ('layertool corpus align', or TextGrids)"))
    left_out = facts["provenance"].pop("left_out", {})
    facts["provenance"].pop("notes", None)  # sentences, which were told when it was made
    metadata = ", ".join(f"{name} ({values})" for name, values in facts["metadata"].items())
    rows.append(("metadata (values)", metadata or "none"))
    brief = {key: _brief(value) for key, value in facts["provenance"].items()}
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
        text = ", ".join(map(_brief, value[:5]))
        return f"{text}, … ({len(value)})" if len(value) > 5 else text
    return str(value)
