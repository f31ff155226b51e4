"""Weighted products of images against NumPy."""

import numpy as np
import pytest

from sphot_mpi.kernels.dense import weighted_products


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 11])
@pytest.mark.parametrize("together", [16, 1000])
def test_products_are_those_of_numpy(count, together):
    rng = np.random.default_rng(count)
    images, weight = rng.normal(size=(count, 201)), rng.uniform(size=201)
    weight[rng.uniform(size=201) < 0.2] = 0.0
    threes = -(-count // 3)
    # each three is 0 beyond its own pixels, the last one everywhere
    first, end = rng.integers(0, 60, threes), rng.integers(140, 202, threes)
    if threes > 2:
        first[-1] = end[-1] = 50
    for k, image in enumerate(images):
        image[: first[k // 3]] = image[end[k // 3] :] = 0.0
    out = np.full((count, count), np.nan)
    weighted_products(out, images, weight, first, end, together)
    # sums of 200 products in another order
    np.testing.assert_allclose(out, (images * weight) @ images.T, rtol=1e-12, atol=1e-12)
