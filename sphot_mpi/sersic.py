"""PSF-convolved Sersic images with derivatives, rendered in Fourier space.

The spectrum of an elliptical Sersic is its tabulated Hankel transform of a quadratic form in the frequency; a
sub-pixel position is a phase, the effective PSF and its kernel are factors, and sampling at pixel centres folds
the spectrum. No pixel is ever sub-sampled, and light from outside the cutout is in the image. What the DFT adds,
the periodic images of the galaxy, is taken away again: their light varies slowly over the cutout.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special

from sphot_mpi.kernels import sersic as kernels
from sphot_mpi.psf import PSF
from sphot_mpi.records import Array, SersicParams
from sphot_mpi.sersic_grid import MOST_GRIDS, RING, Box, LibraryGrids, keep, kernel_envelope, working_box
from sphot_mpi.sersic_hankel import N_MAX, N_MIN, hankel_cells, hankel_table
from sphot_mpi.sersic_profile import (
    amplitude_of,
    b_n,
    b_n_slope,
    from_vector,
    log_centre,
    log_centre_slope,
    params_jacobian,
    shape_forms,
    to_vector,
    total_flux,
)

__all__ = [
    "SersicRenderer",
    "amplitude_of",
    "b_n",
    "from_vector",
    "params_jacobian",
    "required_size",
    "to_vector",
    "total_flux",
]


#: Chebyshev nodes along each axis for the periodic images' light.
_NODES = 11
#: Directions over which light is averaged, in the plane and in frequency.
_DIRECTIONS = 32
#: Room between the cutout's far edge and the nearest periodic image: in sides of the cutout for a small galaxy,
#: for one of r_eff beyond a sixth of the side, and in half-light extents for a very large one.
_ROOM_SMALL, _ROOM_LARGE, _ROOM_EXTENTS = 0.8, 1.5, 4.2
#: It is no less than so many times the PSF's half-size, for the images' light is taken away as if there were no PSF.
_ROOM_PSF = 1.2
#: Images, and sets of them with derivatives, that a renderer keeps: a galaxy is asked for again as long as neither it
#: nor the kernel changes.
_MOST_IMAGES, _MOST_SETS = 4, 3
#: A galaxy that has moved by less than this, px, is that before and its slopes: for a core of sigma 1 px, to 1e-5 of
#: its peak.
_LINEAR = 0.003
#: Periods are even and FFT-friendly, on a ladder of this ratio above the smallest, so that a fit meets few of them.
_PERIODS = np.array(sorted(2**a * 3**b * 5**c for a in range(1, 13) for b in range(4) for c in range(3)))
_LADDER = 1.12


def required_size(vector: Array, shape: tuple[int, int], reach: float = 0.0) -> tuple[int, int]:
    """Periods (ly, lx) that keep the periodic images of a galaxy harmless.

    Parameters
    ----------
    vector : (6,) float64 ndarray
        Shape vector.
    shape : (int, int)
        (ny, nx) of the cutout.
    reach : float
        Half-size of the PSF, px.

    Returns
    -------
    (int, int)
        Even, FFT-friendly periods, px.
    """
    r_circ = float(np.exp(vector[2]))
    r_eff = r_circ * float(np.exp(0.5 * np.hypot(vector[4], vector[5])))
    form = shape_forms(vector[4], vector[5])[0]
    least, step = [], 0.0
    for centre, extent2, side in zip((vector[1], vector[0]), (form[2], form[0]), shape, strict=True):
        far = max(side - 1 - centre, centre, 0.5 * side)
        sides = np.interp(r_eff / side, [1.0 / 10.0, 1.0 / 6.0], [_ROOM_SMALL, _ROOM_LARGE])
        least_room = max(_ROOM_SMALL * side, _ROOM_PSF * reach)
        room = max(min(max(sides * side, _ROOM_EXTENTS * r_circ * np.sqrt(extent2)), 4.0 * side), least_room)
        least.append(max(0.5 * side + least_room, 32.0))
        # a centred small galaxy is on the first step although its centre is some px off the cutout's;
        # both axes are on one step, because each pair of periods needs its own spectrum of the PSF
        step = max(step, np.ceil(np.log((far + room) / least[-1]) / np.log(_LADDER) - 0.3))
    ly, lx = (int(_PERIODS[np.searchsorted(_PERIODS, 0.999 * length * _LADDER**step)]) for length in least)
    return ly, lx


class SersicRenderer:
    """Images of Sersic profiles of unit total flux, convolved with a working PSF.

    Parameters
    ----------
    psf : PSF
        The working PSF.
    shape : (int, int)
        (ny, nx) of the images.
    size : int, optional
        Period of the DFT along both axes, px; default: `required_size` of each galaxy.
    tolerance : float
        Light left out at high frequencies, relative to the brightest pixel.
    kernel_slopes : bool
        Whether `jacobian` appends the derivatives by the coordinates of the PSF's kernel.
    grids : LibraryGrids, optional
        Spectra of the same library, as `with_psf` hands them on.

    Attributes
    ----------
    psf, shape, size, tolerance, kernel_slopes, grids
        As given.

    Notes
    -----
    Valid for 0.28 <= n <= 8.4. The periodic images' light is taken unconvolved, and not at all for the kernel's slopes.
    """

    def __init__(
        self,
        psf: PSF,
        shape: tuple[int, int],
        *,
        size: int | None = None,
        tolerance: float = 1e-5,
        kernel_slopes: bool = False,
        grids: LibraryGrids | None = None,
    ) -> None:
        self.psf = psf
        self.shape = shape
        self.size = size
        self.tolerance = tolerance
        self.kernel_slopes = kernel_slopes
        self.grids = LibraryGrids(psf.library) if grids is None else grids
        self._boxes: dict[tuple[int, int], Box] = {}
        self._images: dict[bytes, Array] = {}
        self._sets: dict[tuple[bytes, int, int], tuple[Array, Array]] = {}
        self._rings = self.grids.ring_area * kernel_envelope(psf, self.grids.ring_radius)
        self._nodes = [_chebyshev(side) for side in shape]

    def with_psf(self, psf: PSF) -> "SersicRenderer":
        """Return a renderer for another PSF; all that does not depend on the kernel is kept."""
        grids = self.grids if psf.library is self.psf.library else None
        return SersicRenderer(
            psf, self.shape, size=self.size, tolerance=self.tolerance, kernel_slopes=self.kernel_slopes, grids=grids
        )

    def period(self, vector: Array) -> tuple[int, int]:
        """Periods (ly, lx) with which this galaxy is rendered, px."""
        if self.size is not None:
            return self.size, self.size
        return required_size(vector, self.shape, max(self.psf.library.array.shape) / (2 * self.psf.oversample))

    def render(self, vector: Array) -> Array:
        """Image of unit total flux, (ny, nx), not to be written to: the last few are kept."""
        key, wanted = vector.tobytes(), vector[2:].tobytes()
        if key not in self._images:
            # a set with derivatives has the image, too
            for (shape, count, _), (centre, images) in self._sets.items():
                if shape == wanted and (found := _moved(centre, images, vector[:2], placed=count > 1)) is not None:
                    return np.asarray(found[0])
            spectra, grid = self._spectra(vector, 1)
            image = self._finish(spectra, vector, grid, 1)[0]
            image.setflags(write=False)
            keep(self._images, key, image, _MOST_IMAGES)
        return self._images[key]

    def render_params(self, components: Sequence[SersicParams]) -> Array:
        """Image (ny, nx) of a model of one or more components, data unit."""
        image = np.zeros(self.shape)
        for component in components:
            image += total_flux(component) * self.render(to_vector(component))
        return image

    def jacobian(
        self, vector: Array, *, shape: bool = True, place: bool = True, kernel_slopes: bool | None = None
    ) -> Array:
        """Image of unit total flux with its derivatives.

        Parameters
        ----------
        vector : (6,) float64 ndarray
            (x_0, y_0, ln r_circ, ln n, eta_1, eta_2).
        shape : bool
            Whether the derivatives by the last four are wanted, which are half of the cost.
        place : bool
            Whether those by the first two are; with the last four they always come.
        kernel_slopes : bool, optional
            Whether those by the kernel are wanted; default: the renderer's.

        Returns
        -------
        (7, 3 or 1 + n_slopes, ny, nx) float64 ndarray
            The image, its derivatives by the components of `vector`, then those by the kernel's coordinates,
            if `kernel_slopes`. In single precision inside: 1e-6 of each one's maximum. Not to be written to: the last
            few are kept.
        """
        wanted = self.kernel_slopes if kernel_slopes is None else self.kernel_slopes and kernel_slopes
        n_slopes = len(self.psf.kernel.coordinates) if wanted else 0
        count = 7 if shape else 3 if place else 1
        key = vector[2:].tobytes(), count, n_slopes
        kept = self._sets.get(key)
        if kept is not None and (images := _moved(*kept, vector[:2], placed=count > 1)) is not None:
            return images
        spectra, grid = self._spectra(vector, count, n_slopes)
        images = self._finish(spectra, vector, grid, count)
        images.setflags(write=False)
        keep(self._sets, key, (vector[:2].copy(), images), _MOST_SETS)
        return images

    def _finish(self, spectra: NDArray[np.complexfloating], vector: Array, grid: tuple[int, int], count: int) -> Array:
        """Images (float64) of `spectra`, the first `count` without the periodic images' light."""
        light = self._periodic_light(vector, grid, count)
        # light and images in the spectra's precision
        real = spectra.real.dtype
        light = light.astype(real)
        to_y, to_x = (to_pixels.astype(real) for _, to_pixels in self._nodes)
        images = np.empty((spectra.shape[0], *self.shape))
        # one by one, because one fits into the cache
        for k, spectrum in enumerate(spectra):
            rows = fft.ifft(spectrum, axis=0, overwrite_x=True)[: self.shape[0]]
            inverse = fft.irfft(rows, grid[1], axis=1)[:, : self.shape[1]]
            if k < count:
                inverse -= to_y @ light[k] @ to_x.T
            images[k] = inverse
        return images

    def _spectra(
        self, vector: Array, count: int, n_slopes: int = 0
    ) -> tuple[NDArray[np.complexfloating], tuple[int, int]]:
        """Return folded half spectra, (count + n_slopes, ly, columns), and the periods."""
        n = float(np.exp(vector[3]))
        if not N_MIN <= n <= N_MAX or not np.isfinite(vector).all():
            msg = f"a Sersic index must lie between {N_MIN} and {N_MAX} and all parameters be finite: {vector}"
            raise ValueError(msg)
        table = hankel_table()
        cells = hankel_cells(n)
        # kappa^2 = (2 pi r_circ)^2 f^T H f
        forms = (2.0 * np.pi * np.exp(vector[2])) ** 2 * shape_forms(vector[4], vector[5])
        grid = self.period(vector)
        f_cut = self._cut_off(cells, 2.0 * np.pi * float(np.exp(vector[2])), float(np.hypot(vector[4], vector[5])))
        box = self._boxes.get(grid)
        if box is None or box.f_max < f_cut:
            box = working_box(self.psf, self.grids, grid, f_cut, slopes=self.kernel_slopes)
            keep(self._boxes, grid, box, MOST_GRIDS)
        rows, columns = box.psf.shape
        fy, fx = (np.arange(rows) - rows // 2) / grid[0], np.arange(columns) / grid[1]
        used = min(columns, int(grid[1] * f_cut) + 1, grid[1] // 2 + 1)
        spectra = np.zeros((count + n_slopes, grid[0], used), np.complex128 if count + n_slopes == 1 else np.complex64)
        kernels.fill_spectra(
            spectra, box.psf, box.slopes[:n_slopes], cells, table.edges, table.first, table.shift, forms,
            np.exp(-2j * np.pi * fy * vector[1]), np.exp(-2j * np.pi * fx * vector[0]), grid[0], grid[1], f_cut,
        )  # fmt: skip
        return spectra, grid

    def _cut_off(self, cells: Array, scale: float, eta: float) -> float:
        """Frequency beyond which less than `tolerance` of the spectrum's light lies, cycles per px.

        The sum of |spectrum| bounds the brightest pixel from above within a factor of about two. `scale` is
        2 pi r_circ; the spectrum of a flat galaxy is a narrow wedge about its minor axis, hence directions with
        ``tan phi = q tan psi``, psi evenly spaced.
        """
        radius, area = self.grids.ring_radius, self._rings
        q = np.exp(-eta)
        psi = 0.5 * np.pi * (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS
        norm = np.cos(psi) ** 2 + (q * np.sin(psi)) ** 2
        weight = q / norm / _DIRECTIONS
        # u / (2 pi r_circ f)^2 = q cos^2 phi + sin^2 phi / q
        u = (scale * radius) ** 2 * (q / norm)[:, None]
        table = hankel_table()
        light = np.empty(radius.size)
        kernels.radial_sum(cells, table.edges, table.first, table.shift, u, weight, area, light)
        left_out = np.cumsum(light[::-1])[::-1]
        return float(radius[np.flatnonzero(left_out >= self.tolerance * left_out[0])[-1]] + 0.5 * RING)

    def _periodic_light(self, vector: Array, grid: tuple[int, int], count: int) -> Array:
        """Light of the DFT's periodic images of a galaxy of unit flux, with derivatives, (count, nodes, nodes)."""
        n, r_circ = float(np.exp(vector[3])), float(np.exp(vector[2]))
        # the inverse matrix is H(-eta); its derivatives by eta change sign with it
        forms = shape_forms(-vector[4], -vector[5]) / r_circ**2
        forms[1:] *= -1.0
        (y, _), (x, _) = self._nodes
        light = np.zeros((count, y.size, x.size))
        kernels.add_images(
            light, x, y, vector[0], vector[1], grid[0], grid[1], forms, log_centre(r_circ, n), b_n(n), n,
            b_n_slope(n), log_centre_slope(n),
        )  # fmt: skip
        light += _far_light(vector, grid, count)[:, None, None]
        return light


def _moved(centre: Array, images: Array, new: Array, *, placed: bool) -> Array | None:
    """Images of a galaxy about a centre, `placed` with derivatives by it, about a new one; None: that is too far."""
    step = new - centre
    if not step.any():
        return images
    if not placed or np.abs(step).max() > _LINEAR:
        return None
    moved = images.copy()
    moved[0] += step[0] * images[1] + step[1] * images[2]
    moved.setflags(write=False)
    return moved


@lru_cache(maxsize=8)
def _chebyshev(side: int) -> tuple[Array, Array]:
    """Chebyshev nodes on a side of `side` px and the matrix that interpolates from them to the pixels."""
    order = np.arange(_NODES)
    z = np.cos(np.pi * (order + 0.5) / _NODES)
    pixels = np.linspace(-1.0, 1.0, side)
    basis = np.polynomial.chebyshev.chebvander(pixels, _NODES - 1)
    fit = np.linalg.inv(np.polynomial.chebyshev.chebvander(z, _NODES - 1))
    return 0.5 * (side - 1) * (z + 1.0), basis @ fit


def _far_light(vector: Array, grid: tuple[int, int], count: int) -> Array:
    """Mean light per px, with derivatives, of all images beyond the 48 nearest: the flux outside seven periods."""
    light = np.zeros(count)
    light[0] = _outside(vector[2:, None], grid)[0]
    # where it is nothing, so are its derivatives
    if count > 3 and light[0] * grid[0] * grid[1] > 1e-10:
        step = 1e-4 * np.eye(4)
        high, low = _outside(vector[2:, None] + np.hstack((step, -step)), grid).reshape(2, 4)
        light[3:] = (high - low) / 2e-4
    return light


def _outside(shapes: Array, grid: tuple[int, int]) -> Array:
    """Flux per px (k,) of galaxies beyond seven periods; `shapes` (4, k) are ln r_circ, ln n, eta_1, eta_2."""
    r_circ, n = np.exp(shapes[:2])
    # the square root of H is H(eta / 2)
    root = r_circ * np.array([shape_forms(*eta)[0] for eta in 0.5 * shapes[2:].T]).T
    angle = np.pi * (np.arange(_DIRECTIONS) + 0.5) / _DIRECTIONS
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    dx = np.abs(root[0] * cos + root[1] * sin)
    dy = np.abs(root[1] * cos + root[2] * sin)
    rho = 3.5 / np.maximum(dx / grid[1], dy / grid[0])
    b = np.array([b_n(float(value)) for value in n])
    return np.asarray(special.gammaincc(2.0 * n, b * rho ** (1.0 / n)).mean(axis=0) / (grid[0] * grid[1]))
