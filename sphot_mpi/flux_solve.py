"""Linear solves for the fluxes of many overlapping sources at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sphot_mpi.kernels.sparse import gram_blocks, marginal_variances
from sphot_mpi.nnls import solve_nnls, solve_signed
from sphot_mpi.point_render import render_sources, star_stamps
from sphot_mpi.psf import PSF
from sphot_mpi.records import Image, Vector

#: Neighbours in the local inverse of a flux error; its errors are 0.3 % low at worst.
NEIGHBOURS = 20

#: Damping of positions in joint steps, px: a step is not to leave the range of the linear model.
POSITION_DAMPING = 0.5

#: Rounds of a joint solve, and the change, in errors of the flux, that ends them.
JOINT_ROUNDS = 12
JOINT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JointFluxes:
    """Fluxes and positions of sources solved together.

    Parameters
    ----------
    flux, flux_err : (n,) float64 ndarray
        Total fluxes with marginal 1-sigma errors; the error is inf where no pixel tells.
    x, y, x_err, y_err : (n,) float64 ndarray
        Positions, px; errors NaN where pinned.
    converged : (n,) bool ndarray
        Whether the solver reached its tolerance.
    """

    flux: Vector
    flux_err: Vector
    x: Vector
    y: Vector
    x_err: Vector
    y_err: Vector
    converged: NDArray[np.bool_]


def solve_pinned(
    image: Image, weight: Image, psf: PSF, x: Vector, y: Vector, *, radius: int, signed: bool = False
) -> JointFluxes:
    """Fluxes of sources at fixed positions, non-negative or signed.

    Parameters
    ----------
    image, weight : (ny, nx) float64 ndarray
        Data without galaxy and sky, and 1 / variance (0 = do not use).
    psf : PSF
        Working PSF.
    x, y : (n,) float64 ndarray
        Positions, px; may lie off the image.
    radius : int
        Half-size of the stamps on which a source counts, px.
    signed : bool
        Allow negative fluxes.

    Returns
    -------
    JointFluxes
        `converged` is False where the KKT conditions do not hold to 1e-8.
    """
    stamps, corner_y, corner_x = star_stamps(psf, x, y, radius)
    stamps = np.ascontiguousarray(stamps[:, :1])
    data, indices, indptr, rhs = gram_blocks(stamps, corner_y, corner_x, weight, image)
    gram = sparse.csc_array((data, indices, indptr), shape=(x.size, x.size))
    if signed:
        flux, converged = solve_signed(gram, rhs), True
    else:
        result = solve_nnls(gram, rhs)
        flux, converged = result.x, result.converged
    error = np.sqrt(marginal_variances(data, indices, indptr, NEIGHBOURS))
    unknown = np.full(x.size, np.nan)
    return JointFluxes(
        flux=flux, flux_err=error, x=x, y=y, x_err=unknown, y_err=unknown, converged=np.full(x.size, converged)
    )


def solve_joint(
    image: Image,
    weight: Image,
    psf: PSF,
    flux: Vector,
    x: Vector,
    y: Vector,
    *,
    fit_shape: tuple[int, int],
    radius: int,
    xy_bound: float,
) -> JointFluxes:
    """Fluxes of either sign, and positions within bounds, of all sources together.

    Gauss-Newton on the sparse normal equations of the fit windows; the residual is that of the
    whole stamps, so that light outside a window is not attributed to somebody else.

    Parameters
    ----------
    image, weight, psf, x, y
        As for `solve_pinned`; `x` and `y` are the centres of the bounds.
    flux : (n,) float64 ndarray
        First guesses.
    fit_shape : (int, int)
        (ny, nx) of the window of each source, px, odd.
    radius : int
        Half-size of the stamps on which a source is rendered, px.
    xy_bound : float
        Largest change of a coordinate, px; 0 pins positions.

    Returns
    -------
    JointFluxes
        As found; `converged` is False where the last round still changed a flux.
    """
    flux, start = flux.copy(), np.column_stack((x, y))
    place, n = start.copy(), x.size
    width = 3 if xy_bound > 0.0 else 1
    errors = np.full((n, width), np.inf)
    converged = np.zeros(n, dtype=bool)
    for _ in range(JOINT_ROUNDS):
        stamps, corner_y, corner_x = _windows(psf, place, fit_shape)
        scale = np.ones((n, 3))
        # a source without light has no position to speak of
        scale[:, 1:] = np.maximum(flux, 0.0)[:, None]
        columns = np.ascontiguousarray((stamps * scale[:, :, None, None])[:, :width])
        residual = image - render_sources(image.shape, psf, place[:, 0], place[:, 1], flux, radius)
        data, indices, indptr, rhs = gram_blocks(columns, corner_y, corner_x, weight, residual)
        gram = sparse.csc_array((data, indices, indptr), shape=(rhs.size, rhs.size))
        errors = np.sqrt(marginal_variances(data, indices, indptr, width * NEIGHBOURS)).reshape(n, width)
        if width == 3:
            damping = np.tile([0.0, POSITION_DAMPING**-2, POSITION_DAMPING**-2], n)
            gram = sparse.csc_array(gram + sparse.diags_array(damping))
        step = solve_signed(gram, rhs).reshape(n, width)
        flux += step[:, 0]
        if width == 3:
            place = np.clip(place + np.clip(step[:, 1:], -0.5, 0.5), start - xy_bound, start + xy_bound)
        converged = ~(np.abs(step[:, 0]) > JOINT_TOLERANCE * errors[:, 0])
        if converged.all():
            break
    unknown = np.full(n, np.nan)
    return JointFluxes(
        flux=flux,
        flux_err=errors[:, 0],
        x=place[:, 0],
        y=place[:, 1],
        x_err=errors[:, 1] if width == 3 else unknown,
        y_err=errors[:, 2] if width == 3 else unknown,
        converged=converged,
    )


def _windows(psf: PSF, place: Image, fit_shape: tuple[int, int]) -> tuple[Image, NDArray[np.int64], NDArray[np.int64]]:
    """Stamps cut to the fit window."""
    radius = max(fit_shape) // 2
    x, y = np.ascontiguousarray(place[:, 0]), np.ascontiguousarray(place[:, 1])
    stamps, corner_y, corner_x = star_stamps(psf, x, y, radius)
    trim_y, trim_x = radius - fit_shape[0] // 2, radius - fit_shape[1] // 2
    side = 2 * radius + 1
    return stamps[:, :, trim_y : side - trim_y, trim_x : side - trim_x], corner_y + trim_y, corner_x + trim_x
