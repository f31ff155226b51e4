"""Grouped fits of point sources against photutils, and the laws they obey."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import QTable
from photutils.aperture import CircularAperture
from photutils.background import LocalBackground
from photutils.psf import ImagePSF, PSFPhotometry, SourceGrouper

from sphot_mpi.flags import SourceFlag
from sphot_mpi.kernels.dense import cholesky, cholesky_solve
from sphot_mpi.kernels.point_windows import aperture_fluxes
from sphot_mpi.point_fit import PointFitSettings, fit_points, fit_side, group_sources
from sphot_mpi.point_quality import data_flags, measure_quality
from sphot_mpi.point_render import render_sources, weights
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel

SHAPE = (90, 110)
OVERSAMPLE = 4


@pytest.fixture(scope="module")
def psf():
    """A lopsided Moffat of FWHM 2 px on an array of odd and even side."""
    y, x = np.mgrid[:121, :130]
    y, x = (y - 60.0) / OVERSAMPLE, (x - 64.5) / OVERSAMPLE
    moffat = (1.0 + (y**2 + 1.1 * x**2 + 0.2 * x * y) / 1.5**2) ** -3.0
    return PSF(LibraryPSF.from_array(moffat, OVERSAMPLE), Kernel("gaussian", (0.5,)))


def settings_for(psf, **changes):
    sigma = psf.sigma
    return replace(
        PointFitSettings(
            fit_shape=(5, 5), separation=2.0 * sigma, annulus=(2.0 * sigma, 5.0 * sigma), largest_group=25
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def scene(psf):
    """Stars, some blended, some at the edge or in a masked hole, on a pedestal with noise."""
    rng = np.random.default_rng(1)
    n = 70
    x, y = rng.uniform(-1, SHAPE[1], n), rng.uniform(-1, SHAPE[0], n)
    x[50:], y[50:] = x[:20] + rng.uniform(-1.5, 1.5, 20), y[:20] + rng.uniform(-1.5, 1.5, 20)
    flux = np.exp(rng.normal(6.0, 1.0, n))
    error = np.full(SHAPE, 0.5)
    image = render_sources(SHAPE, psf, x, y, flux) + 0.3 + rng.normal(size=SHAPE) * error
    mask = np.zeros(SHAPE, bool)
    mask[30:40, 50:70] = True
    image[33, 55] = np.nan
    start = rng.normal(scale=0.15, size=(2, n))
    return image, error, mask, x + start[0], y + start[1], flux


def run_ours(psf, scene, **changes):
    image, error, mask, x, y, _ = scene
    weight = weights(error, mask | ~np.isfinite(image))
    return fit_points(np.where(weight > 0, image, 0.0), weight, psf, x, y, settings_for(psf, **changes))


def run_photutils(psf, scene, flux_init, settings):
    image, error, mask, x, y, _ = scene
    # photutils wants a sum of oversampling^2
    model = ImagePSF(psf.array * OVERSAMPLE**2, oversampling=OVERSAMPLE, origin=psf.origin[::-1])
    photometry = PSFPhotometry(
        model,
        settings.fit_shape,
        grouper=SourceGrouper(settings.separation),
        local_bkg_estimator=LocalBackground(*settings.annulus),
        aperture_radius=3,
        fitter_maxiters=300,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return photometry(image, mask=mask, error=error, init_params=QTable({"x": x, "y": y, "flux": flux_init}))


@pytest.fixture(scope="module")
def both(psf, scene):
    ours = run_ours(psf, scene)
    return ours, run_photutils(psf, scene, ours["flux_init"], settings_for(psf))


def test_fits_agree_with_photutils(both):
    ours, theirs = both
    fitted = np.isfinite(ours["flux_fit"])
    assert np.array_equal(fitted, np.isfinite(np.array(theirs["flux_fit"])))
    assert fitted.sum() > 60
    assert (ours["group_size"] > 1).sum() > 20
    # where photutils gave up, or stopped in a worse minimum, there is nothing to compare with
    same = fitted & ((np.array(theirs["flags"]) & 8) == 0)
    same &= ~(ours["reduced_chi2"] < 0.999 * np.array(theirs["reduced_chi2"]))
    assert same.sum() >= fitted.sum() - 4
    assert np.allclose(ours["flux_fit"][same], np.array(theirs["flux_fit"])[same], rtol=1e-3)
    assert np.allclose(ours["x_fit"][same], np.array(theirs["x_fit"])[same], atol=1e-3)
    assert np.allclose(ours["y_fit"][same], np.array(theirs["y_fit"])[same], atol=1e-3)
    for name in ("qfit", "cfit", "reduced_chi2"):
        # numbers of order 1 that follow from fits equal to 1e-3
        a, b = ours[name][same], np.array(theirs[name])[same]
        assert np.allclose(a, b, rtol=5e-3, atol=1e-4, equal_nan=True), name
    # their covariance takes a pixel in two windows for two measurements, so only single sources agree
    alone = same & (ours["group_size"] == 1)
    for name in ("flux_err", "x_err", "y_err"):
        assert np.allclose(ours[name][alone], np.array(theirs[name])[alone], rtol=1e-3), name


def test_counts_groups_and_backgrounds_are_those_of_photutils(both):
    ours, theirs = both
    for name in ("group_id", "group_size", "n_pixels_fit"):
        assert np.array_equal(ours[name], np.array(theirs[name])), name
    assert np.allclose(ours["local_bkg"], theirs["local_bkg"], rtol=1e-12, equal_nan=True)


def test_flags_are_those_of_photutils(both):
    ours, theirs = both
    # where photutils did not converge the fits differ, and with them the sign of a flux
    same = (np.array(theirs["flags"]) & 8) == 0
    assert same.sum() >= ours.size - 5
    assert np.array_equal(ours["flags"][same], np.array(theirs["flags"])[same])
    for flag in (SourceFlag.PARTIAL, SourceFlag.OUTSIDE, SourceFlag.FULLY_MASKED, SourceFlag.NON_FINITE_FLUX):
        assert (ours["flags"] & int(flag)).any(), flag


def test_first_guess_is_the_aperture_flux(scene):
    image, _, mask, x, y, _ = scene
    good = ~mask & np.isfinite(image)
    data = np.where(good, image, 0.0)
    ours = aperture_fluxes(data, good.astype(float), np.full(x.size, 0.3), x, y, 3.0)
    apertures = CircularAperture(np.column_stack((x, y)), 3.0)
    expected = [m.get_values(np.where(good, data - 0.3, 0.0)).sum() for m in apertures.to_mask(method="center")]
    assert np.allclose(ours, expected, rtol=1e-12)


def grid_scene(psf, rng, *, pairs=False):
    """A jittered grid of equal stars (or close pairs) under noise; positions, flux, image, error."""
    y, x = (g.ravel().astype(float) for g in np.mgrid[10:390:14, 10:500:14])
    x, y = x + rng.uniform(-0.5, 0.5, x.size), y + rng.uniform(-0.5, 0.5, x.size)
    if pairs:
        angle = rng.uniform(0, 2 * np.pi, x.size)
        x, y = np.concatenate((x, x + 1.6 * np.cos(angle))), np.concatenate((y, y + 1.6 * np.sin(angle)))
    flux = np.full(x.size, 600.0)
    image = render_sources((400, 510), psf, x, y, flux)
    error = np.sqrt(1.0 + 0.05 * image)
    return x, y, flux, image + rng.normal(size=image.shape) * error, error


@pytest.mark.parametrize("pairs", [False, True])
def test_errors_are_honest(psf, pairs):
    rng = np.random.default_rng(5)
    x, y, flux, image, error = grid_scene(psf, rng, pairs=pairs)
    settings = settings_for(psf, annulus=None, separation=2.0 * psf.sigma)
    found = fit_points(image, 1.0 / error**2, psf, x, y, settings)
    assert np.median(found["group_size"]) == (2 if pairs else 1)
    pulls = {
        "flux": (found["flux_fit"] - flux) / found["flux_err"],
        "x": (found["x_fit"] - x) / found["x_err"],
        "y": (found["y_fit"] - y) / found["y_err"],
    }
    for name, pull in pulls.items():
        # about 1000 stars: the mean is good to 0.03, the standard deviation to 0.022
        assert abs(np.mean(pull)) < 0.1, name
        assert 0.93 < np.std(pull) < 1.07, name


def test_flux_is_the_total_flux(psf):
    # a window of 5 px holds two thirds of the light
    x, y = np.array([40.3, 71.8]), np.array([33.1, 60.4])
    image = render_sources(SHAPE, psf, x, y, np.array([1000.0, 50.0]))
    assert image.sum() == pytest.approx(1050.0, rel=2e-3)  # the rest is beyond the image
    found = fit_points(image, np.ones(SHAPE), psf, x + 0.2, y - 0.3, settings_for(psf, annulus=None))
    assert np.allclose(found["flux_fit"], [1000.0, 50.0], rtol=1e-6)
    assert np.allclose(found["x_fit"], x, atol=1e-6)
    assert np.allclose(found["y_fit"], y, atol=1e-6)


def test_rounds_of_the_background_leave_the_stars_own_light(psf):
    x, y = np.array([40.3]), np.array([33.1])
    image = render_sources(SHAPE, psf, x, y, np.array([1000.0])) + 7.0
    once = fit_points(image, np.ones(SHAPE), psf, x, y, settings_for(psf))
    assert once["flux_fit"][0] < 990.0  # as photutils: the annulus takes the wing for background
    often = fit_points(image, np.ones(SHAPE), psf, x, y, settings_for(psf, background_rounds=3))
    assert often["flux_fit"][0] == pytest.approx(1000.0, rel=1e-3)
    assert often["local_bkg"][0] == pytest.approx(7.0, rel=1e-3)


def test_pinned_positions_give_the_linear_solution(psf, scene):
    found = run_ours(psf, scene, xy_bound=0.0, annulus=None, separation=1e-6)
    image, error, mask, x, y, _ = scene
    weight = weights(error, mask | ~np.isfinite(image))
    one = int(np.nanargmax(found["flux_fit"]))
    assert (found["x_fit"][one], found["y_fit"][one]) == (x[one], y[one])
    top, left = int(np.ceil(y[one] - 2.5)), int(np.ceil(x[one] - 2.5))
    window = np.s_[top : top + 5, left : left + 5]
    profile = render_sources(SHAPE, psf, x[one : one + 1], y[one : one + 1], np.ones(1))[window]
    w = weight[window]
    data = np.where(w > 0, image[window], 0.0)
    assert found["flux_fit"][one] == pytest.approx((w * profile * data).sum() / (w * profile**2).sum(), rel=1e-10)
    assert found["flux_err"][one] == pytest.approx((w * profile**2).sum() ** -0.5, rel=1e-10)
    assert np.isnan(found["x_err"][one])


def test_bounds_hold_and_are_flagged(psf):
    x, y = np.array([40.0, 70.0]), np.array([33.0, 50.0])
    image = render_sources(SHAPE, psf, x, y, np.array([1000.0, 1000.0]))
    found = fit_points(image, np.ones(SHAPE), psf, x + [0.8, 0.1], y, settings_for(psf, xy_bound=0.5, annulus=None))
    assert found["x_fit"][0] == pytest.approx(40.3)
    assert ((found["flags"] & int(SourceFlag.NEAR_BOUND)) > 0).tolist() == [True, False]
    assert found["x_fit"][1] == pytest.approx(70.0, abs=1e-6)


def test_pieces_of_a_large_group_see_each_others_light(psf):
    rng = np.random.default_rng(8)
    x = 12.0 + 1.9 * psf.sigma * np.arange(40)
    y = 40.0 + rng.uniform(-0.2, 0.2, 40)
    flux = rng.uniform(200.0, 2000.0, 40)
    error = np.ones(SHAPE)
    image = render_sources(SHAPE, psf, x, y, flux) + rng.normal(size=SHAPE)
    start = x + rng.normal(scale=0.1, size=40), y + rng.normal(scale=0.1, size=40)
    whole, split = (
        fit_points(
            image,
            1.0 / error**2,
            psf,
            *start,
            settings_for(psf, annulus=None, separation=2.6 * psf.sigma, largest_group=largest),
        )
        for largest in (40, 10)
    )
    assert whole["group_size"].max() > 10
    assert np.array_equal(whole["group_id"], split["group_id"])
    # a chain of blends 0.8 FWHM apart is the hardest case: taking each other's light off in turn ends
    # within the errors, where fits of single stars would be many errors off
    assert np.median(np.abs(split["flux_fit"] - whole["flux_fit"]) / whole["flux_err"]) < 0.6
    assert np.std((split["flux_fit"] - flux) / whole["flux_err"]) < 1.5
    alone = fit_points(image, 1.0 / error**2, psf, *start, settings_for(psf, annulus=None, separation=1e-6))
    assert np.std((alone["flux_fit"] - flux) / whole["flux_err"]) > 5.0


def test_groups_are_those_of_photutils():
    rng = np.random.default_rng(9)
    x, y = rng.uniform(0, 60, 150), rng.uniform(0, 40, 150)
    group, piece = group_sources(x, y, 2.5, 150)
    theirs = SourceGrouper(2.5)(x, y)
    # the same partition under other numbers
    assert len(set(zip(group, theirs, strict=True))) == len(set(group)) == len(set(theirs))
    assert np.array_equal(group, piece)
    _, piece = group_sources(x, y, 2.5, 4)
    assert np.bincount(piece).max() <= 4
    assert len(set(zip(group, piece, strict=True))) == len(set(piece))


def test_coincident_sources_can_be_split():
    group, piece = group_sources(np.zeros(9), np.zeros(9), 1.0, 3)
    assert set(group) == {0}
    assert np.bincount(piece).max() <= 3


def test_no_sources_give_an_empty_table(psf):
    found = fit_points(np.zeros(SHAPE), np.ones(SHAPE), psf, np.zeros(0), np.zeros(0), settings_for(psf))
    assert found.size == 0


def test_quality_of_a_perfect_model_is_zero(psf, scene):
    _, error, mask, x, y, flux = scene
    sources = run_ours(psf, scene)
    sources = sources[np.isfinite(sources["flux_fit"])]
    clean = measure_quality(sources, np.zeros(SHAPE), weights(error, mask), (5, 5))
    assert np.all(clean["qfit"] == 0.0)
    assert np.all(clean["reduced_chi2"][clean["n_pixels_fit"] > 3] == 0.0)


def test_every_data_flag_has_its_condition(psf, scene):
    sources = run_ours(psf, scene)[:4].copy()
    sources["x_fit"], sources["y_fit"] = [5.0, -2.0, np.nan, 5.0], 5.0
    sources["flux_fit"], sources["local_bkg"] = [-1.0, 1.0, np.nan, 1.0], [0.0, 0.0, 0.0, np.nan]
    flags = data_flags(sources, np.array([25, 2, -1, 0]), SHAPE, (5, 5))
    assert flags.tolist() == [4, 1 | 2 | 256, 1 | 64 | 512 | 1024, 1 | 128 | 2048]


@pytest.mark.parametrize(("length", "side"), [(0.1, 3), (3.0, 3), (3.01, 5), (4.4, 5), (5.0, 5), (7.2, 9)])
def test_fit_side_is_the_smallest_odd_number_above(length, side):
    assert fit_side(length) == side


def test_weights_are_zero_where_there_is_no_datum():
    error = np.array([[1.0, 0.5, 0.0], [np.nan, np.inf, -1.0]])
    mask = np.array([[True, False, False], [False, False, False]])
    assert weights(error, mask).tolist() == [[0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]


def test_cholesky_solves_and_tells_what_is_singular():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 9))
    matrix, b = root @ root.T, rng.normal(size=6)
    factor, x = matrix.copy(), b.copy()
    assert cholesky(factor)
    cholesky_solve(factor, x)
    assert np.allclose(matrix @ x, b, atol=1e-10)
    assert not cholesky(np.ones((2, 2)))
    assert not cholesky(np.diag([1.0, np.nan]))
