"""Errors of a galaxy that its model does not fit."""

import numpy as np
import pytest
from joint_states import GALAXY, SHAPE, SKY, galaxy_image, image_of, noise, stars_at, state_of

from sphot_mpi.joint import Keep
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_measure import measure
from sphot_mpi.joint_misfit import LEAST_MISFIT, widened, with_misfit
from sphot_mpi.joint_render import Freedom
from sphot_mpi.sersic import total_flux

FREE, SCALED = Freedom(galaxy_flux=True, galaxy_shape=True), Freedom(galaxy_scale=True)
KEEP = Keep.beside_free_galaxy(2.0)


def random_covariance(rng, k=5):
    root = rng.normal(size=(k, k + 3))
    return root @ root.T


def lumps(rng, n=30, size=1.3, part=0.03):
    """Bright and dark Gaussians on the galaxy, each with some part of its light there, of a random sign."""
    y, x = np.indices(SHAPE)
    radius = np.sqrt(rng.uniform(0.0, 1.0, n)) * 2.0 * GALAXY.r_eff
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    image = np.zeros(SHAPE)
    for x0, y0 in zip(GALAXY.x_0 + radius * np.cos(angle), GALAXY.y_0 + radius * np.sin(angle), strict=True):
        image += rng.choice((-1.0, 1.0)) * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / size**2)
    return part * total_flux(GALAXY) / (2.0 * np.pi * size**2) * image / np.sqrt(n)


def measured(data, freedom, stars=None):
    state, measurement = measure(state_of(SKY + data, stars, galaxy_of((GALAXY,))), freedom, KEEP, most=8, weigh=False)
    return state, measurement, with_misfit(state, measurement)


def test_a_covariance_is_widened_to_what_is_seen_and_only_along_the_axes_that_show_more():
    rng = np.random.default_rng(0)
    noise_only = random_covariance(rng)
    np.testing.assert_allclose(widened(noise_only, 0.9 * LEAST_MISFIT * noise_only), noise_only, rtol=1e-12)
    np.testing.assert_allclose(widened(noise_only, 7.0 * noise_only), 7.0 * noise_only, rtol=1e-9)
    pull = rng.normal(size=5)
    seen = noise_only + 30.0 * np.outer(pull, pull)
    np.testing.assert_allclose(widened(noise_only, seen), seen, rtol=1e-9)


def test_widening_does_not_hang_on_the_choice_of_unknowns():
    rng = np.random.default_rng(1)
    noise_only, seen, turn = random_covariance(rng), 3.0 * random_covariance(rng), rng.normal(size=(5, 5))
    there = widened(turn @ noise_only @ turn.T, turn @ seen @ turn.T)
    np.testing.assert_allclose(there, turn @ widened(noise_only, seen) @ turn.T, rtol=1e-7, atol=1e-7)


def test_what_is_not_known_stays_unknown():
    noise_only = np.diag([1.0, 0.0, 2.0])
    there = widened(noise_only, np.diag([9.0, 5.0, 1.0]))
    np.testing.assert_allclose(there, np.diag([9.0, 0.0, 2.0]), rtol=1e-12)


@pytest.mark.parametrize("freedom", [FREE, SCALED])
def test_a_galaxy_that_its_model_fits_keeps_its_errors(freedom):
    stars = stars_at()
    _, before, after = measured(galaxy_image(GALAXY) + image_of(stars) + noise(3), freedom, stars)
    assert after.flux_error == pytest.approx(before.flux_error, rel=1e-9)
    assert {name.rpartition(".")[2] for name in after.names} <= {"flux", "x_0", "y_0", "ln_r", "ln_n", "eta_1", "eta_2",
                                                                 "scale"}  # fmt: skip


@pytest.mark.parametrize("freedom", [FREE, SCALED])
def test_errors_of_a_lumpy_galaxy_are_those_that_its_lumps_make(freedom):
    """Of 60 galaxies with lumps at random places, flux and place scatter as their errors say, noise alone does not."""
    rng = np.random.default_rng(5)
    pulls, before_pulls, places = [], [], []
    for index in range(60):
        state, before, after = measured(galaxy_image(GALAXY) + lumps(rng) + noise(index), freedom)
        error = state.scene.galaxy.fluxes.sum() - total_flux(GALAXY)
        pulls.append(error / after.flux_error)
        before_pulls.append(error / before.flux_error)
        if freedom is FREE:
            places.append((state.scene.galaxy.centres[0, 0] - GALAXY.x_0) / np.sqrt(after.block(["0.x_0"])[0, 0]))
    # 60 pulls tell their rms to 9 %; a lump on the centre, across parts or beside many others pulls more than its part
    assert 0.7 < np.sqrt(np.mean(np.square(pulls))) < 1.7
    assert np.sqrt(np.mean(np.square(before_pulls))) > 5.0
    if places:
        assert 0.7 < np.sqrt(np.mean(np.square(places))) < 1.7
