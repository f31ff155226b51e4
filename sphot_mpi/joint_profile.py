"""What the galaxy of another filter has of its own: radial profile, place and ellipse, where the data ask for them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.flags import FitFlag
from sphot_mpi.joint import Keep, State, residual_of
from sphot_mpi.joint_galaxy import SECOND_COMPONENT_GAIN, galaxy_radius
from sphot_mpi.joint_measure import Measurement, chance, measure
from sphot_mpi.joint_render import MOVE_NAMES, SHAPE_NAMES, Freedom, render_galaxy
from sphot_mpi.joint_scene import Galaxy
from sphot_mpi.records import Image

#: Wald's chi2 of a filter's free profile against the base filter's, above which it has its own; and that of its shares
#: alone.
PROFILE_CHANGE, SHARES_CHANGE = 20.0, 10.0
#: That of its place and its ellipse.
PLACE_CHANGE, ELLIPSE_CHANGE = 20.0, 20.0
#: Farther off than this, r_eff, it would be another galaxy.
MOST_DISPLACED = 0.3
#: Radius of the core, r_eff, and the share of the galaxy's light by which such a profile may grow outside of it: with
#: r_eff and n of its own, and with no more than the components' shares. These cannot run away, for the base filter
#: knows the components' shapes: where the core's pixels by themselves ask for them, the wings may be as they are.
CORE, MOST_IN_WINGS, MOST_BY_SHARES = 1.5, (0.05, 0.05), (0.15, np.inf)
#: Most solves of a trial, and the part of a chi2 asked for that its first must promise.
TRIAL_PASSES, PROMISING = 6, 0.5


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
    def of(cls, state: State, freedom: Freedom, keep: Keep, least_change: float) -> "_Trial":
        """Solve a state with some freedom; only once where that promises neither a profile nor a place of its own."""
        first, measurement = measure(state, freedom, keep, most=1)
        trial = cls(state=first, measurement=measurement, expected=state)
        if trial.profile_chi2 < PROMISING * least_change and trial.place_chi2 < PROMISING * PLACE_CHANGE:
            return trial
        last, measurement = measure(first, freedom, keep, most=TRIAL_PASSES - 1)
        return cls(state=last, measurement=measurement, expected=state)

    @property
    def galaxies(self) -> tuple[Galaxy, Galaxy]:
        """The expected galaxy and the one that was found."""
        expected, found = self.expected.scene.galaxy, self.state.scene.galaxy
        assert expected is not None
        assert found is not None
        return expected, found

    @property
    def profile_chi2(self) -> float:
        """Wald's chi2 of the change of the profile; 0 where only the place was free."""
        return profile_change(*self.galaxies, self.measurement) if "0.flux" in self.measurement.names else 0.0

    @property
    def place_chi2(self) -> float:
        """Wald's chi2 of the displacement."""
        return wald(self._displacement(), self.measurement.block(list(MOVE_NAMES)))

    def _displacement(self) -> NDArray[np.float64]:
        expected, found = self.galaxies
        return np.asarray((found.centres - expected.centres)[found.main])

    def has_profile(self, least_change: float, most_in_wings: tuple[float, float]) -> bool:
        """Whether the profile changed significantly, and in the core: wings would take the field's light or the sky's.

        Parameters
        ----------
        least_change : float
            Least chi2 of the change.
        most_in_wings : (float, float)
            Share of the galaxy's light by which the wings may grow, and that where the core asks for the profile.
        """
        expected, found = self.galaxies
        if (found.fluxes <= 0.0).any() or self.profile_chi2 <= least_change:
            return False
        core = galaxy_radius(expected, self.state.optics.frame.shape) < CORE
        growth = wing_light(self.state, core) - wing_light(self.expected, core)
        most = most_in_wings[self._is_asked_for(core)]
        return growth < most * float(expected.fluxes.sum())

    def _is_asked_for(self, core: NDArray[np.bool_]) -> bool:
        """Whether the core's pixels gain from the profile far more than chance, whatever the wings do."""
        before, after = (
            float((state.optics.frame.weight * residual_of(state) ** 2)[core].sum())
            for state in (self.expected, self.state)
        )
        return before - after > SECOND_COMPONENT_GAIN * chance(self.expected)

    def is_displaced(self) -> bool:
        """Whether the galaxy stands elsewhere, and not so far off that it would be another one."""
        expected, _ = self.galaxies
        distance = float(np.hypot(*self._displacement()))
        return self.place_chi2 > PLACE_CHANGE and distance < MOST_DISPLACED * expected.half_light_radius()

    def has_ellipse(self) -> bool:
        """Whether the galaxy, of one component, has another ellipse."""
        expected, found = self.galaxies
        change = (found.shapes - expected.shapes)[0, 2:]
        return wald(change, self.measurement.block([f"0.{name}" for name in SHAPE_NAMES[2:]])) > ELLIPSE_CHANGE

    def place_flag(self) -> FitFlag:
        """`DISPLACED` if the galaxy is."""
        return FitFlag.DISPLACED if self.is_displaced() else FitFlag(0)


def with_own_shape(
    state: State, measurement: Measurement, freedom: Freedom, keep: Keep
) -> tuple[State, Measurement, FitFlag]:
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
    state : State
        With the shape that is to be used.
    measurement : Measurement
        Its covariance.
    flags : FitFlag
        What is this filter's own: `OWN_PROFILE`, `DISPLACED`.
    """
    galaxy, none = state.scene.galaxy, FitFlag(0)
    if galaxy is None or not galaxy.fluxes.sum() > 0.0:
        return state, measurement, none
    # the stars have told the shift; by how much the galaxy's place differs from theirs is its own
    moved = replace(freedom, shift=False, galaxy_move=True)
    shares = replace(moved, galaxy_scale=False, galaxy_flux=True)
    trials = [(replace(shares, galaxy_profile=True), PROFILE_CHANGE, MOST_IN_WINGS)]
    if galaxy.size > 1:
        # disk and bulge have colours of their own, with nothing else that could run away
        trials.append((shares, SHARES_CHANGE, MOST_BY_SHARES))
    displaced = False
    for own, least_change, most_in_wings in trials:
        trial = _Trial.of(state, own, keep, least_change)
        displaced |= trial.is_displaced()
        if trial.has_profile(least_change, most_in_wings):
            trial = _with_own_ellipse(trial, own, keep) if galaxy.size == 1 else trial
            return trial.state, trial.measurement, FitFlag.OWN_PROFILE | trial.place_flag()
    if displaced:
        trial = _Trial.of(state, moved, keep, PROFILE_CHANGE)
        if trial.is_displaced():
            return trial.state, trial.measurement, trial.place_flag()
    return state, measurement, none


def _with_own_ellipse(trial: _Trial, freedom: Freedom, keep: Keep) -> _Trial:
    """Free the ellipse, too, of a galaxy with its own profile; several components change it by their shares."""
    state, measurement = measure(trial.state, replace(freedom, galaxy_ellipse=True), keep, most=TRIAL_PASSES)
    freer = replace(trial, state=state, measurement=measurement)
    return freer if freer.has_ellipse() and freer.has_profile(PROFILE_CHANGE, MOST_IN_WINGS) else trial


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
    return wald(change, turn @ measurement.block([*names, *fluxes]) @ turn.T)


def wald(change: NDArray[np.float64], covariance: Image) -> float:
    """Wald's chi2 of a change against none."""
    return float(change @ np.linalg.pinv(covariance, hermitian=True) @ change)
