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
from layertool.folders import OutputFolder
from layertool.kinds import kind
from layertool.spelling import percent
from layertool.store import layout
from layertool.store.reader import FeatureStore
from layertool.store.schema import LONGEST_NAME

# Ends a line or a cell, or is no text at all; and what looks as if it had been written so.
_OF_LINES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]|%(?=[0-9A-Fa-f]{2})")
Progress = Callable[[float, float], object]  # (layers written, layers in all)


def export_npy(
    store: FeatureStore,
    out: Path,
    units: Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write one float32 .npy per layer, in the layout of Pasad et al.'s code (spec layerwise.md 7.2).

    ``OUT/MODEL/CORPUS/{local,contextualized}/{unit}_level/``: C layers are local, others contextualized
    (decoder layers under ``decoder``); segments lie one folder down, in ``0/``, with ``labels_0.lst`` and
    ``segments_0.tsv`` beside it; frames have ``n_frames.txt`` (frames per utterance) and
    ``frames.tsv``, those of layers at another rate ``n_frames_10ms.txt`` and ``frames_10ms.tsv``. Returns what was
    written.
    """
    root = Path(out) / _slug(store.model) / _slug(store.about["corpus"]["name"])
    parts = {}  # path: unit, layer, level
    for unit, names in chosen_layers(store, units, layers):
        for name in names:
            kind = {"C": "local", "D": "decoder"}.get(name[0] if name[1:].isdigit() else "", "contextualized")
            level = root / kind / f"{unit}_level"
            folder = level if unit == "frame" else level / "0"
            parts[folder / f"layer_{name[1:] if name[1:].isdigit() else name}.npy"] = unit, name, level
    described: set[tuple[Path, str]] = set()  # layers of one folder and rate share their rows
    with ExportFolder(store, Path(out), list(parts), overwrite):
        for n_written, (path, (unit, name, level)) in enumerate(parts.items(), 1):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary, open(temporary, "wb") as file:
                _write_layer(store, unit, name, file, np.dtype(np.float32))
            if (level, _rate(store, unit, name)) not in described:
                _write_rows(store, unit, name, level)
                described.add((level, _rate(store, unit, name)))
            if progress:
                progress(n_written, len(parts))
    return list(parts)


class ExportFolder(OutputFolder):
    """One process's hold on what it exports to a folder; other exports may lie, and be written, beside it.

    Raises StoreError where one of ``paths`` is there already, unless an earlier process that was stopped wrote it.
    """

    def __init__(self, store: FeatureStore, out: Path, paths: Sequence[Path], overwrite: bool):
        if out.is_file() or kind(out):
            what = "a file" if out.is_file() else f"a {kind(out)}"
            raise UsageError(f"{out} is {what}: arrays go into a folder of their own, choose another -o")
        asked = {"store": store.about["configuration_hash"], "paths": [str(path.relative_to(out)) for path in paths]}
        lock = f".export-{layout.configuration_hash(asked)[:8]}.lock"  # there as long as the export is not
        super().__init__(out, "folder of exports", lock, None, lock)
        there = [] if overwrite or (out / lock).exists() else [path for path in paths if path.exists()]
        if there:
            raise StoreError(f"{there[0]} exists already: choose another -o, or replace it with --overwrite")

    def __enter__(self) -> ExportFolder:
        self.hold(f"the same export to {self.path} is being written by another process: wait for it")
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            (self.path / self.lock).unlink(missing_ok=True)
        super().__exit__(kind, error, trace)


def _write_rows(store: FeatureStore, unit: str, layer: str, level: Path) -> None:
    rows = store.rows(unit, layer, metadata=False)
    rate = _rate(store, unit, layer)
    with whole_file(level / (f"frames{rate}.tsv" if unit == "frame" else "segments_0.tsv")) as temporary:
        for name in ("utterance", "label"):
            rows[name] = rows[name].map({text: percent(str(text), _OF_LINES) for text in rows[name].dropna().unique()})
        rows.to_csv(temporary, sep="\t", index=False)
    name, lines = "labels_0.lst", rows["utterance" if unit == "utterance" else "label"]
    if unit == "frame":
        name, lines = f"n_frames{rate}.txt", rows["utterance"].value_counts(sort=False)
    with whole_file(level / name) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def export_npz(
    store: FeatureStore,
    out: Path,
    units: Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write ``OUT/{unit}.npz`` with one array per layer and the row columns utterance, start, end, label
    (and masked, true or false, at frames of a run with the time mask on).

    Layers whose frames run at another rate go to ``frame_10ms.npz``. Returns what was written.
    """
    out = Path(out)
    chosen = chosen_layers(store, units, layers)
    done, total = 0, sum(len(names) for _, names in chosen)
    files: dict[Path, tuple[str, list[str]]] = {}  # path: unit, layers
    for unit, names in chosen:
        for name in names:
            files.setdefault(out / f"{unit}{_rate(store, unit, name)}.npz", (unit, []))[1].append(name)
    with ExportFolder(store, out, list(files), overwrite):
        for path, (unit, members) in files.items():
            rows = store.rows(unit, members[0], metadata=False)
            with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                for column in rows:
                    values = rows[column].to_numpy()
                    if values.dtype.kind not in "fib":  # object arrays would be pickles
                        texts = [layout.as_held(text or "") for text in columns.texts(values)]
                        values = np.array(texts, dtype=np.str_)
                    with archive.open(f"{column}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, values, allow_pickle=False)
                for name in members:
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        _write_layer(store, unit, name, file, np.dtype(store.configuration["store_dtype"]))
                    done += 1
                    if progress:
                        progress(done, total)
    return list(files)


def _rate(store: FeatureStore, unit: str, layer: str) -> str:
    """What file names say of layers whose frames run at another rate than the model's: "_10ms", else nothing."""
    table = store.about["units"][unit]["rows"][layer]
    if table == "rows":
        return ""
    return f"_{int(table.split('_')[1]) * 1000 / store.about['audio']['sample_rate']:g}ms"


def _write_layer(store: FeatureStore, unit: str, layer: str, file, dtype: np.dtype) -> None:
    """One layer as .npy, block by block: a store larger than memory can be exported."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": (store.n_rows(unit, layer), store.width(layer))}
    with saying_no_room(Path(getattr(file, "name", layer))):
        np.lib.format.write_array_header_1_0(file, header)
        for block in store.blocks(unit, layer):
            file.write(block.astype(dtype, copy=False).tobytes())


def chosen_layers(
    store: FeatureStore, units: Sequence[str] | None, layers: str | Sequence[str] | None
) -> list[tuple[str, list[str]]]:
    """Each unit with those of its layers that are asked for. Raises UsageError where there is none."""
    names = layer_names.select(layers or store.layers, store.layers, str(store.path))
    chosen = [(unit, [name for name in store.layers_of(unit) if name in names]) for unit in units or store.units]
    if not any(of_unit for _, of_unit in chosen):
        asked = layers if isinstance(layers, str) else ",".join(layers or ())
        raise UsageError(f"{store.path} has none of the layers {asked} at the units {', '.join(units or store.units)}")
    return [(unit, of_unit) for unit, of_unit in chosen if of_unit]


def _slug(name: str) -> str:
    """The name of a folder: short enough for file systems, and no way out of the folder it is in."""
    return re.sub(r"[^\w.-]+|\A\.*\Z", "_", name).encode()[:LONGEST_NAME].decode(errors="ignore")
