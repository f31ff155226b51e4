"""Non-negative least squares against scipy.optimize.nnls and the KKT conditions."""

from unittest import mock

import numpy as np
import pytest
from scipy import optimize, sparse

from sphot_mpi import nnls
from sphot_mpi.kernels.sparse import gram_blocks
from sphot_mpi.nnls import kkt_violation, solve_nnls, solve_signed


def blended_scene(n, sigma, shape, seed, *, twins=0, noise=1.0, dense=True):
    """Gaussian stars, some of them off the edge, on an image with masked pixels; gram, rhs, design, data.

    Without `dense` there is no design matrix.
    """
    rng = np.random.default_rng(seed)
    radius = int(4 * sigma) + 1
    x, y = rng.uniform(-3, shape[1] + 2, n), rng.uniform(-3, shape[0] + 2, n)
    if twins:
        x[-twins:], y[-twins:] = x[:twins], y[:twins]
    flux = np.exp(rng.normal(3.0, 1.5, n))
    corner_y, corner_x = np.rint(y).astype(int) - radius, np.rint(x).astype(int) - radius
    g = np.arange(2 * radius + 1)
    stamps = np.exp(-0.5 * ((corner_y[:, None] + g - y[:, None]) / sigma) ** 2)[:, :, None] * (
        np.exp(-0.5 * ((corner_x[:, None] + g - x[:, None]) / sigma) ** 2)[:, None, :] / (2 * np.pi * sigma**2)
    )
    weight = rng.uniform(0.5, 2.0, shape) * (rng.uniform(size=shape) > 0.1)
    weight[: shape[0] // 5, : shape[1] // 5] = 0.0
    pad = 2 * radius + 4
    planes = np.zeros((n if dense else 1, shape[0] + 2 * pad, shape[1] + 2 * pad))
    light = np.zeros(planes.shape[1:])
    for s in range(n):
        top, left = corner_y[s] + pad, corner_x[s] + pad
        planes[s if dense else 0, top : top + g.size, left : left + g.size] = stamps[s]
        light[top : top + g.size, left : left + g.size] += flux[s] * stamps[s]
    design = planes[:, pad:-pad, pad:-pad].reshape(len(planes), -1)
    image = light[pad:-pad, pad:-pad] + noise * rng.normal(size=shape)
    data, indices, indptr, rhs = gram_blocks(stamps[:, None], corner_y, corner_x, weight, image)
    root = np.sqrt(weight.ravel())
    used = root > 0.0
    gram = sparse.csc_array((data, indices, indptr), shape=(n, n))
    return gram, rhs, (design[:, used] * root[used]).T, image.ravel()[used] * root[used]


def assert_optimal(gram, rhs, x, tolerance=1e-8):
    """The KKT conditions, computed here, with columns at unit norm."""
    norm = np.sqrt(gram.diagonal())
    used = norm > 0.0
    gradient = (gram @ x - rhs)[used] / norm[used]
    scale = np.abs(rhs[used] / norm[used]).max()
    assert (x >= 0.0).all()
    assert gradient.min() >= -tolerance * scale
    assert np.abs(gradient[x[used] > 0.0]).max(initial=0.0) <= tolerance * scale


@pytest.mark.parametrize(("sigma", "shape"), [(1.0, (45, 60)), (2.0, (45, 60)), (2.0, (60, 80))])
def test_equals_scipy_on_the_dense_design(sigma, shape):
    gram, rhs, design, data = blended_scene(150, sigma, shape, seed=1)
    result = solve_nnls(gram, rhs)
    expected, _ = optimize.nnls(design, data, maxiter=10_000)
    assert result.converged
    assert (result.x == 0.0).any()  # the bound is active, or the test shows nothing
    # condition numbers of the normal equations reach 1e6
    assert np.allclose(result.x, expected, rtol=0.0, atol=1e-8 * expected.max())
    assert_optimal(gram, rhs, result.x)


@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_1500_blended_sources_satisfy_kkt(sigma):
    gram, rhs, *_ = blended_scene(1500, sigma, (100, 130), seed=2, dense=False)
    result = solve_nnls(gram, rhs)
    assert result.converged
    assert_optimal(gram, rhs, result.x)


def test_duplicates_share_a_flux_and_leave_the_model_as_it_is():
    gram, rhs, design, data = blended_scene(120, 1.5, (40, 50), seed=3, twins=10)
    result = solve_nnls(gram, rhs)
    assert_optimal(gram, rhs, result.x)
    expected, _ = optimize.nnls(design, data, maxiter=10_000)
    # the minimum is not unique, but the model is
    assert np.allclose(design @ result.x, design @ expected, atol=1e-6)


def test_pure_noise_is_solved_too():
    gram, rhs, design, data = blended_scene(100, 2.0, (40, 50), seed=4)
    noise = np.random.default_rng(0).normal(size=data.size)
    rhs = design.T @ noise
    expected, _ = optimize.nnls(design, noise, maxiter=10_000)
    assert np.allclose(solve_nnls(gram, rhs).x, expected, atol=1e-8 * expected.max())


def test_the_backup_rule_alone_finds_the_solution(monkeypatch):
    gram, rhs, *_ = blended_scene(150, 2.0, (40, 50), seed=5)
    expected = solve_nnls(gram, rhs)
    exchanges = mock.Mock(wraps=nnls._solve_free)
    monkeypatch.setattr(nnls, "_solve_free", exchanges)
    solve_nnls(gram, rhs)
    usual = exchanges.call_count
    monkeypatch.setattr(nnls, "PATIENCE", 0)
    monkeypatch.setattr(nnls, "WARM_SWEEPS", 0)
    result = solve_nnls(gram, rhs, max_iterations=5000)
    assert exchanges.call_count > 2 * usual
    assert np.allclose(result.x, expected.x, atol=1e-9 * expected.x.max())


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_units_do_not_matter(unit):
    gram, rhs, *_ = blended_scene(100, 1.5, (40, 50), seed=6)
    assert np.allclose(solve_nnls(gram * unit**2, rhs * unit).x * unit, solve_nnls(gram, rhs).x, rtol=1e-9)


def test_no_ridge_dims_a_wide_faint_source():
    # one source with a Gram element of 1e-5: an absolute ridge of 1e-6 would take 10 %
    result = solve_nnls(np.array([[1e-5]]), np.array([2e-5]))
    assert result.x[0] == pytest.approx(2.0, rel=1e-14)


def test_sources_without_a_usable_pixel_stay_zero():
    gram = np.diag([1.0, 0.0, 3.0])
    result = solve_nnls(gram, np.array([1.0, 0.0, -1.0]))
    assert result.x.tolist() == [1.0, 0.0, 0.0]


def test_a_right_hand_side_without_light_gives_zero():
    result = solve_nnls(np.eye(3), -np.ones(3))
    assert result.x.tolist() == [0.0] * 3
    assert result.converged


def test_no_unknowns_are_solved():
    assert solve_nnls(sparse.csc_array((0, 0)), np.zeros(0)).x.size == 0
    assert solve_signed(sparse.csc_array((0, 0)), np.zeros(0)).size == 0


def test_too_few_iterations_are_reported():
    gram, rhs, *_ = blended_scene(300, 3.0, (40, 50), seed=7)
    result = solve_nnls(gram, rhs, max_iterations=1)
    assert not result.converged
    with pytest.raises(AssertionError):
        assert_optimal(gram, rhs, result.x)
    assert (result.x >= 0.0).all()


def test_signed_solution_is_least_squares():
    gram, rhs, design, data = blended_scene(100, 1.5, (50, 70), seed=8)
    expected = np.linalg.lstsq(design, data)[0]
    assert np.allclose(solve_signed(gram, rhs), expected, atol=1e-8 * np.abs(expected).max())
    assert (expected < 0.0).any()


def test_signed_solution_of_duplicates_splits_the_flux():
    assert np.allclose(solve_signed(np.ones((2, 2)), np.array([3.0, 3.0])), [1.5, 1.5], rtol=1e-9)


def test_kkt_violation_counts_both_conditions():
    x = np.array([1.0, 0.0, 0.0])
    assert kkt_violation(x, np.array([0.0, 5.0, 0.0])) == 0.0
    assert kkt_violation(x, np.array([-0.3, 5.0, 0.0])) == pytest.approx(0.3)
    assert kkt_violation(x, np.array([0.0, 5.0, -2.0])) == pytest.approx(2.0)


@pytest.mark.parametrize("solve", [solve_nnls, solve_signed])
def test_wrong_input_is_refused(solve):
    with pytest.raises(ValueError, match="does not fit"):
        solve(np.eye(3), np.ones(2))
    with pytest.raises(ValueError, match="finite"):
        solve(np.diag([1.0, np.nan]), np.ones(2))
