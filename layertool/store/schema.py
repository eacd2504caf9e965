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

SCHEMA = 1
SHARDS = "shards"
UNITS = ("frame", "phone", "word", "utterance")
DTYPES = ("float32", "float16")
NO_LABEL = -1
# Positions in samples at the store's sample rate, from the start of the utterance.
ROW_DTYPE = np.dtype([("utterance", "<i4"), ("start", "<i8"), ("end", "<i8"), ("label", "<i4")])
MASKED_ROW_DTYPE = np.dtype([*ROW_DTYPE.descr, ("masked", "?")])
_MOST_SAMPLES = 2**40  # of one utterance: two years. More would not survive arithmetic in 64 bits
_MOST_UTTERANCES = 2**31 - 1  # rows hold their code in 32 bits
_MOST_BYTES = 2**53
_WIDEST = 2**20
_LONGEST_NAME = 200  # bytes: layers are names of files in exports
_TABLE = re.compile(r"rows(_[0-9]{1,9}){0,2}")
_DEEPEST = 20  # objects inside each other


class Wrong(ValueError):
    """What is wrong with a value, as a phrase: "layers.T1.width is -3, not a whole number from 1 to 1048576"."""


Shape = Callable[[Any, str], None]  # checks (value, its dotted name)


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


def whole(least: int, most: int) -> Shape:
    """A whole number; true and false are none."""

    def check(value: Any, name: str) -> None:
        if type(value) is not int or not least <= value <= most:
            _refuse(value, name, f"a whole number from {least} to {most}")

    return check


def number(value: Any, name: str) -> None:
    """A finite number."""
    if type(value) not in (int, float) or not abs(value) < 1e15:
        _refuse(value, name, "a number")


def duration(value: Any, name: str) -> None:
    """Seconds, not negative."""
    if type(value) not in (int, float) or not 0 <= value < 1e15:
        _refuse(value, name, "a number of seconds")


def text(value: Any, name: str) -> None:
    """A text that HDF5 and UTF-8 can hold."""
    if not isinstance(value, str) or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        _refuse(value, name, "a text")


