"""Cropping a galaxy's images: one window, found on the base filter, for all filters."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, spatial

from sphot_mpi.config import Config
from sphot_mpi.errors import DegenerateCutoutError, InputError
from sphot_mpi.records import Cutout, Image
from sphot_mpi.robust import robust_sigma

#: Least distance, px, from the fitted centre to the crop's edge: room for a sky and for the PSF's wings.
SMALLEST_HALF = 30.0
#: Height over the blocks' scatter times sigma over the block's side: above it a Gaussian is the galaxy.
CLEAR_GALAXY = 3.0
#: Least number of block medians that carry the five parameters of a Gaussian.
FEWEST_BLOCKS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A window in the frame of the image that it was found on.

    Parameters
    ----------
    x0, y0 : int
        Its first column and row.
    nx, ny : int
        Its size.
    shape : (int, int)
        (ny, nx) of the image it belongs to.
    """

    x0: int
    y0: int
    nx: int
    ny: int
    shape: tuple[int, int]


def apply_crop(cutout: Cutout, crop: Crop) -> Cutout:
    """Cut the window out of one filter's image.

    Parameters
    ----------
    cutout : Cutout
        Full image.
    crop : Crop
        Window, of `find_crop` on the base filter.

    Returns
    -------
    Cutout
        With its own copies of the arrays; data are NaN where they were 0 or not finite, `mask` is set there and where
        an error is not positive; `origin` has moved along, `full_shape` is kept.

    Raises
    ------
    InputError
        If the image's shape is not that of the crop's image.
    """
    if cutout.shape != crop.shape:
        msg = (
            f"filter {cutout.filter} is {cutout.shape[1]} x {cutout.shape[0]} px, but the base filter is "
            f"{crop.shape[1]} x {crop.shape[0]} px; all filters must be on one pixel grid"
        )
        raise InputError(msg)
    window = slice(crop.y0, crop.y0 + crop.ny), slice(crop.x0, crop.x0 + crop.nx)
    data = np.array(cutout.data[window], dtype=np.float64)
    data[~np.isfinite(data) | (data == 0.0)] = np.nan
    mask = cutout.mask[window] | np.isnan(data)
    error = None
    if cutout.error is not None:
        error = np.array(cutout.error[window], dtype=np.float64)
        mask |= ~(np.isfinite(error) & (error > 0.0))
    full_shape = cutout.full_shape if cutout.full_shape != (0, 0) else cutout.shape
    origin = (cutout.origin[0] + crop.x0, cutout.origin[1] + crop.y0)
    return replace(cutout, data=data, error=error, mask=mask, origin=origin, full_shape=full_shape)


def find_crop(base: Cutout, config: Config) -> Crop:
    """Find the window about the galaxy on the base filter.

    Parameters
    ----------
    base : Cutout
        Full image of the base filter.
    config : Config
        Section ``prep`` is used.

    Returns
    -------
    Crop
        The central fraction `custom_initial_crop`; within it, if `auto_crop`, `auto_crop_factor` times the sigma of a
        Gaussian fitted to the galaxy, to each side of its centre.

    Raises
    ------
    DegenerateCutoutError
        If nearly nothing in the window is usable.
    """
    prep = config.prep
    ny, nx = base.shape
    x0, width = _central(nx, prep.custom_initial_crop)
    y0, height = _central(ny, prep.custom_initial_crop)
    inner = base.data[y0 : y0 + height, x0 : x0 + width]
    bad = base.mask[y0 : y0 + height, x0 : x0 + width] | ~np.isfinite(inner) | (inner == 0.0)
    if bad.all():
        msg = (
            f"filter {base.filter} has no usable pixel: each is 0, NaN, masked or without a positive error; "
            "choose another base filter, or leave the galaxy out"
        )
        raise DegenerateCutoutError(msg)
    if not prep.auto_crop:
        return Crop(x0=x0, y0=y0, nx=width, ny=height, shape=base.shape)
    x, y, sigma = fit_gaussian_size(np.where(bad, np.nan, inner), prep.sigma_guess)
    half = max(prep.auto_crop_factor * sigma, SMALLEST_HALF)
    left, right = _interval(x, half, width)
    low, high = _interval(y, half, height)
    if bad[low:high, left:right].all():
        msg = f"filter {base.filter} has no usable pixel around the galaxy; mask less, or choose another base filter"
        raise DegenerateCutoutError(msg)
    return Crop(x0=x0 + left, y0=y0 + low, nx=right - left, ny=high - low, shape=base.shape)


def _central(side: int, fraction: float) -> tuple[int, int]:
    """First pixel and number of the central fraction of a side."""
    kept = min(side, max(1, round(side * fraction)))
    return (side - kept) // 2, kept


def _interval(centre: float, half: float, side: int) -> tuple[int, int]:
    """Pixels within `half` of `centre`, clipped to the image."""
    return max(0, int(np.floor(centre - half + 0.5))), min(side, int(np.floor(centre + half + 0.5)) + 1)


