"""What a picture of a fit shows: images and numbers of one filter, read or rendered anew."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from sphot_mpi.catalogue import Catalogue, read_catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config, load_config
from sphot_mpi.errors import ConfigError, OutputError, SphotError
from sphot_mpi.flags import FitFlag
from sphot_mpi.inputs import read_galaxy, read_libraries
from sphot_mpi.model_images import ModelImages, render_model
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.psf_kernel import FAMILIES
from sphot_mpi.qa.kernel_check import KernelCheck, check_kernel
from sphot_mpi.qa.tables import CampaignTables
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
class Panel:
    """One filter of one galaxy, ready to be drawn.

    Parameters
    ----------
    filter : str
        Name.
    data, sersic, sources, sky : (ny, nx) float64 ndarray
        Data (NaN: none) and the model's components, in `unit`.
    components : tuple of SersicParams
        In the frame of the images; empty: nothing was fitted.
    noise : float
        White pixel noise.
    unit : str
        Unit of the images.
    pixel_scale : float
        Arcsec.
    magnitude, magnitude_err : float
        Total of the galaxy, AB; NaN: unknown.
    total_flux, chi2_reduced, fwhm : float
        Of the fit, in data unit * px, -, px.
    kernel : str
        Family and parameters of the kernel.
    n_sources : int
        Sources reported.
    flags : FitFlag
        Of the fit.
    check : KernelCheck or None
        What the kernel does to the anchors; None: `check_note` says why not.
    check_note : str
        Why there is no check.
    photometry : mapping of str to float
        The filter's row of /photometry, as far as it is numbers; empty: none.
    curve : (4, k) float64 ndarray or None
        The rows of `photometry_record.CURVE_ROWS`; None: there is none.
    petrosian : float
        Petrosian index of the science aperture, of the configuration.
    """

    filter: str
    data: Image
    sersic: Image
    sources: Image
    sky: Image
    components: tuple[SersicParams, ...] = ()
    noise: float = float("nan")
    unit: str = "MJy/sr"
    pixel_scale: float = 0.03
    magnitude: float = float("nan")
    magnitude_err: float = float("nan")
    total_flux: float = float("nan")
    chi2_reduced: float = float("nan")
    kernel: str = ""
    fwhm: float = float("nan")
    n_sources: int = 0
    flags: FitFlag = FitFlag(0)
    check: KernelCheck | None = None
    check_note: str = ""
    photometry: Mapping[str, float] = field(default_factory=dict)
    curve: Image | None = None
    petrosian: float = float("nan")

    @property
    def cleaned(self) -> Image:
        """Data minus point sources and sky."""
        return np.asarray(self.data - self.sources - self.sky)

    @property
    def residual(self) -> Image:
        """Data minus the whole model."""
        return np.asarray(self.cleaned - self.sersic)


class PanelReader:
    """Reads the panels of any galaxy of an open results file; what all galaxies share is read once.

    Parameters
    ----------
    reader : ResultsReader
        Open as long as this is used.
    tables : CampaignTables, optional
        Of the same reader, where they have been read already.
    """

    def __init__(self, reader: ResultsReader, tables: CampaignTables | None = None) -> None:
        self.reader = reader
        self.tables = CampaignTables(reader) if tables is None else tables
        # galaxies mostly share one PSF file; a campaign with one a galaxy must not fill the memory
        self._library = lru_cache(maxsize=32)(self._read_library)

    @cached_property
    def config(self) -> Config:
        """The campaign's configuration; keys that its version did not have are those of its preset."""
        try:
            values = tomllib.loads(str(self.reader.file.attrs["configuration"]))
            return load_config(None, str(values.get("preset", "best"))).replaced(values)
        except (KeyError, tomllib.TOMLDecodeError, ConfigError) as error:
            msg = f"{self.reader.path}: its configuration cannot be read ({error}); run again with this version."
            raise OutputError(msg) from error

    @cached_property
    def _catalogue(self) -> Catalogue:
        return read_catalogue(Path(str(self.reader.file.attrs["catalogue"])), self.config, skip_invalid=True)

    @cached_property
    def _inputs(self) -> dict[str, Galaxy]:
        return {galaxy.name: galaxy for galaxy in self._catalogue.galaxies}

    def _input(self, name: str) -> Galaxy:
        galaxy = self._inputs.get(name)
        if galaxy is None:
            msg = f"{self._catalogue.path}: galaxy {name!r} is not in it, or its files are gone."
            raise OutputError(msg)
        return galaxy

    def _read_library(self, path: Path, filter_name: str) -> LibraryPSF:
        libraries = read_libraries(path, (filter_name,), self.config.prep.blur_psf)
        if filter_name not in libraries:
            msg = f"{path}: there is no PSF of {filter_name} in it."
            raise OutputError(msg)
        return libraries[filter_name]

    def read(self, name: str, filter_name: str, *, check: bool = True) -> Panel:
        """Read one filter of a galaxy; images that are not stored are made from the input and the tables.

        Parameters
        ----------
        name, filter_name : str
            Which fit.
        check : bool
            Whether to compare the PSF kernel with the stars, which takes most of the time.

        Returns
        -------
        Panel
            Of NaN images, if the filter has no fit. Where the PSF library cannot be read any more, there is no check.

        Raises
        ------
        UsageError
            If there is no such galaxy.
        OutputError
            If images are not stored, and the input files cannot be read any more.
        """
        number = self.reader.row(name)
        galaxy = self.tables.galaxies[number]
        shape = int(galaxy["crop_ny"]), int(galaxy["crop_nx"])
        row = self.tables.row("sersic", number, filter_name)
        if row is None or int(row["n_components"]) == 0:
            nothing = np.full(shape, np.nan)
            flags = FitFlag.NO_DATA if row is None else FitFlag(int(row["flags"]))
            return Panel(filter=filter_name, data=nothing, sersic=nothing, sources=nothing, sky=nothing, flags=flags)
        origin = int(galaxy["crop_x"]), int(galaxy["crop_y"])
        fit = _fit_of(row, origin)
        data, model = self._stored(name, fit, shape) or self._rendered(name, fit, origin, shape)
        kernel_check, note = self._check(name, fit, origin, data, model) if check else (None, "not made")
        return Panel(
            filter=filter_name, data=data, sersic=model.sersic, sources=model.sources, sky=model.sky,
            components=fit.components, noise=fit.noise, unit=row["unit"].decode(),
            pixel_scale=float(row["pixel_scale"]), magnitude=float(row["mag"]), magnitude_err=float(row["mag_err"]),
            total_flux=fit.total_flux, chi2_reduced=float(row["chi2_reduced"]), kernel=kernel_text(fit.kernel),
            fwhm=fit.kernel.fwhm, n_sources=int(row["n_sources"]), flags=fit.flags, check=kernel_check,
            check_note=note,
            photometry=self._measured(number, filter_name), curve=self._curve(number, filter_name),
            petrosian=self._petrosian(),
        )  # fmt: skip

    def _stored(self, name: str, fit: FilterFit, shape: tuple[int, int]) -> tuple[Image, ModelImages] | None:
        stored = self.reader.images(name, fit.filter)
        if stored.data is None or stored.sersic_model is None or stored.psf_model is None:
            return None
        sky = fit.sky.render(shape)
        return stored.data, ModelImages(sersic=stored.sersic_model, sources=stored.psf_model, sky=sky)

    def _rendered(
        self, name: str, fit: FilterFit, origin: tuple[int, int], shape: tuple[int, int]
    ) -> tuple[Image, ModelImages]:
        """Read the data from the input and render the model."""
        try:
            galaxy = self._input(name)
            full = read_galaxy(galaxy.path, name, (fit.filter,)).cutouts[fit.filter]
            library = self._library(galaxy.psf, fit.filter)
        except (SphotError, KeyError) as error:
            msg = (
                f"{self.reader.path}: its images are not stored and cannot be made anew ({error}); "
                "run with --images all."
            )
            raise OutputError(msg) from error
        window = slice(origin[1], origin[1] + shape[0]), slice(origin[0], origin[0] + shape[1])
        data = np.where(full.mask[window] | (full.data[window] == 0.0), np.nan, full.data[window])
        cutout = Cutout(
            galaxy=name, filter=fit.filter, data=data, error=None, mask=np.isnan(data), unit=full.unit,
            pixel_scale=full.pixel_scale, origin=origin, full_shape=full.shape,
        )  # fmt: skip
        return data, render_model(self._with_sources(name, fit, origin), cutout, library)

    def _with_sources(self, name: str, fit: FilterFit, origin: tuple[int, int]) -> FilterFit:
        """Add the sources; a panel of stored images alone does not need them."""
        stored = self.reader.sources(name, fit.filter)
        table = np.zeros(stored.size, SOURCE_DTYPE)
        for key in SOURCE_DTYPE.names or ():
            table[key] = stored[key]
        for axis, offset in zip("xy", origin, strict=True):
            table[f"{axis}_init"] -= offset
            table[f"{axis}_fit"] -= offset
        return replace(fit, sources=table, report=stored["reported"])

    def _check(
        self, name: str, fit: FilterFit, origin: tuple[int, int], data: Image, model: ModelImages
    ) -> tuple[KernelCheck | None, str]:
        try:
            library, config = self._library(self._input(name).psf, fit.filter), self.config.psf_calib
        except SphotError as error:
            return None, f"The PSF library cannot be read any more: {error}"
        return check_kernel(self._with_sources(name, fit, origin), data, model, library, config), ""

    def _petrosian(self) -> float:
        try:
            return self.config.aperture.petro
        except OutputError:
            return float("nan")

    def _measured(self, number: int, filter_name: str) -> dict[str, float]:
        row = self.tables.row("photometry", number, filter_name) if self.tables.has("photometry") else None
        if row is None:
            return {}
        return {key: float(row[key]) for key in row.dtype.names or () if row.dtype[key].kind in "iuf"}

    def _curve(self, number: int, filter_name: str) -> Image | None:
        if not (self.tables.has("photometry") and self.tables.has("photometry_curve")):
            return None
        place = self.tables.place("photometry", number, filter_name)
        if place is None:
            return None
        curve = np.asarray(self.reader.file["photometry_curve"][place], dtype=np.float64)
        return curve if np.isfinite(curve).any() else None


