"""Anchors at the base filter's stars: let go where the data say so, with errors that say what is known."""

from dataclasses import replace

import numpy as np
import pytest
from joint_states import GALAXY, SHAPE, SKY, galaxy_image, image_of, noise, stars_at, state_of

from sphot_mpi.joint import Keep, solve
from sphot_mpi.joint_anchors import (
    DISPLACED_CHI2,
    HELD_SCATTER,
    LEAST_DISPLACED,
    SAME_STAR_FWHM,
    free_displaced,
    with_assigned_errors,
    without_strays,
)
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_regions import radius_at
from sphot_mpi.joint_render import Freedom, render_stars
from sphot_mpi.joint_scene import PAD
from sphot_mpi.joint_settle import settle
from sphot_mpi.joint_sources import Stars
from sphot_mpi.kernels.joint import displacement_terms

PLACED = Freedom()


def anchored(stars, dx=0.0, dy=0.0):
    """Stars held at anchors that are off their places."""
    n = stars.size
    return replace(
        stars, x=stars.x + dx, y=stars.y + dy, anchor_x=stars.x + dx, anchor_y=stars.y + dy,
        anchor_sigma=np.full(n, 0.02), base_id=np.arange(1, n + 1), base_flux=stars.flux.copy(),
    )  # fmt: skip


def test_a_displacement_is_that_of_the_least_squares_fit():
    truth = stars_at(1)
    state = state_of(SKY + image_of(truth) + noise(), anchored(truth))
    stars, optics, frame = state.scene.stars, state.optics, state.optics.frame
    residual = np.random.default_rng(5).normal(size=frame.shape)
    stamps, corner_y, corner_x = optics.stars.stamps(stars.x, stars.y, 5)
    (terms,) = displacement_terms(stamps, corner_y, corner_x, residual, frame.weight)
    window = np.s_[corner_y[0] : corner_y[0] + 11, corner_x[0] : corner_x[0] + 11]
    design = stamps[0, 1:].reshape(2, -1).T * np.sqrt(frame.weight[window].ravel())[:, None]
    data = residual[window].ravel() * np.sqrt(frame.weight[window].ravel())
    best, *_ = np.linalg.lstsq(design, data)
    matrix = np.array([[terms[0], terms[1]], [terms[1], terms[2]]])
    np.testing.assert_allclose(np.linalg.solve(matrix, terms[3:]), best, rtol=1e-9)
    # a star whose window reaches off the frame has the pixels that are there
    beyond = displacement_terms(stamps, corner_y - corner_y - 5, corner_x, np.ones(frame.shape), np.ones(frame.shape))
    np.testing.assert_allclose(beyond[0, 3:], stamps[0, 1:, 5:].sum(axis=(1, 2)), rtol=1e-9)


def test_anchors_that_stand_beside_their_stars_are_let_go_and_find_them():
    truth = stars_at(12, low=4.0)
    off = replace(truth, x=truth.x + np.where(np.arange(12) < 4, 0.6, 0.0))
    state = solve(state_of(SKY + image_of(off) + noise(), anchored(truth)), PLACED)
    freed = free_displaced(state)
    np.testing.assert_array_equal(freed.scene.stars.anchored, np.arange(12) >= 4)
    stars = settle(freed, PLACED, Keep(3.0, 3.0), most=8)[0].scene.stars
    errors = np.sqrt(stars.variance[:4, 1])
    # 4 sigma of 8 values
    np.testing.assert_array_less(np.abs(stars.x[:4] - off.x[:4]), 4.0 * errors)
    np.testing.assert_array_less(np.abs(stars.y[:4] - off.y[:4]), 4.0 * errors)
    pinned, flux_errors = state.scene.stars.flux[:4], np.sqrt(stars.variance[:, 0])
    np.testing.assert_array_less(np.abs(stars.flux - truth.flux), 4.0 * flux_errors)
    # pinned, they were too faint by (0.6 px)^2 over 4 sigma^2 of the PSF
    assert np.mean(pinned / truth.flux[:4]) == pytest.approx(np.exp(-0.36 / (4.0 * (0.9**2 + 1.0**2))), abs=0.01)


def test_stars_without_anchors_that_are_held_beside_their_places_move_again():
    truth = stars_at(12, low=4.0)
    off = replace(truth, x=truth.x + np.where(np.arange(12) < 4, 0.6, 0.0), free=np.zeros(12, bool), age=np.full(12, 9))
    state = solve(state_of(SKY + image_of(truth) + noise(), off), PLACED)
    np.testing.assert_array_equal(state.scene.stars.x, off.x)
    freed = free_displaced(state)
    np.testing.assert_array_equal(freed.scene.stars.free, np.arange(12) < 4)
    found = settle(freed, PLACED, Keep(3.0, 3.0), most=8)[0].scene.stars
    np.testing.assert_array_less(np.abs(found.x - truth.x)[:4], 4.0 * np.sqrt(found.variance[:4, 1]))


def test_anchors_that_stand_where_their_stars_are_stay():
    # of 10 x 25 stars, chance takes 250 exp(-25 / 2)
    for seed in range(10):
        truth = stars_at(25, seed)
        state = solve(state_of(SKY + image_of(truth) + noise(seed), anchored(truth)), PLACED)
        assert free_displaced(state) is state


