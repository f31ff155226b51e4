"""The base filter's stars in another filter: anchors at their places, expected to have the typical colour.

A star that this filter shows and the base filter does not may stand beside an anchor, which takes its light and leaves
a dipole. So stars that the residual pulls far are freed of their anchors in the end; those that it pulls less far move
within their errors. So do this filter's own stars that had settled and are held.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import State
from sphot_mpi.joint_regions import galaxy_radius, radius_at
from sphot_mpi.joint_scene import PAD
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.kernels import joint as kernels
from sphot_mpi.records import FilterFit, Vector
from sphot_mpi.robust import robust_sigma

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
#: Anchored stars below this S/N are dropped: a dark star only makes room for somebody else's light.
LEAST_ANCHORED_SNR = 0.0
#: Least S/N of an anchored star that may be somewhere else, distance to that place from which it is not its anchor's,
#: FWHM, and the least chi2 that it gains there.
LEAST_FREED_SNR, LEAST_DISPLACED, DISPLACED_CHI2 = 5.0, 0.1, 25.0
#: A star farther than this from the anchor that it was freed of, FWHM, is another one.
SAME_STAR_FWHM = 0.5


def with_anchors(state: State, base: FilterFit, *, measured: bool) -> State:
    """Add the base filter's sources that its galaxy was measured with, or the others, pinned.

    If there are too many to be told apart, it is the brightest.
    """
    table = sources_above(base, -np.inf)
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


def sources_above(base: FilterFit, snr: float) -> NDArray[np.void]:
    """The base filter's sources above a signal-to-noise."""
    table = base.sources
    finite = np.isfinite(table["x_fit"]) & np.isfinite(table["y_fit"]) & np.isfinite(table["flux_fit"])
    return np.asarray(table[finite & (table["snr"] > snr)])


def free_bright(state: State) -> State:
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


def with_assigned_errors(stars: Stars, correlation: float) -> Stars:
    """Return the stars; the flux of one that is held to the typical colour has the scatter of colours for its error.

    Parameters
    ----------
    stars : Stars
        Solved.
    correlation : float
        As of `Frame`.
    """
    held = held_to_colour(stars)
    free = np.isfinite(stars.prior_sigma) & (stars.prior_flux > 0.0) & ~held
    scatter = stars.prior_sigma[free] / stars.prior_flux[free]
    typical = float(np.median(scatter)) if scatter.size else COLOUR_SCATTER[1]
    variance = stars.variance.copy()
    variance[held, 0] += (typical * stars.prior_flux[held] / correlation) ** 2
    return replace(stars, variance=variance)


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


def drop_dark(state: State) -> State:
    """Drop anchored stars whose flux is negative."""
    stars = state.scene.stars
    bright = stars.snr(state.optics.frame.correlation) > LEAST_ANCHORED_SNR
    return replace(state, scene=state.scene.with_stars(stars.take(bright | ~stars.anchored)))


def free_displaced(state: State) -> State:
    """Let stars move that are held where the residual pulls them elsewhere, by anchors or because they had settled.

    Those that it pulls far are let go of their anchors. Those on the galaxy stay: it may be what pulls.

    Parameters
    ----------
    state : State
        Solved.
    """
    stars, optics, galaxy = state.scene.stars, state.optics, state.scene.galaxy
    frame = optics.frame
    chosen = (stars.anchored | ~stars.free) & ~held_to_colour(stars) & (stars.snr(frame.correlation) > LEAST_FREED_SNR)
    if galaxy is not None:
        chosen &= radius_at(galaxy, frame.shape, stars) > 1.0
    move, gain = _displacements(state, np.flatnonzero(chosen))
    told = gain > DISPLACED_CHI2
    pulled, move = np.flatnonzero(chosen)[told], move[told]
    if not pulled.size:
        return state
    far = pulled[np.hypot(*move.T) > LEAST_DISPLACED * optics.fwhm]
    sigma, free, age = stars.anchor_sigma.copy(), stars.free.copy(), stars.age.copy()
    free[pulled], sigma[far], age[far] = True, np.inf, 1
    stars = replace(stars, anchor_sigma=sigma, free=free, age=age)
    return replace(state, scene=state.scene.with_stars(stars))


def _displacements(state: State, chosen: NDArray[np.int64]) -> tuple[NDArray[np.float64], Vector]:
    """Displacement (n, 2), px, of each of some stars alone that explains most of the residual, and its gain in chi2."""
    optics, stars = state.optics, state.scene.stars.take(chosen)
    stamps, corner_y, corner_x = optics.stars.stamps(stars.x, stars.y, max(2, round(optics.fwhm)))
    terms = kernels.displacement_terms(stamps, corner_y, corner_x, state.residual, optics.frame.weight)
    xx, xy, yy, x, y = terms.T
    determinant = xx * yy - xy**2
    told = determinant > 0.0
    pull = np.stack((yy * x - xy * y, xx * y - xy * x), axis=1)
    move = np.divide(pull, determinant[:, np.newaxis], out=np.zeros_like(pull), where=told[:, np.newaxis])
    # those of a unit-flux star
    gain = (move * terms[:, 3:]).sum(axis=1) / optics.frame.correlation**2
    return move / stars.flux[:, np.newaxis], gain


def without_strays(state: State) -> State:
    """Return the state without the base filter's names on stars that are too far from their anchors to be the same."""
    stars = state.scene.stars
    distance = np.hypot(stars.x - stars.anchor_x, stars.y - stars.anchor_y)
    stray = ~stars.anchored & (stars.base_id > 0) & (distance > SAME_STAR_FWHM * state.optics.fwhm)
    stars = replace(stars, base_id=np.where(stray, 0, stars.base_id), base_flux=np.where(stray, 0.0, stars.base_flux))
    return replace(state, scene=state.scene.with_stars(stars))