def kernel_text(kernel: KernelFit) -> str:
    """Return a kernel in words, as "gaussian (sigma 1.05)"."""
    names = FAMILIES[kernel.family].parameter_names if kernel.family in FAMILIES else ()
    values = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, kernel.values, strict=False))
    return f"{kernel.family} ({values})"


def _fit_of(row: np.void, origin: tuple[int, int]) -> FilterFit:
    """Return as much of a fit as rendering needs, but its sources, in the cutout's frame."""
    components = []
    for suffix in ("", "_2")[: int(row["n_components"])]:
        values = {key: float(row[f"{key}{suffix}"]) for key in SERSIC_PARAMETERS}
        values["x_0"] -= origin[0]
        values["y_0"] -= origin[1]
        components.append(SersicParams(**values))
    sky = SkyPlane(
        level=float(row["sky"]), slope_x=float(row["sky_slope_x"]), slope_y=float(row["sky_slope_y"]),
        x_ref=float(row["sky_x"]) - origin[0], y_ref=float(row["sky_y"]) - origin[1],
    )  # fmt: skip
    kernel = tuple(float(row[key]) for key in ("kernel_1", "kernel_2") if np.isfinite(row[key]))
    return FilterFit(
        galaxy=row["name"].decode(), filter=row["filter"].decode(), components=tuple(components),
        covariance=_NO_MATRIX, total_flux=float(row["total_flux"]), total_flux_err=float(row["total_flux_err"]),
        flux_in_cutout=float(row["flux_in_cutout"]), sky=sky, sky_covariance=_NO_MATRIX,
        sources=np.empty(0, SOURCE_DTYPE), report=np.empty(0, dtype=np.bool_),
        kernel=KernelFit(
            family=row["kernel_family"].decode(), values=kernel, fwhm=float(row["fwhm"]),
            n_anchors=int(row["kernel_anchors"]),
        ),
        noise=float(row["noise"]), flags=FitFlag(int(row["flags"])),
    )  # fmt: skip
