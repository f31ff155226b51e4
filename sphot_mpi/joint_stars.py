"""The stars' sparse normal equations: assembly, priors, factorisation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg as sparse_linalg

from sphot_mpi.errors import FitError
from sphot_mpi.joint_scene import Optics, Stars
from sphot_mpi.kernels import joint as kernels
from sphot_mpi.kernels import sparse as sparse_kernels
from sphot_mpi.records import Image

Vector = NDArray[np.float64]

#: Longest step of a star's position, px, and damping scale of that step.
STAR_STEP, STAR_DAMPING = 0.7, 0.5
#: Most diagonal entries for which an update is cheaper than a new factorisation.
MOST_UPDATES = 60
#: Neighbours whose parameters are free in a star's error, and how far away they may be, px.
ERROR_NEIGHBOURS, ERROR_REACH = 12, 12.0


@dataclass(frozen=True, slots=True, eq=False)
class UpdatedFactor:
    """A factorised matrix with something added to some of its diagonal; cheaper than another factorisation.

    ``(A + U D U^T)^-1 b = x - Z (D^-1 + U^T Z)^-1 U^T x`` with ``x = A^-1 b``, ``Z = A^-1 U`` (Woodbury 1950), the
    columns of U being unit vectors.
    """

    factor: "sparse_linalg.SuperLU | UpdatedFactor"
    rows: NDArray[np.int64]
    response: NDArray[np.float64]
    inner: NDArray[np.float64]

    @classmethod
    def of(
        cls, factor: "sparse_linalg.SuperLU | UpdatedFactor", rows: NDArray[np.int64], added: Vector
    ) -> "UpdatedFactor":
        """Add `added` to the diagonal at `rows`."""
        unit = np.zeros((factor.shape[0], rows.size))
        unit[rows, np.arange(rows.size)] = 1.0
        response = np.asarray(factor.solve(unit))
        inner = np.linalg.inv(np.diag(1.0 / added) + response[rows])
        return cls(factor, rows, response, inner)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return self.factor.shape[0], self.factor.shape[1]

    def solve(self, rhs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Solve for one right-hand side or several columns of them."""
        x = np.asarray(self.factor.solve(rhs))
        return np.asarray(x - self.response @ (self.inner @ x[self.rows]))


