"""Solve without detection until nothing changes any more."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import Keep, State, prune, solve
from sphot_mpi.joint_render import CENTRE_NAMES, SHAPE_NAMES, Freedom
from sphot_mpi.joint_scene import Galaxy
from sphot_mpi.joint_solve import GALAXY_STEP, Step
from sphot_mpi.joint_sources import Stars, around

#: A fit has converged when chi2 changes by less than this part of it, or by less than 1, and the galaxy by less than
#: this part of the pixels' error. What is left to come of a field full of blends is in stars that push each other.
QUIET_CHI2, QUIET_STEP = 0.02, 0.5
#: Solving ends before its last pass when chi2 changes by less than this: each pass of stars moves the kernel a little.
LAST_CHI2 = 3e-3
#: A galaxy's step takes back the one before if the cosine of their angle is below minus this.
TURN = 0.5
#: Solves for all stars, before those alone are solved for that have not come to rest: whose last step was longer than
#: this part of its error, and those so near to them, FWHM.
WHOLE_PASSES, RESTLESS_STEP, RESTLESS_REACH = 3, 0.3, 1.0


def settle(state: State, freedom: Freedom, keep: Keep, *, most: int) -> tuple[State, bool]:
    """Solve without detection until chi2 and galaxy are quiet; returns whether they became so.

    No bright stars are merged any more: of what detection made in vain little is left, and a real pair would be missed.
    Where a step takes back the one before, as Gauss-Newton steps do that are too long, the galaxy goes half as far from
    there on, until they no longer do.
    """
    quiet, change, part = False, np.zeros(0), 1.0
    for index in range(most):
        before, scene = state.step, state.scene
        state = prune(solve(state, freedom), keep, merge=False, solved=freedom.stars)
        assert state.step is not None
        # chi2 is that before a step: the first under new unknowns shows nothing of what they do
        if index > 0 and before is not None:
            quiet = _is_quiet(before, state.step, QUIET_CHI2)
            if _is_quiet(before, state.step, LAST_CHI2):
                break
        if scene.galaxy is not None and state.scene.galaxy is not None:
            # the common shift moves stars as well, and is no step of the galaxy
            galaxy = replace(scene.galaxy, centres=scene.galaxy.centres + (state.scene.shift - scene.shift))
            last, change = change, galaxy_change(galaxy, state.scene.galaxy)
            turns = index > 0 and change @ last < -TURN * np.linalg.norm(change) * np.linalg.norm(last)
            part = 0.5 * part if turns else min(2.0 * part, 1.0)
            if part < 1.0:
                state = replace(state, scene=replace(state.scene, galaxy=between(galaxy, state.scene.galaxy, part)))
    return state, quiet


def _is_quiet(before: Step, step: Step, part: float) -> bool:
    """Whether chi2 changes by no more than some part of it from step to step, and the galaxy little."""
    return abs(before.chi2 - step.chi2) < max(1.0, part * step.chi2) and step.moved < QUIET_STEP


def settle_stars(state: State, freedom: Freedom, keep: Keep, *, most: int) -> tuple[State, bool]:
    """Solve as `settle` does beside a held galaxy, after a few solves only for the stars that have not come to rest.

    From there on the kernel rests, too. The state's step stays the last one for all stars: its errors are those that
    all of them tell.
    """
    quiet, part, whole = False, freedom, state.step
    for index in range(most):
        before, stars = state.step, state.scene.stars
        solved = solve(state, part)
        state = prune(solved, keep, merge=False, solved=part.stars)
        assert state.step is not None
        whole = state.step if part is freedom else whole
        if index > 0 and before is not None:
            quiet = _is_quiet(before, state.step, QUIET_CHI2)
            if _is_quiet(before, state.step, LAST_CHI2):
                break
        if index + 1 >= WHOLE_PASSES:
            near = around(_restless(stars, solved), state.optics.frame.shape, RESTLESS_REACH * state.optics.fwhm)
            part = Freedom(stars=near)
    return replace(state, step=whole), quiet


def _restless(before: Stars, solved: State) -> Stars:
    """Those stars of a solved state that have moved by more than a part of their errors."""
    after = solved.scene.stars
    error = RESTLESS_STEP * np.sqrt(after.variance)
    steps = np.column_stack((after.flux - before.flux, after.x - before.x, after.y - before.y))
    moved = np.isfinite(error) & (np.abs(steps) > error)
    moved[:, 1:] &= before.free[:, np.newaxis]
    return after.take(np.flatnonzero(moved.any(axis=1)))


def galaxy_change(first: Galaxy, second: Galaxy) -> NDArray[np.float64]:
    """Change of places and shapes between two galaxies, in the longest steps."""
    longest = [GALAXY_STEP[name] for name in (*CENTRE_NAMES, *SHAPE_NAMES)]
    change = np.hstack((second.centres - first.centres, second.shapes - first.shapes))
    return np.asarray((change / longest).ravel())


def between(first: Galaxy, second: Galaxy, part: float) -> Galaxy:
    """Return the galaxy that has come by some part of the way from the first to the second."""
    return Galaxy(
        centres=first.centres + part * (second.centres - first.centres),
        shapes=first.shapes + part * (second.shapes - first.shapes),
        fluxes=first.fluxes + part * (second.fluxes - first.fluxes),
        # of the second one, which they belong to: they have a solve's own size at once
        modes=second.modes,
    )
