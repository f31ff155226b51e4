"""The first galaxy in the glare of stars that are brighter than it, saturated ones among them.

What is brightest near the middle of an image is taken for the galaxy, and that may be a star. Where the first galaxy
stands at a point source as bright as itself, that is taken off and the galaxy looked for again in what is left. A
galaxy that only has a bright core is then found in the same place; one that is found elsewhere, with the star beside
it, is the galaxy if chi2 says so.
"""

from dataclasses import replace

import numpy as np

from sphot_mpi.errors import FitError
from sphot_mpi.joint import Keep, State
from sphot_mpi.joint_core import chi2_of, solve_repeatedly
from sphot_mpi.joint_galaxy import no_stars, start_galaxy
from sphot_mpi.joint_holes import stars_in_holes
from sphot_mpi.joint_render import Freedom, render_sky, render_stars
from sphot_mpi.joint_scene import PAD, Frame, Galaxy, Optics, Scene
from sphot_mpi.joint_sources import Stars

#: A star is tried if it has this part of the first galaxy's light; most of them, one after the other.
LEAST_LIGHT, MOST_STARS = 0.5, 3
#: Part of a star's light by which it may be wrong before the kernel is known.
STAR_ERROR = 0.2
#: Nearer to each other than this x FWHM, or r_eff, star and galaxy are one.
SAME_FWHM = 2.0
#: Solves before the two are compared.
PASSES = 8


def start_state(frame: Frame, optics: Optics, keep: Keep) -> State:
    """First galaxy and sky of an image, and the stars in whose glare it stands.

    Parameters
    ----------
    frame : Frame
        The image.
    optics : Optics
        PSF and renderers at a first kernel.
    keep : Keep
        Which stars stay.
    """
    smooth = start_galaxy(frame, optics)
    state = State.start(Scene(stars=no_stars(), galaxy=smooth.galaxy, sky=smooth.sky), optics)
    hidden = stars_in_holes(optics)
    for k in range(hidden.size):
        state = _beside(state, hidden.take(np.array([k])), keep) or state
    for _ in range(MOST_STARS):
        found = _beside_brightest(state, keep)
        if found is None:
            break
        state = found
    return state


def _beside_brightest(state: State, keep: Keep) -> State | None:
    """The state with a star where its galaxy was, and the galaxy elsewhere; None if that is no better."""
    first, star = state.scene.galaxy, brightest(state)
    assert first is not None
    if star is None or star.flux[0] < LEAST_LIGHT * first.fluxes.sum() or not _stands_at(first, star, state.optics):
        return None
    return _beside(state, star, keep)


def _beside(state: State, star: Stars, keep: Keep) -> State | None:
    """The state with a star and the galaxy left without it; None if that stands at the star, or fits no better."""
    try:
        smooth = start_galaxy(_without(state, star), state.optics)
    except FitError:
        return None
    if _stands_at(smooth.galaxy, star, state.optics):
        return None
    freedom = Freedom(galaxy_flux=True, galaxy_shape=True)
    stars = state.scene.stars.join(star)
    with_star = replace(state, scene=Scene(stars=stars, galaxy=smooth.galaxy, sky=smooth.sky))
    one, two = solve_repeatedly(state, freedom, keep, PASSES), solve_repeatedly(with_star, freedom, keep, PASSES)
    return two if two.scene.stars.size == stars.size and chi2_of(two) < chi2_of(one) else None


def brightest(state: State) -> Stars | None:
    """The brightest point source of an image, whatever the galaxy has of it; None where there is none."""
    optics = state.optics
    sky, known = render_sky(state.scene.sky, optics.frame.shape), render_stars(state.scene.stars, optics)
    used = optics.frame.good & state.optics.matched.covered
    snr = np.where(used, state.optics.matched.snr(optics.frame.residual(sky + known)), 0.0)
    flux = np.divide(snr, np.sqrt(state.optics.matched.precision), out=np.zeros(snr.shape), where=used & (snr > 0.0))
    iy, ix = np.unravel_index(int(np.argmax(flux)), flux.shape)
    if not flux[iy, ix] > 0.0:
        return None
    return Stars.new(np.array([float(ix)]), np.array([float(iy)]), np.array([flux[iy, ix]]))


def _without(state: State, star: Stars) -> Frame:
    """Frame without a star, nor the pixels that it rules; its light elsewhere is as uncertain as its kernel."""
    frame = state.optics.frame
    light = render_stars(star, state.optics)
    rest = frame.data - light - render_stars(state.scene.stars, state.optics)
    over_sky = frame.data - render_sky(state.scene.sky, frame.shape)
    ruled = (light * np.sqrt(frame.weight) > 1.0 / STAR_ERROR) & (light > 0.5 * over_sky)
    weight = frame.weight / (1.0 + frame.weight * (STAR_ERROR * light) ** 2)
    return replace(frame, data=np.where(frame.good, rest, 0.0), weight=np.where(ruled, 0.0, weight))


def _stands_at(galaxy: Galaxy, star: Stars, optics: Optics) -> bool:
    """Whether a galaxy's centre is nearer to a star than its size or the PSF's."""
    x, y = galaxy.centres[galaxy.main]
    distance = float(np.hypot(x + PAD - star.x[0], y + PAD - star.y[0]))
    return distance < max(SAME_FWHM * optics.fwhm, galaxy.half_light_radius())
