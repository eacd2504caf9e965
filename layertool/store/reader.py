"""Reading a store."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from layertool.account import Account
from layertool.errors import StoreError, UsageError
from layertool.layers import summary
from layertool.spelling import natural
from layertool.store import layout, schema

_AGAIN = "run the same extract command again, it redoes just this shard"
# Of configurations: what is read of them and a store need not say.
_UNSAID = ("dtype", "layer_convention", "corpus", "channel", "window_seconds")


class FeatureStore:
    """The features of one model on one corpus.

    An opened store is one store: its description and index are read and checked once, and whatever is read later is
    what they said then. Raises StoreError when ``path`` is no store, is damaged or is unfinished
    (``allow_unfinished=True`` opens it for looking at its state); and, when something is read, where the shard or the
    store was replaced meanwhile, is damaged, or has its bytes from elsewhere.
    """

    def __init__(self, path: Path | str, allow_unfinished: bool = False):
        self.path = Path(path)
        layout.check_store(self.path)
        self._state = layout.state(self.path)
        self.about: dict = layout.read_about(self.path)
        self.index = layout.read_index(self.path, self.about)
        self._sound: dict[tuple[int, str], tuple[int, int]] = {}  # with their checksum, at this state of the file
        n_shards = self.about["n_shards"]
        n_missing = n_shards - len(self.index)
        self.damaged = damaged = layout.read_damaged(self.path, n_shards)
        self.finished = not n_missing and not damaged
        if damaged and not allow_unfinished:
            number, problem = next(iter(damaged.items()))
            raise StoreError(
                f"{self.path} is damaged ({len(damaged)} of {n_shards} shards; shard {number}: {problem}): run the "
                "same extract command again, it writes them anew"
            )
        if n_missing and not allow_unfinished:
            again = "commands of all ranks" if layout.part_indexes(self.path) else "command"
            raise StoreError(
                f"{self.path} is unfinished ({len(self.index)} of {n_shards} shards): run the same extract {again} "
                "again, it goes on where it stopped"
            )
        strangers = [n for n, entry in self.index.items() if entry["configuration"] != self.about["configuration_hash"]]
        if strangers and not allow_unfinished:
            raise StoreError(
                f"{self.path}: shard {strangers[0]} was written with another configuration; run the same extract "
                "command again"
            )

    def __repr__(self) -> str:
        units = ", ".join(self.units)
        of = f"{self.model} on {self.about['corpus']['name']}, units {units}, layers {summary(self.layers)}"
        return f"FeatureStore({str(self.path)!r}: {of})"

    @property
    def configuration(self) -> dict:
        """Everything that decides the numbers in the store."""
        said = self.about["configuration"]
        return {
            **said,
            **{name: None for name in _UNSAID if name not in said},
            "model": {**said["model"], "family": said["model"].get("family", "unknown")},
            "units": {**dict.fromkeys(self.units, "unknown"), **said["units"]},
        }

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
        table = layout.read_utterances(self.path, self.about["corpus"]["n_utterances"])
        self._check_same()
        return table

    @cached_property
    def labels(self) -> dict[str, list[str]]:
        """Every tier's labels; codes in the row tables are positions in these lists."""
        labels = layout.read_labels(self.path)
        self._check_same()
        return labels

    @property
    def failures(self) -> list[dict]:
        """Utterances that were left out, each with its error."""
        return [failure for entry in self.index.values() for failure in entry.get("failures", [])]

    def _check_unit(self, unit: str) -> None:
        if unit not in self.about["units"]:
            schema.check_unit(unit)
            raise UsageError(
                f"{self.path} has no unit '{unit}' (it has {', '.join(self.units)}): extract again with --units {unit}"
            )

    def table_of(self, unit: str, layer: str | None) -> str:
        """Name of the row table of a layer; frames of different rates have tables of their own."""
        self._check_unit(unit)
        if layer is None:
            if f"{unit}/rows" not in self.contents:
                raise UsageError(f"{self.path} has no {unit} rows at the model's own rate: name one of its layers")
            return "rows"
        rows = self.about["units"][unit]["rows"]
        if layer not in rows:
            layers = ", ".join(self.about["units"][unit]["layers"])
            raise UsageError(f"{self.path} has no layer '{layer}' at unit {unit} (it has {layers})")
        return rows[layer]

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
        table = self.table_of(unit, layer)
        for entry in self.index.values():
            length = entry["rows"][f"{unit}/{table}"]
            if first < length:
                with self._dataset(entry, f"{unit}/{layer}") as dataset:
                    yield from layout.blocks(dataset, max_rows, first)
            first = max(0, first - length)

    def read(self, unit: str, layer: str) -> np.ndarray:
        """All rows of a layer at a unit, shape (rows, width), in the dtype of the store."""
        table = self.table_of(unit, layer)
        out = np.empty((self.n_rows(unit, layer), self.width(layer)), dtype=self.configuration["store_dtype"])
        position = 0
        for entry in self.index.values():
            length = entry["rows"][f"{unit}/{table}"]
            if length:
                with self._dataset(entry, f"{unit}/{layer}") as dataset:
                    dataset.read_direct(out, dest_sel=np.s_[position : position + length])
            position += length
        return out

    def row_table(self, unit: str, layer: str | None = None) -> np.ndarray:
        """The compound row table: utterance and label codes, start and end in samples; with a mask, ``masked``."""
        table = self.table_of(unit, layer)
        parts = []
        n_labels = len(self.labels.get(unit, []))
        for entry in self.index.values():
            with self._dataset(entry, f"{unit}/{table}") as dataset:
                rows = dataset[:]
            if problems := schema.row_problems(rows, entry["utterances"], n_labels):
                shard = layout.shard_name(entry["shard"])
                raise StoreError(
                    f"{self.path / shard} holds what cannot be ({unit}/{table}: {problems[0]}): {self._verify}"
                )
            parts.append(rows)
        return np.concatenate(parts) if parts else np.empty(0, layout.row_dtype(unit, self.is_masked))

    def rows(self, unit: str, layer: str | None = None, metadata: bool = True) -> pd.DataFrame:
        """What each row stands for: utterance, start, end (seconds), label, and the utterance's metadata.

        Frames of a run with the time mask on have a column masked, too (true or false).
        A metadata column named label is utterance_label here. Frames of layers that run at another rate than the
        model's (C1 to C6 at 10 ms) need ``layer``.
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

    def export(
        self,
        out: Path | str,
        layout: str = "npy",
        units: Sequence[str] = (),
        layers: Sequence[str] | str = (),
        overwrite: bool = False,
        progress: Callable[[float, float], object] | None = None,
    ) -> Account:
        """Write layers as files of other programs: ``npy`` (Pasad et al.'s code), ``npz``, or ``fastabx``.

        ``units``, ``layers``: none for all there are. Returns what was written, a path a line. Raises StoreError where
        something is there already, UsageError where nothing of what is asked is in the store.
        """
        from layertool.store import abx, export

        writers = {"npy": export.export_npy, "npz": export.export_npz, "fastabx": abx.export_fastabx}
        if layout not in writers:
            raise UsageError(f"'{layout}' is no layout of files: choose {', '.join(writers)}")
        written = writers[layout](self, Path(out), units or None, layers or None, overwrite, progress)
        return Account(
            "", lines=list(map(str, written)), notes=abx.next_steps(Path(out)) if layout == "fastabx" else []
        )

    def _check_same(self, entry: dict | None = None) -> None:
        """Raise StoreError where the store, or its line about a shard, is not the one that was opened."""
        state = layout.state(self.path)
        if state != self._state and (state is None or layout.read_about(self.path) != self.about):
            raise StoreError(f"{self.path} was written anew after it was opened: run this command again")
        self._state = state
        if entry is None:
            return
        line = layout.read_index(self.path).get(entry["shard"], {})
        if {**line, "turn": 0} != {**entry, "turn": 0}:  # a merge drops ``turn``
            raise StoreError(
                f"{self.path}/{layout.shard_name(entry['shard'])} was written anew after the store was opened: run "
                "this command again"
            )

    @property
    def _verify(self) -> str:
        return f"run 'layertool verify {self.path}' and then the same extract command, which redoes just this shard"

    @contextmanager
    def _dataset(self, entry: dict, name: str) -> Iterator[h5py.Dataset]:
        """A dataset of a shard, while it is open: the one of which the index has the checksum."""
        path, file = self.path / layout.shard_name(entry["shard"]), None
        try:
            if problem := layout.misplaced(self.path, entry):
                raise StoreError(f"{self.path}/{problem}: {_AGAIN}")
            try:
                with h5py.File(path, "r") as file:
                    if problem := self._problem(file, entry, name):
                        raise StoreError(f"{path} is not what the index says ({name}: {problem}): {self._verify}")
                    yield file[name]
            except layout.DAMAGE as error:
                if file is None:
                    raise StoreError(f"{path} cannot be opened ({error}): delete it and {_AGAIN}") from error
                raise StoreError(f"{path} cannot be read ({name}: {error}): {self._verify}") from error
        except StoreError:
            self._check_same(entry)  # where it was replaced, nothing is damaged
            raise

    def _problem(self, file: h5py.File, entry: dict, name: str) -> str | None:
        """Why a dataset is not that of which the index has the checksum; it is computed once for each state of a
        file.
        """
        self._check_same()
        if problem := layout.dataset_problem(file, name, *self.contents[name].of(entry)):
            return problem
        status = os.fstat(file.id.get_vfd_handle())
        key, state = (entry["shard"], name), (status.st_mtime_ns, status.st_size)
        if self._sound.get(key) != state and layout.checksum(file[name]) != entry["checksums"][name]:
            return "the checksum differs"
        self._sound[key] = state
        return None

    @cached_property
    def contents(self) -> dict[str, schema.Content]:
        """What every shard holds: datasets by their names."""
        return schema.contents(self.about)


def matching(texts: Path | str | Iterable[Path | str]) -> list[Path]:
    """The folders of stores that paths and patterns name, each once; those of a pattern in natural order.

    ``series/*`` has ``step-2`` before ``step-10``, and of what it finds only stores count. A path without a pattern, or
    that is there, stands for itself, whatever it is. Raises StoreError for a pattern that no store matches.
    """
    folders: list[Path] = []
    for text in [texts] if isinstance(texts, (str, Path)) else texts:
        if not glob.has_magic(str(text)) or Path(text).exists():
            folders.append(Path(text))
            continue
        stores = [path for path in map(Path, glob.glob(str(text))) if (path / layout.ABOUT).is_file()]
        if not stores:
            raise StoreError(f"no feature store is called {text}: check the pattern, and keep it in quotes")
        folders += sorted(stores, key=lambda path: natural(str(path)))
    return list(dict.fromkeys(folders))
