"""Structure noise: how much a galaxy that is no Sersic disturbs point-source measurements.

Spiral arms, lumps and bars leave a residual of both signs. Stars only ever add
light. The negative tail of the residual's matched-filter map, inside the galaxy
against outside, therefore measures the structure and not the stars; the errors
inside are widened by that factor, once, so that structure makes no stars and
does not steer the fit.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sphot_mpi.joint import GALAXY_KEEP_SNR, State, residual_of
from sphot_mpi.joint_galaxy import galaxy_radius
from sphot_mpi.joint_scene import at
from sphot_mpi.records import Image, StarExcess
from sphot_mpi.unseen_light import EDGES, FIELD

#: Percentile that stands for one sigma of the negative tail.
LOW = 15.87
#: Elliptical annulus, in r_eff, in which stars on the galaxy are counted.
COUNT_INSIDE = (0.5, 1.5)
#: Star densities on the galaxy over that outside that are as they should be, and the Poisson sigmas of a deviation.
LOWEST_RATIO, HIGHEST_RATIO, SIGNIFICANT = 0.8, 1.3, 3.0
#: Fewest expected stars from which a density can be told.
LEAST_EXPECTED = 5.0
#: Stars are found completely above this x the flux of the reporting threshold.
COMPLETE = 1.3
#: Chance of as many bright stars, and the least part of the galaxy's light, above which stars on it are its light; and
#: that chance where structure was seen by other means.
CHANCE, LEAST_LIGHT, STRUCTURED_CHANCE = 1e-4, 0.02, 1e-2
#: Scatter of the colours of lumps about the galaxy's, as a part of their flux.
LUMP_SCATTER = 0.5
#: Factors below this are chance.
LEAST_FACTOR = 1.25


def structure_factor(state: State) -> Image:
    """Factor >= 1 by which errors on the galaxy are too small for what is there.

    Parameters
    ----------
    state : State
        After the bright stars have been found.

    Returns
    -------
    (ny, nx) float64 ndarray
        1 beyond 2.5 r_eff; never rising outwards.
    """
    shape = state.optics.frame.shape
    factor = np.ones(shape)
    if state.scene.galaxy is None:
        return factor
    radius = galaxy_radius(state.scene.galaxy, shape)
    snr = state.optics.matched.snr(residual_of(state))
    usable = state.optics.matched.covered & state.optics.frame.good
    field = usable & (radius > FIELD)
    if field.sum() < 400:
        return factor
    reference = negative_tail(snr[field])
    cells = 1.0 / float((state.optics.stars.sampled(state.optics.core_radius) ** 2).sum())
    outer = 1.0
    for low, high in reversed(list(zip(EDGES[:-1], EDGES[1:], strict=True))):
        ring = usable & (radius >= low) & (radius < high)
        # too few independent cells to tell structure from chance
        if ring.sum() > 4 * cells:
            ratio = negative_tail(snr[ring]) / reference
            outer = max(outer, ratio if ratio > LEAST_FACTOR else 1.0)
        factor[(radius >= low) & (radius < high)] = outer
    return factor


@dataclass(frozen=True, slots=True)
class StarDensity:
    """Stars on the galaxy against those outside, both above one flux to which both are complete.

    Parameters
    ----------
    inside : int
        Stars between 0.5 and 1.5 r_eff.
    expected : float
        What the field outside lets expect there.
    """

    inside: int
    expected: float

    @property
    def ratio(self) -> float:
        """Inside over expected; NaN where too few are expected to tell."""
        return self.inside / self.expected if self.expected >= LEAST_EXPECTED else float("nan")

    @property
    def unusual(self) -> bool:
        """Whether the ratio lies outside 0.8 to 1.3, by chance or not."""
        return bool(self.ratio < LOWEST_RATIO or self.ratio > HIGHEST_RATIO)

    @property
    def too_high(self) -> bool:
        """More than 1.3 times the expected, and more than chance."""
        return self.inside > HIGHEST_RATIO * self.expected and self._excess() > SIGNIFICANT

    def _excess(self) -> float:
        """Deviation in Poisson sigmas."""
        return (self.inside - self.expected) / max(float(np.sqrt(self.expected)), 1.0)


def star_density(state: State, report_snr: float) -> StarDensity:
    """Count the stars on the galaxy and outside it.

    Parameters
    ----------
    state : State
        With stars and galaxy.
    report_snr : float
        S/N at which a star counts as found.

    Returns
    -------
    StarDensity
        Of stars that would be found even on the galaxy.
    """
    stars, frame = state.scene.stars, state.optics.frame
    if state.scene.galaxy is None or stars.size == 0:
        return StarDensity(0, 0.0)
    radius = galaxy_radius(state.scene.galaxy, frame.shape)
    usable = state.optics.matched.covered & frame.good
    inside = usable & (radius >= COUNT_INSIDE[0]) & (radius < COUNT_INSIDE[1])
    field = usable & (radius > FIELD)
    if not inside.any() or field.sum() < 400:
        return StarDensity(0, 0.0)
    # isolated errors are largest on the galaxy; crowding widens them a little everywhere
    error = frame.correlation / np.sqrt(np.percentile(state.optics.matched.precision[inside], 20.0))
    chosen = stars.take(stars.flux > COMPLETE * report_snr * error)
    per_pixel = at(field, chosen).sum() / field.sum()
    return StarDensity(int(at(inside, chosen).sum()), float(per_pixel * inside.sum()))


def holds_galaxy_light(state: State) -> bool:
    """Whether stars on the galaxy hold a part of its light."""
    return star_excess(state).flux > 0.0


def star_excess(state: State, chance: float = CHANCE) -> StarExcess:
    """The galaxy's light among its stars: there are too many that are too bright to be the field's.

    Lumps, arms and whatever else the model does not have become heaps of stars, that may be few.

    Parameters
    ----------
    state : State
        With stars and galaxy.
    chance : float
        Probability of so many stars, above which they are the field's.

    Returns
    -------
    StarExcess
        That of the k brightest stars on the galaxy, k being such that most is left after taking off its error; 0 where
        it is less than `LEAST_LIGHT` of the galaxy.

    Notes
    -----
    Of the k brightest stars on the galaxy and the m in the field that are as bright, k would by chance be as many or
    more with the probability of a binomial distribution, each star being on the galaxy in proportion to area: the
    regularised incomplete beta function I_p(k, m + 1) (DLMF 8.17.5). The variance is that of stars scattered at random,
    on the galaxy and where the expectation comes from (Campbell's theorem).
    """
    galaxy, stars = state.scene.galaxy, state.scene.stars
    areas = _galaxy_and_field(state)
    if galaxy is None or areas is None:
        return StarExcess()
    inside, outside = (np.sort(stars.flux[at(area, stars)])[::-1] for area in areas)
    inside = inside[inside > 0.0]
    n_inside, n_outside = np.arange(1, inside.size + 1), np.searchsorted(-outside, -inside, side="right")
    ratio = float(areas[0].sum() / areas[1].sum())
    by_chance = special.betainc(n_inside, n_outside + 1, ratio / (1.0 + ratio))
    sums, squares = (np.concatenate(([0.0], np.cumsum(outside**power)))[n_outside] for power in (1, 2))
    excess, error = np.cumsum(inside) - ratio * sums, np.sqrt(ratio * (1.0 + ratio) * squares)
    told = (by_chance < chance) & (excess > LEAST_LIGHT * galaxy.fluxes.sum())
    if not told.any():
        return StarExcess()
    k = int(np.argmax(np.where(told, excess - error, -np.inf)))
    return StarExcess(flux=float(excess[k]), error=float(error[k]), limit=float(inside[k]))


def excess_of_same_stars(state: State, base: StarExcess, ratio: float) -> StarExcess:
    """The galaxy's light, in another filter, among the stars that the base filter found to hold it.

    Parameters
    ----------
    state : State
        Of the other filter, with the base filter's stars.
    base : StarExcess
        That of the base filter.
    ratio : float
        The galaxy's flux in this filter over that in the base filter.

    Returns
    -------
    StarExcess
        Weighted mean of what these stars hold here and of what they would at the galaxy's colour, within
        `LUMP_SCATTER`: where the field's stars are bright, chance says more than they do.
    """
    stars, areas = state.scene.stars, _galaxy_and_field(state)
    if areas is None or not np.isfinite(base.limit):
        return StarExcess()
    bright = stars.base_flux >= base.limit
    inside, outside = (stars.flux[bright & at(area, stars)] for area in areas)
    share = float(areas[0].sum() / areas[1].sum())
    flux, variance = inside.sum() - share * outside.sum(), share * (1.0 + share) * (outside**2).sum()
    expected = ratio * base.flux
    doubt = (LUMP_SCATTER * expected) ** 2 + (ratio * base.error) ** 2
    weight = doubt / (variance + doubt) if doubt > 0.0 else 0.0
    return StarExcess(
        flux=float(weight * flux + (1.0 - weight) * expected), error=float(np.sqrt(weight * variance)), limit=base.limit
    )


def _galaxy_and_field(state: State) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Pixels on the galaxy and in the field off it; None where there is too little of either."""
    galaxy, frame = state.scene.galaxy, state.optics.frame
    if galaxy is None:
        return None
    radius, usable = galaxy_radius(galaxy, frame.shape), state.optics.matched.covered & frame.good
    on_galaxy, field = usable & (radius < COUNT_INSIDE[1]), usable & (radius > FIELD)
    return (on_galaxy, field) if on_galaxy.any() and field.sum() >= 400 else None


def negative_tail(values: NDArray[np.float64]) -> float:
    """One-sigma width of the lower half of a distribution about zero, at least that about its median."""
    return float(max(-np.percentile(values, LOW), np.median(values) - np.percentile(values, LOW), 1e-9))


def flux_limits(state: State, snr: float) -> tuple[float, ...]:
    """Flux below which stars are not found, in each annulus of `EDGES`.

    Parameters
    ----------
    state : State
        With the errors as they were widened.
    snr : float
        S/N of the last detection.

    Returns
    -------
    tuple of float
        Infinite where the galaxy's centre keeps all stars away.
    """
    frame = state.optics.frame
    if state.scene.galaxy is None:
        return ()
    radius = galaxy_radius(state.scene.galaxy, frame.shape)
    limits = []
    for low, high in zip(EDGES[:-1], EDGES[1:], strict=True):
        ring = state.optics.matched.covered & (radius >= low) & (radius < high)
        needed = max(snr, GALAXY_KEEP_SNR) if high <= 1.0 else snr
        precision = float(np.median(state.optics.matched.precision[ring])) if ring.any() else 0.0
        limits.append(COMPLETE * needed * frame.correlation / np.sqrt(precision) if precision > 0.0 else float("inf"))
    return tuple(limits)


def with_faint_stars(state: State, limits: tuple[float, ...]) -> State:
    """Expect on the galaxy the light of those stars that only the field outside shows.

    What is too faint to be found against the galaxy would otherwise be counted as its light, and the more so the
    deeper the field is fitted.

    Parameters
    ----------
    state : State
        With stars.
    limits : tuple of float
        As of `flux_limits`, in the base filter's flux for stars that it anchors.

    Returns
    -------
    State
        With the frame's faint light renewed.

    Notes
    -----
    Counts in an annulus scatter. What is missing is therefore shrunk towards none by its own uncertainty, as the
    positive-part estimator of James & Stein (1961) does; cut off at zero alone, it would dim every galaxy.
    """
    frame, stars, galaxy = state.optics.frame, state.scene.stars, state.scene.galaxy
    if galaxy is None or not limits or stars.size == 0:
        return state
    radius = galaxy_radius(galaxy, frame.shape)
    field = state.optics.matched.covered & frame.good & (radius > FIELD)
    if field.sum() < 400:
        return state
    chosen = stars.take(at(field, stars))
    measure = np.where(chosen.base_flux > 0.0, chosen.base_flux, chosen.flux)
    faint, means = np.zeros(frame.shape), [0.0] * (len(EDGES) - 1)
    for index, (low, high, limit) in enumerate(zip(EDGES[:-1], EDGES[1:], limits, strict=True)):
        ring = (radius >= low) & (radius < high)
        if not ring.any():
            continue
        present = stars.take(at(ring, stars))
        own = np.where(present.base_flux > 0.0, present.base_flux, present.flux)
        few = chosen.flux[measure < limit]
        missing = few.sum() / field.sum() - present.flux[own < limit].sum() / ring.sum()
        # by how much the light of as many stars as expected there varies by chance
        chance = (few**2).sum() / (field.sum() * ring.sum())
        means[index] = missing * max(1.0 - chance / missing**2, 0.0) if missing > 0.0 else 0.0
        faint[ring] = means[index]
    frame = replace(frame, faint=faint, unseen=replace(frame.unseen, faint=tuple(means)))
    return replace(state, optics=state.optics.on(frame))


def with_wider_errors(state: State, factor: float) -> State:
    """Return the state with errors widened by `factor` on the galaxy, out to 1.5 r_eff."""
    assert state.scene.galaxy is not None
    frame = state.optics.frame
    on_galaxy = galaxy_radius(state.scene.galaxy, frame.shape) < COUNT_INSIDE[1]
    return state.with_frame(replace(frame, weight=np.where(on_galaxy, frame.weight / factor**2, frame.weight)))


def with_structure_noise(state: State) -> State:
    """Return the state with errors widened by `structure_factor`."""
    factor = structure_factor(state)
    frame = state.optics.frame
    return state.with_frame(replace(frame, weight=frame.weight / factor**2))
