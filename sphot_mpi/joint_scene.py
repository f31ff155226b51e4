"""What a joint fit knows: the frame, the optics, and the scene of stars, galaxy and sky.

Inside a joint fit all positions are those of the *frame*: the cutout with a
margin of `PAD` pixels without weight, so that stars just off the image, whose
light falls on it, have a place to be.
"""

import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.detection import MatchedFilter
from sphot_mpi.joint_sources import Pixel, Stars
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import Image, SersicParams, UnseenLight, Vector
from sphot_mpi.sersic import SersicRenderer, from_vector, to_vector, total_flux
from sphot_mpi.star_renderer import StarRenderer

#: Largest r_eff of a component, in sides of the image: beyond that it is the field's light.
LARGEST_COMPONENT = 0.27
#: Components farther from each other than this, r_eff of the brightest one, do not share a centre.
APART = 0.1
#: Margin of the frame around the cutout, px.
PAD = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A cutout with its margin, ready for the solver.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        The image, 0 where it is not used.
    weight : (ny, nx) float64 ndarray
        1 / variance, 0 where the image is not used.
    noise : float
        Pixel noise of the emptiest part, data unit.
    correlation : float
        Factor by which correlated noise widens a point source's error.
    anchored_area : (ny, nx) bool ndarray
        Where kernel and shift may be measured.
    faint : (ny, nx) float64 ndarray
        Expected light of stars that are too faint to be found where the galaxy is, but not elsewhere.
    outside : (ny, nx) float64 ndarray
        Expected light of the stars beyond the data.
    unseen : UnseenLight
        The means that both images were made from.
    widening : (ny, nx) float64 ndarray
        Factor by which the errors in `weight` are wider than the image's own, for the galaxy's structure.
    found_fwhm : float
        FWHM, px, of the image in which most stars were found, if that is another one; inf: it is this one.
    """

    data: Image
    weight: Image
    noise: float
    correlation: float
    anchored_area: NDArray[np.bool_]
    faint: Image
    outside: Image
    widening: Image
    unseen: UnseenLight = UnseenLight()
    found_fwhm: float = float("inf")

    @classmethod
    def from_image(
        cls, data: Image, error: Image, mask: NDArray[np.bool_], noise: float, correlation: float
    ) -> "Frame":
        """Pad an image and turn its errors into weights.

        Parameters
        ----------
        data, error : (ny, nx) float64 ndarray
            Image and its 1-sigma error; NaN where `mask` is True.
        mask : (ny, nx) bool ndarray
            True = do not use.
        noise, correlation : float
            As in `Frame`.
        """
        good = ~mask & np.isfinite(data) & (error > 0.0)
        variance = np.where(good, error, 1.0) ** 2
        shape = (data.shape[0] + 2 * PAD, data.shape[1] + 2 * PAD)
        return cls(
            data=np.pad(np.where(good, data, 0.0), PAD),
            weight=np.pad(np.where(good, 1.0 / variance, 0.0), PAD),
            noise=noise,
            correlation=correlation,
            anchored_area=np.ones(shape, bool),
            faint=np.zeros(shape),
            outside=np.zeros(shape),
            widening=np.ones(shape),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx), margin included."""
        return self.data.shape[0], self.data.shape[1]

    @cached_property
    def good(self) -> NDArray[np.bool_]:
        """True where a pixel is used; not to be written to."""
        good = np.asarray(self.weight > 0.0)
        good.setflags(write=False)
        return good

    @cached_property
    def _found(self) -> Image:
        """Data minus the expected light of unknown stars."""
        return np.asarray(self.data - self.faint - self.outside)

    def widened(self, factor: Image) -> "Frame":
        """Return the frame with errors wider by a factor (ny, nx)."""
        return replace(self, weight=self.weight / factor**2, widening=self.widening * factor)

    def unwidened(self) -> "Frame":
        """Return the frame with the image's own errors."""
        if not (self.widening != 1.0).any():
            return self
        return replace(self, weight=self.weight * self.widening**2, widening=np.ones(self.shape))

    def residual(self, model: Image) -> Image:
        """Data minus `model` and the expected light of unknown stars, 0 where masked."""
        return np.where(self.good, self._found - model, 0.0)

    def interior(self, image: NDArray[Pixel]) -> NDArray[Pixel]:
        """Cut the margin off."""
        return image[PAD:-PAD, PAD:-PAD]


