"""Is what is on the disk what was written, and can it be right?"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import h5py
import numpy as np

from layertool.account import count, size
from layertool.errors import StoreError
from layertool.store import layout, schema
from layertool.store.concluding import fill_view
from layertool.store.reader import FeatureStore

_MOST_NAMED = 100  # of shards that are missing
_PATIENCE_SECONDS = 60  # with a view that is not as it was written
_AGAIN = "run the same extract command again (or layertool store merge), it is written anew"


def verify(store: FeatureStore, progress: Callable[[float, float], None] | None = None) -> list[str]:
    """Problems found, one sentence each; an empty list means that the store is sound.

    What is found is kept in the store (damaged.json): nothing reads a damaged shard, and the next run of
    the same command writes it again.

    Checks that every shard is there with its size, that every dataset has its checksum, shape,
    width and only finite values, that rows stand in corpus order inside their utterances, that no bytes come from
    other files, and that the virtual view is of these shards, with the same labels and ids. Reads everything once.
    ``progress`` gets (bytes of shards read, bytes in all).
    """
    n_shards = store.about["n_shards"]
    missing = (n for n in range(n_shards) if n not in store.index)
    problems = [f"shard {n} of {n_shards} is not in the index" for n in islice(missing, _MOST_NAMED)]
    if (n_more := n_shards - len(store.index) - _MOST_NAMED) > 0:
        problems.append(f"{n_more} more shards are not in the index")
    if layout.configuration_hash(store.about["configuration"]) != store.about["configuration_hash"]:
        problems.append(f"{layout.ABOUT}: the configuration was changed after writing")
    lengths = store.utterances["n_samples"].to_numpy()
    done, total = 0, sum(entry["size"] for entry in store.index.values())
    damaged: dict[int, str] = {}
    for number, entry in store.index.items():
        found = _problems_of(store, entry, lengths)
        if found:
            damaged[number] = found[0]
        problems += found
        done += entry["size"]
        if progress:
            progress(done, total)
    try:
        layout.write_damaged(store.path, damaged)
    except (OSError, StoreError) as error:  # a store of somebody else, a disk that is full or read-only
        if damaged:
            problems.append(
                f"{layout.DAMAGED} cannot be written ({error}): the next run will not know which shards to write again"
            )
    problems += _check_view(store)
    return problems


def verdict(store: FeatureStore, problems: list[str]) -> str:
    """A sentence for a store in which nothing was found. Raises StoreError where something was."""
    if problems:
        raise StoreError(
            f"{store.path} has {count(len(problems), 'problem')} (above): run the same extract command again, it "
            "writes just these shards anew"
        )
    n_bytes = size(sum(entry["size"] for entry in store.index.values()))
    return f"{store.path} is sound: {count(len(store.index), 'shard')}, {n_bytes}, every checksum right"


def _problems_of(store: FeatureStore, entry: dict, lengths: np.ndarray) -> list[str]:
    """What is wrong with one shard."""
    if problem := layout.misplaced(store.path, entry):
        return [problem]
    problems, shard = [], layout.shard_name(entry["shard"])
    if entry["configuration"] != store.about["configuration_hash"]:
        problems.append(f"{shard} was written with another configuration")
    try:
        with h5py.File(store.path / shard, "r") as file:
            for name, expected in entry["checksums"].items():
                problems += _problems_of_dataset(store, entry, file, name, expected, lengths)
            others = (name for name in layout.outside(file) if name not in store.contents)
            problems += [
                f"{shard}, {name}: its bytes come from other files, and a store's are its own" for name in others
            ]
    except layout.DAMAGE as error:
        problems.append(f"{shard} cannot be read as HDF5 ({error})")
    return problems


def _problems_of_dataset(
    store: FeatureStore, entry: dict, file: h5py.File, name: str, checksum: str, lengths: np.ndarray
) -> list[str]:
    shard = layout.shard_name(entry["shard"])
    if name not in store.contents:
        return [f"{shard} has no dataset {name} that {layout.ABOUT} describes"]
    content = store.contents[name]
    try:
        if problem := layout.dataset_problem(file, name, *content.of(entry)):
            return [f"{shard}, {name}: {problem}"]
        dataset = file[name]
        problems = ["the checksum differs, the data were changed after writing"]
        if layout.checksum(dataset) == checksum:
            problems = []
        if not content.tail:
            unit = name.split("/")[0]
            n_labels, known = len(store.labels.get(unit, [])), None if unit == "frame" else lengths
            problems += schema.row_problems(dataset[:], entry["utterances"], n_labels, known)
        elif not all(np.isfinite(block).all() for block in layout.blocks(dataset)):
            problems.append("values that are not finite")
    except layout.DAMAGE as error:
        return [f"{shard}, {name}, cannot be read ({error})"]
    return [f"{shard}, {name}: {problem}" for problem in problems]


def _check_view(store: FeatureStore) -> list[str]:
    if problem := layout.foreign(store.path, layout.VIEW):
        return [f"{problem}: {_AGAIN}"]
    if not (store.path / layout.VIEW).exists():
        return [f"{layout.VIEW} is missing: {_AGAIN}"] if store.finished else []
    return [] if _is_as_written(store) else _problems_of_view_elsewhere(store)


def _is_as_written(store: FeatureStore) -> bool:
    """Whether the view is, byte for byte, what a run would write now."""
    made = io.BytesIO()
    with h5py.File(made, "w") as view:
        fill_view(view, store.contents, list(store.index.values()), store.utterances, store.labels)
    path = store.path / layout.VIEW
    return path.stat().st_size == made.getbuffer().nbytes and path.read_bytes() == made.getvalue()


def _problems_of_view_elsewhere(store: FeatureStore) -> list[str]:
    """``problems_of_view`` by another process: HDF5's library crashes on some damage, and then only that one ends."""
    code = (
        "import json, sys; from layertool.store.verify import FeatureStore, problems_of_view; "
        "print(json.dumps(problems_of_view(FeatureStore(sys.argv[1], allow_unfinished=True))))"
    )
    places = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(store.path)],
            capture_output=True,
            env=os.environ | {"PYTHONPATH": places},
            timeout=_PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return [f"{layout.VIEW} is damaged (it was not read in {_PATIENCE_SECONDS} s): {_AGAIN}"]
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines() if done.returncode > 0 else []
        return [f"{layout.VIEW} is damaged ({why[-1] if why else 'HDF5 crashes on it'}): {_AGAIN}"]
    return json.loads(done.stdout)


