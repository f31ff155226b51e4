"""The joint fit of another filter: the base filter's shape and stars, this filter's light."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.config import Config
from sphot_mpi.config_sections import Positions
from sphot_mpi.faint_stars import with_faint_stars
from sphot_mpi.flags import FitFlag
from sphot_mpi.joint import BLEND_LADDER, LAST_BLEND, Keep, State, add_stars, descend, prune, settle, solve
from sphot_mpi.joint_base import (
    KERNEL_STAR_SNR,
    KERNEL_START,
    MEASURE_SNR,
    centre_caution,
    hold_settled,
    kernel_area,
)
from sphot_mpi.joint_core import with_central_stars
from sphot_mpi.joint_galaxy import galaxy_of, galaxy_radius, no_stars
from sphot_mpi.joint_measure import Measurement, measure
from sphot_mpi.joint_profile import with_last_place, with_own_shape
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_scene import PAD, Frame, Optics, Scene, Stars, at
from sphot_mpi.outside_light import with_outside_light
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import FilterFit, Image, StarExcess
from sphot_mpi.robust import robust_sigma
from sphot_mpi.star_excess import excess_of_same_stars
from sphot_mpi.structure import structure_factor

#: Base sources used as anchors: least S/N there, and range of their position error, px.
LEAST_BASE_SNR = 2.0
ANCHOR_SIGMA = (0.01, 0.5)
#: Above this S/N a star's wings are seen where its core has no data.
SHINING_SNR = 200.0
#: Most anchors per PSF area; more cannot be told apart.
ANCHORS_PER_PSF = 3.0
#: Stars above this S/N tell the typical colour; fewest of them.
COLOUR_SNR, COLOUR_STARS = 10.0, 8
#: Range of the scatter of ln(flux ratio) that the colour prior allows.
COLOUR_SCATTER = (0.3, 1.0)
#: Stars within this many r_eff of a galaxy with structure keep to the typical colour this closely.
STRUCTURE_RADIUS, HELD_SCATTER = 2.0, 0.002
#: Light of anchored stars on the galaxy over that expected, and the sigmas of that, above which it is the galaxy's;
#: and the largest scatter of colours with which anything is expected.
MOST_EXCESS, SIGNIFICANT, MOST_SCATTER = 1.3, 3.0, 0.4
#: An anchored star above this S/N moves within its prior until it is settled.
FREE_SNR = 30.0
#: Least part of the image that both filters must cover to measure kernel and shift there alone.
LEAST_COMMON = 0.1
#: Detection in this filter ends here: what is fainter is left to the anchors.
LEAST_NEW_SNR = 3.0
#: Anchored stars below this S/N are dropped: a dark star only makes room for somebody else's light.
LEAST_ANCHORED_SNR = 0.0
#: Least S/N of a galaxy before which a star is looked for.
LEAST_SEEN_SNR = 5.0
#: Solves of the pinned stars: without, then with kernel and shift.
PINNED_PASSES = (2, 3)
#: Most solves after the last detection: shape pinned, and shape free.
SETTLE_PASSES, REFIT_PASSES = 4, 10


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
        What of the galaxy's shape is this filter's own, or may be: `OWN_PROFILE`, `DISPLACED`, `WINGS_UNTOLD`.
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
    state, measurement, own = _measured(start, base, joint, keep, config, most)
    if positions != "forced" and _is_seen(state, measurement) and not held_to_colour(state.scene.stars).any():
        # a star that only this filter shows before the centre
        radius = config.psf.center_mask_r_in_fwhm * state.optics.fwhm
        starred = with_central_stars(state, joint, keep, radius)
        if starred is not state:
            starred = _with_galaxy_of(starred, start)
            state, measurement, own = _measured(starred, base, joint, keep, config, most)
    excess = _excess(state, base)
    # from here on the galaxy is held: its light must not hang on how deep the stars are fitted
    held, keep = Freedom(kernel=calibrate), Keep.beside_held_galaxy(config.psf.keep_snr)
    if positions != "free":
        state = _with_anchors(state, base, measured=False)
        state = solve(_with_prior(solve(state, held), base, config), held)
    if positions != "forced":
        state = _add_new(state, base, held, keep, _caution(state, base, covered, config), lower, positions)
    state = with_outside_light(with_faint_stars(state, base.faint_limits), weigh=False)
    if _is_seen(state, measurement):
        state, held = with_last_place(state, held)
    state, converged = settle(state, held, keep, most=SETTLE_PASSES)
    return ScaledFit(
        state=state, measurement=measurement, converged=converged and measurement.quiet, own=own, excess=excess
    )


def _excess(state: State, base: FilterFit) -> StarExcess:
    """The galaxy's light among the stars that it was measured with."""
    assert state.scene.galaxy is not None
    flux = base.total_flux - base.excess.flux
    ratio = float(state.scene.galaxy.fluxes.sum()) / flux if flux > 0.0 else 0.0
    return excess_of_same_stars(state, base.excess, max(ratio, 0.0))


