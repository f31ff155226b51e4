"""Smooth departures of the galaxy's light from its Sersic components: whether it has any, and how large they are.

Real galaxies are lopsided, have rings, bars and arms. What a Sersic leaves of them is filled with stars, pulls n and
with it the wings, and stays in the residual. The galaxy is therefore measured with the amplitudes of `galaxy_modes` as
well, under a prior (`joint_mode_prior`), if that is likelier.

Dust and the stars that arms are made of differ from filter to filter. Another filter is measured with the base
filter's amplitudes, for with its own it would take from its stars what its wings lose; they become its own when its
total is settled, and leave that as it is. Those of its core, whose image is the PSF's as much as its own, are from the
beginning each filter's own, the base filter's too.
"""

from dataclasses import replace

import numpy as np

from sphot_mpi.galaxy_modes import MOST_DISCS, N_MODES
from sphot_mpi.joint import Keep, State, prune, solve
from sphot_mpi.joint_measure import Measurement, chance, with_confusion
from sphot_mpi.joint_mode_prior import MODE_NAMES, WHOLE_NAMES, ModePrior
from sphot_mpi.joint_render import Freedom, light_of_modes
from sphot_mpi.joint_scene import components_of

#: Standard deviation of an amplitude of degree 0, and of how it differs from that of the base filter.
SPREAD = 0.2
#: Least log odds for modes, and those after one solve that may become as much.
LEAST_ODDS, PROMISING_ODDS = 0.0, -5.0
#: Least S/N of a galaxy in which they are looked for once more when it is measured.
LEAST_SNR = 5.0
#: Least r_eff, in FWHM of the PSF, of a component that has modes of its own.
LEAST_CORE = 0.5


def with_modes(state: State, freedom: Freedom, keep: Keep) -> tuple[State, Freedom] | None:
    """Solve once with modes beside the stars as they are.

    Parameters
    ----------
    state : State
        With the stars that the galaxy is to be measured with.
    freedom : Freedom
        What is free; the galaxy has to be.
    keep : Keep
        Which stars stay.

    Returns
    -------
    state : State
        With modes.
    freedom : Freedom
        With them free. None instead of both: the galaxy is likelier without, and will remain so.
    """
    galaxy = state.scene.galaxy
    # modes have one centre: beside two they would only trade light with the components
    if galaxy is None or galaxy.apart:
        return None
    none = np.zeros(N_MODES)
    freer = replace(freedom, modes=ModePrior(names=WHOLE_NAMES, mean=none, spread=SPREAD, unit=chance(state)))
    tried = replace(state, scene=replace(state.scene, galaxy=replace(galaxy, modes=none)))
    tried = prune(solve(tried, freer), keep, merge=False)
    return (tried, freer) if log_odds(tried, freer.modes) > PROMISING_ODDS else None


def with_own_modes(state: State, measurement: Measurement, keep: Keep, *, core_only: bool) -> State:
    """Let a measured galaxy's light depart from its components as this filter's image has it, if that is likelier.

    One solve finds how: the model is linear in modes, and stars follow when it is settled.

    Parameters
    ----------
    state : State
        With a galaxy whose light is held: what its modes add in all, and so its total, stays.
    measurement : Measurement
        Of that galaxy.
    keep : Keep
        Which stars stay.
    core_only : bool
        Whether only the core's modes are free.
    """
    galaxy = state.scene.galaxy
    if galaxy is None or galaxy.fluxes.sum() < LEAST_SNR * measurement.flux_error:
        return state
    core = min(component.r_eff for component in components_of(galaxy))
    # what the PSF does not resolve has no structure
    discs = MOST_DISCS if galaxy.size > 1 and core > LEAST_CORE * state.optics.fwhm else 1
    modes = np.zeros(discs * N_MODES)
    modes[: galaxy.modes.size] = galaxy.modes
    galaxy, frame = replace(galaxy, modes=modes), state.optics.frame
    free, light = np.arange(N_MODES if core_only else 0, modes.size), light_of_modes(galaxy, state.optics)
    if not light[free].any():
        return state
    tried, unit = with_confusion(replace(state, scene=replace(state.scene, galaxy=galaxy)))
    prior = ModePrior(
        names=tuple(MODE_NAMES[k] for k in free),
        mean=modes[free],
        spread=SPREAD,
        unit=unit,
        light=light[free],
    )
    tried = prune(solve(tried, Freedom(modes=prior)), keep, merge=False)
    return tried.with_frame(frame) if log_odds(tried, prior) > LEAST_ODDS else state


def log_odds(state: State, prior: ModePrior | None) -> float:
    """Ln of how much likelier the last solve's modes are than those expected."""
    assert state.step is not None
    assert state.scene.galaxy is not None
    assert prior is not None
    return prior.log_odds(state.step.names, state.step.covariance, state.scene.galaxy.modes)
