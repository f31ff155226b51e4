"""Cropping a galaxy's images: one window, found on the base filter, for all filters."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from sphot_mpi.config import Config
from sphot_mpi.errors import DegenerateCutoutError, InputError
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Cutout

Image = NDArray[np.float64]

SMALLEST_HALF = 30.0
"""Least distance, px, from the fitted centre to the crop's edge: room for a sky and for the PSF's wings."""

FEWEST_BLOCKS = 12
"""Least number of block medians that carry the five parameters of a Gaussian."""


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
    centre : (float, float)
        (x, y) of the coarse Gaussian, px, in the image's frame.
    sigma : float
        Standard deviation of the coarse Gaussian, px; NaN: none was fitted.
    """

    x0: int
    y0: int
    nx: int
    ny: int
    shape: tuple[int, int]
    centre: tuple[float, float]
    sigma: float = float("nan")


def prepare_galaxy(
    cutouts: Mapping[str, Cutout], libraries: Mapping[str, LibraryPSF], config: Config
) -> dict[str, Cutout]:
    """Crop all filters of a galaxy alike.

    Parameters
    ----------
    cutouts : mapping of str to Cutout
        The filters' full images; must hold the base filter.
    libraries : mapping of str to LibraryPSF
        A library PSF for each of the filters.
    config : Config
        The configuration.

    Returns
    -------
    dict of str to Cutout
        The same filters, cropped; zeros are NaN, and every NaN is masked.

    Raises
    ------
    InputError
        If the base filter or a PSF is missing, or a filter's shape differs from the base filter's.
    DegenerateCutoutError
        If the base filter has no data.
    """
    base = config.core.base_filter
    if base not in cutouts:
        msg = f"the base filter {base} is missing; the file has {', '.join(sorted(cutouts)) or 'no filter'}"
        raise InputError(msg)
    missing = sorted(set(cutouts) - set(libraries))
    if missing:
        msg = f"there is no library PSF for {', '.join(missing)}; add it to {config.prep.PSF_file}"
        raise InputError(msg)
    crop = find_crop(cutouts[base], config)
    return {name: apply_crop(cutout, crop) for name, cutout in cutouts.items()}


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
        msg = f"filter {base.filter} has no usable pixel"
        raise DegenerateCutoutError(msg)
    if not prep.auto_crop:
        centre = (x0 + (width - 1) / 2, y0 + (height - 1) / 2)
        return Crop(x0=x0, y0=y0, nx=width, ny=height, shape=base.shape, centre=centre)
    x, y, sigma = fit_gaussian_size(np.where(bad, np.nan, inner), prep.sigma_guess)
    half = max(prep.auto_crop_factor * sigma, SMALLEST_HALF)
    left, right = _interval(x, half, width)
    low, high = _interval(y, half, height)
    if bad[low:high, left:right].all():
        msg = f"filter {base.filter} has no usable pixel around the galaxy"
        raise DegenerateCutoutError(msg)
    return Crop(
        x0=x0 + left, y0=y0 + low, nx=right - left, ny=high - low,
        shape=base.shape, centre=(x0 + x, y0 + y), sigma=sigma,
    )  # fmt: skip


def _central(side: int, fraction: float) -> tuple[int, int]:
    """First pixel and number of the central fraction of a side."""
    kept = min(side, max(1, round(side * fraction)))
    return (side - kept) // 2, kept


def _interval(centre: float, half: float, side: int) -> tuple[int, int]:
    """Pixels within `half` of `centre`, clipped to the image."""
    return max(0, int(np.floor(centre - half + 0.5))), min(side, int(np.floor(centre + half + 0.5)) + 1)


def fit_gaussian_size(data: Image, sigma_guess: float) -> tuple[float, float, float]:
    """Fit a round Gaussian on a flat sky to the galaxy, coarsely.

    Stars are removed by taking medians in blocks of half the guessed sigma, and what is left of them by a robust loss.

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
    start = np.array([(nx - 1) / 2, (ny - 1) / 2, sigma_guess])
    block = max(2, round(sigma_guess / 2))
    x, y, value = block_medians(data, block)
    if value.size < FEWEST_BLOCKS:
        return float(start[0]), float(start[1]), sigma_guess
    sky = float(np.percentile(value, 30.0))
    spread = max(1.4826 * float(np.median(np.abs(value - np.median(value)))), 1e-6 * abs(sky), 1e-300)
    near = np.hypot(x - start[0], y - start[1]) < 1.5 * sigma_guess
    height = max(float(np.median(value[near])) - sky, spread) if near.any() else spread
    largest = max(ny, nx) / 4
    # in units of the spread, so that the loss treats only true outliers as such
    low = np.array([0.0, 0.0, 0.0, block / 2, -np.inf])
    high = np.array([np.inf, nx - 1.0, ny - 1.0, max(largest, block), np.inf])
    first = np.clip(np.array([height / spread, *start[:2], sigma_guess, 0.0]), low + 1e-9, high - 1e-9)

    def residual(p: Image) -> Image:
        model = p[0] * np.exp(-0.5 * ((x - p[1]) ** 2 + (y - p[2]) ** 2) / p[3] ** 2) + p[4]
        return np.asarray(model - (value - sky) / spread)

    fit = optimize.least_squares(
        residual, first, bounds=(low, high), loss="soft_l1", x_scale=np.array([height / spread, 1.0, 1.0, 1.0, 1.0])
    )
    return float(fit.x[1]), float(fit.x[2]), float(fit.x[3])


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
    blocks = data[: rows * block, : columns * block].reshape(rows, block, columns, block)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(rows, columns, block * block)
    row, column = np.nonzero(2 * np.isfinite(blocks).sum(axis=2) >= block * block)
    if row.size == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    centre = (block - 1) / 2
    return column * block + centre, row * block + centre, np.nanmedian(blocks[row, column], axis=1)
