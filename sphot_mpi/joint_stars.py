"""The stars' normal equations: assembly, priors, factorisation.

Sorted along one axis of the frame, stars whose stamps overlap are close in number: the matrix is a band, and LAPACK
factorises it faster than sparse methods do.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from sphot_mpi.errors import FitError
from sphot_mpi.joint_scene import Optics
from sphot_mpi.joint_sources import Stars
from sphot_mpi.kernels import bands
from sphot_mpi.kernels import joint as kernels

Vector = NDArray[np.float64]
Index = NDArray[np.int64]

#: Longest step of a star's position, px, and damping scale of that step.
STAR_STEP, STAR_DAMPING = 0.7, 0.5
#: Most neighbours whose parameters are free in a star's error, and how far away they may be, FWHM.
ERROR_NEIGHBOURS, ERROR_REACH = 12, 2.5
#: By so much the matrix's diagonal grows, as a part of it: far more than rounding, far less than any data tell.
RIDGE = 1e-10
#: So many dense images are multiplied at once; the last batch is filled up.
TOGETHER = 3


@dataclass(frozen=True, slots=True, eq=False)
class StarSystem:
    """The stars' normal equations, factorised.

    Parameters
    ----------
    factor : (n, b + 1) float64 ndarray
        Cholesky factor of the matrix, as in `kernels.bands`.
    rhs : (n,) float64 ndarray
        Right-hand side.
    cross : (n, m) float64 ndarray
        Products of the stars' columns with the dense ones.
    first, width : (stars,) int64 ndarray
        First column, and number of columns, of each star.
    variance : (stars, 3) float64 ndarray
        Marginal variances of flux, x and y with the dense unknowns held, from each star's neighbourhood; inf where
        nothing tells a position.
    """

    factor: NDArray[np.float64]
    rhs: Vector
    cross: NDArray[np.float64]
    first: NDArray[np.int64]
    width: NDArray[np.int64]
    variance: NDArray[np.float64]

    def solve(self, rhs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Solve for the columns of `rhs`."""
        rows = np.zeros((-(-rhs.shape[1] // 4) * 4, rhs.shape[0]))
        rows[: rhs.shape[1]] = rhs.T
        bands.band_solve(self.factor, rows)
        return rows[: rhs.shape[1]].T

    def reach(self, step: Vector) -> Vector:
        """Each star's step in position over the longest allowed; 0 where the position is held."""
        out = np.zeros(self.first.size)
        free = np.flatnonzero(self.width == 3)
        out[free] = np.maximum(np.abs(step[self.first[free] + 1]), np.abs(step[self.first[free] + 2])) / STAR_STEP
        return out


def _cholesky(band: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cholesky factor of a band matrix, which is overwritten."""
    if not band.size:
        return band
    factor, info = lapack.dpbtrf(band.T, lower=1, overwrite_ab=1)
    if info != 0:
        msg = f"the stars' normal equations are singular (column {info})"
        raise FitError(msg)
    return np.ascontiguousarray(factor.T)


def star_system(stars: Stars, optics: Optics, images: NDArray[np.float64], rows: Index) -> StarSystem:
    """Assemble and factorise the stars' normal equations, priors and damping included.

    Dense images (m + 1, ny, nx), the last of them the residual, are 0 but from the first of their `rows` (m + 1, 2) to
    before the second.
    """
    frame, radius = optics.frame, optics.core_radius
    corner_y, corner_x = (np.rint(place).astype(np.int64) - radius for place in (stars.y, stars.x))
    width = np.where(stars.free, 3, 1)
    sortings = [_sorted(corner, width, 2 * radius + 1) for corner in (corner_y, corner_x)]
    order, place, sorted_first, band_width = min(sortings, key=lambda sorting: sorting[-1])
    sorted_width, size = width[order], int(width.sum())
    first = np.empty(stars.size, np.int64)
    first[order] = sorted_first
    stamps = optics.stars.columns(stars.x[order], stars.y[order], stars.flux[order], sorted_first, sorted_width, radius)
    # the residual is one more dense image, in the last batch
    m = len(images) - 1
    whole = m - m % TOGETHER
    rest = images[whole:]
    if len(rest) < TOGETHER:
        rest = np.zeros((TOGETHER, *frame.shape))
        rest[: m + 1 - whole] = images[whole:]
    band = np.empty((size, band_width + 1))
    products = np.empty((size, whole + TOGETHER))
    bands.band_normal(
        band,
        products,
        stamps,
        sorted_first,
        sorted_width,
        corner_y[order],
        corner_x[order],
        place,
        frame.weight,
        images[:whole],
        rows[:whole, 0].reshape(-1, TOGETHER).min(axis=1),
        rows[:whole, 1].reshape(-1, TOGETHER).max(axis=1),
        rest,
    )
    diagonal, pull = _priors(stars)
    damping = np.zeros((stars.size, 2))
    for axis in range(3):
        has = width > axis
        rows = first[has] + axis
        band[rows, 0] += diagonal[has, axis]
        if axis > 0:
            told = band[rows, 0].copy()
            band[rows, 0] = (told + 1.0 / STAR_DAMPING**2) * stars.damping[has]
            damping[has, axis - 1] = band[rows, 0] - told
        products[rows, m] += pull[has, axis]
    # a source without any usable pixel has an empty column; it stays as it is
    band[band[:, 0] <= 0.0, 0] = 1.0
    # nor may stars that have come to stand on one place, whose sum is all that is told, make it singular
    band[:, 0] *= 1.0 + RIDGE
    variance = np.empty((stars.size, 3))
    neighbours = kernels.nearest_neighbours(stars.x[order], stars.y[order], ERROR_REACH * optics.fwhm, ERROR_NEIGHBOURS)
    variance[order] = bands.band_variances(band, sorted_first, sorted_width, neighbours, damping[order])
    return StarSystem(_cholesky(band), products[:, m].copy(), products[:, :m], first, width, variance)


def _sorted(corner: Index, width: Index, side: int) -> tuple[Index, Index, Index, int]:
    """Order of stars along an axis; in that order, their stamps' first pixels and columns; and the band's width."""
    order = np.argsort(corner, kind="stable")
    place, sorted_width = corner[order], width[order]
    first = np.cumsum(sorted_width) - sorted_width
    return order, place, first, bands.band_width(place, first, sorted_width, side)


def _priors(stars: Stars) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Diagonal and right-hand side, for flux, x and y of each star, of its priors."""
    diagonal, pull = np.zeros((stars.size, 3)), np.zeros((stars.size, 3))
    flux_weight = 1.0 / stars.prior_sigma**2
    diagonal[:, 0] = flux_weight
    pull[:, 0] = flux_weight * (stars.prior_flux - stars.flux)
    weight = 1.0 / stars.anchor_sigma**2
    diagonal[:, 1:] = weight[:, None]
    pull[:, 1] = weight * (stars.anchor_x - stars.x)
    pull[:, 2] = weight * (stars.anchor_y - stars.y)
    return diagonal, pull
