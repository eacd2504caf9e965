"""Names and types of what is on the disk, and the reading of the index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import xxhash

from layertool.errors import StoreError
from layertool.files import read_json, write_json
from layertool.kinds import STORE, mistaken

SCHEMA = 1
ABOUT, UTTERANCES, LABELS, INDEX, VIEW, SHARDS, PARTS, DAMAGED = (
    "store.json", "utterances.parquet", "labels.json", "index.jsonl", "store.h5", "shards", "parts", "damaged.json",
)  # fmt: skip
UNITS = ("frame", "phone", "word", "utterance")
NO_LABEL = -1
_INDEX_FIELDS = ("shard", "file", "size", "rows", "checksums", "configuration", "utterances")
BLOCK_ROWS = 16_384  # rows read at a time where a whole layer need not be in memory
# Positions in samples at the store's sample rate, from the start of the utterance.
ROW_DTYPE = np.dtype([("utterance", "<i4"), ("start", "<i8"), ("end", "<i8"), ("label", "<i4")])
MASKED_ROW_DTYPE = np.dtype([*ROW_DTYPE.descr, ("masked", "?")])


def row_dtype(unit: str, is_masked: bool) -> np.dtype:
    """Of a unit's row table; frames of a run with the time mask on say whether they are masked."""
    return MASKED_ROW_DTYPE if is_masked and unit == "frame" else ROW_DTYPE


def shard_name(number: int) -> str:
    return f"{SHARDS}/{number:05d}.h5"


def checksum(values: np.ndarray | h5py.Dataset) -> str:
    """xxh3-128 of the bytes of an array or dataset, in hexadecimal; read block by block."""
    digest = xxhash.xxh3_128()
    for block in blocks(values):
        digest.update(np.ascontiguousarray(block).view(np.uint8).data)
    return digest.hexdigest()


def blocks(values: np.ndarray | h5py.Dataset, max_rows: int = BLOCK_ROWS, first: int = 0) -> Iterator[np.ndarray]:
    """The rows of an array or dataset in order, from row ``first`` on, at most ``max_rows`` at a time."""
    for begin in range(first, len(values), max_rows):
        yield values[begin : begin + max_rows]


def read_index(store: Path) -> dict[int, dict]:
    """The finished shards by number: of the index, and of the parts that ranks of a job array have written beside it.

    Two lines about one shard: that of the later turn counts (``turn``: how often ranks have written it anew); of one turn, one
    without failures before one with them, and else the later.
    """
    finished: dict[int, dict] = {}
    for path in (store / INDEX, *part_indexes(store)):
        for number, entry in _read_lines(path).items():
            if number not in finished or _order(entry) >= _order(finished[number]):
                finished[number] = entry
    return dict(sorted(finished.items()))


def _order(entry: dict) -> tuple[int, bool]:
    return entry.get("turn", 0), not entry.get("failures")


def part_indexes(store: Path) -> list[Path]:
    """The indexes of ranks that have not been merged."""
    return sorted((store / PARTS).glob("*.jsonl"))


def _read_lines(path: Path) -> dict[int, dict]:
    """The shards that an index names. A torn last line (a kill while it was written) does not count."""
    if not path.exists():
        return {}
    finished: dict[int, dict] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn or empty
        try:
            entry = json.loads(line)
            finished[entry["shard"]] = {name: entry[name] for name in _INDEX_FIELDS} | entry
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path}, line {number}, is damaged: delete that line and run the same extract command again, "
                "it redoes just that shard"
            ) from error
    return finished


def read_damaged(store: Path) -> dict[int, str]:
    """The shards that ``verify`` found damaged and that have not been written again, each with what is wrong."""
    path = store / DAMAGED
    if not path.exists():
        return {}
    found = read_json(path, "the damage that verify found")
    try:
        return {int(number): str(problem) for number, problem in found.items()}
    except (AttributeError, ValueError) as error:
        raise StoreError(f"{path} is damaged: delete it and verify the store again") from error


def check_store(path: Path) -> None:
    """Raise StoreError where there is no store."""
    if not (path / ABOUT).exists():
        if problem := mistaken(path, STORE):
            raise StoreError(problem)
        if path.is_file():
            raise StoreError(
                f"{path} is a file, not a feature store: files of results go to 'layertool compare' and 'layertool report'"
            )
        hint = f"it has no {ABOUT}" if path.exists() else "it does not exist"
        raise StoreError(
            f"{path} is not a feature store ({hint}): make one with 'layertool extract MODEL CORPUS -o {path}'"
        )


def write_damaged(store: Path, damaged: dict[int, str]) -> None:
    """Keep for the next run what is damaged."""
    if damaged:
        write_json(store / DAMAGED, {str(number): problem for number, problem in sorted(damaged.items())})
    else:
        (store / DAMAGED).unlink(missing_ok=True)


def flatten(value: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of a nested dict as (dotted name, value)."""
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from flatten(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def differences(stored: dict, asked: dict) -> list[str]:
    """One phrase per configuration field that differs, naming both values."""
    old, new = dict(flatten(stored)), dict(flatten(asked))
    return [
        f"{name} = {_brief(old.get(name))} (asked: {_brief(new.get(name))})"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _brief(value) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def configuration_hash(configuration: dict) -> str:
    """xxh3-128 of the configuration as canonical JSON."""
    return xxhash.xxh3_128_hexdigest(json.dumps(configuration, sort_keys=True).encode())
