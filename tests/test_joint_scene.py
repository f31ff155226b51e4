"""The kernels of the joint fit and the records of its scene, against brute force and NumPy."""

from dataclasses import replace

import numpy as np
import pytest
from analytic import stamp_on

from sphot_mpi.joint_anchors import HELD_SCATTER, held_to_colour, light_excess
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_render import render_sky
from sphot_mpi.joint_scene import PAD, Frame, Galaxy, sky_basis
from sphot_mpi.joint_sources import Stars
from sphot_mpi.kernels import joint as kernels
from sphot_mpi.records import SersicParams

SHAPE = (75, 92)
COMPONENT = SersicParams(amplitude=0.4, r_eff=7.0, n=1.4, x_0=44.3, y_0=36.1, ellip=0.35, theta=0.6)


def random_stamps(columns=3, n=30, side=7, seed=0):
    rng = np.random.default_rng(seed)
    stamps = rng.normal(size=(n, columns, side, side))
    corner_y, corner_x = rng.integers(-9, SHAPE[0] + 3, n), rng.integers(-9, SHAPE[1] + 3, n)
    weight = rng.uniform(0.5, 2.0, SHAPE) * (rng.uniform(size=SHAPE) > 0.3)
    return stamps, corner_y, corner_x, weight


def test_good_fraction_and_quality_are_sums_over_usable_pixels():
    stamps, corner_y, corner_x, weight = random_stamps()
    residual = np.random.default_rng(2).normal(size=SHAPE)
    fraction = kernels.good_fraction(stamps, corner_y, corner_x, weight)
    quality = kernels.stamp_quality(stamps.shape[-1], corner_y, corner_x, residual, weight)
    for s in range(30):
        squared = stamp_on(SHAPE, stamps[s, 0] ** 2, corner_y[s], corner_x[s])
        assert fraction[s] == pytest.approx(squared[weight > 0].sum() / (stamps[s, 0] ** 2).sum())
        here = (stamp_on(SHAPE, np.ones((7, 7)), corner_y[s], corner_x[s]) > 0) & (weight > 0)
        centre = stamp_on(SHAPE, np.pad([[1.0]], 3), corner_y[s], corner_x[s]) * (weight > 0)
        want = [here.sum(), np.abs(residual[here]).sum(), (centre * residual).sum(), (weight * residual**2)[here].sum()]
        np.testing.assert_allclose(quality[s], want, atol=1e-12)
    assert (fraction == 0).any()
    assert ((fraction > 0) & (fraction < 1)).any()


@pytest.mark.parametrize(("reach", "count"), [(4.0, 3), (12.0, 12), (200.0, 5), (0.5, 2)])
def test_nearest_neighbours_are_those_of_brute_force(reach, count):
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-20, 90, 120), rng.uniform(30, 70, 120)
    got = kernels.nearest_neighbours(x, y, reach, count)
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    np.fill_diagonal(distance, np.inf)
    for i in range(120):
        order = np.argsort(distance[i])
        want = order[distance[i][order] <= reach][:count]
        np.testing.assert_array_equal(got[i], np.concatenate((want, np.full(count - want.size, -1))))


def test_a_lone_star_has_no_neighbour():
    one = np.zeros(1)
    np.testing.assert_array_equal(kernels.nearest_neighbours(one, one, 5.0, 2), [[-1, -1]])


def test_a_frame_is_the_image_with_a_blind_margin():
    rng = np.random.default_rng(5)
    data, error = rng.normal(size=SHAPE), rng.uniform(0.5, 2.0, SHAPE)
    data[3, 4], error[5, 6], error[7, 8] = np.nan, 0.0, np.nan
    mask = rng.uniform(size=SHAPE) > 0.9
    frame = Frame.from_image(data, error, mask, 0.5, 1.2)
    assert frame.shape == (SHAPE[0] + 2 * PAD, SHAPE[1] + 2 * PAD)
    good = ~mask
    good[3, 4] = good[5, 6] = good[7, 8] = False
    np.testing.assert_array_equal(frame.interior(frame.good), good)
    assert frame.good.sum() == good.sum()
    np.testing.assert_array_equal(frame.interior(frame.data)[good], data[good])
    np.testing.assert_allclose(frame.interior(frame.weight)[good], error[good] ** -2.0)
    assert not frame.data[~frame.good].any()
    assert not frame.weight[~frame.good].any()


