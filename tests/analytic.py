"""Point sources known in closed form: Gaussians integrated over the detector's pixel."""

from functools import cache

import numpy as np
from scipy.special import erf

from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.simulate_psf import synthetic_library


def pixel_gaussian(offset, sigma):
    """Unit Gaussian integrated over one data pixel at `offset` px from its centre."""
    scale = np.sqrt(2.0) * sigma
    return 0.5 * (erf((offset + 0.5) / scale) - erf((offset - 0.5) / scale))


def gaussian_library(sigma, shape=(81, 81), oversample=4) -> LibraryPSF:
    """Effective PSF of a Gaussian of `sigma` px; a side may be even."""
    rows, columns = (pixel_gaussian((np.arange(n) - (n - 1) / 2) / oversample, sigma) for n in shape)
    return LibraryPSF.from_array(np.outer(rows, columns), oversample)


def gaussian_stars(shape, x, y, flux, sigma):
    """Exact image of stars under a Gaussian of `sigma` px (library and kernel in quadrature)."""
    rows = pixel_gaussian(np.arange(shape[0]) - np.asarray(y)[:, None], sigma)
    columns = pixel_gaussian(np.arange(shape[1]) - np.asarray(x)[:, None], sigma)
    return np.einsum("s,sy,sx->yx", flux, rows, columns)


def stamp_on(shape, stamp, corner_y, corner_x):
    """A stamp on an empty image; its corner may be off it by up to 20 px."""
    pad, side = 20, stamp.shape[0]
    image = np.zeros((shape[0] + 2 * pad, shape[1] + 2 * pad))
    image[corner_y + pad : corner_y + pad + side, corner_x + pad : corner_x + pad + side] = stamp
    return image[pad:-pad, pad:-pad]


@cache
def telescope_psfs():
    """The simulator's PSFs; computed once, because that takes seconds."""
    return synthetic_library()


def ringed_psf(kernel):
    """A diffraction PSF with rings, spikes and a halo, 166 px wide, under a Gaussian of `kernel` px."""
    library = telescope_psfs()["F150W"]
    return PSF(LibraryPSF(library.array, library.oversample), Kernel("gaussian", (kernel,)))
