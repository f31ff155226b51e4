"""The stars' normal equations as a band matrix.

Stars are sorted along one axis, so that only those whose stamps may overlap are near each other in the matrix. A star
has one column (its flux) or three (flux, x, y). ``band[j, i - j]`` is the element (i, j), j <= i <= j + b, of the
symmetric matrix; transposed it is LAPACK's lower band storage, of which its Cholesky takes a fifth less time.
"""

import numpy as np

from sphot_mpi.kernels._jit import jit, jit_fast
from sphot_mpi.kernels.psf import add_stamp, add_stamp_with_slopes, axis_nodes


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
        own = columns[first[s] : first[s] + width[s]]
        if width[s] == 3:
            add_stamp_with_slopes(own, planes, wy, wx, dy, dx, ay, ax, sy, sx, flux[s], oy, ox)
        else:
            y1, x1 = oy + columns.shape[1], ox + columns.shape[2]
            add_stamp(own[0], planes, wy, wx, ay, ax, sy, sx, 1.0, oy, y1, ox, x1, oy, ox)


@jit_fast
def window_products(block, a, b, y_a, x_a, y_b, x_b, height, width):
    """Scalar products of one or three images with three over a window.

    Parameters
    ----------
    block : (3, 3) float64 ndarray
        Overwritten: ``block[p, q] = sum(a[p] * b[q])``.
    a : (1 or 3, ny, nx) float64 ndarray
        Images.
    b : (3, my, mx) float64 ndarray
        Images.
    y_a, x_a, y_b, x_b : int
        First pixel of the window in each.
    height, width : int
        Size of the window, px.
    """
    # independent sums keep the adders busy where the rows are too short for vectors; each element is read once
    s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = 0.0
    if a.shape[0] == 1:
        for j in range(height):
            u = a[0, y_a + j, x_a : x_a + width]
            b0, b1 = b[0, y_b + j, x_b : x_b + width], b[1, y_b + j, x_b : x_b + width]
            b2 = b[2, y_b + j, x_b : x_b + width]
            for i in range(width):
                s00 += u[i] * b0[i]
                s01 += u[i] * b1[i]
                s02 += u[i] * b2[i]
        block[0, 0], block[0, 1], block[0, 2] = s00, s01, s02
        return
    for j in range(height):
        a0, a1 = a[0, y_a + j, x_a : x_a + width], a[1, y_a + j, x_a : x_a + width]
        a2 = a[2, y_a + j, x_a : x_a + width]
        b0, b1 = b[0, y_b + j, x_b : x_b + width], b[1, y_b + j, x_b : x_b + width]
        b2 = b[2, y_b + j, x_b : x_b + width]
        for i in range(width):
            u0, u1, u2 = a0[i], a1[i], a2[i]
            v0, v1, v2 = b0[i], b1[i], b2[i]
            s00 += u0 * v0
            s01 += u0 * v1
            s02 += u0 * v2
            s10 += u1 * v0
            s11 += u1 * v1
            s12 += u1 * v2
            s20 += u2 * v0
            s21 += u2 * v1
            s22 += u2 * v2
    block[0, 0], block[0, 1], block[0, 2] = s00, s01, s02
    block[1, 0], block[1, 1], block[1, 2] = s10, s11, s12
    block[2, 0], block[2, 1], block[2, 2] = s20, s21, s22


@jit_fast
def weigh(out, columns, oy, ox, weight):
    """Multiply a star's stamps by the weights.

    Parameters
    ----------
    out : (c, k, k) float64 ndarray
        Overwritten.
    columns : (c, k, k) float64 ndarray
        The star's columns.
    oy, ox : int
        Image pixel of the stamps' first element; may be off the image.
    weight : (ny, nx) float64 ndarray
        1 / variance, 0 = masked.
    """
    ny, nx = weight.shape
    k = columns.shape[1]
    j0, j1, i0, i1 = max(0, -oy), min(k, ny - oy), max(0, -ox), min(k, nx - ox)
    width = max(i1 - i0, 0)
    if j1 - j0 < k or width < k:
        out[:] = 0.0
    for j in range(j0, j1):
        w = weight[j + oy, i0 + ox : i0 + ox + width]
        for p in range(columns.shape[0]):
            u, v = out[p, j, i0 : i0 + width], columns[p, j, i0 : i0 + width]
            for i in range(width):
                u[i] = w[i] * v[i]


