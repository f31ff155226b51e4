"""The joint fit of the base filter: galaxy, stars, sky and kernel from nothing."""

from dataclasses import dataclass, replace

import numpy as np

from sphot_mpi.config import Config
from sphot_mpi.faint_stars import flux_limits, with_faint_stars
from sphot_mpi.joint import LAST_BLEND, Keep, State, descend, prune, solve
from sphot_mpi.joint_blends import split_blends
from sphot_mpi.joint_core import with_central_stars, without_needless_component, without_stars_at_centres
from sphot_mpi.joint_galaxy import Smooth, refit, second_component
from sphot_mpi.joint_glare import start_state
from sphot_mpi.joint_measure import Measurement, measure
from sphot_mpi.joint_misfit import with_misfit
from sphot_mpi.joint_modes import LEAST_ODDS, light_left, log_odds, with_modes, with_own_modes
from sphot_mpi.joint_offset import with_crowd_as_component, with_peak_as_component
from sphot_mpi.joint_regions import centre_distance, galaxy_radius
from sphot_mpi.joint_render import Freedom, render_stars
from sphot_mpi.joint_scene import Frame, Galaxy, Optics
from sphot_mpi.joint_settle import settle_stars
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.outside_light import with_outside_light
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Image, StarExcess
from sphot_mpi.star_excess import CHANCE, STRUCTURED_CHANCE, star_density, star_excess
from sphot_mpi.structure import with_structure_noise, with_wider_errors

#: First guess of the kernel's sigma, px, when it is to be measured.
KERNEL_START = 1.0
#: Above this signal-to-noise the galaxy is refitted by itself; from it on, together with the stars.
JOINT_FROM = 10.0
#: The galaxy is solved with the stars above this signal-to-noise, whatever the ladder's end, and held afterwards.
MEASURE_SNR = 4.5
#: Stars below this signal-to-noise are forgotten once, when the galaxy has become right.
PURGE_SNR = 10.0
#: Detections at `MEASURE_SNR` after that.
MEASURE_PASSES = 2
#: Where stars crowd on the galaxy they are its structure: errors there grow by this factor, at most so often.
WIDENING, MOST_WIDENINGS = 1.6, 3
#: Kernel and shift are measured on stars beyond this many r_eff, for a galaxy is no Sersic.
KERNEL_CLEAR_RADIUS = 1.5
#: Fewest pixels for that, and fewest stars above a S/N: without them nothing would hold the kernel.
LEAST_KERNEL_PIXELS, LEAST_KERNEL_STARS, KERNEL_STAR_SNR = 2000, 5, 20.0
#: A star's position is solved this often, and afterwards only above this S/N.
SETTLED_AGE, MOVING_SNR = 3, 20.0
#: Most solves after the last detection.
SETTLE_PASSES = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BaseFit:
    """Result of the base filter's joint fit.

    Parameters
    ----------
    state : State
        The converged state.
    measurement : Measurement
        Covariance of the galaxy.
    converged : bool
        Whether the last solves were quiet.
    two_components : bool
        Whether a second component was needed.
    structured : bool
        Whether errors on the galaxy were widened because too many stars were found on it.
    faint_limits : tuple of float
        As of `flux_limits`.
    position_scatter : float
        As of `position_scatter`.
    excess : StarExcess
        The galaxy's light among the stars that it was measured with.
    """

    state: State
    measurement: Measurement
    converged: bool
    two_components: bool
    structured: bool
    faint_limits: tuple[float, ...]
    position_scatter: float
    excess: StarExcess


