"""Matched-filter detection of point sources on a residual image."""

import copy
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sphot_mpi.kernels import joint as kernels
from sphot_mpi.records import Image

#: A source needs this fraction of its squared PSF on usable pixels.
LEAST_COVERAGE = 0.25


class MatchedFilter:
    """Signal-to-noise of a point source at every pixel.

    Parameters
    ----------
    weight : (ny, nx) float64 ndarray
        1 / variance, 0 = masked.
    stamp : (2 r + 1, 2 r + 1) float64 ndarray
        Unit-flux star centred on a pixel.

    Attributes
    ----------
    covered : (ny, nx) bool ndarray
        Where a source would have enough of its light on usable pixels.

    Notes
    -----
    The flux at a pixel is ``conv(W r, P) / conv(W, P^2)`` and its variance
    ``1 / conv(W, P^2)`` (e.g. Zackay & Ofek 2017, ApJ 836, 187, eqs. 16-18). Transforms are in single precision: of the
    brightest pixel no more than 1e-6 is seen elsewhere.
    """

    def __init__(self, weight: Image, stamp: Image) -> None:
        self.weight = weight
        self._stamp = stamp
        ny, nx = weight.shape
        reach = stamp.shape[0] // 2
        self._shape = fft.next_fast_len(ny + reach, real=True), fft.next_fast_len(nx + reach, real=True)
        self._squared = self._transform(stamp**2)
        good = self._inverse(_spectrum_of_mask((weight > 0.0).tobytes(), (ny, nx), self._shape) * self._squared)
        self.covered = good > LEAST_COVERAGE * float((stamp**2).sum())

    def reweighted(self, weight: Image) -> "MatchedFilter":
        """Return the filter for other weights on the same usable pixels."""
        other = copy.copy(self)
        other.weight = weight
        for name in ("precision", "_root"):
            other.__dict__.pop(name, None)
        return other

    @cached_property
    def precision(self) -> Image:
        """1 / variance of an isolated source's flux at each pixel, (ny, nx)."""
        unit = float(self.weight.max(initial=0.0)) or 1.0
        return np.maximum(self._convolve(self.weight / unit, self._squared), 0.0, dtype=np.float64) * unit

    @cached_property
    def _root(self) -> Image:
        """Root of `precision`, inf where nothing is covered."""
        return np.where(self.covered, np.sqrt(self.precision), np.inf)

    @cached_property
    def _psf(self) -> NDArray[np.complex64]:
        return self._transform(self._stamp)

    def _transform(self, stamp: Image) -> NDArray[np.complex64]:
        padded, radius = np.zeros(self._shape, np.float32), stamp.shape[0] // 2
        padded[: stamp.shape[0], : stamp.shape[1]] = stamp
        return np.asarray(np.conj(fft.rfft2(np.roll(padded, (-radius, -radius), (0, 1)))))

    def _convolve(self, image: Image, transform: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Convolve an image of values of order 1."""
        spectrum = fft.rfft2(image.astype(np.float32), self._shape)
        spectrum *= transform
        return self._inverse(spectrum)

    def _inverse(self, spectrum: NDArray[np.complex64]) -> NDArray[np.float32]:
        ny, nx = self.weight.shape
        return np.asarray(fft.irfft2(spectrum, self._shape, overwrite_x=True)[:ny, :nx])

    def snr(self, residual: Image) -> Image:
        """Signal-to-noise map of a residual image; 0 where nothing is covered.

        Parameters
        ----------
        residual : (ny, nx) float64 ndarray
            Finite everywhere.
        """
        pull = self.weight * residual
        # single precision has no room for every unit of the data
        unit = float(np.abs(pull).max(initial=0.0)) or 1.0
        return np.asarray(self._convolve(pull / unit, self._psf) * unit / self._root)


# the same mask under one PSF after the other
@lru_cache(maxsize=4)
def _spectrum_of_mask(mask: bytes, shape: tuple[int, int], padded: tuple[int, int]) -> NDArray[np.complex64]:
    """Transform of an image's mask (ny, nx), padded with zeros; read-only."""
    image = np.frombuffer(mask, bool).reshape(shape).astype(np.float32)
    spectrum = np.asarray(fft.rfft2(image, padded))
    spectrum.setflags(write=False)
    return spectrum


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """New sources, the most significant first.

    Parameters
    ----------
    x, y : (n,) float64 ndarray
        Positions, px.
    flux : (n,) float64 ndarray
        First fluxes.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]


def detect(
    matched: MatchedFilter,
    residual: Image,
    threshold: Image,
    *,
    peak: float,
    stars: Image,
    blend: float,
    known: tuple[NDArray[np.float64], NDArray[np.float64]],
    fwhm: float,
) -> Candidates:
    """Find point sources in a residual.

    Parameters
    ----------
    matched : MatchedFilter
        Filter of this image and PSF.
    residual : (ny, nx) float64 ndarray
        Data minus the model so far.
    threshold : (ny, nx) float64 ndarray
        Signal-to-noise needed at each pixel.
    peak : float
        Highest pixel of a unit-flux star.
    stars : (ny, nx) float64 ndarray
        Star light modelled so far.
    blend : float
        A new source must be brighter, at its peak, than this part of `stars`: the PSF is never perfect.
    known : (x, y)
        Sources in the model; none is added within 0.4 FWHM of them.
    fwhm : float
        Of the PSF, px. Of two new sources within 0.7 FWHM the fainter waits.

    Returns
    -------
    Candidates
        What was found.
    """
    snr = matched.snr(residual)
    peaks = kernels.find_peaks(snr, threshold)
    ix, iy = np.rint(peaks[:, 0]).astype(np.int64), np.rint(peaks[:, 1]).astype(np.int64)
    flux = peaks[:, 2] / np.sqrt(matched.precision[iy, ix])
    bright = flux * peak > blend * stars[iy, ix]
    x, y, flux = peaks[bright, 0].copy(), peaks[bright, 1].copy(), flux[bright]
    keep = kernels.keep_apart(x, y, known[0], known[1], 0.7 * fwhm, 0.4 * fwhm)
    return Candidates(x[keep], y[keep], flux[keep])
