"""Fits as records again: read from a results file, with the inputs they were made from."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config
from sphot_mpi.errors import OutputError, SphotError
from sphot_mpi.flags import FitFlag
from sphot_mpi.inputs import read_galaxy, read_libraries
from sphot_mpi.model_images import ModelImages, render_model
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.psf_kernel import FAMILIES, Kernel
from sphot_mpi.records import (
    SERSIC_PARAMETERS,
    SOURCE_DTYPE,
    Cutout,
    FilterFit,
    Image,
    KernelFit,
    SersicParams,
    SkyPlane,
)
from sphot_mpi.results_reader import ResultsReader

_NO_MATRIX = np.empty((0, 0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredFit:
    """One row of /sersic with its sources.

    Parameters
    ----------
    fit : FilterFit
        In the frame of the fitted cutout; covariances and what is not stored are empty.
    origin : (int, int)
        (x, y) of the cutout's first pixel in the full image.
    shape : (int, int)
        (ny, nx) of the cutout.
    pixel_scale : float
        Arcsec.
    """

    fit: FilterFit
    origin: tuple[int, int]
    shape: tuple[int, int]
    pixel_scale: float

    @property
    def kernel(self) -> Kernel:
        """Kernel on top of the library PSF."""
        return Kernel(self.fit.kernel.family, self.fit.kernel.values)


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
        self._sersic = {(row["name"].decode(), row["filter"].decode()): row for row in reader.array("sersic")}
        self._sources = {
            (row["name"].decode(), row["filter"].decode()): slice(row["start"], row["start"] + row["count"])
            for row in reader.array("sources_index")
        }

    def filters(self, name: str) -> list[str]:
        """Filters with a fitted galaxy, in the order of the file."""
        return [
            filter_name
            for (galaxy, filter_name), row in self._sersic.items()
            if galaxy == name and int(row["n_components"]) > 0
        ]

    def get(self, name: str, filter_name: str) -> StoredFit | None:
        """Return a fit; None where there is none, or no galaxy in it."""
        row = self._sersic.get((name, filter_name))
        if row is None or int(row["n_components"]) == 0:
            return None
        galaxy = self._galaxies[name]
        origin = int(galaxy["crop_x"]), int(galaxy["crop_y"])
        rows = self._sources.get((name, filter_name), slice(0, 0))
        return StoredFit(
            fit=_fit_of(row, self._reader.file["sources"][rows], origin),
            origin=origin,
            shape=(int(galaxy["crop_ny"]), int(galaxy["crop_nx"])),
            pixel_scale=float(row["pixel_scale"]),
        )

    def errors(self, name: str, filter_name: str) -> dict[str, float]:
        """Return the 1-sigma errors of a fit's first component and total flux; the fit must be there."""
        row = self._sersic[name, filter_name]
        return {key: float(row[f"{key}_err"]) for key in (*SERSIC_PARAMETERS, "total_flux")}


def _fit_of(row: np.void, sources: NDArray[np.void], origin: tuple[int, int]) -> FilterFit:
    components = []
    for suffix in ("", "_2")[: int(row["n_components"])]:
        values = {key: float(row[f"{key}{suffix}"]) for key in SERSIC_PARAMETERS}
        values["x_0"] -= origin[0]
        values["y_0"] -= origin[1]
        components.append(SersicParams(**values))
    table = np.zeros(sources.size, SOURCE_DTYPE)
    for name in SOURCE_DTYPE.names or ():
        if name in (sources.dtype.names or ()):
            table[name] = sources[name]
    for axis, offset in zip("xy", origin, strict=True):
        for stem in ("init", "fit"):
            table[f"{axis}_{stem}"] -= offset
    sky = SkyPlane(
        level=float(row["sky"]), slope_x=float(row["sky_slope_x"]), slope_y=float(row["sky_slope_y"]),
        x_ref=float(row["sky_x"]) - origin[0], y_ref=float(row["sky_y"]) - origin[1],
    )  # fmt: skip
    family = row["kernel_family"].decode()
    kernel = tuple(float(row[f"kernel_{k + 1}"]) for k in range(len(FAMILIES[family].parameter_names)))
    return FilterFit(
        galaxy=row["name"].decode(), filter=row["filter"].decode(), components=tuple(components),
        covariance=_NO_MATRIX, total_flux=float(row["total_flux"]), total_flux_err=float(row["total_flux_err"]),
        flux_in_cutout=float(row["flux_in_cutout"]), sky=sky, sky_covariance=_NO_MATRIX,
        sources=table, report=np.asarray(sources["reported"], dtype=bool),
        kernel=KernelFit(family=family, values=kernel, fwhm=float(row["fwhm"])),
        shift=(float(row["shift_x"]), float(row["shift_y"])), noise=float(row["noise"]),
        correlation=float(row["correlation"]), flags=FitFlag(int(row["flags"])),
    )  # fmt: skip


