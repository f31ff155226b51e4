"""The scatter that outliers do not widen."""

import numpy as np
import pytest

from sphot_mpi.robust import ROUNDED_SIGMA_PER_MAD, SIGMA_PER_MAD, robust_sigma


def test_robust_sigma_is_that_of_a_gaussian():
    values = np.random.default_rng(0).normal(3.0, 2.0, 20000)
    assert robust_sigma(np.append(values, np.full(500, 1e6))) == pytest.approx(2.0, rel=0.05)


def test_the_rounded_factor_is_the_factor():
    assert pytest.approx(SIGMA_PER_MAD, rel=2e-6) == ROUNDED_SIGMA_PER_MAD
    assert robust_sigma(np.array([0.0, 1.0, 3.0]), ROUNDED_SIGMA_PER_MAD) == ROUNDED_SIGMA_PER_MAD
