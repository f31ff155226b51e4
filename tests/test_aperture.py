"""Aperture photometry of whole galaxies: closed forms, colours through many PSFs, all that can be missing."""

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from analytic import gaussian_library, gaussian_stars, telescope_psfs
from aperture_scenes import RoundProfile, galaxy, measured, scene

from sphot_mpi.config import load_config
from sphot_mpi.errors import ConfigError, FitError
from sphot_mpi.flags import APERTURE_FLAG_DESCRIPTIONS, ApertureFlag, FitFlag
from sphot_mpi.galaxy_modes import N_MODES, Disc, modulation
from sphot_mpi.pipeline import no_data, photometry
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import SOURCE_DTYPE, SkyPlane
from sphot_mpi.simulate_render import SersicScene
from sphot_mpi.unseen_light import FIELD, half_light_distance

BEST = load_config(preset="best")
LIBRARY = gaussian_library(1.3)
#: The Gaussian of LIBRARY with the detector's pixel in it.
SIGMA = np.sqrt(1.3**2 + 1.0 / 12.0)


def config(**aperture):
    plain = {"min_fwhm": 0.0, "PSF_corr_base_filter": "F150W", "star_light": "fitted"}
    return BEST.replaced({"aperture": plain | aperture})


def one(components=None, **aperture):
    made = scene(galaxy(1.5, 9.0, 0.3, 0.7) if components is None else components, LIBRARY)
    return measured([made], config(**aperture))["F150W"]


def test_stars_are_those_that_the_galaxy_was_measured_with():
    """Whatever came later has told nothing of its light, and the sky beside it is measured with the same ones."""
    fit, cutout, library = scene(galaxy(), LIBRARY)
    stars = np.zeros(3, SOURCE_DTYPE)
    stars["id"], stars["snr"] = (1, 2, 3), 10.0
    stars["x_init"], stars["y_init"], stars["flux_measured"] = (84.0, 75.0, 0.0), 80.0, (20.0, 10.0, 0.0)
    data = cutout.data + gaussian_stars(
        cutout.shape, stars["x_init"][:2], stars["y_init"][:2], np.array([20.0, 10.0]), 1.3
    )
    # the second one has gone since, and the first has lost light to a third
    stars["x_fit"], stars["y_fit"], stars["flux_fit"] = (84.3, 75.0, 85.0), 80.0, (12.0, 0.0, 28.0)
    full = replace(fit, sources=stars, report=np.ones(3, bool))
    record = measured([(full, replace(cutout, data=data), library)], config(size="radius", radius=15.0))["F150W"]
    plain = measured([(fit, cutout, library)], config(size="radius", radius=15.0))["F150W"]
    assert record.flux == pytest.approx(plain.flux, rel=1e-4)
    # a fit that does not tell has them all
    stars = stars.copy()
    stars["flux_measured"] = 0.0
    other = measured(
        [(replace(full, sources=stars), replace(cutout, data=data), library)], config(size="radius", radius=15.0)
    )["F150W"]
    # what was 30 is 40 now
    assert other.flux == pytest.approx(plain.flux - 10.0, abs=0.5)


# --- closed forms


@pytest.mark.parametrize("petro", [0.5, 0.2])
@pytest.mark.parametrize("n", [0.5, 1.0, 2.0, 4.0, 6.0])
def test_round_galaxies_through_a_gaussian_are_as_the_quadrature_says(n, petro):
    truth = RoundProfile(n, 12.0, SIGMA)
    record = one(galaxy(n, 12.0), petro=petro)
    assert record.radius == pytest.approx(truth.petrosian_radius(petro), rel=0.01)
    assert record.petro_radius == record.radius
    # pixels cut by the ellipse smooth once more: 0.6 % of the light at 3 px, less further out
    inside = truth.inside(record.radius)
    assert record.fraction == pytest.approx(inside, rel=0.01)
    assert record.flux == pytest.approx(1000.0 * inside, rel=0.01)
    # r20, r50, r80 of what lies within 1.5 x the radius of index 0.2
    whole = truth.inside(1.5 * truth.petrosian_radius(0.2))
    for got, part in ((record.r20, 0.2), (record.r50, 0.5), (record.r80, 0.8)):
        assert got == pytest.approx(truth.radius_holding(part * whole), rel=0.01)
    # MJy/sr px of 0.03 arcsec: 1e6 Jy/MJy * (0.03 / 206265)^2 sr
    jansky = 1000.0 * inside * 1e6 * (0.03 / 206264.806) ** 2
    assert record.mag_raw == pytest.approx(-2.5 * np.log10(jansky / 3631.0), abs=0.01)
    assert record.mag_total == pytest.approx(record.mag_raw + 2.5 * np.log10(inside), abs=0.01)


