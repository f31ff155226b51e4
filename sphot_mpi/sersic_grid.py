"""Spectra of a PSF on the frequencies of a rendering grid.

Nothing here depends on the galaxy. The library's part is kept when only the kernel changes.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sphot_mpi.psf import PSF, LibraryPSF, padded_shape
from sphot_mpi.records import Array

ComplexArray = NDArray[np.complex64]
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

#: Width of the rings in which the PSF's spectrum is summed, cycles per px.
RING = 0.02
#: Grids of one PSF that are kept; a box is some MB.
MOST_GRIDS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """A spectrum on rows m = -M..M (fy = m / ly) and columns p = 0..P (fx = p / lx), to radius `f_max`.

    `slopes` are its logarithmic derivatives by the kernel's coordinates, or none.
    """

    f_max: float
    psf: ComplexArray
    slopes: Array


def _top(length: int, f: float, oversample: int) -> int:
    """Index of the last frequency up to `f` and below the library's Nyquist frequency."""
    return min(int(np.floor(f * length)), (oversample * length - 1) // 2)


def frequencies(grid: tuple[int, int], f_max: float, oversample: int) -> tuple[Array, Array]:
    """Frequencies (fy, fx) of the box out to `f_max`, to broadcast; cycles per px."""
    m, p = _top(grid[0], f_max, oversample), _top(grid[1], f_max, oversample)
    return (np.arange(-m, m + 1) / grid[0])[:, None], (np.arange(p + 1) / grid[1])[None, :]


def _wrap(array: Array, length: int, axis: int) -> Array:
    """Fold an array longer than the period onto it; the spectrum at the period's frequencies is kept."""
    size = array.shape[axis]
    if size <= length:
        return array
    array = np.moveaxis(array, axis, 0)
    folded = np.zeros((length, array.shape[1]))
    for start in range(0, size, length):
        part = array[start : start + length]
        folded[: part.shape[0]] += part
    return np.moveaxis(folded, 0, axis)


def library_box(library: LibraryPSF, grid: tuple[int, int], f_max: float) -> ComplexArray:
    """Spectrum (1e-7) of the library PSF about its centre on the box of `grid` = (ly, lx) out to `f_max`."""
    os = library.oversample
    fy, fx = frequencies(grid, f_max, os)
    ny, nx = os * grid[0], os * grid[1]
    array = _wrap(_wrap(library.array, ny, 0), nx, 1).astype(np.float32)
    columns = fft.rfft(array, nx, axis=1)[:, : fx.size]
    full = fft.fft(columns, ny, axis=0)
    top = fy.size // 2
    box = np.concatenate([full[ny - top :], full[: top + 1]])
    # the origin is the array's centre, also where that lies between two pixels
    origin = [(side - 1) / 2 / os for side in library.array.shape]
    for f, first in zip((fy, fx), origin, strict=True):
        box *= np.exp(2j * np.pi * first * f).astype(np.complex64)
    return np.ascontiguousarray(box)


def keep(kept: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Store a value, and drop the oldest one of too many."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > most:
        del kept[next(iter(kept))]


class LibraryGrids:
    """What does not depend on the kernel: library spectra by grid, grown as they are asked for.

    Parameters
    ----------
    library : LibraryPSF
        The PSF before the kernel.
    """

    def __init__(self, library: LibraryPSF) -> None:
        self.library = library
        self.ring_radius, self.ring_area, self.ring_power = _ring_sums(library)
        self._boxes: dict[tuple[int, int], Box] = {}

    def get(self, grid: tuple[int, int], f_max: float) -> Box:
        """Return the library's box on `grid` = (ly, lx), at least to `f_max`."""
        found = self._boxes.get(grid)
        if found is None or found.f_max < f_max:
            # some room, so that a growing fit does not ask again at every step
            reach = f_max * 1.2
            spectrum = library_box(self.library, grid, reach)
            found = Box(reach, spectrum, np.empty((0, *spectrum.shape)))
            keep(self._boxes, grid, found, MOST_GRIDS)
        return found


def working_box(psf: PSF, grids: LibraryGrids, grid: tuple[int, int], f_max: float, *, slopes: bool) -> Box:
    """Return the working PSF's box on `grid`, at least to `f_max`, with or without the kernel's slopes."""
    box = grids.get(grid, f_max)
    fy, fx = frequencies(grid, box.f_max, psf.oversample)
    top = fy.size // 2
    # every kernel family is even along each axis: half of the rows do
    half = psf.kernel.transform(fx, fy[top:])
    spectrum = np.empty_like(box.psf)
    np.multiply(box.psf[top:], half, out=spectrum[top:])
    np.multiply(box.psf[:top], half[:0:-1], out=spectrum[:top])
    if not slopes:
        return Box(box.f_max, spectrum, box.slopes)
    halves = np.stack(np.broadcast_arrays(*psf.kernel.slopes(fx, fy[top:])))
    return Box(box.f_max, spectrum, np.concatenate((halves[:, :0:-1], halves), axis=1))


def _ring_sums(library: LibraryPSF) -> tuple[Array, Array, Array]:
    """Mid-radii (cycles per px) of rings over the band, and the integrals of |spectrum| and of its square over them."""
    # half the array's period shows every other frequency, which is enough for sums
    os = library.oversample
    shape = tuple(side // 2 for side in padded_shape(library))
    size = np.abs(fft.rfft2(_wrap(_wrap(library.array, shape[0], 0), shape[1], 1), shape))
    fy, fx = fft.fftfreq(shape[0], 1.0 / os)[:, None], fft.rfftfreq(shape[1], 1.0 / os)[None, :]
    twice = np.full(size.shape[1], 2.0)
    twice[0] = 1.0
    index = (np.hypot(fy, fx) / RING).astype(np.int64).ravel()
    cell = (os / shape[0]) * (os / shape[1])
    area = np.bincount(index, (size * twice).ravel()) * cell
    power = np.bincount(index, (size**2 * twice).ravel()) * cell
    return np.asarray(RING * (np.arange(area.size) + 0.5)), np.asarray(area), np.asarray(power)


def kernel_envelope(psf: PSF, radius: Array) -> Array:
    """Largest of the kernel's transform along the axis and the diagonal at `radius`."""
    diagonal = radius / np.sqrt(2.0)
    zero = np.zeros_like(radius)
    return np.maximum(np.abs(psf.kernel.transform(radius, zero)), np.abs(psf.kernel.transform(diagonal, diagonal)))
