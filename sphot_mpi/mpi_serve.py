"""Every rank but 0: does what the master hands out, and takes part in writing the results file."""

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress

from sphot_mpi.campaign import AGAIN, Limits, write
from sphot_mpi.errors import OutputError
from sphot_mpi.interrupts import Interrupts
from sphot_mpi.journal import Journal
from sphot_mpi.messages import Alive, Assignment, Drain, Gather, Setup, Stop, Write
from sphot_mpi.mpi import Heartbeat, World
from sphot_mpi.outcome_store import OutcomeStore
from sphot_mpi.task_log import TaskLabel
from sphot_mpi.tasks import Fitters
from sphot_mpi.worker import Worker

log = logging.getLogger(__name__)

#: Seconds between two looks at the clock while nothing comes.
_TICK = 1.0


class _Server:
    """One worker's side of the conversation with the master."""

    def __init__(
        self,
        world: World,
        make_fitters: Callable[[], Fitters],
        limits: Limits,
        label: TaskLabel,
        interrupts: Interrupts,
    ) -> None:
        self._world = world
        self._make_fitters = make_fitters
        self._limits = limits
        self._label = label
        self._interrupts = interrupts
        self._heartbeat = Heartbeat(world, [0], Alive(), limits.worker_timeout / 5.0, self._watch)
        self._inbox: deque[object] = deque()
        self._heard = time.monotonic()
        self._told = False
        self._busy, self._since = 0.0, time.monotonic()
        self._open = ExitStack()
        self._journal: Journal | None = None
        self._worker: Worker | None = None

    def run(self) -> None:
        """Serve until the master says stop."""
        with self._heartbeat, self._open:
            self._serve()

    def _serve(self) -> None:
        while True:
            match self._next():
                case Stop():
                    return
                case Setup() as setup:
                    self._prepare(setup)
                case Assignment() as assignment if self._worker is not None:
                    begin = time.monotonic()
                    self._world.send(self._worker.do(assignment), 0)
                    self._busy += time.monotonic() - begin
                case Gather() if self._worker is not None and self._journal is not None:
                    self._write(self._worker, self._journal)
                case message:
                    msg = f"rank {self._world.rank} cannot make sense of {message!r}"
                    raise TypeError(msg)

    def _prepare(self, setup: Setup) -> None:
        self._since = time.monotonic()
        self._journal = self._open.enter_context(Journal.open(setup.folder, self._world.rank, setup.start))
        self._worker = Worker(
            setup.config,
            self._make_fitters,
            self._journal,
            self._open.enter_context(OutcomeStore(setup.folder, setup.output)),
            self._interrupts,
            rank=self._world.rank,
            task_timeout=self._limits.task_timeout,
            label=self._label,
        )

    def _write(self, worker: Worker, journal: Journal) -> None:
        self._heartbeat.stop()
        log.info("worked for %.1f of %.1f s", self._busy, time.monotonic() - self._since)
        order: Write = self._world.broadcast()
        journal.close("finished" if order.finished else "drained")
        with suppress(OutputError):  # rank 0 has the same error, and says it
            write(order, self._world, worker.renderer)

    def _next(self) -> object:
        """Return the master's next message; all that have come are taken in, as a signal may be among them."""
        while True:
            while (found := self._world.poll()) is not None:
                self._take_in(found[1])
            self._watch()
            if self._inbox:
                return self._inbox.popleft()
            found = self._world.receive(_TICK)
            if found is not None:
                self._take_in(found[1])
            elif self._world.threads and time.monotonic() - self._heard > self._limits.worker_timeout:
                self._world.abort(
                    f"rank 0 has been silent for {self._limits.worker_timeout:g} s; rank {self._world.rank} ends "
                    "the job: give the same command to go on.",
                    AGAIN,
                )

    def _take_in(self, message: object) -> None:
        self._heard = time.monotonic()
        if not isinstance(message, Alive):
            self._inbox.append(message)

    def _watch(self) -> None:
        """Pass signals on, in both directions; the second thread does this while a task runs."""
        found = self._world.poll(urgent=True)
        if found is not None and isinstance(found[1], Drain):
            self._told = True
            self._interrupts.stop(found[1].number)
        if self._interrupts.stopping and not self._told:
            self._told = True
            self._world.send(Drain(number=self._interrupts.number), 0)


def serve(world: World, make_fitters: Callable[[], Fitters], limits: Limits, label: TaskLabel) -> None:
    """Work for rank 0 until it says stop.

    Parameters
    ----------
    world : World
        The ranks.
    make_fitters : callable
        Function of a module that returns the fits.
    limits : Limits
        How long things may take.
    label : TaskLabel
        Told which task is running, for the log.
    """
    with Interrupts(limits.grace) as interrupts:
        _Server(world, make_fitters, limits, label, interrupts).run()
