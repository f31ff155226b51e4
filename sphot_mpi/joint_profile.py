"""What the galaxy of another filter has of its own: radial profile, place and ellipse, where the data ask for them."""

from dataclasses import dataclass, replace

import numpy as np

from sphot_mpi.flags import FitFlag
from sphot_mpi.joint import Keep, State, solve
from sphot_mpi.joint_galaxy import SECOND_COMPONENT_GAIN
from sphot_mpi.joint_measure import Measurement, ShapeChange, chance, measure
from sphot_mpi.joint_regions import star_reach
from sphot_mpi.joint_render import MOVE_NAMES, Freedom
from sphot_mpi.joint_scene import Galaxy
from sphot_mpi.joint_shape_prior import untold_change, with_change
from sphot_mpi.joint_trial import NEGLIGIBLE, PLACE_CHANGE, TRIAL_PASSES, WINGS, Trial
from sphot_mpi.joint_wald import wald
from sphot_mpi.records import Image

#: Wald's chi2 of a filter's free profile against the base filter's, above which it has its own; and that of its shares
#: alone.
PROFILE_CHANGE, SHARES_CHANGE = 20.0, 10.0
#: Share of the galaxy's light by which such a profile may grow outside the core: with r_eff and n of its own, and with
#: no more than the components' shares. Where the core's pixels by themselves ask for these, the wings may be as they
#: are: they cannot run away, for the base filter knows the components' shapes. But a component as large as the field
#: takes the field's light: in a real galaxy that was 0.7 mag.
MOST_IN_WINGS, MOST_BY_SHARES = 0.05, 0.15
#: Most solves of a trial that moves places far.
PLACE_PASSES = 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shaped:
    """A galaxy measured with the shape that it has in a filter.

    Parameters
    ----------
    state : State
        With that shape.
    measurement : Measurement
        Its covariance.
    own : FitFlag
        What is this filter's own: `OWN_PROFILE`, `DISPLACED`; `WINGS_UNTOLD` if it may have another profile;
        `SHAPE_WEIGHED` if it was moved as far as expectation goes.
    refused : State, optional
        With a profile that was refused because the outskirts pay for it.
    """

    state: State
    measurement: Measurement
    own: FitFlag = FitFlag(0)
    refused: State | None = None


def with_own_shape(state: State, measurement: Measurement, freedom: Freedom, keep: Keep) -> Shaped:
    """Free of the galaxy's shape what the base filter's does not fit of this filter's data.

    Real galaxies have colour gradients, dust and young stars on one side. What the base filter's shape leaves of them
    would hang on the weights, and would be filled with stars.

    Parameters
    ----------
    state, measurement
        Of the fit with the base filter's shape.
    freedom : Freedom
        What was free in it.
    keep : Keep
        Which stars stay.

    Returns
    -------
    Shaped
        With the shape that is to be used.
    """
    galaxy = state.scene.galaxy
    if galaxy is None or not galaxy.fluxes.sum() > 0.0:
        return Shaped(state=state, measurement=measurement)
    # no star tells its shape by a place that is far off
    near = star_reach(galaxy, state.optics, WINGS)
    # the stars have told the shift; by how much the galaxy's place differs from theirs is its own
    moved = replace(freedom, shift=False, galaxy_move=True, places=near)
    tried = _try_profiles(state, galaxy, moved, keep)
    if (own := tried.own) is not None:
        flags = FitFlag.OWN_PROFILE | own.place_flag()
        return Shaped(state=own.state, measurement=own.measurement, own=flags, refused=tried.refused)
    flags = FitFlag.WINGS_UNTOLD if tried.untold else FitFlag(0)
    # what components that share no centre promise shows in no first step
    if tried.promises_place or galaxy.apart:
        alone = Trial.of(state, moved, keep, TRIAL_PASSES if galaxy.apart else 1)
        if alone.is_promising_place() and (alone := alone.settled(moved, keep, PLACE_PASSES)).is_displaced():
            state, measurement, freedom, flags = alone.state, alone.measurement, moved, flags | alone.place_flag()
    if (change := tried.change) is not None:
        if abs(change.flux) < NEGLIGIBLE * measurement.flux_error:
            measurement = replace(measurement, change=change.left_out())
        else:
            state, measurement = measure(with_change(state, change), freedom, keep, most=TRIAL_PASSES)
            measurement, flags = replace(measurement, change=change.done()), flags | FitFlag.SHAPE_WEIGHED
    return Shaped(state=state, measurement=measurement, own=flags, refused=tried.refused)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tried:
    """What trials of another profile have shown.

    Parameters
    ----------
    own : Trial or None
        The trial that is to be kept.
    untold : bool
        Whether one was refused for its wings.
    change : ShapeChange or None
        What they tell of the profile.
    promises_place : bool
        Whether the place may be another one.
    refused : State or None
        As of `Shaped`.
    """

    own: Trial | None = None
    untold: bool = False
    change: ShapeChange | None = None
    promises_place: bool = False
    refused: State | None = None


