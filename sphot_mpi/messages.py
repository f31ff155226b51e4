"""What master and workers tell each other: small records, never pixels, never a fit.

A worker finds the fits that a task needs in the journal, by their `RecordRef`.
"""

from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config
from sphot_mpi.ledger import Ledger
from sphot_mpi.outcome_index import RecordRef
from sphot_mpi.outcomes import Status
from sphot_mpi.results_origin import CampaignInfo
from sphot_mpi.schedule import Schedule, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """To a worker: the configuration, and where the journal is.

    Parameters
    ----------
    config : Config
        The campaign's configuration.
    folder : Path
        The journal's folder.
    output : Path
        Results file, which may hold outcomes of before.
    start : int
        Number of this start.
    """

    config: Config
    folder: Path
    output: Path
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """To a worker: do this.

    Parameters
    ----------
    task : Task
        What to do.
    galaxy : Galaxy
        The galaxy's row.
    refs : tuple of RecordRef
        Outcomes that the task needs: of a scale fit the base fit, of photometry all fits.
    attempt : int
        Which try this is, from 1.
    deaths : int
        Times that a process died while it ran this task.
    """

    task: Task
    galaxy: Galaxy
    refs: tuple[RecordRef, ...] = ()
    attempt: int = 1
    deaths: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """To the master: a task has ended, and its outcome is in the journal.

    Parameters
    ----------
    task : Task
        Which.
    status : Status
        How it ended.
    ref : RecordRef
        Where the outcome stands.
    rank : int
        Who did it.
    seconds : float
        Process time.
    flags : int
        Of the fit.
    stage, error, message : str
        Of a failure: what was being done, type and sentence; else empty.
    """

    task: Task
    status: Status
    ref: RecordRef
    rank: int = 0
    seconds: float = 0.0
    flags: int = 0
    stage: str = ""
    error: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handback:
    """To the master: a task that was not done, as the campaign is being stopped."""

    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """Both ways: nothing new, but this process lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Both ways: a signal has come; begin no more tasks.

    Parameters
    ----------
    number : signal.Signals
        The signal.
    """

    number: Signals


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather:
    """To a worker: come to the broadcast of a `Write`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Write:
    """To all workers, as a broadcast: no more tasks; take part in writing the results file.

    Parameters
    ----------
    finished : bool
        Whether nothing is left to do.
    output : Path
        Results file.
    folder : Path
        The journal's folder.
    info : CampaignInfo
        About the campaign.
    schedule : Schedule
        What has ended, and how.
    ledger : Ledger
        Where the outcomes stand.
    """

    finished: bool
    output: Path
    folder: Path
    info: CampaignInfo
    schedule: Schedule
    ledger: Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """To a worker: leave.

    Notes
    -----
    The job's exit status is rank 0's; the others leave with 0, as some launchers end all ranks, rank 0 with its last
    words included, as soon as one has left with an error.
    """
