"""The joint fit of another filter: the base filter's shape and stars, this filter's light."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.config import Config, Positions
from sphot_mpi.flags import FitFlag
from sphot_mpi.joint import LAST_BLEND, State, at, descend, settle, solve
from sphot_mpi.joint_base import KERNEL_STAR_SNR, KERNEL_START, centre_caution, hold_settled, kernel_area
from sphot_mpi.joint_galaxy import galaxy_of, galaxy_radius, robust_sigma
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_scene import PAD, Frame, Optics, Scene, Stars
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import FilterFit, Image
from sphot_mpi.structure import structure_factor, with_faint_stars

#: Base sources used as anchors: least S/N there, and range of their position error, px.
ANCHOR_SNR = 2.0
ANCHOR_SIGMA = (0.01, 0.5)
#: Most anchors per PSF area; more cannot be told apart.
ANCHORS_PER_PSF = 3.0
#: Stars above this S/N tell the typical colour; fewest of them.
COLOUR_SNR, COLOUR_STARS = 10.0, 8
#: Range of the scatter of ln(flux ratio) that the colour prior allows.
COLOUR_SCATTER = (0.3, 1.0)
#: Stars within this many r_eff of a galaxy with structure keep to the typical colour this closely.
STRUCTURE_RADIUS, HELD_SCATTER = 1.5, 0.002
#: An anchored star above this S/N is free to move within its prior; most of them.
FREE_SNR, MOST_FREE = 30.0, 150
#: Least part of the image that both filters must cover to measure kernel and shift there alone.
LEAST_COMMON = 0.1
#: Detection in this filter ends here: what is fainter is left to the anchors.
LEAST_NEW_SNR = 4.5
#: Anchored stars below this S/N are dropped: a dark star only makes room for somebody else's light.
LEAST_ANCHORED_SNR = 0.0
#: Solves of the pinned stars: without, then with kernel and shift.
PINNED_PASSES = (2, 3)
#: Most solves after the last detection: shape pinned, and shape free.
SETTLE_PASSES, REFIT_PASSES = 3, 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledFit:
    """Result of another filter's joint fit: the converged state, and whether it was quiet."""

    state: State
    converged: bool


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
    state = _start(frame, library, base, covered, KERNEL_START if calibrate else 0.0, positions)
    if positions == "free":
        covered = np.zeros_like(covered)
    pinned = Freedom(galaxy_scale=True)
    for _ in range(PINNED_PASSES[0]):
        state = solve(state, pinned)
    if positions != "forced":
        state = _fill_uncovered(state, covered, pinned, config, positions)
    joint = Freedom(galaxy_scale=True, kernel=calibrate, shift=True)
    structured = bool(base.flags & FitFlag.STRUCTURED)
    for _ in range(PINNED_PASSES[1]):
        if config.psf.colour_prior:
            state = with_colour_prior(state, structured)
        state = with_faint_stars(solve(state, joint), base.faint_limits)
    if positions != "forced":
        # what the base filter's shape cannot follow in this filter must not be filled with stars
        caution = structure_factor(state) * centre_caution(state, config)
        if structured:
            caution[on_galaxy(state) & covered] = np.inf
        state = _add_new(_free_bright(state), base, joint, caution, config, positions)
    if config.core.allow_refit:
        joint = replace(joint, galaxy_scale=False, shift=False, galaxy_flux=True, galaxy_shape=True)
    most = REFIT_PASSES if config.core.allow_refit else SETTLE_PASSES
    state, converged = settle(state, joint, config.psf.keep_snr, most=most)
    return ScaledFit(state=state, converged=converged)


def _start(
    frame: Frame, library: LibraryPSF, base: FilterFit, covered: NDArray[np.bool_], sigma: float, positions: Positions
) -> State:
    """Put up the base filter's galaxy and stars, these only if not free, and say where the kernel is measured."""
    if (frame.good & covered).sum() > LEAST_COMMON * frame.good.sum():
        frame = replace(frame, anchored_area=covered)
    # free stars follow any shift, so that the galaxy must tell it
    bright = _sources_above(base, np.inf if positions == "free" else KERNEL_STAR_SNR)
    bright_stars = Stars.new(bright["x_fit"] + PAD, bright["y_fit"] + PAD, bright["flux_fit"])
    frame = kernel_area(frame, galaxy_of(base.components), bright_stars)
    state = State.start(_first_scene(frame, base), Optics.start(library, sigma, frame))
    return state if positions == "free" else _with_anchors(state, base)


def _fill_uncovered(
    state: State, covered: NDArray[np.bool_], freedom: Freedom, config: Config, positions: Positions
) -> State:
    """Find the stars where the base filter saw nothing; unknown, they would be made up for by the kernel."""
    caution = np.where(covered, np.inf, centre_caution(state, config))
    if (np.isfinite(caution) & state.optics.frame.good).any():
        for threshold in _ladder(config, positions):
            state = descend(state, (threshold,), freedom, config.psf.keep_snr, caution, first_blend=LAST_BLEND)
    return state


