"""Windows about the anchor stars of a calibration, and how well a PSF fits them.

All anchors share one kernel. For a trial kernel every window is solved for the
fluxes of its stars and a pedestal, which is linear; what remains is the misfit
and its derivatives by the kernel's coordinates (variable projection, Kaufman 1975).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from sphot_mpi.config_sections import PsfCalibConfig
from sphot_mpi.kernels.psf import render_stars
from sphot_mpi.psf import PSF
from sphot_mpi.records import Image, Vector

#: Keeps the logarithm of a perfect fit finite.
SMALLEST_CHI2 = 1e-12
#: Least usable part of a window.
LEAST_USABLE = 0.7
#: Rounds of a position, and its longest step, px: further than that the derivative says nothing.
POSITION_ROUNDS, POSITION_STEP = 3, 0.5
#: Displacements, px, whose differences are the derivatives by x and y.
SHIFT_STEP = 0.05
SHIFTS = SHIFT_STEP * np.array([(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stamp:
    """A window about an anchor, which is its first star; positions are in the window's frame."""

    data: Image
    weight: Image
    x: Vector
    y: Vector

    @property
    def n_pix(self) -> int:
        """Usable pixels."""
        return int((self.weight > 0.0).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Misfit:
    """Sum of n ln chi2 of all stamps, with derivatives by the kernel's coordinates.

    That is the likelihood of stamps of unknown scatter; one that no kernel fits, an unresolved blend, hardly counts.

    Parameters
    ----------
    value : float
        The sum.
    gradient : (k,) float64 ndarray
        Half of its derivative.
    curvature : (k, k) float64 ndarray
        Half of its second derivative, Gauss-Newton's; the inverse is the covariance.
    """

    value: float
    gradient: Vector
    curvature: NDArray[np.float64]


def cut_stamps(
    image: Image,
    weight: Image,
    sources: tuple[Vector, Vector, Vector],
    chosen: NDArray[np.int64],
    psf: PSF,
    config: PsfCalibConfig,
) -> list[Stamp]:
    """Cut windows about the chosen sources, with the brightest neighbours of each; all others' light is taken off.

    Parameters
    ----------
    image, weight : (ny, nx) float64 ndarray
        Data without galaxy and sky, and 1 / variance (0 = do not use).
    sources : (x, y, flux)
        All sources; those without a finite position and a positive flux are no neighbours.
    chosen : (n,) int64 ndarray
        The anchors among them.
    psf : PSF
        Working PSF, whose width sets the windows' size.
    config : PsfCalibConfig
        Size of the windows and number of neighbours.

    Returns
    -------
    list of Stamp
        Without those of which too little is usable.
    """
    half = max(config.kernel_fit_stamp_half_min, int(np.ceil(config.kernel_fit_stamp_half_in_sigmaeff * psf.sigma)))
    x, y, flux = (np.asarray(values, dtype=np.float64) for values in sources)
    real = np.isfinite(x) & np.isfinite(y) & (flux > 0.0)
    reach = half + config.kernel_fit_neighbor_pad_pix
    # as far as any star of a window can be from any of its pixels
    radius = min(psf.radius, 2 * half + int(np.ceil(config.kernel_fit_neighbor_pad_pix)) + 1)
    left = image - _all_stars(image.shape, psf, x[real], y[real], flux[real], radius)
    stamps = []
    for anchor in chosen:
        column, row = round(float(x[anchor])), round(float(y[anchor]))
        y0, y1 = max(0, row - half), min(image.shape[0], row + half + 1)
        x0, x1 = max(0, column - half), min(image.shape[1], column + half + 1)
        window = weight[y0:y1, x0:x1]
        if (window > 0.0).sum() < LEAST_USABLE * (2 * half + 1) ** 2:
            continue
        near = real & (np.abs(x - x[anchor]) <= reach) & (np.abs(y - y[anchor]) <= reach)
        near[anchor] = False
        neighbours = np.flatnonzero(near)
        neighbours = neighbours[np.argsort(-flux[neighbours], kind="stable")][: config.kernel_fit_max_neighbors]
        stars = np.concatenate([[anchor], neighbours])
        stamp = Stamp(data=left[y0:y1, x0:x1], weight=window, x=x[stars] - x0, y=y[stars] - y0)
        # of the stars, those of the window are fitted, while the light of the others is taken off
        own = _rendered(stamp, psf, psf.planes, stamp.x, stamp.y, np.where(real[stars], flux[stars], 0.0))
        stamps.append(replace(stamp, data=stamp.data + own))
    return stamps


def _all_stars(shape: tuple[int, ...], psf: PSF, x: Vector, y: Vector, flux: Vector, radius: int) -> Image:
    """Image of all stars, each as far as `radius` px."""
    image = np.zeros(shape)
    render_stars(image, psf.planes, psf.oversample, *psf.origin, x, y, flux, np.full(x.size, radius))
    return image


def recentred(stamp: Stamp, psf: PSF, bound: float) -> Stamp:
    """Measure the anchor's position again, linearised, at most `bound` px from where it was."""
    root = np.sqrt(stamp.weight).ravel()
    start = stamp
    for _ in range(POSITION_ROUNDS):
        design = np.hstack([_columns(stamp, psf), _shift_columns(stamp, psf)]) * root[:, None]
        solution = np.linalg.lstsq(design, stamp.data.ravel() * root, rcond=None)[0]
        if solution[0] <= 0.0:
            return start
        dx, dy = np.clip(solution[-2:] / solution[0], -POSITION_STEP, POSITION_STEP)
        x, y = stamp.x.copy(), stamp.y.copy()
        x[0] = np.clip(x[0] + dx, start.x[0] - bound, start.x[0] + bound)
        y[0] = np.clip(y[0] + dy, start.y[0] - bound, start.y[0] + bound)
        stamp = replace(stamp, x=x, y=y)
    return stamp


def misfit(stamps: list[Stamp], psf: PSF, *, alone: bool) -> Misfit:
    """Misfit of a PSF to all stamps.

    Parameters
    ----------
    stamps : list of Stamp
        The windows.
    psf : PSF
        The library PSF under the trial kernel.
    alone : bool
        Fit flux, position (linearised) and pedestal of the anchor only, in place of the non-negative fluxes of all
        stars in the window and a pedestal.
    """
    size = psf.kernel.coordinates.size
    value, gradient, curvature = 0.0, np.zeros(size), np.zeros((size, size))
    for stamp in stamps:
        residual, slopes = _projected(stamp, psf, alone, _kernel_columns)
        chi2 = max(float(residual @ residual), SMALLEST_CHI2)
        value += stamp.n_pix * float(np.log(chi2))
        gradient -= stamp.n_pix / chi2 * (slopes.T @ residual)
        curvature += stamp.n_pix / chi2 * (slopes.T @ slopes)
    return Misfit(value, gradient, curvature)


def common_step(stamps: list[Stamp], psf: PSF) -> tuple[float, float]:
    """Displacement (x, y) of all stars together, px, that lowers the misfit most, linearised; 0 without any."""
    gradient, curvature = np.zeros(2), np.zeros((2, 2))
    for stamp in stamps:
        residual, slopes = _projected(stamp, psf, False, _displacement_columns)
        weight = stamp.n_pix / max(float(residual @ residual), SMALLEST_CHI2)
        gradient -= weight * (slopes.T @ residual)
        curvature += weight * (slopes.T @ slopes)
    step = np.clip(-np.linalg.lstsq(curvature, gradient, rcond=None)[0], -POSITION_STEP, POSITION_STEP)
    return float(step[0]), float(step[1])


def _projected(
    stamp: Stamp, psf: PSF, alone: bool, slopes_of: Callable[[Stamp, PSF, Vector], Image]
) -> tuple[Vector, Image]:
    """Weighted residual of a stamp at its best fluxes, and the model's slopes free of what the fluxes can take up."""
    root = np.sqrt(stamp.weight).ravel()
    target = stamp.data.ravel() * root
    if alone:
        stamp = replace(stamp, x=stamp.x[:1], y=stamp.y[:1])
        design = np.hstack([_columns(stamp, psf), _shift_columns(stamp, psf)]) * root[:, None]
        solution = np.linalg.lstsq(design, target, rcond=None)[0]
        # the star and the four whose differences make its shift
        step = np.concatenate(([[0.0, 0.0]], SHIFTS))
        stamp = replace(stamp, x=stamp.x + step[:, 0], y=stamp.y + step[:, 1])
        flux = np.append(solution[0], SHIFTS @ solution[-2:] / (2.0 * SHIFT_STEP**2))
    else:
        design = _columns(stamp, psf) * root[:, None]
        # the pedestal may have either sign
        both = optimize.nnls(np.hstack([design, -design[:, -1:]]), target)[0]
        solution = np.append(both[:-2], both[-2] - both[-1])
        used = np.append(both[:-2] > 0.0, True)
        design, solution = design[:, used], solution[used]
        flux = solution[:-1]
        stamp = replace(stamp, x=stamp.x[used[:-1]], y=stamp.y[used[:-1]])
    slopes = slopes_of(stamp, psf, flux) * root[:, None]
    slopes -= design @ np.linalg.lstsq(design, slopes, rcond=None)[0]
    return target - design @ solution, slopes


def _radius(stamp: Stamp) -> int:
    """Half-size of a star's image, px, that covers the window from wherever it stands."""
    return 4 * int(max(stamp.data.shape))


def _rendered(stamp: Stamp, psf: PSF, planes: NDArray[np.float64], x: Vector, y: Vector, flux: Vector) -> Image:
    """Image of stars on a stamp's window."""
    image = np.zeros(stamp.data.shape)
    radius = np.full(x.size, _radius(stamp))
    render_stars(image, planes, psf.oversample, *psf.origin, x, y, flux, radius)
    return image


def _columns(stamp: Stamp, psf: PSF) -> Image:
    """Unit-flux images of the stamp's stars and a pedestal, (pixels, stars + 1)."""
    one = np.ones(1)
    columns = [
        _rendered(stamp, psf, psf.planes, stamp.x[k : k + 1], stamp.y[k : k + 1], one) for k in range(stamp.x.size)
    ]
    return np.asarray(np.stack([*columns, np.ones(stamp.data.shape)]).reshape(stamp.x.size + 1, -1).T)


def _shift_columns(stamp: Stamp, psf: PSF) -> Image:
    """Derivatives of the anchor's unit-flux image by x and y, (pixels, 2)."""
    return _displacement_columns(replace(stamp, x=stamp.x[:1], y=stamp.y[:1]), psf, np.ones(1))


def _kernel_columns(stamp: Stamp, psf: PSF, flux: Vector) -> Image:
    """Derivatives of the stars' image by the kernel's coordinates, (pixels, k)."""
    images = [_rendered(stamp, psf, planes, stamp.x, stamp.y, flux) for planes in psf.kernel_planes]
    return np.asarray(np.stack(images).reshape(len(images), -1).T)


def _displacement_columns(stamp: Stamp, psf: PSF, flux: Vector) -> Image:
    """Derivatives of the stars' image by a displacement of all along x and y, (pixels, 2)."""
    images = [_rendered(stamp, psf, psf.planes, stamp.x + dx, stamp.y + dy, flux) for dx, dy in SHIFTS]
    # central differences
    derivatives = (np.stack(images[0::2]) - np.stack(images[1::2])) / (2.0 * SHIFT_STEP)
    return np.asarray(derivatives.reshape(2, -1).T)
