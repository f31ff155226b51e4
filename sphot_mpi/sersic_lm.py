"""Bounded Levenberg-Marquardt on the variable-projection functional.

The linear parameters (fluxes, sky) are solved for at each trial, and the step of the others comes from the Schur
complement of the joint normal matrix (Golub & Pereyra 1973 in Kaufman's 1975 approximation).
"""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.records import Array
from sphot_mpi.sersic_problem import Evaluation, SersicBounds, SersicProblem

#: Most that one step may change: px; then ln r_circ, ln n, eta_1, eta_2.
_STEP_CENTRE = 5.0
_STEP_SHAPE = (1.0, 0.7, 1.0, 1.0)
_LAMBDA_START, _LAMBDA_LEAST, _LAMBDA_MOST = 1e-3, 1e-9, 1e9


def levenberg_marquardt(
    problem: SersicProblem,
    theta: Array,
    bounds: SersicBounds,
    *,
    max_evaluations: int,
    tolerance: float = 1e-3,
    relative: float = 0.0,
) -> tuple[Evaluation, bool, int]:
    """Minimise chi2 from `theta`.

    Parameters
    ----------
    problem : SersicProblem
        Data and model.
    theta : (m,) float64 ndarray
        Start; moved into the bounds.
    bounds : SersicBounds
        Ranges.
    max_evaluations : int
        Most Jacobians.
    tolerance, relative : float
        Stop where a step gains less chi2 than the first, or than the second times chi2.

    Returns
    -------
    best : Evaluation
        Lowest point; its chi2 is inf where no trial gave positive fluxes.
    converged : bool
        Whether it stopped by itself.
    n_evaluations : int
        Jacobians computed.
    """
    best = problem.evaluate(bounds.project(theta, problem.shape))
    damping = _LAMBDA_START
    count = 1
    least = tolerance
    while count < max_evaluations:
        if np.isfinite(best.chi2):
            least = max(tolerance, relative * best.chi2)
        step, predicted = _step(best, bounds, problem.shape, damping)
        # nothing to gain, or nowhere to go
        if predicted < 1e-2 * least and np.isfinite(best.chi2):
            return best, True, count
        trial = problem.evaluate(bounds.project(best.theta + step, problem.shape))
        count += 1
        gain = best.chi2 - trial.chi2
        if trial.chi2 < best.chi2:
            best = trial
            if gain < least and damping <= 1.0:
                return best, True, count
            damping = max(0.1 * damping, _LAMBDA_LEAST)
            continue
        if abs(gain) < least and predicted < least:
            return best, True, count
        damping = max(8.0 * damping, 1e-3)
        if damping > _LAMBDA_MOST:
            return best, bool(np.isfinite(best.chi2)), count
    return best, False, count


def _step(best: Evaluation, bounds: SersicBounds, shape: tuple[int, int], damping: float) -> tuple[Array, float]:
    """Return the damped step inside the active bounds and the chi2 it promises to gain."""
    turn = _turn(best.theta, bounds)
    matrix = turn @ best.reduced() @ turn.T
    slope = turn @ best.gradient
    free = ~_blocked(best.theta, slope, bounds, shape)
    if not free.any():
        return np.zeros_like(slope), 0.0
    inner = matrix[np.ix_(free, free)]
    diagonal = np.maximum(np.diag(inner), 1e-12 * max(float(np.diag(matrix).max()), 1e-300))
    scale = 1.0 / np.sqrt(diagonal)
    scaled = inner * scale * scale[:, None] + damping * np.eye(scale.size)
    step = np.zeros_like(slope)
    step[free] = scale * np.linalg.lstsq(scaled, scale * slope[free], rcond=1e-14)[0]
    most = np.concatenate([[_STEP_CENTRE] * 2, np.tile(_STEP_SHAPE, (slope.size - 2) // 4)])
    step /= max(1.0, float(np.max(np.abs(step) / most)))
    predicted = float(2.0 * slope @ step - step @ matrix @ step)
    return turn.T @ step, predicted


def _turn(theta: Array, bounds: SersicBounds) -> Array:
    """Rotation of (eta_1, eta_2) into (radial, tangential), where the ellipticity is at its bound."""
    turn = np.eye(theta.size)
    for c in range(4, theta.size, 4):
        eta = float(np.hypot(theta[c], theta[c + 1]))
        if _most_elliptical(eta, bounds):
            cos, sin = theta[c] / eta, theta[c + 1] / eta
            turn[c : c + 2, c : c + 2] = [[cos, sin], [-sin, cos]]
    return turn


def _most_elliptical(eta: float, bounds: SersicBounds) -> bool:
    """Whether eta = -ln q has reached its bound."""
    most = -np.log1p(-bounds.ellip[1])
    return bool(eta > 0.0 and eta >= most * (1.0 - 1e-9))


def _blocked(theta: Array, slope: Array, bounds: SersicBounds, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Parameters that are at a bound and would be pushed through it; `slope` in the turned frame."""
    low, high = bounds.ranges(shape)
    lower, upper = np.full(theta.size, -np.inf), np.full(theta.size, np.inf)
    lower[:2], upper[:2] = low[:2], high[:2]
    for c in range(2, theta.size, 4):
        eta = float(np.hypot(theta[c + 2], theta[c + 3]))
        lower[c], upper[c] = np.log(low[2]) - 0.5 * eta, np.log(high[2]) - 0.5 * eta
        lower[c + 1], upper[c + 1] = np.log(low[3]), np.log(high[3])
        if _most_elliptical(eta, bounds):
            upper[c + 2] = -np.inf  # the radial component points outwards
    room = 1e-9
    blocked: NDArray[np.bool_] = ((theta <= lower + room) & (slope < 0.0)) | ((theta >= upper - room) & (slope > 0.0))
    return blocked
