"""Is what is on the disk what was written, and can it be right?"""

from __future__ import annotations

from collections.abc import Callable

import h5py
import numpy as np

from layertool.errors import StoreError
from layertool.store import layout
from layertool.store.reader import FeatureStore

# what h5py raises on a file whose structure is damaged, besides OSError
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError)


def verify(store: FeatureStore, progress: Callable[[float, float], None] | None = None) -> list[str]:
    """Problems found, one sentence each; an empty list means that the store is sound.

    What is found is kept in the store (damaged.json): nothing reads a damaged shard, and the next run of
    the same command writes it again.

    Checks that every shard is there with its size, that every dataset has its checksum, shape,
    width and only finite values, that rows stand in corpus order inside their utterances, and that
    the virtual view has the same lengths, labels and ids. Reads everything once. ``progress`` gets
    (bytes of shards read, bytes in all).
    """
    problems = []
    n_shards = store.about["n_shards"]
    problems += [f"shard {n} of {n_shards} is not in the index" for n in range(n_shards) if n not in store.index]
    stored_hash = store.about["configuration_hash"]
    if layout.configuration_hash(store.configuration) != stored_hash:
        problems.append(f"{layout.ABOUT}: the configuration was changed after writing")
    lengths = store.utterances["n_samples"].to_numpy()
    done, total = 0, sum(entry["size"] for entry in store.index.values())
    damaged: dict[int, str] = {}
    for number, entry in store.index.items():
        found = _problems_of(store, entry, stored_hash, lengths)
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


def _problems_of(store: FeatureStore, entry: dict, stored_hash: str, lengths: np.ndarray) -> list[str]:
    """What is wrong with one shard."""
    path = store.path / entry["file"]
    if not path.exists():
        return [f"{entry['file']} is missing"]
    problems = []
    if path.stat().st_size != entry["size"]:
        problems.append(f"{entry['file']} has {path.stat().st_size} bytes, {entry['size']} were written")
    if entry["configuration"] != stored_hash:
        problems.append(f"{entry['file']} was written with another configuration")
    try:
        with h5py.File(path, "r") as file:
            problems += _check_shard(store, entry, file, lengths)
    except _DAMAGE as error:
        problems.append(f"{entry['file']} cannot be read as HDF5 ({error})")
    return problems


def _check_shard(store: FeatureStore, entry: dict, file: h5py.File, lengths: np.ndarray) -> list[str]:
    problems = []
    name = entry["file"]
    for dataset_name, expected in entry["checksums"].items():
        if dataset_name not in file:
            problems.append(f"{name} has no dataset {dataset_name}")
            continue
        try:
            dataset = file[dataset_name]
            if layout.checksum(dataset) != expected:
                problems.append(f"{name}, {dataset_name}: the checksum differs, the data were changed after writing")
            problems += [f"{name}, {dataset_name}: {text}" for text in _check_values(store, entry, dataset, lengths)]
        except _DAMAGE as error:
            problems.append(f"{name}, {dataset_name}, cannot be read ({error})")
    return problems


def _check_values(store: FeatureStore, entry: dict, dataset: h5py.Dataset, lengths: np.ndarray) -> list[str]:
    unit, layer = dataset.name.strip("/").split("/")
    if dataset.dtype.names is not None:
        return _check_rows(dataset[:], unit, store, lengths, entry["utterances"])
    problems = []
    shape = (entry["rows"][f"{unit}/{store.about['units'][unit]['rows'][layer]}"], store.width(layer))
    if dataset.shape != shape:
        problems.append(f"shape {dataset.shape} instead of {shape}")
    if not all(np.isfinite(block).all() for block in layout.blocks(dataset)):
        problems.append("values that are not finite")
    return problems


def _check_rows(rows: np.ndarray, unit: str, store: FeatureStore, lengths: np.ndarray, part: list[int]) -> list[str]:
    problems: list[str] = []
    if rows.dtype.names != layout.row_dtype(unit, store.is_masked).names:
        problems.append(f"rows of {', '.join(rows.dtype.names or ())}, which is not what the configuration says")
    if not len(rows):
        return problems
    codes = rows["utterance"]
    if codes.min() < part[0] or codes.max() >= part[1]:
        problems.append("utterance codes outside this shard's part of the corpus")
        return problems
    if codes.max() >= len(lengths):
        problems.append(f"utterances that {layout.UTTERANCES} has not: it is of another corpus")
        return problems
    if (np.diff(codes) < 0).any():
        problems.append("rows are not in corpus order")
    if (rows["end"] <= rows["start"]).any():
        problems.append("rows that end before they start")
    if unit != "frame" and ((rows["start"] < 0).any() or (rows["start"] >= lengths[codes]).any()):
        problems.append("rows that start outside their utterance")
    if rows["label"].max() >= len(store.labels.get(unit, [])):
        problems.append("label codes without a label")
    return problems


def _check_view(store: FeatureStore) -> list[str]:
    if not (store.path / layout.VIEW).exists():
        return (
            []
            if not store.finished
            else [
                f"{layout.VIEW} is missing: run the same extract command again (or layertool store merge), it is written anew"
            ]
        )
    try:
        with h5py.File(store.path / layout.VIEW, "r") as view:
            problems = [
                f"{layout.VIEW}, {unit}/{layer}: {view[f'{unit}/{layer}'].shape[0]} rows instead of {store.n_rows(unit, layer)}"
                for unit in store.units
                for layer in store.layers_of(unit)
                if view[f"{unit}/{layer}"].shape[0] != store.n_rows(unit, layer)
            ]
            problems += [
                f"{layout.LABELS}: the labels of {tier} are not those of {layout.VIEW}"
                for tier, names in store.labels.items()
                if view[f"labels/{tier}"].asstr()[:].tolist() != list(map(layout.as_held, names))
            ]
            if view["utterances/utterance"].asstr()[:].tolist() != list(
                map(layout.as_held, store.utterances["utterance"])
            ):
                problems.append(f"{layout.UTTERANCES}: the ids are not those of {layout.VIEW}")
            return problems
    except _DAMAGE as error:
        return [
            f"{layout.VIEW} is damaged ({error}): run the same extract command again (or layertool store merge), it is written anew"
        ]