def _is_seen(state: State, measurement: Measurement) -> bool:
    """Whether the galaxy is bright enough here to be told from a star before its centre."""
    assert state.scene.galaxy is not None
    return bool(state.scene.galaxy.fluxes.sum() > LEAST_SEEN_SNR * measurement.flux_error)


def _measured(
    state: State, base: FilterFit, joint: Freedom, keep: Keep, config: Config, most: int
) -> tuple[State, Measurement, FitFlag]:
    """Measure the galaxy, with a shape of its own where it needs one; returns what it needed.

    Stars that turn out to have filled what its model leaves are held, and it is measured anew: that is its light.
    """
    found = _measured_beside(state, joint, keep, config, most)
    held = _with_prior(found[0], base, config)
    if held_to_colour(held.scene.stars).any() and not held_to_colour(found[0].scene.stars).any():
        return _measured_beside(_with_galaxy_of(held, state), joint, keep, config, most)
    return found


def _with_galaxy_of(state: State, before: State) -> State:
    """Return the state with the galaxy that it had before, where the common shift has come to since."""
    galaxy = before.scene.galaxy
    assert galaxy is not None
    centres = galaxy.centres + (state.scene.shift - before.scene.shift)
    return replace(state, scene=replace(state.scene, galaxy=replace(galaxy, centres=centres)))


def _measured_beside(
    state: State, joint: Freedom, keep: Keep, config: Config, most: int
) -> tuple[State, Measurement, FitFlag]:
    """Measure the galaxy beside the stars as they are held."""
    state, measurement = measure(state, joint, keep, most=most)
    if not config.core.profile_by_filter or config.core.allow_refit:
        return state, measurement, FitFlag(0)
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
        state = _with_anchors(state, base, measured=True)
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
        state = _add_new(_free_bright(state), base, joint, keep, caution, ladder, positions)
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
    bright = _sources_above(base, np.inf if positions == "free" else KERNEL_STAR_SNR)
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
        state = with_faint_stars(_drop_dark(state), base.faint_limits)
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
    galaxy = galaxy_of(base.components)
    sky = float(np.median(frame.data[frame.good]))
    return Scene(stars=no_stars(), galaxy=galaxy, sky=np.array([sky, 0.0, 0.0]))


def _with_anchors(state: State, base: FilterFit, *, measured: bool) -> State:
    """Add the base filter's sources that its galaxy was measured with, or the others, pinned.

    If there are too many to be told apart, it is the brightest.
    """
    table = _sources_above(base, -np.inf)
    known = table["flux_init"] > 0.0
    table = table[known if measured else ~known & (table["snr"] > LEAST_BASE_SNR)]
    stem = "init" if measured else "fit"
    order = np.argsort(-table[f"flux_{stem}"], kind="stable")
    stamp = state.optics.stars.sampled(state.optics.core_radius)
    most = int(ANCHORS_PER_PSF * state.optics.frame.good.sum() * (stamp**2).sum()) - state.scene.stars.size
    table = table[np.sort(order[: max(most, 0)])]
    x, y = (table[f"{axis}_{stem}"] + PAD + moved for axis, moved in zip("xy", state.scene.shift, strict=True))
    # one law for all, since single errors hang on the depth
    sigma = np.clip(np.nan_to_num(base.position_scatter / table[f"flux_{stem}"], nan=0.5, posinf=0.5), *ANCHOR_SIGMA)
    stars = replace(
        Stars.new(x, y, np.zeros(x.size)),
        anchor_sigma=sigma,
        base_id=table["id"].astype(np.int64),
        base_flux=table[f"flux_{stem}"].astype(np.float64),
        free=np.zeros(x.size, bool),
    )
    usable = at(state.optics.matched.covered, stars) | (table["snr"] > SHINING_SNR)
    return replace(state, scene=state.scene.with_stars(state.scene.stars.join(stars.take(usable))))


