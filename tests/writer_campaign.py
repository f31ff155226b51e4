"""Outcomes made of random numbers, and ranks that write them: a program for mpirun, and what the tests share.

``writer_campaign.py OUTPUT JSON`` writes OUTPUT on all ranks; JSON holds what `Case` holds.
"""

import ctypes
import json
import resource
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sphot_mpi import results_backend
from sphot_mpi.catalogue import Catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import load_config
from sphot_mpi.errors import InputError, OutputError
from sphot_mpi.flags import ApertureFlag, FitFlag
from sphot_mpi.model_images import ModelImages
from sphot_mpi.outcomes import Failure, Frame, Status, TaskOutcome, Timing
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.records import SOURCE_DTYPE, Cutout, FilterFit, KernelFit, SersicParams, SkyPlane
from sphot_mpi.results import write_results
from sphot_mpi.results_origin import CampaignInfo
from sphot_mpi.results_source import KeptOutcome
from sphot_mpi.schedule import Task, TaskKind

FILTERS = ("F150W", "F555W", "F277W")
WCS_TEXT = "\n".join(
    f"{key:8}= {value!r:>20}"
    for key, value in {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 10.0,
        "CRVAL2": 20.0,
        "CRPIX1": 1.0,
        "CRPIX2": 1.0,
        "CDELT1": -1e-5,
        "CDELT2": 1e-5,
    }.items()
)


@dataclass(frozen=True)
class Case:
    """What is written, and how."""

    n_galaxies: int = 7
    images: tuple[str, ...] = ("data", "sersic_model", "psf_model", "psf_sub_data", "residual")
    psf: bool = True
    compress: bool = True
    batch_bytes: int = 40_000
    mode: str = "collective"
    fails: str = ""
    limit: float = 0.0


def make_galaxies(n: int) -> tuple[Galaxy, ...]:
    return tuple(
        Galaxy(index=k, name=f"galaxy {k} é", path=Path(f"g{k}.h5"), psf=Path("psf.h5"), filters=FILTERS)
        for k in range(n)
    )


def make_catalogue(n: int) -> Catalogue:
    galaxies = make_galaxies(n)
    columns = {
        "name": np.array([g.name for g in galaxies]),
        "path": np.array([str(g.path) for g in galaxies]),
        "redshift": np.linspace(0.0, 1.0, n),
    }
    return Catalogue(path=Path("catalogue.csv"), galaxies=galaxies, columns=columns, digest="0" * 64)


def make_fit(galaxy: Galaxy, filter_name: str) -> FilterFit:
    rng = np.random.default_rng((galaxy.index, FILTERS.index(filter_name)))
    sources = np.zeros(rng.integers(0, 60), SOURCE_DTYPE)
    for name in SOURCE_DTYPE.names:
        sources[name] = rng.integers(0, 1000, sources.size)
    parts = 2 if galaxy.index % 4 == 2 and filter_name == FILTERS[0] else 1
    component = SersicParams(amplitude=1.0, r_eff=5.0, n=1.5, x_0=9.0, y_0=8.0, ellip=0.3, theta=0.4)
    return FilterFit(
        galaxy=galaxy.name,
        filter=filter_name,
        components=(component,) * parts,
        covariance=np.diag(rng.uniform(size=7 * parts)),
        total_flux=float(rng.uniform()),
        total_flux_err=0.1,
        flux_in_cutout=0.5,
        sky=SkyPlane(level=float(rng.normal())),
        sky_covariance=np.eye(3),
        sources=sources,
        report=sources["flux_fit"] > 500,
        kernel=KernelFit(values=(0.7,), errors=(0.1,)),
        flags=FitFlag.HIGH_CHI2,
        messages=("a remark",) * int(rng.integers(0, 3)),
    )


