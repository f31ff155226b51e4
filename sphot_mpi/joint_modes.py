"""Smooth departures of the galaxy's light from its Sersic components: whether it has any, and how large they are.

Real galaxies are lopsided, have rings, bars and arms. What a Sersic leaves of them is filled with stars, pulls n and
with it the wings, and stays in the residual. The galaxy is therefore measured with the amplitudes of `galaxy_modes` as
well, under a prior (`joint_mode_prior`), if that is likelier.
"""

from dataclasses import replace

import numpy as np

from sphot_mpi.galaxy_modes import N_MODES
from sphot_mpi.joint import Keep, State, prune, solve
from sphot_mpi.joint_measure import chance
from sphot_mpi.joint_mode_prior import ModePrior
from sphot_mpi.joint_render import Freedom

#: Standard deviation of an amplitude of degree 0.
SPREAD = 0.2
#: Least log odds for modes, and those after one solve that may become as much.
LEAST_ODDS, PROMISING_ODDS = 0.0, -5.0


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
    freer = replace(freedom, modes=ModePrior(mean=none, spread=SPREAD, unit=chance(state)))
    tried = replace(state, scene=replace(state.scene, galaxy=replace(galaxy, modes=none)))
    tried = prune(solve(tried, freer), keep, merge=False)
    return (tried, freer) if log_odds(tried, freer) > PROMISING_ODDS else None


def log_odds(state: State, freedom: Freedom) -> float:
    """Ln of how much likelier the last solve's modes are than those expected."""
    assert state.step is not None
    assert state.scene.galaxy is not None
    assert freedom.modes is not None
    return freedom.modes.log_odds(state.step.names, state.step.covariance, state.scene.galaxy.modes)
