"""Matched filter, peaks and the choice among them, against closed forms and brute force."""

import numpy as np
import pytest
from analytic import gaussian_library, gaussian_stars
from scipy import ndimage, signal

from sphot_mpi.detection import LEAST_COVERAGE, MatchedFilter, detect
from sphot_mpi.kernels.joint import find_peaks, keep_apart
from sphot_mpi.point_render import sampled_star
from sphot_mpi.psf import PSF
from sphot_mpi.star_field import StarField

SHAPE = (113, 150)
SIGMA = 1.4
NOISE = 0.02
FIELD = StarField(PSF(gaussian_library(SIGMA, (100, 101))), SHAPE, NOISE)
STAMP = sampled_star(FIELD.psf, 8)
FWHM = FIELD.psf.fwhm
LONE_ERROR = NOISE / np.sqrt((STAMP**2).sum())


def flat_filter():
    return MatchedFilter(np.full(SHAPE, NOISE**-2), STAMP)


def found_in(residual, matched=None, threshold=6.0, *, stars=None, blend=0.0, known=((), ())):
    matched = flat_filter() if matched is None else matched
    return detect(
        matched,
        residual,
        np.full(SHAPE, threshold),
        peak=float(STAMP.max()),
        stars=np.zeros(SHAPE) if stars is None else stars,
        blend=blend,
        known=(np.array(known[0], dtype=float), np.array(known[1], dtype=float)),
        fwhm=FWHM,
    )


def test_snr_of_a_lone_star_is_its_flux_over_its_error():
    image = np.zeros(SHAPE)
    image[40 - 8 : 40 + 9, 90 - 8 : 90 + 9] = 5.0 * STAMP
    snr = flat_filter().snr(image)
    assert np.unravel_index(np.argmax(snr), SHAPE) == (40, 90)
    # single precision
    assert snr[40, 90] == pytest.approx(5.0 / LONE_ERROR, rel=1e-6)
    # linear, so a negative star has a negative one
    np.testing.assert_allclose(flat_filter().snr(-2.0 * image), -2.0 * snr, atol=1e-10)