@jit_fast
def fill_pair(band, column, a, n_a, columns, first, n_b, dy, dx):
    """Fill a matrix with the scalar products of all columns of two stamps over their overlap.

    Parameters
    ----------
    band : (n columns, b + 1) float64 ndarray
        Its elements for the two are overwritten.
    column : int
        First column of the first stamp in the matrix.
    a : (3, k, k) float64 ndarray
        That one's columns, `n_a` (1 or 3) of them, weighted.
    n_a : int
        Their number.
    columns : (n columns, k, k) float64 ndarray
        The second stamp's are those from `first` on.
    first, n_b : int
        Where, and their number (1 or 3).
    dy, dx : int
        Corner of the second one minus corner of the first, px.
    """
    k, d = a.shape[1], first - column
    y, x, v, u, height, width = max(0, dy), max(0, dx), max(0, -dy), max(0, -dx), k - abs(dy), k - abs(dx)
    # a loop for each case, for what is chosen within one costs as much as the products
    s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = 0.0
    if n_a == 3 and n_b == 3:
        for j in range(height):
            a0, a1, a2 = a[0, y + j, x : x + width], a[1, y + j, x : x + width], a[2, y + j, x : x + width]
            b0, b1 = columns[first, v + j, u : u + width], columns[first + 1, v + j, u : u + width]
            b2 = columns[first + 2, v + j, u : u + width]
            for i in range(width):
                p, q, r, e, f, g = a0[i], a1[i], a2[i], b0[i], b1[i], b2[i]
                s00 += p * e
                s01 += p * f
                s02 += p * g
                s10 += q * e
                s11 += q * f
                s12 += q * g
                s20 += r * e
                s21 += r * f
                s22 += r * g
        band[column, d], band[column, d + 1], band[column, d + 2] = s00, s01, s02
        band[column + 1, d], band[column + 1, d + 1], band[column + 2, d] = s11, s12, s22
        # of a star with itself there is nothing beyond the diagonal
        if d > 0:
            band[column + 1, d - 1], band[column + 2, d - 2], band[column + 2, d - 1] = s10, s20, s21
    elif n_b == 3:
        for j in range(height):
            a0, b0 = a[0, y + j, x : x + width], columns[first, v + j, u : u + width]
            b1, b2 = columns[first + 1, v + j, u : u + width], columns[first + 2, v + j, u : u + width]
            for i in range(width):
                s00 += a0[i] * b0[i]
                s01 += a0[i] * b1[i]
                s02 += a0[i] * b2[i]
        band[column, d], band[column, d + 1], band[column, d + 2] = s00, s01, s02
    elif n_a == 3:
        for j in range(height):
            a0, b0 = a[0, y + j, x : x + width], columns[first, v + j, u : u + width]
            a1, a2 = a[1, y + j, x : x + width], a[2, y + j, x : x + width]
            for i in range(width):
                s00 += a0[i] * b0[i]
                s10 += a1[i] * b0[i]
                s20 += a2[i] * b0[i]
        band[column, d], band[column + 1, d - 1], band[column + 2, d - 2] = s00, s10, s20
    else:
        for j in range(height):
            a0, b0 = a[0, y + j, x : x + width], columns[first, v + j, u : u + width]
            for i in range(width):
                s00 += a0[i] * b0[i]
        band[column, d] = s00


