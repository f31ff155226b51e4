"""Stars on the galaxy that hold its light."""

from dataclasses import replace

import numpy as np
import pytest
from joint_states import GALAXY, SHAPE, SKY, galaxy_image, noise, state_of

from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_scene import PAD
from sphot_mpi.joint_sources import Stars
from sphot_mpi.records import StarExcess
from sphot_mpi.sersic import total_flux
from sphot_mpi.star_excess import excess_of_same_stars, holds_galaxy_light, star_excess


def heap(n, flux, seed=0):
    """A field of 60 stars of flux 1 at random, with `n` stars more of some flux on the galaxy."""
    rng = np.random.default_rng(seed)
    state = state_of(SKY + galaxy_image(GALAXY) + noise(seed), galaxy=galaxy_of((GALAXY,)))
    x, y = rng.uniform(0, SHAPE[1], 60) + PAD, rng.uniform(0, SHAPE[0], 60) + PAD
    x, y = np.append(x, GALAXY.x_0 + PAD + np.arange(n)), np.append(y, np.full(n, GALAXY.y_0 + PAD + 2.0))
    stars = Stars.new(x, y, np.append(np.ones(60), np.full(n, flux)))
    return replace(state, scene=state.scene.with_stars(stars))


def test_the_stars_excess_is_the_light_of_the_heap():
    tenth = 0.1 * total_flux(GALAXY)
    excess = star_excess(heap(5, tenth))
    # at most with what the field's stars on the galaxy, of flux 1, add by chance
    assert excess.flux == pytest.approx(5 * tenth, abs=6.0)
    assert excess.limit <= tenth
    assert star_excess(heap(0, 1.0)) == StarExcess()
    # the field has none so bright: nothing is expected of it, and no chance is in that
    assert star_excess(heap(5, tenth)).error < 0.2 * excess.flux


def same_stars(ratio, colour, field_flux=1.0):
    """Excess of a heap in another filter: its stars' flux ratio, and the galaxy's."""
    tenth = 0.1 * total_flux(GALAXY)
    state = heap(5, tenth)
    stars = state.scene.stars
    flux = np.where(stars.flux == tenth, ratio * stars.flux, field_flux)
    other = replace(stars, flux=flux, base_flux=np.where(stars.flux == tenth, stars.flux, tenth))
    base = StarExcess(flux=5 * tenth, error=0.1 * tenth, limit=tenth)
    return excess_of_same_stars(replace(state, scene=state.scene.with_stars(other)), base, colour), 5 * tenth


def test_another_filter_counts_the_same_stars():
    excess, light = same_stars(0.3, 0.2, field_flux=1e-3)
    # a faint field leaves no chance in the count, and so no need for the galaxy's colour
    assert excess.flux == pytest.approx(0.3 * light, rel=1e-2)
    assert excess.error < 1e-2 * excess.flux
    # where the base filter found none there is none
    assert excess_of_same_stars(heap(5, 9.0), StarExcess(), 0.3) == StarExcess()


def test_where_bright_stars_leave_chance_lumps_have_the_galaxys_colour():
    excess, light = same_stars(0.3, 0.2, field_flux=1e3)
    assert excess.flux == pytest.approx(0.2 * light, rel=0.3)
    # the scatter of lumps' colours is what is left of doubt
    assert excess.error == pytest.approx(0.5 * 0.2 * light, rel=0.1)


def test_few_stars_that_are_too_bright_hold_the_galaxys_light_and_one_does_not():
    tenth = 0.1 * total_flux(GALAXY)
    assert tenth > 1.0
    assert holds_galaxy_light(heap(5, tenth))
    # a single star stands before a galaxy now and then
    assert not holds_galaxy_light(heap(1, 5 * tenth))
    # so little of its light is no matter
    assert not holds_galaxy_light(heap(5, 0.003 * total_flux(GALAXY)))
    # a field's own stars are no excess: the chance of one in 30 fields is 0.003 or so
    assert not any(holds_galaxy_light(heap(0, 1.0, seed)) for seed in range(30))


def test_light_that_is_hardly_chance_is_an_error_in_all_filters():
    tenth = 0.1 * total_flux(GALAXY)
    heaps = [heap(n, tenth) for n in (1, 2, 5)]
    one, two, five = (star_excess(state) for state in heaps)
    # one stands there now and then; of five there is no doubt that they are the galaxy's light, but for the field's
    assert one == StarExcess()
    assert (two.flux, two.limit) == (0.0, np.inf)
    assert two.error == pytest.approx(2 * tenth, abs=6.0)
    assert five.error < 0.2 * two.error
    assert not holds_galaxy_light(heaps[1])
    assert excess_of_same_stars(heaps[1], two, 0.3) == StarExcess(error=0.3 * two.error)
