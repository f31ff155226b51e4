"""Spectra of Sersic profiles and the light of their periodic images.

A spectrum is filled on the rows m = -M..M and columns p = 0..P of the half plane of
frequencies (p / lx, m / ly) and folded on the fly onto the (ly, lx // 2 + 1) grid of an
inverse real FFT, because sampling at the pixel centres adds the frequencies that differ by
whole cycles per pixel. The transform F(n, u), u = kappa^2, comes as a cubic in each cell;
a cell is the exponent and the first mantissa bits of the float64 u, so that finding it
needs no logarithm.
"""

import numpy as np

from sphot_mpi.kernels._jit import jit, jit_fast


@jit
def radial_sum(cells, edges, first, shift, u, weight, area, out):
    """Mean of |F| over directions times `area`: the light in each ring of frequencies.

    Parameters
    ----------
    cells, edges, first, shift
        As in `fill_spectra`.
    u : (directions, rings) float64 ndarray
        kappa^2.
    weight : (directions,) float64 ndarray
        Share of each direction in a ring.
    area : (rings,) float64 ndarray
        Sum of the PSF's spectrum over each ring.
    out : (rings,) float64 ndarray
        Overwritten.
    """
    bits = u.view(np.int64)
    last = edges.size - 1
    for j in range(u.shape[1]):
        total = 0.0
        for a in range(u.shape[0]):
            c = min(max((bits[a, j] >> shift) - first, 0), last)
            d = u[a, j] - edges[c]
            total += weight[a] * abs(cells[c, 0] + d * (cells[c, 1] + d * (cells[c, 2] + d * cells[c, 3])))
        out[j] = total * area[j]


@jit_fast
def fold_row(direct, mirrored, factor, re, im, turn, count, lx):
    """Add one row of a half-plane spectrum to its folded rows.

    Parameters
    ----------
    direct, mirrored : (n_columns,) complex ndarray
        Rows m mod ly and -m mod ly of the folded spectrum, added to in place.
    factor, re, im : (>= count,) float64 ndarray
        The spectrum is ``factor (re + i im)``, times -i if `turn`.
    count : int
        Columns p = 0 .. count - 1 that are filled.
    lx : int
        Period of the columns.
    """
    half = lx // 2
    start = 0
    while start < count:
        # slices, because an index that counts from somewhere else makes no vectors
        n = min(half + 1, count - start)
        to, f, a, b = direct[:n], factor[start : start + n], re[start : start + n], im[start : start + n]
        if turn:
            for p in range(n):
                to[p] += complex(f[p] * b[p], -f[p] * a[p])
        else:
            for p in range(n):
                to[p] += complex(f[p] * a[p], f[p] * b[p])
        # the conjugate half plane; columns 0 and lx / 2 of the result get both terms
        for p in range(start + lx - half, min(start + lx + 1, count)):
            if turn:
                mirrored[start + lx - p] += complex(factor[p] * im[p], factor[p] * re[p])
            else:
                mirrored[start + lx - p] += complex(factor[p] * re[p], -factor[p] * im[p])
        start += lx


