"""Check the rows of a catalogue, and say all that is wrong with them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.config import Config
from sphot_mpi.errors import InputError
from sphot_mpi.inputs import library_faults

#: Longest name, in bytes of UTF-8; names are stored as text of fixed length.
MAX_NAME = 64

_FILTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Galaxy:
    """One row of the catalogue, checked.

    Parameters
    ----------
    index : int
        Row among the usable rows, from 0.
    name : str
        Unique; printable text of at most 64 bytes.
    path, psf : Path
        Galaxy file and PSF library.
    filters : tuple of str
        Filters to fit, the base filter first.
    forced : tuple of str
        Filters measured at the base filter's positions only.
    priority : float
        Higher goes first.
    ra, dec : float
        Deg; NaN: unknown.
    """

    index: int
    name: str
    path: Path
    psf: Path
    filters: tuple[str, ...]
    forced: tuple[str, ...] = ()
    priority: float = 0.0
    ra: float = float("nan")
    dec: float = float("nan")

    @property
    def base_filter(self) -> str:
        """Filter of the full fit."""
        return self.filters[0]

    def config(self, config: Config) -> Config:
        """Return the configuration with what this row changes in it."""
        changes: dict[str, Any] = {"prep": {"filters": list(self.filters)}, "core": {"base_filter": self.base_filter}}
        if self.forced:
            changes["core"]["scale_positions"] = dict.fromkeys(self.forced, "forced")
        return config.replaced(changes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowReader:
    """Turns columns into galaxies.

    Parameters
    ----------
    path : Path
        The catalogue; paths in it are relative to its folder.
    config : Config
        Default filters, base filter and PSF file.
    roles : mapping
        Column of each known role.
    columns : mapping
        The table.
    """

    path: Path
    config: Config
    roles: Mapping[str, str]
    columns: Mapping[str, NDArray[np.generic]]
    _libraries: dict[Path, dict[str, str] | str] = field(default_factory=dict)
    # what many rows have in common is kept once: catalogues may have a million rows
    _paths: dict[str, Path] = field(default_factory=dict)
    _tuples: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def read_all(self) -> tuple[list[Galaxy], list[int], list[str]]:
        """Return the usable galaxies, their rows in the table, and the problems of the others."""
        galaxies: list[Galaxy] = []
        keep: list[int] = []
        problems: list[str] = []
        first_row: dict[str, int] = {}
        for row in range(len(self.columns[self.roles["path"]])):
            found: list[str] = []
            name = self._name(row)
            if name and first_row.setdefault(name, row + 1) != row + 1:
                found.append(f"the name is that of row {first_row[name]}; names must be unique")
            galaxy = self._read(row, name, len(galaxies), found)
            if galaxy is None:
                label = self._text("name", row) or self._text("path", row)
                problems.extend(f"row {row + 1} ({label[:MAX_NAME]}): {problem}." for problem in found)
                continue
            galaxies.append(galaxy)
            keep.append(row)
        return galaxies, keep, problems

    def _text(self, role: str, row: int) -> str:
        if role not in self.roles:
            return ""
        value = self.columns[self.roles[role]][row]
        return "" if isinstance(value, np.floating) and np.isnan(value) else str(value).strip()

    def _name(self, row: int) -> str:
        return self._text("name", row) or Path(self._text("path", row)).stem

    def _read(self, row: int, name: str, index: int, found: list[str]) -> Galaxy | None:
        path = self._file(row, found)
        self._check_name(name, found)
        psf = self._psf(row, found)
        filters = self._filters(row, found)
        if psf is not None and filters:
            self._check_psf(psf, filters, found, given=bool(self._text("psf", row)))
        forced = self._names("forced", row, found)
        found.extend(f"forced filter {f} is not one of the filters" for f in forced if f not in filters[1:])
        ra = self._number("ra", row, -360.0, 360.0, float("nan"), found)
        dec = self._number("dec", row, -90.0, 90.0, float("nan"), found)
        priority = self._number("priority", row, -1e9, 1e9, 0.0, found)
        if found or path is None or psf is None:
            return None
        return Galaxy(
            index=index,
            name=name,
            path=path,
            psf=psf,
            filters=filters,
            forced=forced,
            priority=priority,
            ra=ra,
            dec=dec,
        )

    def _check_name(self, name: str, found: list[str]) -> None:
        if not name:
            found.append("the name is empty")
        elif not name.isprintable():
            found.append("the name has characters that cannot be printed")
        elif len(name.encode()) > MAX_NAME:
            found.append(f"the name is longer than {MAX_NAME} bytes")

    def _file(self, row: int, found: list[str]) -> Path | None:
        text = self._text("path", row)
        if not text:
            found.append("the path is empty")
            return None
        path = self._resolved(text)
        if path is None:
            found.append(f"the path {text!r} has characters that no path has")
        elif not path.is_file():
            found.append(f"there is no file {path}")
        return path

    def _psf(self, row: int, found: list[str]) -> Path | None:
        text = self._text("psf", row) or self.config.prep.PSF_file
        path = self._paths.get(text) or self._resolved(text)
        if path is None:
            found.append(f"the PSF path {text!r} has characters that no path has")
            return None
        return self._paths.setdefault(text, path)

    def _resolved(self, text: str) -> Path | None:
        if not text.isprintable():
            return None
        return self.path.parent / text

    def _check_psf(self, psf: Path, filters: tuple[str, ...], found: list[str], *, given: bool) -> None:
        """The library must hold the base filter; of another filter only the filter fails."""
        if psf not in self._libraries:
            try:
                self._libraries[psf] = library_faults(psf)
            except InputError as error:
                self._libraries[psf] = str(error)
        faults = self._libraries[psf]
        if isinstance(faults, str) and not given and not psf.is_file():
            found.append(
                f"there is no PSF library {psf}; put {self.config.prep.PSF_file} beside {self.path.name}, "
                "or name it in column psf or key prep.PSF_file"
            )
        elif isinstance(faults, str):
            found.append(f"the PSF library is unusable: {faults.rstrip('.')}")
        elif filters[0] not in faults:
            found.append(f"{psf} has no PSF for the base filter {filters[0]}")
        elif faults[filters[0]]:
            found.append(f"the PSF of the base filter is unusable: {faults[filters[0]].rstrip('.')}")

    def _names(self, role: str, row: int, found: list[str]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(re.split(r"[\s;,|]+", self._text(role, row).strip(" ;,|"))))
        names = tuple(name for name in names if name)
        found.extend(f"{role}: {name!r} is no filter name" for name in names if not _FILTER.fullmatch(name))
        return names

    def _filters(self, row: int, found: list[str]) -> tuple[str, ...]:
        """Filters of a row, the base filter first."""
        given = self._names("filters", row, found)
        base = (self._names("base_filter", row, found) or (self.config.core.base_filter,))[0]
        filters = given or self.config.prep.filters
        if base not in filters:
            found.append(f"the base filter {base} is not one of the filters {', '.join(filters)}")
        ordered = (base, *(f for f in filters if f != base))
        return self._tuples.setdefault(ordered, ordered)

    def _number(self, role: str, row: int, low: float, high: float, default: float, found: list[str]) -> float:
        text = self._text(role, row)
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            found.append(f"{role} = {text!r} must be a number from {low:g} to {high:g}")
        return value
