"""Images of all point sources of a frame with derivatives, rendered in Fourier space.

The sum of the phase factors of more than a few stars comes from a nonuniform FFT, the PSF and its kernel are factors,
and sampling at pixel centres folds the spectrum. All stars cost as much as one, no light is cut off, and another kernel
needs no new spline. What is cut is the spectrum, where the PSF has nothing left.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sphot_mpi.kernels import bands
from sphot_mpi.kernels import stars as kernels
from sphot_mpi.point_render import sampled_star, star_stamps
from sphot_mpi.psf import PSF
from sphot_mpi.records import Image, Mask, Vector
from sphot_mpi.sersic_grid import LibraryGrids, frequencies, kernel_envelope, working_box

#: Rms of what the cut spectrum leaves out of a star, relative to the star's own; models of PSFs are worse by far.
BAND_TOLERANCE = 1e-4
#: Widest band, cycles per px: what a library has beyond it is left of its making.
WIDEST_BAND = 1.25
#: Lattice nodes a side of a star, oversampling of the band, and the kernel's shape for both: 3e-6 of a star.
_WIDTH, _OVERSAMPLING = 8, 1.25
_BETA = 0.97 * np.pi * _WIDTH * (1.0 - 0.5 / _OVERSAMPLING)
#: As many stars, or fewer, take less time one by one than the lattice does.
MOST_DIRECT = 128
#: Quadrature for the kernel's transform.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
#: Stars further off the image than this, px, are left out.
MARGIN = 16
#: Half-size, in FWHM, of the stamps of stars' cores that fits and detection use.
CORE_FWHM = 1.5
#: Half-size of the smallest and largest core stamp, px; that of `CORE_REACH` leaves room for the kernel.
SMALLEST_STAMP, LARGEST_STAMP = 4, 12


@dataclass(frozen=True, slots=True, eq=False)
class StarImages:
    """Sum of all stars and its derivatives.

    Parameters
    ----------
    model : (ny, nx) float64 ndarray
        All stars; not to be written to.
    kernel : (k or 0, ny, nx) float64 ndarray
        Derivatives by the kernel's coordinates.
    shift : (2 or 0, ny, nx) float64 ndarray
        Derivatives by a common displacement along x and y, per px.
    """

    model: Image
    kernel: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(slots=True, eq=False)
class _Sum:
    """Stars that were rendered, their phase factors with the PSF's spectrum that goes with these, and their image."""

    key: tuple[bytes, ...]
    phases: NDArray[np.complex64]
    psf: NDArray[np.complex64]
    image: Image | None = None


