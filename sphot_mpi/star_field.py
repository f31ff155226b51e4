"""Renders all point sources of an image, with no light lost.

A star is rendered from the PSF's spline out to the radius where its light falls
below a small part of the noise. What lies beyond, tiny for one star and not for
five hundred, is smooth: it is convolved on a coarse grid and added.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sphot_mpi.kernels import psf as kernels
from sphot_mpi.point_render import sampled_star
from sphot_mpi.psf import PSF
from sphot_mpi.records import Image, Vector

#: Half-sizes a star's stamp may have, px; the whole PSF comes last.
RADII = (5, 7, 10, 14, 20, 28, 40, 56)

#: Light per pixel, in units of the noise, below which the coarse grid takes over.
STAMP_EDGE = 0.1

#: Pixels of the image along one side of a pixel of the coarse grid.
COARSE = 4


class StarField:
    """Renders point sources of one PSF on one image.

    Parameters
    ----------
    psf : PSF
        Working PSF.
    shape : (int, int)
        (ny, nx) of the image.
    noise : float
        Pixel noise, data unit; sets the size of each star's stamp.
    """

    def __init__(self, psf: PSF, shape: tuple[int, int], noise: float) -> None:
        self.psf = psf
        self.shape = shape
        self.noise = noise

    @cached_property
    def _whole(self) -> Image:
        """Unit-flux star centred on a pixel, over the whole PSF."""
        return sampled_star(self.psf, self.psf.radius)

    @cached_property
    def radii(self) -> NDArray[np.int64]:
        """Half-sizes in use for this PSF, px."""
        full = self.psf.radius
        return np.array([r for r in RADII if r < full] + [full])

    @cached_property
    def _edge(self) -> Vector:
        """Highest value of a unit-flux star beyond each of `radii` (0 beyond the last)."""
        r = self.psf.radius
        distance = np.maximum(*np.abs(np.mgrid[-r : r + 1, -r : r + 1]))
        values = [np.abs(self._whole[distance > radius]).max(initial=0.0) for radius in self.radii]
        values[-1] = 0.0
        return np.array(values)

    @cached_property
    def _wings(self) -> list[NDArray[np.complex128]]:
        """Transforms, on the coarse grid, of a unit-flux star beyond each of `radii` but the last."""
        r = self.psf.radius
        distance = np.maximum(*np.abs(np.mgrid[-r : r + 1, -r : r + 1]))
        half = r // COARSE + 1
        wings = []
        for radius in self.radii[:-1]:
            beyond = np.zeros((COARSE * (2 * half + 1),) * 2)
            start = COARSE * half + COARSE // 2 - r
            beyond[start : start + 2 * r + 1, start : start + 2 * r + 1] = np.where(distance > radius, self._whole, 0.0)
            blocks = beyond.reshape(2 * half + 1, COARSE, 2 * half + 1, COARSE).sum(axis=(1, 3))
            padded = np.zeros(self._coarse_shape)
            padded[: 2 * half + 1, : 2 * half + 1] = blocks
            wings.append(fft.rfft2(np.roll(padded, (-half, -half), (0, 1))))
        return wings

    @property
    def _coarse_shape(self) -> tuple[int, int]:
        """Shape of the coarse grid; wide enough that nothing wraps onto the image."""
        reach = self.psf.radius // COARSE + 2
        ny, nx = (fft.next_fast_len(side // COARSE + 2 + 2 * reach, real=True) for side in self.shape)
        return ny, nx

    def _render(
        self, image: Image, planes: NDArray[np.float64], x: Vector, y: Vector, flux: Vector, radius: NDArray[np.int64]
    ) -> None:
        kernels.render_stars(image, planes, self.psf.oversample, *self.psf.origin, x, y, flux, radius)

    def classes(self, flux: Vector) -> NDArray[np.int64]:
        """Index into `radii` of the stamp that each star needs."""
        limit = STAMP_EDGE * self.noise
        # edges fall with the index: the first that is dim enough will do
        return np.asarray(np.argmax(np.abs(flux)[:, None] * self._edge[None, :] <= limit, axis=1))

    def render(self, x: Vector, y: Vector, flux: Vector) -> Image:
        """Image of point sources.

        Parameters
        ----------
        x, y : (n,) float64 ndarray
            Positions, px; may be off the image.
        flux : (n,) float64 ndarray
            Total fluxes, data unit * px.

        Returns
        -------
        (ny, nx) float64 ndarray
            Sum of all sources, in the data's unit.
        """
        image = np.zeros(self.shape)
        if x.size == 0:
            return image
        index = self.classes(flux)
        self._render(image, self.psf.planes, x, y, flux, self.radii[index])
        return image + self._render_wings(x, y, flux, index)

    def _render_wings(self, x: Vector, y: Vector, flux: Vector, index: NDArray[np.int64]) -> Image:
        """Light beyond the stars' stamps, from the coarse grid."""
        ny, nx = self._coarse_shape
        reach = self.psf.radius // COARSE + 2
        # centre of coarse pixel m lies at COARSE * (m - reach) + (COARSE - 1) / 2
        u = (x - (COARSE - 1) / 2) / COARSE + reach
        v = (y - (COARSE - 1) / 2) / COARSE + reach
        inside = (u >= 0) & (v >= 0) & (u < nx - 1) & (v < ny - 1)
        spectrum = np.zeros((ny, nx // 2 + 1), dtype=np.complex128)
        for k, wing in enumerate(self._wings):
            chosen = inside & (index == k)
            if chosen.any():
                grid = np.zeros((ny, nx))
                kernels.spread(grid, u[chosen], v[chosen], flux[chosen])
                spectrum += fft.rfft2(grid) * wing
        coarse = fft.irfft2(spectrum, (ny, nx)) / COARSE**2
        image = np.empty(self.shape)
        kernels.enlarge(image, coarse, COARSE, reach)
        return image
