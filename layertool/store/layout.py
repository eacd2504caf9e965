"""What is on the disk: names and types, the reading of the index, and shards as they are opened."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from layertool import columns
from layertool.errors import StoreError
from layertool.files import read_json, what_is, write_json
from layertool.kinds import STORE, mistaken
from layertool.store import schema
from layertool.store.schema import (
    MASKED_ROW_DTYPE,
    NO_LABEL,
    ROW_DTYPE,
    SCHEMA,
    SHARDS,
    UNITS,
    row_dtype,
    shard_name,
)

__all__ = ["MASKED_ROW_DTYPE", "NO_LABEL", "ROW_DTYPE", "SCHEMA", "SHARDS", "UNITS", "row_dtype", "shard_name"]

ABOUT, UTTERANCES, LABELS, DAMAGED = "store.json", "utterances.parquet", "labels.json", "damaged.json"
INDEX, PARTS, VIEW = "index.jsonl", "parts", "store.h5"
BLOCK_ROWS = 16_384  # rows read at a time where a whole layer need not be in memory
_CHECKED_ROWS = 2048  # rows at a time whose checksum is computed: they stay in the processor's cache
_LONGEST_LINE = 2**24  # bytes of a line of the index: a hundred thousand failures
# what pyarrow and pandas raise on a damaged table
_NOT_PARQUET = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    NotImplementedError,
    OverflowError,
    MemoryError,
    pa.ArrowException,
)
# what h5py raises on a file whose structure is damaged
DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError)
_RENEW = "restore it, or extract the store again with --overwrite"


def checksum(values: np.ndarray | h5py.Dataset) -> str:
    """xxh3-128 of the bytes of an array or dataset, in hexadecimal; read block by block."""
    digest = xxhash.xxh3_128()
    for block in blocks(values, _CHECKED_ROWS):
        digest.update(np.ascontiguousarray(block).view(np.uint8).data)
    return digest.hexdigest()


def blocks(values: np.ndarray | h5py.Dataset, max_rows: int = BLOCK_ROWS, first: int = 0) -> Iterator[np.ndarray]:
    """The rows of an array or dataset in order, from row ``first`` on, at most ``max_rows`` at a time."""
    for begin in range(first, len(values), max_rows):
        yield values[begin : begin + max_rows]


def as_held(text: str) -> str:
    """``text`` as HDF5 and arrays of NumPy hold it: to both NUL ends a text, so that it is written %00."""
    return text.replace("\0", "%00")


def foreign(store: Path, name: str) -> str | None:
    """What stands in the place of a file of the store that is none of its own, as a phrase; None for files and for
    nothing.

    A link would make the bytes of others ours; a pipe would be waited for.
    """
    path = store
    for part in name.split("/"):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(mode):
            return f"{path.relative_to(store)} is a link to {os.readlink(path)}, and a store's bytes are its own"
    return None if stat.S_ISREG(mode) else f"{name} is no file but {what_is(mode)}"


def own(store: Path, name: str) -> Path:
    """The path of a file of the store, which may be missing.

    Raises StoreError where something ``foreign`` stands there.
    """
    if problem := foreign(store, name):
        raise StoreError(f"{store}/{problem}: put the file itself there, or extract the store again with --overwrite")
    return store / name


def read_about(store: Path) -> dict[str, Any]:
    """The description of a store, checked. Raises StoreError where it is of another schema or damaged."""
    return _checked(store, ABOUT, "the description of a store", lambda about: _check_about(store, about), _RENEW)


def _check_about(store: Path, about: Any) -> None:
    if isinstance(about, dict) and about.get("schema") != SCHEMA:
        raise StoreError(
            f"{store} has store schema {about.get('schema')}, this layertool reads {SCHEMA}: extract it again"
        )
    schema.check_about(about)


def _checked(store: Path, name: str, what: str, check: Callable[[Any], object], remedy: str) -> Any:
    """What a JSON file of the store says, after ``check``. Raises StoreError where it is damaged."""
    value = read_json(own(store, name), what)
    with _said(store / name, remedy):
        check(value)
    return value


def read_index(store: Path, about: Mapping | None = None) -> dict[int, dict]:
    """The finished shards by number: of the index, and of the parts that ranks of a job array have written beside it.

    Two lines about one shard: that of the later turn counts (``turn``: how often ranks have written it anew); of one
    turn, one without failures before one with them, and else the later. ``about``: what ``read_about`` gave. Raises
    StoreError for a line that contradicts it.
    """
    finished: dict[int, dict] = {}
    holds: dict[str, schema.Content] = {}
    for path in (own(store, INDEX), *part_indexes(store)):
        for number, line in enumerate(_lines(path), start=1):
            about = about or read_about(store)
            holds = holds or schema.contents(about)
            remedy = "delete that line and run the same extract command again, it redoes just that shard"
            with _said(f"{path}, line {number},", remedy):
                entry = json.loads(line)
                schema.check_entry(entry, about, holds)
            finished[entry["shard"]] = max(entry, finished.get(entry["shard"], entry), key=_order)
    index = dict(sorted(finished.items()))
    if about:
        with _said(store / INDEX, "delete the lines of shards that overlap and run the same extract command again"):
            schema.check_together(index, about)
    return index


@contextmanager
def _said(what: Path | str, remedy: str) -> Iterator[None]:
    """Turn what is wrong with JSON into a StoreError about ``what``."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{what} is damaged: {remedy} ({error})") from error


def _order(entry: dict) -> tuple[int, bool]:
    return entry.get("turn", 0), not entry.get("failures")