def truth(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        _refuse(value, name, "true or false")


def among(*values: Any) -> Shape:
    def check(value: Any, name: str) -> None:
        if not any(type(value) is type(one) and value == one for one in values):
            _refuse(value, name, " or ".join(map(str, values)))

    return check


def maybe(shape: Shape) -> Shape:
    """Null, or what ``shape`` takes."""

    def check(value: Any, name: str) -> None:
        if value is not None:
            shape(value, name)

    return check


def items(shape: Shape) -> Shape:
    """A list of what ``shape`` takes."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, list):
            _refuse(value, name, "a list")
        for position, one in enumerate(value):
            shape(one, f"{name}[{position}]")

    return check


def mapping(key: Shape, shape: Shape) -> Shape:
    """An object of any number of entries."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, name, "an object")
        for own, one in value.items():
            key(own, f"a name in {name}")
            shape(one, f"{name}.{own}")

    return check


def record(needed: Mapping[str, Shape], known: Mapping[str, Shape] | None = None) -> Shape:
    """An object that has what is ``needed``, and may have what is ``known``; of anything else nothing is asked."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, name or "it", "an object")
        dot = f"{name}." if name else ""
        for own in needed:
            if own not in value:
                raise Wrong(f"{dot}{own} is missing")
        for own, shape in {**needed, **(known or {})}.items():
            if own in value:
                shape(value[own], dot + own)

    return check


def _shallow(value: Any, name: str, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise Wrong(f"it holds more than {_DEEPEST} objects inside each other")
    if isinstance(value, dict):
        for own, one in value.items():
            text(own, f"a name in {name or 'it'}")
            _shallow(one, own, depth + 1)
    elif isinstance(value, list):
        for one in value:
            _shallow(one, name, depth + 1)
    elif isinstance(value, str):
        text(value, name)


# store.json


def _layer_name(value: Any, name: str) -> None:
    """A layer is an HDF5 name and, in exports, a name of a file."""
    text(value, name)
    if (
        not value.isprintable()
        or not 1 <= len(value.encode()) <= _LONGEST_NAME
        or set(value) & {"/", "\\"}
        or set(value) <= {"."}
        or _TABLE.fullmatch(value)
    ):
        _refuse(value, name, "the name of a layer")


def _table_name(value: Any, name: str) -> None:
    if not isinstance(value, str) or not _TABLE.fullmatch(value):
        _refuse(value, name, "the name of a row table")


_COUNT = whole(0, _MOST_UTTERANCES)
_GEOMETRY_FIELDS = {
    "hop": whole(1, _MOST_SAMPLES),
    "field": whole(1, _MOST_SAMPLES),
    "offset": whole(-_MOST_SAMPLES, _MOST_SAMPLES),
    "centred": truth,
    "extra_frame": truth,
    "always": maybe(_COUNT),
    "least": maybe(whole(1, _MOST_SAMPLES)),
}


def _geometry(value: Any, name: str) -> None:
    """Fields of ``geometry.FrameGeometry``, and no others."""
    record({field: _GEOMETRY_FIELDS[field] for field in ("hop", "field")}, _GEOMETRY_FIELDS)(value, name)
    mapping(among(*_GEOMETRY_FIELDS), lambda *_: None)(value, name)


_MODEL = record(
    {"id": text},
    {
        "family": text,
        "revision": maybe(text),
        "sha256": maybe(text),
        "definition": maybe(text),
        "step": maybe(number),
        "random_init": maybe(number),
    },
)
_MASK = {"mask_seed": number, "mask_prob": number, "mask_length": number}
_CONFIGURATION = record(
    {"model": _MODEL, "store_dtype": among(*DTYPES), "units": mapping(among(*UNITS), text)},
    {
        "dtype": text,
        "layer_convention": text,
        "layers": items(text),
        "channel": maybe(text),
        "window_seconds": maybe(duration),
        **_MASK,
    },
)
_ABOUT = record(
    {
        "schema": whole(SCHEMA, SCHEMA),
        "layers": mapping(
            _layer_name,
            record({"width": whole(1, _WIDEST)}, {"geometry": maybe(_geometry), "frame_average": maybe(items(_COUNT))}),
        ),
        "units": mapping(
            among(*UNITS), record({"layers": items(_layer_name), "rows": mapping(_layer_name, _table_name)})
        ),
        "n_shards": _COUNT,
        "corpus": record({"name": text, "n_utterances": _COUNT, "seconds": duration}),
        "audio": record(
            {"sample_rate": whole(1, 10**9), "columns": items(text)},
            {"source_rates": mapping(text, _COUNT), "resampler": maybe(text)},
        ),
        "configuration": _CONFIGURATION,
        "configuration_hash": text,
    },
    {
        "network_layers": items(text),
        "parameters": maybe(record({}, {"all": maybe(whole(0, _MOST_BYTES)), "nonzero": maybe(whole(0, _MOST_BYTES))})),
        "zero_length_segments": _COUNT,
        "versions": mapping(text, text),
    },
)


def check_about(about: Any) -> None:
    """Raise Wrong unless ``about`` is a store.json of this schema, of which nothing contradicts the rest."""
    _shallow(about, "")
    _ABOUT(about, "")
    if about["n_shards"] > max(1, about["corpus"]["n_utterances"]):
        _refuse(about["n_shards"], "n_shards", f"at most one for each of {about['corpus']['n_utterances']} utterances")
    configuration = about["configuration"]
    if "mask_seed" in configuration:
        record(_MASK)(configuration, "configuration")
    for unit, there in about["units"].items():
        if sorted(there["layers"]) != sorted(there["rows"]):
            raise Wrong(f"units.{unit}.layers and units.{unit}.rows do not name the same layers")
        for layer in there["layers"]:
            if layer not in about["layers"]:
                raise Wrong(f"layers.{layer} is missing, which units.{unit} names")


class Content(NamedTuple):
    """A dataset of every shard: its numbers, the row table that says how many rows it has ("unit/table"), the rest of its shape."""

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


def _pair(value: Any, name: str) -> None:
    items(_COUNT)(value, name)
    if len(value) != 2 or value[0] > value[1]:
        _refuse(value, name, "the first utterance and one past the last")


_ENTRY = record(
    {
        "shard": _COUNT,
        "file": text,
        "size": whole(0, _MOST_BYTES),
        "rows": mapping(text, whole(0, _MOST_BYTES)),
        "checksums": mapping(text, text),
        "configuration": text,
        "utterances": _pair,
    },
    {
        "seconds": duration,
        "failures": items(record({"utterance": text, "error": text})),
        "turn": whole(0, 10**9),
    },
)


def check_entry(entry: Any, about: Mapping, holds: Mapping[str, Content]) -> None:
    """Raise Wrong unless ``entry`` is a line of the index about a shard of the store that ``about`` describes."""
    _ENTRY(entry, "")
    if entry["shard"] >= about["n_shards"]:
        _refuse(entry["shard"], "shard", f"one of {about['n_shards']}")
    if entry["file"] != shard_name(entry["shard"]):
        raise Wrong(
            f"file is not {shard_name(entry['shard'])}"
        )  # and what it names is not said: it is not to be touched
    if entry["utterances"][1] > about["corpus"]["n_utterances"]:
        _refuse(entry["utterances"][1], "utterances[1]", f"at most {about['corpus']['n_utterances']}")
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


def check_labels(labels: Any) -> None:
    """Raise Wrong unless ``labels`` gives each tier a list of texts."""
    mapping(text, items(text))(labels, "labels")


def check_damaged(damaged: Any, n_shards: int) -> None:
    """Raise Wrong unless ``damaged`` gives numbers of shards a text each."""
    mapping(text, text)(damaged, "the list")
    for name in damaged:
        if not re.fullmatch("[0-9]{1,10}", name) or int(name) >= n_shards:
            _refuse(name, "a name", f"the number of one of {n_shards} shards")


def row_problems(rows: np.ndarray, part: Sequence[int], n_labels: int) -> list[str]:
    """What cannot be right in the row table of a shard of utterances [part[0], part[1]), a phrase each."""
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
    return problems
