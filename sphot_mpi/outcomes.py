"""What a task brings back: a fit, photometry, a failure, or the news that there was nothing to fit."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.records import Cutout, FilterFit
from sphot_mpi.schedule import Task, TaskKind


class TaskKey(NamedTuple):
    """A task by its galaxy's name: what it is called in journals and files, where rows may come and go."""

    name: str
    kind: TaskKind
    filter: str


class Status(StrEnum):
    """How a task ended."""

    DONE = "done"
    NO_DATA = "no data"
    MISSING = "missing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A cutout without its pixels; the parameters are those of `Cutout`."""

    shape: tuple[int, int]
    origin: tuple[int, int]
    full_shape: tuple[int, int]
    unit: str
    pixel_scale: float
    wcs: str

    @classmethod
    def of(cls, cutout: Cutout) -> "Frame":
        """Return the frame of a cutout."""
        return cls(
            shape=cutout.shape,
            origin=cutout.origin,
            full_shape=cutout.full_shape,
            unit=cutout.unit,
            pixel_scale=cutout.pixel_scale,
            wcs=cutout.wcs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a task failed.

    Parameters
    ----------
    stage : str
        What was being done: "read", "crop", "psf", "fit" or "photometry".
    error, message, traceback : str
        Type of the exception, its sentence, and where it came from.
    """

    stage: str
    error: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where and when a task ran.

    Parameters
    ----------
    rank : int
        MPI rank.
    host : str
        Name of the machine.
    started : float
        Unix time.
    seconds : float
        Process time.
    memory : float
        Peak memory of the process so far, MiB.
    """

    rank: int
    host: str
    started: float
    seconds: float
    memory: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskOutcome:
    """The end of one task; `fit` and `frame` of a fit are there unless it failed or the filter is missing."""

    task: Task
    status: Status
    timing: Timing
    fit: FilterFit | None = None
    frame: Frame | None = None
    failure: Failure | None = None
    photometry: tuple[AperturePhotometry, ...] = ()