class StarRenderer:
    """Renders point sources of one PSF on one image.

    Parameters
    ----------
    psf : PSF
        Working PSF.
    shape : (int, int)
        (ny, nx) of the image.
    grids : LibraryGrids, optional
        Spectra of the same library, where they are at hand.
    """

    def __init__(self, psf: PSF, shape: tuple[int, int], grids: LibraryGrids | None = None) -> None:
        self.psf = psf
        self.shape = shape
        self._given_grids = grids
        reach = max(psf.library.array.shape) // (2 * psf.oversample) + 1
        # nothing may wrap onto the image
        ly, lx = (2 * fft.next_fast_len((side + reach + MARGIN + 1) // 2) for side in shape)
        self._period = ly, lx
        self._last: _Sum | None = None
        self._sampled: dict[int, Image] = {}

    @cached_property
    def _grids(self) -> LibraryGrids:
        """Spectra of the library; stamps need none."""
        return LibraryGrids(self.psf.library) if self._given_grids is None else self._given_grids

    @cached_property
    def _band(self) -> float:
        """Radius, cycles per px, beyond which the PSF has less than `BAND_TOLERANCE` of its power's root."""
        radius, power = self._grids.ring_radius, self._grids.ring_power
        light = np.cumsum((power * kernel_envelope(self.psf, radius) ** 2)[::-1])[::-1]
        return min(float(radius[np.flatnonzero(light >= BAND_TOLERANCE**2 * light[0])[-1]]), WIDEST_BAND)

    @cached_property
    def _lattice(self) -> tuple[int, int]:
        """Nodes (my, mx) of the lattice that stars are spread on."""
        my, mx = (
            fft.next_fast_len(max(int(np.ceil(2.0 * _OVERSAMPLING * self._band * length)), 2 * _WIDTH), real=True)
            for length in self._period
        )
        return my, mx

    @cached_property
    def _frequencies(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Frequencies (fy, fx) of the band's box, to broadcast; cycles per px."""
        return frequencies(self._period, self._band, self.psf.oversample)

    @cached_property
    def _factors(self) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """The PSF's spectrum, and the kernel's slopes."""
        box = working_box(self.psf, self._grids, self._period, self._band, slopes=True)
        fy, fx = self._frequencies
        rows = slice(box.psf.shape[0] // 2 - fy.size // 2, box.psf.shape[0] // 2 + fy.size // 2 + 1)
        return box.psf[rows, : fx.size].astype(np.complex64), box.slopes[:, rows, : fx.size].astype(np.float32)

    @cached_property
    def _psf_of_lattice(self) -> NDArray[np.complex64]:
        """The PSF's spectrum over the spreading kernel's transform."""
        along_y, along_x = (
            _kernel_transform(f * length / nodes)
            for f, length, nodes in zip(self._frequencies, self._period, self._lattice, strict=True)
        )
        return np.asarray(self._factors[0] / along_y.astype(np.float32) / along_x.astype(np.float32))

    def _spread(self, x: Vector, y: Vector, flux: Vector) -> NDArray[np.complex64]:
        """FFT of the stars on the lattice, the columns within the band."""
        (my, mx), (ly, lx) = self._lattice, self._period
        lattice = np.zeros((my, mx), np.float32)
        kernels.spread_stars(lattice, x * (mx / lx), y * (my / ly), flux, _WIDTH, _BETA)
        half = fft.rfft(lattice, axis=1, overwrite_x=True)[:, : self._factors[0].shape[1]]
        return np.asarray(fft.fft(half, axis=0))

    def _sum_of_phases(self, x: Vector, y: Vector, flux: Vector) -> NDArray[np.complex64]:
        """Sum of the stars' phase factors on the band's box, rows in FFT order."""
        rows, columns = self._factors[0].shape
        along_y = np.empty((rows, x.size), np.complex64)
        along_x = np.empty((x.size, columns), np.complex64)
        kernels.fill_phases(along_y, along_x, y / self._period[0], x / self._period[1], flux)
        return np.asarray(along_y @ along_x)

    def _transform(self, x: Vector, y: Vector, flux: Vector) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
        """Sum of the stars' phase factors, times fluxes of order 1, and the PSF's spectrum that goes with it."""
        ny, nx = self.shape
        near = (x > -MARGIN) & (x < nx - 1 + MARGIN) & (y > -MARGIN) & (y < ny - 1 + MARGIN)
        if np.count_nonzero(near) <= MOST_DIRECT:
            return self._sum_of_phases(x[near], y[near], flux[near]), self._factors[0]
        return self._spread(x[near], y[near], flux[near]), self._psf_of_lattice

    def _no_spectra(self, count: int) -> NDArray[np.complex64]:
        """Spectra (count, ly, lx // 2 + 1) of nothing."""
        ly, lx = self._period
        return np.zeros((count, ly, lx // 2 + 1), np.complex64)

    def _fold(
        self,
        spectra: NDArray[np.complex64],
        phases: NDArray[np.complex64],
        psf: NDArray[np.complex64],
        *,
        shift: bool = False,
        slopes: bool = False,
    ) -> None:
        """Add stars, and if asked for their derivatives by a displacement, to spectra; or those by the kernel alone."""
        ly, lx = self._period
        factors = self._factors[1][: None if slopes else 0]
        kernels.fold_star_spectra(spectra, phases, psf, factors, ly, lx, self._band, not slopes, shift)

    def _fill_images(self, images: list[Image], spectra: NDArray[np.complex64], unit: float) -> None:
        """Overwrite images with those of spectra, times a unit."""
        (_, lx), (ny, nx) = self._period, self.shape
        # beyond the band nothing was filled
        used = min(self._factors[0].shape[1], lx // 2 + 1)
        for image, spectrum in zip(images, spectra, strict=True):
            rows = fft.ifft(spectrum[:, :used], axis=0)[:ny]
            np.multiply(fft.irfft(rows, lx, axis=1)[:, :nx], unit, out=image, dtype=np.float64)

    def render(self, x: Vector, y: Vector, flux: Vector) -> Image:
        """Image of point sources.

        Parameters
        ----------
        x, y : (n,) float64 ndarray
            Positions, px; what lies more than `MARGIN` off the image is left out.
        flux : (n,) float64 ndarray
            Total fluxes, data unit * px.

        Returns
        -------
        (ny, nx) float64 ndarray
            Sum of all sources, in the data's unit; not to be written to: the last one is kept.
        """
        # without a star nothing is asked of the PSF, whose kernel may be unknown
        if x.size == 0:
            return np.zeros(self.shape)
        return self.render_with_derivatives(x, y, flux, shift=False, kernel=None).model

    def render_with_derivatives(
        self,
        x: Vector,
        y: Vector,
        flux: Vector,
        *,
        shift: bool,
        kernel: NDArray[np.bool_] | None,
        out: NDArray[np.float64] | None = None,
    ) -> StarImages:
        """Image of point sources, and its derivatives.

        Parameters
        ----------
        x, y, flux : (n,) float64 ndarray
            As in `render`.
        shift : bool
            Whether the derivatives by a common displacement are wanted.
        kernel : (n,) bool ndarray or None
            Sources whose derivatives by the kernel are summed; None: these are not wanted.
        out : (k + 2, ny, nx) float64 ndarray, optional
            Where the derivatives are to be written, the kernel's first.

        Returns
        -------
        StarImages
            Of all sources, and of the chosen ones' derivatives.
        """
        n_shift, n_kernel = 2 * shift, self._factors[1].shape[0] * (kernel is not None)
        derivatives = np.empty((n_kernel + n_shift, *self.shape)) if out is None else out
        # single precision has no room for every unit of the data
        unit = float(np.abs(flux).max(initial=0.0)) or 1.0
        key = x.tobytes(), y.tobytes(), flux.tobytes()
        if self._last is None or self._last.key != key:
            self._last = _Sum(key, *self._transform(x, y, flux / unit))
        stars = self._last
        if stars.image is None or shift:
            spectra = self._no_spectra(1 + n_shift)
            self._fold(spectra, stars.phases, stars.psf, shift=shift)
            if stars.image is None:
                stars.image = np.empty(self.shape)
                self._fill_images([stars.image], spectra[:1], unit)
                stars.image.setflags(write=False)
            self._fill_images(list(derivatives[n_kernel:]), spectra[1:], unit)
        if kernel is not None:
            spectra = self._no_spectra(n_kernel)
            self._fold(spectra, *self._transform(x[kernel], y[kernel], flux[kernel] / unit), slopes=True)
            self._fill_images(list(derivatives[:n_kernel]), spectra, unit)
        return StarImages(stars.image, derivatives[:n_kernel], derivatives[n_kernel:])

    @cached_property
    def _spectrum(self) -> NDArray[np.complex64]:
        """Spectrum of a star of flux 1 on the first pixel."""
        spectra = self._no_spectra(1)
        self._fold(spectra, *self._transform(np.zeros(1), np.zeros(1), np.ones(1)))
        return np.asarray(spectra[0])

    def convolve(self, image: Image | Mask) -> Image:
        """Light of stars on the pixels' centres.

        Parameters
        ----------
        image : (ny, nx) float64 or bool ndarray
            Fluxes, of order 1; beyond the image there are none.

        Returns
        -------
        (ny, nx) float64 ndarray
            Fluxes a px, to 1e-4 of a star.
        """
        ny, nx = self.shape
        spectrum = fft.rfft2(image.astype(np.float32), self._period)
        spectrum *= self._spectrum
        return np.asarray(fft.irfft2(spectrum, self._period, overwrite_x=True)[:ny, :nx], np.float64)

    @cached_property
    def core(self) -> PSF:
        """The PSF's core: stamps and samples of it are a fraction of the cost."""
        return PSF(self.psf.library.core, self.psf.kernel)

    @cached_property
    def core_radius(self) -> int:
        """Half-size, px, of the stamps that carry a star's core."""
        return int(np.clip(np.ceil(CORE_FWHM * self.core.fwhm), SMALLEST_STAMP, LARGEST_STAMP))

    def stamps(
        self, x: Vector, y: Vector, radius: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Unit-flux stamps with derivatives, and their corners; see `star_stamps`."""
        return star_stamps(self.core, x, y, radius)

    def columns(
        self, x: Vector, y: Vector, flux: Vector, first: NDArray[np.int64], width: NDArray[np.int64], radius: int
    ) -> NDArray[np.float64]:
        """Stamps of the stars' columns in a fit.

        Parameters
        ----------
        x, y, flux : (n,) float64 ndarray
            Positions, px, and total fluxes.
        first, width : (n,) int64 ndarray
            First column of each star, and their number: 1 (flux) or 3 (flux, x, y).
        radius : int
            Half-size, px.

        Returns
        -------
        (columns, 2 radius + 1, 2 radius + 1) float64 ndarray
            Derivatives of the stars' images by each unknown.
        """
        columns = np.empty((int(width.sum()), 2 * radius + 1, 2 * radius + 1))
        psf = self.core
        bands.star_columns(columns, first, width, psf.planes, psf.oversample, *psf.origin, x, y, flux)
        return columns

    def sampled(self, radius: int) -> Image:
        """Unit-flux star centred on a pixel, cut to a half-size of `radius` px; not to be written to."""
        if radius not in self._sampled:
            self._sampled[radius] = sampled_star(self.core, radius)
            self._sampled[radius].setflags(write=False)
        return self._sampled[radius]


def _kernel_transform(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transform of the spreading kernel at frequencies in cycles per node."""
    profile = 0.5 * _WIDTH * _WEIGHTS * np.exp(_BETA * (np.sqrt(1.0 - _NODES**2) - 1.0))
    return np.asarray(np.cos(np.pi * _WIDTH * frequency[..., None] * _NODES) @ profile)