@pytest.mark.parametrize(("ellip", "theta"), [(0.5, 0.0), (0.6, 2.1)])
def test_a_flattened_galaxy_has_the_radius_of_the_round_one(ellip, theta):
    """Far above the PSF's size an ellipse is a stretched circle."""
    record = measured([scene(galaxy(1.0, 20.0, ellip, theta), gaussian_library(0.5))], config())["F150W"]
    truth = RoundProfile(1.0, 20.0, 0.3)
    assert record.radius == pytest.approx(truth.petrosian_radius(0.5), rel=0.01)
    assert record.fraction == pytest.approx(truth.inside(record.radius), rel=0.01)
    assert record.ellip == pytest.approx(ellip, abs=0.01)
    assert np.cos(2.0 * (record.theta - theta)) > 0.9999


def test_the_aperture_can_be_set_by_fraction_and_by_radius():
    half = one(size="fraction", fraction=0.5)
    assert half.fraction == pytest.approx(0.5, abs=2e-3)
    assert half.radius > 9.0  # r_eff, and the PSF
    given = one(size="radius", radius=half.radius)
    assert given.flux == pytest.approx(half.flux, rel=1e-9)
    doubled = one(petro_factor=2.0)
    assert doubled.radius == pytest.approx(2.0 * one().radius, rel=1e-9)
    assert doubled.petro_radius == pytest.approx(one().petro_radius, rel=1e-6)


def test_the_widest_psf_sets_the_least_aperture():
    small = galaxy(1.0, 2.0)
    made = [scene(small, LIBRARY), scene(small, gaussian_library(3.0), "F277W")]
    records = measured(made, config(min_fwhm=2.0))
    widest = made[1][0].kernel.fwhm
    assert {r.radius for r in records.values()} == {2.0 * widest}
    assert all(ApertureFlag.ENLARGED in r.flags for r in records.values())
    assert ApertureFlag.ENLARGED not in one(min_fwhm=0.5).flags


def test_totals_are_the_models():
    record = one()
    assert record.total_flux == pytest.approx(1000.0)
    assert record.cutout_flux == pytest.approx(scene(galaxy(1.5, 9.0, 0.3, 0.7), LIBRARY)[0].flux_in_cutout, rel=1e-5)
    assert record.model_flux == pytest.approx(record.flux, rel=1e-4)
    assert record.model_flux < record.cutout_flux < record.total_flux


@pytest.mark.parametrize("amplitude", [0.0, 0.2])
def test_modes_are_light_of_the_model(amplitude):
    """A galaxy with a bright ring: its model's light is that of the image everywhere."""
    fit, cutout, psf = scene(galaxy(1.5, 9.0, 0.3, 0.7), LIBRARY)
    modes = np.zeros(N_MODES)
    modes[0], modes[12] = amplitude, -0.7 * amplitude
    smooth = cutout.data.sum()
    image = cutout.data * modulation(modes, Disc.of(fit.components), cutout.shape)
    more = image.sum() - smooth
    assert (more != 0.0) == (amplitude != 0.0)
    fit = replace(fit, modes=tuple(modes.tolist()), total_flux=fit.total_flux + more)
    record = measured([(fit, replace(cutout, data=image), psf)], config())["F150W"]
    # the components' light to the edge is known to 1e-5 of their total
    assert record.total_flux == pytest.approx(fit.total_flux, rel=2e-5)
    assert record.cutout_flux == pytest.approx(image.sum(), rel=2e-5)
    assert record.model_flux == pytest.approx(record.flux, rel=1e-4)
    assert record.fraction == pytest.approx(record.flux / fit.total_flux, rel=1e-4)


# --- many filters


@cache
def library(name):
    psf = telescope_psfs()[name]
    return LibraryPSF.from_array(psf.array, psf.oversample)


KERNELS = {"F150W": 0.9, "F555W": 1.3, "F814W": 1.2, "F090W": 1.0, "F160W": 2.0, "F277W": 1.8}


def through_six_psfs(truth, model, shape=(131, 141)):
    """Images of a colourless galaxy by the simulator's renderer, with `model` as what the fit believes."""
    made, parts = [], [SersicScene.of(component) for component in truth]
    for name, kernel in KERNELS.items():
        psf = telescope_psfs()[name].blurred(kernel)
        image = sum(part.render(shape, psf) for part in parts)
        made.append(scene(model, library(name), name, shape=shape, kernel=kernel, image=image))
    return made


