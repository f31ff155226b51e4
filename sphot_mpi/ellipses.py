"""Ellipses that follow the isophotes of a galaxy.

Isophotes are found as contours, ray by ray from the galaxy's centre, and an ellipse is fitted to each contour. On
a model without noise that is exact, where harmonics along an ellipse (`photutils.isophote`) stop early and cannot
be used below 3 px.
"""

from dataclasses import dataclass, replace

import numpy as np
from photutils.geometry import elliptical_overlap_grid
from scipy import ndimage

from sphot_mpi.records import Image, Vector

#: Rays from the centre, and the step along them, px.
N_RAYS, RAY_STEP = 72, 0.2
#: Isophotes between the least and the greatest level of enclosed light.
N_ISOPHOTES = 24
#: Flattest ellipse.
SMALLEST_RATIO = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipse:
    """An ellipse in pixel coordinates.

    Parameters
    ----------
    x, y : float
        Centre, px.
    radius : float
        Semi-major axis, px.
    ellip : float
        1 - b/a.
    theta : float
        Angle of the major axis, rad, counter-clockwise from +x, in [0, pi).
    """

    x: float
    y: float
    radius: float
    ellip: float
    theta: float

    @property
    def area(self) -> float:
        """Area, px."""
        return float(np.pi * self.radius**2 * (1.0 - self.ellip))

    def moved(self, dx: float, dy: float) -> "Ellipse":
        """Return the ellipse displaced by (dx, dy) px."""
        return replace(self, x=self.x + dx, y=self.y + dy)

    def scaled(self, factor: float) -> "Ellipse":
        """Return the ellipse with its axes multiplied by `factor`."""
        return replace(self, radius=self.radius * factor)

    def distance(self, shape: tuple[int, int]) -> Image:
        """Semi-major axis of the similar ellipse through each pixel, over this one's; < 1 inside."""
        y, x = np.ogrid[: shape[0], : shape[1]]
        dx, dy = x - self.x, y - self.y
        cos, sin = np.cos(self.theta), np.sin(self.theta)
        along, across = dx * cos + dy * sin, (dy * cos - dx * sin) / (1.0 - self.ellip)
        return np.asarray(np.hypot(along, across) / self.radius)

    def coverage(self, shape: tuple[int, int]) -> tuple[tuple[slice, slice], Image]:
        """Part of each pixel's area inside the ellipse, exactly.

        Parameters
        ----------
        shape : (int, int)
            (ny, nx) of the image.

        Returns
        -------
        window : (slice, slice)
            Rows and columns of the image that the ellipse may touch.
        part : (my, mx) float64 ndarray
            0 to 1, on the window.
        """
        low_x, low_y = (max(0, int(np.floor(c - self.radius - 0.5))) for c in (self.x, self.y))
        high_x, high_y = (
            min(side, int(np.ceil(c + self.radius + 0.5)) + 1) for c, side in ((self.x, shape[1]), (self.y, shape[0]))
        )
        if high_x <= low_x or high_y <= low_y:
            return (slice(0, 0), slice(0, 0)), np.zeros((0, 0))
        part = elliptical_overlap_grid(
            low_x - 0.5 - self.x, high_x - 0.5 - self.x, low_y - 0.5 - self.y, high_y - 0.5 - self.y,
            high_x - low_x, high_y - low_y, self.radius, self.radius * (1.0 - self.ellip), self.theta, 1, 1,
        )  # fmt: skip
        return (slice(low_y, high_y), slice(low_x, high_x)), np.asarray(part)

    def sum(self, image: Image) -> float:
        """Sum of an image's pixels, each by its part inside the ellipse."""
        window, part = self.coverage((image.shape[0], image.shape[1]))
        return float((image[window] * part).sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EllipseFamily:
    """Nested ellipses about one centre, of a shape that changes with their size.

    Parameters
    ----------
    x, y : float
        Common centre, px.
    log_radius : (k,) float64 ndarray
        Rising ln of semi-major axes (px) at which the shape is known.
    eta : (k, 2) float64 ndarray
        ``-ln(b/a) (cos 2 theta, sin 2 theta)`` there.
    """

    x: float
    y: float
    log_radius: Vector
    eta: Image

    def at(self, radius: float) -> Ellipse:
        """Return the ellipse of semi-major axis `radius`; beyond the known ones, with the shape of the nearest."""
        eta_1, eta_2 = (float(np.interp(np.log(radius), self.log_radius, column)) for column in self.eta.T)
        ratio = max(float(np.exp(-np.hypot(eta_1, eta_2))), SMALLEST_RATIO)
        theta = 0.5 * float(np.arctan2(eta_2, eta_1)) % np.pi
        return Ellipse(x=self.x, y=self.y, radius=radius, ellip=1.0 - ratio, theta=theta if theta < np.pi else 0.0)

    def moved(self, dx: float, dy: float) -> "EllipseFamily":
        """Return the family displaced by (dx, dy) px."""
        return replace(self, x=self.x + dx, y=self.y + dy)


def isophote_family(
    image: Image, centre: tuple[float, float], total: float, fractions: tuple[float, float], largest: float
) -> EllipseFamily | None:
    """Fit ellipses to the isophotes of an image.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Brightness that falls from the centre outwards, finite everywhere.
    centre : (float, float)
        (x, y) of the ellipses, px.
    total : float
        Light of which the fractions are parts.
    fractions : (float, float)
        Enclosed light of the innermost and the outermost isophote, 0 to 1.
    largest : float
        Isophotes with a larger semi-major axis, px, are left out.

    Returns
    -------
    EllipseFamily or None
        None where no isophote can be traced.
    """
    profiles, radii = _rays(image, centre, largest)
    levels = _levels(image, total, fractions)
    rows: list[tuple[float, float, float]] = []
    for level in levels:
        contour = _length_above(profiles - level, radii)
        if not (contour > 0.0).all() or contour.max() >= 0.999 * radii[-1]:
            continue
        fitted = _fit_ellipse(contour)
        if fitted is not None and (not rows or fitted[0] > rows[-1][0] + 1e-6):
            rows.append(fitted)
    if not rows:
        return None
    table = np.array(rows)
    return EllipseFamily(x=centre[0], y=centre[1], log_radius=table[:, 0], eta=table[:, 1:])


def _levels(image: Image, total: float, fractions: tuple[float, float]) -> Vector:
    """Brightness of isophotes between two fractions of enclosed light, evenly spaced in ln(area), bright ones first."""
    brightness = np.sort(image, axis=None)[::-1]
    enclosed = np.cumsum(brightness)
    first, last = (int(np.searchsorted(enclosed[: int(np.argmax(enclosed)) + 1], f * total)) for f in fractions)
    # within the brightest few pixels there is no contour
    first = min(max(first, 4), brightness.size - 1)
    last = min(max(last, first + 1), brightness.size - 1)
    index = np.unique(np.rint(np.geomspace(first, last, N_ISOPHOTES)).astype(np.int64))
    return np.asarray(brightness[index])


def _rays(image: Image, centre: tuple[float, float], largest: float) -> tuple[Image, Vector]:
    """Profiles along rays from the centre, (rays, steps), and the radii of the steps, px."""
    radii = np.arange(0.0, max(largest, 2.0) + RAY_STEP, RAY_STEP)
    angles = 2.0 * np.pi * np.arange(N_RAYS) / N_RAYS
    y = centre[1] + radii * np.sin(angles)[:, None]
    x = centre[0] + radii * np.cos(angles)[:, None]
    return ndimage.map_coordinates(image, [y, x], order=3, mode="nearest"), radii


def _length_above(height: Image, radii: Vector) -> Vector:
    """Length of each ray where `height` is positive; of a falling profile the contour's radius."""
    near, far = height[:, :-1], height[:, 1:]
    top, bottom = np.maximum(near, far), np.minimum(near, far)
    mixed = (top > 0.0) & (bottom < 0.0)
    part = np.where(bottom >= 0.0, 1.0, 0.0)
    part[mixed] = top[mixed] / (top[mixed] - bottom[mixed])
    return np.asarray(part.sum(axis=1) * (radii[1] - radii[0]))


def _fit_ellipse(contour: Vector) -> tuple[float, float, float] | None:
    """Return (ln a, eta_1, eta_2) of the centred ellipse nearest to a contour given ray by ray; None: there is none.

    On an ellipse ``1/r^2`` is a constant plus a sine of twice the angle, so that the fit is linear.
    """
    angles = 2.0 * np.pi * np.arange(contour.size) / contour.size
    inverse = 1.0 / contour**2
    design = np.column_stack([np.ones(contour.size), np.cos(2.0 * angles), np.sin(2.0 * angles)])
    # relative errors of the radii alike
    mean, cosine, sine = np.linalg.lstsq(design / inverse[:, None], np.ones(contour.size), rcond=None)[0]
    swing = float(np.hypot(cosine, sine))
    if not mean > swing:
        return None
    # along the major axis 1/r^2 is smallest
    ratio = np.sqrt((mean - swing) / (mean + swing))
    scale = -np.log(ratio) / swing if swing > 0.0 else 0.0
    return float(-0.5 * np.log(mean - swing)), float(-cosine * scale), float(-sine * scale)
