"""The joint fit of another filter: the base filter's shape and stars, this filter's light."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.config import Config
from sphot_mpi.config_sections import Positions
from sphot_mpi.faint_stars import with_faint_stars
from sphot_mpi.flags import FitFlag
from sphot_mpi.galaxy_modes import whole_modes
from sphot_mpi.joint import BLEND_LADDER, LAST_BLEND, Keep, State, add_stars, descend, prune, solve
from sphot_mpi.joint_anchors import (
    drop_dark,
    free_bright,
    free_displaced,
    held_to_colour,
    on_galaxy,
    sources_above,
    with_anchors,
    with_colour_prior,
    without_strays,
)
from sphot_mpi.joint_base import (
    KERNEL_STAR_SNR,
    KERNEL_START,
    MEASURE_SNR,
    centre_caution,
    hold_settled,
    kernel_area,
)
from sphot_mpi.joint_core import with_central_stars
from sphot_mpi.joint_galaxy import no_stars
from sphot_mpi.joint_measure import Measurement, measure
from sphot_mpi.joint_misfit import with_misfit
from sphot_mpi.joint_modes import light_left, with_own_modes
from sphot_mpi.joint_profile import Shaped, place_covariance, with_last_place, with_own_shape
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_scene import PAD, Frame, Optics, Scene, galaxy_of
from sphot_mpi.joint_settle import settle, settle_stars
from sphot_mpi.joint_sources import Stars, around
from sphot_mpi.joint_trial import MOST_DISPLACED, displaced
from sphot_mpi.outside_light import with_outside_light
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import FilterFit, Image, StarExcess
from sphot_mpi.sersic import total_flux
from sphot_mpi.star_excess import excess_of_same_stars
from sphot_mpi.structure import structure_factor

#: Least part of the image that both filters must cover to measure kernel and shift there alone.
LEAST_COMMON = 0.1
#: Detection in this filter ends here: what is fainter is left to the anchors.
LEAST_NEW_SNR = 3.0
#: Least S/N of a galaxy before which a star is looked for.
LEAST_SEEN_SNR = 5.0
#: Least S/N of a galaxy whose place follows what the last stars leave.
LEAST_FOLLOWED_SNR = 3.0
#: Solves of the pinned stars: without, then with kernel and shift.
PINNED_PASSES = (2, 3)
#: Most solves of a measurement, shape pinned and free; and after the last detection, with the galaxy's place and
#: without.
SETTLE_PASSES, REFIT_PASSES, PLACE_PASSES, LAST_PASSES = 4, 10, 16, 8
#: Most solves after that for held stars that move once more, and how far from these, FWHM, others are solved for, too.
MOVE_PASSES, NEAR_FWHM = 4, 2.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledFit:
    """Result of another filter's joint fit.

    Parameters
    ----------
    state : State
        The converged state.
    measurement : Measurement
        Covariance of the galaxy.
    converged : bool
        Whether the last solves were quiet.
    own : FitFlag
        What of the galaxy's shape is this filter's own, or may be: `OWN_PROFILE`, `DISPLACED`, `WINGS_UNTOLD`,
        `SHAPE_WEIGHED`.
    excess : StarExcess
        The galaxy's light among the stars that it was measured with.
    """

    state: State
    measurement: Measurement
    converged: bool
    own: FitFlag
    excess: StarExcess


def fit_scaled_scene(
    frame: Frame, library: LibraryPSF, base: FilterFit, covered: NDArray[np.bool_], config: Config, positions: Positions
) -> ScaledFit:
    """Fit one filter with the base filter's galaxy shape and star positions.

    Parameters
    ----------
    frame : Frame
        The image.
    library : LibraryPSF
        Its library PSF.
    base : FilterFit
        The base filter's fit, in the same cutout frame.
    covered : (ny, nx) bool ndarray
        Usable pixels of the base filter's cutout.
    config : Config
        Sections psf and psf-calib are used.
    positions : str
        "anchored": the base filter's stars and what the residual adds; "forced": those stars only; "free": none of
        them, all found anew.

    Returns
    -------
    ScaledFit
        Scene and optics.
    """
    calibrate = config.psf_calib.in_mainloop
    covered = np.pad(covered, PAD, mode="edge")
    state = _start(frame, library, base, covered, config, positions)
    if positions == "free":
        covered = np.zeros_like(covered)
    upper, lower = _ladders(config, positions)
    keep = Keep.beside_free_galaxy(config.psf.keep_snr)
    state = _find_scale(state, base, covered, upper, config, positions)
    if config.core.allow_refit:
        joint, most = Freedom(kernel=calibrate, galaxy_flux=True, galaxy_shape=True), REFIT_PASSES
    else:
        joint, most = Freedom(kernel=calibrate, shift=True, galaxy_scale=True), SETTLE_PASSES
    state = with_outside_light(state, weigh=True)
    start = state
    shaped = _measured(start, base, joint, keep, config, most)
    if (
        positions != "forced"
        and _is_seen(shaped.state, shaped.measurement, LEAST_SEEN_SNR)
        and not held_to_colour(shaped.state.scene.stars).any()
        and not whole_modes(base.modes)
    ):
        # a star that only this filter shows before the centre; it may have been what pulled at a profile
        radius = config.psf.center_mask_r_in_fwhm * shaped.state.optics.fwhm
        for seen in (shaped.state, shaped.refused):
            if seen is not None and (starred := with_central_stars(seen, joint, keep, radius)) is not seen:
                shaped = _measured(_with_galaxy_of(starred, start), base, joint, keep, config, most)
                break
    state, measurement = shaped.state, shaped.measurement
    followed = _is_seen(state, measurement, LEAST_FOLLOWED_SNR)
    measurement, excess = with_misfit(state, measurement), _excess(state, base)
    lacking = light_left(state)
    measured = state.scene.stars.as_measured()
    state = replace(state, scene=state.scene.with_stars(measured))
    # from here on the galaxy is held: its light must not hang on how deep the stars are fitted
    held, keep = Freedom(kernel=calibrate), Keep.beside_held_galaxy(config.psf.keep_snr)
    if positions != "free":
        state = with_anchors(state, base, measured=False)
        state = solve(_with_prior(solve(state, held), base, config), held)
    if positions != "forced":
        # where the galaxy is not seen, what stands out at its centre is no structure of it, nor is its light
        bright = _is_seen(state, measurement, LEAST_SEEN_SNR)
        caution = _caution(state, base, covered, config) if bright else structure_factor(state)
        state = _add_new(state, base, held, keep, caution, lower, positions)
    state = with_outside_light(with_faint_stars(state, base.faint_limits), weigh=False)
    place = FitFlag(0)
    if followed:
        state, measurement, place = _placed(state, measurement, keep)
    # a galaxy that stands elsewhere had pulled at stars, too
    state = state if positions == "forced" else free_displaced(state)
    if config.core.light_modes:
        state = with_own_modes(state, measurement, keep, lacking=lacking, whole=True)
    state, converged = settle_stars(state, held, keep, most=LAST_PASSES)
    state = without_strays(state if positions == "forced" else _with_last_moves(state, keep))
    return ScaledFit(
        state=replace(state, scene=state.scene.with_stars(state.scene.stars.with_gone(measured))),
        measurement=measurement,
        converged=converged and measurement.quiet,
        own=shaped.own | place,
        excess=excess,
    )


def _placed(state: State, measurement: Measurement, keep: Keep) -> tuple[State, Measurement, FitFlag]:
    """Let the galaxy's place follow what all stars leave beside its held light, no farther than the same one would.

    The measurement comes back with what is known of the place, and `DISPLACED` if the galaxy has moved.
    """
    galaxy = state.scene.galaxy
    assert galaxy is not None
    moved, freer = with_last_place(state)
    if freer is None:
        return moved, measurement, FitFlag(0)
    settled, _ = settle(moved, freer, keep, most=PLACE_PASSES)
    assert settled.scene.galaxy is not None
    change = (settled.scene.galaxy.centres - galaxy.centres)[galaxy.main]
    if np.hypot(*change) < MOST_DISPLACED * galaxy.half_light_radius():
        return settled, replace(measurement, place=place_covariance(settled)), displaced(change)
    return state, measurement, FitFlag(0)


def _with_last_moves(state: State, keep: Keep) -> State:
    """Let stars move, beside those near them, of which only the last settling has shown that they should."""
    freed, before = free_displaced(state), state.scene.stars
    stars = freed.scene.stars
    changed = (stars.free != before.free) | (stars.anchored != before.anchored)
    if not changed.any():
        return state
    near = around(stars.take(changed), state.optics.frame.shape, NEAR_FWHM * state.optics.fwhm)
    settled, _ = settle(freed, Freedom(stars=near), keep, most=MOVE_PASSES)
    # errors of what all stars tell are those of the last solve for all
    return replace(settled, step=state.step)


def _excess(state: State, base: FilterFit) -> StarExcess:
    """The galaxy's light among the stars that it was measured with."""
    assert state.scene.galaxy is not None
    flux = sum(total_flux(c) for c in base.components)
    ratio = float(state.scene.galaxy.fluxes.sum()) / flux if flux > 0.0 else 0.0
    return excess_of_same_stars(state, base.excess, max(ratio, 0.0))


