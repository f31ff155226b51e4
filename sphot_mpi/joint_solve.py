"""One Gauss-Newton step for stars, sky, kernel and galaxy together.

The unknowns fall into two kinds: three columns a star (flux, x, y), each on a
small stamp, and a dozen dense columns (sky plane, kernel, common shift, galaxy).
The stars' normal matrix G is a band and factorised once; the dense unknowns are
solved in its Schur complement, whose inverse is their covariance marginal over
all stars. The stars' equations use core stamps, but the residual is that of the
full model: ``A_core^T W (data - model) = 0`` has no bias from cut wings
(crowdsource: Schlafly et al. 2018, ApJS 234, 39).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.errors import FitError
from sphot_mpi.joint_bounds import ETA_MAX, bounded_step, invert, largest_r, shape_ranges
from sphot_mpi.joint_kernel import prior_terms, shape_limit, stepped
from sphot_mpi.joint_mode_prior import MODE_NAMES, ModePrior
from sphot_mpi.joint_render import CENTRE_NAMES, MOVE_NAMES, SHAPE_NAMES, Freedom, Rendered, render_columns
from sphot_mpi.joint_scene import Frame, Galaxy, Optics, Scene
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.joint_stars import STAR_STEP, StarSystem, star_system
from sphot_mpi.kernels import dense as kernels
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import Image
from sphot_mpi.sersic_problem import PIXELS_TOGETHER

Vector = NDArray[np.float64]

#: Longest steps of the galaxy's parameters, and the damping scales of those steps.
GALAXY_STEP = {
    "x_0": 1.0,
    "y_0": 1.0,
    "move_x": 1.0,
    "move_y": 1.0,
    "ln_r": 0.4,
    "ln_n": 0.3,
    "eta_1": 0.3,
    "eta_2": 0.3,
}
GALAXY_DAMPING = {
    "x_0": 1.0,
    "y_0": 1.0,
    "move_x": 1.0,
    "move_y": 1.0,
    "ln_r": 0.5,
    "ln_n": 0.5,
    "eta_1": 0.5,
    "eta_2": 0.5,
}
#: Unknowns of the galaxy, without their component.
GALAXY_NAMES = ("scale", "flux", *GALAXY_STEP)
#: Components of one galaxy are not farther apart than this x its half-light radius: a lopsided galaxy's bulge is.
MOST_APART = 1.0
#: A step too long raises a star's damping by this x its length, in the longest allowed; a short one lowers it to no
#: less than this part. What the clipped step leaves in the fluxes the next one mends, for less than a second solve.
DAMPING_GAIN, DAMPING_RELIEF = 0.3, 0.3
#: Least new flux, in the old one, that lengthens a star's displacement.
LEAST_RISE = 0.5
#: The place of a galaxy that moves as a whole, beside its measured light, need not be known better than this, px.
LEAST_PLACE_ERROR = 0.02
#: A galaxy that is scaled keeps at least this part of its flux in one step.
LEAST_SCALE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """Result of one Gauss-Newton step.

    Parameters
    ----------
    scene : Scene
        The scene after the step.
    kernel : Kernel
        The kernel after the step.
    chi2 : float
        Of data minus model *before* the step.
    names : tuple of str
        Dense unknowns: sky0..2, kernel (and kernel_shape), shift_x, shift_y,
        and for component c "c.flux", "c.x_0", "c.y_0", "c.ln_r" ...
    covariance : (m, m) float64 ndarray
        Of the dense unknowns, marginal over all stars.
    inverse : (m, m) float64 ndarray
        Change of the dense unknowns with the right-hand sides of their equations.
    moved : float
        Longest step of the galaxy's unknowns, in their errors; 0 where it is held.
    """

    scene: Scene
    kernel: Kernel
    chi2: float
    names: tuple[str, ...]
    covariance: NDArray[np.float64]
    inverse: NDArray[np.float64]
    moved: float


def solve_step(scene: Scene, optics: Optics, freedom: Freedom) -> Step:
    """Solve for stars, sky and the free dense unknowns once, to first order.

    Parameters
    ----------
    scene : Scene
        Where to start.
    optics : Optics
        PSF and renderers at the present kernel.
    freedom : Freedom
        Which dense unknowns are free.

    Returns
    -------
    Step
        The new scene, and the covariance at the old one.

    Raises
    ------
    FitError
        If the frame has no usable pixel, or the system is singular.
    """
    frame = optics.frame
    rendered = render_columns(scene, optics, freedom)
    solved = np.ones(scene.stars.size, bool) if freedom.stars is None else at(freedom.stars, scene.stars)
    stars = scene.stars.take(solved)
    system = star_system(freedom.moving(stars), optics, rendered.images, rendered.rows)
    names = rendered.names
    dense = _dense_normal(rendered, frame, optics.kernel, scene.galaxy, freedom.modes)
    solution = _solve_dense(system, dense)
    new_stars = scene.stars.with_part(solved, _move_stars(stars, system, solution))
    steps = dict(zip(names, solution.dense, strict=True))
    return Step(
        scene=_apply_dense(scene, new_stars, steps, frame.shape),
        kernel=stepped(optics.kernel, steps),
        chi2=dense.chi2,
        names=names,
        covariance=solution.covariance,
        inverse=solution.inverse,
        moved=_longest(solution, names),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Dense:
    """Normal equations of the dense unknowns alone, with the kernel that they are about.

    `gram` holds the products of all images of `Rendered` but the residual, of which the first `told` are columns and
    tests; an unknown's equation is that of row `rows`. An unknown's step lies between `low` and `high`; chi2 is that
    before it.
    """

    gram: NDArray[np.float64]
    rhs: Vector
    rows: NDArray[np.int64]
    prior: NDArray[np.float64]
    damping: Vector
    names: tuple[str, ...]
    kernel: Kernel
    told: int
    low: Vector
    high: Vector
    chi2: float


@dataclass(frozen=True, slots=True, eq=False)
class _Solution:
    """Steps of stars and dense unknowns; of the latter `Step.covariance`, `Step.inverse`, and the stars' response."""

    stars: Vector
    dense: Vector
    covariance: NDArray[np.float64]
    inverse: NDArray[np.float64]
    response: NDArray[np.float64]


