"""Fits as records again, read from a results file."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.outcomes import Frame
from sphot_mpi.records import SERSIC_PARAMETERS, FilterFit
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.results_records import fit_of, frame_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredFit:
    """One row of /sersic with its sources.

    Parameters
    ----------
    fit : FilterFit
        In the frame of the fitted cutout; covariances are empty.
    frame : Frame
        Of that cutout; without its WCS.
    """

    fit: FilterFit
    frame: Frame

    @classmethod
    def of(cls, row: np.void, galaxy: np.void, sources: NDArray[np.void]) -> "StoredFit":
        """Return a fit from its rows of /sersic, /galaxies and /sources."""
        return cls(fit=fit_of(row, galaxy, sources), frame=frame_of(row, galaxy))


class StoredFits:
    """All fits of an open results file; its tables are read once.

    Parameters
    ----------
    reader : ResultsReader
        Must stay open.
    """

    def __init__(self, reader: ResultsReader) -> None:
        self._reader = reader
        self._galaxies = {row["name"].decode(): row for row in reader.array("galaxies")}
        self._fits: dict[str, dict[str, np.void]] = {name: {} for name in self._galaxies}
        for row in reader.array("sersic"):
            self._fits[row["name"].decode()][row["filter"].decode()] = row

    def filters(self, name: str) -> list[str]:
        """Filters with a fitted galaxy, in the order of the file; none of a galaxy that is not in it."""
        return [filter_name for filter_name, row in self._fits.get(name, {}).items() if int(row["n_components"]) > 0]

    def get(self, name: str, filter_name: str) -> StoredFit | None:
        """Return a fit; None where there is none, or no galaxy in it."""
        row = self._fits.get(name, {}).get(filter_name)
        if row is None or int(row["n_components"]) == 0:
            return None
        return StoredFit.of(row, self._galaxies[name], self._reader.sources(name, filter_name))

    def errors(self, name: str, filter_name: str) -> dict[str, float]:
        """Return the 1-sigma errors of a fit's first component and total flux; the fit must be there."""
        row = self._fits[name][filter_name]
        return {key: float(row[f"{key}_err"]) for key in (*SERSIC_PARAMETERS, "total_flux")}
