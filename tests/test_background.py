"""Sky planes and background statistics against planes and noise that are known."""

import numpy as np
import pytest

from sphot_mpi.background import (
    background_stats,
    background_std,
    fit_sky,
    outlier_mask,
    plane_covariance,
    ring_kernel,
)
from sphot_mpi.config import load_config
from sphot_mpi.records import SersicParams, SkyPlane
from sphot_mpi.sersic_profile import elliptical_radius

SHAPE = (81, 131)
SIGMA = 0.01
PLANE = SkyPlane(level=0.5, slope_x=1e-3, slope_y=-2e-3, x_ref=65.0, y_ref=40.0)
GALAXY = SersicParams(amplitude=1.0, r_eff=8.0, n=1.0, x_0=70.0, y_0=35.0, ellip=0.4, theta=0.5)


def edge_mask():
    """A slanted chip edge: a third of the pixels, and not symmetric."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return y < 45 - 0.4 * x


def assert_same_plane(found, true, atol):
    np.testing.assert_allclose(found.render(SHAPE), true.render(SHAPE), atol=atol)


def test_fit_sky_is_exact_without_noise_at_edges_masks_and_on_any_shape():
    data = PLANE.render(SHAPE)
    mask = edge_mask()
    data[mask] = np.nan
    found = fit_sky(data, mask)
    # FFT rounding only; a ring cut by the edge must not tilt the plane
    assert_same_plane(found, PLANE, 1e-9)
    assert (found.x_ref, found.y_ref) == (65.0, 40.0)
    transposed = fit_sky(np.ascontiguousarray(data.T), mask.T)
    assert transposed.slope_x == pytest.approx(PLANE.slope_y)
    assert transposed.slope_y == pytest.approx(PLANE.slope_x)


def test_fit_sky_is_not_moved_by_stars_that_a_fit_left():
    rng = np.random.default_rng(1)
    data = PLANE.render(SHAPE) + rng.normal(0.0, SIGMA, SHAPE)
    mask = edge_mask()
    for x, y in ((20, 60), (90, 20), (100, 70)):
        data[y - 1 : y + 2, x - 1 : x + 2] += 5.0
    data[mask] = np.nan
    # rings over a star lie 4 to 500 clips above the plane and are left out; the ring's area averages the noise
    assert_same_plane(fit_sky(data, mask), PLANE, 0.3 * SIGMA)


def test_fit_sky_scatters_as_its_covariance_says():
    mask = edge_mask()
    weight = np.where(mask, 0.0, SIGMA**-2.0)
    found = []
    for seed in range(40):
        data = PLANE.render(SHAPE) + np.random.default_rng(seed).normal(0.0, SIGMA, SHAPE)
        sky = fit_sky(data, mask)
        found.append((sky.level, sky.slope_x, sky.slope_y))
    ratio = np.std(found, axis=0) / np.sqrt(np.diag(plane_covariance(weight)))
    # 40 draws: 11 % of scatter; rings overlap and clip, so they lose a little
    assert (ratio > 0.7).all()
    assert (ratio < 1.7).all()


def test_fit_sky_without_enough_pixels():
    data = np.full((9, 12), 0.3)
    mask = np.ones(data.shape, dtype=bool)
    assert fit_sky(data, mask).level == 0.0
    mask[4, 5] = False
    assert fit_sky(data, mask).render(data.shape)[4, 5] == pytest.approx(0.3)
    assert np.isnan(plane_covariance(np.where(mask, 0.0, 1.0))).all()


def test_ring_kernel_has_unit_sum_and_a_hole():
    ring = ring_kernel(3.0, 2.0)
    assert ring.sum() == pytest.approx(1.0)
    assert ring.shape == (11, 11)
    assert ring[5, 5] == ring[5, 7] == 0.0
    assert ring[5, 8] > 0.0


def test_background_statistics_are_those_of_the_noise():
    rng = np.random.default_rng(3)
    data = 0.4 + rng.normal(0.0, SIGMA, SHAPE)
    mask = edge_mask()
    data[rng.random(SHAPE) < 0.01] += 3.0
    data[mask] = np.nan
    stats = background_stats(data, mask)
    # clipping at 3 sigma narrows a normal distribution by 1.4 %; 5000 pixels scatter by 1 %
    assert stats.std == pytest.approx(SIGMA, rel=0.05)
    assert stats.median == pytest.approx(0.4, abs=0.1 * SIGMA)
    assert stats.mean == pytest.approx(0.4, abs=0.1 * SIGMA)
    assert np.isnan(background_stats(data, np.ones(SHAPE, dtype=bool)).std)


def test_background_std_does_not_count_a_slope():
    config = load_config(preset="sphot").psf
    rng = np.random.default_rng(4)
    data = rng.normal(0.0, SIGMA, SHAPE) + 30.0 * PLANE.render(SHAPE)
    mask = edge_mask()
    data[mask] = np.nan
    # within a 10 px box the slope adds (0.03^2 + 0.06^2) * 100 / 12 to the variance: far less than the image's 0.9
    expected = np.sqrt(SIGMA**2 + (0.03**2 + 0.06**2) * (100 - 1) / 12)
    assert background_std(data, mask, config) == pytest.approx(expected, rel=0.1)


def test_background_std_of_an_image_too_masked_for_boxes():
    config = load_config(preset="sphot").psf
    data = np.random.default_rng(5).normal(0.0, SIGMA, SHAPE)
    mask = np.random.default_rng(6).random(SHAPE) < 0.9
    assert background_std(data, mask, config) == pytest.approx(SIGMA, rel=0.1)


def test_outlier_mask_spares_the_galaxy():
    config = load_config(preset="sphot").psf
    data = np.random.default_rng(7).normal(0.0, SIGMA, SHAPE)
    mask = edge_mask()
    data[35, 70] = data[70, 10] = data[60, 120] = 1.0
    data[mask] = np.nan
    found = outlier_mask(data, mask, GALAXY, config)
    assert found[70, 10]
    assert found[60, 120]
    assert not found[35, 70]
    assert (found & ~mask).sum() == 2
    assert outlier_mask(data, mask, None, config)[35, 70]


def test_elliptical_radius_is_the_semi_major_axis_of_the_ellipse_through_a_pixel():
    radius = elliptical_radius(SHAPE, GALAXY)
    cos, sin = np.cos(GALAXY.theta), np.sin(GALAXY.theta)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    along, across = (x - 70) * cos + (y - 35) * sin, -(x - 70) * sin + (y - 35) * cos
    np.testing.assert_allclose(radius, np.sqrt(along**2 + (across / 0.6) ** 2), atol=1e-12)