def _is_seen(state: State, measurement: Measurement, snr: float) -> bool:
    """Whether the galaxy has at least this S/N here."""
    assert state.scene.galaxy is not None
    return bool(state.scene.galaxy.fluxes.sum() > snr * measurement.flux_error)


def _measured(state: State, base: FilterFit, joint: Freedom, keep: Keep, config: Config, most: int) -> Shaped:
    """Measure the galaxy, with a shape of its own where it needs one.

    Stars that turn out to have filled what its model leaves are held, and it is measured anew: that is its light.
    """
    found = _measured_beside(state, joint, keep, config, most)
    held = _with_prior(found.state, base, config)
    if held_to_colour(held.scene.stars).any() and not held_to_colour(found.state.scene.stars).any():
        return _measured_beside(_with_galaxy_of(held, state), joint, keep, config, most)
    return found


def _with_galaxy_of(state: State, before: State) -> State:
    """Return the state with the galaxy that it had before, where the common shift has come to since."""
    galaxy = before.scene.galaxy
    assert galaxy is not None
    centres = galaxy.centres + (state.scene.shift - before.scene.shift)
    return replace(state, scene=replace(state.scene, galaxy=replace(galaxy, centres=centres)))


def _measured_beside(state: State, joint: Freedom, keep: Keep, config: Config, most: int) -> Shaped:
    """Measure the galaxy beside the stars as they are held."""
    state, measurement = measure(state, joint, keep, most=most)
    if not config.core.profile_by_filter or config.core.allow_refit:
        return Shaped(state=state, measurement=measurement)
    return with_own_shape(state, measurement, joint, keep)


