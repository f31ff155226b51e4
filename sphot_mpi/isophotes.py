"""A first guess of a galaxy's Sersic from its isophotes.

Ellipses are fixed in shape by robust moments and filled with medians, which
stars between them do not move; the profile's shape gives n and r_eff. When the
profile cannot carry that, moments alone do; the reason is part of the result.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from sphot_mpi.prepare import block_medians, fit_gaussian_size
from sphot_mpi.records import Image, Mask, SersicParams
from sphot_mpi.robust import robust_sigma
from sphot_mpi.sersic_profile import elliptical_radius

#: Least number of annuli for sky, brightness, radius and index.
FEWEST_ANNULI = 5
SMALLEST_R_EFF = 0.5
#: Range of n of the guess; a fit may go further.
INDEX_RANGE = (0.5, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstGuess:
    """Where a Sersic fit starts.

    Parameters
    ----------
    params : SersicParams
        The guess.
    sky : float
        Level below it, data unit.
    method : str
        "isophotes", "moments" or "default".
    reason : str
        Why it is not "isophotes"; empty otherwise.
    """

    params: SersicParams
    sky: float
    method: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Median profile over elliptical annuli: radius (semi-major, px), intensity, its error and the pixels in each."""

    radius: Image
    intensity: Image
    error: Image
    n_pix: NDArray[np.int64]


def first_guess(data: Image, mask: Mask, *, block: int = 5) -> FirstGuess:
    """Guess a Sersic for the galaxy near an image's centre.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image, with sky and stars.
    mask : (ny, nx) bool ndarray
        True = do not use.
    block : int
        Side of the blocks, px, whose medians remove the stars for the moments.

    Returns
    -------
    FirstGuess
        Always one; `method` and `reason` say how it was come by.
    """
    good = ~mask & np.isfinite(data)
    ny, nx = data.shape
    plain = SersicParams(
        amplitude=1.0, r_eff=max(min(ny, nx) / 12, 1.0), n=1.5, x_0=(nx - 1) / 2, y_0=(ny - 1) / 2, ellip=0.1, theta=0.0
    )
    if good.sum() < 25:
        return FirstGuess(params=plain, sky=0.0, method="default", reason=f"only {int(good.sum())} usable pixels")
    values = data[good]
    sky = float(np.percentile(values, 20.0))
    height = max(float(np.percentile(values, 98.0)) - sky, 1e-9 * max(abs(sky), 1.0))
    plain = replace(plain, amplitude=0.1 * height)
    shape = moments(np.where(good, data, np.nan), block)
    if shape is None:
        return FirstGuess(params=plain, sky=sky, method="default", reason="no light stands out above the sky")
    moment_guess = replace(shape, amplitude=0.3 * height)
    profile = elliptical_profile(data, ~good, shape)
    if profile.radius.size < FEWEST_ANNULI:
        reason = f"only {profile.radius.size} annuli hold data"
        return FirstGuess(params=moment_guess, sky=sky, method="moments", reason=reason)
    fitted = fit_profile(profile, shape)
    if fitted is None:
        reason = "the profile does not fall from the centre outwards"
        return FirstGuess(params=moment_guess, sky=sky, method="moments", reason=reason)
    amplitude, r_eff, n, level = fitted
    params = replace(shape, amplitude=amplitude, r_eff=r_eff, n=n)
    return FirstGuess(params=params, sky=level, method="isophotes")


def moments(data: Image, block: int = 5) -> SersicParams | None:
    """Centre, size, ellipticity and angle from Gaussian-weighted moments of block medians.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image; NaN = do not use.
    block : int
        Side of the blocks, px.

    Returns
    -------
    SersicParams or None
        Amplitude 1, n 1.5 and r_eff from the Gaussian's size; None where no positive light is left.

    Notes
    -----
    The weight is a round Gaussian of the size that `fit_gaussian_size` finds. A Gaussian source of covariance S seen
    through a Gaussian weight W has ``M = (S^-1 + W^-1)^-1``, which is solved for S.
    """
    x, y, value = block_medians(data, block)
    if value.size < 9:
        return None
    light = value - float(np.percentile(value, 25.0))
    cx, cy, size = fit_gaussian_size(data, 2.0 * block)
    dx, dy = x - cx, y - cy
    weight = np.exp(-0.5 * (dx**2 + dy**2) / size**2) * light
    total = float(weight.sum())
    if total <= 0.0:
        return None
    mx, my = float((weight * dx).sum()) / total, float((weight * dy).sum()) / total
    xx, xy, yy = (float((weight * u * v).sum()) / total for u, v in ((dx, dx), (dx, dy), (dy, dy)))
    measured = _bounded(np.array([[xx - mx**2, xy - mx * my], [xy - mx * my, yy - my**2]]), 1.0, 0.95 * size)
    source: Image = np.asarray(np.linalg.inv(np.linalg.inv(measured) - np.eye(2) / size**2), dtype=np.float64)
    values, vectors = np.linalg.eigh(_bounded(source, 1.0, max(data.shape) / 4))
    major, minor = np.sqrt(values[1]), np.sqrt(values[0])
    # half of a Gaussian's light lies within 1.177 sigma
    return SersicParams(
        amplitude=1.0, r_eff=max(float(1.177 * major), SMALLEST_R_EFF), n=1.5, x_0=cx, y_0=cy,
        ellip=float(np.clip(1.0 - minor / major, 0.0, 0.8)),
        theta=float(np.arctan2(vectors[1, 1], vectors[0, 1]) % np.pi),
    )  # fmt: skip