def _solve_dense(system: StarSystem, dense: _Dense) -> _Solution:
    """Solve the dense unknowns in the stars' Schur complement, then the stars."""
    m, rows = len(dense.names), dense.rows
    both = system.solve(np.column_stack((system.cross, system.rhs)))
    response, alone = both[:, :m], both[:, -1]
    # products free of all that the stars can take up
    free = dense.gram - system.cross.T @ both[:, :-1]
    schur = free[rows, :m] + dense.prior
    reduced = dense.rhs - system.cross[:, rows].T @ alone
    # hidden neighbours are taken for a part of their stars, and what that leaves of them is expected
    reduced -= free[rows, dense.told :].sum(axis=1)
    matrix = schur + np.diag(dense.damping)
    low, high = dense.low.copy(), dense.high.copy()
    step = bounded_step(matrix, reduced, low, high)
    limit = shape_limit(step, dense.names, dense.kernel)
    if limit is not None:
        k, low[k] = limit
        high[k] = low[k]
        step = bounded_step(matrix, reduced, low, high)
    step *= _galaxy_limit(step, dense.names)
    covariance = inverse = invert(schur)
    if (rows != np.arange(m)).any():
        covariance = inverse @ (free[np.ix_(rows, rows)] + dense.prior) @ inverse.T
    return _Solution(alone - response @ step, step, covariance, inverse, response)


def _dense_normal(
    rendered: Rendered, frame: Frame, kernel: Kernel, galaxy: Galaxy | None, modes: ModePrior | None
) -> _Dense:
    """Products of the dense columns and tests over all usable pixels, with the priors of kernel and modes."""
    if not frame.good.any():
        msg = "the image has no usable pixel; give data that are finite and not zero"
        raise FitError(msg)
    names = rendered.names
    m, t = len(names), len(rendered.told)
    products = _products(rendered, frame.weight)
    gram, pulls = products[:-1, :-1], products[:-1, -1]
    rows = np.arange(m)
    rows[list(rendered.told)] = m + np.arange(t)
    prior, pull = prior_terms(names, kernel)
    if galaxy is not None and modes is not None:
        weight, more = modes.terms(names, galaxy.modes)
        prior, pull = prior + weight, pull + more
    rhs = pulls[rows] + pull
    low, high = _step_ranges(names, galaxy, frame.shape)
    chi2 = float(products[-1, -1])
    return _Dense(gram, rhs, rows, prior, _dense_damping(names), names, kernel, m + t, low, high, chi2)


