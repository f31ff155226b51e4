"""The PSF kernel from bright anchor stars: which kernel makes the library PSF fit them best."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.calibrate_bootstrap import bootstrap_kernel
from sphot_mpi.calibrate_stamps import Misfit, Stamp, cut_stamps, misfit, recentred
from sphot_mpi.config_sections import PsfCalibConfig
from sphot_mpi.flags import FitFlag, SourceFlag
from sphot_mpi.psf import PSF
from sphot_mpi.psf_kernel import FAMILIES, Kernel
from sphot_mpi.records import Image, KernelFit, SersicParams, Vector
from sphot_mpi.sersic_profile import elliptical_radius
from sphot_mpi.source_cuts import quality_passing

FEWEST_ANCHORS = 3

#: Most rounds of windows, positions and kernel, and the change of the FWHM, px, below which another is not needed.
ROUNDS, FWHM_TOLERANCE = 3, 0.05
#: Most Gauss-Newton steps of a kernel, and most halvings of one that makes the misfit worse.
STEPS, HALVINGS = 12, 4
#: Change of a kernel's width, px, that ends its fit.
KERNEL_TOLERANCE = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A kernel as measured, and what was noteworthy."""

    kernel: Kernel
    fit: KernelFit
    flags: FitFlag


def sound_sources(sources: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell which sources passed flags and quality cuts: those to report, to calibrate on, to force elsewhere."""
    return np.asarray(quality_passing(sources) & ((sources["flags"] & int(SourceFlag.CUT)) == 0))


def calibrate_anchors(
    image: Image,
    weight: Image,
    sources: NDArray[np.void],
    psf: PSF,
    galaxy: SersicParams | None,
    config: PsfCalibConfig,
) -> Calibration:
    """Fit the kernel to the brightest stars outside the galaxy.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Data minus galaxy and sky, 0 where `weight` is 0.
    weight : (ny, nx) float64 ndarray
        1 / variance; 0 = do not use.
    sources : (n,) ndarray of SOURCE_DTYPE
        All sources of the last photometry; those that a cut took are neighbours still.
    psf : PSF
        Working PSF; its kernel is the start.
    galaxy : SersicParams or None
        Anchors keep out of its ellipse.
    config : PsfCalibConfig
        Section ``psf-calib``.

    Returns
    -------
    Calibration
        Where fewer than three anchors are left it is that of the bootstrap, flag KERNEL_BOOTSTRAP; where that finds
        no stars either, the old kernel, flag KERNEL_FEW_ANCHORS.
    """
    chosen = choose_anchors(sources, image.shape, galaxy, config)
    table = sources["x_fit"], sources["y_fit"], sources["flux_fit"]
    stamps = cut_stamps(image, weight, table, chosen, psf, config)
    if len(stamps) < FEWEST_ANCHORS:
        clear = np.ones(image.shape, bool) if galaxy is None else _clear_of(galaxy, image.shape, config)
        return _without_anchors(image, np.where(clear, weight, 0.0), psf, config, len(stamps))
    alone = config.kernel_fit_objective == "single_source"
    working = psf.with_kernel(_as_family(psf.kernel, config.kernel_family))
    for _ in range(ROUNDS):
        placed = stamps
        if config.calib_xy_bounds is not None:
            placed = [recentred(stamp, working, config.calib_xy_bounds) for stamp in stamps]
        before = working.fwhm
        working, lowest = _minimised(placed, working, alone)
        if abs(working.fwhm - before) < FWHM_TOLERANCE:
            break
        # windows, the light of other stars in them and positions among neighbours hang on the kernel
        again = cut_stamps(image, weight, table, chosen, working, config)
        stamps = again if len(again) >= FEWEST_ANCHORS else stamps
    kernel = working.kernel
    fit = KernelFit(
        family=kernel.family,
        values=kernel.values,
        fwhm=working.fwhm,
        n_anchors=len(placed),
        errors=_errors(kernel, lowest, [misfit([stamp], working, alone=alone) for stamp in placed]),
    )
    flags = FitFlag.KERNEL_AT_BOUND if kernel.at_bound() else FitFlag(0)
    return Calibration(kernel=kernel, fit=fit, flags=flags)


def choose_anchors(
    sources: NDArray[np.void], shape: tuple[int, ...], galaxy: SersicParams | None, config: PsfCalibConfig
) -> NDArray[np.int64]:
    """Indices of the brightest sources that pass the quality cuts and lie outside the galaxy, brightest first."""
    usable = sound_sources(sources)
    if galaxy is not None:
        column = np.clip(np.rint(np.nan_to_num(sources["x_fit"])).astype(np.int64), 0, shape[1] - 1)
        row = np.clip(np.rint(np.nan_to_num(sources["y_fit"])).astype(np.int64), 0, shape[0] - 1)
        usable &= _clear_of(galaxy, shape, config)[row, column]
    candidates = np.flatnonzero(usable)
    order = np.argsort(-sources["flux_fit"][candidates], kind="stable")
    return np.asarray(candidates[order[: config.kernel_anchor_K]])


def _clear_of(galaxy: SersicParams, shape: tuple[int, ...], config: PsfCalibConfig) -> NDArray[np.bool_]:
    """Pixels where anchors may stand: off the galaxy's ellipse, but a big galaxy must leave some stars."""
    if config.center_mask_r_in_galaxy_size == 0.0:
        return np.ones(shape, bool)
    limit = min(config.center_mask_r_in_galaxy_size * galaxy.r_eff, 0.45 * min(shape))
    return np.asarray(elliptical_radius((shape[0], shape[1]), galaxy) > limit)


def _without_anchors(image: Image, weight: Image, psf: PSF, config: PsfCalibConfig, n_anchors: int) -> Calibration:
    """Kernel from the image's peaks, or else the old one."""
    found = bootstrap_kernel(image, weight, psf, config)
    kernel = psf.kernel if found is None else found.kernel
    fit = KernelFit(
        family=kernel.family,
        values=kernel.values,
        errors=(float("nan"),) * len(kernel.values),
        fwhm=psf.with_kernel(kernel).fwhm,
        n_anchors=n_anchors if found is None else found.n_peaks,
    )
    flags = FitFlag.KERNEL_FEW_ANCHORS if found is None else FitFlag.KERNEL_BOOTSTRAP
    return Calibration(kernel=kernel, fit=fit, flags=flags)


def _as_family(kernel: Kernel, family: str) -> Kernel:
    """Kernel to start a family from: the present one, or one as wide."""
    return kernel if kernel.family == family else Kernel.of_width(family, kernel.width)


def _minimised(stamps: list[Stamp], psf: PSF, alone: bool) -> tuple[PSF, Misfit]:
    """Working PSF of least misfit, by Gauss-Newton steps within the family's limits, and the misfit there."""
    spec = FAMILIES[psf.kernel.family]
    here = _with_prior(misfit(stamps, psf, alone=alone), psf.kernel)
    for _ in range(STEPS):
        step = np.clip(_bounded_step(here, psf.kernel), -np.array(spec.steps), spec.steps)
        for _ in range(HALVINGS):
            trial = psf.with_kernel(Kernel.from_coordinates(spec.name, psf.kernel.coordinates + step))
            there = _with_prior(misfit(stamps, trial, alone=alone), trial.kernel)
            if there.value < here.value:
                break
            step *= 0.5
        else:
            break
        moved = trial.kernel.differs(psf.kernel, KERNEL_TOLERANCE)
        psf, here = trial, there
        if not moved:
            break
    return psf, here


def _bounded_step(here: Misfit, kernel: Kernel) -> Vector:
    """Newton step of the coordinates that are not pressed against a bound."""
    low, high = np.array(FAMILIES[kernel.family].ranges).T
    at = kernel.coordinates
    # a coordinate at its bound that would go beyond is none of the unknowns
    free = ~(((at <= low) & (here.gradient > 0.0)) | ((at >= high) & (here.gradient < 0.0)))
    step = np.zeros(at.size)
    curvature = here.curvature[np.ix_(free, free)]
    if free.any():
        step[free] = -np.linalg.lstsq(curvature, here.gradient[free], rcond=None)[0]
    return step


def _with_prior(found: Misfit, kernel: Kernel) -> Misfit:
    """Misfit with the prior of the kernel's shape, where its family has one."""
    prior = FAMILIES[kernel.family].prior
    if prior is None:
        return found
    pull, weight = kernel.coordinates[1] - prior[0], prior[1] ** -2.0
    gradient, curvature = found.gradient.copy(), found.curvature.copy()
    gradient[1] += weight * pull
    curvature[1, 1] += weight
    return Misfit(found.value + weight * pull**2, gradient, curvature)


def _errors(kernel: Kernel, lowest: Misfit, each: list[Misfit]) -> tuple[float, ...]:
    """1-sigma errors; NaN where there is no minimum.

    From the curvature of the misfit, which counts as a chi2, or from how the anchors' pulls on the kernel differ,
    whichever is larger: blends pull more than noise does (the sandwich estimate, Huber 1967).
    """
    eigenvalues = np.linalg.eigvalsh(lowest.curvature)
    if not np.isfinite(eigenvalues).all() or eigenvalues[0] <= 0.0:
        return (float("nan"),) * len(kernel.values)
    inverse = np.linalg.inv(lowest.curvature)
    pulls = len(each) * np.atleast_2d(np.cov([one.gradient for one in each], rowvar=False))
    by_noise, by_scatter = kernel.errors(inverse), kernel.errors(inverse @ pulls @ inverse)
    return tuple(max(pair) for pair in zip(by_noise, by_scatter, strict=True))
