"""Point sources the seed's way: a ladder of thresholds, brightest first, then a final refit.

Each step finds stars with DAOFIND on what is left, fits them in groups, drops
those that an earlier step has, and takes their light off.

References
----------
Stetson 1987, PASP 99, 191 (DAOFIND); photutils.psf for the table.
"""

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from photutils.detection import DAOStarFinder
from photutils.utils.exceptions import NoDetectionsWarning

from sphot_mpi.background import outlier_mask
from sphot_mpi.config_sections import PsfConfig
from sphot_mpi.errors import FitError
from sphot_mpi.flags import FitFlag, SourceFlag
from sphot_mpi.ladder_refit import Scene, final_refit, lies_on, unrelated
from sphot_mpi.point_fit import fit_points, group_sources
from sphot_mpi.psf import PSF
from sphot_mpi.records import SOURCE_DTYPE, Image, Mask, SersicParams
from sphot_mpi.sersic_profile import elliptical_radius
from sphot_mpi.source_cuts import mark_cut, quality_passing

Sources = NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderStep:
    """One step: its threshold and the background sigma, data unit, and what came of it."""

    threshold: float
    background_std: float
    n_added: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LadderResult:
    """Sources, their image, and how they were found.

    Parameters
    ----------
    sources : (n,) ndarray of SOURCE_DTYPE
        All sources in `model`; those that a quality cut took carry `SourceFlag.CUT`.
    model : (ny, nx) float64 ndarray
        Their light.
    outliers : (ny, nx) bool ndarray
        Pixels not to be used for the sky: masked ones, and outliers of the residual outside the galaxy.
    residual_mad : float
        Gaussian-equivalent sigma of data minus model, from the median absolute deviation.
    background_std : float
        Background sigma at the end of the ladder, data unit.
    steps : tuple of LadderStep
        Steps in their order.
    flags : FitFlag
        NO_SOURCES, STEP_FAILED, FORCED.
    messages : tuple of str
        What failed.
    """

    sources: Sources
    model: Image
    outliers: Mask
    residual_mad: float
    background_std: float
    steps: tuple[LadderStep, ...] = ()
    flags: FitFlag = FitFlag(0)
    messages: tuple[str, ...] = field(default=())


def fit_ladder(
    image: Image,
    error: Image,
    mask: Mask,
    psf: PSF,
    config: PsfConfig,
    *,
    centre: tuple[float, float] | None,
    galaxy: SersicParams | None,
    background_std: float,
    fwhm_factor: float = 1.0,
) -> LadderResult:
    """Find and measure the point sources of an image.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Data without galaxy and sky; NaN counts as masked.
    error : (ny, nx) float64 ndarray
        1-sigma errors, data unit.
    mask : (ny, nx) bool ndarray
        True = do not use.
    psf : PSF
        Working PSF.
    config : PsfConfig
        Section ``[psf]``.
    centre : (float, float) or None
        (x, y) of the galaxy: no sources within `center_mask_r_in_fwhm` FWHM of it.
    galaxy : SersicParams or None
        Inside its ellipse no residual is an outlier, and its sources are flagged.
    background_std : float
        Background sigma that the thresholds count in, data unit; NaN: the scatter of `image`.
    fwhm_factor : float
        FWHM of the finder's kernel over that of the PSF.

    Returns
    -------
    LadderResult
        The sources. A failed step is recorded there.

    Raises
    ------
    FitError
        If `raise_error` is set and a step fails.
    """
    scene = Scene.build(image, error, mask, psf, config)
    blocked = blocked_pixels(scene, centre)
    sources, steps, sigma = _climb_down(scene, blocked, background_std, fwhm_factor)
    messages: tuple[str, ...] = ()
    try:
        sources = final_refit(scene, sources, blocked)
    except FitError as problem:
        if config.raise_error:
            raise
        messages = (str(problem),)
    flags = FitFlag.STEP_FAILED if messages else FitFlag(0)
    return finish(scene, sources, galaxy, background_std=sigma, steps=steps, flags=flags, messages=messages)


def blocked_pixels(scene: Scene, centre: tuple[float, float] | None) -> Mask:
    """Pixels where no source is looked for: masked ones, and the galaxy's core."""
    blocked = scene.weight <= 0.0
    if centre is not None:
        y, x = np.ogrid[: blocked.shape[0], : blocked.shape[1]]
        blocked |= np.hypot(x - centre[0], y - centre[1]) < scene.config.center_mask_r_in_fwhm * scene.psf.fwhm
    return blocked


