"""The seed's ways to fit a Sersic: simplex, annealing, BFGS and the L-BFGS-B polish.

They search in all parameters of the galaxy, amplitude included; only the sky plane, if it is fitted, is solved for
at each point. The coordinates are ``x_0, y_0`` and for each component ``ln amplitude, ln r_eff, ln n, ellip, theta``,
standardised: counted from the start in steps that are typical of each. The ellipticity may pass through zero, r_eff
then being the half-axis along theta whichever is the longer: a wall at the circle would hold every search whose
start points the wrong way.
"""

from collections.abc import Callable

import numpy as np
from scipy import optimize

from sphot_mpi.records import Array, SersicParams
from sphot_mpi.sersic import from_vector, params_jacobian, total_flux
from sphot_mpi.sersic_problem import Evaluation, SersicBounds, SersicProblem, join_theta, split_theta

METHODS = ("iterative_NM", "dual_annealing", "BFGS", "lbfgsb_polish")

#: Unit of the standardised coordinates.
_UNIT_CENTRE = 1.0
_UNIT_SHAPE = (0.3, 0.3, 0.3, 0.1, 0.3)
#: Range of ln amplitude about the start.
_AMPLITUDE_RANGE = np.log(100.0)
#: Flattest galaxy across theta, 1 - b/a with b > a.
_ACROSS = -1.0
#: A search is repeated from its end until a pass gains less chi2 than this.
_QUIET = 1e-2
_PASSES = 30
_DEFAULT_EVALUATIONS = {"iterative_NM": 6000, "dual_annealing": 3000, "BFGS": 300, "lbfgsb_polish": 300}


class Coordinates:
    """Standardised coordinates about a start, with their bounds.

    Parameters
    ----------
    components : list of SersicParams
        Start; zero of the coordinates.
    bounds : SersicBounds
        Ranges.
    shape : (int, int)
        (ny, nx) of the cutout.
    """

    def __init__(self, components: list[SersicParams], bounds: SersicBounds, shape: tuple[int, int]) -> None:
        self.count = len(components)
        self.zero = np.array([components[0].x_0, components[0].y_0])
        low, high = bounds.ranges(shape)
        lower, upper = [low[:2]], [high[:2]]
        for p in components:
            own = np.array([np.log(p.amplitude), np.log(p.r_eff), np.log(p.n), p.ellip, p.theta])
            self.zero = np.concatenate([self.zero, own])
            lower.append(
                np.array([own[0] - _AMPLITUDE_RANGE, np.log(low[2]), np.log(low[3]), _ACROSS, p.theta - 0.5 * np.pi])
            )
            upper.append(
                np.array([own[0] + _AMPLITUDE_RANGE, np.log(high[2]), np.log(high[3]), high[4], p.theta + 0.5 * np.pi])
            )
        self.unit = np.concatenate([[_UNIT_CENTRE] * 2, np.tile(_UNIT_SHAPE, self.count)])
        self.lower = (np.concatenate(lower) - self.zero) / self.unit
        self.upper = (np.concatenate(upper) - self.zero) / self.unit

    def components(self, z: Array) -> list[SersicParams]:
        """Components at the coordinates `z`."""
        c = self.zero + self.unit * z
        found = []
        for a, r, n, e, theta in c[2:].reshape(-1, 5):
            across = e < 0.0
            found.append(
                SersicParams(
                    amplitude=float(np.exp(a)),
                    r_eff=float(np.exp(r) * (1.0 - e if across else 1.0)),
                    n=float(np.exp(n)),
                    x_0=float(c[0]),
                    y_0=float(c[1]),
                    ellip=float(-e / (1.0 - e) if across else e),
                    theta=float(theta + 0.5 * np.pi if across else theta),
                )
            )
        return found

    def slope(self, z: Array, evaluation: Evaluation, components: list[SersicParams]) -> Array:
        """Derivative of chi2 by the coordinates."""
        slope = np.zeros(self.zero.size)
        slope[:2] = evaluation.gradient[:2]
        for c, (p, vector) in enumerate(zip(components, split_theta(evaluation.theta), strict=True)):
            inner = np.concatenate([evaluation.flux_gradient[[c]], evaluation.gradient[2 + 4 * c : 6 + 4 * c]])
            # (flux, ln r_circ, ln n, eta) by (amplitude, r_eff, n, ellip, theta)
            inverse = np.linalg.inv(params_jacobian(vector, float(evaluation.linear[c])))
            part = inverse[np.ix_([0, 3, 4, 5, 6], [0, 1, 2, 5, 6])].T @ inner
            e = self.zero[5 + 5 * c] + self.unit[5 + 5 * c] * z[5 + 5 * c]
            if e < 0.0:
                # r_eff = r (1 - e), ellip = -e / (1 - e)
                part[3] = -part[1] * p.r_eff / (1.0 - e) - part[3] / (1.0 - e) ** 2
            slope[2 + 5 * c : 7 + 5 * c] = part * np.array([p.amplitude, p.r_eff, p.n, 1.0, 1.0])
        slope *= -2.0 * self.unit
        return slope


class Objective:
    """Chi2 and its derivative in standardised coordinates, counting evaluations."""

    def __init__(self, problem: SersicProblem, coordinates: Coordinates) -> None:
        self.problem = problem
        self.coordinates = coordinates
        self.count = 0

    def split(self, z: Array) -> tuple[list[SersicParams], Array, Array]:
        """Components, non-linear parameters and fluxes at `z`."""
        components = self.coordinates.components(z)
        return components, join_theta(components), np.array([total_flux(p) for p in components])

    def value(self, z: Array) -> float:
        """Chi2."""
        self.count += 1
        _, theta, flux = self.split(z)
        return self.problem.chi2(theta, flux)

    def value_and_slope(self, z: Array) -> tuple[float, Array]:
        """Chi2 with its derivative."""
        self.count += 1
        components, theta, flux = self.split(z)
        evaluation = self.problem.evaluate(theta, flux)
        return evaluation.chi2, self.coordinates.slope(z, evaluation, components)


