"""The catalogue: which galaxies, which files, what is special about each.

A catalogue is a table with a row a galaxy, or a single galaxy's file, which is a
catalogue of one. All problems of all rows are found together.
"""

import difflib
import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.catalogue_rows import Galaxy, RowReader
from sphot_mpi.catalogue_table import read_table, resolve_columns
from sphot_mpi.config import Config
from sphot_mpi.errors import CatalogueError, InputError, UsageError, listed
from sphot_mpi.inputs import is_fits, is_hdf5, is_psf, list_filters, open_hdf5
from sphot_mpi.results_schema import FORMAT

log = logging.getLogger(__name__)

_SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Catalogue:
    """A checked catalogue.

    Parameters
    ----------
    path : Path
        File it was read from.
    galaxies : tuple of Galaxy
        In the order of the file.
    columns : dict of str to ndarray
        All columns of these galaxies as read, text as text.
    digest : str
        SHA-256 (hex) of the file.
    problems : tuple of str
        Of the rows that were left out, one sentence each.
    """

    path: Path
    galaxies: tuple[Galaxy, ...]
    columns: dict[str, NDArray[np.generic]]
    digest: str
    problems: tuple[str, ...] = ()

    def select(self, only: Sequence[str] = (), limit: int | None = None) -> "Catalogue":
        """Return a catalogue of some of the galaxies.

        Parameters
        ----------
        only : sequence of str
            Names; empty: all.
        limit : int or None
            At most so many, from the first on.

        Returns
        -------
        Catalogue
            In the order of the file.

        Raises
        ------
        UsageError
            If a name is not in the catalogue.
        """
        names = {galaxy.name for galaxy in self.galaxies}
        for name in only:
            if name not in names:
                near = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.5)
                hint = f"; the nearest is {near[0]!r}" if near else ""
                msg = f"{self.path}: --only {name!r} is not in the catalogue{hint}."
                raise UsageError(msg)
        chosen = set(only)
        keep = [i for i, galaxy in enumerate(self.galaxies) if not only or galaxy.name in chosen][:limit]
        return Catalogue(
            path=self.path,
            galaxies=tuple(replace(self.galaxies[i], index=row) for row, i in enumerate(keep)),
            columns={key: values[keep] for key, values in self.columns.items()},
            digest=self.digest,
            problems=self.problems,
        )

    def check_filters(self, filters: Sequence[str]) -> None:
        """Raise `UsageError` if one of these is a filter of no galaxy."""
        there = sorted({name for galaxy in self.galaxies for name in galaxy.filters})
        for name in filters:
            if name not in there:
                near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
                hint = f"; the nearest is {near[0]}" if near else f"; there are {listed(there)}"
                msg = f"{self.path}: --filters {name} is a filter of no galaxy{hint}."
                raise UsageError(msg)

    def narrowed(self, filters: Sequence[str]) -> "Catalogue":
        """Return a catalogue in which galaxies have only these filters, and the base filter; empty: all.

        Raises
        ------
        UsageError
            If one of these is a filter of no galaxy.
        """
        self.check_filters(filters)
        if not filters:
            return self
        narrow = [
            replace(
                galaxy,
                filters=(galaxy.base_filter, *(f for f in galaxy.filters[1:] if f in filters)),
                forced=tuple(f for f in galaxy.forced if f in filters),
            )
            for galaxy in self.galaxies
        ]
        return replace(self, galaxies=tuple(narrow))


def read_catalogue(path: Path, config: Config, *, skip_invalid: bool = False) -> Catalogue:
    """Read and check a catalogue.

    Parameters
    ----------
    path : Path
        CSV, ECSV or FITS table, or a galaxy's own HDF5 or FITS file.
    config : Config
        What rows that do not say otherwise take.
    skip_invalid : bool
        Leave out rows with problems instead of refusing the catalogue.

    Returns
    -------
    Catalogue
        With at least one galaxy.

    Raises
    ------
    CatalogueError
        If the file cannot be read, or rows have problems; all of them are named.
    """
    if path.is_dir():
        msg = f"{path}: this is a folder; name the catalogue or galaxy file in it."
        raise CatalogueError(msg)
    if not path.is_file():
        msg = f"{path}: there is no such file; name a catalogue or a galaxy file."
        raise CatalogueError(msg)
    columns = _table_of_one(path) if _is_galaxy_file(path, config) else read_table(path)
    roles = resolve_columns(path, columns)
    for role, column in roles.items():
        if role != column:
            log.info("%s: column %r is taken as %r", path, column, role)
    reader = RowReader(path=path, config=config, roles=roles, columns=columns)
    galaxies, keep, problems = reader.read_all()
    if problems and not skip_invalid:
        raise CatalogueError(_report(path, problems))
    for problem in problems:
        log.warning("%s: left out: %s", path, problem)
    if not galaxies:
        msg = f"{path}: no galaxy to fit; the catalogue has {len(next(iter(columns.values())))} rows, none usable."
        raise CatalogueError(msg)
    return Catalogue(
        path=path,
        galaxies=tuple(galaxies),
        columns={key: values[keep] for key, values in columns.items()},
        digest=_digest(path),
        problems=tuple(problems),
    )


def _report(path: Path, problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return f"{path}: {problems[0]}"
    lines = [f"{path}: {len(problems)} problems (--skip-invalid runs the other rows).", *problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"... and {len(problems) - _SHOWN} more.")
    return "\n  ".join(lines)


def _is_galaxy_file(path: Path, config: Config) -> bool:
    """Whether this is one galaxy's images; a FITS file may also be a table, an HDF5 file another one of ours."""
    if is_hdf5(path):
        _refuse_others(path)
        return True
    if not is_fits(path):
        return False
    wanted = {name.upper() for name in config.prep.filters}
    return any(name.upper() in wanted for name in list_filters(path))


def _refuse_others(path: Path) -> None:
    with suppress(InputError), open_hdf5(path) as file:  # what cannot be read is said when it is fitted
        if file.attrs.get("format") == FORMAT:
            msg = f"{path}: this is a results file; name the catalogue or the galaxy's file that it was made from."
            raise CatalogueError(msg)
        if len(file) and all(is_psf(path, file, str(name)) for name in file):
            msg = f"{path}: this is a library of PSFs; name a catalogue or a galaxy file, which finds it by itself."
            raise CatalogueError(msg)


def _table_of_one(path: Path) -> dict[str, NDArray[np.generic]]:
    stem = path.name
    while Path(stem).suffix.lower() in (".h5", ".hdf5", ".hdf", ".fits", ".fit", ".gz", ".fz"):
        stem = Path(stem).stem
    return {"name": np.array([stem]), "path": np.array([path.name])}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
