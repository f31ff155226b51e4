"""Read the outcomes of tasks back from a finished results file, bit for bit as the journal had them.

The tables stand in one order: a row of /provenance a task; a row of /sersic, its covariances, /wcs and
/sources_index a fit; a row of /failures a failure. So a task's row in /provenance leads to all of its rows.
"""

import typing
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sphot_mpi.errors import OutputError, ProcessDiedError
from sphot_mpi.flags import ApertureFlag, FitFlag
from sphot_mpi.outcome_index import Found, RecordRef
from sphot_mpi.outcomes import Failure, Frame, Status, TaskKey, TaskOutcome, Timing
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.psf_kernel import FAMILIES
from sphot_mpi.records import SERSIC_PARAMETERS, SOURCE_DTYPE, FilterFit, KernelFit, SersicParams, SkyPlane
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.results_source import KeptOutcome
from sphot_mpi.schedule import Task, TaskKind
from sphot_mpi.storable import N_FAINT_LIMITS, SEPARATOR, SOURCE_POSITIONS

_FITTED = (Status.DONE, Status.NO_DATA)


class _Rows:
    """Single rows of a dataset, read by blocks: outcomes are mostly asked for one after another."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self._size = dataset.chunks[0] if dataset.chunks else max(len(dataset), 1)
        self._number = -1
        self._block: NDArray[Any] = np.empty(0)

    def __getitem__(self, row: int) -> Any:
        number = row // self._size
        if number != self._number:
            self._block = self._dataset[number * self._size : (number + 1) * self._size]
            self._number = number
        return self._block[row - number * self._size]


class StoredOutcomes:
    """The outcomes in a finished results file; use it in a ``with`` statement or `close` it.

    Parameters
    ----------
    path : Path
        Results file.

    Raises
    ------
    OutputError
        If this is no results file, or one that does not hold all that its fits have found.
    """

    def __init__(self, path: Path) -> None:
        self.reader = ResultsReader(path)
        self._path = path
        try:
            self._open(self.reader.file)
        except (KeyError, ValueError) as error:
            self.close()
            msg = (
                f"{path}: an older sphot-mpi wrote this file, and its fits cannot be taken over ({error}); "
                "give --overwrite, or another name with -o."
            )
            raise OutputError(msg) from error

    def _open(self, file: h5py.File) -> None:
        table = file["provenance"]
        status = table.fields("status")[:]
        kind = table.fields("task")[:]
        is_fit = np.isin(status, [s.encode() for s in _FITTED]) & (kind != TaskKind.PHOTOMETRY.encode())
        failed = status == Status.FAILED.encode()
        lacking = {"attempts", "digest"} - set(table.dtype.names)
        if lacking:
            msg = f"/provenance has no {' and no '.join(sorted(lacking))}"
            raise ValueError(msg)
        for name, count in (("sersic", is_fit.sum()), ("wcs", is_fit.sum()), ("failures", failed.sum())):
            if len(file[name]) != count:
                msg = f"/{name} has {len(file[name])} rows for {count} tasks"
                raise ValueError(msg)
        self._fit_row = np.cumsum(is_fit) - 1
        self._failure_row = np.cumsum(failed) - 1
        self._galaxy_row = {name: row for row, name in enumerate(self.reader.names())}
        names = ("galaxies", "provenance", "sersic", "sersic_covariance", "sky_covariance", "wcs", "sources_index")
        self._rows = {name: _Rows(file[name]) for name in (*names, "failures")}
        self._photometry_rows = _runs(file["photometry"].fields("name")[:])

    def galaxy_row(self, name: str) -> int:
        """Return a galaxy's row in /galaxies."""
        return self._galaxy_row[name]

    def close(self) -> None:
        """Close the file."""
        self.reader.file.close()

    def __enter__(self) -> "StoredOutcomes":
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self.close()

    def ended(self) -> Iterator[tuple[TaskKey, Found]]:
        """Yield all tasks, with what an index of them needs; `Found.start` is 0."""
        file = self.reader.file
        table = file["provenance"][:]
        errors = file["failures"].fields("error")[:]
        for row, entry in enumerate(table):
            status = Status(entry["status"].decode())
            error = errors[self._failure_row[row]].decode() if status is Status.FAILED else ""
            found = Found(
                ref=RecordRef("", row, 0),
                digest=entry["digest"].decode(),
                status=status,
                start=0,
                attempt=int(entry["attempts"]),
                final=error == ProcessDiedError.__name__,
            )
            yield _key(entry), found

    def keys(self) -> list[TaskKey]:
        """Return all tasks, also those that could not start, in the order of the rows of /provenance."""
        return [_key(entry) for entry in self.reader.file["provenance"].fields(["name", "filter", "task"])[:]]

    def load(self, row: int) -> KeptOutcome:
        """Return one outcome.

        Parameters
        ----------
        row : int
            Row of /provenance.

        Returns
        -------
        KeptOutcome
            Its `task.galaxy` is the row in this file's /galaxies.

        Raises
        ------
        OutputError
            If the file cannot be read, or its tables do not belong together.
        """
        try:
            return self._load(row)
        except (OSError, KeyError, ValueError, IndexError) as error:
            msg = f"{self._path}: the file is damaged (row {row} of /provenance: {error}); give --overwrite."
            raise OutputError(msg) from error

    def _load(self, row: int) -> KeptOutcome:
        entry = self._rows["provenance"][row]
        key = _key(entry)
        status = Status(entry["status"].decode())
        galaxy = self._rows["galaxies"][self._galaxy_row[key.name]]
        fit, frame, failure = None, None, None
        photometry: tuple[AperturePhotometry, ...] = ()
        if status is Status.FAILED:
            failure = self._failure(int(self._failure_row[row]))
        elif key.kind is TaskKind.PHOTOMETRY:
            photometry = self._photometry(key.name, galaxy)
        elif status in _FITTED:
            at = int(self._fit_row[row])
            fit, frame = self._fit(key, at, galaxy), self._frame(at, galaxy)
        outcome = TaskOutcome(
            task=Task(kind=key.kind, galaxy=self._galaxy_row[key.name], filter=key.filter),
            status=status,
            timing=Timing(
                rank=int(entry["rank"]),
                host=entry["host"].decode(),
                started=float(entry["started"]),
                seconds=float(entry["seconds"]),
                memory=float(entry["memory"]),
            ),
            fit=fit,
            frame=frame,
            failure=failure,
            photometry=photometry,
        )
        return KeptOutcome(outcome=outcome, digest=entry["digest"].decode(), attempts=int(entry["attempts"]))

    def _failure(self, row: int) -> Failure:
        entry = self._rows["failures"][row]
        return Failure(**{f.name: entry[f.name].decode() for f in fields(Failure)})

    def _frame(self, row: int, galaxy: np.void) -> Frame:
        entry = self._rows["sersic"][row]
        return Frame(
            shape=(int(galaxy["crop_ny"]), int(galaxy["crop_nx"])),
            origin=_origin(galaxy),
            full_shape=(int(galaxy["full_ny"]), int(galaxy["full_nx"])),
            unit=entry["unit"].decode(),
            pixel_scale=float(entry["pixel_scale"]),
            wcs=self._rows["wcs"][row]["wcs"].decode(),
        )

    def _fit(self, key: TaskKey, row: int, galaxy: np.void) -> FilterFit:
        entry = self._rows["sersic"][row]
        if (entry["name"].decode(), entry["filter"].decode()) != (key.name, key.filter):
            msg = f"/sersic has {entry['name'].decode()} {entry['filter'].decode()} for {key.name} {key.filter}"
            raise ValueError(msg)
        x, y = _origin(galaxy)
        n = int(entry["n_components"])
        k = len(SERSIC_PARAMETERS) * max(n, 1)
        sources, report = self._sources(row, (x, y))
        limits = [float(entry[f"faint_limit_{k + 1}"]) for k in range(N_FAINT_LIMITS)]
        text = entry["messages"].decode()
        same = ("total_flux", "total_flux_err", "flux_in_cutout", "noise", "correlation", "chi2_reduced")
        return FilterFit(
            galaxy=key.name,
            filter=key.filter,
            components=tuple(_component(entry, suffix, (x, y)) for suffix in ("", "_2")[:n]),
            covariance=self._rows["sersic_covariance"][row][:k, :k].copy(),
            sky=_sky(entry, (x, y)),
            sky_covariance=self._rows["sky_covariance"][row].copy(),
            sources=sources,
            report=report,
            kernel=_kernel(entry),
            shift=(float(entry["shift_x"]), float(entry["shift_y"])),
            n_pix=int(entry["n_pix"]),
            masked_fraction=float(entry["masked_fraction"]),
            star_density_ratio=float(entry["star_density_ratio"]),
            faint_limits=() if np.isnan(limits).all() else tuple(limits),
            passes=int(entry["passes"]),
            converged=bool(entry["converged"]),
            flags=FitFlag(int(entry["flags"])),
            seconds=float(entry["seconds"]),
            messages=tuple(text.split(SEPARATOR)) if text else (),
            **{name: float(entry[name]) for name in same},
        )

    def _sources(self, row: int, origin: tuple[int, int]) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
        index = self._rows["sources_index"][row]
        stored = self.reader.file["sources"][int(index["start"]) : int(index["start"] + index["count"])]
        sources = np.zeros(len(stored), SOURCE_DTYPE)
        for name in SOURCE_DTYPE.names or ():
            axis = SOURCE_POSITIONS.get(name)
            sources[name] = stored[name] if axis is None else stored[name] - origin[axis]
        return sources, stored["reported"].astype(bool)

    def _photometry(self, name: str, galaxy: np.void) -> tuple[AperturePhotometry, ...]:
        start, stop = self._photometry_rows.get(name.encode(), (0, 0))
        table = self.reader.file["photometry"][start:stop]
        curves = self.reader.file["photometry_curve"][start:stop]
        return tuple(
            _photometry(entry, curve.copy(), name, _origin(galaxy)) for entry, curve in zip(table, curves, strict=True)
        )


