"""What is measured on windows, apertures and annuli about point sources.

Windows and quality numbers follow photutils.psf.PSFPhotometry 3.0.
"""

import numpy as np

from sphot_mpi.kernels._jit import jit
from sphot_mpi.kernels.stats import sigma_clip


@jit
def window_start(position, size):
    """First pixel of a window of `size` px about `position` (astropy's overlap_slices)."""
    return int(np.ceil(position - 0.5 * size))


@jit
def local_backgrounds(image, weight, x, y, r_in, r_out, clip, maxiters):
    """Sigma-clipped median in a circular annulus about each position.

    Parameters
    ----------
    image, weight : (ny, nx) float64 ndarray
        Data, and weights of which 0 means "do not use".
    x, y : (n,) float64 ndarray
        Positions, px.
    r_in, r_out : float
        Radii, px; a pixel belongs to the annulus when its centre does.
    clip : float
        Clip at this many standard deviations about the median.
    maxiters : int
        Most rounds of clipping.

    Returns
    -------
    (n,) float64 ndarray
        NaN where the annulus holds no usable pixel.
    """
    ny, nx = image.shape
    out = np.full(x.size, np.nan)
    reach = int(np.ceil(r_out)) + 1
    values = np.empty((2 * reach + 1) ** 2)
    for s in range(x.size):
        if not (np.isfinite(x[s]) and np.isfinite(y[s])):
            continue
        cy, cx = int(np.rint(y[s])), int(np.rint(x[s]))
        count = 0
        for j in range(max(0, cy - reach), min(ny, cy + reach + 1)):
            for i in range(max(0, cx - reach), min(nx, cx + reach + 1)):
                r2 = (j - y[s]) ** 2 + (i - x[s]) ** 2
                if r_in * r_in <= r2 < r_out * r_out and weight[j, i] > 0.0:
                    values[count] = image[j, i]
                    count += 1
        if count:
            out[s] = np.median(sigma_clip(values[:count], clip, maxiters))
    return out


@jit
def aperture_fluxes(image, weight, background, x, y, radius):
    """Sum of image minus background over the usable pixels whose centre is within `radius`.

    Parameters
    ----------
    image, weight : (ny, nx) float64 ndarray
        As in `local_backgrounds`.
    background : (n,) float64 ndarray
        Level to subtract at each position; finite.
    x, y : (n,) float64 ndarray
        Positions, px.
    radius : float
        Aperture radius, px.

    Returns
    -------
    (n,) float64 ndarray
        Sums, data unit * px.
    """
    ny, nx = image.shape
    out = np.zeros(x.size)
    reach = int(np.ceil(radius)) + 1
    for s in range(x.size):
        if not (np.isfinite(x[s]) and np.isfinite(y[s])):
            continue
        cy, cx = int(np.rint(y[s])), int(np.rint(x[s]))
        for j in range(max(0, cy - reach), min(ny, cy + reach + 1)):
            for i in range(max(0, cx - reach), min(nx, cx + reach + 1)):
                if (j - y[s]) ** 2 + (i - x[s]) ** 2 <= radius * radius and weight[j, i] > 0.0:
                    out[s] += image[j, i] - background[s]
    return out


@jit
def window_pixels(weight, x, y, height, width):
    """Usable pixels in the fit window of each position, -1 where it misses the image.

    Parameters
    ----------
    weight : (ny, nx) float64 ndarray
        0 = do not use.
    x, y : (n,) float64 ndarray
        Positions, px; finite.
    height, width : int
        Window, px.

    Returns
    -------
    (n,) int64 ndarray
        Counts.
    """
    ny, nx = weight.shape
    out = np.zeros(x.size, np.int64)
    for s in range(x.size):
        y0, x0 = window_start(y[s], height), window_start(x[s], width)
        if y0 >= ny or x0 >= nx or y0 + height <= 0 or x0 + width <= 0:
            out[s] = -1
            continue
        for j in range(max(0, y0), min(ny, y0 + height)):
            for i in range(max(0, x0), min(nx, x0 + width)):
                out[s] += weight[j, i] > 0.0
    return out


@jit
def window_metrics(residual, weight, x, y, height, width):
    """Sum of |residual|, residual at the centre and chi2 in the window of each source.

    Parameters
    ----------
    residual, weight : (ny, nx) float64 ndarray
        Data minus model, and 1 / variance.
    x, y : (n,) float64 ndarray
        Positions that place the windows and their central pixels, px; finite.
    height, width : int
        Window, px.

    Returns
    -------
    (n, 3) float64 ndarray
        The three sums; the central residual is NaN where its pixel is not usable.
    """
    ny, nx = weight.shape
    out = np.zeros((x.size, 3))
    for s in range(x.size):
        y0, x0 = window_start(y[s], height), window_start(x[s], width)
        out[s, 1] = np.nan
        jc, ic = window_start(y[s], 1), window_start(x[s], 1)
        if 0 <= jc < ny and 0 <= ic < nx and weight[jc, ic] > 0.0:
            out[s, 1] = residual[jc, ic]
        for j in range(max(0, y0), min(ny, y0 + height)):
            for i in range(max(0, x0), min(nx, x0 + width)):
                if weight[j, i] > 0.0:
                    value = residual[j, i]
                    out[s, 0] += abs(value)
                    out[s, 2] += weight[j, i] * value * value
    return out
