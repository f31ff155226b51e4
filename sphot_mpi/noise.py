"""The noise of an image, measured on the image itself.

A crowded field has no empty part, so nothing here takes the scatter of the
data for their noise. Differences of neighbouring pixels remove whatever is
smooth, medians remove what is rare, and the emptiest patches carry the level.
Measure it once, on the data: a residual after a deep fit shows less noise than
there is, because the faint sources have eaten it.
"""

import numpy as np

from sphot_mpi.records import Image, Mask
from sphot_mpi.robust import SIGMA_PER_MAD, robust_sigma

#: Side of the patches, px: many noise pixels, but small between the stars.
PATCH = 12
#: A low percentile of noisy patch estimates lies this factor below the truth in a field of pure noise.
PERCENTILE, PERCENTILE_FACTOR = 5.0, 1.15
#: Smoothing of the noise, px, that drizzling explains. Where the sky is full of faint stars, their confusion looks
#: like noise smoothed by the PSF, and nothing in one image tells the two apart.
LARGEST_SMOOTHING = 0.5
#: Steps (dy, dx) of the neighbours whose mean is subtracted: one pixel, diagonal, two pixels.
NEAR, DIAGONAL, FAR = ((0, 1), (1, 0)), ((1, 1), (1, -1)), ((0, 2), (2, 0))


def pixel_differences(data: Image, mask: Mask, steps: tuple[tuple[int, int], ...] = NEAR) -> Image:
    """Pixel minus the mean of four neighbours, scaled to keep the variance of white noise.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image.
    mask : (ny, nx) bool ndarray
        True = do not use.
    steps : two pairs of int
        (dy, dx) of two neighbours; the opposite two are added.

    Returns
    -------
    (ny, nx) float64 ndarray
        Differences / sqrt(1 + 1/4); NaN where one of the five pixels is masked, off the image or not finite.
    """
    reach = max(max(abs(dy), abs(dx)) for dy, dx in steps)
    padded = np.pad(np.where(mask, np.nan, data), reach, constant_values=np.nan)
    ny, nx = data.shape

    def shifted(dy: int, dx: int) -> Image:
        return padded[reach + dy : reach + dy + ny, reach + dx : reach + dx + nx]

    neighbours = sum(shifted(dy, dx) + shifted(-dy, -dx) for dy, dx in steps)
    return np.asarray((shifted(0, 0) - neighbours / 4.0) / np.sqrt(1.25))


def estimate_noise(data: Image, mask: Mask) -> float:
    """Robust standard deviation of white pixel noise from pixel differences.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image, any smooth light on it.
    mask : (ny, nx) bool ndarray
        True = do not use.

    Returns
    -------
    float
        Sigma in the data's unit, from the median absolute deviation; NaN where no pixel has four good neighbours.
    """
    differences = pixel_differences(data, mask)
    good = differences[np.isfinite(differences)]
    if good.size == 0:
        return float("nan")
    return robust_sigma(good)


