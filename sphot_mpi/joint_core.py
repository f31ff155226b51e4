"""The galaxy's core: light there that one Sersic cannot make, whether it is the galaxy's or a star's.

No star is looked for within a radius of the centre, because what a Sersic model leaves there is the galaxy's. But a
core may be lopsided, and a bright star before it would be taken for galaxy. So where a peak is left near the centre,
a second component with a centre of its own is tried first. After that a star is, if the peak cannot be a piece of the
galaxy: a wrong profile leaves a residual of both signs, a star one peak that towers over the dips around it. Either
has to gain far more chi2 than chance.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import Keep, State, prune, residual_of, solve
from sphot_mpi.joint_galaxy import SECOND_COMPONENT_GAIN, centre_distance
from sphot_mpi.joint_measure import chance
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_scene import Stars

#: S/N of a peak that is worth a trial; of a star's peak over the deepest dip's.
PEAK_SNR, STAR_CONTRAST = 6.0, 2.5
#: A star's least distance from the centre, and a component's least r_circ, in FWHM.
NEAREST_FWHM, LEAST_SIZE_FWHM = 0.5, 0.5
#: Components are looked for within this many r_eff.
CORE = 0.5
#: A component starts with this part of the galaxy's radius and of its light.
START_SIZE, START_SHARE = 0.25, 0.1
#: Most stars, and solves before a gain is judged: of a star and of a component.
MOST_STARS, STAR_PASSES, COMPONENT_PASSES = 3, 5, 8


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
        With a galaxy that was solved beside the stars outside.
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
        without = _settled(state, freedom, keep, STAR_PASSES)
        stars = without.scene.stars
        scene = without.scene.with_stars(stars.join(star))
        found = _settled(replace(without, scene=scene), freedom, keep, STAR_PASSES)
        if _chi2(without) - _chi2(found) < SECOND_COMPONENT_GAIN * chance(state):
            break
        state = found
    return state


def find_peak(state: State, area: NDArray[np.bool_]) -> Peak | None:
    """Highest point of the residual's S/N map in an area; None where nothing stands out."""
    frame = state.optics.frame
    used = area & frame.good & state.matched.covered
    if not used.any():
        return None
    snr = np.where(used, state.matched.snr(residual_of(state)) / frame.correlation, 0.0)
    iy, ix = np.unravel_index(int(np.argmax(snr)), snr.shape)
    if not snr[iy, ix] > 0.0:
        return None
    flux = snr[iy, ix] * frame.correlation / np.sqrt(state.matched.precision[iy, ix])
    return Peak(float(ix), float(iy), float(flux), float(snr[iy, ix]), float(snr.min()))


def _star(state: State, radius: float) -> Stars | None:
    """The highest peak near the centre, if it is no piece of the galaxy."""
    galaxy = state.scene.galaxy
    if galaxy is None:
        return None
    distance = centre_distance(galaxy, state.optics.frame.shape)
    peak = find_peak(state, distance < radius)
    if peak is None or peak.snr < max(PEAK_SNR, -STAR_CONTRAST * peak.dip):
        return None
    if distance[int(peak.y), int(peak.x)] < NEAREST_FWHM * state.optics.fwhm:
        return None
    return Stars.new(np.array([peak.x]), np.array([peak.y]), np.array([peak.flux]))


def _settled(state: State, freedom: Freedom, keep: Keep, passes: int) -> State:
    """Solve until a gain shows."""
    for _ in range(passes):
        state = prune(solve(state, freedom), keep)
    return state


def _chi2(state: State) -> float:
    """Of the state before its last step."""
    assert state.step is not None
    return state.step.chi2
