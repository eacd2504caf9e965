"""Who may write: locks on files, which the system lets go of when their process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layertool.errors import StoreError, tell

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # some cluster file systems are mounted without them


@contextmanager
def held(path: Path, shared: bool, busy: str) -> Iterator[None]:
    """Hold a lock; ``shared`` with others who share it. Raises StoreError with the text ``busy`` where another process has it."""
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(busy) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            tell(f"{path.parent}: this file system has no locks; make sure that nobody else writes there")
        yield  # closing the file lets go of the lock