def test_precision_and_snr_are_the_least_squares_flux_at_every_pixel():
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.2, 3.0, SHAPE) * (rng.uniform(size=SHAPE) > 0.15)
    residual = rng.normal(size=SHAPE)
    lopsided = STAMP * (1.0 + 0.3 * np.arange(17)[None, :] - 0.2 * np.arange(17)[:, None])  # no symmetry to hide behind
    matched = MatchedFilter(weight, lopsided)
    precision = signal.correlate(weight, lopsided**2, mode="same", method="direct")
    top = signal.correlate(weight * residual, lopsided, mode="same", method="direct")
    # single precision
    np.testing.assert_allclose(matched.precision, precision, atol=1e-6 * precision.max())
    covered = matched.covered
    snr, expected = matched.snr(residual), (top / np.sqrt(precision))[covered]
    np.testing.assert_allclose(snr[covered], expected, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("unit", [1e-25, 1.0, 1e25])
def test_snr_hangs_on_no_unit_and_a_glaring_pixel_hides_nothing_far_from_it(unit):
    rng = np.random.default_rng(3)
    residual = unit * NOISE * rng.normal(size=SHAPE)
    matched = MatchedFilter(np.full(SHAPE, (unit * NOISE) ** -2), STAMP)
    calm = matched.snr(residual)
    np.testing.assert_allclose(calm, flat_filter().snr(residual / unit), atol=1e-5)
    residual[60, 20] = 1e5 * unit * NOISE
    glaring, far = matched.snr(residual), np.abs(np.arange(SHAPE[1]) - 20) > 8
    assert glaring[60, 20] > 1e4
    # round-off of a transform spreads over the image: far less than a sigma
    np.testing.assert_allclose(glaring[:, far], calm[:, far], atol=1e-2)


def test_a_filter_for_other_weights_is_that_which_is_made_with_them():
    rng = np.random.default_rng(4)
    one, two = (rng.uniform(0.5, 2.0, SHAPE) * (np.arange(SHAPE[1]) > 20) for _ in range(2))
    residual, first, anew = rng.normal(size=SHAPE), MatchedFilter(one, STAMP), MatchedFilter(two, STAMP)
    first.snr(residual)
    np.testing.assert_array_equal(first.reweighted(two).snr(residual), anew.snr(residual))
    np.testing.assert_array_equal(first.reweighted(two).precision, anew.precision)


def test_nothing_is_seen_where_nothing_is_covered():
    weight = np.full(SHAPE, NOISE**-2)
    weight[30:80, 40:90] = 0.0
    matched = MatchedFilter(weight, STAMP)
    residual = np.where(weight > 0, np.random.default_rng(1).normal(0, NOISE, SHAPE), 0.0)
    snr = matched.snr(residual)
    np.testing.assert_array_equal(snr[38:72, 48:82], 0.0)
    assert not matched.covered[38:72, 48:82].any()
    good = signal.correlate((weight > 0).astype(float), STAMP**2, mode="same", method="direct")
    part = good / (STAMP**2).sum()
    # pixels within rounding of the limit may fall on either side
    clear = np.abs(part - LEAST_COVERAGE) > 1e-9
    np.testing.assert_array_equal(matched.covered[clear], (part > LEAST_COVERAGE)[clear])
    blind = MatchedFilter(np.zeros(SHAPE), STAMP)
    assert not blind.snr(np.zeros(SHAPE)).any()


def test_noise_alone_has_unit_variance_and_no_star():
    residual = np.random.default_rng(2).normal(0.0, NOISE, SHAPE)
    snr = flat_filter().snr(residual)
    # about 1200 independent cells: 2 % of scatter, five of those
    assert snr.std() == pytest.approx(1.0, abs=0.1)
    # 6 sigma among 17000 correlated pixels has a chance of 1e-5
    assert found_in(residual).x.size == 0
    assert found_in(residual, threshold=np.inf).x.size == 0


def star_grid(snr, noise_seed=3):
    gy, gx = np.meshgrid(np.arange(10, 105, 14), np.arange(10, 145, 14), indexing="ij")
    rng = np.random.default_rng(4)
    x, y = (g.ravel() + rng.uniform(-0.5, 0.5, g.size) for g in (gx, gy))
    flux = np.full(x.size, snr * LONE_ERROR)
    image = gaussian_stars(SHAPE, x, y, flux, SIGMA)
    return image + np.random.default_rng(noise_seed).normal(0.0, NOISE, SHAPE), x, y, flux


def test_a_grid_of_stars_is_found_whole_and_nothing_else():
    image, x, y, flux = star_grid(20.0)
    found = found_in(image)
    assert found.x.size == x.size
    distance = np.hypot(found.x[:, None] - x, found.y[:, None] - y)
    nearest = distance.argmin(axis=1)
    assert np.unique(nearest).size == x.size
    # the error of a position is about sigma / (S/N) = 0.08 px an axis, and the parabola's bias smaller
    assert distance.min(axis=1).max() < 0.4
    # up to half a pixel beside the star, the filter sees at least 94 % of it; noise 5 %, four of those
    assert np.abs(found.flux / flux[nearest] - 0.98).max() < 0.25
    # the most significant comes first; under even noise that is the brightest
    assert (np.diff(found.flux) <= 1e-12).all()


def test_the_threshold_may_differ_from_pixel_to_pixel():
    image, x, _, _ = star_grid(20.0)
    level = np.full(SHAPE, 6.0)
    level[:, :75] = np.inf
    found = detect(
        flat_filter(), image, level, peak=1.0, stars=np.zeros(SHAPE), blend=0.0, known=(x[:0], x[:0]), fwhm=FWHM
    )
    assert found.x.size == (x > 74.5).sum()
    assert found.x.min() > 74.0


def test_no_source_is_added_next_to_a_known_one_nor_on_its_light():
    image, x, y, flux = star_grid(20.0)
    near = found_in(image, known=(x[:6] + 0.2 * FWHM, y[:6]))
    assert near.x.size == x.size - 6
    beside = found_in(image, known=(x[:6] + 0.9 * FWHM, y[:6]))
    assert beside.x.size == x.size
    # on a bright model star the residual must be above a part of it
    stars = np.zeros(SHAPE)
    stars[:, :75] = 30.0 * flux[0] * STAMP.max()
    blended = found_in(image, stars=stars, blend=0.1)
    assert blended.x.size == (x > 74.5).sum()
    assert found_in(image, stars=stars, blend=0.01).x.size == x.size


@pytest.mark.parametrize("seed", range(3))
def test_peaks_are_the_local_maxima(seed):
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.normal(size=(41, 67)), 1.0)
    threshold = rng.uniform(-0.1, 0.2, image.shape)
    peaks = find_peaks(image, threshold)
    top = (ndimage.maximum_filter(image, 3) == image) & (image > threshold)
    top[[0, -1]] = False
    top[:, [0, -1]] = False
    assert len(peaks) == top.sum() > 20
    assert {(round(x), round(y)) for x, y, _ in _unmoved(peaks, image)} == {(x, y) for y, x in np.argwhere(top)}
    np.testing.assert_array_equal(peaks[:, 2], np.sort(image[top])[::-1])


