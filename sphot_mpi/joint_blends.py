"""Blends: two stars so near each other that the sum has one peak and no second star can be detected beside the first.

What one star leaves of them is a pattern of both signs in its core, large where the blend is bright. It broadens the
kernel, and where the two have different colours it moves the star from filter to filter. So bright stars whose cores
fit much worse than those of others are fitted again as two, the rest of the scene held; the pair stays where it
explains most of the misfit.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sphot_mpi.joint import State
from sphot_mpi.joint_scene import Optics
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.point_render import star_stamps
from sphot_mpi.records import Vector

#: Least S/N of a star that may be a blend, its misfit over the bright stars' median, and its least misfit at all.
BLEND_SNR, MISFIT_RATIO, LEAST_MISFIT = 30.0, 2.5, 2.0
#: Half-size of the window of a trial, FWHM, and most steps of its fit, which ends when chi2 falls by less than a part.
WINDOW_FWHM, STEPS, QUIET_CHI2 = 1.2, 11, 1e-3
#: Part of the diagonal that is added to it: at first, and factors after a good and after a bad step.
FIRST_DAMPING, DAMPING_FALL, DAMPING_RISE = 3e-3, 0.3, 10.0
#: Part of the trace that is added so that two stars on one place can be solved.
RIDGE = 1e-12
#: A pair must leave at most this part of one star's chi2, and gain this much, in units of the noise's correlation.
MOST_LEFT, LEAST_GAIN = 0.6, 60.0
#: Range of a pair's separation, FWHM, and the fainter one's least share of the light.
SEPARATION_FWHM, LEAST_SHARE = (0.3, 0.9), 0.1
#: Starts: half the separation, FWHM, and the directions tried.
START_FWHM, DIRECTIONS = 0.2, 4


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A star and its surroundings without all other stars.

    Parameters
    ----------
    image, weight : (side, side) float64 ndarray
        Light of the star or pair, and 1 / variance.
    corner : (int, int)
        (y, x) of the first pixel on the frame.
    """

    image: NDArray[np.float64]
    weight: NDArray[np.float64]
    corner: tuple[int, int]


def split_blends(state: State) -> State:
    """Return the state with the bright stars that are two as two.

    Parameters
    ----------
    state : State
        Solved.
    """
    stars, optics = state.scene.stars, state.optics
    suspects = _suspects(state)
    if suspects.size == 0:
        return state
    residual = state.residual
    pairs = [(k, pair) for k in suspects if (pair := _pair(stars, int(k), optics, residual)) is not None]
    if not pairs:
        return state
    single = np.ones(stars.size, bool)
    single[[k for k, _ in pairs]] = False
    x, y, flux = np.concatenate([pair for _, pair in pairs], axis=1)
    both = replace(Stars.new(x, y, flux), free=np.ones(x.size, bool))
    return replace(state, scene=state.scene.with_stars(stars.take(single).join(both)))


def _suspects(state: State) -> NDArray[np.int64]:
    """Indices of bright free stars whose cores fit worse than those of the others."""
    stars, frame = state.scene.stars, state.optics.frame
    bright = (stars.snr(frame.correlation) > BLEND_SNR) & ~stars.anchored & at(frame.good, stars)
    if not bright.any():
        return np.zeros(0, np.int64)
    misfit = _misfit(state)
    return np.flatnonzero(bright & (misfit > max(MISFIT_RATIO * float(np.median(misfit[bright])), LEAST_MISFIT)))


def _misfit(state: State) -> Vector:
    """Reduced chi2 in a square about each star, 0 where nothing of it is used."""
    frame, side = state.optics.frame, 2 * max(1, round(0.5 * state.optics.fwhm)) + 1
    chi2 = ndimage.uniform_filter(frame.weight * state.residual**2, side)
    used = ndimage.uniform_filter(frame.good.astype(np.float64), side)
    return at(np.divide(chi2, used, out=np.zeros_like(chi2), where=used > 1e-9), state.scene.stars)


