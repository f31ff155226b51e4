"""Growth curves in nested ellipses: Petrosian index, Petrosian radius, radii that hold a part of the light.

The index is ``eta(a) = I(a) / <I>(a)``, the brightness on the isophote of semi-major axis a over the mean inside it
(Petrosian 1976); it falls from 1 at the centre. With light ``F`` and area ``A`` inside, ``eta = (dF/dA) (A/F)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import interpolate, ndimage, signal

from sphot_mpi.ellipses import Ellipse
from sphot_mpi.records import Image, Vector

#: Sub-pixels a side, inside ellipses smaller than this, px.
FINE, FINE_RADIUS = 3, 15.0
#: The index is smoothed by parabolas over this many radii.
SMOOTHING = 5
#: Index and factor of the radius within which a galaxy's light is counted for r20, r50 and r80 (Bershady et al. 2000).
EXTENT_INDEX, EXTENT_FACTOR = 0.2, 1.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GrowthCurve:
    """Light inside ellipses of growing size.

    Parameters
    ----------
    radius : (k,) float64 ndarray
        Semi-major axes, px, evenly spaced in their logarithm.
    area : (k,) float64 ndarray
        Areas, px.
    flux : (k,) float64 ndarray
        Light inside, data unit * px; NaN where it is not known.
    """

    radius: Vector
    area: Vector
    flux: Vector

    def index(self) -> Vector:
        """Petrosian index at each radius, smoothed; NaN where the light inside is not positive."""
        if not np.isfinite(self.flux).all():
            return np.full(self.radius.size, np.nan)
        log_radius = np.log(self.radius)
        slope, growth = (
            interpolate.CubicSpline(log_radius, values).derivative()(log_radius) for values in (self.flux, self.area)
        )
        positive = self.flux > 0.0
        index = np.zeros(self.radius.size)
        index[positive] = slope[positive] / growth[positive] * self.area[positive] / self.flux[positive]
        # whatever a radius without an index has touched is none either
        known = ndimage.minimum_filter1d(positive.astype(np.int8), SMOOTHING, mode="nearest") == 1
        return np.where(known, signal.savgol_filter(index, SMOOTHING, 2), np.nan)

    def petrosian_radius(self, threshold: float) -> float:
        """Semi-major axis, px, at which the index first falls to `threshold`; NaN: it does not."""
        index = self.index()
        below = np.flatnonzero((index[1:] < threshold) & (index[:-1] >= threshold))
        if below.size == 0:
            return float("nan")
        k = int(below[0])
        part = (index[k] - threshold) / (index[k] - index[k + 1])
        return float(np.exp(np.log(self.radius[k]) + part * np.log(self.radius[k + 1] / self.radius[k])))

    def flux_within(self, radius: float) -> float:
        """Light inside semi-major axis `radius`; NaN beyond the curve. Inside it the brightness is taken as even."""
        if not radius <= self.radius[-1]:
            return float("nan")
        if radius <= self.radius[0]:
            return float(self.flux[0] * (radius / self.radius[0]) ** 2)
        return float(interpolate.CubicSpline(np.log(self.radius), self.flux)(np.log(radius)))

    def radius_holding(self, flux: float) -> float:
        """Smallest semi-major axis, px, inside which there is this light; NaN: there is none."""
        reached = np.flatnonzero(self.flux >= flux)
        if flux <= 0.0 or reached.size == 0:
            return float("nan")
        k = int(reached[0])
        if k == 0:
            return float(self.radius[0] * np.sqrt(flux / self.flux[0]))
        # the smooth curve between two radii, finely
        fine = np.linspace(np.log(self.radius[k - 1]), np.log(self.radius[k]), 33)
        grown = np.maximum.accumulate(interpolate.CubicSpline(np.log(self.radius), self.flux)(fine))
        return float(np.exp(np.interp(flux, grown, fine)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of a galaxy along its major axis, px; NaN: the curve does not tell."""

    petro_radius: float
    r20: float
    r50: float
    r80: float

    @property
    def concentration(self) -> float:
        """5 lg (r80 / r20)."""
        return 5.0 * float(np.log10(self.r80 / self.r20))

    @property
    def known(self) -> bool:
        """Whether every size is finite."""
        return bool(np.isfinite([self.petro_radius, self.r20, self.r50, self.r80]).all())


def growth_curves(images: Sequence[Image], ellipses: Sequence[Ellipse]) -> tuple[GrowthCurve, ...]:
    """Light of some images inside the same ellipses.

    Pixels at an edge count by the part inside. That smooths the image by a pixel once more, which a small ellipse
    would show: inside those below 15 px the image is interpolated to a third of a pixel, by cubic splines.

    Parameters
    ----------
    images : sequence of (ny, nx) float64 ndarray
        Brightness, finite everywhere; they must reach as far as the ellipses.
    ellipses : sequence of Ellipse
        Nested, from inside outwards, evenly spaced in ln(radius).

    Returns
    -------
    tuple of GrowthCurve
        One an image, with one point an ellipse.
    """
    radius, area = (np.array([getattr(ellipse, name) for ellipse in ellipses]) for name in ("radius", "area"))
    small = [ellipse for ellipse in ellipses if ellipse.radius < FINE_RADIUS]
    fluxes = np.concatenate([_fine_sums(images, small), _sums(images, ellipses[len(small) :])], axis=1)
    return tuple(GrowthCurve(radius=radius, area=area, flux=flux) for flux in fluxes)


def _sums(images: Sequence[Image], ellipses: Sequence[Ellipse]) -> Image:
    """Sums, (images, ellipses)."""
    sums = np.zeros((len(images), len(ellipses)))
    for k, ellipse in enumerate(ellipses):
        window, part = ellipse.coverage((images[0].shape[0], images[0].shape[1]))
        sums[:, k] = [float((image[window] * part).sum()) for image in images]
    return sums


def _fine_sums(images: Sequence[Image], ellipses: Sequence[Ellipse]) -> Image:
    """Sums of the images as interpolated to sub-pixels, (images, ellipses)."""
    if not ellipses:
        return np.zeros((len(images), 0))
    half = int(np.ceil(ellipses[-1].radius)) + 2
    # the middle one of the sub-pixels of a pixel lies at its centre
    steps = (np.arange(FINE * (2 * half + 1)) - (FINE - 1) / 2) / FINE - half
    x, y = round(ellipses[0].x) + steps, round(ellipses[0].y) + steps
    where = np.meshgrid(y, x, indexing="ij")
    fine = [ndimage.map_coordinates(image, where, order=3, mode="nearest") for image in images]
    grown = [
        replace(one, x=(one.x - x[0]) * FINE, y=(one.y - y[0]) * FINE, radius=one.radius * FINE) for one in ellipses
    ]
    return _sums(fine, grown) / FINE**2


def measure_sizes(curve: GrowthCurve, petro: float) -> Sizes:
    """Return the sizes that a growth curve tells.

    Parameters
    ----------
    curve : GrowthCurve
        Of a galaxy.
    petro : float
        Petrosian index of `Sizes.petro_radius`.

    Returns
    -------
    Sizes
        r20, r50 and r80 of the light within 1.5 times the radius of index 0.2.
    """
    total = curve.flux_within(EXTENT_FACTOR * curve.petrosian_radius(EXTENT_INDEX))
    r20, r50, r80 = (curve.radius_holding(part * total) for part in (0.2, 0.5, 0.8))
    return Sizes(petro_radius=curve.petrosian_radius(petro), r20=r20, r50=r50, r80=r80)
