"""Robust statistics of samples that may hold NaN."""

import numpy as np

from sphot_mpi.kernels._jit import jit
from sphot_mpi.robust import SIGMA_PER_MAD


@jit
def finite_values(values):
    """Return the finite elements of an array of any shape as a (n,) array."""
    flat = values.ravel()
    out = np.empty(flat.size)
    n = 0
    for v in flat:
        if np.isfinite(v):
            out[n] = v
            n += 1
    return out[:n]


@jit
def median_mad(values):
    """Median and Gaussian-equivalent sigma from the median absolute deviation.

    Parameters
    ----------
    values : float64 ndarray
        Any shape; elements that are not finite are left out.

    Returns
    -------
    median, sigma : float
        NaN where nothing is finite. ``sigma = 1.4826 median(|v - median|)``.
    """
    finite = finite_values(values)
    if finite.size == 0:
        return np.nan, np.nan
    median = np.median(finite)
    return median, SIGMA_PER_MAD * np.median(np.abs(finite - median))


@jit
def sigma_clip(values, sigma, maxiters):
    """Clip iteratively about the median, as `astropy.stats.sigma_clip` does.

    Parameters
    ----------
    values : float64 ndarray
        Any shape; elements that are not finite are left out.
    sigma : float
        Values further than this many standard deviations from the median go.
    maxiters : int
        Most rounds.

    Returns
    -------
    (n,) float64 ndarray
        The values that stay, ascending.
    """
    kept = np.sort(finite_values(values))
    for _ in range(maxiters):
        if kept.size == 0:
            break
        half = kept.size // 2
        median = kept[half] if kept.size % 2 else 0.5 * (kept[half - 1] + kept[half])
        deviation = sigma * np.std(kept)
        lower = np.searchsorted(kept, median - deviation)
        upper = np.searchsorted(kept, median + deviation, "right")
        if upper - lower == kept.size:
            break
        kept = kept[lower:upper]
    return kept


@jit
def sigma_clipped_stats(values, sigma, maxiters):
    """Mean, median and standard deviation after `sigma_clip`.

    Parameters
    ----------
    values, sigma, maxiters
        As in `sigma_clip`.

    Returns
    -------
    mean, median, std : float
        NaN where nothing is finite.
    """
    kept = sigma_clip(values, sigma, maxiters)
    if kept.size == 0:
        return np.nan, np.nan, np.nan
    return np.mean(kept), np.median(kept), np.std(kept)


@jit
def box_stats(image, weight, box_y, box_x, clip, maxiters, least):
    """Sigma-clipped median and standard deviation in boxes that tile an image.

    Parameters
    ----------
    image, weight : (ny, nx) float64 ndarray
        Data, and weights of which 0 means "do not use".
    box_y, box_x : int
        Sides of a box, px; those at the upper edges may be cut.
    clip : float
        In standard deviations about the median.
    maxiters : int
        Most rounds of clipping.
    least : float
        Least fraction of a full box's pixels that must be usable.

    Returns
    -------
    median, rms : (ceil(ny / box_y), ceil(nx / box_x)) float64 ndarray
        NaN where too few pixels are usable.
    """
    ny, nx = image.shape
    rows, columns = -(-ny // box_y), -(-nx // box_x)
    median, rms = np.full((rows, columns), np.nan), np.full((rows, columns), np.nan)
    values = np.empty(box_y * box_x)
    for r in range(rows):
        for c in range(columns):
            n = 0
            for j in range(r * box_y, min(ny, (r + 1) * box_y)):
                for i in range(c * box_x, min(nx, (c + 1) * box_x)):
                    if weight[j, i] > 0.0:
                        values[n] = image[j, i]
                        n += 1
            if n > 0 and n >= least * box_y * box_x:
                _, median[r, c], rms[r, c] = sigma_clipped_stats(values[:n], clip, maxiters)
    return median, rms


@jit
def median_filter(grid, size_y, size_x):
    """Median of the finite values in a window about each element; the window is cut at the edges.

    Parameters
    ----------
    grid : (ny, nx) float64 ndarray
        May hold NaN.
    size_y, size_x : int
        Window, odd.

    Returns
    -------
    (ny, nx) float64 ndarray
        NaN where a window holds nothing finite.
    """
    ny, nx = grid.shape
    half_y, half_x = size_y // 2, size_x // 2
    out = np.full((ny, nx), np.nan)
    for j in range(ny):
        for i in range(nx):
            window = finite_values(
                grid[max(0, j - half_y) : min(ny, j + half_y + 1), max(0, i - half_x) : min(nx, i + half_x + 1)].copy()
            )
            if window.size:
                out[j, i] = np.median(window)
    return out
