"""Smooth departures of a galaxy's light from its components, in the joint fit."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from analytic import telescope_psfs
from joint_states import BULGE, GALAXY, SHAPE, SKY, galaxy_image, image_of, noise, stars_at, state_of
from scipy import stats
from test_joint_fit import BASE, CONFIG, GALAXY_COLOUR, KERNEL, OTHER, library, make_cutout, make_field
from test_joint_fit import SHAPE as IMAGE

from sphot_mpi.flags import FitFlag
from sphot_mpi.galaxy_modes import N_MODES, Disc, modulation
from sphot_mpi.joint import Keep
from sphot_mpi.joint_measure import measure
from sphot_mpi.joint_mode_prior import FALL, MODE_NAMES, ModePrior
from sphot_mpi.joint_modes import SPREAD, with_modes
from sphot_mpi.joint_pipeline import fit_base_joint, fit_scaled_joint
from sphot_mpi.joint_render import Freedom, light_of_modes, render_columns, render_galaxy
from sphot_mpi.joint_scene import galaxy_of
from sphot_mpi.model_images import render_model
from sphot_mpi.sersic import total_flux
from sphot_mpi.simulate_render import SersicScene

FREE = Freedom(galaxy_flux=True, galaxy_shape=True)
KEEP = Keep.beside_free_galaxy(2.0)
PLAIN = CONFIG.replaced({"core": {"light_modes": False}})


def draw(rng, spread=SPREAD):
    """Amplitudes as the prior expects them."""
    return rng.normal(0.0, spread * FALL)


def prior(unit=1.0, mean=0.0):
    return ModePrior(mean=np.full(N_MODES, mean), spread=SPREAD, unit=unit)


def modulated(amplitudes):
    return galaxy_image(GALAXY) * modulation(amplitudes, Disc.of((GALAXY,)), SHAPE)


def test_columns_of_modes_are_derivatives_of_the_image_and_their_sums_its_light():
    rng = np.random.default_rng(0)
    state = state_of(np.full(SHAPE, SKY), galaxy=galaxy_of((GALAXY,), tuple(draw(rng))))
    galaxy, optics = state.scene.galaxy, state.optics
    rendered = render_columns(state.scene, optics, replace(FREE, modes=prior()))
    step = rng.normal(size=N_MODES)
    moved = render_galaxy(replace(galaxy, modes=galaxy.modes + step), optics)
    columns = rendered.columns[[rendered.names.index(name) for name in MODE_NAMES]]
    # the model is linear in them; a galaxy rendered with its derivatives is the same to 1e-6 of its peak
    np.testing.assert_allclose(np.tensordot(step, columns, 1), moved - render_galaxy(galaxy, optics), atol=1e-5)
    np.testing.assert_allclose(columns.sum(axis=(1, 2)), light_of_modes(galaxy, optics), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("unit", "mean"), [(1.0, 0.0), (3.0, 0.0), (1.0, 0.1)])
def test_the_odds_are_the_ratio_of_the_marginal_likelihoods(unit, mean):
    """Of linear data whose chi2 counts `unit` a degree of freedom, written as Gaussian densities."""
    rng = np.random.default_rng(3)
    expected = prior(unit, mean)
    design = rng.normal(0.0, 4.0, (60, N_MODES))
    data = design @ (expected.mean + draw(rng)) + rng.normal(0.0, np.sqrt(unit), 60)
    covariance = np.linalg.inv(design.T @ design + np.diag(expected.precision))
    found = expected.mean + covariance @ (design.T @ (data - design @ expected.mean))
    scatter = unit * np.eye(60)
    with_them = scatter + design * (SPREAD * FALL) ** 2 @ design.T
    centre = design @ expected.mean
    truth = stats.multivariate_normal.logpdf(data, centre, with_them) - stats.multivariate_normal.logpdf(
        data, centre, scatter
    )
    assert expected.log_odds(MODE_NAMES, covariance, found) == pytest.approx(truth, rel=1e-8)


def test_a_galaxy_of_sersics_has_no_modes_and_one_that_is_none_has():
    stars = stars_at()
    for seed in range(4):
        plain = state_of(SKY + galaxy_image(GALAXY) + image_of(stars) + noise(seed), stars, galaxy_of((GALAXY,)))
        assert with_modes(plain, FREE, KEEP) is None
        light = modulated(draw(np.random.default_rng(seed)))
        other = state_of(SKY + light + image_of(stars) + noise(seed), stars, galaxy_of((GALAXY,)))
        assert with_modes(other, FREE, KEEP) is not None


def test_components_that_share_no_centre_have_no_modes():
    apart = replace(BULGE, x_0=GALAXY.x_0 + 3.0)
    light = modulated(draw(np.random.default_rng(0)))
    for bulge, expected in ((BULGE, True), (apart, False)):
        state = state_of(SKY + light + galaxy_image(bulge) + noise(), galaxy=galaxy_of((GALAXY, bulge)))
        assert (with_modes(state, FREE, KEEP) is not None) == expected


def test_amplitudes_and_total_scatter_as_their_errors_say():
    """Over galaxies whose amplitudes come from the prior."""
    rng = np.random.default_rng(8)
    totals, amplitudes, without = [], [], []
    for seed in range(40):
        truth = draw(rng)
        light = modulated(truth)
        flux = total_flux(GALAXY) + (light - galaxy_image(GALAXY)).sum()
        start = state_of(SKY + light + noise(seed), galaxy=galaxy_of((GALAXY,), (0.0,) * N_MODES))
        state, measurement = measure(start, replace(FREE, modes=prior()), KEEP, most=10, weigh=False)
        galaxy = state.scene.galaxy
        found = galaxy.fluxes.sum() + galaxy.modes @ light_of_modes(galaxy, state.optics)
        totals.append((found - flux) / measurement.flux_error)
        error = np.sqrt(np.diag(measurement.block(list(MODE_NAMES))))
        amplitudes.append((galaxy.modes - truth)[-7:] / error[-7:])
        bare = state_of(SKY + light + noise(seed), galaxy=galaxy_of((GALAXY,)))
        plain, _ = measure(bare, FREE, KEEP, most=10, weigh=False)
        without.append(abs(plain.scene.galaxy.fluxes.sum() / flux - 1.0) / abs(found / flux - 1.0))
    # 40 deviates tell their rms to 11 %; of high degree, for n and r_eff take up some of the low ones
    assert 0.7 < np.sqrt(np.mean(np.square(totals))) < 1.4
    assert 0.7 < np.sqrt(np.mean(np.square(amplitudes))) < 1.4
    assert np.median(without) > 2.0


def arms(shape, light):
    """Relative brightness of two arms, up to a third more and less than the disk."""
    y, x = np.indices(shape)
    dx, dy = x - light.x_0, y - light.y_0
    along = dx * np.cos(light.theta) + dy * np.sin(light.theta)
    across = (dy * np.cos(light.theta) - dx * np.sin(light.theta)) / (1.0 - light.ellip)
    radius = np.hypot(along, across) / light.r_eff
    return 0.35 * np.cos(2.0 * np.arctan2(across, along) - 5.0 * radius) * np.exp(-0.5 * ((radius - 0.9) / 0.4) ** 2)


@cache
def armed(name, seed):
    """Cutout of a field whose galaxy has arms, and the galaxy's flux."""
    field = make_field(50, seed=seed)
    (light,) = field.components
    colour = 1.0 if name == BASE else 10.0 ** (-0.4 * GALAXY_COLOUR)
    smooth = colour * SersicScene.of(light).render(IMAGE, telescope_psfs()[name].blurred(KERNEL[name]))
    more = smooth * arms(IMAGE, light)
    cutout = make_cutout(field, name, seed=seed, with_error=True)
    return replace(cutout, data=cutout.data + more), colour * total_flux(light) + more.sum()


