"""The ranks of this job and their messages. Beside `mpi_library` nothing else imports mpi4py.

Waiting ranks sleep between looks instead of spinning on a core. Whatever is not
expected, on any rank, ends the whole job at once, with rank and traceback. Every call of
MPI holds one lock, so that a second thread can show that a busy rank lives.
"""

import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from sphot_mpi.errors import SphotError, UsageError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What launchers announce, the most specific first: number of processes, and this one's number.
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
#: Set by launchers that do not say how many processes there are.
HINTS = ("PMIX_RANK", "PMI_RANK", "PALS_RANKID", "MV2_COMM_WORLD_RANK")

_TAG, _URGENT = 1, 2
_SHORTEST, _LONGEST = 1e-4, 1e-2
#: Messages on their way that are kept before those that have arrived are forgotten.
_MOST_SENDING = 256
#: Seconds between two looks of the second thread.
_WATCH = 0.25


def announced_size(environ: Mapping[str, str] = os.environ) -> tuple[str, int] | None:
    """Return the variable in which a launcher announced its number of processes, and the number."""
    for name in SIZE_VARIABLES:
        if environ.get(name, "").isdigit():
            return name, int(environ[name])
    return None


def announced_rank(environ: Mapping[str, str] = os.environ) -> int:
    """Return this process' number as the launcher announced it; 0 without a launcher."""
    return next((int(environ[name]) for name in RANK_VARIABLES if environ.get(name, "").isdigit()), 0)