@jit
def band_normal(band, cross, columns, first, width, corner_y, corner_x, place, weight, dense, top, end, rest):
    """Normal equations of all stars, and their products with the dense images.

    Parameters
    ----------
    band : (n columns, b + 1) float64 ndarray
        Overwritten with the matrix.
    cross : (n columns, m + 3) float64 ndarray
        Overwritten with ``sum_p column[p] weight[p] image[p]`` for the images of `dense`, then of `rest`.
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
    dense : (m, ny, nx) float64 ndarray
        Images; m a multiple of three.
    top, end : (m / 3,) int64 ndarray
        First row of each three and the one after their last, beyond which they are 0.
    rest : (3, ny, nx) float64 ndarray
        Three more.
    """
    ny, nx = weight.shape
    k = columns.shape[1]
    weighted = np.empty((3, k, k))
    block = np.empty((3, 3))
    far = 0
    for s in range(first.size):
        own = columns[first[s] : first[s] + width[s]]
        a = weighted[: width[s]]
        # row by row, while they are at hand
        band[first[s] : first[s] + width[s]] = 0.0
        oy, ox = corner_y[s], corner_x[s]
        weigh(a, own, oy, ox, weight)
        y, x = max(0, -oy), max(0, -ox)
        high, wide = max(min(k, ny - oy) - y, 0), max(min(k, nx - ox) - x, 0)
        for d in range(0, dense.shape[0], 3):
            if y + oy < end[d // 3] and y + high + oy > top[d // 3]:
                window_products(block, a, dense[d : d + 3], y, x, y + oy, x + ox, high, wide)
                cross[first[s] : first[s] + width[s], d : d + 3] = block[: width[s]]
            else:
                cross[first[s] : first[s] + width[s], d : d + 3] = 0.0
        window_products(block, a, rest, y, x, y + oy, x + ox, high, wide)
        cross[first[s] : first[s] + width[s], dense.shape[0] :] = block[: width[s]]
        while far < first.size and place[far] - place[s] < k:
            far += 1
        for t in range(s, far):
            dy, dx = corner_y[t] - corner_y[s], corner_x[t] - corner_x[s]
            if abs(dy) >= k or abs(dx) >= k:
                continue
            fill_pair(band, first[s], weighted, width[s], columns, first[t], width[t], dy, dx)


@jit_fast
def band_solve(factor, rhs):
    """Solve for several right-hand sides with the Cholesky factor of a band matrix.

    Parameters
    ----------
    factor : (n, b + 1) float64 ndarray
        Lower triangle L with ``A = L L^T``, stored as `band`.
    rhs : (m, n) float64 ndarray
        One a row, m a multiple of four; overwritten with the solutions.
    """
    n, b = factor.shape[0], factor.shape[1] - 1
    # four at once, for each element of the factor comes from far away
    for i in range(n):
        high = min(n, i + b + 1)
        column, inverse = factor[i, 1 : high - i], 1.0 / factor[i, 0]
        for d in range(0, rhs.shape[0], 4):
            v0, v1, v2, v3 = (
                rhs[d, i] * inverse,
                rhs[d + 1, i] * inverse,
                rhs[d + 2, i] * inverse,
                rhs[d + 3, i] * inverse,
            )
            rhs[d, i], rhs[d + 1, i], rhs[d + 2, i], rhs[d + 3, i] = v0, v1, v2, v3
            x0, x1 = rhs[d, i + 1 : high], rhs[d + 1, i + 1 : high]
            x2, x3 = rhs[d + 2, i + 1 : high], rhs[d + 3, i + 1 : high]
            for k in range(high - i - 1):
                element = column[k]
                x0[k] -= element * v0
                x1[k] -= element * v1
                x2[k] -= element * v2
                x3[k] -= element * v3
    for i in range(n - 1, -1, -1):
        high = min(n, i + b + 1)
        column, inverse = factor[i, 1 : high - i], 1.0 / factor[i, 0]
        for d in range(0, rhs.shape[0], 4):
            x0, x1 = rhs[d, i + 1 : high], rhs[d + 1, i + 1 : high]
            x2, x3 = rhs[d + 2, i + 1 : high], rhs[d + 3, i + 1 : high]
            t0 = t1 = t2 = t3 = 0.0
            for k in range(high - i - 1):
                element = column[k]
                t0 += element * x0[k]
                t1 += element * x1[k]
                t2 += element * x2[k]
                t3 += element * x3[k]
            rhs[d, i] = (rhs[d, i] - t0) * inverse
            rhs[d + 1, i] = (rhs[d + 1, i] - t1) * inverse
            rhs[d + 2, i] = (rhs[d + 2, i] - t2) * inverse
            rhs[d + 3, i] = (rhs[d + 3, i] - t3) * inverse


@jit_fast
def _eliminate(upper, size, p, count):
    """Eliminate `count` (1 or 3) columns from `p` on of a symmetric matrix (size, size) in its upper triangle.

    Returns whether it is positive so far; if not, it is left half done.
    """
    end = p + count
    for i in range(p, end):
        if not upper[i, i] > 0.0:
            return False
        for j in range(i + 1, end):
            # slices, because an index that counts from somewhere else makes no vectors
            other, a, f = upper[j, j:size], upper[i, j:size], upper[i, j] / upper[i, i]
            for r in range(size - j):
                other[r] -= f * a[r]
    if count == 1:
        inverse = 1.0 / upper[p, p]
        for j in range(end, size):
            other, a, f = upper[j, j:size], upper[p, j:size], upper[p, j] * inverse
            for r in range(size - j):
                other[r] -= f * a[r]
        return True
    # three rows at once, for each element of the rest is read and written once
    for j in range(end, size):
        other, a, b, c = upper[j, j:size], upper[p, j:size], upper[p + 1, j:size], upper[p + 2, j:size]
        f, g, h = a[0] / upper[p, p], b[0] / upper[p + 1, p + 1], c[0] / upper[p + 2, p + 2]
        for r in range(size - j):
            other[r] -= f * a[r] + g * b[r] + h * c[r]
    return True


@jit_fast
def band_variances(band, first, width, neighbours, damping):
    """Marginal variances of each star's parameters from its neighbourhood's inverse.

    Parameters
    ----------
    band : (n columns, b + 1) float64 ndarray
        The matrix.
    first, width : (n,) int64 ndarray
        First column, and number of columns, of each star.
    neighbours : (n, k) int64 ndarray
        Stars whose parameters are free together with each star's; -1 = none.
    damping : (n, 2) float64 ndarray
        What of the matrix' diagonal, at each star's position, is no information but holds its step; in a position's
        own variance it does not count.

    Returns
    -------
    (n, 3) float64 ndarray
        Variances of each star's parameters; nan where the block is not positive definite, inf for a position that
        only the damping tells.
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
            row, others, j = upper[p, p:size], index[p:size], index[p]
            for q in range(size - p):
                lag = abs(others[q] - j)
                row[q] = band[min(others[q], j), lag] if lag <= b else 0.0
        w, p, ok = width[s], 0, True
        for q in range(k, 0, -1):
            t = neighbours[s, q - 1]
            if t >= 0:
                ok = ok and _eliminate(upper, size, p, width[t])
                p += width[t]
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
            c, e = c - damping[s, 0], e - damping[s, 1]
            minor = a * c - h * h
            determinant = e * minor - a * f * f - c * g * g + 2.0 * f * g * h
            told = minor > 0.0 and determinant > 0.0
            out[s, 1] = (a * e - g * g) / determinant if told else np.inf
            out[s, 2] = minor / determinant if told else np.inf
    return out