def search(
    problem: SersicProblem,
    first: Evaluation,
    bounds: SersicBounds,
    method: str,
    max_evaluations: int | None,
    seed: int,
) -> tuple[Evaluation, bool, int]:
    """Minimise chi2 with one of `METHODS`.

    Parameters
    ----------
    problem : SersicProblem
        Data and model.
    first : Evaluation
        Start, with light.
    bounds : SersicBounds
        Ranges; theta within half a turn of the start's.
    method : str
        One of `METHODS`.
    max_evaluations : int or None
        Most evaluations of chi2 or its derivative; None: the method's default.
    seed : int
        Of the annealing.

    Returns
    -------
    best : Evaluation
        Lowest point found, never above the start.
    converged : bool
        Whether the method stopped by itself.
    n_evaluations : int
        Evaluations.
    """
    vectors = split_theta(bounds.project(first.theta, problem.shape))
    flux = first.linear[: len(vectors)]
    # of an amplitude there is a logarithm only where there is light
    flux = np.maximum(flux, 0.01 * flux.sum())
    components = [from_vector(v, float(f)) for v, f in zip(vectors, flux, strict=True)]
    budget = max_evaluations or _DEFAULT_EVALUATIONS[method]
    count, converged, lowest = 0, False, np.inf
    for _ in range(_PASSES):
        objective = Objective(problem, Coordinates(components, bounds, problem.shape))
        lowest = min(lowest, objective.value(np.zeros(objective.coordinates.zero.size)))
        z, converged = _RUN[method](objective, max(budget - count, 1), seed)
        _, theta, flux = objective.split(z)
        theta = bounds.project(theta, problem.shape)
        gain = lowest - problem.chi2(theta, flux)
        count += objective.count + 1
        if gain > 0.0:
            components = [from_vector(v, float(f)) for v, f in zip(split_theta(theta), flux, strict=True)]
            lowest -= gain
        if gain < _QUIET or count >= budget or method == "dual_annealing":
            converged = converged or gain < _QUIET
            break
    fluxes = np.array([total_flux(p) for p in components])
    return problem.evaluate(join_theta(components), fluxes), converged, count


def _box(objective: Objective) -> optimize.Bounds:
    """Bounds in SciPy's form."""
    return optimize.Bounds(objective.coordinates.lower, objective.coordinates.upper)


def _simplex(objective: Objective, budget: int, seed: int) -> tuple[Array, bool]:
    """Nelder-Mead from a simplex of unit steps."""
    lower, upper = objective.coordinates.lower, objective.coordinates.upper
    # away from the nearer bound, so that the simplex has a volume
    step = np.where(upper > 1.0, 1.0, -1.0)
    simplex = np.clip(np.vstack([np.zeros_like(step), np.diag(step)]), lower, upper)
    options = {"initial_simplex": simplex, "maxfev": min(200 * step.size, budget), "xatol": 1e-4, "fatol": 1e-3}
    found = optimize.minimize(
        objective.value, simplex[0], method="Nelder-Mead", bounds=_box(objective), options=options
    )
    return found.x, bool(found.success)


def _anneal(objective: Objective, budget: int, seed: int) -> tuple[Array, bool]:
    """Dual annealing over the whole box, with L-BFGS-B as its local search."""
    found = optimize.dual_annealing(
        objective.value,
        list(zip(objective.coordinates.lower, objective.coordinates.upper, strict=True)),
        x0=np.zeros(objective.coordinates.lower.size),
        maxfun=budget,
        maxiter=max(1, budget // 10),
        seed=np.random.default_rng(seed),
        minimizer_kwargs={
            "method": "L-BFGS-B",
            "jac": lambda z: objective.value_and_slope(z)[1],
            "bounds": list(zip(objective.coordinates.lower, objective.coordinates.upper, strict=True)),
        },
    )
    return found.x, bool(found.success)


def _polish(objective: Objective, budget: int, seed: int) -> tuple[Array, bool]:
    """L-BFGS-B with analytic derivatives."""
    found = optimize.minimize(
        objective.value_and_slope,
        np.zeros(objective.coordinates.lower.size),
        jac=True,
        method="L-BFGS-B",
        bounds=_box(objective),
        options={"maxfun": budget, "maxiter": budget, "ftol": 1e-10, "gtol": 1e-6},
    )
    return found.x, bool(found.success)


def _bfgs(objective: Objective, budget: int, seed: int) -> tuple[Array, bool]:
    """BFGS on the angles whose sine runs between the bounds, which keeps it inside them."""
    lower, upper = objective.coordinates.lower, objective.coordinates.upper
    half, middle = 0.5 * (upper - lower), 0.5 * (upper + lower)

    def scaled(angle: Array) -> tuple[float, Array]:
        value, slope = objective.value_and_slope(middle + half * np.sin(angle))
        return value, slope * half * np.cos(angle)

    # a start on a bound has no slope: step a little inside
    angle = np.arcsin(np.clip(-middle / half, -0.999, 0.999))
    found = optimize.minimize(scaled, angle, jac=True, method="BFGS", options={"maxiter": budget, "gtol": 1e-3})
    # what BFGS calls lost precision is a chi2 that no longer falls
    return middle + half * np.sin(found.x), found.status in (0, 2)


_RUN: dict[str, Callable[[Objective, int, int], tuple[Array, bool]]] = {
    "iterative_NM": _simplex,
    "dual_annealing": _anneal,
    "BFGS": _bfgs,
    "lbfgsb_polish": _polish,
}
