"""Reading a store."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from layertool import columns
from layertool.errors import StoreError, UsageError
from layertool.files import read_json
from layertool.store import layout


class FeatureStore:
    """The features of one model on one corpus.

    Raises StoreError when ``path`` is no store or is unfinished (``allow_unfinished=True`` opens it
    for looking at its state).
    """

    def __init__(self, path: Path | str, allow_unfinished: bool = False):
        self.path = Path(path)
        layout.check_store(self.path)
        self.about: dict = read_json(self.path / layout.ABOUT, "the description of a store")
        if self.about.get("schema") != layout.SCHEMA:
            raise StoreError(
                f"{self.path} has store schema {self.about.get('schema')}, this layertool reads {layout.SCHEMA}: extract it again"
            )
        self.index = layout.read_index(self.path)
        n_shards = self.about["n_shards"]
        missing = [number for number in range(n_shards) if number not in self.index]
        damaged = layout.read_damaged(self.path)
        self.finished = not missing and not damaged
        if damaged and not allow_unfinished:
            number, problem = next(iter(damaged.items()))
            raise StoreError(
                f"{self.path} is damaged ({len(damaged)} of {n_shards} shards; shard {number}: {problem}): run the same extract "
                "command again, it writes them anew"
            )
        if missing and not allow_unfinished:
            again = "commands of all ranks" if layout.part_indexes(self.path) else "command"
            raise StoreError(
                f"{self.path} is unfinished ({n_shards - len(missing)} of {n_shards} shards): run the same extract {again} "
                "again, it goes on where it stopped"
            )

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}: {self.model}, units {', '.join(self.units)}, layers {', '.join(self.layers)})"

    @property
    def configuration(self) -> dict:
        """Everything that decides the numbers in the store."""
        return self.about["configuration"]

    @property
    def model(self) -> str:
        """The model's id as it was asked for, without its revision."""
        return self.configuration["model"]["id"]

    @property
    def is_masked(self) -> bool:
        """Whether the time mask of pre-training was on; frame rows then say which of them are masked."""
        return "mask_seed" in self.configuration

    @property
    def units(self) -> list[str]:
        """Units of speech that have rows, finest first."""
        return list(self.about["units"])

    @property
    def layers(self) -> list[str]:
        """Layers in the order of the network, e.g. ["C1", ..., "T0", ..., "T12"]."""
        return list(self.about["layers"])

    def layers_of(self, unit: str) -> list[str]:
        """The layers that stand at ``unit`` (decoder layers have no frames and no phones)."""
        self._check_unit(unit)
        return list(self.about["units"][unit]["layers"])

    @cached_property
    def utterances(self) -> pd.DataFrame:
        """The corpus's utterance table, with its metadata."""
        path = self.path / layout.UTTERANCES
        try:
            table = columns.read_parquet(path)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} is not readable as the utterances of a store ({error}): run the same extract command again, "
                "it is written anew"
            ) from error
        wanted = self.about.get("corpus", {}).get("n_utterances", len(table))
        if len(table) != wanted:
            raise StoreError(
                f"{path} has {len(table)} utterances, the store {wanted}: it is of another corpus; run the same extract command "
                "again, it is written anew"
            )
        return table

    @cached_property
    def labels(self) -> dict[str, list[str]]:
        """Every tier's labels; codes in the row tables are positions in these lists."""
        return read_json(self.path / layout.LABELS, "the labels of a store")

    @property
    def failures(self) -> list[dict]:
        """Utterances that were left out, each with its error."""
        return [failure for entry in self.index.values() for failure in entry.get("failures", [])]

    def _check_unit(self, unit: str) -> None:
        if unit not in self.about["units"]:
            raise UsageError(
                f"{self.path} has no unit '{unit}' (it has {', '.join(self.units)}): extract again with --units {unit}"
            )

    def _check(self, unit: str, layer: str) -> None:
        self._check_unit(unit)
        if layer not in self.about["units"][unit]["layers"]:
            there = ", ".join(self.about["units"][unit]["layers"])
            raise UsageError(f"{self.path} has no layer '{layer}' at unit {unit} (it has {there})")

    def table_of(self, unit: str, layer: str | None) -> str:
        """Name of the row table of a layer; frames of different rates have tables of their own."""
        self._check_unit(unit)
        if layer is None:
            return "rows"
        self._check(unit, layer)
        return self.about["units"][unit]["rows"][layer]

    def n_rows(self, unit: str, layer: str | None = None) -> int:
        """Number of rows of a unit (at the rate of ``layer``, for frames)."""
        table = self.table_of(unit, layer)
        return sum(entry["rows"][f"{unit}/{table}"] for entry in self.index.values())

    def width(self, layer: str) -> int:
        """Number of dimensions of a layer."""
        return self.about["layers"][layer]["width"]

    def blocks(self, unit: str, layer: str, max_rows: int = layout.BLOCK_ROWS, first: int = 0) -> Iterator[np.ndarray]:
        """The rows of a layer in order, from row ``first`` on, in blocks of at most ``max_rows``, each (rows, width).

        A store larger than memory is read this way. Raises StoreError when a shard is missing.
        """
        self._check(unit, layer)
        table = self.table_of(unit, layer)
        for entry in self.index.values():
            length = entry["rows"][f"{unit}/{table}"]
            if first < length:
                with self._shard(entry) as file:
                    yield from layout.blocks(file[f"{unit}/{layer}"], max_rows, first)
            first = max(0, first - length)

    def read(self, unit: str, layer: str) -> np.ndarray:
        """All rows of a layer at a unit, shape (rows, width), in the dtype of the store."""
        self._check(unit, layer)
        table = self.table_of(unit, layer)
        out = np.empty((self.n_rows(unit, layer), self.width(layer)), dtype=self.configuration["store_dtype"])
        position = 0
        for entry in self.index.values():
            length = entry["rows"][f"{unit}/{table}"]
            if length:
                with self._shard(entry) as file:
                    if len(file[f"{unit}/{layer}"]) != length:  # HDF5 would repeat a single row
                        raise StoreError(f"{self.path / entry['file']} is not what the index says: verify the store")
                    file[f"{unit}/{layer}"].read_direct(out, dest_sel=np.s_[position : position + length])
            position += length
        return out

    def row_table(self, unit: str, layer: str | None = None) -> np.ndarray:
        """The compound row table: utterance and label codes, start and end in samples; with a mask, ``masked``."""
        table = self.table_of(unit, layer)
        parts = []
        for entry in self.index.values():
            with self._shard(entry) as file:
                parts.append(file[f"{unit}/{table}"][:])
        return np.concatenate(parts) if parts else np.empty(0, layout.row_dtype(unit, self.is_masked))

    def rows(self, unit: str, layer: str | None = None, metadata: bool = True) -> pd.DataFrame:
        """What each row stands for: utterance, start, end (seconds), label, and the utterance's metadata.

        Frames of a run with the time mask on have a column masked, too (true or false).
        A metadata column named label is utterance_label here. Frames of layers that run at another rate than the model's (C1 to C6 at 10 ms) need ``layer``.
        """
        codes = self.row_table(unit, layer)
        rate = self.about["audio"]["sample_rate"]
        table = pd.DataFrame(
            {
                "utterance": self.utterances["utterance"].to_numpy()[codes["utterance"]],
                "start": codes["start"] / rate,
                "end": codes["end"] / rate,
            }
        )
        names = np.array([*self.labels.get(unit, []), None], dtype=object)  # code -1 is the last: no label
        table["label"] = names[codes["label"]]
        if codes.dtype == layout.MASKED_ROW_DTYPE:
            table["masked"] = codes["masked"]
        if metadata:
            extra = self.utterances[[c for c in self.utterances.columns if c not in self.about["audio"]["columns"]]]
            extra = extra.rename(columns={c: f"utterance_{c}" for c in table.columns if c in extra})
            table = pd.concat([table, extra.iloc[codes["utterance"]].reset_index(drop=True)], axis=1)
        return table

    def _shard(self, entry: dict) -> h5py.File:
        path = self.path / entry["file"]
        try:
            return h5py.File(path, "r")
        except OSError as error:
            what = f"cannot be opened ({error}): delete it and" if path.exists() else "is missing:"
            raise StoreError(f"{path} {what} run the same extract command again, it redoes just this shard") from error
