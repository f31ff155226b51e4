"""Bounds in a joint step: it ends at the least chi2 that is within reach."""

from dataclasses import replace

import numpy as np
import pytest
from joint_states import GALAXY, KERNEL, NOISE, SHAPE, SIGMA, SKY, noise, optics_on, state_of
from scipy.ndimage import gaussian_filter
from scipy.optimize import lsq_linear

from sphot_mpi.errors import FitError
from sphot_mpi.joint import Keep
from sphot_mpi.joint_bounds import LN_N_APART, LN_N_RANGE, bounded_step, invert, shape_ranges
from sphot_mpi.joint_galaxy import components_of, galaxy_of
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_settle import settle
from sphot_mpi.sersic_fit import fit_sersic
from sphot_mpi.sersic_problem import SersicBounds
from sphot_mpi.sersic_profile import elliptical_radius

M = 8


def ranges(rng):
    """Ranges of steps, some open, some of which end where the step begins."""
    low = np.where(rng.random(M) < 0.4, -rng.exponential(0.1, M) * (rng.random(M) < 0.7), -np.inf)
    high = np.where(rng.random(M) < 0.4, rng.exponential(0.1, M) * (rng.random(M) < 0.7), np.inf)
    return low, np.where(low == high, 0.1, high)


def test_a_bounded_step_is_the_least_squares_solution_within_its_ranges():
    rng = np.random.default_rng(1)
    ended = 0
    for _ in range(300):
        design, data = rng.normal(size=(20, M)) * 10.0 ** rng.uniform(-1.0, 1.0, M), rng.normal(size=20)
        # two unknowns that can hardly be told apart
        design[:, 0] += 30.0 * design[:, 1]
        low, high = ranges(rng)
        step = bounded_step(design.T @ design, design.T @ data, low, high)
        assert (step >= low).all()
        assert (step <= high).all()
        best = lsq_linear(design, data, (low, high), method="bvls", tol=1e-14)
        # normal equations square the condition number, about 1e4 here
        assert ((design @ step - data) ** 2).sum() <= 2.0 * best.cost * (1.0 + 1e-7)
        ended += int(((step == low) | (step == high)).any())
    assert ended > 200


def test_what_is_told_stays_and_the_others_are_solved_for_it():
    matrix, rhs = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([1.0, 0.5])
    told, high = np.array([0.3, -np.inf]), np.array([0.3, np.inf])
    np.testing.assert_allclose(bounded_step(matrix, rhs, told, high), [0.3, 0.1], atol=1e-12)
    for broken in ((matrix * np.nan, rhs), (matrix, rhs * np.nan)):
        with pytest.raises(FitError, match="not finite"):
            bounded_step(*broken, told, high)


def test_a_bounded_step_ends_where_unknowns_cannot_be_told_apart():
    rng = np.random.default_rng(2)
    for _ in range(300):
        design = rng.normal(size=(20, M))
        # two columns alike but for round-off, one that no pixel sees, and tests that differ from the columns
        design[:, 0] = design[:, 1] * (1.0 + 1e-9)
        design[:, 2] = 0.0
        matrix = design.T @ design
        matrix[3] *= 1.0 + 0.1 * rng.normal(size=M)
        low, high = ranges(rng)
        step = bounded_step(matrix, design.T @ rng.normal(size=20), low, high)
        assert (step >= low).all()
        assert (step <= high).all()


@pytest.mark.parametrize("alike", [1.0, 1e-2, 1e-5, 1e-8, 1e-11, 0.0])
def test_an_inverse_is_a_pseudo_inverse_where_unknowns_cannot_be_told_apart(alike):
    rng = np.random.default_rng(3)
    design = rng.normal(size=(20, M))
    design[:, 0] = design[:, 1] + alike * design[:, 0]
    matrix = design.T @ design
    # not symmetric, as tests that differ from the columns make it
    matrix[3] *= 1.0 + 0.1 * rng.normal(size=M)
    scale = np.sqrt(np.diag(matrix))
    scaled = matrix / np.outer(scale, scale)
    singular = np.linalg.svd(scaled, compute_uv=False)
    expected = np.linalg.pinv(scaled, rcond=1e-12) / np.outer(scale, scale)
    # round-off grows with the condition of what is not left out
    kept = singular[singular > 1e-12 * singular[0]]
    rtol = 100.0 * np.finfo(float).eps * kept[0] / kept[-1]
    np.testing.assert_allclose(invert(matrix), expected, atol=rtol * np.abs(expected).max())


def test_a_galaxy_whose_n_is_out_of_reach_comes_to_rest_at_the_least_chi2():
    # a disk of uniform brightness is flatter than any that may be fitted: with steps that are cut at the bound after
    # they were solved, the solves would never become quiet
    disk = gaussian_filter((elliptical_radius(SHAPE, GALAXY) < 12.0).astype(float), np.hypot(SIGMA, KERNEL))
    data = SKY + 0.5 * disk + noise()
    state = state_of(data, galaxy=galaxy_of((replace(GALAXY, n=1.0, r_eff=7.0),)))
    state, quiet = settle(state, Freedom(galaxy_flux=True, galaxy_shape=True), Keep(3.0, 3.0), most=30)
    assert quiet
    (found,) = components_of(state.scene.galaxy)
    assert np.log(found.n) == pytest.approx(LN_N_RANGE[0], abs=1e-9)
    # the galaxy alone, by another solver
    renderer = optics_on(state.optics.frame).renderer
    bounds = SersicBounds(n=(0.3, 8.0))
    weight = np.full(SHAPE, NOISE**-2)
    other = fit_sersic(data, weight, renderer, start=(found,), n_components=1, relative=1e-12, bounds=bounds)
    # quiet are steps of half an error, which gain a quarter at most
    assert state.step.chi2 < other.chi2 + 0.25
    (best,) = other.components
    assert found.r_eff == pytest.approx(best.r_eff, rel=1e-3)
    assert (found.x_0, found.y_0) == pytest.approx((best.x_0, best.y_0), abs=0.005)
    assert found.ellip == pytest.approx(best.ellip, abs=2e-3)


def test_components_that_share_no_centre_keep_lower_n():
    galaxy = galaxy_of((GALAXY, replace(GALAXY, r_eff=3.0)))
    _, high = shape_ranges(galaxy, SHAPE)
    np.testing.assert_array_equal(high[:, 1], LN_N_RANGE[1])
    _, high = shape_ranges(replace(galaxy, centres=galaxy.centres + [[0.0, 0.0], [3.0, 0.0]]), SHAPE)
    np.testing.assert_array_equal(high[:, 1], LN_N_APART)
