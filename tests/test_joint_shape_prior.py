"""What a filter's own data and expectation say of a galaxy's shape there."""

from dataclasses import replace

import numpy as np
import pytest
from joint_states import SHAPE, SKY, noise, state_of
from test_joint_fit import CONFIG, GALAXY, OTHER, base_cutout, base_fit, crowded, library, make_cutout

from sphot_mpi.flags import FitFlag
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_measure import Measurement, ShapeChange
from sphot_mpi.joint_pipeline import fit_scaled_joint
from sphot_mpi.joint_shape_prior import (
    DIFFERENT,
    LEAST_PART,
    SCATTER,
    SHARE_SCATTER,
    shape_change,
    untold_change,
    with_change,
)
from sphot_mpi.psf_correction import ShapeErrors, colour_variance, total_light, vector_covariance
from sphot_mpi.simulate_render import total_flux

NAMES = ("0.flux", "0.ln_r", "0.ln_n")
#: Light of the galaxy in the other filter over that of its parameters.
COLOUR = 10.0 ** (-0.4 * 0.43)


def change_of(found, errors, correlation=0.0, response=(0.0, 0.0)):
    """As told by a free profile: the change it found, its errors, and what the flux follows of it."""
    base = galaxy_of((GALAXY,))
    shapes = base.shapes.copy()
    shapes[0, :2] += found
    told = np.outer(errors, errors) * np.array([[1.0, correlation], [correlation, 1.0]])
    covariance = np.zeros((3, 3))
    covariance[1:, 1:], covariance[0, 1:] = told, told @ response
    covariance[1:, 0], covariance[0, 0] = covariance[0, 1:], 1.0 + response @ told @ np.asarray(response)
    measurement = Measurement(names=NAMES, covariance=covariance, quiet=True)
    return shape_change(base, replace(base, shapes=shapes), measurement), told


@pytest.mark.parametrize(
    ("found", "errors", "correlation"),
    [((0.0, 0.0), (0.03, 0.06), 0.3), ((0.08, -0.05), (0.05, 0.08), -0.5), ((0.3, 0.2), (0.15, 0.2), 0.0)],
)
def test_mean_and_covariance_are_those_of_galaxies_that_would_have_been_seen_like_this(found, errors, correlation):
    change, told = change_of(found, errors, correlation)
    rng = np.random.default_rng(1)
    true = rng.normal(0.0, SCATTER, (400_000, 2)) * (rng.uniform(size=400_000) < DIFFERENT)[:, None]
    off = true - found
    weight = np.exp(-0.5 * np.einsum("ni,ij,nj->n", off, np.linalg.inv(told), off))
    mean = np.average(true, axis=0, weights=weight)
    # 1 / sqrt of the draws that count: 0.3 % to 1 % of the spread
    count = weight.sum() ** 2 / (weight**2).sum()
    spread = np.sqrt(np.diag(change.covariance))
    np.testing.assert_array_less(np.abs(change.mean - mean), 5.0 * spread / np.sqrt(count))
    covariance = np.cov(true.T, aweights=weight)
    np.testing.assert_allclose(change.covariance, covariance, atol=10.0 * spread.max() ** 2 / np.sqrt(count))


def test_what_is_told_well_stands_and_what_is_not_told_is_expectation():
    clear, told = change_of((0.1, 0.05), (0.002, 0.004))
    np.testing.assert_allclose(clear.mean, (0.1, 0.05), rtol=1e-2)
    np.testing.assert_allclose(clear.covariance, told, rtol=1e-2)
    dark, _ = change_of((0.1, 0.05), (50.0, 50.0), response=(30.0, -4.0))
    np.testing.assert_allclose(dark.mean, 0.0, atol=1e-5)
    np.testing.assert_allclose(dark.covariance, DIFFERENT * np.diag(np.square(SCATTER)), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        untold_change(galaxy_of((GALAXY,)), clear).covariance, dark.covariance, rtol=1e-3, atol=1e-6
    )
    # the flux follows as its covariance with the shape says
    np.testing.assert_allclose(dark.response, (30.0, -4.0), rtol=1e-6)
    assert dark.flux == pytest.approx(30.0 * dark.mean[0] - 4.0 * dark.mean[1])


def test_the_same_shape_seen_well_is_hardly_in_doubt():
    change, told = change_of((0.002, 0.0), (0.005, 0.01))
    # it would have to differ by less than a thirtieth of what is expected of one that does
    assert np.abs(change.mean).max() < 1e-4
    assert np.sqrt(np.diag(change.covariance)).max() < 0.15 * np.sqrt(np.diag(told)).max()


def test_a_fit_without_a_covariance_tells_nothing():
    base = galaxy_of((GALAXY,))
    measurement = Measurement(names=NAMES, covariance=np.zeros((3, 3)), quiet=True)
    assert shape_change(base, base, measurement) is None


def test_what_is_not_done_is_one_more_error():
    change, _ = change_of((0.1, 0.0), (0.05, 0.05))
    left = change.left_out()
    assert not left.mean.any()
    np.testing.assert_allclose(left.covariance, change.covariance + np.outer(change.mean, change.mean))
    np.testing.assert_array_equal(change.done().covariance, change.covariance)