def test_stars_are_taken_and_joined_field_by_field():
    stars = Stars.new(np.arange(7.0), np.arange(7.0) ** 2, 1.0 + np.arange(7.0))
    marked = replace(stars, base_id=np.arange(7), anchor_sigma=np.where(np.arange(7) % 2, 0.1, np.inf))
    np.testing.assert_array_equal(marked.anchored, [False, True] * 3 + [False])
    both = marked.take(marked.anchored).join(marked.take(~marked.anchored))
    np.testing.assert_array_equal(both.base_id, [1, 3, 5, 0, 2, 4, 6])
    np.testing.assert_array_equal(both.flux, stars.flux[both.base_id])
    known = replace(stars, variance=np.full((7, 3), 4.0))
    np.testing.assert_allclose(known.snr(1.5), stars.flux / 3.0)
    # an unknown error says nothing
    np.testing.assert_array_equal(stars.snr(1.0), 0.0)


def test_stars_of_the_measurement_stay_with_their_light_of_then():
    stars = Stars.new(np.arange(4.0), np.zeros(4), np.array([1.0, 2.0, 3.0, 4.0]))
    stars = replace(stars, x=stars.x + 0.5, base_id=np.arange(4), anchor_sigma=np.array([np.inf, 0.1, np.inf, 0.1]))
    measured = stars.as_measured()
    np.testing.assert_array_equal(measured.measured_flux, stars.flux)
    # an anchor is the base filter's place and remains it
    np.testing.assert_array_equal(measured.anchor_x, [0.5, 1.0, 2.5, 3.0])
    later = replace(measured.take(np.array([0, 3])), flux=np.array([0.7, 3.9]), free=np.ones(2, bool))
    later = later.join(Stars.new(np.array([9.0]), np.zeros(1), np.array([0.3])))
    whole = later.with_gone(measured)
    np.testing.assert_array_equal(whole.flux, [0.7, 3.9, 0.3, 0.0, 0.0])
    np.testing.assert_array_equal(whole.measured_flux, [1.0, 4.0, 0.0, 2.0, 3.0])
    np.testing.assert_array_equal(whole.base_id[[0, 1, 3, 4]], [0, 3, 1, 2])
    assert np.isinf(whole.variance[3:]).all()
    assert not whole.free[3:].any()
    assert measured.with_gone(measured).size == 4


def test_half_light_radius_is_the_semi_major_axis():
    galaxy = galaxy_of((COMPONENT,))
    assert galaxy.half_light_radius() == pytest.approx(COMPONENT.r_eff)
    two = Galaxy(
        centres=np.repeat(galaxy.centres, 2, axis=0),
        shapes=np.repeat(galaxy.shapes, 2, axis=0),
        fluxes=np.array([1.0, 3.0]),
    )
    assert two.half_light_radius() == pytest.approx(COMPONENT.r_eff)


def test_the_sky_basis_is_a_plane_about_the_middle():
    basis = sky_basis((21, 34))
    for image in basis[1:]:
        assert image.sum() == pytest.approx(0.0, abs=1e-10)
    y, x = np.mgrid[:21, :34]
    np.testing.assert_allclose(
        render_sky(np.array([1.0, 2.0, 3.0]), (21, 34)), 1 + 2 * (x - 16.5) / 17 + 3 * (y - 10) / 10.5
    )


# --- stars that would fill what a galaxy's model leaves


def anchored_stars(inside_ratio, seed=0, scatter=0.2):
    """300 stars of the base filter's list, the first 40 of them on the galaxy; fluxes scatter about one colour."""
    rng = np.random.default_rng(seed)
    n = 300
    inside = np.arange(n) < 40
    base = rng.uniform(1.0, 3.0, n)
    flux = base * 0.7 * np.where(inside, inside_ratio, 1.0) * np.exp(rng.normal(0.0, scatter, n))
    stars = Stars.new(np.zeros(n), np.zeros(n), flux)
    return replace(stars, base_flux=base, anchor_sigma=np.full(n, 0.1)), inside


def test_stars_on_the_galaxy_that_outshine_the_fields_colour_are_in_excess():
    for seed in range(20):
        stars, inside = anchored_stars(1.0, seed)
        # the sum of 40 such stars scatters by 4 %, far below 30 %
        assert not light_excess(stars, stars.anchored, inside, 0.3)
        stars, inside = anchored_stars(1.6, seed)
        assert light_excess(stars, stars.anchored, inside, 0.3)
        # where colours scatter this much, no star's flux can be expected
        assert not light_excess(stars, stars.anchored, inside, 0.8)
    nowhere = np.zeros_like(inside)
    assert not light_excess(stars, stars.anchored, nowhere, 0.3)
    assert not light_excess(stars, stars.anchored, ~nowhere, 0.3)


def test_only_a_narrow_prior_holds_a_star():
    stars, _ = anchored_stars(1.0)
    assert not held_to_colour(stars).any()
    wide = replace(stars, prior_flux=stars.flux, prior_sigma=0.3 * stars.flux)
    assert not held_to_colour(wide).any()
    narrow = replace(stars, prior_flux=stars.flux, prior_sigma=HELD_SCATTER * stars.flux)
    assert held_to_colour(narrow).all()
