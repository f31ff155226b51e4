"""Drive a campaign: hand out the schedule's tasks, collect what comes back, write it.

The serial run is a loop over `Conductor`; the MPI master drives the same object.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config
from sphot_mpi.errors import OutputError
from sphot_mpi.outcomes import Failure, Status, TaskOutcome, Timing
from sphot_mpi.records import FilterFit
from sphot_mpi.results import CampaignInfo, write_results
from sphot_mpi.results_comm import SoloComm
from sphot_mpi.results_source import MemorySource
from sphot_mpi.schedule import Counts, GalaxyPlan, Schedule, Task, TaskKind, TaskState
from sphot_mpi.tasks import TaskRunner

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Whoever wants to know how far a campaign is."""

    def update(self, counts: Counts) -> None:
        """Take notice; called after every task."""


class ResultStore(Protocol):
    """Where finished tasks go, and come from when the file is written.

    This is the seam for a journal: its `add` returns when the outcome is safe.
    """

    def add(self, outcome: TaskOutcome) -> None:
        """Keep an outcome."""

    def outcomes(self) -> Sequence[TaskOutcome]:
        """Return all outcomes, in any order."""


class MemoryStore:
    """Keeps outcomes in memory."""

    def __init__(self) -> None:
        self._outcomes: list[TaskOutcome] = []

    def add(self, outcome: TaskOutcome) -> None:
        """Keep an outcome."""
        self._outcomes.append(outcome)

    def outcomes(self) -> Sequence[TaskOutcome]:
        """Return all outcomes, in order of completion."""
        return self._outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A task with what is needed to do it."""

    task: Task
    galaxy: Galaxy
    base: FilterFit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is to be done.

    Parameters
    ----------
    catalogue : Catalogue
        The galaxies.
    config : Config
        The configuration.
    output : Path
        Results file.
    images : tuple of str
        Images to store.
    command_line : str
        As typed.
    """

    catalogue: Catalogue
    config: Config
    output: Path
    images: tuple[str, ...] = ()
    command_line: str = ""

    def plans(self) -> list[GalaxyPlan]:
        """Return what the schedule must know; a file's size tells the work."""
        return [
            GalaxyPlan(
                galaxy=g.index, filters=g.filters, priority=g.priority, cost=float(g.path.stat().st_size)
            )
            for g in self.catalogue.galaxies
        ]  # fmt: skip


class Conductor:
    """Hands out assignments and takes back outcomes, until nothing is left.

    Parameters
    ----------
    campaign : Campaign
        What is to be done.
    store : ResultStore
        Where outcomes go.
    progress : Progress
        Told after every task.
    """

    def __init__(self, campaign: Campaign, store: ResultStore, progress: Progress) -> None:
        self._galaxies = {g.index: g for g in campaign.catalogue.galaxies}
        self._schedule = Schedule(campaign.plans())
        self._store = store
        self._progress = progress
        self._base: dict[int, FilterFit] = {}

    @property
    def finished(self) -> bool:
        """Whether every task has ended."""
        return self._schedule.finished

    @property
    def counts(self) -> Counts:
        """How far the campaign is."""
        return self._schedule.counts

    def next_assignment(self) -> Assignment | None:
        """Return the next thing to do, or None while there is none."""
        task = self._schedule.next_task()
        if task is None:
            return None
        base = self._base[task.galaxy] if task.kind is TaskKind.SCALE else None
        return Assignment(task=task, galaxy=self._galaxies[task.galaxy], base=base)

    def take(self, outcome: TaskOutcome) -> None:
        """Take back a finished assignment."""
        task = outcome.task
        self._log(outcome)
        self._store.add(outcome)
        if outcome.status is Status.FAILED:
            self._schedule.fail(task)
            for other in self._schedule.tasks(task.galaxy):
                if self._schedule.state(other) is TaskState.DROPPED:
                    self._store.add(_never_started(other, outcome))
        else:
            if task.kind is TaskKind.BASE and outcome.fit is not None:
                self._base[task.galaxy] = outcome.fit
            self._schedule.complete(task)
        if all(self._schedule.state(other).ended for other in self._schedule.tasks(task.galaxy)):
            self._base.pop(task.galaxy, None)
        self._progress.update(self._schedule.counts)

    def _log(self, outcome: TaskOutcome) -> None:
        name = self._galaxies[outcome.task.galaxy].name
        flags = int(outcome.fit.flags) if outcome.fit is not None else 0
        log.info(
            "task galaxy=%s filter=%s kind=%s status=%s seconds=%.2f flags=%d rank=%d",
            name,
            outcome.task.filter,
            outcome.task.kind,
            outcome.status.replace(" ", "_"),
            outcome.timing.seconds,
            flags,
            outcome.timing.rank,
        )
        if outcome.failure is not None:
            log.warning(
                "%s %s: %s failed: %s", name, outcome.task.filter, outcome.failure.stage, outcome.failure.message
            )
        elif outcome.status in (Status.MISSING, Status.NO_DATA):
            what = "is not in the file" if outcome.status is Status.MISSING else "has no usable pixel"
            log.warning("%s %s: the filter %s; it is left out", name, outcome.task.filter, what)