def problems_of_view(store: FeatureStore) -> list[str]:
    """What is wrong with ``store.h5``, which other programs read."""
    try:
        with h5py.File(store.path / layout.VIEW, "r") as view:
            problems = [problem for name in store.contents if (problem := _problem_of_matrix(store, view, name))]
            if others := [name for name in layout.outside(view) if name not in store.contents]:
                return [
                    *problems,
                    f"{layout.VIEW}, {others[0]}: its bytes come from other files, and a store's are its own",
                ]
            problems += [
                f"{layout.LABELS}: the labels of {tier} are not those of {layout.VIEW}"
                for tier, names in store.labels.items()
                if _texts(view, f"labels/{tier}", len(names)) != list(map(layout.as_held, names))
            ]
            ids = list(map(layout.as_held, store.utterances["utterance"]))
            if _texts(view, "utterances/utterance", len(ids)) != ids:
                problems.append(f"{layout.UTTERANCES}: the ids are not those of {layout.VIEW}")
            return problems
    except layout.DAMAGE as error:
        return [f"{layout.VIEW} is damaged ({error}): {_AGAIN}"]


def _texts(view: h5py.File, name: str, n: int) -> list[str]:
    """So many texts; of another number none is read."""
    return view[name].asstr()[:].tolist() if view[name].shape == (n,) else []


def _problem_of_matrix(store: FeatureStore, view: h5py.File, name: str) -> str | None:
    """Whether a matrix of the view is the rows of the shards, one after the other, and nothing else."""
    if problem := layout.linked(view, name):
        return f"{layout.VIEW}, {name}: {problem}"
    dataset, content = view[name], store.contents[name]
    n_rows = sum(entry["rows"][content.table] for entry in store.index.values())
    if dataset.shape[0] != n_rows:
        return f"{layout.VIEW}, {name}: {dataset.shape[0]} rows instead of {n_rows}"
    expected, first, width = [], 0, math.prod(content.tail)
    for number, entry in store.index.items():
        if length := entry["rows"][content.table]:
            expected.append((layout.shard_name(number), name, first, first + length - 1, length * width))
            first += length
    return None if _sources(dataset) == expected else f"{layout.VIEW}, {name}: it is not of the shards of this store"


def _sources(dataset: h5py.Dataset) -> list[tuple[str, str, int, int, int]]:
    """Of a virtual dataset: file, dataset, first and last row that it fills, how many numbers."""
    sources = []
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        (first, *_), (last, *_) = source.vspace.get_select_bounds()
        sources.append((source.file_name, source.dset_name, first, last, source.vspace.get_select_npoints()))
    return sources
