"""The end of a run: one index, and one view over all shards."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from layertool import columns
from layertool.account import count
from layertool.errors import StoreError
from layertool.files import whole_file
from layertool.folders import LOCK, held, sweep
from layertool.spelling import percent
from layertool.store import layout, schema
from layertool.store.sheltered import Sheltered

# In names of datasets / is a folder and . is this one. Column names that look like written ones do not become them.
_NO_NAME = re.compile(r"[/\0]|\A\.\Z|%(?=[0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Merged:
    """What a merge found: shards in all, indexes of ranks that were put into one."""

    n_shards: int
    n_parts: int

    def __str__(self) -> str:
        parts = f" of {count(self.n_parts, 'rank')}" if self.n_parts else ", merged before"
        return f"complete: {count(self.n_shards, 'shard')}{parts}"


def merge(path: Path | str) -> Merged:
    """Finish a store that ranks of a job array have written: one index.jsonl in the order of the corpus, and store.h5.

    Raises StoreError when shards are missing or damaged, and while a rank is writing. Merging again changes nothing.
    """
    path = Path(path)
    layout.check_store(path)
    with held(path / LOCK, shared=False, busy=f"{path} is still being written: merge it when all ranks have ended"):
        about = layout.read_about(path)
        n_parts, n_shards = len(layout.part_indexes(path)), about["n_shards"]
        damaged, index = layout.read_damaged(path, n_shards), layout.read_index(path, about)
        in_place = {n for n, entry in index.items() if n not in damaged and layout.misplaced(path, entry) is None}
        if n_missing := n_shards - len(in_place):
            missing = islice((n for n in range(n_shards) if n not in in_place), 5)
            shown = ", ".join(map(str, missing)) + (", …" if n_missing > 5 else "")
            raise StoreError(
                f"{path} is unfinished: {n_missing} of {n_shards} shards are missing or damaged ({shown}); run the "
                "same extract commands again (any --nshard), then merge"
            )
        other = [n for n, entry in index.items() if entry["configuration"] != about["configuration_hash"]]
        if other:
            raise StoreError(
                f"{path}: shard {other[0]} was written with another configuration; run the same extract command again"
            )
        sweep(path, layout.SHARDS, layout.PARTS)
        conclude(path, index)
    return Merged(n_shards, n_parts)


def conclude(store: Path, finished: Mapping[int, dict]) -> None:
    """Write store.h5 over all shards: one virtual matrix per unit and layer, the row tables, ids and labels as text.

    Where ranks have indexes of their own, these are put into one.
    """
    gather(store, finished)
    about = layout.read_about(store)
    utterances = layout.read_utterances(store, about["corpus"]["n_utterances"])
    labels = layout.read_labels(store)
    with whole_file(store / layout.VIEW) as temporary:
        sheltered = Sheltered(temporary, store / layout.VIEW)
        with h5py.File(sheltered, "w") as view:
            fill_view(view, schema.contents(about), [finished[n] for n in sorted(finished)], utterances, labels)
        sheltered.close()
        sheltered.check()


def gather(store: Path, finished: Mapping[int, dict]) -> None:
    """Put the lines of ranks' indexes into the one index. Nobody else may be writing."""
    if (store / layout.PARTS).exists():
        with whole_file(store / layout.INDEX) as temporary:
            ordered = ({k: v for k, v in finished[number].items() if k != "turn"} for number in sorted(finished))
            lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in ordered)
            temporary.write_text("".join(lines), encoding="utf-8")
        shutil.rmtree(store / layout.PARTS)  # the index has its lines now


def fill_view(
    view: h5py.File,
    contents: Mapping[str, schema.Content],
    entries: list[dict],
    utterances: pd.DataFrame,
    labels: Mapping[str, list[str]],
) -> None:
    """Write into ``view``, a new file, what ``conclude`` says; ``entries``: lines of the index, in the order of
    shards.
    """
    text = h5py.string_dtype()
    for column in utterances:
        values = utterances[column]
        name = f"utterances/{percent(column, _NO_NAME)}"
        if pd.api.types.is_numeric_dtype(values) and not values.isna().any():
            view.create_dataset(name, data=values.to_numpy())
        else:
            as_text = [layout.as_held(text or "") for text in columns.texts(values)]
            view.create_dataset(name, data=as_text, dtype=text)
    for tier, names in labels.items():
        as_text = [layout.as_held(name) for name in names]
        view.create_dataset(f"labels/{tier}", data=as_text, dtype=text, shape=(len(names),))
    for name in entries[0]["checksums"] if entries else ():  # in the order in which they were written
        dtype, table, tail = contents[name]
        lengths = [entry["rows"][table] for entry in entries]
        virtual = h5py.VirtualLayout((sum(lengths), *tail), dtype)
        virtual.dcpl.set_obj_track_times(False)  # equal stores have equal bytes
        position = 0
        for entry, length in zip(entries, lengths, strict=True):
            if length:
                source = h5py.VirtualSource(layout.shard_name(entry["shard"]), name, shape=(length, *tail))
                virtual[position : position + length] = source
            position += length
        dataset = view.create_virtual_dataset(name, virtual, fillvalue=np.nan if tail else None)
        if tail:
            dataset.attrs["rows"] = table.split("/")[1]