def part_indexes(store: Path) -> list[Path]:
    """The indexes of ranks that have not been merged."""
    return [own(store, f"{PARTS}/{path.name}") for path in sorted((store / PARTS).glob("*.jsonl"))]


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of an index. A torn last line (a kill while it was written) does not count."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        while line := file.readline(_LONGEST_LINE):
            if line.endswith(b"\n"):
                yield line
            elif len(line) == _LONGEST_LINE:
                raise StoreError(f"{path} has a line of more than {_LONGEST_LINE} bytes: {_RENEW}")


def state(store: Path) -> tuple[int, int, int] | None:
    """What changes when the description of a store is written anew, which is once; None where there is none."""
    try:
        status = (store / ABOUT).stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_damaged(store: Path, n_shards: int) -> dict[int, str]:
    """The shards that ``verify`` found damaged and that have not been written again, each with what is wrong."""
    if not own(store, DAMAGED).exists():
        return {}
    what, remedy = "the damage that verify found", "delete it and verify the store again"
    damaged = _checked(store, DAMAGED, what, lambda value: schema.check_damaged(value, n_shards), remedy)
    return {int(number): problem for number, problem in damaged.items()}


def read_labels(store: Path) -> dict[str, list[str]]:
    """Every tier's labels. Raises StoreError where they are missing or damaged."""
    if not own(store, LABELS).exists():
        raise StoreError(f"{store / LABELS} is missing: {_RENEW}")
    texts = schema.Names(schema.text, [schema.text])
    return _checked(
        store, LABELS, "the labels of a store", lambda labels: schema.check(labels, "labels", texts), _RENEW
    )


def read_utterances(store: Path, n_utterances: int) -> pd.DataFrame:
    """The table of so many utterances. Raises StoreError where it is missing, damaged, or has others."""
    path = own(store, UTTERANCES)
    again = "run the same extract command again, it is written anew"
    try:
        n_rows = pq.ParquetFile(path).metadata.num_rows
        if n_rows != n_utterances:
            raise StoreError(
                f"{path} has {n_rows} utterances, the store {n_utterances}: it is of another corpus; {again}"
            )
        if n_rows > path.stat().st_size:  # ids differ: each takes a byte or more
            raise ValueError(f"{n_rows} rows in {path.stat().st_size} bytes")
        table = columns.read_parquet(path)
        ids, lengths = table["utterance"], table["n_samples"]
        if not (ids.is_unique and all(isinstance(one, str) for one in ids)):
            raise ValueError("its ids are not all different texts")
        if len(table) and not (lengths.dtype.kind in "iu" and lengths.min() >= 0 and lengths.max() < 2**40):
            raise ValueError("n_samples are no lengths")
    except _NOT_PARQUET as error:
        raise StoreError(f"{path} is not readable as the utterances of a store ({error}): {again}") from error
    return table


def check_store(path: Path) -> None:
    """Raise StoreError where there is no store."""
    if (path / ABOUT).exists():
        return
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


def misplaced(store: Path, entry: Mapping) -> str | None:
    """What is wrong with the file of a shard before it is opened, as a phrase that begins with its name; None if
    nothing.
    """
    name = shard_name(entry["shard"])
    if problem := foreign(store, name):
        return problem
    path = store / name
    if not path.exists():
        return f"{name} is missing"
    size = path.stat().st_size
    return None if size == entry["size"] else f"{name} has {size} bytes, {entry['size']} were written"


def linked(file: h5py.File, name: str) -> str | None:
    """Why "group/dataset" is not in this file by its name alone, as a phrase about it; None if it is.

    Follows no link.
    """
    for one in (name.split("/")[0], name):
        if not file.id.links.exists(one.encode()):
            return "it is missing"
        if file.id.links.get_info(one.encode()).type != h5py.h5l.TYPE_HARD:
            return "a link stands in its place, and a store's bytes are its own"
    return None if isinstance(file[name], h5py.Dataset) else "it is missing"


def outside(group: h5py.Group, seen: set[int] | None = None) -> Iterator[str]:
    """Names, below a group, of links and of datasets whose numbers are in other files. Follows no link."""
    seen = set() if seen is None else seen
    for name in group:
        path = f"{group.name}/{name}".lstrip("/")
        link = name.encode() if isinstance(name, str) else name  # damaged names are bytes
        if group.id.links.get_info(link).type != h5py.h5l.TYPE_HARD:
            yield path
        elif isinstance(one := group[name], h5py.Dataset):
            if one.is_virtual or one.id.get_create_plist().get_external_count():
                yield path
        elif isinstance(one, h5py.Group) and (address := h5py.h5o.get_info(one.id).addr) not in seen:
            seen.add(address)  # groups may hold each other
            yield from outside(one, seen)


def dataset_problem(file: h5py.File, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> str | None:
    """Why a dataset is not numbers of this dtype and shape that lie in this file, as a phrase about it; None if it is
    that.

    HDF5 reads other files by links, external storage and virtual datasets; and what was never written as fill values,
    of which a small file may claim any number. Raises an error of ``DAMAGE`` where the structure is damaged.
    """
    if problem := linked(file, name):
        return problem
    dataset = file[name]
    creation = dataset.id.get_create_plist()
    if dataset.is_virtual or creation.get_external_count():
        return "its bytes come from other files, and a store's are its own"
    if dataset.dtype != dtype:
        if dtype.names is None:
            return f"dtype {dataset.dtype} instead of {dtype}"
        names = ", ".join(dataset.dtype.names or ()) or dataset.dtype
        return f"rows of {names}, which is not what the configuration says"
    if dataset.shape != shape:
        return f"shape {dataset.shape} instead of {shape}"
    n_bytes = dtype.itemsize * math.prod(shape)
    if creation.get_layout() != h5py.h5d.CONTIGUOUS or dataset.id.get_storage_size() != n_bytes:
        return "its numbers do not lie in the file as they were written"
    return None
