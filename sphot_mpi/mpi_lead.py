"""Rank 0: hands out the conductor's assignments, watches the workers, and calls all ranks to write.

Each worker holds the task that it does and, as long as there is more to do than there
are workers, the next one, so that it never waits for an answer; of tasks that take no
time it holds several, as an answer takes longer than they do.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sphot_mpi.campaign import AGAIN, Campaign, End, Limits, announce, end, prepare, write
from sphot_mpi.conductor import Conductor, Progress
from sphot_mpi.fit_renderer import FitRenderer
from sphot_mpi.interrupts import Interrupts, hang_limit
from sphot_mpi.messages import Alive, Drain, Gather, Handback, Report, Setup, Stop
from sphot_mpi.mpi import Heartbeat, World
from sphot_mpi.schedule import Task

log = logging.getLogger(__name__)

#: Seconds between two looks at the clock while nothing comes.
_TICK = 1.0
#: Seconds beyond the grace after which a worker that does not let go of its task is stuck.
_STUCK = 30.0


#: Tasks that a worker holds; of tasks that take less than so many seconds, so many.
_HELD = 2
_BRIEF, _HELD_BRIEF = 0.02, 32


@dataclass(slots=True)
class _Desk:
    """What the master knows of a worker."""

    tasks: deque[Task] = field(default_factory=deque)
    heard: float = 0.0
    #: When the running task began, as far as the master can tell.
    since: float = 0.0
    #: Seconds a task, lately.
    pace: float = 1.0


class Master:
    """Drives a `Conductor` with the workers of other ranks.

    Parameters
    ----------
    world : World
        The ranks.
    conductor : Conductor
        What is to be done.
    interrupts : Interrupts
        Tells when to stop.
    limits : Limits
        How long things may take.
    clock : callable
        Seconds; a simulation has its own.
    """

    def __init__(
        self,
        world: World,
        conductor: Conductor,
        interrupts: Interrupts,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._world = world
        self._conductor = conductor
        self._interrupts = interrupts
        self._limits = limits
        self._clock = clock
        now = clock()
        self._desks = [_Desk(heard=now) for _ in range(world.size)]
        self._idle = deque(range(1, world.size))
        self._held = 0
        self._next_tick = self._next_watch = now
        self._told = 0.0

    def run(self) -> None:
        """Return when nothing is left, or when, after a signal, no worker holds a task any more."""
        while True:
            if self._interrupts.stopping:
                self._tell_to_stop()
                if not self._held:
                    return
            elif self._conductor.finished:
                return
            else:
                while self._idle and self._give(self._idle[0]):
                    self._idle.popleft()
            found = self._world.receive(_TICK)
            if found is not None:
                self._read(*found)
            self._look_at_clock()

    def _read(self, rank: int, message: object) -> None:
        desk = self._desks[rank]
        desk.heard = self._clock()
        match message:
            case Report():
                self._conductor.take(message)
                self._released(rank, message.task)
            case Handback():
                self._conductor.give_back(message.task)
                self._released(rank, message.task)
            case Drain():
                self._interrupts.stop(message.number)
            case Alive():
                pass
            case _:
                msg = f"the master cannot make sense of {message!r} from rank {rank}"
                raise TypeError(msg)

    def _released(self, rank: int, task: Task) -> None:
        """A worker has ended a task: give it the next ones."""
        desk = self._desks[rank]
        desk.tasks.remove(task)
        desk.pace = 0.7 * desk.pace + 0.3 * (desk.heard - desk.since)
        desk.since = desk.heard
        self._held -= 1
        if self._interrupts.stopping:
            return
        if not desk.tasks and not self._give(rank):
            self._idle.append(rank)
            return
        held = _HELD if desk.pace > _BRIEF else _HELD_BRIEF
        while len(desk.tasks) < held and self._conductor.n_ready >= self._world.size and self._give(rank):
            pass

    def _give(self, rank: int) -> bool:
        assignment = self._conductor.next_assignment()
        if assignment is None:
            return False
        desk = self._desks[rank]
        if not desk.tasks:
            desk.since = self._clock()
        desk.tasks.append(assignment.task)
        self._held += 1
        self._world.send(assignment, rank)
        return True

    def _tell_to_stop(self) -> None:
        if self._told:
            return
        self._told = self._clock()
        log.warning(
            "%s: no new task begins; %d in hand may finish within %g s",
            self._interrupts.reason,
            self._held,
            self._limits.grace,
        )
        for rank in range(1, self._world.size):
            self._world.send(Drain(number=self._interrupts.number), rank, urgent=True)

    def _look_at_clock(self) -> None:
        now = self._clock()
        if now >= self._next_tick:
            self._next_tick = now + _TICK
            self._conductor.tick()
        if now >= self._next_watch:
            self._next_watch = now + min(0.1 * self._limits.worker_timeout, 10.0)
            self._watch(now)

    def _watch(self, now: float) -> None:
        """End the job if a worker is lost or hangs: its task is tried again when the job is."""
        limits = self._limits
        for rank in range(1, self._world.size):
            desk = self._desks[rank]
            if not desk.tasks and not self._world.threads:
                continue
            running = now - desk.since if desk.tasks else 0.0
            if self._world.threads and now - desk.heard > limits.worker_timeout:
                self._give_up(rank, f"has been silent for {now - desk.heard:.0f} s")
            if limits.task_timeout is not None and running > hang_limit(limits.task_timeout):
                self._give_up(rank, f"hangs: its task has been running for {running:.0f} s")
            if self._told and desk.tasks and now - self._told > limits.grace + _STUCK:
                self._give_up(rank, f"does not let go of its task after {self._interrupts.reason}")

    def _give_up(self, rank: int, what: str) -> None:
        tasks = self._desks[rank].tasks
        doing = f" (last given: {tasks[0].kind} {self._conductor.name(tasks[0])})" if tasks else ""
        self._world.abort(
            f"rank {rank} {what}{doing}; the job ends, all that was finished is in the journal: "
            "give the same command to go on.",
            AGAIN,
        )


def lead(
    world: World,
    make_campaign: Callable[[], Campaign],
    progress: Progress,
    limits: Limits,
) -> End:
    """Run a campaign as rank 0, and write its results file.

    Parameters
    ----------
    world : World
        At least two ranks; the others are in `mpi_serve.serve`.
    make_campaign : callable
        Reads catalogue and configuration.
    progress : Progress
        Told after every task.
    limits : Limits
        How long things may take.

    Returns
    -------
    End
        How it ended. The workers still wait; `dismiss` them.
    """
    workers = range(1, world.size)
    with Interrupts(limits.grace) as interrupts:
        with Heartbeat(world, workers, Alive(), limits.worker_timeout / 5.0, lambda: None):
            campaign = make_campaign()
            job = prepare(campaign, len(workers))
            announce(job, progress)
            if job.nothing_to_do:
                return end(job, interrupts)
            setup = Setup(config=campaign.config, folder=job.folder, output=campaign.output, start=job.start)
            with job.journal(world.size) as journal:
                for rank in workers:
                    world.send(setup, rank)
                Master(world, job.conductor(progress), interrupts, limits).run()
                journal.close("finished" if job.schedule.finished else "drained")
        order = job.order(world.size)
        for rank in workers:
            world.send(Gather(), rank)
        world.broadcast(order)
        needed = campaign.images or campaign.psf
        write(order, world, FitRenderer(campaign.config) if needed else None)
    return end(job, interrupts)


def dismiss(world: World) -> None:
    """Let the workers leave `serve`."""
    for rank in range(1, world.size):
        world.send(Stop(), rank)
    world.flush()