def _bounded(covariance: Image, low: float, high: float) -> Image:
    """Keep the eigenvalues of a covariance within sizes `low` and `high`, px."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.clip(values, low**2, high**2)) @ vectors.T)


def elliptical_profile(data: Image, mask: Mask, shape: SersicParams, *, n_annuli: int = 20) -> Profile:
    """Medians of an image in elliptical annuli of growing width.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image.
    mask : (ny, nx) bool ndarray
        True = do not use.
    shape : SersicParams
        Centre, ellipticity and angle of the ellipses.
    n_annuli : int
        Most annuli, out to the far corner of the image.

    Returns
    -------
    Profile
        Annuli with at least 8 good pixels, from inside outwards.
    """
    radius = elliptical_radius(data.shape, shape)
    good = ~mask & np.isfinite(data)
    # square-root steps: about a pixel inside, broad and many-pixelled outside
    edges = np.linspace(0.0, np.sqrt(max(float(radius[good].max(initial=1.0)), 4.0)), n_annuli + 1) ** 2
    index = np.where(good, np.digitize(radius, edges) - 1, -1)
    rows = []
    for annulus in range(n_annuli):
        inside = index == annulus
        count = int(inside.sum())
        if count < 8:
            continue
        values = data[inside]
        spread = robust_sigma(values)
        rows.append((float(np.mean(radius[inside])), float(np.median(values)), 1.2533 * spread / np.sqrt(count), count))
    table = np.array(rows).reshape(-1, 4)
    return Profile(
        radius=table[:, 0], intensity=table[:, 1], error=table[:, 2], n_pix=np.asarray(table[:, 3], dtype=np.int64)
    )


def fit_profile(profile: Profile, shape: SersicParams) -> tuple[float, float, float, float] | None:
    r"""Fit :math:`I_e \exp(-b_n [(r/r_e)^{1/n} - 1]) + s` to a profile.

    Parameters
    ----------
    profile : Profile
        Of `elliptical_profile`.
    shape : SersicParams
        Start of r_eff.

    Returns
    -------
    (float, float, float, float) or None
        Amplitude, r_eff (px), n and sky level; None where the light does not rise towards the centre.

    Notes
    -----
    n and r_eff by robust least squares; amplitude and sky, which are linear, exactly at each trial.
    """
    r, intensity = profile.radius, profile.intensity
    inner, outer = intensity[:3].mean(), intensity[-3:].mean()
    # a floor on the errors: medians of a handful of equal pixels would dominate
    error = np.hypot(profile.error, 0.02 * abs(inner - outer))
    if not inner - outer > 3.0 * float(np.median(profile.error)):
        return None

    def linear(p: Image) -> tuple[Image, Image]:
        n, r_eff = np.exp(p)
        b = special.gammaincinv(2.0 * n, 0.5)
        columns = np.column_stack([np.exp(-b * ((r / r_eff) ** (1.0 / n) - 1.0)), np.ones(r.size)]) / error[:, None]
        solution = optimize.nnls(np.column_stack([columns, -columns[:, 1]]), intensity / error)[0]
        sky = solution[1] - solution[2]
        return np.array([solution[0], sky]), columns @ np.array([solution[0], sky]) - intensity / error

    low = np.log([INDEX_RANGE[0], SMALLEST_R_EFF])
    # a radius beyond half of the profile could not be told from a sky
    high = np.log([INDEX_RANGE[1], max(0.5 * float(r[-1]), 2.0 * SMALLEST_R_EFF)])
    start = np.clip(np.log([1.5, shape.r_eff]), low + 1e-6, high - 1e-6)
    fit = optimize.least_squares(lambda p: linear(p)[1], start, bounds=(low, high), loss="soft_l1")
    (amplitude, sky), _ = linear(fit.x)
    if amplitude <= 0.0:
        return None
    n, r_eff = np.exp(fit.x)
    return float(amplitude), float(r_eff), float(n), float(sky)
