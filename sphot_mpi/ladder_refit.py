"""The final refits of the ladder: all sources together, and what the ladder missed.

``nnls`` solves non-negative fluxes at pinned positions. ``iterative`` solves
fluxes of either sign, and positions where they are given room, and takes a
round back that made things worse. Both solve on the image less the smooth level
of the residual, or every star would take its share of the stars that were not found.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from photutils.detection import find_peaks
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage
from scipy.spatial import cKDTree

from sphot_mpi.config_sections import PsfConfig
from sphot_mpi.errors import FitError
from sphot_mpi.flags import SourceFlag
from sphot_mpi.flux_solve import JointFluxes, solve_joint, solve_pinned
from sphot_mpi.kernels.stats import box_stats, median_filter, median_mad
from sphot_mpi.point_fit import PointFitSettings, fit_points
from sphot_mpi.point_quality import measure_quality
from sphot_mpi.point_render import render_sources, weights
from sphot_mpi.psf import PSF
from sphot_mpi.records import Image, Mask
from sphot_mpi.source_cuts import quality_passing

Sources = NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """What every step of the ladder works on.

    Parameters
    ----------
    image, weight : (ny, nx) float64 ndarray
        Data without galaxy and sky, 0 where masked; 1 / variance, 0 = masked.
    psf : PSF
        Working PSF.
    config : PsfConfig
        Section ``[psf]``.
    fit : PointFitSettings
        Of single fits.
    """

    image: Image
    weight: Image
    psf: PSF
    config: PsfConfig
    fit: PointFitSettings

    @classmethod
    def build(cls, image: Image, error: Image, mask: Mask, psf: PSF, config: PsfConfig) -> "Scene":
        """Turn data, errors and mask into an image without NaN and weights."""
        weight = weights(error, mask | ~np.isfinite(image))
        return cls(
            image=np.where(weight > 0.0, image, 0.0),
            weight=weight,
            psf=psf,
            config=config,
            fit=PointFitSettings.from_config(config, psf),
        )

    @property
    def radius(self) -> int:
        """Half-size, px, of the stamps that sources are rendered on."""
        return max(self.config.modelimg_render_shape) // 2

    def model(self, sources: Sources) -> Image:
        """Image of the sources."""
        shape = (self.image.shape[0], self.image.shape[1])
        return render_sources(shape, self.psf, sources["x_fit"], sources["y_fit"], sources["flux_fit"], self.radius)

    def residual(self, sources: Sources) -> Image:
        """Image less the sources; 0 where masked."""
        return np.where(self.weight > 0.0, self.image - self.model(sources), 0.0)

    def scatter(self, residual: Image) -> tuple[float, float]:
        """Median and Gaussian-equivalent sigma (MAD) of the usable pixels."""
        median, sigma = median_mad(residual[self.weight > 0.0])
        return float(median), float(sigma)

    def background(self, residual: Image) -> tuple[Image, float]:
        """Smooth level of a residual, and its sigma: box statistics, median-filtered.

        The level is what stars too faint to be found add up to. The sigma is the `background_rms_median`
        of photutils' Background2D with `exclude_percentile=60`.
        """
        config = self.config
        height, width = (min(box, side) for box, side in zip(config.bkg_box_size, residual.shape, strict=True))
        boxes = box_stats(residual, self.weight, height, width, config.bkg_sigma_clip, 10, 0.4)
        median, rms = (median_filter(grid, *config.bkg_filter_size) for grid in boxes)
        if not np.isfinite(median).any():
            return np.zeros(residual.shape), self.scatter(residual)[1]
        median = np.where(np.isfinite(median), median, np.nanmedian(median))
        y, x = np.mgrid[: residual.shape[0], : residual.shape[1]]
        grid = ((y - (height - 1) / 2) / height, (x - (width - 1) / 2) / width)
        level: Image = ndimage.map_coordinates(median, grid, order=1, mode="nearest")
        return level, float(np.nanmedian(rms))

    def flattened(self, sources: Sources) -> Image:
        """Image less the smooth level that is left when the sources are taken off."""
        return np.where(self.weight > 0.0, self.image - self.background(self.residual(sources))[0], 0.0)

    def measured(self, sources: Sources) -> Sources:
        """Return the sources with their quality measured on the flattened residual of all of them."""
        residual = self.residual(sources)
        return measure_quality(sources, residual - self.background(residual)[0], self.weight, self.fit.fit_shape)


def unrelated(new: Sources, old: Sources, distance: float) -> Sources:
    """Drop new sources that lie within `distance` px of an old one or of a brighter new one."""
    place = np.column_stack((new["x_fit"], new["y_fit"]))
    keep = np.ones(new.size, dtype=bool)
    if old.size and new.size:
        nearest, _ = cKDTree(np.column_stack((old["x_fit"], old["y_fit"]))).query(place)
        keep = nearest > distance
    pairs = cKDTree(place).query_pairs(distance) if new.size else set()
    for i, j in sorted(pairs, key=lambda pair: -float(new["flux_fit"][list(pair)].max())):
        if keep[i] and keep[j]:
            keep[j if new["flux_fit"][i] >= new["flux_fit"][j] else i] = False
    return new[keep]


def lies_on(mask: Mask, sources: Sources) -> Mask:
    """Whether the pixel of each source is masked, or off the image."""
    ny, nx = mask.shape
    x, y = np.rint(sources["x_fit"]).astype(np.int64), np.rint(sources["y_fit"]).astype(np.int64)
    inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    return np.asarray(~inside | mask[np.where(inside, y, 0), np.where(inside, x, 0)])


def final_refit(scene: Scene, sources: Sources, blocked: Mask) -> Sources:
    """Refit all sources by `final_refit_method`.

    Parameters
    ----------
    scene : Scene
        Data, PSF and configuration.
    sources : (n,) ndarray of SOURCE_DTYPE
        What the ladder found.
    blocked : (ny, nx) bool ndarray
        True = no new source here.

    Returns
    -------
    (m,) ndarray of SOURCE_DTYPE
        Sound rows only.

    Raises
    ------
    FitError
        If the non-negative solve does not converge.
    """
    if scene.config.final_refit_method == "none":
        return sources
    sound = sources[quality_passing(sources)]
    if scene.config.final_refit_method == "nnls":
        return _refit_nnls(scene, sound, blocked)
    return _refit_iteratively(scene, sound, blocked)


def _refit_nnls(scene: Scene, sources: Sources, blocked: Mask) -> Sources:
    """Non-negative fluxes at pinned positions; peaks of the residual join in and all is solved again."""
    config = scene.config
    sources = _solve_nnls(scene, sources)
    for _ in range(config.leftover_max_iterations):
        found = _leftovers(scene, sources, blocked, config.leftover_detect_k_sigma, config.leftover_dedup_psfsigma)
        if found.size == 0:
            break
        sources = _solve_nnls(scene, np.concatenate((sources, found)))
    return sources


def _solve_nnls(scene: Scene, sources: Sources) -> Sources:
    if sources.size == 0:
        return sources
    x, y = np.ascontiguousarray(sources["x_fit"]), np.ascontiguousarray(sources["y_fit"])
    solution = solve_pinned(scene.flattened(sources), scene.weight, scene.psf, x, y, radius=scene.radius)
    if not solution.converged.all():
        msg = f"the non-negative solve for {sources.size} point sources did not converge; the ladder's fluxes are kept"
        raise FitError(msg)
    out = scene.measured(with_solution(sources, solution))
    return out[quality_passing(out)]


def _refit_iteratively(scene: Scene, sources: Sources, blocked: Mask) -> Sources:
    """Joint refit and search for leftovers in turn, until the residual's scatter is quiet."""
    config = scene.config
    best, trial = sources, sources
    _, best_mad = scene.scatter(scene.residual(sources))
    for iteration in range(config.final_refit_iterations):
        if config.final_joint_refit:
            trial = _solve_joint(scene, trial)
        _, mad = scene.scatter(scene.residual(trial))
        if mad > best_mad * (1.0 + config.final_refit_residual_tol):
            break
        quiet = best_mad - mad < config.final_refit_residual_tol * best_mad
        best, best_mad = trial, mad
        if quiet and iteration > 0:
            break
        found = _leftovers(scene, best, blocked, config.final_refit_detect_th, config.final_refit_dedup_psfsigma)
        if found.size == 0:
            break
        trial = np.concatenate((best, found))
    return best


