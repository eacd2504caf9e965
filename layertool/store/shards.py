"""A shard as it is opened: the file that the index names, holding numbers of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from layertool.store import layout
from layertool.store.schema import shard_name

# what h5py raises on a file whose structure is damaged
DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError)


def misplaced(store: Path, entry: Mapping) -> str | None:
    """What is wrong with the file of a shard before it is opened, as a phrase that begins with its name; None if
    nothing.
    """
    name = shard_name(entry["shard"])
    if problem := layout.foreign(store, name):
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
