"""One Gauss-Newton step for stars, sky, kernel and galaxy together.

The unknowns fall into two kinds: three columns a star (flux, x, y), each on a
small stamp, and a dozen dense columns (sky plane, kernel, common shift, galaxy).
The stars' normal matrix G is sparse and factorised once; the dense unknowns are
solved in its Schur complement, whose inverse is their covariance marginal over
all stars. The stars' equations use core stamps, but the residual is that of the
full model: ``A_core^T W (data - model) = 0`` has no bias from cut wings
(crowdsource: Schlafly et al. 2018, ApJS 234, 39).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg as sparse_linalg

from sphot_mpi.errors import FitError
from sphot_mpi.joint_scene import PAD, Frame, Galaxy, Optics, Scene, Stars, sky_basis
from sphot_mpi.kernels import joint as kernels
from sphot_mpi.kernels import sparse as sparse_kernels
from sphot_mpi.records import Image

Vector = NDArray[np.float64]

#: Longest step of a star's position, px, and damping scale of that step.
STAR_STEP, STAR_DAMPING = 0.7, 0.5
#: Longest step of the kernel's variance, px^2.
KERNEL_STEP = 1.5
#: Parameters of one component's shape, in the order of `Galaxy.shapes`.
SHAPE_NAMES = ("ln_r", "ln_n", "eta_1", "eta_2")
#: Longest steps of the galaxy's parameters, and the damping scales of those steps.
GALAXY_STEP = {"x_0": 1.0, "y_0": 1.0, "ln_r": 0.4, "ln_n": 0.3, "eta_1": 0.3, "eta_2": 0.3}
GALAXY_DAMPING = {"x_0": 1.0, "y_0": 1.0, "ln_r": 0.5, "ln_n": 0.5, "eta_1": 0.5, "eta_2": 0.5}
#: Range of ln r_circ (px), ln n and the length of eta (ellip <= 0.95).
LN_R_RANGE = (np.log(0.15), np.log(400.0))
LN_N_RANGE = (np.log(0.3), np.log(8.0))
ETA_MAX = float(-np.log(0.05))
#: Largest variance of the kernel, px^2.
VARIANCE_MAX = 16.0
#: A galaxy that is scaled keeps at least this part of its flux in one step, and its sign.
LEAST_SCALE = 1e-3
#: Neighbours whose parameters are free in a star's error.
ERROR_NEIGHBOURS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Freedom:
    """Which dense unknowns a step solves for; stars and sky always are.

    Parameters
    ----------
    kernel, shift : bool
        The PSF kernel's variance; a common displacement of galaxy and stars.
    galaxy_flux, galaxy_shape : bool
        Each component's flux; centre and shapes.
    galaxy_scale : bool
        One factor on all components' fluxes, in place of `galaxy_flux`.
    """

    kernel: bool = False
    shift: bool = False
    galaxy_flux: bool = False
    galaxy_shape: bool = False
    galaxy_scale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """Result of one Gauss-Newton step.

    Parameters
    ----------
    scene : Scene
        The scene after the step.
    variance : float
        The kernel's variance after the step, px^2.
    residual : (ny, nx) float64 ndarray
        Data minus model *before* the step, on the frame, 0 where masked.
    star_image : (ny, nx) float64 ndarray
        Stars before the step.
    chi2 : float
        Of `residual`.
    names : tuple of str
        Dense unknowns: sky0..2, kernel, shift_x, shift_y, x_0, y_0, and for component c "c.flux", "c.ln_r" ...
    covariance : (m, m) float64 ndarray
        Of the dense unknowns, marginal over all stars.
    """

    scene: Scene
    variance: float
    residual: Image
    star_image: Image
    chi2: float
    names: tuple[str, ...]
    covariance: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rendered:
    """Model images of a scene on the frame, and the dense columns.

    Parameters
    ----------
    stars, galaxy, sky : (ny, nx) float64 ndarray
        The three components.
    names : tuple of str
        As in `Step`.
    columns : (ny, nx, m) float64 ndarray
        Derivatives of the model by the dense unknowns.
    """

    stars: Image
    galaxy: Image
    sky: Image
    names: tuple[str, ...]
    columns: NDArray[np.float64]


def render_galaxy(galaxy: Galaxy | None, optics: Optics) -> Image:
    """Image of the galaxy on the frame."""
    out = np.zeros(optics.frame.shape)
    if galaxy is not None:
        inside = optics.frame.interior(out)
        for c in range(galaxy.size):
            inside += galaxy.fluxes[c] * optics.renderer.render(galaxy.vector(c))
    return out


def render_stars(stars: Stars, optics: Optics) -> Image:
    """Image of the stars on the frame."""
    return optics.stars.render(stars.x, stars.y, stars.flux)


def render_sky(sky: Vector, shape: tuple[int, int]) -> Image:
    """Image of the sky plane on the frame."""
    return np.asarray(np.tensordot(sky, sky_basis(shape), axes=1))


def render_columns(scene: Scene, optics: Optics, freedom: Freedom) -> Rendered:
    """Render the model and the derivatives that `freedom` asks for.

    Parameters
    ----------
    scene : Scene
        Stars, galaxy, sky.
    optics : Optics
        PSF and renderers.
    freedom : Freedom
        Which dense unknowns there are.
    """
    shape = optics.frame.shape
    stars = scene.stars
    basis = sky_basis(shape)
    columns: dict[str, Image] = {f"sky{k}": basis[k] for k in range(3)}
    if freedom.kernel or freedom.shift:
        images = optics.stars.render_with_derivatives(stars.x, stars.y, stars.flux, optics.kernel_planes)
        star_image = images.model
        if freedom.kernel:
            columns["kernel"] = images.dkernel
        if freedom.shift:
            columns["shift_x"], columns["shift_y"] = images.dx, images.dy
    else:
        star_image = render_stars(stars, optics)
    galaxy_image = np.zeros(shape)
    if scene.galaxy is not None:
        galaxy_image = _galaxy_columns(scene.galaxy, optics, freedom, columns)
    for name in ("kernel", "shift_x", "shift_y"):
        if name in columns:
            # where the base filter has no data, the stars are not known well enough to tell the PSF
            columns[name] = np.where(optics.frame.anchored_area, columns[name], 0.0)
    return Rendered(
        stars=star_image,
        galaxy=galaxy_image,
        sky=render_sky(scene.sky, shape),
        names=tuple(columns),
        columns=np.ascontiguousarray(np.stack(list(columns.values()), axis=-1)),
    )


def _galaxy_columns(galaxy: Galaxy, optics: Optics, freedom: Freedom, columns: dict[str, Image]) -> Image:
    """Add the galaxy's derivatives to `columns`; returns its image."""
    needs_derivatives = freedom.galaxy_shape or freedom.kernel or freedom.shift
    if not needs_derivatives and not freedom.galaxy_flux and not freedom.galaxy_scale:
        return render_galaxy(galaxy, optics)
    image = np.zeros(optics.frame.shape)
    unit = []
    for c in range(galaxy.size):
        vector = galaxy.vector(c)
        jacobian = optics.renderer.jacobian(vector) if needs_derivatives else optics.renderer.render(vector)[np.newaxis]
        unit.append(np.pad(jacobian, ((0, 0), (PAD, PAD), (PAD, PAD))))
        image += galaxy.fluxes[c] * unit[c][0]
    if needs_derivatives:
        scaled = [flux * jacobian for flux, jacobian in zip(galaxy.fluxes, unit, strict=True)]
        # the centre and the kernel are common to all components
        common = np.sum(scaled, axis=0)
        if freedom.kernel:
            columns["kernel"] = columns["kernel"] + common[7]
        if freedom.shift:
            columns["shift_x"] = columns["shift_x"] + common[1]
            columns["shift_y"] = columns["shift_y"] + common[2]
    if freedom.galaxy_scale:
        columns["scale"] = image / galaxy.fluxes.sum()
    if freedom.galaxy_flux:
        for c in range(galaxy.size):
            columns[f"{c}.flux"] = unit[c][0]
    if freedom.galaxy_shape:
        columns["x_0"], columns["y_0"] = common[1], common[2]
        for c in range(galaxy.size):
            for k, name in enumerate(SHAPE_NAMES):
                columns[f"{c}.{name}"] = scaled[c][3 + k]
    return image


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
    residual = frame.residual(rendered.stars + rendered.galaxy + rendered.sky)
    dense_gram, dense_rhs = _dense_normal(rendered, frame, residual)
    system = _star_system(scene.stars, optics, residual, rendered.columns)
    dense = _Dense(dense_gram, dense_rhs, _dense_damping(rendered.names), rendered.names)
    solution = _solve_dense(system, dense)
    far = _too_far(solution.stars, system)
    if far.any():
        # a clipped step would leave the fluxes that belong to the whole step: damp those stars and solve again
        system = system.damped(far)
        solution = _solve_dense(system, dense)
    new_stars = _move_stars(scene.stars, system, solution)
    steps = dict(zip(rendered.names, solution.dense, strict=True))
    new_scene, variance = _apply_dense(scene, new_stars, steps, optics.variance)
    return Step(
        scene=new_scene,
        variance=variance,
        residual=residual,
        star_image=rendered.stars,
        chi2=float((frame.weight * residual**2).sum()),
        names=rendered.names,
        covariance=solution.covariance,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Dense:
    """Normal equations of the dense unknowns alone."""

    gram: NDArray[np.float64]
    rhs: Vector
    damping: Vector
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Solution:
    """Steps of stars and dense unknowns, the latter's covariance, and the stars' response to them."""

    stars: Vector
    dense: Vector
    covariance: NDArray[np.float64]
    response: NDArray[np.float64]


def _solve_dense(system: "_StarSystem", dense: _Dense) -> _Solution:
    """Solve the dense unknowns in the stars' Schur complement, then the stars."""
    if system.factor is None:
        response, alone = np.zeros((0, len(dense.names))), np.zeros(0)
        schur, reduced = dense.gram, dense.rhs
    else:
        both = system.factor.solve(np.column_stack((system.cross, system.rhs)))
        response, alone = both[:, :-1], both[:, -1]
        schur = dense.gram - system.cross.T @ response
        reduced = dense.rhs - system.cross.T @ alone
    step = _invert(schur + np.diag(dense.damping)) @ reduced
    step *= _galaxy_limit(step, dense.names)
    return _Solution(alone - response @ step, step, _invert(schur), response)


def _too_far(step: Vector, system: "_StarSystem") -> Vector:
    """How many times each star's step in position exceeds the longest allowed; 0 where it does not."""
    excess = np.zeros(system.first.size)
    free = np.flatnonzero(system.width == 3)
    reach = np.maximum(np.abs(step[system.first[free] + 1]), np.abs(step[system.first[free] + 2])) / STAR_STEP
    excess[free] = np.where(reach > 1.0, reach, 0.0)
    return excess


def _dense_normal(rendered: Rendered, frame: Frame, residual: Image) -> tuple[NDArray[np.float64], Vector]:
    """Gram matrix and right-hand side of the dense columns over all usable pixels."""
    if not frame.good.any():
        msg = "the image has no usable pixel; give data that are finite and not zero"
        raise FitError(msg)
    root = np.sqrt(frame.weight[frame.good])
    weighted = rendered.columns[frame.good] * root[:, None]
    return weighted.T @ weighted, weighted.T @ (root * residual[frame.good])


@dataclass(frozen=True, slots=True, eq=False)
class _StarSystem:
    """The stars' sparse normal equations."""

    matrix: sparse.csc_array
    rhs: Vector
    cross: NDArray[np.float64]
    first: NDArray[np.int64]
    width: NDArray[np.int64]
    factor: sparse_linalg.SuperLU | None

    @classmethod
    def of(
        cls,
        matrix: sparse.csc_array,
        rhs: Vector,
        cross: NDArray[np.float64],
        first: NDArray[np.int64],
        width: NDArray[np.int64],
    ) -> "_StarSystem":
        """Factorise the matrix of a system."""
        try:
            factor = sparse_linalg.splu(
                matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
        except RuntimeError as error:
            msg = f"the stars' normal equations are singular ({error})"
            raise FitError(msg) from error
        return cls(matrix, rhs, cross, first, width, factor)

    def damped(self, excess: Vector) -> "_StarSystem":
        """Return the system with the positions of stars that step too far held back in proportion."""
        diagonal = self.matrix.diagonal()
        for axis in (1, 2):
            rows = self.first[excess > 0.0] + axis
            diagonal[rows] *= 1.0 + 3.0 * excess[excess > 0.0]
        matrix = self.matrix.copy()
        matrix.setdiag(diagonal)
        return _StarSystem.of(matrix, self.rhs, self.cross, self.first, self.width)


def _star_system(stars: Stars, optics: Optics, residual: Image, columns: NDArray[np.float64]) -> _StarSystem:
    """Assemble and factorise the stars' normal equations, priors and damping included."""
    n, frame = stars.size, optics.frame
    empty = np.zeros(0, np.int64)
    if n == 0:
        return _StarSystem(sparse.csc_array((0, 0)), np.zeros(0), np.zeros((0, columns.shape[2])), empty, empty, None)
    stamps, corner_y, corner_x = optics.stars.stamps(stars.x, stars.y, optics.core_radius)
    any_free = bool(stars.free.any())
    if any_free:
        stamps[:, 1:] *= stars.flux[:, None, None, None]
    else:
        stamps = np.ascontiguousarray(stamps[:, :1])
    data, indices, indptr, rhs = sparse_kernels.gram_blocks(stamps, corner_y, corner_x, frame.weight, residual)
    c = stamps.shape[1]
    cross = np.empty((n, c, columns.shape[2]))
    kernels.cross_products(cross, stamps, corner_y, corner_x, frame.weight, columns)
    cross = cross.reshape(n * c, -1)
    matrix = sparse.csc_array((data, indices, indptr), shape=(n * c, n * c))
    diagonal, pull = _priors(stars, c)
    matrix.setdiag(matrix.diagonal() + diagonal)
    rhs = rhs + pull
    width = np.where(stars.free, c, 1)
    if any_free and not stars.free.all():
        used = np.ones((n, 3), bool)
        used[~stars.free, 1:] = False
        keep = np.flatnonzero(used.ravel())
        matrix, rhs, cross = matrix[keep][:, keep].tocsc(), rhs[keep], cross[keep]
        matrix.sort_indices()
    first = np.concatenate((np.zeros(1, np.int64), np.cumsum(width)[:-1]))
    # a source without any usable pixel has an empty column; it stays as it is
    bare = matrix.diagonal() <= 0.0
    if bare.any():
        matrix.setdiag(np.where(bare, 1.0, matrix.diagonal()))
    return _StarSystem.of(matrix, rhs, cross, first, width)


def _priors(stars: Stars, columns: int) -> tuple[Vector, Vector]:
    """Diagonal and right-hand side of the stars' priors, and the damping of their positions."""
    n = stars.size
    diagonal, pull = np.zeros((n, columns)), np.zeros((n, columns))
    flux_weight = 1.0 / stars.prior_sigma**2
    diagonal[:, 0] = flux_weight
    pull[:, 0] = flux_weight * (stars.prior_flux - stars.flux)
    if columns == 3:
        weight = 1.0 / stars.anchor_sigma**2
        diagonal[:, 1:] = (weight + 1.0 / STAR_DAMPING**2)[:, None]
        pull[:, 1] = weight * (stars.anchor_x - stars.x)
        pull[:, 2] = weight * (stars.anchor_y - stars.y)
    return diagonal.ravel(), pull.ravel()


def _move_stars(stars: Stars, system: _StarSystem, solution: _Solution) -> Stars:
    """Apply a star step, limited in position, and renew the marginal variances."""
    if stars.size == 0:
        return stars
    step = solution.stars
    neighbours = kernels.nearest_neighbours(stars.x, stars.y, 12.0, ERROR_NEIGHBOURS)
    matrix = system.matrix
    variance = kernels.local_variances(
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int64),
        matrix.data,
        system.first,
        system.width,
        neighbours,
    )
    flux_rows = solution.response[system.first]
    # the dense unknowns' share of the variance; their covariance is marginal over all stars
    variance[:, 0] += np.einsum("ij,jk,ik->i", flux_rows, solution.covariance, flux_rows)
    variance[~np.isfinite(variance[:, 0]), 0] = np.inf
    flux = stars.flux + step[system.first]
    x, y = stars.x.copy(), stars.y.copy()
    free = np.flatnonzero(system.width == 3)
    if free.size:
        for axis, position in ((1, x), (2, y)):
            position[free] += np.clip(step[system.first[free] + axis], -STAR_STEP, STAR_STEP)
    return replace(stars, x=x, y=y, flux=flux, variance=variance)


def _stem(name: str) -> str:
    """Name of a dense unknown without its component."""
    return name.rpartition(".")[2]


def _dense_damping(names: tuple[str, ...]) -> Vector:
    """Diagonal that keeps the galaxy's steps within reason when the data say little."""
    return np.array([1.0 / GALAXY_DAMPING.get(_stem(name), np.inf) ** 2 for name in names])


def _galaxy_limit(step: Vector, names: tuple[str, ...]) -> Vector:
    """Factor for each dense step: the galaxy's steps shrink together so that none is too long."""
    limits = np.array([GALAXY_STEP.get(_stem(name), np.inf) for name in names])
    factor = min(1.0, float((limits / np.maximum(np.abs(step), 1e-300)).min()))
    return np.array([factor if _stem(name) in (*GALAXY_STEP, "flux") else 1.0 for name in names])


def _apply_dense(scene: Scene, stars: Stars, step: dict[str, float], variance: float) -> tuple[Scene, float]:
    """Apply the dense steps within their ranges."""
    sky = scene.sky + np.array([step[f"sky{k}"] for k in range(3)])
    if "kernel" in step:
        variance = float(np.clip(variance + np.clip(step["kernel"], -KERNEL_STEP, KERNEL_STEP), 0.0, VARIANCE_MAX))
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
        galaxy = _step_galaxy(galaxy, step, shift)
    return Scene(stars=stars, galaxy=galaxy, sky=sky, shift=scene.shift + shift), variance


def _step_galaxy(galaxy: Galaxy, step: dict[str, float], shift: Vector) -> Galaxy:
    """Apply the galaxy's steps within their ranges."""
    shapes = galaxy.shapes.copy()
    for c in range(galaxy.size):
        for k, name in enumerate(SHAPE_NAMES):
            shapes[c, k] += step.get(f"{c}.{name}", 0.0)
        shapes[c, 0] = np.clip(shapes[c, 0], *LN_R_RANGE)
        shapes[c, 1] = np.clip(shapes[c, 1], *LN_N_RANGE)
        length = np.hypot(shapes[c, 2], shapes[c, 3])
        if length > ETA_MAX:
            shapes[c, 2:] *= ETA_MAX / length
    return Galaxy(
        centre=galaxy.centre + shift + np.array([step.get("x_0", 0.0), step.get("y_0", 0.0)]),
        shapes=shapes,
        fluxes=_step_fluxes(galaxy.fluxes, step),
    )


def _step_fluxes(fluxes: Vector, step: dict[str, float]) -> Vector:
    """Apply the steps of the components' fluxes, or of their common scale; a scale never turns negative."""
    if "scale" in step:
        total = fluxes.sum()
        return fluxes * (max(total + step["scale"], LEAST_SCALE * total) / total)
    return fluxes + np.array([step.get(f"{c}.flux", 0.0) for c in range(fluxes.size)])


def _invert(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a symmetric positive semi-definite matrix, scaled to unit diagonal first."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale[:, None] * scale[None, :]
    if not np.isfinite(scaled).all():
        msg = "the galaxy's normal equations are not finite"
        raise FitError(msg)
    return np.asarray(np.linalg.pinv(scaled, rcond=1e-12, hermitian=True) * scale[:, None] * scale[None, :])
