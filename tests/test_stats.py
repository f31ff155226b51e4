"""Robust statistics against astropy, SciPy and photutils."""

import astropy.stats
import numpy as np
import pytest
from astropy.stats import SigmaClip
from photutils.background import Background2D
from scipy import ndimage

from sphot_mpi.kernels import stats


@pytest.fixture
def sample():
    """A skewed sample with outliers, and its copy with values that are not finite."""
    rng = np.random.default_rng(3)
    values = np.concatenate((rng.normal(2.0, 1.5, 900), rng.exponential(8.0, 99)))
    dirty = np.concatenate((values, [np.nan, np.inf, -np.inf]))
    rng.shuffle(dirty)
    return values, dirty.reshape(6, -1)


def test_median_mad_is_that_of_astropy_without_the_non_finite(sample):
    values, dirty = sample
    median, sigma = stats.median_mad(dirty)
    assert median == pytest.approx(np.median(values), rel=1e-14)
    assert sigma == pytest.approx(astropy.stats.mad_std(values), rel=1e-14)


@pytest.mark.parametrize("sigma", [1.5, 3.0])
@pytest.mark.parametrize("maxiters", [1, 10])
def test_sigma_clipped_stats_are_those_of_astropy(sample, sigma, maxiters):
    values, dirty = sample
    expected = astropy.stats.sigma_clipped_stats(values, sigma=sigma, maxiters=maxiters)
    assert np.allclose(stats.sigma_clipped_stats(dirty, sigma, maxiters), expected, rtol=1e-13)


def test_clipping_leaves_a_constant_sample_alone():
    assert stats.sigma_clip(np.full(7, 4.0), 3.0, 10).tolist() == [4.0] * 7


@pytest.mark.parametrize("empty", [np.zeros(0), np.full((2, 3), np.nan)])
def test_nothing_finite_gives_nan(empty):
    assert np.isnan(stats.median_mad(empty)).all()
    assert np.isnan(stats.sigma_clipped_stats(empty, 3.0, 5)).all()


def test_boxes_and_filter_are_those_of_background2d():
    rng = np.random.default_rng(4)
    image = rng.normal(size=(80, 120)) * np.linspace(1.0, 3.0, 120)
    image[rng.uniform(size=image.shape) < 0.02] += 50.0
    reference = Background2D(image, (10, 20), filter_size=(3, 5), sigma_clip=SigmaClip(sigma=3.0, maxiters=10))
    median, rms = stats.box_stats(image, np.ones(image.shape), 10, 20, 3.0, 10, 0.4)
    assert median.shape == rms.shape == (8, 6)
    assert np.allclose(stats.median_filter(rms, 3, 5), reference.background_rms_mesh, rtol=1e-12)
    # the level itself is 2.5 median - 1.5 mean there, so only its own median can be compared
    assert np.allclose(median[1, 2], astropy.stats.sigma_clipped_stats(image[10:20, 40:60], maxiters=10)[1])


def test_boxes_without_enough_usable_pixels_are_nan_and_filtered_over():
    image = np.random.default_rng(5).normal(size=(23, 40))
    weight = np.ones(image.shape)
    weight[:10, :7] = 0.0
    _, boxes = stats.box_stats(image, weight, 10, 10, 3.0, 10, 0.4)
    # 30 % of the first box and 30 % of each box of the last, cut row are left
    assert np.isnan(boxes[0, 0])
    assert np.isnan(boxes[2]).all()
    assert np.isfinite(boxes[:2].ravel()[1:]).all()
    expected = ndimage.generic_filter(boxes, np.nanmedian, size=3, mode="constant", cval=np.nan)
    assert np.allclose(stats.median_filter(boxes, 3, 3), expected, rtol=1e-13)
