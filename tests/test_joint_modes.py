"""Smooth departures of a galaxy's light from its components, in the joint fit."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from analytic import telescope_psfs
from joint_states import BULGE, GALAXY, NOISE, SHAPE, SKY, galaxy_image, image_of, noise, stars_at, state_of
from scipy import stats
from test_joint_fit import BASE, CONFIG, GALAXY_COLOUR, KERNEL, OTHER, library, make_cutout, make_field
from test_joint_fit import SHAPE as IMAGE

from sphot_mpi import joint_scaled
from sphot_mpi.flags import FitFlag
from sphot_mpi.galaxy_modes import CORE, MOST_MODES, N_MODES, WIDE, galaxy_modulation
from sphot_mpi.joint import Keep
from sphot_mpi.joint_measure import Measurement, measure
from sphot_mpi.joint_mode_prior import FALL, WHOLE_NAMES, ModePrior
from sphot_mpi.joint_modes import LEFT_WITHIN, LOOSE, SPREAD, light_left, with_modes, with_own_modes
from sphot_mpi.joint_pipeline import fit_base_joint, fit_scaled_joint
from sphot_mpi.joint_render import Freedom, light_of_modes, render_columns, render_galaxy
from sphot_mpi.joint_scene import components_of, galaxy_of
from sphot_mpi.model_images import render_model
from sphot_mpi.sersic import total_flux
from sphot_mpi.simulate_render import SersicScene
from sphot_mpi.unseen_light import half_light_distance

FREE = Freedom(galaxy_flux=True, galaxy_shape=True)
KEEP = Keep.beside_free_galaxy(2.0)
#: Of a galaxy that is far above the noise, and of one that is not.
SEEN, UNSEEN = (
    Measurement(names=("0.flux",), covariance=np.array([[error**2]]), quiet=True)
    for error in (1e-3 * total_flux(GALAXY), 0.5 * total_flux(GALAXY))
)
NOTHING = (0.0, 0.0)
#: Of the PSF of these states, px.
FWHM = state_of(np.zeros(SHAPE)).optics.fwhm
PLAIN = CONFIG.replaced({"core": {"light_modes": False}})


def draw(rng, spread=SPREAD):
    """Amplitudes as the prior expects them."""
    return rng.normal(0.0, spread * FALL[:N_MODES])


def prior(unit=1.0, mean=0.0):
    return ModePrior(names=WHOLE_NAMES, mean=np.full(N_MODES, mean), spread=SPREAD, unit=unit)


def modulated(amplitudes, components=(GALAXY,)):
    return galaxy_image(*components) * galaxy_modulation(amplitudes, components, FWHM, SHAPE)


def test_columns_of_modes_are_derivatives_of_the_image_and_their_sums_its_light():
    rng = np.random.default_rng(0)
    state = state_of(np.full(SHAPE, SKY), galaxy=galaxy_of((GALAXY,), tuple(draw(rng))))
    galaxy, optics = state.scene.galaxy, state.optics
    rendered = render_columns(state.scene, optics, replace(FREE, modes=prior()))
    step = rng.normal(size=N_MODES)
    moved = render_galaxy(replace(galaxy, modes=galaxy.modes + step), optics)
    columns = rendered.columns[[rendered.names.index(name) for name in WHOLE_NAMES]]
    # beyond their rows there is nothing, and within them something
    for image, (start, stop) in zip(rendered.images, rendered.rows, strict=True):
        assert image[start:stop].any()
        assert not image[:start].any()
        assert not image[stop:].any()
    first, last = rendered.rows[rendered.names.index(WHOLE_NAMES[0])]
    assert 0 < first < last < optics.frame.shape[0]
    # the model is linear in them; a galaxy rendered with its derivatives is the same to 1e-6 of its peak
    np.testing.assert_allclose(np.tensordot(step, columns, 1), moved - render_galaxy(galaxy, optics), atol=1e-5)
    np.testing.assert_allclose(columns.sum(axis=(1, 2)), light_of_modes(galaxy, optics), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spread_of_light", [None, 0.5, 1e-6])
@pytest.mark.parametrize(("unit", "mean"), [(1.0, 0.0), (3.0, 0.0), (1.0, 0.1)])
def test_the_odds_are_the_ratio_of_the_marginal_likelihoods(unit, mean, spread_of_light):
    """Of linear data whose chi2 counts `unit` a degree of freedom, written as Gaussian densities."""
    rng = np.random.default_rng(3)
    light = rng.uniform(-1.0, 3.0, N_MODES)
    expected = replace(prior(unit, mean), light=None if spread_of_light is None else light / spread_of_light)
    design = rng.normal(0.0, 4.0, (60, N_MODES))
    data = design @ (expected.mean + draw(rng)) + rng.normal(0.0, np.sqrt(unit), 60)
    covariance = np.linalg.inv(design.T @ design + expected.precision)
    found = expected.mean + covariance @ (design.T @ (data - design @ expected.mean))
    scatter = unit * np.eye(60)
    possible = np.diag((SPREAD * FALL[:N_MODES]) ** 2)
    if spread_of_light is not None:
        # what is left of it where the sum of light is known to its spread: conditioned on it
        along = possible @ light
        possible = possible - np.outer(along, along) / (light @ along + spread_of_light**2)
        assert abs(light @ (found - expected.mean)) < 3.0 * spread_of_light
    with_them = scatter + design @ possible @ design.T
    centre = design @ expected.mean
    truth = stats.multivariate_normal.logpdf(data, centre, with_them) - stats.multivariate_normal.logpdf(
        data, centre, scatter
    )
    assert expected.log_odds(WHOLE_NAMES, covariance, found) == pytest.approx(
        truth, rel=1e-8 if spread_of_light is None else 1e-3
    )


def test_a_galaxy_of_sersics_has_no_modes_and_one_that_is_none_has():
    stars = stars_at()
    for seed in range(4):
        plain = state_of(SKY + galaxy_image(GALAXY) + image_of(stars) + noise(seed), stars, galaxy_of((GALAXY,)))
        assert with_modes(plain, FREE, KEEP) is None
        light = modulated(draw(np.random.default_rng(seed)))
        other = state_of(SKY + light + image_of(stars) + noise(seed), stars, galaxy_of((GALAXY,)))
        assert with_modes(other, FREE, KEEP) is not None


@pytest.mark.parametrize("base", [False, True])
def test_another_filters_own_departures_leave_the_total_as_it_was_measured(base):
    stars, rng = stars_at(), np.random.default_rng(4)
    known = draw(rng) if base else np.zeros(N_MODES)
    galaxy = galaxy_of((GALAXY,), tuple(known) if base else ())
    for seed in range(3):
        image = SKY + image_of(stars) + noise(seed)
        same = state_of(image + modulated(known), stars, galaxy)
        assert with_own_modes(same, SEEN, KEEP, lacking=NOTHING, whole=True) is same
        light = light_of_modes(galaxy_of((GALAXY,), tuple(known)), same.optics)
        own = draw(rng)
        own[0] -= light @ own / light[0]
        other = state_of(image + modulated(known + own), stars, galaxy)
        found = with_own_modes(other, SEEN, KEEP, lacking=NOTHING, whole=True)
        flux = total_flux(GALAXY)
        # held to 1e-6, which data tell worse by far
        modes = found.scene.galaxy.modes.copy()
        modes[:N_MODES] -= known
        assert light_of_modes(found.scene.galaxy, found.optics) @ modes == pytest.approx(0.0, abs=1e-5 * flux)
        np.testing.assert_array_equal(found.scene.galaxy.fluxes, other.scene.galaxy.fluxes)
        before, after = (np.mean(state.residual[other.optics.frame.good] ** 2) / NOISE**2 for state in (other, found))
        # 20,000 pixels tell a mean square to 1 %
        assert abs(after - 1.0) < 0.03
        assert before > 1.1


def test_a_core_departs_in_every_filters_own_way_and_the_rest_stays_as_it_was_measured():
    pair, rng = (GALAXY, BULGE), np.random.default_rng(6)
    known = tuple(draw(rng))
    for modes in ((), known):
        galaxy = galaxy_of(pair, modes)
        own = np.concatenate((modes or np.zeros(N_MODES), rng.normal(0.0, 2.0 * SPREAD * FALL[CORE])))
        light = light_of_modes(galaxy_of(pair, tuple(own)), state_of(np.full(SHAPE, SKY)).optics)
        own[N_MODES] -= light[N_MODES:] @ own[N_MODES:] / light[N_MODES]
        bright = state_of(SKY + modulated(own, pair) + noise(1), galaxy=galaxy)
        found = with_own_modes(bright, SEEN, KEEP, lacking=NOTHING, whole=False).scene.galaxy
        np.testing.assert_array_equal(found.modes[:N_MODES], own[:N_MODES])
        # 2 and 3 %, by the noise
        before, after = (modulated(one, pair) - modulated(own, pair) for one in (own[:N_MODES], found.modes))
        assert np.abs(after).sum() < 0.1 * np.abs(before).sum()
        same = state_of(SKY + modulated(own[:N_MODES], pair) + noise(2), galaxy=galaxy)
        assert with_own_modes(same, SEEN, KEEP, lacking=NOTHING, whole=False) is same
    single = state_of(SKY + galaxy_image(GALAXY) + noise(3), galaxy=galaxy_of((GALAXY,)))
    assert with_own_modes(single, SEEN, KEEP, lacking=NOTHING, whole=False) is single


def test_what_no_chance_leaves_is_taken_up_against_the_odds():
    own = np.zeros(N_MODES)
    # of the highest two degrees
    own[-13:] = np.random.default_rng(3).normal(0.0, SPREAD * FALL[:N_MODES][-13:])
    galaxy = galaxy_of((GALAXY,))
    # mean chi2 of the nucleus 1.7, and 25
    for amplitude, expected in ((0.07, False), (0.4, True)):
        state = state_of(SKY + modulated(amplitude * own) + noise(1), galaxy=galaxy)
        # where so little is known, the odds are for none: -7.0 and -4.8
        state = state.with_frame(replace(state.optics.frame, correlation=20.0))
        found = with_own_modes(state, SEEN, KEEP, lacking=NOTHING, whole=True)
        assert (found is not state) == expected
        if expected:
            before, after = (
                modulated(one) - modulated(amplitude * own) for one in (0.0 * own, found.scene.galaxy.modes)
            )
            assert (after**2).sum() < 0.1 * (before**2).sum()


@pytest.mark.parametrize("off", [0.3, -0.6])
def test_a_galaxy_that_stood_off_its_place_leaves_noise_where_its_modes_are(off):
    """Which one step does not reach: modes that it finds where the galaxy was are not those where it is."""
    galaxy = galaxy_of((GALAXY,))
    there = replace(galaxy, centres=galaxy.centres + off)
    for seed in range(3):
        own = draw(np.random.default_rng(seed))
        state = state_of(SKY + modulated(own) + noise(seed), galaxy=there)
        found = with_own_modes(state, SEEN, KEEP, lacking=NOTHING, whole=True)
        left = found.optics.frame.interior(found.residual)[half_light_distance((GALAXY,), SHAPE, 0) < LEFT_WITHIN]
        # chance scatters a mean of 660 by 5.5 %
        assert (left**2).mean() < 1.2 * NOISE**2


def test_modes_are_told_by_the_images_own_errors():
    """Not by those that were widened because the galaxy had structure, which they describe."""
    own = draw(np.random.default_rng(3), 0.05)
    state = state_of(SKY + modulated(own) + noise(1), galaxy=galaxy_of((GALAXY,)))
    wide = state.with_frame(state.optics.frame.widened(np.full(state.optics.frame.shape, 20.0)))
    found, told = (with_own_modes(one, SEEN, KEEP, lacking=NOTHING, whole=True) for one in (wide, state))
    # roundings of the weights, amplified by the solve
    np.testing.assert_allclose(found.scene.galaxy.modes, told.scene.galaxy.modes, atol=1e-9)
    assert np.abs(found.scene.galaxy.modes).max() > 0.01
    # the stars after it are to know of them
    assert found.optics.frame.weight is wide.optics.frame.weight


@pytest.mark.parametrize("whole", [True, False])
def test_what_stands_out_beyond_the_disc_is_taken_up_with_its_light(whole):
    flux, more = total_flux(GALAXY), 0.02
    within = half_light_distance((GALAXY,), SHAPE, 0) < LEFT_WITHIN

    def more_light(modes):
        added = modulated(modes) - galaxy_image(GALAXY)
        return np.array([added[within].sum(), added[~within].sum()])

    # of degree 0, and of degree 2 and order 0
    round_modes = WIDE.start + np.array([0, 4])
    slopes = np.transpose([more_light(one) for one in np.eye(MOST_MODES)[round_modes]])
    for seed in range(3):
        own = np.zeros(MOST_MODES)
        own[WIDE] = np.random.default_rng(seed).normal(0.0, (4.0 if whole else 2.0) * SPREAD * FALL[WIDE])
        # what a galaxy lacks is told within 2 r_eff: beyond, this one lacks nothing
        own[round_modes] += np.linalg.solve(slopes, np.array([more * flux, 0.0]) - more_light(own))
        bright = state_of(SKY + modulated(own) + noise(seed), galaxy=galaxy_of((GALAXY,)))
        lacking = light_left(bright)
        found = with_own_modes(bright, SEEN, KEEP, lacking=lacking, whole=whole).scene.galaxy
        assert found.modes.size == MOST_MODES
        assert lacking[0] == pytest.approx(more * flux, abs=3.0 * lacking[1])
        image = modulated(found.modes, components_of(found))
        added = [(image - galaxy_image(GALAXY))[part].sum() for part in (within, ~within)]
        # noise of the 1300 pixels beyond is 0.36, and what holds the sum 0.44
        np.testing.assert_allclose(added, (more * flux, 0.0), atol=3.0 * LOOSE * flux)
        left, were = (np.abs(modulated(own) - one)[within].sum() for one in (image, galaxy_image(GALAXY)))
        assert left < 0.3 * were
        faint = state_of(SKY + modulated(0.01 * own) + noise(seed), galaxy=galaxy_of((GALAXY,)))
        assert light_left(faint) == NOTHING
        assert with_own_modes(faint, SEEN, KEEP, lacking=NOTHING, whole=whole).scene.galaxy.modes.size < MOST_MODES


def test_a_galaxy_that_is_not_seen_has_modes_only_where_what_is_left_stands_out():
    own = np.zeros(MOST_MODES)
    own[WIDE] = np.random.default_rng(1).normal(0.0, 4.0 * SPREAD * FALL[WIDE])
    # mean chi2 of the core 2.4, and 480; both are likelier with modes
    for amplitude, expected in ((0.05, False), (1.0, True)):
        state = state_of(SKY + modulated(amplitude * own) + noise(1), galaxy=galaxy_of((GALAXY,)))
        assert with_own_modes(state, SEEN, KEEP, lacking=NOTHING, whole=True) is not state
        assert (with_own_modes(state, UNSEEN, KEEP, lacking=NOTHING, whole=True) is not state) == expected


def test_a_galaxy_without_light_has_no_modes():
    state = state_of(SKY + modulated(draw(np.random.default_rng(1))) + noise(1), galaxy=galaxy_of((GALAXY,)))
    for factor in (0.0, -0.1):
        galaxy = replace(state.scene.galaxy, fluxes=factor * state.scene.galaxy.fluxes)
        dark = replace(state, scene=replace(state.scene, galaxy=galaxy))
        assert with_own_modes(dark, UNSEEN, KEEP, lacking=NOTHING, whole=True) is dark


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("place", [{"r_eff": 0.1}, {"x_0": -80.0, "y_0": 40.3}])
def test_a_core_that_leaves_nothing_or_is_not_seen_has_no_modes(whole, place):
    galaxy = galaxy_of((GALAXY, replace(BULGE, **place)), tuple(draw(np.random.default_rng(7))))
    state = state_of(SKY + noise(4), galaxy=galaxy)
    state = state_of(SKY + state.optics.frame.interior(render_galaxy(galaxy, state.optics)) + noise(4), galaxy=galaxy)
    found = with_own_modes(state, SEEN, KEEP, lacking=NOTHING, whole=whole)
    assert np.isfinite(found.scene.galaxy.modes).all()
    assert found is state


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
        error = np.sqrt(np.diag(measurement.block(list(WHOLE_NAMES))))
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


def test_other_filters_are_measured_with_the_base_filters_modes_before_they_have_their_own(monkeypatch):
    (cutout, _), (other, _) = armed(BASE, 0), armed(OTHER, 0)
    base = fit_base_joint(cutout, library(BASE), CONFIG)
    fit = fit_scaled_joint(other, library(OTHER), base, cutout, CONFIG)
    monkeypatch.setattr(joint_scaled, "with_own_modes", lambda state, *_, **__: state)
    same = fit_scaled_joint(other, library(OTHER), base, cutout, CONFIG)
    assert same.modes == base.modes[:N_MODES] != fit.modes[:N_MODES]
    # what stands out beside the base filter's may change the total, which they leave its error
    assert abs(fit.total_flux - same.total_flux) < 2.0 * same.total_flux_err
    assert fit.total_flux_err == pytest.approx(same.total_flux_err, rel=0.05)
    assert fit.chi2_reduced < same.chi2_reduced


def test_totals_and_images_have_the_modes():
    (cutout, flux), (other, other_flux) = armed(BASE, 0), armed(OTHER, 0)
    base = fit_base_joint(cutout, library(BASE), CONFIG)
    fit = fit_scaled_joint(other, library(OTHER), base, cutout, CONFIG)
    colour = (fit.total_flux / base.total_flux) / (other_flux / flux)
    assert colour == pytest.approx(1.0, abs=0.02)
    for one, image in ((base, cutout), (fit, other)):
        model = render_model(one, image, library(image.filter))
        # off the edge lies a thousandth of the light
        assert model.sersic.sum() == pytest.approx(one.flux_in_cutout, rel=1e-3)
        smooth = render_model(replace(one, modes=()), image, library(image.filter)).sersic
        factor = galaxy_modulation(one.modes, one.components, one.kernel.fwhm, image.shape)
        np.testing.assert_allclose(model.sersic, smooth * factor, rtol=1e-12)
        left, without = (np.nansum((image.data - image_of_fit) ** 2) for image_of_fit in (
            model.sersic + model.sources + model.sky, smooth + model.sources + model.sky))  # fmt: skip
        assert left < 0.95 * without
