"""The sky in the seed's way: a plane fitted to what is left, and the scatter of the background."""

from dataclasses import dataclass

import numpy as np
from astropy.stats import SigmaClip, sigma_clipped_stats
from photutils.background import Background2D
from scipy import signal

from sphot_mpi.config_sections import PsfConfig
from sphot_mpi.records import Image, Mask, SersicParams, SkyPlane
from sphot_mpi.robust import robust_sigma
from sphot_mpi.sersic_profile import elliptical_radius

#: Ring of the smoothing, px: wide enough to skip the core and first wing of the star at its centre.
RING_INNER, RING_WIDTH = 5.0, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundStats:
    """Sigma-clipped mean, median and standard deviation of the background, data unit; NaN: no pixel."""

    mean: float
    median: float
    std: float


def background_stats(data: Image, mask: Mask, *, sigma: float = 3.0, inner: float = 0.35) -> BackgroundStats:
    """Statistics of an image far from its centre.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image.
    mask : (ny, nx) bool ndarray
        True = do not use.
    sigma : float
        Clip, standard deviations.
    inner : float
        Pixels nearer to the centre than this fraction of the sides are left out, unless too few remain.

    Returns
    -------
    BackgroundStats
        Sigma-clipped.
    """
    good = ~mask & np.isfinite(data)
    ny, nx = data.shape
    y, x = np.ogrid[:ny, :nx]
    outside = ((x - (nx - 1) / 2) / (inner * nx)) ** 2 + ((y - (ny - 1) / 2) / (inner * ny)) ** 2 > 1.0
    values = data[good & outside]
    if values.size < 100:
        values = data[good]
    if values.size == 0:
        return BackgroundStats(mean=float("nan"), median=float("nan"), std=float("nan"))
    mean, median, std = sigma_clipped_stats(values, sigma=sigma, maxiters=10)
    return BackgroundStats(mean=float(mean), median=float(median), std=float(std))


def background_std(data: Image, mask: Mask, config: PsfConfig) -> float:
    """Background sigma in which the ladder's thresholds are counted.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        Image without the galaxy.
    mask : (ny, nx) bool ndarray
        True = do not use.
    config : PsfConfig
        `bkg_sigma_clip`, `bkg_box_size` and `bkg_filter_size` are used.

    Returns
    -------
    float
        Median of the rms of a `photutils.background.Background2D`, so that neither a slope nor the stars' crowding in
        one corner counts; the clipped standard deviation of the whole image where too many boxes are masked. NaN
        without a good pixel.
    """
    unusable = mask | ~np.isfinite(data)
    box = (min(config.bkg_box_size[0], data.shape[0]), min(config.bkg_box_size[1], data.shape[1]))
    try:
        background = Background2D(
            np.where(unusable, 0.0, data),
            box,
            mask=unusable,
            filter_size=config.bkg_filter_size,
            exclude_percentile=60.0,
            sigma_clip=SigmaClip(sigma=config.bkg_sigma_clip, maxiters=10),
        )
    except ValueError:
        # photutils refuses an image all of whose boxes are mostly masked
        return background_stats(data, mask, sigma=config.bkg_sigma_clip).std
    return float(background.background_rms_median)


def outlier_mask(residual: Image, mask: Mask, galaxy: SersicParams | None, config: PsfConfig) -> Mask:
    """Mask for the sky: `mask`, and outliers of the residual outside the galaxy.

    Parameters
    ----------
    residual : (ny, nx) float64 ndarray
        Data minus everything modelled.
    mask : (ny, nx) bool ndarray
        True = do not use.
    galaxy : SersicParams or None
        Inside the ellipse of `mask_aper_size_in_r_eff` times its r_eff nothing is masked.
    config : PsfConfig
        `residual_clip_sigma` and `mask_aper_size_in_r_eff` are used.

    Returns
    -------
    (ny, nx) bool ndarray
        True = do not use.
    """
    good = ~mask & np.isfinite(residual)
    if not good.any():
        return ~good
    centre = float(np.median(residual[good]))
    spread = robust_sigma(residual[good])
    outlier = np.abs(np.where(good, residual, centre) - centre) > config.residual_clip_sigma * spread
    if galaxy is not None:
        outlier &= elliptical_radius(residual.shape, galaxy) > config.mask_aper_size_in_r_eff * galaxy.r_eff
    return np.asarray(~good | outlier)


