"""What a picture of a fit shows: images and numbers of one filter, read or rendered anew."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import Config
from sphot_mpi.errors import OutputError, SphotError
from sphot_mpi.flags import FitFlag
from sphot_mpi.inputs import read_galaxy, read_libraries
from sphot_mpi.model_images import ModelImages, render_model
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
    magnitude : float
        Of the galaxy, AB; NaN: unknown.
    chi2_reduced, kernel, fwhm : float
        Of the fit; kernel and FWHM in px.
    n_sources : int
        Sources reported.
    flags : FitFlag
        Of the fit.
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
    chi2_reduced: float = float("nan")
    kernel: float = float("nan")
    fwhm: float = float("nan")
    n_sources: int = 0
    flags: FitFlag = FitFlag(0)

    @property
    def cleaned(self) -> Image:
        """Data minus point sources and sky."""
        return np.asarray(self.data - self.sources - self.sky)

    @property
    def residual(self) -> Image:
        """Data minus the whole model."""
        return np.asarray(self.cleaned - self.sersic)


def read_panel(reader: ResultsReader, name: str, filter_name: str) -> Panel:
    """Read one filter of a galaxy; images that are not stored are made from the input and the tables.

    Parameters
    ----------
    reader : ResultsReader
        Open results file.
    name, filter_name : str
        Which fit.

    Returns
    -------
    Panel
        Of NaN images, if the filter has no fit.

    Raises
    ------
    UsageError
        If there is no such galaxy.
    OutputError
        If images are not stored, and the input files cannot be read any more.
    """
    galaxy = reader.array("galaxies")[reader.row(name)]
    shape = int(galaxy["crop_ny"]), int(galaxy["crop_nx"])
    rows = reader.array("sersic")
    rows = rows[(rows["name"] == name.encode()) & (rows["filter"] == filter_name.encode())]
    if rows.size == 0 or int(rows[0]["n_components"]) == 0:
        nothing = np.full(shape, np.nan)
        flags = FitFlag(int(rows[0]["flags"])) if rows.size else FitFlag.NO_DATA
        return Panel(filter=filter_name, data=nothing, sersic=nothing, sources=nothing, sky=nothing, flags=flags)
    row = rows[0]
    origin = int(galaxy["crop_x"]), int(galaxy["crop_y"])
    fit = _fit_of(row, reader.sources(name, filter_name), origin)
    stored = reader.images(name, filter_name)
    if stored.data is not None and stored.sersic_model is not None and stored.psf_model is not None:
        data = stored.data
        model = ModelImages(sersic=stored.sersic_model, sources=stored.psf_model, sky=fit.sky.render(shape))
    else:
        data, model = _rendered(reader, name, fit, origin, shape)
    return Panel(
        filter=filter_name, data=data, sersic=model.sersic, sources=model.sources, sky=model.sky,
        components=fit.components, noise=fit.noise, unit=row["unit"].decode(), pixel_scale=float(row["pixel_scale"]),
        magnitude=float(row["mag"]), chi2_reduced=float(row["chi2_reduced"]), kernel=float(row["kernel_1"]),
        fwhm=float(row["fwhm"]), n_sources=int(row["n_sources"]), flags=fit.flags,
    )  # fmt: skip


def _fit_of(row: np.void, sources: NDArray[np.void], origin: tuple[int, int]) -> FilterFit:
    """Return as much of a fit as rendering needs, in the cutout's frame."""
    components = []
    for suffix in ("", "_2")[: int(row["n_components"])]:
        values = {key: float(row[f"{key}{suffix}"]) for key in SERSIC_PARAMETERS}
        values["x_0"] -= origin[0]
        values["y_0"] -= origin[1]
        components.append(SersicParams(**values))
    table = np.zeros(sources.size, SOURCE_DTYPE)
    for key, offset in (("x_fit", origin[0]), ("y_fit", origin[1]), ("flux_fit", 0)):
        table[key] = sources[key] - offset
    sky = SkyPlane(
        level=float(row["sky"]), slope_x=float(row["sky_slope_x"]), slope_y=float(row["sky_slope_y"]),
        x_ref=float(row["sky_x"]) - origin[0], y_ref=float(row["sky_y"]) - origin[1],
    )  # fmt: skip
    kernel = tuple(float(row[key]) for key in ("kernel_1", "kernel_2") if np.isfinite(row[key]))
    return FilterFit(
        galaxy=row["name"].decode(), filter=row["filter"].decode(), components=tuple(components),
        covariance=_NO_MATRIX, total_flux=float(row["total_flux"]), total_flux_err=float(row["total_flux_err"]),
        flux_in_cutout=float(row["flux_in_cutout"]), sky=sky, sky_covariance=_NO_MATRIX,
        sources=table, report=sources["reported"],
        kernel=KernelFit(family=row["kernel_family"].decode(), values=kernel),
        noise=float(row["noise"]), flags=FitFlag(int(row["flags"])),
    )  # fmt: skip


def _rendered(
    reader: ResultsReader, name: str, fit: FilterFit, origin: tuple[int, int], shape: tuple[int, int]
) -> tuple[Image, ModelImages]:
    """Read the data from the input and render the model."""
    catalogue_path = Path(str(reader.file.attrs["catalogue"]))
    try:
        config = Config.model_validate(tomllib.loads(str(reader.file.attrs["configuration"])))
        catalogue = read_catalogue(catalogue_path, config, skip_invalid=True).select([name])
        galaxy = catalogue.galaxies[0]
        full = read_galaxy(galaxy.path, name, (fit.filter,)).cutouts[fit.filter]
        library = read_libraries(galaxy.psf, (fit.filter,), config.prep.blur_psf)[fit.filter]
    except (SphotError, KeyError) as error:
        msg = f"{reader.path}: its images are not stored and cannot be made anew ({error}); run with --images all."
        raise OutputError(msg) from error
    window = slice(origin[1], origin[1] + shape[0]), slice(origin[0], origin[0] + shape[1])
    data = np.where(full.mask[window] | (full.data[window] == 0.0), np.nan, full.data[window])
    cutout = Cutout(
        galaxy=name, filter=fit.filter, data=data, error=None, mask=np.isnan(data), unit=full.unit,
        pixel_scale=full.pixel_scale, origin=origin, full_shape=full.shape,
    )  # fmt: skip
    return data, render_model(fit, cutout, library)
