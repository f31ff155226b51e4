"""A second component beside the galaxy's centre, where a crowd of stars stands for one.

The first fit is centred on the galaxy's light as a whole. A bulge that lies elsewhere, in a lopsided galaxy or one with
a companion, is bright and sharp, so that the search for bright stars finds it first, as a heap of them. Stars so many,
so bright and so near to each other are rare; whether they are stars is for chi2 to say: one Sersic in their place has
a fraction of their parameters.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import Keep, State
from sphot_mpi.joint_core import chi2_of, settled
from sphot_mpi.joint_galaxy import LEAST_SHARE, galaxy_radius
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_scene import PAD, Galaxy, Stars, at

#: Stars nearer to the galaxy's centre than this, r_eff, may be a piece of it.
ON_GALAXY = 1.5
#: Stars within this many r_eff of one of them are its crowd; fewest that are one.
CROWD_RADIUS, FEWEST = 0.5, 4
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
    crowd = brightest_crowd(stars, galaxy, at(galaxy_radius(galaxy, state.optics.frame.shape), stars) < ON_GALAXY)
    if crowd.sum() < FEWEST or stars.flux[crowd].sum() < LEAST_SHARE * galaxy.fluxes.sum():
        return state
    scene = replace(state.scene.with_stars(stars.take(~crowd)), galaxy=with_component(galaxy, stars.take(crowd)))
    as_stars = settled(state, freedom, keep, PASSES)
    as_galaxy = settled(replace(state, scene=scene), freedom, keep, PASSES)
    found = as_galaxy.scene.galaxy
    assert found is not None
    enough = (found.fluxes > LEAST_SHARE * found.fluxes.sum()).all()
    return as_galaxy if enough and chi2_of(as_galaxy) < chi2_of(as_stars) else state


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
    return Galaxy(
        centres=np.vstack((galaxy.centres, [[x - PAD, y - PAD]])),
        shapes=np.vstack((galaxy.shapes, [[np.log(max(size, 1.0)), 0.0, 0.0, 0.0]])),
        fluxes=np.append(galaxy.fluxes, light),
    )
