"""The width of the star finder's matched filter, scanned: the one with which photometry does best."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.background import background_std
from sphot_mpi.config import Config
from sphot_mpi.flux_solve import solve_pinned
from sphot_mpi.ladder import blocked_pixels, find_stars
from sphot_mpi.ladder_refit import Scene, with_solution
from sphot_mpi.point_fit import fit_points
from sphot_mpi.psf import PSF
from sphot_mpi.records import SOURCE_DTYPE, Image
from sphot_mpi.source_cuts import quality_passing

Sources = NDArray[np.void]

#: Filter's FWHM over that of the PSF: the bracket, and its points; then the gaps beside the best are halved.
BRACKET, POINTS = (0.6, 1.8), 6
#: Detection threshold of the scan, background sigma, where that of the ladder ends below it.
THRESHOLD = 5.0
#: A flux above so many errors counts, with the metric "count".
COUNTED_SNR = 3.0


def scan_fwhm(
    image: Image,
    error: Image,
    mask: NDArray[np.bool_],
    psf: PSF,
    config: Config,
    centre: tuple[float, float] | None,
) -> float:
    """Find the FWHM of the matched filter under which `scan_metric` is best.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Data without galaxy and sky.
    error : (ny, nx) float64 ndarray
        1-sigma errors.
    mask : (ny, nx) bool ndarray
        True = do not use.
    psf : PSF
        Working PSF, with which all detections are measured.
    config : Config
        ``psf-calib.scan_*`` and section ``psf``.
    centre : (float, float) or None
        (x, y) of the galaxy.

    Returns
    -------
    float
        Over the FWHM of the PSF; 1 where nothing is found with any filter.

    Notes
    -----
    For each width stars are found once, above the ladder's last threshold or 5 sigma, and the `scan_top_k` brightest
    measured at once: "lm" fits them in groups with free positions, "nnls" solves their fluxes at the places found.
    "sum_snr" is the sum of their signal-to-noise, "resid_mad" the scatter that is left (less is better), "count" the
    number of those that are sound.
    """
    scene = Scene.build(image, error, mask, psf, config.psf)
    blocked = blocked_pixels(scene, centre)
    sigma = background_std(image, mask, config.psf)
    threshold = max(config.psf.th_min, THRESHOLD) * (sigma if np.isfinite(sigma) else scene.scatter(scene.image)[1])
    if not threshold > 0.0:
        return 1.0

    def score(factor: float) -> float:
        x, y = find_stars(scene.image, blocked, threshold, factor * psf.fwhm, config.psf)
        if x.size == 0:
            return -np.inf
        return _score(scene, *_brightest(scene.image, x, y, config.psf_calib.scan_top_k), config)

    return bracketed(score)


def bracketed(score: Callable[[float], float]) -> float:
    """Factor of the highest score in the bracket, or 1 where all are -inf; of equal ones that nearest to 1."""
    tried = {float(factor): score(float(factor)) for factor in np.geomspace(*BRACKET, POINTS)}
    gap = (BRACKET[1] / BRACKET[0]) ** (1.0 / (POINTS - 1))
    for _ in range(2):
        gap **= 0.5
        best = _best(tried)
        for factor in (best / gap, best * gap):
            if BRACKET[0] <= factor <= BRACKET[1]:
                tried[factor] = score(factor)
    return _best(tried) if np.isfinite(max(tried.values())) else 1.0


def _best(tried: dict[float, float]) -> float:
    return max(tried, key=lambda factor: (tried[factor], -abs(np.log(factor))))


def _brightest(image: Image, x: Image, y: Image, most: int) -> tuple[Image, Image]:
    """The `most` detections on the highest pixels; 0: all."""
    if most == 0 or x.size <= most:
        return x, y
    column = np.clip(np.rint(x).astype(np.int64), 0, image.shape[1] - 1)
    row = np.clip(np.rint(y).astype(np.int64), 0, image.shape[0] - 1)
    chosen = np.sort(np.argsort(-image[row, column], kind="stable")[:most])
    return x[chosen], y[chosen]


def _score(scene: Scene, x: Image, y: Image, config: Config) -> float:
    """Worth of the detections at x, y."""
    if config.psf_calib.scan_method == "nnls":
        sources = np.zeros(x.size, SOURCE_DTYPE)
        sources["x_fit"], sources["y_fit"] = x, y
        solved = solve_pinned(scene.image, scene.weight, scene.psf, x, y, radius=scene.radius)
        sources = with_solution(sources, solved)
        snr = _snr(sources)
        sound = snr > COUNTED_SNR
    else:
        sources = fit_points(scene.image, scene.weight, scene.psf, x, y, scene.fit)
        snr = _snr(sources)
        sound = quality_passing(sources)
        sources = sources[sound]
    metric = config.psf_calib.scan_metric
    if metric == "count":
        return float(sound.sum())
    if metric == "sum_snr":
        return float(snr[sound].sum())
    return -scene.scatter(scene.residual(sources))[1]


def _snr(sources: Sources) -> Image:
    """Signal-to-noise, 0 where it is not known."""
    flux, error = sources["flux_fit"], sources["flux_err"]
    known = np.isfinite(flux) & np.isfinite(error) & (error > 0.0)
    return np.where(known, flux, 0.0) / np.where(known, error, 1.0)
