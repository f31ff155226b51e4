"""Blends: two stars with one peak are fitted as two, a single star is left alone."""

from dataclasses import replace

import numpy as np
import pytest
from analytic import telescope_psfs
from joint_states import SKY, image_of, noise, stars_at, state_of

from sphot_mpi.joint import State, solve
from sphot_mpi.joint_blends import split_blends
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_scene import PAD, Frame, Optics, Scene
from sphot_mpi.joint_sources import Stars
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.simulate_render import render_stars

SHAPE, NOISE, KERNEL = (71, 81), 0.01, 0.9
FLUX = 12.0
#: Single bright stars, against which a blend's misfit is judged.
PLACES = np.array([[15.3, 14.8], [61.2, 12.4], [18.9, 55.1], [62.7, 57.6], [40.4, 60.2]])


def field(x, y, flux, seed=0):
    """Frame and optics of a field of stars with white noise."""
    psf = telescope_psfs()["F150W"]
    image = render_stars(SHAPE, psf.blurred(KERNEL), x, y, flux)
    data = image + np.random.default_rng(seed).normal(0.0, NOISE, SHAPE)
    frame = Frame.from_image(data, np.full(SHAPE, NOISE), np.zeros(SHAPE, bool), NOISE, 1.0)
    return frame, Optics.start(LibraryPSF.from_array(psf.array, psf.oversample), KERNEL, frame)


def solved(frame, optics, x, y, flux):
    """State of the field, solved with one star at each of the places given."""
    stars = replace(Stars.new(x + PAD, y + PAD, flux.copy()), free=np.ones(x.size, bool))
    state = State.start(Scene(stars=stars, galaxy=None), optics)
    for _ in range(4):
        state = solve(state, Freedom())
    return state


def blend(apart, share, turn):
    """A pair in the middle of five single stars, solved as one."""
    u = np.array([np.cos(turn), np.sin(turn)]) * apart
    pair = np.array([41.2, 33.7]) + np.array([-(1 - share) * u, share * u])
    x, y = np.vstack((PLACES, pair)).T
    flux = FLUX * np.array([1.0, 0.7, 1.4, 0.9, 1.2, 2 * share, 2 * (1 - share)])
    frame, optics = field(x, y, flux)
    first = np.vstack((PLACES, [41.2, 33.7])).T
    return solved(frame, optics, *first, np.append(flux[:5], 2 * FLUX)), (x, y, flux)


@pytest.mark.parametrize(("apart", "share", "turn"), [(1.1, 0.5, 0.4), (1.4, 0.3, 1.9), (1.8, 0.8, 2.6)])
def test_a_blend_is_fitted_as_two_stars(apart, share, turn):
    # 0.4 to 0.65 FWHM apart
    state, (x, y, flux) = blend(apart, share, turn)
    split = split_blends(state)
    assert split.scene.stars.size == state.scene.stars.size + 1
    for _ in range(4):
        split = solve(split, Freedom())
    stars = split.scene.stars
    for k in (5, 6):
        distance = np.hypot(stars.x - PAD - x[k], stars.y - PAD - y[k])
        near = int(np.argmin(distance))
        sigma = np.sqrt(stars.variance[near])
        # fluxes and places of a pair are known as well as their errors say
        assert abs(stars.flux[near] - flux[k]) < 4.0 * sigma[0]
        assert distance[near] < 4.0 * np.hypot(sigma[1], sigma[2])
    assert split.step is not None
    # both are in the model now, so that chi2 is that of the noise: sqrt(2 / n) of it is 0.02
    assert split.step.chi2 / np.prod(SHAPE) == pytest.approx(1.0, abs=0.1)


def test_single_stars_stay_single():
    x, y = PLACES.T
    flux = FLUX * np.linspace(0.5, 3.0, 5)
    frame, optics = field(x, y, flux)
    state = solved(frame, optics, x, y, flux)
    assert split_blends(state) is state


def test_a_psf_that_is_wrong_for_all_stars_splits_none():
    x, y = PLACES.T
    frame, optics = field(x, y, np.full(5, FLUX))
    wrong = Optics.start(optics.psf.library, 1.2, frame)
    state = solved(frame, wrong, x, y, np.full(5, FLUX))
    assert split_blends(state) is state


def test_stars_of_another_filters_list_are_never_split():
    state, _ = blend(1.4, 0.5, 0.4)
    stars = state.scene.stars
    anchored = replace(stars, anchor_sigma=np.full(stars.size, 0.1))
    state = replace(state, scene=state.scene.with_stars(anchored))
    assert split_blends(state) is state


def test_a_star_that_runs_up_a_brighter_ones_wing_stays_single():
    # a bright star that is not in the model draws the trial star off its window
    x, y = PLACES.T
    bright = np.array([41.2, 33.7])
    frame, optics = field(np.append(x, bright[0]), np.append(y, bright[1]), np.append(np.full(5, FLUX), 1e3 * FLUX))
    for distance in (5.5, 6.0, 6.5, 7.0):
        there = Stars.new(np.append(x, bright[0] + distance) + PAD, np.append(y, bright[1]) + PAD, np.full(6, FLUX))
        state = State.start(Scene(stars=replace(there, free=np.ones(6, bool)), galaxy=None), optics)
        state = solve(state, Freedom())
        placed = replace(state.scene.stars, x=there.x, y=there.y, flux=there.flux)
        split = split_blends(replace(state, scene=state.scene.with_stars(placed)))
        assert np.isfinite(split.scene.stars.flux).all()


@pytest.mark.parametrize("apart", [0.0, 1e-9, 1e-6, 1e-3])
def test_two_stars_that_have_come_to_stand_on_one_place_share_its_light(apart):
    there = stars_at(6)
    twice = there.join(Stars.new(there.x[:1] + apart, there.y[:1], 0.5 * there.flux[:1]))
    state = state_of(SKY + image_of(there) + noise(), twice)
    for _ in range(5):
        state = solve(state, Freedom())
    found = state.scene.stars
    assert np.isfinite([found.flux, found.x, found.y]).all()
    # of the error of a star that stands alone
    error = np.sqrt(found.variance[1, 0])
    assert found.flux[0] + found.flux[6] == pytest.approx(there.flux[0], abs=5.0 * error)