def _find_scale(
    state: State,
    base: FilterFit,
    covered: NDArray[np.bool_],
    ladder: tuple[float, ...],
    config: Config,
    positions: Positions,
) -> State:
    """Solve the galaxy's scale, kernel and shift with the stars that are bright here or in the base filter."""
    calibrate, keep = config.psf_calib.in_mainloop, Keep.beside_free_galaxy(config.psf.keep_snr)
    if positions != "free":
        state = with_anchors(state, base, measured=True)
    pinned = Freedom(galaxy_scale=True)
    for _ in range(PINNED_PASSES[0]):
        state = solve(state, pinned)
    if positions != "forced":
        state = _fill_uncovered(state, covered, pinned, keep, ladder, config)
    joint = Freedom(galaxy_scale=True, kernel=calibrate, shift=True)
    for _ in range(PINNED_PASSES[1]):
        state = with_faint_stars(solve(_with_prior(state, base, config), joint), base.faint_limits)
    if positions != "forced":
        caution = _caution(state, base, covered, config)
        state = _add_new(free_bright(state), base, joint, keep, caution, ladder, positions)
    # the measurement finds the galaxy, not places
    return state if positions == "free" else hold_settled(state)


def _with_prior(state: State, base: FilterFit, config: Config) -> State:
    """Return the state with the colour prior, if there is to be one."""
    if not config.psf.colour_prior:
        return state
    return with_colour_prior(state, bool(base.flags & FitFlag.STRUCTURED))


