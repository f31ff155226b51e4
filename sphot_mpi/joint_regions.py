"""Where on the frame things are, as seen from the galaxy."""

import numpy as np

from sphot_mpi.joint_scene import PAD, Galaxy, Optics, components_of
from sphot_mpi.joint_sources import Stars, pixels_of
from sphot_mpi.records import Image, Mask, Vector
from sphot_mpi.unseen_light import LEAST_FIELD, half_light_distance, half_light_distance_at

#: So many FWHM beyond some light a star's place tells nothing of it.
FAR = 1.5


def galaxy_radius(galaxy: Galaxy, shape: tuple[int, int]) -> Image:
    """`half_light_distance` of every frame pixel."""
    return half_light_distance(components_of(galaxy), shape, PAD)


def radius_at(galaxy: Galaxy, shape: tuple[int, int], stars: Stars) -> Vector:
    """`galaxy_radius` of the pixels nearest to the stars."""
    x, y = pixels_of(stars, shape)
    return half_light_distance_at(components_of(galaxy), shape, PAD, x.astype(float), y.astype(float))


def star_reach(galaxy: Galaxy, optics: Optics, radius: float) -> Mask:
    """Frame pixels where a star's place tells something of the galaxy's light within `radius` half-light radii."""
    reach = radius + FAR * optics.fwhm / galaxy.half_light_radius()
    return galaxy_radius(galaxy, optics.frame.shape) < reach


def centre_distance(galaxy: Galaxy, shape: tuple[int, int]) -> Image:
    """Distance, px, of every frame pixel from the nearest centre of a component."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    squares = [(x - PAD - x_0) ** 2 + (y - PAD - y_0) ** 2 for x_0, y_0 in galaxy.centres]
    return np.asarray(np.sqrt(np.min(squares, axis=0)))


def outside(good: Mask, radius: Image) -> Mask:
    """Usable pixels beyond 2 r_eff; all usable ones where there are hardly any."""
    beyond = good & (radius > 2.0)
    return beyond if beyond.sum() >= LEAST_FIELD else good