def _products(rendered: Rendered, weight: Image) -> NDArray[np.float64]:
    """Weighted products of all images with each other (k, k)."""
    count, nx = len(rendered.images), weight.shape[1]
    threes = np.arange(0, count, 3)
    first, end = np.minimum.reduceat(rendered.rows[:, 0], threes), np.maximum.reduceat(rendered.rows[:, 1], threes)
    products = np.empty((count, count))
    images = rendered.images.reshape(count, -1)
    kernels.weighted_products(products, images, weight.ravel(), first * nx, end * nx, PIXELS_TOGETHER)
    return products


def _step_ranges(names: tuple[str, ...], galaxy: Galaxy | None, shape: tuple[int, int]) -> tuple[Vector, Vector]:
    """Shortest and longest step of each dense unknown that keeps the galaxy within its bounds."""
    low, high = np.full(len(names), -np.inf), np.full(len(names), np.inf)
    if galaxy is not None:
        ends = [end - galaxy.shapes[:, :2] for end in shape_ranges(galaxy, shape)]
        for c, k in np.ndindex(galaxy.size, 2):
            if (name := f"{c}.{SHAPE_NAMES[k]}") in names:
                index = names.index(name)
                low[index], high[index] = min(ends[0][c, k], 0.0), max(ends[1][c, k], 0.0)
    return low, high


def _move_stars(stars: Stars, system: StarSystem, solution: _Solution) -> Stars:
    """Apply a star step, limited in position, and renew the marginal variances."""
    if stars.size == 0:
        return stars
    step = solution.stars.copy()
    variance = system.variance.copy()
    flux_rows = solution.response[system.first]
    # the dense unknowns' share of the variance; their covariance is marginal over all stars
    variance[:, 0] += ((flux_rows @ solution.covariance) * flux_rows).sum(axis=1)
    variance[~np.isfinite(variance[:, 0]), 0] = np.inf
    flux = stars.flux + step[system.first]
    x, y = stars.x.copy(), stars.y.copy()
    free = np.flatnonzero(system.width == 3)
    if free.size:
        share = displacement_share(stars.take(free), flux[free])
        for axis, position in ((1, x), (2, y)):
            rows = system.first[free] + axis
            step[rows] *= share
            position[free] += np.clip(step[rows], -STAR_STEP, STAR_STEP)
    damping = _next_damping(stars.damping, system.reach(step))
    # a new star may move once its flux is known: before that, its step would be a guess
    released = stars.free | ((stars.age == 0) & ~stars.anchored)
    return replace(stars, x=x, y=y, flux=flux, variance=variance, free=released, age=stars.age + 1, damping=damping)


def displacement_share(stars: Stars, flux: Vector) -> Vector:
    """Factor (n,) on the stars' displacements, given their new fluxes.

    To first order the image of a star changes by its new flux times its displacement, of which the old flux times the
    displacement has been solved for. Without the factor two stars near each other trade their light and overshoot.
    Where an anchor tells the place, the displacement is what it is, and so is that of a dark star.
    """
    bright = (stars.flux > 0.0) & (flux > 0.0) & ~stars.anchored
    rise = np.divide(flux, stars.flux, out=np.ones(flux.size), where=bright)
    return 1.0 / np.maximum(rise, LEAST_RISE)


def _next_damping(damping: Vector, reach: Vector) -> Vector:
    """Factors for the next step: more where this one was too long, less where it was well within the limit."""
    change = np.where(reach > 1.0, 1.0 + DAMPING_GAIN * reach, np.maximum(reach, DAMPING_RELIEF))
    return np.maximum(damping * change, 1.0)


def is_of_galaxy(name: str) -> bool:
    """Whether a dense unknown is the galaxy's alone."""
    return _stem(name) in GALAXY_NAMES or name in MODE_NAMES


def _stem(name: str) -> str:
    """Name of a dense unknown without its component."""
    return name.rpartition(".")[2]


def _dense_damping(names: tuple[str, ...]) -> Vector:
    """Diagonal that keeps the galaxy's steps within reason when the data say little."""
    return np.array([1.0 / GALAXY_DAMPING.get(_stem(name), np.inf) ** 2 for name in names])