def make_outcomes(galaxy: Galaxy) -> list[TaskOutcome]:
    """All that can happen: galaxy 1 failed, 3 lacks a filter, 4 has no photometry, 5 has not been begun."""
    if galaxy.index == 5:
        return []
    timing = Timing(rank=1, host="node1", started=1e9, seconds=1.0, memory=100.0)
    failure = Failure(stage="fit", error="FitError", message=f"{galaxy.name} cannot be fitted", traceback="x" * 300)
    outcomes, records = [], []
    for k, name in enumerate(FILTERS):
        task = Task(kind=TaskKind.SCALE if k else TaskKind.BASE, galaxy=galaxy.index, filter=name)
        if galaxy.index == 1:
            outcomes.append(TaskOutcome(task=task, status=Status.FAILED, timing=timing, failure=failure))
        elif galaxy.index == 3 and k == 1:
            outcomes.append(TaskOutcome(task=task, status=Status.MISSING, timing=timing))
        else:
            shape = 20 + 3 * (galaxy.index % 5) + k, 17 + 5 * (galaxy.index % 3)
            frame = Frame(
                shape=shape,
                origin=(3 * k, galaxy.index),
                full_shape=(90, 110),
                unit="MJy/sr",
                pixel_scale=0.03,
                wcs=WCS_TEXT if galaxy.index % 2 else "",
            )
            fit = make_fit(galaxy, name)
            outcomes.append(TaskOutcome(task=task, status=Status.DONE, timing=timing, fit=fit, frame=frame))
            flags = ApertureFlag.FILLED
            records.append(
                AperturePhotometry(
                    galaxy=galaxy.name,
                    filter=name,
                    flags=flags,
                    unit="MJy/sr",
                    pixel_scale=0.03,
                    origin=frame.origin,
                    x=5.5,
                    flux=fit.total_flux,
                    curve=np.full((4, 48), fit.total_flux),
                )
            )
    if galaxy.index not in (1, 4):
        task = Task(kind=TaskKind.PHOTOMETRY, galaxy=galaxy.index, filter="")
        outcomes.append(TaskOutcome(task=task, status=Status.DONE, timing=timing, photometry=tuple(records)))
    return outcomes


def make_images(outcome: TaskOutcome, galaxy: Galaxy) -> tuple[Cutout, ModelImages]:
    if galaxy.index == 6 and outcome.task.filter == FILTERS[2]:
        msg = f"{galaxy.path}: there is no such file any more"
        raise InputError(msg)
    rng = np.random.default_rng((galaxy.index, FILTERS.index(outcome.task.filter)))
    data, sersic, sources = rng.normal(size=(3, *outcome.frame.shape))
    data[0, 0] = np.nan
    cutout = Cutout(galaxy=galaxy.name, filter=outcome.task.filter, data=data, error=None, mask=np.isnan(data))
    return cutout, ModelImages(sersic=sersic, sources=sources, sky=np.zeros_like(data))


class PSFs:
    """PSFs of two shapes; that of galaxy 6 is gone in one filter."""

    def psf_shape(self, galaxy: Galaxy, filter_name: str) -> tuple[int, int, int]:
        return (*self._psf(galaxy, filter_name).shape, 4 if filter_name == FILTERS[0] else 2 + galaxy.index % 4)

    def psf(self, outcome: TaskOutcome, galaxy: Galaxy) -> np.ndarray:
        return self._psf(galaxy, outcome.task.filter)

    def _psf(self, galaxy: Galaxy, filter_name: str) -> np.ndarray:
        if galaxy.index == 6 and filter_name == FILTERS[2]:
            msg = f"{galaxy.psf}: there is no such file any more"
            raise InputError(msg)
        side = 9 + 2 * (galaxy.index % 3)
        return np.random.default_rng(galaxy.index).uniform(size=(side, side + 2))


