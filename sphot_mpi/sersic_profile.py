"""The Sersic profile: its constants, and the two ways to write its parameters.

``I = amplitude * exp(-b_n ((r / r_eff)^(1/n) - 1))`` (Sersic 1968; Graham & Driver 2005). Fits use the
vector ``(x_0, y_0, ln r_circ, ln n, eta_1, eta_2)`` and the total flux, with ``r_circ = r_eff sqrt(q)`` and
``eta = -ln q (cos 2 theta, sin 2 theta)``: smooth at q = 1, and nearly a quadratic chi2.
"""

from functools import lru_cache

import numpy as np
from scipy import special

from sphot_mpi.records import Array, SersicParams

#: Lengths of the parts of a shape matrix below this are a circle's.
_ROUND = 1e-9


@lru_cache(maxsize=256)
def b_n(n: float) -> float:
    """Return b of ``exp(-b (r/r_eff)^(1/n))`` with half of the light inside r_eff, exactly.

    It solves ``P(2n, b) = 1/2`` (Ciotti & Bertin 1999).
    """
    return float(special.gammaincinv(2.0 * n, 0.5))


def b_n_slope(n: float) -> float:
    """Return d b_n / d ln n, by a central difference good to 1e-8 of it."""
    step = 1e-4
    return (b_n(n * np.exp(step)) - b_n(n * np.exp(-step))) / (2.0 * step)


def log_centre(r_circ: float, n: float) -> float:
    """Return ln of the central surface brightness of a profile of unit total flux.

    The total of ``exp(-b rho^(1/n))`` is ``2 pi n r_circ^2 b^(-2n) Gamma(2n)`` (Graham & Driver 2005, eq. 4).
    """
    return float(-np.log(2.0 * np.pi * n * r_circ**2) + 2.0 * n * np.log(b_n(n)) - special.gammaln(2.0 * n))


def log_centre_slope(n: float) -> float:
    """Return d `log_centre` / d ln n."""
    b = b_n(n)
    slope = b_n_slope(n)
    return float(-1.0 + 2.0 * n * np.log(b) + 2.0 * n * slope / b - 2.0 * n * special.digamma(2.0 * n))


def total_flux(params: SersicParams) -> float:
    """Total flux to infinity of one component, data unit * px."""
    r_circ = params.r_eff * np.sqrt(1.0 - params.ellip)
    return float(params.amplitude * np.exp(b_n(params.n) - log_centre(r_circ, params.n)))


def amplitude_of(flux: float, r_circ: float, n: float) -> float:
    """Surface brightness at r_eff of a profile of total flux `flux`."""
    return float(flux * np.exp(log_centre(r_circ, n) - b_n(n)))


def to_vector(params: SersicParams) -> Array:
    """Return (x_0, y_0, ln r_circ, ln n, eta_1, eta_2)."""
    eta = -np.log1p(-params.ellip)
    return np.array(
        [
            params.x_0,
            params.y_0,
            np.log(params.r_eff) - 0.5 * eta,
            np.log(params.n),
            eta * np.cos(2.0 * params.theta),
            eta * np.sin(2.0 * params.theta),
        ]
    )


def from_vector(vector: Array, flux: float) -> SersicParams:
    """Return the component with this `vector` and total flux; theta in [0, pi)."""
    x_0, y_0, log_r, log_n, eta_1, eta_2 = (float(v) for v in vector)
    eta = float(np.hypot(eta_1, eta_2))
    n = float(np.exp(log_n))
    theta = 0.5 * float(np.arctan2(eta_2, eta_1)) % np.pi
    return SersicParams(
        amplitude=amplitude_of(flux, float(np.exp(log_r)), n),
        r_eff=float(np.exp(log_r + 0.5 * eta)),
        n=n,
        x_0=x_0,
        y_0=y_0,
        ellip=float(-np.expm1(-eta)),
        theta=theta if theta < np.pi else 0.0,  # a tiny negative angle rounds to pi itself
    )


