"""A campaign from its plan to its results file: the steps that the serial and the MPI run share."""

import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.conductor import Conductor, Progress
from sphot_mpi.config import Config
from sphot_mpi.decisions import Selection
from sphot_mpi.digests import Settings
from sphot_mpi.errors import OutputError
from sphot_mpi.fit_renderer import FitRenderer
from sphot_mpi.flags import ApertureFlag, FitFlag
from sphot_mpi.interrupts import Interrupts
from sphot_mpi.journal import Journal, journal_folder, remove_journal
from sphot_mpi.known import known_outcomes
from sphot_mpi.ledger import StoreSource
from sphot_mpi.messages import Write
from sphot_mpi.outcome_store import OutcomeStore
from sphot_mpi.outcomes import Status
from sphot_mpi.results import write_results
from sphot_mpi.results_comm import Comm
from sphot_mpi.results_origin import CampaignInfo
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.resume import Work, plan_work
from sphot_mpi.schedule import Counts, Schedule

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
        All galaxies; `selection` says which of them may run.
    config : Config
        The configuration.
    output : Path
        Results file.
    images : tuple of str
        Images to store.
    psf : bool
        Whether to store every fit's PSF.
    selection : Selection
        Which tasks may run, and which run again.
    limits : Limits
        How long things may take.
    command_line : str
        As typed.
    """

    catalogue: Catalogue
    config: Config
    output: Path
    images: tuple[str, ...] = ()
    psf: bool = False
    selection: Selection = field(default_factory=Selection)
    limits: Limits = field(default_factory=Limits)
    command_line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A campaign with what is known of it, ready to run; made by `prepare`.

    Parameters
    ----------
    campaign : Campaign
        What is to be done.
    work : Work
        What is known, and what runs.
    schedule : Schedule
        Tasks; those whose outcomes are known have ended.
    folder : Path
        Folder of the journal.
    """

    campaign: Campaign
    work: Work
    schedule: Schedule
    folder: Path

    @property
    def nothing_to_do(self) -> bool:
        """Whether the results file is what this run would write."""
        known, campaign = self.work.known, self.campaign
        stored = set(known.images) == set(campaign.images) and known.psf == campaign.psf
        return known.complete and not self.work.n_run and stored

    @property
    def start(self) -> int:
        """Number of this start of the campaign, from 1."""
        return self.work.known.start

    def conductor(self, progress: Progress) -> Conductor:
        """Return what runs the tasks."""
        work = self.work
        return Conductor(work.catalogue.galaxies, self.schedule, work.ledger, progress, work.deaths, work.attempt)

    def journal(self, ranks: int) -> Journal:
        """Open rank 0's file of the journal, and write down what this start is to do."""
        journal = Journal.open(self.folder, 0, self.start)
        journal.planned(self.work.planned(time=time.time(), ranks=ranks, command_line=self.campaign.command_line))
        return journal

    def order(self, ranks: int) -> Write:
        """Return what the writers of the results file must know."""
        info = CampaignInfo(
            catalogue=self.work.catalogue,
            config=self.campaign.config,
            command_line=self.campaign.command_line,
            ranks=ranks,
            restarts=self.start - 1,
            images=self.campaign.images,
            psf=self.campaign.psf,
            photometry=any(self.work.photometry),
        )
        return Write(
            finished=self.schedule.finished,
            output=self.campaign.output,
            folder=self.folder,
            info=info,
            schedule=self.schedule,
            ledger=self.work.ledger,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a run ended.

    Parameters
    ----------
    output : Path
        The results file.
    counts : Counts
        Tasks of the whole campaign.
    galaxies : int
        Its galaxies.
    nothing_done : bool
        The results file was whole before.
    signal : str
        The signal that stopped the run; empty: all is done.
    ends : Counter of str
        How tasks ended, as the results file tells.
    flags : Counter of FitFlag
        Flags of the fits.
    aperture_flags : Counter of ApertureFlag
        Flags of the photometry.
    """

    output: Path
    counts: Counts
    galaxies: int
    nothing_done: bool
    signal: str
    ends: Counter[str]
    flags: Counter[FitFlag]
    aperture_flags: Counter[ApertureFlag]

    def exit_status(self, *, strict: bool) -> int:
        """Return 0 if all is done, 75 if tasks are left, 3 if one failed; `strict`: or was missing or empty."""
        if self.nothing_done:
            return 0
        if self.counts.ended < self.counts.total:
            return AGAIN
        bad = [Status.FAILED, *([Status.MISSING, Status.NO_DATA] if strict else [])]
        return 3 if any(self.ends[status] for status in bad) else 0


def prepare(campaign: Campaign, workers: int = 1) -> Job:
    """Find out what is known, and plan the rest.

    Parameters
    ----------
    campaign : Campaign
        What is to be done.
    workers : int
        How many there are.

    Returns
    -------
    Job
        What runs.

    Raises
    ------
    UsageError
        If something is selected that is not there.
    OutputError
        If the results file is none of ours or belongs to other galaxies, or the journal cannot be read.
    """
    known = known_outcomes(campaign.output, campaign.selection.anew)
    settings = Settings(campaign.config)
    work = plan_work(campaign.catalogue, settings, campaign.selection, campaign.output, known)
    plans = (
        # a file's size tells the work
        replace(work.plan(galaxy), priority=galaxy.priority, cost=float(galaxy.path.stat().st_size))
        for galaxy in work.catalogue.galaxies
    )
    return Job(campaign=campaign, work=work, schedule=Schedule(plans, workers), folder=journal_folder(campaign.output))


def announce(job: Job, progress: Progress) -> None:
    """Say in one line what runs and why, if anything is known."""
    if job.nothing_to_do:
        progress.say("Nothing to do: all is in the results file, made from the same files and settings.")
    elif job.work.n_kept:
        progress.say(f"Going on: {job.work.summary()}.")


def write(order: Write, comm: Comm, renderer: FitRenderer | None) -> None:
    """Write the results file; all ranks call this, with a `renderer` where images or PSFs are stored.

    Raises
    ------
    OutputError
        On all ranks, if any of them cannot write.
    """
    with OutcomeStore(order.folder, order.output) as store:
        source = StoreSource(store, order.schedule, order.ledger)
        write_results(order.output, order.info, source, comm, None if renderer is None else renderer.images, renderer)


def end(job: Job, interrupts: Interrupts) -> End:
    """Return how a run ended; the journal of a finished campaign is removed, as all is in the results file."""
    finished = job.schedule.finished
    if finished and not job.nothing_to_do:
        remove_journal(job.folder)
    with ResultsReader(job.campaign.output) as reader:
        ends, flags, aperture_flags = reader.ends(), reader.flags(), reader.aperture_flags()
    return End(
        output=job.campaign.output,
        counts=job.schedule.counts,
        galaxies=len(job.work.catalogue.galaxies),
        nothing_done=job.nothing_to_do,
        signal="" if finished else interrupts.reason,
        ends=ends,
        flags=flags,
        aperture_flags=aperture_flags,
    )


def check_output(path: Path) -> None:
    """Refuse an output that could not be written, before any work is done.

    Raises
    ------
    OutputError
        If `path` is a folder, or its folder cannot be written.
    """
    if path.is_dir():
        msg = f"{path}: this is a folder; name a file with -o."
        raise OutputError(msg)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        msg = f"{path}: this cannot be written ({error.strerror}); choose another name with -o."
        raise OutputError(msg) from error
