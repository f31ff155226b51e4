"""What the galaxy of another filter has of its own: radial profile, place and ellipse, where the data ask for them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.flags import FitFlag
from sphot_mpi.joint import Keep, State, residual_of, solve
from sphot_mpi.joint_galaxy import SECOND_COMPONENT_GAIN
from sphot_mpi.joint_measure import Measurement, ShapeChange, chance, measure
from sphot_mpi.joint_regions import galaxy_radius
from sphot_mpi.joint_render import CENTRE_NAMES, MOVE_NAMES, SHAPE_NAMES, Freedom, render_galaxy
from sphot_mpi.joint_scene import PAD, Galaxy
from sphot_mpi.joint_shape_prior import shape_change, untold_change, with_change
from sphot_mpi.joint_solve import GALAXY_STEP
from sphot_mpi.joint_wald import profile_change, shape_unknowns, wald
from sphot_mpi.unseen_light import LARGEST_PART

#: Wald's chi2 of a filter's free profile against the base filter's, above which it has its own; and that of its shares
#: alone.
PROFILE_CHANGE, SHARES_CHANGE = 20.0, 10.0
#: That of its place and its ellipse.
PLACE_CHANGE, ELLIPSE_CHANGE = 12.0, 20.0
#: Least S/N of a galaxy that can be told to stand elsewhere: what is fainter would go to the next star.
LEAST_PLACED_SNR = 7.0
#: Farther off than this, r_eff, it would be another galaxy; nearer than this, px, it is where it was for all purposes.
MOST_DISPLACED, LEAST_DISPLACED = 0.6, 0.1
#: Radius of the core, r_eff, and the share of the galaxy's light by which such a profile may grow outside of it: with
#: r_eff and n of its own, and with no more than the components' shares. Where the core's pixels by themselves ask for
#: these, the wings may be as they are: they cannot run away, for the base filter knows the components' shapes. But a
#: component as large as the field takes the field's light: in a real galaxy that was 0.7 mag.
CORE, MOST_IN_WINGS, MOST_BY_SHARES = 1.5, 0.05, 0.15
#: With r_eff and n of its own it may grow by more if the wings' pixels out to this many r_eff by themselves ask for it,
#: as a galaxy's do that is larger in this filter: light that was only in the far wings would please none of them. They
#: ask if they gain so many times what one degree of freedom does by chance.
WINGS, WINGS_GAIN = 3.0, 8.0
#: Radii, r_eff, between which no profile of its own may lose as much.
OUTSKIRTS = (2.5, 6.0)
#: So many FWHM beyond these wings a star's place tells nothing of them.
FAR = 1.5
#: Most solves of a trial after its first, of one that moves places far, and the part of a chi2 asked for that the first
#: must promise.
TRIAL_PASSES, PLACE_PASSES, PROMISING = 4, 24, 0.5
#: What expectation changes of the flux by less than this x its error is left out.
NEGLIGIBLE = 0.25
#: A step that is so long, in the longest one allowed, may have been shortened.
NEAR_LIMIT = 0.99


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trial:
    """A measurement with more freedom than the one before.

    Parameters
    ----------
    state, measurement
        What came of it.
    expected : State
        Where it began: with the base filter's shape.
    """

    state: State
    measurement: Measurement
    expected: State

    @classmethod
    def of(cls, state: State, freedom: Freedom, keep: Keep, passes: int = 1) -> "_Trial":
        """Solve a state a few times with some freedom: a change that is worth more shows."""
        found, measurement = measure(state, freedom, keep, most=passes)
        return cls(state=found, measurement=measurement, expected=state)

    def settled(self, freedom: Freedom, keep: Keep, most: int = TRIAL_PASSES) -> "_Trial":
        """Solve on until it is quiet, `most` times at most."""
        state, measurement = measure(self.state, freedom, keep, most=most)
        return replace(self, state=state, measurement=measurement)

    @property
    def galaxies(self) -> tuple[Galaxy, Galaxy]:
        """The expected galaxy and the one that was found."""
        expected, found = self.expected.scene.galaxy, self.state.scene.galaxy
        assert expected is not None
        assert found is not None
        return expected, found

    @property
    def profile_chi2(self) -> float:
        """Wald's chi2 of the change of the profile."""
        return profile_change(*self.galaxies, self.measurement)

    @property
    def place_chi2(self) -> float:
        """Wald's chi2 of the displacement."""
        return wald(self._displacement(), self.measurement.block(self._place_names()))

    def _place_names(self) -> list[str]:
        """Unknowns of the place: of all components together, or of the expected galaxy's brightest one."""
        if MOVE_NAMES[0] in self.measurement.names:
            return list(MOVE_NAMES)
        return [f"{self.galaxies[0].main}.{name}" for name in CENTRE_NAMES]

    def _displacement(self) -> NDArray[np.float64]:
        expected, found = self.galaxies
        return np.asarray((found.centres - expected.centres)[expected.main])

    def shape_change(self) -> ShapeChange | None:
        """What it tells of the profile; None where that was not free."""
        free = f"0.{SHAPE_NAMES[0]}" in self.measurement.names
        return shape_change(*self.galaxies, self.measurement) if free else None

    def is_told(self) -> bool:
        """Whether what is expected of a single component's profile changes nothing; its ellipse tells by itself."""
        change, (expected, found) = self.shape_change(), self.galaxies
        if change is None or found.size > 1 or f"0.{SHAPE_NAMES[2]}" in self.measurement.names:
            return True
        excess = (found.shapes - expected.shapes)[0, :2] - change.mean
        return abs(float(change.response @ excess)) < NEGLIGIBLE * self.measurement.flux_error

    def wings_hold(self, most_in_wings: float) -> bool:
        """Whether the wings are the galaxy's: they would take the field's light or the sky's.

        Parameters
        ----------
        most_in_wings : float
            Share of the galaxy's light by which they may grow; more if pixels by themselves ask for it.
        """
        if not self.outskirts_hold():
            return False
        if self.growth() < most_in_wings * float(self.galaxies[0].fluxes.sum()):
            return True
        # far more than chance, in pixels that no wings far out can please
        if f"0.{SHAPE_NAMES[0]}" in self.measurement.names:
            asked = self.ring_gain(self.expected) > WINGS_GAIN * chance(self.expected)
        else:
            asked = self.core_gain(self.expected) > SECOND_COMPONENT_GAIN * chance(self.expected)
        return asked and self._field_shows()

    def is_other(self, least_change: float, part: float = 1.0) -> bool:
        """Whether one component's free ellipse, or else the profile, changed by some part of the chi2 asked for."""
        found = self.galaxies[1]
        if (found.fluxes <= 0.0).any():
            return False
        if found.size == 1 and f"0.{SHAPE_NAMES[2]}" in self.measurement.names:
            return self._ellipse_chi2() > part * ELLIPSE_CHANGE
        return self.profile_chi2 > part * least_change

    def _core(self) -> NDArray[np.bool_]:
        """Pixels of the expected galaxy's core."""
        return galaxy_radius(self.galaxies[0], self.state.optics.frame.shape) < CORE

    def growth(self) -> float:
        """Flux that the galaxy has gained outside its core."""
        core = self._core()
        return wing_light(self.state, core) - wing_light(self.expected, core)

    def _field_shows(self) -> bool:
        """Whether every component leaves a field beside it that tells the sky from its wings."""
        expected, _ = self.galaxies
        largest = float((np.exp(expected.shapes[:, 0]) / np.sqrt(expected.axis_ratios())).max())
        return largest < LARGEST_PART * (min(self.state.optics.frame.shape) - 2 * PAD)

    def core_gain(self, before: State) -> float:
        """Chi2 of the core's pixels that another state has beyond this one."""
        return self._gain(before, self._core())

    def ring_gain(self, before: State) -> float:
        """As `core_gain`, of the pixels around the expected galaxy's core where its wings can be seen."""
        radius = galaxy_radius(self.galaxies[0], self.state.optics.frame.shape)
        return self._gain(before, (radius > CORE) & (radius < WINGS))

    def outskirts_hold(self) -> bool:
        """Whether the pixels farther out fit no worse, which only the wings' slope pleases.

        Where arms or dust pull at a profile, they pay for it, and stars take what it leaves there.
        """
        radius = galaxy_radius(self.galaxies[0], self.state.optics.frame.shape)
        gain = self._gain(self.expected, (radius > OUTSKIRTS[0]) & (radius < OUTSKIRTS[1]))
        return gain > -WINGS_GAIN * chance(self.expected)

    def _gain(self, before: State, pixels: NDArray[np.bool_]) -> float:
        left, now = (
            float((state.optics.frame.weight * residual_of(state) ** 2)[pixels].sum()) for state in (before, self.state)
        )
        return left - now

    def promises_place(self) -> bool:
        """Whether one solve shows that the galaxy, its profile pinned, may stand elsewhere.

        Beside a free profile the place is known far worse than with the profile pinned. What it would be then follows
        from their covariance, for one solve is linear but for what damps it. Where it was as long as it may be, nothing
        follows.
        """
        change, turn, names = shape_unknowns(*self.galaxies, self.measurement, SHAPE_NAMES)
        both = self.measurement.block([*names, *self._place_names()])
        k, m = change.size, len(names)
        turn = np.block([[turn, np.zeros((k, 2))], [np.zeros((2, m)), np.eye(2)]])
        covariance = turn @ both @ turn.T
        follows = covariance[k:, :k] @ np.linalg.pinv(covariance[:k, :k], hermitian=True)
        alone = self._displacement() - follows @ change
        chi2 = wald(alone, covariance[k:, k:] - follows @ covariance[:k, k:])
        return chi2 > PROMISING * PLACE_CHANGE or self._changed_most() or self._went_far()

    def promises_shape(self, least_change: float) -> bool:
        """Whether one solve shows that profile (by a chi2 of at least so much) or ellipse may be another one.

        Where place or shape went as far as they may, all steps were shortened together, and chi2 tells nothing.
        """
        by_profile = self.profile_chi2 > PROMISING * least_change
        went_far = self._changed_most() or self._went_far()
        return by_profile or self.is_other(least_change, PROMISING) or went_far

    def _changed_most(self) -> bool:
        """Whether one solve changed the shape by as much as it may."""
        expected, found = self.galaxies
        steps = [GALAXY_STEP[name] for name in SHAPE_NAMES]
        return bool((np.abs(found.shapes - expected.shapes) / steps).max() > NEAR_LIMIT)

    def is_promising_place(self) -> bool:
        """Whether the first solves of the place alone are worth the rest."""
        return self.place_chi2 > PROMISING * PLACE_CHANGE or self._went_far()

    def _went_far(self) -> bool:
        """Whether the galaxy moved by what one solve may move it."""
        return bool(np.abs(self._displacement()).max() > NEAR_LIMIT * GALAXY_STEP[MOVE_NAMES[0]])

    def is_displaced(self) -> bool:
        """Whether the galaxy is seen to stand elsewhere, and not so far off that it would be another one."""
        expected, found = self.galaxies
        seen = found.fluxes.sum() > LEAST_PLACED_SNR * self.measurement.flux_error
        near = np.hypot(*self._displacement()) < MOST_DISPLACED * expected.half_light_radius()
        return bool(seen and near and self.place_chi2 > PLACE_CHANGE)

    def _ellipse_chi2(self) -> float:
        """Wald's chi2 of the change of the ellipse of a galaxy of one component."""
        expected, found = self.galaxies
        change = (found.shapes - expected.shapes)[0, 2:]
        return wald(change, self.measurement.block([f"0.{name}" for name in SHAPE_NAMES[2:]]))

    def place_flag(self) -> FitFlag:
        """`DISPLACED` if the galaxy is, and not by next to nothing."""
        return displaced(self._displacement()) if self.is_displaced() else FitFlag(0)


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
    reach = WINGS + FAR * state.optics.fwhm / galaxy.half_light_radius()
    near = galaxy_radius(galaxy, state.optics.frame.shape) < reach
    # the stars have told the shift; by how much the galaxy's place differs from theirs is its own
    moved = replace(freedom, shift=False, galaxy_move=True, places=near)
    tried = _try_profiles(state, galaxy, moved, keep)
    if (own := tried.own) is not None:
        flags = FitFlag.OWN_PROFILE | own.place_flag()
        return Shaped(state=own.state, measurement=own.measurement, own=flags, refused=tried.refused)
    flags = FitFlag.WINGS_UNTOLD if tried.untold else FitFlag(0)
    # what components that share no centre promise shows in no first step
    if tried.promises_place or galaxy.apart:
        alone = _Trial.of(state, moved, keep, TRIAL_PASSES if galaxy.apart else 1)
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
    own : _Trial or None
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

    own: _Trial | None = None
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
        trial = _Trial.of(state, own, keep)
        # the last trial is the least free
        tried = replace(tried, promises_place=trial.promises_place())
        change, less_may_do = trial.shape_change() or tried.change, galaxy.size > 1
        if trial.promises_shape(least_change):
            trial = trial.settled(own, keep)
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


