"""Non-negative least squares from sparse normal equations.

Coordinate descent finds nearly the right set of positive unknowns; block
principal pivoting makes it exact, with one sparse factorisation a round.

References
----------
Portugal, Judice & Vicente 1994, Math. Comp. 63, 625 (block pivoting and its
backup rule); Rockafellar 1976, SIAM J. Control Optim. 14, 877 (proximal point).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu

from sphot_mpi.kernels.nnls import descend
from sphot_mpi.records import Vector

#: Weight of the proximal term against the unit diagonal of the scaled matrix. It makes singular
#: blocks solvable, and the outer iteration takes its effect out again.
PROXIMAL = 1e-11

#: Full exchanges that may fail to reduce the number of infeasibilities before the backup rule.
PATIENCE = 3

#: Sweeps of coordinate descent that choose the first free set.
WARM_SWEEPS = 15

#: Corrections that take the proximal term out of a signed solution.
REFINEMENTS = 4

#: Relative KKT violation that descent alone may end with.
PIVOT_ANYWAY = 1e-14


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NNLSResult:
    """Solution of a non-negative least-squares problem.

    Parameters
    ----------
    x : (n,) float64 ndarray
        The solution, >= 0.
    converged : bool
        Whether the largest violation of the Karush-Kuhn-Tucker conditions, with columns scaled to unit
        norm, over the largest element of the scaled right-hand side is below the tolerance.
    """

    x: Vector
    converged: bool


def solve_nnls(
    gram: sparse.csc_array | Vector, rhs: Vector, *, tolerance: float = 1e-8, max_iterations: int = 500
) -> NNLSResult:
    """Minimise ``1/2 x'Gx - b'x`` over ``x >= 0``.

    Parameters
    ----------
    gram : (n, n) sparse array or ndarray
        Symmetric positive semidefinite ``A'WA``; may be singular.
    rhs : (n,) float64 ndarray
        ``A'Wd``, in the range of `gram` up to rounding.
    tolerance : float
        Relative tolerance of the KKT conditions.
    max_iterations : int
        Most factorisations.

    Returns
    -------
    NNLSResult
        The solution. Unknowns whose column is zero stay 0.

    Raises
    ------
    ValueError
        If the shapes do not match or an element is not finite.

    Notes
    -----
    Columns are scaled to unit norm. No ridge is added: a constant on the diagonal would dim
    the sources. For singular matrices (two sources at one place) each subproblem carries the
    proximal term ``eps/2 |x - x_old|^2`` that vanishes as `x` settles.
    """
    scaled, b, norm, used = _scaled(gram, rhs)
    x = np.zeros(rhs.size)
    if not (b > 0.0).any():
        return NNLSResult(x=x, converged=True)
    z, converged = _solve_scaled(scaled, b, tolerance, max_iterations)
    x[used] = z / norm
    return NNLSResult(x=x, converged=converged)


def solve_signed(gram: sparse.csc_array | Vector, rhs: Vector) -> Vector:
    """Solve ``G x = b`` for unknowns of either sign.

    Parameters
    ----------
    gram, rhs
        As for `solve_nnls`.

    Returns
    -------
    (n,) float64 ndarray
        Solution; where `gram` is singular, the one nearest to 0 in scaled units. Unknowns
        whose column is zero are 0.

    Raises
    ------
    ValueError
        As `solve_nnls`.
    """
    scaled, b, norm, used = _scaled(gram, rhs)
    x = np.zeros(rhs.size)
    if used.size == 0:
        return x
    factor = _factorise(_shifted(scaled))
    z = np.zeros(b.size)
    for _ in range(REFINEMENTS):
        z += factor.solve(b - scaled @ z)
    x[used] = z / norm
    return x


def _scaled(gram: sparse.csc_array | Vector, rhs: Vector) -> tuple[sparse.csc_array, Vector, Vector, NDArray[np.intp]]:
    """Checked normal equations of the nonzero columns at unit norm; with norms and indices."""
    matrix = sparse.csc_array(gram)
    if matrix.shape != (rhs.size, rhs.size):
        msg = f"a Gram matrix of shape {matrix.shape} does not fit a right-hand side of {rhs.size} elements"
        raise ValueError(msg)
    if not (np.isfinite(matrix.data).all() and np.isfinite(rhs).all()):
        msg = "the normal equations must be finite"
        raise ValueError(msg)
    diagonal = matrix.diagonal()
    used = np.flatnonzero(diagonal > 0.0)
    norm = np.sqrt(diagonal[used])
    inverse = sparse.diags_array(1.0 / norm, format="csc")
    scaled = sparse.csc_array(inverse @ matrix[:, used][used, :] @ inverse)
    scaled.sort_indices()
    return scaled, rhs[used] / norm, norm, used


def _shifted(gram: sparse.csc_array) -> sparse.csc_array:
    """Add the proximal term to a matrix of unit diagonal."""
    return sparse.csc_array(gram + PROXIMAL * sparse.eye_array(gram.shape[0], format="csc"))


def _solve_scaled(gram: sparse.csc_array, b: Vector, tolerance: float, max_iterations: int) -> tuple[Vector, bool]:
    """Proximal-point iteration about block pivoting, for a unit diagonal; returns whether it has converged."""
    x = np.zeros(b.size)
    gradient = -b
    scale = float(np.abs(b).max())
    descend(gram.data, gram.indices, gram.indptr, x, gradient, WARM_SWEEPS, 1e-3 * tolerance * scale)
    shifted = _shifted(gram)
    kkt, iterations = kkt_violation(x, gram @ x - b) / scale, 0
    while kkt > PIVOT_ANYWAY and iterations < max_iterations:
        new, rounds = _block_pivoting(shifted, b + PROXIMAL * x, x > 0.0, max_iterations - iterations)
        iterations += rounds
        new_kkt = kkt_violation(new, gram @ new - b) / scale
        if new_kkt >= kkt:
            break
        x, kkt = new, new_kkt
        if kkt <= tolerance:
            break
    return x, kkt <= tolerance


def kkt_violation(x: Vector, gradient: Vector) -> float:
    """Largest violation of ``x >= 0, gradient >= 0, x gradient = 0``.

    Parameters
    ----------
    x : (n,) float64 ndarray
        Point, >= 0.
    gradient : (n,) float64 ndarray
        ``G x - b`` there.

    Returns
    -------
    float
        ``max |min(x, gradient)|``, with the full gradient counted where ``x > 0``.
    """
    return float(np.where(x > 0.0, np.abs(gradient), np.maximum(-gradient, 0.0)).max(initial=0.0))


def _block_pivoting(gram: sparse.csc_array, b: Vector, free: NDArray[np.bool_], max_rounds: int) -> tuple[Vector, int]:
    """Exchange infeasible unknowns between the free and the zero set until none is left."""
    free = free.copy()
    fewest, patience = b.size + 1, PATIENCE
    x = np.zeros(b.size)
    slack = 1e-14 * float(np.abs(b).max())
    for iteration in range(1, max_rounds + 1):
        index = np.flatnonzero(free)
        x = np.zeros(b.size)
        if index.size:
            x[index] = _solve_free(gram, b, index)
        gradient = gram @ x - b
        infeasible = np.flatnonzero(np.where(free, x < 0.0, gradient < -slack))
        if infeasible.size == 0:
            return x, iteration
        if infeasible.size < fewest:
            fewest, patience = infeasible.size, PATIENCE
        elif patience > 0:
            patience -= 1
        else:
            infeasible = infeasible[-1:]  # one at a time cannot cycle
        free[infeasible] = ~free[infeasible]
    return np.maximum(x, 0.0), max_rounds


def _solve_free(gram: sparse.csc_array, b: Vector, index: NDArray[np.intp]) -> Vector:
    """Solve the free block, with one step of iterative refinement."""
    block = gram if index.size == b.size else sparse.csc_array(gram[:, index][index, :])
    factor = _factorise(block)
    x = factor.solve(b[index])
    refined: Vector = x + factor.solve(b[index] - block @ x)
    return refined


def _factorise(matrix: sparse.csc_array) -> SuperLU:
    """Sparse factors of a symmetric positive definite matrix."""
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