def params_jacobian(vector: Array, flux: float) -> Array:
    """Derivatives of the `SERSIC_PARAMETERS` by (flux, vector).

    Parameters
    ----------
    vector : (6,) float64 ndarray
        Shape.
    flux : float
        Total flux.

    Returns
    -------
    (7, 7) float64 ndarray
        Row: amplitude, r_eff, n, x_0, y_0, ellip, theta; column: flux, x_0, y_0, ln r_circ, ln n,
        eta_1, eta_2. Of a circle, whose angle is undefined, theta's row is that of ``eta = 1e-9``.
    """
    log_r, log_n = float(vector[2]), float(vector[3])
    n = float(np.exp(log_n))
    eta = max(float(np.hypot(vector[4], vector[5])), _ROUND)
    unit = vector[4:6] / eta if np.hypot(vector[4], vector[5]) > _ROUND else np.array([1.0, 0.0])
    r_eff, q = float(np.exp(log_r + 0.5 * eta)), float(np.exp(-eta))
    per_flux = amplitude_of(1.0, float(np.exp(log_r)), n)
    jacobian = np.zeros((7, 7))
    jacobian[0, 0] = per_flux
    jacobian[0, 3] = -2.0 * flux * per_flux
    jacobian[0, 4] = flux * per_flux * (log_centre_slope(n) - b_n_slope(n))
    jacobian[1, 3] = r_eff
    jacobian[1, 5:7] = 0.5 * r_eff * unit
    jacobian[2, 4] = n
    jacobian[3, 1] = 1.0
    jacobian[4, 2] = 1.0
    jacobian[5, 5:7] = q * unit
    jacobian[6, 5:7] = np.array([-unit[1], unit[0]]) / (2.0 * eta)
    return jacobian


def shape_forms(eta_1: float, eta_2: float) -> Array:
    """Quadratic forms of an ellipse of unit area and their derivatives by eta.

    The matrix ``H = R(theta) diag(1/q, q) R(theta)^T`` equals ``cosh(eta) + sinh(eta)/eta (eta_1 sigma_z +
    eta_2 sigma_x)``, which is smooth at eta = 0.

    Returns
    -------
    (3, 3) float64 ndarray
        Row: H, dH/d eta_1, dH/d eta_2; column: xx, xy, yy. With both signs of eta turned it is the inverse of H
        (and minus the derivatives of that).
    """
    eta = float(np.hypot(eta_1, eta_2))
    if eta < 1e-3:
        sinhc, slope = 1.0 + eta**2 / 6.0, 1.0 / 3.0 + eta**2 / 30.0
    else:
        sinhc = np.sinh(eta) / eta
        slope = (np.cosh(eta) - sinhc) / eta**2

    def form(one: float, z: float, x: float) -> list[float]:
        return [one + z, x, one - z]

    cross = slope * eta_1 * eta_2
    return np.array(
        [
            form(float(np.cosh(eta)), sinhc * eta_1, sinhc * eta_2),
            form(sinhc * eta_1, sinhc + slope * eta_1**2, cross),
            form(sinhc * eta_2, cross, sinhc + slope * eta_2**2),
        ]
    )


def elliptical_radius(shape: tuple[int, ...], galaxy: SersicParams) -> Array:
    """Semi-major axis, px, of the galaxy's ellipse through each pixel of an image of `shape` (ny, nx)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return elliptical_distance(x, y, galaxy)


def elliptical_distance(x: Array, y: Array, galaxy: SersicParams) -> Array:
    """Semi-major axis, px, of the galaxy's ellipse through each of some points."""
    dx, dy = x - galaxy.x_0, y - galaxy.y_0
    cos, sin = np.cos(galaxy.theta), np.sin(galaxy.theta)
    q = max(1.0 - galaxy.ellip, 1e-3)
    # not hypot, whose care about overflows takes five times as long
    return np.asarray(np.sqrt((dx * cos + dy * sin) ** 2 + ((dy * cos - dx * sin) / q) ** 2))