def with_last_place(state: State, held: Freedom) -> tuple[State, Freedom]:
    """Solve once more with the galaxy's place, its light held: beside fainter stars it may be another one.

    Parameters
    ----------
    state : State
        With all stars.
    held : Freedom
        What is free while the galaxy is held.

    Returns
    -------
    state : State
        With the galaxy where it was, if the step says no more than chance does.
    freedom : Freedom
        What is to be free from here on: its place, too, or not.
    """
    galaxy, freer = state.scene.galaxy, replace(held, galaxy_move=True)
    assert galaxy is not None
    moved = solve(state, freer)
    assert moved.step is not None
    assert moved.scene.galaxy is not None
    rows = [moved.step.names.index(name) for name in MOVE_NAMES]
    covariance = moved.step.covariance[np.ix_(rows, rows)] * state.optics.frame.correlation**2
    if wald((moved.scene.galaxy.centres - galaxy.centres)[0], covariance) > PLACE_CHANGE:
        return moved, freer
    return replace(moved, scene=replace(moved.scene, galaxy=galaxy)), held


def displaced(change: NDArray[np.float64]) -> FitFlag:
    """`DISPLACED` for a change of the place (2,), px, that is worth saying."""
    return FitFlag.DISPLACED if np.hypot(*change) > LEAST_DISPLACED else FitFlag(0)


def _with_own_places(trial: _Trial, freedom: Freedom, keep: Keep) -> _Trial:
    """Free everything of two components: with another colour, their light lies elsewhere."""
    freedom = replace(freedom, galaxy_profile=False, galaxy_move=False, galaxy_shape=True)
    freer = replace(_Trial.of(trial.state, freedom, keep).settled(freedom, keep, PLACE_PASSES), expected=trial.expected)
    # what chance is shows where the model fits
    told = freer.core_gain(trial.state) > SECOND_COMPONENT_GAIN * chance(freer.state)
    told = told and freer.is_other(PROFILE_CHANGE) and freer.wings_hold(MOST_IN_WINGS)
    # nor may the wings' pixels pay for it
    told = told and (freer.growth() <= trial.growth() or freer.ring_gain(trial.state) > 0.0)
    return freer if told else trial


def wing_light(state: State, core: NDArray[np.bool_]) -> float:
    """Flux of the galaxy that is not in the core's pixels."""
    assert state.scene.galaxy is not None
    return float(state.scene.galaxy.fluxes.sum() - render_galaxy(state.scene.galaxy, state.optics)[core].sum())