def _unmoved(peaks, image):
    """Peaks at the pixel whose height they carry: the parabola moves them by up to half a pixel."""
    for x, y, height in peaks:
        iy, ix = np.argwhere(image == height)[0]
        assert abs(ix - x) <= 0.5
        assert abs(iy - y) <= 0.5
        yield ix, iy, height


def test_a_parabola_is_found_at_its_vertex_and_a_plateau_once():
    y, x = np.mgrid[:21, :30]
    bowl = 9.0 - 0.3 * (x - 12.3) ** 2 - 0.2 * (y - 8.6) ** 2
    (peak,) = find_peaks(bowl, np.zeros(bowl.shape))
    assert peak[:2] == pytest.approx([12.3, 8.6], abs=1e-12)
    plateau = np.zeros((11, 13))
    plateau[5, 6:8] = 1.0
    assert len(find_peaks(plateau, np.full(plateau.shape, 0.5))) == 1
    assert len(find_peaks(np.ones((11, 13)), np.zeros((11, 13)))) <= 1
    assert len(find_peaks(plateau, np.ones(plateau.shape))) == 0


def test_even_a_chessboard_of_peaks_is_found_whole():
    image = np.zeros((21, 31))
    image[1:-1:2, 1:-1:2] = np.random.default_rng(0).uniform(1, 2, (10, 15))
    assert len(find_peaks(image, np.full(image.shape, 0.5))) == 150


def brute_force(x, y, known_x, known_y, new_distance, known_distance):
    keep = np.zeros(x.size, bool)
    for s in range(x.size):
        free = (np.hypot(known_x - x[s], known_y - y[s]) >= known_distance).all()
        keep[s] = free and (np.hypot(x[:s][keep[:s]] - x[s], y[:s][keep[:s]] - y[s]) >= new_distance).all()
    return keep


@pytest.mark.parametrize("distances", [(1.7, 0.9), (0.9, 1.7), (5.0, 5.0), (0.3, 0.0)])
@pytest.mark.parametrize("seed", range(3))
def test_points_are_kept_apart_greedily(distances, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-10, 60, 250), rng.uniform(-3, 25, 250)
    known_x, known_y = rng.uniform(-20, 70, 60), rng.uniform(-30, 40, 60)
    keep = keep_apart(x, y, known_x, known_y, *distances)
    np.testing.assert_array_equal(keep, brute_force(x, y, known_x, known_y, *distances))
    assert keep.sum() > 0
    none = np.zeros(0)
    np.testing.assert_array_equal(keep_apart(x, y, none, none, *distances), brute_force(x, y, none, none, *distances))
    assert keep_apart(none, none, known_x, known_y, *distances).size == 0
