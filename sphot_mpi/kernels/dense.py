"""Small dense symmetric systems."""

import numpy as np

from sphot_mpi.kernels._jit import jit


@jit
def cholesky(matrix):
    """Replace the lower triangle by its Cholesky factor; False where it is not positive definite."""
    n = matrix.shape[0]
    for j in range(n):
        pivot = matrix[j, j]
        for k in range(j):
            pivot -= matrix[j, k] * matrix[j, k]
        if not pivot > 1e-14 * abs(matrix[j, j]):
            return False
        pivot = np.sqrt(pivot)
        matrix[j, j] = pivot
        for i in range(j + 1, n):
            value = matrix[i, j]
            for k in range(j):
                value -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = value / pivot
    return True


@jit
def cholesky_solve(factor, b):
    """Overwrite `b` by the solution for a factor of `cholesky`."""
    n = b.size
    for i in range(n):
        value = b[i]
        for k in range(i):
            value -= factor[i, k] * b[k]
        b[i] = value / factor[i, i]
    for i in range(n - 1, -1, -1):
        value = b[i]
        for k in range(i + 1, n):
            value -= factor[k, i] * b[k]
        b[i] = value / factor[i, i]
