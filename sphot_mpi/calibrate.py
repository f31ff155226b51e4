"""The PSF kernel from bright anchor stars: which kernel makes the library PSF fit them best.

All anchors share one kernel. For a trial kernel every stamp is solved for the
fluxes of its stars and a pedestal, which is linear; what remains is a search in
the one or two parameters of the kernel's family.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from sphot_mpi.background import elliptical_radius
from sphot_mpi.config import PsfCalibConfig
from sphot_mpi.flags import FitFlag, SourceFlag
from sphot_mpi.kernels.psf import render_stars
from sphot_mpi.psf import PSF
from sphot_mpi.psf_kernel import FAMILIES, Kernel, KernelFamily
from sphot_mpi.records import Image, KernelFit, SersicParams
from sphot_mpi.source_cuts import quality_passing

Vector = NDArray[np.float64]

FEWEST_ANCHORS = 3

ROUNDS, FWHM_TOLERANCE = 3, 0.05
"""Most rounds of positions and kernel, and the change of the FWHM, px, below which another is not needed."""

SMALLEST_CHI2 = 1e-12
"""Keeps the logarithm of a perfect fit finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A kernel as measured, and what was noteworthy."""

    kernel: Kernel
    fit: KernelFit
    flags: FitFlag


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stamp:
    """A window about an anchor, which is its first star; positions are in the window's frame."""

    data: Image
    weight: Image
    x: Vector
    y: Vector


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
        With the old kernel, and flag KERNEL_FEW_ANCHORS, where fewer than three anchors are left.
    """
    family = FAMILIES[config.kernel_family]
    chosen = choose_anchors(sources, image.shape, galaxy, config)
    stamps = _cut_stamps(image, weight, sources, chosen, psf, config)
    if len(stamps) < FEWEST_ANCHORS:
        kept = KernelFit(
            family=psf.kernel.family, values=psf.kernel.values, errors=(float("nan"),) * len(psf.kernel.values),
            fwhm=psf.fwhm, n_anchors=len(stamps),
        )  # fmt: skip
        return Calibration(kernel=psf.kernel, fit=kept, flags=FitFlag.KERNEL_FEW_ANCHORS)
    alone = config.kernel_fit_objective == "single_source"
    working = psf
    for _ in range(ROUNDS):
        placed = stamps
        if config.calib_xy_bounds is not None:
            placed = [_recentred(stamp, working, config.calib_xy_bounds) for stamp in stamps]
        misfit = _misfit(placed, psf, family, alone)
        values = _minimise(misfit, family, working.kernel)
        before, working = working.fwhm, psf.with_kernel(Kernel(family.name, values))
        # positions measured with a wrong kernel, among neighbours, were wrong too
        if config.calib_xy_bounds is None or abs(working.fwhm - before) < FWHM_TOLERANCE:
            break
    errors = _errors(misfit, values, family)
    fit = KernelFit(family=family.name, values=values, errors=errors, fwhm=working.fwhm, n_anchors=len(stamps))
    return Calibration(kernel=working.kernel, fit=fit, flags=_bound_flag(values, family))


def _misfit(stamps: list[_Stamp], psf: PSF, family: KernelFamily, alone: bool) -> Callable[[Vector], float]:
    """Sum of n ln chi2 of all stamps as a function of the kernel's parameters.

    That is the likelihood of stamps of unknown scatter; one that no kernel fits, an unresolved blend, hardly counts.
    """

    def misfit(values: Vector) -> float:
        trial = psf.with_kernel(Kernel(family.name, tuple(float(v) for v in values)))
        return sum(_n_pix(stamp) * float(np.log(_stamp_chi2(stamp, trial, alone))) for stamp in stamps)

    return misfit


def choose_anchors(
    sources: NDArray[np.void], shape: tuple[int, ...], galaxy: SersicParams | None, config: PsfCalibConfig
) -> NDArray[np.int64]:
    """Indices of the brightest sources that pass the quality cuts and lie outside the galaxy, brightest first."""
    usable = sound_sources(sources)
    if galaxy is not None and config.center_mask_r_in_galaxy_size > 0.0:
        # a big galaxy must leave some stars
        limit = min(config.center_mask_r_in_galaxy_size * galaxy.r_eff, 0.45 * min(shape))
        radius = elliptical_radius(shape, galaxy)
        column = np.clip(np.rint(np.nan_to_num(sources["x_fit"])).astype(np.int64), 0, shape[1] - 1)
        row = np.clip(np.rint(np.nan_to_num(sources["y_fit"])).astype(np.int64), 0, shape[0] - 1)
        usable &= radius[row, column] > limit
    candidates = np.flatnonzero(usable)
    order = np.argsort(-sources["flux_fit"][candidates], kind="stable")
    return np.asarray(candidates[order[: config.kernel_anchor_K]])


def _cut_stamps(
    image: Image,
    weight: Image,
    sources: NDArray[np.void],
    chosen: NDArray[np.int64],
    psf: PSF,
    config: PsfCalibConfig,
) -> list[_Stamp]:
    """Windows about the anchors, with the brightest neighbours of each; those with half a core masked are left out."""
    spread = float(np.hypot(psf.with_kernel(Kernel()).sigma, psf.kernel.values[-1]))
    half = max(config.kernel_fit_stamp_half_min, int(np.ceil(config.kernel_fit_stamp_half_in_sigmaeff * spread)))
    x, y, flux = (np.asarray(sources[name], dtype=np.float64) for name in ("x_fit", "y_fit", "flux_fit"))
    real = np.isfinite(x) & np.isfinite(y) & (flux > 0.0)
    reach = half + config.kernel_fit_neighbor_pad_pix
    stamps = []
    for anchor in chosen:
        column, row = round(float(x[anchor])), round(float(y[anchor]))
        y0, y1 = max(0, row - half), min(image.shape[0], row + half + 1)
        x0, x1 = max(0, column - half), min(image.shape[1], column + half + 1)
        window = weight[y0:y1, x0:x1]
        if (window > 0.0).sum() < 0.7 * (2 * half + 1) ** 2:
            continue
        near = real & (np.abs(x - x[anchor]) <= reach) & (np.abs(y - y[anchor]) <= reach)
        near[anchor] = False
        neighbours = np.flatnonzero(near)
        neighbours = neighbours[np.argsort(-flux[neighbours], kind="stable")][: config.kernel_fit_max_neighbors]
        stars = np.concatenate([[anchor], neighbours])
        stamps.append(_Stamp(data=image[y0:y1, x0:x1], weight=window, x=x[stars] - x0, y=y[stars] - y0))
    return stamps


def _columns(stamp: _Stamp, psf: PSF) -> Image:
    """Unit-flux images of the stamp's stars and a pedestal, (pixels, stars + 1)."""
    columns = np.empty((stamp.x.size + 1, *stamp.data.shape))
    columns[-1] = 1.0
    radius = np.array([4 * max(stamp.data.shape)])
    columns[:-1] = 0.0
    for k in range(stamp.x.size):
        render_stars(
            columns[k],
            psf.planes,
            psf.oversample,
            *psf.origin,
            stamp.x[k : k + 1],
            stamp.y[k : k + 1],
            np.ones(1),
            radius,
        )
    return np.asarray(columns.reshape(stamp.x.size + 1, -1).T)


