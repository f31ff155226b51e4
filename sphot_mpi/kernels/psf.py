"""Stamps of point sources from the cubic B-spline of an oversampled PSF.

The spline's coefficients come deinterleaved: ``planes[a, b, J, I]`` is the
coefficient ``c[os * J + a, os * I + b]``. Because the oversampling `os` is an
integer, the 4 + 4 spline weights of a star are the same for all its pixels, and
neighbouring pixels read neighbouring elements of the same 16 planes.
"""

import numpy as np

from sphot_mpi.kernels._jit import jit, jit_fast


@jit
def spline_weights(t, w, d):
    """Cubic B-spline weights of the nodes -1, 0, 1, 2 at offset `t`, and d/dt.

    Parameters
    ----------
    t : float
        Position between node 0 and node 1, in [0, 1).
    w, d : (4,) float64 ndarray
        Overwritten with weights and their derivatives.
    """
    u = 1.0 - t
    w[0] = u * u * u / 6.0
    w[1] = 2.0 / 3.0 - t * t * (1.0 - 0.5 * t)
    w[2] = 2.0 / 3.0 - u * u * (1.0 - 0.5 * u)
    w[3] = t * t * t / 6.0
    d[0] = -0.5 * u * u
    d[1] = t * (1.5 * t - 2.0)
    d[2] = u * (2.0 - 1.5 * u)
    d[3] = 0.5 * t * t


@jit
def axis_nodes(position, origin, oversample, w, d, plane, shift):
    """Planes, shifts and weights of one axis for a star at `position`.

    Parameters
    ----------
    position : float
        The star's coordinate, px.
    origin : float
        Index of the PSF's centre in the coefficient array.
    oversample : int
        Oversampling.
    w, d : (4,) float64 ndarray
        Overwritten: weights, and their derivatives by `position`, in 1/px.
    plane, shift : (4,) int64 ndarray
        Overwritten: node m of pixel i lies in plane ``plane[m]`` at ``i + shift[m]``.
    """
    v = origin - oversample * position
    k0 = int(np.floor(v))
    spline_weights(v - k0, w, d)
    for m in range(4):
        q = k0 + m - 1
        shift[m] = q // oversample
        plane[m] = q - shift[m] * oversample
        d[m] *= -oversample


@jit_fast
def add_stamp(image, planes, wy, wx, ay, ax, sy, sx, scale, y0, y1, x0, x1, oy, ox):
    """Add ``scale`` times a star's stamp to ``image``, rows y0:y1, columns x0:x1.

    `oy`, `ox` are the frame coordinates of ``image[0, 0]``; y0 to x1 are frame
    coordinates too. Pixels beyond the PSF's array get nothing.
    """
    height, width = planes.shape[2], planes.shape[3]
    x_lo = max(x0, -min(sx[0], sx[3]))
    x_hi = min(x1, width - max(sx[0], sx[3]))
    y_lo = max(y0, -min(sy[0], sy[3]))
    y_hi = min(y1, height - max(sy[0], sy[3]))
    n = x_hi - x_lo
    if n <= 0:
        return
    for j in range(y_lo, y_hi):
        out = image[j - oy, x_lo - ox : x_hi - ox]
        for m in range(4):
            row = j + sy[m]
            p0 = planes[ay[m], ax[0], row, x_lo + sx[0] : x_lo + sx[0] + n]
            p1 = planes[ay[m], ax[1], row, x_lo + sx[1] : x_lo + sx[1] + n]
            p2 = planes[ay[m], ax[2], row, x_lo + sx[2] : x_lo + sx[2] + n]
            p3 = planes[ay[m], ax[3], row, x_lo + sx[3] : x_lo + sx[3] + n]
            s = scale * wy[m]
            w0 = s * wx[0]
            w1 = s * wx[1]
            w2 = s * wx[2]
            w3 = s * wx[3]
            for i in range(n):
                out[i] += w0 * p0[i] + w1 * p1[i] + w2 * p2[i] + w3 * p3[i]


@jit_fast
def add_stamp_with_slopes(stamps, planes, wy, wx, dy, dx, ay, ax, sy, sx, slope, oy, ox):
    """Add a star's unit-flux stamp, and ``slope`` times its derivatives by x and y, to three images.

    The three share their loads and half of their sums; arguments as in `add_stamp`.
    """
    height, width = planes.shape[2], planes.shape[3]
    x_lo = max(ox, -min(sx[0], sx[3]))
    x_hi = min(ox + stamps.shape[2], width - max(sx[0], sx[3]))
    y_lo = max(oy, -min(sy[0], sy[3]))
    y_hi = min(oy + stamps.shape[1], height - max(sy[0], sy[3]))
    n = x_hi - x_lo
    if n <= 0:
        return
    w0, w1, w2, w3 = wx[0], wx[1], wx[2], wx[3]
    d0, d1, d2, d3 = dx[0], dx[1], dx[2], dx[3]
    for j in range(y_lo, y_hi):
        star = stamps[0, j - oy, x_lo - ox : x_hi - ox]
        by_x = stamps[1, j - oy, x_lo - ox : x_hi - ox]
        by_y = stamps[2, j - oy, x_lo - ox : x_hi - ox]
        for m in range(4):
            row = j + sy[m]
            p0 = planes[ay[m], ax[0], row, x_lo + sx[0] : x_lo + sx[0] + n]
            p1 = planes[ay[m], ax[1], row, x_lo + sx[1] : x_lo + sx[1] + n]
            p2 = planes[ay[m], ax[2], row, x_lo + sx[2] : x_lo + sx[2] + n]
            p3 = planes[ay[m], ax[3], row, x_lo + sx[3] : x_lo + sx[3] + n]
            a, b, c = wy[m], slope * wy[m], slope * dy[m]
            for i in range(n):
                along = w0 * p0[i] + w1 * p1[i] + w2 * p2[i] + w3 * p3[i]
                star[i] += a * along
                by_x[i] += b * (d0 * p0[i] + d1 * p1[i] + d2 * p2[i] + d3 * p3[i])
                by_y[i] += c * along


