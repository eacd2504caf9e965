"""Writing a store: shards that appear whole, an index that names them afterwards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from layertool.errors import StoreError, UsageError
from layertool.files import put_in_place, read_json, remove, saying_no_room, temporary_path, whole_file, write_json
from layertool.folders import OutputFolder, sweep
from layertool.store import layout
from layertool.store.concluding import conclude, gather
from layertool.store.sheltered import Sheltered

# What a kill while a store is begun leaves without store.json.
_FILES = (layout.VIEW, layout.INDEX, layout.UTTERANCES, layout.LABELS, layout.DAMAGED)
_FOLDERS = (layout.SHARDS, layout.PARTS)


@dataclass(frozen=True)
class Part:
    """One of ``of`` processes that write a store side by side: every ``of``-th shard, from number ``rank`` on."""

    rank: int
    of: int

    def __post_init__(self) -> None:
        if self.of < 1 or not 0 <= self.rank < self.of:
            raise UsageError(
                f"there is no rank {self.rank} among {self.of}: ranks go from 0 to {max(self.of, 1) - 1} (--nshard "
                f"{self.of})"
            )

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.of}"

    def has(self, shard: int) -> bool:
        """Whether a shard is this process's work."""
        return shard % self.of == self.rank

    @property
    def file(self) -> str:
        """Its own index inside the store; its lock lies beside it."""
        return f"{layout.PARTS}/{self.rank:05d}-of-{self.of:05d}.jsonl"


class Shards:
    """What shards are written for: ``add`` is told of each that is in place."""

    path: Path
    configuration: dict
    hash: str
    add: Callable[[dict], object]

    def shard(
        self, number: int, tables: Mapping[str, np.ndarray], layers: Mapping[str, tuple[int, str]]
    ) -> ShardWriter:
        """Begin one shard.

        ``tables``: "unit/table" -> row table (``layout.row_dtype``). ``layers``: "unit/layer" -> (width, name of
        its row table).
        """
        return ShardWriter(self, number, tables, layers)


