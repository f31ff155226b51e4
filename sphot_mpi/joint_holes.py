"""Stars whose core has no data: a saturated star is a hole with the wings of a point source around it.

No peak is left that a search for stars could find, and the wings would be taken for a galaxy. Each small hole is tried
as a point source: its flux is what the pixels around it say, by least squares with a level of their own.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sphot_mpi.joint_galaxy import no_stars
from sphot_mpi.joint_render import render_stars
from sphot_mpi.joint_scene import Optics
from sphot_mpi.joint_sources import Stars
from sphot_mpi.records import Image

#: Least and largest side of a hole, px and FWHM: single bad pixels hide nothing, and chip gaps are no stars.
LEAST_SIDE, LARGEST_SIDE = 2, 8.0
#: Pixels up to this many FWHM outside of a hole tell its star.
REACH = 2.0
#: Least S/N of its flux, and the least part of the scatter around the hole that it explains.
LEAST_SNR, EXPLAINED = 50.0, 0.7
#: Error of its place, px: that of a hole's middle.
PLACE_SIGMA = 1.0


def stars_in_holes(optics: Optics) -> Stars:
    """Point sources that shine out of holes in the data, the brightest first.

    Parameters
    ----------
    optics : Optics
        PSF and frame.

    Returns
    -------
    Stars
        Free within `PLACE_SIGMA` of the holes' middles, and held in the scene like anchored ones.
    """
    found = [star for hole in _holes(optics) if (star := _star(hole, optics)) is not None]
    found.sort(key=lambda star: -float(star.flux[0]))
    stars = no_stars()
    for star in found:
        stars = stars.join(star)
    return stars


def _holes(optics: Optics) -> Iterator[NDArray[np.bool_]]:
    """Small holes of the cutout's data, as masks of the frame."""
    frame = optics.frame
    inside = np.zeros(frame.shape, bool)
    frame.interior(inside)[:] = True
    labels, _ = ndimage.label(~frame.good & inside)
    for index, area in enumerate(ndimage.find_objects(labels), start=1):
        sides = [part.stop - part.start for part in area]
        if min(sides) < LEAST_SIDE or max(sides) > LARGEST_SIDE * optics.fwhm:
            continue
        hole = labels == index
        # what touches the cutout's edge is a part of something larger
        if not (ndimage.binary_dilation(hole) & ~inside).any():
            yield hole


def _star(hole: NDArray[np.bool_], optics: Optics) -> Stars | None:
    """The point source in a hole, if the light around it is one's."""
    frame = optics.frame
    reach = int(np.ceil(REACH * optics.fwhm))
    around = ndimage.binary_dilation(hole, iterations=reach) & frame.good
    if around.sum() < hole.sum():
        return None
    y, x = ndimage.center_of_mass(hole)
    star = replace(
        Stars.new(np.array([x]), np.array([y]), np.ones(1)),
        free=np.ones(1, bool),
        anchor_sigma=np.full(1, PLACE_SIGMA),
    )
    flux, error, explained = _fitted(frame.data[around], frame.weight[around], render_stars(star, optics)[around])
    if flux < LEAST_SNR * error or explained < EXPLAINED:
        return None
    return replace(star, flux=np.array([flux]))


def _fitted(data: Image, weight: Image, unit: Image) -> tuple[float, float, float]:
    """Flux of a unit source over a level, its error, and the part of the data's weighted scatter that it explains."""
    mean_unit, mean_data = (float((weight * image).sum() / weight.sum()) for image in (unit, data))
    column, rest = unit - mean_unit, data - mean_data
    norm = float((weight * column**2).sum())
    if norm <= 0.0:
        return 0.0, np.inf, 0.0
    flux = float((weight * column * rest).sum()) / norm
    scatter = float((weight * rest**2).sum())
    return flux, norm**-0.5, flux**2 * norm / scatter if scatter > 0.0 else 0.0