@jit_fast
def fill_spectra(out, psf, factors, cells, edges, first, shift, forms, phase_y, phase_x, ly, lx, f_cut):
    """Fill folded spectra of a Sersic of unit flux under a PSF, with derivatives.

    Parameters
    ----------
    out : (k, ly, n_columns) complex ndarray
        Added to in place: S; dS/dx_0, dS/dy_0; dS/d ln r_circ, dS/d ln n, dS/d eta_1, dS/d eta_2; then S times each
        of `factors`. Before these there may be the first one, three or seven.
    psf : (2 M + 1, P + 1) complex64 ndarray
        Spectrum of the PSF about its origin, rows m = -M..M.
    factors : (n, 2 M + 1, P + 1) float64 ndarray
        Further real factors.
    cells : (n_cells, 8) float64 ndarray
        Cubics of F and of dF/d ln n in u - edge.
    edges : (n_cells,) float64 ndarray
        Lower edges of the cells in u.
    first, shift : int
        Cell of u is ``(bits(u) >> shift) - first``, clipped.
    forms : (3, 3) float64 ndarray
        Quadratic forms (xx, xy, yy): of u and of its derivatives by eta_1, eta_2.
    phase_y : (2 M + 1,) complex128 ndarray
        Phase of y_0 a row.
    phase_x : (P + 1,) complex128 ndarray
        Phase of x_0 a column.
    ly, lx : int
        Periods, px.
    f_cut : float
        Radius of the filled disc, cycles per px.
    """
    k = out.shape[0]
    own = k - factors.shape[0]
    top = psf.shape[0] // 2
    width = psf.shape[1]
    last = edges.size - 1
    u = np.empty(width)
    bits = u.view(np.int64)
    re, im = np.empty(width), np.empty(width)
    mult = np.zeros((k, width))
    for m in range(-top, top + 1):
        fy = m / ly
        if abs(fy) > f_cut:
            continue
        count = min(width, int(lx * np.sqrt(f_cut * f_cut - fy * fy)) + 1)
        row = psf[m + top]
        yr, yi = phase_y[m + top].real, phase_y[m + top].imag
        direct, mirrored = m % ly, (-m) % ly
        for p in range(count):
            fx = p / lx
            u[p] = (forms[0, 0] * fx + 2.0 * forms[0, 1] * fy) * fx + forms[0, 2] * fy * fy
            xr, xi = phase_x[p].real, phase_x[p].imag
            pr, pi = yr * xr - yi * xi, yr * xi + yi * xr
            re[p] = row[p].real * pr - row[p].imag * pi
            im[p] = row[p].real * pi + row[p].imag * pr
        for p in range(count):
            c = min(max((bits[p] >> shift) - first, 0), last)
            d = u[p] - edges[c]
            mult[0, p] = cells[c, 0] + d * (cells[c, 1] + d * (cells[c, 2] + d * cells[c, 3]))
        if own >= 3:
            for p in range(count):
                mult[1, p] = 2.0 * np.pi * (p / lx) * mult[0, p]
                mult[2, p] = 2.0 * np.pi * fy * mult[0, p]
        if own == 7:
            for p in range(count):
                c = min(max((bits[p] >> shift) - first, 0), last)
                d = u[p] - edges[c]
                mult[3, p] = cells[c, 1] + d * (2.0 * cells[c, 2] + 3.0 * d * cells[c, 3])
                mult[4, p] = cells[c, 4] + d * (cells[c, 5] + d * (cells[c, 6] + d * cells[c, 7]))
            for p in range(count):
                fx = p / lx
                mult[5, p] = ((forms[1, 0] * fx + 2.0 * forms[1, 1] * fy) * fx + forms[1, 2] * fy * fy) * mult[3, p]
                mult[6, p] = ((forms[2, 0] * fx + 2.0 * forms[2, 1] * fy) * fx + forms[2, 2] * fy * fy) * mult[3, p]
                mult[3, p] *= 2.0 * u[p]
        for i in range(own, k):
            for p in range(count):
                mult[i, p] = factors[i - own, m + top, p] * mult[0, p]
        for i in range(k):
            fold_row(out[i, direct], out[i, mirrored], mult[i], re, im, 1 <= i < min(own, 3), count, lx)


@jit_fast
def add_images(out, x, y, x_0, y_0, ly, lx, forms, log_amplitude, b, n, slope_b, slope_norm):
    """Add the surface brightness of the 48 nearest periodic images of a Sersic.

    Parameters
    ----------
    out : (k, ny, nx) float64 ndarray
        Added to in place; k = 1, 3 or 7, with the derivatives in the order of `fill_spectra`.
    x, y : (nx,), (ny,) float64 ndarray
        Points, px.
    x_0, y_0 : float
        Centre, px.
    ly, lx : int
        Periods, px.
    forms : (3, 3) float64 ndarray
        Quadratic forms (xx, xy, yy) of rho^2 and of its derivatives by eta_1, eta_2.
    log_amplitude : float
        ln of the central brightness of the profile of unit flux.
    b, n : float
        exp(-b rho^(1/n)).
    slope_b, slope_norm : float
        Derivatives of b and of `log_amplitude` by ln n.
    """
    for j in range(y.size):
        for i in range(x.size):
            for image in range(49):
                if image == 24:
                    continue
                dx = x[i] - x_0 - (image % 7 - 3) * lx
                dy = y[j] - y_0 - (image // 7 - 3) * ly
                rho2 = (forms[0, 0] * dx + 2.0 * forms[0, 1] * dy) * dx + forms[0, 2] * dy * dy
                log_rho = 0.5 * np.log(rho2)
                power = np.exp(log_rho / n)
                light = np.exp(log_amplitude - b * power)
                out[0, j, i] += light
                if out.shape[0] == 1:
                    continue
                # d light / d rho^2
                slope = -light * b * power / (2.0 * n * rho2)
                out[1, j, i] -= slope * 2.0 * (forms[0, 0] * dx + forms[0, 1] * dy)
                out[2, j, i] -= slope * 2.0 * (forms[0, 1] * dx + forms[0, 2] * dy)
                if out.shape[0] == 3:
                    continue
                out[3, j, i] -= 2.0 * light + 2.0 * rho2 * slope
                out[4, j, i] += light * (slope_norm - power * (slope_b - b * log_rho / n))
                out[5, j, i] += slope * ((forms[1, 0] * dx + 2.0 * forms[1, 1] * dy) * dx + forms[1, 2] * dy * dy)
                out[6, j, i] += slope * ((forms[2, 0] * dx + 2.0 * forms[2, 1] * dy) * dx + forms[2, 2] * dy * dy)
