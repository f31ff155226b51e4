"""A second component beside the galaxy's centre, where a crowd of stars or a peak stands for one.

The first fit is centred on the galaxy's light as a whole. A bulge that lies elsewhere, in a lopsided galaxy or one with
a companion, is bright and sharp, so that the search for bright stars finds it first, as a heap of them. Stars so many,
so bright and so near to each other are rare; whether they are stars is for chi2 to say: one Sersic in their place has
a fraction of their parameters. Near the centre no star is looked for: there it is a peak of the residual.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import Keep, State
from sphot_mpi.joint_core import PEAK_SNR, chi2_of, find_peak, solve_repeatedly
from sphot_mpi.joint_galaxy import LEAST_SHARE, SECOND_COMPONENT_GAIN
from sphot_mpi.joint_measure import chance
from sphot_mpi.joint_regions import galaxy_radius, radius_at
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_scene import PAD, Galaxy
from sphot_mpi.joint_sources import Stars

#: Stars nearer to the galaxy's centre than this, r_eff, may be a piece of it.
ON_GALAXY = 1.5
#: Stars within this many r_eff of one of them are its crowd; fewest that are one.
CROWD_RADIUS, FEWEST = 0.5, 4
#: Radius, r_eff, in which a peak may be the galaxy's core.
PEAK_RADIUS = 0.5
#: First r_eff of such a core, FWHM, for from a wide one it may run away into the field's light; and its least one.
CORE_START, LEAST_CORE = 0.5, 0.4
#: Solves before the two are compared.
PASSES = 8


def with_crowd_as_component(state: State, freedom: Freedom, keep: Keep) -> State:
    """Return the state with one Sersic in place of a crowd of bright stars on the galaxy, if that fits better.

    Parameters
    ----------
    state : State
        With bright stars and a galaxy of one component.
    freedom : Freedom
        What is free; the galaxy has to be.
    keep : Keep
        Which stars stay.
    """
    galaxy, stars = state.scene.galaxy, state.scene.stars
    if galaxy is None or galaxy.size > 1:
        return state
    crowd = brightest_crowd(stars, galaxy, radius_at(galaxy, state.optics.frame.shape, stars) < ON_GALAXY)
    if crowd.sum() < FEWEST or stars.flux[crowd].sum() < LEAST_SHARE * galaxy.fluxes.sum():
        return state
    scene = replace(state.scene.with_stars(stars.take(~crowd)), galaxy=with_component(galaxy, stars.take(crowd)))
    as_stars = solve_repeatedly(state, freedom, keep, PASSES)
    as_galaxy = solve_repeatedly(replace(state, scene=scene), freedom, keep, PASSES)
    found = as_galaxy.scene.galaxy
    assert found is not None
    enough = (found.fluxes > LEAST_SHARE * found.fluxes.sum()).all()
    return as_galaxy if enough and chi2_of(as_galaxy) < chi2_of(as_stars) else state


def with_peak_as_component(state: State, freedom: Freedom, keep: Keep) -> State:
    """Return the state with a compact component where a peak stands beside the galaxy's centre, if that fits better.

    A disk whose core lies elsewhere leaves a peak and a dip on both sides of its centre.

    Parameters
    ----------
    state : State
        With the stars that the galaxy is to be measured with, and a galaxy of one component.
    freedom : Freedom
        What is free; the galaxy has to be.
    keep : Keep
        Which stars stay.
    """
    galaxy, shape = state.scene.galaxy, state.optics.frame.shape
    if galaxy is None or galaxy.size > 1:
        return state
    peak = find_peak(state, galaxy_radius(galaxy, shape) < PEAK_RADIUS)
    if peak is None or peak.snr < PEAK_SNR:
        return state
    one = solve_repeatedly(state, freedom, keep, PASSES)
    assert one.scene.galaxy is not None
    core = _with_round_disk(one.scene.galaxy, peak.x, peak.y, peak.flux, CORE_START * state.optics.fwhm)
    two = solve_repeatedly(replace(one, scene=replace(one.scene, galaxy=core)), freedom, keep, PASSES)
    found = two.scene.galaxy
    assert found is not None
    # what has less of the light, or no size, is a star
    enough = (found.fluxes > LEAST_SHARE * found.fluxes.sum()).all()
    enough &= np.exp(found.shapes[:, 0]).min() > LEAST_CORE * state.optics.fwhm
    return two if enough and chi2_of(one) - chi2_of(two) > SECOND_COMPONENT_GAIN * chance(state) else state


def brightest_crowd(stars: Stars, galaxy: Galaxy, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True for the candidates within `CROWD_RADIUS` of the one around which they are brightest together."""
    chosen = np.flatnonzero(candidates & (stars.flux > 0.0))
    x, y = stars.x[chosen], stars.y[chosen]
    near = np.hypot(x - x[:, None], y - y[:, None]) < CROWD_RADIUS * galaxy.half_light_radius()
    member = np.zeros(stars.size, bool)
    if chosen.size:
        member[chosen[near[np.argmax(near @ stars.flux[chosen])]]] = True
    return member


def with_component(galaxy: Galaxy, crowd: Stars) -> Galaxy:
    """Return a galaxy with a round exponential disk more, of place, size and light of a crowd of stars."""
    light = float(crowd.flux.sum())
    weight = crowd.flux / light
    x, y = float(weight @ crowd.x), float(weight @ crowd.y)
    # the rms radius of an exponential disk, in both axes together, is 1.46 r_eff
    size = float(weight @ np.hypot(crowd.x - x, crowd.y - y) ** 2) ** 0.5 / 1.46
    return _with_round_disk(galaxy, x, y, light, max(size, 1.0))


def _with_round_disk(galaxy: Galaxy, x: float, y: float, light: float, size: float) -> Galaxy:
    """Return a galaxy with a round exponential disk more, at a place of the frame, of some flux and r_eff."""
    return Galaxy(
        centres=np.vstack((galaxy.centres, [[x - PAD, y - PAD]])),
        shapes=np.vstack((galaxy.shapes, [[np.log(size), 0.0, 0.0, 0.0]])),
        fluxes=np.append(galaxy.fluxes, light),
    )
