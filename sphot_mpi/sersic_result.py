"""The record of a Sersic fit and the parts that every fitter shares."""

from dataclasses import dataclass

import numpy as np

from sphot_mpi.records import Array, SersicParams, SkyPlane
from sphot_mpi.sersic_problem import SersicProblem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SersicFit:
    """Result of a Sersic fit.

    Parameters
    ----------
    components : tuple of SersicParams
        One, or disk and bulge: the first has the larger r_eff.
    covariance : (7 k, 7 k) float64 ndarray
        In the order of `SERSIC_PARAMETERS`, component after component, marginal over the sky; NaN where pinned.
    total_flux, total_flux_err : float
        Of all components, to infinity, data unit * px.
    sky : SkyPlane
        Fitted sky; zero where it was not fitted.
    sky_covariance : (3, 3) float64 ndarray
        Of level, slope_x, slope_y; NaN where not fitted.
    chi2 : float
        Over the usable pixels.
    n_pix : int
        Usable pixels.
    converged : bool
        Whether the method stopped by itself.
    n_evaluations : int
        Model evaluations of all starts, Jacobians counted as one.
    at_bound : bool
        A parameter lies within 1 % of its bound.
    method : str
        That was asked for.
    """

    components: tuple[SersicParams, ...]
    covariance: Array
    total_flux: float
    total_flux_err: float
    sky: SkyPlane
    sky_covariance: Array
    chi2: float
    n_pix: int
    converged: bool
    n_evaluations: int
    at_bound: bool
    method: str


def inverse_normal(normal: Array) -> Array:
    """Inverse of a normal matrix, scaled to a unit diagonal first; columns without light are left out as NaN."""
    diagonal = np.diag(normal)
    used = diagonal > 0.0
    scale = 1.0 / np.sqrt(diagonal[used])
    inner = np.linalg.pinv(normal[np.ix_(used, used)] * scale * scale[:, None], rcond=1e-14, hermitian=True)
    inverse = np.full(normal.shape, np.nan)
    inverse[np.ix_(used, used)] = inner * scale * scale[:, None]
    return inverse


def sky_plane(problem: SersicProblem, plane: Array, covariance: Array) -> tuple[SkyPlane, Array]:
    """Return the sky in px units with its covariance."""
    if not plane.size:
        return SkyPlane(), np.full((3, 3), np.nan)
    unit = np.array([1.0, 1.0 / problem.reach, 1.0 / problem.reach])
    level, slope_x, slope_y = (float(v) for v in plane * unit)
    x_ref, y_ref = problem.reference
    sky = SkyPlane(level=level, slope_x=slope_x, slope_y=slope_y, x_ref=x_ref, y_ref=y_ref)
    return sky, covariance * unit * unit[:, None]
