"""Writing a store: shards that appear whole, an index that names them afterwards."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from layertool.errors import StoreError
from layertool.files import put_in_place, read_json, saying_no_room, temporary_path, whole_file, write_json
from layertool.store import layout
from layertool.store.sheltered import Sheltered


class StoreWriter:
    """One process's hold on a store: made new, or taken up where an earlier run stopped.

    ``configuration`` is everything that decides the numbers; ``about`` describes the rest (geometry,
    widths, versions). Raises StoreError when the folder holds something else, a store of another
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
    ):
        self.path = Path(path)
        self.configuration = configuration
        self.hash = layout.configuration_hash(configuration)
        self._check_place()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / layout.LOCK, "a")  # noqa: SIM115 - held until close()
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(
                    f"{self.path} is being written by another layertool process: wait for it, or choose another -o"
                ) from error
            if overwrite:
                self._clear()
            self._open(about, utterances, labels)
        except BaseException:
            self.close()
            raise

    def _check_place(self) -> None:
        if self.path.is_file():
            raise StoreError(f"{self.path} is a file, a store is a folder: choose another -o")
        if self.path.is_dir() and not (self.path / layout.ABOUT).exists():
            # a kill while a store is begun leaves some of its files without store.json
            ours = {layout.LABELS, layout.UTTERANCES, layout.INDEX, layout.VIEW, layout.SHARDS, layout.LOCK}
            others = sorted(p.name for p in self.path.iterdir())
            if layout.LOCK in others:  # every store begins with it; without it a file only has the name of ours
                others = [name for name in others if name not in ours and not name.endswith(".part")]
            if others:
                raise StoreError(f"{self.path} is no store but holds other things ({others[0]}): choose another -o")

    def _clear(self) -> None:
        # store.json goes last: a kill in between leaves a store that can be cleared again
        shutil.rmtree(self.path / layout.SHARDS, ignore_errors=True)
        for name in (layout.VIEW, layout.INDEX, layout.UTTERANCES, layout.LABELS, layout.ABOUT):
            (self.path / name).unlink(missing_ok=True)

    def _open(self, about: dict, utterances: pd.DataFrame, labels: Mapping[str, list[str]]) -> None:
        stored = self.path / layout.ABOUT
        if stored.exists():
            old = read_json(stored, "the description of a store")
            if old.get("schema") != layout.SCHEMA:
                raise StoreError(
                    f"{self.path} has store schema {old.get('schema')}, this layertool writes {layout.SCHEMA}: "
                    "choose another -o, or start again with --overwrite"
                )
            if old.get("configuration_hash") != self.hash and not layout.read_index(self.path):
                self._clear()  # an earlier run failed before its first shard: nothing is lost
                self._open(about, utterances, labels)
                return
            if old.get("configuration_hash") != self.hash:
                changed = "; ".join(layout.differences(old.get("configuration", {}), self.configuration))
                raise StoreError(
                    f"{self.path} was made with another configuration: {changed}. "
                    "Choose another -o, or start again with --overwrite"
                )
        else:
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
        # Metadata may have been added to the corpus since: the rows stay right, so the table is renewed.
        with whole_file(self.path / layout.UTTERANCES) as temporary:
            utterances.to_parquet(temporary, index=False)
        (self.path / layout.SHARDS).mkdir(exist_ok=True)
        for stale in self.path.glob("**/.*.part"):
            stale.unlink(missing_ok=True)
        self.finished = {
            number: entry for number, entry in layout.read_index(self.path).items() if self._is_in_place(entry)
        }
        if len(self.finished) < about["n_shards"]:  # a missing shard would read as fill values through the view
            (self.path / layout.VIEW).unlink(missing_ok=True)

    def _is_in_place(self, entry: dict) -> bool:
        shard = self.path / entry["file"]
        is_whole = shard.exists() and shard.stat().st_size == entry["size"]
        # utterances that failed may have been repaired since: their shard is done again
        return entry["configuration"] == self.hash and is_whole and not entry.get("failures")

    def shard(
        self, number: int, tables: Mapping[str, np.ndarray], layers: Mapping[str, tuple[int, str]]
    ) -> ShardWriter:
        """Begin one shard.

        ``tables``: "unit/table" -> row table (``layout.row_dtype``). ``layers``: "unit/layer" -> (width, name of
        its row table).
        """
        return ShardWriter(self, number, tables, layers)

    def add(self, entry: dict) -> None:
        """Name a shard that is in place in the index."""
        self._append(entry)
        self.finished[entry["shard"]] = entry

    def _append(self, entry: dict) -> None:
        path = self.path / layout.INDEX
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        # unbuffered: a buffer would keep what there was no room for, and fail with it again
        with open(path, "ab+", buffering=0) as file:
            size = file.tell()
            file.seek(0)
            if size and not file.read().endswith(b"\n"):  # a kill tore the last line: cut it off
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
        """Write store.h5 over all shards. Raises StoreError when one is missing."""
        missing = [number for number in range(n_shards) if number not in self.finished]
        if missing:
            raise StoreError(
                f"{self.path} is unfinished: {len(missing)} of {n_shards} shards are missing; run the same command again"
            )
        write_view(self.path, dict(sorted(self.finished.items())))

    def close(self) -> None:
        """Let go of the store; another process may write it then."""
        if not self._lock.closed:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class ShardWriter:
    """One shard being written, row by row in any order, under a temporary name."""

    def __init__(
        self, store: StoreWriter, number: int, tables: Mapping[str, np.ndarray], layers: Mapping[str, tuple[int, str]]
    ):
        self.store, self.number, self.tables, self.layers = store, number, dict(tables), dict(layers)
        self.path = store.path / layout.shard_name(number)
        self.temporary = temporary_path(self.path)
        self.dtype = np.dtype(store.configuration["store_dtype"])
        self._open()
        for name, rows in self.tables.items():
            self.file.create_dataset(name, data=rows)
        for name, (width, table) in self.layers.items():
            n_rows = len(self.tables[f"{name.split('/')[0]}/{table}"])
            # contiguous: rows of a known number, no filter, written where they belong
            dataset = self.file.create_dataset(name, shape=(n_rows, width), dtype=self.dtype)
            dataset.attrs["rows"] = table

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
                for name, (_, table) in self.layers.items():
                    mask = keep[f"{name.split('/')[0]}/{table}"]
                    dataset = self.file.create_dataset(name, data=source[name][:][mask])
                    dataset.attrs["rows"] = table
        finally:
            whole.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Leave nothing behind of a shard that will not be finished."""
        self._close()
        self.temporary.unlink(missing_ok=True)


def write_view(store: Path, finished: Mapping[int, dict]) -> None:
    """Write store.h5: one virtual matrix per unit and layer, the row tables, ids and labels as text."""
    entries = list(finished.values())
    utterances = pd.read_parquet(store / layout.UTTERANCES)
    labels = read_json(store / layout.LABELS, "the labels of a store")
    with whole_file(store / layout.VIEW) as temporary:
        sheltered = Sheltered(temporary, store / layout.VIEW)
        with h5py.File(sheltered, "w") as view:
            _fill_view(view, store, entries, utterances, labels)
        sheltered.close()
        sheltered.check()


def _fill_view(
    view: h5py.File, store: Path, entries: list[dict], utterances: pd.DataFrame, labels: Mapping[str, list[str]]
) -> None:
    text = h5py.string_dtype()
    for column in utterances:
        values = utterances[column]
        if pd.api.types.is_numeric_dtype(values) and not values.isna().any():
            view.create_dataset(f"utterances/{column}", data=values.to_numpy())
        else:
            as_text = ["" if pd.isna(v) else str(v) for v in values]
            view.create_dataset(f"utterances/{column}", data=as_text, dtype=text)
    for tier, names in labels.items():
        view.create_dataset(f"labels/{tier}", data=names, dtype=text, shape=(len(names),))
    if not entries:
        return
    with h5py.File(store / entries[0]["file"], "r") as first:
        shapes = {
            name: (first[name].shape[1:], first[name].dtype, dict(first[name].attrs))
            for name in entries[0]["checksums"]
        }
    for name, (tail, dtype, attributes) in shapes.items():
        unit = name.split("/")[0]
        table = f"{unit}/{attributes['rows']}" if "rows" in attributes else name
        lengths = [entry["rows"][table] for entry in entries]
        virtual = h5py.VirtualLayout((sum(lengths), *tail), dtype)
        virtual.dcpl.set_obj_track_times(False)  # equal stores have equal bytes
        position = 0
        for entry, length in zip(entries, lengths, strict=True):
            if length:
                source = h5py.VirtualSource(entry["file"], name, shape=(length, *tail))
                virtual[position : position + length] = source
            position += length
        dataset = view.create_virtual_dataset(name, virtual, fillvalue=np.nan if dtype.names is None else None)
        dataset.attrs.update(attributes)