def _sources_above(base: FilterFit, snr: float) -> NDArray[np.void]:
    """The base filter's sources above a signal-to-noise."""
    table = base.sources
    finite = np.isfinite(table["x_fit"]) & np.isfinite(table["y_fit"]) & np.isfinite(table["flux_fit"])
    return np.asarray(table[finite & (table["snr"] > snr)])


def _free_bright(state: State) -> State:
    """Let the brighter anchored stars move within their prior, as new ones whose flux is known."""
    stars = state.scene.stars
    bright = stars.anchored & (stars.snr(state.optics.frame.correlation) > FREE_SNR)
    stars = replace(stars, free=stars.free | bright, age=np.where(bright, 1, stars.age))
    return replace(state, scene=state.scene.with_stars(stars))


def on_galaxy(state: State) -> NDArray[np.bool_]:
    """Frame pixels where the galaxy's structure would be taken for stars."""
    assert state.scene.galaxy is not None
    return galaxy_radius(state.scene.galaxy, state.optics.frame.shape) < STRUCTURE_RADIUS


def with_colour_prior(state: State, structured: bool) -> State:
    """Expect of every anchored star the typical colour, within the scatter of the bright stars' colours.

    Where several anchors share one PSF only their sum is measured; the prior shares it out in proportion to the base
    filter's fluxes instead of in pairs of huge fluxes of opposite sign. Stars on a galaxy with structure that are
    brighter than that are held to it: the rest is a lump of the galaxy. So are those on any galaxy where they are
    brighter than the field's stars as a whole, for then they have filled what its model leaves.
    """
    stars = state.scene.stars
    known = (stars.base_flux > 0.0) & stars.anchored
    bright = known & (stars.snr(state.optics.frame.correlation) > COLOUR_SNR)
    if bright.sum() < COLOUR_STARS:
        return state
    ratio = np.log(stars.flux[bright] / stars.base_flux[bright])
    centre = float(np.median(ratio))
    scatter = float(np.clip(robust_sigma(ratio), *COLOUR_SCATTER))
    expected = np.exp(centre) * stars.base_flux
    width = np.full(stars.size, scatter)
    inside, held = at(on_galaxy(state), stars), known & held_to_colour(stars)
    # once held, they are in excess no more
    if structured or held.any() or light_excess(stars, known, inside, scatter):
        too_bright = stars.flux > expected * np.exp(scatter)
        width[inside & (too_bright | held)] = HELD_SCATTER
    return replace(
        state,
        scene=state.scene.with_stars(
            replace(
                stars,
                prior_flux=np.where(known, expected, 0.0),
                prior_sigma=np.where(known, width * expected, np.inf),
            )
        ),
    )


def held_to_colour(stars: Stars) -> NDArray[np.bool_]:
    """True for stars that are held to the typical colour, because what they would take is the galaxy's."""
    return stars.prior_sigma < 2.0 * HELD_SCATTER * stars.prior_flux


def light_excess(stars: Stars, known: NDArray[np.bool_], inside: NDArray[np.bool_], scatter: float) -> bool:
    """Whether anchored stars on the galaxy are significantly brighter, by their base fluxes, than those off it.

    Parameters
    ----------
    stars : Stars
        Solved in this filter.
    known, inside : (n,) bool ndarray
        Stars with a base flux; stars on the galaxy.
    scatter : float
        Of ln(flux ratio).
    """
    field = known & ~inside
    base = stars.base_flux[known & inside]
    if not field.any() or base.size == 0 or scatter > MOST_SCATTER:
        return False
    ratio = stars.flux[field].sum() / stars.base_flux[field].sum()
    light = stars.flux[known & inside].sum()
    chance = scatter * np.sqrt((base**2).sum()) * ratio
    return bool(light > MOST_EXCESS * ratio * base.sum() and light - ratio * base.sum() > SIGNIFICANT * chance)


def _drop_dark(state: State) -> State:
    """Drop anchored stars whose flux is negative."""
    stars = state.scene.stars
    bright = stars.snr(state.optics.frame.correlation) > LEAST_ANCHORED_SNR
    return replace(state, scene=state.scene.with_stars(stars.take(bright | ~stars.anchored)))
