"""One task from file to outcome: read, crop, fit. Knows no rank but its number."""

import logging
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache

from threadpoolctl import ThreadpoolController

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config
from sphot_mpi.errors import DegenerateCutoutError, InputError, SphotError
from sphot_mpi.fit_renderer import FitRenderer
from sphot_mpi.flags import FitFlag
from sphot_mpi.inputs import contents, read_galaxy
from sphot_mpi.interrupts import TaskTimeout
from sphot_mpi.outcomes import Failure, Frame, Status, TaskOutcome, Timing
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.prepare import Crop, apply_crop, find_crop
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Cutout, FilterFit
from sphot_mpi.schedule import Task, TaskKind

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fitters:
    """The fits of the pipelines, and the photometry.

    Parameters
    ----------
    base : callable
        ``fit_base(cutout, library, config) -> FilterFit``.
    scaled : callable
        ``fit_scaled(cutout, library, base, base_cutout, config) -> FilterFit``.
    photometry : callable or None
        ``photometry(fits, cutouts, libraries, config) -> tuple of AperturePhotometry``, mappings by filter; None:
        no task asks for it.
    """

    base: Callable[[Cutout, LibraryPSF, Config], FilterFit]
    scaled: Callable[[Cutout, LibraryPSF, FilterFit, Cutout, Config], FilterFit]
    photometry: (
        Callable[
            [Mapping[str, FilterFit], Mapping[str, Cutout], Mapping[str, LibraryPSF], Config],
            tuple[AperturePhotometry, ...],
        ]
        | None
    ) = None


@cache
def _thread_pools() -> ThreadpoolController:
    """The libraries' thread pools, looked for at the first task: the fits have loaded all of them by then."""
    return ThreadpoolController()


def pipeline_fitters() -> Fitters:
    """Return the fits of `sphot_mpi.pipeline`."""
    from sphot_mpi import pipeline  # compiled kernels come with it: only a process that fits pays for them

    return Fitters(pipeline.fit_base, pipeline.fit_scaled, pipeline.photometry)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """What the tasks of one galaxy share."""

    index: int
    config: Config
    base: Cutout
    crop: Crop


class _Missing(Exception):  # noqa: N818
    """The file has not this filter; no failure of the galaxy."""


@dataclass(slots=True)
class _Result:
    """What a task has brought so far; `stage` tells what is being done."""

    stage: str = "read"
    status: Status = Status.DONE
    fit: FilterFit | None = None
    frame: Frame | None = None
    failure: Failure | None = None
    photometry: tuple[AperturePhotometry, ...] = ()

    def fail(self, error: BaseException, message: str = "") -> None:
        """Take down why the task failed."""
        self.status = Status.FAILED
        self.failure = Failure(
            stage=self.stage,
            error=type(error).__name__,
            message=message or str(error) or type(error).__name__,
            traceback="".join(traceback.format_exception(error)),
        )


