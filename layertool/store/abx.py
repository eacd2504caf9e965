"""A store as the files of fastabx, which measures ABX discriminability (CoML; it needs Python 3.12).

Layout and slicing are those of fastabx 0.9.0: its page https://docs.cognitive-ml.fr/fastabx/items.html, its
docs/advanced/slicing.rst and its src/fastabx/dataset.py; see docs/store.md.
"""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import xxhash

from layertool import columns
from layertool.account import count
from layertool.errors import StoreError, UsageError
from layertool.files import read_json, remove, whole_file, write_json
from layertool.geometry import FRAME_FIELD, FRAME_HOP, SAMPLE_RATE, FrameGeometry
from layertool.non_speech import SILENCE, non_speech
from layertool.spelling import is_number, percent
from layertool.store.export import ExportFolder, Progress, chosen_layers
from layertool.store.reader import FeatureStore
from layertool.store.schema import LONGEST_NAME

DESCRIPTION = "fastabx.json"
TIERS = ("phone", "word")
# What the command `fastabx` asks for, whatever the labels are: in word.item, too, they stand under #phone.
HEADER = "#file onset offset #phone prev-phone next-phone speaker"
# Of whatever is a silence, and at the edges of an utterance, as abkhazia writes it for ABXpy.
CONTEXT_OF_SILENCE = "SIL"
PAUSE = FRAME_HOP  # samples between two segments from which on there is silence between them; less is rounding
_UNSAFE = re.compile(r"[^\w.-]")  # in names of files
_SEPARATES = re.compile(r'[\s"%\x00-\x1f\x7f-\x9f]')  # in item files; or quotes, or is no text
_FIRST = re.compile(r"\A.")
_GUESSED_FROM = 100  # first rows, of which polars guesses the type of a column