def _longest(solution: _Solution, names: tuple[str, ...]) -> float:
    """Longest step of the galaxy's unknowns in their errors."""
    error = np.sqrt(np.diag(solution.covariance))
    error[[name in MOVE_NAMES for name in names]] += LEAST_PLACE_ERROR
    known = [k for k, name in enumerate(names) if is_of_galaxy(name) and error[k] > 0.0]
    return max((abs(float(solution.dense[k])) / float(error[k]) for k in known), default=0.0)


def _galaxy_limit(step: Vector, names: tuple[str, ...]) -> Vector:
    """Factor for each dense step: the galaxy's steps shrink together so that none is too long."""
    limits = np.array([GALAXY_STEP.get(_stem(name), np.inf) for name in names])
    factor = min(1.0, float((limits / np.maximum(np.abs(step), 1e-300)).min()))
    return np.array([factor if _stem(name) in (*GALAXY_STEP, "flux") else 1.0 for name in names])


def _apply_dense(scene: Scene, stars: Stars, step: dict[str, float], shape: tuple[int, int]) -> Scene:
    """Apply the dense steps within their ranges on a frame of some shape."""
    sky = scene.sky + np.array([step[f"sky{k}"] for k in range(3)])
    shift = np.zeros(2)
    if "shift_x" in step:
        shift = np.clip([step["shift_x"], step["shift_y"]], -STAR_STEP, STAR_STEP)
        stars = replace(
            stars,
            x=stars.x + shift[0],
            y=stars.y + shift[1],
            anchor_x=stars.anchor_x + shift[0],
            anchor_y=stars.anchor_y + shift[1],
        )
    galaxy = scene.galaxy
    if galaxy is not None:
        galaxy = _step_galaxy(galaxy, step, shift, shape)
    return Scene(stars=stars, galaxy=galaxy, sky=sky, shift=scene.shift + shift)


def _step_galaxy(galaxy: Galaxy, step: dict[str, float], shift: Vector, shape: tuple[int, int]) -> Galaxy:
    """Apply the galaxy's steps within their ranges."""
    moved = np.array([step.get(name, 0.0) for name in MOVE_NAMES])
    shapes, centres = galaxy.shapes.copy(), galaxy.centres + shift + moved
    for c in range(galaxy.size):
        centres[c] += [step.get(f"{c}.{name}", 0.0) for name in CENTRE_NAMES]
        for k, name in enumerate(SHAPE_NAMES):
            shapes[c, k] += step.get(f"{c}.{name}", 0.0)
        length = np.hypot(shapes[c, 2], shapes[c, 3])
        if length > ETA_MAX:
            shapes[c, 2:] *= ETA_MAX / length
    low, high = shape_ranges(galaxy, shape)
    high[:, 0] = largest_r(shapes, shape)
    shapes[:, :2] = np.clip(shapes[:, :2], low, high)
    return Galaxy(
        centres=_tied(centres, galaxy),
        shapes=shapes,
        fluxes=_step_fluxes(galaxy.fluxes, step),
        modes=galaxy.modes + [step.get(name, 0.0) for name in MODE_NAMES[: galaxy.modes.size]],
    )


def _tied(centres: NDArray[np.float64], galaxy: Galaxy) -> NDArray[np.float64]:
    """Centres that are not farther from the main component's than the galaxy's size."""
    offset = centres - centres[galaxy.main]
    most = MOST_APART * galaxy.half_light_radius()
    length = np.hypot(offset[:, 0], offset[:, 1])[:, np.newaxis]
    return np.asarray(centres[galaxy.main] + offset * np.minimum(1.0, most / np.maximum(length, most)))


def _step_fluxes(fluxes: Vector, step: dict[str, float]) -> Vector:
    """Apply the steps of the components' fluxes, or of their common scale, which may turn negative."""
    if "scale" in step:
        ratio = 1.0 + step["scale"] / fluxes.sum()
        # at exactly zero the components would lose their proportions
        return np.asarray(fluxes * (ratio if abs(ratio) > LEAST_SCALE else LEAST_SCALE))
    return np.asarray(fluxes + [step.get(f"{c}.flux", 0.0) for c in range(fluxes.size)])
