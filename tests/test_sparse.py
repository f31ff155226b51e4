"""Sparse normal equations of stamps against dense linear algebra."""

import numpy as np
import pytest
from scipy import sparse

from sphot_mpi.kernels.sparse import gram_blocks, marginal_variances, project_image, stamp_neighbours

SHAPE = (50, 70)


def _random_system(columns, n=60, side=9, seed=0):
    rng = np.random.default_rng(seed)
    stamps = rng.normal(size=(n, columns, side, side))
    # some corners are so far out that the stamp misses the image
    corner_y, corner_x = rng.integers(-side - 2, SHAPE[0] + 2, n), rng.integers(-side - 2, SHAPE[1] + 2, n)
    weight = rng.uniform(0.5, 2.0, SHAPE) * (rng.uniform(size=SHAPE) > 0.2)
    return stamps, corner_y, corner_x, weight, rng.normal(size=SHAPE)


def _dense_design(stamps, corner_y, corner_x):
    n, columns, side, _ = stamps.shape
    pad = 2 * side + 5
    design = np.zeros((n, columns, SHAPE[0] + 2 * pad, SHAPE[1] + 2 * pad))
    for s in range(n):
        y, x = corner_y[s] + pad, corner_x[s] + pad
        design[s, :, y : y + side, x : x + side] = stamps[s]
    return design[:, :, pad:-pad, pad:-pad].reshape(n * columns, -1)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_gram_blocks_are_the_dense_normal_equations(columns):
    system = _random_system(columns)
    design = _dense_design(*system[:3])
    weight, image = system[3].ravel(), system[4].ravel()
    data, indices, indptr, rhs = gram_blocks(*system)
    gram = sparse.csr_array((data, indices, indptr), shape=(rhs.size, rhs.size))
    assert gram.has_canonical_format
    # sums of up to 81 products of order 1
    assert np.allclose(gram.toarray(), (design * weight) @ design.T, atol=1e-12)
    assert np.allclose(rhs, design @ (weight * image), atol=1e-12)


def test_project_image_is_the_scalar_product_with_every_column():
    stamps, corner_y, corner_x, _, image = _random_system(3, seed=1)
    design = _dense_design(stamps, corner_y, corner_x)
    assert np.allclose(project_image(stamps, corner_y, corner_x, image), design @ image.ravel(), atol=1e-12)


def test_neighbours_are_all_overlapping_pairs_and_no_others():
    rng = np.random.default_rng(2)
    y, x = rng.integers(-40, 90, 200), rng.integers(0, 55, 200)
    start, index = stamp_neighbours(y, x, 7, 11)
    expected = (np.abs(y[:, None] - y) < 7) & (np.abs(x[:, None] - x) < 11)
    for s in range(200):
        assert index[start[s] : start[s + 1]].tolist() == np.flatnonzero(expected[s]).tolist()


def test_no_sources_give_an_empty_system():
    empty = np.zeros(0, np.int64)
    data, _, indptr, rhs = gram_blocks(np.zeros((0, 3, 5, 5)), empty, empty, np.ones(SHAPE), np.ones(SHAPE))
    assert data.size == rhs.size == 0
    assert indptr.tolist() == [0]


def _blended_gram(n=150, seed=6):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 60, n), rng.uniform(0, 40, n)
    r2 = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
    gram = np.where(r2 < 64.0, np.exp(-r2 / 4.0), 0.0) + 1e-3 * np.eye(n)
    return gram * np.outer(*[rng.uniform(0.1, 10.0, n)] * 2)


def test_marginal_variances_with_all_neighbours_are_the_inverse():
    gram = _blended_gram(40)
    matrix = sparse.csc_array(gram)
    variance = marginal_variances(matrix.data, matrix.indices, matrix.indptr, 40)
    assert np.allclose(variance, np.diag(np.linalg.inv(gram)), rtol=1e-9)


def test_marginal_variances_from_few_neighbours_are_near_and_never_too_large():
    gram = _blended_gram()
    matrix = sparse.csc_array(gram)
    variance = marginal_variances(matrix.data, matrix.indices, matrix.indptr, 20)
    ratio = np.sqrt(variance / np.diag(np.linalg.inv(gram)))
    # leaving unknowns out can only shrink a variance; the strongest 20 of some 25 matter
    assert ratio.max() < 1.0 + 1e-9
    assert ratio.min() > 0.9
    assert np.median(ratio) > 0.995


def test_a_column_without_pixels_or_a_twin_has_infinite_variance():
    gram = np.array([[0.0, 0, 0, 0], [0, 2.0, 2.0, 0], [0, 2.0, 2.0, 0], [0, 0, 0, 4.0]])
    matrix = sparse.csc_array(gram)
    variance = marginal_variances(matrix.data, matrix.indices, matrix.indptr, 3)
    assert np.isinf(variance[:3]).all()
    assert variance[3] == pytest.approx(0.25)