class StoreWriter(Shards, OutputFolder):
    """One process's hold on a store: made new, or taken up where an earlier run stopped.

    ``configuration`` is everything that decides the numbers; ``about`` describes the rest (geometry,
    widths, versions). With a ``part``, other processes write other shards meanwhile, on this machine or on others, each
    with an index of its own. Raises StoreError when the folder holds something else, a store of another
    configuration, or is being written by another process.
    """

    def __init__(
        self,
        path: Path | str,
        configuration: dict,
        about: dict,
        utterances: pd.DataFrame,
        labels: Mapping[str, list[str]],
        overwrite: bool = False,
        part: Part | None = None,
    ):
        if part and overwrite:
            raise UsageError(
                "--overwrite would remove what the other ranks write: remove the store first, then start them"
            )
        super().__init__(Path(path), "store", layout.ABOUT, (*_FILES, *_FOLDERS))
        self.configuration, self.part = configuration, part
        self.hash = layout.configuration_hash(configuration)
        try:
            busy = f"{self.path} is being written by another layertool process: wait for it, or choose another -o"
            self.hold(busy, shared=part is not None)
            if part:
                (self.path / layout.PARTS).mkdir(exist_ok=True)
                busy = (
                    f"{part} of {self.path} is being written by another process: give each process a --rank of its own"
                )
                self.hold(busy, f"{part.file}.lock")
            if overwrite:
                self._clear()
            self._open(about, utterances, labels)
        except BaseException:
            self.close()
            raise

    def _clear(self) -> None:
        # store.json goes last: a kill in between leaves a store that can be cleared again
        for name in (*_FOLDERS, *_FILES, layout.ABOUT):
            remove(self.path / name)

    def _open(self, about: dict, utterances: pd.DataFrame, labels: Mapping[str, list[str]]) -> None:
        stored, self.n_shards = self.path / layout.ABOUT, about["n_shards"]
        for folder in _FOLDERS:
            if (self.path / folder).is_symlink():
                raise StoreError(
                    f"{self.path / folder} is a link, and a store's bytes are its own: put the folder itself there, or "
                    "start again with --overwrite"
                )
        if not stored.exists():
            (self.path / layout.SHARDS).mkdir(exist_ok=True)
            write_json(self.path / layout.LABELS, {tier: list(names) for tier, names in labels.items()})
            write_json(
                stored,
                {
                    "schema": layout.SCHEMA,
                    **about,
                    "configuration": self.configuration,
                    "configuration_hash": self.hash,
                },
            )
        # of another rank, where two began at the same moment
        old = read_json(layout.own(self.path, layout.ABOUT), "the description of a store")
        if not isinstance(old, dict) or not isinstance(old.get("configuration", {}), dict):
            raise StoreError(f"{stored} is damaged: restore it, or start again with --overwrite")
        if old.get("schema") != layout.SCHEMA:
            raise StoreError(
                f"{self.path} has store schema {old.get('schema')}, this layertool writes {layout.SCHEMA}: "
                "choose another -o, or start again with --overwrite"
            )
        known = layout.read_index(self.path)
        if old.get("configuration_hash") != self.hash and not self.part and not known:
            self._clear()  # an earlier run failed before its first shard: nothing is lost
            self._open(about, utterances, labels)
            return
        if old.get("configuration_hash") != self.hash:
            changed = "; ".join(layout.differences(old.get("configuration", {}), self.configuration))
            again = "remove it" if self.part else "start again with --overwrite"
            raise StoreError(
                f"{self.path} was made with another configuration: {changed}. Choose another -o, or {again}"
            )
        # Metadata may have been added to the corpus since: the rows stay right, so the table is renewed.
        with whole_file(self.path / layout.UTTERANCES) as temporary:
            utterances.to_parquet(temporary, index=False)
        (self.path / layout.SHARDS).mkdir(exist_ok=True)
        if not self.part:  # nobody else writes
            gather(self.path, known)
            sweep(self.path, layout.SHARDS, layout.PARTS)
        damaged = layout.read_damaged(self.path, about["n_shards"])
        # what a rank writes anew outranks the lines of other files about it
        self.turns = {number: entry.get("turn", 0) + 1 for number, entry in known.items()} if self.part else {}
        self.finished = {
            number: entry for number, entry in known.items() if self._is_in_place(entry) and number not in damaged
        }
        if len(self.finished) < about["n_shards"]:  # a missing shard would read as fill values through the view
            (self.path / layout.VIEW).unlink(missing_ok=True)

    def _is_in_place(self, entry: dict) -> bool:
        # utterances that failed may have been repaired since: their shard is done again
        return (
            entry["configuration"] == self.hash
            and layout.misplaced(self.path, entry) is None
            and not entry.get("failures")
        )

    def add(self, entry: dict) -> None:
        """Name a shard that is in place in the index."""
        if turn := self.turns.get(entry["shard"]):
            entry = entry | {"turn": turn}
        self._append(entry)
        self.finished[entry["shard"]] = entry
        if entry["shard"] in (damaged := layout.read_damaged(self.path, self.n_shards)):
            layout.write_damaged(self.path, {n: what for n, what in damaged.items() if n != entry["shard"]})

    def _append(self, entry: dict) -> None:
        path = self.path / (self.part.file if self.part else layout.INDEX)
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        # unbuffered: a buffer would keep what there was no room for, and fail with it again
        with open(path, "ab+", buffering=0) as file:
            size = file.tell()
            file.seek(max(0, size - 1))
            if size and file.read(1) != b"\n":  # a kill tore the last line: cut it off
                file.seek(0)
                size = file.read().rfind(b"\n") + 1
                file.truncate(size)
            try:
                with saying_no_room(path):
                    while line:
                        line = line[file.write(line) :]
                    os.fsync(file.fileno())
            except BaseException:
                file.truncate(size)
                raise

    def finish(self, n_shards: int) -> None:
        """Put the indexes of ranks into one, and write store.h5 over all shards.

        Raises StoreError when one is missing.
        """
        missing = [number for number in range(n_shards) if number not in self.finished]
        if missing:
            raise StoreError(
                f"{self.path} is unfinished: {len(missing)} of {n_shards} shards are missing; run the same command "
                "again"
            )
        conclude(self.path, self.finished)


