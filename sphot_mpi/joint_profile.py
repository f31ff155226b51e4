"""A radial profile of its own for the galaxy of another filter, where a colour gradient asks for one."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import Keep, State
from sphot_mpi.joint_galaxy import galaxy_radius
from sphot_mpi.joint_measure import Measurement, measure
from sphot_mpi.joint_render import SHAPE_NAMES, Freedom, render_galaxy
from sphot_mpi.joint_scene import Galaxy

#: Chi2 of a filter's free profile against the base filter's, above which it has its own; and that of its shares alone.
PROFILE_CHANGE, SHARES_CHANGE = 20.0, 10.0
#: Radius of the core, r_eff, and the share of the galaxy's light by which such a profile may grow outside of it: with
#: r_eff and n of its own, and with no more than the components' shares.
CORE, MOST_IN_WINGS, MOST_BY_SHARES = 1.5, 0.05, 0.15
#: Most solves of a profile.
PROFILE_PASSES = 6


def with_own_profile(
    state: State, measurement: Measurement, freedom: Freedom, keep: Keep
) -> tuple[State, Measurement, bool]:
    """Free the galaxy's radial profile where the base filter's does not fit this filter's data.

    Real galaxies have colour gradients. What the base filter's profile leaves of them would hang on the weights, and
    would be filled with stars.

    Parameters
    ----------
    state, measurement
        Of the fit with the base filter's profile.
    freedom : Freedom
        What was free in it.
    keep : Keep
        Which stars stay.

    Returns
    -------
    state : State
        With the profile that is to be used.
    measurement : Measurement
        Its covariance.
    taken : bool
        Whether that is this filter's own.
    """
    galaxy = state.scene.galaxy
    if galaxy is None or not galaxy.fluxes.sum() > 0.0:
        return state, measurement, False
    shares = replace(freedom, galaxy_scale=False, galaxy_flux=True)
    trials = [(replace(shares, galaxy_profile=True), PROFILE_CHANGE, MOST_IN_WINGS)]
    if galaxy.size > 1:
        # disk and bulge have colours of their own, with nothing else that could run away
        trials.append((shares, SHARES_CHANGE, MOST_BY_SHARES))
    core = galaxy_radius(galaxy, state.optics.frame.shape) < CORE
    for own, least_change, most_in_wings in trials:
        trial, trial_measurement = measure(state, own, keep, most=PROFILE_PASSES)
        found = trial.scene.galaxy
        assert found is not None
        needed = (found.fluxes > 0.0).all() and profile_change(galaxy, found, trial_measurement) > least_change
        # a colour gradient shows in the core; wings that grow take the field's light or the sky's tilt
        if needed and wing_light(trial, core) - wing_light(state, core) < most_in_wings * galaxy.fluxes.sum():
            return trial, trial_measurement, True
    return state, measurement, False


def wing_light(state: State, core: NDArray[np.bool_]) -> float:
    """Flux of the galaxy that is not in the core's pixels."""
    assert state.scene.galaxy is not None
    return float(state.scene.galaxy.fluxes.sum() - render_galaxy(state.scene.galaxy, state.optics)[core].sum())


def profile_change(expected: Galaxy, found: Galaxy, measurement: Measurement) -> float:
    """Wald's chi2 of a free profile against the expected one: by the components' shares of the flux, r_eff and n.

    Parameters
    ----------
    expected, found : Galaxy
        The pinned profile and the free one.
    measurement : Measurement
        Of the free one; r_eff and n count if they were free.
    """
    size = found.size
    names = [f"{c}.{name}" for c in range(size) for name in SHAPE_NAMES[:2] if f"{c}.{name}" in measurement.names]
    fluxes = [f"{c}.flux" for c in range(size)]
    share = expected.fluxes / expected.fluxes[0]
    shapes = (found.shapes - expected.shapes)[:, :2].ravel()[: len(names)]
    change = np.concatenate((shapes, found.fluxes[1:] - share[1:] * found.fluxes[0]))
    turn = np.zeros((change.size, len(names) + size))
    turn[: len(names), : len(names)] = np.eye(len(names))
    turn[len(names) :, len(names)] = -share[1:]
    turn[len(names) :, len(names) + 1 :] = np.eye(size - 1)
    covariance = turn @ measurement.block([*names, *fluxes]) @ turn.T
    return float(change @ np.linalg.pinv(covariance, hermitian=True) @ change)
