"""Stars on the galaxy against those of the field: what is too many or too bright there is the galaxy's own light.

Lumps, arms and whatever else a model does not have become stars. Their number tells that a galaxy has structure
(`star_density`), their light beyond what the field lets expect belongs to its total (`star_excess`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sphot_mpi.joint import State, field_of, usable_of
from sphot_mpi.joint_regions import galaxy_radius
from sphot_mpi.joint_sources import at
from sphot_mpi.records import StarExcess

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
#: That chance below which it may be its light, or the field's: an error.
DOUBTFUL = 1e-2
#: Scatter of the colours of lumps about the galaxy's, as a part of their flux.
LUMP_SCATTER = 0.5


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
    inside, field = usable_of(state) & (radius >= COUNT_INSIDE[0]) & (radius < COUNT_INSIDE[1]), field_of(state, radius)
    if field is None or not inside.any():
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
        it is less than `LEAST_LIGHT` of the galaxy. Where it may be chance, but hardly is, it is an error.

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
    for most, is_told in ((chance, True), (DOUBTFUL, False)):
        unusual = (by_chance < most) & (excess > LEAST_LIGHT * galaxy.fluxes.sum())
        if unusual.any():
            k = int(np.argmax(np.where(unusual, excess - error, -np.inf)))
            if is_told:
                return StarExcess(flux=float(excess[k]), error=float(error[k]), limit=float(inside[k]))
            return StarExcess(error=float(np.hypot(excess[k], error[k])))
    return StarExcess()


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
        # doubt is doubt in all filters
        return StarExcess(error=ratio * base.error)
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
    if state.scene.galaxy is None:
        return None
    radius = galaxy_radius(state.scene.galaxy, state.optics.frame.shape)
    on_galaxy, field = usable_of(state) & (radius < COUNT_INSIDE[1]), field_of(state, radius)
    return (on_galaxy, field) if field is not None and on_galaxy.any() else None