@pytest.mark.parametrize(
    ("truth", "model"),
    [
        pytest.param((galaxy(1.0, 6.0, 0.4, 0.5, (69.6, 65.2)),), None, marks=pytest.mark.slow),
        ((galaxy(4.0, 5.0, 0.2, 2.0, (69.6, 65.2)),), None),
        # the model need not be right: disk and bulge taken for one Sersic
        ((galaxy(1.0, 9.0, 0.4, 0.5, (69.6, 65.2), 750.0), galaxy(2.0, 2.5, 0.1, 0.5, (69.6, 65.2), 250.0)),
         galaxy(1.7, 7.0, 0.35, 0.5, (69.6, 65.2), 1000.0)),
    ],
)  # fmt: skip
def test_the_psf_correction_makes_a_colourless_galaxy_colourless(truth, model):
    records = measured(through_six_psfs(truth, truth if model is None else model), BEST)
    assert set(records) == set(KERNELS)
    # 0.01 mag is the promise; a right model does much better
    assert max(abs(r.colour) for r in records.values()) < (2e-3 if model is None else 0.01)
    # without the correction there is a colour
    assert np.ptp([r.mag_raw for r in records.values()]) > 0.03
    assert len({(r.radius, r.ellip, r.theta) for r in records.values()}) == 1
    assert records["F090W"].correction == 1.0
    for record in records.values():
        assert record.correction == pytest.approx(record.fraction_reference / record.fraction)
        assert record.flux_corr == pytest.approx(record.flux * record.correction)


def test_the_aperture_follows_a_filters_shift():
    there = galaxy(1.5, 9.0, 0.3, 0.7)
    moved = replace(there, x_0=there.x_0 + 1.4, y_0=there.y_0 - 0.8)
    fit, cutout, psf = scene(moved, LIBRARY, "F277W")
    records = measured([scene(there, LIBRARY), (replace(fit, shift=(1.4, -0.8)), cutout, psf)], config())
    base, other = records["F150W"], records["F277W"]
    assert (other.x - base.x, other.y - base.y) == pytest.approx((1.4, -0.8))
    assert other.flux == pytest.approx(base.flux, rel=1e-3)
    assert abs(other.colour) < 1e-3


def test_colours_of_totals_have_the_errors_of_what_filters_do_not_share():
    fit, cutout, psf = scene(galaxy(), LIBRARY)
    base = replace(fit, covariance=np.diag([1e-6, 0.04, 0.01, 1e-4, 1e-4, 1e-4, 1e-4]), total_flux_err=40.0)
    other = replace(base, filter="F277W", total_flux_err=float(np.hypot(40.0, 5.0)))
    records = measured([(base, cutout, psf), (other, replace(cutout, filter="F277W"), psf)], config())
    record = records["F277W"]
    assert record.colour_total == pytest.approx(0.0, abs=1e-9)
    # 5 of 1000 in this filter, and the base's at a fixed shape, sqrt(1e-6) of its amplitude
    held = 1e-3 / base.components[0].amplitude
    assert record.colour_total_err == pytest.approx(1.0857 * np.hypot(5e-3, held), rel=0.01)
    assert record.mag_total_err > 3.0 * record.colour_total_err


# --- the error


def test_errors_are_the_scatter_of_many_images():
    rng = np.random.default_rng(3)
    fit, cutout, psf = scene(galaxy(1.0, 6.0, centre=(65.3, 64.8)), LIBRARY, shape=(131, 133), error=0.3)
    pulls = []
    for _ in range(16):
        noisy = replace(cutout, data=cutout.data + rng.normal(0.0, 0.3, cutout.shape))
        record = measured([(fit, noisy, psf)], config(size="radius", radius=12.0, center_mask=2.0))["F150W"]
        pulls.append((record.flux - record.model_flux) / record.flux_err)
    # 16 pulls: mean to 0.25, deviation to 18 %
    assert abs(np.mean(pulls)) < 1.0
    assert 0.5 < np.std(pulls) < 1.6


