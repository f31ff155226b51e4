"""Magnitudes that do not hang on the depth of the star fit, and profiles of a filter's own."""

from dataclasses import replace

import numpy as np
import pytest
from analytic import telescope_psfs
from test_joint_fit import (
    BASE,
    BULGE,
    CONFIG,
    DISK,
    GALAXY,
    GALAXY_COLOUR,
    KERNEL,
    OTHER,
    base_cutout,
    base_fit,
    crowded,
    library,
    lone_error,
    make_cutout,
)

from sphot_mpi.flags import FitFlag
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_measure import Measurement
from sphot_mpi.joint_pipeline import fit_base_joint, fit_scaled_joint
from sphot_mpi.joint_trial import TRIAL_PASSES, Trial
from sphot_mpi.joint_wald import profile_change
from sphot_mpi.psf_correction import ShapeErrors, total_light
from sphot_mpi.simulate_render import SersicScene, total_flux


def fits_to(depth):
    """Both filters with a ladder that ends at a depth."""
    ladder = [step for step in CONFIG.psf.snr_ladder if step > depth] + [depth] * 3
    config = CONFIG.replaced({"psf": {"snr_ladder": ladder}})
    base = fit_base_joint(base_cutout(), library(BASE), config)
    other = make_cutout(crowded(), OTHER, with_error=True)
    return base, fit_scaled_joint(other, library(OTHER), base, base_cutout(), config)


def test_the_galaxy_does_not_hang_on_the_depth_of_the_star_fit():
    shallow, deep = fits_to(6.0), fits_to(3.0)
    assert deep[0].sources.size > shallow[0].sources.size
    # the base filter's galaxy is measured before any fainter star is looked for
    assert deep[0].components == shallow[0].components
    assert deep[0].total_flux == shallow[0].total_flux
    # of the other filter's anchors only the law of their position errors is taken from the deep fit
    assert deep[1].total_flux == pytest.approx(shallow[1].total_flux, rel=2e-3)


def test_a_colour_gradient_gets_a_profile_of_its_own():
    field = crowded()
    compact = replace(GALAXY, r_eff=0.75 * GALAXY.r_eff, amplitude=GALAXY.amplitude / 0.75**2)
    other = make_cutout(replace(field, components=(compact,)), OTHER, with_error=True)
    own = fit_scaled_joint(other, library(OTHER), base_fit(), base_cutout(), CONFIG)
    # nor may modes make up for it
    pinned_config = CONFIG.replaced({"core": {"profile_by_filter": False, "light_modes": False}})
    pinned = fit_scaled_joint(other, library(OTHER), base_fit(), base_cutout(), pinned_config)
    assert FitFlag.OWN_PROFILE in own.flags
    assert FitFlag.OWN_PROFILE not in pinned.flags
    (got,) = own.components
    # the star field's confusion leaves a few per cent
    assert got.r_eff == pytest.approx(compact.r_eff, rel=0.05)
    # the ellipse is the base filter's
    (base,) = base_fit().components
    assert (got.ellip, got.theta) == pytest.approx((base.ellip, base.theta), rel=1e-9)
    true = 10.0 ** (-0.4 * 0.43) * total_flux(compact)
    assert abs(own.total_flux - true) < abs(pinned.total_flux - true)
    assert own.chi2_reduced < pinned.chi2_reduced
    # the parameters' covariance tells the total's error, too: what the pinned geometry does not know leaves it as it is
    for fit in (base_fit(), own, pinned):
        error = ShapeErrors(fit, base_fit()).flux_err(total_light(fit.components))
        assert error == pytest.approx(fit.total_flux_err, rel=1e-6)
    # and the ellipse is not known better than by the base filter
    for k in (5, 6):
        assert own.covariance[k, k] == pytest.approx(base_fit().covariance[k, k], rel=1e-6)


def other_fit(galaxy):
    """The other filter's fit of a field whose galaxy has another shape there."""
    other = make_cutout(replace(crowded(), components=(galaxy,)), OTHER, with_error=True)
    return fit_scaled_joint(other, library(OTHER), base_fit(), base_cutout(), CONFIG)


