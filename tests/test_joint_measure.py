"""Errors of a galaxy's measurement."""

from dataclasses import replace

import numpy as np
import pytest
from joint_states import GALAXY, NOISE, SHAPE, SKY, state_of
from scipy.signal import fftconvolve

from sphot_mpi.joint_measure import with_confusion, with_correlations
from sphot_mpi.joint_scene import PAD, Frame, galaxy_of

#: Scatter of the unfitted stars' light, and so many fields of it.
STARS, FIELDS = 0.05, 150


def field_states():
    """States whose galaxy is as bright as its photons' noise says, each with another noise and other stars."""
    y, x = np.indices(SHAPE)
    distance = np.hypot(x - GALAXY.x_0, y - GALAXY.y_0)
    error = NOISE + 0.4 * np.exp(-0.5 * (distance / 8.0) ** 2)
    state = state_of(np.zeros(SHAPE), galaxy=galaxy_of((replace(GALAXY, amplitude=0.0),)))
    stamp = state.optics.stars.sampled(state.optics.core_radius)
    rng = np.random.default_rng(0)
    for _ in range(FIELDS):
        stars = fftconvolve(rng.normal(size=np.add(SHAPE, 2 * (stamp.shape[0] // 2))), stamp, mode="valid")
        noise = error * rng.normal(size=SHAPE)
        data = SKY + noise + STARS / np.sqrt((stamp**2).sum()) * stars
        frame = Frame.from_image(data, error, np.zeros(SHAPE, bool), NOISE, 1.0)
        yield state.with_frame(frame), data - SKY, distance


@pytest.mark.parametrize("size", [4.0, 12.0])
def test_a_smooth_unknown_scatters_as_its_error_says_where_the_galaxy_is_brighter_than_the_stars(size):
    """In core and wings alike; by the correlations of the field as a whole its error is 4 and 1.3 times too wide."""
    pulls, too_wide = [], []
    for state, residual, distance in field_states():
        template = np.exp(-0.5 * (distance / size) ** 2)
        for found, (weighed, unit) in ((pulls, with_correlations(state)), (too_wide, with_confusion(state))):
            weight = weighed.optics.frame.weight[PAD:-PAD, PAD:-PAD]
            precision = (weight * template**2).sum()
            found.append((weight * template * residual).sum() / precision / np.sqrt(unit / precision))
    # a standard deviation of 150 pulls is known to 6 %
    assert np.std(pulls) == pytest.approx(1.0, abs=0.2)
    assert np.std(too_wide) < 0.8 * np.std(pulls)


def test_correlations_leave_the_weights_of_the_field_as_they_are_beside_its_confusion():
    state, *_ = next(field_states())
    (local, unit), (field, same) = with_correlations(state), with_confusion(state)
    assert unit == same
    # far from the galaxy the pixels' own noise is that of the field
    np.testing.assert_allclose(local.optics.frame.weight[:20], field.optics.frame.weight[:20], rtol=1e-6)
