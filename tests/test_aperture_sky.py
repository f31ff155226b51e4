"""The sky from empty apertures: its level, and honest scatter of sums."""

import numpy as np
import pytest
from scipy import ndimage

from sphot_mpi.aperture_sky import measure_sky
from sphot_mpi.ellipses import Ellipse
from sphot_mpi.flags import ApertureFlag

SHAPE = (241, 260)
APERTURE = Ellipse(x=130.2, y=120.4, radius=12.0, ellip=0.3, theta=0.5)


def noise(seed, smoothing=0.0, shape=SHAPE):
    white = np.random.default_rng(seed).normal(0.0, 1.0, shape)
    return ndimage.gaussian_filter(white, smoothing, mode="wrap") if smoothing else white


def true_scatter(smoothing, sums=400):
    """Scatter of the aperture's sum over many places of a large image."""
    image = noise(99, smoothing, (700, 700))
    rng = np.random.default_rng(5)
    places = rng.uniform(20.0, 680.0, (sums, 2))
    return np.std([Ellipse(x=x, y=y, radius=12.0, ellip=0.3, theta=0.5).sum(image) for x, y in places])


@pytest.mark.parametrize("smoothing", [0.0, 1.5, 4.0])
def test_scatter_is_that_of_the_apertures_own_sums(smoothing):
    found = [measure_sky(noise(seed, smoothing), APERTURE, 3.0).scatter for seed in range(4)]
    # some 60 boxes each: 9 % each, 5 % for the mean; the true scatter's own error is 4 %
    assert np.mean(found) == pytest.approx(true_scatter(smoothing), rel=0.2)


def test_white_noise_in_closed_form():
    found = [measure_sky(noise(seed), APERTURE, 3.0).scatter for seed in range(4)]
    assert np.mean(found) == pytest.approx(np.sqrt(APERTURE.area), rel=0.15)


def test_level_and_its_error():
    levels, errors = zip(
        *((s.level, s.level_err) for s in (measure_sky(0.3 + noise(k, 1.5), APERTURE, 3.0) for k in range(12))),
        strict=True,
    )
    assert np.mean(levels) == pytest.approx(0.3, abs=4.0 * np.mean(errors) / np.sqrt(12))
    # twelve values tell their scatter to 21 %
    assert np.std(levels, ddof=1) == pytest.approx(np.mean(errors), rel=0.6)


def test_the_galaxy_does_not_count():
    image = noise(0)
    image[APERTURE.distance(SHAPE) < 3.0] += 1000.0
    inner, outer = measure_sky(image, APERTURE, 3.1), measure_sky(noise(0), APERTURE, 3.1)
    assert inner == outer


def test_bright_leftovers_do_not_lift_the_level():
    image = noise(0)
    image[20:22, 30:32] = 500.0
    sky = measure_sky(image, APERTURE, 3.0)
    assert abs(sky.level) < 4.0 * sky.level_err


def test_where_few_apertures_fit_smaller_ones_tell():
    small = noise(3, 1.5)[:90, :90]
    aperture = Ellipse(x=45.0, y=45.0, radius=14.0, ellip=0.0, theta=0.0)
    sky = measure_sky(small, aperture, 2.0)
    assert ApertureFlag.SKY_EXTRAPOLATED in sky.flags
    # correlated noise on few boxes: right within a factor, where white noise would be wrong by 4
    white = np.std(small) * np.sqrt(aperture.area)
    assert 1.8 * white < sky.scatter < 9.0 * white


def test_a_mask_without_room_shrinks():
    aperture = Ellipse(x=45.0, y=45.0, radius=16.0, ellip=0.0, theta=0.0)
    sky = measure_sky(noise(3)[:90, :90], aperture, 4.0)
    assert ApertureFlag.SKY_NEAR in sky.flags
    assert sky.n_apertures >= 12


def test_no_room_no_sky():
    sky = measure_sky(np.full((40, 40), np.nan), Ellipse(x=20.0, y=20.0, radius=9.0, ellip=0.0, theta=0.0), 4.0)
    assert sky.flags == ApertureFlag.NO_SKY
    assert np.isnan([sky.level, sky.level_err, sky.scatter]).all()


def test_an_image_without_noise_has_no_scatter():
    sky = measure_sky(np.full(SHAPE, 0.25), APERTURE, 3.0)
    assert sky.level == pytest.approx(0.25)
    assert sky.scatter == sky.level_err == 0.0
