"""The light of unfitted stars as noise."""

from dataclasses import replace

import numpy as np
import pytest
from joint_states import GALAXY

from sphot_mpi.joint_confusion import confusion, told_by
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_scene import PAD, Frame

#: Pixel noise of the field, the scatter of unfitted stars, and an image on which both are known to a per cent or two.
SIGMA, STARS, SIDE = 0.1, 0.3, 300


def confused_frame():
    """A frame whose right third has a tenth of the noise, and a residual with unfitted stars."""
    error = np.full((SIDE, SIDE), SIGMA)
    error[:, 2 * SIDE // 3 :] *= 0.1
    frame = Frame.from_image(np.zeros((SIDE, SIDE)), error, np.zeros((SIDE, SIDE), bool), SIGMA, 1.0)
    rng = np.random.default_rng(3)
    residual = np.hypot(SIGMA, STARS) * rng.normal(size=frame.shape)
    return frame, np.where(frame.good, residual, 0.0)


def test_confusion_is_the_variance_beyond_that_of_the_pixels():
    frame, residual = confused_frame()
    found = confusion(frame, None, residual)
    # a tenth of the pixels is looked at: 1e4, so that a variance is known to 2 %
    assert found.variance == pytest.approx(STARS**2, rel=0.1)
    assert found.share == pytest.approx(STARS**2 / (STARS**2 + SIGMA**2), rel=0.02)
    # what lies on the galaxy is its own
    galaxy = galaxy_of((replace(GALAXY, x_0=150.0, y_0=150.0, r_eff=20.0),))
    y, x = np.indices(frame.shape) - 150.0 - PAD
    on_galaxy = np.where(np.hypot(x, y) < 35.0, 100.0, residual)
    assert confusion(frame, galaxy, on_galaxy).variance == pytest.approx(STARS**2, rel=0.1)


def test_less_noise_than_the_pixels_have_is_no_confusion():
    frame, residual = confused_frame()
    assert confusion(frame, None, 0.1 * residual).variance == 0.0
    empty = replace(frame, weight=np.zeros(frame.shape))
    assert confusion(empty, None, residual).variance == 0.0


def test_stars_in_the_dark_tell_the_kernel_hardly_better_than_those_in_the_light():
    frame, residual = confused_frame()
    area = np.ones(frame.shape, bool)
    area[: SIDE // 2] = False
    measured = replace(frame, anchored_area=area)
    weight = told_by(measured, None, residual) * frame.weight
    variance = confusion(frame, None, residual).variance
    used = area & frame.good
    np.testing.assert_allclose(weight[used], 1.0 / (1.0 / frame.weight[used] + variance))
    # a hundred times the weight by noise alone
    assert weight[used].max() < 1.2 * weight[used].min()
    assert not weight[~area].any()
    # while the galaxy is being found, what is left is what will be found
    assert (told_by(frame, None, residual) == 1.0).all()