class LooseShards(Shards):
    """Shards of a store that another process holds: ``add`` is told of each that is in place, and passes it on."""

    def __init__(self, path: Path | str, configuration: dict, add: Callable[[dict], object]):
        self.path, self.configuration, self.add = Path(path), configuration, add
        self.hash = layout.configuration_hash(configuration)


class ShardWriter:
    """One shard being written, row by row in any order, under a temporary name."""

    def __init__(
        self,
        store: Shards,
        number: int,
        tables: Mapping[str, np.ndarray],
        layers: Mapping[str, tuple[int, str]],
    ):
        self.store, self.number, self.tables, self.layers = store, number, dict(tables), dict(layers)
        self.path = store.path / layout.shard_name(number)
        self.temporary = temporary_path(self.path)
        self.dtype = np.dtype(store.configuration["store_dtype"])
        self._open()
        for name, rows in self.tables.items():
            self.file.create_dataset(name, data=rows)
        for name, (width, table) in self.layers.items():
            self._layer(name, len(self.tables[f"{name.split('/')[0]}/{table}"]), width, table)

    def _layer(self, name: str, n_rows: int, width: int, table: str) -> h5py.Dataset:
        # contiguous: rows of a known number, no filter, written where they belong
        dataset = self.file.create_dataset(name, shape=(n_rows, width), dtype=self.dtype)
        dataset.attrs["rows"] = table
        return dataset

    def _open(self) -> None:
        self.sheltered = Sheltered(self.temporary, self.path)
        self.file = h5py.File(self.sheltered, "w")

    def _close(self) -> None:
        self.file.close()
        self.sheltered.close()

    def put(self, name: str, first: int, values: np.ndarray) -> None:
        """Write ``values`` (rows, width) of the dataset "unit/layer" from row ``first`` on."""
        self.file[name][first : first + len(values)] = values
        self.sheltered.check()

    def finish(self, dropped: Collection[int], **facts) -> dict:
        """Put the shard in place and name it in the index; return the index line.

        ``dropped``: utterance codes whose rows are left out. ``facts`` are added to the line.
        """
        if dropped:
            self._drop(dropped)
        checksums = {name: layout.checksum(self.file[name]) for name in (*self.tables, *self.layers)}
        rows = {name: len(self.file[name]) for name in self.tables}
        self._close()
        self.sheltered.check()
        with saying_no_room(self.path):
            put_in_place(self.temporary, self.path)
        entry = {
            "shard": self.number,
            "file": layout.shard_name(self.number),
            "size": self.path.stat().st_size,
            "rows": rows,
            "checksums": checksums,
            "configuration": self.store.hash,
            **facts,
        }
        try:
            self.store.add(entry)
        except BaseException:
            self.path.unlink()  # a shard that the index does not name is nobody's
            raise
        return entry

    def _drop(self, dropped: Collection[int]) -> None:
        """Write the file anew without the rows of some utterances."""
        whole = self.temporary.with_suffix(".whole.part")
        self._close()
        self.sheltered.check()
        os.replace(self.temporary, whole)
        try:
            with h5py.File(whole, "r") as source:
                self._open()
                keep = {name: ~np.isin(rows["utterance"], list(dropped)) for name, rows in self.tables.items()}
                for name in self.tables:
                    self.file.create_dataset(name, data=source[name][:][keep[name]])
                for name, (width, table) in self.layers.items():
                    mask = keep[f"{name.split('/')[0]}/{table}"]
                    dataset, first, written = self._layer(name, mask.sum(), width, table), 0, 0
                    for block in layout.blocks(source[name]):
                        kept = block[mask[first : first + len(block)]]
                        dataset[written : written + len(kept)] = kept
                        first, written = first + len(block), written + len(kept)
        finally:
            whole.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Leave nothing behind of a shard that will not be finished."""
        self._close()
        self.temporary.unlink(missing_ok=True)
