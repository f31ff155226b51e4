"""Structure noise: it widens errors on galaxies that are no Sersic, and stars make none."""

import numpy as np
import pytest
from joint_states import GALAXY, SHAPE, SKY, galaxy_image, image_of, noise, stars_at, state_of

from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_regions import galaxy_radius
from sphot_mpi.joint_scene import PAD
from sphot_mpi.structure import negative_tail, structure_factor, with_structure_noise, with_wider_errors


def lumps(seed=0):
    """Ripples of both signs on the galaxy, proportional to its light."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    angle = np.arctan2(y - GALAXY.y_0, x - GALAXY.x_0)
    radius = np.hypot(x - GALAXY.x_0, y - GALAXY.y_0)
    return 0.25 * galaxy_image(GALAXY) * np.sin(4 * angle + 0.9 * radius + seed)


def test_a_smooth_galaxy_has_no_structure():
    for seed in range(3):
        state = state_of(SKY + galaxy_image(GALAXY) + noise(seed), galaxy=galaxy_of((GALAXY,)))
        np.testing.assert_array_equal(structure_factor(state), 1.0)
    without = state_of(SKY + noise())
    np.testing.assert_array_equal(structure_factor(without), 1.0)


def test_stars_are_no_structure_for_they_only_add_light():
    state = state_of(SKY + galaxy_image(GALAXY) + image_of(stars_at(36)) + noise(), galaxy=galaxy_of((GALAXY,)))
    np.testing.assert_array_equal(structure_factor(state), 1.0)


def test_structure_widens_errors_on_the_galaxy_and_never_more_outside():
    state = state_of(SKY + galaxy_image(GALAXY) + lumps() + noise(), galaxy=galaxy_of((GALAXY,)))
    factor = structure_factor(state)
    radius = galaxy_radius(state.scene.galaxy, factor.shape)
    assert (factor >= 1.0).all()
    assert factor.max() > 1.5
    np.testing.assert_array_equal(factor[radius > 2.5], 1.0)
    order = np.argsort(radius.ravel())
    assert (np.diff(factor.ravel()[order]) <= 1e-12).all()
    widened = with_structure_noise(state)
    good = state.optics.frame.good
    np.testing.assert_array_equal(widened.optics.frame.good, good)
    ratio = state.optics.frame.weight[good] / widened.optics.frame.weight[good]
    np.testing.assert_allclose(np.sqrt(ratio), factor[good])
    own = with_wider_errors(widened, 1.6).optics.frame.unwidened()
    # a product of roundings
    np.testing.assert_allclose(own.weight, state.optics.frame.weight, rtol=1e-14)
    assert own.unwidened() is own
    assert state.optics.frame.unwidened() is state.optics.frame
    # stronger structure, wider errors
    strong = state_of(SKY + galaxy_image(GALAXY) + 2 * lumps() + noise(), galaxy=galaxy_of((GALAXY,)))
    assert structure_factor(strong).max() > factor.max()


def test_negative_tail_is_blind_to_what_adds_light():
    rng = np.random.default_rng(0)
    values = rng.normal(0.0, 1.7, 20000)
    assert negative_tail(values) == pytest.approx(1.7, rel=0.03)
    stars = np.where(rng.uniform(size=20000) < 0.1, 50.0, 0.0)
    assert negative_tail(values + stars) == pytest.approx(1.7, rel=0.12)
    assert negative_tail(np.where(values < 0, 3 * values, values)) > 3.0


def test_errors_inside_are_widened_at_least_as_much_as_outside():
    outer = state_of(SKY + galaxy_image(GALAXY) + noise(), galaxy=galaxy_of((GALAXY,)))
    radius = galaxy_radius(outer.scene.galaxy, outer.optics.frame.shape)
    ring = np.where((radius > 1.5) & (radius < 2.5), 1.0, 0.0)[PAD:-PAD, PAD:-PAD]
    state = state_of(SKY + galaxy_image(GALAXY) + 12 * ring * lumps() + noise(), galaxy=galaxy_of((GALAXY,)))
    factor = structure_factor(state)
    assert factor[radius < 0.5].min() >= factor[(radius > 1.6) & (radius < 2.4)].max() > 1.25
