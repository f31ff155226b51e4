"""Smooth departures of a galaxy's light from its Sersic components: lopsided, boxy, ringed, with arms.

The light of the components is multiplied by ``1 + sum_k a_k Z_k``, with Zernike polynomials Z_k (Zernike 1934; Noll
1976, J. Opt. Soc. Am. 66, 207) on the disc within `REACH` half-light radii, which is stretched to the galaxy's ellipse,
times a window that falls to 0 at its edge. So an amplitude a_k is a relative change of brightness, the wings stay those
of the Sersics, and the model is linear in all amplitudes. It is the image that is multiplied, as the PSF has made it:
of a galaxy much larger than the PSF that is its light, of a compact one the amplitudes describe its image. A core is
lost in modes as wide as its disk: a second set is on the ellipse of the smaller of two components, or of half the size
of a single one, as wide as its image is. A third set reaches beyond the first one, for arms and rings that are wider or
finer. The radii of both are stretched (`focus`), so that their modes are finest at the centre, where galaxies are
brightest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.records import Image, SersicParams, Vector
from sphot_mpi.unseen_light import half_light_ellipse

#: Radius of the disc, half-light radii, and highest degree of the polynomials on it.
REACH, DEGREE = 1.5, 6
#: Degree and focus of the core's disc, which reaches as far in its own half-light radii: as fine as the PSF. To that
#: reach comes, in quadrature, so much of the PSF's FWHM.
CORE_DEGREE, CORE_FOCUS, CORE_BLUR = 8, 5.0, 1.5
#: Reach, degree and focus of the wider disc, whose modes are narrower.
WIDE_REACH, WIDE_DEGREE, WIDE_FOCUS = 3.5, 20, 3.0


def orders_to(degree: int) -> tuple[tuple[int, int], ...]:
    """Degree n and azimuthal order m of the modes to a degree; cos(m phi), for m < 0 sin(-m phi)."""
    return tuple((n, m) for n in range(degree + 1) for m in range(-n, n + 1, 2))


#: Modes of the first disc.
N_MODES = len(orders_to(DEGREE))
#: Where the amplitudes of all of a galaxy's light, of its core and of the wider disc are among them.
WHOLE = slice(0, N_MODES)
CORE = slice(WHOLE.stop, WHOLE.stop + len(orders_to(CORE_DEGREE)))
WIDE = slice(CORE.stop, CORE.stop + len(orders_to(WIDE_DEGREE)))
#: Most modes of a galaxy.
MOST_MODES = WIDE.stop


@dataclass(frozen=True, slots=True)
class Form:
    """What the disc of some light is like.

    Parameters
    ----------
    reach : float
        Radius of its edge, half-light radii.
    degree : int
        Highest degree of the polynomials.
    focus : float
        As of `Disc`.
    blur : float
        FWHM of the PSF that are added to the radius in quadrature.
    """

    reach: float = REACH
    degree: int = DEGREE
    focus: float = 0.0
    blur: float = 0.0


PLAIN, CORE_FORM = Form(), Form(degree=CORE_DEGREE, focus=CORE_FOCUS, blur=CORE_BLUR)
WIDE_FORM = Form(WIDE_REACH, WIDE_DEGREE, WIDE_FOCUS)
#: Forms of the core's and of the wider disc of a galaxy with so many modes; the first four are of formats before 1.7.
FORMS = {
    56: (PLAIN,),
    122: (PLAIN, Form(2.5, 10)),
    246: (PLAIN, Form(2.5, 18)),
    287: (PLAIN, WIDE_FORM),
    CORE.stop: (CORE_FORM,),
    MOST_MODES: (CORE_FORM, WIDE_FORM),
}


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
    def of(cls, components: Sequence[SersicParams], form: Form = PLAIN, fwhm: float = 0.0) -> "Disc":
        """Return the disc of a galaxy, under a PSF of some FWHM, px."""
        ellipse, blur = half_light_ellipse(components), form.blur * fwhm
        major = form.reach * ellipse.r_eff
        minor = major * (1.0 - ellipse.ellip)
        axes = float(np.hypot(major, blur)), float(np.hypot(minor, blur))
        return cls(ellipse.x_0, ellipse.y_0, ellipse.theta, *axes, form.degree, form.focus)

    def moved(self, distance: float) -> "Disc":
        """Return the disc moved along both axes."""
        return replace(self, x=self.x + distance, y=self.y + distance)

    @property
    def orders(self) -> tuple[tuple[int, int], ...]:
        """Degree and azimuthal order of its modes."""
        return orders_to(self.degree)


def core_of(components: Sequence[SersicParams]) -> SersicParams:
    """Return the smaller component; of a single one that of half its size."""
    smallest = min(components, key=lambda c: c.r_eff)
    return smallest if len(components) > 1 else replace(smallest, r_eff=0.5 * smallest.r_eff)


def discs_of(components: Sequence[SersicParams], fwhm: float, n_modes: int = MOST_MODES) -> list[tuple[slice, Disc]]:
    """Return the discs of a galaxy with so many amplitudes under a PSF of some FWHM, px, and where theirs are."""
    if n_modes < N_MODES:
        return []
    discs = [(WHOLE, Disc.of(components))]
    # the core's, then the wider one
    for light, form in zip(((core_of(components),), components), FORMS.get(n_modes, ()), strict=False):
        disc, start = Disc.of(light, form, fwhm), discs[-1][0].stop
        discs.append((slice(start, start + len(disc.orders)), disc))
    return discs


def whole_modes(modes: Sequence[float]) -> tuple[float, ...]:
    """Return those of a galaxy's amplitudes that are about all of its light; none if only its core has any."""
    whole = tuple(modes[:N_MODES])
    return whole if any(whole) else ()