def _add_new(
    state: State, base: FilterFit, freedom: Freedom, caution: Image, config: Config, positions: Positions
) -> State:
    """Find what the base filter's stars leave."""
    for threshold in _ladder(config, positions):
        state = with_faint_stars(_drop_dark(state), base.faint_limits)
        # free stars were found under the first kernel and shift: none is settled yet
        state = state if positions == "free" else hold_settled(state)
        state = descend(state, (threshold,), freedom, config.psf.keep_snr, caution, first_blend=LAST_BLEND)
    return state


def _ladder(config: Config, positions: Positions) -> tuple[float, ...]:
    """Detection steps: all of them, or where faint stars are anchored every other one to `LEAST_NEW_SNR`."""
    if positions == "free":
        return config.psf.snr_ladder
    steps = tuple(dict.fromkeys(th for th in config.psf.snr_ladder if th >= LEAST_NEW_SNR))
    return steps[::-2][::-1]


def _first_scene(frame: Frame, base: FilterFit) -> Scene:
    """The base filter's galaxy on the median as sky, without stars."""
    galaxy = galaxy_of(base.components)
    none = Stars.new(np.zeros(0), np.zeros(0), np.zeros(0))
    sky = float(np.median(frame.data[frame.good]))
    return Scene(stars=none, galaxy=galaxy, sky=np.array([sky, 0.0, 0.0]))


def _with_anchors(state: State, base: FilterFit) -> State:
    """Put the base filter's sources into the scene, pinned, the most significant if there are too many."""
    table = _sources_above(base, ANCHOR_SNR)
    order = np.argsort(-table["snr"], kind="stable")
    stamp = state.optics.stars.sampled(state.optics.core_radius)
    most = int(ANCHORS_PER_PSF * state.optics.frame.good.sum() * (stamp**2).sum())
    table = table[np.sort(order[:most])]
    x, y = table["x_fit"] + PAD, table["y_fit"] + PAD
    sigma = np.clip(np.nan_to_num(np.hypot(table["x_err"], table["y_err"]) / np.sqrt(2.0), nan=0.5), *ANCHOR_SIGMA)
    stars = replace(
        Stars.new(x, y, np.zeros(x.size)),
        anchor_sigma=sigma,
        base_id=table["id"].astype(np.int64),
        base_flux=table["flux_fit"].astype(np.float64),
        free=np.zeros(x.size, bool),
    )
    usable = at(state.matched.covered, stars)
    return replace(state, scene=state.scene.with_stars(stars.take(usable)))


def _sources_above(base: FilterFit, snr: float) -> NDArray[np.void]:
    """The base filter's sources above a signal-to-noise."""
    table = base.sources
    finite = np.isfinite(table["x_fit"]) & np.isfinite(table["y_fit"]) & np.isfinite(table["flux_fit"])
    return np.asarray(table[finite & (table["snr"] > snr)])


def _free_bright(state: State) -> State:
    """Let the brightest anchored stars move within their prior."""
    stars = state.scene.stars
    snr = stars.snr(state.optics.frame.correlation)
    bright = np.flatnonzero(snr > FREE_SNR)
    chosen = bright[np.argsort(-snr[bright], kind="stable")][:MOST_FREE]
    free = stars.free.copy()
    free[chosen] = True
    return replace(state, scene=state.scene.with_stars(replace(stars, free=free)))


def on_galaxy(state: State) -> NDArray[np.bool_]:
    """Frame pixels where the galaxy's structure would be taken for stars."""
    assert state.scene.galaxy is not None
    return galaxy_radius(state.scene.galaxy, state.optics.frame.shape) < STRUCTURE_RADIUS


def with_colour_prior(state: State, structured: bool) -> State:
    """Expect of every anchored star the typical colour, within the scatter of the bright stars' colours.

    Where several anchors share one PSF only their sum is measured; the prior shares it out in proportion to the base
    filter's fluxes instead of in pairs of huge fluxes of opposite sign. Stars on a galaxy with structure that are
    brighter than that are held to it: the rest is a lump of the galaxy.
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
    if structured:
        too_bright = stars.flux > expected * np.exp(scatter)
        width[at(on_galaxy(state), stars) & too_bright] = HELD_SCATTER
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


def _drop_dark(state: State) -> State:
    """Drop anchored stars whose flux is negative."""
    stars = state.scene.stars
    bright = stars.snr(state.optics.frame.correlation) > LEAST_ANCHORED_SNR
    return replace(state, scene=state.scene.with_stars(stars.take(bright | ~stars.anchored)))
