"""Robust statistics of samples that may hold NaN."""

import numpy as np

from sphot_mpi.kernels._jit import jit

#: Standard deviation of a Gaussian over its median absolute deviation, 1 / Phi^-1(3/4).
MAD_TO_SIGMA = 1.482602218505602


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
    return median, MAD_TO_SIGMA * np.median(np.abs(finite - median))


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
