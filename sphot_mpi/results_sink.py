"""A file for serial HDF5 that a full disk does not break.

HDF5 cannot be left after a failed write: closing the file fails as well, and the process
crashes when it ends. So the library never hears of a failure here: the first one is
kept, whatever follows is thrown away, and `check` tells. The file is then of no use.
"""

import io
import os
from pathlib import Path
from typing import Literal

import h5py


class Sink:
    """An HDF5 file that is written through the file-object driver; `close` it.

    Parameters
    ----------
    path : Path
        The file.
    mode : {"w", "r+"}
        Make it anew, or change it.

    Attributes
    ----------
    file : h5py.File
        The open file.

    Raises
    ------
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: Path, mode: Literal["w", "r+"]) -> None:
        self._raw = _Forgiving(path, "w+" if mode == "w" else "r+")
        self.file = h5py.File(self._raw, mode)

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._raw.failure is not None:
            raise self._raw.failure

    def sync(self) -> None:
        """Wait until all that was written is on the disk, then `check`."""
        self.file.flush()
        self.check()
        os.fsync(self._raw.fileno())

    def close(self) -> None:
        """Close the file, then `check`."""
        self.file.close()
        self._raw.close()
        self.check()


class _Forgiving(io.FileIO):
    """A file whose writes never fail, and which remembers that one did."""

    failure: OSError | None = None

    def write(self, data: memoryview, /) -> int:  # type: ignore[override]
        """Write all of it, or pretend to."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest) and self.failure is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.failure = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Set the size, or pretend to."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read; beyond the end, where something was thrown away, there are zeros."""
        view = memoryview(buffer).cast("B")
        got = super().readinto(view)
        if got < len(view) and self.failure is not None:
            view[got:] = bytes(len(view) - got)
        return len(view) if self.failure is not None else got
