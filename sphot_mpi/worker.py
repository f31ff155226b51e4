"""One process' work: take an assignment, do it, put the outcome into the journal, report.

A serial run has one worker in the same process; under MPI each rank but 0 has one.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from sphot_mpi.config import Config
from sphot_mpi.digests import InputFiles, Settings
from sphot_mpi.errors import ProcessDiedError
from sphot_mpi.interrupts import Interrupts, TaskDropped
from sphot_mpi.isolation import run_isolated
from sphot_mpi.journal import Journal
from sphot_mpi.messages import Assignment, Handback, Report
from sphot_mpi.outcome_index import RecordRef
from sphot_mpi.outcome_store import OutcomeStore
from sphot_mpi.outcomes import TaskKey, TaskOutcome
from sphot_mpi.records import FilterFit
from sphot_mpi.storable import storable
from sphot_mpi.task_log import TaskLabel
from sphot_mpi.tasks import Fitters, TaskRunner

log = logging.getLogger(__name__)

#: Outcomes that a worker keeps: those of the galaxies that it has worked on last.
_KEPT = 16

#: More deaths than other tasks of the same jobs can explain; even alone the task may take its machine along.
_MOST_DEATHS = 12


class Worker:
    """Does assignments, one after another.

    Parameters
    ----------
    config : Config
        The campaign's configuration.
    make_fitters : callable
        Function of a module that returns the fits.
    journal : Journal
        This process' file of the journal.
    store : OutcomeStore
        Loads the outcomes of others.
    interrupts : Interrupts
        Tells when to stop.
    rank : int
        Number of this process.
    task_timeout : float or None
        Seconds that a task may take; None: any.
    label : TaskLabel
        Told which task is running, for the log.
    """

    def __init__(
        self,
        config: Config,
        make_fitters: Callable[[], Fitters],
        journal: Journal,
        store: OutcomeStore,
        interrupts: Interrupts,
        *,
        rank: int = 0,
        task_timeout: float | None = None,
        label: TaskLabel,
    ) -> None:
        self._config = config
        self._make_fitters = make_fitters
        self._journal = journal
        self._store = store
        self._settings = Settings(config)
        self._files = InputFiles()
        self._interrupts = interrupts
        self._rank = rank
        self._task_timeout = task_timeout
        self._label = label
        self._kept: OrderedDict[RecordRef, TaskOutcome] = OrderedDict()
        self._runner = TaskRunner(config, make_fitters(), rank, self._limited)
        self.renderer = self._runner.renderer

    def do(self, assignment: Assignment) -> Report | Handback:
        """Do an assignment.

        Parameters
        ----------
        assignment : Assignment
            What to do.

        Returns
        -------
        Report or Handback
            Handback: the campaign is being stopped, and the task was not begun or was dropped.

        Raises
        ------
        JournalError
            If the journal cannot be written.
        """
        task, galaxy = assignment.task, assignment.galaxy
        if self._interrupts.stopping:
            return Handback(task=task)
        self._journal.started(TaskKey(galaxy.name, task.kind, task.filter), assignment.attempt)
        with self._label.task(f"{task.kind} {galaxy.name} {task.filter}".rstrip()):
            try:
                # before the files are read: should one change meanwhile, the task runs again
                digest = self._settings.of(galaxy, task.kind, task.filter) + self._files.of(galaxy)
                outcome = storable(self._outcome(assignment))
            except TaskDropped:
                log.warning("dropped, as the campaign is being stopped")
                return Handback(task=task)
        ref = self._journal.append(galaxy.name, outcome, digest)
        self._keep(ref, outcome)
        failure = outcome.failure
        return Report(
            task=task,
            status=outcome.status,
            ref=ref,
            rank=self._rank,
            seconds=outcome.timing.seconds,
            flags=int(outcome.fit.flags) if outcome.fit is not None else 0,
            stage=failure.stage if failure is not None else "",
            error=failure.error if failure is not None else "",
            message=failure.message if failure is not None else "",
        )

    def _outcome(self, assignment: Assignment) -> TaskOutcome:
        task, galaxy = assignment.task, assignment.galaxy

        def needed() -> dict[str, FilterFit]:
            return self._fits(assignment.refs)

        def apart(fits: Mapping[str, FilterFit]) -> TaskOutcome:
            if assignment.deaths > _MOST_DEATHS:
                msg = f"its job died {assignment.deaths} times while it ran; it is not tried again"
                raise ProcessDiedError(msg)
            try:
                return run_isolated(self._config, self._make_fitters, self._rank, task, galaxy, fits)
            except ProcessDiedError as error:
                if self._interrupts.stopping:  # whatever stops this process may have killed the other
                    raise TaskDropped from error
                raise

        if not assignment.deaths:
            return self._runner.run(task, galaxy, needed)
        log.warning("a process died while it ran this task; it runs in a process of its own")
        return self._runner.run(task, galaxy, needed, apart)

    def _fits(self, refs: tuple[RecordRef, ...]) -> dict[str, FilterFit]:
        """Return the fits among the outcomes that a task needs, by filter."""
        outcomes = [self._load(ref) for ref in refs]
        return {o.fit.filter: o.fit for o in outcomes if o.fit is not None}

    def _load(self, ref: RecordRef) -> TaskOutcome:
        if ref not in self._kept:
            self._keep(ref, self._store.load(ref).outcome)
        self._kept.move_to_end(ref)
        return self._kept[ref]

    def _keep(self, ref: RecordRef, outcome: TaskOutcome) -> None:
        self._kept[ref] = outcome
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def _limited(self) -> AbstractContextManager[None]:
        return self._interrupts.task(self._task_timeout)