def test_error_on_chooses_what_counts():
    fit, cutout, psf = scene(galaxy(), LIBRARY)
    stars = np.zeros(1, SOURCE_DTYPE)
    stars["id"], stars["x_fit"], stars["y_fit"], stars["flux_fit"], stars["flux_err"] = 1, 83.0, 79.0, 30.0, 4.0
    fit = replace(fit, sources=stars, covariance=np.diag([1e-6] + [0.0] * 6), report=np.ones(1, bool))
    found = {on: measured([(fit, cutout, psf)], config(error_on=on))["F150W"]
             for on in ("data_error", "psf_sub_data_error", "residual_error")}  # fmt: skip
    for record in found.values():
        # nearly all of the star is inside
        assert record.flux_err_stars == pytest.approx(4.0, rel=0.05)
    data, cleaned, residual = found.values()
    assert cleaned.flux_err**2 - data.flux_err**2 == pytest.approx(data.flux_err_stars**2, rel=1e-6)
    assert residual.flux_err**2 - cleaned.flux_err**2 == pytest.approx(data.model_flux_err**2, rel=1e-6)
    assert data.model_flux_err > 0.0


# --- stars


def starry(name="F150W", colour=1.0, seed=0, lump=0.0, place=(91.0, 89.0), body=1000.0):
    """A field of stars about a galaxy, all of them fitted; `lump`: light of the galaxy that was taken for a star."""
    rng = np.random.default_rng(seed)
    shape, n = (171, 175), 700
    table = np.zeros(n + 1, SOURCE_DTYPE)
    table["id"] = np.arange(1, n + 2)
    table["base_id"] = 0 if name == "F150W" else table["id"]
    table["x_fit"][:n], table["y_fit"][:n] = rng.uniform(0, shape[1] - 1, n), rng.uniform(0, shape[0] - 1, n)
    table["flux_fit"][:n] = colour * (rng.pareto(1.8, n) + 1.0)
    table["x_fit"][n], table["y_fit"][n], table["flux_fit"][n] = *place, lump
    stars = gaussian_stars(shape, table["x_fit"], table["y_fit"], table["flux_fit"], 1.3)
    smooth = galaxy(1.2, 8.0, 0.2, 0.4, (88.3, 86.2), body)
    fit, cutout, used = scene(smooth, LIBRARY, name, shape=shape, extra=stars)
    return replace(fit, sources=table, report=np.ones(n + 1, bool)), cutout, used


def test_fitted_stars_leave_the_galaxy():
    record = measured([starry()], config(star_light="fitted"))["F150W"]
    assert record.flux == pytest.approx(record.model_flux, rel=2e-3)
    assert ApertureFlag.FIELD_STARS not in record.flags


@pytest.mark.parametrize("radius", [12.0, 30.0])
def test_the_fields_mean_is_right_within_its_error(radius):
    field, pulls = config(star_light="field", size="radius", radius=radius), []
    for seed in range(14):
        record = measured([starry(seed=seed)], field)["F150W"]
        assert ApertureFlag.FIELD_STARS in record.flags
        pulls.append((record.flux - record.model_flux) / record.flux_err)
    # 14 pulls: mean to 0.27, deviation to 19 %
    assert abs(np.mean(pulls)) < 1.0
    assert 0.4 < np.std(pulls) < 1.6


def test_a_lump_that_was_taken_for_a_star_is_the_galaxys_light_again():
    for mode, expected in (("field", 3.0), ("fitted", 0.0)):
        set_by = config(star_light=mode, size="radius", radius=12.0)
        with_lump, without = (measured([starry(lump=lump)], set_by)["F150W"].flux for lump in (3.0, 0.0))
        # a little of the lump counts as a star by itself
        assert with_lump - without == pytest.approx(expected, abs=0.5)


def test_a_star_off_the_galaxy_is_not_its_light():
    # on the major axis between 2 r_eff, where lumps end, and 2.5 r_eff, where the field begins
    wide = config(star_light="field", size="radius", radius=30.0)
    place = 88.3 + 18.0 * np.cos(0.4), 86.2 + 18.0 * np.sin(0.4)
    with_star, without = (measured([starry(lump=flux, place=place)], wide)["F150W"].flux for flux in (3.0, 0.0))
    # to the accuracy to which a spline PSF is the exact Gaussian
    assert with_star - without == pytest.approx(0.0, abs=0.01 * 3.0)


