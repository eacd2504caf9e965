"""A shard as it is opened: the file that the index names, holding numbers of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from layertool.store import layout
from layertool.store.schema import shard_name

# what h5py raises on a file whose structure is damaged
DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError)


def misplaced(store: Path, entry: Mapping) -> str | None:
    """What is wrong with the file of a shard before it is opened, as a phrase that begins with its name; None if nothing."""
    name = shard_name(entry["shard"])
    if problem := layout.foreign(store, name):
        return problem
    path = store / name
    if not path.exists():
        return f"{name} is missing"
    size = path.stat().st_size
    return None if size == entry["size"] else f"{name} has {size} bytes, {entry['size']} were written"


def elsewhere(file: h5py.File, name: str) -> str | None:
    """Why a dataset is not in this file, as a phrase about it; None if it is.

    HDF5 reads other files by links, external storage and virtual datasets. Raises an error of ``DAMAGE`` where the
    structure is damaged.
    """
    for one in (name.split("/")[0], name):
        if one not in file:
            return "it is missing"
        if not isinstance(file.get(one, getlink=True), h5py.HardLink):
            return "a link stands in its place, and a store's bytes are its own"
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        return "it is missing"
    if dataset.is_virtual or dataset.id.get_create_plist().get_external_count():
        return "its bytes come from other files, and a store's are its own"
    return None


def dataset_problem(file: h5py.File, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> str | None:
    """Why a dataset is not numbers of this dtype and shape that lie in this file, as ``elsewhere``; None if it is that.

    What was never written HDF5 reads as fill values, of which a small file may claim any number.
    """
    if problem := elsewhere(file, name):
        return problem
    dataset = file[name]
    if dataset.dtype != dtype:
        if dtype.names is None:
            return f"dtype {dataset.dtype} instead of {dtype}"
        names = ", ".join(dataset.dtype.names or ()) or dataset.dtype
        return f"rows of {names}, which is not what the configuration says"
    if dataset.shape != shape:
        return f"shape {dataset.shape} instead of {shape}"
    n_bytes = dtype.itemsize * math.prod(shape)
    is_plain = dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
    if not is_plain or dataset.id.get_storage_size() != n_bytes:
        return "its numbers do not lie in the file as they were written"
    return None