def stored_config(reader: ResultsReader) -> Config:
    """Return the configuration of the campaign.

    Raises
    ------
    OutputError
        If this version cannot read it.
    """
    try:
        return Config.model_validate(tomllib.loads(str(reader.file.attrs["configuration"])))
    except (KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        msg = f"{reader.path}: its configuration cannot be read ({reason}); use the version that wrote it."
        raise OutputError(msg) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInputs:
    """Where a galaxy's pixels and PSFs came from.

    Parameters
    ----------
    galaxy : Galaxy
        Its row of the catalogue.
    config : Config
        The campaign's configuration.
    """

    galaxy: Galaxy
    config: Config

    @classmethod
    def of(cls, reader: ResultsReader, name: str) -> "StoredInputs":
        """Find a galaxy's inputs by the catalogue that the results file names.

        Raises
        ------
        OutputError
            If the catalogue is not there any more or does not hold the galaxy.
        """
        config = stored_config(reader)
        path = Path(str(reader.file.attrs["catalogue"]))
        try:
            catalogue = read_catalogue(path, config, skip_invalid=True)
        except SphotError as error:
            msg = f"{reader.path}: the input of {name!r} cannot be found ({error}); put the files back."
            raise OutputError(msg) from error
        found = [galaxy for galaxy in catalogue.galaxies if galaxy.name == name]
        if not found:
            why = [problem for problem in catalogue.problems if f"({name})" in problem] or [
                "it is not in there any more."
            ]
            msg = f"{reader.path}: the input of {name!r} cannot be found ({path}: {why[0]}); put the files back."
            raise OutputError(msg)
        return cls(galaxy=found[0], config=config)

    def library(self, filter_name: str) -> LibraryPSF:
        """Return a filter's library PSF, before the kernel.

        Raises
        ------
        InputError
            If the file cannot be used.
        OutputError
            If it does not hold the filter.
        """
        found = read_libraries(self.galaxy.psf, (filter_name,), self.config.prep.blur_psf)
        if filter_name not in found:
            msg = f"{self.galaxy.psf}: there is no PSF of {filter_name} any more; put it back."
            raise OutputError(msg)
        return found[filter_name]

    def rendered(self, stored: StoredFit) -> tuple[Image, ModelImages]:
        """Read the data of a fit from the input (NaN where masked), and render its model.

        Raises
        ------
        InputError
            If a file cannot be used.
        OutputError
            If the file does not hold the filter.
        """
        fit, (x0, y0), (ny, nx) = stored.fit, stored.origin, stored.shape
        cutouts = read_galaxy(self.galaxy.path, fit.galaxy, (fit.filter,)).cutouts
        if fit.filter not in cutouts:
            msg = f"{self.galaxy.path}: there is no {fit.filter} in it any more; put it back."
            raise OutputError(msg)
        full = cutouts[fit.filter]
        window = slice(y0, y0 + ny), slice(x0, x0 + nx)
        data = np.where(full.mask[window], np.nan, full.data[window])
        cutout = Cutout(galaxy=fit.galaxy, filter=fit.filter, data=data, error=None, mask=np.isnan(data))
        return data, render_model(fit, cutout, self.library(fit.filter))