def _solve_joint(scene: Scene, sources: Sources) -> Sources:
    """Solve all fluxes together; sources that come out catastrophic or dark go, and the rest is solved again.

    A flux is catastrophic where it exceeds `final_refit_catastrophic_flux_factor` times both the
    source's own flux before and the population's median: half of a pair that compensate each other.
    """
    config = scene.config
    while sources.size:
        flux, x, y = (np.ascontiguousarray(sources[name]) for name in ("flux_fit", "x_fit", "y_fit"))
        solution = solve_joint(
            scene.flattened(sources), scene.weight, scene.psf, flux, x, y,
            fit_shape=config.final_refit_fit_shape, radius=scene.radius, xy_bound=config.final_refit_xy_bounds,
        )  # fmt: skip
        limit = config.final_refit_catastrophic_flux_factor * np.maximum(flux, np.median(flux))
        out = scene.measured(with_solution(sources, solution, xy_bound=config.final_refit_xy_bounds))
        sound = (np.abs(solution.flux) <= limit) & (solution.flux > 0.0)
        if sound.all():
            return out
        sources = sources[sound]
    return sources


def with_solution(sources: Sources, solution: JointFluxes, *, xy_bound: float = 0.0) -> Sources:
    """Return the table with fluxes, and free positions, of a joint solve.

    Parameters
    ----------
    sources : (n,) ndarray of SOURCE_DTYPE
        Table.
    solution : JointFluxes
        Solution for its rows.
    xy_bound : float
        Bound of the positions, px; 0: they were pinned, and keep their errors.

    Returns
    -------
    (n,) ndarray of SOURCE_DTYPE
        With the flags of convergence and covariance renewed.
    """
    out = sources.copy()
    out["flux_fit"] = solution.flux
    out["flux_err"] = np.where(np.isfinite(solution.flux_err), solution.flux_err, np.nan)
    if xy_bound > 0.0:
        for name in ("x", "y"):
            out[f"{name}_fit"], out[f"{name}_err"] = getattr(solution, name), getattr(solution, f"{name}_err")
    renewed = SourceFlag.NO_CONVERGENCE | SourceFlag.NO_COVARIANCE
    out["flags"] &= ~int(renewed)
    out["flags"] |= np.where(solution.converged, 0, int(SourceFlag.NO_CONVERGENCE))
    out["flags"] |= np.where(np.isfinite(out["flux_err"]), 0, int(SourceFlag.NO_COVARIANCE))
    return out


