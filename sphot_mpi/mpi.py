"""Master and workers; the only importer of mpi4py.

Rank 0 hands out assignments and takes back outcomes; pixels never pass through it.
Waiting ranks sleep between looks instead of spinning on a core. Whatever is not
expected, on any rank, ends the whole job at once, with rank and traceback.
"""

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from sphot_mpi.campaign import Assignment, Campaign, CampaignRecord, Conductor, MemoryStore, Progress, write_alone
from sphot_mpi.config import Config
from sphot_mpi.errors import UsageError
from sphot_mpi.tasks import TaskRunner, pipeline_fitters

log = logging.getLogger(__name__)

#: What launchers announce, the most specific first: number of processes, and this one's number.
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
#: Set by launchers that do not say how many processes there are.
HINTS = ("PMIX_RANK", "PMI_RANK", "PALS_RANKID", "MV2_COMM_WORLD_RANK")

_TAG = 1
_SHORTEST, _LONGEST = 1e-4, 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """To a worker: the configuration."""

    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """To a worker: leave, with this exit status."""

    status: int


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
    """The ranks of this job.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Communicator of all ranks.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def send(self, message: object, rank: int) -> None:
        """Send a small message."""
        self._comm.send(message, dest=rank, tag=_TAG)

    def receive(self) -> tuple[int, Any]:
        """Wait for a message from any rank, asleep most of the time; return sender and message."""
        from mpi4py import MPI

        status = MPI.Status()
        pause = _SHORTEST
        while not self._comm.iprobe(source=MPI.ANY_SOURCE, tag=_TAG, status=status):
            time.sleep(pause)
            pause = min(2.0 * pause, _LONGEST)
        sender = status.Get_source()
        return sender, self._comm.recv(source=sender, tag=_TAG)

    def abort(self, error: BaseException) -> NoReturn:
        """Say what happened, and end all ranks."""
        text = "".join(traceback.format_exception(error))
        sys.stderr.write(f"sphot-mpi: unexpected error on rank {self.rank} of {self.size}; the job ends.\n{text}")
        sys.stderr.flush()
        self._comm.Abort(1)
        sys.exit(1)

    @contextmanager
    def guarded(self, *expected: type[BaseException]) -> Iterator[None]:
        """Abort the job on whatever is not `expected`; without this the other ranks would wait for ever."""
        try:
            yield
        except expected:
            raise
        except BaseException as error:  # noqa: BLE001 - also an interrupt must end all ranks
            self.abort(error)


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
    world = World(MPI.COMM_WORLD)
    if size not in (0, world.size):
        library = MPI.Get_library_version().split(",")[0].strip()
        msg = (
            f"{words}, but MPI ({library}) finds {world.size}: launcher and MPI do not "
            "match; start with the mpirun or srun --mpi=... of this MPI, or unset the variable."
        )
        raise UsageError(msg)
    return world if world.size > 1 else None


def lead(world: World, campaign: Campaign, progress: Progress) -> CampaignRecord:
    """Run a campaign as rank 0, and write its results file.

    Parameters
    ----------
    world : World
        At least two ranks; the others are in `serve`.
    campaign : Campaign
        What is to be done.
    progress : Progress
        Told after every task.

    Returns
    -------
    CampaignRecord
        What was written. The workers still wait; `dismiss` them.
    """
    store = MemoryStore()
    conductor = Conductor(campaign, store, progress)
    workers = range(1, world.size)
    for rank in workers:
        world.send(Setup(config=campaign.config), rank)
    idle = list(reversed(workers))
    while not conductor.finished:
        while idle and (assignment := conductor.next_assignment()) is not None:
            world.send(assignment, idle.pop())
        rank, outcome = world.receive()
        idle.append(rank)
        conductor.take(outcome)
    return write_alone(campaign, store, TaskRunner(campaign.config, pipeline_fitters()), ranks=world.size)


def dismiss(world: World, status: int) -> None:
    """Let the workers leave `serve` with an exit status."""
    for rank in range(1, world.size):
        world.send(Stop(status=status), rank)


def serve(world: World, make_runner: Callable[[Config, int], TaskRunner]) -> int:
    """Work for rank 0 until it says stop.

    Parameters
    ----------
    world : World
        The ranks.
    make_runner : callable
        Makes the runner of tasks from configuration and rank.

    Returns
    -------
    int
        Exit status, the same on all ranks.
    """
    runner: TaskRunner | None = None
    while True:
        _, message = world.receive()
        match message:
            case Stop():
                return message.status
            case Setup():
                runner = make_runner(message.config, world.rank)
            case Assignment() if runner is not None:
                outcome = runner.run(message.task, message.galaxy, message.base)
                world.send(outcome, 0)
            case _:
                msg = f"rank {world.rank} cannot make sense of {message!r}"
                raise TypeError(msg)