def _try_profiles(state: State, galaxy: Galaxy, moved: Freedom, keep: Keep) -> _Tried:
    """Try profiles of the galaxy's own; `moved`: what is free beside them."""
    shares = replace(moved, galaxy_scale=False, galaxy_flux=True)
    profile = (replace(shares, galaxy_profile=True), PROFILE_CHANGE, MOST_IN_WINGS)
    if galaxy.size > 1:
        # disk and bulge have colours of their own, with nothing else that could run away
        trials = [profile, (shares, SHARES_CHANGE, MOST_BY_SHARES)]
    else:
        trials = [(replace(profile[0], galaxy_ellipse=True), *profile[1:]), profile]
    tried = _Tried()
    for own, least_change, most_in_wings in trials:
        trial = Trial.of(state, own, keep)
        # the last trial is the least free
        tried = replace(tried, promises_place=trial.promises_place())
        change, less_may_do = trial.shape_change() or tried.change, galaxy.size > 1
        if trial.promises_shape(least_change):
            trial = trial.settled(own, keep, TRIAL_PASSES // 2)
            # wings that have run away by then hardly come back, nor would they be trusted
            if trial.wings_hold(most_in_wings):
                trial = trial.settled(own, keep, TRIAL_PASSES // 2)
            holds, by_profile = trial.wings_hold(most_in_wings), trial.profile_chi2 > least_change
            if holds and trial.is_other(least_change) and trial.is_told():
                return replace(tried, own=trial if galaxy.size == 1 else _with_own_places(trial, own, keep))
            if holds or not (by_profile or trial.is_other(least_change)):
                change = trial.shape_change() or change
            else:
                # wings that are refused are not let in by half
                tried, change = replace(tried, untold=True), None if change is None else untold_change(galaxy, change)
                if not trial.outskirts_hold():
                    tried = replace(tried, refused=trial.state)
            less_may_do = less_may_do or (holds and by_profile)
        tried = replace(tried, change=change)
        if not less_may_do:
            break
    return tried


def with_last_place(state: State) -> tuple[State, Freedom | None]:
    """Solve once more with the galaxy's place, its light held: beside fainter stars it may be another one.

    Parameters
    ----------
    state : State
        With all stars.

    Returns
    -------
    state : State
        With the galaxy where it was, if the step says no more than chance does.
    freedom : Freedom
        What is to be free from here on: its place beside the stars near it. None: it stays.
    """
    galaxy = state.scene.galaxy
    assert galaxy is not None
    freer = Freedom(galaxy_move=True, stars=star_reach(galaxy, state.optics, WINGS))
    moved = solve(state, freer)
    assert moved.scene.galaxy is not None
    if wald((moved.scene.galaxy.centres - galaxy.centres)[0], place_covariance(moved)) > PLACE_CHANGE:
        return moved, freer
    return replace(moved, scene=replace(moved.scene, galaxy=galaxy)), None


def place_covariance(state: State) -> Image:
    """Covariance (2, 2), px^2, of the galaxy's place in the last solve, in which it was free."""
    assert state.step is not None
    rows = [state.step.names.index(name) for name in MOVE_NAMES]
    return np.asarray(state.step.covariance[np.ix_(rows, rows)] * state.optics.frame.correlation**2)


def _with_own_places(trial: Trial, freedom: Freedom, keep: Keep) -> Trial:
    """Free everything of two components: with another colour, their light lies elsewhere."""
    freedom = replace(freedom, galaxy_profile=False, galaxy_move=False, galaxy_shape=True)
    freer = replace(Trial.of(trial.state, freedom, keep).settled(freedom, keep, PLACE_PASSES), expected=trial.expected)
    # what chance is shows where the model fits
    told = freer.core_gain(trial.state) > SECOND_COMPONENT_GAIN * chance(freer.state)
    told = told and freer.is_other(PROFILE_CHANGE) and freer.wings_hold(MOST_IN_WINGS)
    # nor may the wings' pixels pay for it
    told = told and (freer.growth() <= trial.growth() or freer.ring_gain(trial.state) > 0.0)
    return freer if told else trial