@pytest.mark.parametrize("radius", [8.0, 12.0, 25.0])
def test_where_every_pixel_has_its_star_the_fields_mean_is_the_fitted_light(radius):
    # no chance is left in their number; what could differ is light across the border of the area where lumps may be
    body, shape, flux = galaxy(1.2, 6.0, 0.2, 0.4, (52.3, 50.2)), (101, 103), 0.01
    y, x = (axis.ravel().astype(float) for axis in np.indices(shape))
    table = np.zeros(y.size, SOURCE_DTYPE)
    table["id"], table["x_fit"], table["y_fit"], table["flux_fit"] = np.arange(1, y.size + 1), x, y, flux
    fit, cutout, psf = scene(body, LIBRARY, shape=shape, extra=flux)
    made = replace(fit, sources=table, report=np.ones(y.size, bool)), cutout, psf
    field, fitted = (
        measured([made], config(star_light=mode, size="radius", radius=radius))["F150W"] for mode in ("field", "fitted")
    )
    assert ApertureFlag.FIELD_STARS in field.flags
    # the convolution's rounding, as a part of the stars' light
    assert field.flux == pytest.approx(fitted.flux, abs=1e-6 * flux * field.area)


def test_where_stars_outshine_the_galaxy_they_count_one_by_one():
    # a galaxy of 1 in its field's light of 0.05 per px
    made = [starry(), starry("F090W", body=1.0)]
    field, fitted = (
        measured(made, config(star_light=mode, size="radius", radius=12.0))["F090W"] for mode in ("field", "fitted")
    )
    assert field.flux == pytest.approx(fitted.flux, rel=1e-12)
    assert field.flux_err_stars == pytest.approx(fitted.flux_err_stars, abs=1e-12)


def test_star_noise_cancels_in_colours_of_stars_as_red_as_the_galaxy():
    made = [starry(), starry("F090W")]
    records = measured(made, config(star_light="field", size="radius", radius=12.0))
    record = records["F090W"]
    assert record.mag_corr_err > 0.003
    assert record.colour_err < 0.3 * record.mag_corr_err
    assert abs(record.colour) < 0.003


LIMIT = 3.0


def half_found(name="F150W", colour=1.0, seed=0, bluest=0.0):
    """The same field; stars fainter than a limit were found beside the galaxy only, and their light is in the data.

    `bluest`: a star of the field that no other filter shows.
    """
    fit, cutout, used = starry(name, colour, seed)
    table = fit.sources.copy()
    distance = half_light_distance(fit.components, cutout.shape)
    y, x = np.rint(table["y_fit"]).astype(int), np.rint(table["x_fit"]).astype(int)
    table["flux_init"] = 0.0 if name == "F150W" else table["flux_fit"] / colour
    table["x_fit"][-1], table["y_fit"][-1], table["flux_fit"][-1] = 20.0, 20.0, bluest
    table["base_id"][-1], table["flux_init"][-1] = 0, 0.0
    lost = (distance[y, x] < FIELD) & (table["flux_fit"] < colour * LIMIT)
    table = table[~lost | (np.arange(table.size) == table.size - 1)]
    return replace(fit, sources=table, report=np.ones(table.size, bool), faint_limits=(LIMIT,) * 5), cutout, used


@pytest.mark.parametrize(("star_light", "radius"), [("fitted", 12.0), ("field", 12.0), ("field", 20.0)])
def test_stars_too_faint_to_be_found_on_the_galaxy_leave_it_within_the_error(star_light, radius):
    chosen, pulls, relative = config(star_light=star_light, size="radius", radius=radius), [], []
    for seed in range(20):
        record = measured([half_found(seed=seed)], chosen)["F150W"]
        pulls.append((record.flux - record.model_flux) / record.flux_err)
        relative.append(record.flux_err_stars / record.flux_err)
    # without their share the error would be that of the pixels, a tenth of this
    assert min(relative) > 0.9
    # 20 pulls: mean to 0.22, deviation to 16 %
    assert abs(np.mean(pulls)) < 0.8
    assert 0.5 < np.std(pulls) < 1.5


def test_chance_of_faint_stars_cancels_in_colours_of_stars_as_red_as_the_galaxy():
    record = measured([half_found(), half_found("F090W")], config(star_light="fitted", size="radius", radius=12.0))
    assert record["F090W"].flux_err_stars > 0.9 * record["F090W"].flux_err
    assert record["F090W"].colour_err < 0.3 * record["F090W"].mag_corr_err
    assert abs(record["F090W"].colour) < 0.003


def test_a_star_is_faint_for_its_colour_only():
    # in a filter in which stars have a tenth of the base filter's flux the limit is a tenth as high, too
    fitted, base = config(star_light="fitted", size="radius", radius=12.0), half_found()
    with_star, without = (
        measured([base, half_found("F090W", 0.1, bluest=flux)], fitted)["F090W"] for flux in (0.9 * LIMIT, 0.0)
    )
    assert with_star.flux == pytest.approx(without.flux, rel=1e-6)
    assert with_star.flux_err_stars == pytest.approx(without.flux_err_stars, rel=1e-3)


