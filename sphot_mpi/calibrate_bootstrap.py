"""A first kernel where photometry has found nothing usable: blurs tried on the brightest peaks of the image."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sphot_mpi.calibrate_stamps import cut_stamps, misfit, recentred
from sphot_mpi.config_sections import PsfCalibConfig
from sphot_mpi.detection import MatchedFilter, detect
from sphot_mpi.point_render import sampled_star
from sphot_mpi.psf import PSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import Image

#: Signal-to-noise of peaks, the brightest first, until there are enough; below the last, noise makes them.
PEAK_SNR = (20.0, 10.0, 7.0)
#: Fewest peaks.
FEWEST_PEAKS = 3
#: Step of the grid of blurs, px, its first end, and how far it is widened.
GRID_STEP, GRID_END, WIDEST = 0.25, 2.0, 4.0
#: Blur, px, with which peaks are looked for: between none and the widest.
DETECTION_BLUR = 1.0
#: Longest way of a peak to its star, px, where the configuration does not say.
PEAK_SHIFT = 1.0


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Kernel of the grid, and how many peaks told it."""

    kernel: Kernel
    n_peaks: int


def bootstrap_kernel(image: Image, weight: Image, psf: PSF, config: PsfCalibConfig) -> Bootstrap | None:
    """Choose the blur under which the library PSF leaves least of the stamps about the brightest peaks.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Data minus galaxy and sky.
    weight : (ny, nx) float64 ndarray
        1 / variance, 0 where no peak may be.
    psf : PSF
        The working PSF, whose kernel does not matter.
    config : PsfCalibConfig
        Section ``psf-calib``.

    Returns
    -------
    Bootstrap or None
        None if there are not enough peaks, or they want to be wider than any kernel: then they are no stars.
    """
    if not (weight > 0.0).any():
        return None
    flat = np.where(weight > 0.0, image - np.median(image[weight > 0.0]), 0.0)
    blurred = psf.with_kernel(Kernel.of_width(config.kernel_family, DETECTION_BLUR))
    x, y, flux = _peaks(flat, weight, blurred)
    brightest = np.argsort(-flux, kind="stable")[: config.kernel_anchor_K]
    widest = psf.with_kernel(Kernel.of_width(config.kernel_family, GRID_END))
    stamps = cut_stamps(flat, weight, (x, y, flux), brightest, widest, config)
    if len(stamps) < FEWEST_PEAKS:
        return None
    bound = PEAK_SHIFT if config.calib_xy_bounds is None else config.calib_xy_bounds

    def score(sigma: float) -> float:
        trial = psf.with_kernel(Kernel.of_width(config.kernel_family, sigma))
        return misfit([recentred(stamp, trial, bound) for stamp in stamps], trial, alone=False).value

    sigma = _lowest(score)
    if sigma is None:
        return None
    return Bootstrap(Kernel.of_width(config.kernel_family, sigma), len(stamps))


def _peaks(image: Image, weight: Image, psf: PSF) -> tuple[Image, Image, Image]:
    """Positions and first fluxes of the peaks of an image, at the highest signal-to-noise that gives enough."""
    radius = min(int(np.ceil(2.0 * psf.fwhm)), psf.radius)
    stamp = sampled_star(psf, radius)
    matched = MatchedFilter(weight, stamp)
    none = np.zeros(0)
    for snr in PEAK_SNR:
        found = detect(
            matched, image, np.full(image.shape, snr), peak=float(stamp.max()), stars=np.zeros(image.shape), blend=0.0,
            known=(none, none), fwhm=psf.fwhm,
        )  # fmt: skip
        if found.x.size >= FEWEST_PEAKS:
            break
    return found.x, found.y, found.flux


def _lowest(score: Callable[[float], float]) -> float | None:
    """Blur of the lowest score, px, between grid points by a parabola; None if it lies at the widest."""
    sigmas = [float(sigma) for sigma in np.arange(0.0, GRID_END + 0.5 * GRID_STEP, GRID_STEP)]
    scores = [score(sigma) for sigma in sigmas]
    while int(np.argmin(scores)) == len(scores) - 1:
        if sigmas[-1] >= WIDEST:
            return None
        sigmas.append(sigmas[-1] + GRID_STEP)
        scores.append(score(sigmas[-1]))
    k = int(np.argmin(scores))
    if k == 0:
        return 0.0
    before, here, after = scores[k - 1 : k + 2]
    curvature = before - 2.0 * here + after
    return sigmas[k] + (0.5 * GRID_STEP * (before - after) / curvature if curvature > 0.0 else 0.0)
