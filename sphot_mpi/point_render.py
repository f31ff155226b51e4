"""Images and stamps of point sources, from the spline of their PSF."""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.kernels.psf import fill_stamps, render_stars
from sphot_mpi.psf import PSF
from sphot_mpi.records import Image, Vector

#: Half-size of a stamp that holds every PSF.
WHOLE = 1 << 20


def weights(error: Image, mask: NDArray[np.bool_]) -> Image:
    """1 / error^2; 0 where masked or where the error is not positive and finite."""
    good = ~mask & np.isfinite(error) & (error > 0.0)
    return np.where(good, 1.0 / np.where(good, error, 1.0) ** 2, 0.0)


def render_sources(shape: tuple[int, int], psf: PSF, x: Image, y: Image, flux: Image, radius: int = WHOLE) -> Image:
    """Image of point sources on stamps of half-size `radius`, px; `flux` is that of the whole PSF."""
    image = np.zeros(shape)
    half = np.full(x.size, radius, dtype=np.int64)
    x, y, flux = contiguous(x, y, flux)
    render_stars(image, psf.planes, psf.oversample, psf.origin[0], psf.origin[1], x, y, flux, half)
    return image


def contiguous(*columns: Image) -> tuple[Image, ...]:
    """Contiguous float64 copies of table columns, as kernels want them."""
    return tuple(np.ascontiguousarray(c, dtype=np.float64) for c in columns)


def star_stamps(psf: PSF, x: Vector, y: Vector, radius: int) -> tuple[Image, NDArray[np.int64], NDArray[np.int64]]:
    """Unit-flux stamps with derivatives, and the pixel (y, x) of their corners.

    Parameters
    ----------
    psf : PSF
        Working PSF.
    x, y : (n,) float64 ndarray
        Positions, px.
    radius : int
        Half-size, px.

    Returns
    -------
    stamps : (n, 3, 2 radius + 1, 2 radius + 1) float64 ndarray
        P, dP/dx, dP/dy.
    corner_y, corner_x : (n,) int64 ndarray
        Image pixel of each stamp's element (0, 0).
    """
    stamps = np.empty((x.size, 3, 2 * radius + 1, 2 * radius + 1))
    fill_stamps(stamps, psf.planes, psf.oversample, psf.origin[0], psf.origin[1], x, y, radius)
    return stamps, np.rint(y).astype(np.int64) - radius, np.rint(x).astype(np.int64) - radius


def sampled_star(psf: PSF, radius: int) -> Image:
    """Unit-flux star centred on a pixel, cut to a half-size of `radius` px, or to that of the whole PSF."""
    half = min(radius, psf.radius)
    centre = np.array([float(half)])
    return render_sources((2 * half + 1, 2 * half + 1), psf, centre, centre, np.ones(1), half)
