"""Surface-brightness profiles in ellipses, for pictures."""

from dataclasses import dataclass

import numpy as np

from sphot_mpi.ellipses import Ellipse
from sphot_mpi.petrosian import GrowthCurve, growth_curves
from sphot_mpi.records import Image, SersicParams, Vector
from sphot_mpi.robust import robust_sigma

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
        spread = robust_sigma(values)
        error = 1.2533 * spread / np.sqrt(values.size) if values.size > 3 else np.nan
        rows.append((radius[chosen].mean(), np.median(values), error, np.median(model[chosen])))
    columns = np.array(rows).reshape(-1, 4).T
    return ProfilePair(radius=columns[0], data=columns[1], data_err=columns[2], model=columns[3])


def growth_in_cutout(data: Image, model: Image, galaxy: SersicParams, *, n: int = 48) -> GrowthCurve:
    """Measure the light inside the galaxy's own ellipses, as far as the cutout reaches.

    Parameters
    ----------
    data, model : (ny, nx) float64 ndarray
        The galaxy alone; where `data` is NaN, `model` stands in.
    galaxy : SersicParams
        Centre, ellipticity and angle.
    n : int
        Ellipses, from 1.5 px on.

    Returns
    -------
    GrowthCurve
        One point an ellipse.
    """
    ratio, cos, sin = 1.0 - galaxy.ellip, np.cos(galaxy.theta), np.sin(galaxy.theta)
    reach = []
    for centre, side, extent in (
        (galaxy.x_0, data.shape[1], np.hypot(cos, ratio * sin)),
        (galaxy.y_0, data.shape[0], np.hypot(sin, ratio * cos)),
    ):
        reach.append(min(centre + 0.5, side - 0.5 - centre) / extent)
    ellipse = Ellipse(x=galaxy.x_0, y=galaxy.y_0, radius=1.0, ellip=galaxy.ellip, theta=float(galaxy.theta % np.pi))
    radii = np.geomspace(1.5, max(min(reach), 3.0), n)
    (curve,) = growth_curves([np.where(np.isfinite(data), data, model)], [ellipse.scaled(float(r)) for r in radii])
    return curve
