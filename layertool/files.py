"""Files that are either whole or absent.

A file is written under a temporary name beside its place, flushed to the disk, and renamed: a kill
or a full disk leaves what was there before. Every kind of "no room" becomes one StoreError.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layertool.errors import StoreError

_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file-size limit is reached",
}

_LARGEST_JSON = 2**26  # bytes
_OURS = secrets.token_hex(4)


def no_room(error: BaseException) -> str | None:
    """Why a write failed if it failed for lack of room, else None.

    HDF5 raises RuntimeError or OSError with the errno only in its text.
    """
    number = getattr(error, "errno", None)
    if number is None and (match := re.search(r"errno = (\d+)", str(error))):
        number = int(match.group(1))
    return _NO_ROOM.get(number) if number is not None else None


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut (where the system can open folders)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """Where ``path`` is written before it is whole: a hidden file beside it, of this process alone.

    Processes on other machines that share the file system may have the same number, and the same name of host in containers.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{_OURS}.part")


def put_in_place(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to the disk and give it its name."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


@contextmanager
def saying_no_room(path: Path) -> Iterator[None]:
    """Turn any error for lack of room into a StoreError about ``path``; others pass unchanged."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if reason := no_room(error):
            raise StoreError(
                f"{path} could not be written: {reason}; free some room and run the same command again, "
                "what is finished is kept"
            ) from error
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path``, on failure it is removed.

    Raises StoreError when there is no room for it; other errors pass unchanged.
    """
    path = Path(path)
    temporary = temporary_path(path)
    try:
        with saying_no_room(path):
            yield temporary
            put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def what_is(mode: int) -> str:
    """What stands where a file was looked for, by its ``st_mode``."""
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


def read_json(path: Path, what: str):
    """Read a JSON file; a damaged one, or no file, is a StoreError that names it as ``what``.

    What is larger than any description of ours is not read, and a pipe or a device is not waited for.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"it is no file but {what_is(status.st_mode)}")
        if status.st_size > _LARGEST_JSON:
            raise ValueError(f"it has {status.st_size} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not readable as {what} ({error}); restore it or make it again") from error