def patch_sigmas(differences: Image, patch: int = PATCH) -> Image:
    """Robust sigma of the differences in square patches.

    Parameters
    ----------
    differences : (ny, nx) float64 ndarray
        As of `pixel_differences`; NaN = no value.
    patch : int
        Side of a patch, px. Patches at the upper ends may be smaller.

    Returns
    -------
    (ceil(ny / patch), ceil(nx / patch)) float64 ndarray
        1.4826 times the median absolute difference; NaN where less than half a patch has values.
    """
    ny, nx = (-(-side // patch) for side in differences.shape)
    padded = np.full((ny * patch, nx * patch), np.nan)
    padded[: differences.shape[0], : differences.shape[1]] = np.abs(differences)
    blocks = padded.reshape(ny, patch, nx, patch).transpose(0, 2, 1, 3).reshape(ny, nx, patch * patch)
    enough = np.isfinite(blocks).sum(axis=2) * 2 >= patch * patch
    sigmas = np.full((ny, nx), np.nan)
    # nan comes last
    ordered = np.sort(blocks[enough], axis=1)
    count = np.isfinite(ordered).sum(axis=1)
    patches = np.arange(count.size)
    sigmas[enough] = SIGMA_PER_MAD * 0.5 * (ordered[patches, (count - 1) // 2] + ordered[patches, count // 2])
    return sigmas


def patch_noise(data: Image, mask: Mask) -> float:
    """White pixel noise in the emptiest part of an image.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image; stars and galaxy need not be subtracted.
    mask : (ny, nx) bool ndarray
        True = do not use.

    Returns
    -------
    float
        1.15 times the 5th percentile of the patches' sigmas; `estimate_noise` of the whole image where it has fewer
        than 10 patches; NaN where nothing can be measured.
    """
    sigmas = patch_sigmas(pixel_differences(data, mask))
    good = sigmas[np.isfinite(sigmas)]
    if good.size < 10:
        return estimate_noise(data, mask)
    return float(PERCENTILE_FACTOR * np.percentile(good, PERCENTILE))


def fit_variance(
    values: Image, light: Image, mask: Mask, floor: float, *, n_bins: int = 12, per_bin: int = 200
) -> tuple[float, float]:
    """Fit ``variance = a + b light`` to the robust scatter of `values` in bins of light.

    Parameters
    ----------
    values : (ny, nx) float64 ndarray
        Pixel differences, or a residual; NaN is ignored.
    light : (ny, nx) float64 ndarray
        Light above the sky, as modelled.
    mask : (ny, nx) bool ndarray
        True = do not use.
    floor : float
        White noise measured on the data; `a` is at least its square.
    n_bins, per_bin : int
        Most bins, and fewest pixels in a bin.

    Returns
    -------
    (float, float)
        a (unit^2) and b >= 0 (unit). Without enough pixels: (floor^2, 0).
    """
    good = ~mask & np.isfinite(values) & np.isfinite(light)
    level, scatter = np.maximum(light[good], 0.0), values[good]
    n_bins = min(n_bins, level.size // per_bin)
    a = floor**2
    if n_bins < 2:
        return a, 0.0
    order = np.argsort(level)
    bins = np.array_split(order, n_bins)
    x = np.array([np.mean(level[chunk]) for chunk in bins])
    variance = np.array([(SIGMA_PER_MAD * np.median(np.abs(scatter[chunk]))) ** 2 for chunk in bins])
    # without a floor the bright bins, full of unmodelled structure, drive a to 0 and b up
    a = max(a, 0.7 * float(variance.min()))
    if a == 0.0:
        return 0.0, 0.0
    weight = 1.0 / np.maximum(variance, a) ** 2
    slope = float(np.sum(weight * x * (variance - a)) / max(float(np.sum(weight * x * x)), 1e-300))
    return a, max(slope, 0.0)


def smooth_light(data: Image, mask: Mask, radius: int = 2) -> Image:
    """Light above the sky, smoothed by a NaN-safe running mean; the sky is the 20th percentile.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image.
    mask : (ny, nx) bool ndarray
        True = do not use.
    radius : int
        Half-size of the box, px.

    Returns
    -------
    (ny, nx) float64 ndarray
        Not negative; 0 where no good pixel is near.
    """
    good = ~mask & np.isfinite(data)
    if not good.any():
        return np.zeros(data.shape)
    above = np.where(good, data - np.percentile(data[good], 20.0), 0.0)
    kernel = 2 * radius + 1
    total, count = (_box_sum(array, kernel) for array in (above, good.astype(np.float64)))
    return np.maximum(np.divide(total, count, out=np.zeros(data.shape), where=count > 0.5), 0.0)


def _box_sum(array: Image, side: int) -> Image:
    """Sum over a centred box of odd side, nothing beyond the image."""
    padded = np.pad(array, ((side // 2 + 1, side // 2), (side // 2 + 1, side // 2)))
    total = padded.cumsum(axis=0).cumsum(axis=1)
    return np.asarray(total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side])


def error_map(data: Image, mask: Mask, light: Image | None = None, *, floor: float | None = None) -> Image:
    """1-sigma errors from the data's own noise statistics, ``sqrt(a + b light)``.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image.
    mask : (ny, nx) bool ndarray
        True = do not use.
    light : (ny, nx) float64 ndarray, optional
        Model of galaxy and stars above the sky; missing: `smooth_light` of the data.
    floor : float, optional
        Noise of the emptiest part; missing: `patch_noise`.

    Returns
    -------
    (ny, nx) float64 ndarray
        Positive everywhere, also under the mask; all NaN where the noise cannot be measured.

    Notes
    -----
    The differences of neighbours inside stars are structure, not noise, so b is an upper limit in a crowded field.
    It is therefore cut at what pure photon noise allows: where all of `a` comes from the sky of level s > 0 that the
    data contain, ``b = a / s``.
    """
    floor = patch_noise(data, mask) if floor is None else floor
    if not np.isfinite(floor):
        return np.full(data.shape, np.nan)
    light = smooth_light(data, mask) if light is None else np.maximum(np.nan_to_num(light), 0.0)
    a, b = fit_variance(pixel_differences(data, mask), light, mask, floor)
    # an image without noise (all pixels alike) still needs a positive error
    a = max(a, float(np.finfo(np.float32).tiny))
    good = data[~mask & np.isfinite(data)]
    sky = float(np.percentile(good, 20.0)) if good.size else 0.0
    if sky > 0.0:
        b = min(b, a / sky)
    return np.asarray(np.sqrt(a + b * light))


def noise_smoothing(data: Image, mask: Mask, largest: float = LARGEST_SMOOTHING) -> tuple[float, float]:
    r"""Width s of the Gaussian that white noise was smoothed with, and the true pixel sigma.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image in units of its error, or plain; stars need not be subtracted, but help if they are.
    mask : (ny, nx) bool ndarray
        True = do not use.
    largest : float
        Upper end of the range of s, px.

    Returns
    -------
    (float, float)
        s in px, 0 to `largest`, and the standard deviation of one pixel; NaN where nothing can be measured.

    Notes
    -----
    White noise smoothed by a Gaussian of sigma s has the autocorrelation :math:`C(l) = \exp(-l^2/4s^2)`. The variance
    of a pixel minus the mean of four neighbours at +-u and +-v (u perpendicular to v, both of length l) is
    :math:`\sigma^2 [1 - 2 C(l) + (1 + 2 C(\sqrt2 l) + C(2 l)) / 4]`. It is measured in the emptiest fifth of the
    patches for neighbours at 1, sqrt 2 and 2 px; their ratios give s by least squares on a grid.
    """
    sigmas = np.array([patch_sigmas(pixel_differences(data, mask, steps)) for steps in (NEAR, DIAGONAL, FAR)])
    # chosen by all three alike, else the choice itself would change their ratios
    with np.errstate(divide="ignore"):  # patches without any noise
        emptiness = np.log(sigmas).mean(axis=0)
    if np.isfinite(emptiness).sum() < 10:
        return float("nan"), float("nan")
    empty = emptiness <= np.nanpercentile(emptiness, 20.0)
    measured = (sigmas[:, empty] ** 2).mean(axis=1)
    grid = np.linspace(0.0, largest, 101)
    shape = _difference_variances(grid)
    scale = (np.log(measured) - np.log(shape)).mean(axis=1)
    misfit = ((np.log(measured) - np.log(shape) - scale[:, None]) ** 2).sum(axis=1)
    best = int(np.argmin(misfit))
    # the emptiest fifth was chosen for its low scatter
    return float(grid[best]), float(1.08 * np.sqrt(np.exp(scale[best])))


def autocorrelation(squared_lag: Image, s: Image | float) -> Image:
    """Autocorrelation of white noise that a Gaussian of sigma `s` px (to broadcast) has smoothed."""
    # where s is 0 a pixel knows itself only
    return np.exp(-squared_lag / np.maximum(4.0 * np.square(s), 1e-100))


def _difference_variances(smoothing: Image) -> Image:
    """Variances (k, 3) of `pixel_differences` at 1, sqrt 2 and 2 px over a pixel's, noise smoothed by s (k,)."""
    squared_length = np.array([1.0, 2.0, 4.0])
    near, diagonal, far = (autocorrelation(f * squared_length, smoothing[:, np.newaxis]) for f in (1.0, 2.0, 4.0))
    return np.asarray((1.0 - 2.0 * near + (1.0 + 2.0 * diagonal + far) / 4.0) / 1.25)


def correlation_factor(residual: Image, error: Image, mask: Mask, stamp: Image) -> float:
    r"""Factor by which correlated noise widens the flux error of a point source.

    Parameters
    ----------
    residual : (ny, nx) float64 ndarray
        Data minus everything modelled, or the data themselves.
    error : (ny, nx) float64 ndarray
        Errors that the fit uses as if they were independent.
    mask : (ny, nx) bool ndarray
        True = do not use.
    stamp : (my, mx) float64 ndarray
        PSF on data pixels, any normalisation.

    Returns
    -------
    float
        :math:`k_f = (\sigma / \sigma_{fit}) \sqrt{\sum_{ij} P_i P_j C_{ij} / \sum_i P_i^2}`, with C and sigma of
        `noise_smoothing`; within 1 and 4, and 1 where nothing can be measured.
    """
    good = ~mask & np.isfinite(residual) & (error > 0.0)
    scaled = np.divide(residual, error, out=np.full(residual.shape, np.nan), where=good)
    s, sigma = noise_smoothing(scaled, ~good)
    if not np.isfinite(sigma):
        return 1.0
    spectrum = np.abs(np.fft.rfft2(stamp, [2 * side for side in stamp.shape])) ** 2
    overlap = np.fft.irfft2(spectrum, [2 * side for side in stamp.shape])
    ly, lx = (np.fft.fftfreq(side, 1.0 / side) for side in overlap.shape)
    noise = autocorrelation(ly[:, None] ** 2 + lx[None, :] ** 2, s)
    factor = sigma * np.sqrt(float((overlap * noise).sum()) / float(overlap[0, 0]))
    # a factor below 1 would only say that the error map is generous, and invite ever deeper fits
    return float(np.clip(factor, 1.0, 4.0))
