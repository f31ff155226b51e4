"""A campaign from its plan to its results file; the serial run, whose steps the MPI run shares."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.conductor import Conductor, Progress
from sphot_mpi.config import Config
from sphot_mpi.errors import OutputError
from sphot_mpi.flags import FitFlag
from sphot_mpi.interrupts import Interrupts
from sphot_mpi.journal import Journal, journal_folder, next_start, remove_journal
from sphot_mpi.ledger import JournalSource, Ledger
from sphot_mpi.messages import Report
from sphot_mpi.outcomes import Status
from sphot_mpi.results import CampaignInfo, write_results
from sphot_mpi.results_comm import SoloComm
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.schedule import Counts, GalaxyPlan, Schedule, Task
from sphot_mpi.task_log import TaskLabel
from sphot_mpi.tasks import Fitters
from sphot_mpi.worker import Worker

#: Exit status of a run that goes on when the same command is given again.
AGAIN = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take.

    Parameters
    ----------
    task_timeout : float or None
        Seconds that a task may take; None: any.
    grace : float
        Seconds that running tasks have left after a signal.
    worker_timeout : float
        Seconds of silence after which a rank counts as lost.
    """

    task_timeout: float | None = None
    grace: float = 20.0
    worker_timeout: float = 300.0


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
    photometry : bool
        Whether aperture photometry follows a galaxy's fits.
    limits : Limits
        How long things may take.
    command_line : str
        As typed.
    """

    catalogue: Catalogue
    config: Config
    output: Path
    images: tuple[str, ...] = ()
    photometry: bool = False
    limits: Limits = field(default_factory=Limits)
    command_line: str = ""

    def plans(self, known: Callable[[GalaxyPlan], dict[Task, bool]]) -> Iterator[GalaxyPlan]:
        """Yield what the schedule must know; a file's size tells the work."""
        for galaxy in self.catalogue.galaxies:
            plan = GalaxyPlan(
                galaxy=galaxy.index,
                filters=galaxy.filters,
                photometry=self.photometry,
                priority=galaxy.priority,
                cost=float(galaxy.path.stat().st_size),
            )
            yield replace(plan, known=known(plan))

    def info(self, *, ranks: int, restarts: int) -> CampaignInfo:
        """Return what the results file tells of the campaign as a whole."""
        return CampaignInfo(
            catalogue=self.catalogue,
            config=self.config,
            command_line=self.command_line,
            ranks=ranks,
            restarts=restarts,
            images=self.images,
            photometry=self.photometry,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A campaign with what is known of it, ready to run; made by `prepare`.

    Parameters
    ----------
    campaign : Campaign
        What is to be done.
    schedule : Schedule
        Tasks; those whose outcomes are known have ended.
    ledger : Ledger
        Where these outcomes stand.
    folder : Path
        Folder of the journal.
    start : int
        Number of this start of the campaign.
    deaths : mapping of Task to int
        Times that a process died in a task.
    """

    campaign: Campaign
    schedule: Schedule
    ledger: Ledger
    folder: Path
    start: int
    deaths: Mapping[Task, int]

    def conductor(self, progress: Progress) -> Conductor:
        """Return what runs the tasks."""
        return Conductor(
            self.campaign.catalogue.galaxies, self.schedule, self.ledger, progress, lambda task: "", self.deaths
        )

    def source(self) -> JournalSource:
        """Return the outcomes for the results file."""
        return JournalSource(self.folder, self.schedule, self.ledger)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a run ended.

    Parameters
    ----------
    counts : Counts
        Tasks of the whole campaign.
    galaxies : int
        Its galaxies.
    signal : str
        The signal that stopped the run; empty: all is done.
    ends : Counter of str
        How tasks ended, as the results file tells.
    flags : Counter of FitFlag
        Flags of the fits.
    """

    counts: Counts
    galaxies: int
    signal: str
    ends: Counter[str]
    flags: Counter[FitFlag]

    def exit_status(self, *, strict: bool) -> int:
        """Return 0 if all is done, 75 if tasks are left, 3 if one failed; `strict`: or was missing or empty."""
        if self.counts.ended < self.counts.total:
            return AGAIN
        bad = [Status.FAILED, *([Status.MISSING, Status.NO_DATA] if strict else [])]
        return 3 if any(self.ends[status] for status in bad) else 0


def prepare(campaign: Campaign) -> Job:
    """Find out what is known, and plan the rest."""
    folder = journal_folder(campaign.output)
    schedule = Schedule(campaign.plans(lambda plan: {}))
    return Job(
        campaign=campaign,
        schedule=schedule,
        ledger=Ledger(schedule.counts.total),
        folder=folder,
        start=next_start(folder),
        deaths={},
    )


def run_serial(
    campaign: Campaign, make_fitters: Callable[[], Fitters], progress: Progress, label: TaskLabel | None = None
) -> End:
    """Run a campaign in this process, and write its results file.

    Parameters
    ----------
    campaign : Campaign
        What is to be done.
    make_fitters : callable
        Function of a module that returns the fits.
    progress : Progress
        Told after every task.
    label : TaskLabel or None
        Told which task is running, for the log.

    Returns
    -------
    End
        How it ended.
    """
    limits = campaign.limits
    with Interrupts(limits.grace, exit_if_hung=True) as interrupts:
        job = prepare(campaign)
        conductor = job.conductor(progress)
        with Journal.open(job.folder, 0, job.start) as journal:
            worker = Worker(
                campaign.config,
                make_fitters,
                journal,
                interrupts,
                task_timeout=limits.task_timeout,
                label=label or TaskLabel(),
            )
            while not interrupts.stopping and (assignment := conductor.next_assignment()) is not None:
                answer = worker.do(assignment)
                if isinstance(answer, Report):
                    conductor.take(answer)
                else:
                    conductor.give_back(answer.task)
            journal.close("finished" if conductor.finished else "drained")
        info = campaign.info(ranks=1, restarts=job.start - 1)
        write_results(campaign.output, info, job.source(), SoloComm(), worker.runner.images)
    return end(job, interrupts)


def end(job: Job, interrupts: Interrupts) -> End:
    """Return how a run ended; the journal of a finished campaign is removed, as all is in the results file."""
    finished = job.schedule.finished
    if finished:
        remove_journal(job.folder)
    with ResultsReader(job.campaign.output) as reader:
        ends, flags = reader.ends(), reader.flags()
    return End(
        counts=job.schedule.counts,
        galaxies=len(job.campaign.catalogue.galaxies),
        signal="" if finished else interrupts.reason,
        ends=ends,
        flags=flags,
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
