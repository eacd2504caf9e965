"""What a report is made of: result files, and the losses and records of training runs."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from layertool import result_rows
from layertool.errors import StoreError, UsageError
from layertool.files import read_json

LOSSES = "losses.csv"
RECORDS = ("pretrain.json", "compress.json", "distill.json", "ctc.json", "finetune.json")
_HEAD = ["step", "loss"]
_COUNTED = {"step", "epoch"}  # of a history: where a number stands, not what it is


@dataclass(frozen=True)
class Source:
    """A result file: its path, its rows, and the sha256 of its bytes."""

    path: Path
    n_rows: int
    sha256: str


@dataclass(frozen=True)
class Run:
    """A training run: its folder, what decided it, and its curves, (step, number) pairs of each quantity."""

    folder: Path
    record: dict[str, Any]
    curves: dict[str, list[tuple[int, float]]]

    @property
    def kind(self) -> str:
        return str(self.record.get("kind", "training"))


@dataclass(frozen=True)
class Inputs:
    """Everything that was given. ``rows``: the table of results, each row once, with ``file``, the position of its
    source."""

    rows: pd.DataFrame
    sources: list[Source]
    runs: list[Run]


def of_rows(rows: pd.DataFrame) -> Inputs:
    """Rows that are in no file."""
    rows = rows.reindex(columns=result_rows.COLUMNS).drop_duplicates().reset_index(drop=True)
    return Inputs(rows.assign(file=0), [], [])


def read(paths: Sequence[Path | str]) -> Inputs:
    """Read result files (.csv, .parquet, .json), losses.csv, records of runs, and folders of runs.

    Raises UsageError for anything else, and for files that hold no row at all.
    """
    tables: list[pd.DataFrame] = []
    sources: list[Source] = []
    runs: dict[Path, Run] = {}
    for path in dict.fromkeys(map(Path, paths)):
        found = list(_runs_of(path))
        if found:
            runs |= {run.folder.resolve(): run for run in found}
            continue
        if path.is_dir():
            hint = (
                "; it is a feature store: give the results of an analysis of it"
                if (path / "store.json").exists()
                else ""
            )
            raise UsageError(
                f"{path} is no folder of a training run (it has none of {LOSSES}, {', '.join(RECORDS)}){hint}"
            )
        table = result_rows.read([path])
        tables.append(table.assign(file=len(sources)))
        sources.append(Source(path, len(table), hashlib.sha256(path.read_bytes()).hexdigest()))
    filled = [table for table in tables if len(table)]
    if not filled and not runs:
        raise UsageError("there are no results to report: the files have no rows")
    rows = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=[*result_rows.COLUMNS, "file"])
    rows = rows.drop_duplicates(result_rows.COLUMNS).reset_index(drop=True)
    return Inputs(rows, sources, list(runs.values()))


def _runs_of(path: Path) -> Iterator[Run]:
    """The run that a file or folder belongs to; of a folder without one, those of the folders in it."""
    if path.is_file():
        if _is_losses(path) or _is_record(path):
            yield _run(path.parent)
    elif _is_run(path):
        yield _run(path)
    elif path.is_dir():
        yield from (_run(folder) for folder in sorted(path.iterdir()) if folder.is_dir() and _is_run(folder))


def _is_run(folder: Path) -> bool:
    return _is_losses(folder / LOSSES) or any((folder / name).is_file() for name in RECORDS)


def _is_losses(path: Path) -> bool:
    if path.suffix != ".csv" or not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return next(csv.reader(file), [])[: len(_HEAD)] == _HEAD


def _is_record(path: Path) -> bool:
    return path.name in RECORDS and isinstance(read_json(path, "the record of a run"), dict)


def _run(folder: Path) -> Run:
    """A run with its losses: those of losses.csv, else of its record; and what was measured while it went on."""
    record: dict[str, Any] = {}
    for name in RECORDS:
        if (folder / name).is_file():
            found = read_json(folder / name, "the record of a run")
            if not isinstance(found, dict):
                raise StoreError(f"{folder / name} is no record of a run: restore it or make it again")
            record = found
            break
    curves: dict[str, list[tuple[int, float]]] = {}
    if _is_losses(folder / LOSSES):
        curves["loss"] = _losses(folder / LOSSES)
    elif pairs := record.get("losses"):
        curves["loss"] = _pairs(folder, pairs)
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(point, dict) for point in history):
        raise StoreError(f"the history in {folder} is no list of points: restore the record or make it again")
    names = dict.fromkeys(name for point in history for name in point if name not in _COUNTED)
    for name in names:
        points = [(point.get("step"), point.get(name)) for point in history]
        known = [(int(step), float(value)) for step, value in points if _is_number(step) and _is_number(value)]
        if known and not (name == "loss" and "loss" in curves):
            curves[name if name == "loss" else f"{name} (dev part)" if name != "dev" else "score of the dev part"] = (
                known
            )
    return Run(folder, record, {name: points for name, points in curves.items() if points})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _losses(path: Path) -> list[tuple[int, float]]:
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))[1:]
    return _pairs(path, lines)


def _pairs(place: Path, pairs: Any) -> list[tuple[int, float]]:
    try:
        return [(int(step), float(loss)) for step, loss, *_ in pairs]
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{place} has losses that are no (step, number) pairs ({error}): restore it or make it again"
        ) from error