class TaskRunner:
    """Runs tasks, one after another, in this process.

    Parameters
    ----------
    config : Config
        The campaign's configuration.
    fitters : Fitters
        The fits.
    rank : int
        For the records.
    limited : callable
        Returns the context in which a task runs: where it may be stopped by `TaskTimeout` and `TaskDropped`.
    """

    def __init__(
        self,
        config: Config,
        fitters: Fitters,
        rank: int = 0,
        limited: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._config = config
        self._fitters = fitters
        self._rank = rank
        self._limited = limited
        self._host = socket.gethostname()
        self._prepared: _Prepared | None = None
        #: Makes images and PSFs of the fits once they are done; shares the PSF libraries with them.
        self.renderer = FitRenderer(config)

    def run(
        self,
        task: Task,
        galaxy: Galaxy,
        needed: Callable[[], Mapping[str, FilterFit]] = dict,
        instead: Callable[[Mapping[str, FilterFit]], TaskOutcome] | None = None,
    ) -> TaskOutcome:
        """Do one task.

        Parameters
        ----------
        task : Task
            What to do.
        galaxy : Galaxy
            The galaxy's row.
        needed : callable
            Returns the galaxy's fits by filter: a scale fit needs that of the base filter, photometry all.
        instead : callable or None
            Takes these fits and does the work elsewhere, within the same limits; an error that it raises is the
            task's.

        Returns
        -------
        TaskOutcome
            A failure is an outcome, whatever its type: no galaxy's bug may end the campaign.
        """
        started, before = time.time(), time.process_time()
        result = _Result()
        try:
            # a rank owns one core: BLAS threads beyond it only wait for each other
            with self._limited(), _thread_pools().limit(limits=1):
                fits = needed()
                if instead is not None:
                    result.stage = "fit"
                    return instead(fits)
                self._do(task, galaxy, fits, result)
        except _Missing:
            result.status = Status.MISSING
        except TaskTimeout as error:
            result.fail(error, f"stopped at the time limit of a task, while in the stage {result.stage!r}")
        except DegenerateCutoutError as error:  # the file's fault, and a fit knows no file
            result.fail(error, f"{galaxy.path}: {error}.")
        except SphotError as error:
            result.fail(error)
        except Exception as error:  # noqa: BLE001 - a bug that one galaxy finds must not take the others along
            result.fail(error)
            log.error("a bug in the %s task of %r %s:", task.kind, galaxy.name, task.filter, exc_info=error)
        seconds = time.process_time() - before
        return TaskOutcome(
            task=task,
            status=result.status,
            timing=Timing(
                rank=self._rank, host=self._host, started=started, seconds=seconds, memory=_peak_memory()
            ),
            fit=result.fit and replace(result.fit, seconds=seconds),
            frame=result.frame,
            failure=result.failure,
            photometry=result.photometry,
        )  # fmt: skip

    def _do(self, task: Task, galaxy: Galaxy, fits: Mapping[str, FilterFit], result: _Result) -> None:
        shared = self._prepare(galaxy, result)
        if task.kind is TaskKind.PHOTOMETRY:
            self._measure(galaxy, fits, shared, result)
            return
        cutout = self._cutout(galaxy, task.filter, shared, result)
        result.stage = "psf"
        library = self.renderer.library(galaxy, task.filter)
        result.stage = "fit"
        if task.kind is TaskKind.BASE:
            fit = self._fitters.base(cutout, library, shared.config)
        else:
            fit = self._fitters.scaled(cutout, library, fits[galaxy.base_filter], shared.base, shared.config)
        result.fit, result.frame = fit, Frame.of(cutout)
        if FitFlag.NO_DATA in fit.flags:
            result.status = Status.NO_DATA

    def _measure(self, galaxy: Galaxy, fits: Mapping[str, FilterFit], shared: _Prepared, result: _Result) -> None:
        """Photometry of the filters that have a galaxy; without any there is nothing to measure."""
        fits = {name: fit for name, fit in fits.items() if FitFlag.NO_DATA not in fit.flags}
        if not fits:
            result.status = Status.NO_DATA
            return
        cutouts = {name: self._cutout(galaxy, name, shared, result) for name in fits}
        result.stage = "psf"
        libraries = {name: self.renderer.library(galaxy, name) for name in fits}
        result.stage = "photometry"
        if self._fitters.photometry is None:
            msg = "no photometry was given to this runner"
            raise ValueError(msg)
        result.photometry = self._fitters.photometry(fits, cutouts, libraries, shared.config)

    def _cutout(self, galaxy: Galaxy, filter_name: str, shared: _Prepared, result: _Result) -> Cutout:
        if filter_name == galaxy.base_filter:
            return shared.base
        result.stage = "read"
        full = self._read(galaxy, filter_name)
        result.stage = "crop"
        return apply_crop(full, shared.crop)

    def _prepare(self, galaxy: Galaxy, result: _Result) -> _Prepared:
        """Return what a galaxy's tasks share; kept for the next task, often the same galaxy's."""
        if self._prepared is None or self._prepared.index != galaxy.index:
            config = galaxy.config(self._config)
            try:
                full = self._read(galaxy, galaxy.base_filter)
            except _Missing:
                there = contents(galaxy.path)
                msg = f"{galaxy.path}: the base filter {galaxy.base_filter} is not in it ({there}); choose another."
                raise InputError(msg) from None
            result.stage = "crop"
            crop = find_crop(full, config)
            self._prepared = _Prepared(index=galaxy.index, config=config, base=apply_crop(full, crop), crop=crop)
        return self._prepared

    def _read(self, galaxy: Galaxy, filter_name: str) -> Cutout:
        images = read_galaxy(galaxy.path, galaxy.name, (filter_name,))
        if filter_name not in images.cutouts:
            raise _Missing
        return images.cutouts[filter_name]


def _peak_memory() -> float:
    """Peak resident memory of this process, MiB; the system counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
