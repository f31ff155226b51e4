"""Surface-brightness profiles in ellipses, for pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.records import Image, SersicParams

Vector = NDArray[np.float64]

#: AB magnitude per square arcsec of 1 MJy/sr: -2.5 log10(1e6 Jy/sr * (1 arcsec)^2 / 3631 Jy).
MJY_SR_ZERO_POINT = float(-2.5 * np.log10(1e6 * np.deg2rad(1.0 / 3600.0) ** 2 / 3631.0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProfilePair:
    """Mean brightness of data and model in the same pixels of elliptical annuli.

    Parameters
    ----------
    radius : (n,) float64 ndarray
        Mean semi-major axis of each annulus's pixels, px.
    data, data_err, model : (n,) float64 ndarray
        Median of the data with its 1-sigma error, and of the model.
    """

    radius: Vector
    data: Vector
    data_err: Vector
    model: Vector


def elliptical_profile(data: Image, model: Image, galaxy: SersicParams, *, per_octave: int = 3) -> ProfilePair:
    """Measure data and model in annuli of the galaxy's ellipse.

    Parameters
    ----------
    data, model : (ny, nx) float64 ndarray
        Images; pixels where `data` is NaN are left out of both.
    galaxy : SersicParams
        Centre, ellipticity and angle.
    per_octave : int
        Annuli for each doubling of the radius.

    Returns
    -------
    ProfilePair
        Annuli with pixels only. Medians, so that a leftover star does not show.
    """
    y, x = np.indices(data.shape, dtype=np.float64)
    dx, dy = x - galaxy.x_0, y - galaxy.y_0
    c, s = np.cos(galaxy.theta), np.sin(galaxy.theta)
    radius = np.hypot(dx * c + dy * s, (dy * c - dx * s) / (1.0 - galaxy.ellip))
    good = np.isfinite(data) & (radius < 0.5 * np.hypot(*data.shape))
    annulus = np.floor(per_octave * np.log2(np.maximum(radius, 0.7))).astype(int)
    rows = []
    for k in np.unique(annulus[good]):
        chosen = good & (annulus == k)
        values = data[chosen]
        # 1.2533 = sqrt(pi / 2): the error of a median over that of a mean
        spread = 1.4826 * np.median(np.abs(values - np.median(values)))
        error = 1.2533 * spread / np.sqrt(values.size) if values.size > 3 else np.nan
        rows.append((radius[chosen].mean(), np.median(values), error, np.median(model[chosen])))
    columns = np.array(rows).reshape(-1, 4).T
    return ProfilePair(radius=columns[0], data=columns[1], data_err=columns[2], model=columns[3])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GrowthCurve:
    """Petrosian index and enclosed light along the semi-major axis.

    Parameters
    ----------
    radius : (n,) float64 ndarray
        Semi-major axis, px.
    index : (n,) float64 ndarray
        Mean brightness in the annulus from 0.8 to 1.25 radii over that inside the radius.
    enclosed : (n,) float64 ndarray
        Light inside the radius, unit of the image * px; pixels without data count as their annulus's mean.
    """

    radius: Vector
    index: Vector
    enclosed: Vector


def growth_curve(image: Image, galaxy: SersicParams, *, n: int = 48) -> GrowthCurve:
    """Measure the Petrosian index and the curve of growth in ellipses.

    The annulus is that of the SDSS (Strauss et al. 2002, AJ 124, 1810, equation 1).

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        The galaxy alone; NaN where there is none.
    galaxy : SersicParams
        Centre, ellipticity and angle.
    n : int
        Radii, from 2 px to the ellipse that just leaves the image.

    Returns
    -------
    GrowthCurve
        Radii whose annulus holds data.
    """
    y, x = np.indices(image.shape, dtype=np.float64)
    dx, dy = x - galaxy.x_0, y - galaxy.y_0
    c, s = np.cos(galaxy.theta), np.sin(galaxy.theta)
    ratio = 1.0 - galaxy.ellip
    radius = np.hypot(dx * c + dy * s, (dy * c - dx * s) / ratio)
    edge = min(galaxy.x_0 + 0.5, image.shape[1] - 0.5 - galaxy.x_0, galaxy.y_0 + 0.5, image.shape[0] - 0.5 - galaxy.y_0)
    radii = np.geomspace(2.0, max(edge / 1.25, 3.0), n)
    good = np.isfinite(image)
    # cumulative sums over pixels in the order of their radius give any aperture and annulus
    order = np.argsort(radius[good], kind="stable")
    known, missing = radius[good][order], np.sort(radius[~good])
    light = np.concatenate([[0.0], np.cumsum(image[good][order])])

    def mean(low: Vector, high: Vector) -> Vector:
        first, last = np.searchsorted(known, low), np.searchsorted(known, high)
        return np.where(last > first, (light[last] - light[first]) / np.maximum(last - first, 1), np.nan)

    annulus = mean(0.8 * radii, 1.25 * radii)
    filled = np.diff(np.searchsorted(missing, np.concatenate([[0.0], radii]))) * np.nan_to_num(annulus)
    enclosed = light[np.searchsorted(known, radii)] + np.cumsum(filled)
    # without the filling, a gap in the outskirts would make the inside look brighter than it is
    inside = enclosed / np.maximum(np.searchsorted(known, radii) + np.searchsorted(missing, radii), 1)
    usable = np.isfinite(annulus) & (inside > 0.0)
    return GrowthCurve(radius=radii[usable], index=annulus[usable] / inside[usable], enclosed=enclosed[usable])