def _leftovers(scene: Scene, sources: Sources, blocked: Mask, threshold: float, dedup: float) -> Sources:
    """Peaks of the residual that are new sources, each fitted there with its position free.

    Of peaks fitted in one group, one may come out as bright as another is dark; the dark ones go, and nothing would
    make up for the bright ones, but a level that is as dark. So the fluxes of those that stay are solved again.
    """
    residual = scene.residual(sources)
    _, sigma = scene.scatter(residual)
    if not sigma > 0.0:
        return sources[:0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        flat = np.where(scene.weight > 0.0, residual - scene.background(residual)[0], 0.0)
        peaks = find_peaks(
            flat,
            threshold * sigma,
            box_size=scene.config.leftover_box_size,
            mask=blocked,
        )
    if peaks is None:
        return sources[:0]
    x, y = np.asarray(peaks["x_peak"], dtype=np.float64), np.asarray(peaks["y_peak"], dtype=np.float64)
    found = fit_points(residual, scene.weight, scene.psf, x, y, scene.fit)
    found = found[quality_passing(found)]
    found = unrelated(found[~lies_on(blocked, found)], sources, dedup * scene.psf.sigma)
    if found.size == 0:
        return found
    x, y = np.ascontiguousarray(found["x_fit"]), np.ascontiguousarray(found["y_fit"])
    found["flux_fit"] = solve_pinned(flat, scene.weight, scene.psf, x, y, radius=scene.radius).flux
    return found[found["flux_fit"] > 0.0]
