"""The least-squares problem of a Sersic model with a sky plane, and its bounds.

The non-linear parameters of k components with one centre are
``(x_0, y_0, ln r_circ, ln n, eta_1, eta_2, ln r_circ, ln n, eta_1, eta_2, ...)``, 2 + 4 k of them; the total fluxes
and the sky's level and slopes are linear.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sphot_mpi.errors import FitError
from sphot_mpi.kernels import dense as kernels
from sphot_mpi.records import Array, SersicParams
from sphot_mpi.sersic import SersicRenderer, to_vector

#: Pixels that are multiplied at once.
PIXELS_TOGETHER = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SersicBounds:
    """Ranges of the parameters of every component.

    Parameters
    ----------
    r_eff : (float, float)
        Semi-major half-light radius, px; the upper end is at most the cutout's longer side.
    n : (float, float)
        Sersic index.
    ellip : (float, float)
        1 - b/a; only the upper end binds.
    x_0, y_0 : (float, float) or None
        Centre, px; None: inside the cutout.
    """

    r_eff: tuple[float, float] = (0.3, np.inf)
    n: tuple[float, float] = (0.3, 8.0)
    ellip: tuple[float, float] = (0.0, 0.95)
    x_0: tuple[float, float] | None = None
    y_0: tuple[float, float] | None = None

    def ranges(self, shape: tuple[int, int]) -> tuple[Array, Array]:
        """Lower and upper ends of (x_0, y_0, r_eff, n, ellip) on a cutout of `shape`."""
        x = (-0.5, shape[1] - 0.5) if self.x_0 is None else self.x_0
        y = (-0.5, shape[0] - 0.5) if self.y_0 is None else self.y_0
        r = (self.r_eff[0], min(self.r_eff[1], float(max(shape))))
        pairs = np.array([x, y, r, self.n, self.ellip])
        return pairs[:, 0], pairs[:, 1]

    def project(self, theta: Array, shape: tuple[int, int]) -> Array:
        """Return the nearest allowed non-linear parameters."""
        low, high = self.ranges(shape)
        out = theta.copy()
        out[:2] = np.clip(out[:2], low[:2], high[:2])
        for c in range(2, theta.size, 4):
            eta = float(np.hypot(out[c + 2], out[c + 3]))
            most = -np.log1p(-high[4])
            if eta > most:
                out[c + 2 : c + 4] *= most / eta
                eta = most
            out[c] = np.clip(out[c], np.log(low[2]) - 0.5 * eta, np.log(high[2]) - 0.5 * eta)
            out[c + 1] = np.clip(out[c + 1], np.log(low[3]), np.log(high[3]))
        return out

    def touched(self, components: Sequence[SersicParams], shape: tuple[int, int]) -> bool:
        """Whether a parameter lies within 1 % of its bound (radius and index: in the ratio)."""
        low, high = self.ranges(shape)
        for p in components:
            values = np.array([p.x_0, p.y_0, np.log(p.r_eff), np.log(p.n), p.ellip])
            ends = np.array([low, high])
            ends[:, 2:4] = np.log(ends[:, 2:4])
            margin = np.array([0.01 * (high[0] - low[0]), 0.01 * (high[1] - low[1]), 0.01, 0.01, 0.01 * high[4]])
            near_low = values - ends[0] < margin
            near_low[4] = False  # a circle is no bound
            if near_low.any() or (ends[1] - values < margin).any():
                return True
        return False


def split_theta(theta: Array) -> list[Array]:
    """Return the shape vector (6,) of each component."""
    return [np.concatenate([theta[:2], theta[c : c + 4]]) for c in range(2, theta.size, 4)]


def join_theta(components: Sequence[SersicParams]) -> Array:
    """Return the non-linear parameters of components; the centre is the first one's."""
    vectors = [to_vector(p) for p in components]
    return np.concatenate([vectors[0][:2], *(v[2:] for v in vectors)])


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The linear solution at given non-linear parameters.

    Parameters
    ----------
    theta : (m,) float64 ndarray
        Non-linear parameters.
    chi2 : float
        Least chi2 over the linear parameters; inf where no component has positive flux.
    linear : (k + 3,) float64 ndarray
        Fluxes (0 for the one of two that would be negative), then sky level and slopes in the plane's own scale
        (without them: (k,)).
    normal : (k + 3 + m, k + 3 + m) float64 ndarray
        Normal matrix of linear, then non-linear parameters.
    gradient : (m,) float64 ndarray
        Minus half of the derivative of chi2 by `theta`.
    flux_gradient : (k,) float64 ndarray
        Minus half of the derivative of chi2 by the fluxes; zero where they were solved for.
    """

    theta: Array
    chi2: float
    linear: Array
    normal: Array
    gradient: Array
    flux_gradient: Array

    def reduced(self) -> Array:
        """Schur complement: normal matrix of the non-linear parameters with the linear ones solved for."""
        k = self.linear.size
        cross = self.normal[:k, k:]
        schur: Array = self.normal[k:, k:] - cross.T @ solve_spd(self.normal[:k, :k], cross)
        return schur


def solve_spd(matrix: Array, rhs: Array) -> Array:
    """Solve a symmetric positive system, scaled to a unit diagonal; a singular one in the least-squares sense."""
    diagonal = np.diag(matrix)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0))
    scaled = matrix * scale * scale[:, None]
    column = scale if rhs.ndim == 1 else scale[:, None]
    try:
        solution = np.asarray(np.linalg.solve(scaled, rhs * column), dtype=np.float64)
    except np.linalg.LinAlgError:
        solution = np.asarray(np.linalg.lstsq(scaled, rhs * column, rcond=1e-12)[0], dtype=np.float64)
    return np.asarray(solution * column)


def _solve_with_light(linear: Array, rhs: Array, k: int) -> Array:
    """Solve for fluxes and sky; of two components one that would be negative is taken out."""
    solution = solve_spd(linear, rhs)
    if k == 1 or (solution[:k] > 0.0).all():
        return solution
    best, gain = solution, -np.inf
    for c in range(k):
        keep = np.delete(np.arange(rhs.size), [j for j in range(k) if j != c])
        trial = np.zeros_like(solution)
        trial[keep] = solve_spd(linear[np.ix_(keep, keep)], rhs[keep])
        if trial[c] > 0.0 and rhs @ trial > gain:
            best, gain = trial, float(rhs @ trial)
    return best


class SersicProblem:
    """Weighted data, the sky plane's columns and the renderer of one fit.

    Parameters
    ----------
    data, weight : (ny, nx) float64 ndarray
        Image, and 1 / variance; 0 = do not use.
    renderer : SersicRenderer
        Of the same shape.
    fit_sky : bool
        Whether a sky plane is solved with the fluxes.

    Raises
    ------
    FitError
        If the shapes differ or too few pixels are usable.
    """

    def __init__(self, data: Array, weight: Array, renderer: SersicRenderer, *, fit_sky: bool = True) -> None:
        if data.shape != weight.shape or data.shape != renderer.shape:
            msg = f"data {data.shape}, weight {weight.shape} and renderer {renderer.shape} must have one shape"
            raise FitError(msg)
        usable = (weight > 0.0) & np.isfinite(weight) & np.isfinite(data)
        self.shape = renderer.shape
        self.renderer = renderer
        self.weight = np.where(usable, weight, 0.0).ravel()
        self.data = np.where(usable, data, 0.0).ravel()
        self.n_pix = int(usable.sum())
        if self.n_pix < 20:
            msg = f"only {self.n_pix} pixels are usable, and a Sersic fit needs at least 20"
            raise FitError(msg)
        ny, nx = self.shape
        self.reference = ((nx - 1) / 2, (ny - 1) / 2)
        #: px per unit of the plane's slopes, which keeps its columns near 1
        self.reach = 0.5 * max(ny, nx)
        y, x = np.mgrid[:ny, :nx]
        plane = np.array(
            [np.ones(self.shape), (x - self.reference[0]) / self.reach, (y - self.reference[1]) / self.reach]
        )
        self.plane = plane.reshape(3, -1)[: 3 if fit_sky else 0]
        weighted = self.plane * self.weight
        self.plane_gram = weighted @ self.plane.T
        self.plane_data = weighted @ self.data
        self.data_norm = float(self.weight @ self.data**2)

    def evaluate(self, theta: Array, flux: Array | None = None) -> Evaluation:
        """Solve fluxes (or take those given) and sky exactly at `theta`, and give the derivatives there."""
        vectors = split_theta(theta)
        k = len(vectors)
        values = 7 * np.arange(k)
        gram, cross, rhs = self._products([self.renderer.jacobian(v, kernel_slopes=False) for v in vectors])
        # linear columns first: fluxes, sky
        linear = np.block([[gram[np.ix_(values, values)], cross[values]], [cross[values].T, self.plane_gram]])
        linear_rhs = np.concatenate([rhs[values], self.plane_data])
        if flux is None:
            solution = _solve_with_light(linear, linear_rhs, k)
        else:
            solution = np.concatenate([flux, solve_spd(self.plane_gram, self.plane_data - cross[values].T @ flux)])
        chain = self._chain(solution[:k])
        mixed = np.hstack([gram[:, values], cross])  # every image with every linear column
        normal = np.block([[linear, (chain @ mixed).T], [chain @ mixed, chain @ gram @ chain.T]])
        gradient = chain @ (rhs - mixed @ solution)
        chi2 = self.data_norm - float((2.0 * linear_rhs - linear @ solution) @ solution)
        if not np.isfinite(chi2) or (solution[:k] < 0.0).any() or not solution[:k].any():
            chi2 = np.inf
        return Evaluation(theta, chi2, solution, normal, gradient, (linear_rhs - linear @ solution)[:k])

    def _products(self, sets: list[Array]) -> tuple[Array, Array, Array]:
        """Weighted products of all images of some sets with each other, with the plane's columns and with the data."""
        flat = [*(images.reshape(len(images), -1) for images in sets), self.plane, self.data[np.newaxis]]
        count, size = sum(map(len, flat)), self.weight.size
        threes = -(-count // 3)
        products, part_of = np.zeros((count, count)), np.empty((count, count))
        # so many pixels of all images fit into the cache
        for start in range(0, size, PIXELS_TOGETHER):
            part = slice(start, start + PIXELS_TOGETHER)
            own, weight = np.concatenate([images[:, part] for images in flat]), self.weight[part]
            whole = np.zeros(threes, np.int64), np.full(threes, weight.size)
            kernels.weighted_products(part_of, own, weight, *whole, weight.size)
            products += part_of
        k = count - len(self.plane) - 1
        return products[:k, :k], products[:k, k:-1], products[:k, -1]

    def _chain(self, flux: Array) -> Array:
        """Matrix from the images of all components to the columns of the non-linear parameters."""
        k = flux.size
        chain = np.zeros((2 + 4 * k, 7 * k))
        for c in range(k):
            chain[[0, 1], [7 * c + 1, 7 * c + 2]] = flux[c]
            for j in range(4):
                chain[2 + 4 * c + j, 7 * c + 3 + j] = flux[c]
        return chain

    def chi2(self, theta: Array, flux: Array) -> float:
        """Chi2 with fluxes given and the sky solved for."""
        residual = self.data.copy()
        for f, vector in zip(flux, split_theta(theta), strict=True):
            residual -= f * self.renderer.render(vector).ravel()
        weighted = self.weight * residual
        projected = self.plane @ weighted
        return float(weighted @ residual - projected @ solve_spd(self.plane_gram, projected))
