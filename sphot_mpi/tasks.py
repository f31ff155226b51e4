"""One task from file to outcome: read, crop, fit. Knows no rank but its number."""

import resource
import socket
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config
from sphot_mpi.errors import InputError, SphotError
from sphot_mpi.flags import FitFlag
from sphot_mpi.inputs import contents, read_galaxy, read_libraries
from sphot_mpi.model_images import ModelImages, render_model
from sphot_mpi.outcomes import Failure, Frame, Status, TaskOutcome, Timing
from sphot_mpi.prepare import Crop, apply_crop, find_crop
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Cutout, FilterFit
from sphot_mpi.schedule import Task, TaskKind

#: PSF libraries that a worker keeps; more than one only where the catalogue names several.
_LIBRARIES_KEPT = 4


@dataclass(frozen=True, slots=True)
class Fitters:
    """The two fits of the pipelines.

    Parameters
    ----------
    base : callable
        ``fit_base(cutout, library, config) -> FilterFit``.
    scaled : callable
        ``fit_scaled(cutout, library, base, base_cutout, config) -> FilterFit``.
    """

    base: Callable[[Cutout, LibraryPSF, Config], FilterFit]
    scaled: Callable[[Cutout, LibraryPSF, FilterFit, Cutout, Config], FilterFit]


def pipeline_fitters() -> Fitters:
    """Return the fits of `sphot_mpi.pipeline`."""
    from sphot_mpi import pipeline  # compiled kernels come with it: only a process that fits pays for them

    return Fitters(pipeline.fit_base, pipeline.fit_scaled)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prepared:
    """What the tasks of one galaxy share."""

    index: int
    config: Config
    base: Cutout
    crop: Crop


class _Missing(Exception):  # noqa: N818
    """The file has not this filter; no failure of the galaxy."""


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
    """

    def __init__(self, config: Config, fitters: Fitters, rank: int = 0) -> None:
        self._config = config
        self._fitters = fitters
        self._rank = rank
        self._host = socket.gethostname()
        self._prepared: _Prepared | None = None
        self._libraries: OrderedDict[tuple[Path, str], LibraryPSF] = OrderedDict()

    def run(self, task: Task, galaxy: Galaxy, base: FilterFit | None = None) -> TaskOutcome:
        """Do one task.

        Parameters
        ----------
        task : Task
            What to do.
        galaxy : Galaxy
            The galaxy's row.
        base : FilterFit or None
            The galaxy's base fit; needed by a scale fit.

        Returns
        -------
        TaskOutcome
            An expected failure is an outcome; any other exception passes through
            with the task's name added to it.
        """
        started, before = time.time(), time.process_time()
        stages = ["read"]
        fit, frame, failure, status = None, None, None, Status.DONE
        try:
            # a rank owns one core: BLAS threads beyond it only wait for each other
            with threadpool_limits(limits=1):
                cutout, fit = self._fit(task, galaxy, base, stages)
            frame = Frame.of(cutout)
            if FitFlag.NO_DATA in fit.flags:
                status = Status.NO_DATA
        except _Missing:
            status = Status.MISSING
        except SphotError as error:
            status = Status.FAILED
            failure = Failure(
                stage=stages[-1],
                error=type(error).__name__,
                message=str(error),
                traceback="".join(traceback.format_exception(error)),
            )
        except Exception as error:
            error.add_note(f"in the {task.kind} fit of galaxy {galaxy.name!r}, filter {task.filter}")
            raise
        seconds = time.process_time() - before
        if fit is not None:
            fit = replace(fit, seconds=seconds)
        return TaskOutcome(
            task=task,
            status=status,
            timing=Timing(
                rank=self._rank, host=self._host, started=started, seconds=seconds, memory=_peak_memory()
            ),
            fit=fit,
            frame=frame,
            failure=failure,
        )  # fmt: skip

    def _fit(self, task: Task, galaxy: Galaxy, base: FilterFit | None, stages: list[str]) -> tuple[Cutout, FilterFit]:
        """Return the cutout and its fit; the last of `stages` tells what is being done."""
        shared = self._prepare(galaxy, stages)
        if task.kind is TaskKind.BASE:
            stages.append("psf")
            library = self._library(galaxy, task.filter, shared.config)
            stages.append("fit")
            return shared.base, self._fitters.base(shared.base, library, shared.config)
        stages.append("read")
        cutout = self._read(galaxy, task.filter)
        stages.append("crop")
        cutout = apply_crop(cutout, shared.crop)
        stages.append("psf")
        library = self._library(galaxy, task.filter, shared.config)
        stages.append("fit")
        if base is None:
            msg = "a scale fit needs the base fit"
            raise ValueError(msg)
        return cutout, self._fitters.scaled(cutout, library, base, shared.base, shared.config)

    def _prepare(self, galaxy: Galaxy, stages: list[str]) -> _Prepared:
        """Return what a galaxy's tasks share; kept for the next task, often the same galaxy's."""
        if self._prepared is None or self._prepared.index != galaxy.index:
            config = galaxy.config(self._config)
            try:
                full = self._read(galaxy, galaxy.base_filter)
            except _Missing:
                there = contents(galaxy.path)
                msg = f"{galaxy.path}: the base filter {galaxy.base_filter} is not in it ({there}); choose another."
                raise InputError(msg) from None
            stages.append("crop")
            crop = find_crop(full, config)
            self._prepared = _Prepared(index=galaxy.index, config=config, base=apply_crop(full, crop), crop=crop)
        return self._prepared

    def _read(self, galaxy: Galaxy, filter_name: str) -> Cutout:
        images = read_galaxy(galaxy.path, galaxy.name, (filter_name,))
        if filter_name not in images.cutouts:
            raise _Missing
        return images.cutouts[filter_name]

    def _library(self, galaxy: Galaxy, filter_name: str, config: Config) -> LibraryPSF:
        key = (galaxy.psf, filter_name)
        if key not in self._libraries:
            found = read_libraries(galaxy.psf, (filter_name,), config.prep.blur_psf)
            if filter_name not in found:
                msg = f"{galaxy.psf}: there is no PSF for {filter_name}; add a dataset of that name."
                raise InputError(msg)
            while len(self._libraries) >= _LIBRARIES_KEPT * len(galaxy.filters):
                self._libraries.popitem(last=False)
            self._libraries[key] = found[filter_name]
        return self._libraries[key]

    def images(self, outcome: TaskOutcome, galaxy: Galaxy) -> tuple[Cutout, ModelImages]:
        """Read the cutout of a finished fit again, and render the fit's components.

        Parameters
        ----------
        outcome : TaskOutcome
            With a fit.
        galaxy : Galaxy
            The galaxy's row.

        Returns
        -------
        cutout : Cutout
            As it was fitted.
        model : ModelImages
            From the fit's record.
        """
        if outcome.fit is None or outcome.frame is None:
            msg = "the outcome holds no fit"
            raise ValueError(msg)
        frame, name = outcome.frame, outcome.task.filter
        full = self._read(galaxy, name)
        (x0, y0), (ny, nx) = frame.origin, frame.shape
        window = slice(y0, y0 + ny), slice(x0, x0 + nx)
        cutout = replace(
            full,
            data=full.data[window],
            mask=full.mask[window],
            error=None if full.error is None else full.error[window],
            origin=frame.origin,
        )
        return cutout, render_model(outcome.fit, cutout, self._library(galaxy, name, galaxy.config(self._config)))


def _peak_memory() -> float:
    """Peak resident memory of this process, MiB; the system counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