def fit_of(size, light):
    """Fit of the other filter, where the galaxy is larger and fainter, with its true flux."""
    larger = replace(GALAXY, r_eff=size * GALAXY.r_eff, amplitude=light * GALAXY.amplitude / size**2)
    cutout = make_cutout(replace(crowded(), components=(larger,)), OTHER, with_error=True)
    return cutout, COLOUR * total_flux(larger)


@pytest.mark.parametrize(("size", "light"), [(1.1, 0.1), (1.2, 0.1), (1.2, 0.05)])
def test_a_faint_galaxy_that_is_larger_in_a_filter_has_an_honest_error(size, light):
    cutout, true = fit_of(size, light)
    fit = fit_scaled_joint(cutout, library(OTHER), base_fit(), base_cutout(), CONFIG)
    pinned_config = CONFIG.replaced({"core": {"profile_by_filter": False}})
    pinned = fit_scaled_joint(cutout, library(OTHER), base_fit(), base_cutout(), pinned_config)
    assert FitFlag.SHAPE_WEIGHED in fit.flags
    # its own profile was up to 16 % too bright, the pinned one is 7 to 14 % too faint with an error of 2 to 4 %
    assert abs(fit.total_flux - true) < 2.0 * fit.total_flux_err
    assert abs(fit.total_flux - true) < abs(pinned.total_flux - true)
    assert GALAXY.r_eff < fit.components[0].r_eff < 1.1 * size * GALAXY.r_eff
    # the parameters' covariance tells the total's error, and the base filter's share of it cancels in a colour
    errors, base_errors = (ShapeErrors(one, base_fit()) for one in (fit, base_fit()))
    assert errors.shared
    light_here, base_light = total_light(fit.components), total_light(base_fit().components)
    assert errors.flux_err(light_here) == pytest.approx(fit.total_flux_err, rel=1e-6)
    fluxes = vector_covariance(fit)[::7, ::7].sum()
    assert np.sqrt(fluxes + fit.excess.error**2) == pytest.approx(fit.total_flux_err, rel=1e-6)
    apart = errors.relative_variance(light_here) + base_errors.relative_variance(base_light)
    assert colour_variance(light_here, errors, base_light, base_errors) < apart


def test_a_bright_galaxy_of_the_same_shape_keeps_it_and_its_error():
    cutout, true = fit_of(1.0, 1.0)
    fit = fit_scaled_joint(cutout, library(OTHER), base_fit(), base_cutout(), CONFIG)
    pinned_config = CONFIG.replaced({"core": {"profile_by_filter": False}})
    pinned = fit_scaled_joint(cutout, library(OTHER), base_fit(), base_cutout(), pinned_config)
    assert fit.total_flux == pytest.approx(true, rel=0.01)
    assert fit.total_flux == pytest.approx(pinned.total_flux, rel=1e-3)
    assert pinned.total_flux_err <= fit.total_flux_err < 1.2 * pinned.total_flux_err


def two_components(share, found):
    """Expected and found galaxies of two components, the latter's flux, shapes and share changed."""
    base = galaxy_of((replace(GALAXY, amplitude=0.2), replace(GALAXY, r_eff=0.3 * GALAXY.r_eff)))
    base = replace(base, fluxes=np.array([10.0, 10.0 * share]))
    shapes = base.shapes.copy()
    shapes[:, :2] += found
    return base, replace(base, shapes=shapes, fluxes=base.fluxes * (1.1, 1.3))


def test_two_components_have_shapes_and_a_share_that_may_differ():
    base, found = two_components(0.4, [[0.1, 0.0], [-0.05, 0.1]])
    names = ("0.flux", "1.flux", "0.ln_r", "0.ln_n", "1.ln_r", "1.ln_n")
    measurement = Measurement(names=names, covariance=np.diag([0.01, 0.01, *[0.001] * 4]) ** 2, quiet=True)
    change = shape_change(base, found, measurement)
    # the second one has gained 1.2 beyond its part of the first one's gain, which is the gain of the total by 0.4
    np.testing.assert_allclose(change.mean, [0.1, 0.0, -0.05, 0.1, 5.2 - 0.4 * 11.0], rtol=1e-2, atol=1e-4)
    slopes = change.flux_slopes(base.fluxes)
    # whatever changes, the components' fluxes add up to the total, and the second one's is its share and the rest
    np.testing.assert_allclose(slopes.sum(axis=0), change.response, atol=1e-12)
    np.testing.assert_allclose(slopes[1] - 0.4 * slopes[0], [0.0, 0.0, 0.0, 0.0, 1.0], atol=1e-12)
    untold = untold_change(base, change)
    spread = np.sqrt(np.diag(untold.covariance) / DIFFERENT)
    np.testing.assert_allclose(spread, [*SCATTER, *SCATTER, SHARE_SCATTER * 4.0])


def test_a_component_that_is_not_there_in_a_filter_does_not_become_dark():
    base, _ = two_components(0.4, 0.0)
    k = np.arange(5) == 4
    change = ShapeChange(mean=-6.0 * k, covariance=np.eye(5), response=np.zeros(5))
    frame_state = state_of(np.full(SHAPE, SKY) + noise(), galaxy=base)
    fluxes = with_change(frame_state, change).scene.galaxy.fluxes
    assert fluxes[0] > base.fluxes[0]
    assert fluxes[1] == pytest.approx(LEAST_PART * base.fluxes[1])
