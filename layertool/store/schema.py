"""What the files of a store may say: names, types of rows, and the one check of what is read from them.

Whoever wrote a store.json, it holds what is used of it, of the right types and within bounds, before anything is opened
or allocated by what it says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from layertool.errors import UsageError

SCHEMA = 1
SHARDS = "shards"
UNITS = ("frame", "phone", "word", "utterance")
DTYPES = ("float32", "float16")
NO_LABEL = -1
# Positions in samples at the store's sample rate, from the start of the utterance.
ROW_DTYPE = np.dtype([("utterance", "<i4"), ("start", "<i8"), ("end", "<i8"), ("label", "<i4")])
MASKED_ROW_DTYPE = np.dtype([*ROW_DTYPE.descr, ("masked", "?")])
_MOST_SAMPLES = 2**40  # of one utterance: two years. More would not survive arithmetic in 64 bits
_MOST_BYTES = 2**53
_WIDEST = 2**20
LONGEST_NAME = (
    200  # bytes of a file's name, as layers have in exports: file systems take 255, temporary ones are longer
)
_TABLE = re.compile(r"rows(_[0-9]{1,9}){0,2}")
_DEEPEST = 20  # objects inside each other


class Wrong(ValueError):
    """What is wrong with a value, as a phrase: "layers.T1.width is -3, not a whole number from 1 to 1048576"."""


def row_dtype(unit: str, is_masked: bool) -> np.dtype:
    """Of a unit's row table; frames of a run with the time mask on say whether they are masked."""
    return MASKED_ROW_DTYPE if is_masked and unit == "frame" else ROW_DTYPE


def shard_name(number: int) -> str:
    return f"{SHARDS}/{number:05d}.h5"


# shapes of JSON


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value[:40] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse(value: Any, name: str, wanted: str) -> None:
    raise Wrong(f"{name} is {_shown(value)}, not {wanted}")


class Leaf(NamedTuple):
    """A value that ``fits``; ``wanted`` says what it is."""

    wanted: str
    fits: Callable[[Any], bool]


class Maybe(NamedTuple):
    """Null, or what ``shape`` takes."""

    shape: Any


class Names(NamedTuple):
    """An object of any number of entries, whose names and values have these shapes."""

    key: Any
    shape: Any


class Record(NamedTuple):
    """An object that has what is ``needed``, and may have what is ``known``; of anything else nothing is asked.

    ``only``: it has nothing else.
    """

    needed: Mapping[str, Any]
    known: Mapping[str, Any] = {}
    only: bool = False


def check(value: Any, name: str, shape: Any) -> None:
    """Raise Wrong unless ``value`` has a shape: one of the classes above, or [shape] for a list.

    ``name``: its dotted name.
    """
    if isinstance(shape, Leaf):
        if not shape.fits(value):
            _refuse(value, name, shape.wanted)
    elif isinstance(shape, Maybe):
        if value is not None:
            check(value, name, shape.shape)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            _refuse(value, name, "a list")
        for position, one in enumerate(value):
            check(one, f"{name}[{position}]", shape[0])
    else:
        if not isinstance(value, dict):
            _refuse(value, name or "it", "an object")
        dot = f"{name}." if name else ""
        if isinstance(shape, Names):
            for own, one in value.items():
                check(own, f"a name in {name}", shape.key)
                check(one, dot + own, shape.shape)
            return
        for own in shape.needed:
            if own not in value:
                raise Wrong(f"{dot}{own} is missing")
        inside = {**shape.needed, **shape.known}
        for own in value:
            if own in inside:
                check(value[own], dot + own, inside[own])
            elif shape.only:
                _refuse(own, f"a name in {name}", " or ".join(inside))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def whole(least: int, most: int) -> Leaf:
    """A whole number; true and false are none."""
    return Leaf(f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most)


def among(*values: Any) -> Leaf:
    """One of some values, of its type."""
    wanted = " or ".join(map(str, values))
    return Leaf(wanted, lambda value: any(type(value) is type(one) and value == one for one in values))


number = Leaf("a number", lambda value: type(value) in (int, float) and abs(value) < 1e15)
duration = Leaf("a number of seconds", lambda value: type(value) in (int, float) and 0 <= value < 1e15)
text = Leaf("a text", _is_text)
truth = Leaf("true or false", lambda value: isinstance(value, bool))


