"""The seed's main loop: galaxy, sky, stars, sky, kernel, again until galaxy and kernel are quiet."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sphot_mpi.config import Config
from sphot_mpi.records import Image, SersicParams
from sphot_mpi.seed_kernel import kernel_is_quiet, recalibrate, with_kernel, with_matched_filter
from sphot_mpi.seed_stages import SeedState, psf_sub_data, with_galaxy
from sphot_mpi.sersic import to_vector, total_flux
from sphot_mpi.sersic_result import SersicFit

#: Fits the galaxy of a state to an image, in a pass (-1: the primer).
GalaxyStep = Callable[[SeedState, Image, int], SersicFit]
StarStep = Callable[[SeedState], SeedState]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alternation:
    """Where the main loop ended."""

    state: SeedState
    fit: SersicFit
    passes: int
    converged: bool


def run(state: SeedState, galaxy_step: GalaxyStep, star_step: StarStep, limit: int, config: Config) -> Alternation:
    """Primer on the raw data, then the main loop."""
    primed = galaxy_step(state, state.cutout.data, -1)
    state = calibrated(star_step(with_galaxy(state, primed.components, config.psf)), config)
    return alternate(state, galaxy_step, star_step, limit, config)


def alternate(
    state: SeedState, galaxy_step: GalaxyStep, star_step: StarStep, limit: int, config: Config
) -> Alternation:
    """Repeat galaxy, sky, stars, sky, kernel until galaxy and kernel are quiet.

    Parameters
    ----------
    state : SeedState
        After the primer.
    galaxy_step, star_step : callable
        How the galaxy and the stars are fitted.
    limit : int
        Most passes, at least 1.
    config : Config
        ``core.mainloop_*`` decide when to stop.

    Returns
    -------
    Alternation
        `converged` if the change stayed within the tolerance for `patience` passes in a row, not before the floor.
    """
    core = config.core
    quiet, passes, converged = 0, 0, False
    while True:
        before = state
        fit = galaxy_step(state, psf_sub_data(state), passes)
        state = calibrated(star_step(with_galaxy(state, fit.components, config.psf)), config)
        passes += 1
        change = parameter_change(before.components, fit.components)
        quiet = quiet + 1 if change < core.mainloop_convergence_atol and kernel_is_quiet(before, state) else 0
        converged = quiet >= core.mainloop_convergence_patience and passes >= core.mainloop_min_iter
        if converged or passes >= limit:
            return Alternation(state=state, fit=fit, passes=passes, converged=converged)


def calibrated(state: SeedState, config: Config) -> SeedState:
    """State with a new kernel and matched filter, if the main loop is to have them."""
    if not config.psf_calib.in_mainloop:
        return state
    old = state.psf.kernel
    return with_matched_filter(with_kernel(*recalibrate(state, config)), old, config)


def cleaned_up(end: Alternation, star_step: StarStep, config: Config) -> Alternation:
    """One more photometry under the last kernel, so that what is saved belongs to it."""
    if not config.psf_calib.in_mainloop:
        return end
    return replace(end, state=star_step(with_galaxy(end.state, end.state.components, config.psf)))


def parameter_change(before: tuple[SersicParams, ...], after: tuple[SersicParams, ...]) -> float:
    """Largest change of the standardised Sersic parameters.

    Parameters
    ----------
    before, after : tuple of SersicParams
        Components; a different number of them is an infinite change.

    Returns
    -------
    float
        Over centre / r_eff, ln r_circ, ln n, the two ellipticities and ln flux: all without unit, of order one.
    """
    if len(before) != len(after):
        return float("inf")
    return max(
        float(np.abs(_standardised(a, b.r_eff) - _standardised(b, b.r_eff)).max())
        for a, b in zip(before, after, strict=True)
    )


def _standardised(params: SersicParams, length: float) -> Image:
    vector = to_vector(params)
    vector[:2] /= length
    # a component of no flux is as far from a bright one as can be
    return np.append(vector, np.log(max(total_flux(params), 1e-30)))