def fit_base_scene(frame: Frame, library: LibraryPSF, config: Config) -> BaseFit:
    """Fit the base filter.

    Parameters
    ----------
    frame : Frame
        The image.
    library : LibraryPSF
        Its library PSF.
    config : Config
        Sections psf, psf-calib, core and prep are used.

    Returns
    -------
    BaseFit
        Scene, optics and how it went.
    """
    calibrate = config.psf_calib.in_mainloop
    optics = Optics.start(library, KERNEL_START if calibrate else 0.0, frame, config.psf_calib.kernel_family)
    ladder, keep = config.psf.snr_ladder, Keep.beside_free_galaxy(config.psf.keep_snr)
    state = start_state(frame, optics, keep)
    bright = tuple(th for th in ladder if th > JOINT_FROM) or (JOINT_FROM,)
    for index, threshold in enumerate(bright):
        state = _bright_step(state, threshold, index, Freedom(kernel=calibrate), keep, config)
    joint = Freedom(kernel=calibrate, galaxy_flux=True, galaxy_shape=True)
    state = _choose_components(state, joint, keep, config)
    # what is not Sersic is measured before any star may explain it
    state = with_structure_noise(solve(state, joint))
    stars = state.scene.stars
    bright_stars = stars.take(stars.snr(frame.correlation) > KERNEL_STAR_SNR)
    state = state.with_frame(kernel_area(state.optics.frame, state.scene.galaxy, bright_stars))
    state = with_outside_light(state, weigh=True)
    state, structured = _find_galaxy(state, joint, keep, config)
    state, joint = _with_modes(state, joint, keep, config)
    state = with_outside_light(state, weigh=False)
    limits = flux_limits(state, MEASURE_SNR)
    state = free_all(with_faint_stars(state, limits))
    state, measurement = measure(state, joint, keep, most=SETTLE_PASSES, weigh=False)
    measurement, lacking = with_misfit(state, measurement), light_left(state)
    state = with_measured_stars(state)
    measured = state.scene.stars
    scatter = position_scatter(state)
    excess = star_excess(state, STRUCTURED_CHANCE if structured else CHANCE)
    # from here on the galaxy is held: its light must not hang on how deep the stars are fitted
    held, keep = Freedom(kernel=calibrate), Keep.beside_held_galaxy(config.psf.keep_snr)
    for threshold in (th for th in ladder if th < MEASURE_SNR):
        state = hold_settled(with_faint_stars(state, limits))
        state = descend(state, (threshold,), held, keep, centre_caution(state, config), first_blend=LAST_BLEND)
    state = with_outside_light(free_all(with_faint_stars(state, limits)), weigh=False)
    if config.core.light_modes:
        state = with_own_modes(state, measurement, keep, lacking=lacking, whole=False)
    state, converged = settle_stars(state, held, keep, most=SETTLE_PASSES)
    return BaseFit(
        state=replace(state, scene=state.scene.with_stars(state.scene.stars.with_gone(measured))),
        measurement=measurement,
        converged=converged and measurement.quiet,
        two_components=state.scene.galaxy is not None and state.scene.galaxy.size > 1,
        structured=structured,
        faint_limits=limits,
        position_scatter=scatter,
        excess=excess,
    )


def with_measured_stars(state: State) -> State:
    """Remember places and fluxes: other filters are measured with these, however deep the stars are fitted."""
    stars = state.scene.stars
    stars = replace(stars.as_measured(), base_flux=np.maximum(stars.flux, 0.0))
    return replace(state, scene=state.scene.with_stars(stars))


def position_scatter(state: State) -> float:
    """Median error of a star's place, px along one axis, times its flux: errors are in inverse proportion to fluxes."""
    stars = state.scene.stars
    errors = state.optics.frame.correlation * np.sqrt(stars.variance[:, 1:].mean(axis=1)) * stars.flux
    known = np.isfinite(errors) & (stars.flux > 0.0)
    return float(np.median(errors[known])) if known.any() else float("nan")


def _find_galaxy(state: State, joint: Freedom, keep: Keep, config: Config) -> tuple[State, bool]:
    """Solve the galaxy with the stars above `MEASURE_SNR`; returns whether it has structure."""
    # each step once, so that a ladder that ends above does not lead here on another path
    steps = dict.fromkeys(th for th in config.psf.snr_ladder if MEASURE_SNR < th <= JOINT_FROM)
    for index, threshold in enumerate((*steps, MEASURE_SNR)):
        caution = centre_caution(state, config)
        state = descend(state, (threshold,), joint, keep, caution, first_blend=2 + index)
    state = split_blends(state)
    state = _descend_again(state, joint, keep, config)
    peaked = with_peak_as_component(state, joint, keep) if config.core.max_components > 1 else state
    most_widenings = MOST_WIDENINGS
    if peaked is not state:
        # wider errors would take from the two components what tells them apart
        state, most_widenings = _descend_again(peaked, joint, keep, config), 0
    structured = False
    for _ in range(most_widenings):
        if not star_density(state, MEASURE_SNR).too_high:
            break
        structured = True
        state = _descend_again(with_wider_errors(state, WIDENING), joint, keep, config)
    state = without_needless_component(without_stars_at_centres(state), joint, keep)
    radius = config.psf.center_mask_r_in_fwhm * state.optics.fwhm
    return with_central_stars(state, joint, keep, radius), structured


