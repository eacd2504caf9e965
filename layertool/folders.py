"""Folders that commands write: who may write one, whether it is ours, what a kill left in it, what it must not hold.

Stores, corpora, training runs and exports are such folders. Single files are in ``layertool.files``.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path

from layertool.errors import StoreError, UsageError, tell
from layertool.files import lack_of_room, remove

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # some cluster file systems are mounted without them


@contextmanager
def held(path: Path, shared: bool, busy: str) -> Iterator[None]:
    """Hold a lock, which the system lets go of when the process ends, however it ends; ``shared`` with others who share
    it.

    Raises StoreError with the text ``busy`` where another process has it. A file system without locks is told of.
    """
    with ExitStack() as opened:
        file = opened.enter_context(open(path, "a+"))
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(busy) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            tell(f"{path.parent}: this file system has no locks; make sure that nobody else writes there")
        if not path.exists() or not os.path.sameopenfile(file.fileno(), opened.enter_context(open(path)).fileno()):
            raise StoreError(busy)  # its last holder has just taken the file away, and this is no lock any more
        yield  # closing the file lets go of the lock


class OutputFolder:
    """One process's hold on a folder that it writes.

    ``what`` it is to be ("store"); ``record``: the file that says so, once the folder is begun; ``own``: patterns of
    what a folder may hold whose process was killed before the record was there, None for a folder that may have other
    things in it. ``lock``: its first file.
    Raises StoreError, and touches nothing, for a file, and for a folder that holds something else.
    """

    def __init__(self, path: Path, what: str, record: str, own: Sequence[str] | None, lock: str = LOCK):
        self.path, self.lock = path, lock
        self._locks = ExitStack()
        if path.is_file():
            raise StoreError(f"{path} is a file, a {what} is a folder: choose another -o")
        if own is None or not path.is_dir() or (path / record).exists():
            return
        others = sorted(one.name for one in path.iterdir())
        if lock in others:  # without it a file only has the name of ours
            mine = (lock, ".*.part", *own)
            others = [name for name in others if not any(fnmatch(name, pattern) for pattern in mine)]
        if others:
            raise StoreError(f"{path} is no {what} but holds other things ({others[0]}): choose another -o")

    def hold(self, busy: str, name: str | None = None, shared: bool = False) -> None:
        """Make the folder, and take its lock, or another one ``name``, until ``close``."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._locks.enter_context(held(self.path / (name or self.lock), shared, busy))

    def close(self) -> None:
        """Let go of the folder; another process may write it then."""
        self._locks.close()

    def __enter__(self):
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.close()
        if said := lack_of_room(self.path, error):
            raise said from error


def sweep(folder: Path, *below: str) -> None:
    """Remove everything half-written in a folder, and in folders ``below`` it, by whatever machine.

    Nobody else may write.
    """
    for stale in [path for one in ("", *below) for path in (folder / one).glob(".*.part")]:
        remove(stale)


def check_outside(out: Path, what: str, path: Path) -> None:
    """Raise UsageError where what is read lies in the folder that is to be written, or is it, by whatever name or link.

    ``what`` begins the message. What is not there (an id of the hub) passes, and so does a folder inside what is read.
    """
    if not path.exists() or not out.exists():
        return
    # as it is spelled, where it leads to, and where links in it lead to
    places = [Path(os.path.abspath(path)), path.resolve()]
    places += [one.resolve() for one in path.iterdir() if one.is_symlink()] if path.is_dir() else []
    if any(folder.exists() and folder.samefile(out) for place in places for folder in (place, *place.parents)):
        raise UsageError(f"{what} lies in {out}, which is to be written: choose another -o")
