"""Read a results file: tables with units, and the images of one galaxy."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from sphot_mpi.errors import OutputError, UsageError, listed
from sphot_mpi.flags import ApertureFlag, FitFlag
from sphot_mpi.records import Image
from sphot_mpi.results_schema import FORMAT, FORMAT_VERSION


def file_stem(name: str) -> str:
    """Return a galaxy's name as part of a file's name: a name is any text, and only its harmless characters stay."""
    return re.sub(r"[^A-Za-z0-9_+-]", "_", name)


def _can_read(version: str) -> bool:
    """Whether a format of this version is read: minor versions add to it, major ones change what is there."""
    major = version.partition(".")[0]
    return major.isdigit() and int(major) <= int(FORMAT_VERSION.partition(".")[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredImages:
    """Images of one galaxy in one filter, on its cutout; None: not stored.

    Parameters
    ----------
    data, sersic_model, psf_model, residual : (ny, nx) float64 ndarray or None
        As in /images.
    origin : (int, int)
        (x, y) of the cutout's first pixel in the full image.
    """

    data: Image | None
    sersic_model: Image | None
    psf_model: Image | None
    residual: Image | None
    origin: tuple[int, int]


class ResultsReader:
    """An open results file; use it in a ``with`` statement.

    Parameters
    ----------
    path : Path
        Results file.

    Raises
    ------
    UsageError
        If there is no such file.
    OutputError
        If this is no results file, or one of a later format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            msg = f"{path}: there is no such file; name a results file."
            raise UsageError(msg)
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            msg = f"{path}: this cannot be read as HDF5 ({str(error).splitlines()[0]}); name a results file."
            raise OutputError(msg) from error
        if self.file.attrs.get("format") != FORMAT:
            self.file.close()
            msg = f"{path}: this is no results file of sphot-mpi; name one."
            raise OutputError(msg)
        version = str(self.file.attrs.get("format_version", ""))
        if not _can_read(version):
            self.file.close()
            msg = (
                f"{path}: its format is version {version or 'unknown'}, and this sphot-mpi reads {FORMAT_VERSION} "
                "and older; use the sphot-mpi that wrote it."
            )
            raise OutputError(msg)

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.file.close()

    def tables(self) -> list[str]:
        """Names of the tables in this file, sorted; they need not be those of this version."""
        return sorted(name for name in self.file if f"{name}.__table_column_meta__" in self.file)

    def array(self, name: str) -> NDArray[np.void]:
        """Return a table as the structured array in the file (text as bytes)."""
        values: NDArray[np.void] = self.file[name][:]
        return values

    def table(self, name: str) -> QTable:
        """Return a table with units, text as text."""
        return QTable.read(self.file, path=name, format="hdf5", character_as_bytes=False)

    def names(self) -> list[str]:
        """Names of all galaxies, in the catalogue's order."""
        return [name.decode() for name in self.file["galaxies"].fields("name")[:]]

    def ends(self) -> Counter[str]:
        """Return how the tasks have ended: done, failed, missing or no data."""
        values, counts = np.unique(self.file["provenance"].fields("status")[:], return_counts=True)
        return Counter({value.decode(): int(count) for value, count in zip(values, counts, strict=True)})

    def flags(self) -> Counter[FitFlag]:
        """Return how many fits have each flag."""
        flags = self.file["sersic"].fields("flags")[:]
        return Counter({flag: n for flag in FitFlag if (n := int(np.count_nonzero(flags & flag.value)))})

    def aperture_flags(self) -> Counter[ApertureFlag]:
        """Return how many rows of /photometry have each flag."""
        flags = self.file["photometry"].fields("flags")[:] if "photometry" in self.file else np.zeros(0, np.int64)
        return Counter({flag: n for flag in ApertureFlag if (n := int(np.count_nonzero(flags & flag.value)))})

    def row(self, name: str) -> int:
        """Return a galaxy's row in /galaxies.

        Raises
        ------
        UsageError
            If there is no such galaxy.
        """
        row = self._rows.get(name)
        if row is None:
            msg = f"{self.path}: there is no galaxy {name!r}; it holds {listed(list(self._rows))}."
            raise UsageError(msg)
        return row

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Row of each galaxy; read once, since a report asks for every one."""
        return {name: row for row, name in enumerate(self.names())}

    @cached_property
    def _source_ranges(self) -> dict[tuple[bytes, bytes], tuple[int, int]]:
        """First row in /sources and number of rows of each galaxy and filter."""
        return {(r["name"], r["filter"]): (int(r["start"]), int(r["count"])) for r in self.file["sources_index"][:]}

    def filters(self, name: str) -> list[str]:
        """Filters of a galaxy that have a row in /sersic, the base filter first."""
        table = self.file["sersic"]
        chosen = table.fields("name")[:] == name.encode()
        return [value.decode() for value in table.fields("filter")[:][chosen]]

    def images(self, name: str, filter_name: str) -> StoredImages:
        """Return what /images holds of one galaxy in one filter."""
        row = self.row(name)
        galaxy = self.file["galaxies"][row]
        ny, nx = int(galaxy["crop_ny"]), int(galaxy["crop_nx"])
        stored: dict[str, Image | None] = {}
        for kind in ("data", "sersic_model", "psf_model", "residual"):
            stack = self.file.get(f"images/{filter_name}/{kind}")
            stored[kind] = None if stack is None else stack[row, :ny, :nx].astype(np.float64)
        return StoredImages(
            data=stored["data"],
            sersic_model=stored["sersic_model"],
            psf_model=stored["psf_model"],
            residual=stored["residual"],
            origin=(int(galaxy["crop_x"]), int(galaxy["crop_y"])),
        )

    def image_names(self) -> tuple[str, ...]:
        """Names of the images that are stored, of `results_schema.IMAGES`."""
        groups = list(self.file["images"].values()) if "images" in self.file else []
        return tuple(groups[0]) if groups else ()

    def images_at(self, row: int, filter_name: str, shape: tuple[int, int]) -> dict[str, Image]:
        """Return the images of one row of /galaxies in one filter, by name, on its cutout of `shape` (ny, nx)."""
        group = self.file.get(f"images/{filter_name}", {})
        return {name: stack[row, : shape[0], : shape[1]].astype(np.float64) for name, stack in group.items()}

    def psf_at(self, row: int, filter_name: str) -> Image:
        """Return the stored effective PSF of one row of /galaxies in a filter, without the margin of the stack.

        Raises
        ------
        OutputError
            If there is none.
        """
        stack = self.file.get(f"psf/{filter_name}")
        image = np.empty((0, 0)) if stack is None else stack[row].astype(np.float64)
        known = np.isfinite(image)
        if not known.any():
            msg = f"{self.path}: it holds no PSF in {filter_name} of the galaxy in row {row}; run again with --psf."
            raise OutputError(msg)
        return np.asarray(image[np.ix_(known.any(axis=1), known.any(axis=0))])

    def oversample(self, filter_name: str) -> int:
        """Return the samples a pixel, along an axis, of a filter's stored PSFs; 0: they differ."""
        return int(self.file[f"psf/{filter_name}"].attrs["oversample"])

    def sources(self, name: str, filter_name: str) -> NDArray[np.void]:
        """Return the rows of /sources of one galaxy and filter."""
        start, count = self._source_ranges.get((name.encode(), filter_name.encode()), (0, 0))
        values: NDArray[np.void] = self.file["sources"][start : start + count]
        return values
