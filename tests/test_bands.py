"""The stars' normal equations as a band matrix, against dense linear algebra."""

import numpy as np
import pytest
from analytic import gaussian_library, stamp_on

from sphot_mpi.kernels import bands
from sphot_mpi.point_render import star_stamps
from sphot_mpi.psf import PSF
from sphot_mpi.star_renderer import StarRenderer

SHAPE = (75, 92)
SIDE = 7


def sorted_stars(widths, n=40, seed=0):
    """Random columns and corners, on and off the frame, sorted along y."""
    rng = np.random.default_rng(seed)
    corner_y, corner_x = np.sort(rng.integers(-9, SHAPE[0] + 3, n)), rng.integers(-9, SHAPE[1] + 3, n)
    width = rng.choice(widths, n).astype(np.int64)
    first = np.cumsum(width) - width
    columns = rng.normal(size=(int(width.sum()), SIDE, SIDE))
    weight = rng.uniform(0.5, 2.0, SHAPE) * (rng.uniform(size=SHAPE) > 0.3)
    return columns, first, width, corner_y, corner_x, weight


def matrix_of(band):
    """The symmetric matrix that a band stands for."""
    n, b = band.shape[0], band.shape[1] - 1
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(max(0, i - b), i + 1):
            out[i, j] = out[j, i] = band[j, i - j]
    return out


def band_of(matrix, b):
    n = matrix.shape[0]
    out = np.zeros((n, b + 1))
    for i in range(n):
        for j in range(max(0, i - b), i + 1):
            out[j, i - j] = matrix[i, j]
    return out


