"""The stars' normal equations as a band matrix.

Stars are sorted along one axis, so that only those whose stamps may overlap are near each other in the matrix. A star
has one column (its flux) or three (flux, x, y). ``band[i, b - (i - j)]`` is the element (i, j), i - b <= j <= i, of the
symmetric matrix; transposed it is LAPACK's upper band storage.
"""

import numpy as np

from sphot_mpi.kernels._jit import jit, jit_fast
from sphot_mpi.kernels.psf import add_stamp, axis_nodes


@jit
def band_width(place, first, width, size):
    """Sub-diagonals that hold all products of overlapping stamps.

    Parameters
    ----------
    place : (n,) int64 ndarray
        First pixel of each star's stamp along the axis of sorting, ascending.
    first, width : (n,) int64 ndarray
        First column, and number of columns, of each star.
    size : int
        Side of the stamps, px.

    Returns
    -------
    int
        Largest i - j.
    """
    out = 0
    t = 0
    for s in range(place.size):
        while place[s] - place[t] >= size:
            t += 1
        out = max(out, first[s] + width[s] - 1 - first[t])
    return out


@jit
def star_columns(columns, first, width, planes, oversample, origin_y, origin_x, x, y, flux):
    """Stamps of all columns: P of each star, and for three columns its derivatives by x and y.

    Parameters
    ----------
    columns : (n columns, k, k) float64 ndarray
        Overwritten.
    first, width : (n,) int64 ndarray
        First column, and number of columns (1 or 3), of each star.
    planes, oversample, origin_y, origin_x
        As in `kernels.psf.fill_stamps`.
    x, y, flux : (n,) float64 ndarray
        Positions, px, and total fluxes.
    """
    wy, wx, dy, dx = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    ay, ax = np.empty(4, np.int64), np.empty(4, np.int64)
    sy, sx = np.empty(4, np.int64), np.empty(4, np.int64)
    radius = columns.shape[1] // 2
    columns[:] = 0.0
    for s in range(x.size):
        axis_nodes(y[s], origin_y, oversample, wy, dy, ay, sy)
        axis_nodes(x[s], origin_x, oversample, wx, dx, ax, sx)
        oy, ox = int(np.rint(y[s])) - radius, int(np.rint(x[s])) - radius
        y1, x1 = oy + columns.shape[1], ox + columns.shape[2]
        for c in range(width[s]):
            add_stamp(
                columns[first[s] + c], planes, dy if c == 2 else wy, dx if c == 1 else wx, ay, ax, sy, sx,
                1.0 if c == 0 else flux[s], oy, y1, ox, x1, oy, ox,
            )  # fmt: skip


@jit_fast
def weigh(out, columns, cross, oy, ox, weight, dense):
    """Multiply a star's stamps by the weights, and these with all dense images.

    Parameters
    ----------
    out : (c, k, k) float64 ndarray
        Overwritten with the weighted stamps.
    columns : (c, k, k) float64 ndarray
        The star's columns.
    cross : (c, m) float64 ndarray
        Added to: products of weighted stamps and dense images.
    oy, ox : int
        Image pixel of the stamps' first element; may be off the image.
    weight : (ny, nx) float64 ndarray
        1 / variance, 0 = masked.
    dense : (ny, nx, m) float64 ndarray
        Images, the last axis contiguous.
    """
    ny, nx, m = dense.shape
    c, k = columns.shape[0], columns.shape[1]
    out[:] = 0.0
    for j in range(max(0, -oy), min(k, ny - oy)):
        for i in range(max(0, -ox), min(k, nx - ox)):
            w = weight[j + oy, i + ox]
            if w == 0.0:
                continue
            pixel = dense[j + oy, i + ox]
            for p in range(c):
                v = w * columns[p, j, i]
                out[p, j, i] = v
                total = cross[p]
                for d in range(m):
                    total[d] += v * pixel[d]


@jit_fast
def overlap_products(block, a, b, dy, dx):
    """Scalar products of all columns of two stamps over their overlap.

    Parameters
    ----------
    block : (3, 3) float64 ndarray
        Overwritten: ``block[p, q] = sum(a[p] * b[q])``.
    a, b : (1 or 3, k, k) float64 ndarray
        The stamps' columns.
    dy, dx : int
        Corner of `b` minus corner of `a`, px.
    """
    k = a.shape[1]
    y0, y1 = max(0, dy), min(k, k + dy)
    x0, x1 = max(0, dx), min(k, k + dx)
    n = x1 - x0
    if b.shape[0] == 1:
        for p in range(a.shape[0]):
            s = 0.0
            for j in range(y0, y1):
                u, v = a[p, j, x0:x1], b[0, j - dy, x0 - dx : x1 - dx]
                for i in range(n):
                    s += u[i] * v[i]
            block[p, 0] = s
        return
    for p in range(a.shape[0]):
        # independent sums keep the adders busy where the rows are too short for vectors
        s0 = s1 = s2 = 0.0
        for j in range(y0, y1):
            u = a[p, j, x0:x1]
            b0 = b[0, j - dy, x0 - dx : x1 - dx]
            b1 = b[1, j - dy, x0 - dx : x1 - dx]
            b2 = b[2, j - dy, x0 - dx : x1 - dx]
            for i in range(n):
                s0 += u[i] * b0[i]
                s1 += u[i] * b1[i]
                s2 += u[i] * b2[i]
        block[p, 0], block[p, 1], block[p, 2] = s0, s1, s2


