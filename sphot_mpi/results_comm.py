"""What the writer of the results file must know of the ranks; nothing of MPI but its words."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, TypeVar

from sphot_mpi.errors import OutputError, SphotError

T = TypeVar("T")

#: Seconds that a rank whose write failed waits for the others, which may be stuck inside HDF5 because of that.
PATIENCE = 60.0


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
        """Say what happened, and end all ranks at once."""


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
    """Let all ranks fail where one does; the body must be a step that every rank takes.

    Parameters
    ----------
    comm : Comm
        The ranks.
    words : str
        What the step does to which file, for the sentence.

    Raises
    ------
    OutputError
        On every rank, with the sentence of the first rank on which an OSError or one of our own errors came up.

    Notes
    -----
    A rank that fails inside a collective call of HDF5 may leave the others inside it. It
    waits for `PATIENCE` seconds to tell them, and then ends the job.
    """
    failed = ""
    try:
        yield
    except SphotError as error:
        failed = str(error)
    except (OSError, RuntimeError) as error:  # HDF5 raises both
        failed = f"{words} ({_first_line(error)}); free space or choose another -o."
    watch = threading.Timer(PATIENCE, comm.abort, [failed])
    watch.daemon = True
    if failed and comm.size > 1:
        watch.start()
    sentences = comm.allgather(failed)
    watch.cancel()
    first = next((sentence for sentence in sentences if sentence), "")
    if first:
        raise OutputError(first)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