def _with_modes(state: State, joint: Freedom, keep: Keep, config: Config) -> tuple[State, Freedom]:
    """Let the galaxy's light depart smoothly from its components, if that is likelier; returns what is free then."""
    tried = with_modes(state, joint, keep) if config.core.light_modes else None
    if tried is None:
        return state, joint
    # what were stars may be galaxy now
    found = _descend_again(*tried, keep, config)
    return (found, tried[1]) if log_odds(found, tried[1].modes) > LEAST_ODDS else (state, joint)


def _descend_again(state: State, freedom: Freedom, keep: Keep, config: Config) -> State:
    """Forget the faint stars and find them again around the galaxy as it is now known."""
    state = purge(state, freedom, keep, centre_caution(state, config))
    for _ in range(MEASURE_PASSES):
        caution = centre_caution(state, config)
        state = descend(
            hold_settled(state),
            (MEASURE_SNR,),
            freedom,
            keep,
            caution,
            first_blend=LAST_BLEND,
        )
    return state


def kernel_area(frame: Frame, galaxy: Galaxy | None, bright: Stars) -> Frame:
    """Frame whose kernel is measured off the galaxy, where there is enough of that and of bright stars on it."""
    if galaxy is None:
        return frame
    area = frame.anchored_area & (galaxy_radius(galaxy, frame.shape) > KERNEL_CLEAR_RADIUS)
    usable = area & frame.good
    enough = usable.sum() > LEAST_KERNEL_PIXELS and at(usable, bright).sum() >= LEAST_KERNEL_STARS
    return replace(frame, anchored_area=area) if enough else frame


def hold_settled(state: State) -> State:
    """Hold the positions of faint stars that have been solved often enough; they move no more, but cost as much."""
    stars = state.scene.stars
    young = (stars.age < SETTLED_AGE) | (stars.snr(state.optics.frame.correlation) > MOVING_SNR)
    moving = young & (stars.free | ~stars.anchored)
    return replace(state, scene=state.scene.with_stars(replace(stars, free=moving)))


def free_all(state: State) -> State:
    """Let all stars move."""
    stars = state.scene.stars
    return replace(state, scene=state.scene.with_stars(replace(stars, free=np.ones(stars.size, bool))))


def centre_caution(state: State, config: Config) -> Image:
    """Factor on detection thresholds: inf on the galaxy's centre, whose light is the galaxy's, 1 elsewhere."""
    galaxy = state.scene.galaxy
    if galaxy is None:
        return np.ones(state.optics.frame.shape)
    radius = config.psf.center_mask_r_in_fwhm * state.optics.fwhm
    return np.where(centre_distance(galaxy, state.optics.frame.shape) >= radius, 1.0, np.inf)


def _bright_step(state: State, threshold: float, index: int, freedom: Freedom, keep: Keep, config: Config) -> State:
    """Find and solve bright stars, then refit the galaxy on what they leave."""
    state = descend(
        state,
        (threshold,),
        freedom,
        keep,
        centre_caution(state, config),
        first_blend=index,
    )
    return with_smooth(state, refit(state.optics.frame, state.optics, star_image(state), smooth_of(state)))


def star_image(state: State) -> Image:
    """Image of all stars of a state, on the frame."""
    return render_stars(state.scene.stars, state.optics)


def smooth_of(state: State) -> Smooth:
    """Galaxy and sky of a state."""
    assert state.scene.galaxy is not None
    return Smooth(galaxy=state.scene.galaxy, sky=state.scene.sky, chi2=np.inf)


def with_smooth(state: State, smooth: Smooth) -> State:
    """Return the state with another galaxy and sky."""
    return replace(state, scene=replace(state.scene, galaxy=smooth.galaxy, sky=smooth.sky))


def _choose_components(state: State, joint: Freedom, keep: Keep, config: Config) -> State:
    """Give the galaxy a second component where the data ask for it: in a crowd's place, or with the first one's."""
    if config.core.max_components < 2:
        return state
    crowded = with_crowd_as_component(state, joint, keep)
    if crowded is not state:
        return crowded
    two = second_component(state.optics.frame, state.optics, star_image(state), smooth_of(state))
    return state if two is None else with_smooth(state, two)


def purge(state: State, freedom: Freedom, keep: Keep, caution: Image) -> State:
    """Forget faint stars that were made while the galaxy was wrong, and settle twice.

    Those that detection, under `caution`, would not find again stay.
    """
    stars = state.scene.stars
    bright = (stars.snr(state.optics.frame.correlation) > PURGE_SNR) | stars.anchored | np.isinf(at(caution, stars))
    state = replace(state, scene=state.scene.with_stars(stars.take(bright)))
    for _ in range(2):
        state = prune(solve(state, freedom), keep)
    return state
