"""What the calibrated PSF kernel does to the stars: anchors against the PSF before and after."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from sphot_mpi.calibrate import choose_anchors
from sphot_mpi.config_sections import PsfCalibConfig
from sphot_mpi.kernels.psf import render_stars
from sphot_mpi.model_images import ModelImages
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import FilterFit, Image, Vector

#: Half-size of the anchors' windows: in FWHM of the working PSF, and at least so many px.
_HALF_IN_FWHM, _SMALLEST_HALF = 2.5, 8
#: Share of a window that must hold data.
_LEAST_COVERED = 0.8
#: Width of the bins of the radial profile, px.
_BIN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelCheck:
    """The PSF before and after the kernel, and the anchors against both.

    Parameters
    ----------
    x, y : (k,) float64 ndarray
        Anchors shown, px, in the cutout's frame.
    n_anchors : int
        Stars that carried the fit's measurement; the brightest of them are shown.
    library_fwhm, working_fwhm : float
        FWHM, px.
    library, working : (2h + 1, 2h + 1) float64 ndarray
        A star of flux 1 centred on a pixel, before and after the kernel.
    before, after : (2h + 1, 2h + 1) float64 ndarray
        Median over the anchors of data minus the best fit (flux and pedestal) of either PSF, in percent of the peak of
        `working`; NaN where no anchor has a pixel.
    radius, light, light_low, light_high : (n,) float64 ndarray
        Distance from the star, px; median and 16th and 84th percentile of the anchors' light per flux.
    psf_radius, psf_library, psf_working : (m,) float64 ndarray
        Radius and azimuthal mean of either PSF, per flux.
    """

    x: Vector
    y: Vector
    n_anchors: int
    library_fwhm: float
    working_fwhm: float
    library: Image
    working: Image
    before: Image
    after: Image
    radius: Vector
    light: Vector
    light_low: Vector
    light_high: Vector
    psf_radius: Vector
    psf_library: Vector
    psf_working: Vector

    @property
    def half(self) -> int:
        """Half-size of the images, px."""
        return int(self.working.shape[0] // 2)


def check_kernel(
    fit: FilterFit, data: Image, model: ModelImages, library: LibraryPSF, config: PsfCalibConfig
) -> KernelCheck:
    """Compare the brightest stars outside the galaxy with the library PSF and with the calibrated one.

    Parameters
    ----------
    fit : FilterFit
        With all sources of the model.
    data : (ny, nx) float64 ndarray
        NaN where there is none.
    model : ModelImages
        Of the fit; it tells the neighbours' light.
    library : LibraryPSF
        Before the kernel.
    config : PsfCalibConfig
        How anchors are chosen.

    Returns
    -------
    KernelCheck
        Without anchors, if there are none: its stacks are NaN, its profile empty.
    """
    before = PSF(library)
    after = before.with_kernel(Kernel(fit.kernel.family, fit.kernel.values))
    half = max(_SMALLEST_HALF, int(np.ceil(_HALF_IN_FWHM * after.fwhm)))
    star_light = data - model.sersic - model.sky - model.sources
    found = [
        anchor
        for k in choose_anchors(fit.sources, data.shape, fit.components[0] if fit.components else None, config)
        if (anchor := _Anchor.cut(star_light, fit.sources[k], after, half)) is not None
    ]
    centre = np.zeros(1)
    working = _star(after, half, centre, centre)
    stacks = [_stacked(found, psf, half) / working.max() * 100.0 for psf in (before, after)]
    radius, light, low, high = _radial(found, after, half)
    psf_radius = np.linspace(0.0, half, 4 * half + 1)
    return KernelCheck(
        x=np.array([anchor.x for anchor in found]), y=np.array([anchor.y for anchor in found]),
        n_anchors=fit.kernel.n_anchors, library_fwhm=before.fwhm, working_fwhm=after.fwhm,
        library=_star(before, half, centre, centre), working=working, before=stacks[0], after=stacks[1],
        radius=radius, light=light, light_low=low, light_high=high, psf_radius=psf_radius,
        psf_library=_azimuthal_mean(before, psf_radius), psf_working=_azimuthal_mean(after, psf_radius),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Anchor:
    """A window about one star, all other light taken away; `dx`, `dy` lead from its middle pixel to the star."""

    x: float
    y: float
    dx: float
    dy: float
    image: Image

    @classmethod
    def cut(cls, residual: Image, star: np.void, psf: PSF, half: int) -> "_Anchor | None":
        """Put the star's own model back into the residual; None: it is too close to the edge or to missing data."""
        x, y = float(star["x_fit"]), float(star["y_fit"])
        column, row = round(x), round(y)
        if min(column, row) < half or column + half >= residual.shape[1] or row + half >= residual.shape[0]:
            return None
        window = residual[row - half : row + half + 1, column - half : column + half + 1]
        if np.isfinite(window).mean() < _LEAST_COVERED:
            return None
        dx, dy = x - column, y - row
        own = float(star["flux_fit"]) * _star(psf, half, np.array([dx]), np.array([dy]))
        return cls(x=x, y=y, dx=dx, dy=dy, image=window + own)

    def fitted(self, psf: PSF) -> tuple[Image, float, float]:
        """Return the star's image of flux 1, and the flux and pedestal that fit best."""
        star = _star(psf, self.image.shape[0] // 2, np.array([self.dx]), np.array([self.dy]))
        good = np.isfinite(self.image)
        design = np.column_stack([star[good], np.ones(good.sum())])
        flux, pedestal = np.linalg.lstsq(design, self.image[good], rcond=None)[0]
        return star, float(flux), float(pedestal)

    def offsets(self) -> tuple[Image, Image]:
        """Distance of each pixel from the star, along x and y."""
        half = self.image.shape[0] // 2
        y, x = np.mgrid[-half : half + 1, -half : half + 1]
        return x - self.dx, y - self.dy


def _star(psf: PSF, half: int, dx: Vector, dy: Vector) -> Image:
    """A star of flux 1, so far from the middle of a window."""
    image = np.zeros((2 * half + 1, 2 * half + 1))
    render_stars(
        image, psf.planes, psf.oversample, *psf.origin, dx + half, dy + half, np.ones(1), np.array([4 * half + 4])
    )
    return image


def _stacked(anchors: list[_Anchor], psf: PSF, half: int) -> Image:
    """Median residual per flux in pixels that are centred on the stars, so that nothing is interpolated."""
    edges = np.arange(-half - 0.5, half + 1.0)
    parts: list[tuple[Image, Image, Image]] = []
    for anchor in anchors:
        star, flux, pedestal = anchor.fitted(psf)
        if flux > 0.0:
            left = (anchor.image - pedestal) / flux - star
            good = np.isfinite(left)
            dx, dy = anchor.offsets()
            parts.append((dx[good], dy[good], left[good]))
    if not parts:
        return np.full((edges.size - 1,) * 2, np.nan)
    dx, dy, left = (np.concatenate(values) for values in zip(*parts, strict=True))
    return np.asarray(stats.binned_statistic_2d(dy, dx, left, "median", bins=(edges, edges)).statistic)


def _radial(anchors: list[_Anchor], psf: PSF, half: int) -> tuple[Vector, Vector, Vector, Vector]:
    """Radius, median, 16th and 84th percentile of the anchors' light per flux."""
    radii, values = [], []
    for anchor in anchors:
        _, flux, pedestal = anchor.fitted(psf)
        good = np.isfinite(anchor.image)
        if flux > 0.0:
            radii.append(np.hypot(*anchor.offsets())[good])
            values.append((anchor.image[good] - pedestal) / flux)
    if not radii:
        return (np.empty(0),) * 4
    radius, value = np.concatenate(radii), np.concatenate(values)
    bins = np.floor(radius / _BIN).astype(int)
    rows = [
        (radius[bins == k].mean(), *np.percentile(value[bins == k], (50.0, 16.0, 84.0)))
        for k in range(int(half / _BIN))
        if (bins == k).any()
    ]
    columns = np.array(rows).reshape(-1, 4).T
    return columns[0], columns[1], columns[2], columns[3]


def _azimuthal_mean(psf: PSF, radius: Vector) -> Vector:
    """Mean over the angle of a star of flux 1 at distances `radius` px from its centre."""
    y, x = np.indices(psf.array.shape, dtype=np.float64)
    r = np.hypot(y - psf.origin[0], x - psf.origin[1]) / psf.oversample
    ring = np.rint(r * psf.oversample).astype(int).ravel()
    # an odd library has one pixel at its centre, an even one none within half a pixel of it
    count = np.bincount(ring)
    used = count > 0
    mean_radius, mean = (np.bincount(ring, v.ravel())[used] / count[used] for v in (r, psf.array * psf.oversample**2))
    return np.interp(radius, mean_radius, mean)