@pytest.mark.parametrize("widths", [[1], [3], [1, 3]])
def test_the_band_is_the_dense_normal_matrix(widths):
    columns, first, width, corner_y, corner_x, weight = sorted_stars(widths)
    dense = np.random.default_rng(1).normal(size=(6, *SHAPE))
    b = bands.band_width(corner_y, first, width, SIDE)
    band, cross = np.full((columns.shape[0], b + 1), np.nan), np.full((columns.shape[0], 6), np.nan)
    top, end = np.array([SHAPE[0] // 3]), np.array([SHAPE[0] // 2])
    dense[:3, : top[0]] = dense[:3, end[0] :] = 0.0
    bands.band_normal(
        band, cross, columns, first, width, corner_y, corner_x, corner_y, weight, dense[:3], top, end, dense[3:]
    )
    star = np.repeat(np.arange(width.size), width)
    images = np.array(
        [stamp_on(SHAPE, column, corner_y[s], corner_x[s]) for column, s in zip(columns, star, strict=True)]
    )
    expected = np.tensordot(images * weight, images, ((1, 2), (1, 2)))
    np.testing.assert_allclose(matrix_of(band), expected, atol=1e-12)
    np.testing.assert_allclose(cross, np.tensordot(images * weight, dense, ((1, 2), (1, 2))), atol=1e-12)
    # no wider than it must be: stamps a row apart overlap
    i, j = np.nonzero(np.abs(corner_y[star][:, None] - corner_y[star]) < SIDE)
    assert b == (i - j).max()


def test_no_star_is_an_empty_band():
    none = np.zeros(0, np.int64)
    assert bands.band_width(none, none, none, SIDE) == 0
    band, cross = np.zeros((0, 1)), np.zeros((0, 3))
    bands.band_normal(
        band,
        cross,
        np.zeros((0, SIDE, SIDE)),
        none,
        none,
        none,
        none,
        none,
        np.ones(SHAPE),
        np.ones((0, *SHAPE)),
        none,
        none,
        np.ones((3, *SHAPE)),
    )
    bands.band_solve(band, cross.T)


@pytest.mark.parametrize("b", [0, 1, 6, 30])
def test_the_band_solves_as_the_matrix_does(b):
    rng = np.random.default_rng(b)
    lower = np.tril(np.triu(rng.normal(size=(31, 31)), -b)) + 3.0 * np.eye(31)
    rhs = rng.normal(size=(8, 31))
    got = rhs.copy()
    bands.band_solve(band_of(lower, b), got)
    np.testing.assert_allclose(lower @ lower.T @ got.T, rhs.T, atol=1e-11)


def test_variances_with_all_neighbours_are_the_inverse():
    rng = np.random.default_rng(4)
    width = np.array([3, 1, 3, 3, 1, 3])
    first = np.cumsum(width) - width
    design = rng.normal(size=(60, width.sum()))
    # the first star and the last do not know each other
    matrix = np.triu(np.tril(design.T @ design, 10), -10)
    band = band_of(matrix, 10)
    everyone = np.array([[t for t in range(6) if t != s] for s in range(6)])
    variance = bands.band_variances(band, first, width, everyone, np.zeros((6, 2)))
    inverse = np.diag(np.linalg.inv(matrix))
    for s in range(6):
        np.testing.assert_allclose(variance[s, : width[s]], inverse[first[s] : first[s] + width[s]], rtol=1e-10)
        assert np.isnan(variance[s, width[s] :]).all()
    # the fewer parameters are free, the smaller a variance
    alone = bands.band_variances(band, first, width, np.full((6, 2), -1), np.zeros((6, 2)))
    for s in range(6):
        block = matrix[first[s] : first[s] + width[s], first[s] : first[s] + width[s]]
        np.testing.assert_allclose(alone[s, : width[s]], np.diag(np.linalg.inv(block)), rtol=1e-10)
        assert (alone[s, : width[s]] <= variance[s, : width[s]]).all()


@pytest.mark.parametrize("width", [1, 3])
def test_a_singular_neighbourhood_has_no_variance(width):
    matrix = np.eye(2 * width)
    matrix[0, width] = matrix[width, 0] = 2.0
    variance = bands.band_variances(
        band_of(matrix, 2 * width - 1), np.array([0, width]), np.array([width, width]), np.array([[1], [0]]),
        np.zeros((2, 2)),
    )  # fmt: skip
    assert np.isnan(variance).all()


def test_what_holds_a_position_is_no_information_on_it():
    rng = np.random.default_rng(6)
    design = rng.normal(size=(20, 3))
    told, damping = design.T @ design, np.array([[4.0, 9.0]])
    one = np.array([0]), np.array([3]), np.array([[-1]])
    held = told + np.diag([0.0, 4.0, 9.0])
    variance = bands.band_variances(band_of(held, 2), *one, damping)
    np.testing.assert_allclose(variance[0, 1:], np.diag(np.linalg.inv(told))[1:], rtol=1e-12)
    assert variance[0, 0] == pytest.approx(np.linalg.inv(held)[0, 0], rel=1e-12)
    # and where it is all that there is, nothing tells the position
    only = bands.band_variances(band_of(np.diag([1.0, 4.0, 9.0]), 2), *one, damping)
    assert only[0, 0] == 1.0
    assert np.isinf(only[0, 1:]).all()


def test_columns_are_the_stamps_of_the_star_field():
    psf = PSF(gaussian_library(1.0, (90, 101)))
    rng = np.random.default_rng(5)
    x, y, flux = rng.uniform(-3, SHAPE[1] + 2, 20), rng.uniform(-3, SHAPE[0] + 2, 20), rng.uniform(0.5, 9.0, 20)
    width = rng.choice([1, 3], 20).astype(np.int64)
    first = np.cumsum(width) - width
    columns = StarRenderer(psf, SHAPE).columns(x, y, flux, first, width, 4)
    stamps = star_stamps(psf, x, y, 4)[0]
    for s in range(20):
        np.testing.assert_allclose(columns[first[s]], stamps[s, 0], atol=1e-10)
        for c in range(1, width[s]):
            np.testing.assert_allclose(columns[first[s] + c], flux[s] * stamps[s, c], atol=1e-9)