@jit
def render_stars(image, planes, oversample, origin_y, origin_x, x, y, flux, radius):
    """Add point sources to an image.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Added to in place.
    planes : (os, os, J, I) float64 ndarray
        Deinterleaved coefficients, scaled such that a stamp is a unit-flux star.
    oversample : int
        Oversampling.
    origin_y, origin_x : float
        Index of the PSF's centre in the coefficient array.
    x, y, flux : (n,) float64 ndarray
        Positions, px, and total fluxes.
    radius : (n,) int64 ndarray
        Half-size of each source's stamp, px.
    """
    ny, nx = image.shape
    wy, wx, dy, dx = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    ay, ax = np.empty(4, np.int64), np.empty(4, np.int64)
    sy, sx = np.empty(4, np.int64), np.empty(4, np.int64)
    for s in range(x.size):
        axis_nodes(y[s], origin_y, oversample, wy, dy, ay, sy)
        axis_nodes(x[s], origin_x, oversample, wx, dx, ax, sx)
        cy, cx = int(np.rint(y[s])), int(np.rint(x[s]))
        r = radius[s]
        y0, y1 = max(0, cy - r), min(ny, cy + r + 1)
        x0, x1 = max(0, cx - r), min(nx, cx + r + 1)
        add_stamp(image, planes, wy, wx, ay, ax, sy, sx, flux[s], y0, y1, x0, x1, 0, 0)


@jit
def fill_stamps(stamps, planes, oversample, origin_y, origin_x, x, y, radius):
    """Unit-flux stamps of sources with their derivatives by position.

    Parameters
    ----------
    stamps : (n, 3, 2 radius + 1, 2 radius + 1) float64 ndarray
        Overwritten with P, dP/dx, dP/dy around the pixel nearest to each source.
    planes, oversample, origin_y, origin_x
        As in `render_stars`.
    x, y : (n,) float64 ndarray
        Positions, px.
    radius : int
        Half-size of the stamps, px.
    """
    wy, wx, dy, dx = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    ay, ax = np.empty(4, np.int64), np.empty(4, np.int64)
    sy, sx = np.empty(4, np.int64), np.empty(4, np.int64)
    stamps[:] = 0.0
    for s in range(x.size):
        axis_nodes(y[s], origin_y, oversample, wy, dy, ay, sy)
        axis_nodes(x[s], origin_x, oversample, wx, dx, ax, sx)
        oy, ox = int(np.rint(y[s])) - radius, int(np.rint(x[s])) - radius
        add_stamp_with_slopes(stamps[s], planes, wy, wx, dy, dx, ay, ax, sy, sx, 1.0, oy, ox)


@jit
def spread(grid, u, v, value):
    """Share values among the four nearest nodes of a grid, in proportion to nearness.

    Parameters
    ----------
    grid : (ny, nx) float64 ndarray
        Added to in place.
    u, v : (n,) float64 ndarray
        Column and row coordinates, at least one node away from the far edges.
    value : (n,) float64 ndarray
        What is shared.
    """
    for s in range(u.size):
        i, j = int(u[s]), int(v[s])
        a, b = u[s] - i, v[s] - j
        grid[j, i] += (1.0 - a) * (1.0 - b) * value[s]
        grid[j, i + 1] += a * (1.0 - b) * value[s]
        grid[j + 1, i] += (1.0 - a) * b * value[s]
        grid[j + 1, i + 1] += a * b * value[s]


@jit
def enlarge(image, coarse, factor, offset):
    """Bilinear interpolation of a coarse grid on an image.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Overwritten.
    coarse : (my, mx) float64 ndarray
        Values; the centre of node m lies at ``factor * (m - offset) + (factor - 1) / 2``.
    factor, offset : int
        Scale and margin of the coarse grid; the margin must cover the image.
    """
    ny, nx = image.shape
    for y in range(ny):
        v = (y - 0.5 * (factor - 1)) / factor + offset
        j = int(v)
        b = v - j
        for x in range(nx):
            u = (x - 0.5 * (factor - 1)) / factor + offset
            i = int(u)
            a = u - i
            low = (1.0 - a) * coarse[j, i] + a * coarse[j, i + 1]
            high = (1.0 - a) * coarse[j + 1, i] + a * coarse[j + 1, i + 1]
            image[y, x] = (1.0 - b) * low + b * high
