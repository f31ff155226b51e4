"""What a picture of a fit shows: images and numbers of one filter, read or rendered anew."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sphot_mpi.errors import SphotError
from sphot_mpi.flags import FitFlag
from sphot_mpi.model_images import ModelImages
from sphot_mpi.psf_kernel import FAMILIES
from sphot_mpi.qa.kernel_check import KernelCheck, check_kernel
from sphot_mpi.qa.tables import CampaignTables
from sphot_mpi.records import FilterFit, Image, KernelFit, SersicParams
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.stored_fit import StoredFit
from sphot_mpi.stored_inputs import StoredInputs


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
        self._inputs = StoredInputs(reader)

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
        stored = StoredFit.of(row, galaxy, self.reader.sources(name, filter_name))
        fit = stored.fit
        data, model = self._inputs.images(stored)
        kernel_check, note = self._check(fit, data, model) if check else (None, "not made")
        return Panel(
            filter=filter_name, data=data, sersic=model.sersic, sources=model.sources, sky=model.sky,
            components=fit.components, noise=fit.noise, unit=row["unit"].decode(),
            pixel_scale=float(row["pixel_scale"]), magnitude=float(row["mag"]), magnitude_err=float(row["mag_err"]),
            total_flux=fit.total_flux, chi2_reduced=float(row["chi2_reduced"]), kernel=kernel_text(fit.kernel),
            fwhm=fit.kernel.fwhm, n_sources=int(row["n_sources"]), flags=fit.flags, check=kernel_check,
            check_note=note,
            photometry=self._measured(number, filter_name), curve=self._curve(number, filter_name),
            petrosian=self.tables.petrosian_index,
        )  # fmt: skip

    def _check(self, fit: FilterFit, data: Image, model: ModelImages) -> tuple[KernelCheck | None, str]:
        try:
            library, config = self._inputs.library(fit.galaxy, fit.filter), self._inputs.config.psf_calib
        except SphotError as error:
            return None, f"The PSF library cannot be read any more: {error}"
        return check_kernel(fit, data, model, library, config), ""

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