# --- what can be missing


@pytest.mark.parametrize("fill", ["median", "sersic_modelimg"])
def test_a_strip_without_data_through_the_aperture_is_filled(fill):
    fit, cutout, psf = scene(galaxy(1.5, 9.0, 0.3, 0.7), LIBRARY)
    mask = cutout.mask.copy()
    mask[:, 84:89] = True
    torn = replace(cutout, data=np.where(mask, np.nan, cutout.data), mask=mask)
    whole, record = one(), measured([(fit, torn, psf)], config(fill_replace_with=fill))["F150W"]
    assert ApertureFlag.FILLED in record.flags
    assert 0.1 < record.filled_fraction < 0.4
    assert record.radius == pytest.approx(whole.radius, rel=0.01)
    assert record.flux == pytest.approx(whole.flux, rel=0.01)
    assert record.flux_err > whole.flux_err


def test_the_annulus_median_follows_the_data_where_the_model_does_not():
    fit, cutout, psf = scene(galaxy(1.5, 9.0, 0.3, 0.7), LIBRARY)
    mask = cutout.mask.copy()
    mask[:, 84:89] = True
    torn = replace(cutout, data=np.where(mask, np.nan, 1.3 * cutout.data), mask=mask)
    fluxes = {
        fill: measured([(fit, torn, psf)], config(fill_replace_with=fill, size="radius", radius=9.0))["F150W"].flux
        for fill in ("median", "sersic_modelimg")
    }
    truth = 1.3 * one(size="radius", radius=9.0).flux
    assert fluxes["median"] == pytest.approx(truth, rel=0.01)
    assert fluxes["sersic_modelimg"] < 0.97 * truth


def test_an_aperture_that_is_mostly_holes_says_so():
    fit, cutout, psf = scene(galaxy(1.5, 9.0, 0.3, 0.7), LIBRARY)
    mask = cutout.mask.copy()
    mask[:, :83] = True
    record = measured([(fit, replace(cutout, data=np.where(mask, np.nan, cutout.data), mask=mask), psf)], config())[
        "F150W"
    ]
    assert ApertureFlag.MOSTLY_FILLED in record.flags
    assert record.flux == pytest.approx(one().flux, rel=0.02)


def test_an_aperture_without_any_data_is_not_measured():
    fit, cutout, psf = scene(galaxy(1.0, 4.0), LIBRARY)
    y, x = np.indices(cutout.shape)
    mask = np.hypot(x - 80.3, y - 79.6) < 25.0
    record = measured([(fit, replace(cutout, data=np.where(mask, np.nan, cutout.data), mask=mask), psf)],
                      config(size="radius", radius=8.0))["F150W"]  # fmt: skip
    assert ApertureFlag.NO_DATA in record.flags
    assert np.isnan([record.flux, record.flux_err, record.mag_raw, record.mag_corr, record.snr]).all()
    assert record.mag_total == pytest.approx(one(galaxy(1.0, 4.0)).mag_total)


def test_an_aperture_beyond_the_cutout_is_filled_with_the_model():
    wide = galaxy(1.0, 25.0, 0.5, 0.4, (50.0, 48.0))
    made = scene(wide, LIBRARY, shape=(97, 101))
    record = measured([made], config(size="radius", radius=75.0))["F150W"]
    assert ApertureFlag.BEYOND_CUTOUT in record.flags
    assert record.fraction == pytest.approx(RoundProfile(1.0, 25.0, 0.3).inside(75.0), rel=0.01)
    assert record.flux == pytest.approx(1000.0 * record.fraction, rel=0.01)
    with pytest.raises(FitError, match="aperture of semi-major axis 900 px"):
        measured([made], config(size="radius", radius=900.0))
    with pytest.raises(FitError, match="petro_factor"):
        measured([made], config(petro_factor=50.0))


def test_where_the_index_never_falls_the_model_sets_the_aperture():
    made = scene(galaxy(1.5, 9.0), LIBRARY)
    y, x = np.indices(made[1].shape)
    rising = replace(made[1], data=made[1].data + 0.02 * ((x - 80.3) ** 2 + (y - 79.6) ** 2))
    record = measured([(made[0], rising, made[2])], config())["F150W"]
    assert ApertureFlag.INDEX_NOT_REACHED in record.flags
    assert ApertureFlag.MODEL_SIZES in record.flags
    assert record.radius == pytest.approx(RoundProfile(1.5, 9.0, SIGMA).petrosian_radius(0.5), rel=0.01)
    assert np.isfinite([record.petro_radius, record.r20, record.r50, record.r80]).all()


