"""Neighbours of bright stars that cannot be found: what they would add to the kernel.

A fainter star within 0.6 FWHM of a bright one is taken for a part of it. The field says how many of them there are,
and not one is known; but they broaden bright stars on average, and so the kernel: by 0.01 px in a crowded field under a
kernel of 2 px, which makes all stars half a per cent too bright.
"""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint_scene import Optics
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.records import Vector

#: Radius, FWHM, at which half of the light of fainter stars is found in simulated fields, and the part of a star's flux
#: that a neighbour has at most that is not.
HIDDEN_FWHM, LARGEST_SHARE = 0.6, 0.5


def hidden_broadening(stars: Stars, optics: Optics, telling: NDArray[np.bool_]) -> float:
    """Variance, px^2, by which hidden neighbours make the kernel of some stars too broad, on average.

    Parameters
    ----------
    stars : Stars
        Of the scene.
    optics : Optics
        The working PSF; stars and area count where the kernel is measured.
    telling : (n,) bool ndarray
        The stars that tell the kernel.

    Notes
    -----
    Fitted with the flux F and the variance of its PSF, a Gaussian of variance s^2, a star beside which a fainter one of
    flux f lies at a distance r has a variance that is larger by ``(f / F) r^2 / 2 exp(-r^2 / 4 s^2)`` to first order in
    f / F: the neighbour's product with what the derivative by the variance has beyond the star's own image. With stars
    scattered at random that is integrated over the disk within which none is found, and averaged with the weights F^2
    that the stars have. Pixels are taken to weigh alike, and the PSF to be a Gaussian.
    """
    area = optics.frame.anchored_area & optics.frame.good
    inside = at(area, stars) & (stars.flux > 0.0)
    flux = stars.flux[telling & inside]
    if flux.size == 0:
        return 0.0
    known = np.sort(stars.flux[inside])
    below = np.concatenate(([0.0], np.cumsum(known)))
    density: Vector = below[np.searchsorted(known, LARGEST_SHARE * flux)] / area.sum()
    scale = 4.0 * optics.stars.core.sigma**2
    reach = (HIDDEN_FWHM * min(optics.fwhm, optics.frame.found_fwhm)) ** 2 / scale
    spread = 0.5 * np.pi * scale**2 * (1.0 - (1.0 + reach) * np.exp(-reach))
    return float(spread * (flux * density).sum() / (flux**2).sum())
