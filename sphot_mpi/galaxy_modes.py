"""Smooth departures of a galaxy's light from its Sersic components: lopsided, boxy, ringed, with arms.

The light of the components is multiplied by ``1 + sum_k a_k Z_k``, with Zernike polynomials Z_k (Zernike 1934; Noll
1976, J. Opt. Soc. Am. 66, 207) on the disc within `REACH` half-light radii, which is stretched to the galaxy's ellipse,
times a window that falls to 0 at its edge. So an amplitude a_k is a relative change of brightness, the wings stay those
of the Sersics, and the model is linear in all amplitudes. It is the image that is multiplied, as the PSF has made it:
of a galaxy much larger than the PSF that is its light, of a compact one the amplitudes describe its image. A core is
lost in modes as wide as its disk: a second set is on the ellipse of the smaller of two components, or of half the size
of a single one. A third set reaches beyond the first one, for arms and rings that are wider or finer. Its radii are
stretched (`focus`), so that its modes are finest at the centre, where galaxies are brightest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.records import Image, SersicParams, Vector
from sphot_mpi.unseen_light import half_light_ellipse

#: Radius of the disc, half-light radii, and highest degree of the polynomials on it.
REACH, DEGREE = 1.5, 6
#: Those of the wider disc, whose modes are narrower, and their focus.
WIDE_REACH, WIDE_DEGREE, WIDE_FOCUS = 3.5, 20, 3.0


def orders_to(degree: int) -> tuple[tuple[int, int], ...]:
    """Degree n and azimuthal order m of the modes to a degree; cos(m phi), for m < 0 sin(-m phi)."""
    return tuple((n, m) for n in range(degree + 1) for m in range(-n, n + 1, 2))


#: Modes of the first disc, and of the core's.
N_MODES = len(orders_to(DEGREE))
#: Where the amplitudes of all of a galaxy's light, of its core and of the wider disc are among them.
WHOLE, CORE, WIDE = (
    slice(0, N_MODES),
    slice(N_MODES, 2 * N_MODES),
    slice(2 * N_MODES, 2 * N_MODES + len(orders_to(WIDE_DEGREE))),
)
#: Most modes of a galaxy.
MOST_MODES = WIDE.stop
#: Reach, degree and focus of the wider disc of a galaxy with so many: files of format 1.4 and 1.5 have other ones.
WIDE_DISCS = {122: (2.5, 10, 0.0), 246: (2.5, 18, 0.0), MOST_MODES: (WIDE_REACH, WIDE_DEGREE, WIDE_FOCUS)}


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
    degree : int
        Highest degree of the polynomials.
    focus : float
        A distance rho from the centre, 1 at the edge, is ``asinh(focus rho) / asinh(focus)`` to the polynomials, so
        that the modes are sqrt(1 + focus^2) times finer at the centre than at the edge; for 0 it is rho.
    """

    x: float
    y: float
    theta: float
    major: float
    minor: float
    degree: int = DEGREE
    focus: float = 0.0

    @classmethod
    def of(
        cls, components: Sequence[SersicParams], reach: float = REACH, degree: int = DEGREE, focus: float = 0.0
    ) -> "Disc":
        """Return the disc of a galaxy within some half-light radii."""
        ellipse = half_light_ellipse(components)
        major = reach * ellipse.r_eff
        return cls(ellipse.x_0, ellipse.y_0, ellipse.theta, major, major * (1.0 - ellipse.ellip), degree, focus)

    @property
    def orders(self) -> tuple[tuple[int, int], ...]:
        """Degree and azimuthal order of its modes."""
        return orders_to(self.degree)


def core_of(components: Sequence[SersicParams]) -> SersicParams:
    """Return the smaller component; of a single one that of half its size."""
    smallest = min(components, key=lambda c: c.r_eff)
    return smallest if len(components) > 1 else replace(smallest, r_eff=0.5 * smallest.r_eff)


def discs_of(components: Sequence[SersicParams], n_modes: int = MOST_MODES) -> list[tuple[slice, Disc]]:
    """Return the discs of a galaxy with so many amplitudes, and where theirs are."""
    discs = [(WHOLE, Disc.of(components)), (CORE, Disc.of((core_of(components),)))]
    if n_modes in WIDE_DISCS:
        discs.append((slice(CORE.stop, n_modes), Disc.of(components, *WIDE_DISCS[n_modes])))
    return [(own, disc) for own, disc in discs if own.stop <= n_modes]