def _climb_down(
    scene: Scene, blocked: Mask, first_std: float, fwhm_factor: float
) -> tuple[Sources, tuple[LadderStep, ...], float]:
    """Go through the thresholds, brightest first."""
    config = scene.config
    sources = np.zeros(0, SOURCE_DTYPE)
    residual, sigma = scene.image, first_std if np.isfinite(first_std) else scene.scatter(scene.image)[1]
    steps: list[LadderStep] = []
    empty = 0
    for threshold in np.geomspace(config.th_max, config.th_min, config.th_iter):
        if not sigma > 0.0:  # without noise every rounding error is a star
            break
        x, y = find_stars(residual, blocked, float(threshold) * sigma, fwhm_factor * scene.psf.fwhm, config)
        found = fit_points(residual, scene.weight, scene.psf, x, y, scene.fit)
        found = found[quality_passing(found)]
        found = found[~lies_on(blocked, found)]
        found = unrelated(found, sources, config.ladder_dedup_psfsigma * scene.psf.sigma)
        steps.append(LadderStep(threshold=float(threshold), background_std=sigma, n_added=found.size))
        empty = 0 if found.size else empty + 1
        if empty >= config.th_max_consec_empty:
            break
        if found.size == 0:
            continue
        sources = np.concatenate((sources, found))
        residual = scene.residual(sources)
        if config.bkg_refit_per_iteration:
            sigma = max(scene.background(residual)[1], config.bkg_floor_factor * first_std)
    return sources, tuple(steps), sigma


def find_stars(residual: Image, blocked: Mask, threshold: float, fwhm: float, config: PsfConfig) -> tuple[Image, Image]:
    """Positions of what DAOFIND takes for stars."""
    finder = DAOStarFinder(
        threshold,
        fwhm,
        sharpness_range=config.finder_kwargs.sharpness_range,
        roundness_range=config.finder_kwargs.roundness_range,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        table = finder(residual, mask=blocked)
    if table is None:
        return np.zeros(0), np.zeros(0)
    x, y = (np.asarray(table[name], dtype=np.float64) for name in ("x_centroid", "y_centroid"))
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def finish(
    scene: Scene,
    sources: Sources,
    galaxy: SersicParams | None,
    *,
    background_std: float,
    steps: tuple[LadderStep, ...] = (),
    flags: FitFlag | None = None,
    messages: tuple[str, ...] = (),
) -> LadderResult:
    """Number and group the sources, apply the quality cuts and derive the images.

    Parameters
    ----------
    scene : Scene
        Data, PSF and configuration.
    sources : (n,) ndarray of SOURCE_DTYPE
        Sources, positions finite.
    galaxy : SersicParams or None
        Whose sources are flagged, and inside which no residual is an outlier.
    background_std, steps, flags, messages
        For the result.

    Returns
    -------
    LadderResult
        Complete.
    """
    out = sources.copy()
    out["id"] = np.arange(1, out.size + 1)
    x, y = np.ascontiguousarray(out["x_fit"]), np.ascontiguousarray(out["y_fit"])
    group, _ = group_sources(x, y, scene.fit.separation, max(out.size, 1))
    out["group_id"] = group + 1
    out["group_size"] = np.bincount(group)[group] if out.size else 0
    model = scene.model(out)
    residual = np.where(scene.weight > 0.0, scene.image - model, 0.0)
    out = mark_cut(out, residual - scene.background(residual)[0], scene.weight, scene.config)
    if galaxy is not None:
        inside = lies_on(elliptical_radius(model.shape, galaxy) <= galaxy.r_eff, out)
        out["flags"] |= np.where(inside, int(SourceFlag.IN_GALAXY), 0)
    return LadderResult(
        sources=out,
        model=model,
        outliers=outlier_mask(residual, scene.weight <= 0.0, galaxy, scene.config),
        residual_mad=scene.scatter(residual)[1],
        background_std=background_std,
        steps=steps,
        flags=(flags or FitFlag(0)) | (FitFlag(0) if out.size else FitFlag.NO_SOURCES),
        messages=messages,
    )