@jit
def band_normal(band, cross, columns, first, width, corner_y, corner_x, place, weight, dense):
    """Normal equations of all stars, and their products with the dense images.

    Parameters
    ----------
    band : (n columns, b + 1) float64 ndarray
        Overwritten with the matrix.
    cross : (n columns, m) float64 ndarray
        Overwritten with ``sum_p column[p] weight[p] dense[p, m]``.
    columns : (n columns, k, k) float64 ndarray
        As `star_columns` gives them.
    first, width : (n,) int64 ndarray
        First column, and number of columns, of each star.
    corner_y, corner_x : (n,) int64 ndarray
        Image pixel of each stamp's first element; may be off the image.
    place : (n,) int64 ndarray
        The one of these along which the stars are sorted.
    weight : (ny, nx) float64 ndarray
        1 / variance, 0 = masked.
    dense : (ny, nx, m) float64 ndarray
        Images, the last axis contiguous.
    """
    k = columns.shape[1]
    b = band.shape[1] - 1
    weighted = np.empty((3, k, k))
    block = np.empty((3, 3))
    band[:] = 0.0
    cross[:] = 0.0
    near = 0
    for s in range(first.size):
        own = columns[first[s] : first[s] + width[s]]
        a = weighted[: width[s]]
        weigh(a, own, cross[first[s] : first[s] + width[s]], corner_y[s], corner_x[s], weight, dense)
        while place[s] - place[near] >= k:
            near += 1
        for t in range(near, s + 1):
            dy, dx = corner_y[t] - corner_y[s], corner_x[t] - corner_x[s]
            if abs(dy) >= k or abs(dx) >= k:
                continue
            overlap_products(block, a, columns[first[t] : first[t] + width[t]], dy, dx)
            for p in range(width[s]):
                i = first[s] + p
                for q in range(width[t]):
                    j = first[t] + q
                    if j <= i:
                        band[i, b - i + j] = block[p, q]


@jit_fast
def band_solve(factor, rhs):
    """Solve for several right-hand sides with the Cholesky factor of a band matrix.

    Parameters
    ----------
    factor : (n, b + 1) float64 ndarray
        Lower triangle L with ``A = L L^T``, stored as `band`.
    rhs : (n, m) float64 ndarray
        Overwritten with the solutions.
    """
    n, b = factor.shape[0], factor.shape[1] - 1
    m = rhs.shape[1]
    for i in range(n):
        own = rhs[i]
        for j in range(max(0, i - b), i):
            f = factor[i, b - i + j]
            other = rhs[j]
            for d in range(m):
                own[d] -= f * other[d]
        f = 1.0 / factor[i, b]
        for d in range(m):
            own[d] *= f
    for i in range(n - 1, -1, -1):
        own = rhs[i]
        f = 1.0 / factor[i, b]
        for d in range(m):
            own[d] *= f
        for j in range(max(0, i - b), i):
            f = factor[i, b - i + j]
            other = rhs[j]
            for d in range(m):
                other[d] -= f * own[d]


@jit_fast
def band_variances(band, first, width, neighbours):
    """Marginal variances of each star's parameters from its neighbourhood's inverse.

    Parameters
    ----------
    band : (n columns, b + 1) float64 ndarray
        The matrix.
    first, width : (n,) int64 ndarray
        First column, and number of columns, of each star.
    neighbours : (n, k) int64 ndarray
        Stars whose parameters are free together with each star's; -1 = none.

    Returns
    -------
    (n, 3) float64 ndarray
        Variances of each star's parameters; nan where the block is not positive definite.
    """
    n, k = neighbours.shape
    b = band.shape[1] - 1
    out = np.full((n, 3), np.nan)
    index = np.empty(3 * (k + 1), np.int64)
    upper = np.empty((3 * (k + 1), 3 * (k + 1)))
    for s in range(n):
        size = 0
        # the star's own parameters come last: what elimination leaves there is their marginal precision
        for q in range(k, -1, -1):
            t = s if q == 0 else neighbours[s, q - 1]
            if t >= 0:
                for c in range(width[t]):
                    index[size] = first[t] + c
                    size += 1
        for p in range(size):
            for q in range(p, size):
                i, j = max(index[p], index[q]), min(index[p], index[q])
                upper[p, q] = band[i, b - i + j] if i - j <= b else 0.0
        w = width[s]
        ok = True
        for p in range(size - w):
            if not upper[p, p] > 0.0:
                ok = False
                break
            inverse = 1.0 / upper[p, p]
            row = upper[p, :size]
            for q in range(p + 1, size):
                f = row[q] * inverse
                other = upper[q, :size]
                for r in range(q, size):
                    other[r] -= f * row[r]
        if not ok:
            continue
        o = size - w
        if w == 1:
            if upper[o, o] > 0.0:
                out[s, 0] = 1.0 / upper[o, o]
            continue
        a, h, g = upper[o, o], upper[o, o + 1], upper[o, o + 2]
        c, f, e = upper[o + 1, o + 1], upper[o + 1, o + 2], upper[o + 2, o + 2]
        minor = a * c - h * h
        determinant = e * minor - a * f * f - c * g * g + 2.0 * f * g * h
        if a > 0.0 and minor > 0.0 and determinant > 0.0:
            out[s, 0] = (c * e - f * f) / determinant
            out[s, 1] = (a * e - g * g) / determinant
            out[s, 2] = minor / determinant
    return out
