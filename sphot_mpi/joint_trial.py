"""Trials of a galaxy's shape in another filter: a measurement with more freedom, and what speaks for it or against."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.flags import FitFlag
from sphot_mpi.joint import Keep, State
from sphot_mpi.joint_galaxy import SECOND_COMPONENT_GAIN
from sphot_mpi.joint_measure import Measurement, ShapeChange, chance, measure
from sphot_mpi.joint_regions import galaxy_radius
from sphot_mpi.joint_render import CENTRE_NAMES, MOVE_NAMES, SHAPE_NAMES, Freedom, render_galaxy
from sphot_mpi.joint_scene import PAD, Galaxy
from sphot_mpi.joint_shape_prior import shape_change
from sphot_mpi.joint_solve import GALAXY_STEP
from sphot_mpi.joint_wald import profile_change, shape_unknowns, wald
from sphot_mpi.unseen_light import LARGEST_PART

#: Wald's chi2 of a galaxy's place and of its ellipse, above which they are this filter's own.
PLACE_CHANGE, ELLIPSE_CHANGE = 12.0, 20.0
#: Least S/N of a galaxy that can be told to stand elsewhere: what is fainter would go to the next star.
LEAST_PLACED_SNR = 7.0
#: Farther off than this, r_eff, it would be another galaxy; nearer than this, px, it is where it was for all purposes.
MOST_DISPLACED, LEAST_DISPLACED = 0.6, 0.1
#: Radius of the core, r_eff.
CORE = 1.5
#: With r_eff and n of its own a galaxy may grow by more than others if the wings' pixels out to this many r_eff by
#: themselves ask for it, as those of one that is larger in this filter do: light that was only in the far wings would
#: please none of them. They ask if they gain so many times what one degree of freedom does by chance.
WINGS, WINGS_GAIN = 3.0, 8.0
#: Radii, r_eff, between which no profile of its own may lose as much.
OUTSKIRTS = (2.5, 6.0)
#: Most solves of a trial after its first, and the part of a chi2 asked for that the first must promise.
TRIAL_PASSES, PROMISING = 4, 0.5
#: What expectation changes of the flux by less than this x its error is left out.
NEGLIGIBLE = 0.25
#: A step that is so long, in the longest one allowed, may have been shortened.
NEAR_LIMIT = 0.99


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
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
    def of(cls, state: State, freedom: Freedom, keep: Keep, passes: int = 1) -> "Trial":
        """Solve a state a few times with some freedom: a change that is worth more shows."""
        found, measurement = measure(state, freedom, keep, most=passes)
        return cls(state=found, measurement=measurement, expected=state)

    def settled(self, freedom: Freedom, keep: Keep, most: int = TRIAL_PASSES) -> "Trial":
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
            float((state.optics.frame.weight * state.residual**2)[pixels].sum()) for state in (before, self.state)
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


def displaced(change: NDArray[np.float64]) -> FitFlag:
    """`DISPLACED` for a change of the place (2,), px, that is worth saying."""
    return FitFlag.DISPLACED if np.hypot(*change) > LEAST_DISPLACED else FitFlag(0)


def wing_light(state: State, core: NDArray[np.bool_]) -> float:
    """Flux of the galaxy that is not in the core's pixels."""
    assert state.scene.galaxy is not None
    return float(state.scene.galaxy.fluxes.sum() - render_galaxy(state.scene.galaxy, state.optics)[core].sum())