def test_a_galaxy_with_arms_keeps_its_light_from_the_stars():
    with_them, without = [], []
    for seed in range(5):
        cutout, flux = armed(BASE, seed)
        for config, errors in ((CONFIG, with_them), (PLAIN, without)):
            fit = fit_base_joint(cutout, library(BASE), config)
            assert (FitFlag.MODULATED in fit.flags) == (config is CONFIG) == bool(fit.modes)
            errors.append(abs(fit.total_flux / flux - 1.0))
    # five errors tell their rms to a third
    assert np.sqrt(np.mean(np.square(with_them))) < 0.75 * np.sqrt(np.mean(np.square(without)))


def test_other_filters_have_the_base_filters_modes_and_the_images_have_them():
    (cutout, flux), (other, other_flux) = armed(BASE, 0), armed(OTHER, 0)
    base = fit_base_joint(cutout, library(BASE), CONFIG)
    fit = fit_scaled_joint(other, library(OTHER), base, cutout, CONFIG)
    assert len(base.modes) == N_MODES
    assert fit.modes == base.modes
    colour = (fit.total_flux / base.total_flux) / (other_flux / flux)
    assert colour == pytest.approx(1.0, abs=0.02)
    for one, image in ((base, cutout), (fit, other)):
        model = render_model(one, image, library(image.filter))
        # off the edge lies a thousandth of the light
        assert model.sersic.sum() == pytest.approx(one.flux_in_cutout, rel=1e-3)
        smooth = render_model(replace(one, modes=()), image, library(image.filter)).sersic
        disc = Disc.of(one.components)
        np.testing.assert_allclose(model.sersic, smooth * modulation(one.modes, disc, image.shape), rtol=1e-12)
        left, without = (np.nansum((image.data - image_of_fit) ** 2) for image_of_fit in (
            model.sersic + model.sources + model.sky, smooth + model.sources + model.sky))  # fmt: skip
        assert left < 0.95 * without