def write_case(path: Path, case: Case, comm) -> object:
    catalogue = make_catalogue(case.n_galaxies)
    info = CampaignInfo(
        catalogue=catalogue,
        config=load_config(preset="best"),
        ranks=comm.size,
        images=case.images,
        psf=case.psf,
        photometry=True,
        compress=case.compress,
    )
    outcomes = [o for g in catalogue.galaxies for o in make_outcomes(g)]
    rng = np.random.default_rng(comm.rank)
    source = MemorySource(catalogue.galaxies, [outcomes[k] for k in rng.permutation(len(outcomes))])
    return write_results(path, info, source, comm, make_images, PSFs(), batch_bytes=case.batch_bytes)


class MemorySource:
    """Outcomes that are in memory, in any order."""

    def __init__(self, galaxies: Iterable[Galaxy], outcomes: Iterable[TaskOutcome]) -> None:
        self._outcomes = {outcome.task: outcome for outcome in outcomes}
        self._tasks: dict[int, list[Task]] = {}
        for galaxy in galaxies:
            order = (*galaxy.filters, "")  # photometry, which has no filter, goes last
            tasks = [task for task in self._outcomes if task.galaxy == galaxy.index]
            self._tasks[galaxy.index] = sorted(tasks, key=lambda task: order.index(task.filter))  # noqa: B023

    def tasks(self, galaxy: int) -> Sequence[Task]:
        return self._tasks[galaxy]

    def load(self, task: Task) -> KeptOutcome:
        return KeptOutcome(outcome=self._outcomes[task])


class MPIComm:
    """The ranks of COMM_WORLD; without `raw` nothing is written collectively."""

    def __init__(self, *, collective: bool) -> None:
        from mpi4py import MPI

        self._comm = MPI.COMM_WORLD
        self.rank, self.size = self._comm.rank, self._comm.size
        self.raw = self._comm if collective else None

    def allgather(self, value):
        return self._comm.allgather(value)

    def barrier(self):
        self._comm.barrier()

    def abort(self, sentence):
        sys.stderr.write(f"Error: {sentence}\n")
        sys.stderr.flush()
        self._comm.Abort(1)
        sys.exit(1)


class Transfers:
    """Counts how HDF5 did the transfers of this rank, as the library itself tells (H5Pget_mpio_actual_io_mode)."""

    MODES = ("none", "chunk independent", "chunk collective", "chunk mixed", "contiguous collective")

    def __init__(self) -> None:
        mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines())
        self._library = ctypes.CDLL(next(p for p in mapped if "/libhdf5" in p and "_hl" not in p))
        self._library.H5Pget_mpio_actual_io_mode.argtypes = [ctypes.c_int64, ctypes.POINTER(ctypes.c_int)]
        self.counts: Counter[str] = Counter()
        self._write = results_backend.write_slab
        results_backend.write_slab = self._counting

    def _counting(self, dataset, slab, transfer):
        self._write(dataset, slab, transfer)
        mode = ctypes.c_int(-1)
        assert self._library.H5Pget_mpio_actual_io_mode(transfer.id, ctypes.byref(mode)) >= 0
        self.counts[self.MODES[mode.value]] += 1
        self.counts["empty" if len(slab.rows) == 0 else "rows"] += 1


def main() -> None:
    path = Path(sys.argv[1])
    settings = json.loads(sys.argv[2])
    case = Case(**{**settings, "images": tuple(settings.get("images", Case.images))})
    comm = MPIComm(collective=case.mode == "collective")
    transfers = Transfers()
    if case.limit:
        results_backend.CollectiveBackend.__init__.__defaults__ = (case.limit,)
    # rank 0 writes whatever MPI-IO gathers on one rank
    if case.fails and comm.rank == (0 if case.mode == "collective" else comm.size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(case.fails), resource.RLIM_INFINITY))
    try:
        written = write_case(path, case, comm)
    except OutputError as error:
        if comm.rank == 0:
            sys.stderr.write(f"Error: {error}\n")
        sys.exit(1)
    reports = comm.allgather({"rank": comm.rank, "unrendered": written.unrendered, **transfers.counts})
    if comm.rank == 0:
        for report in reports:
            print(json.dumps(report))


if __name__ == "__main__":
    main()