def _pair(stars: Stars, k: int, optics: Optics, residual: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Rows x, y and flux of two stars in the place of star `k`, if they are much better."""
    star = np.array([[stars.x[k]], [stars.y[k]], [stars.flux[k]]])
    window = _window(star, optics, residual)
    if window is None:
        return None
    one, chi2_one = _fitted(star, window, optics)
    best, chi2_best = None, np.inf
    for turn in np.pi * np.arange(DIRECTIONS) / DIRECTIONS:
        offset = START_FWHM * optics.fwhm * np.array([[np.cos(turn)], [np.sin(turn)], [0.0]])
        half = one * np.array([[1.0], [1.0], [0.5]])
        two, chi2 = _fitted(np.hstack((half - offset, half + offset)), window, optics)
        if chi2 < chi2_best:
            best, chi2_best = two, chi2
    if best is None:  # one star has run to the window's edge, after light that is not its own
        return None
    apart = float(np.hypot(*(best[:2, 1] - best[:2, 0]))) / optics.fwhm
    gain = (chi2_one - chi2_best) / optics.frame.correlation**2
    real = best[2].min() > LEAST_SHARE * best[2].sum() and SEPARATION_FWHM[0] < apart < SEPARATION_FWHM[1]
    near = np.hypot(best[0] - star[0], best[1] - star[1]).max() < SEPARATION_FWHM[1] * optics.fwhm
    return best if real and near and chi2_best < MOST_LEFT * chi2_one and gain > LEAST_GAIN else None


def _window(star: NDArray[np.float64], optics: Optics, residual: NDArray[np.float64]) -> Window | None:
    """Surroundings of a star on the frame; None at its edge."""
    radius = max(2, round(WINDOW_FWHM * optics.fwhm))
    y, x = round(float(star[1, 0])) - radius, round(float(star[0, 0])) - radius
    part = (slice(y, y + 2 * radius + 1), slice(x, x + 2 * radius + 1))
    if min(x, y) < 0 or residual[part].shape != (2 * radius + 1,) * 2:
        return None
    empty = Window(residual[part], optics.frame.weight[part], (y, x))
    columns = _columns(star, empty, optics)
    return None if columns is None else replace(empty, image=empty.image + star[2, 0] * columns[0, 0])


def _columns(stars: NDArray[np.float64], window: Window, optics: Optics) -> NDArray[np.float64] | None:
    """P, dP/dx, dP/dy (n, 3, side, side) of stars (3, n) on a window; None where one has left it."""
    side, margin = window.image.shape[0], 3
    stamps, corner_y, corner_x = star_stamps(optics.stars.core, stars[0], stars[1], side // 2 + margin)
    out = np.empty((stars.shape[1], 3, side, side))
    for k, stamp in enumerate(stamps):
        dy, dx = window.corner[0] - corner_y[k], window.corner[1] - corner_x[k]
        if min(dx, dy) < 0 or max(dx, dy) > 2 * margin:
            return None
        out[k] = stamp[:, dy : dy + side, dx : dx + side]
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Normal:
    """Normal equations of stars (flux, x, y of each) and a level on a window, and the chi2 that they start from.

    The level is linear: it is taken out of image and columns alike.
    """

    chi2: float
    gram: NDArray[np.float64]
    rhs: Vector

    @classmethod
    def of(cls, stars: NDArray[np.float64], window: Window, optics: Optics) -> "_Normal | None":
        """Those of stars (3, n); None where one has left the window."""
        columns = _columns(stars, window, optics)
        if columns is None:
            return None
        weight, root = window.weight, np.sqrt(window.weight)
        left = window.image - np.tensordot(stars[2], columns[:, 0], axes=1)
        left = root * (left - (weight * left).sum() / weight.sum())
        columns[:, 1:] *= stars[2][:, None, None, None]
        level = np.tensordot(columns, weight, axes=2) / weight.sum()
        design = (root * (columns - level[..., None, None])).reshape(-1, root.size)
        return cls(float((left**2).sum()), design @ design.T, design @ left.ravel())

    def step(self, damping: float) -> NDArray[np.float64]:
        """Damped Gauss-Newton step, (3, n): x, y and flux."""
        ridge = RIDGE * np.trace(self.gram) * np.eye(len(self.gram))
        step = np.linalg.solve(self.gram + damping * np.diag(np.diag(self.gram)) + ridge, self.rhs)
        # columns go flux, x, y
        return step.reshape(-1, 3).T[[1, 2, 0]]


def _fitted(stars: NDArray[np.float64], window: Window, optics: Optics) -> tuple[NDArray[np.float64], float]:
    """Fit stars and a level to a window by damped Gauss-Newton; returns them with the chi2, inf if they are off it."""
    normal = _Normal.of(stars, window, optics)
    if normal is None:
        return stars, np.inf
    best, damping = stars, FIRST_DAMPING
    for _ in range(STEPS):
        trial = best + np.clip(normal.step(damping), *_limits(best, optics))
        new = _Normal.of(trial, window, optics)
        if new is None or not new.chi2 < normal.chi2:
            damping *= DAMPING_RISE
            continue
        quiet = normal.chi2 - new.chi2 < QUIET_CHI2 * new.chi2
        best, normal, damping = trial, new, DAMPING_FALL * damping
        if quiet:
            break
    return best, normal.chi2


def _limits(stars: NDArray[np.float64], optics: Optics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longest steps: a fifth of a FWHM, half of the light."""
    most = np.array([[0.2 * optics.fwhm], [0.2 * optics.fwhm], [0.5 * float(np.abs(stars[2]).sum())]])
    return -most, most
