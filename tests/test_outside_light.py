"""The light of stars beyond the data, against stars that are truly there."""

from dataclasses import replace

import numpy as np
import pytest
from analytic import gaussian_library, gaussian_stars

from sphot_mpi.joint import State
from sphot_mpi.joint_scene import PAD, Frame, Optics, Scene
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.outside_light import with_outside_light
from sphot_mpi.point_render import sampled_star
from sphot_mpi.psf import LibraryPSF

SHAPE, SIGMA, KERNEL, NOISE = (70, 80), 1.5, 1.0, 0.01
WIDTH = float(np.hypot(SIGMA, KERNEL))
LIBRARY = gaussian_library(SIGMA, (101, 101))
#: Stars lie this far around the image, px; a Gaussian has nothing left there.
AROUND = 12
DENSITY, FLUX = 0.3, 2.0


def scattered(rng, density=DENSITY):
    ny, nx = SHAPE
    n = rng.poisson(density * (ny + 2 * AROUND) * (nx + 2 * AROUND))
    x = rng.uniform(-AROUND - 0.5, nx - 0.5 + AROUND, n)
    y = rng.uniform(-AROUND - 0.5, ny - 0.5 + AROUND, n)
    return Stars.new(x + PAD, y + PAD, np.full(n, FLUX))


def state_of(stars, mask, library=LIBRARY):
    frame = Frame.from_image(np.zeros(SHAPE), np.full(SHAPE, NOISE), mask, NOISE, 1.0)
    return State.start(Scene(stars=stars, galaxy=None), Optics.start(library, KERNEL, frame))


def unknown_light(state, stars):
    """Image of those stars that lie where the data do not show them."""
    hidden = stars.take(~at(state.optics.matched.covered, stars))
    return gaussian_stars(SHAPE, hidden.x - PAD, hidden.y - PAD, hidden.flux, WIDTH)


def with_hole():
    mask = np.zeros(SHAPE, bool)
    mask[30:50, 20:45] = True
    return mask


def realisations(mask, n):
    rng = np.random.default_rng(1)
    states = [state_of(stars, mask) for stars in (scattered(rng) for _ in range(n))]
    return states, np.array([unknown_light(state, state.scene.stars) for state in states])


def test_mean_and_variance_are_those_of_stars_at_random_places_beyond_image_and_hole():
    mask = with_hole()
    states, light = realisations(mask, 60)
    told = [with_outside_light(state, weigh=True).optics.frame for state in states]
    mean = np.mean([frame.interior(frame.outside) for frame in told], axis=0)
    added = np.mean([1.0 / frame.interior(frame.weight)[~mask] for frame in told], axis=0) - NOISE**2
    edge = ~mask & (mean > 0.2 * DENSITY * FLUX)
    # 60 realisations of 700 edge pixels, some 100 of them independent, tell a mean to about 1 %; the brightest stars
    # that are left out, one in 200, take half a per cent
    assert np.average(light.mean(axis=0)[edge]) == pytest.approx(mean[edge].mean(), rel=0.03)
    # a variance is known to sqrt(2 / 60) a pixel
    assert np.var(light, axis=0)[edge].mean() == pytest.approx(added[edge[~mask]].mean(), rel=0.1)


def test_the_middle_of_the_data_is_left_alone():
    state = state_of(scattered(np.random.default_rng(2)), np.zeros(SHAPE, bool))
    frame = with_outside_light(state, weigh=True).optics.frame
    # 25 px inside, ten widths of this PSF, there is nothing but rounding of FFTs in single precision
    inner = np.s_[PAD + 25 : -PAD - 25, PAD + 25 : -PAD - 25]
    assert np.abs(frame.outside[inner]).max() < 1e-4 * DENSITY * FLUX
    np.testing.assert_allclose(frame.weight[inner], NOISE**-2, rtol=1e-3)


def test_the_variance_has_wings_as_the_stars_have():
    y, x = np.mgrid[-100:101, -100:101] / 4.0
    library = LibraryPSF.from_array((1.0 + (x**2 + y**2) / 1.5**2) ** -1.8, 4)
    state = state_of(scattered(np.random.default_rng(4)), np.zeros(SHAPE, bool), library)
    frame = with_outside_light(state, weigh=True).optics.frame
    added = 1.0 / frame.weight[SHAPE[0] // 2 + PAD, PAD : PAD + 16] - NOISE**2
    # a row far from the other edges; P^2 summed over the columns that are not covered
    uncovered = int(np.argmax(state.optics.matched.covered[SHAPE[0] // 2 + PAD]))
    star = sampled_star(state.optics.psf, 25)
    columns = (star**2).sum(axis=0)
    expected = np.array([columns[25 + PAD + i - uncovered + 1 :].sum() for i in range(16)])
    # also beyond the core stamps of equations and detection
    np.testing.assert_allclose(added / added[0], expected / expected[0], rtol=0.02)


def test_one_bright_star_says_nothing_of_others_beyond_the_edge():
    stars = scattered(np.random.default_rng(3))
    bright = replace(stars, flux=np.where(np.arange(stars.size) == 0, 1e4, stars.flux))
    mask = np.zeros(SHAPE, bool)
    plain, with_bright = (
        with_outside_light(state_of(s, mask), weigh=True).optics.frame for s in (stars, bright)
    )  # fmt: skip
    np.testing.assert_allclose(with_bright.outside, plain.outside, rtol=0.01, atol=1e-9)
    np.testing.assert_allclose(with_bright.weight, plain.weight, rtol=0.01)


def test_without_stars_nothing_is_expected():
    nothing = np.zeros(0)
    state = state_of(Stars.new(nothing, nothing, nothing), np.zeros(SHAPE, bool))
    assert with_outside_light(state, weigh=True) is state
