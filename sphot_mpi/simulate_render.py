"""Exact images of simulated galaxies and stars, by code that the fitter does not use.

A scene is laid out on the PSF's own lattice (1 / oversample px) over the frame
and its surroundings as wide as the PSF, and convolved with the PSF's array by
one FFT; data pixels are samples of that. The Sersic's cusp is integrated
adaptively over 1/32 px cells and brought to the lattice in Fourier space,
where the cell is divided out (the effective PSF already holds the pixel);
stars are spread by a non-uniform FFT, which is exact band-limited
interpolation of the PSF. Light from outside the frame is included.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, special

from sphot_mpi.records import Image, SersicParams

Complex = NDArray[np.complex128]

#: Fine cells per px, half-size (px) of the box about the cusp, and the blend's radius and softness (px).
_CELLS = 32
_HALF_BOX = 24
_BLEND_RADIUS = 12.0
_BLEND_SOFTNESS = 1.8
#: Smallest cell of the adaptive integration, px: holds less than 1e-9 of the light at n = 8.
_SMALLEST_CELL = 1e-9
#: Width (fine samples) of the gridding kernel, and its shape for twofold oversampling (Beatty et al. 2005, eq. 5).
_GRID_WIDTH = 10
_GRID_BETA = np.pi * np.sqrt((_GRID_WIDTH / 2.0) ** 2 * 1.5**2 - 0.8)


@dataclass(frozen=True, slots=True, eq=False)
class ScenePSF:
    """The PSF of a simulated image: an oversampled effective PSF of unit sum.

    Parameters
    ----------
    array : (M, N) float64 ndarray
        Unit sum; its origin is ``((M - 1) / 2, (N - 1) / 2)``.
    oversample : int
        Lattice points per px.
    """

    array: Image
    oversample: int

    def blurred(self, sigma: float) -> "ScenePSF":
        """Return the PSF convolved with a round Gaussian of `sigma` px, its array grown by 6 sigma a side."""
        if sigma <= 0.0:
            return self
        pad = int(np.ceil(6.0 * sigma * self.oversample))
        padded = np.pad(self.array, pad)
        fy = fft.fftfreq(padded.shape[0], 1.0 / self.oversample)[:, None]
        fx = fft.rfftfreq(padded.shape[1], 1.0 / self.oversample)[None, :]
        transfer = np.exp(-2.0 * np.pi**2 * sigma**2 * (fy**2 + fx**2))
        array = fft.irfft2(fft.rfft2(padded) * transfer, padded.shape)
        return ScenePSF(array / array.sum(), self.oversample)

    def stamp(self) -> Image:
        """Image of a star of flux 1 near a pixel's centre (within 1 / (2 oversample) px)."""
        os = self.oversample
        sy, sx = (((side - 1) // 2) % os for side in self.array.shape)
        return self.array[sy::os, sx::os] * os**2

    def fwhm(self) -> float:
        """Diameter, px, of the disc with the area that is brighter than half of the peak."""
        return float(2.0 * np.sqrt(np.sum(self.array > 0.5 * self.array.max()) / np.pi) / self.oversample)

    def noise_area(self) -> float:
        """Pixels over which an optimal fit collects the noise: 1 / sum P^2."""
        return float(1.0 / (self.oversample**2 * np.sum(self.array**2)))


@dataclass(frozen=True, slots=True, eq=False)
class _Lattice:
    """The lattice of a frame under a PSF: point k lies at ``start + k / oversample``."""

    shape: tuple[int, int]
    psf: ScenePSF
    margin: int
    start: tuple[float, float]
    size: tuple[int, int]

    @classmethod
    def of(cls, shape: tuple[int, int], psf: ScenePSF) -> "_Lattice":
        os = psf.oversample
        margin = int(np.ceil(max(psf.array.shape) / (2 * os))) + 1
        # under an even array the points that reach a pixel's centre lie half a lattice step beside it
        start = tuple(-margin + (0.0 if side % 2 else 0.5 / os) for side in psf.array.shape)
        size = tuple(fft.next_fast_len(os * (side + 2 * margin), real=True) for side in shape)
        return cls(shape, psf, margin, (start[0], start[1]), (size[0], size[1]))

    def convolve(self, spectrum: Complex) -> Image:
        """Convolve a scene, given by its spectrum on the lattice, with the PSF; return the frame's pixels."""
        os = self.psf.oversample
        full = fft.irfft2(spectrum * fft.rfft2(self.psf.array, self.size), self.size)
        first = [os * self.margin + (side - 1) // 2 for side in self.psf.array.shape]
        ny, nx = self.shape
        return np.ascontiguousarray(full[first[0] :: os, first[1] :: os][:ny, :nx])


def total_flux(params: SersicParams) -> float:
    """Total flux (to infinity) of a Sersic, data unit * px (Graham & Driver 2005, eq. 2)."""
    n, b = params.n, _b_n(params.n)
    log = b + special.gammaln(2.0 * n) - 2.0 * n * np.log(b)
    return float(params.amplitude * 2.0 * np.pi * n * params.r_eff**2 * (1.0 - params.ellip) * np.exp(log))


def with_total_flux(params: SersicParams, flux: float) -> SersicParams:
    """Return the same shape with another total flux."""
    return replace(params, amplitude=params.amplitude * flux / total_flux(params))


def _b_n(n: float) -> float:
    return float(special.gammaincinv(2.0 * n, 0.5))


def _blend(dx: Image, dy: Image) -> Image:
    """Smooth step: 1 in the core, 0 outside, without power above 1 cycle/px."""
    return np.asarray(0.5 * special.erfc((np.hypot(dx, dy) - _BLEND_RADIUS) / _BLEND_SOFTNESS))


def _ellipse_radius(params: SersicParams, dx: Image, dy: Image) -> Image:
    """Semi-major axis of the ellipse through an offset, in units of r_eff."""
    c, s = np.cos(params.theta), np.sin(params.theta)
    along, across = dx * c + dy * s, (dy * c - dx * s) / (1.0 - params.ellip)
    return np.asarray(np.hypot(along, across) / params.r_eff)


def _brightness(params: SersicParams, dx: Image, dy: Image) -> Image:
    m = _ellipse_radius(params, dx, dy)
    return np.asarray(params.amplitude * np.exp(-_b_n(params.n) * (m ** (1.0 / params.n) - 1.0)))


def _cell_means(params: SersicParams, x: Image, y: Image, size: float, order: int) -> Image:
    """Mean of the blended-in core over square cells centred at offsets (x, y), by Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    mean = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    for u, wu in zip(nodes, weights, strict=True):
        for v, wv in zip(nodes, weights, strict=True):
            dx, dy = x + 0.5 * size * u, y + 0.5 * size * v
            mean += 0.25 * wu * wv * _brightness(params, dx, dy) * _blend(dx, dy)
    return mean


def _adaptive_means(params: SersicParams, x: Image, y: Image, size: float) -> Image:
    """As `_cell_means` near the cusp: cells too large for the local scale are split into four."""
    mean = np.zeros(x.shape)
    owner = np.arange(x.size)
    share = 1.0
    while x.size and size > _SMALLEST_CELL:
        scale = (1.0 - params.ellip) * params.r_eff * _ellipse_radius(params, x, y)
        done = scale > 1.5 * size
        np.add.at(mean, owner[done], share * _cell_means(params, x[done], y[done], size, 5))
        x, y, owner = x[~done], y[~done], owner[~done]
        size, share = 0.5 * size, 0.25 * share
        x = np.concatenate([x + 0.5 * size * s for s in (-1, 1, -1, 1)])
        y = np.concatenate([y + 0.5 * size * s for s in (-1, -1, 1, 1)])
        owner = np.tile(owner, 4)
    return mean


@dataclass(frozen=True, slots=True, eq=False)
class SersicScene:
    """A Sersic ready to be rendered under any PSF: its integrated core is computed once.

    Parameters
    ----------
    params : SersicParams
        The galaxy.
    corner : (int, int)
        (x, y) of the lowest pixel of the core's box.
    spectrum : (1536, 769) complex128 ndarray
        Real FFT of the core's cell means, the cell divided out.
    """

    params: SersicParams
    corner: tuple[int, int]
    spectrum: Complex

    @classmethod
    def of(cls, params: SersicParams) -> "SersicScene":
        """Integrate the core of a galaxy over fine cells."""
        corner = (int(np.floor(params.x_0)) - _HALF_BOX, int(np.floor(params.y_0)) - _HALF_BOX)
        size = 1.0 / _CELLS
        cells: Image = (np.arange(2 * _HALF_BOX * _CELLS, dtype=np.float64) + 0.5) * size - 0.5
        x: Image = corner[0] + cells - params.x_0
        y: Image = corner[1] + cells - params.y_0
        means = _cell_means(params, x[None, :], y[:, None], size, 2)
        scale = (1.0 - params.ellip) * params.r_eff * _ellipse_radius(params, x[None, :], y[:, None])
        j, i = np.nonzero(scale < 10.0 * size)
        means[j, i] = _adaptive_means(params, x[i], y[j], size)
        fy = fft.fftfreq(cells.size, size)[:, None]
        fx = fft.rfftfreq(cells.size, size)[None, :]
        return cls(params, corner, fft.rfft2(means) / (np.sinc(fy * size) * np.sinc(fx * size)))

    def render(self, shape: tuple[int, int], psf: ScenePSF) -> Image:
        """Return the PSF-convolved galaxy on a frame.

        Parameters
        ----------
        shape : (int, int)
            (ny, nx) of the frame.
        psf : ScenePSF
            Its oversampling must divide 32.

        Returns
        -------
        (ny, nx) float64 ndarray
            Surface brightness, in the unit of the amplitude.
        """
        lattice = _Lattice.of(shape, psf)
        os = psf.oversample
        side_y, side_x = (os * (side + 2 * lattice.margin) for side in shape)
        dx = (lattice.start[1] + np.arange(side_x) / os - self.params.x_0)[None, :]
        dy = (lattice.start[0] + np.arange(side_y) / os - self.params.y_0)[:, None]
        scene = _brightness(self.params, dx, dy) * (1.0 - _blend(dx, dy))
        core = self._core(os, lattice.start[1] % 1.0, lattice.start[0] % 1.0)
        _add_clipped(scene, core, os * (self.corner[1] + lattice.margin), os * (self.corner[0] + lattice.margin))
        return lattice.convolve(fft.rfft2(scene, lattice.size))

    def _core(self, os: int, offset_x: float, offset_y: float) -> Image:
        """Band-limited core on lattice points ``corner + offset + k / os``."""
        side = 2 * _HALF_BOX * os
        half = side // 2
        # from the first cell's centre, half a cell above the box's lower edge at corner - 1/2
        shift_x, shift_y = (0.5 + offset - 0.5 / _CELLS for offset in (offset_x, offset_y))
        kept = np.zeros((side, half + 1), dtype=np.complex128)
        kept[:half, :half] = self.spectrum[:half, :half]
        kept[half + 1 :, :half] = self.spectrum[1 - half :, :half]
        fy, fx = fft.fftfreq(side, 1.0 / os)[:, None], fft.rfftfreq(side, 1.0 / os)[None, :]
        kept *= np.exp(2j * np.pi * (fy * shift_y + fx * shift_x)) * (os / _CELLS) ** 2
        return np.asarray(fft.irfft2(kept, (side, side)))


def _add_clipped(image: Image, patch: Image, y0: int, x0: int) -> None:
    """Add a patch at a corner that may lie outside."""
    y_lo, x_lo = max(0, -y0), max(0, -x0)
    y_hi, x_hi = min(patch.shape[0], image.shape[0] - y0), min(patch.shape[1], image.shape[1] - x0)
    if y_hi > y_lo and x_hi > x_lo:
        image[y0 + y_lo : y0 + y_hi, x0 + x_lo : x0 + x_hi] += patch[y_lo:y_hi, x_lo:x_hi]


def render_stars(shape: tuple[int, int], psf: ScenePSF, x: Image, y: Image, flux: Image) -> Image:
    """Return an image of point sources, exact for the band-limited PSF.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx) of the frame.
    psf : ScenePSF
        PSF.
    x, y : (n,) float64 ndarray
        Positions, px; may lie outside the frame.
    flux : (n,) float64 ndarray
        Total fluxes, data unit * px.

    Returns
    -------
    (ny, nx) float64 ndarray
        Surface brightness.

    Notes
    -----
    A type-1 non-uniform FFT: Kaiser-Bessel gridding on a twofold finer grid,
    its transform divided out (Jackson et al. 1991; Beatty et al. 2005).
    """
    lattice = _Lattice.of(shape, psf)
    os = psf.oversample
    fine_y, fine_x = (2 * side for side in lattice.size)
    u, v = 2.0 * os * (x - lattice.start[1]), 2.0 * os * (y - lattice.start[0])
    # a star further out than the PSF reaches leaves nothing in the frame
    near = (u > 0) & (v > 0) & (u < 2 * os * (shape[1] + 2 * lattice.margin))
    near &= v < 2 * os * (shape[0] + 2 * lattice.margin)
    u, v, flux = u[near], v[near], flux[near]
    grid = np.zeros((fine_y, fine_x))
    taps = np.arange(_GRID_WIDTH) - _GRID_WIDTH // 2 + 1
    iu, iv = np.floor(u).astype(int)[:, None] + taps, np.floor(v).astype(int)[:, None] + taps
    weights = _kaiser_bessel(iv - v[:, None])[:, :, None] * _kaiser_bessel(iu - u[:, None])[:, None, :]
    weights *= (flux * os**2)[:, None, None]
    np.add.at(grid, ((iv % fine_y)[:, :, None], (iu % fine_x)[:, None, :]), weights)
    ny, nx = lattice.size
    columns = fft.rfft(grid, axis=1)[:, : nx // 2 + 1]
    half = (ny + 1) // 2
    spectrum = fft.fft(columns, axis=0)
    spectrum = np.concatenate([spectrum[:half], spectrum[fine_y - (ny - half) :]])
    spectrum /= _kaiser_bessel_transform(fft.fftfreq(ny) / 2.0)[:, None]
    spectrum /= _kaiser_bessel_transform(fft.rfftfreq(nx) / 2.0)[None, :]
    return lattice.convolve(spectrum)


def _kaiser_bessel(t: Image) -> Image:
    inside = np.sqrt(np.maximum(0.0, 1.0 - (2.0 * t / _GRID_WIDTH) ** 2))
    return np.where(np.abs(t) <= _GRID_WIDTH / 2, np.i0(_GRID_BETA * inside), 0.0)


def _kaiser_bessel_transform(nu: Image) -> Image:
    """Fourier transform of `_kaiser_bessel` at `nu` cycles per fine sample, |nu| <= 1/4."""
    root = np.sqrt(_GRID_BETA**2 - (np.pi * _GRID_WIDTH * nu) ** 2)
    return np.asarray(_GRID_WIDTH * np.sinh(root) / root)


def correlated_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Image:
    """Unit-variance Gaussian noise, smoothed by `sigma` px as drizzling does; 0 px: white."""
    white = rng.standard_normal(shape)
    if sigma <= 0.0:
        return white
    smooth = ndimage.gaussian_filter(white, sigma, mode="wrap")
    return np.asarray(smooth / np.sqrt(np.mean(_noise_power((64, 64), sigma))))


def correlation_factor(psf: ScenePSF, sigma: float) -> float:
    """Factor by which noise smoothed by `sigma` px widens a star's flux error at the same pixel noise.

    ``sqrt(sum_ij P_i C_ij P_j / sum P^2)`` with C the noise's correlation, taken in Fourier space.
    """
    if sigma <= 0.0:
        return 1.0
    stamp = psf.stamp()
    shape = (max(64, stamp.shape[0]), max(64, stamp.shape[1]))
    power = np.abs(fft.fft2(stamp, shape)) ** 2
    noise = _noise_power(shape, sigma)
    return float(np.sqrt(np.sum(power * noise) / (np.sum(power) * np.mean(noise))))


def _noise_power(shape: tuple[int, int], sigma: float) -> Image:
    """Power spectrum of white noise after `scipy.ndimage.gaussian_filter`."""
    delta = np.zeros(shape)
    delta[0, 0] = 1.0
    return np.asarray(np.abs(fft.fft2(ndimage.gaussian_filter(delta, sigma, mode="wrap"))) ** 2)
