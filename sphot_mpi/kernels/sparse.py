"""Sparse normal equations of overlapping stamps.

Each source brings `c` columns (its flux; or flux, x and y) that are nonzero on
a square stamp only, so that the Gram matrix couples neighbours and nothing
else. Neighbours are found with cell lists. Columns are ordered source by
source: column p of source i has the index ``c * i + p``.
"""

import numpy as np

from sphot_mpi.kernels._jit import jit, jit_fast
from sphot_mpi.kernels.dense import cholesky


@jit
def weighted_stamps(stamps, corner_y, corner_x, weight):
    """Multiply stamps by the weights under them; 0 off the image.

    Parameters
    ----------
    stamps : (n, c, k, k) float64 ndarray
        Columns of each source.
    corner_y, corner_x : (n,) int64 ndarray
        Image pixel of each stamp's element (0, 0); may lie off the image.
    weight : (ny, nx) float64 ndarray
        1 / variance, 0 = do not use.

    Returns
    -------
    (n, c, k, k) float64 ndarray
        ``stamps * weight``.
    """
    n, columns, height, width = stamps.shape
    ny, nx = weight.shape
    out = np.zeros_like(stamps)
    for s in range(n):
        y0, x0 = corner_y[s], corner_x[s]
        for c in range(columns):
            for j in range(max(0, -y0), min(height, ny - y0)):
                for i in range(max(0, -x0), min(width, nx - x0)):
                    out[s, c, j, i] = stamps[s, c, j, i] * weight[y0 + j, x0 + i]
    return out


@jit_fast
def project_image(stamps, corner_y, corner_x, image):
    """Scalar products of every stamp column with an image.

    Parameters
    ----------
    stamps : (n, c, k, k) float64 ndarray
        Columns, usually the weighted ones.
    corner_y, corner_x : (n,) int64 ndarray
        As in `weighted_stamps`.
    image : (ny, nx) float64 ndarray
        Finite everywhere.

    Returns
    -------
    (n * c,) float64 ndarray
        One product per column.
    """
    n, columns, height, width = stamps.shape
    ny, nx = image.shape
    out = np.zeros(n * columns)
    for s in range(n):
        y0, x0 = corner_y[s], corner_x[s]
        for c in range(columns):
            total = 0.0
            for j in range(max(0, -y0), min(height, ny - y0)):
                for i in range(max(0, -x0), min(width, nx - x0)):
                    total += stamps[s, c, j, i] * image[y0 + j, x0 + i]
            out[s * columns + c] = total
    return out


@jit
def stamp_neighbours(corner_y, corner_x, height, width):
    """Sources whose stamps overlap, themselves included, as a CSR pattern.

    Parameters
    ----------
    corner_y, corner_x : (n,) int64 ndarray
        Stamp corners, px.
    height, width : int
        Size of the stamps, px.

    Returns
    -------
    start : (n + 1,) int64 ndarray
        Row i is ``index[start[i] : start[i + 1]]``.
    index : int64 ndarray
        Neighbours, ascending in each row.
    """
    n = corner_x.size
    start = np.zeros(n + 1, np.int64)
    if n == 0:
        return start, np.empty(0, np.int64)
    y_min, x_min = corner_y.min(), corner_x.min()
    rows = (corner_y.max() - y_min) // height + 1
    columns = (corner_x.max() - x_min) // width + 1
    first = np.full(rows * columns, -1, np.int64)
    following = np.empty(n, np.int64)
    for s in range(n - 1, -1, -1):
        cell = (corner_y[s] - y_min) // height * columns + (corner_x[s] - x_min) // width
        following[s] = first[cell]
        first[cell] = s
    index = np.empty(0, np.int64)
    for fill in range(2):  # first count, then write
        if fill:
            start = np.concatenate((np.zeros(1, np.int64), np.cumsum(start[:n])))
            index = np.empty(start[n], np.int64)
        for s in range(n):
            count = 0
            row, column = (corner_y[s] - y_min) // height, (corner_x[s] - x_min) // width
            for r in range(max(0, row - 1), min(rows, row + 2)):
                for c in range(max(0, column - 1), min(columns, column + 2)):
                    t = first[r * columns + c]
                    while t >= 0:
                        if abs(corner_y[t] - corner_y[s]) < height and abs(corner_x[t] - corner_x[s]) < width:
                            if fill:
                                index[start[s] + count] = t
                            count += 1
                        t = following[t]
            if fill:
                index[start[s] : start[s] + count] = np.sort(index[start[s] : start[s] + count])
            else:
                start[s] = count
    return start, index


