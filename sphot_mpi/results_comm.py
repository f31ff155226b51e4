"""What the writer of the results file must know of the ranks; nothing of MPI but its words."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from sphot_mpi.errors import OutputError, SphotError

T = TypeVar("T")

#: Seconds that one collective step may take before the job is ended.
STEP_SECONDS = 1800.0
#: A step that takes longer than these seconds while less than these bytes are free has met a full disk.
_FULL_SECONDS, _FULL_BYTES = 10.0, 2**20


class Comm(Protocol):
    """The ranks that write one file together; all of them call `allgather` and `barrier`, in the same order."""

    @property
    def rank(self) -> int:
        """Number of this rank."""

    @property
    def size(self) -> int:
        """Number of ranks."""

    @property
    def raw(self) -> Any:
        """The `mpi4py.MPI.Comm` that HDF5's MPI-IO takes; None: there is no MPI."""

    def allgather(self, value: T) -> list[T]:
        """Return every rank's small value, in the order of ranks."""

    def barrier(self) -> None:
        """Wait for all ranks."""

    def abort(self, sentence: str) -> NoReturn:
        """Say what happened, and end all ranks at once with exit status 1; any thread may call this."""


class SoloComm:
    """One process, alone."""

    rank = 0
    size = 1
    raw: Any = None

    def allgather(self, value: T) -> list[T]:
        """Return the value."""
        return [value]

    def barrier(self) -> None:
        """Go on."""

    def abort(self, sentence: str) -> NoReturn:
        """End this process."""
        raise SystemExit(sentence)


@contextmanager
def together(comm: Comm, words: str) -> Iterator[None]:
    """Let all ranks fail where one does; the body is a step that every rank takes.

    Parameters
    ----------
    comm : Comm
        The ranks.
    words : str
        What cannot be done if the system fails, with the file's name; the reason is put behind it.

    Raises
    ------
    OutputError
        On every rank, with the sentence of the first rank on which the system failed or one of our own errors came up.
    """
    failed = ""
    try:
        yield
    except SphotError as error:
        failed = str(error)
    except (OSError, MemoryError) as error:
        failed = f"{words} ({reason(error)}); free space or choose another -o."
    first = next((sentence for sentence in comm.allgather(failed) if sentence), "")
    if first:
        raise OutputError(first)


def reason(error: BaseException) -> str:
    """Return the cause of an error in a few words."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].split(" (file write failed: time")[0]


class Watch:
    """Ends the job if a collective step of HDF5 fails on a rank, or does not end.

    Where one rank cannot write, others may stay inside HDF5 for ever, some without any
    error; and a file with a failed write cannot be closed. So the job ends there and then.

    Parameters
    ----------
    comm : Comm
        The ranks.
    path : Path
        File that is written.
    limit : float
        Seconds that a step may take.
    """

    def __init__(self, comm: Comm, path: Path, limit: float = STEP_SECONDS) -> None:
        self._comm = comm
        self._path = path
        self._limit = limit
        self._since: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write watch", daemon=True)
        self._thread.start()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Watch one step that all ranks take together."""
        self._since = time.monotonic()
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:  # HDF5 raises them all
            self._end(reason(error))
        finally:
            self._since = None

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(min(1.0, self._limit / 4)):
            since = self._since
            seconds = 0.0 if since is None else time.monotonic() - since
            if seconds > self._limit:
                self._end(f"a collective write did not end within {self._limit:g} s")
            elif seconds > _FULL_SECONDS and shutil.disk_usage(self._path.parent).free < _FULL_BYTES:
                self._end("no space left on device")

    def _end(self, cause: str) -> NoReturn:
        # most often all ranks fail: then the first one speaks
        time.sleep(0.5 * min(self._comm.rank, 1))
        self._comm.abort(f"{self._path}: this cannot be written ({cause}); free space or choose another -o.")