def test_a_star_at_the_centre_of_a_galaxy_that_is_not_seen_in_a_filter_is_found_there():
    field, flux = crowded(), 25.0 * lone_error(OTHER)
    x, y = GALAXY.x_0 + 2.0, GALAXY.y_0 - 1.0
    starred = replace(
        field, x=np.append(field.x, x), y=np.append(field.y, y), flux=np.append(field.flux, flux),
        ratio=np.append(field.ratio, 1.0), components=(),
    )  # fmt: skip
    fit = fit_scaled_joint(
        make_cutout(starred, OTHER, with_error=True), library(OTHER), base_fit(), base_cutout(), CONFIG
    )
    assert fit.total_flux < 5.0 * fit.total_flux_err
    reported = fit.sources[fit.report]
    nearest = reported[np.hypot(reported["x_fit"] - x, reported["y_fit"] - y).argmin()]
    # a part of it is taken for the galaxy, whose light is held from then on
    assert np.hypot(nearest["x_fit"] - x, nearest["y_fit"] - y) < 0.5
    assert nearest["snr"] > 5.0


@pytest.mark.parametrize("size", [1.1, 1.3])
def test_a_galaxy_that_is_larger_in_a_filter_has_all_its_light_there(size):
    larger = replace(GALAXY, r_eff=size * GALAXY.r_eff, amplitude=GALAXY.amplitude / size**2)
    fit = other_fit(larger)
    assert FitFlag.OWN_PROFILE in fit.flags
    (got,) = fit.components
    # pinned, it would be 9 and 23 % too faint. Light of stars off the image, of which this field has none, is expected
    # there, and leaves a per cent or two of the wings' to the galaxy
    true = 10.0 ** (-0.4 * 0.43) * total_flux(larger)
    assert fit.total_flux == pytest.approx(true, rel=0.03)
    assert got.r_eff == pytest.approx(larger.r_eff, rel=0.03)


@pytest.mark.parametrize("ellipse", [{"ellip": 0.1}, {"theta": 1.1}])
def test_a_galaxy_that_has_another_ellipse_in_a_filter_has_it_there(ellipse):
    # the profile is the same, and so little bright that only the ellipse tells
    turned = replace(GALAXY, **ellipse)
    turned = replace(turned, amplitude=0.3 * GALAXY.amplitude * total_flux(GALAXY) / total_flux(turned))
    fit = other_fit(turned)
    assert FitFlag.OWN_PROFILE in fit.flags
    (got,) = fit.components
    # pinned, the round one would be 12 % too faint
    assert fit.total_flux == pytest.approx(10.0 ** (-0.4 * 0.43) * total_flux(turned), rel=0.06)
    assert got.ellip == pytest.approx(turned.ellip, abs=0.05)
    if got.ellip > 0.2:
        assert got.theta == pytest.approx(turned.theta, abs=0.1)
    # everything was free: the covariance is that of a free fit
    assert ShapeErrors(fit, base_fit()).flux_err(total_light(fit.components)) == pytest.approx(
        fit.total_flux_err, rel=1e-6
    )


def test_wings_that_the_data_do_not_tell_are_refused_and_flagged():
    # a tenth as bright, and of a steeper profile, most of whose gain would be in the sky
    far = replace(GALAXY, n=4.0)
    fit = other_fit(replace(far, amplitude=0.1 * far.amplitude * total_flux(GALAXY) / total_flux(far)))
    assert FitFlag.WINGS_UNTOLD in fit.flags
    assert FitFlag.OWN_PROFILE not in fit.flags
    (base,) = base_fit().components
    (got,) = fit.components
    assert (got.r_eff, got.n) == (base.r_eff, base.n)
    assert not other_fit(GALAXY).flags & FitFlag.WINGS_UNTOLD