def _shift_columns(stamp: _Stamp, psf: PSF, step: float = 0.05) -> Image:
    """Derivatives of the anchor's image by x and y, (pixels, 2), by central differences."""
    images = np.zeros((4, *stamp.data.shape))
    radius = np.array([4 * max(stamp.data.shape)])
    for image, (dx, dy) in zip(images, ((step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)), strict=True):
        x, y = stamp.x[:1] + dx, stamp.y[:1] + dy
        render_stars(image, psf.planes, psf.oversample, *psf.origin, x, y, np.ones(1), radius)
    derivatives = (images[0::2] - images[1::2]) / (2.0 * step)
    return np.asarray(derivatives.reshape(2, -1).T)


def _recentred(stamp: _Stamp, psf: PSF, bound: float, rounds: int = 3) -> _Stamp:
    """Measure the anchor's position again, linearised, at most `bound` px from where it was."""
    root = np.sqrt(stamp.weight).ravel()
    start = stamp
    for _ in range(rounds):
        design = np.hstack([_columns(stamp, psf), _shift_columns(stamp, psf)]) * root[:, None]
        solution = np.linalg.lstsq(design, stamp.data.ravel() * root, rcond=None)[0]
        if solution[0] <= 0.0:
            return start
        # half a pixel a round: further than that the derivative says nothing
        dx, dy = np.clip(solution[-2:] / solution[0], -0.5, 0.5)
        x, y = stamp.x.copy(), stamp.y.copy()
        x[0] = np.clip(x[0] + dx, start.x[0] - bound, start.x[0] + bound)
        y[0] = np.clip(y[0] + dy, start.y[0] - bound, start.y[0] + bound)
        stamp = _Stamp(data=stamp.data, weight=stamp.weight, x=x, y=y)
    return stamp


