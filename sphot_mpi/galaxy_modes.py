"""Smooth departures of a galaxy's light from its Sersic components: lopsided, boxy, ringed, with arms.

The light of the components is multiplied by ``1 + sum_k a_k Z_k``, with Zernike polynomials Z_k (Zernike 1934; Noll
1976, J. Opt. Soc. Am. 66, 207) on the disc within `REACH` half-light radii, which is stretched to the galaxy's ellipse,
times a window that falls to 0 at its edge. So an amplitude a_k is a relative change of brightness, the wings stay those
of the Sersics, and the model is linear in all amplitudes. It is the image that is multiplied, as the PSF has made it:
of a galaxy much larger than the PSF that is its light, of a compact one the amplitudes describe its image. A galaxy of
two components has a second set of modes on the ellipse of the smaller one: a core is lost in modes as wide as its disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.records import Image, SersicParams, Vector
from sphot_mpi.unseen_light import half_light_ellipse

#: Radius of the disc, half-light radii.
REACH = 1.5
#: Highest degree of the polynomials.
DEGREE = 6
#: Degree n and azimuthal order m of each mode; cos(m phi), for m < 0 sin(-m phi).
ORDERS = tuple((n, m) for n in range(DEGREE + 1) for m in range(-n, n + 1, 2))
#: Modes of one disc.
N_MODES = len(ORDERS)
#: Most discs of a galaxy: that of all of its light, and the core's.
MOST_DISCS = 2


@dataclass(frozen=True, slots=True)
class Disc:
    """Where a galaxy's modes are.

    Parameters
    ----------
    x, y : float
        Centre, px.
    theta : float
        Angle of the major axis, rad.
    major, minor : float
        Semi-axes of the edge, px.
    """

    x: float
    y: float
    theta: float
    major: float
    minor: float

    @classmethod
    def of(cls, components: Sequence[SersicParams]) -> "Disc":
        """Return the disc of a galaxy."""
        ellipse = half_light_ellipse(components)
        major = REACH * ellipse.r_eff
        return cls(ellipse.x_0, ellipse.y_0, ellipse.theta, major, major * (1.0 - ellipse.ellip))


def discs_of(components: Sequence[SersicParams]) -> tuple[Disc, ...]:
    """Return a galaxy's disc, and that of its core if it has two components; its modes are in this order."""
    if len(components) == 1:
        return (Disc.of(components),)
    return Disc.of(components), Disc.of((min(components, key=lambda c: c.r_eff),))


def whole_modes(modes: Sequence[float]) -> tuple[float, ...]:
    """Return those of a galaxy's amplitudes that are about all of its light; none if only its core has any."""
    whole = tuple(modes[:N_MODES])
    return whole if any(whole) else ()


def galaxy_modulation(
    modes: Sequence[float] | Vector, components: Sequence[SersicParams], shape: tuple[int, ...]
) -> Image:
    """Factor (ny, nx), read-only, on the components' light by the modes of a galaxy's discs, in their order."""
    discs = discs_of(components)[: len(modes) // N_MODES]
    return _factor(tuple(map(float, modes)), discs, (shape[0], shape[1]))


# a held galaxy is asked for in every solve
@lru_cache(maxsize=2)
def _factor(modes: tuple[float, ...], discs: tuple[Disc, ...], shape: tuple[int, int]) -> Image:
    """As `galaxy_modulation`, of hashable arguments."""
    factor = np.ones(shape)
    for k, disc in enumerate(discs):
        factor += modulation(modes[k * N_MODES : (k + 1) * N_MODES], disc, shape) - 1.0
    factor.setflags(write=False)
    return factor


def mode_images(disc: Disc, shape: tuple[int, ...]) -> Image:
    """Modes of amplitude 1.

    Parameters
    ----------
    disc : Disc
        Where they are.
    shape : (int, int)
        (ny, nx) of the images.

    Returns
    -------
    (N_MODES, ny, nx) float64 ndarray
        0 beyond the disc.
    """
    images = np.zeros((N_MODES, *shape))
    box, square, turns = _turns(disc, shape)
    for image, (n, m) in zip(images, ORDERS, strict=True):
        turn = turns[abs(m)]
        image[box] = np.polyval(_radial(n, abs(m)), square) * (turn.real if m >= 0 else turn.imag)
    return images


def modulation(modes: Sequence[float] | Vector, disc: Disc, shape: tuple[int, ...]) -> Image:
    """Factor (ny, nx) on the components' light by modes of some amplitudes (N_MODES,)."""
    factor = np.ones(shape)
    box, square, turns = _turns(disc, shape)
    # modes of one order differ by a polynomial in rho^2 alone
    for m, turn in enumerate(turns):
        for signed, part in ((m, turn.real), (-m, turn.imag))[: 2 if m else 1]:
            radial = np.zeros(1)
            for amplitude, order in zip(modes, ORDERS, strict=True):
                if order[1] == signed:
                    radial = np.polyadd(radial, amplitude * np.array(_radial(order[0], m)))
            factor[box] += np.polyval(radial, square) * part
    return factor


def _turns(disc: Disc, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], Image, list[NDArray[np.complex128]]]:
    """Square around the disc on an image, and in it rho^2 and the window times (rho e^(i phi))^m for each order m."""
    rows, columns = (
        slice(max(int(np.floor(centre - disc.major)), 0), max(min(int(np.ceil(centre + disc.major)) + 1, side), 0))
        for centre, side in ((disc.y, shape[0]), (disc.x, shape[1]))
    )
    y, x = np.ogrid[rows, columns]
    along = (x - disc.x) * np.cos(disc.theta) + (y - disc.y) * np.sin(disc.theta)
    across = (y - disc.y) * np.cos(disc.theta) - (x - disc.x) * np.sin(disc.theta)
    place = along / disc.major + 1j * (across / disc.minor)
    square = np.minimum(place.real**2 + place.imag**2, 1.0)
    turns = [(1.0 - square) ** 2 + 0j]
    for _ in range(DEGREE):
        turns.append(turns[-1] * place)
    return (rows, columns), square, turns


@cache
def _radial(n: int, m: int) -> tuple[int, ...]:
    """Coefficients of R_n^m(rho) / rho^m in rho^2, the highest power first (Noll 1976, eq. 2)."""
    return tuple((-1) ** k * comb(n - k, k) * comb(n - 2 * k, (n - m) // 2 - k) for k in range((n - m) // 2 + 1))