@dataclass(frozen=True)
class _Frames:
    """Frames of one row table: ``hop`` in samples, ``counts`` (n_utterances,) how many each utterance has."""

    hop: int
    counts: np.ndarray

    def first(self, start: np.ndarray) -> np.ndarray:
        """The first frame that fastabx takes: ceil(onset * frequency - 1/2), in integers."""
        return -((self.hop - 2 * start) // (2 * self.hop))

    def stop(self, end: np.ndarray) -> np.ndarray:
        """One past the last frame that fastabx takes: floor(offset * frequency - 1/2) + 1."""
        return (2 * end + self.hop) // (2 * self.hop)


def export_fastabx(
    store: FeatureStore,
    out: Path,
    units: Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write ``OUT/{layer}/{utterance}.pt``, ``OUT/phone.item`` (and ``word.item``) and ``OUT/fastabx.json``.

    Each .pt is one float32 tensor (frames, width), for ``torch.load``; the item files have one segment a line, with
    onset and offset in seconds; fastabx.json says for each layer its ``frequency`` in Hz and ``shift_ms``, by how much
    its frames lie later than fastabx supposes. ``units``: tiers of which items are written. Then, for one layer::

        fastabx OUT/phone.item OUT/T7 --frequency 50 --max-size-group 10

    fastabx refuses a whole item file for one segment without a frame, or with more frames than the utterance has. So
    segments that are too short at some exported layer are left out, and ends after the last frame are drawn in to
    it: all layers are scored on the same items. Returns the folders of the layers, the item files and fastabx.json.
    Raises UsageError without frames or segments, StoreError without speakers or when something is there already.
    """
    out = Path(out)
    tiers = _tiers(store, units)
    ((_, names),) = chosen_layers(store, ["frame"], layers)
    geometries = {name: _geometry(store, name) for name in names}
    frequencies = {name: _frequency(name, geometry.hop) for name, geometry in geometries.items()}
    folders, items = [out / name for name in names], [out / f"{tier}.item" for tier in tiers]
    written = [*folders, *items, out / DESCRIPTION]
    held = ExportFolder(store, out, written, overwrite)
    frames: dict[str, _Frames] = {}
    for table, name in {store.table_of("frame", name): name for name in names}.items():
        counts = np.bincount(store.row_table("frame", name)["utterance"], minlength=len(store.utterances))
        frames[table] = _Frames(geometries[name].hop, counts)
    files = np.array([file_name(utterance) for utterance in store.utterances["utterance"]], dtype=object)
    tables = {tier: _items(store, tier, list(frames.values()), files) for tier in tiers}
    with held:
        remove(out / DESCRIPTION)  # what it describes is about to change; it comes back when all is there
        for k, name in enumerate(names):
            folders[k].mkdir(parents=True, exist_ok=True)
            counts = frames[store.table_of("frame", name)].counts
            for share in _write_layer(store, name, folders[k], files, counts):
                if progress:
                    progress(k + share, len(names))
        for path, tier in zip(items, tiers, strict=True):
            _write_items(path, tables[tier][0])
        write_json(
            out / DESCRIPTION,
            {
                "model": store.model,
                "corpus": store.about["corpus"]["name"],
                "layers": {
                    name: {
                        "frequency": frequencies[name],
                        "width": store.width(name),
                        "shift_ms": shift_ms(geometries[name]),
                    }
                    for name in names
                },
                "items": {tier: counts for tier, (_, counts) in tables.items()},
            },
        )
    return written


def next_steps(out: Path) -> list[str]:
    """What an export left out, and the command that scores its last layer."""
    about, notes = read_json(out / DESCRIPTION, "the description of an export"), []
    for tier, counts in about["items"].items():
        short = counts["left_out_too_short"]
        left_out = f"; {count(short, tier)} shorter than a frame left out" if short else ""
        notes.append(f"{tier}: {count(counts['n_items'], 'item')}{left_out}")
    layer, facts = list(about["layers"].items())[-1]
    if isinstance(facts["frequency"], int):  # its command line takes no other
        files = shlex.join([str(out / f"{next(iter(about['items']))}.item"), str(out / layer)])
        notes.append(f"score a layer with: fastabx {files} --frequency {facts['frequency']} --max-size-group 10")
    return notes


def file_name(utterance: str) -> str:
    """The id as a file name and as the column #file: what is no letter, digit, dot, dash or underscore as %XX.

    Different ids have different names. One that file systems would not take is cut and ends with ``~`` and its hash.
    """
    name = percent(utterance, _UNSAFE)
    if len(name.encode()) > LONGEST_NAME:
        kept = name.encode()[: LONGEST_NAME - 17].decode(errors="ignore")
        name = f"{kept}~{xxhash.xxh3_64_hexdigest(utterance.encode())}"
    return name


def shift_ms(geometry: FrameGeometry) -> float:
    """How much later the centre of a frame lies than fastabx supposes, (i + 1/2) / frequency; negative: earlier."""
    return (2 * geometry.offset + geometry.field - geometry.hop) / 2 / SAMPLE_RATE * 1000


def _tiers(store: FeatureStore, units: Sequence[str] | None) -> list[str]:
    asked = ["phone", *(tier for tier in TIERS[1:] if tier in store.units)] if units is None else list(units)
    if others := [unit for unit in asked if unit not in (*TIERS, "frame")]:  # frames are written whatever was asked for
        raise UsageError(f"fastabx discriminates segments, '{others[0]}' is none: ask for --units phone, word, or both")
    tiers = [tier for tier in TIERS if tier in asked] or ["phone"]
    if lacking := [unit for unit in ("frame", *tiers) if unit not in store.units]:
        raise UsageError(
            f"{store.path} has no unit '{lacking[0]}' (it has {', '.join(store.units)}), and fastabx takes frames and "
            f"segments: extract again with --units {','.join(('frame', *tiers))}"
        )
    return tiers


def _geometry(store: FeatureStore, layer: str) -> FrameGeometry:
    """Of the frames as they are stored: fast layers were averaged to 10 ms."""
    about = store.about["layers"][layer]
    if about.get("frame_average"):
        return FrameGeometry(FRAME_HOP, FRAME_FIELD)
    if about.get("geometry") is None:
        raise StoreError(f"{store.path} does not say where the frames of layer {layer} lie: extract them again")
    return FrameGeometry(**about["geometry"])


def _frequency(layer: str, hop: int) -> int | str:
    """Frames per second as fastabx takes it: an integer, or a decimal as text."""
    frequency = Fraction(SAMPLE_RATE, hop)
    if frequency.denominator == 1:
        return frequency.numerator
    text = str(Decimal(frequency.numerator) / Decimal(frequency.denominator))
    if Fraction(text) != frequency:
        raise StoreError(
            f"layer {layer} has {frequency} frames per second, which is no finite decimal, as fastabx asks for: "
            "leave the layer out with --layers"
        )
    return text


def _write_layer(
    store: FeatureStore, layer: str, folder: Path, files: np.ndarray, counts: np.ndarray
) -> Iterator[float]:
    """Write one file per utterance with frames; yields the share of them that is written."""
    import torch

    owners = np.flatnonzero(counts)
    for k, rows in enumerate(_utterances(store, layer, counts[owners])):
        with whole_file(folder / f"{files[owners[k]]}.pt") as temporary:
            torch.save(torch.from_numpy(rows), temporary)
        yield (k + 1) / len(owners)


def _utterances(store: FeatureStore, layer: str, counts: np.ndarray) -> Iterator[np.ndarray]:
    """The frames of one utterance after the other, float32 (frames, width); one block and one utterance in memory."""
    blocks = store.blocks("frame", layer)
    left = np.empty((0, store.width(layer)), np.float32)
    for n_rows in counts:
        parts = [left]
        while sum(map(len, parts)) < n_rows:
            parts.append(next(blocks))
        rows = np.concatenate(parts)
        left = rows[n_rows:]
        yield rows[:n_rows].astype(np.float32)  # a copy: torch.save would write the whole block with a view


def _items(
    store: FeatureStore, tier: str, frames: Sequence[_Frames], files: np.ndarray
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The lines of the item file of a tier, with onset and offset in samples; and how many there are and are not."""
    rows = store.row_table(tier)
    rows = rows[np.lexsort((rows["end"], rows["start"], rows["utterance"]))]
    labels = np.array([*store.labels[tier], ""], dtype=object)[rows["label"]]  # -1 is the last: no label
    speakers = _speakers(store, np.unique(rows["utterance"]))
    owner, start, end = rows["utterance"], rows["start"], rows["end"].copy()
    kinds = np.array([non_speech(tier, name) for name in [*store.labels[tier], ""]], dtype=object)[rows["label"]]
    contexts = np.where(kinds == SILENCE, CONTEXT_OF_SILENCE, labels)
    adjoin = (owner[1:] == owner[:-1]) & (start[1:] - end[:-1] < PAUSE)
    before, after = np.full((2, len(rows)), CONTEXT_OF_SILENCE, dtype=object)
    before[1:][adjoin] = contexts[:-1][adjoin]
    after[:-1][adjoin] = contexts[1:][adjoin]
    for table in frames:
        last = table.counts[owner]
        end = np.where(table.stop(end) > last, np.minimum(end, last * table.hop), end)
    has_frames = np.ones(len(rows), dtype=bool)
    for table in frames:
        has_frames &= table.first(start) < table.stop(end)
    is_speech = pd.isna(kinds)
    keep = is_speech & has_frames
    if not keep.any():
        raise StoreError(f"{store.path} has no {tier} that is speech and as long as a frame: there is nothing to score")
    columns = [files[owner], start, end, labels, before, after, speakers[owner]]
    counts = {
        "n_items": int(keep.sum()),
        "left_out_too_short": int((is_speech & ~has_frames).sum()),
        "end_drawn_in": int((keep & (end < rows["end"])).sum()),
    }
    table = pd.DataFrame({name: values[keep] for name, values in zip(HEADER.split(), columns, strict=True)})
    return table, counts


def _speakers(store: FeatureStore, needed: np.ndarray) -> np.ndarray:
    """The speaker of every utterance as text; those of ``needed`` (positions) must be known."""
    column = store.utterances.get("speaker", pd.Series(None, store.utterances.index, dtype=object))
    missing = [position for position in needed if pd.isna(column[position]) or not str(column[position]).strip()]
    if missing:
        # A constant would make every comparison one within a speaker, the id of the utterance one across speakers.
        raise StoreError(
            f"{store.path} does not say who speaks in {store.utterances['utterance'][missing[0]]} ({len(missing)} such "
            "utterances), and fastabx compares within and across speakers: fill in the column 'speaker' of the "
            f"utterances of the corpus {store.about['corpus']['name']} and run the same extract command again, which "
            "computes nothing anew"
        )
    speakers = columns.texts(column)
    speakers[pd.isna(speakers)] = ""  # of utterances that are not needed
    return speakers


def _write_items(path: Path, items: pd.DataFrame) -> None:
    """Write an item file: columns between single spaces, seconds exact and all with as many decimals."""
    file, onset, offset, *labels = HEADER.split()
    texts = {file: items[file]} | {time: _seconds(items[time]) for time in (onset, offset)}
    table = pd.DataFrame(texts | {name: _tokens(items[name]) for name in labels})
    with whole_file(path) as temporary:
        table.to_csv(temporary, sep=" ", index=False, quoting=csv.QUOTE_NONE, lineterminator="\n")


def _seconds(samples: pd.Series) -> list[str]:
    """1/16000 s is 0.0000625 s: seven decimals are exact (fastabx computes in decimals, not in binary)."""
    unit = 10**7 // SAMPLE_RATE
    return [f"{units // 10**7}.{units % 10**7:07d}" for units in (int(n) * unit for n in samples)]


def _tokens(labels: pd.Series) -> list[str]:
    """Labels without what would be read as something else: spaces, quotes and % become %XX.

    fastabx lets polars guess types: where the first rows are numbers, 007 is 7 and a later "s7" is an error. Whole
    numbers are safe; else, where the guess would be a number, the first character of each number becomes %XX, too.
    """
    texts = [percent(label, _SEPARATES) for label in labels]
    if all(map(is_number, texts[:_GUESSED_FROM])) and not all(re.fullmatch("0|[1-9][0-9]{0,17}", t) for t in texts):
        texts = [percent(text, _FIRST) if is_number(text) else text for text in texts]
    return texts
