"""First guesses on galaxies that are known: near enough to start a fit from."""

import numpy as np
import pytest
from astropy.modeling.models import Sersic2D

from sphot_mpi.isophotes import Profile, elliptical_profile, first_guess, fit_profile, moments
from sphot_mpi.records import SersicParams

SHAPE = (161, 201)
SIGMA = 0.01


def galaxy_image(r_eff, n, ellip, theta, x=104.0, y=77.0, amplitude=0.5):
    """A Sersic, averaged over 5 x 5 points a pixel."""
    y_fine, x_fine = np.mgrid[: SHAPE[0] * 5, : SHAPE[1] * 5] / 5.0 - 0.4
    model = Sersic2D(amplitude=amplitude, r_eff=r_eff, n=n, x_0=x, y_0=y, ellip=ellip, theta=theta)
    return model(x_fine, y_fine).reshape(SHAPE[0], 5, SHAPE[1], 5).mean(axis=(1, 3))


def with_stars(image, n_stars=250, seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-6:7, -6:7]
    image = np.pad(image, 6)
    for _ in range(n_stars):
        row, column = rng.integers(0, SHAPE[0]), rng.integers(0, SHAPE[1])
        star = np.exp(-0.5 * ((x - rng.uniform(-0.5, 0.5)) ** 2 + (y - rng.uniform(-0.5, 0.5)) ** 2) / 1.2**2)
        image[row : row + 13, column : column + 13] += 0.05 * (1.0 + rng.pareto(1.0)) * star
    return image[6:-6, 6:-6] + 0.5 + rng.normal(0.0, SIGMA, SHAPE)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("r_eff", "n", "ellip", "theta"), [(10.0, 1.0, 0.3, 0.6), (14.0, 2.5, 0.1, 2.0), (8.0, 1.0, 0.6, 2.8)]
)
def test_first_guess_is_near_the_truth_in_a_crowded_field(r_eff, n, ellip, theta, masked):
    data = with_stars(galaxy_image(r_eff, n, ellip, theta))
    mask = np.zeros(SHAPE, dtype=bool)
    if masked:
        mask[:55, :120] = True
        data[mask] = np.nan
    guess = first_guess(data, mask)
    assert guess.method == "isophotes"
    assert guess.reason == ""
    # what a fit needs of its start: RESEARCH 1.4 converges from twice the radius, n off by 3 and 8 px
    assert np.hypot(guess.params.x_0 - 104.0, guess.params.y_0 - 77.0) < 2.0
    assert guess.params.r_eff == pytest.approx(r_eff, rel=0.5)
    assert abs(np.log(guess.params.n / n)) < np.log(2.0)
    assert guess.params.ellip == pytest.approx(ellip, abs=0.2)
    assert guess.params.amplitude == pytest.approx(0.5, rel=0.7)
    # stars lift the sky of the medians
    assert guess.sky == pytest.approx(0.5, abs=0.06)
    if ellip > 0.2:
        assert np.cos(2.0 * (guess.params.theta - theta)) > 0.8


def test_fit_profile_is_exact_on_a_sersic_profile():
    radius = np.linspace(0.3, 60.0, 25) ** 1.2
    truth = Sersic2D(amplitude=0.4, r_eff=9.0, n=2.0)
    profile = Profile(
        radius=radius, intensity=truth(radius, 0.0) + 0.7, error=np.full(25, 1e-3), n_pix=np.full(25, 100)
    )
    shape = SersicParams(amplitude=1.0, r_eff=15.0, n=1.5, x_0=0.0, y_0=0.0, ellip=0.0, theta=0.0)
    amplitude, r_eff, n, sky = fit_profile(profile, shape)
    # b_n of astropy and ours are both exact; the least squares stop at 1e-8
    np.testing.assert_allclose((amplitude, r_eff, n, sky), (0.4, 9.0, 2.0, 0.7), rtol=1e-4)


def test_elliptical_profile_is_flat_on_ellipses_of_its_shape():
    shape = SersicParams(amplitude=0.5, r_eff=12.0, n=1.0, x_0=104.0, y_0=77.0, ellip=0.5, theta=0.9)
    image = galaxy_image(12.0, 1.0, 0.5, 0.9)
    profile = elliptical_profile(image, np.zeros(SHAPE, dtype=bool), shape)
    expected = Sersic2D(amplitude=0.5, r_eff=12.0, n=1.0)(profile.radius, 0.0)
    # an annulus is a few px wide: its median is that of its middle to some percent
    np.testing.assert_allclose(profile.intensity[2:], expected[2:], rtol=0.12, atol=1e-4)
    assert (np.diff(profile.radius) > 0.0).all()


def test_moments_see_neither_a_round_galaxy_as_long_nor_no_galaxy_as_one():
    data = with_stars(galaxy_image(10.0, 1.0, 0.0, 0.0))
    assert moments(data).ellip < 0.15
    assert moments(np.full(SHAPE, np.nan)) is None


def test_first_guess_never_fails_silently():
    empty = first_guess(np.full(SHAPE, np.nan), np.ones(SHAPE, dtype=bool))
    assert empty.method == "default"
    assert "usable pixels" in empty.reason
    flat = first_guess(np.full(SHAPE, 0.5), np.zeros(SHAPE, dtype=bool))
    assert flat.method != "isophotes"
    assert flat.reason
    # a hole where the galaxy should be: light rises outwards
    hole = 0.5 - galaxy_image(10.0, 1.0, 0.0, 0.0, x=100.0, y=80.0) + np.random.default_rng(1).normal(0.0, SIGMA, SHAPE)
    guess = first_guess(hole, np.zeros(SHAPE, dtype=bool))
    assert guess.method != "isophotes"
    assert guess.reason
    few = np.full(SHAPE, np.nan)
    few[70:80, 95:112] = galaxy_image(3.0, 1.0, 0.0, 0.0)[70:80, 95:112]
    guess = first_guess(few, np.isnan(few))
    assert np.isfinite([guess.params.r_eff, guess.params.amplitude, guess.params.x_0]).all()