def _key(entry: np.void) -> TaskKey:
    return TaskKey(entry["name"].decode(), TaskKind(entry["task"].decode()), entry["filter"].decode())


def _origin(galaxy: np.void) -> tuple[int, int]:
    return int(galaxy["crop_x"]), int(galaxy["crop_y"])


def _component(entry: np.void, suffix: str, origin: tuple[int, int]) -> SersicParams:
    offset = {"x_0": origin[0], "y_0": origin[1]}
    values = {p: float(entry[f"{p}{suffix}"]) for p in SERSIC_PARAMETERS}
    return SersicParams(**{p: v - offset[p] if p in offset else v for p, v in values.items()})


def _sky(entry: np.void, origin: tuple[int, int]) -> SkyPlane:
    return SkyPlane(
        level=float(entry["sky"]),
        slope_x=float(entry["sky_slope_x"]),
        slope_y=float(entry["sky_slope_y"]),
        x_ref=float(entry["sky_x"] - origin[0]),
        y_ref=float(entry["sky_y"] - origin[1]),
    )


def _kernel(entry: np.void) -> KernelFit:
    family = entry["kernel_family"].decode()
    numbers = range(1, len(FAMILIES[family].parameter_names) + 1)
    return KernelFit(
        family=family,
        values=tuple(float(entry[f"kernel_{k}"]) for k in numbers),
        errors=tuple(float(entry[f"kernel_{k}_err"]) for k in numbers),
        fwhm=float(entry["fwhm"]),
        n_anchors=int(entry["kernel_anchors"]),
    )


@cache
def _photometry_types() -> dict[str, Any]:
    return typing.get_type_hints(AperturePhotometry)


def _photometry(entry: np.void, curve: NDArray[np.float64], galaxy: str, origin: tuple[int, int]) -> AperturePhotometry:
    own: dict[str, Any] = {
        "galaxy": galaxy,
        "origin": origin,
        "curve": curve,
        "flags": ApertureFlag(int(entry["flags"])),
    }
    values: dict[str, Any] = {}
    for name, kind in _photometry_types().items():
        if name not in own:
            values[name] = entry[name].decode() if kind is str else kind(entry[name])
    values["x"], values["y"] = float(entry["x"] - origin[0]), float(entry["y"] - origin[1])
    return AperturePhotometry(**own, **values)


def _runs(names: NDArray[np.bytes_]) -> dict[bytes, tuple[int, int]]:
    """Return first and last-but-one row of each name; equal names stand together."""
    if not len(names):
        return {}
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1]))
    stops = np.append(starts[1:], len(names))
    return {bytes(names[a]): (int(a), int(b)) for a, b in zip(starts, stops, strict=True)}
