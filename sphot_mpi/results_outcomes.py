"""Read the outcomes of tasks back from a finished results file, bit for bit as the journal had them.

The tables stand in one order: a row of /provenance a task; a row of /sersic, its covariances, /wcs and
/sources_index a fit; a row of /failures a failure. So a task's row in /provenance leads to all of its rows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sphot_mpi.errors import OutputError, ProcessDiedError
from sphot_mpi.outcome_index import Found, RecordRef
from sphot_mpi.outcomes import Frame, Status, TaskKey, TaskOutcome, Timing
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.records import FilterFit
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.results_records import failure_of, fit_of, frame_of, photometry_of
from sphot_mpi.results_source import KeptOutcome
from sphot_mpi.schedule import Task, TaskKind

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
            failure = failure_of(self._rows["failures"][int(self._failure_row[row])])
        elif key.kind is TaskKind.PHOTOMETRY:
            photometry = self._photometry(key.name, galaxy)
        elif status in _FITTED:
            fit, frame = self._fit(key, int(self._fit_row[row]), galaxy)
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

    def _fit(self, key: TaskKey, at: int, galaxy: np.void) -> tuple[FilterFit, Frame]:
        row, index = self._rows["sersic"][at], self._rows["sources_index"][at]
        if (row["name"].decode(), row["filter"].decode()) != (key.name, key.filter):
            msg = f"/sersic has {row['name'].decode()} {row['filter'].decode()} for {key.name} {key.filter}"
            raise ValueError(msg)
        sources = self.reader.file["sources"][int(index["start"]) : int(index["start"] + index["count"])]
        matrices = self._rows["sersic_covariance"][at], self._rows["sky_covariance"][at]
        fit = fit_of(row, galaxy, sources, *matrices)
        return fit, frame_of(row, galaxy, self._rows["wcs"][at]["wcs"].decode())

    def _photometry(self, name: str, galaxy: np.void) -> tuple[AperturePhotometry, ...]:
        start, stop = self._photometry_rows.get(name.encode(), (0, 0))
        table = self.reader.file["photometry"][start:stop]
        curves = self.reader.file["photometry_curve"][start:stop]
        return tuple(photometry_of(row, curve, galaxy) for row, curve in zip(table, curves, strict=True))


def _key(entry: np.void) -> TaskKey:
    return TaskKey(entry["name"].decode(), TaskKind(entry["task"].decode()), entry["filter"].decode())


def _runs(names: NDArray[np.bytes_]) -> dict[bytes, tuple[int, int]]:
    """Return first and last-but-one row of each name; equal names stand together."""
    if not len(names):
        return {}
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1]))
    stops = np.append(starts[1:], len(names))
    return {bytes(names[a]): (int(a), int(b)) for a, b in zip(starts, stops, strict=True)}
