"""Point sources of a joint fit, and the values of images where they are."""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sphot_mpi.records import Mask, Vector

Pixel = TypeVar("Pixel", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stars:
    """Point sources of a scene, in frame coordinates.

    Parameters
    ----------
    x, y, flux : (n,) float64 ndarray
        Positions, px, and total fluxes.
    variance : (n, 3) float64 ndarray
        Marginal variances of flux, x and y; inf where not yet known.
    anchor_x, anchor_y, anchor_sigma : (n,) float64 ndarray
        Position prior, px; sigma inf = none.
    base_id : (n,) int64 ndarray
        The base filter's source that anchors it, or 0.
    base_flux : (n,) float64 ndarray
        Its flux there, or 0. In the base filter: its flux in the galaxy's measurement.
    measured_flux : (n,) float64 ndarray
        Its flux in this filter's measurement of the galaxy; 0: found later.
    prior_flux, prior_sigma : (n,) float64 ndarray
        Flux prior; sigma inf = none.
    free : (n,) bool ndarray
        Whether the position is solved for.
    age : (n,) int64 ndarray
        Solves that the star has been through.
    damping : (n,) float64 ndarray
        Factor on its position's normal equations, above 1 where the last steps were too long.
    """

    x: Vector
    y: Vector
    flux: Vector
    variance: NDArray[np.float64]
    anchor_x: Vector
    anchor_y: Vector
    anchor_sigma: Vector
    base_id: NDArray[np.int64]
    base_flux: Vector
    measured_flux: Vector
    prior_flux: Vector
    prior_sigma: Vector
    free: NDArray[np.bool_]
    age: NDArray[np.int64]
    damping: Vector

    @classmethod
    def new(cls, x: Vector, y: Vector, flux: Vector) -> "Stars":
        """Sources without anchors; their flux is solved once before they may move."""
        n = x.size
        return cls(
            x=x,
            y=y,
            flux=flux,
            variance=np.full((n, 3), np.inf),
            anchor_x=x.copy(),
            anchor_y=y.copy(),
            anchor_sigma=np.full(n, np.inf),
            base_id=np.zeros(n, np.int64),
            base_flux=np.zeros(n),
            measured_flux=np.zeros(n),
            prior_flux=np.zeros(n),
            prior_sigma=np.full(n, np.inf),
            free=np.zeros(n, bool),
            age=np.zeros(n, np.int64),
            damping=np.ones(n),
        )

    @property
    def size(self) -> int:
        """How many."""
        return self.x.size

    @property
    def anchored(self) -> NDArray[np.bool_]:
        """True for sources with a position prior."""
        return np.isfinite(self.anchor_sigma)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """True for sources that the base filter's galaxy was measured with."""
        return self.base_flux > 0.0

    def as_measured(self) -> "Stars":
        """Return them with their fluxes as those of the galaxy's measurement, and places that nothing anchors."""
        x, y = (np.where(self.anchored, *places) for places in ((self.anchor_x, self.x), (self.anchor_y, self.y)))
        return replace(self, anchor_x=x, anchor_y=y, measured_flux=self.flux.copy())

    def with_gone(self, measured: "Stars") -> "Stars":
        """Return them and, without light, those of the galaxy's measurement that later ones have made needless."""
        # no two fluxes are the same
        gone = measured.take(~np.isin(measured.measured_flux, self.measured_flux))
        dark, unknown = np.zeros(gone.size), np.full((gone.size, 3), np.inf)
        return self.join(replace(gone, flux=dark, variance=unknown, free=np.zeros(gone.size, bool)))

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Stars":
        """Return the chosen sources."""
        return Stars(**{name: getattr(self, name)[chosen] for name in Stars.__dataclass_fields__})

    def with_part(self, chosen: NDArray[np.bool_], part: "Stars") -> "Stars":
        """Return them with the chosen ones replaced, in their order."""
        fields = {name: getattr(self, name).copy() for name in Stars.__dataclass_fields__}
        for name, values in fields.items():
            values[chosen] = getattr(part, name)
        return Stars(**fields)

    def join(self, other: "Stars") -> "Stars":
        """Return both sets, this one first."""
        return Stars(
            **{name: np.concatenate((getattr(self, name), getattr(other, name))) for name in Stars.__dataclass_fields__}
        )

    def snr(self, correlation: float) -> Vector:
        """Flux over its error, correlated noise included; 0 where the error is unknown."""
        error = correlation * np.sqrt(self.variance[:, 0])
        return np.where(np.isfinite(error) & (error > 0.0), self.flux / np.where(error > 0.0, error, 1.0), 0.0)


def at(image: NDArray[Pixel], stars: Stars) -> NDArray[Pixel]:
    """Values of an image at the pixels nearest to the stars, the image's edge for those beyond it."""
    ix, iy = pixels_of(stars, image.shape)
    return image[iy, ix]


def around(stars: Stars, shape: tuple[int, int], distance: float) -> Mask:
    """Pixels of an image no farther, px, than some distance from the pixel nearest to a star."""
    ix, iy = pixels_of(stars, shape)
    off = np.ones(shape, bool)
    off[iy, ix] = False
    return np.asarray(ndimage.distance_transform_edt(off) <= distance)


def pixels_of(stars: Stars, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns and rows of the pixels nearest to the stars, those on the edge of an image for stars beyond it."""
    iy = np.clip(np.rint(stars.y).astype(np.int64), 0, shape[0] - 1)
    ix = np.clip(np.rint(stars.x).astype(np.int64), 0, shape[1] - 1)
    return ix, iy