def fit_gaussian_size(data: Image, sigma_guess: float) -> tuple[float, float, float]:
    """Fit a round Gaussian on a sky plane to the galaxy, coarsely.

    Stars are removed by taking medians in blocks of half the guessed sigma, and what is left of them by a robust loss.
    The fit starts at the image's centre, narrow and wide, and at the brightest of the smoothed blocks.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image; NaN = do not use.
    sigma_guess : float
        Start of the Gaussian's standard deviation, px.

    Returns
    -------
    (float, float, float)
        x, y and sigma, px. Where too few blocks hold data, the image's centre and the guess.
    """
    ny, nx = data.shape
    middle = ((nx - 1) / 2, (ny - 1) / 2)
    block = max(2, round(sigma_guess / 2))
    x, y, value = block_medians(data, block)
    if value.size < FEWEST_BLOCKS:
        return *middle, sigma_guess
    sky = float(np.percentile(value, 30.0))
    spread = robust_sigma(value)
    # in units of the spread, so that the loss treats only true outliers as such
    scaled = (value - sky) / max(spread, 1e-6 * abs(sky), 1e-300)
    # a galaxy wider than this fills the image, and its crop is the image
    largest = max(min(ny, nx) / 6, 1.5 * block)
    low = np.array([0.0, 0.0, 0.0, block / 2, -np.inf, -np.inf, -np.inf])
    high = np.array([np.inf, nx - 1.0, ny - 1.0, largest, np.inf, np.inf, np.inf])
    u, v = (x - middle[0]) / nx, (y - middle[1]) / ny

    def profile(p: Image) -> Image:
        return np.asarray(np.exp(-0.5 * ((x - p[1]) ** 2 + (y - p[2]) ** 2) / p[3] ** 2))

    def residual(p: Image) -> Image:
        return np.asarray(p[0] * profile(p) + p[4] + p[5] * u + p[6] * v - scaled)

    def slopes(p: Image) -> Image:
        dx, dy, bell = x - p[1], y - p[2], profile(p)
        tilt = p[0] * bell / p[3] ** 2
        return np.column_stack((bell, tilt * dx, tilt * dy, tilt * (dx**2 + dy**2) / p[3], np.ones_like(u), u, v))

    best, lowest = np.array([0.0, *middle, sigma_guess]), np.inf
    # the galaxy is expected in the middle; a brighter clump elsewhere counts only if nothing is there
    for place, sigma in ((middle, sigma_guess), (middle, 3.0 * sigma_guess), (None, sigma_guess)):
        cx, cy = _brightest(x, y, scaled, sigma_guess) if place is None else place
        near = np.hypot(x - cx, y - cy) < 1.5 * sigma
        height = max(float(np.median(scaled[near])), 1.0) if near.any() else 1.0
        first = np.clip([height, cx, cy, sigma, 0.0, 0.0, 0.0], low + 1e-9, high - 1e-9)
        fit = optimize.least_squares(
            residual,
            first,
            slopes,
            bounds=(low, high),
            loss="soft_l1",
            max_nfev=60,
            x_scale=[height, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        )
        if fit.cost < lowest:
            best, lowest = fit.x, fit.cost
        significance = fit.x[0] * fit.x[3] / block
        # a size at its bound is a star, or the slope of the sky
        if significance > CLEAR_GALAXY and fit.x[0] > 1.0 and 0.6 * block < fit.x[3] < 0.99 * largest:
            best = fit.x
            break
    return float(best[1]), float(best[2]), float(best[3])


def _brightest(x: Image, y: Image, value: Image, radius: float) -> tuple[float, float]:
    """Where the median over the blocks within `radius` px is highest."""
    tree = spatial.cKDTree(np.column_stack([x, y]))
    around = [float(np.median(value[near])) for near in tree.query_ball_point(tree.data, radius)]
    top = int(np.argmax(around))
    return float(x[top]), float(y[top])


def block_medians(data: Image, block: int) -> tuple[Image, Image, Image]:
    """Medians of square blocks with at least half of their pixels finite.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image; NaN = do not use.
    block : int
        Side of a block, px; an incomplete block at the upper ends is left out.

    Returns
    -------
    x, y, value : (n,) float64 ndarray
        Centres of the blocks, px, and their medians.
    """
    rows, columns = data.shape[0] // block, data.shape[1] // block
    split = data[: rows * block, : columns * block].reshape(rows, block, columns, block)
    blocks = split.transpose(0, 2, 1, 3).reshape(rows, columns, block * block)
    row, column = np.nonzero(2 * np.isfinite(blocks).sum(axis=2) >= block * block)
    if row.size == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    x, y = (np.asarray(index * block + (block - 1) / 2, dtype=np.float64) for index in (column, row))
    return x, y, np.asarray(np.nanmedian(blocks[row, column], axis=1))
