"""Bounds of the galaxy's shapes, and Gauss-Newton steps that end at bounds instead of beyond them.

A step that is cut at a bound after it was solved belongs to a value out of reach: the other unknowns come to rest where
no minimum of what is within reach is. So what would leave its range is held at the range's end, and the others are
solved for that (an active set: Nocedal & Wright 2006, *Numerical Optimization*, algorithm 16.3).
"""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.errors import FitError
from sphot_mpi.joint_scene import LARGEST_COMPONENT, Galaxy
from sphot_mpi.records import Vector

#: Smallest r_circ, px, and range of ln n and of the length of eta (ellip <= 0.95).
SMALLEST_R = 0.15
LN_N_RANGE = (np.log(0.3), np.log(8.0))
#: Components that share no centre keep below this ln n if they are: their wings would be taken from the field's
#: unfitted stars.
LN_N_APART = np.log(2.0)
ETA_MAX = float(-np.log(0.05))
#: A bound is met within this, in ln n.
AT_END = 1e-3
#: Singular values below this part of the largest one tell nothing.
LEAST_SINGULAR = 1e-12
NOT_FINITE = "the galaxy's normal equations are not finite"


def shape_ranges(galaxy: Galaxy, shape: tuple[int, int]) -> tuple[Vector, Vector]:
    """Smallest and largest ln r_circ and ln n, (c, 2) each, of a galaxy's components on a frame of some shape."""
    tied = galaxy.apart & (galaxy.shapes[:, 1] < LN_N_APART + AT_END)
    largest_n = np.where(tied, LN_N_APART, LN_N_RANGE[1])
    low = np.tile([np.log(SMALLEST_R), LN_N_RANGE[0]], (galaxy.size, 1))
    return low, np.column_stack((largest_r(galaxy.shapes, shape), largest_n))


def largest_r(shapes: NDArray[np.float64], shape: tuple[int, int]) -> Vector:
    """Largest ln r_circ (c,) that goes with each component's ellipse."""
    length = np.minimum(np.hypot(shapes[:, 2], shapes[:, 3]), ETA_MAX)
    # r_circ = r_eff sqrt(q)
    return np.asarray(np.log(LARGEST_COMPONENT * max(shape)) - 0.5 * length)


def bounded_step(matrix: NDArray[np.float64], rhs: Vector, low: Vector, high: Vector) -> Vector:
    """Solve normal equations for a step that stays within its ranges.

    Parameters
    ----------
    matrix : (m, m) float64 ndarray
        Normal matrix.
    rhs : (m,) float64 ndarray
        Right-hand side.
    low, high : (m,) float64 ndarray
        Smallest and largest step of each unknown, equal where it is told; else 0 is among them.

    Returns
    -------
    (m,) float64 ndarray
        The step.

    Raises
    ------
    FitError
        If matrix or right-hand side are not finite.
    """
    if not np.isfinite(rhs).all():
        raise FitError(NOT_FINITE)
    told = low == high
    held, step = told.copy(), np.clip(np.zeros(rhs.size), low, high)
    # what round-off alone would move is not held and released for ever
    again = ~told
    while True:
        free, goal = ~held, step.copy()
        goal[free] = invert(matrix[np.ix_(free, free)]) @ (rhs[free] - matrix[np.ix_(free, held)] @ step[held])
        end = np.clip(goal, low, high)
        if (end != goal).any():
            # on the way there, as far as the first range allows
            out = np.flatnonzero(end != goal)
            part = (end - step)[out] / (goal - step)[out]
            step = np.clip(step + part.min() * (goal - step), low, high)
            first = out[part == part.min()]
            step[first] = end[first]
            held[first] = True
            continue
        step = goal
        pull = rhs - matrix @ step
        inward = held & again & np.where(step == low, pull > 0.0, pull < 0.0)
        if not inward.any():
            return step
        # the one that would gain most alone
        gain = np.where(inward, pull**2 / np.maximum(np.diag(matrix), 1e-300), -np.inf)
        released = int(np.argmax(gain))
        held[released] = again[released] = False


def invert(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pseudo-inverse of a matrix that is nearly symmetric and positive semi-definite, scaled to unit diagonal first.

    Parameters
    ----------
    matrix : (m, m) float64 ndarray
        The matrix.

    Returns
    -------
    (m, m) float64 ndarray
        Its pseudo-inverse.

    Raises
    ------
    FitError
        If it is not finite.
    """
    size = np.abs(np.diag(matrix))
    # what no pixel tells stays as it is
    scale = np.where(size > 0.0, 1.0 / np.sqrt(np.maximum(size, 1e-300)), 0.0)
    scaled = matrix * scale[:, None] * scale[None, :]
    if not np.isfinite(scaled).all():
        raise FitError(NOT_FINITE)
    return np.asarray(_pseudo_inverse(scaled) * scale[:, None] * scale[None, :])


def _pseudo_inverse(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pseudo-inverse of a finite matrix, which is the inverse, at a fraction of the cost, where that is well known."""
    try:
        inverse = np.linalg.inv(scaled)
    except np.linalg.LinAlgError:
        inverse = np.full_like(scaled, np.inf)
    # the norms' product is no less than the ratio of largest to smallest singular value
    if np.linalg.norm(scaled) * np.linalg.norm(inverse) < 0.1 / LEAST_SINGULAR:
        return np.asarray(inverse)
    return np.asarray(np.linalg.pinv(scaled, rcond=LEAST_SINGULAR))