def _caution(state: State, base: FilterFit, covered: NDArray[np.bool_], config: Config) -> Image:
    """Factor on detection thresholds: what the base filter's shape cannot follow must not be filled with stars."""
    caution = structure_factor(state) * centre_caution(state, config)
    if base.flags & FitFlag.STRUCTURED or held_to_colour(state.scene.stars).any():
        caution[on_galaxy(state) & covered] = np.inf
    return caution


def _start(
    frame: Frame, library: LibraryPSF, base: FilterFit, covered: NDArray[np.bool_], config: Config, positions: Positions
) -> State:
    """Put up the base filter's galaxy and stars, these only if not free, and say where the kernel is measured."""
    if (frame.good & covered).sum() > LEAST_COMMON * frame.good.sum():
        frame = replace(frame, anchored_area=covered)
    # free stars follow any shift, so that the galaxy must tell it
    bright = sources_above(base, np.inf if positions == "free" else KERNEL_STAR_SNR)
    bright_stars = Stars.new(bright["x_fit"] + PAD, bright["y_fit"] + PAD, bright["flux_fit"])
    frame = kernel_area(frame, galaxy_of(base.components), bright_stars)
    if positions != "free":
        frame = replace(frame, found_fwhm=base.kernel.fwhm)
    sigma = KERNEL_START if config.psf_calib.in_mainloop else 0.0
    optics = Optics.start(library, sigma, frame, config.psf_calib.kernel_family)
    return State.start(_first_scene(frame, base), optics)


def _fill_uncovered(
    state: State, covered: NDArray[np.bool_], freedom: Freedom, keep: Keep, ladder: tuple[float, ...], config: Config
) -> State:
    """Find the stars where the base filter saw nothing; unknown, they would be made up for by the kernel."""
    caution = np.where(covered, np.inf, centre_caution(state, config))
    if (np.isfinite(caution) & state.optics.frame.good).any():
        for threshold in ladder:
            found = add_stars(state, threshold, BLEND_LADDER[LAST_BLEND], caution)
            if found.scene.stars.size > state.scene.stars.size:
                state = prune(solve(found, freedom), keep)
    return state


def _add_new(
    state: State,
    base: FilterFit,
    freedom: Freedom,
    keep: Keep,
    caution: Image,
    ladder: tuple[float, ...],
    positions: Positions,
) -> State:
    """Find what the base filter's stars leave."""
    for threshold in ladder:
        state = with_faint_stars(drop_dark(state), base.faint_limits)
        # free stars were found under the first kernel and shift: none is settled yet
        state = state if positions == "free" else hold_settled(state)
        state = descend(state, (threshold,), freedom, keep, caution, first_blend=LAST_BLEND)
    return state


def _ladders(config: Config, positions: Positions) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Detection steps to `MEASURE_SNR` and below it.

    Free stars take all of them; where faint stars are anchored it is every other one, to `LEAST_NEW_SNR`.
    """
    steps = config.psf.snr_ladder
    above = (*dict.fromkeys(th for th in steps if th > MEASURE_SNR), MEASURE_SNR)
    below = tuple(th for th in steps if th < MEASURE_SNR)
    if positions == "free":
        return above, below
    return above[::-2][::-1], tuple(dict.fromkeys(th for th in below if th >= LEAST_NEW_SNR))[-1:]


def _first_scene(frame: Frame, base: FilterFit) -> Scene:
    """The base filter's galaxy on the median as sky, without stars."""
    galaxy = galaxy_of(base.components, whole_modes(base.modes))
    sky = float(np.median(frame.data[frame.good]))
    return Scene(stars=no_stars(), galaxy=galaxy, sky=np.array([sky, 0.0, 0.0]))
