"""The galaxy's core once the stars around it are known: stars before it, and a second component that was none.

No star is looked for within a radius of the centre, because what a Sersic model leaves there is the galaxy's. But a
bright star there would be taken for galaxy. Two things tell them apart: a wrong profile leaves a residual of both
signs, a star one peak that towers over the dips around it; and with the star the whole fit gains far more chi2 than
chance.

A second component was chosen when only bright stars were known. It may have stood for what turned out to be stars.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import Keep, State, prune, solve
from sphot_mpi.joint_galaxy import SECOND_COMPONENT_GAIN
from sphot_mpi.joint_measure import chance
from sphot_mpi.joint_regions import centre_distance
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_scene import Galaxy
from sphot_mpi.joint_sources import Stars, at

#: S/N of a star's peak, and that over the deepest dip's.
PEAK_SNR, PEAK_CONTRAST = 6.0, 2.5
#: Nearer to the centre than this x FWHM, a star and a nucleus cannot be told apart.
NEAREST_FWHM = 0.75
#: Most stars, and solves before a gain is judged: of a star, of a component.
MOST_STARS, STAR_PASSES, COMPONENT_PASSES = 3, 5, 8
#: Chi2 that a star must gain, in units of chance: by its three parameters as much as a component by its seven.
STAR_GAIN = 3.0 / 7.0 * SECOND_COMPONENT_GAIN


@dataclass(frozen=True, slots=True)
class Peak:
    """Highest point of the residual's S/N map in an area.

    Parameters
    ----------
    x, y : float
        Where, frame px.
    flux : float
        That of a star there.
    snr : float
        Its signal-to-noise.
    dip : float
        The lowest point's signal-to-noise.
    """

    x: float
    y: float
    flux: float
    snr: float
    dip: float


def with_central_stars(state: State, freedom: Freedom, keep: Keep, radius: float) -> State:
    """Return the state with the stars before the galaxy's centre that it cannot do without.

    Parameters
    ----------
    state : State
        With a galaxy that was solved beside the stars outside its centre.
    freedom : Freedom
        What is free; the galaxy has to be.
    keep : Keep
        Which stars stay.
    radius : float
        Where no stars were looked for, px from the centre.
    """
    for _ in range(MOST_STARS):
        star = _star(state, radius)
        if star is None:
            break
        without = solve_repeatedly(state, freedom, keep, STAR_PASSES)
        stars = without.scene.stars
        scene = without.scene.with_stars(stars.join(star))
        found = solve_repeatedly(replace(without, scene=scene), freedom, keep, STAR_PASSES)
        if chi2_of(without) - chi2_of(found) < STAR_GAIN * chance(state):
            break
        state = found
    return state


def without_stars_at_centres(state: State) -> State:
    """Return the state without stars that a component has come to stand under: their light is its nucleus'."""
    stars, galaxy = state.scene.stars, state.scene.galaxy
    if galaxy is None or stars.size == 0:
        return state
    distance = at(centre_distance(galaxy, state.optics.frame.shape), stars)
    apart = stars.anchored | (distance >= NEAREST_FWHM * state.optics.fwhm)
    return state if apart.all() else replace(state, scene=state.scene.with_stars(stars.take(apart)))


def without_needless_component(state: State, freedom: Freedom, keep: Keep) -> State:
    """Return the state with one component where two gain no more than chance does.

    Parameters
    ----------
    state : State
        With the stars that the galaxy is to be measured with.
    freedom : Freedom
        What is free; the galaxy has to be.
    keep : Keep
        Which stars stay.
    """
    galaxy = state.scene.galaxy
    if galaxy is None or galaxy.size < 2:
        return state
    main = slice(galaxy.main, galaxy.main + 1)
    single = Galaxy(centres=galaxy.centres[main], shapes=galaxy.shapes[main], fluxes=galaxy.fluxes.sum(keepdims=True))
    two = solve_repeatedly(state, freedom, keep, COMPONENT_PASSES)
    one = solve_repeatedly(replace(state, scene=replace(state.scene, galaxy=single)), freedom, keep, COMPONENT_PASSES)
    return state if chi2_of(one) - chi2_of(two) > SECOND_COMPONENT_GAIN * chance(state) else one


def find_peak(state: State, area: NDArray[np.bool_]) -> Peak | None:
    """Highest point of the residual's S/N map in an area; None where nothing stands out."""
    frame = state.optics.frame
    used = area & frame.good & state.optics.matched.covered
    if not used.any():
        return None
    snr = np.where(used, state.optics.matched.snr(state.residual) / frame.correlation, 0.0)
    iy, ix = np.unravel_index(int(np.argmax(snr)), snr.shape)
    if not snr[iy, ix] > 0.0:
        return None
    flux = snr[iy, ix] * frame.correlation / np.sqrt(state.optics.matched.precision[iy, ix])
    return Peak(float(ix), float(iy), float(flux), float(snr[iy, ix]), float(snr.min()))


def _star(state: State, radius: float) -> Stars | None:
    """The highest peak near the centre, if it is no piece of the galaxy."""
    galaxy = state.scene.galaxy
    if galaxy is None:
        return None
    distance = centre_distance(galaxy, state.optics.frame.shape)
    peak = find_peak(state, distance < radius)
    if peak is None or peak.snr < max(PEAK_SNR, -PEAK_CONTRAST * peak.dip):
        return None
    if distance[int(peak.y), int(peak.x)] < NEAREST_FWHM * state.optics.fwhm:
        return None
    return Stars.new(np.array([peak.x]), np.array([peak.y]), np.array([peak.flux]))


def solve_repeatedly(state: State, freedom: Freedom, keep: Keep, passes: int) -> State:
    """Solve so many times that a gain has shown, quiet or not."""
    for _ in range(passes):
        state = prune(solve(state, freedom), keep, merge=False)
    return state


def chi2_of(state: State) -> float:
    """Of the state before its last step."""
    assert state.step is not None
    return state.step.chi2