@jit_fast
def overlap_block(block, a, b, dy, dx):
    """Scalar products of all columns of two stamps over their overlap.

    Parameters
    ----------
    block : (c, c) float64 ndarray
        Overwritten: ``block[p, q] = sum(a[p] * b[q])``.
    a, b : (c, k, k) float64 ndarray
        The stamps' columns.
    dy, dx : int
        Corner of `b` minus corner of `a`, px.
    """
    columns, height, width = a.shape
    y0, y1 = max(0, dy), min(height, height + dy)
    x0, x1 = max(0, dx), min(width, width + dx)
    if columns == 3:
        # nine independent sums keep the adders busy where the rows are too short for vectors
        s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = 0.0
        for j in range(y0, y1):
            for i in range(x0, x1):
                a0, a1, a2 = a[0, j, i], a[1, j, i], a[2, j, i]
                b0, b1, b2 = b[0, j - dy, i - dx], b[1, j - dy, i - dx], b[2, j - dy, i - dx]
                s00 += a0 * b0
                s01 += a0 * b1
                s02 += a0 * b2
                s10 += a1 * b0
                s11 += a1 * b1
                s12 += a1 * b2
                s20 += a2 * b0
                s21 += a2 * b1
                s22 += a2 * b2
        block[0, 0], block[0, 1], block[0, 2] = s00, s01, s02
        block[1, 0], block[1, 1], block[1, 2] = s10, s11, s12
        block[2, 0], block[2, 1], block[2, 2] = s20, s21, s22
        return
    for p in range(columns):
        for q in range(columns):
            total = 0.0
            for j in range(y0, y1):
                for i in range(x0, x1):
                    total += a[p, j, i] * b[q, j - dy, i - dx]
            block[p, q] = total


@jit
def gram_blocks(stamps, corner_y, corner_x, weight, residual):
    """Normal equations ``A^T W A`` and ``A^T W r`` of all stamp columns.

    Parameters
    ----------
    stamps : (n, c, k, k) float64 ndarray
        Columns of each source on its stamp, as `fill_stamps` gives them.
    corner_y, corner_x : (n,) int64 ndarray
        Image pixel of each stamp's element (0, 0); may lie off the image.
    weight : (ny, nx) float64 ndarray
        1 / variance, 0 = do not use.
    residual : (ny, nx) float64 ndarray
        Right-hand image, finite everywhere.

    Returns
    -------
    data : (m,) float64 ndarray
        Values of the symmetric matrix in compressed rows (or columns: it is symmetric).
    indices : (m,) int32 ndarray
        Their column, ascending in each row.
    indptr : (n c + 1,) int32 ndarray
        Row starts.
    rhs : (n c,) float64 ndarray
        ``A^T W r``.
    """
    n, c, height, width = stamps.shape
    weighted = weighted_stamps(stamps, corner_y, corner_x, weight)
    rhs = project_image(weighted, corner_y, corner_x, residual)
    start, index = stamp_neighbours(corner_y, corner_x, height, width)
    data = np.empty(start[n] * c * c)
    indices = np.empty(start[n] * c * c, np.int32)
    indptr = np.zeros(n * c + 1, np.int32)
    block = np.empty((c, c))
    for s in range(n):
        m = start[s + 1] - start[s]
        for p in range(c):
            indptr[s * c + p + 1] = start[s] * c * c + (p + 1) * c * m
        for k in range(m):
            t = index[start[s] + k]
            for p in range(c):
                for q in range(c):
                    indices[start[s] * c * c + p * c * m + k * c + q] = t * c + q
            if t < s:
                continue
            overlap_block(block, stamps[s], weighted[t], corner_y[t] - corner_y[s], corner_x[t] - corner_x[s])
            mt = start[t + 1] - start[t]
            kt = np.searchsorted(index[start[t] : start[t + 1]], s)
            for p in range(c):
                for q in range(c):
                    data[start[s] * c * c + p * c * m + k * c + q] = block[p, q]
                    data[start[t] * c * c + q * c * mt + kt * c + p] = block[p, q]
    return data, indices, indptr, rhs


@jit
def marginal_variances(data, indices, indptr, strongest):
    """Diagonal of the inverse of a normal matrix, from each unknown's strongest neighbours.

    Parameters
    ----------
    data, indices, indptr : ndarray
        Symmetric positive semidefinite matrix in compressed columns, indices ascending.
    strongest : int
        Unknowns that enter each local inverse besides its own, by their correlation.

    Returns
    -------
    (n,) float64 ndarray
        Variances; inf where the column is zero or the local block singular.
    """
    n = indptr.size - 1
    diagonal = np.zeros(n)
    for i in range(n):
        for k in range(indptr[i], indptr[i + 1]):
            if indices[k] == i:
                diagonal[i] = data[k]
    out = np.full(n, np.inf)
    for i in range(n):
        if diagonal[i] <= 0.0:
            continue
        near = indices[indptr[i] : indptr[i + 1]]
        strength = np.zeros(near.size)
        for k in range(near.size):
            if near[k] != i and diagonal[near[k]] > 0.0:
                strength[k] = data[indptr[i] + k] ** 2 / diagonal[near[k]]
        order = np.argsort(-strength)[:strongest]
        order = order[strength[order] > 0.0]
        m = order.size + 1
        block = np.zeros((m, m))
        rows = np.empty(m, np.int64)
        rows[: m - 1] = near[order]
        rows[m - 1] = i  # last, so that its pivot alone is the inverse of its variance
        for p in range(m):
            start, stop = indptr[rows[p]], indptr[rows[p] + 1]
            column = indices[start:stop]
            for q in range(p + 1):
                k = np.searchsorted(column, rows[q])
                if k < column.size and column[k] == rows[q]:
                    block[p, q] = data[start + k] / np.sqrt(diagonal[rows[p]] * diagonal[rows[q]])
        if cholesky(block):
            out[i] = 1.0 / (diagonal[i] * block[m - 1, m - 1] ** 2)
    return out
