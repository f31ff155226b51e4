"""Matching and scoring of stars on scenes whose answer is known."""

import numpy as np
import pytest

from sphot_mpi.scores import match_stars, pool, score_stars


def test_match_is_one_to_one_and_the_brightest_chooses_first() -> None:
    # two true stars share one found star: the brighter gets it, though the fainter is nearer
    match = match_stars(
        np.array([10.0, 10.6]), np.array([5.0, 5.0]), np.array([9.0, 1.0]), np.array([10.5]), np.array([5.0]), 1.0
    )
    np.testing.assert_array_equal(match, [0, -1])


def test_match_takes_the_nearest_within_the_radius() -> None:
    x, y = np.array([0.0, 0.9, 7.0]), np.array([0.0, 0.0, 7.0])
    match = match_stars(np.array([0.6, 7.0]), np.array([0.0, 8.1]), np.array([1.0, 2.0]), x, y, 1.0)
    np.testing.assert_array_equal(match, [1, -1])


@pytest.mark.parametrize(("n_true", "n_found"), [(0, 3), (3, 0), (0, 0)])
def test_match_of_nothing(n_true: int, n_found: int) -> None:
    ones = np.ones(n_true)
    match = match_stars(ones, ones, ones, np.ones(n_found), np.ones(n_found), 1.0)
    np.testing.assert_array_equal(match, np.full(n_true, -1))


def random_field(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions on a jittered grid, 10 px apart, so that no match is ambiguous."""
    cells = rng.permutation(2500)[:n]
    return 10.0 * (cells % 50) + rng.uniform(3, 7, n), 10.0 * (cells // 50) + rng.uniform(3, 7, n)


def test_a_perfect_photometer_scores_perfectly() -> None:
    rng = np.random.default_rng(1)
    x, y = random_field(rng, 2000)
    snr = rng.uniform(3.0, 100.0, 2000)
    flux, error = 0.1 * snr, np.full(2000, 0.1)
    measured = flux + rng.normal(0.0, 0.1, 2000)
    everything = np.ones(2000, dtype=bool)
    order = rng.permutation(2000)
    scores = score_stars(
        (x, y, flux, snr), everything, (x[order], y[order], measured[order], error[order]), everything, 2.0
    )
    assert scores.completeness(3.0) == 1.0
    assert scores.reliability == 1.0  # above S/N 5 no star is off by a factor 2: that would be 3.5 sigma at 7
    for low, high in ((3.0, 10.0), (10.0, 50.0), (50.0, np.inf)):
        assert scores.pull_width(low, high) == pytest.approx(1.0, abs=0.3)  # 140 stars at least: 8 %
    assert abs(scores.bias) < 0.003  # 1000 stars with errors of 1 to 2 %


def test_losses_false_stars_and_biases_are_counted() -> None:
    rng = np.random.default_rng(2)
    x, y = random_field(rng, 1000)
    snr = np.repeat([7.0, 60.0], 500)
    flux = 0.1 * snr
    kept = np.ones(1000, dtype=bool)
    kept[:100] = False  # 100 of the 500 faint ones are lost
    false_x, false_y = np.full(50, 900.0), np.arange(50) * 10.0
    reported = (
        np.concatenate([x[kept], false_x]),
        np.concatenate([y[kept], false_y]),
        np.concatenate([1.03 * flux[kept], np.full(50, 5.0)]),
        np.full(950, 0.1),
    )
    usable, in_frame = np.ones(1000, dtype=bool), np.ones(950, dtype=bool)
    scores = score_stars((x, y, flux, snr), usable, reported, in_frame, 2.0)
    assert scores.completeness(5.0, 10.0) == pytest.approx(0.8)
    assert scores.completeness(10.0) == 1.0
    assert scores.reliability == pytest.approx(900 / 950)
    assert scores.bias == pytest.approx(0.03)


def test_unusable_stars_neither_count_nor_make_false_ones() -> None:
    # the second true star lies beyond the edge, but what was reported for it is no false star
    true = np.array([5.0, -1.0]), np.array([5.0, 5.0]), np.array([2.0, 2.0]), np.array([20.0, 20.0])
    found = np.array([-0.9]), np.array([5.0]), np.array([2.1]), np.array([0.1])
    scores = score_stars(true, np.array([True, False]), found, np.array([True]), 2.0)
    assert scores.completeness(10.0) == 0.0
    assert scores.reliability == 1.0


def test_a_wrong_flux_is_complete_but_not_reliable() -> None:
    true = np.array([5.0]), np.array([5.0]), np.array([2.0]), np.array([20.0])
    found = np.array([5.1]), np.array([5.0]), np.array([4.2]), np.array([0.1])
    every = np.array([True])
    scores = score_stars(true, every, found, every, 2.0)
    assert scores.completeness(10.0) == 1.0
    assert scores.reliability == 0.0


def test_pool_counts_stars_not_fields() -> None:
    every = np.array([True])
    one = np.array([5.0]), np.array([5.0]), np.array([2.0]), np.array([20.0])
    nothing = (np.empty(0),) * 4
    hit = score_stars(one, every, (one[0], one[1], one[2], np.array([0.1])), every, 2.0)
    miss = score_stars(one, every, nothing, np.empty(0, dtype=bool), 2.0)
    assert pool([hit, miss, miss]).completeness(10.0) == pytest.approx(1 / 3)
    assert np.isnan(miss.reliability)
    assert np.isnan(miss.bias)
