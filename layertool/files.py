"""Files that are either whole or absent.

A file is written under a temporary name beside its place, flushed to the disk, and renamed: a kill
or a full disk leaves what was there before. Every kind of "no room" becomes one StoreError. What a kill
leaves of a temporary file goes when the next file is written into the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import xxhash

from layertool.errors import LayertoolError, StoreError, UsageError
from layertool.spelling import visible

_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file-size limit is reached",
}

_LARGEST_JSON = 2**26  # bytes
# How libraries say it that have the number in their text only: HDF5, Arrow, safetensors ...
_NUMBER = re.compile(r"errno = (\d+)|\[errno (\d+)\]|\(os error (\d+)\)", re.IGNORECASE)
# ... only say it ...
_SAID = {os.strerror(number): number for number in _NO_ROOM}
# ... or lose it, as torch and NumPy.
_LOST = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs|\d+ requested and \d+ written")
_DAY = 86_400.0  # seconds
_SHARE = 20  # a folder is swept again after so many times the seconds that it took
_OURS = secrets.token_hex(3)
_TEMPORARY = re.compile(r"\..+\.(\d+)-([0-9a-f]+)(\.whole)?\.part")
_sweep_after: dict[Path, float] = {}


def lack_of_room(path: Path, error: BaseException | None) -> StoreError | None:
    """What to raise about ``path`` where an error is one for lack of room, or one led to it, else None.

    An error of layertool has been told already.
    """
    seen: set[int] = set()
    reason = None
    while isinstance(error, Exception) and not isinstance(error, LayertoolError) and id(error) not in seen:
        seen.add(id(error))
        number, text = getattr(error, "errno", None), str(error)
        if number is None and (match := _NUMBER.search(text)):
            number = int(next(filter(None, match.groups())))
        if number is None:
            number = next((number for said, number in _SAID.items() if said in text), None)
        if number in _NO_ROOM:
            reason = _NO_ROOM[number]
            break
        if number is None and _LOST.search(text):
            reason = "the disk is full, or a quota or file-size limit is reached"
        error = error.__cause__ or error.__context__
    if reason is None:
        return None
    return StoreError(
        f"{path} could not be written: {reason}; free some room and run the same command again, what is finished is "
        "kept"
    )


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def _machine() -> str:
    """Six digits of this machine since it was started, or of this container: numbers of processes mean something
    there.
    """
    parts = [os.uname().nodename]
    with suppress(OSError):  # as Linux has them
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:6]


def temporary_path(path: Path) -> Path:
    """Where ``path`` is written before it is whole: hidden beside it, of this process alone.

    Processes on other machines that share the file system may have the same number, and the same name of host in
    containers.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{_machine()}{_OURS}.part")


def remove(path: Path) -> None:
    """Take a file or a folder away, if it is there; of a link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what dead processes have left half-written in a folder; what another machine has begun only after a day.

    For those who hold the lock of a whole folder there is ``folders.OutputFolder``.
    """
    for path in folder.glob(".*.part"):
        with suppress(OSError):  # somebody else's, or gone meanwhile: it is in nobody's way
            if _is_left(path):
                remove(path)


def _is_left(path: Path) -> bool:
    """Whether the process that was writing a temporary file has ended."""
    found = _TEMPORARY.fullmatch(path.name)
    if found is None:
        return False
    pid, token = int(found[1]), found[2]
    if len(token) == len(_machine()) + len(_OURS) and not token.startswith(_machine()):
        return time.time() - path.stat().st_mtime > _DAY
    if pid == os.getpid():
        return not token.endswith(_OURS)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # of somebody else
        return False
    return False


def _sweep_now_and_then(folder: Path) -> None:
    """Sweep a folder that is about to be written into; one with very many files not at every file."""
    begun = time.monotonic()
    if begun >= _sweep_after.get(folder, 0.0):
        sweep(folder)
        now = time.monotonic()
        _sweep_after[folder] = now + _SHARE * (now - begun)


def put_in_place(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to the disk, and give it, or a folder, its name."""
    if temporary.is_file():
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


@contextmanager
def saying_no_room(path: Path) -> Iterator[None]:
    """Turn an error for lack of room, or for text that is none, into a StoreError about ``path``; others pass
    unchanged.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        near = visible(error.object[max(0, error.start - 40) : error.end])
        raise StoreError(
            f"{path} could not be written: '{near}' is not text that can be written as UTF-8; correct it"
        ) from error
    except BaseException as error:  # safetensors' is of a class of its own
        if said := lack_of_room(path, error):
            raise said from error
        raise


def check_suffix(path: Path, suffixes: Sequence[str], what: str = "format") -> None:
    """Raise UsageError for a file to write that does not end in one of these."""
    if path.suffix not in suffixes:
        raise UsageError(f"{path} has no known {what}: end it in {', '.join(suffixes)}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path``, on failure it is removed.

    Raises StoreError when there is no room for it; other errors pass unchanged.
    """
    path = Path(path)
    temporary = temporary_path(path)
    _sweep_now_and_then(path.parent)
    try:
        with saying_no_room(path):
            yield temporary
            put_in_place(temporary, path)
    except BaseException:
        remove(temporary)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, where nothing or an empty folder is: yield a place beside it, which does not exist yet.

    Raises StoreError where something is, and when there is no room.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"{path} is there already and not empty: choose another -o")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        yield temporary


def file_checksum(path: Path, before: bytes = b"") -> str:
    """xxh3-128 of ``before`` and the bytes of a file, in hexadecimal."""
    digest = xxhash.xxh3_128(before)
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


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


def text_lines(path: Path, what: str) -> list[str]:
    """The lines of a list that a person wrote (UTF-8). UsageError for a path that is none; ``what``: what it says such
    a list is."""
    if not path.is_file():
        raise UsageError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: {what}")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: {what}") from error