def test_a_negative_flux_has_no_magnitude():
    made = scene(galaxy(), LIBRARY)
    dark = replace(scene(galaxy(flux=-20.0), LIBRARY, "F277W")[0], total_flux_err=3.0)
    cutout = replace(made[1], filter="F277W", data=-0.02 * made[1].data)
    records = measured([made, (dark, cutout, LIBRARY)], config())
    record = records["F277W"]
    assert record.flux == pytest.approx(-0.02 * records["F150W"].flux, rel=1e-3)
    assert record.snr < 0.0
    assert ApertureFlag.NEGATIVE in record.flags
    assert np.isnan([record.mag_raw, record.mag_raw_err, record.mag_corr, record.mag_total, record.colour]).all()
    assert np.isnan([record.colour_err, record.colour_total, record.colour_total_err]).all()
    assert record.correction == pytest.approx(1.0, rel=1e-6)
    assert record.total_flux == pytest.approx(-20.0)


def test_noise_tells_no_sizes():
    # light of S/N 4 under noise of S/N 1000 and 4: sizes are the data's, and the model's, whatever the noise is
    body, shape = galaxy(1.2, 6.0), (161, 163)
    fits = [scene(body, LIBRARY)]
    noise = np.random.default_rng(5).normal(0.0, 1.0, shape)
    for name, sigma in (("F814W", 0.02), ("F277W", 6.0)):
        fits.append(scene(body, LIBRARY, name, error=sigma, extra=sigma * noise))
    records = measured(fits, config())
    assert records["F814W"].snr > 100.0
    assert ApertureFlag.MODEL_SIZES not in records["F814W"].flags
    dark = records["F277W"]
    assert dark.snr < 10.0
    assert ApertureFlag.MODEL_SIZES in dark.flags
    for key in ("petro_radius", "r20", "r50", "r80"):
        assert getattr(dark, key) == pytest.approx(getattr(records["F150W"], key), rel=0.02)


def test_a_galaxy_that_was_not_fitted_gives_empty_records():
    fit, cutout, psf = scene(galaxy(), LIBRARY)
    for empty, flag in (
        (replace(fit, components=()), ApertureFlag.NO_GALAXY),
        (no_data(cutout), ApertureFlag.NO_GALAXY),
    ):
        (record,) = photometry({"F150W": empty}, {"F150W": cutout}, {"F150W": psf}, config())
        assert record.flags == flag
        assert np.isnan([record.flux, record.radius, record.mag_total]).all()
        assert np.isnan(record.curve).all()
    assert photometry({}, {}, {}, config()) == ()


def test_one_empty_filter_leaves_the_others():
    made = scene(galaxy(), LIBRARY)
    cutout = replace(made[1], filter="F277W", data=np.full(made[1].shape, np.nan), mask=np.ones(made[1].shape, bool))
    records = measured([made, (no_data(cutout), cutout, LIBRARY)], BEST)
    assert ApertureFlag.NO_DATA in records["F277W"].flags
    assert np.isnan(records["F277W"].flux)
    assert records["F150W"].flux > 0.0


def test_second_choices_are_flagged():
    made = scene(galaxy(), LIBRARY, "F814W")
    other = BEST.replaced({"core": {"base_filter": "F814W"}, "aperture": {"min_fwhm": 0.0}})
    record = measured([made], other)["F814W"]
    assert ApertureFlag.OTHER_BASE in record.flags
    assert ApertureFlag.OTHER_REFERENCE in record.flags
    assert record.correction == 1.0
    assert (record.colour, record.colour_err) == (0.0, 0.0)


def test_without_sky_the_fits_own_error_counts():
    fit, cutout, psf = scene(galaxy(1.0, 5.0, centre=(14.0, 14.0)), LIBRARY, shape=(29, 29))
    fit = replace(fit, sky_covariance=np.diag([0.01, 0.0, 0.0]))
    record = measured([(fit, cutout, psf)], config(size="radius", radius=12.0))["F150W"]
    assert ApertureFlag.NO_SKY in record.flags
    assert (record.sky, record.sky_err, record.n_sky) == (0.0, pytest.approx(0.1), 0)
    assert record.flux_err_sky == pytest.approx(0.1 * record.area)


