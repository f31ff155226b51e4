"""Images of the light of stars that nobody can place: those beyond the data, and those lost in the galaxy.

A fit knows it as means, `UnseenLight`; on the image it is star light like that of the stars in the table.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy import fft

from sphot_mpi.detection import MatchedFilter
from sphot_mpi.psf import PSF
from sphot_mpi.records import Image, Mask, SersicParams, UnseenLight, Vector
from sphot_mpi.sersic import total_flux
from sphot_mpi.sersic_profile import elliptical_distance
from sphot_mpi.star_renderer import StarRenderer

#: Edges, in half-light radii, of the elliptical annuli in which stars on a galaxy are told from those of the field.
EDGES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
#: Stars beyond so many half-light radii are the field's.
FIELD = 2.5
#: Fewest pixels of it from which anything can be told.
LEAST_FIELD = 400
#: A galaxy counts as no larger than this part of the image: there must be a field.
LARGEST_PART = 0.25


def render_unseen(unseen: UnseenLight, components: Sequence[SersicParams], usable: Mask, psf: PSF) -> Image:
    """Render the expected light of unseen stars.

    Parameters
    ----------
    unseen : UnseenLight
        Of a fit.
    components : sequence of SersicParams
        The fit's galaxy.
    usable : (ny, nx) bool ndarray
        Pixels of its cutout that it used.
    psf : PSF
        Its working PSF.

    Returns
    -------
    (ny, nx) float64 ndarray
        Data unit.
    """
    image = np.zeros(usable.shape)
    if unseen.outside > 0.0:
        image += unseen.outside * outside_share(usable, psf)
    if components and any(unseen.faint):
        image += faint_light(unseen.faint, half_light_distance(components, usable.shape))
    return image


def faint_light(means: Sequence[float], radius: Image) -> Image:
    """Light of faint stars at each pixel: no step between annuli, for nothing in the data has one there.

    Parameters
    ----------
    means : sequence of float
        Mean light in each annulus of `EDGES`, data unit.
    radius : (ny, nx) float64 ndarray
        As of `half_light_distance`.

    Returns
    -------
    (ny, nx) float64 ndarray
        Linear in radius between the annuli's middles, and to 0 where the middle of one more would be. So an annulus
        spreads all of its light, but the innermost, which is flat to its middle and gives 8 % more.
    """
    middles = 0.5 * (np.array(EDGES[:-1]) + np.array(EDGES[1:]))
    beyond = 2.0 * EDGES[-1] - middles[-1]
    light, near = np.zeros(radius.shape), radius < beyond
    light[near] = np.interp(radius[near], [*middles, beyond], [*means, 0.0])
    return light


def half_light_distance(
    components: Sequence[SersicParams], shape: tuple[int, ...], margin: int = 0, every: int = 1
) -> Image:
    """Elliptical radius of pixels over the components' mean r_eff, which counts as `LARGEST_PART` at most.

    Parameters
    ----------
    components : sequence of SersicParams
        The galaxy; the ellipse is that of its brightest component.
    shape : (int, int)
        (ny, nx) of the image that is wanted.
    margin : int
        Its pixels, on each side, beyond the cutout in which the components are and of which a part is counted.
    every : int
        Rows and columns from one that is wanted to the next.

    Returns
    -------
    (ny, nx) float64 ndarray, or as many rows and columns as are wanted
        In units of that r_eff; not to be written to: the last few are kept.
    """
    ellipse, unit = _ellipse_and_unit(components, shape, margin)
    return _distance_map((shape[0], shape[1]), ellipse, unit, every)


def half_light_distance_at(
    components: Sequence[SersicParams], shape: tuple[int, ...], margin: int, x: Vector, y: Vector
) -> Vector:
    """`half_light_distance` at points (x, y), (n,) each, of that image."""
    ellipse, unit = _ellipse_and_unit(components, shape, margin)
    return elliptical_distance(x, y, ellipse) / unit


def _ellipse_and_unit(
    components: Sequence[SersicParams], shape: tuple[int, ...], margin: int
) -> tuple[SersicParams, float]:
    """Half-light ellipse on an image with a margin, and the r_eff that counts."""
    ellipse = half_light_ellipse(components)
    # of its light nothing hangs on, and an ellipse that stays is known again
    ellipse = replace(ellipse, x_0=ellipse.x_0 + margin, y_0=ellipse.y_0 + margin, amplitude=1.0, n=1.0)
    return ellipse, min(ellipse.r_eff, LARGEST_PART * (min(shape) - 2 * margin))


@lru_cache(maxsize=8)
def _distance_map(shape: tuple[int, int], ellipse: SersicParams, unit: float, every: int) -> Image:
    y, x = np.ogrid[: shape[0] : every, : shape[1] : every]
    distance = elliptical_distance(x, y, ellipse) / unit
    distance.setflags(write=False)
    return distance


def half_light_ellipse(components: Sequence[SersicParams]) -> SersicParams:
    """Return the brightest component with the r_eff that is the components' mean, weighted by light."""
    fluxes = [max(total_flux(c), 0.0) for c in components]
    whole, brightest = sum(fluxes), components[fluxes.index(max(fluxes))]
    if not whole > 0.0:
        return replace(brightest, r_eff=components[0].r_eff)
    mean = sum(flux * c.r_eff for flux, c in zip(fluxes, components, strict=True)) / whole
    return replace(brightest, r_eff=mean)


def outside_share(usable: Mask, psf: PSF) -> Image:
    """Light, at each pixel, of stars of one unit per pixel that lie where the data show none: (ny, nx)."""
    reach = max(psf.library.array.shape) // (2 * psf.oversample)
    # a star just off the data is seen by what falls on them
    wide = np.pad(usable, reach)
    renderer = StarRenderer(psf, (wide.shape[0], wide.shape[1]))
    covered = MatchedFilter(wide.astype(np.float64), renderer.sampled(renderer.core_radius)).covered
    return light_beyond(covered, renderer)[reach:-reach, reach:-reach]


def light_beyond(covered: Mask, renderer: StarRenderer) -> Image:
    """Light, at each pixel, of stars of one unit per pixel that lie beyond what is covered, and off the image.

    What they and the stars on what is covered give together is one unit.
    """
    return np.maximum(1.0 - renderer.convolve(covered), 0.0)


def squares_beyond(covered: Mask, psf: PSF) -> Image:
    """Sum, at each pixel, of the squares of what each of the stars of `light_beyond` gives.

    Wings and all: those of the brightest stars outdo the pixels' noise.
    """
    squares = psf.pixel_image() ** 2
    (ny, nx), half = covered.shape, squares.shape[0] // 2
    # what wraps round falls short of the part that is taken
    shape = [fft.next_fast_len(max(side + half, 2 * half + 1), real=True) for side in (ny, nx)]
    seen = fft.irfft2(fft.rfft2(covered.astype(float), shape) * fft.rfft2(squares, shape), shape)
    return np.asarray(np.maximum(squares.sum() - seen[half : half + ny, half : half + nx], 0.0))