class Optics:
    """The PSF under one kernel, and everything that is rendered with it.

    Parameters
    ----------
    psf : PSF
        Working PSF.
    frame : Frame
        Where it is used.
    renderer : SersicRenderer, optional
        Renderer of the same library under another kernel, to share its work.
    """

    def __init__(self, psf: PSF, frame: Frame, renderer: SersicRenderer | None = None) -> None:
        self.psf = psf
        self.frame = frame
        ny, nx = frame.shape
        self.renderer = (
            SersicRenderer(psf, (ny - 2 * PAD, nx - 2 * PAD), kernel_slopes=True)
            if renderer is None
            else renderer.with_psf(psf)
        )
        self.stars = StarRenderer(psf, frame.shape, self.renderer.grids)

    @classmethod
    def start(cls, library: LibraryPSF, sigma: float, frame: Frame, family: str = "gaussian") -> "Optics":
        """Optics of a library PSF under a kernel of the given family, as wide as a Gaussian of `sigma` px."""
        return cls(PSF(library, Kernel.of_width(family, sigma)), frame)

    def with_kernel(self, kernel: Kernel) -> "Optics":
        """Return the optics under another kernel."""
        return Optics(self.psf.with_kernel(kernel), self.frame, self.renderer)

    def on(self, frame: Frame) -> "Optics":
        """Return the optics for other data or weights on the same frame."""
        other = copy.copy(self)
        other.frame = frame
        if frame.weight is not self.frame.weight:
            for name in ("matched", "star_error"):
                other.__dict__.pop(name, None)
            if "matched" in self.__dict__ and np.array_equal(frame.good, self.frame.good):
                other.matched = self.matched.reweighted(frame.weight)
        return other

    @property
    def kernel(self) -> Kernel:
        """Kernel of the working PSF."""
        return self.psf.kernel

    @property
    def fwhm(self) -> float:
        """FWHM of the working PSF, px."""
        return self.stars.core.fwhm

    @property
    def core_radius(self) -> int:
        """Half-size, px, of the stamps that carry the stars' equations; the residual is that of whole stars."""
        return self.stars.core_radius

    @cached_property
    def matched(self) -> MatchedFilter:
        """Matched filter of the working PSF, cut where the PSF has faded."""
        return MatchedFilter(self.frame.weight, self.stars.sampled(self.core_radius))

    @cached_property
    def star_error(self) -> float:
        """Flux error of an isolated star in the emptiest part."""
        stamp = self.stars.sampled(self.core_radius)
        return self.frame.noise * self.frame.correlation / float(np.sqrt((stamp**2).sum()))

    @cached_property
    def peak(self) -> float:
        """Highest pixel of a unit-flux star centred on a pixel."""
        return float(self.stars.sampled(3).max())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Galaxy:
    """Sersic components, in the cutout's coordinates (no margin).

    Parameters
    ----------
    centres : (c, 2) float64 ndarray
        x_0, y_0 of each component, px.
    shapes : (c, 4) float64 ndarray
        ln r_circ, ln n, eta_1, eta_2 of each component.
    fluxes : (c,) float64 ndarray
        Total fluxes.
    modes : (k,) float64 ndarray
        Amplitudes of `galaxy_modes`, of the first disc or of all; none: k = 0.
    """

    centres: NDArray[np.float64]
    shapes: NDArray[np.float64]
    fluxes: Vector
    modes: Vector = field(default_factory=lambda: np.zeros(0))

    @property
    def size(self) -> int:
        """How many components."""
        return self.fluxes.size

    def vector(self, component: int) -> Vector:
        """The renderer's vector (x_0, y_0, ln r_circ, ln n, eta_1, eta_2) of one component."""
        return np.concatenate((self.centres[component], self.shapes[component]))

    @property
    def main(self) -> int:
        """The component with most of the light."""
        return int(np.argmax(self.fluxes))

    @property
    def separation(self) -> float:
        """Largest distance of a component's centre from the brightest one's, in that one's r_eff."""
        r_eff = np.exp(self.shapes[self.main, 0]) / np.sqrt(self.axis_ratios()[self.main])
        return float(np.hypot(*(self.centres - self.centres[self.main]).T).max() / r_eff)

    @property
    def apart(self) -> bool:
        """Whether a component's centre is not the brightest one's."""
        return self.separation > APART

    def half_light_radius(self) -> float:
        """Semi-major axis, px, that is the flux-weighted mean of the components'."""
        axis = np.exp(self.shapes[:, 0]) / np.sqrt(self.axis_ratios())
        weight = np.maximum(self.fluxes, 0.0)
        return float(np.average(axis, weights=weight)) if weight.sum() > 0.0 else float(axis[0])

    def axis_ratios(self) -> Vector:
        """b/a of each component."""
        return np.exp(-np.hypot(self.shapes[:, 2], self.shapes[:, 3]))