def test_the_sky_of_the_fit_and_what_it_leaves_are_taken_off():
    fit, cutout, psf = scene(galaxy(), LIBRARY, extra=0.75)
    fit = replace(fit, sky=SkyPlane(level=0.7, slope_x=0.0, slope_y=0.0, x_ref=80.0, y_ref=80.0))
    record = measured([(fit, cutout, psf)], config())["F150W"]
    assert record.sky == pytest.approx(0.05, rel=1e-3)
    assert record.flux == pytest.approx(one(galaxy()).flux, rel=1e-3)


def test_a_unit_that_is_no_brightness_gives_no_magnitudes():
    fit, cutout, psf = scene(galaxy(), LIBRARY)
    record = measured([(fit, replace(cutout, unit="electron"), psf)], config())["F150W"]
    assert record.flux == pytest.approx(one(galaxy()).flux)
    assert record.unit == "electron"
    assert np.isnan([record.mag_raw, record.mag_corr, record.mag_total, record.colour]).all()


@pytest.mark.parametrize("stage", ["data", "psf_sub_data", "sersic_modelimg"])
def test_isophotes_and_flux_can_come_from_other_stages(stage):
    record = one(fit_isophot_to=stage, measure_on=stage)
    assert record.flux == pytest.approx(one().flux, rel=0.01)
    assert record.ellip == pytest.approx(one().ellip, abs=0.01)


def test_photometry_is_deterministic_and_leaves_its_input_alone():
    made = [starry(), starry("F090W", 0.7)]
    before = [made[0][1].data.copy(), made[0][0].sources.copy()]
    first, second = (measured(made, config(star_light="field")) for _ in range(2))
    for name, record in first.items():
        for field in fields(record):
            np.testing.assert_array_equal(getattr(record, field.name), getattr(second[name], field.name))
    assert np.array_equal(before[0], made[0][1].data)
    assert np.array_equal(before[1], made[0][0].sources)


def test_records_hold_plain_numbers():
    record = one()
    kinds = {field.name: type(getattr(record, field.name)) for field in fields(record)}
    special = {"galaxy": str, "filter": str, "unit": str, "flags": ApertureFlag, "origin": tuple, "n_sky": int,
               "curve": np.ndarray}  # fmt: skip
    assert {name: kind for name, kind in kinds.items() if special.get(name, float) is not kind} == {}
    assert record.curve.shape == (4, 48)
    assert set(APERTURE_FLAG_DESCRIPTIONS) == set(ApertureFlag)


def test_the_curve_is_what_the_aperture_measures():
    record = one()
    radius, flux, index, model = record.curve
    assert np.interp(record.radius, radius, flux) == pytest.approx(record.flux, rel=0.01)
    assert np.interp(record.radius, radius, index) == pytest.approx(0.5, abs=0.01)
    assert flux == pytest.approx(model, rel=1e-3)


def test_a_doubtful_fit_leaves_the_stars_to_the_field():
    fit, cutout, psf = starry()
    auto = config(star_light="auto")
    for flags, expected in ((FitFlag(0), False), (FitFlag.STRUCTURED, True)):
        record = measured([(replace(fit, flags=flags), cutout, psf)], auto)["F150W"]
        assert (ApertureFlag.FIELD_STARS in record.flags) is expected


def test_a_cutout_without_field_takes_the_fitted_stars():
    fit, cutout, psf = scene(galaxy(1.0, 20.0, centre=(30.0, 30.0)), LIBRARY, shape=(61, 61))
    record = measured([(fit, cutout, psf)], config(star_light="field"))["F150W"]
    assert ApertureFlag.FIELD_TOO_SMALL in record.flags
    assert ApertureFlag.FIELD_STARS not in record.flags


def test_a_radius_must_be_given_where_it_sets_the_aperture():
    with pytest.raises(ConfigError, match="needs radius"):
        BEST.replaced({"aperture": {"size": "radius"}})


def test_presets():
    assert load_config(preset="sphot").aperture.star_light == "fitted"
    assert load_config(preset="sphot").aperture.min_fwhm == 0.0
    assert BEST.aperture.star_light == "auto"
    assert (BEST.aperture.size, BEST.aperture.petro, BEST.aperture.petro_factor) == ("petro", 0.5, 1.0)


def test_models_of_two_components_are_measured_whole():
    pair = (galaxy(1.0, 12.0, 0.4, 0.5, flux=700.0), galaxy(2.0, 3.0, 0.1, 0.5, flux=300.0))
    record = one(pair)
    assert record.total_flux == pytest.approx(1000.0)
    assert record.flux == pytest.approx(record.model_flux, rel=1e-3)
