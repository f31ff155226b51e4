"""Noise measured on images whose noise is known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from sphot_mpi.noise import (
    correlation_factor,
    error_map,
    estimate_noise,
    fit_variance,
    patch_noise,
    patch_sigmas,
    pixel_differences,
    smooth_light,
)

SHAPE = (180, 251)
SIGMA = 0.012


def white_noise(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(0.0, SIGMA, shape)


def corner_mask(shape=SHAPE):
    mask = np.zeros(shape, dtype=bool)
    mask[:40, :90] = True
    return mask


def star_field(n_stars, seed=1, shape=SHAPE):
    """Gaussian stars of sigma 1.1 px with a broken power law of fluxes."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape)
    ny, nx = shape
    np.add.at(image, (rng.integers(0, ny, n_stars), rng.integers(0, nx, n_stars)), 0.3 * rng.pareto(1.0, n_stars) + 0.1)
    return gaussian_filter(image, 1.1)


def test_pixel_differences_keep_the_variance_of_white_noise_and_drop_a_plane():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    plane = 3.0 + 0.01 * x - 0.02 * y
    mask = corner_mask()
    differences = pixel_differences(white_noise() + plane, mask)
    good = differences[np.isfinite(differences)]
    # 41,000 correlated differences: the standard deviation scatters by half a percent
    assert good.std() == pytest.approx(SIGMA, rel=0.02)
    np.testing.assert_allclose(pixel_differences(plane, mask)[60:100, 100:200], 0.0, atol=1e-12)
    assert np.isnan(differences[:41, :90]).all()
    assert np.isnan(differences[0]).all()
    assert np.isnan(differences[:, -1]).all()


def test_estimate_noise_ignores_smooth_light_masked_pixels_and_nan():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    galaxy = 2.0 * np.exp(-0.5 * ((x - 120) ** 2 + (y - 90) ** 2) / 20.0**2)
    data = white_noise() + galaxy + 0.5
    mask = corner_mask()
    data[mask] = 1e30
    data[100, 100] = np.nan
    assert estimate_noise(data, mask) == pytest.approx(SIGMA, rel=0.03)
    assert np.isnan(estimate_noise(data, np.ones(SHAPE, dtype=bool)))


@pytest.mark.parametrize("n_stars", [0, 300, 1000])
def test_patch_noise_finds_the_white_level_between_stars(n_stars):
    # RESEARCH found 0.95 to 1.05 of the truth in crowded fields
    data = white_noise() + star_field(n_stars)
    assert patch_noise(data, corner_mask()) == pytest.approx(SIGMA, rel=0.1)


def test_patch_noise_of_a_small_image_is_that_of_the_whole():
    data = white_noise(shape=(20, 33))
    mask = np.zeros(data.shape, dtype=bool)
    assert patch_noise(data, mask) == estimate_noise(data, mask)


def test_patch_sigmas_are_nan_where_half_a_patch_is_masked():
    differences = white_noise(shape=(24, 36))
    differences[:12, :7] = np.nan
    sigmas = patch_sigmas(differences)
    assert sigmas.shape == (2, 3)
    assert np.isnan(sigmas[0, 0])
    assert np.isfinite(sigmas).sum() == 5


def test_fit_variance_recovers_a_law_and_never_goes_below_the_floor():
    rng = np.random.default_rng(5)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = 3.0 * np.exp(-np.hypot(x - 120, y - 90) / 25.0)
    a, b = SIGMA**2, 4.0 * SIGMA**2
    residual = rng.normal(size=SHAPE) * np.sqrt(a + b * light)
    mask = corner_mask()
    found_a, found_b = fit_variance(residual, light, mask, SIGMA)
    # the brightest of 12 bins averages over a range of light
    assert found_a == pytest.approx(a, rel=0.05)
    assert found_b == pytest.approx(b, rel=0.15)
    assert fit_variance(residual, light, mask, 2.0 * SIGMA)[0] >= 4.0 * a
    # a residual that a fit has emptied must not look like less noise, nor like falling noise
    assert fit_variance(0.1 * residual, light, mask, SIGMA) == (a, 0.0)
    assert fit_variance(residual, light, np.ones(SHAPE, dtype=bool), SIGMA) == (a, 0.0)


def test_error_map_follows_photon_noise():
    rng = np.random.default_rng(6)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sky = 0.5
    light = 3.0 * np.exp(-np.hypot(x - 120, y - 90) / 25.0)
    true = SIGMA * np.sqrt(1.0 + light / sky)
    data = sky + light + true * rng.normal(size=SHAPE)
    mask = corner_mask()
    data[mask] = np.nan
    errors = error_map(data, mask)
    # patch percentiles and bins of light: 10 %; at the centre the running mean flattens the light
    ratio = (errors / true)[~mask]
    assert np.percentile(ratio, 2) > 0.85
    assert np.percentile(ratio, 98) < 1.15
    assert np.isfinite(errors).all()
    assert errors.min() > 0.0


def test_error_map_without_data_or_without_noise():
    data = np.full((30, 41), np.nan)
    assert np.isnan(error_map(data, np.isnan(data))).all()
    flat = np.ones((40, 61))
    assert (error_map(flat, np.zeros(flat.shape, dtype=bool)) > 0.0).all()


def test_smooth_light_is_a_running_mean_of_the_good_pixels():
    data = np.zeros((21, 31))
    data[10, 15] = 25.0
    mask = np.zeros(data.shape, dtype=bool)
    light = smooth_light(data, mask, radius=2)
    assert light[10, 15] == pytest.approx(1.0)
    assert light[8, 13] == pytest.approx(1.0)
    assert light[7, 13] == pytest.approx(0.0)
    mask[10, 15] = True
    np.testing.assert_allclose(smooth_light(data, mask), 0.0, atol=1e-12)


@pytest.mark.parametrize(("smoothing", "psf_sigma"), [(0.0, 1.1), (0.4, 1.1), (0.5, 1.1), (0.5, 2.2)])
def test_correlation_factor_is_the_scatter_of_measured_fluxes(smoothing, psf_sigma):
    axis = np.arange(-10, 11)
    stamp = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / psf_sigma**2)
    predicted, measured = [], []
    for seed in range(4):
        noise = white_noise(seed)
        if smoothing:
            noise = gaussian_filter(noise, smoothing)
        mask = np.zeros(SHAPE, dtype=bool)
        error = np.full(SHAPE, patch_noise(noise, mask))
        predicted.append(correlation_factor(noise, error, mask, stamp))
        fluxes = fftconvolve(noise, stamp, mode="valid") / (stamp**2).sum()
        measured.append(fluxes.std() / (error[0, 0] / np.sqrt((stamp**2).sum())))
    # the model's noise is smoothed by a Gaussian, the test's by a sampled one: 10 %
    assert np.mean(predicted) == pytest.approx(np.mean(measured), rel=0.12)


def test_correlation_factor_never_promises_more_than_white_noise():
    noise = white_noise()
    mask = corner_mask()
    stamp = np.exp(-0.5 * (np.arange(-6, 7)[:, None] ** 2 + np.arange(-6, 7) ** 2))
    assert correlation_factor(0.1 * noise, np.full(SHAPE, SIGMA), mask, stamp) == 1.0
    assert correlation_factor(noise, np.full(SHAPE, SIGMA), np.ones(SHAPE, dtype=bool), stamp) == 1.0