def galaxy_of(components: tuple[SersicParams, ...], modes: tuple[float, ...] = ()) -> Galaxy:
    """Galaxy of Sersic components and modes."""
    vectors = [to_vector(c) for c in components]
    return Galaxy(
        centres=np.array([v[:2] for v in vectors]),
        shapes=np.array([v[2:] for v in vectors]),
        fluxes=np.array([total_flux(c) for c in components]),
        modes=np.array(modes),
    )


def components_of(galaxy: Galaxy) -> tuple[SersicParams, ...]:
    """Sersic parameters of a galaxy's components, in the cutout's coordinates."""
    return tuple(from_vector(galaxy.vector(c), float(galaxy.fluxes[c])) for c in range(galaxy.size))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Everything that is in the pixels.

    Parameters
    ----------
    stars : Stars
        Point sources, in frame coordinates.
    galaxy : Galaxy or None
        The galaxy; None: there is none.
    sky : (3,) float64 ndarray
        Level and the rise from centre to edge along x and y, data unit.
    shift : (2,) float64 ndarray
        Displacement (x, y) of galaxy and anchors against the base filter, px.
    """

    stars: Stars
    galaxy: Galaxy | None
    sky: Vector = field(default_factory=lambda: np.zeros(3))
    shift: Vector = field(default_factory=lambda: np.zeros(2))

    def with_stars(self, stars: Stars) -> "Scene":
        """Return the scene with other stars."""
        return Scene(stars=stars, galaxy=self.galaxy, sky=self.sky, shift=self.shift)


@lru_cache(maxsize=4)
def sky_basis(shape: tuple[int, int]) -> NDArray[np.float64]:
    """Images 1, (x - x_c) / half width, (y - y_c) / half height on a frame; not to be written to: the last are kept.

    Returns
    -------
    (3, ny, nx) float64 ndarray
        The columns of `Scene.sky`.
    """
    along_y, along_x = sky_axes(shape)
    out = np.ones((3, *shape))
    out[1], out[2] = along_x, along_y[:, None]
    out.setflags(write=False)
    return out


def sky_axes(shape: tuple[int, int]) -> tuple[Vector, Vector]:
    """Return the profiles along y (ny,) and x (nx,) of the sky's tilts: -1 to 1 from edge to edge."""
    along_y, along_x = (np.asarray((np.arange(side) - (side - 1) / 2) / (side / 2)) for side in shape)
    return along_y, along_x