def ring_kernel(inner: float = RING_INNER, width: float = RING_WIDTH) -> Image:
    """Ring of unit sum, odd side; pixels whose centre lies in [inner, inner + width]."""
    half = int(np.floor(inner + width))
    y, x = np.ogrid[-half : half + 1, -half : half + 1]
    radius = np.hypot(x, y)
    ring = ((radius >= inner) & (radius <= inner + width)).astype(np.float64)
    return np.asarray(ring / ring.sum())


def fit_sky(
    residual: Image,
    mask: Mask,
    *,
    inner: float = RING_INNER,
    width: float = RING_WIDTH,
    clip: float = 3.0,
    iterations: int = 5,
) -> SkyPlane:
    """Fit a plane to the ring-convolved residual.

    Each good pixel is replaced by the mean of the good pixels in a ring about it. The plane's columns 1, x and y go
    through the same means, so that rings cut by an edge or by the mask do not tilt it. Outliers are clipped.

    Parameters
    ----------
    residual : (ny, nx) float64 ndarray
        Data minus galaxy and stars.
    mask : (ny, nx) bool ndarray
        True = do not use.
    inner, width : float
        Inner radius and width of the ring, px.
    clip : float
        Ring means further than this many robust sigmas from the plane are left out.
    iterations : int
        Most rounds of clipping.

    Returns
    -------
    SkyPlane
        Referred to the centre of the image; level 0 where no ring has a good pixel.
    """
    ny, nx = residual.shape
    x_ref, y_ref = (nx - 1) / 2, (ny - 1) / 2
    good = ~mask & np.isfinite(residual)
    kernel = ring_kernel(inner, width)
    cover = signal.fftconvolve(good.astype(np.float64), kernel, mode="same")
    use = good & (cover > 0.2)
    if use.sum() < 3:
        use, cover, kernel = good, good.astype(np.float64), np.ones((1, 1))
    if not use.any():
        return SkyPlane(x_ref=x_ref, y_ref=y_ref)
    y, x = np.mgrid[:ny, :nx]
    columns = (np.where(good, residual, 0.0), good * (x - x_ref), good * (y - y_ref))
    value, ring_x, ring_y = (signal.fftconvolve(image, kernel, mode="same")[use] / cover[use] for image in columns)
    design = np.column_stack([np.ones(value.size), ring_x, ring_y])
    coefficients = _clipped_plane(design, value, clip, iterations)
    return SkyPlane(
        level=float(coefficients[0]),
        slope_x=float(coefficients[1]),
        slope_y=float(coefficients[2]),
        x_ref=x_ref,
        y_ref=y_ref,
    )


def _clipped_plane(design: Image, value: Image, clip: float, iterations: int) -> Image:
    """Least squares with outliers clipped at `clip` robust sigmas; a start from the median keeps the first fit sane."""
    keep = np.ones(value.size, dtype=bool)
    coefficients = np.array([float(np.median(value)), 0.0, 0.0])
    for _ in range(iterations):
        left = value - design @ coefficients
        centre = float(np.median(left[keep]))
        spread = robust_sigma(left[keep])
        kept = np.abs(left - centre) <= max(clip * spread, 1e-12 * float(np.abs(value).max()))
        coefficients = np.linalg.lstsq(design[kept], value[kept], rcond=None)[0]
        if np.array_equal(kept, keep):
            break
        keep = kept
    return np.asarray(coefficients)


def plane_covariance(weight: Image) -> Image:
    """Covariance of level and slopes about the image's centre, from pixels of independent noise.

    Parameters
    ----------
    weight : (ny, nx) float64 ndarray
        1 / variance; 0 = not used.

    Returns
    -------
    (3, 3) float64 ndarray
        Of level, slope_x, slope_y; NaN where the plane is not determined.
    """
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    design = np.stack([np.ones(x.shape), x - (x.shape[1] - 1) / 2, y - (x.shape[0] - 1) / 2]).reshape(3, -1)
    gram = (design * weight.ravel()) @ design.T
    if np.linalg.matrix_rank(gram) < 3:
        return np.full((3, 3), np.nan)
    return np.asarray(np.linalg.inv(gram))