@pytest.mark.parametrize(("n", "kept"), [(4.0, False), (2.4, True)])
def test_a_trial_whose_wings_run_away_ends_after_half_its_solves(monkeypatch, n, kept):
    asked, settled = [], Trial.settled

    def counted(trial, freedom, keep, most=TRIAL_PASSES):
        if freedom.galaxy_profile:
            asked.append(most)
        return settled(trial, freedom, keep, most)

    monkeypatch.setattr(Trial, "settled", counted)
    other = replace(GALAXY, n=n)
    share = (0.1, 1.0)[kept] * total_flux(GALAXY) / total_flux(other)
    fit = other_fit(replace(other, amplitude=share * other.amplitude))
    assert (FitFlag.OWN_PROFILE in fit.flags) == kept
    # one that is kept comes after another of which its wings were no fault
    assert asked == [TRIAL_PASSES // 2] * (4 if kept else 1)


def test_a_ring_pulls_no_profile_whose_outskirts_pay_for_it():
    ny, nx = base_cutout().shape
    y, x = np.indices((ny, nx))
    along = (x - GALAXY.x_0) * np.cos(GALAXY.theta) + (y - GALAXY.y_0) * np.sin(GALAXY.theta)
    across = (y - GALAXY.y_0) * np.cos(GALAXY.theta) - (x - GALAXY.x_0) * np.sin(GALAXY.theta)
    radius = np.hypot(along, across / (1.0 - GALAXY.ellip)) / GALAXY.r_eff
    psf, colour = telescope_psfs()[OTHER].blurred(KERNEL[OTHER]), 10.0 ** (-0.4 * GALAXY_COLOUR)
    smooth = colour * SersicScene.of(GALAXY).render((ny, nx), psf)
    for strength, place in ((0.5, 1.0), (1.0, 1.7)):
        ring = strength * smooth * np.exp(-0.5 * ((radius - place) / 0.3) ** 2)
        other = make_cutout(crowded(), OTHER, with_error=True)
        other = replace(other, data=other.data + ring)
        fit = fit_scaled_joint(other, library(OTHER), base_fit(), base_cutout(), CONFIG)
        assert FitFlag.WINGS_UNTOLD in fit.flags
        assert [(c.r_eff, c.n) for c in fit.components] == [(c.r_eff, c.n) for c in base_fit().components]
        # with profiles of their own they would be off by -10 and +14 %
        assert fit.total_flux == pytest.approx(colour * total_flux(GALAXY) + ring.sum(), rel=0.04)


def test_a_galaxy_whose_light_stands_elsewhere_in_a_filter_is_found_there():
    moved = replace(GALAXY, x_0=GALAXY.x_0 + 0.5, y_0=GALAXY.y_0 - 0.3)
    fit = other_fit(moved)
    (got,) = fit.components
    assert FitFlag.DISPLACED in fit.flags
    errors = np.sqrt(np.diagonal(fit.covariance)[3:5])
    # the shift is the stars', the place the galaxy's own: 4 of its errors, and what the PSF's interpolation leaves
    assert np.hypot(*fit.shift) < 0.05
    np.testing.assert_array_less(np.abs([got.x_0 - moved.x_0, got.y_0 - moved.y_0]), 4.0 * errors + 0.01)
    # an error of the place, half a pixel here, is much larger than that of its measurement
    assert errors.max() < 0.1
    true = 10.0 ** (-0.4 * 0.43) * total_flux(moved)
    assert fit.total_flux == pytest.approx(true, rel=0.02)


def test_a_faint_galaxy_is_followed_for_several_pixels():
    # in a single solve it may go one pixel, which is not significant yet
    moved = replace(GALAXY, amplitude=0.02 * GALAXY.amplitude, x_0=GALAXY.x_0 + 2.5, y_0=GALAXY.y_0 - 1.5)
    fit = other_fit(moved)
    (got,) = fit.components
    assert FitFlag.DISPLACED in fit.flags
    errors = np.sqrt(np.diagonal(fit.covariance)[3:5])
    np.testing.assert_array_less(np.abs([got.x_0 - moved.x_0, got.y_0 - moved.y_0]), 4.0 * errors)
    true = 10.0 ** (-0.4 * 0.43) * total_flux(moved)
    assert abs(fit.total_flux - true) < 4.0 * fit.total_flux_err


def test_a_galaxy_that_stands_where_it_did_is_not_displaced():
    assert FitFlag.DISPLACED not in other_fit(GALAXY).flags


def test_a_galaxy_whose_place_only_faint_stars_tell_moves_and_keeps_its_light():
    faint = replace(GALAXY, amplitude=0.1 * GALAXY.amplitude)
    near, far = (other_fit(replace(faint, x_0=faint.x_0 + d, y_0=faint.y_0 - d)) for d in (0.05, 0.2))
    # at its light's measurement both are too near to be found elsewhere, and the near one keeps its place
    assert FitFlag.DISPLACED not in near.flags
    assert FitFlag.DISPLACED in far.flags
    (base,), (held,), (got,) = (fit.components for fit in (base_fit(), near, far))
    assert (held.x_0, held.y_0) == pytest.approx((base.x_0 + near.shift[0], base.y_0 + near.shift[1]), abs=1e-9)
    errors = np.sqrt(np.diag(far.covariance))[3:5]
    np.testing.assert_array_less(np.abs([got.x_0 - faint.x_0 - 0.2, got.y_0 - faint.y_0 + 0.2]), 3.0 * errors)
    # its error is that of this filter's data, not that of the stars' shift
    assert errors.min() > 3.0 * np.sqrt(near.covariance[3, 3])
    # 0.2 px are nothing to its light
    assert far.total_flux == pytest.approx(near.total_flux, rel=0.01)


def test_the_change_of_a_profile_is_counted_in_its_errors():
    expected = galaxy_of((GALAXY,))
    found = replace(expected, shapes=expected.shapes + np.array([[0.1, -0.2, 0.0, 0.0]]))
    names = ("0.ln_r", "0.ln_n", "0.flux")
    measurement = Measurement(names=names, covariance=np.diag([0.05, 0.1, 1.0]) ** 2, quiet=True)
    # 2 sigma in each of two parameters without correlation
    assert profile_change(expected, found, measurement) == pytest.approx(8.0)
    assert profile_change(expected, expected, measurement) == 0.0


def test_a_change_of_the_components_shares_counts_and_a_common_factor_does_not():
    expected = galaxy_of((GALAXY, replace(GALAXY, r_eff=3.0, n=1.0)))
    names = ("0.ln_r", "0.ln_n", "1.ln_r", "1.ln_n", "0.flux", "1.flux")
    measurement = Measurement(names=names, covariance=np.eye(6), quiet=True)
    brighter = replace(expected, fluxes=3.0 * expected.fluxes)
    assert profile_change(expected, brighter, measurement) == pytest.approx(0.0, abs=1e-12)
    redder = replace(expected, fluxes=expected.fluxes * np.array([1.0, 2.0]))
    assert profile_change(expected, redder, measurement) > 1.0


def test_a_core_whose_light_stands_elsewhere_in_a_filter_is_found_there():
    disk = replace(GALAXY, amplitude=0.6, r_eff=14.0, n=0.7)
    core = replace(GALAXY, amplitude=1.0, r_eff=3.0, n=1.0, ellip=0.1, y_0=GALAXY.y_0 + 3.0)
    field = replace(crowded(), components=(disk, core))
    image = make_cutout(field, with_error=True)
    base = fit_base_joint(image, library(BASE), CONFIG)
    # dust of the base filter gone, it is much brighter here, and centred on a place of its own
    bright = replace(core, amplitude=4.0, y_0=core.y_0 - 1.5)
    other = make_cutout(replace(field, components=(disk, bright)), OTHER, with_error=True)
    fit = fit_scaled_joint(other, library(OTHER), base, image, CONFIG)
    assert FitFlag.OWN_PROFILE in fit.flags
    small = min(fit.components, key=lambda c: c.r_eff)
    # the star field's confusion leaves a per cent of its width
    assert (small.x_0, small.y_0) == pytest.approx((bright.x_0, bright.y_0), abs=0.05)
    assert small.r_eff == pytest.approx(bright.r_eff, rel=0.05)
    true = 10.0 ** (-0.4 * 0.43) * (total_flux(disk) + total_flux(bright))
    # profile and shares alone would leave four per cent
    assert fit.total_flux == pytest.approx(true, rel=0.01)
    # everything was free: the covariance is that of a free fit
    assert ShapeErrors(fit, base).flux_err(total_light(fit.components)) == pytest.approx(fit.total_flux_err, rel=1e-6)


def test_components_of_very_different_colours_have_their_shares():
    # the bulge, bright in the base filter, has a quarter of that light here: pinned, the disk would come out too faint
    field = replace(crowded(), components=(DISK, BULGE))
    image = make_cutout(field, with_error=True)
    base = fit_base_joint(image, library(BASE), CONFIG)
    blue = (DISK, replace(BULGE, amplitude=0.25 * BULGE.amplitude))
    other = make_cutout(replace(field, components=blue), OTHER, with_error=True)
    fit = fit_scaled_joint(other, library(OTHER), base, image, CONFIG)
    assert FitFlag.OWN_PROFILE in fit.flags
    true = 10.0 ** (-0.4 * 0.43) * sum(total_flux(c) for c in blue)
    # the base filter's disk and bulge are known to a few per cent
    assert fit.total_flux == pytest.approx(true, rel=0.04)