@dataclass(frozen=True, slots=True, eq=False)
class StarSystem:
    """The stars' sparse normal equations."""

    matrix: sparse.csc_array
    rhs: Vector
    cross: NDArray[np.float64]
    first: NDArray[np.int64]
    width: NDArray[np.int64]
    factor: "sparse_linalg.SuperLU | UpdatedFactor | None"

    @classmethod
    def of(
        cls,
        matrix: sparse.csc_array,
        rhs: Vector,
        cross: NDArray[np.float64],
        first: NDArray[np.int64],
        width: NDArray[np.int64],
    ) -> "StarSystem":
        """Factorise the matrix of a system."""
        try:
            factor = sparse_linalg.splu(
                matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
        except RuntimeError as error:
            msg = f"the stars' normal equations are singular ({error})"
            raise FitError(msg) from error
        return cls(matrix, rhs, cross, first, width, factor)

    def damped(self, excess: Vector) -> "StarSystem":
        """Return the system with the positions of stars that step too far held back in proportion."""
        diagonal = self.matrix.diagonal()
        far = np.flatnonzero(excess > 0.0)
        rows = np.concatenate((self.first[far] + 1, self.first[far] + 2))
        added = np.tile(3.0 * excess[far], 2) * diagonal[rows]
        diagonal[rows] += added
        matrix = self.matrix.copy()
        matrix.setdiag(diagonal)
        if self.factor is None or rows.size > MOST_UPDATES:
            return StarSystem.of(matrix, self.rhs, self.cross, self.first, self.width)
        factor = UpdatedFactor.of(self.factor, rows, added)
        return StarSystem(matrix, self.rhs, self.cross, self.first, self.width, factor)

    def too_far(self, step: Vector) -> Vector:
        """How many times each star's step in position exceeds the longest allowed; 0 where it does not."""
        excess = np.zeros(self.first.size)
        free = np.flatnonzero(self.width == 3)
        reach = np.maximum(np.abs(step[self.first[free] + 1]), np.abs(step[self.first[free] + 2])) / STAR_STEP
        excess[free] = np.where(reach > 1.0, reach, 0.0)
        return excess

    def variances(self, stars: Stars) -> NDArray[np.float64]:
        """Marginal variances (n, 3) of flux, x and y with the dense unknowns held, from each star's neighbourhood."""
        neighbours = kernels.nearest_neighbours(stars.x, stars.y, ERROR_REACH, ERROR_NEIGHBOURS)
        indptr, indices = self.matrix.indptr.astype(np.int64), self.matrix.indices.astype(np.int64)
        return np.asarray(
            kernels.local_variances(indptr, indices, self.matrix.data, self.first, self.width, neighbours)
        )


def star_system(stars: Stars, optics: Optics, residual: Image, columns: NDArray[np.float64]) -> StarSystem:
    """Assemble and factorise the stars' normal equations, priors and damping included."""
    n, frame = stars.size, optics.frame
    empty = np.zeros(0, np.int64)
    if n == 0:
        return StarSystem(sparse.csc_array((0, 0)), np.zeros(0), np.zeros((0, columns.shape[2])), empty, empty, None)
    stamps, corner_y, corner_x = optics.stars.stamps(stars.x, stars.y, optics.core_radius)
    stamps[:, 1:] *= stars.flux[:, None, None, None]
    used = np.ones((n, 3), bool)
    used[~stars.free, 1:] = False
    keep = np.flatnonzero(used.ravel())
    if keep.size < 3 * n:
        # columns one by one, since not every star has three
        stamps = stamps.reshape(3 * n, 1, *stamps.shape[2:])[keep]
        corner_y, corner_x = np.repeat(corner_y, 3)[keep], np.repeat(corner_x, 3)[keep]
    data, indices, indptr, rhs = sparse_kernels.gram_blocks(stamps, corner_y, corner_x, frame.weight, residual)
    products = np.empty((*stamps.shape[:2], columns.shape[2]))
    kernels.cross_products(products, stamps, corner_y, corner_x, frame.weight, columns)
    cross = products.reshape(keep.size, -1)
    matrix = sparse.csc_array((data, indices, indptr), shape=(keep.size, keep.size))
    diagonal, pull = _priors(stars)
    matrix.setdiag(matrix.diagonal() + diagonal[keep])
    rhs = rhs + pull[keep]
    width = np.where(stars.free, 3, 1)
    first = np.concatenate((np.zeros(1, np.int64), np.cumsum(width)[:-1]))
    # a source without any usable pixel has an empty column; it stays as it is
    bare = matrix.diagonal() <= 0.0
    if bare.any():
        matrix.setdiag(np.where(bare, 1.0, matrix.diagonal()))
    return StarSystem.of(matrix, rhs, cross, first, width)


def _priors(stars: Stars) -> tuple[Vector, Vector]:
    """Diagonal and right-hand side, for flux, x and y of each star, of priors and of the positions' damping."""
    diagonal, pull = np.zeros((stars.size, 3)), np.zeros((stars.size, 3))
    flux_weight = 1.0 / stars.prior_sigma**2
    diagonal[:, 0] = flux_weight
    pull[:, 0] = flux_weight * (stars.prior_flux - stars.flux)
    weight = 1.0 / stars.anchor_sigma**2
    diagonal[:, 1:] = (weight + 1.0 / STAR_DAMPING**2)[:, None]
    pull[:, 1] = weight * (stars.anchor_x - stars.x)
    pull[:, 2] = weight * (stars.anchor_y - stars.y)
    return diagonal.ravel(), pull.ravel()