def _never_started(task: Task, cause: TaskOutcome) -> TaskOutcome:
    timing = Timing(
        rank=cause.timing.rank, host=cause.timing.host, started=cause.timing.started, seconds=0.0, memory=0.0
    )
    message = f"not started, because the base fit ({cause.task.filter}) failed"
    return TaskOutcome(
        task=task,
        status=Status.FAILED,
        timing=timing,
        failure=Failure(stage="base", error="FitError", message=message),
    )


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that would be lost or could not be written, before any work is done.

    Raises
    ------
    OutputError
        If `path` exists and may not be overwritten, or its folder cannot be written.
    """
    if path.is_dir():
        msg = f"{path}: this is a folder; name a file with -o."
        raise OutputError(msg)
    if path.exists() and not overwrite:
        msg = f"{path}: the file exists; give --overwrite, or another name with -o."
        raise OutputError(msg)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".partial").open("wb"):
            pass
    except OSError as error:
        msg = f"{path}: this cannot be written ({error.strerror}); choose another name with -o."
        raise OutputError(msg) from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CampaignRecord:
    """What a campaign was, and how it ended."""

    catalogue: Catalogue
    config: Config
    outcomes: Sequence[TaskOutcome]


def run_serial(campaign: Campaign, runner: TaskRunner, progress: Progress) -> CampaignRecord:
    """Run a campaign in this process, and write its results file.

    Parameters
    ----------
    campaign : Campaign
        What is to be done.
    runner : TaskRunner
        Does the tasks.
    progress : Progress
        Told after every task.

    Returns
    -------
    CampaignRecord
        What was written.
    """
    store = MemoryStore()
    conductor = Conductor(campaign, store, progress)
    while (assignment := conductor.next_assignment()) is not None:
        conductor.take(runner.run(assignment.task, assignment.galaxy, assignment.base))
    return write_alone(campaign, store, runner, ranks=1)


def write_alone(campaign: Campaign, store: ResultStore, runner: TaskRunner, ranks: int) -> CampaignRecord:
    """Write the results file from this process."""
    info = CampaignInfo(
        catalogue=campaign.catalogue,
        config=campaign.config,
        command_line=campaign.command_line,
        ranks=ranks,
        images=campaign.images,
    )
    source = MemorySource(campaign.catalogue.galaxies, store.outcomes())
    write_results(campaign.output, info, source, SoloComm(), runner.images)
    return CampaignRecord(catalogue=campaign.catalogue, config=campaign.config, outcomes=store.outcomes())


def exit_status(record: CampaignRecord, *, strict: bool) -> int:
    """Return 0 if all is done, 3 if a task failed; `strict`: also if a filter was missing or empty."""
    bad = {Status.FAILED, Status.MISSING, Status.NO_DATA} if strict else {Status.FAILED}
    return 3 if any(outcome.status in bad for outcome in record.outcomes) else 0
