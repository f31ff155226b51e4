"""Read a results file: tables with units, and the images of one galaxy."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray

from sphot_mpi.errors import OutputError, UsageError
from sphot_mpi.flags import FitFlag
from sphot_mpi.records import Image
from sphot_mpi.results_schema import FORMAT


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
    OutputError
        If this is no results file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            msg = f"{path}: there is no such file; name a results file."
            raise OutputError(msg)
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            msg = f"{path}: this cannot be read as HDF5 ({str(error).splitlines()[0]}); name a results file."
            raise OutputError(msg) from error
        if self.file.attrs.get("format") != FORMAT:
            self.file.close()
            msg = f"{path}: this is no results file of sphot-mpi; name one."
            raise OutputError(msg)

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.file.close()

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

    def row(self, name: str) -> int:
        """Return a galaxy's row in /galaxies.

        Raises
        ------
        UsageError
            If there is no such galaxy.
        """
        names = self.names()
        if name not in names:
            shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            msg = f"{self.path}: there is no galaxy {name!r}; it holds {shown}."
            raise UsageError(msg)
        return names.index(name)

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

    def sources(self, name: str, filter_name: str) -> NDArray[np.void]:
        """Return the rows of /sources of one galaxy and filter."""
        index = self.file["sources_index"][:]
        chosen = index[(index["name"] == name.encode()) & (index["filter"] == filter_name.encode())]
        if chosen.size == 0:
            return np.empty(0, self.file["sources"].dtype)
        start, count = int(chosen["start"][0]), int(chosen["count"][0])
        values: NDArray[np.void] = self.file["sources"][start : start + count]
        return values