def test_what_is_not_told_or_not_far_enough_lets_no_anchor_go():
    truth = stars_at(6, low=4.0)
    fwhm = state_of(np.zeros(SHAPE), truth).optics.fwhm
    near = solve(state_of(SKY + image_of(truth) + noise(), anchored(truth, 0.8 * LEAST_DISPLACED * fwhm)), PLACED)
    assert free_displaced(near).scene.stars.anchored.all()
    # chi2 grows with the square of the flux: a fifth of the least that is told
    faint = replace(truth, flux=np.full(6, 0.3))
    pinned = solve(state_of(SKY + image_of(faint) + noise(), anchored(faint, 0.5)), PLACED)
    assert pinned.scene.stars.snr(1.0).max() < np.sqrt(DISPLACED_CHI2) * fwhm
    assert free_displaced(pinned) is pinned
    held = replace(anchored(truth, 0.6), prior_flux=truth.flux, prior_sigma=HELD_SCATTER * truth.flux)
    of_the_galaxy = solve(state_of(SKY + image_of(truth) + noise(), held), PLACED)
    assert free_displaced(of_the_galaxy) is of_the_galaxy


def test_anchors_that_stand_hardly_beside_their_stars_share_the_way_with_them():
    truth = stars_at(6, low=4.0)
    off, sigma = 0.8 * LEAST_DISPLACED * state_of(np.zeros(SHAPE), truth).optics.fwhm, 0.02
    stars = replace(anchored(truth, off), anchor_sigma=np.full(6, sigma))
    freed = free_displaced(solve(state_of(SKY + image_of(truth) + noise(), stars), PLACED))
    found = settle(freed, PLACED, Keep(3.0, 3.0), most=8)[0].scene.stars
    # the mean of two measurements by their errors: what both say has a variance of its own, the anchor's is sigma^2
    variance = found.variance[:, 1]
    expected = truth.x + off * variance / sigma**2
    np.testing.assert_array_less(np.abs(found.x - expected), 4.0 * np.sqrt(variance))
    np.testing.assert_array_less(variance, sigma**2)
    assert found.anchored.all()


def test_on_the_galaxy_anchors_stay_where_they_are():
    galaxy, field = galaxy_of((GALAXY,)), stars_at(20, low=4.0)
    # on its major axis, at half of r_eff and at 2 r_eff
    on_axis = np.array([[0.5], [2.0]]) * GALAXY.r_eff * np.array([np.cos(GALAXY.theta), np.sin(GALAXY.theta)])
    x, y = on_axis.T + np.array([[GALAXY.x_0], [GALAXY.y_0]]) + PAD
    apart = np.hypot(field.x - GALAXY.x_0 - PAD, field.y - GALAXY.y_0 - PAD) > 30.0
    truth = field.take(apart).join(Stars.new(x, y, np.full(2, 5.0)))
    data = SKY + galaxy_image(GALAXY) + image_of(truth) + noise()
    state = solve(state_of(data, anchored(truth, 0.6), galaxy), PLACED)
    inside = radius_at(galaxy, state.optics.frame.shape, truth) <= 1.0
    assert inside.sum() == 1
    np.testing.assert_array_equal(free_displaced(state).scene.stars.anchored, inside)


def test_a_star_that_went_too_far_is_not_the_base_filters():
    truth = stars_at(4)
    state = state_of(np.zeros(SHAPE), anchored(truth))
    far = np.array([0.0, 0.9, 1.1, 3.0]) * SAME_STAR_FWHM * state.optics.fwhm
    stars = replace(state.scene.stars, x=truth.x + far, anchor_sigma=np.full(4, np.inf))
    told = without_strays(replace(state, scene=state.scene.with_stars(stars))).scene.stars
    np.testing.assert_array_equal(told.base_id, [1, 2, 0, 0])
    np.testing.assert_array_equal(told.base_flux > 0.0, [True, True, False, False])
    # one that is still pinned cannot have gone
    pinned = replace(state, scene=state.scene.with_stars(replace(stars, anchor_sigma=np.full(4, 0.02))))
    np.testing.assert_array_equal(without_strays(pinned).scene.stars.base_id, [1, 2, 3, 4])


@pytest.mark.parametrize("correlation", [1.0, 2.0])
def test_a_held_flux_is_known_as_well_as_colours_are(correlation):
    stars = anchored(stars_at(5, low=4.0))
    scatter = np.array([0.3, 0.3, 0.3, HELD_SCATTER, HELD_SCATTER])
    stars = replace(stars, prior_flux=stars.flux, prior_sigma=scatter * stars.flux, variance=np.full((5, 3), 1e-6))
    told = with_assigned_errors(stars, correlation)
    np.testing.assert_array_equal(told.variance[:3], stars.variance[:3])
    np.testing.assert_array_equal(told.variance[:, 1:], stars.variance[:, 1:])
    np.testing.assert_allclose(told.snr(correlation)[3:], 1.0 / 0.3, rtol=1e-4)
    # the light in the model is as it was
    assert told.flux is stars.flux
    state = state_of(np.zeros(SHAPE), stars)
    np.testing.assert_array_equal(render_stars(told, state.optics), render_stars(stars, state.optics))