def whole_modes(modes: Sequence[float]) -> tuple[float, ...]:
    """Return those of a galaxy's amplitudes that are about all of its light; none if only its core has any."""
    whole = tuple(modes[:N_MODES])
    return whole if any(whole) else ()


def galaxy_modulation(
    modes: Sequence[float] | Vector, components: Sequence[SersicParams], shape: tuple[int, ...]
) -> Image:
    """Factor (ny, nx), read-only, on the components' light by the modes of a galaxy's discs, in their order."""
    discs = tuple((tuple(map(float, modes[own])), disc) for own, disc in discs_of(components, len(modes)))
    return _factor(discs, (shape[0], shape[1]))


# a held galaxy is asked for in every solve
@lru_cache(maxsize=2)
def _factor(discs: tuple[tuple[tuple[float, ...], Disc], ...], shape: tuple[int, int]) -> Image:
    """As `galaxy_modulation`, of each disc's amplitudes."""
    factor = np.ones(shape)
    for modes, disc in discs:
        if any(modes):
            factor += modulation(modes, disc, shape) - 1.0
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
    (k, ny, nx) float64 ndarray
        0 beyond the disc.
    """
    images = np.zeros((len(disc.orders), *shape))
    box, values = _values(disc, shape)
    for image, value in zip(images, values, strict=True):
        image[box] = value
    return images


def mode_light(disc: Disc, image: Image) -> Vector:
    """Sum (k,) of an image (ny, nx) times each mode of amplitude 1."""
    box, values = _values(disc, image.shape)
    return np.array([(value * image[box]).sum() for value in values])


def modulation(modes: Sequence[float] | Vector, disc: Disc, shape: tuple[int, ...]) -> Image:
    """Factor (ny, nx) on the components' light by a disc's modes of some amplitudes (k,)."""
    factor = np.ones(shape)
    box, square, turns = _turns(disc, shape)
    # modes of one order differ by a polynomial in rho^2 alone
    for m, turn in enumerate(turns):
        for signed, part in ((m, turn.real), (-m, turn.imag))[: 2 if m else 1]:
            radial = np.zeros(1)
            for amplitude, order in zip(modes, disc.orders, strict=True):
                if order[1] == signed:
                    radial = np.polyadd(radial, amplitude * np.array(_radial(order[0], m)))
            factor[box] += np.polyval(radial, square) * part
    return factor


def _values(disc: Disc, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], list[Image]]:
    """Square around the disc on an image, and the modes in it."""
    box, square, turns = _turns(disc, shape)
    parts = ((turns[abs(m)].real if m >= 0 else turns[abs(m)].imag) for _, m in disc.orders)
    radial = (np.polyval(_radial(n, abs(m)), square) for n, m in disc.orders)
    return box, [np.asarray(r * part) for r, part in zip(radial, parts, strict=True)]


def _turns(disc: Disc, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], Image, list[NDArray[np.complex128]]]:
    """Square around the disc on an image, and in it rho^2 and the window times (rho e^(i phi))^m for each order m.

    This rho is the stretched one, the window's is not.
    """
    rows, columns = (
        slice(max(int(np.floor(centre - disc.major)), 0), max(min(int(np.ceil(centre + disc.major)) + 1, side), 0))
        for centre, side in ((disc.y, shape[0]), (disc.x, shape[1]))
    )
    y, x = np.ogrid[rows, columns]
    along = (x - disc.x) * np.cos(disc.theta) + (y - disc.y) * np.sin(disc.theta)
    across = (y - disc.y) * np.cos(disc.theta) - (x - disc.x) * np.sin(disc.theta)
    place = along / disc.major + 1j * (across / disc.minor)
    window = (1.0 - np.minimum(place.real**2 + place.imag**2, 1.0)) ** 2
    if disc.focus:
        rho = np.maximum(np.abs(place), np.finfo(float).tiny)
        place = place * (np.arcsinh(disc.focus * rho) / (np.arcsinh(disc.focus) * rho))
    square = np.minimum(place.real**2 + place.imag**2, 1.0)
    turns = [window + 0j]
    for _ in range(disc.degree):
        turns.append(turns[-1] * place)
    return (rows, columns), square, turns


@cache
def _radial(n: int, m: int) -> tuple[int, ...]:
    """Coefficients of R_n^m(rho) / rho^m in rho^2, the highest power first (Noll 1976, eq. 2)."""
    return tuple((-1) ** k * comb(n - k, k) * comb(n - 2 * k, (n - m) // 2 - k) for k in range((n - m) // 2 + 1))
