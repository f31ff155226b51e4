"""Small dense symmetric systems: their products, factors and solutions."""

import numpy as np

from sphot_mpi.kernels._jit import jit, jit_fast


@jit_fast
def weighted_products(out, images, weight, first, end, together):
    """Weighted scalar products of images with each other.

    Of a dozen images they take a quarter of the time that BLAS needs, which copies such narrow matrices.

    Parameters
    ----------
    out : (m, m) float64 ndarray
        Overwritten: ``out[p, q] = sum(weight * images[p] * images[q])``.
    images : (m, n) float64 ndarray
        One image a row.
    weight : (n,) float64 ndarray
        Weights of the pixels.
    first, end : (ceil(m / 3),) int64 ndarray
        First pixel of each three images and the one after their last, beyond which they are 0.
    together : int
        Pixels that are done together: so many of all images fit into the cache.
    """
    m, n = images.shape
    out[:] = 0.0
    for start in range(0, n, together):
        stop = min(start + together, n)
        for p in range(0, m, 3):
            for q in range(p, m, 3):
                low, high = max(start, first[p // 3], first[q // 3]), min(stop, end[p // 3], end[q // 3])
                if low < high:
                    add_products(out, p, q, images, weight, low, high)
    for p in range(m):
        for q in range(p):
            out[p, q] = out[q, p]


@jit_fast
def add_products(out, p, q, images, weight, low, high):
    """Add what some pixels make of the products of three images with three others.

    Parameters
    ----------
    out : (m, m) float64 ndarray
        Added to in place, rows `p` to p + 2 and columns `q` to q + 2, as far as there are so many.
    p, q : int
        First images.
    images, weight
        As in `weighted_products`.
    low, high : int
        First pixel and the one after the last.
    """
    m = out.shape[0]
    # images that are missing in the last three are another one, whose products are not used
    p1, p2, q1, q2 = min(p + 1, m - 1), min(p + 2, m - 1), min(q + 1, m - 1), min(q + 2, m - 1)
    w = weight[low:high]
    a0, a1, a2 = images[p, low:high], images[p1, low:high], images[p2, low:high]
    b0, b1, b2 = images[q, low:high], images[q1, low:high], images[q2, low:high]
    s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = 0.0
    for i in range(high - low):
        u, v, t = w[i] * a0[i], w[i] * a1[i], w[i] * a2[i]
        x, y, z = b0[i], b1[i], b2[i]
        s00 += u * x
        s01 += u * y
        s02 += u * z
        s10 += v * x
        s11 += v * y
        s12 += v * z
        s20 += t * x
        s21 += t * y
        s22 += t * z
    rows, columns = min(m - p, 3), min(m - q, 3)
    for k, row in enumerate(((s00, s01, s02), (s10, s11, s12), (s20, s21, s22))):
        for j, value in enumerate(row):
            if k < rows and j < columns:
                out[p + k, q + j] += value


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
