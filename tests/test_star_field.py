"""Crowds of stars, with their wings on a coarse grid, against the simulator's exact images and full stamps."""

import numpy as np
import pytest
from analytic import ringed_psf, telescope_psfs

from sphot_mpi.point_render import sampled_star, star_stamps
from sphot_mpi.simulate_render import render_stars
from sphot_mpi.star_field import RADII, STAMP_EDGE, StarField

SHAPE = (111, 140)
NOISE = 0.012
KERNEL = 0.9


@pytest.fixture(scope="module")
def psf():
    return ringed_psf(KERNEL)


def crowd(n=500, seed=0, margin=30):
    """Stars of all S/N up to 1000, in the image and around it."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-margin, SHAPE[1] + margin, n)
    y = rng.uniform(-margin, SHAPE[0] + margin, n)
    return x, y, NOISE * 3.0 * np.minimum(1.0 + rng.pareto(0.7, n), 1000.0)


def test_a_crowd_has_all_its_light(psf):
    x, y, flux = crowd()
    exact = render_stars(SHAPE, telescope_psfs()["F150W"].blurred(KERNEL), x, y, flux)
    difference = StarField(psf, SHAPE, NOISE).render(x, y, flux) - exact
    # no pixel is off by more than what two stars leave at their stamps' edges, all together by 3 % of the noise
    assert np.abs(difference).max() < 2.0 * STAMP_EDGE * NOISE
    assert difference.std() < 0.03 * NOISE
    # and the mean, which galaxy and sky would take up, by 0.1 %
    assert abs(difference.mean()) < 1e-3 * NOISE
    # the wings matter: without them, the mean would be wrong by more
    field = StarField(psf, SHAPE, NOISE)
    cut = np.zeros(SHAPE)
    field._render(cut, psf.planes, x, y, flux, field.radii[field.classes(flux)])
    assert abs((cut - exact).mean()) > 0.01 * NOISE


def test_without_noise_every_star_is_rendered_in_full(psf):
    x, y, flux = crowd(30)
    field = StarField(psf, SHAPE, 1e-30)
    assert (field.radii[field.classes(flux)] == psf.radius).all()
    full = np.zeros(SHAPE)
    field._render(full, psf.planes, x, y, flux, np.full(30, psf.radius))
    np.testing.assert_allclose(field.render(x, y, flux), full, atol=1e-12 * full.max())


@pytest.mark.parametrize("flux", [1e-3, 0.3, 3.0, 30.0, 300.0, -30.0])
def test_a_star_keeps_its_flux_whatever_the_size_of_its_stamp(psf, flux):
    shape = (230, 241)
    field = StarField(psf, shape, NOISE)
    for x, y in [(120.0, 115.0), (120.49, 114.51), (119.27, 115.33)]:
        image = field.render(np.array([x]), np.array([y]), np.array([flux]))
        # between stamp and wings, a twentieth of the light along the stamp's edge may be lost or counted twice
        perimeter = 8 * field.radii[field.classes(np.array([flux]))][0]
        assert abs(image.sum() - flux) < max(1e-6 * abs(flux), 0.05 * STAMP_EDGE * NOISE * perimeter)


def test_brighter_stars_never_get_smaller_stamps(psf):
    field = StarField(psf, SHAPE, NOISE)
    flux = np.geomspace(1e-4, 1e6, 200)
    index = field.classes(flux)
    assert (np.diff(index) >= 0).all()
    assert index[0] == 0
    assert index[-1] == field.radii.size - 1
    np.testing.assert_array_equal(field.classes(-flux), index)
    assert field.radii[0] == RADII[0]
    assert field.radii[-1] == psf.radius
    assert (np.diff(field.radii) > 0).all()


def test_stars_far_off_the_image_light_it(psf):
    x, y = np.array([-25.0, 150.3, 60.0]), np.array([50.0, -11.2, 140.4])
    flux = np.array([4000.0, 3000.0, 5000.0])
    exact = render_stars(SHAPE, telescope_psfs()["F150W"].blurred(KERNEL), x, y, flux)
    assert exact.max() > NOISE
    np.testing.assert_allclose(StarField(psf, SHAPE, NOISE).render(x, y, flux), exact, atol=STAMP_EDGE * NOISE)
    beyond = StarField(psf, SHAPE, NOISE).render(np.array([-1e4, 1e7]), np.array([50.0, -1e8]), np.array([1.0, 1e3]))
    assert not beyond.any()


def test_faint_stars_off_the_image_light_it_by_their_wings(psf):
    rng = np.random.default_rng(1)
    n = 3000
    x, y, flux = rng.uniform(-60, -20, n), rng.uniform(-20, 130, n), np.full(n, 2.0 * NOISE)
    exact = render_stars(SHAPE, telescope_psfs()["F150W"].blurred(KERNEL), x, y, flux)
    got = StarField(psf, SHAPE, NOISE).render(x, y, flux)
    assert exact.sum() > NOISE
    # the gradient of the far halo within a coarse pixel: 4 % of what is itself 0.4 % of the stars' light
    assert got.sum() == pytest.approx(exact.sum(), rel=0.08)
    assert np.abs(got - exact).max() < 0.05 * NOISE


def test_no_stars_are_a_black_image(psf):
    none = np.zeros(0)
    field = StarField(psf, SHAPE, NOISE)
    assert field.render(none, none, none).shape == SHAPE
    assert not field.render(none, none, none).any()


def test_the_sampled_star_is_the_star_on_a_pixel(psf):
    stamp = sampled_star(psf, 9)
    assert stamp.shape == (19, 19)
    full = StarField(psf, (31, 45), 1e-30).render(np.array([22.0]), np.array([15.0]), np.ones(1))
    np.testing.assert_allclose(stamp, full[6:25, 13:32], atol=1e-15)
    assert sampled_star(psf, 10**6).shape == (2 * psf.radius + 1,) * 2
    stamps, corner_y, corner_x = star_stamps(psf, np.array([22.0]), np.array([15.0]), 9)
    np.testing.assert_allclose(stamps[0, 0], stamp, atol=1e-15)
    assert (corner_y[0], corner_x[0]) == (6, 13)


def test_rendering_is_the_same_twice(psf):
    x, y, flux = crowd(200, seed=5)
    first = StarField(psf, SHAPE, NOISE).render(x, y, flux)
    np.testing.assert_array_equal(first, StarField(psf, SHAPE, NOISE).render(x, y, flux))
