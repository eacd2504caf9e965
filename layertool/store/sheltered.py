"""A file for HDF5 to write into that never fails under it."""

from __future__ import annotations

from pathlib import Path

from layertool.files import saying_no_room


class Sheltered:
    """A new file, as h5py's ``fileobj`` driver takes it: ``h5py.File(Sheltered(temporary, path), "w")``.

    HDF5 does not survive a full disk: what it could not write it tries to write again at every close and at the
    end of the program, where it crashes; and h5py drops errors that come while it lets go of a dataset, so that
    rows are lost without a word. So the first error is kept here, whatever comes after it is not written, and
    ``check`` raises it, as a StoreError about ``path`` where there was no room.
    """

    def __init__(self, temporary: Path, path: Path):
        self.path = path
        self.error: OSError | None = None
        with saying_no_room(path):
            self.file = open(temporary, "w+b", buffering=0)  # noqa: SIM115 - held until close()

    def check(self) -> None:
        """Raise what has gone wrong."""
        if self.error is not None:
            with saying_no_room(self.path):
                raise self.error

    def close(self) -> None:
        self.file.close()

    # what h5py calls

    def write(self, data) -> int:
        left = memoryview(data).cast("B")
        n_bytes = len(left)
        try:
            while len(left) and self.error is None:
                left = left[self.file.write(left) :]
        except OSError as error:
            self.error = error
        return n_bytes

    def truncate(self, size: int | None = None) -> None:
        try:
            if self.error is None:
                self.file.truncate(size)
        except OSError as error:
            self.error = error

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def readinto(self, buffer) -> int:
        return self.file.readinto(buffer)

    def flush(self) -> None:
        """There is no buffer."""
