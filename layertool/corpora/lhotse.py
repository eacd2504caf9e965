"""Reading a lhotse manifest of cuts (``cuts.jsonl.gz``)."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from layertool import audio
from layertool.corpora.corpus import AUDIO_COLUMNS, Corpus
from layertool.corpora.failures import Failures
from layertool.corpora.labels import USUAL, Rules
from layertool.corpora.segments import ROUNDING, Entry, SegmentRows
from layertool.errors import CorpusError, MissingExtraError
from layertool.geometry import SAMPLE_RATE
from layertool.spelling import on_disk

if TYPE_CHECKING:
    from lhotse import MonoCut, MultiCut

_KINDS = {"MonoCut": "MonoCut", "Cut": "MonoCut", "MultiCut": "MultiCut"}  # as they are written, and as lhotse has them
# What reading a damaged file raises; lhotse checks its data with assert, or not at all.
_DAMAGE = (
    RecursionError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    OSError,
    zlib.error,
)
# What the other lines of lhotse manifests have, to say what was given instead of cuts.
_OTHER_MANIFESTS = {"sources": "recordings", "recording_id": "supervisions", "num_features": "features"}
_SAVE = "save its audio with cuts.save_audios(FOLDER) in lhotse and read the manifest of what that returns"


def read(
    source: Path | str,
    channel: str | None = None,
    rules: Rules = USUAL,
    name: str | None = None,
    max_failures: int = 0,
) -> Corpus:
    """Make a corpus from the cuts of ``source`` (.jsonl or .jsonl.gz), one utterance per cut.

    The audio stays where it is: a cut becomes its recording's file with start and end in seconds.
    Relative paths are looked up from the working folder, then from the manifest's. The supervisions
    of a cut give ``text`` (joined in the order of time), ``speaker``, ``gender``, ``language`` and
    custom scalars; where they contradict one another the value is left empty and counted in
    ``provenance["supervisions_disagree"]``. Their alignments (seconds from the start of the
    recording, as lhotse counts them since 1.18) give the segments, with labels by
    ``rules``; a segment that is not inside the cut is left out and counted
    in ``provenance["segments_outside_cuts"]``. ``channel``: taken instead of each cut's own.
    Up to ``max_failures`` cuts that are no stretch of one audio file, or whose audio is unusable, are left out,
    with their errors in ``provenance["left_out"]``.

    Raises MissingExtraError, AudioError, and CorpusError for a manifest that is damaged or has no cuts.
    """
    path = Path(source)
    channel = audio.check_channel(channel)
    utterances: list[dict] = []
    segments = SegmentRows()
    disagree: Counter[str] = Counter()
    left_out = Failures(max_failures)
    outside = 0
    for cut in _cuts(path):
        supervisions = sorted(cut.supervisions, key=lambda supervision: supervision.start)
        with left_out.tolerated(cut.id):
            place = _place(cut, path, channel)
            utterances.append({"utterance": cut.id, **place, **_metadata(cut, supervisions, disagree)})
            alignments = [parts for one in supervisions for parts in (one.alignment or {}).items()]
            for tier, items in alignments:
                entries = [entry for item in items if (entry := _entry(item, cut)) is not None]
                outside += len(items) - len(entries)
                segments.add(cut.id, {"words": "word", "phones": "phone"}.get(tier, tier), entries)
    if not utterances and not left_out:
        raise CorpusError(f"{path} has no cuts: check how it was made")
    provenance: dict = {"reader": "lhotse", "source": str(path.resolve())}
    counts = {"supervisions_disagree": dict(disagree), "segments_outside_cuts": outside}
    provenance |= {key: n for key, n in counts.items() if n}
    name = name or path.name.split(".")[0]
    return Corpus.build(utterances, segments.table(), name, provenance, max_failures, left_out, rules=rules)


def _entry(item, cut: MonoCut | MultiCut) -> Entry | None:
    """A label of an alignment, which counts from the start of the recording; None where it is not inside the cut."""
    start, end = round(item.start - cut.start, 8), round(item.end - cut.start, 8)
    if not (-ROUNDING <= start <= cut.duration and 0 <= end <= cut.duration + ROUNDING):
        return None
    return max(start, 0.0), min(end, cut.duration), str(item.symbol)


def _cuts(path: Path) -> Iterator[MonoCut | MultiCut]:
    """The cuts of a manifest, line by line."""
    try:
        import lhotse
    except ImportError as error:
        raise MissingExtraError("lhotse", "lhotse", "reading a manifest of cuts") from error
    if not path.exists():
        raise CorpusError(f"{path} does not exist: check the path of the manifest")
    if path.is_dir() or not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise CorpusError(
            f"{path} is no .jsonl or .jsonl.gz manifest: convert it with 'lhotse copy {path} {path.stem}.jsonl.gz'"
        )
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    data = json.loads(line)
                    _check_kind(data, f"{path}, line {number}")
                    yield getattr(lhotse, _KINDS[data["type"]]).from_dict(data)
    except _DAMAGE as error:
        raise CorpusError(
            f"{path}, line {number or 1}, cannot be read as a cut ({type(error).__name__}: {error}): "
            "write the manifest anew with lhotse"
        ) from error


def _check_kind(data: dict, where: str) -> None:
    """Raise CorpusError unless a line of a manifest is a cut of one recording."""
    known = data if isinstance(data, dict) else {}
    kind = known.get("type")
    if kind in ("MixedCut", "PaddingCut"):
        raise CorpusError(
            f"{where}: the cut '{data.get('id')}' is mixed or padded ({kind}), no stretch of a file: {_SAVE}"
        )
    if kind not in _KINDS:
        given = next((what for key, what in _OTHER_MANIFESTS.items() if key in known), None)
        raise CorpusError(
            f"{where} is no cut{f' but one of {given}' if given else ''}: "
            "make cuts with 'lhotse cut simple -r RECORDINGS -s SUPERVISIONS cuts.jsonl.gz'"
        )


def _place(cut: MonoCut | MultiCut, manifest: Path, channel: str | None) -> dict:
    """Where the audio of a cut is: the columns audio, start, end and channel."""
    where = f"the cut '{cut.id}' of {manifest}"
    if not cut.has_recording:
        raise CorpusError(f"{where} has no recording: make the cuts from recordings, not from features alone")
    recording = cut.recording
    for transform in recording.transforms or []:
        # Everything is resampled when it is read; any other change would be lost.
        if type(transform).__name__ != "Resample" or transform.target_sampling_rate < SAMPLE_RATE:
            raise CorpusError(f"{where} changes its audio while it is read ({type(transform).__name__}): {_SAVE}")
    wanted = [cut.channel] if isinstance(cut.channel, int) else list(cut.channel)
    if len(wanted) > 1 and channel is None:
        raise CorpusError(
            f"{where} has the channels {', '.join(map(str, wanted))}: say which to take with --channel {wanted[0]}, "
            "or --channel mix for their mean"
        )
    sources = [one for one in recording.sources if set(one.channels) & set(wanted)]
    if len(sources) != 1:
        raise CorpusError(f"{where} has its channels in {len(sources)} files: {_SAVE}")
    chosen = sources[0]
    if chosen.type != "file":
        raise CorpusError(f"{where} takes its audio from a source of type '{chosen.type}', not from a file: {_SAVE}")
    if channel is None and len(chosen.channels) > 1:
        channel = str(chosen.channels.index(wanted[0]))
    whole = cut.start == 0 and cut.end >= recording.duration
    return {
        "audio": str(_file(Path(chosen.source), manifest, where)),
        "start": None if whole else cut.start,
        "end": None if whole else cut.end,
        "channel": channel,
    }


def _file(path: Path, manifest: Path, where: str) -> Path:
    # both are `path` when it is absolute
    candidates = [on_disk(folder / path) for folder in (Path.cwd(), manifest.resolve().parent)]
    if there := [candidate for candidate in candidates if candidate.is_file()]:
        return there[0]
    raise CorpusError(
        f"{where} names the audio file {path}, which does not exist (looked for "
        f"{' and '.join(dict.fromkeys(map(str, candidates)))}): run the command from the folder that its paths start "
        "from"
    )


def _metadata(cut: MonoCut | MultiCut, supervisions: list, disagree: Counter) -> dict:
    """Text, speaker, gender, language and custom scalars of one cut; counts in ``disagree`` what is ambiguous."""
    values: dict[str, str | float] = {}
    texts = [supervision.text for supervision in supervisions if supervision.text]
    if texts:
        values["text"] = " ".join(texts)
    described = [
        (one.custom or {}) | {"speaker": one.speaker, "gender": one.gender, "language": one.language}
        for one in supervisions
    ]
    for key in dict.fromkeys(("speaker", "gender", "language", *(key for one in described for key in one))):
        # to a set 1, 1.0 and True are one
        given = {(type(d[key]), d[key]) for d in described if isinstance(d.get(key), (str, int, float, bool))}
        if len(given) == 1:
            values.setdefault(_column(key), given.pop()[1])
        elif given:
            disagree[key] += 1
    for key, value in (cut.custom or {}).items():
        if isinstance(value, (str, int, float, bool)):
            values.setdefault(_column(key), value)
    return values


def _column(key: str) -> str:
    """The column for a custom field: not one that says where the audio is."""
    return f"source_{key}" if key in AUDIO_COLUMNS else key
