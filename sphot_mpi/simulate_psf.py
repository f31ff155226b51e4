"""Library PSFs for simulations, computed from telescope apertures.

They look like those of HST and JWST in what matters to a fit: cores of the
right width, diffraction rings and spikes, a halo to 80 px, odd and even array
sizes, and one that is not centred in its array.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from sphot_mpi.records import Image
from sphot_mpi.simulate_render import ScenePSF

_OVERSAMPLE = 4
_PIXEL_ARCSEC = 0.03
_WAVELENGTHS = np.linspace(-0.1, 0.1, 5)  # across a band, relative
_PUPIL_SAMPLES = 240  # 29 mm for JWST: the diffraction image repeats beyond 2.8 arcsec at 0.81 um
_MARGIN = 16  # lattice points computed around the array, so that the pixel's convolution does not wrap into it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Optics:
    """One filter: telescope, wavelength (um), side of the array and where the star stands in it (px)."""

    telescope: str
    wavelength: float
    side: int
    shift: tuple[float, float] = (0.0, 0.0)


_FILTERS: dict[str, _Optics] = {
    "F555W": _Optics(telescope="hst", wavelength=0.53, side=131),
    "F814W": _Optics(telescope="hst", wavelength=0.80, side=132),
    "F090W": _Optics(telescope="jwst", wavelength=0.90, side=665),
    "F150W": _Optics(telescope="jwst", wavelength=1.50, side=665),
    "F160W": _Optics(telescope="hst", wavelength=1.54, side=437, shift=(0.19, 0.34)),
    "F277W": _Optics(telescope="jwst", wavelength=2.77, side=664),
}


def synthetic_library() -> dict[str, ScenePSF]:
    """Return the effective PSF of each filter that the simulator knows.

    Returns
    -------
    dict of str to ScenePSF
        Unit sum, oversample 4, detector pixel contained.
    """
    return {name: _effective_psf(optics) for name, optics in _FILTERS.items()}


def _effective_psf(optics: _Optics) -> ScenePSF:
    """Fraunhofer diffraction by a matrix Fourier transform (Soummer et al. 2007), times the pixel."""
    pupil, half = _pupil(optics.telescope)
    position = (np.arange(_PUPIL_SAMPLES) + 0.5) / _PUPIL_SAMPLES * 2.0 * half - half
    side = optics.side + 2 * _MARGIN
    index = (np.arange(side) - (side - 1) / 2) / _OVERSAMPLE
    array = np.zeros((side, side))
    for relative in _WAVELENGTHS:
        metres = optics.wavelength * 1e-6 * (1.0 + relative)
        scale = 2j * np.pi * np.deg2rad(_PIXEL_ARCSEC / 3600.0) / metres
        field_x = np.exp(scale * np.outer(index - optics.shift[0], position))
        field_y = np.exp(scale * np.outer(index - optics.shift[1], position))
        array += np.abs(field_y @ pupil @ field_x.T) ** 2
    fy, fx = fft.fftfreq(side, 1.0 / _OVERSAMPLE)[:, None], fft.rfftfreq(side, 1.0 / _OVERSAMPLE)[None, :]
    array = fft.irfft2(fft.rfft2(array) * np.sinc(fy) * np.sinc(fx), array.shape)
    array = array[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    return ScenePSF(array / array.sum(), _OVERSAMPLE)


def _pupil(telescope: str) -> tuple[Image, float]:
    """Transmission of the aperture and half the width of its array, m."""
    half = 1.25 if telescope == "hst" else 3.5
    sub = 4  # soft edges: each sample is the mean of 4 x 4
    n = _PUPIL_SAMPLES * sub
    axis = (np.arange(n) + 0.5) / n * 2.0 * half - half
    x, y = axis[None, :], axis[:, None]
    open_area = _hst(x, y) if telescope == "hst" else _jwst(x, y)
    return open_area.reshape(_PUPIL_SAMPLES, sub, _PUPIL_SAMPLES, sub).mean(axis=(1, 3)), half


def _hst(x: Image, y: Image) -> Image:
    """Annulus of 2.4 m with a central obstruction of 0.33 and four vanes."""
    r = np.hypot(x, y)
    vanes = (np.abs(x + y) < 0.018) | (np.abs(x - y) < 0.018)
    return np.asarray((r < 1.2) & (r > 0.396) & ~vanes, dtype=np.float64)


def _jwst(x: Image, y: Image) -> Image:
    """Eighteen hexagons of 1.32 m in two rings about an open centre, and three struts."""
    flat, gap = 1.32, 0.007
    pitch = flat + gap
    area = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for a in range(-2, 3):
        for b in range(max(-2, -a - 2), min(2, 2 - a) + 1):
            if (a, b) == (0, 0):
                continue
            dx, dy = x - pitch * np.sqrt(0.75) * a, y - pitch * (b + 0.5 * a)
            slope = np.sqrt(0.75) * dx
            area |= (np.abs(dy) < flat / 2) & (np.abs(slope + dy / 2) < flat / 2) & (np.abs(slope - dy / 2) < flat / 2)
    strut = (np.abs(x) < 0.05) & (y > 0)
    for s in (-1.0, 1.0):
        strut = strut | ((np.abs(x * np.cos(np.pi / 6) * s + y * 0.5 * 1.0) < 0.05) & (y < 0) & (s * x > 0))
    return np.asarray(area & ~strut, dtype=np.float64)
