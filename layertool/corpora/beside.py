"""TextGrids, label files and transcripts that belong to the audio files of a folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from layertool.corpora import label_files, source_files, textgrid
from layertool.corpora.alignments import Stretch, Voice
from layertool.corpora.segments import Entry
from layertool.corpora.texts import read_text
from layertool.errors import CorpusError, UsageError
from layertool.spelling import nfc

Sources = dict[str, Callable[[], list[Voice]]]  # by the recording, what reads its labels


@dataclass
class Labels:
    """What was found beside recordings, by their ids.

    ``sources``: functions that read their labels, for ``alignments.read_all``. ``texts``: their transcripts.
    ``unusable``: those whose transcript cannot be read, with the reason.
    """

    sources: Sources = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)


def find(
    source: Path,
    files: Sequence[Path],
    recordings: Mapping[str, Path],
    provenance: dict,
    textgrids: Path | None = None,
    tiers: Mapping[str, str] | None = None,
) -> Labels:
    """The labels and transcripts of ``recordings`` (id to audio file) among ``files``, which are all below ``source``.

    TextGrids have the path of the audio, below ``source`` or ``textgrids``. A recording without one has label files
    beside it (``label_files.TIERS``), or a CTM file names it. ``tiers``: as for ``textgrid.voices``; or suffixes of
    label files, and then no TextGrid is read. A .lab or .txt that is no label file is a transcript. Counts, and
    sentences for the user, go to the provenance. Raises UsageError, CorpusError.
    """
    suffixes = {tier: name.lower() for tier, name in (tiers or {}).items() if name.startswith(".")}
    if suffixes and len(suffixes) < len(tiers or {}):
        raise UsageError("--tier names both tiers and suffixes of label files: give one or the other")
    labels, notes = Labels(), provenance.setdefault("notes", [])
    if textgrids is None:
        grids = source_files.by_id(files, source, {".textgrid"})
        matched = {one: grids[one] for one in recordings if one in grids}
    else:
        grids = source_files.by_id(source_files.files_below(textgrids), textgrids, {".textgrid"})
        matched = _match_textgrids(recordings, grids, textgrids)
        provenance["textgrids_from"] = str(textgrids.resolve())
    provenance["textgrids_without_audio"] = len(grids) - len(matched)
    if suffixes:
        matched, grids = {}, {}
    others = source_files.beside(files, source, recordings)
    read = {*recordings.values(), *grids.values()}
    by_tier: dict[str, dict[str, Path]] = {}
    for one, there in others.items():
        own = {suffix: path for suffix, path in there.items() if suffix in label_files.TIERS}
        read |= {*_transcribe(labels, one, recordings[one], there, own)}
        if suffixes:
            by_tier[one] = {tier: own[suffix] for tier, suffix in suffixes.items() if suffix in own}
        elif one not in matched and not tiers:
            usual = [own[suffix] for suffix in reversed(label_files.TIERS) if suffix in own]
            by_tier[one] = {label_files.tier_of(path): path for path in usual}
    sources: Sources = {one: partial(textgrid.voices, path, tiers) for one, path in matched.items()}
    lines: Sources = {one: partial(label_files.voices, own, recordings[one]) for one, own in by_tier.items() if own}
    read |= {path for one in lines for path in by_tier[one].values()}
    if not tiers or set(label_files.OF_MANY) & set(suffixes.values()):
        lines |= _of_many(files, source, recordings, sources.keys() | lines.keys(), suffixes, read, notes)
    if tiers and not (sources or lines):
        what = f"{' or '.join(suffixes.values())} file" if suffixes else "TextGrid"
        raise CorpusError(f"{source} has no {what} that belongs to its audio: leave --tier out, or give --textgrids")
    sources |= lines
    labels.sources = {one: sources[one] for one in recordings if one in sources}
    provenance["textgrids"] = len(matched)
    if lines:
        provenance["label_files"] = len(lines)
    provenance["without_textgrid"] = len(recordings) - len(sources)
    notes += source_files.unread(files, source, read, recordings)
    return labels


def _transcribe(
    labels: Labels, one: str, recording: Path, there: Mapping[str, Path], own: dict[str, Path]
) -> list[Path]:
    """Take the transcript of a recording from the files beside it, and put what are labels among its ``own``.

    Returns the files that were taken.
    """
    taken = []
    for suffix in label_files.TRANSCRIPTS:
        if suffix not in there or one in labels.texts:
            continue
        try:
            content = read_text(there[suffix])
        except CorpusError as error:
            labels.unusable[one] = str(error)
            break
        text = label_files.transcript(content, there[suffix], recording, not {".phn", ".wrd"}.isdisjoint(there))
        if text is None:
            own[suffix] = there[suffix]
            continue
        own.pop(suffix, None)
        labels.texts[one] = text
        taken.append(there[suffix])
    return taken


def _of_many(
    files: Sequence[Path],
    source: Path,
    recordings: Mapping[str, Path],
    done: Collection[str],
    suffixes: Mapping[str, str],
    read: set[Path],
    notes: list[str],
) -> Sources:
    """Labels of recordings that are not ``done``, from CTM and MLF files that name them; what is used is put into
    ``read``."""
    tails: dict[str, list[str]] = {}
    for one in recordings:
        for name in {one, PurePosixPath(one).name, nfc(recordings[one].name)}:
            tails.setdefault(name, []).append(one)
    found: dict[str, dict[str, tuple[Stretch | None, list[Entry]]]] = {}
    for path in files:
        suffix = path.suffix.lower()
        wanted = suffix in suffixes.values() if suffixes else suffix in label_files.OF_MANY
        if not wanted or path in read or source_files.identity(path, source) in recordings:
            continue
        tier = next((tier for tier, one in suffixes.items() if one == suffix), label_files.tier_of(path))
        named = label_files.of_many(path)
        fits = {name: tails[name][0] for name in named if len(tails.get(name, ())) == 1}
        for name, one in fits.items():
            if one not in done:
                found.setdefault(one, {})[tier] = (None, named[name])
                read.add(path)
        if (path in read or not fits) and (lost := [name for name in named if name not in fits]):
            read.add(path)
            notes.append(
                f"{path} has labels of {len(lost)} recordings that are not in {source}, or there more than once (the "
                "first: "
                f"'{lost[0]}'): name them by their paths, or leave it so"
            )
    return {one: partial(list, (Voice(None, tiers),)) for one, tiers in found.items()}


def _match_textgrids(recordings: Mapping[str, Path], grids: dict[str, Path], folder: Path) -> dict[str, Path]:
    """TextGrids of a folder of their own: by the whole path, the rest by file name where that occurs once."""
    if not grids:
        raise CorpusError(f"{folder} has no .TextGrid files: check --textgrids")
    matched = {utterance: grids[utterance] for utterance in recordings if utterance in grids}
    left: dict[str, list[Path]] = {}
    for identity, path in grids.items():
        if identity not in recordings:
            left.setdefault(PurePosixPath(identity).name, []).append(path)
    claims: dict[str, str] = {}
    for utterance in recordings:
        stem = PurePosixPath(utterance).name
        if utterance in matched or stem not in left:
            continue
        if len(left[stem]) > 1 or stem in claims:
            raise CorpusError(
                f"{folder} does not say which TextGrid belongs to the utterance '{utterance}' ({left[stem][0]} is one "
                "candidate, but the file name is not unique): give the TextGrids the same subfolders as the audio"
            )
        claims[stem] = utterance
        matched[utterance] = left[stem][0]
    if not matched:
        raise CorpusError(
            f"no TextGrid in {folder} belongs to an audio file: the TextGrids are called like '{next(iter(grids))}', "
            f"the audio like '{next(iter(recordings))}'; give them the same names"
        )
    return {utterance: matched[utterance] for utterance in recordings if utterance in matched}
