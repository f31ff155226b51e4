"""The seed's kernel between two passes: recalibrated, kept from alternating, and its matched filter."""

from dataclasses import replace

import numpy as np

from sphot_mpi.calibrate import FWHM_TOLERANCE, Calibration, calibrate_anchors
from sphot_mpi.config import Config
from sphot_mpi.flags import FitFlag
from sphot_mpi.fwhm_scan import scan_fwhm
from sphot_mpi.psf_kernel import Kernel, kernel_distance
from sphot_mpi.seed_anchors import anchor_stars
from sphot_mpi.seed_stages import SeedState, sersic_modelimg, sersic_residual

#: Change of the kernel's width, px, above which it may be alternating between two kernels.
ALTERNATION = 0.02


def recalibrate(state: SeedState, config: Config) -> tuple[SeedState, Calibration]:
    """Measure the kernel on the bright stars of the state.

    Parameters
    ----------
    state : SeedState
        After a PSF fit.
    config : Config
        Section ``psf-calib``.

    Returns
    -------
    state : SeedState
        With the displacement of the base filter's stars, where they tell the kernel.
    calibration : Calibration
        The kernel for the next pass.
    """
    image = state.cutout.data - sersic_modelimg(state) - state.sky_stars.render(state.cutout.shape)
    galaxy = state.components[0] if state.components else None
    weight = state.weight
    image = np.where(weight > 0.0, image, 0.0)
    state, stars = anchor_stars(state, image, config)
    return state, calibrate_anchors(image, weight, stars, state.psf, galaxy, config.psf_calib)


def with_kernel(state: SeedState, calibration: Calibration) -> SeedState:
    """State under a new kernel; earlier flags about the kernel are replaced.

    A kernel that comes back to the one before last would go on alternating between the two: it is put halfway.
    """
    kernel, fit = calibration.kernel, calibration.fit
    if _alternates(state, kernel):
        coordinates = 0.5 * (kernel.coordinates + state.psf.kernel.coordinates)
        kernel = Kernel.from_coordinates(kernel.family, coordinates)
        fit = replace(fit, values=kernel.values, fwhm=state.psf.with_kernel(kernel).fwhm)
    about_kernel = FitFlag.KERNEL_AT_BOUND | FitFlag.KERNEL_FEW_ANCHORS | FitFlag.KERNEL_BOOTSTRAP
    return replace(
        state,
        renderer=state.renderer.with_psf(state.psf.with_kernel(kernel)),
        kernel=fit,
        last_kernel=state.psf.kernel,
        flags=(state.flags & ~about_kernel) | calibration.flags,
    )


def _alternates(state: SeedState, kernel: Kernel) -> bool:
    """Whether a kernel lies nearer to the one before last than to the last, from which it differs."""
    last, before = state.psf.kernel, state.last_kernel
    if before is None or not before.family == last.family == kernel.family:
        return False
    moved = abs(kernel.width - last.width)
    return moved > ALTERNATION and abs(kernel.width - before.width) < 0.5 * moved


def with_matched_filter(state: SeedState, old: Kernel, config: Config) -> SeedState:
    """State whose next ladder looks for stars with the matched filter of the working PSF.

    Parameters
    ----------
    state : SeedState
        Under the new kernel.
    old : Kernel
        The kernel before; where the new one is as good as equal and the configuration says so, nothing is scanned.
    config : Config
        ``psf-calib.fwhm_method``: "empirical" takes the FWHM of the working PSF, "scan" tries several.
    """
    calib = config.psf_calib
    if calib.fwhm_method == "empirical":
        return replace(state, dao_fwhm_factor=1.0)
    stable = kernel_distance(state.psf.kernel, old) < calib.kernel_skip_threshold
    if calib.kernel_fit_skip_on_convergence and stable:
        return state
    galaxy = state.components[0] if state.components else None
    centre = None if galaxy is None else (galaxy.x_0, galaxy.y_0)
    factor = scan_fwhm(sersic_residual(state), state.error, state.cutout.mask, state.psf, config, centre)
    return replace(state, dao_fwhm_factor=factor)


def kernel_is_quiet(before: SeedState, after: SeedState) -> bool:
    """Whether the working PSF has hardly changed from one state to another."""
    return abs(after.psf.fwhm - before.psf.fwhm) < FWHM_TOLERANCE