def galaxy_modulation(
    modes: Sequence[float] | Vector, components: Sequence[SersicParams], fwhm: float, shape: tuple[int, ...]
) -> Image:
    """Factor on the components' light by the modes of a galaxy's discs.

    Parameters
    ----------
    modes : (k,) sequence of float
        Amplitudes.
    components : sequence of SersicParams
        What they modulate.
    fwhm : float
        That of the PSF, px, under which they were found.
    shape : (int, int)
        (ny, nx) of the image.

    Returns
    -------
    (ny, nx) float64 ndarray
        1 where none reaches.
    """
    factor = np.ones(shape)
    for own, disc in discs_of(components, fwhm, len(modes)):
        if np.any(modes[own]):
            factor += _departure(tuple(map(float, modes[own])), disc, (shape[0], shape[1]))
    return factor


# a held galaxy is asked for in every solve, in which a kernel that moves changes its core's disc alone
@lru_cache(maxsize=6)
def _departure(modes: tuple[float, ...], disc: Disc, shape: tuple[int, int]) -> Image:
    """`modulation` less 1, read-only."""
    departure = modulation(modes, disc, shape) - 1.0
    departure.setflags(write=False)
    return departure


def fill_mode_images(images: Sequence[Image], disc: Disc, light: Image) -> None:
    """Write some light times each mode of amplitude 1, which is 0 beyond the disc.

    Parameters
    ----------
    images : sequence of (ny, nx) float64 ndarray
        One a mode; only what lies on the disc is written.
    disc : Disc
        Where they are.
    light : (ny, nx) float64 ndarray
        What they modulate.
    """
    box, values = _values(disc, light.shape)
    for image, value in zip(images, values, strict=True):
        np.multiply(value, light[box], out=image[box])


def mode_light(disc: Disc, light: Image) -> Vector:
    """Sum (k,) of each image of `fill_mode_images`."""
    box, values = _values(disc, light.shape)
    return np.array([(value * light[box]).sum() for value in values])


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


def box_of(disc: Disc, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the square around the disc on an image."""
    rows, columns = (
        slice(max(int(np.floor(centre - disc.major)), 0), max(min(int(np.ceil(centre + disc.major)) + 1, side), 0))
        for centre, side in ((disc.y, shape[0]), (disc.x, shape[1]))
    )
    return rows, columns


def _values(disc: Disc, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], Iterator[Image]]:
    """Square around the disc on an image, and the modes in it."""
    box, square, turns = _turns(disc, shape)
    parts = ((turns[abs(m)].real if m >= 0 else turns[abs(m)].imag) for _, m in disc.orders)
    radial = (np.polyval(_radial(n, abs(m)), square) for n, m in disc.orders)
    return box, (np.asarray(r * part) for r, part in zip(radial, parts, strict=True))


def _turns(disc: Disc, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], Image, list[NDArray[np.complex128]]]:
    """Square around the disc on an image, and in it rho^2 and the window times (rho e^(i phi))^m for each order m.

    This rho is the stretched one, the window's is not.
    """
    rows, columns = box_of(disc, shape)
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