def _n_pix(stamp: _Stamp) -> int:
    return int((stamp.weight > 0.0).sum())


def _stamp_chi2(stamp: _Stamp, psf: PSF, alone: bool) -> float:
    """Chi2 of one stamp at its best fluxes.

    With neighbours: non-negative fluxes and a pedestal of either sign (two columns). Alone: flux, position
    (linearised) and pedestal of the anchor.
    """
    root = np.sqrt(stamp.weight).ravel()
    if alone:
        only = _Stamp(data=stamp.data, weight=stamp.weight, x=stamp.x[:1], y=stamp.y[:1])
        design = np.hstack([_columns(only, psf), _shift_columns(only, psf)]) * root[:, None]
        target = stamp.data.ravel() * root
        left = design @ np.linalg.lstsq(design, target, rcond=None)[0] - target
        return max(float(left @ left), SMALLEST_CHI2)
    columns = _columns(stamp, psf)
    design = np.hstack([columns, -columns[:, -1:]]) * root[:, None]
    return max(float(optimize.nnls(design, stamp.data.ravel() * root)[1] ** 2), SMALLEST_CHI2)


def _minimise(misfit: Callable[[Vector], float], family: KernelFamily, start: Kernel) -> tuple[float, ...]:
    """Bounded minimum: by golden section and parabolas in one dimension, by a simplex in two."""
    if len(family.start) == 1:
        found = optimize.minimize_scalar(
            lambda value: misfit(np.array([value])),
            bounds=(family.lower[0], family.upper[0]),
            method="bounded",
            options={"xatol": 2e-3},
        )
        return (float(found.x),)
    first = np.array(start.values if start.family == family.name else family.start)
    bounds = list(zip(family.lower, family.upper, strict=True))
    found = optimize.minimize(
        misfit, first, method="Nelder-Mead", bounds=bounds, options={"xatol": 2e-3, "fatol": 1e-2, "maxfev": 120}
    )
    return tuple(float(v) for v in found.x)


def _errors(misfit: Callable[[Vector], float], values: tuple[float, ...], family: KernelFamily) -> tuple[float, ...]:
    """1-sigma errors from the curvature of the misfit, which counts as a chi2; NaN where there is no minimum."""
    at, step = np.array(values), 0.03
    size = at.size
    centre = np.clip(at, np.array(family.lower) + step, np.array(family.upper) - step)
    lowest = misfit(centre)
    hessian = np.empty((size, size))
    unit = step * np.eye(size)
    for i in range(size):
        hessian[i, i] = (misfit(centre + unit[i]) - 2.0 * lowest + misfit(centre - unit[i])) / step**2
        for j in range(i):
            mixed = misfit(centre + unit[i] + unit[j]) - misfit(centre + unit[i] - unit[j])
            mixed -= misfit(centre - unit[i] + unit[j]) - misfit(centre - unit[i] - unit[j])
            hessian[i, j] = hessian[j, i] = mixed / (4.0 * step**2)
    if not np.isfinite(hessian).all() or np.linalg.eigvalsh(hessian)[0] <= 0.0:
        return (float("nan"),) * size
    variance = np.diag(np.linalg.inv(0.5 * hessian))
    return tuple(float(v) for v in np.sqrt(variance))


def _bound_flag(values: tuple[float, ...], family: KernelFamily) -> FitFlag:
    """KERNEL_AT_BOUND if a parameter lies within 1 % of its range of a bound; no blur at all is none."""
    for value, low, high in zip(values, family.lower, family.upper, strict=True):
        margin = 0.01 * (high - low)
        if value > high - margin or (low > 0.0 and value < low + margin):
            return FitFlag.KERNEL_AT_BOUND
    return FitFlag(0)
