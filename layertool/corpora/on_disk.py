"""A corpus on the disk: its tables appear together, and its record says what they are.

A new table waits as ``utterances.next.parquet`` until the record, corpus.json, names it by its checksum: from that
moment on the folder holds the new corpus, wherever a kill leaves the tables; before it, the old one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import ClassVar

import pandas as pd

from layertool.errors import CorpusError
from layertool.files import file_checksum, read_json, remove, sync_folder, whole_file, write_json
from layertool.folders import OutputFolder, check_outside, sweep
from layertool.kinds import STORE, kind

RECORD, LOCK, AUDIO = "corpus.json", ".corpus.lock", "audio"
TABLES = ("utterances", "segments")
FACTS = ("schema", "fingerprint", "tables", "audio_folder")  # of the record; the rest is name and provenance
_AUDIO = re.compile(rf"{AUDIO}(-\d+)?")


def read_record(folder: Path) -> dict | None:
    """What corpus.json says; None where there is none."""
    if not (folder / RECORD).exists():
        return None
    about = read_json(folder / RECORD, "the description of a corpus")
    if not isinstance(about, dict):
        raise CorpusError(f"{folder / RECORD} is no description of a corpus: make the corpus again")
    return about


def waiting(folder: Path, table: str) -> Path:
    """Where a table waits for its record."""
    return folder / f"{table}.next.parquet"


def is_named(about: Mapping | None, table: str, path: Path) -> bool:
    """Whether the record names the very bytes of a table."""
    sealed = about.get("tables") if about else None
    if not isinstance(sealed, dict) or table not in sealed or not path.is_file():
        return False
    return sealed[table] == _seal(str(about and about.get("fingerprint")), path)


def _seal(fingerprint: str, path: Path) -> str:
    return file_checksum(path, fingerprint.encode())


def table_at(folder: Path, table: str, about: Mapping | None) -> Path:
    """Where a table is read: as it waits, where a kill came after its record and before its name."""
    there = waiting(folder, table)
    return there if is_named(about, table, there) else folder / f"{table}.parquet"


def is_unfinished(folder: Path) -> bool:
    """Whether a process was stopped while it made a corpus here, and there was none before."""
    if (folder / RECORD).exists():
        return False
    if any(waiting(folder, table).exists() for table in TABLES):
        return True
    return (folder / LOCK).exists() and not any(path.stem == TABLES[0] for path in folder.iterdir())


def check_free(out: Path, overwrite: bool, read: Iterable[Path] = ()) -> None:
    """Raise CorpusError where a corpus would be replaced unasked.

    An unfinished one is finished, and one whose command was stopped at its end is made again.
    ``read``: corpora that it is made of; UsageError where one of them is, or lies in, ``out``.
    """
    for folder in read:
        check_outside(out, f"the corpus {folder}", folder)
    CorpusFolder(out)
    if (about := read_record(out)) is None:
        is_corpus = (out / f"{TABLES[0]}.parquet").exists() and not is_unfinished(out)
    else:
        is_corpus = _of_lock(out)[1] != _all_seals(about.get("tables"))
    if is_corpus and not overwrite:
        raise CorpusError(f"{out} holds a corpus already: choose another -o, or replace it with --overwrite")


def _of_lock(folder: Path) -> tuple[str, str]:
    """What the lock says of the command that took it: the folder that it fills with audio, and the tables that it
    wrote."""
    lock = folder / LOCK
    lines = lock.read_text(encoding="utf-8", errors="replace").splitlines() if lock.exists() else []
    audio, seals, *_ = [*lines, "", ""]
    return audio, seals


def _all_seals(tables: object) -> str:
    return " ".join(map(str, tables.values())) if isinstance(tables, dict) else "none"


class CorpusFolder(OutputFolder):
    """One process's hold on the folder of a corpus, in which its audio may lie too.

    A process may take it twice; where it has written audio it holds the folder until it has written the tables, too.
    Raises CorpusError for a feature store, which has a table of utterances too, and StoreError while another process
    writes.
    """

    _mine: ClassVar[dict[Path, CorpusFolder]] = {}  # held by this process

    def __init__(self, path: Path | str):
        super().__init__(Path(path), "corpus", RECORD, None, LOCK)
        if kind(path) == STORE:
            raise CorpusError(f"{path} is a feature store, in which a corpus cannot be written: choose another -o")

    def __enter__(self) -> CorpusFolder:
        place = self.path.resolve()
        if place not in self._mine:
            self.hold(f"{self.path} is being written by another layertool process: wait for it, or choose another -o")
            self._mine[place] = self
            self._locks.callback(self._mine.pop, place)
            self._settle()
            sweep(self.path)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None or self._filling is None:
            super().__exit__(kind, error, trace)

    def _settle(self) -> None:
        """Put in place what waits and is named by the record; take away what waits and is not."""
        about = read_record(self.path)
        for table in TABLES:
            there = waiting(self.path, table)
            if is_named(about, table, there):
                os.replace(there, self.path / f"{table}.parquet")
            else:
                there.unlink(missing_ok=True)
        sync_folder(self.path)

    @property
    def _filling(self) -> str | None:
        """The folder of audio that an unfinished corpus has begun: its lock says so."""
        audio = _of_lock(self.path)[0]
        finished = (read_record(self.path) or {}).get("audio_folder")  # a kill came before the lock was gone
        return audio if _AUDIO.fullmatch(audio) and audio != finished else None

    def new_audio(self) -> Path:
        """An empty folder for audio that the new corpus brings; that of the corpus which is there is left as it is."""
        name = self._filling
        if name is not None:
            remove(self.path / name)  # of a command that was stopped
        else:
            names = (AUDIO if n == 1 else f"{AUDIO}-{n}" for n in count(1))
            name = next(one for one in names if not any((self.path / one).glob("*")))
        (self.path / LOCK).write_text(name, encoding="utf-8")
        (self.path / name).mkdir(exist_ok=True)
        return self.path / name

    def put(self, tables: Mapping[str, pd.DataFrame], about: Mapping) -> None:
        """Write the tables of a corpus and its record: all of them, or what was there stays."""
        before = (read_record(self.path) or {}).get("audio_folder")
        brought = self._filling
        parts = {Path(audio).parts[0] for audio in tables["utterances"]["audio"] if not Path(audio).is_absolute()}
        used = [name for name in (brought, before) if name in parts]
        try:
            for name, table in tables.items():
                with whole_file(waiting(self.path, name)) as temporary:
                    table.to_parquet(temporary, index=False)
            seals = {name: _seal(str(about["fingerprint"]), waiting(self.path, name)) for name in tables}
            folder = {"audio_folder": used[0]} if used else {}
            (self.path / LOCK).write_text(f"{brought or ''}\n{_all_seals(seals)}\n", encoding="utf-8")
            write_json(self.path / RECORD, {**about, "tables": seals, **folder})
        finally:
            self._settle()
        for audio in (brought, before):
            if isinstance(audio, str) and audio not in parts and _AUDIO.fullmatch(audio):
                remove(self.path / audio)
        (self.path / LOCK).unlink(missing_ok=True)  # a corpus is its tables and their record
        self._mine[self.path.resolve()].close()
