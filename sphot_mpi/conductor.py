"""The one object that runs a campaign: it hands out assignments and takes back reports.

The serial loop and the MPI master drive it; it knows neither, nor a file.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.ledger import Ledger
from sphot_mpi.messages import Assignment, Report
from sphot_mpi.outcome_index import RecordRef
from sphot_mpi.outcomes import Status
from sphot_mpi.schedule import Counts, Schedule, Task, TaskKind, TaskState

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Whoever wants to know how far a campaign is."""

    def update(self, counts: Counts) -> None:
        """Take notice; called after every task, and every second or so."""

    def say(self, sentence: str) -> None:
        """Show one line."""


class Conductor:
    """Hands out assignments and takes back reports, until nothing is left.

    Parameters
    ----------
    galaxies : sequence of Galaxy
        The catalogue.
    schedule : Schedule
        Their tasks.
    ledger : Ledger
        Knows the outcomes of the tasks that have ended; what comes back is added.
    progress : Progress
        Told after every task.
    deaths : mapping of Task to int
        Times that a process died in this task; tasks without any may be left out.
    attempt : callable
        Returns which try of a task is next.
    """

    def __init__(
        self,
        galaxies: Sequence[Galaxy],
        schedule: Schedule,
        ledger: Ledger,
        progress: Progress,
        deaths: Mapping[Task, int],
        attempt: Callable[[Task], int] = lambda task: 1,
    ) -> None:
        self._galaxies = galaxies
        self._schedule = schedule
        self._ledger = ledger
        self._progress = progress
        self._deaths = deaths
        self._attempt = attempt

    @property
    def finished(self) -> bool:
        """Whether every task has ended."""
        return self._schedule.finished

    @property
    def n_ready(self) -> int:
        """Number of tasks that could start now."""
        return self._schedule.n_ready

    @property
    def counts(self) -> Counts:
        """How far the campaign is."""
        return self._schedule.counts

    def next_assignment(self) -> Assignment | None:
        """Return the next thing to do, or None while there is none."""
        task = self._schedule.next_task()
        if task is None:
            return None
        return Assignment(
            task=task,
            galaxy=self._galaxies[task.galaxy],
            refs=self._needed(task),
            attempt=self._attempt(task),
            deaths=self._deaths.get(task, 0),
        )

    def _needed(self, task: Task) -> tuple[RecordRef, ...]:
        """Return where the outcomes stand that a task needs; of what failed there is nothing to need."""
        if task.kind is TaskKind.BASE:
            return ()
        fits = self._schedule.tasks(task.galaxy)
        fits = fits[:1] if task.kind is TaskKind.SCALE else fits[:-1]
        done = (fit for fit in fits if self._schedule.state(fit) is TaskState.DONE)
        refs = (self._ledger.get(self._schedule.number(fit)) for fit in done)
        return tuple(ref for ref in refs if ref is not None)

    def take(self, report: Report) -> None:
        """Take back an assignment that was done."""
        task = report.task
        self._log(report)
        self._ledger.put(self._schedule.number(task), report.ref)
        if report.status is Status.FAILED:
            self._schedule.fail(task)
        else:
            self._schedule.complete(task)
        self.tick()

    def give_back(self, task: Task) -> None:
        """Take back an assignment that was not done."""
        self._schedule.give_back(task)

    def name(self, task: Task) -> str:
        """Return galaxy and filter in words."""
        return f"{self._galaxies[task.galaxy].name} {task.filter}".rstrip()

    def tick(self) -> None:
        """Let the progress be shown."""
        self._progress.update(self._schedule.counts)

    def _log(self, report: Report) -> None:
        task = report.task
        name = self._galaxies[task.galaxy].name
        log.info(
            "task galaxy=%s filter=%s kind=%s status=%s seconds=%.2f flags=%d rank=%d",
            name,
            task.filter or "-",
            task.kind,
            report.status.replace(" ", "_"),
            report.seconds,
            report.flags,
            report.rank,
        )
        what = task.filter or task.kind
        if report.status is Status.FAILED:
            log.warning("%s %s: %s failed: %s", name, what, report.stage, report.message)
        elif report.status is Status.MISSING:
            log.warning("%s %s: the filter is not in the file; it is left out", name, what)
        elif report.status is Status.NO_DATA:
            log.warning("%s %s: there is no usable pixel; it is left out", name, what)
