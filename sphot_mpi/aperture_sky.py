"""The sky about a galaxy from empty apertures: its level, and how sums over an area scatter.

A crowded field has no empty part, and the noise of its pixels says little about a sum over many of them: noise is
correlated, and stars below detection, star models that do not fit and an uneven sky scatter more than noise does.
All of that is in the scatter of sums over apertures laid on the residual beside the galaxy. The apertures are boxes,
because boxes tile the little sky that a cutout has. Where too few boxes of the science aperture's area fit, smaller
ones of several sizes tell how the scatter grows with area, ``sigma = s A^b`` with b between 1/2 (white noise) and 1
(one common error); see Labbe et al. 2003, AJ 125, 1107.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.ellipses import Ellipse
from sphot_mpi.flags import ApertureFlag
from sphot_mpi.records import Image

#: Sides of the boxes, px, before those near the science aperture's.
SMALLEST_SIDE, SIDE_RATIO = 4, 1.3
#: Fewest boxes whose scatter counts, and least part of a box with data.
FEWEST_BOXES, LEAST_COVER = 12, 0.6
#: Values further out than this many standard deviations are left out.
CLIP = 4.0
#: Range of the exponent b.
EXPONENT = (0.5, 1.0)
#: Sizes that carry an extrapolation.
LAST_SIZES = 4
#: Where too little sky lies outside the mask, it shrinks by these factors; never below this many apertures.
SHRINK, NEAREST = (1.0, 0.8, 0.64, 0.5, 0.4), 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ApertureSky:
    """Sky about a galaxy.

    Parameters
    ----------
    level, level_err : float
        Mean brightness and its error, data unit.
    scatter : float
        Standard deviation of the sum over an empty aperture of the science aperture's area, data unit * px.
    n_apertures : int
        Empty apertures that told it.
    flags : ApertureFlag
        SKY_EXTRAPOLATED, SKY_NEAR or NO_SKY.
    """

    level: float
    level_err: float
    scatter: float
    n_apertures: int
    flags: ApertureFlag


def measure_sky(residual: Image, aperture: Ellipse, center_mask: float) -> ApertureSky:
    """Measure the sky outside a galaxy.

    Parameters
    ----------
    residual : (ny, nx) float64 ndarray
        What is left of the image; NaN where masked.
    aperture : Ellipse
        The science aperture.
    center_mask : float
        The sky begins at this many times the aperture.

    Returns
    -------
    ApertureSky
        With NaN numbers and flag NO_SKY where not even small boxes fit.
    """
    distance = aperture.distance((residual.shape[0], residual.shape[1]))
    for shrink in SHRINK:
        factor = max(shrink * center_mask, min(NEAREST, center_mask))
        outside = np.where(distance > factor, residual, np.nan)
        boxes = _boxes(outside, aperture.area)
        flags = ApertureFlag(0) if shrink == 1.0 else ApertureFlag.SKY_NEAR
        if len(boxes) >= LAST_SIZES or (boxes and boxes[-1][0] ** 2 >= aperture.area):
            return _summary(boxes, aperture.area, flags)
    if boxes:
        return _summary(boxes, aperture.area, flags)
    nan = float("nan")
    return ApertureSky(level=nan, level_err=nan, scatter=nan, n_apertures=0, flags=ApertureFlag.NO_SKY)


def _boxes(residual: Image, area: float) -> list[tuple[int, NDArray[np.float64]]]:
    """Sides of boxes up to the area, each with the means of its boxes, as long as there are enough of them."""
    largest = max(np.sqrt(area), SMALLEST_SIDE)
    count = int(np.ceil(np.log(largest / SMALLEST_SIDE) / np.log(SIDE_RATIO))) + 1
    sides = (
        np.unique(np.rint(np.geomspace(SMALLEST_SIDE, largest, count)).astype(int)) if count > 1 else [SMALLEST_SIDE]
    )
    found = []
    for side in sides:
        means = _box_means(residual, int(side))
        if means.size < FEWEST_BOXES:
            break
        found.append((int(side), means))
    return found


def _box_means(residual: Image, side: int) -> NDArray[np.float64]:
    """Means of the boxes of a tiling that are covered well enough, outliers left out."""
    ny, nx = residual.shape
    rows, columns = ny // side, nx // side
    if rows == 0 or columns == 0:
        return np.empty(0)
    # the tiling stands in the middle of what does not divide
    y0, x0 = (ny - rows * side) // 2, (nx - columns * side) // 2
    whole = residual[y0 : y0 + rows * side, x0 : x0 + columns * side].reshape(rows, side, columns, side)
    tiles = whole.transpose(0, 2, 1, 3).reshape(rows * columns, side * side)
    good = np.isfinite(tiles)
    covered = good.mean(axis=1) >= LEAST_COVER
    tiles, good = tiles[covered], good[covered]
    means = np.where(good, tiles, 0.0).sum(axis=1) / np.maximum(good.sum(axis=1), 1)
    for _ in range(3):
        if means.size < FEWEST_BOXES:
            break
        means = means[np.abs(means - np.median(means)) <= CLIP * max(float(np.std(means)), 1e-300)]
    return np.asarray(means)


def _summary(boxes: list[tuple[int, NDArray[np.float64]]], area: float, flags: ApertureFlag) -> ApertureSky:
    """Level from the largest boxes, scatter from the law through all of them."""
    log_area = 2.0 * np.log([side for side, _ in boxes])
    scatter = np.array([side**2 * np.std(means, ddof=1) for side, means in boxes])
    side, means = boxes[-1]
    if scatter[-1] <= 0.0:
        at_area = 0.0
    elif len(boxes) == 1:
        at_area = float(scatter[-1] * (area / side**2) ** EXPONENT[0])
    else:
        used = slice(-LAST_SIZES, None)
        with np.errstate(divide="ignore"):
            slope = np.polyfit(log_area[used], np.log(np.maximum(scatter[used], 1e-300)), 1)[0]
        at_area = float(scatter[-1] * (area / side**2) ** np.clip(slope, *EXPONENT))
    if side**2 < 0.8 * area:
        flags |= ApertureFlag.SKY_EXTRAPOLATED
    return ApertureSky(
        level=float(means.mean()),
        level_err=float(np.std(means, ddof=1) / np.sqrt(means.size)),
        scatter=at_area,
        n_apertures=int(means.size),
        flags=flags,
    )
