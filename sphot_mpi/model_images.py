"""The images of a fit's three components, rendered from its record."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sphot_mpi.galaxy_modes import galaxy_modulation
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import Cutout, FilterFit, Image, SersicParams
from sphot_mpi.sersic import SersicRenderer
from sphot_mpi.star_renderer import StarRenderer
from sphot_mpi.unseen_light import render_unseen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelImages:
    """Galaxy, point sources and sky; ``data = sersic + sources + sky + residual``.

    Parameters
    ----------
    sersic : (ny, nx) float64 ndarray
        All Sersic components, convolved with the working PSF, and their modes.
    sources : (ny, nx) float64 ndarray
        All point sources of the model, reported or not, and the mean light of those that are too faint or beyond
        the data, so that they are in no table.
    sky : (ny, nx) float64 ndarray
        The sky plane.
    """

    sersic: Image
    sources: Image
    sky: Image

    def residual(self, data: Image) -> Image:
        """Return `data` minus the model; NaN where the data are."""
        return np.asarray(data - self.sersic - self.sources - self.sky)

    def image(self, name: str, data: Image) -> Image:
        """Return the image of a name of `results_schema.IMAGES`, of a fit to `data`."""
        match name:
            case "data":
                return data
            case "sersic_model":
                return self.sersic
            case "psf_model":
                return self.sources
            case "psf_sub_data":
                return np.asarray(data - self.sources)
            case "residual":
                return self.residual(data)
        msg = f"there is no image {name!r}"
        raise ValueError(msg)


def render_model(fit: FilterFit, cutout: Cutout, library: LibraryPSF) -> ModelImages:
    """Render what a fit has found.

    Parameters
    ----------
    fit : FilterFit
        The fit.
    cutout : Cutout
        What it was made on.
    library : LibraryPSF
        The filter's PSF, before the fit's kernel.

    Returns
    -------
    ModelImages
        On the cutout's pixels, in the data's unit.
    """
    psf, shape = working_psf(fit, library), cutout.shape
    return ModelImages(
        sersic=render_modulated(SersicRenderer(psf, shape), fit.components, fit),
        sources=render_sources(fit, psf, shape) + render_unseen(fit.unseen, fit.components, cutout.usable, psf),
        sky=fit.sky.render(shape),
    )


def render_modulated(renderer: SersicRenderer, components: Sequence[SersicParams], fit: FilterFit) -> Image:
    """Render Sersic components with the modes that a fit has, if any: (ny, nx) float64, data unit."""
    image = renderer.render_params(components)
    if fit.modes:
        image *= galaxy_modulation(fit.modes, components, fit.kernel.fwhm, image.shape)
    return image


def working_psf(fit: FilterFit, library: LibraryPSF) -> PSF:
    """Return the PSF that belongs to a fit: the library's under the fit's kernel."""
    return PSF(library, Kernel(fit.kernel.family, fit.kernel.values))


def render_sources(fit: FilterFit, psf: PSF, shape: tuple[int, int]) -> Image:
    """Render all point sources in a fit's table on its cutout of `shape` (ny, nx)."""
    table = fit.sources
    found = table[np.isfinite(table["x_fit"]) & np.isfinite(table["y_fit"]) & np.isfinite(table["flux_fit"])]
    x, y, flux = (np.ascontiguousarray(found[name]) for name in ("x_fit", "y_fit", "flux_fit"))
    return StarRenderer(psf, shape).render(x, y, flux)
