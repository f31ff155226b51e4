"""Spectra of many point sources at once.

Sources are spread on a lattice with a narrow smooth kernel; the lattice's FFT over the kernel's transform is the sum
of their phase factors at all frequencies of a band (a nonuniform FFT of type 1, e.g. Barnett et al. 2019, SIAM J. Sci.
Comput. 41, C479). Times the PSF's spectrum it is the image of all stars, wings and all.
"""

import numpy as np

from sphot_mpi.kernels._jit import jit, jit_fast
from sphot_mpi.kernels.sersic import fold_row


@jit
def spread_weights(position, length, width, beta, index, weight):
    """Nodes of a periodic lattice and their weights for a source at `position`.

    Parameters
    ----------
    position : float
        In units of the lattice's spacing, anywhere.
    length : int
        Nodes of the lattice.
    width : int
        Nodes that get a share.
    beta : float
        The kernel is ``exp(beta (sqrt(1 - z^2) - 1))``, z from -1 to 1 over `width` nodes.
    index : (width,) int64 ndarray
        Overwritten with the nodes.
    weight : (width,) float64 ndarray
        Overwritten with their weights.
    """
    first = int(np.ceil(position - 0.5 * width))
    for k in range(width):
        z = 2.0 * (first + k - position) / width
        weight[k] = np.exp(beta * (np.sqrt(max(1.0 - z * z, 0.0)) - 1.0))
        index[k] = (first + k) % length


@jit
def spread_stars(lattice, x, y, flux, width, beta):
    """Add point sources to a periodic lattice.

    Parameters
    ----------
    lattice : (my, mx) float32 ndarray
        Added to in place.
    x, y : (n,) float64 ndarray
        Positions in units of the lattice's spacing.
    flux : (n,) float64 ndarray
        Total fluxes.
    width, beta : int, float
        As in `spread_weights`.
    """
    my, mx = lattice.shape
    wy, wx = np.empty(width), np.empty(width)
    iy, ix = np.empty(width, np.int64), np.empty(width, np.int64)
    for s in range(x.size):
        spread_weights(y[s], my, width, beta, iy, wy)
        spread_weights(x[s], mx, width, beta, ix, wx)
        for j in range(width):
            row = lattice[iy[j]]
            scale = flux[s] * wy[j]
            for i in range(width):
                row[ix[i]] += scale * wx[i]


@jit
def fill_phases(along_y, along_x, y, x, flux):
    """Fill phase factors of point sources, whose product is their sum on a box of frequencies.

    Parameters
    ----------
    along_y : (2 M + 1, n) complex64 ndarray
        Overwritten with ``exp(-2 pi i m y)``, rows in FFT order: m = 0..M, -M..-1.
    along_x : (n, P + 1) complex64 ndarray
        Overwritten with ``flux exp(-2 pi i p x)``, p = 0..P.
    y, x : (n,) float64 ndarray
        Positions in periods.
    flux : (n,) float64 ndarray
        Total fluxes.
    """
    rows = along_y.shape[0]
    for s in range(y.size):
        # powers of one phase: in double precision they lose nothing that single precision would show
        turn, phase = np.exp(-2j * np.pi * y[s]), 1.0 + 0.0j
        along_y[0, s] = 1.0
        for m in range(1, rows // 2 + 1):
            phase *= turn
            along_y[m, s] = phase
            along_y[rows - m, s] = np.conj(phase)
        turn, phase = np.exp(-2j * np.pi * x[s]), flux[s] + 0.0j
        for p in range(along_x.shape[1]):
            along_x[s, p] = phase
            phase *= turn


@jit_fast
def fold_star_spectra(out, phases, psf, slopes, ly, lx, f_cut, light, shift):
    """Fill folded spectra of all stars, with derivatives.

    Parameters
    ----------
    out : (k, ly, lx // 2 + 1) complex64 ndarray
        Added to in place: the stars, if `light`; d/dx and d/dy of a common displacement, if `shift`; the stars times
        each of `slopes`.
    phases : (my, P + 1) complex64 ndarray
        Sum of the stars' phase factors, or of those on a lattice, my >= 2 M + 1 rows in FFT order.
    psf : (2 M + 1, P + 1) complex64 ndarray
        Spectrum of the PSF about its origin, over the spreading kernel's transform for a lattice, rows m = -M..M.
    slopes : (n, 2 M + 1, P + 1) float32 ndarray
        Further real factors.
    ly, lx : int
        Periods, px.
    f_cut : float
        Radius of the filled disc, cycles per px.
    light, shift : bool
        Whether the stars and their derivatives by a displacement are wanted.
    """
    top, width = psf.shape[0] // 2, psf.shape[1]
    my = phases.shape[0]
    re, im = np.empty(width, np.float32), np.empty(width, np.float32)
    one, along = np.ones(width, np.float32), np.empty(width, np.float32)
    across = np.empty(width, np.float32)
    for p in range(width):
        along[p] = 2.0 * np.pi * p / lx
    for m in range(-top, top + 1):
        fy = m / ly
        if abs(fy) > f_cut:
            continue
        count = min(width, int(lx * np.sqrt(f_cut * f_cut - fy * fy)) + 1)
        row, factor = phases[m % my], psf[m + top]
        for p in range(count):
            re[p] = row[p].real * factor[p].real - row[p].imag * factor[p].imag
            im[p] = row[p].real * factor[p].imag + row[p].imag * factor[p].real
        direct, mirrored = m % ly, (-m) % ly
        k = 0
        if light:
            fold_row(out[k, direct], out[k, mirrored], one, re, im, False, count, lx)
            k += 1
        if shift:
            across[:] = 2.0 * np.pi * fy
            fold_row(out[k, direct], out[k, mirrored], along, re, im, True, count, lx)
            fold_row(out[k + 1, direct], out[k + 1, mirrored], across, re, im, True, count, lx)
            k += 2
        for slope in slopes:
            fold_row(out[k, direct], out[k, mirrored], slope[m + top], re, im, False, count, lx)
            k += 1
