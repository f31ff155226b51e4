"""The galaxy's measurement: its last joint solve, with errors that know of the stars that were not fitted.

Stars too faint for a fit are noise to the galaxy: much more than that of the pixels in a real field, and
correlated over a PSF. Without it in the weights the outskirts, where confusion rules, would outweigh the bright
parts, where it does not matter; and the galaxy's errors would be those of an empty field.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import Keep, State
from sphot_mpi.joint_kernel import KERNEL_NAMES
from sphot_mpi.joint_mode_prior import MODE_NAMES
from sphot_mpi.joint_render import Freedom, light_of_modes
from sphot_mpi.joint_settle import settle
from sphot_mpi.records import Image


@dataclass(frozen=True, slots=True, eq=False)
class ShapeChange:
    """By how much a galaxy's profile may differ from what the fit has.

    Parameters
    ----------
    mean : (k,) float64 ndarray
        Expected difference: of ln r_eff and ln n of each component, then of the fluxes of all but the first one beyond
        what their ratios to that one's were.
    covariance : (k, k) float64 ndarray
        Its covariance.
    response : (k,) float64 ndarray
        Change of the galaxy's flux with it.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    response: NDArray[np.float64]

    @property
    def flux(self) -> float:
        """Change of the galaxy's flux that is expected."""
        return float(self.response @ self.mean)

    def flux_slopes(self, fluxes: NDArray[np.float64]) -> Image:
        """Changes (c, k) of the components' fluxes with it."""
        own = np.eye(self.mean.size)[2 * fluxes.size - 1 :].copy()
        own[0] = 0.0
        shares = fluxes / fluxes[0]
        return np.asarray(np.outer(shares / shares.sum(), self.response - own.sum(axis=0)) + own)

    def done(self) -> "ShapeChange":
        """What is left of it once the galaxy has been changed by the mean."""
        return replace(self, mean=np.zeros(self.mean.size))

    def left_out(self) -> "ShapeChange":
        """What is left of it where the galaxy is not changed: the mean is one more error."""
        return replace(self.done(), covariance=self.covariance + np.outer(self.mean, self.mean))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solved:
    """How a measurement was solved.

    Parameters
    ----------
    freedom : Freedom
        What was free.
    weight : (ny, nx) float64 ndarray
        The pixels' weights.
    unit : float
        Factor on the solve's covariance for what is correlated.
    """

    freedom: Freedom
    weight: Image
    unit: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurement:
    """Covariance of a galaxy's measurement.

    Parameters
    ----------
    names : tuple of str
        Dense unknowns, as in `Step`.
    covariance : (m, m) float64 ndarray
        Marginal over all stars; correlated noise and confusion are contained.
    quiet : bool
        Whether the solves became quiet.
    change : ShapeChange, optional
        By how much a shape that was held may differ.
    solved : Solved, optional
        Where it comes from.
    mode_light : (k,) float64 ndarray
        Light that each mode of amplitude 1 adds to the galaxy, if they were free.
    place : (2, 2) float64 ndarray, optional
        Covariance of the galaxy's place, where it was found after its light.
    """

    names: tuple[str, ...]
    covariance: Image
    quiet: bool
    change: ShapeChange | None = None
    solved: Solved | None = None
    mode_light: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    place: Image | None = None

    @property
    def flux_error(self) -> float:
        """Error of the galaxy's flux, its shape as free as it was."""
        light = dict(zip(MODE_NAMES, self.mode_light, strict=False))
        light |= {name: 1.0 for name in self.names if name == "scale" or name.endswith(".flux")}
        names = [name for name in light if name in self.names]
        slopes = np.array([light[name] for name in names])
        return float(np.sqrt(slopes @ self.block(names) @ slopes))

    def block(self, names: list[str]) -> Image:
        """Covariance of some unknowns, in their order."""
        rows = [self.names.index(name) for name in names]
        return self.covariance[np.ix_(rows, rows)]


def measure(state: State, freedom: Freedom, keep: Keep, *, most: int, weigh: bool = True) -> tuple[State, Measurement]:
    """Settle a state with errors that contain the field's confusion.

    Parameters
    ----------
    state : State
        With all stars that the measurement is to know.
    freedom : Freedom
        What is free.
    keep : Keep
        Which stars stay.
    most : int
        Most solves.
    weigh : bool
        Whether the confusion weighs in the solve as well. It should where the shape is known: then the bright parts
        tell the flux. A shape of its own needs the contrast of core and wings as the pixels' noise has it.

    Returns
    -------
    state : State
        Settled, under its own errors again.
    measurement : Measurement
        Covariance of the dense unknowns.
    """
    frame = state.optics.frame
    weighed, unit = with_confusion(state) if weigh else (state, chance(state))
    settled, quiet = settle(weighed, freedom, keep, most=most)
    assert settled.step is not None
    names = settled.step.names
    solved = Solved(
        freedom=replace(freedom, kernel=KERNEL_NAMES[0] in names), weight=weighed.optics.frame.weight, unit=unit
    )
    galaxy = settled.scene.galaxy
    measurement = Measurement(
        names=names,
        covariance=settled.step.covariance * unit,
        quiet=quiet,
        solved=solved,
        mode_light=np.zeros(0) if galaxy is None or freedom.modes is None else light_of_modes(galaxy, settled.optics),
    )
    return settled.with_frame(replace(settled.optics.frame, weight=frame.weight)), measurement


def with_confusion(state: State) -> tuple[State, float]:
    """Return the state with errors that contain the confusion, and the chi2 of a degree of freedom under them."""
    frame, noise = state.optics.frame, state.confusion
    weight = frame.weight * noise.part_of_pixels(frame)
    return state.with_frame(replace(frame, weight=weight)), correlated_unit(state, noise.share)


def with_correlations(state: State) -> tuple[State, float]:
    """Return the state with errors by which a smooth unknown is told, and the chi2 of a degree of freedom under them.

    Each pixel's own noise and the confusion count as often as neighbours share them. Where a galaxy is bright that is
    little beside the field, whose weights are as of `with_confusion`.
    """
    frame, noise = state.optics.frame, state.confusion
    unit = correlated_unit(state, noise.share)
    shared = frame.correlation**2 + frame.weight * (noise.variance * star_area(state))
    return state.with_frame(replace(frame, weight=frame.weight * (unit / shared))), unit


def chance(state: State) -> float:
    """Chi2 that one degree of freedom gains by chance under weights that do not know of the confusion."""
    share = state.confusion.share
    return correlated_unit(state, share) / (1.0 - share)


def correlated_unit(state: State, share: float) -> float:
    """Factor by which correlations widen the variance of a smooth unknown; `share` of the variance is confusion.

    Noise is correlated by what drizzling did to it, unfitted stars over the PSF.
    """
    return (1.0 - share) * state.optics.frame.correlation**2 + share * star_area(state)


def star_area(state: State) -> float:
    """Effective area ``1 / sum P^2`` of the PSF, px^2."""
    stamp = state.optics.stars.sampled(state.optics.core_radius)
    return 1.0 / float((stamp**2).sum())
