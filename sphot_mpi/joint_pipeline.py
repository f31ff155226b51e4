"""Joint fits from cutout to result: the pipelines of the preset `best`."""

import time

import numpy as np

from sphot_mpi.config import Config
from sphot_mpi.errors import DegenerateCutoutError, FitError
from sphot_mpi.joint_base import KERNEL_START, fit_base_scene
from sphot_mpi.joint_result import base_result, scaled_result
from sphot_mpi.joint_scaled import fit_scaled_scene
from sphot_mpi.joint_scene import Frame
from sphot_mpi.noise import correlation_factor, error_map, smooth_light
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import Cutout, FilterFit
from sphot_mpi.star_renderer import StarRenderer

#: Half-size, px, of the PSF stamp over which the noise's correlation counts.
CORRELATION_RADIUS = 12
#: Part of the light by which a model PSF is wrong: it keeps bright cores from ruling kernel and shape.
PSF_ERROR = 0.01
#: Fewest usable pixels of a fit.
LEAST_PIXELS = 200


def make_frame(cutout: Cutout, library: LibraryPSF) -> Frame:
    """Turn a cutout into a frame; noise is measured on the data, once.

    Parameters
    ----------
    cutout : Cutout
        The image.
    library : LibraryPSF
        Its PSF, over whose area correlated noise is summed.

    Raises
    ------
    DegenerateCutoutError
        If there is too little to fit, or no noise can be measured.
    """
    good = ~cutout.mask & np.isfinite(cutout.data)
    if good.sum() < LEAST_PIXELS:
        msg = f"filter {cutout.filter} has only {int(good.sum())} usable pixels, too few to fit; mask less or cut wider"
        raise DegenerateCutoutError(msg)
    if np.ptp(cutout.data[good]) == 0.0:
        msg = f"filter {cutout.filter} has the same value in all usable pixels; give the image as it was observed"
        raise DegenerateCutoutError(msg)
    data = np.where(good, cutout.data, np.nan)
    error = error_map(data, ~good) if cutout.error is None else cutout.error
    if not np.isfinite(error[good]).any() or not (error[good] > 0.0).any():
        lacks = "noise that can be measured" if cutout.error is None else "positive error at a usable pixel"
        msg = f"filter {cutout.filter} has no {lacks}; give an error map of positive values"
        raise DegenerateCutoutError(msg)
    error = np.hypot(error, PSF_ERROR * smooth_light(data, ~good, 1))
    psf = PSF(library, Kernel("gaussian", (KERNEL_START,)))
    stamp = StarRenderer(psf, (1, 1)).sampled(CORRELATION_RADIUS)
    noise = float(np.nanmin(np.where(good & (error > 0.0), error, np.nan)))
    return Frame.from_image(data, error, ~good, noise, correlation_factor(data, error, ~good, stamp))


def fit_base_joint(cutout: Cutout, library: LibraryPSF, config: Config) -> FilterFit:
    """Fit galaxy, stars, sky and kernel of the base filter.

    Parameters
    ----------
    cutout : Cutout
        Its cropped image.
    library : LibraryPSF
        Its PSF.
    config : Config
        The configuration.

    Raises
    ------
    FitError
        If the fit could not be done.
    """
    start = time.process_time()
    fit = fit_base_scene(make_frame(cutout, library), library, config)
    return base_result(fit, cutout, config, time.process_time() - start)


def fit_scaled_joint(
    cutout: Cutout, library: LibraryPSF, base: FilterFit, base_cutout: Cutout, config: Config
) -> FilterFit:
    """Fit another filter with the base filter's galaxy shape and stars.

    Parameters
    ----------
    cutout : Cutout
        Cropped image of this filter.
    library : LibraryPSF
        Its PSF.
    base : FilterFit
        Result of the base filter.
    base_cutout : Cutout
        Cropped image of the base filter.
    config : Config
        The configuration; ``core.scale_positions`` "forced" looks for no new sources.

    Raises
    ------
    FitError
        If the base filter has no galaxy, or the fit could not be done.
    """
    if not base.components:
        msg = f"{cutout.galaxy} {cutout.filter}: the base filter {base.filter} has no galaxy whose shape could be used"
        raise FitError(msg)
    start = time.process_time()
    positions = config.core.positions_for(cutout.filter)
    frame = make_frame(cutout, library)
    fit = fit_scaled_scene(frame, library, base, ~base_cutout.mask, config, positions)
    return scaled_result(fit, cutout, base, config, time.process_time() - start, positions)
