"""Middle and scatter that outliers do not move."""

import numpy as np
import pytest
from scipy import stats

from sphot_mpi.robust import SIGMA_PER_MAD, median, robust_sigma


def test_robust_sigma_is_that_of_a_gaussian():
    values = np.random.default_rng(0).normal(3.0, 2.0, 20000)
    assert robust_sigma(np.append(values, np.full(500, 1e6))) == pytest.approx(2.0, rel=0.05)


def test_the_factor_is_that_of_the_normal_distribution():
    # half of a normal distribution lies within one median absolute deviation
    assert stats.norm.cdf(1.0 / SIGMA_PER_MAD) == pytest.approx(0.75, abs=1e-12)
    assert robust_sigma(np.array([0.0, 1.0, 3.0])) == SIGMA_PER_MAD


@pytest.mark.parametrize("shape", [(1,), (2,), (7, 3), (200, 7)])
def test_the_median_is_that_of_numpy(shape):
    values = np.random.default_rng(sum(shape)).normal(size=shape)
    before = values.copy()
    assert median(values) == np.median(values)
    np.testing.assert_array_equal(values, before)