def _shallow(value: Any, name: str, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise Wrong(f"it holds more than {_DEEPEST} objects inside each other")
    if isinstance(value, dict):
        for own, one in value.items():
            check(own, f"a name in {name or 'it'}", text)
            _shallow(one, own, depth + 1)
    elif isinstance(value, list):
        for one in value:
            _shallow(one, name, depth + 1)
    elif isinstance(value, str):
        check(value, name, text)


# store.json


def _is_layer_name(value: Any) -> bool:
    """A layer is an HDF5 name and, in exports, a name of a file."""
    return (
        _is_text(value)
        and value.isprintable()
        and 1 <= len(value.encode()) <= LONGEST_NAME
        and not set(value) & {"/", "\\"}
        and not set(value) <= {"."}
        and not _TABLE.fullmatch(value)
    )


_LAYER = Leaf("the name of a layer", _is_layer_name)
_ROWS = Leaf("the name of a row table", lambda value: isinstance(value, str) and _TABLE.fullmatch(value) is not None)
_COUNT = whole(0, 2**31 - 1)  # rows hold codes of utterances in 32 bits
_GEOMETRY = Record(  # of ``geometry.FrameGeometry``
    {"hop": whole(1, _MOST_SAMPLES), "field": whole(1, _MOST_SAMPLES)},
    {
        "offset": whole(-_MOST_SAMPLES, _MOST_SAMPLES),
        "centred": truth,
        "extra_frame": truth,
        "always": Maybe(_COUNT),
        "least": Maybe(whole(1, _MOST_SAMPLES)),
    },
    only=True,
)
_MODEL = Record(
    {"id": text},
    {
        "family": text,
        "revision": Maybe(text),
        "sha256": Maybe(text),
        "definition": Maybe(text),
        "step": Maybe(number),
        "random_init": Maybe(number),
    },
)
_MASK = {"mask_seed": number, "mask_prob": number, "mask_length": number}
_CONFIGURATION = Record(
    {"model": _MODEL, "store_dtype": among(*DTYPES), "units": Names(among(*UNITS), text)},
    {
        "dtype": text,
        "layer_convention": text,
        "layers": [text],
        "channel": Maybe(text),
        "window_seconds": Maybe(duration),
        **_MASK,
    },
)
_ABOUT = Record(
    {
        "schema": whole(SCHEMA, SCHEMA),
        "layers": Names(
            _LAYER,
            Record({"width": whole(1, _WIDEST)}, {"geometry": Maybe(_GEOMETRY), "frame_average": Maybe([_COUNT])}),
        ),
        "units": Names(among(*UNITS), Record({"layers": [_LAYER], "rows": Names(_LAYER, _ROWS)})),
        "n_shards": _COUNT,
        "corpus": Record({"name": text, "n_utterances": _COUNT, "seconds": duration}),
        "audio": Record(
            {"sample_rate": whole(1, 10**9), "columns": [text]},
            {"source_rates": Names(text, _COUNT), "resampler": Maybe(text)},
        ),
        "configuration": _CONFIGURATION,
        "configuration_hash": text,
    },
    {
        "network_layers": [text],
        "parameters": Maybe(Record({}, {"all": Maybe(whole(0, _MOST_BYTES)), "nonzero": Maybe(whole(0, _MOST_BYTES))})),
        "zero_length_segments": _COUNT,
        "versions": Names(text, text),
    },
)


def check_about(about: Any) -> None:
    """Raise Wrong unless ``about`` is a store.json of this schema, of which nothing contradicts the rest."""
    _shallow(about, "")
    check(about, "", _ABOUT)
    if about["n_shards"] > max(1, about["corpus"]["n_utterances"]):
        _refuse(about["n_shards"], "n_shards", f"at most one for each of {about['corpus']['n_utterances']} utterances")
    configuration = about["configuration"]
    if "mask_seed" in configuration:
        check(configuration, "configuration", Record(_MASK))
    for unit, there in about["units"].items():
        if sorted(there["layers"]) != sorted(there["rows"]):
            raise Wrong(f"units.{unit}.layers and units.{unit}.rows do not name the same layers")
        for layer in there["layers"]:
            if layer not in about["layers"]:
                raise Wrong(f"layers.{layer} is missing, which units.{unit} names")


class Content(NamedTuple):
    """A dataset of every shard: its numbers, the row table that says how many rows it has ("unit/table"), the rest of
    its shape.
    """

    dtype: np.dtype
    table: str
    tail: tuple[int, ...]

    def of(self, entry: Mapping) -> tuple[np.dtype, tuple[int, ...]]:
        """Dtype and shape in the shard of a line of the index."""
        return self.dtype, (entry["rows"][self.table], *self.tail)


def contents(about: Mapping) -> dict[str, Content]:
    """What every shard of a store holds: row tables ("unit/table") and layers ("unit/layer")."""
    is_masked, dtype = "mask_seed" in about["configuration"], np.dtype(about["configuration"]["store_dtype"])
    out: dict[str, Content] = {}
    for unit, there in about["units"].items():
        for layer in there["layers"]:
            table = f"{unit}/{there['rows'][layer]}"
            out[table] = Content(row_dtype(unit, is_masked), table, ())
            out[f"{unit}/{layer}"] = Content(dtype, table, (about["layers"][layer]["width"],))
    return out


# index.jsonl


_ENTRY = Record(
    {
        "shard": _COUNT,
        "file": text,
        "size": whole(0, _MOST_BYTES),
        "rows": Names(text, whole(0, _MOST_BYTES)),
        "checksums": Names(text, text),
        "configuration": text,
        "utterances": [_COUNT],
    },
    {
        "seconds": duration,
        "failures": [Record({"utterance": text, "error": text})],
        "turn": whole(0, 10**9),
    },
)


def check_entry(entry: Any, about: Mapping, holds: Mapping[str, Content]) -> None:
    """Raise Wrong unless ``entry`` is a line of the index about a shard of the store that ``about`` describes."""
    check(entry, "", _ENTRY)
    part = entry["utterances"]
    if len(part) != 2 or part[0] > part[1]:
        _refuse(part, "utterances", "the first utterance and one past the last")
    if entry["shard"] >= about["n_shards"]:
        _refuse(entry["shard"], "shard", f"one of {about['n_shards']}")
    if entry["file"] != shard_name(entry["shard"]):
        raise Wrong(
            f"file is not {shard_name(entry['shard'])}"
        )  # and what it names is not said: it is not to be touched
    if part[1] > about["corpus"]["n_utterances"]:
        _refuse(part[1], "utterances[1]", f"at most {about['corpus']['n_utterances']}")
    n_bytes = 0
    for name, content in holds.items():
        for field, one in (("rows", content.table), ("checksums", name)):
            if one not in entry[field]:
                raise Wrong(f"{field}.{one} is missing")
        n_bytes += math.prod(content.of(entry)[1]) * (content.dtype.itemsize if content.tail else ROW_DTYPE.itemsize)
    if n_bytes > entry["size"]:
        raise Wrong(f"its rows would fill {n_bytes} bytes, its size is {entry['size']}")


def check_together(index: Mapping[int, Mapping], about: Mapping) -> None:
    """Raise Wrong unless shards, in the order of their numbers, hold utterances one after the other."""
    before, end = -1, 0
    for shard, entry in index.items():
        first, last = entry["utterances"]
        if first < end or (shard == before + 1 and first != end):
            raise Wrong(f"shard {shard} begins with utterance {first}, where utterance {end} is next")
        before, end = shard, last
    if before == about["n_shards"] - 1 and end != about["corpus"]["n_utterances"]:
        raise Wrong(f"the last shard ends before utterance {end}, of {about['corpus']['n_utterances']}")


# the rest


def check_damaged(damaged: Any, n_shards: int) -> None:
    """Raise Wrong unless ``damaged`` gives numbers of shards a text each."""
    check(damaged, "the list", Names(text, text))
    for name in damaged:
        if not re.fullmatch("[0-9]{1,10}", name) or int(name) >= n_shards:
            _refuse(name, "a name", f"the number of one of {n_shards} shards")


def row_problems(rows: np.ndarray, part: Sequence[int], n_labels: int, lengths: np.ndarray | None = None) -> list[str]:
    """What cannot be right in the row table of a shard of utterances [part[0], part[1]), a phrase each.

    ``lengths``: of all utterances, where rows have to start inside theirs.
    """
    if not len(rows):
        return []
    codes = rows["utterance"]
    if codes.min() < part[0] or codes.max() >= part[1]:
        return ["utterance codes outside this shard's part of the corpus"]
    problems = []
    if (np.diff(codes) < 0).any():
        problems.append("rows are not in corpus order")
    if (rows["end"] <= rows["start"]).any():
        problems.append("rows that end before they start")
    if rows["start"].min() < -_MOST_SAMPLES or rows["end"].max() > _MOST_SAMPLES:
        problems.append("times that no audio has")
    if rows["label"].max() >= n_labels or rows["label"].min() < NO_LABEL:
        problems.append("label codes without a label")
    if lengths is not None and ((rows["start"] < 0) | (rows["start"] >= lengths[codes])).any():
        problems.append("rows that start outside their utterance")
    return problems


def check_unit(unit: str) -> None:
    """Raise UsageError for what is no unit at all."""
    if unit not in UNITS:
        raise UsageError(f"'{unit}' is no unit: choose among {', '.join(UNITS)}")
