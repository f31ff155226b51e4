"""The point spread function: library, kernel, spline and width.

There is one normalisation, made here: a library PSF is scaled to unit sum over
its whole array, and a source's ``flux`` is its total flux. There is one origin:
the centre of the array, ``((M - 1) / 2, (N - 1) / 2)``, between two pixels
where a side is even. A star at (x, y) puts ``flux * os^2 * E`` into the data
pixel (i, j), with `E` the oversampled effective PSF (detector pixel included)
at ``os * (i - x)``, ``os * (j - y)`` from its origin.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sphot_mpi.errors import InputError
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import Image

#: Half-size of a library's core, px.
CORE_REACH = 18
#: Least side, px, of the grid on which the width is measured.
_CORE = 40

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True, eq=False)
class LibraryPSF:
    """An oversampled effective PSF of unit sum, as the library gives it.

    Parameters
    ----------
    array : (M, N) float64 ndarray
        Unit sum; the detector pixel's response is contained.
    oversample : int
        Library pixels per data pixel along each axis.
    """

    array: Image
    oversample: int

    @classmethod
    def from_array(cls, array: NDArray[np.floating], oversample: int, *, pixel_response: bool = True) -> "LibraryPSF":
        """Normalise an array to unit sum and put the detector pixel in, where it is missing.

        Parameters
        ----------
        array : (M, N) ndarray
            PSF, of any normalisation and byte order.
        oversample : int
            Library pixels per data pixel.
        pixel_response : bool
            Whether the detector pixel is already contained.

        Returns
        -------
        LibraryPSF
            Of unit sum.

        Raises
        ------
        InputError
            If the array is not 2-D, not finite or has no positive sum.
        """
        values = np.array(array, dtype=np.float64)
        if values.ndim != 2 or min(values.shape) < 3:
            msg = f"a PSF must be a 2-D array of at least 3 x 3 px, but its shape is {values.shape}"
            raise InputError(msg)
        if not np.isfinite(values).all() or values.sum() <= 0.0:
            msg = "a PSF must be finite everywhere and have a positive sum"
            raise InputError(msg)
        if not pixel_response:
            values = _convolve_pixel(values, oversample)
        return cls(values / values.sum(), int(oversample))

    @cached_property
    def spectrum(self) -> NDArray[np.complex128]:
        """Real FFT, zero-padded to `padded_shape`."""
        shape = padded_shape(self)
        padded = np.zeros(shape)
        y0, x0 = ((wide - side) // 2 for wide, side in zip(shape, self.array.shape, strict=True))
        padded[y0 : y0 + self.array.shape[0], x0 : x0 + self.array.shape[1]] = self.array
        return np.asarray(fft.rfft2(padded))

    @cached_property
    def core(self) -> "LibraryPSF":
        """What lies within `CORE_REACH` of the centre: stamps and samples of it are a fraction of the cost."""
        # the same on both sides, so that the origin stays the array's centre
        cut = [max((side - 1) // 2 - CORE_REACH * self.oversample, 0) for side in self.array.shape]
        inner = self.array[cut[0] : self.array.shape[0] - cut[0], cut[1] : self.array.shape[1] - cut[1]]
        return LibraryPSF(inner, self.oversample)


def _convolve_pixel(values: Image, oversample: int) -> Image:
    """Convolve with the square detector pixel, growing the array by one pixel a side."""
    padded = np.pad(values, oversample)
    fy = fft.fftfreq(padded.shape[0], 1.0 / oversample)[:, None]
    fx = fft.rfftfreq(padded.shape[1], 1.0 / oversample)[None, :]
    return np.asarray(fft.irfft2(fft.rfft2(padded) * np.sinc(fx) * np.sinc(fy), padded.shape))


class PSF:
    """A library PSF blurred by a kernel, ready to render point sources.

    Parameters
    ----------
    library : LibraryPSF
        The PSF before the kernel.
    kernel : Kernel
        Blur on top of it, in data px.

    Attributes
    ----------
    library, kernel : LibraryPSF, Kernel
        As given.
    oversample : int
        Of library and working PSF.
    origin : (float, float)
        (y, x) index of the PSF's centre in `array`.
    array : (M', N') float64 ndarray
        Working PSF of unit sum on the library's grid, padded for the kernel.
    planes : (os, os, J, I) float64 ndarray
        Deinterleaved spline coefficients, see `sphot_mpi.kernels.psf`; scaled such
        that a stamp is a star of flux 1.
    """

    def __init__(self, library: LibraryPSF, kernel: Kernel | None = None) -> None:
        self.library = library
        self.kernel = Kernel() if kernel is None else kernel
        self.oversample = library.oversample
        shape = padded_shape(library)
        self.padded_shape = shape
        self.origin = (
            (library.array.shape[0] - 1) / 2 + (shape[0] - library.array.shape[0]) // 2,
            (library.array.shape[1] - 1) / 2 + (shape[1] - library.array.shape[1]) // 2,
        )

    def with_kernel(self, kernel: Kernel) -> "PSF":
        """Return the same library PSF under another kernel."""
        return PSF(self.library, kernel)

    def frequencies(self) -> tuple[Image, Image]:
        """Frequencies (fy, fx) of the library's spectrum, cycles per data px, to broadcast."""
        fy = fft.fftfreq(self.padded_shape[0], 1.0 / self.oversample)[:, None]
        fx = fft.rfftfreq(self.padded_shape[1], 1.0 / self.oversample)[None, :]
        return fy, fx

    def _upper_frequencies(self) -> tuple[Image, Image]:
        """Frequencies of the rows that are not mirrored, to broadcast; every kernel is even along each axis."""
        fy, fx = self.frequencies()
        return np.abs(fy[: self.padded_shape[0] // 2 + 1]), fx

    def _transform(self) -> Image:
        """Kernel's transform on the grid of `frequencies`."""
        fy, fx = self._upper_frequencies()
        return _whole(self.kernel.transform(fx, fy))

    @cached_property
    def array(self) -> Image:
        """Working PSF on the oversampled grid, unit sum."""
        return np.asarray(fft.irfft2(self.library.spectrum * self._transform(), self.padded_shape))

    @property
    def cropped(self) -> Image:
        """Working PSF in the shape of the library, with the same origin; what the kernel spreads beyond is cut off."""
        (py, px), (ny, nx) = self.padded_shape, self.library.array.shape
        y0, x0 = (py - ny) // 2, (px - nx) // 2
        return self.array[y0 : y0 + ny, x0 : x0 + nx]

    @cached_property
    def planes(self) -> NDArray[np.float64]:
        """Deinterleaved spline coefficients of the working PSF."""
        return self.planes_of(self._transform())

    @cached_property
    def kernel_planes(self) -> NDArray[np.float64]:
        """Spline coefficients of the working PSF's derivatives by the kernel's coordinates, (k, os, os, J, I)."""
        transform = self._transform()
        fy, fx = self._upper_frequencies()
        return np.stack([self.planes_of(transform * _whole(slope)) for slope in self.kernel.slopes(fx, fy)])

    def planes_of(self, transfer: Image) -> NDArray[np.float64]:
        """Spline coefficients of the library PSF multiplied by `transfer` in Fourier space.

        Parameters
        ----------
        transfer : (ny, nx // 2 + 1) float64 ndarray
            Transform on the grid of `frequencies`; the kernel's, or its derivative.

        Returns
        -------
        (os, os, J, I) float64 ndarray
            As `planes`.
        """
        ny, nx = self.padded_shape
        # the cubic B-spline samples its coefficients with (1, 4, 1) / 6 along each axis
        os = self.oversample
        wy = os * 3.0 / (2.0 + np.cos(2.0 * np.pi * fft.fftfreq(ny)))[:, None]
        wx = os * 3.0 / (2.0 + np.cos(2.0 * np.pi * fft.rfftfreq(nx)))[None, :]
        spectrum = self.library.spectrum * transfer
        spectrum *= wy
        spectrum *= wx
        coefficients = fft.irfft2(spectrum, (ny, nx), overwrite_x=True)
        return np.ascontiguousarray(
            coefficients[: ny // os * os, : nx // os * os].reshape(ny // os, os, nx // os, os).transpose(1, 3, 0, 2)
        )

    def pixel_image(self) -> Image:
        """Star of flux 1 on the middle pixel of an odd square as large as the library.

        Returns
        -------
        (k, k) float64 ndarray
            At the pixels' centres: of each set of frequencies that they cannot tell apart the sum is transformed.
        """
        (ny, nx), os = self.padded_shape, self.oversample
        fy, fx = self.frequencies()
        spectrum = self.library.spectrum * self._transform()
        # the PSF's centre to the first sample
        for f, origin in ((fy, self.origin[0]), (fx, self.origin[1])):
            spectrum *= np.exp(2j * np.pi * f * (origin / os))
        rows = fft.ifft(spectrum.reshape(os, ny // os, -1).sum(axis=0), axis=0)
        image = os * fft.irfft(rows, nx, axis=1)[:, ::os]
        reach = max(self.library.array.shape) // (2 * os)
        square = np.zeros((2 * reach + 1, 2 * reach + 1))
        # along the library's shorter side there may be less
        y, x = (np.arange(-half, half + 1) for half in (min(reach, (n - 1) // 2) for n in image.shape))
        square[np.ix_(y + reach, x + reach)] = image[np.ix_(y, x)]
        return square

    def _folded(self) -> Image:
        """Working PSF added up over the tiles of a grid of a few times its core: a fraction of the cost of `array`.

        Every k-th frequency gives the PSF with period 1/k of its array; what folds onto the core is its far wings.
        """
        fy, fx = self.frequencies()
        ny, nx = self.padded_shape
        step = next(
            (k for k in (4, 2) if ny % (2 * k) == nx % (2 * k) == 0 and min(ny, nx) // k >= _CORE * self.oversample), 1
        )
        fy, fx = fy[::step], fx[:, ::step]
        spectrum = self.library.spectrum[::step, ::step] * self.kernel.transform(fx, fy)
        return np.asarray(fft.irfft2(spectrum, (ny // step, nx // step)))

    @property
    def radius(self) -> int:
        """Half-size of the working PSF's array in data px."""
        return int(np.ceil(max(self.padded_shape) / 2 / self.oversample))

    @cached_property
    def fwhm(self) -> float:
        """FWHM of the working PSF, px: of its azimuthal mean about its own peak."""
        array = self._folded()
        most = min(array.shape) // 2 - 1
        half = min(6 * self.oversample, most)
        # nearly always enough, and far less than the whole array
        while (radius := _half_radius(array, half)) is None and half < most:
            half = min(2 * half, most)
        return 2.0 * (half if radius is None else radius) / self.oversample

    @property
    def sigma(self) -> float:
        """Standard deviation of the Gaussian with the same FWHM, px."""
        return float(self.fwhm / FWHM_PER_SIGMA)


def _half_radius(array: Image, half: int) -> float | None:
    """Radius, samples, at which the azimuthal mean about the peak is half of that; None: beyond `half`."""
    peak = np.unravel_index(int(np.argmax(array)), array.shape)
    centred = np.roll(array, (half - peak[0], half - peak[1]), (0, 1))
    core = centred[: 2 * half + 1, : 2 * half + 1]
    y, x = np.mgrid[: core.shape[0], : core.shape[1]]
    weight = np.where(core > 0.5 * core.max(), core, 0.0)
    cy, cx = (weight * y).sum() / weight.sum(), (weight * x).sum() / weight.sum()
    r = np.hypot(y - cy, x - cx)
    bins = np.arange(0.0, half, 1.0)
    index = np.digitize(r.ravel(), bins)
    count = np.bincount(index, minlength=bins.size + 1)[1:-1]
    total = np.bincount(index, core.ravel(), minlength=bins.size + 1)[1:-1]
    radius = np.bincount(index, r.ravel(), minlength=bins.size + 1)[1:-1] / np.maximum(count, 1)
    mean = total / np.maximum(count, 1)
    top = core.max()
    below = np.flatnonzero(mean < 0.5 * top)
    if below.size == 0:
        return None
    k = int(below[0])
    if k == 0:
        return float(radius[0])
    f = (mean[k - 1] - 0.5 * top) / (mean[k - 1] - mean[k])
    return float(radius[k - 1] + f * (radius[k] - radius[k - 1]))


def _whole(upper: Image) -> Image:
    """Rows of a real FFT grid of even height from those up to its middle."""
    return np.concatenate((upper, upper[-2:0:-1]))


def padded_shape(library: LibraryPSF) -> tuple[int, int]:
    """Even, FFT-friendly shape that leaves room for a kernel of sigma 4 px about the library."""
    os = library.oversample
    margin = 2 * 10 * os
    shape = []
    for side in library.array.shape:
        n = fft.next_fast_len(side + margin, real=True)
        while n % (2 * os):
            n = fft.next_fast_len(n + 1, real=True)
        shape.append(n)
    return shape[0], shape[1]