class World:
    """The ranks of this job; also the `results_comm.Comm` of the results file.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Communicator of all ranks.
    threads : bool
        Whether MPI lets a second thread call it, one at a time.
    """

    def __init__(self, comm: Any, *, threads: bool = True) -> None:
        self._comm = comm
        self._lock = threading.Lock()
        self._sending: deque[Any] = deque()
        self.threads = threads
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    @property
    def raw(self) -> Any:
        """The communicator, for HDF5."""
        return self._comm

    def send(self, message: object, rank: int, *, urgent: bool = False) -> None:
        """Send a small message, and go on at once; urgent ones are read by a busy rank, too.

        Notes
        -----
        A blocking send of Open MPI spins until a receiver on the same host has looked, which a sleeping or busy
        rank does not.
        """
        with self._lock:
            self._sending.append(self._comm.isend(message, dest=rank, tag=_URGENT if urgent else _TAG))
            # now and then: to look costs more than to send, and may give the core away
            while len(self._sending) > _MOST_SENDING and self._sending[0].Test():
                self._sending.popleft()

    def flush(self, patience: float = 60.0) -> None:
        """Wait until all that was sent is on its way.

        A rank that leaves before that takes its messages along; between nodes the first one to a rank waits for the
        connection to be made.

        Parameters
        ----------
        patience : float
            Seconds; a rank that is lost takes no message any more.
        """
        end = time.monotonic() + patience
        while self._sending and time.monotonic() < end:
            with self._lock:
                while self._sending and self._sending[0].Test():
                    self._sending.popleft()
            if self._sending:
                time.sleep(_SHORTEST)

    def poll(self, *, urgent: bool = False) -> tuple[int, Any] | None:
        """Return sender and message if one has come, else None."""
        from mpi4py import MPI

        tag = _URGENT if urgent else _TAG
        status = MPI.Status()
        with self._lock:
            if not self._comm.iprobe(source=MPI.ANY_SOURCE, tag=tag, status=status):
                return None
            sender = status.Get_source()
            return sender, self._comm.recv(source=sender, tag=tag)

    def receive(self, patience: float = float("inf")) -> tuple[int, Any] | None:
        """Wait for a message from any rank, asleep most of the time.

        Parameters
        ----------
        patience : float
            Seconds to wait.

        Returns
        -------
        (int, message) or None
            Sender and message; None: none has come.
        """
        end = time.monotonic() + patience
        pause = _SHORTEST
        while (found := self.poll()) is None:
            if time.monotonic() > end:
                return None
            time.sleep(pause)
            pause = min(2.0 * pause, _LONGEST)
        return found

    def allgather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of ranks; all ranks call this."""
        values: list[T] = self._comm.allgather(value)
        return values

    def broadcast(self, value: object = None) -> Any:
        """Return rank 0's value; all ranks call this."""
        return self._comm.bcast(value, root=0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._comm.Barrier()

    def abort(self, sentence: str, status: int = 1) -> NoReturn:
        """Say what happened, and end all ranks."""
        sys.stderr.write(f"sphot-mpi: {sentence}\n")
        sys.stderr.flush()
        self._comm.Abort(status)
        sys.exit(status)

    @contextmanager
    def guarded(self, *expected: type[BaseException]) -> Iterator[None]:
        """Abort the job on whatever is not `expected`; without this the other ranks would wait for ever."""
        try:
            yield
        except expected:
            raise
        except SphotError as error:
            self.abort(f"rank {self.rank} of {self.size}: {error}", error.exit_status)
        except KeyboardInterrupt:
            self.abort("interrupted twice: the job ends at once; give the same command to go on.", 130)
        except BaseException as error:  # noqa: BLE001 - nothing may leave the other ranks waiting
            text = "".join(traceback.format_exception(error))
            self.abort(f"unexpected error on rank {self.rank} of {self.size}; the job ends.\n{text}")


class Heartbeat:
    """A thread that shows that a rank lives, and hears of what is urgent while the rank computes.

    Parameters
    ----------
    world : World
        The ranks.
    ranks : iterable of int
        Who wants to know.
    beat : object
        The message that they get.
    interval : float
        Seconds between two beats.
    watch : callable
        Called several times a second, for what cannot wait until a task ends.
    """

    def __init__(
        self, world: World, ranks: Iterable[int], beat: object, interval: float, watch: Callable[[], None]
    ) -> None:
        self._world = world
        self._ranks = list(ranks)
        self._beat = beat
        self._interval = interval
        self._watch = watch
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def stop(self) -> None:
        """End the thread; MPI is this thread's alone again."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        """Start; does nothing where MPI allows one thread only."""
        if self._world.threads:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread."""
        self.stop()

    def _run(self) -> None:
        next_beat = time.monotonic() + self._interval
        while not self._end.wait(min(self._interval, _WATCH)):
            with self._world.guarded():
                self._watch()
                if time.monotonic() >= next_beat:
                    next_beat += self._interval
                    for rank in self._ranks:
                        self._world.send(self._beat, rank)


def connect() -> World | None:
    """Join the other ranks, if a launcher started several.

    Returns
    -------
    World or None
        None: this process is alone, and MPI was not touched.

    Raises
    ------
    UsageError
        If the launcher announced another number of processes than MPI finds.
    """
    hint = next((name for name in HINTS if name in os.environ), "")
    name, size = announced_size() or (hint, 0)
    if size == 1 or not name:
        return None
    words = f"{name} announces {size} processes" if size else f"{name} announces a launcher"
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        msg = (
            f"{words}, but mpi4py cannot be loaded ({error}); install it with "
            "pip install 'sphot-mpi[mpi]', or start one process."
        )
        raise UsageError(msg) from error
    world = World(MPI.COMM_WORLD, threads=MPI.Query_thread() >= MPI.THREAD_SERIALIZED)
    if size not in (0, world.size):
        library = MPI.Get_library_version().split(",")[0].strip()
        msg = (
            f"{words}, but MPI ({library}) finds {world.size}: launcher and MPI do not "
            "match; start with the mpirun or srun --mpi=... of this MPI, or unset the variable."
        )
        raise UsageError(msg)
    if not world.threads:
        log.warning("this MPI allows one thread only: a lost worker is noticed by its time limit, if any")
    return world if world.size > 1 else None
