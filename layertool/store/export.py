"""A store as plain NumPy files, for other programs."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from layertool import columns
from layertool import layers as layer_names
from layertool.errors import StoreError, UsageError
from layertool.files import saying_no_room, whole_file
from layertool.spelling import percent
from layertool.store.concluding import NUL
from layertool.store.reader import FeatureStore

# Ends a line or a cell, or is no text at all; and what looks as if it had been written so.
_OF_LINES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]|%(?=[0-9A-Fa-f]{2})")
_LONGEST_NAME = 200  # bytes: file systems take 255
Progress = Callable[[float, float], object]  # (layers written, layers in all)


def export_npy(
    store: FeatureStore,
    out: Path,
    units: Sequence[str] | None = None,
    layers: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write one float32 .npy per layer, in the layout of Pasad et al.'s code (spec layerwise.md 7.2).

    ``OUT/MODEL/CORPUS/{local,contextualized}/{unit}_level/``: C layers are local, others contextualized
    (decoder layers under ``decoder``); segments lie one folder down, in ``0/``, with ``labels_0.lst`` and
    ``segments_0.tsv`` beside it; frames have ``n_frames.txt`` (frames per utterance) and
    ``frames.tsv``, those of layers at another rate ``n_frames_10ms.txt`` and ``frames_10ms.tsv``. Returns what was written.
    """
    root = Path(out) / _slug(store.model) / _slug(store.about["corpus"]["name"])
    written: list[Path] = []
    chosen = _chosen(store, units, layers)
    total = sum(len(names) for _, names in chosen)
    described: set[tuple[Path, str]] = set()  # layers of one folder and rate share their rows
    for unit, names in chosen:
        for name in names:
            kind = {"C": "local", "D": "decoder"}.get(name[0] if name[1:].isdigit() else "", "contextualized")
            level = root / kind / f"{unit}_level"
            folder = level if unit == "frame" else level / "0"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"layer_{name[1:] if name[1:].isdigit() else name}.npy"
            _refuse(path, overwrite)
            _stream(store, unit, name, path)
            if (level, _rate(store, unit, name)) not in described:
                _write_rows(store, unit, name, level)
                described.add((level, _rate(store, unit, name)))
            written.append(path)
            if progress:
                progress(len(written), total)
    return written


def _write_rows(store: FeatureStore, unit: str, layer: str, level: Path) -> None:
    rows = store.rows(unit, layer, metadata=False)
    rate = _rate(store, unit, layer)
    with whole_file(level / (f"frames{rate}.tsv" if unit == "frame" else "segments_0.tsv")) as temporary:
        for name in ("utterance", "label"):
            rows[name] = rows[name].map({text: percent(str(text), _OF_LINES) for text in rows[name].dropna().unique()})
        rows.to_csv(temporary, sep="\t", index=False)
    if unit == "frame":
        counts = rows["utterance"].value_counts(sort=False)
        with whole_file(level / f"n_frames{rate}.txt") as temporary:
            temporary.write_text("".join(f"{count}\n" for count in counts), encoding="utf-8")
    else:
        column = "utterance" if unit == "utterance" else "label"
        with whole_file(level / "labels_0.lst") as temporary:
            temporary.write_text("".join(f"{label}\n" for label in rows[column]), encoding="utf-8")


def export_npz(
    store: FeatureStore,
    out: Path,
    units: Sequence[str] | None = None,
    layers: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write ``OUT/{unit}.npz`` with one array per layer and the row columns utterance, start, end, label
    (and masked, true or false, at frames of a run with the time mask on).

    Layers whose frames run at another rate go to ``frame_10ms.npz``. Returns what was written.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    chosen = _chosen(store, units, layers)
    done, total = 0, sum(len(names) for _, names in chosen)
    for unit, names in chosen:
        tables: dict[str, list[str]] = {}
        for name in names:
            tables.setdefault(store.about["units"][unit]["rows"][name], []).append(name)
        for members in tables.values():
            path = out / f"{unit}{_rate(store, unit, members[0])}.npz"
            _refuse(path, overwrite)
            rows = store.rows(unit, members[0], metadata=False)
            with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                for column in rows:
                    values = rows[column].to_numpy()
                    if values.dtype.kind not in "fib":  # object arrays would be pickles
                        texts = [percent(text or "", NUL) for text in columns.texts(values)]
                        values = np.array(texts, dtype=np.str_)
                    with archive.open(f"{column}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, values, allow_pickle=False)
                for name in members:
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        _write_layer(store, unit, name, file, np.dtype(store.configuration["store_dtype"]))
                    done += 1
                    if progress:
                        progress(done, total)
            written.append(path)
    return written


def _rate(store: FeatureStore, unit: str, layer: str) -> str:
    """What file names say of layers whose frames run at another rate than the model's: "_10ms", else nothing."""
    table = store.about["units"][unit]["rows"][layer]
    if table == "rows":
        return ""
    return f"_{int(table.split('_')[1]) * 1000 / store.about['audio']['sample_rate']:g}ms"


def _stream(store: FeatureStore, unit: str, layer: str, path: Path) -> None:
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        _write_layer(store, unit, layer, file, np.dtype(np.float32))


def _write_layer(store: FeatureStore, unit: str, layer: str, file, dtype: np.dtype) -> None:
    """One layer as .npy, block by block: a store larger than memory can be exported."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": (store.n_rows(unit, layer), store.width(layer))}
    with saying_no_room(Path(getattr(file, "name", layer))):
        np.lib.format.write_array_header_1_0(file, header)
        for block in store.blocks(unit, layer):
            file.write(block.astype(dtype, copy=False).tobytes())


def _chosen(store: FeatureStore, units: Sequence[str] | None, layers: str | None) -> list[tuple[str, list[str]]]:
    names = layer_names.select(layers, store.layers, str(store.path)) if layers else store.layers
    chosen = []
    for unit in units or store.units:
        there = [name for name in store.layers_of(unit) if name in names]
        if there:
            chosen.append((unit, there))
    if not chosen:
        raise UsageError(f"{store.path} has none of the layers {layers} at the units {', '.join(units or store.units)}")
    return chosen


def _refuse(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise StoreError(f"{path} exists already: choose another -o, or replace it with --overwrite")


def _slug(name: str) -> str:
    """The name of a folder: short enough for file systems, and no way out of the folder it is in."""
    return re.sub(r"[^\w.-]+|\A\.*\Z", "_", name).encode()[:_LONGEST_NAME].decode(errors="ignore")
